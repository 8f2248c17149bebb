//! What sharing a process's table asks of the first stage: pages of every size, five levels, flags that race, what is forgotten and kept, and the end of a PASID.

use core::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;

use model_bus::{
    BusError, Fabric, InvalidationDone, PageRequest, SparseMemory, TranslationAnswer, TranslationRequest,
    Translator, Write,
};
use model_vtd::{Config, Memory};
use portcullis_types::{AccessKind, Iova, Pa, Pasid, SourceId};

use crate::ats::{NOTHING, ask, given, page};
use crate::harness::*;

const FS5: u64 = 0x20_4000;
/// Another table of level 1.
const FS1B: u64 = 0x20_5000;

#[test]
fn pages_of_every_size_and_five_levels_lie_where_their_entries_say() {
    let machine = Machine::scalable(plain());
    machine.set(FS2 + 8, &[0x4020_0087]);
    machine.set(FS3 + 8, &[0x1_8000_0087]);
    assert_eq!(machine.read_in(1, 0x21_2340), Got::At(0x4021_2340));
    assert_eq!(machine.write_in(1, 0x5234_5670), Got::At(0x1_9234_5670));
    assert_eq!([machine.get(FS2 + 8), machine.get(FS3 + 8)], [0x4020_00a7, 0x1_8000_00e7]);
    assert_eq!(given(ask(&machine, Some(1), 0x21_2000, true)), Some((0x4020_0000, 21, true, false)));
    // FSPM=01b; a process has the lower half.
    machine.set(FS5 + 8 * 255, &[FS4 | 7]);
    machine.pasid(4, [0x41, 0x80_0006, FS5 | 4]);
    assert_eq!(machine.read_in(4, 255 << 48 | 0x3000), Got::At(0x1000));
    assert_eq!((machine.read_in(4, 0x3000), machine.reason()), (Got::Abort, Some(0x71)));
    assert_eq!((machine.read_in(4, 1 << 56), machine.reason()), (Got::Abort, Some(0x80)));
}

#[test]
fn execute_disable_keeps_nobody_from_reading_or_writing() {
    let machine = Machine::scalable(plain());
    for at in [FS4, FS3, FS2, FS1 + 24] {
        machine.set(at, &[machine.get(at) | 1 << 63]);
    }
    assert_eq!([machine.read_in(1, 0x3000), machine.write_in(1, 0x3008)], [Got::At(0x1000), Got::At(0x1008)]);
}

#[test]
fn a_request_to_execute_is_refused_and_a_page_request_may_say_it() {
    let machine = Machine::scalable(plain());
    let execute = |machine: &Machine| {
        machine.unit.translate(&TranslationRequest {
            source: SourceId(DEVICE.into()),
            pasid: Pasid::new(1),
            iova: Iova::new(0x3000),
            no_write: true,
            execute: true,
            privileged: false,
        })
    };
    assert_eq!((given(execute(&machine)), machine.fault()), (NOTHING, None));
    let fetch = portcullis_types::Access { kind: AccessKind::Execute, privileged: false };
    assert_eq!((machine.access(Some(1), 0x3000, fetch), machine.reason()), (Got::Abort, Some(0x5c)));
    assert_eq!(machine.read_in(1, 0x3000), Got::At(0x1000));
    assert_eq!(
        (machine.access(Some(1), 0x3000, fetch), machine.reason()),
        (Got::Abort, Some(0x5c)),
        "cached"
    );
    machine.write64(0xd0, REQUESTS);
    machine.unit.request_page(&PageRequest {
        source: SourceId(DEVICE.into()),
        pasid: Pasid::new(1),
        privileged: true,
        execute: true,
        iova: Iova::new(0x7000),
        group: 1,
        last: true,
        read: true,
        write: false,
    });
    // EXR is bit 52, PR bit 53.
    assert_eq!([machine.get(REQUESTS), machine.get(REQUESTS + 8)], [0x30_0001_0008_0101, 0x700d]);
    // From major version 8 on it is a fault of the mode.
    let machine = Machine::scalable(Config { version: (8, 0), ..plain() });
    assert_eq!(execute(&machine), TranslationAnswer::UnsupportedRequest);
    assert_eq!(machine.reason(), Some(0x34));
}

#[test]
fn a_device_tlb_learns_of_a_supervisors_page_what_sre_and_wpe_let_it() {
    let asks = |word: u64, privileged| {
        let machine = Machine::scalable(plain());
        machine.set(FS1 + 24, &[0x1001]);
        machine.pasid(1, [0x41, 0x80_0006, FS4 | word]);
        let answer = machine.unit.translate(&TranslationRequest {
            source: SourceId(DEVICE.into()),
            pasid: Pasid::new(1),
            iova: Iova::new(0x3000),
            no_write: false,
            execute: false,
            privileged,
        });
        assert_eq!(machine.fault(), None, "the device's to see");
        given(answer)
    };
    assert_eq!(asks(1, true), Some((0x1000, 12, true, true)));
    assert_eq!(asks(0x11, true), Some((0x1000, 12, true, false)), "WPE");
    assert_eq!(asks(0, true), NOTHING, "no SRE");
    assert_eq!(asks(1, false), NOTHING, "a user");
}

/// Memory in which every locked update fails, or is beaten by somebody who stores a word first.
struct Contended {
    ram: Arc<SparseMemory>,
    beaten_by: Option<u64>,
    done: AtomicBool,
}

impl Fabric for Contended {
    fn read(&self, at: Pa, into: &mut [u8]) -> Result<(), BusError> {
        self.ram.read(at, into)
    }

    fn write(&self, write: Write<'_>) -> Result<(), BusError> {
        self.ram.write(write)
    }

    fn compare_exchange(&self, at: Pa, current: u64, new: u64) -> Result<u64, BusError> {
        let word = self.beaten_by.ok_or(BusError { at })?;
        if !self.done.swap(true, Ordering::Relaxed) {
            self.ram.put(at.get(), &[word]);
        }
        self.ram.compare_exchange(at, current, new)
    }

    fn now_ns(&self) -> u64 {
        self.ram.now_ns()
    }
}

/// All tables are accessed; the page at 0x3000, of the first stage in PASID 1, is not.
fn contended(beaten_by: Option<u64>) -> Machine {
    let ram = Arc::new(SparseMemory::new(46));
    let fabric = Contended { ram: ram.clone(), beaten_by, done: AtomicBool::new(false) };
    let machine = Machine::by_way_of(plain(), ram, Memory::uncached(Arc::new(fabric))).in_scalable_mode();
    [FS4, FS3, FS2].iter().for_each(|&at| machine.set(at, &[machine.get(at) | 0x20]));
    machine
}

#[test]
fn an_entry_that_changes_before_its_flags_are_set_is_looked_at_again_and_does_not_come_back() {
    let machine = contended(Some(0));
    assert_eq!((machine.write_in(1, 0x3000), machine.reason()), (Got::Abort, Some(0x71)));
    assert_eq!(machine.get(FS1 + 24), 0);
    let machine = contended(Some(0x9007));
    assert_eq!(machine.write_in(1, 0x3000), Got::At(0x9000));
    assert_eq!(machine.get(FS1 + 24), 0x9067);
}

#[test]
fn flags_that_cannot_be_set_have_their_reasons() {
    let machine = contended(None);
    assert_eq!((machine.read_in(1, 0x3000), machine.reason()), (Got::Abort, Some(0x91)));
    machine.pasid(0, [SS4 | 0x289, 0x80_0005, 0]);
    assert_eq!((machine.read(0x1000), machine.reason()), (Got::Abort, Some(0x7d)));
}

#[test]
fn a_flag_that_software_clears_is_set_again_only_after_an_invalidation() {
    let machine = Machine::scalable(plain());
    assert_eq!(machine.write_in(1, 0x3000), Got::At(0x1000));
    machine.set(FS1 + 24, &[0x1007]);
    assert_eq!(machine.write_in(1, 0x3000), Got::At(0x1000));
    assert_eq!(machine.get(FS1 + 24), 0x1007);
    machine.invalidate(&[0x1_0006_0036, 0x3040]);
    assert_eq!(machine.write_in(1, 0x3000), Got::At(0x1000));
    assert_eq!(machine.get(FS1 + 24), 0x1067);
}

#[test]
fn an_invalidation_of_pages_forgets_the_tables_on_the_way_unless_the_hint_says_otherwise() {
    // Of the page with and without the hint, of another page, of all of the PASID, of another.
    for (words, gone) in [
        ([0x1_0006_0036, 0x3000], true),
        ([0x1_0006_0036, 0x3040], false),
        ([0x1_0006_0036, 0x20_0000], false),
        ([0x1_0006_0026, 0], true),
        ([0x2_0006_0026, 0], false),
    ] {
        let machine = Machine::scalable(plain());
        assert_eq!(machine.read_in(1, 0x3000), Got::At(0x1000));
        machine.set(FS1 + 32, &[0x5007]);
        machine.set(FS1B + 32, &[0x9007]);
        machine.set(FS2, &[FS1B | 7]);
        machine.invalidate(&words);
        let expected = if gone { 0x9000 } else { 0x5000 };
        assert_eq!(machine.read_in(1, 0x4000), Got::At(expected), "{words:x?}");
    }
}

#[test]
fn an_address_mask_covers_its_pages_and_no_others() {
    // AM 0, 1, 2 and 9, with the hint.
    for (word, gone) in
        [(0x3040, [true, false]), (0x2041, [true, false]), (0x42, [true, false]), (0x49, [true, true])]
    {
        let machine = Machine::scalable(plain());
        machine.set(FS1 + 32, &[0x2007]);
        assert_eq!([0x3000, 0x4000].map(|at| machine.read_in(1, at)), [Got::At(0x1000), Got::At(0x2000)]);
        machine.set(FS1 + 24, &[0x8007, 0x9007]);
        machine.invalidate(&[0x1_0006_0036, word]);
        let expected = [if gone[0] { 0x8000 } else { 0x1000 }, if gone[1] { 0x9000 } else { 0x2000 }];
        assert_eq!([0x3000, 0x4000].map(|at| machine.read_in(1, at)), expected.map(Got::At), "{word:#x}");
    }
}

#[test]
fn what_was_not_present_needs_no_invalidation() {
    let machine = Machine::scalable(plain());
    assert_eq!((machine.read_in(1, 0x7000), machine.reason()), (Got::Abort, Some(0x71)));
    machine.set(FS1 + 56, &[0x5007]);
    assert_eq!(machine.read_in(1, 0x7000), Got::At(0x5000));
    // Nor in caching mode: that keeps no fault of the first stage.
    let machine = Machine::scalable(Config { caching_mode: true, ..plain() });
    assert_eq!((machine.read_in(1, 0x7000), machine.reason()), (Got::Abort, Some(0x71)));
    machine.set(FS1 + 56, &[0x5007]);
    assert_eq!(machine.read_in(1, 0x7000), Got::At(0x5000));
}

#[test]
fn a_device_tlb_invalidation_names_its_pasid_its_range_and_whether_it_is_global() {
    let machine = Machine::scalable(plain());
    // SID 8, PASID 1: a page; 8 KiB of it; all of it; what is global in it.
    for (word, first, size_lg2, global) in [
        (0x5000, 0x5000, 12, false),
        (0x4800, 0x4000, 13, false),
        (0x7fff_ffff_ffff_f800, 0, 64, false),
        (0x5001, 0x5000, 12, true),
    ] {
        machine.submit(&[0x1_0008_0008, word]);
        assert!(!machine.waited());
        let message = *machine.ears.invalidations.lock().unwrap().last().unwrap();
        assert_eq!((message.first.get(), message.size_lg2, message.global), (first, size_lg2, global));
        assert_eq!((message.source.0, message.pasid), (8, Pasid::new(1)));
        machine.unit.invalidation_done(&InvalidationDone { source: message.source, tags: 1 << message.tag });
        machine.ticks();
        assert_eq!(machine.get(STATUS), 7);
    }
}

#[test]
fn a_group_of_page_requests_has_one_answer_with_the_code_that_software_chose() {
    for code in [0, 1, 0xf] {
        let machine = Machine::scalable(plain());
        machine.write64(0xd0, REQUESTS);
        page(&machine, Some(1), 9, false);
        page(&machine, Some(1), 9, false);
        page(&machine, Some(1), 9, true);
        let last = |at: u64| machine.get(REQUESTS + 32 * at + 8) >> 2 & 1;
        assert_eq!([0, 1, 2].map(last), [0, 0, 1]);
        // PP, RC, RID 8, PASID 1; PRGI 9.
        machine.submit(&[0x1_0008_0019 | code << 12, 9 << 3]);
        machine.wait();
        let responses = machine.ears.responses.lock().unwrap().clone();
        let told: Vec<_> = responses.iter().map(|it| (it.group, u64::from(it.code), it.pasid)).collect();
        assert_eq!((told, machine.notes()), (vec![(9, code, Pasid::new(1))], vec![]));
    }
}

#[test]
fn a_pasid_that_ends_in_order_goes_quietly() {
    let machine = Machine::scalable(plain());
    machine.write64(0xd0, REQUESTS);
    assert_eq!(machine.write_in(1, 0x3000), Got::At(0x1000));
    // FPD and not P; PASID cache; IOTLB of the PASID; device TLB; a wait that drains.
    machine.pasid(1, [2, 0, 0]);
    machine.submit(&[0x1_0006_0017]);
    machine.submit(&[0x1_0006_0026]);
    machine.submit(&[0x1_0008_0008, 0x7fff_ffff_ffff_f800]);
    machine.submit(&[0xa5 | 7 << 32, STATUS]);
    machine.ticks();
    let message = machine.ears.invalidations.lock().unwrap()[0];
    machine.unit.invalidation_done(&InvalidationDone { source: message.source, tags: 1 << message.tag });
    machine.ticks();
    assert_eq!(machine.get(STATUS), 7);
    assert_eq!(machine.write_in(1, 0x3000), Got::Abort);
    assert_eq!(given(ask(&machine, Some(1), 0x3000, false)), NOTHING);
    page(&machine, Some(1), 4, true);
    let response = machine.ears.responses.lock().unwrap()[0];
    assert_eq!((response.group, response.code), (4, 1));
    assert_eq!((machine.fault(), machine.read64(0xc8), machine.notes()), (None, 0, vec![]));
}
