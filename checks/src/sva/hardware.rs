//! The models of a rig: bus, CPUs whose broadcasts an SMMU hears, the judge between devices and the IOMMU, accelerators.
//!
//! Not here: anything that a driver does (`rig`).

use std::sync::Arc;

use model_bus::{Bus, BusOptions, Fabric, Translator};
use model_cpu::{BroadcastListener, Cpus, Message, Regime, Tlbi, x86};
use model_devices::accelerator::{PcieAccelerator, PlatformAccelerator};
use model_devices::pcie::{Host, RidMap, RootComplex, RootLayout, Window};
use model_smmuv3::{Broadcast, BroadcastRegime, BroadcastScope, Smmu};
use portcullis::types::{Pa, PaRange, SourceId};
use portcullis_lab::process::Cores;
use portcullis_lab::trace::SharedSink;

use super::before::Model;
use super::judge::Judge;
use super::plan::Plan;
use super::shadow::Shadow;

pub(super) const ECAM: u64 = 0x40_1000_0000;
pub(super) const LAST_BUS: u8 = 1;
pub(super) const WINDOW: u64 = 0x80_0000_0000;
pub(super) const WINDOW_BYTES: u64 = 0x1000_0000;
pub(super) const PLATFORM_BASE: u64 = 0x0c00_0000;
/// StreamIDs of platform devices come behind those of every requester id.
pub(super) const PLATFORM_STREAMS: u32 = 0x1000;

/// The model of an accelerator.
#[derive(Clone, Debug)]
pub enum AccelModel {
    /// On PCIe.
    Pcie(Arc<PcieAccelerator>),
    /// On the system bus.
    Platform(Arc<PlatformAccelerator>),
}

/// How the SMMU hears the CPUs.
struct Ears(Arc<Smmu>);

impl BroadcastListener for Ears {
    fn invalidate(&self, message: &Message) {
        let regime = match message.regime {
            Regime::El1 => BroadcastRegime::El1 { vmid: 0 },
            Regime::El2Host => BroadcastRegime::El2Host,
        };
        let address = |asid, first, last, last_level_only| BroadcastScope::Address {
            asid,
            first,
            last,
            last_level_only,
        };
        let scope = match message.operation {
            Tlbi::Asid { asid } => BroadcastScope::Asid { asid },
            Tlbi::Va { asid, va, last_level_only } => address(Some(asid), va, va, last_level_only),
            Tlbi::VaOfAllAsids { va, last_level_only } => address(None, va, va, last_level_only),
            Tlbi::Range { asid, first, last, last_level_only } => {
                address(Some(asid), first, last, last_level_only)
            }
            _ => BroadcastScope::All,
        };
        self.0.broadcast(&Broadcast { regime, scope });
    }

    fn sync(&self) {
        self.0.broadcast_sync();
    }
}

/// The hardware.
pub(super) struct Hardware {
    pub(super) bus: Arc<Bus>,
    pub(super) cpus: Cores,
    pub(super) iommu: Model,
    pub(super) judge: Arc<Judge>,
    pub(super) root: Arc<RootComplex>,
    pub(super) models: Vec<AccelModel>,
}

pub(super) fn range(first: u64, len_bytes: u64) -> PaRange {
    PaRange::new(Pa::new(first), len_bytes).expect("ranges of the rig do not wrap")
}

pub(super) fn streams(index: usize) -> [SourceId; 2] {
    let first = PLATFORM_STREAMS + 2 * u32::try_from(index).expect("few devices");
    [SourceId(first), SourceId(first + 1)]
}

pub(super) fn registers(index: usize) -> PaRange {
    range(PLATFORM_BASE + 0x1_0000 * index as u64, 0x1_0000)
}

impl Hardware {
    pub(super) fn new(plan: &Plan, sink: &SharedSink) -> Result<Self, String> {
        let bus = Bus::new(&BusOptions::new(plan.ram, plan.seed));
        let fabric: Arc<dyn Fabric> = bus.clone();
        let taken = |error: model_bus::Occupied| error.to_string();
        let iommu = Model::new(plan, &bus, sink)?;
        let tlbs = (plan.tlbs)(plan.seed);
        let cpus: Cores = match (&plan.pc, &iommu) {
            (Some(pc), _) => x86::Cpus::new(bus.clone(), &pc.cpus, tlbs).into(),
            (None, Model::Smmu(smmu)) => {
                let cpus = Cpus::new(bus.clone(), &plan.cpus, tlbs);
                cpus.add_listener(Arc::new(Ears(smmu.clone())));
                cpus.into()
            }
            (None, Model::Vtd(_)) => return Err("a VT-d unit is a PC's".into()),
        };
        let judge = Judge::new(iommu.translator(), Shadow::new(bus.clone()), plan.strict);
        let translator: Arc<dyn Translator> = judge.clone();
        let window = Window { cpu: range(WINDOW, WINDOW_BYTES), pci_first: WINDOW };
        let layout = RootLayout { ecam: Pa::new(ECAM), buses: 0..=LAST_BUS, windows: vec![window] };
        let ids = || RidMap::offset(0);
        let host = Host {
            translator: translator.clone(),
            fabric: fabric.clone(),
            stream_ids: ids(),
            device_ids: ids(),
            sink: sink.clone(),
        };
        let root = RootComplex::new(layout, host);
        root.connect(&bus).map_err(taken)?;
        let mut models = Vec::new();
        for (device, options) in (1u8..).zip(&plan.pcie) {
            let model = PcieAccelerator::new(options, sink.clone());
            root.root_bus().plug(device << 3, model.clone()).map_err(|error| format!("{error:?}"))?;
            bus.add_clocked(model.clone());
            models.push(AccelModel::Pcie(model));
        }
        for (index, options) in plan.platform.iter().enumerate() {
            let model = PlatformAccelerator::new(options, streams(index), &translator, &fabric, sink.clone());
            model.connect(&bus, registers(index).first()).map_err(taken)?;
            bus.add_clocked(model.clone());
            models.push(AccelModel::Platform(model));
        }
        Ok(Self { bus, cpus, iommu, judge, root, models })
    }
}
