//! Version 2: windows that are made and removed, and the default one.

use super::registered;
use crate::support::{BUFFER, PAGE, power, structure};
use core::sync::atomic::Ordering::SeqCst;
use portcullis_types::SizeLg2;
use portcullis_vfio::Errno;

const WINDOW_1: u64 = 0x0800_0000_0000_0000;
/// Of the default window's table: 2 GiB of 4 KiB pages, observed as 8192 KiB.
const DEFAULT_TABLE_PAGES: u64 = 2048;

#[test]
pub(crate) fn windows_are_made_with_the_page_size_and_the_levels_that_were_asked_for() {
    let (world, [first, _]) = power();
    let (process, container, _) = registered(&world);
    process.remove(container, 0).unwrap();
    assert_eq!(process.create(container, 16, 1 << 30, 3), Ok(0));
    assert_eq!(process.create(container, 24, 1 << 40, 5), Ok(WINDOW_1));
    use portcullis_core::table_group::{DmaTable, TableSpec};
    let spec = |window: usize| first.table(window).unwrap().spec();
    let page = |lg2| SizeLg2::new(lg2).unwrap();
    assert_eq!(spec(0), TableSpec { window: 0, page: page(16), window_bytes: 1 << 30, levels: 3 });
    assert_eq!(spec(1), TableSpec { window: 1, page: page(24), window_bytes: 1 << 40, levels: 5 });
}

#[test]
pub(crate) fn windows_that_cannot_be_are_refused() {
    let (world, [first, _]) = power();
    let (process, container, _) = registered(&world);
    let before = process.memory.locked();
    let sizes = [
        (13, 1 << 30, 1),
        (12, 0, 1),
        (12, 3 << 20, 1),
        (12, 1 << 30, 0),
        (12, 1 << 30, 6),
        (24, 1 << 20, 1),
    ];
    for (shift, size, levels) in sizes {
        assert_eq!(
            process.create(container, shift, size, levels),
            Err(Errno::Einval),
            "{shift} {size:#x} {levels}"
        );
    }
    for (shift, levels) in [(64, 1), (256 + 12, 1), (u32::MAX, 1), (12, 256 + 1), (12, u32::MAX)] {
        assert_eq!(process.create(container, shift, 1 << 30, levels), Err(Errno::Einval), "{shift} {levels}");
    }
    for (argsz, flags) in [(39, 0), (40, 1), (0, 0)] {
        let mut request = structure(&[argsz, flags, 12, 0], &[1 << 30]);
        request.extend(structure(&[1, 0], &[0]));
        assert_eq!(process.ioctl_with(container, 0x3b77, &request), Err(Errno::Einval));
    }
    assert!(first.table(0).is_none(), "the default window is taken away again");
    assert_eq!(process.memory.locked(), before);
}

#[test]
pub(crate) fn there_are_two_windows_and_no_more() {
    let (world, _) = power();
    let (process, container, _) = registered(&world);
    process.create(container, 12, 1 << 30, 1).unwrap();
    assert_eq!(process.create(container, 12, 1 << 30, 1), Err(Errno::Enospc));
    assert_eq!(process.create(container, 13, 0, 9), Err(Errno::Enospc), "that comes first");
    process.remove(container, 0).unwrap();
    assert_eq!(process.create(container, 12, 1 << 30, 1), Ok(0));
}

#[test]
pub(crate) fn a_window_that_is_more_than_the_limit_is_not_made_and_nothing_stays_charged() {
    let (world, [first, _]) = power();
    let (process, container, _) = registered(&world);
    process.remove(container, 0).unwrap();
    process.memory.limit.store(4096 + 1023, SeqCst);
    // 1 GiB of 4 KiB pages: 2 MiB, twice.
    assert_eq!(process.create(container, 12, 1 << 30, 1), Err(Errno::Enomem));
    assert_eq!(process.memory.locked(), 4096);
    assert!(first.table(0).is_none());
    process.memory.limit.store(4096 + 1024, SeqCst);
    assert_eq!(process.create(container, 12, 1 << 30, 1), Ok(0));
    assert_eq!(process.memory.locked(), 4096 + 1024);
}

#[test]
fn the_default_window_is_made_when_it_is_first_needed() {
    let (world, [first, _]) = power();
    let (process, container, _) = registered(&world);
    assert!(first.table(0).is_none());
    process.map(container, 0x1000, BUFFER, PAGE, 3).unwrap();
    use portcullis_core::table_group::DmaTable;
    let spec = first.table(0).unwrap().spec();
    assert_eq!((spec.page, spec.window_bytes, spec.levels), (SizeLg2::KIB_4, 0x8000_0000, 1));
    assert_eq!(process.memory.locked(), 4096 + DEFAULT_TABLE_PAGES);
}

#[test]
fn the_default_window_is_made_before_another_one() {
    let (world, [first, _]) = power();
    let (process, container, _) = registered(&world);
    assert_eq!(process.create(container, 16, 1 << 30, 1), Ok(WINDOW_1));
    assert!(first.table(0).is_some());
}

#[test]
fn the_default_window_is_made_by_an_unmap_and_by_a_map_of_nothing() {
    for map in [false, true] {
        let (world, [first, _]) = power();
        let (process, container, _) = registered(&world);
        if map {
            process.map(container, 0, BUFFER, 0, 3).unwrap();
        } else {
            process.unmap_tce(container, 0, PAGE).unwrap();
        }
        assert!(first.table(0).is_some());
        assert_eq!(first.table(0).unwrap().flushes(), 0, "and nothing is invalidated");
    }
}

#[test]
fn a_call_that_made_the_default_window_and_fails_takes_it_away_again() {
    let (world, [first, _]) = power();
    let (process, container, _) = registered(&world);
    let before = process.memory.locked();
    assert_eq!(process.map(container, WINDOW_1, BUFFER, PAGE, 3), Err(Errno::Enxio));
    assert_eq!(process.map(container, 0, BUFFER - PAGE, PAGE, 3), Err(Errno::Einval));
    assert_eq!(process.unmap_tce(container, 1 << 40, PAGE), Err(Errno::Enxio));
    assert_eq!((process.memory.locked(), first.table(0).is_some()), (before, false));
    process.memory.limit.store(before + DEFAULT_TABLE_PAGES - 1, SeqCst);
    assert_eq!(process.map(container, 0, BUFFER, PAGE, 3), Err(Errno::Enomem));
    process.memory.limit.store(before + DEFAULT_TABLE_PAGES, SeqCst);
    assert_eq!(process.map(container, 0, BUFFER, PAGE, 3), Ok(()));
}

#[test]
pub(crate) fn the_default_window_can_be_cancelled_and_is_not_made_then() {
    let (world, [first, _]) = power();
    let (process, container, _) = registered(&world);
    assert_eq!(process.remove(container, 0), Ok(()));
    assert_eq!(process.map(container, 0, BUFFER, PAGE, 3), Err(Errno::Enxio));
    assert!(first.table(0).is_none());
    assert_eq!(process.remove(container, 0), Err(Errno::Einval), "there is none");
}

#[test]
pub(crate) fn a_window_that_is_not_there_is_not_removed() {
    let (world, [first, _]) = power();
    let (process, container, _) = registered(&world);
    process.create(container, 16, 1 << 30, 1).unwrap();
    for start in [0x1_0000, 0x1000, WINDOW_1 + 0x1_0000, 1 << 40, u64::MAX, 1] {
        assert_eq!(process.remove(container, start), Err(Errno::Einval), "inside, or nowhere");
    }
    for (argsz, flags) in [(15, 0), (16, 1), (0, 0)] {
        let done = process.ioctl_with(container, 0x3b78, &structure(&[argsz, flags], &[0]));
        assert_eq!(done, Err(Errno::Einval));
    }
    assert!(first.table(0).is_some() && first.table(1).is_some());
}

#[test]
fn a_window_is_removed_with_what_is_mapped_there() {
    let (world, [first, _]) = power();
    let (process, container, _) = registered(&world);
    process.create(container, 16, 1 << 30, 1).unwrap();
    process.map(container, WINDOW_1, BUFFER, 16 * PAGE, 3).unwrap();
    process.map(container, 0, BUFFER, 16 * PAGE, 3).unwrap();
    process.remove(container, WINDOW_1).unwrap();
    assert!(first.table(1).is_none());
    assert_eq!(process.memory.locked(), 4096 + DEFAULT_TABLE_PAGES, "its table is paid for no more");
    assert_eq!(process.unregister(container, BUFFER, 4096 * PAGE), Err(Errno::Ebusy), "the other window's");
    process.remove(container, 0).unwrap();
    assert_eq!(process.unregister(container, BUFFER, 4096 * PAGE), Ok(()));
    assert_eq!(world.hardware.table_count(), 0);
}
