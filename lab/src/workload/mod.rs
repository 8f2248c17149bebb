//! What a machine can be made to do. Each workload moves data through an IOMMU and proves what it did.

mod counting;
mod disk;
pub mod dma;
mod proof;
pub mod sva;
pub mod vfio;
mod witness;

const TRY_VERBOSE: &str = "run with -v to see what led to it";

/// The workloads' names, in the order in which a run without a name does them.
pub fn names() -> Vec<&'static str> {
    vec![dma::NAME, sva::NAME, vfio::NAME]
}
