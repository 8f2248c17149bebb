//! A life's world: the machine, the drivers on it, and what everybody has.
//!
//! Operations take what they work on out of its place, work without any lock of ours, and put back what is left, so that another operation may
//! happen in the middle of one: it finds the place empty and does nothing.

use core::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, RwLock};

use model_bus::{Bus, BusError, BusOptions, Caches, Chance, Doorbell, Downstream, Translator};
use model_cpu::{CpuFeatures, Cpus, TlbPolicy, x86};
use portcullis::core::device::{Device, DeviceInfo, DmaMask};
use portcullis::core::dma::{Coherent, DmaHandle, Mapping, SgMapping};
use portcullis::core::domain::{Domain, FlushMode};
use portcullis::core::group::{DefaultDomain, Group};
use portcullis::core::iommu::{Gather, Iommu, RegionSource, ReservedKind, ReservedRegion};
use portcullis::core::unit::IommuUnit;
use portcullis::types::{Iova, IovaRange, Pa, PaRange, Prot, SourceId};
use portcullis_lab::boot::CpuSet;

use super::OpKind;
use super::irq::{BLOCKS, Bells, Block};
use super::sva::{FLOOD, Sharing};
use crate::cover::{Coverage, apart};
use crate::fault::FaultKind;
use crate::hub::{Hub, locked};
use crate::machine::{
    DeviceSpec, Driver, Engine, Fan, Form, Guest, Iron, Place, Pool, Root, SimPlatform, Spec, UnitSpec,
};
use crate::oracle::{Gate, Ledger, SpaceId, Token, Way};

pub(super) type Unit = IommuUnit<SimPlatform>;

/// An IOMMU, from all sides.
pub(super) struct UnitState {
    pub(super) iron: Arc<dyn Iron>,
    pub(super) driver: Arc<dyn Driver>,
    pub(super) unit: Arc<Unit>,
}

/// A device.
pub(super) struct DeviceState {
    pub(super) spec: DeviceSpec,
    pub(super) engine: Arc<Engine>,
    /// As core knows it; none while it is not there.
    pub(super) device: Mutex<Option<Arc<Device<SimPlatform>>>>,
    /// Whether an ordinary driver is bound.
    pub(super) bound: AtomicBool,
}

/// A group.
pub(super) struct GroupState {
    pub(super) unit: usize,
    pub(super) group: Arc<Group<SimPlatform>>,
    pub(super) members: Vec<usize>,
    pub(super) inner: Mutex<GroupInner>,
}

pub(super) struct GroupInner {
    /// The space of its default domain.
    pub(super) space: SpaceId,
    pub(super) lazy: bool,
    /// How many syncs of its default domain had failed when it was last polled, and when that was seen to be more than before.
    pub(super) failed: (u64, u64),
    pub(super) ledger: Ledger,
    /// Where the doorbell's page is mapped: once for each reach that devices have.
    pub(super) doorbells: Vec<u64>,
}

/// What a driver has given to its device.
pub(super) enum Slot {
    Empty,
    /// Somebody is at it.
    Busy,
    Single {
        device: usize,
        space: SpaceId,
        mapping: Mapping,
        pages: (u64, u64),
    },
    List {
        device: usize,
        space: SpaceId,
        list: SgMapping,
        pages: Vec<(u64, u64)>,
        ranges: Vec<(u64, u64)>,
    },
    Shared {
        device: usize,
        space: SpaceId,
        buffer: Coherent,
    },
}

/// A domain whose user maps by himself.
pub(super) struct UserDomain {
    pub(super) unit: usize,
    pub(super) space: SpaceId,
    pub(super) domain: Arc<Domain<SimPlatform>>,
    pub(super) inner: Mutex<UserInner>,
}

#[derive(Default)]
pub(super) struct UserInner {
    /// Somebody is at it.
    pub(super) busy: bool,
    pub(super) gather: Gather,
    pub(super) tokens: Vec<Token>,
    /// The memory behind each page, by the page's number.
    pub(super) pages: BTreeMap<u64, u64>,
    /// Memory that is unmapped and may still be reached.
    pub(super) waiting: Vec<u64>,
    /// A map failed and its undoing was not confirmed: these pages count as mapped.
    pub(super) ghosts: Vec<Ghost>,
    /// What of these was unmapped, and waits for a sync.
    pub(super) fading: Vec<Ghost>,
}

/// What a map that failed left, as far as anybody knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ghost {
    pub(super) first: u64,
    pub(super) last: u64,
    /// The map.
    pub(super) token: Token,
}

impl Ghost {
    pub(super) fn hits(&self, first: u64, last: u64) -> bool {
        self.first <= last && self.last >= first
    }
}

impl UserInner {
    /// A range was unmapped: what failed maps left there does not count as mapped any more, and hardware may remember it until a sync.
    pub(super) fn unmap_ghosts(&mut self, (first, last): (u64, u64)) {
        let (hit, mut left): (Vec<Ghost>, Vec<Ghost>) =
            core::mem::take(&mut self.ghosts).into_iter().partition(|one| one.hits(first, last));
        for one in hit {
            left.extend((one.first < first).then(|| Ghost { last: first - 1, ..one }));
            left.extend((one.last > last).then(|| Ghost { first: last + 1, ..one }));
            self.fading.push(Ghost { first: one.first.max(first), last: one.last.min(last), ..one });
        }
        self.ghosts = left;
    }

    /// Hardware has confirmed that it forgot all that was unmapped. Answers the failed maps of which nothing is left.
    pub(super) fn ghosts_faded(&mut self) -> Vec<Token> {
        let faded = core::mem::take(&mut self.fading).into_iter().map(|one| one.token);
        faded.filter(|token| self.ghosts.iter().all(|one| one.token != *token)).collect()
    }
}

/// Memory that may still be reached through a space.
pub(super) struct Quarantined {
    pub(super) space: SpaceId,
    pub(super) token: Token,
    pub(super) pages: Vec<(u64, u64)>,
}

/// An address that was unmapped, or may have been.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stale {
    pub(super) device: usize,
    pub(super) iova: u64,
    pub(super) freed: bool,
}

/// The world.
pub(crate) struct World {
    pub(super) spec: Spec,
    pub(super) hub: Arc<Hub>,
    pub(super) bus: Arc<Bus>,
    pub(super) platform: Arc<SimPlatform>,
    pub(super) units: Vec<UnitState>,
    /// An IOMMU that is brought up in the middle of a life.
    pub(super) guest: Arc<Guest>,
    pub(super) devices: Vec<DeviceState>,
    pub(super) groups: Vec<GroupState>,
    /// The way down from the IOMMUs.
    _root: Arc<Root>,
    pub(super) slots: Mutex<Vec<Slot>>,
    /// Interrupts that drivers have for their devices.
    pub(super) blocks: Mutex<Vec<Option<Block>>>,
    pub(super) domains: Mutex<Vec<Option<Arc<UserDomain>>>>,
    pub(super) pool: Mutex<Pool>,
    pub(super) quarantine: Mutex<Vec<Quarantined>>,
    pub(super) stale: Mutex<VecDeque<Stale>>,
    /// Processes, where they share.
    pub(super) sharing: Option<Sharing>,
    /// How many page requests were forged, and how many had been lost when it was last looked.
    pub(super) forged: AtomicU64,
    pub(super) pages_lost: AtomicU64,
    /// Everything is being given back: no other CPU begins anything.
    pub(super) ending: AtomicBool,
    /// Whether memory was left to hardware that never confirmed.
    pub(super) lost: AtomicBool,
    /// Blocks of memory that IOMMUs which were turned off go on reading.
    pub(super) kept: AtomicUsize,
    /// Hardware may not have heard what it was told.
    pub(super) deaf: AtomicBool,
    /// Devices that hardware would not let go.
    pub(super) stranded: Mutex<Vec<Arc<Device<SimPlatform>>>>,
    pub(super) coverage: Mutex<Coverage>,
    /// Operations that did something, whoever did them: the shadow's time.
    pub(super) steps: AtomicU64,
    /// Those of them that the plan has.
    pub(super) planned: AtomicU64,
    /// Events that each IOMMU had lost when it was last looked at.
    pub(super) events_lost: Vec<AtomicU64>,
    pub(super) refused: AtomicU64,
    /// How often all tables were held against the shadow.
    pub(super) audits: AtomicU64,
    /// Several threads are at work, and what they do alone or beside each other (`crowd`).
    pub(super) crowded: AtomicBool,
    pub(super) crowd: RwLock<()>,
    /// How many page requests a flood has.
    pub(super) flood: AtomicU64,
    /// Operations of another CPU that were begun in between.
    pub(super) nested: AtomicU64,
}

pub(super) const SLOTS: usize = 32;
pub(super) const DOMAINS: usize = 6;
pub(super) const USERS: usize = 3;
/// Where RAM begins, and how much of it the heap has.
const RAM: u64 = 0x4000_0000;
const HEAP_BYTES: u64 = 0x0400_0000;
/// Pages of drivers' and users' memory.
const POOL_PAGES: u64 = 192;
/// Where an IOMMU has its registers that is brought up in the middle of a life.
pub(super) const SPARE_UNIT: u64 = 0x0a00_0000;
/// Pages that firmware works in lie behind those.
const FIRMWARE_PAGES: u64 = 8;
/// The doorbell of all interrupts: a page of its own.
pub(super) const DOORBELL: u64 = 0x0808_0000;

/// How many page requests the first flood of a life has: a million, in few lives.
fn flood_of(seed: u64) -> u64 {
    if Chance::new(seed ^ 0x000f_100d).once_in(256) { 1 << 20 } else { FLOOD }
}

/// Behind which IOMMU each source is.
fn unit_of_sources(spec: &Spec) -> BTreeMap<SourceId, usize> {
    let devices = spec.devices.iter();
    devices.flat_map(|device| device.sources.iter().map(|&id| (SourceId(id), device.unit))).collect()
}

struct Bell;

impl Doorbell for Bell {
    fn ring(&self, _: u64, _: &[u8], _: Option<SourceId>) -> Result<(), BusError> {
        Ok(())
    }
}

fn range(first: u64, len_bytes: u64) -> PaRange {
    PaRange::new(Pa::new(first), len_bytes).expect("ranges of the machine do not wrap")
}

impl World {
    /// A machine that has booted, without devices.
    ///
    /// # Errors
    ///
    /// What does not come up, though nothing is in its way.
    pub(crate) fn new(seed: u64, spec: Spec, lines: bool) -> Result<Arc<Self>, String> {
        let granule = spec.granule.bytes();
        let pool_bytes = ((POOL_PAGES + FIRMWARE_PAGES) * granule).next_multiple_of(0x1_0000);
        let (heap, pool_first) = (range(RAM, HEAP_BYTES), RAM + HEAP_BYTES);
        let mut options = BusOptions::new(range(RAM, HEAP_BYTES + pool_bytes), seed);
        options.heap = vec![heap];
        if !spec.coherent {
            options.caches = Caches::WriteBack;
        }
        let bus = Bus::new(&options);
        let taken = |error: model_bus::Occupied| error.to_string();
        bus.add_doorbell("doorbell", range(DOORBELL, 0x1_0000), Arc::new(Bell)).map_err(taken)?;
        let spare = UnitSpec { registers: SPARE_UNIT, ..spec.units[0].clone() };
        let taps = spec.units.iter().chain([&spare]).map(|unit| unit.parts.tap(unit.registers));
        let hub = Hub::new(bus.clone(), taps.collect(), lines);
        let platform = SimPlatform::new(hub.clone());
        let set = spec.kind.shares().then(|| {
            if spec.kind.is_pc() {
                let cpus =
                    x86::Cpus::new(bus.clone(), &[x86::CpuFeatures::COMMON; 2], TlbPolicy::seeded(seed));
                return CpuSet::new(cpus, spec.granule);
            }
            let cpus = Cpus::new(bus.clone(), &[CpuFeatures::COMMON; 2], TlbPolicy::seeded(seed));
            CpuSet::new(cpus, spec.granule)
        });
        let mut units = Vec::new();
        for (index, unit) in spec.units.iter().enumerate() {
            let iron = unit.build(&hub, spec.coherent, seed ^ index as u64)?;
            bus.add_clocked(iron.model());
            let cpus = set.as_ref().and_then(CpuSet::facts);
            let driver = unit.probe(index, &platform, cpus).map_err(|error| format!("probe: {error}"))?;
            let as_core: Arc<dyn Iommu<SimPlatform>> = driver.clone();
            let unit = Arc::new(IommuUnit::new(platform.clone(), as_core));
            units.push(UnitState { iron, driver, unit });
        }
        let guest = Arc::new(Guest::default());
        bus.add_clocked(guest.clone());
        let models = units.iter().map(|unit| unit.iron.model() as Arc<dyn Translator>).collect::<Vec<_>>();
        let (sharing, behind) = match set {
            Some(set) => {
                let judge = Sharing::judge(&bus, Fan::new(models, unit_of_sources(&spec)), !spec.crowded);
                let shared = units.iter().map(|unit| &unit.unit);
                let sharing =
                    Sharing::new(&hub, &set.cpus, &set, judge.clone(), shared, spec.devices.len(), seed)?;
                (Some(sharing), vec![judge as Arc<dyn Translator>])
            }
            None => (None, models),
        };
        // One for each IOMMU, or one for all of them.
        let gates: Vec<_> = behind
            .into_iter()
            .zip(&spec.units)
            .map(|(behind, unit)| Gate::new(hub.clone(), behind, unit.parts.interrupts()))
            .collect();
        if let Some((first, last)) = spec.units[0].parts.interrupts() {
            let sources = unit_of_sources(&spec).into_iter();
            let bells = sources.filter_map(|(source, unit)| Some((source, units[unit].iron.bell()?)));
            let bells = Arc::new(Bells(bells.collect()));
            bus.add_doorbell("messages", range(first, last - first + 1), bells).map_err(taken)?;
        }
        let mut groups = Vec::new();
        for (index, &(unit, lazy)) in spec.groups.iter().enumerate() {
            let mode = if lazy { FlushMode::Lazy } else { FlushMode::Strict };
            let id = u32::try_from(index).expect("few groups");
            let group =
                Group::new(platform.clone(), units[unit].unit.iommu().clone(), id, DefaultDomain::Dma(mode))
                    .map_err(|error| format!("group: {error:?}"))?;
            let members =
                (0..spec.devices.len()).filter(|&device| spec.devices[device].group == index).collect();
            let space = hub.shadow(|shadow| shadow.add_space());
            let inner =
                GroupInner { space, lazy, failed: (0, 0), ledger: Ledger::default(), doorbells: Vec::new() };
            groups.push(GroupState { unit, group: Arc::new(group), members, inner: Mutex::new(inner) });
        }
        let devices = spec.devices.iter().enumerate().map(|(index, device)| {
            hub.shadow(|shadow| shadow.add_device(&device.sources));
            let gate = gates[device.unit % gates.len()].clone();
            let engine =
                Engine::new(&device.sources, device.form, spec.crowded, gate, bus.clone(), hub.clone());
            if let Some(sharing) = &sharing {
                sharing.judge.know(index, &engine.sources);
            }
            if device.form == Form::Pcie {
                bus.add_clocked(engine.clone());
            }
            DeviceState {
                spec: device.clone(),
                engine,
                device: Mutex::new(None),
                bound: AtomicBool::new(false),
            }
        });
        let devices: Vec<DeviceState> = devices.collect();
        let root = Arc::new(Root(devices.iter().map(|device| device.engine.clone()).collect()));
        let down: Arc<dyn Downstream> = root.clone();
        gates.iter().for_each(|gate| gate.connect(Arc::downgrade(&down)));
        let events_lost = units.iter().map(|_| AtomicU64::new(0)).collect();
        let slots = (0..SLOTS).map(|_| Slot::Empty).collect();
        let pool = Pool::new(pool_first, granule, POOL_PAGES);
        Ok(Arc::new(Self {
            spec,
            hub,
            bus,
            platform,
            units,
            guest,
            devices,
            groups,
            _root: root,
            slots: Mutex::new(slots),
            blocks: Mutex::new((0..BLOCKS).map(|_| None).collect()),
            domains: Mutex::new((0..DOMAINS).map(|_| None).collect()),
            pool: Mutex::new(pool),
            quarantine: Mutex::default(),
            stale: Mutex::default(),
            sharing,
            forged: AtomicU64::new(0),
            pages_lost: AtomicU64::new(0),
            ending: AtomicBool::new(false),
            lost: AtomicBool::new(false),
            kept: AtomicUsize::new(0),
            deaf: AtomicBool::new(false),
            stranded: Mutex::default(),
            coverage: Mutex::default(),
            steps: AtomicU64::new(0),
            planned: AtomicU64::new(0),
            events_lost,
            refused: AtomicU64::new(0),
            nested: AtomicU64::new(0),
            audits: AtomicU64::new(0),
            crowded: AtomicBool::new(false),
            crowd: RwLock::default(),
            flood: AtomicU64::new(flood_of(seed)),
        }))
    }

    pub(super) fn granule(&self) -> u64 {
        self.spec.granule.bytes()
    }

    pub(super) fn device_index(&self, device: u8) -> usize {
        usize::from(device) % self.devices.len()
    }

    /// A device as core knows it; none while it is not there.
    pub(super) fn device(&self, index: usize) -> Option<Arc<Device<SimPlatform>>> {
        locked(&self.devices[index].device).clone()
    }

    pub(super) fn group_of(&self, device: usize) -> &GroupState {
        &self.groups[self.devices[device].spec.group]
    }

    /// The DMA API of a device whose ordinary driver is bound, and the space that it fills.
    pub(super) fn dma(&self, index: usize) -> Option<(DmaHandle<SimPlatform>, SpaceId, bool)> {
        if !self.devices[index].bound.load(Relaxed) {
            return None;
        }
        let device = self.device(index)?;
        let group = self.group_of(index);
        let inner = locked(&group.inner);
        Some((group.group.dma(&device)?, inner.space, inner.lazy))
    }

    /// The page that firmware works in for a device.
    pub(super) fn firmware_page(&self, spec: &DeviceSpec) -> Option<u64> {
        spec.direct.map(|page| RAM + HEAP_BYTES + (POOL_PAGES + page) * self.granule())
    }

    /// What the bus tells core of a device.
    pub(super) fn info(&self, index: usize) -> DeviceInfo {
        let spec = &self.devices[index].spec;
        let sources: Vec<SourceId> = spec.sources.iter().map(|&source| SourceId(source)).collect();
        let sources = self.spec.units[spec.unit].parts.named(&sources);
        let mut info = DeviceInfo::new(&format!("device{index}"), &sources);
        info.pci = spec.pci;
        info.max_segment_bytes = spec.max_segment.max(self.granule());
        info.segment_boundary = spec.boundary;
        info.isolated_interrupts = true;
        let region = |first: u64, last: u64, kind| ReservedRegion {
            range: IovaRange::from_ends(Iova::new(first), Iova::new(last)).expect("in order"),
            kind,
            prot: Prot::cached(portcullis::types::Perms::READ_WRITE),
            source: RegionSource::DeviceTree,
        };
        if let Some((first, last)) = spec.reserved {
            info.firmware_regions.push(region(first, last, ReservedKind::Reserved));
        }
        if let Some(page) = self.firmware_page(spec) {
            let kind = if spec.relaxable { ReservedKind::DirectRelaxable } else { ReservedKind::Direct };
            info.firmware_regions.push(region(page, page + self.granule() - 1, kind));
        }
        info
    }

    pub(super) fn mask(&self, index: usize) -> DmaMask {
        DmaMask::new(self.devices[index].spec.mask_bits).unwrap_or(DmaMask::BITS_64)
    }

    /// Where an IOMMU is.
    pub(super) fn place(&self, unit: usize) -> Place<'_> {
        Place { hub: &self.hub, unit, registers: self.spec.units[unit].registers }
    }

    /// Notes that an address is mapped no more.
    pub(super) fn note_stale(&self, device: usize, iova: u64, freed: bool) {
        let mut stale = locked(&self.stale);
        if stale.len() == 8 {
            stale.pop_back();
        }
        stale.push_front(Stale { device, iova, freed });
    }

    /// Gives memory back that nobody can reach any more.
    pub(super) fn reclaim(&self) {
        let mut quarantine = locked(&self.quarantine);
        if quarantine.is_empty() {
            return;
        }
        let hub = &self.hub;
        let mut pool = locked(&self.pool);
        quarantine.retain(|one| {
            let waits = hub.shadow(|shadow| shadow.waits(one.space, one.token));
            if !waits {
                one.pages.iter().for_each(|&(first, count)| pool.give(first, count));
            }
            waits
        });
    }

    /// Keeps memory that may still be reached.
    pub(super) fn keep(&self, space: SpaceId, token: Token, pages: Vec<(u64, u64)>) {
        locked(&self.quarantine).push(Quarantined { space, token, pages });
    }

    /// The members of a group that are there, each with the way it has now.
    pub(super) fn members(&self, group: &GroupState) -> Vec<(usize, Way)> {
        let there = group.members.iter().copied().filter(|&member| self.device(member).is_some());
        there.map(|member| (member, self.hub.shadow(|shadow| shadow.way(member)))).collect()
    }

    /// Whether event queues lost something in an operation in which accesses can be refused.
    pub(super) fn events_were_lost(&self, kind: OpKind) {
        let units = self.units_that_lost_events();
        if apart(kind, FaultKind::EventOverflow).is_none() {
            (0..units).for_each(|_| self.hub.faults.fired_in(kind, FaultKind::EventOverflow));
        }
    }

    /// How many units have lost events since this was last asked.
    pub(super) fn units_that_lost_events(&self) -> usize {
        let each = self.units.iter().zip(&self.events_lost).map(|(unit, seen)| {
            let lost = unit.iron.events_lost();
            lost > seen.swap(lost, Relaxed)
        });
        each.filter(|&lost| lost).count()
    }

    /// Lets go of everything that holds everything else.
    pub(crate) fn dismantle(&self) {
        self.hub.dismantle();
        if let Some(sharing) = &self.sharing {
            sharing.dismantle();
        }
        self.bus.dismantle();
    }
}
