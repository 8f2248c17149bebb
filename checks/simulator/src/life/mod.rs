//! A life: a machine, a plan, and one operation after the other under the oracle's eyes.
//!
//! | file | what |
//! |---|---|
//! | `op`, `plan`, `focus` | operations as values; drawing them; which faults they are to meet |
//! | `world` | the machine and what everybody has |
//! | `dma`, `own`, `user`, `hot`, `device`, `sva`, `irq` | what operations do |
//! | `turn`, `flip` | what happens in the middle of them |
//! | `audit` | all tables in memory, against the shadow |
//! | `crowd` | the same on several threads |
//! | `vfio` | lives with users, on machines of their own |
//! | `end` | teardown, and what must be true then |
//! | `broken` | tests: each promise is broken, and somebody objects |
//! | `kept` | tests: it looks as if one were broken, and nobody objects |

mod audit;
#[cfg(test)]
mod broken;
mod crowd;
mod device;
mod dma;
mod end;
mod flip;
mod focus;
mod hot;
mod irq;
#[cfg(test)]
mod kept;
mod op;
mod own;
mod plan;
mod sva;
mod turn;
mod user;
mod vfio;
mod world;

use core::fmt::Debug;
use core::panic::AssertUnwindSafe;
use core::sync::atomic::Ordering::Relaxed;
use std::panic::catch_unwind;
use std::sync::Arc;

pub(crate) use crowd::crowd;
pub(crate) use focus::next_seed;
pub use op::OpKind;
pub(crate) use op::{Op, Pick};
pub(crate) use plan::{Step, draw};
pub(crate) use world::World;

use portcullis::core::dma::DmaHandle;

use crate::hub::{Turns, locked};
use crate::machine::{SimPlatform, Spec, forget_held};
use crate::options::{MachineKind, Summary};
use crate::oracle::{Shadow, Wrong};
use crate::promise::Promise;

/// What became of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Done {
    /// There was nothing to do it with.
    Skipped,
    /// It succeeded.
    Succeeded,
    /// It was refused, or failed.
    Refused,
}

/// How things were before an operation.
pub(crate) struct Before {
    fired: u64,
    unconfirmed: u64,
    nested: u64,
    blocks: usize,
    failed_syncs: u64,
    live: u64,
    /// Somebody else's fault holds hardware back.
    held: bool,
}

/// What a life came to.
pub(crate) struct Report {
    pub(crate) summary: Summary,
    /// What was wrong, and in which step of the plan.
    pub(crate) wrong: Option<(Wrong, u64)>,
    pub(crate) lines: Vec<String>,
}

/// How a life is to be lived.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Manner {
    pub(crate) seed: u64,
    pub(crate) machine: MachineKind,
    /// Whether a trace is to be read.
    pub(crate) lines: bool,
}

/// Lives a life.
pub(crate) fn live(manner: Manner, plan: &[Step]) -> Report {
    let spec = Spec::draw(manner.seed, manner.machine);
    if matches!(spec.kind, MachineKind::Vfio | MachineKind::Power8) {
        return vfio::live(manner, &spec, plan);
    }
    let world = match catch_unwind(|| World::new(manner.seed, spec, manner.lines)) {
        Ok(Ok(world)) => world,
        Ok(Err(error)) => return unborn(error),
        Err(panic) => return unborn(words(&*panic)),
    };
    let mut at = 0;
    let lived = catch_unwind(AssertUnwindSafe(|| world.live(manner.seed, plan, &mut at)));
    if let Err(panic) = lived {
        forget_held();
        world.hub.object(Wrong::new(Promise::Alive, format!("a panic: {}", words(&*panic))));
    }
    buried(world, at)
}

/// What a life came to, and whether anything of it is left.
fn buried(world: Arc<World>, at: u64) -> Report {
    let mut report = world.report(at);
    world.dismantle();
    let bus = world.bus.clone();
    // What hardware never confirmed to have forgotten may be kept for good.
    let excused = world.doubted() || world.lost.load(Relaxed) || world.hub.has_flipped();
    let kept = world.kept.load(Relaxed);
    drop(world);
    report.wrong = report.wrong.or_else(|| Some((end::what_is_left(bus, (!excused).then_some(kept))?, at)));
    report
}

fn unborn(error: String) -> Report {
    forget_held();
    let wrong = Wrong::new(Promise::Service, format!("the machine does not boot: {error}"));
    Report { summary: Summary::default(), wrong: Some((wrong, 0)), lines: Vec::new() }
}

fn words(panic: &(dyn core::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|&text| text.into())).unwrap_or_else(|| "?".into())
}

/// Whether the next operation of a plan serves interrupts.
fn next_serves(plan: &[Step]) -> bool {
    let next = plan.iter().find_map(|step| step.op.kind());
    next == Some(OpKind::Serve)
}

/// Stirs the place of an operation in its plan into a life's seed.
fn salt(seed: u64, index: u32) -> u64 {
    crate::trace::mix(seed, u64::from(index) + 1)
}

impl World {
    fn live(self: &Arc<Self>, seed: u64, plan: &[Step], at: &mut u64) {
        let turns: Arc<dyn Turns> = self.clone();
        self.hub.give_turns(Arc::downgrade(&turns), self.spec.span);
        self.hub.begin(salt(seed, u32::MAX));
        self.all_devices_come();
        for (place, step) in plan.iter().enumerate() {
            *at = u64::from(step.index);
            self.hub.begin(salt(seed, step.index));
            self.one(step, next_serves(&plan[place + 1..]));
            if step.index % audit::EVERY == audit::EVERY - 1 {
                self.audit();
            }
            if self.hub.is_wrong() {
                return;
            }
        }
        *at += 1;
        self.audit();
        self.hub.begin(salt(seed, u32::MAX - 1));
        // What the last step arms is for the end.
        let armed = plan.last().and_then(|step| match step.op {
            Op::Arm { fault, .. } => Some(fault),
            _ => None,
        });
        self.end(armed);
    }

    /// Does one operation of the plan; `served`: the next one serves interrupts.
    fn one(&self, step: &Step, served: bool) {
        if let Op::Arm { fault, n } = step.op {
            self.hub.faults.arm(fault, u32::from(n));
            self.hub.trace(|trace| {
                trace.say(|| format!("{:>6}  arm {} at its chance {n}", step.index, fault.name()))
            });
            return;
        }
        let Some(kind) = step.op.kind() else { return };
        let (fired, unconfirmed) = (self.hub.faults.count(), self.hub.faults.unconfirmed());
        let done = self.during(kind, || self.apply(&step.op));
        self.go_on();
        self.hardware_hears(unconfirmed, served);
        let now_ns = self.bus.now_ns();
        self.hub.trace(|trace| {
            if done != Done::Skipped {
                self.planned.fetch_add(1, Relaxed);
                trace.note(&[u64::from(step.index), done as u64, now_ns]);
                trace.say(|| format!("{:>6}  {:?}: {done:?}", step.index, step.op));
            }
        });
        if self.hub.faults.count() > fired {
            self.hub.trace(|trace| trace.say(|| "        a fault fired in it".into()));
        }
        self.look_after(kind);
    }

    /// Hardware that was held back goes on, and comes to what it was told meanwhile.
    fn go_on(&self) {
        if self.hub.is_held() {
            self.hub.end();
            self.pass(64);
        }
    }

    /// Hardware takes commands again: what it could not be told is told now, as interrupts of errors are served, and from then on who is blocked is. If the next operation of the
    /// plan serves them (`served`), it is told then. `unconfirmed` were the faults that keep hardware from confirming.
    fn hardware_hears(&self, unconfirmed: u64, served: bool) {
        let deaf = self.hub.faults.unconfirmed() > unconfirmed;
        if !self.deaf.fetch_or(deaf, Relaxed) && !deaf {
            self.hub.shadow(Shadow::told);
            return;
        }
        if served {
            return;
        }
        let fired = self.hub.faults.count();
        let outer = self.hub.faults.begin(OpKind::Serve);
        for unit in &self.units {
            let _errors = unit.unit.handle_errors();
        }
        self.hub.faults.end(outer);
        if self.hub.faults.count() == fired && !self.hub.is_held() {
            self.deaf.store(false, Relaxed);
            self.hub.shadow(Shadow::told);
        }
    }

    /// Counts an operation, and lets faults that fire know in which one they did.
    fn during(&self, kind: OpKind, work: impl FnOnce() -> Done) -> Done {
        let outer = self.hub.faults.begin(kind);
        let done = work();
        self.hub.faults.end(outer);
        let mut coverage = locked(&self.coverage);
        match done {
            Done::Skipped => coverage.skip(kind),
            Done::Succeeded => coverage.did(kind),
            Done::Refused => coverage.was_refused(kind),
        }
        drop(coverage);
        if done != Done::Skipped {
            self.hub.shadow(|shadow| shadow.step = self.steps.fetch_add(1, Relaxed) + 1);
        }
        done
    }

    fn apply(&self, op: &Op) -> Done {
        match *op {
            Op::Map { device, slot, pages, offset, direction } => {
                self.map(device, slot, pages, offset, direction)
            }
            Op::Scatter { device, slot, count, shape, direction } => {
                self.scatter(device, slot, count, shape, direction)
            }
            Op::Unmap { slot } => self.unmap(slot),
            Op::Coherent { device, slot, bytes } => self.coherent(device, slot, bytes),
            Op::FreeCoherent { slot } => self.free_coherent(slot),
            Op::Flush { device } => self.flush(device),
            Op::Poll { device, micros } => self.poll(device, micros),
            Op::Message { device } => self.message(device),
            Op::BindDriver { device } => self.bind_driver(device),
            Op::UnbindDriver { device } => self.unbind_driver(device),
            Op::Claim { device, user, whole } => self.claim(device, user, whole),
            Op::Release { device, user, whole } => self.release(device, user, whole),
            Op::NewDomain { domain, device } => self.new_domain(domain, device),
            Op::DropDomain { domain } => self.drop_domain(domain),
            Op::UserMap { domain, page, pages, perms, runs } => {
                self.user_map(domain, page, pages, perms, runs)
            }
            Op::UserUnmap { domain, page, pages, sync } => self.user_unmap(domain, page, pages, sync),
            Op::UserSync { domain } => self.user_sync(domain),
            Op::Attach { device, domain, user } => self.attach(device, domain, user),
            Op::Detach { device, user } => self.detach(device, user),
            Op::SetType { device, lazy } => self.set_type(device, lazy),
            Op::Remove { device } => self.remove(device),
            Op::Add { device } => self.add(device),
            Op::Dma { device, source, pick, write, offset, len } => {
                self.device_access(device, source, pick, write, offset, len)
            }
            Op::Step { turns } => {
                self.pass(turns.into());
                Done::Succeeded
            }
            Op::Serve { unit } => self.serve(usize::from(unit) % self.units.len()),
            Op::Die { user } => self.die(user),
            Op::Spawn { process } => self.spawn(process),
            Op::ProcessMap { process, area, pages } => self.process_map(process, area, pages),
            Op::ProcessUnmap { process, area, page, pages } => self.process_unmap(process, area, page, pages),
            Op::Protect { process, area, page, pages, perms } => {
                self.protect(process, area, page, pages, perms)
            }
            Op::Touch { process, area, page, write } => self.touch(process, area, page, write),
            Op::Fork { process, child } => self.fork(process, child),
            Op::Exit { process } => self.exit(process),
            Op::Bind { device, process, bond } => self.bind(device, process, bond),
            Op::Unbind { bond } => self.unbind(bond),
            Op::Enable { device } => self.enable(device),
            Op::Disable { device } => self.disable(device),
            Op::SharedDma { bond, area, page, write, offset } => {
                self.shared_dma(bond, area, page, write, offset)
            }
            Op::PageRequest { device, bits, count } => self.page_requests(device, bits, count),
            Op::Translated { device, pick, write } => self.forge_translated(device, pick, write),
            Op::TakeIrqs { device, place, count_lg2, bits } => self.take_irqs(device, place, count_lg2, bits),
            Op::MoveIrq { place, index, bits } => self.move_irq(place, index, bits),
            Op::ClearIrq { place, index } => self.clear_irq(place, index),
            Op::FreeIrqs { place } => self.free_irqs(place),
            Op::RaiseIrq { device, source, place, index, forge } => {
                self.raise_irq(device, source, place, index, forge)
            }
            Op::Reset { device } => self.reset(device),
            Op::Probe { shape } => self.probe(shape),
            Op::Call(_) | Op::Arm { .. } => Done::Skipped,
        }
    }

    /// What is looked at after every operation: cheap things.
    fn look_after(&self, kind: OpKind) {
        self.look_at_judge();
        if matches!(kind, OpKind::Bind | OpKind::Unbind | OpKind::Exit | OpKind::Disable) {
            self.audit_pasids();
        }
        self.events_were_lost(kind);
        let uses = self.bus.cpu().ram().freed_use_count();
        // What a spoiled device's walks come to is nobody's.
        if uses > 0 && !self.hub.has_flipped() {
            let first = self.bus.cpu().ram().freed_uses().into_iter().next();
            let what = format!("hardware used memory that was freed, in {}: {first:?}", kind.name());
            self.hub.object(Wrong::new(Promise::Reclaim, what));
        }
    }

    /// Lets time pass.
    fn pass(&self, turns: u32) {
        for _ in 0..turns {
            self.bus.step();
        }
    }

    fn step(&self) -> u64 {
        self.steps.load(Relaxed)
    }

    fn before(&self, dma: Option<&DmaHandle<SimPlatform>>) -> Before {
        let stats = dma.map(DmaHandle::stats).unwrap_or_default();
        Before {
            fired: self.hub.faults.count(),
            unconfirmed: self.hub.faults.unconfirmed(),
            nested: self.nested.load(Relaxed),
            blocks: self.bus.cpu().heap().used().live_blocks,
            failed_syncs: stats.failed_syncs,
            live: stats.live,
            held: self.hub.is_held(),
        }
    }

    /// Whether somebody else did something in the middle.
    fn crowded(&self, before: &Before) -> bool {
        self.crowded.load(Relaxed) || self.nested.load(Relaxed) > before.nested
    }

    /// An error that blames hardware or memory must have a fault behind it.
    fn excuse(&self, before: &Before, error: &dyn Debug) {
        if self.had_reason(before) {
            return;
        }
        let text = format!("{error:?}");
        // It was found, and not followed.
        if self.hub.has_flipped() && text.contains("CorruptTable") {
            return;
        }
        const BLAMES: [&str; 8] = [
            "Sync(",
            "Timeout",
            "NoMemory",
            "NoTableMemory",
            "CorruptTable",
            "NotFlushed",
            "LeftBlocked",
            "Failed",
        ];
        let blames = BLAMES.iter().any(|word| text.contains(word));
        self.hub.hold(Promise::Service, !blames, || format!("nothing was wrong, and yet: {text}"));
    }

    /// The same of an operation that asks for nothing which it could be refused: whatever the error is.
    fn excuse_any(&self, before: &Before, error: &dyn Debug) {
        let excused = self.had_reason(before) || self.hub.has_flipped();
        self.hub.hold(Promise::Service, excused, || format!("nothing was wrong, and yet: {error:?}"));
    }

    /// Whether an operation may have failed for something that happened in it.
    fn had_reason(&self, before: &Before) -> bool {
        self.hub.faults.count() > before.fired || self.hub.is_held() || self.some_are_mute()
    }

    /// Whether a device answers nothing any more. It answers nobody, whosever invalidation made it fall silent.
    fn some_are_mute(&self) -> bool {
        self.devices.iter().any(|device| device.engine.is_mute())
    }

    /// Whether hardware may not have confirmed something in an operation: a fault in it kept it from that, or one of somebody else's held it back or made a device fall silent,
    /// in whose operation this one happened.
    fn unconfirmed(&self, before: &Before) -> bool {
        let held = before.held || self.hub.is_held();
        self.hub.faults.unconfirmed() > before.unconfirmed || held || self.some_are_mute()
    }

    /// An operation has failed: no memory is out that was not before. What hardware did not confirm may be kept.
    fn unwound(&self, before: &Before, doubt: bool, error: &dyn Debug) {
        let blocks = self.bus.cpu().heap().used().live_blocks;
        let unconfirmed = doubt || self.unconfirmed(before);
        let kept = blocks > before.blocks && !unconfirmed && !self.crowded(before);
        self.hub.hold(Promise::Unwind, !kept, || {
            format!(
                "it failed ({error:?}), and {} blocks of memory are out more than before",
                blocks - before.blocks
            )
        });
    }

    fn report(&self, at: u64) -> Report {
        let mut summary = Summary {
            steps: self.planned.load(Relaxed),
            nested: self.nested.load(Relaxed),
            hooks: self.hub.hooks(),
            lives: 1,
            audits: self.audits.load(Relaxed),
            accesses: self.hub.accesses(),
            refused: self.refused.load(Relaxed),
            ..Summary::default()
        };
        summary.checked = self.hub.shadow(|shadow| shadow.checked);
        summary.coverage = locked(&self.coverage).clone();
        self.hub.faults.coverage(|met| summary.coverage.add(met));
        summary.hash = self.hub.trace(|trace| trace.hash());
        let wrong = self.hub.first_wrong().map(|wrong| (wrong, at));
        Report { summary, wrong, lines: self.hub.trace(crate::trace::Trace::take_lines) }
    }
}

/// Which machine a seed draws.
pub(crate) fn kind_of(seed: u64, wanted: MachineKind) -> MachineKind {
    Spec::draw(seed, wanted).kind
}
