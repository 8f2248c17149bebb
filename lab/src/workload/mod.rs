//! What a machine can be made to do. Each workload moves data through an IOMMU and proves what it did.

mod counting;
pub mod dma;
mod proof;
pub mod sva;
mod witness;

const TRY_VERBOSE: &str = "run with -v to see what led to it";

/// The workloads' names, in the order in which a run without a name does them.
pub fn names() -> Vec<&'static str> {
    vec![dma::NAME, sva::NAME]
}
