//! Counting in a ring, for whoever gives a queue work.
//!
//! An index runs to twice the number of entries, so that a full ring and an empty one differ. The entry of an index is the index without that bit.
//!
//! Spec: `docs/accelerator.md`, "Registers", TAIL and HEAD.

use core::fmt;

use crate::job::ENTRY_BYTES;

/// The most entries of a ring, as a power of two.
const MAX_SIZE_LG2: u8 = 12;

/// Which entries of a ring are free, under way and done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ring {
    size_lg2: u8,
    head: u32,
    tail: u32,
}

/// A place for a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    /// Where its entry begins, in bytes from the start of the ring.
    pub offset: usize,
    /// What to write to TAIL when the entry is written.
    pub tail: u32,
}

/// A head that no device can have come to. The device's doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeadOutOfRange {
    /// What HEAD read as.
    pub head: u32,
    /// Behind which job it was before.
    pub before: u32,
    /// Behind which job the last is.
    pub tail: u32,
}

impl Ring {
    /// A ring of `1 << size_lg2` entries that just started; none unless `size_lg2` is 1 to 12.
    pub const fn new(size_lg2: u8) -> Option<Self> {
        match size_lg2 {
            1..=MAX_SIZE_LG2 => Some(Self { size_lg2, head: 0, tail: 0 }),
            _ => None,
        }
    }

    /// Bytes of the whole ring.
    pub const fn len_bytes(&self) -> usize {
        ENTRY_BYTES << self.size_lg2
    }

    /// How many jobs have been given and are not done.
    pub const fn under_way(&self) -> u32 {
        self.distance(self.head, self.tail)
    }

    /// The place for the next job; none if the ring is full. It counts as given: the entry is to be written, then TAIL.
    pub fn push(&mut self) -> Option<Slot> {
        if self.under_way() == 1 << self.size_lg2 {
            return None;
        }
        let offset = self.offset(self.tail);
        self.tail = self.next(self.tail);
        Some(Slot { offset, tail: self.tail })
    }

    /// Takes note of HEAD, and answers where the entries of the jobs begin that are done since the last time, in the order in which they were given.
    ///
    /// # Errors
    ///
    /// The head is not between where it was and the tail. Nothing was noted.
    pub fn advance(&mut self, head: u32) -> Result<impl Iterator<Item = usize> + use<>, HeadOutOfRange> {
        let before = *self;
        let done = self.distance(self.head, head);
        if head > self.mask() || done > self.under_way() {
            return Err(HeadOutOfRange { head, before: self.head, tail: self.tail });
        }
        self.head = head;
        Ok((0..done).map(move |further| before.offset(before.head + further)))
    }

    const fn mask(&self) -> u32 {
        (2 << self.size_lg2) - 1
    }

    const fn distance(&self, from: u32, to: u32) -> u32 {
        to.wrapping_sub(from) & self.mask()
    }

    const fn next(&self, index: u32) -> u32 {
        (index + 1) & self.mask()
    }

    const fn offset(&self, index: u32) -> usize {
        (index & (self.mask() >> 1)) as usize * ENTRY_BYTES
    }
}

impl fmt::Display for HeadOutOfRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "head {:#x} is not between {:#x} and {:#x}", self.head, self.before, self.tail)
    }
}

impl core::error::Error for HeadOutOfRange {}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use super::*;

    #[test]
    fn a_ring_has_room_for_all_its_entries_and_then_for_none() {
        let mut ring = Ring::new(1).unwrap();
        assert_eq!(ring.len_bytes(), 128);
        assert_eq!(ring.push(), Some(Slot { offset: 0, tail: 1 }));
        assert_eq!(ring.push(), Some(Slot { offset: 64, tail: 2 }));
        assert_eq!((ring.push(), ring.under_way()), (None, 2));
    }

    #[test]
    fn indexes_run_to_twice_the_entries_and_begin_again() {
        let mut ring = Ring::new(2).unwrap();
        for round in 0u32..40 {
            let slot = ring.push().unwrap();
            assert_eq!((slot.offset, slot.tail), (round as usize % 4 * 64, (round + 1) % 8));
            let done: Vec<usize> = ring.advance((round + 1) % 8).unwrap().collect();
            assert_eq!(done, [slot.offset]);
            assert_eq!(ring.under_way(), 0);
        }
    }

    #[test]
    fn jobs_are_done_in_the_order_in_which_they_were_given() {
        let mut ring = Ring::new(2).unwrap();
        for _ in 0..3 {
            ring.push();
        }
        assert_eq!(ring.advance(3).unwrap().count(), 3);
        for _ in 0..4 {
            ring.push().unwrap();
        }
        assert_eq!(ring.advance(3).unwrap().count(), 0, "nothing new");
        assert_eq!(ring.advance(6).unwrap().collect::<Vec<_>>(), [192, 0, 64]);
        assert_eq!(ring.under_way(), 1);
    }

    #[test]
    fn a_head_that_cannot_be_is_not_believed() {
        let mut ring = Ring::new(2).unwrap();
        ring.push();
        ring.push();
        assert_eq!(ring.advance(1).unwrap().count(), 1);
        for head in [0, 3, 7, 8, 9, 0x1_0001, u32::MAX] {
            let error = HeadOutOfRange { head, before: 1, tail: 2 };
            assert_eq!(ring.advance(head).map(Iterator::count), Err(error));
        }
        assert_eq!(ring.under_way(), 1, "nothing was noted");
    }

    #[test]
    fn rings_have_two_to_4096_entries() {
        assert!(Ring::new(0).is_none() && Ring::new(13).is_none());
        assert_eq!(Ring::new(12).unwrap().len_bytes(), 4096 * 64);
    }
}
