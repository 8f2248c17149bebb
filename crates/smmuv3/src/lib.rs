//! The driver of Arm's SMMUv3.
//!
//! [`Smmu::probe`] reads what the hardware can do ([`Features`]), brings it up so that every stream is blocked, and answers a value
//! that implements [`Iommu`](portcullis_core::iommu::Iommu). From then on core calls it. When the SMMU interrupts, or
//! by polling, the embedder has core do so: by `dispatch_faults` and `handle_errors` of the [`IommuUnit`](portcullis_core::unit::IommuUnit), where processes share their memory by
//! [`SvaUnit::service`](portcullis_core::sva::SvaUnit::service) instead of the first. At the end it calls [`Smmu::teardown`].
//!
//! # Words
//!
//! | neutral | SMMUv3 |
//! |---|---|
//! | source id | StreamID |
//! | process id (PASID) | SubstreamID |
//! | device entry | STE, and for stage 1 the CDs it points to |
//! | invalidate, then sync | CFGI or TLBI commands, then CMD_SYNC |
//! | fault record | event |
//! | blocked | STE.Config = abort |
//! | identity | STE.Config = bypass |
//! | stalled, page request | an event with Stall set; a record of the PRI queue |
//!
//! # Who holds what while waiting
//!
//! Attaching holds the lock of the stream map and waits for syncs under it. Mapping and unmapping hold the lock of one page table and never
//! wait; `sync` waits under no lock at all. Everybody who waits for the command queue also repairs a command error that stops it, so
//! that no wait depends on an interrupt handler that cannot run.
//!
//! Spec: SMMUv3, ARM IHI 0070 H.a. Layouts are in `portcullis_spec::smmuv3`.
//! Not here: page-table formats (`pgtable`), who is behind which SMMU (`firmware`), what is attached to what (`core`).
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod answers;
mod asids;
mod atc;
mod atomics;
mod attach;
mod batch;
mod command_queue;
mod config;
mod context;
mod counters;
mod domain;
mod entry;
mod errors;
mod event;
mod event_queue;
mod features;
mod hardware;
mod invalidate;
mod left;
mod page_requests;
mod process;
mod reach;
mod reset;
mod ring;
mod sharing;
mod smmu;
mod stalls;
mod stream_table;
mod streams;
mod substreams;
mod table;
#[cfg(test)]
mod testing;
mod update;
mod words;

pub use atc::AtcSpan;
pub use config::{Completion, Config, Msi, Overrides, Stage, TableShape};
pub use context::{ContextShape, ContextTable};
pub use counters::{Counts, TableBytes};
pub use domain::Domain;
pub use entry::{CD_VALID, Cd, STE_VALID, Ste, cd_used, ste_used};
pub use event::decode as decode_event;
pub use features::{Features, IdRegisters, ProbeError};
pub use invalidate::{Step, steps};
pub use process::Process;
pub use smmu::Smmu;
pub use stream_table::StreamTableShape;
pub use update::{Plan, plan};
