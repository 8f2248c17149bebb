//! What the driver did, in numbers.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::descriptor::Descriptor;

const TYPES: usize = 16;

/// Counters that every CPU adds to.
#[derive(Debug)]
pub(crate) struct Counters {
    descriptors: [AtomicU64; TYPES],
    pub(crate) write_buffer_flushes: AtomicU64,
    pub(crate) faults: AtomicU64,
    pub(crate) fault_overflows: AtomicU64,
    pub(crate) queue_errors: AtomicU64,
    pub(crate) device_timeouts: AtomicU64,
    pub(crate) page_requests: AtomicU64,
    pub(crate) page_request_overflows: AtomicU64,
}

impl Counters {
    pub(crate) fn new() -> Self {
        let zero = || AtomicU64::new(0);
        Self {
            descriptors: [const { AtomicU64::new(0) }; TYPES],
            write_buffer_flushes: zero(),
            faults: zero(),
            fault_overflows: zero(),
            queue_errors: zero(),
            device_timeouts: zero(),
            page_requests: zero(),
            page_request_overflows: zero(),
        }
    }

    pub(crate) fn descriptor(&self, descriptor: &Descriptor) {
        if let Some(count) = self.descriptors.get(usize::from(descriptor.kind())) {
            count.fetch_add(1, Relaxed);
        }
    }

    pub(crate) fn add(counter: &AtomicU64) {
        counter.fetch_add(1, Relaxed);
    }

    pub(crate) fn snapshot(&self) -> Counts {
        Counts {
            descriptors: core::array::from_fn(|kind| self.descriptors[kind].load(Relaxed)),
            write_buffer_flushes: self.write_buffer_flushes.load(Relaxed),
            faults: self.faults.load(Relaxed),
            fault_overflows: self.fault_overflows.load(Relaxed),
            queue_errors: self.queue_errors.load(Relaxed),
            device_timeouts: self.device_timeouts.load(Relaxed),
            page_requests: self.page_requests.load(Relaxed),
            page_request_overflows: self.page_request_overflows.load(Relaxed),
        }
    }
}

/// What the driver did since probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counts {
    descriptors: [u64; TYPES],
    /// Flushes of the write buffer.
    pub write_buffer_flushes: u64,
    /// Fault records taken.
    pub faults: u64,
    /// How often fault records had been lost.
    pub fault_overflows: u64,
    /// Descriptors that the hardware refused.
    pub queue_errors: u64,
    /// How often devices did not answer an invalidation, or wrongly.
    pub device_timeouts: u64,
    /// Page requests taken from the queue, stop markers not counted.
    pub page_requests: u64,
    /// How often page requests had been lost.
    pub page_request_overflows: u64,
}

impl Counts {
    /// Descriptors of this type that were queued: one of `spec::vtd::invalidation`'s `TYPE_…`.
    pub fn descriptors(&self, kind: u8) -> u64 {
        self.descriptors.get(usize::from(kind)).copied().unwrap_or(0)
    }

    /// Waits that were queued.
    pub fn waits(&self) -> u64 {
        self.descriptors(portcullis_spec::vtd::invalidation::TYPE_WAIT)
    }

    /// All descriptors that were queued, waits included.
    pub fn all_descriptors(&self) -> u64 {
        self.descriptors.iter().sum()
    }
}
