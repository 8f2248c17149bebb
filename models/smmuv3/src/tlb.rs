//! Cached translations and table entries, and what removes them.
//!
//! A [`Space`] tags a translation: its regime, VMID, and ASID unless it is global; stage 2 translations have a space of
//! their own, by VMID. A [`Translation`] is one cached leaf, of both stages together where both are in use. Walk entries
//! ([`TableEntry`]) keep the way down.
//!
//! Nothing is removed but by a command that must remove it, or by the policy. A command removes the least that the book
//! demands: what it may leave, it leaves.
//!
//! Spec: SMMUv3 H.a, 3.17 "TLB tagging, VMIDs, ASIDs and participation in broadcast TLB maintenance", 4.4 "TLB invalidation".

use core::hash::Hasher;

use model_bus::KeyMap;

use crate::command::Invalidate;
use crate::descriptor::{Hierarchy, Rights};
use crate::geometry::Granule;
use crate::scope::Targets;
use crate::ste::World;
use crate::update::Split;

/// What a cached translation belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Space {
    /// Stage 1, alone or with stage 2 behind it, of one address space.
    Private { world: World, vmid: u16, asid: u16 },
    /// The same, for every ASID of the VMID and of the ASET.
    Global { world: World, vmid: u16, aset: bool },
    /// Stage 2 alone, by intermediate address.
    Stage2 { vmid: u16 },
}

impl Space {
    /// The regime of stage 1.
    pub(crate) fn world(self) -> Option<World> {
        match self {
            Self::Private { world, .. } | Self::Global { world, .. } => Some(world),
            Self::Stage2 { .. } => None,
        }
    }
}

/// Which leaf of which table a stage of a translation came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Origin {
    pub(crate) granule: Granule,
    pub(crate) level: i8,
    /// The attribute that must not change while the translation lives: MAIR byte or stage 2 MemAttr, and shareability.
    pub(crate) memory: u16,
    /// Whether the leaf is part of a contiguous group.
    pub(crate) contiguous: bool,
    /// What the leaf allows more once the hardware has made it dirty.
    pub(crate) clean: Rights,
    /// The nT bit of a block.
    pub(crate) no_translate: bool,
}

/// One cached leaf.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Translation {
    pub(crate) space: Space,
    /// First address that it maps; a multiple of its size.
    pub(crate) first: u64,
    pub(crate) size_lg2: u32,
    /// Where `first` goes.
    pub(crate) output: u64,
    /// Where stage 1 sends `first`, if there is a stage 2 behind it.
    pub(crate) ipa: u64,
    pub(crate) stage1: Option<(Origin, Rights)>,
    pub(crate) stage2: Option<(Origin, Rights)>,
    /// ASET of the CD that filled it.
    pub(crate) private: bool,
    /// The stream and substream that filled it.
    pub(crate) filler: (u32, Option<u32>),
}

impl Translation {
    pub(crate) fn last(&self) -> u64 {
        self.first + ((1u64 << self.size_lg2) - 1)
    }

    pub(crate) fn overlaps(&self, first: u64, last: u64) -> bool {
        self.first <= last && first <= self.last()
    }

    /// Where `address`, which it covers, goes.
    pub(crate) fn output_of(&self, address: u64) -> u64 {
        self.output + (address - self.first)
    }

    /// What must stay the same while the translation lives, seen at `address`: output and memory attributes.
    fn fixed_at(&self, address: u64) -> (u64, Option<u16>, Option<u16>) {
        let memory = |stage: &Option<(Origin, Rights)>| stage.map(|(origin, _)| origin.memory);
        (self.output_of(address), memory(&self.stage1), memory(&self.stage2))
    }

    /// How what the tables say `now` contradicts this translation while it lives.
    pub(crate) fn contradicted_by(&self, now: &Self) -> Option<Conflict> {
        contradiction(self, now)
    }

    /// Whether `needed` rights need a leaf, of either stage, to become dirty first.
    pub(crate) fn is_clean_for(&self, needed: Rights) -> bool {
        let clean =
            |(origin, now): (Origin, Rights)| Split { now, clean: origin.clean }.becomes_dirty_for(needed);
        self.stage1.is_some_and(clean) || self.stage2.is_some_and(clean)
    }

    /// The leaf by whose level and granule a command finds it.
    pub(crate) fn origin(&self) -> Option<&Origin> {
        self.stage1.as_ref().or(self.stage2.as_ref()).map(|(origin, _)| origin)
    }
}

/// A cached table descriptor: the next table, and the limits of all tables above.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TableEntry {
    pub(crate) next: u64,
    pub(crate) limits: Hierarchy,
}

/// Where a cached table descriptor belongs: the level it was found at, and the address bits above what it covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct TableKey {
    pub(crate) space: Space,
    pub(crate) granule: Granule,
    pub(crate) level: i8,
    pub(crate) prefix: u64,
}

/// How a new translation contradicts one that lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Conflict {
    pub(crate) old: Translation,
    pub(crate) new: Translation,
    /// Only the size differs.
    pub(crate) size_only: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Key {
    space: Space,
    page: u64,
    size_lg2: u32,
}

impl core::hash::Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let (kind, a, b) = match self.space {
            Space::Private { world, vmid, asid } => (world as u64, vmid, asid),
            Space::Global { world, vmid, aset } => (4 + world as u64, vmid, u16::from(aset)),
            Space::Stage2 { vmid } => (8, vmid, 0),
        };
        state.write_u64(u64::from(self.size_lg2) << 40 | kind << 32 | u64::from(a) << 16 | u64::from(b));
        state.write_u64(self.page);
    }
}

fn key(space: Space, address: u64, size_lg2: u32) -> Key {
    Key { space, page: address >> size_lg2, size_lg2 }
}

/// All that is cached of translation tables.
pub(crate) struct Tlb {
    leaves: KeyMap<Key, Translation>,
    /// How many leaves there are of each size; sizes without any are not searched.
    sizes: [u32; 64],
    tables: KeyMap<TableKey, TableEntry>,
}

impl Default for Tlb {
    fn default() -> Self {
        Self { leaves: KeyMap::default(), sizes: [0; 64], tables: KeyMap::default() }
    }
}

impl Tlb {
    pub(crate) fn len(&self) -> usize {
        self.leaves.len()
    }

    /// Whether there is a leaf, or a table, in such a space.
    pub(crate) fn holds(&self, such: impl Fn(Space) -> bool) -> bool {
        self.leaves.values().any(|leaf| such(leaf.space)) || self.tables.keys().any(|key| such(key.space))
    }

    fn live_sizes(&self) -> impl Iterator<Item = u32> + use<> {
        let sizes = self.sizes;
        (12..64).filter(move |&size| sizes[size as usize] != 0)
    }

    fn find_in(&self, space: Space, address: u64) -> Option<&Translation> {
        (12..64u32)
            .filter(|&size| self.sizes[size as usize] != 0)
            .find_map(|size| self.leaves.get(&key(space, address, size)))
    }

    /// A translation of `address`: the address space's own, or a global one.
    pub(crate) fn find(&self, space: Space, aset: bool, address: u64) -> Option<&Translation> {
        self.find_in(space, address).or_else(|| match space {
            Space::Private { world, vmid, .. } => self.find_in(Space::Global { world, vmid, aset }, address),
            _ => None,
        })
    }

    /// Keeps `new`, and answers with a live translation that it contradicts, if there is one. A translation of just the
    /// same place is replaced; others that overlap go, so that one address never has two.
    pub(crate) fn fill(&mut self, new: Translation, asid: Option<(u16, bool)>) -> Option<Conflict> {
        let conflict = self.overlapping(&new, asid).into_iter().fold(None, |found, old| {
            self.drop_leaf(&old);
            found.or_else(|| contradiction(&old, &new))
        });
        self.sizes[new.size_lg2 as usize] += 1;
        self.leaves.insert(key(new.space, new.first, new.size_lg2), new);
        conflict
    }

    /// Live translations that a lookup of some address of `new` could also find.
    fn overlapping(&self, new: &Translation, asid: Option<(u16, bool)>) -> Vec<Translation> {
        let mut spaces = vec![new.space];
        match (new.space, asid) {
            (Space::Private { world, vmid, .. }, Some((_, aset))) => {
                spaces.push(Space::Global { world, vmid, aset })
            }
            (Space::Global { world, vmid, .. }, Some((asid, _))) => {
                spaces.push(Space::Private { world, vmid, asid })
            }
            _ => {}
        }
        let mut found = Vec::new();
        for size in self.live_sizes() {
            let probes = (1u64 << new.size_lg2) >> size.min(new.size_lg2);
            if probes > self.leaves.len() as u64 {
                let hit = |old: &&Translation| {
                    old.size_lg2 == size && spaces.contains(&old.space) && old.overlaps(new.first, new.last())
                };
                found.extend(self.leaves.values().filter(hit));
                continue;
            }
            for &space in &spaces {
                found.extend(
                    (0..probes).filter_map(|i| self.leaves.get(&key(space, new.first + (i << size), size))),
                );
            }
        }
        found
    }

    fn drop_leaf(&mut self, old: &Translation) -> bool {
        let gone = self.leaves.remove(&key(old.space, old.first, old.size_lg2)).is_some();
        self.sizes[old.size_lg2 as usize] -= u32::from(gone);
        gone
    }

    /// Throws out one translation, the policy's choice.
    pub(crate) fn evict(&mut self, pick: u64) {
        if self.leaves.is_empty() {
            return;
        }
        let index = usize::try_from(pick % self.leaves.len() as u64).unwrap_or(0);
        if let Some(old) = self.leaves.values().nth(index.min(64)).copied() {
            self.drop_leaf(&old);
        }
    }

    pub(crate) fn table(&self, key: &TableKey) -> Option<TableEntry> {
        self.tables.get(key).copied()
    }

    pub(crate) fn keep_table(&mut self, key: TableKey, entry: TableEntry) {
        self.tables.insert(key, entry);
    }

    /// Does what a command demands, and answers with the leaves that went.
    pub(crate) fn invalidate(&mut self, what: &Invalidate, e2h: bool) -> Vec<Translation> {
        self.remove(&Targets { what, e2h, broadcast: false, spares_private: false })
    }

    /// Removes what is targeted, and answers with the leaves that went.
    pub(crate) fn remove(&mut self, targets: &Targets<'_>) -> Vec<Translation> {
        self.tables.retain(|key, _| !targets.table(key));
        let gone = self
            .probe(targets)
            .unwrap_or_else(|| self.leaves.values().filter(|leaf| targets.leaf(leaf)).copied().collect());
        for leaf in &gone {
            self.drop_leaf(leaf);
        }
        gone
    }

    /// The leaves a command by ASID and address targets, by looking where they can be, if those places are fewer than all leaves.
    fn probe(&self, targets: &Targets<'_>) -> Option<Vec<Translation>> {
        let Invalidate::Address { vmid, asid: Some(asid), span } = *targets.what else { return None };
        let pages = |size: u32| ((span.last - span.first) >> size) + 2;
        let probes = self.live_sizes().fold(0u64, |sum, size| sum.saturating_add(pages(size)));
        if probes.saturating_mul(3) > self.leaves.len() as u64 {
            return None;
        }
        let world = World::El1;
        let spaces = [
            Space::Private { world, vmid, asid },
            Space::Global { world, vmid, aset: false },
            Space::Global { world, vmid, aset: true },
        ];
        let mut found = Vec::new();
        for size in self.live_sizes() {
            let (from, to) = (span.first >> size, span.last >> size);
            for space in spaces {
                let leaves =
                    (from..=to).filter_map(|page| self.leaves.get(&Key { space, page, size_lg2: size }));
                found.extend(leaves.filter(|leaf| targets.leaf(leaf)).copied());
            }
        }
        Some(found)
    }
}

/// Whether two translations that overlap contradict each other.
fn contradiction(old: &Translation, new: &Translation) -> Option<Conflict> {
    let at = old.first.max(new.first);
    let same_output = old.fixed_at(at) == new.fixed_at(at);
    let same_size = old.size_lg2 == new.size_lg2;
    // A global translation may not be made where private ones live; a private one hides a global one.
    let globality = matches!(new.space, Space::Global { .. }) && old.space != new.space;
    match (same_output && !globality, same_size) {
        (true, true) => None,
        (true, false) => Some(Conflict { old: *old, new: *new, size_only: true }),
        (false, _) => Some(Conflict { old: *old, new: *new, size_only: false }),
    }
}

/// Translations for tests: of 4 KiB tables, one level a size.
#[cfg(test)]
pub(crate) mod sample {
    use super::*;
    use crate::command::Span;

    pub(crate) const EL1: World = World::El1;
    pub(crate) const OWN: Space = Space::Private { world: EL1, vmid: 1, asid: 2 };
    pub(crate) const GLOBAL: Space = Space::Global { world: EL1, vmid: 1, aset: false };

    pub(crate) fn origin(level: i8) -> Origin {
        Origin {
            granule: Granule::Kib4,
            level,
            memory: 0xff,
            contiguous: false,
            clean: Rights(0),
            no_translate: false,
        }
    }

    pub(crate) fn leaf(space: Space, first: u64, level: i8) -> Translation {
        let size_lg2 = Granule::Kib4.shift(level);
        let stage = Some((origin(level), Rights::ALL));
        let is_stage2 = matches!(space, Space::Stage2 { .. });
        Translation {
            space,
            first,
            size_lg2,
            output: first + 0x1_0000_0000,
            ipa: 0,
            stage1: if is_stage2 { None } else { stage },
            stage2: if is_stage2 { stage } else { None },
            private: false,
            filler: (0, None),
        }
    }

    pub(crate) fn span(first: u64, last: u64) -> Span {
        Span { first, last, leaf: false, granule: None, level: None, misaligned: false }
    }
}

#[cfg(test)]
mod tests {
    use super::sample::*;
    use super::*;

    #[test]
    fn a_lookup_needs_the_tag_or_a_global_translation_of_the_same_set() {
        let mut tlb = Tlb::default();
        tlb.fill(leaf(OWN, 0x1000, 3), Some((2, false)));
        tlb.fill(leaf(GLOBAL, 0x20_0000, 2), Some((2, false)));
        let other = Space::Private { world: EL1, vmid: 1, asid: 3 };
        let foreign = Space::Private { world: EL1, vmid: 9, asid: 2 };
        assert!(tlb.find(OWN, false, 0x1fff).is_some() && tlb.find(OWN, false, 0x2000).is_none());
        assert!(tlb.find(other, false, 0x1000).is_none() && tlb.find(foreign, false, 0x1000).is_none());
        assert!(tlb.find(other, false, 0x20_1234).is_some());
        assert!(tlb.find(other, true, 0x20_1234).is_none() && tlb.find(foreign, false, 0x20_1234).is_none());
    }

    #[test]
    fn searching_by_place_removes_the_same_as_searching_all() {
        let mut tlb = Tlb::default();
        (0..1000).for_each(|page| assert_eq!(tlb.fill(leaf(OWN, page << 12, 3), None), None));
        tlb.fill(leaf(GLOBAL, 0x4000_0000, 1), None);
        let gone = tlb
            .invalidate(&Invalidate::Address { vmid: 1, asid: Some(2), span: span(0x5000, 0x7fff) }, false);
        assert_eq!(gone.len(), 3);
        let gone = tlb.invalidate(
            &Invalidate::Address { vmid: 1, asid: Some(2), span: span(0x7fff_f000, 0x7fff_ffff) },
            false,
        );
        assert_eq!(gone.len(), 1);
        assert_eq!(tlb.len(), 997);
    }

    #[test]
    fn a_translation_that_contradicts_a_live_one_is_found() {
        let conflict = |old: Translation, new: Translation| {
            let mut tlb = Tlb::default();
            tlb.fill(old, Some((2, false)));
            let found = tlb.fill(new, Some((2, false))).map(|conflict| conflict.size_only);
            assert_eq!(tlb.len(), 1, "one address never has two translations");
            found
        };
        let page = leaf(OWN, 0x20_1000, 3);
        assert_eq!(conflict(page, page), None);
        assert_eq!(conflict(page, leaf(OWN, 0x20_0000, 2)), Some(true));
        assert_eq!(conflict(leaf(OWN, 0x20_0000, 2), page), Some(true));
        assert_eq!(conflict(page, Translation { output: 0x5000, ..page }), Some(false));
        let uncached = Some((Origin { memory: 0x44, ..origin(3) }, Rights::ALL));
        assert_eq!(conflict(page, Translation { stage1: uncached, ..page }), Some(false));
        assert_eq!(conflict(page, leaf(GLOBAL, 0x20_1000, 3)), Some(false), "global over private");
        let narrower = Some((origin(3), Rights(1)));
        assert_eq!(conflict(page, Translation { stage1: narrower, ..page }), None, "permissions may change");
    }

    #[test]
    fn eviction_takes_one_at_a_time() {
        let mut tlb = Tlb::default();
        tlb.evict(5);
        (0..10).for_each(|page| assert_eq!(tlb.fill(leaf(OWN, page << 12, 3), None), None));
        tlb.evict(5);
        assert_eq!(tlb.len(), 9);
    }
}
