//! Buffers that CPU and device share for long.

use core::sync::atomic::Ordering::Relaxed;

use portcullis_hal::{BlockLayout, Platform};
use portcullis_types::trace::Value;
use portcullis_types::{IovaRange, PaRange, Perms, SizeLg2};

use super::handle::{bytes, physical};
use super::space::{Memory, When};
use super::{Coherent, DmaHandle, DmaMapError, DmaSpace, DmaUnmapError, Refused};

impl<P: Platform> DmaHandle<P> {
    /// A zeroed buffer of `len_bytes` bytes that device and CPU share: physically contiguous, and for the device aligned to the next
    /// power of two of its size.
    ///
    /// # Errors
    ///
    /// As [`DmaMapError`] says; then nothing is mapped, and no memory or address is taken, unless it says so.
    pub fn alloc_coherent(&self, len_bytes: u64) -> Result<Coherent, DmaMapError> {
        let layout = self.layout(len_bytes).ok_or(DmaMapError::BadLength)?;
        let pa = self.platform().alloc_buffer(layout).ok_or(DmaMapError::NoMemory)?;
        let pages = self.map_coherent(Memory { pa, layout })?;
        let range = IovaRange::new(pages.first(), len_bytes).expect("no longer than its pages");
        self.say(
            "dma_alloc",
            &[
                ("iova", Value::Addr(range.first().get())),
                ("pa", Value::Addr(pa.get())),
                ("len", Value::Dec(len_bytes)),
            ],
        );
        Ok(Coherent { range, pa, layout, owner: self.owner() })
    }

    /// Whole pages; where addresses are physical, memory itself must have the alignment that is promised.
    fn layout(&self, len_bytes: u64) -> Option<BlockLayout> {
        let smallest = self.device().iommu().capabilities().page_sizes.smallest();
        let granule =
            self.space().map_or_else(|| smallest.unwrap_or(SizeLg2::KIB_4).bytes(), DmaSpace::granule);
        let size = len_bytes.checked_next_multiple_of(granule)?;
        let align = if self.space().is_some() { granule } else { size.checked_next_power_of_two()? };
        BlockLayout::new(size, align)
    }

    /// Where the device finds `memory`. If it is refused, the memory goes back to the platform: at once where no device has heard of it, and else when hardware has
    /// confirmed that it forgot what a map that failed had mapped.
    fn map_coherent(&self, memory: Memory) -> Result<IovaRange, DmaMapError> {
        let pages = PaRange::new(memory.pa, memory.layout.size_bytes()).ok_or(DmaMapError::BadLength);
        let placed = pages.and_then(|pages| Ok((pages, self.place(pages)?)));
        let (pages, taken) = placed.inspect_err(|_| self.platform().free_buffer(memory.pa, memory.layout))?;
        // The zeroes must be in memory before a device that does not snoop looks there, by whatever address.
        self.buffer_to_device(pages);
        let Some(space) = self.space() else { return Ok(taken) };
        space
            .map(taken.first(), pages, self.prot(Perms::READ_WRITE))
            .map_err(|error| space.undo(taken, Some(memory), error))?;
        space.counters.maps.fetch_add(1, Relaxed);
        Ok(taken)
    }

    /// Addresses for `pages`, where nothing is mapped yet.
    fn place(&self, pages: PaRange) -> Result<IovaRange, DmaMapError> {
        let limit = self.device().coherent_limit();
        match self.space() {
            None => physical(pages, limit),
            Some(space) => space.take(bytes(pages), limit, self.prefer()),
        }
    }

    /// Takes a coherent buffer back. Its memory is the platform's again only when hardware has confirmed that the device cannot
    /// reach it, in lazy mode too.
    ///
    /// # Errors
    ///
    /// As [`DmaUnmapError`] says.
    pub fn free_coherent(&self, buffer: Coherent) -> Result<(), Refused<Coherent>> {
        if buffer.owner != self.owner() {
            return Err(Refused { error: DmaUnmapError::Foreign, mapping: Some(buffer) });
        }
        let Coherent { range, pa, layout, .. } = buffer;
        let memory = Memory { pa, layout };
        let done = match self.space() {
            None => {
                self.platform().free_buffer(pa, layout);
                Ok(())
            }
            Some(space) => {
                let pages = range.align_outward(space.granule());
                space.unmap(pages, layout.size_bytes(), Some(memory), When::Now)
            }
        };
        self.say_unmap(range.first(), &done);
        done.map_err(|error| {
            let still = matches!(error, DmaUnmapError::Unmap(_));
            Refused { error, mapping: still.then_some(buffer) }
        })
    }
}
