//! The process: what it maps, the job that it writes, and how it reads what came of it.
//!
//! Everything here is done by the process's own loads and stores, through its own page table.

use std::io::{self, Write};
use std::sync::Arc;

use flate2::Crc;
use flate2::write::DeflateDecoder;
use portcullis::accel::{Algorithm, DOORBELL_TAIL, ENTRY_BYTES, Job, Outcome, Ring, STATUS_OFFSET, Status};
use portcullis::core::mm::ProcessMemory;
use portcullis::hal::Barriers;
use portcullis::types::{Iova, IovaRange, Pa, Perms};
use sha2::{Digest, Sha256};

use super::super::TRY_VERBOSE;
use crate::error::RunError;
use crate::input::hex;
use crate::process::{Backing, Kernel, Mapping, MmError, Process, Source, UserError};

/// How much is read back at once.
const PIECE_BYTES: u64 = 1 << 20;

/// Jobs of at least so many bytes ask for [`AHEAD_LG2`] pages at once, smaller ones page by page.
const LARGE_BYTES: u64 = 1 << 20;
const AHEAD_LG2: u8 = 4;

/// log2 of the entries of the ring.
pub(super) const RING_LG2: u8 = 3;

/// A process with a job for the accelerator.
pub(super) struct Client {
    process: Arc<Process>,
    ring: IovaRange,
    counter: Ring,
    /// None if the input is empty.
    source: Option<IovaRange>,
    dest: IovaRange,
    input_bytes: u64,
    /// Where the entry of the job begins.
    entry: Iova,
    /// Where it rings, if it has the doorbell.
    doorbell: Option<Iova>,
}

/// What came out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Inflated {
    /// How many bytes.
    pub(super) bytes: u64,
    /// Their SHA-256.
    pub(super) digest: String,
    /// Their CRC-32.
    pub(super) sum: u32,
}

/// Room for the output of `input_bytes` bytes: deflate makes what cannot be made smaller larger by five bytes a block.
pub(super) fn room_for(input_bytes: u64) -> u64 {
    input_bytes + input_bytes / 64 + 4096
}

impl Client {
    /// A new process that maps `input` and, unless `output` is where its bytes come from, memory for the output. Nothing of either is touched.
    pub(super) fn new(
        kernel: &Arc<Kernel>,
        input: Box<dyn Backing>,
        output: Option<Box<dyn Backing>>,
    ) -> Result<Self, RunError> {
        let trouble = |error: MmError| wrong(format!("a mapping failed: {error:?}"));
        let process = Process::new(kernel).map_err(trouble)?;
        let input_bytes = input.len_bytes();
        let map = |len_bytes, perms, source| {
            process.map(&Mapping { at: None, len_bytes, perms, source }).map_err(trouble)
        };
        let private = |file: Box<dyn Backing>| Source::Private { file: kernel.open(file), offset_bytes: 0 };
        let source = match input_bytes {
            0 => None,
            bytes => Some(map(bytes, Perms::READ, private(input))?),
        };
        let of_output = output.map_or(Source::Anonymous, private);
        let dest = map(room_for(input_bytes), Perms::READ_WRITE, of_output)?;
        let counter = Ring::new(RING_LG2).ok_or_else(|| wrong("no ring of that size".into()))?;
        let ring = map(counter.len_bytes() as u64, Perms::READ_WRITE, Source::Anonymous)?;
        let client =
            Self { process, entry: ring.first(), ring, counter, source, dest, input_bytes, doorbell: None };
        client.store(client.ring.first(), &[0; ENTRY_BYTES])?;
        Ok(client)
    }

    pub(super) fn process(&self) -> &Arc<Process> {
        &self.process
    }

    /// The same, as core takes it.
    pub(super) fn memory(&self) -> Arc<dyn ProcessMemory> {
        self.process.clone()
    }

    /// Where its ring is.
    pub(super) fn ring_at(&self) -> Iova {
        self.ring.first()
    }

    /// Input and output: which addresses, and whether the device writes there.
    pub(super) fn buffers(&self) -> Vec<(IovaRange, bool)> {
        self.source.map(|source| (source, false)).into_iter().chain([(self.dest, true)]).collect()
    }

    /// Maps the registers at `doorbell`, which are in a page without any that are the kernel's.
    pub(super) fn map_doorbell(&mut self, doorbell: Pa) -> Result<(), RunError> {
        let page = self.process.kernel().page_bytes();
        let offset = doorbell.get() % page;
        let source = Source::Registers { first: Pa::new(doorbell.get() - offset) };
        let mapping = Mapping { at: None, len_bytes: page, perms: Perms::READ_WRITE, source };
        let mapped = self.process.map(&mapping);
        let mapped = mapped.map_err(|error| wrong(format!("no doorbell: {error:?}")))?;
        self.doorbell = Some(Iova::new(mapped.first().get() + offset + DOORBELL_TAIL as u64));
        Ok(())
    }

    /// Says at the doorbell that jobs up to `tail` are there. Answers whether it has a doorbell; if not, the kernel has to.
    pub(super) fn ring_doorbell(&self, tail: u32) -> Result<bool, RunError> {
        let Some(doorbell) = self.doorbell else { return Ok(false) };
        self.process.barrier();
        self.store(doorbell, &tail.to_le_bytes())?;
        Ok(true)
    }

    /// Writes the job into its ring. Answers what is to be said at the doorbell.
    pub(super) fn write_job(&mut self) -> Result<u32, RunError> {
        let slot = self.counter.push().ok_or_else(|| wrong("its ring is full".into()))?;
        let job = Job {
            algorithm: Algorithm::Deflate,
            ahead_lg2: if self.input_bytes < LARGE_BYTES { 0 } else { AHEAD_LG2 },
            source: self.source.map_or(Iova::new(0), IovaRange::first),
            source_bytes: self.input_bytes,
            dest: self.dest.first(),
            dest_bytes: room_for(self.input_bytes),
        };
        let entry = job.encode().map_err(|error| wrong(format!("its job cannot be: {error}")))?;
        self.entry = Iova::new(self.ring.first().get() + slot.offset as u64);
        self.store(self.entry, &entry)?;
        Ok(slot.tail)
    }

    /// Looks whether the job has ended, and how.
    pub(super) fn poll(&self) -> Result<Option<Outcome>, RunError> {
        let mut status = [0; 4];
        self.load(Iova::new(self.entry.get() + STATUS_OFFSET as u64), &mut status)?;
        if Status::decode(u32::from_le_bytes(status)).is_none() {
            return Ok(None);
        }
        self.process.kernel().platform().read_barrier();
        let mut entry = [0; ENTRY_BYTES];
        self.load(self.entry, &mut entry)?;
        Ok(Outcome::decode(&entry))
    }

    /// Reads the output, `produced` bytes of it, and inflates it with a library that has nothing to do with the device's.
    pub(super) fn inflate(&self, produced: u64) -> Result<Inflated, RunError> {
        let broken = |error: io::Error| wrong(format!("the output is no deflate stream: {error}"));
        let mut decoder = DeflateDecoder::new(Measured::default());
        let mut piece = vec![0; usize::try_from(produced.min(PIECE_BYTES)).unwrap_or(usize::MAX)];
        for at in (0..produced).step_by(usize::try_from(PIECE_BYTES).unwrap_or(usize::MAX)) {
            let len = usize::try_from((produced - at).min(PIECE_BYTES)).unwrap_or(usize::MAX);
            self.load(Iova::new(self.dest.first().get() + at), &mut piece[..len])?;
            decoder.write_all(&piece[..len]).map_err(broken)?;
        }
        let used = decoder.total_in();
        let measured = decoder.finish().map_err(broken)?;
        if used != produced {
            return Err(wrong(format!("the stream ends after {used} of {produced} bytes of output")));
        }
        Ok(Inflated {
            bytes: measured.bytes,
            digest: hex(&measured.hash.finalize()),
            sum: measured.crc.sum(),
        })
    }

    /// Unmaps input and output.
    pub(super) fn unmap_buffers(&self) -> Result<(), RunError> {
        self.buffers().into_iter().try_for_each(|(range, _)| {
            self.process.unmap(range).map_err(|error| wrong(format!("unmapping {range} failed: {error:?}")))
        })
    }

    fn load(&self, at: Iova, into: &mut [u8]) -> Result<(), RunError> {
        self.process.read(at, into).map_err(|error| fault("load", error))
    }

    fn store(&self, at: Iova, from: &[u8]) -> Result<(), RunError> {
        self.process.write(at, from).map_err(|error| fault("store", error))
    }
}

fn wrong(what: String) -> RunError {
    RunError::wrong("process", what, TRY_VERBOSE)
}

fn fault(what: &str, error: UserError) -> RunError {
    wrong(format!("a {what} of its own failed: {error:?}"))
}

/// Takes bytes, and keeps what they come to.
#[derive(Default)]
struct Measured {
    hash: Sha256,
    crc: Crc,
    bytes: u64,
}

impl Write for Measured {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.hash.update(bytes);
        self.crc.update(bytes);
        self.bytes += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
