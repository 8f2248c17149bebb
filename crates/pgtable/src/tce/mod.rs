//! TCE tables: POWER's page tables for devices, with levels of equal size and one page size each.
//!
//! A [`TceTable`] is what one DMA window translates by. Its [`TceShape`] is chosen when it is made: page size, window size, and how many levels.
//! Entries are numbered from the window's start; which address that is, is the window's business.
//!
//! # Why not the walker
//!
//! `Format` describes tables whose geometry the processor's architecture fixes, in which leaves may lie at any height, and a map that
//! finds something is an error. Here the page size is chosen at run time, from 4 KiB to 1 GiB; leaves lie at the last level only; levels may be as large
//! as the whole window (a direct table of 4 MiB); words are big-endian, so that runs are not additions; and a user's map *exchanges* entries, getting back what was there. What is
//! left in common is a loop over levels. So this is a sibling of the walker: smaller, and with the walker's promises.
//!
//! # What hardware sees
//!
//! Hardware may read any level at any moment. A level is filled with zeroes, and a write barrier passed, before an entry points to it. Levels
//! stay until the table is destroyed, so that no invalidation has to reach what hardware remembers of walks.
//! [`map`](TceTable::map) and [`unmap`](TceTable::unmap) end with a write barrier; [`exchange`](TceTable::exchange), which is called for page after page, does
//! not: whoever then invalidates begins with one.
//!
//! # What is trusted
//!
//! No address is followed that was read from a table: which levels there are is kept beside them. Hardware never writes a TCE, so an exchange is a
//! load and a store under the owner's `&mut self`.
//!
//! # The user's view
//!
//! A table may keep, beside each entry, the address by which its user knows the page: a second tree of levels that hardware does not see. It is
//! how a page is found again to be unpinned, exactly once.
//!
//! Not here: invalidation (TCE kill) and windows (`portcullis-ioda2`), pinning (`portcullis-vfio`).

mod entry;
mod levels;
mod shape;
mod table;
#[cfg(test)]
mod tests;

pub use entry::{TceEntry, TceRaw};
pub use shape::{MAX_LEVELS, TceShape, TceShapeError};
pub use table::{TceMapError, TceTable};
