//! Who asks: source ids and process ids.

use core::fmt;

/// Who an IOMMU thinks a device is: a StreamID, a source-id, a requester id.
///
/// Which numbers a device has is firmware's word (`iommus`, `iommu-map`), never computed here.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SourceId(pub u32);

impl fmt::Debug for SourceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SourceId({:#x})", self.0)
    }
}

impl fmt::Display for SourceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

/// A process address space id: which of a device's address spaces an access means.
///
/// Spec: PCIe 6.0, 6.20 "PASID TLP Prefix": 20 bits. 0 is a number that hardware knows; that the allocator
/// never gives it out is the allocator's rule, not this type's.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pasid(u32);

impl Pasid {
    /// The highest PASID there can be.
    pub const MAX: Self = Self(0xf_ffff);

    /// The PASID with this number; none above 20 bits.
    pub const fn new(pasid: u32) -> Option<Self> {
        if pasid <= Self::MAX.0 { Some(Self(pasid)) } else { None }
    }

    /// The number, 0 to 0xfffff.
    pub const fn get(self) -> u32 {
        self.0
    }
}

impl fmt::Debug for Pasid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pasid({})", self.0)
    }
}

impl fmt::Display for Pasid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}
