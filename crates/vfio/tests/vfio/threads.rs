//! Several threads of a process, and several processes, at once.

use core::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::Arc;
use std::thread;

use crate::support::{BUFFER, PAGE, World, world};
use portcullis_vfio::Errno;

const ROUNDS: usize = 60;

fn together(works: Vec<Box<dyn FnOnce() + Send + '_>>) {
    thread::scope(|scope| {
        let threads: Vec<_> = works.into_iter().map(|work| scope.spawn(work)).collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    });
}

#[test]
fn threads_that_map_and_unmap_in_one_container_do_not_meet() {
    let world = world();
    let (process, container, _) = world.user(3);
    process.buffer(64);
    let file = process.dup(container);
    let works = (0..4u64).map(|worker| {
        let (process, file) = (&process, file.clone());
        let page = 0x6_0000 + worker * PAGE;
        process.memory.populate(page, 0x9_3000_0000 + worker * PAGE, PAGE, true);
        Box::new(move || {
            let put =
                |bytes: &[u8]| portcullis_vfio::UserMemory::copy_out(&*process.memory, page, bytes).unwrap();
            let iova = 0x10_0000 + worker * 0x10_0000;
            for _ in 0..ROUNDS {
                put(&crate::support::structure(&[32, 3], &[BUFFER, iova, 4 * PAGE]));
                assert_eq!(file.ioctl(process, 0x3b71, page), Ok(0));
                assert_eq!(file.ioctl(process, 0x3b71, page), Err(Errno::Eexist));
                put(&crate::support::structure(&[24, 0], &[iova, 4 * PAGE]));
                assert_eq!(file.ioctl(process, 0x3b72, page), Ok(0));
            }
        }) as Box<dyn FnOnce() + Send>
    });
    together(works.collect());
    assert_eq!((process.memory.pinned(), process.memory.locked()), (0, 0));
}

#[test]
fn of_two_processes_one_gets_the_group_and_whoever_is_done_leaves_it() {
    let (world, total) = (world(), AtomicUsize::new(0));
    let take = |world: &World| {
        let mut had = 0;
        for _ in 0..ROUNDS {
            let process = world.process();
            match process.join(7) {
                Ok((container, group)) => {
                    process.ioctl(container, 0x3b66, 3).unwrap();
                    process.buffer(4);
                    process.map(container, 0x10_0000, BUFFER, 4 * PAGE, 3).unwrap();
                    process.device(group, "0000:00:01.0").unwrap();
                    had += 1;
                }
                Err(Errno::Ebusy) => thread::yield_now(),
                Err(other) => panic!("{other:?}"),
            }
        }
        total.fetch_add(had, SeqCst);
    };
    together((0..3).map(|_| Box::new(|| take(&world)) as Box<dyn FnOnce() + Send>).collect());
    assert!(total.into_inner() >= ROUNDS / 10, "somebody got it");
    assert_eq!((world.groups[&7].ownership().count, world.iommu.place(1)), (0, "domain0".into()));
}

#[test]
fn a_group_that_comes_and_goes_and_mappings_that_do_agree() {
    let mut world = world();
    world.next_iommu(
        "iommu1",
        crate::support::range(0, (1 << 40) - 1),
        portcullis_types::PageSizes::from_bits(0x1000),
    );
    world.add(9, 3, |_| ()).unwrap();
    let (process, container, _) = world.user(3);
    process.buffer(8);
    let process = Arc::new(process);
    let file = process.dup(container);
    process.memory.populate(0x6_0000, 0x9_3000_0000, PAGE, true);
    let mapper = || {
        let put =
            |bytes: &[u8]| portcullis_vfio::UserMemory::copy_out(&*process.memory, 0x6_0000, bytes).unwrap();
        for round in 0..ROUNDS as u64 * 2 {
            put(&crate::support::structure(&[32, 3], &[BUFFER, 0x10_0000 + round * 0x1_0000, 4 * PAGE]));
            file.ioctl(&*process, 0x3b71, 0x6_0000).unwrap();
            if round % 3 == 0 {
                put(&crate::support::structure(&[24, 2], &[0, 0]));
                file.ioctl(&*process, 0x3b72, 0x6_0000).unwrap();
            }
        }
    };
    let joiner = || {
        for _ in 0..ROUNDS {
            let group = process.join_to(container, 9).unwrap();
            process.close(group);
        }
    };
    together(vec![Box::new(mapper), Box::new(joiner)]);
    let group = process.join_to(container, 9).unwrap();
    assert_eq!(world.hardware.last_domain().mapped(), world.hardware.domain(2).mapped());
    process.close(group);
    let memory = process.memory.clone();
    drop((process, file));
    assert_eq!((memory.pinned(), memory.locked()), (0, 0));
}
