//! Our model takes a case.
//!
//! It has memory of its own, which notes every word that the model reads: what a walk went through.

use core::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use model_bus::{BusError, Clocked, Fabric, Mmio, Outcome, Passage, Ram, Request, Translator, Width, Write};
use model_smmuv3::{Config, Outlook, Policy, Smmu};
use portcullis_types::trace::Silence;
use portcullis_types::{Access as Kind, AccessKind, Iova, Pa, PaRange, SourceId};

use crate::answer::{Answer, Record};
use crate::case::{Access, Case, Stream};
use crate::layout::{
    COMMAND_LG2, COMMANDS, DATA, DATA_END, EVENT_LG2, EVENTS, RAM, RAM_BYTES, is_data, is_nowhere, pattern,
};
use crate::program::{self, EVENTQ_CONS, EVENTQ_PROD, FLUSH, Step};

/// The part that QEMU's `virt` has. Spec: SMMUv3 H.a, 6.3.1 "SMMU_IDR0" to 6.3.6 "SMMU_IDR5".
pub fn config() -> Config {
    Config {
        minor_revision: 1,
        output_bits: 44,
        two_level_contexts: false,
        command_queue_lg2: 19,
        event_queue_lg2: 19,
        msi: false,
        attribute_overrides: false,
        terminate_aborts: true,
        policy: Policy::eager(),
        ..Config::default()
    }
}

/// A word that the model read, and where.
pub type Read = (u64, u64);

/// What the model says of one access.
#[derive(Clone, Debug)]
pub struct Verdict {
    /// What became of it.
    pub answer: Answer,
    /// Where it was let through to, whether or not something answers there.
    pub granted: Option<u64>,
    /// What a walk with nothing cached goes through, in this order.
    pub walked: Vec<Read>,
    /// Behind a stage 2: some root of stage 1 that is on cannot be read through it, whether or not the access needs it.
    pub roots_barred: bool,
    /// It, or a walk for it, would reach what is not the same on both machines: it is not made.
    pub out_of_bounds: bool,
}

/// Our machine.
pub struct Ours {
    memory: Arc<Memory>,
    smmu: Smmu,
    prod: u32,
}

impl Ours {
    /// A machine out of reset.
    pub fn new() -> Self {
        let ram = Ram::new(&[PaRange::new(Pa::new(RAM), RAM_BYTES).expect("RAM ends")]);
        let memory = Arc::new(Memory { ram, reads: Mutex::default(), strayed: AtomicBool::new(false) });
        for at in (DATA..DATA_END).step_by(8) {
            memory.put(at, u64::from(pattern(at + 4)) << 32 | u64::from(pattern(at)));
        }
        for (slot, [low, high]) in (0..1 << COMMAND_LG2).zip(FLUSH.into_iter().cycle()) {
            memory.put(COMMANDS + slot * 16, low);
            memory.put(COMMANDS + slot * 16 + 8, high);
        }
        let smmu = Smmu::new(config(), memory.clone(), 1, Arc::new(Silence));
        Self { memory, smmu, prod: 0 }
    }

    /// The value of a register.
    pub fn register(&self, offset: u64) -> u32 {
        u32::try_from(self.smmu.read(offset, Width::Bits32)).unwrap_or(u32::MAX)
    }

    /// Runs a case.
    pub fn run(&mut self, case: &Case) -> Vec<Verdict> {
        for (at, word) in case.image.words() {
            self.memory.put(at, word);
        }
        for step in program::enable(&case.setup, &mut self.prod) {
            self.step(step);
        }
        let barred: Vec<u32> =
            case.streams.iter().filter(|s| self.roots_barred(case, s)).map(|s| s.id).collect();
        let mut verdicts: Vec<_> =
            case.accesses.iter().map(|access| self.access(access, case.privileged)).collect();
        for (verdict, access) in verdicts.iter_mut().zip(&case.accesses) {
            verdict.roots_barred = barred.contains(&access.stream);
        }
        for (at, _) in case.image.words() {
            self.memory.put(at, 0);
        }
        let _ = self.smmu.take_unpredictable();
        verdicts
    }

    /// Whether stage 2 bars the way to a root of stage 1: seen with stage 1 taken out of the entry for a moment.
    fn roots_barred(&self, case: &Case, stream: &Stream) -> bool {
        let (Some(cd), true) = (stream.cd, stream.ste[0] >> 1 & 7 == 7) else { return false };
        let Some(at) = case.image.find(&stream.ste) else { return false };
        self.memory.put(at, stream.ste[0] & !2);
        let barred = [(14, cd[1]), (30, cd[2])].into_iter().any(|(off, root)| {
            let request = Request {
                source: SourceId(stream.id),
                pasid: None,
                iova: Iova::new(root & 0x000f_ffff_ffff_fff0),
                len_bytes: 8,
                access: Kind::READ,
            };
            cd[0] >> off & 1 == 0 && !matches!(self.smmu.outlook(&request), Outlook::Allowed(_))
        });
        self.memory.put(at, stream.ste[0]);
        barred
    }

    fn step(&self, step: Step) {
        match step {
            Step::Write32(offset, value) => self.smmu.write(offset, Width::Bits32, value.into()),
            Step::Write64(offset, value) => self.smmu.write(offset, Width::Bits64, value),
        }
        while self.smmu.step(0) {}
    }

    fn access(&mut self, access: &Access, privileged: bool) -> Verdict {
        if access.flush {
            let step = program::flush(&mut self.prod);
            self.step(step);
        }
        self.memory.reads().clear();
        self.memory.strayed.store(false, Relaxed);
        let kind = if access.write { AccessKind::Write } else { AccessKind::Read };
        let request = Request {
            source: SourceId(access.stream),
            pasid: None,
            iova: Iova::new(access.address),
            len_bytes: access.len,
            access: Kind { kind, privileged },
        };
        // What a walk goes through now, with nothing cached.
        let _ = self.smmu.outlook(&request);
        let walked = core::mem::take(&mut *self.memory.reads());
        let mut granted = None;
        let outcome = self.smmu.access(&request, &mut |Passage { pa }| {
            granted = Some(pa.get());
            Ok(())
        });
        debug_assert!(matches!(outcome, Outcome::Done | Outcome::Aborted), "{outcome:?}");
        let len = access.len.into();
        let answer = Answer { reached: granted.filter(|&at| is_data(at, len)), records: self.records() };
        let out_of_bounds = self.memory.strayed.load(Relaxed)
            || granted.is_some_and(|at| !is_data(at, len) && !is_nowhere(at, len));
        Verdict { answer, granted, walked, roots_barred: false, out_of_bounds }
    }

    /// Takes what is in the event queue.
    fn records(&self) -> Vec<Record> {
        let (prod, cons) = (self.register(EVENTQ_PROD), self.register(EVENTQ_CONS));
        let mask = (2 << EVENT_LG2) - 1;
        let mut records = Vec::new();
        let mut next = cons & mask;
        while next != prod & mask {
            let at = EVENTS + u64::from(next & ((1 << EVENT_LG2) - 1)) * 32;
            records.push([0, 8, 16, 24].map(|offset| self.memory.get(at + offset)));
            next = (next + 1) & mask;
        }
        self.step(Step::Write32(EVENTQ_CONS, next));
        records
    }
}

impl Default for Ours {
    fn default() -> Self {
        Self::new()
    }
}

/// Memory that notes what is read.
struct Memory {
    ram: Ram,
    reads: Mutex<Vec<Read>>,
    /// A read met something that is there on QEMU's machine, and not on ours.
    strayed: AtomicBool,
}

impl Memory {
    fn put(&self, at: u64, word: u64) {
        self.ram.write(Pa::new(at), &word.to_le_bytes()).expect("an image lies in RAM");
    }

    fn get(&self, at: u64) -> u64 {
        self.ram.load(Pa::new(at)).unwrap_or(0)
    }

    fn reads(&self) -> std::sync::MutexGuard<'_, Vec<Read>> {
        self.reads.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Fabric for Memory {
    fn read(&self, at: Pa, into: &mut [u8]) -> Result<(), BusError> {
        if let Err(error) = self.ram.read(at, into) {
            if !is_nowhere(at.get(), into.len() as u64) {
                self.strayed.store(true, Relaxed);
            }
            return Err(error);
        }
        let words = (at.get()..).step_by(8).zip(into.chunks_exact(8));
        let word = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().unwrap_or_default());
        self.reads().extend(words.map(|(at, bytes)| (at, word(bytes))));
        Ok(())
    }

    fn write(&self, write: Write<'_>) -> Result<(), BusError> {
        self.ram.write(write.at, write.bytes)
    }

    fn compare_exchange(&self, at: Pa, current: u64, new: u64) -> Result<u64, BusError> {
        self.ram.compare_exchange(at, current, new)
    }

    fn now_ns(&self) -> u64 {
        0
    }
}
