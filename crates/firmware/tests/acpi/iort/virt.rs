//! The table of QEMU's virt machine with an SMMU, byte by byte.
//!
//! Observed: QEMU 7.2, `-machine virt,iommu=smmuv3,gic-version=3`, before firmware has numbered buses; the checksum is firmware's to make.

use portcullis_firmware::acpi::iort::{
    Dma, Iort, IortError, IortFault, Messages, NodeKind, Remapping, Route, SmmuKind, SmmuV3Node,
};
use portcullis_spec::pcie::Bdf;
use portcullis_types::{Pa, PaRange};

use crate::builder::seal;

#[rustfmt::skip]
const UNSEALED: [u8; 236] = [
    b'I', b'O', b'R', b'T', 236, 0, 0, 0,
    3, 0, b'B', b'O', b'C', b'H', b'S', b' ',
    b'B', b'X', b'P', b'C', b' ', b' ', b' ', b' ',
    1, 0, 0, 0, b'B', b'X', b'P', b'C',
    1, 0, 0, 0, 3, 0, 0, 0,
    48, 0, 0, 0, 0, 0, 0, 0,
    // At 48: a group of one ITS, 0.
    0, 24, 0, 1, 0, 0, 0, 0,
    0, 0, 0, 0, 0, 0, 0, 0,
    1, 0, 0, 0, 0, 0, 0, 0,
    // At 72: the SMMU at 0x0905_0000, coherent, interrupts 106, 107, 109 and 108; all streams to the group.
    4, 88, 0, 4, 1, 0, 0, 0,
    1, 0, 0, 0, 68, 0, 0, 0,
    0, 0, 0x05, 0x09, 0, 0, 0, 0,
    1, 0, 0, 0, 0, 0, 0, 0,
    0, 0, 0, 0, 0, 0, 0, 0,
    0, 0, 0, 0, 106, 0, 0, 0,
    107, 0, 0, 0, 109, 0, 0, 0,
    108, 0, 0, 0, 0, 0, 0, 0,
    0, 0, 0, 0,
    0, 0, 0, 0, 0xff, 0xff, 0, 0,
    0, 0, 0, 0, 48, 0, 0, 0,
    0, 0, 0, 0,
    // At 160: the root complex of segment 0, coherent, 64 bits; bus 0 to the SMMU, the others, behind which nobody is, to the group.
    2, 76, 0, 3, 2, 0, 0, 0,
    2, 0, 0, 0, 36, 0, 0, 0,
    1, 0, 0, 0, 0, 0, 0, 3,
    0, 0, 0, 0, 0, 0, 0, 0,
    64, 0, 0, 0,
    // One id too many: the field is the number of ids less one.
    0, 0, 0, 0, 0, 1, 0, 0,
    0, 0, 0, 0, 72, 0, 0, 0,
    0, 0, 0, 0,
    0, 1, 0, 0, 0xff, 0xfe, 0, 0,
    0, 1, 0, 0, 48, 0, 0, 0,
    0, 0, 0, 0,
];

pub(crate) fn bytes() -> Vec<u8> {
    let mut bytes = UNSEALED.to_vec();
    seal(&mut bytes);
    bytes
}

#[test]
fn the_virt_machines_table_reads_as_the_machine_is() {
    let bytes = bytes();
    let iort = Iort::read(&bytes).unwrap();
    assert_eq!((iort.revision(), iort.node_count()), (3, 3));
    let places: Vec<(usize, u8, usize)> =
        iort.nodes().map(|node| (node.offset, node.revision, node.mappings().count())).collect();
    assert_eq!(places, [(48, 1, 0), (72, 4, 1), (160, 3, 2)]);
    let Some(NodeKind::SmmuV3(smmu)) = iort.nodes().nth(1).map(|node| node.kind) else { panic!("an SMMU") };
    let expected = SmmuV3Node {
        base: Pa::new(0x0905_0000),
        coherent: true,
        httu: 0,
        vatos: Pa::new(0),
        model: 0,
        event: 106,
        pri: 107,
        gerror: 109,
        sync: 108,
        proximity: None,
        own_mapping: None,
    };
    assert_eq!(smmu, expected);
}

#[test]
fn the_virt_machines_functions_are_streams_and_devices_of_their_own_ids() {
    let read = Remapping::read(&bytes(), &[]).unwrap();
    assert_eq!(read.faults, [IortError { offset: 216, fault: IortFault::Overlap }]);
    let registers = PaRange::new(Pa::new(0x0905_0000), 0x2_0000).unwrap();
    assert_eq!((read.smmus.len(), read.smmus[0].registers), (1, registers));
    assert!(matches!(read.smmus[0].kind, SmmuKind::V3 { messages: Messages::Nobody, .. }));
    assert_eq!(read.its_groups[0].identifiers, [0]);
    let root = &read.root_complexes[0];
    assert_eq!((root.segment, root.address_bits, root.ats, root.pasid_bits), (0, Some(64), false, None));
    assert_eq!((root.memory.coherency, root.memory.coherent_path, root.memory.cacheable), (1, true, true));
    for id in [0, 8, 0xff] {
        let (stream, device) = (u32::from(id), u32::from(id));
        let expected =
            Route { dma: Dma::Smmu { smmu: 0, stream }, messages: Messages::Its { group: 0, device } };
        assert_eq!(read.function(0, Bdf::from_requester_id(id)), expected);
        assert_eq!(read.function(1, Bdf::from_requester_id(id)).dma, Dma::Nobody, "another segment");
    }
    for id in [0x101, 0xffff] {
        let expected = Route { dma: Dma::Past, messages: Messages::Its { group: 0, device: id.into() } };
        assert_eq!(read.function(0, Bdf::from_requester_id(id)), expected);
    }
    let twice = read.function(0, Bdf::from_requester_id(0x100)).dma;
    assert_eq!(twice, Dma::Disputed(196, 216), "neither translated nor past the SMMU in silence");
}
