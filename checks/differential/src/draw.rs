//! What is drawn from dice: numbers below a bound, and one of several.

use model_bus::Dice;

/// The dice of case `number` of the run with this seed.
pub(crate) fn dice(seed: u64, number: u64) -> Dice {
    Dice::new(seed ^ number.wrapping_mul(0x9fb2_1c65_1e98_df25))
}

/// A number below `bound`; 0 if there is none.
pub(crate) fn below(dice: &mut Dice, bound: u64) -> u64 {
    dice.next_bits() % bound.max(1)
}

/// One of several.
pub(crate) fn pick<T: Copy>(dice: &mut Dice, of: &[T]) -> T {
    of[usize::try_from(below(dice, of.len() as u64)).unwrap_or(0)]
}
