//! Properties made of 32-bit cells, read from front to back.

use crate::error::{FirmwareError, PropertyFault};
use crate::tree::Node;

/// What is left of a property made of cells.
///
/// Every way of reading names node and property in its error, so that no caller has to.
#[derive(Clone, Debug)]
pub(crate) struct Cells<'t, 'a> {
    node: Node<'t, 'a>,
    property: &'static str,
    len_bytes: usize,
    rest: &'a [u8],
}

impl<'t, 'a> Cells<'t, 'a> {
    pub(crate) fn new(
        node: Node<'t, 'a>,
        property: &'static str,
        value: &'a [u8],
    ) -> Result<Self, FirmwareError> {
        let cells = Self { node, property, len_bytes: value.len(), rest: value };
        if value.len().is_multiple_of(4) { Ok(cells) } else { Err(cells.length(4)) }
    }

    /// The error that something is wrong with this property.
    pub(crate) fn fault(&self, fault: PropertyFault) -> FirmwareError {
        self.node.fault(self.property, fault)
    }

    fn length(&self, wanted_bytes: usize) -> FirmwareError {
        self.fault(PropertyFault::Length { len_bytes: self.len_bytes, wanted_bytes })
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// Makes sure that the property is a list of entries of `cells` cells, at least one.
    pub(crate) fn whole_entries(&self, cells: usize) -> Result<(), FirmwareError> {
        let entry_bytes = 4 * cells;
        let fits = entry_bytes > 0 && !self.rest.is_empty() && self.rest.len().is_multiple_of(entry_bytes);
        if fits { Ok(()) } else { Err(self.length(entry_bytes)) }
    }

    /// Makes sure that `cells` cells are left.
    pub(crate) fn exactly(&self, cells: usize) -> Result<(), FirmwareError> {
        if self.rest.len() == 4 * cells { Ok(()) } else { Err(self.length(4 * cells)) }
    }

    /// The next cell.
    pub(crate) fn u32(&mut self) -> Result<u32, FirmwareError> {
        let Some((cell, rest)) = self.rest.split_first_chunk() else { return Err(self.length(4)) };
        self.rest = rest;
        Ok(u32::from_be_bytes(*cell))
    }

    /// The next number, of `cells` cells. None of them is 0.
    pub(crate) fn number(&mut self, cells: u32) -> Result<u64, FirmwareError> {
        let mut number = 0u64;
        for _ in 0..cells {
            if number >> 32 != 0 {
                return Err(self.fault(PropertyFault::TooLarge));
            }
            number = number << 32 | u64::from(self.u32()?);
        }
        Ok(number)
    }
}
