//! A lock for whole system calls: held while user memory is copied, pages are pinned, hardware is waited for.
//!
//! The platform's lock is a spin lock that may mask interrupts, and must not be held through any of that. So it only guards the place
//! where the value lies: who has the turn has taken the value out, and puts it back when done. Who finds the place empty
//! asks again, and [relaxes](portcullis_hal::Clock::relax) in between. Never in interrupt context.
//!
//! Whoever has a turn waits only for user memory and for hardware, each with its own limit; so every turn ends.

use alloc::boxed::Box;
use alloc::sync::Arc;
use core::ops::{Deref, DerefMut};

use portcullis_hal::{Lock, Platform};

/// A value that one call at a time has.
pub(crate) struct Turns<P: Platform, T> {
    platform: Arc<P>,
    place: Lock<P, Option<Box<T>>>,
}

impl<P: Platform, T> Turns<P, T> {
    pub(crate) fn new(platform: Arc<P>, value: T) -> Self {
        Self { platform, place: Lock::<P, _>::new(Some(Box::new(value))) }
    }

    /// Waits for the value.
    pub(crate) fn take(&self) -> Turn<'_, P, T> {
        loop {
            let found = self.place.lock().take();
            if found.is_some() {
                return Turn { turns: self, value: found };
            }
            self.platform.relax();
        }
    }
}

/// Having the value. Dropped, the next one has it.
pub(crate) struct Turn<'a, P: Platform, T> {
    turns: &'a Turns<P, T>,
    value: Option<Box<T>>,
}

impl<P: Platform, T> Deref for Turn<'_, P, T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.value.as_deref().expect("there until the turn is dropped")
    }
}

impl<P: Platform, T> DerefMut for Turn<'_, P, T> {
    fn deref_mut(&mut self) -> &mut T {
        self.value.as_deref_mut().expect("there until the turn is dropped")
    }
}

impl<P: Platform, T> Drop for Turn<'_, P, T> {
    fn drop(&mut self) {
        *self.turns.place.lock() = self.value.take();
    }
}
