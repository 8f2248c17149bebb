//! A platform whose every step can be where a thread is stopped, and an SMMU that consumes commands, one at each call.

extern crate std;

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64 as Plain, Ordering::SeqCst};
use std::sync::Mutex;

use portcullis_hal::{Arena, Barriers, BlockLayout, Clock, DmaMemory, Platform, Registers, TableMemory};
use portcullis_spec::smmuv3::command::{Command, Opcode, SIG_IRQ, SyncWord0};
use portcullis_spec::smmuv3::registers::*;
use portcullis_types::Pa;
use portcullis_types::trace::{Event, Sink};

use crate::atomics::stop;

/// What a lock does while somebody else has it.
pub(super) struct Turn;

impl spin::RelaxStrategy for Turn {
    fn relax() {
        stop();
    }
}

/// Platform and hardware in one.
pub(super) struct Stage {
    arena: Arena<spin::Mutex<()>, Box<[Plain]>>,
    cpus: usize,
    now_ns: Plain,
    prod: Plain,
    cons: Plain,
    gerror: Plain,
    gerrorn: Plain,
    seen: Mutex<Seen>,
    size_lg2: u8,
    base: Mutex<Option<Pa>>,
}

/// What the hardware met.
#[derive(Default)]
pub(super) struct Seen {
    /// Every command that was consumed.
    pub(super) log: Vec<Command>,
    /// Commands of these opcodes are illegal.
    pub(super) illegal: Vec<Opcode>,
    /// Commands that were illegal.
    pub(super) refused: Vec<Command>,
    /// The memory was given back: nothing may be loaded or stored there any more.
    pub(super) over: bool,
}

impl core::fmt::Debug for Stage {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("Stage")
    }
}

impl Stage {
    /// With so many CPUs, and a queue of `1 << size_lg2` commands at [`begin`](Self::begin).
    pub(super) fn new(cpus: usize, size_lg2: u8) -> Arc<Self> {
        let word = || Plain::new(0);
        Arc::new(Self {
            arena: Arena::on_heap(Pa::new(0x4000_0000), 13),
            cpus,
            now_ns: word(),
            prod: word(),
            cons: word(),
            gerror: word(),
            gerrorn: word(),
            seen: Mutex::default(),
            size_lg2,
            base: Mutex::default(),
        })
    }

    /// Consumes from now on what is queued here.
    pub(super) fn begin(&self, base_register: u64) {
        *self.base.lock().unwrap() = Some(Pa::new(QueueBase::from_bits(base_register).addr() << 5));
    }

    pub(super) fn with<T>(&self, act: impl FnOnce(&mut Seen) -> T) -> T {
        act(&mut self.seen.lock().unwrap())
    }

    pub(super) fn live_bytes(&self) -> u64 {
        self.arena.live_bytes()
    }

    /// Time passes, and nothing else happens.
    pub(super) fn pass(&self, ns: u64) {
        stop();
        self.now_ns.fetch_add(ns, SeqCst);
    }

    /// Consumes one command, if there is one and no error stops the queue.
    pub(super) fn work(&self) {
        let mask = (2u64 << self.size_lg2) - 1;
        let (rd, prod) = (self.cons.load(SeqCst) & mask, self.prod.load(SeqCst) & mask);
        let held = (self.gerror.load(SeqCst) ^ self.gerrorn.load(SeqCst)) & 1 != 0;
        let Some(base) = *self.base.lock().unwrap() else { return };
        if held || rd == prod {
            return;
        }
        let at = base.get() + 16 * (rd & (mask >> 1));
        let words = [self.arena.load(Pa::new(at)), self.arena.load(Pa::new(at + 8))];
        let command = Command(words);
        assert!(command.opcode().name().is_some(), "the command at {rd} is none: {words:x?}");
        if self.with(|seen| seen.illegal.contains(&command.opcode())) {
            self.with(|seen| seen.refused.push(command));
            self.cons.store(rd | u64::from(CERROR_ILL) << 24, SeqCst);
            self.gerror.fetch_xor(1, SeqCst);
            return;
        }
        self.with(|seen| seen.log.push(command));
        let sync = SyncWord0::from_bits(words[0]);
        if command.opcode() == Opcode::SYNC && sync.cs() == SIG_IRQ && words[1] != 0 {
            self.arena.store(Pa::new(words[1]), u64::from(sync.msi_data()));
        }
        self.cons.store((rd + 1) & mask, SeqCst);
    }

    fn register(&self, offset: usize) -> &Plain {
        match offset {
            CMDQ_PROD => &self.prod,
            CMDQ_CONS => &self.cons,
            GERROR => &self.gerror,
            GERRORN => &self.gerrorn,
            _ => panic!("the command queue has no register at {offset:#x}"),
        }
    }
}

impl Registers for Stage {
    fn read32(&self, offset: usize) -> u32 {
        stop();
        u32::try_from(self.register(offset).load(SeqCst)).unwrap()
    }

    fn write32(&self, offset: usize, value: u32) {
        stop();
        assert!(
            !self.with(|seen| seen.over),
            "the hardware was told of commands in memory that was given back"
        );
        self.register(offset).store(value.into(), SeqCst);
    }

    fn read64(&self, _: usize) -> u64 {
        unreachable!("the command queue reads no such register")
    }

    fn write64(&self, _: usize, _: u64) {
        unreachable!("the command queue writes no such register")
    }
}

impl TableMemory for Stage {
    fn alloc(&self, layout: BlockLayout) -> Option<Pa> {
        self.arena.alloc(layout)
    }

    fn free(&self, first: Pa, layout: BlockLayout) {
        self.arena.free(first, layout);
    }

    fn load(&self, at: Pa) -> u64 {
        stop();
        assert!(!self.with(|seen| seen.over), "a load from memory that was given back");
        self.arena.load(at)
    }

    fn store(&self, at: Pa, word: u64) {
        stop();
        assert!(!self.with(|seen| seen.over), "a store to memory that was given back");
        self.arena.store(at, word);
    }

    fn compare_exchange(&self, at: Pa, current: u64, new: u64) -> Result<u64, u64> {
        self.arena.compare_exchange(at, current, new)
    }

    fn clean_table(&self, _: Pa, _: u64) {}
}

impl Barriers for Stage {
    fn write_barrier(&self) {
        stop();
    }

    fn read_barrier(&self) {
        stop();
    }

    fn full_barrier(&self) {
        stop();
    }
}

impl Clock for Stage {
    fn now_ns(&self) -> u64 {
        self.now_ns.load(SeqCst)
    }

    fn relax(&self) {
        self.now_ns.fetch_add(1, SeqCst);
        stop();
    }
}

impl Sink for Stage {
    fn listening(&self) -> bool {
        false
    }

    fn event(&self, _: &Event<'_>) {}
}

const NO_BUFFERS: &str = "a queue has no buffers";

impl DmaMemory for Stage {
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
    fn clean(&self, _: Pa, _: u64) {
        unreachable!("{NO_BUFFERS}")
    }
    fn invalidate(&self, _: Pa, _: u64) {
        unreachable!("{NO_BUFFERS}")
    }
}

impl Platform for Stage {
    type Mutex = spin::mutex::Mutex<(), Turn>;

    /// Each thread of the test is a CPU of its own, as far as there are so many.
    fn current_cpu(&self) -> usize {
        usize::from(shuttle::current::me()) % self.cpus
    }

    fn cpu_count(&self) -> usize {
        self.cpus
    }
}
