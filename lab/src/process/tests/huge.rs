//! Huge pages: whole, in one piece, nobody else's.

use model_cpu::TlbPolicy;
use portcullis::core::iommu::SyncError;
use portcullis::core::mm::MmFaultError;
use portcullis::types::{Iova, IovaRange};

use super::bench::{Bench, Device, R, RW, at, mapping, part, read};
use crate::process::{HUGE_PAGE, MmError, Process, Source, UserError};

const HUGE: u64 = HUGE_PAGE.bytes();
const PAGES: u64 = HUGE >> 12;

fn huge(process: &Process, count: u64) -> IovaRange {
    process.map(&mapping(count * HUGE, RW, Source::Huge)).unwrap()
}

/// Where the pages of the huge page at `offset` are, each one pinned for a moment.
fn places(process: &Process, range: IovaRange, offset: u64) -> Vec<u64> {
    let place = |page| process.pin(at(range, offset + page * 4096), true).unwrap().at().get();
    (0..PAGES).map(place).collect()
}

fn is_one_piece(places: &[u64]) -> bool {
    places[0].is_multiple_of(HUGE) && places.windows(2).all(|pair| pair[0] + 4096 == pair[1])
}

#[test]
fn a_huge_page_is_one_piece_of_memory_and_holds_what_was_stored() {
    let bench = Bench::new(1);
    let process = bench.process();
    // Lengths are rounded up, and addresses are multiples, beside whatever else there is.
    process.map(&mapping(4096, RW, Source::Anonymous)).unwrap();
    let range = process.map(&mapping(HUGE + 1, RW, Source::Huge)).unwrap();
    assert_eq!((range.first().get() % HUGE, range.len_bytes()), (0, Some(2 * HUGE)));
    for offset in [0, HUGE - 1, HUGE, 2 * HUGE - 1] {
        assert_eq!(read(&process, at(range, offset), 1), [0]);
        process.write(at(range, offset), &[9]).unwrap();
        assert_eq!(read(&process, at(range, offset), 1), [9]);
    }
    let [first, second] = [0, HUGE].map(|offset| places(&process, range, offset));
    assert!(is_one_piece(&first) && is_one_piece(&second) && first[0] != second[0]);
    drop(process);
    bench.assert_clean();
}

#[test]
fn huge_pages_are_cut_at_their_ends_only() {
    let bench = Bench::new(2);
    let process = bench.process();
    let range = huge(&process, 3);
    for piece in [part(range, 4096, 4096), part(range, 0, 4096), part(range, HUGE - 4096, HUGE + 4096)] {
        assert_eq!(process.unmap(piece), Err(MmError::BadRange));
        assert_eq!(process.protect(piece, R), Err(MmError::BadRange));
    }
    let odd = mapping(HUGE, RW, Source::Huge);
    let odd = crate::process::Mapping { at: Some(Iova::new(0x10_0000_1000)), ..odd };
    assert_eq!(process.map(&odd), Err(MmError::BadRange));
    process.protect(part(range, HUGE, HUGE), R).unwrap();
    let refused = |why| Err(UserError::Fault { at: at(range, HUGE), why });
    assert_eq!(process.write(at(range, HUGE), &[1]), refused(MmFaultError::Permission));
    process.unmap(part(range, HUGE, HUGE)).unwrap();
    assert_eq!(process.read(at(range, HUGE), &mut [0]), refused(MmFaultError::NoArea));
    for offset in [0, 2 * HUGE] {
        process.write(at(range, offset), &[1]).unwrap();
    }
    process.unmap(range).unwrap();
    drop(process);
    bench.assert_clean();
}

#[test]
fn a_fork_has_huge_pages_of_its_own_and_the_parents_stay_where_they_are() {
    let bench = Bench::new(3);
    let process = bench.process();
    let range = huge(&process, 1);
    process.write(at(range, 5), &[7]).unwrap();
    let pin = process.pin(at(range, 0), true).unwrap();
    let before = places(&process, range, 0);
    let child = process.fork().unwrap();
    process.write(at(range, 5), &[8]).unwrap();
    assert_eq!((read(&child, at(range, 5), 1), read(&process, at(range, 5), 1)), (vec![7], vec![8]));
    child.write(at(range, 4096), &[1]).unwrap();
    assert_eq!(read(&process, at(range, 4096), 1), [0]);
    let childs = places(&child, range, 0);
    assert!(is_one_piece(&childs) && childs[0] != before[0]);
    assert_eq!(places(&process, range, 0), before);
    drop((pin, child, process));
    bench.assert_clean();
}

#[test]
fn a_huge_page_goes_back_with_the_last_that_holds_a_part_of_it() {
    let bench = Bench::new(4);
    let process = bench.process();
    let bytes = || bench.kernel.platform().live_buffer_bytes();
    let before = bytes();
    let range = huge(&process, 2);
    assert_eq!(bytes() - before, 2 * HUGE);
    let pin = process.pin(at(range, 4096), true).unwrap();
    process.unmap(range).unwrap();
    assert_eq!(bytes() - before, HUGE, "a device may reach a part of it");
    drop(pin);
    assert_eq!(bytes(), before);
    drop(process);
    bench.assert_clean();
}

#[test]
fn a_huge_page_of_which_a_device_may_reach_a_part_for_ever_is_kept_whole() {
    let bench = Bench::new(6);
    let process = bench.process();
    let range = huge(&process, 2);
    let (device, _) = Device::bind(&bench, &process, TlbPolicy::holding(1));
    device.write(at(range, 4096), &[1]).unwrap();
    let live = bench.kernel.platform().live_buffer_bytes();
    *device.failing.lock().unwrap() = Some(SyncError::Failed { code: 3 });
    process.exit();
    drop(process);
    assert_eq!(bench.kernel.platform().live_buffer_bytes(), live);
    assert_eq!(device.write(at(range, 4096), &[2]), Ok(()));
    assert_eq!(bench.bus.cpu().ram().freed_use_count(), 0);
}

#[test]
fn without_memory_in_one_piece_nothing_is_mapped() {
    let bench = Bench::new(5);
    let process = bench.process();
    let before = bench.kernel.platform().live_buffer_bytes();
    // The machine has 128 MiB.
    assert_eq!(process.map(&mapping(9 * HUGE, RW, Source::Huge)), Err(MmError::NoMemory));
    assert_eq!((bench.kernel.platform().live_buffer_bytes(), process.usage().areas), (before, 0));
    let range = huge(&process, 4);
    assert_eq!(process.fork().unwrap_err(), MmError::NoMemory);
    process.write(at(range, 0), &[1]).unwrap();
    drop(process);
    bench.assert_clean();
}
