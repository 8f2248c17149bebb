//! A strict executable model of Intel VT-d: the judge of the driver.
//!
//! A [`Vtd`] has the registers, walks, caches, queues, faults and interrupts of the real thing. A cooperative device cannot tell it from silicon; a wrong
//! driver cannot get past it: it keeps stale entries for as long as the book allows, and lists everything software does that the book forbids
//! ([`Unpredictable`]). It is written from the book, and not from the driver.
//!
//! | the book | here |
//! |---|---|
//! | source-id, PASID | `source`, `pasid`, as in a `model_bus::Request` |
//! | first stage, second stage, nested, pass-through | the same: `First`, `Second`, `Made` |
//! | fault reason | [`Reason`] |
//! | translation request, translated request, page request | `model_bus::{TranslationRequest, TranslatedRequest, PageRequest}` |
//! | device-TLB invalidation, page group response | `model_bus::{Invalidation, PageResponse}` |
//! | interrupt request | a write of 4 bytes to 0xfeex_xxxx, which reaches the unit as a `model_bus::Doorbell` |
//!
//! Where to look: what happens to a request `translate`, which entries it goes through `contexts`, its walk `first` and `second`; what entries mean `entry`, what
//! descriptors mean `descriptor`; what is cached `caches`, `iotlb` and `structures`; when an invalidation is done `queue`; faults `fault`; interrupts of
//! devices `remap`, of the unit `event`; what devices with a TLB ask `ats`, and are told `device_tlb`; page requests `page_request`; what registers do `program` and
//! `by_register`; all forbidden things [`clause`].
//!
//! Spec: VT-d 5.10 is the Intel Virtualization Technology for Directed I/O Architecture Specification, revision 5.10 (D51397-018).
//! Not here: host permission tables, posted interrupts, memory types, enhanced commands, performance monitoring.
#![forbid(unsafe_code)]

mod ats;
mod bits;
mod by_register;
mod caches;
mod config;
mod contexts;
mod counters;
mod descriptor;
mod device_tlb;
mod engine;
mod entry;
mod event;
mod fault;
mod first;
mod interrupt;
mod iotlb;
mod memory;
mod page_request;
mod policy;
mod program;
mod queue;
mod reason;
mod registers;
mod remap;
mod second;
mod state;
mod strict;
mod structures;
mod translate;
mod vtd;

pub use config::{Config, Depths, Scalable};
pub use counters::Counters;
pub use interrupt::{Interrupt, Interrupts};
pub use memory::Memory;
pub use model_bus::Unpredictable;
pub use policy::Policy;
pub use reason::Reason;
pub use strict::clause;
pub use vtd::{Outlook, Vtd};

/// The room that trace events of this crate name.
pub(crate) const SOURCE: &str = "model.vtd";
