//! Data through the driver and back: scatter lists, splitting, many commands in flight, order of accesses.

use crate::fake::{Op, Quirks, Rig};
use portcullis_hal::DmaMemory;
use portcullis_nvme::{Config, Direction, NvmeError, Request};
use portcullis_types::Iova;

#[test]
fn what_is_read_is_what_the_disk_holds() {
    let rig = Rig::new(Quirks::default());
    let mut nvme = rig.start(&Config::default()).unwrap();
    let (buffer, disk) = (rig.buffer(0x3000), rig.disk(40, 0x3000));
    nvme.read(40, &[buffer]).unwrap();
    assert_eq!(rig.bytes(buffer), disk);
}

#[test]
fn the_device_may_be_given_any_address() {
    let rig = Rig::new(Quirks::default());
    assert_eq!(rig.device().dma_limit(), Iova::new(0xffff_ffff), "until its driver says more");
    let _nvme = rig.start(&Config::default()).unwrap();
    assert_eq!(rig.device().dma_limit(), Iova::new(u64::MAX));
    assert_eq!(rig.device().coherent_limit(), Iova::new(u64::MAX));
}

#[test]
fn what_is_written_is_on_the_disk_and_nothing_else_changes() {
    let rig = Rig::new(Quirks::default());
    let mut nvme = rig.start(&Config::default()).unwrap();
    let before = rig.disk(0, 0x4000);
    let buffer = rig.buffer(0x1000);
    rig.machine.write(buffer.first(), &[0xa5; 0x1000]);
    nvme.write(8, &[buffer]).unwrap();
    nvme.flush().unwrap();
    let after = rig.disk(0, 0x4000);
    assert_eq!(after[0x1000..0x2000], [0xa5; 0x1000]);
    assert_eq!((&after[..0x1000], &after[0x2000..]), (&before[..0x1000], &before[0x2000..]));
}

#[test]
fn a_scatter_list_of_odd_pieces_is_filled_in_its_order() {
    let rig = Rig::new(Quirks::default());
    let mut nvme = rig.start(&Config::default()).unwrap();
    // Pieces that begin and end inside pages, and one that does neither.
    let whole = rig.buffer(0x10000);
    let pieces = [(0x1e00, 0x200), (0x5000, 0x2000), (0x8200, 0x400), (0xc000, 0x1200), (0x3000, 0x200)];
    let buffers = pieces.map(|(offset, len_bytes)| rig.part(whole, offset, len_bytes));
    nvme.read(3, &buffers).unwrap();
    let read: Vec<u8> = buffers.iter().flat_map(|&buffer| rig.bytes(buffer)).collect();
    assert_eq!(read, rig.disk(3, read.len()));
}

#[test]
fn a_long_transfer_is_cut_at_what_the_controller_takes() {
    let rig = Rig::new(Quirks { mdts: 3, ..Quirks::default() });
    let mut nvme = rig.start(&Config::default()).unwrap();
    assert_eq!(nvme.max_command_bytes(), 0x8000);
    let buffer = rig.buffer(0x1_9000);
    nvme.read(0, &[buffer]).unwrap();
    assert_eq!(rig.bytes(buffer), rig.disk(0, 0x1_9000));
    let blocks: Vec<u32> = rig.controller.state().commands.iter().map(|words| words[12] + 1).collect();
    assert_eq!(blocks, [64, 64, 64, 8]);
}

#[test]
fn a_request_stays_mapped_until_its_last_command_has_finished() {
    let rig = Rig::new(Quirks { mdts: 3, slow: true, ..Quirks::default() });
    let mut nvme = rig.start(&Config::default()).unwrap();
    let buffer = rig.buffer(0x1_9000);
    nvme.read(0, &[buffer]).unwrap();
    assert_eq!(rig.bytes(buffer), rig.disk(0, 0x1_9000));
    let state = rig.controller.state();
    assert_eq!((state.commands.len(), state.faults), (4, 0));
}

#[test]
fn a_list_longer_than_a_page_goes_on_in_the_next() {
    let rig = Rig::new(Quirks::default());
    let config = Config { max_transfer_bytes: 6 << 20, queue_depth: 1, ..Config::default() };
    let mut nvme = rig.start(&config).unwrap();
    let buffer = rig.part(rig.buffer((6 << 20) + 0x1000), 0x200, 6 << 20);
    nvme.read(100, &[buffer]).unwrap();
    assert!(rig.bytes(buffer) == rig.disk(100, 6 << 20), "the bytes differ");
    assert_eq!(rig.controller.state().commands.len(), 1, "one command, so a list of three pages");
}

#[test]
fn as_many_commands_are_in_flight_as_the_queue_holds() {
    let rig = Rig::new(Quirks { mdts: 1, ..Quirks::default() });
    let mut nvme = rig.start(&Config { queue_depth: 7, ..Config::default() }).unwrap();
    let buffer = rig.buffer(40 * 0x2000);
    nvme.read(0, &[buffer]).unwrap();
    assert_eq!(rig.bytes(buffer), rig.disk(0, 40 * 0x2000));
    let state = rig.controller.state();
    assert_eq!((state.commands.len(), state.most_in_flight), (40, 7));
}

#[test]
fn many_requests_share_the_queue_and_each_gets_its_own_blocks() {
    let rig = Rig::new(Quirks::default());
    let mut nvme = rig.start(&Config { queue_depth: 5, ..Config::default() }).unwrap();
    let buffers: Vec<_> = (0..23).map(|_| [rig.buffer(0x1000)]).collect();
    let lba = |at: usize| (at as u64 * 37) % 1000;
    let requests: Vec<_> = buffers
        .iter()
        .enumerate()
        .map(|(at, buffers)| Request { direction: Direction::Read, lba: lba(at), buffers })
        .collect();
    nvme.transfer(&requests).unwrap();
    for (at, buffer) in buffers.iter().enumerate() {
        assert_eq!(rig.bytes(buffer[0]), rig.disk(lba(at), 0x1000), "request {at}");
    }
    assert!(rig.controller.state().most_in_flight > 1);
}

#[test]
fn small_rings_go_round_many_times() {
    for queue_depth in [1, 2, 3] {
        let rig = Rig::new(Quirks { mdts: 1, ..Quirks::default() });
        let mut nvme = rig.start(&Config { queue_depth, ..Config::default() }).unwrap();
        let buffer = rig.buffer(0x2000 * 90);
        nvme.read(0, &[buffer]).unwrap();
        assert_eq!(rig.bytes(buffer), rig.disk(0, 0x2000 * 90), "depth {queue_depth}");
        assert_eq!(nvme.stats().commands, 90);
    }
}

#[test]
fn a_request_is_mapped_for_its_own_time_only() {
    let rig = Rig::new(Quirks::default());
    let mut nvme = rig.start(&Config::default()).unwrap();
    let before = rig.domain().page_count();
    let buffer = rig.buffer(0x2_0000);
    nvme.read(0, &[buffer]).unwrap();
    nvme.write(0, &[buffer]).unwrap();
    assert_eq!(rig.domain().page_count(), before);
    assert_eq!(rig.controller.state().faults, 0);
}

#[test]
fn no_more_requests_are_mapped_than_are_in_flight() {
    for queue_depth in [1, 8] {
        let rig = Rig::new(Quirks::default());
        let mut nvme = rig.start(&Config { queue_depth, ..Config::default() }).unwrap();
        let at_rest = rig.domain().page_count();
        let buffers: Vec<_> = (0..40).map(|_| [rig.buffer(0x1000)]).collect();
        let request = |buffers| Request { direction: Direction::Read, lba: 0, buffers };
        nvme.transfer(&buffers.iter().map(|buffers| request(&buffers[..])).collect::<Vec<_>>()).unwrap();
        let most = rig.domain().most_pages() - at_rest;
        assert!(most <= usize::from(queue_depth) + 1, "{most} pages at depth {queue_depth}");
    }
}

#[test]
fn what_cannot_be_is_refused_before_anything_is_done() {
    let rig = Rig::new(Quirks::default());
    let mut nvme = rig.start(&Config::default()).unwrap();
    let (good, odd) = (rig.buffer(0x1000), rig.part(rig.buffer(0x1000), 0, 0x300));
    let last = nvme.namespace().block_count - 1;
    let past = NvmeError::OutOfRange { lba: last, block_count: 8, capacity_blocks: last + 1 };
    assert_eq!(nvme.read(last, &[good]), Err(past));
    assert!(matches!(nvme.read(u64::MAX, &[good]), Err(NvmeError::OutOfRange { .. })));
    assert_eq!(nvme.read(0, &[odd]), Err(NvmeError::BadLength { len_bytes: 0x300, block_bytes: 512 }));
    assert_eq!(nvme.write(0, &[]), Err(NvmeError::BadLength { len_bytes: 0, block_bytes: 512 }));
    let half = rig.part(good, 2, 0x200);
    assert!(matches!(nvme.read(0, &[half]), Err(NvmeError::Misaligned { .. })));
    assert_eq!(rig.controller.state().commands.len(), 0);
    nvme.read(last, &[rig.part(good, 0, 0x200)]).unwrap();
}

#[test]
fn an_entry_is_in_memory_before_its_doorbell_rings() {
    let rig = Rig::new(Quirks::default());
    let mut nvme = rig.start(&Config::default()).unwrap();
    rig.machine.take_log();
    nvme.read(0, &[rig.buffer(0x8000)]).unwrap();
    let log = rig.machine.take_log();
    let doorbell = log.iter().position(|&op| op == Op::Register(0x1008)).expect("the tail doorbell rang");
    let writes =
        log[..doorbell].iter().rposition(|op| matches!(op, Op::Write(_))).expect("an entry was written");
    assert!(log[writes..doorbell].contains(&Op::WriteBarrier), "{:?}", &log[writes..=doorbell]);
}

#[test]
fn a_completion_is_read_after_its_phase() {
    let rig = Rig::new(Quirks::default());
    let mut nvme = rig.start(&Config::default()).unwrap();
    rig.machine.take_log();
    nvme.read(0, &[rig.buffer(0x8000)]).unwrap();
    let log = rig.machine.take_log();
    let entries: Vec<usize> = (0..log.len()).filter(|&at| matches!(log[at], Op::Read(_))).collect();
    assert_eq!(entries.len(), 1, "one completion was read");
    let at = entries[0];
    let Op::Read(entry) = log[at] else { unreachable!() };
    let phase = log[..at].iter().rposition(|&op| op == Op::Read32(entry + 12)).expect("its phase was read");
    assert!(log[phase..at].contains(&Op::ReadBarrier), "{:?}", &log[phase..=at]);
}

#[test]
fn where_nothing_snoops_every_word_is_cleaned_or_fetched_anew() {
    let rig = Rig::non_coherent();
    let mut nvme = rig.start(&Config::default()).unwrap();
    rig.machine.take_log();
    nvme.read(0, &[rig.buffer(0x8000)]).unwrap();
    let log = rig.machine.take_log();
    let after = |at: usize, op: Op| log.get(at + 1) == Some(&op);
    let before = |at: usize, op: Op| at > 0 && log[at - 1] == op;
    for (at, op) in log.iter().enumerate() {
        match *op {
            Op::Write(place) => assert!(after(at, Op::Clean(place)), "{at}: {op:x?}"),
            Op::Read(place) | Op::Read32(place) => {
                assert!(before(at, Op::Invalidate(place)), "{at}: {op:x?}")
            }
            _ => {}
        }
    }
    assert!(
        log.iter().any(|op| matches!(op, Op::Write(_))) && log.iter().any(|op| matches!(op, Op::Read(_)))
    );
}
