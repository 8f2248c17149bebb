//! A device's own way to the DMA API.

use alloc::sync::Arc;
use core::fmt;
use core::sync::atomic::Ordering::Relaxed;

use portcullis_hal::Platform;
use portcullis_iova::Prefer;
use portcullis_types::trace::Value;
use portcullis_types::{Iova, IovaRange, Pa, PaRange, Perms, Prot};

use super::space::When;
use super::types::Owner;
use super::{
    Direction, DmaMapError, DmaSpace, DmaStats, DmaUnmapError, Mapping, MsiError, MsiMessage, Refused,
};
use crate::device::Device;
use crate::domain::{Domain, Kind};
use crate::iommu::{ReservedKind, SyncError};
use crate::trace;

/// What a driver uses to give memory to its device and to take it back. From [`Group::dma`](crate::group::Group::dma).
pub struct DmaHandle<P: Platform> {
    device: Arc<Device<P>>,
    domain: Arc<Domain<P>>,
}

impl<P: Platform> Clone for DmaHandle<P> {
    fn clone(&self) -> Self {
        Self { device: self.device.clone(), domain: self.domain.clone() }
    }
}

impl<P: Platform> fmt::Debug for DmaHandle<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DmaHandle").field("device", &self.device).field("domain", &self.domain).finish()
    }
}

impl<P: Platform> DmaHandle<P> {
    pub(crate) fn new(device: Arc<Device<P>>, domain: Arc<Domain<P>>) -> Self {
        Self { device, domain }
    }

    /// The platform: memory, barriers, clock.
    pub fn platform(&self) -> &Arc<P> {
        self.device.platform()
    }

    /// The device.
    pub fn device(&self) -> &Arc<Device<P>> {
        &self.device
    }

    /// The domain whose addresses the device is given; for the embedder's eyes.
    pub fn domain(&self) -> &Arc<Domain<P>> {
        &self.domain
    }

    pub(super) fn owner(&self) -> Owner {
        Owner(Arc::as_ptr(&self.domain).addr())
    }

    /// The translation; none where addresses are physical.
    pub(super) fn space(&self) -> Option<&DmaSpace<P>> {
        match self.domain.kind() {
            Kind::Dma(space) => Some(space),
            Kind::Blocked | Kind::Identity | Kind::Unmanaged(_) | Kind::Process(_) | Kind::Nested(_) => None,
        }
    }

    pub(super) fn coherent(&self) -> bool {
        self.device.info().coherent
    }

    pub(super) fn prefer(&self) -> Prefer {
        if self.device.info().pci { Prefer::Below4G } else { Prefer::High }
    }

    pub(super) fn prot(&self, perms: Perms) -> Prot {
        if self.coherent() { Prot::cached(perms) } else { Prot::uncached(perms) }
    }

    pub(super) fn say(&self, name: &'static str, particulars: &[(&'static str, Value<'_>)]) {
        trace::say(&**self.platform(), name, self.device.name(), particulars);
    }

    /// Gives `len_bytes` bytes from `pa` to the device. The offset in the page is kept; the device can reach the rest of the
    /// first and the last page too, as finely as the hardware maps.
    ///
    /// For a device that does not snoop, the CPU's changes are written back first: whole cache lines of the buffer must be the
    /// device's from here on.
    ///
    /// # Errors
    ///
    /// As [`DmaMapError`] says; then nothing is mapped, and no address is taken, unless it says so.
    pub fn map_single(&self, pa: Pa, len_bytes: u64, direction: Direction) -> Result<Mapping, DmaMapError> {
        let buffer = PaRange::new(pa, len_bytes).ok_or(DmaMapError::BadLength)?;
        let limit = self.device.dma_limit();
        let range = match self.space() {
            None => physical(buffer, limit)?,
            Some(space) => self.map_pages(space, buffer, direction, limit)?,
        };
        self.buffer_to_device(buffer);
        self.say(
            "dma_map",
            &[
                ("iova", Value::Addr(range.first().get())),
                ("pa", Value::Addr(pa.get())),
                ("len", Value::Dec(len_bytes)),
                ("dir", Value::Str(direction.name())),
            ],
        );
        Ok(Mapping { range, buffer, direction, owner: self.owner() })
    }

    fn map_pages(
        &self,
        space: &DmaSpace<P>,
        buffer: PaRange,
        direction: Direction,
        limit: Iova,
    ) -> Result<IovaRange, DmaMapError> {
        let pages = buffer.align_outward(space.granule());
        let taken = space.take(pages.len_bytes().ok_or(DmaMapError::BadLength)?, limit, self.prefer())?;
        space
            .map(taken.first(), pages, self.prot(direction.perms()))
            .map_err(|error| space.undo(taken, None, error))?;
        space.counters.maps.fetch_add(1, Relaxed);
        Ok(same_bytes(taken.first(), pages.first(), buffer))
    }

    /// Takes a buffer back from the device. In strict mode the device can reach it no more when this returns.
    ///
    /// # Errors
    ///
    /// As [`DmaUnmapError`] says.
    pub fn unmap_single(&self, mapping: Mapping) -> Result<(), Refused<Mapping>> {
        if mapping.owner != self.owner() {
            return Err(Refused { error: DmaUnmapError::Foreign, mapping: Some(mapping) });
        }
        match self.unmap_bytes(mapping.range) {
            Err(error @ (DmaUnmapError::Unmap(_) | DmaUnmapError::NotMapped(_))) => {
                let still = matches!(error, DmaUnmapError::Unmap(_));
                Err(Refused { error, mapping: still.then_some(mapping) })
            }
            done => {
                self.buffer_to_cpu(mapping.buffer, mapping.direction);
                done.map_err(|error| Refused { error, mapping: None })
            }
        }
    }

    /// As [`unmap_single`](Self::unmap_single), for drivers that keep no more than the address: `range` is byte for byte what
    /// [`map_single`](Self::map_single) answered. Where addresses are physical, nothing was recorded and nothing is checked.
    ///
    /// # Errors
    ///
    /// As [`DmaUnmapError`] says. A range that is not mapped (any more) is caught, unless its addresses are another
    /// mapping's by now.
    pub fn unmap_range(&self, range: IovaRange, direction: Direction) -> Result<(), DmaUnmapError> {
        let len_bytes = range.len_bytes().ok_or(DmaUnmapError::NotMapped(range))?;
        let first = match self.space() {
            None => Pa::new(range.first().get()),
            Some(space) if !space.is_live(range.align_outward(space.granule())) => {
                return Err(DmaUnmapError::NotMapped(range));
            }
            Some(_) => self.domain.lookup(range.first()).ok_or(DmaUnmapError::NotMapped(range))?,
        };
        let buffer = PaRange::new(first, len_bytes).ok_or(DmaUnmapError::NotMapped(range))?;
        let done = self.unmap_bytes(range);
        if !matches!(done, Err(DmaUnmapError::Unmap(_) | DmaUnmapError::NotMapped(_))) {
            self.buffer_to_cpu(buffer, direction);
        }
        done
    }

    fn unmap_bytes(&self, range: IovaRange) -> Result<(), DmaUnmapError> {
        let done = self.space().map_or(Ok(()), |space| {
            let pages = range.align_outward(space.granule());
            let mapped_bytes = pages.len_bytes().ok_or(DmaUnmapError::NotMapped(range))?;
            space.unmap(pages, mapped_bytes, None, When::ByMode)
        });
        self.say_unmap(range.first(), &done);
        done
    }

    pub(super) fn say_unmap(&self, iova: Iova, done: &Result<(), DmaUnmapError>) {
        let result = match done {
            Ok(()) => "ok",
            Err(DmaUnmapError::NotMapped(_)) => "not_mapped",
            Err(DmaUnmapError::Foreign) => "foreign",
            Err(DmaUnmapError::Unmap(_)) => "refused",
            Err(DmaUnmapError::NotFlushed(_)) => "quarantined",
            Err(DmaUnmapError::Torn { .. }) => "torn",
        };
        self.say("dma_unmap", &[("iova", Value::Addr(iova.get())), ("result", Value::Str(result))]);
    }

    /// Hands a mapped buffer to the device again, after the CPU has changed it. Ring the doorbell after a
    /// [`write_barrier`](portcullis_hal::Barriers::write_barrier), as ever.
    pub fn sync_for_device(&self, mapping: &Mapping) {
        self.buffer_to_device(mapping.buffer);
        self.say_sync(mapping.iova(), "device");
    }

    /// Hands a mapped buffer to the CPU, before it reads what the device wrote.
    pub fn sync_for_cpu(&self, mapping: &Mapping) {
        self.buffer_to_cpu(mapping.buffer, mapping.direction);
        self.say_sync(mapping.iova(), "cpu");
    }

    pub(super) fn say_sync(&self, iova: Iova, to: &'static str) {
        self.say("dma_sync", &[("iova", Value::Addr(iova.get())), ("for", Value::Str(to))]);
    }

    /// Writes back the CPU's changes. In every direction: a changed line that is written back later would destroy
    /// what the device wrote in the meantime.
    pub(super) fn buffer_to_device(&self, buffer: PaRange) {
        if !self.coherent() {
            self.platform().clean(buffer.first(), bytes(buffer));
        }
    }

    /// Drops what the CPU has cached, and lets no load pass that came before the device was known to be done.
    pub(super) fn buffer_to_cpu(&self, buffer: PaRange, direction: Direction) {
        if direction.device_writes() {
            self.platform().read_barrier();
            if !self.coherent() {
                self.platform().invalidate(buffer.first(), bytes(buffer));
            }
        }
    }

    /// What the device is to write, and where to, so that `data` arrives at `doorbell`. The doorbell's page is mapped on the first
    /// call and stays so.
    ///
    /// # Errors
    ///
    /// As [`MsiError`] says; then nothing is mapped that was not before.
    pub fn compose_msi(&self, doorbell: Pa, data: u32) -> Result<MsiMessage, MsiError> {
        compose_msi(&self.device, &self.domain, doorbell, data)
    }

    /// Makes hardware forget every mapping that was taken away, and gives back what waited for that.
    ///
    /// # Errors
    ///
    /// Hardware did not confirm; what waited still waits.
    pub fn flush(&self) -> Result<(), SyncError> {
        self.space().map_or(Ok(()), DmaSpace::flush)
    }

    /// For the embedder's timer: flushes if something has waited for 10 ms. Without it, a lazy domain is as lazy as its driver.
    ///
    /// # Errors
    ///
    /// Hardware did not confirm; what waited still waits.
    pub fn poll(&self) -> Result<(), SyncError> {
        self.domain.poll()
    }

    /// What was done so far on the device's domain, for all its devices; nothing is counted where addresses are physical.
    pub fn stats(&self) -> DmaStats {
        self.domain.dma_stats()
    }
}

/// The message that makes `data` arrive at `doorbell` when `device`, attached to `domain`, writes it.
///
/// # Errors
///
/// As [`MsiError`] says; then nothing is mapped that was not before.
pub fn compose_msi<P: Platform>(
    device: &Device<P>,
    domain: &Domain<P>,
    doorbell: Pa,
    data: u32,
) -> Result<MsiMessage, MsiError> {
    let limit = device.dma_limit();
    let same = Iova::new(doorbell.get());
    let (address, new) = match domain.kind() {
        // Hardware that decodes messages before it translates takes them from a device whose windows are its user's own (`table_group`).
        Kind::Blocked if decodes(device, same) => (same, false),
        // A process has no doorbells.
        Kind::Blocked | Kind::Process(_) => return Err(MsiError::Blocked),
        Kind::Identity if same > limit => return Err(MsiError::NoIova { limit }),
        Kind::Identity => (same, false),
        Kind::Dma(space) => {
            let prefer = if device.info().pci { Prefer::Below4G } else { Prefer::High };
            space.doorbell(doorbell, limit, prefer)?
        }
        Kind::Unmanaged(space) => space.doorbell(doorbell, limit)?,
        // Guest-physical; the guest's own table has to lead there.
        Kind::Nested(nested) => nested.space().doorbell(doorbell, limit)?,
    };
    if new {
        let fields = [("iova", Value::Addr(address.get())), ("doorbell", Value::Addr(doorbell.get()))];
        trace::say(&**device.platform(), "msi_map", device.name(), &fields);
    }
    Ok(MsiMessage { address, data })
}

/// Whether hardware takes what `device` writes there for a message.
fn decodes<P: Platform>(device: &Device<P>, at: Iova) -> bool {
    let regions = device.reserved_regions();
    regions.iter().any(|region| region.kind == ReservedKind::Msi && region.range.contains(at))
}

pub(super) fn bytes(buffer: PaRange) -> u64 {
    // A buffer is made from a length, so it has one.
    buffer.len_bytes().unwrap_or(u64::MAX)
}

/// The addresses of a buffer where they are physical.
pub(super) fn physical(buffer: PaRange, limit: Iova) -> Result<IovaRange, DmaMapError> {
    if buffer.last().get() > limit.get() {
        return Err(DmaMapError::Unreachable { pa: buffer.last(), limit });
    }
    Ok(same_bytes(Iova::new(0), Pa::new(0), buffer))
}

/// Where the bytes of `buffer` are for the device, if `pa` is at `iova`.
fn same_bytes(iova: Iova, pa: Pa, buffer: PaRange) -> IovaRange {
    let there = |at: Pa| Iova::new(iova.get() + (at.get() - pa.get()));
    IovaRange::from_ends(there(buffer.first()), there(buffer.last())).expect("as far apart as in memory")
}
