//! Registers of devices in the linear map: what drivers are given as [`Registers`].
#![expect(unsafe_code, reason = "accesses to devices")]

use portcullis_hal::Registers;
use portcullis_types::{Pa, PaRange};

use crate::mmu;

/// A window of registers. The pages must be mapped as a device's (`mmu::map_device`), which every user of one sees to before its first access.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Window {
    first: Pa,
    bytes: usize,
}

impl Window {
    /// The registers in `range`.
    pub(crate) fn new(range: PaRange) -> Self {
        let bytes = range.len_bytes().and_then(|len| usize::try_from(len).ok()).unwrap_or(usize::MAX);
        Self { first: range.first(), bytes }
    }

    /// Where a register of `T` is.
    fn at<T>(self, offset: usize) -> *mut T {
        let fits = offset.checked_add(size_of::<T>()).is_some_and(|end| end <= self.bytes);
        assert!(
            fits && offset.is_multiple_of(align_of::<T>()),
            "no register at {offset:#x} of {:#x}",
            self.first
        );
        mmu::linear(Pa::new(self.first.get() + offset as u64)).cast()
    }
}

/// A volatile access is one access of its width, in program order with others: one `ldr` or `str`, which is what hypervisors that emulate devices want to see.
impl Registers for Window {
    fn read32(&self, offset: usize) -> u32 {
        // SAFETY: the register lies in a window that its maker says is a device's, and is aligned; it is no Rust object.
        unsafe { self.at::<u32>(offset).read_volatile() }
    }

    fn write32(&self, offset: usize, value: u32) {
        // SAFETY: as above. What a device does to memory when it is told so is the business of its driver and of the IOMMU.
        unsafe { self.at::<u32>(offset).write_volatile(value) }
    }

    fn read64(&self, offset: usize) -> u64 {
        // SAFETY: as above.
        unsafe { self.at::<u64>(offset).read_volatile() }
    }

    fn write64(&self, offset: usize, value: u64) {
        // SAFETY: as above.
        unsafe { self.at::<u64>(offset).write_volatile(value) }
    }
}
