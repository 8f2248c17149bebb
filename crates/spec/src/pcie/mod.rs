//! PCI Express: configuration space and what lies in it.
//!
//! Every function has 4096 bytes of configuration space: a header of 64 bytes ([`header`]), a list of capabilities in the
//! first 256 bytes ([`capability`], [`express`], [`msi`]), and a list of extended capabilities in the rest ([`extended`]:
//! ACS, ATS, PASID, page requests). Constants named after registers are offsets in bytes: from the start of configuration
//! space in [`header`], from the start of the capability elsewhere. All of it is little-endian.
//!
//! A function is addressed by its [`Bdf`]: bus, device, function. On the wire the same 16 bits are the requester id.
//!
//! Spec: PCIe 6.0, 7.5 "PCI and PCIe Capabilities Required by the Base Spec for all Ports"; 7.2.2 "PCI Express Enhanced
//! Configuration Access Mechanism (ECAM)".
//! Not here: access to any of it, enumeration (`pci`).

mod bdf;
pub mod capability;
pub mod express;
pub mod extended;
pub mod header;
mod host;
#[cfg(test)]
mod layout_tests;
pub mod msi;

pub use bdf::Bdf;
pub use host::{HostWindow, Space};

/// Bytes of configuration space that every function has and that old access mechanisms reach.
///
/// Spec: PCIe 6.0, 7.2.1 "PCI-compatible Configuration Mechanism".
pub const COMPATIBLE_SPACE_BYTES: u16 = 0x100;

/// Bytes of configuration space of a PCI Express function.
///
/// Spec: PCIe 6.0, 7.2 "PCI Express Configuration Mechanisms".
pub const CONFIG_SPACE_BYTES: u16 = 0x1000;

/// Bytes of memory that one bus takes in an ECAM: 256 functions of 4096 bytes.
///
/// Spec: PCIe 6.0, 7.2.2 "PCI Express Enhanced Configuration Access Mechanism (ECAM)".
pub const ECAM_BYTES_PER_BUS: u64 = 0x10_0000;

/// What a read finds where no function answers: all ones.
///
/// Spec: PCIe 6.0, 2.3.2 "Completion Handling Rules" (completions with UR status for configuration reads).
pub const ABSENT: u32 = 0xffff_ffff;

/// The vendor id that no vendor has: no function answers here.
///
/// Spec: PCIe 6.0, 7.5.1.1.1 "Vendor ID Register (Offset 00h)".
pub const VENDOR_ABSENT: u16 = 0xffff;
