//! What the words of a record, of an entry and of a descriptor say, as far as rows ask.

use super::Context;
use crate::answer::{Answer, Record};

pub(super) const BAD_STREAM: u8 = 0x02;
pub(super) const STE_FETCH: u8 = 0x03;
pub(super) const BAD_STE: u8 = 0x04;
pub(super) const CD_FETCH: u8 = 0x09;
pub(super) const WALK_ABORT: u8 = 0x0b;
pub(super) const SIZE: u8 = 0x11;
pub(super) const ACCESS: u8 = 0x12;
pub(super) const PERMISSION: u8 = 0x13;

pub(super) fn is_walk(record: &Record) -> bool {
    record[0] & 0xff >= u64::from(WALK_ABORT)
}

pub(super) fn stage2(record: &Record) -> bool {
    is_walk(record) && record[1] >> 39 & 1 == 1
}

/// CLASS: 0 CD, 1 TT, 2 IN.
pub(super) fn class(record: &Record) -> u64 {
    record[1] >> 40 & 3
}

pub(super) fn silent(answer: &Answer) -> bool {
    answer.reached.is_none() && answer.records.is_empty()
}

/// Whether the first record is a fault of stage 2 in a fetch of a stage 1 table.
pub(super) fn refuses_table(answer: &Answer) -> bool {
    answer.records.first().is_some_and(|record| stage2(record) && class(record) == 1)
}

/// The entry's and the descriptor's first words.
pub(super) fn words(context: &Context<'_>) -> Option<([u64; 8], u64)> {
    context.stream().map(|stream| (stream.ste, stream.cd.map_or(0, |cd| cd[0])))
}
