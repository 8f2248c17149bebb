//! The lock on a group's state.
//!
//! With a domain much may go: a process that it was the memory of, an embedder's handler of faults. Either may wait for whoever holds a lock of his own, and may sleep.
//! So what a group or a device leaves is put aside, and let go when the lock has been; and so are processes that the driver let go of when it was told of a device ([`LetGo`]).
//!
//! [`LetGo`]: crate::sva::LetGo

use core::ops::{Deref, DerefMut};

use portcullis_hal::Platform;
use portcullis_hal::lock_api::MutexGuard;

use super::{Group, State};

/// Having the state of a group.
pub(super) struct Locked<'a, P: Platform>(Option<MutexGuard<'a, P::Mutex, State<P>>>);

impl<P: Platform> Group<P> {
    pub(super) fn lock(&self) -> Locked<'_, P> {
        Locked(Some(self.state.lock()))
    }
}

impl<P: Platform> Deref for Locked<'_, P> {
    type Target = State<P>;

    fn deref(&self) -> &State<P> {
        self.0.as_deref().expect("there until it is dropped")
    }
}

impl<P: Platform> DerefMut for Locked<'_, P> {
    fn deref_mut(&mut self) -> &mut State<P> {
        self.0.as_deref_mut().expect("there until it is dropped")
    }
}

impl<P: Platform> Drop for Locked<'_, P> {
    fn drop(&mut self) {
        let left = core::mem::take(&mut self.left);
        let told = core::mem::take(&mut self.told);
        let let_go = self.let_go.clone().filter(|_| told);
        drop(self.0.take());
        drop(left);
        let_go.iter().for_each(|let_go| let_go.settle());
    }
}
