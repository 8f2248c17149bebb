//! User memory that is pinned.

use alloc::sync::Arc;
use alloc::vec::Vec;

use portcullis_types::{Pa, PaRange, mutant};

use super::forget::Forgotten;
use crate::Errno;
use crate::user::UserMemory;

/// Pinned and charged pages of a process. There is no way back but [`reclaim`](Self::reclaim): dropped, they stay pinned.
#[must_use = "dropped, the pages stay pinned"]
pub(super) struct Pinned {
    memory: Arc<dyn UserMemory>,
    /// Where they are, in the order of the process's addresses; no two that follow each other touch.
    runs: Vec<PaRange>,
    write: bool,
}

impl Pinned {
    /// Pins `len_bytes` bytes of whole pages at `at`, which do not wrap.
    ///
    /// Choice: a run is charged after it has been pinned, because only then its length is known, and a page that is not there is
    /// the error that comes first. More than one run beyond the limit is never pinned.
    pub(super) fn pin(
        memory: &Arc<dyn UserMemory>,
        at: u64,
        len_bytes: u64,
        write: bool,
    ) -> Result<Self, Errno> {
        let mut pinned = Self { memory: memory.clone(), runs: Vec::new(), write };
        let mut done = 0;
        while done < len_bytes {
            match pinned.pin_run(at + done, len_bytes - done) {
                Ok(bytes) => done += bytes,
                Err(errno) => {
                    if !mutant!("fault-midway-keeps-what-was-pinned") {
                        pinned.let_go(false);
                    }
                    return Err(errno);
                }
            }
        }
        Ok(pinned)
    }

    fn pin_run(&mut self, at: u64, len_bytes: u64) -> Result<u64, Errno> {
        let run = self.memory.pin(at, len_bytes, self.write)?;
        let bytes = bytes(run);
        assert!(
            bytes <= len_bytes && self.page_count_of(bytes) > 0,
            "at least a page, at most what was asked for"
        );
        if let Err(over) = self.memory.charge(self.page_count_of(bytes)) {
            if !mutant!("run-over-the-limit-stays-pinned") {
                self.memory.unpin(run, false);
            }
            return Err(over.into());
        }
        self.add(run);
        Ok(bytes)
    }

    fn add(&mut self, run: PaRange) {
        if let Some(last) = self.runs.last_mut()
            && let Some(longer) = last.joined(run)
        {
            *last = longer;
        } else {
            self.runs.push(run);
        }
    }

    /// Where each run is, and how many bytes it has.
    pub(super) fn runs(&self) -> impl Iterator<Item = (Pa, u64)> {
        self.runs.iter().map(|&run| (run.first(), bytes(run)))
    }

    pub(super) fn run_count(&self) -> usize {
        self.runs.len()
    }

    pub(super) fn page_count(&self) -> u64 {
        self.page_count_of(self.runs.iter().map(|&run| bytes(run)).sum())
    }

    fn page_count_of(&self, bytes: u64) -> u64 {
        bytes >> self.memory.page_size().get()
    }

    /// Lets the pages go: no device can reach them any more.
    pub(super) fn reclaim(self, _: &Forgotten) {
        let written = self.write;
        self.let_go(written);
    }

    fn let_go(self, dirty: bool) {
        self.memory.uncharge(self.page_count());
        self.runs.iter().for_each(|&run| self.memory.unpin(run, dirty));
    }
}

fn bytes(run: PaRange) -> u64 {
    run.len_bytes().expect("a part of a process's memory is not everything")
}
