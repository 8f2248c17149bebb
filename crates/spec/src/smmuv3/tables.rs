//! Table entries: L1STD, STE, L1CD and CD, one type for each 64-bit word that has fields.
//!
//! Addresses are fields without the low bits that are always 0, as in the book; the `…_address` methods give and take whole addresses.
//!
//! Spec: SMMUv3 H.a, 5 "Data structure formats".

use bitfield_struct::bitfield;

/// 64-bit words of a stream table entry.
pub const STE_WORDS: usize = 8;
/// Bytes of a stream table entry.
pub const STE_BYTES: u64 = 64;
/// 64-bit words of a context descriptor.
pub const CD_WORDS: usize = 8;
/// Bytes of a context descriptor.
pub const CD_BYTES: u64 = 64;
/// Bytes of a level 1 descriptor, of either table.
pub const LEVEL1_BYTES: u64 = 8;

/// Level 1 stream table descriptor.
///
/// Spec: SMMUv3 H.a, 5.1 "L1STD, Level 1 Stream Table Descriptor".
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct L1Std {
    /// The table at `l2_ptr` has `1 << (span - 1)` entries; 0 for none, at most SPLIT + 1.
    #[bits(5)]
    pub span: u8,
    __: bool,
    /// L2Ptr: bits 55:6 of the table's address.
    #[bits(50)]
    pub l2_ptr: u64,
    __: u8,
}

impl L1Std {
    /// With L2Ptr for the table at `address`, a multiple of its size.
    pub const fn with_l2_ptr_address(self, address: u64) -> Self {
        self.with_l2_ptr((address >> 6) & ((1 << 50) - 1))
    }

    /// The address in L2Ptr.
    pub const fn l2_ptr_address(self) -> u64 {
        self.l2_ptr() << 6
    }
}

/// STE.Config: traffic is aborted, nothing is recorded.
///
/// Spec: SMMUv3 H.a, 5.2 "STE, Stream Table Entry", Config.
pub const CONFIG_ABORT: u8 = 0b000;
/// STE.Config: traffic bypasses both stages.
pub const CONFIG_BYPASS: u8 = 0b100;
/// STE.Config: stage 1 translates.
pub const CONFIG_STAGE_1: u8 = 0b101;
/// STE.Config: stage 2 translates.
pub const CONFIG_STAGE_2: u8 = 0b110;
/// STE.Config: both stages translate.
pub const CONFIG_NESTED: u8 = 0b111;
/// STE.Config: the bit that says that stage 1 translates, where bit 2 is set.
pub const CONFIG_STAGE_1_BIT: u8 = 0b001;
/// STE.Config: the bit that says that stage 2 translates, where bit 2 is set.
pub const CONFIG_STAGE_2_BIT: u8 = 0b010;

/// STE.S1Fmt: a linear table of CDs.
pub const S1FMT_LINEAR: u8 = 0b00;
/// STE.S1Fmt: two levels, second-level tables of 4 KiB.
pub const S1FMT_4K_L2: u8 = 0b01;
/// STE.S1Fmt: two levels, second-level tables of 64 KiB.
pub const S1FMT_64K_L2: u8 = 0b10;

/// STE.S1DSS: traffic without a SubstreamID is aborted.
pub const S1DSS_TERMINATE: u8 = 0b00;
/// STE.S1DSS: traffic without a SubstreamID bypasses stage 1.
pub const S1DSS_BYPASS: u8 = 0b01;
/// STE.S1DSS: traffic without a SubstreamID uses CD 0.
pub const S1DSS_SSID0: u8 = 0b10;

/// STE.EATS: ATS is off.
pub const EATS_OFF: u8 = 0b00;
/// STE.EATS: full ATS.
pub const EATS_FULL: u8 = 0b01;
/// STE.EATS: split-stage ATS.
pub const EATS_SPLIT: u8 = 0b10;

/// STE.STRW: the stream world is NS-EL1.
pub const STRW_NS_EL1: u8 = 0b00;
/// STE.STRW: the stream world is NS-EL2, or with CR2.E2H, NS-EL2-E2H.
pub const STRW_EL2: u8 = 0b10;

/// STE.SHCFG: the shareability that comes in is used.
pub const SHCFG_INCOMING: u8 = 0b01;

/// STE bits 63:0.
///
/// Spec: SMMUv3 H.a, 5.2 "STE, Stream Table Entry".
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct SteWord0 {
    /// The entry is valid.
    pub v: bool,
    /// [`CONFIG_ABORT`] and its kin.
    #[bits(3)]
    pub config: u8,
    /// [`S1FMT_LINEAR`] and its kin; ignored where S1CDMax is 0.
    #[bits(2)]
    pub s1_fmt: u8,
    /// S1ContextPtr: bits 55:6 of the address of the CD or table of CDs.
    #[bits(50)]
    pub s1_context_ptr: u64,
    #[bits(3)]
    __: u8,
    /// S1CDMax: how many CDs there are, as log2.
    #[bits(5)]
    pub s1_cd_max: u8,
}

impl SteWord0 {
    /// With S1ContextPtr for `address`, a multiple of 64.
    pub const fn with_s1_context_ptr_address(self, address: u64) -> Self {
        self.with_s1_context_ptr((address >> 6) & ((1 << 50) - 1))
    }

    /// The address in S1ContextPtr.
    pub const fn s1_context_ptr_address(self) -> u64 {
        self.s1_context_ptr() << 6
    }
}

/// STE bits 127:64.
///
/// Spec: SMMUv3 H.a, 5.2 "STE, Stream Table Entry".
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct SteWord1 {
    /// What becomes of traffic without a SubstreamID: [`S1DSS_TERMINATE`] and its kin.
    #[bits(2)]
    pub s1_dss: u8,
    /// Inner cacheability of CD fetches: 1 is write-back.
    #[bits(2)]
    pub s1_cir: u8,
    /// Outer cacheability of CD fetches.
    #[bits(2)]
    pub s1_cor: u8,
    /// Shareability of CD fetches.
    #[bits(2)]
    pub s1_csh: u8,
    /// S2HWU59 to S2HWU62: stage 2 descriptor bits that hardware may use.
    #[bits(4)]
    pub s2_hwu: u8,
    /// Destructive reads are allowed.
    pub dre: bool,
    /// The entry is the same as its neighbours in a span of `1 << cont`.
    #[bits(4)]
    pub cont: u8,
    /// Directed cache prefetch is allowed.
    pub dcp: bool,
    /// Automatic page responses carry the PASID.
    pub ppar: bool,
    /// Events of terminated traffic may be merged.
    pub mev: bool,
    /// Reserved for software.
    #[bits(4)]
    pub software: u8,
    __: bool,
    /// Stage 2 forces memory types.
    pub s2_fwb: bool,
    /// MPAM values come from the CD.
    pub s1_mpam: bool,
    /// Stage 1 may not stall.
    pub s1_stalld: bool,
    /// [`EATS_OFF`] and its kin.
    #[bits(2)]
    pub eats: u8,
    /// [`STRW_NS_EL1`] and its kin.
    #[bits(2)]
    pub strw: u8,
    /// Memory type that replaces the incoming one where `mtcfg` is set.
    #[bits(4)]
    pub mem_attr: u8,
    /// The incoming memory type is replaced.
    pub mtcfg: bool,
    /// Override of allocation hints.
    #[bits(4)]
    pub alloccfg: u8,
    #[bits(3)]
    __: u8,
    /// Override of shareability; [`SHCFG_INCOMING`] uses what comes in. Reserved, 0, where IDR1.ATTR_TYPES_OVR is 0.
    #[bits(2)]
    pub shcfg: u8,
    /// Override of the Non-secure attribute.
    #[bits(2)]
    pub nscfg: u8,
    /// Override of privilege: 2 unprivileged, 3 privileged.
    #[bits(2)]
    pub privcfg: u8,
    /// Override of instruction or data: 2 data, 3 instruction.
    #[bits(2)]
    pub instcfg: u8,
    /// Implementation defined.
    #[bits(12)]
    pub impdef: u16,
}

/// STE bits 191:128.
///
/// Spec: SMMUv3 H.a, 5.2 "STE, Stream Table Entry".
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct SteWord2 {
    /// The VMID that tags TLB entries, also of stage 1 where stage 2 is implemented.
    pub s2_vmid: u16,
    /// Implementation defined.
    pub impdef: u16,
    /// The input region of stage 2 has `64 - s2_t0sz` bits.
    #[bits(6)]
    pub s2_t0sz: u8,
    /// Starting level of stage 2, with `s2_sl0_2` above it.
    #[bits(2)]
    pub s2_sl0: u8,
    /// Inner cacheability of stage 2 walks.
    #[bits(2)]
    pub s2_ir0: u8,
    /// Outer cacheability of stage 2 walks.
    #[bits(2)]
    pub s2_or0: u8,
    /// Shareability of stage 2 walks.
    #[bits(2)]
    pub s2_sh0: u8,
    /// Granule of stage 2, as [`TG0_4K`] and its kin.
    #[bits(2)]
    pub s2_tg: u8,
    /// Output size of stage 2, as [`address_bits`](super::address_bits) reads it.
    #[bits(3)]
    pub s2_ps: u8,
    /// Stage 2 tables are VMSAv8-64.
    pub s2_aa64: bool,
    /// Stage 2 tables are big-endian.
    pub s2_endi: bool,
    /// A clear access flag is no fault.
    pub s2_affd: bool,
    /// A stage 1 walk or CD fetch from Device memory is a fault.
    pub s2_ptw: bool,
    /// Hardware updates dirty state.
    pub s2_hd: bool,
    /// Hardware updates access flags.
    pub s2_ha: bool,
    /// Stage 2 faults stall.
    pub s2_s: bool,
    /// Stage 2 faults are recorded.
    pub s2_r: bool,
    /// Hardware updates access flags of table descriptors.
    pub s2_haft: bool,
    /// Stage 2 permission indirection.
    pub s2_pie: bool,
    /// Stage 2 permission overlays.
    pub s2_poe: bool,
    /// Match of VMIDs in the device permission table.
    #[bits(2)]
    pub dpt_vmatch: u8,
}

/// STE bits 255:192.
///
/// Spec: SMMUv3 H.a, 5.2 "STE, Stream Table Entry".
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct SteWord3 {
    /// Secure streams only.
    pub s2_nsw: bool,
    /// Secure streams only.
    pub s2_nsa: bool,
    /// Bit 2 of S2SL0.
    pub s2_sl0_2: bool,
    /// 52-bit addresses with the 4 KiB and 16 KiB granules.
    pub s2_ds: bool,
    /// S2TTB: bits 55:4 of the address of the root table.
    #[bits(52)]
    pub s2_ttb: u64,
    __: u8,
}

impl SteWord3 {
    /// With S2TTB for `address`, a multiple of 16.
    pub const fn with_s2_ttb_address(self, address: u64) -> Self {
        self.with_s2_ttb((address >> 4) & ((1 << 52) - 1))
    }

    /// The address in S2TTB.
    pub const fn s2_ttb_address(self) -> u64 {
        self.s2_ttb() << 4
    }
}

/// Level 1 context descriptor.
///
/// Spec: SMMUv3 H.a, 5.3 "L1CD, Level 1 Context Descriptor".
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct L1Cd {
    /// The descriptor is valid.
    pub v: bool,
    #[bits(11)]
    __: u16,
    /// L2Ptr: bits 55:12 of the address of the table of CDs.
    #[bits(44)]
    pub l2_ptr: u64,
    __: u8,
}

impl L1Cd {
    /// With L2Ptr for the table at `address`, a multiple of its size.
    pub const fn with_l2_ptr_address(self, address: u64) -> Self {
        self.with_l2_ptr((address >> 12) & ((1 << 44) - 1))
    }

    /// The address in L2Ptr.
    pub const fn l2_ptr_address(self) -> u64 {
        self.l2_ptr() << 12
    }
}

/// CD.TG0 and STE.S2TG: granule of 4 KiB.
///
/// Spec: SMMUv3 H.a, 5.4 "CD, Context Descriptor", TG0. (TG1 has another encoding.)
pub const TG0_4K: u8 = 0b00;
/// CD.TG0 and STE.S2TG: granule of 64 KiB.
pub const TG0_64K: u8 = 0b01;
/// CD.TG0 and STE.S2TG: granule of 16 KiB.
pub const TG0_16K: u8 = 0b10;

/// Cacheability of translation table walks (CD.IR0, OR0, STE.S2IR0, S2OR0): not cached.
///
/// Spec: SMMUv3 H.a, 5.4 "CD, Context Descriptor", IR0.
pub const WALK_NON_CACHEABLE: u8 = 0b00;
/// Cacheability of translation table walks: write-back, read-allocate, write-allocate.
pub const WALK_WRITE_BACK: u8 = 0b01;

/// CD bits 63:0.
///
/// Spec: SMMUv3 H.a, 5.4 "CD, Context Descriptor".
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct CdWord0 {
    /// The region of TTB0 has `64 - t0sz` bits.
    #[bits(6)]
    pub t0sz: u8,
    /// Granule of TTB0: [`TG0_4K`] and its kin.
    #[bits(2)]
    pub tg0: u8,
    /// Inner cacheability of walks through TTB0.
    #[bits(2)]
    pub ir0: u8,
    /// Outer cacheability of walks through TTB0.
    #[bits(2)]
    pub or0: u8,
    /// Shareability of walks through TTB0.
    #[bits(2)]
    pub sh0: u8,
    /// No walks through TTB0: a miss is F_TRANSLATION.
    pub epd0: bool,
    /// Translation tables are big-endian.
    pub endi: bool,
    /// The region of TTB1 has `64 - t1sz` bits.
    #[bits(6)]
    pub t1sz: u8,
    /// Granule of TTB1: 1 is 16 KiB, 2 is 4 KiB, 3 is 64 KiB.
    #[bits(2)]
    pub tg1: u8,
    /// Inner cacheability of walks through TTB1.
    #[bits(2)]
    pub ir1: u8,
    /// Outer cacheability of walks through TTB1.
    #[bits(2)]
    pub or1: u8,
    /// Shareability of walks through TTB1.
    #[bits(2)]
    pub sh1: u8,
    /// No walks through TTB1.
    pub epd1: bool,
    /// The descriptor is valid.
    pub v: bool,
    /// Output size of stage 1, as [`address_bits`](super::address_bits) reads it.
    #[bits(3)]
    pub ips: u8,
    /// A clear access flag is no fault.
    pub affd: bool,
    /// What can be written cannot be executed.
    pub wxn: bool,
    /// What the unprivileged can write, the privileged cannot execute.
    pub uwxn: bool,
    /// The top byte of addresses through TTB0 is ignored.
    pub tbi0: bool,
    /// The top byte of addresses through TTB1 is ignored.
    pub tbi1: bool,
    /// The privileged cannot access what the unprivileged can.
    pub pan: bool,
    /// Tables are VMSAv8-64.
    pub aa64: bool,
    /// Hardware updates dirty state.
    pub hd: bool,
    /// Hardware updates access flags.
    pub ha: bool,
    /// Faults stall.
    pub s: bool,
    /// Faults are recorded.
    pub r: bool,
    /// A terminated transaction is aborted, not ignored.
    pub a: bool,
    /// The ASID is *not* shared with the CPUs.
    pub aset: bool,
    /// The ASID.
    pub asid: u16,
}

/// CD bits 127:64.
///
/// Spec: SMMUv3 H.a, 5.4 "CD, Context Descriptor".
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct CdWord1 {
    /// Secure streams only.
    pub nscfg0: bool,
    /// Attributes in table descriptors of TTB0 are ignored.
    pub had0: bool,
    /// The unprivileged have no access through TTB0.
    pub e0pd0: bool,
    /// Hardware updates access flags of table descriptors.
    pub haft: bool,
    /// TTB0: bits 55:4 of the address of the root table. Bits 55:52 are reserved with VMSAv8-64.
    #[bits(52)]
    pub ttb0: u64,
    #[bits(2)]
    __: u8,
    /// Protected attribute.
    pub pnch: bool,
    /// Enhanced PAN.
    pub epan: bool,
    /// HWU059 to HWU062: descriptor bits that hardware may use.
    #[bits(4)]
    pub hwu0: u8,
}

impl CdWord1 {
    /// With TTB0 for `address`, a multiple of 16.
    pub const fn with_ttb0_address(self, address: u64) -> Self {
        self.with_ttb0((address >> 4) & ((1 << 52) - 1))
    }

    /// The address in TTB0.
    pub const fn ttb0_address(self) -> u64 {
        self.ttb0() << 4
    }
}

/// CD bits 191:128.
///
/// Spec: SMMUv3 H.a, 5.4 "CD, Context Descriptor".
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct CdWord2 {
    /// Secure streams only.
    pub nscfg1: bool,
    /// Attributes in table descriptors of TTB1 are ignored.
    pub had1: bool,
    /// The unprivileged have no access through TTB1.
    pub e0pd1: bool,
    /// Attribute index extension.
    pub aie: bool,
    /// TTB1: bits 55:4 of the address of the root table.
    #[bits(52)]
    pub ttb1: u64,
    #[bits(2)]
    __: u8,
    /// 52-bit addresses with the 4 KiB and 16 KiB granules.
    pub ds: bool,
    /// Permission indirection.
    pub pie: bool,
    /// HWU159 to HWU162: descriptor bits that hardware may use.
    #[bits(4)]
    pub hwu1: u8,
}

/// CD bits 255:192.
///
/// Spec: SMMUv3 H.a, 5.4 "CD, Context Descriptor", MAIR0 and MAIR1.
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct CdWord3 {
    /// MAIR1 above MAIR0: eight attribute bytes, the one for index 0 lowest.
    pub mair: u64,
}
