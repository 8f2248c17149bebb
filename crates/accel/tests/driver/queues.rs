//! Queues: opened, closed, failed, aborted, and devices that do not let go.

use std::sync::Arc;

use crate::fake::{Bus, CAP, LIMIT_NS, Machine, Mischief, Op, Process, RING, STOP_MARKER};
use portcullis_accel::{Accelerator, HowClosed, OpenError, QueueFailure, Space, State, Unshared};
use portcullis_core::sva::Bond;
use portcullis_types::{Iova, Pasid};

fn started(cap: u32, mischief: Mischief) -> (Arc<Machine>, Arc<Accelerator<Machine, Bus>>) {
    let machine = Machine::new(cap, mischief);
    let accelerator = machine.start();
    machine.take_log();
    (machine, accelerator)
}

fn usual() -> (Arc<Machine>, Arc<Accelerator<Machine, Bus>>) {
    started(CAP, Mischief::default())
}

#[test]
fn a_queue_has_its_pasid_ring_and_size_before_it_starts() {
    let (machine, accelerator) = usual();
    let queue = accelerator.open_queue(Process(0x1234), RING, 4).unwrap();
    let expected = [
        Op::Write(0x1000, 0x8000_1234),
        Op::Write(0x1008, 0xffff_8000_1240),
        Op::Write(0x1010, 4),
        Op::WriteBarrier,
        Op::Write(0x1018, 1),
    ];
    assert_eq!(machine.take_log(), expected);
    assert_eq!((queue.state(), queue.failure(), queue.doorbell()), (State::Running, None, 0x8000));
    assert_eq!((queue.space(), queue.size_lg2()), (&Process(0x1234), 4));
    let second = accelerator.open_queue(Process(5), RING, 1).unwrap();
    assert_eq!((second.index(), second.doorbell()), (1, 0x8400));
    assert_eq!(machine.queue(1), (0x8000_0005, 0xffff_8000_1240, 1, 1));
}

#[test]
fn a_queue_without_a_process_carries_no_pasid() {
    let (machine, accelerator) = usual();
    let queue = accelerator.open_queue(Unshared, RING, 4).unwrap();
    assert_eq!(machine.queue(0).0, 0);
    assert_eq!(queue.close(LIMIT_NS).unwrap().space, Unshared);
    // A device that has no PASIDs can do that as well.
    let (machine, accelerator) = started(0x0000_0402, Mischief::default());
    assert!(accelerator.open_queue(Unshared, RING, 4).is_ok());
    let refused = accelerator.open_queue(Process(1), RING, 4).unwrap_err().error;
    assert_eq!(refused, OpenError::Pasid { pasid: Pasid::new(1).unwrap(), bits: 0 });
    drop(machine);
}

#[test]
fn a_bond_says_the_pasid() {
    fn is_space<S: Space>() {}
    is_space::<Arc<Bond<Machine>>>();
}

#[test]
fn what_the_device_could_not_do_is_refused_and_the_space_given_back() {
    let (machine, accelerator) = usual();
    let pasid = Pasid::new(0x1_0000).unwrap();
    let last = Iova::new(u64::MAX - 0x7f);
    for (space, ring, size_lg2, error) in [
        (7, RING, 0, OpenError::Size { size_lg2: 0, most: 4 }),
        (7, RING, 5, OpenError::Size { size_lg2: 5, most: 4 }),
        (7, Iova::new(0x1260), 4, OpenError::Misaligned(Iova::new(0x1260))),
        (7, last, 2, OpenError::PastTheEnd(last)),
        (0x1_0000, RING, 4, OpenError::Pasid { pasid, bits: 16 }),
    ] {
        let refused = accelerator.open_queue(Process(space), ring, size_lg2).unwrap_err();
        assert_eq!((refused.error, refused.space.ok()), (error, Some(Process(space))));
    }
    assert_eq!(machine.take_log(), [], "the device was not asked");
    assert!(accelerator.open_queue(Process(0xffff), last, 1).is_ok(), "up to the very end");
}

#[test]
fn there_are_as_many_queues_as_the_device_has() {
    let (_, accelerator) = usual();
    let first = accelerator.open_queue(Process(1), RING, 4).unwrap();
    let _second = accelerator.open_queue(Process(2), RING, 4).unwrap();
    let refused = accelerator.open_queue(Process(3), RING, 4).unwrap_err();
    assert_eq!(refused.error, OpenError::NoQueue);
    drop(first.close(LIMIT_NS).unwrap());
    assert_eq!(accelerator.open_queue(refused.space.unwrap(), RING, 4).unwrap().index(), 0);
}

#[test]
fn a_closed_queue_has_stopped_before_its_space_comes_back() {
    let (machine, accelerator) = usual();
    let queue = accelerator.open_queue(Process(9), RING, 4).unwrap();
    machine.take_log();
    let closed = queue.close(LIMIT_NS).unwrap();
    assert_eq!(machine.take_log(), [Op::Write(0x1018, 2)]);
    assert_eq!((closed.space, closed.how, machine.queue(0).3), (Process(9), HowClosed::Stopped, 0));
}

#[test]
fn a_stop_marker_makes_a_stop_that_owes_responses() {
    let (_, accelerator) = started(CAP | STOP_MARKER, Mischief::default());
    let queue = accelerator.open_queue(Process(9), RING, 4).unwrap();
    assert_eq!(queue.close(0).unwrap().how, HowClosed::StoppedAtOnce);
}

#[test]
fn a_stop_that_takes_too_long_is_told_and_can_be_tried_again() {
    let (machine, accelerator) = usual();
    let queue = accelerator.open_queue(Process(9), RING, 4).unwrap();
    machine.mischief(|mischief| mischief.stop_after = None);
    let still = queue.close(1_000_000).unwrap_err();
    assert_eq!((still.state, still.queue.space()), (State::Stopping, &Process(9)));
    assert!((1_000_000..1_300_000).contains(&still.waited_ns), "{}", still.waited_ns);
    assert_eq!(format!("{still}"), format!("queue 0 is Stopping after {} ns", still.waited_ns));
    machine.mischief(|mischief| mischief.stop_after = Some(2));
    let closed = still.queue.close(1_000_000).unwrap();
    assert_eq!((closed.space, closed.how), (Process(9), HowClosed::Stopped));
}

#[test]
fn page_requests_can_be_answered_while_a_queue_closes() {
    let (machine, accelerator) = usual();
    let queue = accelerator.open_queue(Process(9), RING, 4).unwrap();
    machine.mischief(|mischief| mischief.stop_after = None);
    let mut turns = 0;
    let answer = || {
        turns += 1;
        if turns == 5 {
            machine.mischief(|mischief| mischief.stop_after = Some(0));
        }
    };
    assert_eq!(queue.close_while(LIMIT_NS, answer).unwrap().how, HowClosed::Stopped);
    assert_eq!(turns, 5);
}

#[test]
fn a_queue_that_failed_says_why_and_closes() {
    for (error, failure) in [
        (0xffff_8000_1001, QueueFailure::Ring { page: Iova::new(0xffff_8000_1000) }),
        (2, QueueFailure::Tail),
        (3, QueueFailure::Setup),
        (0, QueueFailure::Unknown(0)),
        (0x5004, QueueFailure::Unknown(0x5004)),
    ] {
        let (machine, accelerator) = usual();
        let queue = accelerator.open_queue(Process(9), RING, 4).unwrap();
        machine.fail(0, error);
        assert_eq!((queue.state(), queue.failure()), (State::Failed, Some(failure)));
        let closed = queue.close(LIMIT_NS).unwrap();
        assert_eq!((closed.space, closed.how), (Process(9), HowClosed::Failed(failure)));
        assert_eq!(machine.queue(0).3, 0);
    }
}

#[test]
fn a_queue_that_fails_while_it_stops_closes_all_the_same() {
    let (machine, accelerator) = usual();
    let queue = accelerator.open_queue(Process(9), RING, 4).unwrap();
    machine.mischief(|mischief| mischief.stop_after = None);
    let mut first = true;
    let fail = || {
        if core::mem::take(&mut first) {
            machine.fail(0, 2);
        }
    };
    assert_eq!(queue.close_while(1_000_000, fail).unwrap().how, HowClosed::Failed(QueueFailure::Tail));
}

#[test]
fn an_abort_ends_what_a_stop_does_not_and_says_so() {
    let (machine, accelerator) = usual();
    let queue = accelerator.open_queue(Process(9), RING, 4).unwrap();
    machine.mischief(|mischief| mischief.stop_after = None);
    let still = queue.close(0).unwrap_err();
    let closed = still.queue.abort().unwrap();
    assert_eq!((closed.space, closed.how), (Process(9), HowClosed::Aborted));
    assert_eq!(machine.queue(0).3, 0);
}

#[test]
fn a_queue_that_cannot_be_aborted_keeps_its_space_until_the_device_is_reset() {
    let (machine, accelerator) = usual();
    let queue = accelerator.open_queue(Process(9), RING, 4).unwrap();
    machine.mischief(|mischief| (mischief.stop_after, mischief.ignores_abort) = (None, true));
    let still = queue.close(0).unwrap_err();
    let still = still.queue.abort().unwrap_err();
    assert_eq!(still.state, State::Stopping);
    assert!((1_000_000..1_300_000).contains(&still.waited_ns), "{}", still.waited_ns);
    accelerator.reset().unwrap();
    assert_eq!(still.queue.close(0).unwrap().how, HowClosed::Off);
}

#[test]
fn a_queue_that_is_dropped_is_aborted_and_free_again_only_if_that_worked() {
    let (machine, accelerator) = usual();
    drop(accelerator.open_queue(Process(9), RING, 4).unwrap());
    assert_eq!(machine.queue(0).3, 0);
    let queue = accelerator.open_queue(Process(9), RING, 4).unwrap();
    assert_eq!(queue.index(), 0);
    machine.mischief(|mischief| mischief.ignores_abort = true);
    drop(queue);
    let next = accelerator.open_queue(Process(9), RING, 4).unwrap();
    assert_eq!(next.index(), 1, "the device may still use the first");
}

#[test]
fn a_queue_that_the_device_did_not_let_go_is_nobodys_until_a_reset_and_keeps_the_device_from_nothing() {
    let (machine, accelerator) = usual();
    for _ in 0..3 {
        machine.mischief(|mischief| mischief.ignores_abort = true);
        drop(accelerator.open_queue(Process(9), RING, 4).unwrap());
        machine.mischief(|mischief| mischief.ignores_abort = false);
        let other = accelerator.open_queue(Process(8), RING, 4).unwrap();
        assert_eq!(other.index(), 1);
        let refused = accelerator.open_queue(Process(7), RING, 4).unwrap_err();
        assert_eq!(refused.error, OpenError::NoQueue);
        drop(other.close(LIMIT_NS).unwrap());
        accelerator.reset().unwrap();
        assert_eq!(machine.queue(0).3, 0);
    }
    machine.mischief(|mischief| mischief.ignores_abort = true);
    drop(accelerator.open_queue(Process(9), RING, 4).unwrap());
    accelerator.shut_down().expect("nobody has a queue, and turned off the device has none either");
    assert!(!machine.enabled());
}

#[test]
fn a_device_that_does_not_keep_what_is_written_never_starts() {
    for (lost, register, wrote, read) in [
        ([1, 0, 0], 0x1000, 0x8000_1235, 0x8000_1234),
        ([1 << 31, 0, 0], 0x1000, 0x8000_1235, 0x1235),
        ([0, 1 << 40, 0], 0x1008, 0xffff_8000_1240, 0xfeff_8000_1240),
        ([0, 0, 4], 0x1010, 4, 0),
    ] {
        let (machine, accelerator) = started(CAP, Mischief { lost, ..Mischief::default() });
        let refused = accelerator.open_queue(Process(0x1235), RING, 4).unwrap_err();
        assert_eq!(refused.error, OpenError::NotKept { register, wrote, read });
        assert!(!machine.take_log().contains(&Op::Write(0x1018, 1)));
        machine.mischief(|mischief| mischief.lost = [0; 3]);
        assert_eq!(accelerator.open_queue(refused.space.unwrap(), RING, 4).unwrap().index(), 0, "free again");
    }
}

#[test]
fn a_queue_that_does_not_start_is_off_and_free_again() {
    let (machine, accelerator) = started(CAP, Mischief { no_start: true, ..Mischief::default() });
    let refused = accelerator.open_queue(Process(9), RING, 4).unwrap_err();
    let OpenError::NotRunning { state: State::Off, waited_ns } = refused.error else { panic!("{refused:?}") };
    assert!((1_000_000_000..1_001_000_000).contains(&waited_ns), "{waited_ns}");
    machine.mischief(|mischief| (mischief.no_start, mischief.failing_start) = (false, Some(3)));
    let refused = accelerator.open_queue(Process(9), RING, 4).unwrap_err();
    assert_eq!((refused.error, machine.queue(0).3), (OpenError::Failed(QueueFailure::Setup), 0));
    machine.mischief(|mischief| mischief.failing_start = None);
    assert_eq!(accelerator.open_queue(Process(9), RING, 4).unwrap().index(), 0);
}

#[test]
fn a_queue_that_does_not_start_keeps_its_space_until_the_device_lets_go() {
    let (machine, accelerator) = started(CAP, Mischief { failing_start: Some(3), ..Mischief::default() });
    machine.mischief(|mischief| mischief.ignores_abort = true);
    let refused = accelerator.open_queue(Process(9), RING, 4).unwrap_err();
    assert_eq!(refused.error, OpenError::Failed(QueueFailure::Setup));
    let queue = refused.space.expect_err("the device may work in it yet");
    assert_eq!((queue.space(), queue.index(), queue.state()), (&Process(9), 0, State::Failed));
    machine.mischief(|mischief| mischief.failing_start = None);
    let other = accelerator.open_queue(Process(8), RING, 4).unwrap();
    assert_eq!(other.index(), 1);
    let closed = queue.close(LIMIT_NS).unwrap();
    assert_eq!((closed.space, closed.how), (Process(9), HowClosed::Failed(QueueFailure::Setup)));
    assert_eq!(accelerator.open_queue(closed.space, RING, 4).unwrap().index(), 0, "free again");
}

#[test]
fn a_queue_that_nobody_has_and_that_is_not_off_is_not_used() {
    let (machine, accelerator) = usual();
    machine.set_state(0, 1);
    machine.mischief(|mischief| mischief.ignores_abort = true);
    let refused = accelerator.open_queue(Process(9), RING, 4).unwrap_err();
    assert_eq!(refused.error, OpenError::NotOff(State::Running));
    let log = machine.take_log();
    assert_eq!(log, [Op::Write(0x1018, 3)], "its registers were not touched");
    assert_eq!(refused.space.ok(), Some(Process(9)), "nor was it told of the space");
    assert_eq!(accelerator.open_queue(Process(9), RING, 4).unwrap().index(), 1, "nor is it tried again");
}

#[test]
fn a_queue_of_a_device_that_was_taken_out_closes_at_once() {
    let (machine, accelerator) = usual();
    let queue = accelerator.open_queue(Process(9), RING, 4).unwrap();
    machine.mischief(|mischief| mischief.gone = true);
    assert_eq!((queue.state(), queue.failure()), (State::Gone, None));
    let closed = queue.close(0).unwrap();
    assert_eq!((closed.space, closed.how), (Process(9), HowClosed::Gone));
    machine.mischief(|mischief| mischief.gone = false);
    machine.set_state(0, 1);
    assert_eq!(accelerator.open_queue(Process(9), RING, 4).unwrap().index(), 1, "who knows what it does");
}

#[test]
fn a_doorbell_rings_after_what_was_written_and_a_head_is_read_before_what_follows() {
    let (machine, accelerator) = usual();
    let _first = accelerator.open_queue(Process(1), RING, 4).unwrap();
    let queue = accelerator.open_queue(Unshared, RING, 4).unwrap();
    machine.take_log();
    queue.ring_tail(3);
    machine.set_head(1, 2);
    assert_eq!(queue.head(), 2);
    assert_eq!(machine.take_log(), [Op::WriteBarrier, Op::Write(0x8400, 3), Op::ReadBarrier]);
}

#[test]
fn errors_read_as_one_line() {
    let error = OpenError::NotKept { register: 0x1000, wrote: 0x8000_0001, read: 1 };
    assert_eq!(error.to_string(), "register 0x1000: wrote 0x80000001, read back 0x1");
    let failure = QueueFailure::Ring { page: Iova::new(0x1000) };
    assert_eq!(failure.to_string(), "no access to the ring in page 0x1000");
}
