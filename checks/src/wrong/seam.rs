//! A driver that says it did what core asked, and did not.

use core::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::Arc;

use portcullis::core::iommu::{
    AttachError, Flushed, Gather, HwDomain, Iommu, MapError, SyncError, Target, UnmapError,
};
use portcullis::types::{Iova, IovaRange, Pa, Prot, SourceId};
use portcullis_lab::platform::LabPlatform;
use portcullis_lab::seam::{Liar, through};
use portcullis_lab::tamper::Tamper;

/// What core can ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// [`HwDomain::map`].
    Map,
    /// [`HwDomain::unmap`].
    Unmap,
    /// [`HwDomain::sync`] and [`HwDomain::flush_all`].
    Sync,
    /// [`Iommu::attach`].
    Attach,
}

/// One request, the `nth` of its kind from 0 on, is answered as if it had been done.
#[derive(Debug)]
struct LeftOut {
    request: Request,
    nth: usize,
    seen: AtomicUsize,
}

impl LeftOut {
    fn is_it(&self, request: Request) -> bool {
        request == self.request && self.seen.fetch_add(1, Relaxed) == self.nth
    }
}

/// Stands between core and the driver.
#[derive(Debug)]
pub struct Between(Arc<LeftOut>);

impl Between {
    /// Leaves out the `nth` request of this kind.
    pub fn leaving_out(request: Request, nth: usize) -> Arc<Self> {
        Arc::new(Self(Arc::new(LeftOut { request, nth, seen: AtomicUsize::new(0) })))
    }

    /// How many requests of the kind there were.
    pub fn seen(&self) -> usize {
        self.0.seen.load(Relaxed)
    }
}

impl Tamper for Between {
    fn between_core_and(&self, driver: Arc<dyn Iommu<LabPlatform>>) -> Arc<dyn Iommu<LabPlatform>> {
        through(driver, self.0.clone())
    }
}

impl Liar for LeftOut {
    fn attach(
        &self,
        driver: &dyn Iommu<LabPlatform>,
        sources: &[SourceId],
        target: &Target<LabPlatform>,
    ) -> Result<(), AttachError> {
        if self.is_it(Request::Attach) { Ok(()) } else { driver.attach(sources, target) }
    }

    fn map(
        &self,
        domain: &dyn HwDomain<LabPlatform>,
        iova: Iova,
        pa: Pa,
        len_bytes: u64,
        prot: Prot,
    ) -> Result<(), MapError> {
        if self.is_it(Request::Map) { Ok(()) } else { domain.map(iova, pa, len_bytes, prot) }
    }

    fn unmap(
        &self,
        domain: &dyn HwDomain<LabPlatform>,
        range: IovaRange,
        gather: &mut Gather,
    ) -> Result<u64, UnmapError> {
        if self.is_it(Request::Unmap) {
            let page = domain.page_sizes().smallest().expect("a domain maps in some size");
            gather.add(range, page, true);
            return Ok(range.len_bytes().unwrap_or(u64::MAX));
        }
        domain.unmap(range, gather)
    }

    fn sync(&self, domain: &dyn HwDomain<LabPlatform>, gather: &mut Gather) -> Result<Flushed, SyncError> {
        if self.is_it(Request::Sync) {
            *gather = Gather::new();
            return Ok(Flushed::completed());
        }
        domain.sync(gather)
    }

    fn flush_all(&self, domain: &dyn HwDomain<LabPlatform>) -> Result<Flushed, SyncError> {
        if self.is_it(Request::Sync) { Ok(Flushed::completed()) } else { domain.flush_all() }
    }
}
