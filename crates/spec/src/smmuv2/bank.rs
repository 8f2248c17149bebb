//! One translation context bank: offsets from its page of registers, and the formats for AArch64's translation scheme.
//!
//! Spec: SMMUv2 D.c, 16.1 "Stage 1 translation context bank address space", 17.2 "Stage 2 translation context bank address space".

use bitfield_struct::bitfield;

/// Offset of SMMU_CBn_SCTLR.
pub const SCTLR: usize = 0x000;
/// Offset of SMMU_CBn_ACTLR, whose bits are the implementation's own.
pub const ACTLR: usize = 0x004;
/// Offset of SMMU_CBn_RESUME.
pub const RESUME: usize = 0x008;
/// Offset of SMMU_CBn_TCR2; stage 1 only.
pub const TCR2: usize = 0x010;
/// Offset of SMMU_CBn_TTBR0, 64 bits wide.
pub const TTBR0: usize = 0x020;
/// Offset of SMMU_CBn_TTBR1, 64 bits wide; stage 1 only.
pub const TTBR1: usize = 0x028;
/// Offset of SMMU_CBn_TCR.
pub const TCR: usize = 0x030;
/// Offset of SMMU_CBn_MAIR0; stage 1 only.
pub const MAIR0: usize = 0x038;
/// Offset of SMMU_CBn_MAIR1; stage 1 only.
pub const MAIR1: usize = 0x03c;
/// Offset of SMMU_CBn_FSR.
pub const FSR: usize = 0x058;
/// Offset of SMMU_CBn_FAR, 64 bits wide.
pub const FAR: usize = 0x060;
/// Offset of SMMU_CBn_FSYNR0.
pub const FSYNR0: usize = 0x068;
/// Offset of SMMU_CBn_FSYNR1.
pub const FSYNR1: usize = 0x06c;
/// Offset of SMMU_CBn_IPAFAR, 64 bits wide; stage 2 only.
pub const IPAFAR: usize = 0x070;
/// Offset of SMMU_CBn_TLBIVA, 64 bits wide; stage 1 only.
pub const TLBIVA: usize = 0x600;
/// Offset of SMMU_CBn_TLBIVAA, 64 bits wide; stage 1 only.
pub const TLBIVAA: usize = 0x608;
/// Offset of SMMU_CBn_TLBIASID; stage 1 only.
pub const TLBIASID: usize = 0x610;
/// Offset of SMMU_CBn_TLBIALL; stage 1 only.
pub const TLBIALL: usize = 0x618;
/// Offset of SMMU_CBn_TLBIVAL, 64 bits wide; stage 1 only.
pub const TLBIVAL: usize = 0x620;
/// Offset of SMMU_CBn_TLBIVAAL, 64 bits wide; stage 1 only.
pub const TLBIVAAL: usize = 0x628;
/// Offset of SMMU_CBn_TLBIIPAS2, 64 bits wide; stage 2 only.
pub const TLBIIPAS2: usize = 0x630;
/// Offset of SMMU_CBn_TLBIIPAS2L, 64 bits wide; stage 2 only.
pub const TLBIIPAS2L: usize = 0x638;
/// Offset of SMMU_CBn_TLBSYNC.
pub const TLBSYNC: usize = 0x7f0;
/// Offset of SMMU_CBn_TLBSTATUS.
pub const TLBSTATUS: usize = 0x7f4;

/// SMMU_CBn_RESUME.TnR: the stalled transaction is retried.
pub const RESUME_RETRY: u32 = 0;
/// SMMU_CBn_RESUME.TnR: the stalled transaction is terminated.
pub const RESUME_TERMINATE: u32 = 1;

/// ORGN0 and IRGN0: write-back, write-allocate.
pub const WALK_WRITE_BACK: u8 = 0b01;
/// ORGN0 and IRGN0: not cacheable.
pub const WALK_NON_CACHEABLE: u8 = 0b00;
/// SH0: inner shareable.
pub const SHARE_INNER: u8 = 0b11;
/// SH0: outer shareable.
pub const SHARE_OUTER: u8 = 0b10;
/// SMMU_CBn_TCR2.SEP: as the bus says; addresses of a bus that is not of 49 bits are not extended.
pub const SEP_UPSTREAM: u8 = 0b111;

/// SMMU_CBn_SCTLR, in the format of stage 1. That of stage 2 has no ASIDPNE and no UCI.
///
/// Spec: SMMUv2 D.c, 16.5.29 "SMMU_CBn_SCTLR, System Control Register", 17.3.3 "SMMU_CBn_SCTLR, System Control Register".
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct Sctlr {
    /// M: translation is on. Traffic that reaches a bank where it is off passes.
    pub m: bool,
    /// TRE: to be written as 1.
    pub tre: bool,
    /// AFE: to be written as 1.
    pub afe: bool,
    /// AFFD: a clear access flag is no fault.
    pub affd: bool,
    /// E: descriptors are big-endian.
    pub e: bool,
    /// CFRE: a fault is reported to the client.
    pub cfre: bool,
    /// CFIE: a fault interrupts.
    pub cfie: bool,
    /// CFCFG: a fault stalls, else it terminates.
    pub cfcfg: bool,
    /// HUPCF: traffic goes on while a fault is recorded.
    pub hupcf: bool,
    /// WXN.
    pub wxn: bool,
    /// UWXN.
    pub uwxn: bool,
    __: bool,
    /// ASIDPNE: ASIDs are the SMMU's own.
    pub asidpne: bool,
    __: bool,
    /// TRANSIENTCFG.
    #[bits(2)]
    pub transientcfg: u8,
    /// MemAttr.
    #[bits(4)]
    pub mem_attr: u8,
    /// MTCFG.
    pub mtcfg: bool,
    __: bool,
    /// SHCFG.
    #[bits(2)]
    pub shcfg: u8,
    /// RACFG.
    #[bits(2)]
    pub racfg: u8,
    /// WACFG.
    #[bits(2)]
    pub wacfg: u8,
    /// NSCFG: for Secure banks only.
    #[bits(2)]
    pub nscfg: u8,
    /// UCI.
    pub uci: bool,
    __: bool,
}

/// SMMU_CBn_TCR of stage 1, where SMMU_CBA2Rn.VA64 is 1. Spec: SMMUv2 D.c, 16.5.38 "SMMU_CBn_TCR, Translation Control Register".
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct Tcr {
    /// T0SZ: 64 less the bits of input.
    #[bits(6)]
    pub t0sz: u8,
    __: bool,
    /// EPD0.
    pub epd0: bool,
    /// IRGN0.
    #[bits(2)]
    pub irgn0: u8,
    /// ORGN0.
    #[bits(2)]
    pub orgn0: u8,
    /// SH0.
    #[bits(2)]
    pub sh0: u8,
    /// TG0: 0 for 4 KiB, 1 for 64 KiB, 2 for 16 KiB.
    #[bits(2)]
    pub tg0: u8,
    /// T1SZ.
    #[bits(6)]
    pub t1sz: u8,
    /// A1: the ASID stands in SMMU_CBn_TTBR1.
    pub a1: bool,
    /// EPD1: nothing is walked for the upper half.
    pub epd1: bool,
    /// IRGN1.
    #[bits(2)]
    pub irgn1: u8,
    /// ORGN1.
    #[bits(2)]
    pub orgn1: u8,
    /// SH1.
    #[bits(2)]
    pub sh1: u8,
    /// TG1: 1 for 16 KiB, 2 for 4 KiB, 3 for 64 KiB.
    #[bits(2)]
    pub tg1: u8,
}

/// SMMU_CBn_TCR of stage 2, where SMMU_CBA2Rn.VA64 is 1. Spec: SMMUv2 D.c, 17.3.8 "SMMU_CBn_TCR, Translation Control Register".
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct Stage2Tcr {
    /// T0SZ: 64 less the bits of input.
    #[bits(6)]
    pub t0sz: u8,
    /// SL0: where walks start; counts up from level 2 with 4 KiB, from level 3 otherwise.
    #[bits(2)]
    pub sl0: u8,
    /// IRGN0.
    #[bits(2)]
    pub irgn0: u8,
    /// ORGN0.
    #[bits(2)]
    pub orgn0: u8,
    /// SH0.
    #[bits(2)]
    pub sh0: u8,
    /// TG0: 0 for 4 KiB, 1 for 64 KiB, 2 for 16 KiB.
    #[bits(2)]
    pub tg0: u8,
    /// PASize ([`address_bits`](super::address_bits)).
    #[bits(3)]
    pub pasize: u8,
    #[bits(2)]
    __: u8,
    /// HA.
    pub ha: bool,
    /// HD.
    pub hd: bool,
    #[bits(9)]
    __: u16,
}

/// SMMU_CBn_TCR2. Spec: SMMUv2 D.c, 16.5.39 "SMMU_CBn_TCR2, Translation Control Register 2".
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct Tcr2 {
    /// PASize ([`address_bits`](super::address_bits)).
    #[bits(3)]
    pub pasize: u8,
    __: bool,
    /// AS: ASIDs of 16 bits.
    pub asid16: bool,
    /// TBI0.
    pub tbi0: bool,
    /// TBI1.
    pub tbi1: bool,
    __: bool,
    /// HAD0.
    pub had0: bool,
    /// HAD1.
    pub had1: bool,
    /// HA.
    pub ha: bool,
    /// HD.
    pub hd: bool,
    #[bits(2)]
    __: u8,
    /// NSCFG0: for Secure banks only.
    pub nscfg0: bool,
    /// SEP: from where addresses are sign-extended ([`SEP_UPSTREAM`]).
    #[bits(3)]
    pub sep: u8,
    #[bits(12)]
    __: u16,
    /// NSCFG1: for Secure banks only.
    pub nscfg1: bool,
    __: bool,
}

/// SMMU_CBn_TTBRm, where SMMU_CBA2Rn.VA64 is 1; of stage 2 without ASID.
///
/// Spec: SMMUv2 D.c, 16.5.40 "SMMU_CBn_TTBRm, Translation Table Base Registers".
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct Ttbr {
    /// Where the root table lies. What is below its alignment is zero.
    #[bits(48)]
    pub base: u64,
    /// ASID.
    pub asid: u16,
}

/// SMMU_CBn_FSR. What is written as 1 is cleared, but for SS and Format.
///
/// Spec: SMMUv2 D.c, 16.5.9 "SMMU_CBn_FSR, Fault Status Register".
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct Fsr {
    __: bool,
    /// TF: translation.
    pub tf: bool,
    /// AFF: access flag.
    pub aff: bool,
    /// PF: permission.
    pub pf: bool,
    /// EF: external abort.
    pub ef: bool,
    /// TLBMCF: several TLB entries match.
    pub tlbmcf: bool,
    /// TLBLKF: TLB lock.
    pub tlblkf: bool,
    /// ASF: address size.
    pub asf: bool,
    /// UUT: unsupported upstream transaction.
    pub uut: bool,
    /// Format: says which formats of tables the bank is set to; no fault.
    #[bits(2)]
    pub format: u8,
    #[bits(19)]
    __: u32,
    /// SS: a transaction is stalled.
    pub ss: bool,
    /// MULTI: there was another fault, of which nothing is recorded.
    pub multi: bool,
}

/// SMMU_CBn_FSYNR0, in the format of stage 2. That of stage 1 has no ATOF, no S1PTWF, no NESTED and no S1CBNDX.
///
/// Spec: SMMUv2 D.c, 16.5.11 "SMMU_CBn_FSYNRm, Fault Syndrome Registers", 17.3.1 "SMMU_CBn_FSYNRn, Fault Syndrome Registers".
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct Fsynr0 {
    /// PLVL: at which level of the walk.
    #[bits(2)]
    pub plvl: u8,
    /// NESTED.
    pub nested: bool,
    /// S1PTWF: on a walk of stage 1.
    pub s1ptwf: bool,
    /// WNR: a write.
    pub wnr: bool,
    /// PNU: privileged.
    pub pnu: bool,
    /// IND: an instruction fetch.
    pub ind: bool,
    __: bool,
    /// NSATTR.
    pub nsattr: bool,
    /// ATOF: an address translation operation.
    pub atof: bool,
    /// PTWF: an external abort on a walk.
    pub ptwf: bool,
    /// AFR: recorded asynchronously: nothing is known of the access.
    pub afr: bool,
    #[bits(4)]
    __: u8,
    /// S1CBNDX: the bank of stage 1.
    pub s1cbndx: u8,
    __: u8,
}

/// SMMU_CBn_TLBIVA and SMMU_CBn_TLBIVAL, where SMMU_CBA2Rn.VA64 is 1. To be written in one access: half of it would be taken for the whole.
///
/// Spec: SMMUv2 D.c, 16.5.32 "SMMU_CBn_TLBIVA, TLB Invalidate by VA".
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct TlbiVa {
    /// Bits 55:12 of the address.
    #[bits(44)]
    pub page: u64,
    #[bits(4)]
    __: u8,
    /// ASID.
    pub asid: u16,
}

/// SMMU_CBn_TLBIIPAS2 and SMMU_CBn_TLBIIPAS2L. Spec: SMMUv2 D.c, 17.3.4 "SMMU_CBn_TLBIIPAS2, Invalidate TLB by IPA".
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct TlbiIpa {
    /// Bits 47:12 of the address.
    #[bits(36)]
    pub page: u64,
    #[bits(28)]
    __: u32,
}

/// SMMU_CBn_TLBSTATUS. Spec: SMMUv2 D.c, 16.5.36 "SMMU_CBn_TLBSTATUS, TLB Status".
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct TlbStatus {
    /// SACTIVE: a sync is under way.
    pub sactive: bool,
    #[bits(31)]
    __: u32,
}
