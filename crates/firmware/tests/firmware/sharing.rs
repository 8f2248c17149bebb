//! Part 21: what a tree says about page faults, PASIDs and ATS.

use crate::trees::{Node, cells, machine};
use portcullis_firmware::{
    DeviceRef, ExternalPorts, FirmwareError, Machine, Meaningless, PlatformDevice, PropertyFault,
    ReservedUse, WhyMeaningless,
};
use portcullis_spec::pcie::Bdf;
use portcullis_types::{Pa, PaRange, SourceId};

fn read(tree: &Node) -> Machine {
    Machine::from_fdt(&tree.blob()).unwrap()
}

/// A node of the accelerator that shares processes' memory: one source for its reads, one for its writes.
fn accelerator() -> Node {
    Node::new("accelerator@c000000")
        .text("compatible", "portcullis,accelerator")
        .cells("phandle", &[0x40])
        .cells("reg", &[0, 0x0c00_0000, 0, 0x1_0000])
        .cells("iommus", &[3, 0x51, 3, 0x50])
        .flag("dma-can-stall")
        .cells("pasid-num-bits", &[20])
        .flag("dma-coherent")
}

fn device(tree: &Node) -> PlatformDevice {
    let machine = read(tree);
    let is_it = |device: &&PlatformDevice| device.compatible == ["portcullis,accelerator"];
    machine.devices.iter().find(is_it).unwrap().clone()
}

#[test]
fn part_21_a_device_that_can_stall_is_found_with_registers_sources_and_pasids() {
    let device = device(&machine().child(accelerator()));
    assert_eq!(device.path, "/accelerator@c000000");
    assert_eq!(device.registers, [PaRange::new(Pa::new(0x0c00_0000), 0x1_0000).unwrap()]);
    let sources: Vec<_> = device.streams.iter().map(|stream| (stream.iommu, stream.source())).collect();
    assert_eq!(sources, [(0, Some(SourceId(0x51))), (0, Some(SourceId(0x50)))], "in the tree's order");
    assert_eq!((device.can_stall, device.pasid_bits, device.dma_coherent), (true, 20, true));
}

#[test]
fn part_21_a_device_that_says_nothing_cannot_stall_and_has_no_pasids() {
    let silent = accelerator();
    let tree = machine().child(silent).with("accelerator@c000000", "dma-can-stall", None);
    let device = device(&tree.with("accelerator@c000000", "pasid-num-bits", None));
    assert_eq!((device.can_stall, device.pasid_bits), (false, 0));
}

#[test]
fn part_21_the_same_source_twice_is_tolerated() {
    let device = device(&machine().child(accelerator().cells("iommus", &[3, 0x51, 3, 0x51])));
    let sources: Vec<_> = device.streams.iter().map(|stream| stream.source()).collect();
    assert_eq!(sources, [Some(SourceId(0x51)), Some(SourceId(0x51))]);
}

#[test]
fn part_21_pasids_have_20_bits_at_most() {
    for bits in [0, 1, 20] {
        let device = device(&machine().child(accelerator().cells("pasid-num-bits", &[bits])));
        assert_eq!(u32::from(device.pasid_bits), bits);
    }
    let refused = |node: Node| match Machine::from_fdt(&machine().child(node).blob()) {
        Err(FirmwareError::Property { path, property, fault }) => {
            assert_eq!(path, "/accelerator@c000000");
            (property, fault)
        }
        other => panic!("{other:?}"),
    };
    for bits in [21, 32, 0xffff_ffff] {
        let fault = refused(accelerator().cells("pasid-num-bits", &[bits]));
        assert_eq!(fault, ("pasid-num-bits", PropertyFault::Value(bits.into())));
    }
    let length = PropertyFault::Length { len_bytes: 8, wanted_bytes: 4 };
    assert_eq!(refused(accelerator().cells("pasid-num-bits", &[0, 8])), ("pasid-num-bits", length));
    let length = PropertyFault::Length { len_bytes: 4, wanted_bytes: 0 };
    assert_eq!(refused(accelerator().cells("dma-can-stall", &[1])), ("dma-can-stall", length));
}

#[test]
fn part_21_reserved_addresses_of_a_device_that_can_stall_are_heeded() {
    let region = Node::new("ring@48100000")
        .cells("reg", &[0, 0x4810_0000, 0, 0x1000])
        .cells("iommu-addresses", &[0x40, 0, 0x4810_0000, 0, 0x1000]);
    let mut tree = machine().child(accelerator());
    *tree.at("reserved-memory") = tree.at("reserved-memory").clone().child(region);
    let machine = read(&tree);
    let index =
        machine.devices.iter().position(|device| device.can_stall && device.pasid_bits == 20).unwrap();
    let reserved: Vec<_> = machine.reserved_for(&DeviceRef::Platform(index)).collect();
    let [(memory, addresses)] = reserved[..] else { panic!("one region") };
    assert_eq!(
        (memory.path.as_str(), addresses.used),
        ("/reserved-memory/ring@48100000", ReservedUse::Direct)
    );
}

#[test]
fn part_21_stalls_and_pasids_without_an_iommu_mean_nothing_and_are_reported() {
    let tree = machine().child(accelerator()).with("accelerator@c000000", "iommus", None);
    let machine = read(&tree);
    let device = device(&tree);
    assert_eq!((device.streams.len(), device.can_stall, device.pasid_bits), (0, false, 0));
    let path = String::from("/accelerator@c000000");
    let because = |property| Meaningless { path: path.clone(), property, why: WhyMeaningless::NoIommu };
    assert_eq!(machine.meaningless, [because("dma-can-stall"), because("pasid-num-bits")]);
    assert_eq!(
        machine.meaningless[0].to_string(),
        "/accelerator@c000000, property dma-can-stall means nothing: no IOMMU covers the device"
    );
}

#[test]
fn part_21_a_pci_function_never_stalls_whatever_its_node_says() {
    let at = "pcie@10000000/nic@1,0";
    let tree = machine().with(at, "dma-can-stall", Some(&[]));
    let meaningless =
        |path: &str, property| vec![Meaningless { path: path.into(), property, why: WhyMeaningless::Pci }];
    assert_eq!(read(&tree).meaningless, meaningless("/pcie@10000000/nic@1,0", "dma-can-stall"));
    let tree = machine().with("pcie@10000000", "pasid-num-bits", Some(&cells(&[16])));
    assert_eq!(read(&tree).meaningless, meaningless("/pcie@10000000", "pasid-num-bits"));
    assert_eq!(
        read(&machine().child(accelerator())).meaningless,
        [],
        "where it has its place, nothing is said"
    );
}

#[test]
fn part_21_a_host_bridge_passes_ats_only_if_its_node_says_so() {
    assert!(!read(&machine()).pci_hosts[0].ats_supported);
    let tree = machine().with("pcie@10000000", "ats-supported", Some(&[]));
    assert!(read(&tree).pci_hosts[0].ats_supported);
    let tree = machine().with("pcie@10000000", "ats-supported", Some(&[0]));
    assert!(Machine::from_fdt(&tree.blob()).is_err(), "a flag has no value");
}

fn external(tree: &Node) -> ExternalPorts {
    read(tree).pci_hosts[0].external.clone()
}

#[test]
fn part_21_ports_that_lead_out_of_the_machine_are_listed() {
    assert_eq!(external(&machine()), ExternalPorts::Ports(vec![]));
    let port = |name: &str, devfn: u32| {
        Node::new(name).text("device_type", "pci").cells("reg", &[devfn << 8, 0, 0, 0, 0])
    };
    let below = port("pcie@0,1", 0).flag("external-facing");
    let mut tree = machine();
    *tree.at("pcie@10000000") = tree
        .at("pcie@10000000")
        .clone()
        .child(port("pcie@2,0", 0x10).flag("external-facing"))
        .child(port("pcie@3,0", 0x18).child(below))
        .child(port("pcie@4,0", 0x20))
        .child(port("pcie@5,0", 0x28).flag("external-facing").text("status", "disabled"));
    let at = |bus, device| Bdf::new(bus, device, 0).unwrap();
    assert_eq!(external(&tree), ExternalPorts::Ports(vec![at(0, 2), at(0, 3), at(0, 5)]));
    // They are on the first bus, whatever bus their nodes say.
    let tree = tree.with("pcie@10000000", "bus-range", Some(&cells(&[0x40, 0x4f])));
    assert_eq!(external(&tree), ExternalPorts::Ports(vec![at(0x40, 2), at(0x40, 3), at(0x40, 5)]));
}

#[test]
fn part_21_an_external_port_whose_place_is_not_known_makes_all_of_them_external() {
    let tree = machine().with("pcie@10000000", "external-facing", Some(&[]));
    assert_eq!(external(&tree), ExternalPorts::All);
    let mut tree = machine();
    *tree.at("pcie@10000000") =
        tree.at("pcie@10000000").clone().child(Node::new("pcie").flag("external-facing"));
    assert_eq!(external(&tree), ExternalPorts::All);
}
