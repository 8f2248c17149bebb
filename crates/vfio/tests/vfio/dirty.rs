//! DIRTY_PAGES, and UNMAP_DMA that asks for them.

use crate::support::{BUFFER, NOWHERE, PAGE, Process, READ, SCRATCH, World, bytes, structure, world};
use portcullis_vfio::Errno;

const DIRTY_PAGES: u32 = 0x3b75;
const UNMAP_DMA: u32 = 0x3b72;
/// Where bitmaps go.
const BITMAP: u64 = 0x2_0000;

fn user() -> (World, Process, i32) {
    let world = world();
    let (process, container, _) = world.user(3);
    process.buffer(128);
    process.memory.populate(BITMAP, 0x9_2000_0000, PAGE, true);
    (world, process, container)
}

fn switch(process: &Process, container: i32, flags: u32) -> Result<(), Errno> {
    process.ioctl_with(container, DIRTY_PAGES, &bytes(&[8, flags])).map(drop)
}

fn get(process: &Process, container: i32, numbers: [u64; 5]) -> Result<(), Errno> {
    process.ioctl_with(container, DIRTY_PAGES, &structure(&[48, 4], &numbers)).map(drop)
}

#[test]
pub(crate) fn what_a_device_can_write_counts_as_written_each_time() {
    let (_world, process, container) = user();
    process.map(container, 0x10_0000, BUFFER, 70 * PAGE, 3).unwrap();
    process.map(container, 0x15_0000, BUFFER, 3 * PAGE, READ).unwrap();
    process.map(container, 0x15_4000, BUFFER, PAGE, 3).unwrap();
    switch(&process, container, 1).unwrap();
    for _ in 0..2 {
        get(&process, container, [0x0f_e000, 0x60 * PAGE, PAGE, 16, BITMAP]).unwrap();
        // Pages 2 to 71, then 86.
        assert_eq!(
            process.get(BITMAP, 16),
            0x0040_00ff_ffff_ffff_ffff_fffc_u128.to_le_bytes(),
            "bits, and no more"
        );
    }
    assert_eq!(process.get(BITMAP + 16, 8), [0; 8]);
}

#[test]
fn bits_that_are_set_stay_set() {
    let (_world, process, container) = user();
    process.map(container, 0x10_0000, BUFFER, PAGE, 3).unwrap();
    switch(&process, container, 1).unwrap();
    portcullis_vfio::UserMemory::copy_out(&*process.memory, BITMAP, &[0x80; 8]).unwrap();
    get(&process, container, [0x10_0000, PAGE, PAGE, 8, BITMAP]).unwrap();
    assert_eq!(process.get(BITMAP, 8), [0x81, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80]);
}

#[test]
fn watching_starts_and_stops_as_often_as_one_likes() {
    let (_world, process, container) = user();
    process.map(container, 0x10_0000, BUFFER, PAGE, 3).unwrap();
    let ask = || get(&process, container, [0x10_0000, PAGE, PAGE, 8, BITMAP]);
    assert_eq!(ask(), Err(Errno::Einval), "nobody watches");
    assert_eq!([1, 1].map(|flags| switch(&process, container, flags)), [Ok(()); 2]);
    assert_eq!(ask(), Ok(()));
    assert_eq!([2, 2].map(|flags| switch(&process, container, flags)), [Ok(()); 2]);
    assert_eq!(ask(), Err(Errno::Einval));
}

#[test]
pub(crate) fn version_1_does_not_watch() {
    let world = world();
    let (process, container, _) = world.user(1);
    assert_eq!(process.ioctl(container, DIRTY_PAGES, NOWHERE), Err(Errno::Eacces), "whatever is asked");
}

#[test]
pub(crate) fn one_thing_is_asked_at_a_time() {
    let (_world, process, container) = user();
    for flags in [0, 3, 5, 6, 7, 8, 1 << 31] {
        assert_eq!(switch(&process, container, flags), Err(Errno::Einval));
    }
    assert_eq!(
        process.ioctl_with(container, DIRTY_PAGES, &bytes(&[7, 1])),
        Err(Errno::Einval),
        "nor without room"
    );
    let short = structure(&[47, 4], &[0x10_0000, PAGE, PAGE, 8, BITMAP]);
    switch(&process, container, 1).unwrap();
    assert_eq!(process.ioctl_with(container, DIRTY_PAGES, &short), Err(Errno::Einval));
}

#[test]
pub(crate) fn a_request_or_a_bitmap_that_is_nowhere_is_a_fault() {
    let (_world, process, container) = user();
    process.map(container, 0x10_0000, BUFFER, PAGE, 3).unwrap();
    switch(&process, container, 1).unwrap();
    assert_eq!(process.ioctl(container, DIRTY_PAGES, NOWHERE), Err(Errno::Efault));
    assert_eq!(get(&process, container, [0x10_0000, PAGE, PAGE, 8, NOWHERE]), Err(Errno::Efault));
    let end = SCRATCH + PAGE - 8;
    portcullis_vfio::UserMemory::copy_out(&*process.memory, end, &bytes(&[48, 4])).unwrap();
    assert_eq!(
        process.ioctl(container, DIRTY_PAGES, end),
        Err(Errno::Efault),
        "the second part is not there"
    );
}

#[test]
pub(crate) fn a_range_or_a_bitmap_that_cannot_be_is_refused() {
    let (_world, process, container) = user();
    process.map(container, 0x10_0000, BUFFER, 70 * PAGE, 3).unwrap();
    switch(&process, container, 1).unwrap();
    let size = 70 * PAGE;
    for numbers in [
        [0x10_0000, size, 0x2000, 16, BITMAP],
        [0x10_0000, size, 0, 16, BITMAP],
        [0x10_0000, size, 0x1001, 16, BITMAP],
        [0x10_0000, size, PAGE, 8, BITMAP],
        [0x10_0000, size, PAGE, 0, BITMAP],
        [0x10_0000, size, PAGE, (256 << 20) + 8, BITMAP],
        [0x10_0000, size, PAGE, 16, u64::MAX - 7],
        [0x10_0000, 0, PAGE, 16, BITMAP],
        [0x10_0000, size + 1, PAGE, 16, BITMAP],
        [0x10_0001, size, PAGE, 16, BITMAP],
        [u64::MAX - 0xfff, size, PAGE, 16, BITMAP],
        [0, 1 << 44, PAGE, 256 << 20, BITMAP],
        // It cuts the mapping.
        [0x10_0000, PAGE, PAGE, 8, BITMAP],
        [0x10_1000, size, PAGE, 16, BITMAP],
    ] {
        assert_eq!(get(&process, container, numbers), Err(Errno::Einval), "{numbers:x?}");
    }
    assert_eq!(process.get(BITMAP, 16), [0; 16]);
}

#[test]
fn an_unmap_tells_what_was_written() {
    let (_world, process, container) = user();
    process.map(container, 0x10_1000, BUFFER, 2 * PAGE, 3).unwrap();
    switch(&process, container, 1).unwrap();
    let request = structure(&[48, 1], &[0x10_0000, 8 * PAGE, PAGE, 8, BITMAP]);
    let after = process.ioctl_with(container, UNMAP_DMA, &request).unwrap();
    assert_eq!(crate::support::double(&after, 16), 2 * PAGE);
    assert_eq!(process.get(BITMAP, 8), [6, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(process.memory.locked(), 0);
}

#[test]
pub(crate) fn an_unmap_that_cannot_tell_unmaps_nothing() {
    let (_world, process, container) = user();
    process.map(container, 0x10_0000, BUFFER, 2 * PAGE, 3).unwrap();
    let ask = |words: [u32; 2], numbers: [u64; 5]| {
        process.ioctl_with(container, UNMAP_DMA, &structure(&words, &numbers)).map(drop)
    };
    let good = [0x10_0000, 2 * PAGE, PAGE, 8, BITMAP];
    assert_eq!(ask([48, 1], good), Err(Errno::Einval), "nobody watches");
    switch(&process, container, 1).unwrap();
    assert_eq!(ask([47, 1], good), Err(Errno::Einval), "no room");
    assert_eq!(ask([48, 3], [0, 0, PAGE, 8, BITMAP]), Err(Errno::Einval), "of all there is no bitmap");
    assert_eq!(
        ask([48, 1], [0x10_0000, 2 * PAGE, 0x2000, 8, BITMAP]),
        Err(Errno::Einval),
        "another page size"
    );
    assert_eq!(ask([48, 1], [0x10_0000, 2 * PAGE, PAGE, 0, BITMAP]), Err(Errno::Einval), "no bitmap");
    assert_eq!(ask([48, 1], [0x10_0000, 2 * PAGE, PAGE, 8, NOWHERE]), Err(Errno::Efault));
    assert_eq!(process.memory.locked(), 2);
    assert_eq!(ask([48, 1], good), Ok(()));
}
