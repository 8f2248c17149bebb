//! What hardware models share: the transactions between requesters, translators and memory.
//!
//! A device model makes a [`Request`] for each run of bytes, a [`Translator`] (the IOMMU
//! model, or nothing) says where it goes, and the [`Fabric`] moves the bytes: to RAM, to a register, to an MSI
//! doorbell. Registers of a model are an [`Mmio`]. A model that has work of its own to do later is a [`Clocked`].
//!
//! Not here: any particular hardware.
#![forbid(unsafe_code)]

mod transaction;

pub use transaction::{BusError, Clocked, Fabric, Mmio, Outcome, Passage, Request, Translator, Width, Write};
