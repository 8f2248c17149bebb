//! What is read from a tree that is in order.

use crate::trees::{self, Node, machine};
use portcullis_firmware::acpi::FoundFunction;
use portcullis_firmware::{
    DeviceRef, GicKind, IdMapEntry, IommuKind, Machine, MsiControllerKind, MsiTarget, PciConfig, PciMsi,
    ReservedUse, Translation,
};
use portcullis_spec::pcie::{Bdf, Space};
use portcullis_types::{Iova, IovaRange, Pa, PaRange, SourceId};

fn read(tree: Node) -> Machine {
    Machine::from_fdt(&tree.blob()).unwrap()
}

fn pa(first: u64, len_bytes: u64) -> PaRange {
    PaRange::new(Pa::new(first), len_bytes).unwrap()
}

fn iova(first: u64, len_bytes: u64) -> IovaRange {
    IovaRange::new(Iova::new(first), len_bytes).unwrap()
}

fn function(bus: u8, device: u8, function: u8) -> Bdf {
    Bdf::new(bus, device, function).unwrap()
}

#[test]
fn memory_and_the_machines_name_are_read() {
    let machine = read(machine());
    assert_eq!(machine.model, "Test");
    assert_eq!(machine.compatible, ["acme,test", "acme,any"]);
    assert_eq!(machine.memory, [pa(0x4000_0000, 0x1000_0000), pa(0x8_0000_0000, 0x1_0000_0000)]);
    assert_eq!(machine.reservations, [pa(0x4000_0000, 0x1_0000)]);
}

#[test]
fn an_smmu_is_read_with_its_interrupts() {
    let machine = read(machine());
    let [first, second] = &machine.iommus[..] else { panic!("two IOMMUs") };
    assert_eq!((first.path.as_str(), second.path.as_str()), ("/smmu@9050000", "/smmu@9070000"));
    assert_eq!(first.kind, IommuKind::SmmuV3);
    assert_eq!(first.registers, [pa(0x0905_0000, 0x2_0000)]);
    assert!(first.dma_coherent && first.enabled);
    assert_eq!(first.msi, [MsiTarget { controller: 0, device_id: Some(0xff03) }]);
    let gerror = first.interrupt("gerror").unwrap().gic().unwrap();
    assert_eq!((gerror.kind, gerror.intid, gerror.edge), (GicKind::Shared, 77 + 32, true));
    assert_eq!(first.interrupt("priq"), None);
}

#[test]
fn interrupts_may_each_name_their_controller() {
    let tree = machine().with("smmu@9050000", "interrupts", None).with(
        "smmu@9050000",
        "interrupts-extended",
        Some(&trees::cells(&[1, 1, 7, 4, 1, 0, 9, 1])),
    );
    let machine = read(tree);
    let interrupt = machine.iommus[0].interrupt("eventq").unwrap();
    assert_eq!((interrupt.controller, interrupt.cells.as_slice()), (Some(1), &[1, 7, 4][..]));
    let gic = interrupt.gic().unwrap();
    assert_eq!((gic.kind, gic.intid, gic.edge), (GicKind::Private, 7 + 16, false));
}

#[test]
fn an_its_is_read_with_its_doorbell() {
    let machine = read(machine());
    let [its] = &machine.msi_controllers[..] else { panic!("one controller") };
    assert_eq!((its.path.as_str(), its.kind), ("/intc@8000000/its@8080000", MsiControllerKind::Its));
    assert_eq!(its.doorbell(), Some(Pa::new(0x0809_0040)));
    let [gic] = &machine.interrupt_controllers[..] else { panic!("one controller") };
    assert_eq!(gic.registers, [pa(0x0800_0000, 0x1_0000), pa(0x080a_0000, 0xf6_0000)]);
}

#[test]
fn a_gicv2m_frame_has_its_doorbell_elsewhere_and_no_device_ids() {
    let frame = Node::new("v2m@8020000")
        .text("compatible", "arm,gic-v2m-frame")
        .cells("phandle", &[0x20])
        .flag("msi-controller")
        .cells("reg", &[0, 0x0802_0000, 0, 0x1000]);
    let tree = machine().child(frame).with("soc/dma@1000", "msi-parent", Some(&trees::cells(&[0x20])));
    let machine = read(tree);
    assert_eq!(machine.msi_controllers[1].doorbell(), Some(Pa::new(0x0802_0040)));
    assert_eq!(machine.devices[0].msi, [MsiTarget { controller: 1, device_id: None }]);
}

#[test]
fn a_host_bridge_is_read_with_its_windows() {
    let machine = read(machine());
    let [host] = &machine.pci_hosts[..] else { panic!("one host bridge") };
    assert_eq!((host.path.as_str(), host.segment, host.buses.clone()), ("/pcie@10000000", 1, 0..=0x0f));
    assert_eq!(host.config, PciConfig::Ecam(pa(0x40_1000_0000, 0x100_0000)));
    assert!(host.dma_coherent);
    let windows: Vec<_> = host
        .windows
        .iter()
        .map(|w| (w.space, w.prefetchable, w.bus_first, w.cpu_first.get(), w.size_bytes))
        .collect();
    let expected = [
        (Space::Io, false, 0, 0x3eff_0000, 0x1_0000),
        (Space::Memory32, false, 0x1000_0000, 0x5000_0000, 0x1000_0000),
        (Space::Memory64, true, 0x80_0000_0000, 0x80_0000_0000, 0x80_0000_0000),
    ];
    assert_eq!(windows, expected);
    let dma = host.dma_ranges.as_ref().unwrap();
    assert_eq!(
        (dma.len(), dma[0].bus, dma[0].cpu_first),
        (1, iova(0x8000_0000, 0x4000_0000), Pa::new(0x4000_0000))
    );
}

#[test]
fn requester_ids_are_masked_and_mapped() {
    let machine = read(machine());
    let host = &machine.pci_hosts[0];
    let behind = |iommu, source| Translation::Behind { iommu, source: SourceId(source) };
    assert_eq!(host.translation(function(0, 0, 0)), behind(0, 0x100));
    assert_eq!(host.translation(function(0, 1, 7)), behind(0, 0x108), "the mask ignores the function");
    assert_eq!(host.translation(function(0, 15, 7)), behind(0, 0x178));
    assert_eq!(host.translation(function(0, 16, 0)), Translation::Uncovered);
    assert_eq!(host.translation(function(1, 0, 0)), behind(1, 0x8000));
    assert_eq!(host.translation(function(0xff, 31, 0)), behind(1, 0x8000 + 0xfff8 - 0x100));
    let entry = IdMapEntry { first: 0, count: 0x80, target: 0, base: 0x100 };
    assert_eq!(host.iommu_map.as_ref().unwrap().entries()[0], entry);
}

#[test]
fn without_an_iommu_map_dma_is_said_to_be_untranslated() {
    let machine = read(machine().with("pcie@10000000", "iommu-map", None));
    assert_eq!(machine.pci_hosts[0].translation(function(0, 0, 0)), Translation::NoIommu);
}

#[test]
fn messages_of_functions_go_where_the_map_says() {
    let machine = read(machine());
    let target = machine.pci_hosts[0].msi_target(function(0x12, 3, 4));
    assert_eq!(target, Some(MsiTarget { controller: 0, device_id: Some(0x2_121c) }));
    let mapped = trees::cells(&[0x10, 2, 0, 0x10]);
    let machine = read(trees::machine().with("pcie@10000000", "msi-map", Some(&mapped)));
    assert_eq!(machine.pci_hosts[0].msi_target(function(0, 0, 0)), None);
}

#[test]
fn without_a_map_the_requester_id_is_the_device_id() {
    for parent in [&[2][..], &[2, 0]] {
        let tree = machine().with("pcie@10000000", "msi-map", None);
        let machine = read(tree.with("pcie@10000000", "msi-parent", Some(&trees::cells(parent))));
        assert_eq!(machine.pci_hosts[0].msi, PciMsi::Parent(0));
        let target = machine.pci_hosts[0].msi_target(function(1, 2, 3));
        assert_eq!(target, Some(MsiTarget { controller: 0, device_id: Some(0x0113) }));
    }
    let machine = read(machine().with("pcie@10000000", "msi-map", None));
    assert_eq!(machine.pci_hosts[0].msi_target(function(1, 2, 3)), None);
}

#[test]
fn buses_end_where_the_ecam_does() {
    let tree =
        machine().with("pcie@10000000", "reg", Some(&trees::cells(&[0x40, 0x1000_0000, 0, 0x40_0000])));
    assert_eq!(read(tree.clone()).pci_hosts[0].buses, 0..=3);
    let tree = tree.with("pcie@10000000", "bus-range", Some(&trees::cells(&[0xfe, 0xff])));
    assert_eq!(read(tree.clone()).pci_hosts[0].buses, 0xfe..=0xff);
    assert_eq!(read(tree.with("pcie@10000000", "bus-range", None)).pci_hosts[0].buses, 0..=3);
}

#[test]
fn a_device_is_read_with_all_its_streams() {
    let machine = read(machine());
    let device = &machine.devices[0];
    assert_eq!(device.path, "/soc/dma@1000");
    assert_eq!(device.compatible, ["acme,dma-2", "acme,dma"]);
    assert_eq!(device.registers, [pa(0x1000_1000, 0x100)]);
    let streams: Vec<_> = device.streams.iter().map(|stream| (stream.iommu, stream.source())).collect();
    assert_eq!(streams, [(0, Some(SourceId(0x42))), (1, Some(SourceId(0x43)))]);
    assert_eq!((device.can_stall, device.pasid_bits, device.dma_coherent), (true, 8, false));
    assert_eq!(device.msi, [MsiTarget { controller: 0, device_id: Some(0x99) }]);
    let dma = device.dma_ranges.as_ref().unwrap();
    assert_eq!((dma[0].bus, dma[0].cpu_first), (iova(0, 0x4000_0000), Pa::new(0x4000_0000)));
}

#[test]
fn a_device_that_nobody_covers_is_listed_without_streams() {
    let machine = read(machine());
    let paths: Vec<_> = machine.devices.iter().map(|device| device.path.as_str()).collect();
    assert_eq!(paths, ["/soc/dma@1000", "/soc/dma@2000"], "and the disabled one not at all");
    assert!(machine.devices[1].streams.is_empty() && machine.devices[1].dma_coherent);
}

#[test]
fn a_bus_may_speak_for_the_coherence_of_its_devices() {
    let machine = read(machine().with("soc", "dma-coherent", Some(&[])).with(
        "soc/dma@1000",
        "dma-noncoherent",
        Some(&[]),
    ));
    assert_eq!(machine.devices.iter().map(|device| device.dma_coherent).collect::<Vec<_>>(), [false, true]);
}

#[test]
fn a_device_behind_an_iommu_that_is_not_to_be_used_is_still_behind_it() {
    let machine = read(machine().with("smmu@9050000", "status", Some(b"disabled\0")));
    assert!(!machine.iommus[0].enabled && machine.iommus[1].enabled);
    assert_eq!(machine.devices[0].streams.len(), 2);
}

#[test]
fn an_iommu_of_an_unknown_kind_is_an_iommu() {
    let other = Node::new("iommu@1")
        .text("compatible", "acme,iommu")
        .cells("phandle", &[0x30])
        .cells("#iommu-cells", &[2]);
    let tree =
        machine().child(other).with("soc/dma@1000", "iommus", Some(&trees::cells(&[0x30, 1, 2, 3, 9])));
    let machine = read(tree);
    assert_eq!(machine.iommus[2].kind, IommuKind::Other);
    let streams: Vec<_> =
        machine.devices[0].streams.iter().map(|s| (s.iommu, s.specifier.clone(), s.source())).collect();
    assert_eq!(streams, [(2, vec![1, 2], None), (0, vec![9], Some(SourceId(9)))]);
}

#[test]
fn reserved_addresses_that_equal_the_memory_are_direct() {
    let machine = read(machine());
    let [framebuffer, window] = &machine.reserved_memory[..] else { panic!("two pieces") };
    assert_eq!(
        (framebuffer.memory.as_slice(), framebuffer.no_map),
        (&[pa(0x4800_0000, 0x10_0000)][..], true)
    );
    let [dma, nic] = &framebuffer.addresses[..] else { panic!("two devices") };
    // The device says 0x0800_0000; its bus makes 0x4800_0000 of that.
    assert_eq!((dma.range, dma.used), (iova(0x4800_0000, 0x10_0000), ReservedUse::Direct));
    assert_eq!(dma.device, DeviceRef::Platform(0));
    assert_eq!(nic.device, Machine::pci_function(0, function(0, 1, 0)));
    assert_eq!((nic.range, nic.used), (iova(0x4800_0000, 0x10_0000), ReservedUse::Direct));
    assert_eq!((window.memory.as_slice(), window.no_map), (&[][..], false));
    assert_eq!(window.addresses[0].device, DeviceRef::PciHost(0));
    assert_eq!(
        (window.addresses[0].range, window.addresses[0].used),
        (iova(1 << 32, 0x1000), ReservedUse::Reserved)
    );
}

#[test]
fn reserved_addresses_that_differ_from_the_memory_are_only_reserved() {
    for addresses in [[6, 0x0800_0000, 0x20_0000], [6, 0x0810_0000, 0x10_0000]] {
        let addresses = trees::cells(&addresses);
        let path = "reserved-memory/framebuffer@48000000";
        let machine = read(machine().with(path, "iommu-addresses", Some(&addresses)));
        assert_eq!(machine.reserved_memory[0].addresses[0].used, ReservedUse::Reserved);
    }
}

#[test]
fn a_function_has_its_own_reserved_addresses_and_its_host_bridges() {
    let machine = read(machine());
    let of = |device: &DeviceRef| {
        machine.reserved_for(device).map(|(memory, _)| memory.path.clone()).collect::<Vec<_>>()
    };
    let (framebuffer, window) = ("/reserved-memory/framebuffer@48000000", "/reserved-memory/window");
    assert_eq!(of(&Machine::pci_function(0, function(0, 1, 0))), [framebuffer, window]);
    assert_eq!(of(&Machine::pci_function(0, function(0, 2, 0))), [window]);
    assert_eq!(of(&DeviceRef::PciHost(0)), [window]);
    assert_eq!(of(&DeviceRef::Platform(0)), [framebuffer]);
    assert_eq!(of(&DeviceRef::Platform(1)), [""; 0]);
}

#[test]
fn what_is_reserved_for_a_function_behind_a_bridge_is_its_own_when_it_is_found() {
    // Firmware has it on bus 1, where it need not stay.
    let function_node = |name: &str, phandle, high| {
        Node::new(name).cells("phandle", &[phandle]).cells("reg", &[high, 0, 0, 0, 0])
    };
    let bridge = function_node("pcie@2,0", 9, 0x1000)
        .cells("#address-cells", &[3])
        .cells("#size-cells", &[2])
        .flag("ranges")
        .child(function_node("gpu@0,1", 10, 0x1_0100));
    // Behind it is a bus that is not PCI's.
    let phy = Node::new("phy@1").cells("phandle", &[11]).cells("reg", &[1]);
    let bus = function_node("nic@3,0", 12, 0x1800).cells("#address-cells", &[1]).cells("#size-cells", &[0]);
    let mut tree = machine();
    *tree.at("pcie@10000000") = tree.at("pcie@10000000").clone().child(bridge).child(bus.child(phy));
    let addresses = trees::cells(&[10, 0, 0, 0x4800_0000, 0, 0x10_0000]);
    let mut machine =
        read(tree.with("reserved-memory/framebuffer@48000000", "iommu-addresses", Some(&addresses)));
    let path = vec![(2, 0), (0, 1)];
    let device = |machine: &Machine| machine.reserved_memory[0].addresses[0].device.clone();
    assert_eq!(device(&machine), DeviceRef::PciBehind { host: 0, path: path.clone() });
    let found = |bus, path| {
        let at = function(bus, 0, 1);
        FoundFunction { at, requester_ids: vec![at], path, class: (3, 0) }
    };
    machine.place_functions(0, &[found(1, vec![(1, 0), (0, 1)]), found(3, path)]);
    assert_eq!(device(&machine), Machine::pci_function(0, function(3, 0, 1)));
    assert_eq!(
        machine.reserved_for(&Machine::pci_function(0, function(3, 0, 1))).count(),
        2,
        "and its host bridge's"
    );
    assert_eq!(machine.reserved_for(&Machine::pci_function(0, function(1, 0, 1))).count(), 1);
}

#[test]
fn a_function_right_below_a_host_bridge_is_on_its_first_bus_whatever_bus_firmware_writes() {
    for high in [0x0800, 0x40_0800] {
        let tree = machine().with("pcie@10000000", "bus-range", Some(&trees::cells(&[0x40, 0x4f])));
        let nic = trees::cells(&[high, 0, 0, 0, 0]);
        let machine = read(tree.with("pcie@10000000/nic@1,0", "reg", Some(&nic)));
        let [_, nic] = &machine.reserved_memory[0].addresses[..] else { panic!("two devices") };
        assert_eq!(nic.device, Machine::pci_function(0, function(0x40, 1, 0)), "{high:#x}");
    }
}

#[test]
fn what_does_dma_by_an_unknown_binding_is_listed() {
    let odd = Node::new("pcie@1").text("compatible", "acme,pcie").text("device_type", "pci");
    let map = Node::new("mc@1").text("compatible", "acme,mc").cells("iommu-map", &[0, 3, 0, 1]);
    let machine = read(machine().child(odd).child(map));
    let found: Vec<_> =
        machine.unsupported.iter().map(|part| (part.path.as_str(), part.compatible[0].as_str())).collect();
    assert_eq!(found, [("/pcie@1", "acme,pcie"), ("/mc@1", "acme,mc")]);
}

#[test]
fn addresses_go_through_every_bus_above() {
    let inner = Node::new("bus@100000")
        .text("compatible", "simple-bus")
        .cells("#address-cells", &[1])
        .cells("#size-cells", &[1])
        .cells("ranges", &[0, 0x10_0000, 0x1_0000])
        .cells("dma-ranges", &[0x1000_0000, 0x0100_0000, 0x1000_0000])
        .child(Node::new("dma@10").cells("reg", &[0x10, 0x10]).cells("iommus", &[3, 1]));
    let mut tree = machine();
    *tree.at("soc") = tree.at("soc").clone().child(inner);
    let machine = read(tree);
    let device = machine.devices.iter().find(|device| device.path == "/soc/bus@100000/dma@10").unwrap();
    assert_eq!(device.registers, [pa(0x1010_0010, 0x10)]);
    let dma = device.dma_ranges.as_ref().unwrap();
    assert_eq!((dma[0].bus, dma[0].cpu_first), (iova(0x1000_0000, 0x1000_0000), Pa::new(0x4100_0000)));
}

#[test]
fn a_device_that_the_cpu_cannot_reach_is_listed_only_if_it_has_streams() {
    let bus = |child: Node| {
        Node::new("i2c")
            .cells("#address-cells", &[1])
            .cells("#size-cells", &[0])
            .child(child.text("compatible", "acme,sensor").cells("reg", &[0x50]))
    };
    let count = |tree: Node| read(tree).devices.len();
    let before = count(machine());
    assert_eq!(count(machine().child(bus(Node::new("sensor@50")))), before);
    assert_eq!(count(machine().child(bus(Node::new("sensor@50").cells("iommus", &[3, 7])))), before + 1);
}
