//! What becomes of runs that nobody waits for any more, and of a queue that is closed.

extern crate std;

use alloc::boxed::Box;
use alloc::vec;

use portcullis_hal::Clock;
use portcullis_spec::vtd::invalidation::{TYPE_IOTLB, TYPE_PAGE_GROUP_RESPONSE, TYPE_WAIT};

use super::*;
use crate::config::Config;
use crate::testing::{Act, Fake, other_cpu};
use crate::vtd::Vtd;

type Unit = Vtd<Fake, Fake>;

fn unit() -> (Arc<Fake>, Arc<Unit>) {
    let fake = Fake::legacy();
    let unit = fake.probe(Fake::config());
    fake.take_log();
    (fake, Arc::new(unit))
}

#[test]
fn nothing_is_put_into_a_queue_that_was_closed_while_its_lock_was_waited_for() {
    let senders: [fn(&Unit) -> bool; 3] = [
        |unit| unit.hardware.queue.run(&[Descriptor::iotlb_all()], false).is_ok(),
        |unit| unit.hardware.queue.send(Descriptor::response(0x108, None, 5, 0)).is_ok(),
        |unit| unit.hardware.queue.offer(Descriptor::response(0x108, None, 5, 0)),
    ];
    for sender in senders {
        let (fake, unit) = unit();
        let held = unit.hardware.queue.state.lock();
        let other = unit.clone();
        let other = other_cpu(move || sender(&other));
        // As a teardown does, which then gives the memory back.
        unit.hardware.queue.close();
        drop(held);
        assert!(!other.join().unwrap());
        let touched = |act: &Act| matches!(act, Act::Store(..) | Act::Write(IQT, _));
        assert!(!fake.with(|state| state.story.iter().any(touched)));
    }
}

#[test]
fn memory_of_a_queue_is_given_back_when_nobody_watches_it_any_more() {
    let fake = Fake::legacy();
    // Both pass the time, and the host may let one of them do so alone for long.
    let unit = Arc::new(fake.probe(Config { wait_limit_ns: 1 << 40, ..Fake::config() }));
    let before = fake.live_bytes();
    let (said, heard) = std::sync::mpsc::channel();
    let (hardware, clock) = (unit.clone(), fake.clone());
    let give_back = move || {
        let queue = &hardware.hardware.queue;
        queue.close();
        let (other, now_ns) = (hardware.clone(), clock.now_ns());
        let freeing = std::thread::spawn(move || other.hardware.queue.free());
        // Until it has, or waits.
        while !freeing.is_finished() && clock.now_ns() == now_ns {
            std::thread::yield_now();
        }
        said.send(freeing).unwrap();
    };
    fake.with(|state| {
        state.asleep = true;
        state.behind_relax = Some(Box::new(give_back));
    });
    // A look at what was given back would panic, as a platform may.
    let waiting_for = "an invalidation queue that works";
    let closed = SyncError::Timeout { waiting_for, last: 0 };
    assert_eq!(unit.hardware.queue.run(&[Descriptor::iotlb_all()], false), Err(closed));
    heard.recv().unwrap().join().unwrap();
    assert!(fake.live_bytes() < before);
}

#[test]
fn an_error_of_a_queue_that_is_closed_is_put_right_in_nobodys_memory() {
    let (fake, unit) = unit();
    let queue = &unit.hardware.queue;
    queue.send(Descriptor::response(0x108, None, 5, 0)).unwrap();
    fake.with(|state| state.refused = vec![TYPE_PAGE_GROUP_RESPONSE]);
    fake.work(1);
    assert_eq!(fake.get(FSTS) >> 4 & 1, 1, "IQE");
    // As a teardown does, while somebody is about to look whether an answer finds room.
    queue.close();
    queue.free();
    assert!(!queue.offer(Descriptor::response(0x108, None, 6, 0)));
}

/// Sends a run whose wait runs out.
fn run_out(fake: &Fake, unit: &Unit, descriptor: Descriptor) {
    fake.with(|state| state.asleep = true);
    let run = unit.hardware.queue.run(&[descriptor], false);
    assert!(matches!(run, Err(SyncError::Timeout { waiting_for: "an invalidation wait", .. })), "{run:?}");
    fake.with(|state| state.asleep = false);
}

#[test]
fn a_run_that_ran_out_before_its_device_timed_out_keeps_no_word_from_later_ones() {
    let (fake, unit) = unit();
    for _ in 0..FLIGHTS + 1 {
        run_out(&fake, &unit, Descriptor::device_tlb(0x108, None));
        fake.with(|state| state.unanswered = 1);
        fake.work(1);
        assert_eq!(unit.hardware.queue.repair().len(), 1, "ITE");
    }
    unit.hardware.queue.run(&[Descriptor::iotlb_all()], false).unwrap();
}

#[test]
fn a_run_that_ran_out_before_it_was_refused_keeps_no_word_from_later_ones() {
    for refused in [TYPE_IOTLB, TYPE_WAIT] {
        let (fake, unit) = unit();
        for _ in 0..FLIGHTS + 1 {
            run_out(&fake, &unit, Descriptor::iotlb_all());
            fake.with(|state| state.refused = vec![refused]);
            fake.work(2);
            fake.with(|state| state.refused.clear());
            assert_eq!(unit.hardware.queue.repair().len(), 1, "IQE");
            fake.work(2);
        }
        unit.hardware.queue.run(&[Descriptor::iotlb_all()], false).unwrap();
    }
}

#[test]
fn a_word_whose_number_may_still_come_is_nobody_elses() {
    let (fake, unit) = unit();
    // A device of another run times out; the unit had not fetched the wait.
    run_out(&fake, &unit, Descriptor::iotlb_all());
    fake.set(FSTS, 1 << 6);
    unit.hardware.queue.repair();
    let left = |unit: &Unit| {
        let state = unit.hardware.queue.state.lock();
        state.flights.iter().flatten().filter(|flight| flight.fate == Fate::Left).count()
    };
    assert_eq!(left(&unit), 1);
}
