//! Whole scenes for an SMMUv3, every word of memory typed by hand: what lies there, what a device asks, what must come of it.
//!
//! A scene is data. Whoever runs it lays `memory` and the stream table entry of [`STREAM`] into RAM, programs
//! the SMMU with [`SETUP`], and asks. Scenes want an SMMU with OAS of 48 bits, all granules, tables of two levels, and
//! SSIDSIZE of at least 8. RAM covers [`RAM`]; nothing answers at [`NOWHERE`].
//!
//! | where | what |
//! |---|---|
//! | `0x8000_0000` | linear stream table of 16 entries; [`STREAM`]'s is at `0x8000_0140` |
//! | `0x8000_1000` | command queue of 16 entries |
//! | `0x8000_2000` | event queue of 16 entries |
//! | `0x8000_3000` | context descriptors |
//! | `0x8001_0000` | stage 1 tables |
//! | `0x8008_0000`, `0x8040_0000` | stage 2 tables |
//! | `0x80A0_0000` | data |
//!
//! Spec: SMMUv3, chapters 5 to 7; Arm ARM, D8 "The AArch64 Virtual Memory System Architecture".

mod fault;
mod field;
mod pass;
mod wide;

pub use fault::FAULTS;
pub use field::FIELDS;
pub use pass::PASSES;
pub use wide::WIDE;

/// First and last byte of RAM.
pub const RAM: (u64, u64) = (0x8000_0000, 0x80FF_FFFF);
/// An address where nothing answers.
pub const NOWHERE: u64 = 0x1_0000_0000;
/// The stream that asks.
pub const STREAM: u32 = 0x5;
/// Where the stream table is.
pub const STREAM_TABLE: u64 = 0x8000_0000;
/// Where the commands of [`COMMANDS`] go.
pub const COMMAND_QUEUE: u64 = 0x8000_1000;
/// Where event records are to be found.
pub const EVENT_QUEUE: u64 = 0x8000_2000;

/// Register writes, in order: offset, value. 64-bit ones are those at 0x80, 0x90 and 0xA0.
///
/// After the write of CR0 (0x20), CR0ACK (0x24) must become equal to it; after that of CMDQ_PROD (0x98),
/// CMDQ_CONS (0x9C) must.
pub const SETUP: &[(u64, u64)] = &[
    (0x0028, 0x0000_0D75), // CR1: tables and queues inner shareable, write-back
    (0x002C, 0x0000_0002), // CR2: RECINVSID
    (0x0080, STREAM_TABLE),
    (0x0088, 0x0000_0004),           // STRTAB_BASE_CFG: linear, LOG2SIZE 4
    (0x0090, 0x0000_0000_8000_1004), // CMDQ_BASE: LOG2SIZE 4
    (0x0098, 0x0000_0000),           // CMDQ_PROD
    (0x009C, 0x0000_0000),           // CMDQ_CONS
    (0x00A0, 0x0000_0000_8000_2004), // EVENTQ_BASE: LOG2SIZE 4
    (0x1_00A8, 0x0000_0000),         // EVENTQ_PROD
    (0x1_00AC, 0x0000_0000),         // EVENTQ_CONS
    (0x0020, 0x0000_000C),           // CR0: CMDQEN, EVENTQEN
    (0x0098, 0x0000_0003),           // CMDQ_PROD: the three of COMMANDS
    (0x0020, 0x0000_000D),           // CR0: and SMMUEN
];

/// CMD_CFGI_ALL, CMD_TLBI_NSNH_ALL, CMD_SYNC.
pub const COMMANDS: [[u64; 2]; 3] = [
    [0x0000_0000_0000_0004, 0x0000_0000_0000_001F],
    [0x0000_0000_0000_0030, 0x0000_0000_0000_0000],
    [0x0000_0000_0000_0046, 0x0000_0000_0000_0000],
];

/// Which SMMU a scene wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Both stages, OAS of 48 bits, all granules, tables of two levels, ids of 16 bits, SSIDSIZE of at least 8;
    /// without Hyp, stalls, or hardware update of tables.
    Usual,
    /// The same with IDR0.Hyp.
    Hypervisor,
    /// The same with ASIDs and VMIDs of 8 bits.
    Narrow,
    /// The same with IDR0.TERM_MODEL.
    Aborting,
    /// The same with OAS of 52 bits, IDR5.VAX of 52 bits, and IDR5.DS.
    Wide,
}

/// A scene.
#[derive(Clone, Copy, Debug)]
pub struct Scene {
    /// What it shows.
    pub name: &'static str,
    /// Which SMMU it wants.
    pub part: Part,
    /// The stream table entry of [`STREAM`].
    pub ste: [u64; 8],
    /// Register values of this scene in place of those in [`SETUP`]: offset, value.
    pub registers: &'static [(u64, u64)],
    /// 64-bit words of memory: address, value. The rest of RAM is zero.
    pub memory: &'static [(u64, u64)],
    /// What the device asks, one after the other, and what must come of it.
    pub asks: &'static [Ask],
}

/// What a device does to four bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Does {
    /// Reads data, unprivileged.
    Reads,
    /// Writes data, unprivileged.
    Writes,
    /// Fetches instructions, unprivileged.
    Fetches,
    /// Reads data, privileged.
    ReadsPrivileged,
    /// Fetches instructions, privileged.
    FetchesPrivileged,
}

/// One access by a device.
#[derive(Clone, Copy, Debug)]
pub struct Ask {
    /// The StreamID.
    pub stream: u32,
    /// The SubstreamID.
    pub substream: Option<u32>,
    /// The input address.
    pub address: u64,
    /// What is done there.
    pub does: Does,
    /// What must come of it.
    pub answer: Answer,
}

/// What must come of an access.
#[derive(Clone, Copy, Debug)]
pub enum Answer {
    /// It goes to this physical address.
    Passes(u64),
    /// It is aborted, and nothing is recorded.
    Aborts,
    /// It is aborted, and this is recorded.
    Faults(Record),
    /// The device reads zero or its write is lost, and this is recorded.
    FaultsUnseen(Record),
}

/// An event record.
#[derive(Clone, Copy, Debug)]
pub struct Record {
    /// Its four words.
    pub words: [u64; 4],
    /// The bits that the book defines; it calls the others UNKNOWN or implementation defined.
    pub known: [u64; 4],
}

/// What the book defines of word 0: SubstreamID is UNKNOWN where there is an SSV, and it is 0.
const fn known_0(word: u64) -> u64 {
    let has_ssv = !matches!(word & 0xFF, 0x06 | 0x08);
    if has_ssv && word & 0x800 == 0 { 0xFFFF_FFFF_0000_0FFF } else { u64::MAX }
}

/// What the book defines of word 1 where CLASS is not TT: of F_PERMISSION, all but TTRnW.
const fn known_1(word_0: u64) -> u64 {
    if word_0 & 0xFF == 0x13 { 0xFFFF_EFFF_FFFF_FFFF } else { u64::MAX }
}

/// A record of which everything but an absent SubstreamID is known.
const fn record(words: [u64; 4]) -> Record {
    Record { words, known: [known_0(words[0]), u64::MAX, u64::MAX, u64::MAX] }
}

/// A record with an implementation defined Reason in bits 79:64.
const fn fetch_record(words: [u64; 4]) -> Record {
    Record { words, known: [known_0(words[0]), 0xFFFF_FFFF_FFFF_0000, u64::MAX, u64::MAX] }
}

/// A record of a stage 1 fault: IPA is UNKNOWN.
const fn stage_1_record(words: [u64; 4]) -> Record {
    Record { words, known: [known_0(words[0]), known_1(words[0]), u64::MAX, 0] }
}

/// A record of a stage 2 fault whose CLASS is not TT.
const fn stage_2_record(words: [u64; 4]) -> Record {
    Record { words, known: [known_0(words[0]), known_1(words[0]), u64::MAX, u64::MAX] }
}

/// An access by [`STREAM`] without a SubstreamID.
const fn ask(does: Does, address: u64, answer: Answer) -> Ask {
    Ask { stream: STREAM, substream: None, address, does, answer }
}

/// A read by [`STREAM`] without a SubstreamID.
const fn read(address: u64, answer: Answer) -> Ask {
    ask(Does::Reads, address, answer)
}

/// A write by [`STREAM`] without a SubstreamID.
const fn write(address: u64, answer: Answer) -> Ask {
    ask(Does::Writes, address, answer)
}

/// A read by [`STREAM`] with a SubstreamID.
const fn read_in(substream: u32, address: u64, answer: Answer) -> Ask {
    Ask { substream: Some(substream), ..read(address, answer) }
}

/// A scene for the usual part, with the registers of [`SETUP`].
const fn scene(
    name: &'static str,
    ste: [u64; 8],
    memory: &'static [(u64, u64)],
    asks: &'static [Ask],
) -> Scene {
    Scene { name, part: Part::Usual, ste, registers: &[], memory, asks }
}

/// The input address of most scenes: with 4K and 39 bits, level 1 index 0x48, level 2 0x1A2, level 3 0x167.
const VA: u64 = 0x0000_0012_3456_7ABC;
/// Stage 1 only: V, Config 0b101, CD at 0x8000_3000; CD fetches write-back, inner shareable.
const STE_STAGE_1: [u64; 8] = [0x0000_0000_8000_300B, 0x0000_0000_0000_00D4, 0, 0, 0, 0, 0, 0];
/// Stage 2 only: V, Config 0b110. S2VMID 7, S2T0SZ 24, S2SL0 1, walks write-back inner shareable, S2TG 4K, S2PS 48 bits,
/// AA64, S2R. S2TTB 0x8008_0000.
const STE_STAGE_2: [u64; 8] =
    [0x0000_0000_0000_000D, 0, 0x040D_3558_0000_0007, 0x0000_0000_8008_0000, 0, 0, 0, 0];
/// V, Config 0b111, CD at IPA 0x4000_3000; the rest as in the two above.
const STE_NESTED: [u64; 8] =
    [0x0000_0000_4000_300F, 0x0000_0000_0000_00D4, 0x040D_3558_0000_0007, 0x0000_0000_8008_0000, 0, 0, 0, 0];
