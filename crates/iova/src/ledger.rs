//! Which small ranges are live: what makes a double free an error without asking the tree.
//!
//! For each 64 pages, a [`Chunk`] has a bit for each page at which a live range starts and one for each page that goes on with it.
//! A small range never crosses a chunk, because it is aligned to its size. Chunks are spread over shards with a lock each, so that
//! CPUs do not wait for one another.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;

use portcullis_hal::{Lock, Platform};

use crate::bits;

/// The live ranges of at most 64 pages, a power of two each.
#[derive(Debug)]
pub(crate) struct Ledger<P: Platform> {
    shards: Box<[Lock<P, BTreeMap<u64, Chunk>>]>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Chunk {
    starts: u64,
    goes_on: u64,
}

const CHUNK_LG2: u32 = 6;

impl Chunk {
    /// Bits of a range of `1 << order` pages from bit `at`: its start, the rest.
    fn parts(at: u32, order: u32) -> (u64, u64) {
        let all = bits::bits(at, at + (1 << order) - 1);
        (1 << at, all & !(1 << at))
    }

    /// Whether exactly this range is live: it starts here, goes on to its end, and no further.
    fn holds(self, at: u32, order: u32) -> bool {
        let (start, rest) = Self::parts(at, order);
        let end = at + (1 << order);
        let further = end < 64 && self.goes_on >> end & 1 == 1;
        self.starts & start != 0 && self.goes_on & rest == rest && !further
    }
}

impl<P: Platform> Ledger<P> {
    pub(crate) fn new(cpu_count: usize) -> Self {
        let shards = (4 * cpu_count.max(1)).next_power_of_two();
        Self { shards: (0..shards).map(|_| Lock::<P, _>::new(BTreeMap::new())).collect() }
    }

    fn shard(&self, chunk: u64) -> &Lock<P, BTreeMap<u64, Chunk>> {
        // Neighbours, which different CPUs are likely to use, go to different shards.
        let spread = chunk.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
        &self.shards[spread as usize & (self.shards.len() - 1)]
    }

    /// Notes that the range of `1 << order` pages from `first` is live.
    pub(crate) fn add(&self, first: u64, order: u32) {
        let chunk = first >> CHUNK_LG2;
        let (start, rest) = Chunk::parts((first & 63) as u32, order);
        let mut shard = self.shard(chunk).lock();
        let held = shard.entry(chunk).or_default();
        debug_assert!((held.starts | held.goes_on) & (start | rest) == 0, "page {first} given out twice");
        held.starts |= start;
        held.goes_on |= rest;
    }

    /// Notes that the range is live no more; false, and nothing changes, if exactly this range was not.
    pub(crate) fn remove(&self, first: u64, order: u32) -> bool {
        let chunk = first >> CHUNK_LG2;
        let at = (first & 63) as u32;
        let mut shard = self.shard(chunk).lock();
        let Some(held) = shard.get_mut(&chunk).filter(|held| held.holds(at, order)) else { return false };
        let (start, rest) = Chunk::parts(at, order);
        held.starts &= !start;
        held.goes_on &= !rest;
        if held.starts == 0 {
            shard.remove(&chunk);
        }
        true
    }

    /// Whether exactly this range is live.
    pub(crate) fn holds(&self, first: u64, order: u32) -> bool {
        let chunk = first >> CHUNK_LG2;
        self.shard(chunk).lock().get(&chunk).is_some_and(|held| held.holds((first & 63) as u32, order))
    }

    /// How many ranges are live.
    pub(crate) fn count(&self) -> u64 {
        let ones = |chunk: &Chunk| u64::from(chunk.starts.count_ones());
        self.shards.iter().map(|shard| shard.lock().values().map(ones).sum::<u64>()).sum()
    }
}
