//! A platform and just enough hardware for this crate's own tests: registers that are what was written, fault registers that clear, syncs that end.
//!
//! It knows nothing of translation. What the driver makes real hardware do is judged elsewhere, by a model that others wrote.

#![expect(clippy::cast_possible_truncation, reason = "test values are small, registers 32 bits wide")]

extern crate std;

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::collections::BTreeMap;
use std::sync::Mutex;

use portcullis_hal::{Arena, Barriers, BlockLayout, Clock, DmaMemory, Platform, Registers, TableMemory};
use portcullis_spec::smmuv2::Frame;
use portcullis_spec::smmuv2::bank::{FSR, RESUME, SCTLR, TLBSTATUS, TLBSYNC};
use portcullis_spec::smmuv2::global::*;
use portcullis_types::Pa;
use portcullis_types::trace::{Event, Sink};

use crate::config::Config;
use crate::features::{Features, IdRegisters};
use crate::smmu::Smmu;

/// Platform and hardware in one.
pub(crate) struct Fake {
    arena: Arena<spin::Mutex<()>, Box<[AtomicU64]>>,
    time: AtomicU64,
    pub(crate) state: Mutex<State>,
}

/// The hardware's side.
pub(crate) struct State {
    registers: BTreeMap<usize, u64>,
    /// Every register write, in order.
    pub(crate) writes: Vec<(usize, u64)>,
    /// Syncs never end.
    pub(crate) stuck: bool,
    /// After so many, they never do.
    pub(crate) syncs_that_end: Option<usize>,
    /// Bits that SMMU_SMRn can hold.
    pub(crate) smr_bits: u32,
    /// What happens, once, before a word of memory is read.
    pub(crate) before_load: Option<Box<dyn FnOnce() + Send>>,
    frame: Frame,
}

impl fmt::Debug for Fake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Fake")
    }
}

/// Identification registers of an MMU-500 with 8 groups and 4 banks of 4 KiB.
pub(crate) fn ids() -> [(usize, u32); 4] {
    let idr0 = Idr0::new()
        .with_numsmrg(8)
        .with_numsidb(15)
        .with_cttw(true)
        .with_numirpt(1)
        .with_sms(true)
        .with_nts(true)
        .with_s2ts(true)
        .with_s1ts(true);
    let idr1 = Idr1::new().with_numcb(4).with_numpagendxb(2).with_smcd(true);
    let idr2 = Idr2::new()
        .with_ias(5)
        .with_oas(5)
        .with_ubs(5)
        .with_ptfsv8_4kb(true)
        .with_ptfsv8_16kb(true)
        .with_ptfsv8_64kb(true);
    [
        (IDR0, idr0.into_bits()),
        (IDR1, idr1.into_bits()),
        (IDR2, idr2.into_bits()),
        (IDR7, Idr7::new().with_major(2).with_minor(4).into_bits()),
    ]
}

/// What that hardware can do.
pub(crate) fn features() -> Features {
    Features::decode(&IdRegisters::read(&*Fake::new())).unwrap()
}

impl Fake {
    /// Hardware as it comes out of reset: a way around for everybody, and garbage in its groups.
    pub(crate) fn new() -> Arc<Self> {
        let state = State {
            registers: BTreeMap::new(),
            writes: Vec::new(),
            stuck: false,
            syncs_that_end: None,
            smr_bits: 0xffff_7fff,
            before_load: None,
            frame: Frame { page_lg2: 12, pages: 8 },
        };
        let fake = Self {
            arena: Arena::on_heap(Pa::new(0x4000_0000), 24),
            time: AtomicU64::new(0),
            state: Mutex::new(state),
        };
        ids().into_iter().for_each(|(register, value)| fake.set(register, value));
        fake.set(CR0, Cr0::new().with_clientpd(true).into_bits());
        for group in 0..8 {
            fake.set(smr(group), 0x8000_0000 | group as u32);
            fake.set(s2cr(group), 0x0001_0000);
        }
        (0..4).for_each(|bank| fake.set_bank(bank, SCTLR, 0xffff_ffff));
        Arc::new(fake)
    }

    /// A configuration whose waits end soon.
    pub(crate) fn config() -> Config {
        Config { wait_limit_ns: 10_000, ..Config::new("smmu") }
    }

    /// The SMMU, brought up, with nothing in the log.
    pub(crate) fn probe(self: &Arc<Self>, config: Config) -> Arc<Smmu<Self, Arc<Self>>> {
        let smmu = Smmu::probe(self.clone(), self.clone(), config).unwrap();
        self.take_writes();
        smmu
    }

    pub(crate) fn set(&self, register: usize, value: u32) {
        self.with(|state| state.registers.insert(register, value.into()));
    }

    pub(crate) fn set_bank(&self, bank: usize, register: usize, value: u32) {
        let at = self.bank(bank, register);
        self.set(at, value);
    }

    pub(crate) fn get(&self, register: usize) -> u32 {
        self.with(|state| state.get(register)) as u32
    }

    pub(crate) fn get_bank(&self, bank: usize, register: usize) -> u32 {
        self.get(self.bank(bank, register))
    }

    /// The place of a bank's register.
    pub(crate) fn bank(&self, bank: usize, register: usize) -> usize {
        self.with(|state| state.frame.bank(bank, register))
    }

    /// The place of a register of Global Register Space 1.
    pub(crate) fn global1(&self, register: usize) -> usize {
        self.with(|state| state.frame.global1(register))
    }

    pub(crate) fn with<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        act(&mut self.state.lock().unwrap())
    }

    pub(crate) fn live_bytes(&self) -> u64 {
        self.arena.live_bytes()
    }

    pub(crate) fn take_writes(&self) -> Vec<(usize, u64)> {
        self.with(|state| core::mem::take(&mut state.writes))
    }

    /// What the groups that are valid are about, and their SMMU_S2CRn.TYPE with CBNDX.
    pub(crate) fn table(&self) -> Vec<(u16, u16, u8, u8)> {
        let rows = (0..8)
            .map(|group| (Smr::from_bits(self.get(smr(group))), S2cr::from_bits(self.get(s2cr(group)))));
        rows.filter(|(smr, _)| smr.valid())
            .map(|(smr, to)| (smr.id(), smr.mask(), to.kind(), to.cbndx()))
            .collect()
    }
}

impl State {
    fn get(&self, register: usize) -> u64 {
        self.registers.get(&register).copied().unwrap_or(0)
    }

    /// Begins a sync. Answers what its status says from now on.
    fn sync(&mut self) -> u64 {
        let ends = match &mut self.syncs_that_end {
            Some(0) => false,
            Some(left) => {
                *left -= 1;
                true
            }
            None => true,
        };
        u64::from(self.stuck || !ends)
    }

    fn write(&mut self, register: usize, value: u64) {
        self.writes.push((register, value));
        let in_bank = register.checked_sub(self.frame.bank(0, 0)).map(|at| at & 0xfff);
        let held = match (register, in_bank) {
            (GFSR, _) => self.get(register) & !value,
            // SS is cleared by SMMU_CBn_RESUME alone.
            (_, Some(FSR)) => self.get(register) & (!value | 1 << 30),
            (_, Some(RESUME)) => {
                let fsr = register - RESUME + FSR;
                let word = self.get(fsr) & !(1 << 30);
                self.registers.insert(fsr, word);
                return;
            }
            (TLBGSYNC, _) => {
                let busy = self.sync();
                self.registers.insert(TLBGSTATUS, busy);
                return;
            }
            (_, Some(TLBSYNC)) => {
                let busy = self.sync();
                self.registers.insert(register - TLBSYNC + TLBSTATUS, busy);
                return;
            }
            (0x800..0xa00, _) => value & u64::from(self.smr_bits),
            _ => value,
        };
        self.registers.insert(register, held);
    }
}

impl Registers for Fake {
    fn read32(&self, offset: usize) -> u32 {
        self.get(offset)
    }

    fn write32(&self, offset: usize, value: u32) {
        self.with(|state| state.write(offset, value.into()));
    }

    fn read64(&self, offset: usize) -> u64 {
        self.with(|state| state.get(offset))
    }

    fn write64(&self, offset: usize, value: u64) {
        self.with(|state| state.write(offset, value));
    }
}

impl TableMemory for Fake {
    fn alloc(&self, layout: BlockLayout) -> Option<Pa> {
        self.arena.alloc(layout)
    }

    fn free(&self, first: Pa, layout: BlockLayout) {
        self.arena.free(first, layout);
    }

    fn load(&self, at: Pa) -> u64 {
        if let Some(act) = self.with(|state| state.before_load.take()) {
            act();
        }
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

impl DmaMemory for Fake {
    fn alloc_buffer(&self, layout: BlockLayout) -> Option<Pa> {
        self.arena.alloc(layout)
    }

    fn free_buffer(&self, first: Pa, layout: BlockLayout) {
        self.arena.free(first, layout);
    }

    fn read(&self, _: Pa, _: &mut [u8]) {}

    fn write(&self, _: Pa, _: &[u8]) {}

    fn read32(&self, _: Pa) -> u32 {
        0
    }

    fn write32(&self, _: Pa, _: u32) {}

    fn clean(&self, _: Pa, _: u64) {}

    fn invalidate(&self, _: Pa, _: u64) {}
}

impl Barriers for Fake {
    fn write_barrier(&self) {}

    fn read_barrier(&self) {}

    fn full_barrier(&self) {}
}

impl Clock for Fake {
    fn now_ns(&self) -> u64 {
        self.time.load(SeqCst)
    }

    fn relax(&self) {
        self.time.fetch_add(100, SeqCst);
    }
}

impl Sink for Fake {
    fn listening(&self) -> bool {
        true
    }

    fn event(&self, _: &Event<'_>) {}
}

impl Platform for Fake {
    type Mutex = spin::Mutex<()>;
}
