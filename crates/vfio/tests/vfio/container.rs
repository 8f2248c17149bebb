//! Containers: the version, extensions, IOMMUs.

use crate::support::{Call, world};
use portcullis_vfio::Errno;

const GET_API_VERSION: u32 = 0x3b64;
const CHECK_EXTENSION: u32 = 0x3b65;
const SET_IOMMU: u32 = 0x3b66;

#[test]
pub(crate) fn the_version_is_0() {
    let process = world().process();
    let container = process.open("/dev/vfio/vfio").unwrap();
    assert_eq!(process.ioctl(container, GET_API_VERSION, 0), Ok(0));
    assert_eq!(process.ioctl(container, GET_API_VERSION, u64::MAX), Ok(0), "whatever the argument");
}

#[test]
pub(crate) fn before_an_iommu_is_set_extensions_are_those_of_any() {
    let process = world().process();
    let container = process.open("/dev/vfio/vfio").unwrap();
    let has = |number| process.ioctl(container, CHECK_EXTENSION, number);
    assert_eq!([1, 3, 9].map(has), [Ok(1); 3]);
    // spapr_tce, coherence that nobody can tell yet, EEH, spapr_tce v2, no IOMMU, and what is none.
    assert_eq!([0, 2, 4, 5, 7, 8, 10, u64::MAX, 1 << 32 | 1].map(has), [Ok(0); 9]);
}

#[test]
fn after_an_iommu_is_set_extensions_are_its_own() {
    let world = world();
    let (process, container, _) = world.user(1);
    let has = |number| process.ioctl(container, CHECK_EXTENSION, number);
    assert_eq!([1, 3, 4, 9].map(has), [Ok(1); 4]);
    assert_eq!([2, 5, 7].map(has), [Ok(0); 3]);
}

#[test]
fn coherence_is_said_only_if_every_device_is_coherent() {
    let mut world = world();
    world.add(8, 2, |info| info.coherent = false).unwrap();
    let (process, container, _) = world.user(3);
    assert_eq!(process.ioctl(container, CHECK_EXTENSION, 4), Ok(1));
    process.join_to(container, 8).unwrap();
    assert_eq!(process.ioctl(container, CHECK_EXTENSION, 4), Ok(0));
}

#[test]
pub(crate) fn an_iommu_is_set_and_the_group_attached() {
    let world = world();
    let process = world.process();
    let (container, _) = process.join(7).unwrap();
    assert_eq!(world.iommu.place(1), "blocked");
    assert_eq!(process.ioctl(container, SET_IOMMU, 3), Ok(0));
    assert_eq!(world.iommu.place(1), "domain1");
}

#[test]
pub(crate) fn a_container_without_groups_gets_no_iommu() {
    let process = world().process();
    let container = process.open("/dev/vfio/vfio").unwrap();
    assert_eq!(process.ioctl(container, SET_IOMMU, 3), Err(Errno::Einval));
    assert_eq!(process.ioctl(container, SET_IOMMU, 77), Err(Errno::Einval), "that comes first");
}

#[test]
pub(crate) fn a_container_gets_one_iommu() {
    let world = world();
    let (process, container, _) = world.user(3);
    assert_eq!(process.ioctl(container, SET_IOMMU, 3), Err(Errno::Einval));
    assert_eq!(process.ioctl(container, SET_IOMMU, 1), Err(Errno::Einval));
    assert_eq!(world.hardware.domain_count(), 2, "the kernel's and the user's");
}

#[test]
pub(crate) fn an_iommu_that_is_not_there_is_not_set() {
    let process_world = world();
    let process = process_world.process();
    let (container, _) = process.join(7).unwrap();
    for kind in [0, 2, 4, 5, 7, 8, 10, u64::MAX] {
        assert_eq!(process.ioctl(container, SET_IOMMU, kind), Err(Errno::Enodev));
    }
    assert_eq!(process.ioctl(container, SET_IOMMU, 9), Err(Errno::Einval), "an extension, and no IOMMU");
    assert_eq!(process.ioctl(container, SET_IOMMU, 3), Ok(0));
}

#[test]
pub(crate) fn a_group_that_cannot_be_attached_leaves_the_container_without_iommu_and_the_others_blocked() {
    let mut world = world();
    world.add(8, 2, |_| ()).unwrap();
    let process = world.process();
    let (container, _) = process.join(7).unwrap();
    process.join_to(container, 8).unwrap();
    // The second group is refused by the first one's domain, and by one of its own.
    world.hardware.fail(Call::Attach, 1, 2);
    assert_eq!(process.ioctl(container, SET_IOMMU, 3), Err(Errno::Eio));
    assert_eq!((world.iommu.place(1), world.iommu.place(2)), ("blocked".into(), "blocked".into()));
    assert_eq!(process.ioctl(container, 0x3b71, 0), Err(Errno::Einval), "there is none");
    assert_eq!(process.ioctl(container, SET_IOMMU, 3), Ok(0));
}

#[test]
pub(crate) fn a_container_without_iommu_knows_nothing_else() {
    let process = world().process();
    let container = process.open("/dev/vfio/vfio").unwrap();
    for request in [0x3b67, 0x3b70, 0x3b71, 0x3b72, 0x3b75, 0x3bff, 0, u32::MAX, 0x4004_3b65] {
        assert_eq!(process.ioctl(container, request, 0), Err(Errno::Einval));
    }
}

#[test]
pub(crate) fn an_iommu_does_not_know_what_it_does_not_know() {
    let world = world();
    let (process, container, _) = world.user(3);
    for request in [0x3b67, 0x3b73, 0x3b74, 0x3b76, 0x3b79, 0x3bff, 0, u32::MAX] {
        assert_eq!(process.ioctl(container, request, 0), Err(Errno::Enotty));
    }
}

#[test]
fn a_container_is_not_read_written_or_mapped() {
    let world = world();
    let (process, container, group) = world.user(3);
    for fd in [container, group] {
        assert_eq!(process.pread(fd, 0, 4), Err(Errno::Einval));
        assert_eq!(process.pwrite(fd, 0, &[0; 4]), Err(Errno::Einval));
        assert_eq!(process.mmap(fd, 0, 0x1000), Err(Errno::Einval));
    }
}
