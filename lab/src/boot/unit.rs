//! An IOMMU that firmware tells of: brought up, serviced, shut down.
//!
//! Not here: what differs (`smmu`, `smmuv2`, `vtd`, `phb3`).

use std::sync::Arc;

use portcullis::core::iommu::{GlobalError, Iommu};
use portcullis::core::iopf::FaultQueue;
use portcullis::core::sva::{CpuFacts, Serviced, SvaUnit};
use portcullis::core::unit::IommuUnit;
use portcullis::firmware::{DeviceRef, IommuAddresses, IommuKind, Machine, ReservedUse, Stream, Translation};
use portcullis::ioda2::Phb3;
use portcullis::pgtable::arm::HardwareUpdate;
use portcullis::smmuv2;
use portcullis::smmuv3::Smmu;
use portcullis::types::SourceId;
use portcullis::vtd::Vtd;

use super::irq::Line;
use super::messages::Messages;
use super::phb3::Chip;
use super::{System, phb3, smmu, smmuv2 as boot_smmuv2, vtd};
use crate::error::RunError;
use crate::platform::{LabPlatform, RegisterWindow};

/// What a VT-d unit keeps. Spec: VT-d 5.10, 9.1 "Root Entry": 256 of 16 bytes. The book's number and not the driver's: that it keeps no more is to be shown.
const ROOT_TABLE_BYTES: u64 = 4096;

/// An IOMMU that is up.
#[derive(Debug)]
pub struct Unit {
    /// Its index in the firmware's list.
    pub index: usize,
    /// Its driver.
    pub driver: Hardware,
    /// Its devices.
    pub unit: Arc<IommuUnit<LabPlatform>>,
    /// Its devices that share processes' memory. Its queue of page requests has workers as whoever services it calls them.
    pub sva: Arc<SvaUnit<LabPlatform>>,
    /// Its own interrupts, if they are messages.
    pub lines: Option<OwnLines>,
}

/// The driver of an IOMMU, and what belongs to that kind alone.
#[derive(Debug)]
pub enum Hardware {
    /// An SMMUv3.
    Smmu(Arc<Smmu<LabPlatform, RegisterWindow>>),
    /// An SMMUv2.
    Smmuv2(Arc<smmuv2::Smmu<LabPlatform, RegisterWindow>>),
    /// A VT-d unit.
    Vtd(Arc<Vtd<LabPlatform, RegisterWindow>>),
    /// A PHB3, and who takes its messages.
    Phb3(Arc<Phb3<LabPlatform, RegisterWindow>>, Arc<Messages>),
}

/// An IOMMU's own interrupts.
#[derive(Clone, Debug)]
pub struct OwnLines {
    /// There are events.
    pub events: Line,
    /// There is an error.
    pub errors: Line,
    /// There are page requests.
    pub page_requests: Line,
}

/// Brings up IOMMU `index` of the firmware's list. None for one that is not enabled: what is behind it is not used.
pub(super) fn bring_up(
    system: &System,
    cpus: Option<CpuFacts>,
    chip: &Chip,
    index: usize,
) -> Result<Option<Unit>, RunError> {
    let node = &system.firmware.iommus[index];
    if !node.enabled {
        return Ok(None);
    }
    match node.kind {
        IommuKind::SmmuV3 => smmu::bring_up(system, cpus, index).map(Some),
        IommuKind::SmmuV2 | IommuKind::Mmu500 => boot_smmuv2::bring_up(system, index).map(Some),
        IommuKind::Phb3 => phb3::bring_up(system, chip, index).map(Some),
        IommuKind::Vtd => vtd::bring_up(system, cpus, index).map(Some),
        IommuKind::Other => {
            let what = format!("no driver for an IOMMU that is {}", node.compatible.join(", "));
            Err(RunError::refused(
                &node.path,
                what,
                "use a machine whose IOMMUs are arm,smmu-v3, arm,smmu-v2, arm,mmu-500 or ibm,ioda2-phb",
            ))
        }
    }
}

/// Addresses by which firmware goes on using memory, and the sources behind IOMMU `index` of the firmware's list that do. All functions of a host bridge have none: which there
/// are is not known yet.
pub(super) fn used_directly(
    firmware: &Machine,
    index: usize,
) -> impl Iterator<Item = (&IommuAddresses, Vec<SourceId>)> {
    let sources = move |device: &DeviceRef| -> Vec<SourceId> {
        match *device {
            DeviceRef::PciFunction { host, function } => match firmware.pci_hosts[host].translation(function)
            {
                Translation::Behind { iommu, source } if iommu == index => vec![source],
                _ => Vec::new(),
            },
            DeviceRef::Platform(device) => {
                let own = firmware.devices[device].streams.iter().filter(|stream| stream.iommu == index);
                own.filter_map(Stream::source).collect()
            }
            _ => Vec::new(),
        }
    };
    let all = firmware.reserved_memory.iter().flat_map(|memory| &memory.addresses);
    all.filter(|addresses| addresses.used != ReservedUse::Reserved)
        .map(move |addresses| (addresses, sources(&addresses.device)))
        .filter(|(_, sources)| !sources.is_empty())
}

/// The sources that are to go on reaching memory while an SMMU comes up, each once.
pub(super) fn boot_streams(firmware: &Machine, index: usize) -> Vec<SourceId> {
    let mut sources: Vec<SourceId> =
        used_directly(firmware, index).flat_map(|(_, sources)| sources).collect();
    sources.sort_unstable();
    sources.dedup();
    sources
}

impl Unit {
    /// IOMMU `index` of the firmware's list, as core knows it by `iommu`: through who falsifies, if somebody does.
    pub(super) fn new(
        system: &System,
        index: usize,
        iommu: Arc<dyn Iommu<LabPlatform>>,
        driver: Hardware,
        lines: Option<OwnLines>,
    ) -> Self {
        let platform = &system.platform;
        let iommu = match platform.tamper() {
            Some(tamper) => tamper.between_core_and(iommu),
            None => iommu,
        };
        let unit = Arc::new(IommuUnit::new(platform.clone(), iommu));
        let sva = SvaUnit::new(unit.clone(), system.pasids.clone(), Arc::new(FaultQueue::new()));
        Self { index, driver, unit, sva, lines }
    }

    /// Reads events and page requests, whether or not their interrupts came, and brings them where they belong. Page requests are not yet
    /// handled then: that is for workers.
    pub fn service(&self) -> Serviced {
        for lines in self.lines.iter() {
            lines.events.take();
            lines.page_requests.take();
        }
        self.sva.service()
    }

    /// Whether an interrupt says that there is something to service. An IOMMU whose interrupts are wires is looked at each time.
    pub fn signals(&self) -> bool {
        self.lines.as_ref().is_none_or(|lines| lines.events.take() | lines.page_requests.take())
    }

    /// Which marks it sets by itself in entries of processes' tables.
    pub fn marks(&self) -> HardwareUpdate {
        let smmu = match &self.driver {
            Hardware::Smmu(smmu) => smmu,
            // A first stage has marks, and its walker sets them.
            Hardware::Vtd(_) => return HardwareUpdate::AccessAndDirty,
            Hardware::Smmuv2(_) | Hardware::Phb3(..) => return HardwareUpdate::None,
        };
        let features = smmu.features();
        match (features.access_flag, features.dirty_state) {
            (true, true) => HardwareUpdate::AccessAndDirty,
            (true, false) => HardwareUpdate::Access,
            (false, _) => HardwareUpdate::None,
        }
    }

    /// Looks at the IOMMU's errors.
    pub fn errors(&self) -> Vec<GlobalError> {
        self.unit.handle_errors()
    }

    /// Whether it records what a blocked device tries. An entry of an SMMUv3's aborts without a word; for all others nothing is there for a blocked device, which is a fault.
    pub fn records_blocked(&self) -> bool {
        !matches!(self.driver, Hardware::Smmu(_))
    }

    /// Its name: where firmware says it is.
    pub fn name(&self) -> &str {
        self.unit.iommu().name()
    }

    pub(super) fn shut_down(&self, platform: &LabPlatform) -> Result<(), RunError> {
        let down = match &self.driver {
            Hardware::Smmu(smmu) => smmu.teardown(),
            Hardware::Smmuv2(smmu) => smmu.teardown(),
            Hardware::Vtd(vtd) => {
                // One that is off lets everything pass: it goes on with a root table that has nothing in it.
                let down = vtd.teardown();
                platform.note_kept(ROOT_TABLE_BYTES);
                down
            }
            Hardware::Phb3(phb, messages) => {
                let down = phb.teardown();
                messages.shut_down();
                down
            }
        };
        down.map_err(|error| {
            let what = format!("it did not shut down: {error:?}");
            RunError::wrong(self.name(), what, "run with -v to see what it was told")
        })
    }
}
