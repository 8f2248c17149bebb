//! Which StreamIDs an entry of the stream mapping table matches.
//!
//! A [`StreamMatch`] is an ID and a mask of its bits that do not matter. [`merged`] makes few of many, and never matches an ID more.
//!
//! A source of core's is a 32-bit number: the ID in its low half, the mask in its high half, as the two cells of the device tree binding say and as
//! one cell says with a mask of 0.
//!
//! Spec: SMMUv2 D.c, 2.3.7 "StreamID matching", 9.6.25 "SMMU_SMRn, Stream Match Register".
//! Spec: binding iommu/arm,smmu.yaml, #iommu-cells.

use alloc::vec::Vec;

use portcullis_types::SourceId;

/// An ID, and which of its bits do not matter. Those are 0 in the ID.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamMatch {
    id: u16,
    mask: u16,
}

impl StreamMatch {
    /// What is equal to `id` in all bits that are 0 in `mask`.
    pub const fn new(id: u16, mask: u16) -> Self {
        Self { id: id & !mask, mask }
    }

    /// What a source of core's says.
    #[expect(clippy::cast_possible_truncation, reason = "the two halves")]
    pub const fn of(source: SourceId) -> Self {
        Self::new(source.0 as u16, (source.0 >> 16) as u16)
    }

    /// The bits that matter.
    pub const fn id(self) -> u16 {
        self.id
    }

    /// The bits that do not.
    pub const fn mask(self) -> u16 {
        self.mask
    }

    /// Whether a StreamID is matched.
    pub const fn matches(self, stream_id: u16) -> bool {
        (stream_id ^ self.id) & !self.mask == 0
    }

    /// Whether some StreamID is matched by both.
    pub const fn overlaps(self, other: Self) -> bool {
        (self.id ^ other.id) & !(self.mask | other.mask) == 0
    }

    /// Whether every StreamID that `other` matches is matched.
    pub const fn covers(self, other: Self) -> bool {
        other.mask & !self.mask == 0 && self.matches(other.id)
    }

    /// Every StreamID that is matched.
    pub fn each(self) -> impl Iterator<Item = u16> {
        // Counting up in the bits of the mask alone.
        let mut next = Some(0u16);
        core::iter::from_fn(move || {
            let below = next?;
            next = (below != self.mask).then(|| (below | !self.mask).wrapping_add(1) & self.mask);
            Some(self.id | below)
        })
    }

    /// Both as one, if that matches exactly what the two do.
    const fn with(self, other: Self) -> Option<Self> {
        let differs = self.id ^ other.id;
        if self.mask == other.mask && differs.count_ones() == 1 {
            return Some(Self::new(self.id, self.mask | differs));
        }
        None
    }
}

/// As few entries as are easily found that match what these do, and nothing else, with masks within `masks`.
///
/// What another covers goes; two that differ in one bit become one, again and again. Two of these overlap only where two that were given do without
/// one covering the other.
pub fn merged(matches: impl IntoIterator<Item = StreamMatch>, masks: u16) -> Vec<StreamMatch> {
    let mut left: Vec<StreamMatch> = Vec::new();
    for one in matches {
        add(&mut left, one, masks);
    }
    left.sort_unstable();
    left
}

fn add(to: &mut Vec<StreamMatch>, one: StreamMatch, masks: u16) {
    if to.iter().any(|held| held.covers(one)) {
        return;
    }
    to.retain(|held| !one.covers(*held));
    let partner = to
        .iter()
        .enumerate()
        .find_map(|(at, held)| held.with(one).filter(|both| both.mask & !masks == 0).map(|both| (at, both)));
    match partner {
        Some((at, both)) => {
            to.swap_remove(at);
            add(to, both, masks);
        }
        None => to.push(one),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(matches: &[StreamMatch]) -> Vec<u16> {
        (0..64).filter(|&id| matches.iter().any(|one| one.matches(id))).collect()
    }

    #[test]
    fn matching_overlapping_and_covering_are_what_the_sets_say() {
        let all = || (0..16u16).flat_map(|id| (0..16u16).map(move |mask| StreamMatch::new(id, mask)));
        for one in all() {
            let ids = set(&[one]);
            assert_eq!(one.each().collect::<Vec<_>>(), ids, "{one:?}");
            for other in all() {
                let others = set(&[other]);
                assert_eq!(
                    one.overlaps(other),
                    ids.iter().any(|id| others.contains(id)),
                    "{one:?} {other:?}"
                );
                assert_eq!(one.covers(other), others.iter().all(|id| ids.contains(id)), "{one:?} {other:?}");
            }
        }
    }

    #[test]
    fn merging_changes_no_set_and_leaves_no_two_that_overlap() {
        for bits in 0u32..=0xffff {
            let ids = (0..16u16).filter(|id| bits >> id & 1 == 1);
            let matches = merged(ids.clone().map(|id| StreamMatch::new(id, 0)), u16::MAX);
            assert_eq!(set(&matches), ids.collect::<Vec<_>>());
            let apart = |at: usize| matches[at + 1..].iter().all(|other| !other.overlaps(matches[at]));
            assert!((0..matches.len()).all(apart), "{bits:#x}: {matches:?}");
        }
    }

    #[test]
    fn a_run_of_eight_is_one_entry_and_less_where_the_hardware_has_fewer_mask_bits() {
        let run = || (0x18..0x20u16).map(|id| StreamMatch::new(id, 0));
        assert_eq!(merged(run(), u16::MAX), [StreamMatch::new(0x18, 7)]);
        assert_eq!(merged(run(), 0b11), [StreamMatch::new(0x18, 3), StreamMatch::new(0x1c, 3)]);
        assert_eq!(merged(run(), 0).len(), 8);
    }

    #[test]
    fn what_another_covers_goes() {
        let wide = StreamMatch::new(0x400, 0x3f);
        let within = StreamMatch::new(0x405, 0);
        assert_eq!(merged([within, wide], u16::MAX), [wide]);
        assert_eq!(merged([wide, within, within], u16::MAX), [wide]);
    }

    #[test]
    fn a_source_is_an_id_and_a_mask_above_it() {
        let source = StreamMatch::of(SourceId(0x003f_0405));
        assert_eq!(
            (source.id(), source.mask()),
            (0x400, 0x3f),
            "bits that do not matter are no part of the id"
        );
        assert!(source.matches(0x43f) && !source.matches(0x440));
        assert_eq!(StreamMatch::of(SourceId(0x1234)), StreamMatch::new(0x1234, 0));
    }
}
