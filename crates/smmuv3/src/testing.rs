//! A platform and just enough hardware for this crate's own tests: a consumer of commands that logs them, and registers that acknowledge.
//!
//! It knows nothing of translation. What the driver makes real hardware do is judged elsewhere, by a model that others wrote.

#![expect(clippy::cast_possible_truncation, reason = "test values are small, registers 32 bits wide")]

extern crate std;

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use core::fmt;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::collections::BTreeMap;
use std::sync::Mutex;

use portcullis_hal::{Arena, Barriers, BlockLayout, Clock, DmaMemory, Platform, Registers, TableMemory};
use portcullis_spec::smmuv3::command::{Command, Opcode, SIG_IRQ, SyncWord0};
use portcullis_spec::smmuv3::registers::*;
use portcullis_types::Pa;
use portcullis_types::trace::{Event, Sink};

use crate::config::Config;

mod shared;

pub(crate) use shared::{FakeMm, FakeSwitches, Machine, Shared};

/// Platform and hardware in one.
pub(crate) struct Fake {
    arena: Arena<spin::Mutex<()>, Box<[AtomicU64]>>,
    time: AtomicU64,
    /// Whether waiting makes the hardware work. Off where a thread of its own does.
    pub(crate) works_while_waited_for: AtomicBool,
    /// Whether threads are made to stop at stores and barriers, so that others get in between.
    pub(crate) restless: AtomicBool,
    dice: AtomicU64,
    pub(crate) state: Mutex<State>,
    /// The names of all trace events.
    pub(crate) events: Mutex<Vec<&'static str>>,
    /// The trace events of sharing and of entries, as they are printed.
    pub(crate) lines: Mutex<Vec<std::string::String>>,
}

/// The hardware's side.
#[derive(Default)]
pub(crate) struct State {
    registers: BTreeMap<usize, u64>,
    /// Every command that was consumed.
    pub(crate) log: Vec<Command>,
    /// Registers that never acknowledge.
    pub(crate) stuck: Vec<usize>,
    /// Opcodes that are illegal.
    pub(crate) illegal: Vec<Opcode>,
    /// Commands are not consumed at all.
    pub(crate) asleep: bool,
    /// Words that were stored and not cleaned since: hardware that does not snoop would read what was there before.
    pub(crate) dirty: std::collections::BTreeSet<u64>,
    /// Words that were stored while translation was on.
    pub(crate) stored_while_on: std::collections::BTreeSet<u64>,
    /// Words that were stored with no write barrier since.
    on_their_way: std::collections::BTreeSet<u64>,
    /// Where an entry lies that is to be stored only when nothing else is on its way.
    pub(crate) entry: Option<core::ops::Range<u64>>,
    /// It was stored while something was.
    pub(crate) entry_came_early: bool,
    /// A command that is illegal, once.
    pub(crate) illegal_once: Option<Command>,
    /// Fetching commands is aborted.
    pub(crate) fetch_aborts: bool,
    /// Devices do not answer ATC invalidations: the sync behind one fails, once.
    pub(crate) atc_silent: bool,
    /// So many times.
    pub(crate) atc_late: u32,
    atc_unanswered: bool,
    /// Signals of syncs are on their way until the next sync is consumed.
    pub(crate) signals_come_late: bool,
    /// The one that is: where, and what.
    pub(crate) signal_on_its_way: Option<(Pa, u64)>,
    /// An event, and a page request, that come right after the driver has looked how many there are.
    pub(crate) late_event: Option<[u64; 4]>,
    pub(crate) late_request: Option<[u64; 2]>,
    /// A page request that comes each time that the driver has looked how many there are.
    pub(crate) endless_request: Option<[u64; 2]>,
    /// A page request that comes as soon as global errors are acknowledged.
    pub(crate) acknowledged_request: Option<[u64; 2]>,
    /// Every register write.
    pub(crate) writes: Vec<(usize, u64)>,
}

impl fmt::Debug for Fake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Fake")
    }
}

/// Identification registers of a well-equipped SMMU.
pub(crate) fn ids() -> [(usize, u32); 5] {
    let idr0 = Idr0::new()
        .with_s1p(true)
        .with_s2p(true)
        .with_ttf(2)
        .with_cohacc(true)
        .with_asid16(true)
        .with_vmid16(true)
        .with_cd2l(true)
        .with_ttendian(2)
        .with_stall_model(1)
        .with_term_model(true)
        .with_st_level(1);
    let idr1 = Idr1::new()
        .with_sidsize(16)
        .with_ssidsize(16)
        .with_cmdqs(8)
        .with_eventqs(7)
        .with_attr_types_ovr(true);
    let idr3 = Idr3::new().with_ril(true).with_bbml(2);
    let idr5 = Idr5::new().with_oas(5).with_gran4k(true).with_gran16k(true).with_gran64k(true);
    [
        (IDR0, idr0.into_bits()),
        (IDR1, idr1.into_bits()),
        (IDR3, idr3.into_bits()),
        (IDR5, idr5.into_bits()),
        (AIDR, 2),
    ]
}

impl Fake {
    pub(crate) fn new() -> Arc<Self> {
        Self::with_memory_at(0x4000_0000)
    }

    pub(crate) fn with_memory_at(base: u64) -> Arc<Self> {
        let fake = Self {
            arena: Arena::on_heap(Pa::new(base), 24),
            time: AtomicU64::new(0),
            works_while_waited_for: AtomicBool::new(true),
            restless: AtomicBool::new(false),
            dice: AtomicU64::new(0x9e37_79b9_7f4a_7c15),
            state: Mutex::default(),
            events: Mutex::default(),
            lines: Mutex::default(),
        };
        ids().into_iter().for_each(|(register, value)| fake.set(register, value));
        Arc::new(fake)
    }

    /// A configuration whose waits end soon.
    pub(crate) fn config() -> Config {
        Config { wait_limit_ns: 100_000, ..Config::new("smmu") }
    }

    /// A wait limit for tests with threads. Time passes with every turn of every thread's polling, also while the thread that all wait for is not
    /// running: what is a while for one is long for four.
    pub(crate) const PATIENT_NS: u64 = 100_000_000_000;

    pub(crate) fn set(&self, register: usize, value: u32) {
        self.state.lock().unwrap().registers.insert(register, value.into());
    }

    pub(crate) fn get(&self, register: usize) -> u64 {
        self.state.lock().unwrap().get(register)
    }

    pub(crate) fn with<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        act(&mut self.state.lock().unwrap())
    }

    pub(crate) fn live_bytes(&self) -> u64 {
        self.arena.live_bytes()
    }

    pub(crate) fn take_log(&self) -> Vec<Command> {
        self.with(|state| core::mem::take(&mut state.log))
    }

    /// Lets other threads in, now and then.
    fn stumble(&self) {
        if self.restless.load(SeqCst) {
            let dice = self.dice.fetch_add(0x9e37_79b9_7f4a_7c15, SeqCst);
            let roll = (dice ^ dice >> 31).wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 60;
            (0..roll.saturating_sub(10)).for_each(|_| std::thread::yield_now());
        }
    }

    /// Consumes at most `most` commands.
    pub(crate) fn work(&self, most: usize) {
        let mut state = self.state.lock().unwrap();
        for _ in 0..most {
            if !state.consume(&self.arena) {
                break;
            }
        }
    }
}

impl State {
    pub(crate) fn get(&self, register: usize) -> u64 {
        self.registers.get(&register).copied().unwrap_or(0)
    }

    fn set(&mut self, register: usize, value: u64) {
        self.registers.insert(register, value);
    }

    fn note_store(&mut self, at: u64) {
        if self.get(CR0) & 1 == 1 {
            self.stored_while_on.insert(at);
        }
        self.dirty.insert(at);
        if let Some(entry) = self.entry.as_ref().filter(|entry| entry.contains(&at)) {
            self.entry_came_early |= self.on_their_way.iter().any(|word| !entry.contains(word));
        }
        self.on_their_way.insert(at);
    }

    fn consume(&mut self, memory: &impl TableMemory) -> bool {
        let enabled = Cr0::from_bits(self.get(CR0) as u32).cmdqen();
        let error = (self.get(GERROR) ^ self.get(GERRORN)) & 1 != 0;
        let base = QueueBase::from_bits(self.get(CMDQ_BASE));
        let mask = (2u64 << base.log2size()) - 1;
        let cons = self.get(CMDQ_CONS);
        let rd = cons & mask;
        if !enabled || error || self.asleep || rd == self.get(CMDQ_PROD) & mask {
            return false;
        }
        let at = (base.addr() << 5) + 16 * (rd & (mask >> 1));
        let command = Command([memory.load(Pa::new(at)), memory.load(Pa::new(at + 8))]);
        let code = if self.fetch_aborts {
            CERROR_ABT
        } else if self.illegal.contains(&command.opcode())
            || command.opcode().name().is_none()
            || self.illegal_once.take_if(|illegal| *illegal == command).is_some()
        {
            CERROR_ILL
        } else if command.opcode() == Opcode::SYNC && core::mem::take(&mut self.atc_unanswered) {
            CERROR_ATC_INV_SYNC
        } else {
            CERROR_NONE
        };
        if code != CERROR_NONE {
            self.set(CMDQ_CONS, rd | u64::from(code) << 24);
            self.set(GERROR, self.get(GERROR) ^ 1);
            return false;
        }
        if command.opcode() == Opcode::ATC_INV && !self.atc_unanswered {
            self.atc_unanswered = self.atc_silent || self.atc_late > 0;
            self.atc_late = self.atc_late.saturating_sub(1);
        }
        self.log.push(command);
        if command.opcode() == Opcode::SYNC
            && let Some((word, signal)) = self.signal_on_its_way.take()
        {
            memory.store(word, signal);
        }
        let sync = SyncWord0::from_bits(command.0[0]);
        if command.opcode() == Opcode::SYNC && sync.cs() == SIG_IRQ && command.0[1] != 0 {
            let word = Pa::new(command.0[1] & !7);
            assert_eq!(command.0[1] & 7, 0, "the low half of a word");
            let signal = u64::from(sync.msi_data());
            if self.signals_come_late {
                self.signal_on_its_way = Some((word, signal));
            } else {
                memory.store(word, signal);
            }
        }
        self.set(CMDQ_CONS, (cons & !0xf_ffff) | ((rd + 1) & mask));
        true
    }

    /// Spec: SMMUv3 H.a, 3.5.1 "SMMU circular queues": the producer is no more than a queue ahead of the consumer.
    fn assert_commands_fit(&self) {
        let slots = 1u64 << QueueBase::from_bits(self.get(CMDQ_BASE)).log2size();
        let (prod, cons) = (self.get(CMDQ_PROD), self.get(CMDQ_CONS));
        assert!(prod.wrapping_sub(cons) & (2 * slots - 1) <= slots, "PROD {prod:#x}, CONS {cons:#x}");
    }

    fn write(&mut self, register: usize, value: u64) {
        self.writes.push((register, value));
        let acknowledge = |state: &mut Self, at: usize, value: u64| {
            if !state.stuck.contains(&at) {
                state.set(at, value);
            }
        };
        let cmdqen = |state: &Self, register| Cr0::from_bits(state.get(register) as u32).cmdqen();
        match register {
            CR0 => {
                if Cr0::from_bits(value as u32).cmdqen() && !cmdqen(self, CR0) {
                    self.assert_commands_fit();
                }
                acknowledge(self, CR0ACK, value);
            }
            // Spec: SMMUv3 H.a, 6.3.26 "SMMU_CMDQ_BASE", 6.3.28 "SMMU_CMDQ_CONS": only of a queue that is off.
            CMDQ_BASE | CMDQ_CONS => assert!(!cmdqen(self, CR0) && !cmdqen(self, CR0ACK), "the queue is on"),
            IRQ_CTRL => acknowledge(self, IRQ_CTRLACK, value),
            GBPA if !self.stuck.contains(&GBPA) => {
                self.set(GBPA, value & !(1 << 31));
                return;
            }
            _ => {}
        }
        self.set(register, value);
    }
}

impl Registers for Fake {
    fn read32(&self, offset: usize) -> u32 {
        let value = self.get(offset) as u32;
        if offset == EVENTQ_PROD
            && let Some(raw) = self.with(|state| state.late_event.take())
        {
            put_event(self, raw);
        }
        if offset == PRIQ_PROD
            && let Some(raw) = self.with(|state| state.late_request.take().or(state.endless_request))
        {
            put_page_request(self, raw);
        }
        value
    }

    fn write32(&self, offset: usize, value: u32) {
        self.state.lock().unwrap().write(offset, value.into());
        if offset == GERRORN
            && let Some(raw) = self.with(|state| state.acknowledged_request.take())
        {
            put_page_request(self, raw);
        }
    }

    fn read64(&self, offset: usize) -> u64 {
        self.get(offset)
    }

    fn write64(&self, offset: usize, value: u64) {
        self.state.lock().unwrap().write(offset, value);
    }
}

/// A block that holds one of this layout, and where in it that begins.
fn skewed(layout: BlockLayout) -> (BlockLayout, u64) {
    let (size, align) = (layout.size_bytes(), layout.align_bytes());
    let skew = if size > align { align } else { 0 };
    (BlockLayout::new(size + skew, align).expect("a power of two"), skew)
}

impl TableMemory for Fake {
    /// Aligned as it is asked for and no more, so that who needs more than that finds out.
    fn alloc(&self, layout: BlockLayout) -> Option<Pa> {
        let (whole, skew) = skewed(layout);
        Some(Pa::new(self.arena.alloc(whole)?.get() + skew))
    }

    fn free(&self, first: Pa, layout: BlockLayout) {
        let (whole, skew) = skewed(layout);
        self.arena.free(Pa::new(first.get() - skew), whole);
    }

    fn load(&self, at: Pa) -> u64 {
        self.arena.load(at)
    }

    fn store(&self, at: Pa, word: u64) {
        self.stumble();
        self.state.lock().unwrap().note_store(at.get());
        self.arena.store(at, word);
    }

    fn compare_exchange(&self, at: Pa, current: u64, new: u64) -> Result<u64, u64> {
        self.arena.compare_exchange(at, current, new)
    }

    fn clean_table(&self, at: Pa, len_bytes: u64) {
        let last = at.get() + len_bytes - 1;
        self.state.lock().unwrap().dirty.retain(|word| !(at.get()..=last).contains(word));
    }
}

impl DmaMemory for Fake {
    fn alloc_buffer(&self, layout: BlockLayout) -> Option<Pa> {
        self.arena.alloc(layout)
    }

    fn free_buffer(&self, first: Pa, layout: BlockLayout) {
        self.arena.free(first, layout);
    }

    fn read(&self, at: Pa, into: &mut [u8]) {
        for (offset, byte) in (at.get()..).zip(into) {
            *byte = self.arena.load(Pa::new(offset & !7)).to_le_bytes()[(offset & 7) as usize];
        }
    }

    fn write(&self, at: Pa, from: &[u8]) {
        for (offset, &byte) in (at.get()..).zip(from) {
            let mut word = self.arena.load(Pa::new(offset & !7)).to_le_bytes();
            word[(offset & 7) as usize] = byte;
            self.arena.store(Pa::new(offset & !7), u64::from_le_bytes(word));
        }
    }

    fn read32(&self, at: Pa) -> u32 {
        let mut bytes = [0; 4];
        DmaMemory::read(self, at, &mut bytes);
        u32::from_le_bytes(bytes)
    }

    fn write32(&self, at: Pa, word: u32) {
        DmaMemory::write(self, at, &word.to_le_bytes());
    }

    fn clean(&self, _: Pa, _: u64) {}

    fn invalidate(&self, _: Pa, _: u64) {}
}

impl Barriers for Fake {
    fn write_barrier(&self) {
        self.stumble();
        self.state.lock().unwrap().on_their_way.clear();
        core::sync::atomic::fence(SeqCst);
    }

    fn read_barrier(&self) {
        core::sync::atomic::fence(SeqCst);
    }

    fn full_barrier(&self) {
        core::sync::atomic::fence(SeqCst);
    }
}

impl Clock for Fake {
    fn now_ns(&self) -> u64 {
        self.time.load(SeqCst)
    }

    fn relax(&self) {
        if self.works_while_waited_for.load(SeqCst) {
            self.time.fetch_add(100, SeqCst);
            self.work(4);
        } else {
            self.time.fetch_add(1, SeqCst);
            std::thread::yield_now();
        }
    }
}

impl Sink for Fake {
    fn listening(&self) -> bool {
        true
    }

    fn event(&self, event: &Event<'_>) {
        self.events.lock().unwrap().push(event.name);
        if event.name.starts_with("smmu_") || event.name == "ste_update" {
            self.lines.lock().unwrap().push(std::format!("{event}"));
        }
    }
}

impl Platform for Fake {
    type Mutex = spin::Mutex<()>;

    fn current_cpu(&self) -> usize {
        use core::hash::{Hash, Hasher};
        use std::hash::DefaultHasher;
        let mut hasher = DefaultHasher::new();
        std::thread::current().id().hash(&mut hasher);
        (hasher.finish() % 4) as usize
    }

    fn cpu_count(&self) -> usize {
        4
    }
}

/// Puts an event record into the queue, as hardware does.
pub(crate) fn put_event(fake: &Fake, raw: [u64; 4]) {
    let base = QueueBase::from_bits(fake.get(EVENTQ_BASE));
    let mask = (2u64 << base.log2size()) - 1;
    let prod = fake.get(EVENTQ_PROD);
    let slot = (base.addr() << 5) + 32 * (prod & (mask >> 1));
    for (index, word) in (0u64..).zip(raw) {
        fake.store(Pa::new(slot + 8 * index), word);
    }
    let next = (prod & !0xf_ffff) | ((prod + 1) & mask);
    fake.with(|state| state.set(EVENTQ_PROD, next));
}

/// Puts a page request into the queue, as hardware does.
pub(crate) fn put_page_request(fake: &Fake, raw: [u64; 2]) {
    let base = QueueBase::from_bits(fake.get(PRIQ_BASE));
    let mask = (2u64 << base.log2size()) - 1;
    let prod = fake.get(PRIQ_PROD);
    let slot = (base.addr() << 5) + 16 * (prod & (mask >> 1));
    fake.store(Pa::new(slot), raw[0]);
    fake.store(Pa::new(slot + 8), raw[1]);
    let next = (prod & !0xf_ffff) | ((prod + 1) & mask);
    fake.with(|state| state.set(PRIQ_PROD, next));
}

/// The words of a stream's entry, found as hardware finds them.
pub(crate) fn ste(fake: &Fake, stream_id: u64) -> [u64; 8] {
    let level1 = (fake.get(STRTAB_BASE) & 0x00ff_ffff_ffff_ffc0) + 8 * (stream_id >> 8);
    let leaf = fake.load(Pa::new(level1)) & 0x00ff_ffff_ffff_ffc0;
    core::array::from_fn(|word| fake.load(Pa::new(leaf + 64 * (stream_id & 0xff) + 8 * word as u64)))
}

/// The words of a context descriptor, found as hardware finds them; none if the first level is not valid.
pub(crate) fn cd(fake: &Fake, stream_id: u64, substream_id: u64) -> Option<[u64; 8]> {
    let at = cd_place(fake, stream_id, substream_id)?;
    Some(core::array::from_fn(|word| fake.load(Pa::new(at + 8 * word as u64))))
}

/// Where hardware finds it.
pub(crate) fn cd_place(fake: &Fake, stream_id: u64, substream_id: u64) -> Option<u64> {
    let word0 = ste(fake, stream_id)[0];
    let root = word0 & 0x00ff_ffff_ffff_ffc0;
    let at = if word0 >> 4 & 3 == 0 {
        root + 64 * substream_id
    } else {
        let level1 = fake.load(Pa::new(root + 8 * (substream_id >> 6)));
        if level1 & 1 == 0 {
            return None;
        }
        (level1 & 0x00ff_ffff_ffff_f000) + 64 * (substream_id & 63)
    };
    Some(at)
}

/// The opcodes of a log.
pub(crate) fn opcodes(log: &[Command]) -> Vec<Opcode> {
    log.iter().map(|command| command.opcode()).collect()
}

/// `count` times the sync's opcode and what is before it.
pub(crate) fn with_syncs(command: Opcode, count: usize) -> Vec<Opcode> {
    vec![[command, Opcode::SYNC]; count].concat()
}
