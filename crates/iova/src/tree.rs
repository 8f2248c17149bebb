//! Free pages, ordered by number, in a tree of sixty-four branches at each node.
//!
//! A [`PageTree`] knows of each page whether it is free. The lowest nodes ([`Twig`]) hold a word of bits for each 64 pages; the
//! others ([`Branch`]) hold lower nodes, or say that all pages below are free or taken without holding a node. Beside each of
//! its parts a node keeps the *order* of the greatest aligned free block in it, so that a search goes straight down.
//!
//! Choice: depth depends on the size of the space, not on what is allocated, and neighbours share a word, so that a million live
//! ranges cost what ten do. A balanced tree of ranges is some twenty comparisons deep by then, each one a cache miss.
//!
//! Not here: who a taken page belongs to (`ledger`, `space`).

use alloc::boxed::Box;

use crate::bits::{self, Bytes};

/// A set of free pages from 0 to `last`, which is below `1 << shift`.
#[derive(Debug)]
pub(crate) struct PageTree {
    root: Slot,
    shift: u32,
    last: u64,
}

/// What a part of a branch holds.
#[derive(Debug)]
enum Slot {
    Free,
    Taken,
    Twig(Box<Twig>),
    Branch(Box<Branch>),
}

/// Sixty-four words of free pages.
#[derive(Debug)]
struct Twig {
    free: [u64; 64],
    orders: Bytes,
}

/// Sixty-four parts of equal size.
#[derive(Debug)]
struct Branch {
    slots: [Slot; 64],
    orders: Bytes,
}

/// Pages `first..=last`, relative to a node.
#[derive(Clone, Copy, Debug)]
struct Span {
    first: u64,
    last: u64,
}

const WORD_LG2: u32 = 6;
const TWIG_LG2: u32 = 2 * WORD_LG2;

/// An order as the nodes keep it: 0 for no free page, else one more than the order.
fn kept(order: u32) -> u8 {
    #[expect(clippy::cast_possible_truncation, reason = "at most 60")]
    let order = order as u8;
    order + 1
}

/// A number that was made smaller than 64 by what it counts: a bit, a child.
fn small(number: u64) -> u32 {
    debug_assert!(number <= 64);
    #[expect(clippy::cast_possible_truncation, reason = "at most 64")]
    let number = number as u32;
    number
}

impl PageTree {
    /// A tree for pages 0 to `last` (below 2^60), all taken.
    pub(crate) fn all_taken(last: u64) -> Self {
        let mut shift = TWIG_LG2;
        while last >> shift != 0 {
            shift += WORD_LG2;
        }
        Self { root: Slot::Taken, shift, last }
    }

    /// The highest aligned block of `1 << order` free pages that ends at or below page `limit`: its first page.
    pub(crate) fn highest_block(&self, order: u32, limit: u64) -> Option<u64> {
        if order > self.shift {
            return None;
        }
        self.root.find(self.shift, order, limit.min(self.last))
    }

    /// A place for `count` free pages, aligned to the next power of two, that ends at or below page `limit`: its first page. The
    /// highest there is, for a power of two. For other counts the highest that any place could be; else the highest in a
    /// block that is wholly free; else the highest there is.
    ///
    /// Choice: the third search is the only one that may look at more than one place, and is made only when the space is nearly full.
    pub(crate) fn highest_fit(&self, count: u64, limit: u64) -> Option<u64> {
        let order = count.next_power_of_two().ilog2();
        let limit = limit.min(self.last);
        if count.is_power_of_two() {
            return self.highest_block(order, limit);
        }
        let top = (limit + 1).checked_sub(count)? >> order << order;
        let at_top = self.is_free(top, top + count - 1).then_some(top);
        at_top.or_else(|| self.highest_block(order, limit)).or_else(|| self.highest_part(count, order, limit))
    }

    /// As [`highest_fit`](Self::highest_fit), where no block is wholly free: looks at each free half block. More than half of the
    /// place is the lower half of its block.
    fn highest_part(&self, count: u64, order: u32, limit: u64) -> Option<u64> {
        let half = order - 1;
        let first_limit = (limit + 1).checked_sub(count)?;
        let mut below = first_limit.checked_add((1 << half) - 1)?;
        loop {
            let first = self.highest_block(half, below)?;
            let rest = Span { first: first + (1 << half), last: first + count - 1 };
            if first >> half & 1 == 0 && self.is_free(rest.first, rest.last) {
                return Some(first);
            }
            below = first.checked_sub(1)?;
        }
    }

    /// Whether pages `first..=last` are all free.
    pub(crate) fn is_free(&self, first: u64, last: u64) -> bool {
        last <= self.last && self.root.is_free(self.shift, Span { first, last })
    }

    /// Takes pages `first..=last`.
    pub(crate) fn take(&mut self, first: u64, last: u64) {
        debug_assert!(last <= self.last);
        self.root.set(self.shift, Span { first, last }, false);
    }

    /// Frees pages `first..=last`.
    pub(crate) fn give_back(&mut self, first: u64, last: u64) {
        debug_assert!(last <= self.last);
        self.root.set(self.shift, Span { first, last }, true);
    }
}

impl Slot {
    fn whole(free: bool) -> Self {
        if free { Self::Free } else { Self::Taken }
    }

    fn find(&self, shift: u32, order: u32, limit: u64) -> Option<u64> {
        match self {
            Self::Free => ((limit + 1) >> order).checked_sub(1).map(|block| block << order),
            Self::Taken => None,
            Self::Twig(twig) => twig.find(order, limit),
            Self::Branch(branch) => branch.find(shift - WORD_LG2, order, limit),
        }
    }

    fn is_free(&self, shift: u32, span: Span) -> bool {
        match self {
            Self::Free => true,
            Self::Taken => false,
            Self::Twig(twig) => span.parts(WORD_LG2).all(|(at, part)| !twig.free[at] & part.word_mask() == 0),
            Self::Branch(branch) => {
                let shift = shift - WORD_LG2;
                span.parts(shift).all(|(at, part)| branch.slots[at].is_free(shift, part))
            }
        }
    }

    /// Makes `span` free or taken, and answers the order that is to be kept for this slot; none if it is what it was.
    fn set(&mut self, shift: u32, span: Span, free: bool) -> Option<u8> {
        if span.first == 0 && span.last == (1 << shift) - 1 {
            *self = Self::whole(free);
            return Some(if free { kept(shift) } else { 0 });
        }
        let order = match self.node(shift) {
            Self::Twig(twig) => twig.set(span, free),
            Self::Branch(branch) => branch.set(shift - WORD_LG2, span, free),
            Self::Free | Self::Taken => unreachable!("a node was made of it"),
        }?;
        // A node that says the same of all its pages is not kept.
        if order == kept(shift) {
            *self = Self::Free;
        } else if order == 0 {
            *self = Self::Taken;
        }
        Some(order)
    }

    /// Makes a node of a whole slot, to say different things of its parts.
    fn node(&mut self, shift: u32) -> &mut Self {
        let free = match self {
            Self::Free => true,
            Self::Taken => false,
            Self::Twig(_) | Self::Branch(_) => return self,
        };
        let orders = Bytes([if free { kept(shift - WORD_LG2) } else { 0 }; 64]);
        *self = if shift == TWIG_LG2 {
            Self::Twig(Box::new(Twig { free: [if free { u64::MAX } else { 0 }; 64], orders }))
        } else {
            Self::Branch(Box::new(Branch {
                slots: [const { Self::Taken }; 64].map(|_| Self::whole(free)),
                orders,
            }))
        };
        self
    }
}

impl Twig {
    fn find(&self, order: u32, limit: u64) -> Option<u64> {
        find_in(&self.orders, WORD_LG2, order, limit, |at, limit| {
            let free = self.free[at] & bits::low_bits(small(limit) + 1);
            bits::highest_aligned_run(free, order).map(u64::from)
        })
    }

    fn set(&mut self, span: Span, free: bool) -> Option<u8> {
        let mut changed = false;
        for (at, part) in span.parts(WORD_LG2) {
            let mask = part.word_mask();
            self.free[at] = if free { self.free[at] | mask } else { self.free[at] & !mask };
            let order = bits::longest_aligned_run(self.free[at]).map_or(0, |order| order + 1);
            changed |= self.orders.0[at] != order;
            self.orders.0[at] = order;
        }
        changed.then(|| summary(&self.orders, WORD_LG2))
    }
}

impl Branch {
    fn find(&self, shift: u32, order: u32, limit: u64) -> Option<u64> {
        find_in(&self.orders, shift, order, limit, |at, limit| self.slots[at].find(shift, order, limit))
    }

    fn set(&mut self, shift: u32, span: Span, free: bool) -> Option<u8> {
        let mut changed = false;
        for (at, part) in span.parts(shift) {
            if let Some(order) = self.slots[at].set(shift, part, free) {
                changed |= self.orders.0[at] != order;
                self.orders.0[at] = order;
            }
        }
        changed.then(|| summary(&self.orders, shift))
    }
}

impl Span {
    /// The parts of the span in children of `1 << shift` pages: which child, and which pages of it.
    fn parts(self, shift: u32) -> impl Iterator<Item = (usize, Span)> {
        let within = (1u64 << shift) - 1;
        (self.first >> shift..=self.last >> shift).map(move |child| {
            let first = self.first.saturating_sub(child << shift);
            let last = (self.last - (child << shift)).min(within);
            (small(child) as usize, Span { first, last })
        })
    }

    fn word_mask(self) -> u64 {
        bits::bits(small(self.first), small(self.last))
    }
}

/// The highest aligned free block of `1 << order` pages at or below `limit` in a node whose children have `1 << shift` pages.
/// `in_child` looks into one child.
fn find_in(
    orders: &Bytes,
    shift: u32,
    order: u32,
    limit: u64,
    in_child: impl Fn(usize, u64) -> Option<u64>,
) -> Option<u64> {
    let place = |child: u32, page: u64| (u64::from(child) << shift) + page;
    let whole = small((limit + 1) >> shift);
    if order >= shift {
        let free = orders.equal_to(kept(shift)) & bits::low_bits(whole);
        return bits::highest_aligned_run(free, order - shift).map(|child| place(child, 0));
    }
    let within = (1 << shift) - 1;
    if whole < 64 && orders.0[whole as usize] >= kept(order) {
        // The child in which the limit lies: it may have a block, but only above the limit.
        let partly = (limit + 1) & within;
        let found = partly.checked_sub(1).and_then(|limit| in_child(whole as usize, limit));
        if let Some(page) = found {
            return Some(place(whole, page));
        }
    }
    let child = orders.highest_at_least(kept(order), whole)?;
    in_child(child as usize, within).map(|page| place(child, page))
}

/// The order to keep for a node whose children have `1 << shift` pages.
fn summary(orders: &Bytes, shift: u32) -> u8 {
    let greatest = orders.greatest();
    if greatest < kept(shift) {
        return greatest;
    }
    // Some children are free as a whole: neighbours make greater blocks.
    let run = bits::longest_aligned_run(orders.equal_to(kept(shift)));
    run.map_or(greatest, |order| kept(shift + u32::from(order)))
}

#[cfg(test)]
#[expect(clippy::cast_possible_truncation, reason = "test spaces are small")]
mod tests {
    extern crate std;
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;

    /// The same as a list of pages.
    struct Oracle(Vec<bool>);

    impl Oracle {
        fn fit(&self, count: u64, limit: u64) -> Option<u64> {
            let align = count.next_power_of_two();
            let free = |first: u64, count: u64| {
                first + count - 1 <= limit
                    && (first..first + count).all(|page| self.0.get(page as usize) == Some(&true))
            };
            let places = || (0..self.0.len() as u64 / align + 1).rev().map(|block| block * align);
            let top = places().find(|&first| first + count - 1 <= limit.min(self.0.len() as u64 - 1))?;
            let whole = || places().find(|&first| free(first, align));
            let any = || places().find(|&first| free(first, count));
            Some(top).filter(|&top| free(top, count)).or_else(whole).or_else(any)
        }
    }

    fn same_from(tree: &PageTree, oracle: &Oracle, counts: &[u64], limits: &[u64]) {
        for &count in counts {
            for &limit in limits {
                assert_eq!(tree.highest_fit(count, limit), oracle.fit(count, limit), "{count} below {limit}");
            }
        }
    }

    #[test]
    fn every_pattern_of_ten_pages_finds_what_counting_finds() {
        for pattern in 0u32..1 << 10 {
            let mut tree = PageTree::all_taken(9);
            let oracle = Oracle((0..10).map(|page| pattern >> page & 1 == 1).collect());
            (0..10).filter(|&page| oracle.0[page as usize]).for_each(|page| tree.give_back(page, page));
            let limits: Vec<u64> = (0..12).collect();
            same_from(&tree, &oracle, &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11], &limits);
        }
    }

    #[test]
    fn blocks_that_span_words_and_twigs_are_found() {
        let mut tree = PageTree::all_taken((1 << 20) - 1);
        tree.give_back(4096 - 64, 3 * 4096 + 63);
        assert_eq!(tree.highest_block(12, u64::MAX), Some(2 * 4096));
        assert_eq!(tree.highest_block(12, 3 * 4096 - 1), Some(2 * 4096));
        assert_eq!(tree.highest_block(12, 3 * 4096 - 2), Some(4096));
        assert_eq!(tree.highest_block(13, u64::MAX), None);
        assert_eq!(tree.highest_block(6, u64::MAX), Some(3 * 4096));
        assert_eq!(tree.highest_fit(4096 + 64, u64::MAX), Some(2 * 4096));
        tree.give_back(0, 4095);
        assert_eq!(tree.highest_block(13, u64::MAX), Some(0));
    }

    #[test]
    fn a_tree_that_is_whole_again_keeps_no_nodes() {
        let mut tree = PageTree::all_taken((1 << 36) - 1);
        tree.give_back(0, (1 << 36) - 1);
        tree.take(12345, 23456);
        assert!(matches!(tree.root, Slot::Branch(_)));
        assert!(!tree.is_free(23456, 23457) && tree.is_free(23457, 1 << 30));
        tree.give_back(12345, 23456);
        assert!(matches!(tree.root, Slot::Free));
    }

    proptest! {
        #[test]
        fn any_history_finds_what_counting_finds(
            last in 60u64..9000,
            steps in prop::collection::vec((any::<bool>(), 0u64..9000, 1u64..700), 1..40),
            counts in prop::collection::vec(1u64..600, 6),
            limits in prop::collection::vec(0u64..9100, 6),
        ) {
            let mut tree = PageTree::all_taken(last);
            tree.give_back(0, last);
            let mut oracle = Oracle((0..=last).map(|_| true).collect());
            for (free, first, count) in steps {
                let (first, end) = (first.min(last), (first + count).min(last));
                let end = end.max(first);
                if free { tree.give_back(first, end) } else { tree.take(first, end) }
                (first..=end).for_each(|page| oracle.0[page as usize] = free);
                prop_assert!(tree.is_free(first, end) == free);
            }
            same_from(&tree, &oracle, &counts, &limits);
        }
    }
}
