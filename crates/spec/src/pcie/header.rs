//! The first 64 bytes of configuration space: type 0 for functions, type 1 for bridges.
//!
//! Spec: PCIe 6.0, 7.5.1 "PCI-Compatible Configuration Registers".

use bitfield_struct::bitfield;

/// Offset of the vendor id, 16 bits.
pub const VENDOR_ID: u16 = 0x00;
/// Offset of the device id, 16 bits.
pub const DEVICE_ID: u16 = 0x02;
/// Offset of [`Command`], 16 bits.
pub const COMMAND: u16 = 0x04;
/// Offset of [`Status`], 16 bits. Some bits are cleared by writing ones.
pub const STATUS: u16 = 0x06;
/// Offset of the revision id, 8 bits; with the three bytes after it, [`ClassRevision`].
pub const REVISION_ID: u16 = 0x08;
/// Offset of the cache line size, 8 bits.
pub const CACHE_LINE_SIZE: u16 = 0x0c;
/// Offset of the latency timer, 8 bits.
pub const LATENCY_TIMER: u16 = 0x0d;
/// Offset of [`HeaderType`], 8 bits.
pub const HEADER_TYPE: u16 = 0x0e;
/// Offset of the built-in self test register, 8 bits.
pub const BIST: u16 = 0x0f;
/// Offset of the first base address register, 32 bits. The next ones follow.
pub const BAR0: u16 = 0x10;
/// How many base address registers a type 0 header has.
pub const TYPE0_BAR_COUNT: u8 = 6;
/// How many base address registers a type 1 header has.
pub const TYPE1_BAR_COUNT: u8 = 2;
/// Offset of the pointer to the first capability, 8 bits, both types.
pub const CAPABILITIES_POINTER: u16 = 0x34;
/// Offset of the interrupt line, 8 bits: a note of software to itself.
pub const INTERRUPT_LINE: u16 = 0x3c;
/// Offset of the interrupt pin, 8 bits: 0 none, 1 to 4 INTA to INTD.
pub const INTERRUPT_PIN: u16 = 0x3d;

/// Offset of the subsystem vendor id, 16 bits, type 0.
pub const SUBSYSTEM_VENDOR_ID: u16 = 0x2c;
/// Offset of the subsystem id, 16 bits, type 0.
pub const SUBSYSTEM_ID: u16 = 0x2e;
/// Offset of the expansion ROM base address, 32 bits, type 0.
pub const TYPE0_EXPANSION_ROM: u16 = 0x30;

/// Offset of [`BusNumbers`], 32 bits, type 1.
pub const BUS_NUMBERS: u16 = 0x18;
/// Offset of the I/O base, 8 bits, type 1; the limit follows. Together [`IoWindow`].
pub const IO_BASE: u16 = 0x1c;
/// Offset of the I/O limit, 8 bits, type 1.
pub const IO_LIMIT: u16 = 0x1d;
/// Offset of the secondary status, 16 bits, type 1. Some bits are cleared by writing ones.
pub const SECONDARY_STATUS: u16 = 0x1e;
/// Offset of the memory base, 16 bits, type 1; the limit follows. Together [`MemoryWindow`].
pub const MEMORY_BASE: u16 = 0x20;
/// Offset of the memory limit, 16 bits, type 1.
pub const MEMORY_LIMIT: u16 = 0x22;
/// Offset of the prefetchable memory base, 16 bits, type 1; the limit follows. Together [`MemoryWindow`].
pub const PREFETCHABLE_BASE: u16 = 0x24;
/// Offset of the prefetchable memory limit, 16 bits, type 1.
pub const PREFETCHABLE_LIMIT: u16 = 0x26;
/// Offset of bits 63:32 of the prefetchable base, 32 bits, type 1.
pub const PREFETCHABLE_BASE_UPPER: u16 = 0x28;
/// Offset of bits 63:32 of the prefetchable limit, 32 bits, type 1.
pub const PREFETCHABLE_LIMIT_UPPER: u16 = 0x2c;
/// Offset of bits 31:16 of the I/O base, 16 bits, type 1.
pub const IO_BASE_UPPER: u16 = 0x30;
/// Offset of bits 31:16 of the I/O limit, 16 bits, type 1.
pub const IO_LIMIT_UPPER: u16 = 0x32;
/// Offset of the expansion ROM base address, 32 bits, type 1.
pub const TYPE1_EXPANSION_ROM: u16 = 0x38;
/// Offset of [`BridgeControl`], 16 bits, type 1.
pub const BRIDGE_CONTROL: u16 = 0x3e;

/// What a function may do and answers to.
///
/// Spec: PCIe 6.0, 7.5.1.1.3 "Command Register (Offset 04h)".
#[bitfield(u16)]
#[derive(PartialEq, Eq)]
pub struct Command {
    /// Bit 0: answers I/O requests.
    pub io_space: bool,
    /// Bit 1: answers memory requests.
    pub memory_space: bool,
    /// Bit 2: may send requests, message-signalled interrupts among them; a bridge passes requests upstream.
    pub bus_master: bool,
    /// Bit 3: hardwired to 0.
    pub special_cycle: bool,
    /// Bit 4: hardwired to 0.
    pub memory_write_and_invalidate: bool,
    /// Bit 5: hardwired to 0.
    pub vga_palette_snoop: bool,
    /// Bit 6: reports poisoned requests.
    pub parity_error_response: bool,
    /// Bit 7: hardwired to 0.
    pub idsel_stepping: bool,
    /// Bit 8: reports non-fatal and fatal errors.
    pub serr_enable: bool,
    /// Bit 9: hardwired to 0.
    pub fast_back_to_back: bool,
    /// Bit 10: no INTx.
    pub interrupt_disable: bool,
    #[bits(5)]
    __: u8,
}

/// What happened to a function, and what it can do.
///
/// Spec: PCIe 6.0, 7.5.1.1.4 "Status Register (Offset 06h)".
#[bitfield(u16)]
#[derive(PartialEq, Eq)]
pub struct Status {
    /// Bit 0: ready at once after reset.
    pub immediate_readiness: bool,
    #[bits(2)]
    __: u8,
    /// Bit 3: an INTx is pending.
    pub interrupt: bool,
    /// Bit 4: there is a list of capabilities.
    pub capabilities_list: bool,
    /// Bit 5: hardwired to 0.
    pub capable_66_mhz: bool,
    __: bool,
    /// Bit 7: hardwired to 0.
    pub fast_back_to_back: bool,
    /// Bit 8: saw a poisoned completion or sent a poisoned request; cleared by writing 1.
    pub master_data_parity_error: bool,
    /// Bits 10:9: hardwired to 0.
    #[bits(2)]
    pub devsel_timing: u8,
    /// Bit 11: completed a request with an abort; cleared by writing 1.
    pub signaled_target_abort: bool,
    /// Bit 12: a request of its own was aborted; cleared by writing 1.
    pub received_target_abort: bool,
    /// Bit 13: a request of its own was answered as unsupported; cleared by writing 1.
    pub received_master_abort: bool,
    /// Bit 14: sent an error message; cleared by writing 1.
    pub signaled_system_error: bool,
    /// Bit 15: received a poisoned request; cleared by writing 1.
    pub detected_parity_error: bool,
}

/// What kind of function it is, and its revision.
///
/// Spec: PCIe 6.0, 7.5.1.1.5 "Revision ID Register (Offset 08h)", 7.5.1.1.6 "Class Code Register (Offset 09h)".
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct ClassRevision {
    /// Bits 7:0: the vendor's number for the revision.
    pub revision: u8,
    /// Bits 15:8: the programming interface.
    pub interface: u8,
    /// Bits 23:16: the subclass.
    pub subclass: u8,
    /// Bits 31:24: the base class.
    pub base_class: u8,
}

/// Base class, subclass and programming interface of an NVMe I/O controller.
///
/// Spec: PCI Code and ID Assignment 1.11, 1.2 "Base Class 01h" (Non-volatile memory subsystem, NVM Express).
pub const CLASS_NVME: [u8; 3] = [0x01, 0x08, 0x02];
/// Base class and subclass of a PCI-to-PCI bridge, root ports and switch ports included.
///
/// Spec: PCI Code and ID Assignment 1.11, 1.7 "Base Class 06h".
pub const CLASS_PCI_BRIDGE: [u8; 2] = [0x06, 0x04];
/// Base class and subclass of a host bridge.
///
/// Spec: PCI Code and ID Assignment 1.11, 1.7 "Base Class 06h".
pub const CLASS_HOST_BRIDGE: [u8; 2] = [0x06, 0x00];

/// Which layout the header has.
///
/// Spec: PCIe 6.0, 7.5.1.1.9 "Header Type Register (Offset 0Eh)".
#[bitfield(u8)]
#[derive(PartialEq, Eq)]
pub struct HeaderType {
    /// Bits 6:0: [`LAYOUT_FUNCTION`](Self::LAYOUT_FUNCTION) or [`LAYOUT_BRIDGE`](Self::LAYOUT_BRIDGE).
    #[bits(7)]
    pub layout: u8,
    /// Bit 7: there may be functions other than 0 in this device.
    pub multi_function: bool,
}

impl HeaderType {
    /// A type 0 header: an endpoint.
    pub const LAYOUT_FUNCTION: u8 = 0;
    /// A type 1 header: a bridge, root ports and switch ports included.
    pub const LAYOUT_BRIDGE: u8 = 1;
}

/// A base address register.
///
/// Spec: PCIe 6.0, 7.5.1.2.1 "Base Address Registers (Offset 10h - 24h)".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bar(pub u32);

impl Bar {
    /// Bit 0: I/O space, not memory.
    pub const IO: u32 = 1 << 0;
    /// Bits 2:1 of a memory register: how wide.
    pub const TYPE: u32 = 0b11 << 1;
    /// [`TYPE`](Self::TYPE) of a register of 32 bits.
    pub const TYPE_32: u32 = 0b00 << 1;
    /// [`TYPE`](Self::TYPE) of a register whose bits 63:32 are in the next register.
    pub const TYPE_64: u32 = 0b10 << 1;
    /// Bit 3 of a memory register: reads have no side effects.
    pub const PREFETCHABLE: u32 = 1 << 3;
    /// Address bits of a memory register.
    pub const MEMORY_ADDRESS: u32 = !0xf;
    /// Address bits of an I/O register.
    pub const IO_ADDRESS: u32 = !0x3;
}

/// Which buses are on and behind a bridge.
///
/// Spec: PCIe 6.0, 7.5.1.3.2 "Primary Bus Number Register (Offset 18h)" and the two after it.
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct BusNumbers {
    /// Bits 7:0: the bus above.
    pub primary: u8,
    /// Bits 15:8: the bus right below.
    pub secondary: u8,
    /// Bits 23:16: the highest bus below.
    pub subordinate: u8,
    /// Bits 31:24: hardwired to 0 in PCI Express.
    pub latency_timer: u8,
}

/// I/O base and limit of a bridge: addresses that it passes down, in units of 4 KiB.
///
/// Open if limit is not below base.
///
/// Spec: PCIe 6.0, 7.5.1.3.6 "I/O Base/I/O Limit Registers (Offset 1Ch/1Dh)".
#[bitfield(u16)]
#[derive(PartialEq, Eq)]
pub struct IoWindow {
    /// Bits 3:0: 0 for 16-bit addresses, 1 for 32-bit ones; read-only.
    #[bits(4)]
    pub base_width: u8,
    /// Bits 7:4: bits 15:12 of the first address.
    #[bits(4)]
    pub base: u8,
    /// Bits 11:8: as `base_width`; read-only.
    #[bits(4)]
    pub limit_width: u8,
    /// Bits 15:12: bits 15:12 of the last address, whose bits 11:0 are ones.
    #[bits(4)]
    pub limit: u8,
}

/// Memory base and limit of a bridge, prefetchable or not: addresses that it passes down, in units of 1 MiB.
///
/// Open if limit is not below base.
///
/// Spec: PCIe 6.0, 7.5.1.3.8 "Memory Base Register/Memory Limit Register (Offset 20h/22h)", 7.5.1.3.9 (prefetchable memory base
/// and limit, which 6.3 calls "64-bit").
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct MemoryWindow {
    /// Bits 3:0: read-only; of the prefetchable window, 0 for 32-bit addresses, 1 for 64-bit ones.
    #[bits(4)]
    pub base_width: u8,
    /// Bits 15:4: bits 31:20 of the first address.
    #[bits(12)]
    pub base: u16,
    /// Bits 19:16: as `base_width`.
    #[bits(4)]
    pub limit_width: u8,
    /// Bits 31:20: bits 31:20 of the last address, whose bits 19:0 are ones.
    #[bits(12)]
    pub limit: u16,
}

impl MemoryWindow {
    /// [`base_width`](Self::base_width) of a prefetchable window with 64-bit addresses.
    pub const WIDTH_64: u8 = 1;
    /// Addresses are multiples of this many bytes.
    pub const UNIT_BYTES: u64 = 0x10_0000;
}

impl IoWindow {
    /// [`base_width`](Self::base_width) of a window with 32-bit addresses.
    pub const WIDTH_32: u8 = 1;
    /// Addresses are multiples of this many bytes.
    pub const UNIT_BYTES: u64 = 0x1000;
}

/// How a bridge treats what is below it.
///
/// Spec: PCIe 6.0, 7.5.1.3.13 "Bridge Control Register (Offset 3Eh)".
#[bitfield(u16)]
#[derive(PartialEq, Eq)]
pub struct BridgeControl {
    /// Bit 0: reports poisoned requests on the secondary side.
    pub parity_error_response: bool,
    /// Bit 1: passes error messages up.
    pub serr_enable: bool,
    /// Bit 2: passes only some I/O addresses down.
    pub isa_enable: bool,
    /// Bit 3: passes VGA addresses down.
    pub vga_enable: bool,
    /// Bit 4: decodes VGA I/O addresses in full.
    pub vga_16_bit_decode: bool,
    /// Bit 5: hardwired to 0 in PCI Express.
    pub master_abort_mode: bool,
    /// Bit 6: holds everything below in reset.
    pub secondary_bus_reset: bool,
    /// Bit 7: hardwired to 0 in PCI Express.
    pub fast_back_to_back: bool,
    #[bits(8)]
    __: u8,
}
