//! The stream table in memory, and what the registers say of it.
//!
//! Spec: SMMUv3 H.a, 3.3.1 "Stream table lookup", 5.1 "L1STD, Level 1 Stream Table Descriptor", 6.3.25 "SMMU_STRTAB_BASE_CFG".

use std::collections::BTreeMap;

use model_bus::Dice;

use crate::case::{Setup, Stream};
use crate::image::Image;
use crate::layout::{STREAMS, STREAMS_END};

/// The form of a stream table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// One table.
    Linear,
    /// Two levels.
    TwoLevel,
}

/// Where nothing answers.
const NOWHERE: u64 = 0x6000_0000;
/// RECINVSID.
const RECORD_BAD_STREAMS: u32 = 2;

/// Lays the entries of `streams` down, and answers what the registers say.
pub fn lay(form: Form, streams: &[Stream], image: &mut Image, dice: &mut Dice) -> Setup {
    // All ids at times, some of them at others.
    let lg2 = if dice.one_in(10) { dice.up_to(15) } else { 16 };
    match form {
        Form::Linear => linear(lg2, streams, image, dice),
        Form::TwoLevel => two_level(lg2, streams, image, dice),
    }
}

fn linear(lg2: u32, streams: &[Stream], image: &mut Image, dice: &mut Dice) -> Setup {
    let table_base = base(lg2 + 6, dice);
    for stream in streams.iter().filter(|stream| stream.id >> lg2 == 0) {
        image.set_all(STREAMS + u64::from(stream.id) * 64, &stream.ste);
    }
    Setup { table_base, table_config: lg2, cr2: cr2(dice) }
}

fn two_level(lg2: u32, streams: &[Stream], image: &mut Image, dice: &mut Dice) -> Setup {
    let split = [6, 8, 10][usize::try_from(dice.up_to(2)).unwrap_or(0)];
    let table_base = base((lg2.saturating_sub(split) + 3).max(6), dice);
    // The second level begins behind 2^(16 - 6) entries of the first.
    let mut free = STREAMS + (8 << 10);
    let mut second = BTreeMap::new();
    for stream in streams.iter().filter(|stream| stream.id >> lg2 == 0) {
        let (upper, lower) = (stream.id >> split, stream.id & ((1 << split) - 1));
        let at = *second.entry(upper).or_insert_with(|| {
            let bytes = 64u64 << split;
            let at = free.next_multiple_of(bytes);
            free = at + bytes;
            let span = match dice.up_to(15) {
                0 => 0,
                1 => u64::from(dice.up_to(13)),
                _ => u64::from(split) + 1,
            };
            let pointer = match dice.up_to(47) {
                0 | 1 => NOWHERE,
                2 => at | 1 << (44 + dice.up_to(7)),
                _ => at,
            };
            image.set(STREAMS + u64::from(upper) * 8, pointer | span);
            at
        });
        image.set_all(at + u64::from(lower) * 64, &stream.ste);
    }
    assert!(free <= STREAMS_END, "the stream table is too large");
    Setup { table_base, table_config: lg2 | split << 6 | 1 << 16, cr2: cr2(dice) }
}

/// QEMU takes RECINVSID for set.
fn cr2(dice: &mut Dice) -> u32 {
    if dice.one_in(16) { 0 } else { RECORD_BAD_STREAMS }
}

/// STRTAB_BASE for a table of 2^`lg2` bytes. At times its low bits are set, which count as 0.
fn base(lg2: u32, dice: &mut Dice) -> u64 {
    let low = if dice.one_in(16) { dice.next_bits() & ((1 << lg2) - 64) } else { 0 };
    (if dice.one_in(80) { NOWHERE } else { STREAMS }) | low
}
