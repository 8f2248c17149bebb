//! What the accelerator does where a page is missing: page requests with credits, and stalls.

use std::collections::BTreeSet;

use model_bus::{PageRequest, PageResponse, StallState, Width};
use model_devices::accelerator::AcceleratorOptions;
use model_devices::pcie::{PageBehaviour, Refused, clause};
use portcullis_types::{Iova, Pasid};

use crate::accelerator_rig::{
    AccRig, COPY, DEST, JobWords, PASID, Policy, SOURCE, STREAM, SUM, job, pasid, text,
};

/// The PCIe form with a running queue whose ring is present, and a source of 64 KiB.
fn rig(policy: Policy) -> AccRig {
    with(&AcceleratorOptions::default(), policy)
}

fn with(options: &AcceleratorOptions, policy: Policy) -> AccRig {
    let rig = AccRig::pcie(options);
    rig.mmu.table().policy = policy;
    present_rings(&rig);
    rig.store(SOURCE, &text(0x1_0000));
    rig.start(0, Some(PASID));
    rig
}

fn present_rings(rig: &AccRig) {
    for queue in 0..8 {
        rig.mmu.grant(pasid(), AccRig::ring(queue), 0x1000, true, true);
    }
}

fn asked(rig: &AccRig) -> Vec<(u64, u16, bool, bool, bool)> {
    let cut = |request: &PageRequest| {
        assert_eq!((request.source, request.pasid), (STREAM, pasid()));
        (request.iova.get(), request.group, request.last, request.read, request.write)
    };
    rig.mmu.requests().iter().map(cut).collect()
}

#[test]
fn part_23_an_absent_page_is_requested_and_then_the_access_is_made() {
    let rig = rig(Policy::Grant);
    let ended = rig.run(JobWords { source: SOURCE + 8, dest: DEST + 0xffc, ..job(COPY, 0x1000, 0x1000) });
    assert_eq!((ended.status, ended.produced), (1, 0x1000));
    assert!(rig.load(DEST + 0xffc, 0x1000) == text(0x1008)[8..]);
    let expected = [
        (SOURCE, 0, true, true, false),
        (DEST, 1, true, false, true),
        (DEST + 0x1000, 2, true, false, true),
        (SOURCE + 0x1000, 3, true, true, false),
    ];
    assert_eq!(asked(&rig), expected);
    let counts = rig.device().pages().counts();
    assert_eq!(
        (counts.requests, counts.groups, counts.success, rig.device().pages().retries()),
        (4, 4, 4, 4)
    );
    assert_eq!(rig.device().pages().outstanding(), 0);
    assert!(rig.ear.heard("model.pcie page_request_sent: pasid=7"));
    assert!(rig.ear.heard("model.pcie page_response_received: group=3 code=0 what=success"));
}

#[test]
fn part_24_pages_ahead_are_asked_for_in_one_group_whose_last_is_marked() {
    let rig = rig(Policy::Grant);
    rig.mmu.grant(pasid(), DEST, 0x6000, true, true);
    let ended = rig.run(JobWords { flags: 2, ..job(COPY, 0x5800, 0x6000) });
    assert_eq!(ended.status, 1);
    let page = |number: u64, group, last| (SOURCE + 0x1000 * number, group, last, true, false);
    let first = [page(0, 0, false), page(1, 0, false), page(2, 0, false), page(3, 0, true)];
    assert_eq!(asked(&rig), [&first[..], &[page(4, 1, false), page(5, 1, true)]].concat());
}

#[test]
fn a_group_never_passes_the_allocation() {
    let rig = AccRig::cold_pcie(&AcceleratorOptions::default());
    rig.switch_on(3);
    rig.enable();
    rig.mmu.table().policy = Policy::Grant;
    present_rings(&rig);
    rig.mmu.grant(pasid(), DEST, 0x8000, true, true);
    rig.start(0, Some(PASID));
    assert_eq!(rig.run(JobWords { flags: 5, ..job(COPY, 0x8000, 0x8000) }).status, 1);
    let counts = rig.device().pages().counts();
    assert_eq!((counts.requests, counts.groups, counts.most_outstanding), (8, 3, 3));
}

#[test]
fn part_23_credits_are_never_exceeded_whoever_wants_pages() {
    for seed in 0..4 {
        let options = AcceleratorOptions { seed, ..AcceleratorOptions::default() };
        let rig = AccRig::cold_pcie(&options);
        rig.switch_on(5);
        rig.enable();
        present_rings(&rig);
        let jobs: Vec<u64> = (0..8)
            .map(|queue| {
                rig.start(queue, Some(PASID));
                let at = 0x10_0000 * queue;
                let words = job(COPY, 0x9000, 0x9000);
                rig.submit(
                    queue,
                    JobWords { source: SOURCE + at, dest: DEST + at, flags: queue as u32 % 3, ..words },
                )
            })
            .collect();
        let mut answered = 0;
        let mut responses = 0;
        loop {
            rig.settle();
            assert!(rig.device().pages().outstanding() <= 5);
            let requests = rig.mmu.requests();
            // Indexes are unique among what is outstanding.
            let open = &requests[answered..];
            let lasts: Vec<u16> =
                open.iter().filter(|request| request.last).map(|request| request.group).collect();
            assert_eq!(lasts.iter().collect::<BTreeSet<_>>().len(), lasts.len());
            let Some(group) = open.first().map(|request| request.group) else { break };
            for request in open.iter().take_while(|request| request.group == group) {
                rig.mmu.grant(pasid(), request.iova.get(), 1, true, true);
                answered += 1;
                if request.last {
                    rig.mmu.respond(request, 0);
                    responses += 1;
                }
            }
        }
        assert!(jobs.iter().all(|&entry| rig.ended(entry).status == 1));
        let counts = rig.device().pages().counts();
        assert_eq!((counts.success, counts.unexpected), (responses, 0));
        assert!(counts.most_outstanding <= 5 && counts.most_outstanding >= 4);
    }
}

#[test]
fn a_queue_that_waits_stops_no_other() {
    let rig = rig(Policy::Keep);
    let waiting = rig.submit(0, job(SUM, 1, 0));
    rig.settle();
    rig.mmu.grant(pasid(), DEST, 0x1000, true, true);
    rig.start(1, Some(PASID));
    let other = rig.submit(1, JobWords { source: DEST, ..job(SUM, 9, 0) });
    rig.settle();
    assert_eq!((rig.ended(waiting).status, rig.ended(other).status), (0, 1));
    rig.mmu.grant(pasid(), SOURCE, 1, true, false);
    rig.mmu.respond(&rig.mmu.requests()[0], 0);
    rig.settle();
    assert_eq!(rig.ended(waiting).status, 1);
}

#[test]
fn part_25_invalid_request_fails_the_access_and_nothing_else() {
    let rig = rig(Policy::Answer(1));
    rig.mmu.grant(pasid(), SOURCE, 0x1000, true, false);
    let ended = rig.run(job(COPY, 0x2000, 0x2000));
    assert_eq!((ended.status, ended.consumed, ended.produced), (3, 0, 0));
    rig.mmu.grant(pasid(), DEST, 0x2000, true, true);
    let ended = rig.run(job(COPY, 0x2000, 0x2000));
    assert_eq!((ended.status, ended.consumed, ended.produced), (2, 0x1000, 0x1000));
    assert!(rig.load(DEST, 0x1000) == text(0x1000));
    assert_eq!((rig.pri_status() & 3, rig.state(0)), (0, 1));
    assert_eq!(rig.device().pages().counts().invalid, 2);
    // Page requests are still on.
    rig.mmu.table().policy = Policy::Grant;
    assert_eq!(rig.run(job(COPY, 0x2000, 0x2000)).status, 1);
}

#[test]
fn part_25_response_failure_stops_page_requests_until_software_resets_them() {
    for code in [15, 2, 14] {
        let rig = rig(Policy::Answer(code));
        assert_eq!(rig.run(job(SUM, 1, 0)).status, 2);
        assert_eq!(rig.pri_status() & 3, 1);
        rig.mmu.table().policy = Policy::Grant;
        assert_eq!(rig.run(job(SUM, 1, 0)).status, 2);
        assert_eq!(rig.mmu.requests().len(), 1);
        // What comes now is ignored, known or not.
        rig.mmu.respond(&rig.mmu.requests()[0], 0);
        assert_eq!((rig.pri_status() & 3, rig.device().pages().counts().ignored), (1, 1));
        let pri = rig.extended(0x13);
        // Writing a one clears the flag, and does not switch on.
        rig.write_config(pri + 6, Width::Bits16, 1);
        assert_eq!((rig.pri_status() & 3, rig.run(job(SUM, 1, 0)).status), (0, 2));
        rig.write_config(pri + 4, Width::Bits16, 2);
        assert_eq!(rig.read_config(pri + 4, Width::Bits16), 0);
        rig.write_config(pri + 4, Width::Bits16, 1);
        assert_eq!(rig.run(job(SUM, 1, 0)).status, 1);
    }
}

#[test]
fn a_page_that_never_becomes_accessible_is_requested_64_times() {
    let rig = rig(Policy::Answer(0));
    assert_eq!(rig.run(job(SUM, 1, 0)).status, 2);
    assert_eq!(rig.mmu.requests().len(), 64);
    // The count begins anew with each access.
    assert_eq!(rig.run(job(SUM, 1, 0)).status, 2);
    assert_eq!(rig.mmu.requests().len(), 128);
}

#[test]
fn with_page_requests_off_what_is_not_translated_fails() {
    let rig = rig(Policy::Grant);
    rig.write_config(rig.extended(0x13) + 4, Width::Bits16, 0);
    assert_eq!(rig.run(job(SUM, 1, 0)).status, 2);
    assert!(rig.mmu.requests().is_empty());
}

#[test]
fn with_ats_off_accesses_are_untranslated_and_a_refusal_is_a_failure() {
    let rig = rig(Policy::Grant);
    rig.write_config(rig.extended(0x0f) + 6, Width::Bits16, 0);
    rig.mmu.grant(pasid(), SOURCE, 0x1000, true, true);
    assert_eq!(rig.run(job(COPY, 8, 8)).status, 3);
    let table = rig.mmu.table();
    assert!(table.translations.is_empty() && table.translated.is_empty() && table.requests.is_empty());
    assert!(
        table.untranslated.len() > 2 && table.untranslated.iter().all(|request| request.source == STREAM)
    );
}

#[test]
fn a_ring_that_cannot_be_read_fails_the_queue_and_says_where() {
    let rig = rig(Policy::Answer(1));
    rig.mmu.revoke(pasid(), AccRig::ring(0));
    rig.submit(0, job(SUM, 1, 0));
    rig.settle();
    assert_eq!((rig.state(0), rig.error(0), rig.counts().queues_failed), (3, AccRig::ring(0) | 1, 1));
    assert!(rig.ear.heard("queue_failed: queue=0 why=ring"));
}

#[test]
fn a_ring_that_cannot_be_written_fails_the_queue() {
    let rig = rig(Policy::Answer(1));
    rig.mmu.grant(pasid(), AccRig::ring(0), 1, true, false);
    rig.mmu.grant(pasid(), SOURCE, 1, true, false);
    rig.submit(0, job(SUM, 1, 0));
    rig.settle();
    assert_eq!((rig.state(0), rig.error(0), rig.head(0)), (3, AccRig::ring(0) | 1, 0));
}

#[test]
fn part_24_a_response_to_no_group_sets_the_flag_and_does_nothing() {
    let rig = rig(Policy::Keep);
    rig.submit(0, job(SUM, 1, 0));
    rig.settle();
    let request = rig.mmu.requests()[0];
    let unknown = PageResponse { source: STREAM, pasid: pasid(), group: request.group + 1, code: 0 };
    assert!(rig.mmu.down().page_response(&unknown));
    assert_eq!((rig.pri_status() & 3, rig.device().pages().outstanding()), (2, 1));
    rig.write_config(rig.extended(0x13) + 6, Width::Bits16, 2);
    assert_eq!(rig.pri_status() & 3, 0);
}

#[test]
fn part_23_a_response_carries_the_pasid_if_the_function_needs_it() {
    let strict = rig(Policy::Keep);
    assert_eq!(strict.pri_status() >> 15, 1);
    strict.submit(0, job(SUM, 1, 0));
    strict.settle();
    let request = strict.mmu.requests()[0];
    strict.mmu.respond_as(&request, None, 0);
    strict.mmu.respond_as(&request, Pasid::new(8), 0);
    assert_eq!((strict.pri_status() & 3, strict.device().pages().outstanding()), (2, 1));
    strict.mmu.respond(&request, 0);
    assert_eq!(strict.device().pages().outstanding(), 0);

    let options = AcceleratorOptions { response_needs_pasid: false, ..AcceleratorOptions::default() };
    let lax = with(&options, Policy::Keep);
    assert_eq!(lax.pri_status() >> 15, 0);
    lax.submit(0, job(SUM, 1, 0));
    lax.settle();
    lax.mmu.respond_as(&lax.mmu.requests()[0], None, 0);
    assert_eq!((lax.pri_status() & 3, lax.device().pages().outstanding()), (0, 0));
    assert_eq!((lax.device().take_unpredictable(), strict.device().take_unpredictable()), (vec![], vec![]));
    // With one, "function behavior is undefined". The page is not there still, and was asked for again.
    lax.settle();
    lax.mmu.respond(lax.mmu.requests().last().unwrap(), 0);
    assert_eq!(lax.device().take_unpredictable()[0].clause, clause::RESPONSE_PASID);
}

#[test]
fn part_23_page_requests_stop_when_the_last_response_is_there() {
    const STOPPED: u64 = 0x100;
    let rig = rig(Policy::Keep);
    assert_eq!(rig.pri_status() & STOPPED, 0);
    let pri = rig.extended(0x13);
    rig.submit(0, job(SUM, 1, 0));
    rig.settle();
    rig.write_config(pri + 4, Width::Bits16, 0);
    assert_eq!(rig.pri_status() & STOPPED, 0);
    rig.mmu.respond(&rig.mmu.requests()[0], 0);
    assert_eq!(rig.pri_status() & STOPPED, STOPPED);
    // Reset does not wait for responses, and clears what they were for.
    rig.write_config(pri + 4, Width::Bits16, 1);
    rig.submit(0, job(SUM, 1, 0));
    rig.settle();
    rig.write_config(pri + 4, Width::Bits16, 2);
    assert_eq!((rig.pri_status() & STOPPED, rig.device().pages().outstanding()), (STOPPED, 0));
    // While it is enabled reset does nothing.
    rig.write_config(pri + 4, Width::Bits16, 1);
    rig.submit(0, job(SUM, 1, 0));
    rig.settle();
    rig.write_config(pri + 4, Width::Bits16, 3);
    assert_eq!(rig.device().pages().outstanding(), 1);
}

#[test]
fn part_23_page_requests_are_not_to_be_enabled_before_they_have_stopped() {
    let rig = rig(Policy::Keep);
    let pri = rig.extended(0x13);
    rig.submit(0, job(SUM, 1, 0));
    rig.settle();
    rig.write_config(pri + 4, Width::Bits16, 0);
    assert_eq!(rig.device().take_unpredictable(), []);
    rig.write_config(pri + 4, Width::Bits16, 1);
    assert_eq!(rig.device().take_unpredictable()[0].clause, clause::ENABLED_BEFORE_STOPPED);
}

#[test]
fn part_23_the_allocation_is_taken_when_page_requests_are_enabled_and_at_most_the_capacity() {
    let options = AcceleratorOptions { page_requests: 12, ..AcceleratorOptions::default() };
    let rig = AccRig::cold_pcie(&options);
    let pri = rig.extended(0x13);
    assert_eq!(rig.read_config(pri + 8, Width::Bits32), 12);
    rig.switch_on(0x1_0000);
    assert_eq!(rig.device().pages().group_limit(), 12);
    assert_eq!(rig.device().take_unpredictable(), []);
    rig.write_config(pri + 12, Width::Bits32, 3);
    assert_eq!((rig.device().pages().group_limit(), rig.read_config(pri + 12, Width::Bits32)), (12, 12));
    assert_eq!(rig.device().take_unpredictable()[0].clause, clause::ALLOCATION_CHANGED);
    rig.write_config(pri + 4, Width::Bits16, 0);
    assert_eq!(rig.device().pages().group_limit(), 0);
    rig.write_config(pri + 12, Width::Bits32, 3);
    rig.write_config(pri + 4, Width::Bits16, 1);
    assert_eq!(rig.device().pages().group_limit(), 3);
}

#[test]
fn part_24_there_are_512_groups_at_once_and_no_more() {
    let options = AcceleratorOptions { page_requests: 10_000, ..AcceleratorOptions::default() };
    let rig = AccRig::cold_pcie(&options);
    rig.switch_on(10_000);
    let pages = rig.device().pages();
    let page = [Iova::new(0x1000)];
    let tickets: Vec<_> = (0..512).map(|_| pages.request(pasid(), &page, false).unwrap()).collect();
    assert!(matches!(pages.request(pasid(), &page, false), Err(Refused::Full)));
    let requests = rig.mmu.requests();
    let groups: BTreeSet<u16> = requests.iter().map(|request| request.group).collect();
    assert_eq!((groups.len(), groups.last()), (512, Some(&511)));
    rig.mmu.respond(&requests[77], 1);
    assert!(pages.request(pasid(), &page, false).is_ok());
    assert_eq!(rig.mmu.requests()[512].group, 77);
    drop(tickets);
}

#[test]
fn part_25_a_stop_marker_is_behind_requests_that_are_still_being_sent() {
    let rig = rig(Policy::Keep);
    let device = rig.device().clone();
    // Another thread, while the first request is on its way.
    let stop = move || {
        std::thread::spawn(move || device.pages().stop_marker(pasid().unwrap())).join().unwrap();
    };
    *rig.mmu.in_request.lock().unwrap() = Some(Box::new(stop));
    let pages = [SOURCE, SOURCE + 0x1000, SOURCE + 0x2000].map(Iova::new);
    let ticket = rig.device().pages().request(pasid(), &pages, true).unwrap();
    let order: Vec<(bool, bool)> =
        rig.mmu.requests().iter().map(|request| (request.write, request.last)).collect();
    assert_eq!(order, [(true, false), (true, false), (true, true), (false, true)]);
    drop(ticket);
}

#[test]
fn hostile_page_requests_go_out_as_they_are_wanted() {
    let rig = rig(Policy::Keep);
    rig.mmu.quiet.store(true, core::sync::atomic::Ordering::Relaxed);
    let pages = rig.device().pages();
    let forged = PageRequest {
        source: STREAM,
        pasid: Pasid::new(0xf_ffff),
        privileged: true,
        execute: true,
        iova: Iova::new(0xdead_b000),
        group: 300,
        last: false,
        read: true,
        write: true,
    };
    (0..100_000).for_each(|_| pages.forge(&forged));
    assert_eq!((pages.counts().requests, pages.outstanding()), (100_000, 0));
    rig.mmu.quiet.store(false, core::sync::atomic::Ordering::Relaxed);
    pages.forge(&PageRequest { source: portcullis_types::SourceId(1), ..forged });
    // Whoever it says it is, its messages carry its own id.
    assert_eq!(rig.mmu.requests(), [forged]);
    rig.mmu.respond(&forged, 0);
    assert_eq!(rig.pri_status() & 3, 2);
    pages.behave(PageBehaviour { never_last: true, no_credits: true });
    let many: Vec<Iova> = (0..100).map(|page| Iova::new(page << 12)).collect();
    let ticket = pages.request(pasid(), &many, true).unwrap();
    assert_eq!(
        (pages.outstanding(), rig.mmu.requests().iter().filter(|request| request.last).count()),
        (100, 0)
    );
    drop(ticket);
}

#[test]
fn part_22_a_stalled_access_is_made_again_when_it_is_resumed() {
    let rig = AccRig::platform(&AcceleratorOptions::default());
    rig.store(SOURCE, &text(0x2000));
    rig.start(0, Some(PASID));
    let entry = rig.submit(0, job(COPY, 0x2000, 0x2000));
    let mut stalls = 0;
    loop {
        rig.settle();
        let waiting = rig.mmu.end_stalls(StallState::Retry);
        if waiting.is_empty() {
            break;
        }
        for request in waiting {
            stalls += 1;
            rig.mmu.grant(pasid(), request.iova.get(), 1, true, true);
        }
    }
    // The ring, two pages to read, two to write.
    assert_eq!((stalls, rig.counts().stalls), (5, 5));
    assert_eq!(rig.ended(entry).status, 1);
    assert!(rig.load(DEST, 0x2000) == text(0x2000));
}

#[test]
fn part_22_a_stalled_access_that_is_ended_fails_or_counts_as_done() {
    let rig = AccRig::platform(&AcceleratorOptions::default());
    rig.mmu.grant(pasid(), AccRig::ring(0), 1, true, true);
    rig.mmu.grant(pasid(), SOURCE, 1, true, true);
    rig.store(SOURCE, &text(8));
    rig.store(DEST, &[0xee; 8]);
    rig.start(0, Some(PASID));
    let run = |words, end| {
        let entry = rig.submit(0, words);
        rig.settle();
        rig.mmu.end_stalls(end);
        rig.settle();
        rig.ended(entry)
    };
    let aborted = run(job(COPY, 8, 8), StallState::Aborted);
    assert_eq!((aborted.status, aborted.produced), (3, 0));
    let ignored = run(job(COPY, 8, 8), StallState::Ignored);
    assert_eq!((ignored.status, ignored.produced), (1, 8));
    assert_eq!(rig.load(DEST, 8), [0xee; 8]);
    let swapped = JobWords { source: DEST, dest: SOURCE, ..job(COPY, 8, 8) };
    assert_eq!(run(swapped, StallState::Aborted).status, 2);
    assert_eq!(run(swapped, StallState::Ignored).status, 1);
    assert_eq!(rig.load(SOURCE, 8), [0; 8]);
}
