//! Which small ranges are live: what makes a double free an error without asking the tree.
//!
//! For each 64 pages, a [`Chunk`] has a bit for each page at which a live range starts and one for each page that goes on with it.
//! A range of up to 64 pages never crosses a chunk, because it is aligned to the next power of two of its size. Chunks are dealt out
//! in turn to shards with a lock each, so that CPUs which use neighbouring addresses do not wait for one another.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;

use portcullis_hal::{Lock, Platform};

use crate::bits;

/// The most pages that a range in the ledger has.
pub(crate) const MOST_PAGES: u64 = 64;

/// The live ranges of at most [`MOST_PAGES`] pages.
#[derive(Debug)]
pub(crate) struct Ledger<P: Platform> {
    shards: Box<[Lock<P, Leaves>]>,
}

type Leaves = BTreeMap<u64, Leaf>;

/// Neighbouring chunks of one shard, so that a million live ranges are a few hundred entries in all.
#[derive(Debug)]
struct Leaf {
    live: u32,
    chunks: Box<[Chunk; LEAF]>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Chunk {
    starts: u64,
    goes_on: u64,
}

const LEAF: usize = 64;

impl Chunk {
    /// Bits of a range of `pages` pages from bit `at`: its start, the rest.
    fn parts(at: u32, pages: u32) -> (u64, u64) {
        let all = bits::bits(at, at + (pages - 1));
        (1 << at, all & !(1 << at))
    }

    /// Whether exactly this range is live: it starts here, goes on to its end, and no further.
    fn holds(self, at: u32, pages: u32) -> bool {
        let (start, rest) = Self::parts(at, pages);
        let end = at + pages;
        let further = end < 64 && self.goes_on >> end & 1 == 1;
        self.starts & start != 0 && self.goes_on & rest == rest && !further
    }
}

/// Where a range is noted.
#[derive(Clone, Copy, Debug)]
struct Place {
    shard: usize,
    leaf: u64,
    chunk: usize,
    at: u32,
    pages: u32,
}

impl<P: Platform> Ledger<P> {
    pub(crate) fn new(cpu_count: usize) -> Self {
        let shards = (4 * cpu_count.max(1)).next_power_of_two();
        Self { shards: (0..shards).map(|_| Lock::<P, _>::new(Leaves::new())).collect() }
    }

    /// The place of a range that is aligned to the next power of two of its size, at most [`MOST_PAGES`].
    #[expect(clippy::cast_possible_truncation, reason = "each is masked or bounded")]
    fn place(&self, first: u64, pages: u64) -> Place {
        debug_assert!(pages <= MOST_PAGES && first & (pages.next_power_of_two() - 1) == 0);
        let chunk = first / 64;
        let in_shard = chunk >> self.shards.len().trailing_zeros();
        Place {
            shard: (chunk & (self.shards.len() as u64 - 1)) as usize,
            leaf: in_shard / LEAF as u64,
            chunk: (in_shard % LEAF as u64) as usize,
            at: (first % 64) as u32,
            pages: pages as u32,
        }
    }

    /// Notes that the range of `pages` pages from `first` is live.
    pub(crate) fn add(&self, first: u64, pages: u64) {
        let Place { shard, leaf, chunk, at, pages } = self.place(first, pages);
        let (start, rest) = Chunk::parts(at, pages);
        let mut leaves = self.shards[shard].lock();
        let empty = || Leaf { live: 0, chunks: Box::new([Chunk::default(); LEAF]) };
        let leaf = leaves.entry(leaf).or_insert_with(empty);
        leaf.live += 1;
        let held = &mut leaf.chunks[chunk];
        debug_assert!((held.starts | held.goes_on) & (start | rest) == 0, "page {first} given out twice");
        held.starts |= start;
        held.goes_on |= rest;
    }

    /// Notes that the range is live no more; false, and nothing changes, if exactly this range was not.
    pub(crate) fn remove(&self, first: u64, pages: u64) -> bool {
        let Place { shard, leaf: number, chunk, at, pages } = self.place(first, pages);
        let mut leaves = self.shards[shard].lock();
        let Some(leaf) = leaves.get_mut(&number).filter(|leaf| leaf.chunks[chunk].holds(at, pages)) else {
            return false;
        };
        let (start, rest) = Chunk::parts(at, pages);
        leaf.chunks[chunk].starts &= !start;
        leaf.chunks[chunk].goes_on &= !rest;
        leaf.live -= 1;
        if leaf.live == 0 {
            leaves.remove(&number);
        }
        true
    }

    /// Whether exactly this range is live.
    pub(crate) fn holds(&self, first: u64, pages: u64) -> bool {
        let Place { shard, leaf, chunk, at, pages } = self.place(first, pages);
        self.shards[shard].lock().get(&leaf).is_some_and(|leaf| leaf.chunks[chunk].holds(at, pages))
    }

    /// How many ranges are live.
    pub(crate) fn count(&self) -> u64 {
        let live = |leaves: &Leaves| leaves.values().map(|leaf| u64::from(leaf.live)).sum::<u64>();
        self.shards.iter().map(|shard| live(&shard.lock())).sum()
    }
}
