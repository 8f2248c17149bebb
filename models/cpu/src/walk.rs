//! The walk: from a virtual address to a descriptor and what it allows.
//!
//! The walker is hardware: it reads behind the store buffer, so a descriptor that no barrier followed may not be there for it yet.
//!
//! Spec: Arm ARM, D8.2 "Translation process"; J1 "AArch64.S1Walk".

use core::ops::RangeInclusive;

use model_bus::{Chance, Fabric};
use portcullis_types::{AccessKind, Pa};

use crate::FaultKind;
use crate::conflict::Journal;
use crate::context::Stage1;
use crate::descriptor::{ACCESSED, Descriptor, Leaf, Limits, READ_ONLY, Table, contiguous_lg2};
use crate::tlb::{Entry, Step, Tlb, Writable, plain};

/// Why a walk did not end in an entry, and at which level.
pub(crate) type Refusal = (FaultKind, i8);

/// Who walks, and with what.
pub(crate) struct Walker<'a> {
    pub(crate) fabric: &'a dyn Fabric,
    pub(crate) stage1: &'a Stage1,
    pub(crate) chance: &'a Chance,
    /// Every CPU's TLB; the walker's own is at `own`.
    pub(crate) tlbs: &'a mut [Tlb],
    pub(crate) own: usize,
    pub(crate) journal: &'a mut Journal,
}

/// A leaf, and how the walk came there.
struct Found {
    place: Pa,
    level: i8,
    leaf: Leaf,
    /// What the tables on the way take away.
    limits: Limits,
}

/// What the walk is for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    Access(AccessKind),
    /// Nobody asked. Never makes anything dirty.
    Speculation,
}

impl Walker<'_> {
    /// Walks for `va`, remembers what may be remembered, and answers the entry, whatever it allows.
    pub(crate) fn walk(&mut self, va: u64, purpose: Purpose) -> Result<Entry, Refusal> {
        let stage1 = self.stage1;
        if stage1.walks_disabled || !in_range(va, stage1) {
            return Err((FaultKind::Translation, 0));
        }
        let va = plain(va);
        if stage1.root.get() >> stage1.output_bits != 0 {
            return Err((FaultKind::AddressSize, 0));
        }
        let top = Table { at: stage1.root, limits: Limits::NONE };
        let (mut level, mut table) =
            self.tlbs[self.own].find_step(stage1, va).unwrap_or((stage1.start_level, top));
        loop {
            let at = self.entry_address(table.at, level, va);
            let word = self.read(at).ok_or((FaultKind::AbortOnWalk, level))?;
            match Descriptor::decode(word, level, stage1) {
                Descriptor::Invalid => return Err((FaultKind::Translation, level)),
                Descriptor::Table(next) => {
                    self.check_size(next.at, level)?;
                    level += 1;
                    table = Table { at: next.at, limits: table.limits.and(next.limits) };
                    self.remember_step(level, va, Step { root: stage1.root, place: at, table });
                }
                Descriptor::Leaf(leaf) => {
                    self.check_size(leaf.at, level)?;
                    match self.update(at, word, &leaf, table.limits, purpose) {
                        Update::Done(leaf) => {
                            let found = Found { place: at, level, leaf, limits: table.limits };
                            let run = leaf.contiguous && self.run_agrees(va, &found, purpose);
                            return Ok(self.remember(va, &found, run));
                        }
                        Update::Changed => {}
                        Update::Refused(kind) => return Err((kind, level)),
                    }
                }
            }
        }
    }

    fn entry_address(&self, table: Pa, level: i8, va: u64) -> Pa {
        let granule = self.stage1.granule;
        let bits = if level == self.stage1.start_level {
            self.stage1.input_bits - granule.entry_lg2(level)
        } else {
            granule.stride()
        };
        let index = va >> granule.entry_lg2(level) & ((1 << bits) - 1);
        Pa::new(table.get() + 8 * index)
    }

    fn read(&self, at: Pa) -> Option<u64> {
        let mut word = [0; 8];
        self.fabric.read(at, &mut word).ok()?;
        Some(u64::from_le_bytes(word))
    }

    fn check_size(&self, at: Pa, level: i8) -> Result<(), Refusal> {
        if at.get() >> self.stage1.output_bits == 0 { Ok(()) } else { Err((FaultKind::AddressSize, level)) }
    }

    /// Sets the access flag and the dirty state where the CPU does that by itself, in one atomic step.
    ///
    /// Spec: Arm ARM, D8.5 "Hardware updates to the translation tables".
    fn update(&self, at: Pa, word: u64, leaf: &Leaf, limits: Limits, purpose: Purpose) -> Update {
        let mut wanted = word;
        if !leaf.accessed {
            if !self.stage1.set_access {
                return Update::Refused(FaultKind::AccessFlag);
            }
            wanted |= ACCESSED;
        }
        let writes = purpose == Purpose::Access(AccessKind::Write);
        let dirties = writes && self.permissions(leaf, limits).writable == Writable::WhenDirty;
        if dirties {
            wanted &= !READ_ONLY;
        }
        if wanted != word {
            match self.fabric.compare_exchange(at, word, wanted) {
                Ok(found) if found == word => {}
                Ok(_) => return Update::Changed,
                Err(_) => return Update::Refused(FaultKind::AbortOnWalk),
            }
        }
        Update::Done(Leaf { read_only: leaf.read_only && !dirties, accessed: true, ..*leaf })
    }

    /// Spec: Arm ARM, D8.4.1.2.1 "Stage 1 data accesses using Direct permissions", D8.4.1.2.3 "Stage 1 instruction execution using Direct
    /// permissions", the rows for EL0.
    fn permissions(&self, leaf: &Leaf, limits: Limits) -> Permissions {
        let user = leaf.user && !limits.no_user;
        let writable = match leaf.read_only {
            _ if !user || limits.no_write => Writable::No,
            false => Writable::Yes,
            true if leaf.dirty_tracked && self.stage1.set_dirty => Writable::WhenDirty,
            true => Writable::No,
        };
        let executable = !leaf.user_never_execute && !limits.no_user_execute;
        Permissions { readable: user, writable, executable }
    }

    fn remember_step(&mut self, level: i8, va: u64, step: Step) {
        self.check_tables(va, level..=level, |held| held.table.at != step.table.at);
        self.tlbs[self.own].insert_step(self.stage1, level, va, step, self.chance);
    }

    /// Whether what a CPU holds under this ASID is of this address space. Each CPU has its own ASIDs (CnP is 0), so on another the same one may mean
    /// another space, to be forgotten before this one runs there; on the walker's own it may not.
    ///
    /// Spec: Arm ARM, D8.16.3.4 "Common not private translations".
    fn is_of_this_space(&self, cpu: usize, root: Pa) -> bool {
        cpu == self.own || root == self.stage1.root
    }

    /// Whether all descriptors of the contiguous run are there and say the same, so that it may be one entry. The access flag may differ, and the dirty
    /// state where hardware keeps it. Only what somebody asked for is judged: software may be half way through making a run that nobody may use yet.
    ///
    /// It is not wrong that some are not valid: nobody can clear all at once.
    ///
    /// Spec: Arm ARM, D8.7.1 "The Contiguous bit"; D8.7.1.1 "Misprogramming the Contiguous bit".
    fn run_agrees(&mut self, va: u64, found: &Found, purpose: Purpose) -> bool {
        let &Found { place, level, ref leaf, .. } = found;
        let lg2 = contiguous_lg2(self.stage1.granule, level);
        let run_lg2 = leaf.size_lg2 + lg2;
        let first = leaf.at.get() >> run_lg2 << run_lg2;
        // A run larger than the table cannot be; one that ends beyond the output size has descriptors that are Address size faults.
        let last = first | ((1 << run_lg2) - 1);
        if run_lg2 > self.stage1.input_bits || last >> self.stage1.output_bits != 0 {
            return false;
        }
        let says = |leaf: &Leaf| {
            let written = self.stage1.set_dirty && leaf.dirty_tracked;
            let read_only = leaf.read_only && !written;
            let never_execute = leaf.user_never_execute;
            (leaf.user, read_only, leaf.dirty_tracked, never_execute, leaf.not_global, leaf.memory_index)
        };
        let of_first = place.get() & !((8 << lg2) - 1);
        let (mut sound, mut whole) = (true, true);
        for index in 0..1 << lg2 {
            let Some(word) = self.read(Pa::new(of_first + 8 * index)) else { return false };
            match Descriptor::decode(word, level, self.stage1) {
                Descriptor::Leaf(other) => {
                    sound &= other.at.get() == first + (index << leaf.size_lg2) && says(&other) == says(leaf);
                    whole &= other.contiguous;
                }
                Descriptor::Invalid | Descriptor::Table(_) => whole = false,
            }
        }
        if !sound && purpose != Purpose::Speculation {
            self.journal.note("descriptors of one contiguous run contradict one another", va);
        }
        sound && whole
    }

    /// `run`: the contiguous run that the leaf is part of may be one entry.
    fn remember(&mut self, va: u64, found: &Found, run: bool) -> Entry {
        let &Found { place, level, ref leaf, limits } = found;
        let whole_run = leaf.contiguous && self.chance.once_in(2) && run;
        let run_lg2 = if whole_run { contiguous_lg2(self.stage1.granule, level) } else { 0 };
        let size_lg2 = leaf.size_lg2 + run_lg2;
        let allows = self.permissions(leaf, limits);
        let entry = Entry {
            root: self.stage1.root,
            place,
            pa: leaf.at.get() >> size_lg2 << size_lg2,
            size_lg2,
            leaf_lg2: leaf.size_lg2,
            level,
            global: !leaf.not_global,
            readable: allows.readable,
            writable: allows.writable,
            executable: allows.executable,
            memory_index: leaf.memory_index,
        };
        self.check_break_before_make(va, &entry);
        // A leaf is in the place of every table below it.
        self.check_tables(va, level + 1..=3, |_| true);
        self.tlbs[self.own].insert(self.stage1.asid, va, entry, self.chance);
        entry
    }

    /// Spec: Arm ARM, D8.17.1 "Using break-before-make when updating translation table entries".
    fn check_break_before_make(&mut self, va: u64, entry: &Entry) {
        let goes = |entry: &Entry| entry.pa | va & ((1 << entry.size_lg2) - 1);
        for (index, tlb) in self.tlbs.iter().enumerate() {
            let Some(held) = tlb.find(self.stage1.asid, va) else { continue };
            let same = !self.is_of_this_space(index, held.root)
                || goes(&held) == goes(entry)
                    && (held.leaf_lg2, held.memory_index, held.global)
                        == (entry.leaf_lg2, entry.memory_index, entry.global);
            if !same {
                self.journal.note("a live entry was changed without break-before-make", va);
            }
        }
    }

    /// The same of the tables of some levels: some CPU may still walk through one that `is_gone`.
    fn check_tables(&mut self, va: u64, levels: RangeInclusive<i8>, is_gone: impl Fn(&Step) -> bool) {
        for (index, tlb) in self.tlbs.iter().enumerate() {
            let mut held = levels.clone().filter_map(|level| tlb.step(self.stage1, level, va));
            if held.any(|held| self.is_of_this_space(index, held.root) && is_gone(&held)) {
                self.journal.note("a live table descriptor was changed without break-before-make", va);
            }
        }
    }
}

enum Update {
    Done(Leaf),
    /// Somebody else changed the word: look again.
    Changed,
    Refused(FaultKind),
}

struct Permissions {
    readable: bool,
    writable: Writable,
    executable: bool,
}

/// Whether an address is one of those that TTBR0 translates.
fn in_range(va: u64, stage1: &Stage1) -> bool {
    let looked_at = if stage1.top_byte_ignored { plain(va) } else { va };
    looked_at >> stage1.input_bits == 0
}
