//! A device tree of firmware's: bytes as they are, or the tree of a machine of the lab with some words changed.
//!
//! What must hold:
//!
//! - bytes are a machine, or an error that can be said; the same bytes are the same machine, whatever follows them in memory;
//! - an index into one of a machine's lists is one of that list's;
//! - no two host bridges have the same segment, so that no two functions have one name;
//! - entries of a map of ids do not overlap, so that no requester has two streams;
//! - the first id of an entry leads where the entry says.
//!
//! Not here: whether the tree is what a machine is (`crates/firmware/tests`, where other readers and writers stand beside).

use std::collections::BTreeSet;
use std::sync::OnceLock;

use portcullis::firmware::{IdMap, IdMapEntry, Machine, MsiTarget, PciHost, PciMsi, Stream};
use portcullis::pci::Bdf;
use portcullis_lab::machine::{builtin, fdt};

use crate::bytes::Bytes;

/// The trees of the lab's machines that have one.
fn trees() -> &'static [Vec<u8>] {
    static TREES: OnceLock<Vec<Vec<u8>>> = OnceLock::new();
    TREES.get_or_init(|| {
        let with_trees = builtin::all().into_iter().filter(|spec| spec.pc.is_none());
        with_trees.map(|spec| fdt::emit(&spec).expect("it is sound")).collect()
    })
}

pub(crate) fn run(input: &[u8]) {
    let mut bytes = Bytes::new(input);
    if bytes.flag() {
        check(&changed(&mut bytes));
    } else {
        check(bytes.run(usize::MAX));
    }
}

/// A sound tree with some words changed.
fn changed(bytes: &mut Bytes<'_>) -> Vec<u8> {
    let mut tree = bytes.pick(trees().iter().map(Vec::as_slice).collect::<Vec<_>>().as_slice()).to_vec();
    for _ in 0..1 + bytes.below(4) {
        let at = usize::from(bytes.u16()) % tree.len();
        match bytes.below(6) {
            // A word, with the tree's byte order: a cell, a length, a token.
            0 | 1 => put(&mut tree, at & !3, u32::from(bytes.u8())),
            2 => put(&mut tree, at & !3, bytes.u32()),
            3 => tree[at] ^= 1 << bytes.below(8),
            4 => {
                let from = usize::from(bytes.u16()) % tree.len();
                let word: Vec<u8> = tree.iter().skip(from & !3).take(4).copied().collect();
                tree.iter_mut().skip(at & !3).zip(word).for_each(|(byte, new)| *byte = new);
            }
            _ => tree.truncate(at.max(tree.len() / 2)),
        }
    }
    tree
}

fn put(tree: &mut [u8], at: usize, word: u32) {
    tree.iter_mut().skip(at).zip(word.to_be_bytes()).for_each(|(byte, new)| *byte = new);
}

fn check(blob: &[u8]) {
    let read = Machine::from_fdt(blob);
    assert_eq!(read, Machine::from_fdt(blob), "the same bytes are the same");
    match read {
        Err(error) => assert!(!error.to_string().is_empty()),
        Ok(machine) => {
            let longer = [blob, &[0xa5; 64]].concat();
            assert_eq!(Machine::from_fdt(&longer).as_ref(), Ok(&machine), "what follows is not looked at");
            check_machine(&machine);
        }
    }
}

fn check_machine(machine: &Machine) {
    let check_msi = |target: &MsiTarget| assert!(target.controller < machine.msi_controllers.len());
    let check_stream = |stream: &Stream| assert!(stream.iommu < machine.iommus.len());
    machine.iommus.iter().flat_map(|iommu| &iommu.msi).for_each(check_msi);
    for device in &machine.devices {
        device.msi.iter().for_each(check_msi);
        device.streams.iter().for_each(check_stream);
    }
    let segments: BTreeSet<u16> = machine.pci_hosts.iter().map(|host| host.segment).collect();
    assert_eq!(segments.len(), machine.pci_hosts.len(), "two host bridges with one segment");
    for host in &machine.pci_hosts {
        check_host(machine, host);
    }
}

fn check_host(machine: &Machine, host: &PciHost) {
    assert!(host.buses.start() <= host.buses.end());
    assert!(host.windows.iter().all(|window| window.size_bytes > 0));
    if let Some(map) = &host.iommu_map {
        check_map(map, machine.iommus.len());
    }
    if let PciMsi::Map(map) = &host.msi {
        check_map(map, machine.msi_controllers.len());
    }
}

fn check_map(map: &IdMap, targets: usize) {
    let entries = map.entries();
    for (index, entry) in entries.iter().enumerate() {
        assert!(entry.target < targets, "it leads nowhere");
        assert!(u32::from(entry.first) + entry.count <= 0x1_0000, "ids have 16 bits");
        assert!(entry.base.checked_add(entry.count.saturating_sub(1)).is_some());
        let apart = |other: &IdMapEntry| {
            u32::from(entry.first) + entry.count <= other.first.into()
                || u32::from(other.first) + other.count <= entry.first.into()
        };
        assert!(entries[..index].iter().all(apart), "an id that leads to two places");
        let first = Bdf::from_requester_id(entry.first);
        assert_eq!(map.lookup(first), Some((entry.target, entry.base)));
    }
}
