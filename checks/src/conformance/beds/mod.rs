//! The beds.

pub mod model;
pub mod qemu;
