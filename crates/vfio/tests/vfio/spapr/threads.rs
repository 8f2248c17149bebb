//! One container of version 2, several threads of its process, and a device that goes on all the time.

use core::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::Arc;
use std::thread;

use super::nothing_is_left;
use crate::support::{BUFFER, PAGE, Process, power, structure};
use portcullis_vfio::{Errno, File, UserMemory};

const ROUNDS: u64 = 60;
const WINDOW_1: u64 = 0x0800_0000_0000_0000;
/// Where memory begins that is registered and let go again and again.
const OTHER: u64 = BUFFER + 0x100_0000;

/// A thread's way into the kernel, with a page of its own for arguments.
struct Thread<'a> {
    process: &'a Process,
    file: File<crate::support::Machine>,
    page: u64,
}

impl<'a> Thread<'a> {
    fn new(process: &'a Process, container: i32, number: u64) -> Self {
        let page = 0x6_0000 + number * PAGE;
        process.memory.populate(page, 0x9_3000_0000 + number * PAGE, PAGE, true);
        Self { process, file: process.dup(container), page }
    }

    fn ask(&self, request: u32, bytes: &[u8]) -> Result<u64, Errno> {
        self.process.memory.copy_out(self.page, bytes).unwrap();
        self.file.ioctl(self.process, request, self.page)
    }

    fn register(&self, vaddr: u64, size: u64) -> Result<u64, Errno> {
        self.ask(0x3b75, &structure(&[24, 0], &[vaddr, size]))
    }

    fn unregister(&self, vaddr: u64, size: u64) -> Result<u64, Errno> {
        self.ask(0x3b76, &structure(&[24, 0], &[vaddr, size]))
    }

    fn map(&self, iova: u64, vaddr: u64, size: u64) -> Result<u64, Errno> {
        self.ask(0x3b71, &structure(&[32, 3], &[vaddr, iova, size]))
    }

    fn unmap(&self, iova: u64, size: u64) -> Result<u64, Errno> {
        self.ask(0x3b72, &structure(&[24, 0], &[iova, size]))
    }

    fn create(&self, shift: u32, size: u64, levels: u32) -> Result<u64, Errno> {
        let mut request = structure(&[40, 0, shift, 0], &[size]);
        request.extend(structure(&[levels, 0], &[0]));
        self.ask(0x3b77, &request)
    }

    fn remove(&self, start: u64) -> Result<u64, Errno> {
        self.ask(0x3b78, &structure(&[16, 0], &[start]))
    }

    /// Maps and unmaps in the first window, beside the others who do.
    fn maps(&self, worker: u64) {
        let iova = 0x10_0000 + worker * 0x10_0000;
        for round in 0..ROUNDS {
            self.map(iova, BUFFER + worker * 16 * PAGE, 4 * PAGE).unwrap();
            // Over what is mapped: the old pages are let go.
            self.map(iova + PAGE, BUFFER + (round % 8) * PAGE, 2 * PAGE).unwrap();
            self.unmap(iova, 4 * PAGE).unwrap();
        }
    }

    /// Registers memory and lets it go, which is refused while it is mapped.
    fn registers(&self) {
        for _ in 0..ROUNDS {
            self.register(OTHER, 16 * PAGE).unwrap();
            self.map(0, OTHER, 16 * PAGE).unwrap();
            assert_eq!(self.unregister(OTHER, 16 * PAGE), Err(Errno::Ebusy));
            self.unmap(0, 16 * PAGE).unwrap();
            self.unregister(OTHER, 16 * PAGE).unwrap();
        }
    }

    /// Makes a window, and removes it with something mapped.
    fn makes_windows(&self) {
        for round in 0..ROUNDS {
            let (shift, levels) = if round % 2 == 0 { (12, 2) } else { (16, 1) };
            self.create(shift, 1 << 30, levels).unwrap();
            assert_eq!(self.create(shift, 1 << 30, levels), Err(Errno::Enospc));
            self.map(WINDOW_1, BUFFER, 32 * PAGE).unwrap();
            self.remove(WINDOW_1).unwrap();
            assert_eq!(self.map(WINDOW_1, BUFFER, 32 * PAGE), Err(Errno::Enxio));
        }
    }
}

#[test]
fn threads_that_register_map_and_make_windows_do_not_meet_and_a_device_reaches_only_what_is_pinned() {
    let (world, groups) = power();
    let (process, container, _) = world.tce_user(7);
    process.buffer(0x1000 + 64);
    process.register(container, BUFFER, 0x1000 * PAGE).unwrap();
    // Made once, so that it is there for everybody.
    process.map(container, 0x1_0000, BUFFER, PAGE, 3).unwrap();
    process.unmap_tce(container, 0x1_0000, PAGE).unwrap();
    let locked = process.memory.locked();
    let over = AtomicBool::new(false);
    let threads: Vec<Thread<'_>> = (0..4).map(|number| Thread::new(&process, container, number)).collect();
    let looks = thread::scope(|scope| {
        let device = scope.spawn(|| {
            let mut looks = 0u64;
            while !over.load(SeqCst) {
                assert!(process.memory.holds_what_is_mapped(), "a device reaches what may be another's");
                looks += 1;
                thread::yield_now();
            }
            looks
        });
        let [first, second, third, fourth] = &threads[..] else { panic!("there are four") };
        let mut works = vec![
            scope.spawn(|| first.maps(0)),
            scope.spawn(|| second.maps(1)),
            scope.spawn(|| third.registers()),
            scope.spawn(|| fourth.makes_windows()),
        ];
        // Another group comes and goes meanwhile, and gets the windows that there are.
        works.push(scope.spawn(|| {
            for _ in 0..ROUNDS {
                let group = process.join_to(container, 8).unwrap();
                process.close(group);
            }
        }));
        let ended: Vec<_> = works.into_iter().map(|work| work.join()).collect();
        over.store(true, SeqCst);
        ended.into_iter().for_each(|work| work.unwrap());
        device.join().unwrap()
    });
    assert!(looks > 0);
    assert_eq!((process.memory.pinned(), process.memory.locked()), (0x1000, locked));
    assert_eq!(groups[0].table(0).unwrap().mapped(), []);
    assert!(groups[0].table(1).is_none() && !groups[1].is_taken());
    drop(threads);
    let memory = process.memory.clone();
    drop(process);
    assert_eq!((memory.pinned(), memory.locked()), (0, 0));
    nothing_is_left(&world, &world.process(), &[&groups[0], &groups[1]]);
}

#[test]
fn several_processes_take_a_group_in_turns_and_leave_it_with_everything_mapped() {
    let (world, groups) = power();
    let world = Arc::new(world);
    let had = core::sync::atomic::AtomicU64::new(0);
    thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                for _ in 0..ROUNDS {
                    let process = world.process();
                    process.buffer(64);
                    match process.join(7) {
                        Ok((container, _)) => {
                            process.ioctl(container, 0x3b66, 7).unwrap();
                            process.register(container, BUFFER, 64 * PAGE).unwrap();
                            process.map(container, 0, BUFFER, 16 * PAGE, 3).unwrap();
                            process.create(container, 16, 1 << 30, 2).unwrap();
                            process.map(container, WINDOW_1, BUFFER, 32 * PAGE, 3).unwrap();
                            had.fetch_add(1, SeqCst);
                        }
                        Err(Errno::Ebusy) => thread::yield_now(),
                        Err(other) => panic!("{other:?}"),
                    }
                    let memory = process.memory.clone();
                    drop(process);
                    assert_eq!((memory.pinned(), memory.locked()), (0, 0));
                }
            });
        }
    });
    assert!(had.into_inner() >= ROUNDS / 10, "somebody got it");
    assert_eq!(world.vfio.reclaim(), 0);
    nothing_is_left(&world, &world.process(), &[&groups[0], &groups[1]]);
}
