//! A machine with CPUs, and tables of words typed by hand.

use std::sync::Arc;

use model_bus::{Bus, BusOptions};
use model_cpu::{Context, Cpu, CpuFeatures, Cpus, TlbPolicy};
use portcullis_types::{Pa, PaRange};

/// T0SZ 16, 4K, IPS 48 bits, 16-bit ASIDs, EPD1, caches write-back, inner shareable.
pub(crate) const TCR_4K: u64 = 0x0000_0015_0080_3510;
/// Index 0 is write-back memory.
pub(crate) const MAIR: u64 = 0x0000_0000_0004_44ff;

/// The tables of the 4K tests, at fixed places in RAM.
pub(crate) const L0: u64 = 0x4010_0000;
pub(crate) const L1: u64 = 0x4010_1000;
pub(crate) const L2: u64 = 0x4010_2000;
pub(crate) const L3: u64 = 0x4010_3000;

pub(crate) struct Bench {
    pub(crate) bus: Arc<Bus>,
    pub(crate) cpus: Arc<Cpus>,
}

impl Bench {
    pub(crate) fn new(features: CpuFeatures, policy: TlbPolicy) -> Self {
        let ram = PaRange::new(Pa::new(0x4000_0000), 0x1000_0000).unwrap();
        let bus = Bus::new(&BusOptions::new(ram, policy.seed));
        Self { cpus: Cpus::new(bus.clone(), &[features; 2], policy), bus }
    }

    /// A machine whose CPUs walk three tables with 4K granule for ASID 7, down to an empty one for addresses 0 to 2 MiB.
    pub(crate) fn with_tables(features: CpuFeatures, policy: TlbPolicy, tcr_extra: u64) -> Self {
        let bench = Self::new(features, policy);
        bench.word(L0, 0x4010_1003);
        bench.word(L1, 0x4010_2003);
        bench.word(L2, 0x4010_3003);
        let context = Context { ttbr0: 0x0007_0000_4010_0000, tcr: TCR_4K | tcr_extra, mair: MAIR };
        bench.cpu(0).switch_to(Some(context));
        bench.cpu(1).switch_to(Some(context));
        bench.cpu(0).barrier();
        bench
    }

    pub(crate) fn common() -> Self {
        Self::with_tables(CpuFeatures::COMMON, TlbPolicy::holding(1), 0)
    }

    pub(crate) fn cpu(&self, index: usize) -> Cpu {
        self.cpus.cpu(index).unwrap()
    }

    /// Stores a word without a barrier.
    pub(crate) fn word(&self, at: u64, word: u64) {
        self.bus.cpu().store64(Pa::new(at), word).unwrap();
    }

    /// Stores a word, and a barrier after it.
    pub(crate) fn word_now(&self, at: u64, word: u64) {
        self.word(at, word);
        self.bus.cpu().write_barrier();
    }

    pub(crate) fn read_word(&self, at: u64) -> u64 {
        self.bus.cpu().load64(Pa::new(at)).unwrap()
    }
}
