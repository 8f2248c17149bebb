//! A translation table that PEs have as a window: what is shared, killed for each of them, and freed last.
//!
//! # Locking
//!
//! `entries` guards the TCEs, `links` the list of PEs that have the table as a window. They are never held together with each other. A PE is linked
//! before its TVE points here and unlinked after the bridge has confirmed to have forgotten it; so a kill that reads the links after an entry
//! was changed reaches everybody who may have cached it.

use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::any::Any;
use core::fmt;

use portcullis_core::iommu::{Flushed, Gather, SyncError};
use portcullis_core::table_group::{DmaTable, EntryError, TableEntry, TableError, TableSpec};
use portcullis_hal::{Lock, Platform, Registers};
use portcullis_pgtable::tce::{TceEntry, TceMapError, TceShape, TceShapeError, TceTable};
use portcullis_spec::ioda2::tables::{LAST_ADDRESS, WINDOW_BIT};
use portcullis_types::{Iova, IovaRange, Pa, Perms, mutant};

use crate::bridge::Bridge;
use crate::tve;

/// So many pages are killed one by one; beyond, the whole PE is, in one store.
///
/// Choice: what a kill of a PE costs in refetches is not known; eight TCEs are one line of the bridge's cache.
pub const KILL_ONE_BY_ONE: u64 = 8;

/// log2 of the bytes of the largest level that a TVE can say. Observed: skiboot hw/phb3.c, `phb3_map_pe_dma_window`.
const LARGEST_LEVEL_LG2: u8 = 31 + 11;

/// A table.
pub(crate) struct Table<P: Platform, R: Registers + 'static> {
    this: Weak<Self>,
    bridge: Arc<Bridge<P, R>>,
    spec: TableSpec,
    shape: TceShape,
    first: Iova,
    /// Where hardware finds it.
    root: Pa,
    /// There until the table is dropped.
    entries: Lock<P, Option<TceTable>>,
    /// The PEs that have it as a window. One that hardware did not confirm to have forgotten may be there more than once.
    links: Lock<P, Vec<u8>>,
}

impl<P: Platform, R: Registers> fmt::Debug for Table<P, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Table").field("spec", &self.spec).field("root", &self.root).finish_non_exhaustive()
    }
}

impl<P: Platform, R: Registers> Drop for Table<P, R> {
    fn drop(&mut self) {
        debug_assert!(self.links.get_mut().is_empty(), "a window holds its table");
        if let Some(entries) = self.entries.get_mut().take() {
            entries.destroy(&*self.bridge.platform);
        }
    }
}

/// Where a window begins.
pub(crate) fn window_first(window: usize) -> Option<Iova> {
    match window {
        0 => Some(Iova::new(0)),
        1 => Some(Iova::new(1 << WINDOW_BIT)),
        _ => None,
    }
}

/// What such a table looks like.
pub(crate) fn shape<P: Platform, R>(bridge: &Bridge<P, R>, spec: TableSpec) -> Result<TceShape, TableError> {
    if window_first(spec.window).is_none() {
        return Err(TableError::Window(spec.window));
    }
    if !bridge.config.page_sizes.contains(spec.page) {
        return Err(TableError::PageSize(spec.page));
    }
    if spec.window_bytes > 1 << WINDOW_BIT {
        return Err(TableError::WindowSize(spec.window_bytes));
    }
    let shape = TceShape::new(spec.page, spec.window_bytes, spec.levels, bridge.config.cpu_page);
    let shape = shape.map_err(|error| match error {
        TceShapeError::PageSize(page) => TableError::PageSize(page),
        TceShapeError::WindowSize(bytes) => TableError::WindowSize(bytes),
        _ => TableError::Levels(spec.levels),
    })?;
    if shape.level_lg2() > LARGEST_LEVEL_LG2 {
        return Err(TableError::Levels(spec.levels));
    }
    Ok(shape)
}

impl<P: Platform, R: Registers> Table<P, R> {
    /// An empty table, with the user's view if it is for a user.
    pub(crate) fn new(
        bridge: Arc<Bridge<P, R>>,
        spec: TableSpec,
        user: bool,
    ) -> Result<Arc<Self>, TableError> {
        let shape = shape(&bridge, spec)?;
        let first = window_first(spec.window).ok_or(TableError::Window(spec.window))?;
        let entries = TceTable::new(shape, user, &*bridge.platform).ok_or(TableError::NoMemory)?;
        let root = entries.root();
        let entries = Lock::<P, _>::new(Some(entries));
        let links = Lock::<P, _>::new(Vec::new());
        Ok(Arc::new_cyclic(|this| Self {
            this: this.clone(),
            bridge,
            spec,
            shape,
            first,
            root,
            entries,
            links,
        }))
    }

    /// Itself, as whoever keeps it.
    pub(crate) fn shared(&self) -> Option<Arc<Self>> {
        self.this.upgrade()
    }

    pub(crate) fn belongs_to(&self, bridge: &Arc<Bridge<P, R>>) -> bool {
        Arc::ptr_eq(&self.bridge, bridge)
    }

    /// The TVE of a window that is this table.
    pub(crate) fn tve(&self) -> u64 {
        tve::translated(self.root, self.shape)
    }

    /// Notes that a PE is about to have it as a window. False if there is no memory to.
    pub(crate) fn link(&self, pe: u8) -> bool {
        let mut links = self.links.lock();
        let room = links.try_reserve(1).is_ok();
        if room {
            links.push(pe);
        }
        room
    }

    /// Notes that the bridge has forgotten it for a PE.
    pub(crate) fn unlink(&self, pe: u8) {
        let mut links = self.links.lock();
        if let Some(place) = links.iter().position(|&linked| linked == pe) {
            links.swap_remove(place);
        }
    }

    /// Whether the bridge may remember it for some PE.
    pub(crate) fn is_linked(&self) -> bool {
        !self.links.lock().is_empty()
    }

    fn with<T>(&self, act: impl FnOnce(&mut TceTable, &P) -> T) -> T {
        let mut entries = self.entries.lock();
        act(entries.as_mut().expect("there until it is dropped"), &self.bridge.platform)
    }

    fn page_bytes(&self) -> u64 {
        self.shape.page().bytes()
    }

    /// The number of the entry for `iova`, if it is in the window.
    fn index(&self, iova: Iova) -> Option<u64> {
        let offset = iova.get().checked_sub(self.first.get())?;
        (offset < self.shape.window_bytes()).then(|| offset >> self.shape.page().get())
    }

    fn iova(&self, index: u64) -> Iova {
        Iova::new(self.first.get() + (index << self.shape.page().get()))
    }

    /// The numbers of the entries for `range`, which lies in the window.
    fn run(&self, range: IovaRange) -> (u64, u64) {
        let first = self.index(range.first()).expect("the range lies in the window");
        let last = self.index(range.last()).expect("the range lies in the window");
        (first, last - first + 1)
    }

    /// Maps a range of the window to memory that lies in one piece. The bridge sees it before any store to a device behind it that comes after.
    pub(crate) fn map(&self, range: IovaRange, pa: Pa, perms: Perms) -> Result<(), TceMapError> {
        let (first, count) = self.run(range);
        self.with(|entries, memory| entries.map(memory, first, pa, count, perms))?;
        // The bridge caches TCEs by lines: it may remember that these were not there.
        self.kill(|| core::iter::once(range));
        Ok(())
    }

    /// Takes out what is mapped in a range of the window. Answers how many pages, and the range from the first to the last of them.
    pub(crate) fn unmap(&self, range: IovaRange) -> Option<(u64, IovaRange)> {
        let (first, count) = self.run(range);
        let mut ends: Option<(u64, u64)> = None;
        let found = self.with(|entries, memory| {
            entries.unmap(memory, first, count, |index, _| {
                ends = Some((ends.map_or(index, |(first, _)| first), index));
            })
        });
        let (first, last) = ends?;
        let last = Iova::new(self.iova(last).get() + (self.page_bytes() - 1));
        Some((found, IovaRange::from_ends(self.iova(first), last)?))
    }

    /// Tells the bridge to forget the pages of `ranges`, for every PE that has the table as a window. With no page in the window it says nothing.
    fn kill<I: Iterator<Item = IovaRange>>(&self, ranges: impl Fn() -> I) {
        let inside = || ranges().filter_map(|range| range.intersection(self.range()));
        let pages: u64 = inside().map(|range| self.run(range).1).sum();
        if pages == 0 {
            return;
        }
        let links = self.links.lock();
        let links =
            if mutant!("kill-reaches-one-pe-only") { &links[..links.len().min(1)] } else { &links[..] };
        if pages > KILL_ONE_BY_ONE {
            links.iter().for_each(|&pe| self.bridge.kill_pe(pe));
            return;
        }
        self.bridge.platform.write_barrier();
        for range in inside() {
            let (first, count) = self.run(range);
            let count = if mutant!("kill-of-the-first-page-only") { 1 } else { count };
            for index in first..first + count {
                links.iter().for_each(|&pe| self.bridge.kill_one(pe, self.iova(index)));
            }
        }
    }

    /// Makes the bridge forget all of it, for every PE that has it as a window.
    pub(crate) fn flush_all(&self) -> Result<Flushed, SyncError> {
        self.kill(|| core::iter::once(self.range()));
        self.bridge.confirm()?;
        Ok(Flushed::completed())
    }
}

impl<P: Platform, R: Registers> DmaTable for Table<P, R> {
    fn spec(&self) -> TableSpec {
        self.spec
    }

    fn range(&self) -> IovaRange {
        IovaRange::new(self.first, self.shape.window_bytes())
            .expect("a window is not empty and does not wrap")
    }

    fn accounted_bytes(&self) -> u64 {
        self.shape.accounted_bytes()
    }

    fn memory_bytes(&self) -> u64 {
        self.with(|entries, _| entries.memory_bytes())
    }

    fn live(&self) -> u64 {
        self.with(|entries, _| entries.live())
    }

    fn prepare(&self, range: IovaRange) -> Result<(), EntryError> {
        if !self.range().covers(range) {
            return Err(EntryError::Outside(range.last()));
        }
        let (first, count) = self.run(range);
        self.with(|entries, memory| entries.prepare(memory, first, count)).map_err(|_| EntryError::NoMemory)
    }

    fn exchange(&self, iova: Iova, new: Option<TableEntry>) -> Result<Option<TableEntry>, EntryError> {
        let index = self.index(iova).ok_or(EntryError::Outside(iova))?;
        if !iova.is_aligned(self.page_bytes()) {
            return Err(EntryError::Misaligned(iova.get()));
        }
        let new = new.map(|TableEntry { pa, perms, user }| TceEntry { pa, perms, user });
        if new.is_some_and(|new| new.pa.get() > LAST_ADDRESS || !plain(new.perms)) {
            return Err(EntryError::Unsupported);
        }
        let old = self.with(|entries, memory| entries.exchange(memory, index, new));
        let old = old.map_err(|error| match error {
            TceMapError::Misaligned(pa) => EntryError::Misaligned(pa.get()),
            TceMapError::NoTableMemory => EntryError::NoMemory,
            TceMapError::OutsideWindow(_) => EntryError::Outside(iova),
            _ => EntryError::Unsupported,
        })?;
        Ok(old.map(neutral))
    }

    fn entry(&self, iova: Iova) -> Option<TableEntry> {
        let index = self.index(iova)?;
        self.with(|entries, memory| entries.entry(memory, index)).map(neutral)
    }

    fn next(&self, iova: Iova) -> Option<(Iova, TableEntry)> {
        self.next_in(IovaRange::from_ends(iova.max(self.first), self.range().last())?)
    }

    fn next_in(&self, range: IovaRange) -> Option<(Iova, TableEntry)> {
        let inside = range.intersection(self.range())?;
        // A page that begins before the range is not in it.
        let first = self.index(inside.first())? + u64::from(!inside.first().is_aligned(self.page_bytes()));
        let end = self.index(inside.last())? + 1;
        let (index, entry) = self.with(|entries, memory| entries.next_below(memory, first, end))?;
        Some((self.iova(index), neutral(entry)))
    }

    fn flush(&self, gather: &mut Gather) -> Result<Flushed, SyncError> {
        if !gather.is_empty() && !mutant!("tces-taken-out-and-not-killed") {
            self.kill(|| gather.ranges());
            self.bridge.confirm()?;
        }
        *gather = Gather::new();
        Ok(Flushed::completed())
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// Whether a TCE can say it.
pub(crate) fn plain(perms: Perms) -> bool {
    !perms.is_empty() && Perms::READ_WRITE.contains(perms)
}

fn neutral(entry: TceEntry) -> TableEntry {
    TableEntry { pa: entry.pa, perms: entry.perms, user: entry.user }
}
