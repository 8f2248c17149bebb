//! Lists of capabilities.
//!
//! Spec: PCIe 6.0, 7.5.1.1.11 "Capabilities Pointer (Offset 34h)"; 7.6.3 "PCI Express Extended Capability Header".

use bitfield_struct::bitfield;

/// The lowest offset at which a capability can lie.
pub const FIRST_OFFSET: u16 = 0x40;
/// The offset of the first extended capability.
pub const FIRST_EXTENDED_OFFSET: u16 = 0x100;

/// The first two bytes of a capability.
///
/// Spec: PCIe 6.0, 7.5.1.1.11 "Capabilities Pointer (Offset 34h)".
#[bitfield(u16)]
#[derive(PartialEq, Eq)]
pub struct Header {
    /// Bits 7:0: which capability.
    #[bits(8)]
    pub id: Id,
    /// Bits 15:8: the offset of the next one; 0 ends the list; bits 1:0 are to be masked.
    pub next: u8,
}

/// Which capability. Unknown numbers keep their value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Id(pub u8);

impl Id {
    /// Null capability: only a header.
    pub const NULL: Self = Self(0x00);
    /// Power management.
    pub const POWER_MANAGEMENT: Self = Self(0x01);
    /// Message-signalled interrupts.
    pub const MSI: Self = Self(0x05);
    /// Vendor specific.
    pub const VENDOR: Self = Self(0x09);
    /// PCI Express.
    pub const EXPRESS: Self = Self(0x10);
    /// Message-signalled interrupts, extended.
    pub const MSI_X: Self = Self(0x11);

    const fn from_bits(bits: u8) -> Self {
        Self(bits)
    }

    const fn into_bits(self) -> u8 {
        self.0
    }
}

/// The first four bytes of an extended capability.
///
/// Spec: PCIe 6.0, 7.6.3 "PCI Express Extended Capability Header".
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct ExtendedHeader {
    /// Bits 15:0: which capability.
    #[bits(16)]
    pub id: ExtendedId,
    /// Bits 19:16: the version of its layout.
    #[bits(4)]
    pub version: u8,
    /// Bits 31:20: the offset of the next one; 0 ends the list; bits 1:0 are to be masked.
    #[bits(12)]
    pub next: u16,
}

/// Which extended capability. Unknown numbers keep their value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ExtendedId(pub u16);

impl ExtendedId {
    /// Null capability: only a header. With a whole header of zeroes, there are no extended capabilities.
    pub const NULL: Self = Self(0x0000);
    /// Advanced error reporting.
    pub const ADVANCED_ERROR_REPORTING: Self = Self(0x0001);
    /// Device serial number.
    pub const SERIAL_NUMBER: Self = Self(0x0003);
    /// Access control services.
    pub const ACS: Self = Self(0x000d);
    /// Alternative routing-id interpretation.
    pub const ARI: Self = Self(0x000e);
    /// Address translation services.
    pub const ATS: Self = Self(0x000f);
    /// Single-root I/O virtualization.
    pub const SR_IOV: Self = Self(0x0010);
    /// Page request interface.
    pub const PRI: Self = Self(0x0013);
    /// Process address space ids.
    pub const PASID: Self = Self(0x001b);

    const fn from_bits(bits: u16) -> Self {
        Self(bits)
    }

    const fn into_bits(self) -> u16 {
        self.0
    }
}
