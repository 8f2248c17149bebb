//! What is wrong with a table. All of it is firmware's doing.

use core::fmt;

use portcullis_types::{Pa, PaRange};

use super::ScopeKind;
use crate::acpi::TableFault;

/// Something is wrong with a DMAR table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DmarError {
    /// Where, in bytes from the table's start.
    pub offset: usize,
    /// What.
    pub fault: DmarFault,
}

/// What is wrong with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DmarFault {
    /// The header.
    Table(TableFault),
    /// A structure or an entry runs beyond the end of what holds it.
    Truncated,
    /// A structure of its type cannot have this length.
    Length(u16),
    /// An entry of a device scope cannot have this length.
    ScopeLength(u8),
    /// A unit's registers are not aligned to their size, or lie at 0, or wrap around.
    Registers(Pa),
    /// Another unit has the same registers, or some of them.
    SharedRegisters(PaRange),
    /// A unit for all that is left of a segment, and another for it was there before.
    SecondIncludeAll(u16),
    /// A unit comes after the one for all that is left of its segment.
    AfterIncludeAll(u16),
    /// A unit that covers nothing: its scope is empty, and it is not for all that is left.
    CoversNothing,
    /// An entry of this kind cannot be in this structure.
    WrongKind(ScopeKind),
    /// A path names no function, or a device above 31, or a function above 7.
    Path,
    /// The scopes of two units name the same device.
    Overlap,
    /// A reserved region that ends before it begins, or whose ends are not those of 4 KiB pages.
    Region {
        /// Its base.
        base: u64,
        /// Its limit.
        limit: u64,
    },
    /// A reserved region outside what the firmware's memory map reserves. It is kept all the same: its device may rely on it.
    RegionInRam(PaRange),
    /// No unit has its registers here.
    NoSuchUnit(Pa),
    /// Another device of the name space has this number.
    SecondDevice(u8),
    /// No device of the name space has this number.
    NoSuchDevice(u8),
    /// A name is not text that ends with a zero byte.
    Name,
    /// Structures are not in the order of their types.
    Order,
    /// There is no unit at all.
    NoUnits,
}

impl core::error::Error for DmarError {}

impl fmt::Display for DmarError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DMAR, byte {:#x}: {}", self.offset, self.fault)
    }
}

impl fmt::Display for DmarFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Table(fault) => write!(f, "{fault}"),
            Self::Truncated => f.write_str("beyond the end"),
            Self::Length(length) => write!(f, "no structure of this type has {length} bytes"),
            Self::ScopeLength(length) => write!(f, "no entry of a device scope has {length} bytes"),
            Self::Registers(at) => write!(f, "registers cannot lie at {at}"),
            Self::SharedRegisters(range) => write!(f, "another unit has registers in {range}"),
            Self::SecondIncludeAll(segment) => {
                write!(f, "a second unit for all that is left of segment {segment}")
            }
            Self::AfterIncludeAll(segment) => {
                write!(f, "a unit behind the one for all that is left of segment {segment}")
            }
            Self::CoversNothing => f.write_str("a unit that covers nothing"),
            Self::WrongKind(kind) => write!(f, "an entry of a device scope that is {kind} cannot be here"),
            Self::Path => f.write_str("a path that leads to no function"),
            Self::Overlap => f.write_str("a device that another unit covers as well"),
            Self::Region { base, limit } => {
                write!(f, "reserved memory from {base:#x} to {limit:#x} is not made of pages of 4 KiB")
            }
            Self::RegionInRam(range) => {
                write!(f, "reserved memory {range} is not reserved in the firmware's memory map")
            }
            Self::NoSuchUnit(at) => write!(f, "no unit has its registers at {at}"),
            Self::SecondDevice(number) => write!(f, "a second device of the name space with number {number}"),
            Self::NoSuchDevice(number) => write!(f, "no device of the name space has number {number}"),
            Self::Name => f.write_str("a name that is not text"),
            Self::Order => f.write_str("structures are not in the order of their types"),
            Self::NoUnits => f.write_str("there is no unit"),
        }
    }
}
