//! TVEs: which window an address is in, and what is wrong with windows.

use model_ioda2::{Cause, Policy, clause};
use portcullis_types::Access;

use crate::harness::{Machine, TABLE, TVT};

/// Sets PE 1's windows, and kills what was cached.
fn windows(low: u64, high: u64) -> Machine {
    let machine = Machine::with(Policy::eager());
    machine.ioda(TVT | 2, &[low, high]);
    machine.kill(0x4000_0000_0000_0001);
    machine
}

fn refused(machine: &Machine, address: u64) -> Cause {
    assert_eq!(machine.read(address), None);
    let cause = machine.phb.first_error(1).unwrap().cause;
    assert!(machine.phb.is_dma_frozen(1) && machine.phb.is_mmio_frozen(1));
    machine.unfreeze();
    cause
}

#[test]
fn address_bit_59_chooses_the_window() {
    // The upper window's table is at 0x20_0000, 64K pages.
    let machine = windows(0x0000_0000_0100_0501, 0x0000_0000_0200_0505);
    machine.put_be(TABLE + 8, 0x700_0003);
    machine.put_be(0x20_0008, 0x800_0003);
    assert_eq!(machine.read(0x1234), Some(0x700_0234));
    assert_eq!(machine.read(0x0800_0000_0001_2340), Some(0x800_2340));
    assert_eq!(machine.clauses(), [] as [&str; 0]);
}

#[test]
fn a_window_of_zero_freezes_the_pe() {
    let machine = windows(0x0000_0000_0100_0501, 0);
    assert_eq!(refused(&machine, 0x0800_0000_0000_0000), Cause::TveDisabled);
}

#[test]
fn windows_that_phb3_does_not_have_freeze_the_pe() {
    let machine = Machine::with(Policy::eager());
    let words = [
        0x0000_0000_0100_a501, // six levels
        0x0000_0000_0100_0001, // no size
        0x0000_0000_0100_0502, // 8K
        0x0000_0000_0100_050a, // 2M
        0x0000_0000_0100_051f, // 2^42
        0x0000_0000_0100_8101, // five levels of 9 bits: 57 bits
        0xffff_0000_0100_0501, // a table beyond 50 bits
        0x0000_0000_0100_0500, // neither translated nor not
    ];
    for word in words {
        machine.ioda(TVT | 2, &[word]);
        assert_eq!(refused(&machine, 0), Cause::TveInvalid, "{word:#x}");
        assert_eq!(machine.clauses(), [clause::TVE_FORM]);
    }
}

#[test]
fn addresses_beyond_what_the_levels_translate_freeze_the_pe() {
    let machine = windows(0x0000_0000_0100_0501, 0x0000_0000_0100_2101);
    // One level of 13 bits over 4K: 32 MiB.
    machine.put_be(TABLE + 8 * 8191, 0x700_0003);
    assert_eq!(machine.read(0x1ff_fff8), Some(0x700_0ff8));
    assert_eq!(refused(&machine, 0x200_0000), Cause::OutOfWindow);
    assert_eq!(refused(&machine, 0x0400_0000_0000_0000), Cause::OutOfWindow, "bit 58");
    // Two levels of 9 bits over 4K: 1 GiB, in the upper window; its entry 511 is a table that has none.
    assert_eq!(refused(&machine, 0x0800_0000_3fff_f000), Cause::TcePageFault);
    assert_eq!(refused(&machine, 0x0800_0000_4000_0000), Cause::OutOfWindow);
}

#[test]
fn a_bypass_window_lets_addresses_between_its_bounds_through() {
    // 0 to 16 GiB, untranslated, above.
    let machine = windows(0, 0x0000_0000_0400_1000);
    assert_eq!(machine.read(0x0800_0000_0000_0000), Some(0));
    assert_eq!(machine.write(0x0800_0003_ffff_fff8), Some(0x3_ffff_fff8));
    assert_eq!(machine.phb.counters().bypassed, 2);
    assert_eq!(refused(&machine, 0x0800_0004_0000_0000), Cause::OutOfWindow);
    // From 4 GiB to 8 GiB.
    machine.ioda(TVT | 3, &[0x0001_0000_0200_1000]);
    assert_eq!(machine.read(0x0800_0001_0000_0000), Some(0x1_0000_0000));
    assert_eq!(refused(&machine, 0x0800_0000_ffff_f000), Cause::OutOfWindow);
    // The upper bits of both bounds: 0x2_0000_0000_0000 to 0x3_ff00_0000_0000.
    machine.ioda(TVT | 3, &[0x0000_00ff_0000_1b00]);
    assert_eq!(machine.read(0x0802_0000_0000_0000), Some(0x2_0000_0000_0000));
    assert_eq!(refused(&machine, 0x0801_ffff_ffff_f000), Cause::OutOfWindow);
}

#[test]
fn a_bypass_window_below_begins_at_4g_unless_the_part_can_do_more() {
    let machine = windows(0x0000_0000_0400_1000, 0);
    assert_eq!(machine.read(0x1_0000_0000), Some(0x1_0000_0000));
    assert_eq!(refused(&machine, 0xf000_0000), Cause::OutOfWindow);
    machine.store(0x810, 0xf3b8_0edb_0000_0000);
    assert_eq!(machine.read(0xf000_0000), Some(0xf000_0000));
}

#[test]
fn other_top_bits_are_no_address() {
    let machine = windows(0x0000_0000_0100_0501, 0x0000_0000_0400_1000);
    for address in [0x2000_0000_0000_0000, 0x8000_0000_0000_0000, 0xf800_0000_0000_0000] {
        assert_eq!(refused(&machine, address), Cause::AddressForm);
    }
    // Messages of 64 bits that are switched off.
    machine.store(0x160, 0x0080_8000_0000_0000);
    assert_eq!(refused(&machine, 0x1000_0000_0000_0000), Cause::AddressForm);
}

#[test]
fn a_pe_uses_its_own_windows_only() {
    let machine = Machine::with(Policy::eager());
    machine.put_be(TABLE, 0x700_0003);
    assert_eq!(machine.access(0x100, 0, Access::READ), Some(0x700_0000));
    assert_eq!(machine.access(0x200, 0, Access::READ), None);
    assert!(machine.phb.is_dma_frozen(2) && !machine.phb.is_dma_frozen(1));
}

#[test]
fn a_window_is_gone_as_soon_as_its_tve_is_zero() {
    let machine = Machine::new();
    machine.put_be(TABLE, 0x700_0003);
    assert!(machine.read(0).is_some());
    machine.ioda(TVT | 2, &[0]);
    assert_eq!(refused(&machine, 0), Cause::TveDisabled);
}
