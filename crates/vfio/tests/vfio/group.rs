//! Groups: viable or not, in a container or not, and their devices.

use std::sync::{Arc, Mutex};

use crate::support::{
    Call, Disk, NOWHERE, SCRATCH, World, bytes, locks_held, region, word, world, world_with,
};
use portcullis_core::bus::{Driver, DriverBinding, Place};
use portcullis_core::iommu::ReservedKind;
use portcullis_core::owner::{Errno as CoreErrno, Owner, UseError};
use portcullis_pci::{Bdf, ConfigAccess};
use portcullis_vfio::Errno;
use portcullis_vfio::pci::{PciDevice, PciParts};

const GET_STATUS: u32 = 0x3b67;
const SET_CONTAINER: u32 = 0x3b68;
const UNSET_CONTAINER: u32 = 0x3b69;
const GET_DEVICE_FD: u32 = 0x3b6a;

fn status(world: &World, process: &crate::support::Process, group: i32) -> u32 {
    let _ = world;
    word(&process.ioctl_with(group, GET_STATUS, &bytes(&[8, 0xffff_ffff])).unwrap(), 4)
}

#[test]
pub(crate) fn the_files_there_are_can_be_opened_a_group_once() {
    let world = world();
    let process = world.process();
    assert!(!world.vfio.is_open(7) && !world.vfio.is_open(8));
    let group = process.open("/dev/vfio/7").unwrap();
    assert!(world.vfio.is_open(7));
    assert_eq!(process.open("/dev/vfio/7"), Err(Errno::Ebusy));
    assert_eq!(world.process().open("/dev/vfio/7"), Err(Errno::Ebusy), "a second user");
    for path in [
        "/dev/vfio/8",
        "/dev/vfio/",
        "/dev/vfio/7x",
        "/dev/vfio",
        "7",
        "/dev/vfio/-1",
        "/dev/vfio/+7",
        "/dev/vfio/07",
        "/dev/vfio/99999999999",
    ] {
        assert_eq!(process.open(path), Err(Errno::Enoent), "{path}");
    }
    process.close(group);
    assert!(world.process().open("/dev/vfio/7").is_ok());
    assert_eq!(world.vfio.groups(), [7]);
}

#[test]
pub(crate) fn a_group_is_viable_while_nobody_has_it_and_while_it_is_in_a_container() {
    let world = world();
    let process = world.process();
    let group = process.open("/dev/vfio/7").unwrap();
    assert_eq!(status(&world, &process, group), 1);
    let container = process.open("/dev/vfio/vfio").unwrap();
    process.set_container(group, container).unwrap();
    assert_eq!(status(&world, &process, group), 3);
}

#[test]
fn a_group_that_a_kernel_driver_uses_is_not_viable() {
    let mut world = world();
    let other = world.device(7, 2, |_| ());
    world.groups[&7].use_default_domain(&other, "nvme").unwrap();
    let process = world.process();
    let group = process.open("/dev/vfio/7").unwrap();
    assert_eq!(status(&world, &process, group), 0);
    world.groups[&7].unuse_default_domain(&other).unwrap();
    assert_eq!(status(&world, &process, group), 1);
}

#[test]
fn a_group_whose_devices_were_taken_back_is_nobodys_to_claim_any_more() {
    let mut world = world();
    let process = world.process();
    let group = process.open("/dev/vfio/7").unwrap();
    let container = process.open("/dev/vfio/vfio").unwrap();
    world.registered.clear();
    assert_eq!(process.set_container(group, container), Err(Errno::Enodev));
    assert_eq!(process.ioctl_with(group, GET_STATUS, &bytes(&[8, 0])), Err(Errno::Enodev));
    assert_eq!(world.groups[&7].ownership().count, 0);
    world.groups[&7].use_default_domain(&world.devices[0], "nvme").unwrap();
}

#[test]
pub(crate) fn a_status_without_room_is_refused() {
    let world = world();
    let process = world.process();
    let group = process.open("/dev/vfio/7").unwrap();
    for argsz in [0, 7] {
        assert_eq!(process.ioctl_with(group, GET_STATUS, &bytes(&[argsz, 0])), Err(Errno::Einval));
    }
    assert_eq!(process.ioctl_with(group, GET_STATUS, &bytes(&[4096, 0])).map(|answer| answer.len()), Ok(8));
}

#[test]
pub(crate) fn a_status_that_is_nowhere_is_a_fault() {
    let world = world();
    let process = world.process();
    let group = process.open("/dev/vfio/7").unwrap();
    assert_eq!(process.ioctl(group, GET_STATUS, NOWHERE), Err(Errno::Efault));
    assert_eq!(process.ioctl(group, GET_STATUS, SCRATCH + 0xffc), Err(Errno::Efault), "half of it");
    assert_eq!(process.ioctl(group, GET_STATUS, u64::MAX - 3), Err(Errno::Efault));
    process.memory.populate(0x5_0000, 0x9_1000_0000, 0x1000, false);
    assert_eq!(process.ioctl(group, GET_STATUS, 0x5_0000), Err(Errno::Einval), "zeroes can be read");
}

#[test]
pub(crate) fn a_group_in_a_container_is_its_users_and_blocked_until_there_is_an_iommu() {
    let world = world();
    let process = world.process();
    process.join(7).unwrap();
    let now = world.groups[&7].ownership();
    assert_eq!((now.count, now.owner.is_some()), (1, true));
    assert_eq!(world.iommu.place(1), "blocked");
}

#[test]
pub(crate) fn no_file_is_no_container() {
    let world = world();
    let process = world.process();
    let group = process.open("/dev/vfio/7").unwrap();
    for fd in [-1, 60, i32::MAX, i32::MIN] {
        assert_eq!(process.set_container(group, fd), Err(Errno::Ebadf));
    }
    // Asked first, also of a group that has one.
    let container = process.open("/dev/vfio/vfio").unwrap();
    process.set_container(group, container).unwrap();
    assert_eq!(process.set_container(group, 60), Err(Errno::Ebadf));
}

#[test]
pub(crate) fn a_group_has_one_container() {
    let world = world();
    let process = world.process();
    let (container, group) = process.join(7).unwrap();
    assert_eq!(process.set_container(group, container), Err(Errno::Einval));
    let other = process.other_file();
    assert_eq!(process.set_container(group, other), Err(Errno::Einval), "that comes before what the file is");
}

#[test]
pub(crate) fn another_file_is_no_container() {
    let world = world();
    let process = world.process();
    let group = process.open("/dev/vfio/7").unwrap();
    let (event, _) = process.event();
    for fd in [process.other_file(), event, group] {
        assert_eq!(process.set_container(group, fd), Err(Errno::Ebadfd));
    }
    assert_eq!(world.groups[&7].ownership().count, 0);
}

#[test]
pub(crate) fn a_container_whose_number_is_nowhere_is_a_fault() {
    let world = world();
    let process = world.process();
    let group = process.open("/dev/vfio/7").unwrap();
    assert_eq!(process.ioctl(group, SET_CONTAINER, NOWHERE), Err(Errno::Efault));
}

#[test]
pub(crate) fn a_group_that_a_kernel_driver_uses_gets_no_container_and_it_is_said_why() {
    let mut world = world();
    let other = world.device(7, 2, |_| ());
    world.groups[&7].use_default_domain(&other, "e1000e").unwrap();
    let process = world.process();
    world.machine.events();
    assert_eq!(process.join(7), Err(Errno::Eperm));
    let told = world.machine.events();
    assert!(told.iter().any(|event| event.contains("by=0000:00:02.0 driver=e1000e")), "{told:?}");
    assert_eq!(world.iommu.place(1), "domain0");
}

#[test]
pub(crate) fn a_group_in_another_domain_than_its_default_gets_no_container() {
    let world = world();
    let elsewhere = world.groups[&7].blocked_domain().clone();
    world.groups[&7].attach(&elsewhere).unwrap();
    assert_eq!(world.process().join(7), Err(Errno::Ebusy));
}

#[test]
pub(crate) fn a_device_that_firmware_uses_is_not_for_users() {
    let direct = region(0x5000_0000, 0x5000_ffff, ReservedKind::Direct);
    let sizes = portcullis_types::PageSizes::from_bits(0x1000);
    let world = world_with(crate::support::range(0, (1 << 48) - 1), sizes, |info| {
        info.firmware_regions = vec![direct]
    });
    world.machine.events();
    assert_eq!(world.process().join(7), Err(Errno::Einval));
    let told = world.machine.events();
    let wanted = "claim: dev=0000:00:01.0 group=7 first=0x0000000050000000 last=0x000000005000ffff table=IOMMU count=0 result=refused";
    assert!(told.contains(&wanted.into()), "{told:?}");
}

#[test]
pub(crate) fn a_group_that_joins_a_container_with_an_iommu_is_attached_at_once_or_is_the_kernels_again() {
    let mut world = world();
    world.add(8, 2, |_| ()).unwrap();
    let (process, container, _) = world.user(3);
    world.hardware.fail(Call::Attach, 1, 2);
    assert_eq!(process.join_to(container, 8), Err(Errno::Eio));
    assert_eq!(
        (world.groups[&8].ownership().count, world.iommu.place(2)),
        (0, "domain1".into()),
        "its default"
    );
    process.join_to(container, 8).unwrap();
    assert_eq!(world.iommu.place(2), world.iommu.place(1));
}

#[test]
pub(crate) fn a_group_leaves_its_container_and_is_the_kernels_again() {
    let world = world();
    let (process, container, group) = world.user(3);
    assert_eq!(process.ioctl(group, UNSET_CONTAINER, 0), Ok(0));
    assert_eq!((world.groups[&7].ownership().count, world.iommu.place(1)), (0, "domain0".into()));
    assert_eq!(
        process.ioctl(container, 0x3b70, 0),
        Err(Errno::Einval),
        "the container has no IOMMU any more"
    );
    process.set_container(group, container).unwrap();
    assert_eq!(process.ioctl(container, 0x3b66, 1), Ok(0), "and may get another");
}

#[test]
pub(crate) fn a_group_without_container_cannot_leave_one() {
    let world = world();
    let process = world.process();
    let group = process.open("/dev/vfio/7").unwrap();
    assert_eq!(process.ioctl(group, UNSET_CONTAINER, 0), Err(Errno::Einval));
}

#[test]
pub(crate) fn a_group_stays_while_a_device_is_open() {
    let world = world();
    let (process, _, group) = world.user(3);
    let device = process.device(group, "0000:00:01.0").unwrap();
    assert_eq!(process.ioctl(group, UNSET_CONTAINER, 0), Err(Errno::Ebusy));
    let clone = process.dup(device);
    process.close(device);
    assert_eq!(
        process.ioctl(group, UNSET_CONTAINER, 0),
        Err(Errno::Ebusy),
        "it is open under another number"
    );
    drop(clone);
    assert_eq!(process.ioctl(group, UNSET_CONTAINER, 0), Ok(0));
}

#[test]
pub(crate) fn a_device_is_opened_by_name_as_often_as_one_likes() {
    let world = world();
    let (process, _, group) = world.user(3);
    let first = process.device(group, "0000:00:01.0").unwrap();
    let second = process.device(group, "0000:00:01.0").unwrap();
    assert_ne!(first, second);
    assert_eq!(world.disk.resets(), 1, "but made ready once");
    process.close(first);
    assert!(process.pread(second, 7 << 40, 4).is_ok());
    assert_eq!(world.disk.resets(), 1);
}

#[test]
pub(crate) fn a_device_of_another_group_or_of_another_name_is_not_there() {
    let mut world = world();
    world.add(8, 2, |_| ()).unwrap();
    world.device(7, 3, |_| ());
    let (process, _, group) = world.user(3);
    for name in ["0000:00:02.0", "0000:00:03.0", "", "0000:00:01.0 ", "\u{fc}"] {
        assert_eq!(process.device(group, name), Err(Errno::Enodev), "{name}");
    }
    let at = process.put(&[0xff, 0xfe, 0]);
    assert_eq!(process.ioctl(group, GET_DEVICE_FD, at), Err(Errno::Enodev), "not UTF-8");
}

#[test]
pub(crate) fn a_device_is_not_opened_before_there_is_an_iommu() {
    let world = world();
    let process = world.process();
    let group = process.open("/dev/vfio/7").unwrap();
    assert_eq!(process.device(group, "0000:00:01.0"), Err(Errno::Einval), "no container");
    assert_eq!(process.device(group, "nobody"), Err(Errno::Enodev), "that comes first");
    let container = process.open("/dev/vfio/vfio").unwrap();
    process.set_container(group, container).unwrap();
    assert_eq!(process.device(group, "0000:00:01.0"), Err(Errno::Einval), "no IOMMU");
    assert_eq!(world.disk.resets(), 0);
}

#[test]
pub(crate) fn a_name_that_is_nowhere_is_a_fault_and_one_without_end_is_none() {
    let world = world();
    let (process, _, group) = world.user(3);
    assert_eq!(process.ioctl(group, GET_DEVICE_FD, NOWHERE), Err(Errno::Efault));
    let end = SCRATCH + 0x1000 - 4;
    process.put(&vec![b'a'; 0x1000]);
    assert_eq!(process.ioctl(group, GET_DEVICE_FD, end), Err(Errno::Efault), "it ends beyond the page");
    process.memory.populate(0x5_0000, 0x9_1000_0000, 0x3000, true);
    for page in 0..3 {
        portcullis_vfio::UserMemory::copy_out(&*process.memory, 0x5_0000 + page * 0x1000, &[b'a'; 0x1000])
            .unwrap();
    }
    assert_eq!(process.ioctl(group, GET_DEVICE_FD, 0x5_0000), Err(Errno::Einval));
}

#[test]
fn a_name_that_ends_with_its_page_is_read() {
    let world = world();
    let (process, _, group) = world.user(3);
    let name = b"0000:00:01.0\0";
    let at = SCRATCH + 0x1000 - name.len() as u64;
    portcullis_vfio::UserMemory::copy_out(&*process.memory, at, name).unwrap();
    assert!(process.ioctl(group, GET_DEVICE_FD, at).is_ok());
}

#[test]
pub(crate) fn a_device_for_which_there_is_no_number_is_closed_again() {
    let world = world();
    let (mut process, _, group) = world.user(3);
    process.fd_limit = 5;
    assert_eq!(process.device(group, "0000:00:01.0"), Err(Errno::Emfile));
    assert_eq!(process.ioctl(group, UNSET_CONTAINER, 0), Ok(0), "it is not open");
}

#[test]
pub(crate) fn a_device_that_does_not_answer_is_not_opened() {
    let world = world();
    let (process, _, group) = world.user(3);
    world.disk.set_config(0, u32::MAX);
    assert_eq!(process.device(group, "0000:00:01.0"), Err(Errno::Eio));
    assert_eq!(process.ioctl(group, UNSET_CONTAINER, 0), Ok(0), "it is not open");
}

#[test]
pub(crate) fn a_group_does_not_know_what_it_does_not_know() {
    let world = world();
    let process = world.process();
    let group = process.open("/dev/vfio/7").unwrap();
    for request in [0x3b64, 0x3b65, 0x3b66, 0x3b6b, 0x3b70, 0x3b71, 0x3bff, 0, u32::MAX] {
        assert_eq!(process.ioctl(group, request, 0), Err(Errno::Enotty));
    }
}

#[test]
fn while_a_user_has_a_group_no_kernel_driver_is_bound_in_it() {
    let mut world = world();
    let other = world.device(7, 2, |_| ());
    let (_process, _, _) = world.user(3);
    let group = world.groups[&7].clone();
    let binding: DriverBinding<_, ()> = DriverBinding::new(Some(Place { device: other, group }));
    let refused = binding.bind(Driver::new("nvme"), || Ok::<_, ()>(()), |_| Ok(()));
    assert_eq!(refused.unwrap_err().errno(), Some(CoreErrno::Ebusy));
    binding.bind(Driver::managing_dma("pcieport"), || Ok::<_, ()>(()), |_| Ok(())).unwrap();
}

#[test]
fn a_device_that_is_plugged_into_a_users_group_is_the_users() {
    let mut world = world();
    let (_process, _, _) = world.user(3);
    let late = world.device(7, 2, |_| ());
    assert_eq!(world.iommu.place(2), world.iommu.place(1));
    let owner: Owner = world.groups[&7].ownership().owner.unwrap();
    assert_eq!(world.groups[&7].use_default_domain(&late, "nvme"), Err(UseError::Owned(owner)));
}

#[test]
fn a_device_that_is_registered_twice_is_let_go_with_no_lock_held() {
    struct Watched(Arc<Disk>, Arc<Mutex<Vec<usize>>>);
    impl Drop for Watched {
        fn drop(&mut self) {
            self.1.lock().unwrap().push(locks_held());
        }
    }
    impl ConfigAccess for Watched {
        fn read32(&self, at: Bdf, offset: u16) -> u32 {
            ConfigAccess::read32(&*self.0, at, offset)
        }

        fn write32(&self, at: Bdf, offset: u16, value: u32) {
            ConfigAccess::write32(&*self.0, at, offset, value);
        }
    }
    let world = world();
    let held = Arc::new(Mutex::new(Vec::new()));
    let parts = PciParts {
        device: world.devices[0].clone(),
        function: world.disk.enumerated().0,
        config: Arc::new(Watched(world.disk.clone(), held.clone())),
        bars: [const { None }; 6],
        interrupts: world.controller.clone(),
    };
    let place = Place { device: world.devices[0].clone(), group: world.groups[&7].clone() };
    let second = PciDevice::new(world.machine.clone(), parts).unwrap();
    assert_eq!(world.vfio.register(&place, Arc::new(second)).err(), Some(Errno::Eexist));
    assert_eq!(*held.lock().unwrap(), [0]);
}
