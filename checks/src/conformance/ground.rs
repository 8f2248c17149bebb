//! A driver over engines and memory: domains, mappings and attachments, whosever driver it is.
//!
//! Not here: how an access is judged by what the driver recorded, which each suite does its own way (`rig`, `seam::rig`), and the cases that both ask (`common`).

use std::sync::Arc;

use portcullis::core::iommu::{Gather, Iommu, Target};
use portcullis::types::{Iova, IovaRange, Pa, Perms, Prot, SourceId};

use super::bed::Bed;
use super::bench::{Aim, Domain, Outcome};
use super::floor::{Floor, WAY_OUT};
use super::via::Via;
use crate::ensure;

/// A driver on a bed.
pub struct Ground<B: Bed, D> {
    floor: Floor<B>,
    /// The driver.
    pub driver: Arc<D>,
}

/// What a case does with engines and memory it does with the ground.
impl<B: Bed, D> core::ops::Deref for Ground<B, D> {
    type Target = Floor<B>;

    fn deref(&self) -> &Floor<B> {
        &self.floor
    }
}

impl<B: Bed, D: Iommu<Via<B::Platform>>> Ground<B, D> {
    /// Under a driver that was brought up.
    ///
    /// # Errors
    ///
    /// It has no page sizes, or there is no memory.
    pub fn new(bed: Arc<B>, via: Arc<Via<B::Platform>>, driver: Arc<D>) -> Result<Self, String> {
        let granule = driver.capabilities().page_sizes.smallest().ok_or("a domain without page sizes")?;
        Ok(Self { floor: Floor::new(bed, via, granule)?, driver })
    }

    /// A domain with nothing mapped but the way out.
    ///
    /// # Errors
    ///
    /// The driver refused.
    pub fn domain(&self) -> Result<Domain<B>, String> {
        let domain = self.driver.new_domain().map_err(|error| format!("a domain: {error:?}"))?;
        self.map(&domain, WAY_OUT, self.way_out(), self.granule.bytes(), Perms::READ_WRITE)?;
        Ok(domain)
    }

    /// Maps.
    ///
    /// # Errors
    ///
    /// The driver refused.
    pub fn map(&self, domain: &Domain<B>, at: u64, to: Pa, len_bytes: u64, perms: Perms) -> Outcome {
        let mapped = domain.map(Iova::new(at), to, len_bytes, Prot::cached(perms));
        mapped.map_err(|error| format!("mapping {at:#x} to {to}: {error:?}"))
    }

    /// Unmaps and syncs.
    ///
    /// # Errors
    ///
    /// The driver refused, or less was mapped.
    pub fn unmap(&self, domain: &Domain<B>, at: u64, len_bytes: u64) -> Outcome {
        let range = IovaRange::new(Iova::new(at), len_bytes).ok_or("a range that wraps")?;
        let mut gather = Gather::new();
        let unmapped = domain.unmap(range, &mut gather).map_err(|error| format!("unmap: {error:?}"))?;
        ensure!(unmapped == len_bytes, "{unmapped:#x} bytes of {len_bytes:#x} were unmapped at {at:#x}");
        domain.sync(&mut gather).map(drop).map_err(|error| format!("sync after unmap: {error:?}"))
    }

    /// Attaches a stream.
    ///
    /// # Errors
    ///
    /// The driver refused.
    pub fn attach(&self, stream: u32, target: &Aim<B>) -> Outcome {
        let attached = self.driver.attach(&[SourceId(stream)], target);
        attached.map_err(|error| format!("attaching {stream:#x} to {target:?}: {error:?}"))
    }

    /// Attaches every engine to a domain.
    ///
    /// # Errors
    ///
    /// The driver refused.
    pub fn lead(&self, domain: &Domain<B>) -> Outcome {
        let target = Target::Domain(domain.clone());
        self.streams().into_iter().try_for_each(|stream| self.attach(stream, &target))
    }

    /// A domain to which every engine is attached.
    ///
    /// # Errors
    ///
    /// The driver refused.
    pub fn led(&self) -> Result<Domain<B>, String> {
        let domain = self.domain()?;
        self.lead(&domain)?;
        Ok(domain)
    }
}
