//! Base address registers: how much of what they ask for, and what they are given.
//!
//! Spec: PCIe 6.0, 7.5.1.2.1 "Base Address Registers (Offset 10h - 24h)".

use alloc::vec::Vec;

use portcullis_spec::pcie::{Bdf, Space, header};
use portcullis_types::{Pa, PaRange};

use crate::ConfigAccess;
use crate::problem::BarFault;

/// What a base address register asks for, and where it was placed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bar {
    /// Which register, 0 to 5; the lower half of one with 64 bits.
    pub index: u8,
    /// Which space, and how wide addresses may be.
    pub space: Space,
    /// Whether reads have no side effects.
    pub prefetchable: bool,
    /// How much, a power of two, at least 4. Addresses are multiples of it.
    pub size_bytes: u64,
    /// Where it was placed; none if there was no room.
    pub placed: Option<Placed>,
}

/// Where a base address register was placed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placed {
    /// The address on PCI, as the register has it.
    pub bus_address: u64,
    /// Where the CPU finds it.
    pub cpu_first: Pa,
}

impl Bar {
    /// Where the CPU finds the registers or memory behind it; none if it was not placed.
    pub fn cpu_range(&self) -> Option<PaRange> {
        PaRange::new(self.placed?.cpu_first, self.size_bytes)
    }

    /// The register that comes after this one.
    fn next_index(&self) -> u8 {
        self.index + if self.space == Space::Memory64 { 2 } else { 1 }
    }
}

fn register(index: u8) -> u16 {
    header::BAR0 + 4 * u16::from(index)
}

/// Asks the first `count` registers of a function how much they want. The function must not answer any requests meanwhile.
///
/// # Errors
///
/// The register that cannot be, and what is wrong with it.
pub(crate) fn size_all(
    config: &(impl ConfigAccess + ?Sized),
    at: Bdf,
    count: u8,
) -> Result<Vec<Bar>, (u8, BarFault)> {
    let mut bars = Vec::new();
    let mut index = 0;
    while index < count {
        let bar = size(config, at, index, count).map_err(|fault| (index, fault))?;
        index = bar.map_or(index + 1, |bar| bar.next_index());
        bars.extend(bar);
    }
    Ok(bars)
}

/// Writes ones to a register, reads what became of them, and writes back what was there.
fn writable_bits(config: &(impl ConfigAccess + ?Sized), at: Bdf, index: u8) -> u32 {
    let before = config.read32(at, register(index));
    config.write32(at, register(index), u32::MAX);
    let bits = config.read32(at, register(index));
    config.write32(at, register(index), before);
    bits
}

fn size(
    config: &(impl ConfigAccess + ?Sized),
    at: Bdf,
    index: u8,
    count: u8,
) -> Result<Option<Bar>, BarFault> {
    let low = writable_bits(config, at, index);
    if low == 0 {
        return Ok(None);
    }
    let bar = |space, prefetchable, size_bytes| Bar { index, space, prefetchable, size_bytes, placed: None };
    if low & header::Bar::IO != 0 {
        return Ok(Some(bar(Space::Io, false, io_size(low)?)));
    }
    let prefetchable = low & header::Bar::PREFETCHABLE != 0;
    let low_address = low & header::Bar::MEMORY_ADDRESS;
    match low & header::Bar::TYPE {
        header::Bar::TYPE_32 => {
            let size = size_of_mask(low_address.into(), u32::MAX.into())?;
            Ok(Some(bar(Space::Memory32, prefetchable, size)))
        }
        header::Bar::TYPE_64 if index + 1 < count => {
            let high = writable_bits(config, at, index + 1);
            let size = size_of_mask(u64::from(high) << 32 | u64::from(low_address), u64::MAX)?;
            Ok(Some(bar(Space::Memory64, prefetchable, size)))
        }
        header::Bar::TYPE_64 => Err(BarFault::NoUpperHalf),
        _ => Err(BarFault::ReservedType(low.to_le_bytes()[0] & 0b111)),
    }
}

/// A device may leave out the upper 16 bits of an I/O address.
fn io_size(bits: u32) -> Result<u64, BarFault> {
    if bits & 0b10 != 0 {
        return Err(BarFault::ReservedType(bits.to_le_bytes()[0] & 0b111));
    }
    let mask = bits & header::Bar::IO_ADDRESS;
    let all = if mask >> 16 == 0 { 0xffff } else { u32::MAX };
    size_of_mask(mask.into(), all.into())
}

/// The size whose address bits are `mask`, if all bits from some bit up to the last of `all` are in it.
fn size_of_mask(mask: u64, all: u64) -> Result<u64, BarFault> {
    let lowest = mask & mask.wrapping_neg();
    if lowest != 0 && mask == all & !(lowest - 1) { Ok(lowest) } else { Err(BarFault::Mask(mask)) }
}

/// Writes an address to a register.
pub(crate) fn write(config: &(impl ConfigAccess + ?Sized), at: Bdf, bar: &Bar, bus_address: u64) {
    let [low, high] = [bus_address & u64::from(u32::MAX), bus_address >> 32];
    let word = |half: u64| u32::try_from(half).unwrap_or(u32::MAX);
    config.write32(at, register(bar.index), word(low));
    if bar.space == Space::Memory64 {
        config.write32(at, register(bar.index + 1), word(high));
    }
}
