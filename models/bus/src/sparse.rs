//! Memory with nothing around it: for a model that stands alone.
//!
//! A [`SparseMemory`] is all of an address space. Storage comes in pages of 4 KiB when something is first written there; in holes nothing answers. Time
//! passes when it is told to.
//!
//! Not here: RAM of a machine, whose CPUs have buffers and caches ([`Bus`](crate::Bus), [`Ram`](crate::Ram)).

use core::ops::RangeInclusive;
use core::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use portcullis_types::Pa;

use crate::index::AddressMap;
use crate::{BusError, Fabric, Write};

const PAGE_BYTES: u64 = 4096;

type Pages = AddressMap<Box<[u8; PAGE_BYTES as usize]>>;

/// An address space that is all memory.
#[derive(Debug)]
pub struct SparseMemory {
    bits: u32,
    pages: Mutex<Pages>,
    holes: Mutex<Vec<RangeInclusive<u64>>>,
    now_ns: AtomicU64,
}

impl SparseMemory {
    /// Memory at every address of so many bits (at most 63), all zero.
    pub fn new(bits: u32) -> Self {
        Self { bits, pages: Mutex::default(), holes: Mutex::default(), now_ns: AtomicU64::new(0) }
    }

    /// Stores words as they lie in memory, in holes too.
    pub fn put(&self, at: u64, words: &[u64]) {
        let mut pages = self.pages();
        for (offset, word) in (0..).step_by(8).zip(words) {
            store(&mut pages, at + offset, &word.to_le_bytes());
        }
    }

    /// The word at a multiple of 8, even if it lies in a hole.
    pub fn word(&self, at: u64) -> u64 {
        load_word(&self.pages(), at)
    }

    /// From now on nothing answers at these addresses.
    pub fn hole(&self, range: RangeInclusive<u64>) {
        self.holes().push(range);
    }

    /// What is in the holes is there again.
    pub fn fill_holes(&self) {
        self.holes().clear();
    }

    /// Time passes.
    pub fn advance(&self, ns: u64) {
        self.now_ns.fetch_add(ns, Ordering::Relaxed);
    }

    fn pages(&self) -> MutexGuard<'_, Pages> {
        self.pages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn holes(&self) -> MutexGuard<'_, Vec<RangeInclusive<u64>>> {
        self.holes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn check(&self, at: Pa, len: usize) -> Result<(), BusError> {
        let last = at.get().checked_add((len as u64).saturating_sub(1)).ok_or(BusError { at })?;
        let hit = self.holes().iter().any(|hole| *hole.start() <= last && at.get() <= *hole.end());
        if hit || last >> self.bits != 0 { Err(BusError { at }) } else { Ok(()) }
    }
}

fn store(pages: &mut Pages, at: u64, bytes: &[u8]) {
    let (mut at, mut rest) = (at, bytes);
    while !rest.is_empty() {
        let offset = (at % PAGE_BYTES) as usize;
        let (run, later) = rest.split_at(rest.len().min(PAGE_BYTES as usize - offset));
        let page = pages.entry(at / PAGE_BYTES).or_insert_with(|| Box::new([0; PAGE_BYTES as usize]));
        page[offset..offset + run.len()].copy_from_slice(run);
        (at, rest) = (at.wrapping_add(run.len() as u64), later);
    }
}

fn load_word(pages: &Pages, at: u64) -> u64 {
    let offset = ((at % PAGE_BYTES) & !7) as usize;
    let bytes = pages.get(&(at / PAGE_BYTES)).and_then(|page| page[offset..].first_chunk::<8>().copied());
    bytes.map_or(0, u64::from_le_bytes)
}

impl Fabric for SparseMemory {
    fn read(&self, at: Pa, into: &mut [u8]) -> Result<(), BusError> {
        self.check(at, into.len())?;
        let pages = self.pages();
        let (mut at, mut rest) = (at.get(), into);
        while !rest.is_empty() {
            let offset = (at % PAGE_BYTES) as usize;
            let len = rest.len().min(PAGE_BYTES as usize - offset);
            let (run, later) = rest.split_at_mut(len);
            match pages.get(&(at / PAGE_BYTES)) {
                Some(page) => run.copy_from_slice(&page[offset..offset + len]),
                None => run.fill(0),
            }
            (at, rest) = (at.wrapping_add(len as u64), later);
        }
        Ok(())
    }

    fn write(&self, write: Write<'_>) -> Result<(), BusError> {
        self.check(write.at, write.bytes.len())?;
        store(&mut self.pages(), write.at.get(), write.bytes);
        Ok(())
    }

    fn compare_exchange(&self, at: Pa, current: u64, new: u64) -> Result<u64, BusError> {
        self.check(at, 8)?;
        let mut pages = self.pages();
        let found = load_word(&pages, at.get());
        if found == current {
            store(&mut pages, at.get() & !7, &new.to_le_bytes());
        }
        Ok(found)
    }

    fn now_ns(&self) -> u64 {
        self.now_ns.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(memory: &SparseMemory, at: u64) -> Result<[u8; 4], BusError> {
        let mut bytes = [0xaa; 4];
        memory.read(Pa::new(at), &mut bytes).map(|()| bytes)
    }

    #[test]
    fn what_was_written_is_read_across_pages_and_the_rest_is_zero() {
        let memory = SparseMemory::new(40);
        memory.write(Write { at: Pa::new(0x1ffe), bytes: &[1, 2, 3], source: None }).unwrap();
        assert_eq!(read(&memory, 0x1ffd), Ok([0, 1, 2, 3]));
        assert_eq!((memory.word(0x1ff8), memory.word(0x2000)), (0x0201_0000_0000_0000, 3));
        assert_eq!(read(&memory, 0x5000), Ok([0; 4]));
    }

    #[test]
    fn nothing_answers_in_a_hole_nor_beyond_the_last_address() {
        let memory = SparseMemory::new(40);
        memory.put(0x1000, &[7]);
        memory.hole(0x1002..=0x1fff);
        assert_eq!(read(&memory, 0x1000), Err(BusError { at: Pa::new(0x1000) }));
        assert_eq!(read(&memory, 0xffc), Ok([0; 4]));
        let hole = Pa::new(0x1800);
        assert_eq!(memory.write(Write { at: hole, bytes: &[1], source: None }), Err(BusError { at: hole }));
        assert_eq!(memory.compare_exchange(hole, 0, 1), Err(BusError { at: hole }));
        memory.fill_holes();
        assert_eq!((read(&memory, 0x1000), memory.word(0x1800)), (Ok([7, 0, 0, 0]), 0));
        for at in [(1 << 40) - 2, 1 << 40, u64::MAX - 1] {
            assert_eq!(read(&memory, at), Err(BusError { at: Pa::new(at) }));
        }
    }

    #[test]
    fn a_word_is_exchanged_if_it_is_what_was_expected() {
        let memory = SparseMemory::new(40);
        assert_eq!(memory.compare_exchange(Pa::new(0x1000), 0, 5), Ok(0));
        assert_eq!(memory.compare_exchange(Pa::new(0x1000), 0, 6), Ok(5));
        assert_eq!(memory.word(0x1000), 5);
    }
}
