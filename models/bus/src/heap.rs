//! Blocks of RAM, given out and taken back.
//!
//! A [`Heap`] is a buddy allocator over parts of the RAM, with what a test wants to know: what is still out, whether something
//! came back twice, and what happens to a driver that gets no memory at its n-th request. Freed blocks are kept back for a while, so that who
//! still uses one is caught rather than served with its next owner's bytes.
//!
//! Not here: zeroing what is given out, which is a store of the CPU's ([`CpuMemory::alloc`](crate::CpuMemory::alloc)).

use core::fmt;
use std::collections::{BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use portcullis_types::{Pa, PaRange};

use crate::Ram;
use crate::index::AddressMap;
use crate::ram::MARK_BYTES;

const SMALLEST_LG2: u32 = MARK_BYTES.ilog2();
const CLASS_COUNT: usize = 64 - SMALLEST_LG2 as usize;
/// Freed blocks that are kept back hold at most this part of the heap.
const KEPT_BACK_PART: u64 = 16;
/// What a freed byte holds.
pub const POISON: u8 = 0xd5;

/// Memory to allocate from.
pub struct Heap {
    ram: Arc<Ram>,
    state: Mutex<State>,
}

/// Why a block was not taken back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FreeError {
    /// No block begins there, or it has been freed already.
    NotLive {
        /// Where.
        at: Pa,
    },
    /// The block there has another size.
    WrongSize {
        /// Where.
        at: Pa,
        /// The size that was given out, in bytes.
        given_out: u64,
        /// The size that was to be freed, in bytes.
        freed: u64,
    },
}

impl fmt::Display for FreeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotLive { at } => {
                write!(f, "no live block begins at {at}: freed twice, or never given out")
            }
            Self::WrongSize { at, given_out, freed } => {
                write!(f, "the block at {at} has {given_out:#x} bytes, not {freed:#x}")
            }
        }
    }
}

impl core::error::Error for FreeError {}

/// What is out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct HeapUse {
    /// Bytes in live blocks, as they were asked for.
    pub live_bytes: u64,
    /// Live blocks.
    pub live_blocks: usize,
    /// The most bytes that were ever live at once.
    pub peak_bytes: u64,
    /// Requests so far, those included that got nothing.
    pub requests: u64,
}

struct State {
    free: [BTreeSet<u64>; CLASS_COUNT],
    live: AddressMap<Block>,
    /// Freed and not yet to be had again, oldest first: where, and on which free list.
    kept_back: VecDeque<(u64, usize)>,
    kept_back_bytes: u64,
    kept_back_max: u64,
    used: HeapUse,
    fail_at: Option<u64>,
}

#[derive(Clone, Copy)]
struct Block {
    size_bytes: u64,
    class: usize,
}

impl fmt::Debug for Heap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Heap").field("used", &self.used()).finish_non_exhaustive()
    }
}

fn class_bytes(class: usize) -> u64 {
    1 << (class + SMALLEST_LG2 as usize)
}

/// The free list that a block of this size and alignment comes from; none if there is no such size.
fn class_of(size_bytes: u64, align_bytes: u64) -> Option<usize> {
    let bytes = size_bytes.max(align_bytes).max(MARK_BYTES).checked_next_power_of_two()?;
    Some((bytes.ilog2() - SMALLEST_LG2) as usize)
}

impl Heap {
    /// A heap over `ranges` of `ram`, cut down to multiples of 64 bytes.
    ///
    /// # Panics
    ///
    /// If there is no RAM at some of it.
    pub fn new(ram: Arc<Ram>, ranges: &[PaRange]) -> Self {
        let mut free = [const { BTreeSet::new() }; CLASS_COUNT];
        let mut size_bytes = 0;
        for range in ranges {
            let len_bytes = range.len_bytes().expect("RAM is smaller than the address space");
            assert!(ram.holds(range.first(), len_bytes), "no RAM at {range}");
            size_bytes += len_bytes;
            let first = range.first().get().next_multiple_of(MARK_BYTES);
            seed(&mut free, first, (range.last().get() + 1) & !(MARK_BYTES - 1));
        }
        let state = State {
            free,
            live: AddressMap::default(),
            kept_back: VecDeque::new(),
            kept_back_bytes: 0,
            kept_back_max: size_bytes / KEPT_BACK_PART,
            used: HeapUse::default(),
            fail_at: None,
        };
        Self { ram, state: Mutex::new(state) }
    }

    /// A block of `size_bytes` bytes on a multiple of `align_bytes`, a power of two; its contents are whatever was there. None if there is none, or if
    /// this request was chosen to fail.
    pub fn alloc(&self, size_bytes: u64, align_bytes: u64) -> Option<Pa> {
        let mut state = self.state();
        let request = state.used.requests;
        state.used.requests += 1;
        if state.fail_at == Some(request) {
            return None;
        }
        let class = class_of(size_bytes.max(1), align_bytes)?;
        let first = state.take(class).or_else(|| {
            state.release(0);
            state.take(class)
        })?;
        state.live.insert(first, Block { size_bytes, class });
        state.used.live_blocks += 1;
        state.used.live_bytes += size_bytes;
        state.used.peak_bytes = state.used.peak_bytes.max(state.used.live_bytes);
        let run = PaRange::new(Pa::new(first), class_bytes(class))?;
        self.ram.mark_freed(run, false);
        Some(run.first())
    }

    /// Takes a block back. What hardware sees of it is poison from now on, and a use of it is remembered by the RAM.
    ///
    /// # Errors
    ///
    /// As [`FreeError`] says; then nothing changed.
    pub fn free(&self, first: Pa, size_bytes: u64) -> Result<(), FreeError> {
        let mut state = self.state();
        let block = *state.live.get(&first.get()).ok_or(FreeError::NotLive { at: first })?;
        if block.size_bytes != size_bytes {
            return Err(FreeError::WrongSize { at: first, given_out: block.size_bytes, freed: size_bytes });
        }
        state.live.remove(&first.get());
        state.used.live_blocks -= 1;
        state.used.live_bytes -= size_bytes;
        let len_bytes = class_bytes(block.class);
        self.ram.fill(first, len_bytes, POISON).expect("the heap lies in RAM");
        if let Some(run) = PaRange::new(first, len_bytes) {
            self.ram.mark_freed(run, true);
        }
        state.keep_back(first.get(), block.class);
        Ok(())
    }

    /// Whether exactly this block is out.
    pub(crate) fn is_block(&self, first: Pa, size_bytes: u64) -> bool {
        self.state().live.get(&first.get()).is_some_and(|block| block.size_bytes == size_bytes)
    }

    /// Lets the request that comes after `requests` more of them fail, once. 0 is the next one.
    pub fn fail_after(&self, requests: u64) {
        let mut state = self.state();
        state.fail_at = Some(state.used.requests + requests);
    }

    /// Whether a live block holds all of `len_bytes` bytes from `at`.
    pub fn is_live(&self, at: Pa, len_bytes: u64) -> bool {
        let state = self.state();
        (0..CLASS_COUNT).any(|class| {
            let first = at.get() & !(class_bytes(class) - 1);
            state.live.get(&first).is_some_and(|block| at.get() - first + len_bytes <= block.size_bytes)
        })
    }

    /// What is out.
    pub fn used(&self) -> HeapUse {
        self.state().used
    }

    /// The live blocks, by address, each with its size in bytes: what leaked, at a moment when nothing should be out.
    pub fn live(&self) -> Vec<(Pa, u64)> {
        let state = self.state();
        let mut blocks: Vec<_> =
            state.live.iter().map(|(&first, block)| (Pa::new(first), block.size_bytes)).collect();
        blocks.sort_unstable();
        blocks
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Cuts `first..end` into the largest aligned blocks.
fn seed(free: &mut [BTreeSet<u64>; CLASS_COUNT], mut first: u64, end: u64) {
    while first < end {
        let fits = (end - first).ilog2();
        let lg2 = if first == 0 { fits } else { fits.min(first.trailing_zeros()) };
        free[(lg2 - SMALLEST_LG2) as usize].insert(first);
        first += 1 << lg2;
    }
}

impl State {
    fn take(&mut self, class: usize) -> Option<u64> {
        let from = (class..CLASS_COUNT).find(|&larger| !self.free[larger].is_empty())?;
        let first = self.free[from].pop_first()?;
        for smaller in class..from {
            self.free[smaller].insert(first + class_bytes(smaller));
        }
        Some(first)
    }

    fn keep_back(&mut self, first: u64, class: usize) {
        self.kept_back.push_back((first, class));
        self.kept_back_bytes += class_bytes(class);
        self.release(self.kept_back_max);
    }

    /// Lets blocks be had again, oldest first, until at most `keep_bytes` bytes are kept back.
    fn release(&mut self, keep_bytes: u64) {
        while self.kept_back_bytes > keep_bytes {
            let Some((first, class)) = self.kept_back.pop_front() else { return };
            self.kept_back_bytes -= class_bytes(class);
            self.give_back(first, class);
        }
    }

    fn give_back(&mut self, mut first: u64, mut class: usize) {
        while class + 1 < CLASS_COUNT && self.free[class].remove(&(first ^ class_bytes(class))) {
            first &= !class_bytes(class);
            class += 1;
        }
        self.free[class].insert(first);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::User;

    fn heap() -> Heap {
        let range = PaRange::new(Pa::new(0x4000_0000), 0x10_0000).unwrap();
        let part = PaRange::new(Pa::new(0x4000_0100), 0xf_ff00).unwrap();
        Heap::new(Arc::new(Ram::new(&[range])), &[part])
    }

    #[test]
    fn blocks_are_aligned_disjoint_and_come_back() {
        let heap = heap();
        let mut blocks: Vec<(u64, u64)> = Vec::new();
        for (size, align) in [(4096, 4096), (100, 8), (64, 0x1_0000), (0x3000, 4096), (1, 1)] {
            let first = heap.alloc(size, align).unwrap().get();
            assert!(first >= 0x4000_0100 && first + size <= 0x4010_0000 && first.is_multiple_of(align));
            assert!(blocks.iter().all(|&(at, len)| at + len <= first || first + size <= at));
            blocks.push((first, size));
        }
        assert_eq!(heap.used().live_bytes, 4096 + 100 + 64 + 0x3000 + 1);
        let before = heap.used().peak_bytes;
        blocks.iter().for_each(|&(at, len)| heap.free(Pa::new(at), len).unwrap());
        assert_eq!((heap.used().live_bytes, heap.used().live_blocks, heap.used().peak_bytes), (0, 0, before));
        assert_eq!(heap.alloc(0x8_0000, 0x8_0000), Some(Pa::new(0x4008_0000)));
    }

    #[test]
    fn a_block_comes_back_once_and_whole() {
        let heap = heap();
        let first = heap.alloc(4096, 4096).unwrap();
        let wrong = FreeError::WrongSize { at: first, given_out: 4096, freed: 8192 };
        assert_eq!(heap.free(first, 8192), Err(wrong));
        assert_eq!(heap.free(first, 4096), Ok(()));
        assert_eq!(heap.free(first, 4096), Err(FreeError::NotLive { at: first }));
        assert_eq!(heap.live(), []);
    }

    #[test]
    fn the_chosen_request_fails_and_no_other() {
        let heap = heap();
        heap.fail_after(1);
        let got: Vec<bool> = (0..3).map(|_| heap.alloc(64, 64).is_some()).collect();
        assert_eq!(got, [true, false, true]);
    }

    #[test]
    fn freed_memory_is_poison_and_its_use_is_seen_until_it_is_out_again() {
        let heap = heap();
        let first = heap.alloc(4096, 4096).unwrap();
        heap.free(first, 4096).unwrap();
        assert_eq!(heap.ram.load(first), Ok(0xd5d5_d5d5_d5d5_d5d5));
        heap.ram.note_use(first, 8, User::Hardware, false);
        assert_eq!(heap.ram.freed_use_count(), 1);
        while heap.alloc(4096, 4096).unwrap() != first {}
        heap.ram.note_use(first, 8, User::Hardware, false);
        assert_eq!(heap.ram.freed_use_count(), 1);
    }

    #[test]
    fn a_freed_block_is_kept_back_while_there_is_other_memory() {
        let heap = heap();
        let first = heap.alloc(4096, 4096).unwrap();
        heap.free(first, 4096).unwrap();
        let others: Vec<Pa> = core::iter::from_fn(|| heap.alloc(4096, 4096)).collect();
        assert_eq!((others.len(), others.last()), (255, Some(&first)));
    }

    #[test]
    fn what_is_kept_back_is_a_small_part_of_the_heap() {
        let heap = heap();
        for _ in 0..1000 {
            let block = heap.alloc(4096, 4096).unwrap();
            heap.free(block, 4096).unwrap();
            assert!(heap.state().kept_back_bytes <= 0x1_0000);
        }
    }

    #[test]
    fn a_request_that_no_block_can_hold_gets_nothing() {
        let heap = heap();
        assert_eq!(heap.alloc(0x10_0000, 1), None);
        assert_eq!(heap.alloc(u64::MAX, 1), None);
        assert_eq!(heap.used().live_blocks, 0);
    }

    #[test]
    fn live_means_inside_one_block() {
        let heap = heap();
        let first = heap.alloc(0x3000, 4096).unwrap();
        assert!(heap.is_live(Pa::new(first.get() + 0x2ff8), 8));
        assert!(!heap.is_live(Pa::new(first.get() + 0x2ff9), 8));
        assert!(!heap.is_live(Pa::new(first.get() - 1), 1));
    }
}
