//! Blobs that are no device trees: truncated, with flipped bits, with words that are not true. Nothing panics, and what
//! is still read is what an independent reader reads.

use crate::trees;
use dtoolkit::fdt::Fdt;
use dtoolkit::{Node as _, Property as _};
use portcullis_firmware::{BlobFault, FirmwareError, Machine};

const QEMU: &[u8] = include_bytes!("../data/qemu-virt-7.2.dtb");

fn fault(blob: &[u8]) -> BlobFault {
    match Machine::from_fdt(blob) {
        Err(FirmwareError::Blob { fault, .. }) => fault,
        other => panic!("{other:?}"),
    }
}

fn with_word(offset: usize, word: u32) -> Vec<u8> {
    let mut blob = trees::machine().blob();
    blob[offset..offset + 4].copy_from_slice(&word.to_be_bytes());
    blob
}

fn word(blob: &[u8], offset: usize) -> u32 {
    u32::from_be_bytes(blob[offset..offset + 4].try_into().unwrap())
}

#[test]
fn no_truncated_blob_is_read() {
    for blob in [QEMU, &trees::machine().blob()] {
        for len in 0..blob.len() {
            assert!(
                matches!(Machine::from_fdt(&blob[..len]), Err(FirmwareError::Blob { .. })),
                "{len} bytes"
            );
        }
    }
}

#[test]
fn a_truncated_blob_that_says_it_is_whole_never_panics() {
    let blob = trees::machine().blob();
    for len in (8..blob.len()).step_by(3) {
        let mut cut = blob[..len].to_vec();
        cut[4..8].copy_from_slice(&u32::try_from(len).unwrap().to_be_bytes());
        assert!(Machine::from_fdt(&cut).is_err());
    }
}

#[test]
fn bytes_after_the_blob_do_not_matter() {
    let mut blob = QEMU.to_vec();
    blob.extend([0xff; 100]);
    assert_eq!(Machine::from_fdt(&blob), Machine::from_fdt(QEMU));
}

#[test]
fn flipped_bits_never_panic() {
    for blob in [QEMU, &trees::machine().blob()] {
        let mut blob = blob.to_vec();
        let mut refused = 0;
        for at in 0..blob.len() {
            for bit in 0..8 {
                blob[at] ^= 1 << bit;
                refused += usize::from(Machine::from_fdt(&blob).is_err());
                blob[at] ^= 1 << bit;
            }
        }
        assert!(refused > 0 && refused < 8 * blob.len());
    }
}

#[test]
fn words_replaced_by_extremes_never_panic() {
    let original = trees::machine().blob();
    for at in (0..original.len()).step_by(4) {
        for word in [0, 1, 2, 3, 4, 9, 0x7fff_ffff, 0x8000_0000, 0xffff_fffc, 0xffff_ffff] {
            let _ = Machine::from_fdt(&with_word(at, word));
        }
    }
}

#[test]
fn a_header_that_is_not_true_is_refused() {
    let blob = trees::machine().blob();
    let len = u32::try_from(blob.len()).unwrap();
    assert_eq!(fault(&with_word(0x00, 0xedfe_0dd0)), BlobFault::Magic(0xedfe_0dd0));
    assert_eq!(fault(&with_word(0x04, len + 1)), BlobFault::Truncated);
    assert_eq!(fault(&with_word(0x08, word(&blob, 0x08) + 2)), BlobFault::Misaligned);
    assert_eq!(fault(&with_word(0x08, 0xffff_fffc)), BlobFault::Truncated);
    assert_eq!(fault(&with_word(0x0c, len)), BlobFault::Truncated);
    assert_eq!(fault(&with_word(0x10, 4)), BlobFault::Misaligned);
    assert_eq!(fault(&with_word(0x10, len.next_multiple_of(8))), BlobFault::Truncated);
    assert_eq!(fault(&with_word(0x14, 16)), BlobFault::Version { version: 16, last_compatible: 16 });
    assert_eq!(fault(&with_word(0x18, 18)), BlobFault::Version { version: 17, last_compatible: 18 });
    assert_eq!(fault(&with_word(0x20, len)), BlobFault::Truncated);
    assert_eq!(fault(&with_word(0x24, 8)), BlobFault::Truncated);
}

/// A blob by hand, of these words in the structure block and these bytes in the strings block.
fn blob_of(structure: &[u32], strings: &[u8]) -> Vec<u8> {
    let structure: Vec<u8> = structure.iter().flat_map(|word| word.to_be_bytes()).collect();
    let (struct_at, strings_at) = (56, 56 + structure.len());
    let total = strings_at + strings.len();
    let header = [0xd00d_feed, total, struct_at, strings_at, 40, 17, 16, 0, strings.len(), structure.len()];
    let mut blob: Vec<u8> =
        header.iter().flat_map(|&word| u32::try_from(word).unwrap().to_be_bytes()).collect();
    blob.extend([0; 16]);
    blob.extend(structure);
    blob.extend(strings);
    blob
}

const BEGIN: u32 = 1;
const END_NODE: u32 = 2;
const PROP: u32 = 3;
const NOP: u32 = 4;
const END: u32 = 9;
/// The name `a`.
const A: u32 = 0x6100_0000;

#[test]
fn the_smallest_tree_is_read() {
    assert_eq!(Machine::from_fdt(&blob_of(&[BEGIN, 0, END_NODE, END], b"")), Ok(Machine::default()));
    let with_nops = [NOP, BEGIN, 0, NOP, PROP, 0, 0, NOP, BEGIN, A, NOP, END_NODE, NOP, END_NODE, NOP, END];
    assert_eq!(Machine::from_fdt(&blob_of(&with_nops, b"x\0")), Ok(Machine::default()));
}

#[test]
fn names_longer_than_the_specification_allows_are_read_as_real_trees_have_them() {
    let structure = [BEGIN, 0, PROP, 0, 0, END_NODE, END];
    let read = |name: &[u8]| Machine::from_fdt(&blob_of(&structure, name));
    assert_eq!(read(b"snps,dis-u2-freeclk-exists-quirk\0"), Ok(Machine::default()));
    let long = |len| [vec![b'x'; len], vec![0]].concat();
    assert_eq!(read(&long(255)), Ok(Machine::default()));
    assert!(read(&long(256)).is_err());
}

#[test]
fn a_structure_that_makes_no_sense_is_refused() {
    let cases: [(&[u32], BlobFault); 14] = [
        (&[], BlobFault::Truncated),
        (&[END], BlobFault::Token(END)),
        (&[BEGIN, 0, END_NODE], BlobFault::Truncated),
        (&[BEGIN, 0, END], BlobFault::Token(END)),
        (&[END_NODE, END], BlobFault::Token(END_NODE)),
        (&[PROP, 0, 0, END], BlobFault::Token(PROP)),
        (&[BEGIN, 0, END_NODE, BEGIN, 0, END_NODE, END], BlobFault::Token(BEGIN)),
        (&[BEGIN, 0, BEGIN, A, END_NODE, PROP, 0, 0, END_NODE, END], BlobFault::Token(PROP)),
        (&[BEGIN, 0, 5, END_NODE, END], BlobFault::Token(5)),
        (&[BEGIN, A, END_NODE, END], BlobFault::Name),
        (&[BEGIN, 0, BEGIN, 0, END_NODE, END_NODE, END], BlobFault::Name),
        (&[BEGIN, 0, BEGIN, 0x612f_6100, END_NODE, END_NODE, END], BlobFault::Name),
        (&[BEGIN, 0, PROP, 0xffff_ffff, 0, END_NODE, END], BlobFault::Truncated),
        (&[BEGIN, 0, PROP, 0, 0, PROP, 0, 0, END_NODE, END], BlobFault::DuplicateProperty),
    ];
    for (structure, expected) in cases {
        assert_eq!(fault(&blob_of(structure, b"x\0")), expected, "{structure:x?}");
    }
    assert_eq!(fault(&blob_of(&[BEGIN, 0, PROP, 0, 9, END_NODE, END], b"x\0")), BlobFault::Truncated);
    assert_eq!(fault(&blob_of(&[BEGIN, 0, PROP, 0, 1, END_NODE, END], b"x\0")), BlobFault::Name);
    assert_eq!(fault(&blob_of(&[BEGIN, 0, PROP, 0, 0, END_NODE, END], b"x")), BlobFault::Name);
}

#[test]
fn nesting_ends() {
    let nested = |depth: usize| {
        let mut words = vec![BEGIN, 0];
        words.extend((1..depth).flat_map(|_| [BEGIN, A]));
        words.extend((0..depth).map(|_| END_NODE));
        words.push(END);
        Machine::from_fdt(&blob_of(&words, b""))
    };
    assert_eq!(nested(64), Ok(Machine::default()));
    assert!(matches!(nested(65), Err(FirmwareError::Blob { fault: BlobFault::TooDeep(64), .. })));
    assert!(nested(100_000).is_err());
}

#[test]
fn names_that_share_one_long_string_cost_little() {
    // 10,000 properties whose names begin in one string of a megabyte: each is looked at for 256 bytes at most.
    let mut words = vec![BEGIN, 0];
    for offset in 0..10_000 {
        words.extend([PROP, 0, offset]);
    }
    words.extend([END_NODE, END]);
    assert_eq!(fault(&blob_of(&words, &vec![b'x'; 1 << 20])), BlobFault::Name);
}

/// Nodes and properties as `dtoolkit` reads them: paths, names, values.
fn listing(blob: &[u8]) -> Option<Vec<(String, Vec<u8>)>> {
    fn add(node: dtoolkit::fdt::FdtNode<'_>, path: &str, list: &mut Vec<(String, Vec<u8>)>) {
        let path = format!("{path}/{}", node.name());
        list.extend(node.properties().map(|p| (format!("{path}:{}", p.name()), p.value().to_vec())));
        node.children().for_each(|child| add(child, &path, list));
    }
    let mut list = Vec::new();
    add(Fdt::new(blob).ok()?.root(), "", &mut list);
    Some(list)
}

/// Whatever an independent reader takes for the same tree is read as the same machine, and the other way round: reading the tree anew
/// from the listing gives what was read from the blob.
#[test]
fn an_independent_reader_finds_the_same_in_our_trees() {
    let blob = trees::machine().blob();
    let list = listing(&blob).unwrap();
    let find = |path: &str| list.iter().find(|entry| entry.0 == path).map(|entry| entry.1.clone());
    let machine = Machine::from_fdt(&blob).unwrap();
    let cells = find("//pcie@10000000:iommu-map").unwrap();
    let entries = machine.pci_hosts[0].iommu_map.as_ref().unwrap().entries();
    for (entry, cells) in entries.iter().zip(cells.chunks(16)) {
        let read = [0, 8, 12].map(|at| word(cells, at));
        assert_eq!(read, [entry.first.into(), entry.base, entry.count]);
    }
    assert_eq!(entries.len() * 16, cells.len());
    assert_eq!(find("//soc/dma@1000:iommus").unwrap(), trees::cells(&[3, 0x42, 4, 0x43]));
}

#[test]
fn what_an_independent_reader_accepts_is_accepted_here() {
    let mut blob = QEMU.to_vec();
    for at in (0..blob.len()).step_by(7) {
        for bit in [0, 3, 7] {
            blob[at] ^= 1 << bit;
            if listing(&blob).is_some() {
                let read = Machine::from_fdt(&blob);
                let refused = matches!(
                    read,
                    Err(FirmwareError::Blob { fault, .. }) if fault != BlobFault::DuplicateProperty
                );
                assert!(!refused, "byte {at:#x}, bit {bit}: {read:?}");
            }
            blob[at] ^= 1 << bit;
        }
    }
}
