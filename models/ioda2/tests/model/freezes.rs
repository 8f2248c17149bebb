//! Frozen PEs: what freezes them, what is told, what thaws them.

use model_ioda2::{Cause, FirstError, Transaction, clause};
use portcullis_types::Access;

use crate::harness::{LXIVT, Machine, PEEV, PELTV, PEST, PESTA, PESTB, TABLE, TABLE_2, TVT};

const SET: u64 = 1 << 63;

fn pest(machine: &Machine, pe: u64) -> [u64; 2] {
    [machine.ioda_load(PESTA | pe), machine.ioda_load(PESTB | pe)]
}

#[test]
fn an_error_freezes_both_ways_and_says_so() {
    let machine = Machine::new();
    assert_eq!((pest(&machine, 1), machine.ioda_load(PEEV)), ([0, 0], 0));
    assert_eq!(machine.write(0x12_3450), None);
    assert_eq!(pest(&machine, 1), [SET, SET]);
    assert_eq!(machine.ioda_load(PEEV), 0x4000_0000_0000_0000, "PE 1");
    assert_eq!(machine.ioda_load(PEEV | 3), 0);
    assert_eq!(machine.access(0x500, 0, Access::READ), None);
    assert_eq!(machine.ioda_load(PEEV | 3), 1, "PE 255");
    // Any error, any first error, any freeze.
    assert_eq!(machine.load(0x110), 0x1c_0000_0000);
    assert_eq!(machine.load(0x120), 0x1c_0000_0000);
    assert_ne!(machine.load(0x2c8), 0);
}

#[test]
fn the_pest_in_memory_has_the_particulars() {
    let machine = Machine::new();
    // A write to a page that is not there: page fault, LEM bit 41, requester 0x100.
    assert_eq!(machine.write(0x12_3450), None);
    assert_eq!(machine.get_be(PEST + 16), 0x0000_2029_0100_0000);
    assert_eq!(machine.get_be(PEST + 24), 0x12_3450);
    let first = machine.phb.first_error(1).unwrap();
    let expected = FirstError {
        cause: Cause::TcePageFault,
        transaction: Transaction::DmaWrite,
        rid: 0x100,
        address: 0x12_3450,
        data: 0,
    };
    assert_eq!(first, expected);
    machine.unfreeze();
    // A read that only writes are allowed, in the upper window.
    machine.ioda(TVT | 3, &[0x0000_0000_0120_0501]);
    machine.put_be(0x12_0000, 0x700_0002);
    assert_eq!(machine.read(0x0800_0000_0000_0008), None);
    assert_eq!(machine.get_be(PEST + 16), 0x0200_1029_0100_0000);
    assert_eq!(machine.get_be(PEST + 24), 0x0800_0000_0000_0008);
}

#[test]
fn the_first_error_stands() {
    let machine = Machine::new();
    assert_eq!(machine.write(0x12_3450), None);
    let first = machine.phb.first_error(1);
    // DMA alone is thawed: the PE is not whole, and what follows is no first error.
    machine.ioda(PESTB | 1, &[0]);
    assert_eq!(machine.read(0x99_9990), None);
    assert_eq!(machine.phb.first_error(1), first);
    assert_eq!(machine.get_be(PEST + 24), 0x12_3450);
    machine.unfreeze();
    assert_eq!(machine.phb.first_error(1), None);
    assert_eq!(machine.read(0x99_9990), None);
    assert_eq!(machine.get_be(PEST + 24), 0x99_9990);
}

#[test]
fn a_frozen_pe_moves_no_byte_and_others_go_on() {
    let machine = Machine::new();
    machine.put_be(TABLE, 0x700_0003);
    machine.put_be(TABLE_2, 0x800_0003);
    assert_eq!(machine.read(0x12_3450), None);
    assert_eq!((machine.read(0), machine.write(0)), (None, None));
    assert_eq!(machine.access(0x200, 0, Access::WRITE), Some(0x800_0000));
    let counters = machine.phb.counters();
    assert_eq!((counters.refused, counters.refused_frozen, counters.errors_total()), (3, 2, 1));
    machine.unfreeze();
    assert_eq!(machine.write(0), Some(0x700_0000));
}

#[test]
fn the_two_freezes_are_cleared_and_set_apart() {
    let machine = Machine::new();
    machine.put_be(TABLE, 0x700_0003);
    let frozen = || (machine.phb.is_mmio_frozen(1), machine.phb.is_dma_frozen(1));
    assert_eq!(machine.read(0x12_3450), None);
    machine.ioda(PESTA | 1, &[0]);
    assert_eq!((frozen(), machine.ioda_load(PEEV)), ((false, true), 0x4000_0000_0000_0000));
    machine.ioda(PESTB | 1, &[0]);
    assert_eq!((frozen(), machine.ioda_load(PEEV)), ((false, false), 0));
    machine.ioda(PESTA | 1, &[SET]);
    assert_eq!((frozen(), machine.read(0)), ((true, false), Some(0x700_0000)));
    machine.ioda(PESTB | 1, &[SET]);
    assert_eq!((frozen(), machine.read(0)), ((true, true), None));
    assert_eq!(machine.phb.first_error(1), None, "software froze it");
}

#[test]
fn pes_that_the_peltv_names_freeze_along() {
    let machine = Machine::new();
    // PE 1: itself, PE 2 and PE 250.
    machine.put(PELTV + 32, &[0x60]);
    machine.put(PELTV + 32 + 31, &[0x20]);
    assert_eq!(machine.read(0), None);
    let frozen: Vec<u8> = (0..=255).filter(|&pe| machine.phb.is_dma_frozen(pe)).collect();
    assert_eq!(frozen, [1, 2, 250]);
    assert_eq!(machine.get_be(PEST + 32), machine.get_be(PEST + 16));
    assert_eq!(machine.phb.counters().freezes, 3);
}

#[test]
fn errors_without_tables_in_memory_are_noted_and_freeze_all_the_same() {
    let machine = Machine::new();
    machine.store(0x188, 0);
    machine.store(0x1a8, 0);
    assert_eq!(machine.read(0), None);
    assert_eq!(machine.clauses(), [clause::PELTV_DISABLED, clause::PEST_DISABLED]);
    assert!(machine.phb.is_dma_frozen(1));
}

#[test]
fn an_error_that_is_not_to_freeze_is_told_only() {
    let machine = Machine::new();
    machine.store(0xe28, 0);
    assert_eq!(machine.read(0), None);
    assert!(!machine.phb.is_dma_frozen(1));
    assert_eq!(machine.load(0xe00), 0x0000_2000_0000_0000);
}

#[test]
fn status_registers_keep_the_first_and_are_cleared_by_ones() {
    let machine = Machine::new();
    // Inbound B: the TCE.
    assert_eq!(machine.write(0x12_3450), None);
    assert_eq!(machine.load(0xe00), 0x0000_2000_0000_0000);
    assert_eq!(machine.load(0xe08), 0x0000_2000_0000_0000);
    assert_eq!(machine.load(0xe40), 0x0100_0000_0000_0000);
    assert_eq!(machine.load(0xe48), 0x12_3450);
    // The FIR's bit 41.
    assert_eq!(machine.load(0xc00), 0x0000_0000_0040_0000);
    machine.hole(TABLE_2..=TABLE_2 + 0xffff);
    assert_eq!(machine.access(0x200, 0, Access::READ), None);
    assert_eq!(machine.load(0xe00), 0x0000_6000_0000_0000);
    assert_eq!((machine.load(0xe08), machine.load(0xe48)), (0x0000_2000_0000_0000, 0x12_3450));
    machine.store(0xe00, 0x0000_2000_0000_0000);
    assert_eq!(machine.load(0xe00), 0x0000_4000_0000_0000);
    machine.store(0xe00, u64::MAX);
    machine.store(0xe08, 0);
    assert_eq!((machine.load(0xe00), machine.load(0xe08), machine.load(0x2c8)), (0, 0, 0));
    // Inbound A: the window.
    machine.unfreeze();
    assert_eq!(machine.read(0x200_0000), None);
    assert_eq!((machine.load(0xd80), machine.load(0xe00)), (0x0000_0008_0000_0000, 0));
    assert_eq!(machine.load(0xc00), 0x0000_0000_0050_0000, "bit 43 as well");
}

#[test]
fn the_lem_keeps_the_first_error_that_is_not_masked() {
    let machine = Machine::new();
    assert_eq!(machine.read(0), None);
    assert_eq!(machine.load(0xc40), 0, "all are masked");
    machine.unfreeze();
    machine.store(0xc18, 0);
    assert_eq!(machine.read(0x200_0000), None);
    machine.unfreeze();
    assert_eq!(machine.read(0), None);
    assert_eq!(machine.load(0xc40), 0x0000_0000_0010_0000, "the window's");
    machine.store(0xc40, u64::MAX);
    assert_eq!(machine.load(0xc40), 0);
}

#[test]
fn an_error_interrupts_by_the_last_lsi_if_it_is_to() {
    let machine = Machine::new();
    assert_eq!(machine.read(0), None);
    machine.unfreeze();
    machine.store(0xe20, 0x0000_6000_0080_0070);
    assert_eq!(machine.read(0), None);
    assert_eq!(machine.phb.take_interrupts(), [], "the LSI is masked");
    machine.unfreeze();
    // LSIs are 0x7f8 to 0x7ff; the last goes to server 0x12 (0x48 with its link bits), priority 5.
    machine.store(0x100, 0xff << 51);
    machine.ioda(LXIVT | 7, &[0x0000_4805_0000_0000]);
    assert_eq!(machine.read(0), None);
    let [interrupt] = machine.phb.take_interrupts()[..] else { panic!("one") };
    assert_eq!((interrupt.source, interrupt.number), (0x7ff, 0x7ff));
    assert_eq!((interrupt.server, interrupt.priority), (0x12, 5));
    // An error that is not to interrupt: the window's.
    machine.unfreeze();
    assert_eq!(machine.read(0x200_0000), None);
    assert_eq!(machine.phb.take_interrupts(), []);
    // While it is frozen nothing is wrong any more.
    assert_eq!(machine.read(0), None);
    assert_eq!(machine.phb.take_interrupts(), []);
}

#[test]
fn errors_that_software_asks_for_come_until_they_are_cleared() {
    let machine = Machine::new();
    for page in 0..4 {
        machine.put_be(TABLE + 8 * page, 0x700_0003);
    }
    // Writes by devices, at 0x2000 to 0x3fff.
    machine.store(0x2b8, 0x2000);
    machine.store(0x2c0, !0x1fff);
    machine.store(0x2b0, 1 << 63 | 1 << 58);
    assert_eq!(machine.write(0x1000), Some(0x700_0000));
    assert_eq!(machine.read(0x2000), Some(0x700_0000));
    for address in [0x2000, 0x3ff8] {
        assert_eq!(machine.write(address), None);
        assert_eq!(machine.phb.first_error(1).unwrap().cause, Cause::Injected);
        assert_eq!(machine.load(0xd80), 0x0000_0000_0100_0000, "bit 39");
        machine.unfreeze();
    }
    machine.store(0x2b0, 0);
    assert_eq!(machine.write(0x2000), Some(0x700_0000));
}
