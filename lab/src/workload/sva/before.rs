//! The model of the IOMMU before the accelerator: what a run asks of it, whatever its kind.
//!
//! Not here: the device (`device`), what is proved with it (`verify`).

use std::sync::Arc;

use model_bus::Translator;
use model_smmuv3::{Smmu, StallModel};
use model_vtd::Vtd;

use crate::machine::Machine;
use crate::machine::spec::Place;

/// A model of an IOMMU that can share processes' memory.
pub(super) enum Before {
    Smmu(Arc<Smmu>),
    Vtd(Arc<Vtd>),
}

impl Before {
    /// What is before the device in a place.
    pub(super) fn of_place(machine: &Machine, place: &Place) -> Option<Self> {
        match machine.spec.host_bridges[place.bridge].smmu {
            Some((index, _)) => Self::smmu(machine, index),
            None => {
                let unit = machine.spec.unit_of(place.bridge, &place.way)?;
                machine.vtds.get(unit).cloned().map(Self::Vtd)
            }
        }
    }

    /// An SMMUv3 by its index.
    pub(super) fn smmu(machine: &Machine, index: usize) -> Option<Self> {
        machine.smmus.get(index).cloned().map(Self::Smmu)
    }

    /// What accesses go through.
    pub(super) fn translator(&self) -> &dyn Translator {
        match self {
            Self::Smmu(smmu) => &**smmu,
            Self::Vtd(vtd) => &**vtd,
        }
    }

    /// Stalled accesses that went on.
    pub(super) fn resumed(&self) -> u64 {
        match self {
            Self::Smmu(smmu) => smmu.counters().resumed,
            Self::Vtd(_) => 0,
        }
    }

    /// Whether accesses stall that fault, whatever software wants.
    pub(super) fn stalls_always(&self) -> bool {
        match self {
            Self::Smmu(smmu) => smmu.config().stall == StallModel::Forced,
            Self::Vtd(_) => false,
        }
    }

    /// Whether it answers by itself what a device asks of a process that has exited, so that software sees none of it: VT-d looks at the entry of the PASID first.
    ///
    /// Spec: VT-d 5.10, 7.4 "Handling of Page Requests".
    pub(super) fn answers_for_the_dead(&self) -> bool {
        matches!(self, Self::Vtd(_))
    }

    /// Faults that it has reported, without stalls.
    pub(super) fn reported(&self) -> u64 {
        match self {
            Self::Smmu(smmu) => {
                let counted = smmu.counters();
                counted.events_total().saturating_sub(counted.stalls)
            }
            Self::Vtd(vtd) => vtd.counters().faults_recorded,
        }
    }
}
