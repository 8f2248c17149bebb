//! Stream table entries: what a stream is told to do, and every way in which an entry can be wrong.
//!
//! An [`Ste`] is what a valid entry means; [`Raw`] are its eight words as they lie in memory; an [`IllegalSte`] says which
//! check an entry fails.
//!
//! Spec: SMMUv3 H.a, 5.2 "STE, Stream Table Entry", 5.2.2 "Validity of STE".
//! Not here: finding an entry (`stream_table`).

use crate::config::{Config, StallModel};
use crate::geometry::Granule;
use crate::update::{Updates, is_write_back};

/// The eight 64-bit words of an entry.
pub(crate) type Raw = [u64; 8];

/// Bits that mean nothing in any version up to 3.3, and that the Non-secure state never uses.
///
/// Choice: 5 "Data structure formats" lets an implementation see a structure with such bits as invalid, or ignore them; we see them.
const RESERVED: Raw = [
    0x07f0_0000_0000_0000, // 58:52
    0x0000_0e00_0100_0000, // 107:105, 88
    0xf800_0000_0000_0000, // 191:187
    0xfff0_0000_0000_0003, // 255:244, 193:192
    0,
    0,
    0,
    0xffff_ffff_ffff_ffff, // 511:448
];

/// Why an entry is not to be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum IllegalSte {
    NotValid,
    Reserved { word: usize },
    Stage1Missing,
    Stage2Missing,
    Ats,
    StreamWorld,
    StallDisable,
    ContextsMax,
    ContextsFormat,
    ContextPointer,
    Stage2Stall,
    Stage2NoStall,
    Stage2Format,
    Stage2HardwareUpdate,
    Stage2Granule,
    Stage2Root,
    Stage2InputSize,
    Stage2StartLevel,
    Stage2Endianness,
    Vmid,
}

impl IllegalSte {
    /// The rule that is broken; none for an entry that merely says that it is not valid.
    pub(crate) fn clause(self) -> Option<&'static str> {
        Some(match self {
            Self::NotValid => return None,
            Self::Reserved { .. } => "5 \"Data structure formats\": reserved bits set in an STE",
            Self::Stage1Missing => {
                "5.2.2 \"Validity of STE\": Config enables stage 1, which SMMU_IDR0.S1P says is not there"
            }
            Self::Stage2Missing => {
                "5.2.2 \"Validity of STE\": Config enables stage 2, which SMMU_IDR0.S2P says is not there"
            }
            Self::Ats => "5.2.2 \"Validity of STE\": EATS asks for what Config or S2S rules out",
            Self::StreamWorld => "5.2.2 \"Validity of STE\": reserved STRW",
            Self::StallDisable => "5.2.2 \"Validity of STE\": S1STALLD set where stalls cannot be configured",
            Self::ContextsMax => "5.2.2 \"Validity of STE\": S1CDMax above SMMU_IDR1.SSIDSIZE",
            Self::ContextsFormat => "5.2.2 \"Validity of STE\": two-level S1Fmt where SMMU_IDR0.CD2L is 0",
            Self::ContextPointer => "5.2.2 \"Validity of STE\": S1ContextPtr out of range",
            Self::Stage2Stall => "5.2.2 \"Validity of STE\": S2S set where stalls are not supported",
            Self::Stage2NoStall => "5.2.2 \"Validity of STE\": S2S clear where stalls are forced",
            Self::Stage2Format => {
                "5.2.2 \"Validity of STE\": S2AA64 selects a table format that is not there"
            }
            Self::Stage2HardwareUpdate => {
                "5.2.2 \"Validity of STE\": S2HA or S2HD set where SMMU_IDR0.HTTU does not have it"
            }
            Self::Stage2Granule => "5.2.2 \"Validity of STE\": S2TG selects a granule that is not there",
            Self::Stage2Root => "5.2.2 \"Validity of STE\": S2TTB out of range",
            Self::Stage2InputSize => "5.2.2 \"Validity of STE\": S2T0SZ out of range",
            Self::Stage2StartLevel => {
                "5.2.2 \"Validity of STE\": S2SL0, S2T0SZ and S2TG contradict each other"
            }
            Self::Stage2Endianness => {
                "5.2.2 \"Validity of STE\": S2ENDI selects an endianness that is not there"
            }
            Self::Vmid => "5.2.2 \"Validity of STE\": S2VMID of 16 bits where SMMU_IDR0.VMID16 is 0",
        })
    }
}

/// The translation regime of a stream's stage 1. Spec: SMMUv3 H.a, 5.2 "STE, Stream Table Entry", STRW.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum World {
    El1,
    El2,
    El2E2h,
}

/// What happens to traffic without a SubstreamID. Spec: SMMUv3 H.a, 5.2 "STE, Stream Table Entry", S1DSS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DefaultSubstream {
    Terminate,
    Bypass,
    UseZero,
}

/// Where the context descriptors are. Spec: SMMUv3 H.a, 5.2 "STE, Stream Table Entry", S1Fmt, S1ContextPtr, S1CDMax.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Contexts {
    pub(crate) pointer: u64,
    /// log2 of how many there are.
    pub(crate) lg2: u32,
    /// log2 of how many a leaf table holds; none for a linear table.
    pub(crate) leaf_lg2: Option<u32>,
    pub(crate) default_substream: DefaultSubstream,
    pub(crate) world: World,
    /// S1STALLD: no descriptor may ask for stalls.
    pub(crate) no_stalls: bool,
}

/// Stage 2 of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stage2 {
    pub(crate) root: u64,
    pub(crate) granule: Granule,
    pub(crate) input_bits: u32,
    pub(crate) output_bits: u32,
    pub(crate) start: i8,
    /// S2DS: 52-bit descriptors for the small granules.
    pub(crate) ds: bool,
    /// S2HA and S2HD.
    pub(crate) updates: Updates,
    /// S2IR0 and S2OR0: the tables lie in write-back memory.
    pub(crate) write_back: bool,
    /// S2AFFD, which S2HA makes IGNORED: the access flag is not looked at.
    pub(crate) ignore_access_flag: bool,
    /// S2PTW: no walk through device memory.
    pub(crate) protected_walk: bool,
    /// S2R: faults are recorded.
    pub(crate) record: bool,
    /// S2S: faults hold the access back.
    pub(crate) stall: bool,
    pub(crate) vmid: u16,
}

/// An override of a mark of the incoming transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(crate) struct Overrides {
    pub(crate) privileged: Option<bool>,
    pub(crate) instruction: Option<bool>,
}

/// What a valid entry means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ste {
    /// Config 0b0xx: every access is aborted in silence.
    Abort,
    /// Any other Config.
    Pass { contexts: Option<Contexts>, stage2: Option<Stage2>, vmid: u16, overrides: Overrides },
}

pub(crate) fn field(word: u64, high: u32, low: u32) -> u64 {
    (word >> low) & (u64::MAX >> (63 - (high - low)))
}

pub(crate) fn flag(word: u64, bit: u32) -> bool {
    (word >> bit) & 1 == 1
}

/// What `raw` means to a stream of the Non-secure state, or which check it fails.
///
/// `e2h` is SMMU_CR2.E2H. The steps are in the order of SteIllegal().
pub(crate) fn decode(raw: &Raw, config: &Config, e2h: bool) -> Result<Ste, IllegalSte> {
    // "Check if Valid".
    if !flag(raw[0], 0) {
        return Err(IllegalSte::NotValid);
    }
    if let Some(word) = (0..8).find(|&word| raw[word] & RESERVED[word] != 0) {
        return Err(IllegalSte::Reserved { word });
    }
    // "Check if performing Translation".
    let code = field(raw[0], 3, 1);
    if code & 0b100 == 0 {
        return Ok(Ste::Abort);
    }
    let (stage1, stage2) = (code & 1 == 1, code & 2 == 2);
    // "Check STE.Config[0]".
    if stage1 && !config.stage1 {
        return Err(IllegalSte::Stage1Missing);
    }
    // "Check for cases where stage 2 translation is enabled but not supported".
    if stage2 && !config.stage2 {
        return Err(IllegalSte::Stage2Missing);
    }
    // "Check ATS configuration".
    let stall = stage2 && flag(raw[2], 57);
    match eats(raw, config) {
        1 if stall => return Err(IllegalSte::Ats),
        2 if code != 0b111 || stall => return Err(IllegalSte::Ats),
        _ => {}
    }
    // "Check STE.STRW"; IgnoreSTESTRW().
    let strw_ignored = !config.stage1 || !config.hyp || stage2 || code == 0b100;
    let strw = if strw_ignored { 0 } else { field(raw[1], 31, 30) };
    if strw & 1 == 1 {
        return Err(IllegalSte::StreamWorld);
    }
    let world = match (strw, e2h) {
        (2, false) => World::El2,
        (2, true) => World::El2E2h,
        _ => World::El1,
    };
    let contexts = stage1.then(|| decode_stage1(raw, config, stage2, world)).transpose()?;
    let stage2 = stage2.then(|| decode_stage2(raw, config)).transpose()?;
    // "Check STE.S2VMID"; IgnoreSTES2VMID().
    let vmid_ignored = !config.stage2 || code == 0b100 || world != World::El1;
    if !vmid_ignored && !config.vmid_16_bits && field(raw[2], 15, 8) != 0 {
        return Err(IllegalSte::Vmid);
    }
    let vmid = if vmid_ignored { 0 } else { vmid_of(raw) };
    Ok(Ste::Pass { contexts, stage2, vmid, overrides: overrides(raw, config) })
}

/// STE.EATS; 0 where it is IGNORED. Spec: SMMUv3 H.a, 5.2 "STE, Stream Table Entry", EATS.
pub(crate) fn eats(raw: &Raw, config: &Config) -> u64 {
    let ignored = !config.ats || field(raw[0], 2, 1) == 0;
    if ignored { 0 } else { field(raw[1], 29, 28) }
}

/// STE.PPAR. Spec: SMMUv3 H.a, 5.2 "STE, Stream Table Entry", PPAR.
pub(crate) fn responds_with_pasid(raw: &Raw) -> bool {
    flag(raw[1], 18)
}

fn vmid_of(raw: &Raw) -> u16 {
    u16::try_from(field(raw[2], 15, 0)).unwrap_or(0)
}

/// "Stage 1 Translation".
fn decode_stage1(raw: &Raw, config: &Config, stage2: bool, world: World) -> Result<Contexts, IllegalSte> {
    // "Check STE.S1STALLD".
    let no_stalls = flag(raw[1], 27);
    if no_stalls && config.stall != StallModel::Configurable {
        return Err(IllegalSte::StallDisable);
    }
    // "Check STE.S1CDMax": only where there are substreams at all; otherwise it is ignored and there is one CD.
    let substreams = config.substream_id_bits != 0;
    let max = field(raw[0], 63, 59);
    if substreams && max > u64::from(config.substream_id_bits) {
        return Err(IllegalSte::ContextsMax);
    }
    let lg2 = if substreams { u32::try_from(max).unwrap_or(0) } else { 0 };
    // "Check STE.S1Fmt": 0b11 behaves as 0b00.
    let leaf_lg2 = match field(raw[0], 5, 4) {
        1 if lg2 != 0 => Some(6),
        2 if lg2 != 0 => Some(10),
        _ => None,
    };
    if leaf_lg2.is_some() && !config.two_level_contexts {
        return Err(IllegalSte::ContextsFormat);
    }
    // "Check STE.S1ContextPtr": an IPA if stage 2 translates, else a PA.
    let pointer = raw[0] & 0x000f_ffff_ffff_ffc0;
    let limit = if stage2 { config.ias() } else { config.oas() };
    if pointer >> limit != 0 {
        return Err(IllegalSte::ContextPointer);
    }
    let default_substream = match field(raw[1], 1, 0) {
        1 => DefaultSubstream::Bypass,
        2 => DefaultSubstream::UseZero,
        _ => DefaultSubstream::Terminate,
    };
    Ok(Contexts { pointer, lg2, leaf_lg2, default_substream, world, no_stalls })
}

/// "Stage 2 Translation".
fn decode_stage2(raw: &Raw, config: &Config) -> Result<Stage2, IllegalSte> {
    let (word, upper) = (raw[2], raw[3]);
    // "Check STE.S2S".
    let stall = flag(word, 57);
    match config.stall {
        StallModel::NotSupported if stall => return Err(IllegalSte::Stage2Stall),
        StallModel::Forced if !stall => return Err(IllegalSte::Stage2NoStall),
        _ => {}
    }
    // "Check STE.S2AA64": 64-bit tables only.
    if !flag(word, 51) {
        return Err(IllegalSte::Stage2Format);
    }
    // "Check STE HW Translation Table Update".
    let updates =
        Updates::decode(flag(word, 56), flag(word, 55), config).ok_or(IllegalSte::Stage2HardwareUpdate)?;
    // "Check STE.S2TG".
    let granule = Granule::from_tg0(field(word, 47, 46)).filter(|&granule| config.supports(granule));
    let granule = granule.ok_or(IllegalSte::Stage2Granule)?;
    let ds = flag(upper, 3) && config.large_descriptors && granule != Granule::Kib64;
    // "Check STE.S2TTB".
    let output_bits = config.effective_bits(field(word, 50, 48));
    let root = upper & 0x000f_ffff_ffff_fff0;
    let root_limit = if ds || granule == Granule::Kib64 { output_bits } else { output_bits.min(48) };
    if root >> root_limit != 0 {
        return Err(IllegalSte::Stage2Root);
    }
    // "Check STE.S2T0SZ": STES2T0SZInvalid().
    let t0sz = u32::try_from(field(word, 37, 32)).unwrap_or(0);
    let least = if granule == Granule::Kib64 || ds { 12 } else { 16 }.max(64 - config.ias());
    if !(least..=greatest_tsz(config, granule)).contains(&t0sz) {
        return Err(IllegalSte::Stage2InputSize);
    }
    // "Check consistency of S2 Translation fields": STEWalkConfigInconsistentAA64().
    let input_bits = 64 - t0sz;
    let sl0 = field(word, 39, 38) | if config.large_descriptors { field(upper, 2, 2) << 2 } else { 0 };
    let start = granule.stage2_start(sl0, config.oas(), config.small_tables, ds);
    let start = start
        .filter(|&start| granule.stage2_consistent(start, input_bits))
        .ok_or(IllegalSte::Stage2StartLevel)?;
    // "Check Endianness": little-endian only.
    if flag(word, 52) {
        return Err(IllegalSte::Stage2Endianness);
    }
    Ok(Stage2 {
        root,
        granule,
        input_bits,
        output_bits,
        start,
        ds,
        updates,
        write_back: is_write_back(field(word, 43, 40)),
        ignore_access_flag: flag(word, 53) && !updates.access,
        protected_walk: flag(word, 54),
        record: flag(word, 58),
        stall,
        vmid: vmid_of(raw),
    })
}

/// The greatest TxSZ. Spec: SMMUv3 H.a, 5.4 "CD, Context Descriptor", T0SZ.
pub(crate) fn greatest_tsz(config: &Config, granule: Granule) -> u32 {
    match (config.small_tables, granule) {
        (false, _) => 39,
        (true, Granule::Kib64) => 47,
        (true, _) => 48,
    }
}

/// Spec: SMMUv3 H.a, 5.2 "STE, Stream Table Entry", PRIVCFG, INSTCFG.
fn overrides(raw: &Raw, config: &Config) -> Overrides {
    if !config.attribute_overrides {
        return Overrides::default();
    }
    let choose = |code| match code {
        2 => Some(false),
        3 => Some(true),
        _ => None,
    };
    Overrides { privileged: choose(field(raw[1], 49, 48)), instruction: choose(field(raw[1], 51, 50)) }
}

/// Which bits of an entry the hardware looks at, given what the entry itself says.
///
/// Spec: SMMUv3 H.a, 5.2 "STE, Stream Table Entry": V=0 makes all else IGNORED; Config makes S1 and S2 fields IGNORED.
pub(crate) fn live_bits(raw: &Raw) -> Raw {
    if !flag(raw[0], 0) {
        return [1, 0, 0, 0, 0, 0, 0, 0];
    }
    let code = field(raw[0], 3, 1);
    let mut live = [0xf, 0x4_0000, 0, 0, 0, 0, 0, 0]; // PPAR counts whatever Config says
    if code & 0b100 == 0 {
        return live;
    }
    live[1] |= 0x000f_0000_3008_0000; // MEV, EATS, PRIVCFG, INSTCFG
    if code & 1 == 0 {
        live[1] |= 0x0000_f1ff_0000_0000; // stage 1 would replace the incoming memory type
    } else {
        live[0] |= 0xf80f_ffff_ffff_fff0;
        live[1] |= 0x0000_0000_c800_00ff;
        live[2] |= 0xffff; // VMID tags stage 1, too
    }
    if code & 2 == 2 {
        live[2] |= 0x07ff_ffff_0000_ffff;
        live[3] |= 0x000f_ffff_ffff_fffc;
    }
    live
}
