//! What waits until hardware has forgotten it.
//!
//! Whoever has unmapped something pushes it here; a flush takes everything from here that was pushed *before the flush
//! started*, once it has completed. Two counters say which: `started` counts the flushes that began, and an entry remembers
//! its value from when it was pushed. The flush that raises `started` to `n` covers the entries that remember less than `n`.
//!
//! Raising and reading `started` are atomic read-modify-writes, so that a flush which does not see an entry's push comes after it in the
//! counter's order only if the entry remembers the raised value: what was unmapped before a covered push is seen by the flush.
//!
//! A flush that failed covers nothing: entries stay, however many they become, because an address that hardware still knows must
//! not be reused. Being full or old makes a flush *due*; it is never a reason to forget.

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use core::sync::atomic::{AtomicU64, Ordering};

use portcullis_hal::{Lock, Platform};
use portcullis_types::mutant;

/// When a flush is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlushBounds {
    /// As soon as so many entries wait on one CPU.
    pub entries: usize,
    /// As soon as an entry has waited so long, in nanoseconds.
    pub age_ns: u64,
}

impl Default for FlushBounds {
    /// 256 entries on a CPU, 10 ms.
    fn default() -> Self {
        Self { entries: 256, age_ns: 10_000_000 }
    }
}

/// A queue of things that wait for a flush, in one list for each CPU.
#[derive(Debug)]
pub struct FlushQueue<P: Platform, T> {
    bounds: FlushBounds,
    started: AtomicU64,
    finished: AtomicU64,
    /// Until when a failed flush keeps the next one from being due.
    not_before_ns: AtomicU64,
    cpus: Box<[Lock<P, VecDeque<Entry<T>>>]>,
}

#[derive(Debug)]
struct Entry<T> {
    /// The value of `started` when it was pushed.
    pushed_at: u64,
    pushed_ns: u64,
    what: T,
}

impl<P: Platform, T> FlushQueue<P, T> {
    /// An empty queue for `platform`'s CPUs.
    pub fn new(platform: &P, bounds: FlushBounds) -> Self {
        let list = |_| Lock::<P, _>::new(VecDeque::with_capacity(bounds.entries));
        Self {
            bounds,
            started: AtomicU64::new(0),
            finished: AtomicU64::new(0),
            not_before_ns: AtomicU64::new(0),
            cpus: (0..platform.cpu_count().max(1)).map(list).collect(),
        }
    }

    /// Adds something that has been unmapped. Answers whether a flush is due.
    #[must_use = "a flush may be due"]
    pub fn push(&self, platform: &P, what: T) -> bool {
        let now_ns = platform.now_ns();
        let mut list = self.cpus[platform.current_cpu() % self.cpus.len()].lock();
        // Read under the lock, so that a list is in the order of the counter.
        let pushed_at = self.started.fetch_add(0, Ordering::AcqRel);
        list.push_back(Entry { pushed_at, pushed_ns: now_ns, what });
        self.is_list_due(&list, now_ns)
    }

    /// Whether a flush is due: to be asked from time to time, because nothing here runs by itself.
    pub fn is_due(&self, now_ns: u64) -> bool {
        self.cpus.iter().any(|list| self.is_list_due(&list.lock(), now_ns))
    }

    fn is_list_due(&self, list: &VecDeque<Entry<T>>, now_ns: u64) -> bool {
        let old = |entry: &Entry<T>| now_ns.saturating_sub(entry.pushed_ns) >= self.bounds.age_ns;
        now_ns >= self.not_before_ns.load(Ordering::Relaxed)
            && (list.len() >= self.bounds.entries || list.front().is_some_and(old))
    }

    /// How many things wait.
    pub fn len(&self) -> usize {
        self.cpus.iter().map(|list| list.lock().len()).sum()
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.cpus.iter().all(|list| list.lock().is_empty())
    }

    /// How many flushes have begun, and the number of the latest of which the end is known to be good.
    pub fn counters(&self) -> (u64, u64) {
        (self.started.load(Ordering::Acquire), self.finished.load(Ordering::Acquire))
    }

    /// Runs `flush`, which makes hardware forget everything that was unmapped before the call and waits for it; then gives
    /// everything that was pushed before the call to `reclaim`, together with the proof.
    ///
    /// No lock is held during `flush` or `reclaim`. Flushes may run side by side; each reclaims what it covers.
    ///
    /// # Errors
    ///
    /// That of `flush`; everything waits on, and the next flush is due only after the bound on age.
    pub fn flush<F, E>(
        &self,
        platform: &P,
        flush: impl FnOnce() -> Result<F, E>,
        mut reclaim: impl FnMut(T, &F),
    ) -> Result<(), E> {
        let number = self.started.fetch_add(1, Ordering::AcqRel) + 1;
        let proof = flush().inspect_err(|_| {
            self.not_before_ns.store(platform.now_ns().saturating_add(self.bounds.age_ns), Ordering::Relaxed);
        })?;
        self.not_before_ns.store(0, Ordering::Relaxed);
        self.finished.fetch_max(number, Ordering::AcqRel);
        for list in &self.cpus {
            loop {
                // A statement of its own, so that the lock is not held while reclaiming.
                let covered = pop_covered(&mut list.lock(), number);
                let Some(what) = covered else { break };
                reclaim(what, &proof);
            }
        }
        Ok(())
    }

    /// Takes out everything that waits, for whoever has another use for it than reclaiming it.
    pub fn drain(&mut self, to: impl FnMut(T)) {
        let waiting = self.cpus.iter_mut().flat_map(|list| list.get_mut().drain(..));
        waiting.map(|entry| entry.what).for_each(to);
    }
}

fn pop_covered<T>(list: &mut VecDeque<Entry<T>>, number: u64) -> Option<T> {
    list.pop_front_if(|entry| entry.pushed_at < number || mutant!("flush-covers-what-came-later"))
        .map(|entry| entry.what)
}
