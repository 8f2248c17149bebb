//! Which faults are armed, which fire, and in which operation they did.

use core::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::Mutex;

use super::FaultKind;
use crate::cover::Coverage;
use crate::hub::locked;
use crate::life::OpKind;

/// The faults of a life.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    /// How many more chances pass before it fires; 0 if it is not armed.
    armed: [AtomicU32; FaultKind::COUNT],
    /// Which operation is under way.
    current: AtomicUsize,
    /// How many fired since the operation began.
    fired: AtomicU64,
    /// How many of them keep hardware from confirming.
    unconfirmed: AtomicU64,
    met: Mutex<Coverage>,
}

impl Faults {
    /// Arms one: it fires at the `n`-th chance, from 1.
    pub(crate) fn arm(&self, kind: FaultKind, n: u32) {
        self.armed[kind as usize].store(n.max(1), Relaxed);
    }

    /// Disarms what has not fired.
    pub(crate) fn disarm(&self) {
        self.armed.iter().for_each(|armed| armed.store(0, Relaxed));
    }

    /// Disarms what has not fired, but for one kind.
    pub(crate) fn disarm_but(&self, spared: Option<FaultKind>) {
        let others = FaultKind::ALL.into_iter().filter(|&kind| Some(kind) != spared);
        others.for_each(|kind| self.armed[kind as usize].store(0, Relaxed));
    }

    /// Which operation is under way.
    pub(crate) fn current(&self) -> OpKind {
        OpKind::ALL[self.current.load(Relaxed)]
    }

    pub(crate) fn is_armed(&self, kind: FaultKind) -> bool {
        self.armed[kind as usize].load(Relaxed) != 0
    }

    /// Whether any has still to fire.
    pub(crate) fn any_is_armed(&self) -> bool {
        self.armed.iter().any(|armed| armed.load(Relaxed) != 0)
    }

    /// A chance for a fault to fire. Whoever is told `true` does what it says, and nothing else counts as its having fired.
    pub(crate) fn fires(&self, kind: FaultKind) -> bool {
        let armed = &self.armed[kind as usize];
        let left = armed.load(Relaxed);
        if left == 0 {
            return false;
        }
        armed.store(left - 1, Relaxed);
        if left == 1 {
            self.fired(kind);
        }
        left == 1
    }

    /// A fault was seen to fire.
    pub(crate) fn fired(&self, kind: FaultKind) {
        // What a device sends is no reason for anybody's failing.
        self.fired.fetch_add(u64::from(!kind.is_of_devices()), Relaxed);
        let unconfirmed = matches!(kind, FaultKind::CommandError | FaultKind::NoSync | FaultKind::AtcNever);
        self.unconfirmed.fetch_add(u64::from(unconfirmed), Relaxed);
        let current = self.current();
        locked(&self.met).meet(current, kind);
    }

    /// A device did what it must not, or somebody died: nothing that anybody's failure could be excused with.
    pub(crate) fn happened(&self, kind: FaultKind) {
        let current = self.current();
        locked(&self.met).meet(current, kind);
    }

    /// A fault that is an operation's own fired in the middle of another.
    pub(crate) fn fired_in(&self, op: OpKind, kind: FaultKind) {
        locked(&self.met).meet(op, kind);
    }

    /// An operation begins. Answers which was under way before.
    pub(crate) fn begin(&self, kind: OpKind) -> usize {
        self.current.swap(kind as usize, Relaxed)
    }

    /// It has returned; the one that was under way before is again.
    pub(crate) fn end(&self, before: usize) {
        self.current.store(before, Relaxed);
    }

    /// How many have fired so far.
    pub(crate) fn count(&self) -> u64 {
        self.fired.load(Relaxed)
    }

    /// How many have fired so far that keep hardware from confirming something.
    pub(crate) fn unconfirmed(&self) -> u64 {
        self.unconfirmed.load(Relaxed)
    }

    pub(crate) fn coverage<T>(&self, look: impl FnOnce(&mut Coverage) -> T) -> T {
        look(&mut locked(&self.met))
    }
}
