//! Bringing up an SMMUv3.

use portcullis::core::sva::CpuFacts;
use portcullis::firmware;
use portcullis::smmuv3::{Config, Msi, Overrides, Smmu};

use super::System;
use super::unit::{Hardware, OwnLines, Unit, boot_streams};
use crate::error::RunError;
use crate::machine::fdt::FRAME_BYTES;

/// Events that an SMMU sends as messages of its own.
const EVENT_QUEUE: u32 = 0;
const GLOBAL_ERROR: u32 = 1;
const PAGE_REQUESTS: u32 = 2;

/// Brings up the SMMUv3 that is IOMMU `index` of the firmware's list.
pub(super) fn bring_up(system: &System, cpus: Option<CpuFacts>, index: usize) -> Result<Unit, RunError> {
    let System { platform, firmware: machine, interrupts, .. } = system;
    let node = &machine.iommus[index];
    let Some(&frame) = node.registers.first() else {
        return Err(RunError::bad_input(&node.path, "it has no registers", "correct the tree"));
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
    let firmware::Overrides { coherent, access_flag, dirty_state } = node.overrides;
    config.overrides = Overrides { coherent, access_flag, dirty_state };
    config.boot_streams = boot_streams(machine, index);
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
    Ok(Unit::new(system, index, smmu.clone(), Hardware::Smmu(smmu), lines))
}
