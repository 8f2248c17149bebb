//! What is wrong with single functions. All of it is the devices' doing, except for room that there is not.

use core::fmt;

use portcullis_spec::pcie::{Bdf, Space};

use crate::capability::CapabilityFault;

/// A function that is not as it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Which function.
    pub at: Bdf,
    /// What is wrong.
    pub fault: Fault,
}

/// What is wrong with a function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// Its header has a layout that is not known: neither a function nor a bridge. It is left alone.
    Layout(u8),
    /// Its capabilities cannot be listed. It is treated as having none.
    Capabilities(CapabilityFault),
    /// A base address register cannot be. None of the function's is placed.
    Bar {
        /// Which register, 0 to 5.
        bar: u8,
        /// What is wrong with it.
        fault: BarFault,
    },
    /// There is no room for a base address register, or a bridge above passes nothing down. The function does not answer memory requests.
    NoRoom {
        /// Which register, 0 to 5.
        bar: u8,
        /// In which space.
        space: Space,
        /// How much it wants.
        size_bytes: u64,
    },
    /// There is no bus number left for what is below this bridge. Nothing there was looked at.
    NoBusNumber,
    /// The bridge does not keep the bus numbers that it was given. It leads nowhere: nothing below was looked at, or what was found there is out of reach now.
    BusNumbersNotKept {
        /// What was written.
        wrote: u32,
        /// What was read back.
        read: u32,
    },
}

/// What is wrong with a base address register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum BarFault {
    /// It says of itself what no register may say: bits 2:0 are these.
    ReservedType(u8),
    /// The bits that can be written are not those of a size: they are these.
    Mask(u64),
    /// It has 64 bits, and there is no next register for the upper half.
    NoUpperHalf,
}

impl Problem {
    /// The function, if what it asks for cannot be known.
    pub(crate) fn unknown_bars(&self) -> Option<Bdf> {
        matches!(self.fault, Fault::Bar { .. }).then_some(self.at)
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.at, self.fault)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Layout(layout) => write!(f, "unknown header layout {layout:#x}"),
            Self::Capabilities(fault) => write!(f, "{fault}"),
            Self::Bar { bar, fault } => write!(f, "base address register {bar}: {fault}"),
            Self::NoRoom { bar, space, size_bytes } => {
                write!(f, "no room for base address register {bar}: {size_bytes:#x} bytes of {space:?}")
            }
            Self::NoBusNumber => f.write_str("no bus number is left for what is below"),
            Self::BusNumbersNotKept { wrote, read } => {
                write!(f, "does not keep its bus numbers: wrote {wrote:#010x}, read {read:#010x}")
            }
        }
    }
}

impl fmt::Display for BarFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ReservedType(bits) => write!(f, "reserved type {bits:#b}"),
            Self::Mask(mask) => write!(f, "writable bits {mask:#x} are no size"),
            Self::NoUpperHalf => f.write_str("has no upper half"),
        }
    }
}

impl fmt::Display for CapabilityFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Loop { offset } => write!(f, "list of capabilities comes back to {offset:#x}"),
            Self::Outside { offset } => write!(f, "list of capabilities leads to {offset:#x}"),
            Self::Gone => f.write_str("stopped answering in the middle of its capabilities"),
        }
    }
}
