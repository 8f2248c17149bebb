//! TCE tables: 1 GiB in pages of 64 KiB, and a window of 1 TiB on demand.
//!
//! 1 GiB: 16,384 entries of an empty table, its levels made on the way. In one call, as the kernel maps what lies in one piece; entry by
//! entry by exchange, with the user's view, as a container maps pinned pages. Beside them the floor: the same words stored by a bare loop into a
//! flat table that is there already, with nothing looked at and nothing remembered.
//! 1 TiB: the most levels that the rule allows; memory before anything is mapped, with 1 GiB mapped in the middle, and with 1,024 pages far from each other.
//!
//! Bars: under 10 ns an entry, both ways; memory within the levels that what is mapped needs.

use core::hint::black_box;
use core::sync::atomic::{AtomicU64, Ordering::Release, fence};
use std::process::ExitCode;
use std::time::Instant;

use portcullis_hal::{Arena, Barriers, BlockLayout, TableMemory};
use portcullis_pgtable::tce::{TceEntry, TceRaw, TceShape, TceTable};
use portcullis_types::{Pa, Perms, SizeLg2};

const GIB: u64 = 1 << 30;
const TIB: u64 = 1 << 40;
const PAGE: u64 = 1 << 16;
const ENTRIES: u64 = GIB / PAGE;
const BAR_NS: f64 = 10.0;

fn main() -> ExitCode {
    let floor = best(20, floor_ns);
    println!("1 GiB of 64 KiB TCEs, bare stores, ns an entry: {floor:.2}");
    let mut fast = true;
    for levels in 1..=4 {
        for (what, found) in [
            ("one call", best(20, || map_ns(levels))),
            ("exchange, with the user's view", best(20, || exchange_ns(levels))),
        ] {
            println!(
                "1 GiB of 64 KiB TCEs by {levels} levels, {what}, ns an entry: {found:.2} (bar: {BAR_NS})"
            );
            fast &= found < BAR_NS;
        }
    }
    let small = on_demand();
    if fast && small { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn shape(window_bytes: u64, levels: u8) -> TceShape {
    TceShape::new(SizeLg2::KIB_64, window_bytes, levels, SizeLg2::KIB_4).expect("a legal shape")
}

fn floor_ns() -> f64 {
    let memory = Memory::new();
    let at = memory.alloc(BlockLayout::naturally_aligned(17)).expect("memory");
    per_entry(|| {
        for entry in 0..ENTRIES {
            let TceRaw(bytes) = TceRaw::leaf(Pa::new(GIB + entry * PAGE), Perms::READ_WRITE);
            memory.store(Pa::new(at.get() + 8 * entry), u64::from_le_bytes(bytes));
        }
        black_box(&memory);
    })
}

fn map_ns(levels: u8) -> f64 {
    let memory = Memory::new();
    let mut table = TceTable::new(shape(GIB, levels), false, &memory).expect("memory");
    let ns = per_entry(|| {
        table.map(&memory, 0, Pa::new(GIB), ENTRIES, Perms::READ_WRITE).expect("nothing is mapped");
    });
    assert_eq!(table.live(), ENTRIES);
    let last = table.entry(&memory, ENTRIES - 1).expect("it is mapped");
    assert_eq!(last.pa, Pa::new(2 * GIB - PAGE));
    ns
}

fn exchange_ns(levels: u8) -> f64 {
    let memory = Memory::new();
    let mut table = TceTable::new(shape(GIB, levels), true, &memory).expect("memory");
    let page = |index| TceEntry {
        pa: Pa::new(GIB + index * PAGE),
        perms: Perms::READ_WRITE,
        user: 0x7000_0000_0000 + index * PAGE,
    };
    let ns = per_entry(|| {
        for index in 0..ENTRIES {
            let old = table.exchange(&memory, index, Some(page(index))).expect("memory");
            assert!(old.is_none());
        }
    });
    assert_eq!(table.entry(&memory, ENTRIES - 1), Some(page(ENTRIES - 1)));
    ns
}

/// Prints what a window of 1 TiB costs, and answers whether that is in proportion.
fn on_demand() -> bool {
    let memory = Memory::new();
    let mut table = TceTable::new(shape(TIB, 4), true, &memory).expect("memory");
    let mut fits = true;
    let mut row = |what: &str, table: &TceTable, most: u64| {
        println!("1 TiB of 64 KiB TCEs by 4 levels, {what}: {} bytes (at most {most})", table.memory_bytes());
        fits &= table.memory_bytes() <= most && memory.0.live_bytes() == table.memory_bytes();
    };
    row("empty", &table, 4096);
    table.map(&memory, (TIB / 2) / PAGE, Pa::new(GIB), ENTRIES, Perms::READ).expect("nothing is mapped");
    // 32 last levels and their views, two on the way, and the first.
    row("1 GiB mapped", &table, (2 * 32 + 3) * 4096);
    table.destroy(&memory);
    let mut table = TceTable::new(shape(TIB, 4), true, &memory).expect("memory");
    for far in 0..1024 {
        table
            .map(&memory, far * (TIB / 1024) / PAGE, Pa::new(GIB), 1, Perms::READ)
            .expect("nothing is mapped");
    }
    // Each page has a last level and a view; 64 levels above them, one above those, and the first.
    row("1,024 pages, a GiB apart", &table, (2 * 1024 + 64 + 2) * 4096);
    table.destroy(&memory);
    fits && memory.0.live_bytes() == 0
}

/// The best of some runs, because the machine has other things to do.
fn best(runs: usize, mut run: impl FnMut() -> f64) -> f64 {
    (0..runs).map(|_| run()).fold(f64::INFINITY, f64::min)
}

#[expect(clippy::cast_precision_loss, reason = "runs take seconds at most")]
fn per_entry(work: impl FnOnce()) -> f64 {
    let start = Instant::now();
    work();
    start.elapsed().as_nanos() as f64 / ENTRIES as f64
}

/// A pool, and barriers as a coherent machine needs them.
struct Memory(Arena<spin::Mutex<()>, Box<[AtomicU64]>>);

impl Memory {
    fn new() -> Self {
        Self(Arena::on_heap(Pa::new(0x4000_0000), 24))
    }
}

impl TableMemory for Memory {
    fn alloc(&self, layout: BlockLayout) -> Option<Pa> {
        self.0.alloc(layout)
    }

    fn free(&self, first: Pa, layout: BlockLayout) {
        self.0.free(first, layout);
    }

    fn load(&self, at: Pa) -> u64 {
        self.0.load(at)
    }

    fn store(&self, at: Pa, word: u64) {
        self.0.store(at, word);
    }

    fn compare_exchange(&self, at: Pa, current: u64, new: u64) -> Result<u64, u64> {
        self.0.compare_exchange(at, current, new)
    }

    fn clean_table(&self, _: Pa, _: u64) {}
}

impl Barriers for Memory {
    fn write_barrier(&self) {
        fence(Release);
    }

    fn read_barrier(&self) {}

    fn full_barrier(&self) {}
}
