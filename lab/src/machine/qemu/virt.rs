//! QEMU's `virt`: an SMMUv3, and an NVMe disk on the root bus. QEMU's own device tree says where everything is.

use std::sync::Arc;

use model_cpu::CpuFeatures;
use portcullis::types::{Pa, PaRange};
use portcullis_qemu::{ByteOrder, DriveContent, MachineOptions, Qemu};

use super::super::spec::{BridgeKind, HostBridgeSpec, MachineSpec, Plugged, Slot};
use super::{Behind, Started, bus, failed};
use crate::error::RunError;

const RAM_MIB: u64 = 512;
/// The slot of the disk. Its place on the root bus is said to QEMU, too.
const DISK_SLOT: u8 = 1;
/// QEMU's `cortex-a57`. Observed: QEMU 7.2, its ID_AA64MMFR0_EL1 0x1124: 44 bits, pages of 4 and 64 KiB.
const CPU: CpuFeatures = CpuFeatures { pa_bits: 44, granule_16k: false, ..CpuFeatures::COMMON };
/// Where `virt` has things. Observed: QEMU 7.2, hw/arm/virt.c. The device tree says it too, and it alone is what boot reads.
const ECAM: (u64, u64) = (0x40_1000_0000, 0x1000_0000);
const WINDOW_32: (u64, u64) = (0x1000_0000, 0x2eff_0000);
const WINDOW_64: (u64, u64) = (0x80_0000_0000, 0x80_0000_0000);

pub(super) fn start(qemu: &Qemu, content: DriveContent, seed: u64) -> Result<Started, RunError> {
    let options = MachineOptions::virt("iommu=smmuv3")
        .ram_mib(RAM_MIB)
        .drive("disk", content)
        .device(&format!("nvme,serial=portcullis,drive=disk,addr={DISK_SLOT:02x}.0"));
    let device_tree = qemu.device_tree(&options).map_err(|error| failed(&error))?;
    let machine = Arc::new(qemu.start(&options).map_err(|error| failed(&error))?);
    let spec = spec(qemu, machine.ram().range());
    let bus = bus(&machine, |_, _| ByteOrder::Little, seed)?;
    Ok(Started { spec, bus, behind: Behind { machine, icp: None, counters: None }, device_tree })
}

/// What the machine is, as far as work asks: its disk's place. All else boot finds out.
fn spec(qemu: &Qemu, ram: PaRange) -> MachineSpec {
    let range = |(first, len)| PaRange::new(Pa::new(first), len).expect("no window of `virt` wraps");
    MachineSpec {
        cpus: vec![CPU],
        host_bridges: vec![HostBridgeSpec {
            kind: BridgeKind::Ecam(range(ECAM)),
            last_bus: 255,
            window_32: range(WINDOW_32),
            window_64: Some(range(WINDOW_64)),
            coherent: true,
            ats: false,
            smmu: None,
            its: None,
            slots: vec![Slot { device: DISK_SLOT, what: Plugged::Disk }],
        }],
        ..MachineSpec::bare(format!("virt of {qemu}"), "QEMU's virt with its SMMUv3 and its NVMe disk", ram)
    }
}
