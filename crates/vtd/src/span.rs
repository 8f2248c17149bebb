//! Ranges as invalidation descriptors say them: one power of two of pages, on a multiple of itself.

use portcullis_types::{IovaRange, mutant};

const PAGE_LG2: u8 = 12;

/// Pages to forget.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    /// The first address, a multiple of the size.
    pub(crate) first: u64,
    /// How many pages, as log2: AM.
    pub(crate) mask: u8,
}

impl Span {
    /// The smallest that covers `range`; none if only everything does.
    pub(crate) fn covering(range: IovaRange) -> Option<Self> {
        let (first, last) = (range.first().get(), range.last().get());
        #[expect(clippy::cast_possible_truncation, reason = "at most 64")]
        let lg2 = (64 - (first ^ last).leading_zeros()) as u8;
        let lg2 = lg2.max(PAGE_LG2);
        if lg2 >= 64 {
            return None;
        }
        Some(Self { first: first >> lg2 << lg2, mask: lg2 - PAGE_LG2 })
    }

    /// S and the address of a device TLB invalidation: the lowest address bit that is clear says how much.
    ///
    /// Spec: VT-d 5.10, 6.5.2.5 "Device-TLB Invalidate Descriptor", S and Address; PCIe 6.0, 10.3.1 "Invalidate Request".
    pub(crate) fn ats(span: Option<Self>) -> (bool, u64) {
        match span {
            // Spec: VT-d 5.10, 6.5.3.3: all of it is S with bits 62:12 set.
            None => (true, 0x7fff_ffff_ffff_f000),
            Some(Self { first, mask: 0 }) => (false, first),
            Some(Self { first, .. }) if mutant!("vtd-atc-first-page-only") => (false, first),
            Some(Self { first, mask }) => (true, first | ((1 << (mask - 1)) - 1) << PAGE_LG2),
        }
    }
}

#[cfg(test)]
mod tests {
    use portcullis_types::Iova;

    use super::*;

    fn covering(first: u64, last: u64) -> Option<Span> {
        Span::covering(IovaRange::from_ends(Iova::new(first), Iova::new(last)).unwrap())
    }

    #[test]
    fn a_span_is_the_smallest_aligned_block_around_a_range() {
        assert_eq!(covering(0x5000, 0x5fff), Some(Span { first: 0x5000, mask: 0 }));
        assert_eq!(covering(0x4000, 0x5fff), Some(Span { first: 0x4000, mask: 1 }));
        assert_eq!(covering(0x7000, 0x8fff), Some(Span { first: 0, mask: 4 }), "across a boundary");
        assert_eq!(covering(0x20_0000, 0x3f_ffff), Some(Span { first: 0x20_0000, mask: 9 }));
        assert_eq!(covering(0, u64::MAX), None);
        for first in 0..40u64 {
            for last in first..40 {
                let span = covering(first << 12, last << 12 | 0xfff).unwrap();
                let end = span.first + (0x1000 << span.mask);
                assert!(
                    span.first <= first << 12
                        && last << 12 < end
                        && span.first.is_multiple_of(0x1000 << span.mask)
                );
            }
        }
    }

    #[test]
    fn a_device_is_told_the_size_by_the_lowest_clear_bit() {
        assert_eq!(Span::ats(covering(0x5000, 0x5fff)), (false, 0x5000));
        assert_eq!(Span::ats(covering(0x4000, 0x5fff)), (true, 0x4000));
        assert_eq!(Span::ats(covering(0x4000, 0x7fff)), (true, 0x5000));
        assert_eq!(Span::ats(covering(0x20_0000, 0x3f_ffff)), (true, 0x2f_f000));
        assert_eq!(Span::ats(None), (true, 0x7fff_ffff_ffff_f000));
    }
}
