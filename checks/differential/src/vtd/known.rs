//! What QEMU does otherwise than the book: each row with the clause that decides, and what its answer would be without.

use super::ours::Answer;
use super::{Access, CONTEXTS, Case, HOST_BITS, PASIDS, Stage};

/// A known difference.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// What QEMU does, and the clause that says otherwise.
    pub what: &'static str,
    /// QEMU's answer as it would be if it did not, by what ours is; the same if this row has nothing to do with it.
    pub mend: fn(&Case, &Access, &Answer, &Answer) -> Answer,
}

/// Every known difference. Observed: QEMU 11.1.
pub const ROWS: &[Row] = &[
    Row {
        what: "FI has address bits above the largest AGAW; VT-d 5.10, 11.4.7.6, FI: bits 63:N are 0",
        mend: high_bits,
    },
    Row {
        what: "refusals in scalable mode have legacy mode's numbers; VT-d 5.10, 7.1.3, Table 30",
        mend: legacy_numbers,
    },
    Row {
        what: "outputs among interrupts have scalable mode's number in legacy mode; VT-d 5.10, 7.1.3, Table 30, LGN.4",
        mend: interrupt_number,
    },
    Row {
        what: "reserved bits of a PASID directory entry are not looked at; VT-d 5.10, 7.1.3, Table 30, SPD.3",
        mend: directory,
    },
    Row {
        what: "a lack of permission is told before a reserved bit in the same entry, and before a table behind it that cannot be read; VT-d 5.10, 7.1.3, Table 30, LSS.1, LSS.2, SSS.1, SSS.3",
        mend: permission_first,
    },
    Row {
        what: "whether an address of a first stage is canonical is judged by AW, which a first stage ignores; VT-d 5.10, 9.6, AW",
        mend: width_of_first,
    },
    Row {
        what: "reserved bits of FSPTPTR are not looked at; VT-d 5.10, 7.1.3, Table 30, SPT.3",
        mend: root_of_first,
    },
    Row {
        what: "a first stage's lack of privilege or permission is told before what is wrong with the entry and with those behind it, and either before the other; VT-d 5.10, 7.1.3, Table 30, SFS.1 to SFS.3, SGN.2, SGN.6",
        mend: rights_first,
    },
    Row {
        what: "FPD does not silence an entry that is not present, reserved or wrong; VT-d 5.10, 7.1.3, Table 30, LCT.3, SPT.2, SPT.4: qualified",
        mend: loud,
    },
    Row {
        what: "what passes is compared with no width; VT-d 5.10, 7.1.3, Table 30, LGN.1, SGN.4",
        mend: no_width,
    },
];

/// QEMU's answer without what is known, and the rows that had to do with it.
pub fn mended(case: &Case, access: &Access, ours: &Answer, theirs: &Answer) -> (Answer, Vec<&'static Row>) {
    let mut rows = Vec::new();
    let mut answer = *theirs;
    for row in ROWS {
        let next = (row.mend)(case, access, ours, &answer);
        if next != answer {
            rows.push(row);
            answer = next;
        }
    }
    (answer, rows)
}

fn with_record(answer: &Answer, change: impl FnOnce([u64; 2]) -> [u64; 2]) -> Answer {
    Answer { record: answer.record.map(change), ..*answer }
}

fn high_bits(_: &Case, _: &Access, _: &Answer, theirs: &Answer) -> Answer {
    with_record(theirs, |[info, word]| [info & ((1 << HOST_BITS) - 1), word])
}

/// What a reason of scalable mode is called in legacy mode.
const NUMBERS: [(u8, u8); 16] = [
    (0x38, 0x08),
    (0x39, 0x01),
    (0x3a, 0x0a),
    (0x40, 0x09),
    (0x41, 0x02),
    (0x42, 0x0b),
    (0x43, 0x03),
    (0x78, 0x07),
    // Which is not told apart from a lack of permission.
    (0x79, 0x05),
    (0x79, 0x06),
    (0x7a, 0x0c),
    (0x7b, 0x07),
    (0x7b, 0x03),
    (0x84, 0x04),
    (0x85, 0x05),
    (0x86, 0x06),
];

fn legacy_numbers(case: &Case, _: &Access, ours: &Answer, theirs: &Answer) -> Answer {
    let pair = ours.reason().zip(theirs.reason());
    let Some((book, _)) = pair.filter(|pair| case.scalable && NUMBERS.contains(pair)) else { return *theirs };
    with_record(theirs, |[info, word]| [info, word & !(0xff << 32) | u64::from(book) << 32])
}

fn interrupt_number(_: &Case, _: &Access, ours: &Answer, theirs: &Answer) -> Answer {
    if (ours.reason(), theirs.reason()) != (Some(0x0e), Some(0x87)) {
        return *theirs;
    }
    with_record(theirs, |[info, word]| [info, word & !(0xff << 32) | 0x0e << 32])
}

fn directory(_: &Case, _: &Access, ours: &Answer, theirs: &Answer) -> Answer {
    if ours.reason() == Some(0x52) { *ours } else { *theirs }
}

fn permission_first(case: &Case, access: &Access, ours: &Answer, theirs: &Answer) -> Answer {
    let reserved = matches!(ours.reason(), Some(0x07 | 0x0c | 0x78 | 0x7a))
        && matches!(theirs.reason(), Some(0x05 | 0x06));
    let wanted = if access.write { 2 } else { 1 };
    let denied = || case.walk(access).iter().any(|entry| entry & wanted == 0);
    if reserved && denied() { *ours } else { *theirs }
}

/// The first word of the entry that says where a source's requests go.
fn entry(case: &Case, access: &Access) -> u64 {
    word(case, access, 0)
}

/// A word of that entry.
fn word(case: &Case, access: &Access, number: u64) -> u64 {
    let index = u64::from(access.requester >> 3) - 1;
    let at = if case.scalable { PASIDS + (index << 12) } else { CONTEXTS + 16 * u64::from(access.requester) };
    case.words.get(&(at + 8 * number)).copied().unwrap_or(0)
}

fn width_of_first(case: &Case, access: &Access, ours: &Answer, theirs: &Answer) -> Answer {
    // AW: 30 bits, and 9 more for each level. FPD may silence it.
    let bits = 30 + 9 * (entry(case, access) >> 2 & 7);
    let sign = u64::MAX << (bits - 1).min(63);
    let canonical = access.address & sign == 0 || access.address & sign == sign;
    let refused = theirs.reason() == Some(0x80) || theirs.reached.is_none() && theirs.record.is_none();
    if case.stage == Stage::First && bits < 48 && !canonical && refused { *ours } else { *theirs }
}

fn root_of_first(case: &Case, access: &Access, ours: &Answer, theirs: &Answer) -> Answer {
    let reserved = case.stage == Stage::First && word(case, access, 2) >> HOST_BITS != 0;
    let late = ours.reason() == Some(0x5a) && matches!(theirs.reason(), Some(0x73 | 0x80));
    if reserved && late { *ours } else { *theirs }
}

fn rights_first(case: &Case, access: &Access, ours: &Answer, theirs: &Answer) -> Answer {
    let lacks = |bit: u64| case.walk(access).iter().any(|entry| entry & bit == 0);
    let early = match theirs.reason() {
        Some(0x81) => lacks(4),
        Some(0x85) => access.write && lacks(2),
        _ => false,
    };
    let other = matches!(ours.reason(), Some(0x70..=0x73 | 0x81 | 0x85));
    if case.stage == Stage::First && early && other { *ours } else { *theirs }
}

fn loud(case: &Case, access: &Access, ours: &Answer, theirs: &Answer) -> Answer {
    let silenced = entry(case, access) >> 1 & 1 == 1 && ours.reached.is_none() && ours.record.is_none();
    if silenced && matches!(theirs.reason(), Some(0x0b | 0x59 | 0x5b)) {
        return Answer { record: None, ..*theirs };
    }
    *theirs
}

fn no_width(case: &Case, access: &Access, ours: &Answer, theirs: &Answer) -> Answer {
    let entry = entry(case, access);
    // TT 10b, PGTT 100b.
    let passes = if case.scalable { entry >> 6 & 7 == 4 } else { entry >> 2 & 3 == 2 };
    let beyond = access.address >> HOST_BITS != 0 && matches!(ours.reason(), Some(0x04 | 0x83));
    if passes && beyond && theirs.record.is_none() && theirs.reached.is_none() { *ours } else { *theirs }
}
