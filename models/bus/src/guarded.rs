//! A model's lock, held while it accesses memory: memory may be the model's own registers, by somebody's mistake.
//!
//! Then the model would wait for itself. Whoever holds the lock while memory is accessed leaves a mark, and an access with the same mark gets nothing.

use core::cell::Cell;
use core::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};

thread_local! {
    /// Something of each thread's own, whose address tells threads apart.
    static MARK: Cell<u8> = const { Cell::new(0) };
}

/// Tells this thread from others.
pub fn mark() -> usize {
    MARK.with(|mark| core::ptr::from_ref(mark).addr())
}

/// The state of a model behind its lock.
#[derive(Debug)]
pub struct Guarded<T> {
    state: Mutex<T>,
    /// Who is accessing memory with the lock held; 0 if nobody.
    holder: AtomicUsize,
}

impl<T> Guarded<T> {
    /// With nobody holding it.
    pub const fn new(state: T) -> Self {
        Self { state: Mutex::new(state), holder: AtomicUsize::new(0) }
    }

    /// The state; none if this very thread holds it and waits for memory.
    pub fn lock(&self) -> Option<MutexGuard<'_, T>> {
        match self.state.try_lock() {
            Ok(guard) => Some(guard),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) if self.holder.load(Ordering::Relaxed) == mark() => None,
            Err(TryLockError::WouldBlock) => Some(self.state.lock().unwrap_or_else(PoisonError::into_inner)),
        }
    }

    /// Leaves the mark, for as long as the answer lives. Only with the lock held.
    pub fn accessing_memory(&self) -> Marked<'_> {
        self.holder.store(mark(), Ordering::Relaxed);
        Marked(&self.holder)
    }
}

/// A mark that is left, and wiped when dropped.
#[must_use = "dropped, the mark is wiped"]
#[derive(Debug)]
pub struct Marked<'a>(&'a AtomicUsize);

impl Drop for Marked<'_> {
    fn drop(&mut self) {
        self.0.store(0, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_comes_back_while_memory_is_accessed_gets_nothing_and_others_wait() {
        let guarded = Guarded::new(1);
        let mut held = guarded.lock().unwrap();
        let memory = guarded.accessing_memory();
        assert!(guarded.lock().is_none());
        std::thread::scope(|scope| {
            let other = scope.spawn(|| *guarded.lock().expect("another thread"));
            *held = 2;
            drop(memory);
            drop(held);
            assert_eq!(other.join().unwrap(), 2);
        });
    }
}
