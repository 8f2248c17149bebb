//! One suite, every format: what holds for any page table holds for each of these.

mod support;

use std::collections::BTreeMap;

use portcullis_pgtable::arm::{Config, Stage1, Stage2};
use portcullis_pgtable::vtd::{FirstConfig, FirstStage, SecondConfig, SecondStage};
use portcullis_pgtable::{BreakBeforeMake, Format, MapError, PageTable, UnmapError};
use portcullis_types::{Cacheability, Iova, Pa, PageSizes, Perms, Prot, SizeLg2};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use support::{AsIs, RW, Tables, Walker, every_format, range};

fn every_prot() -> Vec<Prot> {
    let kinds = [Cacheability::Cached, Cacheability::Uncached, Cacheability::Device];
    let of = |bits| kinds.map(|cacheability| Prot { perms: Perms::from_bits(bits).unwrap(), cacheability });
    (0..16).flat_map(of).collect()
}

#[test]
fn every_permission_is_said_or_refused() {
    every_format!(permissions);
}

fn permissions<F: Format>(format: F) {
    let tables = Tables::default();
    let mut table = PageTable::new(format, &tables).unwrap();
    let page = table.format().geometry().granule().bytes();
    for (index, prot) in (1..).zip(every_prot()) {
        let iova = Iova::new(index * page);
        let mapped = table.map(&tables, iova, Pa::new(index * page), page, prot);
        let found = table.lookup(&tables, iova).map(|translation| translation.prot);
        if !prot.perms.intersects(Perms::READ_WRITE) {
            assert_eq!(mapped, Err(MapError::Unsupported(prot)), "a mapping for nothing");
        }
        let Some(found) = found else {
            assert_eq!(mapped, Err(MapError::Unsupported(prot)));
            continue;
        };
        assert_eq!(mapped, Ok(()));
        // Stage 1, and a first stage, cannot say "write only". Nothing else may be added, and nothing lost.
        let added = found.perms - prot.perms;
        let widened = added == Perms::READ && prot.perms.contains(Perms::WRITE);
        assert!(added.is_empty() || widened, "{prot:?} {found:?}");
        assert_eq!((found.perms & prot.perms, found.cacheability), (prot.perms, prot.cacheability));
    }
    table.destroy(&tables);
    assert_eq!(tables.live_blocks(), 0);
}

#[test]
fn what_a_stage_cannot_say_is_refused_and_nothing_else() {
    let config = Config::new(SizeLg2::KIB_4);
    let (one, two) = (Stage1::new(config).unwrap(), Stage2::new(config).unwrap());
    for prot in every_prot() {
        let says = |perm| prot.perms.contains(perm);
        let something = says(Perms::READ) || says(Perms::WRITE);
        assert_eq!(one.attributes(prot).is_some(), something, "{prot:?}");
        let two_can = something && !says(Perms::PRIVILEGED) && (says(Perms::READ) || !says(Perms::EXECUTE));
        assert_eq!(two.attributes(prot).is_some(), two_can, "{prot:?}");
    }
}

#[test]
fn what_the_stages_of_x86_cannot_say_is_refused_and_nothing_else() {
    let (one, two) =
        (FirstStage::new(FirstConfig::new(4)).unwrap(), SecondStage::new(SecondConfig::new(4)).unwrap());
    for prot in every_prot() {
        let says = |perm| prot.perms.contains(perm);
        let something = says(Perms::READ) || says(Perms::WRITE);
        assert_eq!(one.attributes(prot).is_some(), something, "{prot:?}");
        let two_can = something && !says(Perms::PRIVILEGED) && !says(Perms::EXECUTE);
        assert_eq!(two.attributes(prot).is_some(), two_can, "{prot:?}");
    }
}

#[test]
fn the_last_page_can_be_mapped_and_the_next_one_not() {
    every_format!(ends);
}

fn ends<F: Format>(format: F) {
    let tables = Tables::default();
    let mut table = PageTable::new(format, &tables).unwrap();
    let page = table.format().geometry().granule().bytes();
    let last = table.aperture().last().get();
    let top = Iova::new(last + 1 - page);
    let last_output = (1 << table.format().output_bits()) - page;
    assert_eq!(table.map(&tables, top, Pa::new(last_output), page, RW), Ok(()));
    let walker = Walker::new(table.format(), table.root());
    assert_eq!(walker.now(&tables, last), Some(last_output + page - 1));
    assert_eq!(table.lookup(&tables, Iova::new(last)).unwrap().pa, Pa::new(last_output + page - 1));
    assert_eq!(table.map(&tables, top, Pa::new(0), page, RW), Err(MapError::Mapped(top)));
    let beyond = Iova::new(last + 1);
    for (iova, len) in [(beyond, page), (top, 2 * page)] {
        assert_eq!(table.map(&tables, iova, Pa::new(0), len, RW), Err(MapError::OutsideAperture(beyond)));
    }
    assert_eq!(table.lookup(&tables, beyond), None);
    let too_high = table.map(&tables, Iova::new(0), Pa::new(last_output), 2 * page, RW);
    assert_eq!(too_high, Err(MapError::OutputTooLarge(Pa::new(last_output + page))));
    assert_eq!(table.map(&tables, Iova::new(0), Pa::new(0), 0, RW), Err(MapError::BadLength));
    let wraps = table.map(&tables, Iova::new(0u64.wrapping_sub(page)), Pa::new(0), 2 * page, RW);
    assert_eq!(wraps, Err(MapError::BadLength));
    for (iova, pa, len) in [(page / 2, 0, page), (0, page / 2, page), (0, 0, page / 2)] {
        let granule = table.format().geometry().granule();
        let odd = table.map(&tables, Iova::new(iova), Pa::new(pa), len, RW);
        assert_eq!(odd, Err(MapError::Misaligned { value: page / 2, granule }));
    }
    assert!(matches!(table.unmap(&tables, range(0, page / 2)), Err(UnmapError::Misaligned { .. })));
    let past = table.unmap(&tables, range(top.get(), 2 * page)).map(|gone| gone.bytes);
    assert_eq!(past, Err(UnmapError::OutsideAperture(beyond)));
    let gone = table.unmap(&tables, range(top.get(), page)).unwrap();
    assert_eq!((gone.bytes, gone.leaf), (page, Some(table.format().geometry().granule())));
    gone.retired.free(table.format(), &tables);
    assert_eq!(tables.live_blocks(), 1, "only the root is left");
    table.destroy(&tables);
}

#[test]
fn the_root_lies_on_a_multiple_of_its_size() {
    every_format!(root);
}

fn root<F: Format>(format: F) {
    let tables = Tables::default();
    // So that alignment does not come for free.
    for lg2 in [6, 12] {
        portcullis_hal::TableMemory::alloc(&tables, portcullis_hal::BlockLayout::naturally_aligned(lg2))
            .unwrap();
    }
    let table = PageTable::new(format, &tables).unwrap();
    let geometry = table.format().geometry();
    let bytes = 8 * geometry.entries(geometry.top());
    assert!(table.root().is_aligned(bytes.max(64)));
    let whole = table.format().contiguous_bit() == 0;
    assert!(!whole || table.root().is_aligned(4096), "hardware of x86 takes roots that are whole pages");
}

#[test]
fn the_largest_leaf_that_fits_is_used() {
    every_format!(blocks);
}

fn blocks<F: Format>(format: F) {
    let tables = Tables::default();
    let mut table = PageTable::new(format, &tables).unwrap();
    let page = table.format().geometry().granule();
    let limit = table.aperture().last().get().min((1 << table.format().output_bits()) - 1);
    for size in table.page_sizes().iter().filter(|size| size.bytes() * 2 - 1 <= limit) {
        let at = size.bytes();
        let before = tables.live_blocks();
        table.map(&tables, Iova::new(at), Pa::new(at), at, RW).unwrap();
        assert_eq!(table.lookup(&tables, Iova::new(at + at / 2)).map(|found| found.size), Some(size));
        assert!(tables.live_blocks() - before <= usize::from(table.format().geometry().top()));
        let gone = table.unmap(&tables, range(at, at)).unwrap();
        assert_eq!((gone.bytes, gone.leaf), (at, Some(size)));
        gone.retired.free(table.format(), &tables);
        // With the output one page off, no block fits. As many pages as 1 GiB has take a while, so not in every configuration.
        let most = if table.format().geometry().input_bits() == 39 { 1 << 30 } else { 1 << 29 };
        if size > page && size.bytes() <= most && at * 2 + page.bytes() <= limit {
            table.map(&tables, Iova::new(at), Pa::new(at + page.bytes()), at, RW).unwrap();
            assert_eq!(table.lookup(&tables, Iova::new(at)).map(|found| found.size), Some(page));
            table.unmap(&tables, range(at, at)).unwrap().retired.free(table.format(), &tables);
        }
    }
    assert_eq!(tables.live_blocks(), 1);
}

#[test]
fn sizes_that_are_not_wanted_are_not_used() {
    let config = Config { page_sizes: PageSizes::default(), ..Config::new(SizeLg2::KIB_4) };
    let tables = Tables::default();
    let mut table = PageTable::new(Stage1::new(config).unwrap(), &tables).unwrap();
    table.map(&tables, Iova::new(0), Pa::new(0), 4 << 20, RW).unwrap();
    assert_eq!(table.lookup(&tables, Iova::new(0)).map(|found| found.size), Some(SizeLg2::KIB_4));
    assert_eq!(table.page_sizes(), PageSizes::from_bits(0x1000));
}

/// A step of a random run, in pages of a window.
#[derive(Clone, Debug)]
struct Op {
    map: bool,
    first: u64,
    pages: u64,
    /// How far the output lies above the input.
    shift: u64,
    prot: usize,
    /// Which of the outstanding tables are freed after it, if any.
    free: usize,
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let shift = prop_oneof![Just(0), 0..4u64, Just(0x200), Just(0x2000)];
    let pages = prop_oneof![1..8u64, 1..600u64, Just(512), Just(2048)];
    let first = prop_oneof![0..3000u64, (0..6u64).prop_map(|nth| nth * 512)];
    let op = (any::<bool>(), first, pages, shift, 0..4usize, 0..4usize);
    let op =
        op.prop_map(|(map, first, pages, shift, prot, free)| Op { map, first, pages, shift, prot, free });
    proptest::collection::vec(op, 1..16)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3, failure_persistence: None, rng_seed: RngSeed::Fixed(2), ..ProptestConfig::default() })]

    #[test]
    fn any_sequence_agrees_with_a_map_of_pages(ops in ops()) {
        every_format!(oracle, &ops);
    }
}

fn oracle<F: Format>(format: F, ops: &[Op]) {
    let tables = Tables::default();
    let mut table = PageTable::new(format, &tables).unwrap();
    let walker = Walker::new(table.format(), table.root());
    let page_lg2 = table.format().geometry().granule().get();
    let page = 1 << page_lg2;
    let aperture_pages = (table.aperture().last().get() >> page_lg2) + 1;
    let output_pages = 1 << (table.format().output_bits() - page_lg2);
    // Ends at the end of the aperture, or of what the output can say.
    let base = aperture_pages.min(output_pages - 0x4000.min(output_pages / 2)).saturating_sub(5000) & !0x7ff;
    let prots = [
        RW,
        Prot::cached(Perms::READ),
        Prot::device(Perms::READ_WRITE),
        // Or, where that cannot be said, what can.
        Some(Prot::uncached(Perms::READ | Perms::EXECUTE))
            .filter(|&prot| table.format().attributes(prot).is_some())
            .unwrap_or(Prot::uncached(Perms::WRITE)),
    ];
    let mut pages: BTreeMap<u64, (u64, Prot)> = BTreeMap::new();
    let mut outstanding = Vec::new();
    for op in ops {
        let first = base + op.first;
        let count = op.pages.min(aperture_pages.saturating_sub(first));
        if count == 0 {
            continue;
        }
        if op.map {
            let (output, prot) = (first + op.shift, prots[op.prot]);
            let free = pages.range(first..first + count).next();
            match table.map(&tables, Iova::new(first * page), Pa::new(output * page), count * page, prot) {
                Ok(()) => {
                    assert_eq!(free, None);
                    pages.extend((0..count).map(|n| (first + n, (output + n, prot))));
                }
                Err(MapError::Mapped(at)) => assert_eq!(Some(&(at.get() / page)), free.map(|(held, _)| held)),
                Err(MapError::OutputTooLarge(_)) => assert!(output + count > output_pages),
                Err(error) => panic!("{error:?}"),
            }
        } else {
            let held = pages.range(first..first + count).count() as u64;
            match table.unmap(&tables, range(first * page, count * page)) {
                Ok(gone) => {
                    pages.retain(|&at, _| !(first..first + count).contains(&at));
                    assert_eq!((gone.bytes, gone.leaf.is_some()), (held * page, held > 0));
                    assert!(gone.tables || gone.retired.is_empty());
                    outstanding.push(gone.retired);
                }
                Err(UnmapError::WouldSplit { iova, size }) => {
                    assert!(table.format().break_before_make() != BreakBeforeMake::Never);
                    let block = range(iova.get(), size.bytes());
                    assert!(block.overlaps(range(first * page, count * page)));
                    assert!(!range(first * page, count * page).covers(block));
                }
                Err(error) => panic!("{error:?}"),
            }
        }
        if op.free < outstanding.len() {
            outstanding.swap_remove(op.free).free(table.format(), &tables);
        }
        assert!(!tables.has_pending(), "hardware sees everything on return");
        assert!(table.format().coherent() || !tables.has_dirty(), "and also where it does not snoop");
    }
    for at in base..(base + 5100).min(aperture_pages) {
        let found = table.lookup(&tables, Iova::new(at * page));
        let found = found.map(|found| (found.pa.get() / page, found.prot));
        assert_eq!(found, pages.get(&at).copied(), "page {at:#x}");
        assert_eq!(walker.now(&tables, at * page), found.map(|(output, _)| output * page), "page {at:#x}");
    }
    let all = table.unmap(&tables, table.aperture()).unwrap();
    assert_eq!(all.bytes, pages.len() as u64 * page);
    outstanding.push(all.retired);
    outstanding.into_iter().for_each(|retired| retired.free(table.format(), &tables));
    assert_eq!(tables.live_blocks(), 1, "every table but the root is back");
    table.destroy(&tables);
    assert_eq!(tables.live_blocks(), 0);
}

#[test]
fn a_run_of_pages_goes_on_where_the_address_leaves_its_field() {
    every_format!(over_the_field);
}

fn over_the_field<F: Format>(format: F) {
    if format.output_bits() < 52 {
        return;
    }
    // 47:16 with 64 KiB granules, 49:12 with large descriptors; the rest of the address lies elsewhere in the word.
    for boundary in [48, 49, 50, 51] {
        let tables = Tables::default();
        let mut table = PageTable::new(AsIs(&format), &tables).unwrap();
        let page = format.geometry().granule().bytes();
        let first = (1 << boundary) - 3 * page;
        table.map(&tables, Iova::new(page), Pa::new(first), 6 * page, RW).unwrap();
        let walker = Walker::new(table.format(), table.root());
        for nth in 0..6 {
            assert_eq!(walker.now(&tables, (nth + 1) * page), Some(first + nth * page));
            let found = table.lookup(&tables, Iova::new((nth + 1) * page)).unwrap();
            assert_eq!((found.pa, found.prot), (Pa::new(first + nth * page), RW));
        }
    }
}
