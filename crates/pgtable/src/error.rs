//! Why a range was not mapped, or not unmapped.

use portcullis_types::{Iova, Pa, Prot, SizeLg2};

/// Why a range was not mapped. Then nothing of it is mapped that was not before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum MapError {
    /// Address, output address or length is no multiple of the smallest page.
    Misaligned {
        /// What is not.
        value: u64,
        /// The smallest page.
        granule: SizeLg2,
    },
    /// Length 0, or an end that wraps.
    BadLength,
    /// The table cannot say this address.
    OutsideAperture(Iova),
    /// The table cannot say this output address.
    OutputTooLarge(Pa),
    /// Something is mapped here already.
    Mapped(Iova),
    /// The format cannot say these permissions or this kind of memory.
    Unsupported(Prot),
    /// No memory for a table.
    NoTableMemory,
    /// A table holds a word that was never written there.
    CorruptTable {
        /// Where the word lies.
        at: Pa,
        /// The word.
        word: u64,
    },
}

/// Why a range was not unmapped. Then everything in it is still mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum UnmapError {
    /// The range does not begin and end on multiples of the smallest page.
    Misaligned {
        /// The smallest page.
        granule: SizeLg2,
    },
    /// The table cannot say this address.
    OutsideAperture(Iova),
    /// A block lies across the end of the range, and this hardware does not allow splitting one that is live.
    WouldSplit {
        /// Where the block begins.
        iova: Iova,
        /// How large it is.
        size: SizeLg2,
    },
    /// A block had to be split, and there was no memory for the table.
    NoTableMemory,
}

/// A word that was never stored where it was found.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Corrupt {
    pub(crate) at: Pa,
    pub(crate) word: u64,
}

impl From<Corrupt> for MapError {
    fn from(Corrupt { at, word }: Corrupt) -> Self {
        Self::CorruptTable { at, word }
    }
}
