//! The walk: from a linear address to an entry that maps a page, and what it allows.
//!
//! The walker is hardware: it reads behind the store buffer, so an entry that no serializing instruction followed may not be there for it yet. It sets accessed
//! flags on its way, and the dirty flag for a write, each in one locked step that fails if the entry is another by then.
//!
//! Spec: Intel SDM volume 3A, 4.5 "4-Level Paging and 5-Level Paging"; 4.6 "Access Rights"; 4.8 "Accessed and Dirty Flags"; 4.10.3.2 "Using the Paging-Structure
//! Caches to Translate Linear Addresses".
//! Choice: an access that is refused leaves the accessed flag of its page as it is.

use model_bus::{Chance, Fabric};
use portcullis_types::{AccessKind, Pa};

use super::FaultKind;
use super::conflict;
use super::context::Space;
use super::cpus::Core;
use super::entry::{ACCESSED, DIRTY, Meaning, Page, Rights, decode, entry_lg2};
use super::tlb::{Entry, Step};
use crate::conflict::Journal;

/// Why a walk did not end in an entry, and at which level.
pub(crate) type Refusal = (FaultKind, u8);

/// Who walks, and with what.
pub(crate) struct Walker<'a> {
    pub(crate) fabric: &'a dyn Fabric,
    pub(crate) space: &'a Space,
    pub(crate) chance: &'a Chance,
    /// Every CPU; the walker is at `own`.
    pub(crate) cores: &'a mut [Core],
    pub(crate) own: usize,
    pub(crate) journal: &'a mut Journal,
}

/// What the walk is for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    Access(AccessKind),
    /// Nobody asked. Never makes anything dirty.
    Speculation,
}

/// What became of setting flags in an entry.
enum Marked {
    Done,
    /// Somebody else changed it: look again.
    Changed,
}

impl Walker<'_> {
    /// Walks for `va`, remembers what may be remembered, and answers the translation if it allows what the walk is for.
    pub(crate) fn walk(&mut self, va: u64, purpose: Purpose) -> Result<Entry, Refusal> {
        let levels = self.space.levels;
        let top = Step { table: self.space.root, rights: Rights::ALL };
        let held = self.cores[self.own].tlb.find_step(self.space.pcid, levels, va);
        let (mut level, mut step) = held.unwrap_or((levels, top));
        loop {
            let at = Pa::new(step.table.get() + 8 * (va >> entry_lg2(level) & 0x1ff));
            let word = self.read(at).ok_or((FaultKind::AbortOnWalk, level))?;
            match decode(word, level, self.space) {
                Meaning::NotPresent => return Err((FaultKind::NotPresent, level)),
                Meaning::Reserved => {
                    self.journal.note("a present paging-structure entry has a reserved bit set", va);
                    return Err((FaultKind::Reserved, level));
                }
                Meaning::Table { at: table, rights } => {
                    if let Marked::Done = self.mark(at, word, ACCESSED, level)? {
                        level -= 1;
                        step = Step { table, rights: step.rights.and(rights) };
                        self.remember_step(level, va, step);
                    }
                }
                Meaning::Page(page) => {
                    let rights = step.rights.and(page.rights);
                    let flags = match purpose {
                        Purpose::Access(access) if !rights.allow(access) => {
                            return Err((FaultKind::Permission, level));
                        }
                        Purpose::Access(AccessKind::Write) => ACCESSED | DIRTY,
                        _ => ACCESSED,
                    };
                    if let Marked::Done = self.mark(at, word, flags, level)? {
                        let dirty = (word | flags) & DIRTY != 0;
                        return Ok(self.remember(va, &page, rights, dirty));
                    }
                }
            }
        }
    }

    fn read(&self, at: Pa) -> Option<u64> {
        let mut word = [0; 8];
        self.fabric.read(at, &mut word).ok()?;
        Some(u64::from_le_bytes(word))
    }

    /// Sets `flags` in the entry at `at` that was `word`.
    fn mark(&self, at: Pa, word: u64, flags: u64, level: u8) -> Result<Marked, Refusal> {
        if word & flags == flags {
            return Ok(Marked::Done);
        }
        match self.fabric.compare_exchange(at, word, word | flags) {
            Ok(found) if found == word => Ok(Marked::Done),
            Ok(_) => Ok(Marked::Changed),
            Err(_) => Err((FaultKind::AbortOnWalk, level)),
        }
    }

    fn remember_step(&mut self, level: u8, va: u64, step: Step) {
        for core in &*self.cores {
            let held = core.pcid_of(self.space.root).and_then(|pcid| core.tlb.step(pcid, level, va));
            if let Some(clause) = held.and_then(|held| conflict::between_steps(&held, &step)) {
                self.journal.note(clause, va);
            }
        }
        self.cores[self.own].tlb.insert_step(self.space.pcid, level, va, step, self.chance);
    }

    /// Choice: a large page is remembered whole, or as its piece of 4 KiB around the address, by chance.
    ///
    /// Spec: Intel SDM volume 3A, 4.10.2.3 "Details of TLB Use".
    fn remember(&mut self, va: u64, page: &Page, rights: Rights, dirty: bool) -> Entry {
        let size_lg2 = if self.chance.once_in(2) { page.size_lg2 } else { 12 };
        let in_page = va & ((1 << page.size_lg2) - 1);
        let entry = Entry {
            pa: (page.at.get() | in_page) >> size_lg2 << size_lg2,
            size_lg2,
            leaf_lg2: page.size_lg2,
            rights,
            global: page.global,
            dirty,
            memory_index: page.memory_index,
        };
        for core in &*self.cores {
            let held = core.pcid_of(self.space.root).and_then(|pcid| core.tlb.find(pcid, va));
            if let Some(clause) = held.and_then(|held| conflict::between(&held, &entry, va)) {
                self.journal.note(clause, va);
            }
        }
        self.cores[self.own].tlb.insert(self.space.pcid, va, entry, self.chance);
        entry
    }
}

#[cfg(test)]
mod tests {
    use core::sync::atomic::{AtomicU64, Ordering};

    use model_bus::{BusError, Write};

    use super::*;
    use crate::x86::{Context, CpuFeatures};

    /// A word that leads to itself as a table, and maps a page at its last level. Somebody stores `beaten_by` before the first update.
    struct Contended {
        word: AtomicU64,
        beaten_by: u64,
        updates: AtomicU64,
    }

    impl Fabric for Contended {
        fn read(&self, _: Pa, into: &mut [u8]) -> Result<(), BusError> {
            into.copy_from_slice(&self.word.load(Ordering::Relaxed).to_le_bytes());
            Ok(())
        }

        fn write(&self, write: Write<'_>) -> Result<(), BusError> {
            Err(BusError { at: write.at })
        }

        fn compare_exchange(&self, _: Pa, current: u64, new: u64) -> Result<u64, BusError> {
            if self.updates.fetch_add(1, Ordering::Relaxed) == 0 {
                self.word.store(self.beaten_by, Ordering::Relaxed);
            }
            let relaxed = Ordering::Relaxed;
            Ok(self.word.compare_exchange(current, new, relaxed, relaxed).unwrap_or_else(|found| found))
        }

        fn now_ns(&self) -> u64 {
            0
        }
    }

    /// What a write by way of `word` finds where somebody stores `beaten_by` first, and the word afterwards.
    fn beaten(word: u64, beaten_by: u64) -> (Result<u64, Refusal>, u64) {
        let fabric = Contended { word: word.into(), beaten_by, updates: AtomicU64::new(0) };
        let space = Context::new(Pa::new(0x1000), 7, 4).decode(&CpuFeatures::COMMON).unwrap();
        let mut walker = Walker {
            fabric: &fabric,
            space: &space,
            chance: &Chance::new(1),
            cores: &mut [Core::new(CpuFeatures::COMMON, 8)],
            own: 0,
            journal: &mut Journal::default(),
        };
        let found = walker.walk(0, Purpose::Access(AccessKind::Write)).map(|entry| entry.pa);
        (found, fabric.word.into_inner())
    }

    #[test]
    fn an_update_that_another_store_beats_is_done_again_on_what_was_stored() {
        // P, R/W, U/S: the accessed flag of a table; with A: the dirty flag of the page.
        for word in [0x1007, 0x1027] {
            assert_eq!(
                beaten(word, 0),
                (Err((FaultKind::NotPresent, if word == 0x1007 { 4 } else { 1 })), 0)
            );
            assert_eq!(beaten(word, 0x2207), (Ok(0x2000), 0x2267), "{word:#x}");
        }
    }
}
