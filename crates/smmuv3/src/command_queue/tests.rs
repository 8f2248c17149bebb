#![expect(clippy::cast_possible_truncation, reason = "test values are small, registers 32 bits wide")]

extern crate std;

use alloc::vec::Vec;
use core::sync::atomic::Ordering::SeqCst;
use std::thread;

use portcullis_core::iommu::GlobalError;
use portcullis_spec::smmuv3::command::Opcode;
use portcullis_spec::smmuv3::registers::{CMDQ_BASE, CMDQ_CONS, CMDQ_PROD, CR0, Cr0, GERROR, QueueBase};

use super::*;
use crate::testing::{Fake, opcodes};

type Queue = CommandQueue<Fake, Fake>;

/// A queue that the fake hardware consumes.
fn queue(fake: &Arc<Fake>, size_lg2: u8, signalled: bool) -> Queue {
    queue_with_limit(fake, size_lg2, signalled, 100_000)
}

fn queue_with_limit(fake: &Arc<Fake>, size_lg2: u8, signalled: bool, limit_ns: u64) -> Queue {
    let queue = Queue::new(fake.clone(), fake.clone(), 48, size_lg2, signalled, true, limit_ns).unwrap();
    fake.write64(CMDQ_BASE, queue.ring.base_register());
    fake.write32(CR0, Cr0::new().with_cmdqen(true).into_bits());
    queue
}

/// Whether the hardware consumed this command, which no other test command looks like.
fn nth(n: u32) -> Command {
    Command::cfgi_ste(n, true)
}

#[test]
fn the_queue_is_aligned_to_its_size_for_every_size() {
    for size_lg2 in 0..10 {
        let fake = Fake::new();
        let base = QueueBase::from_bits(queue(&fake, size_lg2, false).ring.base_register());
        let bytes = (16u64 << size_lg2).max(32);
        assert!((base.addr() << 5).is_multiple_of(bytes), "{size_lg2}");
        assert_eq!(base.log2size(), size_lg2);
    }
}

#[test]
fn a_batch_arrives_in_order_with_its_sync_last_whatever_the_queue_holds() {
    for size_lg2 in 0..8 {
        for signalled in [false, true] {
            for count in [0u32, 1, 2, 3, 63, 64, 65, 200] {
                let fake = Fake::new();
                let queue = queue(&fake, size_lg2, signalled);
                for _ in 0..3 {
                    let mut batch = queue.batch();
                    (0..count).for_each(|n| batch.add(nth(n)));
                    batch.sync().unwrap();
                    let log = fake.take_log();
                    assert_eq!(log.len() as u32, count + 1, "{size_lg2} {signalled} {count}");
                    assert!(log[..count as usize].iter().enumerate().all(|(n, &seen)| seen == nth(n as u32)));
                    assert_eq!(log[count as usize].opcode(), Opcode::SYNC);
                }
            }
        }
    }
}

#[test]
fn a_sync_that_is_never_consumed_ends_with_what_was_seen() {
    let fake = Fake::new();
    let queue = queue(&fake, 4, false);
    fake.with(|state| state.asleep = true);
    let error = queue.run(nth(1)).unwrap_err();
    assert_eq!(error, SyncError::Timeout { waiting_for: "SMMU_CMDQ_CONS to pass a CMD_SYNC", last: 0 });
}

#[test]
fn after_a_timeout_the_queue_goes_on_when_the_hardware_does() {
    for signalled in [false, true] {
        let fake = Fake::new();
        let queue = queue(&fake, 4, signalled);
        fake.with(|state| state.asleep = true);
        queue.run(nth(1)).unwrap_err();
        fake.with(|state| state.asleep = false);
        queue.run(nth(2)).unwrap();
        let seen = fake.take_log();
        assert_eq!(opcodes(&seen), [Opcode::CFGI_STE, Opcode::SYNC, Opcode::CFGI_STE, Opcode::SYNC]);
        assert_eq!((seen[0], seen[2]), (nth(1), nth(2)));
    }
}

#[test]
fn a_full_queue_is_waited_for_with_a_limit() {
    let fake = Fake::new();
    let queue = queue(&fake, 2, false);
    fake.with(|state| state.asleep = true);
    queue.submit(&[nth(0), nth(1), nth(2), nth(3)]).unwrap();
    let error = queue.submit(&[nth(4)]).unwrap_err();
    assert_eq!(error, SyncError::Timeout { waiting_for: "room in the command queue", last: 0 });
    fake.with(|state| state.asleep = false);
    queue.submit(&[nth(5)]).unwrap();
    queue.run(nth(6)).unwrap();
    assert!(!fake.take_log().contains(&nth(4)));
}

#[test]
fn who_was_kept_from_looking_until_the_limit_was_over_finds_the_room_that_there_is() {
    let fake = Fake::new();
    // Over after the first turn, in which the hardware consumes everything.
    let queue = queue_with_limit(&fake, 2, false, 0);
    queue.submit(&[nth(0), nth(1), nth(2), nth(3)]).unwrap();
    queue.submit(&[nth(4)]).unwrap();
    fake.work(10);
    assert_eq!(fake.take_log(), (0..5).map(nth).collect::<Vec<_>>());
}

#[test]
fn an_illegal_command_is_skipped_and_its_batch_fails() {
    for signalled in [false, true] {
        let fake = Fake::new();
        let queue = queue(&fake, 6, signalled);
        fake.with(|state| state.illegal.push(Opcode::TLBI_EL2_ALL));
        let mut batch = queue.batch();
        batch.add(nth(1));
        batch.add(Command::tlbi_el2_all());
        batch.add(nth(2));
        assert_eq!(batch.sync(), Err(SyncError::Failed { code: 1 }));
        assert_eq!(
            opcodes(&fake.take_log()),
            [Opcode::CFGI_STE, Opcode::SYNC, Opcode::CFGI_STE, Opcode::SYNC]
        );
        queue.run(nth(3)).expect("the next batch has nothing to do with it");
        let told = queue.handle_errors(|_| ());
        assert_eq!(told, [GlobalError::Command { code: 1, words: Command::tlbi_el2_all().0 }]);
        assert_eq!(queue.handle_errors(|_| ()), []);
        assert_eq!(queue.counters.snapshot().command_errors, 1);
    }
}

#[test]
fn who_finds_at_the_limit_that_anothers_command_stopped_the_queue_gives_it_its_time_once_it_goes_on() {
    for signalled in [false, true] {
        let fake = Fake::new();
        // Over after the first turn, in which the hardware comes upon the error.
        let queue = queue_with_limit(&fake, 2, signalled, 0);
        fake.with(|state| state.illegal.push(Opcode::TLBI_EL2_ALL));
        queue.submit(&[Command::tlbi_el2_all()]).unwrap();
        queue.run(nth(1)).unwrap();
        // The same for room.
        queue.submit(&[Command::tlbi_el2_all(), nth(2), nth(3), nth(4)]).unwrap();
        queue.submit(&[nth(5)]).unwrap();
        queue.run(nth(6)).unwrap();
        let log = fake.take_log().into_iter().filter(|command| command.opcode() == Opcode::CFGI_STE);
        assert_eq!(log.collect::<Vec<_>>(), (1..=6).map(nth).collect::<Vec<_>>());
    }
}

#[test]
fn a_queue_that_stops_again_and_again_in_the_same_place_is_not_waited_for_for_ever() {
    for signalled in [false, true] {
        let fake = Fake::new();
        let queue = queue_with_limit(&fake, 2, signalled, 1000);
        // The sync that replaces a command is refused as well.
        fake.with(|state| state.illegal.extend([Opcode::TLBI_EL2_ALL, Opcode::SYNC]));
        queue.submit(&[Command::tlbi_el2_all()]).unwrap();
        assert!(matches!(queue.run(nth(1)), Err(SyncError::Timeout { .. })));
        queue.submit(&[nth(2), nth(3)]).unwrap_err();
    }
}

#[test]
fn an_illegal_command_that_nobody_waits_for_is_found_by_the_handler() {
    let fake = Fake::new();
    let queue = queue(&fake, 6, false);
    fake.with(|state| state.illegal.push(Opcode::TLBI_EL2_ALL));
    queue.submit(&[Command::tlbi_el2_all(), nth(1)]).unwrap();
    fake.work(10);
    assert_eq!(fake.take_log(), []);
    assert_eq!(queue.handle_errors(|_| ()).len(), 1);
    fake.work(10);
    assert_eq!(fake.take_log(), [Command::sync(), nth(1)]);
}

#[test]
fn commands_that_cannot_be_fetched_end_in_a_queue_that_says_so() {
    let fake = Fake::new();
    let queue = queue(&fake, 6, false);
    fake.with(|state| state.fetch_aborts = true);
    assert!(matches!(queue.run(nth(1)), Err(SyncError::Timeout { .. })));
    let spent_ns = fake_now(&fake);
    assert!(
        matches!(queue.run(nth(2)), Err(SyncError::Timeout { waiting_for, .. }) if waiting_for.contains("works"))
    );
    assert!(fake_now(&fake) - spent_ns < 1000, "a dead queue does not wait");
    assert_eq!(queue.handle_errors(|_| ()), [GlobalError::QueueAbort("command queue")]);
}

#[test]
fn a_queue_that_is_begun_anew_is_empty_wherever_it_was_and_goes_on_from_there() {
    let on = Cr0::new().with_cmdqen(true).into_bits();
    for (size_lg2, dead) in [(1, false), (1, true), (2, false), (2, true), (3, false), (3, true)] {
        for before in 0..2 << size_lg2 {
            let fake = Fake::new();
            let queue = queue(&fake, size_lg2, false);
            (0..before).for_each(|n| queue.submit(&[nth(n)]).unwrap());
            fake.work(100);
            fake.with(|state| state.asleep = true);
            queue.submit(&[nth(100), nth(101)]).unwrap();
            if dead {
                // Its producer is gone, and nothing behind it can be published.
                let _slot = queue.reserve(1);
                queue.kill();
            }
            queue.close();
            assert!(!queue.end_with(Command::cfgi_all()), "it stands still");
            fake.write32(CR0, 0);
            queue.empty();
            assert_eq!(fake.get(CMDQ_PROD), fake.get(CMDQ_CONS), "{size_lg2} {before} {dead}");
            fake.with(|state| state.asleep = false);
            fake.take_log();
            fake.write32(CR0, on);
            fake.work(100);
            assert_eq!(fake.take_log(), [], "what was not consumed is nobody's any more");
            // As often as hardware has to be asked.
            for _ in 0..3 {
                assert!(queue.end_with(Command::cfgi_all()), "{size_lg2} {before} {dead}");
                assert_eq!(fake.take_log(), [Command::cfgi_all(), Command::sync()]);
            }
            assert!(queue.run(nth(1)).is_err(), "it is closed still");
        }
    }
}

fn fake_now(fake: &Fake) -> u64 {
    use portcullis_hal::Clock;
    fake.now_ns()
}

#[test]
fn nonsense_in_the_index_register_is_not_taken_for_progress() {
    let fake = Fake::new();
    let queue = queue(&fake, 4, false);
    fake.with(|state| state.asleep = true);
    fake.set(CMDQ_CONS, 17);
    assert!(matches!(queue.run(nth(1)), Err(SyncError::Timeout { last: 17, .. })));
}

#[test]
fn an_error_of_which_nobody_can_say_what_it_is_about_may_be_everybodys() {
    let fake = Fake::new();
    let queue = queue(&fake, 6, false);
    let mut batch = queue.batch();
    // All but the last are in the queue.
    (0..65).for_each(|n| batch.add(nth(n)));
    fake.set(CMDQ_CONS, 100 | 1 << 24);
    fake.set(GERROR, 1);
    assert_eq!(queue.handle_errors(|_| ()), [GlobalError::Command { code: 1, words: [0; 2] }]);
    fake.set(CMDQ_CONS, 0);
    assert_eq!(batch.sync(), Err(SyncError::Failed { code: 0 }));
    queue.run(nth(65)).expect("what was not there then has not failed");
}

/// Producers on several threads, a consumer on another, a queue far too small for all of them: nothing is lost, nothing done twice, each producer's
/// commands keep their order, and each sync comes after what it is for.
fn hammer(size_lg2: u8, signalled: bool) {
    const PRODUCERS: u32 = 4;
    const BATCHES: u32 = 60;
    let fake = Fake::new();
    fake.works_while_waited_for.store(false, SeqCst);
    fake.restless.store(true, SeqCst);
    // Counted in turns of waiting: far more than a full queue lasts.
    let queue = queue_with_limit(&fake, size_lg2, signalled, 2_000_000);
    let done = core::sync::atomic::AtomicBool::new(false);
    thread::scope(|scope| {
        let consumer = scope.spawn(|| {
            while !done.load(SeqCst) {
                fake.work(3);
                thread::yield_now();
            }
        });
        let producers: Vec<_> = (0..PRODUCERS)
            .map(|producer| {
                let queue = &queue;
                let fake = &fake;
                scope.spawn(move || {
                    for batch_at in 0..BATCHES {
                        let mut batch = queue.batch();
                        let count = 1 + (batch_at + producer) % 5;
                        (0..count).for_each(|at| batch.add(nth(producer << 24 | batch_at << 8 | at)));
                        batch.sync().unwrap();
                        let last = nth(producer << 24 | batch_at << 8 | (count - 1));
                        assert!(fake.with(|state| state.log.contains(&last)), "the sync came first");
                    }
                })
            })
            .collect();
        let outcomes: Vec<_> = producers.into_iter().map(thread::ScopedJoinHandle::join).collect();
        done.store(true, SeqCst);
        assert!(outcomes.iter().all(Result::is_ok), "a producer failed");
        consumer.join().unwrap();
    });
    let log = fake.take_log();
    let syncs = log.iter().filter(|command| command.opcode() == Opcode::SYNC).count();
    assert_eq!(syncs as u32, PRODUCERS * BATCHES);
    for producer in 0..PRODUCERS {
        let own: Vec<u32> = log
            .iter()
            .filter(|command| command.opcode() == Opcode::CFGI_STE)
            .map(|command| (command.0[0] >> 32) as u32)
            .filter(|id| id >> 24 == producer)
            .collect();
        assert!(own.is_sorted_by(|a, b| a < b), "in order, each once");
        let wanted: u32 = (0..BATCHES).map(|batch_at| 1 + (batch_at + producer) % 5).sum();
        assert_eq!(own.len() as u32, wanted);
    }
}

#[test]
fn many_producers_share_a_small_queue_by_polling() {
    hammer(3, false);
    hammer(6, false);
}

#[test]
fn many_producers_share_a_small_queue_by_signals() {
    hammer(3, true);
    hammer(6, true);
}
