//! What both units are told: made by hand from the book, and not by our driver.
//!
//! Spec: VT-d 5.10, 11.4.4 "Global Command Register", 11.4.5 "Root Table Address Register", 11.4.9 "Invalidation Queue Interface", 6.5.2 "Queued Invalidation Interface".

use super::{Case, QUEUE, ROOT, STATUS};

/// A write of a register, of 4 bytes or 8.
#[derive(Clone, Copy, Debug)]
pub(super) enum Step {
    /// Of 4 bytes.
    Write32(u64, u32),
    /// Of 8 bytes.
    Write64(u64, u64),
}

/// GCMD_REG.
pub(super) const GCMD: u64 = 0x18;
const RTADDR: u64 = 0x20;
/// FSTS_REG.
pub(super) const FSTS: u64 = 0x34;
/// IQT_REG.
pub(super) const IQT: u64 = 0x88;
/// IQA_REG.
pub(super) const IQA: u64 = 0x90;

const TRANSLATION: u32 = 1 << 31;
const SET_ROOT: u32 = 1 << 30;
/// QIE.
pub(super) const QUEUED: u32 = 1 << 26;

/// Descriptors of one invalidation of everything, each with the wait behind it.
const GROUP: u64 = 4;

fn entry_bytes(case: &Case) -> u64 {
    if case.scalable { 32 } else { 16 }
}

/// The words of the queue: the same group again and again.
pub(super) fn queue(case: &Case) -> impl Iterator<Item = (u64, u64)> {
    let bytes = entry_bytes(case);
    // Context cache, PASID cache (or the context cache again), IOTLB, each of everything; a wait that writes its status.
    let pasid_cache = if case.scalable { 0x37 } else { 0x11 };
    let group = [[0x11, 0], [pasid_cache, 0], [0x12, 0], [1 << 32 | 0x25, STATUS]];
    (0..0x1000 / bytes).zip(group.into_iter().cycle()).flat_map(move |(index, words)| {
        let at = QUEUE + index * bytes;
        let all = words.into_iter().chain([0; 2]);
        (0..bytes / 8).zip(all).map(move |(index, word)| (at + 8 * index, word))
    })
}

/// Turns a unit off, and on again for a case, with nothing cached.
pub(super) fn enable(case: &Case) -> Vec<Step> {
    let mode = u64::from(case.scalable);
    vec![
        Step::Write32(GCMD, 0),
        Step::Write32(FSTS, 0x7f),
        Step::Write64(IQA, QUEUE | mode << 11),
        Step::Write64(IQT, 0),
        Step::Write32(GCMD, QUEUED),
        Step::Write64(RTADDR, ROOT | mode << 10),
        Step::Write32(GCMD, QUEUED | SET_ROOT),
        flush(case, 1),
        Step::Write32(GCMD, QUEUED | TRANSLATION),
    ]
}

/// The invalidation of everything number `count`, from 1.
pub(super) fn flush(case: &Case, count: u64) -> Step {
    Step::Write64(IQT, count * GROUP * entry_bytes(case))
}

/// Turns a unit off.
pub(super) fn disable() -> Step {
    Step::Write32(GCMD, 0)
}
