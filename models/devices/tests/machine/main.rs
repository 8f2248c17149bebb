//! Devices in a small machine, driven by literal words.

mod interrupts;
mod nvme_admin;
mod nvme_hostile;
mod nvme_io;
mod nvme_queues;
mod pcie;
mod rig;
