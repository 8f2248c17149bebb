//! ID mappings and other lists that nodes hold, as they lie there.
//!
//! Spec: Arm DEN0049 E.f, "ID mapping format".
//! Not here: what a mapping leads to (`route`).

use crate::acpi::bytes::u32_at;

/// Bytes of a mapping.
pub(super) const MAPPING_BYTES: usize = 20;

/// A run of ids and what they are elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdMapping {
    /// Where it lies in the table, in bytes.
    pub offset: usize,
    /// The first id.
    pub first: u32,
    /// How many there are after it: the field holds one less than their number.
    pub more: u32,
    /// What the first one is there; the others follow.
    pub output: u32,
    /// The offset of the node that they are mapped to.
    pub reference: u32,
    /// Whatever comes in is mapped to `output`: the single mapping flag.
    pub single: bool,
}

/// A list of records of one size in a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct List<'a> {
    bytes: &'a [u8],
    /// Where it lies in the table.
    offset: usize,
    record_bytes: usize,
}

impl<'a> List<'a> {
    /// `count` records at `at` of `node`, which lies at `offset` of the table. None if they are not all in it.
    pub(super) fn new(
        node: &'a [u8],
        offset: usize,
        at: u32,
        count: u32,
        record_bytes: usize,
    ) -> Option<Self> {
        let at = usize::try_from(at).ok()?;
        let len_bytes = usize::try_from(count).ok()?.checked_mul(record_bytes)?;
        let bytes = node.get(at..at.checked_add(len_bytes)?)?;
        Some(Self { bytes, offset: offset + at, record_bytes })
    }

    pub(super) const fn empty() -> Self {
        Self { bytes: &[], offset: 0, record_bytes: 1 }
    }

    /// Offset in the table and bytes of each record.
    pub(super) fn records(self) -> impl Iterator<Item = (usize, &'a [u8])> + Clone {
        let places = (self.offset..).step_by(self.record_bytes);
        places.zip(self.bytes.chunks_exact(self.record_bytes))
    }

    pub(super) fn mappings(self) -> impl Iterator<Item = IdMapping> + Clone + 'a {
        self.records().filter_map(|(offset, bytes)| {
            Some(IdMapping {
                offset,
                first: u32_at(bytes, 0)?,
                more: u32_at(bytes, 4)?,
                output: u32_at(bytes, 8)?,
                reference: u32_at(bytes, 12)?,
                single: u32_at(bytes, 16)? & 1 != 0,
            })
        })
    }
}
