//! Descriptors and register fields as the book has them: words typed from it, none computed by the code.
//!
//! Spec: Arm ARM DDI 0487 M.a, D8.3 "Translation table descriptor formats"; D8.2 "Translation process"; SMMUv3 H.a, 5.2
//! "STE, Stream Table Entry", 5.4 "CD, Context Descriptor".

use portcullis_pgtable::arm::{self, Config, ConfigError, HardwareUpdate, MAIR, Stage1, Stage2};
use portcullis_pgtable::{Format, Item, Marks};
use portcullis_types::{Cacheability, Pa, Perms, Prot, SizeLg2};

fn config(granule: SizeLg2, input_bits: u8, output_bits: u8, large: bool) -> Config {
    Config { input_bits, output_bits, large, ..Config::new(granule) }
}

fn stage1(granule: SizeLg2, bits: u8, large: bool) -> Stage1 {
    Stage1::new(config(granule, bits, bits, large)).unwrap()
}

fn leaf(format: &impl Format, height: u8, pa: u64, prot: Prot) -> u64 {
    let word = format.leaf(height, Pa::new(pa), format.attributes(prot).unwrap());
    assert_eq!(format.decode(word, height), Item::Leaf { pa: Pa::new(pa), contiguous: false });
    word
}

const READ: Perms = Perms::READ;

#[test]
fn stage_1_permissions_and_memory_kinds() {
    let format = stage1(SizeLg2::KIB_4, 48, false);
    // UXN 54, PXN 53, nG 11, AF 10, SH 9:8, AP[2] 7, AP[1] 6, AttrIndx 4:2, page 1, valid 0.
    let cases = [
        (Prot::cached(Perms::READ_WRITE), 0x0060_0000_1234_5f47),
        (Prot::cached(READ), 0x0060_0000_1234_5fc7),
        (Prot::cached(Perms::WRITE), 0x0060_0000_1234_5f47),
        (Prot::cached(READ | Perms::EXECUTE), 0x0000_0000_1234_5fc7),
        (Prot::cached(Perms::READ_WRITE | Perms::PRIVILEGED), 0x0060_0000_1234_5f07),
        (Prot::cached(READ | Perms::EXECUTE | Perms::PRIVILEGED), 0x0040_0000_1234_5f87),
        (Prot::uncached(Perms::READ_WRITE), 0x0060_0000_1234_5e43),
        (Prot::device(Perms::READ_WRITE), 0x0060_0000_1234_5e4b),
    ];
    for (prot, word) in cases {
        assert_eq!(leaf(&format, 0, 0x1234_5000, prot), word, "{prot:?}");
    }
    // AttrIndx 0 Normal non-cacheable, 1 Normal write-back, 2 Device-nGnRE.
    assert_eq!(MAIR, 0x04_ff_44);
}

#[test]
fn stage_2_permissions_and_memory_kinds() {
    let format = Stage2::new(config(SizeLg2::KIB_4, 48, 48, false)).unwrap();
    // XN 54, AF 10, SH 9:8, S2AP 7:6, MemAttr 5:2.
    let cases = [
        (Prot::cached(Perms::READ_WRITE), 0x0040_0000_1234_57ff),
        (Prot::cached(READ), 0x0040_0000_1234_577f),
        (Prot::cached(Perms::WRITE), 0x0040_0000_1234_57bf),
        (Prot::cached(READ | Perms::EXECUTE), 0x0000_0000_1234_577f),
        (Prot::uncached(Perms::READ_WRITE), 0x0040_0000_1234_56d7),
        (Prot::device(Perms::READ_WRITE), 0x0040_0000_1234_56c7),
    ];
    for (prot, word) in cases {
        assert_eq!(leaf(&format, 0, 0x1234_5000, prot), word, "{prot:?}");
        assert_eq!(format.prot(word), prot);
    }
    let privileged = Prot { perms: READ | Perms::PRIVILEGED, cacheability: Cacheability::Cached };
    assert_eq!(format.attributes(privileged), None);
}

#[test]
fn blocks_and_pages_of_every_granule_put_the_address_where_the_book_does() {
    let rw = Prot::cached(Perms::READ_WRITE);
    let cases = [
        (stage1(SizeLg2::KIB_4, 48, false), 0, 0xffff_ffff_f000, 0x0060_ffff_ffff_ff47),
        (stage1(SizeLg2::KIB_4, 48, false), 1, 0xffff_ffe0_0000, 0x0060_ffff_ffe0_0f45),
        (stage1(SizeLg2::KIB_4, 48, false), 2, 0xffff_c000_0000, 0x0060_ffff_c000_0f45),
        (stage1(SizeLg2::KIB_16, 48, false), 0, 0xffff_ffff_c000, 0x0060_ffff_ffff_cf47),
        (stage1(SizeLg2::KIB_16, 48, false), 1, 0xffff_fe00_0000, 0x0060_ffff_fe00_0f45),
        (stage1(SizeLg2::KIB_64, 48, false), 0, 0xffff_ffff_0000, 0x0060_ffff_ffff_0f47),
        (stage1(SizeLg2::KIB_64, 48, false), 1, 0xffff_e000_0000, 0x0060_ffff_e000_0f45),
        // 52 bits with 64 KiB: 51:48 in 15:12, and blocks of 4 TiB.
        (stage1(SizeLg2::KIB_64, 52, false), 0, 0xa_0000_1234_0000, 0x0060_0000_1234_af47),
        (stage1(SizeLg2::KIB_64, 52, false), 2, 0xf_fc00_0000_0000, 0x0060_fc00_0000_ff45),
        // Large descriptors: 49:48 in place, 51:50 in 9:8, no SH; blocks of 512 GiB and 64 GiB.
        (stage1(SizeLg2::KIB_4, 52, true), 0, 0xf_0000_0000_1000, 0x0063_0000_0000_1f47),
        (stage1(SizeLg2::KIB_4, 52, true), 3, 0x8_0080_0000_0000, 0x0060_0080_0000_0e45),
        (stage1(SizeLg2::KIB_16, 52, true), 2, 0x4_0010_0000_0000, 0x0060_0010_0000_0d45),
        (stage1(SizeLg2::KIB_16, 52, true), 0, 0x3_0000_0000_4000, 0x0063_0000_0000_4c47),
    ];
    for (format, height, pa, word) in cases {
        assert_eq!(leaf(&format, height, pa, rw), word, "height {height}, {pa:#x}");
    }
}

#[test]
fn table_descriptors_and_the_words_that_are_none() {
    let small = stage1(SizeLg2::KIB_4, 48, false);
    assert_eq!(small.table(Pa::new(0x8000_1234_5000)), 0x8000_1234_5003);
    assert_eq!(stage1(SizeLg2::KIB_64, 52, false).table(Pa::new(0xa_8000_0001_0000)), 0x8000_0001_a003);
    let large = stage1(SizeLg2::KIB_4, 52, true);
    assert_eq!(large.table(Pa::new(0xf_ffff_ffff_f000)), 0x3_ffff_ffff_f303);
    assert_eq!(large.decode(0x3_ffff_ffff_f303, 4), Item::Table(Pa::new(0xf_ffff_ffff_f000)));
    assert_eq!(small.decode(0, 0), Item::Absent);
    // Level 3 with bit 1 clear is reserved, level 0 has no blocks without DS, and an invalid word is 0.
    for (word, height) in [(0x1234_5f45, 0), (0x80_0000_0f45, 3), (0x1234_5002, 1), (1 << 55, 0)] {
        assert_eq!(small.decode(word, height), Item::Corrupt, "{word:#x}");
    }
    assert_eq!(small.contiguous_bit(), 0x0010_0000_0000_0000);
}

#[test]
fn contiguous_runs_are_as_long_as_the_book_says() {
    let runs = |format: Stage1| (0..4).map(|height| format.contiguous_lg2(height)).collect::<Vec<_>>();
    assert_eq!(runs(stage1(SizeLg2::KIB_4, 48, false)), [4, 4, 4, 0]);
    assert_eq!(runs(stage1(SizeLg2::KIB_16, 48, false)), [7, 5, 0, 0]);
    assert_eq!(runs(stage1(SizeLg2::KIB_64, 48, false)), [5, 5, 0, 0]);
    // A level 1 of two entries holds no run of 16.
    assert_eq!(runs(Stage1::new(config(SizeLg2::KIB_4, 31, 48, false)).unwrap()), [4, 4, 0, 0]);
}

#[test]
fn stage_1_register_fields() {
    // (granule, input) -> T0SZ, TG0, entries of the root.
    let cases = [
        ((SizeLg2::KIB_4, 48, false), (16, 0b00, 512)),
        ((SizeLg2::KIB_4, 39, false), (25, 0b00, 512)),
        ((SizeLg2::KIB_4, 25, false), (39, 0b00, 16)),
        ((SizeLg2::KIB_4, 52, true), (12, 0b00, 16)),
        ((SizeLg2::KIB_16, 48, false), (16, 0b10, 2)),
        ((SizeLg2::KIB_16, 52, true), (12, 0b10, 32)),
        ((SizeLg2::KIB_64, 48, false), (16, 0b01, 64)),
        ((SizeLg2::KIB_64, 52, false), (12, 0b01, 1024)),
    ];
    for ((granule, input, large), (t0sz, tg0, entries)) in cases {
        let format = Stage1::new(config(granule, input, 48, large)).unwrap();
        let geometry = format.geometry();
        let found = (format.t0sz(), format.tg0(), geometry.entries(geometry.top()));
        assert_eq!(found, (t0sz, tg0, entries), "{granule} {input}");
    }
}

/// The ranges of T0SZ that each SL0 has, 4 KiB: 0 for 25 to 34 bits, 1 for 31 to 43, 2 for 40 and more; 16 KiB: 0 for 25 to 29, 1 for 26 to 40, 2 for 37 to 51,
/// 3 with DS; 64 KiB: 0 for 25 to 33, 1 for 30 to 46, 2 for 43 and more.
#[test]
fn stage_2_register_fields() {
    // (granule, input) -> S2T0SZ, S2TG, S2SL0, entries of the root: as few levels as 16 tables side by side allow.
    let cases = [
        ((SizeLg2::KIB_4, 25, false), (39, 0b00, 0, 16)),
        ((SizeLg2::KIB_4, 34, false), (30, 0b00, 0, 8192)),
        ((SizeLg2::KIB_4, 35, false), (29, 0b00, 1, 32)),
        ((SizeLg2::KIB_4, 40, false), (24, 0b00, 1, 1024)),
        ((SizeLg2::KIB_4, 43, false), (21, 0b00, 1, 8192)),
        ((SizeLg2::KIB_4, 44, false), (20, 0b00, 2, 32)),
        ((SizeLg2::KIB_4, 48, false), (16, 0b00, 2, 512)),
        ((SizeLg2::KIB_4, 52, true), (12, 0b00, 2, 8192)),
        ((SizeLg2::KIB_16, 29, false), (35, 0b10, 0, 0x8000)),
        ((SizeLg2::KIB_16, 40, false), (24, 0b10, 1, 0x8000)),
        ((SizeLg2::KIB_16, 48, false), (16, 0b10, 2, 4096)),
        ((SizeLg2::KIB_16, 52, true), (12, 0b10, 3, 32)),
        ((SizeLg2::KIB_64, 33, false), (31, 0b01, 0, 0x2_0000)),
        ((SizeLg2::KIB_64, 46, false), (18, 0b01, 1, 0x2_0000)),
        ((SizeLg2::KIB_64, 48, false), (16, 0b01, 2, 64)),
    ];
    for ((granule, input, large), (t0sz, tg, sl0, entries)) in cases {
        let format = Stage2::new(config(granule, input, 48, large)).unwrap();
        let geometry = format.geometry();
        let found = (format.t0sz(), format.tg(), format.sl0(), geometry.entries(geometry.top()));
        assert_eq!(found, (t0sz, tg, sl0, entries), "{granule} {input}");
    }
}

#[test]
fn configurations_that_cannot_be_are_refused() {
    let one = |granule, input, output, large| Stage1::new(config(granule, input, output, large)).err();
    assert_eq!(one(SizeLg2::KIB_4, 24, 48, false), Some(ConfigError::InputBits(24)));
    assert_eq!(one(SizeLg2::KIB_4, 49, 48, false), Some(ConfigError::InputBits(49)));
    assert_eq!(one(SizeLg2::KIB_4, 53, 48, true), Some(ConfigError::InputBits(53)));
    assert_eq!(one(SizeLg2::KIB_16, 48, 52, false), Some(ConfigError::OutputBits(52)));
    assert_eq!(one(SizeLg2::KIB_64, 48, 41, false), Some(ConfigError::OutputBits(41)));
    assert_eq!(one(SizeLg2::KIB_64, 48, 48, true), Some(ConfigError::Large));
    assert_eq!(one(SizeLg2::MIB_2, 48, 48, false), Some(ConfigError::Granule(SizeLg2::MIB_2)));
}

#[test]
fn part_19_marks_lie_in_the_access_flag_and_in_ap_2_of_leaves_with_dbm() {
    let format = |hardware_update| {
        Stage1::new(Config { hardware_update, ..config(SizeLg2::KIB_4, 48, 48, false) }).unwrap()
    };
    let word = |format: &Stage1, perms, marks| {
        leaf(format, 0, 0x1234_5000, Prot::cached(perms)) & !0x480
            | format.with_marks(format.attributes(Prot::cached(perms)).unwrap(), marks) & 0x480
    };
    // DBM 51, AF 10, AP[2] 7.
    let both = format(HardwareUpdate::AccessAndDirty);
    assert_eq!(word(&both, Perms::READ_WRITE, Marks::USED), 0x0068_0000_1234_5f47);
    assert_eq!(word(&both, Perms::READ_WRITE, Marks::CLEAN), 0x0068_0000_1234_5fc7);
    assert_eq!(word(&both, Perms::READ_WRITE, Marks::NONE), 0x0068_0000_1234_5bc7);
    assert_eq!(word(&both, READ, Marks::USED), 0x0060_0000_1234_5fc7);
    assert_eq!(word(&both, READ, Marks::NONE), 0x0060_0000_1234_5bc7);
    let access = format(HardwareUpdate::Access);
    assert_eq!(word(&access, Perms::READ_WRITE, Marks::NONE), 0x0060_0000_1234_5b47);
    let none = format(HardwareUpdate::None);
    assert_eq!(word(&none, Perms::READ_WRITE, Marks::NONE), 0x0060_0000_1234_5f47);
    // A clean leaf can be written; one without DBM cannot; and without hardware update DBM says nothing.
    assert_eq!(both.prot(0x0068_0000_1234_5fc7).perms, Perms::READ_WRITE);
    assert_eq!(
        (both.prot(0x0060_0000_1234_5fc7).perms, none.prot(0x0068_0000_1234_5fc7).perms),
        (READ, READ)
    );
    assert_eq!(both.marks(0x0068_0000_1234_5bc7), Marks::NONE);
    assert_eq!(both.marks(0x0068_0000_1234_5f47), Marks::USED);
    assert!(
        [0, 1].iter().all(|&height| both.contiguous_lg2(height) == 0),
        "a run's marks may lie in any of it"
    );
}

#[test]
fn part_08_tcr_and_ttbr_are_as_the_book_has_them() {
    let tcr = |granule, input_bits, output_bits, large, hardware_update, able| {
        let config = Config { hardware_update, ..config(granule, input_bits, output_bits, large) };
        Stage1::new(config).unwrap().tcr(able)
    };
    use HardwareUpdate::{Access, AccessAndDirty, None};
    // T0SZ 5:0, IRGN0 9:8 and ORGN0 11:10 write-back, SH0 13:12 inner, TG0 15:14, EPD1 23, IPS 34:32, HA 39, HD 40, DS 59.
    assert_eq!(tcr(SizeLg2::KIB_4, 48, 48, false, None, AccessAndDirty), 0x5_0080_3510);
    assert_eq!(tcr(SizeLg2::KIB_16, 47, 40, false, None, None), 0x2_0080_b511);
    assert_eq!(tcr(SizeLg2::KIB_64, 52, 52, false, None, None), 0x6_0080_750c);
    assert_eq!(tcr(SizeLg2::KIB_4, 52, 52, true, None, None), 0x0800_0006_0080_350c);
    assert_eq!(tcr(SizeLg2::KIB_4, 48, 48, false, AccessAndDirty, AccessAndDirty), 0x185_0080_3510);
    assert_eq!(tcr(SizeLg2::KIB_4, 48, 48, false, AccessAndDirty, Access), 0x85_0080_3510);
    assert_eq!(tcr(SizeLg2::KIB_4, 48, 48, false, Access, AccessAndDirty), 0x85_0080_3510);
    assert_eq!(tcr(SizeLg2::KIB_4, 48, 48, false, AccessAndDirty, None), 0x5_0080_3510);
    assert_eq!(arm::ttbr(Pa::new(0xa_1234_0001_2000), true), 0x1234_0001_2028);
    assert_eq!(arm::ttbr(Pa::new(0x1234_0001_2000), false), 0x1234_0001_2000);
    let codes = [31, 32, 36, 39, 40, 42, 44, 47, 48, 52, 56].map(arm::address_code);
    assert_eq!(codes, [0, 0, 1, 1, 2, 3, 4, 4, 5, 6, 6]);
}
