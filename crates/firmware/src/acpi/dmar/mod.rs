//! DMAR: which VT-d unit is whose, and what memory firmware keeps for itself.
//!
//! A [`Dmar`] is a table whose framing holds: every structure has a length that fits. [`Dmar::structures`] walks it without copying anything. A
//! [`Remapping`] is what the table means: units, reserved memory, and who covers a given device ([`Remapping::cover`]).
//!
//! # What a broken or unusual table leads to
//!
//! - Framing that does not hold, a length of zero above all, is an error, and there is no table ([`DmarError`]). No device is then covered.
//! - A structure that says what cannot be is left out and listed in [`Remapping::faults`]. What it said about devices is then not known, which
//!   never opens anything: a unit that is left out covers nobody, memory that is left out is not mapped.
//! - A device that two units claim, or a unit that was left out, is covered by neither ([`Cover::Disputed`], [`Cover::Broken`]).
//! - A device that nobody claims is [`Cover::Nobody`], and what becomes of it is the embedder's to decide, who is not to let it do DMA in silence.
//! - Types that are not known are skipped, as the book demands.
//!
//! Spec: VT-d 5.10, 8 "BIOS Considerations".
//! Not here: the units' registers (`vtd`).

mod cover;
mod fault;
mod remapping;
mod scope;
mod structure;

pub use cover::{Cover, DevicePath, ScopedDevice};
pub use fault::{DmarError, DmarFault};
pub use remapping::{Affinity, AtsPorts, DeviceProperty, NamespaceDevice, Remapping, ReservedRegion, Unit};
pub use scope::{Scope, ScopeEntry, ScopeKind};
pub use structure::{Andd, Atsr, Drhd, Rhsa, Rmrr, Satc, Sidp, Structure};

use super::Table;
use super::bytes::{pieces, u8_at, u16_at};
use structure::parse;

/// The table's fixed part.
const FIXED_BYTES: usize = 48;

/// A DMAR table whose framing holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dmar<'a> {
    table: Table<'a>,
}

impl<'a> Dmar<'a> {
    /// The table at the start of `bytes`.
    ///
    /// # Errors
    ///
    /// Its header, or the length of a structure or of an entry of a device scope, cannot be.
    pub fn read(bytes: &'a [u8]) -> Result<Self, DmarError> {
        let table = Table::read(bytes, *b"DMAR", FIXED_BYTES)
            .map_err(|fault| DmarError { offset: 0, fault: DmarFault::Table(fault) })?;
        let dmar = Self { table };
        for framed in dmar.frames() {
            let (offset, body) = framed?;
            if let Some(structure) = parse(offset, body)? {
                structure.scope().check()?;
            }
        }
        Ok(dmar)
    }

    /// How many bits of address the platform's memory has. Spec: "Host Address Width", which holds one less.
    pub fn host_address_bits(self) -> u16 {
        u16::from(u8_at(self.table.bytes(), 36).unwrap_or(0)) + 1
    }

    /// Whether the platform can remap interrupts: INTR_REMAP.
    pub fn interrupt_remapping(self) -> bool {
        self.flags() & 1 != 0
    }

    /// Whether firmware asks that the extended interrupt mode stays off: X2APIC_OPT_OUT.
    pub fn x2apic_opt_out(self) -> bool {
        self.flags() & 2 != 0
    }

    /// Whether firmware's own DMA keeps to the reserved regions: DMA_CTRL_PLATFORM_OPT_IN_FLAG.
    pub fn dma_control_opt_in(self) -> bool {
        self.flags() & 4 != 0
    }

    fn flags(self) -> u8 {
        u8_at(self.table.bytes(), 37).unwrap_or(0)
    }

    /// Its structures in their order, each with the offset at which it lies. Those of unknown types are left out.
    pub fn structures(self) -> impl Iterator<Item = (usize, Structure<'a>)> {
        // `read` has seen each of them: nothing is lost here.
        self.frames().flatten().filter_map(|(offset, body)| Some((offset, parse(offset, body).ok()??)))
    }

    /// Offset and bytes of each structure.
    fn frames(self) -> impl Iterator<Item = Result<(usize, &'a [u8]), DmarError>> {
        let structures = self.table.bytes().get(FIXED_BYTES..).unwrap_or(&[]);
        pieces(structures, FIXED_BYTES, |rest, offset| (!rest.is_empty()).then(|| frame(rest, offset)))
    }
}

/// The structure at the start of `rest`, which lies at `offset`.
fn frame(rest: &[u8], offset: usize) -> Result<&[u8], DmarError> {
    let error = |fault| DmarError { offset, fault };
    let length = u16_at(rest, 2).ok_or(error(DmarFault::Truncated))?;
    if length < 4 {
        return Err(error(DmarFault::Length(length)));
    }
    rest.get(..length.into()).ok_or(error(DmarFault::Truncated))
}
