//! Broadcast TLB maintenance, and the regimes of EL2.

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use model_bus::{Outcome, Request, Translator};
use model_smmuv3::{Broadcast, BroadcastRegime, BroadcastScope, Config, Policy, clause};
use portcullis_types::{Access, Iova, SourceId};

use crate::harness::{CD, CD_39, Got, L1, L2, L3, Machine, PAGE, S2_L3, S2_PAGE, STE_S1, STE_S2, plain};

/// CD.ASET, bit 47: the ASID is the SMMU's own.
const ASET: u64 = 1 << 47;
/// STE.STRW=0b10, bits 95:94: EL2, with E2H or without.
const STRW_EL2: u64 = 2 << 30;
/// CR2: RECINVSID, PTM, E2H.
const RECINVSID: u32 = 2;
const PTM: u32 = 4;
const E2H: u32 = 1;

const EL1: BroadcastRegime = BroadcastRegime::El1 { vmid: 0 };

fn listening() -> Config {
    Config { broadcast: true, hyp: true, ..plain() }
}

/// Enabled with this CR2, and stream 1 with its page 0x1000.
fn machine(config: Config, cr2: u32, ste1: u64, aset: u64) -> Machine {
    let machine = Machine::bare(config);
    machine.set_up();
    machine.w32(0x2c, cr2);
    machine.command(0x20, 0); // CMD_TLBI_EL2_ALL
    machine.sync();
    machine.enable();
    let mut ste = STE_S1;
    ste[1] |= ste1;
    machine.ste(1, &ste);
    let mut cd = CD_39;
    cd[0] |= aset;
    machine.words(CD, &cd);
    machine.tables();
    assert_eq!(machine.read(1, 0x1000), Got::At(0x30_0000));
    machine
}

fn listener() -> Machine {
    machine(listening(), RECINVSID, 0, 0)
}

fn send(machine: &Machine, regime: BroadcastRegime, scope: BroadcastScope) {
    machine.smmu.broadcast(&Broadcast { regime, scope });
}

fn address(asid: Option<u16>, at: u64) -> BroadcastScope {
    BroadcastScope::Address { asid, first: at, last: at + 0xfff, last_level_only: true }
}

#[test]
fn a_cpus_invalidation_reaches_the_smmu_without_a_command() {
    let machine = listener();
    machine.words(L3 + 8, &[0]);
    assert_eq!(machine.read(1, 0x1000), Got::At(0x30_0000), "stale");
    send(&machine, EL1, address(Some(1), 0x1000));
    machine.smmu.broadcast_sync();
    assert_eq!(machine.read(1, 0x1000), Got::Abort);
    let counters = machine.smmu.counters();
    assert_eq!((counters.broadcasts, counters.invalidated), (1, 1));
    machine.assert_clean();
}

#[test]
fn nothing_is_heard_without_btm_with_ptm_and_before_ptm_took_effect() {
    let deaf = |machine: &Machine| {
        send(machine, EL1, BroadcastScope::EveryVmid);
        machine.smmu.broadcast_sync();
        assert_eq!((machine.smmu.cached_translations(), machine.smmu.counters().broadcasts), (1, 0));
    };
    deaf(&machine(Config { broadcast: false, ..listening() }, RECINVSID, 0, 0));
    let private = machine(listening(), RECINVSID | PTM, 0, 0);
    deaf(&private);
    // It takes effect when SMMUEN is next set.
    private.disable();
    private.w32(0x2c, RECINVSID);
    deaf(&private);
    private.enable();
    send(&private, EL1, BroadcastScope::EveryVmid);
    private.smmu.broadcast_sync();
    assert_eq!(private.smmu.cached_translations(), 0);
}

#[test]
fn ptm_is_there_with_btm_only_and_set_out_of_reset() {
    assert_eq!(Machine::bare(listening()).r32(0x2c), PTM);
    let without = Machine::bare(plain());
    assert_eq!(without.r32(0x2c), 0);
    without.w32(0x2c, PTM | RECINVSID);
    assert_eq!(without.r32(0x2c), RECINVSID, "RES0");
}

#[test]
fn an_operation_may_be_late_but_not_later_than_its_sync() {
    let lazy = Policy { lazy_invalidation: true, work_on_reads: false, ..Policy::eager() };
    let machine = machine(Config { policy: lazy, ..listening() }, RECINVSID, 0, 0);
    send(&machine, EL1, address(Some(1), 0x1000));
    assert_eq!(machine.smmu.cached_translations(), 1, "not yet");
    machine.smmu.broadcast_sync();
    assert_eq!(machine.smmu.cached_translations(), 0);
    // Or some time by itself.
    assert_eq!(machine.read(1, 0x1000), Got::At(0x30_0000));
    send(&machine, EL1, address(Some(1), 0x1000));
    (0..1000).for_each(|_| machine.smmu_step());
    assert_eq!(machine.smmu.cached_translations(), 0);
    machine.assert_clean();
}

#[test]
fn a_cmd_sync_completes_no_broadcast() {
    let lazy = Policy { lazy_invalidation: true, work_on_reads: false, ..Policy::eager() };
    let machine = machine(Config { policy: lazy, ..listening() }, RECINVSID, 0, 0);
    let mut kept = 0;
    for _ in 0..40 {
        assert_eq!(machine.read(1, 0x1000), Got::At(0x30_0000));
        send(&machine, EL1, address(Some(1), 0x1000));
        let prod = machine.r32(0x98);
        machine.put(prod.into(), 0x46, 0);
        machine.w32(0x98, (prod + 1) & 0x1f);
        machine.smmu_step();
        assert_eq!(machine.r32(0x9c), machine.r32(0x98));
        kept += machine.smmu.cached_translations();
        machine.smmu.broadcast_sync();
    }
    assert!(kept > 0);
}

/// What each operation leaves of these: stream 1, ASID 1, pages 0x1000 and 0x3000 (global); stream 2, ASID 2; stream 3, ASID 1 of VMID 7; stream 4,
/// ASID 9 with ASET=1, pages 0x1000 and 0x3000; stream 5, stage 2 of VMID 1, intermediate 0x40_1000.
fn left(regime: BroadcastRegime, scope: BroadcastScope) -> String {
    let machine = listener();
    let streams = [(2, 0x5_1000, 0, 2, 0), (3, 0x5_2000, 7, 1, 0), (4, 0x5_3000, 0, 9, ASET)];
    for (stream, cd, vmid, asid, aset) in streams {
        machine.ste(stream, &[cd | 0xb, 0, vmid, 0, 0, 0, 0, 0]);
        let mut words = CD_39;
        words[0] = words[0] & !(0xffff << 48) | asid << 48 | aset;
        machine.words(cd, &words);
    }
    machine.words(L3 + 0x18, &[0x30_3000 | PAGE & !0x800]);
    machine.ste(5, &STE_S2);
    machine.tables2();
    machine.words(S2_L3 + 8, &[0x50_0000 | S2_PAGE]);
    let pages =
        [(1, 0x1000), (1, 0x3000), (2, 0x1000), (3, 0x1000), (4, 0x1000), (4, 0x3000), (5, 0x40_1000)];
    let names = ["own", "global", "asid2", "vmid7", "private", "privateglobal", "stage2"];
    for (stream, page) in pages {
        assert!(matches!(machine.read(stream, page), Got::At(_)));
    }
    send(&machine, regime, scope);
    machine.smmu.broadcast_sync();
    machine.assert_clean();
    let hits = |stream, page| {
        let before = machine.smmu.counters().misses;
        assert!(matches!(machine.read(stream, page), Got::At(_)));
        machine.smmu.counters().misses == before
    };
    let kept: Vec<&str> =
        pages.iter().zip(names).filter(|((s, p), _)| hits(*s, *p)).map(|(_, name)| name).collect();
    kept.join(" ")
}

#[test]
fn each_operation_removes_what_it_must_and_nothing_else() {
    let all = BroadcastScope::Address { asid: None, first: 0, last: u64::MAX, last_level_only: false };
    let range = BroadcastScope::Address { asid: Some(1), first: 0x2000, last: 0x3fff, last_level_only: true };
    let stage2 = |first| BroadcastScope::Stage2Address { first, last: first + 0xfff, last_level_only: true };
    let rows = [
        (EL1, BroadcastScope::All, "vmid7 stage2"),
        (EL1, BroadcastScope::Asid { asid: 1 }, "global asid2 vmid7 private privateglobal stage2"),
        (EL1, address(Some(1), 0x1000), "global asid2 vmid7 private privateglobal stage2"),
        (EL1, address(Some(1), 0x3000), "own asid2 vmid7 private privateglobal stage2"),
        (EL1, address(None, 0x1000), "global vmid7 privateglobal stage2"),
        (EL1, address(None, 0x3000), "own asid2 vmid7 private stage2"),
        (EL1, range, "own asid2 vmid7 private privateglobal stage2"),
        (EL1, all, "vmid7 stage2"),
        // ASET=1: what names an ASID leaves it, even its own.
        (EL1, BroadcastScope::Asid { asid: 9 }, "own global asid2 vmid7 private privateglobal stage2"),
        (EL1, address(Some(9), 0x1000), "own global asid2 vmid7 private privateglobal stage2"),
        (BroadcastRegime::El1 { vmid: 1 }, stage2(0x40_1000), "own global asid2 vmid7 private privateglobal"),
        (
            BroadcastRegime::El1 { vmid: 1 },
            stage2(0x1000),
            "own global asid2 vmid7 private privateglobal stage2",
        ),
        (
            BroadcastRegime::El1 { vmid: 1 },
            BroadcastScope::BothStages,
            "own global asid2 vmid7 private privateglobal",
        ),
        (
            BroadcastRegime::El1 { vmid: 7 },
            BroadcastScope::BothStages,
            "own global asid2 private privateglobal stage2",
        ),
        (EL1, BroadcastScope::EveryVmid, ""),
        (BroadcastRegime::El2, BroadcastScope::All, "own global asid2 vmid7 private privateglobal stage2"),
        (BroadcastRegime::El2Host, all, "own global asid2 vmid7 private privateglobal stage2"),
        // Operations that there are not.
        (
            BroadcastRegime::El2,
            BroadcastScope::EveryVmid,
            "own global asid2 vmid7 private privateglobal stage2",
        ),
        (BroadcastRegime::El2Host, stage2(0), "own global asid2 vmid7 private privateglobal stage2"),
    ];
    for (regime, scope, expected) in rows {
        assert_eq!(left(regime, scope), expected, "{regime:?} {scope:?}");
    }
}

#[test]
fn a_command_finds_what_is_private_too() {
    let machine = machine(listening(), RECINVSID, 0, ASET);
    send(&machine, EL1, address(Some(1), 0x1000));
    machine.smmu.broadcast_sync();
    assert_eq!(machine.smmu.cached_translations(), 1);
    machine.command(0x0001_0000_0000_0012, 0x1001);
    machine.sync();
    assert_eq!(machine.smmu.cached_translations(), 0);
}

#[test]
fn walk_entries_stay_for_the_last_level_only() {
    for (last_level_only, got) in [(true, Got::At(0x30_2000)), (false, Got::Abort)] {
        let machine = listener();
        machine.words(L2, &[0]);
        machine.words(L3 + 0x10, &[0x30_2000 | PAGE]);
        let scope = BroadcastScope::Address { asid: Some(1), first: 0x2000, last: 0x2fff, last_level_only };
        send(&machine, EL1, scope);
        machine.smmu.broadcast_sync();
        assert_eq!(machine.read(1, 0x2000), got);
    }
}

#[test]
fn a_changed_live_translation_is_found_by_a_broadcast_as_by_a_command() {
    let machine = listener();
    machine.words(L3 + 8, &[0x31_0000 | PAGE]);
    send(&machine, EL1, address(Some(1), 0x1000));
    machine.smmu.broadcast_sync();
    assert_eq!(machine.clauses(), [clause::BREAK_BEFORE_MAKE]);
}

/// Whether the translation of stream 1, in this regime of EL2, survives.
fn survives(cr2: u32, aset: u64, regime: BroadcastRegime, scope: BroadcastScope) -> bool {
    let machine = machine(listening(), RECINVSID | cr2, STRW_EL2, aset);
    send(&machine, regime, scope);
    machine.smmu.broadcast_sync();
    machine.assert_clean();
    machine.smmu.cached_translations() == 1
}

#[test]
fn el2_and_el2_with_e2h_hear_their_own_cpus_only() {
    use BroadcastRegime::{El2, El2Host};
    let asid = |asid| BroadcastScope::Asid { asid };
    // EL2 with E2H has ASIDs.
    assert!(!survives(E2H, 0, El2Host, asid(1)) && survives(E2H, 0, El2Host, asid(2)));
    assert!(!survives(E2H, 0, El2Host, address(Some(1), 0x1000)));
    assert!(survives(E2H, 0, El2Host, address(Some(2), 0x1000)));
    assert!(!survives(E2H, 0, El2Host, address(None, 0x1000)));
    assert!(survives(E2H, 0, El2Host, address(None, 0x2000)));
    assert!(!survives(E2H, 0, El2Host, BroadcastScope::All));
    assert!(survives(E2H, 0, El2, BroadcastScope::All) && survives(E2H, 0, EL1, BroadcastScope::EveryVmid));
    // ASET=1: only what names no ASID.
    assert!(survives(E2H, ASET, El2Host, asid(1)) && survives(E2H, ASET, El2Host, address(Some(1), 0x1000)));
    assert!(!survives(E2H, ASET, El2Host, address(None, 0x1000)));
    // EL2 has none: the ASID is not looked at.
    assert!(!survives(0, 0, El2, address(Some(77), 0x1000)) && !survives(0, 0, El2, BroadcastScope::All));
    assert!(survives(0, 0, El2, asid(1)), "there is no such operation");
    assert!(survives(0, 0, El2Host, BroadcastScope::All) && survives(0, 0, EL1, BroadcastScope::EveryVmid));
    // ASET=1: only all of it.
    assert!(survives(0, ASET, El2, address(None, 0x1000)) && !survives(0, ASET, El2, BroadcastScope::All));
}

#[test]
fn the_worlds_of_el2_are_tagged_and_invalidated_apart() {
    for (cr2, command, remains) in [
        // CMD_TLBI_EL2_ASID and CMD_TLBI_EL2_VA with another ASID, then with its own; CMD_TLBI_EL2_VAA; EL1's commands.
        (E2H, (0x0002_0000_0000_0021, 0), 1),
        (E2H, (0x0001_0000_0000_0021, 0), 0),
        (E2H, (0x0002_0000_0000_0022, 0x1001), 1),
        (E2H, (0x0001_0000_0000_0022, 0x1001), 0),
        (E2H, (0x23, 0x1001), 0),
        (E2H, (0x20, 0), 0),
        (E2H, (0x0001_0000_0000_0012, 0x1001), 1),
        (E2H, (0x30, 0), 1),
        (0, (0x0001_0000_0000_0021, 0), 1),
        (0, (0x0077_0000_0000_0022, 0x1001), 0),
        (0, (0x23, 0x1001), 0),
        (0, (0x20, 0), 0),
        (0, (0x0001_0000_0000_0012, 0x1001), 1),
    ] {
        let machine = machine(listening(), RECINVSID | cr2, STRW_EL2, 0);
        machine.command(command.0, command.1);
        machine.sync();
        assert_eq!(machine.smmu.cached_translations(), remains, "E2H {cr2} {command:x?}");
        machine.assert_clean();
    }
}

#[test]
fn el2_with_e2h_has_two_halves_and_privileges_and_el2_has_not() {
    // TTB1 with T1SZ=25, TG1=4K, EPD1 clear.
    let upper = 0xffff_ff80_0000_1000;
    for (cr2, got, user) in [(E2H, Got::At(0x30_0000), Got::Abort), (0, Got::Abort, Got::At(0x30_0000))] {
        let machine = machine(listening(), RECINVSID | cr2, STRW_EL2, 0);
        let mut cd = CD_39;
        cd[0] = cd[0] & !0x4000_0000 | 0x99_0000;
        cd[2] = L1;
        machine.words(CD, &cd);
        machine.flush_cd();
        assert_eq!(machine.read(1, upper), got, "E2H {cr2}");
        // A page for the privileged only.
        machine.words(L3 + 0x10, &[0x30_0000 | PAGE & !0x40]);
        assert_eq!(machine.read(1, 0x2000), user, "E2H {cr2}");
    }
}

#[test]
fn one_asid_in_two_worlds_is_two_address_spaces() {
    let machine = machine(listening(), RECINVSID | E2H, STRW_EL2, 0);
    machine.ste(2, &STE_S1);
    assert_eq!(machine.read(2, 0x1000), Got::At(0x30_0000));
    assert_eq!((machine.smmu.cached_translations(), machine.smmu.counters().misses), (2, 2));
    machine.assert_clean();
}

#[test]
fn a_change_of_e2h_needs_an_invalidation_of_el2() {
    let change = |invalidate: &dyn Fn(&Machine)| {
        let machine = machine(listening(), RECINVSID, STRW_EL2, 0);
        machine.disable();
        invalidate(&machine);
        machine.w32(0x2c, RECINVSID | E2H);
        machine.enable();
        machine.clauses()
    };
    assert_eq!(change(&|_| ()), [clause::E2H_CHANGE]);
    let translations = |machine: &Machine| {
        machine.command(0x20, 0);
        machine.sync();
    };
    assert_eq!(change(&translations), [clause::E2H_CHANGE], "the STE is still there");
    let all = |machine: &Machine| {
        machine.command(0x04, 0x1f);
        translations(machine);
    };
    assert!(change(&all).is_empty());
}

fn request(address: u64) -> Request {
    Request {
        source: SourceId(1),
        pasid: None,
        iova: Iova::new(address),
        len_bytes: 8,
        access: Access::WRITE,
    }
}

#[test]
fn no_write_lands_on_a_page_after_the_broadcast_sync_that_took_it_away() {
    const ROUNDS: u64 = 100;
    let lazy = Policy { lazy_invalidation: true, ..Policy::eager() };
    let machine = machine(Config { policy: lazy, ..listening() }, RECINVSID, 0, 0);
    let mapped = AtomicBool::new(true);
    let stop = AtomicBool::new(false);
    let late = AtomicBool::new(false);
    let writes = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !stop.load(Ordering::Acquire) {
                    let _outcome = machine.smmu.access(&request(0x1000), &mut |_| {
                        std::thread::yield_now();
                        late.fetch_or(!mapped.load(Ordering::Acquire), Ordering::Relaxed);
                        writes.fetch_add(1, Ordering::Relaxed);
                        Ok(())
                    });
                }
            });
        }
        for _ in 0..ROUNDS {
            let before = writes.load(Ordering::Relaxed);
            while writes.load(Ordering::Relaxed) == before {
                std::thread::yield_now();
            }
            machine.words(L3 + 8, &[0]);
            send(&machine, EL1, address(Some(1), 0x1000));
            machine.smmu.broadcast_sync();
            mapped.store(false, Ordering::Release);
            std::thread::yield_now();
            mapped.store(true, Ordering::Release);
            machine.words(L3 + 8, &[0x30_0000 | PAGE]);
        }
        stop.store(true, Ordering::Release);
    });
    assert!(!late.load(Ordering::Relaxed), "a write after the sync");
    machine.assert_clean();
}

#[test]
fn a_sync_from_within_an_access_does_not_wait_for_itself() {
    let machine = listener();
    let outcome = machine.smmu.access(&request(0x1000), &mut |_| {
        send(&machine, EL1, address(Some(1), 0x1000));
        machine.smmu.broadcast_sync();
        assert_eq!(machine.smmu.cached_translations(), 0);
        // Nor for one of its own below another.
        let inner = machine.smmu.access(&request(0x1008), &mut |_| {
            machine.smmu.broadcast_sync();
            Ok(())
        });
        assert_eq!(inner, Outcome::Done);
        Ok(())
    });
    assert_eq!(outcome, Outcome::Done);
    machine.smmu.broadcast_sync();
}

#[test]
fn threads_that_wait_within_accesses_do_not_wait_for_each_other() {
    const ROUNDS: usize = 200;
    let machine = listener();
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                for _ in 0..ROUNDS {
                    let outcome = machine.smmu.access(&request(0x1000), &mut |_| {
                        machine.smmu.broadcast_sync();
                        Ok(())
                    });
                    assert_eq!(outcome, Outcome::Done);
                }
            });
        }
        scope.spawn(|| (0..ROUNDS).for_each(|_| machine.smmu.broadcast_sync()));
    });
    machine.assert_clean();
}
