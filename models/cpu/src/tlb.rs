//! What one CPU remembers of walks: translations, and the tables it passed.
//!
//! Nothing that ends in a translation, address size or access flag fault is ever remembered; what is remembered stays until it is
//! invalidated, or thrown out because there is no room or by chance.
//!
//! Spec: Arm ARM, D8.16 "Translation lookaside buffers".

use model_bus::Chance;
use portcullis_types::Pa;

use crate::Tlbi;
use crate::context::Stage1;
use crate::descriptor::{Limits, Table};
use crate::pool::Pool;

/// A remembered translation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    /// The table that the walk began at.
    pub(crate) root: Pa,
    /// Where its descriptor lies.
    pub(crate) place: Pa,
    /// The physical address of the entry's first byte.
    pub(crate) pa: u64,
    /// How much the entry covers, as an exponent; a contiguous run may be one entry.
    pub(crate) size_lg2: u8,
    /// How much its descriptor covers.
    pub(crate) leaf_lg2: u8,
    pub(crate) level: i8,
    pub(crate) global: bool,
    pub(crate) readable: bool,
    pub(crate) writable: Writable,
    pub(crate) executable: bool,
    pub(crate) memory_index: u8,
}

/// Whether user code may write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Writable {
    Yes,
    /// Once the descriptor says that it is dirty.
    WhenDirty,
    No,
}

/// Whose: an ASID, or everybody's.
const GLOBAL: u32 = 1 << 16;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Key {
    owner: u32,
    size_lg2: u8,
    page: u64,
}

impl Key {
    fn new(owner: u32, size_lg2: u8, va: u64) -> Self {
        Self { owner, size_lg2, page: va >> size_lg2 }
    }

    /// Whether `operation` forgets what is under this key. Bits 63:56 of an address play no part.
    fn is_meant(&self, operation: &Tlbi) -> bool {
        let names = |asid: Option<u16>, first: u64, last: u64| {
            let is_his = asid.is_none_or(|asid| self.owner == u32::from(asid) || self.owner == GLOBAL);
            is_his && (plain(first) >> self.size_lg2..=plain(last) >> self.size_lg2).contains(&self.page)
        };
        match *operation {
            Tlbi::All => true,
            Tlbi::Asid { asid } => self.owner == u32::from(asid),
            Tlbi::Va { asid, va, .. } => names(Some(asid), va, va),
            Tlbi::VaOfAllAsids { va, .. } => names(None, va, va),
            Tlbi::Range { asid, first, last, .. } => names(Some(asid), first, last),
        }
    }
}

/// A remembered step of a walk: what all addresses that share `va >> size_lg2` go through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct StepKey {
    /// The owner is an ASID: no table is everybody's.
    key: Key,
    /// The level of the table that the descriptor points to.
    level: i8,
}

impl StepKey {
    /// The same. Of what leads to other tables nothing is forgotten where only the last level is meant.
    fn is_meant(&self, operation: &Tlbi) -> bool {
        let last_level_only = match *operation {
            Tlbi::All | Tlbi::Asid { .. } => false,
            Tlbi::Va { last_level_only, .. }
            | Tlbi::VaOfAllAsids { last_level_only, .. }
            | Tlbi::Range { last_level_only, .. } => last_level_only,
        };
        !last_level_only && self.key.is_meant(operation)
    }
}

/// A remembered table on the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Step {
    /// The table that the walk began at.
    pub(crate) root: Pa,
    /// Where the descriptor lies that led here.
    pub(crate) place: Pa,
    /// The table, whose limits are those of all tables so far.
    pub(crate) table: Table,
}

/// One CPU's TLB.
#[derive(Debug)]
pub(crate) struct Tlb {
    entries: Pool<Key, Entry>,
    /// How many entries of each size were put in since there was none; says which sizes to look for.
    sizes: u64,
    steps: Pool<StepKey, Step>,
}

impl Tlb {
    pub(crate) fn new(capacity: usize) -> Self {
        Self { entries: Pool::new(capacity), sizes: 0, steps: Pool::new(capacity.div_ceil(4)) }
    }

    pub(crate) fn find(&self, asid: u16, va: u64) -> Option<Entry> {
        let mut sizes = self.sizes;
        while sizes != 0 {
            let size_lg2 = sizes.trailing_zeros() as u8;
            sizes &= sizes - 1;
            let under = |owner| self.entries.get(Key::new(owner, size_lg2, va));
            if let Some(entry) = under(asid.into()).or_else(|| under(GLOBAL)) {
                return Some(entry);
            }
        }
        None
    }

    pub(crate) fn insert(&mut self, asid: u16, va: u64, entry: Entry, chance: &Chance) {
        let owner = if entry.global { GLOBAL } else { asid.into() };
        self.sizes |= 1 << entry.size_lg2;
        self.entries.insert(Key::new(owner, entry.size_lg2, va), entry, chance);
    }

    /// Throws out what [`find`](Self::find) found.
    pub(crate) fn drop_entry(&mut self, asid: u16, va: u64, entry: &Entry) {
        let owner = if entry.global { GLOBAL } else { asid.into() };
        self.entries.remove(Key::new(owner, entry.size_lg2, va));
    }

    /// The deepest table on the way to `va` that is remembered, and its level.
    pub(crate) fn find_step(&self, stage1: &Stage1, va: u64) -> Option<(i8, Table)> {
        let levels = (stage1.start_level + 1..=3).rev();
        levels.into_iter().find_map(|level| Some((level, self.step(stage1, level, va)?.table)))
    }

    /// What is remembered of the step to the table at `level`.
    pub(crate) fn step(&self, stage1: &Stage1, level: i8, va: u64) -> Option<Step> {
        self.steps.get(step_key(stage1, level, va))
    }

    /// Remembers that the table at `level` for `va` is that of `step`.
    pub(crate) fn insert_step(&mut self, stage1: &Stage1, level: i8, va: u64, step: Step, chance: &Chance) {
        self.steps.insert(step_key(stage1, level, va), step, chance);
    }

    /// Throws something out that nobody asked to throw out.
    pub(crate) fn evict(&mut self, chance: &Chance) {
        self.entries.remove_any(chance);
        self.steps.remove_any(chance);
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Forgets what `operation` says and not one thing more.
    pub(crate) fn invalidate(&mut self, operation: &Tlbi) {
        self.entries.retain(|key, _| !key.is_meant(operation));
        self.steps.retain(|key, _| !key.is_meant(operation));
    }

    /// Where the descriptors lie of all that `operation` forgets.
    pub(crate) fn places(&self, operation: &Tlbi) -> impl Iterator<Item = Pa> {
        let entries = self.entries.iter().filter(move |(key, _)| key.is_meant(operation));
        let steps = self.steps.iter().filter(move |(key, _)| key.is_meant(operation));
        entries.map(|(_, entry)| entry.place).chain(steps.map(|(_, step)| step.place))
    }
}

/// An address without its top byte.
pub(crate) const fn plain(va: u64) -> u64 {
    va & 0x00ff_ffff_ffff_ffff
}

fn step_key(stage1: &Stage1, level: i8, va: u64) -> StepKey {
    let size_lg2 = stage1.granule.entry_lg2(level - 1);
    StepKey { key: Key::new(stage1.asid.into(), size_lg2, va), level }
}

impl Limits {
    pub(crate) const NONE: Self = Self { no_user: false, no_write: false, no_user_execute: false };
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Context, CpuFeatures};

    fn entry(size_lg2: u8, global: bool) -> Entry {
        Entry {
            root: Pa::new(0),
            place: Pa::new(0x8000 + u64::from(size_lg2)),
            pa: 0x4000_0000,
            size_lg2,
            leaf_lg2: size_lg2,
            level: 3,
            global,
            readable: true,
            writable: Writable::Yes,
            executable: false,
            memory_index: 0,
        }
    }

    /// ASIDs 1 and 2 each with a page at 0x1000 and one at 0x5000 and a block over 2 MiB; a global page at 0x9000; a step for each ASID.
    fn filled() -> Tlb {
        let (chance, mut tlb) = (Chance::new(1), Tlb::new(64));
        for asid in [1, 2] {
            tlb.insert(asid, 0x1000, entry(12, false), &chance);
            tlb.insert(asid, 0x5000, entry(12, false), &chance);
            tlb.insert(asid, 0x20_0000, entry(21, false), &chance);
            let table = Table { at: Pa::new(0x7000), limits: Limits::NONE };
            let step = Step { root: Pa::new(0), place: Pa::new(0x6000), table };
            tlb.insert_step(&stage1(asid), 3, 0x1000, step, &chance);
        }
        tlb.insert(1, 0x9000, entry(12, true), &chance);
        tlb
    }

    fn stage1(asid: u16) -> Stage1 {
        let context = Context { ttbr0: u64::from(asid) << 48, tcr: 0x5_0000_0010, mair: 0 };
        context.decode(&CpuFeatures::COMMON).unwrap()
    }

    /// Which of the above are there: asid 1 page, page, block, step; asid 2 the same; the global page.
    fn present(tlb: &Tlb) -> String {
        let mut seen = String::new();
        for asid in [1, 2] {
            for va in [0x1fff, 0x5000, 0x3f_ffff] {
                seen.push(if tlb.find(asid, va).is_some() { '1' } else { '0' });
            }
            seen.push(if tlb.find_step(&stage1(asid), 0x1000).is_some() { '1' } else { '0' });
        }
        seen.push(if tlb.find(7, 0x9000).is_some() { '1' } else { '0' });
        seen
    }

    fn after(operation: Tlbi) -> String {
        let mut tlb = filled();
        tlb.invalidate(&operation);
        present(&tlb)
    }

    #[test]
    fn each_operation_forgets_what_it_says_and_no_more() {
        assert_eq!(present(&filled()), "111111111");
        assert_eq!(after(Tlbi::All), "000000000");
        assert_eq!(after(Tlbi::Asid { asid: 1 }), "000011111");
        assert_eq!(after(Tlbi::Va { asid: 1, va: 0x1234, last_level_only: false }), "011011111");
        assert_eq!(after(Tlbi::Va { asid: 1, va: 0x1234, last_level_only: true }), "011111111");
        assert_eq!(after(Tlbi::Va { asid: 1, va: 0x9000, last_level_only: true }), "111111110");
        assert_eq!(after(Tlbi::Va { asid: 2, va: 0x3f_f000, last_level_only: true }), "111111011");
        assert_eq!(after(Tlbi::VaOfAllAsids { va: 0x5000, last_level_only: true }), "101110111");
        let range = Tlbi::Range { asid: 1, first: 0x4000, last: 0x20_0000, last_level_only: false };
        assert_eq!(after(range), "100011110");
    }

    #[test]
    fn the_places_are_those_of_what_is_forgotten() {
        let places = |operation: Tlbi| filled().places(&operation).map(Pa::get).collect::<Vec<_>>();
        assert_eq!(places(Tlbi::Va { asid: 1, va: 0x1234, last_level_only: false }), [0x800c, 0x6000]);
        assert_eq!(places(Tlbi::Va { asid: 2, va: 0x20_0000, last_level_only: true }), [0x8015]);
        assert!(places(Tlbi::Asid { asid: 3 }).is_empty());
    }

    #[test]
    fn the_top_byte_of_an_operand_plays_no_part() {
        assert_eq!(
            after(Tlbi::Va { asid: 1, va: 0xff00_0000_0000_1000, last_level_only: true }),
            "011111111"
        );
    }
}
