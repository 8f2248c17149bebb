//! MADT: where a GICv3's ITSs are, which IORT names by number alone.
//!
//! A [`Madt`] is a table whose framing holds; [`Madt::its`] walks it without copying anything.
//!
//! # What a broken or unusual table leads to
//!
//! - A structure that runs beyond the end, or says that it has less than two bytes, is an error, and there is no table ([`MadtError`]).
//! - An ITS whose registers cannot be, or whose number another one has, is listed by [`Madt::faults`], and is none.
//!
//! Spec: ACPI 6.5, 5.2.12 "Multiple APIC Description Table (MADT)", 5.2.12.15 "GIC Distributor (GICD) Structure", 5.2.12.18 "GIC Interrupt
//! Translation Service (ITS) Structure".
//! Not here: CPUs, and all of the interrupt controllers that no device's messages go to.

use core::fmt;

use portcullis_types::{Pa, PaRange};

use super::bytes::{pieces, u8_at, u32_at, u64_at};
use super::{Table, TableFault};

/// The table's fixed part.
const FIXED_BYTES: usize = 44;
/// Types of structures, and how many bytes they have.
const GICD: u8 = 12;
const ITS: u8 = 15;
const ITS_BYTES: usize = 20;
/// Registers of an ITS: two frames of 64 KiB. Spec: GICv3 IHI 0069 H, 12.18 "The ITS register map".
const ITS_FRAMES: u64 = 2 << 16;

/// A MADT table whose framing holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Madt<'a> {
    structures: &'a [u8],
}

/// An ITS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MadtIts {
    /// Where it lies in the table, in bytes.
    pub offset: usize,
    /// Its number, by which IORT knows it.
    pub id: u32,
    /// Where its registers are.
    pub base: Pa,
}

/// Something is wrong with a MADT table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MadtError {
    /// Where, in bytes from the table's start.
    pub offset: usize,
    /// What.
    pub fault: MadtFault,
}

/// What is wrong with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum MadtFault {
    /// The header.
    Table(TableFault),
    /// A structure runs beyond the end.
    Truncated,
    /// No structure of its type has this length.
    Length(u8),
    /// Registers are not aligned to 64 KiB, or lie at 0, or wrap around.
    Registers(Pa),
    /// Another ITS has this number.
    SharedId(u32),
}

impl<'a> Madt<'a> {
    /// The table at the start of `bytes`.
    ///
    /// # Errors
    ///
    /// Its header, or the length of a structure, cannot be.
    pub fn read(bytes: &'a [u8]) -> Result<Self, MadtError> {
        let table = Table::read(bytes, *b"APIC", FIXED_BYTES)
            .map_err(|fault| MadtError { offset: 0, fault: MadtFault::Table(fault) })?;
        let madt = Self { structures: table.bytes().get(FIXED_BYTES..).unwrap_or(&[]) };
        madt.framed().try_for_each(|framed| framed.map(|_| ()))?;
        Ok(madt)
    }

    /// Whether the machine's interrupt controller is a GIC.
    pub fn has_gic(self) -> bool {
        self.framed().flatten().any(|(_, body)| u8_at(body, 0) == Some(GICD))
    }

    /// Its ITSs in their order, whatever they say.
    pub fn listed(self) -> impl Iterator<Item = MadtIts> + Clone + 'a {
        let its = |(offset, body): (usize, &[u8])| {
            let is_one = u8_at(body, 0) == Some(ITS);
            is_one.then_some(MadtIts { offset, id: u32_at(body, 4)?, base: Pa::new(u64_at(body, 8)?) })
        };
        // `read` has seen each of them: nothing is lost here.
        self.framed().flatten().filter_map(its)
    }

    /// Its ITSs without those that cannot be, or whose number an earlier one has.
    pub fn its(self) -> impl Iterator<Item = (u32, PaRange)> + 'a {
        self.listed().filter_map(move |its| Some((its.id, self.registers(its).ok()?)))
    }

    /// What is wrong with them.
    pub fn faults(self) -> impl Iterator<Item = MadtError> + 'a {
        let fault =
            move |its: MadtIts| Some(MadtError { offset: its.offset, fault: self.registers(its).err()? });
        self.listed().filter_map(fault)
    }

    fn registers(self, its: MadtIts) -> Result<PaRange, MadtFault> {
        let mut before = self.listed().take_while(|other| other.offset < its.offset);
        if before.any(|other| other.id == its.id) {
            return Err(MadtFault::SharedId(its.id));
        }
        let can_be = its.base.get() != 0 && its.base.is_aligned(ITS_FRAMES >> 1);
        let range = PaRange::new(its.base, ITS_FRAMES).filter(|_| can_be);
        range.ok_or(MadtFault::Registers(its.base))
    }

    /// Offset and bytes of each structure. It ends with the first error.
    fn framed(self) -> impl Iterator<Item = Result<(usize, &'a [u8]), MadtError>> + Clone {
        pieces(self.structures, FIXED_BYTES, |rest, offset| {
            (!rest.is_empty()).then(|| structure(rest, offset))
        })
    }
}

/// The structure at the start of `rest`, which lies at `offset`.
fn structure(rest: &[u8], offset: usize) -> Result<&[u8], MadtError> {
    let error = |fault| MadtError { offset, fault };
    let (Some(kind), Some(length)) = (u8_at(rest, 0), u8_at(rest, 1)) else {
        return Err(error(MadtFault::Truncated));
    };
    let least = if kind == ITS { ITS_BYTES } else { 2 };
    if usize::from(length) < least {
        return Err(error(MadtFault::Length(length)));
    }
    rest.get(..length.into()).ok_or(error(MadtFault::Truncated))
}

impl core::error::Error for MadtError {}

impl fmt::Display for MadtError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MADT, byte {:#x}: {}", self.offset, self.fault)
    }
}

impl fmt::Display for MadtFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Table(fault) => write!(f, "{fault}"),
            Self::Truncated => f.write_str("beyond the end"),
            Self::Length(length) => write!(f, "no structure of this type has {length} bytes"),
            Self::Registers(at) => write!(f, "registers of an ITS cannot lie at {at}"),
            Self::SharedId(id) => write!(f, "another ITS has number {id}"),
        }
    }
}
