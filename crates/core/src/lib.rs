//! Devices, groups, domains, reserved regions and the DMA API: the part of Portcullis that knows no vendor.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod dma;
pub mod iommu;
