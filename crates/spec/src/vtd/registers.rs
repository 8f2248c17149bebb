//! Registers: where they are, and the fields of those that command a unit.
//!
//! Offsets are in bytes from the unit's base. Registers of 64 bits may be accessed as two of 32.
//!
//! Spec: VT-d 5.10, 11.4 "Register Descriptions".
//! Not here: capability registers ([`capability`](super::capability)), queues ([`queue`](super::queue)), faults ([`fault`](super::fault)).

use bitfield_struct::bitfield;

/// Offset of VER_REG.
pub const VER: usize = 0x000;
/// Offset of CAP_REG, 64 bits wide.
pub const CAP: usize = 0x008;
/// Offset of ECAP_REG, 64 bits wide.
pub const ECAP: usize = 0x010;
/// Offset of GCMD_REG.
pub const GCMD: usize = 0x018;
/// Offset of GSTS_REG.
pub const GSTS: usize = 0x01c;
/// Offset of RTADDR_REG, 64 bits wide.
pub const RTADDR: usize = 0x020;
/// Offset of CCMD_REG, 64 bits wide.
pub const CCMD: usize = 0x028;
/// Offset of FSTS_REG.
pub const FSTS: usize = 0x034;
/// Offset of FECTL_REG.
pub const FECTL: usize = 0x038;
/// Offset of FEDATA_REG.
pub const FEDATA: usize = 0x03c;
/// Offset of FEADDR_REG.
pub const FEADDR: usize = 0x040;
/// Offset of FEUADDR_REG.
pub const FEUADDR: usize = 0x044;
/// Offset of PMEN_REG.
pub const PMEN: usize = 0x064;
/// Offset of PLMBASE_REG.
pub const PLMBASE: usize = 0x068;
/// Offset of PLMLIMIT_REG.
pub const PLMLIMIT: usize = 0x06c;
/// Offset of PHMBASE_REG, 64 bits wide.
pub const PHMBASE: usize = 0x070;
/// Offset of PHMLIMIT_REG, 64 bits wide.
pub const PHMLIMIT: usize = 0x078;
/// Offset of IQH_REG, 64 bits wide.
pub const IQH: usize = 0x080;
/// Offset of IQT_REG, 64 bits wide.
pub const IQT: usize = 0x088;
/// Offset of IQA_REG, 64 bits wide.
pub const IQA: usize = 0x090;
/// Offset of ICS_REG.
pub const ICS: usize = 0x09c;
/// Offset of IECTL_REG.
pub const IECTL: usize = 0x0a0;
/// Offset of IEDATA_REG.
pub const IEDATA: usize = 0x0a4;
/// Offset of IEADDR_REG.
pub const IEADDR: usize = 0x0a8;
/// Offset of IEUADDR_REG.
pub const IEUADDR: usize = 0x0ac;
/// Offset of IQERCD_REG, 64 bits wide.
pub const IQERCD: usize = 0x0b0;
/// Offset of IRTA_REG, 64 bits wide.
pub const IRTA: usize = 0x0b8;
/// Offset of PQH_REG, 64 bits wide.
pub const PQH: usize = 0x0c0;
/// Offset of PQT_REG, 64 bits wide.
pub const PQT: usize = 0x0c8;
/// Offset of PQA_REG, 64 bits wide.
pub const PQA: usize = 0x0d0;
/// Offset of PRS_REG.
pub const PRS: usize = 0x0dc;
/// Offset of PECTL_REG.
pub const PECTL: usize = 0x0e0;
/// Offset of PEDATA_REG.
pub const PEDATA: usize = 0x0e4;
/// Offset of PEADDR_REG.
pub const PEADDR: usize = 0x0e8;
/// Offset of PEUADDR_REG.
pub const PEUADDR: usize = 0x0ec;

/// Offset of IVA_REG from where ECAP_REG.IRO says, 64 bits wide.
///
/// Spec: VT-d 5.10, 11.4.6.2 "IOTLB Registers".
pub const IVA_FROM_IRO: usize = 0x0;
/// Offset of IOTLB_REG from where ECAP_REG.IRO says, 64 bits wide.
pub const IOTLB_FROM_IRO: usize = 0x8;

/// GCMD_REG. A write changes one thing; all others are written as GSTS_REG has them, without [`ONE_SHOT`].
///
/// Spec: VT-d 5.10, 11.4.4.1 "Global Command Register".
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct GlobalCommand {
    #[bits(23)]
    __: u32,
    /// CFI: interrupt requests of the compatibility format pass.
    pub cfi: bool,
    /// SIRTP: take over IRTA_REG.
    pub sirtp: bool,
    /// IRE: remap interrupts.
    pub ire: bool,
    /// QIE: process the invalidation queue.
    pub qie: bool,
    /// WBF: flush the write buffer.
    pub wbf: bool,
    #[bits(2)]
    __: u8,
    /// SRTP: take over RTADDR_REG.
    pub srtp: bool,
    /// TE: translate.
    pub te: bool,
}

/// The bits of GSTS_REG that a write to GCMD_REG must not repeat: RTPS, WBFS, IRTPS, and the reserved bits between.
///
/// Spec: VT-d 5.10, 11.4.4.1 "Global Command Register": the status is masked with 0x96ff_ffff.
pub const ONE_SHOT: u32 = !0x96ff_ffff;

/// GSTS_REG.
///
/// Spec: VT-d 5.10, 11.4.4.2 "Global Status Register".
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct GlobalStatus {
    #[bits(23)]
    __: u32,
    /// CFIS: interrupt requests of the compatibility format pass.
    pub cfis: bool,
    /// IRTPS: IRTA_REG was taken over.
    pub irtps: bool,
    /// IRES: interrupts are remapped.
    pub ires: bool,
    /// QIES: the invalidation queue is processed.
    pub qies: bool,
    /// WBFS: the write buffer is being flushed.
    pub wbfs: bool,
    #[bits(2)]
    __: u8,
    /// RTPS: RTADDR_REG was taken over.
    pub rtps: bool,
    /// TES: requests are translated.
    pub tes: bool,
}

/// TTM: root and context tables of legacy mode.
///
/// Spec: VT-d 5.10, 11.4.5 "Root Table Address Register", TTM.
pub const TTM_LEGACY: u8 = 0b00;
/// TTM: scalable mode.
pub const TTM_SCALABLE: u8 = 0b01;
/// TTM: all requests are aborted.
pub const TTM_ABORT: u8 = 0b11;

/// RTADDR_REG.
///
/// Spec: VT-d 5.10, 11.4.5 "Root Table Address Register".
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct RootTableAddress {
    #[bits(7)]
    __: u8,
    /// SSIRWE: second-stage permissions are bits 61 and 62.
    pub ssirwe: bool,
    #[bits(2)]
    __: u8,
    /// [`TTM_LEGACY`] and its kin.
    #[bits(2)]
    pub ttm: u8,
    /// RTA: bits 63:12 of the root table's address.
    #[bits(52)]
    pub rta: u64,
}
page_pointer!(RootTableAddress, rta, with_rta => rta_address, with_rta_address);

/// CIRG and G of a context-cache invalidation: all of it.
///
/// Spec: VT-d 5.10, 11.4.6.1 "Context Command Register", CIRG.
pub const CONTEXT_GLOBAL: u8 = 0b01;
/// CIRG and G of a context-cache invalidation: one domain.
pub const CONTEXT_DOMAIN: u8 = 0b10;
/// CIRG and G of a context-cache invalidation: one device.
pub const CONTEXT_DEVICE: u8 = 0b11;

/// CCMD_REG.
///
/// Spec: VT-d 5.10, 11.4.6.1 "Context Command Register".
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct ContextCommand {
    /// DID: the domain.
    pub did: u16,
    /// SID: the source-id.
    pub sid: u16,
    /// FM: how the function number of SID is masked: 1 bit 2, 2 bits 2:1, 3 bits 2:0.
    #[bits(2)]
    pub fm: u8,
    #[bits(25)]
    __: u32,
    /// CAIG: what was invalidated; 0 for an error.
    #[bits(2)]
    pub caig: u8,
    /// CIRG: [`CONTEXT_GLOBAL`] and its kin.
    #[bits(2)]
    pub cirg: u8,
    /// ICC: set to invalidate; clear when it is done.
    pub icc: bool,
}

/// IIRG and G of an IOTLB invalidation: all of it.
///
/// Spec: VT-d 5.10, 11.4.6.3 "IOTLB Invalidate Register", IIRG.
pub const IOTLB_GLOBAL: u8 = 0b01;
/// IIRG and G of an IOTLB invalidation: one domain.
pub const IOTLB_DOMAIN: u8 = 0b10;
/// IIRG and G of an IOTLB invalidation: pages of a domain.
pub const IOTLB_PAGES: u8 = 0b11;

/// IOTLB_REG.
///
/// Spec: VT-d 5.10, 11.4.6.3 "IOTLB Invalidate Register".
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct IotlbCommand {
    __: u32,
    /// DID: the domain.
    pub did: u16,
    /// DW: drain writes.
    pub dw: bool,
    /// DR: drain reads.
    pub dr: bool,
    #[bits(7)]
    __: u8,
    /// IAIG: what was invalidated; 0 for an error.
    #[bits(2)]
    pub iaig: u8,
    __: bool,
    /// IIRG: [`IOTLB_GLOBAL`] and its kin.
    #[bits(2)]
    pub iirg: u8,
    __: bool,
    /// IVT: set to invalidate; clear when it is done.
    pub ivt: bool,
}

/// IVA_REG.
///
/// Spec: VT-d 5.10, 11.4.6.4 "Invalidate Address Register".
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct InvalidateAddress {
    /// AM: `1 << am` pages.
    #[bits(6)]
    pub am: u8,
    /// IH: only leaves were changed.
    pub ih: bool,
    #[bits(5)]
    __: u8,
    /// ADDR: bits 63:12 of the address.
    #[bits(52)]
    pub addr: u64,
}
page_pointer!(InvalidateAddress, addr, with_addr => address, with_address);

/// FECTL_REG, IECTL_REG and PECTL_REG.
///
/// Spec: VT-d 5.10, 11.4.7.2 "Fault Event Control Register", 11.4.9.5 "Invalidation Event Control Register", 11.4.11.5 "Page Request Event Control
/// Register".
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct EventControl {
    #[bits(30)]
    __: u32,
    /// IP: an interrupt is held back.
    pub ip: bool,
    /// IM: interrupts are held back; set by reset.
    pub im: bool,
}

/// FEDATA_REG, IEDATA_REG and PEDATA_REG.
///
/// Spec: VT-d 5.10, 11.4.7.3 "Fault Event Data Register", 11.4.9.6 "Invalidation Event Data Register", 11.4.11.6 "Page Request Event Data Register".
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct EventData {
    /// IMD: the message's data.
    pub imd: u16,
    __: u16,
}

/// FEADDR_REG, IEADDR_REG and PEADDR_REG. The upper half of the address has a register of its own, all of which is address.
///
/// Spec: VT-d 5.10, 11.4.7.4 "Fault Event Address Register", 11.4.9.7 "Invalidation Event Address Register", 11.4.11.7 "Page Request Event Address
/// Register".
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct EventAddress {
    #[bits(2)]
    __: u8,
    /// MA: bits 31:2 of the message's address.
    #[bits(30)]
    pub ma: u32,
}

/// PMEN_REG.
///
/// Spec: VT-d 5.10, 11.4.8.1 "Protected Memory Enable Register".
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct ProtectedMemoryEnable {
    /// PRS: the regions are protected.
    pub prs: bool,
    #[bits(30)]
    __: u32,
    /// EPM: protect the regions.
    pub epm: bool,
}
