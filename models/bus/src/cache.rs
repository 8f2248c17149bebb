//! The CPUs' write-back cache, as seen by hardware that does not snoop it.
//!
//! Off, it costs nothing: memory is what the CPUs see. On, a [`Coherent`] view keeps lines of 64 bytes for the CPUs: a line that
//! a CPU read stays as it was read, and a line that a CPU wrote stays away from memory, until it is cleaned, invalidated,
//! or evicted, which may happen at any time. A line goes back to memory whole, over whatever a device wrote into
//! its neighbouring bytes meanwhile.
//!
//! A CPU may also read memory that nobody asked for: a line that was invalidated is back at once, as memory was then. What a device writes later is seen
//! once it has been invalidated again.
//!
//! Hardware that snoops sees the lines; hardware that does not reads and writes the [`Ram`] behind them.

use core::ops::{Range, RangeInclusive};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use portcullis_types::Pa;

use crate::index::AddressMap;
use crate::{BusError, Chance, Ram};

const LINE_BYTES: u64 = 64;
const LINES_KEPT: usize = 8192;
/// One in so many accesses evicts a line that nobody asked to evict.
const EVICTION_ONE_IN: usize = 64;

/// Memory as the CPUs and snooping hardware see it.
#[derive(Debug)]
pub(crate) struct Coherent {
    ram: Arc<Ram>,
    cache: Option<Mutex<Cache>>,
}

#[derive(Debug)]
struct Cache {
    lines: Vec<Line>,
    index: AddressMap<usize>,
    chance: Chance,
    /// What was fetched ahead, clean, and not used yet. It takes no line's place: then it would be another's luck.
    ahead: AddressMap<[u8; LINE_BYTES as usize]>,
}

#[derive(Debug)]
struct Line {
    first: u64,
    bytes: [u8; LINE_BYTES as usize],
    dirty: bool,
}

/// What becomes of the lines of a range.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    Clean,
    CleanAndDrop,
    Drop,
}

impl Coherent {
    pub(crate) fn new(ram: Arc<Ram>, cache_seed: Option<u64>) -> Self {
        let cache = cache_seed.map(|seed| {
            let (index, ahead) = (AddressMap::default(), AddressMap::default());
            Mutex::new(Cache { lines: Vec::new(), index, chance: Chance::new(seed), ahead })
        });
        Self { ram, cache }
    }

    fn cache(&self) -> Option<MutexGuard<'_, Cache>> {
        self.cache.as_ref().map(|cache| cache.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether some hardware may see other than the CPUs do.
    pub(crate) fn has_cache(&self) -> bool {
        self.cache.is_some()
    }

    /// Reads as a CPU does: through lines that stay.
    pub(crate) fn cpu_read(&self, at: Pa, into: &mut [u8]) -> Result<(), BusError> {
        let Some(mut cache) = self.cache() else { return self.ram.read(at, into) };
        for (first, within, part) in lines_of(at, into.len()) {
            let line = cache.line(&self.ram, first)?;
            into[part].copy_from_slice(&line.bytes[within]);
        }
        cache.perhaps_evict(&self.ram)
    }

    /// Writes as a CPU does: into lines that stay.
    pub(crate) fn cpu_write(&self, at: Pa, from: &[u8]) -> Result<(), BusError> {
        let Some(mut cache) = self.cache() else { return self.ram.write(at, from) };
        for (first, within, part) in lines_of(at, from.len()) {
            let line = cache.line(&self.ram, first)?;
            line.bytes[within].copy_from_slice(&from[part]);
            line.dirty = true;
        }
        cache.perhaps_evict(&self.ram)
    }

    pub(crate) fn cpu_load(&self, at: Pa) -> Result<u64, BusError> {
        if self.cache.is_none() {
            return self.ram.load(at);
        }
        let mut bytes = [0; 8];
        self.cpu_read(at, &mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    pub(crate) fn cpu_store(&self, at: Pa, value: u64, mask: u64) -> Result<(), BusError> {
        let Some(mut cache) = self.cache() else { return self.ram.store_masked(at, value, mask) };
        // A store makes a line dirty also where it says what was there.
        cache.update(&self.ram, at, |old| Some(old & !mask | value & mask))?;
        cache.perhaps_evict(&self.ram)
    }

    pub(crate) fn cpu_compare_exchange(&self, at: Pa, current: u64, new: u64) -> Result<u64, BusError> {
        let Some(mut cache) = self.cache() else { return self.ram.compare_exchange(at, current, new) };
        cache.update(&self.ram, at, |old| (old == current).then_some(new))
    }

    /// Reads as snooping hardware does.
    pub(crate) fn snoop_read(&self, at: Pa, into: &mut [u8]) -> Result<(), BusError> {
        let Some(mut cache) = self.cache() else { return self.ram.read(at, into) };
        cache.settle(&self.ram, at, into.len() as u64, Fate::Clean)?;
        self.ram.read(at, into)
    }

    /// Writes as snooping hardware does.
    pub(crate) fn snoop_write(&self, at: Pa, from: &[u8]) -> Result<(), BusError> {
        let Some(mut cache) = self.cache() else { return self.ram.write(at, from) };
        cache.settle(&self.ram, at, from.len() as u64, Fate::CleanAndDrop)?;
        self.ram.write(at, from)
    }

    pub(crate) fn snoop_compare_exchange(&self, at: Pa, current: u64, new: u64) -> Result<u64, BusError> {
        let Some(mut cache) = self.cache() else { return self.ram.compare_exchange(at, current, new) };
        cache.settle(&self.ram, at, 8, Fate::CleanAndDrop)?;
        self.ram.compare_exchange(at, current, new)
    }

    /// Writes dirty lines of the range back; they stay, clean.
    pub(crate) fn clean(&self, at: Pa, len_bytes: u64) -> Result<(), BusError> {
        self.cache().map_or(Ok(()), |mut cache| cache.settle(&self.ram, at, len_bytes, Fate::Clean))
    }

    /// Drops the lines of the range; those that stick out of it at either end are written back first.
    pub(crate) fn invalidate(&self, at: Pa, len_bytes: u64) -> Result<(), BusError> {
        let Some(mut cache) = self.cache() else { return Ok(()) };
        let end = at.get().saturating_add(len_bytes);
        let inner = at.get().next_multiple_of(LINE_BYTES)..end & !(LINE_BYTES - 1);
        if inner.start >= inner.end {
            cache.settle(&self.ram, at, len_bytes, Fate::CleanAndDrop)?;
        } else {
            cache.settle(&self.ram, at, inner.start - at.get(), Fate::CleanAndDrop)?;
            cache.settle(&self.ram, Pa::new(inner.start), inner.end - inner.start, Fate::Drop)?;
            cache.settle(&self.ram, Pa::new(inner.end), end - inner.end, Fate::CleanAndDrop)?;
        }
        cache.fetch_ahead(&self.ram, at, len_bytes)
    }

    /// Forgets the lines of memory that was freed.
    pub(crate) fn discard(&self, at: Pa, len_bytes: u64) {
        if let Some(mut cache) = self.cache() {
            let dropped = cache.settle(&self.ram, at, len_bytes, Fate::Drop);
            debug_assert_eq!(dropped, Ok(()), "dropping writes nothing");
        }
    }
}

impl Cache {
    /// The line that begins at `first`, from memory if it is not here.
    fn line(&mut self, ram: &Ram, first: u64) -> Result<&mut Line, BusError> {
        if let Some(&at) = self.index.get(&first) {
            return Ok(&mut self.lines[at]);
        }
        let bytes = match self.ahead.remove(&first) {
            Some(bytes) => bytes,
            None => bytes_of_line(ram, first)?,
        };
        if self.lines.len() >= LINES_KEPT {
            self.evict_any(ram)?;
        }
        self.index.insert(first, self.lines.len());
        self.lines.push(Line { first, bytes, dirty: false });
        Ok(self.lines.last_mut().expect("just pushed"))
    }

    /// Stores what `change` makes of the word at `at`, if it makes anything, and answers what it was.
    fn update(
        &mut self,
        ram: &Ram,
        at: Pa,
        change: impl FnOnce(u64) -> Option<u64>,
    ) -> Result<u64, BusError> {
        if !at.is_aligned(8) {
            return Err(BusError { at });
        }
        let line = self.line(ram, at.align_down(LINE_BYTES).get())?;
        let within = at.offset_in(LINE_BYTES) as usize;
        let word = &mut line.bytes[within..within + 8];
        let old = u64::from_le_bytes(word.try_into().expect("eight bytes"));
        if let Some(new) = change(old) {
            word.copy_from_slice(&new.to_le_bytes());
            line.dirty = true;
        }
        Ok(old)
    }

    fn perhaps_evict(&mut self, ram: &Ram) -> Result<(), BusError> {
        if self.chance.once_in(EVICTION_ONE_IN) { self.evict_any(ram) } else { Ok(()) }
    }

    fn evict_any(&mut self, ram: &Ram) -> Result<(), BusError> {
        if self.lines.is_empty() {
            return Ok(());
        }
        let victim = self.lines[self.chance.below(self.lines.len())].first;
        self.settle_line(ram, victim, Fate::CleanAndDrop)
    }

    /// Reads the lines of a range that are not here, for whoever will use them.
    fn fetch_ahead(&mut self, ram: &Ram, at: Pa, len_bytes: u64) -> Result<(), BusError> {
        for (first, ..) in lines_of(at, len_bytes as usize) {
            if self.ahead.len() >= LINES_KEPT {
                self.ahead.clear();
            }
            if !self.index.contains_key(&first) {
                self.ahead.insert(first, bytes_of_line(ram, first)?);
            }
        }
        Ok(())
    }

    /// Forgets what was fetched ahead of the lines that begin in `range`.
    fn forget_ahead(&mut self, range: &RangeInclusive<u64>) {
        if (range.end() - range.start()) / LINE_BYTES < self.ahead.len() as u64 {
            range.clone().step_by(LINE_BYTES as usize).for_each(|first| _ = self.ahead.remove(&first));
        } else {
            self.ahead.retain(|first, _| !range.contains(first));
        }
    }

    fn settle(&mut self, ram: &Ram, at: Pa, len_bytes: u64, fate: Fate) -> Result<(), BusError> {
        if len_bytes == 0 {
            return Ok(());
        }
        let last = at.get().saturating_add(len_bytes - 1);
        let range = at.align_down(LINE_BYTES).get()..=last & !(LINE_BYTES - 1);
        if fate != Fate::Clean {
            self.forget_ahead(&range);
        }
        if self.lines.is_empty() {
            return Ok(());
        }
        if (range.end() - range.start()) / LINE_BYTES > self.lines.len() as u64 {
            let here: Vec<u64> = self.lines.iter().map(|line| line.first).collect();
            let mut inside = here.into_iter().filter(|first| range.contains(first));
            return inside.try_for_each(|first| self.settle_line(ram, first, fate));
        }
        let mut firsts = range.step_by(LINE_BYTES as usize);
        firsts.try_for_each(|first| self.settle_line(ram, first, fate))
    }

    fn settle_line(&mut self, ram: &Ram, first: u64, fate: Fate) -> Result<(), BusError> {
        let Some(&at) = self.index.get(&first) else { return Ok(()) };
        let line = &mut self.lines[at];
        if line.dirty && fate != Fate::Drop {
            ram.write(Pa::new(first), &line.bytes)?;
            line.dirty = false;
        }
        if fate != Fate::Clean {
            self.index.remove(&first);
            self.lines.swap_remove(at);
            if let Some(moved) = self.lines.get(at) {
                self.index.insert(moved.first, at);
            }
        }
        Ok(())
    }
}

fn bytes_of_line(ram: &Ram, first: u64) -> Result<[u8; LINE_BYTES as usize], BusError> {
    let mut bytes = [0; LINE_BYTES as usize];
    ram.read(Pa::new(first), &mut bytes)?;
    Ok(bytes)
}

/// Cuts a run into lines: where each begins, which of its bytes are meant, and where they lie in the run.
fn lines_of(at: Pa, len: usize) -> impl Iterator<Item = (u64, Range<usize>, Range<usize>)> {
    let mut done = 0;
    core::iter::from_fn(move || {
        let now = at.get().checked_add(done as u64).filter(|_| done < len)?;
        let within = (now % LINE_BYTES) as usize;
        let count = (len - done).min(LINE_BYTES as usize - within);
        let part = done..done + count;
        done += count;
        Some((now - within as u64, within..within + count, part))
    })
}

#[cfg(test)]
mod tests {
    use portcullis_types::PaRange;

    use super::*;

    const AT: Pa = Pa::new(0x4000_1000);

    /// A cache whose luck never evicts in the few accesses of these tests.
    fn coherent() -> Coherent {
        let ram = Ram::new(&[PaRange::new(Pa::new(0x4000_0000), 0x10_0000).unwrap()]);
        let seed = (0..).find(|&seed| {
            let chance = Chance::new(seed);
            (0..40).all(|_| !chance.once_in(EVICTION_ONE_IN))
        });
        Coherent::new(Arc::new(ram), seed)
    }

    fn cpu(coherent: &Coherent) -> u64 {
        coherent.cpu_load(AT).unwrap()
    }

    #[test]
    fn a_write_stays_away_from_memory_until_it_is_cleaned() {
        let coherent = coherent();
        coherent.cpu_store(AT, 7, u64::MAX).unwrap();
        assert_eq!((cpu(&coherent), coherent.ram.load(AT)), (7, Ok(0)));
        coherent.clean(AT, 1).unwrap();
        assert_eq!((cpu(&coherent), coherent.ram.load(AT)), (7, Ok(7)));
    }

    #[test]
    fn a_read_stays_as_it_was_until_it_is_invalidated() {
        let coherent = coherent();
        assert_eq!(cpu(&coherent), 0);
        coherent.ram.store_masked(AT, 9, u64::MAX).unwrap();
        assert_eq!(cpu(&coherent), 0);
        coherent.invalidate(AT, 64).unwrap();
        assert_eq!(cpu(&coherent), 9);
    }

    #[test]
    fn what_is_written_after_an_invalidation_is_seen_after_the_next_one() {
        let beside = Pa::new(AT.get() + 64);
        for len_bytes in [64, 8] {
            let coherent = coherent();
            coherent.invalidate(AT, len_bytes).unwrap();
            [AT, beside].into_iter().for_each(|at| coherent.ram.store_masked(at, 1, u64::MAX).unwrap());
            assert_eq!((cpu(&coherent), coherent.cpu_load(beside)), (0, Ok(1)), "{len_bytes}");
            coherent.invalidate(AT, len_bytes).unwrap();
            assert_eq!(cpu(&coherent), 1);
            // Cleaning brings nothing new. Who snoops is seen at once.
            coherent.invalidate(AT, len_bytes).unwrap();
            coherent.ram.store_masked(AT, 2, u64::MAX).unwrap();
            coherent.clean(AT, len_bytes).unwrap();
            assert_eq!(cpu(&coherent), 1);
            coherent.invalidate(AT, len_bytes).unwrap();
            coherent.snoop_write(AT, &[3]).unwrap();
            assert_eq!(cpu(&coherent), 3);
        }
    }

    #[test]
    fn invalidating_loses_what_was_not_cleaned_but_not_beside_the_range() {
        let coherent = coherent();
        coherent.cpu_store(AT, 7, u64::MAX).unwrap();
        coherent.invalidate(AT, 64).unwrap();
        assert_eq!((cpu(&coherent), coherent.ram.load(AT)), (0, Ok(0)));
        coherent.cpu_store(AT, 7, u64::MAX).unwrap();
        coherent.invalidate(Pa::new(AT.get() + 8), 8).unwrap();
        assert_eq!((cpu(&coherent), coherent.ram.load(AT)), (7, Ok(7)));
    }

    #[test]
    fn a_dirty_line_that_goes_back_covers_what_a_device_wrote_beside_it() {
        let coherent = coherent();
        coherent.cpu_store(AT, 7, u64::MAX).unwrap();
        let beside = Pa::new(AT.get() + 8);
        coherent.ram.store_masked(beside, 1, u64::MAX).unwrap();
        coherent.clean(AT, 64).unwrap();
        assert_eq!(coherent.ram.load(beside), Ok(0));
    }

    #[test]
    fn a_store_of_what_was_there_is_a_store_and_a_compare_exchange_that_fails_is_none() {
        let coherent = coherent();
        let beside = Pa::new(AT.get() + 8);
        coherent.cpu_store(AT, 0, u64::MAX).unwrap();
        coherent.ram.store_masked(beside, 1, u64::MAX).unwrap();
        coherent.clean(AT, 64).unwrap();
        assert_eq!(coherent.ram.load(beside), Ok(0));
        coherent.invalidate(AT, 64).unwrap();
        assert_eq!(coherent.cpu_compare_exchange(AT, 5, 6), Ok(0));
        coherent.ram.store_masked(beside, 1, u64::MAX).unwrap();
        coherent.clean(AT, 64).unwrap();
        assert_eq!(coherent.ram.load(beside), Ok(1));
    }

    #[test]
    fn who_snoops_sees_and_is_seen() {
        let coherent = coherent();
        coherent.cpu_store(AT, 7, u64::MAX).unwrap();
        let mut bytes = [0; 8];
        coherent.snoop_read(AT, &mut bytes).unwrap();
        assert_eq!(bytes, 7u64.to_le_bytes());
        coherent.snoop_write(Pa::new(AT.get() + 1), &[1]).unwrap();
        assert_eq!(cpu(&coherent), 0x107);
        assert_eq!(coherent.cpu_compare_exchange(AT, 0x107, 3), Ok(0x107));
        assert_eq!(coherent.snoop_compare_exchange(AT, 3, 4), Ok(3));
        assert_eq!((cpu(&coherent), coherent.ram.load(AT)), (4, Ok(4)));
    }

    #[test]
    fn a_line_may_be_evicted_at_any_time() {
        let ram = Ram::new(&[PaRange::new(Pa::new(0x4000_0000), 0x10_0000).unwrap()]);
        let coherent = Coherent::new(Arc::new(ram), Some(1));
        coherent.cpu_store(AT, 7, u64::MAX).unwrap();
        let evicted = (0..100_000u64).any(|_| {
            coherent.cpu_load(AT).unwrap();
            coherent.ram.load(AT) == Ok(7)
        });
        assert!(evicted);
    }

    #[test]
    fn a_cache_that_is_full_still_answers_right() {
        let ram = Ram::new(&[PaRange::new(Pa::new(0x4000_0000), 0x20_0000).unwrap()]);
        let coherent = Coherent::new(Arc::new(ram), Some(1));
        let at = |index: u64| Pa::new(0x4000_0000 + 64 * index);
        (0..0x8000).for_each(|index| coherent.cpu_store(at(index), index, u64::MAX).unwrap());
        (0..0x8000).for_each(|index| assert_eq!(coherent.cpu_load(at(index)), Ok(index)));
        coherent.clean(at(0), 0x20_0000).unwrap();
        (0..0x8000).for_each(|index| assert_eq!(coherent.ram.load(at(index)), Ok(index)));
    }
}
