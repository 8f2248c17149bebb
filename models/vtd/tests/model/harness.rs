//! A machine with nothing but memory and a remapping unit.
//!
//! | where | what |
//! |---|---|
//! | 0x1_0000 | root table |
//! | 0x1_1000 | context table of bus 0; in scalable mode of devices 0 to 15 |
//! | 0x1_2000, 0x1_3000 | PASID directory, PASID table of PASIDs 0 to 63 |
//! | 0x2_0000 | invalidation queue, 4 KiB |
//! | 0x2_8000 | status words |
//! | 0x3_0000 | page request queue, 4 KiB |
//! | 0x4_0000 | interrupt remapping table, 256 entries |
//! | 0x10_0000 | second-stage tables: 4 KiB each for levels 4, 3, 2, 1 |
//! | 0x20_0000 | first-stage tables, the same |

use std::sync::{Arc, Mutex, OnceLock};

use model_bus::{
    Clocked, Doorbell, Downstream, Invalidation, Mmio, Outcome, PageResponse, Request, SparseMemory,
    Translator, Width,
};
use model_vtd::{Config, Interrupt, Interrupts, Memory, Policy, Unpredictable, Vtd};
use portcullis_types::trace::Silence;
use portcullis_types::{Access, AccessKind, Iova, Pasid, SourceId};

pub(crate) const ROOT: u64 = 0x1_0000;
pub(crate) const CONTEXTS: u64 = 0x1_1000;
pub(crate) const DIRECTORY: u64 = 0x1_2000;
pub(crate) const PASIDS: u64 = 0x1_3000;
pub(crate) const QUEUE: u64 = 0x2_0000;
pub(crate) const STATUS: u64 = 0x2_8000;
pub(crate) const REQUESTS: u64 = 0x3_0000;
pub(crate) const IRT: u64 = 0x4_0000;
pub(crate) const SS4: u64 = 0x10_0000;
pub(crate) const SS3: u64 = 0x10_1000;
pub(crate) const SS2: u64 = 0x10_2000;
pub(crate) const SS1: u64 = 0x10_3000;
pub(crate) const FS4: u64 = 0x20_0000;
pub(crate) const FS3: u64 = 0x20_1000;
pub(crate) const FS2: u64 = 0x20_2000;
pub(crate) const FS1: u64 = 0x20_3000;

/// Bus 0, device 1, function 0.
pub(crate) const DEVICE: u16 = 8;

/// The offset of the first fault recording register, and of IVA_REG.
pub(crate) const FRCD: u64 = 0x1000;
pub(crate) const IVA: u64 = 0x500;

/// Processors, and devices that remember what they were told.
#[derive(Default)]
pub(crate) struct Ears {
    pub(crate) interrupts: Mutex<Vec<Interrupt>>,
    pub(crate) invalidations: Mutex<Vec<Invalidation>>,
    pub(crate) responses: Mutex<Vec<PageResponse>>,
    /// Done while an interrupt is being delivered.
    pub(crate) meanwhile: OnceLock<Box<dyn Fn() + Send + Sync>>,
}

impl Interrupts for Ears {
    fn deliver(&self, interrupt: &Interrupt) {
        self.interrupts.lock().unwrap().push(*interrupt);
        if let Some(meanwhile) = self.meanwhile.get() {
            meanwhile();
        }
    }
}

impl Downstream for Ears {
    fn invalidate(&self, message: &Invalidation) -> bool {
        self.invalidations.lock().unwrap().push(*message);
        true
    }

    fn page_response(&self, message: &PageResponse) -> bool {
        self.responses.lock().unwrap().push(*message);
        true
    }
}

pub(crate) struct Machine {
    pub(crate) ram: Arc<SparseMemory>,
    pub(crate) ears: Arc<Ears>,
    pub(crate) unit: Arc<Vtd>,
    wide: bool,
}

/// What became of an access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Got {
    At(u64),
    Abort,
}

/// The default part, with a policy without dice.
pub(crate) fn plain() -> Config {
    Config { policy: Policy::eager(), ..Config::default() }
}

impl Machine {
    pub(crate) fn new(config: Config) -> Self {
        let ram = Arc::new(SparseMemory::new(46));
        Self::over(config, ram.clone(), ram)
    }

    /// Past the CPUs' caches there is other memory: what was not written back yet.
    pub(crate) fn over(config: Config, ram: Arc<SparseMemory>, unsnooped: Arc<SparseMemory>) -> Self {
        let memory = Memory { snooped: ram.clone(), unsnooped };
        Self::by_way_of(config, ram, memory)
    }

    /// The unit reaches `ram` as `memory` lets it.
    pub(crate) fn by_way_of(config: Config, ram: Arc<SparseMemory>, memory: Memory) -> Self {
        let ears = Arc::new(Ears::default());
        let unit = Arc::new(Vtd::new(config, memory, ears.clone(), 1, Arc::new(Silence)));
        let ears_down: Arc<dyn Downstream> = ears.clone();
        unit.connect(Arc::downgrade(&ears_down));
        Self { ram, ears, unit, wide: false }
    }

    /// Legacy mode: device 8 in domain 5, four levels, ATS; 0x1000 to 0x1fff maps to 0x80_0000, for reads and writes. Queue and translation are on.
    pub(crate) fn legacy(config: Config) -> Self {
        let mut machine = Self::new(config);
        machine.set(ROOT, &[CONTEXTS | 1, 0]);
        // TT=01b, AW=010b, DID 5.
        machine.set(CONTEXTS + 16 * 8, &[SS4 | 0x5, 0x502]);
        machine.second_stage();
        machine.start(0, false);
        machine
    }

    /// Scalable mode: device 8 has PASIDs, a device TLB and page requests; RID_PASID 0 is second stage in domain 5, PASID 1 first stage in
    /// domain 6, PASID 2 nested in domain 5, PASID 3 pass-through in domain 6. Walks snoop.
    pub(crate) fn scalable(config: Config) -> Self {
        Self::new(config).in_scalable_mode()
    }

    pub(crate) fn in_scalable_mode(self) -> Self {
        let mut machine = self;
        machine.set(ROOT, &[CONTEXTS | 1, 0]);
        // P, DTE, PASIDE, PRE.
        machine.set(CONTEXTS + 32 * 8, &[DIRECTORY | 0x1d, 0, 0, 0]);
        machine.set(DIRECTORY, &[PASIDS | 1]);
        // AW=010b, PGTT=010b; DID 5, PWSNP.
        machine.pasid(0, [SS4 | 0x89, 0x80_0005, 0]);
        // PGTT=001b; DID 6; SRE.
        machine.pasid(1, [0x41, 0x80_0006, FS4 | 1]);
        // AW=010b, PGTT=011b.
        machine.pasid(2, [SS4 | 0xc9, 0x80_0005, FS4 | 1]);
        // PGTT=100b.
        machine.pasid(3, [0x101, 0x80_0006, 0]);
        machine.second_stage();
        // What the first stage names is the second stage's input where they are nested: tables map to themselves.
        machine.set(SS2 + 8, &[0x20_0000 | 0x83]);
        machine.first_stage();
        machine.start(1, true);
        machine
    }

    pub(crate) fn pasid(&self, pasid: u64, words: [u64; 3]) {
        let [a, b, c] = words;
        self.set(PASIDS + 64 * pasid, &[a, b, c, 0, 0, 0, 0, 0]);
    }

    fn second_stage(&self) {
        self.set(SS4, &[SS3 | 3]);
        self.set(SS3, &[SS2 | 3]);
        self.set(SS2, &[SS1 | 3]);
        self.set(SS1 + 8, &[0x80_0003]);
    }

    /// 0x3000 maps to 0x1000, user, writable.
    fn first_stage(&self) {
        self.set(FS4, &[FS3 | 7]);
        self.set(FS3, &[FS2 | 7]);
        self.set(FS2, &[FS1 | 7]);
        self.set(FS1 + 24, &[0x1007]);
    }

    /// Queue, root table pointer, the invalidations that it needs, translation.
    pub(crate) fn start(&mut self, mode: u64, wide: bool) {
        self.wide = wide;
        self.write64(0x90, QUEUE | u64::from(wide) << 11);
        self.command(26, true);
        self.write64(0x20, ROOT | mode << 10);
        self.command(30, true);
        self.submit(&[0x11]);
        if mode == 1 {
            self.submit(&[0x37]);
        }
        self.submit(&[0x12]);
        self.wait();
        self.command(31, true);
    }

    /// A bit of GCMD_REG, and the wait for GSTS_REG to say so.
    pub(crate) fn command(&self, n: u32, on: bool) {
        let status = self.read32(0x1c) & 0x96ff_ffff;
        let command = if on { status | 1 << n } else { status & !(1 << n) };
        self.write32(0x18, command);
        let done = |_: &u32| self.read32(0x1c) >> n & 1 == u32::from(on);
        assert!((0..100).any(|tick| done(&tick)), "command {n} is never done");
    }

    pub(crate) fn set(&self, at: u64, words: &[u64]) {
        self.ram.put(at, words);
    }

    pub(crate) fn get(&self, at: u64) -> u64 {
        self.ram.word(at)
    }

    pub(crate) fn read32(&self, offset: u64) -> u32 {
        u32::try_from(self.unit.read(offset, Width::Bits32)).unwrap()
    }

    pub(crate) fn read64(&self, offset: u64) -> u64 {
        self.unit.read(offset, Width::Bits64)
    }

    pub(crate) fn write32(&self, offset: u64, value: u32) {
        self.unit.write(offset, Width::Bits32, value.into());
    }

    pub(crate) fn write64(&self, offset: u64, value: u64) {
        self.unit.write(offset, Width::Bits64, value);
    }

    /// Puts a descriptor into the queue.
    pub(crate) fn submit(&self, words: &[u64]) {
        let tail = self.read64(0x88);
        let mut all = [0; 4];
        all[..words.len()].copy_from_slice(words);
        let count = if self.wide { 4 } else { 2 };
        self.set(QUEUE + tail, &all[..count]);
        self.write64(0x88, (tail + 8 * count as u64) % 4096);
    }

    /// A wait descriptor with a status write. Answers whether it is written within some ticks.
    pub(crate) fn waited(&self) -> bool {
        self.set(STATUS, &[0]);
        self.submit(&[0x25 | 7 << 32, STATUS]);
        self.ticks();
        self.get(STATUS) == 7
    }

    pub(crate) fn wait(&self) {
        assert!(self.waited(), "the wait descriptor is not complete");
    }

    pub(crate) fn ticks(&self) {
        (0..50).for_each(|_| {
            self.unit.step(0);
        });
    }

    /// Invalidates and waits.
    pub(crate) fn invalidate(&self, words: &[u64]) {
        self.submit(words);
        self.wait();
    }

    pub(crate) fn access(&self, pasid: Option<u32>, iova: u64, access: Access) -> Got {
        self.access_by(DEVICE, pasid, iova, access)
    }

    pub(crate) fn access_by(&self, source: u16, pasid: Option<u32>, iova: u64, access: Access) -> Got {
        let pasid = pasid.map(|pasid| Pasid::new(pasid).unwrap());
        let source = SourceId(source.into());
        let request = Request { source, pasid, iova: Iova::new(iova), len_bytes: 8, access };
        let mut at = None;
        let outcome = self.unit.access(&request, &mut |passage| {
            at = Some(passage.pa.get());
            Ok(())
        });
        match (outcome, at) {
            (Outcome::Done, Some(at)) => Got::At(at),
            (Outcome::Aborted, None) => Got::Abort,
            other => panic!("{other:?}"),
        }
    }

    /// What is done while a write of the device to 0x1000 is under way.
    pub(crate) fn during_a_write(&self, then: impl FnOnce()) {
        let request = Request {
            source: SourceId(DEVICE.into()),
            pasid: None,
            iova: Iova::new(0x1000),
            len_bytes: 8,
            access: Access::WRITE,
        };
        let mut then = Some(then);
        let outcome = self.unit.access(&request, &mut |_| {
            then.take().expect("let through once")();
            Ok(())
        });
        assert_eq!(outcome, Outcome::Done);
    }

    pub(crate) fn read(&self, iova: u64) -> Got {
        self.access(None, iova, Access::READ)
    }

    pub(crate) fn write(&self, iova: u64) -> Got {
        self.access(None, iova, Access::WRITE)
    }

    pub(crate) fn read_in(&self, pasid: u32, iova: u64) -> Got {
        self.access(Some(pasid), iova, Access::READ)
    }

    pub(crate) fn write_in(&self, pasid: u32, iova: u64) -> Got {
        self.access(Some(pasid), iova, Access::WRITE)
    }

    pub(crate) fn supervisor(kind: AccessKind) -> Access {
        Access { kind, privileged: true }
    }

    /// The one fault that is recorded: both words. It is cleared.
    pub(crate) fn fault(&self) -> Option<[u64; 2]> {
        let status = self.read32(0x34);
        if status & 2 == 0 {
            return None;
        }
        let at = FRCD + 16 * u64::from(status >> 8 & 0xff);
        let words = [self.read64(at), self.read64(at + 8)];
        self.write32(at + 12, 1 << 31);
        assert_eq!(self.read32(0x34) & 2, 0, "one fault only");
        Some(words)
    }

    /// Its reason.
    pub(crate) fn reason(&self) -> Option<u64> {
        self.fault().map(|words| words[1] >> 32 & 0xff)
    }

    /// A message of a device.
    pub(crate) fn message(&self, source: u16, address: u64, data: u32) -> bool {
        let offset = address - 0xfee0_0000;
        self.unit.ring(offset, &data.to_le_bytes(), Some(SourceId(source.into()))).is_ok()
    }

    pub(crate) fn notes(&self) -> Vec<Unpredictable> {
        self.unit.take_unpredictable()
    }

    /// The rules that were broken since the last look; one broken several times in a row, as by both halves of a quadword, is told once.
    pub(crate) fn broken(&self) -> Vec<&'static str> {
        let mut clauses: Vec<_> = self.notes().iter().map(|note| note.clause).collect();
        clauses.dedup();
        clauses
    }
}
