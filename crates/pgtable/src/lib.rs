//! Page tables: one walker, many small formats.
//!
//! A [`PageTable`] maps and unmaps ranges of any length in one call. What an entry looks like is a [`Format`]'s business:
//! [`arm::Stage1`] and [`arm::Stage2`] are the formats of Arm's 64-bit tables.
//!
//! # Words
//!
//! A table's *height* is 0 where only leaves can be, and one more for each table above: Arm's level 3 is height 0. A *leaf* above height 0 is a
//! block. An *entry* is a word in a table; an *item* is what it means: [`Item::Absent`], [`Item::Table`] or [`Item::Leaf`].
//!
//! # What hardware sees
//!
//! Hardware may read any table at any moment.
//!
//! - [`PageTable::map`] first checks the whole range and builds every new table where hardware cannot see it; then, after a write barrier, it
//!   stores the entries that make them visible. What can fail fails before the first of these stores.
//! - [`PageTable::unmap`] replaces a block that it must split by one store of a table that holds the rest of it, so that what stays mapped is mapped at every
//!   moment. Tables that were emptied are [`Retired`]: cut off from the tree, but unchanged and not freed, because
//!   hardware may be reading them until an invalidation has completed.
//! - Both end with a write barrier.
//!
//! # Break-before-make
//!
//! Changing a live block into a table, or taking the contiguous hint off live entries, is allowed without a moment of invalidity only where hardware says
//! so ([`BreakBeforeMake`]). Where it does not, the hint is never set, and an unmap that would cut a block is refused ([`UnmapError::WouldSplit`]):
//! that is safe, and an owner of mappings who unmaps what was mapped never meets it.
//!
//! Not here: invalidation, locking (`&mut self` says who), choosing addresses (`iova`).
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod arm;
mod error;
mod format;
mod geometry;
mod map;
mod retired;
mod table;
mod unmap;

pub use error::{MapError, UnmapError};
pub use format::{BreakBeforeMake, Format, Item};
pub use geometry::Geometry;
pub use retired::Retired;
pub use table::{PageTable, Translation};
pub use unmap::Unmapped;

use portcullis_hal::{Barriers, TableMemory};

/// What a page table needs of a platform.
pub trait Memory: TableMemory + Barriers {}

impl<M: TableMemory + Barriers> Memory for M {}
