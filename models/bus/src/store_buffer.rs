//! The store buffer between CPUs and everything else.
//!
//! A store stays here until it drains. Stores drain one word at a time in an order that the seed chooses, whenever it chooses,
//! and all of them at a barrier. Two stores to one word are never exchanged: the later one joins the earlier one, and hardware may never
//! see the first. CPUs see every store at once.
//!
//! Pending words are kept by page, so that a store of megabytes costs two copies and not a list of words. Past
//! [`PAGES_KEPT`] pages, pages drain whole.

use core::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use portcullis_types::Pa;

use crate::cache::Coherent;
use crate::index::AddressMap;
use crate::{BusError, Chance};

const PAGE_BYTES: usize = 4096;
const PAGE_WORDS: usize = PAGE_BYTES / 8;
const PAGES_KEPT: usize = 256;
/// One in so many stores makes some word drain.
const DRAIN_ONE_IN: usize = 16;

/// The stores that have not drained yet.
#[derive(Debug)]
pub(crate) struct StoreBuffer {
    pending: Mutex<Pending>,
    /// How many words are pending. Falls only after the word has reached memory, so who reads 0 may go to memory at once.
    words: AtomicUsize,
    chance: Chance,
}

#[derive(Debug, Default)]
struct Pending {
    pages: Vec<Box<Page>>,
    index: AddressMap<usize>,
    spare: Vec<Box<Page>>,
}

#[derive(Debug)]
struct Page {
    first: u64,
    /// How many words have pending bytes.
    count: usize,
    /// Which words they are.
    dirty: [u64; PAGE_WORDS / 64],
    /// Which bytes of each dirty word; none of the others.
    masks: [u8; PAGE_WORDS],
    bytes: [u8; PAGE_BYTES],
}

impl StoreBuffer {
    pub(crate) fn new(seed: u64) -> Self {
        Self { pending: Mutex::default(), words: AtomicUsize::new(0), chance: Chance::new(seed) }
    }

    fn pending(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many words have not drained yet.
    pub(crate) fn word_count(&self) -> usize {
        self.words.load(Ordering::Acquire)
    }

    /// Takes a store of any length. The caller has made sure that there is memory.
    pub(crate) fn write(&self, memory: &Coherent, at: Pa, from: &[u8]) -> Result<(), BusError> {
        let mut pending = self.pending();
        let mut done = 0;
        while done < from.len() {
            let now = at.get() + done as u64;
            let within = now as usize % PAGE_BYTES;
            let count = (from.len() - done).min(PAGE_BYTES - within);
            let added = pending.page(now - within as u64).write(within, &from[done..done + count]);
            self.words.fetch_add(added, Ordering::Release);
            done += count;
            if pending.pages.len() > PAGES_KEPT {
                let any = self.chance.below(pending.pages.len());
                self.drain_page(&mut pending, memory, any)?;
            }
        }
        if self.chance.once_in(DRAIN_ONE_IN) { self.drain_word(&mut pending, memory) } else { Ok(()) }
    }

    /// Takes a store of words in a run that grows by `step`.
    pub(crate) fn write_run(
        &self,
        memory: &Coherent,
        at: Pa,
        first: u64,
        step: u64,
        count: usize,
    ) -> Result<(), BusError> {
        // Most runs are short: a page to put them together in would cost more than they do.
        if count <= 16 {
            self.write_pieces::<128>(memory, at, (first, step), count)
        } else {
            self.write_pieces::<PAGE_BYTES>(memory, at, (first, step), count)
        }
    }

    /// The same, by stores of at most `BYTES` bytes.
    fn write_pieces<const BYTES: usize>(
        &self,
        memory: &Coherent,
        at: Pa,
        (first, step): (u64, u64),
        count: usize,
    ) -> Result<(), BusError> {
        let mut bytes = [0; BYTES];
        let (mut word, mut done) = (first, 0);
        while done < count {
            let now = (count - done).min(BYTES / 8);
            for place in bytes.as_chunks_mut::<8>().0.iter_mut().take(now) {
                *place = word.to_le_bytes();
                word = word.wrapping_add(step);
            }
            self.write(memory, Pa::new(at.get() + 8 * done as u64), &bytes[..8 * now])?;
            done += now;
        }
        Ok(())
    }

    /// Reads what a CPU sees.
    pub(crate) fn read(&self, memory: &Coherent, at: Pa, into: &mut [u8]) -> Result<(), BusError> {
        if self.word_count() == 0 {
            return memory.cpu_read(at, into);
        }
        let pending = self.pending();
        memory.cpu_read(at, into)?;
        let mut done = 0;
        while done < into.len() {
            let now = at.get() + done as u64;
            let within = now as usize % PAGE_BYTES;
            let count = (into.len() - done).min(PAGE_BYTES - within);
            if let Some(&page) = pending.index.get(&(now - within as u64)) {
                pending.pages[page].overlay(within, &mut into[done..done + count]);
            }
            done += count;
        }
        Ok(())
    }

    /// The word at `at`, a multiple of 8, as a CPU sees it.
    pub(crate) fn load(&self, memory: &Coherent, at: Pa) -> Result<u64, BusError> {
        if self.word_count() == 0 {
            return memory.cpu_load(at);
        }
        let pending = self.pending();
        let behind = memory.cpu_load(at)?;
        let within = at.offset_in(PAGE_BYTES as u64);
        let page = pending.index.get(&(at.get() - within));
        Ok(page.map_or(behind, |&page| pending.pages[page].merge(within as usize / 8, behind)))
    }

    /// Whether some store to the word at `at`, a multiple of 8, has not drained yet.
    pub(crate) fn holds(&self, at: Pa) -> bool {
        if self.word_count() == 0 {
            return false;
        }
        let pending = self.pending();
        let within = at.offset_in(PAGE_BYTES as u64);
        let page = pending.index.get(&(at.get() - within));
        page.is_some_and(|&page| pending.pages[page].masks[within as usize / 8] != 0)
    }

    /// A CPU's atomic update: earlier stores to the word drain, then it happens in memory.
    pub(crate) fn compare_exchange(
        &self,
        memory: &Coherent,
        at: Pa,
        current: u64,
        new: u64,
    ) -> Result<u64, BusError> {
        let mut pending = self.pending();
        let within = at.offset_in(PAGE_BYTES as u64);
        if let Some(&page) = pending.index.get(&(at.get() - within)) {
            self.drain_at(&mut pending, memory, page, within as usize / 8)?;
        }
        memory.cpu_compare_exchange(at, current, new)
    }

    /// Drains every store.
    pub(crate) fn drain_all(&self, memory: &Coherent) -> Result<(), BusError> {
        if self.word_count() == 0 {
            return Ok(());
        }
        let mut pending = self.pending();
        while !pending.pages.is_empty() {
            let last = pending.pages.len() - 1;
            self.drain_page(&mut pending, memory, last)?;
        }
        Ok(())
    }

    /// Drains the stores to a range.
    pub(crate) fn drain_range(&self, memory: &Coherent, at: Pa, len_bytes: u64) -> Result<(), BusError> {
        self.each_page_in(at, len_bytes, |pending, page| self.drain_page(pending, memory, page))
    }

    /// Forgets the stores to a range: the memory was freed. `at` and the end are multiples of 8.
    pub(crate) fn discard(&self, at: Pa, len_bytes: u64) -> Result<(), BusError> {
        let end = at.get().saturating_add(len_bytes);
        self.each_page_in(at, len_bytes, |pending, page| {
            let first = pending.pages[page].first;
            let words = (at.get().max(first) - first) / 8..(end.min(first + PAGE_BYTES as u64) - first) / 8;
            let gone = words.filter(|&word| pending.pages[page].take(word as usize).is_some()).count();
            pending.drop_if_empty(page);
            self.words.fetch_sub(gone, Ordering::Release);
            Ok(())
        })
    }

    /// Drains a few words, or none: time passes.
    pub(crate) fn drain_some(&self, memory: &Coherent) -> Result<(), BusError> {
        if self.word_count() == 0 || !self.chance.once_in(4) {
            return Ok(());
        }
        let mut pending = self.pending();
        let count = 1 + self.chance.below(self.word_count().min(PAGE_WORDS));
        (0..count).try_for_each(|_| self.drain_word(&mut pending, memory))
    }

    fn each_page_in(
        &self,
        at: Pa,
        len_bytes: u64,
        mut act: impl FnMut(&mut Pending, usize) -> Result<(), BusError>,
    ) -> Result<(), BusError> {
        if len_bytes == 0 || self.word_count() == 0 {
            return Ok(());
        }
        let mut pending = self.pending();
        let last = at.get().saturating_add(len_bytes - 1);
        let range = at.align_down(PAGE_BYTES as u64).get()..=last;
        let firsts = pending.pages.iter().map(|page| page.first).filter(|first| range.contains(first));
        let firsts: Vec<u64> = firsts.collect();
        for first in firsts {
            let page = *pending.index.get(&first).expect("the page is pending");
            act(&mut pending, page)?;
        }
        Ok(())
    }

    fn drain_word(&self, pending: &mut Pending, memory: &Coherent) -> Result<(), BusError> {
        if pending.pages.is_empty() {
            return Ok(());
        }
        let page = self.chance.below(pending.pages.len());
        let which = self.chance.below(pending.pages[page].count);
        let word = pending.pages[page].nth_dirty(which).expect("a pending page has a dirty word");
        self.drain_at(pending, memory, page, word)
    }

    fn drain_at(
        &self,
        pending: &mut Pending,
        memory: &Coherent,
        page: usize,
        word: usize,
    ) -> Result<(), BusError> {
        let at = Pa::new(pending.pages[page].first + 8 * word as u64);
        let Some((value, mask)) = pending.pages[page].take(word) else { return Ok(()) };
        pending.drop_if_empty(page);
        let stored = memory.cpu_store(at, value, mask);
        self.words.fetch_sub(1, Ordering::Release);
        stored
    }

    fn drain_page(&self, pending: &mut Pending, memory: &Coherent, page: usize) -> Result<(), BusError> {
        let mut page = pending.remove(page);
        let drained = page.drain_into(memory);
        self.words.fetch_sub(page.count, Ordering::Release);
        page.clear();
        pending.spare.push(page);
        drained
    }
}

impl Pending {
    fn page(&mut self, first: u64) -> &mut Page {
        let at = *self.index.entry(first).or_insert_with(|| {
            let mut page = self.spare.pop().unwrap_or_else(Page::empty);
            page.first = first;
            self.pages.push(page);
            self.pages.len() - 1
        });
        &mut self.pages[at]
    }

    fn drop_if_empty(&mut self, page: usize) {
        if self.pages[page].count == 0 {
            let page = self.remove(page);
            self.spare.push(page);
        }
    }

    fn remove(&mut self, at: usize) -> Box<Page> {
        let page = self.pages.swap_remove(at);
        self.index.remove(&page.first);
        if let Some(moved) = self.pages.get(at) {
            self.index.insert(moved.first, at);
        }
        page
    }
}

impl Page {
    fn empty() -> Box<Self> {
        Box::new(Self { first: 0, count: 0, dirty: [0; 8], masks: [0; PAGE_WORDS], bytes: [0; PAGE_BYTES] })
    }

    /// Nothing of it is pending any more.
    fn clear(&mut self) {
        if self.count > PAGE_WORDS / 8 {
            self.masks = [0; PAGE_WORDS];
        } else {
            let mut next = self.dirty_at_or_after(0);
            while let Some(word) = next {
                self.masks[word] = 0;
                next = self.dirty_at_or_after(word + 1);
            }
        }
        (self.dirty, self.count) = ([0; 8], 0);
    }

    /// Takes bytes in; answers how many words became dirty.
    fn write(&mut self, within: usize, from: &[u8]) -> usize {
        self.bytes[within..within + from.len()].copy_from_slice(from);
        if within == 0 && from.len() == PAGE_BYTES {
            let before = core::mem::replace(&mut self.count, PAGE_WORDS);
            self.masks.fill(0xff);
            self.dirty.fill(u64::MAX);
            return PAGE_WORDS - before;
        }
        let end = within + from.len();
        let mut added = 0;
        for word in within / 8..end.div_ceil(8) {
            let (low, high) = (within.max(8 * word) - 8 * word, end.min(8 * word + 8) - 8 * word);
            self.masks[word] |= ((0xffu16 << low) & (0xffu16 >> (8 - high))) as u8;
            added += usize::from(self.dirty[word / 64] & 1 << (word % 64) == 0);
            self.dirty[word / 64] |= 1 << (word % 64);
        }
        self.count += added;
        added
    }

    fn word(&self, word: usize) -> u64 {
        u64::from_le_bytes(self.bytes[8 * word..8 * word + 8].try_into().expect("eight bytes"))
    }

    fn merge(&self, word: usize, behind: u64) -> u64 {
        let mask = spread(self.masks[word]);
        behind & !mask | self.word(word) & mask
    }

    fn overlay(&self, within: usize, into: &mut [u8]) {
        let mut word = within / 8;
        while let Some(dirty) = self.dirty_at_or_after(word).filter(|&dirty| 8 * dirty < within + into.len())
        {
            for byte in (0..8).filter(|byte| self.masks[dirty] & 1 << byte != 0) {
                let place = 8 * dirty + byte;
                if place >= within && place < within + into.len() {
                    into[place - within] = self.bytes[place];
                }
            }
            word = dirty + 1;
        }
    }

    fn dirty_at_or_after(&self, word: usize) -> Option<usize> {
        (word / 64..PAGE_WORDS / 64).find_map(|index| {
            let from = if index == word / 64 { u64::MAX << (word % 64) } else { u64::MAX };
            let bits = self.dirty[index] & from;
            (bits != 0).then(|| 64 * index + bits.trailing_zeros() as usize)
        })
    }

    fn nth_dirty(&self, mut n: usize) -> Option<usize> {
        for (index, &bits) in self.dirty.iter().enumerate() {
            let count = bits.count_ones() as usize;
            if n < count {
                return Some(64 * index + nth_one(bits, n));
            }
            n -= count;
        }
        None
    }

    /// Takes a word out: its value and which bits of it are meant.
    fn take(&mut self, word: usize) -> Option<(u64, u64)> {
        let bit = 1 << (word % 64);
        if self.dirty[word / 64] & bit == 0 {
            return None;
        }
        self.dirty[word / 64] &= !bit;
        self.count -= 1;
        let mask = core::mem::take(&mut self.masks[word]);
        Some((self.word(word), spread(mask)))
    }

    fn drain_into(&self, memory: &Coherent) -> Result<(), BusError> {
        if self.count == PAGE_WORDS && self.masks == [0xff; PAGE_WORDS] {
            return memory.cpu_write(Pa::new(self.first), &self.bytes);
        }
        let mut next = self.dirty_at_or_after(0);
        while let Some(word) = next {
            let at = Pa::new(self.first + 8 * word as u64);
            memory.cpu_store(at, self.word(word), spread(self.masks[word]))?;
            next = self.dirty_at_or_after(word + 1);
        }
        Ok(())
    }
}

/// Where the `n`-th one of a word is, from 0; there are more than `n`.
fn nth_one(bits: u64, n: usize) -> usize {
    let (mut bits, mut n, mut place) = (bits, n, 0);
    for half in [32, 16, 8, 4, 2, 1] {
        let ones = (bits & (u64::MAX >> (64 - half))).count_ones() as usize;
        if n >= ones {
            (bits, n, place) = (bits >> half, n - ones, place + half);
        }
    }
    place
}

/// One bit for each byte, as eight bits for each byte.
fn spread(mask: u8) -> u64 {
    if mask == 0xff {
        return u64::MAX;
    }
    (0..8).filter(|byte| mask & 1 << byte != 0).fold(0, |bits, byte| bits | 0xff << (8 * byte))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use portcullis_types::PaRange;

    use super::*;
    use crate::Ram;

    const BASE: u64 = 0x4000_0000;

    struct Machine {
        ram: Arc<Ram>,
        memory: Coherent,
        buffer: StoreBuffer,
    }

    fn machine(seed: u64) -> Machine {
        let ram = Arc::new(Ram::new(&[PaRange::new(Pa::new(BASE), 0x100_0000).unwrap()]));
        Machine { memory: Coherent::new(ram.clone(), None), ram, buffer: StoreBuffer::new(seed) }
    }

    impl Machine {
        fn write(&self, offset: u64, from: &[u8]) {
            self.buffer.write(&self.memory, Pa::new(BASE + offset), from).unwrap();
        }

        fn read(&self, offset: u64, len: usize) -> Vec<u8> {
            let mut bytes = vec![0; len];
            self.buffer.read(&self.memory, Pa::new(BASE + offset), &mut bytes).unwrap();
            bytes
        }

        fn hardware(&self, offset: u64, len: usize) -> Vec<u8> {
            let mut bytes = vec![0; len];
            self.ram.read(Pa::new(BASE + offset), &mut bytes).unwrap();
            bytes
        }
    }

    #[test]
    fn hardware_sees_stores_late_and_out_of_order_for_some_seed_and_all_of_them_after_a_barrier() {
        let (mut late, mut reordered) = (false, false);
        for seed in 0..200 {
            let machine = machine(seed);
            machine.write(0, &1u64.to_le_bytes());
            machine.write(8, &2u64.to_le_bytes());
            machine.buffer.drain_some(&machine.memory).unwrap();
            let (first, second) = (machine.hardware(0, 8)[0], machine.hardware(8, 8)[0]);
            late |= (first, second) == (0, 0);
            reordered |= (first, second) == (0, 2);
            machine.buffer.drain_all(&machine.memory).unwrap();
            assert_eq!((machine.hardware(0, 8)[0], machine.hardware(8, 8)[0]), (1, 2));
            assert_eq!(machine.buffer.word_count(), 0);
        }
        assert!(late && reordered);
    }

    #[test]
    fn the_nth_one_is_found_wherever_it_is() {
        for bits in [1, 1 << 63, u64::MAX, 0x8000_0001_0000_0180, 0x5555_5555_5555_5555] {
            let ones: Vec<usize> = (0..64).filter(|place| bits >> place & 1 == 1).collect();
            let found: Vec<usize> = (0..ones.len()).map(|n| nth_one(bits, n)).collect();
            assert_eq!(found, ones, "{bits:#x}");
        }
    }

    #[test]
    fn what_is_counted_of_pages_is_what_is_pending_and_pages_that_are_used_again_have_nothing() {
        for seed in 0..20 {
            let (machine, chance) = (machine(seed), Chance::new(!seed));
            for step in 0..400 {
                let len = [1, 6, 8, 100, PAGE_BYTES][chance.below(5)];
                let offset = chance.below(0x3000) & if len == PAGE_BYTES { !(PAGE_BYTES - 1) } else { !0 };
                let (at, word) = (Pa::new(BASE + offset as u64), Pa::new((BASE + offset as u64) & !7));
                let Machine { memory, buffer, .. } = &machine;
                match chance.below(8) {
                    0 => buffer.drain_range(memory, at, len as u64).unwrap(),
                    1 => buffer.discard(word, len.next_multiple_of(8) as u64).unwrap(),
                    2 => buffer.drain_some(memory).unwrap(),
                    3 => _ = buffer.compare_exchange(memory, word, 0, step).unwrap(),
                    4 if chance.once_in(4) => buffer.drain_all(memory).unwrap(),
                    _ => machine.write(offset as u64, &vec![7; len]),
                }
                let pending = buffer.pending();
                let counts = |page: &Page| {
                    let dirty: u32 = page.dirty.iter().map(|bits| bits.count_ones()).sum();
                    (page.count, dirty as usize, page.masks.iter().filter(|mask| **mask != 0).count())
                };
                let all: Vec<_> = pending.pages.iter().map(|page| counts(page)).collect();
                assert!(
                    all.iter().all(|&(count, dirty, masked)| count > 0 && (dirty, masked) == (count, count))
                );
                assert_eq!(all.iter().map(|(count, ..)| count).sum::<usize>(), buffer.word_count());
                assert!(
                    pending.spare.iter().all(|page| counts(page) == (0, 0, 0)),
                    "seed {seed}, step {step}"
                );
            }
        }
    }

    #[test]
    fn stores_to_one_word_never_change_places() {
        for seed in 0..50 {
            let machine = machine(seed);
            let mut last = 0;
            for value in 1..100u8 {
                machine.write(16, &[value]);
                machine.buffer.drain_some(&machine.memory).unwrap();
                let seen = machine.hardware(16, 1)[0];
                assert!(seen >= last && seen <= value);
                last = seen;
            }
        }
    }

    #[test]
    fn the_cpu_sees_its_stores_at_once_whatever_has_drained() {
        for seed in 0..30 {
            let machine = machine(seed);
            let chance = Chance::new(seed);
            let mut expected = vec![0u8; 0x5000];
            for _ in 0..200 {
                let (at, len) = (chance.below(0x4000), chance.below(0x40) * (1 + chance.below(30)));
                let len = len.min(0x5000 - at);
                let bytes: Vec<u8> = (0..len).map(|_| chance.next().to_le_bytes()[0]).collect();
                machine.write(at as u64, &bytes);
                expected[at..at + len].copy_from_slice(&bytes);
                machine.buffer.drain_some(&machine.memory).unwrap();
                assert_eq!(machine.read(0, 0x5000), expected);
                let word = chance.below(0xa00);
                let loaded = machine.buffer.load(&machine.memory, Pa::new(BASE + 8 * word as u64)).unwrap();
                assert_eq!(loaded.to_le_bytes(), expected[8 * word..8 * word + 8]);
            }
            machine.buffer.drain_all(&machine.memory).unwrap();
            assert_eq!(machine.hardware(0, 0x5000), expected);
        }
    }

    #[test]
    fn a_store_of_bytes_leaves_what_a_device_writes_beside_it() {
        let machine = machine(1);
        machine.write(0, &[1, 1]);
        machine.ram.write(Pa::new(BASE + 2), &[2, 2, 2]).unwrap();
        assert_eq!(machine.read(0, 6), [1, 1, 2, 2, 2, 0]);
        machine.buffer.drain_all(&machine.memory).unwrap();
        assert_eq!(machine.hardware(0, 6), [1, 1, 2, 2, 2, 0]);
    }

    #[test]
    fn an_atomic_update_comes_after_the_stores_to_its_word() {
        let machine = machine(1);
        machine.write(8, &5u64.to_le_bytes());
        let at = Pa::new(BASE + 8);
        assert_eq!(machine.buffer.compare_exchange(&machine.memory, at, 5, 6), Ok(5));
        assert_eq!(machine.ram.load(at), Ok(6));
        assert_eq!(machine.buffer.compare_exchange(&machine.memory, at, 5, 7), Ok(6));
        assert_eq!(machine.ram.load(at), Ok(6));
    }

    #[test]
    fn a_word_is_held_from_its_store_until_it_has_drained() {
        let machine = machine(1);
        let holds = |offset| machine.buffer.holds(Pa::new(BASE + offset));
        machine.write(12, &[1]);
        assert_eq!([0, 8, 16, 0x1008].map(holds), [false, true, false, false]);
        machine.write(0x1000, &[1; 8]);
        machine.buffer.drain_range(&machine.memory, Pa::new(BASE), 16).unwrap();
        assert_eq!([8, 0x1000].map(holds), [false, true]);
        machine.buffer.drain_all(&machine.memory).unwrap();
        assert!(!holds(0x1000));
    }

    #[test]
    fn a_run_is_a_loop_of_stores() {
        let machine = machine(1);
        machine.buffer.write_run(&machine.memory, Pa::new(BASE + 16), u64::MAX, 2, 1000).unwrap();
        let load = |word: u64| machine.buffer.load(&machine.memory, Pa::new(BASE + 8 * word)).unwrap();
        assert_eq!([load(1), load(2), load(3), load(1001), load(1002)], [0, u64::MAX, 1, 1997, 0]);
        for count in [16, 17] {
            machine.buffer.write_run(&machine.memory, Pa::new(BASE + 0x4000), 5, 3, count).unwrap();
            assert_eq!([load(0x800), load(0x800 + count as u64 - 1)], [5, 5 + 3 * (count as u64 - 1)]);
            assert_eq!(load(0x800 + count as u64), 0);
        }
    }

    #[test]
    fn a_large_store_does_not_stay_in_the_buffer_whole() {
        let machine = machine(1);
        machine.write(0, &vec![7; 0x80_0000]);
        assert!(machine.buffer.word_count() <= PAGES_KEPT * PAGE_WORDS);
        assert_eq!(machine.read(0, 0x80_0000), vec![7; 0x80_0000]);
    }

    #[test]
    fn a_range_drains_or_goes_without_the_rest() {
        let machine = machine(40);
        let bytes = [9; 64];
        [0, 0x1000, 0x2000].into_iter().for_each(|at| machine.write(at, &bytes));
        machine.buffer.drain_range(&machine.memory, Pa::new(BASE + 0x1000), 8).unwrap();
        assert_eq!(machine.hardware(0x1000, 64), bytes);
        machine.buffer.discard(Pa::new(BASE), 0x40).unwrap();
        machine.buffer.discard(Pa::new(BASE + 0x2000), 0x20).unwrap();
        machine.buffer.drain_all(&machine.memory).unwrap();
        assert_eq!(machine.hardware(0x2020, 32), [9; 32]);
        assert_eq!(machine.buffer.word_count(), 0);
    }
}
