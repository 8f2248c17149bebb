//! The header that every ACPI table begins with.

use core::fmt;

use super::bytes::{u8_at, u32_at};

/// Bytes of the header.
pub(super) const HEADER_BYTES: usize = 36;

/// A table whose header has been checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Table<'a> {
    bytes: &'a [u8],
}

/// Why bytes are not the table that they should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TableFault {
    /// Shorter than a header, or than the header says.
    Truncated {
        /// How many bytes there are.
        len_bytes: usize,
        /// How many there should be.
        wanted_bytes: usize,
    },
    /// Another table.
    Signature([u8; 4]),
    /// The header says a length that no table of this kind has.
    Length(u32),
    /// The bytes do not add up to 0: to this.
    Checksum(u8),
}

impl<'a> Table<'a> {
    /// The table with this signature at the start of `bytes`, at least `least_bytes` long. What comes after its end is not looked at.
    ///
    /// # Errors
    ///
    /// As [`TableFault`] says.
    pub fn read(bytes: &'a [u8], signature: [u8; 4], least_bytes: usize) -> Result<Self, TableFault> {
        let short = |wanted_bytes| TableFault::Truncated { len_bytes: bytes.len(), wanted_bytes };
        let found = bytes.first_chunk().ok_or(short(HEADER_BYTES))?;
        if *found != signature {
            return Err(TableFault::Signature(*found));
        }
        let length = u32_at(bytes, 4).ok_or(short(HEADER_BYTES))?;
        let len_bytes = usize::try_from(length).map_err(|_| TableFault::Length(length))?;
        if len_bytes < least_bytes.max(HEADER_BYTES) {
            return Err(TableFault::Length(length));
        }
        let bytes = bytes.get(..len_bytes).ok_or(short(len_bytes))?;
        match bytes.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte)) {
            0 => Ok(Self { bytes }),
            sum => Err(TableFault::Checksum(sum)),
        }
    }

    /// All its bytes, header included.
    pub fn bytes(self) -> &'a [u8] {
        self.bytes
    }

    /// The revision in its header.
    pub fn revision(self) -> u8 {
        u8_at(self.bytes, 8).unwrap_or(0)
    }
}

impl fmt::Display for TableFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Truncated { len_bytes, wanted_bytes } => {
                write!(f, "{len_bytes} bytes, where {wanted_bytes} should be")
            }
            Self::Signature(found) => write!(f, "\"{}\" is another table", found.escape_ascii()),
            Self::Length(length) => write!(f, "a length of {length} bytes cannot be"),
            Self::Checksum(sum) => write!(f, "its bytes add up to {sum:#04x}, not to 0"),
        }
    }
}
