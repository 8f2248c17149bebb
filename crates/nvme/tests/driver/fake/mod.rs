//! A machine small enough to be seen through: memory, an IOMMU that is a table of pages, and an NVMe controller.
//!
//! It is not the model of `models/devices`: it does as little as the driver needs, and misbehaves on demand ([`Quirks`]).

mod controller;
mod iommu;
mod machine;
mod rig;

pub(crate) use controller::{Controller, Quirks};
pub(crate) use machine::{Machine, Op};
pub(crate) use rig::Rig;
