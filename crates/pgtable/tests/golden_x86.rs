//! Words of the x86 formats, typed by hand from the book's bit numbers, and what hardware's marks do.
//!
//! Spec: VT-d 5.10, 9.7 "First-Stage Paging Entries", 9.8 "Second-Stage Paging Entries".

mod support;

use portcullis_hal::TableMemory;
use portcullis_pgtable::vtd::{ConfigError, FirstConfig, FirstStage, PAT, SecondConfig, SecondStage};
use portcullis_pgtable::{Format, Item, Marks, PageTable};
use portcullis_types::{Iova, Pa, PageSizes, Perms, Prot, SizeLg2};
use support::{RW, Tables, range};

const READ: Perms = Perms::READ;
const WRITE: Perms = Perms::WRITE;

fn second(change: impl Fn(&mut SecondConfig)) -> SecondStage {
    let mut config = SecondConfig::new(4);
    change(&mut config);
    SecondStage::new(config).unwrap()
}

fn first(change: impl Fn(&mut FirstConfig)) -> FirstStage {
    let mut config = FirstConfig::new(4);
    change(&mut config);
    FirstStage::new(config).unwrap()
}

fn leaf(format: &impl Format, height: u8, pa: u64, prot: Prot) -> u64 {
    format.leaf(height, Pa::new(pa), format.attributes(prot).unwrap())
}

/// R 0, W 1, EMT 5:3 (6 write-back, 1 write combining, 0 uncacheable), PS 7, A 8, D 9, SNP 11.
#[test]
fn second_stage_leaves_are_as_the_book_has_them() {
    let plain = second(|_| ());
    let cases = [
        (0, Prot::cached(READ | WRITE), 0x1234_5033),
        (0, Prot::cached(READ), 0x1234_5031),
        (0, Prot::cached(WRITE), 0x1234_5032),
        (0, Prot::uncached(READ | WRITE), 0x1234_500b),
        (0, Prot::device(READ | WRITE), 0x1234_5003),
    ];
    for (height, prot, word) in cases {
        assert_eq!(leaf(&plain, height, 0x1234_5000, prot), word, "{prot:?}");
        assert_eq!(plain.prot(word), prot);
        assert_eq!(plain.decode(word, height), Item::Leaf { pa: Pa::new(0x1234_5000), contiguous: false });
    }
    assert_eq!(leaf(&plain, 1, 0x1234_0020_0000, RW), 0x0000_1234_0020_00b3);
    assert_eq!(leaf(&plain, 2, 0x1234_4000_0000, RW), 0x0000_1234_4000_00b3);
    let all = second(|config| (config.snoop, config.accessed_dirty, config.output_bits) = (true, true, 52));
    assert_eq!(leaf(&all, 0, 0xf_ffff_ffff_f000, RW), 0x000f_ffff_ffff_fb33);
    assert_eq!(leaf(&all, 0, 0x1000, Prot::cached(READ)), 0x0000_0000_0000_1931, "never dirty");
    assert_eq!(leaf(&all, 0, 0x1000, Prot::device(READ | WRITE)), 0x0000_0000_0000_1303, "not snooped");
}

/// P 0, R/W 1, U/S 2, PWT 3, PCD 4, A 5, D 6, PS 7, EA 10, XD 63.
#[test]
fn first_stage_leaves_are_as_the_book_has_them() {
    let plain = first(|_| ());
    let cases = [
        (Prot::cached(READ | WRITE), 0x8000_0000_1234_5067),
        (Prot::cached(READ), 0x8000_0000_1234_5025),
        (Prot::cached(READ | Perms::EXECUTE), 0x0000_0000_1234_5025),
        (Prot::cached(READ | Perms::PRIVILEGED), 0x8000_0000_1234_5021),
        (Prot::cached(READ | WRITE | Perms::EXECUTE | Perms::PRIVILEGED), 0x0000_0000_1234_5063),
        (Prot::uncached(READ | WRITE), 0x8000_0000_1234_5077),
        (Prot::device(READ | WRITE), 0x8000_0000_1234_507f),
    ];
    for (prot, word) in cases {
        assert_eq!(leaf(&plain, 0, 0x1234_5000, prot), word, "{prot:?}");
        assert_eq!(plain.prot(word), prot);
    }
    assert_eq!(leaf(&plain, 1, 0x1234_0020_0000, RW), 0x8000_1234_0020_00e7);
    assert_eq!(leaf(&plain, 2, 0x1234_4000_0000, RW), 0x8000_1234_4000_00e7);
    let wide = first(|config| (config.extended_accessed, config.output_bits) = (true, 52));
    assert_eq!(leaf(&wide, 0, 0xf_ffff_ffff_f000, RW), 0x800f_ffff_ffff_f467);
    // PA0 WB 6, PA1 WT 4, PA2 UC- 7, PA3 UC 0, and the same again.
    assert_eq!(PAT.to_le_bytes(), [0x46, 0x07, 0x46, 0x07]);
}

#[test]
fn entries_that_lead_to_tables_allow_all_and_are_marked_where_hardware_would_mark_them() {
    let marked = second(|config| config.accessed_dirty = true);
    assert_eq!(second(|_| ()).table(Pa::new(0x8000_1234_5000)), 0x8000_1234_5003);
    assert_eq!(marked.table(Pa::new(0x8000_1234_5000)), 0x8000_1234_5103);
    let extended = first(|config| config.extended_accessed = true);
    assert_eq!(first(|_| ()).table(Pa::new(0x8000_1234_5000)), 0x8000_1234_5027);
    assert_eq!(extended.table(Pa::new(0x8000_1234_5000)), 0x8000_1234_5427);
}

#[test]
fn words_that_are_never_written_are_none() {
    let (one, two) = (first(|_| ()), second(|_| ()));
    for height in 0..4 {
        assert_eq!((one.decode(0, height), two.decode(0, height)), (Item::Absent, Item::Absent));
        // Neither R nor W; not P.
        assert_eq!(two.decode(0x1234_5f38, height), Item::Corrupt);
        assert_eq!(one.decode(0x1234_5f66, height), Item::Corrupt);
    }
    // PS is reserved above 1 GiB.
    assert_eq!((one.decode(0x1234_50e7, 3), two.decode(0x1234_50b3, 3)), (Item::Corrupt, Item::Corrupt));
    let table = Item::Table(Pa::new(0x1234_5000));
    assert_eq!((one.decode(0x1234_5027, 3), two.decode(0x1234_5003, 1)), (table, table));
    // In the lowest table, bit 7 is no size: PAT, or ignored.
    let page = Item::Leaf { pa: Pa::new(0x1234_5000), contiguous: false };
    assert_eq!((one.decode(0x1234_50e7, 0), two.decode(0x1234_50b3, 0)), (page, page));
}

#[test]
fn shapes_and_the_fields_that_go_with_them() {
    let shape = |format: &SecondStage| {
        (format.aw(), format.geometry().top() + 1, format.geometry().aperture().last().get())
    };
    assert_eq!(shape(&SecondStage::new(SecondConfig::new(3)).unwrap()), (1, 3, 0x7f_ffff_ffff));
    assert_eq!(shape(&SecondStage::new(SecondConfig::new(4)).unwrap()), (2, 4, 0xffff_ffff_ffff));
    assert_eq!(shape(&SecondStage::new(SecondConfig::new(5)).unwrap()), (3, 5, 0x1ff_ffff_ffff_ffff));
    // MGAW of 39 bits, where only 4 levels are supported.
    assert_eq!(shape(&second(|config| config.input_bits = 39)), (2, 4, 0x7f_ffff_ffff));
    let shape = |levels| {
        let format = FirstStage::new(FirstConfig::new(levels)).unwrap();
        (format.fspm(), format.geometry().top() + 1, format.geometry().aperture().last().get())
    };
    assert_eq!(shape(4), (0, 4, 0x7fff_ffff_ffff), "what lies above is not canonical");
    assert_eq!(shape(5), (1, 5, 0xff_ffff_ffff_ffff));
    let sizes = |format: &dyn Fn(PageSizes) -> PageSizes| format(PageSizes::default().with(SizeLg2::MIB_2));
    let two = |page_sizes| second(|config| config.page_sizes = page_sizes).page_sizes();
    assert_eq!(sizes(&two), PageSizes::from_bits(0x20_1000));
    assert_eq!(two(PageSizes::from_bits(u64::MAX)), PageSizes::from_bits(0x4020_1000));
}

#[test]
fn configurations_that_cannot_be_are_refused() {
    let two = |levels, input_bits, output_bits| {
        SecondStage::new(SecondConfig { input_bits, output_bits, ..SecondConfig::new(levels) }).err()
    };
    assert_eq!(two(2, 30, 48), Some(ConfigError::Levels(2)));
    assert_eq!(two(6, 57, 48), Some(ConfigError::Levels(6)));
    assert_eq!(two(3, 40, 48), Some(ConfigError::InputBits(40)));
    assert_eq!(two(4, 12, 48), Some(ConfigError::InputBits(12)));
    assert_eq!(two(4, 48, 53), Some(ConfigError::OutputBits(53)));
    let one =
        |levels, output_bits| FirstStage::new(FirstConfig { output_bits, ..FirstConfig::new(levels) }).err();
    assert_eq!((one(3, 48), one(6, 48)), (Some(ConfigError::Levels(3)), Some(ConfigError::Levels(6))));
    assert_eq!(one(4, 31), Some(ConfigError::OutputBits(31)));
}

/// Marks that hardware sets: A and D of the leaf, and A (and EA) of the tables on the way, which are there already.
fn hardware_marks<F: Format>(format: F, accessed: u64, dirty: u64) {
    let tables = Tables::default();
    let mut table = PageTable::new(format, &tables).unwrap();
    let at = Iova::new(0x40_0000);
    table.map_marked(&tables, at, Pa::new(0x1000), 0x1000, RW, Marks::NONE).unwrap();
    table
        .map_marked(&tables, Iova::new(0x40_1000), Pa::new(0), 0x1000, Prot::cached(READ), Marks::USED)
        .unwrap();
    assert_eq!(table.marks(&tables, at), Some(Marks::NONE));
    assert_eq!(table.marks(&tables, Iova::new(0x40_1000)), Some(Marks::CLEAN), "it cannot be written");
    // What a write does, at every table on the way.
    let top = table.format().geometry().top();
    let mut entry = table.root();
    for height in (0..=top).rev() {
        let index = at.get() >> table.format().geometry().size(height).get() & 0x1ff;
        let place = Pa::new(entry.get() + 8 * index);
        let word = tables.load(place);
        let marks = if height == 0 { accessed | dirty } else { accessed };
        tables.store(place, word | marks);
        entry = Pa::new(word & 0x000f_ffff_ffff_f000);
    }
    assert_eq!(table.marks(&tables, at), Some(Marks::USED));
    // The walker still knows the tables.
    table.map(&tables, Iova::new(0x40_2000), Pa::new(0), 0x1000, RW).unwrap();
    let mut told = Vec::new();
    let which = Marks { accessed: false, dirty: true };
    table.clear_marks(&tables, range(at.get(), 0x1000), which, |range, marks| told.push((range, marks)));
    assert_eq!(told, [(range(at.get(), 0x1000), which)]);
    assert_eq!(table.marks(&tables, at), Some(Marks::CLEAN));
    table.map(&tables, Iova::new(1 << 30), Pa::new(0), 0x20_0000, RW).unwrap();
    let gone = table.unmap(&tables, table.aperture()).unwrap();
    assert_eq!(gone.bytes, 0x20_3000);
    gone.retired.free(table.format(), &tables);
    table.destroy(&tables);
    assert_eq!(tables.live_blocks(), 0);
}

#[test]
fn hardware_marks_leaves_and_finds_tables_marked() {
    // Second stage: A 8, D 9. First stage: A 5, D 6, EA 10.
    hardware_marks(second(|config| config.accessed_dirty = true), 1 << 8, 1 << 9);
    hardware_marks(first(|_| ()), 1 << 5, 1 << 6);
    hardware_marks(first(|config| config.extended_accessed = true), 1 << 5 | 1 << 10, 1 << 6);
}

#[test]
fn without_marks_a_second_stage_leaf_counts_as_used() {
    let format = second(|_| ());
    let word = leaf(&format, 0, 0x1000, RW);
    assert_eq!((format.marks(word), format.with_marks(word, Marks::NONE)), (Marks::USED, word));
}

#[test]
fn a_whole_root_is_cleaned_for_hardware_that_does_not_snoop() {
    let tables = Tables::default();
    let format = second(|config| (config.coherent, config.input_bits) = (false, 39));
    let table = PageTable::new(format, &tables).unwrap();
    assert_eq!(tables.live_words().iter().map(|(_, words)| words.len()).sum::<usize>(), 512);
    assert!(!tables.has_dirty() && !tables.has_pending());
    table.destroy(&tables);
}
