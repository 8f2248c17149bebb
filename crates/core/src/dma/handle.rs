//! A device's own way to the DMA API.

use alloc::sync::Arc;

use portcullis_hal::Platform;
use portcullis_types::{Pa, PaRange};

use super::{
    Coherent, Direction, DmaMapError, DmaStats, Mapping, MsiError, MsiMessage, Refused, SgMapping,
};
use crate::iommu::SyncError;

/// What a driver uses to give memory to its device and to take it back.
#[derive(Debug)]
pub struct DmaHandle<P: Platform> {
    platform: Arc<P>,
}

impl<P: Platform> Clone for DmaHandle<P> {
    fn clone(&self) -> Self {
        Self { platform: self.platform.clone() }
    }
}

impl<P: Platform> DmaHandle<P> {
    /// The platform: memory, barriers, clock.
    pub fn platform(&self) -> &Arc<P> {
        &self.platform
    }

    /// A zeroed buffer of `len_bytes` bytes that device and CPU share. For the device it is aligned to the next power of two.
    ///
    /// # Errors
    ///
    /// As [`DmaMapError`] says.
    pub fn alloc_coherent(&self, _len_bytes: u64) -> Result<Coherent, DmaMapError> {
        todo!()
    }

    /// Takes a coherent buffer back. The memory is free again only when hardware has confirmed that the device cannot reach it.
    ///
    /// # Errors
    ///
    /// As [`DmaUnmapError`](super::DmaUnmapError) says.
    pub fn free_coherent(&self, _buffer: Coherent) -> Result<(), Refused<Coherent>> {
        todo!()
    }

    /// Gives `len_bytes` bytes from `pa` to the device. The offset in the page is kept.
    ///
    /// # Errors
    ///
    /// As [`DmaMapError`] says.
    pub fn map_single(&self, _pa: Pa, _len_bytes: u64, _dir: Direction) -> Result<Mapping, DmaMapError> {
        todo!()
    }

    /// Takes a buffer back from the device.
    ///
    /// # Errors
    ///
    /// As [`DmaUnmapError`](super::DmaUnmapError) says.
    pub fn unmap_single(&self, _mapping: Mapping) -> Result<(), Refused<Mapping>> {
        todo!()
    }

    /// Gives a list of buffers to the device, as one run of addresses where the buffers allow it.
    ///
    /// # Errors
    ///
    /// As [`DmaMapError`] says.
    pub fn map_sg(&self, _buffers: &[PaRange], _dir: Direction) -> Result<SgMapping, DmaMapError> {
        todo!()
    }

    /// Takes a list of buffers back from the device.
    ///
    /// # Errors
    ///
    /// As [`DmaUnmapError`](super::DmaUnmapError) says.
    pub fn unmap_sg(&self, _mapping: SgMapping) -> Result<(), Refused<SgMapping>> {
        todo!()
    }

    /// Hands a mapped buffer to the device again, after the CPU has changed it. Ring the doorbell after a
    /// [`write_barrier`](portcullis_hal::Barriers::write_barrier), as ever.
    pub fn sync_for_device(&self, _mapping: &Mapping) {}

    /// Hands a mapped buffer to the CPU, before it reads what the device wrote.
    pub fn sync_for_cpu(&self, _mapping: &Mapping) {}

    /// What the device is to write, and where to, so that `data` arrives at `doorbell`.
    ///
    /// # Errors
    ///
    /// As [`MsiError`] says.
    pub fn compose_msi(&self, _doorbell: Pa, _data: u32) -> Result<MsiMessage, MsiError> {
        todo!()
    }

    /// Makes hardware forget every mapping that was taken away, and gives back what waited for that.
    ///
    /// # Errors
    ///
    /// Hardware did not confirm; what waited still waits.
    pub fn flush(&self) -> Result<(), SyncError> {
        todo!()
    }

    /// What was done so far on the device's domain.
    pub fn stats(&self) -> DmaStats {
        todo!()
    }
}
