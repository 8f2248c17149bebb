//! A machine: memory that counts what is allocated, a clock, and ears for events and cache maintenance.

use core::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::collections::BTreeMap;
use std::sync::Mutex;

use portcullis_hal::{Barriers, BlockLayout, Clock, DmaMemory, Platform, TableMemory};
use portcullis_types::Pa;
use portcullis_types::trace::{Event, Sink};

use super::lock::SpinLock;

/// Where buffers come from.
pub(crate) const RAM: u64 = 0x4_0000_0000;

#[derive(Debug, Default)]
pub(crate) struct Machine {
    now_ns: AtomicU64,
    next: AtomicU64,
    /// Allocated blocks: first address and size.
    pub(crate) buffers: Mutex<BTreeMap<u64, u64>>,
    pub(crate) no_memory: Mutex<bool>,
    pub(crate) events: Mutex<Vec<String>>,
    /// Cache maintenance: what, where, how many bytes.
    pub(crate) caches: Mutex<Vec<(&'static str, u64, u64)>>,
}

impl Machine {
    pub(crate) fn new() -> Self {
        Self { next: AtomicU64::new(RAM), ..Self::default() }
    }

    pub(crate) fn pass_ns(&self, ns: u64) {
        self.now_ns.fetch_add(ns, SeqCst);
    }

    pub(crate) fn events(&self) -> Vec<String> {
        core::mem::take(&mut self.events.lock().unwrap())
    }

    pub(crate) fn caches(&self) -> Vec<(&'static str, u64, u64)> {
        core::mem::take(&mut self.caches.lock().unwrap())
    }

    pub(crate) fn live_buffers(&self) -> usize {
        self.buffers.lock().unwrap().len()
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
        self.pass_ns(1000);
    }
}

impl Sink for Machine {
    fn listening(&self) -> bool {
        true
    }

    fn event(&self, event: &Event<'_>) {
        assert_eq!(event.source, "core");
        self.events.lock().unwrap().push(event.to_string());
    }
}

impl Barriers for Machine {
    fn write_barrier(&self) {}
    fn read_barrier(&self) {}
    fn full_barrier(&self) {}
}

impl DmaMemory for Machine {
    fn alloc_buffer(&self, layout: BlockLayout) -> Option<Pa> {
        if *self.no_memory.lock().unwrap() {
            return None;
        }
        let align = layout.align_bytes();
        let first = self.next.load(SeqCst).next_multiple_of(align);
        self.next.store(first + layout.size_bytes(), SeqCst);
        self.buffers.lock().unwrap().insert(first, layout.size_bytes());
        Some(Pa::new(first))
    }

    fn free_buffer(&self, first: Pa, layout: BlockLayout) {
        let freed = self.buffers.lock().unwrap().remove(&first.get());
        assert_eq!(freed, Some(layout.size_bytes()), "{first} freed twice or with another size");
    }

    fn clean(&self, at: Pa, len_bytes: u64) {
        self.caches.lock().unwrap().push(("clean", at.get(), len_bytes));
    }

    fn invalidate(&self, at: Pa, len_bytes: u64) {
        self.caches.lock().unwrap().push(("invalidate", at.get(), len_bytes));
    }

    fn read(&self, _: Pa, _: &mut [u8]) {
        unreachable!("core never looks into buffers")
    }

    fn write(&self, _: Pa, _: &[u8]) {
        unreachable!("core never looks into buffers")
    }

    fn read32(&self, _: Pa) -> u32 {
        unreachable!("core never looks into buffers")
    }

    fn write32(&self, _: Pa, _: u32) {
        unreachable!("core never looks into buffers")
    }
}

impl TableMemory for Machine {
    fn alloc(&self, _: BlockLayout) -> Option<Pa> {
        unreachable!("tables are the driver's")
    }

    fn free(&self, _: Pa, _: BlockLayout) {
        unreachable!("tables are the driver's")
    }

    fn load(&self, _: Pa) -> u64 {
        unreachable!("tables are the driver's")
    }

    fn store(&self, _: Pa, _: u64) {
        unreachable!("tables are the driver's")
    }

    fn compare_exchange(&self, _: Pa, _: u64, _: u64) -> Result<u64, u64> {
        unreachable!("tables are the driver's")
    }

    fn clean_table(&self, _: Pa, _: u64) {
        unreachable!("tables are the driver's")
    }
}
