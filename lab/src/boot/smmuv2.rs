//! Bringing up an SMMUv2 or an MMU-500.

use portcullis::firmware::IommuKind;
use portcullis::smmuv2::{Config, Features, IdRegisters, Implementation, ProbeError, Smmu};

use super::System;
use super::unit::{Hardware, Unit, boot_streams};
use crate::error::RunError;

/// The least of registers: those that say how many there are.
const FIRST_PAGE_BYTES: u64 = 0x1000;

/// Brings up the SMMUv2 that is IOMMU `index` of the firmware's list. Its interrupts are wires.
///
/// The lab's bus takes 64-bit writes whole.
pub(super) fn bring_up(system: &System, index: usize) -> Result<Unit, RunError> {
    let System { platform, firmware, .. } = system;
    let node = &firmware.iommus[index];
    let frame = node.registers.first();
    let Some(&frame) = frame.filter(|frame| frame.len_bytes().is_none_or(|len| len >= FIRST_PAGE_BYTES))
    else {
        return Err(RunError::bad_input(&node.path, "it has no registers", "correct the tree"));
    };
    let registers = platform.registers(frame);
    let failed = |error: ProbeError| {
        let what = format!("probing the SMMU failed: {error:?}");
        RunError::wrong(&node.path, what, "run with -v to see its registers")
    };
    // None is touched that firmware does not tell of.
    let all = Features::decode(&IdRegisters::read(&registers)).map_err(failed)?.frame.bytes();
    let all = u64::try_from(all).unwrap_or(u64::MAX);
    if frame.len_bytes().is_some_and(|len| len < all) {
        let what = format!("its registers take {} KiB, and {frame} is less", all >> 10);
        return Err(RunError::bad_input(&node.path, what, "correct the tree, or name a built-in machine"));
    }
    let mut config = Config::new(node.path.clone());
    config.coherent = node.dma_coherent;
    config.boot_streams = boot_streams(firmware, index);
    if node.kind == IommuKind::Mmu500 {
        config.implementation = Implementation::Mmu500;
    }
    let smmu = Smmu::probe(platform.clone(), registers, config).map_err(failed)?;
    Ok(Unit::new(system, index, smmu.clone(), Hardware::Smmuv2(smmu), None))
}
