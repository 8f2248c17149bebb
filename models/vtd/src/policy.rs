//! What the model does where the book leaves a choice.
//!
//! A [`Policy`] says how mean the hardware is. All of them are allowed by the book: a driver that works under one and not under another is wrong.
//!
//! Spec: VT-d 5.10, 6.2 "Address Translation Caches", 6.5.2.11 "Hardware Handling of Queued Invalidation Interface Errors", 6.5.2.12 "Queued Invalidation Ordering Considerations".

/// How the hardware uses its freedom. Numbers of ticks: a tick is a step of the model or a register read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// The most ticks before a global command, a protected-memory command or an invalidation by register is done. 0: at once.
    pub acknowledge_ticks: u32,
    /// The most descriptors taken from the queue in one tick; at least one is.
    pub descriptors_per_tick: u32,
    /// Whether work is also done when a register is read. If not, only `step` does any.
    pub work_on_reads: bool,
    /// Whether an invalidation that was fetched may wait for the wait descriptor behind it.
    pub lazy_invalidation: bool,
    /// Whether the head stays at a wait descriptor until that is complete. Then one that an invalidation time-out aborted is fetched again.
    pub head_stays_at_wait: bool,
    /// One access in so many throws a cached translation out; 0: caches keep what they have for ever.
    pub evict_one_in: u32,
    /// One access in so many fetches the translation of the page behind it; 0: never.
    pub prefetch_one_in: u32,
    /// One access in so many compares what is cached of its context with memory, to see whether it was changed against the rules; 0: never.
    pub audit_one_in: u32,
    /// How long a device may take to answer an invalidation, in nanoseconds of bus time.
    pub device_tlb_timeout_ns: u64,
    /// The most ticks that a page request waits in the unit before it is in the queue. 0: none.
    pub page_request_ticks: u32,
    /// One answer to a translation request in so many is for 4 KiB only; 0: never.
    pub stingy_answer_one_in: u32,
    /// The most translations that are kept.
    pub translations: usize,
}

impl Policy {
    /// Keeps everything for ever, and is slow to do what it is told: the default, because it shows a missing invalidation at once.
    pub const fn stale() -> Self {
        Self {
            acknowledge_ticks: 3,
            descriptors_per_tick: 8,
            work_on_reads: true,
            lazy_invalidation: true,
            head_stays_at_wait: true,
            evict_one_in: 0,
            prefetch_one_in: 0,
            audit_one_in: 251,
            device_tlb_timeout_ns: 500_000,
            page_request_ticks: 2,
            stingy_answer_one_in: 0,
            translations: 1 << 16,
        }
    }

    /// Does everything at once and nothing of its own accord, for figures that must not depend on dice.
    pub const fn eager() -> Self {
        Self {
            acknowledge_ticks: 0,
            descriptors_per_tick: u32::MAX,
            lazy_invalidation: false,
            head_stays_at_wait: false,
            audit_one_in: 0,
            page_request_ticks: 0,
            ..Self::stale()
        }
    }

    /// Throws out, fetches ahead and delays all the time.
    pub const fn hostile() -> Self {
        Self {
            acknowledge_ticks: 9,
            descriptors_per_tick: 3,
            head_stays_at_wait: false,
            evict_one_in: 31,
            prefetch_one_in: 7,
            audit_one_in: 13,
            page_request_ticks: 9,
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
