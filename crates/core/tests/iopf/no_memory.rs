//! Allocations that fail, one after the other: an error or a failure response, and everything else as it was.

use core::alloc::{GlobalAlloc, Layout};
use core::cell::Cell;
use core::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::alloc::System;
use std::sync::Arc;

use crate::support::{Machine, Spin, last, partial, pasid};
use portcullis_core::asid::{AsidSpace, AsidSpaceError};
use portcullis_core::id_map::{ChooseIdError, IdMap, InsertIdError};
use portcullis_core::iopf::{
    AddRequesterError, FaultQueue, Handled, Limits, PageRequest, PageRequester, PageResponse, Reported,
    Responder, ResponseCode, SetHandlerError,
};
use portcullis_core::pasid::{AllocPasidError, Pasids};

/// The system's memory, of which a thread can have as little as it likes.
struct Scarce;

thread_local! {
    /// How many more allocations of this thread succeed.
    static LEFT: Cell<Option<u32>> = const { Cell::new(None) };
}

fn spend() -> bool {
    let left = LEFT.try_with(Cell::get).ok().flatten();
    match left {
        Some(0) => false,
        Some(left) => {
            LEFT.set(Some(left - 1));
            true
        }
        None => true,
    }
}

// SAFETY: hands every call that it does not refuse to the system's allocator, as it is.
#[expect(unsafe_code, reason = "the trait is unsafe to implement")]
unsafe impl GlobalAlloc for Scarce {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promises are passed on.
        if spend() { unsafe { System.alloc(layout) } } else { core::ptr::null_mut() }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(block, layout) }
    }
}

#[global_allocator]
static MEMORY: Scarce = Scarce;

/// Has this thread's allocations fail after the first `count` of them.
fn with_allocations<R>(count: u32, act: impl FnOnce() -> R) -> R {
    LEFT.set(Some(count));
    let done = act();
    LEFT.set(None);
    done
}

/// With 0, 1, 2, … allocations, each time on a new value, until all succeed. Answers how many attempts failed.
fn every_failure<T, R, E>(
    make: impl Fn() -> T,
    act: impl Fn(&mut T) -> Result<R, E>,
    check: impl Fn(T, E),
) -> u32 {
    for count in 0.. {
        let mut value = make();
        match with_allocations(count, || act(&mut value)) {
            Ok(_) => return count,
            Err(error) => check(value, error),
        }
    }
    unreachable!("some number is enough")
}

#[test]
fn an_id_map_without_memory_is_as_it_was() {
    let with_one = || {
        let mut map = IdMap::new(20);
        map.insert(300_000, 'a').unwrap();
        map
    };
    let check = |mut map: IdMap<char>| {
        assert_eq!((map.len(), map.get(300_000), map.get(1)), (1, Some(&'a'), None));
        assert_eq!(map.insert_lowest(0..=9, 'b'), Ok(0));
    };
    let failed = every_failure(
        with_one,
        |map| map.insert_lowest(1..=9, 'x'),
        |map, error| {
            assert_eq!(error, ChooseIdError::NoMemory);
            check(map);
        },
    );
    assert_eq!(failed, 3, "a node for each level below the root");
    every_failure(
        with_one,
        |map| map.insert(1, 'x'),
        |map, error| {
            assert_eq!(error, InsertIdError::NoMemory);
            check(map);
        },
    );
}

#[test]
fn a_pasid_without_memory_is_not_given_out() {
    let failed = every_failure(
        Pasids::<Spin, ()>::new,
        |pasids| pasids.alloc(pasid(1).unwrap()..=pasid(9).unwrap(), ()),
        |pasids, error| assert_eq!((error, pasids.in_use()), (AllocPasidError::NoMemory, 0)),
    );
    assert_eq!(failed, 4);
}

#[test]
fn an_asid_space_without_memory_is_an_error() {
    let make = |_: &mut ()| AsidSpace::<Spin>::new(8, 4, false);
    assert_eq!(every_failure(|| (), make, |(), error| assert_eq!(error, AsidSpaceError::NoMemory)), 4);
}

/// Counts answers by code, without memory.
#[derive(Default)]
struct Tally([AtomicU32; 3]);

impl Tally {
    fn take(&self) -> [u32; 3] {
        self.0.each_ref().map(|count| count.swap(0, SeqCst))
    }
}

impl Responder for Tally {
    fn respond(&self, response: &PageResponse) {
        self.0[usize::from(response.code.number())].fetch_add(1, SeqCst);
    }
}

struct Scene {
    queue: FaultQueue<Machine<Spin>>,
    device: Arc<PageRequester<Machine<Spin>>>,
    tally: Arc<Tally>,
}

fn outsider() -> Scene {
    let (machine, tally) = (Machine::new(), Arc::<Tally>::default());
    machine.deaf.store(true, SeqCst);
    let device =
        PageRequester::new(machine, "dev", Some(tally.clone() as Arc<dyn Responder>), Limits::default());
    Scene { queue: FaultQueue::new(), device, tally }
}

fn scene() -> Scene {
    let scene = outsider();
    scene.queue.add_device(&scene.device).unwrap();
    scene.device.set_handler(pasid(1), Arc::new(|_: &PageRequest| Handled::Resolved)).unwrap();
    scene
}

#[test]
fn a_device_is_added_whole_or_not_at_all() {
    let failed = every_failure(
        outsider,
        |scene| scene.queue.add_device(&scene.device),
        |scene, error| {
            assert_eq!(error, AddRequesterError::NoMemory);
            assert_eq!(scene.queue.add_device(&scene.device), Ok(()));
        },
    );
    assert_eq!(failed, 2);
}

#[test]
fn a_handler_without_memory_is_not_set() {
    let handler = Arc::new(|_: &PageRequest| Handled::Resolved);
    let failed = every_failure(
        outsider,
        |scene| scene.device.set_handler(pasid(7), handler.clone()),
        |scene, error| {
            assert_eq!(error, SetHandlerError::NoMemory);
            assert_eq!(scene.device.set_handler(pasid(7), handler.clone()), Ok(()));
        },
    );
    assert_eq!(failed, 4);
}

#[test]
fn a_part_for_which_there_is_no_memory_is_dropped() {
    let Scene { queue, device, tally } = scene();
    assert_eq!(with_allocations(0, || device.report(&partial(1, 0))), Reported::Dropped);
    assert_eq!((device.counts().dropped, queue.discard_partial()), (1, 0));
    assert_eq!(tally.take(), [0, 0, 0]);
}

#[test]
fn a_group_for_which_there_is_no_memory_is_answered_with_failure_and_its_parts_are_gone() {
    let mut failures = 0;
    for count in 0.. {
        let Scene { queue, device, tally } = scene();
        for request in [partial(1, 0), partial(2, 0), partial(1, 0x1000)] {
            assert_eq!(device.report(&request), Reported::Stored);
        }
        let reported = with_allocations(count, || device.report(&last(1, 0x2000)));
        assert_eq!(queue.discard_partial(), 1, "that of the other group");
        if reported == Reported::Ready {
            assert!(queue.work());
            assert_eq!(tally.take(), [1, 0, 0]);
            break;
        }
        assert_eq!(reported, Reported::Answered(ResponseCode::Failure));
        assert_eq!((tally.take(), queue.work()), ([0, 0, 1], false));
        failures += 1;
    }
    assert_eq!(failures, 3, "the group's requests, its place among the ready, its place with a worker");
}

#[test]
fn handling_and_answering_need_no_memory() {
    let Scene { queue, device, tally } = scene();
    device.report(&partial(1, 0));
    (1..=9).for_each(|group| assert_eq!(device.report(&last(group, 0)), Reported::Ready));
    with_allocations(0, || while queue.work() {});
    assert_eq!(tally.take(), [9, 0, 0]);
    (1..=9).for_each(|group| assert_eq!(device.report(&last(group, 0)), Reported::Ready));
    with_allocations(0, || queue.remove_device(&device)).unwrap();
    assert_eq!(tally.take(), [0, 9, 0]);
}
