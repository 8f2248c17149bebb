//! Operations in a seeded order: processes that bind, launch jobs, unmap, protect, fork and die under DMA, devices that are late or lie.
//!
//! One seed and one plan are the whole run. Each process has *canaries*, which no operation and no job touches: what changes there came from elsewhere.
//! Each queue has buffers that only its own jobs touch, so that their results can be checked; *wild* jobs go anywhere in what processes map and unmap meanwhile,
//! and need only come to an end.

use std::sync::Arc;

use model_bus::{Chance, PageRequest};
use model_devices::pcie::{Behaviour, PageBehaviour};
use portcullis::accel::{Algorithm, Job};
use portcullis::types::{Iova, IovaRange, Pasid, Perms, SourceId};
use portcullis_lab::process::{Mapping, Source};
use portcullis_lab::tamper::Tamper;
use portcullis_lab::trace::{self, SharedSink};

use super::plan::Plan;
use super::rig::Rig;
use super::watched::Watched;
use super::work::{Client, RigBond, did_right, text, unbind};

/// How wild it gets.
#[derive(Clone, Copy, Debug)]
pub struct Manner {
    /// How many operations.
    pub operations: usize,
    /// Whether devices forge page requests.
    pub forging: bool,
    /// The most steps that ATCs take to answer.
    pub late: u32,
    /// Whether ATCs stop answering now and then. Then bonds may be kept for ever.
    pub silent: bool,
    /// Whether devices may give a page up: where the queue overflows too often for their patience.
    pub impatient: bool,
}

impl Default for Manner {
    fn default() -> Self {
        Self { operations: 400, forging: false, late: 0, silent: false, impatient: false }
    }
}

/// Bytes of a canary, of a queue's buffers, and of what processes play with.
const CANARY: u64 = 0x2000;
const BUFFER: u64 = 0x5000;
const PLAYGROUND: u64 = 0xc000;
const MOST_PROCESSES: usize = 4;
const MOST_CLIENTS: usize = 6;

struct Actor {
    process: Watched,
    canary: IovaRange,
    pattern: Vec<u8>,
    grounds: Vec<IovaRange>,
}

struct Bench {
    client: Client,
    source: IovaRange,
    dest: IovaRange,
    back: IovaRange,
    /// Compressed bytes in `dest`, once there are some.
    compressed: Option<u64>,
    expects: Vec<Expected>,
}

/// A job whose result is checked, by its addresses.
#[derive(Clone, Copy)]
struct Expected(Iova, Iova);

/// A run under way.
pub struct World {
    rig: Rig,
    manner: Manner,
    chance: Chance,
    actors: Vec<Actor>,
    benches: Vec<Bench>,
    /// Bonds whose queues have ended.
    loose: Vec<(usize, RigBond)>,
    checked: u64,
    wild: u64,
}

/// What a run came to.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// What was wrong.
    pub wrongs: Vec<String>,
    /// Jobs whose results were checked.
    pub checked: u64,
    /// Wild jobs that were given.
    pub wild: u64,
    /// Accesses that the judge saw, and how many of them translated by the device.
    pub accesses: (u64, u64),
    /// Page requests and stalls.
    pub faults: u64,
    /// Answers that the IOMMU gave by itself, after an overflow.
    pub automatic: u64,
}

/// Runs a plan. Answers what was seen.
pub fn run(plan: Plan, manner: Manner) -> Report {
    run_with(plan, manner, None)
}

/// The same with somebody between the IOMMU's driver and its machine.
pub fn run_with(plan: Plan, manner: Manner, tamper: Option<Arc<dyn Tamper>>) -> Report {
    run_heard(plan, manner, tamper, trace::shared(None))
}

/// The same with somebody who hears all events.
pub fn run_heard(plan: Plan, manner: Manner, tamper: Option<Arc<dyn Tamper>>, sink: SharedSink) -> Report {
    let seed = plan.seed;
    let rig = match Rig::with(plan, tamper, sink) {
        Ok(rig) => rig,
        Err(error) => return Report { wrongs: vec![format!("setup: {error}")], ..Report::default() },
    };
    let mut world = World {
        rig,
        manner,
        chance: Chance::new(seed ^ 0x5ca1_ab1e),
        actors: Vec::new(),
        benches: Vec::new(),
        loose: Vec::new(),
        checked: 0,
        wild: 0,
    };
    world.spawn();
    for _ in 0..manner.operations {
        world.operation();
        if !world.rig.judge.wrongs().is_empty() {
            break;
        }
    }
    world.end()
}

fn part(range: IovaRange, first: u64, len: u64) -> IovaRange {
    IovaRange::new(Iova::new(range.first().get() + first), len).expect("part of a range")
}

impl World {
    fn below(&self, bound: u64) -> u64 {
        self.chance.below(usize::try_from(bound).unwrap_or(usize::MAX)) as u64
    }

    fn page(&self) -> u64 {
        self.rig.kernel.page_bytes()
    }

    fn pick<'a, T>(&self, among: &'a [T]) -> Option<&'a T> {
        (!among.is_empty()).then(|| &among[self.chance.below(among.len())])
    }

    fn operation(&mut self) {
        match self.chance.below(40) {
            0 => self.spawn(),
            1 | 2 | 21 => self.open(),
            3..=6 => self.give_checked(),
            7..=9 => self.give_wild(),
            10 | 11 => self.unmap(),
            12 => self.protect(),
            13 => self.fork(),
            14 | 15 => self.touch(),
            16 => self.map_more(),
            17 => self.exit(),
            18 => self.close(false),
            19 => self.close(true),
            20 => self.give_back(),
            32 if self.chance.once_in(4) => self.toggle(),
            22 if self.manner.forging => self.forge(),
            23 => self.misbehave(),
            24 => self.look(),
            25 => drop(
                self.pick(&self.actors).map(|actor| actor.process.process().run_on(self.chance.below(2))),
            ),
            26..=31 => self.rig.serve(),
            _ => self.rig.step(1 + self.chance.below(24)),
        }
    }

    fn spawn(&mut self) {
        if self.actors.len() >= MOST_PROCESSES {
            return;
        }
        let Ok(process) = Watched::new(&self.rig.kernel, &self.rig.judge) else { return };
        let pattern = text(self.chance.next(), CANARY);
        let canary = process.map_zeroes(CANARY).expect("a new process has room");
        process.write(canary.first(), &pattern).expect("its own memory");
        let stack = Mapping {
            at: None,
            len_bytes: self.page(),
            perms: Perms::READ_WRITE,
            source: Source::Stack { limit_bytes: 8 * self.page() },
        };
        let mut grounds = vec![process.map_zeroes(PLAYGROUND).expect("a new process has room")];
        if let Ok(top) = process.map(&stack) {
            let all = IovaRange::from_ends(Iova::new(top.last().get() + 1 - 8 * self.page()), top.last());
            grounds.extend(all);
        }
        self.actors.push(Actor { process, canary, pattern, grounds });
    }

    fn open(&mut self) {
        let Some(actor) = self.pick(&self.actors) else { return };
        if self.benches.len() >= MOST_CLIENTS {
            return;
        }
        let device = self.chance.below(self.rig.accels.len());
        let process = actor.process.clone();
        let Ok(client) = Client::open(&self.rig, &process, device) else { return };
        let map = |len| process.map_zeroes(len);
        let (Ok(source), Ok(dest), Ok(back)) = (map(BUFFER), map(2 * BUFFER), map(BUFFER)) else { return };
        let bytes = text(self.chance.next(), BUFFER);
        process.write(source.first(), &bytes).expect("its own memory");
        self.benches.push(Bench { client, source, dest, back, compressed: None, expects: Vec::new() });
    }

    fn give_checked(&mut self) {
        if self.benches.is_empty() {
            return;
        }
        let (index, kind) = (self.chance.below(self.benches.len()), self.chance.below(5));
        let (offset, len) = (self.below(BUFFER / 2), 1 + self.below(BUFFER / 2));
        let ahead_lg2 = u8::try_from(self.chance.below(6)).expect("small");
        let byte = u8::try_from(self.chance.below(256)).expect("a byte");
        let bench = &mut self.benches[index];
        if bench.client.under_way() > 0 {
            return;
        }
        let at = |range: IovaRange| Iova::new(range.first().get() + offset);
        let (source, dest) = (at(bench.source), at(bench.dest));
        let job = |algorithm, source, source_bytes, dest, dest_bytes| Job {
            algorithm,
            ahead_lg2,
            source,
            source_bytes,
            dest,
            dest_bytes,
        };
        let job = match (kind, bench.compressed.take()) {
            (0, Some(bytes)) => {
                job(Algorithm::Inflate, bench.dest.first(), bytes, bench.back.first(), BUFFER)
            }
            (0 | 1, _) => {
                job(Algorithm::Deflate, bench.source.first(), BUFFER, bench.dest.first(), 2 * BUFFER)
            }
            (2, _) => job(Algorithm::Fill(byte), source, len, dest, len),
            (3, _) => job(Algorithm::Sum, source, len, dest, 0),
            _ => job(Algorithm::Copy, source, len, dest, len),
        };
        if bench.client.submit(job) {
            bench.expects.push(Expected(job.source, job.dest));
        }
    }

    /// An address of somewhere in what a process plays with, perhaps not mapped.
    fn somewhere(&self, actor: &Actor) -> Option<(Iova, u64)> {
        let ground = self.pick(&actor.grounds)?;
        let len = ground.last().get() - ground.first().get() + 1;
        let offset = self.below(len);
        Some((Iova::new(ground.first().get() + offset), 1 + self.below((len - offset).min(0x4000))))
    }

    fn give_wild(&mut self) {
        if self.benches.is_empty() {
            return;
        }
        let index = self.chance.below(self.benches.len());
        let id = self.benches[index].client.process.id();
        let Some(actor) = self.actors.iter().find(|actor| actor.process.id() == id) else { return };
        let (Some((source, len)), Some((dest, room))) = (self.somewhere(actor), self.somewhere(actor)) else {
            return;
        };
        let len = len.min(room);
        let algorithm = [Algorithm::Copy, Algorithm::Fill(0x5a), Algorithm::Sum, Algorithm::Deflate]
            [self.chance.below(4)];
        let ahead_lg2 = u8::try_from(self.chance.below(6)).expect("small");
        let job = Job { algorithm, ahead_lg2, source, source_bytes: len, dest, dest_bytes: room };
        self.wild += u64::from(self.benches[index].client.submit(job));
    }

    /// Some pages of what a process plays with; of its stack only if `stack`.
    fn pages(&self, stack: bool) -> Option<(Watched, IovaRange)> {
        let actor = self.pick(&self.actors)?;
        let ground = *if stack { self.pick(&actor.grounds) } else { actor.grounds.first() }?;
        let page = self.page();
        let count = (ground.last().get() - ground.first().get() + 1) / page;
        let first = self.below(count.max(1));
        let len = 1 + self.below((count - first).clamp(1, 5));
        Some((actor.process.clone(), part(ground, first * page, len * page)))
    }

    /// Of a stack that has not grown there is nothing to unmap, and it may still grow.
    fn unmap(&mut self) {
        if let Some((process, range)) = self.pages(false) {
            let _ = process.unmap(range);
        }
    }

    fn protect(&mut self) {
        let perms = [Perms::READ, Perms::empty(), Perms::READ_WRITE][self.chance.below(3)];
        if let Some((process, range)) = self.pages(true) {
            let _ = process.protect(range, perms);
        }
    }

    fn fork(&mut self) {
        if self.actors.len() >= MOST_PROCESSES {
            return;
        }
        let Some(actor) = self.pick(&self.actors) else { return };
        let Ok(process) = actor.process.fork() else { return };
        let child = Actor {
            process,
            canary: actor.canary,
            pattern: actor.pattern.clone(),
            grounds: actor.grounds.clone(),
        };
        self.actors.push(child);
    }

    fn touch(&mut self) {
        let Some(actor) = self.pick(&self.actors) else { return };
        let Some((at, len)) = self.somewhere(actor) else { return };
        let bytes = text(self.chance.next(), len.min(64));
        if self.chance.once_in(2) {
            let _ = actor.process.write(at, &bytes);
        } else {
            let _ = actor.process.read(at, bytes.len());
        }
    }

    fn map_more(&mut self) {
        if let Some((process, range)) = self.pages(false) {
            let mapping = Mapping {
                at: Some(range.first()),
                len_bytes: range.last().get() - range.first().get() + 1,
                perms: Perms::READ_WRITE,
                source: Source::Anonymous,
            };
            let _ = process.map(&mapping);
        }
    }

    fn exit(&mut self) {
        if self.actors.is_empty() || !self.chance.once_in(4) {
            return;
        }
        let actor = self.actors.swap_remove(self.chance.below(self.actors.len()));
        actor.process.exit();
    }

    fn close(&mut self, abort: bool) {
        if self.benches.is_empty() {
            return;
        }
        let mut bench = self.benches.swap_remove(self.chance.below(self.benches.len()));
        match bench.client.stop(abort, || self.rig.serve()) {
            Ok(bond) => {
                for range in [bench.source, bench.dest, bench.back] {
                    let _ = bench.client.process.unmap(range);
                }
                self.loose.push((bench.client.device, bond));
            }
            // What a device that lies waits for may never come.
            Err(_) if self.manner.silent || self.manner.forging => self.benches.push(bench),
            Err(error) => self.rig.judge.note(error),
        }
    }

    fn give_back(&mut self) {
        if self.loose.is_empty() {
            return;
        }
        let (device, bond) = self.loose.swap_remove(self.chance.below(self.loose.len()));
        if let Err(error) = unbind(&self.rig, device, &bond) {
            if !self.manner.silent {
                self.rig.judge.note(format!("unbind: {error:?}"));
            }
            self.loose.push((device, bond));
        }
    }

    fn toggle(&mut self) {
        let device = self.chance.below(self.rig.accels.len());
        if self.rig.shared(device).is_some() {
            let bonds = self.loose.iter().filter(|(of, _)| *of == device).count()
                + self.benches.iter().filter(|bench| bench.client.device == device).count();
            let disabled = self.rig.disable(device);
            if disabled.is_ok() != (bonds == 0) && !self.manner.silent {
                self.rig.judge.note(format!("disable of {device} with {bonds} bonds: {disabled:?}"));
            }
        } else if let Err(error) = self.rig.enable(device) {
            self.rig.judge.note(format!("enable of {device}: {error:?}"));
        }
    }

    fn forge(&mut self) {
        let Some((index, accel)) =
            self.rig.accels.iter().enumerate().find(|(_, accel)| accel.pcie().is_some())
        else {
            return;
        };
        let Some(model) = accel.pcie() else { return };
        let source = self.rig.accels[index].device.sources().first().copied().unwrap_or(SourceId(0));
        for _ in 0..1 + self.chance.below(200) {
            let bits = self.chance.next();
            let pasid = Pasid::new(u32::try_from(bits & 7).expect("3 bits")).filter(|_| bits & 8 != 0);
            let write = bits & 0x20 != 0;
            let request = PageRequest {
                source,
                pasid,
                privileged: false,
                execute: false,
                iova: Iova::new(bits & 0xffff_ffff_f000),
                group: u16::try_from(bits >> 48 & 0x1ff).expect("9 bits"),
                last: bits & 0x10 != 0,
                read: bits & 0x40 != 0,
                write,
            };
            model.pages().forge(&request);
        }
    }

    fn misbehave(&mut self) {
        let late = if self.manner.late == 0 { 0 } else { self.below(u64::from(self.manner.late)) };
        let never = self.manner.silent && self.chance.once_in(4);
        let twice = self.manner.forging && self.chance.once_in(4);
        let never_last = self.manner.forging && self.chance.once_in(8);
        for accel in self.rig.accels.iter().filter_map(|accel| accel.pcie()) {
            let late = u32::try_from(late).expect("small");
            accel.atc().behave(Behaviour {
                answer_after_steps: late,
                answer_twice: twice,
                never_answer: never,
                ..Behaviour::default()
            });
            accel.pages().behave(PageBehaviour { never_last, ..PageBehaviour::default() });
        }
    }

    fn behave(&self) {
        for accel in self.rig.accels.iter().filter_map(|accel| accel.pcie()) {
            accel.atc().behave(Behaviour::default());
            accel.pages().behave(PageBehaviour::default());
        }
    }

    /// Looks at what jobs have done, and at the canaries.
    fn look(&mut self) {
        let lies = self.manner.forging || self.manner.silent || self.manner.impatient;
        for bench in &mut self.benches {
            for ended in bench.client.ended() {
                let key =
                    |expected: &Expected| expected.0 == ended.job.source && expected.1 == ended.job.dest;
                let Some(place) = bench.expects.iter().position(key) else { continue };
                bench.expects.remove(place);
                if ended.job.algorithm == Algorithm::Deflate {
                    bench.compressed = (ended.outcome.status == portcullis::accel::Status::Done)
                        .then_some(ended.outcome.produced);
                }
                match did_right(&bench.client.process, &ended) {
                    Some(Ok(())) => self.checked += 1,
                    Some(Err(error)) => self.rig.judge.note(error),
                    None if lies || bench.client.process.process().has_exited() => {}
                    None => self
                        .rig
                        .judge
                        .note(format!("one-answer: pages that are there were refused: {ended:x?}")),
                }
            }
        }
        for actor in &self.actors {
            let found = actor.process.read(actor.canary.first(), actor.pattern.len());
            if found.as_ref().ok() != Some(&actor.pattern) {
                let id = actor.process.id();
                self.rig.judge.note(format!("isolation: {id:?}: somebody wrote where nobody may"));
            }
        }
    }

    /// Lets everything come to its end, and closes.
    fn end(mut self) -> Report {
        self.behave();
        let healthy = self.rig.judge.wrongs().is_empty();
        for turn in 0.. {
            self.rig.step(4);
            self.rig.serve();
            self.look();
            let busy =
                self.benches.iter().any(|bench| bench.client.under_way() > 0 && !bench.client.failed());
            if !busy || turn > 3000 {
                // A device that lied about its requests may have to wait for what it never asked for.
                if busy && healthy && !self.manner.forging && !self.manner.silent {
                    self.rig.judge.note("liveness: a job does not end");
                }
                break;
            }
        }
        for mut bench in core::mem::take(&mut self.benches) {
            let abort = self.manner.forging || self.manner.silent;
            match bench.client.stop(abort, || self.rig.serve()) {
                Ok(bond) => self.loose.push((bench.client.device, bond)),
                Err(error) => self.rig.judge.note(error),
            }
        }
        for (device, bond) in core::mem::take(&mut self.loose) {
            if let Err(error) = unbind(&self.rig, device, &bond) {
                self.rig.judge.note(format!("unbind at the end: {error:?}"));
            }
        }
        self.actors.iter().for_each(|actor| actor.process.exit());
        self.actors.clear();
        let counted = self.rig.iommu.counted();
        let mut report = Report {
            checked: self.checked,
            wild: self.wild,
            accesses: self.rig.judge.seen(),
            faults: counted.faults,
            automatic: counted.automatic,
            wrongs: Vec::new(),
        };
        report.wrongs = self.rig.finish();
        if self.manner.silent {
            // What hardware never confirmed is kept, and the device cannot be disabled.
            report.wrongs.retain(|wrong| !wrong.starts_with("no-leak: ") && !wrong.starts_with("disabling "));
        }
        report
    }
}
