//! Device TLBs (ATCs): which invalidation makes a device forget a range.
//!
//! A command can say a run of pages only if their number is a power of two and the first is a multiple of it. The run for any range is the
//! smallest such that holds its first page and its last: it is found from the highest bit in which the two differ. It may be far
//! larger than the range, never smaller.
//!
//! # Order
//!
//! An ATC fills itself from the TLB, hence TLB invalidations and their sync come first, then ATC invalidations and theirs. A device that does
//! not answer in time makes that second sync fail, and who waits for it keeps its pages. (A device that answers
//! "unsupported request" completes the command without a guarantee; nothing on this side can tell.)
//!
//! Spec: SMMUv3 H.a, 4.5.1 "CMD_ATC_INV", 3.9.1 "ATS Interface", 3.21.1 "Translation tables and TLB invalidation completion behavior".

use portcullis_core::iommu::SyncError;
use portcullis_hal::{Platform, Registers};
use portcullis_spec::smmuv3::command::Command;
use portcullis_types::{IovaRange, Pasid};

use crate::hardware::Hardware;

/// The page of an invalidation, which is also the smallest translation unit of ATS: 4 KiB.
const PAGE_LG2: u8 = 12;
/// The size that means everything.
const EVERYTHING: u8 = 64 - PAGE_LG2;

/// A run of pages that one command can say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AtcSpan {
    /// The first address, a multiple of the size.
    pub address: u64,
    /// `4096 << size_lg2` bytes; 52 for every address there is.
    pub size_lg2: u8,
}

impl AtcSpan {
    /// Every address there is.
    pub const ALL: Self = Self { address: 0, size_lg2: EVERYTHING };

    /// The smallest run that covers `range`.
    pub fn covering(range: IovaRange) -> Self {
        let first = range.first().get() >> PAGE_LG2;
        let last = range.last().get() >> PAGE_LG2;
        #[expect(clippy::cast_possible_truncation, reason = "at most 52: the highest bit of a page number")]
        let size_lg2 = (64 - (first ^ last).leading_zeros()) as u8;
        let address = if size_lg2 >= EVERYTHING { 0 } else { first >> size_lg2 << size_lg2 << PAGE_LG2 };
        Self { address, size_lg2 }
    }

    /// The command for one stream, and one of its PASIDs or, without one, all of its traffic.
    pub fn command(self, stream_id: u32, pasid: Option<Pasid>) -> Command {
        Command::atc_inv(stream_id, pasid.map(Pasid::get), self.address, self.size_lg2)
    }
}

impl<P: Platform, R: Registers> Hardware<P, R> {
    /// Makes the devices of these streams forget these spans. The TLB has forgotten them already.
    pub(crate) fn forget_atcs(
        &self,
        streams: &[(u32, Option<Pasid>)],
        spans: impl Iterator<Item = AtcSpan>,
    ) -> Result<(), SyncError> {
        if streams.is_empty() {
            return Ok(());
        }
        self.run(|batch| {
            for span in spans {
                streams.iter().for_each(|&(stream_id, pasid)| batch.add(span.command(stream_id, pasid)));
            }
        })
    }
}

#[cfg(test)]
mod tests {
    //! Part 18: ranges rounded to what the command can say, everything, by PASID.
    use portcullis_types::Iova;

    use super::*;

    fn span(first: u64, last: u64) -> AtcSpan {
        AtcSpan::covering(IovaRange::from_ends(Iova::new(first), Iova::new(last)).unwrap())
    }

    #[test]
    fn a_span_covers_its_range_is_aligned_and_no_smaller_one_would_do() {
        for first in 0..70u64 {
            for last in first..70 {
                let span = span(first << 12, (last << 12) | 0xfff);
                let (start, pages) = (span.address >> 12, 1 << span.size_lg2);
                assert!(start <= first && last < start + pages && start.is_multiple_of(pages));
                let half = pages / 2;
                let fits = half > 0 && first / half == last / half;
                assert!(!fits, "pages {first} to {last} would fit into {half}");
            }
        }
    }

    #[test]
    fn a_range_across_a_high_bit_is_said_as_far_more_than_it_is() {
        // Pages 7 and 8 differ in bit 3: the run is pages 0 to 15.
        assert_eq!(span(0x7000, 0x8fff), AtcSpan { address: 0, size_lg2: 4 });
        assert_eq!(span(0x8000, 0x8fff), AtcSpan { address: 0x8000, size_lg2: 0 });
        assert_eq!(span(0x8123, 0x8124), AtcSpan { address: 0x8000, size_lg2: 0 });
    }

    #[test]
    fn the_ends_of_the_address_space_can_be_said() {
        assert_eq!(span(0, u64::MAX), AtcSpan::ALL);
        assert_eq!(span(1 << 62, 1 << 63), AtcSpan::ALL);
        assert_eq!(span(1 << 63, u64::MAX), AtcSpan { address: 1 << 63, size_lg2: 51 });
        assert_eq!(span(u64::MAX, u64::MAX), AtcSpan { address: !0xfff, size_lg2: 0 });
    }

    #[test]
    fn commands_have_the_words_of_the_book() {
        // Opcode 0x40, SSV bit 11, SubstreamID 31:12, StreamID 63:32; Size 5:0, address 63:12.
        let words = |pasid| span(0xffff_860e_6000, 0xffff_860e_7fff).command(0x18, pasid).0;
        assert_eq!(words(Pasid::new(5)), [0x0000_0018_0000_5840, 0xffff_860e_6001]);
        assert_eq!(words(None), [0x0000_0018_0000_0040, 0xffff_860e_6001]);
        assert_eq!(AtcSpan::ALL.command(0x18, Pasid::new(0xf_ffff)).0, [0x0000_0018_ffff_f840, 52]);
    }
}
