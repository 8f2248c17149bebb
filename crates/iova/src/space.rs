//! An IOVA space: which addresses are free, reserved, live, or on their way from one to the other.

use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;

use portcullis_hal::{Lock, Platform};
use portcullis_types::{Iova, IovaRange, SizeLg2, mutant};

use crate::RangeSet;
use crate::ledger::{self, Ledger};
use crate::magazine::{self, Closed, Magazines};
use crate::tree::PageTree;

/// An allocator of address ranges.
#[derive(Debug)]
pub struct IovaSpace<P: Platform> {
    platform: Arc<P>,
    granule: SizeLg2,
    bounds: IovaRange,
    tree: Lock<P, Tree>,
    magazines: Magazines<P>,
    small: Ledger<P>,
}

/// What is behind the lock of the tree.
#[derive(Debug)]
struct Tree {
    free: PageTree,
    /// Live ranges that the ledger does not hold: first page and page count.
    large: BTreeMap<u64, u64>,
    reserved: RangeSet,
    /// The last page below 4 GiB.
    last_low: u64,
    /// The smallest page count for which there was no place below 4 GiB, since something was last freed there.
    failed_low: u64,
}

/// Where to look first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prefer {
    /// As high as the limit allows.
    High,
    /// Below 4 GiB, and higher only if there is no room: for PCI devices, some of which lie about what they reach, and all of
    /// which send shorter packets so.
    Below4G,
}

/// Why no range was allocated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum AllocError {
    /// The length is 0 or more than the space. EINVAL.
    BadLength,
    /// There is no room at or below the limit. ENOSPC.
    NoSpace,
}

/// Why a range was not freed. A caught programming error; nothing changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FreeError {
    /// Exactly this range is not allocated: it was freed before, or never given out, or is part of another. EINVAL.
    NotAllocated(IovaRange),
}

/// Why a range was not reserved. Then nothing of it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ReserveError {
    /// Something in this part of it is allocated. EBUSY.
    InUse(IovaRange),
}

/// A range that its owner has given up and nobody may have yet: hardware may still know it.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "the range is lost unless it is released"]
pub struct Retired(IovaRange);

impl Retired {
    /// The range.
    pub fn range(&self) -> IovaRange {
        self.0
    }
}

const LAST_LOW: u64 = u32::MAX as u64;

impl Tree {
    fn alloc(&mut self, pages: u64, limit: u64) -> Option<u64> {
        // What does not fit below 4 GiB does not fit below less, nor does anything larger.
        if limit <= self.last_low && pages >= self.failed_low {
            return None;
        }
        let Some(first) = self.free.highest_fit(pages, limit) else {
            if limit == self.last_low {
                self.failed_low = pages;
            }
            return None;
        };
        self.free.take(first, first + (pages - 1));
        Some(first)
    }

    fn give_back(&mut self, first: u64, pages: u64) {
        self.free.give_back(first, first + (pages - 1));
        if first <= self.last_low {
            self.failed_low = u64::MAX;
        }
    }
}

impl<P: Platform> IovaSpace<P> {
    /// A space of whole pages of `granule` (at least 4 KiB) within `bounds`: a range may begin exactly at the first address of the
    /// first whole page, and end exactly at the last of the last. None if `bounds` has no whole page or the granule is too small.
    pub fn new(platform: Arc<P>, granule: SizeLg2, bounds: IovaRange) -> Option<Self> {
        if granule < SizeLg2::KIB_4 {
            return None;
        }
        let size = granule.bytes();
        let first = bounds.first().get().div_ceil(size);
        // One more than the last whole page; the end of the 64-bit space counts as one.
        let end = match bounds.last().checked_add(1) {
            Some(end) => end.get() >> granule.get(),
            None => (u64::MAX >> granule.get()) + 1,
        };
        if first >= end {
            return None;
        }
        let mut free = PageTree::all_taken(end - 1);
        free.give_back(first, end - 1);
        let tree = Tree {
            free,
            large: BTreeMap::new(),
            reserved: RangeSet::new(),
            last_low: (LAST_LOW >> granule.get()).min(end - 1),
            failed_low: u64::MAX,
        };
        let cpus = platform.cpu_count();
        Some(Self {
            platform,
            granule,
            bounds: pages_range(granule, first, end - first),
            tree: Lock::<P, _>::new(tree),
            magazines: Magazines::new(cpus),
            small: Ledger::new(cpus),
        })
    }

    /// The page size: every range is a multiple of it.
    pub fn granule(&self) -> SizeLg2 {
        self.granule
    }

    /// Where ranges can lie.
    pub fn bounds(&self) -> IovaRange {
        self.bounds
    }

    /// A range of `len_bytes` bytes, rounded up to whole pages, aligned to the next power of two of that, that ends at or below
    /// `limit`. The highest there is, unless one of this size was freed recently.
    ///
    /// # Errors
    ///
    /// [`AllocError::NoSpace`] only after everything that is kept close at hand has been put back and there still is no room.
    pub fn alloc(&self, len_bytes: u64, limit: Iova, prefer: Prefer) -> Result<IovaRange, AllocError> {
        let pages = len_bytes.div_ceil(self.granule.bytes());
        let space = self.last_page() + 1;
        if pages == 0 || pages > space {
            return Err(AllocError::BadLength);
        }
        // The last page that ends at or below the limit.
        let end = limit.checked_add(1).map_or(space, |end| end.get() >> self.granule.get());
        let limit = end.checked_sub(1).ok_or(AllocError::NoSpace)?.min(space - 1);
        let low = LAST_LOW >> self.granule.get();
        let first = (prefer == Prefer::Below4G && limit > low)
            .then(|| self.take(pages, low))
            .flatten()
            .or_else(|| self.take(pages, limit))
            .or_else(|| {
                let _closed = self.with_empty_magazines();
                self.take(pages, limit)
            });
        first.map(|first| pages_range(self.granule, first, pages)).ok_or(AllocError::NoSpace)
    }

    fn take(&self, pages: u64, limit: u64) -> Option<u64> {
        let near = magazine::kept_order(pages)
            .and_then(|order| self.magazines.take(self.platform.current_cpu(), order, limit));
        let first = near.or_else(|| self.tree.lock().alloc(pages, limit))?;
        self.set_live(first, pages);
        Some(first)
    }

    /// Notes that a range is live, which was neither that nor free.
    fn set_live(&self, first: u64, pages: u64) {
        if pages <= ledger::MOST_PAGES {
            self.small.add(first, pages);
        } else {
            self.tree.lock().large.insert(first, pages);
        }
    }

    /// Puts back into the tree what is kept close at hand for the next allocations.
    pub fn empty_magazines(&self) {
        drop(self.with_empty_magazines());
    }

    /// The same, and keeps them empty while the answer lives.
    fn with_empty_magazines(&self) -> Closed<'_> {
        let closed = self.magazines.close();
        self.magazines.drain(&closed, |order, first| self.tree.lock().give_back(first, 1 << order));
        closed
    }

    /// Frees a range that hardware does not know any more: [`retire`](Self::retire) and [`release`](Self::release).
    ///
    /// # Errors
    ///
    /// As [`FreeError`] says.
    pub fn free(&self, range: IovaRange) -> Result<(), FreeError> {
        self.retire(range).map(|retired| self.release(retired))
    }

    /// Takes a range from its owner: it cannot be freed again, nor is it free.
    ///
    /// # Errors
    ///
    /// As [`FreeError`] says.
    pub fn retire(&self, range: IovaRange) -> Result<Retired, FreeError> {
        let (first, pages) = self.live_pages(range).ok_or(FreeError::NotAllocated(range))?;
        let was_live = if pages <= ledger::MOST_PAGES {
            self.small.remove(first, pages)
        } else {
            let large = &mut self.tree.lock().large;
            large.get(&first) == Some(&pages) && large.remove(&first).is_some()
        };
        if was_live || mutant!("freed-twice") {
            Ok(Retired(range))
        } else {
            Err(FreeError::NotAllocated(range))
        }
    }

    /// Makes a retired range free. Hardware must have forgotten it.
    pub fn release(&self, retired: Retired) {
        let (first, pages) = self.pages(retired.0);
        let Some(order) = magazine::kept_order(pages) else {
            self.tree.lock().give_back(first, pages);
            return;
        };
        let to_tree = |first| self.tree.lock().give_back(first, pages);
        self.magazines.put(self.platform.current_cpu(), order, first, to_tree);
    }

    /// Gives a retired range back to its owner: it is live again, because what it stood for is still mapped.
    pub fn restore(&self, retired: Retired) {
        let (first, pages) = self.pages(retired.0);
        self.set_live(first, pages);
    }

    /// Whether exactly this range is allocated.
    pub fn is_live(&self, range: IovaRange) -> bool {
        self.live_pages(range).is_some_and(|(first, pages)| {
            if pages <= ledger::MOST_PAGES {
                self.small.holds(first, pages)
            } else {
                self.tree.lock().large.get(&first) == Some(&pages)
            }
        })
    }

    /// How many ranges are allocated.
    pub fn live_count(&self) -> u64 {
        let large = self.tree.lock().large.len() as u64;
        self.small.count() + large
    }

    /// Keeps `range`, rounded outward to whole pages, from being allocated. What lies outside the space, or is reserved already, is no
    /// error. Answers the parts that were not reserved before, to undo it with [`unreserve`](Self::unreserve).
    ///
    /// # Errors
    ///
    /// As [`ReserveError`] says. A range that is retired and not yet released counts as allocated, and so does one that is released while this looks.
    pub fn reserve(&self, range: IovaRange) -> Result<Vec<IovaRange>, ReserveError> {
        let Some(range) = range.align_outward(self.granule.bytes()).intersection(self.bounds) else {
            return Ok(Vec::new());
        };
        let _closed = self.with_empty_magazines();
        let mut tree = self.tree.lock();
        let parts = tree.reserved.gaps(range);
        for &part in &parts {
            let (first, pages) = self.pages(part);
            if !tree.free.is_free(first, first + (pages - 1)) {
                return Err(ReserveError::InUse(part));
            }
        }
        for &part in &parts {
            let (first, pages) = self.pages(part);
            tree.free.take(first, first + (pages - 1));
        }
        if !mutant!("reservation-not-noted") {
            tree.reserved.insert(range);
        }
        Ok(parts)
    }

    /// Undoes a reservation: `parts` as [`reserve`](Self::reserve) answered them. What is not reserved is left alone.
    pub fn unreserve(&self, parts: &[IovaRange]) {
        let mut tree = self.tree.lock();
        for part in parts {
            let aligned = part.align_outward(self.granule.bytes()).intersection(self.bounds);
            let Some(part) = aligned else { continue };
            let mut held = RangeSet::new();
            held.insert(part);
            if !mutant!("unreserve-frees-what-others-hold") {
                tree.reserved.gaps(part).into_iter().for_each(|gap| held.remove(gap));
            }
            tree.reserved.remove(part);
            for held in held.iter() {
                let (first, pages) = self.pages(held);
                tree.give_back(first, pages);
            }
        }
    }

    /// What is reserved, lowest first.
    pub fn reserved(&self) -> Vec<IovaRange> {
        self.tree.lock().reserved.iter().collect()
    }

    fn last_page(&self) -> u64 {
        self.bounds.last().get() >> self.granule.get()
    }

    /// First page and page count.
    fn pages(&self, range: IovaRange) -> (u64, u64) {
        let first = range.first().get() >> self.granule.get();
        (first, (range.last().get() >> self.granule.get()) - first + 1)
    }

    /// The same, of a range that can be live: whole pages, within bounds, aligned to its size.
    fn live_pages(&self, range: IovaRange) -> Option<(u64, u64)> {
        let (first, pages) = self.pages(range);
        let possible = range.is_aligned(self.granule.bytes())
            && self.bounds.covers(range)
            && first & (pages.next_power_of_two() - 1) == 0;
        possible.then_some((first, pages))
    }
}

fn pages_range(granule: SizeLg2, first: u64, pages: u64) -> IovaRange {
    let last = first + (pages - 1);
    let ends = (Iova::new(first << granule.get()), Iova::new(last << granule.get() | (granule.bytes() - 1)));
    IovaRange::from_ends(ends.0, ends.1).expect("at least one page")
}
