//! Version 1: the whole window is paid for in advance; each entry pins its page.

use super::{nothing_is_left, ram};
use crate::support::{BUFFER, Call, Offer, PAGE, Process, READ, WRITE, World, power, power_alone};
use core::sync::atomic::Ordering::SeqCst;
use portcullis_types::SizeLg2;
use portcullis_vfio::Errno;

/// 2 GiB.
const WINDOW_PAGES: u64 = 0x8_0000;
const DEFAULT_TABLE_PAGES: u64 = 2048;

fn enabled(world: &World) -> (Process, i32, i32) {
    let (process, container, group) = world.tce_user(2);
    process.buffer(4096);
    process.enable(container).unwrap();
    (process, container, group)
}

#[test]
pub(crate) fn enabling_pays_for_the_whole_window() {
    let (world, _) = power();
    let (process, container, _) = world.tce_user(2);
    assert_eq!(process.enable(container), Ok(0));
    assert_eq!((process.memory.pinned(), process.memory.locked()), (0, WINDOW_PAGES));
}

#[test]
pub(crate) fn what_is_enabled_is_not_enabled_again() {
    let (world, _) = power();
    let (process, container, _) = enabled(&world);
    assert_eq!(process.enable(container), Err(Errno::Ebusy));
    assert_eq!(process.memory.locked(), WINDOW_PAGES);
}

#[test]
pub(crate) fn more_than_the_limit_is_not_enabled() {
    let (world, _) = power();
    let (process, container, _) = world.tce_user(2);
    process.memory.limit.store(WINDOW_PAGES - 1, SeqCst);
    assert_eq!(process.enable(container), Err(Errno::Enomem));
    assert_eq!(process.map(container, 0, BUFFER, PAGE, 3), Err(Errno::Eperm));
    process.memory.limit.store(WINDOW_PAGES, SeqCst);
    assert_eq!(process.enable(container), Ok(0));
}

#[test]
pub(crate) fn disabling_gives_back_and_twice_is_no_error() {
    let (world, [first, _]) = power();
    let (process, container, _) = enabled(&world);
    process.map(container, 0, BUFFER, 4 * PAGE, 3).unwrap();
    assert_eq!(process.memory.pinned(), 4);
    assert_eq!(process.disable(container), Ok(0));
    assert_eq!((process.memory.pinned(), process.memory.locked()), (0, DEFAULT_TABLE_PAGES));
    assert_eq!(first.table(0).unwrap().mapped(), [], "devices are kept out");
    assert_eq!(process.disable(container), Ok(0));
    assert_eq!(process.map(container, 0, BUFFER, PAGE, 3), Err(Errno::Eperm));
    assert_eq!(process.enable(container), Ok(0));
    assert_eq!(process.map(container, 0, BUFFER, PAGE, 3), Ok(()));
}

#[test]
pub(crate) fn what_hardware_does_not_forget_stays_enabled() {
    let (world, _) = power();
    let (process, container, _) = enabled(&world);
    process.map(container, 0, BUFFER, 4 * PAGE, 3).unwrap();
    world.hardware.fail(Call::Flush, 0, 1);
    assert_eq!(process.disable(container), Err(Errno::Eio));
    assert_eq!(process.memory.pinned(), 4);
    assert_eq!(process.enable(container), Err(Errno::Ebusy));
    assert_eq!(process.disable(container), Ok(0));
    assert_eq!(process.memory.pinned(), 0);
}

#[test]
fn before_it_is_enabled_nothing_is_mapped_or_unmapped() {
    let (world, _) = power();
    let (process, container, _) = world.tce_user(2);
    process.buffer(1);
    assert_eq!(process.map(container, 0, BUFFER, PAGE, 3), Err(Errno::Eperm));
    assert_eq!(process.unmap_tce(container, 0, PAGE), Err(Errno::Eperm));
}

#[test]
fn each_entry_pins_its_page_and_an_exchange_lets_the_old_one_go_once() {
    let (world, [first, _]) = power();
    let (process, container, group) = enabled(&world);
    process.map(container, 0, BUFFER, 4 * PAGE, READ).unwrap();
    process.map(container, 0x10_0000, BUFFER, PAGE, WRITE).unwrap();
    assert_eq!(process.memory.pinned(), 5, "the same page twice");
    process.map(container, PAGE, BUFFER + 8 * PAGE, PAGE, 3).unwrap();
    assert_eq!(process.memory.pinned(), 5);
    let wanted = [
        (0, ram(0), 1),
        (0x1000, ram(8), 3),
        (0x2000, ram(2), 1),
        (0x3000, ram(3), 1),
        (0x10_0000, ram(0), 2),
    ];
    assert_eq!(first.table(0).unwrap().mapped(), wanted);
    process.unmap_tce(container, 0, 4 * PAGE).unwrap();
    assert_eq!(process.memory.pinned(), 1);
    process.ioctl(group, 0x3b69, 0).unwrap();
    nothing_is_left(&world, &process, &[&first]);
}

#[test]
pub(crate) fn memory_that_is_not_there_or_not_writable_leaves_nothing_mapped() {
    let (world, [first, _]) = power();
    let (process, container, _) = enabled(&world);
    process.memory.populate(BUFFER + 4096 * PAGE, 0x8_0000_0000, PAGE, false);
    process.map(container, 0, BUFFER, PAGE, 3).unwrap();
    assert_eq!(process.map(container, 0, BUFFER + 4094 * PAGE, 3 * PAGE, WRITE), Err(Errno::Efault));
    assert_eq!(process.map(container, 0, BUFFER + 4094 * PAGE, 4 * PAGE, READ), Err(Errno::Efault));
    assert_eq!(first.table(0).unwrap().mapped(), [(0, ram(0), 3)], "as it was");
    assert_eq!(process.memory.pinned(), 1);
    assert_eq!(process.map(container, 0, BUFFER + 4094 * PAGE, 3 * PAGE, READ), Ok(()));
}

#[test]
fn a_process_with_larger_pages_than_the_windows_pins_its_own() {
    let (world, [first, _]) = power();
    let process = Process::with_pages(&world.vfio, &world.hardware, SizeLg2::KIB_64);
    process.buffer(64);
    let (container, _) = process.join(7).unwrap();
    process.ioctl(container, 0x3b66, 2).unwrap();
    process.enable(container).unwrap();
    process.map(container, 0, BUFFER + 15 * PAGE, 2 * PAGE, 3).unwrap();
    assert_eq!(first.table(0).unwrap().mapped(), [(0, ram(15), 3), (0x1000, ram(16), 3)]);
    assert_eq!(process.memory.pinned(), 32, "two large pages");
    process.unmap_tce(container, 0, 2 * PAGE).unwrap();
    assert_eq!(process.memory.pinned(), 0);
}

#[test]
fn a_table_that_is_there_for_good_is_taken_over_and_given_back() {
    let (world, group) = power_alone(Offer::Whole);
    let (process, container, file) = enabled(&world);
    assert_eq!(process.memory.locked(), WINDOW_PAGES, "the table is the platform's");
    process.map(container, 0x5000, BUFFER, 4 * PAGE, 3).unwrap();
    assert_eq!(group.table(0).unwrap().mapped().len(), 4);
    process.ioctl(file, 0x3b69, 0).unwrap();
    nothing_is_left(&world, &process, &[&group]);
}

#[test]
pub(crate) fn a_table_in_which_the_platform_has_something_mapped_is_not_taken_over() {
    let (world, group) = power_alone(Offer::Whole);
    let process = world.process();
    let (container, _) = process.join(7).unwrap();
    world.hardware.fail(Call::Take, 0, 1);
    assert_eq!(process.ioctl(container, 0x3b66, 2), Err(Errno::Ebusy));
    assert!(!group.is_taken());
}
