//! Interrupt lines: levels, and whoever they are wired to.
//!
//! A line is asserted while a register says so, and not otherwise: nothing is latched here. [`InterruptLines`] is told of changes only, with no lock of the model's
//! state held, and in an order in which the last word is true.
//!
//! Spec: SMMUv2 D.c, 3.6 "Fault interrupts".

use std::sync::{Arc, Mutex, PoisonError, TryLockError};

/// A line of the SMMU, for the Non-secure state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Line {
    /// SMMU_NSgIrpt: global faults but configuration access faults.
    Global,
    /// SMMU_NSgCfgIrpt: configuration access faults.
    Configuration,
    /// The line of a context bank.
    Context(u8),
}

/// What interrupt lines are wired to.
pub trait InterruptLines: Send + Sync {
    /// A line changed.
    fn set(&self, line: Line, asserted: bool);
}

/// Which lines are asserted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Levels {
    pub(crate) global: bool,
    pub(crate) configuration: bool,
    /// A bit for each context bank.
    pub(crate) contexts: u128,
}

impl Levels {
    fn level(&self, line: Line) -> bool {
        match line {
            Line::Global => self.global,
            Line::Configuration => self.configuration,
            Line::Context(bank) => self.contexts >> bank & 1 != 0,
        }
    }

    fn all() -> impl Iterator<Item = Line> {
        [Line::Global, Line::Configuration].into_iter().chain((0..128).map(Line::Context))
    }

    /// The lines that are asserted.
    pub(crate) fn asserted(&self) -> Vec<Line> {
        Self::all().filter(|&line| self.level(line)).collect()
    }
}

#[derive(Default)]
struct Told {
    to: Option<Arc<dyn InterruptLines>>,
    last: Levels,
}

/// The wires: to whom they go, and what was told last.
#[derive(Default)]
pub(crate) struct Wires(Mutex<Told>);

impl Wires {
    /// Wires the lines. What is asserted already is told with the next change.
    pub(crate) fn connect(&self, to: Arc<dyn InterruptLines>) {
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *told = Told { to: Some(to), last: Levels::default() };
    }

    /// Tells what has changed, until what was told is what `now` says. If another thread is at it, or this one further up, that one
    /// looks again.
    pub(crate) fn settle(&self, now: impl Fn() -> Levels) {
        loop {
            let mut told = match self.0.try_lock() {
                Ok(told) => told,
                Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
                Err(TryLockError::WouldBlock) => return,
            };
            let Some(to) = told.to.clone() else { return };
            let mut level = now();
            while level != told.last {
                let last = core::mem::replace(&mut told.last, level);
                for line in Levels::all().filter(|&line| last.level(line) != level.level(line)) {
                    to.set(line, level.level(line));
                }
                level = now();
            }
            drop(told);
            // Somebody may have come between the last look and here, and gone away.
            if now() == level {
                return;
            }
        }
    }
}
