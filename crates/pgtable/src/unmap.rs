//! Unmapping: cut, then clear.
//!
//! The cut (`cut`) splits blocks and runs that lie across an end of the range, or finds that it cannot. Then clearing cannot fail: it
//! zeroes entries, counts what was there, and retires the tables that are left empty. A table that lies wholly in the
//! range is counted by the ledger and zeroed in one run; its words are not read.

use portcullis_hal::TableMemory;
use portcullis_types::{Iova, IovaRange, SizeLg2, mutant};

use crate::ledger::{NONE, ROOT, Slot, State};
use crate::shape::{Shape, Span};
use crate::table::PageTable;
use crate::{Format, Item, Marks, Memory, Retired, UnmapError};

/// What an unmap took out, and what hardware may still remember of it.
#[derive(Debug, Default)]
#[must_use = "hardware remembers what was unmapped until it is told, and the tables must be freed"]
pub struct Unmapped {
    /// How many bytes were mapped.
    pub bytes: u64,
    /// The smallest leaf that was taken out; none if there was none. Larger ones may have been among them: a hint of the level with the invalidation would leave
    /// those to hardware.
    pub leaf: Option<SizeLg2>,
    /// Whether hardware may remember more than leaves: tables that went, or a block that was split. Then the invalidation may not be one of the last level alone.
    pub tables: bool,
    /// The blocks that were split, at the first end of the range and at the last: hardware may remember all of each.
    pub split: [Option<IovaRange>; 2],
    /// Tables to be freed after the invalidation.
    pub retired: Retired,
}

impl Unmapped {
    fn add(&mut self, bytes: u64, leaf: SizeLg2) {
        self.bytes += bytes;
        self.leaf = Some(self.leaf.map_or(leaf, |smallest| smallest.min(leaf)));
    }
}

/// Who is told of each leaf that is taken out.
type Tell<'a> = &'a mut dyn FnMut(IovaRange, Marks);

/// An unmap under way.
struct Taking<'a> {
    /// All of what is being unmapped.
    span: Span,
    out: Unmapped,
    tell: Option<Tell<'a>>,
}

impl Taking<'_> {
    fn tell(&mut self, first: u64, size: SizeLg2, marks: Marks) {
        if let (Some(tell), Some(range)) = (&mut self.tell, IovaRange::new(Iova::new(first), size.bytes())) {
            tell(range, marks);
        }
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
        self.take(mem, range, None)
    }

    /// The same, and tells of every leaf that was taken out what its marks were at that moment: what hardware marks while this
    /// runs is not lost. What it marks afterwards, through what it remembers of a leaf, cannot be: nothing is stored in an entry that is absent.
    ///
    /// # Errors
    ///
    /// As [`unmap`](Self::unmap).
    pub fn unmap_marked(
        &mut self,
        mem: &impl Memory,
        range: IovaRange,
        mut tell: impl FnMut(IovaRange, Marks),
    ) -> Result<Unmapped, UnmapError> {
        self.take(mem, range, Some(&mut tell))
    }

    fn take(
        &mut self,
        mem: &impl Memory,
        range: IovaRange,
        tell: Option<Tell<'_>>,
    ) -> Result<Unmapped, UnmapError> {
        let span = Span { first: range.first().get(), last: range.last().get() };
        let granule = self.format.geometry().granule();
        if !range.is_aligned(granule.bytes()) {
            return Err(UnmapError::Misaligned { granule });
        }
        if span.last > self.shape.input_last {
            let beyond = Iova::new(self.shape.input_last + 1);
            return Err(UnmapError::OutsideAperture(range.first().max(beyond)));
        }
        let mut gone = Taking { span, out: Unmapped::default(), tell };
        let in_one_table = match self.bottom(mem, span) {
            Ok(Some(slot)) => self.clear_some(mem, slot, span, &mut gone),
            _ => false,
        };
        if !in_one_table {
            gone.out.split = self.cut(mem, span)?;
            gone.out.tables = gone.out.split.iter().any(Option::is_some);
            self.clear(mem, ROOT, self.shape.top, span, &mut gone);
        }
        mem.write_barrier();
        Ok(gone.out)
    }

    /// Zeroes what is in `span`, in which no leaf lies partly. Answers how many tables right below were cut off.
    fn clear(
        &mut self,
        mem: &impl TableMemory,
        slot: Slot,
        height: usize,
        span: Span,
        gone: &mut Taking<'_>,
    ) -> u32 {
        if height == 0 {
            self.clear_leaves(mem, slot, span, gone);
            return 0;
        }
        let info = self.shape.heights[height];
        let mut first = span.first;
        let mut cut_off = 0;
        loop {
            let part = info.clip(span, first);
            let index = info.index(first);
            let child = self.ledger.child(slot, index);
            if child == NONE {
                self.clear_block(mem, slot, height, index, first, gone);
            } else if self.ledger.get(child).state == State::Linked {
                let below = self.clear(mem, child, height - 1, part, gone);
                cut_off += u32::from(self.retire_if_empty(mem, slot, index, child, below, gone));
            }
            if part.last == span.last {
                return cut_off;
            }
            first = part.last + 1;
        }
    }

    /// Cuts off a table that has become empty, `below` of whose children were just cut off. Answers whether it did. If there is no memory to remember it for
    /// its freeing, or one of its children waits for an earlier unmap's invalidation, it stays where it is until a later unmap.
    fn retire_if_empty(
        &mut self,
        mem: &impl TableMemory,
        slot: Slot,
        index: usize,
        child: Slot,
        below: u32,
        gone: &mut Taking<'_>,
    ) -> bool {
        if self.ledger.get(child).live > 0
            || self.ledger.holds_others(child, gone.span, below)
            || !gone.out.retired.try_reserve()
        {
            return false;
        }
        self.store(mem, self.ledger.entry_at(slot, index), 0);
        self.ledger.clear(slot, index..index + 1);
        gone.out.retired.push(self.ledger.retire(child, gone.span));
        gone.out.tables = !mutant!("cut-off-tables-not-told");
        self.recent = (0, NONE);
        true
    }

    /// Zeroes an entry above height 0 that has no table.
    fn clear_block(
        &mut self,
        mem: &impl TableMemory,
        slot: Slot,
        height: usize,
        index: usize,
        first: u64,
        gone: &mut Taking<'_>,
    ) {
        let at = self.ledger.entry_at(slot, index);
        self.ledger.clear(slot, index..index + 1);
        let word = if gone.tell.is_some() { self.exchange(mem, at, |_| 0) } else { mem.load(at) };
        if word == 0 {
            return;
        }
        if gone.tell.is_none() {
            self.store(mem, at, 0);
        }
        if let Item::Leaf { .. } = self.format.decode(word, Shape::format_height(height)) {
            let size = self.format.geometry().size(Shape::format_height(height));
            gone.out.add(size.bytes(), size);
            gone.tell(first, size, self.format.marks(word));
        }
    }

    /// Zeroes the entries of a table at height 0.
    fn clear_leaves(&mut self, mem: &impl TableMemory, slot: Slot, span: Span, gone: &mut Taking<'_>) {
        let info = self.shape.heights[0];
        let (index, end) = (info.index(span.first), info.index(span.last) + 1);
        let live = self.ledger.clear(slot, index..end);
        let (leaves, words) =
            if end - index == info.entries() { (live, live) } else { self.count(mem, slot, index, end) };
        self.zero(mem, slot, span, leaves, words, gone);
    }

    /// Takes out what lies in one table at height 0, if that neither cuts a run nor empties the table. Answers whether it did; if not,
    /// nothing is changed.
    fn clear_some(&mut self, mem: &impl TableMemory, slot: Slot, span: Span, gone: &mut Taking<'_>) -> bool {
        let info = self.shape.heights[0];
        let (index, end) = (info.index(span.first), info.index(span.last) + 1);
        let run = 1usize << info.run_lg2;
        let hinted = |nth: usize| mem.load(self.ledger.entry_at(slot, nth)) & self.shape.run_bit != 0;
        let cuts = |nth: usize| nth & (run - 1) != 0 && nth < info.entries() && hinted(nth);
        if cuts(index) || cuts(end) && !mutant!("hint-kept-beside-a-hole") {
            return false;
        }
        if self.ledger.has_nothing_but(slot, index..end) && slot != ROOT {
            return false;
        }
        self.ledger.clear(slot, index..end);
        let (leaves, words) = self.count(mem, slot, index, end);
        self.zero(mem, slot, span, leaves, words, gone);
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
        &self,
        mem: &impl TableMemory,
        slot: Slot,
        span: Span,
        leaves: u32,
        words: u32,
        gone: &mut Taking<'_>,
    ) {
        if words == 0 {
            return;
        }
        let info = self.shape.heights[0];
        let (index, end) = (info.index(span.first), info.index(span.last) + 1);
        if gone.tell.is_some() {
            self.zero_one_by_one(mem, slot, index..end, span.first, gone);
        } else {
            let count = (end - index).saturating_sub(usize::from(mutant!("unmap-leaves-the-last-page")));
            self.store_run(mem, self.ledger.entry_at(slot, index), 0, 0, count);
        }
        if leaves > 0 {
            let granule = self.format.geometry().granule();
            gone.out.add(u64::from(leaves) << granule.get(), granule);
        }
    }

    /// Zeroes entries each in one step, and tells what the leaves among them said.
    fn zero_one_by_one(
        &self,
        mem: &impl TableMemory,
        slot: Slot,
        entries: core::ops::Range<usize>,
        first: u64,
        gone: &mut Taking<'_>,
    ) {
        let granule = self.format.geometry().granule();
        for (nth, index) in (0u64..).zip(entries) {
            let word = self.exchange(mem, self.ledger.entry_at(slot, index), |_| 0);
            if let Item::Leaf { .. } = self.format.decode(word, 0) {
                gone.tell(first + nth * granule.bytes(), granule, self.format.marks(word));
            }
        }
    }
}
