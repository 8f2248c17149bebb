//! Models of a machine's devices: PCI Express, an NVMe controller, a compression accelerator, an interrupt translation service,
//! and what takes messages on a PC.
//!
//! Written from the PCI Express, NVM Express and GIC books, and from nothing that drives such devices. A device does
//! what its book says with whatever a driver writes: a bad command gets the status the book has for it, an access that
//! the IOMMU refuses fails that command, and nothing panics.
//!
//! Not here: the IOMMU's model; memory, time and the bus (`model-bus`).
#![forbid(unsafe_code)]
#![expect(
    clippy::cast_possible_truncation,
    reason = "registers are cut to the width of their access everywhere here"
)]

pub mod accelerator;
pub mod apic;
pub mod its;
pub mod nvme;
pub mod pcie;
