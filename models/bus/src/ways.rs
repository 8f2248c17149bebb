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

#[cfg(test)]
mod tests {
    use core::sync::atomic::{AtomicU32, Ordering::Relaxed};

    use portcullis_types::{Iova, SourceId};

    use super::*;

    /// A device that counts what it was sent, and takes what is its own.
    struct Device(SourceId, AtomicU32);

    impl Downstream for Device {
        fn invalidate(&self, message: &Invalidation) -> bool {
            self.1.fetch_add(1, Relaxed);
            message.source == self.0
        }

        fn page_response(&self, message: &PageResponse) -> bool {
            self.1.fetch_add(1, Relaxed);
            message.source == self.0
        }
    }

    fn device(ways: &Ways, source: u32) -> Arc<Device> {
        let device = Arc::new(Device(SourceId(source), AtomicU32::new(0)));
        let way: Arc<dyn Downstream> = device.clone();
        ways.add(Arc::downgrade(&way));
        device
    }

    #[test]
    fn a_message_goes_down_one_way_after_another_until_somebody_takes_it() {
        let ways = Ways::default();
        let devices = [1, 2, 3].map(|source| device(&ways, source));
        let seen = || devices.each_ref().map(|device| device.1.swap(0, Relaxed));
        let invalidation = |source| Invalidation {
            source: SourceId(source),
            pasid: None,
            global: false,
            first: Iova::new(0x1000),
            size_lg2: 12,
            tag: 0,
        };
        let response = |source| PageResponse { source: SourceId(source), pasid: None, group: 0, code: 0 };
        assert!(ways.invalidate(&invalidation(2)));
        assert_eq!(seen(), [1, 1, 0]);
        assert!(!ways.invalidate(&invalidation(4)));
        assert_eq!(seen(), [1, 1, 1]);
        assert!(ways.respond(&response(1)));
        assert_eq!(seen(), [1, 0, 0]);
        assert!(!ways.respond(&response(4)));
        assert_eq!(seen(), [1, 1, 1]);
    }

    #[test]
    fn a_way_that_is_gone_is_forgotten_when_another_comes() {
        let ways = Ways::default();
        drop(device(&ways, 1));
        assert!(ways.live().is_empty());
        let _there = device(&ways, 2);
        assert_eq!(ways.0.lock().unwrap().len(), 1);
    }
}
