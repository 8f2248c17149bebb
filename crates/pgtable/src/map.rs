//! Mapping: plan, stock, build.
//!
//! The plan looks at every entry in the way and counts the tables that are missing. If nothing is in the way and the tables can be
//! had, building cannot fail. So a map that fails has stored nothing, and hardware cannot have cached any of it.
//!
//! Building fills new tables while nothing points to them. The entries of tables that hardware can reach
//! are made to point to them after a write barrier, one barrier for all in one table.

use portcullis_hal::TableMemory;
use portcullis_types::{Iova, Pa, Prot, mutant};

use crate::ledger::{NONE, Need, ROOT, Slot, State};
use crate::shape::{Shape, Span};
use crate::table::PageTable;
use crate::{Format, Item, MapError, Marks, Memory};

/// Where a range goes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Output {
    /// Output address less input address, wrapping.
    delta: u64,
    /// The bits that all leaves share.
    attributes: u64,
}

impl<F: Format> PageTable<F> {
    /// Maps `len_bytes` bytes from `iova` to `pa`, all three multiples of the granule, with the largest leaves that fit. Visible to
    /// hardware on return.
    ///
    /// # Errors
    ///
    /// As [`MapError`] says; then the table is as it was.
    pub fn map(
        &mut self,
        mem: &impl Memory,
        iova: Iova,
        pa: Pa,
        len_bytes: u64,
        prot: Prot,
    ) -> Result<(), MapError> {
        self.map_marked(mem, iova, pa, len_bytes, prot, Marks::USED)
    }

    /// The same with leaves that have these marks, where the format keeps marks.
    ///
    /// # Errors
    ///
    /// As [`map`](Self::map).
    pub fn map_marked(
        &mut self,
        mem: &impl Memory,
        iova: Iova,
        pa: Pa,
        len_bytes: u64,
        prot: Prot,
        marks: Marks,
    ) -> Result<(), MapError> {
        let span = self.check_map(iova, pa, len_bytes)?;
        let attributes = self.format.attributes(prot).ok_or(MapError::Unsupported(prot))?;
        let attributes = self.format.with_marks(attributes, marks);
        let output = Output { delta: pa.get().wrapping_sub(iova.get()), attributes };
        if let Some(slot) = self.bottom(mem, span)? {
            self.expect_absent(mem, slot, span)?;
            self.build(mem, slot, 0, span, output, true);
            mem.write_barrier();
            return Ok(());
        }
        let mut need = Need::default();
        self.plan(mem, ROOT, self.shape.top, span, output.delta, &mut need)?;
        if need != Need::default() && !self.ledger.stock(mem, need) {
            return Err(MapError::NoTableMemory);
        }
        self.build(mem, ROOT, self.shape.top, span, output, true);
        mem.write_barrier();
        // What was stocked for a place to which a table came back from limbo.
        self.ledger.drop_spares(mem);
        Ok(())
    }

    fn check_map(&self, iova: Iova, pa: Pa, len_bytes: u64) -> Result<Span, MapError> {
        let mask = self.shape.heights[0].size() - 1;
        if let Some(value) = [iova.get(), pa.get(), len_bytes].into_iter().find(|value| value & mask != 0) {
            return Err(MapError::Misaligned { value, granule: self.format.geometry().granule() });
        }
        let beyond = len_bytes.checked_sub(1).ok_or(MapError::BadLength)?;
        let last = iova.get().checked_add(beyond).ok_or(MapError::BadLength)?;
        let pa_last = pa.get().checked_add(beyond).ok_or(MapError::BadLength)?;
        if last > self.shape.input_last {
            return Err(MapError::OutsideAperture(iova.max(Iova::new(self.shape.input_last + 1))));
        }
        if pa_last > self.shape.output_last {
            return Err(MapError::OutputTooLarge(pa.max(Pa::new(self.shape.output_last + 1))));
        }
        Ok(Span { first: iova.get(), last })
    }

    /// Whether `span`, within one entry at `height`, is mapped by one leaf.
    fn fits_leaf(&self, height: usize, span: Span, delta: u64) -> bool {
        let info = &self.shape.heights[height];
        info.leaf && delta & (info.size() - 1) == 0 && info.covers_entry(span)
    }

    /// Sees that nothing is mapped in `span`, and counts the tables that are missing for it.
    fn plan(
        &self,
        mem: &impl TableMemory,
        slot: Slot,
        height: usize,
        span: Span,
        delta: u64,
        need: &mut Need,
    ) -> Result<(), MapError> {
        if height == 0 {
            return self.expect_absent(mem, slot, span);
        }
        let info = self.shape.heights[height];
        let mut first = span.first;
        loop {
            let part = info.clip(span, first);
            let index = info.index(first);
            let child = self.ledger.child(slot, index);
            if child != NONE {
                self.check_link(mem, slot, index, child)?;
                match self.ledger.get(child).state {
                    State::Linked => self.plan(mem, child, height - 1, part, delta, need)?,
                    // All zero. By the time of building it may be freed.
                    _ => self.plan_fresh(height, part, delta, need),
                }
            } else if self.leaf_entry(mem, slot, height, index)? == Item::Absent {
                self.plan_fresh(height, part, delta, need);
            } else {
                return Err(MapError::Mapped(Iova::new(first)));
            }
            if part.last == span.last {
                return Ok(());
            }
            first = part.last + 1;
        }
    }

    /// Counts the tables that an absent entry at `height` needs below it.
    fn plan_fresh(&self, height: usize, span: Span, delta: u64, need: &mut Need) {
        if self.fits_leaf(height, span, delta) {
            return;
        }
        need.add(height - 1);
        if height == 1 {
            return;
        }
        let info = self.shape.heights[height - 1];
        let mut first = span.first;
        loop {
            let part = info.clip(span, first);
            self.plan_fresh(height - 1, part, delta, need);
            if part.last == span.last {
                return;
            }
            first = part.last + 1;
        }
    }

    /// Sees that nothing is mapped in `span` by the table at height 0.
    fn expect_absent(&self, mem: &impl TableMemory, slot: Slot, span: Span) -> Result<(), MapError> {
        if self.ledger.get(slot).live == 0 || mutant!("map-over-a-mapping") {
            return Ok(());
        }
        let info = &self.shape.heights[0];
        for (nth, index) in (info.index(span.first)..=info.index(span.last)).enumerate() {
            if self.leaf_entry(mem, slot, 0, index)? != Item::Absent {
                return Err(MapError::Mapped(Iova::new(span.first + nth as u64 * info.size())));
            }
        }
        Ok(())
    }

    /// Maps `span`, of which the plan has seen that it can be. `visible` says whether hardware may be reading this table.
    fn build(
        &mut self,
        mem: &impl Memory,
        slot: Slot,
        height: usize,
        span: Span,
        output: Output,
        visible: bool,
    ) {
        let info = self.shape.heights[height];
        if height == 0 {
            let (index, end) = (info.index(span.first), info.index(span.last));
            let pa = Pa::new(span.first.wrapping_add(output.delta));
            return self.store_leaves(mem, slot, 0, index, end - index + 1, pa, output.attributes);
        }
        let mut links_wait = false;
        let mut first = span.first;
        loop {
            let mut part = info.clip(span, first);
            let index = info.index(first);
            let (child, back) = self.ledger.revive(slot, index);
            if child == NONE && self.fits_leaf(height, part, output.delta) {
                let count = self.count_leaves(slot, height, span, first);
                let pa = Pa::new(first.wrapping_add(output.delta));
                self.store_leaves(mem, slot, height, index, count, pa, output.attributes);
                part.last = first + ((count as u64) << info.shift) - 1;
            } else {
                links_wait |= back | self.build_below(mem, slot, height, index, child, part, output, visible);
                if back {
                    self.ledger.fill(slot, index, 1);
                }
            }
            if part.last == span.last {
                break;
            }
            first = part.last + 1;
        }
        if links_wait {
            if !mutant!("link-before-its-table-is-filled") {
                mem.write_barrier();
            }
            self.store_links(mem, slot, info.index(span.first), info.index(span.last));
        }
    }

    /// Maps `part` through the table `child` that hangs in entry `index`, or through a new one. Answers whether the entry
    /// must yet be made to point to it.
    fn build_below(
        &mut self,
        mem: &impl Memory,
        slot: Slot,
        height: usize,
        index: usize,
        child: Slot,
        part: Span,
        output: Output,
        visible: bool,
    ) -> bool {
        if child != NONE {
            // Also when it comes from limbo: hardware may have it cached.
            self.build(mem, child, height - 1, part, output, true);
            return false;
        }
        let child = self.ledger.attach_spare(slot, index, height - 1);
        // All of it: the zeroes beside what is stored now may be in the CPU's caches alone.
        self.clean(mem, self.ledger.get(child).at, self.shape.heights[height - 1].entries());
        self.build(mem, child, height - 1, part, output, false);
        self.ledger.fill(slot, index, 1);
        if !visible {
            self.store(mem, self.ledger.entry_at(slot, index), self.format.table(self.ledger.get(child).at));
        }
        visible
    }

    /// How many entries from that of `first` on are wholly in `span` and have no table. That of `first` is.
    fn count_leaves(&self, slot: Slot, height: usize, span: Span, first: u64) -> usize {
        let info = self.shape.heights[height];
        let start = info.index(first);
        let whole = usize::try_from((span.last - first + 1) >> info.shift).unwrap_or(usize::MAX);
        let free = (1..whole).find(|&nth| self.ledger.child(slot, start + nth) != NONE);
        free.unwrap_or(whole)
    }

    /// Makes the entries from `index` to `end` that have a table but do not point to it point to it.
    fn store_links(&self, mem: &impl TableMemory, slot: Slot, index: usize, end: usize) {
        for index in index..=end {
            let child = self.ledger.child(slot, index);
            if child == NONE || self.ledger.get(child).state != State::Linked {
                continue;
            }
            let at = self.ledger.entry_at(slot, index);
            if mem.load(at) == 0 {
                self.store(mem, at, self.format.table(self.ledger.get(child).at));
            }
        }
    }

    /// Stores `count` leaves from entry `index` on, with the hint on those whose whole run is among them.
    pub(crate) fn store_leaves(
        &mut self,
        mem: &impl TableMemory,
        slot: Slot,
        height: usize,
        index: usize,
        count: usize,
        pa: Pa,
        attributes: u64,
    ) {
        let info = self.shape.heights[height];
        self.ledger.fill(slot, index, count);
        let run = 1usize << info.run_lg2;
        let in_run = |number: u64| number & (run as u64 - 1);
        let head = index.wrapping_neg() & (run - 1);
        let aligned = in_run(pa.get() >> info.shift) == in_run(index as u64);
        if run == 1 || head + run > count || !aligned {
            return self.store_plain(mem, slot, height, index, count, pa, attributes);
        }
        let middle = (count - head) & !(run - 1);
        let pa_at = |nth: usize| Pa::new(pa.get() + ((nth as u64) << info.shift));
        let tail = head + middle;
        self.store_plain(mem, slot, height, index, head, pa, attributes);
        self.store_plain(
            mem,
            slot,
            height,
            index + head,
            middle,
            pa_at(head),
            attributes | self.shape.run_bit,
        );
        self.store_plain(mem, slot, height, index + tail, count - tail, pa_at(tail), attributes);
    }

    /// Stores `count` leaves from entry `index` on, in as few runs as the format's words can be counted up.
    fn store_plain(
        &self,
        mem: &impl TableMemory,
        slot: Slot,
        height: usize,
        mut index: usize,
        mut count: usize,
        mut pa: Pa,
        attributes: u64,
    ) {
        let shift = self.shape.heights[height].shift;
        while count > 0 {
            let left = self.shape.counting_mask - (pa.get() & self.shape.counting_mask);
            let counted = usize::try_from((left >> shift).saturating_add(1)).unwrap_or(usize::MAX).min(count);
            let word = self.format.leaf(Shape::format_height(height), pa, attributes);
            self.store_run(mem, self.ledger.entry_at(slot, index), word, 1 << shift, counted);
            (index, count) = (index + counted, count - counted);
            pa = Pa::new(pa.get() + ((counted as u64) << shift));
        }
    }
}
