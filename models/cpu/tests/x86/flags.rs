//! What the CPU writes into entries.

use model_cpu::TlbPolicy;
use model_cpu::x86::{CpuFeatures, FaultKind, Invalidation};

use crate::bench::{Bench, PD, PDPT, PML4, PT, goes};

/// P, R/W, U/S.
const FRESH: u64 = 0x4020_0007;

#[test]
fn an_access_sets_the_accessed_flag_of_every_entry_that_it_uses_and_nothing_else() {
    let bench = Bench::common();
    bench.word(PML4, 0x4010_1007);
    bench.word(PDPT, 0x4010_2007);
    bench.word(PD, 0x4010_3007);
    bench.word_now(PT, FRESH);
    bench.cpu(0).load(0, &mut [0]).unwrap();
    let words = [PML4, PDPT, PD, PT].map(|at| bench.read_word(at));
    assert_eq!(words, [0x4010_1027, 0x4010_2027, 0x4010_3027, 0x4020_0027]);
}

#[test]
fn a_store_sets_the_dirty_flag_of_the_page_alone_and_a_load_does_not() {
    let bench = Bench::common();
    bench.word(PD + 8, 0x4040_0087);
    bench.word_now(PT, FRESH);
    for (at, va, wanted) in [(PT, 0, 0x4020_0027), (PD + 8, 0x20_0000, 0x4040_00a7)] {
        bench.cpu(0).load(va, &mut [0]).unwrap();
        assert_eq!(bench.read_word(at), wanted);
        bench.cpu(0).store(va, &[1]).unwrap();
        assert_eq!(bench.read_word(at), wanted | 0x40);
    }
    assert_eq!(bench.read_word(PD), 0x4010_3027);
}

#[test]
fn a_store_that_is_refused_makes_nothing_dirty() {
    let bench = Bench::common();
    bench.word(PT, 0x4020_0005);
    bench.word_now(PT + 8, 0x4020_0003);
    for va in [0, 0x1000] {
        assert_eq!(bench.cpu(0).store(va, &[1]).unwrap_err().kind, FaultKind::Permission);
    }
    assert_eq!([bench.read_word(PT), bench.read_word(PT + 8)], [0x4020_0005, 0x4020_0003]);
}

#[test]
fn a_flag_that_was_cleared_without_an_invalidation_may_stay_clear() {
    let bench = Bench::common();
    bench.word_now(PT, FRESH);
    bench.cpu(0).store(0, &[1]).unwrap();
    bench.word_now(PT, FRESH);
    bench.cpu(0).store(0, &[2]).unwrap();
    assert_eq!(bench.read_word(PT), FRESH);
    bench.cpu(0).invalidate(Invalidation::Page { va: 0 });
    bench.cpu(0).store(0, &[3]).unwrap();
    assert_eq!(bench.read_word(PT), 0x4020_0067);
}

#[test]
fn a_store_through_a_clean_entry_looks_at_the_table_again() {
    let bench = Bench::common();
    bench.word_now(PT, FRESH);
    bench.cpu(0).load(0, &mut [0]).unwrap();
    bench.word_now(PT, 0);
    assert_eq!(goes(&bench.cpu(0), 0), Ok(0x4020_0000), "the load still goes by what is held");
    assert_eq!(bench.cpu(0).store(0, &[1]).unwrap_err().kind, FaultKind::NotPresent);
    assert_eq!(bench.read_word(PT), 0, "nothing comes back to life");
}

#[test]
fn speculation_may_set_accessed_flags_but_never_makes_anything_dirty() {
    let policy = TlbPolicy { speculate_one_in: 2, ..TlbPolicy::holding(3) };
    let bench = Bench::new(CpuFeatures::COMMON, policy);
    bench.word(PT, 0x4020_0067);
    bench.word_now(PT + 8, 0x4020_1007);
    (0..200).for_each(|_| bench.cpu(0).store(0, &[1]).unwrap());
    assert_eq!(bench.read_word(PT + 8), 0x4020_1027);
}

#[test]
fn speculation_goes_by_no_entry_of_an_address_that_is_not_canonical() {
    let policy = TlbPolicy { speculate_one_in: 1, ..TlbPolicy::holding(3) };
    let bench = Bench::new(CpuFeatures::COMMON, policy);
    // The last page of the lower half; behind it, as far as a walk could tell, a table for 0x8000_0000_0000.
    bench.word(PML4 + 8 * 255, 0x4010_1027);
    bench.word(PDPT + 8 * 511, 0x4010_2027);
    bench.word(PD + 8 * 511, 0x4010_3027);
    bench.word(PT + 8 * 511, 0x4020_0067);
    bench.word_now(PML4 + 8 * 256, 0x4010_1007);
    (0..200).for_each(|_| bench.cpu(0).store(0x7fff_ffff_f000, &[1]).unwrap());
    assert_eq!(bench.read_word(PML4 + 8 * 256), 0x4010_1007);
}
