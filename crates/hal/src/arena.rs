//! A pool of table memory in plain memory: for metal, benches and tests.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::fmt;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use lock_api::{Mutex, RawMutex};
use portcullis_types::Pa;

use crate::{BlockLayout, TableMemory};

/// A pool of table memory at a fixed physical address, over words that the embedder provides.
///
/// Blocks are powers of two; each size has a free list, and a request splits the smallest larger block that is free (buddy system).
/// Freed blocks merge with their other half. The lock is taken for `alloc` and `free`, never for access to words.
pub struct Arena<M, W> {
    base: Pa,
    words: W,
    free: Mutex<M, FreeBlocks>,
}

const SMALLEST_LG2: u32 = 6;

#[derive(Debug)]
struct FreeBlocks {
    /// Offsets of the free blocks of `1 << (SMALLEST_LG2 + index)` bytes, in no order.
    by_size: Vec<Vec<u64>>,
    live_bytes: u64,
}

impl<M, W> fmt::Debug for Arena<M, W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Arena").field("base", &self.base).finish_non_exhaustive()
    }
}

impl<M: RawMutex> Arena<M, Box<[AtomicU64]>> {
    /// A pool of `1 << size_lg2` bytes of the heap that claims to lie at `base`, a multiple of its size.
    pub fn on_heap(base: Pa, size_lg2: u8) -> Self {
        Self::new(base, (0..(1usize << size_lg2) / 8).map(|_| AtomicU64::new(0)).collect())
    }
}

impl<M: RawMutex, W: AsRef<[AtomicU64]>> Arena<M, W> {
    /// A pool over `words`, which lie at `base` for hardware.
    ///
    /// # Panics
    ///
    /// If `words` is not a power of two of bytes, at least 64, or `base` is not a multiple of that.
    pub fn new(base: Pa, words: W) -> Self {
        let size_bytes = 8 * words.as_ref().len() as u64;
        assert!(
            size_bytes.is_power_of_two() && size_bytes.ilog2() >= SMALLEST_LG2 && base.is_aligned(size_bytes)
        );
        let mut by_size: Vec<_> = (SMALLEST_LG2..=size_bytes.ilog2()).map(|_| Vec::new()).collect();
        by_size.last_mut().expect("one size at least").push(0);
        Self { base, words, free: Mutex::new(FreeBlocks { by_size, live_bytes: 0 }) }
    }

    /// How many bytes are given out, rounded up to whole blocks.
    pub fn live_bytes(&self) -> u64 {
        self.free.lock().live_bytes
    }

    fn word(&self, at: Pa) -> &AtomicU64 {
        debug_assert!(at.is_aligned(8));
        let offset = at.get().wrapping_sub(self.base.get());
        match usize::try_from(offset / 8).ok().and_then(|index| self.words.as_ref().get(index)) {
            Some(word) => word,
            None => panic!("{at} is not table memory"),
        }
    }
}

/// Which free list a block of this layout comes from.
fn class(layout: BlockLayout) -> usize {
    let size_lg2 = layout.size_bytes().max(layout.align_bytes()).next_power_of_two().ilog2();
    size_lg2.saturating_sub(SMALLEST_LG2) as usize
}

fn class_bytes(class: usize) -> u64 {
    1 << (class + SMALLEST_LG2 as usize)
}

impl FreeBlocks {
    fn take(&mut self, class: usize) -> Option<u64> {
        let from = (class..self.by_size.len()).find(|&larger| !self.by_size[larger].is_empty())?;
        let offset = self.by_size[from].pop()?;
        for smaller in class..from {
            self.by_size[smaller].push(offset + class_bytes(smaller));
        }
        self.live_bytes += class_bytes(class);
        Some(offset)
    }

    fn give_back(&mut self, mut offset: u64, mut class: usize) {
        self.live_bytes -= class_bytes(class);
        while class + 1 < self.by_size.len() {
            let buddy = offset ^ class_bytes(class);
            let Some(place) = self.by_size[class].iter().position(|&free| free == buddy) else { break };
            self.by_size[class].swap_remove(place);
            offset = offset.min(buddy);
            class += 1;
        }
        debug_assert!(!self.by_size[class].contains(&offset), "block freed twice");
        self.by_size[class].push(offset);
    }
}

impl<M: RawMutex + Send + Sync, W: AsRef<[AtomicU64]> + Send + Sync> TableMemory for Arena<M, W> {
    fn alloc(&self, layout: BlockLayout) -> Option<Pa> {
        let offset = self.free.lock().take(class(layout))?;
        let first = Pa::new(self.base.get() + offset);
        self.store_run(first, 0, 0, usize::try_from(layout.size_bytes().div_ceil(8)).ok()?);
        Some(first)
    }

    fn free(&self, first: Pa, layout: BlockLayout) {
        self.free.lock().give_back(first.get() - self.base.get(), class(layout));
    }

    fn load(&self, at: Pa) -> u64 {
        u64::from_le(self.word(at).load(Relaxed))
    }

    fn store(&self, at: Pa, word: u64) {
        self.word(at).store(word.to_le(), Relaxed);
    }

    fn compare_exchange(&self, at: Pa, current: u64, new: u64) -> Result<u64, u64> {
        let exchanged = self.word(at).compare_exchange(current.to_le(), new.to_le(), Relaxed, Relaxed);
        exchanged.map(u64::from_le).map_err(u64::from_le)
    }

    fn store_run(&self, at: Pa, first: u64, step: u64, count: usize) {
        if count == 0 {
            return;
        }
        self.word(at);
        self.word(Pa::new(at.get() + 8 * (count as u64 - 1)));
        let start = ((at.get() - self.base.get()) / 8) as usize;
        let mut word = first;
        for place in &self.words.as_ref()[start..start + count] {
            place.store(word.to_le(), Relaxed);
            word = word.wrapping_add(step);
        }
    }

    fn clean_table(&self, _: Pa, _: u64) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    type Spin = spin::Mutex<()>;

    fn arena() -> Arena<Spin, Box<[AtomicU64]>> {
        Arena::on_heap(Pa::new(0x10_0000), 16)
    }

    #[test]
    fn blocks_are_aligned_disjoint_and_zero() {
        let arena = arena();
        let mut blocks = Vec::new();
        for lg2 in [12, 6, 14, 12, 13, 7] {
            let layout = BlockLayout::naturally_aligned(lg2);
            let first = arena.alloc(layout).unwrap();
            assert!(first.is_aligned(layout.align_bytes()));
            assert_eq!(arena.load(first), 0);
            arena.store(first, 7);
            assert!(blocks.iter().all(|&(other, other_layout): &(Pa, BlockLayout)| {
                first.get() >= other.get() + other_layout.size_bytes()
                    || other.get() >= first.get() + layout.size_bytes()
            }));
            blocks.push((first, layout));
        }
        blocks.iter().for_each(|&(first, layout)| arena.free(first, layout));
        assert_eq!(arena.live_bytes(), 0);
        let whole = arena.alloc(BlockLayout::naturally_aligned(16)).expect("the halves merged again");
        assert_eq!((whole, arena.load(whole)), (Pa::new(0x10_0000), 0));
        assert_eq!(arena.alloc(BlockLayout::naturally_aligned(6)), None);
    }

    #[test]
    fn a_run_is_a_loop_of_stores() {
        let arena = arena();
        let first = arena.alloc(BlockLayout::naturally_aligned(12)).unwrap();
        arena.store_run(Pa::new(first.get() + 16), u64::MAX, 2, 3);
        let words: Vec<u64> = (0..6).map(|index| arena.load(Pa::new(first.get() + 8 * index))).collect();
        assert_eq!(words, [0, 0, u64::MAX, 1, 3, 0]);
    }

    #[test]
    #[should_panic(expected = "not table memory")]
    fn a_word_outside_the_pool_is_refused() {
        arena().load(Pa::new(0xf_fff8));
    }
}
