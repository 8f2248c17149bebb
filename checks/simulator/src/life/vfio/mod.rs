//! Lives with users: devices go between the kernel's drivers and processes that have nothing but system calls, on SMMUs and on a POWER8 bridge.
//!
//! What users say goes in as the bytes of the interface; what they may reach is told to the shadow by what their calls answered: granted by a map that
//! returned, taken by an unmap that did.
//!
//! | file | what |
//! |---|---|
//! | `op`, `plan` | calls as values, and how often they come |
//! | `world` | the machine, and who has what |
//! | `task` | a user: memory, pins, open files |
//! | `files` | opening, joining, leaving, closing, dying |
//! | `type1`, `spapr` | mapping by the two kinds of containers |
//! | `kernel` | the kernel's own drivers |
//! | `hot` | endpoints that come and go, and bridges |
//! | `device` | what devices do, also in the middle of operations |
//! | `audit` | all tables in memory, against the shadow |
//! | `end` | teardown, and what must be true then |
//! | `broken` | tests: each promise is broken, and somebody objects |

mod audit;
#[cfg(test)]
mod broken;
mod device;
mod end;
mod files;
mod hot;
mod kernel;
mod op;
mod plan;
mod spapr;
mod task;
mod type1;
mod world;

use core::panic::AssertUnwindSafe;
use core::sync::atomic::Ordering::Relaxed;
use std::panic::catch_unwind;
use std::sync::Arc;

use portcullis::vfio::Errno;

pub(crate) use op::Call;
pub(super) use plan::{CALLS, POWER, before};
use world::{Container, Iron, USERS, UserWorld};

use super::audit::EVERY;
use super::end::what_is_left;
use super::{Done, Manner, Op, OpKind, Report, Step, salt, unborn, words};
use crate::cover::apart;
use crate::fault::FaultKind;
use crate::hub::{Turns, locked};
use crate::machine::{Spec, forget_held};
use crate::options::Summary;
use crate::oracle::Wrong;
use crate::promise::Promise;

/// Lives a life.
pub(super) fn live(manner: Manner, spec: &Spec, plan: &[Step]) -> Report {
    let world = match catch_unwind(|| UserWorld::new(manner.seed, spec, manner.lines)) {
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
fn buried(world: Arc<UserWorld>, at: u64) -> Report {
    let mut report = world.report(at);
    world.dismantle();
    let bus = world.bus.clone();
    // What hardware never confirmed to have forgotten may be kept for good.
    let excused = world.hub.faults.unconfirmed() > 0;
    drop(world);
    report.wrong = report.wrong.or_else(|| Some((what_is_left(bus, (!excused).then_some(0))?, at)));
    report
}

/// How things were before an operation.
pub(super) struct Before {
    fired: u64,
    unconfirmed: u64,
    blocks: usize,
    pins: u64,
    locked: u64,
    /// Some mapping waits for hardware's word: whoever asks again may give its pages back, whatever becomes of his call.
    waits: bool,
    died: u64,
    /// Some group was left blocked: whoever gives it back makes tables for it.
    stuck: bool,
    /// Tables that stay even if the operation fails.
    may_add: usize,
}

impl UserWorld {
    fn live(self: &Arc<Self>, seed: u64, plan: &[Step], at: &mut u64) {
        let turns: Arc<dyn Turns> = self.clone();
        self.hub.give_turns(Arc::downgrade(&turns), self.span);
        self.hub.begin(salt(seed, u32::MAX));
        self.users_come();
        for step in plan {
            *at = u64::from(step.index);
            self.hub.begin(salt(seed, step.index));
            self.one(step);
            if step.index % EVERY == EVERY - 1 {
                self.audit();
            }
            if self.hub.is_wrong() {
                return;
            }
        }
        *at += 1;
        self.audit();
        self.hub.begin(salt(seed, u32::MAX - 1));
        let armed = plan.last().and_then(|step| match step.op {
            Op::Arm { fault, .. } => Some(fault),
            _ => None,
        });
        self.end(armed);
    }

    /// At the beginning each user has a container and a group, if there is one for him; in some lives none has.
    fn users_come(&self) {
        if self.hub.below(4) == 0 {
            return;
        }
        for user in 0..self.users.len().min(self.groups.len()) {
            let group = u8::try_from(user).expect("few users");
            self.open_container(user);
            self.open_group(user, group);
            self.set_container(user, group, 0);
            self.set_iommu(user, 0, 0);
            self.register_memory(user, 0, 0, 32);
        }
    }

    fn one(&self, step: &Step) {
        if let Op::Arm { fault, n } = step.op {
            self.hub.faults.arm(fault, u32::from(n));
            self.hub.trace(|trace| {
                trace.say(|| format!("{:>6}  arm {} at its chance {n}", step.index, fault.name()))
            });
            return;
        }
        let Some(kind) = step.op.kind() else { return };
        let fired = self.hub.faults.count();
        let done = self.during(kind, || self.apply(&step.op));
        self.go_on();
        let now_ns = self.bus.now_ns();
        self.hub.trace(|trace| {
            if done != Done::Skipped {
                trace.note(&[u64::from(step.index), done as u64, now_ns]);
                trace.say(|| format!("{:>6}  {:?}: {done:?}", step.index, step.op));
            }
        });
        if self.hub.faults.count() > fired {
            self.hub.trace(|trace| trace.say(|| "        a fault fired in it".into()));
        }
        self.look_after(kind);
    }

    /// Lets time pass.
    pub(super) fn pass(&self, turns: u32) {
        for _ in 0..turns {
            self.bus.step();
        }
    }

    /// Hardware that was held back goes on.
    fn go_on(&self) {
        if self.hub.is_held() {
            self.hub.end();
            self.pass(64);
        }
        if let Iron::Power { registers, .. } = &self.iron {
            registers.speak();
        }
    }

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
            Op::Map { device, slot, pages, direction, .. } => self.kernel_map(device, slot, pages, direction),
            Op::Unmap { slot } => self.kernel_unmap(usize::from(slot)),
            Op::BindDriver { device } => self.bind_driver(device),
            Op::UnbindDriver { device } => self.unbind_driver(self.device_index(device)),
            Op::Dma { device, source, pick, write, offset, len } => {
                self.device_access(device, source, pick, write, offset, len)
            }
            Op::Step { turns } => {
                self.pass(turns.into());
                Done::Succeeded
            }
            Op::Die { user } => self.die(usize::from(user) % self.users.len()),
            Op::Reset { device } => self.reset(self.device_index(device)),
            Op::Remove { device } => self.remove(device),
            Op::Add { device } => self.add(device),
            Op::Probe { shape } => self.probe(shape),
            Op::Call(call) => {
                self.acting.store(call.user().map_or(USERS, |user| usize::from(user) % USERS), Relaxed);
                let done = self.call(call);
                self.acting.store(USERS, Relaxed);
                done
            }
            _ => Done::Skipped,
        }
    }

    fn call(&self, call: Call) -> Done {
        let who = |user: u8| usize::from(user) % self.users.len();
        match call {
            Call::OpenContainer { user } => self.open_container(who(user)),
            Call::OpenGroup { user, group } => self.open_group(who(user), group),
            Call::SetContainer { user, group, container } => self.set_container(who(user), group, container),
            Call::UnsetContainer { user, group } => self.unset_container(who(user), group),
            Call::SetIommu { user, container, kind } => self.set_iommu(who(user), container, kind),
            Call::OpenDevice { user, device } => self.open_device(who(user), device),
            Call::Close { user, pick } => self.close(who(user), pick),
            Call::DeviceReset { user, device } => self.device_reset(who(user), device),
            Call::SetIrqs { user, device, bits } => self.set_irqs(who(user), device, bits),
            Call::Region { user, device, bits } => self.region(who(user), device, bits),
            Call::MapDma { user, container, place, page, pages, flags } => {
                self.map_dma(who(user), container, place, (page, pages), flags)
            }
            Call::UnmapDma { user, container, pick, bits } => {
                self.unmap_dma(who(user), container, pick, bits)
            }
            Call::UnmapAll { user, container } => self.unmap_all(who(user), container),
            Call::BadBytes { user, pick, request, bits } => self.bad_bytes(who(user), pick, request, bits),
            Call::Reclaim => self.reclaim(),
            Call::RegisterMemory { user, container, page, pages } => {
                self.register_memory(who(user), container, page, pages)
            }
            Call::UnregisterMemory { user, container, pick } => {
                self.unregister_memory(who(user), container, pick)
            }
            Call::CreateWindow { user, container, bits } => self.create_window(who(user), container, bits),
            Call::RemoveWindow { user, container, which } => self.remove_window(who(user), container, which),
            Call::TceEnable { user, container, on } => self.tce_enable(who(user), container, on),
            Call::Eeh { user, container, op } => self.eeh(who(user), container, op),
        }
    }

    fn look_after(&self, kind: OpKind) {
        self.events_were_lost(kind);
        let uses = self.bus.cpu().ram().freed_use_count();
        if uses > 0 {
            let first = self.bus.cpu().ram().freed_uses().into_iter().next();
            let what = format!("hardware used memory that was freed, in {}: {first:?}", kind.name());
            self.hub.object(Wrong::new(Promise::Reclaim, what));
        }
        if self.step() & 0x3f == 0 {
            self.nothing_is_forbidden();
        }
    }

    /// Nothing was done to hardware that its book forbids.
    fn nothing_is_forbidden(&self) {
        let forbidden = match &self.iron {
            Iron::Power { model, .. } => model.take_unpredictable().into_iter().next(),
            Iron::Units(units) => {
                let doubted = self.hub.faults.unconfirmed() > 0;
                units.iter().enumerate().find_map(|(index, (iron, _))| {
                    let tap = self.hub.tap(index);
                    iron.take_unpredictable().into_iter().find(|one| !iron.is_excused(one, tap, doubted))
                })
            }
        };
        self.hub.hold(Promise::Book, forbidden.is_none(), || format!("{forbidden:?}"));
    }

    /// Whether event queues lost something in an operation in which accesses can be refused.
    fn events_were_lost(&self, kind: OpKind) {
        if self.lost_events() && apart(kind, FaultKind::EventOverflow).is_none() {
            self.hub.faults.fired_in(kind, FaultKind::EventOverflow);
        }
    }

    /// Whether they have since this was last asked.
    fn lost_events(&self) -> bool {
        let Iron::Units(units) = &self.iron else { return false };
        let lost = units.iter().map(|(model, _)| model.events_lost()).sum();
        lost > self.events_lost.swap(lost, Relaxed)
    }

    fn before(&self) -> Before {
        Before {
            fired: self.hub.faults.count(),
            unconfirmed: self.hub.faults.unconfirmed(),
            blocks: self.bus.cpu().heap().used().live_blocks,
            pins: self.book.pins(),
            locked: self.locked(),
            waits: locked(&self.containers).iter().flatten().any(Container::waits),
            died: self.died_meanwhile.load(Relaxed),
            stuck: self.groups.iter().any(|group| locked(&group.held).stuck),
            may_add: 0,
        }
    }

    /// What all users have locked.
    fn locked(&self) -> u64 {
        self.users.iter().map(|user| user.memory.locked.load(Relaxed)).sum()
    }

    /// Whether hardware does not go on at this moment.
    fn is_held(&self) -> bool {
        let silent = matches!(&self.iron, Iron::Power { registers, .. } if registers.are_silent());
        silent || self.hub.is_held()
    }

    /// Whether a fault has fired since.
    fn fired(&self, before: &Before) -> bool {
        self.fired_since(before.fired)
    }

    /// Whether one has since there were so many.
    fn fired_since(&self, fired: u64) -> bool {
        self.hub.faults.count() > fired || self.is_held()
    }

    /// Whether hardware has not confirmed something since.
    fn unconfirmed(&self, before: &Before) -> bool {
        self.hub.faults.unconfirmed() > before.unconfirmed || self.is_held()
    }

    /// Whether some container, or what one left, waits for hardware to confirm.
    fn doubted(&self) -> bool {
        !locked(&self.left).is_empty() || locked(&self.containers).iter().flatten().any(|one| one.doubt)
    }

    /// A call has failed: its error fits, and nothing is as it was not before.
    fn refused(&self, before: &Before, errno: Errno, what: &str) -> Done {
        let blames = matches!(errno, Errno::Eio | Errno::Enomem);
        let excused = self.fired(before) || self.doubted();
        self.hub.hold(Promise::Service, !blames || excused, || {
            format!("{what}: nothing was wrong, and yet {errno:?}")
        });
        let alone = self.died_meanwhile.load(Relaxed) == before.died;
        if !self.unconfirmed(before) && !self.doubted() && alone {
            let now = self.before();
            // Levels of TCE tables that were made stay until their table goes.
            let most = before.blocks + before.may_add;
            let tables = self.is_power() || before.stuck || now.blocks <= most;
            let held = if before.waits {
                now.pins <= before.pins && now.locked <= before.locked
            } else {
                (now.pins, now.locked) == (before.pins, before.locked)
            };
            let same = held && tables;
            self.hub.hold(Promise::Unwind, same, || {
                format!(
                    "{what} failed ({errno:?}): blocks {} and then {}, pins {} and {}, locked {} and {}",
                    before.blocks, now.blocks, before.pins, now.pins, before.locked, now.locked
                )
            });
        }
        Done::Refused
    }

    fn report(&self, at: u64) -> Report {
        let mut summary = Summary {
            steps: self.steps.load(Relaxed),
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
