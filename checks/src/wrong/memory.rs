//! Stores, barriers and write-backs that do not happen, and page tables that say something else.

use std::sync::{Mutex, PoisonError};

use model_bus::Width;
use portcullis::types::Pa;
use portcullis_lab::tamper::{Barrier, Hands, Tamper};

use super::view::{Place, View};

/// What was stored last before a barrier: what the barrier is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Commands.
    Commands,
    /// The stream table.
    Streams,
    /// Page tables and context descriptors.
    Tables,
    /// Nothing of the IOMMU's: a device's queues.
    Data,
}

/// No barrier of a class.
pub struct NoBarriers {
    which: Option<Class>,
    view: View,
    last: Mutex<Class>,
}

impl NoBarriers {
    /// No barriers of this class, or none at all.
    pub fn new(which: Option<Class>) -> Self {
        Self { which, view: View::default(), last: Mutex::new(Class::Data) }
    }
}

impl Tamper for NoBarriers {
    fn store(&self, hands: Hands<'_>, at: Pa, word: u64) {
        let class = match self.view.word_stored(at, word) {
            Place::Command => Class::Commands,
            Place::Level1 | Place::Entry(..) => Class::Streams,
            Place::Other => Class::Tables,
        };
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = class;
        hands.store(at, word);
    }

    fn barrier(&self, hands: Hands<'_>, barrier: Barrier) {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if self.which.is_none_or(|which| which == *last) {
            return;
        }
        *last = Class::Data;
        hands.barrier(barrier);
    }

    fn write_register(&self, hands: Hands<'_>, at: Pa, width: Width, value: u64) {
        self.view.register_written(at, value);
        hands.write_register(at, width, value);
    }
}

/// Nothing is written back from the CPU's caches.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoWriteBacks;

impl Tamper for NoWriteBacks {
    fn clean(&self, _: Hands<'_>, _: Pa, _: u64) {}
}

/// Words of page tables and context descriptors are stored as `change` says: from what lies there and what is stored; none: not at all.
pub struct TableWords<F> {
    view: View,
    change: F,
}

impl<F: Fn(u64, u64) -> Option<u64> + Send + Sync> TableWords<F> {
    /// As `change` says.
    pub fn new(change: F) -> Self {
        Self { view: View::default(), change }
    }
}

impl<F: Fn(u64, u64) -> Option<u64> + Send + Sync> Tamper for TableWords<F> {
    fn store(&self, hands: Hands<'_>, at: Pa, word: u64) {
        let word = match self.view.word_stored(at, word) {
            Place::Other => (self.change)(hands.load(at), word),
            _ => Some(word),
        };
        if let Some(word) = word {
            hands.store(at, word);
        }
    }

    fn write_register(&self, hands: Hands<'_>, at: Pa, width: Width, value: u64) {
        self.view.register_written(at, value);
        hands.write_register(at, width, value);
    }
}
