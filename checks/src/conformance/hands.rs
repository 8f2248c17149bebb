//! Hands of cases: words changed on their way from the driver to memory, registers and the command queue.
//!
//! The driver invalidates and syncs what it believes to have written, so that hardware is told of the changed word, too.

use std::sync::{Arc, Mutex, PoisonError};

use portcullis::core::iommu::Target;
use portcullis::types::Pa;

use super::bed::Bed;
use super::bench::{Domain, Outcome, Rig};
use super::via::{Hand, Machine};
use crate::wrong::commands::{NOTHING, Words, opcode};
use crate::wrong::view::{SMMU_BASE, View, low_half, offset};

/// Changes what is stored in a run of words.
pub struct OnStore<F> {
    /// The first word.
    pub first: Pa,
    /// How many words.
    pub words: usize,
    /// Gets the number of the word and what is stored, and answers what is stored instead.
    pub change: F,
}

impl<F: Fn(&dyn Machine, usize, u64) -> u64 + Send + Sync> Hand for OnStore<F> {
    fn store(&self, machine: &dyn Machine, at: Pa, word: u64) {
        let index = at.get().checked_sub(self.first.get()).and_then(|bytes| usize::try_from(bytes / 8).ok());
        let word = match index.filter(|&index| index < self.words) {
            Some(index) => (self.change)(machine, index, word),
            None => word,
        };
        machine.store(at, word);
    }
}

/// Changes what is written to a register.
pub struct OnRegister<F> {
    /// Which.
    pub offset: usize,
    /// Gets what is written, and answers what is written instead.
    pub change: F,
}

impl<F: Fn(u64) -> u64 + Send + Sync> Hand for OnRegister<F> {
    fn write_register(&self, machine: &dyn Machine, offset: usize, bytes: usize, value: u64) {
        let value = if offset == self.offset { (self.change)(value) } else { value };
        machine.write_register(offset, bytes, value);
    }
}

/// Changes the commands of each batch, from one write of SMMU_CMDQ_PROD to the next.
pub struct OnCommands<F> {
    view: View,
    prod: Mutex<u32>,
    change: F,
}

impl<F: Fn(&mut [Words]) + Send + Sync> OnCommands<F> {
    /// `change` gets every batch.
    pub fn new(change: F) -> Self {
        Self { view: View::default(), prod: Mutex::new(0), change }
    }

    fn batch(&self, machine: &dyn Machine, prod: u32) {
        let mut old = self.prod.lock().unwrap_or_else(PoisonError::into_inner);
        let slots = self.view.slots(*old, prod);
        *old = prod;
        let second = |slot: Pa| Pa::new(slot.get() + 8);
        let before: Vec<Words> =
            slots.iter().map(|&slot| [machine.load(slot), machine.load(second(slot))]).collect();
        let mut batch = before.clone();
        (self.change)(&mut batch);
        for ((&slot, words), before) in slots.iter().zip(batch).zip(before) {
            if words != before {
                machine.poke(slot, words[0]);
                machine.poke(second(slot), words[1]);
            }
        }
    }
}

impl<F: Fn(&mut [Words]) + Send + Sync> Hand for OnCommands<F> {
    fn write_register(&self, machine: &dyn Machine, at: usize, bytes: usize, value: u64) {
        self.view.register_written(Pa::new(SMMU_BASE + at as u64), value);
        if at as u64 == offset::CMDQ_PROD {
            // A queue that begins anew begins at 0.
            if value == 0 && !self.view.slots(0, 1).is_empty() {
                *self.prod.lock().unwrap_or_else(PoisonError::into_inner) = 0;
            }
            self.batch(machine, low_half(value));
        }
        machine.write_register(at, bytes, value);
    }
}

/// Makes the first command of this kind an illegal one, once. Spec: SMMUv3 H.a, 4.1.1 "Command opcodes": 0xff is reserved.
pub fn illegal_once(which: u64) -> Arc<dyn Hand> {
    let done = Mutex::new(false);
    Arc::new(OnCommands::new(move |batch: &mut [Words]| {
        let mut done = done.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(words) = batch.iter_mut().find(|words| !*done && opcode(**words) == which) {
            words[0] |= 0xff;
            *done = true;
        }
    }))
}

/// Leaves out every command that `which` picks.
pub fn leaving_out(which: impl Fn(Words) -> bool + Send + Sync + 'static) -> Arc<dyn Hand> {
    Arc::new(OnCommands::new(move |batch: &mut [Words]| {
        batch.iter_mut().filter(|words| which(**words)).for_each(|words| *words = NOTHING);
    }))
}

/// Runs `act` with a hand in the way.
///
/// # Errors
///
/// Those of `act`.
pub fn with_hand<B: Bed>(rig: &Rig<B>, hand: Arc<dyn Hand>, act: impl FnOnce() -> Outcome) -> Outcome {
    rig.between.put(hand);
    let outcome = act();
    rig.between.take_out();
    outcome
}

/// Attaches an engine to a domain, each word of its STE changed on the way.
///
/// # Errors
///
/// The driver refused.
pub fn attach_with_ste<B: Bed>(
    rig: &Rig<B>,
    engine: usize,
    domain: &Domain<B>,
    change: impl Fn(&dyn Machine, usize, u64) -> u64 + Send + Sync + 'static,
) -> Outcome {
    let stream = rig.stream(engine);
    let first = rig.sight(|sight| sight.ste(stream)).ok_or("the stream has no entry")?;
    let hand = OnStore { first, words: 8, change };
    with_hand(rig, Arc::new(hand), || rig.attach(stream, &Target::Domain(domain.clone())))
}

/// Attaches an engine to a stage 1 domain, words of its CD changed before the STE leads there: `change` gets the machine and the CD's address.
///
/// # Errors
///
/// The driver refused.
pub fn attach_with_cd<B: Bed>(
    rig: &Rig<B>,
    engine: usize,
    domain: &Domain<B>,
    change: impl Fn(&dyn Machine, Pa) + Send + Sync + 'static,
) -> Outcome {
    attach_with_ste(rig, engine, domain, move |machine, index, word| {
        // V, and Config with stage 1: the entry that makes the CD reachable.
        if index == 0 && word & 0b11 == 0b11 {
            change(machine, Pa::new(word & 0x00ff_ffff_ffff_ffc0));
        }
        word
    })
}

/// Changes a word in place.
pub fn change_word(machine: &dyn Machine, at: Pa, change: impl FnOnce(u64) -> u64) {
    machine.poke(at, change(machine.load(at)));
}
