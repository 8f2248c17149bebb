//! Registers, the tables behind them, and the chip's side.

use model_bus::{Mmio, Width};
use model_ioda2::{Policy, Unit, clause};

use crate::harness::{Machine, PELTV, RTT, TABLE, TVE, TVT};

#[test]
fn registers_have_64_bits_and_nothing_less() {
    let machine = Machine::bare(Policy::stale());
    assert_eq!(machine.load(0x800), 0x0000_00a3_0000_0005);
    assert_eq!(machine.phb.read(0x800, Width::Bits32), 0xffff_ffff);
    machine.phb.write(0x160, Width::Bits32, 1);
    machine.phb.write(0x164, Width::Bits64, 1);
    assert_eq!(machine.load(0x160), 0);
    assert_eq!(machine.clauses(), [clause::REGISTER_WIDTH; 3]);
}

#[test]
fn what_is_not_there_or_only_read_is_noted() {
    let machine = Machine::bare(Policy::stale());
    assert_eq!(machine.load(0x230), 0);
    machine.store(0x230, 1);
    assert_eq!(machine.clauses(), [clause::UNKNOWN_REGISTER; 2]);
    machine.store(0x800, 1);
    assert_eq!(machine.clauses(), [clause::READ_ONLY]);
    assert_eq!(machine.load(0x800), 0x0000_00a3_0000_0005);
}

#[test]
fn bars_keep_aligned_addresses() {
    let machine = Machine::bare(Policy::stale());
    machine.store(0x168, RTT | 1 << 63);
    machine.store(0x188, PELTV | 1 << 63);
    assert_eq!(machine.clauses(), [] as [&str; 0]);
    machine.store(0x168, 1 << 63 | 0x3_1000);
    assert_eq!(machine.load(0x168), 0x8000_0000_0002_0000);
    assert_eq!(machine.clauses(), [clause::BAR_ALIGNMENT]);
}

#[test]
fn every_table_is_reached_with_auto_increment_and_without() {
    let machine = Machine::bare(Policy::stale());
    // Those that keep whole words: number and size.
    for (table, size) in [(1, 8), (3, 32), (4, 32), (5, 64), (6, 8), (9, 512), (10, 64), (16, 16), (17, 256)]
    {
        let select = |index: u64| 1 << 63 | table << 48 | index;
        let values: Vec<u64> = (0..size).map(|index| table << 32 | index).collect();
        machine.ioda(select(0), &values);
        assert_eq!(machine.load(0x220), select(0), "wrapped");
        let read: Vec<u64> = values.iter().map(|_| machine.load(0x228)).collect();
        assert_eq!(read, values);
        machine.store(0x220, table << 48 | 3);
        assert_eq!((machine.load(0x228), machine.load(0x228)), (values[3], values[3]));
    }
    // LSIs keep server, priority and node.
    machine.ioda(1 << 63 | 2 << 48, &[u64::MAX]);
    machine.store(0x220, 2 << 48);
    assert_eq!(machine.load(0x228), 0x00ff_ffff_0000_00ff);
    assert_eq!(machine.clauses(), [] as [&str; 0]);
    assert_eq!(machine.ioda_load(12 << 48), 0);
    assert_eq!(machine.clauses(), [clause::IODA_TABLE]);
}

#[test]
fn the_upper_bits_of_m64_are_those_above_the_bars() {
    let machine = Machine::bare(Policy::stale());
    machine.store(0x1f0, u64::MAX);
    assert_eq!(machine.load(0x1f0), 0xfffc_0000_0000_0000);
}

#[test]
fn masks_are_changed_by_and_and_or() {
    let machine = Machine::bare(Policy::stale());
    assert_eq!(machine.load(0xc18), u64::MAX);
    machine.store(0xc20, 0xff);
    machine.store(0xc28, 0xf00);
    assert_eq!(machine.load(0xc18), 0xfff);
    machine.store(0xc10, 0xf0);
    machine.store(0xc08, !0x30);
    assert_eq!(machine.load(0xc00), 0xc0);
}

#[test]
fn a_dma_read_sync_completes_when_nothing_is_under_way() {
    let machine = Machine::new();
    assert_eq!(machine.load(0x200), 0);
    machine.store(0x200, 1 << 63);
    assert_eq!(machine.load(0x200), 1 << 62);
    machine.store(0x200, 0);
    assert_eq!(machine.load(0x200), 0);
}

#[test]
fn the_link_is_up_unless_the_slot_is_held_in_reset() {
    let machine = Machine::bare(Policy::stale());
    assert_eq!(machine.load(0x640), 1 << 44 | 1 << 40);
    machine.store(0x808, 0xd000_0000_0000_0000);
    assert_eq!(machine.load(0x640), 0);
}

#[test]
fn what_firmware_clears_at_first_reads_as_no_error() {
    let machine = Machine::bare(Policy::stale());
    for status in [0x410, 0x548, 0x560, 0x680, 0x6a8, 0xc80, 0xd00, 0xd80, 0xe00] {
        machine.store(status, u64::MAX);
        assert_eq!(machine.load(status), 0, "{status:#x}");
    }
    // An enable beside them is kept.
    machine.store(0x420, 0xfcc0_0000_0000_0000);
    assert_eq!(machine.load(0x420), 0xfcc0_0000_0000_0000);
}

#[test]
fn quiescing_resets_itself_if_told_to() {
    let machine = Machine::bare(Policy::stale());
    machine.store(0x888, 1 << 63);
    assert_eq!(machine.load(0x888), 1 << 63);
    machine.store(0x888, 3 << 62);
    assert_eq!(machine.load(0x888), 0);
}

#[test]
fn a_reset_from_the_chips_side_forgets_everything() {
    let machine = Machine::new();
    machine.put_be(TABLE, 0x700_0003);
    assert!(machine.read(0).is_some());
    assert_eq!(machine.read(0x1000), None);
    let pci = machine.phb.xscom(Unit::Pci);
    pci.write(0xa * 8, Width::Bits64, 1 << 63);
    assert_eq!((machine.load(0x800), machine.read(0)), (u64::MAX, None));
    machine.store(0x160, 1);
    assert_eq!(machine.clauses(), [clause::FENCED]);
    pci.write(0xa * 8, Width::Bits64, 0);
    assert_eq!(machine.load(0x168), 0);
    assert_eq!(machine.ioda_load(TVT | 2), 0);
    assert!(!machine.phb.is_dma_frozen(1));
    assert_eq!(machine.phb.cached_entries(), 0);
    assert_eq!(machine.phb.counters().granted, 1, "counts stay");
}

#[test]
fn a_fenced_bridge_is_reached_by_spci_only() {
    let machine = Machine::new();
    machine.put_be(TABLE, 0x700_0003);
    let (nest, spci) = (machine.phb.xscom(Unit::Nest), machine.phb.xscom(Unit::Spci));
    // As skiboot fences a bridge.
    nest.write(2 * 8, Width::Bits64, 0x0000_00f0_0000_0000);
    assert_ne!(nest.read(0, Width::Bits64) & 1 << 47, 0, "bit 16");
    assert_eq!((machine.load(0x168), machine.read(0)), (u64::MAX, None));
    assert!(!machine.phb.admits(portcullis_types::Pa::new(0x1000), false), "no CPU reaches a device");
    spci.write(0, Width::Bits64, 0x168);
    assert_eq!(spci.read(2 * 8, Width::Bits64), RTT | 1 << 63);
    spci.write(0, Width::Bits64, 0xc10);
    spci.write(2 * 8, Width::Bits64, 0x10);
    // Cleared: everything is as it was.
    let errors = nest.read(0, Width::Bits64);
    nest.write(8, Width::Bits64, !errors);
    assert_eq!((machine.load(0xc00), machine.read(0)), (0x10, Some(0x700_0000)));
}

#[test]
fn the_chips_registers_keep_what_their_fields_have() {
    let machine = Machine::bare(Policy::stale());
    let nest = machine.phb.xscom(Unit::Nest);
    let kept = |register: u64| {
        nest.write(register * 8, Width::Bits64, u64::MAX);
        nest.read(register * 8, Width::Bits64)
    };
    assert_eq!(kept(0x40), 0xffff_ffff_c000_0000);
    assert_eq!(kept(0x42), 0xffff_ffff_fc00_0000);
    assert_eq!(kept(0x1a), 0xffff_e000_0000_0000);
    assert_eq!(kept(0x1f), 0xff00_0000_0000_0000);
    assert_eq!(machine.clauses(), [] as [&str; 0]);
    assert_eq!(kept(0x45), 0xf800_0000_0000_0000);
    let _live = kept(0x43);
    assert_eq!(machine.clauses(), [clause::XSCOM_BAR]);
    assert_eq!(nest.read(8, Width::Bits32), 0xffff_ffff);
    assert_eq!(nest.read(0x46 * 8, Width::Bits64), 0);
}

/// The order and the words of skiboot's phb3_init_hw, as far as they are of the bridge itself.
#[test]
fn firmwares_own_bring_up_is_taken_without_a_word() {
    let machine = Machine::bare(Policy::stale());
    let scom = |unit| machine.phb.xscom(unit);
    let asb = |offset: u64, value: u64| {
        scom(Unit::Spci).write(0, Width::Bits64, offset);
        scom(Unit::Spci).write(2 * 8, Width::Bits64, value);
    };
    scom(Unit::Pci).write(0xa * 8, Width::Bits64, 0);
    for (offset, value) in [
        (0x820, 0x0020_0001_0002_0001),
        (0x828, 0x0020_0020_0001_0001),
        (0x818, 0x0f00_0000_0000_0000),
        (0x858, 0xffff_ffff_0000_0000),
        (0x868, 0xffff_ffff_0000_0000),
    ] {
        asb(offset, value);
    }
    let system = machine.load(0x600);
    machine.store(0x600, system & !(1 << 48));
    machine.store(0x808, 0xd000_0000_0000_0000);
    machine.put(RTT, &[0, 1].repeat(0x1_0000));
    for (offset, value) in [
        (0x100, 0xff << 51),
        (0x168, RTT | 1 << 63),
        (0x188, PELTV | 1 << 63),
        (0x150, 0x8_0800 | 1 << 63),
        (0x158, 0),
        (0x190, 0x3ff8_0000_0000),
        (0x198, 0xffff_ffff_8000_0000),
        (0x1a0, 0x8000_0000),
        (0x1a8, 0x4_2000 | 1 << 63),
        (0x1f0, 0),
        (0x1f8, 0x0004_0000_0000_0000),
        (0x160, 1 << 61),
        (0x160, 0x0082_8000_0000_0000),
    ] {
        machine.store(offset, value);
    }
    for (table, size) in [(2, 8), (6, 8), (9, 512), (16, 16), (17, 256), (4, 32), (20, 4)] {
        machine.ioda(1 << 63 | table << 48, &vec![0; size]);
    }
    for invalidate in [0x208, 0x2a0, 0x210] {
        machine.store(invalidate, 1 << 63);
    }
    for pe in 0..256 {
        for table in [7, 8] {
            machine.store(0x220, table << 48 | pe);
            assert_eq!(machine.load(0x228), 0);
            machine.store(0x228, 0);
        }
    }
    for (offset, value) in [
        (0xc18, u64::MAX),
        (0xc80, u64::MAX),
        (0xc88, 0),
        (0xc98, u64::MAX),
        (0xca8, 0x0000_0000_8080_0000),
        (0xcb0, 0xffff_ffdd_0c00_ffc0),
        (0xd80, u64::MAX),
        (0xda8, 0xc000_03a9_0100_6000),
        (0xe00, u64::MAX),
        (0xe28, 0x0000_6000_0000_0060),
        (0xc00, 0),
        (0xc30, u64::MAX),
        (0xc38, u64::MAX),
        (0xc40, 0),
        (0x810, 0xf3a8_0edb_0000_0000),
    ] {
        machine.store(offset, value);
    }
    assert_eq!(machine.load(0x2c8), 0, "no errors");
    machine.store(0x218, 0xf000_0000_0000_0000);
    machine.ioda(TVT | 2, &[TVE]);
    machine.put_be(TABLE, 0x700_0003);
    machine.kill(1 << 62 | 1);
    assert_eq!(machine.read(0), Some(0x700_0000));
    assert_eq!(machine.clauses(), [] as [&str; 0]);
}
