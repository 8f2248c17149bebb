//! Numbers that look like nothing, from a seed; and seeds that nobody has chosen.

use core::hash::BuildHasher;
use std::hash::RandomState;

/// Splitmix64: a counter, and a mixing of its bits.
pub(crate) struct Random(u64);

impl Random {
    /// The numbers that belong to `seed`.
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

/// A number that nobody has chosen, short enough to be typed.
pub(crate) fn fresh_seed() -> u64 {
    RandomState::new().hash_one(0) >> 32
}
