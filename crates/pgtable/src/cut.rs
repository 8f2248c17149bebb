//! Cutting: making both ends of a range fall between leaves, while everything stays mapped as it is.
//!
//! A block across an end is replaced by a table that maps the same with smaller leaves: filled while nothing points to it (and split in turn
//! where the end lies in one of its leaves), then a write barrier, then one store over the block's entry. Hardware sees
//! the block or the whole table. Where an end lies inside a contiguous run, the hint is first taken off all of the run, so that no
//! hinted run ever has a hole.
//!
//! No mark of hardware's is lost by that, though entries are loaded and stored in two steps: a format whose leaves hardware marks gives no hint
//! ([`Format::contiguous_lg2`]), and the leaves that a block becomes say that they were used, whatever hardware has just marked.

use portcullis_hal::TableMemory;
use portcullis_types::{Iova, IovaRange, Pa, mutant};

use crate::ledger::{NONE, Need, ROOT, Slot, State};
use crate::shape::{Shape, Span};
use crate::table::PageTable;
use crate::{Format, Item, Memory, UnmapError};

/// The lowest entry on the way to an end.
#[derive(Clone, Copy, Debug)]
struct Place {
    slot: Slot,
    height: usize,
    index: usize,
}

/// A leaf that lies across an end: at which height, and down to which height it must be split.
#[derive(Clone, Copy, Debug)]
struct Across {
    edge: u64,
    height: usize,
    down_to: usize,
}

impl<F: Format> PageTable<F> {
    /// Cuts at both ends of `span`, and answers which block was split at each. If it cannot be done, nothing is changed.
    pub(crate) fn cut(
        &mut self,
        mem: &impl Memory,
        span: Span,
    ) -> Result<[Option<IovaRange>; 2], UnmapError> {
        let inside = 1..=self.shape.input_last;
        let edges =
            [span.first, span.last.wrapping_add(1)].map(|edge| Some(edge).filter(|at| inside.contains(at)));
        let mut across = [None; 2];
        let mut in_run = false;
        for (edge, across) in edges.into_iter().zip(&mut across) {
            let Some(edge) = edge else { continue };
            let place = self.place(edge);
            *across = self.across(mem, place, edge);
            in_run |= across.is_none() && self.in_run(mem, place);
        }
        if let Some(Across { edge, height, .. }) =
            across.into_iter().flatten().next().filter(|_| !self.shape.splits)
        {
            let size = self.format.geometry().size(Shape::format_height(height));
            return Err(UnmapError::WouldSplit { iova: Iova::new(edge).align_down(size.bytes()), size });
        }
        let need = self.need(across);
        if need == Need::default() && !in_run {
            return Ok([None; 2]);
        }
        if !self.ledger.stock(mem, need) {
            return Err(UnmapError::NoTableMemory);
        }
        edges.into_iter().flatten().for_each(|edge| self.cut_at(mem, edge));
        mem.write_barrier();
        self.ledger.drop_spares(mem);
        Ok(across.map(|across| self.block(across?)))
    }

    /// All of a leaf that lies across an end.
    fn block(&self, Across { edge, height, .. }: Across) -> Option<IovaRange> {
        let size_bytes = self.shape.heights[height].size();
        IovaRange::new(Iova::new(edge).align_down(size_bytes), size_bytes)
    }

    /// The lowest entry that decides about `iova`.
    fn place(&self, iova: u64) -> Place {
        let (mut slot, mut height) = (ROOT, self.shape.top);
        loop {
            let index = self.shape.heights[height].index(iova);
            let child = self.ledger.child(slot, index);
            if child == NONE || self.ledger.get(child).state != State::Linked {
                return Place { slot, height, index };
            }
            (slot, height) = (child, height - 1);
        }
    }

    /// The leaf at `place`: where it goes, and its attributes. None for anything else, and for what the format would not write.
    fn leaf_at(&self, mem: &impl TableMemory, place: Place) -> Option<(Pa, u64)> {
        let word = mem.load(self.ledger.entry_at(place.slot, place.index));
        match self.format.decode(word, Shape::format_height(place.height)) {
            Item::Leaf { pa, .. } => Some((pa, self.format.attributes(self.format.prot(word))?)),
            _ => None,
        }
    }

    /// The leaf at `place`, if `edge` lies inside it.
    fn across(&self, mem: &impl TableMemory, place: Place, edge: u64) -> Option<Across> {
        let height = place.height;
        let aligned = |height: usize| edge & (self.shape.heights[height].size() - 1) == 0;
        if aligned(height) {
            return None;
        }
        self.leaf_at(mem, place)?;
        let down_to = (0..height).rev().find(|&below| aligned(below)).unwrap_or(0);
        Some(Across { edge, height, down_to })
    }

    /// Whether the entry at `place` carries the hint and is not the first of its run.
    fn in_run(&self, mem: &impl TableMemory, place: Place) -> bool {
        let run = 1usize << self.shape.heights[place.height].run_lg2;
        place.index & (run - 1) != 0
            && mem.load(self.ledger.entry_at(place.slot, place.index)) & self.shape.run_bit != 0
    }

    /// How many tables the splits take: those of the first end, and those of the second that are not the same.
    fn need(&self, [first, second]: [Option<Across>; 2]) -> Need {
        let mut need = Need::default();
        let tables = |across: Across| across.down_to..across.height;
        first.into_iter().flat_map(tables).for_each(|height| need.add(height));
        if let Some(second) = second {
            let shared = |height: usize| {
                let shift = self.shape.heights[height + 1].shift;
                first.is_some_and(|first| {
                    tables(first).contains(&height) && first.edge >> shift == second.edge >> shift
                })
            };
            tables(second).filter(|&height| !shared(height)).for_each(|height| need.add(height));
        }
        need
    }

    /// Makes `edge` fall between leaves and between runs.
    fn cut_at(&mut self, mem: &impl Memory, edge: u64) {
        let place = self.place(edge);
        if self.across(mem, place, edge).is_some() {
            self.split(mem, place, edge, true);
        } else if self.in_run(mem, place) {
            self.drop_hints(mem, place);
        }
    }

    /// Replaces the leaf at `place` by a table in which `edge` falls between leaves.
    fn split(&mut self, mem: &impl Memory, place: Place, edge: u64, visible: bool) {
        let Place { slot, height, index } = place;
        let Some((pa, attributes)) = self.leaf_at(mem, place) else { return };
        let at = self.ledger.entry_at(slot, index);
        if self.shape.heights[height].run_lg2 > 0 && mem.load(at) & self.shape.run_bit != 0 {
            self.drop_hints(mem, place);
        }
        let child = self.ledger.attach_spare(slot, index, height - 1);
        // What looked like a leaf may have been a word that nobody stored.
        self.ledger.fill(slot, index, 1);
        let below = self.shape.heights[height - 1];
        self.store_leaves(mem, child, height - 1, 0, below.entries(), pa, attributes);
        let inner = Place { slot: child, height: height - 1, index: below.index(edge) };
        if edge & (below.size() - 1) != 0 {
            self.split(mem, inner, edge, false);
        } else if self.in_run(mem, inner) {
            self.drop_hints(mem, inner);
        }
        if visible && !mutant!("split-shown-before-it-is-filled") {
            mem.write_barrier();
        }
        self.store(mem, at, self.format.table(self.ledger.get(child).at));
    }

    /// Takes the hint off all entries of the run of `place`.
    fn drop_hints(&self, mem: &impl TableMemory, place: Place) {
        let run = 1usize << self.shape.heights[place.height].run_lg2;
        let start = place.index & !(run - 1);
        for index in start..start + run {
            let at = self.ledger.entry_at(place.slot, index);
            self.store(mem, at, mem.load(at) & !self.shape.run_bit);
        }
    }
}
