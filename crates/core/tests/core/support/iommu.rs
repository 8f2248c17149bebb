//! An IOMMU of tables in plain maps. It has a cache that keeps every page which was ever mapped until it is told to forget it, and
//! fails the test at once if a page is mapped again while the cache still knows it as something else: that is what a missing sync,
//! or an address that was reused too early, looks like.

use core::any::Any;
use core::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use portcullis_core::iommu::{
    AddDeviceError, AttachError, Capabilities, DomainError, FaultRecord, Flushed, Gather, GlobalError,
    HwDomain, Iommu, MapError, ReservedRegion, SyncError, Target, UnmapError,
};
use portcullis_core::nested::{
    GuestInvalidation, GuestTable, GuestTables, NestedDomain, NestedError, X86Tables,
};
use portcullis_hal::BlockLayout;
use portcullis_types::{Iova, IovaRange, Pa, PageSizes, Prot, SizeLg2, SourceId};

use super::machine::Machine;

pub(crate) const GRANULE: u64 = 0x1000;

/// A call that can be made to fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Call {
    Map,
    /// As a driver does it: nothing of the range is mapped then.
    Show,
    Unmap,
    Sync,
    FlushAll,
    Attach,
    /// Fails, and leaves the device blocked.
    AttachAndBlock,
    AddDevice,
    RemoveDevice,
    NewDomain,
}

/// Which calls fail: the kind, how many of them pass before, how many fail then.
#[derive(Debug, Default)]
struct Plan(Mutex<Vec<(Call, usize, usize)>>);

impl Plan {
    fn fails(&self, call: Call) -> bool {
        let mut plan = self.0.lock().unwrap();
        let Some(at) = plan.iter().position(|&(kind, _, left)| kind == call && left > 0) else {
            return false;
        };
        let (_, pass, left) = &mut plan[at];
        if *pass > 0 {
            *pass -= 1;
            return false;
        }
        *left -= 1;
        true
    }
}

/// What somebody else does before hardware is told of the next device that is attached, or forgets the next.
#[derive(Default)]
struct Meanwhile(Mutex<Option<Box<dyn FnOnce() + Send>>>);

impl core::fmt::Debug for Meanwhile {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("Meanwhile")
    }
}

impl Meanwhile {
    fn act(&self) {
        let act = self.0.lock().unwrap().take();
        act.into_iter().for_each(|act| act());
    }
}

#[derive(Debug)]
pub(crate) struct FakeIommu {
    aperture: IovaRange,
    plan: Arc<Plan>,
    meanwhile: Meanwhile,
    /// Where each source is attached: a word, and for a translation which.
    attached: Mutex<BTreeMap<u32, String>>,
    pub(crate) regions: Mutex<Vec<ReservedRegion>>,
    pub(crate) faults: Mutex<Vec<FaultRecord>>,
    pub(crate) identity: Mutex<bool>,
    pub(crate) domains: Mutex<Vec<Arc<FakeDomain>>>,
    /// What nested domains were told to forget; `None` when one was dropped.
    pub(crate) nested: Arc<Mutex<Vec<Option<GuestInvalidation>>>>,
}

/// A guest's table before a [`FakeDomain`].
#[derive(Debug)]
struct FakeNested {
    parent: usize,
    plan: Arc<Plan>,
    told: Arc<Mutex<Vec<Option<GuestInvalidation>>>>,
}

impl NestedDomain for FakeNested {
    fn invalidate(&self, what: GuestInvalidation) -> Result<(), SyncError> {
        if self.plan.fails(Call::Sync) {
            return Err(NO_ANSWER);
        }
        self.told.lock().unwrap().push(Some(what));
        Ok(())
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl Drop for FakeNested {
    fn drop(&mut self) {
        self.told.lock().unwrap().push(None);
    }
}

#[derive(Debug)]
pub(crate) struct FakeDomain {
    aperture: IovaRange,
    plan: Arc<Plan>,
    number: usize,
    state: Mutex<Tables>,
    /// How often core asked what is mapped somewhere.
    lookups: AtomicUsize,
    /// Buffers that go back with the tables.
    kept: Mutex<Vec<(Pa, BlockLayout)>>,
}

type Pages = BTreeMap<u64, (u64, Prot)>;

#[derive(Debug, Default)]
struct Tables {
    mapped: Pages,
    /// What hardware may remember though it is unmapped.
    stale: Pages,
    syncs: usize,
    maps: usize,
    /// What was shown, and after how many maps.
    shown: Vec<(IovaRange, usize)>,
}

impl FakeIommu {
    pub(crate) fn new(aperture: IovaRange) -> Arc<Self> {
        Arc::new(Self {
            aperture,
            plan: Arc::default(),
            meanwhile: Meanwhile::default(),
            attached: Mutex::default(),
            regions: Mutex::default(),
            faults: Mutex::default(),
            identity: Mutex::new(true),
            domains: Mutex::default(),
            nested: Arc::default(),
        })
    }

    /// Lets `pass` calls of this kind pass and `fail` after them fail.
    pub(crate) fn fail(&self, call: Call, pass: usize, fail: usize) {
        self.plan.0.lock().unwrap().push((call, pass, fail));
    }

    /// What somebody else does before hardware is told of the next device.
    pub(crate) fn meanwhile(&self, act: impl FnOnce() + Send + 'static) {
        *self.meanwhile.0.lock().unwrap() = Some(Box::new(act));
    }

    pub(crate) fn fail_no_more(&self) {
        self.plan.0.lock().unwrap().clear();
    }

    /// Where a source is: `blocked`, `identity`, `domain0` and so on; nothing if it is not known.
    pub(crate) fn place(&self, source: u32) -> Option<String> {
        self.attached.lock().unwrap().get(&source).cloned()
    }

    pub(crate) fn places(&self) -> Vec<String> {
        self.attached.lock().unwrap().values().cloned().collect()
    }

    /// The translation that was made as number `number`.
    pub(crate) fn domain(&self, number: usize) -> Arc<FakeDomain> {
        self.domains.lock().unwrap()[number].clone()
    }
}

impl FakeDomain {
    /// Mapped pages: address to address.
    pub(crate) fn mapped(&self) -> Vec<(u64, u64)> {
        self.state.lock().unwrap().mapped.iter().map(|(&iova, &(pa, _))| (iova, pa)).collect()
    }

    pub(crate) fn prot(&self, iova: u64) -> Option<Prot> {
        self.state.lock().unwrap().mapped.get(&iova).map(|&(_, prot)| prot)
    }

    pub(crate) fn stale_count(&self) -> usize {
        self.state.lock().unwrap().stale.len()
    }

    pub(crate) fn is_stale(&self, iova: u64) -> bool {
        self.state.lock().unwrap().stale.contains_key(&iova)
    }

    pub(crate) fn syncs(&self) -> usize {
        self.state.lock().unwrap().syncs
    }

    pub(crate) fn lookups(&self) -> usize {
        self.lookups.load(SeqCst)
    }

    pub(crate) fn kept(&self) -> Vec<(Pa, BlockLayout)> {
        self.kept.lock().unwrap().clone()
    }

    pub(crate) fn map_calls(&self) -> usize {
        self.state.lock().unwrap().maps
    }

    /// What was shown to hardware, and after how many maps.
    pub(crate) fn shown(&self) -> Vec<(IovaRange, usize)> {
        self.state.lock().unwrap().shown.clone()
    }
}

const NO_ANSWER: SyncError = SyncError::Failed { code: 1 };

fn pages(range: IovaRange) -> impl Iterator<Item = u64> {
    (range.first().get()..=range.last().get()).step_by(0x1000)
}

impl HwDomain<Machine> for FakeDomain {
    fn aperture(&self) -> IovaRange {
        self.aperture
    }

    fn page_sizes(&self) -> PageSizes {
        PageSizes::default().with(SizeLg2::KIB_4).with(SizeLg2::MIB_2)
    }

    fn map(&self, iova: Iova, pa: Pa, len_bytes: u64, prot: Prot) -> Result<(), MapError> {
        let range = IovaRange::new(iova, len_bytes).unwrap();
        assert!(range.is_aligned(GRANULE) && pa.is_aligned(GRANULE), "core rounds and checks");
        if !self.aperture.covers(range) {
            return Err(MapError::OutsideAperture(iova));
        }
        if self.plan.fails(Call::Map) {
            // The first page was mapped for a moment, and hardware looked.
            self.state.lock().unwrap().stale.insert(iova.get(), (pa.get(), prot));
            return Err(MapError::NoTableMemory);
        }
        let mut state = self.state.lock().unwrap();
        state.maps += 1;
        if let Some(taken) = pages(range).find(|page| state.mapped.contains_key(page)) {
            return Err(MapError::Mapped(Iova::new(taken)));
        }
        for page in pages(range) {
            assert!(
                !state.stale.contains_key(&page),
                "{page:#x} is mapped again, and hardware still remembers it"
            );
            state.mapped.insert(page, (pa.get() + (page - iova.get()), prot));
        }
        Ok(())
    }

    fn show(&self, range: IovaRange) -> Result<(), MapError> {
        let mut state = self.state.lock().unwrap();
        if self.plan.fails(Call::Show) {
            for page in pages(range) {
                if let Some(was) = state.mapped.remove(&page) {
                    state.stale.insert(page, was);
                }
            }
            return Err(MapError::Unconfirmed { waiting_for: "a look" });
        }
        let maps = state.maps;
        state.shown.push((range, maps));
        Ok(())
    }

    fn unmap(&self, range: IovaRange, gather: &mut Gather) -> Result<u64, UnmapError> {
        assert!(range.is_aligned(GRANULE), "core rounds and checks");
        if !self.aperture.covers(range) {
            return Err(UnmapError::OutsideAperture(range.first()));
        }
        if self.plan.fails(Call::Unmap) {
            return Err(UnmapError::NoTableMemory);
        }
        let mut state = self.state.lock().unwrap();
        let mut found = 0;
        for page in pages(range) {
            if let Some(was) = state.mapped.remove(&page) {
                state.stale.insert(page, was);
                gather.add(IovaRange::new(Iova::new(page), GRANULE).unwrap(), SizeLg2::KIB_4, false);
                found += GRANULE;
            }
        }
        Ok(found)
    }

    fn sync(&self, gather: &mut Gather) -> Result<Flushed, SyncError> {
        if self.plan.fails(Call::Sync) {
            return Err(NO_ANSWER);
        }
        let mut state = self.state.lock().unwrap();
        state.syncs += 1;
        gather.ranges().for_each(|range| state.stale.retain(|&page, _| !range.contains(Iova::new(page))));
        *gather = Gather::new();
        Ok(Flushed::completed())
    }

    fn flush_all(&self) -> Result<Flushed, SyncError> {
        if self.plan.fails(Call::FlushAll) {
            return Err(NO_ANSWER);
        }
        let mut state = self.state.lock().unwrap();
        state.syncs += 1;
        state.stale.clear();
        Ok(Flushed::completed())
    }

    fn keep(&self, first: Pa, layout: BlockLayout) {
        self.kept.lock().unwrap().push((first, layout));
    }

    fn lookup(&self, iova: Iova) -> Option<(Pa, Prot)> {
        self.lookups.fetch_add(1, SeqCst);
        let page = iova.align_down(GRANULE).get();
        let (pa, prot) = *self.state.lock().unwrap().mapped.get(&page)?;
        Some((Pa::new(pa + iova.offset_in(GRANULE)), prot))
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
        let sizes = PageSizes::default().with(SizeLg2::KIB_4);
        let mut capabilities = Capabilities::new(self.aperture, sizes);
        capabilities.identity = *self.identity.lock().unwrap();
        capabilities
    }

    fn add_device(&self, name: &str, sources: &[SourceId]) -> Result<(), AddDeviceError> {
        if self.plan.fails(Call::AddDevice) {
            return Err(AddDeviceError::NoMemory);
        }
        let mut attached = self.attached.lock().unwrap();
        if let Some(&source) = sources.iter().find(|source| attached.contains_key(&source.0)) {
            return Err(AddDeviceError::Taken { source, by: name.into() });
        }
        attached.extend(sources.iter().map(|source| (source.0, "blocked".into())));
        Ok(())
    }

    fn remove_device(&self, sources: &[SourceId]) -> Result<(), SyncError> {
        self.meanwhile.act();
        if self.plan.fails(Call::RemoveDevice) {
            return Err(NO_ANSWER);
        }
        sources.iter().for_each(|source| drop(self.attached.lock().unwrap().remove(&source.0)));
        Ok(())
    }

    fn new_domain(&self) -> Result<Arc<dyn HwDomain<Machine>>, DomainError> {
        if self.plan.fails(Call::NewDomain) {
            return Err(DomainError::NoIds);
        }
        let mut domains = self.domains.lock().unwrap();
        let (aperture, plan, number) = (self.aperture, self.plan.clone(), domains.len());
        let (state, lookups, kept) = (Mutex::default(), AtomicUsize::new(0), Mutex::default());
        let domain = Arc::new(FakeDomain { aperture, plan, number, state, lookups, kept });
        domains.push(domain.clone());
        Ok(domain)
    }

    fn guest_tables(&self) -> GuestTables {
        let mut tables = GuestTables::default();
        tables.x86 = Some(X86Tables { levels: 4, extended_accessed: false });
        tables
    }

    fn new_parent(&self) -> Result<Arc<dyn HwDomain<Machine>>, DomainError> {
        self.new_domain()
    }

    fn new_nested(
        &self,
        parent: &Arc<dyn HwDomain<Machine>>,
        table: &GuestTable,
    ) -> Result<Arc<dyn NestedDomain>, NestedError> {
        self.guest_tables().check(table, parent.aperture())?;
        let own = parent.as_any().downcast_ref::<FakeDomain>().ok_or(NestedError::ForeignParent)?;
        Ok(Arc::new(FakeNested { parent: own.number, plan: self.plan.clone(), told: self.nested.clone() }))
    }

    fn attach(&self, sources: &[SourceId], target: &Target<Machine>) -> Result<(), AttachError> {
        self.meanwhile.act();
        let mut attached = self.attached.lock().unwrap();
        let mut place = |place: &str| {
            for source in sources {
                *attached.get_mut(&source.0).expect("the source is known") = place.into();
            }
        };
        if self.plan.fails(Call::AttachAndBlock) {
            place("blocked");
            return Err(AttachError::LeftBlocked(NO_ANSWER));
        }
        if self.plan.fails(Call::Attach) {
            return Err(AttachError::Sync(NO_ANSWER));
        }
        match target {
            Target::Blocked => place("blocked"),
            Target::Identity => place("identity"),
            Target::Process(_) => return Err(AttachError::Unsupported),
            Target::Nested(nested) => {
                let own = nested.as_any().downcast_ref::<FakeNested>().ok_or(AttachError::ForeignDomain)?;
                place(&format!("nested in {}", own.parent));
            }
            Target::Domain(domain) => {
                let own = domain.as_any().downcast_ref::<FakeDomain>().ok_or(AttachError::ForeignDomain)?;
                place(&format!("domain{}", own.number));
            }
        }
        Ok(())
    }

    fn reserved_regions(&self, _: &[SourceId]) -> Vec<ReservedRegion> {
        self.regions.lock().unwrap().clone()
    }

    fn drain_events(&self, to: &mut dyn FnMut(&FaultRecord)) -> usize {
        let faults = core::mem::take(&mut *self.faults.lock().unwrap());
        faults.iter().for_each(&mut *to);
        faults.len()
    }

    fn handle_errors(&self) -> Vec<GlobalError> {
        Vec::new()
    }
}
