//! Maps and unmaps, entry by entry.

use super::{ram, registered};
use crate::support::{BUFFER, Call, PAGE, READ, WRITE, power, region, structure};
use portcullis_core::iommu::ReservedKind;
use portcullis_vfio::Errno;

const WINDOW_1: u64 = 0x0800_0000_0000_0000;

#[test]
pub(crate) fn registered_memory_is_mapped_with_the_permissions_that_were_asked_for() {
    let (world, [first, _]) = power();
    let (process, container, _) = registered(&world);
    process.map(container, 0x3000, BUFFER + PAGE, 2 * PAGE, READ).unwrap();
    process.map(container, 0x8000, BUFFER + 7 * PAGE, PAGE, WRITE).unwrap();
    process.map(container, 0x7fff_f000, BUFFER, PAGE, READ | WRITE).unwrap();
    let table = first.table(0).unwrap();
    let wanted = [(0x3000, ram(1), 1), (0x4000, ram(2), 1), (0x8000, ram(7), 2), (0x7fff_f000, ram(0), 3)];
    assert_eq!(table.mapped(), wanted);
    assert_eq!(table.flushes(), 3, "one each");
}

#[test]
fn pages_of_every_size_are_mapped() {
    for (shift, pages) in [(12, 3), (16, 16), (24, 1)] {
        let (world, [first, _]) = power();
        let (process, container, _) = registered(&world);
        process.remove(container, 0).unwrap();
        process.create(container, shift, 1 << 34, 1).unwrap();
        let size = pages << shift;
        process.map(container, 1 << 28, BUFFER, size, 3).unwrap();
        let wanted: Vec<_> =
            (0..pages).map(|page| ((1 << 28) + (page << shift), ram(0) + (page << shift), 3)).collect();
        assert_eq!(first.table(0).unwrap().mapped(), wanted);
        process.unmap_tce(container, 1 << 28, size).unwrap();
        assert_eq!(first.table(0).unwrap().mapped(), []);
        assert_eq!(process.unregister(container, BUFFER, 4096 * PAGE), Ok(()));
    }
}

#[test]
fn nothing_is_mapped_where_hardware_takes_messages_however_large_the_window_is() {
    let (world, [first, _]) = power();
    world.iommu.regions.lock().unwrap().push(region(0xffff_0000, 0xffff_ffff, ReservedKind::Msi));
    let (process, container, _) = registered(&world);
    process.remove(container, 0).unwrap();
    process.create(container, 16, 1 << 34, 1).unwrap();
    for (iova, size) in [(0xffff_0000, 16 * PAGE), (0xfffe_0000, 32 * PAGE)] {
        assert_eq!(process.map(container, iova, BUFFER, size, 3), Err(Errno::Einval), "{iova:#x}");
    }
    assert_eq!(first.table(0).unwrap().mapped(), []);
    process.map(container, 0xfffe_0000, BUFFER, 16 * PAGE, 3).unwrap();
    process.map(container, 1 << 32, BUFFER, 16 * PAGE, 3).unwrap();
    // Who joins with a region where something is mapped is refused.
    world.iommu.regions.lock().unwrap().push(region(0xfffe_8000, 0xfffe_8fff, ReservedKind::Reserved));
    assert_eq!(process.join_to(container, 8).err(), Some(Errno::Einval));
    process.unmap_tce(container, 0xfffe_0000, 16 * PAGE).unwrap();
    process.join_to(container, 8).unwrap();
    assert_eq!(process.map(container, 0xfffe_0000, BUFFER, 16 * PAGE, 3), Err(Errno::Einval));
}

#[test]
pub(crate) fn maps_that_make_no_sense_are_refused() {
    let (world, [first, _]) = power();
    let (process, container, _) = registered(&world);
    process.create(container, 16, 1 << 30, 1).unwrap();
    let cases = [
        (31, 3, BUFFER, 0, PAGE),
        (32, 0, BUFFER, 0, PAGE),
        (32, 4, BUFFER, 0, PAGE),
        (32, 7, BUFFER, 0, PAGE),
        (32, 3, BUFFER + 1, 0, PAGE),
        (32, 3, BUFFER, 1, PAGE),
        (32, 3, BUFFER, 0, PAGE + 1),
        // 64 KiB pages.
        (32, 3, BUFFER, WINDOW_1, PAGE),
        (32, 3, BUFFER + PAGE, WINDOW_1, 16 * PAGE),
        (32, 3, BUFFER, WINDOW_1 + PAGE, 16 * PAGE),
        // Out of registered memory, or beyond all memory.
        (32, 3, BUFFER - PAGE, 0, PAGE),
        (32, 3, BUFFER + 4095 * PAGE, 0, 2 * PAGE),
        (32, 3, u64::MAX - 0xfff, 0, 2 * PAGE),
        (32, 3, 0, 0, PAGE),
    ];
    for (argsz, flags, vaddr, iova, size) in cases {
        let done = process.ioctl_with(container, 0x3b71, &structure(&[argsz, flags], &[vaddr, iova, size]));
        assert_eq!(done, Err(Errno::Einval), "{argsz} {flags} {vaddr:#x} {iova:#x} {size:#x}");
    }
    for window in [0, 1] {
        assert_eq!(first.table(window).unwrap().mapped(), []);
    }
}

#[test]
pub(crate) fn maps_that_run_past_the_end_of_their_window_change_nothing() {
    let (world, [first, _]) = power();
    let (process, container, _) = registered(&world);
    assert_eq!(process.map(container, 0x7fff_f000, BUFFER, 2 * PAGE, 3), Err(Errno::Einval));
    process.map(container, 0x7fff_f000, BUFFER, PAGE, 3).unwrap();
    assert_eq!(process.map(container, 0x7fff_f000, BUFFER + PAGE, 2 * PAGE, 3), Err(Errno::Einval));
    let huge = u64::MAX & !0xfff;
    assert_eq!(process.map(container, 0x7fff_f000, BUFFER, huge, 3), Err(Errno::Einval));
    assert_eq!(first.table(0).unwrap().mapped(), [(0x7fff_f000, ram(0), 3)]);
}

#[test]
pub(crate) fn what_is_outside_every_window_is_no_address() {
    let (world, _) = power();
    let (process, container, _) = registered(&world);
    for iova in [0x8000_0000, 1 << 40, WINDOW_1, WINDOW_1 - PAGE, u64::MAX & !0xfff, 0x8000_0001] {
        assert_eq!(process.map(container, iova, BUFFER, PAGE, 3), Err(Errno::Enxio));
        assert_eq!(process.unmap_tce(container, iova, PAGE), Err(Errno::Enxio));
    }
}

#[test]
pub(crate) fn before_memory_is_registered_nothing_is_mapped_or_unmapped() {
    let (world, _) = power();
    let (process, container, _) = world.tce_user(7);
    process.buffer(1);
    assert_eq!(process.map(container, 0, BUFFER, PAGE, 3), Err(Errno::Eperm));
    assert_eq!(process.unmap_tce(container, 0, PAGE), Err(Errno::Eperm));
    assert_eq!(process.ioctl(container, 0x3b71, 0), Err(Errno::Eperm), "whatever the request says");
    process.create(container, 12, 1 << 30, 1).unwrap();
    assert_eq!(process.map(container, 0, BUFFER, PAGE, 3), Err(Errno::Eperm), "a window is not enough");
}

#[test]
fn a_map_may_go_over_from_one_registered_memory_to_the_next_but_no_page_may() {
    let (world, [first, _]) = power();
    let (process, container, _) = world.tce_user(7);
    process.buffer(64);
    process.register(container, BUFFER, 24 * PAGE).unwrap();
    process.register(container, BUFFER + 24 * PAGE, 40 * PAGE).unwrap();
    process.map(container, 0, BUFFER + 22 * PAGE, 4 * PAGE, 3).unwrap();
    assert_eq!(first.table(0).unwrap().mapped().len(), 4);
    process.create(container, 16, 1 << 30, 1).unwrap();
    assert_eq!(
        process.map(container, WINDOW_1, BUFFER, 32 * PAGE, 3),
        Err(Errno::Einval),
        "the second page does"
    );
    assert_eq!(process.map(container, WINDOW_1, BUFFER, 16 * PAGE, 3), Ok(()));
    assert_eq!(process.map(container, WINDOW_1, BUFFER + 32 * PAGE, 32 * PAGE, 3), Ok(()));
    process.unmap_tce(container, 0, 4 * PAGE).unwrap();
    process.remove(container, WINDOW_1).unwrap();
    assert_eq!(process.unregister(container, BUFFER, 24 * PAGE), Ok(()));
    assert_eq!(process.unregister(container, BUFFER + 24 * PAGE, 40 * PAGE), Ok(()));
}

#[test]
fn memory_in_smaller_pieces_than_the_windows_page_is_refused() {
    let (world, _) = power();
    let (process, container, _) = world.tce_user(7);
    // 8 pages here, 8 there; and 16 that do not begin on a multiple of 64 KiB.
    process.memory.populate(BUFFER, 0x5_0000_0000, 8 * PAGE, true);
    process.memory.populate(BUFFER + 8 * PAGE, 0x6_0000_8000, 8 * PAGE, true);
    process.memory.populate(BUFFER + 16 * PAGE, 0x7_0000_1000, 16 * PAGE, true);
    process.register(container, BUFFER, 32 * PAGE).unwrap();
    process.create(container, 16, 1 << 30, 1).unwrap();
    assert_eq!(process.map(container, WINDOW_1, BUFFER, 16 * PAGE, 3), Err(Errno::Einval));
    assert_eq!(process.map(container, WINDOW_1, BUFFER + 16 * PAGE, 16 * PAGE, 3), Err(Errno::Einval));
    assert_eq!(process.map(container, 0, BUFFER, 32 * PAGE, 3), Ok(()), "in pages of 4 KiB it is");
}

#[test]
fn a_map_over_what_is_mapped_lets_the_old_page_go() {
    let (world, [first, _]) = power();
    let (process, container, _) = world.tce_user(7);
    process.buffer(16);
    process.register(container, BUFFER, 8 * PAGE).unwrap();
    process.register(container, BUFFER + 8 * PAGE, 8 * PAGE).unwrap();
    process.map(container, 0, BUFFER, 4 * PAGE, 3).unwrap();
    process.map(container, PAGE, BUFFER + 8 * PAGE, PAGE, READ).unwrap();
    let wanted = [(0, ram(0), 3), (0x1000, ram(8), 1), (0x2000, ram(2), 3), (0x3000, ram(3), 3)];
    assert_eq!(first.table(0).unwrap().mapped(), wanted);
    process.map(container, 0, BUFFER + 8 * PAGE, 4 * PAGE, 3).unwrap();
    assert_eq!(process.unregister(container, BUFFER, 8 * PAGE), Ok(()), "nothing of it is mapped any more");
    assert_eq!(process.unregister(container, BUFFER + 8 * PAGE, 8 * PAGE), Err(Errno::Ebusy));
}

#[test]
pub(crate) fn what_was_mapped_is_unmapped_and_holes_are_no_error() {
    let (world, [first, _]) = power();
    let (process, container, _) = registered(&world);
    process.map(container, 0x1000, BUFFER, 3 * PAGE, 3).unwrap();
    process.map(container, 0x8000, BUFFER, PAGE, 3).unwrap();
    process.unmap_tce(container, 0x2000, PAGE).unwrap();
    assert_eq!(first.table(0).unwrap().mapped().len(), 3);
    process.unmap_tce(container, 0, 16 * PAGE).unwrap();
    let table = first.table(0).unwrap();
    assert_eq!((table.mapped().len(), table.flushes()), (0, 4));
    process.unmap_tce(container, 0, 0x8000_0000).unwrap();
    process.unmap_tce(container, 0, 0).unwrap();
    assert_eq!(table.flushes(), 4, "nothing was there: nothing is invalidated");
}

#[test]
pub(crate) fn unmaps_that_make_no_sense_are_refused() {
    let (world, [first, _]) = power();
    let (process, container, _) = registered(&world);
    process.map(container, 0x7fff_f000, BUFFER, PAGE, 3).unwrap();
    let cases = [
        (23, 0, 0, PAGE),
        (24, 1, 0, PAGE),
        (24, 2, 0, 0),
        (24, 0, 1, PAGE),
        (24, 0, 0, PAGE + 1),
        (24, 0, 0x7fff_f000, 2 * PAGE),
        (24, 0, 0, 0x8000_0000 + PAGE),
        (24, 0, PAGE, u64::MAX & !0xfff),
    ];
    for (argsz, flags, iova, size) in cases {
        let done = process.ioctl_with(container, 0x3b72, &structure(&[argsz, flags], &[iova, size]));
        assert_eq!(done, Err(Errno::Einval), "{argsz} {flags} {iova:#x} {size:#x}");
    }
    assert_eq!(first.table(0).unwrap().mapped().len(), 1);
}

#[test]
pub(crate) fn a_map_for_whose_levels_there_is_no_memory_changes_nothing() {
    let (world, [first, _]) = power();
    let (process, container, _) = registered(&world);
    process.map(container, 0, BUFFER, PAGE, 3).unwrap();
    world.hardware.fail(Call::Prepare, 0, 1);
    assert_eq!(process.map(container, 0, BUFFER + PAGE, 4 * PAGE, 3), Err(Errno::Enomem));
    assert_eq!(first.table(0).unwrap().mapped(), [(0, ram(0), 3)]);
}

#[test]
fn an_entry_that_cannot_be_made_takes_those_before_it_back() {
    let (world, [first, _]) = power();
    let (process, container, _) = world.tce_user(7);
    process.buffer(16);
    process.register(container, BUFFER, 8 * PAGE).unwrap();
    process.register(container, BUFFER + 8 * PAGE, 8 * PAGE).unwrap();
    process.map(container, PAGE, BUFFER, 2 * PAGE, READ).unwrap();
    for pass in 0..4 {
        world.hardware.fail(Call::Exchange, pass, 1);
        assert_eq!(process.map(container, 0, BUFFER + 8 * PAGE, 4 * PAGE, 3), Err(Errno::Einval));
        assert_eq!(first.table(0).unwrap().mapped(), [(0x1000, ram(0), 1), (0x2000, ram(1), 1)]);
    }
    assert_eq!(
        process.unregister(container, BUFFER + 8 * PAGE, 8 * PAGE),
        Ok(()),
        "nothing of it is counted"
    );
}
