//! Bonds, on an IOMMU that shares in a few lines, and whose word can be withheld. What another CPU does while a driver is at work, is done within the
//! driver's call.

mod sharing;

use core::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use proptest::prelude::*;

use crate::support::{Call, Machine, STRICT, SpinLock, locks_held, range};
use portcullis_core::device::{Device, DeviceInfo};
use portcullis_core::fault::FaultHandler;
use portcullis_core::group::{Group, GroupError};
use portcullis_core::iommu::{FaultReason, FaultRecord};
use portcullis_core::iopf::{FaultQueue, GroupTag, PageRequest, ResponseCode};
use portcullis_core::mm::ProcessMemory;
use portcullis_core::owner::{ClaimError, Owner};
use portcullis_core::pasid::MmPasids;
use portcullis_core::sva::{
    AttachPasidError, BindError, Bond, DeviceSvaFacts, DisableSvaError, EnableError, EnableSvaError,
    NoSwitches, SvaDevice, SvaUnit,
};
use portcullis_core::unit::IommuUnit;
use portcullis_hal::Clock;
use portcullis_types::{Iova, Pasid, Perms, SourceId};
use sharing::{Process, Sharing};

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
    let iommu = Sharing::new();
    let unit = Arc::new(IommuUnit::new(machine.clone(), iommu.clone()));
    let pasids = Arc::new(MmPasids::new());
    let sva = SvaUnit::new(unit.clone(), pasids.clone(), Arc::new(FaultQueue::new()));
    let device = unit.add_device(info()).unwrap();
    let group = Arc::new(Group::new(machine, iommu.clone(), 1, STRICT).unwrap());
    group.add_device(&device).unwrap();
    Bench { iommu, unit, sva, pasids, device, group }
}

impl Bench {
    /// The device asks for a page, and for no other with it.
    fn asks(&self, pasid: Option<Pasid>) {
        self.iommu.requests.lock().unwrap().push(PageRequest {
            source: SourceId(8),
            pasid,
            group: GroupTag::Prg(3),
            last: true,
            wanted: Perms::READ,
            address: Iova::new(0x5000),
        });
    }

    /// What devices were answered so far.
    fn answers(&self) -> Vec<ResponseCode> {
        self.iommu.responses.lock().unwrap().iter().map(|response| response.code).collect()
    }
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
    let process = Process::numbered(id);
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
fn a_device_has_its_place_in_the_queue_before_hardware_is_told_and_loses_it_if_that_refuses() {
    let bench = bench();
    let members = |sva: &SvaUnit<Machine>| format!("{:?}", sva.queue());
    let (sva, seen) = (bench.sva.clone(), Arc::new(Mutex::new(String::new())));
    let place = seen.clone();
    bench.iommu.meanwhile(move || *place.lock().unwrap() = members(&sva));
    *bench.iommu.silent.lock().unwrap() = (0, 1);
    let facts = DeviceSvaFacts::default();
    let refused = bench.sva.enable(&bench.device, &bench.group, &facts, Arc::new(NoSwitches));
    assert!(matches!(refused, Err(EnableError::Driver(EnableSvaError::Sync(_)))));
    assert_eq!(*seen.lock().unwrap(), "FaultQueue { members: 1, .. }");
    assert_eq!(members(&bench.sva), "FaultQueue { members: 0, .. }");
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
    bench.asks(Some(bond.pasid()));
    bench.sva.service();
    while bench.sva.queue().work() {}
    assert_eq!(bench.answers(), [ResponseCode::Success]);
    new.unbind(&bond).unwrap();
}

#[test]
fn a_device_shares_only_alone_in_its_own_group_behind_its_own_iommu() {
    let (bench, elsewhere) = (bench(), bench());
    let refused = |device: &Arc<Device<Machine>>, group: &Arc<Group<Machine>>| {
        bench.sva.enable(device, group, &DeviceSvaFacts::default(), Arc::new(NoSwitches)).err()
    };
    let second = bench.unit.add_device(DeviceInfo::new("net", &[SourceId(9)])).unwrap();
    bench.group.add_device(&second).unwrap();
    assert_eq!(refused(&bench.device, &bench.group), Some(EnableError::Shared(2)));
    bench.group.remove_device(&second).unwrap();
    let plain = Group::new(bench.device.platform().clone(), bench.iommu.clone(), 2, STRICT).unwrap();
    plain.add_device(&second).unwrap();
    assert_eq!(refused(&bench.device, &Arc::new(plain)), Some(EnableError::NotMember));
    assert_eq!(refused(&elsewhere.device, &elsewhere.group), Some(EnableError::NotMember));
    assert_eq!(refused(&bench.device, &bench.group), None);
}

#[test]
fn nobody_joins_the_group_of_a_device_that_shares_until_it_does_so_no_more() {
    let bench = bench();
    let second = bench.unit.add_device(DeviceInfo::new("net", &[SourceId(9)])).unwrap();
    let joins = || {
        let joined = bench.group.add_device(&second);
        if joined.is_ok() {
            bench.group.remove_device(&second).unwrap();
        }
        joined
    };
    *bench.iommu.silent.lock().unwrap() = (0, 1);
    let facts = DeviceSvaFacts::default();
    assert!(bench.sva.enable(&bench.device, &bench.group, &facts, Arc::new(NoSwitches)).is_err());
    assert_eq!(joins(), Ok(()), "it does not share");
    let device = enable(&bench.sva, &bench.device, &bench.group);
    let refused = || Err(GroupError::Sharing("disk".into()));
    assert_eq!(joins(), refused());
    assert_eq!(bench.iommu.plain.place(9).unwrap(), "blocked");
    // Nor does it come where others are.
    bench.group.remove_device(&bench.device).unwrap();
    bench.group.add_device(&second).unwrap();
    assert_eq!(bench.group.add_device(&bench.device), refused());
    bench.group.remove_device(&second).unwrap();
    bench.group.add_device(&bench.device).unwrap();
    device.disable().unwrap();
    assert_eq!(joins(), Ok(()));
}

#[test]
fn a_device_that_shares_joins_no_group_but_the_one_in_which_it_does() {
    let bench = bench();
    let device = enable(&bench.sva, &bench.device, &bench.group);
    bench.group.remove_device(&bench.device).unwrap();
    let other = Group::new(bench.device.platform().clone(), bench.iommu.clone(), 2, STRICT).unwrap();
    assert_eq!(other.add_device(&bench.device), Err(GroupError::Sharing("disk".into())));
    assert_eq!(bench.iommu.plain.place(8).unwrap(), "blocked");
    bench.group.add_device(&bench.device).unwrap();
    let (_process, mm) = process();
    let bond = device.bind(&mm).unwrap();
    let user = Owner::new(0x51).unwrap();
    assert_eq!(bench.group.claim_group(user), Err(ClaimError::PasidsInUse), "the group knows of it");
    device.unbind(&bond).unwrap();
    device.disable().unwrap();
    bench.group.remove_device(&bench.device).unwrap();
    other.add_device(&bench.device).unwrap();
}

#[test]
fn who_keeps_a_device_that_was_disabled_takes_nothing_from_who_enabled_it_anew() {
    let bench = bench();
    let old = enable(&bench.sva, &bench.device, &bench.group);
    old.disable().unwrap();
    let new = enable(&bench.sva, &bench.device, &bench.group);
    let (_process, mm) = process();
    assert_eq!(old.bind(&mm).err(), Some(BindError::Attach(AttachPasidError::NotEnabled)));
    assert_eq!(old.disable(), Err(DisableSvaError::NotEnabled));
    let second = bench.unit.add_device(DeviceInfo::new("net", &[SourceId(9)])).unwrap();
    assert_eq!(bench.group.add_device(&second), Err(GroupError::Sharing("disk".into())));
    let bond = new.bind(&mm).unwrap();
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
    assert_eq!(process.listener_count(), 1);
    leave(&bench);
    assert!(process.listener_count() == 0, "nobody listens any more");
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
    assert_eq!(process.listener_count(), 1);
    bench.group.remove_device(&bench.device).unwrap();
    assert!(process.listener_count() == 0, "nobody listens any more");
}

/// A device that was in the memory of a process, or was to be, and hardware has not confirmed that it is not: all have let go of the process but the driver.
fn kept_by_the_driver() -> [(Bench, Arc<Process>); 2] {
    let came = bench();
    let (process, mm) = process();
    let domain = came.sva.domain(&mm).unwrap();
    *came.iommu.leaves_blocked.lock().unwrap() = 1;
    assert!(matches!(came.group.attach(&domain), Err(GroupError::Stranded { .. })));
    drop(domain);

    let left = bench();
    let (other, mm) = numbered(2);
    let domain = left.sva.domain(&mm).unwrap();
    left.group.attach(&domain).unwrap();
    drop(domain);
    *left.iommu.leaves_blocked.lock().unwrap() = 1;
    left.group.remove_device(&left.device).unwrap();
    left.group.detach().unwrap();
    [(came, process), (left, other)]
}

/// Hardware confirms where the device is, in its group's default domain.
fn comes_to_rest(bench: &Bench) {
    if bench.device.domain().is_none() {
        bench.group.add_device(&bench.device).unwrap();
    }
    bench.group.detach().unwrap();
}

#[test]
fn a_process_tells_a_driver_that_keeps_its_domain_what_it_unmaps_and_its_exit() {
    for (bench, process) in kept_by_the_driver() {
        let forgotten = bench.iommu.forgotten.clone();
        let unmapped = range(0x5000, 0x5fff);
        process.unmaps(unmapped).unwrap();
        assert_eq!(*forgotten.ranges.lock().unwrap(), [unmapped]);
        // What hardware does not confirm is an answer like any other: the process keeps the page.
        forgotten.silent.store(true, SeqCst);
        assert!(process.unmaps(unmapped).is_err());
        forgotten.silent.store(false, SeqCst);
        process.exit();
        assert_eq!(*forgotten.exits.lock().unwrap(), [process.id()]);
        comes_to_rest(&bench);
    }
}

#[test]
fn a_process_tells_no_more_when_the_driver_has_let_go_of_its_domain() {
    type Settle = fn(&Bench);
    let ways: [Settle; 3] = [
        comes_to_rest,
        |bench| {
            let _none_if_it_is_in_no_group = bench.group.remove_device(&bench.device);
            bench.unit.remove_device(&bench.device).unwrap();
        },
        |bench| {
            // In an interrupt: nobody is told there.
            bench.unit.handle_errors();
            let (_process, mm) = numbered(9);
            bench.sva.domain(&mm).unwrap();
        },
    ];
    for settle in ways {
        for (bench, process) in kept_by_the_driver() {
            assert_eq!(process.listener_count(), 1);
            settle(&bench);
            assert!(process.listener_count() == 0, "nobody listens any more");
            process.unmaps(range(0x5000, 0x5fff)).unwrap();
            assert!(bench.iommu.forgotten.ranges.lock().unwrap().is_empty());
        }
    }
}

#[test]
fn a_process_of_which_the_driver_keeps_a_domain_is_shared_anew() {
    let [(bench, process), _] = kept_by_the_driver();
    let mm: Arc<dyn ProcessMemory> = process.clone();
    let domain = bench.sva.domain(&mm).unwrap();
    assert_eq!(process.listener_count(), 2, "the driver has one still");
    bench.group.attach(&domain).unwrap();
    assert_eq!(process.listener_count(), 1, "hardware has confirmed that it uses the other alone");
    process.unmaps(range(0x5000, 0x5fff)).unwrap();
    assert_eq!(bench.iommu.forgotten.ranges.lock().unwrap().len(), 1);
    bench.group.detach().unwrap();
    drop(domain);
    assert!(process.listener_count() == 0, "nobody listens any more");
}

#[test]
fn a_process_of_which_a_driver_keeps_a_domain_is_let_go_with_the_last_of_the_iommu() {
    for (Bench { iommu, unit, sva, pasids, device, group }, process) in kept_by_the_driver() {
        drop((unit, sva, pasids, device, group));
        assert_eq!(process.listener_count(), 1);
        drop(iommu);
        assert!(process.listener_count() == 0, "nobody listens any more");
    }
}

#[test]
fn a_process_is_not_left_by_who_brings_a_fault_though_all_others_leave_it_meanwhile() {
    let bench = bench();
    let (process, mm) = process();
    let domain = bench.sva.domain(&mm).unwrap();
    bench.group.attach(&domain).unwrap();
    let listen = Arc::new(Mutex::new(None));
    let (group, seen) = (bench.group.clone(), listen.clone());
    domain.set_fault_handler(Some(Arc::new(move |_: &Device<Machine>, _: &FaultRecord| {
        group.detach().unwrap();
        *seen.lock().unwrap() = Some(process.listener_count());
    })));
    drop(domain);
    bench.iommu.plain.faults.lock().unwrap().push(FaultRecord {
        source: Some(SourceId(8)),
        pasid: None,
        iova: None,
        access: None,
        reason: FaultReason::NotMapped,
        name: "F_TRANSLATION",
        raw: [0; 4],
    });
    assert_eq!(bench.unit.dispatch_faults(), 1);
    assert_eq!(*listen.lock().unwrap(), Some(0), "nobody listens any more while the fault is told still");
}

#[test]
fn a_device_is_not_let_go_of_by_who_passes_its_request_on() {
    let bench = bench();
    let device = enable(&bench.sva, &bench.device, &bench.group);
    let gone = Arc::new(Mutex::new(None));
    let (held, seen) = (Arc::downgrade(&device), gone.clone());
    bench.iommu.meanwhile(move || {
        drop(device);
        *seen.lock().unwrap() = Some(held.upgrade().is_none());
    });
    bench.asks(None);
    bench.sva.service();
    assert_eq!(*gone.lock().unwrap(), Some(true));
}

#[test]
fn who_keeps_a_device_that_was_removed_takes_nothing_from_the_next_with_its_sources() {
    let bench = bench();
    let old = enable(&bench.sva, &bench.device, &bench.group);
    let (_process, mm) = process();
    let bond = old.bind(&mm).unwrap();
    bench.group.remove_device(&bench.device).unwrap();
    bench.unit.remove_device(&bench.device).unwrap();
    let next = bench.unit.add_device(info()).unwrap();
    let group = Group::new(next.platform().clone(), bench.iommu.clone(), 2, STRICT).unwrap();
    let group = Arc::new(group);
    group.add_device(&next).unwrap();
    let new = enable(&bench.sva, &next, &group);
    let again = new.bind(&mm).unwrap();
    assert_eq!(again.pasid(), bond.pasid());
    assert_eq!(old.bind(&numbered(2).1).err(), Some(BindError::Attach(AttachPasidError::NotEnabled)));
    old.unbind(&bond).unwrap();
    assert_eq!(bench.iommu.bound.lock().unwrap().len(), 1, "the next one's");
    assert_eq!(old.disable(), Ok(()));
    new.unbind(&again).unwrap();
    new.disable().unwrap();
}

#[test]
fn a_pasid_is_nobody_elses_while_requests_of_it_stay_with_hardware() {
    let bench = bench();
    let device = enable(&bench.sva, &bench.device, &bench.group);
    let (_process, mm) = process();
    let bond = device.bind(&mm).unwrap();
    bench.asks(Some(bond.pasid()));
    *bench.iommu.leaves.lock().unwrap() = 3;
    device.unbind(&bond).unwrap();
    assert_eq!(bench.answers(), [ResponseCode::Success], "of the process that it was for");
}

#[test]
fn a_bond_is_not_given_back_while_a_worker_is_at_a_request_of_it() {
    let bench = bench();
    let device = enable(&bench.sva, &bench.device, &bench.group);
    let (process, mm) = process();
    let bond = device.bind(&mm).unwrap();
    let [begun, over] = [(); 2].map(|()| Arc::new(AtomicBool::new(false)));
    let machine = bench.device.platform().clone();
    let (began, ends, until_ns) = (begun.clone(), over.clone(), machine.now_ns() + 50_000);
    // Time passes only while somebody waits: for this, unless nobody does.
    process.meanwhile(move || {
        began.store(true, SeqCst);
        while machine.now_ns() < until_ns && !ends.load(SeqCst) {
            std::thread::yield_now();
        }
    });
    bench.asks(Some(bond.pasid()));
    bench.sva.service();
    let answered = std::thread::scope(|threads| {
        let worker = threads.spawn(|| bench.sva.queue().work());
        while !begun.load(SeqCst) && !worker.is_finished() {
            std::thread::yield_now();
        }
        let unbound = device.unbind(&bond);
        let answers = bench.answers();
        over.store(true, SeqCst);
        (unbound, answers)
    });
    assert_eq!(answered, (Ok(()), vec![ResponseCode::Success]));
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
                        *bench.iommu.silent.lock().unwrap() = (0, 0);
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
        let listens = |(process, _): &(Arc<Process>, _)| process.listener_count();
        // Each that was ever bound has its PASID until it exits.
        prop_assert_eq!(processes.iter().map(listens).sum::<usize>(), bench.pasids.in_use());
        processes.iter().for_each(|(process, _)| process.exit());
        prop_assert_eq!(bench.pasids.in_use(), 0);
    }
}
