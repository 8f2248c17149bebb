//! A driver of an NVMe disk that knows only a process's addresses: its queues, its lists and its buffer are the process's memory, and the disk is told the
//! process's pointers.
//!
//! Polled, one command at a time.
//!
//! Spec: NVMe Base 2.0, 3.3.3.1 "Submission Queue Entry"; 4.1.1 "Physical Region Page Entry and List"; 5.4 "Create I/O Completion
//! Queue command"; 5.5 "Create I/O Submission Queue command"; 5.15 "Get Features command"; 5.17 "Identify command"; 5.27 "Set Features command".
//! NVM Command Set 1.0, 3.2.4 "Read command"; 4.1.5.1 "NVM Command Set Identify Namespace Data Structure", FLBAS, LBADS.

use std::sync::Arc;

use portcullis::hal::{Registers, wait_for};
use portcullis::types::{Access, Iova, IovaRange, Perms};

use crate::platform::{LabPlatform, RegisterWindow};
use crate::process::{Mapping, Process, Source};
use crate::workload::controller::{
    self, CSTS, DOORBELLS, ENTRIES, GET_FEATURES, LIMIT_NS, SET_FEATURES, TIMESTAMP, has_failed,
};

const CAP: usize = 0x00;

const CREATE_SUBMISSION: u8 = 0x01;
const CREATE_COMPLETION: u8 = 0x05;
const IDENTIFY: u8 = 0x06;
const READ: u8 = 0x02;
/// A queue in one piece.
const CONTIGUOUS: u32 = 1;

const PAGE: u64 = 4096;
/// Both pairs of queues, and a list of pages.
const QUEUE_PAGES: u64 = 5;
const BUFFER_BYTES: u64 = 128 << 10;
/// How long a failure is waited for.
const FAILURE_NS: u64 = 20_000_000;

/// A disk, and the process that drives it.
pub(super) struct Client {
    platform: Arc<LabPlatform>,
    registers: RegisterWindow,
    process: Arc<Process>,
    admin: Ring,
    io: Ring,
    list: Iova,
    buffer: IovaRange,
    block_bytes: u64,
}

/// A pair of queues.
struct Ring {
    submission: Iova,
    completion: Iova,
    doorbells: [usize; 2],
    tail: u32,
    head: u32,
    phase: u32,
}

/// A command: opcode, namespace, data, and what its dwords 10 to 12 say.
#[derive(Clone, Copy, Default)]
struct Command {
    opcode: u8,
    namespace: u32,
    data: [u64; 2],
    words: [u32; 3],
}

impl Command {
    fn encode(self, id: u32) -> [u8; 64] {
        let mut entry = [0; 64];
        let mut put = |at: usize, bytes: &[u8]| entry[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &(u32::from(self.opcode) | id << 16).to_le_bytes());
        put(4, &self.namespace.to_le_bytes());
        put(24, &self.data[0].to_le_bytes());
        put(32, &self.data[1].to_le_bytes());
        for (index, word) in self.words.into_iter().enumerate() {
            put(40 + 4 * index, &word.to_le_bytes());
        }
        entry
    }
}

impl Client {
    /// Has the process map queues and a buffer and touch all of them, and starts the disk on them.
    pub(super) fn start(
        platform: Arc<LabPlatform>,
        registers: RegisterWindow,
        process: Arc<Process>,
    ) -> Result<Self, String> {
        let queues = touched(&process, QUEUE_PAGES * PAGE)?;
        let buffer = touched(&process, BUFFER_BYTES)?;
        process.barrier();
        let page = |index: u64| Iova::new(queues.first().get() + index * PAGE);
        let stride = 4usize << (registers.read64(CAP) >> 32 & 0xf);
        let ring = |id: usize| Ring {
            submission: page(2 * id as u64),
            completion: page(2 * id as u64 + 1),
            doorbells: [2 * id, 2 * id + 1].map(|index| DOORBELLS + index * stride),
            tail: 0,
            head: 0,
            phase: 1,
        };
        let (admin, io) = (ring(0), ring(1));
        let list = page(QUEUE_PAGES - 1);
        let mut client = Self { platform, registers, process, admin, io, list, buffer, block_bytes: 512 };
        client.disable()?;
        client.enable(client.admin.submission, client.admin.completion)?;
        client.block_bytes = client.identify()?;
        let size = (ENTRIES - 1) << 16 | 1;
        let data = [client.io.completion.get(), 0];
        client.admin(Command {
            opcode: CREATE_COMPLETION,
            data,
            words: [size, CONTIGUOUS, 0],
            ..Default::default()
        })?;
        let data = [client.io.submission.get(), 0];
        let words = [size, 1 << 16 | CONTIGUOUS, 0];
        client.admin(Command { opcode: CREATE_SUBMISSION, data, words, ..Default::default() })?;
        Ok(client)
    }

    pub(super) fn buffer(&self) -> IovaRange {
        self.buffer
    }

    pub(super) fn buffer_bytes(&self) -> u64 {
        BUFFER_BYTES
    }

    /// The bytes of the disk from `at` on, a multiple of a block; as many as the buffer holds at most.
    pub(super) fn read(&mut self, at: u64, len_bytes: u64) -> Result<Vec<u8>, String> {
        let whole = len_bytes.next_multiple_of(self.block_bytes);
        let pages = whole.div_ceil(PAGE);
        let first = self.buffer.first().get();
        let entries: Vec<u8> = (1..pages).flat_map(|page| (first + page * PAGE).to_le_bytes()).collect();
        let second = match pages {
            0 | 1 => 0,
            2 => first + PAGE,
            _ => {
                self.process.write(self.list, &entries).map_err(|error| format!("{error:?}"))?;
                self.list.get()
            }
        };
        let block = at / self.block_bytes;
        let halves = [block & u64::from(u32::MAX), block >> 32, whole / self.block_bytes - 1];
        let words = halves.map(|half| u32::try_from(half).unwrap_or(u32::MAX));
        let command = Command { opcode: READ, namespace: 1, data: [first, second], words };
        let status = self.command(command, true)?;
        if status != 0 {
            return Err(format!("the disk answered a read with status {status:#x}"));
        }
        let mut bytes = vec![0; usize::try_from(len_bytes).unwrap_or(0)];
        self.process.read(self.buffer.first(), &mut bytes).map_err(|error| format!("{error:?}"))?;
        Ok(bytes)
    }

    /// The disk reads or writes the 8 bytes that `at` is among. Whether it was refused the IOMMU's records say.
    pub(super) fn access(&mut self, at: Iova, access: Access) -> Result<(), String> {
        let opcode = if access == Access::WRITE { GET_FEATURES } else { SET_FEATURES };
        let data = [at.align_down(8).get(), 0];
        let command = Command { opcode, data, words: [TIMESTAMP, 0, 0], ..Default::default() };
        self.command(command, false).map(drop)
    }

    /// The disk, started anew, fetches a command from `at`. Answers whether it says that it failed.
    pub(super) fn fetch_from(&self, at: Iova) -> Result<bool, String> {
        self.disable()?;
        self.enable(at, at)?;
        self.registers.write32(DOORBELLS, 1);
        let failed = || has_failed(&self.registers).then_some(());
        Ok(wait_for(&*self.platform, FAILURE_NS, failed).is_ok())
    }

    /// Stops the disk.
    pub(super) fn stop(self) -> Result<(), String> {
        self.disable()
    }

    /// The size of a block of namespace 1.
    fn identify(&mut self) -> Result<u64, String> {
        let data = [self.buffer.first().get(), 0];
        self.admin(Command { opcode: IDENTIFY, namespace: 1, data, ..Default::default() })?;
        let mut page = [0; 4096];
        self.process.read(self.buffer.first(), &mut page).map_err(|error| format!("{error:?}"))?;
        let format = usize::from(page[26] & 0xf);
        match page[128 + 4 * format + 2] {
            lg2 @ 9..=12 => Ok(1 << lg2),
            other => Err(format!("the disk has blocks of 2^{other} bytes")),
        }
    }

    fn admin(&mut self, command: Command) -> Result<(), String> {
        match self.command(command, false)? {
            0 => Ok(()),
            status => Err(format!("the disk answered {:#x} with status {status:#x}", command.opcode)),
        }
    }

    /// One command; answers its status.
    fn command(&mut self, command: Command, io: bool) -> Result<u32, String> {
        let ring = if io { &mut self.io } else { &mut self.admin };
        let failed = |error| format!("the process failed: {error:?}");
        let place = Iova::new(ring.submission.get() + 64 * u64::from(ring.tail));
        self.process.write(place, &command.encode(ring.tail)).map_err(failed)?;
        self.process.barrier();
        ring.tail = (ring.tail + 1) % ENTRIES;
        self.registers.write32(ring.doorbells[0], ring.tail);
        let last = Iova::new(ring.completion.get() + 16 * u64::from(ring.head) + 12);
        let answer = wait_for(&*self.platform, LIMIT_NS, || {
            let mut word = [0; 4];
            if let Err(error) = self.process.read(last, &mut word) {
                return Some(Err(failed(error)));
            }
            let status = u32::from_le_bytes(word) >> 16;
            (status & 1 == ring.phase).then_some(Ok(status >> 1))
        });
        let csts = || self.registers.read32(CSTS);
        let status = answer.map_err(|_| format!("the disk does not answer (CSTS {:#x})", csts()))??;
        ring.head = (ring.head + 1) % ENTRIES;
        ring.phase ^= u32::from(ring.head == 0);
        self.registers.write32(ring.doorbells[1], ring.head);
        Ok(status)
    }

    fn disable(&self) -> Result<(), String> {
        controller::disable(&self.platform, &self.registers)
    }

    fn enable(&self, submission: Iova, completion: Iova) -> Result<(), String> {
        controller::enable(&self.platform, &self.registers, submission.get(), completion.get())
    }
}

/// Memory of the process that is present, and written.
fn touched(process: &Process, len_bytes: u64) -> Result<IovaRange, String> {
    let mapping = Mapping { at: None, len_bytes, perms: Perms::READ_WRITE, source: Source::Anonymous };
    let range = process.map(&mapping).map_err(|error| format!("no memory: {error:?}"))?;
    let zeroes = vec![0; usize::try_from(len_bytes).map_err(|_| "too large".to_owned())?];
    process.write(range.first(), &zeroes).map_err(|error| format!("{error:?}"))?;
    Ok(range)
}
