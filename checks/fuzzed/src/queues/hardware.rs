//! A platform, and the registers of an SMMUv3 that takes commands at once and translates nothing.
//!
//! What it writes into the queues, and what their registers say, is the input's. Bits are by hand, from the book.
//!
//! Spec: SMMUv3 H.a, 6.3 "Register formats", 3.5.1 "SMMU circular queues".

use core::fmt;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::collections::BTreeMap;
use std::sync::Mutex;

use portcullis::hal::{Arena, Barriers, BlockLayout, Clock, DmaMemory, Platform, Registers, TableMemory};
use portcullis::types::Pa;
use portcullis::types::trace::{Event, Sink};

pub(super) const GERROR: usize = 0x60;
pub(super) const GERRORN: usize = 0x64;
const CR0: usize = 0x20;
const CR0ACK: usize = 0x24;
const GBPA: usize = 0x44;
const IRQ_CTRL: usize = 0x50;
const IRQ_CTRLACK: usize = 0x54;
const CMDQ_BASE: usize = 0x90;
const CMDQ_PROD: usize = 0x98;
pub(super) const CMDQ_CONS: usize = 0x9c;

/// Registers of a queue that hardware fills, and the size of its records.
#[derive(Clone, Copy, Debug)]
pub(super) struct Queue {
    pub(super) base: usize,
    pub(super) prod: usize,
    pub(super) cons: usize,
    pub(super) words: usize,
}

pub(super) const EVENTS: Queue = Queue { base: 0xa0, prod: 0x1_00a8, cons: 0x1_00ac, words: 4 };
pub(super) const REQUESTS: Queue = Queue { base: 0xc0, prod: 0x1_00c8, cons: 0x1_00cc, words: 2 };

const CMD_SYNC: u64 = 0x46;

/// Platform and hardware in one.
pub(super) struct Hardware {
    arena: Arena<spin::Mutex<()>, Box<[AtomicU64]>>,
    now_ns: AtomicU64,
    registers: Mutex<BTreeMap<usize, u64>>,
    /// Every command that was taken.
    commands: Mutex<Vec<[u64; 2]>>,
}

impl fmt::Debug for Hardware {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hardware")
    }
}

impl Hardware {
    /// A part with both stages, 16-bit streams and PASIDs, queues of at most 16 entries; with ATS and page requests, or with stalls.
    pub(super) fn new(pcie: bool) -> Self {
        let hardware = Self {
            arena: Arena::on_heap(Pa::new(0x4000_0000), 20),
            now_ns: AtomicU64::new(0),
            registers: Mutex::default(),
            commands: Mutex::default(),
        };
        // S1P, S2P, TTF=2, COHACC, ASID16, VMID16, CD2L, TTENDIAN=2, TERM_MODEL, ST_LEVEL=1; ATS and PRI and no stalls, or stalls by choice.
        let idr0 = 0x0848_101b | 1 << 18 | 1 << 19;
        let ids = [
            (0x00, idr0 | if pcie { 1 << 10 | 1 << 16 | 1 << 24 } else { 0 }),
            // CMDQS=4, EVENTQS=4, PRIQS=4, SSIDSIZE=16, SIDSIZE=16, ATTR_TYPES_OVR.
            (0x04, 4 << 21 | 4 << 16 | 4 << 11 | 16 << 6 | 16 | 1 << 27),
            (0x0c, 1 << 10 | 2 << 11),
            // STALL_MAX=4, the three granules, OAS=5.
            (0x14, 4 << 16 | 1 << 4 | 1 << 5 | 1 << 6 | 5),
            (0x1c, 2),
        ];
        ids.into_iter().for_each(|(register, value)| hardware.set(register, value));
        hardware
    }

    pub(super) fn get(&self, register: usize) -> u64 {
        self.registers.lock().unwrap().get(&register).copied().unwrap_or(0)
    }

    pub(super) fn set(&self, register: usize, value: u64) {
        self.registers.lock().unwrap().insert(register, value);
    }

    pub(super) fn take_commands(&self) -> Vec<[u64; 2]> {
        core::mem::take(&mut self.commands.lock().unwrap())
    }

    pub(super) fn live_bytes(&self) -> u64 {
        self.arena.live_bytes()
    }

    /// Which entry of a queue is next to be written, counted with the wrap bit; and how many there are.
    pub(super) fn indexes(&self, queue: Queue) -> (u64, u64) {
        let entries = 1 << (self.get(queue.base) & 0x1f);
        (self.get(queue.prod) & (2 * entries - 1), entries)
    }

    /// Writes a record where the queue says, whatever else is there. Does not tell.
    pub(super) fn put(&self, queue: Queue, index: u64, record: &[u64]) {
        let (_, entries) = self.indexes(queue);
        let base = self.get(queue.base) & 0x00ff_ffff_ffff_ffe0;
        let at = base + 8 * queue.words as u64 * (index & (entries - 1));
        (0..).zip(record).for_each(|(word, &value)| self.arena.store(Pa::new(at + 8 * word), value));
    }

    /// Takes every command there is, and says so to who waits.
    fn take_all(&self) {
        let base = self.get(CMDQ_BASE);
        let mask = (2u64 << (base & 0x1f)) - 1;
        while self.get(CR0) & 8 != 0 && self.is_whole() {
            let rd = self.get(CMDQ_CONS) & mask;
            if rd == self.get(CMDQ_PROD) & mask {
                break;
            }
            let at = (base & 0x00ff_ffff_ffff_ffe0) + 16 * (rd & (mask >> 1));
            let words = [self.arena.load(Pa::new(at)), self.arena.load(Pa::new(at + 8))];
            self.commands.lock().unwrap().push(words);
            // CS=0b01: an MSI, MSIData to MSIAddress.
            if words[0] & 0xff == CMD_SYNC && words[0] >> 12 & 3 == 1 && words[1] != 0 {
                self.arena.store(Pa::new(words[1] & 0x00ff_ffff_ffff_fffc), words[0] >> 32);
            }
            self.set(CMDQ_CONS, (rd + 1) & mask);
        }
    }

    /// Whether no command error is active.
    fn is_whole(&self) -> bool {
        (self.get(GERROR) ^ self.get(GERRORN)) & 1 == 0
    }
}

impl Registers for Hardware {
    fn read32(&self, offset: usize) -> u32 {
        self.get(offset) as u32
    }

    fn write32(&self, offset: usize, value: u32) {
        self.write64(offset, value.into());
    }

    fn read64(&self, offset: usize) -> u64 {
        self.get(offset)
    }

    fn write64(&self, offset: usize, value: u64) {
        match offset {
            CR0 => self.set(CR0ACK, value),
            IRQ_CTRL => self.set(IRQ_CTRLACK, value),
            GBPA => return self.set(GBPA, value & 0x7fff_ffff),
            _ => {}
        }
        self.set(offset, value);
        self.take_all();
    }
}

impl TableMemory for Hardware {
    fn alloc(&self, layout: BlockLayout) -> Option<Pa> {
        self.arena.alloc(layout)
    }

    fn free(&self, first: Pa, layout: BlockLayout) {
        self.arena.free(first, layout);
    }

    fn load(&self, at: Pa) -> u64 {
        self.arena.load(at)
    }

    fn store(&self, at: Pa, word: u64) {
        self.arena.store(at, word);
    }

    fn compare_exchange(&self, at: Pa, current: u64, new: u64) -> Result<u64, u64> {
        self.arena.compare_exchange(at, current, new)
    }

    fn clean_table(&self, _: Pa, _: u64) {}
}

impl Barriers for Hardware {
    fn write_barrier(&self) {}
    fn read_barrier(&self) {}
    fn full_barrier(&self) {}
}

impl Clock for Hardware {
    fn now_ns(&self) -> u64 {
        self.now_ns.load(Relaxed)
    }

    fn relax(&self) {
        self.now_ns.fetch_add(1000, Relaxed);
        self.take_all();
    }
}

impl Sink for Hardware {
    fn listening(&self) -> bool {
        false
    }

    fn event(&self, _: &Event<'_>) {}
}

const NO_BUFFERS: &str = "an IOMMU's driver has no buffers";

impl DmaMemory for Hardware {
    fn alloc_buffer(&self, _: BlockLayout) -> Option<Pa> {
        unreachable!("{NO_BUFFERS}")
    }
    fn free_buffer(&self, _: Pa, _: BlockLayout) {
        unreachable!("{NO_BUFFERS}")
    }
    fn read(&self, _: Pa, _: &mut [u8]) {
        unreachable!("{NO_BUFFERS}")
    }
    fn write(&self, _: Pa, _: &[u8]) {
        unreachable!("{NO_BUFFERS}")
    }
    fn read32(&self, _: Pa) -> u32 {
        unreachable!("{NO_BUFFERS}")
    }
    fn write32(&self, _: Pa, _: u32) {
        unreachable!("{NO_BUFFERS}")
    }
    fn clean(&self, _: Pa, _: u64) {}
    fn invalidate(&self, _: Pa, _: u64) {}
}

impl Platform for Hardware {
    type Mutex = spin::Mutex<()>;
}
