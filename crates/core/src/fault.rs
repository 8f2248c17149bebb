//! Faults: what a device did that was refused, and who is told.
//!
//! Every fault is counted, for its device and for its domain, and said as an event. A domain can have a [`FaultHandler`] besides,
//! which is told after that. No lock of core's is held while it runs.
//!
//! A fault may be brought in interrupt context, and meanwhile everybody else may leave the domain. Letting go of that may wait for hardware and for a process, so whoever
//! brings a fault holds the domain's `Faults`, and not the domain.

use alloc::sync::Arc;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use portcullis_hal::{Lock, Platform};
use portcullis_types::trace::Value;

use crate::device::Device;
use crate::iommu::{FaultReason, FaultRecord};
use crate::trace;

/// Somebody who wants to know of the faults of a domain's devices.
pub trait FaultHandler<P: Platform>: Send + Sync {
    /// `device` did something that was refused. Called in interrupt context if the embedder drains events there. A handler that is replaced meanwhile, or whose domain
    /// goes, is let go of there, too.
    fn fault(&self, device: &Device<P>, record: &FaultRecord);
}

impl<P: Platform, F: Fn(&Device<P>, &FaultRecord) + Send + Sync> FaultHandler<P> for F {
    fn fault(&self, device: &Device<P>, record: &FaultRecord) {
        self(device, record);
    }
}

/// What is counted and told of the faults of one domain.
pub(crate) struct Faults<P: Platform> {
    count: AtomicU64,
    handler: Lock<P, Option<Arc<dyn FaultHandler<P>>>>,
}

impl<P: Platform> Faults<P> {
    /// None yet, and nobody to tell.
    pub(crate) fn new() -> Self {
        Self { count: AtomicU64::new(0), handler: Lock::<P, _>::new(None) }
    }

    pub(crate) fn count(&self) -> u64 {
        self.count.load(Relaxed)
    }

    pub(crate) fn set_handler(&self, handler: Option<Arc<dyn FaultHandler<P>>>) {
        let before = core::mem::replace(&mut *self.handler.lock(), handler);
        // With the lock released: much may hang on it.
        drop(before);
    }
}

/// Counts and says a fault, and tells the handler of the domain in which the device is now.
pub(crate) fn deliver<P: Platform>(platform: &P, device: &Device<P>, record: &FaultRecord) {
    device.faults.fetch_add(1, Relaxed);
    say(platform, device.name(), record);
    let Some(there) = device.faults_there() else { return };
    there.count.fetch_add(1, Relaxed);
    // A statement of its own, so that the lock is not held while the handler runs.
    let handler = there.handler.lock().clone();
    if let Some(handler) = handler {
        handler.fault(device, record);
    }
}

/// Says a fault as an event; `dev` is empty if nobody knows the source.
pub(crate) fn say<P: Platform>(platform: &P, dev: &str, record: &FaultRecord) {
    let reason = match record.reason {
        FaultReason::NotMapped => "not_mapped",
        FaultReason::Permission => "permission",
        FaultReason::AddressSize => "address_size",
        FaultReason::AccessFlag => "access_flag",
        FaultReason::Configuration => "configuration",
        FaultReason::Hardware => "hardware",
        FaultReason::Other(_) => "other",
    };
    let absent = Value::Str("none");
    let fields = [
        ("source", record.source.map_or(absent, |source| Value::Hex(source.0.into()))),
        ("iova", record.iova.map_or(absent, |iova| Value::Addr(iova.get()))),
        ("name", Value::Str(record.name)),
        ("reason", Value::Str(reason)),
    ];
    trace::say(platform, "fault", dev, &fields);
}
