//! What became of an access: the same words for both machines.

use core::fmt;

/// The four words of an event record.
pub type Record = [u64; 4];

/// What became of one access.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Answer {
    /// Where its bytes went, if they went anywhere. An access that is let through to where nothing answers is, to its device, as one that was
    /// refused.
    pub reached: Option<u64>,
    /// What was recorded.
    pub records: Vec<Record>,
}

impl Answer {
    /// The type of the first record.
    pub fn fault(&self) -> Option<u8> {
        self.records.first().map(|record| record[0].to_le_bytes()[0])
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.reached {
            Some(at) if at == UNKNOWN => write!(f, "reached an address that is not known")?,
            Some(at) => write!(f, "reached {at:#x}")?,
            None => write!(f, "reached nothing")?,
        }
        for [a, b, c, d] in &self.records {
            write!(f, ", recorded {a:#018x} {b:#018x} {c:#018x} {d:#018x}")?;
        }
        Ok(())
    }
}

/// Somewhere that could not be found out.
pub const UNKNOWN: u64 = u64::MAX;

/// The name of a type of event.
pub fn event_name(kind: u8) -> &'static str {
    match kind {
        0x02 => "C_BAD_STREAMID",
        0x03 => "F_STE_FETCH",
        0x04 => "C_BAD_STE",
        0x09 => "F_CD_FETCH",
        0x0a => "C_BAD_CD",
        0x0b => "F_WALK_EABT",
        0x10 => "F_TRANSLATION",
        0x11 => "F_ADDR_SIZE",
        0x12 => "F_ACCESS",
        0x13 => "F_PERMISSION",
        _ => "another event",
    }
}

/// A fault in words: its type, and for a fault of a walk its stage and CLASS.
pub fn fault_name(record: &Record) -> String {
    let name = event_name(record[0].to_le_bytes()[0]);
    if record[0] & 0xff < 0x0b {
        return name.to_owned();
    }
    let stage = if record[1] >> 39 & 1 == 1 { 2 } else { 1 };
    let class = ["CD", "TT", "IN", "?"][usize::try_from(record[1] >> 40 & 3).unwrap_or(3)];
    format!("{name}, stage {stage}, {class}")
}
