//! Wrong drivers for shared memory behind a VT-d unit: each leaves out one step, or gets one wrong, and the watcher names the promise that it breaks. What a driver of either vendor can
//! get wrong is in the same words for both (`sva_wrong`).
//!
//! Bits are typed from the book. Spec: VT-d 5.10, 6.5.2 "Queued Invalidation Interface", 7.6.1 "Page Group Response Descriptor", 9.6 "Scalable-Mode PASID Table Entry".

use std::sync::Arc;

use portcullis_checks::sva::overflow::{Came, after_an_overflow};
use portcullis_checks::sva::plan::Plan;
use portcullis_checks::sva::schedule::Manner;
use portcullis_checks::sva::wrong::{Descriptors, Hoarding, Liar, Lie, catch, caught};
use portcullis_checks::wrong::commands::{Words, changing_in, leaving_out_of, one_late_in};
use portcullis_checks::wrong::descriptors::{InvalidationQueue, VTD_BASE, kind, offset, type_of};
use portcullis_checks::wrong::registers::Written;
use portcullis_lab::tamper::Tamper;

const PLAIN: Manner = Manner { operations: 400, forging: false, late: 0, silent: false, impatient: false };
/// Wait descriptor.
const WAIT: u64 = 0x5;

fn without(types: &'static [u64]) -> impl Fn() -> Arc<dyn Tamper> {
    move || Arc::new(leaving_out_of::<InvalidationQueue>(move |words| types.contains(&type_of(words))))
}

/// Descriptors of this type are others.
fn changed(of: u64, change: fn(Words) -> Words) -> impl Fn() -> Arc<dyn Tamper> {
    let change = move |words| if type_of(words) == of { change(words) } else { words };
    move || Arc::new(changing_in::<InvalidationQueue>(change))
}

fn lies(lie: Lie) -> impl Fn() -> Arc<dyn Tamper> {
    move || Arc::new(Liar(lie))
}

/// The first word of the entry of a process that has exited: not present, and FPD.
fn is_quiet(word: u64) -> bool {
    word == 0b10
}

#[test]
fn the_right_driver_is_not_caught() {
    assert_eq!(catch(0..6, Plan::x86, PLAIN, changed(WAIT, |words| words)), None);
    let same = || -> Arc<dyn Tamper> { Arc::new(Descriptors::known_by(is_quiet, |word| word)) };
    assert_eq!(catch(0..3, Plan::x86, PLAIN, same), None);
}

#[test]
fn a_block_that_is_never_given_back_is_a_leak() {
    // It, and the root table, which the unit keeps.
    caught(Plan::x86, PLAIN, || Arc::new(Hoarding::default()), &["no-leak: 2 blocks"]);
}

#[test]
fn part_18_no_device_tlb_invalidation_breaks_isolation() {
    caught(Plan::x86, PLAIN, without(&[kind::PASID_DEVICE_TLB]), &["isolation: "]);
}

#[test]
fn part_18_device_tlb_invalidations_of_another_pasid_break_isolation() {
    let other = |words: Words| [words[0] ^ 0x40 << 32, words[1]];
    caught(Plan::x86, PLAIN, changed(kind::PASID_DEVICE_TLB, other), &["isolation: "]);
}

#[test]
fn part_18_device_tlb_invalidations_of_one_page_only_break_isolation() {
    // S, bit 11: the run of ones above it says how many pages.
    let short = |words: Words| {
        let pages = words[1] >> 12;
        if words[1] >> 11 & 1 == 1 { [words[0], (pages & (pages + 1)) << 12] } else { words }
    };
    caught(Plan::x86, PLAIN, changed(kind::PASID_DEVICE_TLB, short), &["isolation: "]);
}

#[test]
fn part_14_no_iotlb_invalidation_breaks_isolation() {
    caught(Plan::x86, PLAIN, without(&[kind::PASID_IOTLB]), &["isolation: "]);
}

#[test]
fn part_17_entries_that_hardware_is_not_told_of_break_isolation() {
    caught(Plan::x86, PLAIN, without(&[kind::PASID_CACHE]), &["isolation: ", "reclaim: "]);
}

#[test]
fn part_17_an_exit_without_fpd_makes_a_storm_of_faults() {
    let loud = || -> Arc<dyn Tamper> { Arc::new(Descriptors::known_by(is_quiet, |_| 0)) };
    caught(Plan::x86, PLAIN, loud, &["quiet: "]);
}

#[test]
fn part_17_a_quiesce_that_was_only_promised_breaks_isolation() {
    caught(Plan::x86, PLAIN, lies(Lie::Quiesce), &["isolation: ", "reclaim: "]);
}

#[test]
fn part_17_an_unbind_that_detaches_nothing_is_noticed() {
    let words = ["isolation: ", "reclaim: ", "one-answer: ", "no-leak: ", "PasidsInUse"];
    caught(Plan::x86, PLAIN, lies(Lie::Detach), &words);
}

#[test]
fn part_17_an_unbind_that_drains_no_page_requests_owes_an_answer() {
    // PD, bit 7 of a wait; FN and SW stay.
    let no_drain = |words: Words| [words[0] & !(1 << 7), words[1]];
    let slow = |seed| Plan::x86(seed).unit(|unit| unit.policy.page_request_ticks = 40);
    caught(slow, PLAIN, changed(WAIT, no_drain), &["one-answer: ", "liveness: ", "quiet: "]);
}

#[test]
fn part_17_traffic_without_a_pasid_that_passes_through_is_noticed() {
    // The entry of a domain: P, PGTT 010b and AW, which that of a process does not have. PGTT 100b goes to memory.
    let is_one = |word: u64| word & 0x1e3 == 0x081 && word & 0x1c != 0;
    let passing =
        move || -> Arc<dyn Tamper> { Arc::new(Descriptors::known_by(is_one, |word| word & !0x1c0 | 0x100)) };
    caught(Plan::x86, PLAIN, passing, &["without a PASID"]);
}

#[test]
fn part_18_an_invalidation_that_was_only_promised_breaks_isolation() {
    caught(Plan::x86, PLAIN, lies(Lie::Invalidate), &["isolation: "]);
}

#[test]
fn part_18_a_failed_invalidation_taken_for_done_frees_what_devices_reach() {
    let silent = Manner { silent: true, late: 3, ..PLAIN };
    let plan = |seed| Plan { wait_limit_ns: 10_000_000, ..Plan::x86(seed) };
    caught(plan, silent, lies(Lie::InvalidateResult), &["isolation: ", "reclaim: "]);
}

#[test]
fn part_18_invalidations_that_come_a_batch_late_break_isolation() {
    for of in [kind::PASID_IOTLB, kind::PASID_DEVICE_TLB] {
        let late = move || -> Arc<dyn Tamper> {
            Arc::new(one_late_in::<InvalidationQueue>(move |words| type_of(words) == of))
        };
        caught(Plan::x86, PLAIN, late, &["isolation: "]);
    }
}

#[test]
fn part_23_requests_that_are_dropped_leave_the_device_waiting() {
    caught(Plan::x86, PLAIN, lies(Lie::DropRequests), &["liveness: ", "one-answer: "]);
}

#[test]
fn part_25_a_response_left_out_is_owed() {
    caught(Plan::x86, PLAIN, without(&[kind::PAGE_RESPONSE]), &["one-answer: ", "liveness: "]);
}

#[test]
fn part_25_a_response_given_twice_is_one_too_many() {
    caught(Plan::x86, PLAIN, lies(Lie::RespondTwice), &["one-answer: nobody waits"]);
    caught(Plan::x86, PLAIN, lies(Lie::RespondTwice), &["forbidden: 7.6.1 "]);
}

#[test]
fn part_25_a_response_to_another_group_leaves_the_device_waiting() {
    // PRGI: 75:67.
    let other = |words: Words| [words[0], words[1] ^ 1 << 3];
    caught(Plan::x86, PLAIN, changed(kind::PAGE_RESPONSE, other), &["one-answer: ", "liveness: "]);
}

#[test]
fn part_25_responses_with_the_wrong_code_refuse_what_is_there() {
    // RC, 15:12: success 0, invalid 1, failure 15.
    let invalid = |words: Words| [words[0] & !0xf000 | 0x1000, words[1]];
    let refused = ["one-answer: pages that are there were refused"];
    caught(Plan::x86, PLAIN, changed(kind::PAGE_RESPONSE, invalid), &refused);
    let failure = |words: Words| [words[0] | 0xf000, words[1]];
    caught(Plan::x86, PLAIN, changed(kind::PAGE_RESPONSE, failure), &["one-answer: "]);
}

#[test]
fn part_25_a_response_without_the_pasid_that_the_device_wants_is_none() {
    // PP, bit 4, and PASID, 51:32.
    let bare = |words: Words| [words[0] & !(1 << 4 | 0xf_ffff << 32), words[1]];
    caught(Plan::x86, PLAIN, changed(kind::PAGE_RESPONSE, bare), &["one-answer: "]);
}

/// What comes of a group after an overflow of a queue of 128, the least that there is.
fn overflown(tamper: Option<Arc<dyn Tamper>>) -> Came {
    after_an_overflow(Plan::x86(1), 200, tamper)
}

#[test]
fn part_24_an_overflow_that_is_not_acknowledged_leaves_everybody_without_pages() {
    assert_eq!(overflown(None), Came { code: Some(0), present: true }, "the right driver");
    // PRS_REG, PRO: bit 1, cleared by writing 1. Spec: VT-d 5.10, 11.4.11.4 "Page Request Status Register".
    let never = Written::at(VTD_BASE + offset::PRS, |status: u64| Some(status & !2));
    assert!(!overflown(Some(Arc::new(never))).present, "hardware answered by itself, and nobody heard of it");
}

#[test]
fn part_24_partial_groups_that_outlive_an_overflow_spoil_those_that_come_later() {
    let came = overflown(Some(Arc::new(Liar(Lie::HideOverflow))));
    assert_eq!(came.code, Some(1), "the group has a request in it that was answered long ago");
}
