//! A machine with nothing but memory and an SMMU.
//!
//! | where | what |
//! |---|---|
//! | 0x1_0000 | command queue, 16 entries |
//! | 0x2_0000 | event queue, 8 entries |
//! | 0x4_0000 | linear stream table, 64 entries |
//! | 0x5_0000 | context descriptor of stream 1 |
//! | 0x10_0000 | stage 1 tables: level 1, then 0x1000 each for levels 2 and 3 |
//! | 0x20_0000 | stage 2 tables: two concatenated of level 1, then level 2, level 3 |
//! | 0xf000_0000 | a doorbell that remembers |

use core::ops::RangeInclusive;
use std::sync::{Arc, Mutex};

use model_bus::{
    BusError, Clocked, Fabric, Mmio, Outcome, Request, SparseMemory, Stall, Translator, Width, Write,
};
use model_smmuv3::{Config, Policy, Smmu, Unpredictable};
use portcullis_types::trace::Silence;
use portcullis_types::{Access, AccessKind, Iova, Pa, Pasid, SourceId};

pub(crate) const COMMANDS: u64 = 0x1_0000;
pub(crate) const EVENTS: u64 = 0x2_0000;
pub(crate) const STREAMS: u64 = 0x4_0000;
pub(crate) const CD: u64 = 0x5_0000;
pub(crate) const L1: u64 = 0x10_0000;
pub(crate) const L2: u64 = 0x10_1000;
pub(crate) const L3: u64 = 0x10_2000;
pub(crate) const S2_L1: u64 = 0x20_0000;
pub(crate) const S2_L2: u64 = 0x20_2000;
pub(crate) const S2_L3: u64 = 0x20_3000;
pub(crate) const DOORBELL: u64 = 0xf000_0000;

/// V, Config=0b101, the pointer.
pub(crate) const STE_S1: [u64; 8] = [0x5_000b, 0, 0, 0, 0, 0, 0, 0];
/// V, Config=0b110; VMID 1, S2T0SZ=24, S2SL0=1, S2PS=5, S2AA64, S2R.
pub(crate) const STE_S2: [u64; 8] = [0xd, 0, 0x040d_0058_0000_0001, S2_L1, 0, 0, 0, 0];
/// V, Config=0b111, both of the above.
pub(crate) const STE_NESTED: [u64; 8] = [0x5_000f, 0, 0x040d_0058_0000_0001, S2_L1, 0, 0, 0, 0];
/// V, Config=0b100.
pub(crate) const STE_BYPASS: [u64; 8] = [0x9, 0, 0, 0, 0, 0, 0, 0];
/// V, Config=0b000.
pub(crate) const STE_ABORT: [u64; 8] = [0x1, 0, 0, 0, 0, 0, 0, 0];
/// T0SZ=25, EPD1, V, IPS=5, AA64, R, A, ASID 1; TTB0; MAIR with attribute 0 write-back.
pub(crate) const CD_39: [u64; 8] = [0x0001_6205_c000_0019, L1, 0, 0xff, 0, 0, 0, 0];

/// A stage 1 page: nG, AF, inner shareable, AP=0b01 (all may read and write).
pub(crate) const PAGE: u64 = 0xf43;
/// A stage 2 page: AF, inner shareable, S2AP=0b11, MemAttr write-back.
pub(crate) const S2_PAGE: u64 = 0x7ff;

/// Memory, and a doorbell in it that remembers.
pub(crate) struct Ram {
    pub(crate) memory: SparseMemory,
    pub(crate) messages: Mutex<Vec<(u64, u32)>>,
    /// Words that somebody stores just before the next compare-exchange.
    pub(crate) meddling: Mutex<Vec<(u64, u64)>>,
}

impl Fabric for Ram {
    fn read(&self, at: Pa, into: &mut [u8]) -> Result<(), BusError> {
        self.memory.read(at, into)
    }

    fn write(&self, write: Write<'_>) -> Result<(), BusError> {
        self.memory.write(write)?;
        if write.at.get() & !0xfff == DOORBELL {
            let data = u32::from_le_bytes(write.bytes.try_into().unwrap());
            self.messages.lock().unwrap().push((write.at.get(), data));
        }
        Ok(())
    }

    fn compare_exchange(&self, at: Pa, current: u64, new: u64) -> Result<u64, BusError> {
        if let Some((at, word)) = self.meddling.lock().unwrap().pop() {
            self.memory.put(at, &[word]);
        }
        self.memory.compare_exchange(at, current, new)
    }

    fn now_ns(&self) -> u64 {
        self.memory.now_ns()
    }
}

pub(crate) struct Machine {
    pub(crate) ram: Arc<Ram>,
    pub(crate) smmu: Arc<Smmu>,
}

/// The lower half of a value.
pub(crate) fn low32(value: u64) -> u32 {
    u32::try_from(value & 0xffff_ffff).unwrap()
}

/// What became of an access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Got {
    At(u64),
    Abort,
    Ignored,
    Held(Stall),
}

/// The default part, with a policy without dice.
pub(crate) fn plain() -> Config {
    Config { policy: Policy::eager(), ..Config::default() }
}

impl Machine {
    /// Out of reset.
    pub(crate) fn bare(config: Config) -> Self {
        let ram = Arc::new(Ram {
            memory: SparseMemory::new(52),
            messages: Mutex::default(),
            meddling: Mutex::default(),
        });
        let smmu = Smmu::new(config, Arc::clone(&ram) as Arc<dyn Fabric>, 1, Arc::new(Silence));
        Self { ram, smmu: Arc::new(smmu) }
    }

    /// Queues and a linear stream table set up, caches invalidated, enabled. All events of unknown streams are recorded.
    pub(crate) fn new(config: Config) -> Self {
        let machine = Self::bare(config);
        machine.set_up();
        machine.enable();
        machine
    }

    /// Everything but SMMUEN.
    pub(crate) fn set_up(&self) {
        self.w32(0x2c, 2); // CR2.RECINVSID
        self.w64(0x80, STREAMS);
        self.w32(0x88, 6); // linear, 64 streams
        self.w64(0x90, COMMANDS | 4);
        self.w64(0xa0, EVENTS | 3);
        self.w32(0x20, 0b1100); // CMDQEN, EVENTQEN
        self.settle();
        assert_eq!(self.r32(0x24), 0b1100);
        self.command(0x04, 0x1f); // CMD_CFGI_ALL
        self.command(0x30, 0); // CMD_TLBI_NSNH_ALL
        if self.smmu.config().hyp && self.smmu.config().stage1 {
            self.command(0x20, 0); // CMD_TLBI_EL2_ALL
        }
        self.sync();
    }

    pub(crate) fn enable(&self) {
        self.w32(0x20, 0b1101);
        self.settle();
        assert_eq!(self.r32(0x24), 0b1101);
    }

    pub(crate) fn disable(&self) {
        self.w32(0x20, 0b1100);
        self.settle();
        assert_eq!(self.r32(0x24), 0b1100);
    }

    /// Stream 1 with stage 1: page 0x1000 to 0x30_0000.
    pub(crate) fn stage1(config: Config) -> Self {
        let machine = Self::new(config);
        machine.ste(1, &STE_S1);
        machine.words(CD, &CD_39);
        machine.tables();
        machine
    }

    /// The stage 1 tables of the header's table, with one page mapped.
    pub(crate) fn tables(&self) {
        self.words(L1, &[L2 | 3]);
        self.words(L2, &[L3 | 3]);
        self.words(L3 + 8, &[0x30_0000 | PAGE]);
    }

    /// The stage 2 tables, with intermediate 0 to 4 MiB (two blocks) mapped 1:1, and page 0x40_1000 to 0x50_0000.
    pub(crate) fn tables2(&self) {
        self.words(S2_L1, &[S2_L2 | 3]);
        self.words(S2_L2, &[S2_PAGE & !2, 0x20_0000 | (S2_PAGE & !2), S2_L3 | 3]);
        self.words(S2_L3 + 8, &[0x50_0000 | S2_PAGE]);
    }

    pub(crate) fn words(&self, at: u64, words: &[u64]) {
        self.ram.memory.put(at, words);
    }

    pub(crate) fn word(&self, at: u64) -> u64 {
        self.ram.memory.word(at)
    }

    pub(crate) fn hole(&self, range: RangeInclusive<u64>) {
        self.ram.memory.hole(range);
    }

    pub(crate) fn fill_holes(&self) {
        self.ram.memory.fill_holes();
    }

    pub(crate) fn ste(&self, stream: u64, words: &[u64; 8]) {
        self.words(STREAMS + stream * 64, words);
    }

    pub(crate) fn r32(&self, offset: u64) -> u32 {
        low32(self.smmu.read(offset, Width::Bits32))
    }

    pub(crate) fn r64(&self, offset: u64) -> u64 {
        self.smmu.read(offset, Width::Bits64)
    }

    pub(crate) fn w32(&self, offset: u64, value: u32) {
        self.smmu.write(offset, Width::Bits32, value.into());
    }

    pub(crate) fn w64(&self, offset: u64, value: u64) {
        self.smmu.write(offset, Width::Bits64, value);
    }

    /// Steps until nothing moves.
    pub(crate) fn settle(&self) {
        for _ in 0..10_000 {
            if !self.smmu.step(0) {
                return;
            }
        }
        panic!("the model never comes to rest");
    }

    /// One step.
    pub(crate) fn smmu_step(&self) {
        self.smmu.step(0);
    }

    /// Some steps, for what does not come to rest.
    pub(crate) fn settle_some(&self) {
        (0..20).for_each(|_| self.smmu_step());
    }

    /// EVENTQ_PROD.
    pub(crate) fn smmu_prod(&self) -> u32 {
        self.r32(0x1_00a8)
    }

    /// Puts a command into the queue without telling.
    pub(crate) fn put(&self, slot: u64, low: u64, high: u64) {
        self.words(COMMANDS + (slot & 15) * 16, &[low, high]);
    }

    /// Submits a command.
    pub(crate) fn command(&self, low: u64, high: u64) {
        let prod = self.r32(0x98);
        self.put(prod.into(), low, high);
        self.w32(0x98, (prod + 1) & 0x1f);
        self.settle();
    }

    /// Submits a CMD_SYNC and sees it consumed.
    pub(crate) fn sync(&self) {
        self.command(0x46, 0);
        assert_eq!(self.r32(0x98), self.r32(0x9c) & 0x1f, "not consumed");
    }

    /// CMD_CFGI_STE of a stream, leaf only, and a sync.
    pub(crate) fn flush_ste(&self, stream: u64) {
        self.command(0x03 | stream << 32, 1);
        self.sync();
    }

    /// CMD_CFGI_CD of stream 1, and a sync.
    pub(crate) fn flush_cd(&self) {
        self.command(0x1_0000_0005, 1);
        self.sync();
    }

    /// CMD_TLBI_NSNH_ALL and a sync.
    pub(crate) fn flush_tlb(&self) {
        self.command(0x30, 0);
        self.sync();
    }

    pub(crate) fn access(&self, stream: u32, pasid: Option<u32>, address: u64, access: Access) -> Got {
        let request = Request {
            source: SourceId(stream),
            pasid: pasid.and_then(Pasid::new),
            iova: Iova::new(address),
            len_bytes: 4,
            access,
        };
        let mut at = None;
        let outcome = self.smmu.access(&request, &mut |passage| {
            assert!(at.is_none(), "let through twice");
            at = Some(passage.pa.get());
            Ok(())
        });
        match (outcome, at) {
            (Outcome::Done, Some(at)) => Got::At(at),
            (Outcome::Aborted, None) => Got::Abort,
            (Outcome::Ignored, None) => Got::Ignored,
            (Outcome::Stalled(stall), None) => Got::Held(stall),
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn read(&self, stream: u32, address: u64) -> Got {
        self.access(stream, None, address, Access::READ)
    }

    pub(crate) fn write(&self, stream: u32, address: u64) -> Got {
        self.access(stream, None, address, Access::WRITE)
    }

    /// An access that must be held back.
    pub(crate) fn held(&self, stream: u32, address: u64, access: Access) -> Stall {
        match self.access(stream, None, address, access) {
            Got::Held(stall) => stall,
            other => panic!("not held back: {other:?}"),
        }
    }

    pub(crate) fn fetch(&self, stream: u32, address: u64) -> Got {
        self.access(stream, None, address, Access { kind: AccessKind::Execute, privileged: false })
    }

    pub(crate) fn privileged(&self, kind: AccessKind, address: u64) -> Got {
        self.access(1, None, address, Access { kind, privileged: true })
    }

    /// Takes all events out of the queue.
    pub(crate) fn events(&self) -> Vec<[u64; 4]> {
        self.settle();
        let mut found = Vec::new();
        let prod = self.r32(0x1_00a8) & 0xf;
        let mut cons = self.r32(0x1_00ac) & 0xf;
        while cons != prod {
            let at = EVENTS + u64::from(cons & 7) * 32;
            found.push([0, 8, 16, 24].map(|offset| self.word(at + offset)));
            cons = (cons + 1) & 0xf;
        }
        self.w32(0x1_00ac, cons);
        found
    }

    /// The only event there is.
    pub(crate) fn event(&self) -> [u64; 4] {
        let events = self.events();
        assert_eq!(events.len(), 1, "{events:x?}");
        events[0]
    }

    pub(crate) fn notes(&self) -> Vec<Unpredictable> {
        self.smmu.take_unpredictable()
    }

    /// The clauses that were broken.
    pub(crate) fn clauses(&self) -> Vec<&'static str> {
        self.notes().iter().map(|note| note.clause).collect()
    }

    /// Sees that nothing was done against the book.
    pub(crate) fn assert_clean(&self) {
        assert_eq!(self.notes(), []);
    }
}
