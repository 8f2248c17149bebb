//! Bridges: which buses are below, and which addresses go there.
//!
//! Spec: PCIe 6.0, 7.5.1.3 "Type 1 Configuration Space Header".

use portcullis_spec::pcie::Bdf;
use portcullis_spec::pcie::header::{
    self, BUS_NUMBERS, BusNumbers, IO_BASE, IO_BASE_UPPER, IoWindow, MEMORY_BASE, MemoryWindow,
    PREFETCHABLE_BASE, PREFETCHABLE_BASE_UPPER, PREFETCHABLE_LIMIT_UPPER,
};

use crate::ConfigAccess;
use crate::problem::Fault;

/// Which prefetchable window a bridge has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PrefetchableWidth {
    /// None.
    None,
    /// One with addresses below 4 GiB.
    Bits32,
    /// One with addresses anywhere.
    Bits64,
}

/// Which I/O window a bridge has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum IoWidth {
    /// None.
    None,
    /// One with addresses below 64 KiB.
    Bits16,
    /// One with addresses below 4 GiB.
    Bits32,
}

/// A window with base above limit is closed: nothing goes down.
const CLOSED_MEMORY: MemoryWindow = MemoryWindow::new().with_base(0xfff).with_limit(0);
const CLOSED_IO: IoWindow = IoWindow::new().with_base(0xf).with_limit(0);

/// Gives a bridge its bus numbers.
///
/// # Errors
///
/// The bridge does not keep them.
pub(crate) fn set_buses(
    config: &(impl ConfigAccess + ?Sized),
    at: Bdf,
    secondary: u8,
    subordinate: u8,
) -> Result<(), Fault> {
    let numbers =
        BusNumbers::new().with_primary(at.bus()).with_secondary(secondary).with_subordinate(subordinate);
    let wrote = u32::from(numbers);
    config.write32(at, BUS_NUMBERS, wrote);
    let read = config.read32(at, BUS_NUMBERS);
    let kept = BusNumbers::from(read).with_latency_timer(0) == numbers;
    if kept { Ok(()) } else { Err(Fault::BusNumbersNotKept { wrote, read }) }
}

/// Makes a bridge pass nothing down, neither configuration requests nor others.
pub(crate) fn close(config: &(impl ConfigAccess + ?Sized), at: Bdf) {
    config.write32(at, BUS_NUMBERS, 0);
    close_windows(config, at);
}

/// Makes a bridge pass no memory or I/O requests down.
pub(crate) fn close_windows(config: &(impl ConfigAccess + ?Sized), at: Bdf) {
    config.write32(at, IO_BASE, u16::from(CLOSED_IO).into());
    config.write32(at, IO_BASE_UPPER, 0);
    config.write32(at, MEMORY_BASE, CLOSED_MEMORY.into());
    config.write32(at, PREFETCHABLE_BASE, CLOSED_MEMORY.into());
    config.write32(at, PREFETCHABLE_BASE_UPPER, 0);
    config.write32(at, PREFETCHABLE_LIMIT_UPPER, 0);
}

/// Which windows a bridge has. They must be closed; a window that does not keep that is not there.
pub(crate) fn widths(config: &(impl ConfigAccess + ?Sized), at: Bdf) -> (PrefetchableWidth, IoWidth) {
    let memory = MemoryWindow::from(config.read32(at, PREFETCHABLE_BASE));
    let prefetchable = match (memory.base(), memory.base_width()) {
        (0, _) => PrefetchableWidth::None,
        (_, MemoryWindow::WIDTH_64) => PrefetchableWidth::Bits64,
        _ => PrefetchableWidth::Bits32,
    };
    let io = IoWindow::from(config.read16(at, IO_BASE));
    let io = match (io.base(), io.base_width()) {
        (0, _) => IoWidth::None,
        (_, IoWindow::WIDTH_32) => IoWidth::Bits32,
        _ => IoWidth::Bits16,
    };
    (prefetchable, io)
}

/// Bits `first..first + 16` of an address.
fn bits16(address: u64, first: u32) -> u16 {
    let [low, high, ..] = (address >> first).to_le_bytes();
    u16::from_le_bytes([low, high])
}

fn upper_half(address: u64) -> u32 {
    u32::try_from(address >> 32).unwrap_or(u32::MAX)
}

fn memory_window(first: u64, last: u64) -> u32 {
    // Bits 31:20 of an address are the 12 bits of a field.
    MemoryWindow::new().with_base(bits16(first, 20) & 0xfff).with_limit(bits16(last, 20) & 0xfff).into()
}

/// Opens the memory window for `first..=last`, whole MiB below 4 GiB.
pub(crate) fn open_memory(config: &(impl ConfigAccess + ?Sized), at: Bdf, first: u64, last: u64) {
    config.write32(at, MEMORY_BASE, memory_window(first, last));
}

/// Opens the prefetchable window for `first..=last`, whole MiB. In this order it covers nothing on the way that it will not cover
/// at the end.
pub(crate) fn open_prefetchable(config: &(impl ConfigAccess + ?Sized), at: Bdf, first: u64, last: u64) {
    config.write32(at, PREFETCHABLE_BASE_UPPER, upper_half(first));
    config.write32(at, PREFETCHABLE_BASE, memory_window(first, last));
    config.write32(at, PREFETCHABLE_LIMIT_UPPER, upper_half(last));
}

/// Opens the I/O window for `first..=last`, whole units of 4 KiB.
pub(crate) fn open_io(config: &(impl ConfigAccess + ?Sized), at: Bdf, first: u64, last: u64) {
    let nibble = |address: u64| bits16(address, 12).to_le_bytes()[0] & 0xf;
    let window = IoWindow::new().with_base(nibble(first)).with_limit(nibble(last));
    let upper = u32::from(bits16(last, 16)) << 16 | u32::from(bits16(first, 16));
    config.write32(at, IO_BASE_UPPER, upper);
    // The other half is the secondary status: zeroes clear none of it.
    config.write32(at, IO_BASE, u16::from(window).into());
}

/// Turns a bridge's own expansion ROM off.
pub(crate) fn disable_rom(config: &(impl ConfigAccess + ?Sized), at: Bdf) {
    config.write32(at, header::TYPE1_EXPANSION_ROM, 0);
}
