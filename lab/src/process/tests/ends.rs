//! How processes end, with others inside.

use std::sync::{Arc, Mutex, Weak};

use model_cpu::{CpuFeatures, TlbPolicy};
use portcullis::core::mm::{MmFault, MmFaultError, PinAsidError, ProcessMemory};
use portcullis::types::{Iova, Perms, SizeLg2};

use super::bench::{Bench, Device, R, RW, at, mapping, read};
use crate::process::{Backing, KernelOptions, Mapping, MmError, Process, Source, UserError};

/// A file whose first read ends the process that reads it.
#[derive(Debug, Default)]
struct Killer(Arc<Mutex<Weak<Process>>>);

impl Backing for Killer {
    fn len_bytes(&self) -> u64 {
        0x1000
    }

    fn is_writable(&self) -> bool {
        false
    }

    fn read_at(&self, _: u64, into: &mut [u8]) -> std::io::Result<()> {
        if let Some(process) = self.0.lock().unwrap().upgrade() {
            process.exit();
        }
        into.fill(9);
        Ok(())
    }

    fn write_at(&self, _: u64, _: &[u8]) -> std::io::Result<()> {
        Err(std::io::ErrorKind::PermissionDenied.into())
    }
}

#[test]
fn a_fault_under_way_succeeds_although_the_process_exits_and_the_next_does_not() {
    let bench = Bench::new(1);
    let process = bench.process();
    let killer = Killer::default();
    *killer.0.lock().unwrap() = Arc::downgrade(&process);
    let file = bench.kernel.open(Box::new(killer));
    let range = process.map(&mapping(0x1000, R, Source::Private { file, offset_bytes: 0 })).unwrap();
    let (device, _) = Device::bind(&bench, &process, TlbPolicy::seeded(1));
    let fault = MmFault { address: range.first(), wanted: Perms::READ };
    assert_eq!(process.handle_fault(&fault), Ok(()));
    assert!(process.has_exited());
    assert_eq!(process.usage().areas, 0, "the last one out tore it down");
    assert_eq!(process.handle_fault(&fault), Err(MmFaultError::Exited));
    assert_eq!(device.read(range.first(), &mut [0]), Err(MmFaultError::Exited));
    bench.assert_clean();
}

#[test]
fn after_the_exit_everything_is_refused_and_everything_is_back() {
    let bench = Bench::new(2);
    let process = bench.process();
    let range = process.map(&mapping(0x10_0000, RW, Source::Anonymous)).unwrap();
    process.write(range.first(), &vec![1; 0x10_0000]).unwrap();
    assert!(process.pin_asid().is_ok());
    process.exit();
    bench.assert_clean();
    assert_eq!(process.map(&mapping(1, R, Source::Anonymous)), Err(MmError::Exited));
    assert_eq!(process.unmap(range), Err(MmError::Exited));
    assert_eq!(process.protect(range, R), Err(MmError::Exited));
    assert_eq!(process.fork().map(|_| ()), Err(MmError::Exited));
    assert_eq!(process.pin_asid(), Err(PinAsidError::Exited));
    let why = MmFaultError::Exited;
    assert_eq!(process.write(range.first(), &[1]), Err(UserError::Fault { at: range.first(), why }));
    process.unpin_asid();
}

#[test]
fn a_child_outlives_its_parent_and_keeps_its_bytes() {
    let bench = Bench::new(3);
    let parent = bench.process();
    let range = parent.map(&mapping(0x4000, RW, Source::Anonymous)).unwrap();
    parent.write(range.first(), &[5; 0x3000]).unwrap();
    let child = parent.fork().unwrap();
    parent.write(at(range, 0x10), &[6]).unwrap();
    drop(parent);
    assert_eq!(read(&child, range.first(), 0x4000), [vec![5; 0x3000], vec![0; 0x1000]].concat());
    drop(child);
    bench.assert_clean();
}

#[test]
fn processes_on_several_threads_fault_fork_and_die() {
    let bench = Bench::new(4);
    std::thread::scope(|scope| {
        for thread in 0..3u8 {
            let bench = &bench;
            scope.spawn(move || {
                for round in 0..30 {
                    let process = bench.process();
                    let range = process.map(&mapping(0x8000, RW, Source::Anonymous)).unwrap();
                    process.write(range.first(), &vec![thread; 0x8000]).unwrap();
                    let child = process.fork().unwrap();
                    let killer = scope.spawn({
                        let process = process.clone();
                        move || process.exit()
                    });
                    let _ = process.write(range.first(), &vec![0xff; 0x8000]);
                    assert_eq!(read(&child, range.first(), 0x8000), vec![thread; 0x8000], "{round}");
                    killer.join().unwrap();
                }
            });
        }
    });
    bench.assert_clean();
}

#[test]
fn two_workers_that_fault_at_one_page_make_it_once() {
    let bench = Bench::new(5);
    let process = bench.process();
    let range = process.map(&mapping(0x40_0000, RW, Source::Anonymous)).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                for page in 0..0x400 {
                    let address = Iova::new(range.first().get() + 0x1000 * page);
                    process.handle_fault(&MmFault { address, wanted: RW }).unwrap();
                }
            });
        }
    });
    assert_eq!((process.usage().resident_pages, process.usage().faults), (0x400, 0x400));
    drop(process);
    bench.assert_clean();
}

#[test]
fn asids_change_hands_between_generations_and_no_process_sees_anothers_bytes() {
    for (asid_pairs, seed) in [(false, 6), (true, 7)] {
        let options =
            KernelOptions { wide_asids: false, asid_pairs, ..KernelOptions::new(SizeLg2::KIB_4, seed) };
        let bench = Bench::with(options, CpuFeatures::COMMON, 0x4000_0000);
        let place = Iova::new(0x10_0000);
        let fixed = Mapping { at: Some(place), ..mapping(0x1000, RW, Source::Anonymous) };
        let processes: Vec<_> = (0..300u32)
            .map(|_| {
                let process = bench.process();
                process.map(&fixed).unwrap();
                process
            })
            .collect();
        let pinned = processes[7].pin_asid().unwrap();
        assert!(!asid_pairs || pinned % 2 == 1, "the process's half of the pair");
        for (number, process) in (0..300u32).zip(&processes) {
            process.write(place, &number.to_le_bytes()).unwrap();
        }
        for round in 0..3u32 {
            for (number, process) in (0..300u32).zip(&processes) {
                process.run_on((number + round) as usize % 2);
                assert_eq!(read(process, place, 4), number.to_le_bytes());
            }
            assert_eq!(processes[7].pin_asid(), Ok(pinned), "through {round} and more generations");
        }
        (0..4).for_each(|_| processes[7].unpin_asid());
        drop(processes);
        bench.assert_clean();
    }
}

#[test]
fn no_more_asids_are_pinned_than_may_be() {
    let options = KernelOptions { wide_asids: false, ..KernelOptions::new(SizeLg2::KIB_4, 8) };
    let bench = Bench::with(options, CpuFeatures::COMMON, 0x4000_0000);
    let processes: Vec<_> = (0..256).map(|_| bench.process()).collect();
    let pinned = processes.iter().filter(|process| process.pin_asid().is_ok()).count();
    // Of 256: one for each of 2 CPUs, one that stands for none, one that must be free.
    assert_eq!(pinned, 252);
    assert_eq!(processes[255].pin_asid(), Err(PinAsidError::NoIds));
    processes[0].unpin_asid();
    assert!(processes[255].pin_asid().is_ok());
    processes[1..252].iter().for_each(|process| process.unpin_asid());
    processes[255].unpin_asid();
}
