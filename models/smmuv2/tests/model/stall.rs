//! Accesses that are held back until RESUME.

use model_bus::StallState;
use model_smmuv2::{Config, Line, Policy, clause};

use crate::harness::{FSR, FSYNR0, Got, L3, Machine, PAGE, RESUME, SCTLR, plain};

/// CFIE, CFRE, CFCFG.
const STALL: u32 = 0x67 | 1 << 7;
const HUPCF: u32 = 1 << 8;

fn stalling(config: Config) -> Machine {
    let machine = Machine::stage1(config);
    machine.cb(0, SCTLR, STALL);
    machine
}

#[test]
fn a_fault_waits_and_is_tried_again_when_software_says_so() {
    let machine = stalling(plain());
    let stall = machine.held(0x2000);
    // TF and SS.
    assert_eq!((machine.rcb(0, FSR), machine.rcb(0, FSYNR0)), (0x4000_0402, 0x3));
    assert_eq!(machine.smmu.asserted_lines(), [Line::Context(0)]);
    assert_eq!(machine.fate(stall), StallState::Waiting);
    machine.words(L3 + 16, &[0x40_0000 | PAGE]);
    machine.cb(0, FSR, 0xffff_ffff);
    assert_eq!(machine.rcb(0, FSR), 0x4000_0400, "SS is cleared by RESUME alone");
    machine.cb(0, RESUME, 0);
    assert_eq!(machine.rcb(0, FSR), 0x400);
    assert_eq!(machine.fate(stall), StallState::Retry);
    assert_eq!(machine.fate(stall), StallState::Aborted, "told once");
    assert_eq!(machine.read(5, 0x2000), Got::At(0x40_0000));
    machine.assert_clean();
}

#[test]
fn a_stalled_access_can_be_ended_as_cfre_says() {
    for (sctlr, end) in [(STALL, StallState::Aborted), (STALL & !0x20, StallState::Ignored)] {
        let machine = stalling(plain());
        machine.cb(0, SCTLR, sctlr);
        let stall = machine.held(0x2000);
        machine.cb(0, FSR, 2);
        machine.cb(0, RESUME, 1);
        assert_eq!(machine.fate(stall), end);
        assert_eq!((machine.rcb(0, FSR), machine.smmu.counters().terminated), (0x400, 1));
    }
}

#[test]
fn others_wait_behind_it_and_try_again_whatever_becomes_of_it() {
    let machine = stalling(plain());
    let (faulted, behind) = (machine.held(0x2000), machine.held(0x1000));
    machine.cb(0, FSR, 2);
    machine.cb(0, RESUME, 1);
    assert_eq!([machine.fate(faulted), machine.fate(behind)], [StallState::Aborted, StallState::Retry]);
    assert_eq!(machine.read(5, 0x1000), Got::At(0x30_0000));
}

#[test]
fn under_a_fault_others_may_pass_and_what_faults_then_waits_unseen() {
    let machine = stalling(plain());
    machine.cb(0, SCTLR, STALL | HUPCF);
    let first = machine.held(0x2000);
    assert_eq!(machine.read(5, 0x1000), Got::At(0x30_0000));
    let second = machine.held(0x3000);
    assert_eq!(machine.rcb(0, FSR), 0x4000_0402, "no MULTI");
    machine.cb(0, FSR, 2);
    machine.cb(0, RESUME, 0);
    assert_eq!([machine.fate(first), machine.fate(second)], [StallState::Retry; 2]);
    machine.held(0x3000);
    assert_eq!(machine.fault(0), (0x4000_0402, 0x3, 0x3000, 5));
}

#[test]
fn resume_before_the_fault_is_cleared_is_noted_and_does_not_help() {
    let machine = stalling(plain());
    let stall = machine.held(0x2000);
    machine.words(L3 + 16, &[0x40_0000 | PAGE]);
    machine.cb(0, RESUME, 0);
    assert_eq!(machine.fate(stall), StallState::Retry);
    assert_eq!(machine.read(5, 0x2000), Got::Abort, "a fault without SS ends what comes");
    assert_eq!(machine.clauses(), [clause::RESUME_ORDER]);
}

#[test]
fn changing_to_terminate_leaves_what_waits_waiting() {
    let machine = stalling(plain());
    let stall = machine.held(0x2000);
    machine.cb(0, SCTLR, 0x67);
    assert_eq!(machine.fate(stall), StallState::Waiting);
    machine.held(0x1000);
    machine.cb(0, FSR, 2);
    machine.cb(0, RESUME, 0);
    assert_eq!(machine.read(5, 0x2000), Got::Abort);
}

#[test]
fn stalls_can_be_forbidden_and_may_not_be_there() {
    let machine = stalling(plain());
    machine.w32(0x00, 0x0020_0506); // STALLD
    assert_eq!(machine.read(5, 0x2000), Got::Abort);
    let machine = stalling(Config { stall: false, ..plain() });
    assert_eq!(machine.rcb(0, SCTLR), 0x67);
    assert_eq!(machine.read(5, 0x2000), Got::Abort);
    machine.cb(0, RESUME, 0);
    machine.assert_clean();
}

#[test]
fn stage_2_holds_back_what_comes_through_stage_1() {
    let machine = Machine::nested(plain());
    machine.cb(1, SCTLR, STALL);
    machine.words(L3 + 16, &[0x40_5000 | PAGE]);
    let stall = machine.held(0x2000);
    assert_eq!((machine.rcb(0, FSR), machine.rcb(1, FSR)), (0x400, 0x4000_0402));
    machine.words(crate::harness::S2_L3 + 5 * 8, &[0x70_0000 | crate::harness::S2_PAGE]);
    machine.cb(0, RESUME, 1);
    assert_eq!(machine.fate(stall), StallState::Waiting, "it is bank 1's");
    machine.cb(1, FSR, 2);
    machine.cb(1, RESUME, 0);
    assert_eq!(machine.fate(stall), StallState::Retry);
    assert_eq!(machine.read(5, 0x2000), Got::At(0x70_0000));
    machine.assert_clean();
}

#[test]
fn what_waits_does_not_hold_up_a_synchronization_and_ends_with_a_reset() {
    let machine = stalling(Config { policy: Policy::stale(), ..plain() });
    let stall = machine.held(0x2000);
    machine.cb(0, crate::harness::TLBIALL, 0);
    machine.sync(0);
    assert_eq!(machine.fate(stall), StallState::Waiting);
    machine.smmu.reset();
    assert_eq!(machine.fate(stall), StallState::Aborted);
}
