//! Real threads: a kill that completed means that no access by what it removed is still under way.

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use core::time::Duration;
use std::sync::mpsc;
use std::thread;

use model_bus::{Outcome, Translator};
use model_ioda2::Policy;
use portcullis_types::Access;

use crate::harness::{KILL, KILL_ALL, KILL_ONE, Machine, TABLE, TVT, request};

/// Does `change` while an access is under way, then loads a register, and says whether the load waited for the access,
/// which lasts until then, `limit` at most.
fn waited(change: impl Fn(&Machine) + Sync, limit: Duration) -> bool {
    let machine = Machine::new();
    machine.put_be(TABLE, 0x700_0003);
    let over = AtomicBool::new(false);
    let (began, begun) = mpsc::channel();
    let (loaded, load) = mpsc::channel();
    thread::scope(|scope| {
        let (machine, over) = (&machine, &over);
        scope.spawn(move || {
            let outcome = machine.phb.access(&request(0x100, 0, 8, Access::WRITE), &mut |_| {
                began.send(()).unwrap();
                let _ = load.recv_timeout(limit);
                over.store(true, Ordering::SeqCst);
                Ok(())
            });
            assert_eq!(outcome, Outcome::Done);
        });
        begun.recv().unwrap();
        change(machine);
        machine.load(0x800);
        let waited = over.load(Ordering::SeqCst);
        // Nobody listens any more if it waited.
        let _ = loaded.send(());
        waited
    })
}

fn waits(change: impl Fn(&Machine) + Sync) -> bool {
    waited(change, Duration::from_millis(60))
}

#[test]
fn a_load_behind_a_kill_waits_for_accesses_under_way() {
    assert!(waits(|machine| machine.store(KILL, KILL_ALL)));
    assert!(waits(|machine| machine.store(KILL, KILL_ONE | 1)));
}

#[test]
fn a_load_behind_a_change_of_windows_or_pes_waits_as_well() {
    assert!(waits(|machine| machine.ioda(TVT | 2, &[0])));
    assert!(waits(|machine| machine.store(0x168, 0)));
    assert!(waits(|machine| machine.store(0x208, 1 << 63)));
    assert!(waits(|machine| machine.store(0x160, 0)));
    assert!(waits(|machine| machine.store(0x810, 0)));
    assert!(waits(|machine| machine.phb.reset()));
}

#[test]
fn a_load_behind_nothing_waits_for_nobody() {
    assert!(!waited(|_| (), Duration::from_secs(20)));
}

#[test]
fn a_thread_does_not_wait_for_its_own_access() {
    let machine = Machine::new();
    machine.put_be(TABLE, 0x700_0003);
    let outcome = machine.phb.access(&request(0x100, 0, 8, Access::WRITE), &mut |_| {
        machine.store(KILL, KILL_ALL);
        machine.store(0x200, 1 << 63);
        assert_eq!(machine.load(KILL), KILL_ALL, "not complete");
        assert_eq!(machine.load(0x200), 1 << 63, "started");
        Ok(())
    });
    assert_eq!(outcome, Outcome::Done);
    assert_eq!((machine.load(KILL), machine.load(0x200)), (0, 1 << 62));
}

#[test]
fn no_page_is_reached_after_it_was_killed() {
    const OPEN: u64 = 1;
    let machine = Machine::with(Policy::hostile());
    let state = AtomicU64::new(0);
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    let _outcome = machine.phb.access(&request(0x100, 0, 8, Access::WRITE), &mut |_| {
                        assert_eq!(state.load(Ordering::SeqCst), OPEN, "while the page was somebody else's");
                        thread::yield_now();
                        assert_eq!(state.load(Ordering::SeqCst), OPEN, "while the page was somebody else's");
                        Ok(())
                    });
                }
            });
        }
        for _ in 0..300 {
            state.store(OPEN, Ordering::SeqCst);
            machine.put_be(TABLE, 0x700_0003);
            machine.kill(KILL_ONE | 1);
            machine.unfreeze();
            thread::yield_now();
            machine.put_be(TABLE, 0);
            machine.store(KILL, KILL_ONE | 1);
            machine.load(KILL);
            state.store(0, Ordering::SeqCst);
            thread::yield_now();
        }
        done.store(true, Ordering::Relaxed);
    });
    assert!(machine.phb.counters().granted > 0);
}

#[test]
fn two_threads_that_kill_from_within_accesses_do_not_wait_for_each_other() {
    let machine = Machine::new();
    machine.put_be(TABLE, 0x700_0003);
    let barrier = std::sync::Barrier::new(2);
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let outcome = machine.phb.access(&request(0x100, 0, 8, Access::WRITE), &mut |_| {
                    barrier.wait();
                    machine.store(KILL, KILL_ALL);
                    machine.load(KILL);
                    Ok(())
                });
                assert_eq!(outcome, Outcome::Done);
            });
        }
    });
    assert_eq!(machine.load(KILL), 0);
}
