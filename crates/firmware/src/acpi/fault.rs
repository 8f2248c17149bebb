//! What is wrong with a machine's tables. All of it is firmware's doing.

use core::fmt;

use portcullis_spec::pcie::Bdf;

use super::dmar::{Cover, DmarError};
use super::iort::{Dma, IortError};
use super::madt::MadtError;
use super::mcfg::McfgError;

/// Something that ACPI's tables say, or do not say, and that a machine is made without.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum AcpiFault {
    /// In DMAR.
    Dmar(DmarError),
    /// In IORT.
    Iort(IortError),
    /// In MADT.
    Madt(MadtError),
    /// In MCFG.
    Mcfg(McfgError),
    /// There are both DMAR and IORT, which tell of different kinds of machine. IORT is not heeded.
    TwoKinds,
    /// IORT sends messages to an ITS of this number, and MADT has none.
    NoSuchIts(u32),
    /// A function that is behind no unit. It is not to be used for DMA: nobody knows where that goes.
    NotCovered {
        /// Its segment.
        segment: u16,
        /// The function.
        function: Bdf,
        /// Why.
        cover: Cover,
    },
    /// A function that IORT leads to no SMMU, though others of its segment are led to one. It is not to be used for DMA: nobody knows where that goes.
    NotLed {
        /// Its segment.
        segment: u16,
        /// The function.
        function: Bdf,
        /// Where it is led instead.
        dma: Dma,
    },
}

impl core::error::Error for AcpiFault {}

impl fmt::Display for AcpiFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dmar(error) => write!(f, "{error}"),
            Self::Iort(error) => write!(f, "{error}"),
            Self::Madt(error) => write!(f, "{error}"),
            Self::Mcfg(error) => write!(f, "{error}"),
            Self::TwoKinds => f.write_str("DMAR and IORT are both there: IORT is not heeded"),
            Self::NoSuchIts(id) => write!(f, "IORT: MADT has no ITS {id}"),
            Self::NotLed { segment, function, dma } => {
                write!(f, "IORT: {segment:04x}:{function}: ")?;
                match dma {
                    Dma::Smmu { smmu, stream } => write!(f, "stream {stream:#x} of SMMU {smmu}"),
                    Dma::Past => f.write_str("it is led past every SMMU"),
                    Dma::Disputed(one, two) => {
                        write!(f, "the mappings at bytes {one:#x} and {two:#x} both claim it")
                    }
                    Dma::Broken(why) => write!(f, "where it is led cannot be known ({why})"),
                    Dma::Nobody => f.write_str("no mapping claims it"),
                }
            }
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
