//! What the SMMU sends of its own accord, to memory and to devices, and who takes it to devices.
//!
//! Whatever is to be sent waits in the state's outbox until the lock is given back, and is sent in that order. Nothing is held
//! meanwhile: a device may answer from within, and come back to any of the model's faces.
//!
//! Not here: writing messages to memory (`smmu`), which invalidations are under way (`atc`).

use std::sync::{Arc, Mutex, PoisonError, Weak};

use model_bus::{Downstream, Invalidation, PageResponse};

use crate::state::Message;

/// Something to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outgoing {
    /// An interrupt, to memory.
    Message(Message),
    /// An invalidation, to an ATC. The number is its own for as long as the model lives; a tag is not.
    Invalidate(Invalidation, u64),
    /// What became of a group of page requests, to its device.
    Respond(PageResponse),
}

/// The ways down.
#[derive(Default)]
pub(crate) struct Ways(Mutex<Vec<Weak<dyn Downstream>>>);

impl Ways {
    pub(crate) fn add(&self, way: Weak<dyn Downstream>) {
        let mut ways = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        ways.retain(|way| way.strong_count() != 0);
        ways.push(way);
    }

    /// Those that still live.
    fn live(&self) -> Vec<Arc<dyn Downstream>> {
        let ways = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        ways.iter().filter_map(Weak::upgrade).collect()
    }

    /// Takes an invalidation to its device. False if it came back as an Unsupported Request.
    pub(crate) fn invalidate(&self, message: &Invalidation) -> bool {
        self.live().iter().any(|way| way.invalidate(message))
    }

    /// Takes a response to its device. False if there is none.
    pub(crate) fn respond(&self, message: &PageResponse) -> bool {
        self.live().iter().any(|way| way.page_response(message))
    }
}
