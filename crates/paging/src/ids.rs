//! Address space ids, VMIDs, domain-ids: who has which.
//!
//! A number that was given back is not given out again soon: the search goes on behind the last one, so that a stale entry somewhere would have
//! to survive the use of all others. That is a help, not the promise; the promise (`no-reuse`) is that who gives a number back has
//! made the hardware forget it first, and keeps it otherwise.

use alloc::vec;
use alloc::vec::Vec;

/// Numbers from 1 up to a limit.
#[derive(Debug)]
pub struct Ids {
    taken: Vec<u64>,
    last: u16,
    max: u16,
}

impl Ids {
    /// The numbers of `bits` bits, but 0: that is what TLB entries without the id are tagged with, or those of what is not present.
    ///
    /// # Panics
    ///
    /// If `bits` is not 1 to 16.
    pub fn new(bits: u8) -> Self {
        assert!((1..=16).contains(&bits), "ids of {bits} bits");
        let max = u16::MAX >> (16 - bits);
        let mut taken = vec![0; (usize::from(max) + 1).div_ceil(64)];
        taken[0] = 1;
        Self { taken, last: 0, max }
    }

    /// A number that nobody has; none if all are taken.
    pub fn take(&mut self) -> Option<u16> {
        let above = self.last.checked_add(1).filter(|&first| first <= self.max);
        let found =
            above.and_then(|first| self.free_in(first, self.max)).or_else(|| self.free_in(1, self.last))?;
        self.taken[usize::from(found) / 64] |= 1 << (found % 64);
        self.last = found;
        Some(found)
    }

    /// Takes this number. Answers whether it was free.
    pub fn claim(&mut self, id: u16) -> bool {
        let free = self.free_in(id, id).is_some();
        if free {
            self.taken[usize::from(id) / 64] |= 1 << (id % 64);
        }
        free
    }

    /// Whether there is such a number.
    pub fn covers(&self, id: u16) -> bool {
        (1..=self.max).contains(&id)
    }

    fn free_in(&self, first: u16, last: u16) -> Option<u16> {
        (first..=last).find(|&id| self.taken[usize::from(id) / 64] >> (id % 64) & 1 == 0)
    }

    /// Gives a number back. The hardware has forgotten it.
    pub fn give_back(&mut self, id: u16) {
        debug_assert!(self.taken[usize::from(id) / 64] >> (id % 64) & 1 == 1, "an id that was not taken");
        self.taken[usize::from(id) / 64] &= !(1 << (id % 64));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_numbers_but_zero_are_given_out_once() {
        for bits in [1, 2, 8] {
            let mut ids = Ids::new(bits);
            let mut seen: Vec<u16> = core::iter::from_fn(|| ids.take()).collect();
            seen.sort_unstable();
            assert_eq!(seen, (1..1u16 << bits).collect::<Vec<_>>());
            assert_eq!(ids.take(), None);
            ids.give_back(1);
            assert_eq!((ids.take(), ids.take()), (Some(1), None));
        }
    }

    #[test]
    fn a_number_comes_back_last() {
        let mut ids = Ids::new(2);
        assert_eq!(ids.take(), Some(1));
        ids.give_back(1);
        assert_eq!((ids.take(), ids.take(), ids.take()), (Some(2), Some(3), Some(1)));
    }

    #[test]
    fn sixteen_bits_fit() {
        let mut ids = Ids::new(16);
        assert_eq!(core::iter::from_fn(|| ids.take()).count(), 65535);
    }
}
