//! The lock of a simulated CPU. Where one thread plays all CPUs a lock that it has taken already will never be free.
//!
//! It also counts the locks that are held, so that the schedule knows where another CPU may do something whole in between: where none is held.

use core::cell::Cell;
use core::sync::atomic::{
    AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
};

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

/// A lock. Taking it twice is a panic: on silicon the CPU would spin for ever. On several threads one spins while another has it.
#[derive(Debug)]
pub(crate) struct SimMutex(AtomicU64);

/// Nobody has a lock.
const FREE: u64 = 0;

thread_local! {
    /// This thread, by a number from 1.
    static ME: u64 = {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        NEXT.fetch_add(1, Relaxed)
    };
}

// SAFETY: `RawMutex` demands that a mutex that is locked cannot be locked again. `try_lock` puts its thread's number there in one atomic step and succeeds only if
// there was none; `lock` succeeds only by `try_lock`, and does not return otherwise.
#[expect(unsafe_code, reason = "the trait is unsafe to implement")]
unsafe impl RawMutex for SimMutex {
    const INIT: Self = Self(AtomicU64::new(FREE));

    type GuardMarker = GuardSend;

    fn lock(&self) {
        while !self.try_lock() {
            assert!(self.0.load(Relaxed) != ME.with(|me| *me), "a CPU waits for a lock that it holds itself");
            std::thread::yield_now();
        }
    }

    fn try_lock(&self) -> bool {
        let me = ME.with(|me| *me);
        let got = self.0.compare_exchange(FREE, me, Acquire, Relaxed).is_ok();
        if got {
            HELD.set(HELD.get() + 1);
        }
        got
    }

    #[expect(unsafe_code, reason = "the trait's method is unsafe to call")]
    unsafe fn unlock(&self) {
        HELD.set(HELD.get().saturating_sub(1));
        self.0.store(FREE, Release);
    }
}
