//! Tables that are broken: each fault is told by name and place, and no device is covered by mistake.

use portcullis_firmware::acpi::TableFault;
use portcullis_firmware::acpi::iort::{
    Counted, Dma, Iort, IortError, IortFault, Messages, Remapping, SmmuKind,
};
use portcullis_spec::pcie::Bdf;
use portcullis_types::{Pa, PaRange};

use super::builder::*;
use super::virt;
use crate::builder::{every_damage, seal};

const SMMU: u64 = 0x1000_0000;
const WIRED: [u32; 4] = [74, 75, 76, 77];

fn read(nodes: &[Vec<u8>]) -> Remapping {
    Remapping::read(&table(nodes), &[]).unwrap()
}

fn errors(read: &Remapping) -> Vec<(usize, IortFault)> {
    read.faults.iter().map(|error| (error.offset, error.fault)).collect()
}

fn dma(read: &Remapping, id: u16) -> Dma {
    read.function(0, Bdf::from_requester_id(id)).dma
}

fn changed(changes: &[(usize, u8)]) -> Vec<u8> {
    let mut bytes = virt::bytes();
    changes.iter().for_each(|&(at, byte)| bytes[at] = byte);
    seal(&mut bytes);
    bytes
}

fn smmu(base: u64) -> Vec<u8> {
    smmu_v3(4, base, 0, WIRED, 0, &[])
}

#[test]
fn a_header_that_cannot_be_is_an_error() {
    let refused = |bytes: &[u8]| match Iort::read(bytes) {
        Err(IortError { offset: 0, fault }) => fault,
        other => panic!("{other:?}"),
    };
    let table = IortFault::Table;
    assert_eq!(refused(&[]), table(TableFault::Truncated { len_bytes: 0, wanted_bytes: 36 }));
    assert_eq!(refused(&changed(&[(0, b'X')])), table(TableFault::Signature(*b"XORT")));
    assert_eq!(refused(&changed(&[(4, 47)])), table(TableFault::Length(47)));
    assert_eq!(refused(&changed(&[(40, 44)])), IortFault::NodeOffset(44));
    let mut bytes = virt::bytes();
    bytes[60] ^= 4;
    assert!(matches!(refused(&bytes), IortFault::Table(TableFault::Checksum(_))));
}

#[test]
fn lengths_and_lists_that_do_not_fit_are_errors_with_their_place() {
    let refused = |changes: &[(usize, u8)]| Iort::read(&changed(changes)).unwrap_err();
    let at = |offset, fault| IortError { offset, fault };
    assert_eq!(refused(&[(49, 0)]), at(48, IortFault::Length(0)), "no walk without end");
    assert_eq!(refused(&[(48, 9), (49, 15)]), at(48, IortFault::Length(15)), "of an unknown type, too");
    assert_eq!(refused(&[(49, 19)]), at(48, IortFault::Length(19)), "no room for a count");
    assert_eq!(refused(&[(64, 2)]), at(48, IortFault::Truncated), "an identifier beyond the end");
    assert_eq!(refused(&[(67, 0x80)]), at(48, IortFault::Truncated), "so many that their bytes would wrap");
    assert_eq!(refused(&[(73, 64)]), at(72, IortFault::Length(64)));
    assert_eq!(refused(&[(80, 2)]), at(72, IortFault::Truncated), "a mapping beyond the end");
    assert_eq!(refused(&[(84, 64)]), at(72, IortFault::ListOffset(64)), "mappings over fields");
    assert_eq!(refused(&[(161, 77)]), at(160, IortFault::Truncated));
    assert_eq!(refused(&[(36, 4)]), at(236, IortFault::Truncated), "a node too many");
    let mut v2 = smmu_v2(SMMU, 0x1_0000, &[]);
    v2[44] = 200;
    assert_eq!(Iort::read(&table(&[v2])).unwrap_err(), at(48, IortFault::Truncated));
    let mut rmr = reserved(3, 0, &[(0x8000_0000, 0x1_0000)], &[]);
    rmr[20] = 2;
    assert_eq!(Iort::read(&table(&[rmr])).unwrap_err(), at(48, IortFault::Truncated));
}

#[test]
fn who_is_mapped_to_what_was_left_out_is_covered_by_nothing_else() {
    for base in [0, SMMU + 0x1000, 0_u64.wrapping_sub(0x1_0000)] {
        let nodes = [smmu(base), smmu(SMMU + 0x10_0000)];
        let [bad, good] = places(&nodes);
        let at = 48 + nodes.concat().len();
        let [one, two] = nodes;
        let read = read(&[
            one,
            two,
            root(0, 0, &[mapping(0, 0xff, 0, bad, 0), mapping(0x80, 0xff, 0, good, 0)]),
            component(0, 32, b"\\A\0", &[mapping(0, 0, 5, bad, 1)]),
        ]);
        let why = IortError { offset: bad, fault: IortFault::Registers(Pa::new(base)) };
        assert_eq!(errors(&read), [(bad, why.fault), (at + 56, IortFault::Overlap)]);
        assert_eq!(dma(&read, 0x10), Dma::Broken(why));
        assert_eq!(dma(&read, 0x90), Dma::Broken(why), "though the other claims it, too");
        assert_eq!(dma(&read, 0x100), Dma::Smmu { smmu: 0, stream: 0x80 });
        assert_eq!(read.component("\\A").unwrap().dma, [Dma::Broken(why)]);
    }
    let twice = read(&[smmu(SMMU), smmu_v2(SMMU + 0x1_0000, 0x1_0000, &[])]);
    let shared = PaRange::new(Pa::new(SMMU + 0x1_0000), 0x1_0000).unwrap();
    assert_eq!(errors(&twice), [(116, IortFault::SharedRegisters(shared))]);
    let empty = read(&[its(&[]), root(0, 0, &[mapping(0, 0, 0, 48, 0)])]);
    assert_eq!(errors(&empty), [(48, IortFault::EmptyGroup)]);
    assert!(matches!(dma(&empty, 0), Dma::Broken(IortError { offset: 48, .. })), "not past every SMMU");
}

#[test]
fn a_mapping_to_nowhere_or_to_the_wrong_node_is_told_and_claims_its_ids() {
    let at = 48 + smmu(SMMU).len();
    let to = |reference| {
        let read = read(&[smmu(SMMU), root(0, 0, &[mapping(0, 0xff, 0, reference, 0)])]);
        assert!(matches!(dma(&read, 7), Dma::Broken(_)), "{:?}", read.function(0, Bdf::from_requester_id(7)));
        errors(&read)
    };
    assert_eq!(to(0), [(at + 36, IortFault::NoSuchNode(0))]);
    assert_eq!(to(52), [(at + 36, IortFault::NoSuchNode(52))], "within a node");
    assert_eq!(to(0xffff_fff0), [(at + 36, IortFault::NoSuchNode(0xffff_fff0))]);
    assert_eq!(to(at), [(at + 36, IortFault::WrongTarget(u32::try_from(at).unwrap()))], "to itself");
    let mut unknown = smmu(SMMU);
    unknown[0] = 9;
    let skipped = read(&[unknown, root(0, 0, &[mapping(0, 0xff, 0, 48, 0)])]);
    assert_eq!(errors(&skipped), [(at + 36, IortFault::NoSuchNode(48))]);
    assert!(matches!(dma(&skipped, 0), Dma::Broken(_)));
}

#[test]
fn no_way_comes_back_to_where_it_was() {
    let turning = |base, to| smmu_v3(4, base, 0, WIRED, 0, &[mapping(0, 0xffff, 0, to, 0)]);
    let nodes = [turning(SMMU, 136), turning(SMMU + 0x10_0000, 48)];
    assert_eq!(places(&nodes), [48, 136]);
    let [one, two] = nodes;
    let read = read(&[one, two, root(0, 0, &[mapping(0, 0xffff, 0, 48, 0)])]);
    assert_eq!(errors(&read), [(116, IortFault::WrongTarget(136)), (204, IortFault::WrongTarget(48))]);
    let route = read.function(0, Bdf::from_requester_id(3));
    assert_eq!(route.dma, Dma::Smmu { smmu: 0, stream: 3 }, "its accesses are not in question");
    assert_eq!(route.messages, Messages::Broken(read.faults[0]));
}

#[test]
fn an_id_in_two_mappings_is_disputed() {
    let at = 48 + smmu(SMMU).len();
    let maps = [mapping(0, 0x100, 0, 48, 0), mapping(0x100, 0xff, 0x100, 48, 0)];
    let one = read(&[smmu(SMMU), root(0, 0, &maps)]);
    assert_eq!(errors(&one), [(at + 56, IortFault::Overlap)]);
    assert_eq!(dma(&one, 0x100), Dma::Disputed(at + 36, at + 56), "though both lead to the same");
    assert_eq!(dma(&one, 0xff), Dma::Smmu { smmu: 0, stream: 0xff });
    assert_eq!(dma(&one, 0x101), Dma::Smmu { smmu: 0, stream: 0x101 });
    let [first, second] = maps;
    let two = read(&[smmu(SMMU), root(0, 0, &[first]), root(0, 0, &[second])]);
    assert_eq!(errors(&two), [(at + 56 + 36, IortFault::Overlap)]);
    assert!(matches!(dma(&two, 0x100), Dma::Disputed(..)), "of two root complexes");
    let single = read(&[smmu(SMMU), root(0, 0, &[mapping(0, 0, 9, 48, 1), mapping(4, 0, 4, 48, 0)])]);
    assert_eq!((dma(&single, 3), errors(&single).len()), (Dma::Smmu { smmu: 0, stream: 9 }, 1));
    assert!(matches!(dma(&single, 4), Dma::Disputed(..)));
}

#[test]
fn ids_beyond_the_last_one_are_told_and_their_mapping_leads_nowhere() {
    let at = 48 + smmu(SMMU).len() + 36;
    let with = |first, more, output| {
        let read = read(&[smmu(SMMU), root(0, 0, &[mapping(first, more, output, 48, 0)])]);
        (errors(&read), dma(&read, 5))
    };
    let (told, dma) = with(5, u32::MAX, 0);
    assert_eq!(told, [(at, IortFault::Ids { first: 5, more: u32::MAX })]);
    assert!(matches!(dma, Dma::Broken(_)));
    let (told, dma) = with(0, 0xff, 0xffff_ff80);
    assert_eq!(told, [(at, IortFault::Ids { first: 0xffff_ff80, more: 0xff })]);
    assert!(matches!(dma, Dma::Broken(_)));
    assert_eq!(with(0, u32::MAX, 0), (vec![], Dma::Smmu { smmu: 0, stream: 5 }), "all there are");
}

#[test]
fn what_nodes_say_that_cannot_be_is_told() {
    let told = |node: Vec<u8>| errors(&read(&[smmu(SMMU), node]));
    let at = 48 + smmu(SMMU).len();
    assert_eq!(told(root(0x1_0000, 0, &[])), [(at, IortFault::Segment(0x1_0000))]);
    assert_eq!(told(component(0, 0, b"\\A\0", &[])), [(at, IortFault::AddressBits(0))]);
    assert_eq!(told(component(0, 65, b"\\A\0", &[])), [(at, IortFault::AddressBits(65))]);
    let endless = component(0, 32, b"\\AAAAAA", &[mapping(0, 0, 1, 48, 1)]);
    assert_eq!(told(endless), [(at, IortFault::Name)], "the zeroes of its mapping are not its own");
    assert_eq!(told(component(0, 32, b"\0", &[])), [(at, IortFault::Name)]);
    let mut odd = root(0, 0, &[]);
    odd[16] = 2;
    assert_eq!(told(odd), [(at, IortFault::Coherency(2))]);
    assert_eq!(told(counters(0x1000, 1, 50, &[])), [(at, IortFault::NoSuchNode(50))]);
    assert_eq!(told(counters(0x1800, 1, 48, &[])), [(at, IortFault::Registers(Pa::new(0x1800)))]);
    let group = its(&[0]);
    let own = smmu_v3(5, SMMU, 1 << 4, [0; 4], 1, &[mapping(0, 0, 0, 48, 0)]);
    assert_eq!(errors(&read(&[group.clone(), own])), [(72, IortFault::NoSuchMapping(1))]);
    let single = smmu_v3(5, SMMU, 0, [0; 4], 0, &[mapping(0, 0, 0, 48, 1)]);
    let single = read(&[group, single]);
    assert_eq!(errors(&single), [(72 + 68, IortFault::SingleMapping)]);
    assert_eq!(single.messages_of(0, 0), Messages::Nobody);
    assert!(matches!(single.smmus[0].kind, SmmuKind::V3 { messages: Messages::Nobody, .. }));
}

#[test]
fn reserved_memory_that_is_no_pages_or_nobodys_is_left_out() {
    let at = 48 + smmu(SMMU).len();
    let streams = [mapping(0, 0, 3, 48, 0)];
    for (base, len_bytes) in
        [(0x8000_0000, 0), (0x8000_1000, 0x1_0000), (0x8000_0000, 0x1000), (!0xffff, 0x2_0000)]
    {
        let read = read(&[smmu(SMMU), reserved(3, 0, &[(base, len_bytes)], &streams)]);
        assert_eq!(errors(&read), [(at + 48, IortFault::Region { base, len_bytes })]);
        assert_eq!(read.reserved_for(0, 3).count(), 0);
    }
    let ranges = [(0x8000_0000, 0x1_0000)];
    let nobody = read(&[smmu(SMMU), reserved(3, 0, &ranges, &[])]);
    assert_eq!((errors(&nobody), nobody.reserved.len()), (vec![(at, IortFault::CoversNothing)], 0));
    let wrong = read(&[its(&[0]), reserved(3, 0, &ranges, &[mapping(0, 0, 3, 48, 0)])]);
    assert_eq!((errors(&wrong), wrong.reserved.len()), (vec![(72 + 28, IortFault::WrongTarget(48))], 0));
    let ram = PaRange::new(Pa::new(0x8000_0000), 0x1000_0000).unwrap();
    let in_ram = Remapping::read(&table(&[smmu(SMMU), reserved(3, 0, &ranges, &streams)]), &[ram]).unwrap();
    let range = PaRange::new(Pa::new(0x8000_0000), 0x1_0000).unwrap();
    assert_eq!(errors(&in_ram), [(at + 48, IortFault::RegionInRam(range))]);
    assert_eq!(in_ram.reserved_for(0, 3).count(), 1, "its device may rely on it");
}

/// A table with nodes of every kind.
fn every_kind() -> Vec<u8> {
    let [group, third, second] = [48, 72, 160];
    let nodes = [
        its(&[0]),
        smmu_v3(5, SMMU, 1 << 4, [0; 4], 0, &[mapping(0, 0, 0xabc, group, 1)]),
        smmu_v2(SMMU + 0x10_0000, 0x1_0000, &[mapping(0, 0xff, 0, group, 0)]),
        root(0, 7, &[mapping(0, 0xff, 0, third, 0), mapping(0x100, 0xff, 0, second, 0)]),
        component(0, 40, b"\\_SB.DMA0\0", &[mapping(0, 0, 4, third, 1), mapping(0, 0, 9, group, 1)]),
        counters(0x1100_0000, 0, third, &[mapping(0, 0, 0x30, group, 1)]),
        reserved(3, 0b1_0111, &[(0x8000_0000, 0x2_0000)], &[mapping(0, 3, 0x40, third, 0)]),
    ];
    assert_eq!(places(&nodes)[..3], [group, third, second]);
    table(&nodes)
}

/// Every bit turned and every end cut off: read or refused, and what is read can be asked.
#[test]
fn no_byte_makes_it_panic() {
    let mut refused = 0;
    let mut ask = |bytes: &[u8]| match Remapping::read(bytes, &[]) {
        Err(error) => {
            refused += 1;
            assert!(!error.to_string().is_empty());
        }
        Ok(read) => stays_in_bounds(&read),
    };
    let whole = every_kind();
    assert_eq!(Remapping::read(&whole, &[]).unwrap().faults, []);
    for bytes in [virt::bytes(), whole] {
        every_damage(&bytes, &mut ask);
    }
    assert!(refused > 1000, "{refused}");
}

fn stays_in_bounds(read: &Remapping) {
    let in_bounds = |dma: Dma, messages: Messages| {
        if let Dma::Smmu { smmu, stream } = dma {
            assert!(smmu < read.smmus.len());
            assert!(read.reserved_for(smmu, stream).count() <= read.reserved.len());
        }
        if let Messages::Its { group, .. } = messages {
            assert!(group < read.its_groups.len());
        }
    };
    for id in [0, 1, 0xff, 0x100, 0x1ff, 0x200, 0xffff] {
        for segment in [0, 1, 0x8000] {
            let route = read.function(segment, Bdf::from_requester_id(id));
            in_bounds(route.dma, route.messages);
        }
    }
    for component in &read.components {
        let routes = read.component(&component.name).unwrap();
        routes.dma.iter().for_each(|&dma| in_bounds(dma, Messages::Nobody));
        routes.messages.iter().for_each(|&messages| in_bounds(Dma::Nobody, messages));
        in_bounds(read.component_id(&component.name, 4).dma, Messages::Nobody);
    }
    for counters in &read.counters {
        in_bounds(Dma::Nobody, counters.messages);
        assert!(!matches!(counters.of, Counted::Smmu(smmu) if smmu >= read.smmus.len()));
    }
    assert_eq!(read.messages_of(usize::MAX, 0), Messages::Nobody);
    read.faults.iter().for_each(|error| assert!(!error.to_string().is_empty()));
}
