//! Hardware that does not confirm: pages stay until it does.

use crate::support::{BUFFER, Call, PAGE, World, range, structure, world};
use portcullis_types::PageSizes;
use portcullis_vfio::Errno;

#[test]
pub(crate) fn pages_of_an_unmap_that_hardware_does_not_confirm_stay_and_the_next_try_gives_them_back() {
    let world = world();
    let (process, container, _) = world.user(3);
    process.buffer(4);
    process.map(container, 0x10_0000, BUFFER, 4 * PAGE, 3).unwrap();
    world.hardware.fail(Call::Sync, 0, 1);
    assert_eq!(process.unmap(container, 0x10_0000, 4 * PAGE), Err(Errno::Eio));
    assert_eq!((process.memory.pinned(), process.memory.locked()), (4, 4));
    assert_eq!(process.map(container, 0x10_0000, BUFFER, PAGE, 3), Err(Errno::Eexist), "addresses are taken");
    assert_eq!(process.unmap(container, 0x10_0000, 4 * PAGE), Ok(4 * PAGE));
    assert_eq!((process.memory.pinned(), process.memory.locked()), (0, 0));
    process.map(container, 0x10_0000, BUFFER, PAGE, 3).unwrap();
}

#[test]
fn an_unmap_that_the_table_refuses_leaves_everything_and_may_be_tried_again() {
    let world = world();
    let (process, container, _) = world.user(3);
    process.buffer(4);
    process.map(container, 0x10_0000, BUFFER, 4 * PAGE, 3).unwrap();
    world.hardware.fail(Call::Unmap, 0, 1);
    assert_eq!(process.unmap(container, 0x10_0000, 4 * PAGE), Err(Errno::Enomem));
    assert_eq!(process.memory.locked(), 4);
    assert_eq!(process.unmap_all(container), Ok(4 * PAGE));
    assert_eq!(process.memory.locked(), 0);
}

#[test]
fn a_failed_map_that_hardware_may_remember_keeps_its_pages_until_it_is_unmapped() {
    let world = world();
    let (process, container, _) = world.user(3);
    process.buffer(4);
    // The container's call, and core's own try before.
    world.hardware.fail(Call::Map, 0, 1);
    world.hardware.fail(Call::Sync, 0, 2);
    assert_eq!(process.map(container, 0x10_0000, BUFFER, 4 * PAGE, 3), Err(Errno::Enomem));
    assert_eq!((process.memory.pinned(), process.memory.locked()), (4, 4));
    assert_eq!(process.unmap_all(container), Ok(4 * PAGE));
    assert_eq!((process.memory.pinned(), process.memory.locked()), (0, 0));
}

#[test]
fn what_a_dead_process_leaves_in_hardwares_memory_is_kept_until_hardware_forgets() {
    let world = world();
    let (process, container, _) = world.user(3);
    process.buffer(4);
    process.map(container, 0x10_0000, BUFFER, 4 * PAGE, 3).unwrap();
    let memory = process.memory.clone();
    world.hardware.fail(Call::Sync, 0, 2);
    drop(process);
    assert_eq!((memory.pinned(), memory.locked()), (4, 4));
    assert_eq!(world.groups[&7].ownership().count, 0, "the group is the kernel's even so");
    assert_eq!(world.vfio.reclaim(), 4, "not yet");
    assert_eq!(world.vfio.reclaim(), 0);
    assert_eq!((memory.pinned(), memory.locked()), (0, 0));
}

/// Group 7 behind one IOMMU, group 9 behind another.
fn two_iommus() -> World {
    let mut world = world();
    world.next_iommu("iommu1", range(0, (1 << 40) - 1), PageSizes::from_bits(0x1000));
    world.add(9, 3, |_| ()).unwrap();
    world
}

#[test]
fn a_domain_that_is_left_and_does_not_forget_keeps_the_pages_that_it_mapped() {
    let world = two_iommus();
    let (process, container, group) = world.user(3);
    process.buffer(4);
    process.map(container, 0x10_0000, BUFFER, 4 * PAGE, 3).unwrap();
    process.join_to(container, 9).unwrap();
    world.hardware.fail(Call::Sync, 0, 1);
    process.ioctl(group, 0x3b69, 0).unwrap();
    world.hardware.fail(Call::Sync, 0, 1);
    // The domain that is attached, and the one that was left, have to confirm both.
    assert_eq!(process.unmap_all(container), Err(Errno::Eio));
    assert_eq!(process.memory.locked(), 4);
    assert_eq!(process.unmap_all(container), Ok(4 * PAGE));
    assert_eq!((process.memory.pinned(), process.memory.locked()), (0, 0));
    let left = world.hardware.domain(2);
    let before = left.syncs();
    process.map(container, 0x10_0000, BUFFER, PAGE, 3).unwrap();
    assert_eq!(process.unmap_all(container), Ok(PAGE));
    assert_eq!(left.syncs(), before, "it has nothing to do with it any more");
}

#[test]
fn a_new_domain_maps_nothing_that_the_old_one_has_not_forgotten() {
    let world = two_iommus();
    let (process, container, _) = world.user(3);
    process.buffer(4);
    process.map(container, 0x10_0000, BUFFER, 4 * PAGE, 3).unwrap();
    world.hardware.fail(Call::Sync, 0, 2);
    assert_eq!(process.unmap_all(container), Err(Errno::Eio));
    assert_eq!(process.join_to(container, 9), Err(Errno::Eio));
    process.join_to(container, 9).unwrap();
    assert_eq!(world.hardware.last_domain().mapped(), []);
    assert_eq!(process.memory.locked(), 0);
}

#[test]
fn a_group_that_hardware_does_not_let_go_reaches_nothing_of_its_users_even_so() {
    let world = world();
    let (process, container, group) = world.user(3);
    process.buffer(4);
    process.map(container, 0x10_0000, BUFFER, 4 * PAGE, 3).unwrap();
    let domain = world.hardware.last_domain();
    world.hardware.fail(Call::Attach, 0, 9);
    process.ioctl(group, 0x3b69, 0).unwrap();
    assert_eq!(world.iommu.place(1), "domain1", "hardware says so");
    assert_eq!(domain.mapped(), []);
    assert_eq!((process.memory.pinned(), process.memory.locked()), (0, 0));
    world.hardware.fail_no_more();
    let device = &world.devices[0];
    world.groups[&7].use_default_domain(device, "nvme").unwrap();
    assert_eq!(world.iommu.place(1), "domain0", "the next driver's use takes it to its default");
}

#[test]
fn an_unmap_tells_each_domain_even_if_one_does_not_confirm() {
    let world = two_iommus();
    let (process, container, _) = world.user(3);
    process.buffer(4);
    process.join_to(container, 9).unwrap();
    process.map(container, 0x10_0000, BUFFER, 4 * PAGE, 3).unwrap();
    world.hardware.fail(Call::Sync, 0, 1);
    let request = structure(&[24, 0], &[0x10_0000, 4 * PAGE]);
    assert_eq!(process.ioctl_with(container, 0x3b72, &request), Err(Errno::Eio));
    assert_eq!((world.hardware.domain(2).mapped().len(), world.hardware.domain(3).mapped().len()), (0, 0));
    assert_eq!(process.memory.locked(), 4);
}
