//! Page tables: one walker, many small formats.
//!
//! A [`PageTable`] maps and unmaps ranges of any length in one call. What an entry looks like is a [`Format`]'s business:
//! [`arm::Stage1`] and [`arm::Stage2`] are the formats of Arm's 64-bit tables, [`vtd::FirstStage`] and [`vtd::SecondStage`] those of x86 machines.
//! [`tce::TceTable`] stands beside the walker, and says why.
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
//! - [`PageTable::map`] first looks at every entry in the way and counts the tables that are missing; then it allocates all of them; only then
//!   does it store, so that it can fail no more once hardware can see any of it. New tables are filled while nothing points to them; then a write barrier;
//!   then the entries that point to them.
//! - [`PageTable::unmap`] replaces a block that it must split by one store of a table that maps the same, so that what stays mapped is mapped at every
//!   moment, and only then takes out what is to go.
//! - Both end with a write barrier.
//!
//! # What the walker trusts
//!
//! It never follows an address that it read from a table. Which tables there are, and which hangs in which entry, is kept beside them
//! (`ledger`), with the number of live entries of each. Words are read to see leaves, and to see that an entry still says what was stored there; one
//! that does not is [`MapError::CorruptTable`].
//!
//! # Tables that an unmap emptied
//!
//! are cut off at once, all their words zero, but hardware may have cached where they are. They are in [`Unmapped::retired`], which the caller frees when it has
//! invalidated what it unmapped ([`Retired`]). A map that needs a table where one of these was takes that same one back: an entry
//! never goes from one table to another without an invalidation in between, as break-before-make demands, and a walk that hardware cached leads to live entries.
//!
//! # Marks
//!
//! Where hardware sets marks in leaves (accessed, dirty; [`arm::HardwareUpdate`]), leaves are read, changed and taken out by exchange, so that no mark
//! is lost (`marks`).
//!
//! # Break-before-make
//!
//! Changing a live block into a table, or taking the contiguous hint off live entries, is allowed without a moment of invalidity only where hardware says
//! so ([`BreakBeforeMake`]). Where it does not, the hint is never set, and an unmap that would cut a block is refused ([`UnmapError::WouldSplit`]):
//! that is safe, and an owner of mappings who unmaps what was mapped never meets it. Who means to unmap parts limits the page sizes.
//!
//! Not here: invalidation, locking (`&mut self` says who), choosing addresses (`iova`).
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod arm;
mod cut;
mod error;
mod format;
mod geometry;
mod ledger;
mod map;
mod marks;
mod retired;
mod shape;
mod table;
pub mod tce;
mod unmap;
pub mod vtd;

pub use error::{MapError, UnmapError};
pub use format::{BreakBeforeMake, Format, Item, Marks};
pub use geometry::Geometry;
pub use retired::Retired;
pub use table::{PageTable, Translation};
pub use unmap::Unmapped;

use portcullis_hal::{Barriers, TableMemory};

/// What a page table needs of a platform.
pub trait Memory: TableMemory + Barriers {}

impl<M: TableMemory + Barriers> Memory for M {}
