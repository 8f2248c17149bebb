//! Processes that share their memory with devices: they map, unmap, protect, fork and exit while devices work in their memory.
//!
//! What devices reach there is judged by `checks::sva`, against processes' own tables.

use core::fmt::Debug;
use core::sync::atomic::Ordering::Relaxed;
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use model_bus::{Outcome, PageRequest, Translator};
use portcullis::core::iopf::FaultQueue;
use portcullis::core::mm::{MmId, ProcessMemory, ProcessTable};
use portcullis::core::pasid::MmPasids;
use portcullis::core::sva::{
    Bond, DeviceSvaFacts, DeviceSwitches, DisableSvaError, EnableError, EnableSvaError, NoSwitches,
    SvaDevice, SvaUnit,
};
use portcullis::hal::Platform;
use portcullis::types::{Iova, IovaRange, Pasid, Perms};
use portcullis_checks::sva::judge::Judge;
use portcullis_checks::sva::shadow::Shadow;
use portcullis_checks::sva::watched::Watched;
use portcullis_lab::boot::CpuSet;
use portcullis_lab::platform::LabPlatform;
use portcullis_lab::process::{Cores, Kernel, Mapping, Source};
use portcullis_lab::tamper::Tamper;
use portcullis_lab::trace;

use super::world::{Unit, World};
use super::{Before, Done, Pick};
use crate::fault::FaultKind;
use crate::hub::{Hub, locked};
use crate::machine::{FORGED, Form, Hungry, Move, Shared, SimPlatform, Switch};
use crate::oracle::{Way, Wrong};
use crate::promise::Promise;

type Mutexes = <SimPlatform as Platform>::Mutex;
type Bonded = Arc<Bond<SimPlatform>>;

/// What a machine has besides, where processes share.
pub(super) struct Sharing {
    pub(super) judge: Arc<Judge>,
    kernel: Arc<Kernel>,
    cpus: Cores,
    /// One for each SMMU. A process has one PASID for all of them.
    units: Vec<Arc<SvaUnit<SimPlatform>>>,
    pasids: Arc<MmPasids<Mutexes>>,
    processes: Mutex<Vec<Option<Process>>>,
    bonds: Mutex<Vec<Option<BondState>>>,
    devices: Vec<Mutex<Option<Arc<SvaDevice<SimPlatform>>>>>,
    /// What binds have left that hardware did not confirm.
    lingering: Mutex<Vec<Lingering>>,
}

/// What is left of a refused bind until hardware confirms: a PASID of a device may lead to a process's table.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Lingering {
    device: usize,
    /// The process: where its table lies another's may, once it has exited.
    mm: MmId,
    table: u64,
}

#[derive(Clone)]
struct Process {
    watched: Watched,
    areas: [Option<IovaRange>; AREAS],
}

#[derive(Clone)]
struct BondState {
    device: usize,
    bond: Bonded,
    areas: [Option<IovaRange>; AREAS],
    /// It was to be given back, and hardware did not confirm: its descriptor may be gone.
    doubt: bool,
}

impl BondState {
    /// Where a page is of one of the areas that its process had when it was bound; none if it had no such area.
    fn page(&self, number: u64) -> Option<u64> {
        let area = self.areas[usize::try_from(number).unwrap_or(0) % AREAS]?;
        Some(area.first().get() + (number << 12))
    }
}

/// Page requests of a flood.
pub(super) const FLOOD: u64 = 2000;
/// How many answers drivers keep that found no room in their queue, one of which at least is sent whenever there is some.
const MOST_UNSENT: u32 = 1 << 16;
pub(super) const AREAS: usize = 4;
pub(super) const PROCESSES: usize = 4;
pub(super) const BONDS: usize = 12;

impl Sharing {
    /// The judge in front of the SMMUs' models.
    pub(super) fn judge(bus: &Arc<model_bus::Bus>, behind: Arc<dyn Translator>, strict: bool) -> Arc<Judge> {
        Judge::new(behind, Shadow::new(bus.clone()), strict)
    }

    /// The processes' kernel, and core's side of sharing.
    pub(super) fn new<'a>(
        hub: &Arc<Hub>,
        cpus: &Cores,
        set: &CpuSet,
        judge: Arc<Judge>,
        units: impl Iterator<Item = &'a Arc<Unit>>,
        devices: usize,
        seed: u64,
    ) -> Result<Self, String> {
        let bus = &hub.bus;
        let options = set.kernel_options(seed).ok_or("the CPUs do not have the page size")?;
        let tamper: Arc<dyn Tamper> = Arc::new(Hungry(hub.clone()));
        let own = Arc::new(LabPlatform::new(bus.clone(), trace::shared(None), Some(tamper)));
        let kernel = Kernel::new(own, cpus.clone(), options).map_err(|error| format!("kernel: {error:?}"))?;
        let pasids = Arc::new(MmPasids::new());
        let shared =
            |unit: &Arc<Unit>| SvaUnit::new(unit.clone(), pasids.clone(), Arc::new(FaultQueue::new()));
        let units = units.map(shared).collect();
        Ok(Self {
            judge,
            kernel,
            cpus: cpus.clone(),
            units,
            pasids,
            processes: Mutex::new((0..PROCESSES).map(|_| None).collect()),
            bonds: Mutex::new((0..BONDS).map(|_| None).collect()),
            devices: (0..devices).map(|_| Mutex::new(None)).collect(),
            lingering: Mutex::default(),
        })
    }

    /// Takes what hardware has queued, and has every group answered.
    pub(super) fn serve(&self) {
        for unit in &self.units {
            unit.service();
            while unit.queue().work() {}
        }
    }

    pub(super) fn dismantle(&self) {
        self.cpus.dismantle();
    }

    fn process(&self, process: u8) -> Option<Process> {
        locked(&self.processes)[usize::from(process) % PROCESSES].clone()
    }

    fn bond(&self, bond: u8) -> Option<BondState> {
        locked(&self.bonds)[usize::from(bond) % BONDS].clone()
    }

    /// Whether a process has not exited.
    fn lives(&self, mm: MmId) -> bool {
        locked(&self.processes).iter().flatten().any(|process| process.watched.id() == mm)
    }

    pub(super) fn shares(&self, device: usize) -> bool {
        locked(&self.devices[device]).is_some()
    }

    /// Whether hardware has not confirmed some bind of a device, nor that it was undone.
    fn lingers(&self, device: usize) -> bool {
        locked(&self.lingering).iter().any(|one| one.device == device)
    }
}

/// Whether it is nobody's fault that groups wait still: of a device that sent several by one number, the wrong one may have been answered; of its own each has one.
fn may_be_lost(lied: bool, groups: &[u16]) -> bool {
    lied && groups.iter().all(|group| *group >= FORGED)
}

/// Where a process's table lies.
fn table_of(memory: &dyn ProcessMemory) -> u64 {
    match memory.table() {
        ProcessTable::Vmsa64 { root, .. } | ProcessTable::X86 { root, .. } => root.get(),
        _ => 0,
    }
}

impl World {
    fn turn_of_waiting(&self) {
        self.bus.step();
        if let Some(sharing) = &self.sharing {
            sharing.serve();
        }
    }

    pub(super) fn look_at_judge(&self) {
        if let Some(line) =
            self.sharing.as_ref().and_then(|sharing| sharing.judge.wrongs().into_iter().next())
        {
            self.hub.object(Wrong::from_line(&line));
        }
    }

    /// A process begins.
    pub(super) fn spawn(&self, process: u8) -> Done {
        let Some(sharing) = &self.sharing else { return Done::Skipped };
        if sharing.process(process).is_some() {
            return Done::Skipped;
        }
        let Ok(watched) = Watched::new(&sharing.kernel, &sharing.judge) else { return Done::Refused };
        let areas = [(); AREAS].map(|()| watched.map_zeroes(8 * sharing.kernel.page_bytes()).ok());
        locked(&sharing.processes)[usize::from(process) % PROCESSES] = Some(Process { watched, areas });
        Done::Succeeded
    }

    /// Some pages of an area of a process.
    fn part(&self, process: u8, area: u8, page: u8, pages: u8) -> Option<(Watched, IovaRange)> {
        let sharing = self.sharing.as_ref()?;
        let process = sharing.process(process)?;
        let area = process.areas[usize::from(area) % AREAS]?;
        let size = sharing.kernel.page_bytes();
        let first = area.first().get() + u64::from(page) % 8 * size;
        let last = (first + u64::from(pages.max(1)) * size - 1).min(area.last().get());
        Some((process.watched, IovaRange::from_ends(Iova::new(first), Iova::new(last))?))
    }

    /// A process maps where it has unmapped.
    pub(super) fn process_map(&self, process: u8, area: u8, pages: u8) -> Done {
        let Some((watched, range)) = self.part(process, area, 0, pages) else { return Done::Skipped };
        let mapping = Mapping {
            at: Some(range.first()),
            len_bytes: range.last().get() - range.first().get() + 1,
            perms: Perms::READ_WRITE,
            source: Source::Anonymous,
        };
        if watched.map(&mapping).is_ok() { Done::Succeeded } else { Done::Refused }
    }

    /// A process unmaps.
    pub(super) fn process_unmap(&self, process: u8, area: u8, page: u8, pages: u8) -> Done {
        let Some((watched, range)) = self.part(process, area, page, pages) else { return Done::Skipped };
        if watched.unmap(range).is_ok() { Done::Succeeded } else { Done::Refused }
    }

    /// A process changes permissions.
    pub(super) fn protect(&self, process: u8, area: u8, page: u8, pages: u8, perms: u8) -> Done {
        let Some((watched, range)) = self.part(process, area, page, pages) else { return Done::Skipped };
        let perms = [Perms::READ, Perms::empty(), Perms::READ_WRITE][usize::from(perms) % 3];
        if watched.protect(range, perms).is_ok() { Done::Succeeded } else { Done::Refused }
    }

    /// A process reads or writes.
    pub(super) fn touch(&self, process: u8, area: u8, page: u8, write: bool) -> Done {
        let Some((watched, range)) = self.part(process, area, page, 1) else { return Done::Skipped };
        let touched = if write {
            watched.write(range.first(), &[0x11; 16]).is_ok()
        } else {
            watched.read(range.first(), 16).is_ok()
        };
        if touched { Done::Succeeded } else { Done::Refused }
    }

    /// A process forks.
    pub(super) fn fork(&self, process: u8, child: u8) -> Done {
        let Some(sharing) = &self.sharing else { return Done::Skipped };
        let Some(parent) = sharing.process(process) else { return Done::Skipped };
        if sharing.process(child).is_some() {
            return Done::Skipped;
        }
        let Ok(watched) = parent.watched.fork() else { return Done::Refused };
        let process = Process { watched, areas: parent.areas };
        locked(&sharing.processes)[usize::from(child) % PROCESSES] = Some(process);
        Done::Succeeded
    }

    /// A process exits, whatever devices do in its memory.
    pub(super) fn exit(&self, process: u8) -> Done {
        let Some(sharing) = &self.sharing else { return Done::Skipped };
        let taken = locked(&sharing.processes)[usize::from(process) % PROCESSES].take();
        let Some(Process { watched, .. }) = taken else { return Done::Skipped };
        let bound = locked(&sharing.bonds).iter().flatten().any(|bond| bond.bond.mm().id() == watched.id());
        if bound {
            self.hub.faults.happened(FaultKind::UserDies);
        }
        watched.exit();
        Done::Succeeded
    }

    /// A device starts to share.
    pub(super) fn enable(&self, device: u8) -> Done {
        let index = self.device_index(device);
        let Some(sharing) = &self.sharing else { return Done::Skipped };
        let state = &self.devices[index];
        let Some(device) = self.device(index) else { return Done::Skipped };
        if state.engine.form == Form::Plain || sharing.shares(index) || self.group_of(index).members.len() > 1
        {
            return Done::Skipped;
        }
        let before = self.before(None);
        let switches: Arc<dyn DeviceSwitches> = match state.engine.form {
            Form::Pcie => Arc::new(Switch(state.engine.clone())),
            _ => Arc::new(NoSwitches),
        };
        let unit = &sharing.units[state.spec.unit];
        let response_pasid = self.spec.units[state.spec.unit].parts.responds_with_pasids();
        let facts = DeviceSvaFacts { response_pasid, ..state.engine.facts() };
        let enabled =
            self.in_place(index, || unit.enable(&device, &self.group_of(index).group, &facts, switches));
        match enabled {
            Ok(shared) => {
                *locked(&sharing.devices[index]) = Some(shared);
                Done::Succeeded
            }
            Err(error) => {
                self.left_blocked(
                    index,
                    matches!(error, EnableError::Driver(EnableSvaError::LeftBlocked(_))),
                );
                self.excuse(&before, &error);
                self.unwound(&before, false, &error);
                Done::Refused
            }
        }
    }

    /// The entry of a device becomes another, and the device stays where it is: meanwhile it is there, or blocked on purpose.
    fn in_place<T>(&self, index: usize, work: impl FnOnce() -> T) -> T {
        let at = self.hub.shadow(|shadow| shadow.way(index));
        self.hub.shadow(|shadow| shadow.begin_move(index, at));
        self.hub.watch(true);
        let done = work();
        self.hub.watch(false);
        self.hub.shadow(|shadow| shadow.end_move(index, at));
        done
    }

    /// Hardware left a device blocked, and its group knows.
    fn left_blocked(&self, index: usize, blocked: bool) {
        if blocked {
            self.hub.shadow(|shadow| shadow.end_move(index, Way::Blocked));
        }
    }

    /// A device shares no more.
    pub(super) fn disable(&self, device: u8) -> Done {
        let index = self.device_index(device);
        let Some(sharing) = &self.sharing else { return Done::Skipped };
        let Some(shared) = locked(&sharing.devices[index]).clone() else { return Done::Skipped };
        let before = self.before(None);
        let bonds = locked(&sharing.bonds).iter().flatten().filter(|bond| bond.device == index).count();
        let mut disabled = self.in_place(index, || shared.disable());
        if disabled.is_err() && bonds == 0 && self.gives_up(index, &shared) {
            disabled = self.in_place(index, || shared.disable());
        }
        match disabled {
            Ok(()) => {
                self.hub.hold(Promise::OneAnswer, bonds == 0, || {
                    format!("device {index} was disabled with {bonds} bonds")
                });
                *locked(&sharing.devices[index]) = None;
                locked(&sharing.lingering).retain(|one| one.device != index);
                Done::Succeeded
            }
            Err(error) => {
                self.left_blocked(index, matches!(error, DisableSvaError::LeftBlocked(_)));
                if bonds == 0 && !sharing.lingers(index) {
                    self.excuse(&before, &error);
                    let fired = self.hub.faults.count() > before.fired || self.hub.is_held();
                    self.hub.hold(Promise::Service, fired, || {
                        format!("device {index} has no bonds, and is not disabled: {error:?}")
                    });
                }
                Done::Refused
            }
        }
    }

    /// A device that does not answer its IOMMU is given up by its driver, sooner or later, and at the end for sure. Answers whether it was.
    fn gives_up(&self, index: usize, shared: &SvaDevice<SimPlatform>) -> bool {
        let mute = self.devices[index].engine.is_mute();
        mute && (self.ending.load(Relaxed) || self.hub.below(4) == 0) && self.give_up(index, shared)
    }

    /// A device is given up: it is blocked. Answers whether it was.
    fn give_up(&self, index: usize, shared: &SvaDevice<SimPlatform>) -> bool {
        let before = self.before(None);
        self.hub.shadow(|shadow| shadow.begin_move(index, Way::Blocked));
        self.hub.watch(true);
        let given_up = shared.give_up();
        self.hub.watch(false);
        let was = self.hub.shadow(|shadow| shadow.way(index));
        let at = if given_up.is_ok() { Way::Blocked } else { was };
        self.hub.shadow(|shadow| shadow.end_move(index, at));
        if let Err(error) = &given_up {
            self.excuse(&before, error);
        }
        given_up.is_ok()
    }

    /// Whether hardware has ever not confirmed something in this life: bonds may be kept for ever.
    pub(super) fn doubted(&self) -> bool {
        self.hub.faults.unconfirmed() > 0
    }

    /// Every PASID that has a descriptor in a device's table is one of its bonds', and leads to the process's table, or nowhere once that has exited.
    pub(super) fn audit_contexts(&self, index: usize, way: Option<Way>) {
        let Some(sharing) = &self.sharing else { return };
        let device = &self.devices[index];
        let entry = self.hub.entry_of(device.spec.unit, device.engine.sources[0].0);
        let (iron, place) = (&self.units[device.spec.unit].iron, self.place(device.spec.unit));
        let found = entry
            .map(|entry| self.hub.reading(|tables| iron.contexts(&place, entry, tables)))
            .unwrap_or_default();
        let bonds: Vec<BondState> =
            locked(&sharing.bonds).iter().flatten().filter(|bond| bond.device == index).cloned().collect();
        let doubt = sharing.judge.shadow(|shadow| shadow.in_doubt());
        for &(pasid, table) in &found {
            let bond = bonds.iter().find(|bond| bond.bond.pasid().get() == pasid);
            let root = bond.map(|bond| table_of(&**bond.bond.mm()));
            let left = |one: &Lingering| one.device == index && table.is_none_or(|table| table == one.table);
            let open = bond.is_some_and(|bond| sharing.lives(bond.bond.mm().id())) || doubt;
            let fits = match root {
                Some(root) => table.is_none_or(|table| table == root && open),
                None => locked(&sharing.lingering).iter().any(left),
            };
            self.hub.hold(Promise::Isolation, fits, || {
                format!("PASID {pasid} of device {index} leads to a table at {table:x?}, and its process's is at {root:x?}")
            });
        }
        // The entry of a device that is blocked leads to no table of theirs.
        let expected = bonds.iter().filter(|bond| !bond.doubt && matches!(way, Some(Way::Space(_))));
        for bond in expected {
            let pasid = bond.bond.pasid().get();
            let there = found.iter().any(|&(of, _)| of == pasid);
            self.hub.hold(Promise::Service, there, || {
                format!("device {index} is bound, and its PASID {pasid} has no descriptor")
            });
        }
    }

    /// Every PASID that is in use is that of a process that has not exited, or of a bond.
    pub(super) fn audit_pasids(&self) {
        let Some(sharing) = &self.sharing else { return };
        if self.crowded.load(Relaxed) || !locked(&sharing.lingering).is_empty() {
            return;
        }
        let processes = locked(&sharing.processes);
        let alive = processes.iter().flatten().filter_map(|one| one.watched.memory().pasid_slot().get());
        let mut owned: BTreeSet<Pasid> = alive.collect();
        drop(processes);
        owned.extend(locked(&sharing.bonds).iter().flatten().map(|bond| bond.bond.pasid()));
        let used = sharing.pasids.in_use();
        self.hub.hold(Promise::NoLeak, used == owned.len(), || {
            format!("{used} PASIDs are in use, and processes and bonds have {owned:?}")
        });
    }

    /// A process is bound to a device.
    pub(super) fn bind(&self, device: u8, process: u8, bond: u8) -> Done {
        let index = self.device_index(device);
        let Some(sharing) = &self.sharing else { return Done::Skipped };
        let Some(shared) = locked(&sharing.devices[index]).clone() else { return Done::Skipped };
        let Some(process) = sharing.process(process) else { return Done::Skipped };
        if sharing.bond(bond).is_some() {
            return Done::Skipped;
        }
        let (before, faults) = (self.before(None), sharing.judge.faults());
        let memory = process.watched.memory();
        let asked = Lingering { device: index, mm: memory.id(), table: table_of(&*memory) };
        match shared.bind(&memory) {
            Ok(bound) => {
                // What lingered of its process was undone before.
                locked(&sharing.lingering).retain(|one| *one != asked);
                let told =
                    sharing.judge.shadow(|shadow| shadow.bound(index, bound.pasid(), process.watched.id()));
                if let Err(line) = told {
                    self.hub.object(Wrong::from_line(&line));
                }
                self.hub.shadow(|shadow| shadow.check(Promise::NoReuse));
                let state = BondState { device: index, bond: bound, areas: process.areas, doubt: false };
                locked(&sharing.bonds)[usize::from(bond) % BONDS] = Some(state);
                Done::Succeeded
            }
            Err(error) => {
                if !sharing.lingers(index) {
                    self.excuse(&before, &error);
                    self.bind_unwound(&before, faults, &error);
                }
                if self.unconfirmed(&before) || self.devices[index].engine.is_mute() {
                    locked(&sharing.lingering).push(asked);
                }
                Done::Refused
            }
        }
    }

    /// A bind has failed. On its way back it handles what other devices have asked for, `faults` before it, and these pages stay.
    pub(super) fn bind_unwound(&self, before: &Before, faults: u64, error: &dyn Debug) {
        if self.faults() == faults {
            self.unwound(before, false, error);
        }
    }

    /// How many faults of devices processes were asked to handle so far.
    pub(super) fn faults(&self) -> u64 {
        self.sharing.as_ref().map_or(0, |sharing| sharing.judge.faults())
    }

    /// A bond is given back, once its device has stopped.
    pub(super) fn unbind(&self, bond: u8) -> Done {
        let Some(sharing) = &self.sharing else { return Done::Skipped };
        let Some(state) = sharing.bond(bond) else { return Done::Skipped };
        let (index, pasid) = (state.device, state.bond.pasid());
        let others = locked(&sharing.bonds)
            .iter()
            .flatten()
            .filter(|other| other.device == index && other.bond.pasid() == pasid)
            .count();
        let shared = state.bond.device().clone();
        if others == 1 {
            self.stops(&state, &shared);
        }
        let before = self.before(None);
        let mut sent = sharing.judge.invalidations();
        let mut unbound = shared.unbind(&state.bond);
        if unbound.is_err() && self.gives_up(index, &shared) {
            let before = self.hub.faults.count();
            sent = sharing.judge.invalidations();
            unbound = shared.unbind(&state.bond);
            let excused = self.hub.faults.count() > before || self.hub.is_held() || self.lies();
            self.hub.hold(Promise::NoLeak, unbound.is_ok() || excused, || {
                format!("device {index} was given up, and a bond of it is kept: {unbound:?}")
            });
        }
        match unbound {
            Ok(()) => {
                sharing.judge.confirmed_since(sent, state.bond.mm().id(), Some(index));
                locked(&sharing.bonds)[usize::from(bond) % BONDS] = None;
                if sharing.judge.shadow(|shadow| shadow.unbound(index, pasid)) {
                    self.pass(16);
                    let pending = self.unanswered(sharing, index, pasid);
                    let lied = self.devices[index].engine.has_lied();
                    let lost = may_be_lost(lied, &sharing.judge.waiting(index, pasid));
                    self.hub.hold(Promise::OneAnswer, pending.is_empty() || lost, || {
                        format!("device {index} was unbound from {pasid:?}, and waits for {pending:?}")
                    });
                    self.nothing_means(index, pasid);
                }
                Done::Succeeded
            }
            Err(error) => {
                if !self.lies() {
                    self.excuse(&before, &error);
                }
                if let Some(kept) = &mut locked(&sharing.bonds)[usize::from(bond) % BONDS] {
                    kept.doubt = true;
                }
                Done::Refused
            }
        }
    }

    /// What of a device waits for an answer in an address space, once hardware has come to the answers that it was given, and interrupts are served. Nobody gives any more: those
    /// that found no room in the queue are sent as errors are handled, as many as there is room for, and behind those to a flood. An access that was held back while the event
    /// queue was full is nobody's to answer: hardware tries it again, and ends it, once there is room.
    fn unanswered(&self, sharing: &Sharing, index: usize, pasid: Pasid) -> Vec<String> {
        let pending = || sharing.judge.pending(index, Some(pasid));
        let unit = &self.units[self.devices[index].spec.unit].unit;
        (0..MOST_UNSENT).take_while(|_| !pending().is_empty()).for_each(|_| {
            if self.hub.is_held() {
                self.hub.end();
            }
            let _errors = unit.handle_errors();
            let _events = unit.dispatch_faults();
            self.pass(16);
        });
        pending()
    }

    /// A device stops using the PASID of its last bond: most wait for what they have asked for. Some do not, and leave the last page that they ask for to whoever gives the bond
    /// back. And some hang at a page that is missing, and are given up: then they do no more.
    fn stops(&self, state: &BondState, shared: &SvaDevice<SimPlatform>) {
        let (index, pasid) = (state.device, state.bond.pasid());
        let engine = &self.devices[index].engine;
        let (kind, page, write) = (self.hub.below(8), self.hub.below(8), self.hub.below(2) == 0);
        let iova = state.page(page);
        // Only where nothing else goes wrong: whoever hangs is not to wait for what hardware does not confirm.
        let calm = !self.hub.faults.any_is_armed() && !self.hub.is_held() && !self.crowded.load(Relaxed);
        match (engine.form, iova) {
            (Form::Pcie, Some(iova)) if kind < 4 => return engine.stop_at_once(pasid, iova, write),
            (Form::Stalling, Some(iova)) if kind == 0 && calm => self.hangs(state, shared, iova, write),
            (Form::Stalling, Some(iova)) if kind < 4 => {
                let _stalled = engine.hang(pasid, iova, write);
                return;
            }
            _ => {}
        }
        engine.stop(pasid, &mut || self.turn_of_waiting());
    }

    /// A device hangs at an address, if nothing is there, and is given up.
    fn hangs(&self, state: &BondState, shared: &SvaDevice<SimPlatform>, iova: u64, write: bool) {
        let (index, engine) = (state.device, &self.devices[state.device].engine);
        let before = self.before(None);
        let Some(stall) = engine.hang(state.bond.pasid(), iova, write) else { return };
        if self.give_up(index, shared) {
            self.pass(16);
            let ended = !engine.is_busy(Some(state.bond.pasid())) || self.unconfirmed(&before);
            self.hub.hold(Promise::OneAnswer, ended, || {
                format!("device {index} is blocked, and an access of it is held back still: {stall:?}")
            });
        }
    }

    /// Whether devices of this life have sent page requests that nobody should.
    fn lies(&self) -> bool {
        self.forged.load(Relaxed) > 0
    }

    /// After the last unbind the PASID means nothing to hardware.
    fn nothing_means(&self, device: usize, pasid: Pasid) {
        self.hub.faults.fired_in(super::OpKind::SharedDma, FaultKind::DmaAfterUnbind);
        let engine = &self.devices[device].engine;
        let one = Move {
            source: engine.sources[0],
            pasid: Some(pasid),
            iova: 0x10_0000_0000,
            len: 8,
            write: false,
        };
        let outcome = engine.access(&one);
        self.hub.hold(Promise::Isolation, outcome != Outcome::Done, || {
            format!("device {device} reached something by {pasid:?}, from which it is unbound")
        });
        if let Outcome::Stalled(_) = outcome {
            self.hub.object(Wrong::new(
                Promise::OneAnswer,
                format!("{pasid:?} means nothing, and an access was held back"),
            ));
        }
        // What its ATC was not told to forget is of no use to it either.
        if let Some(at) = engine.still_holds(pasid) {
            let outcome = engine.access_translated(Some(pasid), at, false);
            self.hub.hold(Promise::NoReuse, outcome != Outcome::Done, || {
                format!(
                    "device {device} was not told to forget what {pasid:?} meant, and reached {at:#x} by it"
                )
            });
        }
    }

    /// A device works in a process's memory.
    pub(super) fn shared_dma(&self, bond: u8, area: u8, page: u8, write: bool, offset: u16) -> Done {
        let Some(sharing) = &self.sharing else { return Done::Skipped };
        let Some(state) = sharing.bond(bond) else { return Done::Skipped };
        let Some(area) = state.areas[usize::from(area) % AREAS] else { return Done::Skipped };
        let size = sharing.kernel.page_bytes();
        let iova = (area.first().get() + u64::from(page) * size + u64::from(offset) % size) & !7;
        let engine = &self.devices[state.device].engine;
        let owed = self.owes(sharing, &state, iova, write);
        let (before, lost) = (self.before(None), self.lost_so_far());
        let done = engine.work(state.bond.pasid(), iova, write, &mut || self.turn_of_waiting());
        self.hub.trace(|trace| trace.note(&[iova, done as u64]));
        let excused = self.had_reason(&before) || self.crowded(&before) || self.lost_so_far() > lost;
        // Behind a flood of an earlier operation's it may wait longer than it has patience; that whatever it asked is answered is looked at when it stops.
        self.hub.hold(Promise::Service, !owed || done != Shared::Refused || excused, || {
            let (device, pasid) = (state.device, state.bond.pasid());
            format!("device {device} was to have {iova:#x} of {pasid:?} (write {write}), and got {done:?}")
        });
        self.pages_were_lost();
        match done {
            Shared::Done => Done::Succeeded,
            Shared::Refused | Shared::Waits => Done::Refused,
        }
    }

    /// Whether a process has a page for what a device of it is about to do, and nothing is known that is in its way.
    fn owes(&self, sharing: &Sharing, state: &BondState, iova: u64, write: bool) -> bool {
        let (mm, engine) = (state.bond.mm().id(), &self.devices[state.device].engine);
        let wanted = if write { Perms::WRITE } else { Perms::READ };
        let has =
            |&(first, end, perms): &(u64, u64, Perms)| first <= iova && iova < end && perms.contains(wanted);
        // Where hardware did not confirm that it forgot a page, its process may get no other.
        let (areas, doubt) = sharing.judge.shadow(|shadow| (shadow.areas(mm), shadow.in_doubt()));
        let at_rest = self.hub.shadow(|shadow| shadow.at_rest(state.device));
        let asks = engine.form == Form::Stalling || engine.ats_is_on();
        let calm = !doubt && !state.doubt && matches!(at_rest, Some(Way::Space(_))) && !engine.is_busy(None);
        asks && calm && sharing.lives(mm) && areas.iter().any(has)
    }

    /// How many page requests, and events, hardware had no room for.
    fn lost_so_far(&self) -> u64 {
        self.units.iter().map(|unit| unit.iron.page_requests_lost() + unit.iron.events_lost()).sum()
    }

    /// Whether queues of page requests lost something, in the operation that is under way.
    fn pages_were_lost(&self) {
        let lost = self.units.iter().map(|unit| unit.iron.page_requests_lost()).sum();
        if lost > self.pages_lost.swap(lost, Relaxed) {
            self.hub.faults.happened(FaultKind::PageOverflow);
        }
    }

    /// A device sends page requests that nobody should.
    pub(super) fn page_requests(&self, device: u8, bits: u64, count: u8) -> Done {
        let index = self.device_index(device);
        let Some(sharing) = &self.sharing else { return Done::Skipped };
        let engine = &self.devices[index].engine;
        if engine.form != Form::Pcie || !engine.ats_is_on() {
            return Done::Skipped;
        }
        let kind = match bits >> 33 & 7 {
            0 | 1 => FaultKind::WrongPasid,
            2 => FaultKind::WrongGroup,
            3 => FaultKind::NoLast,
            4 => FaultKind::NoCredits,
            5 | 6 => FaultKind::AfterStop,
            _ => FaultKind::Flood,
        };
        self.hub.faults.fired(kind);
        if kind == FaultKind::WrongPasid {
            self.by_others(sharing, index);
        }
        (0..4).for_each(|_| self.ask_in_passing());
        self.forge_requests(sharing, index, kind, (bits, count), true);
        (0..8).for_each(|_| self.turn_of_waiting());
        self.pages_were_lost();
        Done::Succeeded
    }

    /// A device tries the PASIDs that mean something to others, and nothing to it.
    fn by_others(&self, sharing: &Sharing, index: usize) {
        let bonds: Vec<BondState> = locked(&sharing.bonds).iter().flatten().cloned().collect();
        let its: Vec<Pasid> =
            bonds.iter().filter(|bond| bond.device == index).map(|bond| bond.bond.pasid()).collect();
        for bond in bonds.iter().filter(|bond| !its.contains(&bond.bond.pasid()) && !sharing.lingers(index)) {
            let (pasid, page) = (bond.bond.pasid(), self.hub.below(8));
            let (Some(iova), engine) = (bond.page(page), &self.devices[index].engine) else { continue };
            let one =
                Move { source: engine.sources[0], pasid: Some(pasid), iova, len: 8, write: page & 1 == 0 };
            let outcome = engine.access(&one);
            self.hub.hold(Promise::Isolation, outcome != Outcome::Done, || {
                format!("device {index} is bound to no {pasid:?}, and reached {iova:#x} by it")
            });
        }
    }

    /// A device works in a process's memory, and does not wait for a page that is missing: whoever serves interrupts next finds that it asked.
    pub(super) fn ask_in_passing(&self) {
        let Some(sharing) = self.sharing.as_ref().filter(|_| !self.ending.load(Relaxed)) else { return };
        let (bond, page, write) = (self.hub.below(BONDS as u64), self.hub.below(8), self.hub.below(2) == 0);
        let Some(state) = u8::try_from(bond).ok().and_then(|bond| sharing.bond(bond)) else { return };
        let Some(iova) = state.page(page) else { return };
        let (engine, pasid) = (&self.devices[state.device].engine, state.bond.pasid());
        match engine.form {
            Form::Pcie if engine.ats_is_on() => drop(engine.begin_to_ask(pasid, iova, write)),
            Form::Stalling => drop(engine.hang(pasid, iova, write)),
            _ => {}
        }
    }

    /// Sends page requests that nobody should; whoever serves interrupts finds them.
    fn forge_requests(
        &self,
        sharing: &Sharing,
        index: usize,
        kind: FaultKind,
        (bits, count): (u64, u8),
        serves: bool,
    ) {
        let engine = &self.devices[index].engine;
        let bonds = locked(&sharing.bonds);
        let bound = bonds.iter().flatten().find(|bond| bond.device == index).map(|bond| bond.bond.pasid());
        drop(bonds);
        let page = bits & 0xffff_f000;
        let group = FORGED | u16::try_from(bits >> 40 & 0xff).expect("8 bits");
        let plain = engine.page_request(bound.or(Pasid::new(1)), page, group, bits & 1 == 0);
        self.forged.fetch_add(1, Relaxed);
        engine.lies();
        let of_number = |n: u64| PageRequest {
            iova: Iova::new(page + (n << 12)),
            group: FORGED | u16::try_from(n & 0xff).expect("8 bits"),
            ..plain
        };
        match kind {
            FaultKind::WrongGroup => {
                engine.send(&plain);
                engine.send(&PageRequest { write: true, ..plain });
            }
            FaultKind::NoLast => {
                (0..count).for_each(|_| engine.send(&PageRequest { last: false, ..plain }));
            }
            FaultKind::NoCredits => {
                (0..200).for_each(|n| engine.send(&PageRequest { iova: plain.iova, ..of_number(n) }));
            }
            FaultKind::AfterStop => {
                engine.send(&PageRequest { read: false, write: false, ..plain });
                engine.send(&plain);
            }
            FaultKind::Flood => {
                (0..FLOOD).for_each(|n| engine.send(&PageRequest { last: n & 3 == 3, ..of_number(n) }));
                // By the million only where somebody serves in between.
                let more = if serves { self.flood.swap(FLOOD, Relaxed) } else { FLOOD };
                for n in FLOOD..more {
                    engine.send(&PageRequest { last: n & 3 == 3, ..of_number(n & 0xffff) });
                    if n & 0x1f == 0x1f {
                        self.turn_of_waiting();
                    }
                }
            }
            _ => engine.send(&PageRequest { pasid: Pasid::new(0x7777), ..plain }),
        }
    }

    /// In the middle of another operation a device does what was armed. Answers whether one did.
    pub(super) fn misbehave(&self, bits: u64) -> bool {
        const REQUESTS: [FaultKind; 6] = [
            FaultKind::WrongPasid,
            FaultKind::WrongGroup,
            FaultKind::NoLast,
            FaultKind::NoCredits,
            FaultKind::AfterStop,
            FaultKind::Flood,
        ];
        let faults = &self.hub.faults;
        let count = self.devices.len();
        let first = usize::try_from(bits >> 40).unwrap_or(0);
        let mut order = (0..count).map(|offset| (first + offset) % count);
        if faults.is_armed(FaultKind::ForgedTranslated)
            // One that never has ATS: with another it may be being switched on or off, entry and device one after the other.
            && let Some(index) = order.clone().find(|&index| self.devices[index].engine.form != Form::Pcie)
            && faults.fires(FaultKind::ForgedTranslated)
        {
            let at = locked(&self.pool).some(bits >> 8);
            self.reach_by_forgery(index, at, bits & 1 == 0);
            return true;
        }
        let Some(sharing) = &self.sharing else { return false };
        let Some(index) = order.find(|&index| {
            let engine = &self.devices[index].engine;
            engine.form == Form::Pcie && engine.ats_is_on()
        }) else {
            return false;
        };
        let Some(kind) = REQUESTS.into_iter().find(|&kind| faults.is_armed(kind) && faults.fires(kind))
        else {
            return false;
        };
        self.forge_requests(sharing, index, kind, (bits, 8), false);
        self.pages_were_lost();
        true
    }

    /// A device without ATS sends accesses by addresses that nobody gave it, or that it was given while it had.
    pub(super) fn forge_translated(&self, device: u8, pick: Pick, write: bool) -> Done {
        let index = self.device_index(device);
        let engine = &self.devices[index].engine;
        if engine.ats_is_on() {
            return Done::Skipped;
        }
        let at = match pick {
            Pick::Live(page) | Pick::Edge(page) | Pick::Physical(page) => {
                locked(&self.pool).some(u64::from(page))
            }
            // What it was given while it had ATS, and was to forget.
            Pick::Stale(back) => engine
                .remembered(usize::from(back))
                .unwrap_or_else(|| locked(&self.pool).some(u64::from(back))),
            Pick::Wild(bits) => bits & 0xffff_ffff_f000,
        };
        self.hub.faults.fired(FaultKind::ForgedTranslated);
        self.reach_by_forgery(index, at, write);
        Done::Refused
    }

    fn reach_by_forgery(&self, index: usize, at: u64, write: bool) {
        let engine = &self.devices[index].engine;
        let outcome = engine.access_translated(None, at, write);
        self.refused.fetch_add(1, Relaxed);
        let spoiled = self.hub.has_flipped() && self.hub.shadow(|shadow| shadow.is_spoiled(index));
        // By its entry of before it had ATS, if ever it has.
        let late = engine.form == Form::Pcie && self.hub.shadow(|shadow| shadow.is_late(index));
        self.hub.hold(Promise::Isolation, outcome != Outcome::Done || spoiled || late, || {
            format!("device {index} has no ATS, and reached {at:#x} by an address that it made up")
        });
    }

    /// Everybody stops, and everything is given back.
    pub(super) fn end_sharing(&self) {
        let Some(sharing) = &self.sharing else { return };
        for _ in 0..32 {
            self.turn_of_waiting();
        }
        // Once every fault is over, whatever was kept for one is given back.
        let calm = !self.hub.faults.any_is_armed() && !self.hub.is_held();
        let excused = !calm || self.hub.has_flipped();
        for bond in 0..u8::try_from(BONDS).expect("few bonds") {
            let done = self.unbind(bond);
            self.hub.hold(Promise::NoLeak, done != Done::Refused || excused, || {
                format!("bond {bond} cannot be given back")
            });
        }
        for process in 0..u8::try_from(PROCESSES).expect("few processes") {
            self.exit(process);
        }
        for index in 0..self.devices.len() {
            // What devices sent meanwhile is answered, too.
            (0..16).for_each(|_| self.turn_of_waiting());
            // Answers that found no room in the queue are sent as errors are handled, as many as there is room for.
            let unit = self.devices[index].spec.unit;
            let waits = |_: &u32| !sharing.judge.pending(index, None).is_empty() && !self.hub.is_held();
            (0..256).take_while(waits).for_each(|_| {
                self.serve(unit);
            });
            let pending = sharing.judge.pending(index, None);
            // Hardware that is held back has not sent its answers yet. What it has refused is sent again.
            self.hub.hold(Promise::OneAnswer, pending.is_empty() || self.hub.is_held(), || {
                format!("device {index} waits for {pending:?}, and nothing is left to be done")
            });
            self.disable(u8::try_from(index).expect("few devices"));
        }
        let used = sharing.pasids.in_use();
        self.hub.hold(Promise::NoLeak, used == 0 || excused, || format!("{used} PASIDs are still in use"));
        let frames = sharing.judge.shadow(|shadow| shadow.freed_in_doubt());
        self.hub.hold(Promise::Reclaim, frames.is_empty(), || {
            format!("{frames:?} went to another use, and hardware never confirmed")
        });
        let of_cpus = sharing.cpus.unpredictable();
        self.hub
            .hold(Promise::Book, of_cpus.is_empty(), || format!("forbidden to a CPU: {:?}", of_cpus.first()));
        self.look_at_judge();
    }
}

/// What tests do behind the back of whoever watches.
#[cfg(test)]
impl World {
    /// The judge knows nothing of a bond any more.
    pub(super) fn judge_forgets(&self, bond: u8) {
        let sharing = self.sharing.as_ref().expect("they share");
        let state = sharing.bond(bond).expect("it is bound");
        sharing.judge.shadow(|shadow| shadow.unbound(state.device, state.bond.pasid()));
    }

    /// The judge believes that the process of a bond has a page, behind the last one of its first area. Answers the number of that page.
    pub(super) fn judge_believes_in_a_page(&self, bond: u8) -> u8 {
        let sharing = self.sharing.as_ref().expect("they share");
        let state = sharing.bond(bond).expect("it is bound");
        let end = state.areas[0].expect("it has an area").last().get() + 1;
        let (mm, perms) = (state.bond.mm().id(), Perms::READ | Perms::WRITE);
        sharing
            .judge
            .shadow(|shadow| shadow.set_area(mm, end, end + sharing.kernel.page_bytes(), Some(perms)));
        8
    }

    /// Whoever watches believes that a process has exited.
    pub(super) fn process_is_lost(&self, process: u8) {
        let sharing = self.sharing.as_ref().expect("they share");
        core::mem::forget(locked(&sharing.processes)[usize::from(process)].take());
    }

    /// Something lingers on a device of a process that has exited, whose table lay where that of another does now.
    pub(super) fn lingers_where_a_table_is(&self, device: usize, process: u8) {
        let sharing = self.sharing.as_ref().expect("they share");
        let memory = sharing.process(process).expect("it is there").watched.memory();
        let mm = MmId(memory.id().0 + 100);
        locked(&sharing.lingering).push(Lingering { device, mm, table: table_of(&*memory) });
    }

    pub(super) fn something_lingers(&self, device: usize) -> bool {
        self.sharing.as_ref().is_some_and(|sharing| sharing.lingers(device))
    }

    /// Nobody has a bond any more, and its device neither; the driver has both.
    pub(super) fn bond_is_lost(&self, bond: u8) {
        let sharing = self.sharing.as_ref().expect("they share");
        let lost = locked(&sharing.bonds)[usize::from(bond)].take().expect("it is bound");
        let device = locked(&sharing.devices[lost.device]).take();
        core::mem::forget((lost, device));
    }

    /// What the judge says of an operation on the process of a bond, or on another, and on all of its devices or on one alone, that is said to be confirmed and began after
    /// so many invalidations.
    pub(super) fn said_of(&self, bond: u8, its: bool, alone: Option<usize>, sent: u64) -> Vec<String> {
        let sharing = self.sharing.as_ref().expect("they share");
        let mm = sharing.bond(bond).expect("it is bound").bond.mm().id();
        let other = portcullis::core::mm::MmId(mm.0 + 1);
        sharing.judge.confirmed_since(sent, if its { mm } else { other }, alone);
        sharing.judge.wrongs()
    }

    /// A bond is given back, and nobody is told.
    pub(super) fn unbind_behind(&self, bond: u8) {
        let state = self.sharing.as_ref().and_then(|sharing| sharing.bond(bond)).expect("it is bound");
        self.devices[state.device].engine.stop(state.bond.pasid(), &mut || self.turn_of_waiting());
        state.bond.device().clone().unbind(&state.bond).expect("nothing is in its way");
    }
}

#[cfg(test)]
mod unit_tests {
    use super::*;

    #[test]
    fn a_device_that_lies_is_owed_an_answer_to_what_it_asks_in_earnest() {
        assert!(may_be_lost(true, &[FORGED, FORGED | 7]));
        assert!(!may_be_lost(true, &[FORGED, 7]));
        assert!(!may_be_lost(false, &[FORGED]));
    }
}
