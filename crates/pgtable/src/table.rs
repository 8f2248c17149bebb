//! A page table: what it is made of, and everything but mapping and unmapping.

use portcullis_hal::TableMemory;
use portcullis_types::{Iova, IovaRange, Pa, PageSizes, Prot, SizeLg2, mutant};

use crate::error::Corrupt;
use crate::ledger::{Ledger, NONE, ROOT, Slot, State};
use crate::shape::{Shape, Span};
use crate::{Format, Item, Memory};

/// What an address is mapped to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Translation {
    /// The output address.
    pub pa: Pa,
    /// What the mapping allows, as the table says it: a format that cannot say "write" alone says "read and write".
    pub prot: Prot,
    /// How large the leaf is, without regard to contiguous runs.
    pub size: SizeLg2,
}

/// A page table.
///
/// The memory it lives in is passed to each call, always the same. Dropping a table loses its memory; [`destroy`](Self::destroy) gives it back.
#[derive(Debug)]
pub struct PageTable<F> {
    pub(crate) format: F,
    pub(crate) shape: Shape,
    pub(crate) ledger: Ledger,
    /// The table at height 0 that was used last, and which of the ranges that such tables map it maps.
    pub(crate) recent: (u64, Slot),
}

impl<F: Format> PageTable<F> {
    /// An empty table; none if there is no memory, or none that the format can point to. Hardware can be pointed at it at once.
    pub fn new(format: F, mem: &impl Memory) -> Option<Self> {
        let shape = Shape::new(&format);
        let geometry = format.geometry();
        let root_layout = geometry.layout(geometry.top());
        let entries = [shape.heights[0].entries(), shape.heights[shape.top].entries()];
        let layout = geometry.layout(0);
        let ledger = Ledger::new(mem, layout, root_layout, entries, shape.top > 0, shape.output_last)?;
        if !shape.coherent {
            mem.clean_table(ledger.get(ROOT).at, root_layout.size_bytes());
        }
        mem.write_barrier();
        Some(Self { format, shape, ledger, recent: (0, NONE) })
    }

    /// Where the root lies, a multiple of its size.
    pub fn root(&self) -> Pa {
        self.ledger.get(ROOT).at
    }

    /// The format, for the register values that go with it.
    pub fn format(&self) -> &F {
        &self.format
    }

    /// Which addresses can be mapped.
    pub fn aperture(&self) -> IovaRange {
        self.format.geometry().aperture()
    }

    /// In which sizes leaves are made. Ranges to map and unmap are multiples of the smallest.
    pub fn page_sizes(&self) -> PageSizes {
        self.format.page_sizes()
    }

    /// What `iova` is mapped to, as the table's words say.
    pub fn lookup(&self, mem: &impl TableMemory, iova: Iova) -> Option<Translation> {
        let iova = iova.get();
        if iova > self.shape.input_last {
            return None;
        }
        let (mut slot, mut height) = (ROOT, self.shape.top);
        loop {
            let info = self.shape.heights[height];
            let child = self.ledger.child(slot, info.index(iova));
            if child == NONE || self.ledger.get(child).state != State::Linked {
                let word = mem.load(self.ledger.entry_at(slot, info.index(iova)));
                let Item::Leaf { pa, .. } = self.format.decode(word, Shape::format_height(height)) else {
                    return None;
                };
                let pa = Pa::new(pa.get() | iova & (info.size() - 1));
                let size = self.format.geometry().size(Shape::format_height(height));
                return Some(Translation { pa, prot: self.format.prot(word), size });
            }
            (slot, height) = (child, height - 1);
        }
    }

    /// Frees the tables, mapped or not, but for those that were retired. Call it when no hardware can be reading them any more.
    pub fn destroy(self, mem: &impl TableMemory) {
        self.ledger.destroy(mem);
    }

    /// The table at height 0 that maps all of `span`. None if there is no such table, or if it takes more than one.
    ///
    /// The one that was used last is found without a walk; a retirement forgets it.
    pub(crate) fn bottom(&mut self, mem: &impl TableMemory, span: Span) -> Result<Option<Slot>, Corrupt> {
        if self.shape.top == 0 {
            return Ok(Some(ROOT));
        }
        let reach = self.shape.heights[1].shift;
        let region = span.first >> reach;
        if region != span.last >> reach {
            return Ok(None);
        }
        if self.recent.1 != NONE && self.recent.0 == region {
            return Ok(Some(self.recent.1));
        }
        let mut slot = ROOT;
        for height in (1..=self.shape.top).rev() {
            let index = self.shape.heights[height].index(span.first);
            let child = self.ledger.child(slot, index);
            if child == NONE || self.ledger.get(child).state != State::Linked {
                return Ok(None);
            }
            self.check_link(mem, slot, index, child)?;
            slot = child;
        }
        self.recent = (region, slot);
        Ok(Some(slot))
    }

    /// What the entry that lies at `index` of a table without a child there says.
    pub(crate) fn leaf_entry(
        &self,
        mem: &impl TableMemory,
        slot: Slot,
        height: usize,
        index: usize,
    ) -> Result<Item, Corrupt> {
        let at = self.ledger.entry_at(slot, index);
        let word = mem.load(at);
        match self.format.decode(word, Shape::format_height(height)) {
            // The ledger knows of no table here.
            Item::Table(_) | Item::Corrupt => Err(Corrupt { at, word }),
            item => Ok(item),
        }
    }

    /// Whether the entry of a child says what was stored there.
    pub(crate) fn check_link(
        &self,
        mem: &impl TableMemory,
        slot: Slot,
        index: usize,
        child: Slot,
    ) -> Result<(), Corrupt> {
        let at = self.ledger.entry_at(slot, index);
        let word = mem.load(at);
        let child = self.ledger.get(child);
        let stored = if child.state == State::Linked { self.format.table(child.at) } else { 0 };
        if word == stored { Ok(()) } else { Err(Corrupt { at, word }) }
    }

    /// Stores one word of a table.
    pub(crate) fn store(&self, mem: &impl TableMemory, at: Pa, word: u64) {
        mem.store(at, word);
        self.clean(mem, at, 1);
    }

    /// Stores words of a table.
    pub(crate) fn store_run(&self, mem: &impl TableMemory, at: Pa, first: u64, step: u64, count: usize) {
        if count == 1 {
            mem.store(at, first);
        } else {
            mem.store_run(at, first, step, count);
        }
        self.clean(mem, at, count);
    }

    pub(crate) fn clean(&self, mem: &impl TableMemory, at: Pa, words: usize) {
        if !self.shape.coherent && !mutant!("table-words-not-cleaned") {
            mem.clean_table(at, 8 * words as u64);
        }
    }
}
