//! UNMAP_DMA, of both versions.

use crate::support::{BUFFER, NOWHERE, PAGE, Process, READ, World, structure, world};
use portcullis_vfio::Errno;

const UNMAP_DMA: u32 = 0x3b72;

fn user(version: u64) -> (World, Process, i32) {
    let world = world();
    let (process, container, _) = world.user(version);
    process.buffer(16);
    (world, process, container)
}

/// Three mappings: 0x10_0000 and 0x10_4000, four pages each, touching; 0x10_a000, one page.
fn three(process: &Process, container: i32) {
    process.map(container, 0x10_0000, BUFFER, 4 * PAGE, 3).unwrap();
    process.map(container, 0x10_4000, BUFFER + 4 * PAGE, 4 * PAGE, READ).unwrap();
    process.map(container, 0x10_a000, BUFFER + 10 * PAGE, PAGE, 3).unwrap();
}

#[test]
pub(crate) fn what_was_mapped_is_unmapped_and_its_pages_given_back() {
    let (world, process, container) = user(3);
    three(&process, container);
    assert_eq!(process.unmap(container, 0x10_0000, 4 * PAGE), Ok(4 * PAGE));
    assert_eq!((process.memory.pinned(), process.memory.locked()), (5, 5));
    assert_eq!(world.hardware.last_domain().mapped().len(), 2);
    process.map(container, 0x10_0000, BUFFER, PAGE, 3).unwrap();
}

#[test]
fn one_unmap_takes_several_mappings_with_one_invalidation() {
    let (world, process, container) = user(3);
    three(&process, container);
    let before = world.hardware.last_domain().syncs();
    assert_eq!(process.unmap(container, 0, 0x20_0000), Ok(9 * PAGE));
    assert_eq!(world.hardware.last_domain().syncs(), before + 1);
    assert_eq!((process.memory.pinned(), process.memory.locked()), (0, 0));
}

#[test]
fn an_unmap_of_nothing_mapped_succeeds_with_0() {
    let (_world, process, container) = user(3);
    three(&process, container);
    assert_eq!(process.unmap(container, 0x10_8000, 2 * PAGE), Ok(0));
    assert_eq!(process.unmap(container, 0x800_0000, 0x10_0000), Ok(0), "where doorbells are");
    assert_eq!(process.unmap(container, u64::MAX - 0xfff, PAGE), Ok(0), "beyond the aperture");
    assert_eq!(process.memory.locked(), 9);
}

#[test]
pub(crate) fn version_2_does_not_cut_a_mapping() {
    let (world, process, container) = user(3);
    three(&process, container);
    for (iova, size) in [
        (0x10_0000, PAGE),
        (0x10_3000, PAGE),
        (0x10_1000, PAGE),
        (0x10_0000, 5 * PAGE),
        (0x10_1000, 9 * PAGE),
        (0x0f_0000, 0x11 * PAGE),
    ] {
        assert_eq!(process.unmap(container, iova, size), Err(Errno::Einval), "{iova:#x} {size:#x}");
    }
    assert_eq!(world.hardware.last_domain().mapped().len(), 3);
}

#[test]
fn version_1_does_nothing_from_the_middle_of_a_mapping() {
    let (_world, process, container) = user(1);
    three(&process, container);
    assert_eq!(process.unmap(container, 0x10_1000, PAGE), Ok(0));
    assert_eq!(process.unmap(container, 0x10_1000, 0x10 * PAGE), Ok(0), "nor to what lies behind it");
    assert_eq!(process.memory.locked(), 9);
}

#[test]
fn version_1_takes_a_mapping_whole_whose_first_byte_it_covers() {
    let (_world, process, container) = user(1);
    three(&process, container);
    assert_eq!(process.unmap(container, 0x10_0000, PAGE), Ok(4 * PAGE));
    assert_eq!(process.unmap(container, 0x0f_0000, 0x15 * PAGE), Ok(4 * PAGE), "0x10_4000 is in it");
    assert_eq!(process.memory.locked(), 1);
}

#[test]
fn all_takes_everything_wherever_it_is() {
    for version in [1, 3] {
        let (world, process, container) = user(version);
        three(&process, container);
        process.map(container, 0xffff_ffff_f000, BUFFER, PAGE, 3).unwrap();
        assert_eq!(process.unmap_all(container), Ok(10 * PAGE));
        assert_eq!((process.memory.pinned(), world.hardware.last_domain().mapped().len()), (0, 0));
        assert_eq!(process.unmap_all(container), Ok(0));
    }
}

#[test]
pub(crate) fn all_wants_no_addresses() {
    let (_world, process, container) = user(3);
    three(&process, container);
    for numbers in [[0, PAGE], [PAGE, 0], [0, u64::MAX]] {
        assert_eq!(
            process.ioctl_with(container, UNMAP_DMA, &structure(&[24, 2], &numbers)),
            Err(Errno::Einval)
        );
    }
    assert_eq!(process.memory.locked(), 9);
}

#[test]
pub(crate) fn an_unmap_with_unknown_flags_or_without_room_is_refused() {
    let (_world, process, container) = user(3);
    for words in [[24, 4], [24, 8], [24, 1 << 31], [23, 0], [0, 0]] {
        let request = structure(&words, &[0x10_0000, PAGE]);
        assert_eq!(process.ioctl_with(container, UNMAP_DMA, &request), Err(Errno::Einval));
    }
}

#[test]
pub(crate) fn an_unmap_of_no_bytes_or_parts_of_pages_is_refused() {
    let (_world, process, container) = user(3);
    for (iova, size) in [(0x10_0000, 0), (0x10_0001, PAGE), (0x10_0000, PAGE + 1), (0x10_0000, 1)] {
        assert_eq!(process.unmap(container, iova, size), Err(Errno::Einval));
    }
}

#[test]
pub(crate) fn an_unmap_whose_end_wraps_is_an_overflow() {
    let (_world, process, container) = user(3);
    assert_eq!(process.unmap(container, u64::MAX - 0xfff, 2 * PAGE), Err(Errno::Eoverflow));
}

#[test]
pub(crate) fn an_unmap_that_is_nowhere_or_cannot_be_answered_is_a_fault_and_unmaps_nothing() {
    let (_world, process, container) = user(3);
    three(&process, container);
    assert_eq!(process.ioctl(container, UNMAP_DMA, NOWHERE), Err(Errno::Efault));
    process.put(&structure(&[24, 2], &[0, 0]));
    // The same page, but read-only.
    process.memory.populate(0x5_0000, 0x9_0000_0000, PAGE, false);
    assert_eq!(process.ioctl(container, UNMAP_DMA, 0x5_0000), Err(Errno::Efault));
    assert_eq!(process.memory.locked(), 9);
}
