//! Jobs as they lie in a queue's ring, and what is reported of them.
//!
//! Spec: docs/accelerator.md, "Jobs".

/// Bytes in an entry.
pub(super) const ENTRY_BYTES: usize = 64;
/// Where in an entry the device's part begins.
pub(super) const REPORT_AT: u64 = 40;
/// Bytes in a report but for the status, which comes last.
pub(super) const REPORT_BYTES: usize = 20;
/// Where in an entry the status lies.
pub(super) const STATUS_AT: u64 = 60;

/// What a job is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Op {
    Deflate,
    Inflate,
    Copy,
    Fill(u8),
    Sum,
}

impl Op {
    fn from_word(word: u32) -> Option<Self> {
        match word {
            1 => Some(Self::Deflate),
            2 => Some(Self::Inflate),
            3 => Some(Self::Copy),
            5 => Some(Self::Sum),
            _ if word & 0xffff_00ff == 4 => Some(Self::Fill((word >> 8) as u8)),
            _ => None,
        }
    }

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Deflate => "deflate",
            Self::Inflate => "inflate",
            Self::Copy => "copy",
            Self::Fill(_) => "fill",
            Self::Sum => "sum",
        }
    }
}

/// How a job ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Status {
    Done = 1,
    Source = 2,
    Dest = 3,
    NoRoom = 4,
    NoSense = 5,
    Stopped = 6,
    NoStream = 7,
}

/// A run of addresses that a job names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Buffer {
    pub(super) at: u64,
    pub(super) bytes: u64,
}

impl Buffer {
    /// Whether the run ends in the address space. It may end with it.
    fn fits(self) -> bool {
        self.bytes == 0 || self.at.checked_add(self.bytes - 1).is_some()
    }
}

/// A job that makes sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) op: Op,
    /// How many pages it asks for at once, the one that is needed among them.
    pub(super) pages_at_once: u32,
    pub(super) source: Buffer,
    pub(super) dest: Buffer,
}

impl Entry {
    /// Reads an entry; none if the job makes no sense.
    pub(super) fn read(bytes: &[u8; ENTRY_BYTES]) -> Option<Self> {
        let word = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let long = |at| u64::from(word(at)) | u64::from(word(at + 4)) << 32;
        let source = Buffer { at: long(8), bytes: long(16) };
        let dest = Buffer { at: long(24), bytes: long(32) };
        let op = Op::from_word(word(0))?;
        let source_fits = matches!(op, Op::Fill(_)) || source.fits();
        let dest_fits = op == Op::Sum || dest.fits();
        let pages_at_once = 1 << (word(4) & 7).min(5);
        (source_fits && dest_fits).then_some(Self { op, pages_at_once, source, dest })
    }
}

/// What is written into an entry at the end of its job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Report {
    pub(super) consumed: u64,
    pub(super) produced: u64,
    pub(super) sum: u32,
    pub(super) status: Status,
}

impl Report {
    /// CONSUMED, PRODUCED and SUM.
    pub(super) fn body(&self) -> [u8; REPORT_BYTES] {
        let mut bytes = [0; REPORT_BYTES];
        bytes[..8].copy_from_slice(&self.consumed.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.produced.to_le_bytes());
        bytes[16..].copy_from_slice(&self.sum.to_le_bytes());
        bytes
    }

    pub(super) fn status_word(&self) -> [u8; 4] {
        (self.status as u32).to_le_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(op: u32, flags: u32, source: (u64, u64), dest: (u64, u64)) -> Option<Entry> {
        let mut bytes = [0; ENTRY_BYTES];
        bytes[..4].copy_from_slice(&op.to_le_bytes());
        bytes[4..8].copy_from_slice(&flags.to_le_bytes());
        for (at, value) in [(8, source.0), (16, source.1), (24, dest.0), (32, dest.1)] {
            bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
        }
        Entry::read(&bytes)
    }

    #[test]
    fn an_entry_is_cut_into_its_fields() {
        let read = entry(0x0000_5a04, 0xffff_fffb, (1, 2), (3, 4)).unwrap();
        assert_eq!((read.op, read.pages_at_once), (Op::Fill(0x5a), 8));
        assert_eq!((read.source, read.dest), (Buffer { at: 1, bytes: 2 }, Buffer { at: 3, bytes: 4 }));
        assert_eq!(entry(1, 7, (0, 0), (0, 0)).unwrap().pages_at_once, 32);
    }

    #[test]
    fn unknown_operations_and_runs_that_wrap_make_no_sense() {
        assert!(
            [0, 6, 0x103, 0x1_0004, 0x8000_0001].iter().all(|&op| entry(op, 0, (0, 1), (0, 1)).is_none())
        );
        assert!(entry(3, 0, (u64::MAX, 1), (u64::MAX - 4, 5)).is_some());
        assert!(entry(3, 0, (u64::MAX, 2), (0, 1)).is_none() && entry(3, 0, (0, 1), (u64::MAX, 2)).is_none());
        assert!(entry(5, 0, (0, 1), (u64::MAX, 2)).is_some() && entry(5, 0, (1, u64::MAX), (0, 0)).is_some());
        assert!(entry(4, 0, (u64::MAX, 2), (0, 1)).is_some() && entry(4, 0, (0, 2), (u64::MAX, 2)).is_none());
    }

    #[test]
    fn a_report_is_20_bytes_and_then_the_status() {
        let report =
            Report { consumed: 0x0102, produced: 0x0304, sum: 0x0506_0708, status: Status::NoStream };
        let expected = [2, 1, 0, 0, 0, 0, 0, 0, 4, 3, 0, 0, 0, 0, 0, 0, 8, 7, 6, 5];
        assert_eq!((report.body(), report.status_word()), (expected, [7, 0, 0, 0]));
    }
}
