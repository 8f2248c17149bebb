//! What the model does where nothing says what the hardware does, and the seeded dice that decide it.
//!
//! All policies are hardware that may exist: a driver that works under one and not under another counts on something that nobody promised.

/// How the hardware uses its freedom. A tick is a step of the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// The most ticks that a kill or an invalidation, once stored, waits before it takes effect. 0: at once. A load of a register ends the wait.
    pub kill_ticks: u32,
    /// Whether a TCE is fetched together with its neighbours, the 16 of its line of 128 bytes.
    pub lines: bool,
    /// Whether TCEs without permissions are kept, so that an entry that was made valid needs a kill as well.
    ///
    /// Observed: Linux 4.20, pnv_ioda2_tce_build, kills after it has made entries valid.
    pub keep_invalid: bool,
    /// Whether entries of upper levels are kept. A kill by entry does not remove them: only one by PE, or of all, does.
    pub keep_tables: bool,
    /// One access in so many throws a cached TCE out; 0: what is cached stays until it is killed.
    pub evict_one_in: u32,
    /// The most TCEs that are kept.
    pub entries: usize,
}

impl Policy {
    /// Keeps everything for ever, and is slow to do what it is told: the default, because it shows a missing kill at once.
    pub const fn stale() -> Self {
        Self {
            kill_ticks: 5,
            lines: true,
            keep_invalid: true,
            keep_tables: true,
            evict_one_in: 0,
            entries: 1 << 16,
        }
    }

    /// Does everything at once and nothing of its own accord, for figures that must not depend on dice.
    pub const fn eager() -> Self {
        Self { kill_ticks: 0, lines: false, keep_invalid: false, ..Self::stale() }
    }

    /// Throws out and delays all the time.
    pub const fn hostile() -> Self {
        Self { kill_ticks: 40, evict_one_in: 5, entries: 64, ..Self::stale() }
    }
}

impl Default for Policy {
    fn default() -> Self {
        Self::stale()
    }
}
