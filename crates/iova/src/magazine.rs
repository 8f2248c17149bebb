//! Recently freed ranges, close at hand: per-CPU magazines, and a depot behind them.
//!
//! Each CPU has, for each size of 2^0 to 2^5 pages, a magazine that is in use and a spare one, so that a run of frees followed by a
//! run of allocations does not go to the depot at every turn. The depot keeps full magazines for all CPUs.
//!
//! Choice: other sizes go to the tree. Linux rounds them up to one that is kept (6.12, `alloc_iova_fast`), which takes up to twice the addresses.
//! Choice: the depot is bounded by number; what is above goes back to the tree. (Linux trims its depot by timer.)

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::mem;

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
        }
    }

    fn cpu(&self, cpu: usize) -> &Lock<P, [Pair; ORDERS]> {
        &self.cpus[cpu % self.cpus.len()]
    }

    /// A range of `1 << order` pages that ends at or below `limit`.
    pub(crate) fn take(&self, cpu: usize, order: u32, limit: u64) -> Option<u64> {
        let mut pairs = self.cpu(cpu).lock();
        let pair = &mut pairs[order as usize];
        if pair.loaded.is_empty() && pair.spare.is_empty() {
            let full = self.depot[order as usize].lock().pop()?;
            pair.loaded = full;
        }
        pair.take(order, limit)
    }

    /// Keeps a range of `1 << order` pages. Answers ranges of this size that there is no room for, for the tree.
    #[must_use = "what has no room goes to the tree"]
    pub(crate) fn put(&self, cpu: usize, order: u32, first: u64) -> Vec<u64> {
        let mut pairs = self.cpu(cpu).lock();
        let pair = &mut pairs[order as usize];
        let mut no_room = Vec::new();
        if pair.loaded.len() == MAGAZINE {
            mem::swap(&mut pair.loaded, &mut pair.spare);
        }
        if pair.loaded.len() == MAGAZINE {
            let full = mem::replace(&mut pair.loaded, Vec::with_capacity(MAGAZINE));
            let mut depot = self.depot[order as usize].lock();
            if depot.len() < DEPOT {
                depot.push(full);
            } else if !mutant!("depot-overflow-dropped") {
                no_room = full;
            }
        }
        pair.loaded.push(first);
        no_room
    }

    /// Takes out everything: each range's order and first page.
    pub(crate) fn drain(&self, mut to: impl FnMut(u32, u64)) {
        for (order, depot) in (0..).zip(&self.depot) {
            for cpu in &self.cpus {
                loop {
                    // One at a time, so that no lock is held for long, nor while the tree is told.
                    let taken = cpu.lock()[order as usize].take(order, u64::MAX);
                    let Some(first) = taken else { break };
                    to(order, first);
                }
            }
            loop {
                let full = depot.lock().pop();
                let Some(full) = full else { break };
                full.into_iter().for_each(|first| to(order, first));
            }
        }
    }
}
