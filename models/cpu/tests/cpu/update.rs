//! What hardware writes into descriptors.

use model_cpu::{CpuFeatures, FaultKind, HardwareUpdate, TlbPolicy};
use portcullis_types::AccessKind;

use crate::bench::{Bench, L3};

const HA: u64 = 1 << 39;
const HD: u64 = 1 << 40;

fn bench(tcr_extra: u64) -> Bench {
    let features = CpuFeatures { hardware_update: HardwareUpdate::AccessAndDirty, ..CpuFeatures::COMMON };
    Bench::with_tables(features, TlbPolicy::holding(1), tcr_extra)
}

#[test]
fn an_access_sets_the_access_flag_and_nothing_else() {
    let bench = bench(HA);
    bench.word_now(L3, 0x0060_0000_4020_0b43);
    bench.cpu(0).load(0, &mut [0]).unwrap();
    assert_eq!(bench.read_word(L3), 0x0060_0000_4020_0f43);
}

#[test]
fn a_write_makes_a_clean_page_dirty_and_a_read_does_not() {
    let bench = bench(HA | HD);
    // DBM, read-only: writable and clean.
    bench.word_now(L3, 0x0068_0000_4020_0fc3);
    bench.cpu(0).load(0, &mut [0]).unwrap();
    assert_eq!(bench.read_word(L3), 0x0068_0000_4020_0fc3);
    bench.cpu(0).store(0, &[1]).unwrap();
    assert_eq!(bench.read_word(L3), 0x0068_0000_4020_0f43);
    bench.cpu(1).store(0, &[1]).unwrap();
    assert_eq!(bench.cpus.unpredictable_count(), 0);
}

#[test]
fn without_dbm_or_hd_a_read_only_page_stays_read_only() {
    for (tcr, word) in
        [(HA | HD, 0x0060_0000_4020_0fc3), (HA, 0x0068_0000_4020_0fc3), (HD, 0x0068_0000_4020_0fc3)]
    {
        let bench = bench(tcr);
        bench.word_now(L3, word);
        let kind = bench.cpu(0).store(0, &[1]).unwrap_err().kind;
        assert_eq!((kind, bench.read_word(L3)), (FaultKind::Permission, word));
    }
}

#[test]
fn a_table_that_forbids_writes_keeps_a_clean_page_clean() {
    let bench = bench(HA | HD);
    bench.word(crate::bench::L2, 0x4000_0000_4010_3003);
    bench.word_now(L3, 0x0068_0000_4020_0fc3);
    assert_eq!(bench.cpu(0).store(0, &[1]).unwrap_err().kind, FaultKind::Permission);
    assert_eq!(bench.read_word(L3), 0x0068_0000_4020_0fc3);
}

#[test]
fn speculation_may_set_the_access_flag_but_never_makes_anything_dirty() {
    let features = CpuFeatures { hardware_update: HardwareUpdate::AccessAndDirty, ..CpuFeatures::COMMON };
    let policy = TlbPolicy { speculate_one_in: 2, ..TlbPolicy::holding(3) };
    let bench = Bench::with_tables(features, policy, HA | HD);
    bench.word(L3, 0x0060_0000_4020_0f43);
    bench.word_now(L3 + 8, 0x0068_0000_4020_1bc3);
    (0..200).for_each(|_| bench.cpu(0).store(0, &[1]).unwrap());
    assert_eq!(bench.read_word(L3 + 8), 0x0068_0000_4020_1fc3);
    assert!(bench.cpu(0).translate(0x1000, AccessKind::Read).is_ok());
}
