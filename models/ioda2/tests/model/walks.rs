//! RTT and TCEs: every depth and page size, permissions, and what cannot be read.

use model_bus::Translator;
use model_ioda2::{Cause, Outlook, Policy, clause};
use portcullis_types::{Access, Pa, Pasid};

use crate::harness::{Machine, RTT, TABLE, TVE, TVT, request};

/// log2 of the page, and how a TVE says it.
const PAGES: [(u32, u64); 4] = [(12, 1), (16, 5), (24, 13), (28, 17)];

fn cause(machine: &Machine) -> Cause {
    let cause = machine.phb.first_error(1).unwrap().cause;
    machine.unfreeze();
    cause
}

#[test]
fn every_depth_and_page_size_is_walked() {
    for (page_lg2, page) in PAGES {
        // Levels of 4 KiB: 9 bits each; less than 55 bits in all.
        let most = (54 - page_lg2) / 9;
        for levels in 1..=most.min(5) {
            let machine = Machine::with(Policy::eager());
            machine.ioda(TVT | 3, &[TABLE << 4 | u64::from(levels - 1) << 13 | 0x100 | page]);
            machine.kill(1 << 63);
            // Indexes 0x1f1, 0x1f2 and so on from the top, and an offset.
            let mut address = 0x0800_0000_0000_0ff8;
            for level in 0..levels {
                let at = TABLE + u64::from(level) * 0x1000;
                let index = u64::from(0x1f1 + level);
                let last = level + 1 == levels;
                let entry = if last { 0x3_0000_0000_0003 } else { (at + 0x1000) | 3 };
                machine.put_be(at + 8 * index, entry);
                address |= index << (page_lg2 + 9 * (levels - 1 - level));
            }
            assert_eq!(machine.read(address), Some(0x3_0000_0000_0ff8), "{levels} levels, 2^{page_lg2}");
            assert_eq!(machine.phb.counters().table_reads, u64::from(levels));
            assert_eq!(machine.clauses(), [] as [&str; 0]);
            let outlook = machine.phb.outlook(&request(0x100, address, 8, Access::READ));
            assert_eq!(outlook, Outlook::Allowed(Pa::new(0x3_0000_0000_0ff8)));
        }
    }
}

#[test]
fn larger_levels_decode_more_bits() {
    let machine = Machine::with(Policy::eager());
    // Two levels of 64 KiB: 13 bits each, over 64K pages. 16 - 11 is 5.
    machine.ioda(TVT | 2, &[0x0000_0000_0100_2505]);
    machine.kill(1 << 63);
    machine.put_be(TABLE + 8 * 0x1abc, 0x12_0003);
    machine.put_be(0x12_0000 + 8 * 0x1def, 0x777_0000 | 3);
    assert_eq!(machine.read(0x1abc << 29 | 0x1def << 16 | 0x4560), Some(0x777_4560));
}

#[test]
fn tces_are_big_endian() {
    let machine = Machine::new();
    machine.put(TABLE, &[0, 0, 0, 0, 0x07, 0x65, 0x40, 0x03]);
    assert_eq!(machine.read(0x10), Some(0x765_4010));
}

#[test]
fn each_permission_is_checked_by_itself() {
    let machine = Machine::with(Policy::eager());
    machine.put_be(TABLE, 0x700_0001);
    machine.put_be(TABLE + 8, 0x700_0002);
    assert_eq!(machine.read(0), Some(0x700_0000));
    assert_eq!(machine.write(0), None);
    assert_eq!(cause(&machine), Cause::TceAccessFault);
    assert_eq!(machine.write(0x1000), Some(0x700_0000));
    assert_eq!(machine.read(0x1000), None);
    assert_eq!(cause(&machine), Cause::TceAccessFault);
    machine.put_be(TABLE + 16, 0x700_0000);
    assert_eq!(machine.read(0x2000), None);
    assert_eq!(cause(&machine), Cause::TcePageFault);
}

#[test]
fn an_upper_entry_without_permission_ends_the_walk() {
    let machine = Machine::with(Policy::eager());
    machine.ioda(TVT | 2, &[0x0000_0000_0100_2101]);
    machine.kill(1 << 63);
    machine.put_be(TABLE, 0x12_0000);
    machine.put_be(0x12_0000, 0x700_0003);
    assert_eq!(machine.read(0), None);
    assert_eq!(cause(&machine), Cause::TcePageFault);
    // Either of the two is enough.
    for permission in [1, 2] {
        machine.put_be(TABLE, 0x12_0000 | permission);
        machine.kill(1 << 63);
        assert_eq!(machine.write(0), Some(0x700_0000));
    }
}

#[test]
fn a_table_that_nothing_answers_at_freezes_the_pe() {
    let machine = Machine::new();
    machine.hole(TABLE..=TABLE + 0xffff);
    assert_eq!(machine.read(0), None);
    assert_eq!(cause(&machine), Cause::TceUnreadable);
}

#[test]
fn tables_and_tces_that_are_not_aligned_are_noted() {
    let machine = Machine::with(Policy::eager());
    machine.put_be(TABLE, 0x700_0803);
    assert_eq!(machine.read(0), Some(0x700_0000));
    assert_eq!(machine.clauses(), [clause::TCE_ADDRESS]);
    machine.put_be(TABLE, 0x4_0000_0700_0003);
    assert_eq!(
        machine.phb.outlook(&request(0x100, 0, 8, Access::READ)),
        Outlook::Allowed(Pa::new(0x700_0000))
    );
    // The index is joined to a table of 64 KiB that lies 4 KiB too far.
    machine.ioda(TVT | 2, &[TVE + 0x1_0000]);
    machine.kill(1 << 63);
    machine.put_be(0x10_1000, 0x700_0003);
    assert_eq!(machine.read(0x20_0000), Some(0x700_0000));
    assert_eq!(machine.clauses(), [clause::TABLE_ALIGNMENT]);
}

#[test]
fn a_requester_without_a_pe_is_refused_and_freezes_nobody() {
    let machine = Machine::new();
    machine.put(RTT + 2 * 0x300, &[1, 0]);
    assert_eq!(machine.access(0x300, 0, Access::READ), None);
    machine.hole(RTT + 0x1_0000..=RTT + 0x1_ffff);
    assert_eq!(machine.access(0x8000, 0, Access::READ), None);
    machine.store(0x168, RTT);
    assert_eq!(machine.access(0x100, 0, Access::READ), None);
    assert_eq!(machine.clauses(), [clause::RTT_DISABLED]);
    let counters = machine.phb.counters();
    assert_eq!((counters.freezes, counters.refused), (0, 3));
    assert_eq!(counters.errors[&Cause::RttInvalid], 1);
    assert_eq!(counters.errors[&Cause::RttUnreadable], 2);
}

#[test]
fn requesters_that_nobody_claimed_are_of_the_reserved_pe() {
    let machine = Machine::new();
    assert_eq!(machine.access(0x500, 0, Access::READ), None);
    assert!(machine.phb.is_dma_frozen(255));
    assert_eq!(machine.phb.pe_of(portcullis_types::SourceId(0x100)), Some(1));
}

#[test]
fn requests_that_pcie_does_not_make_are_refused() {
    let machine = Machine::new();
    machine.put_be(TABLE, 0x700_0003);
    let good = request(0x100, 0, 8, Access::READ);
    let bad = [
        request(0x1_0000, 0, 8, Access::READ),
        request(0x100, 0xffc, 8, Access::READ),
        request(0x100, 0, 0, Access::READ),
        model_bus::Request { pasid: Pasid::new(0), ..good },
    ];
    for request in bad {
        let outcome = machine.phb.access(&request, &mut |_| panic!("let through"));
        assert_eq!(outcome, model_bus::Outcome::Aborted);
    }
    assert!(!machine.phb.is_dma_frozen(1));
    assert_eq!(machine.read(0), Some(0x700_0000));
}
