//! A table against a map, its words by hand, and the rule of its sizes.

extern crate std;

use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::Mutex;

use portcullis_hal::{Barriers, BlockLayout, TableMemory};
use portcullis_types::{Pa, Perms, SizeLg2};
use proptest::prelude::*;

use super::*;

const KIB_4: SizeLg2 = SizeLg2::KIB_4;
const KIB_64: SizeLg2 = SizeLg2::KIB_64;
const MIB_16: SizeLg2 = size(24);
const GIB: u64 = 1 << 30;

const fn size(lg2: u8) -> SizeLg2 {
    match SizeLg2::new(lg2) {
        Some(size) => size,
        None => panic!("no such size"),
    }
}

/// Memory by bytes, as hardware reads it, that checks what it is asked and remembers what happened.
#[derive(Debug, Default)]
struct Memory {
    words: Mutex<BTreeMap<u64, u64>>,
    blocks: Mutex<BTreeMap<u64, BlockLayout>>,
    next: AtomicU64,
    live_bytes: AtomicU64,
    allocations: AtomicUsize,
    loads: AtomicUsize,
    /// Fails this allocation and all after it.
    fails_from: AtomicUsize,
    /// Whether zeroes of a new level may still be on their way.
    unsettled: AtomicBool,
}

impl Memory {
    fn new() -> Self {
        let memory = Self::default();
        memory.next.store(0x1_0000_0000, Relaxed);
        memory.fails_from.store(usize::MAX, Relaxed);
        memory
    }

    fn bytes(&self, at: u64) -> [u8; 8] {
        self.load(Pa::new(at)).to_le_bytes()
    }
}

impl TableMemory for Memory {
    fn alloc(&self, layout: BlockLayout) -> Option<Pa> {
        if self.allocations.fetch_add(1, Relaxed) >= self.fails_from.load(Relaxed) {
            return None;
        }
        let align = layout.align_bytes();
        let first = self.next.load(Relaxed).next_multiple_of(align);
        self.next.store(first + layout.size_bytes(), Relaxed);
        self.blocks.lock().unwrap().insert(first, layout);
        self.live_bytes.fetch_add(layout.size_bytes(), Relaxed);
        self.unsettled.store(true, Relaxed);
        Some(Pa::new(first))
    }

    fn free(&self, first: Pa, layout: BlockLayout) {
        assert_eq!(self.blocks.lock().unwrap().remove(&first.get()), Some(layout));
        self.live_bytes.fetch_sub(layout.size_bytes(), Relaxed);
        self.words
            .lock()
            .unwrap()
            .retain(|at, _| !(first.get()..first.get() + layout.size_bytes()).contains(at));
    }

    fn load(&self, at: Pa) -> u64 {
        self.loads.fetch_add(1, Relaxed);
        self.words.lock().unwrap().get(&at.get()).copied().unwrap_or(0)
    }

    fn store(&self, at: Pa, word: u64) {
        let blocks = self.blocks.lock().unwrap();
        let (first, layout) = blocks.range(..=at.get()).next_back().expect("a block");
        assert!(at.get() < first + layout.size_bytes(), "a store beside the tables");
        assert!(!self.unsettled.load(Relaxed), "a store while a new level's zeroes are on their way");
        self.words.lock().unwrap().insert(at.get(), word);
    }

    fn compare_exchange(&self, _: Pa, _: u64, _: u64) -> Result<u64, u64> {
        unreachable!("hardware changes no TCE")
    }

    fn clean_table(&self, _: Pa, _: u64) {}
}

impl Barriers for Memory {
    fn write_barrier(&self) {
        self.unsettled.store(false, Relaxed);
    }

    fn read_barrier(&self) {}

    fn full_barrier(&self) {}
}

fn shape(page: SizeLg2, window_bytes: u64, levels: u8) -> TceShape {
    TceShape::new(page, window_bytes, levels, KIB_4).unwrap()
}

fn page(pa: u64) -> TceEntry {
    TceEntry { pa: Pa::new(pa), perms: Perms::READ_WRITE, user: 0 }
}

#[test]
fn tces_are_big_endian_with_read_and_write_at_the_end() {
    let words = [
        (Perms::READ_WRITE, [0, 0, 0, 0, 0, 2, 0, 3]),
        (Perms::READ, [0, 0, 0, 0, 0, 2, 0, 1]),
        (Perms::WRITE, [0, 0, 0, 0, 0, 2, 0, 3]),
    ];
    for (perms, bytes) in words {
        assert_eq!(TceRaw::leaf(Pa::new(0x2_0000), perms), TceRaw(bytes));
    }
    let far = TceRaw([0x00, 0x03, 0xff, 0xff, 0xff, 0xff, 0x0f, 0xfd]);
    assert_eq!(far.decode(), Some((Pa::new(0x0003_ffff_ffff_0000), Perms::READ)));
    assert_eq!(TceRaw([0, 0, 0, 0, 0, 2, 0, 2]).decode(), Some((Pa::new(0x2_0000), Perms::WRITE)));
    assert_eq!(TceRaw([0, 0, 0, 0, 0, 2, 0, 0]).decode(), None);
    assert_eq!(TceRaw::level(Pa::new(0x1234_5000)), TceRaw([0, 0, 0, 0, 0x12, 0x34, 0x50, 0x03]));
}

#[test]
fn what_a_table_costs_is_what_was_observed() {
    let kib = |page, window, levels| shape(page, window, levels).accounted_bytes() >> 10;
    assert_eq!([1, 2, 3, 4].map(|levels| kib(KIB_64, GIB, levels)), [256, 264, 272, 280]);
    assert_eq!(kib(KIB_4, 2 * GIB, 1), 8192);
}

#[test]
fn levels_share_the_bits_and_the_next_one_too_many_is_refused() {
    let tib = 1u64 << 40;
    let level_lg2 = |levels| TceShape::new(KIB_64, tib, levels, KIB_4).map(TceShape::level_lg2);
    assert_eq!([1, 2, 3, 4].map(|levels| level_lg2(levels).unwrap()), [27, 15, 12, 12]);
    assert_eq!(level_lg2(5), Err(TceShapeError::TooDeep { level_lg2: 12, levels: 5 }));
    // A CPU with pages of 64 KiB has no smaller levels, and so fewer: 13 bits each.
    let wide = |levels| TceShape::new(KIB_64, tib, levels, KIB_64).map(TceShape::level_lg2);
    assert_eq!(wide(2), Ok(16));
    assert_eq!(wide(3), Err(TceShapeError::TooDeep { level_lg2: 16, levels: 3 }));
    assert_eq!(TceShape::new(KIB_4, GIB, 4, KIB_4).map(TceShape::levels), Ok(4));
    assert_eq!(
        TceShape::new(KIB_4, GIB, 5, KIB_4).unwrap_err(),
        TceShapeError::TooDeep { level_lg2: 12, levels: 5 }
    );
    assert_eq!(TceShape::new(MIB_16, GIB, 3, KIB_4).map(TceShape::level_lg2), Ok(12));
}

#[test]
fn windows_and_levels_that_make_no_sense_are_refused() {
    let new = |page, window, levels| TceShape::new(page, window, levels, KIB_4).unwrap_err();
    assert_eq!(new(KIB_4, 0, 1), TceShapeError::WindowSize(0));
    assert_eq!(new(KIB_4, 3 * GIB, 1), TceShapeError::WindowSize(3 * GIB));
    assert_eq!(new(MIB_16, 1 << 20, 1), TceShapeError::WindowSize(1 << 20));
    assert_eq!(new(KIB_4, GIB, 0), TceShapeError::Levels(0));
    assert_eq!(new(KIB_4, GIB, 6), TceShapeError::Levels(6));
    assert_eq!(new(size(11), GIB, 1), TceShapeError::PageSize(size(11)));
    assert_eq!(new(KIB_4, 1 << 63, 1), TceShapeError::TooDeep { level_lg2: 54, levels: 1 });
}

#[test]
fn hardware_finds_each_level_by_the_bits_of_its_height() {
    let memory = Memory::new();
    let mut table = TceTable::new(shape(KIB_64, 1 << 40, 4), false, &memory).unwrap();
    // Nine bits a level, the last in bits 24:16 of the address.
    let index = 0o012_345_670;
    table.map(&memory, index, Pa::new(0xabcd_0000), 1, Perms::READ_WRITE).unwrap();
    let mut at = table.root().get();
    for height in (1..4).rev() {
        let bytes = memory.bytes(at + 8 * (index >> (9 * height) & 0x1ff));
        assert_eq!(bytes[7], 3, "a level is read-write");
        at = u64::from_be_bytes(bytes) & !0xfff;
    }
    assert_eq!(memory.bytes(at + 8 * (index & 0x1ff)), [0, 0, 0, 0, 0xab, 0xcd, 0, 3]);
    assert_eq!(table.memory_bytes(), 4 * 4096);
    table.destroy(&memory);
}

#[test]
fn pages_of_every_size_that_such_bridges_have_are_found_by_every_number_of_levels() {
    // POWER8: 4K, 64K, 16M, 256M; its successors: 2M and 1G. The windows are of 2^21 pages, or as large as the rule allows.
    for (page_lg2, most) in [(12, 4), (16, 4), (21, 3), (24, 3), (28, 2), (30, 2)] {
        for levels in 1..=most {
            let memory = Memory::new();
            let pages_lg2 = if page_lg2 < 28 { 21 } else { 18 };
            let shape = shape(size(page_lg2), 1 << (pages_lg2 + page_lg2), levels);
            let mut table = TceTable::new(shape, true, &memory).unwrap();
            let (last, pa) = ((1 << pages_lg2) - 1, 5 << page_lg2);
            table.map(&memory, last, Pa::new(pa), 1, Perms::READ).unwrap();
            let bits = u32::from(shape.level_lg2()) - 3;
            let place = |height: u32| 8 * (last >> (bits * height) & ((1 << bits) - 1));
            let mut at = table.root().get();
            for height in (1..u32::from(levels)).rev() {
                at = u64::from_be_bytes(memory.bytes(at + place(height))) & !0xfff;
            }
            assert_eq!(u64::from_be_bytes(memory.bytes(at + place(0))), pa | 1, "{page_lg2} {levels}");
            assert_eq!(
                table.exchange(&memory, 0, Some(page(pa + 0x1000))),
                if page_lg2 == 12 { Ok(None) } else { Err(TceMapError::Misaligned(Pa::new(pa + 0x1000))) }
            );
            table.destroy(&memory);
            assert_eq!(memory.live_bytes.load(Relaxed), 0);
        }
        let next = TceShape::new(size(page_lg2), 1 << (18 + page_lg2), most + 1, KIB_4);
        assert!(matches!(next, Err(TceShapeError::TooDeep { .. })), "{page_lg2}");
    }
}

#[test]
fn the_rule_allows_no_fifth_level_whatever_the_page() {
    // Five levels of a CPU's page resolve 5 x 9 bits at least, and the smallest page has 12: more than 54.
    for page_lg2 in 12..=30 {
        for window_lg2 in page_lg2..=59 {
            let five = TceShape::new(size(page_lg2), 1 << window_lg2, 5, KIB_4);
            assert!(matches!(five, Err(TceShapeError::TooDeep { .. })), "{page_lg2} {window_lg2}");
        }
    }
}

#[test]
fn a_tebibyte_costs_memory_for_what_is_mapped_only() {
    let memory = Memory::new();
    let mut table = TceTable::new(shape(KIB_64, 1 << 40, 4), true, &memory).unwrap();
    assert_eq!(memory.live_bytes.load(Relaxed), 4096);
    // A gibibyte in the middle: 32 last levels, as many views, and the way there.
    table.map(&memory, 1 << 23, Pa::new(0x40_0000_0000), 1 << 14, Perms::READ).unwrap();
    assert_eq!(table.memory_bytes(), (3 + 32 + 32) * 4096);
    assert_eq!(memory.live_bytes.load(Relaxed), table.memory_bytes());
    assert_eq!(table.unmap(&memory, 0, 1 << 24, |_, _| ()), 1 << 14);
    table.destroy(&memory);
    assert_eq!(memory.live_bytes.load(Relaxed), 0);
}

#[test]
fn what_has_no_level_is_passed_over_as_a_whole() {
    // 4 PiB of 4 KiB pages have a billion last levels of 1024 entries each: of them two are there.
    let memory = Memory::new();
    let mut table = TceTable::new(shape(KIB_4, 1 << 52, 4), true, &memory).unwrap();
    let last = (1 << 40) - 1;
    for index in [5, last] {
        table.exchange(&memory, index, Some(page(0x8000))).unwrap();
    }
    memory.loads.store(0, Relaxed);
    let indexes = |first, end| table.next_below(&memory, first, end).map(|(index, _)| index);
    assert_eq!((table.next(&memory, 6).map(|(index, _)| index), indexes(6, last)), (Some(last), None));
    assert_eq!((indexes(0, 5), indexes(0, 6), indexes(5, u64::MAX)), (None, Some(5), Some(5)));
    assert_eq!(
        (indexes(last, last), indexes(last, u64::MAX), indexes(last + 1, u64::MAX)),
        (None, Some(last), None)
    );
    assert!(memory.loads.load(Relaxed) < 5 * 1024, "{} entries were looked at", memory.loads.load(Relaxed));
    // Each level that is not there takes all below it along.
    let mut levels = levels::Levels::new(shape(KIB_4, 1 << 52, 4), false, &memory).unwrap();
    levels.find_or_make(&memory, 5).unwrap();
    assert_eq!(levels.find(5), levels.find(1023));
    for lg2 in [10, 20, 30] {
        assert_eq!([0, 5].map(|more| levels.find((1 << lg2) + more)), [Err(2 << lg2); 2]);
    }
}

#[test]
fn an_exchange_answers_what_was_there_with_the_users_address() {
    let memory = Memory::new();
    let mut table = TceTable::new(shape(KIB_64, GIB, 2), true, &memory).unwrap();
    let first = TceEntry { user: 0x7fff_0000, ..page(0x10_0000) };
    let second = TceEntry { user: 0x7ffe_0000, perms: Perms::READ, ..page(0x20_0000) };
    assert_eq!(table.exchange(&memory, 700, Some(first)), Ok(None));
    assert_eq!(table.exchange(&memory, 700, Some(second)), Ok(Some(first)));
    assert_eq!((table.entry(&memory, 700), table.live()), (Some(second), 1));
    assert_eq!(table.next(&memory, 0), Some((700, second)));
    assert_eq!(table.exchange(&memory, 700, None), Ok(Some(second)));
    assert_eq!(table.exchange(&memory, 700, None), Ok(None));
    assert_eq!((table.live(), table.next(&memory, 0)), (0, None));
    assert_eq!(table.exchange(&memory, 1 << 14, None), Err(TceMapError::OutsideWindow(1 << 14)));
    table.destroy(&memory);
}

#[test]
fn a_word_that_nobody_stored_is_taken_out_and_the_count_does_not_wrap() {
    let memory = Memory::new();
    let mut table = TceTable::new(shape(KIB_4, 1 << 20, 1), false, &memory).unwrap();
    // A bit has flipped: it may be read.
    memory.store(Pa::new(table.root().get() + 8 * 3), 1u64.to_be());
    assert_eq!(table.exchange(&memory, 3, None).unwrap().map(|old| old.pa), Some(Pa::new(0)));
    assert_eq!((table.live(), table.next(&memory, 0)), (0, None));
    table.map(&memory, 5, Pa::new(0x8000), 1, Perms::READ_WRITE).unwrap();
    memory.store(Pa::new(table.root().get() + 8 * 4), 1u64.to_be());
    assert_eq!(table.unmap(&memory, 4, 1, |_, _| ()), 1);
    assert_eq!((table.live(), table.next(&memory, 0)), (0, Some((5, page(0x8000)))), "one is there still");
}

#[test]
fn what_does_not_fit_is_refused_and_nothing_is_mapped() {
    let memory = Memory::new();
    let mut table = TceTable::new(shape(KIB_64, GIB, 1), false, &memory).unwrap();
    let mut map = |first, pa, count, perms| table.map(&memory, first, Pa::new(pa), count, perms);
    assert_eq!(map(0x3fff, 0, 2, Perms::READ), Err(TceMapError::OutsideWindow(0x4000)));
    assert_eq!(map(u64::MAX, 0, 2, Perms::READ), Err(TceMapError::OutsideWindow(u64::MAX)));
    assert_eq!(map(0, 0x1000, 1, Perms::READ), Err(TceMapError::Misaligned(Pa::new(0x1000))));
    assert_eq!(map(0, 0, 1, Perms::empty()), Err(TceMapError::NoAccess));
    let high = 0xffff_ffff_ffff_0000;
    assert_eq!(map(0, high, 2, Perms::READ), Err(TceMapError::Misaligned(Pa::new(high))));
    map(5, 0x10_0000, 1, Perms::READ).unwrap();
    assert_eq!(map(0, 0x20_0000, 10, Perms::READ), Err(TceMapError::Mapped(5)));
    assert_eq!((table.live(), table.entry(&memory, 4)), (1, None));
    table.destroy(&memory);
}

#[test]
fn every_allocation_may_fail_and_nothing_is_mapped_or_lost() {
    let allocations = |memory: &Memory| {
        let Some(mut table) = TceTable::new(shape(KIB_4, 1 << 34, 3), true, memory) else { return false };
        let mapped = table.map(memory, 1000, Pa::new(0x10_0000), 2000, Perms::READ_WRITE);
        assert_eq!(table.live(), if mapped.is_ok() { 2000 } else { 0 });
        assert_eq!(table.next(memory, 0).is_some(), mapped.is_ok());
        table.destroy(memory);
        mapped.is_ok()
    };
    let calm = Memory::new();
    assert!(allocations(&calm));
    let count = calm.allocations.load(Relaxed);
    assert!(count > 10, "levels and views");
    for fails_from in 0..count {
        let memory = Memory::new();
        memory.fails_from.store(fails_from, Relaxed);
        assert!(!allocations(&memory), "allocation {fails_from} of {count}");
        assert_eq!(memory.live_bytes.load(Relaxed), 0);
    }
}

#[derive(Clone, Debug)]
enum Step {
    Map { first: u64, count: u64, pa: u64 },
    Unmap { first: u64, count: u64 },
    Exchange { index: u64, new: Option<(u64, u64)> },
}

fn step() -> impl Strategy<Value = Step> {
    // Near the ends of levels and of the window, so that runs cross both.
    let index = || prop_oneof![0u64..20, 500u64..530, 1015u64..1040, 8180u64..8200];
    prop_oneof![
        (index(), 0u64..600, 0u64..1000).prop_map(|(first, count, pa)| Step::Map { first, count, pa }),
        (index(), 0u64..1200).prop_map(|(first, count)| Step::Unmap { first, count }),
        (index(), proptest::option::of((0u64..1000, any::<u64>())))
            .prop_map(|(index, new)| Step::Exchange { index, new }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn a_table_is_a_map(
        steps in proptest::collection::vec(step(), 1..40),
        levels in 1u8..=4,
        view in any::<bool>(),
    ) {
        const ENTRIES: u64 = 8192;
        let memory = Memory::new();
        let mut table = TceTable::new(shape(KIB_4, ENTRIES << 12, levels), view, &memory).unwrap();
        let mut map: BTreeMap<u64, TceEntry> = BTreeMap::new();
        for step in steps {
            match step {
                Step::Map { first, count, pa } => {
                    let inside = first + count <= ENTRIES;
                    let taken = map.range(first..first + count).next().map(|(&index, _)| index);
                    let done = table.map(&memory, first, Pa::new(pa << 12), count, Perms::READ_WRITE);
                    match (inside, taken) {
                        (false, _) => prop_assert!(matches!(done, Err(TceMapError::OutsideWindow(_)))),
                        (true, Some(index)) => prop_assert_eq!(done, Err(TceMapError::Mapped(index))),
                        (true, None) => {
                            prop_assert_eq!(done, Ok(()));
                            map.extend((0..count).map(|at| (first + at, page((pa + at) << 12))));
                        }
                    }
                }
                Step::Unmap { first, count } => {
                    let mut taken = Vec::new();
                    let found = table.unmap(&memory, first, count, |index, entry| taken.push((index, entry)));
                    let gone: Vec<_> = map.range(first..first + count).map(|(&at, &entry)| (at, entry)).collect();
                    map.retain(|at, _| !(first..first + count).contains(at));
                    prop_assert_eq!(found, gone.len() as u64);
                    prop_assert_eq!(taken, gone);
                }
                Step::Exchange { index, new } => {
                    let user = |user| if view { user } else { 0 };
                    let new = new.map(|(pa, by)| TceEntry { user: user(by), ..page(pa << 12) });
                    let old = table.exchange(&memory, index, new);
                    if index >= ENTRIES {
                        prop_assert_eq!(old, Err(TceMapError::OutsideWindow(index)));
                        continue;
                    }
                    let before = match new {
                        Some(new) => map.insert(index, new),
                        None => map.remove(&index),
                    };
                    prop_assert_eq!(old, Ok(before));
                }
            }
            prop_assert_eq!(table.live(), map.len() as u64);
        }
        let mut found = BTreeMap::new();
        let mut from = 0;
        while let Some((index, entry)) = table.next(&memory, from) {
            found.insert(index, entry);
            from = index + 1;
        }
        prop_assert_eq!(found, map);
        table.destroy(&memory);
        prop_assert_eq!(memory.live_bytes.load(Relaxed), 0);
    }
}
