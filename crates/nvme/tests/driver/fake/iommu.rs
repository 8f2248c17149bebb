//! An IOMMU that is a table of pages and remembers nothing else.

use core::any::Any;
use core::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering::Relaxed};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use portcullis_core::iommu::{
    AddDeviceError, AttachError, Capabilities, DomainError, FaultRecord, Flushed, Gather, GlobalError,
    HwDomain, Iommu, MapError, ReservedRegion, SyncError, Target, UnmapError,
};
use portcullis_types::{Iova, IovaRange, Pa, PageSizes, Perms, Prot, SizeLg2, SourceId};

use super::Machine;

const PAGE: u64 = 4096;

/// The IOMMU and the one translation that its one device uses.
#[derive(Debug, Default)]
pub(crate) struct FakeIommu {
    pub(crate) domain: Arc<Domain>,
}

/// The pages that are mapped.
#[derive(Debug)]
pub(crate) struct Domain {
    pages: Mutex<BTreeMap<u64, (u64, Prot)>>,
    /// How many more maps succeed; negative for all.
    maps_left: AtomicI64,
    most_pages: AtomicUsize,
    deaf: AtomicBool,
    /// Whether addresses are physical.
    physical: AtomicBool,
    flushes: AtomicUsize,
}

impl Default for Domain {
    fn default() -> Self {
        Self {
            pages: Mutex::default(),
            maps_left: AtomicI64::new(-1),
            most_pages: AtomicUsize::new(0),
            deaf: AtomicBool::new(false),
            physical: AtomicBool::new(false),
            flushes: AtomicUsize::new(0),
        }
    }
}

impl Domain {
    /// How many pages are mapped.
    pub(crate) fn page_count(&self) -> usize {
        self.pages.lock().unwrap().len()
    }

    /// Whether from now on no invalidation is confirmed.
    pub(crate) fn set_deaf(&self, deaf: bool) {
        self.deaf.store(deaf, Relaxed);
    }

    /// From now on addresses are physical.
    pub(crate) fn let_through(&self) {
        self.physical.store(true, Relaxed);
    }

    /// How often all of it was forgotten.
    pub(crate) fn flushes(&self) -> usize {
        self.flushes.load(Relaxed)
    }

    fn confirm(&self) -> Result<Flushed, SyncError> {
        if self.deaf.load(Relaxed) {
            return Err(SyncError::Timeout { waiting_for: "an invalidation", last: 0 });
        }
        Ok(Flushed::completed())
    }

    /// The most pages that were mapped at one time.
    pub(crate) fn most_pages(&self) -> usize {
        self.most_pages.load(Relaxed)
    }

    /// From now on `count` maps succeed and the next ones fail; negative: all succeed.
    pub(crate) fn set_maps_left(&self, count: i64) {
        self.maps_left.store(count, Relaxed);
    }

    /// Where a device's access goes, if it may; `len_bytes` stay within a page.
    pub(crate) fn translate(&self, iova: u64, wanted: Perms) -> Option<u64> {
        if self.physical.load(Relaxed) {
            return Some(iova);
        }
        let &(pa, prot) = self.pages.lock().unwrap().get(&(iova & !(PAGE - 1)))?;
        prot.perms.contains(wanted).then_some(pa | iova & (PAGE - 1))
    }
}

/// The domain as core holds it.
pub(crate) struct Handle(Arc<Domain>);

impl HwDomain<Machine> for Handle {
    fn aperture(&self) -> IovaRange {
        IovaRange::from_ends(Iova::new(0), Iova::new(0xffff_ffff_ffff)).unwrap()
    }

    fn page_sizes(&self) -> PageSizes {
        PageSizes::default().with(SizeLg2::KIB_4)
    }

    fn map(&self, iova: Iova, pa: Pa, len_bytes: u64, prot: Prot) -> Result<(), MapError> {
        let left = self.0.maps_left.load(Relaxed);
        if left == 0 {
            return Err(MapError::NoTableMemory);
        }
        self.0.maps_left.store((left - 1).max(-1), Relaxed);
        let mut pages = self.0.pages.lock().unwrap();
        for offset in (0..len_bytes).step_by(PAGE as usize) {
            let old = pages.insert(iova.get() + offset, (pa.get() + offset, prot));
            assert_eq!(old, None, "mapped twice");
        }
        self.0.most_pages.fetch_max(pages.len(), Relaxed);
        Ok(())
    }

    fn unmap(&self, range: IovaRange, gather: &mut Gather) -> Result<u64, UnmapError> {
        let mut pages = self.0.pages.lock().unwrap();
        let gone: Vec<u64> =
            pages.range(range.first().get()..=range.last().get()).map(|(&iova, _)| iova).collect();
        gone.iter().for_each(|iova| {
            pages.remove(iova);
        });
        gather.add(range, SizeLg2::KIB_4, false);
        Ok(gone.len() as u64 * PAGE)
    }

    fn sync(&self, gather: &mut Gather) -> Result<Flushed, SyncError> {
        let flushed = self.0.confirm()?;
        *gather = Gather::new();
        Ok(flushed)
    }

    fn flush_all(&self) -> Result<Flushed, SyncError> {
        self.0.flushes.fetch_add(1, Relaxed);
        self.0.confirm()
    }

    fn lookup(&self, iova: Iova) -> Option<(Pa, Prot)> {
        let &(pa, prot) = self.0.pages.lock().unwrap().get(&iova.align_down(PAGE).get())?;
        Some((Pa::new(pa | iova.offset_in(PAGE)), prot))
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl Iommu<Machine> for FakeIommu {
    fn name(&self) -> &str {
        "fake"
    }

    fn capabilities(&self) -> Capabilities {
        let domain = Handle(self.domain.clone());
        Capabilities::new(domain.aperture(), domain.page_sizes())
    }

    fn add_device(&self, _: &str, _: &[SourceId]) -> Result<(), AddDeviceError> {
        Ok(())
    }

    fn remove_device(&self, _: &[SourceId]) -> Result<(), SyncError> {
        Ok(())
    }

    fn new_domain(&self) -> Result<Arc<dyn HwDomain<Machine>>, DomainError> {
        Ok(Arc::new(Handle(self.domain.clone())))
    }

    fn attach(&self, _: &[SourceId], _: &Target<Machine>) -> Result<(), AttachError> {
        Ok(())
    }

    fn reserved_regions(&self, _: &[SourceId]) -> Vec<ReservedRegion> {
        Vec::new()
    }

    fn drain_events(&self, _: &mut dyn FnMut(&FaultRecord)) -> usize {
        0
    }

    fn handle_errors(&self) -> Vec<GlobalError> {
        Vec::new()
    }
}
