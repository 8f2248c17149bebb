//! Extensions, which IOMMU, what a user is told, whose the container is.

use super::registered;
use crate::support::{BUFFER, NOWHERE, PAGE, Process, SCRATCH, bytes, power, structure, world};
use portcullis_types::PageSizes;
use portcullis_vfio::Errno;

const CHECK_EXTENSION: u32 = 0x3b65;
const SET_IOMMU: u32 = 0x3b66;
const GET_INFO: u32 = 0x3b70;

#[test]
fn a_machine_of_power_has_both_versions_and_eeh_and_nothing_else() {
    let (world, _) = power();
    let process = world.process();
    let container = process.open("/dev/vfio/vfio").unwrap();
    let has = |number| process.ioctl(container, CHECK_EXTENSION, number);
    assert_eq!([2, 5, 7].map(has), [Ok(1); 3]);
    assert_eq!([0, 1, 3, 4, 6, 8, 9, 10, u64::MAX].map(has), [Ok(0); 9]);
}

#[test]
fn with_an_iommu_extensions_are_the_same_and_eeh_only_if_every_group_freezes() {
    use crate::support::{FakeTableGroup, Offer};
    let (mut world, _) = power();
    let calm = FakeTableGroup::new(&world.hardware, 0, 3, Offer::OnDemand, false);
    world.add_windows(9, 3, &calm);
    let (process, container, _) = world.tce_user(7);
    let has = |number| process.ioctl(container, CHECK_EXTENSION, number);
    assert_eq!([2, 5, 7].map(has), [Ok(1); 3]);
    assert_eq!([1, 3, 4, 9].map(has), [Ok(0); 4]);
    process.join_to(container, 9).unwrap();
    assert_eq!(has(5), Ok(0));
    assert_eq!(process.eeh(container, 4), Err(Errno::Enodev));
}

#[test]
fn type_1_is_not_for_groups_with_windows() {
    let (world, [first, _]) = power();
    let process = world.process();
    let (container, _) = process.join(7).unwrap();
    for kind in [0, 1, 3, 4, 6, 8, 9, 10, u64::MAX] {
        assert_eq!(process.ioctl(container, SET_IOMMU, kind), Err(Errno::Enodev), "{kind}");
    }
    assert_eq!(process.ioctl(container, SET_IOMMU, 5), Err(Errno::Einval), "an extension, and no IOMMU");
    assert!(!first.is_taken());
    assert_eq!(process.ioctl(container, SET_IOMMU, 7), Ok(0));
    assert_eq!(process.ioctl(container, SET_IOMMU, 7), Err(Errno::Einval), "again");
    assert!(first.is_taken());
}

#[test]
fn where_there_are_both_kinds_of_groups_each_gets_its_own_iommu() {
    let (mut world, [first, _]) = power();
    world.next_iommu("iommu1", crate::support::range(0, (1 << 40) - 1), PageSizes::from_bits(0x1000));
    world.add(9, 3, |_| ()).unwrap();
    let process = world.process();
    let (container, _) = process.join(9).unwrap();
    let has = |number| process.ioctl(container, CHECK_EXTENSION, number);
    assert_eq!([1, 2, 3, 5, 7, 9].map(has), [Ok(1); 6]);
    assert_eq!(process.ioctl(container, SET_IOMMU, 7), Err(Errno::Enodev));
    assert_eq!(process.ioctl(container, SET_IOMMU, 3), Ok(0));
    assert_eq!(process.join_to(container, 7), Err(Errno::Enodev));
    assert!(!first.is_taken());
    assert_eq!(world.groups[&7].ownership().count, 0);
}

fn info(process: &Process, container: i32, room: u32) -> Vec<u8> {
    let mut request = bytes(&[room]);
    request.resize(40, 0xaa);
    process.ioctl_with(container, GET_INFO, &request).unwrap()
}

#[test]
pub(crate) fn windows_are_told_as_they_were_observed() {
    let (world, _) = power();
    let (process, container, _) = world.tce_user(7);
    // Flags, the window of 32 bits; page sizes, windows, levels.
    let all = bytes(&[32, 1, 0, 0x8000_0000, 0x1101_1000, 0, 2, 5]);
    assert_eq!(info(&process, container, 32)[..32], all);
    assert_eq!(info(&process, container, 4096)[4..32], all[4..], "with more room");
    for room in [16, 17, 31] {
        let told = info(&process, container, room);
        assert_eq!(told[..16], bytes(&[room, 1, 0, 0x8000_0000]));
        assert_eq!(told[16..], [0xaa; 24], "nothing beyond the room");
    }
    let (process, container, _) = {
        process.close(container);
        drop(process);
        world.tce_user(2)
    };
    assert_eq!(info(&process, container, 32)[..32], bytes(&[32, 0, 0, 0x8000_0000, 0, 0, 0, 0]), "version 1");
}

#[test]
pub(crate) fn an_info_without_room_is_refused() {
    let (world, _) = power();
    let (process, container, _) = world.tce_user(7);
    for room in [0, 4, 15] {
        assert_eq!(process.ioctl_with(container, GET_INFO, &bytes(&[room, 0, 0, 0])), Err(Errno::Einval));
    }
}

#[test]
fn an_info_is_what_every_group_can() {
    let (world, [_, second]) = power();
    second.info.lock().unwrap().page_sizes = PageSizes::from_bits(0x1_1000);
    second.info.lock().unwrap().max_levels = 3;
    let (process, container, _) = world.tce_user(7);
    process.join_to(container, 8).unwrap();
    assert_eq!(info(&process, container, 32)[16..32], bytes(&[0x1_1000, 0, 2, 3]));
    process.register(container, BUFFER, 0).unwrap_err();
    assert_eq!(process.create(container, 24, 1 << 30, 1), Err(Errno::Einval), "the second cannot");
    assert_eq!(process.create(container, 16, 1 << 30, 4), Err(Errno::Einval));
    assert_eq!(process.remove(container, 0), Ok(()));
    assert_eq!(process.create(container, 16, 1 << 30, 3), Ok(0));
}

#[test]
pub(crate) fn requests_that_are_nowhere_are_faults_and_change_nothing() {
    let (world, _) = power();
    let (process, container, _) = registered(&world);
    let before = process.memory.locked();
    for at in [NOWHERE, SCRATCH + PAGE - 4] {
        for request in [0x3b70, 0x3b71, 0x3b72, 0x3b75, 0x3b76, 0x3b77, 0x3b78, 0x3b79] {
            assert_eq!(process.ioctl(container, request, at), Err(Errno::Efault), "{request:#x}");
        }
    }
    assert_eq!(process.memory.locked(), before, "not even the default window is made");
    assert_eq!(process.remove(container, 0), Ok(()), "it is still pending");
}

#[test]
pub(crate) fn answers_that_cannot_be_written_are_faults_and_change_nothing() {
    let (world, [first, _]) = power();
    let (process, container, _) = registered(&world);
    let before = process.memory.locked();
    let mut request = structure(&[40, 0, 16, 0], &[1 << 30]);
    request.extend(structure(&[1, 0], &[0]));
    let at = process.put(&request);
    process.memory.populate(0x5_0000, 0x9_0000_0000, PAGE, false);
    assert_eq!(at & (PAGE - 1), 0);
    for request in [0x3b70, 0x3b77] {
        assert_eq!(process.ioctl(container, request, 0x5_0000), Err(Errno::Efault), "{request:#x}");
    }
    assert_eq!(process.memory.locked(), before);
    assert!(first.table(0).is_none() && first.table(1).is_none());
}

#[test]
pub(crate) fn each_version_knows_its_own_requests_only() {
    let (world, _) = power();
    let (process, container, _) = world.tce_user(7);
    for request in [0x3b73, 0x3b74, 0x3b67, 0x3b6b, 0x3b7a, 0x3bff, 0, u32::MAX] {
        assert_eq!(process.ioctl(container, request, 0), Err(Errno::Enotty), "{request:#x}");
    }
    drop(process);
    let (process, container, _) = world.tce_user(2);
    for request in [0x3b75, 0x3b76, 0x3b77, 0x3b78, 0x3b67, 0x3b7a, 0, u32::MAX] {
        assert_eq!(process.ioctl(container, request, 0), Err(Errno::Enotty), "{request:#x}");
    }
}

#[test]
pub(crate) fn the_first_process_to_use_the_container_owns_it() {
    let (world, _) = power();
    let (process, container, _) = registered(&world);
    let other = world.process();
    other.buffer(16);
    let file = process.dup(container);
    let at = other.put(&structure(&[24, 0], &[BUFFER, PAGE]));
    for request in [0x3b70, 0x3b71, 0x3b72, 0x3b75, 0x3b76, 0x3b77, 0x3b78, 0x3b79, 0x3bff] {
        assert_eq!(file.ioctl(&other, request, at), Err(Errno::Eperm), "{request:#x}");
    }
    assert_eq!(file.ioctl(&other, 0x3b64, 0), Ok(0), "what is asked of any container");
    assert_eq!(file.ioctl(&other, 0x3b65, 7), Ok(1));
    assert_eq!(other.memory.pinned(), 0);
}

#[test]
fn a_process_whose_first_call_failed_does_not_own_the_container() {
    let (world, _) = power();
    let (process, container, _) = world.tce_user(7);
    assert_eq!(process.register(container, BUFFER, PAGE), Err(Errno::Efault), "nothing there");
    assert_eq!(process.create(container, 13, 1 << 30, 1), Err(Errno::Einval));
    let other = world.process();
    other.buffer(1);
    let file = process.dup(container);
    let at = other.put(&structure(&[24, 0], &[BUFFER, PAGE]));
    assert_eq!(file.ioctl(&other, 0x3b75, at), Ok(0));
    process.buffer(1);
    assert_eq!(process.register(container, BUFFER, PAGE), Err(Errno::Eperm));
}

#[test]
pub(crate) fn without_its_last_group_a_container_knows_nothing() {
    let (world, _) = power();
    let (process, container, group) = registered(&world);
    process.map(container, 0, BUFFER, PAGE, 3).unwrap();
    process.ioctl(group, 0x3b69, 0).unwrap();
    for request in [0x3b70, 0x3b71, 0x3b72, 0x3b75, 0x3b76, 0x3b77, 0x3b78, 0x3b79] {
        assert_eq!(process.ioctl(container, request, 0), Err(Errno::Einval));
    }
    assert_eq!((process.memory.pinned(), process.memory.locked()), (0, 0));
    // And begins anew.
    process.set_container(group, container).unwrap();
    process.ioctl(container, SET_IOMMU, 7).unwrap();
    assert_eq!(process.map(container, 0, BUFFER, PAGE, 3), Err(Errno::Eperm));
}

#[test]
fn elsewhere_there_is_no_spapr_tce() {
    let world = world();
    let process = world.process();
    let (container, _) = process.join(7).unwrap();
    for kind in [2, 5, 7] {
        assert_eq!(process.ioctl(container, SET_IOMMU, kind), Err(Errno::Enodev));
    }
}
