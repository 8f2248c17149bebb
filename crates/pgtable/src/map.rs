//! Mapping: check and build where nobody looks, then show.

use alloc::vec::Vec;

use portcullis_types::{Iova, IovaRange, Pa, Prot};

use crate::geometry::entry;
use crate::retired::free_tree;
use crate::{BreakBeforeMake, Format, Item, MapError, Memory, PageTable};

impl<F: Format> PageTable<F> {
    /// Maps `len_bytes` bytes from `iova` to `pa`, with the largest leaves that fit. Hardware sees all of it on return, and no part before everything
    /// that can fail has succeeded.
    ///
    /// # Errors
    ///
    /// As [`MapError`] says; then the table is as it was.
    pub fn map(
        &mut self,
        memory: &impl Memory,
        iova: Iova,
        pa: Pa,
        len_bytes: u64,
        prot: Prot,
    ) -> Result<(), MapError> {
        let range = self.check(iova, pa, len_bytes)?;
        let attributes = self.format.attributes(prot).ok_or(MapError::Unsupported(prot))?;
        let leaves = Leaves::new(&self.format, memory, attributes, pa.get().wrapping_sub(iova.get()));
        let top = self.format.geometry().top();
        let mut hidden = Vec::new();
        if let Err(error) = leaves.prepare(self.root, top, range, &mut hidden) {
            hidden.into_iter().for_each(|(table, height)| free_tree(&self.format, memory, table, height));
            return Err(error);
        }
        if !hidden.is_empty() {
            memory.write_barrier();
        }
        leaves.commit(self.root, top, range, &mut hidden.into_iter());
        memory.write_barrier();
        Ok(())
    }

    fn check(&self, iova: Iova, pa: Pa, len_bytes: u64) -> Result<IovaRange, MapError> {
        let granule = self.format.geometry().granule();
        let misaligned = |&value: &u64| value & (granule.bytes() - 1) != 0;
        if let Some(value) = [iova.get(), pa.get(), len_bytes].into_iter().find(misaligned) {
            return Err(MapError::Misaligned { value, granule });
        }
        let range = IovaRange::new(iova, len_bytes).ok_or(MapError::BadLength)?;
        let aperture = self.format.geometry().aperture();
        if !aperture.covers(range) {
            let beyond = if aperture.contains(iova) { aperture.last().get() + 1 } else { iova.get() };
            return Err(MapError::OutsideAperture(Iova::new(beyond)));
        }
        let last = pa.checked_add(len_bytes - 1).ok_or(MapError::OutputTooLarge(pa))?;
        if last.get() > u64::MAX >> (64 - self.format.output_bits()) {
            return Err(MapError::OutputTooLarge(last));
        }
        Ok(range)
    }
}

/// A table that is complete but not yet reachable, and its height.
type Hidden = (Pa, u8);

/// Leaves of one mapping: one set of attributes, one distance from input to output.
pub(crate) struct Leaves<'a, F, M> {
    format: &'a F,
    memory: &'a M,
    attributes: u64,
    /// Output less input, wrapping.
    delta: u64,
    hints: bool,
}

impl<'a, F: Format, M: Memory> Leaves<'a, F, M> {
    pub(crate) fn new(format: &'a F, memory: &'a M, attributes: u64, delta: u64) -> Self {
        let hints = format.break_before_make() > BreakBeforeMake::Always;
        Self { format, memory, attributes, delta, hints }
    }

    /// Finds out whether the range is free, and builds the tables it needs. Nothing of it can be seen yet.
    fn prepare(
        &self,
        table: Pa,
        height: u8,
        range: IovaRange,
        hidden: &mut Vec<Hidden>,
    ) -> Result<(), MapError> {
        for part in parts(self.format, height, range) {
            let at = entry(table, self.format.geometry().index(height, part.first()));
            let word = self.memory.load(at);
            match self.format.decode(word, height) {
                Item::Absent if self.fits(height, part) => {}
                Item::Absent => {
                    hidden.try_reserve(1).map_err(|_| MapError::NoTableMemory)?;
                    hidden.push((self.build(height - 1, &[part])?, height - 1));
                }
                Item::Table(child) if height > 0 => self.prepare(child, height - 1, part, hidden)?,
                Item::Leaf { .. } => return Err(MapError::Mapped(part.first())),
                Item::Table(_) | Item::Corrupt => return Err(MapError::CorruptTable { at, word }),
            }
        }
        Ok(())
    }

    /// Stores what [`prepare`](Self::prepare) found room for, walking the same way.
    fn commit(&self, table: Pa, height: u8, range: IovaRange, hidden: &mut impl Iterator<Item = Hidden>) {
        if height == 0 {
            return self.store_leaves(table, 0, range);
        }
        for part in parts(self.format, height, range) {
            let at = entry(table, self.format.geometry().index(height, part.first()));
            match self.format.decode(self.memory.load(at), height) {
                Item::Table(child) => self.commit(child, height - 1, part, hidden),
                _ if self.fits(height, part) => self.store_leaves(table, height, part),
                _ => {
                    let (child, _) = hidden.next().expect("one was built for each entry that needs one");
                    self.store_entry(at, self.format.table(child));
                }
            }
        }
    }

    /// A table that nobody can see yet, with leaves for `ranges`, which are disjoint and lie under one entry.
    pub(crate) fn build(&self, height: u8, ranges: &[IovaRange]) -> Result<Pa, MapError> {
        let layout = self.format.geometry().layout(height);
        let table = self.memory.alloc(layout).ok_or(MapError::NoTableMemory)?;
        for &range in ranges {
            if let Err(error) = self.fill(table, height, range) {
                free_tree(self.format, self.memory, table, height);
                return Err(error);
            }
        }
        if !self.format.coherent() {
            self.memory.clean_table(table, layout.size_bytes());
        }
        Ok(table)
    }

    fn fill(&self, table: Pa, height: u8, range: IovaRange) -> Result<(), MapError> {
        if height == 0 {
            self.store_leaves(table, 0, range);
            return Ok(());
        }
        // Whole entries in the middle that can be leaves are one run; what is left of the ends needs tables.
        for part in parts(self.format, height, range) {
            if self.fits(height, part) {
                self.store_leaves(table, height, part);
            } else {
                let at = entry(table, self.format.geometry().index(height, part.first()));
                self.memory.store(at, self.format.table(self.build(height - 1, &[part])?));
            }
        }
        Ok(())
    }

    /// Whether `part`, which lies under one entry, can be a leaf there.
    fn fits(&self, height: u8, part: IovaRange) -> bool {
        let size = self.format.geometry().size(height).bytes();
        part.is_aligned(size) && self.delta & (size - 1) == 0 && self.format.has_leaf(height)
    }

    /// Stores leaves for `range`, whole entries of one table, as contiguous runs where it holds some.
    fn store_leaves(&self, table: Pa, height: u8, range: IovaRange) {
        let run = self.format.contiguous_size(height).bytes();
        let size = self.format.geometry().size(height).bytes();
        if !self.hints || run == size || self.delta & (run - 1) != 0 {
            return self.store_run(table, height, range, self.attributes);
        }
        // `below` ends where the first whole run begins; `above` begins where the last one ends.
        let first_run = range.first().get().checked_add(run - 1).map(|up| up & !(run - 1));
        let after_runs = range.last().get().wrapping_add(1) & !(run - 1);
        let whole = first_run.filter(|&first| {
            first.wrapping_add(run - 1) <= range.last().get() && first.checked_add(run - 1).is_some()
        });
        let Some(first_run) = whole else { return self.store_run(table, height, range, self.attributes) };
        let piece = |first: u64, last: u64| IovaRange::from_ends(Iova::new(first), Iova::new(last));
        let below = first_run.checked_sub(1).and_then(|last| piece(range.first().get(), last));
        let runs = piece(first_run, after_runs.wrapping_sub(1));
        let above = if after_runs == 0 { None } else { piece(after_runs, range.last().get()) };
        let hinted = self.attributes | self.format.contiguous_bit();
        for (piece, attributes) in [(below, self.attributes), (runs, hinted), (above, self.attributes)] {
            if let Some(piece) = piece {
                self.store_run(table, height, piece, attributes);
            }
        }
    }

    /// Stores leaves that count up: cut where a carry would leave the address field.
    fn store_run(&self, table: Pa, height: u8, range: IovaRange, attributes: u64) {
        let geometry = self.format.geometry();
        let size = geometry.size(height);
        let mut index = geometry.index(height, range.first());
        let mut left = ((range.last().get() - range.first().get()) >> size.get()) + 1;
        let mut pa = range.first().get().wrapping_add(self.delta);
        while left > 0 {
            let room = match 1u64.checked_shl(self.format.counting_bits().into()) {
                Some(carry) => (carry - (pa & (carry - 1))) >> size.get(),
                None => left,
            };
            let count = left.min(room);
            let word = self.format.leaf(height, Pa::new(pa), attributes);
            let at = entry(table, index);
            let entries = usize::try_from(count).expect("a table's entries can be counted");
            if entries == 1 {
                self.memory.store(at, word);
            } else {
                self.memory.store_run(at, word, size.bytes(), entries);
            }
            if !self.format.coherent() {
                self.memory.clean_table(at, 8 * count);
            }
            index += count;
            left -= count;
            pa = pa.wrapping_add(count << size.get());
        }
    }

    fn store_entry(&self, at: Pa, word: u64) {
        self.memory.store(at, word);
        if !self.format.coherent() {
            self.memory.clean_table(at, 8);
        }
    }
}

/// The pieces of `range` under each entry of a table at `height`, in order.
pub(crate) fn parts<F: Format>(
    format: &F,
    height: u8,
    range: IovaRange,
) -> impl Iterator<Item = IovaRange> + use<F> {
    let size = format.geometry().size(height).bytes();
    let mut next = Some(range.first());
    core::iter::from_fn(move || {
        let first = next?;
        let last = Iova::new(first.get() | (size - 1)).min(range.last());
        next = if last == range.last() { None } else { last.checked_add(1) };
        IovaRange::from_ends(first, last)
    })
}
