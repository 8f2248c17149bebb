//! The platform seam: what Portcullis needs of the world that embeds it.
//!
//! A platform is a value that implements [`Platform`]: memory for tables ([`TableMemory`]), memory for
//! data ([`DmaMemory`]), barriers ([`Barriers`]), a clock ([`Clock`]), a lock ([`lock_api::RawMutex`]) and an
//! ear for trace events. An IOMMU's or a device's registers are a value that implements [`Registers`]. Several
//! platforms may live side by side; nothing here is static.
//!
//! # Ordering
//!
//! Stores to memory become visible to hardware in no particular order, and possibly late, until a
//! [`Barriers::write_barrier`]: everything stored before it is visible before anything stored after it, register writes
//! included. [`Registers`] methods order nothing by themselves. A model's memory keeps stores back
//! on purpose, so that a missing barrier is seen on a laptop.
//!
//! Where hardware does not snoop the CPU's caches, a barrier is not enough: [`TableMemory::clean_table`],
//! [`DmaMemory::clean`] and [`DmaMemory::invalidate`] move the data. They do nothing where it does.
//!
//! # Interrupt context
//!
//! Every method may be called with interrupts off and with spin locks held; none may sleep. The embedder's
//! [`Platform::Mutex`] is a spin lock that is safe in that context.
//!
//! Not here: what the embedder calls (the drivers), and the process-memory seam (`core::mm`).
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod arena;
mod clock;
mod memory;
mod registers;

use core::fmt;

pub use arena::Arena;
pub use clock::{Clock, Elapsed, pause, wait_for};
pub use lock_api;
pub use memory::{Barriers, BlockLayout, DmaMemory, TableMemory};
pub use registers::Registers;

use portcullis_types::trace;

/// Everything that a driver needs of the machine around it, as one value.
pub trait Platform: TableMemory + DmaMemory + Barriers + Clock + trace::Sink + fmt::Debug + 'static {
    /// The spin lock. Taken in interrupt context, so a kernel's masks interrupts while held.
    type Mutex: lock_api::RawMutex + Send + Sync + 'static;

    /// Which CPU this is, below [`cpu_count`](Self::cpu_count). A hint that picks a cache: being moved to another CPU
    /// right after costs speed, never correctness.
    fn current_cpu(&self) -> usize {
        0
    }

    /// How many CPUs there can be, at least 1.
    fn cpu_count(&self) -> usize {
        1
    }
}

/// A value behind the platform's lock.
pub type Lock<P, T> = lock_api::Mutex<<P as Platform>::Mutex, T>;
