//! Who is told of changes.
//!
//! The lock is held during the calls: that makes removal a fence.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use portcullis::core::iommu::SyncError;
use portcullis::core::mm::{Exited, ListenerId, MmListener};
use portcullis::types::IovaRange;

/// An address space's listeners.
#[derive(Default)]
pub(super) struct Listeners(Mutex<List>);

#[derive(Default)]
struct List {
    members: Vec<(ListenerId, Arc<dyn MmListener>)>,
    next: u64,
    closed: bool,
    /// Those that did not confirm their release: they are asked no more, and never confirm.
    lost: Doubters,
}

/// Listeners that could not confirm, and what the first of them said. Empty means that all did.
#[derive(Clone, Debug, Default)]
pub(super) struct Doubters {
    pub(super) ids: Vec<ListenerId>,
    pub(super) error: Option<SyncError>,
}

impl Doubters {
    fn note(&mut self, id: ListenerId, result: Result<(), SyncError>) {
        if let Err(error) = result {
            self.ids.push(id);
            self.error.get_or_insert(error);
        }
    }
}

impl Listeners {
    pub(super) fn add(&self, listener: Arc<dyn MmListener>) -> Result<ListenerId, Exited> {
        let mut list = self.list();
        if list.closed {
            return Err(Exited);
        }
        let id = ListenerId(list.next);
        list.next += 1;
        list.members.push((id, listener));
        Ok(id)
    }

    pub(super) fn remove(&self, id: ListenerId) {
        self.list().members.retain(|(member, _)| *member != id);
    }

    pub(super) fn invalidate(&self, range: IovaRange) -> Doubters {
        let list = self.list();
        let mut doubters = list.lost.clone();
        for (id, listener) in &list.members {
            doubters.note(*id, listener.invalidate(range));
        }
        doubters
    }

    /// Tells all that are left, and lets nobody in again. Answers who confirmed, and who did not.
    pub(super) fn release(&self) -> (Vec<ListenerId>, Doubters) {
        let mut list = self.list();
        list.closed = true;
        let (mut confirmed, mut doubters) = (Vec::new(), Doubters::default());
        for (id, listener) in core::mem::take(&mut list.members) {
            let result = listener.release();
            if result.is_ok() {
                confirmed.push(id);
            }
            doubters.note(id, result);
        }
        list.lost = doubters.clone();
        (confirmed, doubters)
    }

    fn list(&self) -> MutexGuard<'_, List> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
