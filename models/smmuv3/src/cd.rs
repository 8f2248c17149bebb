//! Context descriptors: stage 1 of a stream, and every way in which a descriptor can be wrong.
//!
//! A [`Cd`] is what a valid descriptor means; an [`IllegalCd`] says which check it fails.
//!
//! Spec: SMMUv3 H.a, 5.4 "CD, Context Descriptor", 5.4.2 "Validity of CD", 5.5 "Fault configuration (A, R, S bits)".
//! Not here: finding a descriptor (`contexts`).

use crate::config::{Config, StallModel};
use crate::geometry::Granule;
use crate::ste::{Contexts, World, field, flag, greatest_tsz};
use crate::update::{Updates, is_write_back};

/// The eight 64-bit words of a descriptor.
pub(crate) type Raw = [u64; 8];

/// Bits that mean nothing in any version up to 3.3. Choice: seen, as in an STE.
const RESERVED: Raw = [
    0,
    0x03f0_0000_0000_0008, // 121:116, 67
    0x0bf0_0000_0000_0008, // 187, 185:180, 131
    0,
    0,
    0xff00_0000_0000_0000, // 383:376
    0xffff_ffff_ffff_ffff, // 447:384
    0xffff_ffff_ffff_ffff, // 511:448
];

/// Why a descriptor is not to be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum IllegalCd {
    NotValid,
    Reserved { word: usize },
    StallDisabled,
    Terminate,
    Stall,
    NoStall,
    Endianness,
    Format,
    HardwareUpdate,
    Asid,
    InputSize { region: usize },
    Granule { region: usize },
    Root { region: usize },
}

impl IllegalCd {
    /// The rule that is broken; none for a descriptor that merely says that it is not valid.
    pub(crate) fn clause(self) -> Option<&'static str> {
        Some(match self {
            Self::NotValid => return None,
            Self::Reserved { .. } => "5 \"Data structure formats\": reserved bits set in a CD",
            Self::Terminate => "5.4.2 \"Validity of CD\": A clear where SMMU_IDR0.TERM_MODEL is 1",
            Self::StallDisabled => "5.4.2 \"Validity of CD\": S set where STE.S1STALLD is 1",
            Self::NoStall => "5.4.2 \"Validity of CD\": S clear where stalls are forced",
            Self::Stall => "5.4.2 \"Validity of CD\": S set where stalls are not supported",
            Self::Endianness => "5.4.2 \"Validity of CD\": ENDI selects an endianness that is not there",
            Self::Format => "5.4.2 \"Validity of CD\": AA64 selects a table format that is not there",
            Self::HardwareUpdate => {
                "5.4.2 \"Validity of CD\": HA or HD set where SMMU_IDR0.HTTU does not have it"
            }
            Self::Asid => "5.4.2 \"Validity of CD\": ASID of 16 bits where SMMU_IDR0.ASID16 is 0",
            Self::InputSize { .. } => "5.4.2 \"Validity of CD\": T0SZ or T1SZ out of range",
            Self::Granule { .. } => {
                "5.4.2 \"Validity of CD\": TG0 or TG1 selects a granule that is not there"
            }
            Self::Root { .. } => "5.4.2 \"Validity of CD\": TTB0 or TTB1 out of range",
        })
    }
}

/// One of the two halves of the address space, if walks through it are enabled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Region {
    /// Aligned to the size of the root table.
    pub(crate) root: u64,
    pub(crate) granule: Granule,
    pub(crate) input_bits: u32,
    pub(crate) start: i8,
    /// HAD: hierarchical attributes are ignored.
    pub(crate) flat_attributes: bool,
    /// IR and OR: the tables lie in write-back memory.
    pub(crate) write_back: bool,
}

/// What a valid descriptor means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cd {
    pub(crate) world: World,
    pub(crate) asid: u16,
    /// ASET: the ASID is the SMMU's own.
    pub(crate) private: bool,
    /// TTB0 and TTB1; none where EPD says so, or where there is no such half.
    pub(crate) regions: [Option<Region>; 2],
    /// TBI0 and TBI1: the top byte is ignored.
    pub(crate) ignore_top_byte: [bool; 2],
    pub(crate) output_bits: u32,
    /// DS: 52-bit descriptors for the small granules.
    pub(crate) ds: bool,
    /// HA and HD.
    pub(crate) updates: Updates,
    /// AFFD, which HA makes IGNORED.
    pub(crate) ignore_access_flag: bool,
    pub(crate) write_execute_never: bool,
    pub(crate) privileged_access_never: bool,
    pub(crate) mair: u64,
    /// A: faults abort; else they read as zero.
    pub(crate) abort: bool,
    /// R: faults are recorded.
    pub(crate) record: bool,
    /// S: faults hold the access back.
    pub(crate) stall: bool,
    /// Whether some root was not aligned to its size.
    pub(crate) misaligned_root: bool,
}

impl Cd {
    /// Whether the regime has two halves. Spec: SMMUv3 H.a, 5.4.1 "CD notes".
    pub(crate) fn two_halves(&self) -> bool {
        self.world != World::El2
    }
}

/// What `raw` means, reached through an entry with these `contexts`, or which check it fails.
///
/// The steps are in the order of CdIllegal().
pub(crate) fn decode(raw: &Raw, contexts: &Contexts, config: &Config) -> Result<Cd, IllegalCd> {
    let word = raw[0];
    if !flag(word, 31) {
        return Err(IllegalCd::NotValid);
    }
    if let Some(word) = (0..8).find(|&word| raw[word] & RESERVED[word] != 0) {
        return Err(IllegalCd::Reserved { word });
    }
    check_faults(word, contexts, config)?;
    let world = contexts.world;
    // EffectiveCDEPD0, EffectiveCDEPD1: EL2 has no EPD, and no second half.
    let walks0 = world == World::El2 || !flag(word, 14);
    let walks1 = world != World::El2 && !flag(word, 30);
    // "Check CD.ENDI": little-endian only.
    if (walks0 || walks1) && flag(word, 15) {
        return Err(IllegalCd::Endianness);
    }
    // "Check CD.AA64": 64-bit tables only.
    if !flag(word, 41) {
        return Err(IllegalCd::Format);
    }
    // "Check CD.HA, CD.HD, CD.HAFT".
    let updates = Updates::decode(flag(word, 43), flag(word, 42), config).ok_or(IllegalCd::HardwareUpdate)?;
    // "Check CD.ASID".
    if world != World::El2 && !config.asid_16_bits && field(word, 63, 56) != 0 {
        return Err(IllegalCd::Asid);
    }
    // "Check CD.TxSZ", "Check CD.TTBx".
    let ds = flag(raw[2], 58) && config.large_descriptors;
    let output_bits = config.effective_bits(field(word, 34, 32));
    let half = |index: usize| {
        let granule = if index == 0 {
            Granule::from_tg0(field(word, 7, 6))
        } else {
            Granule::from_tg1(field(word, 23, 22))
        };
        let tsz = if index == 0 { field(word, 5, 0) } else { field(word, 21, 16) };
        let write_back = is_write_back(if index == 0 { field(word, 11, 8) } else { field(word, 27, 24) });
        let region = region(index, granule, tsz, raw[index + 1], ds, output_bits, config)?;
        Ok(Region { write_back, ..region })
    };
    let region0 = walks0.then(|| half(0)).transpose()?;
    let region1 = walks1.then(|| half(1)).transpose()?;
    let aligned = |region: Option<Region>, word: u64| region.is_none_or(|region| region.root == word & ROOT);
    Ok(Cd {
        world,
        asid: if world == World::El2 { 0 } else { u16::try_from(field(word, 63, 48)).unwrap_or(0) },
        private: flag(word, 47),
        regions: [region0, region1],
        ignore_top_byte: [flag(word, 38), flag(word, 39)],
        output_bits,
        ds,
        updates,
        ignore_access_flag: flag(word, 35) && !updates.access,
        write_execute_never: flag(word, 36),
        privileged_access_never: world != World::El2 && flag(word, 40),
        mair: raw[3],
        abort: flag(word, 46),
        record: flag(word, 45),
        stall: flag(word, 44),
        misaligned_root: !aligned(region0, raw[1]) || !aligned(region1, raw[2]),
    })
}

/// TTB0 and TTB1 lie in bits 51:4 of their words.
const ROOT: u64 = 0x000f_ffff_ffff_fff0;

/// S and A. Spec: SMMUv3 H.a, 5.5 "Fault configuration (A, R, S bits)".
fn check_faults(word: u64, contexts: &Contexts, config: &Config) -> Result<(), IllegalCd> {
    let stall = flag(word, 44);
    // "Stalls disabled for the stream but enabled for the CD".
    if stall && contexts.no_stalls {
        return Err(IllegalCd::StallDisabled);
    }
    if config.terminate_aborts && !flag(word, 46) {
        return Err(IllegalCd::Terminate);
    }
    match config.stall {
        // "Stall is not supported, but CD.S == 1".
        StallModel::NotSupported if stall => Err(IllegalCd::Stall),
        // "Stall is forced, but CD.S == 0".
        StallModel::Forced if !stall => Err(IllegalCd::NoStall),
        _ => Ok(()),
    }
}

fn region(
    index: usize,
    granule: Option<Granule>,
    tsz: u64,
    word: u64,
    ds: bool,
    output_bits: u32,
    config: &Config,
) -> Result<Region, IllegalCd> {
    // CDTxSZInvalid(). A granule that is not there has no range of its own, and is told apart below.
    let size = granule.unwrap_or(Granule::Kib4);
    let wide = size == Granule::Kib64 || ds;
    let least = if config.input_52_bits && wide { 12 } else { 16 };
    let tsz = u32::try_from(tsz).unwrap_or(0);
    if !(least..=greatest_tsz(config, size)).contains(&tsz) {
        return Err(IllegalCd::InputSize { region: index });
    }
    let granule =
        granule.filter(|&granule| config.supports(granule)).ok_or(IllegalCd::Granule { region: index })?;
    // CDTTBxOutOfRange(), CDTTBxValidRange().
    let base = word & ROOT;
    let limit = if wide { output_bits } else { output_bits.min(48) };
    if base >> limit != 0 {
        return Err(IllegalCd::Root { region: index });
    }
    let input_bits = 64 - tsz;
    let start = granule.stage1_start(input_bits);
    // "The SMMU effectively aligns the value in this field before use"; 64 bytes at least with 52 bits of output.
    let table_lg2 = (input_bits - granule.shift(start) + 3).max(if output_bits > 48 { 6 } else { 4 });
    let root = base >> table_lg2 << table_lg2;
    let flat_attributes = config.hierarchical_disable && flag(word, 1);
    Ok(Region { root, granule, input_bits, start, flat_attributes, write_back: false })
}

/// Which bits of a descriptor the hardware looks at, given what it says itself.
pub(crate) fn live_bits(raw: &Raw) -> Raw {
    let word = raw[0];
    if !flag(word, 31) {
        return [1 << 31, 0, 0, 0, 0, 0, 0, 0];
    }
    let mut live = [0xffff_ffff_c000_c000, 0, 0, 0xffff_ffff_ffff_ffff, 0, 0, 0, 0];
    if !flag(word, 14) {
        live[0] |= 0x3fff;
        live[1] |= ROOT | 0xf;
    }
    if !flag(word, 30) {
        live[0] |= 0x3fff_0000;
        live[2] |= ROOT | 0xf;
    }
    live[2] |= 1 << 58;
    live
}
