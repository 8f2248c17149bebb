//! Context banks side by side: 64 KiB pages, the last bank, and FSR's format.

use model_smmuv2::{Config, Line};

use crate::harness::{CBAR_S1, FSR, Got, Machine, TLBIVAL, plain};

#[test]
fn registers_lie_in_pages_of_64_kib_where_idr1_says_so() {
    let machine = Machine::bare(Config { large_pages: true, page_index_bits: 3, ..plain() });
    // IDR1: PAGESIZE, NUMPAGENDXB 3, SMCD, NUMCB.
    assert_eq!(machine.r32(0x24), 0xb000_8010);
    machine.w32(0x1_0004, 0x0001_0009);
    assert_eq!(machine.r32(0x1_0004), 0x0001_0009, "CBAR1");
    machine.w32(0x10_0000 + 0x1_0000 + 0x38, 0x44);
    assert_eq!(machine.r32(0x11_0038), 0x44, "MAIR0 of bank 1");
    assert_eq!(machine.smmu.config().size_bytes(), 0x20_0000);
}

#[test]
fn the_last_bank_works_like_the_first() {
    let machine = Machine::new(Config { banks: 128, page_index_bits: 6, stream_groups: 128, ..plain() });
    machine.tables();
    machine.bank1(127, CBAR_S1);
    machine.stream(127, 9, 0, 127);
    assert_eq!(machine.read(9, 0x1000), Got::At(0x30_0000));
    assert_eq!(machine.read(9, 0x2000), Got::Abort);
    assert_eq!((machine.rcb(127, FSR), machine.r32(0x1400 + 127 * 4)), (0x402, 9));
    assert_eq!(machine.smmu.asserted_lines(), [Line::Context(127)]);
    machine.cb(127, FSR, 2);
    machine.words(crate::harness::L3 + 8, &[0]);
    machine.cb64(127, TLBIVAL, 3 << 48 | 1);
    machine.sync(127);
    assert_eq!(machine.read(9, 0x1000), Got::Abort);
    machine.assert_clean();
}

#[test]
fn the_scheme_is_fixed_where_there_is_only_one() {
    let none = Machine::bare(Config { aarch32: false, ..plain() });
    none.w32(0x1800, 0);
    assert_eq!(none.r32(0x1800), 1, "VA64 is read as one");
    let old = Machine::bare(Config { granule_4k: false, granule_16k: false, granule_64k: false, ..plain() });
    old.w32(0x1800, 1);
    assert_eq!((old.r32(0x1800), old.rcb(0, FSR)), (0, 0x200));
}
