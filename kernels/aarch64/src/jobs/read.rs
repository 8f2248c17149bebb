//! The first job: all of the disk is read with the DMA API, several commands at a time, each into a buffer that is mapped for that command only.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt::Write;

use portcullis_nvme::{Direction, Request};
use portcullis_types::{Pa, PaRange};
use sha2::{Digest, Sha256};

use super::{Buffer, Label};
use crate::disk::Disk;
use crate::error::{Wrong, ensure};
use crate::timer;
use crate::uart::println;

const PIECE: u64 = 128 << 10;
const AT_ONCE: usize = 8;

pub(super) fn run(disk: &mut Disk<'_>, label: &Label) -> Result<(), Wrong> {
    let before = (disk.dma.stats(), disk.lines[1].count(), disk.nvme.stats().commands, timer::now_ns());
    let digest = read_all(disk, label.bytes)?;
    let (stats, interrupts, commands) = (disk.dma.stats(), disk.lines[1].count(), disk.nvme.stats().commands);
    ensure!(digest == label.sha256, "the disk's content is not what its label says: sha256 {}", hex(&digest));
    println!("job 1: {} bytes read through the SMMU, sha256 {}", label.bytes, hex(&digest));
    let (maps, unmaps) = (stats.maps - before.0.maps, stats.unmaps - before.0.unmaps);
    ensure!(maps == unmaps && maps > 0, "{maps} buffers were mapped and {unmaps} unmapped");
    ensure!(interrupts > before.1, "no interrupt came");
    let faults = disk.dma.device().fault_count();
    ensure!(faults == 0, "{faults} faults");
    println!(
        "job 1: {} commands, {maps} buffers mapped and unmapped, {} interrupts by messages, {} ms",
        commands - before.2,
        interrupts - before.1,
        (timer::now_ns() - before.3) / 1_000_000
    );
    Ok(())
}

fn read_all(disk: &mut Disk<'_>, bytes: u64) -> Result<[u8; 32], Wrong> {
    let buffers = (0..AT_ONCE).map(|_| Buffer::new(PIECE)).collect::<Result<Vec<_>, _>>()?;
    let block = disk.nvme.namespace().block_bytes;
    let mut hash = Sha256::new();
    let starts: Vec<u64> = (0..bytes).step_by(usize::try_from(PIECE).unwrap_or(1)).collect();
    for round in starts.chunks(AT_ONCE) {
        let pieces: Vec<_> = round
            .iter()
            .zip(&buffers)
            .map(|(&at, buffer)| (at, pages(buffer, PIECE.min(bytes - at))))
            .collect();
        let request = |(at, pages): &'_ (u64, Vec<PaRange>)| (*at / block, pages.clone());
        let wanted: Vec<_> = pieces.iter().map(request).collect();
        let requests: Vec<_> = wanted
            .iter()
            .map(|(lba, buffers)| Request { direction: Direction::Read, lba: *lba, buffers })
            .collect();
        disk.nvme.transfer(&requests).map_err(|error| Wrong(format!("reading: {error}")))?;
        for (buffer, (at, _)) in buffers.iter().zip(&pieces) {
            let mut piece = buffer.bytes();
            piece.truncate(usize::try_from(PIECE.min(bytes - at)).unwrap_or(0));
            unscatter(&mut piece);
            hash.update(&piece);
        }
    }
    Ok(hash.finalize().into())
}

/// The pages of a buffer from the last to the first, so that the device needs the IOMMU, or a list, to see them in a row.
fn pages(buffer: &Buffer, len: u64) -> Vec<PaRange> {
    let page = |index| PaRange::new(Pa::new(buffer.first().get() + 4096 * index), 4096);
    (0..len / 4096).rev().filter_map(page).collect()
}

/// The bytes in the order in which the disk has them.
fn unscatter(bytes: &mut Vec<u8>) {
    *bytes = bytes.chunks(4096).rev().flatten().copied().collect();
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
