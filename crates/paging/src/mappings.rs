//! The page table of a domain, and what an unmap took out of it, until hardware has forgotten that.
//!
//! # Locks and order
//!
//! The page table is under one lock, held while entries are changed, never while waiting. A change ends with a write barrier, so that it is visible
//! before the call returns.
//!
//! Tables that an unmap emptied are *retired*: nobody can reach them from the root any more, but hardware may remember a pointer to them. They are
//! freed after a completed invalidation, one that is not of leaves only, of the range that they were retired from; if it fails they stay retired, for the
//! next one. What an invalidation will cover is taken out of the list before it is sent: what is retired while it is under way waits for another.
//!
//! Until then a map that needs a table there takes the retired one back, so that hardware which looks where it remembers finds what was mapped. For that a
//! table must not be freed before those below it that were retired earlier: none is retired whose range does not cover theirs (`pgtable`, `ledger`).
//!
//! Hardware that forgets a leaf only if all of it is named may remember all of one that was split, also where a part was unmapped that had been cut from it before. So whatever is unmapped
//! there is forgotten with all that the leaf was, until an invalidation of that has completed ([`Splits`]).
//!
//! Not here: how hardware is made to forget, and when it has (a driver, by the functions that it passes in).

use alloc::vec::Vec;
use core::fmt;

use portcullis_core::iommu::{Flushed, Gather, MapError, SyncError, UnmapError};
use portcullis_hal::lock_api::{Mutex, RawMutex};
use portcullis_hal::{BlockLayout, DmaMemory};
use portcullis_pgtable::{Format, Memory, Retired};
use portcullis_types::{Iova, IovaRange, Pa, Prot, SizeLg2, mutant};

use crate::{Table, TableFormat};

/// What a domain maps, and the tables that wait to be freed.
///
/// Dropped without [`destroy`](Self::destroy), all of it keeps its memory: hardware may still read there.
pub struct Mappings<M, A: Format, B: Format> {
    format: TableFormat<A, B>,
    /// None once it was destroyed.
    table: Mutex<M, Option<Table<A, B>>>,
    retired: Mutex<M, Vec<(IovaRange, Retired)>>,
    /// Buffers that go back with the table.
    kept: Mutex<M, Vec<(Pa, BlockLayout)>>,
    splits: Mutex<M, Splits>,
}

/// Leaves that were split, each with the number of its split: hardware may remember all of one.
#[derive(Debug, Default)]
struct Splits {
    held: Vec<(u64, IovaRange)>,
    count: u64,
}

impl Splits {
    fn add(&mut self, leaf: IovaRange) {
        self.held.push((self.count, leaf));
        self.count += 1;
    }

    /// A range with all of the leaves of which it has a part.
    fn around(&self, range: IovaRange) -> IovaRange {
        let parts = self.held.iter().map(|&(_, leaf)| leaf).filter(|leaf| leaf.overlaps(range));
        parts.fold(range, IovaRange::hull)
    }

    /// The numbers of the splits that an invalidation covers which begins now.
    fn covered(&self, covers: impl Fn(IovaRange) -> bool) -> Vec<u64> {
        let covered = self.held.iter().filter(|&&(_, leaf)| covers(leaf));
        covered.map(|&(number, _)| number).collect()
    }

    /// It has completed.
    fn forget(&mut self, numbers: &[u64]) {
        self.held.retain(|(number, _)| !numbers.contains(number));
    }
}

impl<M, A: Format, B: Format> fmt::Debug for Mappings<M, A, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mappings").finish_non_exhaustive()
    }
}

impl<M: RawMutex, A: Format + Copy, B: Format + Copy> Mappings<M, A, B> {
    /// With an empty table; none if there is no memory.
    pub fn new(format: TableFormat<A, B>, memory: &impl Memory) -> Option<Self> {
        let table = Table::new(format, memory)?;
        let (retired, kept) = (Mutex::new(Vec::new()), Mutex::new(Vec::new()));
        let (table, splits) = (Mutex::new(Some(table)), Mutex::new(Splits::default()));
        Some(Self { format, table, retired, kept, splits })
    }

    /// Looks at the table, under its lock; none if it was destroyed.
    pub fn with_table<T>(&self, look: impl FnOnce(&Table<A, B>) -> T) -> Option<T> {
        self.table.lock().as_ref().map(look)
    }

    /// As [`HwDomain::map`](portcullis_core::iommu::HwDomain::map), for hardware that need not be told of what is new.
    ///
    /// # Errors
    ///
    /// As [`MapError`] says.
    pub fn map(
        &self,
        memory: &impl Memory,
        iova: Iova,
        pa: Pa,
        len_bytes: u64,
        prot: Prot,
    ) -> Result<(), MapError> {
        match self.table.lock().as_mut() {
            Some(table) => table.map(memory, iova, pa, len_bytes, prot),
            None => Err(MapError::NoTableMemory),
        }
    }

    /// As [`HwDomain::unmap`](portcullis_core::iommu::HwDomain::unmap).
    ///
    /// # Errors
    ///
    /// As [`UnmapError`] says.
    pub fn unmap(
        &self,
        memory: &impl Memory,
        range: IovaRange,
        gather: &mut Gather,
    ) -> Result<u64, UnmapError> {
        let mut table = self.table.lock();
        let Some(table) = table.as_mut() else { return Ok(0) };
        let removed = table.unmap(memory, range)?;
        let tables = removed.tables || !removed.retired.is_empty();
        if (removed.leaf.is_some() || tables) && !mutant!("unmap-without-invalidation") {
            let forget = self.with_split(range, removed.split);
            gather.add(forget, removed.leaf.unwrap_or(self.format.granule()), tables);
        }
        if !removed.retired.is_empty() {
            self.retired.lock().push((range, removed.retired));
        }
        Ok(removed.bytes)
    }

    /// As [`HwDomain::sync`](portcullis_core::iommu::HwDomain::sync): `forget` makes hardware forget the ranges of a gather whose smallest leaf it is told,
    /// and comes back when it has. It is not asked for addresses that no table has, which a command may not be able to say.
    ///
    /// # Errors
    ///
    /// What `forget` says.
    pub fn sync(
        &self,
        memory: &impl Memory,
        gather: &mut Gather,
        forget: impl FnOnce(&Gather, SizeLg2) -> Result<(), SyncError>,
    ) -> Result<Flushed, SyncError> {
        let known = gather.within(self.format.aperture());
        let Some(leaf) = known.leaf().filter(|_| !known.is_empty()) else {
            *gather = Gather::new();
            return Ok(Flushed::completed());
        };
        let covered = |range: IovaRange| known.tables() && known.ranges().any(|held| held.covers(range));
        let waiting = self.take_retired(covered);
        let splits = self.covered_splits(covered);
        let flushed = self.settle(memory, waiting, forget(&known, leaf))?;
        self.forget_splits(&splits);
        *gather = Gather::new();
        Ok(flushed)
    }

    /// As [`HwDomain::flush_all`](portcullis_core::iommu::HwDomain::flush_all): `forget` makes hardware forget everything, and comes back when it has.
    ///
    /// # Errors
    ///
    /// What `forget` says.
    pub fn flush_all(
        &self,
        memory: &impl Memory,
        forget: impl FnOnce() -> Result<(), SyncError>,
    ) -> Result<Flushed, SyncError> {
        let waiting = self.take_retired(|_| true);
        let splits = self.covered_splits(|_| true);
        let flushed = self.settle(memory, waiting, forget())?;
        self.forget_splits(&splits);
        Ok(flushed)
    }

    /// What `iova` is mapped to.
    pub fn lookup(&self, memory: &impl Memory, iova: Iova) -> Option<(Pa, Prot)> {
        self.table.lock().as_ref()?.lookup(memory, iova)
    }

    /// All of it, for who outlives the domain. What stays has no table, whoever looks at it still.
    pub fn take(&self) -> Self {
        Self {
            format: self.format,
            table: Mutex::new(self.table.lock().take()),
            retired: Mutex::new(core::mem::take(&mut *self.retired.lock())),
            kept: Mutex::new(core::mem::take(&mut *self.kept.lock())),
            splits: Mutex::new(core::mem::take(&mut *self.splits.lock())),
        }
    }

    /// As [`HwDomain::keep`](portcullis_core::iommu::HwDomain::keep): the buffer goes back when the table does.
    pub fn keep(&self, first: Pa, layout: BlockLayout) {
        self.kept.lock().push((first, layout));
    }

    /// Gives the table back, and the buffers that were kept, once nothing leads to it and hardware has forgotten all of it.
    pub fn destroy(&mut self, memory: &(impl Memory + DmaMemory), proof: Flushed) {
        let _: Flushed = proof;
        if let Some(table) = self.table.get_mut().take() {
            table.destroy(memory);
        }
        self.kept.get_mut().drain(..).for_each(|(first, layout)| memory.free_buffer(first, layout));
    }

    /// What hardware has to be told of where `range` was unmapped, at whose ends these leaves were split.
    fn with_split(&self, range: IovaRange, split: [Option<IovaRange>; 2]) -> IovaRange {
        if !self.format.forgets_whole_leaves() || mutant!("split-leaf-forgotten-in-part") {
            return range;
        }
        let mut splits = self.splits.lock();
        split.into_iter().flatten().for_each(|leaf| splits.add(leaf));
        splits.around(range)
    }

    /// The numbers of the splits that an invalidation covers which begins now.
    fn covered_splits(&self, covers: impl Fn(IovaRange) -> bool) -> Vec<u64> {
        let counts = self.format.forgets_whole_leaves();
        if counts { self.splits.lock().covered(covers) } else { Vec::new() }
    }

    /// It has completed.
    fn forget_splits(&self, numbers: &[u64]) {
        if !numbers.is_empty() {
            self.splits.lock().forget(numbers);
        }
    }

    /// Takes out what was retired from within these ranges.
    fn take_retired(&self, covered: impl Fn(IovaRange) -> bool) -> Vec<(IovaRange, Retired)> {
        let mut retired = self.retired.lock();
        let (taken, kept) =
            core::mem::take(&mut *retired).into_iter().partition(|(range, _)| covered(*range));
        *retired = kept;
        taken
    }

    /// What was retired can be freed, if the hardware has confirmed; else it waits for the next time.
    fn settle(
        &self,
        memory: &impl Memory,
        retired: Vec<(IovaRange, Retired)>,
        outcome: Result<(), SyncError>,
    ) -> Result<Flushed, SyncError> {
        match outcome {
            Ok(()) => {
                retired.into_iter().for_each(|(_, tables)| self.format.free(tables, memory));
                Ok(Flushed::completed())
            }
            Err(error) if mutant!("tables-freed-though-the-sync-failed") => {
                self.settle(memory, retired, Ok(())).and(Err(error))
            }
            Err(error) => {
                self.retired.lock().extend(retired);
                Err(error)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use alloc::boxed::Box;
    use core::sync::atomic::AtomicU64;

    use portcullis_hal::{Arena, Barriers, TableMemory};
    use portcullis_pgtable::arm::{Config, Stage1, Stage2};
    use portcullis_pgtable::vtd::{FirstStage, SecondConfig, SecondStage};
    use portcullis_types::Perms;

    use super::*;

    const PAGE: u64 = 0x1000;
    const MIB_2: u64 = 0x20_0000;
    const RW: Prot = Prot::cached(Perms::READ_WRITE);
    const REFUSED: SyncError = SyncError::Failed { code: 7 };

    struct Memory(Arena<spin::Mutex<()>, Box<[AtomicU64]>>);

    impl TableMemory for Memory {
        fn alloc(&self, layout: BlockLayout) -> Option<Pa> {
            self.0.alloc(layout)
        }

        fn free(&self, first: Pa, layout: BlockLayout) {
            self.0.free(first, layout);
        }

        fn load(&self, at: Pa) -> u64 {
            self.0.load(at)
        }

        fn store(&self, at: Pa, word: u64) {
            self.0.store(at, word);
        }

        fn compare_exchange(&self, at: Pa, current: u64, new: u64) -> Result<u64, u64> {
            self.0.compare_exchange(at, current, new)
        }

        fn clean_table(&self, _: Pa, _: u64) {}
    }

    impl DmaMemory for Memory {
        fn alloc_buffer(&self, layout: BlockLayout) -> Option<Pa> {
            self.0.alloc(layout)
        }

        fn free_buffer(&self, first: Pa, layout: BlockLayout) {
            self.0.free(first, layout);
        }

        fn read(&self, _: Pa, _: &mut [u8]) {}

        fn write(&self, _: Pa, _: &[u8]) {}

        fn read32(&self, _: Pa) -> u32 {
            0
        }

        fn write32(&self, _: Pa, _: u32) {}

        fn clean(&self, _: Pa, _: u64) {}

        fn invalidate(&self, _: Pa, _: u64) {}
    }

    impl Barriers for Memory {
        fn write_barrier(&self) {}

        fn read_barrier(&self) {}

        fn full_barrier(&self) {}
    }

    type Ours = Mappings<spin::Mutex<()>, Stage1, Stage2>;

    fn both(check: impl Fn(&Memory, Ours)) {
        let config = Config::new(SizeLg2::KIB_4);
        for format in
            [TableFormat::One(Stage1::new(config).unwrap()), TableFormat::Two(Stage2::new(config).unwrap())]
        {
            let memory = Memory(Arena::on_heap(Pa::new(0x4000_0000), 20));
            check(&memory, Mappings::new(format, &memory).unwrap());
        }
    }

    fn range(first: u64, len_bytes: u64) -> IovaRange {
        IovaRange::new(Iova::new(first), len_bytes).unwrap()
    }

    fn map(memory: &Memory, mappings: &Ours, iova: u64) {
        mappings.map(memory, Iova::new(iova), Pa::new(iova), PAGE, RW).unwrap();
    }

    /// Unmaps the 2 MiB around a page, and with it the table that the page is in.
    fn unmap(memory: &Memory, mappings: &Ours, iova: u64, gather: &mut Gather) {
        assert_eq!(mappings.unmap(memory, range(iova, MIB_2), gather), Ok(PAGE));
    }

    /// Unmaps where nothing is, which retires what was left empty, and has hardware forget that.
    fn unmap_nothing(memory: &Memory, mappings: &Ours, iova: u64) {
        let mut gather = Gather::new();
        assert_eq!(mappings.unmap(memory, range(iova, MIB_2), &mut gather), Ok(0));
        let _: Flushed = mappings.sync(memory, &mut gather, |_, _| Ok(())).unwrap();
    }

    fn destroy(memory: &Memory, mut mappings: Ours) {
        let flushed = mappings.flush_all(memory, || Ok(())).unwrap();
        mappings.destroy(memory, flushed);
        assert_eq!(memory.0.live_bytes(), 0);
    }

    #[test]
    fn tables_that_an_unmap_emptied_are_freed_by_a_sync_that_hardware_confirmed_and_by_no_other() {
        both(|memory, mappings| {
            map(memory, &mappings, 0);
            let (full, mut gather) = (memory.0.live_bytes(), Gather::new());
            unmap(memory, &mappings, 0, &mut gather);
            assert_eq!(memory.0.live_bytes(), full, "hardware may still read them");
            let held = gather.clone();
            let refused = mappings.sync(memory, &mut gather, |_, _| Err(REFUSED));
            assert_eq!((refused.err(), memory.0.live_bytes()), (Some(REFUSED), full));
            assert_eq!(gather, held, "for another try");
            let flushed = mappings.sync(memory, &mut gather, |gather, leaf| {
                assert_eq!((gather.tables(), leaf), (true, SizeLg2::KIB_4));
                assert_eq!(memory.0.live_bytes(), full, "not before hardware has confirmed");
                Ok(())
            });
            let _: Flushed = flushed.unwrap();
            assert!(gather.is_empty() && memory.0.live_bytes() < full);
            destroy(memory, mappings);
        });
    }

    #[test]
    fn a_sync_frees_what_its_ranges_cover_and_nothing_else() {
        both(|memory, mappings| {
            let (near, far) = (0, 0x40_0000);
            map(memory, &mappings, near);
            map(memory, &mappings, far);
            let full = memory.0.live_bytes();
            let (mut one, mut other) = (Gather::new(), Gather::new());
            unmap(memory, &mappings, near, &mut one);
            unmap(memory, &mappings, far, &mut other);
            let _: Flushed = mappings.sync(memory, &mut one, |_, _| Ok(())).unwrap();
            let left = memory.0.live_bytes();
            assert_eq!(full - left, PAGE);
            // Of leaves only, and around what the table was retired from but not all of it: neither is about it.
            let (mut leaves, mut part) = (Gather::new(), Gather::new());
            leaves.add(range(far, MIB_2), SizeLg2::KIB_4, false);
            part.add(range(far, MIB_2 - PAGE), SizeLg2::KIB_4, true);
            for mut gather in [leaves, part] {
                let _: Flushed = mappings.sync(memory, &mut gather, |_, _| Ok(())).unwrap();
                assert_eq!(memory.0.live_bytes(), left);
            }
            let _: Flushed = mappings.sync(memory, &mut other, |_, _| Ok(())).unwrap();
            assert_eq!(
                left - memory.0.live_bytes(),
                PAGE,
                "its table: those above were not retired beside what waited"
            );
            unmap_nothing(memory, &mappings, far);
            assert_eq!(memory.0.live_bytes(), PAGE, "the root");
            destroy(memory, mappings);
        });
    }

    #[test]
    fn what_is_retired_while_an_invalidation_is_under_way_waits_for_the_next() {
        both(|memory, mappings| {
            map(memory, &mappings, 0);
            let (full, mut gather) = (memory.0.live_bytes(), Gather::new());
            let flushed = mappings.flush_all(memory, || {
                unmap(memory, &mappings, 0, &mut gather);
                Ok(())
            });
            let _: Flushed = flushed.unwrap();
            assert_eq!(memory.0.live_bytes(), full);
            destroy(memory, mappings);
        });
    }

    /// The entry above the pages around `iova`: what hardware remembers of a walk there.
    fn link(memory: &Memory, mappings: &Ours, iova: u64) -> u64 {
        let root = mappings.with_table(|table| match table {
            Table::One(table) => table.root(),
            Table::Two(table) => table.root(),
        });
        let below = |table: u64, shift: u32| memory.0.load(Pa::new(table + 8 * (iova >> shift & 0x1ff)));
        let address = |entry: u64| entry & 0xffff_ffff_f000;
        below(address(below(address(below(root.unwrap().get(), 39)), 30)), 21)
    }

    #[test]
    fn what_is_mapped_lies_where_hardware_looks_that_did_not_confirm_an_earlier_unmap() {
        both(|memory, mappings| {
            let (near, far) = (0, 0x40_0000);
            map(memory, &mappings, near);
            map(memory, &mappings, far);
            let known = link(memory, &mappings, near);
            let (mut one, mut other) = (Gather::new(), Gather::new());
            unmap(memory, &mappings, near, &mut one);
            assert_eq!(mappings.sync(memory, &mut one, |_, _| Err(REFUSED)).err(), Some(REFUSED));
            // Nothing is left, and hardware confirms of the rest that it forgot it.
            unmap(memory, &mappings, far, &mut other);
            let _: Flushed = mappings.sync(memory, &mut other, |_, _| Ok(())).unwrap();
            map(memory, &mappings, near + 8 * PAGE);
            assert_eq!(link(memory, &mappings, near), known);
            let _: Flushed = mappings.sync(memory, &mut one, |_, _| Ok(())).unwrap();
            assert_eq!(link(memory, &mappings, near), known, "in use");
            unmap(memory, &mappings, near, &mut one);
            let _: Flushed = mappings.sync(memory, &mut one, |_, _| Ok(())).unwrap();
            assert_eq!(memory.0.live_bytes(), PAGE, "the root");
            destroy(memory, mappings);
        });
    }

    #[test]
    fn nothing_to_forget_asks_nobody() {
        both(|memory, mappings| {
            let mut gather = Gather::new();
            assert_eq!(mappings.unmap(memory, range(0, PAGE), &mut gather), Ok(0));
            let flushed = mappings.sync(memory, &mut gather, |_, _| Err(REFUSED));
            let _: Flushed = flushed.unwrap();
            destroy(memory, mappings);
        });
    }

    #[test]
    fn hardware_is_not_asked_for_addresses_that_no_table_has() {
        both(|memory, mappings| {
            let last = mappings.format.aperture().last().get();
            let beyond = range(0x0fff_0000_0000_0000, PAGE);
            let mut gather = Gather::new();
            gather.add(beyond, SizeLg2::KIB_4, true);
            let flushed = mappings.sync(memory, &mut gather, |_, _| Err(REFUSED));
            let _: Flushed = flushed.unwrap();
            assert!(gather.is_empty());
            gather.add(beyond, SizeLg2::KIB_4, true);
            gather.add(range(last - (PAGE - 1), 2 * PAGE), SizeLg2::KIB_4, true);
            let refused = mappings.sync(memory, &mut gather, |_, _| Err(REFUSED));
            assert_eq!((refused.err(), gather.ranges().count()), (Some(REFUSED), 2), "for another try");
            let flushed = mappings.sync(memory, &mut gather, |asked, _| {
                assert!(asked.tables());
                assert_eq!(asked.ranges().collect::<Vec<_>>(), [range(last - (PAGE - 1), PAGE)]);
                Ok(())
            });
            let _: Flushed = flushed.unwrap();
            destroy(memory, mappings);
        });
    }

    #[test]
    fn a_buffer_that_is_kept_goes_back_with_the_table_and_not_before() {
        both(|memory, mut mappings| {
            let layout = BlockLayout::naturally_aligned(14);
            let (alone, buffer) = (memory.0.live_bytes(), memory.alloc_buffer(layout).unwrap());
            mappings.keep(buffer, layout);
            let flushed = mappings.flush_all(memory, || Ok(())).unwrap();
            assert_eq!(
                memory.0.live_bytes(),
                alone + layout.size_bytes(),
                "devices may reach it by the table"
            );
            mappings.destroy(memory, flushed);
            assert_eq!(memory.0.live_bytes(), 0);
        });
    }

    #[test]
    fn a_leaf_that_was_split_is_forgotten_whole_until_an_invalidation_of_it_has_completed() {
        let memory = Memory(Arena::on_heap(Pa::new(0x4000_0000), 20));
        let format = SecondStage::new(SecondConfig::new(4)).unwrap();
        let format: TableFormat<FirstStage, SecondStage> = TableFormat::Two(format);
        let mappings: Mappings<spin::Mutex<()>, _, _> = Mappings::new(format, &memory).unwrap();
        mappings.map(&memory, Iova::new(MIB_2), Pa::new(MIB_2), MIB_2, RW).unwrap();
        let unmap = |nth: u64| {
            let mut gather = Gather::new();
            let page = range(MIB_2 + nth * PAGE, PAGE);
            assert_eq!(mappings.unmap(&memory, page, &mut gather), Ok(PAGE));
            let forgets: Vec<_> = gather.ranges().collect();
            (gather, forgets)
        };
        let (whole, part) =
            (Vec::from([range(MIB_2, MIB_2)]), |nth| Vec::from([range(MIB_2 + nth * PAGE, PAGE)]));
        let (mut first, forgets) = unmap(1);
        assert_eq!((forgets, first.tables()), (whole.clone(), true));
        let (mut second, forgets) = unmap(3);
        assert_eq!(forgets, whole, "the first may not be forgotten yet");
        let _: Flushed = mappings.sync(&memory, &mut second, |_, _| Ok(())).unwrap();
        assert_eq!(mappings.sync(&memory, &mut first, |_, _| Err(REFUSED)).err(), Some(REFUSED));
        let during = mappings.sync(&memory, &mut first, |_, _| {
            assert_eq!(unmap(5).1, whole, "nor while that is under way");
            Ok(())
        });
        let _: Flushed = during.unwrap();
        assert_eq!(unmap(7).1, part(7));
        mappings.map(&memory, Iova::new(0), Pa::new(0), MIB_2, RW).unwrap();
        assert_eq!(mappings.unmap(&memory, range(0, PAGE), &mut Gather::new()), Ok(PAGE));
        let _: Flushed = mappings.flush_all(&memory, || Ok(())).unwrap();
        let mut gather = Gather::new();
        assert_eq!(mappings.unmap(&memory, range(PAGE, PAGE), &mut gather), Ok(PAGE));
        assert_eq!(gather.ranges().collect::<Vec<_>>(), [range(PAGE, PAGE)]);
    }

    #[test]
    fn dropped_and_not_destroyed_it_keeps_its_memory() {
        both(|memory, mappings| {
            map(memory, &mappings, 0);
            let full = memory.0.live_bytes();
            unmap(memory, &mappings, 0, &mut Gather::new());
            drop(mappings);
            assert_eq!(memory.0.live_bytes(), full);
        });
    }
}
