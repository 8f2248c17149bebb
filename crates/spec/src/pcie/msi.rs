//! Message-signalled interrupts: the MSI and MSI-X capabilities, and the table of MSI-X.
//!
//! Spec: PCIe 6.0, 7.7.1 "MSI Capability Structures", 7.7.2 "MSI-X Capability and Table Structure"; 6.1.4 "Message Signaled
//! Interrupt (MSI/MSI-X) Support".

use bitfield_struct::bitfield;

/// Offset of [`MsiControl`] or [`MsixControl`], 16 bits, in either capability.
pub const CONTROL: u16 = 0x02;

/// MSI: offset of bits 31:2 of the message's address, 32 bits.
pub const MSI_ADDRESS: u16 = 0x04;
/// MSI with 64-bit addresses: offset of bits 63:32 of the message's address, 32 bits.
pub const MSI_ADDRESS_UPPER: u16 = 0x08;
/// MSI with 32-bit addresses: offset of the message's data, 16 bits.
pub const MSI_DATA_32: u16 = 0x08;
/// MSI with 64-bit addresses: offset of the message's data, 16 bits.
pub const MSI_DATA_64: u16 = 0x0c;
/// MSI with 32-bit addresses and masking: offset of the mask bits, 32 bits.
pub const MSI_MASK_32: u16 = 0x0c;
/// MSI with 64-bit addresses and masking: offset of the mask bits, 32 bits.
pub const MSI_MASK_64: u16 = 0x10;

/// MSI-X: offset of where the table is, a [`MsixLocation`].
pub const MSIX_TABLE: u16 = 0x04;
/// MSI-X: offset of where the pending bits are, a [`MsixLocation`].
pub const MSIX_PENDING: u16 = 0x08;

/// How MSI is used.
///
/// Spec: PCIe 6.0, 7.7.1.2 "Message Control Register for MSI (Offset 02h)".
#[bitfield(u16)]
#[derive(PartialEq, Eq)]
pub struct MsiControl {
    /// Bit 0: on; INTx is then off.
    pub enable: bool,
    /// Bits 3:1: wants `1 << this` messages, 0 to 5.
    #[bits(3)]
    pub multiple_message_capable: u8,
    /// Bits 6:4: has been given `1 << this` messages, 0 to 5.
    #[bits(3)]
    pub multiple_message_enable: u8,
    /// Bit 7: addresses have 64 bits.
    pub address_64: bool,
    /// Bit 8: each message can be masked.
    pub per_vector_masking: bool,
    /// Bit 9: data can have 32 bits.
    pub extended_data_capable: bool,
    /// Bit 10: data has 32 bits.
    pub extended_data_enable: bool,
    #[bits(5)]
    __: u8,
}

/// How MSI-X is used.
///
/// Spec: PCIe 6.0, 7.7.2.2 "Message Control Register for MSI-X (Offset 02h)".
#[bitfield(u16)]
#[derive(PartialEq, Eq)]
pub struct MsixControl {
    /// Bits 10:0: the table has this many entries and one.
    #[bits(11)]
    pub table_size_minus_1: u16,
    #[bits(3)]
    __: u8,
    /// Bit 14: every vector is masked, whatever its own mask bit says.
    pub function_mask: bool,
    /// Bit 15: on; INTx is then off.
    pub enable: bool,
}

/// Where a structure of MSI-X lies.
///
/// Spec: PCIe 6.0, 7.7.2.3 "Table Offset/Table BIR Register for MSI-X (Offset 04h)", 7.7.2.4 "PBA Offset/PBA BIR Register for
/// MSI-X (Offset 08h)".
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct MsixLocation {
    /// Bits 2:0: in which base address register's memory, 0 to 5.
    #[bits(3)]
    pub bar: u8,
    /// Bits 31:3: at which offset, in units of 8 bytes.
    #[bits(29)]
    pub offset_qwords: u32,
}

/// Bytes of an entry of the MSI-X table.
pub const MSIX_ENTRY_BYTES: u64 = 16;
/// In a table entry: offset of bits 31:2 of the message's address, 32 bits.
///
/// Spec: PCIe 6.0, 7.7.2.5 "Message Address Register for MSI-X Table Entries".
pub const MSIX_ENTRY_ADDRESS: u64 = 0;
/// In a table entry: offset of bits 63:32 of the message's address, 32 bits.
///
/// Spec: PCIe 6.0, 7.7.2.6 "Message Upper Address Register for MSI-X Table Entries".
pub const MSIX_ENTRY_ADDRESS_UPPER: u64 = 4;
/// In a table entry: offset of the message's data, 32 bits.
///
/// Spec: PCIe 6.0, 7.7.2.7 "Message Data Register for MSI-X Table Entries".
pub const MSIX_ENTRY_DATA: u64 = 8;
/// In a table entry: offset of [`MsixVectorControl`], 32 bits.
pub const MSIX_ENTRY_CONTROL: u64 = 12;

/// How one vector of MSI-X is used.
///
/// Spec: PCIe 6.0, 7.7.2.8 "Vector Control Register for MSI-X Table Entries".
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct MsixVectorControl {
    /// Bit 0: the function sends no message for this vector; set after reset.
    pub masked: bool,
    #[bits(31)]
    __: u32,
}
