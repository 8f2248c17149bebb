//! The PCI Express capability.
//!
//! Spec: PCIe 6.0, 7.5.3 "PCI Express Capability Structure".

use bitfield_struct::bitfield;

/// Offset of [`Capabilities`], 16 bits.
pub const CAPABILITIES: u16 = 0x02;
/// Offset of [`DeviceCapabilities`], 32 bits.
pub const DEVICE_CAPABILITIES: u16 = 0x04;
/// Offset of [`DeviceControl`], 16 bits. The status after it has bits that are cleared by writing ones.
pub const DEVICE_CONTROL: u16 = 0x08;
/// Offset of [`DeviceStatus`], 16 bits.
pub const DEVICE_STATUS: u16 = 0x0a;
/// Offset of [`LinkCapabilities`], 32 bits. Not in endpoints of the root complex.
pub const LINK_CAPABILITIES: u16 = 0x0c;
/// Offset of [`LinkStatus`], 16 bits. It has bits that are cleared by writing ones.
pub const LINK_STATUS: u16 = 0x12;
/// Offset of [`DeviceCapabilities2`], 32 bits, version 2 and later.
pub const DEVICE_CAPABILITIES_2: u16 = 0x24;
/// Offset of [`DeviceControl2`], 16 bits, version 2 and later.
pub const DEVICE_CONTROL_2: u16 = 0x28;

/// What kind of port or endpoint a function is.
///
/// Spec: PCIe 6.0, 7.5.3.2 "PCI Express Capabilities Register (Offset 02h)".
#[bitfield(u16)]
#[derive(PartialEq, Eq)]
pub struct Capabilities {
    /// Bits 3:0: the version of the capability, 1 or 2.
    #[bits(4)]
    pub version: u8,
    /// Bits 7:4: the kind.
    #[bits(4)]
    pub port_type: PortType,
    /// Bit 8: the link goes to a slot.
    pub slot_implemented: bool,
    /// Bits 13:9: which of its messages the capability's own interrupts use.
    #[bits(5)]
    pub interrupt_message: u8,
    #[bits(2)]
    __: u8,
}

/// What kind of port or endpoint a function is. Unknown numbers keep their value.
///
/// Spec: PCIe 6.0, 7.5.3.2 "PCI Express Capabilities Register (Offset 02h)", Device/Port Type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PortType(pub u8);

impl PortType {
    /// An endpoint.
    pub const ENDPOINT: Self = Self(0b0000);
    /// A legacy endpoint.
    pub const LEGACY_ENDPOINT: Self = Self(0b0001);
    /// A root port.
    pub const ROOT_PORT: Self = Self(0b0100);
    /// The upstream port of a switch.
    pub const UPSTREAM_PORT: Self = Self(0b0101);
    /// A downstream port of a switch.
    pub const DOWNSTREAM_PORT: Self = Self(0b0110);
    /// A bridge from PCI Express down to conventional PCI.
    pub const EXPRESS_TO_PCI_BRIDGE: Self = Self(0b0111);
    /// A bridge from conventional PCI down to PCI Express.
    pub const PCI_TO_EXPRESS_BRIDGE: Self = Self(0b1000);
    /// An endpoint inside the root complex.
    pub const ROOT_COMPLEX_ENDPOINT: Self = Self(0b1001);
    /// An event collector inside the root complex.
    pub const ROOT_COMPLEX_EVENT_COLLECTOR: Self = Self(0b1010);

    const fn from_bits(bits: u8) -> Self {
        Self(bits)
    }

    const fn into_bits(self) -> u8 {
        self.0
    }
}

/// What a function can do.
///
/// Spec: PCIe 6.0, 7.5.3.3 "Device Capabilities Register (Offset 04h)".
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct DeviceCapabilities {
    /// Bits 2:0: the largest payload is `128 << this` bytes.
    #[bits(3)]
    pub max_payload: u8,
    /// Bits 4:3: how many function number bits are used to tell transactions apart.
    #[bits(2)]
    pub phantom_functions: u8,
    /// Bit 5: 8-bit tags.
    pub extended_tag: bool,
    /// Bits 8:6: how late it may leave L0s.
    #[bits(3)]
    pub l0s_latency: u8,
    /// Bits 11:9: how late it may leave L1.
    #[bits(3)]
    pub l1_latency: u8,
    #[bits(3)]
    __: u8,
    /// Bit 15: reports errors by role.
    pub role_based_error_reporting: bool,
    #[bits(12)]
    __: u16,
    /// Bit 28: can be reset alone.
    pub function_level_reset: bool,
    #[bits(3)]
    __: u8,
}

/// How a function behaves on the link.
///
/// Spec: PCIe 6.0, 7.5.3.4 "Device Control Register (Offset 08h)".
#[bitfield(u16)]
#[derive(PartialEq, Eq)]
pub struct DeviceControl {
    /// Bit 0: reports correctable errors.
    pub correctable_errors: bool,
    /// Bit 1: reports non-fatal errors.
    pub non_fatal_errors: bool,
    /// Bit 2: reports fatal errors.
    pub fatal_errors: bool,
    /// Bit 3: reports unsupported requests.
    pub unsupported_requests: bool,
    /// Bit 4: may set the relaxed ordering attribute.
    pub relaxed_ordering: bool,
    /// Bits 7:5: sends payloads of up to `128 << this` bytes.
    #[bits(3)]
    pub max_payload: u8,
    /// Bit 8: may use 8-bit tags.
    pub extended_tag: bool,
    /// Bit 9: may use unclaimed function numbers.
    pub phantom_functions: bool,
    /// Bit 10: may draw auxiliary power.
    pub aux_power: bool,
    /// Bit 11: may set the no snoop attribute.
    pub no_snoop: bool,
    /// Bits 14:12: sends read requests of up to `128 << this` bytes.
    #[bits(3)]
    pub max_read_request: u8,
    /// Bit 15: endpoints: resets the function; reads as 0.
    pub initiate_reset: bool,
}

/// What happened to a function on the link.
///
/// Spec: PCIe 6.0, 7.5.3.5 "Device Status Register (Offset 0Ah)".
#[bitfield(u16)]
#[derive(PartialEq, Eq)]
pub struct DeviceStatus {
    /// Bit 0: saw a correctable error; cleared by writing 1.
    pub correctable_error: bool,
    /// Bit 1: saw a non-fatal error; cleared by writing 1.
    pub non_fatal_error: bool,
    /// Bit 2: saw a fatal error; cleared by writing 1.
    pub fatal_error: bool,
    /// Bit 3: saw an unsupported request; cleared by writing 1.
    pub unsupported_request: bool,
    /// Bit 4: draws auxiliary power.
    pub aux_power: bool,
    /// Bit 5: requests of its own have not been answered.
    pub transactions_pending: bool,
    #[bits(10)]
    __: u16,
}

/// What a link can do, as far as it is used here.
///
/// Spec: PCIe 6.0, 7.5.3.6 "Link Capabilities Register (Offset 0Ch)".
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct LinkCapabilities {
    /// Bits 3:0: the highest speed, 1 for 2.5 GT/s, 2 for 5 GT/s, and on.
    #[bits(4)]
    pub max_speed: u8,
    #[bits(16)]
    __: u16,
    /// Bit 20: the port says whether the link is up.
    pub reports_link_active: bool,
    #[bits(11)]
    __: u16,
}

/// How a link is, as far as it is used here.
///
/// Spec: PCIe 6.0, 7.5.3.8 "Link Status Register (Offset 12h)".
#[bitfield(u16)]
#[derive(PartialEq, Eq)]
pub struct LinkStatus {
    #[bits(13)]
    __: u16,
    /// Bit 13: the link is up.
    pub link_active: bool,
    #[bits(2)]
    __: u8,
}

/// What a function can do, continued.
///
/// Spec: PCIe 6.0, 7.5.3.15 "Device Capabilities 2 Register (Offset 24h)".
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct DeviceCapabilities2 {
    #[bits(5)]
    __: u8,
    /// Bit 5: a downstream port can pass requests to 256 functions of one device.
    pub ari_forwarding: bool,
    #[bits(15)]
    __: u16,
    /// Bit 21: passes end-to-end prefixes, PASIDs among them.
    pub end_to_end_prefixes: bool,
    #[bits(10)]
    __: u16,
}

/// How a function behaves, continued.
///
/// Spec: PCIe 6.0, 7.5.3.16 "Device Control 2 Register (Offset 28h)".
#[bitfield(u16)]
#[derive(PartialEq, Eq)]
pub struct DeviceControl2 {
    #[bits(5)]
    __: u8,
    /// Bit 5: passes requests to any device number on to the device below.
    pub ari_forwarding: bool,
    #[bits(9)]
    __: u16,
    /// Bit 15: a port passes nothing on that carries end-to-end prefixes.
    pub end_to_end_prefix_blocking: bool,
}
