//! MCFG: where PCI configuration space is in memory.
//!
//! An [`Mcfg`] is a table whose framing holds; [`Mcfg::windows`] walks it without copying anything, and [`Mcfg::config`] says where the configuration space of a function
//! is.
//!
//! # What a broken or unusual table leads to
//!
//! - A length that does not hold whole windows is an error, and there is no table ([`McfgError`]).
//! - A window that says what cannot be is listed by [`Mcfg::faults`]. No function has its configuration space there.
//! - A bus that two windows have is had by neither ([`McfgFault::Overlap`]): to guess would be to write into another function's registers.
//! - Two windows that lie in the same memory are none ([`McfgFault::SharedMemory`]): one function would have two names, and two owners.
//!
//! Spec: PCI Firmware 3.3, 4.1.2 "MCFG Table Description"; PCIe 6.0, 7.2.2 "PCI Express Enhanced Configuration Access Mechanism (ECAM)".
//! Not here: reading configuration space (`pci`).

use core::fmt;

use portcullis_spec::pcie::Bdf;
use portcullis_types::{Pa, PaRange};

use super::bytes::{u8_at, u16_at, u64_at};
use super::{Table, TableFault};

/// The table's fixed part.
const FIXED_BYTES: usize = 44;
/// Bytes of a window in the table.
const WINDOW_BYTES: usize = 16;
/// Configuration space of a bus, by its power of two.
const BUS_LG2: u32 = 20;
/// Configuration space of a function.
const FUNCTION_BYTES: u64 = 1 << 12;

/// An MCFG table whose framing holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mcfg<'a> {
    windows: &'a [u8],
}

/// Where the configuration space of some buses is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EcamWindow {
    /// Where it lies in the table, in bytes.
    pub offset: usize,
    /// Where bus 0 of the segment is, or would be: not the first bus of the window.
    pub base: Pa,
    /// The PCI segment.
    pub segment: u16,
    /// The first bus.
    pub first_bus: u8,
    /// The last bus.
    pub last_bus: u8,
}

/// Something is wrong with an MCFG table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct McfgError {
    /// Where, in bytes from the table's start.
    pub offset: usize,
    /// What.
    pub fault: McfgFault,
}

/// What is wrong with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum McfgFault {
    /// The header.
    Table(TableFault),
    /// This many bytes are left after the last whole window.
    Partial(usize),
    /// A window's last bus is before its first one.
    Buses(u8, u8),
    /// A window is not aligned to a bus, or lies at 0, or wraps around.
    Base(Pa),
    /// Another window has some of the same buses.
    Overlap,
    /// Another window has some of the same memory.
    SharedMemory(PaRange),
}

impl<'a> Mcfg<'a> {
    /// The table at the start of `bytes`.
    ///
    /// # Errors
    ///
    /// Its header cannot be, or it ends within a window.
    pub fn read(bytes: &'a [u8]) -> Result<Self, McfgError> {
        let table = Table::read(bytes, *b"MCFG", FIXED_BYTES)
            .map_err(|fault| McfgError { offset: 0, fault: McfgFault::Table(fault) })?;
        let windows = table.bytes().get(FIXED_BYTES..).unwrap_or(&[]);
        match windows.len() % WINDOW_BYTES {
            0 => Ok(Self { windows }),
            left => {
                let offset = FIXED_BYTES + windows.len() - left;
                Err(McfgError { offset, fault: McfgFault::Partial(left) })
            }
        }
    }

    /// Its windows in their order, whatever they say.
    pub fn windows(self) -> impl Iterator<Item = EcamWindow> + Clone + 'a {
        let places = (FIXED_BYTES..).step_by(WINDOW_BYTES);
        places.zip(self.windows.chunks_exact(WINDOW_BYTES)).filter_map(|(offset, bytes)| {
            Some(EcamWindow {
                offset,
                base: Pa::new(u64_at(bytes, 0)?),
                segment: u16_at(bytes, 8)?,
                first_bus: u8_at(bytes, 10)?,
                last_bus: u8_at(bytes, 11)?,
            })
        })
    }

    /// What is wrong with its windows.
    pub fn faults(self) -> impl Iterator<Item = McfgError> + 'a {
        self.windows().filter_map(move |window| {
            let before = || self.windows().take_while(move |other| other.offset < window.offset);
            let fault = match window.range() {
                Err(fault) => fault,
                Ok(_) if before().any(|other| other.shares_bus(&window)) => McfgFault::Overlap,
                Ok(range) if before().any(|other| other.shares_memory(range)) => {
                    McfgFault::SharedMemory(range)
                }
                Ok(_) => return None,
            };
            Some(McfgError { offset: window.offset, fault })
        })
    }

    /// Where the configuration space of a function is. None if no window has its bus, or two have, or one does that cannot be, or that another one lies in.
    pub fn config(self, segment: u16, function: Bdf) -> Option<PaRange> {
        let mut claimants =
            self.windows().filter(|window| window.segment == segment && window.has_bus(function.bus()));
        let (window, None) = (claimants.next()?, claimants.next()) else { return None };
        let range = window.range().ok()?;
        if self.windows().any(|other| other.offset != window.offset && other.shares_memory(range)) {
            return None;
        }
        let offset = u64::from(function.requester_id()) * FUNCTION_BYTES;
        PaRange::new(Pa::new(window.base.get().checked_add(offset)?), FUNCTION_BYTES)
    }
}

impl EcamWindow {
    /// Its configuration space.
    ///
    /// # Errors
    ///
    /// There can be no such window.
    pub fn range(&self) -> Result<PaRange, McfgFault> {
        let Some(more) = self.last_bus.checked_sub(self.first_bus) else {
            return Err(McfgFault::Buses(self.first_bus, self.last_bus));
        };
        let before = u64::from(self.first_bus) << BUS_LG2;
        let len_bytes = (u64::from(more) + 1) << BUS_LG2;
        let can_be = self.base.get() != 0 && self.base.is_aligned(1 << BUS_LG2);
        let first = self.base.get().checked_add(before).filter(|_| can_be);
        let range = first.and_then(|first| PaRange::new(Pa::new(first), len_bytes));
        range.ok_or(McfgFault::Base(self.base))
    }

    fn has_bus(&self, bus: u8) -> bool {
        // The wrong way round it has what lies between, too: nothing else is to be taken for that.
        let (first, last) = (self.first_bus.min(self.last_bus), self.first_bus.max(self.last_bus));
        (first..=last).contains(&bus)
    }

    fn shares_memory(&self, range: PaRange) -> bool {
        self.range().is_ok_and(|own| own.overlaps(range))
    }

    fn shares_bus(&self, other: &Self) -> bool {
        self.segment == other.segment && (self.has_bus(other.first_bus) || other.has_bus(self.first_bus))
    }
}

impl core::error::Error for McfgError {}

impl fmt::Display for McfgError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MCFG, byte {:#x}: {}", self.offset, self.fault)
    }
}

impl fmt::Display for McfgFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Table(fault) => write!(f, "{fault}"),
            Self::Partial(left) => write!(f, "{left} bytes are no window"),
            Self::Buses(first, last) => write!(f, "buses {first:#04x} to {last:#04x} are none"),
            Self::Base(base) => write!(f, "configuration space cannot lie at {base}"),
            Self::Overlap => f.write_str("buses that another window has, too"),
            Self::SharedMemory(range) => write!(f, "another window lies in {range}"),
        }
    }
}
