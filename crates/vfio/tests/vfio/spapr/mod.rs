//! spapr_tce from a process: requests and structures by hand, from the interface's header.

pub(crate) mod container;
pub(crate) mod eeh;
pub(crate) mod entries;
mod every_allocation;
pub(crate) mod faults;
pub(crate) mod groups;
mod histories;
pub(crate) mod memory;
mod threads;
pub(crate) mod version1;
pub(crate) mod windows;

use crate::support::{BUFFER, FakeTableGroup, PAGE, Process, RAM, World};

/// 16 MiB of memory, registered, with group 7 in a container of version 2.
pub(crate) fn registered(world: &World) -> (Process, i32, i32) {
    let (process, container, group) = world.tce_user(7);
    process.buffer(4096);
    process.register(container, BUFFER, 4096 * PAGE).unwrap();
    (process, container, group)
}

/// That the process has nothing pinned or charged, and that the groups are the platform's.
pub(crate) fn nothing_is_left(world: &World, process: &Process, groups: &[&FakeTableGroup]) {
    assert_eq!((process.memory.pinned(), process.memory.locked()), (0, 0));
    assert_eq!(world.hardware.table_count(), 0, "tables are freed");
    for group in groups {
        assert!(!group.is_taken());
    }
    assert!(world.groups.values().all(|group| group.ownership().count == 0));
}

/// An address of the buffer, as a table says it.
pub(crate) fn ram(page: u64) -> u64 {
    RAM + page * PAGE
}
