//! Things that are made for the first who wants one of a key, shared and counted, and unmade by the last.
//!
//! Making and unmaking call out, may take long, and run under no lock. Meanwhile the key is busy: others who want it wait, with a limit.

use alloc::collections::BTreeMap;
use alloc::sync::Arc;

use portcullis_hal::{Lock, Platform, wait_for};
use portcullis_types::mutant;

/// How long somebody waits for another who makes or unmakes the same thing: longer than any wait of a driver's.
const LIMIT_NS: u64 = 10_000_000_000;

/// Counted things, by key.
pub(super) struct Counted<P: Platform, K, V> {
    platform: Arc<P>,
    slots: Lock<P, BTreeMap<K, Slot<V>>>,
}

enum Slot<V> {
    /// Somebody makes it or unmakes it.
    Busy,
    Held {
        value: V,
        count: u64,
    },
}

/// Why there is no thing, or why it is still there.
#[derive(Debug)]
pub(super) enum CountedError<E> {
    /// Another was at it for too long.
    Busy,
    /// Nobody holds one of this key.
    NotHeld,
    /// Making or unmaking failed like this.
    Failed(E),
}

enum Turn<V> {
    Mine,
    Theirs(V),
}

impl<P: Platform, K: Ord + Copy, V: Clone> Counted<P, K, V> {
    pub(super) fn new(platform: Arc<P>) -> Self {
        Self { platform, slots: Lock::<P, _>::new(BTreeMap::new()) }
    }

    /// Whether there is none.
    pub(super) fn is_empty(&self) -> bool {
        self.slots.lock().is_empty()
    }

    /// The thing of this key, counted once more; made if there is none.
    pub(super) fn get<E>(&self, key: K, make: impl FnOnce() -> Result<V, E>) -> Result<V, CountedError<E>> {
        let turn = wait_for(&*self.platform, LIMIT_NS, || {
            let mut slots = self.slots.lock();
            match slots.get_mut(&key) {
                Some(Slot::Busy) => None,
                Some(Slot::Held { value, count }) => {
                    *count += u64::from(!mutant!("second-bind-not-counted"));
                    Some(Turn::Theirs(value.clone()))
                }
                None => {
                    slots.insert(key, Slot::Busy);
                    Some(Turn::Mine)
                }
            }
        });
        match turn {
            Err(_) => Err(CountedError::Busy),
            Ok(Turn::Theirs(value)) => Ok(value),
            Ok(Turn::Mine) => match make() {
                Ok(value) => {
                    self.slots.lock().insert(key, Slot::Held { value: value.clone(), count: 1 });
                    Ok(value)
                }
                Err(error) => {
                    self.slots.lock().remove(&key);
                    Err(CountedError::Failed(error))
                }
            },
        }
    }

    /// Gives one count of the thing back that `is_it` knows; the last has it unmade. Answers whether it was the last. If unmaking fails, the count is as it
    /// was.
    pub(super) fn put<E>(
        &self,
        key: K,
        is_it: impl Fn(&V) -> bool,
        unmake: impl FnOnce(&V) -> Result<(), E>,
    ) -> Result<bool, CountedError<E>> {
        let turn = wait_for(&*self.platform, LIMIT_NS, || {
            let mut slots = self.slots.lock();
            match slots.get_mut(&key) {
                None => Some(Err(CountedError::NotHeld)),
                Some(Slot::Busy) => None,
                Some(Slot::Held { value, .. }) if !is_it(value) => Some(Err(CountedError::NotHeld)),
                Some(Slot::Held { count, .. }) if *count > 1 => {
                    *count -= 1;
                    Some(Ok(None))
                }
                Some(slot) => match core::mem::replace(slot, Slot::Busy) {
                    Slot::Held { value, .. } => Some(Ok(Some(value))),
                    Slot::Busy => None,
                },
            }
        });
        let Some(value) = turn.unwrap_or(Err(CountedError::Busy))? else { return Ok(false) };
        if let Err(error) = unmake(&value) {
            self.slots.lock().insert(key, Slot::Held { value, count: 1 });
            return Err(CountedError::Failed(error));
        }
        // What hangs on the thing goes before anybody can make another.
        drop(value);
        self.slots.lock().remove(&key);
        Ok(true)
    }
}
