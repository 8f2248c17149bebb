//! The device tree that QEMU 7.2 gives a guest of its `virt` machine with an SMMUv3.
//!
//! `data/qemu-virt-7.2.dtb` was written by `qemu-system-aarch64 -M virt,iommu=smmuv3,gic-version=3,dumpdtb=FILE -cpu cortex-a57
//! -m 256 -nic none` and re-packed by `dtc`, which takes out the padding.

use portcullis_firmware::{IommuKind, Machine, MsiTarget, PciConfig, Translation};
use portcullis_spec::pcie::{Bdf, Space};
use portcullis_types::{Pa, PaRange, SourceId};

fn machine() -> Machine {
    Machine::from_fdt(include_bytes!("../data/qemu-virt-7.2.dtb")).unwrap()
}

fn pa(first: u64, len_bytes: u64) -> PaRange {
    PaRange::new(Pa::new(first), len_bytes).unwrap()
}

#[test]
fn its_smmu_is_found() {
    let machine = machine();
    let [smmu] = &machine.iommus[..] else { panic!("one IOMMU") };
    assert_eq!((smmu.path.as_str(), smmu.kind), ("/smmuv3@9050000", IommuKind::SmmuV3));
    assert_eq!(smmu.registers, [pa(0x0905_0000, 0x2_0000)]);
    assert!(smmu.dma_coherent && smmu.enabled && smmu.msi.is_empty());
    let intid = |name| smmu.interrupt(name).unwrap().gic().unwrap().intid;
    assert_eq!(["eventq", "priq", "cmdq-sync", "gerror"].map(intid), [106, 107, 108, 109]);
}

#[test]
fn its_functions_are_all_behind_the_smmu_by_their_requester_ids() {
    let machine = machine();
    let host = &machine.pci_hosts[0];
    assert_eq!(
        (host.segment, host.buses.clone(), host.config.clone()),
        (0, 0..=255, PciConfig::Ecam(pa(0x40_1000_0000, 0x1000_0000)))
    );
    for id in [0, 0x0008, 0x1234, 0xffff] {
        let function = Bdf::from_requester_id(id);
        let source = SourceId(id.into());
        assert_eq!(host.translation(function), Translation::Behind { iommu: 0, source });
        let target = MsiTarget { controller: 0, device_id: Some(id.into()) };
        assert_eq!(host.msi_target(function), Some(target));
    }
}

#[test]
fn its_windows_and_memory_are_found() {
    let machine = machine();
    let windows: Vec<_> = machine.pci_hosts[0]
        .windows
        .iter()
        .map(|window| (window.space, window.bus_first, window.cpu_first.get()))
        .collect();
    let expected = [
        (Space::Io, 0, 0x3eff_0000),
        (Space::Memory32, 0x1000_0000, 0x1000_0000),
        (Space::Memory64, 0x80_0000_0000, 0x80_0000_0000),
    ];
    assert_eq!(windows, expected);
    assert_eq!(machine.memory, [pa(0x4000_0000, 0x1000_0000)]);
}

#[test]
fn its_its_is_found() {
    assert_eq!(machine().msi_controllers[0].doorbell(), Some(Pa::new(0x0809_0040)));
}

#[test]
fn its_other_devices_are_said_to_be_covered_by_nobody() {
    let machine = machine();
    assert!(machine.devices.iter().all(|device| device.streams.is_empty()));
    let virtio = machine.devices.iter().filter(|device| device.compatible == ["virtio,mmio"]);
    assert_eq!(virtio.count(), 32);
    assert!(machine.unsupported.is_empty());
}
