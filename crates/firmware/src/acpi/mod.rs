//! ACPI tables: what firmware says where there is no device tree.
//!
//! | file | what |
//! |---|---|
//! | `table` | the header that every table begins with |
//! | `bytes` | reading little-endian words, names, and what lies one after the other, and never beyond the end |
//! | [`dmar`] | which VT-d unit is who's, and what memory firmware keeps for itself |
//! | [`iort`] | which stream of which SMMU a device is, where its messages go, and what memory firmware keeps for it |
//! | [`madt`] | where ITSs are, which IORT names by number |
//! | [`mcfg`] | where PCI configuration space is in memory |
//! | `machine` | the [`Machine`](crate::Machine) that these describe, and `fault`, what it is made without |
//! | `units` | of that, what DMAR says |
//! | `smmus` | and what IORT says |
//!
//! Reading copies nothing: what is read borrows the table.
//!
//! Spec: ACPI 6.5, 5.2.6 "System Description Table Header".
//! Not here: finding tables (the embedder has RSDP and XSDT), AML.

mod bytes;
pub mod dmar;
mod fault;
pub mod iort;
mod machine;
pub mod madt;
pub mod mcfg;
mod smmus;
mod table;
mod units;

pub use fault::AcpiFault;
pub use machine::{AcpiTables, BridgeWindows, FoundFunction, NamedDevice};
pub(crate) use smmus::Streams;
pub use table::{Table, TableFault};
