//! SMMUv2s and MMU-500s: cells, masks, interrupts, and the binding that has been given up.

use portcullis_firmware::{FirmwareError, IommuKind, Machine, PropertyFault, Translation};
use portcullis_spec::pcie::Bdf;
use portcullis_types::SourceId;

use crate::trees::{Node, cells, machine};

const SMMU: &str = "smmu@9050000";

/// The test machine with an SMMUv2 as its first IOMMU.
fn tree(compatible: &str, iommu_cells: u32) -> Node {
    let compatible: Vec<u8> =
        compatible.split(' ').flat_map(|text| [text.as_bytes(), &[0]].concat()).collect();
    let tree = machine()
        .with(SMMU, "compatible", Some(&compatible))
        .with(SMMU, "#iommu-cells", Some(&cells(&[iommu_cells])))
        .with(SMMU, "#global-interrupts", Some(&cells(&[1])))
        .with(SMMU, "interrupt-names", None)
        .with(SMMU, "msi-parent", None);
    if iommu_cells == 2 {
        let iommus = cells(&[3, 0x42, 0x0f, 4, 0x43]);
        tree.with("soc/dma@1000", "iommus", Some(&iommus)).with("pcie@10000000", "iommu-map", None)
    } else {
        tree
    }
}

fn read(tree: &Node) -> Machine {
    Machine::from_fdt(&tree.blob()).unwrap()
}

#[track_caller]
fn fails(tree: &Node, property: &str, expected: &PropertyFault) {
    match Machine::from_fdt(&tree.blob()) {
        Err(FirmwareError::Property { path, property: name, fault }) => {
            assert_eq!((path.as_str(), name, &fault), ("/smmu@9050000", property, expected));
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn its_design_is_the_one_that_its_compatibles_fall_back_to() {
    let kind = |compatible| read(&tree(compatible, 1)).iommus[0].kind;
    assert_eq!(kind("arm,smmu-v2"), IommuKind::SmmuV2);
    assert_eq!(kind("arm,mmu-500"), IommuKind::Mmu500);
    assert_eq!(kind("acme,soc-smmu-500 acme,smmu-500 arm,mmu-500"), IommuKind::Mmu500);
    assert_eq!(kind("acme,smmu-500"), IommuKind::Other, "whose it behaves like it does not say");
    assert_eq!(kind("arm,smmu-v1"), IommuKind::Other);
}

#[test]
fn with_one_cell_a_source_is_a_stream_id_and_with_two_the_mask_stands_above_it() {
    let machine = read(&tree("arm,smmu-v2", 1));
    assert_eq!(machine.devices[0].streams[0].source(), Some(SourceId(0x42)));
    let machine = read(&tree("arm,smmu-v2", 2));
    assert_eq!(machine.devices[0].streams[0].source(), Some(SourceId(0x000f_0042)));
    assert_eq!(machine.devices[0].streams[1].source(), Some(SourceId(0x43)), "the other is no SMMUv2");
}

#[test]
fn a_stream_match_mask_is_everybodys_who_has_one_cell() {
    let masked =
        |cells_of, mask| tree("arm,mmu-500", cells_of).with(SMMU, "stream-match-mask", Some(&cells(&[mask])));
    let machine = read(&masked(1, 0x7f80));
    assert_eq!(machine.devices[0].streams[0].source(), Some(SourceId(0x7f80_0042)));
    let behind = machine.pci_hosts[0].translation(Bdf::from_requester_id(0));
    let Translation::Behind { iommu: 0, source } = behind else { panic!("{behind:?}") };
    assert_eq!(source.0 >> 16, 0x7f80);
    let machine = read(&masked(2, 0x7f80));
    assert_eq!(
        (machine.iommus[0].stream_mask, machine.devices[0].streams[0].source()),
        (0, Some(SourceId(0x000f_0042)))
    );
    fails(&masked(1, 0x1_0000), "stream-match-mask", &PropertyFault::Value(0x1_0000));
}

#[test]
fn the_first_interrupts_are_of_global_faults_and_there_are_no_more_of_them_than_interrupts() {
    let machine = read(&tree("arm,mmu-500", 1));
    assert_eq!((machine.iommus[0].global_interrupts, machine.iommus[0].interrupts.len()), (1, 2));
    let with = |count: Option<&[u8]>| tree("arm,mmu-500", 1).with(SMMU, "#global-interrupts", count);
    fails(&with(None), "#global-interrupts", &PropertyFault::Missing);
    fails(&with(Some(&cells(&[3]))), "#global-interrupts", &PropertyFault::Value(3));
}

#[test]
fn what_no_specifier_of_an_smmuv2_can_be_is_refused() {
    for count in [0, 3] {
        fails(
            &tree("arm,smmu-v2", 1).with(SMMU, "#iommu-cells", Some(&cells(&[count]))),
            "#iommu-cells",
            &PropertyFault::Value(count.into()),
        );
    }
    let wide = tree("arm,smmu-v2", 1).with("soc/dma@1000", "iommus", Some(&cells(&[3, 0x1_0000])));
    let fault = Machine::from_fdt(&wide.blob()).unwrap_err();
    assert!(matches!(
        fault,
        FirmwareError::Property { property: "iommus", fault: PropertyFault::Value(0x1_0000), .. }
    ));
    let far = tree("arm,smmu-v2", 1).with("pcie@10000000", "iommu-map", Some(&cells(&[0, 3, 0xfff8, 0x10])));
    let fault = Machine::from_fdt(&far.blob()).unwrap_err();
    assert!(matches!(
        fault,
        FirmwareError::Property { property: "iommu-map", fault: PropertyFault::Value(0xfff8), .. }
    ));
}

#[test]
fn the_binding_that_has_been_given_up_is_refused_with_what_to_say_instead() {
    let old = tree("arm,mmu-500", 1).with(SMMU, "mmu-masters", Some(&cells(&[6, 0x42])));
    let error = Machine::from_fdt(&old.blob()).unwrap_err();
    let FirmwareError::Property { property: "mmu-masters", fault, .. } = &error else { panic!("{error:?}") };
    assert!(matches!(fault, PropertyFault::GivenUp(_)));
    assert!(fault.to_string().contains("`iommus`"), "{fault}");
}
