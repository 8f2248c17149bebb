//! The first-stage walk, alone or nested in a second stage.
//!
//! Spec: VT-d 5.10, 3.6 "First-Stage Translation", 3.8 "Nested Translation", 9.7 "First-Stage Paging Entries".

use crate::bits::{bit, mask};
use crate::contexts::offset;
use crate::engine::Engine;
use crate::entry::guest_width;
use crate::iotlb::FirstRights;
use crate::reason::Reason;
use crate::second::Second;
use crate::structures::{Place, Table, shift};

/// A.
const ACCESSED: u64 = 1 << 5;
/// D.
const DIRTY: u64 = 1 << 6;
/// EA.
const EXTENDED: u64 = 1 << 10;

/// First-stage tables, and how they are walked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct First {
    pub(crate) domain: u16,
    pub(crate) pasid: u32,
    /// Of the second stage's input, if there is one.
    pub(crate) root: u64,
    pub(crate) levels: u32,
    /// EAFE.
    pub(crate) extended: bool,
    /// The CPUs' caches are snooped.
    pub(crate) snooped: bool,
    /// WPE.
    pub(crate) write_protect: bool,
    /// The second stage that every address goes through.
    pub(crate) nested: Option<Second>,
}

/// Where the first stage takes an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FirstLeaf {
    pub(crate) first: u64,
    pub(crate) size_lg2: u32,
    /// Of the second stage's input, if there is one.
    pub(crate) output: u64,
    pub(crate) rights: FirstRights,
    /// Writes need no flag set.
    pub(crate) dirty: bool,
}

/// A table as it can be read: where it is in memory, and whether flags may be set in it.
#[derive(Clone, Copy)]
struct Reachable {
    at: u64,
    updatable: bool,
}

/// "Address bits 63:N have the same value as address bit [N-1]."
fn is_canonical(address: u64, levels: u32) -> bool {
    let sign = mask(63, 9 * levels + 11);
    address & sign == 0 || address & sign == sign
}

impl Engine<'_> {
    /// Walks. `write` is whether it is to be written, `privileged` by whom: then D is set, if it may be written.
    pub(crate) fn walk_first(
        &mut self,
        first: &First,
        address: u64,
        write: bool,
        privileged: bool,
    ) -> Result<FirstLeaf, Reason> {
        if !is_canonical(address, first.levels) {
            return Err(Reason::NotCanonical);
        }
        let (mut level, mut table, mut rights) = self.start_first(first, address)?;
        loop {
            let at = table.at + offset(address, level);
            self.counters.paging_reads += 1;
            let [entry] = self.read_words(at, first.snooped).map_err(|_| {
                if level == first.levels { Reason::FirstRootAccess } else { Reason::FirstAccess }
            })?;
            if !bit(entry, 0) {
                return Err(Reason::FirstNotPresent);
            }
            let leaf = level == 1 || level <= 3 && bit(entry, 7);
            if self.first_reserved(entry, level, leaf) {
                return Err(Reason::FirstReserved);
            }
            let host = entry & mask(u32::from(self.config.host_bits) - 1, 12);
            let size_lg2 = shift(level);
            let within = if leaf { (1 << size_lg2) - 1 } else { 0xfff };
            let output = host & !within;
            if let Some(second) = &first.nested
                && output >> guest_width(second.levels, self.config) != 0
            {
                return Err(Reason::FirstAddress);
            }
            let so_far = FirstRights {
                user: rights.user && bit(entry, 2),
                write: rights.write && bit(entry, 1),
                ..rights
            };
            let marks = leaf && write && allows_write(so_far, privileged) && (privileged || so_far.user);
            let Some(entry) = self.mark_first(first, table, at, entry, marks)? else { continue };
            rights = so_far;
            if leaf {
                return Ok(FirstLeaf {
                    first: address & !within,
                    size_lg2,
                    output,
                    rights,
                    dirty: entry & DIRTY != 0,
                });
            }
            table = self.reach(first, output, Reason::FirstBlocked)?;
            if !self.fresh {
                let place = Place {
                    domain: first.domain,
                    pasid: first.pasid,
                    level,
                    prefix: address >> shift(level),
                };
                let known = Table {
                    at: table.at,
                    read_or_user: rights.user,
                    write: rights.write,
                    updatable: table.updatable,
                };
                self.caches.first.keep(place, known);
            }
            level -= 1;
        }
    }

    fn start_first(&mut self, first: &First, address: u64) -> Result<(u32, Reachable, FirstRights), Reason> {
        let rights = |user, write| FirstRights { user, write, write_protect: first.write_protect };
        let known =
            (!self.fresh).then(|| self.caches.first.lowest(first.domain, first.pasid, address, first.levels));
        if let Some((level, table)) = known.flatten() {
            let reachable = Reachable { at: table.at, updatable: table.updatable };
            return Ok((level - 1, reachable, rights(table.read_or_user, table.write)));
        }
        let table = self.reach(first, first.root, Reason::FirstRootBlocked)?;
        Ok((first.levels, table, rights(true, true)))
    }

    /// Where a first-stage table is in memory.
    ///
    /// 3.8.1: "When Second-Stage Accessed/Dirty flags are enabled, reads to first-stage paging structures are allowed from any input address with valid
    /// translation for which read and write permissions are both granted."
    fn reach(&mut self, first: &First, table: u64, blocked: Reason) -> Result<Reachable, Reason> {
        let Some(second) = &first.nested else { return Ok(Reachable { at: table, updatable: true }) };
        let leaf = self.walk_second(second, table, second.dirty)?;
        if !leaf.rights.read || second.dirty && !leaf.rights.write {
            return Err(blocked);
        }
        Ok(Reachable { at: leaf.output_of(table), updatable: leaf.rights.write })
    }

    /// 3.6: "The following bits are reserved with first-stage translation."
    fn first_reserved(&self, entry: u64, level: u32, leaf: bool) -> bool {
        let mut reserved = mask(51, u32::from(self.config.host_bits));
        let large = leaf && level > 1;
        if level >= 4 || level == 3 && large && !self.config.scalable_has(|mode| mode.first_stage_1g) {
            reserved |= 1 << 7;
        }
        if large {
            reserved |= mask(shift(level) - 1, 13);
        }
        entry & reserved != 0
    }

    /// Sets A, EA where it is enabled, and D if `marks`. Answers the entry as it is then; none if somebody changed it meanwhile.
    fn mark_first(
        &self,
        first: &First,
        table: Reachable,
        at: u64,
        entry: u64,
        marks: bool,
    ) -> Result<Option<u64>, Reason> {
        let mut wanted = ACCESSED;
        if first.extended {
            wanted |= EXTENDED;
        }
        if marks {
            wanted |= DIRTY;
        }
        let lacking = wanted & !entry;
        if lacking == 0 || self.fresh {
            return Ok(Some(entry));
        }
        if !first.snooped {
            return Err(Reason::FirstUpdateUnsnooped);
        }
        if !table.updatable {
            return Err(Reason::FirstUpdateBlocked);
        }
        let found = self.set_flags(at, entry, lacking).map_err(|_| Reason::FirstUpdateFailed)?;
        Ok((found == entry).then_some(entry | lacking))
    }
}

/// 3.6.1: a supervisor writes what it likes, unless WPE is 1.
pub(crate) fn allows_write(rights: FirstRights, privileged: bool) -> bool {
    rights.write || privileged && !rights.write_protect
}
