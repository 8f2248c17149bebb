//! Who may use which I/O virtual addresses: an allocator of address ranges for devices.
//!
//! An [`IovaSpace`] hands out ranges from the top of a limit downwards, each aligned to the next power of two of its size,
//! and takes them back. A [`FlushQueue`] holds what was taken back until hardware has forgotten it. A [`RangeSet`] is a set of
//! addresses as merged ranges.
//!
//! # How a range goes round
//!
//! ```text
//!  alloc ◄── magazine of this CPU ◄── depot ◄── tree of free pages
//!    │                ▲                             ▲
//!    ▼                │ small sizes                 │ all others, and what the depot cannot hold
//!  live ── retire ── Retired ── release ────────────┘
//!                     (waits for the invalidation)
//! ```
//!
//! [`retire`](IovaSpace::retire) takes the range from its owner: from then on it is neither live, so that it cannot be freed
//! twice, nor free, so that nobody gets it. [`release`](IovaSpace::release) makes it free, and must wait until hardware has
//! forgotten the range; who owns the hardware sees to that. [`free`](IovaSpace::free) is both at once.
//!
//! # Locks
//!
//! Each is the platform's own, held for some hundred instructions, and safe in interrupt context. Order: a CPU's magazines before
//! the depot, either before the tree; the ledger's shards and the flush queue's lists are taken alone. Nodes of the tree come from the global
//! allocator, which must be callable in the same context.
//!
//! Not here: page tables, invalidation, what a device can reach (`portcullis-core`).
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod bits;
mod flush_queue;
mod ledger;
mod magazine;
mod range_set;
mod space;
mod tree;

pub use flush_queue::{FlushBounds, FlushQueue};
pub use range_set::RangeSet;
pub use space::{AllocError, FreeError, IovaSpace, Prefer, ReserveError, Retired};
