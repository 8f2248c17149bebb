//! The driver of the accelerator: a compression engine whose queues belong to processes.
//!
//! A kernel [starts](Accelerator::start) it, whichever [`Form`] it has, and opens [queues](Queue). A queue works in one address space
//! ([`Space`]): that of a process, by the PASID of a [`Bond`](portcullis_core::sva::Bond), or the device's own. The process owns the ring and the doorbell, builds
//! jobs ([`Job`]), counts with a [`Ring`], and looks what became of them ([`Outcome`]). The kernel never sees a job.
//!
//! # Giving a process's memory back
//!
//! A bond may end only after the device has stopped using its PASID. So a queue takes the bond, and [`Queue::close`] gives it back when the
//! device says that the queue is off; until then there is no bond to unbind, unless somebody kept a second handle. The way of it:
//!
//! 1. bind the process: [`SvaDevice::bind`](portcullis_core::sva::SvaDevice::bind);
//! 2. [`Accelerator::open_queue`] with the bond; map ring and doorbell for the process; if the device neither starts the queue nor lets go of it, it is closed as one that
//!    was opened ([`NotOpened`]);
//! 3. [`Queue::close`]; if the device holds a page request, that takes until somebody has answered it ([`Queue::close_while`]);
//! 4. [`Queue::abort`] if that does not come to an end;
//! 5. unbind what came back: [`SvaDevice::unbind`](portcullis_core::sva::SvaDevice::unbind). It waits for accesses under way and answers what is queued.
//!
//! # Trust
//!
//! The device is not trusted: numbers that cannot be are errors that carry them, every wait has a limit, and a PASID, a base or a size that the device does
//! not keep is found out before it starts. A process is not trusted either: whatever it writes to ring and doorbell concerns its own queue.
//!
//! # Locking
//!
//! One spin lock says which queues are taken. It is held for a few instructions, and never while the device is waited for. A queue has one owner.
//!
//! Spec: `docs/accelerator.md`, "The accelerator: a compression engine that shares processes' memory".
//! Not here: finding the device (`pci`, `firmware`), binding processes (`core::sva`), mapping the doorbell (the kernel).
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod accelerator;
mod error;
mod job;
mod queue;
mod registers;
mod ring;

pub use accelerator::{Accelerator, Form};
pub use error::{AccelError, NotOpened, OpenError, QueueFailure, StillOpen};
pub use job::{Algorithm, ENTRY_BYTES, Job, JobError, Outcome, STATUS_OFFSET, Status};
pub use queue::{Closed, HowClosed, Queue, Space, Unshared};
pub use registers::{Capabilities, DOORBELL_BYTES, DOORBELL_HEAD, DOORBELL_TAIL, REGISTER_BYTES, State};
pub use ring::{HeadOutOfRange, Ring, Slot};
