//! Machines of models, and one of QEMU's: what they consist of, their firmware tables, the built-in ones.

pub mod acpi;
mod broadcast;
pub mod build;
pub mod builtin;
pub mod fdt;
pub mod from_dtb;
mod interrupts;
mod iort;
pub mod qemu;
pub mod spec;
mod tables;

pub use build::{DiskContent, Machine};
pub use spec::MachineSpec;
pub(crate) use tables::tables_of;
