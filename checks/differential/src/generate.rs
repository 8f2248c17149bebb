//! Draws cases from a seed.
//!
//! Most of what is drawn works, most mistakes come alone, and addresses lie where something changes: at the ends of pages, blocks,
//! groups, tables and address spaces.
//!
//! Not here: entries (`entries`), tables (`tables`), the stream table (`streams`), addresses (`addresses`).

use model_bus::Dice;

use crate::addresses;
use crate::case::{Case, READERS, Stream, WRITERS};
use crate::descriptor::{Granule, Stage};
use crate::entries::{self, Config, OUTPUT_BITS, SIZES};
use crate::image::Image;
use crate::layout::RAM;
use crate::streams::{self, Form};
use crate::tables::{Shape, Tables, data_output};

/// Case `number` of the run with this seed, with a stream table of this form.
pub fn case(seed: u64, number: u64, form: Form) -> Case {
    let mut dice = Dice::new(seed ^ number.wrapping_mul(0xd129_0d3a_5f4c_7b1b));
    let dice = &mut dice;
    let mut image = Image::new(dice);
    let privileged = dice.one_in(2);
    let warm = dice.one_in(4);
    let mut streams: Vec<Stream> = Vec::new();
    let mut accesses = Vec::new();
    for (index, id) in (1..).zip(WRITERS.into_iter().chain(READERS)) {
        if let Some((stream, wanted)) = stream(id, index, privileged, &mut image, dice) {
            let write = WRITERS.contains(&id);
            accesses
                .extend(wanted.into_iter().map(|address| addresses::access(id, address, write, warm, dice)));
            streams.push(stream);
        }
    }
    let setup = streams::lay(form, &streams, &mut image, dice);
    Case { seed, number, setup, image, streams, accesses, privileged }
}

/// What the device `id` is told, and the addresses it will use. `tag` keeps its translations apart from others'.
fn stream(
    id: u32,
    tag: u16,
    privileged: bool,
    image: &mut Image,
    dice: &mut Dice,
) -> Option<(Stream, Vec<u64>)> {
    let config = Config::any(dice);
    let mut stage2 = match config {
        Config::Stage2 | Config::Nested => Some(stage2(config == Config::Nested, image, dice)?),
        _ => None,
    };
    let mut contexts = None;
    let mut cd = None;
    let mut halves = [None, None];
    if matches!(config, Config::Stage1 | Config::Nested) {
        let delta = stage2.as_ref().map_or(0, |tables| tables.delta);
        let at = image.room(64, dice)?;
        halves = stage1(delta, stage2.as_ref(), privileged, image, dice)?;
        let mut words = entries::cd([halves[0].as_ref(), halves[1].as_ref()], tag, privileged, dice);
        if dice.one_in(10) {
            entries::spoil_cd(&mut words, dice);
        }
        image.set_all(at, &words);
        contexts = Some(at.wrapping_add(delta));
        cd = Some((at, words));
    }
    let mut ste = entries::ste(config, contexts, stage2.as_ref(), tag, dice);
    if dice.one_in(10) {
        entries::spoil_ste(&mut ste, dice);
    }
    let wanted = addresses::of([halves[0].as_ref(), halves[1].as_ref()], stage2.as_ref(), dice);
    if let Some(stage2) = &mut stage2 {
        let contexts = cd.as_ref().map(|(at, _)| *at);
        grow_stage2(stage2, &halves, contexts, &wanted, image, dice);
    }
    let stream = Stream { id, ste, cd: cd.map(|(_, words)| words), stage1: halves, stage2 };
    let wanted = if stream.stage2.is_some() && stream.cd.is_none() {
        addresses::of([None, None], stream.stage2.as_ref(), dice)
    } else {
        wanted
    };
    Some((stream, wanted))
}

/// Output bits that leave RAM within reach.
fn output_bits(dice: &mut Dice) -> u32 {
    if dice.one_in(2) { OUTPUT_BITS } else { SIZES[usize::try_from(dice.up_to(4)).unwrap_or(4)] }
}

/// The two halves of stage 1, at least one of them there, mostly.
fn stage1(
    delta: u64,
    stage2: Option<&Tables>,
    privileged: bool,
    image: &mut Image,
    dice: &mut Dice,
) -> Option<[Option<Tables>; 2]> {
    let output_bits = output_bits(dice);
    let mut half = |upper: bool, dice: &mut Dice| -> Option<Tables> {
        let granule = entries::granule(dice);
        let input_bits = 25 + dice.up_to(23);
        let resolved = input_bits - 1 - granule.bits();
        let start = 3 - i8::try_from(resolved / granule.stride()).unwrap_or(3);
        let shape = Shape { stage: Stage::One, granule, input_bits, start, output_bits };
        let mut tables = Tables::new(shape, delta, privileged, image, dice)?;
        for _ in 0..2 + dice.up_to(3) {
            let level = leaf_level(granule, start, dice);
            let size_lg2 = granule.shift(level);
            let output = match stage2 {
                None => data_output(size_lg2, dice),
                Some(stage2) => intermediate(stage2, size_lg2, dice),
            };
            let address = addresses::random_input(&shape, upper, dice);
            tables.grow(address, level, output, image, dice);
        }
        Some(tables)
    };
    let which = dice.up_to(7);
    let lower = if which == 0 { None } else { Some(half(false, dice)?) };
    let upper = if which == 1 || which == 2 { None } else { Some(half(true, dice)?) };
    Some([lower, upper])
}

/// A level for a leaf: mostly one that may have leaves.
fn leaf_level(granule: Granule, start: i8, dice: &mut Dice) -> i8 {
    if dice.one_in(24) {
        return (start + i8::try_from(dice.up_to(3)).unwrap_or(0)).min(3);
    }
    let block =
        granule.block_levels()[usize::try_from(dice.up_to(1)).unwrap_or(0) % granule.block_levels().len()];
    if dice.one_in(2) { 3 } else { block.max(start) }
}

/// An intermediate address for a leaf of stage 1.
fn intermediate(stage2: &Tables, size_lg2: u32, dice: &mut Dice) -> u64 {
    let direct = dice.one_in(2);
    let any = dice.next_bits() & ((1 << stage2.shape.input_bits) - 1);
    let wanted = if direct { data_output(size_lg2, dice).wrapping_add(stage2.delta) } else { any };
    wanted >> size_lg2 << size_lg2
}

/// The shape of stage 2, and its empty root. Behind a stage 1, all of RAM must have an intermediate address.
fn stage2(nested: bool, image: &mut Image, dice: &mut Dice) -> Option<Tables> {
    let granule = entries::granule(dice);
    let starts: &[i8] = if granule == Granule::Kib4 { &[0, 1, 2] } else { &[1, 2, 3] };
    let output_bits = output_bits(dice);
    loop {
        let start = starts[usize::try_from(dice.up_to(2)).unwrap_or(0)];
        let least = (granule.shift(start) + 1).max(if nested { 29 } else { 25 });
        // Up to sixteen tables may lie side by side at the root, which QEMU does not get right.
        let beside = if dice.one_in(24) { 4 } else { 0 };
        let most = (granule.shift(start) + granule.stride() + beside).min(output_bits);
        if least > most {
            continue;
        }
        let input_bits = least + dice.up_to(most - least);
        let shape = Shape { stage: Stage::Two, granule, input_bits, start, output_bits };
        // The intermediate address of RAM: below 2^29, or anywhere a GiB begins.
        let gib =
            if input_bits > 30 { u64::from(dice.up_to((1 << (input_bits - 30).min(10)) - 1)) } else { 0 };
        let delta = (gib << 30).wrapping_sub(RAM);
        let tables = Tables::new(shape, 0, true, image, dice)?;
        return Some(Tables { delta: if nested { delta } else { 0 }, ..tables });
    }
}

/// Maps what stage 1 needs, and where it leads.
fn grow_stage2(
    stage2: &mut Tables,
    halves: &[Option<Tables>; 2],
    contexts: Option<u64>,
    wanted: &[u64],
    image: &mut Image,
    dice: &mut Dice,
) {
    // The tables of stage 2 itself are physical.
    let delta = core::mem::take(&mut stage2.delta);
    let limit = 1 << stage2.shape.input_bits;
    let direct = |stage2: &mut Tables, pa: u64, image: &mut Image, dice: &mut Dice| {
        let ipa = pa.wrapping_add(delta);
        let level = leaf_level(stage2.shape.granule, stage2.shape.start, dice);
        if ipa < limit {
            stage2.grow(ipa, level, pa, image, dice);
        }
    };
    let places: Vec<_> = halves.iter().flatten().flat_map(|tables| tables.places.iter().copied()).collect();
    let page = 1 << stage2.shape.granule.bits();
    for (first, bytes) in contexts.map(|at| (at, 64)).into_iter().chain(places) {
        let mut pa = first;
        while pa < first + bytes {
            direct(stage2, pa, image, dice);
            pa += page;
        }
    }
    let leaves: Vec<_> = halves.iter().flatten().flat_map(|tables| tables.leaves.iter().copied()).collect();
    for &address in wanted {
        for leaf in
            leaves.iter().filter(|leaf| address >= leaf.first && address - leaf.first < 1 << leaf.size_lg2)
        {
            let ipa = leaf.output + (address - leaf.first);
            if ipa >= limit || dice.one_in(16) {
                continue;
            }
            if dice.one_in(2) {
                direct(stage2, ipa.wrapping_sub(delta), image, dice);
            } else {
                let level = leaf_level(stage2.shape.granule, stage2.shape.start, dice);
                let output = data_output(stage2.shape.granule.shift(level), dice);
                stage2.grow(ipa, level, output, image, dice);
            }
        }
    }
    if contexts.is_none() {
        for _ in 0..3 + dice.up_to(3) {
            let level = leaf_level(stage2.shape.granule, stage2.shape.start, dice);
            let output = data_output(stage2.shape.granule.shift(level), dice);
            let ipa = addresses::random_input(&stage2.shape, false, dice);
            stage2.grow(ipa, level, output, image, dice);
        }
    }
    stage2.delta = delta;
}
