//! Cached translations: stale until invalidated, and never changed under the hardware's feet.

use model_smmuv3::{Config, Policy, clause};

use crate::harness::{CD, Got, L1, L2, L3, Machine, PAGE, S2_L3, S2_PAGE, STE_NESTED, STE_S2, plain};

/// CMD_TLBI_NH_VA of ASID 1, leaf only.
fn invalidate(machine: &Machine, address: u64) {
    machine.command(0x0001_0000_0000_0012, address | 1);
    machine.sync();
}

#[test]
fn an_unmapped_page_stays_reachable_until_it_is_invalidated() {
    let machine = Machine::stage1(plain());
    assert_eq!(machine.read(1, 0x1000), Got::At(0x30_0000));
    machine.words(L3 + 8, &[0]);
    assert_eq!(machine.read(1, 0x1004), Got::At(0x30_0004));
    invalidate(&machine, 0x2000);
    assert_eq!(machine.read(1, 0x1004), Got::At(0x30_0004), "another page's does not help");
    invalidate(&machine, 0x1000);
    assert_eq!(machine.read(1, 0x1004), Got::Abort);
    assert_eq!(machine.event()[0] & 0xff, 0x10);
    machine.assert_clean();
}

#[test]
fn a_fault_is_never_cached() {
    let machine = Machine::stage1(plain());
    assert_eq!(machine.read(1, 0x2000), Got::Abort);
    machine.words(L3 + 0x10, &[0x30_1000 | PAGE]);
    assert_eq!(machine.read(1, 0x2000), Got::At(0x30_1000));
}

#[test]
fn rights_are_cached_with_the_translation() {
    let machine = Machine::stage1(plain());
    machine.words(L3 + 8, &[0x30_0000 | PAGE | 0x80]);
    assert_eq!(machine.write(1, 0x1000), Got::Abort);
    assert_eq!(machine.read(1, 0x1000), Got::At(0x30_0000));
    machine.words(L3 + 8, &[0x30_0000 | PAGE]);
    assert_eq!(machine.write(1, 0x1000), Got::Abort, "still read-only");
    invalidate(&machine, 0x1000);
    assert_eq!(machine.write(1, 0x1000), Got::At(0x30_0000));
    machine.assert_clean();
}

#[test]
fn a_cached_table_is_followed_until_invalidated_with_leaf_0() {
    let machine = Machine::stage1(plain());
    assert_eq!(machine.read(1, 0x1000), Got::At(0x30_0000));
    // The level 3 table moves; the old one still says something.
    machine.words(L2, &[0]);
    machine.words(L3 + 0x10, &[0x30_1000 | PAGE]);
    invalidate(&machine, 0x2000);
    assert_eq!(machine.read(1, 0x2000), Got::At(0x30_1000), "through the remembered table");
    machine.command(0x0001_0000_0000_0012, 0x2000); // Leaf=0
    machine.sync();
    assert_eq!(machine.read(1, 0x2000), Got::Abort);
}

#[test]
fn a_range_is_invalidated_by_one_command() {
    let machine = Machine::stage1(plain());
    let pages: Vec<u64> = (0..8).map(|i| (0x30_0000 + i * 0x1000) | PAGE).collect();
    machine.words(L3, &pages);
    (0..8).for_each(|i| assert_eq!(machine.read(1, i << 12), Got::At(0x30_0000 + (i << 12))));
    // NUM=2, SCALE=1, TG=4K, TTL=3: six pages from page 1.
    machine.command(0x0001_0000_0010_2012, 0x1701);
    machine.sync();
    assert_eq!(machine.smmu.cached_translations(), 2);
    assert_eq!(machine.smmu.counters().invalidated, 6);
    machine.assert_clean();
}

#[test]
fn a_wrong_hint_removes_nothing() {
    // TTL=2 for a page; TG=64K for 4 KiB.
    for hint in [0x0601, 0x0d01] {
        let machine = Machine::stage1(plain());
        machine.words(L3, &[0x30_0000 | PAGE]);
        assert_eq!(machine.read(1, 0x0), Got::At(0x30_0000));
        machine.command(0x0001_0000_0000_0012, hint);
        machine.sync();
        assert_eq!(machine.smmu.cached_translations(), 1, "{hint:#x}");
    }
}

#[test]
fn global_translations_are_shared_and_survive_an_invalidation_by_asid() {
    let machine = Machine::stage1(plain());
    // Stream 2 has ASID 2 and the same tables; the page is global.
    machine.ste(2, &[0x5_100b, 0, 0, 0, 0, 0, 0, 0]);
    machine.words(CD + 0x1000, &[0x0002_6205_c000_0019, L1, 0, 0xff]);
    machine.words(L3 + 8, &[0x30_0000 | PAGE & !0x800]);
    assert_eq!([machine.read(1, 0x1000), machine.read(2, 0x1000)], [Got::At(0x30_0000); 2]);
    assert_eq!(machine.smmu.cached_translations(), 1);
    machine.command(0x0001_0000_0000_0011, 0);
    machine.sync();
    assert_eq!(machine.smmu.cached_translations(), 1);
    invalidate(&machine, 0x1000);
    assert_eq!(machine.smmu.cached_translations(), 0);
    machine.assert_clean();
}

#[test]
fn translations_of_one_asid_are_shared_by_its_streams() {
    let machine = Machine::stage1(plain());
    machine.ste(2, &[0x5_000b, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!([machine.read(1, 0x1000), machine.read(2, 0x1000)], [Got::At(0x30_0000); 2]);
    assert_eq!((machine.smmu.counters().misses, machine.smmu.counters().hits), (1, 1));
}

#[test]
fn translations_of_another_vmid_are_not_found() {
    let machine = Machine::stage1(plain());
    machine.ste(2, &[0x5_000b, 0, 1, 0, 0, 0, 0, 0]);
    assert_eq!([machine.read(1, 0x1000), machine.read(2, 0x1000)], [Got::At(0x30_0000); 2]);
    assert_eq!(machine.smmu.counters().misses, 2);
    machine.command(0x0000_0001_0000_0010, 0); // CMD_TLBI_NH_ALL, VMID 1
    machine.sync();
    assert_eq!(machine.smmu.cached_translations(), 1);
}

#[test]
fn stage_2_is_invalidated_by_ipa_but_both_stages_together_are_not() {
    let machine = Machine::new(plain());
    machine.tables2();
    machine.ste(1, &STE_S2);
    assert_eq!(machine.read(1, 0x40_1000), Got::At(0x50_0000));
    machine.words(S2_L3 + 8, &[0]);
    machine.command(0x0000_0001_0000_002a, 0x40_1001);
    machine.sync();
    assert_eq!(machine.read(1, 0x40_1000), Got::Abort);

    let machine = Machine::new(plain());
    machine.tables2();
    machine.tables();
    machine.words(L3 + 8, &[0x40_1000 | PAGE]);
    machine.words(CD, &crate::harness::CD_39);
    machine.ste(1, &STE_NESTED);
    assert_eq!(machine.read(1, 0x1000), Got::At(0x50_0000));
    machine.words(S2_L3 + 8, &[0]);
    machine.command(0x0000_0001_0000_002a, 0x40_1001);
    machine.sync();
    assert_eq!(machine.read(1, 0x1000), Got::At(0x50_0000), "CMD_TLBI_S2_IPA need not find it");
    machine.command(0x0000_0001_0000_0010, 0);
    machine.sync();
    assert_eq!(machine.read(1, 0x1000), Got::Abort);
    machine.assert_clean();
}

/// A 3.1 part (level 0), level 1, level 2.
fn level(level: u8) -> Config {
    Config { break_before_make_level: level, ..plain() }
}

const BLOCK: u64 = 0x40_0000 | PAGE & !2;

#[test]
fn a_live_page_that_leads_elsewhere_breaks_the_rule_at_its_invalidation() {
    let change = [
        0x31_0000 | PAGE,          // another output
        0x30_0000 | PAGE | 0x4,    // another memory type
        0x30_0000 | PAGE & !0x300, // another shareability
    ];
    for now in change {
        let machine = Machine::stage1(plain());
        assert_eq!(machine.read(1, 0x1000), Got::At(0x30_0000));
        machine.words(L3 + 8, &[now]);
        invalidate(&machine, 0x1000);
        assert_eq!(machine.clauses(), [clause::BREAK_BEFORE_MAKE], "{now:#x}");
    }
    // Rights may change in place; and with a break between, anything may.
    let machine = Machine::stage1(plain());
    assert_eq!(machine.read(1, 0x1000), Got::At(0x30_0000));
    machine.words(L3 + 8, &[0x30_0000 | PAGE | 0x80]);
    invalidate(&machine, 0x1000);
    assert_eq!(machine.read(1, 0x1000), Got::At(0x30_0000));
    machine.words(L3 + 8, &[0]);
    invalidate(&machine, 0x1000);
    machine.words(L3 + 8, &[0x31_0000 | PAGE]);
    assert_eq!(machine.read(1, 0x1000), Got::At(0x31_0000));
    machine.assert_clean();
}

#[test]
fn a_table_replaced_under_a_live_page_breaks_the_rule() {
    let machine = Machine::stage1(plain());
    assert_eq!(machine.read(1, 0x1000), Got::At(0x30_0000));
    // Another level 3 table, where the page leads elsewhere; the old one stays as it was, and stays remembered.
    machine.words(L3 + 0x1008, &[0x31_0000 | PAGE]);
    machine.words(L2, &[(L3 + 0x1000) | 3]);
    invalidate(&machine, 0x1000);
    assert_eq!(machine.clauses(), [clause::BREAK_BEFORE_MAKE]);
}

#[test]
fn what_nobody_can_reach_is_not_judged() {
    // Switched off: no translation is live.
    let machine = Machine::stage1(plain());
    assert_eq!(machine.read(1, 0x1000), Got::At(0x30_0000));
    machine.disable();
    machine.words(L3 + 8, &[0x31_0000 | PAGE]);
    invalidate(&machine, 0x1000);
    machine.assert_clean();
    // The stream's configuration is no longer cached: it is not fetched for the sake of a look.
    let machine = Machine::stage1(plain());
    assert_eq!(machine.read(1, 0x1000), Got::At(0x30_0000));
    machine.flush_ste(1);
    let reads = machine.smmu.counters().configuration_reads;
    machine.words(L3 + 8, &[0x31_0000 | PAGE]);
    invalidate(&machine, 0x1000);
    machine.assert_clean();
    assert_eq!(machine.smmu.counters().configuration_reads, reads);
}

#[test]
fn a_stage_2_page_that_leads_elsewhere_breaks_the_rule() {
    let machine = Machine::new(plain());
    machine.tables2();
    machine.ste(1, &STE_S2);
    assert_eq!(machine.read(1, 0x40_1000), Got::At(0x50_0000));
    machine.words(S2_L3 + 8, &[0x60_0000 | S2_PAGE]);
    machine.command(0x0000_0001_0000_002a, 0x40_1001);
    machine.sync();
    assert_eq!(machine.clauses(), [clause::BREAK_BEFORE_MAKE]);
}

/// Replaces a live block by a table of equal pages, or the other way round, and uses another page of it.
fn resize(config: Config, to_block: bool, nt: u64) -> (Machine, Got) {
    let machine = Machine::stage1(config);
    let pages: Vec<u64> = (0..512).map(|i| (0x40_0000 + i * 0x1000) | PAGE).collect();
    machine.words(L3, &pages);
    let forms = [L3 | 3, BLOCK | nt];
    machine.words(L2, &[forms[usize::from(!to_block)]]);
    assert_eq!(machine.read(1, 0x1000), Got::At(0x40_1000));
    machine.words(L2, &[forms[usize::from(to_block)]]);
    // Forget the table, but not the page.
    machine.command(0x0001_0000_0000_0012, 0x0010_0000 & !0xfff);
    machine.sync();
    let got = machine.read(1, 0x2000);
    (machine, got)
}

#[test]
fn the_size_of_a_live_translation_may_change_as_bbml_allows() {
    // Level 2: freely. Level 1: only with nT on the block. Level 0: never.
    for (bbml, nt, broken) in
        [(2, 0, false), (1, 0, true), (1, 1 << 16, false), (0, 0, true), (0, 1 << 16, true)]
    {
        let (machine, got) = resize(level(bbml), true, nt);
        assert_eq!(got, Got::At(0x40_2000));
        assert_eq!(machine.clauses().contains(&clause::BREAK_BEFORE_MAKE), broken, "BBML {bbml}, nT {nt:#x}");
    }
}

#[test]
fn a_block_that_became_a_table_is_judged_at_its_invalidation() {
    for (bbml, broken) in [(2, false), (1, true), (0, true)] {
        let (machine, _) = resize(level(bbml), false, 0);
        assert_eq!(machine.clauses().contains(&clause::BREAK_BEFORE_MAKE), broken, "BBML {bbml}");
    }
}

#[test]
fn a_conflict_is_a_fault_if_the_policy_wants_it_and_the_level_allows() {
    for (bbml, fault) in [(0, true), (1, true), (2, false)] {
        let policy = Policy { conflict_faults: true, ..Policy::eager() };
        let (machine, got) = resize(Config { policy, ..level(bbml) }, true, 0);
        assert_eq!(got == Got::Abort, fault);
        let records = machine.events();
        assert_eq!(records.len(), usize::from(fault));
        if fault {
            assert_eq!(records[0][..3], [0x0000_0001_0000_0020, 0x0000_0008_0000_0000, 0x2000]);
        }
    }
}

#[test]
fn making_a_global_page_over_private_ones_breaks_the_rule() {
    let machine = Machine::stage1(plain());
    let pages: Vec<u64> = (0..512).map(|i| (0x40_0000 + i * 0x1000) | PAGE).collect();
    machine.words(L3, &pages);
    assert_eq!(machine.read(1, 0x1000), Got::At(0x40_1000));
    machine.words(L2, &[BLOCK & !0x800]);
    machine.command(0x0001_0000_0000_0012, 0x10_0000);
    machine.sync();
    let _ = machine.read(1, 0x2000);
    assert_eq!(machine.clauses(), [clause::BREAK_BEFORE_MAKE]);
}

#[test]
fn a_hit_is_looked_at_again_now_and_then() {
    let policy = Policy { audit_one_in: 4, ..Policy::eager() };
    let machine = Machine::stage1(Config { policy, ..plain() });
    assert_eq!(machine.read(1, 0x1000), Got::At(0x30_0000));
    machine.words(L3 + 8, &[0x31_0000 | PAGE]);
    for _ in 0..16 {
        assert_eq!(machine.read(1, 0x1000), Got::At(0x30_0000), "the old one is used nevertheless");
    }
    assert!(machine.clauses().contains(&clause::BREAK_BEFORE_MAKE));
}

#[test]
fn a_group_half_made_or_half_cleared_is_no_fault_of_software_while_no_device_uses_it() {
    let group: Vec<u64> = (0..16).map(|i| (0x0010_0000_0031_0000 + i * 0x1000) | PAGE).collect();
    // Half made, and fetched ahead.
    let machine = Machine::stage1(plain());
    machine.words(L3 + 16 * 8, &group[..8]);
    machine.command(0x1_0000_0002, 0x1_0000);
    assert_eq!(machine.smmu.cached_translations(), 1);
    machine.assert_clean();
    // Half cleared, and looked at because of its invalidation.
    let machine = Machine::stage1(plain());
    machine.words(L3 + 16 * 8, &group);
    assert_eq!(machine.read(1, 0x1_0000), Got::At(0x31_0000));
    machine.words(L3 + 24 * 8, &[0; 8]);
    invalidate(&machine, 0x1_8000);
    assert_eq!(machine.smmu.cached_translations(), 0);
    machine.assert_clean();
}

#[test]
fn translations_may_be_thrown_out_at_any_time() {
    let policy = Policy { evict_one_in: 2, ..Policy::eager() };
    let machine = Machine::stage1(Config { policy, ..plain() });
    let pages: Vec<u64> = (0..64).map(|i| (0x30_0000 + i * 0x1000) | PAGE).collect();
    machine.words(L3, &pages);
    (0..64).for_each(|i| assert_eq!(machine.read(1, i << 12), Got::At(0x30_0000 + (i << 12))));
    let kept = machine.smmu.cached_translations();
    assert!((20..50).contains(&kept), "one access in two throws one out: {kept} of 64 are left");
}

#[test]
fn the_cache_has_a_limit() {
    let policy = Policy { translations: 4, ..Policy::eager() };
    let machine = Machine::stage1(Config { policy, ..plain() });
    let pages: Vec<u64> = (0..8).map(|i| (0x30_0000 + i * 0x1000) | PAGE).collect();
    machine.words(L3, &pages);
    (0..8).for_each(|i| assert_eq!(machine.read(1, i << 12), Got::At(0x30_0000 + (i << 12))));
    assert_eq!(machine.smmu.cached_translations(), 4);
}

#[test]
fn prefetching_finds_a_page_before_anybody_asks() {
    let policy = Policy { prefetch_one_in: 1, ..Policy::eager() };
    let machine = Machine::stage1(Config { policy, ..plain() });
    let pages: Vec<u64> = (0..64).map(|i| (0x30_0000 + i * 0x1000) | PAGE).collect();
    machine.words(L3, &pages);
    for _ in 0..100 {
        assert_eq!(machine.read(1, 0x1_0000), Got::At(0x31_0000));
    }
    assert!(machine.smmu.cached_translations() > 10);
    assert_eq!(machine.events(), [[0; 4]; 0]);
    machine.assert_clean();
}

#[test]
fn streams_nobody_used_may_be_fetched() {
    let policy = Policy { prefetch_streams_one_in: 1, ..Policy::eager() };
    let machine = Machine::stage1(Config { policy, ..plain() });
    for _ in 0..50 {
        machine.smmu_step();
    }
    // Stream 2 was seen as not valid, and is remembered so.
    machine.ste(2, &crate::harness::STE_BYPASS);
    assert_eq!(machine.read(2, 0x1000), Got::Abort);
}
