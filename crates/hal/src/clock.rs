//! Time, and waiting with a limit.

/// A monotonic clock that a polling loop can use.
pub trait Clock: Send + Sync {
    /// Nanoseconds since some fixed moment; never goes back.
    fn now_ns(&self) -> u64;
    /// Called once in every turn of a polling loop: a spin hint on metal; on a model, the moment in which
    /// the hardware gets to work.
    fn relax(&self);

    /// The same in a wait for nothing but time, which is over once [`now_ns`](Self::now_ns) is past `until_ns`. On metal the CPU may rest until then, but not sleep: locks may be
    /// held, and the wait can be one of a second. Where time is made, as on a model, the turns in which nothing happens may be one. Who returns early is called again.
    fn relax_until(&self, until_ns: u64) {
        let _ = until_ns;
        self.relax();
    }
}

/// A wait that reached its limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Elapsed {
    /// How long was waited, in nanoseconds.
    pub waited_ns: u64,
}

/// Polls `ready` until it answers, at most `limit_ns` nanoseconds long. `ready` is asked at least once, and once more
/// after the limit, so that a CPU that was away for long does not report a limit that hardware kept.
///
/// # Errors
///
/// [`Elapsed`] if it never answered.
pub fn wait_for<T>(
    clock: &impl Clock,
    limit_ns: u64,
    mut ready: impl FnMut() -> Option<T>,
) -> Result<T, Elapsed> {
    let start_ns = clock.now_ns();
    loop {
        let waited_ns = clock.now_ns().saturating_sub(start_ns);
        if let Some(answer) = ready() {
            return Ok(answer);
        }
        if waited_ns > limit_ns {
            return Err(Elapsed { waited_ns });
        }
        clock.relax();
    }
}

/// Lets at least `ns` nanoseconds pass.
pub fn pause(clock: &impl Clock, ns: u64) {
    let start_ns = clock.now_ns();
    while clock.now_ns().saturating_sub(start_ns) <= ns {
        clock.relax_until(start_ns.saturating_add(ns));
    }
}

#[cfg(test)]
mod tests {
    use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

    use super::*;

    struct Ticks(AtomicU64);

    impl Clock for Ticks {
        fn now_ns(&self) -> u64 {
            self.0.load(Relaxed)
        }

        fn relax(&self) {
            self.0.fetch_add(10, Relaxed);
        }
    }

    #[test]
    fn a_wait_ends_with_the_answer_or_with_the_limit() {
        let clock = Ticks(AtomicU64::new(5));
        assert_eq!(wait_for(&clock, 100, || (clock.now_ns() >= 45).then_some(7)), Ok(7));
        assert_eq!(wait_for(&clock, 100, || None::<()>), Err(Elapsed { waited_ns: 110 }));
        assert_eq!(wait_for(&clock, 0, || Some(1)), Ok(1));
    }

    #[test]
    fn a_pause_lasts_at_least_as_long_as_it_is_asked_to() {
        let clock = Ticks(AtomicU64::new(0));
        pause(&clock, 100);
        assert_eq!(clock.now_ns(), 110);
    }

    #[test]
    fn a_platform_that_makes_time_is_told_until_when_nothing_is_waited_for() {
        struct Leaps(Ticks);

        impl Clock for Leaps {
            fn now_ns(&self) -> u64 {
                self.0.now_ns()
            }

            fn relax(&self) {
                unreachable!("only time is waited for");
            }

            fn relax_until(&self, until_ns: u64) {
                assert_eq!(until_ns, 107);
                self.0.0.store(until_ns + 1, Relaxed);
            }
        }

        let clock = Leaps(Ticks(AtomicU64::new(7)));
        pause(&clock, 100);
        assert_eq!(clock.now_ns(), 108);
    }

    #[test]
    fn the_last_look_comes_after_the_limit() {
        let clock = Ticks(AtomicU64::new(0));
        let mut looks = 0;
        let late = wait_for(&clock, 5, || {
            looks += 1;
            (looks == 2).then_some(clock.now_ns())
        });
        assert_eq!(late, Ok(10));
    }
}
