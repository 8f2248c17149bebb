//! Devices for user space: groups, containers, type 1 and spapr_tce, with the kernel's own layouts of system calls.
//!
//! ```text
//!  process ── ioctl(fd, request, arg) ──► embedder: fd -> File ──► File::ioctl(caller, request, arg)
//!                                                                        │
//!     Device ──► VfioDevice (pci::PciDevice)        Group ──► core::Group (claim, attach)
//!        └── holds open ──► Group ── is in ──► Container ──► type 1 ──► core::Domain (map, unmap, sync)
//!                                                     │         └─────► UserMemory (pin, charge)
//!                                                     └──► spapr_tce ─► core::table_group (windows, entries)
//! ```
//!
//! A [`Vfio`] knows the groups whose devices a VFIO driver has [registered](Vfio::register). The embedder gives its processes
//! [`File`]s ([`Vfio::open`]), keeps their tables of open files, and passes on what they ask. All that a process says comes as a
//! number and bytes; all that is read or written of its memory goes through [`Caller`] and [`UserMemory`].
//!
//! # Words
//!
//! | here | Linux |
//! |---|---|
//! | [`File`] | struct file of a container, a group, a device |
//! | [`Caller`], [`UserMemory`] | current, mm |
//! | [`EventFile`] | eventfd |
//! | register, unregister | vfio_register_group_dev, vfio_unregister_group_dev |
//!
//! # Locking
//!
//! A container, a group's file and a device each have one lock of turns (`turns.rs`), held through a whole call, also while user memory is
//! copied or pinned; it is not a spin lock, and masks nothing. They are taken in this order: group, container or device; then
//! what is kept for a later try; the list of memory that processes have registered (`spapr`); then core's own locks. A file is never dropped, and the embedder never called to install one, with a turn held.
//!
//! What is dropped last closes: a device's last file stops the device; a group's file stays open for as long as a device's
//! does; a container is there for as long as a group is in it. So files may be closed in any order, as when a process dies.
//!
//! # What stays after an error
//!
//! Nothing: a call that fails has changed nothing, with one exception. Where hardware did not confirm that it has forgotten a mapping, its pages stay
//! pinned and charged, and its addresses taken, until a later call succeeds; what a container leaves behind so is kept by
//! [`Vfio`] until [`Vfio::reclaim`] succeeds.
//!
//! Observed: Linux 7.3, drivers/vfio: what is answered, in which order things are looked at, and the numbers of errors.
//! Not here: layouts (`spec::vfio`), who owns a group (`core::group`).
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod chain;
mod container;
mod device;
mod file;
mod group;
mod irqs;
pub mod pci;
mod registry;
mod spapr;
mod trace;
mod turns;
mod type1;
mod user;

pub use device::{DeviceFacts, Irqs, MapArea, Region, VfioDevice};
pub use file::File;
pub use irqs::{IrqAction, IrqChange, IrqData};
pub use portcullis_core::owner::Errno;
pub use registry::{Registered, Vfio};
pub use user::{Caller, EventFile, Fd, OverLimit, UserFault, UserMemory};
