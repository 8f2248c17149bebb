//! Ranges of addresses, `first..=last`.

use core::fmt;

use crate::{Address, Gpa, Iova, Pa};

/// A non-empty run of addresses in one space, both ends included.
///
/// The last address of a space can be in a range; an empty range cannot be said.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AddressRange<A> {
    first: A,
    last: A,
}

/// A run of I/O virtual addresses.
pub type IovaRange = AddressRange<Iova>;
/// A run of intermediate physical addresses.
pub type GpaRange = AddressRange<Gpa>;
/// A run of physical addresses.
pub type PaRange = AddressRange<Pa>;

impl<A: Address> AddressRange<A> {
    /// `len_bytes` addresses from `start`; none if there are none, or if they would pass the end of 64 bits.
    pub fn new(start: A, len_bytes: u64) -> Option<Self> {
        let last = start.get().checked_add(len_bytes.checked_sub(1)?)?;
        Some(Self { first: start, last: A::new(last) })
    }

    /// The addresses from `first` to `last`, both included; none if `last` is below `first`.
    pub fn from_ends(first: A, last: A) -> Option<Self> {
        (first <= last).then_some(Self { first, last })
    }

    /// Every address of the space.
    pub fn all() -> Self {
        Self { first: A::new(0), last: A::new(u64::MAX) }
    }

    /// The lowest address.
    pub fn first(self) -> A {
        self.first
    }

    /// The highest address, included.
    pub fn last(self) -> A {
        self.last
    }

    /// How many addresses; none for all 2^64 of them.
    pub fn len_bytes(self) -> Option<u64> {
        (self.last.get() - self.first.get()).checked_add(1)
    }

    /// Whether `address` lies in the range.
    pub fn contains(self, address: A) -> bool {
        self.first <= address && address <= self.last
    }

    /// Whether all of `other` lies in the range.
    pub fn covers(self, other: Self) -> bool {
        self.first <= other.first && other.last <= self.last
    }

    /// Whether some address lies in both ranges.
    pub fn overlaps(self, other: Self) -> bool {
        self.first <= other.last && other.first <= self.last
    }

    /// The addresses that lie in both ranges.
    pub fn intersection(self, other: Self) -> Option<Self> {
        Self::from_ends(self.first.max(other.first), self.last.min(other.last))
    }

    /// The smallest range that covers both.
    pub fn hull(self, other: Self) -> Self {
        Self { first: self.first.min(other.first), last: self.last.max(other.last) }
    }

    /// Whether the ranges overlap, or one begins right after the other ends.
    pub fn touches(self, other: Self) -> bool {
        self.overlaps(other) || self.joined(other).is_some() || other.joined(self).is_some()
    }

    /// This range and `next` as one, if `next` begins right after this one ends.
    pub fn joined(self, next: Self) -> Option<Self> {
        let follows = self.last.get().checked_add(1) == Some(next.first.get());
        follows.then_some(Self { first: self.first, last: next.last })
    }

    /// Whether both ends fall on multiples of `align_bytes`, a power of two.
    pub fn is_aligned(self, align_bytes: u64) -> bool {
        let mask = align_bytes - 1;
        self.first.get() & mask == 0 && self.last.get() & mask == mask
    }

    /// The smallest range of whole multiples of `align_bytes`, a power of two, that covers this one.
    pub fn align_outward(self, align_bytes: u64) -> Self {
        let mask = align_bytes - 1;
        Self { first: A::new(self.first.get() & !mask), last: A::new(self.last.get() | mask) }
    }
}

impl<A: Address> fmt::Debug for AddressRange<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}..={:#x}", self.first, self.last)
    }
}

impl<A: Address> fmt::Display for AddressRange<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}-{:#x}", self.first, self.last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(first: u64, last: u64) -> IovaRange {
        IovaRange::from_ends(Iova::new(first), Iova::new(last)).unwrap()
    }

    #[test]
    fn the_last_address_exists_and_nothing_wraps() {
        let top = IovaRange::new(Iova::new(u64::MAX - 0xfff), 0x1000).unwrap();
        assert_eq!(top.last(), Iova::new(u64::MAX));
        assert_eq!(IovaRange::new(Iova::new(u64::MAX), 2), None);
        assert_eq!(IovaRange::new(Iova::new(0), 0), None);
        assert_eq!(IovaRange::from_ends(Iova::new(2), Iova::new(1)), None);
    }

    #[test]
    fn every_pair_of_small_ranges_agrees_with_counting() {
        let all = || (0..6u64).flat_map(|a| (a..6u64).map(move |b| range(a, b)));
        for a in all() {
            for b in all() {
                let shared = (0..6).map(Iova::new).filter(|&x| a.contains(x) && b.contains(x)).count();
                assert_eq!(a.overlaps(b), shared > 0, "{a:?} {b:?}");
                assert_eq!(a.intersection(b).and_then(IovaRange::len_bytes).unwrap_or(0), shared as u64);
                assert_eq!(a.covers(b), Some(shared as u64) == b.len_bytes());
                let around = (0..6).map(Iova::new).filter(|&x| a.contains(x) || b.contains(x));
                assert_eq!(
                    Some(a.hull(b)),
                    IovaRange::from_ends(around.clone().min().unwrap(), around.max().unwrap())
                );
                let adjacent = b.first().get() == a.last().get() + 1 || a.first().get() == b.last().get() + 1;
                assert_eq!(a.touches(b), shared > 0 || adjacent, "{a:?} {b:?}");
                let longer =
                    (b.first().get() == a.last().get() + 1).then(|| range(a.first().get(), b.last().get()));
                assert_eq!(a.joined(b), longer, "{a:?} {b:?}");
            }
        }
    }

    #[test]
    fn the_top_of_the_space_does_not_touch_its_bottom() {
        assert!(!range(u64::MAX, u64::MAX).touches(range(0, 0)));
    }

    #[test]
    fn aligning_outward_keeps_the_last_page() {
        assert_eq!(range(0x1234, 0x1fff).align_outward(0x1000), range(0x1000, 0x1fff));
        assert_eq!(range(0xfff, 0x1000).align_outward(0x1000), range(0, 0x1fff));
        assert!(range(0x1000, 0x1fff).is_aligned(0x1000) && !range(0x1000, 0x2000).is_aligned(0x1000));
        assert_eq!(IovaRange::all().len_bytes(), None);
    }
}
