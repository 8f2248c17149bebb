//! The addresses of an unmanaged domain: what its user has mapped, and what he must leave alone.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::AtomicUsize;

use portcullis_hal::{Lock, Platform};
use portcullis_iova::RangeSet;
use portcullis_types::{Iova, IovaRange, Pa, Prot, SizeLg2, mutant};

use super::{CookieError, DomainMapError, DomainUnmapError};
use crate::dma::{MsiError, MsiPages};
use crate::iommu::{
    AttachError, DomainError, Gather, HwDomain, MapError, ReservedKind, ReservedRegion, UnmapError,
};

/// A translation that a user fills.
pub(crate) struct UserSpace<P: Platform> {
    hw: Arc<dyn HwDomain<P>>,
    granule: SizeLg2,
    state: Lock<P, State>,
    msi: MsiPages<P>,
    /// How many domains are nested in it; none if none can be.
    nested: Option<AtomicUsize>,
}

struct State {
    /// Mapped, being mapped, or being unmapped.
    mapped: RangeSet,
    bound: Vec<Bound>,
    /// Where doorbells get mapped.
    window: Option<IovaRange>,
}

/// A region of an attached device.
struct Bound {
    by: Attachment,
    range: IovaRange,
    kind: ReservedKind,
}

/// Which device, and to which domain: this one, or one that is nested in it. Their places in memory, which are their own for as long as that lasts. While a
/// device moves from one of these domains to another its regions are bound for both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Attachment {
    pub(super) device: usize,
    pub(super) domain: usize,
}

impl<P: Platform> UserSpace<P> {
    pub(super) fn new(hw: Arc<dyn HwDomain<P>>) -> Result<Self, DomainError> {
        Self::with(hw, None)
    }

    /// One in which others can be nested.
    pub(super) fn parent(hw: Arc<dyn HwDomain<P>>) -> Result<Self, DomainError> {
        Self::with(hw, Some(AtomicUsize::new(0)))
    }

    fn with(hw: Arc<dyn HwDomain<P>>, nested: Option<AtomicUsize>) -> Result<Self, DomainError> {
        let granule = hw.page_sizes().smallest().ok_or(DomainError::Unsupported)?;
        let state = State { mapped: RangeSet::new(), bound: Vec::new(), window: None };
        Ok(Self { hw, granule, state: Lock::<P, _>::new(state), msi: MsiPages::new(), nested })
    }

    /// How many domains are nested in it; none if none can be.
    pub(super) fn nested(&self) -> Option<&AtomicUsize> {
        self.nested.as_ref()
    }

    pub(super) fn hw(&self) -> &Arc<dyn HwDomain<P>> {
        &self.hw
    }

    pub(super) fn map(&self, iova: Iova, pa: Pa, len_bytes: u64, prot: Prot) -> Result<(), DomainMapError> {
        let range = IovaRange::new(iova, len_bytes).ok_or(DomainMapError::Map(MapError::BadLength))?;
        self.holds(range, pa).map_err(DomainMapError::Map)?;
        self.map_runs(range, &mut core::iter::once((pa, len_bytes)), prot)
    }

    /// Fills `range` with runs that lie one behind the other: with all of them, or with none. Whether they may be there is looked at once.
    pub(super) fn map_runs(
        &self,
        range: IovaRange,
        runs: &mut dyn Iterator<Item = (Pa, u64)>,
        prot: Prot,
    ) -> Result<(), DomainMapError> {
        self.fits(range).map_err(DomainMapError::Map)?;
        let mut state = self.state.lock();
        if let Some(reserved) =
            state.bound.iter().map(|bound| bound.range).chain(state.window).find(|held| held.overlaps(range))
            && !mutant!("user-maps-over-reserved-regions")
        {
            return Err(DomainMapError::Reserved(reserved));
        }
        if let Some(mapped) = state.mapped.first_overlap(range) {
            return Err(DomainMapError::Map(MapError::Mapped(mapped)));
        }
        // Noted before it is so, so that no device is attached in between for which the range is reserved.
        state.mapped.insert(range);
        drop(state);
        self.fill(range, runs, prot).map_err(|(done, error)| {
            let mut gather = Gather::new();
            gather.add(range, self.granule, true);
            let done = done.filter(|_| !mutant!("failed-runs-stay-mapped"));
            let taken_back = done.is_none_or(|done| self.hw.unmap(done, &mut gather).is_ok());
            // What was mapped for a moment must be forgotten before the range can be mapped again.
            if taken_back && self.hw.sync(&mut gather).is_ok() {
                self.state.lock().mapped.remove(range);
            }
            DomainMapError::Map(error)
        })
    }

    /// Maps runs over `range`; if one is refused, answers what was mapped before it, too.
    fn fill(
        &self,
        range: IovaRange,
        runs: &mut dyn Iterator<Item = (Pa, u64)>,
        prot: Prot,
    ) -> Result<(), (Option<IovaRange>, MapError)> {
        let mut done: Option<IovaRange> = None;
        for (pa, len_bytes) in runs {
            let refused = |error| (done, error);
            let next = done.map_or(Some(range.first()), |done| done.last().checked_add(1));
            let run = next.and_then(|at| IovaRange::new(at, len_bytes)).filter(|run| range.covers(*run));
            let run = run.ok_or(refused(MapError::BadLength))?;
            self.holds(run, pa).map_err(refused)?;
            self.hw.map_piece(run.first(), pa, len_bytes, prot).map_err(refused)?;
            done = IovaRange::from_ends(range.first(), run.last());
        }
        if done != Some(range) {
            return Err((done, MapError::BadLength));
        }
        self.hw.show(range).map_err(|error| (done, error))
    }

    /// That a range has whole pages and lies where the hardware translates.
    fn fits(&self, range: IovaRange) -> Result<(), MapError> {
        let granule = self.granule;
        if let Some(at) = [Some(range.first()), range.last().checked_add(1)]
            .into_iter()
            .flatten()
            .find(|at| !at.is_aligned(granule.bytes()))
        {
            return Err(MapError::Misaligned { value: at.get(), granule });
        }
        within(self.hw.aperture(), range).map_err(MapError::OutsideAperture)
    }

    /// That a run of whole pages lies in memory from `pa` on.
    fn holds(&self, run: IovaRange, pa: Pa) -> Result<(), MapError> {
        let granule = self.granule;
        let len_bytes = run.len_bytes().ok_or(MapError::BadLength)?;
        pa.checked_add(len_bytes - 1).ok_or(MapError::BadLength)?;
        let misaligned = |value: &u64| !value.is_multiple_of(granule.bytes());
        match [run.first().get(), pa.get(), len_bytes].into_iter().find(misaligned) {
            Some(value) => Err(MapError::Misaligned { value, granule }),
            None => Ok(()),
        }
    }

    pub(super) fn unmap(&self, range: IovaRange, gather: &mut Gather) -> Result<u64, DomainUnmapError> {
        if !range.is_aligned(self.granule.bytes()) {
            return Err(DomainUnmapError::Unmap(UnmapError::Misaligned { granule: self.granule }));
        }
        within(self.hw.aperture(), range)
            .map_err(|iova| DomainUnmapError::Unmap(UnmapError::OutsideAperture(iova)))?;
        let window = self.state.lock().window.filter(|window| window.overlaps(range));
        if let Some(window) = window {
            return Err(DomainUnmapError::Reserved(window));
        }
        let found = self.hw.unmap(range, gather).map_err(DomainUnmapError::Unmap)?;
        if range.len_bytes() != Some(found) {
            // Some of it may be what a failed map left in hardware's memory.
            gather.add(range, self.granule, true);
        }
        self.state.lock().mapped.remove(range);
        Ok(found)
    }

    /// Keeps the regions of a device free of the user's mappings from now on, and of doorbells, but for the region that is there for them.
    pub(super) fn bind(&self, by: Attachment, regions: &[ReservedRegion]) -> Result<(), AttachError> {
        self.msi.with_given(|doorbells| {
            let mut state = self.state.lock();
            let binding = || regions.iter().filter(|region| region.kind.binds_users());
            let taken = |region: &&ReservedRegion| {
                let rung = region.kind != ReservedKind::SoftwareMsi && doorbells.overlaps(region.range);
                rung || state.mapped.overlaps(region.range)
            };
            if let Some(taken) = binding().find(taken) {
                return Err(AttachError::Reserved(taken.range));
            }
            let bound = binding().map(|&ReservedRegion { range, kind, .. }| Bound { by, range, kind });
            state.bound.extend(bound);
            Ok(())
        })
    }

    /// Where no doorbell gets mapped, though the window covers it.
    fn not_for_doorbells(&self) -> Vec<IovaRange> {
        let state = self.state.lock();
        let bound = state.bound.iter().filter(|bound| bound.kind != ReservedKind::SoftwareMsi);
        bound.map(|bound| bound.range).collect()
    }

    /// Lets the regions of a device go.
    pub(super) fn release(&self, by: Attachment) {
        let mistaken =
            |bound: &Bound| mutant!("a-device-that-moves-frees-its-regions") && bound.by.device == by.device;
        self.state.lock().bound.retain(|bound| bound.by != by && !mistaken(bound));
    }

    pub(super) fn set_msi_window(&self, range: IovaRange) -> Result<(), CookieError> {
        let whole = range.is_aligned(self.granule.bytes()) && self.hw.aperture().covers(range);
        if !whole {
            return Err(CookieError::BadRange(range));
        }
        let mut state = self.state.lock();
        if state.window.is_some() {
            return Err(CookieError::Exists);
        }
        if state.mapped.overlaps(range) {
            return Err(CookieError::Mapped(range));
        }
        state.window = Some(range);
        Ok(())
    }

    /// Where a device that reaches up to `limit` must write for `doorbell`, and whether a page was mapped for that.
    pub(crate) fn doorbell(&self, doorbell: Pa, limit: Iova) -> Result<(Iova, bool), MsiError> {
        let state = self.state.lock();
        let window = state.window;
        let same = Iova::new(doorbell.get());
        let decoded =
            state.bound.iter().any(|bound| bound.kind == ReservedKind::Msi && bound.range.contains(same));
        drop(state);
        if decoded {
            return if same <= limit { Ok((same, false)) } else { Err(MsiError::NoIova { limit }) };
        }
        let window = window.or(mutant!("doorbell-without-a-cookie").then(|| self.hw.aperture()));
        let window = window.ok_or(MsiError::NoCookie)?;
        let reserved = || self.not_for_doorbells();
        self.msi.in_window(&*self.hw, self.granule, doorbell, limit, window, reserved)
    }
}

/// That `range` lies within `aperture`, or the first address that does not.
pub(crate) fn within(aperture: IovaRange, range: IovaRange) -> Result<(), Iova> {
    if range.first() < aperture.first() || range.first() > aperture.last() {
        return Err(range.first());
    }
    match aperture.last().checked_add(1) {
        Some(beyond) if range.last() > aperture.last() => Err(beyond),
        _ => Ok(()),
    }
}
