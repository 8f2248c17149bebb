//! MAP_DMA: what is looked at, in which order, and what is mapped then.

use core::sync::atomic::Ordering::SeqCst;

use crate::support::{
    BUFFER, Call, NOWHERE, PAGE, Process, RAM, READ, WRITE, World, bare, range, structure, world,
};
use portcullis_types::{PageSizes, Perms, Prot, SizeLg2};
use portcullis_vfio::Errno;

const MAP_DMA: u32 = 0x3b71;

fn user() -> (World, Process, i32) {
    let world = world();
    let (process, container, _) = world.user(3);
    process.buffer(16);
    (world, process, container)
}

#[test]
pub(crate) fn memory_is_mapped_with_the_permissions_that_were_asked_for() {
    let (world, process, container) = user();
    process.map(container, 0x10_0000, BUFFER, 2 * PAGE, READ).unwrap();
    process.map(container, 0x20_0000, BUFFER, PAGE, WRITE).unwrap();
    process.map(container, 0x30_0000, BUFFER + PAGE, PAGE, READ | WRITE).unwrap();
    let domain = world.hardware.last_domain();
    assert_eq!(domain.find(0x10_1fff), Some((RAM + 0x1fff, Prot::cached(Perms::READ))));
    assert_eq!(domain.find(0x20_0000), Some((RAM, Prot::cached(Perms::WRITE))));
    assert_eq!(domain.find(0x30_0000), Some((RAM + PAGE, Prot::cached(Perms::READ_WRITE))));
    assert_eq!((process.memory.pinned(), process.memory.locked()), (4, 4));
}

#[test]
pub(crate) fn unknown_flags_are_refused() {
    let (_world, process, container) = user();
    for flags in [4, 8, 1 << 31 | 3, 0xffff_fffc] {
        assert_eq!(process.map(container, 0x10_0000, BUFFER, PAGE, flags), Err(Errno::Einval));
    }
    assert_eq!(process.memory.pin_calls(), 0);
}

#[test]
pub(crate) fn a_map_without_room_is_refused() {
    let (_world, process, container) = user();
    for argsz in [0, 31] {
        let request = structure(&[argsz, 3], &[BUFFER, 0x10_0000, PAGE]);
        assert_eq!(process.ioctl_with(container, MAP_DMA, &request), Err(Errno::Einval));
    }
    assert_eq!(
        process.ioctl_with(container, MAP_DMA, &structure(&[99, 3], &[BUFFER, 0x10_0000, PAGE])).map(drop),
        Ok(())
    );
}

#[test]
pub(crate) fn a_map_of_nothing_is_refused() {
    let (_world, process, container) = user();
    assert_eq!(process.map(container, 0x10_0000, BUFFER, 0, 3), Err(Errno::Einval));
    assert_eq!(process.map(container, u64::MAX & !0xfff, BUFFER, 0, 3), Err(Errno::Einval));
}

#[test]
pub(crate) fn a_map_whose_end_wraps_is_an_overflow() {
    let (_world, process, container) = user();
    let top = u64::MAX & !0xfff;
    assert_eq!(process.map(container, top, BUFFER, 2 * PAGE, 3), Err(Errno::Eoverflow), "for devices");
    assert_eq!(process.map(container, 0x10_0000, top, 2 * PAGE, 3), Err(Errno::Eoverflow), "for the process");
    assert_eq!(process.map(container, top, BUFFER, 2 * PAGE, 0), Err(Errno::Eoverflow), "before permissions");
    assert_eq!(process.map(container, 1, BUFFER, u64::MAX, 3), Err(Errno::Eoverflow), "before alignment");
}

#[test]
pub(crate) fn a_map_for_nobody_is_refused() {
    let (_world, process, container) = user();
    assert_eq!(process.map(container, 0x10_0000, BUFFER, PAGE, 0), Err(Errno::Einval));
}

#[test]
pub(crate) fn a_map_of_parts_of_pages_is_refused() {
    let (_world, process, container) = user();
    assert_eq!(process.map(container, 0x10_0800, BUFFER, PAGE, 3), Err(Errno::Einval));
    assert_eq!(process.map(container, 0x10_0000, BUFFER + 8, PAGE, 3), Err(Errno::Einval));
    assert_eq!(process.map(container, 0x10_0000, BUFFER, PAGE + 1, 3), Err(Errno::Einval));
    assert_eq!(process.map(container, 0x10_0000, BUFFER, PAGE - 1, 3), Err(Errno::Einval));
}

#[test]
pub(crate) fn what_is_mapped_is_not_mapped_again_and_that_is_said_before_whether_it_could_be() {
    let (world, process, container) = user();
    process.map(container, 0x10_0000, BUFFER, 4 * PAGE, 3).unwrap();
    for (iova, size) in [
        (0x10_0000, 4 * PAGE),
        (0x0f_f000, 2 * PAGE),
        (0x10_3000, 2 * PAGE),
        (0x10_1000, PAGE),
        (0x0f_f000, 6 * PAGE),
    ] {
        assert_eq!(process.map(container, iova, BUFFER, size, 3), Err(Errno::Eexist));
    }
    // It reaches into the doorbells' window as well, and memory is not there either.
    assert_eq!(process.map(container, 0, NOWHERE, 0x900_0000, 3), Err(Errno::Eexist));
    process.map(container, 0x10_4000, BUFFER, PAGE, 3).unwrap();
    process.map(container, 0x0f_f000, BUFFER, PAGE, 3).unwrap();
    assert_eq!(world.hardware.last_domain().mapped().len(), 3);
}

#[test]
pub(crate) fn there_are_so_many_mappings_and_no_more() {
    let world = world();
    world.vfio.set_mapping_limit(2);
    let (process, container, _) = world.user(3);
    process.buffer(4);
    process.map(container, 0x10_0000, BUFFER, PAGE, 3).unwrap();
    process.map(container, 0x20_0000, BUFFER, PAGE, 3).unwrap();
    assert_eq!(process.map(container, 0x20_0000, BUFFER, PAGE, 3), Err(Errno::Eexist), "that comes first");
    assert_eq!(process.map(container, 0x30_0000, BUFFER, PAGE, 3), Err(Errno::Enospc));
    assert_eq!(
        process.map(container, 0x800_0000, BUFFER, PAGE, 3),
        Err(Errno::Enospc),
        "before where it could be"
    );
    process.unmap(container, 0x10_0000, PAGE).unwrap();
    process.map(container, 0x30_0000, BUFFER, PAGE, 3).unwrap();
}

#[test]
pub(crate) fn what_is_reserved_or_beyond_the_aperture_is_not_mapped() {
    let (_world, process, container) = user();
    for iova in [0x7ff_f000, 0x800_0000, 0x80f_f000, 0xffff_ffff_f000, 1 << 48, u64::MAX - 0x1fff] {
        assert_eq!(process.map(container, iova, BUFFER, 2 * PAGE, 3), Err(Errno::Einval), "{iova:#x}");
    }
    assert_eq!(process.memory.pin_calls(), 0);
    process.map(container, 0x7ff_e000, BUFFER, 2 * PAGE, 3).unwrap();
    process.map(container, 0x810_0000, BUFFER, 2 * PAGE, 3).unwrap();
    process.map(container, 0xffff_ffff_e000, BUFFER, 2 * PAGE, 3).unwrap();
}

#[test]
fn the_last_byte_of_all_can_be_mapped() {
    let mut world = bare(portcullis_types::IovaRange::all(), PageSizes::from_bits(0x1000));
    world.add(7, 1, |_| ()).unwrap();
    let (process, container, _) = world.user(3);
    let top = u64::MAX - 0xfff;
    process.memory.populate(top, RAM, PAGE, true);
    process.map(container, top, top, PAGE, 3).unwrap();
    assert_eq!(world.hardware.last_domain().find(u64::MAX).map(|found| found.0), Some(RAM + 0xfff));
    assert_eq!(process.unmap(container, top, PAGE), Ok(PAGE));
}

#[test]
pub(crate) fn memory_that_is_not_there_is_a_fault_and_nothing_is_pinned() {
    let (world, process, container) = user();
    assert_eq!(process.map(container, 0x10_0000, NOWHERE, PAGE, 3), Err(Errno::Efault));
    assert_eq!(
        process.map(container, 0x10_0000, BUFFER + 15 * PAGE, 2 * PAGE, 3),
        Err(Errno::Efault),
        "half of it"
    );
    assert_eq!((process.memory.pinned(), process.memory.locked()), (0, 0));
    assert_eq!(world.hardware.last_domain().map_calls(), 0);
}

#[test]
pub(crate) fn memory_that_the_process_cannot_write_is_not_written_for_it() {
    let (_world, process, container) = user();
    process.memory.populate(BUFFER + 16 * PAGE, RAM + 16 * PAGE, PAGE, false);
    assert_eq!(process.map(container, 0x10_0000, BUFFER + 15 * PAGE, 2 * PAGE, WRITE), Err(Errno::Efault));
    assert_eq!(
        process.map(container, 0x10_0000, BUFFER + 15 * PAGE, 2 * PAGE, READ | WRITE),
        Err(Errno::Efault)
    );
    assert_eq!((process.memory.pinned(), process.memory.locked()), (0, 0));
    process.map(container, 0x10_0000, BUFFER + 15 * PAGE, 2 * PAGE, READ).unwrap();
}

#[test]
pub(crate) fn a_request_that_is_nowhere_is_a_fault() {
    let (_world, process, container) = user();
    assert_eq!(process.ioctl(container, MAP_DMA, NOWHERE), Err(Errno::Efault));
    assert_eq!(process.ioctl(container, MAP_DMA, 0x1_0ff0), Err(Errno::Efault), "half of it");
}

#[test]
pub(crate) fn more_than_the_limit_is_not_locked_and_nothing_stays_pinned() {
    let (world, process, container) = user();
    process.memory.limit.store(5, SeqCst);
    process.memory.batch.store(2, SeqCst);
    process.map(container, 0x10_0000, BUFFER, 3 * PAGE, 3).unwrap();
    assert_eq!(process.map(container, 0x20_0000, BUFFER, 3 * PAGE, 3), Err(Errno::Enomem));
    assert_eq!((process.memory.pinned(), process.memory.locked()), (3, 3));
    process.map(container, 0x20_0000, BUFFER, 2 * PAGE, 3).unwrap();
    assert_eq!(process.memory.locked(), 5, "the same memory counts each time that it is mapped");
    assert_eq!(world.hardware.last_domain().mapped().len(), 2);
}

#[test]
fn what_lies_together_is_mapped_by_one_operation_however_it_was_pinned() {
    let (world, process, container) = user();
    process.memory.batch.store(3, SeqCst);
    process.memory.populate(BUFFER + 8 * PAGE, RAM + 0x100_0000, 8 * PAGE, true);
    process.map(container, 0x10_0000, BUFFER, 16 * PAGE, 3).unwrap();
    assert_eq!(process.memory.pin_calls(), 6);
    let domain = world.hardware.last_domain();
    assert_eq!(domain.map_calls(), 2);
    assert_eq!(domain.runs(), [(0x10_0000, RAM, 8 * PAGE), (0x10_8000, RAM + 0x100_0000, 8 * PAGE)]);
}

#[test]
fn a_gigabyte_in_one_piece_is_one_operation() {
    let (world, process, container) = user();
    process.memory.populate(BUFFER, RAM, 1 << 30, true);
    process.map(container, 0x4000_0000, BUFFER, 1 << 30, 3).unwrap();
    assert_eq!(world.hardware.last_domain().map_calls(), 1);
    assert_eq!(process.unmap(container, 0x4000_0000, 1 << 30), Ok(1 << 30));
    assert_eq!((process.memory.pinned(), process.memory.locked()), (0, 0));
}

#[test]
pub(crate) fn a_map_that_the_table_refuses_leaves_nothing() {
    let (world, process, container) = user();
    process.memory.populate(BUFFER + 8 * PAGE, RAM + 0x100_0000, 8 * PAGE, true);
    world.hardware.fail(Call::Map, 1, 1);
    assert_eq!(process.map(container, 0x10_0000, BUFFER, 16 * PAGE, 3), Err(Errno::Enomem));
    assert_eq!((process.memory.pinned(), process.memory.locked()), (0, 0));
    assert_eq!(world.hardware.last_domain().mapped(), []);
    process.map(container, 0x10_0000, BUFFER, 16 * PAGE, 3).unwrap();
}

#[test]
fn an_iommu_with_large_pages_maps_no_smaller_ones() {
    let mut world = bare(range(0, (1 << 40) - 1), PageSizes::from_bits(0x1_0000));
    world.add(7, 1, |_| ()).unwrap();
    let (process, container, _) = world.user(3);
    process.buffer(64);
    assert_eq!(process.map(container, 0x10_0000, BUFFER, PAGE, 3), Err(Errno::Einval));
    process.map(container, 0x10_0000, BUFFER, 0x1_0000, 3).unwrap();
    // Physically not on such a page's boundary: the table cannot say it.
    process.memory.populate(BUFFER, RAM + PAGE, 0x1_0000, true);
    assert_eq!(process.map(container, 0x20_0000, BUFFER, 0x1_0000, 3), Err(Errno::Einval));
    assert_eq!(process.memory.locked(), 16);
}

#[test]
fn a_process_with_large_pages_maps_no_smaller_ones() {
    let world = world();
    let process = Process::with_pages(&world.vfio, &world.hardware, SizeLg2::KIB_16);
    let (container, _) = process.join(7).unwrap();
    process.ioctl(container, 0x3b66, 3).unwrap();
    process.buffer(8);
    assert_eq!(process.map(container, 0x10_0000, BUFFER, PAGE, 3), Err(Errno::Einval));
    process.map(container, 0x10_0000, BUFFER, 0x8000, 3).unwrap();
    assert_eq!(process.memory.locked(), 2);
}

#[test]
fn a_device_that_does_not_snoop_gets_uncached_mappings() {
    let mut world = bare(range(0, (1 << 40) - 1), PageSizes::from_bits(0x1000));
    world.add(7, 1, |info| info.coherent = false).unwrap();
    let (process, container, _) = world.user(3);
    process.buffer(1);
    process.map(container, 0x10_0000, BUFFER, PAGE, READ).unwrap();
    assert_eq!(world.hardware.last_domain().find(0x10_0000), Some((RAM, Prot::uncached(Perms::READ))));
}
