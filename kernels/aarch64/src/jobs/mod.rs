//! What the kernel shows, one file for each job. Each says on the serial port what it did, and is an error if anything is not as it has to be.
//!
//! The last block of the disk says what is before it ([`Label`]).

mod blocked;
mod kept;
mod measure;
mod read;
mod release;
mod shared;

use alloc::format;
use alloc::vec::Vec;

use portcullis_hal::{BlockLayout, DmaMemory};
use portcullis_nvme::Nvme;
use portcullis_types::{Pa, PaRange};

use crate::discovery::System;
use crate::disk::{Disk, Slot};
use crate::error::{Wrong, ensure};
use crate::mmio::Window;
use crate::platform::Metal;

/// Does all of them.
pub(crate) fn run(system: System) -> Result<(), Wrong> {
    kept::run()?;
    let before = {
        let slot = Slot::find(&system)?;
        let before = release::Levels::now();
        let mut disk = Disk::bind(&slot)?;
        let label = Label::read(&mut disk.nvme)?;
        read::run(&mut disk, &label)?;
        disk.stop()?;
        blocked::run(&slot)?;
        shared::run(&slot, &label)?;
        measure::run(&slot)?;
        before
    };
    release::run(system, before)
}

/// What the last block of the disk says.
pub(crate) struct Label {
    /// How many bytes are before it.
    bytes: u64,
    /// Their SHA-256.
    sha256: [u8; 32],
    /// How many of the first of them have a sum of their own, which the process knows where to find.
    crc_bytes: u32,
    /// The block that says so.
    last_block: u64,
}

impl Label {
    const MAGIC: &'static [u8] = b"PORTCULLIS DISK\0";

    fn read(nvme: &mut Nvme<Metal, Window>) -> Result<Self, Wrong> {
        let namespace = *nvme.namespace();
        let buffer = Buffer::new(namespace.block_bytes)?;
        let read = nvme.read(namespace.block_count - 1, &[buffer.range]);
        read.map_err(|error| Wrong(format!("reading the disk's last block: {error}")))?;
        let block = buffer.bytes();
        ensure!(block.starts_with(Self::MAGIC), "the disk's last block says nothing");
        let bytes = block[16..].first_chunk().map_or(0, |&bytes| u64::from_le_bytes(bytes));
        let sha256 = block[24..].first_chunk().copied().unwrap_or_default();
        ensure!(
            bytes == (namespace.block_count - 1) * namespace.block_bytes,
            "the disk's label says {bytes} bytes"
        );
        let crc_bytes = block[60..].first_chunk().map_or(0, |&bytes| u32::from_le_bytes(bytes));
        Ok(Self { bytes, sha256, crc_bytes, last_block: namespace.block_count - 1 })
    }
}

/// Memory for a device to write to, given back when dropped.
struct Buffer {
    range: PaRange,
    layout: BlockLayout,
}

impl Buffer {
    fn new(bytes: u64) -> Result<Self, Wrong> {
        let none = || Wrong(format!("no memory for a buffer of {bytes} bytes"));
        let layout = BlockLayout::new(bytes, 4096).ok_or_else(none)?;
        let first = Metal.alloc_buffer(layout).ok_or_else(none)?;
        Ok(Self { range: PaRange::new(first, bytes).ok_or_else(none)?, layout })
    }

    fn first(&self) -> Pa {
        self.range.first()
    }

    fn bytes(&self) -> Vec<u8> {
        let len = usize::try_from(self.layout.size_bytes()).unwrap_or(0);
        let mut bytes = alloc::vec![0; len];
        Metal.read(self.first(), &mut bytes);
        bytes
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        Metal.free_buffer(self.first(), self.layout);
    }
}
