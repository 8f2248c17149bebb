//! The page table of a domain, in the driver's words: which format, and what an entry must say about it.
//!
//! Not here: walking, mapping, unmapping (`pgtable`).

use portcullis_core::iommu::{MapError, UnmapError};
use portcullis_hal::Platform;
use portcullis_pgtable::vtd::{FirstConfig, FirstStage, PAT, SecondConfig, SecondStage};
use portcullis_pgtable::{Format, PageTable, Retired, Unmapped};
use portcullis_types::{Iova, IovaRange, Pa, PageSizes, Prot};

use crate::features::Features;
use crate::lead::To;

/// A page table, of the stage that domains of this unit are.
pub(crate) enum Table {
    /// First stage.
    First(PageTable<FirstStage>),
    /// Second stage.
    Second(PageTable<SecondStage>),
}

/// The format of a unit's page tables.
#[derive(Clone, Copy, Debug)]
pub(crate) enum TableFormat {
    /// First stage.
    First(FirstStage),
    /// Second stage.
    Second(SecondStage),
}

impl TableFormat {
    /// The format for this hardware; none if it has no sizes that a format can say.
    pub(crate) fn choose(features: &Features) -> Option<Self> {
        if features.first_stage_domains {
            let config = FirstConfig {
                output_bits: features.output_bits,
                coherent: features.coherent_walk,
                page_sizes: features.page_sizes,
                ..FirstConfig::new(features.levels)
            };
            return FirstStage::new(config).ok().map(Self::First);
        }
        let config = SecondConfig {
            input_bits: features.input_bits,
            output_bits: features.output_bits,
            coherent: features.coherent_walk,
            snoop: features.extended.sc(),
            page_sizes: features.page_sizes,
            ..SecondConfig::new(features.levels)
        };
        SecondStage::new(config).ok().map(Self::Second)
    }

    pub(crate) fn aperture(&self) -> IovaRange {
        match self {
            Self::First(format) => format.geometry().aperture(),
            Self::Second(format) => format.geometry().aperture(),
        }
    }

    pub(crate) fn page_sizes(&self) -> PageSizes {
        match self {
            Self::First(format) => format.page_sizes(),
            Self::Second(format) => format.page_sizes(),
        }
    }

    pub(crate) fn free<P: Platform>(&self, retired: Retired, platform: &P) {
        match self {
            Self::First(format) => retired.free(format, platform),
            Self::Second(format) => retired.free(format, platform),
        }
    }
}

impl Table {
    /// An empty table; none if there is no memory.
    pub(crate) fn new<P: Platform>(format: TableFormat, platform: &P) -> Option<Self> {
        Some(match format {
            TableFormat::First(format) => Self::First(PageTable::new(format, platform)?),
            TableFormat::Second(format) => Self::Second(PageTable::new(format, platform)?),
        })
    }

    /// What an entry says to lead here.
    pub(crate) fn lead(&self) -> To {
        match self {
            Self::First(table) => {
                To::First { root: table.root(), fspm: table.format().fspm(), pat: PAT, process: false }
            }
            Self::Second(table) => To::Second { root: table.root(), aw: table.format().aw() },
        }
    }

    pub(crate) fn map<P: Platform>(
        &mut self,
        platform: &P,
        iova: Iova,
        pa: Pa,
        len_bytes: u64,
        prot: Prot,
    ) -> Result<(), MapError> {
        match self {
            Self::First(table) => table.map(platform, iova, pa, len_bytes, prot),
            Self::Second(table) => table.map(platform, iova, pa, len_bytes, prot),
        }
        .map_err(map_error)
    }

    pub(crate) fn unmap<P: Platform>(
        &mut self,
        platform: &P,
        range: IovaRange,
    ) -> Result<Unmapped, UnmapError> {
        match self {
            Self::First(table) => table.unmap(platform, range),
            Self::Second(table) => table.unmap(platform, range),
        }
        .map_err(unmap_error)
    }

    pub(crate) fn lookup<P: Platform>(&self, platform: &P, iova: Iova) -> Option<(Pa, Prot)> {
        let found = match self {
            Self::First(table) => table.lookup(platform, iova),
            Self::Second(table) => table.lookup(platform, iova),
        };
        found.map(|translation| (translation.pa, translation.prot))
    }

    /// Gives the tables back. No hardware may know them any more.
    pub(crate) fn destroy<P: Platform>(self, platform: &P) {
        match self {
            Self::First(table) => table.destroy(platform),
            Self::Second(table) => table.destroy(platform),
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
