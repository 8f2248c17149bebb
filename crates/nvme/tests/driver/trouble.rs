//! A controller that cannot be trusted, and a driver that gives everything back.

use crate::fake::{Quirks, Rig};
use portcullis_core::dma::DmaUnmapError;
use portcullis_hal::Clock;
use portcullis_nvme::{
    BadCompletion, BadIdentity, Config, Direction, Interrupt, NvmeError, Request, Unsupported, Wait,
};

/// One command of one block, by a driver that has come up.
fn read_one(quirks: Quirks) -> (Rig, NvmeError) {
    let rig = Rig::new(quirks);
    let mut nvme = rig.start(&Config::default()).expect("the quirk is about I/O");
    let error = nvme.read(0, &[rig.buffer(0x200)]).expect_err("the quirk is an error");
    drop(nvme);
    rig.assert_nothing_is_out();
    (rig, error)
}

fn mangled(mangle: fn(&mut [u32; 4])) -> BadCompletion {
    match read_one(Quirks { mangle: Some(mangle), ..Quirks::default() }).1 {
        NvmeError::BadCompletion { queue: 1, why, .. } => why,
        other => panic!("{other}"),
    }
}

#[test]
fn a_lost_interrupt_is_told_from_a_lost_completion() {
    let (_, lost) = read_one(Quirks { silent_vector: Some(Rig::IO_VECTOR), ..Quirks::default() });
    assert_eq!(lost, NvmeError::LostInterrupt { queue: 1, vector: Rig::IO_VECTOR });
    let (_, nothing) = read_one(Quirks { drops_io: true, ..Quirks::default() });
    assert_eq!(nothing, NvmeError::Timeout { waiting_for: Wait::Completion { queue: 1 }, csts: 1 });
}

#[test]
fn an_interrupt_from_before_does_not_stand_for_the_one_that_is_lost() {
    let rig = Rig::new(Quirks { silent_vector: Some(Rig::IO_VECTOR), eager: true, ..Quirks::default() });
    let mut nvme = rig.start(&Config::default()).unwrap();
    rig.signal(Rig::IO_VECTOR);
    let lost = nvme.read(0, &[rig.buffer(0x200)]);
    assert_eq!(lost, Err(NvmeError::LostInterrupt { queue: 1, vector: Rig::IO_VECTOR }));
}

#[test]
fn a_completion_that_makes_no_sense_is_not_believed() {
    assert_eq!(mangled(|words| words[2] ^= 0x2_0000), BadCompletion::Queue);
    assert_eq!(mangled(|words| words[3] ^= 5), BadCompletion::Command);
    assert_eq!(mangled(|words| words[3] |= 0x3ff), BadCompletion::Command);
    assert_eq!(mangled(|words| words[3] ^= 0x400), BadCompletion::Command);
    assert_eq!(mangled(|words| words[2] |= 0xffff), BadCompletion::Head);
    assert_eq!(mangled(|words| words[2] += 3), BadCompletion::Head);
}

#[test]
fn a_completion_that_comes_twice_is_not_believed() {
    std::thread_local! {
        static FIRST: core::cell::Cell<Option<u32>> = const { core::cell::Cell::new(None) };
    }
    let again = |words: &mut [u32; 4]| {
        let first = FIRST.get().unwrap_or(words[3] & 0xffff);
        FIRST.set(Some(first));
        words[3] = words[3] & !0xffff | first;
    };
    let rig = Rig::new(Quirks { mangle: Some(again), ..Quirks::default() });
    let mut nvme = rig.start(&Config::default()).unwrap();
    let buffers = [(); 2].map(|()| [rig.buffer(0x200)]);
    let requests = buffers.each_ref().map(|buffers| Request { direction: Direction::Read, lba: 0, buffers });
    let error = nvme.transfer(&requests).unwrap_err();
    assert!(matches!(error, NvmeError::BadCompletion { why: BadCompletion::Command, .. }), "{error}");
}

#[test]
fn a_head_that_goes_back_is_not_believed() {
    let back = |words: &mut [u32; 4]| {
        if words[2] & 0xffff == 2 {
            words[2] &= !0xffff;
        }
    };
    let rig = Rig::new(Quirks { mangle: Some(back), ..Quirks::default() });
    let mut nvme = rig.start(&Config::default()).unwrap();
    let buffer = rig.buffer(0x200);
    nvme.read(0, &[buffer]).unwrap();
    let error = nvme.read(0, &[buffer]).unwrap_err();
    assert!(matches!(error, NvmeError::BadCompletion { why: BadCompletion::Head, .. }), "{error}");
}

#[test]
fn a_completion_in_the_wrong_phase_has_not_arrived() {
    let (_, error) = read_one(Quirks { mangle: Some(|words| words[3] ^= 1 << 16), ..Quirks::default() });
    assert_eq!(error, NvmeError::Timeout { waiting_for: Wait::Completion { queue: 1 }, csts: 1 });
}

#[test]
fn a_controller_that_fails_or_vanishes_is_named() {
    let (_, failed) = read_one(Quirks { fails: true, ..Quirks::default() });
    assert_eq!(failed, NvmeError::Fatal { csts: 3 });
    let rig = Rig::new(Quirks { vanishes: true, ..Quirks::default() });
    let mut nvme = rig.start(&Config::default()).unwrap();
    assert_eq!(nvme.read(0, &[rig.buffer(0x200)]), Err(NvmeError::Gone));
    assert_eq!(nvme.shutdown(), Err(NvmeError::Gone));
    rig.assert_no_memory_is_out();
}

#[test]
fn after_doubt_nothing_is_done_any_more_and_everything_goes_back() {
    let rig = Rig::new(Quirks { drops_io: true, ..Quirks::default() });
    let mut nvme = rig.start(&Config::default()).unwrap();
    let buffer = rig.buffer(0x1000);
    nvme.read(0, &[buffer]).unwrap_err();
    assert!(!rig.controller.is_enabled(), "it was stopped before its buffer was taken back");
    assert_eq!(nvme.read(0, &[buffer]), Err(NvmeError::Stopped));
    assert_eq!(nvme.flush(), Err(NvmeError::Stopped));
    assert_eq!(nvme.shutdown(), Ok(()));
    rig.assert_nothing_is_out();
}

#[test]
fn a_refused_command_is_an_error_and_the_driver_goes_on() {
    let rig = Rig::new(Quirks { mdts: 1, refuses_block: Some(40), ..Quirks::default() });
    let mut nvme = rig.start(&Config::default()).unwrap();
    let before = rig.domain().page_count();
    let buffer = rig.buffer(0x1_0000);
    let Err(NvmeError::Command { queue: 1, opcode: 2, status }) = nvme.read(0, &[buffer]) else {
        panic!("the bad block was read");
    };
    assert_eq!((status.code_type(), status.code(), status.do_not_retry()), (2, 0x81, true));
    assert_eq!(rig.domain().page_count(), before);
    nvme.read(64, &[buffer]).unwrap();
    assert_eq!(rig.bytes(buffer), rig.disk(64, 0x1_0000));
}

#[test]
fn a_mapping_that_fails_midway_leaves_no_other_behind() {
    let rig = Rig::new(Quirks::default());
    let mut nvme = rig.start(&Config::default()).unwrap();
    let before = rig.domain().page_count();
    let (first, second) = ([rig.buffer(0x1000)], [rig.buffer(0x1000)]);
    let requests = [&first, &second].map(|buffers| portcullis_nvme::Request {
        direction: portcullis_nvme::Direction::Read,
        lba: 0,
        buffers,
    });
    rig.domain().set_maps_left(1);
    assert!(matches!(nvme.transfer(&requests), Err(NvmeError::Map(_))));
    rig.domain().set_maps_left(-1);
    assert_eq!(rig.domain().page_count(), before);
    nvme.transfer(&requests).unwrap();
}

#[test]
fn an_unmap_that_is_not_confirmed_is_an_error_though_the_data_came() {
    let rig = Rig::new(Quirks::default());
    let mut nvme = rig.start(&Config::default()).unwrap();
    let buffer = rig.buffer(0x1000);
    rig.domain().set_deaf(true);
    let error = nvme.read(0, &[buffer]).unwrap_err();
    assert!(matches!(error, NvmeError::Unmap(DmaUnmapError::NotFlushed(_))), "{error}");
    rig.domain().set_deaf(false);
    nvme.read(0, &[buffer]).unwrap();
    assert_eq!(nvme.shutdown(), Ok(()));
    rig.assert_nothing_is_out();
}

#[test]
fn a_shutdown_that_is_not_confirmed_says_so_and_its_memory_is_kept_back() {
    let rig = Rig::new(Quirks::default());
    let nvme = rig.start(&Config::default()).unwrap();
    let out = rig.machine.live_bytes();
    rig.domain().set_deaf(true);
    let error = nvme.shutdown().unwrap_err();
    assert!(matches!(error, NvmeError::Unmap(DmaUnmapError::NotFlushed(_))), "{error}");
    assert_eq!(rig.machine.live_bytes(), out, "what the device may still reach is nobody else's");
    rig.domain().set_deaf(false);
    rig.flush();
    rig.assert_nothing_is_out();
}

#[test]
fn a_start_that_fails_leaves_nothing_behind() {
    let quirks = |refuses_admin| Quirks { refuses_admin: Some(refuses_admin), ..Quirks::default() };
    for opcode in [0x06, 0x09, 0x05, 0x01] {
        let rig = Rig::new(quirks(opcode));
        let error = rig.start(&Config::default()).unwrap_err();
        assert!(matches!(error, NvmeError::Command { queue: 0, opcode: refused, .. } if refused == opcode));
        rig.assert_nothing_is_out();
    }
    let rig = Rig::new(Quirks { never_ready: true, ..Quirks::default() });
    let late = NvmeError::Timeout { waiting_for: Wait::Ready, csts: 0 };
    assert_eq!(rig.start(&Config::default()).map(drop), Err(late));
    rig.assert_nothing_is_out();
    let rig = Rig::new(Quirks { silent_vector: Some(0), ..Quirks::default() });
    let lost = NvmeError::LostInterrupt { queue: 0, vector: 0 };
    assert_eq!(rig.start(&Config::default()).map(drop), Err(lost));
    rig.assert_nothing_is_out();
}

#[test]
fn a_start_that_runs_out_of_mappings_at_any_step_leaves_nothing_behind() {
    let mut failures = 0;
    for maps in 0.. {
        let rig = Rig::new(Quirks::default());
        rig.domain().set_maps_left(maps);
        let Err(error) = rig.start(&Config::default()).map(drop) else { break };
        assert!(matches!(error, NvmeError::Map(_)), "{error}");
        rig.assert_nothing_is_out();
        failures += 1;
    }
    // Both admin queues, the identify page, both I/O queues, the lists.
    assert_eq!(failures, 6);
}

#[test]
fn a_bogus_identity_is_refused() {
    let refused = |quirks| {
        let rig = Rig::new(quirks);
        let error = rig.start(&Config::default()).unwrap_err();
        rig.assert_nothing_is_out();
        error
    };
    let identity = |falsify| Quirks { identity: Some(falsify), ..Quirks::default() };
    let no_namespace = refused(identity(|cns, page| page[516] = if cns == 1 { 0 } else { page[516] }));
    assert_eq!(no_namespace, NvmeError::BadIdentity(BadIdentity::NoNamespace { namespace: 1, count: 0 }));
    let tiny = refused(identity(|cns, page| page[130] = if cns == 0 { 3 } else { page[130] }));
    assert_eq!(tiny, NvmeError::BadIdentity(BadIdentity::BlockSize { lg2: 3 }));
    let far = Quirks { cap: Some(0x000f_002f_0101_003f & !(0xf << 48)), ..Quirks::default() };
    assert!(matches!(refused(far), NvmeError::Unsupported(Unsupported::Doorbells { .. })));
}

#[test]
fn a_controller_that_firmware_left_enabled_is_reset_first() {
    let rig = Rig::new(Quirks::default());
    rig.controller.leave_enabled();
    let mut nvme = rig.start(&Config::default()).unwrap();
    nvme.read(0, &[rig.buffer(0x200)]).unwrap();
    let rig = Rig::new(Quirks { never_stops: true, ..Quirks::default() });
    rig.controller.leave_enabled();
    let stuck = NvmeError::Timeout { waiting_for: Wait::NotReady, csts: 1 };
    assert_eq!(rig.start(&Config::default()).map(drop), Err(stuck));
    rig.assert_no_memory_is_out();
}

#[test]
fn a_controller_that_is_on_its_way_up_is_not_disabled_before_it_is_there() {
    let rig = Rig::new(Quirks::default());
    rig.controller.leave_enabling(100);
    drop(rig.start(&Config::default()).unwrap());
    assert!(!rig.controller.state().undefined);
    // One that never is has its time; there is nothing else to be done with it then.
    let rig = Rig::new(Quirks::default());
    rig.controller.leave_enabling(u32::MAX);
    drop(rig.start(&Config::default()).unwrap());
    assert!(rig.machine.now_ns() >= 500_000_000);
}

#[test]
fn a_controller_has_the_time_to_put_its_cache_away_that_it_says_and_a_second_at_least() {
    let eight_seconds: fn(u32, &mut [u8]) =
        |_, page| page[88..92].copy_from_slice(&8_000_000u32.to_le_bytes());
    for (identity, puts_away_in) in [(None, 900), (Some(eight_seconds), 7_900)] {
        let rig = Rig::new(Quirks { identity, puts_away_in, ..Quirks::default() });
        assert_eq!(rig.start(&Config::default()).unwrap().shutdown(), Ok(()));
        assert!(rig.controller.state().shut_down);
        rig.assert_nothing_is_out();
    }
    // It is not believed whatever it says.
    let hours: fn(u32, &mut [u8]) = |_, page| page[88..92].fill(0xff);
    for (identity, most_ns) in [(None, 1_100_000_000), (Some(hours), 60_100_000_000)] {
        let rig = Rig::new(Quirks { identity, puts_away_in: u32::MAX, ..Quirks::default() });
        let late = NvmeError::Timeout { waiting_for: Wait::Shutdown, csts: 0b0101 };
        assert_eq!(rig.start(&Config::default()).unwrap().shutdown(), Err(late));
        assert!(rig.machine.now_ns() < most_ns);
        rig.assert_nothing_is_out();
    }
}

#[test]
fn a_controller_that_does_not_delete_its_queues_puts_its_cache_away_all_the_same() {
    for opcode in [0x00, 0x04] {
        let rig = Rig::new(Quirks { refuses_admin: Some(opcode), ..Quirks::default() });
        let refused = rig.start(&Config::default()).unwrap().shutdown().unwrap_err();
        assert!(
            matches!(refused, NvmeError::Command { queue: 0, opcode: at, .. } if at == opcode),
            "{refused}"
        );
        assert!(rig.controller.state().shut_down);
        rig.assert_nothing_is_out();
    }
}

#[test]
fn what_a_controller_that_does_not_stop_was_given_is_kept_where_addresses_are_physical() {
    let stuck = NvmeError::Timeout { waiting_for: Wait::NotReady, csts: 1 };
    let rig = Rig::physical(Quirks { drops_io: true, never_stops: true, ..Quirks::default() });
    let mut nvme = rig.start(&Config::default()).unwrap();
    let buffer = rig.buffer(0x1000);
    let out = rig.machine.live_bytes();
    assert_eq!(nvme.read(0, &[buffer]), Err(stuck), "it may write there yet");
    assert_eq!(nvme.shutdown(), Err(stuck));
    assert_eq!(rig.machine.live_bytes(), out);
    // So is what was given to one that did not come up.
    let rig = Rig::physical(Quirks { refuses_admin: Some(0x06), never_stops: true, ..Quirks::default() });
    let before = rig.machine.live_bytes();
    assert!(matches!(rig.start(&Config::default()).map(drop), Err(NvmeError::Command { .. })));
    assert!(rig.machine.live_bytes() > before);
    // One that stops gives everything back, and so does one behind an IOMMU, whatever it does.
    let rig = Rig::physical(Quirks { drops_io: true, ..Quirks::default() });
    let mut nvme = rig.start(&Config::default()).unwrap();
    let late = NvmeError::Timeout { waiting_for: Wait::Completion { queue: 1 }, csts: 1 };
    assert_eq!(nvme.read(0, &[rig.buffer(0x1000)]), Err(late));
    drop(nvme);
    rig.assert_nothing_is_out();
    let rig = Rig::new(Quirks { drops_io: true, never_stops: true, ..Quirks::default() });
    let mut nvme = rig.start(&Config::default()).unwrap();
    assert_eq!(nvme.read(0, &[rig.buffer(0x1000)]), Err(late));
    assert_eq!(nvme.shutdown(), Err(stuck));
    rig.assert_no_memory_is_out();
}

#[test]
fn a_controller_that_does_not_stop_reaches_no_buffer_though_unmaps_are_flushed_later() {
    let rig = Rig::lazy(Quirks { drops_io: true, never_stops: true, ..Quirks::default() });
    let mut nvme = rig.start(&Config::default()).unwrap();
    let before = rig.domain().flushes();
    nvme.read(0, &[rig.buffer(0x1000)]).unwrap_err();
    assert_eq!(rig.domain().flushes(), before + 1);
}

#[test]
fn shutdown_lets_the_controller_put_its_cache_away_and_gives_everything_back() {
    let rig = Rig::new(Quirks::default());
    let mut nvme = rig.start(&Config::default()).unwrap();
    nvme.read(0, &[rig.buffer(0x200)]).unwrap();
    assert_eq!(nvme.shutdown(), Ok(()));
    assert!(rig.controller.state().shut_down);
    rig.assert_nothing_is_out();
}

#[test]
fn a_driver_that_is_dropped_gives_everything_back() {
    let rig = Rig::new(Quirks::default());
    drop(rig.start(&Config::default()).unwrap());
    rig.assert_nothing_is_out();
}

#[test]
fn a_configuration_that_cannot_be_is_refused() {
    let rig = Rig::new(Quirks::default());
    for config in [
        Config { queue_depth: 0, ..Config::default() },
        Config { queue_depth: 1024, ..Config::default() },
        Config { namespace: 0, ..Config::default() },
        Config { max_transfer_bytes: 0, ..Config::default() },
    ] {
        assert!(matches!(rig.start(&config).map(drop), Err(NvmeError::BadConfig { .. })), "{config:?}");
    }
    let none = Config { max_transfer_bytes: 511, ..Config::default() };
    let error = rig.start(&none).unwrap_err();
    assert_eq!(error, NvmeError::Unsupported(Unsupported::BlockSize { lg2: 9 }));
    rig.assert_nothing_is_out();
}

#[test]
fn asking_an_interrupt_clears_it() {
    let rig = Rig::new(Quirks::default());
    rig.signal(2);
    let wire = rig.controller.wire(2);
    assert!(wire.take() && !wire.take());
}
