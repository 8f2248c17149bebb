//! What a machine can be made to do. Each workload moves data through an IOMMU and proves what it did.

mod controller;
mod counting;
mod disk;
pub mod dma;
mod front;
mod prober;
mod proof;
pub mod spapr;
pub mod sva;
pub mod vfio;
mod witness;

const TRY_VERBOSE: &str = "run with -v to see what led to it";

/// The workloads' names.
pub fn names() -> Vec<&'static str> {
    vec![dma::NAME, sva::NAME, vfio::NAME, spapr::NAME]
}

/// The workloads that a run without a name does, in its order: those that the default machine can do.
pub fn unnamed() -> Vec<&'static str> {
    vec![dma::NAME, sva::NAME, vfio::NAME]
}

/// The workloads that a run without a name does on QEMU's hardware: those of its `virt`. By its name every workload runs there.
pub fn on_qemu() -> Vec<&'static str> {
    vec![dma::NAME, sva::NAME, vfio::NAME]
}

/// The workloads that there are on QEMU's `q35`.
pub fn on_qemu_x86() -> Vec<&'static str> {
    vec![dma::NAME, vfio::NAME]
}

/// The machine for a workload of this name, if none is named.
pub fn default_machine(workload: &str) -> &'static str {
    if workload == spapr::NAME { spapr::MACHINE } else { crate::machines::DEFAULT }
}
