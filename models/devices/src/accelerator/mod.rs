//! A compression accelerator that shares processes' address spaces, in two forms.
//!
//! [`PcieAccelerator`] is a function with an ATC and page requests; [`PlatformAccelerator`] sits on the system bus and is stalled where a page is
//! missing. Both are made of one engine, which reads jobs from queues that processes own, and does each a piece at a time: a queue that waits for a
//! page stops no other, and nothing ever blocks.
//!
//! Spec: docs/accelerator.md.
//! Not here: the ATC and page requests themselves (`pcie`).

mod engine;
mod job;
mod memory;
mod pcie;
mod platform;
mod queue;
mod registers;
mod stream;
mod work;

use crate::pcie::{Behaviour, PortKind};

pub use pcie::PcieAccelerator;
pub use platform::PlatformAccelerator;

/// What an accelerator is like. Those after `bytes_per_step` mean something on PCIe only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AcceleratorOptions {
    /// How many queues, 1 to 16.
    pub queues: u8,
    /// log2 of the most entries of a queue, 1 to 12.
    pub entries_lg2: u8,
    /// Bits of a PASID, 0 to 20.
    pub pasid_bits: u8,
    /// Decides the order of what may happen in any.
    pub seed: u64,
    /// How many bytes a queue reads and writes in a step, about.
    pub bytes_per_step: u64,
    /// A stop sends a stop marker and does not wait for responses.
    pub stop_marker: bool,
    /// Whether it sits behind a port or on the root bus.
    pub port: PortKind,
    /// How many translations its ATC holds, at least 1.
    pub atc_entries: usize,
    /// Whether a global invalidation hits every PASID.
    pub global_invalidate: bool,
    /// Outstanding Page Request Capacity.
    pub page_requests: u32,
    /// Whether responses are to carry the PASID (PRG Response PASID Required).
    pub response_needs_pasid: bool,
    /// How its ATC answers at first.
    pub behaviour: Behaviour,
}

impl Default for AcceleratorOptions {
    /// 8 queues of up to 4096 entries, 16-bit PASIDs, 64 translations, 64 page requests, a stop that waits, everything well-behaved.
    fn default() -> Self {
        Self {
            queues: 8,
            entries_lg2: 12,
            pasid_bits: 16,
            seed: 0,
            bytes_per_step: 256 << 10,
            stop_marker: false,
            port: PortKind::Endpoint,
            atc_entries: 64,
            global_invalidate: true,
            page_requests: 64,
            response_needs_pasid: true,
            behaviour: Behaviour::default(),
        }
    }
}

impl AcceleratorOptions {
    fn check(&self) {
        assert!((1..=16).contains(&self.queues), "1 to 16 queues");
        assert!((1..=12).contains(&self.entries_lg2), "2 to 4096 entries");
        assert!(self.pasid_bits <= 20, "PASIDs have at most 20 bits");
        assert!(
            self.atc_entries >= 1 && self.page_requests >= 1,
            "no room for one translation or page request"
        );
    }
}

/// What an accelerator's jobs came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct AcceleratorCounts {
    /// How many jobs ended with each status, by its number.
    pub jobs: [u64; 8],
    /// How many accesses were held back.
    pub stalls: u64,
    /// How many times a queue failed.
    pub queues_failed: u64,
}
