//! Devices, groups, domains, reserved regions and the DMA API: the part of Portcullis that knows no vendor.
//!
//! ```text
//!  driver ── DmaHandle ──► Domain (DMA) ──┐
//!  user ─────────────────► Domain (user) ─┼─► HwDomain ─┐
//!                            ▲            │             ├─► the IOMMU's own driver
//!  embedder ─► Group ── attach            └─► Iommu ────┘
//!                 └── Device ◄── IommuUnit ◄── faults ◄──┘
//! ```
//!
//! An embedder makes an [`IommuUnit`](unit::IommuUnit) from an IOMMU's driver, tells it of the [`Device`](device::Device)s behind
//! it, puts them into [`Group`](group::Group)s, and hands a [`DmaHandle`](dma::DmaHandle) to each device's driver.
//!
//! The seam to drivers is [`iommu`]. Not here: layouts, registers, tables (the drivers'), firmware, PCI.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod asid;
pub mod bus;
pub mod device;
pub mod dma;
pub mod domain;
pub mod fault;
pub mod group;
pub mod id_map;
pub mod iommu;
pub mod iopf;
pub mod mm;
pub mod nested;
pub mod owner;
pub mod pasid;
pub mod reserved;
pub mod sva;
pub mod table_group;
mod trace;
pub mod unit;
