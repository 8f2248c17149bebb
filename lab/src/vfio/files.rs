//! Tables of open files, and event files.

use core::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use portcullis::vfio::{Errno, EventFile, Fd, File};

use crate::platform::LabPlatform;

/// Numbers 0 to 2 are taken, as in every process.
const FIRST: i32 = 3;
/// How many files a process may have open.
const LIMIT: i32 = 64;

/// An event file: a count that signals add to, and that a read takes.
#[derive(Debug, Default)]
pub struct EventCount(AtomicU64);

impl EventCount {
    /// What has been added since the last time.
    pub fn take(&self) -> u64 {
        self.0.swap(0, SeqCst)
    }

    /// Whether there is something to take.
    pub fn is_ready(&self) -> bool {
        self.0.load(SeqCst) > 0
    }
}

impl EventFile for EventCount {
    fn signal(&self) {
        self.0.fetch_add(1, SeqCst);
    }
}

/// What a number stands for.
#[derive(Clone)]
pub(super) enum OpenFile {
    Vfio(File<LabPlatform>),
    Event(Arc<EventCount>),
}

impl OpenFile {
    pub(super) fn as_fd(&self) -> Fd<LabPlatform> {
        match self {
            Self::Vfio(file) => Fd::Vfio(file.clone()),
            Self::Event(event) => Fd::Event(event.clone()),
        }
    }
}

/// A table of open files. Nothing is closed with its lock held: closing a file may take time and locks of its own.
#[derive(Default)]
pub(super) struct Files(Mutex<BTreeMap<i32, OpenFile>>);

impl Files {
    /// Gives a file the lowest free number.
    pub(super) fn add(&self, file: OpenFile) -> Result<i32, Errno> {
        let mut files = self.lock();
        let free = (FIRST..LIMIT).find(|number| !files.contains_key(number));
        let Some(number) = free else {
            drop(files);
            return Err(Errno::Emfile);
        };
        files.insert(number, file);
        Ok(number)
    }

    pub(super) fn get(&self, number: i32) -> Option<OpenFile> {
        self.lock().get(&number).cloned()
    }

    pub(super) fn remove(&self, number: i32) -> Option<OpenFile> {
        self.lock().remove(&number)
    }

    /// Empties the table, for a process that ends: in the order of the numbers.
    pub(super) fn take_all(&self) -> Vec<OpenFile> {
        core::mem::take(&mut *self.lock()).into_values().collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<i32, OpenFile>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
