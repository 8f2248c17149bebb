//! Which broken rules are remembered, and what is no matter.

use model_cpu::TlbPolicy;
use model_cpu::x86::{Context, CpuFeatures, FaultKind, Invalidation};

use crate::bench::{Bench, CONTEXT, PAGE_RW, PD, PT, goes};

const FRAME: &str = "a live page was given another frame without an invalidation between";
const SIZE: &str = "the size of a live page and its rights or attributes were changed at once";
const TABLE: &str = "a live table was replaced by another without an invalidation between";

/// Both CPUs have been at address 0.
fn in_use() -> Bench {
    let bench = Bench::common();
    bench.word_now(PT, PAGE_RW);
    assert_eq!([goes(&bench.cpu(0), 0), goes(&bench.cpu(1), 0)], [Ok(0x4020_0000); 2]);
    bench
}

#[test]
fn another_frame_while_a_cpu_holds_the_first_is_noted() {
    let bench = in_use();
    bench.word_now(PT, 0x8000_0000_4030_0067);
    bench.cpu(0).invalidate(Invalidation::Page { va: 0 });
    assert_eq!(goes(&bench.cpu(0), 0), Ok(0x4030_0000));
    assert_eq!(bench.clauses(), [FRAME]);
}

#[test]
fn another_frame_after_every_cpu_has_forgotten_the_first_is_no_matter() {
    let bench = in_use();
    bench.word_now(PT, 0);
    bench.cpus.shoot_down(0..2, &Invalidation::of_range(7, 0, 0xfff));
    bench.word_now(PT, 0x8000_0000_4030_0067);
    assert_eq!([goes(&bench.cpu(0), 0), goes(&bench.cpu(1), 0)], [Ok(0x4030_0000); 2]);
    assert_eq!(bench.clauses(), [""; 0]);
}

#[test]
fn what_a_cpu_holds_that_runs_something_else_is_no_matter() {
    let bench = in_use();
    bench.cpu(1).switch_to(None);
    bench.word_now(PT, 0x8000_0000_4030_0067);
    bench.cpu(0).invalidate(Invalidation::Page { va: 0 });
    assert_eq!(goes(&bench.cpu(0), 0), Ok(0x4030_0000));
    bench.cpu(1).switch_to(Some(CONTEXT));
    assert_eq!(goes(&bench.cpu(1), 0), Ok(0x4030_0000));
    assert_eq!(bench.clauses(), [""; 0]);
}

#[test]
fn a_store_that_finds_another_frame_than_the_clean_entry_has_is_noted() {
    let bench = Bench::common();
    bench.word_now(PT, 0x8000_0000_4020_0027);
    assert_eq!(goes(&bench.cpu(0), 0), Ok(0x4020_0000));
    bench.word_now(PT, 0x8000_0000_4030_0027);
    bench.cpu(0).store(0, &[1]).unwrap();
    assert_eq!(bench.clauses(), [FRAME]);
}

#[test]
fn more_or_fewer_rights_over_one_frame_are_no_matter() {
    let bench = in_use();
    for word in [0x8000_0000_4020_0065, 0x4020_0067, PAGE_RW] {
        bench.word_now(PT, word);
        bench.cpu(0).invalidate(Invalidation::Page { va: 0 });
        assert_eq!(goes(&bench.cpu(0), 0), Ok(0x4020_0000));
    }
    assert_eq!(bench.clauses(), [""; 0]);
}

#[test]
fn another_page_size_is_noted_if_more_changes_than_the_size() {
    for (word, wanted) in [(0x8000_0000_4020_00e5, vec![SIZE]), (0x8000_0000_4020_00e7, vec![])] {
        let bench = in_use();
        bench.word_now(PD, word);
        bench.cpu(0).invalidate(Invalidation::Page { va: 0 });
        assert_eq!(goes(&bench.cpu(0), 0), Ok(0x4020_0000));
        assert_eq!(bench.clauses(), wanted, "{word:#x}");
    }
}

#[test]
fn another_table_while_a_cpu_holds_the_first_is_noted() {
    let bench = in_use();
    bench.word(0x4010_5000, PAGE_RW);
    bench.word_now(PD, 0x4010_5027);
    bench.cpu(0).invalidate(Invalidation::Page { va: 0 });
    assert_eq!(goes(&bench.cpu(0), 0), Ok(0x4020_0000));
    assert_eq!(bench.clauses(), [TABLE]);
}

#[test]
fn cpus_that_run_different_tables_map_an_address_as_they_like() {
    let bench = in_use();
    bench.word(0x4011_0000, 0x4011_1027);
    bench.word(0x4011_1000, 0x4011_2027);
    bench.word(0x4011_2000, 0x4011_3027);
    bench.word_now(0x4011_3000, 0x8000_0000_4030_0067);
    bench.cpu(0).switch_to(Some(Context { cr3: 0x4011_0008, ..CONTEXT }));
    assert_eq!(goes(&bench.cpu(0), 0), Ok(0x4030_0000));
    assert_eq!(bench.clauses(), [""; 0]);
}

#[test]
fn a_reserved_bit_is_noted() {
    let bench = Bench::common();
    bench.word_now(PT, 0x8000_4000_4020_0067);
    bench.cpu(0).load(0, &mut [0]).unwrap_err();
    assert_eq!(bench.clauses(), ["a present paging-structure entry has a reserved bit set"]);
}

#[test]
fn keeping_what_is_held_of_a_pcid_for_another_table_is_noted() {
    let bench = in_use();
    let other = Context { cr3: 0x4011_0007, ..CONTEXT };
    bench.cpu(0).switch_to(Some(other));
    assert_eq!(bench.clauses(), [""; 0], "what was held is forgotten");
    bench.cpu(0).switch_to(Some(CONTEXT.keeping()));
    assert_eq!(bench.clauses(), ["MOV to CR3 kept what was held of a PCID for another table"]);
    bench.cpu(1).invalidate(Invalidation::Context { pcid: 7 });
    bench.cpu(1).switch_to(Some(other.keeping()));
    assert_eq!(bench.cpus.unpredictable_count(), 1, "nothing was held");
    for everything in [Invalidation::All, Invalidation::AllWithGlobals] {
        let bench = in_use();
        bench.cpu(0).invalidate(everything);
        bench.cpu(0).switch_to(Some(other.keeping()));
        assert_eq!(bench.clauses(), [""; 0], "{everything:?}");
    }
}

#[test]
fn a_pcid_that_there_cannot_be_is_noted_and_nothing_forgotten() {
    let bench = in_use();
    bench.cpu(0).invalidate(Invalidation::Context { pcid: 0x1000 });
    let features = CpuFeatures { pcids: false, ..CpuFeatures::COMMON };
    let old = Bench::new(features, TlbPolicy::holding(1));
    old.cpu(0).switch_to(Some(Context { cr3: 0x4010_0000, cr4: 0xa0, efer: 0xd00 }));
    old.cpu(0).invalidate(Invalidation::Context { pcid: 0 });
    old.cpu(0).invalidate(Invalidation::Context { pcid: 7 });
    let clause = "INVPCID names a PCID that there cannot be";
    assert_eq!((bench.clauses(), bench.cpu(0).tlb_len()), (vec![clause], 1));
    assert_eq!(old.clauses()[2..], [clause]);
}

#[test]
fn a_context_that_breaks_a_rule_is_noted_and_translates_nothing() {
    let bench = Bench::common();
    bench.word_now(PT, PAGE_RW);
    bench.cpu(0).switch_to(Some(Context { cr3: 1 << 46, ..CONTEXT }));
    assert_eq!(bench.clauses(), ["a reserved bit of CR3 is set"]);
    assert_eq!(goes(&bench.cpu(0), 0), Err(FaultKind::NotPresent));
}
