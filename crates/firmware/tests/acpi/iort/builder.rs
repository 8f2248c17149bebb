//! Builds IORT tables byte by byte: what lies where is the book's, and no code of the reader's is used.

use crate::builder::sealed;

/// A mapping: first id, how many after it, what the first is there, offset of the node there, flags.
pub(crate) fn mapping(first: u32, more: u32, output: u32, reference: usize, flags: u32) -> Vec<u8> {
    words(&[first, more, output, u32::try_from(reference).unwrap(), flags])
}

pub(crate) fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// A node of this type and revision: its body, then its mappings, aligned to words.
pub(crate) fn node(kind: u8, revision: u8, body: &[u8], mappings: &[Vec<u8>]) -> Vec<u8> {
    let mut body = body.to_vec();
    body.resize(body.len().next_multiple_of(4), 0);
    let at = if mappings.is_empty() { 0 } else { u32::try_from(16 + body.len()).unwrap() };
    let list = mappings.concat();
    let length = u16::try_from(16 + body.len() + list.len()).unwrap().to_le_bytes();
    let header = [kind, length[0], length[1], revision];
    let count = u32::try_from(mappings.len()).unwrap();
    [&header[..], &words(&[0, count, at]), &body, &list].concat()
}

pub(crate) fn its(identifiers: &[u32]) -> Vec<u8> {
    let count = u32::try_from(identifiers.len()).unwrap();
    node(0, 1, &[words(&[count]), words(identifiers)].concat(), &[])
}

/// Coherent, by a coherent path, with cacheable accesses.
const COHERENT: [u8; 8] = [1, 0, 0, 0, 0, 0, 0, 3];

pub(crate) fn component(flags: u32, address_bits: u8, name: &[u8], mappings: &[Vec<u8>]) -> Vec<u8> {
    node(1, 4, &[&flags.to_le_bytes()[..], &COHERENT, &[address_bits], name].concat(), mappings)
}

pub(crate) fn root(segment: u32, ats: u32, mappings: &[Vec<u8>]) -> Vec<u8> {
    node(2, 3, &[&COHERENT[..], &words(&[ats, segment]), &[48, 0, 0, 0]].concat(), mappings)
}

pub(crate) fn smmu_v2(base: u64, span: u64, mappings: &[Vec<u8>]) -> Vec<u8> {
    let places = [&base.to_le_bytes()[..], &span.to_le_bytes()].concat();
    // MMU-500, DVM and coherent walks; global interrupts at 60, two of contexts at 76, one of counters at 92.
    let fixed = words(&[3, 3, 60, 2, 76, 1, 92]);
    let wires = words(&[40, 0, 41, 1, 42, 1, 43, 0, 44, 1]);
    node(3, 3, &[places, fixed, wires].concat(), mappings)
}

/// With flags, the interrupts of events, PRI, global errors and CMD_SYNC, and the index of its own mapping.
pub(crate) fn smmu_v3(
    revision: u8,
    base: u64,
    flags: u32,
    wires: [u32; 4],
    own: u32,
    mappings: &[Vec<u8>],
) -> Vec<u8> {
    let head = [&base.to_le_bytes()[..], &words(&[flags, 0, 0, 0, 0])].concat();
    node(4, revision, &[head, words(&wires), words(&[7, own])].concat(), mappings)
}

pub(crate) fn counters(page0: u64, overflow: u32, reference: usize, mappings: &[Vec<u8>]) -> Vec<u8> {
    let reference = u32::try_from(reference).unwrap();
    let pages = (page0.to_le_bytes(), (page0 + 0x1000).to_le_bytes());
    node(5, 1, &[&pages.0[..], &words(&[overflow, reference]), &pages.1].concat(), mappings)
}

/// Reserved memory: mappings first, then the ranges.
pub(crate) fn reserved(revision: u8, flags: u32, ranges: &[(u64, u64)], mappings: &[Vec<u8>]) -> Vec<u8> {
    let at = u32::try_from(28 + 20 * mappings.len()).unwrap();
    let body = words(&[flags, u32::try_from(ranges.len()).unwrap(), at]);
    let mut bytes = node(6, revision, &body, mappings);
    for (base, len_bytes) in ranges {
        bytes.extend([&base.to_le_bytes()[..], &len_bytes.to_le_bytes(), &[0; 4]].concat());
    }
    let length = u16::try_from(bytes.len()).unwrap().to_le_bytes();
    bytes[1..3].copy_from_slice(&length);
    bytes
}

/// Where nodes of these lengths lie.
pub(crate) fn places<const N: usize>(nodes: &[Vec<u8>; N]) -> [usize; N] {
    core::array::from_fn(|index| 48 + nodes[..index].iter().map(Vec::len).sum::<usize>())
}

/// The table of these nodes, its checksum right.
pub(crate) fn table(nodes: &[Vec<u8>]) -> Vec<u8> {
    let fixed = words(&[u32::try_from(nodes.len()).unwrap(), 48, 0]);
    sealed(*b"IORT", 6, &[fixed, nodes.concat()].concat())
}
