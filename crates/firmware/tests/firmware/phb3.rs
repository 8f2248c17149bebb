//! A PHB3 as skiboot describes it: one node that is IOMMU, MSI controller and host bridge.

use portcullis_firmware::{
    FirmwareError, IommuKind, Machine, MsiControllerKind, MsiTarget, PciConfig, Translation,
};
use portcullis_spec::pcie::{Bdf, Space};
use portcullis_types::{Pa, PaRange, PageSizes, SourceId};

use crate::trees::{Node, cells};

const PHB: &str = "pciex@3fffe40000000";

/// Observed: skiboot hw/phb3.c, `phb3_add_properties`.
fn phb() -> Node {
    Node::new(PHB)
        .text("compatible", "ibm,power8-pciex ibm,ioda2-phb")
        .text("device_type", "pciex")
        .cells("reg", &[0x3_fffe, 0x4000_0000, 0, 0x1000])
        .cells("#address-cells", &[3])
        .cells("#size-cells", &[2])
        .cells("bus-range", &[0, 0xff])
        .cells("ranges", &[0x0200_0000, 0, 0x8000_0000, 0x3_fe00, 0x0000_0000, 0, 0x7fff_0000])
        .cells("ibm,opal-phbid", &[0, 3])
        .cells("ibm,opal-num-pes", &[256])
        .cells("ibm,opal-reserved-pe", &[255])
        .cells("ibm,opal-msi-ranges", &[0x1800, 0x7f8])
        .cells("ibm,supported-tce-sizes", &[12, 16, 24, 28])
}

fn machine() -> Node {
    Node::new("").cells("#address-cells", &[2]).cells("#size-cells", &[2]).child(phb())
}

fn read(tree: &Node) -> Result<Machine, FirmwareError> {
    Machine::from_fdt(&tree.blob())
}

#[test]
fn a_phb3_is_the_host_bridge_the_iommu_and_the_msi_controller_of_its_functions() {
    let machine = read(&machine()).unwrap();
    let ([iommu], [controller], [host]) =
        (&machine.iommus[..], &machine.msi_controllers[..], &machine.pci_hosts[..])
    else {
        panic!("one of each")
    };
    let registers = PaRange::new(Pa::new(0x3_fffe_4000_0000), 0x1000).unwrap();
    assert_eq!((iommu.kind, &iommu.registers[..], iommu.enabled), (IommuKind::Phb3, &[registers][..], true));
    assert_eq!((controller.kind, controller.doorbell()), (MsiControllerKind::Phb3, None));
    assert_eq!((host.segment, host.buses.clone(), host.dma_coherent), (3, 0..=0xff, true));
    let function = Bdf::new(1, 2, 3).unwrap();
    assert_eq!(host.translation(function), Translation::Behind { iommu: 0, source: SourceId(0x113) });
    assert_eq!(host.msi_target(function), Some(MsiTarget { controller: 0, device_id: Some(0x113) }));
    let [window] = &host.windows[..] else { panic!("M32") };
    let found = (window.space, window.bus_first, window.cpu_first.get(), window.size_bytes);
    assert_eq!(found, (Space::Memory32, 0x8000_0000, 0x3_fe00_0000_0000, 0x7fff_0000));
    let PciConfig::Phb3(phb) = &host.config else { panic!("no ECAM") };
    assert_eq!((phb.registers, phb.pe_count, phb.reserved_pe), (registers, 256, 255));
    assert_eq!((phb.messages, phb.bypass_32), ((0x1800, 0x7f8), false));
    assert_eq!(phb.page_sizes, PageSizes::from_bits(0x1101_1000));
}

#[test]
fn without_page_sizes_a_phb3_has_4k_and_64k() {
    let machine = read(&machine().with(PHB, "ibm,supported-tce-sizes", None)).unwrap();
    let PciConfig::Phb3(phb) = &machine.pci_hosts[0].config else { panic!("no ECAM") };
    assert_eq!(phb.page_sizes, PageSizes::from_bits(0x1_1000));
}

#[test]
fn a_phb3_that_is_disabled_is_an_iommu_and_no_host_bridge() {
    let machine = read(&machine().with(PHB, "status", Some(b"disabled\0"))).unwrap();
    assert!(!machine.iommus[0].enabled && machine.pci_hosts.is_empty());
}

#[test]
fn what_a_phb3_cannot_be_is_an_error_that_names_the_property() {
    let wrong: [(&str, Option<&[u32]>); 10] = [
        ("reg", None),
        ("ranges", None),
        ("ibm,opal-phbid", None),
        ("ibm,opal-phbid", Some(&[0, 0x1_0000])),
        ("ibm,opal-phbid", Some(&[3])),
        ("ibm,opal-num-pes", Some(&[257])),
        ("ibm,opal-num-pes", None),
        ("ibm,opal-reserved-pe", Some(&[256])),
        ("ibm,opal-msi-ranges", Some(&[u32::MAX, 1])),
        ("ibm,supported-tce-sizes", Some(&[12, 64])),
    ];
    for (property, value) in wrong {
        let value = value.map(cells);
        let error = read(&machine().with(PHB, property, value.as_deref())).unwrap_err().to_string();
        assert!(error.contains(property) && error.contains(PHB), "{property}: {error}");
    }
}
