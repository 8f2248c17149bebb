//! What is cached, and what makes it go.

use model_smmuv2::{Config, Policy, clause};

use crate::harness::{
    CBAR_S1, Got, L2, L3, Machine, PAGE, S2_L3, SCTLR, TCR, TLBIALL, TLBIASID, TLBIIPAS2, TLBIVA, TLBIVAL,
    TLBSTATUS, TLBSYNC, TTBR0, lazy, plain,
};

/// Page 0x1000 cached, and gone from the table.
fn stale(machine: &Machine) {
    assert_eq!(machine.read(5, 0x1000), Got::At(0x30_0000));
    machine.words(L3 + 8, &[0]);
    assert_eq!(machine.read(5, 0x1000), Got::At(0x30_0000), "what is cached lives");
}

#[test]
fn an_operation_alone_is_not_in_force_and_a_synchronization_makes_it_so() {
    let machine = Machine::stage1(lazy());
    stale(&machine);
    machine.cb64(0, TLBIVAL, 3 << 48 | 1);
    assert_eq!(machine.read(5, 0x1000), Got::At(0x30_0000), "posted, and waits");
    machine.sync(0);
    assert_eq!(machine.read(5, 0x1000), Got::Abort);
    machine.assert_clean();
}

#[test]
fn a_synchronization_of_a_bank_is_for_what_was_posted_there() {
    // Nothing takes effect by itself.
    let policy = Policy { sync_ticks: 0, work_on_reads: false, ..lazy().policy };
    let machine = Machine::stage1(Config { policy, ..lazy() });
    stale(&machine);
    machine.cb64(0, TLBIVAL, 3 << 48 | 1);
    machine.sync(2);
    assert_eq!(machine.read(5, 0x1000), Got::At(0x30_0000), "bank 2 says nothing about bank 0");
    let machine = Machine::stage1(lazy());
    stale(&machine);
    machine.cb64(0, TLBIVAL, 3 << 48 | 1);
    machine.gsync();
    assert_eq!(machine.read(5, 0x1000), Got::Abort, "the global one covers all");
}

#[test]
fn each_operation_takes_what_it_names() {
    /// A name, how it is written, whether page 0x1000 of VMID 7, ASID 3 goes.
    type Row = (&'static str, fn(&Machine), bool);
    let rows: [Row; 16] = [
        ("TLBIVA", |m| m.cb64(0, TLBIVA, 3 << 48 | 1), true),
        ("TLBIVA of another ASID", |m| m.cb64(0, TLBIVA, 4 << 48 | 1), false),
        ("TLBIVA of another page", |m| m.cb64(0, TLBIVA, 3 << 48 | 2), false),
        ("TLBIVA, lower half: ASID 0", |m| m.cb(0, TLBIVA, 1), false),
        ("TLBIVAA, lower half", |m| m.cb(0, 0x608, 1), true),
        ("TLBIVAAL", |m| m.cb64(0, 0x628, 1), true),
        ("TLBIASID", |m| m.cb(0, TLBIASID, 3), true),
        ("TLBIASID of another", |m| m.cb(0, TLBIASID, 4), false),
        ("TLBIALL", |m| m.cb(0, TLBIALL, 0), true),
        ("TLBIALL of a bank of another VMID", |m| m.cb(2, TLBIALL, 0), false),
        ("TLBIVMID", |m| m.w32(0x64, 7), true),
        ("TLBIVMID of another", |m| m.w32(0x64, 8), false),
        ("TLBIVMIDS1", |m| m.w32(0xb8, 7), true),
        ("TLBIALLNSNH", |m| m.w32(0x68, 0), true),
        ("TLBIALLH", |m| m.w32(0x6c, 0), false),
        ("TLBIVALH64", |m| m.w64(0xb0, 1), false),
    ];
    for (name, write, goes) in rows {
        for config in [plain(), lazy()] {
            let machine = Machine::stage1(config);
            machine.w32(0x1008, 0x0001_f308);
            machine.w32(0x1808, 1);
            stale(&machine);
            write(&machine);
            machine.gsync();
            let expected = if goes { Got::Abort } else { Got::At(0x30_0000) };
            assert_eq!(machine.read(5, 0x1000), expected, "{name}");
            machine.assert_clean();
        }
    }
}

#[test]
fn operations_of_an_aarch32_bank_have_the_address_above_and_the_asid_below() {
    let machine = Machine::new(plain());
    machine.tables();
    machine.w32(0x1000, CBAR_S1);
    machine.cb(0, TCR, 0x8000_0000);
    machine.cb64(0, TTBR0, 3 << 48 | 0x10_0000);
    machine.cb(0, 0x38, 0xff);
    machine.cb(0, 0, 0x67);
    machine.stream(0, 5, 0, 0);
    stale(&machine);
    machine.cb(0, TLBIVAL, 0x1004);
    machine.sync(0);
    assert_eq!(machine.read(5, 0x1000), Got::At(0x30_0000), "ASID 4");
    machine.cb(0, TLBIVAL, 0x1003);
    machine.sync(0);
    assert_eq!(machine.read(5, 0x1000), Got::Abort);
    machine.assert_clean();
}

#[test]
fn leaf_only_operations_leave_the_tables_above() {
    for (at, moved) in [(TLBIVA, Got::At(0x90_0000)), (TLBIVAL, Got::At(0x30_0000))] {
        let machine = Machine::stage1(plain());
        assert_eq!(machine.read(5, 0x1000), Got::At(0x30_0000));
        // Another table of level 3.
        machine.words(L2, &[0x18_0000 | 3]);
        machine.words(0x18_0008, &[0x90_0000 | PAGE]);
        machine.cb64(0, at, 3 << 48 | 1);
        machine.sync(0);
        assert_eq!(machine.read(5, 0x1000), moved);
    }
}

#[test]
fn global_pages_are_of_every_asid() {
    let machine = Machine::stage1(plain());
    machine.words(L3 + 16, &[0x40_0000 | PAGE & !0x800]);
    assert_eq!(machine.read(5, 0x2000), Got::At(0x40_0000));
    machine.words(L3 + 16, &[0]);
    // Another ASID, by another bank with the same VMID, meets it.
    machine.bank1(2, CBAR_S1);
    machine.cb(2, 0, 0);
    machine.cb64(2, TTBR0, 9 << 48 | 0x10_0000);
    machine.cb(2, 0, 0x67);
    machine.clauses();
    machine.stream(1, 6, 0, 2);
    assert_eq!(machine.read(6, 0x2000), Got::At(0x40_0000));
    machine.cb(0, TLBIASID, 3);
    machine.sync(0);
    assert_eq!(machine.read(6, 0x2000), Got::At(0x40_0000), "an ASID does not take it");
    machine.cb64(0, TLBIVAL, 5 << 48 | 2);
    machine.sync(0);
    assert_eq!(machine.read(6, 0x2000), Got::Abort, "the ASID is not checked");
}

#[test]
fn a_new_table_base_is_only_stale() {
    let machine = Machine::stage1(plain());
    assert_eq!(machine.read(5, 0x1000), Got::At(0x30_0000));
    machine.words(0x19_0000, &[0]);
    machine.cb64(0, TTBR0, 3 << 48 | 0x19_0000);
    assert_eq!(machine.read(5, 0x1000), Got::At(0x30_0000));
    machine.assert_clean();
    machine.cb(0, TLBIASID, 3);
    machine.sync(0);
    assert_eq!(machine.read(5, 0x1000), Got::Abort);
}

#[test]
fn an_asid_used_again_meets_what_was_left() {
    let machine = Machine::stage1(plain());
    stale(&machine);
    machine.bank1(2, CBAR_S1);
    machine.stream(1, 6, 0, 2);
    assert_eq!(machine.read(6, 0x1000), Got::At(0x30_0000), "no tag names a bank");
}

#[test]
fn stage_2_operations_take_what_is_of_stage_2_alone() {
    let machine = Machine::nested(plain());
    machine.words(L3 + 16, &[0x40_1000 | PAGE]);
    assert_eq!(machine.read(5, 0x2000), Got::At(0x50_0000));
    machine.words(S2_L3 + 8, &[0]);
    machine.cb64(1, TLBIIPAS2, 0x401);
    machine.sync(1);
    assert_eq!(machine.read(5, 0x2000), Got::At(0x50_0000), "both stages in one: not by its IPA");
    machine.w32(0xb8, 7);
    machine.gsync();
    assert_eq!(machine.read(5, 0x2000), Got::Abort);
    machine.assert_clean();
    // The other way round: stage 1's entries go, stage 2's stay.
    let machine = Machine::nested(plain());
    machine.words(L3 + 16, &[0x40_1000 | PAGE]);
    assert_eq!(machine.read(5, 0x2000), Got::At(0x50_0000));
    machine.words(S2_L3 + 8, &[0]);
    machine.w32(0xb8, 7);
    machine.gsync();
    assert_eq!(machine.read(5, 0x2000), Got::At(0x50_0000));
    machine.w32(0x64, 7);
    machine.gsync();
    assert_eq!(machine.read(5, 0x2000), Got::Abort, "TLBIVMID takes both");
}

#[test]
fn stage_2_alone_goes_by_intermediate_address_and_vmid() {
    for (value, goes) in [(0x401, true), (0x402, false)] {
        let machine = Machine::stage2(lazy());
        assert_eq!(machine.read(5, 0x40_1000), Got::At(0x50_0000));
        machine.words(S2_L3 + 8, &[0]);
        machine.cb64(1, 0x638, value);
        machine.sync(1);
        assert_eq!(machine.read(5, 0x40_1000) == Got::Abort, goes);
        machine.assert_clean();
    }
}

#[test]
fn a_status_says_active_until_all_is_done() {
    let config =
        Config { policy: Policy { sync_ticks: 100, work_on_reads: false, ..lazy().policy }, ..lazy() };
    let machine = Machine::bare(config);
    assert_eq!((machine.r32(0x74), machine.rcb(3, TLBSTATUS)), (0, 0));
    machine.cb(3, TLBSYNC, 0);
    let mut longest = 0;
    for _ in 0..40 {
        machine.w32(0x70, 0);
        let steps = (0..200).take_while(|_| machine.r32(0x74) == 1 && (machine.step(), true).1).count();
        longest = longest.max(steps);
    }
    assert!(longest > 20, "{longest}");
    assert_eq!((machine.r32(0x74), machine.rcb(3, TLBSTATUS)), (0, 0));
    let counters = machine.smmu.counters();
    assert_eq!((counters.operation("TLBGSYNC"), counters.syncs_done, counters.invalidations()), (40, 41, 0));
}

#[test]
fn hardware_can_be_stuck() {
    let machine = Machine::stage1(lazy());
    stale(&machine);
    machine.smmu.jam_syncs(true);
    machine.cb64(0, TLBIVAL, 3 << 48 | 1);
    machine.cb(0, TLBSYNC, 0);
    machine.smmu.jam_syncs(false);
    for _ in 0..1000 {
        machine.step();
    }
    assert_eq!((machine.rcb(0, TLBSTATUS), machine.smmu.counters().syncs_stuck), (1, 1));
    machine.cb(0, TLBSYNC, 0);
    for _ in 0..1000 {
        machine.step();
    }
    assert_eq!(machine.rcb(0, TLBSTATUS), 1, "writing it again does not help");
    machine.smmu.reset();
    assert_eq!(machine.rcb(0, TLBSTATUS), 0);
    let always = Config { policy: Policy { stuck_sync_one_in: 1, ..plain().policy }, ..plain() };
    let machine = Machine::bare(always);
    machine.w32(0x70, 0);
    assert_eq!(machine.r32(0x74), 1);
}

#[test]
fn a_live_translation_that_was_changed_is_noticed() {
    let policy = Policy { audit_one_in: 1, ..Policy::eager() };
    let machine = Machine::stage1(Config { policy, ..plain() });
    machine.read(5, 0x1000);
    machine.words(L3 + 8, &[0x31_0000 | PAGE]);
    assert_eq!(machine.read(5, 0x1000), Got::At(0x30_0000));
    assert_eq!(machine.clauses(), [clause::BREAK_BEFORE_MAKE]);
    // Two banks with the same tags.
    let machine = Machine::stage1(Config { policy, ..plain() });
    machine.read(5, 0x1000);
    machine.bank1(2, CBAR_S1);
    machine.cb(2, 0, 0);
    machine.cb64(2, TTBR0, 3 << 48 | 0x1a_0000);
    machine.cb(2, 0, 0x67);
    machine.clauses();
    machine.words(0x1a_0000, &[0x1b_0000 | 3]);
    machine.words(0x1b_0000, &[0x1c_0000 | 3]);
    machine.words(0x1c_0008, &[0x99_0000 | PAGE]);
    machine.stream(1, 6, 0, 2);
    assert_eq!(machine.read(6, 0x1000), Got::At(0x30_0000));
    assert_eq!(machine.clauses(), [clause::SHARED_TAGS]);
}

#[test]
fn a_hostile_part_still_forgets_what_it_is_told_to() {
    let machine = Machine::stage1(Config { policy: Policy::hostile(), ..plain() });
    for page in 0..200u64 {
        machine.words(L3 + 8, &[(0x30_0000 + page * 0x1000) | PAGE]);
        for _ in 0..5 {
            assert_eq!(machine.read(5, 0x1000), Got::At(0x30_0000 + page * 0x1000));
        }
        machine.words(L3 + 8, &[0]);
        machine.cb64(0, TLBIVAL, 3 << 48 | 1);
        machine.sync(0);
        assert_eq!(machine.read(5, 0x1000), Got::Abort);
        machine.fault(0);
    }
    machine.assert_clean();
}

#[test]
fn an_enabled_bank_fetches_again_what_an_invalidation_took_and_one_that_is_off_does_not() {
    for (sctlr, cached) in [(0x67, 1), (0x66, 0)] {
        let policy = Policy { idle_prefetch_one_in: 1, ..plain().policy };
        let machine = Machine::stage1(Config { policy, ..plain() });
        assert_eq!(machine.read(5, 0x1000), Got::At(0x30_0000));
        machine.cb(0, 0, sctlr);
        machine.cb(0, TLBIASID, 3);
        machine.sync(0);
        for _ in 0..20 {
            machine.step();
        }
        assert_eq!(machine.smmu.cached_translations(), cached);
        machine.assert_clean();
    }
}

#[test]
fn hardware_fetches_ahead_only_for_banks_that_are_on_and_as_they_were() {
    let policy = Policy { idle_prefetch_one_in: 1, ..Policy::eager() };
    let fetches = |change: fn(&Machine)| {
        let machine = Machine::nested(Config { policy, ..Config::default() });
        assert_eq!(machine.read(5, 0x1000), Got::At(0x30_0000));
        change(&machine);
        machine.w32(0x68, 0); // TLBIALLNSNH
        machine.gsync();
        for _ in 0..50 {
            machine.step();
        }
        machine.smmu.cached_translations() != 0
    };
    assert!(fetches(|_| {}));
    assert!(!fetches(|machine| machine.cb(0, SCTLR, 0)));
    // Stage 2 is bypassed from now on: it is another bank than the one that was used.
    assert!(!fetches(|machine| machine.w32(0x1000, CBAR_S1)));
}

#[test]
fn no_more_translations_are_kept_than_the_policy_has_room_for() {
    let policy = Policy { translations: 2, ..Policy::eager() };
    let machine = Machine::stage1(Config { policy, ..Config::default() });
    for page in 1..=5 {
        machine.words(L3 + 8 * page, &[0x30_0000 | PAGE]);
        assert_eq!(machine.read(5, page << 12), Got::At(0x30_0000));
        assert_eq!(machine.smmu.cached_translations() as u64, page.min(2));
    }
}
