//! Hardware that does not confirm, and failures at every step: nothing half done, and nothing given back too early.

use super::{nothing_is_left, ram, registered};
use crate::support::{BUFFER, Call, FakeTableGroup, PAGE, Process, World, power};
use portcullis_vfio::Errno;
use std::sync::Arc;

const WINDOW_1: u64 = 0x0800_0000_0000_0000;
const ALL: [Call; 8] = [
    Call::Take,
    Call::Release,
    Call::CreateTable,
    Call::SetWindow,
    Call::UnsetWindow,
    Call::Prepare,
    Call::Exchange,
    Call::Flush,
];

#[test]
pub(crate) fn an_unmap_that_hardware_does_not_confirm_keeps_the_memory_until_it_does() {
    let (world, _) = power();
    let (process, container, _) = registered(&world);
    process.map(container, 0, BUFFER, 4 * PAGE, 3).unwrap();
    world.hardware.fail(Call::Flush, 0, 2);
    assert_eq!(process.unmap_tce(container, 0, 4 * PAGE), Err(Errno::Eio));
    assert_eq!(
        process.unregister(container, BUFFER, 4096 * PAGE),
        Err(Errno::Ebusy),
        "it asks again, in vain"
    );
    assert_eq!(process.memory.pinned(), 4096);
    assert_eq!(
        process.unmap_tce(container, 0, 4 * PAGE),
        Ok(()),
        "nothing is mapped, and now it is confirmed"
    );
    assert_eq!(process.unregister(container, BUFFER, 4096 * PAGE), Ok(()));
}

#[test]
fn letting_memory_go_asks_hardware_again() {
    let (world, _) = power();
    let (process, container, _) = registered(&world);
    process.map(container, 0, BUFFER, 4 * PAGE, 3).unwrap();
    world.hardware.fail(Call::Flush, 0, 1);
    assert_eq!(process.unmap_tce(container, 0, 4 * PAGE), Err(Errno::Eio));
    assert_eq!(process.unregister(container, BUFFER, 4096 * PAGE), Ok(()));
    assert_eq!(process.memory.pinned(), 0);
}

#[test]
pub(crate) fn a_map_that_hardware_does_not_confirm_is_taken_back_with_what_was_there() {
    let (world, [first, _]) = power();
    let (process, container, _) = world.tce_user(7);
    process.buffer(16);
    process.register(container, BUFFER, 8 * PAGE).unwrap();
    process.register(container, BUFFER + 8 * PAGE, 8 * PAGE).unwrap();
    process.map(container, PAGE, BUFFER, PAGE, 1).unwrap();
    // The call's own, and that after taking it back.
    world.hardware.fail(Call::Flush, 0, 2);
    assert_eq!(process.map(container, 0, BUFFER + 8 * PAGE, 4 * PAGE, 3), Err(Errno::Eio));
    assert_eq!(first.table(0).unwrap().mapped(), [(0x1000, ram(0), 1)]);
    world.hardware.fail(Call::Flush, 0, 1);
    assert_eq!(
        process.unregister(container, BUFFER + 8 * PAGE, 8 * PAGE),
        Err(Errno::Ebusy),
        "it may be known"
    );
    assert_eq!(process.unregister(container, BUFFER + 8 * PAGE, 8 * PAGE), Ok(()));
    assert_eq!(process.unregister(container, BUFFER, 8 * PAGE), Err(Errno::Ebusy), "that is mapped");
}

#[test]
pub(crate) fn a_window_that_hardware_does_not_let_go_is_removed_by_the_next_try() {
    let (world, [first, second]) = power();
    let (process, container, _) = registered(&world);
    process.join_to(container, 8).unwrap();
    process.create(container, 16, 1 << 30, 1).unwrap();
    process.map(container, WINDOW_1, BUFFER, 16 * PAGE, 3).unwrap();
    let before = process.memory.locked();
    world.hardware.fail(Call::UnsetWindow, 1, 1);
    assert_eq!(process.remove(container, WINDOW_1), Err(Errno::Eio));
    assert_eq!((first.table(1).is_some(), second.table(1).is_some()), (false, true));
    assert_eq!(process.memory.locked(), before, "its table is paid for");
    assert_eq!(second.table(1).unwrap().mapped(), [], "and empty");
    assert_eq!(process.map(container, WINDOW_1, BUFFER, 16 * PAGE, 3), Err(Errno::Enxio));
    assert_eq!(process.create(container, 16, 1 << 30, 1), Err(Errno::Enospc), "its place is taken");
    assert_eq!(process.remove(container, WINDOW_1), Ok(()));
    assert!(second.table(1).is_none());
    assert_eq!(process.create(container, 16, 1 << 30, 1), Ok(WINDOW_1));
}

#[test]
fn a_group_that_leaves_and_is_not_let_go_is_nobodys_until_it_is() {
    let (world, [first, second]) = power();
    let (process, container, group) = registered(&world);
    process.map(container, 0, BUFFER, PAGE, 3).unwrap();
    process.join_to(container, 8).unwrap();
    world.hardware.fail(Call::UnsetWindow, 0, 2);
    process.ioctl(group, 0x3b69, 0).unwrap();
    assert!(first.is_taken() && first.table(0).is_some());
    let other = process.open("/dev/vfio/vfio").unwrap();
    process.set_container(group, other).unwrap();
    assert_eq!(process.ioctl(other, 0x3b66, 7), Err(Errno::Ebusy), "windows were left behind");
    process.unmap_tce(container, 0, PAGE).unwrap();
    world.vfio.reclaim();
    assert!(!first.is_taken() && first.table(0).is_none());
    assert!(second.table(0).is_some(), "the other's stays");
    assert_eq!(process.ioctl(other, 0x3b66, 7), Ok(0));
}

#[test]
fn what_a_dead_process_leaves_is_kept_until_hardware_forgets() {
    let (world, [first, second]) = power();
    let (process, container, _) = registered(&world);
    process.map(container, 0, BUFFER, 16 * PAGE, 3).unwrap();
    let memory = process.memory.clone();
    world.hardware.fail(Call::UnsetWindow, 0, 3);
    drop(process);
    assert_eq!(memory.pinned(), 4096);
    assert!(first.is_taken());
    assert_eq!(world.groups[&7].ownership().count, 0);
    assert_eq!(world.vfio.reclaim(), 4096 + 2048, "its memory, and its table");
    assert_eq!(memory.pinned(), 4096);
    assert_eq!(world.vfio.reclaim(), 0);
    assert_eq!((memory.pinned(), memory.locked()), (0, 0));
    nothing_is_left(&world, &world.process(), &[&first, &second]);
}

#[test]
fn a_group_for_whose_own_window_there_is_no_memory_stays_blocked_and_is_released_by_a_later_try() {
    let (world, [first, _]) = power();
    let (process, container, group) = registered(&world);
    process.map(container, 0, BUFFER, PAGE, 3).unwrap();
    world.hardware.fail(Call::Release, 0, 2);
    world.machine.events();
    process.ioctl(group, 0x3b69, 0).unwrap();
    assert_eq!((process.memory.pinned(), process.memory.locked()), (0, 0), "the user's is all given back");
    assert!(first.is_taken() && first.table(0).is_none());
    let said = world.machine.events();
    assert!(said.iter().any(|event| event.contains("vfio_detach") && event.contains("refused")), "{said:?}");
    world.vfio.reclaim();
    assert!(first.is_taken());
    world.vfio.reclaim();
    assert!(!first.is_taken());
}

#[test]
fn the_next_user_of_a_group_that_was_not_given_back_waits_for_that() {
    let (world, [first, _]) = power();
    let (process, container, group) = registered(&world);
    process.map(container, 0, BUFFER, PAGE, 3).unwrap();
    world.hardware.fail(Call::Release, 0, 2);
    process.ioctl(group, 0x3b69, 0).unwrap();
    process.set_container(group, container).unwrap();
    assert_eq!(process.ioctl(container, 0x3b66, 7), Err(Errno::Ebusy), "it asks again, in vain");
    assert_eq!(process.ioctl(container, 0x3b66, 7), Ok(0));
    assert_eq!(world.vfio.reclaim(), 0);
    assert!(first.is_taken(), "nobody takes it from its new user");
    process.register(container, BUFFER, PAGE).unwrap();
    process.map(container, 0, BUFFER, PAGE, 3).unwrap();
}

/// What a user does from the first call to the last.
fn whole_story(world: &World) -> Process {
    let process = world.process();
    process.buffer(64);
    let Ok((container, group)) = process.join(7) else { return process };
    let _ = process.ioctl(container, 0x3b66, 7);
    let _ = process.register(container, BUFFER, 64 * PAGE);
    let _ = process.map(container, 0, BUFFER, 4 * PAGE, 3);
    let _ = process.join_to(container, 8);
    let _ = process.create(container, 16, 1 << 30, 2);
    let _ = process.map(container, WINDOW_1, BUFFER, 32 * PAGE, 3);
    let _ = process.map(container, WINDOW_1, BUFFER + 16 * PAGE, 16 * PAGE, 1);
    let _ = process.unmap_tce(container, WINDOW_1, 16 * PAGE);
    let _ = process.remove(container, 0);
    let _ = process.create(container, 12, 1 << 30, 1);
    let _ = process.map(container, 0, BUFFER, 4 * PAGE, 3);
    let _ = process.ioctl(group, 0x3b69, 0);
    process
}

/// Each call of the seam fails once, at each place of the story; or from there on, until all is over.
fn failing(world: &World, groups: &[Arc<FakeTableGroup>; 2], call: Call, pass: usize, times: usize) {
    world.hardware.fail(call, pass, times);
    let process = whole_story(world);
    let memory = process.memory.clone();
    drop(process);
    world.hardware.fail_no_more();
    assert_eq!(world.vfio.reclaim(), 0);
    assert_eq!((memory.pinned(), memory.locked()), (0, 0), "{call:?} {pass} {times}");
    nothing_is_left(world, &world.process(), &[&groups[0], &groups[1]]);
    for source in [1, 2] {
        assert!(["domain0", "domain1"].contains(&world.iommu.place(source).as_str()));
    }
}

#[test]
fn whatever_fails_wherever_nothing_is_left_and_the_next_user_can_begin() {
    for call in ALL {
        for pass in 0..24 {
            for times in [1, 2, 1000] {
                let (world, groups) = power();
                failing(&world, &groups, call, pass, times);
                // Again, on the same machine, and nothing fails: everything must work.
                let process = whole_story(&world);
                assert_eq!(groups[1].table(0).unwrap().mapped().len(), 4, "{call:?} {pass} {times}");
                drop(process);
                nothing_is_left(&world, &world.process(), &[&groups[0], &groups[1]]);
            }
        }
    }
}

#[test]
fn a_thousand_users_leave_nothing() {
    let (world, groups) = power();
    for _ in 0..1000 {
        let process = whole_story(&world);
        let memory = process.memory.clone();
        drop(process);
        assert_eq!((memory.pinned(), memory.locked()), (0, 0));
    }
    assert_eq!(world.vfio.reclaim(), 0);
    nothing_is_left(&world, &world.process(), &[&groups[0], &groups[1]]);
}

#[test]
fn a_removal_that_was_not_confirmed_is_finished_when_a_group_comes() {
    for mapped in [0, 16] {
        let (world, [first, second]) = power();
        let (process, container, _) = registered(&world);
        process.create(container, 16, 1 << 30, 1).unwrap();
        process.map(container, WINDOW_1, BUFFER, mapped * PAGE, 3).unwrap();
        world.hardware.fail(Call::UnsetWindow, 0, 2);
        assert_eq!(process.remove(container, WINDOW_1), Err(Errno::Eio));
        assert_eq!(process.join_to(container, 8).err(), Some(Errno::Eio), "it asks again, in vain");
        process.join_to(container, 8).unwrap();
        assert!(first.table(1).is_none() && second.table(1).is_none());
        assert!(first.table(0).is_some() && second.table(0).is_some());
        assert_eq!(process.create(container, 16, 1 << 30, 1), Ok(WINDOW_1), "its place is free");
    }
}

#[test]
fn cancelling_the_default_window_removes_what_is_left_of_one_that_was_taken_back() {
    let (world, [first, _]) = power();
    let (process, container, _) = registered(&world);
    let before = process.memory.locked();
    world.hardware.fail(Call::UnsetWindow, 0, 2);
    assert_eq!(process.map(container, 0, PAGE, PAGE, 3), Err(Errno::Einval), "that is not registered");
    assert!(first.table(0).is_some(), "made for the call, and not let go");
    assert_eq!(process.remove(container, 0), Err(Errno::Eio), "it asks again, in vain");
    assert_eq!(process.remove(container, 0), Ok(()));
    assert!(first.table(0).is_none());
    assert_eq!(process.memory.locked(), before);
    assert_eq!(process.create(container, 16, 1 << 30, 1), Ok(0), "no window is pending");
}

#[test]
fn a_window_of_a_process_that_registered_nothing_is_counted_among_what_is_kept() {
    let (world, [first, _]) = power();
    let (process, container, _) = world.tce_user(7);
    process.create(container, 16, 1 << 30, 1).unwrap();
    let memory = process.memory.clone();
    let locked = memory.locked();
    assert!(locked > 0);
    world.hardware.fail(Call::UnsetWindow, 0, 1000);
    drop(process);
    assert_eq!(world.vfio.reclaim(), locked);
    world.hardware.fail_no_more();
    assert_eq!(world.vfio.reclaim(), 0);
    assert!(memory.locked() == 0 && !first.is_taken());
}
