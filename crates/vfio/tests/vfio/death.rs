//! Files that are closed in any order, and processes that die with everything open.

use proptest::prelude::*;

use crate::support::{BUFFER, PAGE, World, world};

fn nothing_is_left(world: &World, memory: &crate::support::Process) {
    assert_eq!((memory.memory.pinned(), memory.memory.locked()), (0, 0));
    assert_eq!(world.groups[&7].ownership().count, 0);
    assert_eq!(world.iommu.place(1), "domain0");
    assert_eq!(world.disk.config(4) & 4, 0, "no requests");
    assert_eq!(world.controller.connected(), []);
    assert!(world.process().open("/dev/vfio/7").is_ok());
}

proptest! {
    #[test]
    fn whatever_the_order_in_which_files_are_closed_nothing_is_left(order in Just([0, 1, 2, 3]).prop_shuffle()) {
        let world = world();
        let (process, container, group) = world.user(3);
        let devices = [(); 2].map(|()| process.device(group, "0000:00:01.0").unwrap());
        process.buffer(8);
        process.map(container, 0x10_0000, BUFFER, 8 * PAGE, 3).unwrap();
        process.pwrite(devices[0], (7 << 40) + 4, &[6, 0]).unwrap();
        let files = [container, group, devices[0], devices[1]];
        let mut open = [true; 4];
        for file in order {
            prop_assert_eq!(process.memory.locked(), if open[1..] == [false; 3] { 0 } else { 8 }, "{:?}", open);
            process.close(files[file]);
            open[file] = false;
        }
        nothing_is_left(&world, &process);
    }
}

#[test]
fn a_process_that_dies_leaves_nothing() {
    let world = world();
    let (process, container, device) = world.driver();
    process.buffer(8);
    process.map(container, 0x10_0000, BUFFER, 8 * PAGE, 3).unwrap();
    process.pwrite(device, (7 << 40) + 4, &[6, 0]).unwrap();
    let memory = process.memory.clone();
    drop(process);
    assert_eq!((memory.pinned(), memory.locked()), (0, 0));
    nothing_is_left(&world, &world.process());
}

#[test]
fn a_driver_that_takes_its_device_back_finds_out_whether_a_user_has_it() {
    let mut world = world();
    let (process, _, device) = world.driver();
    let registered = world.registered.pop().unwrap();
    assert!(registered.is_open());
    let registered = registered.unregister().unwrap_err();
    assert!(process.pread(device, 7 << 40, 4).is_ok());
    process.close(device);
    assert!(registered.unregister().is_ok());
    assert_eq!(world.vfio.groups(), []);
    assert_eq!(world.process().open("/dev/vfio/7"), Err(portcullis_vfio::Errno::Enoent));
}

#[test]
fn a_device_that_is_taken_from_its_user_is_stopped_and_gone() {
    use portcullis_vfio::Errno::Enodev;
    let mut world = world();
    let (process, container, device) = world.driver();
    process.pwrite(device, (7 << 40) + 4, &[6, 0]).unwrap();
    world.registered.clear();
    assert_eq!(world.disk.config(4) & 4, 0, "no requests");
    assert_eq!(process.pread(device, 7 << 40, 4), Err(Enodev));
    assert_eq!(process.pwrite(device, 7 << 40, &[0; 4]), Err(Enodev));
    assert_eq!(process.mmap(device, 0, PAGE), Err(Enodev));
    for request in [0x3b6b, 0x3b6c, 0x3b6d, 0x3b6e, 0x3b6f, 0x3bff] {
        assert_eq!(process.ioctl(device, request, 0), Err(Enodev));
    }
    process.buffer(1);
    process.map(container, 0x10_0000, BUFFER, PAGE, 3).unwrap();
    drop(process);
    assert_eq!(world.groups[&7].ownership().count, 0);
}

#[test]
fn a_mapping_of_registers_keeps_the_device_open() {
    let world = world();
    let (process, _, device) = world.driver();
    let held = process.dup(device);
    drop(process);
    assert_eq!(world.groups[&7].ownership().count, 1);
    drop(held);
    assert_eq!(world.groups[&7].ownership().count, 0);
}
