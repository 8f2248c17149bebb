//! What the model has done, in numbers.

use std::collections::BTreeMap;

use crate::fault::FaultKind;

/// Counts since the model was made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// TLB operations and synchronizations taken, by the register's name without SMMU.
    pub operations: BTreeMap<&'static str, u64>,
    /// Synchronizations that completed.
    pub syncs_done: u64,
    /// Synchronizations that never will.
    pub syncs_stuck: u64,
    /// Faults that arose, by kind, whether they were recorded in full or as MULTI.
    pub faults: BTreeMap<FaultKind, u64>,
    /// Of those, how many found another that was not cleared yet, and left no record of their own.
    pub faults_lost: u64,
    /// Accesses that found their translation cached.
    pub hits: u64,
    /// Accesses that needed a walk.
    pub misses: u64,
    /// Table descriptors read, both stages.
    pub descriptor_reads: u64,
    /// Cached translations removed by TLB operations.
    pub invalidated: u64,
    /// Accesses that went through a context bank and were let through.
    pub granted: u64,
    /// Bytes of those.
    pub granted_bytes: u64,
    /// Accesses that were let through past all context banks.
    pub bypassed: u64,
    /// Accesses that were refused.
    pub refused: u64,
    /// Accesses that were held back.
    pub stalls: u64,
    /// Of those, how many software let try again.
    pub resumed: u64,
    /// Of those, how many software ended.
    pub terminated: u64,
    /// Broadcast operations that were heard.
    pub broadcasts: u64,
    /// Register reads.
    pub register_reads: u64,
    /// Register writes.
    pub register_writes: u64,
}

impl Counters {
    /// All TLB operations, without synchronizations.
    pub fn invalidations(&self) -> u64 {
        self.operations
            .iter()
            .filter(|(name, _)| !name.ends_with("SYNC") && **name != "broadcast")
            .map(|(_, count)| count)
            .sum()
    }

    /// How many of the operation with this name, `TLBIVA`, `TLBGSYNC` and the like, there were.
    pub fn operation(&self, name: &str) -> u64 {
        self.operations.get(name).copied().unwrap_or(0)
    }

    /// Faults of a kind.
    pub fn fault(&self, kind: FaultKind) -> u64 {
        self.faults.get(&kind).copied().unwrap_or(0)
    }
}
