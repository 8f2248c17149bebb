//! What is wrong with a tree. All of it is firmware's doing.

use alloc::string::String;
use core::fmt;

/// Why a device tree cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FirmwareError {
    /// It is not a flattened device tree, or a broken one.
    Blob {
        /// What is wrong.
        fault: BlobFault,
        /// Where, in bytes from the start.
        offset: usize,
    },
    /// A property does not say what its binding demands.
    Property {
        /// The node, from the root: `/pcie@10000000`.
        path: String,
        /// The property.
        property: &'static str,
        /// What is wrong.
        fault: PropertyFault,
    },
}

/// What is wrong with a blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum BlobFault {
    /// It does not begin with the magic number.
    Magic(u32),
    /// A version that cannot be read here.
    Version {
        /// The blob's version.
        version: u32,
        /// The oldest version that it says it is compatible with.
        last_compatible: u32,
    },
    /// Something lies beyond the end of the blob or of its block.
    Truncated,
    /// A block is not aligned as it has to be.
    Misaligned,
    /// A token that there is not, or that cannot be here.
    Token(u32),
    /// A name that is not text, is empty, or has a character that no name has.
    Name,
    /// A node has two properties of one name.
    DuplicateProperty,
    /// Nodes are nested deeper than this many levels.
    TooDeep(usize),
}

/// What is wrong with a property.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PropertyFault {
    /// There must be one.
    Missing,
    /// The value's length does not fit.
    Length {
        /// How many bytes it has.
        len_bytes: usize,
        /// How many bytes it should have, or (a list) should have a multiple of, or (entries of several lengths) lack.
        wanted_bytes: usize,
    },
    /// The value is not text that ends with a zero byte.
    NotText,
    /// A number that cannot be here.
    Value(u64),
    /// A number that needs more than 64 bits, or a range that ends beyond them.
    TooLarge,
    /// An address lies outside the `ranges` of a bus above.
    OutsideRanges(u64),
    /// No node has this phandle.
    NoSuchPhandle(u32),
    /// Another node has this phandle already.
    DuplicatePhandle(u32),
    /// The node with this phandle is not what it would have to be here: an IOMMU, an MSI controller.
    WrongNode(u32),
    /// Two entries speak of one id: this one.
    Overlap(u32),
    /// An entry's first id has bits that the mask ignores.
    MaskedOut {
        /// The entry's first id.
        first: u32,
        /// The mask.
        mask: u32,
    },
    /// It is of a binding that has been given up; what is to be said instead.
    GivenUp(&'static str),
    /// Another property says the opposite.
    Contradicts(&'static str),
}

impl fmt::Display for FirmwareError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Blob { fault, offset } => write!(f, "device tree blob, byte {offset:#x}: {fault}"),
            Self::Property { path, property, fault } => write!(f, "{path}, property {property}: {fault}"),
        }
    }
}

impl fmt::Display for BlobFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Magic(word) => write!(f, "{word:#010x} is not the magic number of a device tree"),
            Self::Version { version, last_compatible } => {
                write!(f, "version {version}, compatible down to {last_compatible}; version 17 is understood")
            }
            Self::Truncated => f.write_str("beyond the end"),
            Self::Misaligned => f.write_str("not aligned"),
            Self::Token(token) => write!(f, "token {token:#x} cannot be here"),
            Self::Name => f.write_str("not a name"),
            Self::DuplicateProperty => f.write_str("a property is there twice"),
            Self::TooDeep(limit) => write!(f, "more than {limit} levels of nodes"),
        }
    }
}

impl fmt::Display for PropertyFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => f.write_str("missing"),
            Self::Length { len_bytes, wanted_bytes } => {
                write!(f, "{len_bytes} bytes do not fit units of {wanted_bytes}")
            }
            Self::NotText => f.write_str("not text"),
            Self::Value(value) => write!(f, "{value:#x} cannot be here"),
            Self::TooLarge => f.write_str("beyond 64 bits"),
            Self::OutsideRanges(address) => {
                write!(f, "address {address:#x} is outside the ranges of the bus above")
            }
            Self::NoSuchPhandle(phandle) => write!(f, "no node has phandle {phandle:#x}"),
            Self::DuplicatePhandle(phandle) => write!(f, "another node has phandle {phandle:#x}"),
            Self::WrongNode(phandle) => {
                write!(f, "the node with phandle {phandle:#x} is not of the kind that this needs")
            }
            Self::Overlap(id) => write!(f, "two entries cover id {id:#x}"),
            Self::MaskedOut { first, mask } => {
                write!(f, "first id {first:#x} has bits that mask {mask:#x} ignores")
            }
            Self::GivenUp(instead) => write!(f, "of a binding that has been given up: {instead}"),
            Self::Contradicts(other) => write!(f, "contradicts {other}"),
        }
    }
}

impl core::error::Error for FirmwareError {}
