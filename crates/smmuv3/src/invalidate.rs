//! Which TLB invalidations make the hardware forget a range.
//!
//! [`steps`] is pure: a range, what is known of its leaves, and what the hardware can do, in; invalidations out. They cover
//! the range, never less; sometimes more.
//!
//! Spec: SMMUv3 H.a, 4.4.1.1 "Range-based invalidation and level hint".
//!
//! Choice: the level hint TTL is never given. It would leave leaves of other levels in the TLB, and what is known of a range is its smallest
//! leaf only; a block that was split a moment ago may be cached as well. A range that would need the hint (one granule:
//! NUM, SCALE and TTL all 0 are reserved) is said as a single address instead, which forgets entries of every level.

use portcullis_paging::stride;
use portcullis_spec::smmuv3::command::{TG_4K, TG_16K, TG_64K, TG_ANY, TlbiTarget};
use portcullis_types::{IovaRange, SizeLg2, mutant};

/// One invalidation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Everything of the address space.
    All,
    /// What this target says.
    Target(TlbiTarget),
}

/// The largest value of NUM + 1 that is used: NUM has five bits.
const MOST: u64 = 32;
/// The largest SCALE that is used. Spec: SMMUv3 H.a, 4.4.1.1: larger ones are reserved unless IDR5.DS is 1.
const SCALE_MOST: u8 = 31;

/// The invalidations that make the hardware forget `range`, which was mapped with the granule `granule` in leaves of `leaf` bytes and more.
///
/// `tables` says that tables above the leaves went too, perhaps such as had smaller leaves, of which hardware has not confirmed that it forgot them. `by_range` says that the
/// hardware has invalidation by range; otherwise there is one step for each leaf, where tables went at least one for each table of pages that could have been there, or
/// [`Step::All`] if there would be as many as a table has entries. A range that is larger than one command can say is everything, too.
///
/// Spec: SMMUv3 H.a, 4.4.1.1 "Range-based invalidation and level hint".
pub fn steps(
    range: IovaRange,
    granule: SizeLg2,
    leaf: SizeLg2,
    tables: bool,
    by_range: bool,
) -> impl Iterator<Item = Step> {
    let stride = if by_range { granule } else { stride(granule, leaf, tables) };
    let range = range.align_outward(stride.bytes());
    let count = ((range.last().get() - range.first().get()) >> stride.get()) + 1;
    let many = if by_range { count > MOST << SCALE_MOST } else { count >= granule.bytes() / 8 };
    let mut at = range.first().get();
    let short = u64::from(mutant!("invalidation-a-page-short") && count > 1);
    let mut left = if many { 0 } else { count - short };
    let all = core::iter::repeat_n(Step::All, usize::from(many));
    all.chain(core::iter::from_fn(move || {
        if left == 0 {
            return None;
        }
        let (target, taken) = if by_range {
            run(at, left, granule)
        } else {
            (TlbiTarget { address: at, ..TlbiTarget::default() }, 1)
        };
        left -= taken;
        at = at.wrapping_add(taken << stride.get());
        Some(Step::Target(TlbiTarget { leaf: !tables || mutant!("leaf-hint-though-tables-went"), ..target }))
    }))
}

/// The largest run of granules, at most `left` of them, that one command can say; and how many that are.
///
/// It takes the lowest bits of `left` that fit into NUM, so that what is left is a multiple of a larger power of two; a power of two is one run.
fn run(address: u64, left: u64, granule: SizeLg2) -> (TlbiTarget, u64) {
    if left == 1 {
        return (TlbiTarget { address, ..TlbiTarget::default() }, 1);
    }
    #[expect(clippy::cast_possible_truncation, reason = "at most 63")]
    let scale = (left.trailing_zeros() as u8).min(SCALE_MOST);
    let times = left >> scale;
    let times = if times <= MOST { times } else { times % MOST };
    if times == 1 && scale == 0 {
        return (TlbiTarget { address, ..TlbiTarget::default() }, 1);
    }
    #[expect(clippy::cast_possible_truncation, reason = "at most 31")]
    let num = (times - 1) as u8;
    (TlbiTarget { address, tg: tg(granule), num, scale, ..TlbiTarget::default() }, times << scale)
}

fn tg(granule: SizeLg2) -> u8 {
    match granule {
        SizeLg2::KIB_4 => TG_4K,
        SizeLg2::KIB_16 => TG_16K,
        SizeLg2::KIB_64 => TG_64K,
        _ => TG_ANY,
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use portcullis_types::Iova;

    use super::*;

    fn range(first: u64, len_bytes: u64) -> IovaRange {
        IovaRange::new(Iova::new(first), len_bytes).unwrap()
    }

    /// The bytes that a target covers, read as the book's formula says.
    fn covered(target: TlbiTarget, granule: SizeLg2) -> (u64, u64) {
        let count = if target.tg == TG_ANY { 1 } else { u64::from(target.num + 1) << target.scale };
        (target.address, target.address + (count << granule.get()) - 1)
    }

    fn targets(steps: impl Iterator<Item = Step>) -> Vec<TlbiTarget> {
        steps
            .map(|step| match step {
                Step::Target(target) => target,
                Step::All => panic!("a range was to be said"),
            })
            .collect()
    }

    #[test]
    fn ranges_are_covered_exactly_for_every_length_and_granule() {
        for granule in [SizeLg2::KIB_4, SizeLg2::KIB_16, SizeLg2::KIB_64] {
            for pages in (1..5000).chain([1 << 18, (1 << 18) + 1, (1 << 20) - 1, 1 << 36, (1 << 36) - 1]) {
                let range = range(0x7_0000_0000, pages << granule.get());
                let mut next = range.first().get();
                for target in targets(steps(range, granule, granule, false, true)) {
                    let (first, last) = covered(target, granule);
                    assert_eq!(first, next, "{pages} pages of {granule}");
                    assert!(first.is_multiple_of(granule.bytes()) && target.num < 32 && target.scale < 32);
                    let reserved = target.tg != 0 && target.num == 0 && target.scale == 0 && target.ttl == 0;
                    assert!(!reserved, "NUM, SCALE and TTL are all 0");
                    assert!(target.tg != 0 || (target.num, target.scale, target.ttl) == (0, 0, 0));
                    next = last + 1;
                }
                assert_eq!(next, range.last().get() + 1, "{pages} pages of {granule}");
            }
        }
    }

    #[test]
    fn a_power_of_two_is_one_command_and_any_range_a_few() {
        let count = |len_bytes| {
            targets(steps(range(0x4000_0000, len_bytes), SizeLg2::KIB_4, SizeLg2::KIB_4, false, true)).len()
        };
        assert_eq!((count(1 << 30), count(0x1000), count(31 << 12), count(1 << 47)), (1, 1, 1, 1));
        assert_eq!(count((1 << 30) + 0x1000), 2);
        assert!((1..100_000).all(|pages| count(pages << 12) <= 4));
    }

    #[test]
    fn one_gibibyte_has_the_numbers_of_the_book() {
        let one = targets(steps(range(0x4000_0000, 1 << 30), SizeLg2::KIB_4, SizeLg2::MIB_2, false, true))[0];
        let wanted = TlbiTarget { address: 0x4000_0000, leaf: true, tg: 1, ttl: 0, num: 0, scale: 18 };
        assert_eq!(one, wanted);
    }

    #[test]
    fn without_ranges_every_leaf_gets_its_own_command() {
        let steps = targets(steps(range(0x20_0000, 4 << 21), SizeLg2::KIB_4, SizeLg2::MIB_2, false, false));
        let addresses: Vec<u64> = steps.iter().map(|target| target.address).collect();
        assert_eq!(addresses, [0x20_0000, 0x40_0000, 0x60_0000, 0x80_0000]);
        assert!(steps.iter().all(|target| target.tg == TG_ANY && target.leaf));
    }

    #[test]
    fn as_many_leaves_as_a_table_has_entries_are_everything() {
        let all = |pages: u64| {
            steps(range(0, pages << 12), SizeLg2::KIB_4, SizeLg2::KIB_4, false, false).collect::<Vec<_>>()
                == [Step::All]
        };
        assert!(!all(511) && all(512) && all(1 << 30));
    }

    #[test]
    fn the_leaf_hint_is_given_only_when_no_table_went() {
        for by_range in [false, true] {
            for tables in [false, true] {
                let steps =
                    targets(steps(range(0, 5 << 12), SizeLg2::KIB_4, SizeLg2::KIB_4, tables, by_range));
                assert!(steps.iter().all(|target| target.leaf != tables));
            }
        }
    }

    #[test]
    fn where_tables_went_no_step_leaps_over_one_of_pages() {
        let gib = 1 << 30;
        let told = |len_bytes, tables| {
            steps(range(0, len_bytes), SizeLg2::KIB_4, SizeLg2::GIB_1, tables, false).collect::<Vec<_>>()
        };
        assert_eq!(told(2 * gib, false).len(), 2, "two blocks, and nothing else was there");
        // A block of 1 GiB beside tables of pages: more of these than a table has entries.
        assert_eq!(told(2 * gib, true), [Step::All]);
        // With 16 KiB a table of pages maps 32 MiB, with 64 KiB 512 MiB.
        for (granule, table) in [(SizeLg2::KIB_16, 1 << 25), (SizeLg2::KIB_64, 1 << 29)] {
            let large = SizeLg2::new(42).unwrap();
            let steps = targets(steps(range(0, 32 * gib), granule, large, true, false));
            let addresses: Vec<u64> = steps.iter().map(|target| target.address).collect();
            assert_eq!(addresses, (0..32 * gib).step_by(table).collect::<Vec<_>>(), "{granule}");
        }
    }

    #[test]
    fn a_range_that_ends_with_the_address_space_is_covered() {
        let top = IovaRange::new(Iova::new(u64::MAX - 0x2fff), 0x3000).unwrap();
        let steps = targets(steps(top, SizeLg2::KIB_4, SizeLg2::KIB_4, false, true));
        assert_eq!(
            steps,
            [TlbiTarget { address: u64::MAX - 0x2fff, leaf: true, tg: 1, num: 2, ..TlbiTarget::default() }]
        );
    }
}
