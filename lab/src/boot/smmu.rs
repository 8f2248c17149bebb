//! Bringing up an IOMMU that firmware tells of.

use std::sync::Arc;

use portcullis::core::iommu::{GlobalError, Iommu};
use portcullis::core::iopf::FaultQueue;
use portcullis::core::sva::{CpuFacts, Serviced, SvaUnit};
use portcullis::core::unit::IommuUnit;
use portcullis::firmware::IommuKind;
use portcullis::pgtable::arm::HardwareUpdate;
use portcullis::smmuv3::{Config, Msi, Smmu};

use super::System;
use super::irq::Line;
use crate::error::RunError;
use crate::machine::fdt::FRAME_BYTES;
use crate::platform::{LabPlatform, RegisterWindow};

/// Events that an SMMU sends as messages of its own.
const EVENT_QUEUE: u32 = 0;
const GLOBAL_ERROR: u32 = 1;
const PAGE_REQUESTS: u32 = 2;

/// An IOMMU that is up.
#[derive(Debug)]
pub struct Unit {
    /// Its index in the firmware's list.
    pub index: usize,
    /// Its driver.
    pub smmu: Arc<Smmu<LabPlatform, RegisterWindow>>,
    /// Its devices.
    pub unit: Arc<IommuUnit<LabPlatform>>,
    /// Its devices that share processes' memory. Its queue of page requests has workers as whoever services it calls them.
    pub sva: Arc<SvaUnit<LabPlatform>>,
    /// Its own interrupts, if they are messages.
    pub lines: Option<OwnLines>,
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
    index: usize,
) -> Result<Option<Unit>, RunError> {
    let System { platform, firmware, interrupts, pasids, .. } = system;
    let node = &firmware.iommus[index];
    if !node.enabled {
        return Ok(None);
    }
    let (IommuKind::SmmuV3, Some(&frame)) = (node.kind, node.registers.first()) else {
        let what = format!("no driver for an IOMMU that is {}", node.compatible.join(", "));
        return Err(RunError::refused(&node.path, what, "use a machine whose IOMMUs are arm,smmu-v3"));
    };
    if frame.len_bytes().is_some_and(|len| len < FRAME_BYTES) {
        let what = format!("an SMMUv3 has {} KiB of registers, and {frame} is less", FRAME_BYTES >> 10);
        return Err(RunError::bad_input(&node.path, what, "correct the tree, or name a built-in machine"));
    }
    let lines = match node.msi.first() {
        Some(&target) => {
            let line = |event| interrupts.line(&node.path, target, event);
            Some(OwnLines {
                events: line(EVENT_QUEUE)?,
                errors: line(GLOBAL_ERROR)?,
                page_requests: line(PAGE_REQUESTS)?,
            })
        }
        None => None,
    };
    let mut config = Config::new(node.path.clone());
    config.coherent = node.dma_coherent;
    config.cpus = cpus;
    config.msi = lines.as_ref().map(|lines| Msi {
        doorbell: lines.events.doorbell,
        event_data: lines.events.data,
        error_data: lines.errors.data,
        page_request_data: lines.page_requests.data,
    });
    let smmu = Smmu::probe(platform.clone(), platform.registers(frame), config).map_err(|error| {
        RunError::wrong(
            &node.path,
            format!("probing the SMMU failed: {error:?}"),
            "run with -v to see its registers and commands",
        )
    })?;
    let driver: Arc<dyn Iommu<LabPlatform>> = smmu.clone();
    let driver = match platform.tamper() {
        Some(tamper) => tamper.between_core_and(driver),
        None => driver,
    };
    let unit = Arc::new(IommuUnit::new(platform.clone(), driver));
    let sva = SvaUnit::new(unit.clone(), pasids.clone(), Arc::new(FaultQueue::new()));
    Ok(Some(Unit { index, smmu, unit, sva, lines }))
}

impl Unit {
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
        let features = self.smmu.features();
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

    pub(super) fn shut_down(&self) -> Result<(), RunError> {
        self.smmu.teardown().map_err(|error| {
            RunError::wrong(
                self.smmu.name(),
                format!("it did not shut down: {error:?}"),
                "run with -v to see its commands",
            )
        })
    }
}
