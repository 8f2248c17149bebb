//! Table memory that hands out each address once, fails on demand, and shows what hardware may see; and a walker of its own.
#![allow(
    dead_code,
    unused_imports,
    unused_macros,
    clippy::allow_attributes,
    reason = "each test file uses its part of this"
)]

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard};

use portcullis_hal::{Barriers, BlockLayout, TableMemory};
use portcullis_pgtable::arm::Config;
use portcullis_pgtable::vtd::{FirstConfig, SecondConfig};
use portcullis_pgtable::{BreakBeforeMake, Format, Geometry, Item};
use portcullis_types::{Iova, IovaRange, Pa, PageSizes, Perms, Prot, SizeLg2};

pub(crate) const RW: Prot = Prot::cached(Perms::READ_WRITE);
pub(crate) const BASE: u64 = 0x1000_0000;
/// What a block holds for hardware until its zeroes are visible: a descriptor that leads nowhere good.
const GARBAGE: u64 = 0x0000_dead_beef_0003;

/// Called before a store, with what hardware sees if that store overtakes all that wait for a barrier.
pub(crate) type Watcher = Box<dyn Fn(&dyn Fn(u64) -> u64) + Send>;

#[derive(Default)]
struct State {
    /// As the CPU sees them, from `BASE` on.
    words: Vec<u64>,
    /// As hardware sees them.
    visible: Vec<u64>,
    /// Stored since the last barrier.
    pending: Vec<usize>,
    /// Stored, and not cleaned since.
    dirty: Vec<bool>,
    dirty_count: usize,
    live: BTreeMap<u64, BlockLayout>,
    until_failure: Option<usize>,
    allocations: usize,
    watcher: Option<Watcher>,
}

impl State {
    fn clean(&mut self, words: core::ops::Range<usize>) {
        for dirty in &mut self.dirty[words] {
            self.dirty_count -= usize::from(core::mem::take(dirty));
        }
    }
}

#[derive(Default)]
pub(crate) struct Tables(Mutex<State>);

impl Tables {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    pub(crate) fn live_blocks(&self) -> usize {
        self.state().live.len()
    }

    pub(crate) fn allocations(&self) -> usize {
        self.state().allocations
    }

    pub(crate) fn words(&self) -> Vec<u64> {
        self.state().words.clone()
    }

    /// The words of all blocks that are live.
    pub(crate) fn live_words(&self) -> Vec<(u64, Vec<u64>)> {
        let state = self.state();
        let words = |(first, layout): (&u64, &BlockLayout)| {
            let start = place(*first);
            (*first, state.words[start..start + words_of(*layout)].to_vec())
        };
        state.live.iter().map(words).collect()
    }

    /// The allocation after the next `n` fails, and those after it.
    pub(crate) fn fail_after(&self, n: Option<usize>) {
        self.state().until_failure = n;
    }

    pub(crate) fn watch(&self, watcher: Option<Watcher>) {
        self.state().watcher = watcher;
    }

    /// Whether something stored waits for a barrier.
    pub(crate) fn has_pending(&self) -> bool {
        !self.state().pending.is_empty()
    }

    /// Whether something stored in a block that is live was not cleaned.
    pub(crate) fn has_dirty(&self) -> bool {
        self.state().dirty_count > 0
    }

    fn put(&self, at: Pa, word: u64) {
        let state = &mut *self.state();
        assert!(
            state
                .live
                .range(..=at.get())
                .next_back()
                .is_some_and(|(first, layout)| { at.get() < first + layout.size_bytes() })
        );
        let index = place(at.get());
        if let Some(watcher) = &state.watcher {
            watcher(&|at| if place(at) == index { word } else { state.visible[place(at)] });
        }
        state.words[index] = word;
        state.pending.push(index);
        state.dirty_count += usize::from(!core::mem::replace(&mut state.dirty[index], true));
    }
}

fn place(at: u64) -> usize {
    ((at - BASE) / 8) as usize
}

fn words_of(layout: BlockLayout) -> usize {
    place(BASE + layout.size_bytes())
}

impl TableMemory for Tables {
    fn alloc(&self, layout: BlockLayout) -> Option<Pa> {
        let state = &mut *self.state();
        match &mut state.until_failure {
            Some(0) => return None,
            Some(left) => *left -= 1,
            None => {}
        }
        let end = BASE + 8 * state.words.len() as u64;
        let first = end.next_multiple_of(layout.align_bytes());
        let start = place(first);
        state.words.resize(start + words_of(layout), 0);
        state.visible.resize(start + words_of(layout), GARBAGE);
        // The zeroes are the CPU's stores, too.
        state.dirty.resize(start, false);
        state.dirty.resize(start + words_of(layout), true);
        state.dirty_count += words_of(layout);
        state.pending.extend(start..start + words_of(layout));
        state.live.insert(first, layout);
        state.allocations += 1;
        Some(Pa::new(first))
    }

    fn free(&self, first: Pa, layout: BlockLayout) {
        let state = &mut *self.state();
        assert_eq!(state.live.remove(&first.get()), Some(layout), "{first} is not a live block");
        let start = place(first.get());
        state.words[start..start + words_of(layout)].fill(GARBAGE);
        state.clean(start..start + words_of(layout));
    }

    fn load(&self, at: Pa) -> u64 {
        let state = self.state();
        let block = state.live.range(..=at.get()).next_back();
        let inside = block.is_some_and(|(first, layout)| at.get() < first + layout.size_bytes());
        assert!(inside, "load from {at}, which is no live table");
        state.words[place(at.get())]
    }

    fn store(&self, at: Pa, word: u64) {
        self.put(at, word);
    }

    fn compare_exchange(&self, at: Pa, current: u64, new: u64) -> Result<u64, u64> {
        let found = self.load(at);
        if found != current {
            return Err(found);
        }
        self.put(at, new);
        Ok(found)
    }

    fn clean_table(&self, at: Pa, len_bytes: u64) {
        self.state().clean(place(at.get())..place(at.get() + len_bytes));
    }
}

impl Barriers for Tables {
    fn write_barrier(&self) {
        let state = &mut *self.state();
        for index in state.pending.drain(..) {
            state.visible[index] = state.words[index];
        }
    }

    fn read_barrier(&self) {}

    fn full_barrier(&self) {
        self.write_barrier();
    }
}

/// What hardware does: shifts and masks from the numbers of a configuration, and the bits of a descriptor. Uses nothing of the crate's decoders.
#[derive(Clone, Copy)]
pub(crate) struct Walker {
    granule: u32,
    levels: u32,
    root_entries: u64,
    kind: OutputBits,
    root: u64,
}

#[derive(Clone, Copy)]
enum OutputBits {
    Plain,
    High12,
    High8,
    X86 {
        /// The bits of which one says that an entry is present.
        present: u64,
    },
}

impl Walker {
    pub(crate) fn new(format: &impl Format, root: Pa) -> Self {
        let geometry = format.geometry();
        let granule = u32::from(geometry.granule().get());
        // What a table's entry says: an Arm table, a second-stage one (R, W), a first-stage one (P, R/W, U/S).
        let kind = match (granule, format.counting_bits()) {
            _ if format.contiguous_bit() == 0 => {
                let first_stage = format.table(Pa::new(0)) & 1 << 2 != 0;
                OutputBits::X86 { present: if first_stage { 1 } else { 3 } }
            }
            (16, _) => OutputBits::High12,
            (_, 50) => OutputBits::High8,
            _ => OutputBits::Plain,
        };
        let levels = u32::from(geometry.top());
        Self { granule, levels, root_entries: geometry.entries(geometry.top()), kind, root: root.get() }
    }

    /// Where `iova` goes, by what `load` reads.
    pub(crate) fn walk(&self, load: &dyn Fn(u64) -> u64, iova: u64) -> Option<u64> {
        let (mut table, mut height) = (self.root, self.levels);
        loop {
            let shift = self.granule + height * (self.granule - 3);
            let entries = if height == self.levels { self.root_entries } else { 1 << (self.granule - 3) };
            let word = load(table + 8 * ((iova >> shift) % entries));
            let (present, leaf) = match self.kind {
                OutputBits::X86 { present } => (word & present != 0, word & 1 << 7 != 0),
                _ => (word & 1 != 0, word & 2 == 0),
            };
            if !present {
                return None;
            }
            let leaf = height == 0 || leaf;
            let low = if leaf { shift } else { self.granule };
            let field = |top: u32| word & ((1 << top) - 1) & !((1 << low) - 1);
            let output = match self.kind {
                OutputBits::Plain => field(48),
                OutputBits::High12 => field(48) | (word >> 12 & 0xf) << 48,
                OutputBits::X86 { .. } => field(52),
                OutputBits::High8 => field(50) | (word >> 8 & 3) << 50,
            };
            if leaf {
                return Some(output | iova & ((1 << low) - 1));
            }
            (table, height) = (output, height - 1);
        }
    }

    /// Where `iova` goes for hardware, when all is visible.
    pub(crate) fn now(&self, tables: &Tables, iova: u64) -> Option<u64> {
        let state = tables.state();
        self.walk(&|at| state.visible[place(at)], iova)
    }
}

/// Every granule and width, the large descriptors, and the kinds of hardware.
pub(crate) fn configs() -> Vec<Config> {
    let mut configs = Vec::new();
    for granule in [SizeLg2::KIB_4, SizeLg2::KIB_16, SizeLg2::KIB_64] {
        for (input_bits, output_bits) in [
            (25, 32),
            (26, 36),
            (30, 40),
            (34, 42),
            (39, 44),
            (40, 48),
            (42, 48),
            (43, 40),
            (44, 48),
            (47, 48),
            (48, 48),
        ] {
            configs.push(Config { input_bits, output_bits, ..Config::new(granule) });
        }
        let large = granule != SizeLg2::KIB_64;
        for (input_bits, output_bits) in [(39, 52), (48, 52), (49, 52), (51, 48), (52, 52)] {
            configs.push(Config { input_bits, output_bits, large, ..Config::new(granule) });
        }
        configs.push(Config { break_before_make: BreakBeforeMake::Always, ..Config::new(granule) });
        configs.push(Config { break_before_make: BreakBeforeMake::ForBlocks, ..Config::new(granule) });
        configs.push(Config { coherent: false, ..Config::new(granule) });
    }
    configs
}

/// Every number of levels, with as many bits of input as they have, with fewer, and with so few that one entry of the root is used; and the kinds of
/// hardware.
pub(crate) fn second_configs() -> Vec<SecondConfig> {
    let mut configs = Vec::new();
    for (levels, input_bits, output_bits) in [
        (3, 39, 40),
        (3, 32, 36),
        (4, 48, 46),
        (4, 46, 52),
        (4, 39, 39),
        (4, 36, 48),
        (5, 57, 52),
        (5, 48, 32),
    ] {
        configs.push(SecondConfig { input_bits, output_bits, ..SecondConfig::new(levels) });
    }
    configs.push(SecondConfig { snoop: true, accessed_dirty: true, ..SecondConfig::new(4) });
    configs.push(SecondConfig { coherent: false, input_bits: 46, ..SecondConfig::new(4) });
    let small = PageSizes::default().with(SizeLg2::MIB_2);
    configs.push(SecondConfig { page_sizes: small, ..SecondConfig::new(3) });
    configs
}

/// Both numbers of levels, and the kinds of hardware.
pub(crate) fn first_configs() -> Vec<FirstConfig> {
    let mut configs = Vec::new();
    for levels in [4, 5] {
        configs.push(FirstConfig::new(levels));
        configs.push(FirstConfig { output_bits: 52, extended_accessed: true, ..FirstConfig::new(levels) });
    }
    configs.push(FirstConfig { coherent: false, output_bits: 39, ..FirstConfig::new(4) });
    let small = PageSizes::default().with(SizeLg2::MIB_2);
    configs.push(FirstConfig { page_sizes: small, ..FirstConfig::new(4) });
    configs
}

/// Runs a generic test for every format in every configuration.
macro_rules! every_format {
    ($test:ident $($argument:tt)*) => {
        for config in support::configs() {
            $test(portcullis_pgtable::arm::Stage1::new(config).unwrap() $($argument)*);
            $test(portcullis_pgtable::arm::Stage2::new(config).unwrap() $($argument)*);
        }
        for config in support::second_configs() {
            $test(portcullis_pgtable::vtd::SecondStage::new(config).unwrap() $($argument)*);
        }
        for config in support::first_configs() {
            $test(portcullis_pgtable::vtd::FirstStage::new(config).unwrap() $($argument)*);
        }
    };
}
pub(crate) use every_format;

pub(crate) fn range(first: u64, len: u64) -> IovaRange {
    IovaRange::new(Iova::new(first), len).unwrap()
}

/// A format by reference, so that many tables can be made of one.
#[derive(Debug)]
pub(crate) struct AsIs<'a, F>(pub(crate) &'a F);

impl<F: Format> Format for AsIs<'_, F> {
    fn geometry(&self) -> &Geometry {
        self.0.geometry()
    }
    fn page_sizes(&self) -> PageSizes {
        self.0.page_sizes()
    }
    fn break_before_make(&self) -> BreakBeforeMake {
        self.0.break_before_make()
    }
    fn coherent(&self) -> bool {
        self.0.coherent()
    }
    fn output_bits(&self) -> u8 {
        self.0.output_bits()
    }
    fn decode(&self, word: u64, height: u8) -> Item {
        self.0.decode(word, height)
    }
    fn attributes(&self, prot: Prot) -> Option<u64> {
        self.0.attributes(prot)
    }
    fn prot(&self, word: u64) -> Prot {
        self.0.prot(word)
    }
    fn leaf(&self, height: u8, pa: Pa, attributes: u64) -> u64 {
        self.0.leaf(height, pa, attributes)
    }
    fn table(&self, pa: Pa) -> u64 {
        self.0.table(pa)
    }
    fn contiguous_bit(&self) -> u64 {
        self.0.contiguous_bit()
    }
    fn contiguous_lg2(&self, height: u8) -> u8 {
        self.0.contiguous_lg2(height)
    }
    fn counting_bits(&self) -> u8 {
        self.0.counting_bits()
    }
}
