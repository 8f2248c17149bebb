//! Tables that were cut off, until hardware has forgotten them.
//!
//! A table in limbo belongs to two: to the [`Retired`] that will free it, and to the page table, which may want it back.
//! Whoever first moves its claim on from the number that it was retired with has it. So tables can be freed without
//! the page table's lock.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicUsize, Ordering};

use portcullis_hal::TableMemory;
use portcullis_types::{Pa, mutant};

use crate::Format;

/// Who has a table that was cut off.
#[derive(Clone, Debug, Default)]
pub(crate) struct Claim(Arc<AtomicUsize>);

impl Claim {
    /// Opens the claim, under a number that no earlier retirement of the same table had.
    pub(crate) fn open(&self) -> usize {
        self.0.fetch_add(1, Ordering::AcqRel).wrapping_add(1)
    }

    /// Takes the table that was retired under `number`. False if somebody else has.
    pub(crate) fn take(&self, number: usize) -> bool {
        let next = number.wrapping_add(1);
        self.0.compare_exchange(number, next, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    /// Whether nobody has taken it yet.
    pub(crate) fn is_open(&self, number: usize) -> bool {
        self.0.load(Ordering::Acquire) == number
    }
}

/// A table that was cut off.
#[derive(Debug)]
pub(crate) struct Cut {
    pub(crate) at: Pa,
    pub(crate) claim: Claim,
    pub(crate) number: usize,
}

/// Tables that an unmap cut off from the tree. Hardware may still be reading them; all that it finds there is zeroes.
///
/// Given back with [`free`](Self::free), once an invalidation that covers the unmapped range, walk caches included, has
/// completed. Until then a map that needs a table where one of these was takes it back into use. Dropping this loses the memory of
/// those that no map takes back.
#[derive(Debug, Default)]
#[must_use = "the tables are lost unless they are freed after the invalidation"]
pub struct Retired {
    tables: Vec<Cut>,
}

impl Retired {
    /// No tables.
    pub const fn new() -> Self {
        Self { tables: Vec::new() }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.tables.is_empty()
    }

    /// Adds those of `other`. If there is no memory for the list, they are given back.
    ///
    /// # Errors
    ///
    /// `other`, unchanged.
    pub fn append(&mut self, mut other: Self) -> Result<(), Self> {
        if self.tables.try_reserve(other.tables.len()).is_err() {
            return Err(other);
        }
        self.tables.append(&mut other.tables);
        Ok(())
    }

    /// Frees the tables, but for those that a map has taken back. Call it when no hardware can have them cached any more; no lock is
    /// needed, the page table may be in use or gone.
    pub fn free(self, format: &impl Format, memory: &impl TableMemory) {
        // Whatever was cut off is no root, and all other tables are of one size.
        let layout = format.geometry().layout(0);
        self.tables
            .into_iter()
            .filter(|table| table.claim.take(table.number) || mutant!("table-freed-though-taken-back"))
            .for_each(|table| memory.free(table.at, layout));
    }

    /// Whether there is room for one more.
    pub(crate) fn try_reserve(&mut self) -> bool {
        self.tables.try_reserve(1).is_ok()
    }

    /// Adds a table, for which there is room.
    pub(crate) fn push(&mut self, table: Cut) {
        self.tables.push(table);
    }
}
