//! Registers of the Non-secure programming interface: where they are, and their fields.
//!
//! Offsets are in bytes from the base of page 0; page 1 follows at [`PAGE_1`].
//!
//! Spec: SMMUv3 H.a, 6.2 "Register overview" and 6.3 "Register formats".

use bitfield_struct::bitfield;

/// Offset of page 1 from page 0.
///
/// Spec: SMMUv3 H.a, 6.1 "Memory map".
pub const PAGE_1: usize = 0x1_0000;

/// Offset of SMMU_IDR0.
pub const IDR0: usize = 0x0;
/// Offset of SMMU_IDR1.
pub const IDR1: usize = 0x4;
/// Offset of SMMU_IDR2.
pub const IDR2: usize = 0x8;
/// Offset of SMMU_IDR3.
pub const IDR3: usize = 0xc;
/// Offset of SMMU_IDR4.
pub const IDR4: usize = 0x10;
/// Offset of SMMU_IDR5.
pub const IDR5: usize = 0x14;
/// Offset of SMMU_IIDR.
pub const IIDR: usize = 0x18;
/// Offset of SMMU_AIDR.
pub const AIDR: usize = 0x1c;
/// Offset of SMMU_CR0.
pub const CR0: usize = 0x20;
/// Offset of SMMU_CR0ACK.
pub const CR0ACK: usize = 0x24;
/// Offset of SMMU_CR1.
pub const CR1: usize = 0x28;
/// Offset of SMMU_CR2.
pub const CR2: usize = 0x2c;
/// Offset of SMMU_STATUSR.
pub const STATUSR: usize = 0x40;
/// Offset of SMMU_GBPA.
pub const GBPA: usize = 0x44;
/// Offset of SMMU_AGBPA.
pub const AGBPA: usize = 0x48;
/// Offset of SMMU_IRQ_CTRL.
pub const IRQ_CTRL: usize = 0x50;
/// Offset of SMMU_IRQ_CTRLACK.
pub const IRQ_CTRLACK: usize = 0x54;
/// Offset of SMMU_GERROR.
pub const GERROR: usize = 0x60;
/// Offset of SMMU_GERRORN.
pub const GERRORN: usize = 0x64;
/// Offset of SMMU_GERROR_IRQ_CFG0, 64 bits wide.
pub const GERROR_IRQ_CFG0: usize = 0x68;
/// Offset of SMMU_GERROR_IRQ_CFG1.
pub const GERROR_IRQ_CFG1: usize = 0x70;
/// Offset of SMMU_GERROR_IRQ_CFG2.
pub const GERROR_IRQ_CFG2: usize = 0x74;
/// Offset of SMMU_STRTAB_BASE, 64 bits wide.
pub const STRTAB_BASE: usize = 0x80;
/// Offset of SMMU_STRTAB_BASE_CFG.
pub const STRTAB_BASE_CFG: usize = 0x88;
/// Offset of SMMU_CMDQ_BASE, 64 bits wide.
pub const CMDQ_BASE: usize = 0x90;
/// Offset of SMMU_CMDQ_PROD.
pub const CMDQ_PROD: usize = 0x98;
/// Offset of SMMU_CMDQ_CONS.
pub const CMDQ_CONS: usize = 0x9c;
/// Offset of SMMU_EVENTQ_BASE, 64 bits wide.
pub const EVENTQ_BASE: usize = 0xa0;
/// Offset of SMMU_EVENTQ_IRQ_CFG0, 64 bits wide.
pub const EVENTQ_IRQ_CFG0: usize = 0xb0;
/// Offset of SMMU_EVENTQ_IRQ_CFG1.
pub const EVENTQ_IRQ_CFG1: usize = 0xb8;
/// Offset of SMMU_EVENTQ_IRQ_CFG2.
pub const EVENTQ_IRQ_CFG2: usize = 0xbc;
/// Offset of SMMU_PRIQ_BASE, 64 bits wide.
pub const PRIQ_BASE: usize = 0xc0;
/// Offset of SMMU_PRIQ_IRQ_CFG0, 64 bits wide.
pub const PRIQ_IRQ_CFG0: usize = 0xd0;
/// Offset of SMMU_PRIQ_IRQ_CFG1.
pub const PRIQ_IRQ_CFG1: usize = 0xd8;
/// Offset of SMMU_PRIQ_IRQ_CFG2.
pub const PRIQ_IRQ_CFG2: usize = 0xdc;
/// Offset of SMMU_EVENTQ_PROD, in page 1.
pub const EVENTQ_PROD: usize = PAGE_1 + 0xa8;
/// Offset of SMMU_EVENTQ_CONS, in page 1.
pub const EVENTQ_CONS: usize = PAGE_1 + 0xac;
/// Offset of SMMU_PRIQ_PROD, in page 1.
pub const PRIQ_PROD: usize = PAGE_1 + 0xc8;
/// Offset of SMMU_PRIQ_CONS, in page 1.
pub const PRIQ_CONS: usize = PAGE_1 + 0xcc;

/// What the SMMU implements.
///
/// Spec: SMMUv3 H.a, 6.3.1 "SMMU_IDR0".
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct Idr0 {
    /// Stage 2 translation is there.
    pub s2p: bool,
    /// Stage 1 translation is there.
    pub s1p: bool,
    /// Translation table formats: bit 0 VMSAv8-32 LPAE, bit 1 VMSAv8-64.
    #[bits(2)]
    pub ttf: u8,
    /// Tables, queues and walks are coherent with the CPUs' caches.
    pub cohacc: bool,
    /// Broadcast TLB maintenance is received.
    pub btm: bool,
    /// Hardware updates of flags: 1 access flag, 2 dirty state as well, 3 access flag of table descriptors as well.
    #[bits(2)]
    pub httu: u8,
    /// There is a hint that says when the SMMU is dormant.
    pub dormhint: bool,
    /// The EL2 stream worlds are there.
    pub hyp: bool,
    /// PCIe ATS is there.
    pub ats: bool,
    /// Split-stage ATS is *not* there.
    pub ns1ats: bool,
    /// ASIDs have 16 bits, otherwise 8.
    pub asid16: bool,
    /// The SMMU can send MSIs.
    pub msi: bool,
    /// The SMMU can send wake-up events.
    pub sev: bool,
    /// Address translation operations are there.
    pub atos: bool,
    /// PCIe page requests are there.
    pub pri: bool,
    /// VMID wildcards are there.
    pub vmw: bool,
    /// VMIDs have 16 bits, otherwise 8.
    pub vmid16: bool,
    /// Two-level context descriptor tables are there.
    pub cd2l: bool,
    /// The page of virtual ATOS registers is there.
    pub vatos: bool,
    /// Byte order of translation tables: [`TTENDIAN_MIXED`] and its kin.
    #[bits(2)]
    pub ttendian: u8,
    /// Errors about configuration that ATS translated traffic meets can be recorded.
    pub atsrecerr: bool,
    /// Fault models: [`STALL_MODEL_BOTH`] and its kin.
    #[bits(2)]
    pub stall_model: u8,
    /// A terminated transaction is always aborted; otherwise CD.A chooses.
    pub term_model: bool,
    /// Stream tables: [`ST_LEVEL_LINEAR`] or [`ST_LEVEL_2`].
    #[bits(2)]
    pub st_level: u8,
    __: bool,
    /// The SMMU implements the Realm Management Extension.
    pub rme_impl: bool,
    __: bool,
}

/// IDR0.TTENDIAN: either byte order, as CD.ENDI and STE.S2ENDI say.
pub const TTENDIAN_MIXED: u8 = 0b00;
/// IDR0.TTENDIAN: little-endian tables only.
pub const TTENDIAN_LITTLE: u8 = 0b10;
/// IDR0.TTENDIAN: big-endian tables only.
pub const TTENDIAN_BIG: u8 = 0b11;
/// IDR0.STALL_MODEL: stall and terminate, as configured.
pub const STALL_MODEL_BOTH: u8 = 0b00;
/// IDR0.STALL_MODEL: faults terminate.
pub const STALL_MODEL_TERMINATE: u8 = 0b01;
/// IDR0.STALL_MODEL: faults stall, always.
pub const STALL_MODEL_FORCED: u8 = 0b10;
/// IDR0.ST_LEVEL: linear stream tables only.
pub const ST_LEVEL_LINEAR: u8 = 0b00;
/// IDR0.ST_LEVEL: two-level stream tables as well.
pub const ST_LEVEL_2: u8 = 0b01;

/// Sizes.
///
/// Spec: SMMUv3 H.a, 6.3.2 "SMMU_IDR1".
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct Idr1 {
    /// Bits of a StreamID, 0 to 32.
    #[bits(6)]
    pub sidsize: u8,
    /// Bits of a SubstreamID, 0 to 20; 0 means that there are no substreams.
    #[bits(5)]
    pub ssidsize: u8,
    /// Most entries of the PRI queue, as log2.
    #[bits(5)]
    pub priqs: u8,
    /// Most entries of the event queue, as log2.
    #[bits(5)]
    pub eventqs: u8,
    /// Most entries of the command queue, as log2.
    #[bits(5)]
    pub cmdqs: u8,
    /// Incoming permission attributes can be overridden.
    pub attr_perms_ovr: bool,
    /// Incoming memory attributes can be overridden.
    pub attr_types_ovr: bool,
    /// Preset base addresses are offsets from page 0.
    pub rel: bool,
    /// Queue base addresses are fixed.
    pub queues_preset: bool,
    /// Table base addresses are fixed.
    pub tables_preset: bool,
    /// Enhanced command queues are there.
    pub ecmdq: bool,
}

/// What later versions added.
///
/// Spec: SMMUv3 H.a, 6.3.4 "SMMU_IDR3".
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct Idr3 {
    #[bits(2)]
    __: u8,
    /// Hierarchical attributes can be disabled.
    pub had: bool,
    /// Page-based hardware attributes are there.
    pub pbha: bool,
    /// Stage 2 tells execution at EL0 and EL1 apart.
    pub xnx: bool,
    /// A PASID is on every automatic page response, whatever STE.PPAR says.
    pub pps: bool,
    __: bool,
    /// Memory partitioning is there.
    pub mpam: bool,
    /// Stage 2 can force memory types.
    pub fwb: bool,
    /// Small translation tables are there.
    pub stt: bool,
    /// Range invalidation and level hints are there.
    pub ril: bool,
    /// How much of break-before-make is needed: level 0, 1 or 2.
    #[bits(2)]
    pub bbml: u8,
    /// E0PD is there.
    pub e0pd: bool,
    /// Stage 1 walks mapped as Device by stage 2 are Normal non-cacheable.
    pub ptwnnc: bool,
    /// Device permission tables are there.
    pub dpt: bool,
    /// Translated traffic may carry a PASID.
    pub pasidtt: bool,
    /// Enhanced PAN is there.
    pub epan: bool,
    /// Stage 1 permission indirection is there.
    pub s1pi: bool,
    /// Stage 2 permission indirection is there.
    pub s2pi: bool,
    /// Stage 2 permission overlays are there.
    pub s2po: bool,
    /// Translation hardening is there.
    pub the: bool,
    /// The NoTagAccess encodings of stage 2 are there.
    pub mteperm: bool,
    /// The attribute index extension is there.
    pub aie: bool,
    #[bits(8)]
    __: u8,
}

/// Address sizes and granules.
///
/// Spec: SMMUv3 H.a, 6.3.6 "SMMU_IDR5".
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct Idr5 {
    /// Size of output addresses, as [`address_bits`](super::address_bits) reads it.
    #[bits(3)]
    pub oas: u8,
    __: bool,
    /// The 4 KiB granule is there.
    pub gran4k: bool,
    /// The 16 KiB granule is there.
    pub gran16k: bool,
    /// The 64 KiB granule is there.
    pub gran64k: bool,
    /// 52-bit addresses with the 4 KiB and 16 KiB granules are there.
    pub ds: bool,
    /// 128-bit descriptors are there.
    pub d128: bool,
    __: bool,
    /// Size of virtual addresses: 0 for 48 bits, 1 for 52, 2 for 56.
    #[bits(2)]
    pub vax: u8,
    #[bits(4)]
    __: u8,
    /// Most transactions that can be stalled at once.
    pub stall_max: u16,
}

/// The version of the architecture.
///
/// Spec: SMMUv3 H.a, 6.3.8 "SMMU_AIDR".
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct Aidr {
    /// y of SMMUv3.y.
    #[bits(4)]
    pub arch_minor_rev: u8,
    /// 0 for SMMUv3.
    #[bits(4)]
    pub arch_major_rev: u8,
    #[bits(24)]
    __: u32,
}

/// Enables. SMMU_CR0ACK has the same fields; a change is in force when they agree.
///
/// Spec: SMMUv3 H.a, 6.3.9 "SMMU_CR0" and 6.3.10 "SMMU_CR0ACK".
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct Cr0 {
    /// Streams are translated as their STEs say; otherwise GBPA says what becomes of them.
    pub smmuen: bool,
    /// The PRI queue is written.
    pub priqen: bool,
    /// The event queue is written.
    pub eventqen: bool,
    /// Commands are consumed.
    pub cmdqen: bool,
    /// ATS translated traffic is checked against the STE.
    pub atschk: bool,
    __: bool,
    /// How many low bits of a VMID invalidations ignore.
    #[bits(3)]
    pub vmw: u8,
    __: bool,
    /// The device permission table is walked.
    pub dpt_walk_en: bool,
    #[bits(21)]
    __: u32,
}

/// Memory attributes of the SMMU's own accesses to tables and queues.
///
/// Spec: SMMUv3 H.a, 6.3.11 "SMMU_CR1".
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct Cr1 {
    /// Inner cacheability of queues.
    #[bits(2)]
    pub queue_ic: u8,
    /// Outer cacheability of queues.
    #[bits(2)]
    pub queue_oc: u8,
    /// Shareability of queues.
    #[bits(2)]
    pub queue_sh: u8,
    /// Inner cacheability of stream tables.
    #[bits(2)]
    pub table_ic: u8,
    /// Outer cacheability of stream tables.
    #[bits(2)]
    pub table_oc: u8,
    /// Shareability of stream tables.
    #[bits(2)]
    pub table_sh: u8,
    #[bits(20)]
    __: u32,
}

/// More controls.
///
/// Spec: SMMUv3 H.a, 6.3.12 "SMMU_CR2".
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct Cr2 {
    /// EL2 stream worlds are EL2-E2H.
    pub e2h: bool,
    /// Traffic of a StreamID that is out of range is recorded as C_BAD_STREAMID.
    pub recinvsid: bool,
    /// Broadcast TLB maintenance is ignored.
    pub ptm: bool,
    /// Errors about configuration that ATS translated traffic meets are recorded.
    pub rec_cfg_ats: bool,
    #[bits(28)]
    __: u32,
}

/// What becomes of traffic while SMMUEN is 0.
///
/// Written in one access with Update set; in force when Update reads 0.
///
/// Spec: SMMUv3 H.a, 6.3.14 "SMMU_GBPA".
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct Gbpa {
    /// Memory type, as STE.MemAttr.
    #[bits(4)]
    pub mem_attr: u8,
    /// The memory type is overridden by MemAttr.
    pub mtcfg: bool,
    #[bits(3)]
    __: u8,
    /// Override of allocation hints.
    #[bits(4)]
    pub alloccfg: u8,
    /// Override of shareability; 1 uses what comes in.
    #[bits(2)]
    pub shcfg: u8,
    #[bits(2)]
    __: u8,
    /// Override of privilege.
    #[bits(2)]
    pub privcfg: u8,
    /// Override of instruction or data.
    #[bits(2)]
    pub instcfg: u8,
    /// All traffic is aborted.
    pub abort: bool,
    #[bits(10)]
    __: u16,
    /// Set to write; reads 1 until the write is in force.
    pub update: bool,
}

/// Interrupt enables. SMMU_IRQ_CTRLACK has the same fields.
///
/// Spec: SMMUv3 H.a, 6.3.16 "SMMU_IRQ_CTRL".
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct IrqCtrl {
    /// Global errors interrupt.
    pub gerror_irqen: bool,
    /// The PRI queue interrupts.
    pub priq_irqen: bool,
    /// The event queue interrupts.
    pub eventq_irqen: bool,
    #[bits(29)]
    __: u32,
}

/// Global errors. An error is active while its bit differs from that of SMMU_GERRORN, which has the same fields.
///
/// Spec: SMMUv3 H.a, 6.3.19 "SMMU_GERROR" and 7.5 "Global error recording".
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct Gerror {
    /// A command failed; CMDQ_CONS says which and why.
    pub cmdq_err: bool,
    __: bool,
    /// An access to the event queue was aborted.
    pub eventq_abt_err: bool,
    /// An access to the PRI queue was aborted.
    pub priq_abt_err: bool,
    /// The MSI of a CMD_SYNC was aborted.
    pub msi_cmdq_abt_err: bool,
    /// An MSI of the event queue was aborted.
    pub msi_eventq_abt_err: bool,
    /// An MSI of the PRI queue was aborted.
    pub msi_priq_abt_err: bool,
    /// An MSI for a global error was aborted.
    pub msi_gerror_abt_err: bool,
    /// The SMMU entered service failure mode.
    pub sfm_err: bool,
    /// An enhanced command queue failed.
    pub cmdqp_err: bool,
    /// A lookup in the device permission table failed.
    pub dpt_err: bool,
    #[bits(21)]
    __: u32,
}

/// Where an interrupt's MSI is written; no MSI if the address is 0.
///
/// Spec: SMMUv3 H.a, 6.3.21 "SMMU_GERROR_IRQ_CFG0"; the same layout for EVENTQ and PRIQ.
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct IrqCfg0 {
    #[bits(2)]
    __: u8,
    /// Bits 55:2 of the address.
    #[bits(54)]
    pub addr: u64,
    #[bits(8)]
    __: u8,
}

/// How an interrupt's MSI is written.
///
/// Spec: SMMUv3 H.a, 6.3.23 "SMMU_GERROR_IRQ_CFG2"; the same layout for EVENTQ, and for PRIQ with LO in bit 31.
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct IrqCfg2 {
    /// Memory type, as STE.MemAttr.
    #[bits(4)]
    pub mem_attr: u8,
    /// Shareability.
    #[bits(2)]
    pub sh: u8,
    #[bits(25)]
    __: u32,
    /// PRI queue only: interrupt only for a request with the last flag.
    pub lo: bool,
}

/// Where the stream table is.
///
/// Spec: SMMUv3 H.a, 6.3.24 "SMMU_STRTAB_BASE".
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct StrtabBase {
    #[bits(6)]
    __: u8,
    /// Bits 55:6 of the address.
    #[bits(50)]
    pub addr: u64,
    #[bits(6)]
    __: u8,
    /// Read-allocate hint.
    pub ra: bool,
    __: bool,
}

/// The shape of the stream table.
///
/// Spec: SMMUv3 H.a, 6.3.25 "SMMU_STRTAB_BASE_CFG".
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct StrtabBaseCfg {
    /// Bits of StreamID that the table covers.
    #[bits(6)]
    pub log2size: u8,
    /// Bits of StreamID that a second-level table covers: 6, 8 or 10.
    #[bits(5)]
    pub split: u8,
    #[bits(5)]
    __: u8,
    /// [`STRTAB_LINEAR`] or [`STRTAB_2_LEVEL`].
    #[bits(2)]
    pub fmt: u8,
    #[bits(14)]
    __: u16,
}

/// STRTAB_BASE_CFG.FMT: an array of STEs.
pub const STRTAB_LINEAR: u8 = 0b00;
/// STRTAB_BASE_CFG.FMT: an array of L1STDs.
pub const STRTAB_2_LEVEL: u8 = 0b01;

/// Where a queue is, and how large. The address is aligned to the queue's size, at least to 32 bytes.
///
/// Spec: SMMUv3 H.a, 6.3.26 "SMMU_CMDQ_BASE", 6.3.29 "SMMU_EVENTQ_BASE", 6.3.33 "SMMU_PRIQ_BASE".
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct QueueBase {
    /// Entries, as log2.
    #[bits(5)]
    pub log2size: u8,
    /// Bits 55:5 of the address.
    #[bits(51)]
    pub addr: u64,
    #[bits(6)]
    __: u8,
    /// RA of the command queue (read-allocate hint), WA of the others (write-allocate hint).
    pub allocate: bool,
    __: bool,
}

/// An index of a queue: PROD.WR or CONS.RD, the wrap bit right above the index bits.
///
/// Spec: SMMUv3 H.a, 6.3.27 "SMMU_CMDQ_PROD", 6.3.95 "SMMU_EVENTQ_PROD", 6.3.96 "SMMU_EVENTQ_CONS".
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct QueueIndex {
    /// The index and its wrap bit.
    #[bits(20)]
    pub index: u32,
    #[bits(11)]
    __: u16,
    /// OVFLG in EVENTQ_PROD and PRIQ_PROD, OVACKFLG in their CONS: overflowed while they differ.
    pub overflow: bool,
}

/// How far commands are consumed, and why no further.
///
/// Spec: SMMUv3 H.a, 6.3.28 "SMMU_CMDQ_CONS".
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct CmdqCons {
    /// The index and its wrap bit.
    #[bits(20)]
    pub rd: u32,
    #[bits(4)]
    __: u8,
    /// Why the command at `rd` failed, while GERROR.CMDQ_ERR is active; unknown otherwise.
    #[bits(7)]
    pub err: u8,
    __: bool,
}

/// CMDQ_CONS.ERR: nothing failed.
///
/// Spec: SMMUv3 H.a, 7.1 "Command queue errors".
pub const CERROR_NONE: u8 = 0x00;
/// CMDQ_CONS.ERR: the command is illegal.
pub const CERROR_ILL: u8 = 0x01;
/// CMDQ_CONS.ERR: the command could not be fetched.
pub const CERROR_ABT: u8 = 0x02;
/// CMDQ_CONS.ERR: a CMD_SYNC could not complete an earlier CMD_ATC_INV.
pub const CERROR_ATC_INV_SYNC: u8 = 0x03;
