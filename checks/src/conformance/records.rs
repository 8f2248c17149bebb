//! Event records as the book has them, and which of their bits it defines.
//!
//! Spec: SMMUv3 H.a, 7.3 "Event records". The words are put together here, by hand, and not by `spec`.

use portcullis::types::AccessKind;

/// What a record must be: four words, and which bits of each the book defines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// The words.
    pub words: [u64; 4],
    /// Bits that the book does not call UNKNOWN or IMPLEMENTATION DEFINED.
    pub known: [u64; 4],
}

/// Event numbers.
pub mod number {
    /// 7.3.3 "C_BAD_STREAMID".
    pub const C_BAD_STREAMID: u64 = 0x02;
    /// 7.3.4 "F_STE_FETCH".
    pub const F_STE_FETCH: u64 = 0x03;
    /// 7.3.5 "C_BAD_STE".
    pub const C_BAD_STE: u64 = 0x04;
    /// 7.3.7 "F_STREAM_DISABLED".
    pub const F_STREAM_DISABLED: u64 = 0x06;
    /// 7.3.9 "C_BAD_SUBSTREAMID".
    pub const C_BAD_SUBSTREAMID: u64 = 0x08;
    /// 7.3.10 "F_CD_FETCH".
    pub const F_CD_FETCH: u64 = 0x09;
    /// 7.3.11 "C_BAD_CD".
    pub const C_BAD_CD: u64 = 0x0a;
    /// 7.3.12 "F_WALK_EABT".
    pub const F_WALK_EABT: u64 = 0x0b;
    /// 7.3.13 "F_TRANSLATION".
    pub const F_TRANSLATION: u64 = 0x10;
    /// 7.3.14 "F_ADDR_SIZE".
    pub const F_ADDR_SIZE: u64 = 0x11;
    /// 7.3.15 "F_ACCESS".
    pub const F_ACCESS: u64 = 0x12;
    /// 7.3.16 "F_PERMISSION".
    pub const F_PERMISSION: u64 = 0x13;
}

/// The book's name of an event number.
pub fn name(number: u64) -> &'static str {
    match number {
        0x01 => "F_UUT",
        0x02 => "C_BAD_STREAMID",
        0x03 => "F_STE_FETCH",
        0x04 => "C_BAD_STE",
        0x06 => "F_STREAM_DISABLED",
        0x08 => "C_BAD_SUBSTREAMID",
        0x09 => "F_CD_FETCH",
        0x0a => "C_BAD_CD",
        0x0b => "F_WALK_EABT",
        0x10 => "F_TRANSLATION",
        0x11 => "F_ADDR_SIZE",
        0x12 => "F_ACCESS",
        0x13 => "F_PERMISSION",
        0x20 => "F_TLB_CONFLICT",
        0x21 => "F_CFG_CONFLICT",
        _ => "another event",
    }
}

const RNW: u64 = 0x0000_0008_0000_0000;
const IND: u64 = 0x0000_0004_0000_0000;
const PNU: u64 = 0x0000_0002_0000_0000;
const S2: u64 = 0x0000_0080_0000_0000;
const CLASS_TT: u64 = 0x0000_0100_0000_0000;
/// CLASS, bits 105:104: the input address caused the fault.
pub const CLASS_IN: u64 = 0x0000_0200_0000_0000;

/// StreamID in bits 63:32. Without a SubstreamID SSV is 0 and bits 31:12 are UNKNOWN.
fn word_0(number: u64, stream: u32) -> (u64, u64) {
    (number | u64::from(stream) << 32, 0xffff_ffff_0000_0fff)
}

/// What an access was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct What {
    /// Who.
    pub stream: u32,
    /// At which address.
    pub at: u64,
    /// What.
    pub kind: AccessKind,
    /// Whether privileged.
    pub privileged: bool,
}

impl What {
    /// RnW, InD and PnU.
    fn marks(self) -> u64 {
        let kind = match self.kind {
            AccessKind::Read => RNW,
            AccessKind::Write => 0,
            AccessKind::Execute => RNW | IND,
        };
        kind | if self.privileged { PNU } else { 0 }
    }
}

/// A record that says who, and nothing else: C_BAD_STREAMID, C_BAD_STE, C_BAD_CD.
pub fn configuration(number: u64, stream: u32) -> Wanted {
    let (word, known) = word_0(number, stream);
    Wanted { words: [word, 0, 0, 0], known: [known, u64::MAX, u64::MAX, u64::MAX] }
}

/// F_STREAM_DISABLED, which says no substream and has no SSV.
pub fn stream_disabled(stream: u32) -> Wanted {
    configuration(number::F_STREAM_DISABLED, stream)
}

/// C_BAD_SUBSTREAMID, in which the SubstreamID always counts. Observed in the note at its end: there is no SSV.
pub fn bad_substream(stream: u32, substream: u32) -> Wanted {
    let words = [number::C_BAD_SUBSTREAMID | u64::from(substream) << 12 | u64::from(stream) << 32, 0, 0, 0];
    Wanted { words, known: [0xffff_ffff_ffff_f0ff, u64::MAX, u64::MAX, u64::MAX] }
}

/// The same record of an access with a SubstreamID: SSV, and which.
pub fn in_substream(wanted: Wanted, substream: u32) -> Wanted {
    let mut wanted = wanted;
    wanted.words[0] |= 0x800 | u64::from(substream) << 12;
    wanted.known[0] = u64::MAX;
    wanted
}

/// F_STE_FETCH and F_CD_FETCH: FetchAddr, bits 55:3; Reason is IMPLEMENTATION DEFINED.
pub fn fetch(number: u64, stream: u32, fetched: u64) -> Wanted {
    let (word, known) = word_0(number, stream);
    Wanted {
        words: [word, 0, 0, fetched & 0x00ff_ffff_ffff_fff8],
        known: [known, 0xffff_ffff_ffff_0000, u64::MAX, u64::MAX],
    }
}

/// F_WALK_EABT of a stage 1 walk without stage 2: CLASS is TT.
pub fn walk_abort(what: What, fetched: u64) -> Wanted {
    let (word, known) = word_0(number::F_WALK_EABT, what.stream);
    Wanted {
        words: [word, CLASS_TT | what.marks(), what.at, fetched & 0x00ff_ffff_ffff_fff8],
        known: [known, 0xffff_ffff_ffff_0000, u64::MAX, u64::MAX],
    }
}

/// A fault of one stage that translates alone: CLASS is IN, and where it is stage 2, S2 is set and the IPA is the address's page.
/// TTRnW of F_PERMISSION is UNKNOWN, as is the IPA of stage 1.
pub fn fault(number: u64, what: What, stage_2: bool) -> Wanted {
    let (word, known) = word_0(number, what.stream);
    let ttrnw = if number == number::F_PERMISSION { !0x0000_1000_0000_0000 } else { u64::MAX };
    let (stage, ipa, ipa_known) =
        if stage_2 { (S2, what.at & 0x00ff_ffff_ffff_f000, u64::MAX) } else { (0, 0, 0) };
    Wanted {
        words: [word, CLASS_IN | stage | what.marks(), what.at, ipa],
        known: [known, ttrnw, u64::MAX, ipa_known],
    }
}

impl Wanted {
    /// The same, some bits not looked at.
    #[must_use]
    pub fn without(mut self, bits: [u64; 4]) -> Self {
        self.known.iter_mut().zip(bits).for_each(|(known, bits)| *known &= !bits);
        self
    }

    /// Whether a record is this one.
    pub fn is(&self, record: &[u64; 4]) -> bool {
        (0..4).all(|index| (record[index] ^ self.words[index]) & self.known[index] == 0)
    }
}

/// A record for people.
pub fn shown(record: &[u64; 4]) -> String {
    let [a, b, c, d] = record;
    format!("{} {a:#018x} {b:#x} {c:#x} {d:#x}", name(a & 0xff))
}
