//! Registers of one piece of hardware.

/// The registers of one piece of hardware, from its base.
///
/// Offsets are in bytes and naturally aligned for the access. An access is one access on the bus, in program order with the
/// other accesses to these registers, and ordered with nothing else: who rings a doorbell after writing
/// memory calls [`Barriers::write_barrier`](crate::Barriers::write_barrier) in between.
///
/// Values are as the book numbers their bits, whatever the byte order of bus or CPU.
pub trait Registers: Send + Sync {
    /// Reads the 32-bit register at `offset`.
    fn read32(&self, offset: usize) -> u32;
    /// Writes the 32-bit register at `offset`.
    fn write32(&self, offset: usize, value: u32);
    /// Reads the 64-bit register at `offset`, in one access or two.
    fn read64(&self, offset: usize) -> u64;
    /// Writes the 64-bit register at `offset`, in one access or two.
    fn write64(&self, offset: usize, value: u64);
}

impl<T: Registers + ?Sized> Registers for alloc::sync::Arc<T> {
    fn read32(&self, offset: usize) -> u32 {
        (**self).read32(offset)
    }

    fn write32(&self, offset: usize, value: u32) {
        (**self).write32(offset, value);
    }

    fn read64(&self, offset: usize) -> u64 {
        (**self).read64(offset)
    }

    fn write64(&self, offset: usize, value: u64) {
        (**self).write64(offset, value);
    }
}
