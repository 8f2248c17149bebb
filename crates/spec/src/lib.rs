//! Layouts that somebody else wrote down: SMMUv3, SMMUv2, VT-d, IODA2, PCI Express, device tree bindings, VFIO's system calls. No algorithms.
//!
//! What is here has a book: a type is a word of that book with its fields, a constant is a number or a name from
//! it, each with its citation. Drivers share these layouts with firmware's tables and with VFIO's users. Models of hardware have layouts
//! of their own, so that a misread bit cannot cancel out; golden words, written by hand from the book without this crate, are held against both.
//!
//! [`smmuv3`] is Arm's IOMMU, [`smmuv2`] the one before it; [`vtd`] is Intel's; [`ioda2`] is POWER8's, which has no public book: others' code stands for it; [`pcie`] is configuration space and
//! what lies in it; [`dt`] is the names and numbers of device tree bindings; [`vfio`] is what a user-space driver and the kernel say to each other.
//!
//! Not here: reading or writing any of it (`pci`, `firmware`, `vfio`, the drivers).
#![no_std]
#![forbid(unsafe_code)]

pub mod dt;
pub mod ioda2;
pub mod pcie;
pub mod smmuv2;
pub mod smmuv3;
pub mod vfio;
pub mod vtd;
