//! Device trees, read: in order, from QEMU, and broken in every way.

mod broken_blobs;
mod broken_properties;
mod machine;
mod phb3;
mod qemu;
mod sharing;
mod smmuv2;
mod trees;
