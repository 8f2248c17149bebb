//! Memory that cannot be had, and hardware that does not confirm.

use std::sync::Arc;

use model_cpu::TlbPolicy;
use portcullis::core::iommu::SyncError;
use portcullis::core::mm::{MmFaultError, ProcessMemory};
use portcullis::types::{Iova, IovaRange, Pa, Perms};

use super::bench::{Bench, Device, R, RW, at, mapping, part, read};
use super::maps::Scripted;
use crate::process::listeners::Listeners;
use crate::process::{Mapping, MmError, Process, Source, UserError};

const LOST: SyncError = SyncError::Failed { code: 3 };

/// A process with pages of ones that it may write, and a device that shares them and has touched none yet.
struct Shared {
    bench: Bench,
    process: Arc<Process>,
    range: IovaRange,
    device: Arc<Device>,
}

impl Shared {
    fn new(seed: u64, pages: usize) -> Self {
        let bench = Bench::new(seed);
        let process = bench.process();
        let ones = vec![1; pages * 0x1000];
        let range = process.map(&mapping(ones.len() as u64, RW, Source::Anonymous)).unwrap();
        process.write(range.first(), &ones).unwrap();
        let (device, _) = Device::bind(&bench, &process, TlbPolicy::holding(1));
        Self { bench, process, range, device }
    }
}

/// Lets the n-th request for memory fail, for each n until `work` needs no more of them; `work` answers whether it succeeded. After each failure
/// what `state` sees must be as before.
fn at_every_request<S: PartialEq + core::fmt::Debug>(
    bench: &Bench,
    state: impl Fn() -> S,
    mut work: impl FnMut() -> bool,
) -> u64 {
    for requests in 0..100 {
        let before = state();
        bench.bus.cpu().heap().fail_after(requests);
        if work() {
            // Used up, so that it strikes nobody else.
            bench.bus.cpu().heap().fail_after(u64::MAX / 2);
            return requests;
        }
        assert_eq!(state(), before, "after request {requests} failed");
    }
    panic!("it never succeeds");
}

fn is_out_of_memory(result: Result<(), UserError>) -> bool {
    match result {
        Ok(()) => false,
        Err(UserError::Fault { why: MmFaultError::NoMemory, .. }) => true,
        Err(other) => panic!("{other:?}"),
    }
}

#[test]
fn a_fault_without_memory_changes_nothing() {
    let bench = Bench::new(1);
    let process = bench.process();
    let file = bench.kernel.open(Box::new(Scripted { bytes: vec![3; 0x1000], ..Scripted::default() }));
    let sources = [
        Source::Anonymous,
        Source::SharedAnonymous,
        Source::Stack { limit_bytes: 0x10_0000 },
        Source::Private { file, offset_bytes: 0 },
    ];
    for source in sources {
        let range = process.map(&mapping(0x1000, RW, source.clone())).unwrap();
        let below = if matches!(source, Source::Stack { .. }) { 0x3000 } else { 0 };
        let to = Iova::new(range.first().get() - below);
        let state = || {
            let usage = process.usage();
            (usage.areas, usage.resident_pages, process.state().areas.find(to.get()).is_some())
        };
        let failed = at_every_request(&bench, state, || !is_out_of_memory(process.write(to, &[1])));
        assert!(failed >= 1, "{source:?}");
        assert_eq!(read(&process, to, 1), [1]);
        process.unmap(range).unwrap();
    }
    drop(process);
}

#[test]
fn a_copy_without_memory_leaves_both_with_what_they_had() {
    let bench = Bench::new(2);
    let parent = bench.process();
    let range = parent.map(&mapping(0x1000, RW, Source::Anonymous)).unwrap();
    parent.write(range.first(), &[4; 8]).unwrap();
    let child = parent.fork().unwrap();
    let both = || (read(&parent, range.first(), 8), read(&child, range.first(), 8));
    let failed = at_every_request(&bench, both, || !is_out_of_memory(parent.write(range.first(), &[5])));
    assert!(failed >= 1);
    assert_eq!(both().1, [4; 8]);
    drop((parent, child));
    bench.assert_clean();
}

#[test]
fn a_process_or_fork_without_memory_is_not_made() {
    let bench = Bench::new(3);
    let used = || bench.used().live_bytes;
    let mut made: Option<Arc<Process>> = None;
    let attempt = |result: Result<Arc<Process>, MmError>, made: &mut Option<Arc<Process>>| match result {
        Ok(process) => {
            *made = Some(process);
            true
        }
        Err(error) => {
            assert_eq!(error, MmError::NoMemory);
            false
        }
    };
    assert!(at_every_request(&bench, used, || attempt(Process::new(&bench.kernel), &mut made)) >= 1);
    let parent = made.take().unwrap();
    let range = parent.map(&mapping(0x1000, RW, Source::Anonymous)).unwrap();
    parent.write(range.first(), &[1]).unwrap();
    assert!(at_every_request(&bench, used, || attempt(parent.fork(), &mut made)) >= 1);
    drop((parent, made));
    bench.assert_clean();
}

#[test]
fn pages_whose_invalidation_was_not_confirmed_are_kept_until_the_release_is() {
    let Shared { bench, process, range, device } = Shared::new(4, 4);
    device.write(range.first(), &[2]).unwrap();
    let live = bench.used().live_bytes;
    *device.failing.lock().unwrap() = Some(LOST);
    assert_eq!(process.unmap(part(range, 0, 0x2000)), Err(MmError::Unconfirmed(LOST)));
    assert_eq!(bench.used().live_bytes, live, "kept");
    assert_eq!(
        device.write(range.first(), &[3]),
        Ok(()),
        "the device still reaches the old page, which is nobody else's"
    );
    let refused = UserError::Fault { at: range.first(), why: MmFaultError::NoArea };
    assert_eq!(process.read(range.first(), &mut [0]), Err(refused));
    assert_eq!(process.protect(part(range, 0x2000, 0x1000), R), Err(MmError::Unconfirmed(LOST)));
    assert_eq!(process.fork().map(|_| ()), Err(MmError::NotForked(LOST)));
    *device.failing.lock().unwrap() = None;
    assert_eq!(read(&process, at(range, 0x2000), 1), [1]);
    process.exit();
    process.unpin_asid();
    bench.assert_clean();
}

#[test]
fn a_release_that_was_not_confirmed_keeps_everything_for_ever() {
    let Shared { bench, process, range, device } = Shared::new(5, 4);
    device.write(range.first(), &[2]).unwrap();
    let live = bench.bus.cpu().heap().live();
    *device.failing.lock().unwrap() = Some(LOST);
    process.exit();
    drop(process);
    assert_eq!(bench.bus.cpu().heap().live(), live);
    assert_eq!(device.write(range.first(), &[3]), Ok(()), "it walks tables that are still there");
    assert_eq!(bench.bus.cpu().ram().freed_use_count(), 0);
}

#[test]
fn what_was_in_doubt_when_a_release_was_not_confirmed_is_kept_for_ever_too() {
    let Shared { bench, process, range, device } = Shared::new(12, 4);
    device.write(range.first(), &[2]).unwrap();
    let live = bench.bus.cpu().heap().live();
    *device.failing.lock().unwrap() = Some(LOST);
    assert_eq!(process.unmap(range), Err(MmError::Unconfirmed(LOST)));
    process.exit();
    drop(process);
    assert_eq!(bench.bus.cpu().heap().live(), live);
    assert_eq!(device.write(range.first(), &[3]), Ok(()), "the page that it remembers is nobody else's");
    assert_eq!(bench.bus.cpu().ram().freed_use_count(), 0);
}

#[test]
fn a_page_that_a_device_may_reach_for_ever_is_written_by_no_child() {
    let Shared { bench, process, range, device } = Shared::new(13, 1);
    let child = process.fork().unwrap();
    let mut seen = [0];
    device.read(range.first(), &mut seen).unwrap();
    *device.failing.lock().unwrap() = Some(LOST);
    process.exit();
    drop(process);
    child.write(range.first(), &[2]).unwrap();
    assert_eq!(read(&child, range.first(), 1), [2]);
    assert_eq!(
        (device.read(range.first(), &mut seen), seen),
        (Ok(()), [1]),
        "what the child wrote is its own"
    );
    drop(child);
    assert_eq!(bench.bus.cpu().ram().freed_use_count(), 0);
}

#[test]
fn a_page_that_cannot_be_read_is_an_error_of_its_access_only() {
    let bench = Bench::new(6);
    let process = bench.process();
    let file = bench.kernel.open(Box::new(Scripted { bytes: vec![3; 0x1000], ..Scripted::default() }));
    let range = process.map(&mapping(0x2000, R, Source::Private { file, offset_bytes: 0 })).unwrap();
    let io = UserError::Fault { at: at(range, 0x1000), why: MmFaultError::Io };
    assert_eq!(process.read(range.first(), &mut [0; 0x1001]), Err(io));
    assert_eq!(read(&process, range.first(), 2), [3, 3]);
}

/// A device that remembers that it may write two pages of ones, although they were protected since.
fn in_doubt(seed: u64) -> Shared {
    let shared = Shared::new(seed, 2);
    let Shared { process, range, device, .. } = &shared;
    device.write(range.first(), &[1]).unwrap();
    *device.failing.lock().unwrap() = Some(LOST);
    assert_eq!(process.protect(*range, R), Err(MmError::Unconfirmed(LOST)));
    shared
}

#[test]
fn a_page_that_somebody_may_remember_is_told_again_before_it_goes() {
    let Shared { bench, process, range, device } = in_doubt(7);
    *device.failing.lock().unwrap() = None;
    assert_eq!(process.unmap(range), Ok(()));
    assert_eq!(device.write(range.first(), &[3]), Err(MmFaultError::NoArea));
    process.exit();
    process.unpin_asid();
    bench.assert_clean();
}

#[test]
fn a_page_that_somebody_still_remembers_is_kept_although_it_had_no_entry() {
    let Shared { bench, process, range, device } = in_doubt(8);
    let live = bench.used().live_bytes;
    assert_eq!(process.unmap(range), Err(MmError::Unconfirmed(LOST)));
    assert_eq!(bench.used().live_bytes, live);
    assert_eq!(device.write(range.first(), &[3]), Ok(()), "the old page, which is nobody else's");
    *device.failing.lock().unwrap() = None;
    process.exit();
    process.unpin_asid();
    bench.assert_clean();
}

#[test]
fn a_fork_shares_no_page_that_somebody_remembers_as_writable() {
    let Shared { bench, process, range, device } = in_doubt(9);
    assert_eq!(process.fork().map(|_| ()), Err(MmError::NotForked(LOST)));
    *device.failing.lock().unwrap() = None;
    let child = process.fork().unwrap();
    assert_eq!(device.write(range.first(), &[3]), Err(MmFaultError::Permission));
    assert_eq!(read(&child, range.first(), 1), [1]);
    process.exit();
    process.unpin_asid();
    drop(child);
    drop(process);
    bench.assert_clean();
}

#[test]
fn a_copy_is_told_where_no_entry_is_but_somebody_may_remember_one() {
    for pin in [false, true] {
        let Shared { bench, process, range, device } = Shared::new(10, 1);
        let child = process.fork().unwrap();
        let byte = || {
            let mut byte = [0];
            device.read(range.first(), &mut byte).map(|()| byte[0])
        };
        assert_eq!(byte(), Ok(1));
        *device.failing.lock().unwrap() = Some(LOST);
        assert_eq!(process.protect(range, Perms::empty()), Err(MmError::Unconfirmed(LOST)));
        *device.failing.lock().unwrap() = None;
        process.protect(range, R).unwrap();
        let pinned = pin.then(|| process.pin(range.first(), false).unwrap());
        process.protect(range, RW).unwrap();
        process.write(range.first(), &[2]).unwrap();
        assert_eq!(byte(), Ok(2), "pinned {pin}");
        assert_eq!(read(&child, range.first(), 1), [1]);
        drop(pinned);
        process.exit();
        process.unpin_asid();
        drop(child);
        bench.assert_clean();
    }
}

/// What a process is refused where somebody may remember another entry.
fn refused(at: Iova) -> Result<(), UserError> {
    Err(UserError::Fault { at, why: MmFaultError::Io })
}

#[test]
fn what_is_mapped_where_somebody_may_remember_a_page_has_no_entry_until_he_forgets() {
    let Shared { bench, process, range, device } = Shared::new(12, 1);
    device.write(range.first(), &[2]).unwrap();
    *device.failing.lock().unwrap() = Some(LOST);
    assert_eq!(process.unmap(range), Err(MmError::Unconfirmed(LOST)));
    let again = Mapping { at: Some(range.first()), ..mapping(0x1000, RW, Source::Anonymous) };
    process.map(&again).unwrap();
    assert_eq!(process.write(range.first(), &[3]), refused(range.first()));
    assert_eq!(device.write(range.first(), &[4]), Ok(()), "the old page, which is nobody else's");
    *device.failing.lock().unwrap() = None;
    assert_eq!(read(&process, range.first(), 1), [0], "a page of its own");
    device.write(range.first(), &[5]).unwrap();
    assert_eq!(read(&process, range.first(), 1), [5]);
    assert_eq!(device.unpredictable(), 0, "no live entry was changed");
    process.exit();
    process.unpin_asid();
    bench.assert_clean();
}

#[test]
fn registers_have_no_entry_where_somebody_may_remember_a_page() {
    let Shared { bench, process, range, device } = Shared::new(13, 1);
    device.write(range.first(), &[2]).unwrap();
    *device.failing.lock().unwrap() = Some(LOST);
    assert_eq!(process.unmap(range), Err(MmError::Unconfirmed(LOST)));
    // No device answers there.
    let registers = Source::Registers { first: Pa::new(0x1000_0000) };
    process.map(&Mapping { at: Some(range.first()), ..mapping(0x1000, RW, registers) }).unwrap();
    assert_eq!(process.read(range.first(), &mut [0]), refused(range.first()));
    *device.failing.lock().unwrap() = None;
    let entered = Err(UserError::Abort { at: range.first() });
    assert_eq!(process.read(range.first(), &mut [0]), entered, "it has reached the bus");
    process.exit();
    process.unpin_asid();
    bench.assert_clean();
}

#[test]
fn a_copy_takes_no_pages_place_while_somebody_may_remember_that_page() {
    for pin in [false, true] {
        let Shared { bench, process, range, device } = Shared::new(14, 1);
        let child = process.fork().unwrap();
        let byte = || {
            let mut byte = [0];
            device.read(range.first(), &mut byte).map(|()| byte[0])
        };
        assert_eq!(byte(), Ok(1));
        *device.failing.lock().unwrap() = Some(LOST);
        if pin {
            assert_eq!(process.pin(range.first(), true).map(drop), Err(MmFaultError::Io));
        }
        assert_eq!(process.write(range.first(), &[2]), refused(range.first()));
        assert_eq!(byte(), Ok(1), "the page that it shares with the child");
        *device.failing.lock().unwrap() = None;
        process.write(range.first(), &[2]).unwrap();
        assert_eq!((byte(), read(&child, range.first(), 1)), (Ok(2), vec![1]), "pinned {pin}");
        assert_eq!(device.unpredictable(), 0, "no live entry was changed");
        process.exit();
        process.unpin_asid();
        drop(child);
        bench.assert_clean();
    }
}

#[test]
fn who_did_not_confirm_the_release_is_in_doubt_of_all_that_comes_after_it() {
    let bench = Bench::new(11);
    let process = bench.process();
    let range = process.map(&mapping(0x1000, RW, Source::Anonymous)).unwrap();
    let (good, _) = Device::bind(&bench, &process, TlbPolicy::holding(1));
    let (bad, _) = Device::bind(&bench, &process, TlbPolicy::holding(1));
    *bad.failing.lock().unwrap() = Some(LOST);
    let listeners = Listeners::default();
    let ids = [good, bad].map(|device| listeners.add(device).unwrap());
    assert_eq!(listeners.release().0, [ids[0]]);
    // A fault under way takes an entry out before the process has noted what the release came to.
    let doubters = listeners.invalidate(range);
    assert_eq!((doubters.ids, doubters.error), (vec![ids[1]], Some(LOST)));
    (0..2).for_each(|_| process.unpin_asid());
}
