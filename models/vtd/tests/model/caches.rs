//! Each cache keeps what it has until an invalidation covers it, and no longer.

use model_vtd::{Config, Policy, clause};
use portcullis_types::Access;

use crate::harness::*;

const CONTEXT: u64 = CONTEXTS + 16 * 8;

/// Page 0x1000 goes elsewhere after it was used: whether these invalidations make that known.
fn forgets_page(descriptors: &[&[u64]]) -> bool {
    let machine = Machine::legacy(plain());
    assert_eq!(machine.read(0x1000), Got::At(0x80_0000));
    machine.set(SS1 + 8, &[0x90_0003]);
    assert_eq!(machine.read(0x1000), Got::At(0x80_0000), "stale");
    descriptors.iter().for_each(|words| machine.invalidate(words));
    machine.read(0x1000) == Got::At(0x90_0000)
}

#[test]
fn a_translation_stays_until_its_domain_and_address_are_invalidated() {
    // Global; domain 5; page 0x1000 of domain 5, leaf only; two pages from 0; 2 MiB.
    for words in [[0x12, 0], [0x5_0022, 0], [0x5_0032, 0x1040], [0x5_0032, 1], [0x5_0032, 9]] {
        assert!(forgets_page(&[&words]), "{words:x?}");
    }
    // Another domain; another page of the domain; a context.
    for words in [[0x6_0022, 0], [0x5_0032, 0x2000], [0x6_0032, 0x1000], [0x11, 0]] {
        assert!(!forgets_page(&[&words]), "{words:x?}");
    }
}

#[test]
fn a_table_that_was_walked_through_stays_unless_the_hint_says_otherwise() {
    for (words, gone) in [([0x5_0032, 0x1040], false), ([0x5_0032, 0x1000], true), ([0x5_0022, 0], true)] {
        let machine = Machine::legacy(plain());
        assert_eq!(machine.read(0x1000), Got::At(0x80_0000));
        // Another page table, and the old one is cleared for somebody else.
        machine.set(0x12_0008, &[0x90_0003]);
        machine.set(SS2, &[0x12_0003]);
        machine.set(SS1 + 8, &[0xa0_0003]);
        machine.invalidate(&words);
        let expected = if gone { 0x90_0000 } else { 0xa0_0000 };
        assert_eq!(machine.read(0x1000), Got::At(expected), "{words:x?}");
    }
}

#[test]
fn a_page_of_2_mib_is_forgotten_by_any_address_in_it() {
    let machine = Machine::legacy(plain());
    machine.set(SS2 + 8, &[0x4000_0083]);
    assert_eq!(machine.read(0x20_0000), Got::At(0x4000_0000));
    machine.set(SS2 + 8, &[0x5000_0083]);
    machine.invalidate(&[0x5_0032, 0x3f_f000]);
    assert_eq!(machine.read(0x20_0000), Got::At(0x5000_0000));
}

#[test]
fn a_context_stays_until_it_is_invalidated_by_what_it_is_tagged_with() {
    for (words, gone) in [
        ([0x11, 0], true),
        // Domain 5, domain 6.
        ([0x5_0021, 0], true),
        ([0x6_0021, 0], false),
        // Device 8 of domain 5; of domain 6; device 9; 8 masked by one bit as 0xc; by three as 0xf.
        ([0x8_0005_0031, 0], true),
        ([0x8_0006_0031, 0], false),
        ([0x9_0005_0031, 0], false),
        ([0x1_000c_0005_0031, 0], true),
        ([0x3_000f_0005_0031, 0], true),
        ([0x1_000d_0005_0031, 0], false),
    ] {
        let machine = Machine::legacy(plain());
        assert_eq!(machine.read(0x1000), Got::At(0x80_0000));
        // Device 8 goes to domain 7 and other tables.
        machine.set(0x13_0000, &[0x13_1003]);
        machine.set(0x13_1000, &[0x13_2003]);
        machine.set(0x13_2000, &[0x13_3003]);
        machine.set(0x13_3008, &[0x90_0003]);
        machine.set(CONTEXT, &[0x13_0005, 0x702]);
        machine.invalidate(&words);
        // The translation of the old domain is tagged with the source: it still serves.
        assert_eq!(machine.read(0x1000), Got::At(0x80_0000));
        machine.invalidate(&[0x12, 0]);
        let expected = if gone { 0x90_0000 } else { 0x80_0000 };
        assert_eq!(machine.read(0x1000), Got::At(expected), "{words:x?}");
    }
}

#[test]
fn what_is_not_present_is_cached_only_in_caching_mode() {
    for caching_mode in [false, true] {
        let machine = Machine::legacy(Config { caching_mode, ..plain() });
        assert_eq!(machine.read(0x2000), Got::Abort);
        machine.set(SS1 + 16, &[0x90_0003]);
        let stale = machine.read(0x2000);
        assert_eq!(stale, if caching_mode { Got::Abort } else { Got::At(0x90_0000) });
        machine.invalidate(&[0x5_0032, 0x2000]);
        assert_eq!(machine.read(0x2000), Got::At(0x90_0000));
    }
}

#[test]
fn in_caching_mode_an_absent_context_is_cached_under_domain_0() {
    let machine = Machine::legacy(Config { caching_mode: true, ..plain() });
    machine.set(CONTEXT, &[0, 0]);
    assert_eq!(machine.read(0x1000), Got::Abort);
    machine.set(CONTEXT, &[SS4 | 5, 0x502]);
    machine.invalidate(&[0x8_0005_0031, 0]);
    assert_eq!(machine.read(0x1000), Got::Abort, "its own domain is not the tag");
    machine.invalidate(&[0x8_0000_0031, 0]);
    assert_eq!(machine.read(0x1000), Got::At(0x80_0000));
}

#[test]
fn write_buffers_hide_what_was_not_flushed() {
    let machine = Machine::legacy(Config { write_buffers: true, scalable: None, ..plain() });
    assert_eq!(machine.read(0x2000), Got::Abort);
    machine.set(SS1 + 16, &[0x90_0003]);
    assert_eq!(machine.read(0x2000), Got::Abort, "still in the buffers");
    machine.write32(0x18, machine.read32(0x1c) | 1 << 27);
    machine.ticks();
    assert_eq!(machine.read32(0x1c) >> 27 & 1, 0);
    assert_eq!(machine.read(0x2000), Got::At(0x90_0000));
}

#[test]
fn two_tables_under_one_domain_are_against_the_rules() {
    let machine = Machine::legacy(plain());
    assert_eq!(machine.read(0x1000), Got::At(0x80_0000));
    machine.set(CONTEXT + 16, &[0x13_0005, 0x502]);
    let _ = machine.access_by(9, None, 0x1000, Access::READ);
    assert_eq!(machine.broken(), [clause::DOMAIN_SHARED]);
}

#[test]
fn a_setting_of_the_root_that_invalidates_does_and_another_does_not() {
    for root_invalidates in [false, true] {
        let machine = Machine::legacy(Config { root_invalidates, ..plain() });
        assert_eq!(machine.read(0x1000), Got::At(0x80_0000));
        machine.set(SS1 + 8, &[0x90_0003]);
        machine.command(30, true);
        let expected = if root_invalidates { 0x90_0000 } else { 0x80_0000 };
        assert_eq!(machine.read(0x1000), Got::At(expected));
    }
}

#[test]
fn a_hostile_policy_gives_the_same_answers_where_the_rules_are_kept() {
    let machine = Machine::legacy(Config { policy: Policy::hostile(), ..Config::default() });
    for n in 0..200u64 {
        let page = 2 + n % 400;
        machine.set(SS1 + 8 * page, &[(n << 12) + 0x100_0003]);
        machine.invalidate(&[0x5_0032, page << 12]);
        assert_eq!(machine.write(page << 12), Got::At((n << 12) + 0x100_0000));
        machine.set(SS1 + 8 * page, &[0]);
        machine.invalidate(&[0x5_0032, page << 12 | 0x40]);
        assert_eq!(machine.read(page << 12), Got::Abort);
        assert_eq!(machine.read32(0x34) & 0xf0, 0);
    }
    assert_eq!(machine.notes(), []);
}
