//! Devices in a small machine, driven by literal words.
#![expect(clippy::cast_possible_truncation, reason = "literal words are cut into their fields")]

mod accelerator_jobs;
mod accelerator_pages;
mod accelerator_rig;
mod accelerator_stops;
mod atc;
mod interrupts;
mod nvme_admin;
mod nvme_hostile;
mod nvme_io;
mod nvme_queues;
mod pcie;
mod rig;
