//! What is wrong with a table. All of it is firmware's doing.

use core::fmt;

use portcullis_types::{Pa, PaRange};

use crate::acpi::TableFault;

/// Something is wrong with an IORT table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IortError {
    /// Where, in bytes from the table's start: of a node, of a mapping, or of a memory range.
    pub offset: usize,
    /// What.
    pub fault: IortFault,
}

/// What is wrong with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum IortFault {
    /// The header.
    Table(TableFault),
    /// The nodes begin within the table's fixed part.
    NodeOffset(u32),
    /// A node, or a list in one, runs beyond the end of what holds it.
    Truncated,
    /// A node of its type and revision cannot have this length.
    Length(u16),
    /// A list lies within the fixed part of its node.
    ListOffset(u32),
    /// Registers are not aligned, or lie at 0, or wrap around.
    Registers(Pa),
    /// Another SMMU has the same registers, or some of them.
    SharedRegisters(PaRange),
    /// A group of ITSs with nobody in it.
    EmptyGroup,
    /// A PCI segment beyond 65535.
    Segment(u32),
    /// A device cannot put out this many bits of address. What it can is taken as not known.
    AddressBits(u8),
    /// A PASID has no so many bits. There are as many as it can have.
    PasidBits(u8),
    /// This is no word for coherency. The device is taken as not coherent.
    Coherency(u32),
    /// A name is not text that ends with a zero byte.
    Name,
    /// No node of a type that is known lies here.
    NoSuchNode(u32),
    /// The node here is none that ids of this node can be mapped to.
    WrongTarget(u32),
    /// Ids run beyond the last one, where they come from or where they are mapped to.
    Ids {
        /// The first.
        first: u32,
        /// How many there are after it.
        more: u32,
    },
    /// Another mapping of these devices has some of the same ids.
    Overlap,
    /// A mapping without ids, where ids are what is mapped.
    SingleMapping,
    /// No mapping has this index.
    NoSuchMapping(u32),
    /// A reserved region that is empty, wraps around, or whose ends are not those of 64 KiB pages.
    Region {
        /// Its first address.
        base: u64,
        /// Its length.
        len_bytes: u64,
    },
    /// A reserved region outside what the firmware's memory map reserves. It is kept all the same: its device may rely on it.
    RegionInRam(PaRange),
    /// Reserved memory that is nobody's.
    CoversNothing,
}

impl core::error::Error for IortError {}

impl fmt::Display for IortError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "IORT, byte {:#x}: {}", self.offset, self.fault)
    }
}

impl fmt::Display for IortFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Table(fault) => write!(f, "{fault}"),
            Self::NodeOffset(offset) => write!(f, "nodes cannot begin at {offset:#x}"),
            Self::Truncated => f.write_str("beyond the end"),
            Self::Length(length) => write!(f, "no node of this type and revision has {length} bytes"),
            Self::ListOffset(offset) => write!(f, "a list cannot begin at {offset:#x} of its node"),
            Self::Registers(at) => write!(f, "registers cannot lie at {at}"),
            Self::SharedRegisters(range) => write!(f, "another SMMU has registers in {range}"),
            Self::EmptyGroup => f.write_str("a group of no ITS"),
            Self::Segment(segment) => write!(f, "{segment} is no PCI segment"),
            Self::AddressBits(bits) => write!(f, "{bits} is no number of address bits"),
            Self::PasidBits(bits) => write!(f, "a PASID has no {bits} bits"),
            Self::Coherency(word) => write!(f, "{word:#x} is no word for coherency"),
            Self::Name => f.write_str("a name is not text that ends with a zero byte"),
            Self::NoSuchNode(reference) => write!(f, "no known node lies at {reference:#x}"),
            Self::WrongTarget(reference) => write!(f, "ids cannot be mapped to the node at {reference:#x}"),
            Self::Ids { first, more } => write!(f, "{more} ids after {first:#x} are beyond the last one"),
            Self::Overlap => f.write_str("ids that another mapping has, too"),
            Self::SingleMapping => f.write_str("a mapping without ids cannot be here"),
            Self::NoSuchMapping(index) => write!(f, "no mapping has index {index}"),
            Self::Region { base, len_bytes } => {
                write!(f, "{len_bytes:#x} bytes at {base:#x} are not pages of 64 KiB")
            }
            Self::RegionInRam(range) => write!(f, "{range} is for the operating system to use"),
            Self::CoversNothing => f.write_str("memory that is kept for nobody"),
        }
    }
}
