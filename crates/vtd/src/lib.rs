//! The driver of Intel VT-d.
//!
//! [`Vtd::probe`] reads what a remapping unit can do ([`Features`]), takes it over from firmware, and brings it up so that every source is blocked, but
//! for those that firmware reserved memory for ([`BootRegion`]). From then on core calls it as an [`Iommu`](portcullis_core::iommu::Iommu); when the unit
//! interrupts, or by polling, the embedder has core do so: by `dispatch_faults` and `handle_errors` of the [`IommuUnit`](portcullis_core::unit::IommuUnit), where processes share their memory by
//! [`SvaUnit::service`](portcullis_core::sva::SvaUnit::service) instead of the first. It asks [`Vtd::interrupts`] for remapped interrupts, and calls [`Vtd::teardown`] at the end.
//!
//! # Words
//!
//! | neutral | VT-d |
//! |---|---|
//! | source id | source-id: bus, device, function |
//! | process id (PASID) | PASID |
//! | device entry | context entry; in scalable mode also a PASID directory and PASID table entries |
//! | invalidate, then sync | context-cache, PASID-cache, IOTLB and device TLB invalidation descriptors, then an invalidation wait |
//! | fault record | fault record |
//! | blocked | no present entry |
//! | identity | pass-through, or a table that maps all memory to itself |
//! | guest's table before a parent's | nested translation: PGTT 011b, in scalable mode where ECAP.NEST says so |
//!
//! # Order
//!
//! An entry that leads elsewhere is first made not present; then the caches forget it, in the order context cache, PASID cache, IOTLB, device TLB; only then
//! is the next one written, and its present bit last. In between its source is blocked. There is no way without such a moment: IOTLB entries are tagged with a
//! domain-id, which is in another word of the entry than the table, and under a mixture of both other devices of the domain would be led astray.
//!
//! # Who holds what while waiting
//!
//! Attaching holds the lock of the configuration and waits under it. Mapping and unmapping hold the lock of one page table and never wait, unless hardware
//! caches what is not present or has a write buffer; `sync` waits under no lock. Everybody who waits for the invalidation queue also repairs an error that stops it, so
//! that no wait depends on an interrupt handler that cannot run.
//!
//! Spec: VT-d 5.10, Order Number D51397-018. Layouts are in `portcullis_spec::vtd`.
//! Not here: page-table formats (`pgtable`), which devices are behind which unit (`firmware`), what is attached to what (`core`).
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod atc;
mod config;
mod context;
mod counters;
mod descriptor;
mod devices;
mod domain;
mod fault;
mod features;
mod hardware;
mod interrupt;
mod lead;
mod left;
mod nested;
mod page_requests;
mod pasid;
mod process;
mod queue;
mod reset;
mod sharing;
mod span;
mod switch;
mod table;
#[cfg(test)]
mod testing;
mod vtd;

pub use config::{BootRegion, Config, InterruptConfig, Mode, Msi};
pub use counters::Counts;
pub use descriptor::Descriptor;
pub use domain::Domain;
pub use fault::decode as decode_fault;
pub use features::{Features, ProbeError};
pub use interrupt::{
    Destination, Interrupt, InterruptBlock, InterruptError, InterruptMessage, InterruptRemapping, Requester,
};
pub use nested::Nested;
pub use process::Process;
pub use vtd::Vtd;
