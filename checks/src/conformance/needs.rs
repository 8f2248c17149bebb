//! What a case needs of a bed, and why it is left out where that is not there.

use portcullis::types::SizeLg2;

use super::bed::{Bed, Limits};
use super::sight::Ids;

/// Something that not every bed has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// Stage 1 translates. SMMU_IDR0.S1P.
    Stage1,
    /// Stage 2 translates. SMMU_IDR0.S2P.
    Stage2,
    /// This granule. SMMU_IDR5.GRAN4K and its kin.
    Granule(SizeLg2),
    /// Two-level stream tables. SMMU_IDR0.ST_LEVEL.
    TwoLevelStreams,
    /// Substreams, of an SMMU and of engines. SMMU_IDR1.SSIDSIZE.
    Substreams,
    /// Engines that mark accesses.
    Marks,
    /// Changes of a block's size without a gap. SMMU_IDR3.BBML.
    LiveSplits,
    /// ASIDs and VMIDs of 8 bits, which can be used up in a moment. SMMU_IDR0.ASID16 and VMID16.
    ShortIds,
    /// Addresses that can be larger than what a translation may put out: OAS below 52 bits.
    NarrowOutput,
}

impl Need {
    /// Why it is not there; none if it is.
    pub fn missing(self, ids: Ids, limits: Limits) -> Option<String> {
        let bit = |word: u32, position: u32| word >> position & 1 == 1;
        let (there, reason) = match self {
            Self::Stage1 => (bit(ids.idr0, 1), "IDR0.S1P is 0: no stage 1".into()),
            Self::Stage2 => (bit(ids.idr0, 0), "IDR0.S2P is 0: no stage 2".into()),
            Self::Granule(size) => {
                let position = match size {
                    SizeLg2::KIB_16 => 5,
                    SizeLg2::KIB_64 => 6,
                    _ => 4,
                };
                (bit(ids.idr5, position), format!("IDR5: no granule of {size}"))
            }
            Self::TwoLevelStreams => {
                (ids.idr0 >> 27 & 3 == 1, "IDR0.ST_LEVEL is 0: linear stream tables only".into())
            }
            Self::Substreams if !limits.pasids => (false, "the engines have no PASIDs".into()),
            Self::Substreams => (ids.idr1 >> 6 & 0x1f > 0, "IDR1.SSIDSIZE is 0: no substreams".into()),
            Self::Marks => (limits.marks, "the engines mark no access as privileged or as a fetch".into()),
            Self::LiveSplits => {
                (ids.idr3 >> 11 & 3 == 2, "IDR3.BBML is below 2: a live block is not split".into())
            }
            Self::ShortIds => (
                !bit(ids.idr0, 12) && !bit(ids.idr0, 18),
                "IDR0.ASID16 or VMID16: 65,535 ids are not used up in a moment".into(),
            ),
            Self::NarrowOutput => {
                (ids.output_bits() < 52, "IDR5.OAS: no descriptor says an address beyond it".into())
            }
        };
        (!there).then_some(reason)
    }

    /// Why the first of these that is missing is missing.
    pub fn first_missing<B: Bed>(needs: &[Self], ids: Ids, bed: &B) -> Option<String> {
        needs.iter().find_map(|need| need.missing(ids, bed.limits()))
    }
}
