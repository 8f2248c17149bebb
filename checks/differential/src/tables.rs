//! Translation tables of one stage, grown path by path.
//!
//! A [`Tables`] begins with an empty root. A path leads from the root to an entry of some level; tables on the way that are not there
//! are made. A path that meets a leaf, or a table that leads nowhere, ends there: such a mix is what is wanted.
//!
//! Tables may be seen at other addresses than those where they lie: behind a stage 2, descriptors hold intermediate addresses.

use model_bus::Dice;

use crate::descriptor::{ADDRESS, AF, CONTIGUOUS, Granule, NG, Stage};
use crate::image::{Image, Table};
use crate::layout::{DATA, DATA_END, TABLES, TABLES_END};

/// The shape of the tables of one stage.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Which stage.
    pub stage: Stage,
    /// The granule.
    pub granule: Granule,
    /// Bits of the address that enters.
    pub input_bits: u32,
    /// The level of the root.
    pub start: i8,
    /// Bits of an address that leaves, as far as the configuration says.
    pub output_bits: u32,
}

impl Shape {
    /// Bytes of the root.
    pub fn root_bytes(&self) -> u64 {
        8 << (self.input_bits - self.granule.shift(self.start))
    }
}

/// A leaf that was made.
#[derive(Clone, Copy, Debug)]
pub struct Leaf {
    /// The first address that it translates.
    pub first: u64,
    /// log2 of how many it translates, with its contiguous group.
    pub size_lg2: u32,
    /// Where the first byte goes.
    pub output: u64,
}

/// The tables of one stage.
#[derive(Clone, Debug)]
pub struct Tables {
    /// Their shape.
    pub shape: Shape,
    /// Where the root lies.
    pub root: u64,
    /// What is added to where a table lies to get the address by which it is known.
    pub delta: u64,
    /// Leaves, good and bad ones.
    pub leaves: Vec<Leaf>,
    /// Where the tables lie, and how many bytes they have.
    pub places: Vec<(u64, u64)>,
    /// Accesses are privileged: AP\[1\] may be anything.
    pub privileged: bool,
}

impl Tables {
    /// Empty tables; none if there is no room.
    pub fn new(
        shape: Shape,
        delta: u64,
        privileged: bool,
        image: &mut Image,
        dice: &mut Dice,
    ) -> Option<Self> {
        let bytes = shape.root_bytes();
        let root = image.room(bytes, dice)?;
        note(image, &shape, root, bytes, shape.start);
        Some(Self { shape, root, delta, leaves: Vec::new(), places: vec![(root, bytes)], privileged })
    }

    /// The address by which the root is known.
    pub fn root_seen(&self) -> u64 {
        self.root.wrapping_add(self.delta)
    }

    /// Makes a leaf at `level` for `address`, if the way there is free. Answers whether it was.
    pub fn grow(&mut self, address: u64, level: i8, output: u64, image: &mut Image, dice: &mut Dice) -> bool {
        let Some((at, index)) = self.entry(address, level, true, image, dice) else { return false };
        if image.word(at) != 0 {
            return false;
        }
        let size_lg2 = self.shape.granule.shift(level);
        let within = address & ((1 << self.shape.input_bits) - 1);
        let above = address - within;
        let first = above + (within >> size_lg2 << size_lg2);
        let raw = leaf_bits(&self.shape, level, self.privileged, dice);
        let output = output >> size_lg2 << size_lg2;
        if raw & 1 == 1 && dice.one_in(6) && self.grow_group(first, at, index, level, output, raw, image) {
            return true;
        }
        image.set(at, with_address(raw, output, &self.shape, dice));
        self.leaves.push(Leaf { first, size_lg2, output });
        true
    }

    /// Makes a leaf as a part of the whole contiguous group around it, if all of that is free.
    fn grow_group(
        &mut self,
        first: u64,
        at: u64,
        index: u64,
        level: i8,
        output: u64,
        raw: u64,
        image: &mut Image,
    ) -> bool {
        let entries = self.shape.granule.contiguous(level);
        let size_lg2 = self.shape.granule.shift(level);
        let group_lg2 = size_lg2 + entries.ilog2();
        let table = if level == self.shape.start {
            self.shape.root_bytes() / 8
        } else {
            1 << self.shape.granule.stride()
        };
        if entries == 1 || entries > table || group_lg2 > self.shape.input_bits {
            return false;
        }
        let group = at - index % entries * 8;
        if (0..entries).any(|entry| image.word(group + entry * 8) != 0) {
            return false;
        }
        let base = output >> group_lg2 << group_lg2;
        for entry in 0..entries {
            image.set(group + entry * 8, raw | CONTIGUOUS | (base + (entry << size_lg2)));
        }
        self.leaves.push(Leaf { first: first >> group_lg2 << group_lg2, size_lg2: group_lg2, output: base });
        true
    }

    /// Where the entry of `level` for `address` lies, and its index; none if the way is barred.
    fn entry(
        &mut self,
        address: u64,
        level: i8,
        quirks: bool,
        image: &mut Image,
        dice: &mut Dice,
    ) -> Option<(u64, u64)> {
        let shape = self.shape;
        let within = address & ((1 << shape.input_bits) - 1);
        let mut table = self.root;
        for now in shape.start..=level {
            let mut index = within >> shape.granule.shift(now);
            if now != shape.start {
                index &= (1 << shape.granule.stride()) - 1;
            }
            let at = table + index * 8;
            if now == level {
                return Some((at, index));
            }
            table = match image.word(at) {
                0 => self.next_table(at, now, quirks, image, dice)?,
                word if word & 3 == 3 => (word & ADDRESS).wrapping_sub(self.delta),
                _ => return None,
            };
            if !(TABLES..TABLES_END).contains(&table) {
                return None;
            }
        }
        None
    }

    /// Makes a table of the level below `level`, and the descriptor at `at` that points to it.
    fn next_table(
        &mut self,
        at: u64,
        level: i8,
        quirks: bool,
        image: &mut Image,
        dice: &mut Dice,
    ) -> Option<u64> {
        let bytes = 1 << self.shape.granule.bits();
        let table = image.room(bytes, dice)?;
        let mut word = table.wrapping_add(self.delta) | 3;
        if quirks {
            word = self.quirk(word, dice);
        }
        image.set(at, word);
        if word & ADDRESS == table.wrapping_add(self.delta) {
            note(image, &self.shape, table, bytes, level + 1);
            self.places.push((table, bytes));
        }
        Some((word & ADDRESS).wrapping_sub(self.delta))
    }

    /// A table descriptor that is unusual in one way or none.
    fn quirk(&self, word: u64, dice: &mut Dice) -> u64 {
        let size_lg2 = self.shape.granule.bits();
        match dice.up_to(47) {
            // Nothing answers there. Behind a stage 2, nothing may be mapped there, either.
            0..=5 => 0x6000_0003 + (u64::from(dice.up_to(255)) << 20 >> size_lg2 << size_lg2),
            // Beyond what may be output.
            6 => {
                word | 1 << (self.shape.output_bits + dice.up_to(47 - self.shape.output_bits.min(47))).min(47)
            }
            7..=12 if self.shape.stage == Stage::One => {
                let limits = u64::from(dice.up_to(31)) << 59;
                word | if self.privileged { limits } else { limits & !(1 << 61) }
            }
            13..=18 => word | u64::from(dice.up_to(1023)) << 2 | u64::from(dice.up_to(127)) << 52,
            _ => word,
        }
    }
}

fn note(image: &mut Image, shape: &Shape, at: u64, bytes: u64, level: i8) {
    image.note_table(at, Table { bytes, stage: shape.stage, granule: shape.granule, level });
}

/// All of a leaf but its address. It may be an invalid one.
fn leaf_bits(shape: &Shape, level: i8, privileged: bool, dice: &mut Dice) -> u64 {
    let kind = if level == 3 { 3 } else { 1 };
    // Memory attributes, SH, bits 58:55 for software, XN.
    let mut raw = kind
        | AF
        | u64::from(dice.up_to(15)) << 2
        | u64::from(dice.up_to(3)) << 8
        | u64::from(dice.up_to(15)) << 55;
    if dice.one_in(4) {
        raw |= u64::from(dice.up_to(3)) << 53;
    }
    raw |= permissions(shape.stage, privileged, dice);
    if shape.stage == Stage::One && dice.one_in(2) {
        raw |= NG;
    }
    match dice.up_to(31) {
        0 | 1 => raw & !3 | u64::from(dice.up_to(1)) << 1,
        2..=4 if level == 3 => raw & !3 | 1,
        5 => raw & !AF,
        6 => raw & !AF & !0xc0 | permissions(shape.stage, privileged, dice),
        _ => raw,
    }
}

/// AP\[2:1\] or S2AP, mostly those that let something through.
fn permissions(stage: Stage, privileged: bool, dice: &mut Dice) -> u64 {
    let often = dice.one_in(2);
    let bits = match (stage, privileged) {
        (Stage::One, true) => u64::from(dice.up_to(3)),
        (Stage::One, false) => u64::from(dice.up_to(1)) << 1 | 1,
        (Stage::Two, _) if often || dice.one_in(2) => 3,
        (Stage::Two, _) => u64::from(dice.up_to(3)),
    };
    bits << 6
}

/// The descriptor with its address, which is beyond what may be output now and then.
fn with_address(raw: u64, output: u64, shape: &Shape, dice: &mut Dice) -> u64 {
    if !dice.one_in(12) {
        return raw | output & ADDRESS;
    }
    let beyond = (shape.output_bits + dice.up_to(47u32.saturating_sub(shape.output_bits))).min(47);
    raw | output & ADDRESS | 1 << beyond
}

/// An address in memory for a leaf of 2^`size_lg2` bytes: mostly in the data area, at times where nothing answers.
pub fn data_output(size_lg2: u32, dice: &mut Dice) -> u64 {
    if dice.one_in(12) {
        let nowhere = [0x6000_0000, 0x7000_0000, 0x8000_0000, 0x10_0000_0000]
            [usize::try_from(dice.up_to(3)).unwrap_or(0)];
        return nowhere >> size_lg2 << size_lg2;
    }
    let any = DATA + dice.next_bits() % (DATA_END - DATA);
    any >> size_lg2 << size_lg2
}
