//! What nodes of every kind mean.

use portcullis_firmware::acpi::iort::{
    Counted, Dma, Messages, Remapping, RmrAccess, Route, SmmuKind, StreamRange, Wire,
};
use portcullis_spec::pcie::Bdf;
use portcullis_types::{Pa, PaRange};

use super::builder::*;

const WIRED: [u32; 4] = [74, 75, 76, 77];

fn read(nodes: &[Vec<u8>]) -> Remapping {
    let read = Remapping::read(&table(nodes), &[]).unwrap();
    assert_eq!(read.faults, []);
    read
}

fn function(read: &Remapping, segment: u16, id: u16) -> Route {
    read.function(segment, Bdf::from_requester_id(id))
}

fn its_device(group: usize, device: u32) -> Messages {
    Messages::Its { group, device }
}

#[test]
fn ids_are_followed_from_mapping_to_mapping_and_each_changes_them() {
    let groups = [its(&[0]), its(&[1, 2])];
    let [first, second] = places(&groups);
    let at = 48 + groups.concat().len();
    let streams = [mapping(0x1000, 0xff, 0x5000, second, 0), mapping(0, 0xff, 0x20, first, 0)];
    let smmu = smmu_v3(4, 0x1000_0000, 0, WIRED, 0, &streams);
    let functions =
        [mapping(0, 0xff, 0x1000, at, 0), mapping(0x100, 0, 7, at, 0), mapping(0x200, 1, 0x90, second, 0)];
    let root = root(3, 0b101, &functions);
    let [one, two] = groups;
    let read = read(&[one, two, smmu, root]);
    let through = |stream, messages| Route { dma: Dma::Smmu { smmu: 0, stream }, messages };
    assert_eq!(function(&read, 3, 0), through(0x1000, its_device(1, 0x5000)));
    assert_eq!(
        function(&read, 3, 0xff),
        through(0x10ff, its_device(1, 0x50ff)),
        "the last: the field is one less"
    );
    assert_eq!(function(&read, 3, 0x100), through(7, its_device(0, 0x27)));
    assert_eq!(function(&read, 3, 0x101).dma, Dma::Nobody);
    assert_eq!(function(&read, 3, 0x201), Route { dma: Dma::Past, messages: its_device(1, 0x91) });
    assert_eq!(function(&read, 0, 0).dma, Dma::Nobody, "another segment");
    let root = &read.root_complexes[0];
    assert!(root.ats && !root.pri && root.pasid_forwarding);
    assert_eq!((root.address_bits, read.its_groups[1].identifiers.as_slice()), (Some(48), &[1, 2][..]));
}

#[test]
fn root_complexes_of_one_segment_share_it() {
    let smmu = smmu_v3(4, 0x1000_0000, 0, WIRED, 0, &[]);
    let roots = |smmu| {
        [root(0, 0, &[mapping(0, 0xff, 0, smmu, 0)]), root(0, 1, &[mapping(0x100, 0xff, 0x800, smmu, 0)])]
    };
    // The SMMU lies behind them: who is referred to need not come first.
    let [one, two] = roots(48 + roots(0).concat().len());
    let read = read(&[one, two, smmu]);
    assert_eq!(function(&read, 0, 1).dma, Dma::Smmu { smmu: 0, stream: 1 });
    assert_eq!(function(&read, 0, 0x101).dma, Dma::Smmu { smmu: 0, stream: 0x801 });
}

#[test]
fn a_device_of_the_name_space_has_a_stream_for_each_of_its_single_mappings() {
    let group = its(&[0]);
    let smmu = smmu_v3(4, 0x1000_0000, 0, WIRED, 0, &[mapping(0, 0xff, 0x100, 48, 0)]);
    let at = 48 + group.len();
    let single = |output, to| mapping(0, 0, output, to, 1);
    let read = read(&[
        group,
        smmu,
        component(0b1_0101, 40, b"\\_SB.DMA0\0", &[single(4, at), single(6, at)]),
        component(0, 32, b"\\_SB.DMA1\0", &[single(5, at), single(9, 48)]),
        component(0, 32, b"\\_SB.BUS0\0", &[mapping(0x10, 0xf, 0x20, at, 0)]),
    ]);
    let stream = |stream| Dma::Smmu { smmu: 0, stream };
    let first = read.component("\\_SB.DMA0").unwrap();
    assert_eq!(first.dma, [stream(4), stream(6)]);
    assert_eq!(first.messages, [its_device(0, 0x104), its_device(0, 0x106)]);
    let second = read.component("\\_SB.DMA1").unwrap();
    assert_eq!(
        (second.dma, second.messages),
        (vec![stream(5)], vec![its_device(0, 9)]),
        "its own DeviceID counts"
    );
    assert_eq!(read.component("\\_SB.BUS0").unwrap().dma, []);
    assert_eq!(read.component_id("\\_SB.BUS0", 0x1f).dma, stream(0x2f));
    assert_eq!(read.component_id("\\_SB.BUS0", 0x20).dma, Dma::Nobody);
    assert_eq!(read.component_id("\\_SB.DMA0", 4).dma, Dma::Nobody, "it has no ids");
    assert_eq!(read.component("\\_SB.DMA2"), None);
    let component = &read.components[0];
    assert_eq!((component.stall, component.pasid_bits, component.address_bits), (true, 10, Some(40)));
}

#[test]
fn an_smmu_of_version_3_says_what_only_firmware_knows() {
    let group = its(&[0]);
    let own = mapping(0, 0, 0xabc, 48, 1);
    let smmu = |revision, flags, wires, mappings: &[Vec<u8>]| {
        let read = read(&[group.clone(), smmu_v3(revision, 0x1000_0000, flags, wires, 0, mappings)]);
        match read.smmus[0].kind {
            SmmuKind::V3 { node, messages } => (node, messages),
            _ => panic!("version 3"),
        }
    };
    let (node, messages) = smmu(5, 0b1_1101, [0; 4], core::slice::from_ref(&own));
    assert_eq!((node.coherent, node.httu, node.proximity), (true, 2, Some(7)));
    assert_eq!(messages, its_device(0, 0xabc));
    let (node, messages) = smmu(4, 0b0_0011, [0, 1, 2, 3], core::slice::from_ref(&own));
    assert_eq!(
        (node.httu, node.proximity, messages),
        (1, None, its_device(0, 0xabc)),
        "no flag before revision 5"
    );
    let streams = [mapping(0, 0xff, 0, 48, 0)];
    let (node, messages) = smmu(5, 0, [0; 4], &streams);
    assert_eq!((node.own_mapping, messages), (None, Messages::Nobody), "a flag in revision 5");
    assert_eq!(smmu(4, 0, WIRED, &streams).0.own_mapping, None, "all its interrupts are wired");
}

#[test]
fn an_smmu_of_version_2_tells_its_interrupts() {
    let read = read(&[smmu_v2(0x2000_1000, 0x2_1000, &[])]);
    let SmmuKind::V2(smmu) = &read.smmus[0].kind else { panic!("version 2") };
    let wire = |gsiv, edge| Wire { gsiv, edge };
    assert_eq!((smmu.model, smmu.dvm, smmu.coherent_walk), (3, true, true));
    assert_eq!((smmu.global, smmu.config), (wire(40, false), wire(41, true)));
    assert_eq!(smmu.contexts, [wire(42, true), wire(43, false)]);
    assert_eq!(smmu.counters, [wire(44, true)]);
    assert_eq!(read.smmus[0].registers, PaRange::new(Pa::new(0x2000_1000), 0x2_1000).unwrap());
}

#[test]
fn reserved_memory_is_its_streams_and_nobody_elses() {
    let smmu = smmu_v3(4, 0x1000_0000, 0, WIRED, 0, &[]);
    let ranges = [(0x8000_0000, 0x2_0000), (0x9000_0000, 0x1_0000)];
    let streams = [mapping(0, 3, 0x40, 48, 0), mapping(0, 9, 0x80, 48, 1)];
    let read =
        read(&[smmu, reserved(3, 0b1_0111, &ranges, &streams), reserved(1, 0, &ranges[..1], &streams[1..])]);
    let count = |stream| read.reserved_for(0, stream).count();
    assert_eq!(
        [0x3f, 0x40, 0x43, 0x44, 0x80, 0x81].map(count),
        [0, 2, 2, 0, 3, 0],
        "of a single one the output alone"
    );
    assert_eq!(read.reserved_for(1, 0x40).count(), 0);
    let region = &read.reserved[0];
    assert_eq!(region.range, PaRange::new(Pa::new(0x8000_0000), 0x2_0000).unwrap());
    assert_eq!(
        (region.remappable, region.access),
        (true, Some(RmrAccess { privileged: true, attributes: 5 }))
    );
    assert_eq!(region.streams[0], StreamRange { smmu: 0, first: 0x40, last: 0x43 });
    assert_eq!(
        (read.reserved[2].remappable, read.reserved[2].access),
        (false, None),
        "not told before revision 3"
    );
}

#[test]
fn counters_count_for_an_smmu_or_a_device() {
    let nodes = [its(&[0]), smmu_v3(4, 0x1000_0000, 0, WIRED, 0, &[]), root(0, 0, &[])];
    let [group, smmu, root] = places(&nodes);
    let [one, two, three] = nodes;
    let read = read(&[
        one,
        two,
        three,
        counters(0x1100_0000, 0, smmu, &[mapping(0, 0, 0x30, group, 1)]),
        counters(0x1200_0000, 99, root, &[]),
    ]);
    assert_eq!((read.counters[0].of, read.counters[0].messages), (Counted::Smmu(0), its_device(0, 0x30)));
    assert_eq!((read.counters[1].of, read.counters[1].messages), (Counted::Device(root), Messages::Nobody));
    assert_eq!((read.counters[1].overflow, read.counters[1].page1), (99, Some(Pa::new(0x1200_1000))));
}

#[test]
fn fields_that_came_later_are_not_read_from_nodes_that_have_them_not() {
    let coherent = [1, 0, 0, 0, 0, 0, 0, 7];
    let old = node(2, 0, &[&coherent[..], &words(&[0, 0])].concat(), &[]);
    let new = |revision, flags| {
        let body = [&coherent[..], &words(&[0, 0]), &[52, 20, 0, 0], &words(&[flags])].concat();
        node(2, revision, &body, &[])
    };
    let read = read(&[old, new(3, 1), new(4, 1), new(4, 0)]);
    let told: Vec<_> = read.root_complexes.iter().map(|root| (root.address_bits, root.pasid_bits)).collect();
    assert_eq!(told, [(None, None), (Some(52), None), (Some(52), Some(20)), (Some(52), Some(0))]);
    assert!(read.root_complexes[0].memory.always_write_back);
}

#[test]
fn types_that_are_not_known_are_skipped() {
    let mut unknown = its(&[0]);
    unknown[0] = 7;
    let read = read(&[unknown, its(&[4])]);
    assert_eq!((read.its_groups.len(), read.its_groups[0].identifiers.as_slice()), (1, &[4][..]));
}
