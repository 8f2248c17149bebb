//! An SMMUv2 of a simulated machine.
//!
//! Its stream mapping lies in registers: an audit reads them as software does.

use std::sync::Arc;

use model_bus::{Fabric, Request, Unpredictable, Width};
use model_smmuv2::{Config as ModelConfig, FaultKind as ModelFault, Outlook, Policy, Smmu as Model};
use portcullis::core::iommu::SyncError;
use portcullis::smmuv2::{Config as DriverConfig, Implementation, Smmu, Stage};
use portcullis::types::{Pa, SizeLg2, SourceId};
use portcullis_lab::trace;

use super::{Driver, Iron, Parts, Place, Probe, Sight};
use crate::fault::{SyncTap, Tap};
use crate::hub::Hub;
use crate::machine::platform::{SimPlatform, SimRegisters};
use crate::machine::spec::Draw;
use crate::machine::wire::Wire;
use crate::oracle::tables::{Streams, Tables, Tagged, Way as Found};

/// How registers are laid out: pages of 64 KiB rather than 4 KiB, and NUMPAGENDXB.
#[derive(Clone, Copy, Debug)]
pub(in crate::machine) struct Frame {
    large_pages: bool,
    index_bits: u8,
}

impl Frame {
    /// One of those that fit between two SMMUs.
    pub(in crate::machine) fn draw(draw: &Draw) -> Self {
        let (large_pages, index_bits) = draw.of(&[(false, 4), (false, 4), (false, 5), (true, 3)]);
        Self { large_pages, index_bits }
    }
}

/// What one is made of.
#[derive(Clone, Debug)]
pub(super) struct Smmuv2 {
    model: ModelConfig,
    driver: DriverConfig,
    /// Two sources of a device that differ in one bit are named as one with a mask.
    masks: bool,
}

/// Draws one.
pub(super) fn draw(draw: &Draw, index: usize, granule: SizeLg2, coherent: bool, frame: Frame) -> Smmuv2 {
    let policy = draw.of(&[Policy::stale(), Policy::stale(), Policy::eager(), Policy::hostile()]);
    let mut model = draw.of(&[
        ModelConfig::default(),
        ModelConfig::default(),
        ModelConfig::indexed(),
        ModelConfig::stage1_only(),
        ModelConfig::stage2_only(),
    ]);
    (model.large_pages, model.page_index_bits) = (frame.large_pages, frame.index_bits);
    (model.policy, model.coherent_walks) = (policy, coherent);
    model.banks = draw.of(&[16, 16, 12]);
    model.stage2_banks = if model.stage1 && model.stage2 { draw.of(&[0, 0, 2]) } else { 0 };
    model.match_mask = draw.of(&[0x7fff, 0x7fff, 0]);
    model.vmid_16_bits = draw.once_in(2);
    model.hierarchical_disable = draw.once_in(2);
    (model.granule_4k, model.granule_16k, model.granule_64k) = match granule {
        SizeLg2::KIB_4 => (true, draw.once_in(2), draw.once_in(2)),
        SizeLg2::KIB_16 => (draw.once_in(2), true, draw.once_in(2)),
        _ => (draw.once_in(2), draw.once_in(2), true),
    };
    let mut driver = DriverConfig::new(format!("smmu{index}"));
    (driver.granule, driver.coherent) = (Some(granule), coherent);
    driver.stage = if model.stage1 && model.stage2 {
        draw.of(&[Stage::Auto, Stage::Auto, Stage::Two])
    } else {
        Stage::Auto
    };
    driver.wide_writes = !draw.once_in(4);
    driver.implementation = draw.of(&[Implementation::Architecture, Implementation::Mmu500]);
    let masks = model.stream_matching && model.match_mask != 0 && draw.once_in(2);
    Smmuv2 { model, driver, masks }
}

impl Parts for Smmuv2 {
    fn window_bytes(&self) -> u64 {
        self.model.size_bytes()
    }

    fn build(&self, hub: &Arc<Hub>, coherent: bool, seed: u64) -> Arc<dyn Iron> {
        let fabric: Arc<dyn Fabric> = Arc::new(Wire::new(hub.bus.clone(), hub.clone(), coherent));
        Arc::new(Hardware(Arc::new(Model::new(self.model.clone(), fabric, seed, trace::shared(None)))))
    }

    fn probe(&self, with: Probe) -> Result<Arc<dyn Driver>, String> {
        let mut config = self.driver.clone();
        config.wait_limit_ns = with.wait_limit_ns;
        let driver = Smmu::probe(with.platform, with.registers, config);
        Ok(driver.map_err(|error| format!("{error:?}"))?)
    }

    fn tap(&self, registers: u64) -> Box<dyn Tap> {
        Box::new(SyncTap::new(registers, self.model.page_bytes(), self.model.banks_at()))
    }

    fn named(&self, sources: &[SourceId]) -> Vec<SourceId> {
        match *sources {
            // The mask lies above the id.
            [SourceId(first), SourceId(second)] if self.masks && first & !1 == second & !1 => {
                vec![SourceId(first & !1 | 1 << 16)]
            }
            _ => sources.to_vec(),
        }
    }

    fn no_source(&self) -> SourceId {
        SourceId(1 << self.model.stream_id_bits)
    }
}

impl Driver for Smmu<SimPlatform, SimRegisters> {
    fn teardown(&self) -> Result<(), SyncError> {
        Self::teardown(self)
    }
}

struct Hardware(Arc<Model>);

impl Hardware {
    /// Looks at the registers that say where streams go, by `read`.
    fn streams<T>(&self, read: impl Fn(u64, Width) -> u64, look: impl FnOnce(&Streams<'_>) -> T) -> T {
        let load = |offset: u64| u32::try_from(read(offset, Width::Bits32)).unwrap_or(u32::MAX);
        let load64 = |offset: u64| read(offset, Width::Bits64);
        look(&Streams { page: self.0.config().page_bytes(), load: &load, load64: &load64 })
    }
}

impl Iron for Hardware {
    fn model(&self) -> Arc<dyn super::Model> {
        self.0.clone()
    }

    fn sight(&self, _: &Place<'_>, request: &Request) -> Sight {
        match self.0.outlook(request) {
            Outlook::Allowed(pa) => Sight::Allowed(pa),
            Outlook::Refused(
                kind @ (ModelFault::StreamMatchConflict
                | ModelFault::UnimplementedBank
                | ModelFault::External
                | ModelFault::AddressSize),
            ) => Sight::Mixed(kind.name().into()),
            Outlook::Refused(_) => Sight::Refused,
        }
    }

    fn way(&self, at: &Place<'_>, source: SourceId, tables: &Tables<'_>) -> Found {
        let read = |offset: u64, width| {
            at.bus().read_register(Pa::new(at.registers + offset), width).unwrap_or(u64::MAX)
        };
        self.streams(read, |streams| streams.way(source.0, tables))
    }

    /// Looked at, and not read: a read gives the model a turn, and lives would be others for being audited.
    fn tags(&self, _: &Place<'_>, source: SourceId, tables: &Tables<'_>) -> Vec<Tagged> {
        let read = |offset: u64, width| self.0.peek(offset, width);
        self.streams(read, |streams| streams.tag(source.0, tables)).into_iter().collect()
    }

    fn take_unpredictable(&self) -> Vec<Unpredictable> {
        self.0.take_unpredictable()
    }

    fn is_excused(&self, _: &Unpredictable, _: &dyn Tap, _: bool) -> bool {
        false
    }

    fn events_lost(&self) -> u64 {
        self.0.faults_lost()
    }
}
