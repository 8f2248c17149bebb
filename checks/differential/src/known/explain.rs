//! Circumstances that explain an answer of QEMU's, each of one row.

use super::record::{
    ACCESS, BAD_STE, BAD_STREAM, PERMISSION, SIZE, class, refuses_table, silent, stage2, words,
};
use super::{Context, Step};
use crate::answer::{Answer, Record};
use crate::descriptor::{Granule, Kind, Stage};
use crate::entries::size_bits;

pub(super) fn size_without_stage1(context: &Context<'_>, theirs: &Answer) -> bool {
    matches!(context.config(), 4 | 6)
        && context.ours_fault() == Some(SIZE)
        && context.access.address >> 44 != 0
        && silent(theirs)
}

pub(super) fn roots_at_once(context: &Context<'_>, theirs: &Answer) -> bool {
    context.ours.roots_barred && (refuses_table(theirs) || silent(theirs))
}

pub(super) fn record_of_table_fetches(context: &Context<'_>, theirs: &Answer) -> bool {
    let Some(stream) = context.stream() else { return false };
    let recorded = stream.cd.is_some_and(|cd| cd[0] >> 45 & 1 == 1);
    let stage2_recorded = stream.ste[2] >> 58 & 1 == 1;
    let ours = &context.ours.answer;
    match (recorded, stage2_recorded) {
        (false, true) => refuses_table(ours) && silent(theirs),
        (true, false) => silent(ours) && refuses_table(theirs),
        _ => false,
    }
}

pub(super) fn tables_side_by_side(context: &Context<'_>, _: &Answer) -> bool {
    let Some(fields) = Stage2Fields::of(context) else { return false };
    let lg2 = fields.input_bits.saturating_sub(fields.granule.shift(fields.start)) + 3;
    let root = fields.root >> lg2 << lg2;
    let second = root + (8 << fields.granule.stride());
    context.ours.walked.iter().any(|&(at, _)| at >= second && at < root + (1 << lg2))
}

pub(super) fn tables_in_pieces(context: &Context<'_>, theirs: &Answer) -> bool {
    let Some(stream) = context.stream() else { return false };
    let Some(pages) = stream.stage2.as_ref().map(|tables| tables.shape.granule.bits()) else { return false };
    let larger = stream.stage1.iter().flatten().any(|tables| tables.shape.granule.bits() > pages);
    let ours = &context.ours.answer;
    let unrecorded = stream.ste[2] >> 58 & 1 == 0 && silent(ours);
    // See "record of table fetches".
    let hidden = silent(theirs) && stream.cd.is_some_and(|cd| cd[0] >> 45 & 1 == 0);
    larger && (refuses_table(theirs) || refuses_table(ours) || unrecorded || hidden)
}

pub(super) fn misplaced_block(context: &Context<'_>, _: &Answer) -> bool {
    context.met(Kind::MisplacedBlock)
}

pub(super) fn size_of_tables(context: &Context<'_>, _: &Answer) -> bool {
    let last = context.steps().last().copied();
    // Where nothing is recorded, our model ends at a table for no other reason.
    let size = context.ours_fault() == Some(SIZE) || silent(&context.ours.answer);
    size && last.is_some_and(|step| step.raw & 3 == 3 && step.table.level < 3)
}

pub(super) fn size_after_rights(context: &Context<'_>, theirs: &Answer) -> bool {
    let same = |ours: &Record, theirs: &Record| {
        ours[1] & !(1 << 44) == theirs[1] & !(1 << 44) && ours[2..] == theirs[2..]
    };
    let (Some(ours), Some(record)) = (context.ours.answer.records.first(), theirs.records.first()) else {
        return false;
    };
    context.ours_fault() == Some(SIZE)
        && matches!(theirs.fault(), Some(ACCESS | PERMISSION))
        && same(ours, record)
}

pub(super) fn limits_on_the_way(context: &Context<'_>, theirs: &Answer) -> bool {
    let limits = |step: &Step| {
        step.table.stage == Stage::One && step.table.level < 3 && step.raw & 3 == 3 && step.raw >> 62 & 1 == 1
    };
    let refused =
        |record: &Record| record[0] & 0xff == u64::from(PERMISSION) && !stage2(record) && class(record) == 2;
    let unrecorded = words(context).is_some_and(|(_, cd)| cd >> 45 & 1 == 0) && silent(theirs);
    context.access.write
        && (unrecorded || theirs.records.first().is_some_and(refused))
        && context.steps().iter().any(limits)
}

pub(super) fn stall_disable_of_stage2(context: &Context<'_>, theirs: &Answer) -> bool {
    context.config() == 6
        && context.stream().is_some_and(|stream| stream.ste[1] >> 27 & 1 == 1)
        && theirs.fault() == Some(BAD_STE)
}

/// What an entry says of stage 2.
struct Stage2Fields {
    granule: Granule,
    input_bits: u32,
    start: i8,
    root: u64,
    output_bits: u32,
}

impl Stage2Fields {
    /// If stage 2 is on.
    fn of(context: &Context<'_>) -> Option<Self> {
        let [_, _, word, root, ..] = context.stream().filter(|_| context.config() >= 6)?.ste;
        let granule = Granule::ALL.into_iter().find(|any| any.code0() == word >> 46 & 3)?;
        let first = if granule == Granule::Kib4 { 2 } else { 3 };
        Some(Self {
            granule,
            input_bits: 64 - u32::try_from(word >> 32 & 0x3f).ok()?,
            start: first - i8::try_from(word >> 38 & 3).ok()?,
            root: root & 0x000f_ffff_ffff_fff0,
            output_bits: size_bits(word >> 48 & 7),
        })
    }
}

pub(super) fn input_against_output(context: &Context<'_>, theirs: &Answer) -> bool {
    let more = |fields: Stage2Fields| fields.input_bits > fields.output_bits;
    theirs.fault() == Some(BAD_STE) && Stage2Fields::of(context).is_some_and(more)
}

pub(super) fn start_against_input(context: &Context<'_>, _: &Answer) -> bool {
    let few = |fields: Stage2Fields| fields.input_bits <= fields.granule.shift(fields.start);
    context.ours_fault() == Some(BAD_STE) && Stage2Fields::of(context).is_some_and(few)
}

pub(super) fn spans(context: &Context<'_>, _: &Answer) -> bool {
    context.ours_fault() == Some(BAD_STREAM) && context.stream_is_bad()
}

pub(super) fn record_of_bad_streams(context: &Context<'_>, theirs: &Answer) -> bool {
    // As with "spans", an id may also be bad in another way, or not at all, to QEMU.
    context.case.setup.cr2 & 2 == 0
        && silent(&context.ours.answer)
        && (theirs.fault() == Some(BAD_STREAM) || context.stream_is_bad())
}

pub(super) fn context_pointer(context: &Context<'_>, _: &Answer) -> bool {
    let beyond = |(ste, _): ([u64; 8], u64)| ste[0] & 0x000f_f000_0000_0000 != 0;
    context.ours_fault() == Some(BAD_STE) && context.config() & 1 == 1 && words(context).is_some_and(beyond)
}

pub(super) fn contexts_max(context: &Context<'_>, theirs: &Answer) -> bool {
    theirs.fault() == Some(BAD_STE) && words(context).is_some_and(|(ste, _)| ste[0] >> 59 != 0)
}

pub(super) fn hardware_updates(context: &Context<'_>, _: &Answer) -> bool {
    let set = |(ste, _): ([u64; 8], u64)| ste[2] >> 55 & 3 != 0;
    context.ours_fault() == Some(BAD_STE) && context.config() >= 6 && words(context).is_some_and(set)
}

pub(super) fn protected_walk(context: &Context<'_>, _: &Answer) -> bool {
    let Some((ste, _)) = words(context) else { return false };
    let refused =
        |record: &Record| record[0] & 0xff == u64::from(PERMISSION) && stage2(record) && class(record) < 2;
    let ours = &context.ours.answer;
    let unrecorded = ste[2] >> 58 & 1 == 0 && silent(ours);
    context.config() == 7
        && ste[2] >> 54 & 1 == 1
        && (unrecorded || ours.records.first().is_some_and(refused))
}

pub(super) fn privileged_access_never(context: &Context<'_>, _: &Answer) -> bool {
    let Some((_, cd)) = words(context) else { return false };
    let open = |step: &Step| step.table.stage == Stage::One && step.raw >> 6 & 1 == 1;
    let ours = &context.ours.answer;
    let refused = context.ours_fault() == Some(PERMISSION) || silent(ours);
    context.case.privileged && cd >> 40 & 1 == 1 && refused && context.steps().iter().any(open)
}

pub(super) fn other_top_byte(context: &Context<'_>, _: &Answer) -> bool {
    let Some((_, cd)) = words(context) else { return false };
    (cd >> 38 ^ cd >> 39) & 1 == 1 && context.access.address >> 55 & 1 == 1
}
