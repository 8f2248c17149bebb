//! QEMU's `powernv8`: a PHB3, and an NVMe disk below its root port.
//!
//! Firmware is not started: what it does to the chip is done by `portcullis_qemu::powernv8`, what it does to the bridge by boot, as on models. The device tree is
//! the lab's, in firmware's words, for QEMU has none before firmware made it.

use std::sync::Arc;

use model_bus::Width;
use model_cpu::CpuFeatures;
use portcullis::types::{Pa, PaRange, SizeLg2};
use portcullis_qemu::powernv8::{self, CONFIG_DATA, PRESENTER, REGISTERS, WINDOW, WINDOW_BYTES, WINDOW_PCI};
use portcullis_qemu::{ByteOrder, DriveContent, MachineOptions, Qemu};

use super::super::fdt;
use super::super::spec::{BridgeKind, HostBridgeSpec, MachineSpec, Phb3Spec, Plugged, Slot};
use super::{Behind, Icp, Started, bus, failed};
use crate::error::RunError;

/// The least that it takes. Observed: QEMU 7.2, hw/ppc/pnv.c, `pnv_init`.
const RAM_MIB: u64 = 1024;
/// Bytes of the bridge's registers, and of a presentation controller's.
const REGISTER_BYTES: u64 = 0x1000;
/// The end of the window is messages.
const MESSAGE_BYTES: u64 = 0x1_0000;

pub(super) fn start(qemu: &Qemu, content: DriveContent, seed: u64) -> Result<Started, RunError> {
    let options = MachineOptions::powernv8("")
        .ram_mib(RAM_MIB)
        .drive("disk", content)
        .device("nvme,serial=portcullis,drive=disk,bus=pcie.0");
    let machine = Arc::new(qemu.start(&options).map_err(|error| failed(&error))?);
    powernv8::bring_up(&machine).map_err(|error| failed(&error))?;
    let spec = spec(qemu, machine.ram().range());
    let device_tree = fdt::emit(&spec).map_err(|error| RunError::wrong("QEMU", error, "try another QEMU"))?;
    let bus = bus(&machine, order, seed)?;
    let icp = Icp {
        registers: range(PRESENTER, REGISTER_BYTES),
        server: powernv8::SERVER,
        first: powernv8::FIRST_INTERRUPT,
    };
    let behind = Behind { machine, icp: Some((Pa::new(REGISTERS), icp)), counters: None };
    Ok(Started { spec, bus, behind, device_tree })
}

/// The chip's own registers are big-endian, whatever is PCI's is not.
fn order(at: Pa, _: Width) -> ByteOrder {
    let own = |first: u64| range(first, REGISTER_BYTES).contains(at);
    let is_pci = at.get() & !3 == REGISTERS + CONFIG_DATA;
    if (own(REGISTERS) && !is_pci) || own(PRESENTER) { ByteOrder::Big } else { ByteOrder::Little }
}

fn range(first: u64, len: u64) -> PaRange {
    PaRange::new(Pa::new(first), len).expect("nothing of `powernv8` wraps")
}

/// What the machine is, as far as work and device tree ask.
fn spec(qemu: &Qemu, ram: PaRange) -> MachineSpec {
    let summary = "QEMU's powernv8 with its PHB3 and its NVMe disk; the CPUs are Arm's";
    MachineSpec {
        // As those of `power8`: the lab's own, which IODA2 has nothing to do with.
        cpus: vec![CpuFeatures::COMMON],
        page: SizeLg2::KIB_64,
        host_bridges: vec![HostBridgeSpec {
            kind: BridgeKind::Phb3(Phb3Spec {
                base: Pa::new(REGISTERS),
                pci_first: WINDOW_PCI,
                // No model is made of it.
                config: model_ioda2::Config::new(Pa::new(0)),
            }),
            last_bus: 255,
            window_32: range(WINDOW, WINDOW_BYTES - MESSAGE_BYTES),
            window_64: None,
            coherent: true,
            ats: false,
            smmu: None,
            its: None,
            slots: vec![Slot { device: 0, what: Plugged::PortWithDisk { acs: false } }],
        }],
        ..MachineSpec::bare(format!("powernv8 of {qemu}"), summary, ram)
    }
}
