//! A process's memory as VFIO uses it: copied, pinned, charged.
//!
//! Pages are pinned in the process (`process::pin`) and kept here by their physical address, because that is how they are given back. What a
//! process has locked is counted against its limit, and all processes' together in a [`Ledger`], which has to be at zero in the end.

use core::fmt;
use core::sync::atomic::AtomicU64;
use core::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use portcullis::types::{Iova, Pa, PaRange, SizeLg2};
use portcullis::vfio::{OverLimit, UserFault, UserMemory};

use crate::process::{Pinned, Process};

/// What all processes have locked and pinned.
#[derive(Debug, Default)]
pub struct Ledger {
    locked: AtomicU64,
    pinned: AtomicU64,
    most_pinned: AtomicU64,
}

impl Ledger {
    /// How many pages are charged as locked.
    pub fn locked(&self) -> u64 {
        self.locked.load(Relaxed)
    }

    /// How many pins there are.
    pub fn pinned(&self) -> u64 {
        self.pinned.load(Relaxed)
    }

    /// The most pins that there were at one time.
    pub fn most_pinned(&self) -> u64 {
        self.most_pinned.load(Relaxed)
    }

    fn pin(&self, count: u64) {
        let now = self.pinned.fetch_add(count, Relaxed) + count;
        self.most_pinned.fetch_max(now, Relaxed);
    }
}

/// A process's memory. Lives on after the process, for as long as pages are pinned.
pub struct TaskMemory {
    process: Arc<Process>,
    ledger: Arc<Ledger>,
    limit_pages: u64,
    locked: AtomicU64,
    /// By physical address; several where a page is pinned more than once.
    pins: Mutex<BTreeMap<Pa, Vec<Pinned>>>,
}

impl fmt::Debug for TaskMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TaskMemory").field("process", &self.process).finish_non_exhaustive()
    }
}

impl TaskMemory {
    /// The memory of `process`, which may lock `limit_pages` pages.
    pub fn new(process: Arc<Process>, ledger: Arc<Ledger>, limit_pages: u64) -> Self {
        Self { process, ledger, limit_pages, locked: AtomicU64::new(0), pins: Mutex::default() }
    }

    /// How many pages the process has locked.
    pub fn locked(&self) -> u64 {
        self.locked.load(SeqCst)
    }

    fn pins(&self) -> MutexGuard<'_, BTreeMap<Pa, Vec<Pinned>>> {
        self.pins.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn page_bytes(&self) -> u64 {
        self.process.kernel().page_bytes()
    }

    /// Pins pages as long as each lies right behind the one before.
    fn pin_run(&self, at: u64, len_bytes: u64, write: bool) -> Result<Vec<Pinned>, UserFault> {
        let page_bytes = self.page_bytes();
        let first = self.process.pin(Iova::new(at), write).map_err(|_| UserFault)?;
        let mut next_pa = first.at().checked_add(page_bytes);
        let mut run = vec![first];
        for offset in (page_bytes..len_bytes).step_by(usize::try_from(page_bytes).map_err(|_| UserFault)?) {
            // A page that is not there ends the run; whoever goes on there is told.
            let Some(page) =
                at.checked_add(offset).and_then(|at| self.process.pin(Iova::new(at), write).ok())
            else {
                break;
            };
            if Some(page.at()) != next_pa {
                break;
            }
            next_pa = page.at().checked_add(page_bytes);
            run.push(page);
        }
        Ok(run)
    }
}

impl UserMemory for TaskMemory {
    fn page_size(&self) -> SizeLg2 {
        self.process.kernel().options().granule
    }

    fn copy_in(&self, at: u64, into: &mut [u8]) -> Result<(), UserFault> {
        self.process.read(Iova::new(at), into).map_err(|_| UserFault)
    }

    fn copy_out(&self, at: u64, from: &[u8]) -> Result<(), UserFault> {
        self.process.write(Iova::new(at), from).map_err(|_| UserFault)
    }

    fn pin(&self, at: u64, len_bytes: u64, write: bool) -> Result<PaRange, UserFault> {
        let run = self.pin_run(at, len_bytes, write)?;
        let first = run.first().map(Pinned::at).ok_or(UserFault)?;
        let range = PaRange::new(first, run.len() as u64 * self.page_bytes()).ok_or(UserFault)?;
        self.ledger.pin(run.len() as u64);
        let mut pins = self.pins();
        run.into_iter().for_each(|page| pins.entry(page.at()).or_default().push(page));
        Ok(range)
    }

    fn unpin(&self, pages: PaRange, dirty: bool) {
        let page_bytes = self.page_bytes();
        let mut gone = Vec::new();
        let mut pins = self.pins();
        let mut next = Some(pages.first());
        while let Some(at) = next.filter(|at| pages.contains(*at)) {
            let held = pins.get_mut(&at).and_then(Vec::pop);
            debug_assert!(held.is_some(), "{at} is pinned");
            if pins.get(&at).is_some_and(Vec::is_empty) {
                pins.remove(&at);
            }
            gone.extend(held);
            next = at.checked_add(page_bytes);
        }
        drop(pins);
        self.ledger.pinned.fetch_sub(gone.len() as u64, Relaxed);
        if dirty {
            gone.iter().for_each(Pinned::mark_dirty);
        }
    }

    fn charge(&self, page_count: u64) -> Result<(), OverLimit> {
        let more = |locked: u64| locked.checked_add(page_count).filter(|&sum| sum <= self.limit_pages);
        self.locked.fetch_update(SeqCst, SeqCst, more).map_err(|_| OverLimit)?;
        self.ledger.locked.fetch_add(page_count, Relaxed);
        Ok(())
    }

    fn uncharge(&self, page_count: u64) {
        self.locked.fetch_sub(page_count, SeqCst);
        self.ledger.locked.fetch_sub(page_count, Relaxed);
    }
}
