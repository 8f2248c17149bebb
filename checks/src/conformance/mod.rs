//! One suite over every back end: the shipped drivers on hardware, and what must come of them by the book.
//!
//! A [`Case`](suite::Case) is a sentence and a small function over a [`Rig`](rig::Rig): it maps, attaches, has a DMA engine read or write, and looks at
//! memory and at the events that the driver drained. A [`Bed`](bed::Bed) is where it runs:
//!
//! | bed | hardware | engine |
//! |---|---|---|
//! | `model-*` ([`beds::model`]) | our model, one for each machine of the lab that drives a driver another way | a requester on the models' bus |
//! | `model-x86-*`, `model-smmuv2*` ([`beds::model`]) | our models of VT-d and SMMUv2, of every kind that drives a driver another way | the same |
//! | `qemu-7`, `qemu-11` ([`beds::qemu`]) | QEMU's `virt` with `iommu=smmuv3` | `edu`, and in 11 `iommu-testdev` |
//! | `qemu-7-q35-*`, `qemu-11-q35-*` ([`beds::qemu`]) | QEMU's `q35` with `intel-iommu`, in legacy mode, with caching mode, and on 11 in scalable mode with second or first stages | the same |
//!
//! SMMUv3 has a suite of its own ([`cases`]); what core's seam promises is asked of the other vendors' drivers by one suite for all ([`seam`]).
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
pub mod common;
pub mod cost;
pub mod differences;
pub mod floor;
pub mod ground;
pub mod hands;
pub mod needs;
pub mod records;
pub mod rig;
pub mod seam;
pub mod sight;
pub mod suite;
pub mod via;
pub mod wrong;
