//! Addresses on several CPUs in every order that shuttle thinks of: on locks whose every step may be interrupted.
//!
//! The only thing that CPUs share without a lock are the counters of the flush queue, and a lock or a call of the platform stands before each use of
//! them: nothing else needs to be interrupted.

mod support;

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use portcullis_hal::lock_api::{GuardNoSend, RawMutex};
use portcullis_iova::{AllocError, FlushBounds, FlushQueue, FreeError, IovaSpace, Prefer, ReserveError};
use portcullis_types::{Iova, IovaRange, SizeLg2};
use support::{Cpus, range};

/// A lock whose every step shuttle may interrupt. Shuttle runs one thread at a time, and switches only where it is asked.
#[derive(Debug)]
struct Scheduled(AtomicBool);

// SAFETY: `try_lock` succeeds for one caller until `unlock`, because of the exchange.
#[expect(unsafe_code, reason = "the trait is unsafe to implement")]
unsafe impl RawMutex for Scheduled {
    const INIT: Self = Self(AtomicBool::new(false));
    type GuardMarker = GuardNoSend;

    fn lock(&self) {
        shuttle::thread::yield_now();
        while !self.try_lock() {
            shuttle::thread::yield_now();
        }
    }

    fn try_lock(&self) -> bool {
        !self.0.swap(true, SeqCst)
    }

    unsafe fn unlock(&self) {
        self.0.store(false, SeqCst);
    }
}

impl Cpus for Scheduled {
    fn current() -> usize {
        usize::from(shuttle::current::me())
    }
}

type Machine = support::Machine<Scheduled>;
type Space = IovaSpace<Machine>;

const ORDERS: usize = 400;
const PAGE: u64 = 0x1000;
const TOP: Iova = Iova::new(u64::MAX);

fn every_order(test: fn()) {
    shuttle::check_random(test, ORDERS);
    shuttle::check_pct(test, ORDERS, 3);
}

fn machine(cpus: usize) -> Arc<Machine> {
    Arc::new(Machine { cpus, ..Machine::default() })
}

/// A space of so many pages, for CPUs that are told apart (the test itself is one).
fn space(pages: u64) -> Arc<Space> {
    Arc::new(Space::new(machine(4), SizeLg2::KIB_4, range(0, pages * PAGE - 1)).unwrap())
}

/// Who has what, as a plain list.
#[derive(Default)]
struct Shadow(Mutex<BTreeMap<u64, IovaRange>>);

impl Shadow {
    fn give(&self, range: IovaRange) {
        let mut held = self.0.lock().unwrap();
        assert!(held.values().all(|other| !other.overlaps(range)), "{range:?} is somebody else's: {held:?}");
        held.insert(range.first().get(), range);
    }

    /// Takes it back, before it is freed.
    fn take(&self, range: IovaRange) {
        assert_eq!(self.0.lock().unwrap().remove(&range.first().get()), Some(range));
    }
}

fn alloc(space: &Space, shadow: &Shadow, pages: u64) -> Result<IovaRange, AllocError> {
    let range = space.alloc(pages * PAGE, TOP, Prefer::High)?;
    shadow.give(range);
    assert!(space.is_live(range));
    Ok(range)
}

fn free(space: &Space, shadow: &Shadow, range: IovaRange) {
    shadow.take(range);
    space.free(range).unwrap();
}

type Thread = shuttle::thread::JoinHandle<()>;

fn spawn(acts: Vec<Box<dyn FnOnce() + Send>>) {
    let threads: Vec<Thread> = acts.into_iter().map(shuttle::thread::spawn).collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}

/// Everything is free again, and whole: the largest range that can be fits, and nothing besides.
fn is_whole(space: &Space, pages: u64) {
    assert_eq!(space.live_count(), 0);
    let all = space.alloc(pages * PAGE, TOP, Prefer::High).expect("all of it is free");
    assert_eq!(space.alloc(PAGE, TOP, Prefer::High), Err(AllocError::NoSpace));
    space.free(all).unwrap();
}

/// What one CPU keeps close at hand another takes when there is nothing else left: the space has room for two at once, and never refuses while
/// nobody holds more.
fn shared_by_emptying_caches() {
    let (space, shadow) = (space(4), Arc::new(Shadow::default()));
    let act = |sizes: [u64; 3]| {
        let (space, shadow) = (space.clone(), shadow.clone());
        Box::new(move || {
            for pages in sizes {
                // Somebody may have what was just put back, on its way into a cache: then it is to be had a little later.
                let mut got = alloc(&space, &shadow, pages);
                for _ in 0..1000 {
                    if got.is_ok() {
                        break;
                    }
                    shuttle::thread::yield_now();
                    got = alloc(&space, &shadow, pages);
                }
                let range = got.expect("there is room for all");
                shuttle::thread::yield_now();
                free(&space, &shadow, range);
            }
        }) as Box<dyn FnOnce() + Send>
    };
    spawn(vec![act([1, 2, 1]), act([2, 1, 2]), act([1, 1, 1])]);
    is_whole(&space, 4);
}

#[test]
fn in_every_order_no_page_has_two_owners_and_none_is_lost_in_a_cache() {
    every_order(shared_by_emptying_caches);
}

/// Magazines of 128 are exchanged with the depot while others take from it and empty it.
fn through_the_depot() {
    const KEPT: u64 = 255;
    let (space, shadow) = (space(1024), Arc::new(Shadow::default()));
    // The CPU of each thread frees so much that the next frees fill both its magazines and give one to the depot.
    let fill = |space: &Arc<Space>, shadow: &Arc<Shadow>| {
        let ranges: Vec<_> = (0..KEPT).map(|_| alloc(space, shadow, 1).unwrap()).collect();
        ranges.into_iter().for_each(|range| free(space, shadow, range));
    };
    let first = {
        let (space, shadow) = (space.clone(), shadow.clone());
        Box::new(move || {
            fill(&space, &shadow);
            let more: Vec<_> = (0..3).map(|_| alloc(&space, &shadow, 1).unwrap()).collect();
            more.into_iter().for_each(|range| free(&space, &shadow, range));
        }) as Box<dyn FnOnce() + Send>
    };
    let other = || {
        let (space, shadow) = (space.clone(), shadow.clone());
        Box::new(move || {
            let got: Vec<_> = (0..4).filter_map(|_| alloc(&space, &shadow, 1).ok()).collect();
            space.empty_magazines();
            got.into_iter().for_each(|range| free(&space, &shadow, range));
        }) as Box<dyn FnOnce() + Send>
    };
    spawn(vec![first, other(), other()]);
    is_whole(&space, 1024);
}

#[test]
fn in_every_order_the_depot_gives_each_range_to_one_cpu() {
    shuttle::check_random(through_the_depot, 20);
    shuttle::check_pct(through_the_depot, 20, 3);
}

/// Two CPUs free the same range: one of them is told that it is not allocated.
fn freed_by_two() {
    let space = space(8);
    let range = space.alloc(2 * PAGE, TOP, Prefer::High).unwrap();
    let freed = Arc::new(AtomicU64::new(0));
    let act = || {
        let (space, freed) = (space.clone(), freed.clone());
        Box::new(move || match space.free(range) {
            Ok(()) => drop(freed.fetch_add(1, SeqCst)),
            Err(error) => assert_eq!(error, FreeError::NotAllocated(range)),
        }) as Box<dyn FnOnce() + Send>
    };
    spawn(vec![act(), act()]);
    assert_eq!(freed.load(SeqCst), 1);
    is_whole(&space, 8);
}

#[test]
fn in_every_order_a_range_is_freed_once() {
    every_order(freed_by_two);
}

/// A range is reserved while others allocate and free around it: either it is in use, or nobody gets any of it from then on.
fn reserved_meanwhile() {
    let (space, shadow) = (space(8), Arc::new(Shadow::default()));
    let wanted = range(6 * PAGE, 8 * PAGE - 1);
    let user = || {
        let (space, shadow) = (space.clone(), shadow.clone());
        Box::new(move || {
            for pages in [1, 2] {
                if let Ok(range) = alloc(&space, &shadow, pages) {
                    free(&space, &shadow, range);
                }
            }
        }) as Box<dyn FnOnce() + Send>
    };
    let reserver = {
        let (space, shadow) = (space.clone(), shadow.clone());
        Box::new(move || match space.reserve(wanted) {
            Ok(parts) => {
                assert_eq!(parts, [wanted]);
                // As if it had an owner, who keeps it.
                shadow.give(wanted);
            }
            Err(ReserveError::InUse(part)) => {
                assert_eq!(part, wanted);
                assert_eq!(space.reserved(), [], "nothing of it is");
            }
            Err(other) => panic!("{other:?}"),
        }) as Box<dyn FnOnce() + Send>
    };
    spawn(vec![user(), user(), reserver]);
    let reserved = space.reserved();
    assert!(reserved.is_empty() || reserved == [wanted]);
    space.unreserve(&reserved);
    is_whole(&space, 8);
}

#[test]
fn in_every_order_what_is_reserved_is_nobodys() {
    every_order(reserved_meanwhile);
}

/// What was freed before is found by who reserves or allocates it, while another CPU puts it back from caches. It is of the size that is put back last, so that two
/// who do the same meet there.
fn found_while_another_empties_caches(look: fn(&Space, IovaRange)) {
    let (wanted, half) = (range(32 * PAGE, 64 * PAGE - 1), 32 * PAGE);
    let space = Arc::new(Space::new(machine(2), SizeLg2::KIB_4, range(0, 64 * PAGE - 1)).unwrap());
    let rest = space.alloc(half, Iova::new(half - 1), Prefer::High).unwrap();
    assert_eq!(space.alloc(half, TOP, Prefer::High), Ok(wanted));
    // It stays close to the CPU of the test, which is not that of who looks for it.
    space.free(wanted).unwrap();
    let (looking, emptying) = (space.clone(), space.clone());
    spawn(vec![Box::new(move || look(&looking, wanted)), Box::new(move || emptying.empty_magazines())]);
    space.free(rest).unwrap();
    is_whole(&space, 64);
}

#[test]
fn in_every_order_what_is_free_can_be_reserved_and_allocated() {
    every_order(|| {
        found_while_another_empties_caches(|space, wanted| {
            assert_eq!(space.reserve(wanted), Ok(vec![wanted]));
            space.unreserve(&[wanted]);
        });
    });
    every_order(|| {
        found_while_another_empties_caches(|space, wanted| {
            assert_eq!(space.alloc(32 * PAGE, TOP, Prefer::High), Ok(wanted));
            space.free(wanted).unwrap();
        });
    });
}

/// What is unmapped is reclaimed by a flush that began after it was: `forgotten` is what hardware has forgotten when a flush begins.
fn flushed_by_several() {
    let machine = machine(4);
    let queue = Arc::new(FlushQueue::<Machine, u64>::new(&machine, FlushBounds { entries: 2, age_ns: 1000 }));
    let (unmapped, reclaimed) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Mutex::new(Vec::new())));
    let flush = {
        let (queue, machine) = (queue.clone(), machine.clone());
        let (unmapped, reclaimed) = (unmapped.clone(), reclaimed.clone());
        Arc::new(move |fails: bool| {
            let run = || {
                let forgotten: Vec<u64> = unmapped.lock().unwrap().clone();
                shuttle::thread::yield_now();
                if fails { Err(()) } else { Ok(forgotten) }
            };
            let _ = queue.flush(&*machine, run, |what, forgotten| {
                assert!(forgotten.contains(&what), "{what} was reclaimed and never forgotten");
                reclaimed.lock().unwrap().push(what);
            });
        })
    };
    let unmapper = |first: u64| {
        let (queue, machine, unmapped) = (queue.clone(), machine.clone(), unmapped.clone());
        let flush = flush.clone();
        Box::new(move || {
            for what in first..first + 3 {
                unmapped.lock().unwrap().push(what);
                if queue.push(&*machine, what) {
                    flush(what == first + 1);
                }
            }
        }) as Box<dyn FnOnce() + Send>
    };
    let flusher = flush.clone();
    spawn(vec![unmapper(0), unmapper(10), Box::new(move || flusher(false))]);
    flush(false);
    let mut reclaimed = reclaimed.lock().unwrap().clone();
    reclaimed.sort_unstable();
    assert_eq!(reclaimed, [0, 1, 2, 10, 11, 12], "each once");
    assert!(queue.is_empty());
}

#[test]
fn in_every_order_a_flush_reclaims_only_what_was_unmapped_before_it() {
    every_order(flushed_by_several);
}
