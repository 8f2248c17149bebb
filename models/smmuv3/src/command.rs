//! Commands: what sixteen bytes of the command queue ask for, and every way in which they can be malformed.
//!
//! Spec: SMMUv3 H.a, 4 "Commands".
//! Not here: doing them (`execute`).

use crate::atc::Target;
use crate::config::{Config, StallModel};
use crate::geometry::Granule;
use crate::pri::{Response, link_code};
use crate::ste::{field, flag};

/// One command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Command {
    PrefetchConfiguration { stream: u32, substream: u32 },
    PrefetchAddress { stream: u32, substream: u32, address: u64 },
    InvalidateSte { stream: u32, leaf: bool },
    InvalidateSteRange { stream: u32, range: u32 },
    InvalidateCd { stream: u32, substream: u32, leaf: bool },
    InvalidateCdAll { stream: u32 },
    Tlb(Invalidate),
    InvalidateAtc(Target),
    RespondPage(Response),
    Resume(Resume),
    TerminateStalls { stream: u32 },
    Sync(Completion),
}

/// An answer for an access that is held back. Spec: SMMUv3 H.a, 4.7.1 "CMD_RESUME".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Resume {
    pub(crate) stream: u32,
    pub(crate) tag: u16,
    /// Ac: to be tried again, rather than ended.
    pub(crate) retry: bool,
    /// Ab: ended with an abort, rather than ignored.
    pub(crate) abort: bool,
}

/// What a TLB command is to remove.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Invalidate {
    /// CMD_TLBI_NH_ALL: stage 1 of a VMID.
    Stage1All { vmid: u16 },
    /// CMD_TLBI_NH_ASID.
    Asid { vmid: u16, asid: u16 },
    /// CMD_TLBI_NH_VA and, without an ASID, CMD_TLBI_NH_VAA.
    Address { vmid: u16, asid: Option<u16>, span: Span },
    /// CMD_TLBI_EL2_ALL.
    El2All,
    /// CMD_TLBI_EL2_ASID.
    El2Asid { asid: u16 },
    /// CMD_TLBI_EL2_VA and, without an ASID, CMD_TLBI_EL2_VAA.
    El2Address { asid: Option<u16>, span: Span },
    /// CMD_TLBI_S12_VMALL.
    BothStages { vmid: u16 },
    /// CMD_TLBI_S2_IPA.
    Stage2Address { vmid: u16, span: Span },
    /// CMD_TLBI_NSNH_ALL.
    EverythingButEl2,
}

impl Invalidate {
    /// The addresses, of a command that names some.
    pub(crate) fn span(&self) -> Option<&Span> {
        match self {
            Self::Address { span, .. } | Self::El2Address { span, .. } | Self::Stage2Address { span, .. } => {
                Some(span)
            }
            _ => None,
        }
    }
}

/// Which addresses a TLB command covers, and which entries it must find.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) first: u64,
    /// Included.
    pub(crate) last: u64,
    /// Leaf=1: table entries may stay.
    pub(crate) leaf: bool,
    /// TG: entries of other granules may stay.
    pub(crate) granule: Option<Granule>,
    /// TTL: leaves of other levels may stay.
    pub(crate) level: Option<i8>,
    /// Whether the address was not aligned as TG and TTL demand.
    pub(crate) misaligned: bool,
}

/// How the end of a CMD_SYNC is told. Spec: SMMUv3 H.a, 4.7.3 "CMD_SYNC", CS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Completion {
    None,
    /// A message; to address 0 none is sent.
    Message {
        address: u64,
        data: u32,
    },
    Event,
}

/// Why a command is refused with CERROR_ILL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum IllegalCommand {
    Opcode,
    ReservedBits,
    SecureStream,
    NoStage1,
    NoStage2,
    NoHypervisor,
    NoStalls,
    NothingToDo,
    CompletionSignal,
    NoAts,
    NoPri,
    AtcSize,
    ResponseCode,
}

/// The opcodes of the book, whether this model has them or not.
pub(crate) mod opcode {
    pub(crate) const PREFETCH_CONFIG: u8 = 0x01;
    pub(crate) const PREFETCH_ADDR: u8 = 0x02;
    pub(crate) const CFGI_STE: u8 = 0x03;
    pub(crate) const CFGI_STE_RANGE: u8 = 0x04;
    pub(crate) const CFGI_CD: u8 = 0x05;
    pub(crate) const CFGI_CD_ALL: u8 = 0x06;
    pub(crate) const TLBI_NH_ALL: u8 = 0x10;
    pub(crate) const TLBI_NH_ASID: u8 = 0x11;
    pub(crate) const TLBI_NH_VA: u8 = 0x12;
    pub(crate) const TLBI_NH_VAA: u8 = 0x13;
    pub(crate) const TLBI_EL2_ALL: u8 = 0x20;
    pub(crate) const TLBI_EL2_ASID: u8 = 0x21;
    pub(crate) const TLBI_EL2_VA: u8 = 0x22;
    pub(crate) const TLBI_EL2_VAA: u8 = 0x23;
    pub(crate) const TLBI_S12_VMALL: u8 = 0x28;
    pub(crate) const TLBI_S2_IPA: u8 = 0x2a;
    pub(crate) const TLBI_NSNH_ALL: u8 = 0x30;
    pub(crate) const ATC_INV: u8 = 0x40;
    pub(crate) const PRI_RESP: u8 = 0x41;
    pub(crate) const RESUME: u8 = 0x44;
    pub(crate) const STALL_TERM: u8 = 0x45;
    pub(crate) const SYNC: u8 = 0x46;
}

/// The book's name of an opcode; none if it is reserved, or of a feature that is not here.
pub(crate) fn name(op: u8) -> Option<&'static str> {
    Some(match op {
        opcode::PREFETCH_CONFIG => "CMD_PREFETCH_CONFIG",
        opcode::PREFETCH_ADDR => "CMD_PREFETCH_ADDR",
        opcode::CFGI_STE => "CMD_CFGI_STE",
        opcode::CFGI_STE_RANGE => "CMD_CFGI_STE_RANGE",
        opcode::CFGI_CD => "CMD_CFGI_CD",
        opcode::CFGI_CD_ALL => "CMD_CFGI_CD_ALL",
        opcode::TLBI_NH_ALL => "CMD_TLBI_NH_ALL",
        opcode::TLBI_NH_ASID => "CMD_TLBI_NH_ASID",
        opcode::TLBI_NH_VA => "CMD_TLBI_NH_VA",
        opcode::TLBI_NH_VAA => "CMD_TLBI_NH_VAA",
        opcode::TLBI_EL2_ALL => "CMD_TLBI_EL2_ALL",
        opcode::TLBI_EL2_ASID => "CMD_TLBI_EL2_ASID",
        opcode::TLBI_EL2_VA => "CMD_TLBI_EL2_VA",
        opcode::TLBI_EL2_VAA => "CMD_TLBI_EL2_VAA",
        opcode::TLBI_S12_VMALL => "CMD_TLBI_S12_VMALL",
        opcode::TLBI_S2_IPA => "CMD_TLBI_S2_IPA",
        opcode::TLBI_NSNH_ALL => "CMD_TLBI_NSNH_ALL",
        opcode::ATC_INV => "CMD_ATC_INV",
        opcode::PRI_RESP => "CMD_PRI_RESP",
        opcode::RESUME => "CMD_RESUME",
        opcode::STALL_TERM => "CMD_STALL_TERM",
        opcode::SYNC => "CMD_SYNC",
        _ => return None,
    })
}

/// Bits each command defines; the rest are reserved.
///
/// Choice: 4.1.5 "Reserved fields" lets an implementation see reserved bits, or ignore them; we see them.
fn defined(op: u8, config: &Config) -> [u64; 2] {
    let span = span_bits(config);
    let plain = match op {
        opcode::PREFETCH_CONFIG => [0xffff_ffff_ffff_fc00, 0],
        opcode::PREFETCH_ADDR => [0xffff_ffff_ffff_fc00, 0xffff_ffff_ffff_f3ff],
        opcode::CFGI_STE => [0xffff_ffff_0000_0400, 1],
        opcode::CFGI_STE_RANGE => [0xffff_ffff_0000_0400, 0x1f],
        opcode::CFGI_CD => [0xffff_ffff_ffff_f400, 1],
        opcode::CFGI_CD_ALL => [0xffff_ffff_0000_0400, 0],
        opcode::TLBI_NH_ALL | opcode::TLBI_S12_VMALL => [0x0000_ffff_0000_0000, 0],
        opcode::TLBI_NH_ASID => [0xffff_ffff_0000_0000, 0],
        opcode::TLBI_NH_VA => [0xffff_ffff_0000_0000 | span[0], 0xffff_ffff_ffff_f001 | span[1]],
        opcode::TLBI_NH_VAA => [0x0000_ffff_0000_0000 | span[0], 0xffff_ffff_ffff_f001 | span[1]],
        opcode::TLBI_EL2_ASID => [0xffff_0000_0000_0000, 0],
        opcode::TLBI_EL2_VA => [0xffff_0000_0000_0000 | span[0], 0xffff_ffff_ffff_f001 | span[1]],
        opcode::TLBI_EL2_VAA => [span[0], 0xffff_ffff_ffff_f001 | span[1]],
        opcode::TLBI_S2_IPA => [0x0000_ffff_0000_0000 | span[0], 0x000f_ffff_ffff_f001 | span[1]],
        opcode::ATC_INV => [0xffff_ffff_ffff_fa00, 0xffff_ffff_ffff_f03f],
        opcode::PRI_RESP => [0xffff_ffff_ffff_f800, 0x31ff],
        opcode::RESUME => [0xffff_ffff_0000_3400, 0xffff],
        opcode::STALL_TERM => [0xffff_ffff_0000_0400, 0],
        opcode::SYNC => [0xffff_ffff_0fc0_3000, 0x000f_ffff_ffff_fffc],
        _ => [0, 0],
    };
    [plain[0] | 0xff, plain[1]]
}

/// NUM, SCALE, TTL and TG, where they exist. SCALE has a sixth bit with IDR5.DS.
fn span_bits(config: &Config) -> [u64; 2] {
    match (config.range_invalidation, config.large_descriptors) {
        (false, _) => [0, 0],
        (true, false) => [0x01f1_f000, 0xf00],
        (true, true) => [0x03f1_f000, 0xf00],
    }
}

/// What `raw` asks for, or why it is CERROR_ILL.
pub(crate) fn decode(raw: [u64; 2], config: &Config) -> Result<Command, IllegalCommand> {
    let [low, high] = raw;
    let op = u8::try_from(low & 0xff).unwrap_or(0);
    // 4.1.3: "A Reserved command opcode is encountered". CMD_RESUME and CMD_STALL_TERM
    // are CERROR_ILL where stalls are not supported; Secure ones are on the Non-secure queue.
    if name(op).is_none() {
        return Err(IllegalCommand::Opcode);
    }
    check_features(op, config)?;
    let defined = defined(op, config);
    if low & !defined[0] != 0 || high & !defined[1] != 0 {
        return Err(IllegalCommand::ReservedBits);
    }
    // 4.1.6: "A command on the Non-secure Command queue with SSec == 1 is ILLEGAL".
    let names_stream = op < opcode::TLBI_NH_ALL || matches!(op, opcode::RESUME | opcode::STALL_TERM);
    if names_stream && flag(low, 10) {
        return Err(IllegalCommand::SecureStream);
    }
    let stream = word32(low >> 32);
    let substream = word32(field(low, 31, 12));
    let vmid = word16(field(low, 47, 32));
    let asid = word16(low >> 48);
    let span = || span(raw, config);
    Ok(match op {
        opcode::PREFETCH_CONFIG => Command::PrefetchConfiguration { stream, substream },
        opcode::PREFETCH_ADDR => Command::PrefetchAddress { stream, substream, address: high & !0xfff },
        opcode::CFGI_STE => Command::InvalidateSte { stream, leaf: flag(high, 0) },
        opcode::CFGI_STE_RANGE => Command::InvalidateSteRange { stream, range: word32(field(high, 4, 0)) },
        opcode::CFGI_CD => Command::InvalidateCd { stream, substream, leaf: flag(high, 0) },
        opcode::CFGI_CD_ALL => Command::InvalidateCdAll { stream },
        opcode::TLBI_NH_ALL => Command::Tlb(Invalidate::Stage1All { vmid }),
        opcode::TLBI_NH_ASID => Command::Tlb(Invalidate::Asid { vmid, asid }),
        opcode::TLBI_NH_VA => Command::Tlb(Invalidate::Address { vmid, asid: Some(asid), span: span()? }),
        opcode::TLBI_NH_VAA => Command::Tlb(Invalidate::Address { vmid, asid: None, span: span()? }),
        opcode::TLBI_EL2_ALL => Command::Tlb(Invalidate::El2All),
        opcode::TLBI_EL2_ASID => Command::Tlb(Invalidate::El2Asid { asid }),
        opcode::TLBI_EL2_VA => Command::Tlb(Invalidate::El2Address { asid: Some(asid), span: span()? }),
        opcode::TLBI_EL2_VAA => Command::Tlb(Invalidate::El2Address { asid: None, span: span()? }),
        opcode::TLBI_S12_VMALL => Command::Tlb(Invalidate::BothStages { vmid }),
        opcode::TLBI_S2_IPA => Command::Tlb(Invalidate::Stage2Address { vmid, span: span()? }),
        opcode::TLBI_NSNH_ALL => Command::Tlb(Invalidate::EverythingButEl2),
        opcode::ATC_INV => Command::InvalidateAtc(atc_target(raw)?),
        opcode::PRI_RESP => Command::RespondPage(page_response(raw)?),
        opcode::RESUME => {
            Command::Resume(Resume { stream, tag: word16(high), retry: flag(low, 12), abort: flag(low, 13) })
        }
        opcode::STALL_TERM => Command::TerminateStalls { stream },
        _ => Command::Sync(completion(raw)?),
    })
}

/// Commands of stages and worlds that are not there. Spec: SMMUv3 H.a, 4.3.3 "CMD_CFGI_CD", 4.4.2 "TLB invalidation of stage 1".
fn check_features(op: u8, config: &Config) -> Result<(), IllegalCommand> {
    match op {
        opcode::CFGI_CD | opcode::CFGI_CD_ALL | opcode::TLBI_NH_ALL..=opcode::TLBI_NH_VAA
            if !config.stage1 =>
        {
            Err(IllegalCommand::NoStage1)
        }
        opcode::RESUME | opcode::STALL_TERM if config.stall == StallModel::NotSupported => {
            Err(IllegalCommand::NoStalls)
        }
        opcode::TLBI_S12_VMALL | opcode::TLBI_S2_IPA if !config.stage2 => Err(IllegalCommand::NoStage2),
        opcode::TLBI_EL2_ALL..=opcode::TLBI_EL2_VAA if !config.hyp || !config.stage1 => {
            Err(IllegalCommand::NoHypervisor)
        }
        opcode::ATC_INV if !config.ats => Err(IllegalCommand::NoAts),
        opcode::PRI_RESP if !config.has_pri() => Err(IllegalCommand::NoPri),
        _ => Ok(()),
    }
}

/// Spec: SMMUv3 H.a, 4.4.1.1 "Range-based invalidation and level hint".
fn span([low, high]: [u64; 2], config: &Config) -> Result<Span, IllegalCommand> {
    let first = high & !0xfff;
    let leaf = flag(high, 0);
    let (num, scale) = (field(low, 16, 12), field(low, 25, 20));
    let ttl = field(high, 9, 8);
    let granule = match field(high, 11, 10) {
        0 => {
            // "When TG == 0b00 this field is RES0": NUM, SCALE, TTL.
            if num != 0 || scale != 0 || ttl != 0 {
                return Err(IllegalCommand::ReservedBits);
            }
            return Ok(Span {
                first,
                last: first | 0xfff,
                leaf,
                granule: None,
                level: None,
                misaligned: false,
            });
        }
        1 => Granule::Kib4,
        2 => Granule::Kib16,
        _ => Granule::Kib64,
    };
    // "Otherwise Reserved, and hardware treats as TTL == 0b00": level 1 of 16 KiB without DS.
    let ttl = if granule == Granule::Kib16 && ttl == 1 && !config.large_descriptors { 0 } else { ttl };
    // "The parameter combination of NUM == 0, SCALE == 0 and TTL = 0b00 is Reserved."
    if num == 0 && scale == 0 && ttl == 0 {
        return Err(IllegalCommand::NothingToDo);
    }
    let level = i8::try_from(ttl).ok().filter(|&level| level != 0);
    // "Range = ((NUM+1)*2^SCALE)*Translation_Granule_Size"; it does not wrap at the top.
    let range = (u128::from(num) + 1) << (scale.min(39) + u64::from(granule.bits()));
    let last = u64::try_from(u128::from(first) + range - 1).unwrap_or(u64::MAX);
    let aligned_bits = level.map_or(granule.bits(), |level| granule.shift(level));
    let misaligned = first & ((1 << aligned_bits) - 1) != 0;
    Ok(Span { first, last, leaf, granule: Some(granule), level, misaligned })
}

/// SSV 11, SubstreamID 31:12.
fn tagged(low: u64) -> Option<u32> {
    flag(low, 11).then(|| word32(field(low, 31, 12)))
}

/// Spec: SMMUv3 H.a, 4.5.1 "CMD_ATC_INV": "the Address span is aligned to its size by the SMMU".
///
/// Choice: more than the 2^64 bytes of Size 52 "are permitted, but not required, to raise a CERROR_ILL"; we raise it.
fn atc_target([low, high]: [u64; 2]) -> Result<Target, IllegalCommand> {
    let size_lg2 = u8::try_from(field(high, 5, 0) + 12).unwrap_or(u8::MAX);
    if size_lg2 > 64 {
        return Err(IllegalCommand::AtcSize);
    }
    let above = u64::MAX.checked_shl(size_lg2.into()).unwrap_or(0);
    let (stream, substream) = (word32(low >> 32), tagged(low));
    Ok(Target { stream, substream, global: flag(low, 9), first: high & above, size_lg2 })
}

/// Spec: SMMUv3 H.a, 4.5.2 "CMD_PRI_RESP".
fn page_response([low, high]: [u64; 2]) -> Result<Response, IllegalCommand> {
    let code = link_code(field(high, 13, 12)).ok_or(IllegalCommand::ResponseCode)?;
    let group = word16(field(high, 8, 0));
    Ok(Response { stream: word32(low >> 32), substream: tagged(low), group, code })
}

fn completion([low, high]: [u64; 2]) -> Result<Completion, IllegalCommand> {
    match field(low, 13, 12) {
        0 => Ok(Completion::None),
        1 => Ok(Completion::Message { address: high & 0x000f_ffff_ffff_fffc, data: word32(low >> 32) }),
        2 => Ok(Completion::Event),
        _ => Err(IllegalCommand::CompletionSignal),
    }
}

fn word32(value: u64) -> u32 {
    u32::try_from(value & 0xffff_ffff).unwrap_or(0)
}

fn word16(value: u64) -> u16 {
    u16::try_from(value & 0xffff).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(low: u64, high: u64) -> Result<Command, IllegalCommand> {
        decode([low, high], &Config { hyp: true, substream_id_bits: 8, ..Config::default() })
    }

    const PAGE: Span = Span {
        first: 0x1234_5000,
        last: 0x1234_5fff,
        leaf: true,
        granule: None,
        level: None,
        misaligned: false,
    };

    #[test]
    fn each_opcode_means_its_command() {
        let table = [
            (0x0000_0012_0003_4801, 0, Command::PrefetchConfiguration { stream: 0x12, substream: 0x34 }),
            (
                0x0000_0012_0003_4802,
                0x1234_5000,
                Command::PrefetchAddress { stream: 0x12, substream: 0x34, address: 0x1234_5000 },
            ),
            (0x0000_0012_0000_0003, 0, Command::InvalidateSte { stream: 0x12, leaf: false }),
            (0x0000_0012_0000_0003, 1, Command::InvalidateSte { stream: 0x12, leaf: true }),
            (0x0000_0012_0000_0004, 31, Command::InvalidateSteRange { stream: 0x12, range: 31 }),
            (0x0000_0012_0003_4005, 1, Command::InvalidateCd { stream: 0x12, substream: 0x34, leaf: true }),
            (0x0000_0012_0000_0006, 0, Command::InvalidateCdAll { stream: 0x12 }),
            (0x0000_0012_0000_0010, 0, Command::Tlb(Invalidate::Stage1All { vmid: 0x12 })),
            (0x0034_0012_0000_0011, 0, Command::Tlb(Invalidate::Asid { vmid: 0x12, asid: 0x34 })),
            (
                0x0034_0012_0000_0012,
                0x1234_5001,
                Command::Tlb(Invalidate::Address { vmid: 0x12, asid: Some(0x34), span: PAGE }),
            ),
            (
                0x0000_0012_0000_0013,
                0x1234_5001,
                Command::Tlb(Invalidate::Address { vmid: 0x12, asid: None, span: PAGE }),
            ),
            (0x20, 0, Command::Tlb(Invalidate::El2All)),
            (0x0034_0000_0000_0021, 0, Command::Tlb(Invalidate::El2Asid { asid: 0x34 })),
            (
                0x0034_0000_0000_0022,
                0x1234_5001,
                Command::Tlb(Invalidate::El2Address { asid: Some(0x34), span: PAGE }),
            ),
            (0x23, 0x1234_5001, Command::Tlb(Invalidate::El2Address { asid: None, span: PAGE })),
            (0x0000_0012_0000_0028, 0, Command::Tlb(Invalidate::BothStages { vmid: 0x12 })),
            (
                0x0000_0012_0000_002a,
                0x1234_5001,
                Command::Tlb(Invalidate::Stage2Address { vmid: 0x12, span: PAGE }),
            ),
            (0x30, 0, Command::Tlb(Invalidate::EverythingButEl2)),
            (0x46, 0, Command::Sync(Completion::None)),
            (0x2046, 0, Command::Sync(Completion::Event)),
            (
                0x0000_0042_0fc0_1046,
                0x8000,
                Command::Sync(Completion::Message { address: 0x8000, data: 0x42 }),
            ),
        ];
        for (low, high, command) in table {
            assert_eq!(one(low, high), Ok(command), "{low:#x} {high:#x}");
        }
    }

    #[test]
    fn answers_for_accesses_held_back_are_read_where_stalls_are_there() {
        let with = Config { stall: StallModel::Forced, ..Config::default() };
        let resume = |low, high| decode([low, high], &with);
        let answer = |retry, abort| Ok(Command::Resume(Resume { stream: 0x12, tag: 0x3456, retry, abort }));
        assert_eq!(resume(0x0000_0012_0000_1044, 0x3456), answer(true, false));
        assert_eq!(resume(0x0000_0012_0000_2044, 0x3456), answer(false, true));
        assert_eq!(resume(0x0000_0012_0000_0044, 0x3456), answer(false, false));
        assert_eq!(resume(0x0000_0012_0000_0045, 0), Ok(Command::TerminateStalls { stream: 0x12 }));
        let wrong = [
            (0x0000_0012_0000_0444, 0, IllegalCommand::SecureStream),
            (0x0000_0012_0000_0445, 0, IllegalCommand::SecureStream),
            (0x0000_0012_0000_4044, 0, IllegalCommand::ReservedBits),
            (0x44, 0x1_0000, IllegalCommand::ReservedBits),
            (0x1045, 0, IllegalCommand::ReservedBits),
            (0x45, 1, IllegalCommand::ReservedBits),
        ];
        for (low, high, reason) in wrong {
            assert_eq!(resume(low, high), Err(reason), "{low:#x} {high:#x}");
        }
    }

    #[test]
    fn ranges_and_hints_are_read_as_the_book_says() {
        // NUM=2, SCALE=1, TG=4K: (2 + 1) * 2 pages.
        let Ok(Command::Tlb(Invalidate::Address { span, .. })) = one(0x0010_2012, 0x10_0400) else {
            panic!()
        };
        assert_eq!(
            (span.first, span.last, span.granule, span.level),
            (0x10_0000, 0x10_5fff, Some(Granule::Kib4), None)
        );
        assert!(!span.leaf && !span.misaligned);
        // TG=64K, TTL=2 at an address that is no multiple of 512 MiB.
        let Ok(Command::Tlb(Invalidate::Address { span, .. })) = one(0x12, 0x1_0e00) else { panic!() };
        assert_eq!((span.granule, span.level, span.misaligned), (Some(Granule::Kib64), Some(2), true));
        // A range at the top does not wrap.
        let Ok(Command::Tlb(Invalidate::Address { span, .. })) = one(0x01f1_f012, 0xffff_ffff_ffff_f400)
        else {
            panic!()
        };
        assert_eq!(span.last, u64::MAX);
    }

    #[test]
    fn each_malformed_command_is_illegal_for_its_reason() {
        let table = [
            (0x00, 0, IllegalCommand::Opcode),
            (0x18, 0, IllegalCommand::Opcode),
            (0x40, 0, IllegalCommand::NoAts),
            (0x41, 0, IllegalCommand::NoPri),
            (0x44, 0, IllegalCommand::NoStalls),
            (0x45, 0, IllegalCommand::NoStalls),
            (0x60, 0, IllegalCommand::Opcode),
            (0x0000_0012_0000_0403, 0, IllegalCommand::SecureStream),
            (0x0000_0012_0000_0103, 0, IllegalCommand::ReservedBits),
            (0x0000_0012_0000_0003, 2, IllegalCommand::ReservedBits),
            (0x10, 1, IllegalCommand::ReservedBits),
            (0x0200_1012, 0x400, IllegalCommand::ReservedBits),
            (0x1012, 0, IllegalCommand::ReservedBits),
            (0x12, 0x100, IllegalCommand::ReservedBits),
            (0x12, 0x400, IllegalCommand::NothingToDo),
            (0x12, 0x900, IllegalCommand::NothingToDo),
            (0x3046, 0, IllegalCommand::CompletionSignal),
            (0x0146, 0, IllegalCommand::ReservedBits),
        ];
        for (low, high, reason) in table {
            assert_eq!(one(low, high), Err(reason), "{low:#x} {high:#x}");
        }
    }

    #[test]
    fn page_services_are_decoded() {
        let config = Config { ats: true, pri: true, ..Config::default() };
        let one = |low, high| decode([low, high], &config);
        let target = |substream, global, first, size_lg2| {
            Ok(Command::InvalidateAtc(Target { stream: 0x12, substream, global, first, size_lg2 }))
        };
        assert_eq!(one(0x0000_0012_0003_4a40, 0x1234_5000), target(Some(0x34), true, 0x1234_5000, 12));
        assert_eq!(one(0x0000_0012_0003_4040, 0x1234_5004), target(None, false, 0x1234_0000, 16));
        assert_eq!(one(0x0000_0012_0000_0040, 0xffff_ffff_ffff_f033), target(None, false, 1 << 63, 63));
        assert_eq!(one(0x0000_0012_0000_0040, 0xffff_ffff_ffff_f034), target(None, false, 0, 64));
        assert_eq!(one(0x40, 0x35), Err(IllegalCommand::AtcSize));
        assert_eq!(one(0x0440, 0), Err(IllegalCommand::ReservedBits));
        assert_eq!(one(0x0140, 0), Err(IllegalCommand::ReservedBits));
        assert_eq!(one(0x40, 0x40), Err(IllegalCommand::ReservedBits));
        let response = |substream, code| {
            Ok(Command::RespondPage(Response { stream: 0x12, substream, group: 0x1ab, code }))
        };
        assert_eq!(one(0x0000_0012_0003_4841, 0x01ab), response(Some(0x34), 15));
        assert_eq!(one(0x0000_0012_0003_4041, 0x11ab), response(None, 1));
        assert_eq!(one(0x0000_0012_0000_0041, 0x21ab), response(None, 0));
        assert_eq!(one(0x41, 0x3000), Err(IllegalCommand::ResponseCode));
        assert_eq!(one(0x41, 0x0200), Err(IllegalCommand::ReservedBits));
        assert_eq!(one(0x0241, 0), Err(IllegalCommand::ReservedBits));
        let without = Config { pri: false, ..config.clone() };
        assert_eq!(decode([0x41, 0], &without), Err(IllegalCommand::NoPri));
        assert!(decode([0x40, 0], &without).is_ok());
        let without = Config { ats: false, ..config };
        assert_eq!(decode([0x40, 0], &without), Err(IllegalCommand::NoAts));
        assert_eq!(decode([0x41, 0], &without), Err(IllegalCommand::NoPri), "no PRI without ATS");
    }

    #[test]
    fn commands_of_features_that_are_not_there_are_illegal() {
        let without = |config: Config, op| decode([op, 0], &config);
        for op in [0x05, 0x06, 0x10, 0x11, 0x12, 0x13] {
            assert_eq!(without(Config::stage2_only(), op), Err(IllegalCommand::NoStage1), "{op:#x}");
        }
        for op in [0x28, 0x2a] {
            assert_eq!(
                without(Config { stage2: false, ..Config::default() }, op),
                Err(IllegalCommand::NoStage2)
            );
        }
        for op in [0x20, 0x21, 0x22, 0x23] {
            assert_eq!(without(Config::default(), op), Err(IllegalCommand::NoHypervisor));
        }
        let old = Config::no_range_invalidation();
        assert_eq!(decode([0x1012, 0x400], &old), Err(IllegalCommand::ReservedBits));
        assert_eq!(decode([0x12, 0x500], &old), Err(IllegalCommand::ReservedBits));
    }
}
