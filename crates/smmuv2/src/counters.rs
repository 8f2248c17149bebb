//! What the driver did, in numbers.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Operation {
    /// SMMU_CBn_TLBIVA: an address, walk caches included.
    TlbiVa,
    /// SMMU_CBn_TLBIVAL: an address, leaves only.
    TlbiVal,
    /// SMMU_CBn_TLBIASID: everything of a stage 1 domain.
    TlbiAsid,
    /// SMMU_CBn_TLBIALL: everything of guests' tables before one domain.
    TlbiStage1,
    /// SMMU_CBn_TLBIIPAS2: an address, walk caches included.
    TlbiIpas2,
    /// SMMU_CBn_TLBIIPAS2L: an address, leaves only.
    TlbiIpas2l,
    /// SMMU_TLBIVMID: everything of a stage 2 domain.
    TlbiVmid,
    /// SMMU_TLBIALLNSNH: everything.
    TlbiAll,
    /// SMMU_CBn_TLBSYNC: one bank's operations.
    BankSync,
    /// SMMU_TLBGSYNC: all operations.
    GlobalSync,
    /// SMMU_SMRn was written.
    StreamMatch,
    /// SMMU_S2CRn was written.
    StreamContext,
    /// A translation context bank was set up or taken out of use.
    Bank,
    /// A context fault was taken.
    ContextFault,
    /// A global fault was taken.
    GlobalFault,
    /// Faults of which the hardware kept nothing, since an earlier one was not taken yet; counted once for each time that this was seen.
    LostFaults,
    /// A stalled transaction was retried.
    Retry,
    /// A stalled transaction was terminated.
    Terminate,
}

impl Operation {
    /// All of them.
    pub const ALL: [Self; 18] = [
        Self::TlbiVa,
        Self::TlbiVal,
        Self::TlbiAsid,
        Self::TlbiStage1,
        Self::TlbiIpas2,
        Self::TlbiIpas2l,
        Self::TlbiVmid,
        Self::TlbiAll,
        Self::BankSync,
        Self::GlobalSync,
        Self::StreamMatch,
        Self::StreamContext,
        Self::Bank,
        Self::ContextFault,
        Self::GlobalFault,
        Self::LostFaults,
        Self::Retry,
        Self::Terminate,
    ];
}

const KINDS: usize = Operation::ALL.len();

/// Counters that every CPU adds to.
#[derive(Debug)]
pub(crate) struct Counters([AtomicU64; KINDS]);

impl Counters {
    pub(crate) fn new() -> Self {
        Self([const { AtomicU64::new(0) }; KINDS])
    }

    pub(crate) fn count(&self, operation: Operation) {
        self.0[operation as usize].fetch_add(1, Relaxed);
    }

    pub(crate) fn snapshot(&self) -> Counts {
        Counts(core::array::from_fn(|kind| self.0[kind].load(Relaxed)))
    }
}

/// What the driver did since probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counts([u64; KINDS]);

impl Counts {
    /// How often this was done.
    pub fn of(&self, operation: Operation) -> u64 {
        self.0[operation as usize]
    }

    /// All TLB invalidations.
    pub fn invalidations(&self) -> u64 {
        self.0[Operation::TlbiVa as usize..=Operation::TlbiAll as usize].iter().sum()
    }

    /// All syncs.
    pub fn syncs(&self) -> u64 {
        self.of(Operation::BankSync) + self.of(Operation::GlobalSync)
    }

    /// What was done at all, and how often.
    pub fn each(&self) -> impl Iterator<Item = (Operation, u64)> + '_ {
        Operation::ALL.into_iter().map(|kind| (kind, self.of(kind))).filter(|&(_, count)| count > 0)
    }

    /// What was done after `earlier`.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        Self(core::array::from_fn(|kind| self.0[kind] - earlier.0[kind]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_operation_is_counted_under_its_own_name() {
        let counters = Counters::new();
        for (times, operation) in (1u64..).zip(Operation::ALL) {
            assert_eq!(operation as u64, times - 1, "in the order in which they are declared");
            (0..times).for_each(|_| counters.count(operation));
        }
        let counts = counters.snapshot();
        assert!((1u64..).zip(Operation::ALL).all(|(times, operation)| counts.of(operation) == times));
        assert_eq!((counts.invalidations(), counts.syncs()), (1 + 2 + 3 + 4 + 5 + 6 + 7 + 8, 9 + 10));
        assert_eq!(counts.since(&counts).each().count(), 0);
    }
}
