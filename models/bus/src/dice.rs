//! Dice for models that hold a lock of their own anyway.
//!
//! Not here: chances that several threads take ([`Chance`](crate::Chance)).

use crate::rng::{STEP, mixed};

/// The dice: SplitMix64. One seed, one run.
#[derive(Clone, Debug)]
pub struct Dice(u64);

impl Dice {
    /// Dice that fall as `seed` says.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next 64 bits.
    pub fn next_bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(STEP);
        mixed(self.0)
    }

    /// A number from 0 to `most`, both included.
    pub fn up_to(&mut self, most: u32) -> u32 {
        let range = u64::from(most) + 1;
        u32::try_from(self.next_bits() % range).unwrap_or(most)
    }

    /// True once in `n` times; never if `n` is 0.
    pub fn one_in(&mut self, n: u32) -> bool {
        n != 0 && self.up_to(n - 1) == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_seed_is_one_run() {
        let draw = |seed| {
            let mut dice = Dice::new(seed);
            [dice.next_bits(), dice.next_bits(), dice.next_bits()]
        };
        assert_eq!(draw(7), draw(7));
        assert_ne!(draw(7), draw(8));
    }

    #[test]
    fn never_is_never_and_always_is_always() {
        let mut dice = Dice::new(1);
        assert!((0..1000).all(|_| !dice.one_in(0) && dice.one_in(1) && dice.up_to(3) <= 3));
    }
}
