//! Bringing up an IOMMU that firmware tells of.

use std::sync::Arc;

use portcullis::core::iommu::{GlobalError, Iommu};
use portcullis::core::unit::IommuUnit;
use portcullis::firmware::{self, IommuKind};
use portcullis::smmuv3::{Config, Msi, Smmu};

use super::irq::{Interrupts, Line};
use crate::error::RunError;
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
    pub unit: IommuUnit<LabPlatform>,
    /// Its own interrupts, if they are messages: events, errors.
    pub lines: Option<(Line, Line)>,
}

/// Brings up IOMMU `index` of the firmware's list. None for one that is not enabled: what is behind it is not used.
pub(super) fn bring_up(
    platform: &Arc<LabPlatform>,
    firmware: &firmware::Machine,
    index: usize,
    interrupts: &Arc<Interrupts>,
) -> Result<Option<Unit>, RunError> {
    let node = &firmware.iommus[index];
    if !node.enabled {
        return Ok(None);
    }
    let (IommuKind::SmmuV3, Some(&frame)) = (node.kind, node.registers.first()) else {
        let what = format!("no driver for an IOMMU that is {}", node.compatible.join(", "));
        return Err(RunError::refused(&node.path, what, "use a machine whose IOMMUs are arm,smmu-v3"));
    };
    let lines = match node.msi.first() {
        Some(&target) => {
            let line = |event| interrupts.line(&node.path, target, event);
            Some((line(EVENT_QUEUE)?, line(GLOBAL_ERROR)?))
        }
        None => None,
    };
    let mut config = Config::new(node.path.clone());
    config.coherent = node.dma_coherent;
    config.msi = lines.as_ref().map(|(events, errors)| Msi {
        doorbell: events.doorbell,
        event_data: events.data,
        error_data: errors.data,
        page_request_data: PAGE_REQUESTS,
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
    let unit = IommuUnit::new(platform.clone(), driver);
    Ok(Some(Unit { index, smmu, unit, lines }))
}

impl Unit {
    /// Reads events, whether or not their interrupt came. Answers how many faults there were.
    pub fn service(&self) -> usize {
        for (line, _) in self.lines.iter() {
            line.take();
        }
        self.unit.dispatch_faults()
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
