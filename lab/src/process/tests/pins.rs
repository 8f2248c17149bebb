//! Pinned pages stay where they are, and registers are no pages.

use std::sync::{Arc, Mutex};

use model_bus::{Bus, Mmio, Width};
use portcullis::core::iommu::SyncError;
use portcullis::core::mm::{MmFaultError, MmListener, ProcessMemory};
use portcullis::types::{IovaRange, Pa, PaRange};

use super::bench::{Bench, R, RW, at, mapping, part, read};
use crate::process::{Mapping, Process, Source, UserError};

fn word(bench: &Bench, pa: Pa) -> u8 {
    let mut byte = [0];
    bench.bus.cpu().read(pa, &mut byte).unwrap();
    byte[0]
}

fn anonymous(process: &Process, pages: u64, perms: portcullis::types::Perms) -> IovaRange {
    process.map(&mapping(pages << 12, perms, Source::Anonymous)).unwrap()
}

#[test]
fn a_pinned_page_is_what_the_process_reads_and_writes_also_after_its_entry_was_taken_out() {
    let bench = Bench::new(1);
    let process = bench.process();
    let range = anonymous(&process, 1, RW);
    let pinned = process.pin(at(range, 0), true).unwrap();
    process.write(at(range, 5), &[7]).unwrap();
    assert_eq!(word(&bench, Pa::new(pinned.at().get() + 5)), 7);
    process.protect(range, R).unwrap();
    process.protect(range, RW).unwrap();
    process.write(at(range, 5), &[8]).unwrap();
    assert_eq!(word(&bench, Pa::new(pinned.at().get() + 5)), 8, "no copy was made");
    assert_eq!(process.usage().copies, 0);
    drop(pinned);
    drop(process);
    bench.assert_clean();
}

#[test]
fn a_page_that_a_fork_shares_is_copied_before_it_is_pinned_also_for_reading() {
    for write in [false, true] {
        let bench = Bench::new(2);
        let process = bench.process();
        let range = anonymous(&process, 1, RW);
        process.write(at(range, 0), &[1]).unwrap();
        let child = process.fork().unwrap();
        let pinned = process.pin(at(range, 0), write).unwrap();
        process.write(at(range, 0), &[2]).unwrap();
        assert_eq!(word(&bench, pinned.at()), 2, "the device sees what the process wrote");
        assert_eq!(read(&child, at(range, 0), 1), [1]);
        drop((pinned, child, process));
        bench.assert_clean();
    }
}

#[test]
fn a_page_that_may_not_be_written_and_that_a_fork_shares_is_copied_when_it_is_pinned() {
    let bench = Bench::new(3);
    let process = bench.process();
    let range = anonymous(&process, 1, RW);
    process.write(at(range, 0), &[1]).unwrap();
    let child = process.fork().unwrap();
    process.protect(range, R).unwrap();
    assert_eq!(process.pin(at(range, 0), true).unwrap_err(), MmFaultError::Permission);
    let pinned = process.pin(at(range, 0), false).unwrap();
    process.protect(range, RW).unwrap();
    process.write(at(range, 0), &[2]).unwrap();
    assert_eq!(word(&bench, pinned.at()), 2);
    assert_eq!(read(&child, at(range, 0), 1), [1]);
    drop((pinned, child, process));
    bench.assert_clean();
}

#[test]
fn a_fork_gets_copies_of_pinned_pages_and_the_parent_goes_on_with_its_own() {
    let bench = Bench::new(4);
    let process = bench.process();
    let range = anonymous(&process, 2, RW);
    process.write(at(range, 0), &[1]).unwrap();
    let pinned = process.pin(at(range, 0), true).unwrap();
    let child = process.fork().unwrap();
    process.write(at(range, 0), &[2]).unwrap();
    assert_eq!(word(&bench, pinned.at()), 2);
    bench.bus.cpu().write(pinned.at(), &[3]).unwrap();
    assert_eq!((read(&process, at(range, 0), 1), read(&child, at(range, 0), 1)), (vec![3], vec![1]));
    drop((pinned, child, process));
    bench.assert_clean();
}

/// Somebody who writes a page until told to forget it.
struct Late {
    bus: Arc<Bus>,
    page: Pa,
}

impl MmListener for Late {
    fn invalidate(&self, _: IovaRange) -> Result<(), SyncError> {
        self.bus.cpu().write(self.page, &[7]).unwrap();
        Ok(())
    }

    fn release(&self) -> Result<(), SyncError> {
        Ok(())
    }
}

#[test]
fn a_fork_copies_pinned_pages_when_nobody_writes_them_by_the_table_any_more() {
    let bench = Bench::new(9);
    let process = bench.process();
    let range = anonymous(&process, 1, RW);
    let pinned = process.pin(at(range, 0), true).unwrap();
    let late = Late { bus: bench.bus.clone(), page: pinned.at() };
    process.add_listener(Arc::new(late)).unwrap();
    let child = process.fork().unwrap();
    assert_eq!((read(&process, at(range, 0), 1), read(&child, at(range, 0), 1)), (vec![7], vec![7]));
    drop((pinned, child, process));
    bench.assert_clean();
}

#[test]
fn a_hole_in_pinned_memory_leaves_the_rest_as_it_was_and_what_is_mapped_there_next_is_apart() {
    let bench = Bench::new(10);
    let process = bench.process();
    let range = anonymous(&process, 4, RW);
    let pins: Vec<_> = (0..4).map(|page| process.pin(at(range, page << 12), true).unwrap()).collect();
    process.write(at(range, 0), &[1; 0x4000]).unwrap();
    process.unmap(part(range, 0x1000, 0x2000)).unwrap();
    let again = Mapping { at: Some(at(range, 0x1000)), ..mapping(0x2000, RW, Source::Anonymous) };
    process.map(&again).unwrap();
    pins.iter().for_each(|pin| bench.bus.cpu().write(pin.at(), &[2]).unwrap());
    let bytes = [0, 1, 2, 3].map(|page| read(&process, at(range, page << 12), 1)[0]);
    assert_eq!(bytes, [2, 0, 0, 2], "pages that were unmapped are the device's only");
    process.write(at(range, 0x1000), &[3]).unwrap();
    assert_eq!(word(&bench, pins[1].at()), 2);
    assert_eq!(process.usage().copies, 0);
    drop((pins, process));
    bench.assert_clean();
}

#[test]
fn a_pin_outlives_the_mapping_and_the_process() {
    let bench = Bench::new(5);
    let process = bench.process();
    let range = anonymous(&process, 2, RW);
    process.write(at(range, 0x1000), &[9]).unwrap();
    let first = process.pin(at(range, 0), true).unwrap();
    let second = process.pin(at(range, 0x1000), true).unwrap();
    process.unmap(range).unwrap();
    bench.bus.cpu().write(first.at(), &[4]).unwrap();
    process.exit();
    drop(process);
    assert_eq!((word(&bench, first.at()), word(&bench, second.at())), (4, 9));
    assert_eq!(bench.bus.cpu().heap().live().len(), 2, "the pinned pages are all that is left");
    drop((first, second));
    bench.assert_clean();
}

#[test]
fn what_is_not_mapped_and_a_process_that_has_exited_have_nothing_to_pin() {
    let bench = Bench::new(6);
    let process = bench.process();
    let range = anonymous(&process, 1, RW);
    process.unmap(range).unwrap();
    assert_eq!(process.pin(at(range, 0), false).unwrap_err(), MmFaultError::NoArea);
    process.exit();
    assert_eq!(process.pin(at(range, 0), false).unwrap_err(), MmFaultError::Exited);
}

#[test]
fn a_pinned_page_that_is_everybodys_stays_everybodys() {
    let bench = Bench::new(7);
    let process = bench.process();
    let range = process.map(&mapping(0x1000, RW, Source::SharedAnonymous)).unwrap();
    let pinned = process.pin(at(range, 0), true).unwrap();
    let child = process.fork().unwrap();
    child.write(at(range, 0), &[6]).unwrap();
    assert_eq!(word(&bench, pinned.at()), 6);
    drop((pinned, child, process));
    bench.assert_clean();
}

/// Registers that answer with what was written last.
#[derive(Default)]
pub(super) struct Latch(Mutex<u64>);

impl Mmio for Latch {
    fn read(&self, _: u64, _: Width) -> u64 {
        *self.0.lock().unwrap()
    }

    fn write(&self, _: u64, _: Width, value: u64) {
        *self.0.lock().unwrap() = value;
    }
}

#[test]
fn registers_are_reached_until_they_are_unmapped_and_are_neither_pinned_nor_forked() {
    let bench = Bench::new(8);
    let first = Pa::new(0x0900_0000);
    let latch = Arc::new(Latch::default());
    bench.bus.add_registers("latch", PaRange::new(first, 0x2000).unwrap(), latch.clone()).unwrap();
    let process = bench.process();
    let range = process.map(&mapping(0x2000, RW, Source::Registers { first })).unwrap();
    process.write(at(range, 0x1004), &0x1234u32.to_le_bytes()).unwrap();
    assert_eq!(*latch.0.lock().unwrap(), 0x1234);
    assert_eq!(read(&process, at(range, 8), 4), 0x1234u32.to_le_bytes());
    process.protect(range, R).unwrap();
    let refused = |offset, why| Err(UserError::Fault { at: at(range, offset), why });
    assert_eq!(process.write(at(range, 4), &[0; 4]), refused(4, MmFaultError::Permission));
    assert_eq!(process.pin(at(range, 0), false).unwrap_err(), MmFaultError::NoArea);
    let child = process.fork().unwrap();
    assert_eq!(child.read(at(range, 0), &mut [0; 4]), refused(0, MmFaultError::NoArea));
    process.unmap(range).unwrap();
    assert_eq!(process.read(at(range, 0), &mut [0; 4]), refused(0, MmFaultError::NoArea));
    drop((child, process));
    bench.assert_clean();
}
