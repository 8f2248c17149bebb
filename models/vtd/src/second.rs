//! The second-stage walk.
//!
//! Spec: VT-d 5.10, 3.7 "Second-Stage Translation", 9.8 "Second-Stage Paging Entries", 6.2.5 "Caches for Paging Structures".

use crate::bits::{bit, mask};
use crate::contexts::offset;
use crate::engine::Engine;
use crate::entry::guest_width;
use crate::iotlb::SecondRights;
use crate::reason::Reason;
use crate::structures::{Place, Table, shift};

/// A.
const ACCESSED: u64 = 1 << 8;
/// D.
const DIRTY: u64 = 1 << 9;

/// Second-stage tables, and how they are walked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Second {
    pub(crate) domain: u16,
    pub(crate) root: u64,
    pub(crate) levels: u32,
    /// SSADE.
    pub(crate) dirty: bool,
    /// The CPUs' caches are snooped.
    pub(crate) snooped: bool,
    pub(crate) legacy: bool,
    /// Permissions are bits 61 and 62.
    pub(crate) io_permissions: bool,
}

impl Second {
    fn either(&self, legacy: Reason, scalable: Reason) -> Reason {
        if self.legacy { legacy } else { scalable }
    }

    /// Nothing may be done here. Legacy mode has no reason of its own for that: it is the permission that is lacking.
    fn nothing(&self, write: bool) -> Reason {
        match (self.legacy, write) {
            (false, _) => Reason::SecondNotPresent,
            (true, true) => Reason::Write,
            (true, false) => Reason::Read,
        }
    }

    fn rights(&self, entry: u64) -> SecondRights {
        let (read, write) = if self.io_permissions { (61, 62) } else { (0, 1) };
        SecondRights { read: bit(entry, read), write: bit(entry, write) }
    }
}

/// Where the second stage takes an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SecondLeaf {
    pub(crate) first: u64,
    pub(crate) size_lg2: u32,
    pub(crate) output: u64,
    pub(crate) rights: SecondRights,
    /// Writes need no flag set.
    pub(crate) dirty: bool,
}

impl SecondLeaf {
    pub(crate) fn output_of(&self, address: u64) -> u64 {
        self.output + (address - self.first)
    }
}

impl Engine<'_> {
    /// Walks. `write` is whether it is to be written: then D is set, if it may be written.
    pub(crate) fn walk_second(
        &mut self,
        second: &Second,
        address: u64,
        write: bool,
    ) -> Result<SecondLeaf, Reason> {
        if address >> guest_width(second.levels, self.config) != 0 {
            return Err(second.either(Reason::Address, Reason::GuestAddress));
        }
        let (mut level, mut table, mut rights) = self.start_second(second, address);
        loop {
            let at = table + offset(address, level);
            self.counters.paging_reads += 1;
            let [entry] = self.read_words(at, second.snooped).map_err(|_| {
                if level == second.levels {
                    second.either(Reason::ContextInvalid, Reason::SecondRootAccess)
                } else {
                    second.either(Reason::PagingAccess, Reason::SecondAccess)
                }
            })?;
            let here = second.rights(entry);
            if !here.read && !here.write {
                return Err(second.nothing(write));
            }
            let leaf = level == 1 || level <= 3 && bit(entry, 7);
            if self.second_reserved(second, entry, level, leaf) {
                return Err(second.either(Reason::PagingReserved, Reason::SecondReserved));
            }
            let so_far = SecondRights { read: rights.read && here.read, write: rights.write && here.write };
            if !so_far.read && !so_far.write {
                return Err(second.nothing(write));
            }
            let marks = leaf && write && so_far.write;
            let Some(entry) = self.mark_second(second, at, entry, marks)? else { continue };
            rights = so_far;
            let host = mask(u32::from(self.config.host_bits) - 1, 12);
            if leaf {
                let size_lg2 = shift(level);
                let within = (1 << size_lg2) - 1;
                return Ok(SecondLeaf {
                    first: address & !within,
                    size_lg2,
                    output: entry & host & !within,
                    rights,
                    dirty: !second.dirty || entry & DIRTY != 0,
                });
            }
            table = entry & host;
            if !self.fresh {
                let place = Place { domain: second.domain, pasid: 0, level, prefix: address >> shift(level) };
                let known =
                    Table { at: table, read_or_user: rights.read, write: rights.write, updatable: true };
                self.caches.second.keep(place, known);
            }
            level -= 1;
        }
    }

    /// Where a walk begins: level, table, and what is allowed so far.
    fn start_second(&self, second: &Second, address: u64) -> (u32, u64, SecondRights) {
        let all = SecondRights { read: true, write: true };
        let known =
            (!self.fresh).then(|| self.caches.second.lowest(second.domain, 0, address, second.levels));
        match known.flatten() {
            Some((level, table)) => {
                (level - 1, table.at, SecondRights { read: table.read_or_user, write: table.write })
            }
            None => (second.levels, second.root, all),
        }
    }

    /// 3.7: "The following bits are reserved with second-stage translation."
    fn second_reserved(&self, second: &Second, entry: u64, level: u32, leaf: bool) -> bool {
        let mut reserved = mask(51, u32::from(self.config.host_bits));
        // "IW: treated as Reserved(0) when Second Stage I/O Read/Write bits are not enabled."
        if !second.io_permissions {
            reserved |= 1 << 62;
        }
        let large = leaf && level > 1;
        match level {
            4 | 5 => reserved |= 1 << 7,
            3 if large && !self.config.pages_1g => reserved |= 1 << 7,
            2 if large && !self.config.pages_2m => reserved |= 1 << 7,
            _ => {}
        }
        if large {
            reserved |= mask(shift(level) - 1, 12);
        }
        if !leaf || !self.config.snoop_control {
            reserved |= 1 << 11;
        }
        entry & reserved != 0
    }

    /// Sets A, and D if `marks`. Answers the entry as it is then; none if somebody changed it meanwhile.
    fn mark_second(&self, second: &Second, at: u64, entry: u64, marks: bool) -> Result<Option<u64>, Reason> {
        let wanted = if marks { ACCESSED | DIRTY } else { ACCESSED };
        let lacking = wanted & !entry;
        if !second.dirty || lacking == 0 || self.fresh {
            return Ok(Some(entry));
        }
        if !second.snooped {
            return Err(Reason::SecondUpdateUnsnooped);
        }
        let found = self.set_flags(at, entry, lacking).map_err(|_| Reason::SecondUpdateFailed)?;
        Ok((found == entry).then_some(entry | lacking))
    }
}
