//! A platform and just enough hardware for this crate's own tests: a consumer of descriptors that logs them, and registers that acknowledge.
//!
//! It knows nothing of translation. What the driver makes real hardware do is judged elsewhere, by a model that others wrote.

#![expect(clippy::cast_possible_truncation, reason = "test values are small, registers 32 bits wide")]

extern crate std;

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::thread::JoinHandle;

use portcullis_hal::{Arena, Barriers, BlockLayout, Clock, DmaMemory, Platform, Registers, TableMemory};
use portcullis_spec::vtd::registers::*;
use portcullis_types::Pa;
use portcullis_types::trace::{Event, Sink};

use crate::config::Config;
use crate::descriptor::Descriptor;
use crate::vtd::Vtd;

/// 4 levels and 3, 48 bits, 2 MiB and 1 GiB, 16-bit domain-ids, page-selective with masks up to 18, two fault records at 0x220.
pub(crate) const CAP_LEGACY: u64 =
    0b11 << 54 | 0x0012_0180_0000_0606 | 47 << 16 | 0x22 << 24 | 0b11 << 34 | 1 << 39;
/// Coherent, QI, IR, EIM, PT, SC, masks of up to 15 interrupts.
pub(crate) const ECAP_LEGACY: u64 = 0x00f0_0fdb;
/// And device TLBs, page requests, PASIDs of 20 bits, draining, scalable mode, both stages, coherent walks.
pub(crate) const ECAP_SCALABLE: u64 =
    ECAP_LEGACY | 1 << 2 | 1 << 25 | 1 << 41 | 1 << 29 | 19 << 35 | 1 << 40 | 1 << 42 | 1 << 43 | 0b111 << 46;

/// Platform and hardware in one.
pub(crate) struct Fake {
    arena: Arena<spin::Mutex<()>, Box<[AtomicU64]>>,
    time: AtomicU64,
    pub(crate) state: Mutex<State>,
}

/// What happens in between.
pub(crate) type Hook = Box<dyn FnOnce() + Send>;

/// Whether it is about a store of this word there.
pub(crate) type About = Box<dyn Fn(Pa, u64) -> bool + Send>;

/// The hardware's side.
#[derive(Default)]
pub(crate) struct State {
    registers: BTreeMap<usize, u64>,
    /// Every descriptor that was consumed.
    pub(crate) log: Vec<Descriptor>,
    /// What happened, in order.
    pub(crate) story: Vec<Act>,
    /// Bits of GSTS_REG that never change.
    pub(crate) stuck: u32,
    /// Types that are refused.
    pub(crate) refused: Vec<u8>,
    /// Descriptors are not consumed at all.
    pub(crate) asleep: bool,
    /// So many invalidations of device TLBs go unanswered.
    pub(crate) unanswered: u32,
    /// What happens when the last of them has timed out.
    pub(crate) at_timeout: Option<Hook>,
    /// So many more blocks of memory are given out, if that is counted.
    pub(crate) blocks_left: Option<u32>,
    /// Words that were stored and not cleaned since.
    pub(crate) dirty: BTreeSet<u64>,
    /// Blocks that were given out, by address, and their sizes.
    blocks: BTreeMap<u64, u64>,
    /// What happens, once, behind the first store that it is about.
    pub(crate) behind_store: Option<(About, Hook)>,
    /// What happens, once, when somebody who waits looks again.
    pub(crate) behind_relax: Option<Hook>,
    /// The fault record at this offset, and a fault that is recorded there, once, behind the first look at a half of a word of it.
    pub(crate) fault: Option<(usize, [u64; 2])>,
    /// What happens, once, when the block at this address is given back.
    pub(crate) behind_free: Option<(Pa, Hook)>,
}

/// Something that hardware could notice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Act {
    /// A word was stored.
    Store(u64, u64),
    /// A register was written.
    Write(usize, u64),
    /// A descriptor was consumed.
    Consumed(Descriptor),
}

impl fmt::Debug for Fake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Fake")
    }
}

impl Fake {
    pub(crate) fn new(capability: u64, extended: u64) -> Arc<Self> {
        let fake = Self {
            arena: Arena::on_heap(Pa::new(0x4000_0000), 24),
            time: AtomicU64::new(0),
            state: Mutex::default(),
        };
        fake.set(VER, 0x10);
        fake.set(CAP, capability);
        fake.set(ECAP, extended);
        Arc::new(fake)
    }

    pub(crate) fn legacy() -> Arc<Self> {
        Self::new(CAP_LEGACY, ECAP_LEGACY)
    }

    pub(crate) fn scalable() -> Arc<Self> {
        Self::new(CAP_LEGACY, ECAP_SCALABLE)
    }

    /// A configuration whose waits end soon.
    pub(crate) fn config() -> Config {
        Config { wait_limit_ns: 100_000, ..Config::new("unit") }
    }

    pub(crate) fn probe(self: &Arc<Self>, config: Config) -> Vtd<Self, Self> {
        Vtd::probe(self.clone(), self.clone(), config).unwrap()
    }

    pub(crate) fn set(&self, register: usize, value: u64) {
        self.state.lock().unwrap().registers.insert(register, value);
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

    pub(crate) fn take_log(&self) -> Vec<Descriptor> {
        self.with(|state| {
            state.story.clear();
            core::mem::take(&mut state.log)
        })
    }

    /// The types of what was consumed since the last look.
    pub(crate) fn kinds(&self) -> Vec<u8> {
        self.take_log().iter().map(Descriptor::kind).collect()
    }

    pub(crate) fn word(&self, at: u64) -> u64 {
        self.arena.load(Pa::new(at))
    }

    /// The context entry of a source, found as hardware finds it; none if its root entry is not present.
    pub(crate) fn context(&self, sid: u64) -> Option<[u64; 4]> {
        let register = self.get(RTADDR);
        let scalable = register >> 10 & 3 == 1;
        let (bus, devfn) = (sid >> 8, sid & 0xff);
        let word = (register & !0xfff) + 16 * bus + if scalable { 8 * (devfn >> 7) } else { 0 };
        let root = self.word(word);
        if root & 1 == 0 {
            return None;
        }
        let at = (root & !0xfff) + if scalable { 32 * (devfn & 0x7f) } else { 16 * devfn };
        let words = if scalable { 4 } else { 2 };
        Some(core::array::from_fn(|index| if index < words { self.word(at + 8 * index as u64) } else { 0 }))
    }

    /// The entry of a PASID, found as hardware finds it; none if anything above it is not present.
    pub(crate) fn pasid(&self, sid: u64, pasid: u64) -> Option<[u64; 8]> {
        let context = self.context(sid)?;
        let directory = context[0];
        if directory & 1 == 0 || pasid >> 6 >= 1 << (7 + (directory >> 9 & 7)) {
            return None;
        }
        let entry = self.word((directory & !0xfff) + 8 * (pasid >> 6));
        let at = (entry & !0xfff) + 64 * (pasid & 0x3f);
        (entry & 1 == 1).then(|| core::array::from_fn(|index| self.word(at + 8 * index as u64)))
    }

    /// Whether somebody was given the memory at this address and has not given it back.
    pub(crate) fn is_given_out(&self, at: u64) -> bool {
        let before =
            self.with(|state| state.blocks.range(..=at).next_back().map(|(&first, &len)| (first, len)));
        before.is_some_and(|(first, len)| at - first < len)
    }

    fn assert_given_out(&self, at: Pa) {
        assert!(self.is_given_out(at.get()), "{at} is nobody's memory");
    }

    /// Consumes at most `most` descriptors.
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
    fn get(&self, register: usize) -> u64 {
        self.registers.get(&register).copied().unwrap_or(0)
    }

    fn set(&mut self, register: usize, value: u64) {
        self.registers.insert(register, value);
    }

    fn consume(&mut self, memory: &impl TableMemory) -> bool {
        let on = self.get(GSTS) >> 26 & 1 == 1;
        let stopped = self.get(FSTS) & (1 << 4 | 1 << 6) != 0;
        let (head, tail) = (self.get(IQH), self.get(IQT));
        if !on || stopped || self.asleep || head == tail {
            return false;
        }
        let address = self.get(IQA);
        let (bytes, size) = (if address >> 11 & 1 == 1 { 32 } else { 16 }, 0x1000 << (address & 7));
        let at = (address & !0xfff) + head;
        let words = core::array::from_fn(|index| {
            if index < bytes / 8 { memory.load(Pa::new(at + 8 * index as u64)) } else { 0 }
        });
        let descriptor = Descriptor(words);
        if self.refused.contains(&descriptor.kind()) {
            self.set(IQERCD, 3);
            self.set(FSTS, self.get(FSTS) | 1 << 4);
            return false;
        }
        self.set(IQH, (head + bytes as u64) % size);
        if descriptor.asks_a_device() && self.unanswered > 0 {
            self.unanswered -= 1;
            if let Some(hook) = self.at_timeout.take_if(|_| self.unanswered == 0) {
                hook();
            }
            // The head is behind the wait, which the unit had fetched and dropped.
            self.set(IQH, tail);
            self.set(FSTS, self.get(FSTS) | 1 << 6);
            return false;
        }
        self.log.push(descriptor);
        self.story.push(Act::Consumed(descriptor));
        if descriptor.kind() == 5 && words[0] >> 5 & 1 == 1 {
            memory.store(Pa::new(words[1]), words[0] >> 32);
        }
        true
    }

    fn write(&mut self, register: usize, value: u64) {
        self.story.push(Act::Write(register, value));
        match register {
            GCMD => {
                let before = self.get(GSTS);
                let stay = u64::from(self.stuck);
                let one_shot = before & (1 << 30 | 1 << 24);
                let status = (value & !(1 << 27)) | one_shot;
                self.set(GSTS, status & !stay | before & stay);
                let [was_on, is_on] = [before, self.get(GSTS)].map(|status| status >> 26 & 1 == 1);
                if !is_on {
                    self.set(IQH, 0);
                } else if !was_on {
                    assert_eq!(self.get(IQT), 0, "the queue is turned on empty");
                }
            }
            FSTS => self.set(FSTS, self.get(FSTS) & !(value & 0x71)),
            PRS => self.set(PRS, self.get(PRS) & !value),
            // F of a fault record.
            0x22c | 0x23c if value >> 31 & 1 == 1 => {
                let word = self.get(register - 4);
                self.set(register - 4, word & !(1 << 63));
            }
            _ => self.set(register, value),
        }
    }
}

impl Registers for Fake {
    fn read32(&self, offset: usize) -> u32 {
        let mut state = self.state.lock().unwrap();
        let half = match offset {
            0x224 | 0x22c | 0x234 | 0x23c => state.get(offset - 4) >> 32,
            _ => state.get(offset),
        };
        if let Some((at, words)) = state.fault.take_if(|(at, _)| (*at..*at + 16).contains(&offset)) {
            state.set(at, words[0]);
            state.set(at + 8, words[1]);
            let status = state.get(FSTS) | 1 << 1;
            state.set(FSTS, status);
        }
        half as u32
    }

    fn write32(&self, offset: usize, value: u32) {
        self.state.lock().unwrap().write(offset, value.into());
    }

    fn read64(&self, offset: usize) -> u64 {
        match offset {
            // As a bus may split it.
            0x220..0x240 => {
                let half = |offset| u64::from(Registers::read32(self, offset));
                half(offset) | half(offset + 4) << 32
            }
            _ => self.get(offset),
        }
    }

    fn write64(&self, offset: usize, value: u64) {
        self.state.lock().unwrap().write(offset, value);
    }
}

impl TableMemory for Fake {
    fn alloc(&self, layout: BlockLayout) -> Option<Pa> {
        let left = self.with(|state| {
            let left = state.blocks_left;
            state.blocks_left = left.map(|left| left.saturating_sub(1));
            left
        });
        if left == Some(0) {
            return None;
        }
        let first = self.arena.alloc(layout)?;
        self.with(|state| state.blocks.insert(first.get(), layout.size_bytes()));
        Some(first)
    }

    fn free(&self, first: Pa, layout: BlockLayout) {
        assert_eq!(self.with(|state| state.blocks.remove(&first.get())), Some(layout.size_bytes()));
        self.arena.free(first, layout);
        if let Some((_, act)) = self.with(|state| state.behind_free.take_if(|(at, _)| *at == first)) {
            act();
        }
    }

    fn load(&self, at: Pa) -> u64 {
        self.assert_given_out(at);
        self.arena.load(at)
    }

    fn store(&self, at: Pa, word: u64) {
        self.assert_given_out(at);
        let behind = self.with(|state| {
            state.dirty.insert(at.get());
            state.story.push(Act::Store(at.get(), word));
            state.behind_store.take_if(|(about, _)| about(at, word))
        });
        self.arena.store(at, word);
        if let Some((_, act)) = behind {
            act();
        }
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

    fn read(&self, _: Pa, _: &mut [u8]) {}

    fn write(&self, _: Pa, _: &[u8]) {}

    fn read32(&self, at: Pa) -> u32 {
        self.arena.load(Pa::new(at.get() & !7)) as u32
    }

    fn write32(&self, _: Pa, _: u32) {}

    fn clean(&self, _: Pa, _: u64) {}

    fn invalidate(&self, _: Pa, _: u64) {}
}

impl Barriers for Fake {
    fn write_barrier(&self) {
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
        self.time.fetch_add(100, SeqCst);
        self.work(4);
        if let Some(act) = self.with(|state| state.behind_relax.take()) {
            act();
        }
    }
}

impl Sink for Fake {
    fn listening(&self) -> bool {
        true
    }

    fn event(&self, _: &Event<'_>) {}
}

impl Platform for Fake {
    type Mutex = spin::mutex::Mutex<(), Spin>;
}

/// How often somebody looked at a lock that another had.
static SPINS: AtomicUsize = AtomicUsize::new(0);

/// Waits for a lock.
pub(crate) struct Spin;

impl spin::RelaxStrategy for Spin {
    fn relax() {
        SPINS.fetch_add(1, SeqCst);
        std::thread::yield_now();
    }
}

/// Another CPU does this. Comes back when it has, or when it waits for a lock.
pub(crate) fn other_cpu<T: Send + 'static>(act: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
    let spins = SPINS.load(SeqCst);
    let cpu = std::thread::spawn(act);
    while !cpu.is_finished() && SPINS.load(SeqCst) == spins {
        std::thread::yield_now();
    }
    cpu
}
