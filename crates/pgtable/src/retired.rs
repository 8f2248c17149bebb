//! Tables that were cut off, until hardware has forgotten them.

use alloc::vec::Vec;

use portcullis_hal::TableMemory;
use portcullis_types::Pa;

use crate::geometry::entry;
use crate::{Format, Geometry, Item};

/// Tables that an unmap cut off from the tree. Hardware may still be reading them.
///
/// Dropping it loses the memory; [`free`](Self::free) gives it back, once an invalidation that covers the unmapped range, walk caches included, has
/// completed.
#[derive(Debug, Default)]
#[must_use = "the tables are lost unless they are freed after the invalidation"]
pub struct Retired {
    /// Each with its height; the tables below it hang from it.
    roots: Vec<(Pa, u8)>,
}

impl Retired {
    /// No tables.
    pub const fn new() -> Self {
        Self { roots: Vec::new() }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.roots.is_empty()
    }

    /// Adds those of `other`. If there is no memory for the list, they are given back.
    ///
    /// # Errors
    ///
    /// `other`, unchanged.
    pub fn append(&mut self, mut other: Self) -> Result<(), Self> {
        if self.roots.try_reserve(other.roots.len()).is_err() {
            return Err(other);
        }
        self.roots.append(&mut other.roots);
        Ok(())
    }

    /// Frees the tables and those below them. Call it when no hardware can be reading them any more.
    pub fn free(self, format: &impl Format, memory: &impl TableMemory) {
        for (table, height) in self.roots {
            free_tree(format, memory, table, height);
        }
    }

    pub(crate) fn try_reserve(&mut self) -> bool {
        self.roots.try_reserve(1).is_ok()
    }

    pub(crate) fn push(&mut self, table: Pa, height: u8) {
        self.roots.push((table, height));
    }
}

/// Frees a table and those below it.
pub(crate) fn free_tree(format: &impl Format, memory: &impl TableMemory, table: Pa, height: u8) {
    let geometry: &Geometry = format.geometry();
    if height > 0 {
        for index in 0..geometry.entries(height) {
            if let Item::Table(child) = format.decode(memory.load(entry(table, index)), height) {
                free_tree(format, memory, child, height - 1);
            }
        }
    }
    memory.free(table, geometry.layout(height));
}
