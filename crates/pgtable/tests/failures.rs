//! What fails leaves everything as it was: no memory at the n-th table, words that nobody stored.

mod support;

use portcullis_hal::{Barriers, TableMemory};
use portcullis_pgtable::arm::{Config, Stage1};
use portcullis_pgtable::{BreakBeforeMake, Format, MapError, PageTable, UnmapError};
use portcullis_types::{Iova, Pa, PageSizes, SizeLg2};
use support::{AsIs, RW, Tables, Walker, every_format, range};

#[test]
fn a_map_that_finds_no_memory_leaves_table_and_memory_as_they_were() {
    every_format!(failing_map);
}

fn failing_map<F: Format>(format: F) {
    let tables = Tables::default();
    let mut table = PageTable::new(format, &tables).unwrap();
    let page = table.format().geometry().granule().bytes();
    let entries = table.format().geometry().entries(0).min(4096);
    let pages = (2 * entries).min((table.aperture().last().get() + 1) / page - entries / 2);
    table.map(&tables, Iova::new(0), Pa::new(page), page, RW).unwrap();
    for n in 0.. {
        let before = (tables.live_words(), tables.live_blocks());
        tables.fail_after(Some(n));
        // From the middle of one table of pages into a third, at odds with the output so that no block fits.
        let first = entries / 2 * page;
        let mapped = table.map(&tables, Iova::new(first), Pa::new(first + page), pages * page, RW);
        tables.fail_after(None);
        if mapped.is_ok() {
            return assert!(
                n > 0 || table.format().geometry().top() == 0 || before.1 == tables.live_blocks()
            );
        }
        assert_eq!(mapped, Err(MapError::NoTableMemory));
        assert!(before == (tables.live_words(), tables.live_blocks()), "failure at allocation {n}");
    }
}

#[test]
fn a_split_that_finds_no_memory_leaves_table_and_memory_as_they_were() {
    every_format!(failing_split);
}

fn failing_split<F: Format>(format: F) {
    if format.break_before_make() != BreakBeforeMake::Never {
        return;
    }
    let tables = Tables::default();
    let mut table = PageTable::new(format, &tables).unwrap();
    let page = table.format().geometry().granule().bytes();
    let limit = table.aperture().last().get().min((1 << table.format().output_bits()) - 1);
    let Some(block) = table.page_sizes().largest_up_to(limit / 2 + 1) else { return };
    let size = block.bytes();
    if size == page {
        return;
    }
    // Both ends of the range in the same block, but in different halves.
    table.map(&tables, Iova::new(0), Pa::new(0), size, RW).unwrap();
    let inner = range(page, size - 2 * page);
    for n in 0.. {
        let before = (tables.live_words(), tables.live_blocks());
        let allocated = tables.allocations();
        tables.fail_after(Some(n));
        let result = table.unmap(&tables, inner);
        tables.fail_after(None);
        match result {
            Ok(gone) => {
                assert_eq!(
                    (gone.bytes, tables.allocations() - allocated),
                    (size - 2 * page, n),
                    "none too many"
                );
                assert!(n > 0);
                gone.retired.free(table.format(), &tables);
                let rest = table.unmap(&tables, table.aperture()).unwrap();
                assert_eq!(rest.bytes, 2 * page);
                rest.retired.free(table.format(), &tables);
                return assert_eq!(tables.live_blocks(), 1);
            }
            Err(error) => assert_eq!(error, UnmapError::NoTableMemory),
        }
        assert!(before == (tables.live_words(), tables.live_blocks()), "failure at allocation {n}");
    }
}

#[test]
fn memory_that_the_format_cannot_point_to_is_no_table_memory() {
    // The fake's memory begins at 256 MiB: far enough up that a table of 32 output bits can be outrun.
    let tables = Tables::default();
    let mut config = Config::new(SizeLg2::KIB_4);
    (config.input_bits, config.output_bits) = (39, 32);
    let format = Stage1::new(config).unwrap();
    assert!(PageTable::new(format, &Far).is_none());
    assert!(PageTable::new(format, &tables).is_some());
}

/// Memory above 4 GiB.
struct Far;

impl TableMemory for Far {
    fn alloc(&self, _: portcullis_hal::BlockLayout) -> Option<Pa> {
        Some(Pa::new(1 << 32))
    }
    fn free(&self, first: Pa, _: portcullis_hal::BlockLayout) {
        assert_eq!(first, Pa::new(1 << 32));
    }
    fn load(&self, at: Pa) -> u64 {
        panic!("load from {at}")
    }
    fn store(&self, at: Pa, _: u64) {
        panic!("store to {at}")
    }
    fn compare_exchange(&self, at: Pa, _: u64, _: u64) -> Result<u64, u64> {
        panic!("exchange at {at}")
    }
    fn clean_table(&self, _: Pa, _: u64) {}
}

impl portcullis_hal::Barriers for Far {
    fn write_barrier(&self) {}
    fn read_barrier(&self) {}
    fn full_barrier(&self) {}
}

/// Every kind of word that nobody stored, in place of the link to a table, a page, and a hole; then everything one can do.
#[test]
fn no_word_in_a_table_leads_the_walker_astray() {
    let wild = [1, 2, 3, u64::MAX, 0x9999_9000 | 3, 0x1000_0003, 1 << 63, 0x701, 0xffff_ffff_f703];
    for height in 0..4usize {
        for word in wild {
            let tables = Tables::default();
            let format = Stage1::new(Config::new(SizeLg2::KIB_4)).unwrap();
            let mut table = PageTable::new(format, &tables).unwrap();
            table.map(&tables, Iova::new(0x20_0000), Pa::new(0x1000), 0x3000, RW).unwrap();
            let blocks = tables.live_words();
            // Blocks were allocated from the root down, but for the order in which a map stocks them.
            let at = Pa::new(blocks[height].0 + if height == 0 { 0 } else { 8 });
            tables.store(at, word);
            let _ = table.lookup(&tables, Iova::new(0x20_1000));
            let mapped = table.map(&tables, Iova::new(0x20_8000), Pa::new(0x1000), 0x1000, RW);
            assert!(
                matches!(mapped, Ok(()) | Err(MapError::Mapped(_) | MapError::CorruptTable { .. })),
                "{mapped:?}"
            );
            let huge = table.map(&tables, Iova::new(0), Pa::new(0), 1 << 40, RW);
            assert!(matches!(huge, Err(MapError::Mapped(_) | MapError::CorruptTable { .. })), "{huge:?}");
            let piece = table.unmap(&tables, range(0x20_1000, 0x1000)).unwrap();
            assert!(piece.bytes <= 0x1000);
            let rest = table.unmap(&tables, table.aperture()).unwrap();
            assert!(tables.live_words()[0].1.iter().all(|&word| word == 0), "nothing is left to hardware");
            piece.retired.free(&format, &tables);
            rest.retired.free(&format, &tables);
            table.destroy(&tables);
            assert_eq!(tables.live_blocks(), 0);
        }
    }
}

#[test]
fn a_link_that_was_overwritten_is_reported_with_its_place() {
    let tables = Tables::default();
    let mut table = PageTable::new(Stage1::new(Config::new(SizeLg2::KIB_4)).unwrap(), &tables).unwrap();
    table.map(&tables, Iova::new(0), Pa::new(0x1000), 0x1000, RW).unwrap();
    let (at, word) = (table.root(), 0x9999_9003);
    tables.store(at, word);
    // Beyond the reach of the table that was used last, so that there is a walk.
    // The second is more than one table of pages maps.
    for len in [0x1000, 0x40_0000] {
        let mapped = table.map(&tables, Iova::new(0x20_0000), Pa::new(0), len, RW);
        assert_eq!(mapped, Err(MapError::CorruptTable { at, word }));
    }
}

#[test]
fn a_block_of_a_restricted_table_is_never_made_so_parts_can_always_be_unmapped() {
    let page_sizes = PageSizes::from_bits(0x1000);
    let config =
        Config { break_before_make: BreakBeforeMake::Always, page_sizes, ..Config::new(SizeLg2::KIB_4) };
    let tables = Tables::default();
    let mut table = PageTable::new(Stage1::new(config).unwrap(), &tables).unwrap();
    table.map(&tables, Iova::new(0), Pa::new(0), 0x20_0000, RW).unwrap();
    assert_eq!(table.unmap(&tables, range(0x5000, 0x1000)).unwrap().bytes, 0x1000);
}

/// What a bit that flips, or several, may make of an entry that says nothing.
const FLIPPED: [u64; 9] = [1, 2, 3, 0x80, 0x83, 1 << 12, 1 << 55, 1 << 63, u64::MAX];

#[test]
fn a_word_in_a_hole_takes_no_table_from_what_is_mapped_beside_it() {
    every_format!(unmapped_over_a_flipped_hole);
}

fn unmapped_over_a_flipped_hole<F: Format>(format: F) {
    for word in FLIPPED {
        for above in [false, true] {
            let tables = Tables::default();
            let mut table = PageTable::new(AsIs(&format), &tables).unwrap();
            let page = format.geometry().granule().bytes();
            let (size, entry) = if above { (page * format.geometry().entries(0), 3) } else { (page, 9) };
            // The second page: the first word of every table above leads to it.
            table.map(&tables, Iova::new(page), Pa::new(4 * page), page, RW).unwrap();
            let blocks = tables.live_words();
            let bottom = blocks.iter().find(|(_, words)| words[1] != 0).unwrap().0;
            let link = format.table(Pa::new(bottom));
            let holder = if above { blocks.iter().find(|(_, words)| words[0] == link) } else { None };
            let Some(at) = holder.map_or((!above).then_some(bottom), |(at, _)| Some(*at)) else { continue };
            if table.aperture().last().get() < 5 * size {
                continue;
            }
            tables.store(Pa::new(at + 8 * entry), word);
            tables.write_barrier();
            let gone = table.unmap(&tables, range(entry * size, size)).unwrap();
            let walker = Walker::new(&format, table.root());
            assert_eq!(walker.now(&tables, page), Some(4 * page), "{word:#x} {above}: it is mapped still");
            assert_eq!(table.lookup(&tables, Iova::new(page)).map(|found| found.pa), Some(Pa::new(4 * page)));
            assert_eq!(walker.now(&tables, entry * size), None);
            gone.retired.free(&format, &tables);
            table.map(&tables, Iova::new(entry * size), Pa::new(0), page, RW).unwrap();
            let rest = table.unmap(&tables, range(0, (entry + 1) * size)).unwrap();
            assert_eq!(rest.bytes, 2 * page);
            rest.retired.free(&format, &tables);
            assert_eq!(tables.live_blocks(), 1, "and nothing is left of it when it goes");
        }
    }
}
