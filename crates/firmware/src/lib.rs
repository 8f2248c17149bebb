//! Firmware tables: which memory there is, and who is behind which IOMMU.
//!
//! [`Machine::from_fdt`] reads a flattened device tree once and keeps what an IOMMU subsystem has to know, as plain
//! owned values: memory, reserved memory with its `iommu-addresses`, IOMMUs, PCI host bridges with their `iommu-map` and
//! `msi-map`, platform devices with their `iommus`, MSI controllers. Nothing of the blob is needed afterwards.
//!
//! # What a broken or unusual tree leads to
//!
//! - A property that says something about isolation and does not say it properly is an error that names node and property
//!   ([`FirmwareError`]). No entry is ever skipped.
//! - A device that no IOMMU covers is listed as such: [`Translation::NoIommu`], [`Translation::Uncovered`]. It never looks like one that
//!   is covered, and what becomes of it is for the caller to decide.
//! - A node that does DMA or translates it, by a binding that is not known here, is listed in [`Machine::unsupported`].
//! - A property about stalls or PASIDs where it means nothing is not heeded, and listed in [`Machine::meaningless`].
//! - Nodes whose `status` is not `okay` are left out, except IOMMUs, which are listed as not enabled: devices behind one
//!   must not be mistaken for devices without one.
//!
//! # Words
//!
//! | here | device tree |
//! |---|---|
//! | source id | the cell after an IOMMU's phandle in `iommus`, the third and the fourth cell of `iommu-map`; at an SMMUv2 a mask stands above it |
//! | device id of an MSI | the cell after a controller's phandle in `msi-parent`, the third and the fourth cell of `msi-map` |
//! | [`ReservedUse::Direct`] | `iommu-addresses` that equal the region's `reg` |
//!
//! Where there is no device tree, [`Machine::from_acpi`] takes ACPI's tables instead: DMAR on a PC, IORT and MADT on Arm, and MCFG ([`acpi`]).
//!
//! Spec: Devicetree Specification 0.4; the bindings cited in `spec::dt`.
//! Not here: PCI enumeration (`pci`), building devices and groups of it (the embedder, with `core`).
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod acpi;
mod address;
mod blob;
mod cells;
mod device;
mod error;
mod idmap;
mod interrupt;
mod iommu;
mod machine;
mod meaningless;
mod msi;
mod pci;
mod phb3;
mod reserved;
mod smmuv2;
mod tree;

pub use device::PlatformDevice;
pub use error::{BlobFault, FirmwareError, PropertyFault};
pub use idmap::{IdMap, IdMapEntry};
pub use interrupt::{GicInterrupt, GicKind, Interrupt, InterruptController};
pub use iommu::{IommuKind, IommuNode, Overrides, Stream, Translation};
pub use machine::{Machine, Unsupported};
pub use meaningless::{Meaningless, WhyMeaningless};
pub use msi::{MsiController, MsiControllerKind, MsiTarget};
pub use pci::{DmaRange, ExternalPorts, PciConfig, PciHost, PciMsi};
pub use phb3::Phb3Host;
pub use reserved::{DeviceRef, IommuAddresses, ReservedMemory, ReservedUse};
