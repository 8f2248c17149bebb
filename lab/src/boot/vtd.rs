//! Bringing up a VT-d unit.
//!
//! What firmware goes on using by DMA is known before: on a PC, PCI is enumerated first. The unit's own interrupts are messages of the compatibility format, which nobody remaps;
//! its devices' are remapped where firmware and hardware can, so that no device raises another's (`vectors`).

use std::sync::Arc;

use portcullis::core::sva::CpuFacts;
use portcullis::firmware::{IommuAddresses, Machine, MsiTarget, ReservedUse};
use portcullis::vtd::{BootRegion, Config, Features, InterruptConfig, Msi, ProbeError, Vtd};

use super::System;
use super::unit::{Hardware, OwnLines, Unit, used_directly};
use super::vectors::UNITS;
use crate::error::RunError;

/// The least of registers that a unit has: those that say how many there are.
const REGISTER_BYTES: u64 = 0x1000;
/// Bytes of a fault recording register. Spec: VT-d 5.10, 11.4.7.6 "Fault Recording Registers \[n\]".
const FAULT_RECORD_BYTES: usize = 16;
/// Events that a unit sends as messages of its own.
const FAULTS: u32 = 0;
const PAGE_REQUESTS: u32 = 1;
/// Entries for interrupts: one for each vector of the first CPU.
const INTERRUPT_ENTRIES_LG2: u8 = 8;

/// Brings up the VT-d unit that is IOMMU `index` of the firmware's list.
pub(super) fn bring_up(system: &System, cpus: Option<CpuFacts>, index: usize) -> Result<Unit, RunError> {
    let System { platform, firmware, interrupts, .. } = system;
    let node = &firmware.iommus[index];
    let window =
        node.registers.first().filter(|window| window.len_bytes().is_none_or(|len| len >= REGISTER_BYTES));
    let Some(&window) = window else {
        return Err(RunError::bad_input(&node.path, "it has no registers", "correct the tables"));
    };
    let own = UNITS + u32::try_from(index).unwrap_or(0);
    let controller = firmware.msi_controllers.iter().position(|one| one.enabled);
    let target = controller.map(|controller| MsiTarget { controller, device_id: Some(own) });
    let target = target
        .ok_or_else(|| RunError::bad_input(&node.path, "no CPU takes messages", "correct the tables"))?;
    let faults = interrupts.line(&node.path, target, FAULTS)?;
    let page_requests = interrupts.line(&node.path, target, PAGE_REQUESTS)?;

    let mut config = Config::new(node.path.clone());
    config.host_address_bits = firmware.host_address_bits().unwrap_or(config.host_address_bits);
    config.boot_regions = boot_regions(firmware, index);
    config.interrupts = firmware
        .interrupt_remapping()
        .then_some(InterruptConfig { entries_lg2: INTERRUPT_ENTRIES_LG2, x2apic: false });
    config.msi = Some(Msi {
        address: faults.doorbell.get(),
        fault_data: faults.data,
        page_request_data: page_requests.data,
    });
    config.cpus = cpus;
    let registers = Arc::new(platform.registers(window));
    let failed = |error: ProbeError| {
        let what = format!("probing the VT-d unit failed: {error:?}");
        RunError::wrong(&node.path, what, "run with -v to see its descriptors")
    };
    // None is touched that firmware does not tell of.
    let features = Features::read(&*registers, &config).map_err(failed)?;
    let all = (features.fault_records_at + FAULT_RECORD_BYTES * features.fault_records) as u64;
    if window.len_bytes().is_some_and(|len| len < all) {
        let what = format!("its registers take {all} bytes, and {window} is less");
        return Err(RunError::bad_input(&node.path, what, "correct the tables"));
    }
    let vtd = Arc::new(Vtd::probe(platform.clone(), registers, config).map_err(failed)?);
    let lines = OwnLines { events: faults.clone(), errors: faults, page_requests };
    Ok(Unit::new(system, index, vtd.clone(), Hardware::Vtd(vtd), Some(lines)))
}

/// What firmware goes on using by DMA of functions behind this unit.
fn boot_regions(firmware: &Machine, index: usize) -> Vec<BootRegion> {
    let region = |(addresses, sources): (&IommuAddresses, _)| {
        let relaxable = addresses.used == ReservedUse::DirectRelaxable;
        BootRegion { range: addresses.range, sources, relaxable }
    };
    used_directly(firmware, index).map(region).collect()
}
