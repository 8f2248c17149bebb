//! Several threads on one world, for smoke: no schedule but the operating system's, no faults, and the oracle as ever.
//!
//! Which thread does an operation of the plan is fixed, in which order they come is not: such a life is no other run's again. Operations with the DMA API, of users in
//! their domains, of devices, and interrupts happen at once, and so does what processes do with their memory and devices in it; what moves groups, binds or ends processes happens
//! alone, for the shadow follows one mover. Which page a device reaches in a process is not judged: the table changes while it is looked at.
//!
//! # Locks
//!
//! `World::crowd` is held for reading by operations that happen at once, for writing by one that happens alone, around everything else.

use core::panic::AssertUnwindSafe;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::panic::catch_unwind;
use std::sync::{Arc, PoisonError};

use super::op::OpKind;
use super::world::World;
use super::{Manner, Report, Step, salt, unborn, words};
use crate::hub::Turns;
use crate::machine::{Spec, forget_held};
use crate::oracle::Wrong;
use crate::promise::Promise;

/// Threads share the bus's time with whoever waits, and an operating system stops them where it likes.
const PATIENCE_NS: u64 = 600_000_000_000;

/// Lives a life on several threads.
pub(crate) fn crowd(manner: Manner, plan: &[Step], threads: usize) -> Report {
    let mut spec = Spec::draw(manner.seed, manner.machine);
    (spec.span, spec.crowded) = (0, true);
    spec.units.iter_mut().for_each(|unit| unit.wait_limit_ns = PATIENCE_NS);
    let world = match World::new(manner.seed, spec, manner.lines) {
        Ok(world) => world,
        Err(error) => return unborn(error),
    };
    world.crowded.store(true, Relaxed);
    let last = AtomicU64::new(0);
    let safely = |work: &dyn Fn()| {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(work)) {
            forget_held();
            world.hub.object(Wrong::new(Promise::Alive, format!("a panic: {}", words(&*panic))));
        }
    };
    safely(&|| {
        let turns: Arc<dyn Turns> = world.clone();
        world.hub.give_turns(Arc::downgrade(&turns), 0);
        world.hub.begin(salt(manner.seed, u32::MAX));
        world.all_devices_come();
    });
    std::thread::scope(|scope| {
        for thread in 0..threads {
            let (world, last, safely) = (&world, &last, &safely);
            let mine = plan.iter().skip(thread).step_by(threads);
            scope.spawn(move || safely(&|| world.one_of_many(mine.clone(), last)));
        }
    });
    safely(&|| {
        world.crowded.store(false, Relaxed);
        if !world.hub.is_wrong() {
            world.audit();
            world.end(None);
        }
    });
    super::buried(world, last.load(Relaxed))
}

impl World {
    fn one_of_many<'a>(&self, steps: impl Iterator<Item = &'a Step>, last: &AtomicU64) {
        for step in steps {
            let Some(kind) = step.op.kind() else { continue };
            last.fetch_max(step.index.into(), Relaxed);
            let (mut alone, mut beside) = (None, None);
            if kind.is_beside_others() {
                beside = Some(self.crowd.read().unwrap_or_else(PoisonError::into_inner));
            } else {
                alone = Some(self.crowd.write().unwrap_or_else(PoisonError::into_inner));
            }
            self.hub.begin_beside();
            self.one(step, false);
            drop((alone, beside));
            if self.hub.is_wrong() {
                return;
            }
        }
    }
}

impl OpKind {
    /// Whether it may happen while others happen that may.
    fn is_beside_others(self) -> bool {
        matches!(
            self,
            Self::Map
                | Self::Scatter
                | Self::Unmap
                | Self::Flush
                | Self::Poll
                | Self::UserMap
                | Self::UserUnmap
                | Self::UserSync
                | Self::Dma
                | Self::Translated
                | Self::Step
                | Self::Serve
                | Self::ProcessMap
                | Self::ProcessUnmap
                | Self::Protect
                | Self::Touch
                | Self::SharedDma
        )
    }
}
