//! What holds of every model of a remapping unit, whatever is done to it, and how that is seen.
//!
//! Not here: what one kind of unit is told, and what holds of it besides (each target's own file).

use std::sync::Mutex;

use model_bus::{BusError, Clocked, Fabric, Outcome, Passage, SparseMemory, Stall, StallState, Translator};
use portcullis::types::Pa;

use crate::bytes::Bytes;

/// Steps after which it must rest.
const PATIENCE: u32 = 10_000;

/// It comes to rest.
pub(crate) fn settle(unit: &impl Clocked, memory: &SparseMemory) {
    assert!((0..PATIENCE).any(|_| !unit.step(memory.now_ns())), "it never comes to rest");
}

/// A look leaves what can be `seen` as it is.
pub(crate) fn look<S: PartialEq, T>(seen: impl Fn() -> S, look: impl FnOnce() -> T) -> T {
    let before = seen();
    let found = look();
    assert!(before == seen(), "a look changed something");
    found
}

/// An access is let through at most once, and is done if it was, and only then. Answers what became of it, and where it went.
pub(crate) fn watch(
    access: impl FnOnce(&mut dyn FnMut(Passage) -> Result<(), BusError>) -> Outcome,
) -> (Outcome, Option<Pa>) {
    let mut went = None;
    let outcome = access(&mut |passage| {
        assert_eq!(went, None, "let through twice");
        went = Some(passage.pa);
        Ok(())
    });
    assert_eq!(outcome == Outcome::Done, went.is_some(), "{outcome:?}");
    (outcome, went)
}

/// What is reached has no more bits than an address has there, and does not cross a page.
pub(crate) fn check_reach(pa: Pa, len_bytes: u32, bits: u8) {
    let last = pa.get().checked_add(u64::from(len_bytes.max(1)) - 1).expect("it does not wrap");
    assert_eq!(last >> bits, 0, "beyond any address");
    assert_eq!(pa.get() >> 12, last >> 12, "across a page");
}

/// Memory is whole again; then, maybe, nothing answers from `first` on.
pub(crate) fn hole(memory: &SparseMemory, first: u64, bytes: &mut Bytes<'_>) {
    memory.fill_holes();
    if bytes.flag() {
        memory.hole(first..=first.saturating_add(0xff));
    }
}

/// Accesses that were held back.
#[derive(Default)]
pub(crate) struct Stalls(Mutex<Vec<Stall>>);

impl Stalls {
    /// Remembers one, if that became of an access.
    pub(crate) fn note(&self, outcome: Outcome) {
        if let Outcome::Stalled(stall) = outcome {
            self.0.lock().unwrap().push(stall);
        }
    }

    /// Asks what has become of one of them, or of one that never was.
    pub(crate) fn ask(&self, unit: &impl Translator, bytes: &mut Bytes<'_>) {
        let stalls = self.0.lock().unwrap();
        let known = stalls.get(usize::from(bytes.u8()) % stalls.len().max(1));
        let _ = unit.stalled(known.copied().unwrap_or(Stall(bytes.u64())));
    }

    /// None of them waits.
    pub(crate) fn check_over(&self, unit: &impl Translator) {
        let waits = |&stall: &Stall| unit.stalled(stall) == StallState::Waiting;
        assert!(!self.0.lock().unwrap().iter().any(waits), "an access waits for somebody who is gone");
    }
}
