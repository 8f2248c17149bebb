//! The command queue in every order that shuttle thinks of: producers, the SMMU as a thread of its own, and a handler of errors.
//!
//! Threads may be stopped before each access to an atomic, to memory and to a register, and where they wait (`crate::atomics`, [`hardware`]). Queues are
//! so small that they fill and wrap.
//!
//! Not here: real threads, whose stores come late as well (`super::tests`, and the models' store buffer).

extern crate std;

mod away;
mod hardware;

use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};

use portcullis_core::iommu::GlobalError;
use portcullis_spec::smmuv3::command::Opcode;

use super::*;
use away::Away;
use hardware::Stage;

type Queue = CommandQueue<Stage, Stage>;

/// A wait that no order lasts.
const PATIENT_NS: u64 = 1_000_000;
const ORDERS: usize = 400;

fn every_order(test: impl Fn() + Send + Sync + 'static) {
    let test = Arc::new(test);
    let (again, away) = (test.clone(), test.clone());
    shuttle::check_random(move || again(), ORDERS);
    shuttle::check_pct(move || test(), ORDERS, 3);
    shuttle::Runner::new(Away::new(3), shuttle::Config::default()).run(move || away());
}

/// Command `at` of a batch of a producer.
fn nth(producer: u32, batch: u32, at: u32) -> Command {
    Command::cfgi_ste(producer << 16 | batch << 8 | at, true)
}

/// A queue with threads around it.
struct Act {
    stage: Arc<Stage>,
    queue: Arc<Queue>,
    /// Threads at work besides the hardware.
    at_work: Arc<AtomicUsize>,
    threads: Vec<shuttle::thread::JoinHandle<()>>,
}

impl Act {
    fn new(cpus: usize, size_lg2: u8, signalled: bool) -> Self {
        let stage = Stage::new(cpus, size_lg2);
        let queue =
            Queue::new(stage.clone(), stage.clone(), 48, size_lg2, signalled, true, PATIENT_NS).unwrap();
        stage.begin(queue.ring.base_register());
        Self { stage, queue: Arc::new(queue), at_work: Arc::default(), threads: Vec::new() }
    }

    fn thread(&mut self, act: impl FnOnce(&Queue, &Stage) + Send + 'static) {
        let (queue, stage, at_work) = (self.queue.clone(), self.stage.clone(), self.at_work.clone());
        at_work.fetch_add(1, SeqCst);
        self.threads.push(shuttle::thread::spawn(move || {
            act(&queue, &stage);
            at_work.fetch_sub(1, SeqCst);
        }));
    }

    /// Consumes until all threads are through, then everything that is left.
    fn play(self) -> (Arc<Stage>, Arc<Queue>) {
        let stage = self.stage.clone();
        let at_work = self.at_work.clone();
        let hardware = shuttle::thread::spawn(move || {
            while at_work.load(SeqCst) > 0 {
                stage.work();
                shuttle::thread::yield_now();
            }
        });
        self.threads.into_iter().for_each(|thread| thread.join().unwrap());
        hardware.join().unwrap();
        (0..100).for_each(|_| self.stage.work());
        (self.stage, self.queue)
    }
}

/// Batches of 1 to 3 commands, each with its sync: on return all of it was consumed.
fn produce(producer: u32, batches: u32) -> impl FnOnce(&Queue, &Stage) + Send + 'static {
    move |queue, stage| {
        for batch_at in 0..batches {
            let count = 1 + (producer + batch_at) % 3;
            let mut batch = queue.batch();
            (0..count).for_each(|at| batch.add(nth(producer, batch_at, at)));
            batch.sync().unwrap();
            let all = |seen: &mut hardware::Seen| {
                (0..count).all(|at| seen.log.contains(&nth(producer, batch_at, at)))
            };
            assert!(stage.with(all), "the sync came first");
        }
    }
}

fn commands_of(stage: &Stage, producer: u32) -> Vec<Command> {
    let of =
        |command: &Command| command.opcode() == Opcode::CFGI_STE && command.0[0] >> 48 == u64::from(producer);
    stage.with(|seen| seen.log.iter().copied().filter(of).collect())
}

fn many_producers(cpus: usize, size_lg2: u8, signalled: bool) {
    const BATCHES: u32 = 2;
    let mut act = Act::new(cpus, size_lg2, signalled);
    (0..3).for_each(|producer| act.thread(produce(producer, BATCHES)));
    let (stage, queue) = act.play();
    for producer in 0..3 {
        let of_batch = |batch: u32| (0..1 + (producer + batch) % 3).map(move |at| nth(producer, batch, at));
        let wanted: Vec<Command> = (0..BATCHES).flat_map(of_batch).collect();
        assert_eq!(commands_of(&stage, producer), wanted, "each once, in order");
    }
    let syncs = stage.with(|seen| seen.log.iter().filter(|command| command.opcode() == Opcode::SYNC).count());
    assert_eq!(syncs, 3 * BATCHES as usize);
    queue.free(true);
    assert_eq!(stage.live_bytes(), 0);
}

#[test]
fn in_every_order_producers_lose_no_command_and_return_behind_their_own() {
    every_order(|| many_producers(3, 2, false));
    every_order(|| many_producers(3, 2, true));
}

#[test]
fn in_every_order_the_smallest_queues_wrap_and_fill_and_lose_nothing() {
    every_order(|| many_producers(3, 1, true));
    every_order(|| many_producers(3, 0, false));
}

#[test]
fn in_every_order_producers_on_one_cpu_take_turns() {
    every_order(|| many_producers(1, 2, true));
}

/// One producer's batch has a command that the hardware does not know. All look for errors while they wait, and a handler besides.
fn one_is_illegal(signalled: bool) {
    let mut act = Act::new(4, 2, signalled);
    act.stage.with(|seen| seen.illegal.push(Opcode::TLBI_EL2_ALL));
    let (told, failed) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
    let notes = (told.clone(), failed.clone());
    act.thread(move |queue, _| {
        let mut batch = queue.batch();
        batch.add(nth(0, 0, 0));
        batch.add(Command::tlbi_el2_all());
        assert_eq!(batch.sync(), Err(SyncError::Failed { code: 1 }), "it is told to whom it concerns");
        notes.1.store(true, SeqCst);
        notes.0.fetch_add(queue.handle_errors(|_| ()).len(), SeqCst);
    });
    act.thread(produce(1, 2));
    act.thread(produce(2, 1));
    let notes = told.clone();
    act.thread(move |queue, _| {
        for _ in 0..3 {
            let errors = queue.handle_errors(|_| ());
            let wanted = GlobalError::Command { code: 1, words: Command::tlbi_el2_all().0 };
            assert!(errors.iter().all(|error| *error == wanted));
            notes.fetch_add(errors.len(), SeqCst);
        }
    });
    let (stage, queue) = act.play();
    assert!(failed.load(SeqCst));
    assert_eq!(told.load(SeqCst) + queue.handle_errors(|_| ()).len(), 1, "one error is told of once");
    assert_eq!(stage.with(|seen| seen.refused.len()), 1, "and skipped");
    assert_eq!(queue.counters.snapshot().command_errors, 1);
    assert_eq!((commands_of(&stage, 1).len(), commands_of(&stage, 2).len()), (5, 3));
}

#[test]
fn in_every_order_an_illegal_command_fails_its_own_batch_and_stops_nobody() {
    every_order(|| one_is_illegal(false));
    every_order(|| one_is_illegal(true));
}

/// A machine that stood still as a whole goes on, its CPUs one after the other: for the first of them the time is over that it would have waited for the others.
fn stood_still(at: usize) {
    let mut act = Act::new(4, 2, true);
    for producer in 0..3 {
        act.thread(move |queue, _| {
            let mut batch = queue.batch();
            batch.add(nth(producer, 0, 0));
            // That the hardware was away as well may be told.
            let _ = batch.sync();
        });
    }
    act.thread(move |_, stage| {
        (0..at).for_each(|_| stage.pass(1));
        stage.pass(2 * PATIENT_NS);
    });
    let (_, queue) = act.play();
    assert_eq!(queue.usable(), Ok(()), "nobody is gone");
}

#[test]
fn in_every_order_a_machine_that_stood_still_goes_on_with_its_queue() {
    for at in (0..60).step_by(6) {
        shuttle::Runner::new(Away::new(3), shuttle::Config::default()).run(move || stood_still(at));
    }
}

/// The queue is closed while producers push and wait, the hardware turned off, and the memory given back.
fn closed_in_the_middle(signalled: bool) {
    let mut act = Act::new(3, 1, signalled);
    for producer in 0..2 {
        act.thread(move |queue, _| {
            for batch in 0..2 {
                let mut commands = queue.batch();
                commands.add(nth(producer, batch, 0));
                let done = commands.sync();
                assert!(
                    matches!(
                        done,
                        Ok(()) | Err(SyncError::Timeout { waiting_for: "a command queue that works", .. })
                    ),
                    "{done:?}"
                );
            }
        });
    }
    act.thread(|queue, stage| {
        queue.close();
        queue.free(true);
        stage.with(|seen| seen.over = true);
    });
    let (stage, _) = act.play();
    assert_eq!(stage.live_bytes(), 0);
}

#[test]
fn in_every_order_a_queue_that_is_closed_answers_everybody_and_is_left_alone() {
    every_order(|| closed_in_the_middle(false));
    every_order(|| closed_in_the_middle(true));
}
