//! What the model has done, in numbers.

use std::collections::BTreeMap;

use crate::cause::Cause;

/// Counts since the model was made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Accesses that were translated and let through.
    pub granted: u64,
    /// Bytes of those.
    pub granted_bytes: u64,
    /// Accesses that a bypass window let through.
    pub bypassed: u64,
    /// Accesses that were refused, for whatever reason.
    pub refused: u64,
    /// Of those, how many for no other reason than that their PE was frozen already.
    pub refused_frozen: u64,
    /// Errors, by cause. What a frozen PE does is none.
    pub errors: BTreeMap<Cause, u64>,
    /// PEs that errors froze, those that went along with another one included.
    pub freezes: u64,
    /// Accesses whose TCE was cached.
    pub hits: u64,
    /// Accesses that needed a walk.
    pub misses: u64,
    /// Reads of tables by walks: a line counts once.
    pub table_reads: u64,
    /// Reads of the RTT.
    pub rtt_reads: u64,
    /// Kills of one entry.
    pub kills_one: u64,
    /// Kills of a PE.
    pub kills_pe: u64,
    /// Kills of everything.
    pub kills_all: u64,
    /// Cached TCEs that kills removed.
    pub killed: u64,
    /// Invalidations of the RTC.
    pub rtc_invalidations: u64,
    /// Messages whose interrupt was presented, kept in Q, or dropped because Q was set.
    pub messages: u64,
    /// Messages that were refused: no such source, or one of another PE.
    pub messages_refused: u64,
    /// Interrupts presented.
    pub interrupts: u64,
    /// Loads of registers.
    pub register_reads: u64,
    /// Stores to registers.
    pub register_writes: u64,
    /// Reads and writes of configuration space.
    pub config_accesses: u64,
    /// CPU accesses to devices that were answered with all ones, or dropped, because the PE was frozen.
    pub mmio_blocked: u64,
}

impl Counters {
    /// All kills.
    pub fn kills(&self) -> u64 {
        self.kills_one + self.kills_pe + self.kills_all
    }

    /// All errors.
    pub fn errors_total(&self) -> u64 {
        self.errors.values().sum()
    }
}
