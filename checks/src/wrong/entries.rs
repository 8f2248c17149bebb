//! Stream table entries that are not what the driver stored.
//!
//! The driver reads its entries back. It is shown what it stored: it is one driver that is wrong everywhere, not two that disagree.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use model_bus::Width;
use portcullis::types::Pa;
use portcullis_lab::tamper::{Barrier, Hands, Tamper};

use super::view::{Place, View, offset, register};

/// What is wrong with entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mistake {
    /// Two words take each other's place.
    Exchanged(usize, usize),
    /// The bits of `field` in word `word` are one bit too high.
    Shifted {
        /// Which word.
        word: usize,
        /// Which bits of it.
        field: u64,
    },
    /// Entries are written only after the commands that were to make them known have been consumed, and no more commands follow.
    Late,
    /// The first word is written first, and the others after its invalidation.
    FirstWordFirst,
}

/// Entries with a mistake.
pub struct Entries {
    mistake: Mistake,
    meanwhile: Option<Box<dyn Fn() + Send + Sync>>,
    view: View,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// What the driver believes to be in memory.
    shadow: BTreeMap<u64, u64>,
    /// Stores that are to happen later, in order.
    held: Vec<(Pa, u64)>,
    first_word_stored: bool,
}

impl Entries {
    /// Entries with this mistake.
    pub fn new(mistake: Mistake) -> Self {
        Self { mistake, meanwhile: None, view: View::default(), state: Mutex::default() }
    }

    /// The same, where `meanwhile` happens between the consumption of commands and the stores that come too late.
    #[must_use]
    pub fn meanwhile(self, meanwhile: impl Fn() + Send + Sync + 'static) -> Self {
        Self { meanwhile: Some(Box::new(meanwhile)), ..self }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn store_word(&self, hands: Hands<'_>, entry: Pa, word: usize, value: u64) {
        let at = |word: usize| Pa::new(entry.get() + 8 * word as u64);
        match self.mistake {
            Mistake::Exchanged(a, b) => {
                let other = if word == a {
                    b
                } else if word == b {
                    a
                } else {
                    word
                };
                hands.store(at(other), value);
            }
            Mistake::Shifted { word: wrong, field } if word == wrong => {
                hands.store(at(word), value & !field | (value & field) << 1);
            }
            Mistake::FirstWordFirst if word == 0 => {
                self.state().first_word_stored = true;
                hands.store(at(word), value);
            }
            Mistake::Late | Mistake::FirstWordFirst => self.state().held.push((at(word), value)),
            Mistake::Shifted { .. } => hands.store(at(word), value),
        }
    }

    /// Waits until the hardware has consumed everything, then does what was held back.
    fn release(&self, hands: Hands<'_>, prod: u64) {
        let ready = self.mistake == Mistake::Late || core::mem::take(&mut self.state().first_word_stored);
        if !ready || self.state().held.is_empty() {
            return;
        }
        let cons = Pa::new(super::view::SMMU_BASE + offset::CMDQ_CONS);
        for _ in 0..1000 {
            if hands.read_register(cons, Width::Bits32) & 0xf_ffff == prod & 0xf_ffff {
                break;
            }
            hands.relax();
        }
        if let Some(meanwhile) = &self.meanwhile {
            meanwhile();
        }
        let held = core::mem::take(&mut self.state().held);
        for (at, word) in held {
            hands.store(at, word);
            hands.clean(at, 8);
        }
        hands.barrier(Barrier::Write);
    }
}

impl Tamper for Entries {
    fn load(&self, hands: Hands<'_>, at: Pa) -> u64 {
        let shadow = self.state().shadow.get(&at.get()).copied();
        shadow.unwrap_or_else(|| hands.load(at))
    }

    fn store(&self, hands: Hands<'_>, at: Pa, word: u64) {
        match self.view.word_stored(at, word) {
            Place::Entry(entry, index) => {
                self.state().shadow.insert(at.get(), word);
                self.store_word(hands, entry, index, word);
            }
            _ => hands.store(at, word),
        }
    }

    fn write_register(&self, hands: Hands<'_>, at: Pa, width: Width, value: u64) {
        self.view.register_written(at, value);
        hands.write_register(at, width, value);
        if register(at) == Some(offset::CMDQ_PROD) {
            self.release(hands, value);
        }
    }
}
