//! The TCE cache: what walks found, kept until it is killed.
//!
//! Entries are tagged with the TVE's number, which is the PE's, and the DMA address; so a kill by PE finds those of both windows. Nothing else removes
//! an entry but eviction: neither a store to the table, nor one to the TVT.
//!
//! Observed: Linux 4.20, pnv_pci_phb3_tce_invalidate: kills name a PE, and a DMA address with the bit that chooses the window.
//! Choice: entries of upper levels are kept, too, and a kill by entry leaves them: what it names is one TCE.

use std::collections::BTreeMap;

use crate::tve::{PAGE_LG2, WINDOW_BITS};

/// A TCE of the lowest level: TVE, log2 of the page, and the page's number in the window.
type LeafTag = (u16, u8, u64);
/// A TCE of an upper level: TVE, levels below it, and the address above them.
type TableTag = (u16, u8, u64);

/// What a cached TCE says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Kept {
    pub(crate) tce: u64,
    /// The TVE under which it was fetched.
    pub(crate) tve: u64,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct TceCache {
    leaves: BTreeMap<LeafTag, Kept>,
    tables: BTreeMap<TableTag, Kept>,
}

const fn offset_in_window(address: u64) -> u64 {
    address & (u64::MAX >> (64 - WINDOW_BITS))
}

impl TceCache {
    /// The TCE that translates `address`, and log2 of its page. One with the window's own page size comes before those of a window that was.
    pub(crate) fn find(&self, tve: u16, address: u64, page_lg2: u32) -> Option<(Kept, u32)> {
        let at = offset_in_window(address);
        let find = |lg2: u32| self.leaves.get(&(tve, lg2 as u8, at >> lg2)).map(|&kept| (kept, lg2));
        find(page_lg2).or_else(|| PAGE_LG2.into_iter().find_map(find))
    }

    pub(crate) fn keep(&mut self, tve: u16, address: u64, page_lg2: u32, kept: Kept) {
        self.leaves.insert((tve, page_lg2 as u8, offset_in_window(address) >> page_lg2), kept);
    }

    pub(crate) fn find_table(&self, tve: u16, below: u32, prefix: u64) -> Option<Kept> {
        self.tables.get(&(tve, below as u8, prefix)).copied()
    }

    pub(crate) fn keep_table(&mut self, tve: u16, below: u32, prefix: u64, kept: Kept) {
        self.tables.insert((tve, below as u8, prefix), kept);
    }

    /// Removes everything. Answers how many TCEs of the lowest level it was.
    pub(crate) fn kill_all(&mut self) -> usize {
        let count = self.leaves.len();
        *self = Self::default();
        count
    }

    /// Removes what is tagged with either window of the PE.
    pub(crate) fn kill_pe(&mut self, pe: u8) -> usize {
        let count = self.leaves.len();
        let others = |tve: u16| tve >> 1 != u16::from(pe);
        self.leaves.retain(|&(tve, ..), _| others(tve));
        self.tables.retain(|&(tve, ..), _| others(tve));
        count - self.leaves.len()
    }

    /// Removes the TCE that translates `address`, bit 59 of which chooses the window.
    pub(crate) fn kill_one(&mut self, pe: u8, address: u64) -> usize {
        let tve = u16::from(pe) << 1 | (address >> WINDOW_BITS & 1) as u16;
        let at = offset_in_window(address);
        let gone = |lg2: &u32| self.leaves.remove(&(tve, *lg2 as u8, at >> lg2)).is_some();
        PAGE_LG2.iter().copied().filter(gone).count()
    }

    /// Throws out one entry: the first at or behind a place that `pick` chooses.
    pub(crate) fn evict(&mut self, pick: u64) {
        let from = ((pick & 0x1ff) as u16, (pick >> 16 & 31) as u8, pick >> 32);
        let found = self.leaves.range(from..).next().or_else(|| self.leaves.iter().next());
        if let Some(tag) = found.map(|(&tag, _)| tag) {
            self.leaves.remove(&tag);
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.leaves.len()
    }
}
