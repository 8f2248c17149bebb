//! Binding drivers: the order of what is done, and that every failure gives back what was taken.

use core::panic::AssertUnwindSafe;
use std::panic::catch_unwind;
use std::sync::{Arc, Mutex};

use crate::support::{Bench, Call, Machine, RAM, STRICT, bench, region};
use portcullis_core::bus::{
    BindError, ConfigureError, Driver, DriverBinding, HotAddError, HotRemoveError, Place, UnbindError,
    dma_configure,
};
use portcullis_core::device::DeviceInfo;
use portcullis_core::dma::{Direction, DmaHandle};
use portcullis_core::group::{Group, GroupError};
use portcullis_core::iommu::{AddDeviceError, AttachError, ReservedKind, SyncError};
use portcullis_core::owner::{ClaimError, Errno, Owner, Released, UseError};
use portcullis_core::unit::RemoveDeviceError;
use portcullis_types::{Pa, SourceId};

type Binding = DriverBinding<Machine, &'static str>;

/// A driver or a bus that does not want.
#[derive(Debug, PartialEq, Eq)]
struct Unwilling;

fn user() -> Owner {
    Owner::new(1).unwrap()
}

fn with_group() -> (Bench, Arc<Group<Machine>>) {
    let bench = bench(STRICT);
    let group = Arc::new(Group::new(bench.machine.clone(), bench.iommu.clone(), 8, STRICT).unwrap());
    (bench, group)
}

fn plug(bench: &Bench, group: &Arc<Group<Machine>>, source: u32) -> Binding {
    let info = DeviceInfo::new(&format!("dev{source}"), &[SourceId(source)]);
    Binding::hot_add(&bench.unit, group.clone(), info).unwrap()
}

fn fine() -> Result<(), Unwilling> {
    Ok(())
}

fn bind(binding: &Binding, driver: Driver) -> Result<(), BindError<Unwilling>> {
    binding.bind(driver, fine, |_| Ok("state"))
}

#[test]
fn addressing_comes_first_then_the_claim_then_probe_and_the_cleanup_when_the_driver_is_gone() {
    let (bench, group) = with_group();
    let binding = plug(&bench, &group, 1);
    let steps = Mutex::new(Vec::new());
    let step = |what: &'static str| steps.lock().unwrap().push((what, group.ownership().count));
    let addressing = || {
        step("addressing");
        fine()
    };
    let probe = |dma: Option<DmaHandle<Machine>>| {
        step("probe");
        let dma = dma.expect("an ordinary driver is given the DMA API");
        let buffer = dma.map_single(Pa::new(RAM), 0x1000, Direction::ToDevice).unwrap();
        dma.unmap_single(buffer).unwrap();
        Ok("state")
    };
    binding.bind(Driver::new("nvme"), addressing, probe).unwrap();
    assert_eq!(binding.driver(), Some(Driver::new("nvme")));
    binding
        .unbind(|state| {
            assert_eq!(state, "state");
            step("stop");
        })
        .unwrap();
    step("gone");
    let wanted = [("addressing", 0), ("probe", 1), ("stop", 1), ("gone", 0)];
    assert_eq!(*steps.lock().unwrap(), wanted);
    assert_eq!(binding.driver(), None);
}

#[test]
fn a_bind_that_fails_at_any_step_gives_everything_back() {
    let (bench, group) = with_group();
    let binding = plug(&bench, &group, 1);
    let never = |_| panic!("not probed");
    let done = binding.bind(Driver::new("nvme"), || Err(Unwilling), never);
    assert_eq!(done, Err(BindError::Configure(ConfigureError::Addressing(Unwilling))));
    assert_eq!(done.unwrap_err().errno(), None);
    let done = binding.bind(Driver::new("nvme"), fine, |_| Err(Unwilling));
    assert_eq!(done, Err(BindError::Probe(Unwilling)));
    assert_eq!((group.ownership().count, binding.driver()), (0, None));
    group.claim_group(user()).unwrap();
    let done = binding.bind(Driver::new("nvme"), fine, never);
    assert_eq!(done, Err(BindError::Configure(ConfigureError::Use(UseError::Owned(user())))));
    assert_eq!(done.unwrap_err().errno(), Some(Errno::Ebusy));
    assert_eq!(group.ownership().count, 1);
    assert_eq!(group.release_group(user()), Ok(Released::Free));
    bind(&binding, Driver::new("nvme")).unwrap();
}

#[test]
fn a_driver_that_panics_keeps_nothing() {
    let (bench, group) = with_group();
    let binding = plug(&bench, &group, 1);
    let probe = |_| -> Result<_, Unwilling> { panic!("a driver's bug") };
    let died = catch_unwind(AssertUnwindSafe(|| binding.bind(Driver::new("nvme"), fine, probe)));
    assert!(died.is_err());
    assert_eq!(group.ownership().count, 0);
    bind(&binding, Driver::new("nvme")).unwrap();
    let died = catch_unwind(AssertUnwindSafe(|| binding.unbind(|_| panic!("another"))));
    assert!(died.is_err());
    assert_eq!((group.ownership().count, binding.driver()), (0, None));
}

#[test]
fn a_driver_that_manages_dma_is_asked_for_nothing_and_stands_in_nobodys_way() {
    let (bench, group) = with_group();
    let (port, disk) = (plug(&bench, &group, 1), plug(&bench, &group, 2));
    let probe = |dma: Option<DmaHandle<Machine>>| {
        assert!(dma.is_none());
        Ok("port")
    };
    port.bind(Driver::managing_dma("pcieport"), fine, probe).unwrap();
    assert_eq!(group.ownership().count, 0);
    group.claim_group(user()).unwrap();
    bind(&disk, Driver::managing_dma("vfio-pci")).unwrap();
    disk.unbind(|_| ()).unwrap();
    port.unbind(|_| ()).unwrap();
    assert_eq!(group.ownership().count, 1, "what was not taken is not given back");
    assert_eq!(group.release_group(user()), Ok(Released::Free));
}

#[test]
fn a_device_behind_no_iommu_is_bound_without_a_claim() {
    let binding = Binding::new(None);
    let probe = |dma: Option<DmaHandle<Machine>>| {
        assert!(dma.is_none());
        Ok("state")
    };
    binding.bind(Driver::new("rtc"), fine, probe).unwrap();
    binding.unbind(|_| ()).unwrap();
}

#[test]
fn configuring_before_there_is_a_driver_sets_up_addressing_alone() {
    let (bench, group) = with_group();
    let binding = plug(&bench, &group, 1);
    let mut set_up = false;
    let addressing = || {
        set_up = true;
        fine()
    };
    assert!(dma_configure(binding.place(), None, addressing).unwrap().is_none());
    assert!(set_up);
    assert_eq!(group.ownership().count, 0);
    let held = dma_configure(binding.place(), Some(&Driver::new("nvme")), fine).unwrap();
    assert_eq!(group.ownership().count, 1);
    drop(held);
    assert_eq!(group.ownership().count, 0);
}

#[test]
fn a_device_has_one_driver_and_is_left_alone_while_one_comes_or_goes() {
    let (bench, group) = with_group();
    let binding = plug(&bench, &group, 1);
    assert_eq!(binding.unbind(|_| panic!("nobody to stop")), Err(UnbindError::Unbound));
    let busy = || {
        assert_eq!(bind(&binding, Driver::new("other")), Err(BindError::Busy));
        assert_eq!(binding.unbind(|_| panic!("not this one's")), Err(UnbindError::Busy));
        assert_eq!(binding.hot_remove(&bench.unit, |_| panic!("nor this")), Err(HotRemoveError::Busy));
        assert_eq!(binding.driver(), None);
    };
    let probe = |_| {
        busy();
        Ok("state")
    };
    binding.bind::<Unwilling>(Driver::new("nvme"), fine, probe).unwrap();
    let bound = BindError::Bound("nvme".into());
    assert_eq!(bound.errno(), Some(Errno::Ebusy));
    assert_eq!(bind(&binding, Driver::new("other")), Err(bound));
    binding.unbind(|_| busy()).unwrap();
    assert_eq!(group.ownership().count, 0);
}

#[test]
fn a_device_that_is_unplugged_takes_its_count_along_and_cannot_come_back() {
    let (bench, group) = with_group();
    let (disk, nic) = (plug(&bench, &group, 1), plug(&bench, &group, 2));
    bind(&disk, Driver::new("nvme")).unwrap();
    bind(&nic, Driver::new("e1000")).unwrap();
    disk.hot_remove(&bench.unit, |state| assert_eq!(state, "state")).unwrap();
    assert_eq!((group.ownership().count, group.devices().len()), (1, 1));
    assert!(bench.unit.device(SourceId(1)).is_none() && bench.iommu.place(1).is_none());
    assert_eq!(bind(&disk, Driver::new("nvme")), Err(BindError::Gone));
    assert_eq!(bind(&disk, Driver::new("nvme")).unwrap_err().errno(), Some(Errno::Enodev));
    assert_eq!(disk.unbind(|_| ()), Err(UnbindError::Gone));
    assert_eq!(disk.hot_remove(&bench.unit, |_| ()), Err(HotRemoveError::Gone));
    nic.hot_remove(&bench.unit, |_| ()).unwrap();
    assert_eq!((group.ownership().count, group.devices().len()), (0, 0));
}

#[test]
fn a_device_plugged_into_a_users_group_is_the_users_and_gets_its_driver_after_the_release() {
    let (bench, group) = with_group();
    let _disk = plug(&bench, &group, 1);
    group.claim_group(user()).unwrap();
    let late = plug(&bench, &group, 2);
    assert_eq!(bench.iommu.place(2).unwrap(), "blocked");
    assert!(bind(&late, Driver::new("e1000")).is_err());
    assert_eq!(group.release_group(user()), Ok(Released::Free));
    bind(&late, Driver::new("e1000")).unwrap();
    assert!(matches!(group.claim_group(user()), Err(ClaimError::KernelUses(_))));
}

#[test]
fn a_device_that_is_refused_when_plugged_leaves_nothing() {
    let (bench, group) = with_group();
    let info = || DeviceInfo::new("dev1", &[SourceId(1)]);
    let add = |info| Binding::hot_add(&bench.unit, group.clone(), info).map(drop);
    let error = AttachError::Sync(SyncError::Failed { code: 1 });
    let refused = GroupError::Attach { device: "dev1".into(), error };
    bench.iommu.fail(Call::AddDevice, 0, 1);
    assert_eq!(add(info()), Err(HotAddError::Unit(AddDeviceError::NoMemory)));
    bench.iommu.fail(Call::Attach, 0, 1);
    assert_eq!(add(info()), Err(HotAddError::Group(refused.clone())));
    assert!(bench.iommu.place(1).is_none() && group.devices().is_empty());
    bench.iommu.fail(Call::Attach, 0, 1);
    bench.iommu.fail(Call::RemoveDevice, 0, 1);
    let kept = RemoveDeviceError::Sync(SyncError::Failed { code: 1 });
    assert_eq!(add(info()), Err(HotAddError::Stranded(refused, kept)));
    assert_eq!(bench.iommu.place(1).unwrap(), "blocked");
    group.claim_group(user()).unwrap();
    let mut firmwares = DeviceInfo::new("dev2", &[SourceId(2)]);
    firmwares.firmware_regions = vec![region(0x5000, 0x5fff, ReservedKind::Direct)];
    assert!(matches!(add(firmwares), Err(HotAddError::Group(GroupError::Direct { .. }))));
    assert!(bench.iommu.place(2).is_none());
}

#[test]
fn a_removal_that_hardware_refuses_is_asked_for_again() {
    let (bench, group) = with_group();
    let binding = plug(&bench, &group, 1);
    bind(&binding, Driver::new("nvme")).unwrap();
    bench.iommu.fail(Call::Attach, 0, 1);
    let refused = binding.hot_remove(&bench.unit, |_| ());
    assert!(matches!(refused, Err(HotRemoveError::Group(GroupError::Attach { .. }))));
    assert_eq!((group.ownership().count, group.devices().len(), binding.driver()), (0, 1, None));
    bench.iommu.fail(Call::RemoveDevice, 0, 1);
    assert!(matches!(binding.hot_remove(&bench.unit, |_| ()), Err(HotRemoveError::Unit(_))));
    let not_member = BindError::Configure(ConfigureError::Use(UseError::NotMember));
    assert_eq!(bind(&binding, Driver::new("nvme")), Err(not_member));
    binding.hot_remove(&bench.unit, |_| ()).unwrap();
    assert!(bench.iommu.place(1).is_none());
}

#[test]
fn a_device_that_its_user_has_claimed_stays_until_he_lets_it_go() {
    let (bench, group) = with_group();
    let binding = plug(&bench, &group, 1);
    let Place { device, .. } = binding.place().unwrap().clone();
    bind(&binding, Driver::managing_dma("vfio-pci")).unwrap();
    group.claim_device(&device, user()).unwrap();
    let refused = binding.hot_remove(&bench.unit, |_| ());
    assert_eq!(refused, Err(HotRemoveError::Group(GroupError::Held)));
    assert_eq!(group.ownership().count, 1);
    assert_eq!(group.release_device(&device, user()), Ok(Released::Free));
    binding.hot_remove(&bench.unit, |_| ()).unwrap();
}
