//! The kernel's side of devices for user space: what an operating system puts around `portcullis::vfio`.
//!
//! ```text
//!  program ── svc(number, words) ──► Task: table of open files, areas ──► vfio::File::ioctl, read, write, mmap
//!     │                               │
//!     └─ loads and stores ──► CPU ──► its memory, and registers that it has mapped
//! ```
//!
//! A [`Task`] is a process with open files. What runs in it reaches the kernel by its [`Instructions`] alone: a system call's number and words, loads
//! and stores of its own memory. All that the kernel learns of a program lies in those words and that memory.
//!
//! | file | what |
//! |---|---|
//! | `driver` | `vfio-pci`: the driver that hands PCI functions to user space |
//! | `interrupts` | from an interrupt to an event file |
//! | `memory` | a process's memory as VFIO uses it: copied, pinned, charged |
//! | `files` | tables of open files, event files |
//! | `task` | processes: made, ended, killed |
//! | `calls` | system calls |
//!
//! Not here: programs (`workload::vfio`), what VFIO does (`portcullis::vfio`), memory itself (`process`).

mod calls;
mod driver;
mod files;
mod interrupts;
mod memory;
mod task;

pub use driver::{DRIVER, bind};
pub use files::EventCount;
pub use interrupts::UserInterrupts;
pub use memory::{Ledger, TaskMemory};
pub use task::{Instructions, Signal, Task, UserKernel, UserKernelError};
