//! The driver of Arm's SMMUv2, and of its implementation MMU-500.
//!
//! [`Smmu::probe`] reads what the hardware can do ([`Features`]), brings it up so that every stream is blocked, and answers a value
//! that implements [`Iommu`](portcullis_core::iommu::Iommu). From then on core calls it. When the SMMU interrupts, or by polling,
//! the embedder has core do so: by `dispatch_faults` and `handle_errors` of the [`IommuUnit`](portcullis_core::unit::IommuUnit). At the end it calls [`Smmu::teardown`].
//!
//! # Words
//!
//! | neutral | SMMUv2 |
//! |---|---|
//! | source id | StreamID, with a mask of bits that do not matter above it ([`StreamMatch`]) |
//! | device entry | stream mapping register group: SMMU_SMRn and SMMU_S2CRn |
//! | domain | translation context bank |
//! | invalidate, then sync | SMMU_CBn_TLBI*, then SMMU_CBn_TLBSYNC until SMMU_CBn_TLBSTATUS is idle; or their global kin |
//! | fault record | SMMU_CBn_FSR and SMMU_GFSR, with their syndrome registers |
//! | blocked | SMMU_S2CRn.TYPE = fault |
//! | identity | SMMU_S2CRn.TYPE = bypass |
//! | guest's table before a parent's | two context banks, of which SMMU_CBARn of the first names the second ("nested") |
//!
//! # Who holds what while waiting
//!
//! The hardware has one place per context bank, and one for all, from which to sync: who syncs holds its lock and waits under it, at most as long as the
//! configuration says. Attaching holds the lock of the stream map as well. Mapping and unmapping hold the lock of one page table and never wait.
//!
//! # 64-bit registers
//!
//! An invalidation by address is one 64-bit write: the book takes half of one for the whole. Where a bus would split it, [`Config::wide_writes`] says so, and
//! invalidations are of everything that a bank has.
//!
//! Spec: SMMUv2, ARM IHI 0062D.c. Layouts are in `portcullis_spec::smmuv2`.
//! Not here: page-table formats (`pgtable`), who is behind which SMMU (`firmware`), what is attached to what (`core`).
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod bank;
mod config;
mod counters;
mod domain;
mod fault;
mod faults;
mod features;
mod groups;
mod hardware;
mod invalidate;
mod left;
mod matching;
mod nested;
mod reset;
mod smmu;
mod streams;
mod table;
#[cfg(test)]
mod testing;
mod tlb;

pub use config::{Config, Implementation, Stage};
pub use counters::{Counts, Operation};
pub use domain::Domain;
pub use fault::{context as decode_context_fault, global as decode_global_fault};
pub use features::{Features, IdRegisters, ProbeError};
pub use invalidate::{Step, steps};
pub use matching::{StreamMatch, merged};
pub use nested::Nested;
pub use smmu::Smmu;
