//! A page table: its root, what can be read from it, its end.

use portcullis_hal::TableMemory;
use portcullis_types::{Iova, IovaRange, Pa, PageSizes, Prot, SizeLg2};

use crate::geometry::entry;
use crate::retired::free_tree;
use crate::{Format, Item, Memory};

/// A page table.
///
/// The memory it lives in is passed to each call, always the same. Dropping a table loses its memory; [`destroy`](Self::destroy) gives it back.
#[derive(Debug)]
pub struct PageTable<F> {
    pub(crate) format: F,
    pub(crate) root: Pa,
}

/// What an address is mapped to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Translation {
    /// The output address.
    pub pa: Pa,
    /// What the mapping allows.
    pub prot: Prot,
    /// How large the leaf is, without regard to contiguous runs.
    pub size: SizeLg2,
}

impl<F: Format> PageTable<F> {
    /// An empty table; none if there is no memory. Hardware can be pointed at it at once.
    pub fn new(format: F, memory: &impl Memory) -> Option<Self> {
        let layout = format.geometry().layout(format.geometry().top());
        let root = memory.alloc(layout)?;
        if !format.coherent() {
            memory.clean_table(root, layout.size_bytes());
        }
        memory.write_barrier();
        Some(Self { format, root })
    }

    /// The format.
    pub fn format(&self) -> &F {
        &self.format
    }

    /// Where the root lies.
    pub fn root(&self) -> Pa {
        self.root
    }

    /// The addresses that can be mapped.
    pub fn aperture(&self) -> IovaRange {
        self.format.geometry().aperture()
    }

    /// The sizes of leaf.
    pub fn page_sizes(&self) -> PageSizes {
        self.format.page_sizes()
    }

    /// What `iova` is mapped to.
    pub fn lookup(&self, memory: &impl TableMemory, iova: Iova) -> Option<Translation> {
        let geometry = self.format.geometry();
        if !geometry.aperture().contains(iova) {
            return None;
        }
        let (mut table, mut height) = (self.root, geometry.top());
        loop {
            let word = memory.load(entry(table, geometry.index(height, iova)));
            match self.format.decode(word, height) {
                Item::Leaf { pa, .. } => {
                    let size = geometry.size(height);
                    let pa = Pa::new(pa.get() | iova.offset_in(size.bytes()));
                    return Some(Translation { pa, prot: self.format.prot(word), size });
                }
                Item::Table(child) if height > 0 => (table, height) = (child, height - 1),
                _ => return None,
            }
        }
    }

    /// Frees the tables, mapped or not. Call it when no hardware can be reading them any more.
    pub fn destroy(self, memory: &impl TableMemory) {
        free_tree(&self.format, memory, self.root, self.format.geometry().top());
    }
}
