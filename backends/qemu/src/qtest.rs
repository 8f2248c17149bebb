//! QEMU's test protocol: one line asks, one line answers.
//!
//! A [`Qtest`] speaks it over any pair of a reader and a writer that keep a time limit. It trusts nothing: an answer is waited for
//! until a deadline, is of bounded length, and is `OK` with what was asked for, or an error.
//!
//! Observed: QEMU 7.2 and 11.1, the comment that opens `softmmu/qtest.c`. Interrupt lines (`IRQ …`) may come at any time.
//! Not here: whose socket it is, and what its last words were (`machine`).

use core::fmt;
use core::time::Duration;
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Instant;

use portcullis_types::Pa;

/// How wide an access is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Width {
    /// One byte.
    Bits8,
    /// Two bytes.
    Bits16,
    /// Four bytes.
    Bits32,
    /// Eight bytes.
    Bits64,
}

impl Width {
    /// In bytes.
    pub const fn bytes(self) -> usize {
        match self {
            Self::Bits8 => 1,
            Self::Bits16 => 2,
            Self::Bits32 => 4,
            Self::Bits64 => 8,
        }
    }

    const fn letter(self) -> char {
        match self {
            Self::Bits8 => 'b',
            Self::Bits16 => 'w',
            Self::Bits32 => 'l',
            Self::Bits64 => 'q',
        }
    }

    /// The part of `value` that fits.
    const fn cut(self, value: u64) -> u64 {
        value & (u64::MAX >> (64 - 8 * self.bytes()))
    }
}

/// In which order the bytes of a number lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ByteOrder {
    /// The least significant byte first.
    Little,
    /// The most significant byte first.
    Big,
}

/// What went wrong on the socket.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum QtestError {
    /// The other side is gone.
    Closed,
    /// No whole answer came in time.
    TimedOut,
    /// The answer is none that the protocol knows; this is how it begins.
    Nonsense(String),
    /// The socket failed.
    Io(ErrorKind),
}

impl fmt::Display for QtestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed => f.write_str("the other side closed the socket"),
            Self::TimedOut => f.write_str("no answer in time"),
            Self::Nonsense(line) => write!(f, "the answer `{line}` means nothing"),
            Self::Io(kind) => write!(f, "the socket failed: {kind}"),
        }
    }
}

impl core::error::Error for QtestError {}

/// The most bytes that one `read` or `write` moves; longer ones are cut.
const CHUNK_BYTES: usize = 0x1000;
/// The longest line that may be an answer.
const LINE_LIMIT: usize = 2 * CHUNK_BYTES + 64;
/// How much of an answer without meaning is shown.
const SHOWN: usize = 60;

/// One thing of many to be done in turn.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Reads a value.
    Load(Pa, Width),
    /// Writes a value.
    Store(Pa, Width, u64),
    /// Writes bytes of memory, 4096 at most.
    Write(Pa, Vec<u8>),
}

impl Step {
    fn line(&self) -> String {
        match self {
            Self::Load(at, width) => load_line(*at, *width),
            Self::Store(at, width, value) => store_line(*at, *width, *value),
            Self::Write(at, bytes) => write_line(*at, bytes),
        }
    }
}

/// A conversation with a QEMU.
#[derive(Debug)]
pub struct Qtest {
    stream: UnixStream,
    limit: Duration,
    /// What came and was not yet read as a line.
    pending: Vec<u8>,
}

impl Qtest {
    /// Over a connected socket, each answer waited for at most `limit` (above 0).
    pub fn new(stream: UnixStream, limit: Duration) -> Self {
        Self { stream, limit, pending: Vec::new() }
    }

    /// Which byte order the machine's `OK 0x…` values are read in.
    ///
    /// # Errors
    ///
    /// Here and below: [`QtestError`]. The conversation is over then; what comes later belongs to no question.
    pub fn byte_order(&mut self) -> Result<ByteOrder, QtestError> {
        match self.ask("endianness")?.as_str() {
            "little" => Ok(ByteOrder::Little),
            "big" => Ok(ByteOrder::Big),
            other => Err(nonsense(other)),
        }
    }

    /// Reads one value: `readb`, `readw`, `readl`, `readq`.
    pub fn load(&mut self, at: Pa, width: Width) -> Result<u64, QtestError> {
        let answer = self.ask(&load_line(at, width))?;
        loaded(&answer, width)
    }

    /// Writes one value: `writeb`, `writew`, `writel`, `writeq`.
    pub fn store(&mut self, at: Pa, width: Width, value: u64) -> Result<(), QtestError> {
        self.ask(&store_line(at, width, value)).and_then(empty)
    }

    /// Writes one value to a port of a PC's: `outb`, `outw`, `outl`.
    pub fn store_port(&mut self, port: u16, width: Width, value: u64) -> Result<(), QtestError> {
        self.ask(&port_line(port, width, value)).and_then(empty)
    }

    /// Writes many values in turn, as a [`batch`](Self::batch).
    pub fn store_all(&mut self, stores: &[(Pa, Width, u64)]) -> Result<(), QtestError> {
        let steps: Vec<Step> =
            stores.iter().map(|&(at, width, value)| Step::Store(at, width, value)).collect();
        self.batch(&steps).map(drop)
    }

    /// Does many things in turn, the questions sent before the answers are read: faster than one by one. Answers what the loads read.
    pub fn batch(&mut self, steps: &[Step]) -> Result<Vec<u64>, QtestError> {
        let mut values = Vec::new();
        for some in steps.chunks(64) {
            let lines: Vec<String> = some.iter().map(Step::line).collect();
            self.send(&lines.join("\n"))?;
            for step in some {
                let answer = self.answer()?;
                match step {
                    Step::Load(_, width) => values.push(loaded(&answer, *width)?),
                    Step::Store(..) | Step::Write(..) => empty(answer)?,
                }
            }
        }
        Ok(values)
    }

    /// Reads memory.
    pub fn read(&mut self, at: Pa, into: &mut [u8]) -> Result<(), QtestError> {
        for (index, part) in into.chunks_mut(CHUNK_BYTES).enumerate() {
            let at = at.get().wrapping_add((index * CHUNK_BYTES) as u64);
            let answer = self.ask(&format!("read {at:#x} {:#x}", part.len()))?;
            unhex(&answer, part).ok_or_else(|| nonsense(&answer))?;
        }
        Ok(())
    }

    /// Writes memory.
    pub fn write(&mut self, at: Pa, from: &[u8]) -> Result<(), QtestError> {
        for (index, part) in from.chunks(CHUNK_BYTES).enumerate() {
            let at = at.get().wrapping_add((index * CHUNK_BYTES) as u64);
            self.ask(&write_line(Pa::new(at), part)).and_then(empty)?;
        }
        Ok(())
    }

    /// Fills memory with a byte.
    pub fn fill(&mut self, at: Pa, len_bytes: u64, byte: u8) -> Result<(), QtestError> {
        if len_bytes == 0 {
            return Ok(());
        }
        self.ask(&format!("memset {at:#x} {len_bytes:#x} {byte:#x}")).and_then(empty)
    }

    /// Asks and answers what follows `OK`. A question that QEMU fails is [`QtestError::Nonsense`] with its reason.
    fn ask(&mut self, question: &str) -> Result<String, QtestError> {
        self.send(question)?;
        self.answer()
    }

    fn send(&mut self, lines: &str) -> Result<(), QtestError> {
        self.stream.set_write_timeout(Some(self.limit)).map_err(io_error)?;
        self.stream.write_all(format!("{lines}\n").as_bytes()).map_err(io_error)
    }

    fn answer(&mut self) -> Result<String, QtestError> {
        let deadline = Instant::now() + self.limit;
        loop {
            let line = self.line(deadline)?;
            if line.starts_with("IRQ ") {
                continue;
            }
            let rest = line.strip_prefix("OK").filter(|rest| rest.is_empty() || rest.starts_with(' '));
            return rest.map(|rest| rest.trim().to_owned()).ok_or_else(|| nonsense(&line));
        }
    }

    /// The next line, without its end.
    fn line(&mut self, deadline: Instant) -> Result<String, QtestError> {
        loop {
            if let Some(end) = self.pending.iter().position(|&byte| byte == b'\n') {
                let line: Vec<u8> = self.pending.drain(..=end).collect();
                return Ok(String::from_utf8_lossy(&line[..end]).trim_end().to_owned());
            }
            if self.pending.len() > LINE_LIMIT {
                return Err(nonsense(&String::from_utf8_lossy(&self.pending)));
            }
            let left = deadline.checked_duration_since(Instant::now()).filter(|left| !left.is_zero());
            self.receive(left.ok_or(QtestError::TimedOut)?)?;
        }
    }

    fn receive(&mut self, left: Duration) -> Result<(), QtestError> {
        let mut bytes = [0; 4096];
        self.stream.set_read_timeout(Some(left)).map_err(io_error)?;
        match self.stream.read(&mut bytes) {
            Ok(0) => Err(QtestError::Closed),
            Ok(count) => {
                self.pending.extend_from_slice(&bytes[..count]);
                Ok(())
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => Ok(()),
            Err(error) => Err(io_error(error)),
        }
    }
}

pub(crate) fn load_line(at: Pa, width: Width) -> String {
    format!("read{} {:#x}", width.letter(), at.get())
}

pub(crate) fn store_line(at: Pa, width: Width, value: u64) -> String {
    format!("write{} {:#x} {:#x}", width.letter(), at.get(), width.cut(value))
}

pub(crate) fn port_line(port: u16, width: Width, value: u64) -> String {
    format!("out{} {port:#x} {:#x}", width.letter(), width.cut(value))
}

fn write_line(at: Pa, bytes: &[u8]) -> String {
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("write {:#x} {:#x} 0x{hex}", at.get(), bytes.len())
}

fn io_error(error: io::Error) -> QtestError {
    match error.kind() {
        ErrorKind::WouldBlock | ErrorKind::TimedOut => QtestError::TimedOut,
        ErrorKind::BrokenPipe | ErrorKind::ConnectionReset | ErrorKind::UnexpectedEof => QtestError::Closed,
        kind => QtestError::Io(kind),
    }
}

fn nonsense(answer: &str) -> QtestError {
    QtestError::Nonsense(answer.chars().take(SHOWN).collect())
}

fn empty(answer: String) -> Result<(), QtestError> {
    if answer.is_empty() { Ok(()) } else { Err(nonsense(&answer)) }
}

/// A value of this width that was read.
fn loaded(answer: &str, width: Width) -> Result<u64, QtestError> {
    let value = answer.strip_prefix("0x").and_then(|digits| u64::from_str_radix(digits, 16).ok());
    value.filter(|&value| width.cut(value) == value).ok_or_else(|| nonsense(answer))
}

/// Reads exactly as many bytes as `into` has.
fn unhex(text: &str, into: &mut [u8]) -> Option<()> {
    let digits = text.strip_prefix("0x")?;
    if !digits.is_ascii() || digits.len() != 2 * into.len() {
        return None;
    }
    for (index, byte) in into.iter_mut().enumerate() {
        *byte = u8::from_str_radix(digits.get(2 * index..2 * index + 2)?, 16).ok()?;
    }
    Some(())
}

#[cfg(test)]
#[path = "qtest_tests.rs"]
mod tests;
