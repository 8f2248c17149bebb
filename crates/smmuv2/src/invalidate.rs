//! Which TLB invalidations make the hardware forget a range.
//!
//! [`steps`] is pure: a range and what is known of its leaves, in; invalidations out. They cover the range, never less; sometimes more.
//!
//! Spec: SMMUv2 D.c, 5.4.1 "Scope of the TLB maintenance operations", 16.5.32 "SMMU_CBn_TLBIVA", 16.5.35 "SMMU_CBn_TLBIVAL".
//! Not here: writing them to registers (`tlb`).

use portcullis_paging::stride;
use portcullis_types::{Iova, IovaRange, SizeLg2, mutant};

/// One invalidation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Everything of the address space.
    All,
    /// What is known of one address.
    Address {
        /// The address.
        iova: Iova,
        /// Only what comes from the last level of a walk.
        leaf: bool,
    },
}

/// The invalidations that make the hardware forget `range`, which was mapped with the granule `granule` in leaves of `leaf` bytes and more.
///
/// `tables` says that tables above the leaves went too, or that a block was split: then walk caches must forget as well, perhaps of tables with smaller leaves, of which hardware has
/// not confirmed that it forgot them. There is one step for each leaf, where tables went at least one for each table of pages that could have been there, or [`Step::All`] if there
/// would be as many as a table has entries.
///
/// Choice: where the line is, the book does not say. Every step is a register write, and so is forgetting everything; it is drawn where a
/// whole table's worth would be forgotten anyway.
pub fn steps(range: IovaRange, granule: SizeLg2, leaf: SizeLg2, tables: bool) -> impl Iterator<Item = Step> {
    let stride = stride(granule, leaf, tables);
    let range = range.align_outward(stride.bytes());
    let count = ((range.last().get() - range.first().get()) >> stride.get()) + 1;
    let many = count >= granule.bytes() / 8;
    let leaf = !tables || mutant!("smmuv2-leaf-only-though-tables-went");
    let each = (0..if many { 0 } else { count }).map(move |at| {
        let iova = Iova::new(range.first().get() + (at << stride.get()));
        Step::Address { iova, leaf }
    });
    core::iter::repeat_n(Step::All, usize::from(many)).chain(each)
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use super::*;

    fn range(first: u64, len_bytes: u64) -> IovaRange {
        IovaRange::new(Iova::new(first), len_bytes).unwrap()
    }

    fn addresses(range: IovaRange, leaf: SizeLg2, tables: bool) -> Vec<(u64, bool)> {
        steps(range, SizeLg2::KIB_4, leaf, tables)
            .map(|step| match step {
                Step::Address { iova, leaf } => (iova.get(), leaf),
                Step::All => panic!("everything"),
            })
            .collect()
    }

    #[test]
    fn every_leaf_gets_its_own_step_with_the_hint_where_no_table_went() {
        assert_eq!(addresses(range(0x5000, 0x2000), SizeLg2::KIB_4, false), [(0x5000, true), (0x6000, true)]);
        assert_eq!(addresses(range(0x5000, 0x1000), SizeLg2::KIB_4, true), [(0x5000, false)]);
        assert_eq!(
            addresses(range(0x20_0000, 2 << 21), SizeLg2::MIB_2, false),
            [(0x20_0000, true), (0x40_0000, true)]
        );
    }

    #[test]
    fn where_tables_went_no_step_leaps_over_one_of_pages() {
        let two = range(0, 2 << 30);
        assert_eq!(addresses(two, SizeLg2::GIB_1, false), [(0, true), (1 << 30, true)]);
        // A block of 1 GiB beside tables of pages: more of these than a table has entries.
        let all = steps(two, SizeLg2::KIB_4, SizeLg2::GIB_1, true);
        assert_eq!(all.collect::<Vec<_>>(), [Step::All]);
        let large = SizeLg2::new(36).unwrap();
        let count = |len_bytes| steps(range(0, len_bytes), SizeLg2::KIB_16, large, true).count();
        assert_eq!((count(1 << 30), count(1 << 36)), (32, 1), "a table of pages of 16 KiB maps 32 MiB");
    }

    #[test]
    fn a_range_that_is_no_multiple_of_its_leaves_is_covered() {
        assert_eq!(
            addresses(range(0x30_0000, 0x20_0000), SizeLg2::MIB_2, false),
            [(0x20_0000, true), (0x40_0000, true)]
        );
        let top = range(u64::MAX - 0x2fff, 0x3000);
        assert_eq!(addresses(top, SizeLg2::KIB_4, false).len(), 3);
    }

    #[test]
    fn as_many_leaves_as_a_table_has_entries_are_everything() {
        for (granule, entries) in [(SizeLg2::KIB_4, 512), (SizeLg2::KIB_16, 2048), (SizeLg2::KIB_64, 8192)] {
            let count =
                |pages: u64| steps(range(0, pages << granule.get()), granule, granule, false).count() as u64;
            assert_eq!((count(entries - 1), count(entries)), (entries - 1, 1));
            let all = steps(range(0, entries << granule.get()), granule, granule, false).next();
            assert_eq!(all, Some(Step::All));
        }
    }
}
