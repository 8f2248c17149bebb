//! The driver of PHB3, the PCI host bridge of POWER8, and of what it translates by: IODA2.
//!
//! [`Phb3::probe`] brings a bridge up so that every source is blocked, and answers a value that implements
//! [`Iommu`](portcullis_core::iommu::Iommu). From then on core calls it; when the bridge interrupts, or by polling, the embedder has core do so, by `dispatch_faults` and
//! `handle_errors` of the [`IommuUnit`](portcullis_core::unit::IommuUnit). A user that makes windows himself gets his group from
//! [`Iommu::table_group`](portcullis_core::iommu::Iommu::table_group).
//!
//! # Words
//!
//! | neutral | IODA2 |
//! |---|---|
//! | source id | RID, a PCI request id; then PE number |
//! | group | PE, partitionable endpoint |
//! | device entry | TVE, one for each of the two windows of a PE |
//! | page table | TCE table |
//! | invalidate, then sync | TCE kill, then a load from the bridge |
//! | fault record | PE freeze: the PE's state, kept in the PEST |
//! | blocked | both TVEs zero |
//! | identity, bypass | a TVE that does not translate |
//!
//! # Take and release
//!
//! Attaching all members of a PE to nothing takes it: no bypass, no window of the platform's, its table freed when nothing is mapped there. What its user sets then is for those whose
//! devices are in the group, from their first attach on until they leave. Attaching
//! them to a domain releases it, which is refused while windows of a user's are set. If there is no memory for the domain's table then, the group stays blocked, core
//! says so, and may try again.
//!
//! # What one may trust
//!
//! Only the kernel's own domains leave the way around translation open (window 1), and only where the embedder gave the end of memory for it.
//!
//! There is no book: `portcullis_spec::ioda2` says what was observed where.
//! Not here: TCE tables (`pgtable::tce`), firmware's part (XSCOM, link, error masks), interrupts (IVT), resets of slots (`core::table_group::Slot`).
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod bridge;
mod bringup;
mod config;
mod domain;
mod eeh;
mod events;
mod group;
mod inject;
mod pe;
mod phb3;
mod root_port;
mod routes;
mod setup;
mod table;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
pub mod tve;

pub use bringup::ProbeError;
pub use config::{Config, M32};
pub use events::decode as decode_freeze;
pub use phb3::{AssignError, Phb3};
pub use root_port::RootPort;
pub use routes::{NOBODY, NOBODYS_MMIO};
pub use table::KILL_ONE_BY_ONE;
