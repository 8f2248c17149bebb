//! Memory behind a model: pages where something was stored, and places where nothing answers.

use core::ops::RangeInclusive;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::collections::HashMap;
use std::sync::Mutex;

use model_bus::{BusError, Fabric, Write};
use portcullis::types::Pa;

const PAGE: u64 = 0x1000;

/// All of `bits` bits of address is memory.
pub(crate) struct Ram {
    bits: u32,
    pages: Mutex<HashMap<u64, Box<[u8; PAGE as usize]>>>,
    pub(crate) hole: Mutex<Option<RangeInclusive<u64>>>,
    pub(crate) now_ns: AtomicU64,
}

impl Ram {
    pub(crate) fn new(bits: u32) -> Self {
        Self { bits, pages: Mutex::default(), hole: Mutex::default(), now_ns: AtomicU64::new(0) }
    }

    /// Stores words as they lie in memory.
    pub(crate) fn put(&self, at: u64, words: &[u64]) {
        for (offset, word) in (0..).step_by(8).zip(words) {
            self.store(at + offset, &word.to_le_bytes());
        }
    }

    /// The word at a multiple of 8.
    pub(crate) fn word(&self, at: u64) -> u64 {
        let pages = self.pages.lock().unwrap();
        let offset = ((at % PAGE) & !7) as usize;
        let bytes = pages.get(&(at / PAGE)).and_then(|page| page[offset..].first_chunk::<8>().copied());
        bytes.map_or(0, u64::from_le_bytes)
    }

    fn store(&self, at: u64, bytes: &[u8]) {
        let mut pages = self.pages.lock().unwrap();
        for (address, &byte) in (at..).zip(bytes) {
            let page = pages.entry(address / PAGE).or_insert_with(|| Box::new([0; PAGE as usize]));
            page[(address % PAGE) as usize] = byte;
        }
    }

    fn check(&self, at: Pa, len: usize) -> Result<(), BusError> {
        let last = at.get().checked_add((len as u64).saturating_sub(1)).ok_or(BusError { at })?;
        let hole = self.hole.lock().unwrap();
        let hit = hole.as_ref().is_some_and(|hole| *hole.start() <= last && at.get() <= *hole.end());
        if hit || last >> self.bits != 0 { Err(BusError { at }) } else { Ok(()) }
    }
}

impl Fabric for Ram {
    fn read(&self, at: Pa, into: &mut [u8]) -> Result<(), BusError> {
        self.check(at, into.len())?;
        let pages = self.pages.lock().unwrap();
        for (address, byte) in (at.get()..).zip(into) {
            *byte = pages.get(&(address / PAGE)).map_or(0, |page| page[(address % PAGE) as usize]);
        }
        Ok(())
    }

    fn write(&self, write: Write<'_>) -> Result<(), BusError> {
        self.check(write.at, write.bytes.len())?;
        self.store(write.at.get(), write.bytes);
        Ok(())
    }

    fn compare_exchange(&self, at: Pa, current: u64, new: u64) -> Result<u64, BusError> {
        self.check(at, 8)?;
        let found = self.word(at.get());
        if found == current {
            self.store(at.get(), &new.to_le_bytes());
        }
        Ok(found)
    }

    fn now_ns(&self) -> u64 {
        self.now_ns.load(Relaxed)
    }
}
