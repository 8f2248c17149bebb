//! A page table of one of two formats, as an IOMMU with two stages has them.
//!
//! Which of the two is settled when the hardware is known; a [`TableFormat`] says it for all domains of an IOMMU.
//!
//! Not here: walking, mapping, unmapping (`pgtable`), locks, and what an unmap took out (`mappings`).

use portcullis_core::iommu::{MapError, UnmapError};
use portcullis_hal::TableMemory;
use portcullis_pgtable::{Format, Memory, PageTable, Retired, Unmapped};
use portcullis_types::{Iova, IovaRange, Pa, PageSizes, Prot, SizeLg2};

/// A page table of either stage.
#[derive(Debug)]
pub enum Table<A: Format, B: Format> {
    /// Of the first.
    One(PageTable<A>),
    /// Of the second.
    Two(PageTable<B>),
}

/// The format of the page tables of an IOMMU.
#[derive(Clone, Copy, Debug)]
pub enum TableFormat<A, B> {
    /// The first stage's.
    One(A),
    /// The second stage's.
    Two(B),
}

impl<A: Format, B: Format> TableFormat<A, B> {
    /// Which addresses a table can map.
    pub fn aperture(&self) -> IovaRange {
        match self {
            Self::One(format) => format.geometry().aperture(),
            Self::Two(format) => format.geometry().aperture(),
        }
    }

    /// In which sizes.
    pub fn page_sizes(&self) -> PageSizes {
        match self {
            Self::One(format) => format.page_sizes(),
            Self::Two(format) => format.page_sizes(),
        }
    }

    /// Whether hardware forgets a leaf only if all of it is named.
    pub(crate) fn forgets_whole_leaves(&self) -> bool {
        match self {
            Self::One(format) => format.forgets_whole_leaves(),
            Self::Two(format) => format.forgets_whole_leaves(),
        }
    }

    /// The smallest page.
    pub(crate) fn granule(&self) -> SizeLg2 {
        match self {
            Self::One(format) => format.geometry().granule(),
            Self::Two(format) => format.geometry().granule(),
        }
    }

    /// Frees tables that an unmap cut off: [`Retired::free`].
    pub(crate) fn free(&self, retired: Retired, memory: &impl TableMemory) {
        match self {
            Self::One(format) => retired.free(format, memory),
            Self::Two(format) => retired.free(format, memory),
        }
    }
}

impl<A: Format, B: Format> Table<A, B> {
    /// An empty table; none if there is no memory.
    pub fn new(format: TableFormat<A, B>, memory: &impl Memory) -> Option<Self> {
        Some(match format {
            TableFormat::One(format) => Self::One(PageTable::new(format, memory)?),
            TableFormat::Two(format) => Self::Two(PageTable::new(format, memory)?),
        })
    }

    /// Maps a range: [`PageTable::map`].
    ///
    /// # Errors
    ///
    /// As [`MapError`] says.
    pub fn map(
        &mut self,
        memory: &impl Memory,
        iova: Iova,
        pa: Pa,
        len_bytes: u64,
        prot: Prot,
    ) -> Result<(), MapError> {
        match self {
            Self::One(table) => table.map(memory, iova, pa, len_bytes, prot),
            Self::Two(table) => table.map(memory, iova, pa, len_bytes, prot),
        }
        .map_err(map_error)
    }

    /// Takes every mapping out of `range`: [`PageTable::unmap`].
    ///
    /// # Errors
    ///
    /// As [`UnmapError`] says.
    pub fn unmap(&mut self, memory: &impl Memory, range: IovaRange) -> Result<Unmapped, UnmapError> {
        match self {
            Self::One(table) => table.unmap(memory, range),
            Self::Two(table) => table.unmap(memory, range),
        }
        .map_err(unmap_error)
    }

    /// What `iova` is mapped to.
    pub fn lookup(&self, memory: &impl Memory, iova: Iova) -> Option<(Pa, Prot)> {
        let found = match self {
            Self::One(table) => table.lookup(memory, iova),
            Self::Two(table) => table.lookup(memory, iova),
        };
        found.map(|translation| (translation.pa, translation.prot))
    }

    /// Gives the tables back. No hardware may know them any more.
    pub fn destroy(self, memory: &impl Memory) {
        match self {
            Self::One(table) => table.destroy(memory),
            Self::Two(table) => table.destroy(memory),
        }
    }
}

fn map_error(error: portcullis_pgtable::MapError) -> MapError {
    use portcullis_pgtable::MapError as Theirs;
    match error {
        Theirs::Misaligned { value, granule } => MapError::Misaligned { value, granule },
        Theirs::BadLength => MapError::BadLength,
        Theirs::OutsideAperture(iova) => MapError::OutsideAperture(iova),
        Theirs::OutputTooLarge(pa) => MapError::OutputTooLarge(pa),
        Theirs::Mapped(iova) => MapError::Mapped(iova),
        Theirs::Unsupported(prot) => MapError::Unsupported(prot),
        Theirs::CorruptTable { at, word } => MapError::CorruptTable { at, word },
        // Also an error that the page tables learn later: nothing was mapped.
        _ => MapError::NoTableMemory,
    }
}

fn unmap_error(error: portcullis_pgtable::UnmapError) -> UnmapError {
    use portcullis_pgtable::UnmapError as Theirs;
    match error {
        Theirs::Misaligned { granule } => UnmapError::Misaligned { granule },
        Theirs::OutsideAperture(iova) => UnmapError::OutsideAperture(iova),
        Theirs::WouldSplit { iova, size } => UnmapError::WouldSplit { iova, size },
        // Also an error that the page tables learn later: nothing was unmapped.
        _ => UnmapError::NoTableMemory,
    }
}
