//! Operations of drivers with the DMA API: mapping, unmapping, sharing, flushing.

use core::fmt::Debug;
use core::sync::atomic::Ordering::Relaxed;

use portcullis::core::dma::{
    Coherent, Direction, DmaHandle, DmaMapError, DmaUnmapError, Mapping, Refused, SgMapping,
};
use portcullis::types::{Pa, PaRange};

use super::world::{DOORBELL, Slot, World};
use super::{Before, Done};
use crate::hub::locked;
use crate::machine::SimPlatform;
use crate::oracle::{Grant, SpaceId, Token, Way};
use crate::promise::Promise;

/// How long after a flush that failed the next one may be due: twice the bound on age, since the failure may be seen late.
const AFTER_FAILURE_NS: u64 = 20_000_000;

fn direction(number: u8) -> Direction {
    [Direction::ToDevice, Direction::FromDevice, Direction::Bidirectional][usize::from(number) % 3]
}

/// Whether the device may read, was promised to, and may write. A table of stage 1 cannot say that it may only write.
fn rights(direction: Direction) -> (bool, bool, bool) {
    let write = direction.device_writes();
    (true, direction != Direction::FromDevice, write)
}

impl World {
    fn take_slot(&self, slot: u8, wanted: impl FnOnce(&Slot) -> bool) -> Option<Slot> {
        let mut slots = locked(&self.slots);
        let count = slots.len();
        let slot = &mut slots[usize::from(slot) % count];
        wanted(slot).then(|| core::mem::replace(slot, Slot::Busy))
    }

    fn put_slot(&self, slot: u8, what: Slot) {
        let mut slots = locked(&self.slots);
        let count = slots.len();
        slots[usize::from(slot) % count] = what;
    }

    /// A buffer for the device.
    pub(super) fn map(&self, device: u8, slot: u8, pages: u8, offset: u16, way: u8) -> Done {
        let index = self.device_index(device);
        let Some((dma, space, _)) = self.dma(index) else { return Done::Skipped };
        if self.take_slot(slot, |slot| matches!(slot, Slot::Empty)).is_none() {
            return Done::Skipped;
        }
        let (granule, count) = (self.granule(), u64::from(pages));
        let Some(first) = locked(&self.pool).take(count) else {
            self.put_slot(slot, Slot::Empty);
            return Done::Skipped;
        };
        let offset = u64::from(offset) % granule;
        let len = (count * granule - offset).saturating_sub(offset % 97).max(1);
        let way = direction(way);
        let (read, owed_read, write) = rights(way);
        let before = self.before(Some(&dma));
        let run = [(first, count * granule)];
        let token = self.begin_map(&dma, space, &run, read, write);
        match dma.map_single(Pa::new(first + offset), len, way) {
            Ok(mapping) => {
                let range = mapping.range();
                let (low, high) = (range.first().get() & !(granule - 1), range.last().get() | (granule - 1));
                let grant = Grant {
                    first: low,
                    last: high,
                    pa: first,
                    read,
                    owed_read,
                    write,
                    owed_write: write,
                    since: self.step(),
                };
                self.granted(index, space, token, &[grant]);
                let fits = range.len_bytes() == Some(len) && range.first().get() % granule == offset;
                self.hub
                    .hold(Promise::Service, fits, || format!("{len:#x} bytes at {first:#x} became {range}"));
                self.put_slot(slot, Slot::Single { device: index, space, mapping, pages: (first, count) });
                Done::Succeeded
            }
            Err(error) => {
                self.not_mapped(&before, &dma, space, token, vec![(first, count)], &error);
                self.put_slot(slot, Slot::Empty);
                Done::Refused
            }
        }
    }

    /// The shadow hears how many syncs of a domain hardware has confirmed.
    fn confirmed(&self, dma: &DmaHandle<SimPlatform>, space: SpaceId) {
        let syncs = dma.stats().syncs;
        self.hub.shadow(|shadow| shadow.confirmed(space, syncs));
    }

    /// Pages are about to be mapped.
    fn begin_map(
        &self,
        dma: &DmaHandle<SimPlatform>,
        space: SpaceId,
        pages: &[(u64, u64)],
        read: bool,
        write: bool,
    ) -> Token {
        self.confirmed(dma, space);
        self.hub.shadow(|shadow| shadow.begin_map(space, pages, read, write))
    }

    /// A map has succeeded: its addresses are nobody else's, and the device may use them.
    fn granted(&self, device: usize, space: SpaceId, token: Token, grants: &[Grant]) {
        let limit = self.device(device).map_or(u64::MAX, |device| device.dma_limit().get());
        let several = self.crowded.load(Relaxed);
        if let Some((dma, ..)) = self.dma(device) {
            self.confirmed(&dma, space);
        }
        for grant in grants {
            self.check_reserved(device, space, grant, limit);
            let granted = self.hub.shadow(|shadow| shadow.grant(space, *grant, several));
            self.hub.judged(granted);
        }
        let ended = self.hub.shadow(|shadow| shadow.end_map(space, token, false));
        self.hub.judged(ended);
    }

    /// Nothing is handed out that somebody has reserved for any device of the group, nor what the device does not reach.
    fn check_reserved(&self, device: usize, space: SpaceId, grant: &Grant, limit: u64) {
        let spec = &self.devices[device].spec;
        let hits = |&(first, last): &(u64, u64)| grant.first <= last && grant.last >= first;
        // Its neighbours are translated by the same table, if they are there.
        let members = self.members(self.group_of(device)).into_iter();
        let with_it = members.filter(|&(member, way)| member == device || way == Way::Space(space));
        let regions = with_it.flat_map(|(member, _)| {
            let spec = &self.devices[member].spec;
            let page = self.firmware_page(spec).map(|page| (page, page + self.granule() - 1));
            spec.reserved.into_iter().chain(page)
        });
        let reserved = regions.chain(self.spec.units[spec.unit].parts.interrupts()).find(hits);
        let limit = limit.min(u64::MAX >> (64 - u32::from(spec.mask_bits)));
        let fits = reserved.is_none() && grant.last <= limit && grant.first != 0;
        self.hub.hold(Promise::Reserved, fits, || {
            format!("{grant:x?} for device {device}: reserved {reserved:x?}, reach {limit:#x}")
        });
    }

    /// A map was refused: nothing is as it was not before.
    fn not_mapped(
        &self,
        before: &Before,
        dma: &DmaHandle<SimPlatform>,
        space: SpaceId,
        token: Token,
        pages: Vec<(u64, u64)>,
        error: &DmaMapError,
    ) {
        let stats = dma.stats();
        let nothing = pages.is_empty();
        // Whose buffer it is is told, or it is his again; a coherent one's memory, which is none of his, is kept back. What never had addresses no device has heard of.
        let mapped = matches!(error, DmaMapError::Map(_));
        let kept = nothing && mapped && stats.failed_syncs > before.failed_syncs;
        let doubt = kept || matches!(error, DmaMapError::NotUndone(_) | DmaMapError::StillMapped(_));
        self.confirmed(dma, space);
        let ended = self.hub.shadow(|shadow| shadow.end_map(space, token, doubt));
        self.hub.judged(ended);
        if doubt {
            self.keep(space, token, pages);
        } else {
            let mut pool = locked(&self.pool);
            pages.into_iter().for_each(|(first, count)| pool.give(first, count));
        }
        let lawful = match error {
            // The largest pages fill what a device of few bits reaches; of the smallest there are never so many.
            DmaMapError::NoIova { .. } => self.granule() > 0x1000,
            DmaMapError::Segment(_) => true,
            // A list for which there was no memory.
            DmaMapError::BadLength => nothing,
            _ => false,
        };
        if !lawful {
            self.excuse_any(before, error);
        }
        self.unwound(before, doubt, error);
        let grown = stats.live > before.live && !doubt && !self.crowded(before);
        self.hub.hold(Promise::Unwind, !grown, || {
            format!("a map was refused ({error:?}) and keeps its addresses")
        });
    }

    /// A list of buffers for the device.
    pub(super) fn scatter(&self, device: u8, slot: u8, count: u8, shape: u32, way: u8) -> Done {
        let index = self.device_index(device);
        let Some((dma, space, _)) = self.dma(index) else { return Done::Skipped };
        if self.take_slot(slot, |slot| matches!(slot, Slot::Empty)).is_none() {
            return Done::Skipped;
        }
        let granule = self.granule();
        let mut pages = Vec::new();
        let mut buffers = Vec::new();
        for place in 0..u32::from(count) {
            let bits = u64::from(shape.rotate_right(5 * place));
            let want = 1 + (bits & 1);
            let Some(first) = locked(&self.pool).take(want) else { break };
            pages.push((first, want));
            // Whole pages, or the middle of some.
            let (offset, cut) = if bits & 2 == 0 { (0, 0) } else { ((bits >> 2 & 7) * 64, 128) };
            let len = want * granule - offset - cut;
            buffers.extend(PaRange::new(Pa::new(first + offset), len));
        }
        let way = direction(way);
        let (read, owed_read, write) = rights(way);
        let before = self.before(Some(&dma));
        let runs: Vec<(u64, u64)> = pages.iter().map(|&(first, count)| (first, count * granule)).collect();
        let token = self.begin_map(&dma, space, &runs, read, write);
        match dma.map_sg(&buffers, way) {
            Ok(list) => {
                self.check_segments(index, &list);
                let grants = self.grants_of(&list, &buffers, (read, owed_read, write));
                self.granted(index, space, token, &grants);
                let ranges = grants.iter().map(|grant| (grant.first, grant.last)).collect();
                self.put_slot(slot, Slot::List { device: index, space, list, pages, ranges });
                Done::Succeeded
            }
            Err(error) => {
                self.not_mapped(&before, &dma, space, token, pages, &error);
                self.put_slot(slot, Slot::Empty);
                Done::Refused
            }
        }
    }

    /// No segment is longer than the device takes, nor crosses what it cannot cross.
    fn check_segments(&self, device: usize, list: &SgMapping) {
        let spec = &self.devices[device].spec;
        let (most, boundary) = (spec.max_segment.max(self.granule()), spec.boundary);
        let fits = list.segments().iter().all(|segment| {
            let (first, last) = (segment.iova.get(), segment.iova.get() + (segment.len_bytes - 1));
            segment.len_bytes <= most && boundary.is_none_or(|size| (first ^ last) >> size.get() == 0)
        });
        self.hub.hold(Promise::Service, fits, || {
            format!("device {device} takes {most:#x} bytes within {boundary:?}: {:x?}", list.segments())
        });
    }

    /// Where each buffer of a list is for the device: they fill the segments in their order.
    fn grants_of(&self, list: &SgMapping, buffers: &[PaRange], rights: (bool, bool, bool)) -> Vec<Grant> {
        let (granule, (read, owed_read, write)) = (self.granule(), rights);
        let mut segments = list.segments().iter().map(|segment| (segment.iova.get(), segment.len_bytes));
        let (mut at, mut left) = (0, 0);
        let mut grants = Vec::new();
        for buffer in buffers {
            let len = buffer.len_bytes().unwrap_or(0);
            if left == 0 {
                (at, left) = segments.next().unwrap_or((0, 0));
            }
            let pa = buffer.first().get();
            let fits = len <= left && at % granule == pa % granule;
            self.hub.hold(Promise::Service, fits, || {
                format!("{:x?} does not hold {buffer} at {at:#x}", list.segments())
            });
            let (first, last) = (at & !(granule - 1), (at + (len - 1)) | (granule - 1));
            grants.push(Grant {
                first,
                last,
                pa: pa & !(granule - 1),
                read,
                owed_read,
                write,
                owed_write: write,
                since: self.step(),
            });
            (at, left) = (at + len, left.saturating_sub(len));
        }
        self.hub.hold(Promise::Service, left == 0 && segments.next().is_none(), || {
            format!("{:x?} is more than {buffers:x?}", list.segments())
        });
        grants
    }

    /// A driver takes back what it gave.
    pub(super) fn unmap(&self, slot: u8) -> Done {
        let is_it = |slot: &Slot| matches!(slot, Slot::Single { .. } | Slot::List { .. });
        let Some(taken) = self.take_slot(slot, is_it) else { return Done::Skipped };
        match taken {
            Slot::Single { device, space, mapping, pages } => {
                let range = (mapping.range().first().get(), mapping.range().last().get());
                let ranges = [self.whole(range)];
                let end =
                    self.take_back(device, space, &ranges, vec![pages], |dma| dma.unmap_single(mapping));
                self.put_back(slot, end, |mapping: Mapping| Slot::Single { device, space, mapping, pages })
            }
            Slot::List { device, space, list, pages, ranges } => {
                let end = self.take_back(device, space, &ranges, pages.clone(), |dma| dma.unmap_sg(list));
                self.put_back(slot, end, |list: SgMapping| Slot::List { device, space, list, pages, ranges })
            }
            _ => Done::Skipped,
        }
    }

    fn whole(&self, (first, last): (u64, u64)) -> (u64, u64) {
        let granule = self.granule();
        (first & !(granule - 1), last | (granule - 1))
    }

    fn put_back<M>(&self, slot: u8, end: Result<(), Option<M>>, again: impl FnOnce(M) -> Slot) -> Done {
        let (what, done) = match end {
            Ok(()) => (Slot::Empty, Done::Succeeded),
            Err(None) => (Slot::Empty, Done::Refused),
            Err(Some(mapping)) => (again(mapping), Done::Refused),
        };
        self.put_slot(slot, what);
        done
    }

    /// An unmap, whatever was mapped. `pages` is the memory that goes back to its owner.
    fn take_back<M>(
        &self,
        device: usize,
        space: SpaceId,
        ranges: &[(u64, u64)],
        pages: Vec<(u64, u64)>,
        unmap: impl FnOnce(&DmaHandle<SimPlatform>) -> Result<(), Refused<M>>,
    ) -> Result<(), Option<M>> {
        let Some((dma, _, lazy)) = self.dma(device) else { return Err(None) };
        let before = self.before(Some(&dma));
        let shared = pages.is_empty();
        self.confirmed(&dma, space);
        let token = self.hub.shadow(|shadow| shadow.begin_unmap(space, ranges));
        let end = match unmap(&dma) {
            // A flipped bit has taken something out before; what there was is out, and forgotten or waiting as ever.
            Err(Refused { error: error @ DmaUnmapError::Torn { .. }, .. }) => {
                let spoiled = self.hub.shadow(|shadow| shadow.is_space_spoiled(space));
                self.hub.hold(Promise::Service, spoiled, || {
                    format!("less was unmapped than was mapped: {error:?}")
                });
                Ok(())
            }
            end => end,
        };
        let now_ns = self.bus.now_ns();
        let (first, _) = ranges.first().copied().unwrap_or_default();
        self.note_stale(device, first, shared);
        match end {
            // A buffer that was shared for long is flushed at once even so.
            Ok(()) if lazy && !shared => {
                self.hub.shadow(|shadow| shadow.linger(space, token, now_ns, true));
                self.keep(space, token, pages);
                Ok(())
            }
            Ok(()) => {
                self.hub.shadow(|shadow| shadow.end_unmap(space, token));
                let mut pool = locked(&self.pool);
                pages.into_iter().for_each(|(first, count)| pool.give(first, count));
                drop(pool);
                self.try_stale(device, first);
                Ok(())
            }
            Err(Refused { error: error @ DmaUnmapError::NotFlushed(_), .. }) => {
                self.excuse_any(&before, &error);
                let freed = shared && self.hub.shadow(|shadow| shadow.is_dead(space, token));
                self.hub.hold(Promise::Reclaim, !freed, || {
                    format!("a buffer was freed that hardware did not confirm to have forgotten: {error:?}")
                });
                self.hub.shadow(|shadow| shadow.linger(space, token, now_ns, false));
                self.keep(space, token, pages);
                Err(None)
            }
            Err(Refused { error, mapping }) => {
                self.excuse_any(&before, &error);
                let kept = mapping.is_some() && matches!(error, DmaUnmapError::Unmap(_));
                let spoiled = self.hub.shadow(|shadow| shadow.is_space_spoiled(space));
                self.hub.hold(Promise::Service, kept || spoiled, || {
                    format!("what was mapped cannot be unmapped: {error:?}")
                });
                self.hub.shadow(|shadow| shadow.undo_unmap(space, token));
                self.unwound(&before, false, &error);
                Err(mapping)
            }
        }
    }

    /// A buffer that driver and device share.
    pub(super) fn coherent(&self, device: u8, slot: u8, bytes: u16) -> Done {
        let index = self.device_index(device);
        let Some((dma, space, _)) = self.dma(index) else { return Done::Skipped };
        if self.take_slot(slot, |slot| matches!(slot, Slot::Empty)).is_none() {
            return Done::Skipped;
        }
        let granule = self.granule();
        let before = self.before(Some(&dma));
        let token = self.begin_map(&dma, space, &[], true, true);
        let outer = self.hub.arriving(Some((space, token)));
        let shared = dma.alloc_coherent(u64::from(bytes));
        self.hub.arriving(outer);
        match shared {
            Ok(buffer) => {
                let first = buffer.iova().get();
                let last = (first + (buffer.len_bytes() - 1)) | (granule - 1);
                let pa = buffer.pa().get();
                let since = self.step();
                let grant = Grant {
                    first,
                    last,
                    pa,
                    read: true,
                    owed_read: true,
                    write: true,
                    owed_write: true,
                    since,
                };
                self.granted(index, space, token, &[grant]);
                let whole = first % granule == 0 && buffer.len_bytes() >= u64::from(bytes);
                let live = self.bus.cpu().heap().is_live(Pa::new(pa), last - first + 1);
                self.hub.hold(Promise::Service, whole && live, || {
                    format!("a shared buffer of {bytes}: {buffer:?}")
                });
                self.put_slot(slot, Slot::Shared { device: index, space, buffer });
                Done::Succeeded
            }
            Err(error) => {
                self.not_mapped(&before, &dma, space, token, Vec::new(), &error);
                self.put_slot(slot, Slot::Empty);
                Done::Refused
            }
        }
    }

    /// It is shared no more.
    pub(super) fn free_coherent(&self, slot: u8) -> Done {
        let Some(taken) = self.take_slot(slot, |slot| matches!(slot, Slot::Shared { .. })) else {
            return Done::Skipped;
        };
        let Slot::Shared { device, space, buffer } = taken else { return Done::Skipped };
        let first = buffer.iova().get();
        let ranges = [self.whole((first, first + (buffer.len_bytes() - 1)))];
        let end = self.take_back(device, space, &ranges, Vec::new(), |dma| dma.free_coherent(buffer));
        self.put_back(slot, end, |buffer: Coherent| Slot::Shared { device, space, buffer })
    }

    /// A flush of a domain of the DMA API.
    pub(super) fn flush(&self, device: u8) -> Done {
        let index = self.device_index(device);
        let Some((dma, space, _)) = self.dma(index) else { return Done::Skipped };
        let before = self.before(Some(&dma));
        let newest = self.hub.shadow(|shadow| shadow.newest());
        let end = dma.flush();
        self.flushed(&before, space, newest, end)
    }

    fn flushed<E: Debug>(&self, before: &Before, space: SpaceId, newest: Token, end: Result<(), E>) -> Done {
        match end {
            Ok(()) => {
                self.hub.shadow(|shadow| shadow.flushed(space, newest));
                self.reclaim();
                Done::Succeeded
            }
            Err(error) => {
                self.excuse_any(before, &error);
                Done::Refused
            }
        }
    }

    /// Time passes, and the embedder's timer polls.
    pub(super) fn poll(&self, device: u8, micros: u16) -> Done {
        let index = self.device_index(device);
        let Some((dma, space, lazy)) = self.dma(index) else { return Done::Skipped };
        if !lazy {
            return Done::Skipped;
        }
        self.bus.advance_ns(u64::from(micros) * 1000);
        let before = self.before(Some(&dma));
        let now_ns = self.bus.now_ns();
        match dma.poll() {
            Ok(()) => {
                if self.polls_flush(index, dma.stats().failed_syncs, now_ns) {
                    self.hub.shadow(|shadow| shadow.polled(space, now_ns));
                    self.reclaim();
                }
                Done::Succeeded
            }
            Err(error) => {
                self.excuse_any(&before, &error);
                Done::Refused
            }
        }
    }

    /// Whether a poll makes hardware forget what has waited too long: not so soon behind a flush that failed.
    fn polls_flush(&self, device: usize, failed_syncs: u64, now_ns: u64) -> bool {
        let mut inner = locked(&self.group_of(device).inner);
        if inner.failed.0 != failed_syncs {
            inner.failed = (failed_syncs, now_ns);
        }
        inner.failed.0 == 0 || now_ns > inner.failed.1 + AFTER_FAILURE_NS
    }

    /// Where must the device write an interrupt?
    pub(super) fn message(&self, device: u8) -> Done {
        let index = self.device_index(device);
        let Some((dma, space, _)) = self.dma(index) else { return Done::Skipped };
        // Where messages are interrupts by their address there is no doorbell to be mapped.
        if self.spec.units[self.devices[index].spec.unit].parts.interrupts().is_some() {
            return Done::Skipped;
        }
        let granule = self.granule();
        let page = DOORBELL & !(granule - 1);
        let before = self.before(Some(&dma));
        let token = self.begin_map(&dma, space, &[(page, granule)], true, true);
        let end = dma.compose_msi(Pa::new(DOORBELL + 0x40), 7);
        let known = locked(&self.group_of(index).inner).doorbells.clone();
        match end {
            Ok(message) => {
                let first = message.address.get() & !(granule - 1);
                if known.contains(&first) {
                    let ended = self.hub.shadow(|shadow| shadow.end_map(space, token, false));
                    self.hub.judged(ended);
                } else {
                    let last = first + granule - 1;
                    let since = self.step();
                    let grant = Grant {
                        first,
                        last,
                        pa: page,
                        read: true,
                        owed_read: false,
                        write: true,
                        owed_write: true,
                        since,
                    };
                    self.granted(index, space, token, &[grant]);
                    let fits =
                        known.len() < 4 && message.address.get() % granule == (DOORBELL + 0x40) % granule;
                    self.hub.hold(Promise::Service, fits, || {
                        format!("{message:x?}, and the doorbell is at {known:x?}")
                    });
                    locked(&self.group_of(index).inner).doorbells.push(first);
                }
                Done::Succeeded
            }
            Err(error) => {
                let doubt = dma.stats().failed_syncs > before.failed_syncs;
                let ended = self.hub.shadow(|shadow| shadow.end_map(space, token, doubt));
                self.hub.judged(ended);
                if !matches!(error, portcullis::core::dma::MsiError::NoIova { .. }) {
                    self.excuse_any(&before, &error);
                }
                Done::Refused
            }
        }
    }
}
