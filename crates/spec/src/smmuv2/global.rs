//! The global address space: Global Register Space 0, from the start of the frame, and Global Register Space 1, one page of registers further.
//!
//! Spec: SMMUv2 D.c, 9.1 "SMMU Global Register Space 0 register summary", 10.1 "SMMU Global Register Space 1 register summary".

use bitfield_struct::bitfield;

/// Offset of SMMU_CR0.
pub const CR0: usize = 0x000;
/// Offset of SMMU_ACR, whose bits are the implementation's own.
pub const ACR: usize = 0x010;
/// Offset of SMMU_IDR0.
pub const IDR0: usize = 0x020;
/// Offset of SMMU_IDR1.
pub const IDR1: usize = 0x024;
/// Offset of SMMU_IDR2.
pub const IDR2: usize = 0x028;
/// Offset of SMMU_IDR7.
pub const IDR7: usize = 0x03c;
/// Offset of SMMU_GFAR, 64 bits wide.
pub const GFAR: usize = 0x040;
/// Offset of SMMU_GFSR.
pub const GFSR: usize = 0x048;
/// Offset of SMMU_GFSYNR0.
pub const GFSYNR0: usize = 0x050;
/// Offset of SMMU_GFSYNR1.
pub const GFSYNR1: usize = 0x054;
/// Offset of SMMU_GFSYNR2.
pub const GFSYNR2: usize = 0x058;
/// Offset of SMMU_TLBIVMID.
pub const TLBIVMID: usize = 0x064;
/// Offset of SMMU_TLBIALLNSNH.
pub const TLBIALLNSNH: usize = 0x068;
/// Offset of SMMU_TLBIALLH.
pub const TLBIALLH: usize = 0x06c;
/// Offset of SMMU_TLBGSYNC.
pub const TLBGSYNC: usize = 0x070;
/// Offset of SMMU_TLBGSTATUS.
pub const TLBGSTATUS: usize = 0x074;
/// Offset of SMMU_TLBIVMIDS1.
pub const TLBIVMIDS1: usize = 0x0b8;

/// The most stream mapping register groups, extended stream matching apart.
pub const MOST_GROUPS: usize = 128;
/// The most translation context banks.
pub const MOST_BANKS: usize = 128;

/// Offset of SMMU_SMRn.
pub const fn smr(n: usize) -> usize {
    0x800 + 4 * n
}

/// Offset of SMMU_S2CRn.
pub const fn s2cr(n: usize) -> usize {
    0xc00 + 4 * n
}

/// Offset of SMMU_CBARn in Global Register Space 1.
pub const fn cbar(n: usize) -> usize {
    4 * n
}

/// Offset of SMMU_CBFRSYNRAn in Global Register Space 1.
pub const fn cbfrsynra(n: usize) -> usize {
    0x400 + 4 * n
}

/// Offset of SMMU_CBA2Rn in Global Register Space 1.
pub const fn cba2r(n: usize) -> usize {
    0x800 + 4 * n
}

/// SMMU_IDR0. Spec: SMMUv2 D.c, 9.6.1 "SMMU_IDR0-7, Identification registers".
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct Idr0 {
    /// NUMSMRG: stream mapping register groups.
    pub numsmrg: u8,
    /// EXIDS: StreamIDs of 16 bits.
    pub exids: bool,
    /// NUMSIDB: bits of a StreamID.
    #[bits(4)]
    pub numsidb: u8,
    /// BTM: broadcast TLB maintenance is heard.
    pub btm: bool,
    /// CTTW: table walks are coherent.
    pub cttw: bool,
    /// EXSMRGS: extended stream matching.
    pub exsmrgs: bool,
    /// NUMIRPT: context interrupts; 1 if each bank has its own.
    pub numirpt: u8,
    /// PTFS: which formats with AArch32's registers there are.
    #[bits(2)]
    pub ptfs: u8,
    /// ATOSNS: no address translation operations.
    pub atosns: bool,
    /// SMS: stream matching; without it streams index.
    pub sms: bool,
    /// NTS: stage 1 followed by stage 2.
    pub nts: bool,
    /// S2TS: stage 2.
    pub s2ts: bool,
    /// S1TS: stage 1.
    pub s1ts: bool,
    /// SES: two Security states; reads as 0 to Non-secure software.
    pub ses: bool,
}

/// SMMU_IDR1. Spec: SMMUv2 D.c, 9.6.1 "SMMU_IDR0-7, Identification registers".
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct Idr1 {
    /// NUMCB: translation context banks, those of stage 2 only included.
    pub numcb: u8,
    /// NUMSSDNDXB.
    #[bits(4)]
    pub numssdndxb: u8,
    /// SSDTP.
    #[bits(2)]
    pub ssdtp: u8,
    __: bool,
    /// SMCD: every stream match conflict is detected.
    pub smcd: bool,
    /// NUMS2CB: context banks that can be of stage 2 only.
    pub nums2cb: u8,
    /// HAFDBS: hardware update of access flag and dirty state.
    #[bits(2)]
    pub hafdbs: u8,
    #[bits(2)]
    __: u8,
    /// NUMPAGENDXB: log2 of the pages of a half of the frame, less one.
    #[bits(3)]
    pub numpagendxb: u8,
    /// PAGESIZE: pages of registers are of 64 KiB, else of 4 KiB.
    pub pagesize: bool,
}

/// SMMU_IDR2. Spec: SMMUv2 D.c, 9.6.1 "SMMU_IDR0-7, Identification registers".
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct Idr2 {
    /// IAS: bits of an intermediate physical address ([`address_bits`](super::address_bits)).
    #[bits(4)]
    pub ias: u8,
    /// OAS: bits of an output address.
    #[bits(4)]
    pub oas: u8,
    /// UBS: bits of an incoming address ([`upstream_bits`](super::upstream_bits)).
    #[bits(4)]
    pub ubs: u8,
    /// PTFSv8_4kB: the granule of 4 KiB.
    pub ptfsv8_4kb: bool,
    /// PTFSv8_16kB: the granule of 16 KiB.
    pub ptfsv8_16kb: bool,
    /// PTFSv8_64kB: the granule of 64 KiB.
    pub ptfsv8_64kb: bool,
    /// VMID16S: VMIDs of 16 bits.
    pub vmid16s: bool,
    /// EXNUMSMRG: extended stream match register groups.
    #[bits(11)]
    pub exnumsmrg: u16,
    /// E2HS: contexts as of a host with virtualization extensions.
    pub e2hs: bool,
    /// HADS: hierarchical attributes can be disabled.
    pub hads: bool,
    /// COMPINDEXS: compressed indexing.
    pub compindexs: bool,
    /// DIPANS: privileged access never.
    pub dipans: bool,
    __: bool,
}

/// SMMU_IDR7. Spec: SMMUv2 D.c, 9.6.1 "SMMU_IDR0-7, Identification registers".
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct Idr7 {
    /// MINOR: of the implementation's version, pY of rXpY.
    #[bits(4)]
    pub minor: u8,
    /// MAJOR: of the implementation's version, rX of rXpY.
    #[bits(4)]
    pub major: u8,
    #[bits(24)]
    __: u32,
}

/// SMMU_CR0, as Non-secure software sees it. Spec: SMMUv2 D.c, 9.6.3 "SMMU_sCR0, Configuration Register 0".
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct Cr0 {
    /// CLIENTPD: all traffic passes untranslated.
    pub clientpd: bool,
    /// GFRE: a global fault is reported to the client.
    pub gfre: bool,
    /// GFIE: a global fault interrupts.
    pub gfie: bool,
    /// EXIDENABLE: SMMU_SMRn has the extended format.
    pub exidenable: bool,
    /// GCFGFRE: a configuration fault is reported.
    pub gcfgfre: bool,
    /// GCFGFIE: a configuration fault interrupts.
    pub gcfgfie: bool,
    /// TRANSIENTCFG.
    #[bits(2)]
    pub transientcfg: u8,
    /// STALLD: no context stalls.
    pub stalld: bool,
    /// GSE: a stall stalls everybody.
    pub gse: bool,
    /// USFCFG: a stream that matches nothing faults; else it passes.
    pub usfcfg: bool,
    /// VMIDPNE: VMIDs are the SMMU's own.
    pub vmidpne: bool,
    /// PTM: broadcast TLB maintenance need not be heard.
    pub ptm: bool,
    /// FB.
    pub fb: bool,
    /// BSU.
    #[bits(2)]
    pub bsu: u8,
    /// MemAttr.
    #[bits(4)]
    pub mem_attr: u8,
    /// MTCFG.
    pub mtcfg: bool,
    /// SMCFCFG: a stream that matches several groups faults; else it passes.
    pub smcfcfg: bool,
    /// SHCFG.
    #[bits(2)]
    pub shcfg: u8,
    /// RACFG.
    #[bits(2)]
    pub racfg: u8,
    /// WACFG.
    #[bits(2)]
    pub wacfg: u8,
    #[bits(2)]
    __: u8,
    /// HYPMODE.
    pub hypmode: bool,
    /// VMID16EN: VMIDs of 16 bits are in use.
    pub vmid16en: bool,
}

/// SMMU_SMRn where SMMU_CR0.EXIDENABLE is 0. Spec: SMMUv2 D.c, 9.6.25 "SMMU_SMRn, Stream Match Register".
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct Smr {
    /// ID.
    #[bits(15)]
    pub id: u16,
    __: bool,
    /// MASK: bits of the StreamID that do not matter.
    #[bits(15)]
    pub mask: u16,
    /// VALID.
    pub valid: bool,
}

/// SMMU_SMRn where SMMU_CR0.EXIDENABLE is 1: whether it is valid stands in SMMU_S2CRn.EXIDVALID.
///
/// Spec: SMMUv2 D.c, 9.6.25 "SMMU_SMRn, Stream Match Register".
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct ExtendedSmr {
    /// EXID.
    pub exid: u16,
    /// EXMASK: bits of the StreamID that do not matter.
    pub exmask: u16,
}

/// SMMU_S2CRn.TYPE: a translation context.
pub const S2CR_TRANSLATE: u8 = 0b00;
/// SMMU_S2CRn.TYPE: traffic passes.
pub const S2CR_BYPASS: u8 = 0b01;
/// SMMU_S2CRn.TYPE: traffic faults.
pub const S2CR_FAULT: u8 = 0b10;

/// SMMU_S2CRn, in the format of a translation context. In the others CBNDX, PRIVCFG and INSTCFG mean other things, or nothing.
///
/// Spec: SMMUv2 D.c, 9.6.23 "SMMU_S2CRn, Stream-to-Context Register".
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct S2cr {
    /// CBNDX: the context bank.
    pub cbndx: u8,
    /// SHCFG.
    #[bits(2)]
    pub shcfg: u8,
    /// EXIDVALID: the group is valid, where SMMU_CR0.EXIDENABLE is 1.
    pub exidvalid: bool,
    /// MTCFG.
    pub mtcfg: bool,
    /// MemAttr.
    #[bits(4)]
    pub mem_attr: u8,
    /// TYPE: [`S2CR_TRANSLATE`], [`S2CR_BYPASS`] or [`S2CR_FAULT`].
    #[bits(2)]
    pub kind: u8,
    /// NSCFG: for Secure groups only.
    #[bits(2)]
    pub nscfg: u8,
    /// RACFG.
    #[bits(2)]
    pub racfg: u8,
    /// WACFG.
    #[bits(2)]
    pub wacfg: u8,
    /// PRIVCFG.
    #[bits(2)]
    pub privcfg: u8,
    /// INSTCFG.
    #[bits(2)]
    pub instcfg: u8,
    /// TRANSIENTCFG.
    #[bits(2)]
    pub transientcfg: u8,
    #[bits(2)]
    __: u8,
}

/// SMMU_CBARn.TYPE: stage 2.
pub const CBAR_STAGE2: u8 = 0b00;
/// SMMU_CBARn.TYPE: stage 1, and stage 2 is bypassed.
pub const CBAR_STAGE1_BYPASS: u8 = 0b01;
/// SMMU_CBARn.TYPE: stage 1, and stage 2 faults: so does all traffic.
pub const CBAR_STAGE1_FAULT: u8 = 0b10;
/// SMMU_CBARn.TYPE: stage 1 followed by stage 2.
pub const CBAR_NESTED: u8 = 0b11;
/// SMMU_CBARn.BPSHCFG: non-shareable, so that what stage 1 says stands.
pub const BPSHCFG_NON_SHAREABLE: u8 = 0b11;
/// MemAttr: Normal write-back inside and out, so that what stage 1 says stands.
///
/// Spec: SMMUv2 D.c, 9.4 "Memory attribute, MemAttr".
pub const MEM_ATTR_WRITE_BACK: u8 = 0b1111;

/// SMMU_CBARn, in the format of stage 1 with stage 2 bypass. The others have VMID, TYPE and IRPTNDX of it.
///
/// Spec: SMMUv2 D.c, 10.2.1 "SMMU_CBARn, Context Bank Attribute Registers".
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct Cbar {
    /// VMID.
    pub vmid: u8,
    /// BPSHCFG.
    #[bits(2)]
    pub bpshcfg: u8,
    /// HYPC, or E2HC.
    pub hypc: bool,
    /// FB.
    pub fb: bool,
    /// MemAttr.
    #[bits(4)]
    pub mem_attr: u8,
    /// TYPE: [`CBAR_STAGE2`] and its kin.
    #[bits(2)]
    pub kind: u8,
    /// BSU.
    #[bits(2)]
    pub bsu: u8,
    /// RACFG.
    #[bits(2)]
    pub racfg: u8,
    /// WACFG.
    #[bits(2)]
    pub wacfg: u8,
    /// IRPTNDX: the interrupt, where banks do not have their own.
    pub irptndx: u8,
}

/// SMMU_CBARn, in the format of stage 1 followed by stage 2.
///
/// Spec: SMMUv2 D.c, 10.2.1 "SMMU_CBARn, Context Bank Attribute Registers".
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct NestedCbar {
    /// VMID, the same as of the stage 2 bank.
    pub vmid: u8,
    /// CBNDX: the bank of stage 2.
    pub cbndx: u8,
    /// TYPE: [`CBAR_NESTED`].
    #[bits(2)]
    pub kind: u8,
    #[bits(6)]
    __: u8,
    /// IRPTNDX: the interrupt, where banks do not have their own.
    pub irptndx: u8,
}

/// SMMU_CBA2Rn. Spec: SMMUv2 D.c, 10.2.2 "SMMU_CBA2Rn, Context Bank Attribute Registers".
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct Cba2r {
    /// VA64: AArch64's translation scheme.
    pub va64: bool,
    /// MONC.
    pub monc: bool,
    #[bits(14)]
    __: u16,
    /// VMID16: the VMID where SMMU_CR0.VMID16EN is 1.
    pub vmid16: u16,
}

/// SMMU_CBFRSYNRAn and SMMU_GFSYNR1: who.
///
/// Spec: SMMUv2 D.c, 10.2.3 "SMMU_CBFRSYNRAn, Context Bank Fault Restricted Syndrome Register A", 9.6.18 "SMMU_sGFSYNR1".
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct FaultStream {
    /// StreamID.
    pub stream_id: u16,
    /// SSD_Index: for Secure software.
    pub ssd_index: u16,
}

/// SMMU_GFSR. What is written as 1 is cleared.
///
/// Choice: the book's text of ICF says 0 for a fault and 1 for none, which its other bits and its own prose ("nonzero") contradict; it is read as a
/// slip.
///
/// Spec: SMMUv2 D.c, 9.6.15 "SMMU_sGFSR, Global Fault Status Register".
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct Gfsr {
    /// ICF: invalid context.
    pub icf: bool,
    /// USF: unidentified stream.
    pub usf: bool,
    /// SMCF: several groups match.
    pub smcf: bool,
    /// UCBF: unimplemented context bank.
    pub ucbf: bool,
    /// UCIF: unimplemented context interrupt.
    pub ucif: bool,
    /// CAF: configuration access.
    pub caf: bool,
    /// EF: external abort.
    pub ef: bool,
    /// PF: permission.
    pub pf: bool,
    /// UUT: unsupported upstream transaction.
    pub uut: bool,
    #[bits(22)]
    __: u32,
    /// MULTI: there was another, of which nothing is recorded.
    pub multi: bool,
}

/// SMMU_GFSYNR0. Spec: SMMUv2 D.c, 9.6.17 "SMMU_sGFSYNR0, Global Fault Syndrome Register 0".
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct Gfsynr0 {
    /// Nested: in the stage 2 context behind a stage 1 context.
    pub nested: bool,
    /// WNR: a write.
    pub wnr: bool,
    /// PNU: privileged.
    pub pnu: bool,
    /// IND: an instruction fetch.
    pub ind: bool,
    /// NSSTATE.
    pub nsstate: bool,
    /// NSATTR.
    pub nsattr: bool,
    /// ATS: an address translation operation.
    pub ats: bool,
    #[bits(25)]
    __: u32,
}

/// SMMU_TLBGSTATUS. Spec: SMMUv2 D.c, 9.6.21 "SMMU_sTLBGSTATUS, Global TLB Status register".
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct TlbGstatus {
    /// GSACTIVE: a sync is under way.
    pub gsactive: bool,
    #[bits(31)]
    __: u32,
}
