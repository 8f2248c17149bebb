//! The atomics of the command queue. In tests each access may be where a thread is stopped and another goes on.
//!
//! Under shuttle threads take turns, and switch only where they are asked: here, before each access. What such a test sees is every order of the accesses,
//! each of which all threads see at once. That an ordering is too weak it does not see.
//!
//! Not here: the tests themselves (`command_queue::orders`); counters, of whose order nothing depends.

#[cfg(not(test))]
pub(crate) use core::sync::atomic::{AtomicU8, AtomicU64};

#[cfg(test)]
pub(crate) use stoppable::{AtomicU8, AtomicU64, stop};

#[cfg(test)]
mod stoppable {
    use core::sync::atomic::{self, Ordering};

    /// Lets others go on, in a test of orders.
    pub(crate) fn stop() {
        if shuttle::current::try_get_current_task().is_some() {
            shuttle::thread::yield_now();
        }
    }

    macro_rules! stoppable {
        ($name:ident, $word:ty) => {
            #[derive(Debug)]
            pub(crate) struct $name(atomic::$name);

            #[allow(dead_code, clippy::allow_attributes, reason = "each width uses a part")]
            impl $name {
                pub(crate) const fn new(word: $word) -> Self {
                    Self(atomic::$name::new(word))
                }

                pub(crate) fn load(&self, ordering: Ordering) -> $word {
                    stop();
                    self.0.load(ordering)
                }

                pub(crate) fn store(&self, word: $word, ordering: Ordering) {
                    stop();
                    self.0.store(word, ordering);
                }

                pub(crate) fn fetch_add(&self, by: $word, ordering: Ordering) -> $word {
                    stop();
                    self.0.fetch_add(by, ordering)
                }

                pub(crate) fn fetch_sub(&self, by: $word, ordering: Ordering) -> $word {
                    stop();
                    self.0.fetch_sub(by, ordering)
                }

                pub(crate) fn fetch_or(&self, with: $word, ordering: Ordering) -> $word {
                    stop();
                    self.0.fetch_or(with, ordering)
                }

                pub(crate) fn fetch_and(&self, with: $word, ordering: Ordering) -> $word {
                    stop();
                    self.0.fetch_and(with, ordering)
                }

                pub(crate) fn fetch_xor(&self, with: $word, ordering: Ordering) -> $word {
                    stop();
                    self.0.fetch_xor(with, ordering)
                }

                pub(crate) fn fetch_max(&self, with: $word, ordering: Ordering) -> $word {
                    stop();
                    self.0.fetch_max(with, ordering)
                }

                pub(crate) fn compare_exchange_weak(
                    &self,
                    current: $word,
                    new: $word,
                    success: Ordering,
                    failure: Ordering,
                ) -> Result<$word, $word> {
                    stop();
                    self.0.compare_exchange_weak(current, new, success, failure)
                }
            }
        };
    }

    stoppable!(AtomicU8, u8);
    stoppable!(AtomicU64, u64);
}
