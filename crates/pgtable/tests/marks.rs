//! Part 19: marks that hardware sets while software reads, clears, sets and takes out.

mod support;

use core::cell::Cell;

use portcullis_hal::{Barriers, BlockLayout, TableMemory};
use portcullis_pgtable::arm::{Config, HardwareUpdate, Stage1};
use portcullis_pgtable::{Marks, PageTable};
use portcullis_types::{Iova, IovaRange, Pa, PageSizes, SizeLg2};
use support::{RW, Tables};

const PAGE: u64 = 0x1000;
const AT: u64 = 0x40_0000;

fn table(mem: &Tables, page_sizes: PageSizes) -> PageTable<Stage1> {
    let hardware_update = HardwareUpdate::AccessAndDirty;
    let config = Config { hardware_update, page_sizes, ..Config::new(SizeLg2::KIB_4) };
    PageTable::new(Stage1::new(config).unwrap(), mem).unwrap()
}

fn range(first: u64, len: u64) -> IovaRange {
    IovaRange::new(Iova::new(first), len).unwrap()
}

/// Hardware that makes the next leaf dirty which software is about to change, between its look and its change.
struct Racing<'a> {
    mem: &'a Tables,
    /// How often yet.
    times: Cell<u32>,
}

/// Tables are shared between threads, by their trait.
struct Shared<'a>(std::sync::Mutex<Racing<'a>>);

impl<'a> Shared<'a> {
    fn new(mem: &'a Tables, times: u32) -> Self {
        Self(std::sync::Mutex::new(Racing { mem, times: Cell::new(times) }))
    }

    fn mem(&self) -> &'a Tables {
        self.0.lock().unwrap().mem
    }
}

impl TableMemory for Shared<'_> {
    fn alloc(&self, layout: BlockLayout) -> Option<Pa> {
        self.mem().alloc(layout)
    }
    fn free(&self, first: Pa, layout: BlockLayout) {
        self.mem().free(first, layout);
    }
    fn load(&self, at: Pa) -> u64 {
        self.mem().load(at)
    }
    fn store(&self, at: Pa, word: u64) {
        self.race(at);
        self.mem().store(at, word);
    }
    fn compare_exchange(&self, at: Pa, current: u64, new: u64) -> Result<u64, u64> {
        self.race(at);
        self.mem().compare_exchange(at, current, new)
    }
    fn clean_table(&self, at: Pa, len_bytes: u64) {
        self.mem().clean_table(at, len_bytes);
    }
}

impl Shared<'_> {
    /// DBM 51, AF 10, AP[2] 7.
    fn race(&self, at: Pa) {
        let racing = self.0.lock().unwrap();
        let word = racing.mem.load(at);
        if racing.times.get() > 0 && word & 1 << 51 != 0 {
            racing.times.set(racing.times.get() - 1);
            racing.mem.store(at, word & !(1 << 7) | 1 << 10);
        }
    }
}

impl Barriers for Shared<'_> {
    fn write_barrier(&self) {
        self.mem().write_barrier();
    }
    fn read_barrier(&self) {}
    fn full_barrier(&self) {
        self.mem().write_barrier();
    }
}

#[test]
fn part_19_leaves_are_made_with_the_marks_that_are_wanted_and_tell_them() {
    let mem = Tables::default();
    let mut table = table(&mem, PageSizes::default());
    let marks = [Marks::NONE, Marks::CLEAN, Marks::USED];
    for (nth, marks) in (0u64..).zip(marks) {
        let (iova, pa) = (Iova::new(AT + nth * PAGE), Pa::new(nth * PAGE));
        table.map_marked(&mem, iova, pa, PAGE, RW, marks).unwrap();
        assert_eq!(table.marks(&mem, iova), Some(marks));
        assert_eq!(table.lookup(&mem, iova).unwrap().prot, RW, "they say nothing of what is allowed");
    }
    assert_eq!(table.marks(&mem, Iova::new(AT + 3 * PAGE)), None);
    assert_eq!(table.set_marks(&mem, Iova::new(AT), Marks::CLEAN), Some(Marks::NONE));
    assert_eq!(table.set_marks(&mem, Iova::new(AT), Marks::NONE), Some(Marks::CLEAN), "marks are only added");
    assert_eq!(table.set_marks(&mem, Iova::new(AT + 3 * PAGE), Marks::USED), None);
    assert!(!mem.has_pending());
}

#[test]
fn part_19_marks_are_cleared_leaf_by_leaf_and_only_those_that_are_meant() {
    let mem = Tables::default();
    let mut table = table(&mem, PageSizes::from_bits(u64::MAX));
    table.map(&mem, Iova::new(AT), Pa::new(0x40_0000), 0x20_0000, RW).unwrap();
    table.map(&mem, Iova::new(AT + 0x20_0000), Pa::new(0), 2 * PAGE, RW).unwrap();
    let mut told = Vec::new();
    let dirty = Marks { accessed: false, dirty: true };
    let mut clear = |table: &mut PageTable<Stage1>, range, which| {
        told.clear();
        table.clear_marks(&mem, range, which, |range, marks| told.push((range, marks)));
        told.clone()
    };
    let all = range(AT, 0x40_0000);
    let block = range(AT, 0x20_0000);
    let page = |nth| range(AT + 0x20_0000 + nth * PAGE, PAGE);
    assert_eq!(clear(&mut table, page(1), dirty), [(page(1), dirty)]);
    assert_eq!(clear(&mut table, all, dirty), [(block, dirty), (page(0), dirty)]);
    assert_eq!(clear(&mut table, all, dirty), []);
    assert_eq!(table.marks(&mem, Iova::new(AT)), Some(Marks::CLEAN));
    let access = Marks::CLEAN;
    assert_eq!(clear(&mut table, all, Marks::USED), [(block, access), (page(0), access), (page(1), access)]);
    assert_eq!(table.marks(&mem, Iova::new(AT)), Some(Marks::NONE));
    assert!(!mem.has_pending());
}

#[test]
fn part_19_a_mark_that_hardware_sets_in_between_is_not_lost() {
    let mem = Tables::default();
    let dirty = Marks { accessed: false, dirty: true };
    // What software does first sees a clean leaf, and its change meets a dirty one.
    let mut table = table(&mem, PageSizes::default());
    let map = |table: &mut PageTable<Stage1>, iova| {
        table.map_marked(&mem, Iova::new(iova), Pa::new(0), PAGE, RW, Marks::NONE).unwrap();
    };
    map(&mut table, AT);
    let racing = Shared::new(&mem, 1);
    table.clear_marks(&racing, range(AT, PAGE), Marks { accessed: true, dirty: false }, |_, _| {});
    assert_eq!(table.marks(&mem, Iova::new(AT)), Some(Marks::NONE), "nothing was to be changed");
    let racing = Shared::new(&mem, 1);
    assert_eq!(table.set_marks(&racing, Iova::new(AT), Marks::CLEAN), Some(Marks::USED));
    assert_eq!(table.marks(&mem, Iova::new(AT)), Some(Marks::USED));
    // Accessed is cleared of a clean leaf that becomes dirty meanwhile.
    table.clear_marks(&mem, range(AT, PAGE), dirty, |_, _| {});
    let racing = Shared::new(&mem, 1);
    table.clear_marks(&racing, range(AT, PAGE), Marks::CLEAN, |_, _| {});
    assert_eq!(table.marks(&mem, Iova::new(AT)), Some(dirty));
    // One is taken out, with a neighbour that keeps its table alive and without.
    for neighbour in [true, false] {
        if neighbour {
            map(&mut table, AT + PAGE);
        }
        table.clear_marks(&mem, range(AT, PAGE), Marks::USED, |_, _| {});
        let racing = Shared::new(&mem, 1);
        let mut told = Vec::new();
        let gone = table.unmap_marked(&racing, range(AT, PAGE), |range, marks| told.push((range, marks)));
        assert_eq!(told, [(range(AT, PAGE), Marks::USED)]);
        gone.unwrap().retired.free(table.format(), &mem);
        map(&mut table, AT);
        if neighbour {
            let gone = table.unmap(&mem, range(AT + PAGE, PAGE)).unwrap();
            gone.retired.free(table.format(), &mem);
        }
    }
}

#[test]
fn part_19_a_block_that_is_taken_out_or_split_loses_no_mark() {
    let mem = Tables::default();
    let mut table = table(&mem, PageSizes::from_bits(u64::MAX));
    let block = range(AT, 0x20_0000);
    table.map_marked(&mem, Iova::new(AT), Pa::new(0), 0x20_0000, RW, Marks::NONE).unwrap();
    let racing = Shared::new(&mem, 1);
    let mut told = Vec::new();
    let gone = table.unmap_marked(&racing, block, |range, marks| told.push((range, marks))).unwrap();
    assert_eq!(told, [(block, Marks::USED)]);
    gone.retired.free(table.format(), &mem);
    table.map_marked(&mem, Iova::new(AT), Pa::new(0), 0x20_0000, RW, Marks::NONE).unwrap();
    let racing = Shared::new(&mem, 1);
    let gone = table.unmap(&racing, range(AT, PAGE)).unwrap();
    gone.retired.free(table.format(), &mem);
    assert_eq!(table.marks(&mem, Iova::new(AT + PAGE)), Some(Marks::USED), "what it may have been");
}
