//! What the model has done, in numbers.

use std::collections::BTreeMap;

use crate::event::EventKind;

/// Counts since the model was made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Commands consumed, by the book's name.
    pub commands: BTreeMap<&'static str, u64>,
    /// Events that arose, by kind, whether they found room in the queue or not.
    pub events: BTreeMap<EventKind, u64>,
    /// Events lost because the queue was full, disabled or broken.
    pub events_lost: u64,
    /// Messages written.
    pub messages: u64,
    /// Accesses that found their translation cached.
    pub hits: u64,
    /// Accesses that needed a walk.
    pub misses: u64,
    /// Table descriptors read, both stages.
    pub descriptor_reads: u64,
    /// Stream table entries, context descriptors and level 1 descriptors read.
    pub configuration_reads: u64,
    /// Descriptors in which the hardware set the Access flag.
    pub access_flag_updates: u64,
    /// Descriptors that the hardware made dirty.
    pub dirty_updates: u64,
    /// Cached translations removed by commands.
    pub invalidated: u64,
    /// Accesses that were translated and let through.
    pub granted: u64,
    /// Bytes of those.
    pub granted_bytes: u64,
    /// Accesses that were let through untranslated: the SMMU is off, or the stream is bypassed.
    pub bypassed: u64,
    /// Accesses that were refused.
    pub refused: u64,
    /// Translation requests of devices, however they were answered.
    pub translation_requests: u64,
    /// Those that were answered with some permission.
    pub translations_given: u64,
    /// Accesses by translated addresses that were let through. They are not among `granted`.
    pub translated_accesses: u64,
    /// Bytes of those.
    pub translated_bytes: u64,
    /// Page requests of devices, stop markers included, whatever became of them.
    pub page_requests: u64,
    /// Those that did not get into the PRI queue.
    pub page_requests_lost: u64,
    /// Answers to page requests that the SMMU gave by itself.
    pub auto_responses: u64,
    /// Invalidations sent to ATCs.
    pub atc_invalidations: u64,
    /// Those of them that came back as an Unsupported Request, or found nobody.
    pub atc_unsupported: u64,
    /// Those of them that were given up after the policy's time.
    pub atc_timeouts: u64,
    /// Broadcast operations that were heard.
    pub broadcasts: u64,
    /// Accesses that were held back.
    pub stalls: u64,
    /// Of those, how many software let try again.
    pub resumed: u64,
    /// Of those, how many software ended, or the SMMU when it was switched off.
    pub terminated: u64,
    /// Register reads and writes.
    pub register_reads: u64,
    /// Register writes.
    pub register_writes: u64,
}

impl Counters {
    /// All commands consumed.
    pub fn commands_total(&self) -> u64 {
        self.commands.values().sum()
    }

    /// How many of the command with this name, `CMD_SYNC` and the like, were consumed.
    pub fn command(&self, name: &str) -> u64 {
        self.commands.get(name).copied().unwrap_or(0)
    }

    /// All events.
    pub fn events_total(&self) -> u64 {
        self.events.values().sum()
    }
}
