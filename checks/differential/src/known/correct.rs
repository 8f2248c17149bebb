//! Corrections of QEMU's records, each of one row.

use super::record::{CD_FETCH, PERMISSION, STE_FETCH, WALK_ABORT, class, is_walk, stage2};
use super::{Context, Step};
use crate::answer::{Answer, Record};
use crate::descriptor::{ADDRESS, Stage};

/// Only of an access of more than four bytes, or one that is not aligned, and only records that differ in addresses within it.
pub(super) fn merge_repeats(context: &Context<'_>, answer: &mut Answer) -> bool {
    let Some(&first) = answer.records.first() else { return false };
    let within = |record: &Record| {
        let advance = record[2].wrapping_sub(first[2]);
        let ipa = record[3].wrapping_sub(first[3]);
        record[..2] == first[..2] && advance < context.access.len.into() && (ipa == 0 || ipa == advance)
    };
    let repeats = answer.records.len() > 1 && context.access.len > 4 && answer.records.iter().all(within);
    if repeats {
        answer.records.truncate(1);
    }
    repeats
}

pub(super) fn drop_offset(_: &Context<'_>, answer: &mut Answer) -> bool {
    change(answer, |record| {
        if stage2(record) && record[0] & 0xff != u64::from(WALK_ABORT) {
            record[3] &= !0xfff;
        }
    })
}

pub(super) fn correct_direction(context: &Context<'_>, answer: &mut Answer) -> bool {
    change(answer, |record| {
        if stage2(record) && class(record) < 2 && context.access.write {
            record[1] &= !(1 << 35);
        }
    })
}

/// Changes the first record. Answers whether that made a difference.
pub(super) fn change(answer: &mut Answer, with: impl Fn(&mut Record)) -> bool {
    let Some(first) = answer.records.first_mut() else { return false };
    let before = *first;
    with(first);
    *first != before
}

pub(super) fn set_table_read(_: &Context<'_>, answer: &mut Answer) -> bool {
    change(answer, |record| {
        if record[0] & 0xff == u64::from(PERMISSION) && class(record) == 1 {
            record[1] |= 1 << 44;
        }
    })
}

pub(super) fn correct_stage(context: &Context<'_>, answer: &mut Answer) -> bool {
    let nested = context.config() == 7;
    change(answer, |record| {
        // Of stage 1 itself, only a fetch that meets nothing is of CLASS TT.
        if nested && is_walk(record) && class(record) == 1 && record[0] & 0xff != u64::from(WALK_ABORT) {
            record[1] |= 1 << 39;
        }
    })
}

pub(super) fn set_privileged(context: &Context<'_>, answer: &mut Answer) -> bool {
    change(answer, |record| {
        if context.case.privileged && is_walk(record) {
            record[1] |= 1 << 33;
        }
    })
}

pub(super) fn move_fetch_address(_: &Context<'_>, answer: &mut Answer) -> bool {
    change(answer, |record| {
        if record[0] & 0xff == u64::from(CD_FETCH) && record[3] == 0 {
            record.swap(2, 3);
        }
    })
}

pub(super) fn find_descriptor(context: &Context<'_>, answer: &mut Answer) -> bool {
    let Some(&ours) = context.ours.answer.records.first() else { return false };
    let Some(stream) = context.stream() else { return false };
    let sizes = || stream.stage1.iter().flatten().map(|tables| tables.shape.granule.bits());
    change(answer, |record| {
        let both = [&ours, &*record].into_iter().all(|record| stage2(record) && class(record) == 1);
        if both && sizes().any(|bits| record[3] == ours[3] >> bits << bits) {
            record[3] = ours[3];
        }
    })
}

pub(super) fn find_abort(context: &Context<'_>, answer: &mut Answer) -> bool {
    let Some(&ours) = context.ours.answer.records.first() else { return false };
    let table = |step: &Step| step.table.stage == Stage::One && step.raw & 3 == 3;
    let Some(table) = context.steps().into_iter().rfind(table) else { return false };
    let abort = |record: &Record| record[0] & 0xff == u64::from(WALK_ABORT) && class(record) == 1;
    change(answer, |record| {
        if abort(&ours)
            && stage2(&ours)
            && abort(record)
            && !stage2(record)
            && record[3] == table.raw & ADDRESS
        {
            record[1] |= 1 << 39;
            record[3] = ours[3];
        }
    })
}

pub(super) fn cut_fetch_address(_: &Context<'_>, answer: &mut Answer) -> bool {
    change(answer, |record| {
        if record[0] & 0xff == u64::from(STE_FETCH) {
            record[3] &= (1 << 44) - 1;
        }
    })
}
