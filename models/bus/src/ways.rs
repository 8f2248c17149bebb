//! The ways from a translator down to the devices that keep translations of their own.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use crate::{Downstream, Invalidation, PageResponse};

/// The ways down. One that is gone is forgotten.
///
/// No lock is held while a device is spoken to: it may answer from within.
#[derive(Default)]
pub struct Ways(Mutex<Vec<Weak<dyn Downstream>>>);

impl Ways {
    /// One more.
    pub fn add(&self, way: Weak<dyn Downstream>) {
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
    pub fn invalidate(&self, message: &Invalidation) -> bool {
        self.live().iter().any(|way| way.invalidate(message))
    }

    /// Takes a response to its device. False if there is none.
    pub fn respond(&self, message: &PageResponse) -> bool {
        self.live().iter().any(|way| way.page_response(message))
    }
}
