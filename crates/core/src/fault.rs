//! Faults: what a device did that was refused, and who is told.
//!
//! Every fault is counted, for its device and for its domain, and said as an event. A domain can have a [`FaultHandler`] besides,
//! which is told after that. No lock of core's is held while it runs.

use core::sync::atomic::Ordering::Relaxed;

use portcullis_hal::Platform;
use portcullis_types::trace::Value;

use crate::device::Device;
use crate::iommu::{FaultReason, FaultRecord};
use crate::trace;

/// Somebody who wants to know of the faults of a domain's devices.
pub trait FaultHandler<P: Platform>: Send + Sync {
    /// `device` did something that was refused. Called in interrupt context if the embedder drains events there.
    fn fault(&self, device: &Device<P>, record: &FaultRecord);
}

impl<P: Platform, F: Fn(&Device<P>, &FaultRecord) + Send + Sync> FaultHandler<P> for F {
    fn fault(&self, device: &Device<P>, record: &FaultRecord) {
        self(device, record);
    }
}

/// Counts and says a fault, and tells the handler of the domain in which the device is now.
pub(crate) fn deliver<P: Platform>(platform: &P, device: &Device<P>, record: &FaultRecord) {
    device.faults.fetch_add(1, Relaxed);
    say(platform, device.name(), record);
    let Some(domain) = device.domain() else { return };
    domain.faults.fetch_add(1, Relaxed);
    if let Some(handler) = domain.fault_handler() {
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
