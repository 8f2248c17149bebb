//! A world with users: SMMUs or a POWER8 bridge, the kernel's drivers, VFIO, and users with containers, as whoever watches sees them.
//!
//! Not here: what operations do (`files`, `type1`, `spapr`, `kernel`, `device`).

use core::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};

use model_bus::{Bus, BusOptions, Chance, Fabric, Translator};
use model_ioda2::Phb3 as PowerModel;
use portcullis::core::bus::Place;
use portcullis::core::device::{Device, DeviceInfo, DmaMask};
use portcullis::core::dma::Mapping;
use portcullis::core::domain::FlushMode;
use portcullis::core::group::{DefaultDomain, Group};
use portcullis::core::iommu::{Iommu, RegionSource, ReservedKind, ReservedRegion};
use portcullis::core::unit::IommuUnit;
use portcullis::ioda2::{AssignError, Phb3};
use portcullis::types::{Iova, IovaRange, Pa, PaRange, Perms, Prot, SourceId};
use portcullis::vfio::{Registered, Vfio};
use portcullis_lab::trace;

use super::task::{Book, PAGE, PAGES, Task};
use crate::cover::Coverage;
use crate::hub::{Hub, locked};
use crate::machine::{
    BRIDGE, Bell, BridgeRegisters, BridgeWire, DeviceSpec, Driver, Engine, Guest, SimFunction, SimPlatform,
    SimSlot, Spec, UnitSpec, draw_power,
};
use crate::options::MachineKind;
use crate::oracle::{Gate, Grant, SpaceId, Token, Way};

pub(crate) const USERS: usize = 3;
/// Containers that a user may have.
pub(super) const CONTAINERS: usize = 2;
pub(super) const SLOTS: usize = 16;
/// Pages of each slot of the kernel's drivers.
pub(super) const SLOT_PAGES: u64 = 4;

const RAM: u64 = 0x4000_0000;
const HEAP_BYTES: u64 = 0x0400_0000;
const POOL: u64 = RAM + HEAP_BYTES;
const POOL_BYTES: u64 = 0x0100_0000;
/// Where memory ends: a bound that a window around translation can have.
pub(super) const END: u64 = POOL + POOL_BYTES;
const KERNEL: u64 = POOL + USERS as u64 * PAGES * PAGE;
/// Where a window of POWER begins that is not the first.
pub(super) const SECOND: u64 = 1 << 59;

pub(super) type PowerDriver = Phb3<SimPlatform, BridgeRegisters>;

/// An IOMMU: its model and its driver.
pub(super) type UnitPair = (Arc<dyn crate::machine::Iron>, Arc<dyn Driver>);

/// What devices are behind.
pub(super) enum Iron {
    Units(Vec<UnitPair>),
    Power { model: Arc<PowerModel>, driver: Arc<PowerDriver>, registers: BridgeRegisters },
}

pub(super) struct DeviceState {
    pub(super) spec: DeviceSpec,
    pub(super) engine: Arc<Engine>,
    known: Mutex<Known>,
    pub(super) bound: AtomicBool,
}

/// How core and VFIO know a device; or knew it, if it is gone.
#[derive(Clone)]
pub(super) struct Known {
    pub(super) device: Arc<Device<SimPlatform>>,
    pub(super) function: Arc<SimFunction>,
    pub(super) at: Presence,
}

/// Whether a device is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Presence {
    /// In its group.
    In,
    /// Its IOMMU knows it, and it is in no group.
    Out,
    /// Nobody knows it.
    Gone,
}

impl DeviceState {
    pub(super) fn new(spec: DeviceSpec, engine: Arc<Engine>, known: Known) -> Self {
        Self { spec, engine, known: Mutex::new(known), bound: AtomicBool::new(false) }
    }

    pub(super) fn device(&self) -> Arc<Device<SimPlatform>> {
        locked(&self.known).device.clone()
    }

    pub(super) fn function(&self) -> Arc<SimFunction> {
        locked(&self.known).function.clone()
    }

    pub(super) fn known(&self) -> Known {
        locked(&self.known).clone()
    }

    pub(super) fn presence(&self) -> Presence {
        locked(&self.known).at
    }

    /// Where it is from now on.
    pub(super) fn is_now(&self, at: Presence) {
        locked(&self.known).at = at;
    }

    /// It has come again, as another.
    pub(super) fn is_another(&self, known: Known) {
        *locked(&self.known) = known;
    }
}

/// A group, and who has it.
pub(super) struct GroupState {
    pub(super) group: Arc<Group<SimPlatform>>,
    pub(super) unit: usize,
    pub(super) members: Vec<usize>,
    /// The kernel's space.
    pub(super) space: SpaceId,
    /// The PE, on POWER.
    pub(super) pe: Mutex<Option<u8>>,
    pub(super) held: Mutex<GroupHeld>,
}

#[derive(Clone, Debug, Default)]
pub(super) struct GroupHeld {
    /// Whose file it is.
    pub(super) opener: Option<usize>,
    /// Files that keep it open: its own and its devices'.
    pub(super) files: usize,
    pub(super) container: Option<usize>,
    /// Drivers of the kernel that are bound.
    pub(super) drivers: usize,
    /// It was given back while something failed: it may be blocked.
    pub(super) stuck: bool,
    /// Its container's domain has a place for doorbells.
    pub(super) doorbell: bool,
}

/// A window of a container.
#[derive(Clone, Copy, Debug)]
pub(super) struct Window {
    pub(super) first: u64,
    pub(super) last: u64,
    pub(super) page: u64,
    /// A removal was not confirmed.
    pub(super) closing: bool,
}

/// A mapping that a user made.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mapped {
    pub(super) len: u64,
    pub(super) state: MapState,
}

/// What is known of a mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MapState {
    /// It is there.
    Live,
    /// It was taken out, and hardware has not confirmed that it forgot: a later call does that.
    Stale,
    /// Nobody said whether it is there, or has been forgotten: a call that failed may have left it, or taken it away.
    Unknown,
}

impl Mapped {
    pub(super) fn live(len: u64) -> Self {
        Self { len, state: MapState::Live }
    }

    /// Whether it waits for hardware's word.
    pub(super) fn waits(&self) -> bool {
        self.state != MapState::Live
    }

    /// Whether it may be there or not.
    pub(super) fn is_unknown(&self) -> bool {
        self.state == MapState::Unknown
    }
}

/// A container, from when it is opened until nobody has it.
#[derive(Clone, Debug)]
pub(super) struct Container {
    pub(super) user: usize,
    pub(super) open: bool,
    pub(super) space: SpaceId,
    /// Of which kind; 0 if nobody has said.
    pub(super) kind: u64,
    pub(super) groups: Vec<usize>,
    pub(super) maps: BTreeMap<u64, Mapped>,
    pub(super) windows: [Option<Window>; 2],
    /// The default window is still to be made.
    pub(super) pending: bool,
    /// Memory that is registered: where, and how much.
    pub(super) registered: BTreeMap<u64, u64>,
    pub(super) enabled: bool,
    /// The newest token when it became of its kind: what is older is of whoever had its space before, and is not settled with what this one does. Beyond all tokens, nothing is.
    pub(super) since: Token,
    /// Hardware has not confirmed something of it.
    pub(super) doubt: bool,
}

impl Container {
    /// Whether some mapping waits for hardware's word.
    pub(super) fn waits(&self) -> bool {
        self.maps.values().any(Mapped::waits)
    }

    /// What of its mappings has an address in `first..=last`.
    pub(super) fn mapped_in(&self, first: u64, last: u64) -> Vec<(u64, Mapped)> {
        let hit = |(at, mapped): &(u64, Mapped)| *at <= last && at + (mapped.len - 1) >= first;
        self.maps.iter().map(|(&at, &mapped)| (at, mapped)).filter(hit).collect()
    }

    pub(super) fn is_spapr(&self) -> bool {
        matches!(self.kind, 2 | 7)
    }

    /// As without groups: nothing is left of what it was.
    pub(super) fn strip(&mut self) {
        let Self { user, open, space, .. } = *self;
        let doubt = self.doubt;
        *self = Self { doubt, ..Self::new(user, space) };
        self.open = open;
    }

    pub(super) fn new(user: usize, space: SpaceId) -> Self {
        Self {
            user,
            open: true,
            space,
            kind: 0,
            groups: Vec::new(),
            maps: BTreeMap::new(),
            windows: [None; 2],
            pending: false,
            registered: BTreeMap::new(),
            enabled: false,
            since: 0,
            doubt: false,
        }
    }
}

/// What a driver of the kernel's has mapped.
pub(super) struct KernelMap {
    pub(super) device: usize,
    pub(super) mapping: Mapping,
}

/// The world.
pub(crate) struct UserWorld {
    pub(super) kind: MachineKind,
    pub(super) span: u32,
    pub(super) hub: Arc<Hub>,
    pub(super) bus: Arc<Bus>,
    pub(super) iron: Iron,
    pub(super) units: Vec<Arc<IommuUnit<SimPlatform>>>,
    /// Where the registers of each SMMU are.
    pub(super) registers: Vec<u64>,
    pub(super) devices: Vec<DeviceState>,
    pub(super) groups: Vec<GroupState>,
    pub(super) platform: Arc<SimPlatform>,
    pub(super) vfio: Arc<Vfio<SimPlatform>>,
    /// By device.
    pub(super) registered: Mutex<Vec<Option<Registered<SimPlatform>>>>,
    pub(super) book: Arc<Book>,
    pub(super) users: Vec<Arc<Task>>,
    pub(super) containers: Mutex<Vec<Option<Container>>>,
    /// Spaces of containers that are gone, of which hardware has not confirmed something.
    pub(super) left: Mutex<Vec<SpaceId>>,
    pub(super) slots: Mutex<Vec<Option<KernelMap>>>,
    pub(super) stale: Mutex<VecDeque<(usize, u64)>>,
    /// Devices of which firmware lied, and which hardware did not let out of their group.
    pub(super) strays: Mutex<Vec<(usize, Arc<Device<SimPlatform>>)>>,
    /// Turns of a bridge that is there for a while.
    pub(super) guest: Arc<Guest>,
    /// An error is to be made that somebody asked for.
    pub(super) injected: AtomicBool,
    /// A device was told to work, by a store that pushed the bridge's own before it.
    pub(super) told: AtomicBool,
    pub(super) coverage: Mutex<Coverage>,
    pub(super) steps: AtomicU64,
    pub(super) refused: AtomicU64,
    /// How often all tables were held against the shadow.
    pub(super) audits: AtomicU64,
    /// Events that all SMMUs had lost when it was last looked.
    pub(super) events_lost: AtomicU64,
    /// How many users died in the middle of something.
    pub(super) died_meanwhile: AtomicU64,
    /// Whose call is under way: he waits for it himself.
    pub(super) acting: AtomicUsize,
}

fn range(first: u64, len_bytes: u64) -> PaRange {
    PaRange::new(Pa::new(first), len_bytes).expect("ranges of the machine do not wrap")
}

impl UserWorld {
    /// A machine that has booted, with all its devices.
    ///
    /// # Errors
    ///
    /// What does not come up, though nothing is in its way.
    pub(super) fn new(seed: u64, spec: &Spec, lines: bool) -> Result<Arc<Self>, String> {
        let chance = Chance::new(seed ^ 0x9053_a8e7);
        let mut options = BusOptions::new(range(RAM, END - RAM), seed);
        options.heap = vec![range(RAM, HEAP_BYTES)];
        let bus = Bus::new(&options);
        let power = spec.kind == MachineKind::Power8;
        let units: &[UnitSpec] = if power { &[] } else { &spec.units };
        let taps = units.iter().map(|unit| unit.parts.tap(unit.registers)).collect();
        let registers = units.iter().map(|unit| unit.registers).collect();
        let hub = Hub::new(bus.clone(), taps, lines);
        let platform = SimPlatform::new(hub.clone());
        let (iron, gates, iommus) =
            if power { power_up(&hub, &platform, seed)? } else { units_up(&hub, &platform, spec, seed)? };
        let units: Vec<_> =
            iommus.into_iter().map(|iommu| Arc::new(IommuUnit::new(platform.clone(), iommu))).collect();
        let vfio = Arc::new(Vfio::new(platform.clone()));
        let mut groups = Vec::new();
        for (index, &(unit, _)) in spec.groups.iter().enumerate() {
            let unit = if power { 0 } else { unit };
            let id = u32::try_from(index).expect("few groups");
            let group = Group::new(
                platform.clone(),
                units[unit].iommu().clone(),
                id,
                DefaultDomain::Dma(FlushMode::Strict),
            )
            .map_err(|error| format!("group: {error:?}"))?;
            let members: Vec<usize> =
                (0..spec.devices.len()).filter(|&device| spec.devices[device].group == index).collect();
            let space = hub.shadow(|shadow| shadow.add_space());
            let mut pe = None;
            if let Iron::Power { driver, .. } = &iron {
                let sources: Vec<SourceId> = members
                    .iter()
                    .flat_map(|&member| spec.devices[member].sources.iter().map(|&source| SourceId(source)))
                    .collect();
                pe = Some(driver.assign(&sources).map_err(|error| format!("PE: {error:?}"))?);
            }
            let group = Arc::new(group);
            groups.push(GroupState {
                group,
                unit,
                members,
                space,
                pe: Mutex::new(pe),
                held: Mutex::default(),
            });
        }
        let mut devices = Vec::new();
        let mut registered = Vec::new();
        for (index, device) in spec.devices.iter().enumerate() {
            hub.shadow(|shadow| shadow.add_device(&device.sources));
            let state = &groups[device.group];
            let gate = gates[state.unit].clone();
            let engine =
                Engine::new(&device.sources, device.form, spec.crowded, gate, bus.clone(), hub.clone());
            let info = info(index, device, power);
            let known = units[state.unit].add_device(info).map_err(|error| format!("device: {error:?}"))?;
            state.group.add_device(&known).map_err(|error| format!("group: {error:?}"))?;
            let function = SimFunction::new(engine.clone(), platform.clone(), known.clone(), bell(power))?;
            let place = Place { device: known.clone(), group: state.group.clone() };
            registered.push(Some(
                vfio.register(&place, function.clone()).map_err(|error| format!("vfio: {error:?}"))?,
            ));
            hub.shadow(|shadow| {
                shadow.end_move(index, Way::Space(state.space));
                shadow.know(index, true);
            });
            let known = Known { device: known, function, at: Presence::In };
            devices.push(DeviceState::new(device.clone(), engine, known));
        }
        if let Iron::Power { driver, .. } = &iron {
            for state in &groups {
                set_slot(driver, &devices, state).map_err(|error| format!("{error:?}"))?;
                if let Some(grant) = around(seed) {
                    hub.shadow(|shadow| shadow.grant_over(state.space, grant));
                }
            }
        }
        let guest = Arc::new(Guest::default());
        if power {
            bus.add_clocked(guest.clone());
        }
        let pages = usize::try_from(USERS as u64 * PAGES).expect("few pages");
        let book = Book::new(hub.clone(), POOL, pages);
        let limits = [120, 400, 10_000].map(|limit| limit << chance.below(2));
        let users = (0..USERS)
            .map(|user| Task::new(&hub, &book, POOL + user as u64 * PAGES * PAGE, limits[user]))
            .collect();
        Ok(Arc::new(Self {
            kind: spec.kind,
            span: spec.span,
            hub,
            bus,
            iron,
            units,
            registers,
            devices,
            groups,
            platform,
            vfio,
            registered: Mutex::new(registered),
            book,
            users,
            containers: Mutex::new((0..USERS * CONTAINERS).map(|_| None).collect()),
            left: Mutex::default(),
            slots: Mutex::new((0..SLOTS).map(|_| None).collect()),
            stale: Mutex::default(),
            strays: Mutex::default(),
            guest,
            injected: AtomicBool::new(false),
            told: AtomicBool::new(false),
            coverage: Mutex::default(),
            steps: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            audits: AtomicU64::new(0),
            events_lost: AtomicU64::new(0),
            died_meanwhile: AtomicU64::new(0),
            acting: AtomicUsize::new(USERS),
        }))
    }

    pub(super) fn is_power(&self) -> bool {
        self.kind == MachineKind::Power8
    }

    pub(super) fn step(&self) -> u64 {
        self.steps.load(Relaxed)
    }

    pub(super) fn device_index(&self, device: u8) -> usize {
        usize::from(device) % self.devices.len()
    }

    pub(super) fn group_of(&self, device: usize) -> &GroupState {
        &self.groups[self.devices[device].spec.group]
    }

    pub(super) fn mask(&self, index: usize) -> DmaMask {
        DmaMask::new(self.devices[index].spec.mask_bits).unwrap_or(DmaMask::BITS_64)
    }

    /// A container, if it is there: as it is.
    pub(super) fn container(&self, id: usize) -> Option<Container> {
        locked(&self.containers)[id].clone()
    }

    /// Whether hardware may not have confirmed what was mapped or unmapped in a container, if there is one.
    pub(super) fn is_in_doubt(&self, container: Option<usize>) -> bool {
        container.is_some_and(|id| locked(&self.containers)[id].as_ref().is_some_and(|one| one.doubt))
    }

    pub(super) fn change<T>(&self, id: usize, work: impl FnOnce(&mut Container) -> T) -> Option<T> {
        locked(&self.containers)[id].as_mut().map(work)
    }

    /// The container that a user means, and its file.
    pub(super) fn container_of(&self, user: usize, pick: u8) -> Option<(usize, i32)> {
        let place = usize::from(pick) % CONTAINERS;
        (0..CONTAINERS).find_map(|offset| {
            let id = user * CONTAINERS + (place + offset) % CONTAINERS;
            let fd = self.users[user].find(super::task::Of::Container(id))?;
            Some((id, fd))
        })
    }

    /// Where a slot of a driver of the kernel's has its memory.
    pub(super) fn slot_memory(slot: usize) -> u64 {
        KERNEL + slot as u64 * SLOT_PAGES * PAGE
    }

    pub(super) fn note_stale(&self, device: usize, iova: u64) {
        let mut stale = locked(&self.stale);
        if stale.len() == 8 {
            stale.pop_back();
        }
        stale.push_front((device, iova));
    }

    /// The devices that are in a group now.
    pub(super) fn members(&self, group: usize) -> Vec<usize> {
        let members = self.groups[group].members.iter().copied();
        members.filter(|&member| self.devices[member].presence() == Presence::In).collect()
    }

    /// All members of a group are about to go somewhere.
    pub(super) fn begin_move(&self, group: usize, to: Way) {
        let members = self.members(group);
        self.hub.shadow(|shadow| members.iter().for_each(|&member| shadow.begin_move(member, to)));
    }

    /// They are there, and hardware has confirmed it.
    pub(super) fn end_move(&self, group: usize, at: Way) {
        let members = self.members(group);
        self.hub.shadow(|shadow| {
            for member in members {
                shadow.end_move(member, at);
                shadow.arrived(member);
            }
        });
    }

    /// What was begun with a token is over, unless hardware did not confirm.
    pub(super) fn settle(&self, space: SpaceId, token: Token, confirmed: bool) {
        let now_ns = self.bus.now_ns();
        self.hub.shadow(|shadow| {
            if confirmed {
                shadow.end_unmap(space, token)
            } else {
                shadow.linger(space, token, now_ns, false)
            }
        });
    }

    pub(crate) fn dismantle(&self) {
        self.hub.dismantle();
        self.bus.dismantle();
    }
}

/// Says how the devices of a group are reset.
pub(super) fn set_slot(
    driver: &PowerDriver,
    devices: &[DeviceState],
    group: &GroupState,
) -> Result<(), AssignError> {
    let engines: Vec<_> = group.members.iter().map(|&member| devices[member].engine.clone()).collect();
    let Some(first) = engines.first().map(|engine| engine.sources[0]) else { return Ok(()) };
    driver.set_slot(first, Arc::new(SimSlot(engines)))
}

/// The way around translation that the kernel's devices have, where the bridge of this seed has one: not promised, but allowed.
fn around(seed: u64) -> Option<Grant> {
    let (_, driver) = draw_power(&Chance::new(seed ^ POWER_SALT), END);
    let last = SECOND + driver.bypass_end?.get() - 1;
    let grant = Grant {
        first: SECOND,
        last,
        pa: 0,
        read: true,
        owed_read: false,
        write: true,
        owed_write: false,
        since: 0,
    };
    Some(grant)
}

const POWER_SALT: u64 = 0x90_3e58;

type Up = (Iron, Vec<Arc<dyn Translator>>, Vec<Arc<dyn Iommu<SimPlatform>>>);

fn power_up(hub: &Arc<Hub>, platform: &Arc<SimPlatform>, seed: u64) -> Result<Up, String> {
    let (config, driver) = draw_power(&Chance::new(seed ^ POWER_SALT), END);
    let fabric: Arc<dyn Fabric> = Arc::new(BridgeWire::new(hub));
    let model = Arc::new(PowerModel::new(config, fabric, seed, trace::shared(None)));
    model.connect(&hub.bus, Pa::new(BRIDGE)).map_err(|error| error.to_string())?;
    let registers = BridgeRegisters::new(hub);
    let driver = Phb3::probe(platform.clone(), registers.clone(), driver)
        .map_err(|error| format!("probe: {error}"))?;
    let gate: Arc<dyn Translator> = Gate::new(hub.clone(), model.clone(), None);
    let iommu: Arc<dyn Iommu<SimPlatform>> = driver.clone();
    Ok((Iron::Power { model, driver, registers }, vec![gate], vec![iommu]))
}

fn units_up(hub: &Arc<Hub>, platform: &Arc<SimPlatform>, spec: &Spec, seed: u64) -> Result<Up, String> {
    let (mut units, mut gates, mut iommus) = (Vec::new(), Vec::new(), Vec::new());
    for (index, unit) in spec.units.iter().enumerate() {
        let iron = unit.build(hub, spec.coherent, seed ^ index as u64)?;
        hub.bus.add_clocked(iron.model());
        let gate: Arc<dyn Translator> = Gate::new(hub.clone(), iron.model(), None);
        gates.push(gate);
        let driver = unit.probe(index, platform, None).map_err(|error| format!("probe: {error}"))?;
        let iommu: Arc<dyn Iommu<SimPlatform>> = driver.clone();
        iommus.push(iommu);
        units.push((iron, driver));
    }
    Ok((Iron::Units(units), gates, iommus))
}

/// Where interrupts are raised.
pub(super) fn bell(power: bool) -> Bell {
    if power { Bell::Decoded } else { Bell::Mapped }
}

/// What the bus tells core of a device.
pub(super) fn info(index: usize, spec: &DeviceSpec, power: bool) -> DeviceInfo {
    let sources: Vec<SourceId> = spec.sources.iter().map(|&source| SourceId(source)).collect();
    let mut info = DeviceInfo::new(&format!("device{index}"), &sources);
    info.pci = spec.pci;
    info.isolated_interrupts = true;
    if let Some((first, last)) = spec.reserved.filter(|_| !power) {
        let range = IovaRange::from_ends(Iova::new(first), Iova::new(last)).expect("in order");
        info.firmware_regions.push(ReservedRegion {
            range,
            kind: ReservedKind::Reserved,
            prot: Prot::cached(Perms::READ_WRITE),
            source: RegionSource::DeviceTree,
        });
    }
    info
}
