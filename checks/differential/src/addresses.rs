//! Where devices reach to: the places where something changes.

use model_bus::Dice;

use crate::case::Access;
use crate::layout::{DATA, DATA_END};
use crate::tables::{Leaf, Shape, Tables};

/// How many addresses a device uses.
const EACH: usize = 14;

/// A random address in the range of tables of this shape; `upper` for the half that TTB1 translates.
pub fn random_input(shape: &Shape, upper: bool, dice: &mut Dice) -> u64 {
    let mask = (1u64 << shape.input_bits) - 1;
    let within = match dice.up_to(7) {
        0 => 0,
        1 => mask,
        2 => 1 << (shape.input_bits - 1),
        _ => dice.next_bits() & mask,
    };
    if upper { within | !mask } else { within }
}

/// Addresses for a device with these tables.
pub fn of(halves: [Option<&Tables>; 2], stage2: Option<&Tables>, dice: &mut Dice) -> Vec<u64> {
    let sides: Vec<(&Tables, bool)> = match halves {
        [None, None] => stage2.map(|tables| (tables, false)).into_iter().collect(),
        [lower, upper] => lower
            .map(|tables| (tables, false))
            .into_iter()
            .chain(upper.map(|tables| (tables, true)))
            .collect(),
    };
    (0..EACH).map(|_| one(&sides, dice)).collect()
}

fn one(sides: &[(&Tables, bool)], dice: &mut Dice) -> u64 {
    let side = sides.get(usize::try_from(dice.up_to(u32::MAX)).unwrap_or(0) % sides.len().max(1));
    let Some(&(tables, upper)) = side else { return anywhere(dice) };
    let leaf = usize::try_from(dice.up_to(u32::MAX)).unwrap_or(0) % tables.leaves.len().max(1);
    match (dice.up_to(15), tables.leaves.get(leaf)) {
        (0, _) if dice.one_in(2) => edge(&tables.shape, upper, dice),
        (1, Some(leaf)) => tagged(in_leaf(leaf, dice), dice),
        (2.., Some(leaf)) if !dice.one_in(10) => in_leaf(leaf, dice),
        (3.., _) => random_input(&tables.shape, upper, dice),
        _ => anywhere(dice),
    }
}

/// In a leaf, or just outside.
fn in_leaf(leaf: &Leaf, dice: &mut Dice) -> u64 {
    let size = 1u64 << leaf.size_lg2;
    let last = leaf.first.wrapping_add(size - 1);
    match dice.up_to(15) {
        0 => leaf.first.wrapping_sub(1),
        1 => last.wrapping_add(1),
        2 => leaf.first,
        3 => last,
        4 => leaf.first.wrapping_add(4095.min(size - 1)),
        _ => {
            // Where the leaf is larger than the data area, the part that reaches it.
            let within = if size > DATA_END - DATA {
                DATA + dice.next_bits() % (DATA_END - DATA)
            } else {
                dice.next_bits()
            };
            leaf.first.wrapping_add(within & (size - 1))
        }
    }
}

/// At the ends of the range.
fn edge(shape: &Shape, upper: bool, dice: &mut Dice) -> u64 {
    let limit = 1u64 << shape.input_bits;
    let edges = if upper {
        [limit.wrapping_neg(), limit.wrapping_neg() - 1, u64::MAX - 3, limit.wrapping_neg() | 1 << 12]
    } else {
        [0, limit - 1, limit, limit | 1 << 12]
    };
    edges[usize::try_from(dice.up_to(3)).unwrap_or(0)]
}

/// With something in the top byte.
fn tagged(address: u64, dice: &mut Dice) -> u64 {
    address & 0x00ff_ffff_ffff_ffff | dice.next_bits() & 0xff << 56
}

/// Anywhere: physical addresses that mean something without translation, and any others.
fn anywhere(dice: &mut Dice) -> u64 {
    let data = DATA + dice.next_bits() % (DATA_END - DATA);
    match dice.up_to(7) {
        0..=3 => data,
        4 => data | 1 << (40 + dice.up_to(7)),
        5 => 0x6000_0000,
        6 => dice.next_bits(),
        _ => dice.next_bits() >> (16 + dice.up_to(20)),
    }
}

/// An access at `address`, of a size that suits it.
pub fn access(stream: u32, address: u64, write: bool, warm: bool, dice: &mut Dice) -> Access {
    let wanted = [1, 2, 4, 4, 4, 4, 4, 8][usize::try_from(dice.up_to(7)).unwrap_or(0)];
    // Natural alignment keeps it in its page.
    let len = if dice.one_in(24) { 16 << dice.up_to(4) } else { wanted };
    let address = address & !u64::from(len - 1);
    Access { stream, address, len, write, flush: !warm || dice.one_in(4) }
}
