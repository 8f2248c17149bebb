//! A machine: a clock, and ears for events.

use core::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::Mutex;

use portcullis_hal::{Barriers, BlockLayout, Clock, DmaMemory, Platform, TableMemory};
use portcullis_types::Pa;
use portcullis_types::trace::{Event, Sink};

use super::lock::SpinLock;

#[derive(Debug, Default)]
pub(crate) struct Machine {
    now_ns: AtomicU64,
    events: Mutex<Vec<String>>,
    /// What was written back from caches: where, how many bytes.
    cleaned: Mutex<Vec<(u64, u64)>>,
}

impl Machine {
    pub(crate) fn events(&self) -> Vec<String> {
        core::mem::take(&mut *self.events.lock().unwrap())
    }

    pub(crate) fn cleaned(&self) -> Vec<(u64, u64)> {
        core::mem::take(&mut *self.cleaned.lock().unwrap())
    }
}

impl Platform for Machine {
    type Mutex = SpinLock;
}

impl Clock for Machine {
    fn now_ns(&self) -> u64 {
        self.now_ns.load(SeqCst)
    }

    fn relax(&self) {
        self.now_ns.fetch_add(1_000_000, SeqCst);
        std::thread::yield_now();
    }
}

impl Sink for Machine {
    fn listening(&self) -> bool {
        true
    }

    fn event(&self, event: &Event<'_>) {
        let mut events = self.events.lock().unwrap();
        // Tests that look at events make few.
        if events.len() < 10_000 {
            events.push(event.to_string());
        }
    }
}

impl Barriers for Machine {
    fn write_barrier(&self) {}
    fn read_barrier(&self) {}
    fn full_barrier(&self) {}
}

const UNUSED: &str = "VFIO reaches memory through its user's";

impl DmaMemory for Machine {
    fn alloc_buffer(&self, _: BlockLayout) -> Option<Pa> {
        unreachable!("{UNUSED}")
    }
    fn free_buffer(&self, _: Pa, _: BlockLayout) {
        unreachable!("{UNUSED}")
    }
    fn clean(&self, at: Pa, len_bytes: u64) {
        self.cleaned.lock().unwrap().push((at.get(), len_bytes));
    }
    fn invalidate(&self, _: Pa, _: u64) {
        unreachable!("{UNUSED}")
    }
    fn read(&self, _: Pa, _: &mut [u8]) {
        unreachable!("{UNUSED}")
    }
    fn write(&self, _: Pa, _: &[u8]) {
        unreachable!("{UNUSED}")
    }
    fn read32(&self, _: Pa) -> u32 {
        unreachable!("{UNUSED}")
    }
    fn write32(&self, _: Pa, _: u32) {
        unreachable!("{UNUSED}")
    }
}

impl TableMemory for Machine {
    fn alloc(&self, _: BlockLayout) -> Option<Pa> {
        unreachable!("{UNUSED}")
    }
    fn free(&self, _: Pa, _: BlockLayout) {
        unreachable!("{UNUSED}")
    }
    fn load(&self, _: Pa) -> u64 {
        unreachable!("{UNUSED}")
    }
    fn store(&self, _: Pa, _: u64) {
        unreachable!("{UNUSED}")
    }
    fn compare_exchange(&self, _: Pa, _: u64, _: u64) -> Result<u64, u64> {
        unreachable!("{UNUSED}")
    }
    fn clean_table(&self, _: Pa, _: u64) {
        unreachable!("{UNUSED}")
    }
}
