//! Coherent memory of the driver's own: queues, PRP lists, the page that Identify writes.
//!
//! The platform's memory is cached memory, so behind a device that does not snoop a write is followed by a clean, and a read is
//! preceded by an invalidation. No cache line is ever written by both sides: queues, lists and pages have one writer each.
//!
//! Where addresses are physical, nothing but the controller itself keeps it from memory. What was given to one that was told to stop and did not is nobody's any more:
//! it is kept for good.

use portcullis_core::dma::{Coherent, DmaHandle, DmaMapError, DmaUnmapError};
use portcullis_core::domain::DomainType;
use portcullis_hal::Platform;
use portcullis_types::Pa;

use crate::controller::Stuck;

/// A coherent buffer that goes back when it is dropped.
///
/// Offsets are in bytes; one beyond the end is a caught programming error.
pub(crate) struct Buffer<P: Platform> {
    dma: DmaHandle<P>,
    memory: Option<Coherent>,
    len_bytes: u64,
    iova: u64,
    pa: Pa,
    /// Whether the device sees the CPU's caches.
    snooped: bool,
    stuck: Stuck,
}

/// Whether nothing translates what a device behind `dma` sends.
pub(crate) fn is_physical<P: Platform>(dma: &DmaHandle<P>) -> bool {
    dma.domain().domain_type() == DomainType::Identity
}

impl<P: Platform> Buffer<P> {
    /// `len_bytes` zeroed bytes, rounded up to whole pages of `page_bytes`, and for the device on a page. `stuck` is said of the controller that gets it.
    pub(crate) fn new(
        dma: &DmaHandle<P>,
        stuck: &Stuck,
        len_bytes: u64,
        page_bytes: u64,
    ) -> Result<Self, DmaMapError> {
        let memory = dma.alloc_coherent(len_bytes.next_multiple_of(page_bytes))?;
        Ok(Self {
            dma: dma.clone(),
            len_bytes: memory.len_bytes(),
            iova: memory.iova().get(),
            pa: memory.pa(),
            snooped: dma.device().info().coherent,
            stuck: stuck.clone(),
            memory: Some(memory),
        })
    }

    /// What to tell the device of the byte at `offset`.
    pub(crate) fn iova(&self, offset: u64) -> u64 {
        assert!(offset < self.len_bytes, "offset {offset:#x} in a buffer of {:#x} bytes", self.len_bytes);
        self.iova + offset
    }

    /// Writes bytes for the device to read.
    pub(crate) fn write(&self, offset: u64, bytes: &[u8]) {
        let at = self.place(offset, bytes.len());
        self.dma.platform().write(at, bytes);
        if !self.snooped {
            self.dma.platform().clean(at, bytes.len() as u64);
        }
    }

    /// Reads bytes that the device wrote.
    pub(crate) fn read(&self, offset: u64, into: &mut [u8]) {
        let at = self.place(offset, into.len());
        self.refresh(at, into.len());
        self.dma.platform().read(at, into);
    }

    /// Reads, in one access, a word that the device may be writing.
    pub(crate) fn read32(&self, offset: u64) -> u32 {
        let at = self.place(offset, 4);
        self.refresh(at, 4);
        self.dma.platform().read32(at)
    }

    /// Lets the CPU see what a device that does not snoop wrote.
    fn refresh(&self, at: Pa, len_bytes: usize) {
        if !self.snooped {
            self.dma.platform().invalidate(at, len_bytes as u64);
        }
    }

    /// Gives the memory back.
    ///
    /// # Errors
    ///
    /// Hardware did not confirm that it forgot the mapping. Core keeps the memory back then.
    pub(crate) fn free(mut self) -> Result<(), DmaUnmapError> {
        self.release()
    }

    fn release(&mut self) -> Result<(), DmaUnmapError> {
        let Some(memory) = self.memory.take() else { return Ok(()) };
        if self.stuck.is_so() && is_physical(&self.dma) {
            // Whoever stopped the controller was told that it did not.
            return Ok(());
        }
        let Err(refused) = self.dma.free_coherent(memory) else { return Ok(()) };
        // What is still mapped may be tried once more; a table that refuses twice keeps it.
        match refused.mapping {
            Some(memory) => self.dma.free_coherent(memory).map_err(|refused| refused.error),
            None => Err(refused.error),
        }
    }

    fn place(&self, offset: u64, len_bytes: usize) -> Pa {
        let end = offset.checked_add(len_bytes as u64);
        assert!(
            end.is_some_and(|end| end <= self.len_bytes),
            "{len_bytes} bytes at offset {offset:#x} in a buffer of {:#x}",
            self.len_bytes
        );
        Pa::new(self.pa.get() + offset)
    }
}

impl<P: Platform> Drop for Buffer<P> {
    fn drop(&mut self) {
        // On the way out of an error: what hardware does not confirm, core keeps back until a later flush.
        let _ = self.release();
    }
}
