//! Part 4: what becomes a group, in which order it is handled, and what its answer is.

use std::sync::{Arc, Mutex};

use crate::support::{Bench, Spin, bench, last, partial, pasid, witness};
use portcullis_core::iopf::{FaultQueue, GroupTag, Handled, Limits, PageRequest, Reported, ResponseCode};
use portcullis_types::{Perms, SourceId};

use ResponseCode::{Failure, Invalid, Success};

#[test]
fn a_group_waits_for_its_last_request_and_is_handled_in_order() {
    let bench = bench();
    let (seen, handler) = witness();
    bench.handle(1, handler);
    assert_eq!(bench.report(partial(7, 0x3000)), Reported::Stored);
    assert_eq!(bench.report(partial(8, 0x9000)), Reported::Stored);
    assert_eq!(bench.report(partial(7, 0x1000)), Reported::Stored);
    assert!(!bench.queue.work(), "nothing is complete");
    assert_eq!(bench.report(last(7, 0x2000)), Reported::Ready);
    assert!(bench.answers.take().is_empty());
    bench.work_all();
    assert_eq!(*seen.lock().unwrap(), [0x3000, 0x1000, 0x2000]);
    assert_eq!(bench.answers.codes(), [(7, Success)]);
    bench.report(last(8, 0xa000));
    bench.work_all();
    assert_eq!(seen.lock().unwrap()[3..], [0x9000, 0xa000]);
}

#[test]
fn an_answer_goes_to_the_source_the_pasid_and_the_tag_that_asked() {
    let bench = bench();
    let (_, handler) = witness();
    bench.handle(1, handler);
    let asked = [
        PageRequest { source: SourceId(0x19), ..last(5, 0x1000) },
        PageRequest { group: GroupTag::Stall { tag: 5, nth: 0 }, last: false, ..last(0, 0x2000) },
        PageRequest { pasid: None, ..last(6, 0x3000) },
    ];
    for request in asked {
        bench.report(request);
    }
    bench.work_all();
    let mut answered = bench.answers.take();
    answered.sort_by_key(|response| response.source != SourceId(0x19));
    assert_eq!(answered.len(), 3);
    for request in asked {
        let one = |response: &&portcullis_core::iopf::PageResponse| {
            (response.source, response.pasid, response.group)
                == (request.source, request.pasid, request.group)
        };
        assert_eq!(answered.iter().filter(one).count(), 1, "{request:?}");
    }
}

#[test]
fn the_same_index_from_another_source_is_another_group() {
    let bench = bench();
    let (seen, handler) = witness();
    bench.handle(1, handler);
    bench.report(PageRequest { source: SourceId(0x19), ..partial(7, 0x1000) });
    bench.report(PageRequest { group: GroupTag::Stall { tag: 7, nth: 0 }, ..last(7, 0x2000) });
    bench.report(last(7, 0x3000));
    bench.work_all();
    assert_eq!(*seen.lock().unwrap(), [0x2000, 0x3000]);
}

#[test]
fn an_error_sticks_and_the_rest_of_the_group_is_not_handled() {
    for (handled, code) in [(Handled::Invalid, Invalid), (Handled::Failure, Failure)] {
        let bench = bench();
        let seen = Arc::<Mutex<Vec<u64>>>::default();
        let to = seen.clone();
        bench.handle(1, move |request: &PageRequest| {
            to.lock().unwrap().push(request.address.get());
            if request.address.get() == 0x2000 { handled } else { Handled::Resolved }
        });
        bench.report(partial(7, 0x1000));
        bench.report(partial(7, 0x2000));
        bench.report(last(7, 0x3000));
        bench.report(last(8, 0x4000));
        bench.work_all();
        assert_eq!(*seen.lock().unwrap(), [0x1000, 0x2000, 0x4000]);
        assert_eq!(bench.answers.codes(), [(7, code), (8, Success)]);
    }
}

#[test]
fn a_retry_takes_the_group_up_where_it_was_after_the_others() {
    let bench = bench();
    let seen = Arc::<Mutex<Vec<u64>>>::default();
    let to = seen.clone();
    bench.handle(1, move |request: &PageRequest| {
        let mut seen = to.lock().unwrap();
        seen.push(request.address.get());
        let again = request.address.get() == 0x2000 && seen.iter().filter(|&&at| at == 0x2000).count() < 3;
        if again { Handled::Retry } else { Handled::Resolved }
    });
    bench.report(partial(7, 0x1000));
    bench.report(last(7, 0x2000));
    bench.report(last(8, 0x5000));
    bench.work_all();
    assert_eq!(*seen.lock().unwrap(), [0x1000, 0x2000, 0x5000, 0x2000, 0x2000]);
    assert_eq!(bench.answers.codes(), [(8, Success), (7, Success)]);
    assert_eq!(bench.device.counts().retries, 2);
}

#[test]
fn groups_of_one_device_are_handled_while_another_of_its_groups_is() {
    let bench = bench();
    let (inner, to) = (Arc::new(bench), Arc::new(Mutex::new(None::<Arc<Bench<Spin>>>)));
    let within = to.clone();
    inner.handle(1, move |request: &PageRequest| {
        // Whoever handles the first group gets the second one handled in the meantime.
        if request.group == GroupTag::Prg(1) {
            let bench = within.lock().unwrap().take().unwrap();
            assert!(bench.queue.work());
            assert_eq!(bench.answers.codes(), [(2, Success)]);
        }
        Handled::Resolved
    });
    *to.lock().unwrap() = Some(inner.clone());
    inner.report(last(1, 0x1000));
    inner.report(last(2, 0x2000));
    inner.work_all();
    assert_eq!(inner.answers.codes(), [(1, Success)]);
}

#[test]
fn devices_take_turns() {
    let bench = bench();
    let order = Arc::<Mutex<Vec<u64>>>::default();
    let (second, _) = bench.another("second");
    for device in [&bench.device, &second] {
        let to = order.clone();
        let handler = move |request: &PageRequest| {
            to.lock().unwrap().push(request.address.get());
            Handled::Resolved
        };
        device.set_handler(pasid(1), Arc::new(handler)).unwrap();
    }
    for n in 1..=4 {
        bench.report(last(n, u64::from(n)));
    }
    for n in 1..=2 {
        second.report(&last(n, 100 + u64::from(n)));
    }
    bench.work_all();
    assert_eq!(*order.lock().unwrap(), [1, 101, 2, 102, 3, 4]);
}

#[test]
fn a_turn_is_as_many_groups_of_one_device_as_are_allowed_and_others_come_after() {
    let bench = bench();
    let order = Arc::<Mutex<Vec<u64>>>::default();
    let (second, _) = bench.another("second");
    for device in [&bench.device, &second] {
        let to = order.clone();
        let handler = move |request: &PageRequest| {
            to.lock().unwrap().push(request.address.get());
            Handled::Resolved
        };
        device.set_handler(pasid(1), Arc::new(handler)).unwrap();
    }
    for n in 1..=4 {
        bench.report(last(n, u64::from(n)));
        second.report(&last(n, 100 + u64::from(n)));
    }
    while bench.queue.work_turn(3) {}
    assert_eq!(*order.lock().unwrap(), [1, 2, 3, 101, 102, 103, 4, 104]);
}

#[test]
fn a_turn_ends_when_its_device_leaves_the_queue() {
    let bench = bench();
    let (queue, device) = (Arc::new(bench.queue), bench.device);
    let other = Arc::new(FaultQueue::new());
    let moves = (queue.clone(), device.clone(), other.clone());
    let seen = Arc::<Mutex<Vec<u64>>>::default();
    let to = seen.clone();
    let handler = move |request: &PageRequest| {
        to.lock().unwrap().push(request.address.get());
        let (queue, device, other) = &moves;
        if request.address.get() == 1 {
            queue.remove_device(device).unwrap();
            other.add_device(device).unwrap();
            device.report(&last(7, 7));
        }
        Handled::Resolved
    };
    device.set_handler(pasid(1), Arc::new(handler)).unwrap();
    for n in 1..=3 {
        device.report(&last(n, u64::from(n)));
    }
    assert!(queue.work_turn(10));
    assert_eq!(*seen.lock().unwrap(), [1], "the rest is the other queue's");
    assert!(!queue.work_turn(10) && other.work_turn(10));
    assert_eq!(*seen.lock().unwrap(), [1, 7]);
    let codes = bench.answers.codes();
    assert_eq!(codes, [(2, Invalid), (3, Invalid), (1, Invalid), (7, Success)]);
    drop(device.clear_handler(pasid(1)));
}

#[test]
fn a_group_with_two_pasids_is_invalid_and_nobody_handles_it() {
    let bench = bench();
    let (seen, handler) = witness();
    bench.handle(1, handler);
    let (other_seen, other) = witness();
    bench.handle(2, other);
    bench.report(PageRequest { pasid: pasid(2), ..partial(7, 0x1000) });
    assert_eq!(bench.report(last(7, 0x2000)), Reported::Answered(Invalid));
    bench.work_all();
    assert!(seen.lock().unwrap().is_empty() && other_seen.lock().unwrap().is_empty());
    assert_eq!(bench.answers.codes(), [(7, Invalid)]);
}

#[test]
fn stop_markers_are_dropped_without_an_answer_but_only_those_with_a_pasid() {
    let bench = bench();
    let (_, handler) = witness();
    bench.handle(1, handler);
    let marker = PageRequest { wanted: Perms::empty(), ..last(9, 0) };
    assert_eq!(bench.report(marker), Reported::StopMarker);
    bench.work_all();
    assert!(bench.answers.take().is_empty());
    assert_eq!(bench.report(PageRequest { pasid: None, ..marker }), Reported::Answered(Invalid));
    assert_eq!(bench.answers.codes(), [(9, Invalid)]);
    assert_eq!(bench.device.counts().requests, 1);
}

#[test]
fn without_a_handler_only_the_last_request_is_answered_and_nothing_is_kept() {
    let bench = bench();
    assert_eq!(bench.report(partial(7, 0x1000)), Reported::Dropped);
    assert_eq!(bench.report(last(7, 0x2000)), Reported::Answered(Invalid));
    assert_eq!(bench.answers.codes(), [(7, Invalid)]);
    assert_eq!(bench.queue.discard_partial(), 0);
    assert!(!bench.queue.work());
}

#[test]
fn a_handler_that_is_taken_away_leaves_groups_that_are_answered_as_invalid() {
    let bench = bench();
    let (seen, handler) = witness();
    bench.handle(1, handler);
    bench.report(partial(7, 0x1000));
    bench.report(last(8, 0x2000));
    assert!(bench.device.clear_handler(pasid(1)).is_some());
    assert!(bench.device.clear_handler(pasid(1)).is_none());
    bench.work_all();
    bench.report(last(7, 0x3000));
    assert_eq!(bench.answers.codes(), [(8, Invalid), (7, Invalid)]);
    assert!(seen.lock().unwrap().is_empty());
    assert_eq!(bench.queue.discard_partial(), 0, "the group's parts went with its last");
}

#[test]
fn after_an_overflow_incomplete_groups_of_all_devices_are_gone_and_complete_ones_are_not() {
    let bench = bench();
    let (seen, handler) = witness();
    bench.handle(1, handler);
    let (second, _) = bench.another("second");
    second.set_handler(pasid(1), Arc::new(witness().1)).unwrap();
    bench.report(partial(1, 0x1000));
    bench.report(last(2, 0x2000));
    second.report(&partial(1, 0x3000));
    assert_eq!(bench.queue.discard_partial(), 2);
    assert_eq!(bench.queue.discard_partial(), 0);
    bench.report(last(1, 0x4000));
    bench.work_all();
    assert_eq!(*seen.lock().unwrap(), [0x2000, 0x4000]);
    assert_eq!(bench.answers.codes(), [(2, Success), (1, Success)]);
}

#[test]
fn a_device_that_never_says_last_is_held_to_its_limit() {
    let limits = Limits { partials: 4, groups: 8 };
    let bench = Bench::<Spin>::with(limits);
    let (seen, handler) = witness();
    bench.handle(1, handler);
    for n in 0..100_000u64 {
        let stored = bench.report(partial(0, n)) == Reported::Stored;
        assert_eq!(stored, n < 4);
    }
    assert_eq!(bench.device.counts().dropped, 99_996);
    bench.report(last(0, 0x5000));
    bench.work_all();
    assert_eq!(*seen.lock().unwrap(), [0, 1, 2, 3, 0x5000]);
    assert_eq!(bench.report(partial(1, 0)), Reported::Stored, "there is room again");
    assert_eq!(bench.answers.codes(), [(0, Success)]);
}

#[test]
fn a_device_with_too_many_groups_is_told_to_stop_and_others_are_not_disturbed() {
    let bench = Bench::<Spin>::with(Limits { partials: 4, groups: 8 });
    bench.handle(1, witness().1);
    let (second, second_answers) = bench.another("second");
    second.set_handler(pasid(1), Arc::new(witness().1)).unwrap();
    for n in 0..20 {
        let wanted = if n < 8 { Reported::Ready } else { Reported::Answered(Failure) };
        assert_eq!(bench.report(last(n, 0)), wanted);
    }
    assert_eq!(second.report(&last(1, 0)), Reported::Ready);
    bench.work_all();
    let codes = bench.answers.codes();
    assert_eq!(codes.len(), 20);
    assert!((0..20).all(|n| codes.contains(&(n, if n < 8 { Success } else { Failure }))));
    assert_eq!(second_answers.codes(), [(1, Success)]);
}
