//! Recently freed ranges, close at hand: per-CPU magazines, and a depot behind them.
//!
//! Each CPU has, for each size of 2^0 to 2^5 pages, a magazine that is in use and a spare one, so that a run of frees followed by a
//! run of allocations does not go to the depot at every turn. The depot keeps full magazines for all CPUs.
//!
//! Choice: other sizes go to the tree. Linux rounds them up to one that is kept (6.12, `alloc_iova_fast`), which takes up to twice the addresses.
//! Choice: the depot is bounded by number; what is above goes back to the tree. (Linux trims its depot by timer.)
//!
//! Whoever wants all that is free in the tree closes the magazines, and empties them then ([`Magazines::close`], [`Magazines::drain`]): what was free before is free in the
//! tree after that, whoever else does the same.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::mem;
use core::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use portcullis_hal::{Lock, Platform};
use portcullis_types::mutant;

/// The sizes that are kept: 2^0 to 2^5 pages.
pub(crate) const ORDERS: usize = 6;
const MAGAZINE: usize = 128;
const DEPOT: usize = 32;

/// First pages of free ranges, all of one size. Never longer than `MAGAZINE`.
type Magazine = Vec<u64>;

#[derive(Debug)]
struct Pair {
    loaded: Magazine,
    spare: Magazine,
}

/// The magazines of all CPUs, and the depot.
#[derive(Debug)]
pub(crate) struct Magazines<P: Platform> {
    cpus: Box<[Lock<P, [Pair; ORDERS]>]>,
    depot: [Lock<P, Vec<Magazine>>; ORDERS],
    /// How many wish that nothing is kept here. Read under a CPU's lock: who empties that CPU's magazines raised it before.
    closers: AtomicUsize,
}

/// While this lives, nothing is put into a magazine or taken from the depot: what was emptied stays empty.
#[derive(Debug)]
pub(crate) struct Closed<'a>(&'a AtomicUsize);

impl Drop for Closed<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

/// The size of a range of `pages` pages, if it is one that is kept.
pub(crate) fn kept_order(pages: u64) -> Option<u32> {
    (pages.is_power_of_two() && pages < 1 << ORDERS).then(|| pages.ilog2())
}

impl Pair {
    fn new() -> Self {
        Self { loaded: Vec::with_capacity(MAGAZINE), spare: Vec::with_capacity(MAGAZINE) }
    }

    /// A range that ends at or below `limit`, the latest first.
    fn take(&mut self, order: u32, limit: u64) -> Option<u64> {
        let fits =
            |&first: &u64| first + ((1 << order) - 1) <= limit || mutant!("kept-range-beyond-the-limit");
        for magazine in [&mut self.loaded, &mut self.spare] {
            if let Some(at) = magazine.iter().rposition(fits) {
                return Some(magazine.swap_remove(at));
            }
        }
        None
    }
}

impl<P: Platform> Magazines<P> {
    pub(crate) fn new(cpu_count: usize) -> Self {
        let cpu = || Lock::<P, _>::new([(); ORDERS].map(|()| Pair::new()));
        Self {
            cpus: (0..cpu_count.max(1)).map(|_| cpu()).collect(),
            depot: [(); ORDERS].map(|()| Lock::<P, _>::new(Vec::with_capacity(DEPOT))),
            closers: AtomicUsize::new(0),
        }
    }

    /// Keeps nothing more until the answer is dropped.
    pub(crate) fn close(&self) -> Closed<'_> {
        self.closers.fetch_add(1, Relaxed);
        Closed(&self.closers)
    }

    fn is_closed(&self) -> bool {
        self.closers.load(Relaxed) > 0
    }

    fn cpu(&self, cpu: usize) -> &Lock<P, [Pair; ORDERS]> {
        &self.cpus[cpu % self.cpus.len()]
    }

    /// A range of `1 << order` pages that ends at or below `limit`.
    pub(crate) fn take(&self, cpu: usize, order: u32, limit: u64) -> Option<u64> {
        let mut pairs = self.cpu(cpu).lock();
        let pair = &mut pairs[order as usize];
        if pair.loaded.is_empty() && pair.spare.is_empty() && !self.is_closed() {
            let full = self.depot[order as usize].lock().pop()?;
            pair.loaded = full;
        }
        pair.take(order, limit)
    }

    /// Keeps a range of `1 << order` pages, or gives it to the tree if there is no room. It is never on its way anywhere when this CPU's lock is free.
    pub(crate) fn put(&self, cpu: usize, order: u32, first: u64, to_tree: impl FnOnce(u64)) {
        let mut pairs = self.cpu(cpu).lock();
        let pair = &mut pairs[order as usize];
        if pair.loaded.len() == MAGAZINE {
            mem::swap(&mut pair.loaded, &mut pair.spare);
        }
        let mut has_room = !self.is_closed();
        if has_room && pair.loaded.len() == MAGAZINE {
            let mut depot = self.depot[order as usize].lock();
            has_room = depot.len() < DEPOT;
            if has_room {
                depot.push(mem::replace(&mut pair.loaded, Vec::with_capacity(MAGAZINE)));
            }
        }
        if has_room {
            pair.loaded.push(first);
        } else if !mutant!("depot-overflow-dropped") {
            to_tree(first);
        }
    }

    /// Takes out everything: each range's order and first page. They are [closed](Self::close), so that nothing comes meanwhile.
    ///
    /// Each range is given away with the lock held under which it was found, so that nobody finds it in neither place; one at a time, so that no lock is held for long.
    pub(crate) fn drain(&self, _: &Closed<'_>, mut to: impl FnMut(u32, u64)) {
        for (order, depot) in (0..).zip(&self.depot) {
            for cpu in &self.cpus {
                loop {
                    let mut pairs = cpu.lock();
                    let Some(first) = pairs[order as usize].take(order, u64::MAX) else { break };
                    to(order, first);
                }
            }
            loop {
                let mut full = depot.lock();
                let Some(first) = full.last_mut().and_then(Magazine::pop) else { break };
                full.pop_if(|magazine| magazine.is_empty());
                to(order, first);
            }
        }
    }
}
