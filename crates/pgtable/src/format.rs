//! What a page-table format has to say.

use portcullis_types::{Pa, PageSizes, Prot, SizeLg2};

use crate::Geometry;

/// What an entry means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Item {
    /// Nothing is here.
    Absent,
    /// A table of the next lower height.
    Table(Pa),
    /// Memory.
    Leaf {
        /// Where it begins.
        pa: Pa,
        /// Whether the entry says that it is one of a run that may be cached as one.
        contiguous: bool,
    },
    /// A word that the format never writes at this height.
    Corrupt,
}

/// What a leaf says of its use so far. Hardware that can sets marks by itself, in one step with its look at the leaf.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Marks {
    /// Somebody has gone through it.
    pub accessed: bool,
    /// Somebody has written through it, or could have without a mark.
    pub dirty: bool,
}

impl Marks {
    /// Neither.
    pub const NONE: Self = Self { accessed: false, dirty: false };
    /// Read and not written.
    pub const CLEAN: Self = Self { accessed: true, dirty: false };
    /// Both.
    pub const USED: Self = Self { accessed: true, dirty: true };

    /// What either says.
    #[must_use]
    pub const fn or(self, other: Self) -> Self {
        Self { accessed: self.accessed || other.accessed, dirty: self.dirty || other.dirty }
    }

    /// What this says and `other` does not.
    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self { accessed: self.accessed && !other.accessed, dirty: self.dirty && !other.dirty }
    }
}

/// What hardware allows to be done to live entries. Spec: SMMUv3 H.a, 6.3.4 "SMMU_IDR3", BBML.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum BreakBeforeMake {
    /// Every change of size goes through an invalid entry (level 0).
    Always,
    /// A change needs the nT bit and an invalidation between two stores, which is not done here: as [`Always`](Self::Always) (level 1).
    ForBlocks,
    /// Sizes may change (level 2).
    Never,
}

/// A page-table format: a value, so that granule and widths are chosen when hardware is known.
///
/// Words are 64 bits, as [`TableMemory`](portcullis_hal::TableMemory) loads and stores them. A format whose memory order differs swaps them here.
pub trait Format {
    /// The shape of the tree.
    fn geometry(&self) -> &Geometry;

    /// The sizes of leaf that may be written. Those above one that may not are not used.
    fn page_sizes(&self) -> PageSizes;

    /// What hardware allows to be done to live entries.
    fn break_before_make(&self) -> BreakBeforeMake;

    /// Whether hardware forgets a leaf only if all of it is named; else any address in it will do.
    fn forgets_whole_leaves(&self) -> bool {
        false
    }

    /// Whether hardware reads tables through the CPU's caches; if not, they are cleaned.
    fn coherent(&self) -> bool;

    /// How many bits an output address may have.
    fn output_bits(&self) -> u8;

    /// What `word` means at `height`. 0 is absent in every format, and nothing else is.
    fn decode(&self, word: u64, height: u8) -> Item;

    /// The attribute bits of a leaf; none if the format cannot say `prot`.
    fn attributes(&self, prot: Prot) -> Option<u64>;

    /// What a leaf's attribute bits mean.
    fn prot(&self, word: u64) -> Prot;

    /// A leaf with these attribute bits.
    fn leaf(&self, height: u8, pa: Pa, attributes: u64) -> u64;

    /// An entry that leads to a table.
    fn table(&self, pa: Pa) -> u64;

    /// What a leaf's word, or its attribute bits, say of its use. Where the format keeps no marks, all leaves say that they were used.
    fn marks(&self, _word: u64) -> Marks {
        Marks::USED
    }

    /// The word with these marks, as far as the format keeps them for such a leaf.
    fn with_marks(&self, word: u64, _marks: Marks) -> u64 {
        word
    }

    /// The bit that makes a leaf one of a contiguous run; 0 where nothing does.
    fn contiguous_bit(&self) -> u64 {
        0
    }

    /// How many leaves at `height` make a contiguous run, as log2; 0 for none, as wherever hardware marks leaves: the hint is taken off in two steps, between
    /// which a mark would be lost.
    fn contiguous_lg2(&self, _height: u8) -> u8 {
        0
    }

    /// Leaves whose outputs differ only below this bit can be counted up: adding a page's size to the word gives the next leaf.
    fn counting_bits(&self) -> u8 {
        64
    }

    /// Whether a leaf may be written at `height`.
    fn has_leaf(&self, height: u8) -> bool {
        self.page_sizes().contains(self.geometry().size(height))
    }

    /// The size of a contiguous run at `height`.
    fn contiguous_size(&self, height: u8) -> SizeLg2 {
        let size = self.geometry().size(height).get() + self.contiguous_lg2(height);
        SizeLg2::new(size).unwrap_or(self.geometry().size(height))
    }
}
