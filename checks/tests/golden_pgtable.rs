//! The formats of `portcullis-pgtable` against the golden descriptors.
//!
//! Every whole word is typed by hand from the Arm ARM (DDI 0487 M.a.a): D8.3.1 "VMSAv8-64 descriptor formats", D8.4 "Memory access
//! control", D8.6 "Memory region attributes".

use portcullis_checks::golden::Field;
use portcullis_checks::golden::vmsa::{
    ADDRESSES, CONTIGUOUS_ENTRIES, Kind, STAGE_1_LEAF, STAGE_2_LEAF, STAGE_2_STARTS,
};
use portcullis_pgtable::arm::{Config, MAIR, Stage1, Stage2};
use portcullis_pgtable::{Format, Item};
use portcullis_types::{Pa, Perms, Prot, SizeLg2};

/// The widest trees there are, so that every level is there.
fn config(granule_lg2: u32, wide: bool) -> Config {
    let granule = SizeLg2::new(u8::try_from(granule_lg2).unwrap()).unwrap();
    let bits = if wide { 52 } else { 48 };
    let large = wide && granule != SizeLg2::KIB_64;
    Config { input_bits: bits, output_bits: bits, large, ..Config::new(granule) }
}

fn formats(granule_lg2: u32, wide: bool) -> [Box<dyn Format>; 2] {
    let config = config(granule_lg2, wide);
    [Box::new(Stage1::new(config).unwrap()), Box::new(Stage2::new(config).unwrap())]
}

fn height(level: i8) -> u8 {
    u8::try_from(3 - level).unwrap()
}

#[test]
fn addresses_lie_where_the_book_says() {
    for row in ADDRESSES {
        for format in formats(row.granule_lg2, row.wide) {
            let (height, pa) = (height(row.level), Pa::new(row.address));
            let (word, item) = match row.kind {
                Kind::Table => (format.table(pa), Item::Table(pa)),
                Kind::Block | Kind::Page => {
                    (format.leaf(height, pa, 0), Item::Leaf { pa, contiguous: false })
                }
            };
            assert_eq!(word, row.word, "{row:x?}");
            assert_eq!(format.decode(row.word, height), item, "{row:x?}");
        }
    }
}

#[test]
fn attributes_are_not_read_as_address() {
    for row in ADDRESSES.iter().filter(|row| row.kind != Kind::Table) {
        let [stage_1, stage_2] = formats(row.granule_lg2, row.wide);
        for (format, fields) in [(stage_1, STAGE_1_LEAF), (stage_2, STAGE_2_LEAF)] {
            let skipped = ["Valid", "Page", "Contiguous", "SH", "nT"];
            let attributes = fields.iter().filter(|field| !skipped.contains(&field.name));
            let word = attributes.fold(row.word, |word, Field { ones, .. }| word | ones);
            let item = Item::Leaf { pa: Pa::new(row.address), contiguous: false };
            assert_eq!(format.decode(word, height(row.level)), item, "{row:x?}");
            let item = Item::Leaf { pa: Pa::new(row.address), contiguous: true };
            assert_eq!(format.decode(word | 0x0010_0000_0000_0000, height(row.level)), item, "{row:x?}");
        }
    }
}

#[test]
fn words_without_bit_0_lead_nowhere_and_blocks_where_none_can_be_are_corrupt() {
    for (granule_lg2, wide) in [(12, false), (12, true), (14, false), (14, true), (16, false), (16, true)] {
        for format in formats(granule_lg2, wide) {
            for height in 0..=format.geometry().top() {
                assert_eq!(format.decode(0, height), Item::Absent);
                // Hardware ignores [63:1] of an invalid descriptor; the format never writes them.
                let found = format.decode(0xffff_ffff_ffff_fffe, height);
                assert!(matches!(found, Item::Absent | Item::Corrupt), "{found:?}");
            }
            // At level 3, 0b01 is reserved.
            assert_eq!(format.decode(0x0000_0000_0000_0001, 0), Item::Corrupt);
        }
    }
    // Level 0 with 4K, levels 0 and 1 with 16K, level 1 with 64K: only where addresses have 52 bits.
    for (granule_lg2, level) in [(12, 0), (14, 1), (16, 1)] {
        let [stage_1, stage_2] = formats(granule_lg2, false);
        for format in [stage_1, stage_2] {
            let word = 0x0000_0000_0000_0001;
            assert_eq!(format.decode(word, height(level)), Item::Corrupt, "{granule_lg2} {level}");
        }
    }
}

#[test]
fn contiguous_runs_are_as_long_as_the_book_says() {
    for &(granule_lg2, wide, level, entries) in CONTIGUOUS_ENTRIES {
        for format in formats(granule_lg2, wide) {
            let lg2 = format.contiguous_lg2(height(level));
            let found = if lg2 == 0 { 0 } else { 1 << lg2 };
            assert_eq!(found, entries, "granule {granule_lg2} wide {wide} level {level}");
            assert_eq!(format.contiguous_bit(), 0x0010_0000_0000_0000);
        }
    }
}

const R: Perms = Perms::READ;
const W: Perms = Perms::WRITE;
const RW: Perms = Perms::READ_WRITE;
const X: Perms = Perms::EXECUTE;
const P: Perms = Perms::PRIVILEGED;

fn page(format: &impl Format, prot: Prot) -> u64 {
    format.leaf(0, Pa::new(0x0000_1234_5678_0000), format.attributes(prot).unwrap())
}

#[test]
fn stage_1_pages_are_these_words() {
    // AttrIndx 1 [4:2] 0x4, SH 0b11 [9:8] 0x300, AF [10], nG [11], AP[1] [6] 0x40, AP[2] [7] 0x80, PXN [53], UXN [54].
    let words = [
        (Prot::cached(RW), 0x0060_1234_5678_0f47),
        (Prot::cached(R), 0x0060_1234_5678_0fc7),
        (Prot::cached(R | X), 0x0000_1234_5678_0fc7),
        (Prot::cached(RW | X), 0x0000_1234_5678_0f47),
        (Prot::cached(RW | P), 0x0060_1234_5678_0f07),
        (Prot::cached(R | P), 0x0060_1234_5678_0f87),
        (Prot::cached(R | X | P), 0x0040_1234_5678_0f87),
        // AttrIndx 0, SH 0b10.
        (Prot::uncached(RW), 0x0060_1234_5678_0e43),
        // AttrIndx 2, SH 0b10.
        (Prot::device(RW), 0x0060_1234_5678_0e4b),
    ];
    for granule_lg2 in [12, 14, 16] {
        let format = Stage1::new(config(granule_lg2, false)).unwrap();
        for (prot, word) in words {
            assert_eq!(page(&format, prot), word, "{granule_lg2} {prot:?}: {:x}", page(&format, prot));
            assert_eq!(format.prot(word), prot, "{word:x}");
        }
    }
    // With DS, [9:8] are address: no SH.
    for granule_lg2 in [12, 14] {
        let format = Stage1::new(config(granule_lg2, true)).unwrap();
        assert_eq!(page(&format, Prot::cached(RW)), 0x0060_1234_5678_0c47);
        assert_eq!(page(&format, Prot::device(RW)), 0x0060_1234_5678_0c4b);
    }
    // A write-only mapping: AP can say only that reads are allowed as well.
    let format = Stage1::new(config(12, false)).unwrap();
    assert_eq!(page(&format, Prot::cached(W)), 0x0060_1234_5678_0f47);
}

#[test]
fn attr_indx_names_the_kind_of_memory_in_mair() {
    // Spec: Arm ARM, "MAIR_EL1": 0xFF Normal write-back, allocating; 0x44 Normal Non-cacheable; 0x04 Device-nGnRE.
    let format = Stage1::new(config(12, false)).unwrap();
    for (prot, byte) in [(Prot::cached(RW), 0xff), (Prot::uncached(RW), 0x44), (Prot::device(RW), 0x04)] {
        let index = (page(&format, prot) >> 2) & 0b111;
        assert_eq!((MAIR >> (8 * index)) & 0xff, byte, "{prot:?}");
    }
}

#[test]
fn stage_2_pages_are_these_words() {
    // MemAttr 0b1111 [5:2] 0x3c, S2AP [7:6] 0xc0, SH 0b11 [9:8] 0x300, AF [10], XN 0b10 [54:53].
    let words = [
        (Prot::cached(RW), 0x0040_1234_5678_07ff),
        (Prot::cached(R), 0x0040_1234_5678_077f),
        (Prot::cached(W), 0x0040_1234_5678_07bf),
        (Prot::cached(R | X), 0x0000_1234_5678_077f),
        (Prot::cached(RW | X), 0x0000_1234_5678_07ff),
        // MemAttr 0b0101, SH 0b10.
        (Prot::uncached(RW), 0x0040_1234_5678_06d7),
        // MemAttr 0b0001, SH 0b10.
        (Prot::device(RW), 0x0040_1234_5678_06c7),
    ];
    for granule_lg2 in [12, 14, 16] {
        let format = Stage2::new(config(granule_lg2, false)).unwrap();
        for (prot, word) in words {
            assert_eq!(page(&format, prot), word, "{granule_lg2} {prot:?}: {:x}", page(&format, prot));
            assert_eq!(format.prot(word), prot, "{word:x}");
        }
    }
    for granule_lg2 in [12, 14] {
        let format = Stage2::new(config(granule_lg2, true)).unwrap();
        assert_eq!(page(&format, Prot::cached(RW)), 0x0040_1234_5678_04ff);
    }
}

#[test]
fn blocks_have_bit_1_clear() {
    // 1G, 2M with 4K; 32M with 16K; 512M with 64K: level and word of a cached read-write block.
    for (granule_lg2, level, pa, word) in [
        (12, 1, 0x0000_1234_4000_0000, 0x0060_1234_4000_0f45),
        (12, 2, 0x0000_1234_5660_0000, 0x0060_1234_5660_0f45),
        (14, 2, 0x0000_1234_5600_0000, 0x0060_1234_5600_0f45),
        (16, 2, 0x0000_1234_4000_0000, 0x0060_1234_4000_0f45),
    ] {
        let format = Stage1::new(config(granule_lg2, false)).unwrap();
        let attributes = format.attributes(Prot::cached(RW)).unwrap();
        assert_eq!(format.leaf(height(level), Pa::new(pa), attributes), word, "{granule_lg2} {level}");
    }
}

#[test]
fn stage_2_walks_start_where_the_book_says() {
    for row in STAGE_2_STARTS {
        let config =
            Config { input_bits: u8::try_from(64 - row.t0sz).unwrap(), ..config(row.granule_lg2, row.wide) };
        let format = Stage2::new(config).unwrap();
        let geometry = format.geometry();
        assert_eq!(u32::from(format.t0sz()), row.t0sz, "{row:?}");
        assert_eq!(u32::from(format.sl0()), row.sl0, "{row:?}");
        assert_eq!(geometry.top(), height(row.level), "{row:?}");
        assert_eq!(geometry.entries(geometry.top()), row.entries, "{row:?}");
        // Concatenated tables are aligned to the size of all of them.
        assert_eq!(geometry.layout(geometry.top()).size_bytes(), row.entries * 8, "{row:?}");
    }
}

#[test]
fn granules_are_coded_as_the_book_says() {
    // Spec: SMMUv3, 5.4 "Context Descriptor", TG0; 5.2 "Stream Table Entry", S2TG: 0b00 4KB, 0b01 64KB, 0b10 16KB.
    for (granule_lg2, code) in [(12, 0b00), (16, 0b01), (14, 0b10)] {
        assert_eq!(Stage1::new(config(granule_lg2, false)).unwrap().tg0(), code);
        assert_eq!(Stage2::new(config(granule_lg2, false)).unwrap().tg(), code);
    }
}
