//! What TLBs keep, and until when.

use model_cpu::{Context, Cpu, CpuFeatures, FaultKind, HardwareUpdate, TlbPolicy, Tlbi};
use portcullis_types::{AccessKind, Pa};

use crate::bench::{Bench, L2, L3, MAIR, TCR_4K};

const PAGE_A: u64 = 0x0060_0000_4020_0f43;
const PAGE_B: u64 = 0x0060_0000_4030_0f43;
const THIS_PAGE: Tlbi = Tlbi::Va { asid: 7, va: 0, last_level_only: true };

fn goes(cpu: &Cpu, va: u64) -> Result<u64, FaultKind> {
    cpu.translate(va, AccessKind::Read).map(|to| to.pa.get()).map_err(|fault| fault.kind)
}

#[test]
fn an_entry_lives_on_until_its_invalidation_has_completed_on_every_cpu() {
    let bench = Bench::common();
    bench.word_now(L3, PAGE_A);
    assert_eq!([goes(&bench.cpu(0), 0), goes(&bench.cpu(1), 0)], [Ok(0x4020_0000); 2]);
    bench.word_now(L3, 0);
    assert_eq!([goes(&bench.cpu(0), 0), goes(&bench.cpu(1), 0)], [Ok(0x4020_0000); 2]);
    bench.cpu(0).tlbi(THIS_PAGE);
    assert_eq!([goes(&bench.cpu(0), 0), goes(&bench.cpu(1), 0)], [Ok(0x4020_0000); 2]);
    bench.cpu(1).barrier();
    assert_eq!(goes(&bench.cpu(1), 0), Ok(0x4020_0000), "another CPU's barrier completes nothing");
    bench.cpu(0).barrier();
    assert_eq!([goes(&bench.cpu(0), 0), goes(&bench.cpu(1), 0)], [Err(FaultKind::Translation); 2]);
    assert_eq!(bench.cpus.unpredictable_count(), 0);
}

#[test]
fn an_invalidation_may_take_effect_before_its_barrier_and_then_the_old_word_may_come_back() {
    let policy = TlbPolicy { early_one_in: 1, ..TlbPolicy::holding(1) };
    let bench = Bench::with_tables(CpuFeatures::COMMON, policy, 0);
    bench.word_now(L3, PAGE_A);
    bench.cpu(0).load(0, &mut [0]).unwrap();
    bench.word(L3, 0);
    bench.cpu(0).tlbi(THIS_PAGE);
    bench.cpu(0).load(0, &mut [0]).unwrap();
    assert_eq!(bench.cpu(0).tlb_len(), 0, "forgotten early");
    // The store of the zero had no barrier before the TLBI: the walker still finds the old word.
    assert_eq!(goes(&bench.cpu(1), 0), Ok(0x4020_0000));
}

#[test]
fn an_invalidation_that_no_barrier_came_before_is_noted_where_it_matters() {
    let noted = |stored: &[u64], operation, local: bool| {
        let bench = Bench::common();
        bench.word(L3 + 8, PAGE_B);
        bench.word_now(L3, PAGE_A);
        assert_eq!([goes(&bench.cpu(1), 0), goes(&bench.cpu(1), 0x1000)], [Ok(0x4020_0000), Ok(0x4030_0000)]);
        // The buffer may drain a store on its own; then it is visible.
        stored.iter().for_each(|&at| bench.word(at, 0));
        let pending = stored.iter().any(|&at| bench.bus.cpu().is_pending(Pa::new(at)));
        assert_eq!(pending, !stored.is_empty());
        let cpu = bench.cpu(usize::from(local));
        if local {
            cpu.tlbi_local(operation)
        } else {
            cpu.tlbi(operation)
        }
        cpu.barrier();
        bench.cpus.unpredictable_count()
    };
    let tables = Tlbi::Va { asid: 7, va: 0, last_level_only: false };
    assert_eq!([noted(&[], THIS_PAGE, false), noted(&[L3], THIS_PAGE, false)], [0, 1]);
    let every = Tlbi::VaOfAllAsids { va: 0, last_level_only: true };
    assert_eq!([noted(&[L3], THIS_PAGE, true), noted(&[L3], every, false)], [1, 1]);
    assert_eq!([noted(&[L2], tables, false), noted(&[L2], THIS_PAGE, false)], [1, 0]);
    // Another page's descriptor; another ASID; what may be for others.
    let other = Tlbi::Va { asid: 8, va: 0, last_level_only: true };
    assert_eq!([noted(&[L3 + 8], THIS_PAGE, false), noted(&[L3], other, false)], [0, 0]);
    assert_eq!([noted(&[L3], Tlbi::Asid { asid: 7 }, false), noted(&[L3], Tlbi::All, false)], [0, 0]);
}

#[test]
fn entries_of_one_asid_are_not_used_for_another() {
    let bench = Bench::common();
    bench.word_now(L3, PAGE_A);
    assert_eq!(goes(&bench.cpu(0), 0), Ok(0x4020_0000));
    let other = Context { ttbr0: 0x0008_0000_4011_0000, tcr: TCR_4K, mair: MAIR };
    bench.cpu(0).switch_to(Some(other));
    assert_eq!(goes(&bench.cpu(0), 0), Err(FaultKind::Translation));
    bench.cpu(0).tlbi(Tlbi::Asid { asid: 8 });
    bench.cpu(0).barrier();
    bench.cpu(0).switch_to(Some(Context { ttbr0: 0x0007_0000_4011_0000, ..other }));
    assert_eq!(goes(&bench.cpu(0), 0), Ok(0x4020_0000), "of ASID 7, from the TLB");
}

#[test]
fn a_global_entry_is_everybodys() {
    let bench = Bench::common();
    bench.word_now(L3, 0x0060_0000_4020_0743);
    assert_eq!(goes(&bench.cpu(0), 0), Ok(0x4020_0000));
    bench.cpu(0).switch_to(Some(Context { ttbr0: 0x0008_0000_4011_0000, tcr: TCR_4K, mair: MAIR }));
    assert_eq!(goes(&bench.cpu(0), 0), Ok(0x4020_0000));
}

#[test]
fn a_table_that_was_passed_is_remembered_until_more_than_the_last_level_is_forgotten() {
    let bench = Bench::common();
    bench.word_now(L3, PAGE_A);
    assert_eq!(goes(&bench.cpu(0), 0), Ok(0x4020_0000));
    bench.word_now(L2, 0);
    bench.cpu(0).tlbi(THIS_PAGE);
    bench.cpu(0).barrier();
    assert_eq!(goes(&bench.cpu(0), 0), Ok(0x4020_0000), "through the remembered table");
    bench.cpu(0).tlbi(Tlbi::Va { asid: 7, va: 0x3000, last_level_only: false });
    bench.cpu(0).tlbi(THIS_PAGE);
    bench.cpu(0).barrier();
    assert_eq!(goes(&bench.cpu(0), 0), Err(FaultKind::Translation));
}

#[test]
fn changing_a_live_entry_without_a_break_is_noted() {
    let bench = Bench::common();
    bench.word_now(L3, PAGE_A);
    assert_eq!(goes(&bench.cpu(0), 0), Ok(0x4020_0000));
    bench.word_now(L3, PAGE_B);
    assert_eq!(goes(&bench.cpu(1), 0), Ok(0x4030_0000));
    let noted = bench.cpus.unpredictable();
    assert_eq!(noted[0].clause, "a live entry was changed without break-before-make");
}

#[test]
fn changing_a_live_table_without_a_break_is_noted() {
    let bench = Bench::common();
    bench.word(0x4010_4000, PAGE_A);
    bench.word_now(L3, PAGE_A);
    assert_eq!(goes(&bench.cpu(0), 0), Ok(0x4020_0000));
    bench.word_now(L2, 0x4010_4003);
    assert_eq!(goes(&bench.cpu(1), 0), Ok(0x4020_0000));
    let noted = bench.cpus.unpredictable();
    assert_eq!(noted[0].clause, "a live table descriptor was changed without break-before-make");
}

#[test]
fn a_block_in_the_place_of_a_live_table_is_noted() {
    for broken in [false, true] {
        let bench = Bench::common();
        bench.word_now(L3, PAGE_A);
        assert_eq!(goes(&bench.cpu(0), 0), Ok(0x4020_0000));
        if broken {
            bench.word_now(L2, 0);
            bench.cpu(0).tlbi(Tlbi::Range { asid: 7, first: 0, last: 0x1f_ffff, last_level_only: false });
            bench.cpu(0).barrier();
        }
        bench.word_now(L2, 0x0060_0000_4020_0f41);
        // Nobody holds a translation of this page, but the first CPU the table that was there.
        assert_eq!(goes(&bench.cpu(1), 0x1000), Ok(0x4020_1000));
        let noted: Vec<_> = bench.cpus.unpredictable().iter().map(|one| one.clause).collect();
        let clause = "a live table descriptor was changed without break-before-make";
        assert_eq!(noted, if broken { vec![] } else { vec![clause] });
    }
}

#[test]
fn what_is_held_is_used_while_walks_are_off_and_nothing_else_is() {
    let bench = Bench::common();
    bench.word(L3 + 8, PAGE_B);
    bench.word_now(L3, PAGE_A);
    assert_eq!(goes(&bench.cpu(0), 0), Ok(0x4020_0000));
    let off = Context { ttbr0: 0x0007_0000_4010_0000, tcr: TCR_4K | 1 << 7, mair: MAIR };
    bench.cpu(0).switch_to(Some(off));
    let both = || [goes(&bench.cpu(0), 0), goes(&bench.cpu(0), 0x1000)];
    assert_eq!(both(), [Ok(0x4020_0000), Err(FaultKind::Translation)]);
    bench.cpu(0).tlbi(THIS_PAGE);
    bench.cpu(0).barrier();
    assert_eq!(both(), [Err(FaultKind::Translation); 2]);
}

#[test]
fn a_restriction_without_an_invalidation_does_not_restrict() {
    let bench = Bench::common();
    bench.word_now(L3, PAGE_A);
    bench.cpu(0).store(0, &[1]).unwrap();
    bench.word_now(L3, 0x0060_0000_4020_0fc3);
    assert_eq!(bench.cpu(0).store(0, &[2]), Ok(()));
    bench.cpu(0).tlbi(THIS_PAGE);
    bench.cpu(0).barrier();
    assert_eq!(bench.cpu(0).store(0, &[3]).map_err(|fault| fault.kind), Err(FaultKind::Permission));
    assert_eq!(bench.cpus.unpredictable_count(), 0, "permissions may change without a break");
}

#[test]
fn a_contiguous_run_may_be_one_entry() {
    let bench = Bench::common();
    for page in 0..16 {
        bench.word(L3 + 8 * page, 0x0070_0000_4020_0f43 + 0x1000 * page);
    }
    bench.cpu(0).barrier();
    for page in 0..16 {
        assert_eq!(goes(&bench.cpu(0), 0x1000 * page + 5), Ok(0x4020_0005 + 0x1000 * page));
    }
    assert!(bench.cpu(0).tlb_len() < 16);
    bench.cpu(0).tlbi(Tlbi::Range { asid: 7, first: 0, last: 0xffff, last_level_only: true });
    bench.cpu(0).barrier();
    assert_eq!((bench.cpu(0).tlb_len(), bench.cpus.unpredictable_count()), (0, 0));
}

/// Word `page` of a contiguous run over `PAGE_A` and the pages behind it.
fn in_run(page: u64) -> u64 {
    0x0070_0000_4020_0f43 + 0x1000 * page
}

#[test]
fn a_contiguous_run_with_a_hole_is_no_entry_of_its_own() {
    let bench = Bench::common();
    (0..16).for_each(|page| bench.word(L3 + 8 * page, in_run(page)));
    bench.word_now(L3 + 8 * 3, 0);
    for page in (0..16).filter(|&page| page != 3) {
        assert_eq!(goes(&bench.cpu(0), 0x1000 * page), Ok(0x4020_0000 + 0x1000 * page));
        assert_eq!(goes(&bench.cpu(0), 0x3000), Err(FaultKind::Translation));
    }
    assert_eq!((bench.cpu(0).tlb_len(), bench.cpus.unpredictable_count()), (15, 0));
}

#[test]
fn descriptors_of_a_contiguous_run_agree_but_for_what_hardware_sets() {
    let noted = |other: u64| {
        let features = CpuFeatures { hardware_update: HardwareUpdate::AccessAndDirty, ..CpuFeatures::COMMON };
        let bench = Bench::with_tables(features, TlbPolicy::holding(1), 3 << 39);
        (0..16).for_each(|page| bench.word(L3 + 8 * page, 1 << 51 | in_run(page)));
        bench.word_now(L3 + 8 * 3, 1 << 51 | other);
        assert_eq!(goes(&bench.cpu(0), 0x5000), Ok(0x4020_5000));
        bench.cpus.unpredictable().iter().map(|one| one.clause).collect::<Vec<_>>()
    };
    // The same; not accessed; clean.
    for other in [in_run(3), in_run(3) & !0x400, in_run(3) | 0x80] {
        assert_eq!(noted(other), [""; 0], "{other:#x}");
    }
    // Another frame; nothing for users; other memory; global; executable.
    for other in [in_run(4), in_run(3) & !0x40, in_run(3) | 4, in_run(3) & !0x800, in_run(3) & !(1 << 54)] {
        assert_eq!(noted(other), ["descriptors of one contiguous run contradict one another"], "{other:#x}");
    }
}

#[test]
fn speculation_brings_in_what_nobody_asked_for_and_eviction_takes_it_out() {
    let policy = TlbPolicy { speculate_one_in: 1, ..TlbPolicy::holding(1) };
    let bench = Bench::with_tables(CpuFeatures::COMMON, policy, 0);
    bench.word(L3 + 8, PAGE_B);
    bench.word_now(L3, PAGE_A);
    (0..100).for_each(|_| bench.cpu(0).load(0, &mut [0]).unwrap());
    assert_eq!((bench.cpu(0).tlb_len(), bench.cpu(1).tlb_len()), (2, 2));
    let policy = TlbPolicy { evict_one_in: 1, ..TlbPolicy::holding(1) };
    let bench = Bench::with_tables(CpuFeatures::COMMON, policy, 0);
    bench.word_now(L3, PAGE_A);
    bench.cpu(0).load(0, &mut [0]).unwrap();
    assert_eq!(bench.cpu(0).tlb_len(), 0);
}

#[test]
fn one_seed_is_one_run() {
    let run = |seed| {
        let bench = Bench::with_tables(CpuFeatures::COMMON, TlbPolicy::seeded(seed), 0);
        (0..64).for_each(|page| bench.word(L3 + 8 * page, PAGE_A + 0x1000 * page));
        bench.cpu(0).barrier();
        let step = |turn: u64| {
            bench.cpu(0).store((turn * 37 % 64) << 12, &turn.to_le_bytes()).unwrap();
            (bench.cpu(0).tlb_len(), bench.cpu(1).tlb_len())
        };
        let trace: Vec<_> = (0..500).map(step).collect();
        let mut bytes = vec![0; 0x4_0000];
        bench.bus.cpu().read(Pa::new(0x4020_0000), &mut bytes).unwrap();
        (trace, bytes)
    };
    let (first, second, other) = (run(1), run(1), run(2));
    assert_eq!(first, second);
    assert_ne!(first.0, other.0);
    assert_eq!(first.1, other.1);
}

#[test]
fn a_local_invalidation_leaves_the_other_cpus_alone() {
    let bench = Bench::common();
    bench.word_now(L3, PAGE_A);
    assert_eq!([goes(&bench.cpu(0), 0), goes(&bench.cpu(1), 0)], [Ok(0x4020_0000); 2]);
    bench.word_now(L3, 0);
    bench.cpu(0).tlbi_local(Tlbi::All);
    assert_eq!(goes(&bench.cpu(0), 0), Ok(0x4020_0000), "not before its barrier");
    bench.cpu(0).barrier();
    assert_eq!(
        [goes(&bench.cpu(0), 0), goes(&bench.cpu(1), 0)],
        [Err(FaultKind::Translation), Ok(0x4020_0000)]
    );
}
