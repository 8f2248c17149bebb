//! Answers to devices for which the command queue had no room, kept until it has some: a device waits for each, and asks for nothing meanwhile.
//!
//! They are tried again when requests are next drained and when errors are handled, which is where a queue that stood still begins to work. There are no more of them
//! than devices have requests under way; of devices that lie about that, no more than [`MOST`].
//!
//! Not here: answers that hardware refused (`answers`, `errors`).

use alloc::collections::VecDeque;

use portcullis_core::iopf::PageResponse;
use portcullis_hal::{Lock, Platform};

/// How many are kept: as many as there are tags for stalls, or groups of a device that keeps them all open many times over.
const MOST: usize = 1 << 16;

/// Answers that are still to be sent, the oldest first.
pub(crate) struct Unsent<P: Platform>(Lock<P, VecDeque<PageResponse>>);

impl<P: Platform> Unsent<P> {
    /// None.
    pub(crate) fn new() -> Self {
        Self(Lock::<P, _>::new(VecDeque::new()))
    }

    /// Whether none waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.lock().is_empty()
    }

    /// Keeps one. Answers whether there was a place for it.
    pub(crate) fn keep(&self, response: &PageResponse) -> bool {
        let mut kept = self.0.lock();
        let fits = kept.len() < MOST && kept.try_reserve(1).is_ok();
        if fits {
            kept.push_back(*response);
        }
        fits
    }

    /// Sends those that are there now, until `send` says that there is no room.
    pub(crate) fn send(&self, mut send: impl FnMut(&PageResponse) -> bool) {
        let count = self.0.lock().len();
        for _ in 0..count {
            let Some(response) = self.0.lock().pop_front() else { return };
            if !send(&response) {
                // Nobody's turn is before its own: it waits longest.
                self.0.lock().push_front(response);
                return;
            }
        }
    }
}
