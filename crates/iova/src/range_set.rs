//! A set of addresses, as ranges that neither overlap nor touch.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use portcullis_types::{Iova, IovaRange, mutant};

/// A set of addresses. Ranges that overlap or touch become one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RangeSet {
    /// From the first address of a range to its last.
    ranges: BTreeMap<Iova, Iova>,
}

fn range(first: Iova, last: Iova) -> IovaRange {
    IovaRange::from_ends(first, last).expect("the set keeps first at or below last")
}

impl RangeSet {
    /// No address.
    pub const fn new() -> Self {
        Self { ranges: BTreeMap::new() }
    }

    /// Whether no address is in the set.
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// The ranges, lowest first.
    pub fn iter(&self) -> impl Iterator<Item = IovaRange> + '_ {
        self.ranges.iter().map(|(&first, &last)| range(first, last))
    }

    /// The ranges that share an address with `with`, highest first.
    fn overlapping(&self, with: IovaRange) -> impl Iterator<Item = IovaRange> + '_ {
        let below = self.ranges.range(..=with.last()).rev();
        below.map(|(&first, &last)| range(first, last)).take_while(move |held| held.overlaps(with))
    }

    /// The lowest address that is both in the set and in `with`.
    pub fn first_overlap(&self, with: IovaRange) -> Option<Iova> {
        self.overlapping(with).last().map(|held| held.first().max(with.first()))
    }

    /// Whether an address is both in the set and in `with`. Looks at one range only.
    pub fn overlaps(&self, with: IovaRange) -> bool {
        self.overlapping(with).next().is_some()
    }

    /// Adds the addresses of `add`.
    pub fn insert(&mut self, add: IovaRange) {
        let mut grown = add;
        loop {
            // Ranges are apart, so only the highest that begins at or right after the new one's end can touch it.
            let reach = grown.last().checked_add(1).unwrap_or(grown.last());
            let highest = self.ranges.range(..=reach).next_back();
            let Some(held) =
                highest.map(|(&first, &last)| range(first, last)).filter(|held| held.touches(grown))
            else {
                break;
            };
            self.ranges.remove(&held.first());
            grown = grown.hull(held);
        }
        self.ranges.insert(grown.first(), grown.last());
    }

    /// Takes the addresses of `out` from the set; what is left of a range that is partly in `out` stays.
    pub fn remove(&mut self, out: IovaRange) {
        loop {
            let Some(held) = self.overlapping(out).next() else { break };
            self.ranges.remove(&held.first());
            if held.last() > out.last() && !mutant!("remove-loses-the-rest-above") {
                let rest = out.last().checked_add(1).expect("something lies above");
                self.ranges.insert(rest, held.last());
            }
            if held.first() < out.first() {
                let rest = out.first().checked_sub(1).expect("something lies below");
                self.ranges.insert(held.first(), rest);
            }
        }
    }

    /// The parts of `of` that are not in the set, lowest first.
    pub fn gaps(&self, of: IovaRange) -> Vec<IovaRange> {
        let mut held: Vec<_> = self.overlapping(of).collect();
        held.reverse();
        let mut gaps = Vec::new();
        let mut next = Some(of.first());
        for held in held {
            let before = held.first().checked_sub(1);
            gaps.extend(next.zip(before).and_then(|(first, last)| IovaRange::from_ends(first, last)));
            next = held.last().checked_add(1);
        }
        gaps.extend(next.and_then(|first| IovaRange::from_ends(first, of.last())));
        gaps
    }
}

#[cfg(test)]
#[expect(clippy::cast_possible_truncation, reason = "test ranges are small")]
mod tests {
    extern crate std;
    use proptest::prelude::*;

    use super::*;

    fn r(first: u64, last: u64) -> IovaRange {
        range(Iova::new(first), Iova::new(last))
    }

    fn set(ranges: &[(u64, u64)]) -> RangeSet {
        let mut set = RangeSet::new();
        ranges.iter().for_each(|&(first, last)| set.insert(r(first, last)));
        set
    }

    #[test]
    fn ranges_that_overlap_or_touch_become_one() {
        assert!(set(&[(0, 9), (10, 19), (5, 12)]).iter().eq([r(0, 19)]));
        assert!(set(&[(0, 9), (20, 29), (8, 21)]).iter().eq([r(0, 29)]));
        assert!(set(&[(0, 9), (11, 19)]).iter().eq([r(0, 9), r(11, 19)]));
    }

    #[test]
    fn the_ends_of_the_space_are_addresses_like_others() {
        let mut all = set(&[(u64::MAX, u64::MAX), (0, 0)]);
        assert_eq!(all.gaps(IovaRange::all()), [r(1, u64::MAX - 1)]);
        all.insert(r(1, u64::MAX - 1));
        assert!(all.iter().eq([IovaRange::all()]));
        all.remove(r(0, 5));
        all.remove(r(u64::MAX - 5, u64::MAX));
        assert!(all.iter().eq([r(6, u64::MAX - 6)]));
        let mut top = set(&[(u64::MAX, u64::MAX)]);
        top.insert(r(u64::MAX - 1, u64::MAX));
        assert!(top.iter().eq([r(u64::MAX - 1, u64::MAX)]));
    }

    proptest! {
        #[test]
        fn a_set_is_what_a_row_of_marks_is(
            steps in prop::collection::vec((any::<bool>(), 0u64..40, 0u64..12), 0..30),
            ask in (0u64..40, 0u64..20),
        ) {
            let mut set = RangeSet::new();
            let mut marks = [false; 64];
            for (add, first, more) in steps {
                if add { set.insert(r(first, first + more)) } else { set.remove(r(first, first + more)) }
                (first..=first + more).for_each(|at| marks[at as usize] = add);
            }
            let asked = r(ask.0, ask.0 + ask.1);
            let has = |at: u64| set.iter().any(|held| held.contains(Iova::new(at)));
            prop_assert!((0..64).all(|at| has(at) == marks[at as usize]));
            prop_assert!(set.iter().zip(set.iter().skip(1)).all(|(a, b)| !a.touches(b)));
            let first = (ask.0..=ask.0 + ask.1).find(|&at| marks[at as usize]).map(Iova::new);
            prop_assert_eq!(set.first_overlap(asked), first);
            prop_assert_eq!(set.overlaps(asked), first.is_some());
            let gaps = set.gaps(asked);
            let gaps_right = (0..64).all(|at| {
                let in_gap = gaps.iter().any(|gap| gap.contains(Iova::new(at)));
                in_gap == (asked.contains(Iova::new(at)) && !marks[at as usize])
            });
            prop_assert!(gaps_right);
        }
    }
}
