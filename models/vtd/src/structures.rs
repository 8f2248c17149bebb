//! Paging-structure caches: where a table is that a walk went through, and what the entries on the way allowed.
//!
//! Spec: VT-d 5.10, 6.2.5 "Caches for Paging Structures", Table 17: second-stage ones are found by domain and address, first-stage and nested ones
//! by PASID, domain and address.

use core::ops::RangeInclusive;

use model_bus::KeyMap;

/// Which table: the entry that points to it is at `level` (2 is a page directory entry), and is for addresses with `prefix` above the bits that lower
/// levels take.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Place {
    pub(crate) domain: u16,
    /// 0 for second-stage tables.
    pub(crate) pasid: u32,
    pub(crate) level: u32,
    pub(crate) prefix: u64,
}

/// What is known of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Table {
    pub(crate) at: u64,
    /// First stage: U/S. Second stage: R.
    pub(crate) read_or_user: bool,
    /// R/W, or W.
    pub(crate) write: bool,
    /// Of a first-stage table: the second stage, if any, lets flags be set in it.
    pub(crate) updatable: bool,
}

/// The lowest bit of an address that an entry of `level` resolves: 12 for level 1.
pub(crate) const fn shift(level: u32) -> u32 {
    9 * level + 3
}

/// The caches of one stage.
#[derive(Debug, Default)]
pub(crate) struct Structures {
    tables: KeyMap<Place, Table>,
}

impl Structures {
    /// Far more than any hardware has.
    const MOST: usize = 1 << 14;

    /// The lowest table that is known on the way to an address, from one that an entry of `top` points to: the level of the entry, and
    /// the table.
    pub(crate) fn lowest(&self, domain: u16, pasid: u32, address: u64, top: u32) -> Option<(u32, Table)> {
        (2..=top).find_map(|level| {
            let place = Place { domain, pasid, level, prefix: address >> shift(level) };
            self.tables.get(&place).map(|&table| (level, table))
        })
    }

    pub(crate) fn keep(&mut self, place: Place, table: Table) {
        if self.tables.len() >= Self::MOST {
            self.tables.clear();
        }
        self.tables.insert(place, table);
    }

    pub(crate) fn clear(&mut self) {
        self.tables.clear();
    }

    pub(crate) fn remove_domain(&mut self, domain: u16) {
        self.tables.retain(|place, _| place.domain != domain);
    }

    pub(crate) fn remove_pasid(&mut self, domain: u16, pasid: u32) {
        self.tables.retain(|place, _| (place.domain, place.pasid) != (domain, pasid));
    }

    pub(crate) fn remove_pages(&mut self, domain: u16, pasid: u32, addresses: &RangeInclusive<u64>) {
        for level in 2..=5 {
            let prefixes = addresses.start() >> shift(level)..=addresses.end() >> shift(level);
            if prefixes.end() - prefixes.start() < 64 {
                for prefix in prefixes {
                    self.tables.remove(&Place { domain, pasid, level, prefix });
                }
            } else {
                self.tables.retain(|place, _| {
                    (place.domain, place.pasid, place.level) != (domain, pasid, level)
                        || !prefixes.contains(&place.prefix)
                });
            }
        }
    }
}
