//! Maps from requester ids to ids of somebody else: `iommu-map` and `msi-map`.
//!
//! Both are lists of (first requester id, phandle, first id there, count), with an optional mask for requester ids.
//!
//! Spec: binding pci/pci-iommu.txt, binding pci/pci-msi.txt.

use alloc::vec::Vec;

use portcullis_spec::pcie::Bdf;

use crate::error::{FirmwareError, PropertyFault};
use crate::tree::Node;

/// Requester ids are 16 bits.
const REQUESTER_IDS: u64 = 0x1_0000;

/// Which requester ids are whom, where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdMap {
    mask: u32,
    entries: Vec<IdMapEntry>,
}

/// A run of requester ids and what they are elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdMapEntry {
    /// The first requester id, after masking.
    pub first: u16,
    /// How many, 1 to 65536.
    pub count: u32,
    /// Where they are mapped to: an index into the machine's list of IOMMUs or of MSI controllers.
    pub target: usize,
    /// What the first one is there; the others follow.
    pub base: u32,
}

impl IdMapEntry {
    fn last(&self) -> u32 {
        u32::from(self.first) + (self.count - 1)
    }

    fn overlaps(&self, other: &Self) -> bool {
        u32::from(self.first) <= other.last() && u32::from(other.first) <= self.last()
    }
}

impl IdMap {
    /// Target and id there of a requester id; none if no entry covers it.
    pub fn lookup(&self, requester: Bdf) -> Option<(usize, u32)> {
        let masked = u32::from(requester.requester_id()) & self.mask;
        self.entries.iter().find_map(|entry| {
            let offset = masked.checked_sub(entry.first.into()).filter(|&offset| offset < entry.count)?;
            Some((entry.target, entry.base + offset))
        })
    }

    /// The entries, in firmware's order. No two cover the same id.
    pub fn entries(&self) -> &[IdMapEntry] {
        &self.entries
    }

    /// Which bits of a requester id count.
    pub fn mask(&self) -> u32 {
        self.mask
    }

    /// Every requester id is itself at `target`.
    pub(crate) fn same(target: usize) -> Self {
        Self { mask: u32::MAX, entries: [IdMapEntry { first: 0, count: 0x1_0000, target, base: 0 }].into() }
    }

    /// No requester id is anybody.
    pub(crate) fn nobody() -> Self {
        Self::of(Vec::new())
    }

    /// The map of these entries, no two of which cover the same id.
    pub(crate) fn of(entries: Vec<IdMapEntry>) -> Self {
        Self { mask: u32::MAX, entries }
    }

    /// The same, of which only these bits of a requester id count.
    pub(crate) fn with_mask(self, mask: u32) -> Self {
        Self { mask, ..self }
    }

    /// The same, with what `bits` says of a target set in all ids there.
    pub(crate) fn with_bits(mut self, bits: impl Fn(usize) -> u32) -> Self {
        self.entries.iter_mut().for_each(|entry| entry.base |= bits(entry.target));
        self
    }

    /// The map in `property` of `host` with the mask in `mask_property`; none without `property`.
    ///
    /// `resolve` finds a target by its phandle, and says what is wrong with it otherwise.
    pub(crate) fn read(
        host: Node<'_, '_>,
        property: &'static str,
        mask_property: &'static str,
        resolve: impl Fn(u32) -> Result<usize, PropertyFault>,
    ) -> Result<Option<Self>, FirmwareError> {
        let mask = host.u32(mask_property)?.unwrap_or(u32::MAX);
        let Some(mut cells) = host.cells(property)? else { return Ok(None) };
        cells.whole_entries(4)?;
        let mut entries: Vec<IdMapEntry> = Vec::new();
        while !cells.is_empty() {
            let (first, phandle) = (cells.u32()?, cells.u32()?);
            let (base, count) = (cells.u32()?, cells.u32()?);
            let entry = checked_entry(mask, first, base, count).map_err(|fault| cells.fault(fault))?;
            let target = resolve(phandle).map_err(|fault| cells.fault(fault))?;
            let entry = IdMapEntry { target, ..entry };
            if entries.iter().any(|other| other.overlaps(&entry)) {
                return Err(cells.fault(PropertyFault::Overlap(first)));
            }
            entries.push(entry);
        }
        Ok(Some(Self { mask, entries }))
    }
}

/// An entry without its target, if the numbers can be.
fn checked_entry(mask: u32, first: u32, base: u32, count: u32) -> Result<IdMapEntry, PropertyFault> {
    if first & !mask != 0 {
        return Err(PropertyFault::MaskedOut { first, mask });
    }
    if count == 0 {
        return Err(PropertyFault::Value(0));
    }
    let Ok(first16) = u16::try_from(first) else { return Err(PropertyFault::Value(first.into())) };
    if u64::from(first) + u64::from(count) > REQUESTER_IDS {
        return Err(PropertyFault::Value(count.into()));
    }
    if base.checked_add(count - 1).is_none() {
        return Err(PropertyFault::Value(base.into()));
    }
    Ok(IdMapEntry { first: first16, count, target: 0, base })
}
