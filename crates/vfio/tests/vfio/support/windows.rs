//! Groups with windows, whose tables are plain lists. Hardware remembers every entry that was mapped until a flush or the removal of the
//! window is confirmed; the process's memory asks it when pages are given back.

use core::any::Any;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use portcullis_core::iommu::{Flushed, Gather, SyncError};
use portcullis_core::table_group::{
    DmaTable, Eeh, EehError, EntryError, ErrorInjection, Freeze, Ownership, OwnershipError, PeState, Reset,
    TableEntry, TableError, TableGroup, TableGroupInfo, TableOps, TableSpec, WholeTable, WindowError,
};
use portcullis_types::{Iova, IovaRange, PaRange, PageSizes, SizeLg2};

use super::iommu::{Call, Hardware};

const NO_ANSWER: SyncError = SyncError::Failed { code: 2 };
/// Where the second window begins.
pub(crate) const WINDOW_1: u64 = 0x0800_0000_0000_0000;

#[derive(Debug, Default)]
struct Entries {
    mapped: BTreeMap<u64, TableEntry>,
    /// What hardware may remember, by address.
    stale: Vec<(u64, PaRange)>,
    /// Names of the groups that have it as a window.
    links: Vec<String>,
    flushes: usize,
}

#[derive(Debug)]
pub(crate) struct FakeTable {
    hardware: Arc<Hardware>,
    bridge: u32,
    spec: TableSpec,
    entries: Mutex<Entries>,
}

impl FakeTable {
    fn new(hardware: &Arc<Hardware>, bridge: u32, spec: TableSpec) -> Arc<Self> {
        let table = Arc::new(Self { hardware: hardware.clone(), bridge, spec, entries: Mutex::default() });
        hardware.add_table(&table);
        table
    }

    fn memory(&self, entry: &TableEntry) -> PaRange {
        PaRange::new(entry.pa, self.spec.page.bytes()).unwrap()
    }

    /// Whether hardware can reach any of these bytes.
    pub(crate) fn reaches(&self, memory: PaRange) -> bool {
        let entries = self.entries.lock().unwrap();
        let mapped = entries.mapped.values().any(|entry| self.memory(entry).overlaps(memory));
        let stale = entries.stale.iter().any(|(_, stale)| stale.overlaps(memory));
        !entries.links.is_empty() && (mapped || stale)
    }

    /// Address, physical address and permissions of each entry.
    pub(crate) fn mapped(&self) -> Vec<(u64, u64, u8)> {
        let entries = self.entries.lock().unwrap();
        entries.mapped.iter().map(|(&iova, entry)| (iova, entry.pa.get(), entry.perms.bits())).collect()
    }

    pub(crate) fn flushes(&self) -> usize {
        self.entries.lock().unwrap().flushes
    }

    fn link(&self, group: &str) {
        self.entries.lock().unwrap().links.push(group.into());
    }

    fn unlink(&self, group: &str) {
        let mut entries = self.entries.lock().unwrap();
        entries.links.retain(|link| link != group);
        if entries.links.is_empty() {
            entries.stale.clear();
        }
    }

    fn window_first(&self) -> u64 {
        [0, WINDOW_1][self.spec.window]
    }
}

impl DmaTable for FakeTable {
    fn spec(&self) -> TableSpec {
        self.spec
    }

    fn range(&self) -> IovaRange {
        IovaRange::new(Iova::new(self.window_first()), self.spec.window_bytes).unwrap()
    }

    fn accounted_bytes(&self) -> u64 {
        table_bytes(self.spec)
    }

    fn memory_bytes(&self) -> u64 {
        self.live() * 8
    }

    fn live(&self) -> u64 {
        self.entries.lock().unwrap().mapped.len() as u64
    }

    fn prepare(&self, range: IovaRange) -> Result<(), EntryError> {
        assert!(self.range().covers(range), "the container has looked");
        if self.hardware.fails(Call::Prepare) { Err(EntryError::NoMemory) } else { Ok(()) }
    }

    fn exchange(&self, iova: Iova, new: Option<TableEntry>) -> Result<Option<TableEntry>, EntryError> {
        assert!(self.range().contains(iova) && iova.is_aligned(self.spec.page.bytes()), "{iova}");
        if new.is_some() && self.hardware.fails(Call::Exchange) {
            return Err(EntryError::Unsupported);
        }
        if let Some(new) = new {
            assert!(new.pa.is_aligned(self.spec.page.bytes()) && !new.perms.is_empty());
        }
        let mut entries = self.entries.lock().unwrap();
        let old = match new {
            Some(new) => entries.mapped.insert(iova.get(), new),
            None => entries.mapped.remove(&iova.get()),
        };
        // It may have looked at once.
        let known: Vec<_> = old.iter().chain(&new).map(|entry| (iova.get(), self.memory(entry))).collect();
        if !entries.links.is_empty() {
            entries.stale.extend(known);
        }
        Ok(old)
    }

    fn entry(&self, iova: Iova) -> Option<TableEntry> {
        let page = iova.align_down(self.spec.page.bytes());
        self.entries.lock().unwrap().mapped.get(&page.get()).copied()
    }

    fn next(&self, iova: Iova) -> Option<(Iova, TableEntry)> {
        let entries = self.entries.lock().unwrap();
        let (&at, &entry) = entries.mapped.range(iova.get()..).next()?;
        Some((Iova::new(at), entry))
    }

    fn flush(&self, gather: &mut Gather) -> Result<Flushed, SyncError> {
        let mut entries = self.entries.lock().unwrap();
        if !gather.is_empty() && !entries.links.is_empty() {
            if self.hardware.fails(Call::Flush) {
                return Err(NO_ANSWER);
            }
            entries.flushes += 1;
            let told: Vec<_> = gather.ranges().collect();
            entries.stale.retain(|&(iova, _)| !told.iter().any(|range| range.contains(Iova::new(iova))));
        }
        *gather = Gather::new();
        Ok(Flushed::completed())
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// Every level at full size, twice.
fn table_bytes(spec: TableSpec) -> u64 {
    let entries = spec.window_bytes >> spec.page.get();
    2 * ((entries * 8).max(0x1000) + 0x1000 * u64::from(spec.levels - 1))
}

/// What a driver offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Offer {
    OnDemand,
    Whole,
    /// Taking and giving back, and nothing else.
    OwnershipOnly,
}

#[derive(Debug, Default)]
struct State {
    taken: bool,
    windows: [Option<Arc<FakeTable>>; 2],
    whole: Option<Arc<FakeTable>>,
    io_frozen: bool,
    dma_frozen: bool,
    done: Vec<String>,
}

/// A group with windows.
#[derive(Debug)]
pub(crate) struct FakeTableGroup {
    hardware: Arc<Hardware>,
    bridge: u32,
    name: String,
    pub(crate) offer: Offer,
    pub(crate) info: Mutex<TableGroupInfo>,
    pub(crate) freezes: bool,
    state: Mutex<State>,
}

impl FakeTableGroup {
    pub(crate) fn new(
        hardware: &Arc<Hardware>,
        bridge: u32,
        pe: u32,
        offer: Offer,
        freezes: bool,
    ) -> Arc<Self> {
        let info = TableGroupInfo {
            window32: IovaRange::new(Iova::new(0), 0x8000_0000).unwrap(),
            windows: [Some(Iova::new(0)), Some(Iova::new(WINDOW_1))],
            page_sizes: PageSizes::from_bits(0x1101_1000),
            max_levels: 5,
        };
        Arc::new(Self {
            hardware: hardware.clone(),
            bridge,
            name: format!("bridge{bridge} PE {pe}"),
            offer,
            info: Mutex::new(info),
            freezes,
            state: Mutex::default(),
        })
    }

    pub(crate) fn is_taken(&self) -> bool {
        self.state.lock().unwrap().taken
    }

    pub(crate) fn table(&self, window: usize) -> Option<Arc<FakeTable>> {
        self.state.lock().unwrap().windows[window].clone()
    }

    /// What was done by EEH since this was asked last.
    pub(crate) fn done(&self) -> Vec<String> {
        core::mem::take(&mut self.state.lock().unwrap().done)
    }

    pub(crate) fn freeze_now(&self) {
        let mut state = self.state.lock().unwrap();
        (state.io_frozen, state.dma_frozen) = (true, true);
    }
}

impl TableGroup for FakeTableGroup {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn info(&self) -> TableGroupInfo {
        *self.info.lock().unwrap()
    }

    fn ownership(&self) -> Option<&dyn Ownership> {
        (self.offer != Offer::Whole).then_some(self)
    }

    fn tables(&self) -> Option<&dyn TableOps> {
        (self.offer == Offer::OnDemand).then_some(self)
    }

    fn whole(&self) -> Option<&dyn WholeTable> {
        (self.offer == Offer::Whole).then_some(self)
    }

    fn eeh(&self) -> Option<&dyn Eeh> {
        self.freezes.then_some(self)
    }
}

impl Ownership for FakeTableGroup {
    fn take_ownership(&self) -> Result<(), OwnershipError> {
        if self.hardware.fails(Call::Take) {
            return Err(OwnershipError::Sync(NO_ANSWER));
        }
        self.state.lock().unwrap().taken = true;
        Ok(())
    }

    fn release_ownership(&self) -> Result<(), OwnershipError> {
        let mut state = self.state.lock().unwrap();
        if let Some(window) = state.windows.iter().position(Option::is_some) {
            return Err(OwnershipError::WindowSet(window));
        }
        if self.hardware.fails(Call::Release) {
            return Err(OwnershipError::NoMemory);
        }
        state.taken = false;
        Ok(())
    }
}

impl TableOps for FakeTableGroup {
    fn table_bytes(&self, spec: TableSpec) -> Result<u64, TableError> {
        if spec.levels == 0 || spec.levels > self.info().max_levels {
            return Err(TableError::Levels(spec.levels));
        }
        let fits = spec.window_bytes >= spec.page.bytes() && spec.window_bytes <= WINDOW_1;
        if !fits || !spec.window_bytes.is_power_of_two() {
            return Err(TableError::WindowSize(spec.window_bytes));
        }
        Ok(table_bytes(spec))
    }

    fn create_table(&self, spec: TableSpec) -> Result<Arc<dyn DmaTable>, TableError> {
        self.table_bytes(spec)?;
        assert!(self.info().page_sizes.contains(spec.page));
        if self.hardware.fails(Call::CreateTable) {
            return Err(TableError::NoMemory);
        }
        Ok(FakeTable::new(&self.hardware, self.bridge, spec))
    }

    fn set_window(&self, table: &Arc<dyn DmaTable>) -> Result<(), WindowError> {
        let mut tables = self.hardware.tables().into_iter();
        let is = |own: &Arc<FakeTable>| core::ptr::addr_eq(Arc::as_ptr(own), Arc::as_ptr(table));
        let own = tables.find(is).ok_or(WindowError::Foreign)?;
        if own.bridge != self.bridge {
            return Err(WindowError::Foreign);
        }
        let mut state = self.state.lock().unwrap();
        let window = own.spec.window;
        if !state.taken {
            return Err(WindowError::NotTaken);
        }
        if state.windows[window].is_some() {
            return Err(WindowError::Set(window));
        }
        if self.hardware.fails(Call::SetWindow) {
            return Err(WindowError::Sync(NO_ANSWER));
        }
        own.link(&self.name);
        state.windows[window] = Some(own);
        Ok(())
    }

    fn unset_window(&self, window: usize) -> Result<Arc<dyn DmaTable>, WindowError> {
        let mut state = self.state.lock().unwrap();
        if !state.taken {
            return Err(WindowError::NotTaken);
        }
        if state.windows[window].is_none() {
            return Err(WindowError::NotSet(window));
        }
        if self.hardware.fails(Call::UnsetWindow) {
            return Err(WindowError::Sync(NO_ANSWER));
        }
        let table = state.windows[window].take().unwrap();
        table.unlink(&self.name);
        Ok(table)
    }

    fn window(&self, window: usize) -> Option<Arc<dyn DmaTable>> {
        self.table(window).map(|table| table as Arc<dyn DmaTable>)
    }
}

impl WholeTable for FakeTableGroup {
    fn take_table(&self) -> Result<Arc<dyn DmaTable>, OwnershipError> {
        if self.hardware.fails(Call::Take) {
            return Err(OwnershipError::Live(Iova::new(0x5000)));
        }
        let spec = TableSpec { window: 0, page: SizeLg2::KIB_4, window_bytes: 0x8000_0000, levels: 1 };
        let table = FakeTable::new(&self.hardware, self.bridge, spec);
        table.link(&self.name);
        let mut state = self.state.lock().unwrap();
        assert!(state.whole.is_none());
        state.whole = Some(table.clone());
        state.windows[0] = Some(table.clone());
        state.taken = true;
        Ok(table)
    }

    fn give_back_table(&self) -> Result<(), OwnershipError> {
        let mut state = self.state.lock().unwrap();
        let Some(table) = state.whole.clone() else { return Ok(()) };
        if let Some((live, _)) = table.next(Iova::new(0)) {
            return Err(OwnershipError::Live(live));
        }
        if self.hardware.fails(Call::Release) {
            return Err(OwnershipError::Sync(NO_ANSWER));
        }
        table.unlink(&self.name);
        *state = State::default();
        Ok(())
    }
}

impl FakeTableGroup {
    fn note(&self, what: String) -> Result<(), EehError> {
        if self.hardware.fails(Call::Eeh) {
            return Err(EehError::Sync(NO_ANSWER));
        }
        let mut state = self.state.lock().unwrap();
        let whose = if state.taken { "" } else { " of the platform's" };
        state.done.push(what + whose);
        Ok(())
    }
}

impl Eeh for FakeTableGroup {
    fn state(&self) -> PeState {
        let state = self.state.lock().unwrap();
        match (state.io_frozen, state.dma_frozen) {
            (false, false) => PeState::Normal,
            (false, true) => PeState::StoppedDma,
            (true, _) => PeState::Stopped,
        }
    }

    fn freeze(&self, _: Freeze) -> Result<(), EehError> {
        unreachable!("no call does that")
    }

    fn unfreeze(&self, what: Freeze) -> Result<(), EehError> {
        self.note(format!("unfreeze {what:?}"))?;
        let mut state = self.state.lock().unwrap();
        match what {
            Freeze::Io => state.io_frozen = false,
            Freeze::Dma => state.dma_frozen = false,
        }
        Ok(())
    }

    fn reset(&self, reset: Reset) -> Result<(), EehError> {
        self.note(format!("reset {reset:?}"))
    }

    fn configure(&self) -> Result<(), EehError> {
        self.note("configure".into())
    }

    fn inject(&self, error: ErrorInjection) -> Result<(), EehError> {
        let ErrorInjection { wide, function, address, mask } = error;
        self.note(format!("inject {wide} {function} {address:#x} {mask:#x}"))
    }
}
