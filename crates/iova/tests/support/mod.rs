//! A platform for tests that has CPUs and a clock, and no hardware.
#![allow(dead_code, unreachable_pub, clippy::allow_attributes, reason = "each test file uses a part")]

use core::cell::Cell;
use core::marker::PhantomData;
use core::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::Arc;

use portcullis_hal::lock_api::RawMutex;
use portcullis_hal::{Barriers, BlockLayout, Clock, DmaMemory, Platform, TableMemory};
use portcullis_types::trace::{Event, Sink};
use portcullis_types::{Iova, IovaRange, Pa};

/// `M` is its kind of lock.
#[derive(Debug)]
pub struct Machine<M = spin::Mutex<()>> {
    pub cpus: usize,
    pub now_ns: AtomicU64,
    pub mutex: PhantomData<fn(M)>,
}

impl<M> Default for Machine<M> {
    fn default() -> Self {
        Self { cpus: 0, now_ns: AtomicU64::new(0), mutex: PhantomData }
    }
}

/// Which CPU runs a thread, for threads with this kind of lock.
pub trait Cpus: RawMutex + core::fmt::Debug + Send + Sync + 'static {
    fn current() -> usize;
}

impl Cpus for spin::Mutex<()> {
    fn current() -> usize {
        CPU.get()
    }
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
    Arc::new(Machine { cpus, ..Machine::default() })
}

pub fn range(first: u64, last: u64) -> IovaRange {
    IovaRange::from_ends(Iova::new(first), Iova::new(last)).unwrap()
}

impl<M: Cpus> Platform for Machine<M> {
    type Mutex = M;

    fn current_cpu(&self) -> usize {
        M::current()
    }

    fn cpu_count(&self) -> usize {
        self.cpus
    }
}

impl<M: 'static> Clock for Machine<M> {
    fn now_ns(&self) -> u64 {
        self.now_ns.load(SeqCst)
    }

    fn relax(&self) {
        self.now_ns.fetch_add(1000, SeqCst);
    }
}

impl<M: 'static> Sink for Machine<M> {
    fn listening(&self) -> bool {
        false
    }

    fn event(&self, _: &Event<'_>) {}
}

impl<M: 'static> Barriers for Machine<M> {
    fn write_barrier(&self) {}
    fn read_barrier(&self) {}
    fn full_barrier(&self) {}
}

const NONE: &str = "an allocator of addresses needs no memory of the platform's";

impl<M: 'static> TableMemory for Machine<M> {
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

impl<M: 'static> DmaMemory for Machine<M> {
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
