//! Every call of a user's whole story, with each single allocation refused in turn: the table's memory, the kernel's lists, locked pages, the pages themselves.
//! The call fails, nothing has changed, and the same call succeeds the second time.

use super::nothing_is_left;
use crate::support::{Ask, BUFFER, Call, FakeTableGroup, PAGE, Process, World, power};
use portcullis_vfio::Errno;
use std::sync::Arc;

const WINDOW_1: u64 = 0x0800_0000_0000_0000;

/// What can be refused.
#[derive(Clone, Copy, Debug)]
enum Refused {
    Asked(Ask),
    Hardware(Call),
}

const ALL: [Refused; 5] = [
    Refused::Asked(Ask::Grow),
    Refused::Asked(Ask::Charge),
    Refused::Asked(Ask::Pin),
    Refused::Hardware(Call::CreateTable),
    Refused::Hardware(Call::Prepare),
];

/// Everything that a user can see or has.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    pinned: usize,
    locked: u64,
    windows: Vec<Option<Vec<(u64, u64, u8)>>>,
}

struct Scene {
    world: World,
    groups: [Arc<FakeTableGroup>; 2],
    process: Process,
    container: i32,
}

/// A call, with what it is for.
type Step = (&'static str, fn(&Process, i32) -> Result<(), Errno>);

/// Memory is in pieces, and maps go over what is mapped, so that every list grows.
const VERSION_2: &[Step] = &[
    ("register", |process, container| process.register(container, BUFFER, 32 * PAGE)),
    ("register more", |process, container| process.register(container, BUFFER + 32 * PAGE, 32 * PAGE)),
    ("map by the default window", |process, container| {
        process.map(container, 0, BUFFER, 8 * PAGE, 3).map(drop)
    }),
    ("map over it", |process, container| {
        process.map(container, 0, BUFFER + 30 * PAGE, 4 * PAGE, 1).map(drop)
    }),
    ("create", |process, container| process.create(container, 12, 1 << 20, 2).map(drop)),
    ("map in the new window", |process, container| {
        process.map(container, WINDOW_1, BUFFER + 16 * PAGE, 32 * PAGE, 3).map(drop)
    }),
    ("unmap", |process, container| process.unmap_tce(container, WINDOW_1, 24 * PAGE)),
    ("remove with something mapped", |process, container| process.remove(container, 0)),
    ("remove the other", |process, container| process.remove(container, WINDOW_1)),
    ("unregister", |process, container| process.unregister(container, BUFFER, 32 * PAGE)),
    ("unregister the rest", |process, container| {
        process.unregister(container, BUFFER + 32 * PAGE, 32 * PAGE)
    }),
];

const VERSION_1: &[Step] = &[
    ("enable", |process, container| process.enable(container).map(drop)),
    ("map", |process, container| process.map(container, 0, BUFFER, 16 * PAGE, 3).map(drop)),
    ("map over it", |process, container| process.map(container, 4 * PAGE, BUFFER, 8 * PAGE, 1).map(drop)),
    ("unmap", |process, container| process.unmap_tce(container, 0, 6 * PAGE)),
    ("disable", |process, container| process.disable(container).map(drop)),
];

impl Scene {
    fn new(version: u64) -> Self {
        let (world, groups) = power();
        let (process, container, _) = world.tce_user(version);
        // No two pages touch.
        for page in 0..64 {
            process.memory.populate(BUFFER + page * PAGE, 0x2_0000_0000 + 2 * page * PAGE, PAGE, true);
        }
        Self { world, groups, process, container }
    }

    fn seen(&self) -> Seen {
        let window = |number| self.groups[0].table(number).map(|table| table.mapped());
        Seen {
            pinned: self.process.memory.pinned(),
            locked: self.process.memory.locked(),
            windows: vec![window(0), window(1)],
        }
    }

    fn refuse(&self, what: Refused, after: usize) {
        match what {
            Refused::Asked(ask) => self.process.memory.refuse(ask, after),
            Refused::Hardware(call) => self.world.hardware.fail(call, after, 1),
        }
    }

    /// Whether it came to what was to be refused.
    fn refused(&self, what: Refused) -> bool {
        match what {
            Refused::Asked(_) => self.process.memory.refuse_no_more(),
            Refused::Hardware(_) => self.world.hardware.fail_no_more() == 0,
        }
    }
}

/// Each allocation of each step is refused once. Answers how many were, by what.
fn each_step(version: u64, steps: &[Step]) -> Vec<(Refused, usize)> {
    let mut count = ALL.map(|what| (what, 0)).to_vec();
    for at in 0..steps.len() {
        for (what, count) in &mut count {
            for after in 0.. {
                let scene = Scene::new(version);
                let Scene { process, container, .. } = &scene;
                for (name, step) in &steps[..at] {
                    step(process, *container).unwrap_or_else(|errno| panic!("{name}: {errno:?}"));
                }
                let (name, step) = steps[at];
                let before = scene.seen();
                scene.refuse(*what, after);
                let answer = step(process, *container);
                if !scene.refused(*what) {
                    assert_eq!(answer, Ok(()), "{name}: nothing was refused");
                    break;
                }
                *count += 1;
                // What takes things away can do without.
                if let Err(errno) = answer {
                    let wanted =
                        if matches!(what, Refused::Asked(Ask::Pin)) { Errno::Efault } else { Errno::Enomem };
                    assert_eq!(errno, wanted, "{name}, {what:?} {after}");
                    assert_eq!(scene.seen(), before, "{name}, {what:?} {after}");
                    step(process, *container).unwrap_or_else(|errno| panic!("{name}, again: {errno:?}"));
                } else {
                    let takes = ["unmap", "remove", "disable"].iter().any(|word| name.starts_with(word));
                    assert!(takes, "{name} succeeds, though {what:?} {after} was refused");
                }
                for (name, step) in &steps[at + 1..] {
                    step(process, *container).unwrap_or_else(|errno| panic!("{name}: {errno:?}"));
                }
                let Scene { world, groups, process, .. } = scene;
                let memory = process.memory.clone();
                drop(process);
                assert_eq!((memory.pinned(), memory.locked(), world.vfio.reclaim()), (0, 0, 0));
                nothing_is_left(&world, &world.process(), &[&groups[0], &groups[1]]);
            }
        }
    }
    count
}

#[test]
fn whatever_allocation_of_version_2_is_refused_the_call_changes_nothing_and_succeeds_the_next_time() {
    let counts = each_step(7, VERSION_2);
    for (what, least) in [16, 4, 64, 2, 3].into_iter().zip(&counts).map(|(least, count)| (count, least)) {
        assert!(what.1 >= least, "{counts:?}");
    }
}

#[test]
fn whatever_allocation_of_version_1_is_refused_the_call_changes_nothing_and_succeeds_the_next_time() {
    let counts = each_step(2, VERSION_1);
    for (what, least) in [4, 2, 24, 1, 2].into_iter().zip(&counts).map(|(least, count)| (count, least)) {
        assert!(what.1 >= least, "{counts:?}");
    }
}
