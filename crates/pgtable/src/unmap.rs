//! Unmapping: build what remains of split blocks, then take out.

use portcullis_types::{Iova, IovaRange, Pa, SizeLg2};

use crate::geometry::entry;
use crate::map::{Leaves, parts};
use crate::retired::{Retired, free_tree};
use crate::{BreakBeforeMake, Format, Item, MapError, Memory, PageTable, UnmapError};

/// What an unmap took out, and what hardware may still remember of it.
#[derive(Debug, Default)]
#[must_use = "hardware remembers what was unmapped until it is told, and the tables must be freed"]
pub struct Unmapped {
    /// How many bytes were mapped.
    pub bytes: u64,
    /// The smallest leaf that was taken out; none if there was none. The granule if a block was split.
    pub leaf: Option<SizeLg2>,
    /// Whether hardware may remember more than leaves of that size: tables that went, or a block that was split. Then no hint of the level may
    /// be given with the invalidation.
    pub tables: bool,
    /// Tables to be freed after the invalidation.
    pub retired: Retired,
}

impl<F: Format> PageTable<F> {
    /// Takes every mapping out of `range`. Holes are no error. What is mapped around the range stays mapped at every moment.
    ///
    /// Choice: a word that the format never writes is taken out as well, and counted as no bytes: absent is the safe thing for it to be.
    ///
    /// # Errors
    ///
    /// As [`UnmapError`] says; then everything in the range is still mapped.
    pub fn unmap(&mut self, memory: &impl Memory, range: IovaRange) -> Result<Unmapped, UnmapError> {
        let geometry = self.format.geometry();
        let granule = geometry.granule();
        if !range.is_aligned(granule.bytes()) {
            return Err(UnmapError::Misaligned { granule });
        }
        if !geometry.aperture().covers(range) {
            let beyond = range.first().max(Iova::new(geometry.aperture().last().get().saturating_add(1)));
            return Err(UnmapError::OutsideAperture(beyond));
        }
        let edges = self.edges(memory, range);
        let splits = self.prepare_splits(memory, range, &edges)?;
        let mut remover = Remover { format: &self.format, memory, unmapped: Unmapped::default() };
        for edge in edges.iter().flatten() {
            remover.drop_hints(edge, range);
        }
        if splits.iter().any(Option::is_some) {
            memory.write_barrier();
        }
        for split in splits.into_iter().flatten() {
            remover.split(&split);
        }
        remover.clear(self.root, geometry.top(), range);
        memory.write_barrier();
        Ok(remover.unmapped)
    }

    /// The leaves in which the range begins and ends, if there are leaves; one if it is the same.
    fn edges(&self, memory: &impl Memory, range: IovaRange) -> [Option<Edge>; 2] {
        let first = self.edge(memory, range.first());
        let last = self.edge(memory, range.last());
        if first.is_some() && first == last { [first, None] } else { [first, last] }
    }

    fn edge(&self, memory: &impl Memory, iova: Iova) -> Option<Edge> {
        let geometry = self.format.geometry();
        let (mut table, mut height) = (self.root, geometry.top());
        loop {
            let index = geometry.index(height, iova);
            let word = memory.load(entry(table, index));
            match self.format.decode(word, height) {
                Item::Table(child) if height > 0 => (table, height) = (child, height - 1),
                Item::Leaf { pa, contiguous } => {
                    let size = geometry.size(height);
                    let first = iova.align_down(size.bytes());
                    return Some(Edge { table, height, index, word, first, size, pa, contiguous });
                }
                _ => return None,
            }
        }
    }

    /// Builds the tables that are to replace blocks which lie across an end of the range. Nothing of it can be seen yet.
    fn prepare_splits(
        &self,
        memory: &impl Memory,
        range: IovaRange,
        edges: &[Option<Edge>; 2],
    ) -> Result<[Option<Split>; 2], UnmapError> {
        let mut splits: [Option<Split>; 2] = [None, None];
        for (place, edge) in edges.iter().enumerate() {
            let Some(edge) = edge.as_ref().filter(|edge| !range.covers(edge.range())) else { continue };
            match self.prepare_split(memory, range, edge) {
                Ok(split) => splits[place] = Some(split),
                Err(error) => {
                    for split in splits.into_iter().flatten() {
                        free_tree(&self.format, memory, split.child, split.height - 1);
                    }
                    return Err(error);
                }
            }
        }
        Ok(splits)
    }

    fn prepare_split(
        &self,
        memory: &impl Memory,
        range: IovaRange,
        edge: &Edge,
    ) -> Result<Split, UnmapError> {
        if self.format.break_before_make() < BreakBeforeMake::Never || edge.height == 0 {
            return Err(UnmapError::WouldSplit { iova: edge.first, size: edge.size });
        }
        let block = edge.range();
        let removed = block.intersection(range).expect("the edge of the range lies in the block");
        let below = removed.first().checked_sub(1).and_then(|last| IovaRange::from_ends(block.first(), last));
        let above = removed.last().checked_add(1).and_then(|first| IovaRange::from_ends(first, block.last()));
        let prot = self.format.prot(edge.word);
        let attributes = self.format.attributes(prot).expect("a format can say what it has said before");
        let leaves =
            Leaves::new(&self.format, memory, attributes, edge.pa.get().wrapping_sub(block.first().get()));
        let (mut rest, mut count) = ([block; 2], 0);
        for piece in [below, above].into_iter().flatten() {
            rest[count] = piece;
            count += 1;
        }
        let child = leaves.build(edge.height - 1, &rest[..count]).map_err(|error| match error {
            MapError::NoTableMemory => UnmapError::NoTableMemory,
            error => unreachable!("part of a block can be mapped as the block was: {error:?}"),
        })?;
        let bytes = removed.len_bytes().expect("less than a block");
        Ok(Split { at: entry(edge.table, edge.index), height: edge.height, child, bytes })
    }
}

/// A leaf at an end of the range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Edge {
    table: Pa,
    height: u8,
    index: u64,
    word: u64,
    first: Iova,
    size: SizeLg2,
    pa: Pa,
    contiguous: bool,
}

impl Edge {
    fn range(&self) -> IovaRange {
        IovaRange::new(self.first, self.size.bytes()).expect("a leaf lies in the address space")
    }
}

/// A table that is to replace a block.
struct Split {
    at: Pa,
    height: u8,
    child: Pa,
    /// How much of the block is not in it.
    bytes: u64,
}

struct Remover<'a, F, M> {
    format: &'a F,
    memory: &'a M,
    unmapped: Unmapped,
}

impl<F: Format, M: Memory> Remover<'_, F, M> {
    /// Takes the contiguous hint off those leaves of the edge's run that stay.
    fn drop_hints(&self, edge: &Edge, range: IovaRange) {
        let count = 1 << self.format.contiguous_lg2(edge.height);
        let first_index = edge.index & !(count - 1);
        let run_size = self.format.contiguous_size(edge.height).bytes();
        let run = IovaRange::new(edge.first.align_down(run_size), run_size);
        if !edge.contiguous || run.is_none_or(|run| range.covers(run)) {
            return;
        }
        let size = edge.size.bytes();
        for place in 0..count {
            let iova = Iova::new(edge.first.align_down(run_size).get() + place * size);
            let leaf = IovaRange::new(iova, size).expect("a leaf of a run lies in the address space");
            let at = entry(edge.table, first_index + place);
            if !range.covers(leaf) {
                self.store(at, self.memory.load(at) & !self.format.contiguous_bit());
            }
        }
    }

    fn split(&mut self, split: &Split) {
        self.store(split.at, self.format.table(split.child));
        self.unmapped.bytes += split.bytes;
        self.unmapped.tables = true;
        self.took_leaf(0);
    }

    /// Takes everything out of `range`, which no leaf lies across.
    fn clear(&mut self, table: Pa, height: u8, range: IovaRange) {
        if height == 0 {
            return self.clear_leaves(table, range);
        }
        let geometry = self.format.geometry();
        for part in parts(self.format, height, range) {
            let at = entry(table, geometry.index(height, part.first()));
            let word = self.memory.load(at);
            match self.format.decode(word, height) {
                Item::Absent => {}
                Item::Table(child) => {
                    let whole = part.is_aligned(geometry.size(height).bytes());
                    if whole && self.unmapped.retired.try_reserve() {
                        self.count(child, height - 1);
                        self.retire(at, child, height - 1);
                    } else {
                        self.clear(child, height - 1, part);
                        if self.is_empty(child, height - 1, part) && self.unmapped.retired.try_reserve() {
                            self.retire(at, child, height - 1);
                        }
                    }
                }
                Item::Leaf { .. } => {
                    self.store(at, 0);
                    self.unmapped.bytes += geometry.size(height).bytes();
                    self.took_leaf(height);
                }
                Item::Corrupt => self.store(at, 0),
            }
        }
    }

    fn clear_leaves(&mut self, table: Pa, range: IovaRange) {
        let geometry = self.format.geometry();
        let (first, last) = (geometry.index(0, range.first()), geometry.index(0, range.last()));
        let mut held = 0;
        for index in first..=last {
            let word = self.memory.load(entry(table, index));
            held += u64::from(matches!(self.format.decode(word, 0), Item::Leaf { .. }));
        }
        let count = last - first + 1;
        let at = entry(table, first);
        if count == 1 {
            self.memory.store(at, 0);
        } else {
            self.memory.store_run(
                at,
                0,
                0,
                usize::try_from(count).expect("a table's entries can be counted"),
            );
        }
        if !self.format.coherent() {
            self.memory.clean_table(at, 8 * count);
        }
        if held > 0 {
            self.unmapped.bytes += held << geometry.granule().get();
            self.took_leaf(0);
        }
    }

    /// Counts what is mapped under a table that is about to be cut off.
    fn count(&mut self, table: Pa, height: u8) {
        let geometry = self.format.geometry();
        for index in 0..geometry.entries(height) {
            match self.format.decode(self.memory.load(entry(table, index)), height) {
                Item::Leaf { .. } => {
                    self.unmapped.bytes += geometry.size(height).bytes();
                    self.took_leaf(height);
                }
                Item::Table(child) if height > 0 => self.count(child, height - 1),
                _ => {}
            }
        }
    }

    /// Whether nothing is left in a table of which `part` was just cleared. Looks beside it first: that is where something mostly is.
    fn is_empty(&self, table: Pa, height: u8, part: IovaRange) -> bool {
        let geometry = self.format.geometry();
        let entries = geometry.entries(height);
        let (first, last) = (geometry.index(height, part.first()), geometry.index(height, part.last()));
        let absent = |index: u64| self.memory.load(entry(table, index)) == 0;
        let beside = [first.checked_sub(1), Some(last + 1).filter(|&next| next < entries)];
        beside.into_iter().flatten().all(absent) && (0..entries).all(absent)
    }

    fn retire(&mut self, at: Pa, table: Pa, height: u8) {
        self.store(at, 0);
        self.unmapped.retired.push(table, height);
        self.unmapped.tables = true;
    }

    fn took_leaf(&mut self, height: u8) {
        let size = self.format.geometry().size(height);
        self.unmapped.leaf = Some(self.unmapped.leaf.map_or(size, |smallest| smallest.min(size)));
    }

    fn store(&self, at: Pa, word: u64) {
        self.memory.store(at, word);
        if !self.format.coherent() {
            self.memory.clean_table(at, 8);
        }
    }
}
