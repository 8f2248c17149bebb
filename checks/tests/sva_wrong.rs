//! Wrong drivers for shared memory. Each breaks a promise that is written beside it, and the watcher names it.

use std::sync::Arc;

use portcullis_checks::sva::overflow::{Came, after_an_overflow};
use portcullis_checks::sva::plan::Plan;
use portcullis_checks::sva::schedule::Manner;
use portcullis_checks::sva::wrong::{
    Descriptors, Hoarding, Liar, Lie, WithoutSubstream, atcs_first, catch, caught, op,
};
use portcullis_checks::wrong::commands::{Commands, Words, changing, leaving_out, one_late, opcode};
use portcullis_checks::wrong::registers::Written;
use portcullis_lab::tamper::Tamper;

fn pcie(seed: u64) -> Plan {
    Plan::new(seed).pcie_only()
}

fn platform(seed: u64) -> Plan {
    Plan::new(seed).platform_only()
}

const PLAIN: Manner = Manner { operations: 400, forging: false, late: 0, silent: false, impatient: false };

fn without(opcodes: &'static [u64]) -> impl Fn() -> Arc<dyn Tamper> {
    move || Arc::new(leaving_out(move |words| opcodes.contains(&opcode(words))))
}

fn changed(change: fn(Words) -> Words) -> impl Fn() -> Arc<dyn Tamper> {
    move || Arc::new(changing(change))
}

fn descriptors(change: fn(u64) -> u64) -> impl Fn() -> Arc<dyn Tamper> {
    move || Arc::new(Descriptors::new(change))
}

fn lies(lie: Lie) -> impl Fn() -> Arc<dyn Tamper> {
    move || Arc::new(Liar(lie))
}

#[test]
fn the_right_driver_is_not_caught() {
    assert_eq!(catch(0..6, Plan::new, PLAIN, changed(|words| words)), None);
    assert_eq!(catch(0..3, Plan::new, PLAIN, descriptors(|word| word)), None);
}

#[test]
fn a_block_that_is_never_given_back_is_a_leak() {
    caught(Plan::new, PLAIN, || Arc::new(Hoarding::default()), &["no-leak: 1 blocks"]);
}

#[test]
fn part_18_no_atc_invalidation_breaks_isolation() {
    caught(pcie, PLAIN, without(&[op::ATC_INV]), &["isolation: "]);
}

#[test]
fn part_18_devices_that_are_told_to_forget_everything_and_are_not_waited_for_are_noticed() {
    // Behind what waits for it; and without SSV, bit 11, and SSID, 31:12 of word 0: of whichever address space.
    let last = || -> Arc<dyn Tamper> {
        Arc::new(Commands::new(|batch: &mut [Words]| {
            batch.sort_by_key(|words| opcode(*words) == op::ATC_INV);
            let told = batch.iter_mut().filter(|words| opcode(**words) == op::ATC_INV);
            told.for_each(|words| words[0] &= !0xffff_f800);
        }))
    };
    caught(pcie, Manner { late: 4, ..PLAIN }, last, &["reclaim: all is said to be forgotten"]);
}

#[test]
fn part_18_atc_invalidations_of_another_pasid_break_isolation() {
    // SSID: 31:12 of word 0.
    let other = |words: Words| {
        if opcode(words) == op::ATC_INV && words[0] >> 11 & 1 == 1 {
            [words[0] ^ 0x40 << 12, words[1]]
        } else {
            words
        }
    };
    caught(pcie, PLAIN, changed(other), &["isolation: "]);
}

#[test]
fn part_18_atc_invalidations_of_one_page_only_break_isolation() {
    // Size: 5:0 of word 1.
    let short =
        |words: Words| if opcode(words) == op::ATC_INV { [words[0], words[1] & !0x3f] } else { words };
    caught(pcie, PLAIN, changed(short), &["isolation: "]);
}

#[test]
fn part_18_atcs_before_the_tlb_refill_from_it_and_break_isolation() {
    caught(pcie, PLAIN, || Arc::new(atcs_first(8)), &["isolation: "]);
}

#[test]
fn part_14_no_tlb_invalidation_where_nothing_is_broadcast_breaks_isolation() {
    caught(platform, PLAIN, without(&[op::TLBI_NH_VA]), &["isolation: "]);
}

#[test]
fn part_13_tlb_invalidations_of_the_wrong_regime_break_isolation() {
    // The EL1 forms where entries are tagged as EL2-E2H: 0x21 to 0x11, 0x22 to 0x12.
    let el1 = |words: Words| match opcode(words) {
        op::TLBI_EL2_ASID | op::TLBI_EL2_VA => [words[0] ^ 0x30, words[1]],
        _ => words,
    };
    caught(|seed| platform(seed).vhe(), PLAIN, changed(el1), &["isolation: "]);
}

#[test]
fn part_17_quiesce_that_clears_v_makes_a_storm_of_events() {
    let invalid = |word: u64| if word >> 14 & 1 == 1 { word & !(1 << 31) } else { word };
    caught(platform, PLAIN, descriptors(invalid), &["quiet: ", "C_BAD_CD"]);
}

#[test]
fn part_17_quiesce_that_leaves_walks_on_reaches_what_was_freed() {
    caught(Plan::new, PLAIN, descriptors(|word| word & !(1 << 14)), &["isolation: ", "reclaim: "]);
}

#[test]
fn part_22_an_answer_for_another_stream_leaves_the_device_waiting() {
    let other =
        |words: Words| if opcode(words) == op::RESUME { [words[0] ^ 1 << 32, words[1]] } else { words };
    caught(platform, PLAIN, changed(other), &["CMD_RESUME", "one-answer: ", "liveness: "]);
    caught(platform, PLAIN, lies(Lie::RespondToFirst), &["one-answer: ", "liveness: "]);
}

#[test]
fn part_22_stalls_that_nobody_ends_are_owed_an_answer() {
    // Ac, bit 12 of word 0, is retry; without it the access ends.
    let no_abort = || -> Arc<dyn Tamper> {
        Arc::new(leaving_out(|words: Words| opcode(words) == op::RESUME && words[0] >> 12 & 1 == 0))
    };
    caught(platform, PLAIN, no_abort, &["one-answer: ", "liveness: "]);
}

#[test]
fn part_25_a_response_left_out_is_owed() {
    caught(pcie, PLAIN, without(&[op::PRI_RESP]), &["one-answer: ", "liveness: "]);
}

#[test]
fn part_25_a_response_given_twice_is_one_too_many() {
    caught(pcie, PLAIN, lies(Lie::RespondTwice), &["one-answer: nobody waits"]);
}

#[test]
fn part_25_responses_with_the_wrong_code_refuse_what_is_there() {
    // Resp: 13:12 of word 1. Success 2, invalid 1, failure 0; 3 is illegal.
    let invalid = |words: Words| {
        if opcode(words) == op::PRI_RESP { [words[0], words[1] & !0x3000 | 0x1000] } else { words }
    };
    caught(pcie, PLAIN, changed(invalid), &["one-answer: pages that are there were refused"]);
    let failure =
        |words: Words| if opcode(words) == op::PRI_RESP { [words[0], words[1] & !0x3000] } else { words };
    caught(pcie, PLAIN, changed(failure), &["one-answer: "]);
    let illegal =
        |words: Words| if opcode(words) == op::PRI_RESP { [words[0], words[1] | 0x3000] } else { words };
    caught(pcie, PLAIN, changed(illegal), &["CERROR_ILL", "one-answer: "]);
}

#[test]
fn part_25_a_response_without_the_pasid_that_the_device_wants_is_none() {
    let bare = |words: Words| {
        if opcode(words) == op::PRI_RESP { [words[0] & !(1 << 11 | 0xf_ffff << 12), words[1]] } else { words }
    };
    caught(pcie, PLAIN, changed(bare), &["one-answer: "]);
}

#[test]
fn part_17_descriptors_that_hardware_is_not_told_of_break_isolation() {
    caught(Plan::new, PLAIN, without(&[op::CFGI_CD]), &["isolation: ", "reclaim: ", "3.21.3", "quiet: "]);
}

#[test]
fn part_17_an_unbind_that_detaches_nothing_is_noticed() {
    caught(
        Plan::new,
        PLAIN,
        lies(Lie::Detach),
        &["isolation: ", "reclaim: ", "one-answer: ", "no-leak: ", "PasidsInUse"],
    );
}

#[test]
fn part_18_an_invalidation_that_was_only_promised_breaks_isolation() {
    caught(Plan::new, PLAIN, lies(Lie::Invalidate), &["isolation: "]);
}

#[test]
fn part_17_a_quiesce_that_was_only_promised_breaks_isolation() {
    caught(Plan::new, PLAIN, lies(Lie::Quiesce), &["isolation: ", "reclaim: "]);
}

#[test]
fn part_18_a_failed_invalidation_taken_for_done_frees_what_devices_reach() {
    let silent = Manner { silent: true, late: 3, ..PLAIN };
    let plan = |seed| Plan { wait_limit_ns: 10_000_000, ..pcie(seed) };
    caught(plan, silent, lies(Lie::InvalidateResult), &["isolation: ", "reclaim: "]);
}

#[test]
fn part_23_requests_that_are_dropped_leave_the_device_waiting() {
    caught(pcie, PLAIN, lies(Lie::DropRequests), &["liveness: ", "one-answer: "]);
}

/// What comes of a group after an overflow of a queue of four.
fn overflown(tamper: Option<Arc<dyn Tamper>>) -> Came {
    after_an_overflow(Plan { page_queue_lg2: 2, ..pcie(1) }, 8, tamper)
}

#[test]
fn part_24_an_overflow_that_is_not_acknowledged_leaves_everybody_without_pages() {
    assert_eq!(overflown(None), Came { code: Some(0), present: true }, "the right driver");
    // SMMU_PRIQ_CONS, OVACKFLG: bit 31. Spec: SMMUv3 H.a, 8.1 "PRI queue overflow".
    let never = Written::new(0x1_00cc, |cons: u64| Some(cons & !(1 << 31)));
    assert!(!overflown(Some(Arc::new(never))).present, "hardware answered by itself, and nobody heard of it");
}

#[test]
fn part_24_partial_groups_that_outlive_an_overflow_spoil_those_that_come_later() {
    let came = overflown(Some(Arc::new(Liar(Lie::HideOverflow))));
    assert_eq!(came.code, Some(1), "the group has a request in it that was answered long ago");
}

#[test]
fn part_17_traffic_without_a_pasid_that_is_bypassed_or_ended_is_noticed() {
    for s1dss in [0, 1] {
        caught(Plan::new, PLAIN, || Arc::new(WithoutSubstream::new(s1dss)), &["without a PASID"]);
    }
}

#[test]
fn part_9_asids_that_hardware_has_not_forgotten_reach_who_died() {
    caught(Plan::new, PLAIN, without(&[op::TLBI_NH_ASID]), &["isolation: ", "reclaim: "]);
}

#[test]
fn part_18_invalidations_that_come_a_batch_late_break_isolation() {
    let tlbi = |words: Words| matches!(opcode(words), op::TLBI_NH_VA | op::TLBI_NH_ASID);
    caught(platform, PLAIN, || Arc::new(one_late(tlbi)), &["isolation: "]);
    let atcs = |words: Words| opcode(words) == op::ATC_INV;
    caught(pcie, PLAIN, || Arc::new(one_late(atcs)), &["isolation: "]);
}
