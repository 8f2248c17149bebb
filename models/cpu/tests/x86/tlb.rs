//! What CPUs keep, and until when.

use model_cpu::TlbPolicy;
use model_cpu::x86::{Context, CpuFeatures, FaultKind, Invalidation};
use portcullis_types::{AccessKind, Pa};

use crate::bench::{Bench, CONTEXT, PAGE_RW, PD, PML4, PML5, PT, goes};

/// A table with nothing in it, under PCID 8.
const OTHER: Context = Context { cr3: 0x4011_0008, ..CONTEXT };

fn both(bench: &Bench) -> [Result<u64, FaultKind>; 2] {
    [goes(&bench.cpu(0), 0), goes(&bench.cpu(1), 0)]
}

/// Both CPUs hold the page at 0, which is no more.
fn stale() -> Bench {
    let bench = Bench::common();
    bench.word_now(PT, PAGE_RW);
    assert_eq!(both(&bench), [Ok(0x4020_0000); 2]);
    bench.word_now(PT, 0);
    bench
}

#[test]
fn an_entry_lives_on_where_no_invalidation_was_executed() {
    let bench = stale();
    assert_eq!(both(&bench), [Ok(0x4020_0000); 2]);
    bench.cpu(0).invalidate(Invalidation::Page { va: 0 });
    assert_eq!(both(&bench), [Err(FaultKind::NotPresent), Ok(0x4020_0000)], "nobody else was told");
    bench.cpu(1).barrier();
    assert_eq!(goes(&bench.cpu(1), 0), Ok(0x4020_0000), "a fence forgets nothing");
    bench.cpus.shoot_down([1, 2], &Invalidation::of_range(7, 0, 0xfff));
    assert_eq!(both(&bench), [Err(FaultKind::NotPresent); 2]);
    assert_eq!(bench.cpus.unpredictable_count(), 0);
}

#[test]
fn each_invalidation_forgets_what_it_says_and_no_more() {
    // PCID 7: a page at 0, a page at 0x1000, a global one at 0x2000. PCID 8, the same table: a page at 0.
    let after = |invalidation| {
        let bench = Bench::common();
        bench.word(PT, PAGE_RW);
        bench.word(PT + 8, 0x8000_0000_4020_1067);
        bench.word_now(PT + 16, 0x8000_0000_4020_2167);
        let cpu = bench.cpu(0);
        for va in [0, 0x1000, 0x2000] {
            cpu.load(va, &mut [0]).unwrap();
        }
        cpu.switch_to(Some(Context { cr3: 0x4010_0008, ..CONTEXT }));
        cpu.load(0, &mut [0]).unwrap();
        cpu.switch_to(Some(CONTEXT.keeping()));
        [0, 8, 16].iter().for_each(|at| bench.word_now(PT + at, 0));
        cpu.invalidate(invalidation);
        let seen = |va: u64| if goes(&cpu, va).is_ok() { '1' } else { '0' };
        let mut text: String = [0, 0x1000, 0x2000].map(seen).into_iter().collect();
        cpu.switch_to(Some(Context { cr3: 0x4010_0008, ..CONTEXT }.keeping()));
        text.push(seen(0));
        text
    };
    assert_eq!(after(Invalidation::Context { pcid: 9 }), "1111");
    assert_eq!(after(Invalidation::Page { va: 0xabc }), "0111");
    assert_eq!(after(Invalidation::Page { va: 0x2000 }), "1101");
    assert_eq!(after(Invalidation::Address { pcid: 7, va: 0 }), "0111");
    assert_eq!(after(Invalidation::Address { pcid: 7, va: 0x2000 }), "1111");
    assert_eq!(after(Invalidation::Address { pcid: 8, va: 0 }), "1110");
    assert_eq!(after(Invalidation::Context { pcid: 7 }), "0011");
    assert_eq!(after(Invalidation::All), "0010");
    assert_eq!(after(Invalidation::AllWithGlobals), "0000");
}

#[test]
fn entries_of_one_pcid_are_not_used_for_another_and_survive_its_turn_if_told_so() {
    let bench = stale();
    let cpu = bench.cpu(0);
    cpu.switch_to(Some(OTHER));
    assert_eq!(goes(&cpu, 0), Err(FaultKind::NotPresent));
    cpu.switch_to(Some(CONTEXT.keeping()));
    assert_eq!((goes(&cpu, 0), cpu.context()), (Ok(0x4020_0000), Some(CONTEXT)));
    cpu.switch_to(None);
    cpu.switch_to(Some(CONTEXT.keeping()));
    assert_eq!(goes(&cpu, 0), Ok(0x4020_0000));
    cpu.switch_to(Some(CONTEXT));
    assert_eq!(goes(&cpu, 0), Err(FaultKind::NotPresent), "without bit 63 its PCID is forgotten");
}

#[test]
fn without_pcids_a_switch_forgets_all_but_what_is_global() {
    let bench = Bench::common();
    let plain = Context { cr3: 0x4010_0000, cr4: 0xa0, efer: 0xd00 };
    bench.word(PT, PAGE_RW);
    bench.word_now(PT + 8, 0x8000_0000_4020_1167);
    let cpu = bench.cpu(0);
    cpu.switch_to(Some(plain));
    assert_eq!([goes(&cpu, 0), goes(&cpu, 0x1000)], [Ok(0x4020_0000), Ok(0x4020_1000)]);
    [0, 8].iter().for_each(|at| bench.word_now(PT + at, 0));
    cpu.switch_to(Some(plain));
    assert_eq!([goes(&cpu, 0), goes(&cpu, 0x1000)], [Err(FaultKind::NotPresent), Ok(0x4020_1000)]);
    cpu.switch_to(Some(Context { cr4: 0x20, ..plain }));
    assert_eq!(goes(&cpu, 0x1000), Err(FaultKind::NotPresent), "CR4.PGE has changed");
}

#[test]
fn pcids_that_go_and_levels_that_change_take_everything_with_them() {
    let plain = Context { cr3: 0x4010_0000, cr4: 0xa0, efer: 0xd00 };
    let five = Context { cr3: PML5 | 7, cr4: 0x2_10a0, efer: 0xd00 };
    for (next, there) in [(CONTEXT.keeping(), true), (plain, false), (five.keeping(), false)] {
        let bench = Bench::new(CpuFeatures::LARGE, TlbPolicy::holding(1));
        bench.word(PML5, PML4 | 0x27);
        bench.word_now(PT, 0x8000_0000_4020_0167);
        assert_eq!(goes(&bench.cpu(0), 0), Ok(0x4020_0000));
        bench.word_now(PT, 0);
        bench.cpu(0).switch_to(Some(next));
        assert_eq!(goes(&bench.cpu(0), 0).is_ok(), there, "{next:x?}");
    }
}

#[test]
fn without_pge_no_page_is_global() {
    let bench = Bench::common();
    bench.word_now(PT, 0x8000_0000_4020_0167);
    let cpu = bench.cpu(0);
    cpu.switch_to(Some(Context { cr4: 0x2_0020, ..CONTEXT }));
    assert_eq!(goes(&cpu, 0), Ok(0x4020_0000));
    cpu.switch_to(Some(Context { cr4: 0x2_0020, ..OTHER }));
    assert_eq!(goes(&cpu, 0), Err(FaultKind::NotPresent));
}

#[test]
fn a_table_that_was_passed_is_remembered_until_what_goes_through_it_is_forgotten() {
    let bench = Bench::common();
    bench.word_now(PT, PAGE_RW);
    bench.word_now(PT + 8, 0x8000_0000_4020_1067);
    assert_eq!(goes(&bench.cpu(0), 0), Ok(0x4020_0000));
    bench.word_now(PD, 0);
    assert_eq!(goes(&bench.cpu(0), 0x1000), Ok(0x4020_1000), "through the remembered table");
    bench.cpu(0).invalidate(Invalidation::Address { pcid: 7, va: 0x20_0000 });
    bench.cpu(0).invalidate(Invalidation::Address { pcid: 7, va: 0x1000 });
    assert_eq!(goes(&bench.cpu(0), 0x1000), Err(FaultKind::NotPresent));
    assert_eq!(goes(&bench.cpu(0), 0), Ok(0x4020_0000), "a page is not forgotten with its table");
}

#[test]
fn what_forgets_a_pcid_or_everything_forgets_the_tables_that_were_passed_too() {
    let after = |invalidation| {
        let bench = Bench::common();
        bench.word(PT, PAGE_RW);
        bench.word_now(PT + 8, 0x8000_0000_4020_1067);
        assert_eq!(goes(&bench.cpu(0), 0), Ok(0x4020_0000));
        bench.word_now(PD, 0);
        bench.cpu(0).invalidate(invalidation);
        goes(&bench.cpu(0), 0x1000)
    };
    assert_eq!(after(Invalidation::Context { pcid: 9 }), Ok(0x4020_1000));
    for invalidation in [Invalidation::Context { pcid: 7 }, Invalidation::All, Invalidation::AllWithGlobals] {
        assert_eq!(after(invalidation), Err(FaultKind::NotPresent), "{invalidation:?}");
    }
}

#[test]
fn invlpg_forgets_every_table_of_the_pcid_whatever_the_address() {
    let bench = Bench::common();
    bench.word_now(PT, PAGE_RW);
    assert_eq!(goes(&bench.cpu(0), 0), Ok(0x4020_0000));
    bench.word(PT + 8, 0x8000_0000_4020_1067);
    bench.word_now(PD, 0);
    bench.cpu(0).invalidate(Invalidation::Page { va: 0x80_0000_0000 });
    assert_eq!(goes(&bench.cpu(0), 0x1000), Err(FaultKind::NotPresent));
}

#[test]
fn a_restriction_without_an_invalidation_does_not_restrict() {
    let bench = Bench::common();
    bench.word_now(PT, PAGE_RW);
    bench.cpu(0).store(0, &[1]).unwrap();
    bench.word_now(PT, 0x8000_0000_4020_0065);
    assert_eq!(bench.cpu(0).store(0, &[2]), Ok(()));
    bench.cpu(0).invalidate(Invalidation::Page { va: 0 });
    assert_eq!(bench.cpu(0).store(0, &[3]).map_err(|fault| fault.kind), Err(FaultKind::Permission));
}

#[test]
fn a_right_that_was_given_without_an_invalidation_may_cost_one_fault_and_no_second() {
    // The page of one PCID, and a global one.
    for page in [0x8000_0000_4020_0065, 0x8000_0000_4020_0165] {
        let bench = Bench::common();
        bench.word_now(PT, page);
        bench.cpu(0).load(0, &mut [0]).unwrap();
        bench.word_now(PT, page | 2);
        let fault = bench.cpu(0).store(0, &[1]).unwrap_err();
        assert_eq!((fault.kind, fault.error_code()), (FaultKind::Permission, Some(0x07)));
        assert_eq!(bench.cpu(0).store(0, &[1]), Ok(()), "{page:#x}");
    }
    // The same with a right that a table had not.
    let bench = Bench::common();
    bench.word(PT, PAGE_RW);
    bench.word_now(PD, 0x4010_3025);
    bench.cpu(0).load(0, &mut [0]).unwrap();
    bench.word_now(PD, 0x4010_3027);
    assert_eq!(bench.cpu(0).store(0, &[1]).map_err(|fault| fault.kind), Err(FaultKind::Permission));
    assert_eq!(bench.cpu(0).store(0, &[1]), Ok(()));
}

#[test]
fn a_page_that_was_not_there_needs_no_invalidation() {
    let bench = Bench::common();
    assert_eq!(goes(&bench.cpu(0), 0), Err(FaultKind::NotPresent));
    bench.word_now(PT, PAGE_RW);
    assert_eq!(goes(&bench.cpu(0), 0), Ok(0x4020_0000));
}

#[test]
fn a_large_page_may_be_held_in_pieces_and_one_address_forgets_them_all() {
    let bench = Bench::common();
    bench.word_now(PD + 8, 0x8000_0000_4040_00e7);
    let cpu = bench.cpu(0);
    for page in 0..8 {
        assert_eq!(goes(&cpu, 0x20_0000 + 0x1000 * page), Ok(0x4040_0000 + 0x1000 * page));
    }
    assert!(cpu.tlb_len() > 1, "no piece was made");
    bench.word_now(PD + 8, 0);
    cpu.invalidate(Invalidation::Address { pcid: 7, va: 0x3f_f000 });
    assert_eq!(cpu.tlb_len(), 0);
    assert_eq!(goes(&cpu, 0x20_0000), Err(FaultKind::NotPresent));
}

#[test]
fn more_may_be_forgotten_than_was_asked() {
    let bench = Bench::new(CpuFeatures::COMMON, TlbPolicy { early_one_in: 1, ..TlbPolicy::holding(1) });
    bench.word_now(PT, PAGE_RW);
    bench.cpu(0).load(0, &mut [0]).unwrap();
    bench.cpu(0).invalidate(Invalidation::Context { pcid: 9 });
    assert_eq!(bench.cpu(0).tlb_len(), 0);
}

#[test]
fn speculation_brings_in_what_nobody_asked_for_and_eviction_takes_it_out() {
    let policy = TlbPolicy { speculate_one_in: 1, ..TlbPolicy::holding(1) };
    let bench = Bench::new(CpuFeatures::COMMON, policy);
    bench.word(PT + 8, 0x8000_0000_4020_1067);
    bench.word_now(PT, PAGE_RW);
    (0..100).for_each(|_| bench.cpu(0).load(0, &mut [0]).unwrap());
    assert_eq!((bench.cpu(0).tlb_len(), bench.cpu(1).tlb_len()), (2, 2));
    let bench = Bench::new(CpuFeatures::COMMON, TlbPolicy { evict_one_in: 1, ..TlbPolicy::holding(1) });
    bench.word_now(PT, PAGE_RW);
    bench.cpu(0).load(0, &mut [0]).unwrap();
    assert_eq!(bench.cpu(0).tlb_len(), 0);
}

#[test]
fn one_seed_is_one_run() {
    let run = |seed| {
        let bench = Bench::new(CpuFeatures::COMMON, TlbPolicy::seeded(seed));
        (0..64).for_each(|page| bench.word(PT + 8 * page, PAGE_RW + 0x1000 * page));
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
fn an_access_that_began_before_a_shootdown_is_over_when_it_returns() {
    let bench = Bench::common();
    bench.word_now(PT, PAGE_RW);
    for round in 0..200u8 {
        bench.word_now(PT, PAGE_RW);
        std::thread::scope(|scope| {
            let cpu = bench.cpu(1);
            scope.spawn(move || while cpu.store(0, &[round]).is_ok() {});
            bench.word_now(PT, 0);
            bench.cpus.shoot_down(0..2, &Invalidation::of_range(7, 0, 0xfff));
            bench.bus.cpu().write(Pa::new(0x4020_0000), &[0xff]).unwrap();
            let mut byte = [0];
            bench.bus.cpu().read(Pa::new(0x4020_0000), &mut byte).unwrap();
            assert_eq!(byte, [0xff], "the frame is ours again");
            let fault = bench.cpu(1).translate(0, AccessKind::Write).unwrap_err();
            assert_eq!(fault.kind, FaultKind::NotPresent);
        });
    }
}
