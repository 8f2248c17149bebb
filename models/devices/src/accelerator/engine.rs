//! The engine: fetches jobs, does them, reports them; starts and stops.
//!
//! Only who holds the *turn* works for queues. The registers are locked around each look and each change, and free while memory is accessed: CPUs come in at any
//! time, also from inside an access. A register write that changes queues takes the turn if nobody has it, so that what needs no time is done when it returns;
//! otherwise the one who has it sees the change before its next access.
//!
//! Spec: docs/accelerator.md, "Start, stop, abort".

use core::cell::Cell;
use core::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use model_bus::{Chance, Width};
use portcullis_types::trace::{Event, Sink, Value};
use portcullis_types::{Iova, Pasid};

use super::job::{ENTRY_BYTES, Entry, REPORT_AT, Report, STATUS_AT, Status};
use super::memory::{Attempt, Attempted, Bytes, Memory, Place, Way};
use super::queue::{QueueError, QueueState, Snapshot};
use super::registers::{Cap, Effect, Registers};
use super::work::{Advance, Job};
use super::{AcceleratorCounts, AcceleratorOptions};

/// What a job costs of a step at least.
const LEAST_BYTES: u64 = 64;

/// What is under way for a queue.
#[derive(Default)]
struct Work {
    generation: u64,
    attempt: Attempt,
    stage: Stage,
}

#[derive(Default)]
enum Stage {
    #[default]
    Idle,
    Fetch(Iova),
    Run(Iova, Box<Job>),
    Report {
        entry: Iova,
        report: Report,
        /// All but the status is written.
        body_done: bool,
    },
}

impl Work {
    fn drop_all(&mut self, generation: u64) {
        *self = Self { generation, ..Self::default() };
    }
}

/// What belongs to whoever makes the device work.
struct Turn {
    works: Vec<Work>,
    chance: Chance,
}

/// The part of an accelerator that both forms share.
pub(super) struct Engine {
    pub(super) memory: Box<dyn Memory>,
    stop_marker: bool,
    bytes_per_step: u64,
    registers: Mutex<Registers>,
    turn: Mutex<Turn>,
    jobs: [AtomicU64; 8],
    stalls: AtomicU64,
    failures: AtomicU64,
    sink: Arc<dyn Sink>,
}

/// What one action came to.
enum Acted {
    Moved(u64),
    /// Nothing to do, or nothing that can be done now.
    Rest,
}

impl Engine {
    pub(super) fn new(options: &AcceleratorOptions, memory: Box<dyn Memory>, sink: Arc<dyn Sink>) -> Self {
        let cap = Cap {
            queues: options.queues,
            entries_lg2: options.entries_lg2,
            pasid_bits: options.pasid_bits,
            stop_marker: options.stop_marker,
        };
        let works = (0..options.queues).map(|_| Work::default()).collect();
        Self {
            memory,
            stop_marker: options.stop_marker,
            bytes_per_step: options.bytes_per_step.max(1),
            registers: Mutex::new(Registers::new(cap)),
            turn: Mutex::new(Turn { works, chance: Chance::new(options.seed) }),
            jobs: Default::default(),
            stalls: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            sink,
        }
    }

    fn registers(&self) -> MutexGuard<'_, Registers> {
        self.registers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn counts(&self) -> AcceleratorCounts {
        AcceleratorCounts {
            jobs: core::array::from_fn(|status| self.jobs[status].load(Ordering::Relaxed)),
            stalls: self.stalls.load(Ordering::Relaxed),
            queues_failed: self.failures.load(Ordering::Relaxed),
        }
    }

    pub(super) fn read_register(&self, offset: u64, width: Width) -> u64 {
        self.registers().read(offset, width)
    }

    pub(super) fn write_register(&self, offset: u64, width: Width, value: u64) {
        let effect = self.registers().write(offset, width, value);
        match effect {
            Effect::Nothing => (),
            Effect::Changed => self.catch_up(),
            Effect::Failed(queue, error) => {
                self.say_failed(queue, error);
                self.catch_up();
            }
        }
    }

    /// As after power on.
    pub(super) fn reset(&self) {
        self.registers().reset();
        self.catch_up();
    }

    /// Drops what is not wanted any more and goes on with stops, unless somebody works, who then does.
    fn catch_up(&self) {
        let Ok(mut turn) = self.turn.try_lock() else { return };
        for queue in 0..turn.works.len() {
            self.attend(&mut turn.works[queue], queue, false);
        }
    }

    /// A step's work. Answers whether there was any.
    pub(super) fn step(&self) -> bool {
        let Ok(mut turn) = self.turn.try_lock() else { return false };
        let mut worked = self.memory.step();
        worked |= self.registers().settle();
        // Most steps of a machine find nothing here, and are not to cost much.
        if self.is_at_rest(&turn.works) {
            return worked;
        }
        let mut order: Vec<usize> = (0..turn.works.len()).collect();
        turn.chance.shuffle(&mut order);
        for queue in order {
            worked |= self.attend(&mut turn.works[queue], queue, true);
        }
        worked
    }

    /// Every queue is off, and what it did before has been dropped.
    fn is_at_rest(&self, works: &[Work]) -> bool {
        let registers = self.registers();
        works.iter().zip(&registers.queues).all(|(work, queue)| {
            let found = queue.snapshot();
            found.state == QueueState::Off && found.generation == work.generation
        })
    }

    /// Does what a queue's state asks for; jobs only if `run`.
    fn attend(&self, work: &mut Work, queue: usize, run: bool) -> bool {
        let found = self.registers().queues[queue].snapshot();
        if work.generation != found.generation {
            work.drop_all(found.generation);
        }
        let worked = Cell::new(false);
        let note_stall = || {
            self.stalls.fetch_add(1, Ordering::Relaxed);
        };
        let way = Way { memory: &*self.memory, pasid: found.pasid, worked: &worked, stalls: &note_stall };
        if run && found.state == QueueState::Running && self.memory.ready() {
            self.run(work, queue, &way);
        }
        // A stop may have come meanwhile, also from inside an access.
        let found = self.registers().queues[queue].snapshot();
        if work.generation != found.generation {
            work.drop_all(found.generation);
        } else if found.state == QueueState::Stopping {
            self.stop(work, queue, &way, found);
        }
        worked.get()
    }

    fn is(&self, queue: usize, generation: u64, state: QueueState) -> bool {
        let found = self.registers().queues[queue].snapshot();
        found.generation == generation && found.state == state
    }

    fn run(&self, work: &mut Work, queue: usize, way: &Way<'_>) {
        let mut left = self.bytes_per_step;
        while left > 0 && self.is(queue, work.generation, QueueState::Running) {
            match self.act(work, queue, way) {
                Acted::Moved(bytes) => left = left.saturating_sub(bytes.max(LEAST_BYTES)),
                Acted::Rest => return,
            }
            way.worked.set(true);
        }
    }

    /// One action for a queue that runs.
    fn act(&self, work: &mut Work, queue: usize, way: &Way<'_>) -> Acted {
        match &mut work.stage {
            Stage::Idle => match self.registers().queues[queue].next_entry() {
                Some(entry) => {
                    work.stage = Stage::Fetch(entry);
                    Acted::Moved(0)
                }
                None => Acted::Rest,
            },
            Stage::Fetch(entry) => {
                let entry = *entry;
                self.fetch(work, queue, way, entry)
            }
            Stage::Run(entry, job) => match job.advance(&mut work.attempt, way) {
                Advance::Moved(bytes) => Acted::Moved(bytes),
                Advance::Waiting => Acted::Rest,
                Advance::Ended(status) => {
                    work.stage =
                        Stage::Report { entry: *entry, report: job.report(status), body_done: false };
                    Acted::Moved(0)
                }
            },
            Stage::Report { entry, report, body_done } => {
                let (at, bytes) = next_of_report(*entry, report, *body_done);
                let place = ring_place(at);
                let attempted = work.attempt.go(way, place, Bytes::Write(&bytes));
                self.reported(work, queue, way.pasid, attempted)
            }
        }
    }

    fn fetch(&self, work: &mut Work, queue: usize, way: &Way<'_>, at: Iova) -> Acted {
        let mut bytes = [0; ENTRY_BYTES];
        match work.attempt.go(way, ring_place(at), Bytes::Read(&mut bytes)) {
            Attempted::Done => (),
            Attempted::Waiting => return Acted::Rest,
            Attempted::Failed => {
                self.fail(work, queue, QueueError::Ring(at.get()));
                return Acted::Rest;
            }
        }
        work.stage = match Entry::read(&bytes) {
            Some(entry) => {
                self.say_job(queue, way.pasid, &entry);
                Stage::Run(at, Box::new(Job::new(entry)))
            }
            None => {
                let report = Report { consumed: 0, produced: 0, sum: 0, status: Status::NoSense };
                Stage::Report { entry: at, report, body_done: false }
            }
        };
        Acted::Moved(0)
    }

    /// A part of a report was written, or not.
    fn reported(&self, work: &mut Work, queue: usize, pasid: Option<Pasid>, attempted: Attempted) -> Acted {
        let Stage::Report { entry, report, body_done } = &mut work.stage else { return Acted::Rest };
        match attempted {
            Attempted::Waiting => Acted::Rest,
            Attempted::Failed => {
                let at = entry.get();
                self.fail(work, queue, QueueError::Ring(at));
                Acted::Rest
            }
            Attempted::Done if !*body_done => {
                *body_done = true;
                Acted::Moved(0)
            }
            Attempted::Done => {
                let report = *report;
                work.stage = Stage::Idle;
                self.job_done(queue, work.generation, pasid, &report);
                Acted::Moved(0)
            }
        }
    }

    fn job_done(&self, queue: usize, generation: u64, pasid: Option<Pasid>, report: &Report) {
        let mut registers = self.registers();
        let place = &mut registers.queues[queue];
        if place.generation == generation {
            place.job_done();
        }
        drop(registers);
        self.jobs[report.status as usize].fetch_add(1, Ordering::Relaxed);
        self.say_done(queue, pasid, report);
    }

    fn fail(&self, work: &mut Work, queue: usize, error: QueueError) {
        let mut registers = self.registers();
        if registers.queues[queue].generation == work.generation {
            registers.fail(queue, error);
        }
        let generation = registers.queues[queue].generation;
        drop(registers);
        work.drop_all(generation);
        self.say_failed(queue, error);
    }

    /// Goes on with a stop, as far as it goes without waiting.
    fn stop(&self, work: &mut Work, queue: usize, way: &Way<'_>, found: Snapshot) {
        if self.stop_marker {
            // Nothing is waited for; what comes later is ignored.
            work.attempt.forget();
        }
        if let Stage::Run(entry, job) = &work.stage {
            if !work.attempt.is_over(way) {
                return;
            }
            work.stage =
                Stage::Report { entry: *entry, report: job.report(Status::Stopped), body_done: false };
        }
        while let Stage::Report { entry, report, body_done } = &mut work.stage {
            if !self.is(queue, work.generation, QueueState::Stopping) {
                return;
            }
            let (at, bytes) = next_of_report(*entry, report, *body_done);
            match work.attempt.go_once(way, at.get(), &bytes) {
                Attempted::Waiting if !self.stop_marker => return,
                Attempted::Waiting | Attempted::Failed => break,
                Attempted::Done if !*body_done => *body_done = true,
                Attempted::Done => {
                    let report = *report;
                    self.job_done(queue, work.generation, way.pasid, &report);
                    break;
                }
            }
        }
        if !self.stop_marker && !work.attempt.is_over(way) {
            return;
        }
        self.stopped(work, queue, way, found);
    }

    fn stopped(&self, work: &mut Work, queue: usize, way: &Way<'_>, found: Snapshot) {
        work.stage = Stage::Idle;
        work.attempt.forget();
        if let (true, Some(pasid)) = (self.stop_marker, found.pasid) {
            self.memory.stop_marker(pasid);
        }
        let mut registers = self.registers();
        let place = &mut registers.queues[queue];
        if place.generation == found.generation && place.state == QueueState::Stopping {
            place.off();
        }
        work.generation = place.generation;
        way.worked.set(true);
    }

    fn say(&self, name: &'static str, fields: &[(&'static str, Value<'_>)]) {
        if self.sink.listening() {
            self.sink.event(&Event { source: "model.accelerator", name, fields });
        }
    }

    fn say_job(&self, queue: usize, pasid: Option<Pasid>, entry: &Entry) {
        self.say(
            "job",
            &[
                ("queue", Value::Dec(queue as u64)),
                ("pasid", Value::Dec(u64::from(pasid.map_or(0, Pasid::get)))),
                ("op", Value::Str(entry.op.name())),
                ("source", Value::Addr(entry.source.at)),
                ("source_bytes", Value::Dec(entry.source.bytes)),
                ("dest", Value::Addr(entry.dest.at)),
                ("dest_bytes", Value::Dec(entry.dest.bytes)),
            ],
        );
    }

    fn say_done(&self, queue: usize, pasid: Option<Pasid>, report: &Report) {
        self.say(
            "job_done",
            &[
                ("queue", Value::Dec(queue as u64)),
                ("pasid", Value::Dec(u64::from(pasid.map_or(0, Pasid::get)))),
                ("status", Value::Dec(report.status as u64)),
                ("consumed", Value::Dec(report.consumed)),
                ("produced", Value::Dec(report.produced)),
                ("sum", Value::Hex(u64::from(report.sum))),
            ],
        );
    }

    fn say_failed(&self, queue: usize, error: QueueError) {
        self.failures.fetch_add(1, Ordering::Relaxed);
        let why = match error {
            QueueError::Ring(_) => "ring",
            QueueError::Tail => "tail",
            QueueError::BaseOrSize => "base or size",
        };
        self.say("queue_failed", &[("queue", Value::Dec(queue as u64)), ("why", Value::Str(why))]);
    }
}

/// An access to an entry of the ring: no other page is needed for it.
fn ring_place(at: Iova) -> Place {
    Place { at: at.get(), needed: 1, pages_at_once: 1 }
}

/// What of a report is to be written next, and where.
fn next_of_report(entry: Iova, report: &Report, body_done: bool) -> (Iova, Vec<u8>) {
    // A ring ends in the address space, and with it its entries.
    let at = |offset| Iova::new(entry.get() | offset);
    if body_done {
        (at(STATUS_AT), report.status_word().to_vec())
    } else {
        (at(REPORT_AT), report.body().to_vec())
    }
}
