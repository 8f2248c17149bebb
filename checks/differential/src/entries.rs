//! Stream table entries and context descriptors, right and wrong.
//!
//! Spec: SMMUv3 H.a, 5.2 "STE, Stream Table Entry", 5.4 "CD, Context Descriptor".

use model_bus::Dice;

use crate::descriptor::Granule;
use crate::tables::{Shape, Tables};

/// log2 of the sizes that IPS and S2PS stand for.
pub const SIZES: [u32; 7] = [32, 36, 40, 42, 44, 48, 52];

/// Bits of output address of the part.
pub const OUTPUT_BITS: u32 = 44;

/// The bits that a size code stands for on this part.
pub fn size_bits(code: u64) -> u32 {
    SIZES[usize::try_from(code.min(6)).unwrap_or(6)].min(OUTPUT_BITS)
}

/// Config of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Config {
    /// 0b000 to 0b011.
    Abort(u64),
    /// 0b100.
    Bypass,
    /// 0b101.
    Stage1,
    /// 0b110.
    Stage2,
    /// 0b111.
    Nested,
}

impl Config {
    /// One of them.
    pub fn any(dice: &mut Dice) -> Self {
        match dice.up_to(31) {
            0 => Self::Abort(u64::from(dice.up_to(3))),
            1 | 2 => Self::Bypass,
            3..=12 => Self::Stage1,
            13..=20 => Self::Stage2,
            _ => Self::Nested,
        }
    }

    /// The code.
    pub fn code(self) -> u64 {
        match self {
            Self::Abort(code) => code,
            Self::Bypass => 4,
            Self::Stage1 => 5,
            Self::Stage2 => 6,
            Self::Nested => 7,
        }
    }
}

/// A random granule.
pub fn granule(dice: &mut Dice) -> Granule {
    Granule::ALL[usize::try_from(dice.up_to(2)).unwrap_or(0)]
}

/// What S2SL0 says for a walk that begins at `start`.
pub fn sl0(granule: Granule, start: i8) -> u64 {
    let most = if granule == Granule::Kib4 { 2 } else { 3 };
    u64::from((most - start).unsigned_abs())
}

/// Bits that mean nothing for what an entry is used for here, at random: memory attributes, hints, bits for software.
fn noise(dice: &mut Dice, mask: u64) -> u64 {
    if dice.one_in(2) { dice.next_bits() & mask } else { 0 }
}

/// An entry as it should be. `vmid` tags what is cached.
pub fn ste(
    config: Config,
    contexts: Option<u64>,
    stage2: Option<&Tables>,
    vmid: u16,
    dice: &mut Dice,
) -> [u64; 8] {
    let mut words = [0; 8];
    words[0] = 1 | config.code() << 1 | contexts.unwrap_or(0);
    // S1DSS (nothing without substreams), S1CIR, S1COR, S1CSH, MTCFG and its kin, SHCFG.
    words[1] = noise(dice, 0x0000_301f_0000_00ff);
    words[2] = u64::from(vmid);
    if let Some(tables) = stage2 {
        let Shape { granule, input_bits, start, .. } = tables.shape;
        words[2] |=
            u64::from(64 - input_bits) << 32 | sl0(granule, start) << 38 | granule.code0() << 46 | 1 << 51;
        words[2] |= size_code(tables.shape.output_bits, dice) << 48;
        // S2IR0, S2OR0, S2SH0.
        words[2] |= noise(dice, 0x3f << 40);
        // S2AFFD, S2R.
        words[2] |= u64::from(dice.one_in(5)) << 53 | u64::from(!dice.one_in(8)) << 58;
        words[3] = tables.root;
    }
    words
}

/// A code for so many bits: one above 44 means 44.
fn size_code(bits: u32, dice: &mut Dice) -> u64 {
    let exact = SIZES.iter().position(|&size| size == bits).unwrap_or(4);
    // 6 and 7 mean the same, and end QEMU.
    let more = if bits == OUTPUT_BITS { dice.up_to(1) } else { 0 };
    u64::try_from(exact).unwrap_or(4) + u64::from(more)
}

/// A context descriptor as it should be.
pub fn cd(halves: [Option<&Tables>; 2], asid: u16, privileged: bool, dice: &mut Dice) -> [u64; 8] {
    let mut words = [0; 8];
    let bits = halves.iter().flatten().map(|tables| tables.shape.output_bits).next().unwrap_or(OUTPUT_BITS);
    // V, AA64, R mostly, A.
    words[0] = 1 << 31 | 1 << 41 | u64::from(!dice.one_in(8)) << 45 | 1 << 46 | u64::from(asid) << 48;
    words[0] |= size_code(bits, dice) << 32;
    // AFFD, WXN and UWXN (nothing for data), ASET.
    words[0] |= u64::from(dice.one_in(5)) << 35 | noise(dice, 3 << 36) | noise(dice, 1 << 47);
    // PAN counts for privileged accesses only, and QEMU does not know it.
    words[0] |= if privileged && !dice.one_in(16) { 0 } else { noise(dice, 1 << 40) };
    // TBI0 and TBI1. QEMU takes one for the other.
    let tbi = u64::from(dice.one_in(3));
    words[0] |= tbi << 38 | if dice.one_in(16) { tbi ^ 1 } else { tbi } << 39;
    words[0] |= half(halves[0], 0, dice) | half(halves[1], 1, dice) << 16;
    for (word, tables) in [(1, halves[0]), (2, halves[1])] {
        if let Some(tables) = tables {
            // HAD.
            words[word] = tables.root_seen() | u64::from(dice.one_in(4)) << 1;
        }
    }
    words[3] = dice.next_bits();
    words
}

/// T0SZ, TG0, memory attributes and EPD0, or those of TTB1.
fn half(tables: Option<&Tables>, index: usize, dice: &mut Dice) -> u64 {
    let Some(tables) = tables else {
        // What is off may say anything.
        return 1 << 14 | noise(dice, 0x3fff);
    };
    let granule = tables.shape.granule;
    let code = if index == 0 { granule.code0() } else { granule.code1() };
    u64::from(64 - tables.shape.input_bits) | code << 6 | noise(dice, 0x3f << 8)
}

/// Sets `bits` bits from `low` on.
fn set(word: &mut u64, low: u32, bits: u32, value: u64) {
    let mask = (1 << bits) - 1;
    *word = *word & !(mask << low) | (value & mask) << low;
}

/// Spoils an entry in one way. What tables it has stay tables of the same levels, as long as it is a valid one.
pub fn spoil_ste(words: &mut [u64; 8], dice: &mut Dice) {
    match dice.up_to(14) {
        0 => words[0] &= !1,
        1 => set(&mut words[2], 46, 2, 3),
        2 => {
            let wanted = other_size(words[2] >> 32 & 0x3f, dice);
            set(&mut words[2], 32, 6, wanted);
        }
        3 => {
            let wanted = other_start(words[2], dice);
            set(&mut words[2], 38, 2, wanted);
        }
        4 => words[3] |= 1 << (44 + dice.up_to(7)),
        5 => set(&mut words[2], 52, 1, 1),
        6 => set(&mut words[2], 57, 1, 1),
        7 => set(&mut words[1], 27, 1, 1),
        8 => set(&mut words[2], 48, 3, u64::from(dice.up_to(7))),
        // S2HD, S2HA.
        9 => set(&mut words[2], 55, 2, u64::from(1 + dice.up_to(2))),
        // S2PTW.
        10 => set(&mut words[2], 54, 1, 1),
        // S1CDMax.
        11 => set(&mut words[0], 59, 5, u64::from(1 + dice.up_to(30))),
        // S1ContextPtr beyond the output size.
        12 => words[0] |= 1 << (44 + dice.up_to(7)),
        // A fetch that meets nothing.
        _ => set(&mut words[0], 6, 46, 0x6000_0000 >> 6 | u64::from(dice.up_to(255))),
    }
}

/// A TxSZ that is out of range, or one that takes in less.
fn other_size(now: u64, dice: &mut Dice) -> u64 {
    match u64::from(dice.up_to(63)) {
        wanted @ (0..=11 | 40..) => wanted,
        wanted => (now + wanted % 4).min(39),
    }
}

/// An S2SL0 that does not go with S2T0SZ.
fn other_start(word: u64, dice: &mut Dice) -> u64 {
    let wanted = u64::from(dice.up_to(3));
    let granule = Granule::ALL.into_iter().find(|any| any.code0() == word >> 46 & 3).unwrap_or(Granule::Kib4);
    let first = if granule == Granule::Kib4 { 2 } else { 3 };
    let shift = u64::from(granule.shift(first - i8::try_from(wanted).unwrap_or(0)));
    let input_bits = 64 - (word >> 32 & 0x3f);
    let goes = (shift + 1..=shift + u64::from(granule.stride()) + 3).contains(&input_bits);
    if goes { 3 } else { wanted }
}

/// A T0SZ or T1SZ for the same level of the root, or one that is out of range.
fn other_half(now: u64, granule: Option<Granule>, dice: &mut Dice) -> u64 {
    let Some(granule) = granule else { return 63 };
    let start =
        |size: u64| (64 - size).saturating_sub(1 + u64::from(granule.bits())) / u64::from(granule.stride());
    let wanted = other_size(now, dice);
    if (16..=39).contains(&wanted) && start(wanted) != start(now) { 63 } else { wanted }
}

/// Spoils a context descriptor in one way.
pub fn spoil_cd(words: &mut [u64; 8], dice: &mut Dice) {
    let word = words[0];
    let bit = match dice.up_to(14) {
        0 => return words[0] &= !(1 << 31),
        1 => return words[0] &= !(1 << 46),
        2 => 44,
        3 => 43,
        4 => 42,
        5 => return words[0] &= !(1 << 41),
        6 => 15,
        7 => {
            let granule = Granule::ALL.into_iter().find(|any| any.code0() == word >> 6 & 3);
            return set(&mut words[0], 0, 6, other_half(word & 0x3f, granule, dice));
        }
        8 => {
            let granule = Granule::ALL.into_iter().find(|any| any.code1() == word >> 22 & 3);
            return set(&mut words[0], 16, 6, other_half(word >> 16 & 0x3f, granule, dice));
        }
        9 => return words[0] |= 0xc0,
        10 => return words[0] &= !0xc0_0000,
        11 => return words[1] |= 1 << (44 + dice.up_to(7)),
        12 => return words[2] |= 1 << (44 + dice.up_to(7)),
        13 => 14,
        _ => 30,
    };
    words[0] |= 1 << bit;
}
