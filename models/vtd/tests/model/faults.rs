//! Legacy mode: each fault reason by a table that is wrong in one place, and how faults are recorded.

use model_bus::{Mmio, Width};
use model_vtd::{Config, Depths, clause};

use crate::harness::*;

const CONTEXT: u64 = CONTEXTS + 16 * 8;

/// A machine whose word at `at` is `word`, and the reason that a read and a write of 0x1000 meet.
fn with(at: u64, word: u64) -> (Option<u64>, Option<u64>) {
    let machine = Machine::legacy(plain());
    machine.set(at, &[word]);
    assert_eq!((machine.read(0x1000), machine.fault().is_some()), (Got::Abort, true), "{at:#x} {word:#x}");
    assert_eq!(machine.read(0x1000), Got::Abort);
    let read = machine.reason();
    assert_eq!(machine.write(0x1000), Got::Abort);
    (read, machine.reason())
}

fn both(reason: u64) -> (Option<u64>, Option<u64>) {
    (Some(reason), Some(reason))
}

#[test]
fn an_access_goes_where_the_tables_say() {
    let machine = Machine::legacy(plain());
    assert_eq!(machine.read(0x1010), Got::At(0x80_0010));
    assert_eq!(machine.write(0x1ff8), Got::At(0x80_0ff8));
    assert_eq!(machine.fault(), None);
    assert_eq!(machine.notes(), []);
}

#[test]
fn a_large_page_is_one_translation() {
    let machine = Machine::legacy(plain());
    machine.set(SS2 + 8, &[0x4000_0083]);
    machine.set(SS3 + 8, &[0x8000_0083]);
    assert_eq!(machine.read(0x21_2345 & !7), Got::At(0x4001_2340));
    assert_eq!(machine.read(0x4123_4560), Got::At(0x8123_4560));
    assert_eq!(machine.read(0x4000_0000), Got::At(0x8000_0000));
    assert_eq!(machine.unit.cached_translations(), 2);
}

#[test]
fn tables_may_have_three_or_five_levels() {
    let machine = Machine::legacy(plain());
    machine.set(CONTEXT, &[SS3 | 5, 0x501]);
    assert_eq!(machine.read(0x1000), Got::At(0x80_0000));
    let machine = Machine::legacy(plain());
    machine.set(0x11_0000, &[SS4 | 3]);
    machine.set(CONTEXT, &[0x11_0005, 0x503]);
    assert_eq!(machine.read(0x1000), Got::At(0x80_0000));
}

#[test]
fn entries_that_are_not_present_are_reasons_1_and_2() {
    assert_eq!(with(ROOT, 0), both(1));
    assert_eq!(with(CONTEXT, 0), both(2));
}

#[test]
fn a_context_that_the_part_cannot_do_is_reason_3() {
    // AW 4 and 0; TT 11b.
    for (at, word) in [(CONTEXT + 8, 0x504), (CONTEXT + 8, 0x500), (CONTEXT, SS4 | 0xd)] {
        assert_eq!(with(at, word), both(3));
    }
    // AW of five levels, where there are four.
    let depths = Depths { three: false, four: true, five: false };
    let machine = Machine::legacy(Config { depths, ..plain() });
    machine.set(CONTEXT + 8, &[0x503]);
    assert_eq!((machine.read(0x1000), machine.reason()), (Got::Abort, Some(3)));
    // The root of the second stage cannot be read.
    let machine = Machine::legacy(plain());
    machine.ram.hole(SS4..=SS4 + 0xfff);
    assert_eq!((machine.read(0x1000), machine.reason()), (Got::Abort, Some(3)));
}

#[test]
fn an_address_beyond_the_tables_is_reason_4() {
    let machine = Machine::legacy(plain());
    assert_eq!((machine.read(1 << 48), machine.reason()), (Got::Abort, Some(4)));
    // Pass-through: beyond the host's.
    machine.set(CONTEXT, &[0x9, 0x503]);
    machine.invalidate(&[0x11]);
    machine.invalidate(&[0x12]);
    assert_eq!(machine.read(0x5000), Got::At(0x5000));
    assert_eq!((machine.read(1 << 46), machine.reason()), (Got::Abort, Some(4)));
}

#[test]
fn a_lack_of_permission_is_reason_5_or_6() {
    // A whole walk's permissions are those of all its entries.
    for at in [SS4, SS3, SS2, SS1 + 8] {
        let machine = Machine::legacy(plain());
        let entry = machine.get(at);
        machine.set(at, &[entry & !2]);
        assert_eq!(machine.read(0x1000), Got::At(0x80_0000));
        assert_eq!((machine.write(0x1000), machine.reason()), (Got::Abort, Some(5)));
        let machine = Machine::legacy(plain());
        machine.set(at, &[entry & !1]);
        assert_eq!(machine.write(0x1000), Got::At(0x80_0000));
        assert_eq!((machine.read(0x1000), machine.reason()), (Got::Abort, Some(6)));
        assert_eq!(with(at, entry & !3), (Some(6), Some(5)));
    }
}

#[test]
fn a_table_that_cannot_be_read_is_reason_7_8_or_9() {
    for (at, reason) in [(SS3, 7), (SS2, 7), (SS1, 7), (ROOT, 8), (CONTEXTS, 9)] {
        let machine = Machine::legacy(plain());
        machine.ram.hole(at..=at + 0xfff);
        assert_eq!((machine.read(0x1000), machine.reason()), (Got::Abort, Some(reason)));
    }
}

#[test]
fn reserved_bits_are_reason_10_11_or_12() {
    for word in [CONTEXTS | 3, CONTEXTS | 1 | 1 << 46] {
        assert_eq!(with(ROOT, word), both(0xa));
    }
    assert_eq!(with(ROOT + 8, 1), both(0xa));
    for (at, word) in [
        (CONTEXT, SS4 | 0x15),
        (CONTEXT, SS4 | 5 | 1 << 50),
        (CONTEXT + 8, 0x582),
        (CONTEXT + 8, 0x502 | 1 << 24),
    ] {
        assert_eq!(with(at, word), both(0xb));
    }
    for (at, word) in [
        (SS4, SS3 | 0x83),
        (SS4, SS3 | 3 | 1 << 46),
        (SS4, SS3 | 3 | 1 << 62),
        (SS3, SS2 | 0x803),
        (SS3, 0x1083),
        (SS2, 0x1083),
    ] {
        assert_eq!(with(at, word), both(0xc));
    }
    // Snoop, where there is no snoop control.
    let machine = Machine::legacy(Config { snoop_control: false, ..plain() });
    machine.set(SS1 + 8, &[0x80_0803]);
    assert_eq!((machine.read(0x1000), machine.reason()), (Got::Abort, Some(0xc)));
    // Large pages, where there are none.
    let machine = Machine::legacy(Config { pages_2m: false, pages_1g: false, ..plain() });
    machine.set(SS2, &[0x83]);
    assert_eq!((machine.read(0x1000), machine.reason()), (Got::Abort, Some(0xc)));
}

#[test]
fn a_page_at_the_interrupt_range_is_reason_14_and_against_the_rules() {
    let machine = Machine::legacy(plain());
    machine.set(SS1 + 8, &[0xfee0_0003]);
    assert_eq!((machine.write(0x1000), machine.reason()), (Got::Abort, Some(0xe)));
    assert_eq!(machine.broken(), [clause::INTERRUPT_RANGE]);
}

#[test]
fn a_request_to_the_interrupt_range_that_is_no_message_is_reason_29h() {
    let machine = Machine::legacy(plain());
    assert_eq!((machine.read(0xfee0_0000), machine.reason()), (Got::Abort, Some(0x29)));
    assert_eq!((machine.write(0xfee0_0000), machine.reason()), (Got::Abort, Some(0x29)));
}

#[test]
fn a_pasid_in_legacy_mode_is_reason_31h() {
    let machine = Machine::legacy(plain());
    assert_eq!(machine.read_in(1, 0x1000), Got::Abort);
    // F, read, PASID 1, reason, PP, source.
    assert_eq!(machine.fault(), Some([0x1000, 0xc000_0131_8000_0008]));
}

#[test]
fn a_record_says_who_where_and_what() {
    let machine = Machine::legacy(plain());
    assert_eq!(machine.read(0x5678), Got::Abort);
    assert_eq!(machine.fault(), Some([0x5000, 0xc000_0006_0000_0008]));
    assert_eq!(machine.write(0x5678), Got::Abort);
    assert_eq!(machine.fault(), Some([0x5000, 0x8000_0005_0000_0008]));
}

#[test]
fn fpd_silences_what_is_qualified_and_nothing_else() {
    let machine = Machine::legacy(plain());
    machine.set(CONTEXT, &[SS4 | 7]);
    assert_eq!((machine.read(0x5000), machine.fault()), (Got::Abort, None));
    // Even of an entry that is not present.
    machine.set(CONTEXT, &[2]);
    machine.invalidate(&[0x11]);
    machine.invalidate(&[0x12]);
    assert_eq!((machine.read(0x1000), machine.fault()), (Got::Abort, None));
    machine.set(ROOT, &[0]);
    assert_eq!((machine.read(0x1000), machine.reason()), (Got::Abort, Some(1)));
}

#[test]
fn records_are_a_ring_that_overflows() {
    let machine = Machine::legacy(Config { fault_records: 2, ..plain() });
    for _ in 0..2 {
        assert_eq!(machine.read(0x5000), Got::Abort);
    }
    assert_eq!(machine.read32(0x34), 2);
    assert_eq!(machine.read(0x6000), Got::Abort);
    assert_eq!(machine.read32(0x34), 3, "PFO and PPF");
    // The first is cleared: still nothing is recorded.
    machine.write32(FRCD + 12, 1 << 31);
    assert_eq!(machine.read(0x7000), Got::Abort);
    assert_eq!(machine.read64(FRCD) & !0xfff, 0x5000);
    let counters = machine.unit.counters();
    assert_eq!((counters.faults_recorded, counters.faults_lost), (2, 2));
    assert_eq!(machine.unit.faults_lost(), 2);
    machine.write32(FRCD + 28, 1 << 31);
    machine.write32(0x34, 1);
    assert_eq!(machine.read32(0x34), 0);
    assert_eq!(machine.read(0x8000), Got::Abort);
    assert_eq!(machine.fault(), Some([0x8000, 0xc000_0006_0000_0008]));
}

#[test]
fn a_fault_event_comes_once_until_all_is_serviced_and_waits_while_masked() {
    let machine = Machine::legacy(plain());
    machine.write32(0x3c, 0x31);
    machine.write32(0x40, 0xfee0_3000);
    assert_eq!(machine.read(0x5000), Got::Abort);
    assert_eq!(machine.read32(0x38), 0xc000_0000, "masked, pending");
    machine.write32(0x38, 0);
    machine.write32(0x38, 0);
    assert_eq!(machine.read(0x5000), Got::Abort);
    let interrupts = machine.ears.interrupts.lock().unwrap().clone();
    assert_eq!(interrupts.len(), 1);
    assert_eq!((interrupts[0].vector, interrupts[0].destination, interrupts[0].source), (0x31, 3, None));
    machine.write32(FRCD + 12, 1 << 31);
    machine.write32(FRCD + 28, 1 << 31);
    assert_eq!(machine.read(0x5000), Got::Abort);
    assert_eq!(machine.ears.interrupts.lock().unwrap().len(), 2);
    // Masked and then serviced: nothing is sent.
    machine.write32(FRCD + 16 * 2 + 12, 1 << 31);
    machine.write32(0x38, 1 << 31);
    assert_eq!(machine.read(0x5000), Got::Abort);
    machine.write32(FRCD + 16 * 3 + 12, 1 << 31);
    assert_eq!(machine.read32(0x38), 1 << 31);
    machine.write32(0x38, 0);
    assert_eq!(machine.ears.interrupts.lock().unwrap().len(), 2);
}

#[test]
fn an_odd_width_moves_nothing_and_is_noted() {
    let machine = Machine::legacy(plain());
    machine.unit.write(0x3c, Width::Bits16, 7);
    assert_eq!(machine.read32(0x3c), 0);
    assert_eq!(machine.broken(), [clause::REGISTER_WIDTH]);
}
