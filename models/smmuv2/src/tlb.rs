//! Cached translations and table entries, and what removes them.
//!
//! A [`Space`] tags a translation: stage 1 by VMID, and by ASID unless it is global; stage 2 alone by VMID; hypervisor contexts with nothing. No tag names a context
//! bank: banks with the same tags share. A [`Translation`] is one cached leaf, of both stages together where both are in use; such an entry does not keep its
//! intermediate address as a tag. Walk entries ([`TableEntry`]) keep the way down, and always have an ASID.
//!
//! Nothing is removed but by an operation that must remove it, or by the policy. An operation removes the least that the book demands.
//!
//! Spec: SMMUv2 D.c, 2.5 "TLB operation", Table 2-5 "SMMU TLB entry attribute requirements", 5.4.1 "Scope of the TLB maintenance operations".

use model_bus::KeyMap;

use crate::descriptor::{Hierarchy, Rights};
use crate::geometry::Granule;
use crate::maintenance::Scope;

/// What a cached translation belongs to. `nested`: with stage 2 behind it; invalidations do not ask for that.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Space {
    Private { vmid: u16, asid: u16, nested: bool },
    Global { vmid: u16, nested: bool },
    Stage2 { vmid: u16 },
    Hypervisor,
}

/// Where one stage of a translation comes from, and what it allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Half {
    pub(crate) rights: Rights,
    pub(crate) level: u8,
    /// What must not change while the translation lives: MAIR byte or MemAttr, and shareability.
    pub(crate) memory: u16,
    pub(crate) contiguous: bool,
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
    /// Where stage 1 sends `first`.
    pub(crate) ipa: u64,
    pub(crate) stage1: Option<Half>,
    pub(crate) stage2: Option<Half>,
    /// The bank that filled it.
    pub(crate) filler: u8,
}

impl Translation {
    fn last(&self) -> u64 {
        self.first | ((1u64 << self.size_lg2) - 1)
    }

    fn meets(&self, first: u64, last: u64) -> bool {
        self.first <= last && first <= self.last()
    }

    fn overlaps(&self, other: &Self) -> bool {
        self.meets(other.first, other.last())
    }

    /// Where `address`, which it covers, goes.
    pub(crate) fn output_of(&self, address: u64) -> u64 {
        self.output + (address - self.first)
    }

    /// Where stage 1 sends `address`, which it covers.
    pub(crate) fn ipa_of(&self, address: u64) -> u64 {
        self.ipa + (address - self.first)
    }

    fn fixed_at(&self, address: u64) -> (u64, [Option<u16>; 2]) {
        let memory = |stage: Option<Half>| stage.map(|half| half.memory);
        (self.output_of(address), [memory(self.stage1), memory(self.stage2)])
    }

    /// Whether what the tables say `now` of a place contradicts this translation while it lives.
    pub(crate) fn is_contradicted_by(&self, now: &Self) -> bool {
        let at = self.first.max(now.first);
        // A global translation may not be made where private ones live.
        let became_global = matches!(now.space, Space::Global { .. }) && self.space != now.space;
        // The same hint, read whole once and once not, is no change of size.
        let hint = |one: Option<Half>, two: Option<Half>| match (one, two) {
            (Some(one), Some(two)) => one.level == two.level && one.contiguous == two.contiguous,
            _ => one.is_none() && two.is_none(),
        };
        let resized = self.size_lg2 != now.size_lg2
            && !(hint(self.stage1, now.stage1) && hint(self.stage2, now.stage2));
        became_global || resized || self.fixed_at(at) != now.fixed_at(at)
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
    pub(crate) level: u8,
    pub(crate) prefix: u64,
}

impl TableKey {
    fn meets(&self, first: u64, last: u64) -> bool {
        let shift = self.granule.shift(self.level);
        (first >> shift..=last >> shift).contains(&self.prefix)
    }
}

type Key = (Space, u64, u32);

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

    /// Whether nothing at all is cached for such spaces.
    pub(crate) fn has_none(&self, such: impl Fn(Space) -> bool) -> bool {
        !self.leaves.values().any(|leaf| such(leaf.space)) && !self.tables.keys().any(|key| such(key.space))
    }

    fn find_in(&self, space: Space, address: u64) -> Option<&Translation> {
        (12..64u32)
            .filter(|&size| self.sizes[size as usize] != 0)
            .find_map(|size| self.leaves.get(&(space, address >> size, size)))
    }

    /// A translation of `address`: the address space's own, or a global one.
    pub(crate) fn find(&self, space: Space, address: u64) -> Option<Translation> {
        let own = self.find_in(space, address);
        own.or_else(|| match space {
            Space::Private { vmid, nested, .. } => self.find_in(Space::Global { vmid, nested }, address),
            _ => None,
        })
        .copied()
    }

    /// Keeps `new`, and answers with a live translation that it contradicts, if there is one. What overlaps goes, so that one address
    /// never has two. `asid` is that of who fills a global one.
    pub(crate) fn fill(&mut self, new: Translation, asid: u16) -> Option<Translation> {
        let mut spaces = vec![new.space];
        match new.space {
            Space::Private { vmid, nested, .. } => spaces.push(Space::Global { vmid, nested }),
            Space::Global { vmid, nested } => spaces.push(Space::Private { vmid, asid, nested }),
            _ => {}
        }
        let mut conflict = None;
        for old in self.overlapping(&new, &spaces) {
            self.drop_leaf(&old);
            if old.is_contradicted_by(&new) {
                conflict = conflict.or(Some(old));
            }
        }
        self.sizes[new.size_lg2 as usize] += 1;
        self.leaves.insert((new.space, new.first >> new.size_lg2, new.size_lg2), new);
        conflict
    }

    fn overlapping(&self, new: &Translation, spaces: &[Space]) -> Vec<Translation> {
        let mut found: Vec<Translation> = Vec::new();
        for size in (12..64u32).filter(|&size| self.sizes[size as usize] != 0) {
            let probes = (1u64 << new.size_lg2) >> size.min(new.size_lg2);
            if probes > self.leaves.len() as u64 {
                let hit = |old: &&Translation| {
                    old.size_lg2 == size && spaces.contains(&old.space) && old.overlaps(new)
                };
                found.extend(self.leaves.values().filter(hit));
                continue;
            }
            for &space in spaces {
                let at = |probe: u64| self.leaves.get(&(space, (new.first >> size) + probe, size));
                found.extend((0..probes).filter_map(at));
            }
        }
        found.sort_by_key(|old| (old.space, old.first, old.size_lg2));
        found
    }

    fn drop_leaf(&mut self, old: &Translation) {
        let gone = self.leaves.remove(&(old.space, old.first >> old.size_lg2, old.size_lg2)).is_some();
        self.sizes[old.size_lg2 as usize] -= u32::from(gone);
    }

    /// Throws out one translation, the policy's choice.
    pub(crate) fn evict(&mut self, pick: u64) {
        if self.leaves.is_empty() {
            return;
        }
        // The order of a map is not the seed's: the one that comes first by what it is, is taken.
        let order = |leaf: &&Translation| {
            let mixed = (leaf.first >> 12).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ pick;
            (mixed, leaf.space, leaf.size_lg2)
        };
        if let Some(old) = self.leaves.values().min_by_key(order).copied() {
            self.drop_leaf(&old);
        }
    }

    pub(crate) fn table(&self, key: &TableKey) -> Option<TableEntry> {
        self.tables.get(key).copied()
    }

    pub(crate) fn keep_table(&mut self, key: TableKey, entry: TableEntry) {
        self.tables.insert(key, entry);
    }

    /// The leaves that an operation by one address takes, by looking where they can be.
    fn probe(&self, scope: &Scope) -> Option<Vec<Translation>> {
        let (first, last, _) = span_of(scope)?;
        let spaces = spaces_of(scope).filter(|_| first == last)?;
        let live = |&size: &u32| self.sizes[size as usize] != 0;
        let at = |size: u32| {
            spaces.iter().filter_map(move |&space| self.leaves.get(&(space, first >> size, size)))
        };
        Some((12..64u32).filter(live).flat_map(at).copied().collect())
    }

    /// Does what an operation demands. Answers how many leaves went.
    pub(crate) fn invalidate(&mut self, scope: &Scope) -> u64 {
        if !span_of(scope).is_some_and(|(_, _, leaf)| leaf) {
            self.tables.retain(|key, _| !targets_table(scope, key));
        }
        let gone = self.probe(scope).unwrap_or_else(|| {
            self.leaves.values().filter(|leaf| targets_leaf(scope, leaf)).copied().collect()
        });
        for leaf in &gone {
            self.drop_leaf(leaf);
        }
        gone.len() as u64
    }
}

/// Where the leaves can be that an operation by address takes; none if they can be anywhere.
fn spaces_of(scope: &Scope) -> Option<Vec<Space>> {
    let both =
        |make: fn(u16, u16, bool) -> Space, vmid, asid| [make(vmid, asid, false), make(vmid, asid, true)];
    match *scope {
        Scope::HypervisorAddress { .. } => Some(vec![Space::Hypervisor]),
        Scope::Ipa { vmid, .. } => Some(vec![Space::Stage2 { vmid }]),
        Scope::Address { vmid, asid: Some(asid), .. } => {
            let mut spaces =
                both(|vmid, asid, nested| Space::Private { vmid, asid, nested }, vmid, asid).to_vec();
            spaces.extend(both(|vmid, _, nested| Space::Global { vmid, nested }, vmid, asid));
            Some(spaces)
        }
        _ => None,
    }
}

/// Whether a scope without an address takes in a space.
fn targets_space(scope: &Scope, space: Space) -> bool {
    match (*scope, space) {
        (Scope::AllHypervisor, Space::Hypervisor) => true,
        (Scope::AllNonHypervisor, space) => space != Space::Hypervisor,
        (
            Scope::Vmid(id),
            Space::Private { vmid, .. } | Space::Global { vmid, .. } | Space::Stage2 { vmid },
        )
        | (Scope::VmidStage1(id), Space::Private { vmid, .. } | Space::Global { vmid, .. }) => id == vmid,
        // "Only has to apply to unlocked non-global TLB entries that match the VMID."
        (Scope::Asid { vmid: id, asid: own }, Space::Private { vmid, asid, .. }) => (id, own) == (vmid, asid),
        _ => false,
    }
}

/// Whether an operation by address takes in a space.
fn targets_space_of_address(scope: &Scope, space: Space) -> bool {
    match (*scope, space) {
        (Scope::HypervisorAddress { .. }, Space::Hypervisor) => true,
        (Scope::Address { vmid: id, asid: own, .. }, Space::Private { vmid, asid, .. }) => {
            id == vmid && own.is_none_or(|own| own == asid)
        }
        // "The ASID is not checked for global entries in the TLB."
        (Scope::Address { vmid: id, .. }, Space::Global { vmid, .. })
        | (Scope::Ipa { vmid: id, .. }, Space::Stage2 { vmid }) => id == vmid,
        _ => false,
    }
}

/// The first and last address of an operation that has any, and whether it is for leaves only.
fn span_of(scope: &Scope) -> Option<(u64, u64, bool)> {
    match *scope {
        Scope::Address { first, last, leaf, .. }
        | Scope::HypervisorAddress { first, last, leaf }
        | Scope::Ipa { first, last, leaf, .. } => Some((first, last, leaf)),
        _ => None,
    }
}

fn targets_leaf(scope: &Scope, leaf: &Translation) -> bool {
    match span_of(scope) {
        Some((first, last, _)) => leaf.meets(first, last) && targets_space_of_address(scope, leaf.space),
        None => targets_space(scope, leaf.space),
    }
}

fn targets_table(scope: &Scope, key: &TableKey) -> bool {
    match span_of(scope) {
        Some((_, _, true)) => false,
        Some((first, last, false)) => key.meets(first, last) && targets_space_of_address(scope, key.space),
        None => targets_space(scope, key.space),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: Space = Space::Private { vmid: 1, asid: 2, nested: false };
    const OTHER: Space = Space::Private { vmid: 1, asid: 3, nested: false };
    const GLOBAL: Space = Space::Global { vmid: 1, nested: false };
    const NESTED: Space = Space::Private { vmid: 1, asid: 2, nested: true };
    const STAGE2: Space = Space::Stage2 { vmid: 1 };
    const STRANGER: Space = Space::Private { vmid: 9, asid: 2, nested: false };
    const SPACES: [Space; 7] = [OWN, OTHER, GLOBAL, NESTED, STAGE2, STRANGER, Space::Hypervisor];

    fn leaf(space: Space) -> Translation {
        let half = Some(Half { rights: Rights(0x3f), level: 3, memory: 0xff, contiguous: false });
        Translation {
            space,
            first: 0x5000,
            size_lg2: 12,
            output: 0x9000,
            ipa: 0,
            stage1: half,
            stage2: None,
            filler: 0,
        }
    }

    /// Which of the spaces' leaves, and which of their tables of level 2, an operation leaves alone.
    fn survivors(scope: Scope) -> (Vec<Space>, Vec<Space>) {
        let mut tlb = Tlb::default();
        let key = |space| TableKey { space, granule: Granule::Kib4, level: 2, prefix: 0 };
        for space in SPACES {
            tlb.fill(leaf(space), 7);
            tlb.keep_table(key(space), TableEntry { next: 0, limits: Hierarchy::default() });
        }
        tlb.invalidate(&scope);
        let leaves = SPACES.into_iter().filter(|&space| tlb.find_in(space, 0x5000).is_some()).collect();
        let tables = SPACES.into_iter().filter(|&space| tlb.table(&key(space)).is_some()).collect();
        (leaves, tables)
    }

    #[test]
    fn each_operation_removes_just_what_the_book_demands() {
        let both = |spaces: Vec<Space>| (spaces.clone(), spaces);
        assert_eq!(survivors(Scope::AllNonHypervisor), both(vec![Space::Hypervisor]));
        assert_eq!(survivors(Scope::AllHypervisor), both(SPACES[..6].to_vec()));
        assert_eq!(survivors(Scope::Vmid(1)), both(vec![STRANGER, Space::Hypervisor]));
        assert_eq!(survivors(Scope::VmidStage1(1)), both(vec![STAGE2, STRANGER, Space::Hypervisor]));
        assert_eq!(
            survivors(Scope::Asid { vmid: 1, asid: 2 }),
            both(vec![OTHER, GLOBAL, STAGE2, STRANGER, Space::Hypervisor])
        );
        let address = |asid, leaf| Scope::Address { vmid: 1, asid, first: 0x5fff, last: 0x5fff, leaf };
        assert_eq!(
            survivors(address(Some(2), false)),
            // Walk entries of a global leaf have an ASID all the same: there are none that are global.
            both(vec![OTHER, STAGE2, STRANGER, Space::Hypervisor])
        );
        let last = survivors(address(None, true));
        assert_eq!(last, (vec![STAGE2, STRANGER, Space::Hypervisor], SPACES.to_vec()));
        let ipa = survivors(Scope::Ipa { vmid: 1, first: 0x5000, last: 0x5000, leaf: false });
        assert_eq!(ipa, both(vec![OWN, OTHER, GLOBAL, NESTED, STRANGER, Space::Hypervisor]));
        let elsewhere =
            survivors(Scope::Address { vmid: 1, asid: None, first: 0x6000, last: 0x7fff, leaf: true });
        assert_eq!(elsewhere, both(SPACES.to_vec()));
    }

    #[test]
    fn what_lives_may_not_be_changed() {
        let old = leaf(OWN);
        assert!(!old.is_contradicted_by(&old));
        assert!(old.is_contradicted_by(&Translation { output: 0xa000, ..old }));
        assert!(old.is_contradicted_by(&Translation { space: GLOBAL, ..old }));
        let large = Translation { first: 0, size_lg2: 21, output: 0x4000, ..old };
        assert!(old.is_contradicted_by(&Translation {
            stage1: Some(Half { level: 2, ..old.stage1.unwrap() }),
            ..large
        }));
    }
}
