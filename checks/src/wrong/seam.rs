//! A driver that says it did what core asked, and did not.

use core::any::Any;
use core::fmt;
use core::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::Arc;

use portcullis::core::iommu::{
    AddDeviceError, AttachError, Capabilities, DomainError, FaultRecord, Flushed, Gather, GlobalError,
    HwDomain, Iommu, MapError, ReservedRegion, SyncError, Target, UnmapError,
};
use portcullis::types::{Iova, IovaRange, Pa, PageSizes, Prot, SourceId};
use portcullis_lab::platform::LabPlatform;
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
        Arc::new(Liar { driver, left_out: self.0.clone() })
    }
}

struct Liar<T: ?Sized> {
    left_out: Arc<LeftOut>,
    driver: Arc<T>,
}

impl<T: ?Sized + fmt::Debug> fmt::Debug for Liar<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Liar").field(&self.driver).finish()
    }
}

impl Iommu<LabPlatform> for Liar<dyn Iommu<LabPlatform>> {
    fn name(&self) -> &str {
        self.driver.name()
    }

    fn capabilities(&self) -> Capabilities {
        self.driver.capabilities()
    }

    fn add_device(&self, name: &str, sources: &[SourceId]) -> Result<(), AddDeviceError> {
        self.driver.add_device(name, sources)
    }

    fn remove_device(&self, sources: &[SourceId]) -> Result<(), SyncError> {
        self.driver.remove_device(sources)
    }

    fn new_domain(&self) -> Result<Arc<dyn HwDomain<LabPlatform>>, DomainError> {
        let driver = self.driver.new_domain()?;
        Ok(Arc::new(Liar { left_out: self.left_out.clone(), driver }))
    }

    fn attach(&self, sources: &[SourceId], target: &Target<LabPlatform>) -> Result<(), AttachError> {
        if self.left_out.is_it(Request::Attach) { Ok(()) } else { self.driver.attach(sources, target) }
    }

    fn reserved_regions(&self, sources: &[SourceId]) -> Vec<ReservedRegion> {
        self.driver.reserved_regions(sources)
    }

    fn drain_events(&self, to: &mut dyn FnMut(&FaultRecord)) -> usize {
        self.driver.drain_events(to)
    }

    fn handle_errors(&self) -> Vec<GlobalError> {
        self.driver.handle_errors()
    }
}

impl HwDomain<LabPlatform> for Liar<dyn HwDomain<LabPlatform>> {
    fn aperture(&self) -> IovaRange {
        self.driver.aperture()
    }

    fn page_sizes(&self) -> PageSizes {
        self.driver.page_sizes()
    }

    fn map(&self, iova: Iova, pa: Pa, len_bytes: u64, prot: Prot) -> Result<(), MapError> {
        if self.left_out.is_it(Request::Map) { Ok(()) } else { self.driver.map(iova, pa, len_bytes, prot) }
    }

    fn unmap(&self, range: IovaRange, gather: &mut Gather) -> Result<u64, UnmapError> {
        if self.left_out.is_it(Request::Unmap) {
            let page = self.page_sizes().smallest().expect("a domain maps in some size");
            gather.add(range, page, true);
            return Ok(range.len_bytes().unwrap_or(u64::MAX));
        }
        self.driver.unmap(range, gather)
    }

    fn sync(&self, gather: &mut Gather) -> Result<Flushed, SyncError> {
        if self.left_out.is_it(Request::Sync) {
            *gather = Gather::new();
            return Ok(Flushed::completed());
        }
        self.driver.sync(gather)
    }

    fn flush_all(&self) -> Result<Flushed, SyncError> {
        if self.left_out.is_it(Request::Sync) { Ok(Flushed::completed()) } else { self.driver.flush_all() }
    }

    fn lookup(&self, iova: Iova) -> Option<(Pa, Prot)> {
        self.driver.lookup(iova)
    }

    fn as_any(&self) -> &dyn Any {
        self.driver.as_any()
    }
}
