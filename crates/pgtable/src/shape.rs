//! A format's shape, worked out once so that a walk only shifts and masks.

use crate::{BreakBeforeMake, Format};

/// How many heights a tree can have.
const MAX_HEIGHTS: usize = 6;

/// Input addresses, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) first: u64,
    pub(crate) last: u64,
}

impl Span {
    /// That of the first byte: for who has none yet.
    pub(crate) const NONE: Self = Self { first: 0, last: 0 };

    /// Whether all of `other` is within.
    pub(crate) fn covers(self, other: Self) -> bool {
        self.first <= other.first && other.last <= self.last
    }
}

/// One height of the tree.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Height {
    /// An entry maps `1 << shift` bytes.
    pub(crate) shift: u8,
    /// How many entries a table has, less one.
    index_mask: u64,
    /// Whether leaves are made here.
    pub(crate) leaf: bool,
    /// How many entries make a contiguous run, as log2; 0 for none, or where the hint is not to be given.
    pub(crate) run_lg2: u8,
}

impl Height {
    /// Bytes that an entry maps.
    #[inline]
    pub(crate) fn size(&self) -> u64 {
        1 << self.shift
    }

    /// Which entry of a table decides about `iova`.
    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "a table has far fewer than 2^32 entries")]
    pub(crate) fn index(&self, iova: u64) -> usize {
        ((iova >> self.shift) & self.index_mask) as usize
    }

    /// How many entries a table has.
    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "a table has far fewer than 2^32 entries")]
    pub(crate) fn entries(&self) -> usize {
        self.index_mask as usize + 1
    }

    /// The part of `span` that begins at `first` and that the entry of `first` decides about.
    #[inline]
    pub(crate) fn clip(&self, span: Span, first: u64) -> Span {
        Span { first, last: span.last.min(first | (self.size() - 1)) }
    }

    /// Whether `span`, within one entry, is all of it.
    #[inline]
    pub(crate) fn covers_entry(&self, span: Span) -> bool {
        span.last - span.first == self.size() - 1
    }
}

/// The shape of the tree.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub(crate) heights: [Height; MAX_HEIGHTS],
    /// The root's height.
    pub(crate) top: usize,
    /// The highest input address.
    pub(crate) input_last: u64,
    /// The highest output address.
    pub(crate) output_last: u64,
    /// Output bits below the one from which leaves can no longer be counted up.
    pub(crate) counting_mask: u64,
    /// The hint.
    pub(crate) run_bit: u64,
    pub(crate) coherent: bool,
    /// Whether a live block may be split.
    pub(crate) splits: bool,
}

impl Shape {
    pub(crate) fn new(format: &impl Format) -> Self {
        let geometry = format.geometry();
        let splits = format.break_before_make() == BreakBeforeMake::Never;
        let mut heights = [Height::default(); MAX_HEIGHTS];
        // A leaf may have to be split, or be made of smaller ones where a table waits to be freed.
        let mut has_all = true;
        for (height, info) in (0..=geometry.top()).zip(&mut heights) {
            has_all &= format.has_leaf(height);
            *info = Height {
                shift: geometry.size(height).get(),
                index_mask: geometry.entries(height) - 1,
                leaf: has_all,
                run_lg2: if splits { format.contiguous_lg2(height) } else { 0 },
            };
        }
        Self {
            heights,
            top: usize::from(geometry.top()),
            input_last: geometry.aperture().last().get(),
            output_last: u64::MAX >> (64 - format.output_bits()),
            counting_mask: 1u64
                .checked_shl(format.counting_bits().into())
                .map_or(u64::MAX, |carry| carry - 1),
            run_bit: format.contiguous_bit(),
            coherent: format.coherent(),
            splits,
        }
    }

    /// The height as the format counts it.
    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "below 6")]
    pub(crate) fn format_height(height: usize) -> u8 {
        height as u8
    }
}
