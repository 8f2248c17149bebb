//! The structures that a DMAR table is made of, as they lie there.
//!
//! Here a structure has the length that its type demands, and nothing else has been checked: that is `remapping`'s.

use portcullis_types::Pa;

use super::scope::Scope;
use super::{DmarError, DmarFault};
use crate::acpi::bytes::{name, u8_at, u16_at, u32_at, u64_at};

/// A structure of a known type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Structure<'a> {
    /// A unit: type 0.
    Drhd(Drhd<'a>),
    /// Memory that firmware keeps for devices: type 1.
    Rmrr(Rmrr<'a>),
    /// Root ports that pass translation requests on: type 2.
    Atsr(Atsr<'a>),
    /// To what memory a unit is near: type 3.
    Rhsa(Rhsa),
    /// A device of the ACPI name space: type 4.
    Andd(Andd<'a>),
    /// Devices in the chip whose ATC is known to be right: type 5.
    Satc(Satc<'a>),
    /// Devices in the chip with properties of their own: type 6.
    Sidp(Sidp<'a>),
}

/// A unit: DMA Remapping Hardware Unit Definition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drhd<'a> {
    /// It covers whatever of its segment no other unit covers: INCLUDE_PCI_ALL.
    pub include_all: bool,
    /// Its registers take `1 << size_lg2` pages of 4 KiB.
    pub size_lg2: u8,
    /// The PCI segment.
    pub segment: u16,
    /// Where its registers are.
    pub registers: Pa,
    /// Whom it covers by name.
    pub scope: Scope<'a>,
}

/// Memory that firmware keeps for devices: Reserved Memory Region Reporting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rmrr<'a> {
    /// The PCI segment.
    pub segment: u16,
    /// The first address.
    pub base: u64,
    /// The last address.
    pub limit: u64,
    /// Whose it is.
    pub scope: Scope<'a>,
}

/// Root ports that pass translation requests on: Root Port ATS Capability Reporting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Atsr<'a> {
    /// All of the segment do: ALL_PORTS.
    pub all_ports: bool,
    /// The PCI segment.
    pub segment: u16,
    /// Those that do.
    pub scope: Scope<'a>,
}

/// To what memory a unit is near: Remapping Hardware Static Affinity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rhsa {
    /// Where the unit's registers are.
    pub registers: Pa,
    /// The proximity domain.
    pub proximity: u32,
}

/// A device of the ACPI name space: ACPI Name-space Device Declaration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Andd<'a> {
    /// By this number device scopes mean it.
    pub number: u8,
    /// Its name and what follows, to the end of the structure.
    name: &'a [u8],
}

/// Devices in the chip whose ATC is known to be right: SoC Integrated Address Translation Cache Reporting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Satc<'a> {
    /// They do not work without it: ATC_REQUIRED.
    pub required: bool,
    /// The PCI segment.
    pub segment: u16,
    /// The devices.
    pub scope: Scope<'a>,
}

/// Devices in the chip with properties of their own, in their entries' flags: SoC Integrated Device Property Reporting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sidp<'a> {
    /// The PCI segment.
    pub segment: u16,
    /// The devices.
    pub scope: Scope<'a>,
}

impl<'a> Andd<'a> {
    /// Its name, a full path in the name space. None if it is not ASCII that a zero byte ends.
    pub fn name(self) -> Option<&'a str> {
        name(self.name)
    }
}

impl<'a> Structure<'a> {
    /// The number of its type, by which structures are ordered.
    pub fn number(&self) -> u16 {
        match self {
            Self::Drhd(_) => 0,
            Self::Rmrr(_) => 1,
            Self::Atsr(_) => 2,
            Self::Rhsa(_) => 3,
            Self::Andd(_) => 4,
            Self::Satc(_) => 5,
            Self::Sidp(_) => 6,
        }
    }

    /// Its device scope, empty for those that have none.
    pub fn scope(&self) -> Scope<'a> {
        match self {
            Self::Drhd(Drhd { scope, .. })
            | Self::Rmrr(Rmrr { scope, .. })
            | Self::Atsr(Atsr { scope, .. })
            | Self::Satc(Satc { scope, .. })
            | Self::Sidp(Sidp { scope, .. }) => *scope,
            Self::Rhsa(_) | Self::Andd(_) => Scope::EMPTY,
        }
    }
}

/// The structure in `bytes`, which lie at `offset` of the table. None for types that are not known.
///
/// # Errors
///
/// It is shorter than its type.
pub(super) fn parse(offset: usize, bytes: &[u8]) -> Result<Option<Structure<'_>>, DmarError> {
    let length = u16::try_from(bytes.len()).unwrap_or(u16::MAX);
    let short = DmarError { offset, fault: DmarFault::Length(length) };
    let parsed = match u16_at(bytes, 0).ok_or(short)? {
        0 => drhd(bytes, offset).map(Structure::Drhd),
        1 => rmrr(bytes, offset).map(Structure::Rmrr),
        2 => atsr(bytes, offset).map(Structure::Atsr),
        3 => rhsa(bytes).map(Structure::Rhsa),
        4 => andd(bytes).map(Structure::Andd),
        5 => satc(bytes, offset).map(Structure::Satc),
        6 => sidp(bytes, offset).map(Structure::Sidp),
        _ => return Ok(None),
    };
    parsed.map(Some).ok_or(short)
}

/// What follows the fixed part, as a device scope.
fn scope(bytes: &[u8], offset: usize, fixed_bytes: usize) -> Option<Scope<'_>> {
    Some(Scope::new(bytes.get(fixed_bytes..)?, offset + fixed_bytes))
}

fn drhd(bytes: &[u8], offset: usize) -> Option<Drhd<'_>> {
    Some(Drhd {
        include_all: u8_at(bytes, 4)? & 1 != 0,
        size_lg2: u8_at(bytes, 5)? & 0xf,
        segment: u16_at(bytes, 6)?,
        registers: Pa::new(u64_at(bytes, 8)?),
        scope: scope(bytes, offset, 16)?,
    })
}

fn rmrr(bytes: &[u8], offset: usize) -> Option<Rmrr<'_>> {
    Some(Rmrr {
        segment: u16_at(bytes, 6)?,
        base: u64_at(bytes, 8)?,
        limit: u64_at(bytes, 16)?,
        scope: scope(bytes, offset, 24)?,
    })
}

fn atsr(bytes: &[u8], offset: usize) -> Option<Atsr<'_>> {
    Some(Atsr {
        all_ports: u8_at(bytes, 4)? & 1 != 0,
        segment: u16_at(bytes, 6)?,
        scope: scope(bytes, offset, 8)?,
    })
}

fn rhsa(bytes: &[u8]) -> Option<Rhsa> {
    Some(Rhsa { registers: Pa::new(u64_at(bytes, 8)?), proximity: u32_at(bytes, 16)? })
}

fn andd(bytes: &[u8]) -> Option<Andd<'_>> {
    Some(Andd { number: u8_at(bytes, 7)?, name: bytes.get(8..)? })
}

fn satc(bytes: &[u8], offset: usize) -> Option<Satc<'_>> {
    Some(Satc {
        required: u8_at(bytes, 4)? & 1 != 0,
        segment: u16_at(bytes, 6)?,
        scope: scope(bytes, offset, 8)?,
    })
}

fn sidp(bytes: &[u8], offset: usize) -> Option<Sidp<'_>> {
    Some(Sidp { segment: u16_at(bytes, 6)?, scope: scope(bytes, offset, 8)? })
}
