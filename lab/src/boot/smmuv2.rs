//! Bringing up an SMMUv2 or an MMU-500.

use portcullis::firmware::IommuKind;
use portcullis::smmuv2::{Config, Implementation, Smmu};

use super::System;
use super::unit::{Hardware, Unit};
use crate::error::RunError;

/// Brings up the SMMUv2 that is IOMMU `index` of the firmware's list. Its interrupts are wires.
///
/// The lab's bus takes 64-bit writes whole.
pub(super) fn bring_up(system: &System, index: usize) -> Result<Unit, RunError> {
    let System { platform, firmware, .. } = system;
    let node = &firmware.iommus[index];
    let Some(&frame) = node.registers.first() else {
        return Err(RunError::bad_input(&node.path, "it has no registers", "correct the tree"));
    };
    let mut config = Config::new(node.path.clone());
    config.coherent = node.dma_coherent;
    if node.kind == IommuKind::Mmu500 {
        config.implementation = Implementation::Mmu500;
    }
    let smmu = Smmu::probe(platform.clone(), platform.registers(frame), config).map_err(|error| {
        RunError::wrong(
            &node.path,
            format!("probing the SMMU failed: {error:?}"),
            "run with -v to see its registers",
        )
    })?;
    let all = u64::try_from(smmu.features().frame.bytes()).unwrap_or(u64::MAX);
    if frame.len_bytes().is_some_and(|len| len < all) {
        let what = format!("its registers take {} KiB, and {frame} is less", all >> 10);
        return Err(RunError::bad_input(&node.path, what, "correct the tree, or name a built-in machine"));
    }
    Ok(Unit::new(system, index, smmu.clone(), Hardware::Smmuv2(smmu), None))
}
