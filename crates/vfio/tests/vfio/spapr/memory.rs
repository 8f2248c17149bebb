//! Version 2: memory that is registered and unregistered.

use super::{nothing_is_left, registered};
use crate::support::{BUFFER, FakeTableGroup, Offer, PAGE, Process, power, power_alone, structure};
use core::sync::atomic::Ordering::SeqCst;
use core::time::Duration;
use portcullis_vfio::Errno;
use std::sync::{Arc, mpsc};
use std::thread;

#[test]
pub(crate) fn registered_memory_is_pinned_and_charged_once_whatever_maps_it() {
    let (world, [first, _]) = power();
    let (process, container, _) = world.tce_user(7);
    process.buffer(16);
    assert_eq!(process.register(container, BUFFER, 16 * PAGE), Ok(()));
    assert_eq!((process.memory.pinned(), process.memory.locked()), (16, 16));
    process.remove(container, 0).unwrap();
    process.create(container, 12, 1 << 24, 1).unwrap();
    let with_table = process.memory.locked();
    for iova in [0, 0x10_0000, 0x20_0000] {
        process.map(container, iova, BUFFER, 16 * PAGE, 3).unwrap();
    }
    assert_eq!((process.memory.pinned(), process.memory.locked()), (16, with_table));
    assert_eq!(first.table(0).unwrap().mapped().len(), 48);
}

#[test]
pub(crate) fn what_is_no_whole_memory_is_not_registered() {
    let (world, _) = power();
    let (process, container, _) = world.tce_user(7);
    process.buffer(16);
    let cases = [
        (24, 1, BUFFER, PAGE),
        (23, 0, BUFFER, PAGE),
        (24, 0, BUFFER + 1, PAGE),
        (24, 0, BUFFER, PAGE - 1),
        (24, 0, BUFFER, 0),
        (24, 0, u64::MAX - 0xfff, 2 * PAGE),
    ];
    for (argsz, flags, vaddr, size) in cases {
        for request in [0x3b75, 0x3b76] {
            let zero_is_unknown = request == 0x3b76 && (size == 0 || vaddr > BUFFER + PAGE);
            let done = process.ioctl_with(container, request, &structure(&[argsz, flags], &[vaddr, size]));
            // Nobody owns the container yet; after that, see the next loop.
            let wanted = if request == 0x3b76 { Errno::Eperm } else { Errno::Einval };
            assert_eq!(done, Err(wanted), "{argsz} {flags} {vaddr:#x} {size:#x} {zero_is_unknown}");
        }
    }
    process.register(container, BUFFER, PAGE).unwrap();
    for (argsz, flags, vaddr, size) in &cases[..4] {
        let done = process.ioctl_with(container, 0x3b76, &structure(&[*argsz, *flags], &[*vaddr, *size]));
        assert_eq!(done, Err(Errno::Einval));
    }
    assert_eq!(process.memory.pinned(), 1);
}

#[test]
pub(crate) fn memory_that_is_not_there_or_not_writable_is_a_fault() {
    let (world, _) = power();
    let (process, container, _) = world.tce_user(7);
    process.buffer(4);
    process.memory.populate(BUFFER + 4 * PAGE, 0x8_0000_0000, PAGE, false);
    for pages in [5, 6] {
        assert_eq!(process.register(container, BUFFER, pages * PAGE), Err(Errno::Efault));
        assert_eq!((process.memory.pinned(), process.memory.locked()), (0, 0));
    }
}

#[test]
pub(crate) fn memory_is_registered_once_in_a_container() {
    let (world, _) = power();
    let (process, container, _) = registered(&world);
    assert_eq!(process.register(container, BUFFER, 4096 * PAGE), Err(Errno::Ebusy));
    assert_eq!(process.memory.pinned(), 4096);
}

#[test]
pub(crate) fn memory_that_overlaps_other_is_refused_and_what_touches_it_is_not() {
    let (world, _) = power();
    let (process, container, _) = world.tce_user(7);
    process.buffer(16);
    process.register(container, BUFFER + 4 * PAGE, 4 * PAGE).unwrap();
    for (page, pages) in [(4, 3), (4, 5), (0, 5), (7, 1), (5, 2), (0, 16), (7, 9)] {
        let done = process.register(container, BUFFER + page * PAGE, pages * PAGE);
        assert_eq!(done, Err(Errno::Einval), "{page} {pages}");
    }
    assert_eq!(process.register(container, BUFFER, 4 * PAGE), Ok(()));
    assert_eq!(process.register(container, BUFFER + 8 * PAGE, 8 * PAGE), Ok(()));
    assert_eq!(process.memory.locked(), 16);
}

#[test]
pub(crate) fn more_than_the_limit_is_not_registered() {
    let (world, _) = power();
    let (process, container, _) = world.tce_user(7);
    process.buffer(16);
    process.memory.limit.store(15, SeqCst);
    assert_eq!(process.register(container, BUFFER, 16 * PAGE), Err(Errno::Enomem));
    assert_eq!(process.memory.pin_calls(), 0, "it is asked first");
    assert_eq!(process.register(container, BUFFER, 15 * PAGE), Ok(()));
    assert_eq!(process.register(container, BUFFER + 15 * PAGE, PAGE), Err(Errno::Enomem));
}

#[test]
pub(crate) fn what_was_registered_is_let_go() {
    let (world, _) = power();
    let (process, container, _) = registered(&world);
    assert_eq!(process.unregister(container, BUFFER, 4096 * PAGE), Ok(()));
    assert_eq!((process.memory.pinned(), process.memory.locked()), (0, 0));
    assert_eq!(process.map(container, 0, BUFFER, PAGE, 3), Err(Errno::Einval), "no more");
    assert_eq!(process.register(container, BUFFER, PAGE), Ok(()), "again, and another size");
}

#[test]
pub(crate) fn what_is_not_registered_is_not_let_go() {
    let (world, _) = power();
    let (process, container, _) = registered(&world);
    for (vaddr, size) in
        [(BUFFER, PAGE), (BUFFER + PAGE, 4095 * PAGE), (0, PAGE), (BUFFER, 4097 * PAGE), (BUFFER, 0)]
    {
        assert_eq!(process.unregister(container, vaddr, size), Err(Errno::Enoent));
    }
    assert_eq!(process.memory.pinned(), 4096);
}

#[test]
pub(crate) fn memory_that_is_mapped_stays_registered() {
    let (world, _) = power();
    let (process, container, _) = registered(&world);
    process.map(container, 0, BUFFER, 2 * PAGE, 3).unwrap();
    assert_eq!(process.unregister(container, BUFFER, 4096 * PAGE), Err(Errno::Ebusy));
    process.unmap_tce(container, 0, PAGE).unwrap();
    assert_eq!(process.unregister(container, BUFFER, 4096 * PAGE), Err(Errno::Ebusy), "one is left");
    assert_eq!(process.memory.pinned(), 4096);
    process.unmap_tce(container, PAGE, PAGE).unwrap();
    assert_eq!(process.unregister(container, BUFFER, 4096 * PAGE), Ok(()));
}

#[test]
pub(crate) fn nobody_lets_go_what_nobody_has_registered() {
    let (world, _) = power();
    let (process, container, _) = world.tce_user(7);
    assert_eq!(process.unregister(container, BUFFER, PAGE), Err(Errno::Eperm));
}

#[test]
fn two_containers_of_a_process_share_what_both_register() {
    let (world, [first, second]) = power();
    let (process, container, group) = registered(&world);
    let (other, _) = process.join(8).unwrap();
    process.ioctl(other, 0x3b66, 7).unwrap();
    assert_eq!(process.register(other, BUFFER + PAGE, PAGE), Err(Errno::Einval), "an overlap");
    process.register(other, BUFFER, 4096 * PAGE).unwrap();
    assert_eq!((process.memory.pinned(), process.memory.locked()), (4096, 4096), "pinned and charged once");
    process.map(other, 0, BUFFER, PAGE, 3).unwrap();
    assert_eq!(process.unregister(container, BUFFER, 4096 * PAGE), Ok(()), "it maps nothing of it");
    assert_eq!(process.memory.pinned(), 4096, "the other has it");
    assert_eq!(process.unregister(other, BUFFER, 4096 * PAGE), Err(Errno::Ebusy));
    process.unmap_tce(other, 0, PAGE).unwrap();
    assert_eq!(process.unregister(other, BUFFER, 4096 * PAGE), Ok(()));
    assert_eq!(process.memory.pinned(), 0);
    process.close(group);
    process.close(other);
    let memory = process.memory.clone();
    drop(process);
    assert_eq!((memory.pinned(), memory.locked()), (0, 0));
    assert!(!first.is_taken() && !second.is_taken());
}

#[test]
fn another_process_registers_the_same_addresses_for_itself() {
    let (world, _) = power();
    let (process, ..) = registered(&world);
    let other = world.process();
    other.memory.populate(BUFFER, 0x7_0000_0000, 16 * PAGE, true);
    let (container, _) = other.join(8).unwrap();
    other.ioctl(container, 0x3b66, 7).unwrap();
    assert_eq!(other.register(container, BUFFER, 16 * PAGE), Ok(()));
    assert_eq!((process.memory.pinned(), other.memory.pinned()), (4096, 16));
}

#[test]
fn a_process_that_dies_leaves_nothing() {
    let (world, group) = power_alone(Offer::OnDemand);
    let (process, container, _) = registered(&world);
    process.map(container, 0, BUFFER, 64 * PAGE, 3).unwrap();
    process.create(container, 16, 1 << 30, 2).unwrap();
    process.map(container, 0x0800_0000_0000_0000, BUFFER, 64 * PAGE, 3).unwrap();
    let memory = process.memory.clone();
    drop(process);
    assert_eq!((memory.pinned(), memory.locked(), world.vfio.reclaim()), (0, 0, 0));
    nothing_is_left(&world, &world.process(), &[&group]);
    assert_eq!(world.iommu.place(1), "domain0");
}

#[test]
fn a_process_whose_memory_takes_its_time_keeps_no_other_from_registering_its_own() {
    let (world, _) = power();
    let (slow, slows, _) = world.tce_user(7);
    let quick = world.process();
    let (quicks, _) = quick.join(8).unwrap();
    quick.ioctl(quicks, 0x3b66, 7).unwrap();
    [&slow, &quick].iter().for_each(|process| process.buffer(16));
    let (begun, begins) = mpsc::channel();
    let (done, ends) = mpsc::channel();
    let (said, heard) = mpsc::channel();
    slow.memory.while_pinned(move || {
        begun.send(()).unwrap();
        said.send(ends.recv_timeout(Duration::from_secs(10)).is_ok()).unwrap();
    });
    thread::scope(|scope| {
        scope.spawn(|| slow.register(slows, BUFFER, 16 * PAGE).unwrap());
        begins.recv().unwrap();
        quick.register(quicks, BUFFER, 16 * PAGE).unwrap();
        // If nobody waits for it any more, that is seen below.
        let _ = done.send(());
    });
    assert_eq!(heard.recv(), Ok(true), "it had to wait for another's memory");
    assert_eq!((slow.memory.pinned(), quick.memory.pinned()), (16, 16));
}

#[test]
fn memory_that_two_containers_register_at_the_same_time_is_pinned_and_charged_once() {
    // The same, and what overlaps.
    for (pages, wanted) in [(16, Ok(())), (8, Err(Errno::Einval))] {
        let (world, groups) = power();
        let process = Arc::new(world.process());
        let containers = [7, 8].map(|number| {
            let (container, _) = process.join(number).unwrap();
            process.ioctl(container, 0x3b66, 7).unwrap();
            container
        });
        process.buffer(16);
        let other = process.clone();
        process.memory.while_pinned(move || {
            other.register(containers[1], BUFFER, pages * PAGE).unwrap();
        });
        assert_eq!(process.register(containers[0], BUFFER, 16 * PAGE), wanted);
        let now = || (process.memory.pinned() as u64, process.memory.locked());
        assert_eq!(now(), (pages, pages));
        if wanted.is_ok() {
            process.unregister(containers[1], BUFFER, 16 * PAGE).unwrap();
            assert_eq!(now(), (16, 16), "the first has it still");
            process.unregister(containers[0], BUFFER, 16 * PAGE).unwrap();
        } else {
            process.unregister(containers[1], BUFFER, pages * PAGE).unwrap();
        }
        nothing_is_left_but_files(&process, &groups);
    }
}

/// Nothing is pinned or charged, and no window is there.
fn nothing_is_left_but_files(process: &Process, groups: &[Arc<FakeTableGroup>]) {
    assert_eq!((process.memory.pinned(), process.memory.locked()), (0, 0));
    assert!(groups.iter().all(|group| group.table(0).is_none()));
}
