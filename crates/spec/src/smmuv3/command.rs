//! Entries of the command queue.
//!
//! A [`Command`] is its two words as they lie in the queue. Each constructor makes one kind of command; all its other fields are 0.
//!
//! Spec: SMMUv3 H.a, 4 "Commands".

use bitfield_struct::bitfield;

/// Bytes of a command.
pub const COMMAND_BYTES: u64 = 16;

/// What a command does. Numbers that the book does not name are kept.
///
/// Spec: SMMUv3 H.a, 4.1.1 "Command opcodes".
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Opcode(pub u8);

impl Opcode {
    /// Spec: SMMUv3 H.a, 4.2.1 "CMD_PREFETCH_CONFIG".
    pub const PREFETCH_CONFIG: Self = Self(0x01);
    /// Spec: SMMUv3 H.a, 4.2.2 "CMD_PREFETCH_ADDR".
    pub const PREFETCH_ADDR: Self = Self(0x02);
    /// Spec: SMMUv3 H.a, 4.3.1 "CMD_CFGI_STE".
    pub const CFGI_STE: Self = Self(0x03);
    /// Also CMD_CFGI_ALL, with a range of 31. Spec: SMMUv3 H.a, 4.3.2 "CMD_CFGI_STE_RANGE".
    pub const CFGI_STE_RANGE: Self = Self(0x04);
    /// Spec: SMMUv3 H.a, 4.3.3 "CMD_CFGI_CD".
    pub const CFGI_CD: Self = Self(0x05);
    /// Spec: SMMUv3 H.a, 4.3.4 "CMD_CFGI_CD_ALL".
    pub const CFGI_CD_ALL: Self = Self(0x06);
    /// Spec: SMMUv3 H.a, 4.3.5 "CMD_CFGI_VMS_PIDM".
    pub const CFGI_VMS_PIDM: Self = Self(0x07);
    /// Spec: SMMUv3 H.a, 4.4.2.1 "CMD_TLBI_NH_ALL".
    pub const TLBI_NH_ALL: Self = Self(0x10);
    /// Spec: SMMUv3 H.a, 4.4.2.2 "CMD_TLBI_NH_ASID".
    pub const TLBI_NH_ASID: Self = Self(0x11);
    /// Spec: SMMUv3 H.a, 4.4.2.4 "CMD_TLBI_NH_VA".
    pub const TLBI_NH_VA: Self = Self(0x12);
    /// Spec: SMMUv3 H.a, 4.4.2.3 "CMD_TLBI_NH_VAA".
    pub const TLBI_NH_VAA: Self = Self(0x13);
    /// Spec: SMMUv3 H.a, 4.4.2.5 "CMD_TLBI_EL3_ALL".
    pub const TLBI_EL3_ALL: Self = Self(0x18);
    /// Spec: SMMUv3 H.a, 4.4.2.6 "CMD_TLBI_EL3_VA".
    pub const TLBI_EL3_VA: Self = Self(0x1a);
    /// Spec: SMMUv3 H.a, 4.4.2.7 "CMD_TLBI_EL2_ALL".
    pub const TLBI_EL2_ALL: Self = Self(0x20);
    /// Spec: SMMUv3 H.a, 4.4.2.10 "CMD_TLBI_EL2_ASID".
    pub const TLBI_EL2_ASID: Self = Self(0x21);
    /// Spec: SMMUv3 H.a, 4.4.2.8 "CMD_TLBI_EL2_VA".
    pub const TLBI_EL2_VA: Self = Self(0x22);
    /// Spec: SMMUv3 H.a, 4.4.2.9 "CMD_TLBI_EL2_VAA".
    pub const TLBI_EL2_VAA: Self = Self(0x23);
    /// Spec: SMMUv3 H.a, 4.4.3.2 "CMD_TLBI_S12_VMALL".
    pub const TLBI_S12_VMALL: Self = Self(0x28);
    /// Spec: SMMUv3 H.a, 4.4.3.1 "CMD_TLBI_S2_IPA".
    pub const TLBI_S2_IPA: Self = Self(0x2a);
    /// Spec: SMMUv3 H.a, 4.4.4.1 "CMD_TLBI_NSNH_ALL".
    pub const TLBI_NSNH_ALL: Self = Self(0x30);
    /// Spec: SMMUv3 H.a, 4.5.1 "CMD_ATC_INV".
    pub const ATC_INV: Self = Self(0x40);
    /// Spec: SMMUv3 H.a, 4.5.2 "CMD_PRI_RESP".
    pub const PRI_RESP: Self = Self(0x41);
    /// Spec: SMMUv3 H.a, 4.7.1 "CMD_RESUME".
    pub const RESUME: Self = Self(0x44);
    /// Spec: SMMUv3 H.a, 4.7.2 "CMD_STALL_TERM".
    pub const STALL_TERM: Self = Self(0x45);
    /// Spec: SMMUv3 H.a, 4.7.3 "CMD_SYNC".
    pub const SYNC: Self = Self(0x46);

    /// The book's name; none for a number it does not name or names for other security states only.
    pub const fn name(self) -> Option<&'static str> {
        Some(match self {
            Self::PREFETCH_CONFIG => "CMD_PREFETCH_CONFIG",
            Self::PREFETCH_ADDR => "CMD_PREFETCH_ADDR",
            Self::CFGI_STE => "CMD_CFGI_STE",
            Self::CFGI_STE_RANGE => "CMD_CFGI_STE_RANGE",
            Self::CFGI_CD => "CMD_CFGI_CD",
            Self::CFGI_CD_ALL => "CMD_CFGI_CD_ALL",
            Self::CFGI_VMS_PIDM => "CMD_CFGI_VMS_PIDM",
            Self::TLBI_NH_ALL => "CMD_TLBI_NH_ALL",
            Self::TLBI_NH_ASID => "CMD_TLBI_NH_ASID",
            Self::TLBI_NH_VA => "CMD_TLBI_NH_VA",
            Self::TLBI_NH_VAA => "CMD_TLBI_NH_VAA",
            Self::TLBI_EL3_ALL => "CMD_TLBI_EL3_ALL",
            Self::TLBI_EL3_VA => "CMD_TLBI_EL3_VA",
            Self::TLBI_EL2_ALL => "CMD_TLBI_EL2_ALL",
            Self::TLBI_EL2_ASID => "CMD_TLBI_EL2_ASID",
            Self::TLBI_EL2_VA => "CMD_TLBI_EL2_VA",
            Self::TLBI_EL2_VAA => "CMD_TLBI_EL2_VAA",
            Self::TLBI_S12_VMALL => "CMD_TLBI_S12_VMALL",
            Self::TLBI_S2_IPA => "CMD_TLBI_S2_IPA",
            Self::TLBI_NSNH_ALL => "CMD_TLBI_NSNH_ALL",
            Self::ATC_INV => "CMD_ATC_INV",
            Self::PRI_RESP => "CMD_PRI_RESP",
            Self::RESUME => "CMD_RESUME",
            Self::STALL_TERM => "CMD_STALL_TERM",
            Self::SYNC => "CMD_SYNC",
            Self(_) => return None,
        })
    }
}

/// A command: its two words.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Command(pub [u64; 2]);

/// The first word of a command that names a stream, and perhaps a substream.
///
/// Spec: SMMUv3 H.a, 4.1.6 "Common command fields" and 4.3.3 "CMD_CFGI_CD".
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct StreamWord {
    /// The opcode.
    pub opcode: u8,
    #[bits(2)]
    __: u8,
    /// SSec: the StreamID is Secure. 0 in the Non-secure queue.
    pub ssec: bool,
    /// SSV: a SubstreamID is given, in commands where that is a choice.
    pub ssv: bool,
    /// The SubstreamID.
    #[bits(20)]
    pub substream_id: u32,
    /// The StreamID.
    pub stream_id: u32,
}

/// The first word of a TLB invalidation.
///
/// Spec: SMMUv3 H.a, 4.4.1 "Common TLB invalidation fields" and 4.4.2.4 "CMD_TLBI_NH_VA".
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct TlbiWord0 {
    /// The opcode.
    pub opcode: u8,
    #[bits(4)]
    __: u8,
    /// NUM: one less than how many times `1 << scale` granules are meant. Reserved, 0, where TG is 0.
    #[bits(5)]
    pub num: u8,
    #[bits(3)]
    __: u8,
    /// SCALE. Reserved, 0, where TG is 0; below 32 where IDR5.DS is 0, and at most 39 where it is 1.
    #[bits(6)]
    pub scale: u8,
    #[bits(6)]
    __: u8,
    /// The VMID.
    pub vmid: u16,
    /// The ASID.
    pub asid: u16,
}

/// The second word of a TLB invalidation by address.
///
/// Spec: SMMUv3 H.a, 4.4.1 "Common TLB invalidation fields" and 4.4.2.4 "CMD_TLBI_NH_VA".
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct TlbiWord1 {
    /// Only entries of the last level are meant.
    pub leaf: bool,
    #[bits(6)]
    __: u8,
    /// TTL is about 128-bit descriptors.
    pub ttl128: bool,
    /// TTL: the level that holds the leaves; 0 for any.
    #[bits(2)]
    pub ttl: u8,
    /// TG: the granule, [`TG_ANY`] and its kin.
    #[bits(2)]
    pub tg: u8,
    /// Bits 63:12 of the address.
    #[bits(52)]
    pub address: u64,
}

/// TLB invalidation: any granule, no range, no level hint.
///
/// Spec: SMMUv3 H.a, 4.4.1.1 "Range-based invalidation and level hint", TG.
pub const TG_ANY: u8 = 0b00;
/// TLB invalidation: granule of 4 KiB.
pub const TG_4K: u8 = 0b01;
/// TLB invalidation: granule of 16 KiB.
pub const TG_16K: u8 = 0b10;
/// TLB invalidation: granule of 64 KiB.
pub const TG_64K: u8 = 0b11;

/// The first word of CMD_SYNC.
///
/// Spec: SMMUv3 H.a, 4.7.3 "CMD_SYNC".
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct SyncWord0 {
    /// The opcode.
    pub opcode: u8,
    #[bits(4)]
    __: u8,
    /// CS: how completion is signalled, [`SIG_NONE`] and its kin.
    #[bits(2)]
    pub cs: u8,
    #[bits(8)]
    __: u8,
    /// MSH: shareability of the MSI write.
    #[bits(2)]
    pub msh: u8,
    /// MSIAttr: memory type of the MSI write, as STE.MemAttr.
    #[bits(4)]
    pub msi_attr: u8,
    #[bits(4)]
    __: u8,
    /// MSIData: the word that is written.
    pub msi_data: u32,
}

/// CMD_SYNC: no signal, the sync is consumed.
pub const SIG_NONE: u8 = 0b00;
/// CMD_SYNC: an interrupt, or an MSI if the address is not 0.
pub const SIG_IRQ: u8 = 0b01;
/// CMD_SYNC: a wake-up event.
pub const SIG_SEV: u8 = 0b10;

/// How a TLB invalidation by address says which entries it means.
///
/// Spec: SMMUv3 H.a, 4.4.1.1 "Range-based invalidation and level hint".
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct TlbiTarget {
    /// The first address, a multiple of 4 KiB.
    pub address: u64,
    /// Only entries of the last level.
    pub leaf: bool,
    /// The granule: [`TG_ANY`] for one address, otherwise a range.
    pub tg: u8,
    /// The level that holds the leaves; 0 for any.
    pub ttl: u8,
    /// `num + 1` times `1 << scale` granules.
    pub num: u8,
    /// See `num`.
    pub scale: u8,
}

impl TlbiTarget {
    const fn word1(self) -> u64 {
        TlbiWord1::new()
            .with_leaf(self.leaf)
            .with_ttl(self.ttl)
            .with_tg(self.tg)
            .with_address(self.address >> 12)
            .into_bits()
    }

    const fn word0(self, opcode: Opcode) -> TlbiWord0 {
        TlbiWord0::new().with_opcode(opcode.0).with_num(self.num).with_scale(self.scale)
    }
}

/// What becomes of a stalled transaction.
///
/// Spec: SMMUv3 H.a, 4.7.1 "CMD_RESUME", Ac and Ab.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Resume {
    /// It is tried again.
    Retry,
    /// It is aborted.
    Abort,
    /// It reads zero, or its write is ignored; aborted where IDR0.TERM_MODEL is 1.
    Terminate,
}

impl Command {
    const fn stream(opcode: Opcode, stream_id: u32, word1: u64) -> Self {
        Self([StreamWord::new().with_opcode(opcode.0).with_stream_id(stream_id).into_bits(), word1])
    }

    /// What the command does.
    pub const fn opcode(self) -> Opcode {
        Opcode((self.0[0] & 0xff) as u8)
    }

    /// Forgets a cached STE; unless `leaf`, also the L1STD above it.
    ///
    /// Spec: SMMUv3 H.a, 4.3.1 "CMD_CFGI_STE".
    pub const fn cfgi_ste(stream_id: u32, leaf: bool) -> Self {
        Self::stream(Opcode::CFGI_STE, stream_id, leaf as u64)
    }

    /// Forgets the cached STEs, and L1STDs above them, of the `1 << (range + 1)` streams around `stream_id` that share its high bits.
    ///
    /// Spec: SMMUv3 H.a, 4.3.2 "CMD_CFGI_STE_RANGE".
    pub const fn cfgi_ste_range(stream_id: u32, range: u8) -> Self {
        Self::stream(Opcode::CFGI_STE_RANGE, stream_id, (range & 0x1f) as u64)
    }

    /// Forgets all cached configuration.
    ///
    /// Spec: SMMUv3 H.a, 4.3.6 "CMD_CFGI_ALL".
    pub const fn cfgi_all() -> Self {
        Self::cfgi_ste_range(0, 31)
    }

    /// Forgets a cached CD; unless `leaf`, also the L1CD above it.
    ///
    /// Spec: SMMUv3 H.a, 4.3.3 "CMD_CFGI_CD".
    pub const fn cfgi_cd(stream_id: u32, substream_id: u32, leaf: bool) -> Self {
        let word = StreamWord::new()
            .with_opcode(Opcode::CFGI_CD.0)
            .with_stream_id(stream_id)
            .with_substream_id(substream_id & 0xf_ffff);
        Self([word.into_bits(), leaf as u64])
    }

    /// Forgets all cached CDs of a stream.
    ///
    /// Spec: SMMUv3 H.a, 4.3.4 "CMD_CFGI_CD_ALL".
    pub const fn cfgi_cd_all(stream_id: u32) -> Self {
        Self::stream(Opcode::CFGI_CD_ALL, stream_id, 0)
    }

    /// Forgets stage 1 TLB entries of a VMID, global ones included.
    ///
    /// Spec: SMMUv3 H.a, 4.4.2.1 "CMD_TLBI_NH_ALL".
    pub const fn tlbi_nh_all(vmid: u16) -> Self {
        Self([TlbiWord0::new().with_opcode(Opcode::TLBI_NH_ALL.0).with_vmid(vmid).into_bits(), 0])
    }

    /// Forgets the stage 1 TLB entries of an ASID that are not global.
    ///
    /// Spec: SMMUv3 H.a, 4.4.2.2 "CMD_TLBI_NH_ASID".
    pub const fn tlbi_nh_asid(vmid: u16, asid: u16) -> Self {
        let word = TlbiWord0::new().with_opcode(Opcode::TLBI_NH_ASID.0).with_vmid(vmid).with_asid(asid);
        Self([word.into_bits(), 0])
    }

    /// Forgets the stage 1 TLB entries of an ASID for these addresses.
    ///
    /// Spec: SMMUv3 H.a, 4.4.2.4 "CMD_TLBI_NH_VA".
    pub const fn tlbi_nh_va(vmid: u16, asid: u16, target: TlbiTarget) -> Self {
        let word = target.word0(Opcode::TLBI_NH_VA).with_vmid(vmid).with_asid(asid);
        Self([word.into_bits(), target.word1()])
    }

    /// Forgets the stage 1 TLB entries of every ASID for these addresses.
    ///
    /// Spec: SMMUv3 H.a, 4.4.2.3 "CMD_TLBI_NH_VAA".
    pub const fn tlbi_nh_vaa(vmid: u16, target: TlbiTarget) -> Self {
        Self([target.word0(Opcode::TLBI_NH_VAA).with_vmid(vmid).into_bits(), target.word1()])
    }

    /// Forgets all EL2 TLB entries. Illegal where IDR0.Hyp is 0.
    ///
    /// Spec: SMMUv3 H.a, 4.4.2.7 "CMD_TLBI_EL2_ALL".
    pub const fn tlbi_el2_all() -> Self {
        Self([Opcode::TLBI_EL2_ALL.0 as u64, 0])
    }

    /// Forgets the EL2-E2H TLB entries of an ASID that are not global. Illegal where IDR0.Hyp is 0.
    ///
    /// Spec: SMMUv3 H.a, 4.4.2.10 "CMD_TLBI_EL2_ASID".
    pub const fn tlbi_el2_asid(asid: u16) -> Self {
        Self([TlbiWord0::new().with_opcode(Opcode::TLBI_EL2_ASID.0).with_asid(asid).into_bits(), 0])
    }

    /// Forgets the EL2 TLB entries for these addresses. Illegal where IDR0.Hyp is 0.
    ///
    /// Spec: SMMUv3 H.a, 4.4.2.8 "CMD_TLBI_EL2_VA".
    pub const fn tlbi_el2_va(asid: u16, target: TlbiTarget) -> Self {
        Self([target.word0(Opcode::TLBI_EL2_VA).with_asid(asid).into_bits(), target.word1()])
    }

    /// Forgets all TLB entries, of both stages, of a VMID. Illegal where IDR0.S2P is 0.
    ///
    /// Spec: SMMUv3 H.a, 4.4.3.2 "CMD_TLBI_S12_VMALL".
    pub const fn tlbi_s12_vmall(vmid: u16) -> Self {
        Self([TlbiWord0::new().with_opcode(Opcode::TLBI_S12_VMALL.0).with_vmid(vmid).into_bits(), 0])
    }

    /// Forgets the stage 2 TLB entries of a VMID for these intermediate addresses. Illegal where IDR0.S2P is 0.
    ///
    /// Spec: SMMUv3 H.a, 4.4.3.1 "CMD_TLBI_S2_IPA".
    pub const fn tlbi_s2_ipa(vmid: u16, target: TlbiTarget) -> Self {
        Self([target.word0(Opcode::TLBI_S2_IPA).with_vmid(vmid).into_bits(), target.word1()])
    }

    /// Forgets all Non-secure TLB entries that are not of EL2.
    ///
    /// Spec: SMMUv3 H.a, 4.4.4.1 "CMD_TLBI_NSNH_ALL".
    pub const fn tlbi_nsnh_all() -> Self {
        Self([Opcode::TLBI_NSNH_ALL.0 as u64, 0])
    }

    /// Makes a device forget what its ATC holds of the `4096 << size` bytes at `address`, a multiple of that; 52 for everything.
    ///
    /// Spec: SMMUv3 H.a, 4.5.1 "CMD_ATC_INV".
    pub const fn atc_inv(stream_id: u32, substream_id: Option<u32>, address: u64, size: u8) -> Self {
        let word = StreamWord::new().with_opcode(Opcode::ATC_INV.0).with_stream_id(stream_id);
        let word = match substream_id {
            Some(substream_id) => word.with_ssv(true).with_substream_id(substream_id & 0xf_ffff),
            None => word,
        };
        Self([word.into_bits(), (address & !0xfff) | (size & 0x3f) as u64])
    }

    /// Answers a page request group with `response`: 0 failure, 1 invalid request, 2 success.
    ///
    /// Spec: SMMUv3 H.a, 4.5.2 "CMD_PRI_RESP".
    pub const fn pri_resp(stream_id: u32, substream_id: Option<u32>, prg_index: u16, response: u8) -> Self {
        let word = StreamWord::new().with_opcode(Opcode::PRI_RESP.0).with_stream_id(stream_id);
        let word = match substream_id {
            Some(substream_id) => word.with_ssv(true).with_substream_id(substream_id & 0xf_ffff),
            None => word,
        };
        Self([word.into_bits(), (prg_index & 0x1ff) as u64 | ((response & 0b11) as u64) << 12])
    }

    /// Decides over a stalled transaction. Illegal where IDR0.STALL_MODEL is 1.
    ///
    /// Spec: SMMUv3 H.a, 4.7.1 "CMD_RESUME".
    pub const fn resume(stream_id: u32, stag: u16, what: Resume) -> Self {
        let action = match what {
            Resume::Retry => 1 << 12,
            Resume::Abort => 1 << 13,
            Resume::Terminate => 0,
        };
        let word = StreamWord::new().with_opcode(Opcode::RESUME.0).with_stream_id(stream_id);
        Self([word.into_bits() | action, stag as u64])
    }

    /// Terminates all stalled transactions of a stream. Illegal where IDR0.STALL_MODEL is 1.
    ///
    /// Spec: SMMUv3 H.a, 4.7.2 "CMD_STALL_TERM".
    pub const fn stall_term(stream_id: u32) -> Self {
        Self::stream(Opcode::STALL_TERM, stream_id, 0)
    }

    /// Completes when all commands before it have; seen by its consumption alone.
    ///
    /// Spec: SMMUv3 H.a, 4.7.3 "CMD_SYNC", SIG_NONE.
    pub const fn sync() -> Self {
        Self([SyncWord0::new().with_opcode(Opcode::SYNC.0).with_cs(SIG_NONE).into_bits(), 0])
    }

    /// Completes when all commands before it have, and writes `data` to `address`, a multiple of 4, as inner-shareable write-back memory.
    ///
    /// Spec: SMMUv3 H.a, 4.7.3 "CMD_SYNC", SIG_IRQ.
    pub const fn sync_with_msi(address: u64, data: u32) -> Self {
        let word = SyncWord0::new()
            .with_opcode(Opcode::SYNC.0)
            .with_cs(SIG_IRQ)
            .with_msh(super::SHARE_INNER)
            .with_msi_attr(super::MEM_ATTR_WRITE_BACK)
            .with_msi_data(data);
        Self([word.into_bits(), address & 0x00ff_ffff_ffff_fffc])
    }
}
