//! A small NVMe driver that reaches memory only through the DMA API.
//!
//! It is here to give an IOMMU honest work: queues in coherent memory, scatter lists mapped for one transfer, interrupts as
//! MSI-X, many commands in flight. [`Nvme::start`] brings a controller up and finds one namespace; [`Nvme::transfer`]
//! reads and writes; [`Nvme::shutdown`] gives everything back.
//!
//! Who binds it has set up the PCIe function: memory space and bus mastering on, MSI-X programmed with the messages
//! that [`DmaHandle::compose_msi`](portcullis_core::dma::DmaHandle::compose_msi) made. The driver is told of an interrupt by an [`Interrupt`].
//!
//! # Trust
//!
//! The controller is not trusted. Whatever it says is checked before it is used as an index, a size or an address, and what
//! cannot be is an error that carries the words. After an error that leaves its state in doubt the controller is stopped,
//! what it was given is taken back, and every later call answers [`NvmeError::Stopped`]. Where addresses are physical, the memory of one that does not stop is kept for good.
//!
//! # Order
//!
//! An entry is in memory before its doorbell rings ([`write_barrier`]). A completion's phase is read first, the rest of it after a
//! [`read_barrier`]. Completions are looked at only after the vector has signalled, so that an interrupt that
//! is lost on its way through the IOMMU is an error and not a delay.
//!
//! [`write_barrier`]: portcullis_hal::Barriers::write_barrier
//! [`read_barrier`]: portcullis_hal::Barriers::read_barrier
//!
//! Spec: NVM Express Base Specification 2.0, and NVM Command Set Specification 1.0.
//! Not here: PCIe (`portcullis-pci`), partitions, more than one namespace or I/O queue.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod buffer;
mod command;
mod completion;
mod config;
mod controller;
mod driver;
mod error;
mod identify;
mod prp;
mod queue;
mod registers;
mod start;
mod transfer;

pub use completion::Status;
pub use config::{Config, Interrupt, Interrupts, Vector};
pub use driver::{Nvme, Stats};
pub use error::{BadCompletion, BadIdentity, NvmeError, Unsupported, Wait};
pub use identify::{ControllerInfo, NamespaceInfo};
pub use transfer::{Direction, Request};
