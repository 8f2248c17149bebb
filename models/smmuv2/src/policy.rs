//! What the model does where the book leaves a choice.
//!
//! A [`Policy`] says how mean the hardware is. All of them are allowed by the book: a driver that works under one and
//! not under another is wrong.
//!
//! Spec: SMMUv2 D.c, 2.5 "TLB operation", 5.1 "Updating the state of a context bank", 5.4 "TLB maintenance operations", 9.2 "Reset values".

/// How the hardware uses its freedom. A tick is a step of the model or a register read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Whether work is also done when a register is read. If not, only `step` does.
    pub work_on_reads: bool,
    /// Whether a TLB invalidation may wait for the synchronization behind it.
    pub lazy_invalidation: bool,
    /// The most ticks that a synchronization takes, once the accesses that it waits for are done.
    pub sync_ticks: u32,
    /// One synchronization in so many never ends: the hardware is stuck. 0: never. No book allows that; drivers must survive it.
    pub stuck_sync_one_in: u32,
    /// One access in so many throws a cached translation out; 0: caches keep what they have for ever.
    pub evict_one_in: u32,
    /// One access in so many fills a translation that nobody asked for; 0: never.
    pub prefetch_one_in: u32,
    /// One tick in so many fills a translation near the last access, if its banks are still enabled, though nobody asks; 0: never.
    pub idle_prefetch_one_in: u32,
    /// One access in so many walks the tables again to see whether a live translation was changed under it; 0: never.
    pub audit_one_in: u32,
    /// Whether a conflict of translations is a TLB match conflict fault, rather than one of the two.
    pub conflict_faults: bool,
    /// Whether registers whose value the book calls UNKNOWN, out of reset or in a fault, hold anything; if not, they hold 0.
    pub unknown_values: bool,
    /// The most translations that are kept.
    pub translations: usize,
}

impl Policy {
    /// Keeps everything for ever, and is slow to do what it is told: the default, because it shows a missing invalidation at once.
    pub const fn stale() -> Self {
        Self {
            work_on_reads: true,
            lazy_invalidation: true,
            sync_ticks: 5,
            stuck_sync_one_in: 0,
            evict_one_in: 0,
            prefetch_one_in: 0,
            idle_prefetch_one_in: 0,
            audit_one_in: 251,
            conflict_faults: false,
            unknown_values: true,
            translations: 1 << 16,
        }
    }

    /// Does everything at once and nothing of its own accord, for figures that must not depend on dice.
    pub const fn eager() -> Self {
        Self {
            lazy_invalidation: false,
            sync_ticks: 0,
            audit_one_in: 0,
            unknown_values: false,
            ..Self::stale()
        }
    }

    /// Throws out, fetches ahead and delays all the time.
    pub const fn hostile() -> Self {
        Self {
            sync_ticks: 40,
            evict_one_in: 31,
            prefetch_one_in: 7,
            idle_prefetch_one_in: 3,
            audit_one_in: 13,
            conflict_faults: true,
            ..Self::stale()
        }
    }
}

impl Default for Policy {
    fn default() -> Self {
        Self::stale()
    }
}
