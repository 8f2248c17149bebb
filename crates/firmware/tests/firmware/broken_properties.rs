//! Properties that do not say what their bindings demand: each is an error that names node and property.

use crate::trees::{self, Node, cells, machine};
use portcullis_firmware::{FirmwareError, Machine, PropertyFault};

/// Reading the tree with one property changed fails, and says that it is this one.
#[track_caller]
fn fails(path: &str, property: &str, value: Option<&[u8]>, expected: PropertyFault) {
    fails_at(machine().with(path, property, value), &format!("/{path}"), property, expected);
}

#[track_caller]
fn fails_at(tree: Node, path: &str, property: &str, expected: PropertyFault) {
    match Machine::from_fdt(&tree.blob()) {
        Err(FirmwareError::Property { path: at, property: name, fault }) => {
            assert_eq!((at.as_str(), name, fault), (path, property, expected));
        }
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn cells_fail(path: &str, property: &str, value: &[u32], expected: PropertyFault) {
    fails(path, property, Some(&cells(value)), expected);
}

fn length(len_bytes: usize, wanted_bytes: usize) -> PropertyFault {
    PropertyFault::Length { len_bytes, wanted_bytes }
}

const PCIE: &str = "pcie@10000000";
const DMA: &str = "soc/dma@1000";
const SMMU: &str = "smmu@9050000";
const REGION: &str = "reserved-memory/framebuffer@48000000";

#[test]
fn an_iommu_map_of_a_bad_length() {
    fails(PCIE, "iommu-map", Some(&[]), length(0, 16));
    cells_fail(PCIE, "iommu-map", &[0, 3, 0], length(12, 16));
    cells_fail(PCIE, "iommu-map", &[0, 3, 0, 8, 8, 4, 0], length(28, 16));
    fails(PCIE, "iommu-map", Some(&[0; 15]), length(15, 4));
}

#[test]
fn an_iommu_map_of_bad_numbers() {
    cells_fail(PCIE, "iommu-map", &[0, 3, 0, 0], PropertyFault::Value(0));
    cells_fail(
        PCIE,
        "iommu-map",
        &[0x1_0000, 3, 0, 1],
        PropertyFault::MaskedOut { first: 0x1_0000, mask: 0xfff8 },
    );
    cells_fail(PCIE, "iommu-map", &[0x8, 3, 0, 0xfff9], PropertyFault::Value(0xfff9));
    cells_fail(PCIE, "iommu-map", &[0, 3, 0, 0xffff_ffff], PropertyFault::Value(0xffff_ffff));
    cells_fail(PCIE, "iommu-map", &[0, 3, 0xffff_fff0, 0x11], PropertyFault::Value(0xffff_fff0));
    cells_fail(PCIE, "iommu-map", &[0x4, 3, 0, 8], PropertyFault::MaskedOut { first: 4, mask: 0xfff8 });
    cells_fail(PCIE, "iommu-map", &[0, 3, 0, 0x10, 8, 4, 0, 8], PropertyFault::Overlap(8));
    let without_mask = machine().with(PCIE, "iommu-map-mask", None);
    let map = cells(&[0x1_0000, 3, 0, 1]);
    fails_at(
        without_mask.with(PCIE, "iommu-map", Some(&map)),
        "/pcie@10000000",
        "iommu-map",
        PropertyFault::Value(0x1_0000),
    );
}

#[test]
fn an_iommu_map_to_nobody() {
    cells_fail(PCIE, "iommu-map", &[0, 0x99, 0, 8], PropertyFault::NoSuchPhandle(0x99));
    cells_fail(PCIE, "iommu-map", &[0, 2, 0, 8], PropertyFault::WrongNode(2));
    let wide = Node::new("iommu@1").cells("phandle", &[0x30]).cells("#iommu-cells", &[2]);
    let map = cells(&[0, 0x30, 0, 8]);
    let tree = machine().child(wide).with(PCIE, "iommu-map", Some(&map));
    fails_at(tree, "/pcie@10000000", "iommu-map", PropertyFault::WrongNode(0x30));
}

#[test]
fn a_mask_of_a_bad_length() {
    fails(PCIE, "iommu-map-mask", Some(&[0, 0, 0xff]), length(3, 4));
    cells_fail(PCIE, "msi-map-mask", &[0, 0], length(8, 4));
}

#[test]
fn an_msi_map_that_cannot_be() {
    cells_fail(PCIE, "msi-map", &[0, 2, 0], length(12, 16));
    cells_fail(PCIE, "msi-map", &[0, 3, 0, 8], PropertyFault::WrongNode(3));
    cells_fail(PCIE, "msi-map", &[0, 2, 0, 8, 4, 2, 0, 8], PropertyFault::Overlap(4));
    let tree = machine().with(PCIE, "msi-map", None);
    let parent = |cells: &[u32]| tree.clone().with(PCIE, "msi-parent", Some(&trees::cells(cells)));
    fails_at(parent(&[2, 5]), "/pcie@10000000", "msi-parent", PropertyFault::Value(5));
    fails_at(parent(&[2, 0, 0]), "/pcie@10000000", "msi-parent", length(12, 4));
    fails_at(parent(&[]), "/pcie@10000000", "msi-parent", length(0, 4));
    fails_at(parent(&[0x77]), "/pcie@10000000", "msi-parent", PropertyFault::NoSuchPhandle(0x77));
}

#[test]
fn a_host_bridge_that_cannot_be() {
    fails(PCIE, "reg", None, PropertyFault::Missing);
    cells_fail(PCIE, "reg", &[0x40, 0, 0], length(12, 16));
    cells_fail(PCIE, "reg", &[0x40, 0, 0, 0], PropertyFault::Value(0));
    cells_fail(PCIE, "reg", &[0x40, 0, 0, 0xf_ffff], PropertyFault::Value(0xf_ffff));
    cells_fail(PCIE, "reg", &[0xffff_ffff, 0xffff_ffff, 0, 2], PropertyFault::TooLarge);
    cells_fail(PCIE, "bus-range", &[1, 0], PropertyFault::Value(0));
    cells_fail(PCIE, "bus-range", &[0, 0x100], PropertyFault::Value(0x100));
    cells_fail(PCIE, "bus-range", &[0], length(4, 8));
    cells_fail(PCIE, "linux,pci-domain", &[0x1_0000], PropertyFault::Value(0x1_0000));
    cells_fail(PCIE, "#address-cells", &[2], PropertyFault::Value(2));
    cells_fail(PCIE, "#size-cells", &[1], PropertyFault::Value(1));
    cells_fail(PCIE, "#size-cells", &[9], PropertyFault::Value(9));
}

#[test]
fn windows_that_cannot_be() {
    fails(PCIE, "ranges", None, PropertyFault::Missing);
    fails(PCIE, "ranges", Some(&[]), length(0, 28));
    cells_fail(PCIE, "ranges", &[0x0200_0000, 0, 0, 0, 0, 0], length(24, 28));
    cells_fail(PCIE, "ranges", &[0x0000_0000, 0, 0, 0, 0, 0, 1], PropertyFault::Value(0));
    cells_fail(PCIE, "ranges", &[0x0200_0000, 0, 0, 0, 0, 0, 0], PropertyFault::Value(0));
    cells_fail(PCIE, "ranges", &[0x0200_0000, 0, 0xffff_ffff, 0, 0, 0, 2], PropertyFault::TooLarge);
    cells_fail(PCIE, "ranges", &[0x0300_0000, 0xffff_ffff, 0xffff_ffff, 0, 0, 0, 2], PropertyFault::TooLarge);
    cells_fail(PCIE, "ranges", &[0x0300_0000, 0, 0, 0xffff_ffff, 0xffff_ffff, 0, 2], PropertyFault::TooLarge);
    cells_fail(PCIE, "dma-ranges", &[0x0100_0000, 0, 0, 0, 0, 0, 1], PropertyFault::Value(0x0100_0000));
    cells_fail(PCIE, "dma-ranges", &[0x0200_0000, 0, 0, 0, 0, 0, 0], PropertyFault::Value(0));
}

#[test]
fn two_host_bridges_of_one_segment() {
    let mut tree = machine();
    let mut second = tree.at(PCIE).clone().with("nic@1,0", "phandle", None);
    second = second.cells("phandle", &[0x50]);
    let twin = Node::new("twin")
        .cells("#address-cells", &[2])
        .cells("#size-cells", &[2])
        .flag("ranges")
        .child(second);
    fails_at(tree.child(twin), "/twin/pcie@10000000", "linux,pci-domain", PropertyFault::Overlap(1));
}

#[test]
fn iommus_that_cannot_be() {
    fails(DMA, "iommus", Some(&[]), length(0, 4));
    cells_fail(DMA, "iommus", &[3], length(4, 4));
    cells_fail(DMA, "iommus", &[3, 1, 4], length(12, 4));
    cells_fail(DMA, "iommus", &[0x99, 1], PropertyFault::NoSuchPhandle(0x99));
    cells_fail(DMA, "iommus", &[1, 1], PropertyFault::WrongNode(1));
    fails(DMA, "iommus", Some(&[0, 0, 0, 3, 0]), length(5, 4));
}

#[test]
fn an_smmu_that_cannot_be() {
    fails(SMMU, "reg", None, PropertyFault::Missing);
    fails(SMMU, "#iommu-cells", None, PropertyFault::Missing);
    cells_fail(SMMU, "#iommu-cells", &[2], PropertyFault::Value(2));
    cells_fail(SMMU, "interrupts", &[0, 74], length(8, 12));
    cells_fail(SMMU, "interrupts-extended", &[0x66, 1, 2, 3], PropertyFault::NoSuchPhandle(0x66));
    fails(SMMU, "interrupt-names", Some(b"eventq"), PropertyFault::NotText);
    fails(SMMU, "interrupt-names", Some(b"a\0b\0c\0"), length(3, 2));
    cells_fail(SMMU, "msi-parent", &[2], length(4, 4));
    cells_fail(SMMU, "dma-coherent", &[0], length(4, 0));
    let both = machine().with(SMMU, "dma-noncoherent", Some(&[]));
    let contradicts = PropertyFault::Contradicts("dma-noncoherent");
    fails_at(both, "/smmu@9050000", "dma-coherent", contradicts);
    cells_fail("smmu@9070000", "phandle", &[3], PropertyFault::DuplicatePhandle(3));
    cells_fail(SMMU, "phandle", &[0], PropertyFault::Value(0));
    cells_fail(SMMU, "phandle", &[u32::MAX], PropertyFault::Value(u32::MAX.into()));
    fails(SMMU, "status", Some(b"okay"), PropertyFault::NotText);
    fails(SMMU, "status", Some(b"okay\0okay\0"), PropertyFault::NotText);
    fails(SMMU, "compatible", Some(&[0xff, 0]), PropertyFault::NotText);
}

#[test]
fn a_device_that_cannot_be() {
    cells_fail(DMA, "pasid-num-bits", &[21], PropertyFault::Value(21));
    cells_fail(DMA, "dma-can-stall", &[1], length(4, 0));
    cells_fail(DMA, "reg", &[0x1000], length(4, 8));
}

#[test]
fn buses_that_cannot_be() {
    // The error names the bus whose ranges do not fit.
    let outside = PropertyFault::OutsideRanges(0x0fff_ff00);
    let reg = cells(&[0x0fff_ff00, 0x101]);
    match Machine::from_fdt(&machine().with(DMA, "reg", Some(&reg)).blob()) {
        Err(FirmwareError::Property { path, property, fault }) => {
            assert_eq!((path.as_str(), property, fault), ("/soc", "ranges", outside));
        }
        other => panic!("{other:?}"),
    }
    cells_fail("soc", "ranges", &[0, 0, 0x1000_0000], length(12, 16));
    cells_fail("soc", "dma-ranges", &[0, 0, 0x4000_0000, 0], PropertyFault::Value(0));
    cells_fail("soc", "#address-cells", &[5], PropertyFault::Value(5));
}

#[test]
fn reserved_memory_that_cannot_be() {
    fails(REGION, "iommu-addresses", Some(&[]), length(0, 4));
    cells_fail(REGION, "iommu-addresses", &[6, 0x0800_0000], length(8, 4));
    cells_fail(REGION, "iommu-addresses", &[0x99, 0, 0x1000], PropertyFault::NoSuchPhandle(0x99));
    cells_fail(REGION, "iommu-addresses", &[6, 0, 0], PropertyFault::Value(0));
    cells_fail(REGION, "reg", &[0, 0x4800_0000, 0], length(12, 16));
    cells_fail(REGION, "reg", &[0, 0x4800_0000, 0, 0], PropertyFault::Value(0));
    cells_fail(REGION, "no-map", &[1], length(4, 0));
    cells_fail(REGION, "iommu-addresses", &[5, 0xffff_ffff, 0xffff_ffff, 0, 2], PropertyFault::TooLarge);
    fails("reserved-memory", "ranges", None, PropertyFault::Missing);
}

#[test]
fn an_its_that_cannot_be() {
    let its = "intc@8000000/its@8080000";
    fails(its, "reg", None, PropertyFault::Missing);
    fails(its, "#msi-cells", None, PropertyFault::Value(0));
    cells_fail(its, "#msi-cells", &[2], PropertyFault::Value(2));
    let tree = machine().with("intc@8000000", "#interrupt-cells", Some(&cells(&[0])));
    fails_at(tree, "/smmu@9050000", "interrupts", PropertyFault::WrongNode(1));
    let tree = machine().with("", "interrupt-parent", None);
    fails_at(tree, "/smmu@9050000", "interrupt-parent", PropertyFault::Missing);
}

#[test]
fn an_error_reads_as_one_line() {
    let tree = machine().with(PCIE, "iommu-map", Some(&cells(&[0, 3, 0])));
    let error = Machine::from_fdt(&tree.blob()).unwrap_err();
    assert_eq!(error.to_string(), "/pcie@10000000, property iommu-map: 12 bytes do not fit units of 16");
    let error = Machine::from_fdt(b"not a tree").unwrap_err();
    assert_eq!(
        error.to_string(),
        "device tree blob, byte 0x0: 0x6e6f7420 is not the magic number of a device tree"
    );
}
