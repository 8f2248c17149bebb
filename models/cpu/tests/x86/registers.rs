//! Loads and stores of devices' registers.

use core::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use model_bus::{Mmio, Width};
use model_cpu::x86::{Fault, FaultKind, Invalidation};
use portcullis_types::{Pa, PaRange};

use crate::bench::{Bench, PT};

/// Registers that remember what was done to them.
#[derive(Default)]
struct Seen(Mutex<Vec<(u64, u64, Option<u64>)>>);

impl Mmio for Seen {
    fn read(&self, offset: u64, width: Width) -> u64 {
        self.0.lock().unwrap().push((offset, width.bytes(), None));
        0x1122_3344_5566_7788
    }

    fn write(&self, offset: u64, width: Width, value: u64) {
        self.0.lock().unwrap().push((offset, width.bytes(), Some(value)));
    }
}

fn bench() -> (Bench, Arc<Seen>) {
    let bench = Bench::common();
    let seen = Arc::new(Seen::default());
    let range = PaRange::new(Pa::new(0x0900_0000), 0x1000).unwrap();
    bench.bus.add_registers("registers", range, seen.clone()).unwrap();
    // PCD and PWT: uncacheable.
    bench.word_now(PT, 0x8000_0000_0900_007f);
    (bench, seen)
}

#[test]
fn a_register_is_accessed_once_in_the_size_that_the_program_says() {
    let (bench, seen) = bench();
    let cpu = bench.cpu(0);
    cpu.store(0x14, &0xdead_beef_u32.to_le_bytes()).unwrap();
    cpu.store(0x20, &7u64.to_le_bytes()).unwrap();
    let mut word = [0; 4];
    cpu.load(0x1c, &mut word).unwrap();
    assert_eq!(u32::from_le_bytes(word), 0x5566_7788);
    let wanted = [(0x14, 4, Some(0xdead_beef)), (0x20, 8, Some(7)), (0x1c, 4, None)];
    assert_eq!(*seen.0.lock().unwrap(), wanted);
}

#[test]
fn what_is_no_access_of_a_register_aborts_and_reaches_none() {
    let (bench, seen) = bench();
    let kind = |result: Result<(), Fault>| result.unwrap_err().kind;
    assert_eq!(kind(bench.cpu(0).store(0x2, &[0; 4])), FaultKind::Abort, "not aligned");
    assert_eq!(kind(bench.cpu(0).load(0, &mut [0; 3])), FaultKind::Abort, "no load has this size");
    assert!(seen.0.lock().unwrap().is_empty());
}

/// A register that takes its time.
#[derive(Default)]
struct Slow {
    begun: AtomicBool,
    written: AtomicBool,
}

impl Mmio for Slow {
    fn read(&self, _: u64, _: Width) -> u64 {
        0
    }

    fn write(&self, _: u64, _: Width, _: u64) {
        self.begun.store(true, Ordering::Release);
        (0..1000).for_each(|_| std::thread::yield_now());
        self.written.store(true, Ordering::Release);
    }
}

#[test]
fn a_shootdown_waits_for_the_access_of_a_register_that_is_under_way() {
    let bench = Bench::common();
    let slow = Arc::new(Slow::default());
    let range = PaRange::new(Pa::new(0x0900_0000), 0x1000).unwrap();
    bench.bus.add_registers("slow", range, slow.clone()).unwrap();
    bench.word_now(PT, 0x8000_0000_0900_007f);
    std::thread::scope(|scope| {
        let cpu = bench.cpu(1);
        scope.spawn(move || cpu.store(0, &[1; 4]).unwrap());
        while !slow.begun.load(Ordering::Acquire) {
            std::thread::yield_now();
        }
        bench.cpus.shoot_down([1], &[Invalidation::AllWithGlobals]);
        assert!(slow.written.load(Ordering::Acquire), "it is still under way");
    });
}
