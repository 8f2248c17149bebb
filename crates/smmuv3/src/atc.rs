//! Device TLBs (ATCs): which invalidation makes a device forget a range.
//!
//! A command can say a run of pages only if their number is a power of two and the first is a multiple of it. The run for any range is the
//! smallest such that holds its first page and its last: it is found from the highest bit in which the two differ. It may be far
//! larger than the range, never smaller. It is never smaller than the smallest translation unit (STU) either, which devices may answer with
//! "unsupported request": the smallest granule of the SMMU, and what every device behind it is to be told in its ATS Control Register.
//!
//! # Order
//!
//! An ATC fills itself from the TLB, hence TLB invalidations and their sync come first, then ATC invalidations and theirs. (A device that
//! answers "unsupported request" completes the command without a guarantee; nothing on this side can tell.)
//!
//! # A device that does not answer
//!
//! It makes that second sync fail, and that of whoever else had queued ATC invalidations before it; which of them timed out is not said. So each
//! stream is then invalidated once more by itself, and who answers alone is fine. For one that does not, the failure is passed on, and
//! pages and ids are kept. The way out is to give the device up: to attach it to `Target::Blocked`, which needs no answer. Its entry then
//! aborts what comes translated (CR0.ATSCHK is set), and a device whose entry leads elsewhere for sure (`Contexts::is_cut_off`) is not
//! asked any more.
//!
//! Spec: SMMUv3 H.a, 4.5.1 "CMD_ATC_INV", 3.9.1 "ATS Interface", 3.9.1.4 "ATS Invalidation timeout", 3.9.1.5 "ATS Invalidation errors",
//! 3.21.1 "Translation tables and TLB invalidation completion behavior".

use portcullis_core::iommu::SyncError;
use portcullis_hal::{Platform, Registers};
use portcullis_spec::smmuv3::command::Command;
use portcullis_spec::smmuv3::registers::CERROR_ATC_INV_SYNC;
use portcullis_types::trace::{Event, Value};
use portcullis_types::{IovaRange, Pasid, SizeLg2, mutant};

use crate::hardware::Hardware;

/// The unit of a command's size: 4 KiB.
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

    /// The smallest run of at least `unit`, the smallest translation unit, that covers `range`.
    pub fn covering(range: IovaRange, unit: SizeLg2) -> Self {
        let first = range.first().get() >> PAGE_LG2;
        let last = if mutant!("device-forgets-the-first-page-only") { range.first() } else { range.last() };
        let last = last.get() >> PAGE_LG2;
        #[expect(clippy::cast_possible_truncation, reason = "at most 52: the highest bit of a page number")]
        let size_lg2 = ((64 - (first ^ last).leading_zeros()) as u8).max(unit.get().saturating_sub(PAGE_LG2));
        let address = if size_lg2 >= EVERYTHING { 0 } else { first >> size_lg2 << size_lg2 << PAGE_LG2 };
        Self { address, size_lg2 }
    }

    /// The command for one stream, and one of its PASIDs or, without one, all of its traffic.
    pub fn command(self, stream_id: u32, pasid: Option<Pasid>) -> Command {
        Command::atc_inv(stream_id, pasid.map(Pasid::get), self.address, self.size_lg2)
    }
}

impl<P: Platform, R: Registers> Hardware<P, R> {
    /// What devices behind this SMMU translate at least at once.
    ///
    /// Spec: SMMUv3 H.a, 3.9.1 "ATS Interface", "Smallest Translation Unit": the smallest granule that the SMMU implements, for all devices.
    pub(crate) fn translation_unit(&self) -> SizeLg2 {
        self.features.granules.smallest().unwrap_or(SizeLg2::KIB_4)
    }

    /// Makes the devices of these streams forget these spans. The TLB has forgotten them already.
    pub(crate) fn forget_atcs(
        &self,
        streams: &[(u32, Option<Pasid>)],
        spans: &[AtcSpan],
    ) -> Result<(), SyncError> {
        if streams.is_empty() || mutant!("device-tlb-never-flushed") {
            return Ok(());
        }
        match self.ask_atcs(streams, spans) {
            Err(SyncError::Failed { code }) if code == u32::from(CERROR_ATC_INV_SYNC) => {}
            outcome => return outcome,
        }
        // Somebody did not answer, perhaps somebody else: each by itself.
        let mut outcome = Ok(());
        for stream in streams {
            if let Err(error) = self.ask_atcs(core::slice::from_ref(stream), spans) {
                self.platform.event(&Event {
                    source: "smmuv3",
                    name: "atc_silent",
                    fields: &[("sid", Value::Hex(stream.0.into()))],
                });
                outcome = outcome.and(Err(error));
            }
        }
        outcome
    }

    fn ask_atcs(&self, streams: &[(u32, Option<Pasid>)], spans: &[AtcSpan]) -> Result<(), SyncError> {
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
        AtcSpan::covering(range(first, last), SizeLg2::KIB_4)
    }

    fn range(first: u64, last: u64) -> IovaRange {
        IovaRange::from_ends(Iova::new(first), Iova::new(last)).unwrap()
    }

    #[test]
    fn part_18_no_span_is_smaller_than_what_devices_translate_at_once() {
        let small = range(0x1234_5000, 0x1234_5fff);
        let with = |unit| AtcSpan::covering(small, unit);
        assert_eq!(with(SizeLg2::KIB_16), AtcSpan { address: 0x1234_4000, size_lg2: 2 });
        assert_eq!(with(SizeLg2::KIB_64), AtcSpan { address: 0x1234_0000, size_lg2: 4 });
        let large = range(0x1234_0000, 0x1235_ffff);
        assert_eq!(AtcSpan::covering(large, SizeLg2::KIB_64), AtcSpan { address: 0x1234_0000, size_lg2: 5 });
    }

    #[test]
    fn part_18_a_span_covers_its_range_is_aligned_and_no_smaller_one_would_do() {
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
    fn part_18_a_range_across_a_high_bit_is_said_as_far_more_than_it_is() {
        // Pages 7 and 8 differ in bit 3: the run is pages 0 to 15.
        assert_eq!(span(0x7000, 0x8fff), AtcSpan { address: 0, size_lg2: 4 });
        assert_eq!(span(0x8000, 0x8fff), AtcSpan { address: 0x8000, size_lg2: 0 });
        assert_eq!(span(0x8123, 0x8124), AtcSpan { address: 0x8000, size_lg2: 0 });
    }

    #[test]
    fn part_18_the_ends_of_the_address_space_can_be_said() {
        assert_eq!(span(0, u64::MAX), AtcSpan::ALL);
        assert_eq!(span(1 << 62, 1 << 63), AtcSpan::ALL);
        assert_eq!(span(1 << 63, u64::MAX), AtcSpan { address: 1 << 63, size_lg2: 51 });
        assert_eq!(span(u64::MAX, u64::MAX), AtcSpan { address: !0xfff, size_lg2: 0 });
    }

    #[test]
    fn part_18_commands_have_the_words_of_the_book() {
        // Opcode 0x40, SSV bit 11, SubstreamID 31:12, StreamID 63:32; Size 5:0, address 63:12.
        let words = |pasid| span(0xffff_860e_6000, 0xffff_860e_7fff).command(0x18, pasid).0;
        assert_eq!(words(Pasid::new(5)), [0x0000_0018_0000_5840, 0xffff_860e_6001]);
        assert_eq!(words(None), [0x0000_0018_0000_0040, 0xffff_860e_6001]);
        assert_eq!(AtcSpan::ALL.command(0x18, Pasid::new(0xf_ffff)).0, [0x0000_0018_ffff_f840, 52]);
    }
}
