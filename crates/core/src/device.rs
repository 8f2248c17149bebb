//! A device as core knows it: who it is, what it can reach, and what firmware says of it.
//!
//! Made by [`IommuUnit::add_device`](crate::unit::IommuUnit::add_device). Not here: which domain it is in (`group`).

use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::sync::atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering::Relaxed};

use portcullis_hal::{Lock, Platform};
use portcullis_types::{Iova, IovaRange, SizeLg2, SourceId};

use crate::domain::Domain;
use crate::fault::Faults;
use crate::iommu::{Iommu, ReservedRegion};
use crate::sva::LetGo;

/// How many address bits a device drives: what it can reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct DmaMask(u8);

impl DmaMask {
    /// What every device is taken to reach until its driver says more.
    pub const BITS_32: Self = Self(32);
    /// Every address.
    pub const BITS_64: Self = Self(64);

    /// A mask of `bits` bits, 1 to 64; none otherwise.
    pub const fn new(bits: u8) -> Option<Self> {
        if bits >= 1 && bits <= 64 { Some(Self(bits)) } else { None }
    }

    /// The highest address within the mask.
    pub const fn last(self) -> Iova {
        Iova::new(u64::MAX >> (64 - self.0))
    }
}

/// What the bus and firmware know of a device.
#[derive(Clone, Debug)]
pub struct DeviceInfo {
    /// The name for messages and events: `0000:00:01.0`.
    pub name: String,
    /// Who its accesses say they are, as firmware tells.
    pub sources: Vec<SourceId>,
    /// The last address that the buses above the device pass on (`dma-ranges`); none if they pass all.
    pub bus_limit: Option<Iova>,
    /// Whether its accesses snoop the CPU's caches (`dma-coherent`).
    pub coherent: bool,
    /// Whether it is a PCI device: those get addresses below 4 GiB as long as there are some.
    pub pci: bool,
    /// Whether no other device can forge its interrupts, nor it theirs, apart from what its IOMMU does
    /// ([`Capabilities::isolated_interrupts`](crate::iommu::Capabilities::isolated_interrupts)): they pass an ITS with device ids. Where neither, a user
    /// gets it only if the embedder has said that unsafe interrupts are allowed.
    pub isolated_interrupts: bool,
    /// Regions that firmware reserved for it.
    pub firmware_regions: Vec<ReservedRegion>,
    /// Addresses that its host bridge does not pass to the IOMMU: windows of other devices, gaps between `dma-ranges`.
    pub bridge_windows: Vec<IovaRange>,
    /// The longest segment of a scatter list that it takes, in bytes.
    pub max_segment_bytes: u64,
    /// A segment of a scatter list must not cross a multiple of this, at least the smallest page; none if it may cross any.
    pub segment_boundary: Option<SizeLg2>,
}

impl DeviceInfo {
    /// A coherent device that is not PCI, with nothing reserved and no bound on its bus or its segments. Nothing is known of its interrupts.
    pub fn new(name: &str, sources: &[SourceId]) -> Self {
        Self {
            name: name.into(),
            sources: sources.into(),
            bus_limit: None,
            coherent: true,
            pci: false,
            isolated_interrupts: false,
            firmware_regions: Vec::new(),
            bridge_windows: Vec::new(),
            max_segment_bytes: u64::MAX,
            segment_boundary: None,
        }
    }
}

/// Who has a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// Nobody.
    Free,
    /// A group that it is in, or about to join; or its unit, which is about to forget it.
    Taken,
    /// Its unit has forgotten it. Who has its source ids now is another.
    Gone,
}

/// A device behind an IOMMU.
pub struct Device<P: Platform> {
    platform: Arc<P>,
    iommu: Arc<dyn Iommu<P>>,
    info: DeviceInfo,
    mask_bits: AtomicU8,
    coherent_mask_bits: AtomicU8,
    /// Who has it.
    standing: Lock<P, Standing>,
    /// Where it is attached; none if it is in no group.
    domain: Lock<P, Option<Arc<Domain<P>>>>,
    /// How often it is enabled to share processes' memory. Raised under its group's lock.
    pub(crate) shares: AtomicUsize,
    /// The group for which it is, as long as it is: told by its address.
    pub(crate) shares_in: AtomicUsize,
    pub(crate) faults: AtomicU64,
    /// What the driver of its IOMMU has let go of.
    pub(crate) let_go: Arc<LetGo<P>>,
}

impl<P: Platform> fmt::Debug for Device<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Device")
            .field("name", &self.info.name)
            .field("sources", &self.info.sources)
            .finish_non_exhaustive()
    }
}

impl<P: Platform> Device<P> {
    pub(crate) fn new(
        platform: Arc<P>,
        iommu: Arc<dyn Iommu<P>>,
        info: DeviceInfo,
        let_go: Arc<LetGo<P>>,
    ) -> Self {
        Self {
            platform,
            iommu,
            info,
            mask_bits: AtomicU8::new(DmaMask::BITS_32.0),
            coherent_mask_bits: AtomicU8::new(DmaMask::BITS_32.0),
            standing: Lock::<P, _>::new(Standing::Free),
            domain: Lock::<P, _>::new(None),
            shares: AtomicUsize::new(0),
            shares_in: AtomicUsize::new(0),
            faults: AtomicU64::new(0),
            let_go,
        }
    }

    /// The platform.
    pub fn platform(&self) -> &Arc<P> {
        &self.platform
    }

    /// The IOMMU in front of it.
    pub fn iommu(&self) -> &Arc<dyn Iommu<P>> {
        &self.iommu
    }

    /// The name.
    pub fn name(&self) -> &str {
        &self.info.name
    }

    /// Who its accesses say they are.
    pub fn sources(&self) -> &[SourceId] {
        &self.info.sources
    }

    /// What the bus and firmware know of it.
    pub fn info(&self) -> &DeviceInfo {
        &self.info
    }

    /// For the device's driver: which addresses the device can use for streaming mappings.
    pub fn set_dma_mask(&self, mask: DmaMask) {
        self.mask_bits.store(mask.0, Relaxed);
    }

    /// For the device's driver: which addresses the device can use for coherent buffers.
    pub fn set_coherent_mask(&self, mask: DmaMask) {
        self.coherent_mask_bits.store(mask.0, Relaxed);
    }

    /// The last address for streaming mappings: mask and bus.
    pub fn dma_limit(&self) -> Iova {
        self.reach(&self.mask_bits)
    }

    /// The last address for coherent buffers: mask and bus.
    pub fn coherent_limit(&self) -> Iova {
        self.reach(&self.coherent_mask_bits)
    }

    fn reach(&self, mask_bits: &AtomicU8) -> Iova {
        let mask = DmaMask(mask_bits.load(Relaxed)).last();
        self.info.bus_limit.map_or(mask, |bus| bus.min(mask))
    }

    /// Whether no other device can forge its interrupts, nor it theirs: by what the bus and firmware know, or because the IOMMU checks them.
    pub fn has_isolated_interrupts(&self) -> bool {
        self.info.isolated_interrupts || self.iommu.capabilities().isolated_interrupts
    }

    /// The reserved regions: the IOMMU driver's, then firmware's.
    pub fn reserved_regions(&self) -> Vec<ReservedRegion> {
        let mut regions = self.iommu.reserved_regions(&self.info.sources);
        regions.extend_from_slice(&self.info.firmware_regions);
        regions
    }

    /// Takes the device if it is free, so that of all groups, and its unit, only one does something with it. Answers how it stood before.
    pub(crate) fn take(&self) -> Standing {
        let mut standing = self.standing.lock();
        let before = *standing;
        if before == Standing::Free {
            *standing = Standing::Taken;
        }
        before
    }

    /// For who has taken it: how it stands from now on.
    pub(crate) fn stands(&self, standing: Standing) {
        *self.standing.lock() = standing;
    }

    /// The domain it is attached to; none if it is in no group.
    pub fn domain(&self) -> Option<Arc<Domain<P>>> {
        self.domain.lock().clone()
    }

    /// What a fault of its is counted and told by, where it is attached.
    pub(crate) fn faults_there(&self) -> Option<Arc<Faults<P>>> {
        self.domain.lock().as_ref().map(|domain| domain.faults().clone())
    }

    /// How many faults it has caused.
    pub fn fault_count(&self) -> u64 {
        self.faults.load(Relaxed)
    }

    /// For the group, which has told hardware already. Answers where it was before, which is let go with no lock held.
    #[must_use = "it is let go with no lock held"]
    pub(crate) fn set_domain(&self, domain: Option<Arc<Domain<P>>>) -> Option<Arc<Domain<P>>> {
        core::mem::replace(&mut *self.domain.lock(), domain)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mask_ends_with_its_highest_address() {
        assert_eq!(DmaMask::BITS_32.last(), Iova::new(0xffff_ffff));
        assert_eq!(DmaMask::BITS_64.last(), Iova::new(u64::MAX));
        assert_eq!(DmaMask::new(1).map(DmaMask::last), Some(Iova::new(1)));
        assert_eq!((DmaMask::new(0), DmaMask::new(65)), (None, None));
    }
}
