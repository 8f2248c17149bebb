//! A platform for tests that has CPUs and a clock, and no hardware.
#![allow(dead_code, unreachable_pub, clippy::allow_attributes, reason = "each test file uses a part")]

use core::cell::Cell;
use core::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::Arc;

use portcullis_hal::{Barriers, BlockLayout, Clock, DmaMemory, Platform, TableMemory};
use portcullis_types::trace::{Event, Sink};
use portcullis_types::{Iova, IovaRange, Pa};

#[derive(Debug, Default)]
pub struct Machine {
    pub cpus: usize,
    pub now_ns: AtomicU64,
}

thread_local! {
    static CPU: Cell<usize> = const { Cell::new(0) };
}

/// Makes this thread run on another CPU.
pub fn run_on(cpu: usize) {
    CPU.set(cpu);
}

pub fn machine(cpus: usize) -> Arc<Machine> {
    run_on(0);
    Arc::new(Machine { cpus, now_ns: AtomicU64::new(0) })
}

pub fn range(first: u64, last: u64) -> IovaRange {
    IovaRange::from_ends(Iova::new(first), Iova::new(last)).unwrap()
}

impl Platform for Machine {
    type Mutex = spin::Mutex<()>;

    fn current_cpu(&self) -> usize {
        CPU.get()
    }

    fn cpu_count(&self) -> usize {
        self.cpus
    }
}

impl Clock for Machine {
    fn now_ns(&self) -> u64 {
        self.now_ns.load(SeqCst)
    }

    fn relax(&self) {
        self.now_ns.fetch_add(1000, SeqCst);
    }
}

impl Sink for Machine {
    fn listening(&self) -> bool {
        false
    }

    fn event(&self, _: &Event<'_>) {}
}

impl Barriers for Machine {
    fn write_barrier(&self) {}
    fn read_barrier(&self) {}
    fn full_barrier(&self) {}
}

const NONE: &str = "an allocator of addresses needs no memory of the platform's";

impl TableMemory for Machine {
    fn alloc(&self, _: BlockLayout) -> Option<Pa> {
        unreachable!("{NONE}")
    }
    fn free(&self, _: Pa, _: BlockLayout) {
        unreachable!("{NONE}")
    }
    fn load(&self, _: Pa) -> u64 {
        unreachable!("{NONE}")
    }
    fn store(&self, _: Pa, _: u64) {
        unreachable!("{NONE}")
    }
    fn compare_exchange(&self, _: Pa, _: u64, _: u64) -> Result<u64, u64> {
        unreachable!("{NONE}")
    }
    fn clean_table(&self, _: Pa, _: u64) {
        unreachable!("{NONE}")
    }
}

impl DmaMemory for Machine {
    fn alloc_buffer(&self, _: BlockLayout) -> Option<Pa> {
        unreachable!("{NONE}")
    }
    fn free_buffer(&self, _: Pa, _: BlockLayout) {
        unreachable!("{NONE}")
    }
    fn read(&self, _: Pa, _: &mut [u8]) {
        unreachable!("{NONE}")
    }
    fn write(&self, _: Pa, _: &[u8]) {
        unreachable!("{NONE}")
    }
    fn read32(&self, _: Pa) -> u32 {
        unreachable!("{NONE}")
    }
    fn write32(&self, _: Pa, _: u32) {
        unreachable!("{NONE}")
    }
    fn clean(&self, _: Pa, _: u64) {
        unreachable!("{NONE}")
    }
    fn invalidate(&self, _: Pa, _: u64) {
        unreachable!("{NONE}")
    }
}
