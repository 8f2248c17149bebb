//! Configuration space in memory.
//!
//! Spec: PCIe 6.0, 7.2.2 "PCI Express Enhanced Configuration Access Mechanism (ECAM)".

use core::ops::RangeInclusive;

use portcullis_hal::Registers;
use portcullis_spec::pcie::{ABSENT, Bdf, CONFIG_SPACE_BYTES};

use crate::ConfigAccess;

/// Configuration space in memory: 4096 bytes for each function, in the order of requester ids from the first bus on.
#[derive(Debug)]
pub struct Ecam<R> {
    registers: R,
    buses: RangeInclusive<u8>,
}

impl<R: Registers> Ecam<R> {
    /// The configuration space of `buses`, whose first bus is at offset 0 of `registers`.
    ///
    /// `registers` must reach for 1 MiB for each of the buses.
    pub fn new(registers: R, buses: RangeInclusive<u8>) -> Self {
        Self { registers, buses }
    }

    /// The buses.
    pub fn buses(&self) -> RangeInclusive<u8> {
        self.buses.clone()
    }

    /// Where a register of a function is; none if it is not here.
    fn offset(&self, at: Bdf, offset: u16) -> Option<usize> {
        let possible =
            self.buses.contains(&at.bus()) && offset < CONFIG_SPACE_BYTES && offset.is_multiple_of(4);
        let bus = usize::from(at.bus().checked_sub(*self.buses.start())?);
        possible.then_some(bus << 20 | usize::from(at.devfn()) << 12 | usize::from(offset))
    }
}

impl<R: Registers> ConfigAccess for Ecam<R> {
    fn read32(&self, at: Bdf, offset: u16) -> u32 {
        self.offset(at, offset).map_or(ABSENT, |offset| self.registers.read32(offset))
    }

    fn write32(&self, at: Bdf, offset: u16, value: u32) {
        if let Some(offset) = self.offset(at, offset) {
            self.registers.write32(offset, value);
        }
    }
}
