//! Part 4: joining and leaving a queue, flushing, and the lines of the trace.

use core::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::sync::{Arc, Mutex, Weak};

use crate::support::{Answers, Bench, Machine, Spin, bench, last, partial, pasid, witness};
use portcullis_core::iopf::{
    AddRequesterError, FaultQueue, FlushTimeout, Handled, Limits, PageRequest, PageRequester, PageResponse,
    RemoveRequesterError, Reported, Responder, ResponseCode, SetHandlerError,
};
use portcullis_types::{Iova, Perms};

use ResponseCode::{Invalid, Success};

#[test]
fn a_device_is_in_one_queue_at_most_and_can_come_back() {
    let bench = bench();
    let other = FaultQueue::new();
    assert_eq!(bench.queue.add_device(&bench.device), Err(AddRequesterError::InQueue));
    assert_eq!(other.add_device(&bench.device), Err(AddRequesterError::InQueue));
    assert_eq!(other.remove_device(&bench.device), Err(RemoveRequesterError::NotInQueue));
    assert_eq!(bench.queue.remove_device(&bench.device), Ok(()));
    assert_eq!(bench.queue.remove_device(&bench.device), Err(RemoveRequesterError::NotInQueue));
    assert_eq!(other.add_device(&bench.device), Ok(()));
    bench.handle(1, witness().1);
    bench.report(last(1, 0));
    assert!(!bench.queue.work() && other.work());
    assert_eq!(bench.answers.codes(), [(1, Success)]);
}

#[test]
fn a_device_that_nobody_can_answer_is_in_no_queue() {
    let device = PageRequester::<Machine<Spin>>::new(Machine::new(), "mute", None, Limits::default());
    assert_eq!(FaultQueue::new().add_device(&device), Err(AddRequesterError::NoResponder));
}

#[test]
fn one_handler_for_each_pasid() {
    let bench = bench();
    bench.handle(1, witness().1);
    let again = bench.device.set_handler(pasid(1), Arc::new(witness().1));
    assert_eq!(again, Err(SetHandlerError::Taken));
    assert_eq!(bench.device.set_handler(pasid(2), Arc::new(witness().1)), Ok(()));
    assert_eq!(bench.device.set_handler(None, Arc::new(witness().1)), Ok(()));
    assert_eq!(bench.device.set_handler(None, Arc::new(witness().1)), Err(SetHandlerError::Taken));
    bench.report(PageRequest { pasid: None, ..last(3, 0) });
    bench.work_all();
    assert_eq!(bench.answers.codes(), [(3, Success)]);
    assert!(bench.device.clear_handler(None).is_some());
    assert_eq!(bench.report(PageRequest { pasid: None, ..last(4, 0) }), Reported::Answered(Invalid));
}

#[test]
fn removing_a_device_answers_its_groups_and_forgets_its_parts() {
    let bench = bench();
    let (seen, handler) = witness();
    bench.handle(1, handler);
    bench.report(partial(1, 0x1000));
    bench.report(last(2, 0x2000));
    bench.report(last(3, 0x3000));
    bench.queue.remove_device(&bench.device).unwrap();
    assert_eq!(bench.answers.codes(), [(2, Invalid), (3, Invalid)]);
    assert!(!bench.queue.work() && seen.lock().unwrap().is_empty());
    assert_eq!(bench.report(last(4, 0)), Reported::Answered(Invalid));
    assert_eq!(bench.report(partial(4, 0)), Reported::Dropped);
    bench.queue.add_device(&bench.device).unwrap();
    assert_eq!(bench.queue.discard_partial(), 0);
}

#[test]
fn dropping_a_queue_removes_its_devices() {
    let Bench { queue, device, answers, .. } = bench();
    device.set_handler(pasid(1), Arc::new(witness().1)).unwrap();
    device.report(&last(2, 0));
    drop(queue);
    assert_eq!(answers.codes(), [(2, Invalid)]);
    assert_eq!(FaultQueue::new().add_device(&device), Ok(()));
    let weak = Arc::downgrade(&device);
    drop(device);
    assert!(weak.upgrade().is_none(), "nothing holds the device any more");
}

/// A bench, and a handler of PASID 1 that does `within` when it handles group 1.
fn acting(within: impl Fn(&Bench<Spin>) + Send + Sync + 'static) -> Arc<Bench<Spin>> {
    let bench = Arc::new(bench());
    let to: Weak<Bench<Spin>> = Arc::downgrade(&bench);
    bench.handle(1, move |request: &PageRequest| {
        if request.group.number() == 1 {
            within(&to.upgrade().unwrap());
        }
        Handled::Resolved
    });
    bench
}

#[test]
fn a_handler_that_runs_while_its_device_is_removed_does_not_answer_again() {
    let bench = acting(|bench| {
        bench.queue.remove_device(&bench.device).unwrap();
        assert_eq!(bench.answers.codes(), [(2, Invalid), (1, Invalid)]);
        // Back already, with the same tag: the old handler's outcome is not taken for the new group's.
        bench.queue.add_device(&bench.device).unwrap();
        assert_eq!(bench.report(last(1, 0x9000)), Reported::Ready);
    });
    bench.report(last(1, 0));
    bench.report(last(2, 0));
    assert!(bench.queue.work());
    assert!(bench.answers.take().is_empty(), "answered when the device was removed");
    bench.device.clear_handler(pasid(1));
    bench.work_all();
    assert_eq!(bench.answers.codes(), [(1, Invalid)]);
}

#[test]
fn a_group_that_asks_for_a_retry_is_not_taken_up_after_its_device_left() {
    let bench = Arc::new(bench());
    let to = Arc::downgrade(&bench);
    bench.handle(1, move |request: &PageRequest| {
        if request.group.number() == 2 {
            return Handled::Resolved;
        }
        let bench = to.upgrade().unwrap();
        bench.queue.remove_device(&bench.device).unwrap();
        Handled::Retry
    });
    bench.report(last(1, 0));
    bench.work_all();
    bench.queue.add_device(&bench.device).unwrap();
    bench.report(last(2, 0));
    bench.work_all();
    assert_eq!(bench.answers.codes(), [(1, Invalid), (2, Success)]);
}

/// A responder that does something first.
#[derive(Default)]
struct Hook {
    act: Mutex<Option<Box<dyn FnOnce() + Send>>>,
    answers: Answers,
}

impl Responder for Hook {
    fn respond(&self, response: &PageResponse) {
        let act = self.act.lock().unwrap().take();
        if let Some(act) = act {
            act();
        }
        self.answers.respond(response);
    }
}

type Queue = FaultQueue<Machine<Spin>>;
type Device = PageRequester<Machine<Spin>>;

/// A device with a hook in its way back, in a queue, with a handler for PASID 1.
fn hooked() -> (Arc<Queue>, Arc<Device>, Arc<Hook>) {
    let (queue, hook) = (Arc::new(FaultQueue::new()), Arc::<Hook>::default());
    let responder = hook.clone() as Arc<dyn Responder>;
    let machine = Machine::with_turns_of_ns(1_000_000);
    let device = PageRequester::new(machine, "hooked", Some(responder), Limits::default());
    queue.add_device(&device).unwrap();
    (queue, device, hook)
}

#[test]
fn a_removal_waits_for_an_answer_that_is_on_its_way_and_says_when_it_does_not_end() {
    let (queue, device, hook) = hooked();
    device.set_handler(pasid(1), Arc::new(witness().1)).unwrap();
    let (from, removed) = (queue.clone(), device.clone());
    *hook.act.lock().unwrap() = Some(Box::new(move || {
        assert_eq!(from.remove_device(&removed), Err(RemoveRequesterError::StillAnswering));
        assert_eq!(removed.report(&last(2, 0)), Reported::Answered(Invalid));
        assert_eq!(from.add_device(&removed), Err(AddRequesterError::InQueue));
    }));
    device.report(&last(1, 0));
    assert!(queue.work());
    assert_eq!(hook.answers.codes(), [(2, Invalid), (1, Success)]);
    assert_eq!(queue.remove_device(&device), Ok(()));
    assert_eq!(queue.add_device(&device), Ok(()));
}

#[test]
fn a_worker_lets_its_handler_go_before_it_answers() {
    let (queue, device, hook) = hooked();
    let handler = Arc::new(witness().1);
    let watched = Arc::downgrade(&handler);
    device.set_handler(pasid(1), handler).unwrap();
    *hook.act.lock().unwrap() = Some(Box::new(move || assert_eq!(watched.strong_count(), 1)));
    device.report(&last(1, 0));
    assert!(queue.work());
    assert_eq!(hook.answers.codes(), [(1, Success)]);
}

#[test]
fn a_flush_handles_the_groups_of_its_pasid_and_leaves_the_others() {
    let bench = bench();
    let (seen, handler) = witness();
    bench.handle(1, handler);
    let (other_seen, other) = witness();
    bench.handle(2, other);
    let of_2 = |request: PageRequest| PageRequest { pasid: pasid(2), ..request };
    bench.report(of_2(last(1, 0x1000)));
    bench.report(last(2, 0x2000));
    bench.report(partial(3, 0x3000));
    bench.report(of_2(partial(4, 0x4000)));
    assert_eq!(bench.device.flush(pasid(1), 1_000_000), Ok(()));
    assert_eq!(*seen.lock().unwrap(), [0x2000]);
    assert!(other_seen.lock().unwrap().is_empty());
    assert_eq!(bench.answers.codes(), [(2, Success)]);
    assert_eq!(bench.queue.discard_partial(), 1, "that of the other PASID");
    bench.work_all();
    assert_eq!(*other_seen.lock().unwrap(), [0x1000]);
}

#[test]
fn a_flush_does_not_wait_for_groups_of_other_pasids_that_are_being_handled() {
    let bench = acting(|bench| {
        bench.handle(2, witness().1);
        bench.report(PageRequest { pasid: pasid(2), ..last(5, 0) });
        assert_eq!(bench.device.flush(pasid(2), 0), Ok(()));
        assert_eq!(bench.answers.codes(), [(5, Success)]);
    });
    bench.report(last(1, 0));
    bench.work_all();
    assert_eq!(bench.answers.codes(), [(1, Success)]);
}

#[test]
fn a_flush_waits_for_what_is_being_handled_and_says_when_it_does_not_end() {
    let bench = acting(|bench| {
        let flushed = bench.device.flush(pasid(1), 10_000);
        assert!(matches!(flushed, Err(FlushTimeout { waited_ns }) if waited_ns > 10_000));
    });
    bench.report(last(1, 0));
    bench.work_all();
    assert_eq!(bench.device.flush(pasid(1), 0), Ok(()));
}

#[test]
fn a_flush_waits_for_a_group_that_is_to_be_taken_up_again() {
    let bench = bench();
    let left = AtomicU32::new(3);
    bench.handle(1, move |_: &PageRequest| {
        let retry = left.fetch_update(SeqCst, SeqCst, |left| left.checked_sub(1)).is_ok();
        if retry { Handled::Retry } else { Handled::Resolved }
    });
    bench.report(last(1, 0));
    assert!(bench.queue.work(), "a worker has tried once");
    assert_eq!(bench.device.flush(pasid(1), 1_000_000), Ok(()));
    assert_eq!(bench.answers.codes(), [(1, Success)]);
    bench.work_all();
    assert!(bench.answers.take().is_empty());
}

#[test]
fn a_process_that_always_asks_for_a_retry_holds_a_flush_no_longer_than_its_limit() {
    let bench = bench();
    bench.handle(1, |_: &PageRequest| Handled::Retry);
    bench.report(last(1, 0));
    assert!(bench.device.flush(pasid(1), 50_000).is_err());
    bench.queue.remove_device(&bench.device).unwrap();
    assert_eq!(bench.answers.codes(), [(1, Invalid)]);
}

#[test]
fn the_trace_reads_as_the_reference_does() {
    let bench = bench();
    bench.handle(1, witness().1);
    bench.report(last(74, 0xffff_860e_6000));
    bench.work_all();
    bench.report(PageRequest {
        pasid: None,
        wanted: Perms::READ | Perms::EXECUTE | Perms::PRIVILEGED,
        address: Iova::new(0xf000),
        ..partial(75, 0)
    });
    bench.report(PageRequest { pasid: pasid(9), ..last(76, 0x1000) });
    let wanted = [
        "dev_fault: IOMMU:0000:00:03.0 type=2 reason=0 addr=0x0000ffff860e6000 pasid=1 group=74 flags=3 prot=2",
        "dev_page_response: IOMMU:0000:00:03.0 code=0 pasid=1 group=74",
        "dev_fault: IOMMU:0000:00:03.0 type=2 reason=0 addr=0x000000000000f000 pasid=0 group=75 flags=0 prot=13",
        "dev_fault: IOMMU:0000:00:03.0 type=2 reason=0 addr=0x0000000000001000 pasid=9 group=76 flags=3 prot=2",
        "dev_page_response: IOMMU:0000:00:03.0 code=1 pasid=9 group=76",
    ];
    assert_eq!(*bench.machine.events.lock().unwrap(), wanted);
}

#[test]
fn answers_are_counted_by_code() {
    let bench = bench();
    bench.handle(1, witness().1);
    bench.handle(2, |_: &PageRequest| Handled::Failure);
    bench.report(partial(1, 0));
    bench.report(last(1, 0));
    bench.report(PageRequest { pasid: pasid(2), ..last(2, 0) });
    bench.report(PageRequest { pasid: pasid(3), ..last(3, 0) });
    bench.work_all();
    let counts = bench.device.counts();
    assert_eq!((counts.requests, counts.success, counts.invalid, counts.failure), (4, 1, 1, 1));
}
