//! Interrupt remapping: table entries, and the requests that are looked up in them.
//!
//! Spec: VT-d 5.10, 9.9 "Interrupt Remapping Table Entry (IRTE) for Remapped Interrupts", 9.10 "… for Posted Interrupts", 5.1.2.2 "Interrupt Requests in
//! Remappable Format", 11.4.10 "Interrupt Remapping Table Address Register".

use bitfield_struct::bitfield;

/// Bytes of an entry.
pub const IRTE_BYTES: u64 = 16;

/// IRTA_REG.
///
/// Spec: VT-d 5.10, 11.4.10 "Interrupt Remapping Table Address Register".
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct InterruptTableAddress {
    /// S: the table has `1 << (s + 1)` entries.
    #[bits(4)]
    pub s: u8,
    #[bits(7)]
    __: u8,
    /// EIME: destinations have 32 bits.
    pub eime: bool,
    /// IRTA: bits 63:12 of the table's address.
    #[bits(52)]
    pub irta: u64,
}
page_pointer!(InterruptTableAddress, irta, with_irta => irta_address, with_irta_address);

/// DLM: to all that the destination names.
///
/// Spec: VT-d 5.10, 9.9 "Interrupt Remapping Table Entry (IRTE) for Remapped Interrupts", DLM.
pub const DELIVERY_FIXED: u8 = 0b000;
/// DLM: to one of those that the destination names.
pub const DELIVERY_LOWEST_PRIORITY: u8 = 0b001;
/// DLM: a system management interrupt.
pub const DELIVERY_SMI: u8 = 0b010;
/// DLM: a non-maskable interrupt.
pub const DELIVERY_NMI: u8 = 0b100;
/// DLM: INIT.
pub const DELIVERY_INIT: u8 = 0b101;
/// DLM: as from an 8259A.
pub const DELIVERY_EXTINT: u8 = 0b111;

/// IRTE of a remapped interrupt, bits 63:0.
///
/// Spec: VT-d 5.10, 9.9 "Interrupt Remapping Table Entry (IRTE) for Remapped Interrupts".
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct IrteWord0 {
    /// P: present.
    pub p: bool,
    /// FPD: faults are not recorded; counts also where the entry is not present.
    pub fpd: bool,
    /// DM: the destination is logical.
    pub dm: bool,
    /// RH: to one of those that the destination names.
    pub rh: bool,
    /// TM: level-triggered.
    pub tm: bool,
    /// DLM: [`DELIVERY_FIXED`] and its kin.
    #[bits(3)]
    pub dlm: u8,
    /// AVAIL: software's.
    #[bits(4)]
    pub avail: u8,
    #[bits(3)]
    __: u8,
    /// IM: posted; then the entry is a [`PostedIrteWord0`].
    pub im: bool,
    /// V: the vector.
    pub vector: u8,
    __: u8,
    /// DST: the APIC-ID; bits 15:8 of it where IRTA_REG.EIME is clear.
    pub destination: u32,
}

/// SVT: anybody may use the entry.
///
/// Spec: VT-d 5.10, 9.9 "Interrupt Remapping Table Entry (IRTE) for Remapped Interrupts", SVT.
pub const SVT_NONE: u8 = 0b00;
/// SVT: the requester that SID and SQ say.
pub const SVT_REQUESTER: u8 = 0b01;
/// SVT: requesters on buses from the upper to the lower half of SID.
pub const SVT_BUSES: u8 = 0b10;

/// SQ: all of SID counts.
///
/// Spec: VT-d 5.10, 9.9 "Interrupt Remapping Table Entry (IRTE) for Remapped Interrupts", SQ.
pub const SQ_ALL: u8 = 0b00;
/// SQ: all but bit 2.
pub const SQ_NOT_BIT_2: u8 = 0b01;
/// SQ: all but bits 2:1.
pub const SQ_NOT_BITS_2_1: u8 = 0b10;
/// SQ: all but bits 2:0.
pub const SQ_NOT_BITS_2_0: u8 = 0b11;

/// IRTE of a remapped interrupt, bits 127:64; of a posted one, bits 95:64.
///
/// Spec: VT-d 5.10, 9.9 "Interrupt Remapping Table Entry (IRTE) for Remapped Interrupts".
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct IrteWord1 {
    /// SID: who may use the entry.
    pub sid: u16,
    /// [`SQ_ALL`] and its kin.
    #[bits(2)]
    pub sq: u8,
    /// [`SVT_NONE`] and its kin.
    #[bits(2)]
    pub svt: u8,
    #[bits(12)]
    __: u16,
    /// PDAH, of a posted interrupt: bits 63:32 of the descriptor's address. Reserved in a remapped one.
    pub pdah: u32,
}

/// IRTE of a posted interrupt, bits 63:0.
///
/// Spec: VT-d 5.10, 9.10 "Interrupt Remapping Table Entry (IRTE) for Posted Interrupts".
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct PostedIrteWord0 {
    /// P: present.
    pub p: bool,
    /// FPD: faults are not recorded; counts also where the entry is not present.
    pub fpd: bool,
    #[bits(6)]
    __: u8,
    /// AVAIL: software's.
    #[bits(4)]
    pub avail: u8,
    #[bits(2)]
    __: u8,
    /// URG: urgent.
    pub urg: bool,
    /// IM: posted.
    pub im: bool,
    /// VV: the virtual vector.
    pub vector: u8,
    #[bits(14)]
    __: u16,
    /// PDAL: bits 31:6 of the descriptor's address.
    #[bits(26)]
    pub pdal: u32,
}

/// The address that a remappable interrupt request is written to.
///
/// Spec: VT-d 5.10, 5.1.2.2 "Interrupt Requests in Remappable Format", Table 13.
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct RemappableAddress {
    #[bits(2)]
    __: u8,
    /// Handle\[15\].
    pub handle_15: bool,
    /// SHV: the data is added to the handle.
    pub shv: bool,
    /// Interrupt Format: 1.
    #[bits(default = true)]
    pub format: bool,
    /// Handle\[14:0\].
    #[bits(15)]
    pub handle_14_0: u16,
    /// Interrupt Identifier: 0xfee.
    #[bits(12, default = 0xfee)]
    pub identifier: u16,
}

impl RemappableAddress {
    /// With Handle.
    pub const fn with_handle(self, handle: u16) -> Self {
        self.with_handle_15(handle >> 15 != 0).with_handle_14_0(handle & 0x7fff)
    }

    /// Handle.
    pub const fn handle(self) -> u16 {
        (self.handle_15() as u16) << 15 | self.handle_14_0()
    }
}
