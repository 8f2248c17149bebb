//! ACPI's IORT, with a MADT beside it: bytes as they are, or nodes with some bytes changed in a table whose header is right.
//!
//! What must hold:
//!
//! - bytes are a table, or an error that can be said; the same bytes are the same, whatever follows them in memory;
//! - a function is a stream of an SMMU that there is, or of none, and what is said of it is what the machine that is made of the table says: behind that SMMU as that
//!   stream, and its messages to that ITS, for every requester id;
//! - a function that is led nowhere is not translated, and it is named; only where every mapping of its segment leads past the SMMUs is there none in front of it;
//! - no two SMMUs have the same registers, memory that is kept for devices is whole pages, an index is one of its list's;
//! - what is said to be wrong lies in the table.
//!
//! Not here: what tables of real machines mean (`crates/firmware/tests/acpi`).

use portcullis::firmware::acpi::iort::{Counted, Dma, Iort, Messages, Remapping, SmmuKind};
use portcullis::firmware::acpi::{AcpiFault, AcpiTables, FoundFunction};
use portcullis::firmware::{Machine, MsiControllerKind, Translation};
use portcullis::pci::Bdf;

use crate::bytes::Bytes;

const HEADER_BYTES: usize = 48;
/// ITSs that MADT has: number and place.
const ITSES: [(u32, u64); 2] = [(0, 0x0808_0000), (1, 0x080a_0000)];
const ECAM: u64 = 0x40_1000_0000;
/// The ids of some functions, at what mappings below begin and end with.
const IDS: [u16; 8] = [0, 1, 0xff, 0x100, 0x1ff, 0x200, 0x2ff, 0xffff];

pub(crate) fn run(input: &[u8]) {
    let mut bytes = Bytes::new(input);
    if bytes.one_in(8) {
        check(bytes.run(usize::MAX));
    } else {
        check(&table(&mut bytes));
    }
}

fn sealed(signature: [u8; 4], rest: &[u8]) -> Vec<u8> {
    let mut table = signature.to_vec();
    table.extend(u32::try_from(36 + rest.len()).unwrap_or(u32::MAX).to_le_bytes());
    table.resize(36, 1);
    table.extend(rest);
    table[9] = 0;
    table[9] = table.iter().fold(0u8, |sum, byte| sum.wrapping_sub(*byte));
    table
}

/// A table of nodes, of which most have sound lengths.
fn table(bytes: &mut Bytes<'_>) -> Vec<u8> {
    // Who refers to a node may lie before it: references are to where nodes will lie, or somewhere near.
    let mut nodes: Vec<Vec<u8>> = Vec::new();
    let mut places = vec![HEADER_BYTES as u32];
    for _ in 0..bytes.below(8) {
        let node = node(bytes, &places);
        let next = places.last().copied().unwrap_or(0) + node.len() as u32;
        places.push(next);
        nodes.push(node);
    }
    let count = nodes.len() as u32 + u32::from(bytes.one_in(32));
    let mut body = nodes.concat();
    if !body.is_empty() && bytes.one_in(8) {
        let at = usize::from(bytes.u8()) * 4 % body.len();
        body[at] ^= bytes.u8();
    }
    let fixed = [count, HEADER_BYTES as u32, 0].map(u32::to_le_bytes).concat();
    sealed(*b"IORT", &[fixed, body].concat())
}

/// Spec: Arm DEN0049 E.f, "IORT node format".
fn node(bytes: &mut Bytes<'_>, places: &[u32]) -> Vec<u8> {
    const COHERENT: [u8; 8] = [1, 0, 0, 0, 0, 0, 0, 3];
    let word = |value: u32| value.to_le_bytes();
    let kind = bytes.pick(&[0, 1, 2, 2, 3, 4, 4, 5, 6, 7]);
    let revision = bytes.below(7);
    let body = match kind {
        0 => [word(1), word(bytes.below(3).into())].concat(),
        1 => [&word(bytes.u8().into())[..], &COHERENT, &[bytes.u8()], b"\\DEV\0\0\0"].concat(),
        2 => {
            let segment = word(bytes.below(2).into());
            [&COHERENT[..], &word(bytes.below(8).into()), &segment, &[48, bytes.u8(), 0, 0], &word(1)]
                .concat()
        }
        3 => {
            let fixed = [bytes.below(7).into(), 3, 60, 1, 76, 0, 0].map(word).concat();
            [&address(bytes).to_le_bytes()[..], &0x1_0000u64.to_le_bytes(), &fixed, &[40; 24]].concat()
        }
        4 => {
            let flags = word(bytes.below(32).into());
            let wires = [0, 0, bytes.below(4).into(), 74, 75, 76, 77, 0].map(word).concat();
            let own = word(bytes.below(3).into());
            [&address(bytes).to_le_bytes()[..], &flags, &[0; 4], &wires[..28], &own, &own].concat()
        }
        5 => [&address(bytes).to_le_bytes()[..], &word(0), &word(bytes.pick(places)), &[0; 8]].concat(),
        6 => {
            let range = [&address(bytes).to_le_bytes()[..], &0x1_0000u64.to_le_bytes(), &[0; 4]].concat();
            [&word(bytes.u8().into())[..], &word(1), &word(28), &range].concat()
        }
        _ => Vec::new(),
    };
    let mappings: Vec<_> = (0..bytes.below(4)).map(|_| mapping(bytes, places)).collect();
    let at = if mappings.is_empty() { 0 } else { 16 + body.len() as u32 };
    let list = mappings.concat();
    let length = (16 + body.len() + list.len()) as u16;
    let header = [&[kind][..], &length.to_le_bytes(), &[revision]].concat();
    [&header[..], &[0; 4], &word(mappings.len() as u32), &word(at), &body, &list].concat()
}

/// One of a few runs of ids, so that mappings meet.
fn mapping(bytes: &mut Bytes<'_>, places: &[u32]) -> Vec<u8> {
    let first = bytes.pick(&[0, 0x100, 0x200, 0xff]);
    let more = bytes.pick(&[0, 0xff, 0x100, 0xffff, u32::MAX]);
    let output = bytes.pick(&[0, 0x80, 0x100, 0xffc0, 0xffff_ff80]);
    let to = bytes.pick(places);
    [first, more, output, to, bytes.one_in(6).into()].map(u32::to_le_bytes).concat()
}

/// One of a few frames, so that nodes meet; or anything.
fn address(bytes: &mut Bytes<'_>) -> u64 {
    match bytes.below(8) {
        7 => bytes.u64(),
        frame => 0x0905_0000 + u64::from(frame) * 0x1_0000,
    }
}

fn check(table: &[u8]) {
    let read = Remapping::read(table, &[]);
    assert_eq!(read, Remapping::read(table, &[]), "the same bytes are the same");
    match &read {
        Err(error) => {
            assert!(!error.to_string().is_empty());
            assert!(error.offset <= table.len());
        }
        Ok(remapping) => {
            let longer = [table, &[0xa5; 64]].concat();
            assert_eq!(
                Remapping::read(&longer, &[]).as_ref(),
                Ok(remapping),
                "what follows is not looked at"
            );
            assert!(Iort::read(table).is_ok_and(|iort| remapping.smmus.len() <= iort.nodes().count()));
            check_lists(remapping, table);
        }
    }
    check_machine(table, read.as_ref().ok());
}

fn check_lists(remapping: &Remapping, table: &[u8]) {
    for error in &remapping.faults {
        assert!(error.offset < table.len() && !error.to_string().is_empty());
    }
    for (index, smmu) in remapping.smmus.iter().enumerate() {
        let others = &remapping.smmus[..index];
        assert!(others.iter().all(|other| !other.registers.overlaps(smmu.registers)));
        assert!(smmu.registers.first().is_aligned(0x1000));
        if let SmmuKind::V3 { messages: Messages::Its { group, .. }, .. } = smmu.kind {
            assert!(group < remapping.its_groups.len());
        }
    }
    assert!(remapping.reserved.iter().all(|region| region.range.is_aligned(0x1_0000)));
    let streams = remapping.reserved.iter().flat_map(|region| &region.streams);
    assert!(streams.clone().all(|range| range.smmu < remapping.smmus.len() && range.first <= range.last));
    let counted = |of| !matches!(of, Counted::Smmu(smmu) if smmu >= remapping.smmus.len());
    assert!(remapping.counters.iter().all(|counters| counted(counters.of)));
}

fn check_machine(table: &[u8], read: Option<&Remapping>) {
    let its = ITSES
        .map(|(id, base)| [&[15, 20, 0, 0][..], &id.to_le_bytes(), &base.to_le_bytes(), &[0; 4]].concat());
    let madt = sealed(*b"APIC", &[&[0; 8][..], &[12, 2], &its.concat()].concat());
    let window = |segment: u8| {
        [&(ECAM + (u64::from(segment) << 28)).to_le_bytes()[..], &[segment, 0, 0, 255, 0, 0, 0, 0]].concat()
    };
    let mcfg = sealed(*b"MCFG", &[vec![0; 8], window(0), window(1)].concat());
    let tables =
        AcpiTables { iort: Some(table), madt: Some(&madt), mcfg: Some(&mcfg), ..AcpiTables::default() };
    let mut machine = Machine::from_acpi(&tables);
    assert_eq!((machine.pci_hosts.len(), machine.iommus.len()), (2, read.map_or(0, |read| read.smmus.len())));
    let found = IDS.map(|id| {
        let at = Bdf::from_requester_id(id);
        FoundFunction { at, requester_ids: vec![at], path: vec![(0, 0)], class: (0, 0) }
    });
    for host in [0, 1] {
        machine.place_functions(host, &found);
        for function in &found {
            check_function(&machine, host, function.at, read);
        }
    }
    machine.acpi_faults.iter().for_each(|fault| assert!(!fault.to_string().is_empty()));
    for kept in &machine.reserved_memory {
        assert!(kept.addresses.iter().all(|one| one.range.first().get() == kept.memory[0].first().get()));
    }
}

fn check_function(machine: &Machine, host: usize, at: Bdf, read: Option<&Remapping>) {
    let firmware = &machine.pci_hosts[host];
    let is_named = machine.acpi_faults.iter().any(
        |fault| matches!(fault, AcpiFault::NotLed { segment, function, .. } if (*segment, *function) == (firmware.segment, at)),
    );
    let Some(read) = read else {
        assert!(firmware.translation(at) == Translation::Uncovered && is_named);
        return;
    };
    let route = read.function(firmware.segment, at);
    match (firmware.translation(at), route.dma) {
        (Translation::Behind { iommu, source }, Dma::Smmu { smmu, stream }) => {
            assert_eq!((iommu, source.0), (smmu, stream));
            assert!(smmu < machine.iommus.len() && !is_named);
            let kept = machine.reserved_for(&Machine::pci_function(host, at)).count();
            assert_eq!(kept, read.reserved_for(smmu, stream).count());
        }
        // Of a segment that is one stream and has other mappings beside, nobody is anything.
        (Translation::Uncovered, Dma::Smmu { .. }) => assert!(!read.faults.is_empty()),
        (Translation::Uncovered, _) => assert!(is_named),
        (Translation::NoIommu, dma) => {
            let alike = IDS.map(|id| read.function(firmware.segment, Bdf::from_requester_id(id)).dma);
            assert!(!alike.iter().any(|dma| matches!(dma, Dma::Smmu { .. } | Dma::Broken(_))), "{dma:?}");
        }
        (Translation::Behind { .. }, dma) => panic!("{at} is translated, and the table says {dma:?}"),
    }
    if let (Some(target), Messages::Its { device, group }) = (firmware.msi_target(at), route.messages) {
        assert_eq!(target.device_id, Some(device));
        let controller = &machine.msi_controllers[target.controller];
        let its = ITSES.iter().find(|(_, base)| *base == controller.registers[0].first().get());
        assert!(controller.kind == MsiControllerKind::Its);
        assert!(its.is_some_and(|(id, _)| read.its_groups[group].identifiers.contains(id)));
    }
}
