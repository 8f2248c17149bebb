//! A spin lock that knows how many of its kind a thread holds: what is called from core may ask whether it holds any.

use core::cell::Cell;

use portcullis_hal::lock_api::{GuardNoSend, RawMutex};

thread_local! {
    static HELD: Cell<usize> = const { Cell::new(0) };
}

/// How many locks this thread holds.
pub(crate) fn locks_held() -> usize {
    HELD.get()
}

pub(crate) struct SpinLock(spin::Mutex<()>);

// SAFETY: as the lock inside.
#[expect(unsafe_code, reason = "the trait is unsafe to implement")]
unsafe impl RawMutex for SpinLock {
    const INIT: Self = Self(RawMutex::INIT);
    type GuardMarker = GuardNoSend;

    fn lock(&self) {
        RawMutex::lock(&self.0);
        HELD.set(HELD.get() + 1);
    }

    fn try_lock(&self) -> bool {
        let locked = RawMutex::try_lock(&self.0);
        HELD.set(HELD.get() + usize::from(locked));
        locked
    }

    unsafe fn unlock(&self) {
        HELD.set(HELD.get() - 1);
        // SAFETY: the caller's promise is passed on.
        unsafe { RawMutex::unlock(&self.0) }
    }
}
