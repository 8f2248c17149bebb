//! A process's memory: areas, demand paging, copy on write, and a page table that devices may share.
//!
//! A [`Kernel`] is what all processes of a machine have in common: its CPUs, frames and ASIDs. A [`Process`] is an address space, and implements
//! [`ProcessMemory`](portcullis::core::mm::ProcessMemory) of core. A [`File`] is what several processes map, page by page as they touch it.
//!
//! | room | what |
//! |---|---|
//! | `kernel` | what processes share; the register values that a table goes with |
//! | `cores` | CPUs of either kind |
//! | `form` | how tables look |
//! | `frame` | pages of RAM with as many owners as hold them |
//! | `huge` | pages of 16 MiB
//! | `file` | files and their cached pages |
//! | `area` | which addresses are what: splitting, merging, room for more |
//! | `process` | making, forking, mapping, unmapping, protecting, ending |
//! | `fault` | what a page fault does |
//! | `change` | taking entries out, in the order that the rules demand |
//! | `listeners` | who is told |
//! | `marks` | what entries say of the use of their pages |
//! | `pin` | pages that stay where they are while a device may reach them |
//! | `user` | the process's own loads and stores |
//!
//! # The table is a cache
//!
//! What a process *has* is its areas and its resident pages. An entry of the table is only made by a fault, from those two, and may be taken out at
//! any time. So each change (unmapping, protecting, forking, copying) first changes what the process has, then takes entries out, and
//! the next touch makes the right ones. An entry is never changed into another valid one: it goes through zero and an invalidation
//! (break-before-make), and so no CPU and no device ever sees a mix.
//!
//! # Order
//!
//! Entries cleared, barrier, CPUs have forgotten, listeners, and only then may frames and tables go (`change`). If a listener fails, they are kept until it
//! succeeds with the whole address space, or for ever.
//!
//! # Locks
//!
//! One lock stands around what a process has. It is held while listeners are called, and never while a file is read or a page is copied: a
//! fault looks, lets go, fetches what it needs, and looks again (`fault`). A CPU's lock (who runs on it) is taken last.
//!
//! Who is inside a process (a fault, a load or store) keeps it from being torn down: [`Process::exit`] tells the listeners and refuses
//! newcomers at once, and the last one out tears down. Nobody waits.

mod area;
mod change;
mod cores;
mod error;
mod fault;
mod file;
mod form;
mod frame;
mod huge;
mod kernel;
mod listeners;
mod marks;
mod pin;
#[expect(clippy::module_inception, reason = "the process is what the room is about")]
mod process;
#[cfg(test)]
mod tests;
mod user;

pub use area::Source;
pub use cores::Cores;
pub use error::{MmError, UserError};
pub use file::{Backing, File, RealFile};
pub use frame::HUGE_PAGE;
pub use kernel::{Kernel, KernelError, KernelOptions};
pub use pin::Pinned;
pub use process::{Mapping, Process, Usage};
