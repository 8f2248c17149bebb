//! QEMU's `q35`: a VT-d unit in front of everything, and an NVMe disk on the root bus.
//!
//! Firmware is not started: what it does to the chip set is done by `portcullis_qemu::q35`. The ACPI tables are QEMU's own, as a guest's firmware would find them. The CPU counts interrupts,
//! so that messages go where they go on a PC.

use core::time::Duration;
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use model_cpu::x86::CpuFeatures;
use portcullis::types::{Pa, PaRange};
use portcullis_qemu::q35::{self, COUNTERS, ECAM, ECAM_BYTES, READY};
use portcullis_qemu::{ByteOrder, DriveContent, MachineOptions, Qemu, Version, Width};

use super::super::spec::{BridgeKind, HostBridgeSpec, MachineSpec, PcSpec, Plugged, Slot};
use super::{Behind, Started, bus, failed};
use crate::error::RunError;

/// Below the hole for devices.
const RAM_MIB: u64 = 512;
/// The slot of the disk. Its place on the root bus is said to QEMU, too.
const DISK_SLOT: u8 = 1;
/// From this version on, the unit has scalable mode with all that belongs to it.
const SCALABLE: Version = Version::new(10, 0);
/// Windows of the host bridge: behind configuration space and below the interrupt controllers; above all memory.
const WINDOW_32: (u64, u64) = (ECAM + ECAM_BYTES, 0x3ec0_0000);
const WINDOW_64: (u64, u64) = (0x40_0000_0000, 0x1_0000_0000);
/// How long the CPU has until it counts.
const READY_LIMIT: Duration = Duration::from_secs(5);

pub(super) fn start(qemu: &Qemu, content: DriveContent, seed: u64) -> Result<Started, RunError> {
    let more = if qemu.version() >= SCALABLE { ",scalable-mode=on" } else { "" };
    // The unit first: what comes before it is not behind it.
    let options = MachineOptions::q35("")
        .ram_mib(RAM_MIB)
        .counting_interrupts()
        .device(&format!("intel-iommu,intremap=on,aw-bits=48{more}"))
        .drive("disk", content)
        .device(&format!("nvme,serial=portcullis,drive=disk,addr={DISK_SLOT:02x}.0"));
    let machine = Arc::new(qemu.start(&options).map_err(|error| failed(&error))?);
    q35::bring_up(&machine).map_err(|error| failed(&error))?;
    wait_until_it_counts(&machine)?;
    let device_tree = q35::tables(&machine).map_err(|error| failed(&error))?;
    let spec = spec(qemu, machine.ram().range());
    let bus = bus(&machine, |_, _| ByteOrder::Little, seed)?;
    let behind = Behind { machine, icp: None, counters: Some(Pa::new(COUNTERS)) };
    Ok(Started { spec, bus, behind, device_tree })
}

/// Until then a message finds an APIC that is off.
fn wait_until_it_counts(machine: &portcullis_qemu::Machine) -> Result<(), RunError> {
    let deadline = Instant::now() + READY_LIMIT;
    while machine.load(Pa::new(READY), Width::Bits32).map_err(|error| failed(&error))? != 1 {
        if Instant::now() >= deadline {
            return Err(RunError::wrong("QEMU", "its CPU does not count interrupts", "try another QEMU"));
        }
        thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

/// What the machine is, as far as work asks: its disk's place, and what a BIOS would know of memory and windows. All else boot finds out.
fn spec(qemu: &Qemu, ram: PaRange) -> MachineSpec {
    let range = |(first, len)| PaRange::new(Pa::new(first), len).expect("no window of `q35` wraps");
    let summary = "QEMU's q35 with its VT-d unit and its NVMe disk";
    MachineSpec {
        cpus: Vec::new(),
        host_bridges: vec![HostBridgeSpec {
            kind: BridgeKind::Ecam(range((ECAM, ECAM_BYTES))),
            last_bus: 255,
            window_32: range(WINDOW_32),
            window_64: Some(range(WINDOW_64)),
            coherent: true,
            ats: false,
            smmu: None,
            its: None,
            slots: vec![Slot { device: DISK_SLOT, what: Plugged::Disk }],
        }],
        // As those of `x86`: the lab's own.
        pc: Some(PcSpec { cpus: vec![CpuFeatures::COMMON], ..PcSpec::default() }),
        ..MachineSpec::bare(format!("q35 of {qemu}"), summary, ram)
    }
}
