//! Areas: which addresses of a process are what.
//!
//! Areas lie on page boundaries and do not overlap. Neighbours that say the same are one area. Ends are the first address after: no
//! area ends at the end of 64 bits, since no table reaches that far.

use core::ops::Bound::{Excluded, Unbounded};
use std::collections::BTreeMap;
use std::sync::Arc;

use portcullis::types::{Pa, Perms};

use super::file::File;
use super::frame::HUGE_PAGE;

/// What an area's pages hold before anybody changed them.
#[derive(Clone, Debug)]
pub enum Source {
    /// Zeroes, and each process has its own.
    Anonymous,
    /// Zeroes, each process has its own, and each piece of [`HUGE_PAGE`] bytes of it is one piece of RAM, on a multiple of that. All of it is there from
    /// the beginning (`huge`).
    Huge,
    /// Zeroes at first, and a process shares them with those it forks.
    SharedAnonymous,
    /// A file from an offset on, and each process has its own changes. The offset is a multiple of the page size.
    Private {
        /// The file.
        file: Arc<File>,
        /// Where the area's first byte lies in it.
        offset_bytes: u64,
    },
    /// A file from an offset on. Changes are everybody's. The offset is a multiple of the page size.
    Shared {
        /// The file.
        file: Arc<File>,
        /// Where the area's first byte lies in it.
        offset_bytes: u64,
    },
    /// Zeroes, each process has its own, and the area grows down when something below it is touched, up to `limit_bytes` bytes in all.
    Stack {
        /// The most it may become.
        limit_bytes: u64,
    },
    /// Registers of a device. They are nobody's pages: not copied, not pinned, and a process that is forked does not have them. Whoever maps them sees
    /// to it that they are unmapped before the device is somebody else's.
    Registers {
        /// Where they are, as the CPU reaches them: a multiple of the page size.
        first: Pa,
    },
}

/// An area, but for where it begins.
#[derive(Clone, Debug)]
pub(super) struct Area {
    /// The first address after it.
    pub(super) end: u64,
    pub(super) perms: Perms,
    pub(super) source: Source,
}

impl Source {
    /// What areas of it begin, end and are cut on multiples of, in a kernel with pages of so many bytes.
    pub(super) const fn unit(&self, page_bytes: u64) -> u64 {
        if matches!(self, Self::Huge) { HUGE_PAGE.bytes() } else { page_bytes }
    }

    fn advanced(&self, by_bytes: u64) -> Self {
        let mut source = self.clone();
        if let Self::Private { offset_bytes, .. } | Self::Shared { offset_bytes, .. } = &mut source {
            *offset_bytes += by_bytes;
        }
        if let Self::Registers { first } = &mut source {
            *first = Pa::new(first.get() + by_bytes);
        }
        source
    }

    /// Whether `next` is what comes `len_bytes` bytes after `self`. Stacks stay apart.
    fn continues(&self, len_bytes: u64, next: &Self) -> bool {
        match (self, next) {
            (Self::Anonymous, Self::Anonymous) | (Self::Huge, Self::Huge) => true,
            (
                Self::Private { file, offset_bytes },
                Self::Private { file: next_file, offset_bytes: next_offset },
            )
            | (
                Self::Shared { file, offset_bytes },
                Self::Shared { file: next_file, offset_bytes: next_offset },
            ) => Arc::ptr_eq(file, next_file) && offset_bytes + len_bytes == *next_offset,
            _ => false,
        }
    }
}

/// All areas of a process.
#[derive(Clone, Debug, Default)]
pub(super) struct Areas(BTreeMap<u64, Area>);

impl Areas {
    /// The area that holds `at`, and where it begins.
    pub(super) fn find(&self, at: u64) -> Option<(u64, &Area)> {
        let (&start, area) = self.0.range(..=at).next_back()?;
        (at < area.end).then_some((start, area))
    }

    /// The first area that begins above `at`.
    pub(super) fn next_above(&self, at: u64) -> Option<(u64, &Area)> {
        self.0.range((Excluded(at), Unbounded)).next().map(|(&start, area)| (start, area))
    }

    /// The last area that ends at or below `at`.
    pub(super) fn last_below(&self, at: u64) -> Option<(u64, &Area)> {
        self.0.range(..at).next_back().map(|(&start, area)| (start, area)).filter(|(_, area)| area.end <= at)
    }

    /// Some area with an address in `start..end`: where it begins.
    pub(super) fn overlapping(&self, start: u64, end: u64) -> Option<u64> {
        let (&last, area) = self.0.range(..end).next_back()?;
        (area.end > start).then_some(last)
    }

    /// Where `len` bytes may lie on a multiple of `unit`, a power of two: as high as possible between `low` and `high`, and `gap` bytes from the bottom of each
    /// stack.
    pub(super) fn place(&self, len: u64, unit: u64, low: u64, high: u64, gap: u64) -> Option<u64> {
        let below = |ceiling: u64| ceiling.checked_sub(len).map(|at| at & !(unit - 1));
        let mut ceiling = high;
        for (&start, area) in self.0.range(..high).rev() {
            if below(ceiling).is_some_and(|at| at >= area.end) {
                break;
            }
            let gap = if matches!(area.source, Source::Stack { .. }) { gap } else { 0 };
            ceiling = start.saturating_sub(gap).min(ceiling);
        }
        below(ceiling).filter(|&at| at >= low)
    }

    /// Puts an area where there is none.
    pub(super) fn insert(&mut self, start: u64, area: Area) {
        debug_assert!(self.overlapping(start, area.end).is_none(), "areas overlap at {start:#x}");
        let end = area.end;
        self.0.insert(start, area);
        self.merge(start, end);
    }

    /// Takes out whatever lies in `start..end`.
    pub(super) fn remove(&mut self, start: u64, end: u64) {
        self.split(start);
        self.split(end);
        let gone: Vec<u64> = self.0.range(start..end).map(|(&at, _)| at).collect();
        gone.iter().for_each(|at| {
            self.0.remove(at);
        });
    }

    /// The first address of `start..end` that is in no area.
    pub(super) fn first_hole(&self, start: u64, end: u64) -> Option<u64> {
        let mut at = start;
        while at < end {
            let Some((_, area)) = self.find(at) else { return Some(at) };
            at = area.end;
        }
        None
    }

    /// Whether an area that is cut at `at` would be left with a piece of a huge page.
    pub(super) fn cuts_huge(&self, at: u64) -> bool {
        let area = self.find(at).filter(|(_, area)| matches!(area.source, Source::Huge));
        area.is_some() && !at.is_multiple_of(HUGE_PAGE.bytes())
    }

    /// The areas in `start..end`.
    pub(super) fn within(&self, start: u64, end: u64) -> impl Iterator<Item = (u64, &Area)> {
        let first = self.find(start).map_or(start, |(at, _)| at);
        self.0.range(first..end).map(|(&at, area)| (at, area))
    }

    /// Gives all of `start..end`, which has no hole, these permissions.
    pub(super) fn protect(&mut self, start: u64, end: u64, perms: Perms) {
        self.split(start);
        self.split(end);
        self.0.range_mut(start..end).for_each(|(_, area)| area.perms = perms);
        self.merge(start, end);
    }

    /// Lets the area that begins at `start` begin at `new_start` below it.
    pub(super) fn grow_down(&mut self, start: u64, new_start: u64) {
        if let Some(area) = self.0.remove(&start) {
            self.0.insert(new_start, area);
        }
    }

    /// The areas that a fork has too: all but those of registers.
    pub(super) fn forked(&self) -> Self {
        let kept = self.0.iter().filter(|(_, area)| !matches!(area.source, Source::Registers { .. }));
        Self(kept.map(|(&at, area)| (at, area.clone())).collect())
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Cuts the area that holds `at` and does not begin there.
    fn split(&mut self, at: u64) {
        let Some((start, area)) = self.find(at) else { return };
        if start == at {
            return;
        }
        // The part of a stack that is cut off above stays as it is; only the lower part can grow.
        let source = match &area.source {
            Source::Stack { .. } => Source::Anonymous,
            other => other.advanced(at - start),
        };
        let upper = Area { source, ..area.clone() };
        if let Some(lower) = self.0.get_mut(&start) {
            if let Source::Stack { limit_bytes } = &mut lower.source {
                *limit_bytes = limit_bytes.saturating_sub(lower.end - at);
            }
            lower.end = at;
        }
        self.0.insert(at, upper);
    }

    /// Makes one of neighbours that say the same, from the one that touches `start` below to the one that touches `end` above.
    fn merge(&mut self, start: u64, end: u64) {
        let mut at = self.0.range(..start).next_back().map_or(start, |(&below, _)| below);
        while let Some(area) = self.0.get(&at) {
            let next_start = area.end;
            if next_start > end {
                return;
            }
            let same = self.0.get(&next_start).filter(|next| {
                next.perms == area.perms && area.source.continues(next_start - at, &next.source)
            });
            let Some(next_end) = same.map(|next| next.end) else {
                let Some((above, _)) = self.next_above(at) else { return };
                at = above;
                continue;
            };
            self.0.remove(&next_start);
            if let Some(area) = self.0.get_mut(&at) {
                area.end = next_end;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const R: Perms = Perms::READ;
    const RW: Perms = Perms::READ_WRITE;

    fn areas(parts: &[(u64, u64, Perms)]) -> Areas {
        let mut areas = Areas::default();
        for &(start, end, perms) in parts {
            areas.insert(start, Area { end, perms, source: Source::Anonymous });
        }
        areas
    }

    fn parts(areas: &Areas) -> Vec<(u64, u64, Perms)> {
        areas.0.iter().map(|(&start, area)| (start, area.end, area.perms)).collect()
    }

    #[test]
    fn neighbours_that_say_the_same_are_one() {
        let mut areas = areas(&[(0x1000, 0x2000, R), (0x3000, 0x4000, R), (0x4000, 0x5000, RW)]);
        assert_eq!(areas.len(), 3);
        areas.insert(0x2000, Area { end: 0x3000, perms: R, source: Source::Anonymous });
        assert_eq!(parts(&areas), [(0x1000, 0x4000, R), (0x4000, 0x5000, RW)]);
        areas.protect(0x3000, 0x4000, RW);
        assert_eq!(parts(&areas), [(0x1000, 0x3000, R), (0x3000, 0x5000, RW)]);
        areas.protect(0x1000, 0x5000, R);
        assert_eq!(parts(&areas), [(0x1000, 0x5000, R)]);
    }

    #[test]
    fn a_hole_in_the_middle_leaves_two() {
        let mut areas = areas(&[(0x1000, 0x5000, R)]);
        areas.remove(0x2000, 0x3000);
        assert_eq!(parts(&areas), [(0x1000, 0x2000, R), (0x3000, 0x5000, R)]);
        assert_eq!(areas.first_hole(0x1000, 0x4000), Some(0x2000));
        assert_eq!(areas.first_hole(0x3000, 0x5000), None);
        assert_eq!(
            (areas.overlapping(0x2000, 0x3000), areas.overlapping(0x2000, 0x3001)),
            (None, Some(0x3000))
        );
    }

    #[test]
    fn random_changes_agree_with_a_page_by_page_account() {
        let chance = model_bus::Chance::new(5);
        let (mut areas, mut account) = (Areas::default(), [None; 64]);
        for _ in 0..5000 {
            let start = chance.below(63);
            let end = start + 1 + chance.below(63 - start);
            let (low, high) = (start as u64 * 0x1000, end as u64 * 0x1000);
            let perms = if chance.once_in(2) { R } else { RW };
            let whole = account[start..end].iter().all(Option::is_some);
            let empty = account[start..end].iter().all(Option::is_none);
            assert_eq!(areas.first_hole(low, high).is_none(), whole);
            assert_eq!(areas.overlapping(low, high).is_none(), empty);
            match chance.below(3) {
                0 if empty => {
                    areas.insert(low, Area { end: high, perms, source: Source::Anonymous });
                    account[start..end].fill(Some(perms));
                }
                1 if whole => {
                    areas.protect(low, high, perms);
                    account[start..end].fill(Some(perms));
                }
                2 => {
                    areas.remove(low, high);
                    account[start..end].fill(None);
                }
                _ => {}
            }
            for (page, perms) in account.iter().enumerate() {
                let found = areas.find(page as u64 * 0x1000 + 0xfff).map(|(_, area)| area.perms);
                assert_eq!(found, *perms);
            }
            let runs = account.chunk_by(|a, b| a == b).filter(|run| run[0].is_some()).count();
            assert_eq!(areas.len(), runs, "merged as far as can be");
        }
    }

    #[test]
    fn a_place_is_the_highest_that_is_free_and_keeps_away_from_stacks() {
        let mut areas = areas(&[(0x8000, 0x9000, R)]);
        assert_eq!(areas.place(0x1000, 0x1000, 0x1000, 0xa000, 0x2000), Some(0x9000));
        assert_eq!(areas.place(0x2000, 0x1000, 0x1000, 0xa000, 0x2000), Some(0x6000));
        areas.insert(0x5000, Area { end: 0x6000, perms: RW, source: Source::Stack { limit_bytes: 0 } });
        assert_eq!(areas.place(0x2000, 0x1000, 0x1000, 0xa000, 0x2000), Some(0x6000));
        assert_eq!(areas.place(0x3000, 0x1000, 0, 0xa000, 0x2000), Some(0));
        assert_eq!(areas.place(0x3000, 0x1000, 0x1000, 0xa000, 0x2000), None);
    }

    #[test]
    fn parts_of_a_stack_do_not_both_grow() {
        let mut areas = Areas::default();
        areas.insert(0x1000, Area { end: 0x5000, perms: RW, source: Source::Stack { limit_bytes: 0x8000 } });
        areas.remove(0x2000, 0x3000);
        let is_stack = |at| matches!(areas.find(at).unwrap().1.source, Source::Stack { .. });
        assert!(is_stack(0x1000) && !is_stack(0x3000));
    }
}
