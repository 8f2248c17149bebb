//! Memory, a clock that moves when somebody waits, and a log of what the CPU did.

use core::fmt;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::collections::BTreeMap;
use std::sync::{Mutex, OnceLock, Weak};

use portcullis_hal::{Barriers, BlockLayout, Clock, DmaMemory, Platform, TableMemory};
use portcullis_types::Pa;
use portcullis_types::trace::{Event, Sink};

use super::Controller;

const BASE: u64 = 0x8000_0000;
const LEN_BYTES: u64 = 64 << 20;

/// What the CPU did, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Op {
    Read32(u64),
    Read(u64),
    Write(u64),
    ReadBarrier,
    WriteBarrier,
    Clean(u64),
    Invalidate(u64),
    Register(usize),
}

/// The machine but for its devices.
pub(crate) struct Machine {
    memory: Mutex<Vec<u8>>,
    blocks: Mutex<BTreeMap<u64, u64>>,
    now_ns: AtomicU64,
    log: Mutex<Vec<Op>>,
    controller: OnceLock<Weak<Controller>>,
}

impl fmt::Debug for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Machine")
    }
}

impl Machine {
    pub(crate) fn new() -> Self {
        Self {
            memory: Mutex::new(vec![0; LEN_BYTES as usize]),
            blocks: Mutex::default(),
            now_ns: AtomicU64::new(0),
            log: Mutex::default(),
            controller: OnceLock::new(),
        }
    }

    pub(crate) fn plug(&self, controller: Weak<Controller>) {
        self.controller.set(controller).unwrap_or_else(|_| panic!("one controller only"));
    }

    /// Bytes that are given out, tables and buffers.
    pub(crate) fn live_bytes(&self) -> u64 {
        self.blocks.lock().unwrap().values().sum()
    }

    pub(crate) fn log(&self, op: Op) {
        self.log.lock().unwrap().push(op);
    }

    pub(crate) fn take_log(&self) -> Vec<Op> {
        core::mem::take(&mut self.log.lock().unwrap())
    }

    /// Memory as a device reaches it: not in the log.
    pub(crate) fn device_read(&self, at: u64, into: &mut [u8]) {
        let first = (at - BASE) as usize;
        into.copy_from_slice(&self.memory.lock().unwrap()[first..first + into.len()]);
    }

    pub(crate) fn device_write(&self, at: u64, from: &[u8]) {
        let first = (at - BASE) as usize;
        self.memory.lock().unwrap()[first..first + from.len()].copy_from_slice(from);
    }

    fn take_block(&self, layout: BlockLayout) -> Option<Pa> {
        let mut blocks = self.blocks.lock().unwrap();
        let mut at = BASE;
        for (&start, &len_bytes) in blocks.iter() {
            if at.next_multiple_of(layout.align_bytes()) + layout.size_bytes() <= start {
                break;
            }
            at = start + len_bytes;
        }
        let at = at.next_multiple_of(layout.align_bytes());
        if at + layout.size_bytes() > BASE + LEN_BYTES {
            return None;
        }
        blocks.insert(at, layout.size_bytes());
        self.device_write(at, &vec![0; layout.size_bytes() as usize]);
        Some(Pa::new(at))
    }

    fn give_back(&self, first: Pa, layout: BlockLayout) {
        let freed = self.blocks.lock().unwrap().remove(&first.get());
        assert_eq!(freed, Some(layout.size_bytes()), "freed as it was allocated");
    }

    fn word(&self, at: Pa) -> [u8; 8] {
        let mut bytes = [0; 8];
        self.device_read(at.get(), &mut bytes);
        bytes
    }
}

impl TableMemory for Machine {
    fn alloc(&self, layout: BlockLayout) -> Option<Pa> {
        self.take_block(layout)
    }

    fn free(&self, first: Pa, layout: BlockLayout) {
        self.give_back(first, layout);
    }

    fn load(&self, at: Pa) -> u64 {
        u64::from_le_bytes(self.word(at))
    }

    fn store(&self, at: Pa, word: u64) {
        self.device_write(at.get(), &word.to_le_bytes());
    }

    fn compare_exchange(&self, at: Pa, current: u64, new: u64) -> Result<u64, u64> {
        let found = self.load(at);
        if found != current {
            return Err(found);
        }
        self.store(at, new);
        Ok(found)
    }

    fn clean_table(&self, _: Pa, _: u64) {}
}

impl DmaMemory for Machine {
    fn alloc_buffer(&self, layout: BlockLayout) -> Option<Pa> {
        self.take_block(layout)
    }

    fn free_buffer(&self, first: Pa, layout: BlockLayout) {
        self.give_back(first, layout);
    }

    fn read(&self, at: Pa, into: &mut [u8]) {
        self.log(Op::Read(at.get()));
        self.device_read(at.get(), into);
    }

    fn write(&self, at: Pa, from: &[u8]) {
        self.log(Op::Write(at.get()));
        self.device_write(at.get(), from);
    }

    fn read32(&self, at: Pa) -> u32 {
        self.log(Op::Read32(at.get()));
        let mut bytes = [0; 4];
        self.device_read(at.get(), &mut bytes);
        u32::from_le_bytes(bytes)
    }

    fn write32(&self, at: Pa, word: u32) {
        self.write(at, &word.to_le_bytes());
    }

    fn clean(&self, at: Pa, _: u64) {
        self.log(Op::Clean(at.get()));
    }

    fn invalidate(&self, at: Pa, _: u64) {
        self.log(Op::Invalidate(at.get()));
    }
}

impl Barriers for Machine {
    fn write_barrier(&self) {
        self.log(Op::WriteBarrier);
    }

    fn read_barrier(&self) {
        self.log(Op::ReadBarrier);
    }

    fn full_barrier(&self) {
        self.log(Op::WriteBarrier);
        self.log(Op::ReadBarrier);
    }
}

impl Clock for Machine {
    fn now_ns(&self) -> u64 {
        self.now_ns.load(Relaxed)
    }

    fn relax(&self) {
        self.now_ns.fetch_add(1_000_000, Relaxed);
        if let Some(controller) = self.controller.get().and_then(Weak::upgrade) {
            controller.step();
        }
    }
}

impl Sink for Machine {
    fn listening(&self) -> bool {
        false
    }

    fn event(&self, _: &Event<'_>) {}
}

impl Platform for Machine {
    type Mutex = spin::Mutex<()>;
}
