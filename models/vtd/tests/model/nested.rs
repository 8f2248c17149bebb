//! Nested translation: a first stage whose tables and pages lie behind a second stage.
//!
//! PASID 2 is nested in domain 5: the second stage maps the first stage's tables to themselves (a page of 2 MiB at 0x20_0000), and 0x1000 to 0x80_0000.

use model_vtd::Scalable;

use crate::ats::{ask, given, page};
use crate::harness::*;

/// SSADE, in the entry of PASID 2.
fn with_flags() -> Machine {
    let machine = Machine::scalable(plain());
    machine.pasid(2, [SS4 | 0x2c9, 0x80_0005, FS4 | 1]);
    machine
}

#[test]
fn with_second_stage_flags_a_look_at_first_stage_tables_is_a_write_to_them() {
    let machine = with_flags();
    assert_eq!(machine.read_in(2, 0x3000), Got::At(0x80_0000));
    // A and D of the tables' page; A of all on the way and of the page; D of the page by a write alone.
    assert_eq!([machine.get(SS2 + 8), machine.get(SS2)], [0x20_0383, SS1 | 0x103]);
    assert_eq!(machine.get(SS1 + 8), 0x80_0103);
    assert_eq!(machine.write_in(2, 0x3000), Got::At(0x80_0000));
    assert_eq!([machine.get(SS1 + 8), machine.get(FS1 + 24)], [0x80_0303, 0x1067]);
}

#[test]
fn a_write_to_a_page_that_is_dirty_in_the_first_stage_alone_sets_the_flag_of_the_second() {
    let machine = with_flags();
    machine.set(FS1 + 24, &[0x1067]);
    assert_eq!(machine.read_in(2, 0x3000), Got::At(0x80_0000));
    assert_eq!(machine.get(SS1 + 8), 0x80_0103);
    assert_eq!(machine.write_in(2, 0x3000), Got::At(0x80_0000));
    assert_eq!(machine.get(SS1 + 8), 0x80_0303);
}

#[test]
fn with_second_stage_flags_first_stage_tables_must_be_writable() {
    let machine = with_flags();
    machine.set(SS2 + 8, &[0x20_0081]);
    assert_eq!((machine.read_in(2, 0x3000), machine.reason()), (Got::Abort, Some(0x75)));
}

#[test]
fn a_table_below_the_first_that_the_second_stage_hides_has_a_reason_of_its_own() {
    // The table of level 1 at 0x9000 of the second stage's input, which may only be written, or is nowhere.
    for (entry, reason) in [(FS1 | 2, 0x76), (0, 0x79), (FS1 | 1, 0x77)] {
        let machine = Machine::scalable(plain());
        machine.set(FS2, &[0x9007]);
        machine.set(SS1 + 8 * 9, &[entry]);
        assert_eq!((machine.read_in(2, 0x3000), machine.reason()), (Got::Abort, Some(reason)), "{entry:#x}");
    }
    let machine = Machine::scalable(plain());
    machine.set(FS2, &[0x9007]);
    machine.set(SS1 + 8 * 9, &[FS1 | 3]);
    assert_eq!(machine.read_in(2, 0x3000), Got::At(0x80_0000));
}

#[test]
fn a_first_stage_entry_beyond_the_second_stages_input_is_reason_74h() {
    let machine = Machine::scalable(plain());
    // AW=001b: 39 bits, three levels.
    machine.pasid(2, [SS3 | 0xc5, 0x80_0007, FS4 | 1]);
    machine.set(FS1 + 24, &[1 << 39 | 7]);
    assert_eq!((machine.read_in(2, 0x3000), machine.reason()), (Got::Abort, Some(0x74)));
    machine.set(FS1 + 24, &[0x1007]);
    assert_eq!(machine.read_in(2, 0x3000), Got::At(0x80_0000));
    // So is the first table: the entry is wrong.
    machine.pasid(2, [SS3 | 0xc5, 0x80_0007, 1 << 39 | 1]);
    machine.invalidate(&[0x37]);
    machine.invalidate(&[0x12]);
    assert_eq!((machine.read_in(2, 0x3000), machine.reason()), (Got::Abort, Some(0x5b)));
}

#[test]
fn a_page_needs_both_stages_and_the_reason_says_which_is_lacking() {
    // What the first and the second stage have for the page: what a write meets, then what a read meets.
    for (first, second, write, read) in [
        (0x1005, 0x80_0003, Some(0x85), None),
        (0x1007, 0x80_0001, Some(0x85), None),
        (0x1003, 0x80_0003, Some(0x81), Some(0x81)),
        (0x1007, 0x80_0002, None, Some(0x86)),
        (0x1007, 0, Some(0x79), Some(0x79)),
        (0x1006, 0x80_0003, Some(0x71), Some(0x71)),
        (0x1007, 0xfee0_0003, Some(0x87), Some(0x87)),
    ] {
        let machine = Machine::scalable(plain());
        machine.set(FS1 + 24, &[first]);
        machine.set(SS1 + 8, &[second]);
        let write_got = machine.write_in(2, 0x3000);
        assert_eq!(
            (write_got == Got::Abort, machine.reason()),
            (write.is_some(), write),
            "{first:#x} {second:#x}"
        );
        let read_got = machine.read_in(2, 0x3000);
        assert_eq!(
            (read_got == Got::Abort, machine.reason()),
            (read.is_some(), read),
            "{first:#x} {second:#x}"
        );
    }
}

#[test]
fn the_smaller_of_the_two_pages_is_what_is_translated() {
    let machine = Machine::scalable(plain());
    // 2 MiB of the first stage over 4 KiB of the second, and the other way about; then 2 MiB over 2 MiB.
    machine.set(FS2 + 16, &[0x0087]);
    machine.set(FS1 + 32, &[0x40_5007]);
    machine.set(SS2 + 16, &[0x4020_0083]);
    machine.set(FS2 + 24, &[0x40_0087]);
    assert_eq!(given(ask(&machine, Some(2), 0x40_1000, false)), Some((0x80_0000, 12, true, true)));
    assert_eq!(given(ask(&machine, Some(2), 0x4000, false)), Some((0x4020_5000, 12, true, true)));
    assert_eq!(given(ask(&machine, Some(2), 0x61_2000, false)), Some((0x4020_0000, 21, true, true)));
    assert_eq!((machine.read_in(2, 0x40_2000), machine.reason()), (Got::Abort, Some(0x79)));
}

#[test]
fn a_nested_translation_is_forgotten_by_its_domain_its_pasid_and_any_page_of_the_second_stage() {
    for (words, gone) in [
        ([0x5_0022, 0], true),
        ([0x5_0032, 0x9000], true),
        ([0x2_0005_0026, 0], true),
        ([0x2_0005_0036, 0x3000], true),
        ([0x2_0005_0036, 0x4000], false),
        ([0x1_0005_0026, 0], false),
        ([0x6_0022, 0], false),
    ] {
        let machine = Machine::scalable(plain());
        assert_eq!(machine.read_in(2, 0x3000), Got::At(0x80_0000));
        machine.set(SS1 + 8, &[0x90_0003]);
        machine.invalidate(&words);
        let expected = if gone { 0x90_0000 } else { 0x80_0000 };
        assert_eq!(machine.read_in(2, 0x3000), Got::At(expected), "{words:x?}");
    }
}

#[test]
fn a_page_request_of_a_nested_pasid_forgets_its_domain() {
    let machine = Machine::scalable(plain());
    machine.write64(0xd0, REQUESTS);
    assert_eq!(machine.read_in(2, 0x3000), Got::At(0x80_0000));
    machine.set(SS1 + 8, &[0x90_0003]);
    page(&machine, Some(1), 1, true);
    assert_eq!(machine.read_in(2, 0x3000), Got::At(0x80_0000), "of another domain");
    page(&machine, Some(2), 1, true);
    assert_eq!(machine.read_in(2, 0x3000), Got::At(0x90_0000));
}

#[test]
fn a_part_that_does_not_nest_refuses_the_entry() {
    let mode = Scalable { nested: false, ..Scalable::full() };
    let machine = Machine::scalable(model_vtd::Config { scalable: Some(mode), ..plain() });
    assert_eq!((machine.read_in(2, 0x3000), machine.reason()), (Got::Abort, Some(0x5b)));
}
