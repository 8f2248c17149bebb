//! The addresses of a domain of the DMA API: handed out, taken away, and reused when hardware has forgotten them.
//!
//! # The order of an unmap
//!
//! 1. The range is retired: from here on nobody can unmap it again, and nobody gets it.
//! 2. It is taken out of the table.
//! 3. Hardware is made to forget it. In lazy mode this comes later, for many ranges at once.
//! 4. Against the [`Flushed`] that says so, the range is released, and a coherent buffer's memory given back.
//!
//! If 2 fails, the range is its owner's again. If 3 fails, the range waits (with its memory) for a later flush that succeeds, which may
//! be any flush of the whole domain: that covers every unmap before it.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use portcullis_hal::{BlockLayout, Lock, Platform};
use portcullis_iova::{AllocError, FlushBounds, FlushQueue, IovaSpace, Prefer, RangeSet, Retired};
use portcullis_types::{Iova, IovaRange, Pa, PaRange, Prot, SizeLg2, mutant};

use super::{DmaMapError, DmaStats, DmaUnmapError, MsiError, MsiPages};
use crate::domain::{FlushMode, Prepared, within};
use crate::iommu::{
    AttachError, DomainError, Flushed, Gather, HwDomain, MapError, ReservedKind, ReservedRegion, SyncError,
};

/// A translation that the DMA API fills.
pub(crate) struct DmaSpace<P: Platform> {
    platform: Arc<P>,
    hw: Arc<dyn HwDomain<P>>,
    granule: SizeLg2,
    /// Whether unmaps are flushed later. Never cleared.
    lazy: AtomicBool,
    iova: IovaSpace<P>,
    waiting: FlushQueue<P, Waiting>,
    msi: MsiPages<P>,
    /// What was made ready for devices. Held while a direct region is mapped or taken out, so that none is mapped twice, nor taken from who needs it.
    ready: Lock<P, Ready>,
    pub(super) counters: Counters,
}

/// What was made ready, and for whom.
#[derive(Default)]
struct Ready {
    /// What is mapped 1:1 for firmware. Nothing else is mapped in what is reserved.
    direct: RangeSet,
    /// Of devices that are here, or are about to come.
    needs: Vec<Need>,
}

/// What a device needs.
struct Need {
    /// The device: its place in memory.
    of: usize,
    what: What,
    range: IovaRange,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    /// Addresses that are not handed out.
    Unused,
    /// A region that is mapped 1:1.
    Direct,
    /// Doorbells that hardware decodes.
    Doorbells,
}

impl What {
    /// Whether a region of this kind is made ready so.
    fn is_for(self, kind: ReservedKind) -> bool {
        match self {
            Self::Unused => kind.binds_dma_api(),
            Self::Direct => kind.is_direct(),
            Self::Doorbells => kind == ReservedKind::Msi,
        }
    }
}

impl Ready {
    /// The parts of `ranges` that nobody needs for this.
    fn unneeded(&self, what: What, ranges: &[IovaRange]) -> Vec<IovaRange> {
        let mut needed = RangeSet::new();
        self.needs.iter().filter(|need| need.what == what).for_each(|need| needed.insert(need.range));
        ranges.iter().flat_map(|&range| needed.gaps(range)).collect()
    }
}

/// What waits for a flush.
struct Waiting {
    range: Retired,
    memory: Option<Memory>,
    /// Whether it waits because an invalidation failed.
    quarantined: bool,
}

/// Memory that goes back to the platform once no device reaches it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Memory {
    pub(super) pa: Pa,
    pub(super) layout: BlockLayout,
}

/// What was done so far. See [`DmaStats`].
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) maps: AtomicU64,
    pub(super) unmaps: AtomicU64,
    syncs: AtomicU64,
    failed_syncs: AtomicU64,
    quarantined: AtomicU64,
}

/// When the invalidation of an unmap is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum When {
    /// Before the unmap returns.
    Now,
    /// As the domain's mode says.
    ByMode,
}

/// What became of what was mapped where not all could be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Undone {
    /// No device reaches anything there any more.
    Forgotten,
    /// It is taken out, and hardware has not confirmed that it forgot it.
    Unconfirmed,
    /// The table did not let go of it.
    StillMapped,
}

impl<P: Platform> DmaSpace<P> {
    pub(crate) fn new(
        platform: Arc<P>,
        hw: Arc<dyn HwDomain<P>>,
        mode: FlushMode,
    ) -> Result<Self, DomainError> {
        let granule = hw.page_sizes().smallest().ok_or(DomainError::Unsupported)?;
        let aperture = hw.aperture();
        // The page at 0 is never given out: drivers and devices take 0 for no address.
        let first = aperture.first().max(Iova::new(granule.bytes()));
        let bounds = IovaRange::from_ends(first, aperture.last());
        let iova = bounds.and_then(|bounds| IovaSpace::new(platform.clone(), granule, bounds));
        let waiting = FlushQueue::new(&*platform, FlushBounds::default());
        Ok(Self {
            platform,
            hw,
            granule,
            lazy: AtomicBool::new(mode == FlushMode::Lazy),
            iova: iova.ok_or(DomainError::Unsupported)?,
            waiting,
            msi: MsiPages::new(),
            ready: Lock::<P, _>::new(Ready::default()),
            counters: Counters::default(),
        })
    }

    pub(crate) fn hw(&self) -> &Arc<dyn HwDomain<P>> {
        &self.hw
    }

    pub(crate) fn mode(&self) -> FlushMode {
        if self.lazy.load(Relaxed) { FlushMode::Lazy } else { FlushMode::Strict }
    }

    /// From now on unmaps are flushed later; those that are under way, as they began.
    pub(crate) fn make_lazy(&self) {
        self.lazy.store(true, Relaxed);
    }

    pub(super) fn granule(&self) -> u64 {
        self.granule.bytes()
    }

    /// A free range; nothing is mapped there.
    pub(super) fn take(&self, len_bytes: u64, limit: Iova, prefer: Prefer) -> Result<IovaRange, DmaMapError> {
        let alloc = || self.iova.alloc(len_bytes, limit, prefer);
        let found = alloc().or_else(|error| {
            // What waits for a flush may be what is missing.
            let worth_it = error == AllocError::NoSpace && !self.waiting.is_empty();
            if worth_it && self.flush().is_ok() { alloc() } else { Err(error) }
        });
        found.map_err(|_| DmaMapError::NoIova { len_bytes, limit })
    }

    /// Gives back a range in which something could not be mapped, though parts may have been, or have been for a moment: takes out what
    /// there is and makes hardware forget it. If the table refuses, the range stays taken, and the memory goes with the domain; if hardware does not confirm, both
    /// are quarantined: either way nobody gets them.
    fn abandon(&self, range: IovaRange, memory: Option<Memory>) -> Undone {
        let retired = self.iova.retire(range);
        debug_assert!(retired.is_ok(), "taken a moment ago");
        let Ok(retired) = retired else { return Undone::StillMapped };
        let mut gather = Gather::new();
        if !mutant!("failed-map-leaves-what-was-mapped") && self.hw.unmap(range, &mut gather).is_err() {
            self.iova.restore(retired);
            leave(&*self.hw, memory);
            return Undone::StillMapped;
        }
        gather.add(range, self.granule, true);
        match self.sync_now(Waiting { range: retired, memory, quarantined: false }, &mut gather) {
            Ok(()) => Undone::Forgotten,
            Err(_) => Undone::Unconfirmed,
        }
    }

    /// [Abandons](Self::abandon) a range in which somebody's buffers could not be mapped, and answers what he is told. `memory` is ours, and waits with the range: of that nobody has
    /// to be told that hardware may know it still.
    pub(super) fn undo(&self, range: IovaRange, memory: Option<Memory>, error: DmaMapError) -> DmaMapError {
        let theirs = memory.is_none();
        match (self.abandon(range, memory), error) {
            (Undone::Unconfirmed, DmaMapError::Map(error))
                if theirs && !mutant!("not-undone-and-not-told") =>
            {
                DmaMapError::NotUndone(error)
            }
            (Undone::StillMapped, DmaMapError::Map(error)) => DmaMapError::StillMapped(error),
            (_, error) => error,
        }
    }

    pub(super) fn map(&self, iova: Iova, pages: PaRange, prot: Prot) -> Result<(), DmaMapError> {
        let len_bytes = pages.len_bytes().ok_or(DmaMapError::BadLength)?;
        self.hw.map(iova, pages.first(), len_bytes, prot).map_err(DmaMapError::Map)
    }

    /// As [`map`](Self::map), for one of several pieces, all of which are then [shown](Self::show).
    pub(super) fn map_piece(&self, iova: Iova, pages: PaRange, prot: Prot) -> Result<(), DmaMapError> {
        let len_bytes = pages.len_bytes().ok_or(DmaMapError::BadLength)?;
        self.hw.map_piece(iova, pages.first(), len_bytes, prot).map_err(DmaMapError::Map)
    }

    pub(super) fn show(&self, range: IovaRange) -> Result<(), DmaMapError> {
        self.hw.show(range).map_err(DmaMapError::Map)
    }

    /// Whether `range`, whole pages, is what was taken for one mapping and has not been taken away.
    pub(super) fn is_live(&self, range: IovaRange) -> bool {
        self.iova.is_live(range)
    }

    /// Takes away what is mapped in `range`, which was [taken](Self::take); `mapped_bytes` of it should be. The memory, if some goes
    /// with it, is given back together with the range.
    pub(super) fn unmap(
        &self,
        range: IovaRange,
        mapped_bytes: u64,
        memory: Option<Memory>,
        when: When,
    ) -> Result<(), DmaUnmapError> {
        let retired = self.iova.retire(range).map_err(|_| DmaUnmapError::NotMapped(range))?;
        let mut gather = Gather::new();
        let found_bytes = match self.hw.unmap(range, &mut gather) {
            Ok(found_bytes) => found_bytes,
            Err(error) => {
                self.iova.restore(retired);
                return Err(DmaUnmapError::Unmap(error));
            }
        };
        if found_bytes != mapped_bytes {
            // What the table holds no more hardware may remember: nobody says that it was told when that went.
            gather.add(range, self.granule, true);
        }
        self.counters.unmaps.fetch_add(1, Relaxed);
        let waiting = Waiting { range: retired, memory, quarantined: false };
        if when == When::ByMode && self.mode() == FlushMode::Lazy {
            self.wait_for_flush(waiting);
        } else {
            self.sync_now(waiting, &mut gather)?;
        }
        if found_bytes == mapped_bytes {
            Ok(())
        } else {
            Err(DmaUnmapError::Torn { found_bytes, mapped_bytes })
        }
    }

    fn wait_for_flush(&self, waiting: Waiting) {
        if self.waiting.push(&self.platform, waiting) {
            // A flush that fails is counted, and everything waits on: the unmap itself has done what it promised.
            let _ = self.flush();
        }
    }

    fn sync_now(&self, mut waiting: Waiting, gather: &mut Gather) -> Result<(), DmaUnmapError> {
        match self.hw.sync(gather) {
            Ok(flushed) => {
                self.counters.syncs.fetch_add(1, Relaxed);
                self.reclaim(waiting, &flushed);
                if self.counters.quarantined.load(Relaxed) > 0 && self.waiting.is_due(self.platform.now_ns())
                {
                    // Hardware answers again: try for what it would not confirm before.
                    let _ = self.flush();
                }
                Ok(())
            }
            Err(error) => {
                self.counters.failed_syncs.fetch_add(1, Relaxed);
                if mutant!("reclaimed-though-the-sync-failed") {
                    self.iova.release(waiting.range);
                    return Ok(());
                }
                self.counters.quarantined.fetch_add(1, Relaxed);
                waiting.quarantined = true;
                let _ = self.waiting.push(&self.platform, waiting);
                Err(DmaUnmapError::NotFlushed(error))
            }
        }
    }

    /// Only against the proof that hardware has forgotten the range is it free, and its memory the platform's.
    fn reclaim(&self, waiting: Waiting, _: &Flushed) {
        self.iova.release(waiting.range);
        if let Some(Memory { pa, layout }) = waiting.memory {
            self.platform.free_buffer(pa, layout);
        }
        if waiting.quarantined {
            self.counters.quarantined.fetch_sub(1, Relaxed);
        }
    }

    /// Makes hardware forget everything that was unmapped, and reclaims it.
    pub(crate) fn flush(&self) -> Result<(), SyncError> {
        let flush = || self.hw.flush_all();
        let flushed =
            self.waiting.flush(&self.platform, flush, |waiting, proof| self.reclaim(waiting, proof));
        let counter = if flushed.is_ok() { &self.counters.syncs } else { &self.counters.failed_syncs };
        counter.fetch_add(1, Relaxed);
        flushed
    }

    /// Flushes if something has waited too long.
    pub(crate) fn poll(&self) -> Result<(), SyncError> {
        if self.waiting.is_due(self.platform.now_ns()) { self.flush() } else { Ok(()) }
    }

    pub(crate) fn stats(&self) -> DmaStats {
        let read = |counter: &AtomicU64| counter.load(Relaxed);
        let quarantined = read(&self.counters.quarantined);
        DmaStats {
            maps: read(&self.counters.maps),
            unmaps: read(&self.counters.unmaps),
            syncs: read(&self.counters.syncs),
            failed_syncs: read(&self.counters.failed_syncs),
            quarantined,
            waiting: (self.waiting.len() as u64).saturating_sub(quarantined),
            live: self.iova.live_count(),
        }
    }

    /// Where a device that reaches up to `limit` must write for `doorbell`, and whether a page was mapped for that.
    pub(super) fn doorbell(
        &self,
        doorbell: Pa,
        limit: Iova,
        prefer: Prefer,
    ) -> Result<(Iova, bool), MsiError> {
        let take = || self.take(self.granule(), limit, prefer).ok();
        self.msi
            .in_space(&*self.hw, self.granule, doorbell, limit, take, |range| _ = self.abandon(range, None))
    }
}

/// Leaves memory to the driver's domain, with which it goes.
fn leave<P: Platform>(hw: &dyn HwDomain<P>, memory: Option<Memory>) {
    memory.into_iter().for_each(|Memory { pa, layout }| hw.keep(pa, layout));
}

impl<P: Platform> Drop for DmaSpace<P> {
    /// Memory that waits because hardware had not confirmed goes back if it does so now; else with the driver's domain, whose tables wait for the same.
    fn drop(&mut self) {
        if self.counters.quarantined.load(Relaxed) > 0 {
            let _ = self.flush();
            let hw = &*self.hw;
            self.waiting.drain(|waiting| leave(hw, waiting.memory));
        }
    }
}

/// Making ready for a device: what must never be handed out, and what firmware needs mapped.
///
/// Devices of several groups can be here, and one can come while another does not after all. So it is noted what each needs, before anything is made for it, and nothing is undone that another needs.
impl<P: Platform> DmaSpace<P> {
    pub(crate) fn prepare(
        &self,
        device: usize,
        regions: &[ReservedRegion],
        windows: &[IovaRange],
    ) -> Result<Prepared, AttachError> {
        self.note(device, regions, windows);
        let mut prepared = Prepared::default();
        let done = self.reserve(regions, windows, &mut prepared).and_then(|()| {
            let direct = |region: &&ReservedRegion| {
                What::Direct.is_for(region.kind) && !mutant!("direct-regions-not-mapped")
            };
            let mut direct = regions.iter().filter(direct);
            direct.try_for_each(|region| self.map_direct(region, &mut prepared))
        });
        match done {
            Ok(()) => {
                let decoded = regions.iter().filter(|region| What::Doorbells.is_for(region.kind));
                prepared.doorbells = decoded.flat_map(|region| self.msi.add_decoded(region.range)).collect();
                Ok(prepared)
            }
            Err(error) => {
                self.unprepare(device, prepared);
                Err(error)
            }
        }
    }

    fn note(&self, device: usize, regions: &[ReservedRegion], windows: &[IovaRange]) {
        let pages = |range: IovaRange| range.align_outward(self.granule());
        let need = |what, range| Need { of: device, what, range };
        let mut ready = self.ready.lock();
        for &ReservedRegion { kind, range, .. } in regions {
            let each = [(What::Unused, pages(range)), (What::Direct, pages(range)), (What::Doorbells, range)];
            let its = each.into_iter().filter(|(what, _)| what.is_for(kind));
            ready.needs.extend(its.map(|(what, range)| need(what, range)));
        }
        ready.needs.extend(windows.iter().map(|&window| need(What::Unused, pages(window))));
    }

    /// A device is here no more. What was made ready for it stays.
    pub(crate) fn released(&self, device: usize) {
        self.ready.lock().needs.retain(|need| need.of != device);
    }

    fn reserve(
        &self,
        regions: &[ReservedRegion],
        windows: &[IovaRange],
        prepared: &mut Prepared,
    ) -> Result<(), AttachError> {
        let regions =
            regions.iter().filter(|region| What::Unused.is_for(region.kind)).map(|region| region.range);
        let windows = if mutant!("bridge-windows-handed-out") { &[] } else { windows };
        for range in regions.chain(windows.iter().copied()) {
            let parts = self.iova.reserve(range).or_else(|error| {
                // What waits for a flush may be all that is in the way.
                if !self.waiting.is_empty() && self.flush().is_ok() {
                    self.iova.reserve(range)
                } else {
                    Err(error)
                }
            });
            prepared.reserved.extend(parts.map_err(|_| AttachError::Reserved(range))?);
        }
        Ok(())
    }

    /// Maps a direct region 1:1, its ends rounded outward to whole pages, where it is not mapped already.
    fn map_direct(&self, region: &ReservedRegion, prepared: &mut Prepared) -> Result<(), AttachError> {
        let range = region.range.align_outward(self.granule());
        // First, because firmware may say that all addresses are a region.
        within(self.hw.aperture(), range)
            .map_err(|at| AttachError::Direct { range, error: MapError::OutsideAperture(at) })?;
        let mut ready = self.ready.lock();
        let unmapped = ready.direct.gaps(range);
        unmapped.into_iter().try_for_each(|part| self.map_part(&mut ready, part, region.prot, prepared))
    }

    fn map_part(
        &self,
        ready: &mut Ready,
        range: IovaRange,
        prot: Prot,
        prepared: &mut Prepared,
    ) -> Result<(), AttachError> {
        let refused = |error| AttachError::Direct { range, error };
        let len_bytes = range.len_bytes().ok_or(refused(MapError::BadLength))?;
        // Noted first, because a map that fails may leave something in hardware's memory too.
        prepared.direct.push(range);
        self.hw.map(range.first(), Pa::new(range.first().get()), len_bytes, prot).map_err(refused)?;
        ready.direct.insert(range);
        Ok(())
    }

    pub(crate) fn unprepare(&self, device: usize, prepared: Prepared) {
        let mut ready = self.ready.lock();
        ready.needs.retain(|need| need.of != device);
        self.msi.remove_decoded(&ready.unneeded(What::Doorbells, &prepared.doorbells));
        let direct = ready.unneeded(What::Direct, &prepared.direct);
        let mut gather = Gather::new();
        let mut unmapped = true;
        for &range in &direct {
            // Each of them, whatever the table said of another.
            match self.hw.unmap(range, &mut gather) {
                Ok(_) => ready.direct.remove(range),
                Err(_) => unmapped = false,
            }
        }
        drop(ready);
        direct.iter().for_each(|&range| gather.add(range, self.granule, true));
        let forgotten = gather.is_empty() || self.hw.sync(&mut gather).is_ok();
        // What is mapped still, or what hardware may remember, stays reserved.
        if unmapped && forgotten {
            let ready = self.ready.lock();
            self.iova.unreserve(&ready.unneeded(What::Unused, &prepared.reserved));
        }
    }
}
