//! Seeded chance: where the hardware may do either of two things, the seed decides.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// A source of numbers that one seed determines. Threads may share it; then their interleaving decides who gets which.
///
/// The generator is SplitMix64: a counter, and a mixing of its bits.
#[derive(Debug)]
pub struct Chance(AtomicU64);

impl Chance {
    /// The numbers that belong to `seed`.
    pub const fn new(seed: u64) -> Self {
        Self(AtomicU64::new(seed))
    }

    /// The next number.
    pub fn next(&self) -> u64 {
        mixed(self.0.fetch_add(STEP, Relaxed).wrapping_add(STEP))
    }

    /// Leaves out as many numbers.
    pub fn skip(&self, count: u64) {
        self.0.fetch_add(STEP.wrapping_mul(count), Relaxed);
    }

    /// A number below `bound`; 0 if `bound` is 0.
    pub fn below(&self, bound: usize) -> usize {
        let wide = (u128::from(self.next()) * bound as u128) >> 64;
        wide as usize
    }

    /// True once in `count` times; always if `count` is 0 or 1.
    pub fn once_in(&self, count: usize) -> bool {
        self.below(count) == 0
    }

    /// Puts `items` into an order of its choice.
    pub fn shuffle<T>(&self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last + 1));
        }
    }
}

/// By how much SplitMix64's counter grows.
pub(crate) const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// What SplitMix64 makes of its counter.
pub(crate) fn mixed(counter: u64) -> u64 {
    let mut z = counter;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_seed_is_one_sequence() {
        let (a, b, c) = (Chance::new(7), Chance::new(7), Chance::new(8));
        let take = |chance: &Chance| (0..8).map(|_| chance.next()).collect::<Vec<_>>();
        let first = take(&a);
        assert_eq!(first, take(&b));
        assert_ne!(first, take(&c));
    }

    #[test]
    fn numbers_that_are_left_out_are_those_that_would_have_come() {
        let (a, b) = (Chance::new(7), Chance::new(7));
        (0..5).for_each(|_| _ = a.next());
        b.skip(5);
        assert_eq!(a.next(), b.next());
    }

    #[test]
    fn a_bound_is_kept_and_every_number_below_it_comes() {
        let chance = Chance::new(1);
        let mut seen = [false; 5];
        (0..200).for_each(|_| seen[chance.below(5)] = true);
        assert_eq!(seen, [true; 5]);
        assert_eq!(chance.below(0), 0);
        assert!(chance.once_in(1));
    }

    #[test]
    fn a_shuffle_loses_nothing() {
        let mut items: Vec<u32> = (0..50).collect();
        Chance::new(3).shuffle(&mut items);
        assert_ne!(items, (0..50).collect::<Vec<_>>());
        items.sort_unstable();
        assert_eq!(items, (0..50).collect::<Vec<_>>());
    }
}
