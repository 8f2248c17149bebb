//! The IOMMU of a rig, whichever it is: its model and its driver, and what a run asks of both.
//!
//! Not here: what stands before it and watches (`judge`).

use std::sync::Arc;

use model_bus::{Bus, Fabric, Request, Translator};
use model_smmuv3::{Outlook, Smmu};
use model_vtd::{Interrupt, Interrupts, Memory, Reason, Vtd};
use portcullis::core::iommu::{Iommu, SyncError};
use portcullis::core::sva::CpuFacts;
use portcullis::smmuv3;
use portcullis::vtd;
use portcullis_lab::platform::{LabPlatform, RegisterWindow};
use portcullis_lab::trace::SharedSink;

use super::hardware::range;
use super::plan::{PcPlan, Plan};
use crate::wrong::descriptors::VTD_BASE;
use crate::wrong::view::SMMU_BASE;

/// The model of an IOMMU.
#[derive(Clone, Debug)]
pub enum Model {
    /// An SMMUv3.
    Smmu(Arc<Smmu>),
    /// A VT-d unit.
    Vtd(Arc<Vtd>),
}

/// The shipped driver of one.
#[derive(Clone, Debug)]
pub enum Driver {
    /// Of an SMMUv3.
    Smmu(Arc<smmuv3::Smmu<LabPlatform, RegisterWindow>>),
    /// Of a VT-d unit.
    Vtd(Arc<vtd::Vtd<LabPlatform, RegisterWindow>>),
}

/// What the model of an IOMMU has counted.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counted {
    /// Page requests and stalls.
    pub faults: u64,
    /// Answers that it gave by itself where there was no room.
    pub automatic: u64,
}

/// Nobody: the unit is looked at.
struct Deaf;

impl Interrupts for Deaf {
    fn deliver(&self, _: &Interrupt) {}
}

impl Model {
    /// The IOMMU of a plan, on the bus.
    pub(super) fn new(plan: &Plan, bus: &Arc<Bus>, sink: &SharedSink) -> Result<Self, String> {
        let taken = |error: model_bus::Occupied| error.to_string();
        match &plan.pc {
            None => {
                let fabric: Arc<dyn Fabric> = bus.clone();
                let smmu = Arc::new(Smmu::new(plan.smmu.clone(), fabric, plan.seed, sink.clone()));
                bus.add_registers("smmu", range(SMMU_BASE, 0x2_0000), smmu.clone()).map_err(taken)?;
                bus.add_clocked(smmu.clone());
                Ok(Self::Smmu(smmu))
            }
            Some(PcPlan { unit, .. }) => {
                let memory = Memory { snooped: bus.clone(), unsnooped: bus.non_snooping() };
                let vtd = Arc::new(Vtd::new(*unit, memory, Arc::new(Deaf), plan.seed, sink.clone()));
                bus.add_registers("vtd", range(VTD_BASE, Vtd::REGISTER_BYTES), vtd.clone()).map_err(taken)?;
                bus.add_clocked(vtd.clone());
                Ok(Self::Vtd(vtd))
            }
        }
    }

    /// What accesses go through.
    pub(super) fn translator(&self) -> Arc<dyn Translator> {
        match self {
            Self::Smmu(smmu) => smmu.clone(),
            Self::Vtd(vtd) => vtd.clone(),
        }
    }

    /// The SMMUv3.
    ///
    /// # Panics
    ///
    /// If it is another: a slip in the test that asks.
    pub fn smmu(&self) -> &Arc<Smmu> {
        let Self::Smmu(smmu) = self else { panic!("the plan has no SMMUv3") };
        smmu
    }

    /// The VT-d unit.
    ///
    /// # Panics
    ///
    /// If it is another: a slip in the test that asks.
    pub fn vtd(&self) -> &Arc<Vtd> {
        let Self::Vtd(vtd) = self else { panic!("the plan has no VT-d unit") };
        vtd
    }

    /// Whether tables lead a request nowhere, without anything being wrong with them. Otherwise what it would meet.
    pub(super) fn finds_nothing(&self, request: &Request) -> Result<(), String> {
        match self {
            Self::Smmu(smmu) => match smmu.outlook(request) {
                Outlook::Refused(Some(kind)) if kind.name() == "F_TRANSLATION" => Ok(()),
                other => Err(format!("{other:?}")),
            },
            Self::Vtd(vtd) => match vtd.outlook(request) {
                model_vtd::Outlook::Refused(Some(reason)) if is_absence(reason) => Ok(()),
                other => Err(format!("{other:?}")),
            },
        }
    }

    /// Records that no driver that keeps its promises lets hardware make: of accesses that found their configuration wrong, or missing.
    pub(super) fn loud(&self) -> Vec<String> {
        match self {
            Self::Smmu(smmu) => {
                let events = smmu.counters().events;
                let loud = events.iter().filter(|(kind, _)| kind.name().starts_with("C_"));
                loud.map(|(kind, count)| format!("{count} events of kind {}", kind.name())).collect()
            }
            Self::Vtd(vtd) => {
                // What a device asks for it asks its ATC for: where that finds nothing, no fault is recorded.
                let counters = vtd.counters();
                let count = counters.faults_recorded + counters.faults_lost;
                let recorded =
                    (count > 0).then(|| format!("{count} faults recorded of {:?}", counters.faults));
                recorded.into_iter().collect()
            }
        }
    }

    /// What was done that the book forbids.
    pub(super) fn forbidden(&self) -> Vec<String> {
        let forbidden = match self {
            Self::Smmu(smmu) => smmu.take_unpredictable(),
            Self::Vtd(vtd) => vtd.take_unpredictable(),
        };
        forbidden.iter().take(4).map(|one| format!("forbidden: {} ({})", one.clause, one.detail)).collect()
    }

    /// What it has counted.
    pub fn counted(&self) -> Counted {
        match self {
            Self::Smmu(smmu) => {
                let counters = smmu.counters();
                let faults = counters.page_requests + counters.stalls;
                Counted { faults, automatic: counters.auto_responses }
            }
            Self::Vtd(vtd) => {
                let counters = vtd.counters();
                Counted { faults: counters.page_requests, automatic: counters.own_page_responses }
            }
        }
    }
}

/// Whether an entry for the address is not present, which is what an empty table says.
fn is_absence(reason: Reason) -> bool {
    matches!(reason, Reason::FirstNotPresent | Reason::SecondNotPresent)
}

impl Driver {
    /// Probes the IOMMU of a plan.
    pub(super) fn probe(
        plan: &Plan,
        platform: &Arc<LabPlatform>,
        facts: Option<CpuFacts>,
    ) -> Result<Self, String> {
        let Some(PcPlan { unit, .. }) = &plan.pc else {
            let mut config = smmuv3::Config::new("smmu");
            config.cpus = facts;
            config.broadcast = plan.listen;
            config.range_invalidation = plan.by_range;
            config.page_request_queue_lg2 = plan.page_queue_lg2;
            config.event_queue_lg2 = plan.event_queue_lg2;
            config.wait_limit_ns = plan.wait_limit_ns;
            let frame = platform.registers(range(SMMU_BASE, 0x2_0000));
            let driver = smmuv3::Smmu::probe(platform.clone(), frame, config);
            return driver.map(Self::Smmu).map_err(|error| format!("probe: {error:?}"));
        };
        let mut config = vtd::Config::new("dmar0");
        config.cpus = facts;
        config.host_address_bits = unit.host_bits;
        config.page_selective = plan.by_range;
        config.page_request_queue_lg2 = plan.page_queue_lg2;
        config.wait_limit_ns = plan.wait_limit_ns;
        let frame = Arc::new(platform.registers(range(VTD_BASE, Vtd::REGISTER_BYTES)));
        let driver = vtd::Vtd::probe(platform.clone(), frame, config);
        driver.map(|driver| Self::Vtd(Arc::new(driver))).map_err(|error| format!("probe: {error:?}"))
    }

    /// That of an SMMUv3.
    ///
    /// # Panics
    ///
    /// If it is another: a slip in the test that asks.
    pub fn smmu(&self) -> &Arc<smmuv3::Smmu<LabPlatform, RegisterWindow>> {
        let Self::Smmu(driver) = self else { panic!("the plan has no SMMUv3") };
        driver
    }

    /// As core knows it.
    pub(super) fn as_core(&self) -> Arc<dyn Iommu<LabPlatform>> {
        match self {
            Self::Smmu(driver) => driver.clone(),
            Self::Vtd(driver) => driver.clone(),
        }
    }

    /// How often page requests were lost, as the driver knows.
    pub fn page_request_overflows(&self) -> u64 {
        match self {
            Self::Smmu(driver) => driver.counts().page_request_overflows,
            Self::Vtd(driver) => driver.counts().page_request_overflows,
        }
    }

    pub(super) fn teardown(&self) -> Result<(), SyncError> {
        match self {
            Self::Smmu(driver) => driver.teardown(),
            Self::Vtd(driver) => driver.teardown(),
        }
    }

    /// Blocks of its tables that hardware keeps when the driver is gone: of VT-d the root table, because a unit that is off lets everything pass.
    pub(super) fn keeps_blocks(&self) -> usize {
        match self {
            Self::Smmu(_) => 0,
            Self::Vtd(_) => 1,
        }
    }
}
