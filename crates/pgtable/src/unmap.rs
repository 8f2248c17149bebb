//! Unmapping: cut, then clear.
//!
//! The cut (`cut`) splits blocks and runs that lie across an end of the range, or finds that it cannot. Then clearing cannot fail: it
//! zeroes entries, counts what was there, and retires the tables that are left empty. A table that lies wholly in the
//! range is counted by the ledger and zeroed in one run; its words are not read.

use portcullis_hal::TableMemory;
use portcullis_types::{Iova, IovaRange, SizeLg2};

use crate::ledger::{NONE, ROOT, Slot, State};
use crate::shape::{Shape, Span};
use crate::table::PageTable;
use crate::{Format, Item, Memory, Retired, UnmapError};

/// What an unmap took out, and what hardware may still remember of it.
#[derive(Debug, Default)]
#[must_use = "hardware remembers what was unmapped until it is told, and the tables must be freed"]
pub struct Unmapped {
    /// How many bytes were mapped.
    pub bytes: u64,
    /// The smallest leaf that was taken out; none if there was none.
    pub leaf: Option<SizeLg2>,
    /// Whether hardware may remember more than leaves of that size: tables that went, or a block that was split. Then no hint of the level may
    /// be given with the invalidation.
    pub tables: bool,
    /// Tables to be freed after the invalidation.
    pub retired: Retired,
}

impl Unmapped {
    fn add(&mut self, bytes: u64, leaf: SizeLg2) {
        self.bytes += bytes;
        self.leaf = Some(self.leaf.map_or(leaf, |smallest| smallest.min(leaf)));
    }
}

impl<F: Format> PageTable<F> {
    /// Takes every mapping out of `range`. Holes are no error. What is mapped around the range stays mapped at every moment.
    ///
    /// Choice: a word that the format never writes is taken out as well, and counted as no bytes: absent is the safe thing for it to be.
    ///
    /// # Errors
    ///
    /// As [`UnmapError`] says; then everything in the range is still mapped.
    pub fn unmap(&mut self, mem: &impl Memory, range: IovaRange) -> Result<Unmapped, UnmapError> {
        let span = Span { first: range.first().get(), last: range.last().get() };
        let granule = self.format.geometry().granule();
        if !range.is_aligned(granule.bytes()) {
            return Err(UnmapError::Misaligned { granule });
        }
        if span.last > self.shape.input_last {
            let beyond = Iova::new(self.shape.input_last + 1);
            return Err(UnmapError::OutsideAperture(range.first().max(beyond)));
        }
        let mut gone = Unmapped::default();
        let in_one_table = match self.bottom(mem, span) {
            Ok(Some(slot)) => self.clear_some(mem, slot, span, &mut gone),
            _ => false,
        };
        if !in_one_table {
            gone.tables = self.cut(mem, span)?;
            self.clear(mem, ROOT, self.shape.top, span, &mut gone);
        }
        mem.write_barrier();
        Ok(gone)
    }

    /// Zeroes what is in `span`, in which no leaf lies partly.
    fn clear(&mut self, mem: &impl TableMemory, slot: Slot, height: usize, span: Span, gone: &mut Unmapped) {
        if height == 0 {
            return self.clear_leaves(mem, slot, span, gone);
        }
        let info = self.shape.heights[height];
        let mut first = span.first;
        loop {
            let part = info.clip(span, first);
            let index = info.index(first);
            let child = self.ledger.child(slot, index);
            if child == NONE {
                self.clear_block(mem, slot, height, index, gone);
            } else if self.ledger.get(child).state == State::Linked {
                self.clear(mem, child, height - 1, part, gone);
                self.retire_if_empty(mem, slot, index, child, gone);
            }
            if part.last == span.last {
                return;
            }
            first = part.last + 1;
        }
    }

    /// Cuts off a table that has become empty. If there is no memory to remember it for its freeing, it stays where it is.
    fn retire_if_empty(
        &mut self,
        mem: &impl TableMemory,
        slot: Slot,
        index: usize,
        child: Slot,
        gone: &mut Unmapped,
    ) {
        if self.ledger.get(child).live > 0 || !gone.retired.try_reserve() {
            return;
        }
        self.store(mem, self.ledger.entry_at(slot, index), 0);
        let table = self.ledger.get_mut(slot);
        table.live = table.live.saturating_sub(1);
        gone.retired.push(self.ledger.retire(child));
        gone.tables = true;
        self.recent = (0, NONE);
    }

    /// Zeroes an entry above height 0 that has no table.
    fn clear_block(
        &mut self,
        mem: &impl TableMemory,
        slot: Slot,
        height: usize,
        index: usize,
        gone: &mut Unmapped,
    ) {
        let at = self.ledger.entry_at(slot, index);
        let word = mem.load(at);
        if word == 0 {
            return;
        }
        self.store(mem, at, 0);
        let table = self.ledger.get_mut(slot);
        table.live = table.live.saturating_sub(1);
        if let Item::Leaf { .. } = self.format.decode(word, Shape::format_height(height)) {
            let size = self.format.geometry().size(Shape::format_height(height));
            gone.add(size.bytes(), size);
        }
    }

    /// Zeroes the entries of a table at height 0.
    fn clear_leaves(&mut self, mem: &impl TableMemory, slot: Slot, span: Span, gone: &mut Unmapped) {
        let info = self.shape.heights[0];
        let (index, end) = (info.index(span.first), info.index(span.last) + 1);
        let count = end - index;
        let live = self.ledger.get(slot).live;
        let (leaves, words) =
            if count == info.entries() { (live, live) } else { self.count(mem, slot, index, end) };
        self.zero(mem, slot, index, end, leaves, words, gone);
    }

    /// Takes out what lies in one table at height 0, if that neither cuts a run nor empties the table. Answers whether it did; if not,
    /// nothing is changed.
    fn clear_some(&mut self, mem: &impl TableMemory, slot: Slot, span: Span, gone: &mut Unmapped) -> bool {
        let info = self.shape.heights[0];
        let (index, end) = (info.index(span.first), info.index(span.last) + 1);
        let run = 1usize << info.run_lg2;
        let hinted = |nth: usize| mem.load(self.ledger.entry_at(slot, nth)) & self.shape.run_bit != 0;
        let cuts = |nth: usize| nth & (run - 1) != 0 && nth < info.entries() && hinted(nth);
        if cuts(index) || cuts(end) {
            return false;
        }
        let (leaves, words) = self.count(mem, slot, index, end);
        if self.ledger.get(slot).live <= words && slot != ROOT {
            return false;
        }
        self.zero(mem, slot, index, end, leaves, words, gone);
        true
    }

    /// How many of these entries of a table at height 0 are leaves, and how many are not zero.
    fn count(&self, mem: &impl TableMemory, slot: Slot, index: usize, end: usize) -> (u32, u32) {
        (index..end).fold((0, 0), |(leaves, words), nth| {
            let word = mem.load(self.ledger.entry_at(slot, nth));
            let leaf = matches!(self.format.decode(word, 0), Item::Leaf { .. });
            (leaves + u32::from(leaf), words + u32::from(word != 0))
        })
    }

    /// Zeroes entries of a table at height 0, of which so many are leaves and so many not zero.
    fn zero(
        &mut self,
        mem: &impl TableMemory,
        slot: Slot,
        index: usize,
        end: usize,
        leaves: u32,
        words: u32,
        gone: &mut Unmapped,
    ) {
        if words == 0 {
            return;
        }
        self.store_run(mem, self.ledger.entry_at(slot, index), 0, 0, end - index);
        let table = self.ledger.get_mut(slot);
        table.live = table.live.saturating_sub(words);
        if leaves > 0 {
            let granule = self.format.geometry().granule();
            gone.add(u64::from(leaves) << granule.get(), granule);
        }
    }
}
