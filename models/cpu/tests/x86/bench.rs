//! A machine with x86 CPUs, and tables of words typed by hand.

use std::sync::Arc;

use model_bus::{Bus, BusOptions};
use model_cpu::TlbPolicy;
use model_cpu::x86::{Context, Cpu, CpuFeatures, Cpus, Fault, FaultKind};
use portcullis_types::{AccessKind, Pa, PaRange};

/// The tables of the tests, at fixed places in RAM: PML5, PML4, PDPT, PD, PT.
pub(crate) const PML5: u64 = 0x4010_4000;
pub(crate) const PML4: u64 = 0x4010_0000;
pub(crate) const PDPT: u64 = 0x4010_1000;
pub(crate) const PD: u64 = 0x4010_2000;
pub(crate) const PT: u64 = 0x4010_3000;

/// The PML4 table above, PCID 7; PAE, PGE, PCIDE; LME, LMA, NXE.
pub(crate) const CONTEXT: Context = Context { cr3: 0x4010_0007, cr4: 0x2_00a0, efer: 0xd00 };

/// A page at 0x4020_0000: P, R/W, U/S, A, D, XD.
pub(crate) const PAGE_RW: u64 = 0x8000_0000_4020_0067;

pub(crate) struct Bench {
    pub(crate) bus: Arc<Bus>,
    pub(crate) cpus: Arc<Cpus>,
}

impl Bench {
    /// Two CPUs that walk four tables under PCID 7, down to an empty one for addresses 0 to 2 MiB.
    pub(crate) fn new(features: CpuFeatures, policy: TlbPolicy) -> Self {
        let ram = PaRange::new(Pa::new(0x4000_0000), 0x1000_0000).unwrap();
        let bus = Bus::new(&BusOptions::new(ram, policy.seed));
        let bench = Self { cpus: Cpus::new(bus.clone(), &[features; 2], policy), bus };
        bench.word(PML4, 0x4010_1027);
        bench.word(PDPT, 0x4010_2027);
        bench.word_now(PD, 0x4010_3027);
        bench.cpu(0).switch_to(Some(CONTEXT));
        bench.cpu(1).switch_to(Some(CONTEXT));
        bench
    }

    pub(crate) fn common() -> Self {
        Self::new(CpuFeatures::COMMON, TlbPolicy::holding(1))
    }

    pub(crate) fn cpu(&self, index: usize) -> Cpu {
        self.cpus.cpu(index).unwrap()
    }

    /// Stores a word, and nothing after it.
    pub(crate) fn word(&self, at: u64, word: u64) {
        self.bus.cpu().store64(Pa::new(at), word).unwrap();
    }

    /// Stores a word that walkers see.
    pub(crate) fn word_now(&self, at: u64, word: u64) {
        self.word(at, word);
        self.bus.cpu().write_barrier();
    }

    pub(crate) fn read_word(&self, at: u64) -> u64 {
        self.bus.cpu().load64(Pa::new(at)).unwrap()
    }

    pub(crate) fn clauses(&self) -> Vec<&'static str> {
        self.cpus.unpredictable().iter().map(|noted| noted.clause).collect()
    }
}

/// Where a load goes.
pub(crate) fn goes(cpu: &Cpu, va: u64) -> Result<u64, FaultKind> {
    cpu.translate(va, AccessKind::Read).map(|to| to.pa.get()).map_err(|fault| fault.kind)
}

pub(crate) fn refusal<T: core::fmt::Debug>(result: Result<T, Fault>) -> (FaultKind, u8) {
    let fault = result.unwrap_err();
    (fault.kind, fault.level)
}
