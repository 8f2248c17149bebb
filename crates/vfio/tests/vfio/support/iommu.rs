//! IOMMUs of ranges in plain lists. Hardware remembers every range that was mapped until it is told to forget it, and the test fails at once
//! if addresses are mapped again, or memory is given back, while it does.

use core::any::Any;
use core::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use portcullis_core::iommu::{
    AddDeviceError, AttachError, Capabilities, DomainError, FaultRecord, Flushed, Gather, GlobalError,
    HwDomain, Iommu, MapError, ReservedRegion, SyncError, Target, UnmapError,
};
use portcullis_core::table_group::TableGroup;
use portcullis_types::{Iova, IovaRange, Pa, PaRange, PageSizes, Prot, SourceId};

use super::machine::Machine;
use super::windows::{FakeTable, FakeTableGroup};

/// A call that can be made to fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Call {
    Map,
    Unmap,
    Sync,
    Attach,
    NewDomain,
    Take,
    Release,
    CreateTable,
    SetWindow,
    UnsetWindow,
    Prepare,
    Exchange,
    Flush,
    Eeh,
}

/// Every translation there is, of all IOMMUs.
#[derive(Debug, Default)]
pub(crate) struct Hardware {
    plan: Mutex<Vec<(Call, usize, usize)>>,
    domains: Mutex<Vec<Arc<FakeDomain>>>,
    tables: Mutex<Vec<Arc<FakeTable>>>,
}

impl Hardware {
    /// Lets `pass` calls of this kind pass and `fail` after them fail.
    pub(crate) fn fail(&self, call: Call, pass: usize, fail: usize) {
        self.plan.lock().unwrap().push((call, pass, fail));
    }

    /// Answers how many failures were still to come.
    pub(crate) fn fail_no_more(&self) -> usize {
        let plan = core::mem::take(&mut *self.plan.lock().unwrap());
        plan.iter().filter(|(_, _, left)| *left > 0).count()
    }

    pub(super) fn fails(&self, call: Call) -> bool {
        let mut plan = self.plan.lock().unwrap();
        let Some((_, pass, left)) = plan.iter_mut().find(|(kind, _, left)| *kind == call && *left > 0) else {
            return false;
        };
        if *pass > 0 {
            *pass -= 1;
            return false;
        }
        *left -= 1;
        true
    }

    pub(crate) fn domain(&self, number: usize) -> Arc<FakeDomain> {
        self.domains.lock().unwrap()[number].clone()
    }

    pub(crate) fn last_domain(&self) -> Arc<FakeDomain> {
        self.domains.lock().unwrap().last().unwrap().clone()
    }

    pub(crate) fn domain_count(&self) -> usize {
        self.domains.lock().unwrap().len()
    }

    pub(super) fn add_table(&self, table: &Arc<FakeTable>) {
        self.table_count();
        self.tables.lock().unwrap().push(table.clone());
    }

    pub(super) fn tables(&self) -> Vec<Arc<FakeTable>> {
        self.tables.lock().unwrap().clone()
    }

    /// Forgets tables that nobody else holds, and answers how many are left.
    pub(crate) fn table_count(&self) -> usize {
        let mut tables = self.tables.lock().unwrap();
        tables.retain(|table| Arc::strong_count(table) > 1);
        tables.len()
    }

    /// Whether hardware can reach any of these bytes through any translation, of which it may only remember that.
    pub(crate) fn reaches(&self, memory: PaRange) -> bool {
        let by_table = self.tables.lock().unwrap().iter().any(|table| table.reaches(memory));
        by_table || self.domains_reach(memory)
    }

    fn domains_reach(&self, memory: PaRange) -> bool {
        self.domains.lock().unwrap().iter().any(|domain| {
            let state = domain.state.lock().unwrap();
            state.mapped.iter().chain(&state.stale).any(|(_, entry)| entry.memory().overlaps(memory))
        })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) range: IovaRange,
    pub(crate) pa: Pa,
    pub(crate) prot: Prot,
}

impl Entry {
    fn memory(&self) -> PaRange {
        PaRange::new(self.pa, self.range.len_bytes().unwrap()).unwrap()
    }
}

#[derive(Debug, Default)]
struct Tables {
    mapped: BTreeMap<u64, Entry>,
    stale: BTreeMap<u64, Entry>,
    maps: usize,
    syncs: usize,
}

#[derive(Debug)]
pub(crate) struct FakeDomain {
    hardware: Arc<Hardware>,
    number: usize,
    /// Which IOMMU's.
    of: String,
    aperture: IovaRange,
    sizes: PageSizes,
    state: Mutex<Tables>,
}

#[derive(Debug)]
pub(crate) struct FakeIommu {
    hardware: Arc<Hardware>,
    name: String,
    aperture: IovaRange,
    sizes: PageSizes,
    attached: Mutex<BTreeMap<u32, String>>,
    pub(crate) regions: Mutex<Vec<ReservedRegion>>,
    /// Whether it keeps interrupts apart itself.
    pub(crate) isolates_interrupts: AtomicBool,
    /// Which sources are in which groups with windows.
    pub(crate) window_groups: Mutex<BTreeMap<u32, Arc<FakeTableGroup>>>,
}

impl FakeIommu {
    pub(crate) fn new(
        hardware: &Arc<Hardware>,
        name: &str,
        aperture: IovaRange,
        sizes: PageSizes,
    ) -> Arc<Self> {
        Arc::new(Self {
            hardware: hardware.clone(),
            name: name.into(),
            aperture,
            sizes,
            attached: Mutex::default(),
            regions: Mutex::default(),
            isolates_interrupts: AtomicBool::new(false),
            window_groups: Mutex::default(),
        })
    }

    /// Where a source is: `blocked`, `identity`, `domain0` and so on.
    pub(crate) fn place(&self, source: u32) -> String {
        self.attached.lock().unwrap()[&source].clone()
    }
}

impl FakeDomain {
    pub(crate) fn mapped(&self) -> Vec<Entry> {
        self.state.lock().unwrap().mapped.values().copied().collect()
    }

    /// First address, physical address and length of what is mapped.
    pub(crate) fn runs(&self) -> Vec<(u64, u64, u64)> {
        let run =
            |entry: &Entry| (entry.range.first().get(), entry.pa.get(), entry.range.len_bytes().unwrap());
        self.mapped().iter().map(run).collect()
    }

    pub(crate) fn map_calls(&self) -> usize {
        self.state.lock().unwrap().maps
    }

    pub(crate) fn syncs(&self) -> usize {
        self.state.lock().unwrap().syncs
    }

    pub(crate) fn find(&self, iova: u64) -> Option<(u64, Prot)> {
        let state = self.state.lock().unwrap();
        let (first, entry) = state.mapped.range(..=iova).next_back()?;
        entry.range.contains(Iova::new(iova)).then(|| (entry.pa.get() + (iova - first), entry.prot))
    }
}

const NO_ANSWER: SyncError = SyncError::Failed { code: 1 };

impl HwDomain<Machine> for FakeDomain {
    fn aperture(&self) -> IovaRange {
        self.aperture
    }

    fn page_sizes(&self) -> PageSizes {
        self.sizes
    }

    fn map(&self, iova: Iova, pa: Pa, len_bytes: u64, prot: Prot) -> Result<(), MapError> {
        let range = IovaRange::new(iova, len_bytes).unwrap();
        let entry = Entry { range, pa, prot };
        assert!(self.aperture.covers(range), "{range} is outside the aperture");
        if self.hardware.fails(Call::Map) {
            // It was mapped for a moment, and hardware looked.
            self.state.lock().unwrap().stale.insert(iova.get(), entry);
            return Err(MapError::NoTableMemory);
        }
        let mut state = self.state.lock().unwrap();
        state.maps += 1;
        let taken = state.mapped.values().any(|held| held.range.overlaps(range));
        assert!(!taken, "{range} is mapped twice");
        let known = state.stale.values().any(|held| held.range.overlaps(range));
        assert!(!known, "{range} is mapped again, and hardware still remembers it");
        state.mapped.insert(iova.get(), entry);
        Ok(())
    }

    fn unmap(&self, range: IovaRange, gather: &mut Gather) -> Result<u64, UnmapError> {
        if self.hardware.fails(Call::Unmap) {
            return Err(UnmapError::NoTableMemory);
        }
        let mut state = self.state.lock().unwrap();
        let found: Vec<Entry> =
            state.mapped.values().filter(|held| held.range.overlaps(range)).copied().collect();
        for entry in &found {
            assert!(range.covers(entry.range), "{range} cuts {}", entry.range);
            state.mapped.remove(&entry.range.first().get());
            state.stale.insert(entry.range.first().get(), *entry);
            gather.add(entry.range, self.sizes.smallest().unwrap(), false);
        }
        Ok(found.iter().map(|entry| entry.range.len_bytes().unwrap()).sum())
    }

    fn sync(&self, gather: &mut Gather) -> Result<Flushed, SyncError> {
        if self.hardware.fails(Call::Sync) {
            return Err(NO_ANSWER);
        }
        let mut state = self.state.lock().unwrap();
        state.syncs += 1;
        for range in gather.ranges() {
            state.stale.retain(|_, entry| !range.covers(entry.range));
        }
        *gather = Gather::new();
        Ok(Flushed::completed())
    }

    fn flush_all(&self) -> Result<Flushed, SyncError> {
        self.state.lock().unwrap().stale.clear();
        Ok(Flushed::completed())
    }

    fn lookup(&self, iova: Iova) -> Option<(Pa, Prot)> {
        self.find(iova.get()).map(|(pa, prot)| (Pa::new(pa), prot))
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl Iommu<Machine> for FakeIommu {
    fn name(&self) -> &str {
        &self.name
    }

    fn capabilities(&self) -> Capabilities {
        let mut capabilities = Capabilities::new(self.aperture, self.sizes);
        capabilities.isolated_interrupts = self.isolates_interrupts.load(Relaxed);
        capabilities
    }

    fn add_device(&self, _: &str, sources: &[SourceId]) -> Result<(), AddDeviceError> {
        self.attached.lock().unwrap().extend(sources.iter().map(|source| (source.0, "blocked".into())));
        Ok(())
    }

    fn remove_device(&self, sources: &[SourceId]) -> Result<(), SyncError> {
        sources.iter().for_each(|source| drop(self.attached.lock().unwrap().remove(&source.0)));
        Ok(())
    }

    fn new_domain(&self) -> Result<Arc<dyn HwDomain<Machine>>, DomainError> {
        if self.hardware.fails(Call::NewDomain) {
            return Err(DomainError::NoIds);
        }
        let mut domains = self.hardware.domains.lock().unwrap();
        let (hardware, number, of) = (self.hardware.clone(), domains.len(), self.name.clone());
        let (aperture, sizes) = (self.aperture, self.sizes);
        let domain = Arc::new(FakeDomain { hardware, number, of, aperture, sizes, state: Mutex::default() });
        domains.push(domain.clone());
        Ok(domain)
    }

    fn attach(&self, sources: &[SourceId], target: &Target<Machine>) -> Result<(), AttachError> {
        if self.hardware.fails(Call::Attach) {
            return Err(AttachError::Sync(NO_ANSWER));
        }
        let place = match target {
            Target::Blocked => "blocked".into(),
            Target::Identity => "identity".into(),
            Target::Process(_) | Target::Nested(_) => return Err(AttachError::Unsupported),
            Target::Domain(domain) => {
                let own = domain.as_any().downcast_ref::<FakeDomain>().unwrap();
                assert_eq!(own.of, self.name, "core checks");
                format!("domain{}", own.number)
            }
        };
        let mut attached = self.attached.lock().unwrap();
        sources.iter().for_each(|source| drop(attached.insert(source.0, place.clone())));
        Ok(())
    }

    fn reserved_regions(&self, _: &[SourceId]) -> Vec<ReservedRegion> {
        self.regions.lock().unwrap().clone()
    }

    fn drain_events(&self, _: &mut dyn FnMut(&FaultRecord)) -> usize {
        0
    }

    fn table_group(&self, source: SourceId) -> Option<Arc<dyn TableGroup>> {
        let groups = self.window_groups.lock().unwrap();
        groups.get(&source.0).map(|group| group.clone() as Arc<dyn TableGroup>)
    }

    fn handle_errors(&self) -> Vec<GlobalError> {
        Vec::new()
    }
}
