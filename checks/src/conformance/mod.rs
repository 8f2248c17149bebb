//! One suite over every back end: the shipped SMMUv3 driver on hardware, and what must come of it by the book.
//!
//! A [`Case`](suite::Case) is a sentence and a small function over a [`Rig`](rig::Rig): it maps, attaches, has a DMA engine read or write, and looks at
//! memory and at the events that the driver drained. A [`Bed`](bed::Bed) is where it runs:
//!
//! | bed | hardware | engine |
//! |---|---|---|
//! | `model-*` ([`beds::model`]) | our model, one for each machine of the lab that drives a driver another way | a requester on the models' bus |
//! | `qemu-7`, `qemu-11` ([`beds::qemu`]) | QEMU's `virt` with `iommu=smmuv3` | `edu`, and in 11 `iommu-testdev` |
//!
//! What a case expects is read in the book, and neither in the model nor in the driver. Where a bed lacks something ([`needs`]), a case
//! is left out with the reason; what each bed may leave out is pinned in `checks/conformance/BED.skips`. Where hardware is known to differ
//! from the book there is a row in [`differences`] with the clause.
//!
//! Not here: words and layouts one by one (`golden`), random configurations on two SMMUs at once (the differential run).

pub mod bed;
pub mod beds;
pub mod bench;
pub mod cases;
pub mod cost;
pub mod differences;
pub mod hands;
pub mod needs;
pub mod records;
pub mod rig;
pub mod sight;
pub mod suite;
pub mod via;
pub mod wrong;
