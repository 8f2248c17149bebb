//! What one CPU remembers of walks: translations in its TLB, and the tables it passed in its paging-structure caches.
//!
//! Nothing of an entry is ever remembered that is not present, has a reserved bit set or is not accessed. What is remembered stays until it is
//! invalidated, or thrown out because there is no room or by chance.
//!
//! Spec: Intel SDM volume 3A, 4.10.2 "Translation Lookaside Buffers (TLBs)"; 4.10.3 "Paging-Structure Caches".

use model_bus::Chance;
use portcullis_types::Pa;

use super::entry::{Rights, entry_lg2};
use crate::pool::Pool;

/// A remembered translation of a page, or of a piece of a large one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    /// The physical address of the entry's first byte.
    pub(crate) pa: u64,
    /// How much it covers, as an exponent.
    pub(crate) size_lg2: u8,
    /// How much the page covers that it is of.
    pub(crate) leaf_lg2: u8,
    pub(crate) rights: Rights,
    pub(crate) global: bool,
    /// D was set in the entry.
    pub(crate) dirty: bool,
    pub(crate) memory_index: u8,
}

impl Entry {
    /// Where `va` goes by it.
    pub(crate) const fn address(&self, va: u64) -> Pa {
        Pa::new(self.pa | va & ((1 << self.size_lg2) - 1))
    }

    /// The level of the table that its page is in.
    pub(crate) const fn level(&self) -> u8 {
        (self.leaf_lg2 - 12) / 9 + 1
    }
}

/// A remembered table on the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Step {
    pub(crate) table: Pa,
    /// What all entries up to here allow.
    pub(crate) rights: Rights,
}

/// Whose: a PCID, or everybody's.
const GLOBAL: u16 = 1 << 12;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Key {
    owner: u16,
    size_lg2: u8,
    page: u64,
}

impl Key {
    const fn new(owner: u16, size_lg2: u8, va: u64) -> Self {
        Self { owner, size_lg2, page: va >> size_lg2 }
    }
}

/// All addresses that share `va >> entry_lg2(level + 1)` go through one table of `level`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct StepKey {
    pcid: u16,
    level: u8,
    region: u64,
}

impl StepKey {
    const fn new(pcid: u16, level: u8, va: u64) -> Self {
        Self { pcid, level, region: va >> entry_lg2(level + 1) }
    }
}

/// One CPU's TLB and paging-structure caches.
#[derive(Debug)]
pub(crate) struct Tlb {
    entries: Pool<Key, Entry>,
    /// Which sizes of entries were put in since there was none.
    sizes: u64,
    /// Whether pieces of larger pages were.
    pieces: bool,
    steps: Pool<StepKey, Step>,
}

impl Tlb {
    pub(crate) fn new(capacity: usize) -> Self {
        let steps = Pool::new(capacity.div_ceil(4));
        Self { entries: Pool::new(capacity), sizes: 0, pieces: false, steps }
    }

    pub(crate) fn find(&self, pcid: u16, va: u64) -> Option<Entry> {
        self.sizes().find_map(|size_lg2| {
            let under = |owner| self.entries.get(Key::new(owner, size_lg2, va));
            under(pcid).or_else(|| under(GLOBAL))
        })
    }

    pub(crate) fn insert(&mut self, pcid: u16, va: u64, entry: Entry, chance: &Chance) {
        let owner = if entry.global { GLOBAL } else { pcid };
        self.sizes |= 1 << entry.size_lg2;
        self.pieces |= entry.size_lg2 < entry.leaf_lg2;
        self.entries.insert(Key::new(owner, entry.size_lg2, va), entry, chance);
    }

    /// The lowest table on the way to `va` that is remembered, and its level. `levels` is that of the root.
    pub(crate) fn find_step(&self, pcid: u16, levels: u8, va: u64) -> Option<(u8, Step)> {
        (1..levels).find_map(|level| Some((level, self.step(pcid, level, va)?)))
    }

    pub(crate) fn step(&self, pcid: u16, level: u8, va: u64) -> Option<Step> {
        self.steps.get(StepKey::new(pcid, level, va))
    }

    pub(crate) fn insert_step(&mut self, pcid: u16, level: u8, va: u64, step: Step, chance: &Chance) {
        self.steps.insert(StepKey::new(pcid, level, va), step, chance);
    }

    /// Throws something out that nobody asked to throw out.
    pub(crate) fn evict(&mut self, chance: &Chance) {
        self.entries.remove_any(chance);
        self.steps.remove_any(chance);
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(crate) fn forget_all(&mut self) {
        self.entries.retain(|_, _| false);
        self.steps.retain(|_, _| false);
        (self.sizes, self.pieces) = (0, false);
    }

    pub(crate) fn forget_all_but_globals(&mut self) {
        self.entries.retain(|key, _| key.owner == GLOBAL);
        self.steps.retain(|_, _| false);
    }

    /// Everything of `pcid` but what is global.
    pub(crate) fn forget_pcid(&mut self, pcid: u16) {
        self.entries.retain(|key, _| key.owner != pcid);
        self.forget_steps(pcid);
    }

    /// Every table on the way to anything of `pcid`.
    pub(crate) fn forget_steps(&mut self, pcid: u16) {
        self.steps.retain(|key, _| key.pcid != pcid);
    }

    /// Every table on the way to `va`.
    pub(crate) fn forget_steps_to(&mut self, pcid: u16, va: u64) {
        (1..5).for_each(|level| self.steps.remove(StepKey::new(pcid, level, va)));
    }

    /// What translates `va` in `pcid`, with all pieces of its page.
    pub(crate) fn forget_page(&mut self, pcid: u16, va: u64) {
        self.forget_page_of(pcid, va);
    }

    /// What translates `va` whoever asks, with all pieces of its page.
    pub(crate) fn forget_global_page(&mut self, va: u64) {
        self.forget_page_of(GLOBAL, va);
    }

    fn forget_page_of(&mut self, owner: u16, va: u64) {
        for size_lg2 in self.sizes().collect::<Vec<_>>() {
            self.entries.remove(Key::new(owner, size_lg2, va));
        }
        if self.pieces {
            self.entries.retain(|key, entry| {
                key.owner != owner || key.page << key.size_lg2 >> entry.leaf_lg2 != va >> entry.leaf_lg2
            });
        }
    }

    fn sizes(&self) -> impl Iterator<Item = u8> + use<> {
        let sizes = self.sizes;
        (12..=30).filter(move |size_lg2| sizes >> size_lg2 & 1 != 0)
    }
}
