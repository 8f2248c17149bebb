//! Accesses that are held back, and the tags by which software speaks of them.
//!
//! ```text
//!             room in the queue            CMD_RESUME, CMD_STALL_TERM, SMMUEN = 0
//! unrecorded ──────────────────► recorded ────────────────────────────────────────► answered ──► (told to the device once, gone)
//!     └─────── tried again, and no longer held back ──────────────────────────────────┘
//! ```
//!
//! An access has a number ([`Stall`], for the device, never given out twice) and, while it is recorded, a tag (STAG, for software). A tag is
//! free again as soon as its access is answered; Choice: the lowest that is free is taken, so that an answer that comes twice meets somebody
//! else's access.
//!
//! Choice: each access has its own record, and none is tried again before it is answered; the book allows both otherwise.
//!
//! Spec: SMMUv3 H.a, 3.12.2 "Stall model".
//! Not here: when an access is recorded or tried again (`hold`).

use std::collections::BTreeMap;

use model_bus::{Stall, StallState};

use crate::event::Asked;

/// How far an access has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Software does not know of it yet.
    Unrecorded,
    /// Its event is in the queue.
    Recorded { tag: u16 },
    /// The device does not know yet.
    Answered(StallState),
}

#[derive(Clone, Copy, Debug)]
struct Held {
    asked: Asked,
    phase: Phase,
}

/// All accesses that are held back.
#[derive(Debug, Default)]
pub(crate) struct Stalls {
    next: u64,
    held: BTreeMap<u64, Held>,
    tags: BTreeMap<u16, u64>,
    unrecorded: usize,
}

impl Stalls {
    /// None, but numbers go on from where they were.
    pub(crate) fn emptied(&self) -> Self {
        Self { next: self.next, ..Self::default() }
    }

    /// Holds an access back.
    pub(crate) fn hold(&mut self, asked: Asked) -> Stall {
        let number = self.next;
        self.next += 1;
        self.held.insert(number, Held { asked, phase: Phase::Unrecorded });
        self.unrecorded += 1;
        Stall(number)
    }

    /// How many wait for an answer of software.
    pub(crate) fn recorded(&self) -> usize {
        self.tags.len()
    }

    pub(crate) fn has_unrecorded(&self) -> bool {
        self.unrecorded != 0
    }

    /// Those that software does not know of, the oldest first.
    pub(crate) fn unrecorded(&self) -> Vec<(Stall, Asked)> {
        let waits = |(&number, held): (&u64, &Held)| {
            (held.phase == Phase::Unrecorded).then_some((Stall(number), held.asked))
        };
        if self.has_unrecorded() { self.held.iter().filter_map(waits).collect() } else { Vec::new() }
    }

    /// The tag that the next record will have.
    pub(crate) fn free_tag(&self) -> Option<u16> {
        (0..=u16::MAX)
            .zip(self.tags.keys().map(Some).chain(core::iter::repeat(None)))
            .find_map(|(candidate, taken)| (taken != Some(&candidate)).then_some(candidate))
    }

    /// Its record is in the queue, under this tag.
    pub(crate) fn is_recorded(&mut self, stall: Stall, tag: u16) {
        if let Some(held) = self.held.get_mut(&stall.0)
            && held.phase == Phase::Unrecorded
        {
            held.phase = Phase::Recorded { tag };
            self.unrecorded -= 1;
            self.tags.insert(tag, stall.0);
        }
    }

    /// Who has the tag, and is of the stream. "The STAG is not the sole selector."
    pub(crate) fn find(&self, stream: u32, tag: u16) -> Option<Stall> {
        let number = *self.tags.get(&tag)?;
        (self.held.get(&number)?.asked.stream == stream).then_some(Stall(number))
    }

    /// What is to become of it. What was decided before and the device has not been told is forgotten.
    pub(crate) fn answer(&mut self, stall: Stall, answer: StallState) {
        let Some(held) = self.held.get_mut(&stall.0) else { return };
        match core::mem::replace(&mut held.phase, Phase::Answered(answer)) {
            Phase::Unrecorded => self.unrecorded -= 1,
            Phase::Recorded { tag } => {
                self.tags.remove(&tag);
            }
            Phase::Answered(_) => {}
        }
    }

    /// All that have not gone on yet, of one stream or of all: also those that software has answered, if they are to be tried again.
    pub(crate) fn unfinished(&self, stream: Option<u32>) -> Vec<Stall> {
        let meant = |held: &Held| {
            let open = !matches!(held.phase, Phase::Answered(StallState::Aborted | StallState::Ignored));
            open && stream.is_none_or(|stream| held.asked.stream == stream)
        };
        self.held.iter().filter(|(_, held)| meant(held)).map(|(&number, _)| Stall(number)).collect()
    }

    /// Tells the device. An answer is given once.
    pub(crate) fn tell(&mut self, stall: Stall) -> StallState {
        match self.held.get(&stall.0).map(|held| held.phase) {
            None => StallState::Aborted,
            Some(Phase::Answered(answer)) => {
                self.held.remove(&stall.0);
                answer
            }
            Some(_) => StallState::Waiting,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(stream: u32) -> Asked {
        Asked::prefetch(stream, None, 0x1000)
    }

    #[test]
    fn the_lowest_free_tag_is_taken_and_free_again_when_answered() {
        let mut stalls = Stalls::default();
        let numbers: Vec<Stall> = (0..3).map(|stream| stalls.hold(asked(stream))).collect();
        for (&number, tag) in numbers.iter().zip(0..) {
            assert_eq!(stalls.free_tag(), Some(tag));
            stalls.is_recorded(number, tag);
        }
        assert_eq!((stalls.free_tag(), stalls.recorded()), (Some(3), 3));
        assert_eq!((stalls.find(1, 1), stalls.find(2, 1), stalls.find(1, 7)), (Some(numbers[1]), None, None));
        stalls.answer(numbers[1], StallState::Retry);
        assert_eq!((stalls.free_tag(), stalls.find(1, 1)), (Some(1), None));
    }

    #[test]
    fn an_answer_is_told_once_and_numbers_never_come_again() {
        let mut stalls = Stalls::default();
        let first = stalls.hold(asked(1));
        assert_eq!(stalls.tell(first), StallState::Waiting);
        stalls.answer(first, StallState::Retry);
        assert_eq!([stalls.tell(first), stalls.tell(first)], [StallState::Retry, StallState::Aborted]);
        assert_ne!(stalls.emptied().hold(asked(1)), first);
        assert!(!stalls.has_unrecorded());
    }

    #[test]
    fn tags_run_out_after_all_of_them() {
        let mut stalls = Stalls::default();
        for tag in 0..=u16::MAX {
            let number = stalls.hold(asked(1));
            stalls.is_recorded(number, tag);
        }
        assert_eq!(stalls.free_tag(), None);
    }
}
