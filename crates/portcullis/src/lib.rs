//! Portcullis: an IOMMU subsystem. It decides which device may reach which memory.
//!
//! This is the front door. It holds no code of its own; each room keeps its name.
//!
//! | you have | you want | room |
//! |---|---|---|
//! | a kernel, a hypervisor | to describe your machine to Portcullis | [`hal`] |
//! | firmware tables | to know who is behind which IOMMU | [`firmware`] |
//! | a PCIe host bridge | devices, capabilities, groups | [`pci`] |
//! | an SMMUv3 | a driver for it | [`smmuv3`] |
//! | an SMMUv2 or MMU-500 | a driver for it | [`smmuv2`] |
//! | a POWER8 host bridge, PHB3 | a driver for it | [`ioda2`] |
//! | an x86 machine with VT-d | a driver for its remapping units | [`vtd`] |
//! | a device | memory that it can reach, interrupts that arrive | [`core`] |
//! | an IOMMU that is not here | to write a driver | [`core::iommu`], [`pgtable`], [`spec`] |
//!
//! The order in which an embedder uses them: implement [`hal::Platform`]; read the firmware tables; probe each IOMMU; enumerate PCI;
//! make a [`core`] device and a group for what is found; give drivers the DMA API.
#![no_std]
#![forbid(unsafe_code)]

pub use portcullis_accel as accel;
pub use portcullis_core as core;
pub use portcullis_firmware as firmware;
pub use portcullis_hal as hal;
pub use portcullis_ioda2 as ioda2;
pub use portcullis_iova as iova;
pub use portcullis_nvme as nvme;
pub use portcullis_pci as pci;
pub use portcullis_pgtable as pgtable;
pub use portcullis_smmuv2 as smmuv2;
pub use portcullis_smmuv3 as smmuv3;
pub use portcullis_spec as spec;
pub use portcullis_types as types;
pub use portcullis_vfio as vfio;
pub use portcullis_vtd as vtd;
