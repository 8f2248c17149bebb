//! What is missing, and what went wrong.

use core::fmt;

use portcullis_spec::pcie::Bdf;
use portcullis_types::SizeLg2;

use super::PasidPermissions;

/// Why a function has not a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Missing {
    /// It has no such capability.
    NoCapability,
    /// The capability lies where there is no room for it.
    Misplaced {
        /// Where.
        offset: u16,
    },
    /// The function does not answer.
    Gone,
    /// Firmware does not say that the host bridge passes what ATS needs.
    HostBridge,
    /// The function is outside the machine.
    External {
        /// The port that leads there, or the function itself.
        port: Bdf,
    },
    /// A bridge above is, on one side, conventional PCI.
    Conventional {
        /// Which.
        bridge: Bdf,
    },
    /// A port above blocks what claims to be translated.
    TranslationsBlocked {
        /// Which.
        port: Bdf,
    },
    /// The function, or something above it, does not know prefixes.
    NoPrefixes {
        /// Which.
        at: Bdf,
    },
    /// A port above is set to pass no prefixes.
    PrefixesBlocked {
        /// Which.
        port: Bdf,
    },
    /// The function, or something above it, may turn requests to others before they come to the IOMMU.
    NotApart {
        /// Which.
        at: Bdf,
    },
    /// Page requests without ATS are for nothing.
    NoAts,
    /// The function says that it can have no request under way at all.
    NoCapacity,
    /// The function's PASIDs have so many bits: none, so that there is only PASID 0; or more than there can be.
    PasidWidth(u8),
}

/// Why a service was not turned on or off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ServiceError {
    /// It is on. EBUSY.
    Enabled,
    /// ATS is on, during which this must not change. EBUSY.
    AtsEnabled,
    /// Page requests are under way. EBUSY.
    NotStopped {
        /// For how long was waited for them.
        waited_ns: u64,
        /// The status register, as read last.
        status: u16,
    },
    /// There is no such smallest translation unit: 4 KiB to 8 TiB. EINVAL.
    TranslationUnit(SizeLg2),
    /// The function's requests cannot ask for that. EINVAL.
    Permissions {
        /// What was wanted.
        wanted: PasidPermissions,
        /// What there is.
        can: PasidPermissions,
    },
    /// The function does not keep what is written. EIO.
    NotKept {
        /// What was written.
        wrote: u32,
        /// What was read back.
        read: u32,
    },
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoCapability => f.write_str("no such capability"),
            Self::Misplaced { offset } => write!(f, "no room for the capability at {offset:#x}"),
            Self::Gone => f.write_str("does not answer"),
            Self::HostBridge => f.write_str("firmware does not say that the host bridge passes it"),
            Self::External { port } => write!(f, "outside the machine, behind {port}"),
            Self::Conventional { bridge } => write!(f, "{bridge} above is no PCI Express port"),
            Self::TranslationsBlocked { port } => {
                write!(f, "{port} above blocks what claims to be translated")
            }
            Self::NoPrefixes { at } => write!(f, "{at} does not pass prefixes"),
            Self::PrefixesBlocked { port } => write!(f, "{port} above is set to block prefixes"),
            Self::NotApart { at } => write!(f, "{at} may turn requests to other functions"),
            Self::NoAts => f.write_str("of no use without ATS"),
            Self::NoCapacity => f.write_str("can have no request under way"),
            Self::PasidWidth(bits) => write!(f, "PASIDs of {bits} bits"),
        }
    }
}

impl fmt::Display for ServiceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Enabled => f.write_str("it is on"),
            Self::AtsEnabled => f.write_str("ATS is on"),
            Self::NotStopped { waited_ns, status } => {
                write!(f, "page requests still under way after {waited_ns} ns, status {status:#06x}")
            }
            Self::TranslationUnit(unit) => write!(f, "no translation unit of {unit}"),
            Self::Permissions { wanted, can } => write!(f, "wants {wanted:?}, can {can:?}"),
            Self::NotKept { wrote, read } => write!(f, "wrote {wrote:#x}, read back {read:#x}"),
        }
    }
}

impl core::error::Error for Missing {}
impl core::error::Error for ServiceError {}
