//! How CPUs of either kind use the freedom that their books leave to TLBs.

use model_bus::Chance;

/// How the TLBs behave where the architecture leaves it open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TlbPolicy {
    /// What decides.
    pub seed: u64,
    /// How many translations a CPU's TLB holds, at least 1.
    pub entries: usize,
    /// One in so many accesses throws something out; 0 for never.
    pub evict_one_in: usize,
    /// After one in so many accesses some CPU walks for a page near what was accessed; 0 for never.
    pub speculate_one_in: usize,
    /// One in so many accesses makes what was asked to be forgotten take effect before its barrier; 0 for never. An x86 CPU forgets at once; there, one in
    /// so many invalidations makes it forget all that it holds.
    pub early_one_in: usize,
}

impl TlbPolicy {
    /// A bit of everything.
    pub const fn seeded(seed: u64) -> Self {
        Self { seed, entries: 512, evict_one_in: 64, speculate_one_in: 16, early_one_in: 8 }
    }

    /// Nothing is forgotten until it must be, and nothing is walked for that nobody asked for.
    pub const fn holding(seed: u64) -> Self {
        Self { seed, entries: 1 << 16, evict_one_in: 0, speculate_one_in: 0, early_one_in: 0 }
    }
}

/// True once in `one_in` times; never if that is 0.
pub(crate) fn by_chance(chance: &Chance, one_in: usize) -> bool {
    one_in != 0 && chance.once_in(one_in)
}
