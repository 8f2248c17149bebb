//! Layouts that somebody else wrote down: SMMUv3, SMMUv2, VT-d, IODA2, PCI Express, device tree bindings, VFIO's system calls. No algorithms.
//!
//! What is here has a book: a type is a word of that book with its fields, a constant is a number or a name from
//! it, each with its citation. Drivers and models share these layouts; what keeps a misread bit from cancelling out
//! are golden tests, whose words are written by hand from the book and which do not import this crate.
//!
//! [`smmuv3`] is Arm's IOMMU, [`smmuv2`] the one before it; [`vtd`] is Intel's; [`ioda2`] is POWER8's, which has no public book: others' code stands for it; [`pcie`] is configuration space and
//! what lies in it; [`dt`] is the names and numbers of device tree bindings; [`vfio`] is what a user-space driver and the kernel say to each other.
//!
//! Not here: reading or writing any of it (`pci`, `firmware`, `vfio`, the drivers, the models).
#![no_std]
#![forbid(unsafe_code)]

pub mod dt;
pub mod ioda2;
pub mod pcie;
pub mod smmuv2;
pub mod smmuv3;
pub mod vfio;
pub mod vtd;
