//! What an ATC holds: translations of ranges of any size, by address space.
//!
//! Not here: who asks for them, and when they are forgotten.

use model_bus::{Chance, Translation};
use portcullis_types::{Pa, Pasid};

/// A run of addresses, `first..=last`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) first: u64,
    pub(super) last: u64,
}

impl Span {
    /// The naturally aligned run of `1 << size_lg2` addresses that holds `address`.
    pub(super) fn around(address: u64, size_lg2: u8) -> Self {
        let below = 1u64.checked_shl(u32::from(size_lg2)).map_or(u64::MAX, |size| size - 1);
        Self { first: address & !below, last: address | below }
    }

    pub(super) fn holds(self, address: u64) -> bool {
        (self.first..=self.last).contains(&address)
    }

    pub(super) fn overlaps(self, other: Self) -> bool {
        self.first <= other.last && other.first <= self.last
    }
}

/// Which address spaces an invalidation means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Spaces {
    /// All of them, with a PASID or without.
    All,
    /// The one with this PASID.
    One(Pasid),
}

/// What is to be forgotten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Scope {
    pub(super) spaces: Spaces,
    pub(super) span: Span,
}

impl Scope {
    pub(super) fn hits(&self, pasid: Option<Pasid>, span: Span) -> bool {
        let space = match self.spaces {
            Spaces::All => true,
            Spaces::One(one) => pasid == Some(one),
        };
        space && self.span.overlaps(span)
    }
}

/// A translation that is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) pasid: Option<Pasid>,
    pub(super) span: Span,
    pa: Pa,
    read: bool,
    write: bool,
    /// The range is to be accessed by untranslated addresses (U).
    pub(super) untranslated: bool,
}

impl Entry {
    /// The entry that an answer makes; none if it does not translate `address`.
    pub(super) fn new(pasid: Option<Pasid>, address: u64, answer: &Translation) -> Option<Self> {
        let span = Span::around(address, answer.size_lg2);
        let below = span.last - span.first;
        let sound = answer.size_lg2 >= 12 && answer.first.get() == span.first && answer.pa.get() & below == 0;
        sound.then_some(Self {
            pasid,
            span,
            pa: answer.pa,
            read: answer.read,
            write: answer.write,
            untranslated: answer.untranslated_only,
        })
    }

    pub(super) fn allows(&self, write: bool) -> bool {
        if write { self.write } else { self.read }
    }

    /// Where `address`, which the entry holds, goes.
    pub(super) fn translate(&self, address: u64) -> Pa {
        Pa::new(self.pa.get() | (address - self.span.first))
    }
}

/// The entries, at most as many as there is room for.
#[derive(Debug)]
pub(super) struct Cache {
    entries: Vec<Entry>,
    capacity: usize,
    chance: Chance,
}

impl Cache {
    pub(super) fn new(capacity: usize, seed: u64) -> Self {
        Self { entries: Vec::new(), capacity: capacity.max(1), chance: Chance::new(seed) }
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn find(&self, pasid: Option<Pasid>, address: u64) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.pasid == pasid && entry.span.holds(address))
    }

    /// Takes an entry in, in the place of those it overlaps. Answers whether another had to go for want of room.
    pub(super) fn insert(&mut self, entry: Entry) -> bool {
        self.entries.retain(|held| held.pasid != entry.pasid || !held.span.overlaps(entry.span));
        let full = self.entries.len() >= self.capacity;
        if full {
            let victim = self.chance.below(self.entries.len());
            self.entries.swap_remove(victim);
        }
        self.entries.push(entry);
        full
    }

    pub(super) fn forget(&mut self, scope: &Scope) {
        self.entries.retain(|entry| !scope.hits(entry.pasid, entry.span));
    }

    pub(super) fn clear(&mut self) {
        self.entries.clear();
    }
}

#[cfg(test)]
mod tests {
    use portcullis_types::Iova;

    use super::*;

    fn answer(first: u64, size_lg2: u8, pa: u64) -> Translation {
        Translation {
            first: Iova::new(first),
            pa: Pa::new(pa),
            size_lg2,
            read: true,
            write: false,
            execute: false,
            privileged: false,
            global: false,
            untranslated_only: false,
        }
    }

    fn entry(pasid: u32, first: u64, size_lg2: u8) -> Entry {
        Entry::new(Pasid::new(pasid), first, &answer(first, size_lg2, 0x8000_0000)).unwrap()
    }

    #[test]
    fn a_span_is_the_aligned_run_around_an_address() {
        assert_eq!(Span::around(0x1234, 12), Span { first: 0x1000, last: 0x1fff });
        assert_eq!(Span::around(0x1234, 64), Span { first: 0, last: u64::MAX });
        assert_eq!(Span::around(u64::MAX, 12).first, 0xffff_ffff_ffff_f000);
    }

    #[test]
    fn an_answer_for_other_addresses_makes_no_entry() {
        assert_eq!(Entry::new(None, 0x5000, &answer(0x4000, 12, 0)), None);
        assert_eq!(Entry::new(None, 0x5000, &answer(0x5000, 13, 0)), None);
        assert_eq!(Entry::new(None, 0x5000, &answer(0x5000, 11, 0)), None);
        assert_eq!(Entry::new(None, 0x5000, &answer(0x4000, 13, 0x1000)), None);
        let large = Entry::new(None, 0x5000, &answer(0x4000, 13, 0x6000)).unwrap();
        assert_eq!(
            (large.translate(0x5008), large.allows(false), large.allows(true)),
            (Pa::new(0x7008), true, false)
        );
    }

    #[test]
    fn entries_are_found_in_their_own_address_space_only() {
        let mut cache = Cache::new(8, 1);
        cache.insert(entry(1, 0x20_0000, 21));
        assert!(cache.find(Pasid::new(1), 0x3f_ffff).is_some());
        assert!(cache.find(Pasid::new(1), 0x40_0000).is_none());
        assert!(cache.find(Pasid::new(2), 0x20_0000).is_none() && cache.find(None, 0x20_0000).is_none());
    }

    #[test]
    fn what_is_inserted_replaces_what_it_overlaps_and_room_is_made_by_eviction() {
        let mut cache = Cache::new(2, 1);
        assert!(!cache.insert(entry(1, 0x1000, 12)));
        assert!(!cache.insert(entry(1, 0, 21)));
        assert_eq!(cache.len(), 1);
        assert!(!cache.insert(entry(2, 0, 12)));
        assert!(cache.insert(entry(3, 0, 12)));
        assert_eq!(cache.len(), 2);
        assert!(cache.find(Pasid::new(3), 0).is_some());
    }

    #[test]
    fn a_part_of_an_entry_forgotten_is_the_entry_forgotten() {
        let mut cache = Cache::new(8, 1);
        cache.insert(entry(1, 0, 21));
        cache.insert(entry(2, 0, 21));
        let span = Span::around(0x1f_f000, 12);
        cache.forget(&Scope { spaces: Spaces::One(Pasid::new(1).unwrap()), span });
        assert!(cache.find(Pasid::new(1), 0).is_none() && cache.find(Pasid::new(2), 0).is_some());
        cache.forget(&Scope { spaces: Spaces::All, span: Span::around(0x20_0000, 12) });
        assert_eq!(cache.len(), 1);
        cache.forget(&Scope { spaces: Spaces::All, span });
        assert_eq!(cache.len(), 0);
    }
}
