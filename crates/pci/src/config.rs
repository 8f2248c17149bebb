//! Access to configuration space.

use portcullis_spec::pcie::header::{self, Command};
use portcullis_spec::pcie::{ABSENT, Bdf};

/// A way to configuration space.
///
/// Offsets are in bytes, below 4096, and multiples of the access's width. Where no function answers, or at an offset that cannot
/// be, a read finds all ones and a write does nothing; so does hardware.
///
/// # Narrow writes
///
/// Some ways are 32 bits wide: for them a write of 8 or 16 bits reads and writes back the rest, and bits of a neighbour that are
/// cleared by writing ones would be cleared. Code of this crate writes such a neighbour as zeroes, with
/// [`write32`](Self::write32); so should others (command and status, device control and device status).
pub trait ConfigAccess {
    /// Reads 32 bits.
    fn read32(&self, at: Bdf, offset: u16) -> u32;

    /// Writes 32 bits.
    fn write32(&self, at: Bdf, offset: u16, value: u32);

    /// Reads 16 bits.
    fn read16(&self, at: Bdf, offset: u16) -> u16 {
        if !offset.is_multiple_of(2) {
            return u16::MAX;
        }
        let bytes = self.read32(at, offset & !3).to_le_bytes();
        let start = usize::from(offset & 2);
        u16::from_le_bytes([bytes[start], bytes[start + 1]])
    }

    /// Reads 8 bits.
    fn read8(&self, at: Bdf, offset: u16) -> u8 {
        self.read32(at, offset & !3).to_le_bytes()[usize::from(offset & 3)]
    }

    /// Writes 16 bits.
    fn write16(&self, at: Bdf, offset: u16, value: u16) {
        if !offset.is_multiple_of(2) {
            return;
        }
        let mut bytes = self.read32(at, offset & !3).to_le_bytes();
        let start = usize::from(offset & 2);
        bytes[start..start + 2].copy_from_slice(&value.to_le_bytes());
        self.write32(at, offset & !3, u32::from_le_bytes(bytes));
    }

    /// Writes 8 bits.
    fn write8(&self, at: Bdf, offset: u16, value: u8) {
        let mut bytes = self.read32(at, offset & !3).to_le_bytes();
        bytes[usize::from(offset & 3)] = value;
        self.write32(at, offset & !3, u32::from_le_bytes(bytes));
    }
}

impl<C: ConfigAccess + ?Sized> ConfigAccess for &C {
    fn read32(&self, at: Bdf, offset: u16) -> u32 {
        (**self).read32(at, offset)
    }

    fn write32(&self, at: Bdf, offset: u16, value: u32) {
        (**self).write32(at, offset, value);
    }

    fn read16(&self, at: Bdf, offset: u16) -> u16 {
        (**self).read16(at, offset)
    }

    fn read8(&self, at: Bdf, offset: u16) -> u8 {
        (**self).read8(at, offset)
    }

    fn write16(&self, at: Bdf, offset: u16, value: u16) {
        (**self).write16(at, offset, value);
    }

    fn write8(&self, at: Bdf, offset: u16, value: u8) {
        (**self).write8(at, offset, value);
    }
}

/// What a root complex may answer for a function that is not ready yet.
const NOT_READY: u32 = 1;

/// Whether a function answers. A vendor id of 0 is no vendor's either; and who is not ready after a reset may have a root complex say 1 for it: nothing that is written reaches
/// it before it is.
///
/// Spec: PCIe 6.0, 7.5.1.1.1 "Vendor ID Register (Offset 00h)"; 2.3.2 "Completion Handling Rules", Request Retry Status.
pub fn is_there(config: &(impl ConfigAccess + ?Sized), at: Bdf) -> bool {
    let id = config.read32(at, header::VENDOR_ID);
    id != ABSENT && !matches!(id & 0xffff, 0 | NOT_READY | 0xffff)
}

/// The command register.
pub(crate) fn command(config: &(impl ConfigAccess + ?Sized), at: Bdf) -> Command {
    Command::from(config.read16(at, header::COMMAND))
}

/// Writes the command register, and zeroes to the status: no bit of it is cleared.
pub(crate) fn write_command(config: &(impl ConfigAccess + ?Sized), at: Bdf, command: Command) {
    config.write32(at, header::COMMAND, u16::from(command).into());
}

/// Lets a function answer memory requests, or not.
pub fn set_memory_space(config: &(impl ConfigAccess + ?Sized), at: Bdf, on: bool) {
    write_command(config, at, command(config, at).with_memory_space(on));
}

/// Lets a function send requests, or not. That goes for message-signalled interrupts, too; a bridge passes requests up only if on.
///
/// A function must be attached to something before; see [`Topology::enable_bus_master`](crate::Topology::enable_bus_master) for a
/// function with all bridges above it.
pub fn set_bus_master(config: &(impl ConfigAccess + ?Sized), at: Bdf, on: bool) {
    write_command(config, at, command(config, at).with_bus_master(on));
}

/// Keeps a function from sending INTx interrupts, or not.
pub fn set_interrupt_disable(config: &(impl ConfigAccess + ?Sized), at: Bdf, disable: bool) {
    write_command(config, at, command(config, at).with_interrupt_disable(disable));
}
