//! What hardware models share: memory, time, and the transactions between requesters, translators and memory.
//!
//! A device model makes a [`Request`] for each run of bytes (its [`Port`] does the cutting), a [`Translator`] (the IOMMU
//! model, or [`Untranslated`]) says where it goes, and the [`Fabric`] moves the bytes: to RAM, to a register, to an MSI
//! [`Doorbell`]. Registers of a model are an [`Mmio`]. A model that has work of its own to do later is a [`Clocked`].
//!
//! A device that keeps translations of its own speaks of them with its translator ([`TranslationRequest`] and its kin), and is told by it
//! through a [`Downstream`].
//!
//! A [`Bus`] puts it together. The CPUs' side of its memory is a [`CpuMemory`]: a store buffer, and where wanted a cache,
//! stand between what a CPU stores and what hardware reads.
//!
//! Not here: any particular hardware.
#![forbid(unsafe_code)]
#![expect(
    clippy::cast_possible_truncation,
    reason = "hosts have 64 bits, and offsets in a page fit anything"
)]

mod bus;
mod cache;
mod cpu;
mod dice;
mod flights;
mod guarded;
mod heap;
mod index;
mod map;
mod notes;
mod port;
mod ram;
mod rng;
mod services;
mod sparse;
mod store_buffer;
mod transaction;
mod ways;

pub use bus::{Bus, BusOptions};
pub use cpu::{Caches, CpuMemory, Stores};
pub use dice::Dice;
pub use flights::{Flight, Flights};
pub use guarded::{Guarded, Marked, mark};
pub use heap::{FreeError, Heap, HeapUse, POISON};
pub use index::{KeyMap, Mixer};
pub use map::{Doorbell, Occupied};
pub use notes::{Notes, Unpredictable};
pub use port::{DmaError, Moved, Port, Traffic, Untranslated};
pub use ram::{FreedUse, Ram, User, Words};
pub use rng::Chance;
pub use services::{
    Downstream, Invalidation, InvalidationDone, PageRequest, PageResponse, Stall, StallState,
    TranslatedRequest, Translation, TranslationAnswer, TranslationRequest,
};
pub use sparse::SparseMemory;
pub use transaction::{BusError, Clocked, Fabric, Mmio, Outcome, Passage, Request, Translator, Width, Write};
pub use ways::Ways;
