//! A job under way: read a page's bytes, make output of them, write it, and again.
//!
//! Spec: docs/accelerator.md, "Jobs".
//! Not here: fetching the entry and reporting (`engine`).

use super::job::{Entry, Op, Report, Status};
use super::memory::{Attempt, Attempted, Bytes, PAGE, Place, Way};
use super::stream::Stream;

/// Output of deflate is written when there is this much, or no more.
const COLLECTED_BYTES: usize = 16 << 10;

/// What one action of a job came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Advance {
    /// So many bytes were read, written or made.
    Moved(u64),
    Waiting,
    Ended(Status),
}

pub(super) struct Job {
    entry: Entry,
    stream: Stream,
    /// The piece of input that is being used: `piece[used..end]` is left.
    piece: Box<[u8; PAGE as usize]>,
    used: usize,
    end: usize,
    /// Bytes of input that were read.
    read: u64,
    /// Output that was made; `output[sent..]` is left.
    output: Vec<u8>,
    sent: usize,
    written: u64,
}

/// How many bytes from `at` to the end of its page, at most `most`.
fn in_page(at: u64, most: u64) -> usize {
    (PAGE - at % PAGE).min(most) as usize
}

impl Job {
    pub(super) fn new(entry: Entry) -> Self {
        Self {
            stream: Stream::new(entry.op, entry.source.bytes),
            entry,
            piece: Box::new([0; PAGE as usize]),
            used: 0,
            end: 0,
            read: 0,
            output: Vec::new(),
            sent: 0,
            written: 0,
        }
    }

    pub(super) fn report(&self, status: Status) -> Report {
        let consumed = if self.stream.copies() { self.written } else { self.stream.consumed() };
        Report { consumed, produced: self.written, sum: self.stream.sum(), status }
    }

    /// Does one thing.
    pub(super) fn advance(&mut self, attempt: &mut Attempt, way: &Way<'_>) -> Advance {
        if self.is_to_write() {
            self.write(attempt, way)
        } else if self.stream.ended() {
            Advance::Ended(Status::Done)
        } else if self.used == self.end && self.left_to_read() > 0 {
            self.read(attempt, way)
        } else {
            self.turn()
        }
    }

    fn is_to_write(&self) -> bool {
        let pending = self.output.len() - self.sent;
        let enough =
            !self.stream.collects() || self.sent > 0 || pending >= COLLECTED_BYTES || self.stream.ended();
        pending > 0 && enough
    }

    fn left_to_read(&self) -> u64 {
        if matches!(self.entry.op, Op::Fill(_)) { 0 } else { self.entry.source.bytes - self.read }
    }

    /// How much more the destination may be needed for.
    fn left_to_write(&self) -> u64 {
        let known = match self.entry.op {
            Op::Copy | Op::Fill(_) => self.entry.source.bytes - self.written,
            _ => u64::MAX,
        };
        (self.entry.dest.bytes - self.written).min(known)
    }

    fn read(&mut self, attempt: &mut Attempt, way: &Way<'_>) -> Advance {
        let (at, left) = (self.entry.source.at + self.read, self.left_to_read());
        let len = in_page(at, left);
        let place = Place { at, needed: left, pages_at_once: self.entry.pages_at_once };
        match attempt.go(way, place, Bytes::Read(&mut self.piece[..len])) {
            Attempted::Done => {
                (self.used, self.end) = (0, len);
                self.read += len as u64;
                Advance::Moved(len as u64)
            }
            Attempted::Waiting => Advance::Waiting,
            Attempted::Failed => Advance::Ended(Status::Source),
        }
    }

    fn write(&mut self, attempt: &mut Attempt, way: &Way<'_>) -> Advance {
        let room = self.entry.dest.bytes - self.written;
        if room == 0 {
            return Advance::Ended(Status::NoRoom);
        }
        let at = self.entry.dest.at + self.written;
        let pending = (self.output.len() - self.sent) as u64;
        let len = in_page(at, pending.min(room));
        let place = Place { at, needed: self.left_to_write(), pages_at_once: self.entry.pages_at_once };
        let bytes = &self.output[self.sent..self.sent + len];
        match attempt.go(way, place, Bytes::Write(bytes)) {
            Attempted::Done => {
                self.stream.written(bytes);
                self.sent += len;
                self.written += len as u64;
                if self.sent == self.output.len() {
                    self.output.clear();
                    self.sent = 0;
                }
                Advance::Moved(len as u64)
            }
            Attempted::Waiting => Advance::Waiting,
            Attempted::Failed => Advance::Ended(Status::Dest),
        }
    }

    fn turn(&mut self) -> Advance {
        let last = self.left_to_read() == 0;
        let made = self.output.len();
        match self.stream.turn(&self.piece[self.used..self.end], last, &mut self.output) {
            Ok(used) => {
                self.used += used;
                Advance::Moved((self.output.len() - made) as u64)
            }
            Err(_) => Advance::Ended(Status::NoStream),
        }
    }
}
