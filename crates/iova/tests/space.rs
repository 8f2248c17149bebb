//! An IOVA space from the outside: exact ends, alignment, what is caught, what is remembered.

#![expect(clippy::cast_possible_truncation, reason = "test spaces are small")]

mod support;

use core::iter;
use core::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::collections::HashSet;
use std::sync::Arc;

use portcullis_iova::{AllocError, FreeError, IovaSpace, Prefer, ReserveError};
use portcullis_types::{Iova, IovaRange, SizeLg2};
use proptest::prelude::*;
use support::{Machine, machine, range, run_on};

const PAGE: u64 = 0x1000;
const GIB_4: u64 = 1 << 32;
const TOP: Iova = Iova::new(u64::MAX);

fn space(first: u64, last: u64) -> IovaSpace<Machine> {
    IovaSpace::new(machine(2), SizeLg2::KIB_4, range(first, last)).unwrap()
}

fn high(space: &IovaSpace<Machine>, pages: u64) -> Result<IovaRange, AllocError> {
    space.alloc(pages * PAGE, TOP, Prefer::High)
}

#[test]
fn a_range_may_begin_at_the_start_and_end_at_the_limit() {
    let exact = space(0x1000, 0x3fff);
    assert_eq!(high(&exact, 1), Ok(range(0x3000, 0x3fff)));
    assert_eq!(high(&exact, 1), Ok(range(0x2000, 0x2fff)));
    assert_eq!(high(&exact, 1), Ok(range(0x1000, 0x1fff)));
    assert_eq!(high(&exact, 1), Err(AllocError::NoSpace));
    assert_eq!(high(&space(0x4000, 0x6fff), 3), Ok(range(0x4000, 0x6fff)));
    assert_eq!(high(&space(0, u64::MAX), 1), Ok(range(u64::MAX - 0xfff, u64::MAX)));
}

#[test]
fn a_limit_is_the_last_address_and_no_less() {
    let space = space(0, 0xf_ffff);
    assert_eq!(space.alloc(PAGE, Iova::new(0x2fff), Prefer::High), Ok(range(0x2000, 0x2fff)));
    assert_eq!(space.alloc(PAGE, Iova::new(0x2ffe), Prefer::High), Ok(range(0x1000, 0x1fff)));
    assert_eq!(space.alloc(PAGE, Iova::new(0xffe), Prefer::High), Err(AllocError::NoSpace));
    assert_eq!(space.alloc(PAGE, Iova::new(0xfff), Prefer::High), Ok(range(0, 0xfff)));
    assert_eq!(space.alloc(3 * PAGE, Iova::new(0x7_6fff), Prefer::High), Ok(range(0x7_4000, 0x7_6fff)));
}

#[test]
fn ends_that_are_within_a_page_do_not_count() {
    assert_eq!(space(0x1001, 0x3ffe).bounds(), range(0x2000, 0x2fff));
    assert!(IovaSpace::new(machine(1), SizeLg2::KIB_4, range(0x1001, 0x2ffe)).is_none());
}

#[test]
fn lengths_that_cannot_be_are_refused() {
    let space = space(0, 0xffff);
    assert_eq!(high(&space, 0), Err(AllocError::BadLength));
    assert_eq!(high(&space, 17), Err(AllocError::BadLength));
    assert_eq!(space.alloc(u64::MAX, TOP, Prefer::High), Err(AllocError::BadLength));
    assert_eq!(high(&space, 16), Ok(range(0, 0xffff)));
}

/// The highest place by trying all: right at the limit, then in wholly free blocks, then anywhere, as the tree promises.
fn by_trying(taken: &[bool], first: u64, count: u64, limit: u64) -> Option<u64> {
    let align = count.next_power_of_two();
    let free = |at: u64, count: u64| {
        at >= first
            && at + count - 1 <= limit
            && (at..at + count).all(|page| taken.get(page as usize) == Some(&false))
    };
    let places = || (0..=taken.len() as u64).rev().filter(|at| at % align == 0);
    let top = places().find(|&at| at + count - 1 <= limit.min(taken.len() as u64 - 1))?;
    let whole = || places().find(|&at| free(at, align));
    let any = || places().find(|&at| free(at, count));
    Some(top).filter(|&top| free(top, count)).or_else(whole).or_else(any)
}

#[test]
fn every_small_space_with_every_pattern_gives_what_trying_gives() {
    for (first, last) in (0..8u64).flat_map(|first| (first..8).map(move |last| (first, last))) {
        for pattern in 0u32..1 << (last - first + 1) {
            let bits = |page: u64| page < first || page > last || pattern >> (page - first) & 1 == 1;
            let taken: Vec<bool> = (0..8).map(bits).collect();
            for count in 1..=last + 1 {
                for limit in 0..9 {
                    let space = space(first * PAGE, last * PAGE + 0xfff);
                    (first..=last).filter(|&page| taken[page as usize]).for_each(|page| {
                        space.reserve(range(page * PAGE, page * PAGE)).unwrap();
                    });
                    let got = space.alloc(count * PAGE, Iova::new(limit * PAGE + 0xfff), Prefer::High);
                    let wanted = by_trying(&taken, first, count, limit);
                    assert_eq!(got.ok().map(|range| range.first().get() / PAGE), wanted);
                }
            }
        }
    }
}

#[test]
fn freeing_twice_or_what_was_never_given_is_caught() {
    let space = space(0, 0xff_ffff);
    let [one, four, five, hundred] = [1, 4, 5, 100].map(|pages| high(&space, pages).unwrap());
    let refused = |range| Err(FreeError::NotAllocated(range));
    let part = range(four.first().get(), four.first().get() + 0x1fff);
    let longer = range(four.first().get(), four.first().get() + 0x7fff);
    let inner = range(five.first().get(), five.first().get() + 0xfff);
    for wrong in [part, longer, inner, range(0x1000, 0x1fff), range(0x10, 0x20), range(GIB_4, GIB_4 + 0xfff)]
    {
        assert_eq!(space.free(wrong), refused(wrong));
    }
    for right in [one, four, five, hundred] {
        assert!(space.is_live(right));
        assert_eq!((space.free(right), space.free(right)), (Ok(()), refused(right)));
        assert!(!space.is_live(right));
    }
    assert_eq!(space.live_count(), 0);
}

#[test]
fn what_one_cpu_freed_another_cannot_free_again() {
    let space = space(0, 0xff_ffff);
    let one = high(&space, 1).unwrap();
    space.free(one).unwrap();
    run_on(1);
    assert_eq!(space.free(one), Err(FreeError::NotAllocated(one)));
}

#[test]
fn a_retired_range_is_neither_live_nor_free() {
    for pages in [1, 2, 3] {
        let space = space(0, pages * PAGE - 1);
        let all = high(&space, pages).unwrap();
        let retired = space.retire(all).unwrap();
        assert_eq!(high(&space, pages), Err(AllocError::NoSpace));
        assert_eq!(space.free(all), Err(FreeError::NotAllocated(all)));
        space.restore(retired);
        assert!(space.is_live(all));
        space.release(space.retire(all).unwrap());
        assert_eq!(high(&space, pages), Ok(all));
    }
}

#[test]
fn a_failing_allocation_first_empties_every_magazine() {
    let space = space(0, 0xffff);
    let ranges: Vec<_> = (0..16).map(|_| high(&space, 1).unwrap()).collect();
    for (cpu, range) in ranges.into_iter().enumerate() {
        run_on(cpu % 2);
        space.free(range).unwrap();
    }
    assert_eq!(high(&space, 16), Ok(range(0, 0xffff)));
}

#[test]
fn magazines_and_depot_lose_nothing_when_they_overflow() {
    let pages = 3 * 128 * 34;
    let space = space(0, pages * PAGE - 1);
    let all: Vec<_> = (0..pages).map(|_| high(&space, 1).unwrap()).collect();
    all.iter().for_each(|&range| space.free(range).unwrap());
    let again: HashSet<_> = (0..pages).map(|_| high(&space, 1).unwrap()).collect();
    assert_eq!(again, all.into_iter().collect());
    assert_eq!(high(&space, 1), Err(AllocError::NoSpace));
}

#[test]
fn a_recently_freed_range_above_the_limit_is_not_given_out() {
    let space = space(0, 0xff_ffff);
    let top = high(&space, 1).unwrap();
    space.free(top).unwrap();
    let low = space.alloc(PAGE, Iova::new(0xffff), Prefer::High).unwrap();
    assert_eq!(low, range(0xf000, 0xffff));
    assert_eq!(high(&space, 1), Ok(top));
}

#[test]
fn pci_devices_get_addresses_below_4_gib_until_there_are_none() {
    let space = space(GIB_4 - 4 * PAGE, 2 * GIB_4 - 1);
    let pci = |pages: u64| space.alloc(pages * PAGE, TOP, Prefer::Below4G).unwrap();
    assert_eq!(pci(4), range(GIB_4 - 4 * PAGE, GIB_4 - 1));
    assert_eq!(pci(2).last().get(), 2 * GIB_4 - 1);
    assert_eq!(high(&space, 1).unwrap().last().get(), 2 * GIB_4 - 1 - 2 * PAGE);
}

#[test]
fn a_size_that_failed_below_4_gib_is_tried_again_once_something_there_is_free() {
    let space = space(0, 2 * GIB_4 - 1);
    let pci = |len: u64| space.alloc(len, TOP, Prefer::Below4G).unwrap();
    let low = pci(GIB_4);
    assert_eq!(low, range(0, GIB_4 - 1));
    assert_eq!(pci(0x10_0000).last().get(), 2 * GIB_4 - 1);
    let smaller = pci(0x8_0000);
    assert!(smaller.first().get() >= GIB_4, "nothing is free below: {smaller}");
    space.free(low).unwrap();
    assert_eq!(pci(0x10_0000).last().get(), GIB_4 - 1);
}

#[test]
fn reservations_merge_and_leave_the_rest_free() {
    let space = space(0, 0xffff);
    assert_eq!(space.reserve(range(0x2000, 0x4fff)), Ok(vec![range(0x2000, 0x4fff)]));
    assert_eq!(space.reserve(range(0x4800, 0x6800)), Ok(vec![range(0x5000, 0x6fff)]));
    assert_eq!(space.reserve(range(0x1000, 0x8fff)), Ok(vec![range(0x1000, 0x1fff), range(0x7000, 0x8fff)]));
    assert_eq!(space.reserve(range(0x1000, 0x8fff)), Ok(vec![]));
    assert_eq!(space.reserved(), [range(0x1000, 0x8fff)]);
    let free: HashSet<_> = iter::from_fn(|| high(&space, 1).ok()).collect();
    assert_eq!(free.len(), 8);
    assert!(!free.iter().any(|got| got.overlaps(range(0x1000, 0x8fff))));
}

#[test]
fn what_lies_outside_the_space_need_not_be_reserved() {
    let space = space(0x1_0000, 0x1_ffff);
    assert_eq!(space.reserve(range(0, 0xffff)), Ok(vec![]));
    assert_eq!(space.reserve(range(0x1_f800, u64::MAX)), Ok(vec![range(0x1_f000, 0x1_ffff)]));
}

#[test]
fn what_is_allocated_cannot_be_reserved_and_what_was_freed_can() {
    let space = space(0, 0xffff);
    let top = high(&space, 1).unwrap();
    assert_eq!(space.reserve(range(0x8000, 0xffff)), Err(ReserveError::InUse(range(0x8000, 0xffff))));
    assert_eq!(space.reserved(), []);
    space.free(top).unwrap();
    assert_eq!(space.reserve(range(0x8000, 0xffff)), Ok(vec![range(0x8000, 0xffff)]));
    assert_eq!(space.free(range(0xf000, 0xffff)), Err(FreeError::NotAllocated(range(0xf000, 0xffff))));
}

#[test]
fn a_reservation_undone_leaves_what_was_reserved_before() {
    let space = space(0, 0xffff);
    space.reserve(range(0x4000, 0x5fff)).unwrap();
    let parts = space.reserve(range(0x2000, 0x7fff)).unwrap();
    space.unreserve(&parts);
    assert_eq!(space.reserved(), [range(0x4000, 0x5fff)]);
    assert_eq!(space.alloc(2 * PAGE, Iova::new(0x7fff), Prefer::High), Ok(range(0x6000, 0x7fff)));
    space.unreserve(&parts);
    assert_eq!(space.alloc(2 * PAGE, Iova::new(0x7fff), Prefer::High), Ok(range(0x2000, 0x3fff)));
}

#[test]
fn cpus_that_allocate_and_free_at_once_never_share_a_range() {
    let space = Arc::new(space(0, 0x3f_ffff));
    let owned: Arc<Vec<AtomicBool>> = Arc::new((0..0x400).map(|_| false.into()).collect());
    let mark = move |got: IovaRange, taken: bool| {
        for page in got.first().get() / PAGE..=got.last().get() / PAGE {
            assert_eq!(owned[page as usize].swap(taken, SeqCst), !taken, "{got} at page {page:#x}");
        }
    };
    let worker = |cpu: usize| {
        let (space, mark) = (space.clone(), mark.clone());
        std::thread::spawn(move || {
            run_on(cpu);
            let mut mine = Vec::new();
            let give_back = |got| {
                mark(got, false);
                space.free(got).unwrap();
            };
            for turn in 0..20_000usize {
                if let Ok(got) = high(&space, (1 + (turn * 7 + cpu) % 9) as u64) {
                    mark(got, true);
                    mine.push(got);
                }
                if mine.len() > 20 || turn % 3 == 0 {
                    give_back(mine.swap_remove(turn * 31 % mine.len()));
                }
            }
            mine.into_iter().for_each(give_back);
        })
    };
    let workers: Vec<_> = (0..3).map(worker).collect();
    workers.into_iter().for_each(|worker| worker.join().unwrap());
    assert_eq!(space.live_count(), 0);
    space.empty_magazines();
    assert_eq!(high(&space, 0x400), Ok(range(0, 0x3f_ffff)));
}

#[derive(Clone, Debug)]
enum Step {
    Alloc { pages: u64, limit: u64, low: bool },
    Free { which: usize },
    FreeAgain { which: usize },
    Reserve { first: u64, pages: u64 },
    OnCpu(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let base = (GIB_4 / PAGE) - 64;
    let step = prop_oneof![
        5 => (1u64..40, base..base + 140, any::<bool>())
            .prop_map(|(pages, limit, low)| Step::Alloc { pages, limit, low }),
        4 => any::<usize>().prop_map(|which| Step::Free { which }),
        1 => any::<usize>().prop_map(|which| Step::FreeAgain { which }),
        1 => (base..base + 128, 1u64..6).prop_map(|(first, pages)| Step::Reserve { first, pages }),
        1 => (0usize..3).prop_map(Step::OnCpu),
    ];
    prop::collection::vec(step, 1..120)
}

proptest! {
    /// Around 4 GiB, where every policy has its edge.
    #[test]
    fn no_history_gives_a_range_twice_or_loses_one(steps in steps()) {
        let bounds = range(GIB_4 - 64 * PAGE, GIB_4 + 64 * PAGE - 1);
        let space = IovaSpace::new(machine(3), SizeLg2::KIB_4, bounds).unwrap();
        let (mut live, mut freed, mut reserved) = (Vec::<IovaRange>::new(), Vec::new(), Vec::new());
        for step in steps {
            match step {
                Step::Alloc { pages, limit, low } => {
                    let prefer = if low { Prefer::Below4G } else { Prefer::High };
                    let limit = Iova::new(limit * PAGE + 0xfff);
                    let Ok(got) = space.alloc(pages * PAGE, limit, prefer) else { continue };
                    prop_assert!(bounds.covers(got) && got.last() <= limit);
                    prop_assert_eq!(got.len_bytes(), Some(pages * PAGE));
                    prop_assert!(got.first().is_aligned(pages.next_power_of_two() * PAGE));
                    prop_assert!(!live.iter().chain(&reserved).any(|other| got.overlaps(*other)));
                    live.push(got);
                }
                Step::Free { which } if !live.is_empty() => {
                    let got = live.swap_remove(which % live.len());
                    prop_assert_eq!(space.free(got), Ok(()));
                    freed.push(got);
                }
                Step::FreeAgain { which } if !freed.is_empty() => {
                    let got: IovaRange = freed[which % freed.len()];
                    if !live.contains(&got) {
                        prop_assert_eq!(space.free(got), Err(FreeError::NotAllocated(got)));
                    }
                }
                Step::Reserve { first, pages } => {
                    let want = range(first * PAGE, (first + pages) * PAGE - 1);
                    let in_use = live.iter().any(|live| live.overlaps(want));
                    prop_assert_eq!(space.reserve(want).is_err(), in_use);
                    if !in_use {
                        reserved.push(want);
                    }
                }
                Step::OnCpu(cpu) => run_on(cpu),
                _ => {}
            }
        }
        prop_assert_eq!(space.live_count(), live.len() as u64);
        for got in live {
            space.free(got).unwrap();
        }
        // Page by page, everything that is not reserved is there again.
        let mut pages = 0;
        while high(&space, 1).is_ok() {
            pages += 1;
        }
        let kept: u64 = space.reserved().iter().map(|range| range.len_bytes().unwrap() / PAGE).sum();
        prop_assert_eq!(pages, 128 - kept);
    }
}

#[test]
fn pages_of_less_than_4_kib_make_no_space_however_large_it_is() {
    for lg2 in 0..12 {
        let granule = SizeLg2::new(lg2).unwrap();
        assert!(IovaSpace::new(machine(1), granule, IovaRange::all()).is_none(), "{granule}");
    }
}
