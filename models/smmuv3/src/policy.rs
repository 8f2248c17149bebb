//! What the model does where the book leaves a choice, and the seeded dice that decide it.
//!
//! A [`Policy`] says how mean the hardware is. All of them are allowed by the book: a driver that works under one and
//! not under another is wrong.
//!
//! Spec: SMMUv3 H.a, 3.21 "Structure access rules and update procedures", 16.2 "Caching".

/// How the hardware uses its freedom. Numbers of ticks: a tick is a step of the model or a register read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// The most ticks that an Update of CR0, IRQ_CTRL or GBPA takes. 0: at once.
    pub acknowledge_ticks: u32,
    /// The most commands consumed in one tick; at least one is.
    pub commands_per_tick: u32,
    /// Whether commands are also consumed, and Updates done, when a register is read. If not, only `step` does.
    pub work_on_reads: bool,
    /// Whether an invalidation may wait for the CMD_SYNC behind it.
    pub lazy_invalidation: bool,
    /// One access in so many throws a cached translation out; 0: caches keep what they have for ever.
    pub evict_one_in: u32,
    /// One access in so many fills a translation that nobody asked for; 0: never.
    pub prefetch_one_in: u32,
    /// One access in so many walks the tables again to see whether a live translation was changed under it; 0: never.
    pub audit_one_in: u32,
    /// One tick in so many fetches the configuration of a stream that nobody asked for; 0: never.
    pub prefetch_streams_one_in: u32,
    /// The most ticks that an event waits before it reaches the queue; a CMD_SYNC pushes it out. 0: at once.
    pub event_ticks: u32,
    /// Whether a conflict of translations is an F_TLB_CONFLICT, rather than one of the two.
    pub conflict_faults: bool,
    /// How long an ATC may take to answer an invalidation, in nanoseconds of bus time, before the CMD_SYNC behind it fails.
    pub atc_timeout_ns: u64,
    /// One answer to a translation request in so many gives less than it could: a smaller piece, or no permission to write where none was
    /// asked for; 0: never.
    pub stingy_answer_one_in: u32,
    /// The most translations that are kept.
    pub translations: usize,
}

impl Policy {
    /// Keeps everything for ever, and is slow to do what it is told: the default, because it shows a missing invalidation at once.
    pub const fn stale() -> Self {
        Self {
            acknowledge_ticks: 3,
            commands_per_tick: 8,
            work_on_reads: true,
            lazy_invalidation: true,
            evict_one_in: 0,
            prefetch_one_in: 0,
            audit_one_in: 251,
            prefetch_streams_one_in: 0,
            event_ticks: 0,
            conflict_faults: false,
            atc_timeout_ns: 500_000,
            stingy_answer_one_in: 0,
            translations: 1 << 16,
        }
    }

    /// Does everything at once and nothing of its own accord, for figures that must not depend on dice.
    pub const fn eager() -> Self {
        Self {
            acknowledge_ticks: 0,
            commands_per_tick: u32::MAX,
            lazy_invalidation: false,
            audit_one_in: 0,
            ..Self::stale()
        }
    }

    /// Throws out, fetches ahead and delays all the time.
    pub const fn hostile() -> Self {
        Self {
            acknowledge_ticks: 9,
            commands_per_tick: 3,
            evict_one_in: 31,
            prefetch_one_in: 7,
            audit_one_in: 13,
            prefetch_streams_one_in: 3,
            event_ticks: 5,
            conflict_faults: true,
            stingy_answer_one_in: 2,
            ..Self::stale()
        }
    }
}

impl Default for Policy {
    fn default() -> Self {
        Self::stale()
    }
}
