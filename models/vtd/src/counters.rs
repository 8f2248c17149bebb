//! What the model counts.

use std::collections::BTreeMap;

use crate::reason::Reason;

/// What a unit has done since it was made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Untranslated accesses that were let through by a translation.
    pub granted: u64,
    /// Their bytes.
    pub granted_bytes: u64,
    /// Accesses let through while translation is off.
    pub bypassed: u64,
    /// Accesses by translated address that were let through.
    pub translated_accesses: u64,
    /// Their bytes.
    pub translated_bytes: u64,
    /// Accesses that were refused.
    pub refused: u64,
    /// Untranslated accesses that a cached translation served.
    pub hits: u64,
    /// Those for which tables were walked.
    pub misses: u64,
    /// Paging entries read.
    pub paging_reads: u64,
    /// Faults met, by reason, recorded or not.
    pub faults: BTreeMap<Reason, u64>,
    /// Faults that were recorded.
    pub faults_recorded: u64,
    /// Faults that were to be recorded, and for which there was no register.
    pub faults_lost: u64,
    /// Register accesses of software: reads.
    pub register_reads: u64,
    /// Register accesses of software: writes.
    pub register_writes: u64,
    /// Descriptors taken from the queue, by type.
    pub descriptors: BTreeMap<u8, u64>,
    /// Invalidations of the context cache.
    pub context_invalidations: u64,
    /// Invalidations of the PASID cache.
    pub pasid_invalidations: u64,
    /// Invalidations of the IOTLB, by domain or globally, or of pages of the second stage.
    pub iotlb_invalidations: u64,
    /// Invalidations of the IOTLB by PASID.
    pub pasid_iotlb_invalidations: u64,
    /// Invalidations of the interrupt entry cache.
    pub interrupt_invalidations: u64,
    /// Wait descriptors completed.
    pub waits: u64,
    /// Invalidations sent to devices.
    pub device_invalidations: u64,
    /// Those that devices did not answer in time.
    pub device_timeouts: u64,
    /// Translation requests.
    pub translation_requests: u64,
    /// Those answered with some permission.
    pub translations_given: u64,
    /// Page requests written to the queue.
    pub page_requests: u64,
    /// Page requests that were not.
    pub page_requests_dropped: u64,
    /// Those of them for which the queue had no room.
    pub page_requests_lost: u64,
    /// Page group responses sent for software.
    pub page_responses: u64,
    /// Page group responses that the hardware sent of its own accord.
    pub own_page_responses: u64,
    /// Interrupts of devices that were delivered.
    pub interrupts: u64,
    /// Interrupts of devices that were blocked.
    pub interrupts_blocked: u64,
    /// Interrupts that the unit sent for itself.
    pub events: u64,
}
