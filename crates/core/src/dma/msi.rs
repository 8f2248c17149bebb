//! Doorbells: where a device must write so that its interrupt arrives.
//!
//! A translated device cannot write to a doorbell's physical address. So the doorbell's page is mapped, once for each domain, at an
//! address that is taken from the DMA API's space (a DMA cookie) or from a window that the user leaves free (an MSI-only
//! cookie). Where hardware decodes a doorbell before translation, the address is the doorbell's own.
//!
//! Locking: one lock of its own for each domain, held while a page is taken and mapped, so that a doorbell never gets two. A domain
//! can serve devices of several groups, so no group's lock would do. What is reserved in a user's domain is looked at with it held.
//!
//! Choice: a page is the smallest that the domain maps, not the CPU's.

use alloc::vec::Vec;

use portcullis_hal::{Lock, Platform};
use portcullis_iova::RangeSet;
use portcullis_types::{Iova, IovaRange, Pa, Perms, Prot, SizeLg2, mutant};

use super::MsiError;
use crate::iommu::{Gather, HwDomain, MapError};

/// The doorbells of one domain.
#[derive(Debug)]
pub(crate) struct MsiPages<P: Platform> {
    state: Lock<P, State>,
}

#[derive(Debug, Default)]
struct State {
    pages: Vec<Page>,
    /// Doorbells that hardware decodes, 1:1.
    decoded: RangeSet,
    /// Pages of the window that are given out, or that hardware may remember.
    given: RangeSet,
}

#[derive(Clone, Copy, Debug)]
struct Page {
    pa: Pa,
    iova: Iova,
}

impl<P: Platform> MsiPages<P> {
    pub(crate) fn new() -> Self {
        Self { state: Lock::<P, _>::new(State::default()) }
    }

    /// Notes that hardware decodes the doorbells in `range`. Answers which of them were not known before.
    pub(crate) fn add_decoded(&self, range: IovaRange) -> Vec<IovaRange> {
        let mut state = self.state.lock();
        let new = state.decoded.gaps(range);
        state.decoded.insert(range);
        new
    }

    /// Undoes [`add_decoded`](Self::add_decoded).
    pub(crate) fn remove_decoded(&self, ranges: &[IovaRange]) {
        let mut state = self.state.lock();
        ranges.iter().for_each(|&range| state.decoded.remove(range));
    }

    /// Where to write for `doorbell`, and whether a page was mapped for that. `take` gives a page's range at or below `limit`,
    /// `give_back` takes it back if it could not be mapped.
    pub(crate) fn in_space(
        &self,
        hw: &dyn HwDomain<P>,
        granule: SizeLg2,
        doorbell: Pa,
        limit: Iova,
        take: impl FnOnce() -> Option<IovaRange>,
        give_back: impl FnOnce(IovaRange),
    ) -> Result<(Iova, bool), MsiError> {
        let mut state = self.state.lock();
        if let Some(known) = state.known(granule, doorbell, limit)? {
            return Ok((known, false));
        }
        let range = take().ok_or(MsiError::NoIova { limit })?;
        state.map(hw, granule, doorbell, range.first()).map(|iova| (iova, true)).map_err(|error| {
            if !mutant!("refused-doorbell-keeps-its-address") {
                give_back(range);
            }
            MsiError::Map(error)
        })
    }

    /// The same, with addresses from `window`, lowest first. Pages that `reserved` has a part of are left out.
    pub(crate) fn in_window(
        &self,
        hw: &dyn HwDomain<P>,
        granule: SizeLg2,
        doorbell: Pa,
        limit: Iova,
        window: IovaRange,
        reserved: impl FnOnce() -> Vec<IovaRange>,
    ) -> Result<(Iova, bool), MsiError> {
        let mut state = self.state.lock();
        if let Some(known) = state.known(granule, doorbell, limit)? {
            return Ok((known, false));
        }
        let mut taken = state.given.clone();
        reserved().into_iter().for_each(|range| taken.insert(range.align_outward(granule.bytes())));
        let lowest = taken.gaps(window).first().map(|gap| gap.first());
        let page = lowest.and_then(|first| IovaRange::new(first, granule.bytes()));
        let page = page.filter(|page| page.last() <= limit).ok_or(MsiError::NoIova { limit })?;
        let mapped = state.map(hw, granule, doorbell, page.first());
        let mut gather = Gather::new();
        gather.add(page, granule, true);
        // A page that was refused is used next, unless hardware may remember a part of it.
        if mapped.is_ok() || hw.sync(&mut gather).is_err() {
            state.given.insert(page);
        }
        mapped.map(|iova| (iova, true)).map_err(MsiError::Map)
    }

    /// What `work` answers, who sees which pages of the window are given out. None is given out meanwhile.
    pub(crate) fn with_given<T>(&self, work: impl FnOnce(&RangeSet) -> T) -> T {
        work(&self.state.lock().given)
    }
}

impl State {
    /// The address of a doorbell that needs no mapping any more; none if it does.
    fn known(&self, granule: SizeLg2, doorbell: Pa, limit: Iova) -> Result<Option<Iova>, MsiError> {
        let same = Iova::new(doorbell.get());
        if IovaRange::new(same, 1).is_some_and(|one| self.decoded.overlaps(one)) {
            return if same <= limit { Ok(Some(same)) } else { Err(MsiError::NoIova { limit }) };
        }
        let page = doorbell.align_down(granule.bytes());
        let reached =
            |held: &&Page| held.pa == page && held.iova.get() | (granule.bytes() - 1) <= limit.get();
        let held = self.pages.iter().find(reached);
        Ok(held.map(|held| Iova::new(held.iova.get() + doorbell.offset_in(granule.bytes()))))
    }

    fn map<P: Platform>(
        &mut self,
        hw: &dyn HwDomain<P>,
        granule: SizeLg2,
        doorbell: Pa,
        iova: Iova,
    ) -> Result<Iova, MapError> {
        let mask = if mutant!("doorbell-page-of-another-size") { 4096 } else { granule.bytes() };
        let pa = doorbell.align_down(mask);
        hw.map(iova, pa, granule.bytes(), Prot::device(Perms::WRITE))?;
        self.pages.push(Page { pa, iova });
        Ok(Iova::new(iova.get() + doorbell.offset_in(granule.bytes())))
    }
}
