//! Bonds, on an IOMMU that shares in a few lines, and whose word can be withheld. What another CPU does while a driver is at work, is done within the
//! driver's call.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use proptest::prelude::*;

use crate::support::{Call, FakeIommu, Machine, STRICT, SpinLock, locks_held, range};
use portcullis_core::device::{Device, DeviceInfo};
use portcullis_core::fault::FaultHandler;
use portcullis_core::group::{Group, GroupError};
use portcullis_core::iommu::{
    AddDeviceError, AttachError, Capabilities, DomainError, FaultRecord, GlobalError, HwDomain, Iommu,
    ReservedRegion, SyncError, Target,
};
use portcullis_core::iopf::{FaultQueue, GroupTag, PageRequest, PageResponse, ResponseCode};
use portcullis_core::mm::{
    Exited, ListenerId, MmFault, MmFaultError, MmId, MmListener, PasidSlot, PinAsidError, ProcessMemory,
    ProcessTable,
};
use portcullis_core::owner::Owner;
use portcullis_core::pasid::MmPasids;
use portcullis_core::sva::{
    AttachPasidError, BindError, Bond, DeviceSvaFacts, DeviceSwitches, DisableSvaError, Drained,
    EnableSvaError, NoSwitches, ProcessDomain, ProcessDomainError, SvaDevice, SvaIommu, SvaLimits,
    SvaRefusal, SvaUnit,
};
use portcullis_core::unit::IommuUnit;
use portcullis_types::{Iova, IovaRange, Pa, Pasid, Perms, SizeLg2, SourceId};

/// A process that can exit.
#[derive(Default)]
struct Process {
    id: u64,
    slot: PasidSlot,
    listeners: Mutex<Listeners>,
}

#[derive(Default)]
struct Listeners {
    exited: bool,
    next: u64,
    all: BTreeMap<u64, Arc<dyn MmListener>>,
}

impl core::fmt::Debug for Process {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("Process")
    }
}

impl Process {
    fn exit(&self) {
        let all = {
            let mut listeners = self.listeners.lock().unwrap();
            listeners.exited = true;
            core::mem::take(&mut listeners.all)
        };
        all.values().for_each(|listener| listener.release().unwrap());
    }
}

impl ProcessMemory for Process {
    fn id(&self) -> MmId {
        MmId(self.id)
    }

    fn pasid_slot(&self) -> &PasidSlot {
        &self.slot
    }

    fn table(&self) -> ProcessTable {
        ProcessTable::Vmsa64 {
            root: Pa::new(0x1000),
            granule: SizeLg2::KIB_4,
            input_bits: 48,
            output_bits: 48,
            large_descriptors: false,
            mair: 0xff,
        }
    }

    fn pin_asid(&self) -> Result<u16, PinAsidError> {
        Ok(1)
    }

    fn unpin_asid(&self) {}

    fn handle_fault(&self, _: &MmFault) -> Result<(), MmFaultError> {
        Ok(())
    }

    fn add_listener(&self, listener: Arc<dyn MmListener>) -> Result<ListenerId, Exited> {
        assert_eq!(locks_held(), 0, "a process may have to wait for another CPU");
        let mut listeners = self.listeners.lock().unwrap();
        if listeners.exited {
            return Err(Exited);
        }
        listeners.next += 1;
        let id = listeners.next;
        listeners.all.insert(id, listener);
        Ok(ListenerId(id))
    }

    fn remove_listener(&self, id: ListenerId) {
        assert_eq!(locks_held(), 0, "a process may have to wait for another CPU");
        let removed = self.listeners.lock().unwrap().all.remove(&id.0);
        drop(removed);
    }
}

type Meanwhile = Option<Box<dyn FnOnce() + Send>>;

/// An IOMMU whose devices can be bound.
struct Sharing {
    plain: Arc<FakeIommu>,
    /// By source and PASID: which process.
    bound: Mutex<BTreeMap<(SourceId, Pasid), MmId>>,
    /// How many changes of a PASID are not confirmed, after how many that are.
    silent: Mutex<(usize, usize)>,
    /// What somebody else does once the next change of a device is made.
    meanwhile: Mutex<Meanwhile>,
    requests: Mutex<Vec<PageRequest>>,
    responses: Mutex<Vec<PageResponse>>,
}

impl core::fmt::Debug for Sharing {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("Sharing")
    }
}

impl Sharing {
    fn changed(&self) {
        let meanwhile = self.meanwhile.lock().unwrap().take();
        meanwhile.into_iter().for_each(|act| act());
    }

    fn confirms(&self) -> Result<(), SyncError> {
        let (pass, fail) = &mut *self.silent.lock().unwrap();
        if *pass > 0 || *fail == 0 {
            *pass = pass.saturating_sub(1);
            return Ok(());
        }
        *fail -= 1;
        Err(SyncError::Failed { code: 1 })
    }

    fn meanwhile(&self, act: impl FnOnce() + Send + 'static) {
        *self.meanwhile.lock().unwrap() = Some(Box::new(act));
    }
}

impl Iommu<Machine> for Sharing {
    fn name(&self) -> &str {
        "sharing"
    }

    fn capabilities(&self) -> Capabilities {
        self.plain.capabilities()
    }

    fn add_device(&self, name: &str, sources: &[SourceId]) -> Result<(), AddDeviceError> {
        self.plain.add_device(name, sources)
    }

    fn remove_device(&self, sources: &[SourceId]) -> Result<(), SyncError> {
        self.plain.remove_device(sources)?;
        self.changed();
        Ok(())
    }

    fn new_domain(&self) -> Result<Arc<dyn HwDomain<Machine>>, DomainError> {
        self.plain.new_domain()
    }

    fn attach(&self, sources: &[SourceId], target: &Target<Machine>) -> Result<(), AttachError> {
        match target {
            // It has no tables of its own to be looked at.
            Target::Process(_) => self.plain.attach(sources, &Target::Identity),
            target => self.plain.attach(sources, target),
        }
    }

    fn reserved_regions(&self, sources: &[SourceId]) -> Vec<ReservedRegion> {
        self.plain.reserved_regions(sources)
    }

    fn drain_events(&self, to: &mut dyn FnMut(&FaultRecord)) -> usize {
        self.plain.drain_events(to)
    }

    fn handle_errors(&self) -> Vec<GlobalError> {
        Vec::new()
    }

    fn sva(&self) -> Option<&dyn SvaIommu<Machine>> {
        Some(self)
    }
}

#[derive(Debug)]
struct Shared(MmId);

impl ProcessDomain for Shared {
    fn invalidate(&self, _: IovaRange) -> Result<(), SyncError> {
        Ok(())
    }

    fn quiesce(&self) -> Result<(), SyncError> {
        Ok(())
    }

    fn as_any(&self) -> &dyn core::any::Any {
        self
    }
}

const LIMITS: SvaLimits = SvaLimits { last_pasid: Pasid::new(9).unwrap() };

impl SvaIommu<Machine> for Sharing {
    fn check(&self, _: &[SourceId], _: &DeviceSvaFacts) -> Result<SvaLimits, SvaRefusal> {
        Ok(LIMITS)
    }

    fn enable(
        &self,
        _: &[SourceId],
        _: &DeviceSvaFacts,
        _: Arc<dyn DeviceSwitches>,
    ) -> Result<SvaLimits, EnableSvaError> {
        Ok(LIMITS)
    }

    fn disable(&self, sources: &[SourceId]) -> Result<(), DisableSvaError> {
        if self.bound.lock().unwrap().keys().any(|(source, _)| sources.contains(source)) {
            return Err(DisableSvaError::PasidsInUse);
        }
        self.changed();
        Ok(())
    }

    fn new_process_domain(
        &self,
        mm: Arc<dyn ProcessMemory>,
    ) -> Result<Arc<dyn ProcessDomain>, ProcessDomainError> {
        Ok(Arc::new(Shared(mm.id())))
    }

    fn attach_pasid(
        &self,
        sources: &[SourceId],
        pasid: Pasid,
        domain: &Arc<dyn ProcessDomain>,
    ) -> Result<(), AttachPasidError> {
        let Shared(id) = domain.as_any().downcast_ref().unwrap();
        for &source in sources {
            let before = self.bound.lock().unwrap().insert((source, pasid), *id);
            assert_eq!(before, None, "{pasid:?} means a process still");
        }
        self.changed();
        self.confirms().map_err(AttachPasidError::Sync)
    }

    fn detach_pasid(&self, sources: &[SourceId], pasid: Pasid) -> Result<(), SyncError> {
        self.confirms()?;
        self.bound.lock().unwrap().retain(|(source, bound), _| !sources.contains(source) || *bound != pasid);
        Ok(())
    }

    fn drain_page_requests(&self, to: &mut dyn FnMut(Drained)) -> usize {
        let requests = core::mem::take(&mut *self.requests.lock().unwrap());
        requests.iter().for_each(|&request| to(Drained::Request(request)));
        requests.len()
    }

    fn respond(&self, response: &PageResponse) {
        self.responses.lock().unwrap().push(*response);
    }
}

struct Bench {
    iommu: Arc<Sharing>,
    unit: Arc<IommuUnit<Machine>>,
    sva: Arc<SvaUnit<Machine>>,
    pasids: Arc<MmPasids<SpinLock>>,
    device: Arc<Device<Machine>>,
    group: Arc<Group<Machine>>,
}

fn bench() -> Bench {
    let machine = Arc::new(Machine::new());
    let iommu = Arc::new(Sharing {
        plain: FakeIommu::new(range(0, (1 << 40) - 1)),
        bound: Mutex::default(),
        silent: Mutex::default(),
        meanwhile: Mutex::default(),
        requests: Mutex::default(),
        responses: Mutex::default(),
    });
    let unit = Arc::new(IommuUnit::new(machine.clone(), iommu.clone()));
    let pasids = Arc::new(MmPasids::new());
    let sva = SvaUnit::new(unit.clone(), pasids.clone(), Arc::new(FaultQueue::new()));
    let device = unit.add_device(info()).unwrap();
    let group = Arc::new(Group::new(machine, iommu.clone(), 1, STRICT).unwrap());
    group.add_device(&device).unwrap();
    Bench { iommu, unit, sva, pasids, device, group }
}

fn info() -> DeviceInfo {
    DeviceInfo::new("disk", &[SourceId(8)])
}

fn enable(
    sva: &Arc<SvaUnit<Machine>>,
    device: &Arc<Device<Machine>>,
    group: &Arc<Group<Machine>>,
) -> Arc<SvaDevice<Machine>> {
    sva.enable(device, group, &DeviceSvaFacts::default(), Arc::new(NoSwitches)).unwrap()
}

fn process() -> (Arc<Process>, Arc<dyn ProcessMemory>) {
    numbered(1)
}

fn numbered(id: u64) -> (Arc<Process>, Arc<dyn ProcessMemory>) {
    let process = Arc::new(Process { id, ..Process::default() });
    (process.clone(), process)
}

#[test]
fn a_bind_that_came_too_late_and_is_not_undone_lingers_until_it_can_be() {
    let bench = bench();
    let device = enable(&bench.sva, &bench.device, &bench.group);
    let (process, mm) = process();
    bench.iommu.meanwhile(move || process.exit());
    // The attach is confirmed.
    *bench.iommu.silent.lock().unwrap() = (1, 2);
    assert_eq!(device.bind(&mm).err(), Some(BindError::Exited));
    assert_eq!(bench.iommu.bound.lock().unwrap().len(), 1, "hardware has not said that it forgot it");
    assert_eq!(bench.pasids.in_use(), 1, "so the PASID is nobody else's");
    assert_eq!(device.disable(), Err(DisableSvaError::PasidsInUse), "it asks again, in vain");
    assert_eq!(device.disable(), Ok(()));
    assert!(bench.iommu.bound.lock().unwrap().is_empty());
    assert_eq!(bench.pasids.in_use(), 0);
}

#[test]
fn a_device_that_is_enabled_anew_while_it_is_disabled_gets_its_pages() {
    let bench = bench();
    let (sva, device, group) = (bench.sva.clone(), bench.device.clone(), bench.group.clone());
    let old = enable(&sva, &device, &group);
    let new = Arc::new(Mutex::new(None));
    let place = new.clone();
    bench.iommu.meanwhile(move || *place.lock().unwrap() = Some(enable(&sva, &device, &group)));
    old.disable().unwrap();
    let new = new.lock().unwrap().take().unwrap();
    let (_process, mm) = process();
    let bond = new.bind(&mm).unwrap();
    bench.iommu.requests.lock().unwrap().push(PageRequest {
        source: SourceId(8),
        pasid: Some(bond.pasid()),
        group: GroupTag::Prg(3),
        last: true,
        wanted: Perms::READ,
        address: Iova::new(0x5000),
    });
    bench.sva.service();
    while bench.sva.queue().work() {}
    let codes: Vec<_> = bench.iommu.responses.lock().unwrap().iter().map(|response| response.code).collect();
    assert_eq!(codes, [ResponseCode::Success]);
    new.unbind(&bond).unwrap();
}

#[test]
fn a_device_that_is_plugged_in_while_the_one_before_it_is_forgotten_is_known() {
    let bench = bench();
    bench.group.remove_device(&bench.device).unwrap();
    let unit = bench.unit.clone();
    let new = Arc::new(Mutex::new(None));
    let place = new.clone();
    bench.iommu.meanwhile(move || *place.lock().unwrap() = Some(unit.add_device(info()).unwrap()));
    bench.unit.remove_device(&bench.device).unwrap();
    let new = new.lock().unwrap().take().unwrap();
    assert!(Arc::ptr_eq(&bench.unit.device(SourceId(8)).unwrap(), &new));
}

/// What leaves a domain of a process behind, when the group is all that still holds it.
fn who_leaves_a_process(leave: impl FnOnce(&Bench)) {
    let bench = bench();
    let (process, mm) = process();
    let domain = bench.sva.domain(&mm).unwrap();
    bench.group.attach(&domain).unwrap();
    drop(domain);
    assert_eq!(process.listeners.lock().unwrap().all.len(), 1);
    leave(&bench);
    assert!(process.listeners.lock().unwrap().all.is_empty(), "nobody listens any more");
}

#[test]
fn a_process_is_left_with_no_lock_held() {
    who_leaves_a_process(|bench| bench.group.detach().unwrap());
    who_leaves_a_process(|bench| {
        bench.group.detach_device(&bench.device, None).unwrap();
    });
    who_leaves_a_process(|bench| {
        let blocked = bench.group.blocked_domain().clone();
        bench.group.attach(&blocked).unwrap();
    });
    who_leaves_a_process(|bench| {
        bench.group.remove_device(&bench.device).unwrap();
        bench.group.detach().unwrap();
    });
}

#[test]
fn a_process_that_only_a_device_was_left_in_is_left_with_no_lock_held() {
    // The device cannot go back, nor be blocked, and stays where it was not to be.
    let bench = bench();
    let second = bench.unit.add_device(DeviceInfo::new("net", &[SourceId(9)])).unwrap();
    bench.group.add_device(&second).unwrap();
    let (process, mm) = process();
    let domain = bench.sva.domain(&mm).unwrap();
    bench.iommu.plain.fail(Call::Attach, 1, 3);
    assert!(matches!(bench.group.attach(&domain), Err(GroupError::Stranded { .. })));
    drop(domain);
    assert_eq!(process.listeners.lock().unwrap().all.len(), 1);
    bench.group.remove_device(&bench.device).unwrap();
    assert!(process.listeners.lock().unwrap().all.is_empty(), "nobody listens any more");
}

#[test]
fn a_fault_handler_that_is_replaced_is_let_go_with_no_lock_held() {
    struct Handler(Arc<Mutex<Vec<usize>>>);
    impl Drop for Handler {
        fn drop(&mut self) {
            self.0.lock().unwrap().push(locks_held());
        }
    }
    impl FaultHandler<Machine> for Handler {
        fn fault(&self, _: &Device<Machine>, _: &FaultRecord) {}
    }
    let held = Arc::new(Mutex::new(Vec::new()));
    let domain = bench().group.default_domain();
    domain.set_fault_handler(Some(Arc::new(Handler(held.clone()))));
    domain.set_fault_handler(None);
    assert_eq!(*held.lock().unwrap(), [0]);
}

proptest! {
    #[test]
    fn whatever_was_not_confirmed_nothing_of_a_bond_is_left_when_hardware_answers(
        steps in prop::collection::vec((0..12u32, 0..2usize, 0..3usize, 0..3usize, 0..3usize), 1..60),
    ) {
        let bench = bench();
        let second = bench.unit.add_device(DeviceInfo::new("net", &[SourceId(9), SourceId(10)])).unwrap();
        let plain = Group::new(bench.device.platform().clone(), bench.iommu.clone(), 2, STRICT).unwrap();
        let places = [(bench.device.clone(), bench.group.clone()), (second, Arc::new(plain))];
        places[1].1.add_device(&places[1].0).unwrap();
        let mut devices = places.each_ref().map(|(device, group)| enable(&bench.sva, device, group));
        let mut processes = [1, 2, 3].map(numbered);
        let mut next = 4;
        let mut bonds = Vec::new();
        for (kind, device, process, pass, fail) in steps {
            let (alive, mm) = processes[process].clone();
            match kind {
                0..=3 => bonds.extend(devices[device].bind(&mm)),
                4..=6 if !bonds.is_empty() => {
                    let at = (process + 3 * pass) % bonds.len();
                    let bond: Arc<Bond<Machine>> = bonds[at].clone();
                    if bond.device().unbind(&bond).is_ok() {
                        bonds.swap_remove(at);
                    }
                }
                7 => {
                    alive.exit();
                    processes[process] = numbered(next);
                    next += 1;
                }
                8 => {
                    bench.iommu.meanwhile(move || alive.exit());
                    bonds.extend(devices[device].bind(&mm));
                    *bench.iommu.meanwhile.lock().unwrap() = None;
                    if processes[process].0.listeners.lock().unwrap().exited {
                        processes[process] = numbered(next);
                        next += 1;
                    }
                }
                9 => {
                    let (core, group) = &places[device];
                    if devices[device].disable().is_ok() {
                        devices[device] = enable(&bench.sva, core, group);
                    }
                }
                _ => *bench.iommu.silent.lock().unwrap() = (pass, fail),
            }
        }
        *bench.iommu.silent.lock().unwrap() = (0, 0);
        for bond in bonds {
            prop_assert_eq!(bond.device().unbind(&bond), Ok(()));
        }
        for (device, (core, group)) in devices.iter().zip(&places) {
            prop_assert_eq!(device.disable(), Ok(()), "{}", core.name());
            let user = Owner::new(7).unwrap();
            prop_assert_eq!(group.claim_group(user), Ok(()), "no PASID of it means something");
        }
        prop_assert_eq!(&*bench.iommu.bound.lock().unwrap(), &BTreeMap::new());
        let listens = |(process, _): &(Arc<Process>, _)| process.listeners.lock().unwrap().all.len();
        // Each that was ever bound has its PASID until it exits.
        prop_assert_eq!(processes.iter().map(listens).sum::<usize>(), bench.pasids.in_use());
        processes.iter().for_each(|(process, _)| process.exit());
        prop_assert_eq!(bench.pasids.in_use(), 0);
    }
}
