//! The tables of x86 machines: VT-d's second stage, and its first stage, which is the table that a process has.
//!
//! Both have pages of 4 KiB, leaves of 2 MiB and 1 GiB where hardware takes them, 512 entries to a table, and nothing like a contiguous hint.
//! A root is a whole table, also where few addresses can be said.
//!
//! # Changing what is live
//!
//! There is no break-before-make: hardware that sees a leaf become a table may for a while use either, and both say the same
//! ([`cut`](crate::PageTable::unmap) changes page sizes alone, never what is mapped with them). An invalidation follows, as for any change: of all that the leaf was, since hardware need not
//! forget a large one by a smaller mask.
//!
//! Spec: VT-d 5.10, 6.5.3.3 "Guidance to Software for Invalidations": an entry is not to be written "in a way that would change […] both the page size
//! and either the page frame, access rights, or other attributes"; 11.4.6.2 "IOTLB Registers", AM: of a page of 2 MiB at least 9.
//!
//! # Accessed flags of tables
//!
//! Hardware marks tables as accessed, too. Where it does, entries that lead to tables are made with the mark, so that they never change behind the
//! walker's back, which knows each by its word.
//!
//! Not here: the entries that lead to a root (`spec::vtd`).

mod first;
mod second;

pub use first::{FirstConfig, FirstStage, PAT};
pub use second::{SecondConfig, SecondStage};

use portcullis_types::{Pa, PageSizes, SizeLg2};

use crate::{Geometry, Item};

/// Why there is no format for a configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConfigError {
    /// Tables of so many levels cannot be.
    Levels(u8),
    /// So many bits of input cannot be, with so many levels.
    InputBits(u8),
    /// So many bits of output cannot be.
    OutputBits(u8),
}

/// Spec: VT-d 5.10, 9.7 "First-Stage Paging Entries", 9.8 "Second-Stage Paging Entries": bits (HAW-1):12, and 51:HAW reserved.
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
/// PS: a leaf above height 0.
const PAGE_SIZE: u64 = 1 << 7;
/// The tallest height at which there are leaves.
const TALLEST_LEAF: u8 = 2;

fn geometry(input_bits: u8, output_bits: u8, levels: u8) -> Result<Geometry, ConfigError> {
    if !(32..=52).contains(&output_bits) {
        return Err(ConfigError::OutputBits(output_bits));
    }
    Geometry::with_levels(12, input_bits, levels).ok_or(ConfigError::InputBits(input_bits))
}

/// Those of `wanted` that the format has and addresses of the geometry fill; 4 KiB always.
fn page_sizes(geometry: &Geometry, wanted: PageSizes) -> PageSizes {
    let heights = 0..=TALLEST_LEAF.min(geometry.top());
    let sizes =
        heights.map(|height| geometry.size(height)).filter(|size| size.get() <= geometry.input_bits());
    sizes.fold(PageSizes::default(), PageSizes::with).intersection(wanted.with(SizeLg2::KIB_4))
}

/// What a word means. `present` are the bits of which an entry has one.
#[inline]
fn decode(word: u64, present: u64, height: u8, size: SizeLg2) -> Item {
    if word == 0 {
        return Item::Absent;
    }
    if word & present == 0 {
        return Item::Corrupt;
    }
    let leaf = height == 0 || word & PAGE_SIZE != 0;
    if !leaf {
        return Item::Table(Pa::new(word & ADDRESS));
    }
    if height > TALLEST_LEAF {
        return Item::Corrupt;
    }
    Item::Leaf { pa: Pa::new(word & ADDRESS & !(size.bytes() - 1)), contiguous: false }
}

/// A leaf with these attribute bits.
#[inline]
fn leaf(height: u8, pa: Pa, attributes: u64) -> u64 {
    let size = if height == 0 { 0 } else { PAGE_SIZE };
    pa.get() & ADDRESS | attributes | size
}

#[inline]
fn set(word: u64, bit: u64, on: bool) -> u64 {
    if on { word | bit } else { word & !bit }
}
