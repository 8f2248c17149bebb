//! Device scopes: lists of devices, named by the way to them.

use core::fmt;

use super::{DmarError, DmarFault};
use crate::acpi::bytes::{pieces, u8_at};

/// Bytes of an entry before its path.
const ENTRY_BYTES: u8 = 6;

/// A device scope.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Scope<'a> {
    bytes: &'a [u8],
    /// Where it lies in the table.
    offset: usize,
}

/// One entry of a device scope.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct ScopeEntry<'a> {
    bytes: &'a [u8],
    /// Where it lies in the table, in bytes.
    pub offset: usize,
}

/// What an entry names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ScopeKind {
    /// A PCI function that is no bridge: 1.
    Endpoint,
    /// A PCI bridge and all below it: 2.
    SubHierarchy,
    /// An I/O APIC: 3.
    IoApic,
    /// A timer block that sends messages: 4.
    Hpet,
    /// A device of the ACPI name space: 5.
    NamespaceDevice,
    /// Another number, reserved.
    Unknown(u8),
}

impl ScopeKind {
    const fn from_number(number: u8) -> Self {
        match number {
            1 => Self::Endpoint,
            2 => Self::SubHierarchy,
            3 => Self::IoApic,
            4 => Self::Hpet,
            5 => Self::NamespaceDevice,
            other => Self::Unknown(other),
        }
    }

    /// Whether it is a PCI function, or several.
    pub const fn is_pci(self) -> bool {
        matches!(self, Self::Endpoint | Self::SubHierarchy)
    }
}

impl fmt::Display for ScopeKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Endpoint => f.write_str("a PCI endpoint"),
            Self::SubHierarchy => f.write_str("a PCI bridge"),
            Self::IoApic => f.write_str("an I/O APIC"),
            Self::Hpet => f.write_str("a timer block"),
            Self::NamespaceDevice => f.write_str("a device of the name space"),
            Self::Unknown(number) => write!(f, "of type {number}"),
        }
    }
}

impl<'a> Scope<'a> {
    pub(super) const EMPTY: Self = Self { bytes: &[], offset: 0 };

    /// The scope that fills `bytes`, which lie at `offset` of the table.
    pub(super) fn new(bytes: &'a [u8], offset: usize) -> Self {
        Self { bytes, offset }
    }

    /// Whether every entry has a length that fits.
    pub(super) fn check(self) -> Result<(), DmarError> {
        self.walk().try_for_each(|entry| entry.map(|_| ()))
    }

    /// Whether it names nobody.
    pub fn is_empty(self) -> bool {
        self.bytes.is_empty()
    }

    /// Its entries, in their order.
    pub fn entries(self) -> impl Iterator<Item = ScopeEntry<'a>> {
        // Checked when the table was read: nothing is lost here.
        self.walk().flatten()
    }

    fn walk(self) -> impl Iterator<Item = Result<ScopeEntry<'a>, DmarError>> {
        pieces(self.bytes, self.offset, |rest, offset| (!rest.is_empty()).then(|| entry(rest, offset)))
            .map(|found| found.map(|(offset, bytes)| ScopeEntry { bytes, offset }))
    }
}

/// The entry at the start of `rest`, which lies at `offset` of the table.
fn entry(rest: &[u8], offset: usize) -> Result<&[u8], DmarError> {
    let error = |fault| DmarError { offset, fault };
    let length = u8_at(rest, 1).ok_or(error(DmarFault::Truncated))?;
    if length < ENTRY_BYTES + 2 || !length.is_multiple_of(2) {
        return Err(error(DmarFault::ScopeLength(length)));
    }
    rest.get(..length.into()).ok_or(error(DmarFault::Truncated))
}

impl<'a> ScopeEntry<'a> {
    fn byte(self, offset: usize) -> u8 {
        u8_at(self.bytes, offset).unwrap_or(0)
    }

    /// What it names.
    pub fn kind(self) -> ScopeKind {
        ScopeKind::from_number(self.byte(0))
    }

    /// Flags, which mean something in a [`Sidp`](super::Sidp) only.
    pub fn flags(self) -> u8 {
        self.byte(2)
    }

    /// Of an I/O APIC its id, of a timer block its number, of a device of the name space its number; else reserved.
    pub fn enumeration_id(self) -> u8 {
        self.byte(4)
    }

    /// The number of the bus that the path begins on.
    pub fn start_bus(self) -> u8 {
        self.byte(5)
    }

    /// The path: device and function of a bridge on the first bus, of one on the bus behind it, and so on to the device.
    pub fn path(self) -> impl Iterator<Item = (u8, u8)> + Clone + 'a {
        self.bytes.get(ENTRY_BYTES.into()..).unwrap_or(&[]).chunks_exact(2).map(|pair| (pair[0], pair[1]))
    }

    /// The requester id where it is fixed: of what is on the first bus, and of what is no PCI function at all. None behind a bridge, where the bus
    /// number is the embedder's choice.
    pub fn fixed_requester_id(self) -> Option<u16> {
        let mut path = self.path();
        let (device, function) = path.next()?;
        let id = u16::from(self.start_bus()) << 8 | u16::from(device & 0x1f) << 3 | u16::from(function & 7);
        path.next().is_none().then_some(id)
    }
}

impl fmt::Debug for ScopeEntry<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:02x}", self.kind(), self.start_bus())?;
        self.path().try_for_each(|(device, function)| write!(f, "/{device:02x}.{function:x}"))
    }
}

impl fmt::Debug for Scope<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.entries()).finish()
    }
}
