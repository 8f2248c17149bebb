//! Between core and an IOMMU's driver: whatever core asks goes through to the driver, but for what a [`Liar`] answers himself.
//!
//! A [`Tamper`](crate::tamper::Tamper) that stands there hands out what [`through`] makes of the driver.
//!
//! Not here: the liars (`checks`).

use core::any::Any;
use core::fmt;
use std::sync::Arc;

use portcullis::core::iommu::{
    AddDeviceError, AttachError, Capabilities, DomainError, FaultRecord, Flushed, Gather, GlobalError,
    HwDomain, Iommu, MapError, ReservedRegion, SyncError, Target, UnmapError,
};
use portcullis::core::nested::{GuestTable, GuestTables, NestedDomain, NestedError};
use portcullis::core::sva::SvaIommu;
use portcullis::core::table_group::TableGroup;
use portcullis::hal::BlockLayout;
use portcullis::types::{Iova, IovaRange, Pa, PageSizes, Prot, SourceId};

use crate::platform::LabPlatform;

type Driver = dyn Iommu<LabPlatform>;
type Domain = dyn HwDomain<LabPlatform>;

/// What core is answered. Every method that is not overridden has the driver do it.
pub trait Liar: Send + Sync {
    /// [`Iommu::attach`].
    ///
    /// # Errors
    ///
    /// Here and below: as the driver's.
    fn attach(
        &self,
        driver: &Driver,
        sources: &[SourceId],
        target: &Target<LabPlatform>,
    ) -> Result<(), AttachError> {
        driver.attach(sources, target)
    }

    /// [`Iommu::sva`].
    fn sva<'a>(&'a self, driver: &'a Driver) -> Option<&'a dyn SvaIommu<LabPlatform>> {
        driver.sva()
    }

    /// [`HwDomain::map`].
    fn map(&self, domain: &Domain, iova: Iova, pa: Pa, len_bytes: u64, prot: Prot) -> Result<(), MapError> {
        domain.map(iova, pa, len_bytes, prot)
    }

    /// [`HwDomain::unmap`].
    fn unmap(&self, domain: &Domain, range: IovaRange, gather: &mut Gather) -> Result<u64, UnmapError> {
        domain.unmap(range, gather)
    }

    /// [`HwDomain::sync`].
    fn sync(&self, domain: &Domain, gather: &mut Gather) -> Result<Flushed, SyncError> {
        domain.sync(gather)
    }

    /// [`HwDomain::flush_all`].
    fn flush_all(&self, domain: &Domain) -> Result<Flushed, SyncError> {
        domain.flush_all()
    }
}

/// The driver as core knows it with `liar` in between.
pub fn through(driver: Arc<Driver>, liar: Arc<dyn Liar>) -> Arc<Driver> {
    Arc::new(Through { driver, liar })
}

/// A driver or a domain of it, behind the liar.
struct Through<T: ?Sized> {
    liar: Arc<dyn Liar>,
    driver: Arc<T>,
}

impl Through<Driver> {
    fn domain(&self, driver: Arc<Domain>) -> Arc<Domain> {
        Arc::new(Through { liar: self.liar.clone(), driver })
    }
}

impl fmt::Debug for Through<Driver> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Through").field(&self.driver).finish()
    }
}

impl Iommu<LabPlatform> for Through<Driver> {
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

    fn new_domain(&self) -> Result<Arc<Domain>, DomainError> {
        self.driver.new_domain().map(|domain| self.domain(domain))
    }

    fn new_kernel_domain(&self) -> Result<Arc<Domain>, DomainError> {
        self.driver.new_kernel_domain().map(|domain| self.domain(domain))
    }

    fn guest_tables(&self) -> GuestTables {
        self.driver.guest_tables()
    }

    fn new_parent(&self) -> Result<Arc<Domain>, DomainError> {
        self.driver.new_parent().map(|domain| self.domain(domain))
    }

    /// The driver tells its own parent by what [`HwDomain::as_any`] says.
    fn new_nested(
        &self,
        parent: &Arc<Domain>,
        table: &GuestTable,
    ) -> Result<Arc<dyn NestedDomain>, NestedError> {
        self.driver.new_nested(parent, table)
    }

    fn attach(&self, sources: &[SourceId], target: &Target<LabPlatform>) -> Result<(), AttachError> {
        self.liar.attach(&*self.driver, sources, target)
    }

    fn leave_group(&self, sources: &[SourceId]) -> Result<(), AttachError> {
        self.driver.leave_group(sources)
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

    fn sva(&self) -> Option<&dyn SvaIommu<LabPlatform>> {
        self.liar.sva(&*self.driver)
    }

    fn table_group(&self, source: SourceId) -> Option<Arc<dyn TableGroup>> {
        self.driver.table_group(source)
    }
}

impl HwDomain<LabPlatform> for Through<Domain> {
    fn aperture(&self) -> IovaRange {
        self.driver.aperture()
    }

    fn page_sizes(&self) -> PageSizes {
        self.driver.page_sizes()
    }

    fn map(&self, iova: Iova, pa: Pa, len_bytes: u64, prot: Prot) -> Result<(), MapError> {
        self.liar.map(&*self.driver, iova, pa, len_bytes, prot)
    }

    fn unmap(&self, range: IovaRange, gather: &mut Gather) -> Result<u64, UnmapError> {
        self.liar.unmap(&*self.driver, range, gather)
    }

    fn sync(&self, gather: &mut Gather) -> Result<Flushed, SyncError> {
        self.liar.sync(&*self.driver, gather)
    }

    fn flush_all(&self) -> Result<Flushed, SyncError> {
        self.liar.flush_all(&*self.driver)
    }

    fn keep(&self, first: Pa, layout: BlockLayout) {
        self.driver.keep(first, layout);
    }

    fn lookup(&self, iova: Iova) -> Option<(Pa, Prot)> {
        self.driver.lookup(iova)
    }

    fn as_any(&self) -> &dyn Any {
        self.driver.as_any()
    }
}
