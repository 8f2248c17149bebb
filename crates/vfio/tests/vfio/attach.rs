//! Several groups in a container: which domain, which addresses, which are refused; and doorbells.

use core::sync::atomic::Ordering::Relaxed;

use crate::support::{BUFFER, Call, DOORBELL, PAGE, Process, RAM, World, bare, range, region, world};
use portcullis_core::dma::{MsiError, compose_msi};
use portcullis_core::iommu::ReservedKind;
use portcullis_types::{Iova, Pa, PageSizes, Perms, Prot};
use portcullis_vfio::Errno;

const SIZES: PageSizes = PageSizes::from_bits(0x4020_1000);

/// Group 7 with source 1 and group 8 with source 2 behind one IOMMU; group 9 with source 3 behind another, with 40 bits.
fn three_groups() -> World {
    let mut world = world();
    world.add(8, 2, |_| ()).unwrap();
    world.next_iommu("iommu1", range(0, (1 << 40) - 1), SIZES);
    world.add(9, 3, |_| ()).unwrap();
    world
}

fn mapped(process: &Process, container: i32) {
    process.buffer(16);
    process.map(container, 0x10_0000, BUFFER, 8 * PAGE, 3).unwrap();
    process.map(container, 0x20_0000, BUFFER + 8 * PAGE, PAGE, 1).unwrap();
}

#[test]
fn groups_behind_one_iommu_share_a_domain() {
    let world = three_groups();
    let (process, container, _) = world.user(3);
    mapped(&process, container);
    process.join_to(container, 8).unwrap();
    assert_eq!(world.iommu.place(3), "domain2", "the kernel's");
    let first = world.hardware.last_domain();
    assert_eq!((first.mapped().len(), first.map_calls()), (2, 2));
    let (one, two) = (world.devices[0].domain().unwrap(), world.devices[1].domain().unwrap());
    assert!(std::sync::Arc::ptr_eq(&one, &two));
}

#[test]
fn a_group_behind_another_iommu_gets_its_own_domain_with_every_mapping() {
    let world = three_groups();
    let (process, container, _) = world.user(3);
    mapped(&process, container);
    let pins = process.memory.pinned();
    process.join_to(container, 9).unwrap();
    let (first, second) = (world.hardware.domain(3), world.hardware.domain(4));
    assert_eq!(first.mapped(), second.mapped());
    assert_eq!(process.memory.pinned(), pins, "pages are pinned once");
    process.map(container, 0x30_0000, BUFFER, PAGE, 3).unwrap();
    assert_eq!(first.mapped(), second.mapped());
    assert_eq!(process.unmap(container, 0x10_0000, 8 * PAGE), Ok(8 * PAGE));
    assert_eq!((first.mapped().len(), second.mapped()), (2, first.mapped()));
}

#[test]
fn a_group_whose_devices_do_not_snoop_gets_its_own_domain() {
    let mut world = world();
    world.add(8, 2, |info| info.coherent = false).unwrap();
    let (process, container, _) = world.user(3);
    mapped(&process, container);
    process.join_to(container, 8).unwrap();
    let domain = world.hardware.last_domain();
    assert_eq!(domain.find(0x20_0000), Some((RAM + 8 * PAGE, Prot::uncached(Perms::READ))));
}

#[test]
fn a_group_that_the_domain_refuses_gets_its_own() {
    let world = three_groups();
    let (process, container, _) = world.user(3);
    mapped(&process, container);
    // The first attach blocks it, for the claim.
    world.hardware.fail(Call::Attach, 1, 1);
    process.join_to(container, 8).unwrap();
    assert_eq!(world.hardware.domain_count(), 5);
    assert_eq!(world.hardware.domain(3).mapped(), world.hardware.domain(4).mapped());
}

#[test]
fn ranges_shrink_with_a_group_and_grow_back_when_it_leaves() {
    let world = three_groups();
    world.iommu.regions.lock().unwrap().push(region(0x4000_0000, 0x4000_ffff, ReservedKind::Reserved));
    let (process, container, _) = world.user(3);
    let before = process.ranges(container);
    assert_eq!(before, [(0, 0x7ff_ffff), (0x810_0000, 0xffff_ffff_ffff)]);
    let group = process.join_to(container, 9).unwrap();
    let both = [(0, 0x7ff_ffff), (0x810_0000, 0x3fff_ffff), (0x4001_0000, 0xff_ffff_ffff)];
    assert_eq!(process.ranges(container), both);
    process.ioctl(group, 0x3b69, 0).unwrap();
    assert_eq!(process.ranges(container), before);
}

#[test]
pub(crate) fn a_group_whose_aperture_does_not_hold_what_is_mapped_is_refused() {
    let world = three_groups();
    let (process, container, _) = world.user(3);
    process.buffer(1);
    process.map(container, 1 << 40, BUFFER, PAGE, 3).unwrap();
    let before = process.ranges(container);
    assert_eq!(process.join_to(container, 9), Err(Errno::Einval));
    assert_eq!(process.ranges(container), before);
    assert_eq!((world.groups[&9].ownership().count, world.iommu.place(3)), (0, "domain2".into()));
    process.unmap_all(container).unwrap();
    process.join_to(container, 9).unwrap();
}

#[test]
pub(crate) fn a_group_for_which_something_is_reserved_that_is_mapped_is_refused_unless_it_can_be_relaxed() {
    let world = three_groups();
    let (process, container, _) = world.user(3);
    mapped(&process, container);
    world.iommu.regions.lock().unwrap().push(region(0x10_7000, 0x10_ffff, ReservedKind::Reserved));
    assert_eq!(process.join_to(container, 9), Err(Errno::Einval));
    assert_eq!(process.ranges(container), [(0, 0x7ff_ffff), (0x810_0000, 0xffff_ffff_ffff)]);
    *world.iommu.regions.lock().unwrap() = vec![region(0x10_7000, 0x10_ffff, ReservedKind::DirectRelaxable)];
    process.join_to(container, 9).unwrap();
}

#[test]
fn a_group_that_shares_no_page_size_is_refused() {
    let mut world = world();
    world.next_iommu("large", range(0, (1 << 40) - 1), PageSizes::from_bits(0x1_0000));
    world.add(9, 3, |_| ()).unwrap();
    let (process, container, _) = world.user(3);
    assert_eq!(process.join_to(container, 9), Err(Errno::Einval));
}

#[test]
fn what_can_be_mapped_is_a_multiple_of_the_pages_that_all_have() {
    let mut world = world();
    world.next_iommu("large", range(0, (1 << 40) - 1), PageSizes::from_bits(0x20_0000));
    world.add(9, 3, |_| ()).unwrap();
    let (process, container, _) = world.user(3);
    mapped(&process, container);
    assert_eq!(process.join_to(container, 9), Err(Errno::Einval), "what is mapped is in smaller pages");
    process.unmap_all(container).unwrap();
    process.join_to(container, 9).unwrap();
    assert_eq!(process.map(container, 0x10_0000, BUFFER, 8 * PAGE, 3), Err(Errno::Einval));
}

#[test]
fn a_mapping_that_the_new_domain_refuses_leaves_the_container_as_it_was() {
    let world = three_groups();
    let (process, container, _) = world.user(3);
    mapped(&process, container);
    world.hardware.fail(Call::Map, 1, 1);
    assert_eq!(process.join_to(container, 9), Err(Errno::Enomem));
    assert_eq!(world.groups[&9].ownership().count, 0);
    assert_eq!(process.ranges(container), [(0, 0x7ff_ffff), (0x810_0000, 0xffff_ffff_ffff)]);
    world.hardware.fail(Call::NewDomain, 0, 1);
    assert_eq!(process.join_to(container, 9), Err(Errno::Enospc));
    process.join_to(container, 9).unwrap();
}

#[test]
pub(crate) fn interrupts_that_can_be_forged_are_for_users_only_if_somebody_has_said_so() {
    let mut world = bare(range(0, (1 << 48) - 1), SIZES);
    world.add(7, 1, |_| ()).unwrap();
    world.device(7, 2, |info| info.isolated_interrupts = false);
    let process = world.process();
    let (container, _) = process.join(7).unwrap();
    assert_eq!(process.ioctl(container, 0x3b66, 3), Err(Errno::Eperm));
    assert_eq!(world.iommu.place(1), "blocked");
    world.vfio.allow_unsafe_interrupts(true);
    assert_eq!(process.ioctl(container, 0x3b66, 3), Ok(0));
}

#[test]
pub(crate) fn a_device_that_joins_a_users_group_and_can_forge_interrupts_is_his_only_if_somebody_had_said_so()
{
    for allowed in [false, true] {
        let mut world = bare(range(0, (1 << 48) - 1), SIZES);
        world.add(7, 1, |_| ()).unwrap();
        world.vfio.allow_unsafe_interrupts(allowed);
        let (process, _, group) = world.user(3);
        // What is said now is for groups that are attached from now on.
        world.vfio.allow_unsafe_interrupts(!allowed);
        world.add(7, 2, |info| info.isolated_interrupts = false).unwrap();
        let opened = process.device(group, "0000:00:02.0").map(drop);
        assert_eq!(opened, if allowed { Ok(()) } else { Err(Errno::Eperm) });
        assert!(process.device(group, "0000:00:01.0").is_ok());
    }
}

#[test]
pub(crate) fn an_iommu_that_keeps_interrupts_apart_itself_makes_its_devices_users_and_no_other_iommus() {
    let forged = |isolates: bool| {
        let mut world = bare(range(0, (1 << 48) - 1), SIZES);
        world.iommu.isolates_interrupts.store(isolates, Relaxed);
        world.add(7, 1, |info| info.isolated_interrupts = false).unwrap();
        world
    };
    let refused = forged(false);
    let process = refused.process();
    let (container, _) = process.join(7).unwrap();
    assert_eq!(process.ioctl(container, 0x3b66, 3), Err(Errno::Eperm));
    assert_eq!(refused.iommu.place(1), "blocked");

    let mut world = forged(true);
    world.next_iommu("iommu1", range(0, (1 << 48) - 1), SIZES);
    world.add(8, 2, |info| info.isolated_interrupts = false).unwrap();
    world.add(9, 3, |_| ()).unwrap();
    let (process, container, _) = world.user(3);
    process.buffer(1);
    process.map(container, 0x10_0000, BUFFER, PAGE, 3).unwrap();
    assert_eq!(process.join_to(container, 8), Err(Errno::Eperm), "its own IOMMU keeps nothing apart");
    process.join_to(container, 9).unwrap();
}

#[test]
fn doorbells_get_mapped_in_their_window_for_devices_to_write() {
    let world = three_groups();
    let (process, container, _) = world.user(3);
    process.join_to(container, 9).unwrap();
    for device in [&world.devices[0], &world.devices[2]] {
        let domain = device.domain().unwrap();
        if device.sources()[0].0 == 3 {
            // This IOMMU has no window.
            let refused = compose_msi(device, &domain, Pa::new(DOORBELL), 5).err();
            assert_eq!(refused, Some(MsiError::NoCookie));
            continue;
        }
        let message = compose_msi(device, &domain, Pa::new(DOORBELL), 5).unwrap();
        assert_eq!(message.address, Iova::new(0x800_0040));
        let again = compose_msi(device, &domain, Pa::new(DOORBELL), 6).unwrap();
        assert_eq!(again.address, message.address);
    }
    let domain = world.hardware.domain(3);
    assert_eq!(domain.runs(), [(0x800_0000, 0x808_0000, PAGE)]);
    assert_eq!(domain.find(0x800_0000).unwrap().1, Prot::device(Perms::WRITE));
}

#[test]
fn a_doorbells_page_is_as_large_as_the_domains_smallest() {
    let mut world = bare(range(0, (1 << 40) - 1), PageSizes::from_bits(0x1_0000));
    world.add(7, 1, |_| ()).unwrap();
    let (_process, _, _) = world.user(3);
    let device = &world.devices[0];
    let domain = device.domain().unwrap();
    let message = compose_msi(device, &domain, Pa::new(0x808_5040), 5).unwrap();
    assert_eq!(message.address, Iova::new(0x800_5040));
    assert_eq!(world.hardware.last_domain().find(0x800_0000).map(|found| found.0), Some(0x808_0000));
}

#[test]
fn where_hardware_decodes_a_doorbell_there_is_no_window() {
    let mut world = bare(range(0, (1 << 39) - 1), SIZES);
    world.iommu.regions.lock().unwrap().push(region(0xfee0_0000, 0xfeef_ffff, ReservedKind::Msi));
    world.add(7, 1, |_| ()).unwrap();
    let (_process, _, _) = world.user(3);
    let device = &world.devices[0];
    let compose = |doorbell| compose_msi(device, &device.domain().unwrap(), Pa::new(doorbell), 5);
    assert_eq!(compose(0xfee0_1000).unwrap().address, Iova::new(0xfee0_1000));
    assert_eq!(compose(DOORBELL).err(), Some(MsiError::NoCookie));
}

#[test]
fn the_last_group_takes_every_mapping_with_it_and_others_none() {
    let world = three_groups();
    let (process, container, group) = world.user(3);
    mapped(&process, container);
    let other = process.join_to(container, 9).unwrap();
    process.ioctl(group, 0x3b69, 0).unwrap();
    assert_eq!(process.memory.locked(), 9);
    assert_eq!(world.hardware.domain(3).mapped(), [], "nobody is attached there any more");
    assert_eq!(process.ranges(container), [(0, 0xff_ffff_ffff)]);
    process.ioctl(other, 0x3b69, 0).unwrap();
    assert_eq!((process.memory.locked(), process.memory.pinned()), (0, 0));
}

#[test]
fn memory_is_written_back_from_caches_before_devices_get_it_that_do_not_look_there() {
    let mut world = bare(range(0, (1 << 48) - 1), SIZES);
    world.add(7, 1, |_| ()).unwrap();
    world.add(8, 2, |info| info.coherent = false).unwrap();
    let (process, container, _) = world.user(3);
    process.buffer(4);
    process.memory.populate(BUFFER + 4 * PAGE, 0x7_0000_0000, PAGE, true);
    process.map(container, 0x10_0000, BUFFER, 5 * PAGE, 1).unwrap();
    assert_eq!(world.machine.cleaned(), [], "everybody looks into caches");
    process.join_to(container, 8).unwrap();
    assert_eq!(world.machine.cleaned(), [(RAM, 4 * PAGE), (0x7_0000_0000, PAGE)], "what is mapped already");
    process.map(container, 0x20_0000, BUFFER + PAGE, PAGE, 3).unwrap();
    assert_eq!(world.machine.cleaned(), [(RAM + PAGE, PAGE)]);
    process.unmap_all(container).unwrap();
    assert_eq!(world.machine.cleaned(), []);
}

#[test]
fn what_is_reserved_for_a_device_that_came_later_is_told_when_it_is_opened() {
    let mut world = bare(range(0, (1 << 48) - 1), SIZES);
    world.add(7, 1, |_| ()).unwrap();
    let (process, container, group) = world.user(3);
    let reserved = region(0x5000_0000, 0x5000_ffff, ReservedKind::Reserved);
    world.add(7, 2, |info| info.firmware_regions = vec![reserved]).unwrap();
    process.device(group, "0000:00:02.0").unwrap();
    let free = [(0, 0x7ff_ffff), (0x810_0000, 0x4fff_ffff), (0x5001_0000, (1 << 48) - 1)];
    assert_eq!(process.ranges(container), free);
    process.buffer(1);
    assert_eq!(process.map(container, 0x5000_0000, BUFFER, PAGE, 3), Err(Errno::Einval));
}

#[test]
fn a_device_that_joins_a_users_group_and_looks_into_no_caches_is_not_his_where_the_others_do() {
    for coherent in [false, true] {
        let mut world = bare(range(0, (1 << 48) - 1), SIZES);
        world.add(7, 1, |info| info.coherent = coherent).unwrap();
        let (process, _, group) = world.user(3);
        world.add(7, 2, |info| info.coherent = false).unwrap();
        let opened = process.device(group, "0000:00:02.0").map(drop);
        assert_eq!(opened, if coherent { Err(Errno::Einval) } else { Ok(()) });
    }
}
