//! Reading and writing blocks.

use std::path::PathBuf;

use crate::rig::{DATA, DiskRig, RAM, SQ, Sqe};
use model_devices::nvme::{FileMedium, MemoryMedium, NvmeOptions};

const LBA_OUT_OF_RANGE: u16 = 0x4080;
const BLOCK: usize = 512;

/// Bytes that tell where they lie.
fn pattern(len: usize) -> Vec<u8> {
    (0..len as u32).map(|index| (index.wrapping_mul(0x9e37_79b1) >> 24) as u8).collect()
}

fn read(lba: u64, count: u32) -> Sqe {
    Sqe::new(0x02, 1).prps(DATA, 0).blocks(lba, count)
}

#[test]
fn blocks_are_read_to_where_the_prps_say() {
    let bytes = pattern(64 * BLOCK);
    let disk = DiskRig::ready(bytes.clone());
    let before = disk.nvme.traffic();
    assert_eq!(disk.io(read(3, 2)).status, 0);
    assert_eq!(disk.read(DATA, 1024), bytes[3 * BLOCK..5 * BLOCK]);
    let after = disk.nvme.traffic();
    assert_eq!(after.written_bytes - before.written_bytes, 1024 + 16);
    assert_eq!(after.read_bytes - before.read_bytes, 64);

    // Two pages, the first begins inside one.
    assert_eq!(disk.io(read(0, 9).prps(DATA + 0xe00, DATA + 0x4000)).status, 0);
    assert_eq!(disk.read(DATA + 0xe00, 512), bytes[..512]);
    assert_eq!(disk.read(DATA + 0x4000, 4096), bytes[512..4608]);
}

#[test]
fn a_large_read_follows_a_list() {
    let bytes = pattern(2048 * BLOCK);
    let disk = DiskRig::ready(bytes.clone());
    let list = RAM + 0x30_0ff0;
    let next = RAM + 0x31_0000;
    // 256 pages: the first is PRP1, one in the first list page, the rest in the second, from the back.
    let page = |index: u64| RAM + 0x100_0000 + (256 - index) * 4096;
    disk.write(list, &page(1).to_le_bytes());
    disk.write(list + 8, &next.to_le_bytes());
    for index in 2..256 {
        disk.write(next + 8 * (index - 2), &page(index).to_le_bytes());
    }
    assert_eq!(disk.io(read(0, 2048).prps(page(0), list)).status, 0);
    for index in 0..256u64 {
        let at = index as usize * 4096;
        assert_eq!(disk.read(page(index), 4096), bytes[at..at + 4096], "page {index}");
    }
}

#[test]
fn prps_that_break_the_rules_are_refused() {
    let disk = DiskRig::ready(pattern(64 * BLOCK));
    assert_eq!(disk.io(read(0, 1).prps(DATA + 2, 0)).status, 0x4013);
    assert_eq!(disk.io(read(0, 9).prps(DATA, DATA + 4)).status, 0x4013);
    assert_eq!(disk.io(read(0, 32).prps(DATA, DATA + 0x1004)).status, 0x4013);
    assert_eq!(disk.io(read(0, 32).prps(DATA, 0x10)).status, 0x0004);
}

#[test]
fn what_is_written_is_read_again() {
    let disk = DiskRig::ready(vec![0; 64 * BLOCK]);
    let bytes = pattern(9 * BLOCK);
    disk.write(DATA, &bytes);
    assert_eq!(disk.io(Sqe::new(0x01, 1).prps(DATA, DATA + 0x1000).blocks(50, 9)).status, 0);
    disk.fill(DATA, 0x2000, 0);
    assert_eq!(disk.io(read(50, 9).prps(DATA, DATA + 0x1000)).status, 0);
    assert_eq!(disk.read(DATA, bytes.len()), bytes);
    assert_eq!(disk.io(Sqe::new(0x00, 1)).status, 0);
    assert_eq!(disk.io(Sqe::new(0x00, 0xffff_ffff)).status, 0);
    assert_eq!(disk.io(Sqe::new(0x00, 2)).status, 0x400b);
}

#[test]
fn a_write_whose_data_does_not_come_changes_nothing() {
    let disk = DiskRig::ready(vec![5; 64 * BLOCK]);
    disk.rig.gate.shut(DATA + 0x1000);
    assert_eq!(disk.io(Sqe::new(0x01, 1).prps(DATA, DATA + 0x1000).blocks(0, 9)).status, 0x0004);
    disk.rig.gate.open();
    assert_eq!(disk.io(read(0, 9).prps(DATA, DATA + 0x1000)).status, 0);
    assert_eq!(disk.read(DATA, 9 * BLOCK), vec![5; 9 * BLOCK]);
}

#[test]
fn blocks_beyond_the_end_are_out_of_range() {
    let disk = DiskRig::ready(vec![5; 63 * BLOCK + 1]);
    assert_eq!(disk.nvme.block_count(), 64);
    assert_eq!(disk.io(read(63, 1)).status, 0);
    assert_eq!(disk.read(DATA, 3), [5, 0, 0]);
    assert_eq!(disk.io(read(64, 1)).status, LBA_OUT_OF_RANGE);
    assert_eq!(disk.io(read(63, 2)).status, LBA_OUT_OF_RANGE);
    assert_eq!(disk.io(read(u64::MAX, 1)).status, LBA_OUT_OF_RANGE);
    assert_eq!(disk.io(read(0x1_0000_0000, 1)).status, LBA_OUT_OF_RANGE);
    assert_eq!(disk.io(Sqe::new(0x01, 1).prps(DATA, 0).blocks(64, 1)).status, LBA_OUT_OF_RANGE);
    assert_eq!(disk.io(Sqe::new(0x08, 1).blocks(60, 5)).status, LBA_OUT_OF_RANGE);
}

#[test]
fn a_transfer_beyond_the_limit_is_an_invalid_field() {
    let options = NvmeOptions { mdts: 1, ..NvmeOptions::default() };
    let disk = DiskRig::with(options, Box::new(MemoryMedium::new(vec![5; 64 * BLOCK])));
    disk.enable();
    disk.create_queues();
    assert_eq!(disk.io(read(0, 16).prps(DATA, DATA + 0x1000)).status, 0);
    assert_eq!(disk.io(read(0, 17).prps(DATA, DATA + 0x1000)).status, 0x4002);
    assert_eq!(disk.io(read(60, 17).prps(DATA, DATA + 0x1000)).status, 0x4002);
    assert_eq!(disk.io(Sqe::new(0x08, 1).blocks(0, 64)).status, 0);
}

#[test]
fn malformed_io_commands_are_refused() {
    let disk = DiskRig::ready(vec![5; 64 * BLOCK]);
    assert_eq!(disk.io(Sqe::new(0x7f, 1)).status, 0x4001);
    assert_eq!(disk.io(read(0, 1).dw(1, 0)).status, 0x400b);
    assert_eq!(disk.io(read(0, 1).dw(1, 0xffff_ffff)).status, 0x400b);
    assert_eq!(disk.io(read(0, 1).dw(0, 0x0102)).status, 0x4002);
    assert_eq!(disk.io(read(0, 1).dw(0, 0x4002)).status, 0x4002);
}

#[test]
fn compare_tells_equal_from_different() {
    let disk = DiskRig::ready(pattern(64 * BLOCK));
    disk.write(DATA, &pattern(BLOCK));
    let compare = Sqe::new(0x05, 1).prps(DATA, 0).blocks(0, 1);
    assert_eq!(disk.io(compare).status, 0);
    disk.write(DATA + 511, &[!pattern(BLOCK)[511]]);
    assert_eq!(disk.io(compare).status, 0x4285);
}

#[test]
fn write_zeroes_leaves_its_neighbours() {
    let disk = DiskRig::ready(vec![5; 64 * BLOCK]);
    assert_eq!(disk.io(Sqe::new(0x08, 1).blocks(1, 10)).status, 0);
    assert_eq!(disk.io(read(0, 16).prps(DATA, DATA + 0x1000)).status, 0);
    let bytes = disk.read(DATA, 16 * BLOCK);
    assert!(bytes[..512].iter().chain(&bytes[11 * 512..12 * 512]).all(|&byte| byte == 5));
    assert!(bytes[512..11 * 512].iter().all(|&byte| byte == 0));
}

#[test]
fn data_that_the_iommu_refuses_fails_that_command_and_no_other() {
    let disk = DiskRig::ready(vec![5; 64 * BLOCK]);
    disk.rig.gate.shut(DATA + 0x1000);
    let bad = disk.put(1, read(0, 9).prps(DATA, DATA + 0x1000));
    let good = disk.put(1, read(0, 1));
    disk.ring(1);
    disk.settle();
    let mut done = [disk.take(1).unwrap(), disk.take(1).unwrap()].map(|cqe| (cqe.id, cqe.status));
    done.sort_unstable();
    assert_eq!((done, disk.csts()), ([(bad, 0x0004), (good, 0)], 1));
}

#[test]
fn a_command_that_cannot_be_fetched_from_an_io_queue_is_fatal() {
    let disk = DiskRig::ready(vec![5; 64 * BLOCK]);
    disk.rig.gate.shut(SQ);
    disk.put(1, read(0, 1));
    disk.ring(1);
    disk.settle();
    assert_eq!((disk.csts(), disk.take(1)), (3, None));
}

#[test]
fn the_health_log_counts_what_was_read_and_written() {
    let disk = DiskRig::ready(vec![5; 64 * BLOCK]);
    disk.io(read(0, 1));
    disk.io(read(0, 1));
    disk.io(Sqe::new(0x01, 1).prps(DATA, 0).blocks(0, 1));
    assert_eq!(disk.admin(Sqe::new(2, 0).prps(DATA, 0).dw(10, 0x007f_0002)).status, 0);
    let count = |at: u64| disk.read(DATA + at, 1)[0];
    assert_eq!((count(32), count(48), count(64), count(80)), (1, 1, 2, 1));
}

/// A file of `len` bytes that goes away with the test; nothing of it is stored but its end.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str, len: u64, end: &[u8]) -> Self {
        use std::io::{Seek, SeekFrom, Write};
        let path = std::env::temp_dir().join(format!("disk-{}-{name}", std::process::id()));
        let mut file = std::fs::File::create(&path).unwrap();
        file.seek(SeekFrom::Start(len - end.len() as u64)).unwrap();
        file.write_all(end).unwrap();
        Self(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

#[test]
fn a_read_only_file_is_a_write_protected_disk_of_4_kib_blocks() {
    let scratch = Scratch::new("protected", 3 << 30, b"the end");
    let options = NvmeOptions { block_lg2: 12, ..NvmeOptions::default() };
    let disk = DiskRig::with(options, Box::new(FileMedium::read_only(&scratch.0).unwrap()));
    disk.enable();
    disk.create_queues();
    let last = (3 << 30) / 4096 - 1;
    assert_eq!(disk.io(read(last, 1)).status, 0);
    assert_eq!(disk.read(DATA + 4089, 7), b"the end");
    assert_eq!(disk.io(Sqe::new(0x01, 1).prps(DATA, 0).blocks(0, 1)).status, 0x4020);
    assert_eq!(disk.io(Sqe::new(0x08, 1).blocks(0, 1)).status, 0x4020);
    assert_eq!(disk.admin(Sqe::new(6, 1).prps(DATA, 0)).status, 0);
    assert_eq!((disk.read(DATA + 99, 1), disk.read(DATA + 130, 1)), (vec![1], vec![12]));
}

#[test]
fn a_file_that_breaks_is_a_media_error() {
    let scratch = Scratch::new("breaks", 8192, b"x");
    let disk = DiskRig::with(NvmeOptions::default(), Box::new(FileMedium::read_only(&scratch.0).unwrap()));
    disk.enable();
    disk.create_queues();
    std::fs::write(&scratch.0, b"short").unwrap();
    assert_eq!(disk.io(read(8, 1)).status, 0x0281);
}
