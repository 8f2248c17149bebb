//! Accesses that are held back: what holds them, what software sees of them, and what lets them go.

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use model_bus::{Outcome, Request, Stall, StallState, Translator};
use model_smmuv3::{Config, Policy, StallModel, clause};
use portcullis_types::{Access, Iova, SourceId};

use crate::endpoint::{given, rwx, wish};
use crate::harness::{
    CD, CD_39, EVENTS, Got, L1, L3, Machine, PAGE, S2_L3, S2_PAGE, STE_ABORT, STE_NESTED, STE_S1, STE_S2,
    plain,
};

/// CD.S, bit 44.
const S: u64 = 1 << 44;
/// CD.R and CD.A.
const R: u64 = 1 << 45;
const A: u64 = 1 << 46;
/// STE.S2S, bit 185.
const S2S: u64 = 1 << 57;
/// STE.S1STALLD, bit 91.
const S1STALLD: u64 = 1 << 27;
/// Stall, in word 1 of an event.
const STALL: u64 = 1 << 31;

fn stalling() -> Config {
    Config { stall: StallModel::Configurable, ..plain() }
}

fn forced() -> Config {
    Config { stall: StallModel::Forced, ..plain() }
}

/// `CD_39` with these of A, R and S.
fn cd(flags: u64) -> [u64; 8] {
    let mut words = CD_39;
    words[0] = words[0] & !(A | R | S) | flags;
    words
}

/// Stream 1 whose faults hold accesses back: page 0x1000 is mapped, nothing else.
fn machine(config: Config) -> Machine {
    let machine = Machine::stage1(config);
    machine.words(CD, &cd(A | S));
    machine
}

/// CMD_RESUME: Ac is bit 12, Ab bit 13.
fn resume(machine: &Machine, stream: u64, tag: u64, action: u64) {
    machine.command(0x44 | action << 12 | stream << 32, tag);
}

const ABORT: u64 = 2;
const RETRY: u64 = 1;
const IGNORE: u64 = 0;

fn told(machine: &Machine, stall: Stall) -> StallState {
    machine.smmu.stalled(stall)
}

/// The tags of the events in the queue, all of which must be stalls.
fn tags(machine: &Machine) -> Vec<u64> {
    machine
        .events()
        .iter()
        .map(|event| {
            assert_eq!(event[1] & STALL, STALL, "{event:x?}");
            event[1] & 0xffff
        })
        .collect()
}

#[test]
fn a_fault_under_s_holds_the_access_back_and_says_so() {
    let machine = machine(stalling());
    let stall = machine.held(1, 0x2000, Access::WRITE);
    // F_TRANSLATION; Stall, CLASS=IN, a write; the address.
    assert_eq!(machine.event(), [0x0000_0001_0000_0010, 0x0000_0200_8000_0000, 0x2000, 0]);
    assert_eq!(told(&machine, stall), StallState::Waiting);
    assert_eq!(machine.read(1, 0x1000), Got::At(0x30_0000), "others of the stream go on");
    assert_eq!(machine.smmu.counters().stalls, 1);
    machine.assert_clean();
}

#[test]
fn every_combination_of_a_r_and_s_does_what_the_book_says() {
    for flags in 0..8u64 {
        let (a, r, s) = (flags & 4 != 0, flags & 2 != 0, flags & 1 != 0);
        let machine = Machine::stage1(stalling());
        let bit = |set, bit| if set { bit } else { 0 };
        machine.words(CD, &cd(bit(a, A) | bit(r, R) | bit(s, S)));
        let got = machine.read(1, 0x2000);
        let events = machine.events();
        match (a, s, got) {
            (_, true, Got::Held(_)) | (true, false, Got::Abort) | (false, false, Got::Ignored) => {}
            other => panic!("A R S {flags:03b}: {other:?}"),
        }
        // R is IGNORED where S is set.
        assert_eq!(events.len(), usize::from(r || s), "A R S {flags:03b}");
        assert!(events.iter().all(|event| event[1] & STALL == bit(s, STALL)));
        machine.assert_clean();
    }
}

#[test]
fn each_of_the_four_translation_faults_holds_back_and_no_other_does() {
    let machine = machine(stalling());
    // F_TRANSLATION, F_ADDR_SIZE, F_ACCESS, F_PERMISSION; then a walk that is aborted.
    machine.words(L3 + 0x18, &[0x8000_0000_0000 | PAGE, 0x30_0000 | PAGE & !0x400, 0x30_0000 | PAGE | 0x80]);
    // IPS=2: 40 bits.
    let mut small = cd(A | S);
    small[0] = small[0] & !(7 << 32) | 2 << 32;
    machine.words(CD, &small);
    let kinds: Vec<u64> = [0x2000, 0x3000, 0x4000, 0x5000]
        .map(|address| {
            machine.held(1, address, Access::WRITE);
            machine.event()[0] & 0xff
        })
        .to_vec();
    assert_eq!(kinds, [0x10, 0x11, 0x12, 0x13]);
    machine.hole(L3..=L3 + 0xfff);
    assert_eq!(machine.read(1, 0x6000), Got::Abort);
    assert_eq!(machine.event()[0] & 0xff, 0x0b);
    // Nor do configuration errors.
    assert_eq!(machine.read(2, 0x2000), Got::Abort);
    assert_eq!(machine.event()[0] & 0xff, 0x04);
}

#[test]
fn a_disabled_half_is_a_fault_like_others() {
    // EPD0: as for a process that is gone.
    const EPD0: u64 = 1 << 14;
    for (flags, got, events) in [(A | R, Got::Abort, 1), (A, Got::Abort, 0), (0, Got::Ignored, 0)] {
        let machine = Machine::stage1(stalling());
        machine.words(CD, &cd(flags | EPD0));
        assert_eq!(machine.read(1, 0x1000), got);
        let found = machine.events();
        assert_eq!(found.len(), events);
        assert!(found.iter().all(|event| event[0] & 0xff == 0x10), "F_TRANSLATION, not C_BAD_CD");
        machine.assert_clean();
    }
    let machine = Machine::stage1(stalling());
    machine.words(CD, &cd(A | S | EPD0));
    machine.held(1, 0x1000, Access::READ);
    assert_eq!(machine.event()[0] & 0xff, 0x10);
    machine.assert_clean();
}

#[test]
fn a_retried_access_is_made_anew_and_passes_if_the_fault_is_mended() {
    let machine = machine(stalling());
    let stall = machine.held(1, 0x2000, Access::READ);
    let tag = tags(&machine)[0];
    machine.words(L3 + 0x10, &[0x30_2000 | PAGE]);
    resume(&machine, 1, tag, RETRY);
    assert_eq!(told(&machine, stall), StallState::Retry);
    assert_eq!(told(&machine, stall), StallState::Aborted, "said once");
    assert_eq!(machine.read(1, 0x2000), Got::At(0x30_2000));
    // Ab is IGNORED.
    let stall = machine.held(1, 0x3000, Access::READ);
    resume(&machine, 1, tags(&machine)[0], RETRY | ABORT);
    assert_eq!(told(&machine, stall), StallState::Retry);
    // Not mended: a new record.
    machine.held(1, 0x3000, Access::READ);
    assert_eq!(machine.events().len(), 1);
    let counters = machine.smmu.counters();
    assert_eq!((counters.stalls, counters.resumed, counters.terminated), (3, 2, 0));
    machine.assert_clean();
}

#[test]
fn a_terminated_access_is_aborted_or_ignored_as_ab_says() {
    for (config, action, end) in [
        (stalling(), ABORT, StallState::Aborted),
        (stalling(), IGNORE, StallState::Ignored),
        (Config { terminate_aborts: true, ..stalling() }, IGNORE, StallState::Aborted),
    ] {
        let machine = machine(config);
        let stall = machine.held(1, 0x2000, Access::READ);
        resume(&machine, 1, tags(&machine)[0], action);
        assert_eq!(told(&machine, stall), end, "action {action}");
        assert_eq!(machine.smmu.counters().terminated, 1);
        machine.assert_clean();
    }
}

#[test]
fn an_answer_must_name_both_the_stream_and_the_tag() {
    let machine = machine(stalling());
    machine.ste(2, &STE_S1);
    let (first, second) = (machine.held(1, 0x2000, Access::READ), machine.held(2, 0x2000, Access::READ));
    let one = tags(&machine);
    assert_ne!(one[0], one[1], "tags are unique");
    for (stream, tag) in [(2, one[0]), (1, one[1]), (1, 77), (3, one[0])] {
        resume(&machine, stream, tag, ABORT);
        assert_eq!(machine.clauses(), [clause::RESUME_UNKNOWN]);
        assert_eq!([told(&machine, first), told(&machine, second)], [StallState::Waiting; 2]);
    }
    resume(&machine, 2, one[1], ABORT);
    assert_eq!([told(&machine, first), told(&machine, second)], [StallState::Waiting, StallState::Aborted]);
    machine.assert_clean();
    resume(&machine, 2, one[1], ABORT);
    assert_eq!(machine.clauses(), [clause::RESUME_UNKNOWN], "answered twice");
}

#[test]
fn a_tag_is_used_again_once_its_access_is_answered_and_not_before() {
    let machine = machine(stalling());
    for _ in 0..3 {
        machine.held(1, 0x2000, Access::READ);
    }
    let first = tags(&machine);
    assert_eq!(first, [0, 1, 2]);
    resume(&machine, 1, 1, ABORT);
    machine.held(1, 0x2000, Access::READ);
    machine.held(1, 0x2000, Access::READ);
    assert_eq!(tags(&machine), [1, 3]);
    machine.assert_clean();
}

#[test]
fn without_stalls_their_commands_are_illegal() {
    for op in [0x44, 0x45] {
        let machine = Machine::stage1(plain());
        machine.command(op | 1 << 32, 0);
        assert_eq!(machine.r32(0x60), 1, "CMDQ_ERR");
        assert_eq!(machine.r32(0x9c) >> 24, 1, "CERROR_ILL");
        assert_eq!(machine.clauses(), [clause::ILLEGAL_COMMAND]);
    }
}

#[test]
fn what_each_stall_model_demands_of_a_cd_is_checked() {
    let good = |config: Config, ste: [u64; 8], flags: u64| {
        let machine = Machine::new(config);
        machine.ste(1, &ste);
        machine.words(CD, &cd(flags));
        machine.tables();
        let got = machine.read(1, 0x1000);
        (got == Got::At(0x30_0000), machine.clauses().first().copied().unwrap_or(""))
    };
    let mut no_stalls = STE_S1;
    no_stalls[1] |= S1STALLD;
    assert_eq!(good(stalling(), STE_S1, A | S), (true, ""));
    assert_eq!(good(stalling(), STE_S1, A), (true, ""));
    assert_eq!(good(stalling(), no_stalls, A), (true, ""));
    let (fine, why) = good(stalling(), no_stalls, A | S);
    assert!(!fine && why.contains("S set where STE.S1STALLD"), "{why}");
    let (fine, why) = good(plain(), STE_S1, A | S);
    assert!(!fine && why.contains("S set where stalls are not supported"), "{why}");
    assert_eq!(good(forced(), STE_S1, A | S), (true, ""));
    let (fine, why) = good(forced(), STE_S1, A);
    assert!(!fine && why.contains("S clear where stalls are forced"), "{why}");
    let (fine, why) = good(forced(), no_stalls, A | S);
    assert!(!fine && why.contains("S1STALLD set"), "{why}");
}

#[test]
fn what_each_stall_model_demands_of_stage_2_is_checked() {
    let good = |config: Config, set: u64| {
        let machine = Machine::new(config);
        let mut ste = STE_S2;
        ste[2] |= set;
        machine.ste(1, &ste);
        machine.tables2();
        (machine.read(1, 0x1000) == Got::At(0x1000), machine.clauses().len())
    };
    assert_eq!([good(stalling(), 0), good(stalling(), S2S)], [(true, 0), (true, 0)]);
    assert_eq!([good(plain(), 0), good(plain(), S2S)], [(true, 0), (false, 1)]);
    assert_eq!([good(forced(), 0), good(forced(), S2S)], [(false, 1), (true, 0)]);
}

#[test]
fn each_stage_is_held_back_by_its_own_bit_and_stage_2_also_for_what_stage_1_needs() {
    // A nested stream: S2S with CD.S clear. CD, tables and pages lie in intermediate space 1:1.
    let machine = Machine::new(stalling());
    let mut ste = STE_NESTED;
    ste[2] |= S2S;
    machine.ste(1, &ste);
    machine.words(CD, &cd(A | R));
    machine.tables();
    machine.tables2();
    assert_eq!(machine.read(1, 0x2000), Got::Abort, "a fault of stage 1");
    assert_eq!(machine.event()[1] & STALL, 0);
    // The page lies where stage 2 has nothing: CLASS=IN, S2, the intermediate address.
    machine.words(L3 + 0x18, &[0x40_2000 | PAGE]);
    let stall = machine.held(1, 0x3008, Access::READ);
    let event = machine.event();
    assert_eq!(event, [0x0000_0001_0000_0010, 0x0000_0288_8000_0000, 0x3008, 0x40_2000]);
    machine.words(S2_L3 + 0x10, &[0x60_0000 | S2_PAGE]);
    resume(&machine, 1, 0, RETRY);
    assert_eq!(told(&machine, stall), StallState::Retry);
    assert_eq!(machine.read(1, 0x3008), Got::At(0x60_0008));
    // The table of stage 1 lies there: CLASS=TT.
    machine.words(L1 + 8, &[0x40_3003]);
    machine.held(1, 0x4000_0000, Access::READ);
    assert_eq!(machine.event()[1], 0x0000_0188_8000_0000);
    // The CD does: CLASS=CD.
    let mut elsewhere = ste;
    elsewhere[0] = 0x40_400f;
    machine.ste(2, &elsewhere);
    machine.held(2, 0x1000, Access::READ);
    assert_eq!(machine.event()[1], 0x0000_0088_8000_0001);
    machine.assert_clean();
}

#[test]
fn a_record_for_which_there_is_no_room_waits_and_is_not_lost() {
    let machine = machine(stalling());
    (0..8).for_each(|_| assert_eq!(machine.read(9, 0), Got::Abort));
    let stall = machine.held(1, 0x2000, Access::READ);
    machine.settle();
    assert_eq!(machine.r32(0x1_00a8), 8, "full; no overflow because of an access that is held back");
    assert_eq!(machine.smmu.counters().events_lost, 0);
    assert_eq!(told(&machine, stall), StallState::Waiting);
    machine.sync();
    assert_eq!(machine.events().len(), 8);
    machine.settle();
    assert_eq!(machine.event()[1] & STALL, STALL);
    assert_eq!(told(&machine, stall), StallState::Waiting);
    machine.assert_clean();
}

#[test]
fn a_record_waits_for_the_queue_to_be_enabled_and_to_work() {
    let machine = machine(stalling());
    machine.w32(0x20, 0b1001);
    machine.settle();
    machine.held(1, 0x2000, Access::READ);
    machine.settle();
    assert_eq!(machine.smmu_prod(), 0);
    // Now the write of the record fails.
    machine.hole(EVENTS..=EVENTS + 31);
    machine.w32(0x20, 0b1101);
    machine.settle();
    assert_eq!(machine.r32(0x60), 1 << 2, "EVENTQ_ABT_ERR");
    machine.fill_holes();
    machine.w32(0x64, 1 << 2);
    assert_eq!(tags(&machine), [0]);
}

#[test]
fn an_access_without_a_record_is_tried_again_and_may_then_pass_or_end() {
    let machine = machine(stalling());
    (0..8).for_each(|_| assert_eq!(machine.read(9, 0), Got::Abort));
    let mended = machine.held(1, 0x2000, Access::READ);
    machine.words(L3 + 0x10, &[0x30_2000 | PAGE]);
    machine.events();
    machine.settle();
    assert_eq!(machine.events(), [[0; 4]; 0], "nothing to say");
    assert_eq!(told(&machine, mended), StallState::Retry);
    // Meanwhile faults end accesses: the record is of the new configuration.
    (0..8).for_each(|_| assert_eq!(machine.read(9, 0), Got::Abort));
    let ended = machine.held(1, 0x3000, Access::READ);
    machine.words(CD, &cd(R));
    machine.flush_cd();
    machine.events();
    machine.settle();
    assert_eq!(machine.event()[1] & STALL, 0);
    assert_eq!(told(&machine, ended), StallState::Ignored);
    machine.assert_clean();
}

#[test]
fn beyond_the_most_that_a_part_holds_accesses_wait_for_a_place() {
    let machine = machine(Config { most_stalls: 2, ..stalling() });
    let stalls: Vec<Stall> = (0..4).map(|i| machine.held(1, 0x2000 + i * 0x1000, Access::READ)).collect();
    assert_eq!(tags(&machine), [0, 1]);
    assert!(stalls.iter().all(|&stall| told(&machine, stall) == StallState::Waiting));
    resume(&machine, 1, 0, ABORT);
    assert_eq!(tags(&machine), [0]);
    resume(&machine, 1, 0, ABORT);
    resume(&machine, 1, 1, ABORT);
    assert_eq!(tags(&machine), [0]);
    machine.assert_clean();
}

#[test]
fn a_sync_does_not_wait_for_what_is_held_back_but_brings_its_record_out() {
    let late = Policy { event_ticks: 1000, work_on_reads: false, ..Policy::eager() };
    let machine = machine(Config { policy: late, ..stalling() });
    for round in 0..20u32 {
        machine.held(1, 0x2000, Access::READ);
        let prod = machine.r32(0x98);
        machine.put(prod.into(), 0x46, 0);
        machine.w32(0x98, (prod + 1) & 0x1f);
        while machine.r32(0x9c) != machine.r32(0x98) {
            machine.smmu_step();
        }
        assert_eq!(machine.smmu_prod() & 0xf, (round + 1) & 0xf, "with the sync, not after it");
        assert_eq!(tags(&machine), [u64::from(round)]);
    }
    machine.assert_clean();
}

/// CMD_STALL_TERM of stream 1.
fn terminate(machine: &Machine) {
    machine.command(0x45 | 1 << 32, 0);
}

#[test]
fn a_stream_whose_entry_aborts_is_terminated_at_once_and_others_are_not() {
    // Config 0b000, and an entry that is not valid.
    for entry in [STE_ABORT, [0; 8]] {
        let machine = machine(Config { most_stalls: 2, ..stalling() });
        machine.ste(2, &STE_S1);
        let own = [0x2000, 0x3000].map(|address| machine.held(1, address, Access::READ));
        let unrecorded = machine.held(1, 0x4000, Access::READ);
        let other = machine.held(2, 0x2000, Access::READ);
        let answered = own[1];
        resume(&machine, 1, 1, RETRY);
        machine.events();
        machine.ste(1, &entry);
        machine.flush_ste(1);
        terminate(&machine);
        for stall in [own[0], answered, unrecorded] {
            assert_eq!(told(&machine, stall), StallState::Aborted, "also what was to be tried again");
        }
        machine.settle();
        assert_eq!(told(&machine, other), StallState::Waiting);
        machine.assert_clean();
        resume(&machine, 1, 0, ABORT);
        assert_eq!(machine.clauses(), [clause::RESUME_UNKNOWN]);
    }
}

#[test]
fn terminating_a_stream_that_still_lets_accesses_in_is_noted_and_without_effect() {
    let held = || {
        let machine = machine(stalling());
        let stall = machine.held(1, 0x2000, Access::READ);
        (machine, stall)
    };
    // The STE as it was; changed and not invalidated; invalidated and not changed; invalidated and not synchronized.
    let (same, stall) = held();
    terminate(&same);
    assert_eq!((same.clauses(), told(&same, stall)), (vec![clause::STALL_TERM], StallState::Waiting));
    let (changed, stall) = held();
    changed.ste(1, &STE_ABORT);
    terminate(&changed);
    assert_eq!((changed.clauses(), told(&changed, stall)), (vec![clause::STALL_TERM], StallState::Waiting));
    let (flushed, stall) = held();
    flushed.flush_ste(1);
    terminate(&flushed);
    assert_eq!((flushed.clauses(), told(&flushed, stall)), (vec![clause::STALL_TERM], StallState::Waiting));
    for invalidate in [[0x03 | 1 << 32, 1], [0x04, 0x1f], [0x04, 0]] {
        let (unsynced, stall) = held();
        unsynced.ste(1, &STE_ABORT);
        unsynced.command(invalidate[0], invalidate[1]);
        terminate(&unsynced);
        assert_eq!(
            (unsynced.clauses(), told(&unsynced, stall)),
            (vec![clause::STALL_TERM], StallState::Waiting)
        );
        unsynced.sync();
        terminate(&unsynced);
        assert_eq!((unsynced.clauses(), told(&unsynced, stall)), (vec![], StallState::Aborted));
    }
}

#[test]
fn switching_off_ends_all_that_is_held_back() {
    let machine = machine(stalling());
    let waiting = machine.held(1, 0x2000, Access::READ);
    let retried = machine.held(1, 0x3000, Access::READ);
    assert_eq!(tags(&machine), [0, 1]);
    resume(&machine, 1, 1, RETRY);
    machine.disable();
    assert_eq!([told(&machine, waiting), told(&machine, retried)], [StallState::Aborted; 2]);
    machine.enable();
    machine.held(1, 0x2000, Access::READ);
    assert_eq!(tags(&machine), [0], "tags are free again");
    machine.assert_clean();
}

#[test]
fn a_reset_forgets_what_was_held_back_and_numbers_stay_unique() {
    let machine = machine(stalling());
    let before = machine.held(1, 0x2000, Access::READ);
    machine.smmu.reset();
    assert_eq!(told(&machine, before), StallState::Aborted);
    machine.set_up();
    machine.enable();
    let after = machine.held(1, 0x2000, Access::READ);
    assert_ne!(before, after);
    assert_eq!(told(&machine, Stall(u64::MAX)), StallState::Aborted, "a number that nobody gave out");
}

#[test]
fn translation_requests_are_never_held_back() {
    let machine = machine(Config { ats: true, ..stalling() });
    let mut ste = STE_S1;
    ste[1] |= 1 << 28;
    machine.ste(1, &ste);
    machine.w32(0x20, 0b1_1101);
    machine.settle();
    assert_eq!(rwx(&given(&machine, &wish(0x2000))), "---");
    assert_eq!((machine.events(), machine.smmu.counters().stalls), (vec![], 0));
    // Nor are streams with ATS at stage 2: such an entry is not valid.
    let mut both = STE_NESTED;
    both[1] |= 1 << 28;
    both[2] |= S2S;
    machine.ste(2, &both);
    assert_eq!(machine.read(2, 0x1000), Got::Abort);
    assert_eq!(machine.event()[0] & 0xff, 0x04);
}

#[test]
fn guesses_of_the_hardware_are_never_held_back() {
    let machine = machine(stalling());
    // CMD_PREFETCH_ADDR of a page that is not there, with Size 0.
    machine.command(0x1_0000_0002, 0x2000);
    machine.sync();
    assert_eq!(machine.events(), [[0; 4]; 0]);
    assert_eq!(machine.smmu.counters().stalls, 0);
    machine.assert_clean();
}

/// Submits a command while devices are at work, and waits until it is consumed.
fn submit(machine: &Machine, low: u64, high: u64) {
    let prod = machine.r32(0x98);
    machine.put(prod.into(), low, high);
    machine.w32(0x98, (prod + 1) & 0x1f);
    while machine.r32(0x9c) != (prod + 1) & 0x1f {
        machine.smmu_step();
        std::thread::yield_now();
    }
}

/// Takes the events that there are while devices are at work.
fn drain(machine: &Machine) -> Vec<[u64; 4]> {
    machine.smmu_step();
    std::thread::yield_now();
    let (prod, cons) = (machine.smmu_prod() & 0xf, machine.r32(0x1_00ac) & 0xf);
    let count = prod.wrapping_sub(cons) & 0xf;
    let record = |i: u32| {
        let at = EVENTS + u64::from((cons + i) & 7) * 32;
        [0, 8, 16, 24].map(|offset| machine.word(at + offset))
    };
    let found = (0..count).map(record).collect();
    machine.w32(0x1_00ac, prod);
    found
}

#[test]
fn devices_and_a_driver_on_threads_lose_no_access() {
    const DEVICES: u32 = 3;
    const ROUNDS: u64 = 60;
    // Few places, and dice: events are late, and more accesses fault than there are tags.
    let config =
        Config { most_stalls: 2, policy: Policy { event_ticks: 5, ..Policy::hostile() }, ..stalling() };
    let machine = machine(config);
    for stream in 2..=DEVICES {
        machine.ste(stream.into(), &STE_S1);
    }
    let done = AtomicU64::new(0);
    let failed = AtomicBool::new(false);
    let pass = |stream: u32, round: u64| {
        let request = Request {
            source: SourceId(stream),
            pasid: None,
            iova: Iova::new(0x2000 + (round % 8) * 0x1000),
            len_bytes: 8,
            access: Access::WRITE,
        };
        loop {
            match machine.smmu.access(&request, &mut |_| Ok(())) {
                Outcome::Done => return,
                Outcome::Stalled(stall) => loop {
                    match machine.smmu.stalled(stall) {
                        StallState::Waiting => std::thread::yield_now(),
                        StallState::Retry => break,
                        _ => return failed.store(true, Ordering::Release),
                    }
                },
                _ => return failed.store(true, Ordering::Release),
            }
        }
    };
    std::thread::scope(|scope| {
        for stream in 1..=DEVICES {
            let (done, pass) = (&done, &pass);
            scope.spawn(move || {
                (0..ROUNDS).for_each(|round| pass(stream, round));
                done.fetch_add(1, Ordering::Release);
            });
        }
        // The driver: maps what is missing, answers, and takes away again at times.
        while done.load(Ordering::Acquire) < DEVICES.into() {
            for event in drain(&machine) {
                let page = event[2] >> 12;
                machine.words(L3 + page * 8, &[(0x30_0000 + (page << 12)) | PAGE]);
                submit(&machine, 0x44 | RETRY << 12 | event[0] >> 32 << 32, event[1] & 0xffff);
                if page % 3 == 0 {
                    machine.words(L3 + page * 8, &[0]);
                    submit(&machine, 0x0001_0000_0000_0012, page << 12);
                    submit(&machine, 0x46, 0);
                    machine.words(L3 + page * 8, &[(0x30_0000 + (page << 12)) | PAGE]);
                }
            }
        }
    });
    assert!(!failed.load(Ordering::Acquire));
    assert!(machine.smmu.counters().resumed > 0);
    machine.assert_clean();
}
