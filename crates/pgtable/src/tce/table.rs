//! A table: mapping, unmapping, exchanging.

use portcullis_hal::TableMemory;
use portcullis_types::{Pa, Perms, mutant};

use super::entry::{TceEntry, TceRaw};
use super::levels::{Levels, ROOT, Slot};
use super::shape::TceShape;
use crate::Memory;

/// What one DMA window translates by.
///
/// The memory it lives in is passed to each call, always the same. Dropping a table loses its memory; [`destroy`](Self::destroy) gives it back.
///
/// The format could say "write only", and hardware checks each bit for itself; an entry that may be written is made readable all the same.
/// Observed: Linux 4.20, `pnv_tce_build`, `pnv_tce_xchg`.
#[derive(Debug)]
pub struct TceTable {
    shape: TceShape,
    levels: Levels,
    live: u64,
    /// The last level that was used last.
    recent: Option<Run>,
}

/// A last level: where it lies, and which entries it holds.
#[derive(Clone, Copy, Debug)]
struct Run {
    /// The number of its first entry, over the entries of a level.
    region: u64,
    at: Pa,
    view: Option<Pa>,
}

/// Why entries were not mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TceMapError {
    /// The entry is beyond the window. The caller's.
    OutsideWindow(u64),
    /// The address is no multiple of the page, or it wraps. The caller's.
    Misaligned(Pa),
    /// Nothing would be allowed. The caller's.
    NoAccess,
    /// Something is mapped at this entry. The caller's.
    Mapped(u64),
    /// No memory for a level.
    NoTableMemory,
}

impl TceTable {
    /// An empty table, with the user's view if he wants one; none if there is no memory. Hardware can be pointed at it at once.
    pub fn new(shape: TceShape, view: bool, mem: &impl Memory) -> Option<Self> {
        Some(Self { shape, levels: Levels::new(shape, view, mem)?, live: 0, recent: None })
    }

    /// What it looks like.
    pub fn shape(&self) -> TceShape {
        self.shape
    }

    /// Where the first level lies, a multiple of its size.
    pub fn root(&self) -> Pa {
        self.levels.get(ROOT).at
    }

    /// How many entries are mapped. Fewer, where words that nobody stored were taken out: what matters looks by [`next`](Self::next) as well.
    pub fn live(&self) -> u64 {
        self.live
    }

    /// How much memory the table has, the user's view included.
    pub fn memory_bytes(&self) -> u64 {
        let (levels, views) = self.levels.counts();
        (levels + views) << self.shape.level_lg2()
    }

    /// Maps `count` entries from `first` on to pages that lie one behind the other from `pa` on.
    ///
    /// # Errors
    ///
    /// As [`TceMapError`] says; then nothing is mapped that was not before.
    pub fn map(
        &mut self,
        mem: &impl Memory,
        first: u64,
        pa: Pa,
        count: u64,
        perms: Perms,
    ) -> Result<(), TceMapError> {
        self.check_pages(pa, count, perms)?;
        self.prepare(mem, first, count)?;
        for (index, run) in self.runs(first, count) {
            let at = self.last_level(index);
            let looked_at = if mutant!("tce-map-looks-at-the-first-entry") { 1 } else { run };
            let taken = (0..looked_at).find(|entry| mem.load(Pa::new(at + 8 * entry)) != 0);
            if let Some(taken) = taken {
                return Err(TceMapError::Mapped(index + taken));
            }
        }
        for (index, run) in self.runs(first, count) {
            let at = self.last_level(index);
            let page_bytes = self.shape.page().bytes();
            let mut page = pa.get() + (index - first) * page_bytes;
            for entry in 0..run {
                mem.store(Pa::new(at + 8 * entry), TceRaw::leaf(Pa::new(page), perms).word());
                page = page.wrapping_add(page_bytes);
            }
        }
        self.live += count;
        mem.write_barrier();
        Ok(())
    }

    /// Makes the levels of `count` entries from `first` on, so that exchanging these cannot fail for want of memory.
    ///
    /// # Errors
    ///
    /// As [`TceMapError`] says. Levels that were made stay, empty, until the table goes.
    pub fn prepare(&mut self, mem: &impl Memory, first: u64, count: u64) -> Result<(), TceMapError> {
        self.check_range(first, count)?;
        let fan_lg2 = self.shape.fan_lg2();
        if count == 0 {
            return Ok(());
        }
        for region in first >> fan_lg2..=(first + count - 1) >> fan_lg2 {
            if self.recent.is_none_or(|recent| recent.region != region) {
                self.make(mem, region << fan_lg2)?;
            }
        }
        Ok(())
    }

    /// The last level of entry `index`, made if it is not there.
    fn make(&mut self, mem: &impl Memory, index: u64) -> Result<Run, TceMapError> {
        let slot = self.levels.find_or_make(mem, index).ok_or(TceMapError::NoTableMemory)?;
        let run = self.run_of(slot, index >> self.shape.fan_lg2());
        self.recent = Some(run);
        Ok(run)
    }

    /// Takes out what is mapped at `count` entries from `first` on, and shows each to `taken`. Answers how many. Holes are no error, and
    /// what is beyond the window is a hole.
    pub fn unmap(
        &mut self,
        mem: &impl Memory,
        first: u64,
        count: u64,
        mut taken: impl FnMut(u64, TceEntry),
    ) -> u64 {
        let count = count.min(self.shape.entries().saturating_sub(first));
        let mut found = 0;
        for (index, run) in self.runs(first, count) {
            let Some(level) = self.run(index) else { continue };
            for entry in 0..run {
                let old = self.swap(mem, level, index + entry, TceRaw::ABSENT, 0);
                if let Some(old) = old {
                    found += 1;
                    taken(index + entry, old);
                }
            }
        }
        if found > 0 {
            mem.write_barrier();
        }
        found
    }

    /// Maps one entry, or nothing, and answers what was there before. No barrier: see the module.
    ///
    /// # Errors
    ///
    /// As [`TceMapError`] says; then the entry is as it was.
    pub fn exchange(
        &mut self,
        mem: &impl Memory,
        index: u64,
        new: Option<TceEntry>,
    ) -> Result<Option<TceEntry>, TceMapError> {
        if index >= self.shape.entries() {
            return Err(TceMapError::OutsideWindow(index));
        }
        let (raw, user) = match new {
            Some(TceEntry { pa, perms, user }) => {
                self.check_pages(pa, 1, perms)?;
                (TceRaw::leaf(pa, perms), user)
            }
            None => (TceRaw::ABSENT, 0),
        };
        let run = match self.run(index) {
            Some(run) => run,
            None if new.is_none() => return Ok(None),
            None => self.make(mem, index)?,
        };
        self.recent = Some(run);
        Ok(self.swap(mem, run, index, raw, user))
    }

    /// What is mapped at an entry, as the table says.
    pub fn entry(&self, mem: &impl TableMemory, index: u64) -> Option<TceEntry> {
        if index >= self.shape.entries() {
            return None;
        }
        let run = self.run(index)?;
        self.decode(mem, run, index)
    }

    /// The first entry from `index` on that is mapped.
    pub fn next(&self, mem: &impl TableMemory, index: u64) -> Option<(u64, TceEntry)> {
        self.next_below(mem, index, self.shape.entries())
    }

    /// The first entry from `index` on that is mapped and lies below `end`. What has no level is passed over as a whole.
    pub fn next_below(&self, mem: &impl TableMemory, index: u64, end: u64) -> Option<(u64, TceEntry)> {
        let end = end.min(self.shape.entries());
        let mut next = index;
        while next < end {
            let level = match self.find(next) {
                Ok(level) => level,
                Err(beyond) => {
                    next = beyond;
                    continue;
                }
            };
            let level_end = ((next >> self.shape.fan_lg2()) + 1) << self.shape.fan_lg2();
            let mut here = next..level_end.min(end);
            let found = here.find_map(|index| Some((index, self.decode(mem, level, index)?)));
            if found.is_some() {
                return found;
            }
            next = level_end;
        }
        None
    }

    /// Gives all memory back. Call it when no hardware can be reading the table any more.
    pub fn destroy(self, mem: &impl TableMemory) {
        self.levels.destroy(mem);
    }

    fn check_range(&self, first: u64, count: u64) -> Result<(), TceMapError> {
        let end = first.checked_add(count).filter(|&end| end <= self.shape.entries());
        end.map(|_| ()).ok_or(TceMapError::OutsideWindow(first.saturating_add(count.saturating_sub(1))))
    }

    #[inline]
    fn check_pages(&self, pa: Pa, count: u64, perms: Perms) -> Result<(), TceMapError> {
        if !perms.intersects(Perms::READ_WRITE) {
            return Err(TceMapError::NoAccess);
        }
        let page_lg2 = self.shape.page().get();
        let pages = count.checked_shl(page_lg2.into()).filter(|len_bytes| len_bytes >> page_lg2 == count);
        let fits = pages.is_some_and(|len_bytes| pa.get().checked_add(len_bytes).is_some());
        let aligned = pa.get() & (self.shape.page().bytes() - 1) == 0;
        if fits && aligned { Ok(()) } else { Err(TceMapError::Misaligned(pa)) }
    }

    fn run_of(&self, slot: Slot, region: u64) -> Run {
        let level = self.levels.get(slot);
        Run { region, at: level.at, view: level.view }
    }

    /// The last level of entry `index`; none if there is none yet.
    #[inline]
    fn run(&self, index: u64) -> Option<Run> {
        self.find(index).ok()
    }

    /// The same; where there is none yet, the first entry behind those that have none with it.
    #[inline]
    fn find(&self, index: u64) -> Result<Run, u64> {
        let region = index >> self.shape.fan_lg2();
        match self.recent {
            Some(recent) if recent.region == region => Ok(recent),
            _ => Ok(self.run_of(self.levels.find(index)?, region)),
        }
    }

    /// Where entry `index` lies, in a last level that is there.
    fn last_level(&self, index: u64) -> u64 {
        let run = self.run(index).expect("the caller had it made");
        self.place(run.at, index).get()
    }

    #[inline]
    fn place(&self, level: Pa, index: u64) -> Pa {
        Pa::new(level.get() + 8 * (index & ((1 << self.shape.fan_lg2()) - 1)))
    }

    #[inline]
    fn swap(
        &mut self,
        mem: &impl TableMemory,
        run: Run,
        index: u64,
        raw: TceRaw,
        user: u64,
    ) -> Option<TceEntry> {
        let old = self.decode(mem, run, index);
        if old.is_some() || raw != TceRaw::ABSENT {
            mem.store(self.place(run.at, index), raw.word());
            if let Some(view) = run.view {
                mem.store(self.place(view, index), user);
            }
        }
        let live = self.live + u64::from(raw != TceRaw::ABSENT);
        // What was there may be a word that nobody stored.
        self.live = live.saturating_sub(old.is_some().into());
        old
    }

    #[inline]
    fn decode(&self, mem: &impl TableMemory, run: Run, index: u64) -> Option<TceEntry> {
        let (pa, perms) = TceRaw::from_word(mem.load(self.place(run.at, index))).decode()?;
        let user = run.view.map_or(0, |view| mem.load(self.place(view, index)));
        Some(TceEntry { pa, perms, user })
    }

    /// The runs of entries that lie in one last level each: the first, and how many.
    fn runs(&self, first: u64, count: u64) -> impl Iterator<Item = (u64, u64)> + use<> {
        let fan_lg2 = self.shape.fan_lg2();
        let end = first.saturating_add(count);
        let mut next = first;
        core::iter::from_fn(move || {
            let here = next;
            let boundary = ((here >> fan_lg2) + 1) << fan_lg2;
            next = boundary.min(end);
            (here < end).then(|| (here, next - here))
        })
    }
}
