//! The model of the IOMMU in front of a device, whichever it is: to try accesses as the device would make them.

use std::sync::Arc;

use model_bus::{Outcome, Passage, Request, Stall, StallState, Translator};
use model_ioda2::Phb3;
use model_smmuv2 as smmuv2;
use model_smmuv3::Smmu;
use model_vtd::Vtd;
use portcullis::types::SourceId;

use crate::machine::{Machine, MachineSpec};

/// What stands in front of a device.
#[derive(Clone, Debug)]
pub(super) enum Front {
    /// An SMMUv3.
    Smmu(Arc<Smmu>),
    /// An SMMUv2.
    Smmuv2(Arc<smmuv2::Smmu>),
    /// A VT-d unit.
    Vtd(Arc<Vtd>),
    /// A PHB3.
    Phb3(Arc<Phb3>),
}

impl Front {
    /// What stands in front of a disk, by the disk's index.
    pub(super) fn of_disk(spec: &MachineSpec, machine: &Machine, disk: usize) -> Option<Self> {
        let place = spec.disks().nth(disk)?;
        let bridge = place.bridge;
        match (spec.host_bridges[bridge].phb3(), spec.host_bridges[bridge].smmu) {
            (Some(_), _) => {
                let before = spec.host_bridges[..bridge].iter().filter(|other| other.phb3().is_some());
                machine.phbs.get(before.count()).cloned().map(Self::Phb3)
            }
            (None, Some((smmu, _))) => match smmu.checked_sub(machine.smmus.len()) {
                None => machine.smmus.get(smmu).cloned().map(Self::Smmu),
                Some(smmu) => machine.smmuv2s.get(smmu).cloned().map(Self::Smmuv2),
            },
            (None, None) => {
                let unit = spec.unit_of(bridge, &place.way)?;
                machine.vtds.get(unit).cloned().map(Self::Vtd)
            }
        }
    }

    /// One access: what became of it, and where it was let through to.
    pub(super) fn access(&self, request: &Request) -> (Outcome, u64) {
        let mut to = 0;
        let mut commit = |passage: Passage| {
            to = passage.pa.get();
            Ok(())
        };
        let outcome = match self {
            Self::Smmu(smmu) => smmu.access(request, &mut commit),
            Self::Smmuv2(smmu) => smmu.access(request, &mut commit),
            Self::Vtd(vtd) => vtd.access(request, &mut commit),
            Self::Phb3(phb) => phb.access(request, &mut commit),
        };
        (outcome, to)
    }

    /// What became of an access that was held back.
    pub(super) fn stalled(&self, stall: Stall) -> StallState {
        match self {
            Self::Smmu(smmu) => smmu.stalled(stall),
            Self::Smmuv2(smmu) => smmu.stalled(stall),
            Self::Vtd(_) | Self::Phb3(_) => StallState::Aborted,
        }
    }

    /// Whether a fault freezes the device, so that what it does next leaves no record.
    pub(super) fn freezes(&self) -> bool {
        matches!(self, Self::Phb3(_))
    }

    /// Whether it has room for one record at a time, so that each fault is to be taken before the next.
    pub(super) fn keeps_one_record(&self) -> bool {
        matches!(self, Self::Phb3(_) | Self::Smmuv2(_))
    }

    /// Whether the device is frozen.
    pub(super) fn is_frozen(&self, source: SourceId) -> bool {
        match self {
            Self::Smmu(_) | Self::Smmuv2(_) | Self::Vtd(_) => false,
            Self::Phb3(phb) => phb.pe_of(source).is_some_and(|pe| phb.is_dma_frozen(pe)),
        }
    }
}
