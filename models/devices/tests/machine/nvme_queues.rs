//! Creating, using and deleting I/O queues.

use crate::rig::{BAR, CQ, DATA, DiskRig, ENTRIES, FIRST_LPI, SQ, Sqe};
use model_devices::nvme::{MemoryMedium, NvmeOptions};

const INVALID_QUEUE_ID: u16 = 0x4101;
const INVALID_QUEUE_SIZE: u16 = 0x4102;

fn enabled() -> DiskRig {
    let disk = DiskRig::new(vec![7; 512 * 64]);
    disk.enable();
    disk
}

/// Create I/O Completion Queue.
fn cq(dw10: u32, dw11: u32) -> Sqe {
    Sqe::new(0x05, 0).prps(CQ, 0).dw(10, dw10).dw(11, dw11)
}

/// Create I/O Submission Queue.
fn sq(dw10: u32, dw11: u32) -> Sqe {
    Sqe::new(0x01, 0).prps(SQ, 0).dw(10, dw10).dw(11, dw11)
}

fn read_block() -> Sqe {
    Sqe::new(0x02, 1).prps(DATA, 0).blocks(0, 1)
}

#[test]
fn a_completion_queue_is_made_as_the_book_allows_and_not_otherwise() {
    let disk = enabled();
    assert_eq!(disk.admin(cq(0x0007_0000, 1)).status, INVALID_QUEUE_ID);
    assert_eq!(disk.admin(cq(0x0007_0011, 1)).status, INVALID_QUEUE_ID);
    assert_eq!(disk.admin(cq(0x0000_0001, 1)).status, INVALID_QUEUE_SIZE);
    assert_eq!(disk.admin(cq(0x0400_0001, 1)).status, INVALID_QUEUE_SIZE);
    assert_eq!(disk.admin(cq(0x0007_0001, 0)).status, 0x4002);
    assert_eq!(disk.admin(cq(0x0007_0001, 0x0011_0003)).status, 0x4108);
    assert_eq!(disk.admin(cq(0x0007_0001, 1).prps(CQ + 0x100, 0)).status, 0x4013);
    assert_eq!(disk.admin(cq(0x0007_0001, 0x0010_0003)).status, 0);
    assert_eq!(disk.admin(cq(0x0007_0001, 1)).status, INVALID_QUEUE_ID);
    assert_eq!(disk.admin(cq(0x03ff_0010, 1)).status, 0);
}

#[test]
fn a_submission_queue_is_made_as_the_book_allows_and_not_otherwise() {
    let disk = enabled();
    assert_eq!(disk.admin(cq(0x0007_0001, 1)).status, 0);
    assert_eq!(disk.admin(sq(0x0007_0000, 0x0001_0001)).status, INVALID_QUEUE_ID);
    assert_eq!(disk.admin(sq(0x0007_0011, 0x0001_0001)).status, INVALID_QUEUE_ID);
    assert_eq!(disk.admin(sq(0x0000_0001, 0x0001_0001)).status, INVALID_QUEUE_SIZE);
    assert_eq!(disk.admin(sq(0x0007_0001, 0x0000_0001)).status, INVALID_QUEUE_ID);
    assert_eq!(disk.admin(sq(0x0007_0001, 0x0011_0001)).status, INVALID_QUEUE_ID);
    assert_eq!(disk.admin(sq(0x0007_0001, 0x0002_0001)).status, 0x4100);
    assert_eq!(disk.admin(sq(0x0007_0001, 0x0001_0000)).status, 0x4002);
    assert_eq!(disk.admin(sq(0x0007_0001, 0x0001_0001).prps(SQ + 8, 0)).status, 0x4013);
    assert_eq!(disk.admin(sq(0x0007_0001, 0x0001_0001)).status, 0);
    assert_eq!(disk.admin(sq(0x0007_0001, 0x0001_0001)).status, INVALID_QUEUE_ID);
    assert_eq!(disk.io(read_block()).status, 0);
}

#[test]
fn the_number_of_queues_that_was_granted_is_the_limit() {
    let disk = enabled();
    assert_eq!(disk.admin(Sqe::new(9, 0).dw(10, 7).dw(11, 0x0000_0001)).result, 0x0000_0001);
    assert_eq!(disk.admin(cq(0x0007_0002, 1)).status, INVALID_QUEUE_ID);
    assert_eq!(disk.admin(cq(0x0007_0001, 1)).status, 0);
    assert_eq!(disk.admin(sq(0x0007_0002, 0x0001_0001)).status, 0);
    assert_eq!(disk.admin(sq(0x0007_0003, 0x0001_0001)).status, INVALID_QUEUE_ID);
}

#[test]
fn entries_of_another_size_make_no_queue() {
    let disk = DiskRig::new(vec![0; 512]);
    disk.enable();
    disk.rig.write32(BAR + 0x14, 0x0000_0001);
    assert_eq!(disk.admin(cq(0x0007_0001, 1)).status, INVALID_QUEUE_SIZE);
    disk.rig.write32(BAR + 0x14, 0x0040_0001);
    assert_eq!(disk.admin(cq(0x0007_0001, 1)).status, 0);
    assert_eq!(disk.admin(sq(0x0007_0001, 0x0001_0001)).status, INVALID_QUEUE_SIZE);
}

#[test]
fn a_completion_queue_in_use_is_not_deleted() {
    let disk = enabled();
    disk.create_queues();
    let delete = |opcode: u32, id: u32| disk.admin(Sqe::new(opcode, 0).dw(10, id)).status;
    assert_eq!(delete(0x04, 1), 0x410c);
    assert_eq!(delete(0x00, 0), INVALID_QUEUE_ID);
    assert_eq!(delete(0x00, 2), INVALID_QUEUE_ID);
    assert_eq!(delete(0x00, 1), 0);
    assert_eq!(delete(0x00, 1), INVALID_QUEUE_ID);
    assert_eq!(delete(0x04, 1), 0);
    assert_eq!(delete(0x04, 1), INVALID_QUEUE_ID);
    assert_eq!(delete(0x04, 0), INVALID_QUEUE_ID);
}

#[test]
fn commands_under_way_are_aborted_when_their_queue_is_deleted() {
    let mut ends = [0, 0x0008].map(|status| (status, false));
    for seed in 0..30 {
        let options = NvmeOptions { seed, ..NvmeOptions::default() };
        let disk = DiskRig::with(options, Box::new(MemoryMedium::new(vec![7; 512 * 64])));
        disk.enable();
        disk.create_queues();
        // Seven completions fill the queue; the eighth command is fetched and has to wait.
        (0..ENTRIES - 1).for_each(|_| _ = disk.put(1, read_block()));
        disk.ring(1);
        disk.settle();
        let last = disk.put(1, read_block());
        disk.ring(1);
        disk.settle();
        disk.put(0, Sqe::new(0x00, 0).dw(10, 1));
        disk.ring(0);
        let mut done: Vec<_> = (0..ENTRIES - 1).map(|_| disk.take(1).unwrap()).collect();
        disk.settle();
        assert_eq!(disk.take(0).map(|cqe| cqe.status), Some(0));
        done.extend(disk.take(1));
        let end = done.iter().find(|cqe| cqe.id == last).expect("the command came to an end").status;
        let known = ends.iter_mut().find(|(status, _)| *status == end);
        known.unwrap_or_else(|| panic!("status {end:#x}")).1 = true;
    }
    assert!(ends.iter().all(|(_, seen)| *seen), "{ends:x?}");
}

#[test]
fn a_full_completion_queue_holds_commands_back() {
    let disk = DiskRig::ready(vec![7; 512 * 64]);
    let first: Vec<u16> = (0..ENTRIES - 1).map(|_| disk.put(1, read_block())).collect();
    disk.ring(1);
    disk.settle();
    disk.put(1, read_block());
    disk.ring(1);
    disk.settle();
    let before = disk.nvme.traffic().read_bytes;
    let mut done: Vec<u16> = (0..ENTRIES - 1).map(|_| disk.take(1).unwrap().id).collect();
    done.sort_unstable();
    assert_eq!(done, first);
    assert_eq!(disk.take(1), None);
    disk.settle();
    assert!(disk.take(1).is_some());
    assert_eq!(disk.nvme.traffic().read_bytes, before);
}

#[test]
fn commands_may_complete_in_another_order() {
    let reordered = (0..20).any(|seed| {
        let options = NvmeOptions { seed, ..NvmeOptions::default() };
        let disk = DiskRig::with(options, Box::new(MemoryMedium::new(vec![7; 512 * 64])));
        disk.enable();
        disk.create_queues();
        let ids: Vec<u16> = (0..5).map(|_| disk.put(1, read_block())).collect();
        disk.ring(1);
        disk.settle();
        let done: Vec<u16> = (0..5).map(|_| disk.take(1).unwrap().id).collect();
        done != ids
    });
    assert!(reordered);
}

#[test]
fn a_queue_interrupts_on_its_own_vector_or_not_at_all() {
    let disk = DiskRig::ready(vec![7; 512 * 64]);
    while disk.rig.its.take_pending().is_some() {}
    disk.io(read_block());
    assert_eq!(disk.rig.its.take_pending(), Some(FIRST_LPI + 1));
    assert_eq!(disk.rig.its.take_pending(), None);

    let quiet = enabled();
    assert_eq!(quiet.admin(cq(0x0007_0001, 0x0001_0001)).status, 0);
    assert_eq!(quiet.admin(sq(0x0007_0001, 0x0001_0001)).status, 0);
    while quiet.rig.its.take_pending().is_some() {}
    assert_eq!(quiet.io(read_block()).status, 0);
    assert_eq!(quiet.rig.its.take_pending(), None);
}

#[test]
fn doorbells_may_lie_farther_apart() {
    let options = NvmeOptions { doorbell_stride: 4, ..NvmeOptions::default() };
    let disk = DiskRig::with(options, Box::new(MemoryMedium::new(vec![7; 512])));
    assert_eq!(disk.rig.read32(BAR + 4) & 0xf, 4);
    disk.rig.write32(BAR + 0x24, 0x0007_0007);
    disk.rig.write32(BAR + 0x28, crate::rig::ASQ as u32);
    disk.rig.write32(BAR + 0x30, crate::rig::ACQ as u32);
    disk.rig.write32(BAR + 0x14, 0x0046_0001);
    disk.settle();
    disk.put(0, cq(0x0007_0001, 1));
    disk.put(0, sq(0x0007_0001, 0x0001_0001));
    disk.rig.write32(BAR + 0x1000, 2);
    disk.settle();
    assert!(disk.rig.ear.heard("completion: sq=0 cid=2 status=0x0"));
    disk.put(1, read_block());
    disk.rig.write32(BAR + 0x1000 + 2 * 64, 1);
    disk.settle();
    assert!(disk.rig.ear.heard("completion: sq=1 cid=3 status=0x0"));
}
