//! Answers on their way to devices, kept until their slot is used again.
//!
//! A device waits for each answer, and nobody waits for the command that brings it: if hardware refuses the command, only who repairs the queue can send it
//! again. What then lies in the queue is what hardware refused, perhaps not what was written; so each answer is kept here too, one place a slot.
//!
//! Ordering: whoever has reserved a slot writes here before the slot is valid, so before hardware can refuse what is in it; who repairs reads the place of a
//! position that was published. The position is stored last and read first.
//!
//! Spec: SMMUv3 H.a, 4.5.2 "CMD_PRI_RESP", 4.7.1 "CMD_RESUME", 7.1 "Command queue errors".
//! Not here: how often one is sent again (`errors`).

use alloc::boxed::Box;
use core::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use portcullis_spec::smmuv3::command::{Command, Opcode};

use crate::atomics::AtomicU64;
use crate::ring::Ring;

/// The answers that the slots of a queue hold.
#[derive(Debug)]
pub(crate) struct Answers(Box<[Place]>);

#[derive(Debug)]
struct Place {
    /// One more than the answer's position; 0 for none.
    behind: AtomicU64,
    words: [AtomicU64; 2],
}

impl Answers {
    /// None in any slot.
    pub(crate) fn new(ring: &Ring) -> Self {
        let place = || Place { behind: AtomicU64::new(0), words: [AtomicU64::new(0), AtomicU64::new(0)] };
        Self((0..ring.slots()).map(|_| place()).collect())
    }

    /// Keeps `command`, which goes to `position`, if it is an answer.
    pub(crate) fn keep(&self, ring: &Ring, position: u64, command: Command) {
        if !matches!(command.opcode(), Opcode::PRI_RESP | Opcode::RESUME) {
            return;
        }
        let place = &self.0[ring.slot(position)];
        place.words.iter().zip(command.0).for_each(|(place, word)| place.store(word, Relaxed));
        place.behind.store(position + 1, Release);
    }

    /// The answer that went to `position`, if it was one.
    pub(crate) fn at(&self, ring: &Ring, position: u64) -> Option<Command> {
        let place = &self.0[ring.slot(position)];
        (place.behind.load(Acquire) == position + 1)
            .then(|| Command(core::array::from_fn(|word| place.words[word].load(Relaxed))))
    }
}
