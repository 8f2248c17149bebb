//! The IOTLB: whole translations, by who asked for them.
//!
//! A translation is found by source, address, and whether and which PASID the request had. It is removed by domain, by domain and address (what the
//! second stage or pass-through made), or by domain and PASID with or without an address (what the first stage had a part in): an index for
//! each.
//!
//! Spec: VT-d 5.10, 6.2.1 "Tagging of Cached Translations", 6.2.4 "IOTLB", Table 23 "IOTLB Invalidation", Table 24 "PASID-based-IOTLB Invalidation".

use core::ops::RangeInclusive;
use std::collections::BTreeSet;

use model_bus::KeyMap;

use crate::reason::Reason;

/// What made a translation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Made {
    /// PGTT=001b.
    First,
    /// PGTT=010b, or legacy mode.
    Second,
    /// PGTT=011b.
    Nested,
    /// Pass-through of either mode.
    PassThrough,
}

impl Made {
    pub(crate) fn has_first(self) -> bool {
        matches!(self, Self::First | Self::Nested)
    }
}

/// What the first stage allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FirstRights {
    pub(crate) write: bool,
    pub(crate) user: bool,
    /// WPE.
    pub(crate) write_protect: bool,
}

/// What the second stage allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SecondRights {
    pub(crate) read: bool,
    pub(crate) write: bool,
}

/// A translation, or, with caching mode, a fault that takes its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Translation {
    pub(crate) made: Made,
    pub(crate) legacy: bool,
    pub(crate) domain: u16,
    /// That of the request, or RID_PASID; 0 in legacy mode.
    pub(crate) pasid: u32,
    pub(crate) first: u64,
    pub(crate) size_lg2: u32,
    pub(crate) output: u64,
    pub(crate) first_rights: Option<FirstRights>,
    pub(crate) second_rights: Option<SecondRights>,
    /// SRE: a supervisor may ask.
    pub(crate) supervisor: bool,
    /// RID_PRIV: a request without a PASID is a supervisor's.
    pub(crate) rid_priv: bool,
    /// Writes need nothing set in memory any more.
    pub(crate) dirty: bool,
    /// Faults are not reported.
    pub(crate) silent: bool,
    pub(crate) fault: Option<Reason>,
}

impl Translation {
    pub(crate) fn output_of(&self, address: u64) -> u64 {
        self.output + (address - self.first)
    }
}

/// By what a translation is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Key {
    pub(crate) source: u16,
    /// The request's; none for a request without one.
    pub(crate) pasid: Option<u32>,
    pub(crate) page: u64,
    pub(crate) size_lg2: u32,
}

const SIZES: [u32; 3] = [12, 21, 30];

/// The IOTLB.
#[derive(Debug, Default)]
pub(crate) struct Iotlb {
    entries: KeyMap<Key, Translation>,
    /// Made by the second stage or pass-through: domain, first address.
    by_address: BTreeSet<(u16, u64, Key)>,
    /// Made with a first stage: domain, PASID, first address.
    by_pasid: BTreeSet<(u16, u32, u64, Key)>,
}

impl Iotlb {
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// The translation of an address. If there are several, `choice` says which: "a reference may use any of these translations".
    pub(crate) fn find(
        &self,
        source: u16,
        pasid: Option<u32>,
        address: u64,
        choice: u64,
    ) -> Option<&Translation> {
        let at = |size_lg2| self.entries.get(&Key { source, pasid, page: address >> size_lg2, size_lg2 });
        if choice & 1 == 0 { SIZES.into_iter().find_map(at) } else { SIZES.into_iter().rev().find_map(at) }
    }

    /// Keeps a translation; at most `most`, for which others go.
    pub(crate) fn keep(&mut self, source: u16, pasid: Option<u32>, translation: Translation, most: usize) {
        while self.entries.len() >= most.max(1) {
            self.evict(0);
        }
        let Translation { size_lg2, first, .. } = translation;
        let key = Key { source, pasid, page: first >> size_lg2, size_lg2 };
        self.remove(key);
        if translation.made.has_first() {
            self.by_pasid.insert((translation.domain, translation.pasid, first, key));
        } else {
            self.by_address.insert((translation.domain, first, key));
        }
        self.entries.insert(key, translation);
    }

    fn remove(&mut self, key: Key) {
        let Some(old) = self.entries.remove(&key) else { return };
        if old.made.has_first() {
            self.by_pasid.remove(&(old.domain, old.pasid, old.first, key));
        } else {
            self.by_address.remove(&(old.domain, old.first, key));
        }
    }

    /// Throws one out that `choice` names.
    pub(crate) fn evict(&mut self, choice: u64) {
        let from = |set: &BTreeSet<(u16, u64, Key)>| {
            let after = set.range((half(choice), choice >> 16, Key::LEAST)..).next();
            after.or_else(|| set.first()).map(|&(_, _, key)| key)
        };
        let other = || self.by_pasid.first().map(|&(_, _, _, key)| key);
        let found = if choice & 1 == 0 {
            from(&self.by_address).or_else(other)
        } else {
            other().or_else(|| from(&self.by_address))
        };
        if let Some(key) = found {
            self.remove(key);
        }
    }

    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }

    fn remove_all(&mut self, keys: Vec<Key>) {
        keys.into_iter().for_each(|key| self.remove(key));
    }

    /// Removes everything of a domain.
    pub(crate) fn remove_domain(&mut self, domain: u16) {
        let keys = self.pages_of(domain, 0..=u64::MAX);
        self.remove_all(keys);
        self.remove_first_of(domain);
    }

    /// Removes what the first stage had a part in, of a domain.
    pub(crate) fn remove_first_of(&mut self, domain: u16) {
        let (from, to) = ((domain, 0, 0, Key::LEAST), (domain, u32::MAX, u64::MAX, Key::MOST));
        let keys = self.by_pasid.range(from..=to).map(|&(_, _, _, key)| key).collect();
        self.remove_all(keys);
    }

    /// Removes what the second stage or pass-through made of addresses, of a domain.
    pub(crate) fn remove_pages(&mut self, domain: u16, addresses: RangeInclusive<u64>) {
        let keys = self.pages_of(domain, addresses);
        self.remove_all(keys);
    }

    fn pages_of(&self, domain: u16, addresses: RangeInclusive<u64>) -> Vec<Key> {
        // A translation of up to 1 GiB may begin before the range.
        let from = addresses.start() >> 30 << 30;
        let within =
            self.by_address.range((domain, from, Key::LEAST)..=(domain, *addresses.end(), Key::MOST));
        within
            .filter(|(_, first, key)| first + ((1 << key.size_lg2) - 1) >= *addresses.start())
            .map(|&(_, _, key)| key)
            .collect()
    }

    /// Removes everything of a PASID of a domain.
    pub(crate) fn remove_pasid(&mut self, domain: u16, pasid: u32) {
        self.remove_pasid_pages(domain, pasid, 0..=u64::MAX);
        // Table 24: what the second stage and pass-through made, too.
        let of_pasid = |key: &Key| self.entries.get(key).is_some_and(|found| found.pasid == pasid);
        let keys = self.pages_of(domain, 0..=u64::MAX).into_iter().filter(of_pasid).collect();
        self.remove_all(keys);
    }

    /// Removes what the first stage had a part in, of addresses of a PASID of a domain.
    pub(crate) fn remove_pasid_pages(&mut self, domain: u16, pasid: u32, addresses: RangeInclusive<u64>) {
        let from = addresses.start() >> 30 << 30;
        let range = (domain, pasid, from, Key::LEAST)..=(domain, pasid, *addresses.end(), Key::MOST);
        let keys = self
            .by_pasid
            .range(range)
            .filter(|(_, _, first, key)| first + ((1 << key.size_lg2) - 1) >= *addresses.start())
            .map(|&(_, _, _, key)| key)
            .collect();
        self.remove_all(keys);
    }
}

impl Key {
    const LEAST: Self = Self { source: 0, pasid: None, page: 0, size_lg2: 0 };
    const MOST: Self = Self { source: u16::MAX, pasid: Some(u32::MAX), page: u64::MAX, size_lg2: u32::MAX };
}

const fn half(choice: u64) -> u16 {
    (choice & 0xffff) as u16
}
