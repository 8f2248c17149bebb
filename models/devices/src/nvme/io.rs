//! The NVM command set: Flush, Write, Read, Compare, Write Zeroes.
//!
//! Spec: NVMe 1.4, 6 "NVM Command Set".

use super::Nvme;
use super::command::Command;
use super::identify::{NSID, Namespace};
use super::medium::{Medium, MediumError};
use super::status::Status;

pub(super) const FLUSH: u8 = 0x00;
pub(super) const WRITE: u8 = 0x01;
pub(super) const READ: u8 = 0x02;
pub(super) const COMPARE: u8 = 0x05;
pub(super) const WRITE_ZEROES: u8 = 0x08;
const ALL_NAMESPACES: u32 = u32::MAX;

/// A medium in whole blocks.
#[derive(Debug)]
pub(super) struct Disk {
    medium: Box<dyn Medium>,
    block_lg2: u8,
}

/// A run of blocks that is on the disk.
#[derive(Clone, Copy)]
struct Blocks {
    first_byte: u64,
    len_bytes: u64,
}

impl Disk {
    pub(super) fn new(medium: Box<dyn Medium>, block_lg2: u8) -> Self {
        Self { medium, block_lg2 }
    }

    pub(super) fn blocks(&self) -> u64 {
        self.medium.len_bytes().div_ceil(1 << self.block_lg2)
    }

    pub(super) fn facts(&self) -> Namespace {
        let read_only = self.medium.is_read_only();
        Namespace { blocks: self.blocks(), block_lg2: self.block_lg2, read_only }
    }

    /// The blocks that a command means: SLBA in CDW10 and 11, NLB, 0's based, in CDW12.
    fn blocks_of(&self, command: &Command) -> Result<Blocks, Status> {
        let (first, count) = (command.qword(10), u64::from(command.cdw(12) & 0xffff) + 1);
        let inside = first.checked_add(count).is_some_and(|end| end <= self.blocks());
        if !inside {
            return Err(Status::LBA_OUT_OF_RANGE);
        }
        Ok(Blocks { first_byte: first << self.block_lg2, len_bytes: count << self.block_lg2 })
    }

    fn writable(&self) -> Result<&dyn Medium, Status> {
        if self.medium.is_read_only() { Err(Status::WRITE_PROTECTED) } else { Ok(&*self.medium) }
    }
}

impl Nvme {
    /// Carries out a command of an I/O queue.
    pub(super) fn io_command(&self, command: &Command) -> Result<u32, Status> {
        let act = match command.opcode() {
            FLUSH => Self::flush,
            WRITE => Self::write_blocks,
            READ => Self::read_blocks,
            COMPARE => Self::compare_blocks,
            WRITE_ZEROES => Self::zero_blocks,
            _ => return Err(Status::INVALID_OPCODE),
        };
        if command.fuse() != 0 {
            return Err(Status::INVALID_FIELD);
        }
        let every = command.opcode() == FLUSH && command.nsid() == ALL_NAMESPACES;
        if command.nsid() != NSID && !every {
            return Err(Status::INVALID_NAMESPACE);
        }
        act(self, command).map(|()| 0)
    }

    /// There is no volatile cache: what was completed is on the medium.
    fn flush(&self, _: &Command) -> Result<(), Status> {
        Ok(())
    }

    /// The blocks of a command that moves data, no more than fit in one transfer.
    ///
    /// Choice: a transfer that is too long and out of range is too long.
    fn transfer_of(&self, command: &Command) -> Result<(u64, usize), Status> {
        let bytes = (u64::from(command.cdw(12) & 0xffff) + 1) << self.disk.block_lg2;
        if bytes > self.transfer_max() as u64 {
            return Err(Status::INVALID_FIELD);
        }
        let blocks = self.disk.blocks_of(command)?;
        Ok((blocks.first_byte, blocks.len_bytes as usize))
    }

    fn read_blocks(&self, command: &Command) -> Result<(), Status> {
        let (at, len) = self.transfer_of(command)?;
        let mut bytes = vec![0; len];
        self.disk.medium.read(at, &mut bytes).map_err(|MediumError| Status::READ_ERROR)?;
        self.send(command, &bytes)?;
        let logs = &mut self.state().logs;
        logs.reads += 1;
        logs.read_bytes += len as u64;
        Ok(())
    }

    fn write_blocks(&self, command: &Command) -> Result<(), Status> {
        let (at, len) = self.transfer_of(command)?;
        let medium = self.disk.writable()?;
        let bytes = self.receive(command, len)?;
        medium.write(at, &bytes).map_err(|MediumError| Status::WRITE_FAULT)?;
        let logs = &mut self.state().logs;
        logs.writes += 1;
        logs.written_bytes += len as u64;
        Ok(())
    }

    fn compare_blocks(&self, command: &Command) -> Result<(), Status> {
        let (at, len) = self.transfer_of(command)?;
        let mut here = vec![0; len];
        self.disk.medium.read(at, &mut here).map_err(|MediumError| Status::READ_ERROR)?;
        if self.receive(command, len)? == here { Ok(()) } else { Err(Status::COMPARE_FAILURE) }
    }

    /// No data moves, so the limit on transfers does not hold here.
    fn zero_blocks(&self, command: &Command) -> Result<(), Status> {
        const ZEROES: [u8; 4096] = [0; 4096];
        let blocks = self.disk.blocks_of(command)?;
        let medium = self.disk.writable()?;
        for at in (0..blocks.len_bytes).step_by(ZEROES.len()) {
            let len = (blocks.len_bytes - at).min(ZEROES.len() as u64) as usize;
            let written = medium.write(blocks.first_byte + at, &ZEROES[..len]);
            written.map_err(|MediumError| Status::WRITE_FAULT)?;
        }
        Ok(())
    }
}
