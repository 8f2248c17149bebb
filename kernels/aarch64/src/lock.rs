//! The kernel's spin lock, which is what Portcullis is given as [`Platform::Mutex`](portcullis_hal::Platform::Mutex).
//!
//! It is taken in interrupt handlers, too: an interrupt that came while this CPU holds it, and wanted it as well, would spin for ever. So interrupts are masked
//! from before it is taken until after it is given back. The mask that was there is kept in the lock, by who holds it.

use core::cell::Cell;
use core::sync::atomic::{AtomicBool, Ordering};

use portcullis_hal::lock_api;

use crate::cpu::{self, Mask};

/// A spin lock that masks interrupts while it is held.
pub(crate) struct IrqSpin {
    held: AtomicBool,
    before: Before,
}

/// The mask of who holds the lock.
struct Before(Cell<Mask>);

/// A value behind the kernel's lock.
pub(crate) type Lock<T> = lock_api::Mutex<IrqSpin, T>;

mod sharing {
    #![expect(unsafe_code, reason = "what only the holder touches is shared")]

    use super::*;

    // SAFETY: the cell is read and written by the holder of the lock alone, after it was taken and before it is given back.
    unsafe impl Sync for Before {}

    // SAFETY: `lock` returns only after `held` went from false to true for this caller (acquire), and only `unlock`, which the holder calls, makes it false
    // again (release).
    unsafe impl lock_api::RawMutex for IrqSpin {
        #[expect(clippy::declare_interior_mutable_const, reason = "how lock_api says how a lock begins")]
        const INIT: Self = Self { held: AtomicBool::new(false), before: Before(Cell::new(Mask::OPEN)) };

        type GuardMarker = lock_api::GuardNoSend;

        fn lock(&self) {
            while !self.try_lock() {
                core::hint::spin_loop();
            }
        }

        fn try_lock(&self) -> bool {
            let before = cpu::mask_interrupts();
            let taken = self.held.compare_exchange(false, true, Ordering::Acquire, Ordering::Relaxed).is_ok();
            if taken {
                self.before.0.set(before);
            } else {
                cpu::restore_interrupts(before);
            }
            taken
        }

        unsafe fn unlock(&self) {
            let before = self.before.0.get();
            self.held.store(false, Ordering::Release);
            cpu::restore_interrupts(before);
        }
    }
}
