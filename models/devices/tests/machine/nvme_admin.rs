//! Initialization, shutdown and the admin commands of the NVMe controller.

use crate::rig::{ACQ, ASQ, BAR, CQ, Cqe, DATA, DISK, DiskRig, ENTRIES, Sqe};

use model_bus::Width;
use model_devices::nvme::clause;

/// Identify, to `DATA`.
fn identify(cns: u32, nsid: u32) -> Sqe {
    Sqe::new(0x06, nsid).prps(DATA, 0).dw(10, cns)
}

fn enabled() -> DiskRig {
    let disk = DiskRig::new(vec![7; 10_000]);
    disk.enable();
    disk
}

const INVALID_OPCODE: u16 = 0x4001;
const INVALID_FIELD: u16 = 0x4002;
const INVALID_NAMESPACE: u16 = 0x400b;

#[test]
fn the_controller_becomes_ready_and_not_ready_as_it_is_told() {
    let disk = enabled();
    disk.rig.write32(BAR + 0x14, 0x0046_0000);
    assert_eq!(disk.csts(), 1);
    disk.settle();
    assert_eq!((disk.csts(), disk.rig.read32(BAR + 0x24)), (0, 0x0007_0007));
    disk.enable();
    assert_eq!(disk.admin(identify(1, 0)).status, 0);
    assert!(disk.rig.ear.heard("model.nvme ready:") && disk.rig.ear.heard("model.nvme reset:"));
}

#[test]
fn enabling_again_before_the_reset_was_seen_still_resets() {
    let disk = enabled();
    disk.put(0, identify(1, 0));
    disk.rig.write32(BAR + 0x14, 0x0046_0000);
    disk.rig.write32(BAR + 0x14, 0x0046_0001);
    disk.settle();
    assert_eq!(disk.csts(), 1);
    disk.ring(0);
    disk.settle();
    assert_eq!(disk.take(0).map(|cqe| cqe.sq_head), Some(1));
}

#[test]
fn a_shutdown_completes_and_commands_stay_where_they_are() {
    let disk = enabled();
    disk.rig.write32(BAR + 0x14, 0x0046_4001);
    disk.settle();
    assert_eq!(disk.csts(), 0b1001);
    disk.put(0, identify(1, 0));
    disk.ring(0);
    disk.settle();
    assert_eq!(disk.take(0), None);
    disk.rig.write32(BAR + 0x14, 0x0046_0000);
    disk.settle();
    assert_eq!(disk.csts(), 0);
}

#[test]
fn an_unsupported_configuration_is_fatal_until_a_reset() {
    let disk = DiskRig::new(vec![0; 512]);
    disk.rig.write32(BAR + 0x14, 0x0046_0001);
    disk.settle();
    assert_eq!(disk.csts(), 2);
    disk.rig.write32(BAR + 0x14, 0);
    disk.settle();
    assert_eq!(disk.csts(), 0);
    disk.enable();
}

#[test]
fn identify_tells_controller_namespace_and_list() {
    let disk = enabled();
    assert_eq!(disk.admin(identify(1, 0)).status, 0);
    assert_eq!(disk.read(DATA, 8), [0x36, 0x1b, 0x36, 0x1b, b'P', b'O', b'R', b'T']);
    assert_eq!(disk.admin(identify(0, 1)).status, 0);
    // 10,000 bytes are 20 blocks of 512.
    assert_eq!(disk.read(DATA, 8), [20, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(disk.read(DATA + 128, 4), [0, 0, 9, 0]);
    assert_eq!(disk.admin(identify(2, 0)).status, 0);
    assert_eq!(disk.read(DATA, 8), [1, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(disk.admin(identify(3, 1)).status, 0);
    assert_eq!(disk.read(DATA, 2), [1, 8]);
    assert_eq!(disk.nvme.traffic().written_bytes, 4 * 4096 + 4 * 16);
}

#[test]
fn identify_refuses_what_there_is_not() {
    let disk = enabled();
    assert_eq!(disk.admin(identify(0, 0)).status, INVALID_NAMESPACE);
    assert_eq!(disk.admin(identify(0, 2)).status, INVALID_NAMESPACE);
    assert_eq!(disk.admin(identify(0, 0xffff_ffff)).status, INVALID_NAMESPACE);
    assert_eq!(disk.admin(identify(2, 0xffff_fffe)).status, INVALID_NAMESPACE);
    assert_eq!(disk.admin(identify(2, 1)).status, 0);
    assert_eq!(disk.admin(identify(0x13, 0)).status, INVALID_FIELD);
}

#[test]
fn unknown_and_malformed_admin_commands_are_refused() {
    let disk = enabled();
    assert_eq!(disk.admin(Sqe::new(0x80, 1)).status, INVALID_OPCODE);
    assert_eq!(disk.admin(identify(1, 0).dw(0, 0x0106)).status, INVALID_FIELD);
    assert_eq!(disk.admin(identify(1, 0).dw(0, 0x4006)).status, INVALID_FIELD);
    assert_eq!(disk.admin(identify(1, 0).prps(DATA + 1, 0)).status, 0x4013);
    assert_eq!(disk.admin(identify(1, 0).prps(DATA + 0x800, DATA + 0x1004)).status, 0x4013);
}

#[test]
fn data_that_the_iommu_refuses_is_a_transfer_error() {
    let disk = enabled();
    disk.rig.gate.shut(DATA);
    assert_eq!(disk.admin(identify(1, 0)).status, 0x0004);
    disk.rig.gate.open();
    assert_eq!(disk.admin(identify(1, 0)).status, 0);
}

#[test]
fn a_command_that_cannot_be_fetched_is_fatal() {
    let disk = enabled();
    disk.rig.gate.shut(ASQ);
    disk.put(0, identify(1, 0));
    disk.ring(0);
    disk.settle();
    assert_eq!(disk.csts(), 3);
    assert!(disk.rig.ear.heard("model.nvme fatal: during=fetch address=0x0000000040100000"));
    disk.rig.gate.open();
    disk.put(0, identify(1, 0));
    disk.ring(0);
    disk.settle();
    assert_eq!((disk.csts(), disk.take(0)), (3, None));
}

#[test]
fn a_completion_that_cannot_be_posted_is_fatal() {
    let disk = enabled();
    disk.rig.gate.shut(ACQ);
    disk.put(0, identify(1, 0));
    disk.ring(0);
    disk.settle();
    assert_eq!((disk.csts(), disk.take(0)), (3, None));
    disk.rig.gate.open();
    disk.rig.write32(BAR + 0x14, 0);
    disk.settle();
    disk.enable();
    assert_eq!(disk.admin(identify(1, 0)).status, 0);
}

#[test]
fn nothing_is_fetched_while_bus_mastering_is_off() {
    let disk = enabled();
    disk.put(0, identify(1, 0));
    disk.rig.write_config(DISK, 4, Width::Bits16, 2);
    disk.ring(0);
    disk.settle();
    assert_eq!((disk.csts(), disk.take(0)), (1, None));
    disk.rig.write_config(DISK, 4, Width::Bits16, 6);
    disk.settle();
    assert_eq!(disk.take(0).map(|cqe| cqe.status), Some(0));
}

#[test]
fn features_are_set_read_and_refused() {
    let disk = enabled();
    let set = |id: u32, value: u32| disk.admin(Sqe::new(0x09, 0).dw(10, id).dw(11, value));
    let get = |id: u32, value: u32| disk.admin(Sqe::new(0x0a, 0).dw(10, id).dw(11, value));
    let answer = |cqe: Cqe| (cqe.status, cqe.result);
    assert_eq!(answer(set(0x07, 0x0003_0001)), (0, 0x0003_0001));
    assert_eq!(answer(set(0x07, 0x00ff_00ff)), (0, 0x000f_000f));
    assert_eq!(answer(get(0x07, 0)), (0, 0x000f_000f));
    assert_eq!(set(0x07, 0x0003_ffff).status, INVALID_FIELD);
    assert_eq!(answer(set(0x0b, 0x1f)), (0, 0));
    assert_eq!(answer(get(0x0b, 0)), (0, 0x1f));
    assert_eq!(answer(get(0x10b, 0)), (0, 0));
    assert_eq!(answer(get(0x30b, 0)), (0, 4));
    assert_eq!(answer(set(0x09, 0x1_0003)), (0, 0));
    assert_eq!(answer(get(0x09, 3)), (0, 0x1_0003));
    assert_eq!(set(0x09, 17).status, INVALID_FIELD);
    assert_eq!(set(0x8000_000b, 1).status, 0x410d);
    assert_eq!(set(0x06, 1).status, INVALID_FIELD);
    assert_eq!(get(0x7f, 0).status, INVALID_FIELD);
    assert_eq!(set(0x02, 1).status, INVALID_FIELD);
}

#[test]
fn the_number_of_queues_is_settled_before_there_are_any() {
    let disk = enabled();
    disk.create_queues();
    assert_eq!(disk.admin(Sqe::new(0x09, 0).dw(10, 7).dw(11, 0)).status, 0x400c);
}

#[test]
fn log_pages_are_read_in_part_and_unknown_ones_refused() {
    let disk = enabled();
    disk.admin(Sqe::new(0x80, 1));
    disk.fill(DATA, 4096, 0xee);
    let log =
        |dw10: u32, offset: u32| disk.admin(Sqe::new(2, 0).prps(DATA, 0).dw(10, dw10).dw(12, offset)).status;
    assert_eq!(log(0x0007_0001, 0), 0);
    assert_eq!(disk.read(DATA, 16), [1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0x03, 0x80, 0xff, 0xff]);
    assert_eq!(disk.read(DATA + 32, 1), [0xee]);
    assert_eq!(log(0x0000_0002, 0), 0);
    assert_eq!(disk.read(DATA, 2), [0, 0x36]);
    assert_eq!(log(0x0000_0003, 8), 0);
    assert_eq!(disk.read(DATA, 4), *b"1.0 ");
    assert_eq!(log(0x0000_0070, 0), 0x4109);
    assert_eq!(log(0x0000_0002, 2), INVALID_FIELD);
    assert_eq!(log(0x0000_0002, 516), INVALID_FIELD);
    assert_eq!(
        disk.admin(Sqe::new(2, 0).prps(DATA, 0).dw(10, 0xffff_0002).dw(11, 0xffff)).status,
        INVALID_FIELD
    );
}

#[test]
fn an_event_request_is_held_until_a_doorbell_is_misused() {
    let disk = enabled();
    let id = disk.put(0, Sqe::new(0x0c, 0));
    disk.ring(0);
    disk.settle();
    assert_eq!(disk.take(0), None);
    disk.rig.write32(BAR + 0x1000 + 8 * 5, 1);
    disk.settle();
    let cqe = disk.take(0).unwrap();
    assert_eq!((cqe.id, cqe.status, cqe.result, cqe.sq_head), (id, 0, 0x0001_0000, 1));
}

#[test]
fn another_event_comes_only_after_the_error_log_was_read() {
    let disk = enabled();
    disk.put(0, Sqe::new(0x0c, 0));
    disk.put(0, Sqe::new(0x0c, 0));
    disk.ring(0);
    let misuse = || {
        disk.rig.write32(BAR + 0x1000 + 8 * 5, 1);
        disk.settle();
        disk.take(0).map(|cqe| cqe.result)
    };
    disk.settle();
    assert_eq!((misuse(), misuse()), (Some(0x0001_0000), None));
    let log =
        |retain: u32| disk.admin(Sqe::new(2, 0).prps(DATA, 0).dw(10, 0x0007_0001 | retain << 15)).status;
    assert_eq!((log(1), misuse()), (0, None));
    assert_eq!((log(0), misuse()), (0, Some(0x0001_0000)));
}

#[test]
fn a_reset_voids_what_was_being_fetched() {
    for refused in [false, true] {
        let disk = enabled();
        if refused {
            disk.rig.gate.shut(ASQ);
        }
        disk.put(0, identify(1, 0));
        disk.reset_meanwhile();
        disk.ring(0);
        disk.settle();
        disk.rig.gate.open();
        disk.set_up();
        assert_eq!(disk.csts(), 0);
        disk.enable();
        assert_eq!(disk.take(0), None);
        assert_eq!(disk.admin(identify(1, 0)).status, 0);
    }
}

#[test]
fn a_fifth_event_request_is_one_too_many() {
    let disk = enabled();
    let ids: Vec<u16> = (0..5).map(|_| disk.put(0, Sqe::new(0x0c, 0))).collect();
    disk.ring(0);
    disk.settle();
    let cqe = disk.take(0).unwrap();
    assert_eq!((cqe.id, cqe.status), (ids[4], 0x4105));
    assert_eq!(disk.take(0), None);
}

#[test]
fn an_abort_reaches_held_commands_and_says_when_it_does_not() {
    let disk = enabled();
    let held = disk.put(0, Sqe::new(0x0c, 0));
    let abort = disk.put(0, Sqe::new(0x08, 0).dw(10, u32::from(held) << 16));
    disk.ring(0);
    disk.settle();
    let (first, second) = (disk.take(0).unwrap(), disk.take(0).unwrap());
    assert_eq!((first.id, first.status), (held, 0x0007));
    assert_eq!((second.id, second.status, second.result), (abort, 0, 0));
    let missed = disk.admin(Sqe::new(0x08, 0).dw(10, 0x7777_0003));
    assert_eq!((missed.status, missed.result), (0, 1));
}

#[test]
fn an_abort_that_cannot_be_told_beside_its_own_answer_aborts_nothing() {
    let disk = enabled();
    let held = disk.put(0, Sqe::new(0x0c, 0));
    disk.ring(0);
    disk.settle();
    // All but one entry of the completion queue.
    (0..ENTRIES - 2).for_each(|_| _ = disk.put(0, identify(1, 0)));
    disk.ring(0);
    disk.settle();
    let abort = || {
        let id = disk.put(0, Sqe::new(0x08, 0).dw(10, u32::from(held) << 16));
        disk.ring(0);
        disk.settle();
        id
    };
    let first = abort();
    let done: Vec<_> = (0..ENTRIES - 1).map(|_| disk.take(0).expect("a completion")).collect();
    let last = done.last().unwrap();
    assert_eq!((last.id, last.status, last.result), (first, 0, 1));
    disk.settle();
    assert_eq!(disk.take(0), None);
    let second = abort();
    let done = [disk.take(0), disk.take(0)].map(|cqe| cqe.map(|cqe| (cqe.id, cqe.status, cqe.result)));
    assert_eq!(done, [Some((held, 0x0007, 0)), Some((second, 0, 0))]);
}

#[test]
fn what_is_done_to_registers_against_the_book_is_said() {
    let disk = enabled();
    let clauses = || disk.nvme.take_unpredictable().iter().map(|one| one.clause).collect::<Vec<_>>();
    assert_eq!(clauses(), [""; 0]);
    disk.rig.write32(BAR + 0x14, 0x0046_0081);
    assert_eq!((clauses(), clauses()), (vec![clause::LIVE_CONFIGURATION], vec![]));
    assert!(disk.rig.ear.heard("model.nvme unpredictable: clause=NVMe 1.4, 3.1.5"));
}

#[test]
fn an_id_that_is_in_use_is_a_conflict() {
    let disk = enabled();
    disk.put_as(0, Sqe::new(0x0c, 0), 0x99);
    disk.ring(0);
    disk.settle();
    disk.put_as(0, identify(1, 0), 0x99);
    disk.ring(0);
    disk.settle();
    assert_eq!(disk.take(0).map(|cqe| (cqe.id, cqe.status)), Some((0x99, 0x4003)));
    disk.put_as(0, identify(1, 0), 0x88);
    disk.put_as(0, identify(1, 0), 0x88);
    disk.ring(0);
    disk.settle();
    assert_eq!([disk.take(0), disk.take(0)].map(|cqe| cqe.unwrap().status), [0, 0x4003]);
}

#[test]
fn the_admin_queues_wrap_and_the_phase_changes() {
    let disk = enabled();
    for round in 0..3 * ENTRIES {
        assert_eq!(disk.admin(identify(1, 0)).status, 0, "round {round}");
    }
    let word = u32::from_le_bytes(disk.read(ACQ + 12, 4).try_into().unwrap());
    assert_eq!(word >> 16 & 1, 1);
}

#[test]
fn larger_memory_pages_change_what_a_prp_covers() {
    let disk = DiskRig::new(vec![0; 512]);
    disk.rig.write32(BAR + 0x24, 0x0007_0007);
    disk.rig.write32(BAR + 0x28, ASQ as u32);
    disk.rig.write32(BAR + 0x30, ACQ as u32);
    disk.rig.write32(BAR + 0x14, 0x0046_0201);
    disk.settle();
    assert_eq!(disk.csts(), 1);
    assert_eq!(disk.admin(identify(1, 0).prps(DATA + 0xe000, 0)).status, 0);
    assert_eq!(disk.admin(identify(1, 0).prps(DATA + 0xf800, DATA + 0x1000)).status, 0x4013);
    let create = Sqe::new(5, 0).dw(10, 0x0007_0001).dw(11, 1);
    assert_eq!(disk.admin(create.prps(CQ + 0x1000, 0)).status, 0x4013);
    assert_eq!(disk.admin(create.prps(CQ, 0)).status, 0);
}
