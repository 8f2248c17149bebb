//! Accesses that are held back, each by a context bank.
//!
//! One that met the fault is the bank's own: RESUME ends it, or lets it try again. Others that came behind it wait, and always try again.
//! The device is told once, by a number that is never given out twice.
//!
//! Spec: SMMUv2 D.c, 3.7.3 "Handling a context fault", 16.5.28 "SMMU_CBn_RESUME".

use std::collections::BTreeMap;

use model_bus::{Stall, StallState};

#[derive(Clone, Copy, Debug)]
struct Held {
    bank: u8,
    /// It met the fault that the bank tells.
    faulted: bool,
    state: StallState,
}

/// All accesses that are held back.
#[derive(Debug, Default)]
pub(crate) struct Stalls {
    next: u64,
    held: BTreeMap<u64, Held>,
}

impl Stalls {
    /// Holds an access back.
    pub(crate) fn hold(&mut self, bank: u8, faulted: bool) -> Stall {
        let number = self.next;
        self.next += 1;
        self.held.insert(number, Held { bank, faulted, state: StallState::Waiting });
        Stall(number)
    }

    fn waiting(&mut self, bank: u8) -> impl Iterator<Item = &mut Held> {
        self.held.values_mut().filter(move |held| held.bank == bank && held.state == StallState::Waiting)
    }

    /// What RESUME makes of those of a bank. `end`: what becomes of the one that faulted; none to try again.
    pub(crate) fn resume(&mut self, bank: u8, end: Option<StallState>) {
        for held in self.waiting(bank) {
            held.state = match end {
                Some(end) if held.faulted => end,
                _ => StallState::Retry,
            };
        }
    }

    /// Ends all of them.
    pub(crate) fn abort_all(&mut self) {
        for held in self.held.values_mut() {
            held.state = StallState::Aborted;
        }
    }

    /// Tells the device.
    pub(crate) fn tell(&mut self, stall: Stall) -> StallState {
        match self.held.get(&stall.0).map(|held| held.state) {
            None => StallState::Aborted,
            Some(StallState::Waiting) => StallState::Waiting,
            Some(state) => {
                self.held.remove(&stall.0);
                state
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_one_that_faulted_is_ended_and_each_is_told_once() {
        let mut stalls = Stalls::default();
        let (faulted, behind, other) = (stalls.hold(1, true), stalls.hold(1, false), stalls.hold(2, true));
        stalls.resume(1, Some(StallState::Ignored));
        let states = [faulted, behind, other].map(|stall| stalls.tell(stall));
        assert_eq!(states, [StallState::Ignored, StallState::Retry, StallState::Waiting]);
        assert_eq!(stalls.tell(faulted), StallState::Aborted);
        stalls.abort_all();
        assert_eq!(stalls.tell(other), StallState::Aborted);
    }
}
