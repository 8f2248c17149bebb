//! What is wrong with a machine's tables. All of it is firmware's doing.

use core::fmt;

use portcullis_spec::pcie::Bdf;

use super::dmar::{Cover, DmarError};
use super::mcfg::McfgError;

/// Something that ACPI's tables say, or do not say, and that a machine is made without.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum AcpiFault {
    /// In DMAR.
    Dmar(DmarError),
    /// In MCFG.
    Mcfg(McfgError),
    /// A function that is behind no unit. It is not to be used for DMA: nobody knows where that goes.
    NotCovered {
        /// Its segment.
        segment: u16,
        /// The function.
        function: Bdf,
        /// Why.
        cover: Cover,
    },
}

impl core::error::Error for AcpiFault {}

impl fmt::Display for AcpiFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dmar(error) => write!(f, "{error}"),
            Self::Mcfg(error) => write!(f, "{error}"),
            Self::NotCovered { segment, function, cover } => {
                write!(f, "DMAR: {segment:04x}:{function}: ")?;
                match cover {
                    Cover::Unit(unit) => write!(f, "behind unit {unit}"),
                    Cover::Disputed(one, two) => write!(f, "units {one} and {two} both claim it"),
                    Cover::Broken(why) => write!(f, "who covers it cannot be known ({why})"),
                    Cover::Nobody => f.write_str("no unit covers it"),
                }
            }
        }
    }
}
