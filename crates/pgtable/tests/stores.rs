//! What hardware sees between two stores, if each store may overtake all others that no barrier holds back.
//!
//! Memory that was just allocated holds, for hardware, a valid descriptor to nowhere until a barrier has passed: a table that is linked before
//! its contents are visible sends hardware there.

mod support;

use core::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::Arc;

use portcullis_pgtable::arm::{Config, Stage1};
use portcullis_pgtable::{BreakBeforeMake, Format, PageTable, UnmapError};
use portcullis_types::{Iova, Pa, SizeLg2};
use support::{AsIs, RW, Tables, Walker, every_format, range};

/// Walks to each address before every store becomes visible. It must go to one of the two, or nowhere if that is allowed. Counts the stores.
fn watch(tables: &Tables, walker: Walker, probes: Vec<(u64, Option<u64>, Option<u64>)>) -> Arc<AtomicUsize> {
    let stores = Arc::new(AtomicUsize::new(0));
    let count = stores.clone();
    tables.watch(Some(Box::new(move |load| {
        count.fetch_add(1, Relaxed);
        for &(iova, before, after) in &probes {
            let found = walker.walk(load, iova);
            assert!(
                found == before || found == after,
                "{iova:#x} goes to {found:x?}, not {before:x?} or {after:x?}"
            );
        }
    })));
    stores
}

#[test]
fn what_is_being_mapped_goes_nowhere_or_where_it_should_and_the_rest_stays() {
    every_format!(mapping);
}

fn mapping<F: Format>(format: F) {
    let tables = Tables::default();
    let mut table = PageTable::new(format, &tables).unwrap();
    let walker = Walker::new(table.format(), table.root());
    let page = table.format().geometry().granule().bytes();
    let entries = table.format().geometry().entries(0).min(2048);
    let aperture_pages = (table.aperture().last().get() + 1) / page;
    // One page that stays; then a range that begins in its table and ends in another one, if there is another one.
    table.map(&tables, Iova::new(page), Pa::new(3 * page), page, RW).unwrap();
    let (first, count) = (entries / 2, entries.min(aperture_pages - entries / 2));
    let mut probes = vec![(page, Some(3 * page), Some(3 * page)), (0, None, None)];
    for nth in [0, 1, count / 2, count - 1] {
        probes.push(((first + nth) * page, None, Some((first + nth + 5) * page)));
    }
    let stores = watch(&tables, walker, probes);
    table.map(&tables, Iova::new(first * page), Pa::new((first + 5) * page), count * page, RW).unwrap();
    assert!(stores.load(Relaxed) as u64 >= count);
    tables.watch(None);
    assert_eq!(walker.now(&tables, (first + count - 1) * page), Some((first + count + 4) * page));
}

#[test]
fn what_stays_mapped_is_mapped_at_every_store_of_an_unmap() {
    every_format!(splitting);
}

/// Unmaps pieces of the largest block and of contiguous runs.
fn splitting<F: Format>(format: F) {
    let page = format.geometry().granule().bytes();
    let limit = format.geometry().aperture().last().get().min((1 << format.output_bits()) - 1);
    let Some(block) = format.page_sizes().largest_up_to(limit / 2 + 1) else { return };
    let splits = format.break_before_make() == BreakBeforeMake::Never;
    // One block, or as many pages as the largest contiguous run has.
    let size = block.bytes().max(128 * page).min(limit + 1);
    let (half, blocks) = (size / 2, block.bytes() > page);
    let pieces = [
        (0, page),
        (size - page, size),
        (half, half + page),
        (page, size - page),
        (0, half),
        (half, size),
        (3 * page, 5 * page),
    ];
    let mut table = None;
    for (from, to) in pieces {
        let tables = Tables::default();
        let table = table.insert(PageTable::new(AsIs(&format), &tables).unwrap());
        let walker = Walker::new(table.format(), table.root());
        table.map(&tables, Iova::new(0), Pa::new(0), size, RW).unwrap();
        let stays = |at: &u64| *at < size && !(from..to).contains(at);
        let near = [from.wrapping_sub(page), to, 0, page, half - page, half, half + page, size - page];
        let mut probes: Vec<_> = near.into_iter().filter(stays).map(|at| (at, Some(at), Some(at))).collect();
        let kept: Vec<u64> = probes.iter().map(|&(at, ..)| at).collect();
        probes.push((from, Some(from), None));
        let stores = watch(&tables, walker, probes);
        let result = table.unmap(&tables, range(from, to - from));
        tables.watch(None);
        if blocks && !splits && size == block.bytes() {
            assert!(matches!(result, Err(UnmapError::WouldSplit { .. })), "{result:?}");
            assert_eq!(
                (stores.load(Relaxed), walker.now(&tables, from)),
                (0, Some(from)),
                "nothing was changed"
            );
            continue;
        }
        let gone = result.unwrap();
        assert_eq!((gone.bytes, tables.has_pending()), (to - from, false));
        kept.into_iter().for_each(|at| assert_eq!(walker.now(&tables, at), Some(at)));
        assert_eq!((walker.now(&tables, from), walker.now(&tables, to - page)), (None, None));
        assert!(table.format().coherent() || !tables.has_dirty());
        gone.retired.free(table.format(), &tables);
    }
}

const HINT: u64 = 1 << 52;
/// After the root, tables of pages are allocated first.
const BOTTOM: usize = 1;

/// The words of the table of pages of a fresh 4 KiB table, after `pages` pages were mapped from page `first` to page `output`.
fn page_table(first: u64, output: u64, pages: u64) -> (PageTable<Stage1>, Tables) {
    let tables = Tables::default();
    let mut table = PageTable::new(Stage1::new(Config::new(SizeLg2::KIB_4)).unwrap(), &tables).unwrap();
    table.map(&tables, Iova::new(first << 12), Pa::new(output << 12), pages << 12, RW).unwrap();
    (table, tables)
}

fn hinted(tables: &Tables) -> Vec<usize> {
    let words = tables.live_words();
    let (_, bottom) = &words[BOTTOM];
    (0..512).filter(|&index| bottom[index] & HINT != 0).collect()
}

#[test]
fn the_hint_is_on_whole_aligned_runs_only() {
    let expect = |first, output, pages, run: core::ops::Range<usize>| {
        assert_eq!(hinted(&page_table(first, output, pages).1), run.collect::<Vec<_>>());
    };
    expect(16, 32, 16, 16..32);
    expect(15, 31, 34, 16..48);
    expect(15, 31, 16, 0..0);
    expect(16, 33, 16, 0..0);
    expect(1, 1, 30, 0..0);
    expect(1, 1, 31, 16..32);
}

#[test]
fn a_run_that_is_cut_loses_the_hint_and_its_neighbour_keeps_it() {
    let (mut table, tables) = page_table(16, 32, 48);
    assert_eq!(table.unmap(&tables, range(20 << 12, 1 << 12)).unwrap().bytes, 1 << 12);
    assert_eq!(hinted(&tables), (32..64).collect::<Vec<_>>());
    assert_eq!(table.unmap(&tables, range(48 << 12, 16 << 12)).unwrap().bytes, 16 << 12);
    assert_eq!(hinted(&tables), (32..48).collect::<Vec<_>>());
}

#[test]
fn a_block_is_split_into_hinted_runs_but_for_the_one_that_is_cut() {
    let (mut table, tables) = page_table(0, 0, 512);
    assert_eq!(table.lookup(&tables, Iova::new(0)).unwrap().size, SizeLg2::MIB_2);
    assert_eq!(table.unmap(&tables, range(18 << 12, 2 << 12)).unwrap().bytes, 2 << 12);
    let words = tables.live_words();
    let (_, bottom) = words.last().unwrap();
    let hinted: Vec<usize> = (0..512).filter(|&index| bottom[index] & HINT != 0).collect();
    assert_eq!(hinted, (0..16).chain(32..512).collect::<Vec<_>>());
}

#[test]
fn there_is_no_hint_where_it_could_not_be_taken_off() {
    for break_before_make in [BreakBeforeMake::Always, BreakBeforeMake::ForBlocks] {
        let config = Config { break_before_make, ..Config::new(SizeLg2::KIB_4) };
        let tables = Tables::default();
        let mut table = PageTable::new(Stage1::new(config).unwrap(), &tables).unwrap();
        table.map(&tables, Iova::new(0), Pa::new(0), 0x1_0000, RW).unwrap();
        assert_eq!(hinted(&tables), []);
        assert_eq!(
            table.unmap(&tables, range(0x1000, 0x1000)).unwrap().bytes,
            0x1000,
            "pages can be unmapped one by one"
        );
    }
}

#[test]
fn a_hinted_run_never_has_a_hole_for_hardware() {
    // In the middle of the run, from its beginning, up to its end.
    for page in [18, 16, 30] {
        let (mut table, tables) = page_table(16, 32, 16);
        let words = tables.live_words();
        let first = words[BOTTOM].0 + 16 * 8;
        assert_eq!(words[BOTTOM].1[16] & HINT, HINT);
        tables.watch(Some(Box::new(move |load| {
            let run: Vec<u64> = (0..16).map(|nth| load(first + 8 * nth)).collect();
            let holes = run.contains(&0);
            assert!(!(holes && run.iter().any(|word| word & HINT != 0)), "{run:x?}");
        })));
        assert_eq!(table.unmap(&tables, range(page << 12, 2 << 12)).unwrap().bytes, 2 << 12);
    }
}
