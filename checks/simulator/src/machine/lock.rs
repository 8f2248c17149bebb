//! The lock of a simulated CPU: one thread plays all CPUs, so a lock that is taken already will never be free.
//!
//! It also counts the locks that are held, so that the schedule knows where another CPU may do something whole in between: where none is held.

use core::cell::Cell;
use core::sync::atomic::{AtomicBool, Ordering::Relaxed};

use portcullis::hal::lock_api::{GuardSend, RawMutex};

thread_local! {
    static HELD: Cell<u32> = const { Cell::new(0) };
}

/// How many locks this thread holds.
pub(crate) fn held() -> u32 {
    HELD.get()
}

/// After a panic was caught: the locks that it left behind are gone with their owners.
pub(crate) fn forget_held() {
    HELD.set(0);
}

/// A lock. Taking it twice is a panic: on silicon the CPU would spin for ever.
#[derive(Debug)]
pub(crate) struct SimMutex(AtomicBool);

// SAFETY: `RawMutex` demands that a mutex that is locked cannot be locked again. `try_lock` sets the flag in one atomic step and succeeds only if it was
// clear; `lock` succeeds only by `try_lock`, and does not return otherwise.
#[expect(unsafe_code, reason = "the trait is unsafe to implement")]
unsafe impl RawMutex for SimMutex {
    const INIT: Self = Self(AtomicBool::new(false));

    type GuardMarker = GuardSend;

    fn lock(&self) {
        assert!(self.try_lock(), "a CPU waits for a lock that it holds itself");
    }

    fn try_lock(&self) -> bool {
        let got =
            self.0.compare_exchange(false, true, core::sync::atomic::Ordering::Acquire, Relaxed).is_ok();
        if got {
            HELD.set(HELD.get() + 1);
        }
        got
    }

    #[expect(unsafe_code, reason = "the trait's method is unsafe to call")]
    unsafe fn unlock(&self) {
        HELD.set(HELD.get().saturating_sub(1));
        self.0.store(false, core::sync::atomic::Ordering::Release);
    }
}
