//! Jobs: what a process writes into its ring, and what the device writes beside it.
//!
//! A [`Job`] becomes the 64 bytes of an entry; when the device has ended it, the entry's last 24 bytes are an [`Outcome`]. The device writes the
//! status last. So who looks reads [the status](STATUS_OFFSET) first, then (behind a read barrier) the whole entry.
//!
//! Spec: `docs/accelerator.md`, "Jobs".

use core::fmt;

use portcullis_types::Iova;

/// Bytes of an entry.
pub const ENTRY_BYTES: usize = 64;
/// Where in an entry the status is, 32 bits: 0 until the job has ended.
pub const STATUS_OFFSET: usize = 60;

/// The most pages that are asked for at once, as a power of two.
const MAX_AHEAD_LG2: u8 = 5;

/// What a job does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Algorithm {
    /// Compress to a raw deflate stream.
    Deflate,
    /// Decompress one.
    Inflate,
    /// Copy.
    Copy,
    /// Write this byte as often as the source has bytes; there need be no source.
    Fill(u8),
    /// Read the source, and write nothing.
    Sum,
}

/// A job. Addresses are those of the space that its queue works in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Job {
    /// What to do.
    pub algorithm: Algorithm,
    /// How many pages to ask for at once where one is missing, as a power of two: 0 to 5. A platform device does not look at it.
    pub ahead_lg2: u8,
    /// Where the input is.
    pub source: Iova,
    /// How long the input is, in bytes.
    pub source_bytes: u64,
    /// Where the output goes.
    pub dest: Iova,
    /// How much room there is, in bytes.
    pub dest_bytes: u64,
}

/// Why there is no such job. The caller's doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum JobError {
    /// More than `1 << 5` pages ahead: this.
    Ahead(u8),
    /// Input or output pass the end of the address space.
    PastTheEnd {
        /// Where it begins.
        first: Iova,
        /// How long it is.
        len_bytes: u64,
    },
}

/// How a job ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Status {
    /// All of it is done.
    Done,
    /// The source could not be read.
    SourceFault,
    /// The destination could not be written.
    DestFault,
    /// The destination has too little room.
    NoRoom,
    /// The job makes no sense.
    Nonsense,
    /// The queue was stopped.
    Stopped,
    /// What was to be inflated is no deflate stream.
    NotDeflate,
    /// A number that the book does not know.
    Unknown(u32),
}

/// What became of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// How it ended.
    pub status: Status,
    /// Bytes of input that were used.
    pub consumed: u64,
    /// Bytes of output that were written.
    pub produced: u64,
    /// CRC-32 of the uncompressed bytes so far.
    pub sum: u32,
}

impl Algorithm {
    fn encode(self) -> u32 {
        match self {
            Self::Deflate => 1,
            Self::Inflate => 2,
            Self::Copy => 3,
            Self::Fill(byte) => 4 | u32::from(byte) << 8,
            Self::Sum => 5,
        }
    }
}

impl Job {
    /// The entry that says this; status and results are 0.
    ///
    /// # Errors
    ///
    /// The device would refuse it: as [`JobError`] says.
    pub fn encode(&self) -> Result<[u8; ENTRY_BYTES], JobError> {
        if self.ahead_lg2 > MAX_AHEAD_LG2 {
            return Err(JobError::Ahead(self.ahead_lg2));
        }
        if !matches!(self.algorithm, Algorithm::Fill(_)) {
            fits(self.source, self.source_bytes)?;
        }
        if self.algorithm != Algorithm::Sum {
            fits(self.dest, self.dest_bytes)?;
        }
        let mut entry = [0; ENTRY_BYTES];
        let words = [self.source.get(), self.source_bytes, self.dest.get(), self.dest_bytes];
        entry[0..4].copy_from_slice(&self.algorithm.encode().to_le_bytes());
        entry[4..8].copy_from_slice(&u32::from(self.ahead_lg2).to_le_bytes());
        for (place, word) in entry[8..40].chunks_exact_mut(8).zip(words) {
            place.copy_from_slice(&word.to_le_bytes());
        }
        Ok(entry)
    }
}

fn fits(first: Iova, len_bytes: u64) -> Result<(), JobError> {
    match len_bytes.checked_sub(1).map(|further| first.get().checked_add(further)) {
        Some(None) => Err(JobError::PastTheEnd { first, len_bytes }),
        _ => Ok(()),
    }
}

impl Status {
    /// What a status word says; none if the job has not ended.
    pub fn decode(status: u32) -> Option<Self> {
        Some(match status {
            0 => return None,
            1 => Self::Done,
            2 => Self::SourceFault,
            3 => Self::DestFault,
            4 => Self::NoRoom,
            5 => Self::Nonsense,
            6 => Self::Stopped,
            7 => Self::NotDeflate,
            other => Self::Unknown(other),
        })
    }
}

impl Outcome {
    /// What became of the job of an entry; none if it has not ended. The entry was read after its status.
    pub fn decode(entry: &[u8; ENTRY_BYTES]) -> Option<Self> {
        let u64_at = |at: usize| entry[at..].first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
        let u32_at = |at: usize| entry[at..].first_chunk().map_or(0, |bytes| u32::from_le_bytes(*bytes));
        let status = Status::decode(u32_at(STATUS_OFFSET))?;
        Some(Self { status, consumed: u64_at(40), produced: u64_at(48), sum: u32_at(56) })
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Done => f.write_str("done"),
            Self::SourceFault => f.write_str("the source could not be read"),
            Self::DestFault => f.write_str("the destination could not be written"),
            Self::NoRoom => f.write_str("the destination has too little room"),
            Self::Nonsense => f.write_str("the job makes no sense"),
            Self::Stopped => f.write_str("the queue was stopped"),
            Self::NotDeflate => f.write_str("the input is no deflate stream"),
            Self::Unknown(status) => write!(f, "unknown status {status}"),
        }
    }
}

impl fmt::Display for JobError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ahead(lg2) => write!(f, "2^{lg2} pages ahead are too many"),
            Self::PastTheEnd { first, len_bytes } => {
                write!(f, "{len_bytes:#x} bytes from {first} pass the end of the address space")
            }
        }
    }
}

impl core::error::Error for JobError {}

#[cfg(test)]
mod tests {
    use super::*;

    const JOB: Job = Job {
        algorithm: Algorithm::Deflate,
        ahead_lg2: 4,
        source: Iova::new(0x0000_ffff_860e_6000),
        source_bytes: 0x1234,
        dest: Iova::new(0x0102_0304_0506_0708),
        dest_bytes: 0x9_8765_4321,
    };

    #[test]
    fn an_entry_lies_as_the_book_has_it() {
        let entry = JOB.encode().unwrap();
        assert_eq!(entry[..8], [1, 0, 0, 0, 4, 0, 0, 0]);
        assert_eq!(entry[8..24], [0x00, 0x60, 0x0e, 0x86, 0xff, 0xff, 0, 0, 0x34, 0x12, 0, 0, 0, 0, 0, 0]);
        assert_eq!(entry[24..40], [8, 7, 6, 5, 4, 3, 2, 1, 0x21, 0x43, 0x65, 0x87, 9, 0, 0, 0]);
        assert_eq!(entry[40..], [0; 24]);
    }

    #[test]
    fn each_algorithm_has_its_number() {
        use Algorithm::{Copy, Deflate, Fill, Inflate, Sum};
        for (algorithm, bytes) in [
            (Deflate, [1, 0, 0, 0]),
            (Inflate, [2, 0, 0, 0]),
            (Copy, [3, 0, 0, 0]),
            (Fill(0xa5), [4, 0xa5, 0, 0]),
            (Sum, [5, 0, 0, 0]),
        ] {
            assert_eq!(Job { algorithm, ..JOB }.encode().unwrap()[..4], bytes);
        }
    }

    #[test]
    fn jobs_that_pass_the_end_are_refused_where_the_device_would_look() {
        let last = Iova::new(u64::MAX - 0xfff);
        let to_the_end = Job { source: last, source_bytes: 0x1000, dest: last, dest_bytes: 0x1000, ..JOB };
        assert!(to_the_end.encode().is_ok());
        let source = Job { source_bytes: 0x1001, ..to_the_end };
        let error = JobError::PastTheEnd { first: last, len_bytes: 0x1001 };
        assert_eq!(source.encode(), Err(error));
        assert!(Job { algorithm: Algorithm::Fill(0), ..source }.encode().is_ok());
        let dest = Job { dest_bytes: 0x1001, ..to_the_end };
        assert_eq!(dest.encode(), Err(error));
        assert!(Job { algorithm: Algorithm::Sum, ..dest }.encode().is_ok());
        assert!(Job { source_bytes: 0, ..to_the_end }.encode().is_ok());
        assert_eq!(Job { ahead_lg2: 6, ..JOB }.encode(), Err(JobError::Ahead(6)));
    }

    #[test]
    fn an_outcome_is_the_last_24_bytes_once_there_is_a_status() {
        let mut entry = JOB.encode().unwrap();
        assert_eq!(Outcome::decode(&entry), None);
        entry[40..48].copy_from_slice(&[1, 2, 0, 0, 0, 0, 0, 3]);
        entry[48..56].copy_from_slice(&[4, 0, 0, 0, 0, 0, 0, 5]);
        entry[56..60].copy_from_slice(&[6, 7, 8, 9]);
        assert_eq!(Outcome::decode(&entry), None, "the status comes last");
        entry[60] = 1;
        let (consumed, produced) = (0x0300_0000_0000_0201, 0x0500_0000_0000_0004);
        let outcome = Outcome { status: Status::Done, consumed, produced, sum: 0x0908_0706 };
        assert_eq!(Outcome::decode(&entry), Some(outcome));
    }

    #[test]
    fn every_status_has_its_meaning_and_unknown_ones_keep_their_number() {
        use Status::{DestFault, Done, NoRoom, Nonsense, NotDeflate, SourceFault, Stopped, Unknown};
        let known = [Done, SourceFault, DestFault, NoRoom, Nonsense, Stopped, NotDeflate, Unknown(8)];
        for (status, word) in known.into_iter().zip(1..) {
            assert_eq!(Status::decode(word), Some(status));
        }
        assert_eq!(Status::decode(u32::MAX), Some(Unknown(u32::MAX)));
    }
}
