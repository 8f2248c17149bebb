//! Processes that share their memory with devices: the shipped driver, core, PCI and accelerator code on the models, and somebody who watches.
//!
//! | room | what |
//! |---|---|
//! | [`plan`] | which machine |
//! | `before` | its IOMMU, of either vendor |
//! | `hardware` | its other models |
//! | [`rig`] | the machine and the system on it |
//! | [`watched`] | processes whose every change is told to the watcher |
//! | [`work`] | queues and jobs in a process's memory |
//! | [`judge`], [`shadow`], [`tables`] | the watcher: what devices reach, against what processes have |
//! | [`schedule`] | operations in a seeded order |
//! | [`overflow`] | more requests than their queue holds |
//! | [`wrong`] | drivers that get one thing wrong |
//!
//! The promises are those of the design: isolation, reclaim, one-answer, no-reuse, unwind, no-leak. The watcher knows them only from operations, messages
//! and memory: nothing that it believes comes from the driver or from core.

pub mod before;
mod hardware;
pub mod judge;
pub mod overflow;
pub mod plan;
pub mod rig;
pub mod schedule;
pub mod shadow;
pub mod tables;
pub mod watched;
pub mod work;
pub mod wrong;
