//! Registers, memory, accesses and messages of the SMMUv3 model, by anybody, on parts of several kinds.
//!
//! What must hold:
//!
//! - it comes to rest, whatever it was told;
//! - an access is let through at most once, and is done then; what it reaches has no more bits than the part's output, and it does not cross a page;
//! - what does nothing changes nothing: looking at what an access would meet leaves counters and caches as they are;
//! - it keeps to its queues: records go into the memory that its registers name, and indexes stay within;
//! - out of reset, whatever was before, nothing is cached, no stall waits, CR0 is 0, and the queues are empty;
//! - an input is one run: the same twice, counter by counter.
//!
//! Not here: whether translations are right (`checks/differential`, the model's own tests).

use std::sync::{Arc, Mutex, Weak};

use model_bus::{
    Clocked, Downstream, Fabric, Invalidation, InvalidationDone, Mmio, PageRequest, PageResponse, Request,
    SparseMemory, TranslatedRequest, TranslationAnswer, TranslationRequest, Translator, Width,
};
use model_smmuv3::{
    Broadcast, BroadcastRegime, BroadcastScope, Config, Counters, HardwareUpdate, Policy, Smmu, StallModel,
};
use portcullis::types::trace::Silence;
use portcullis::types::{Access, AccessKind, Iova, Pa, Pasid, SourceId};

use crate::bytes::Bytes;
use crate::unit::{self, Stalls};

const COMMANDS: u64 = 0x1_0000;
const EVENTS: u64 = 0x2_0000;
const PAGES: u64 = 0x3_0000;
const STREAMS: u64 = 0x4_0000;
const CD: u64 = 0x5_0000;
const TABLES: u64 = 0x10_0000;
const TABLES_2: u64 = 0x20_0000;

const CR0: u64 = 0x20;
const CR0ACK: u64 = 0x24;
const GERROR: u64 = 0x60;
const GERRORN: u64 = 0x64;
const CMDQ_PROD: u64 = 0x98;
const CMDQ_CONS: u64 = 0x9c;
const EVENTQ_PROD: u64 = 0x1_00a8;
const EVENTQ_CONS: u64 = 0x1_00ac;
const PRIQ_PROD: u64 = 0x1_00c8;
const PRIQ_CONS: u64 = 0x1_00cc;

/// A stage 1 page: nG, AF, inner shareable, AP=0b01. Spec: Armv8-A, D8.3 "Translation table descriptor formats".
const PAGE: u64 = 0xf43;
/// A stage 2 page: AF, inner shareable, S2AP=0b11, MemAttr write-back.
const S2_PAGE: u64 = 0x7ff;
/// V, Config=0b101, S1ContextPtr. Spec: SMMUv3 H.a, 5.2 "Stream Table Entry".
const STE_1: [u64; 8] = [0x5_000b, 0, 0, 0, 0, 0, 0, 0];
/// V, Config=0b110; VMID 1, S2T0SZ=24, S2SL0=1, S2PS=5, S2AA64, S2R.
const STE_2: [u64; 8] = [0xd, 0, 0x040d_0058_0000_0001, TABLES_2, 0, 0, 0, 0];
/// Both.
const STE_BOTH: [u64; 8] = [0x5_000f, 0, 0x040d_0058_0000_0001, TABLES_2, 0, 0, 0, 0];
/// T0SZ=25, EPD1, V, IPS=5, AA64, R, A, ASID 1; TTB0; MAIR. Spec: SMMUv3 H.a, 5.4 "Context Descriptor".
const CONTEXT: [u64; 8] = [0x0001_6205_c000_0019, TABLES, 0, 0xff, 0, 0, 0, 0];

pub(crate) fn run(input: &[u8]) {
    assert_eq!(play(input), play(input), "one input, two runs");
}

fn play(input: &[u8]) -> Counters {
    let mut bytes = Bytes::new(input);
    let machine = Machine::new(&mut bytes);
    while !bytes.is_empty() {
        machine.act(&mut bytes);
    }
    machine.ram.fill_holes();
    machine.settle();
    let counters = machine.smmu.counters();
    machine.check_reset();
    counters
}

fn config(bytes: &mut Bytes<'_>) -> Config {
    let policy = bytes.pick(&[Policy::eager(), Policy::stale(), Policy::hostile()]);
    let flags = bytes.u8();
    let bit = |n: u8| flags >> n & 1 == 1;
    let base = match bytes.below(5) {
        0 => Config::small(),
        1 => Config::stage2_only(),
        2 => Config { small_tables: true, ..Config::large() },
        3 => Config::no_range_invalidation(),
        _ => Config::default(),
    };
    let base = Config { policy, hyp: bit(0), substream_id_bits: if bit(1) { 20 } else { 0 }, ..base };
    let base = Config { ats: bit(2), pri: bit(2), page_queue_lg2: 3, ..base };
    match flags >> 6 {
        0 => base,
        kind => Config {
            stall: [StallModel::Configurable, StallModel::Forced, StallModel::Configurable]
                [usize::from(kind - 1)],
            most_stalls: 3,
            hardware_update: if bit(4) { HardwareUpdate::AccessAndDirty } else { HardwareUpdate::None },
            broadcast: bit(5),
            ..base
        },
    }
}

/// A device that remembers invalidations, for the input to answer.
struct Device {
    source: SourceId,
    tags: Mutex<u32>,
}

impl Downstream for Device {
    fn invalidate(&self, message: &Invalidation) -> bool {
        if message.source != self.source {
            return false;
        }
        *self.tags.lock().unwrap() |= 1 << message.tag;
        true
    }

    fn page_response(&self, message: &PageResponse) -> bool {
        message.source == self.source
    }
}

struct Machine {
    ram: Arc<SparseMemory>,
    smmu: Smmu,
    device: Arc<Device>,
    stalls: Stalls,
}

impl Machine {
    /// As a driver leaves it: streams with a table of each stage, queues, everything on.
    fn new(bytes: &mut Bytes<'_>) -> Self {
        let ram = Arc::new(SparseMemory::new(52));
        let seed = bytes.u8().into();
        let smmu = Smmu::new(config(bytes), ram.clone() as Arc<dyn Fabric>, seed, Arc::new(Silence));
        let device = Arc::new(Device { source: SourceId(1), tags: Mutex::new(0) });
        let way: Arc<dyn Downstream> = device.clone();
        smmu.connect(Arc::<dyn Downstream>::downgrade(&way) as Weak<dyn Downstream>);
        let machine = Self { ram, smmu, device, stalls: Stalls::default() };
        let forced = u64::from(machine.smmu.config().stall == StallModel::Forced);
        [STE_1, STE_2, STE_BOTH]
            .iter()
            .zip(1..)
            .for_each(|(ste, stream)| machine.ram.put(STREAMS + 64 * stream, ste));
        machine.ram.put(CD, &[&[CONTEXT[0] | forced << 44][..], &CONTEXT[1..]].concat());
        machine.ram.put(TABLES, &[TABLES + 0x1003]);
        machine.ram.put(TABLES + 0x1000, &[TABLES + 0x2003]);
        machine.ram.put(TABLES + 0x2008, &[0x30_0000 | PAGE]);
        machine.ram.put(TABLES_2, &[TABLES_2 + 0x2003]);
        machine.ram.put(TABLES_2 + 0x2000, &[S2_PAGE & !2, 0x20_0000 | (S2_PAGE & !2), TABLES_2 + 0x3003]);
        machine.repair();
        machine
    }

    /// Puts the registers to something sensible, as a driver would that starts again.
    fn repair(&self) {
        self.write(CR0, 0);
        self.settle();
        self.write(0x2c, 2);
        self.write(GERRORN, self.read(GERROR));
        self.smmu.write(0x80, Width::Bits64, STREAMS);
        self.write(0x88, 6);
        self.smmu.write(0x90, Width::Bits64, COMMANDS | 4);
        self.smmu.write(0xa0, Width::Bits64, EVENTS | 3);
        self.smmu.write(0xc0, Width::Bits64, PAGES | 3);
        self.write(CMDQ_CONS, self.read(CMDQ_PROD));
        self.write(EVENTQ_CONS, self.read(EVENTQ_PROD));
        self.write(CR0, 0b1_1111);
        self.settle();
    }

    fn read(&self, offset: u64) -> u64 {
        self.smmu.read(offset, Width::Bits32)
    }

    fn write(&self, offset: u64, value: u64) {
        self.smmu.write(offset, Width::Bits32, value);
    }

    fn settle(&self) {
        unit::settle(&self.smmu, &self.ram);
    }

    /// A place that means something, with a few bits changed.
    fn word(bytes: &mut Bytes<'_>) -> u64 {
        let places =
            [CD, TABLES, TABLES + 0x1000, TABLES + 0x2000, TABLES_2, TABLES_2 + 0x2000, STREAMS, COMMANDS];
        match bytes.below(4) {
            0 => bytes.word(),
            1 => bytes.pick(&places) | 3,
            _ => bytes.pick(&places) | u64::from(bytes.u16() & 0xfff),
        }
    }

    fn act(&self, bytes: &mut Bytes<'_>) {
        match bytes.below(20) {
            0 => {
                let registers = [
                    0x20,
                    0x28,
                    0x2c,
                    0x44,
                    0x50,
                    0x60,
                    0x64,
                    0x68,
                    0x80,
                    0x88,
                    0x90,
                    0x98,
                    0x9c,
                    0xa0,
                    0xb0,
                    0xc0,
                    0xd0,
                    EVENTQ_PROD,
                    EVENTQ_CONS,
                    PRIQ_PROD,
                    PRIQ_CONS,
                ];
                let offset =
                    if bytes.one_in(4) { u64::from(bytes.u32() & 0x1_ffff) } else { bytes.pick(&registers) };
                let width = bytes.pick(&[Width::Bits32, Width::Bits32, Width::Bits64, Width::Bits16]);
                self.smmu.write(offset, width, Self::word(bytes));
            }
            1 => drop(
                self.smmu
                    .read(u64::from(bytes.u32() & 0x1_ffff), bytes.pick(&[Width::Bits32, Width::Bits64])),
            ),
            2 | 3 => {
                // A word of an entry, or of its table.
                let at = bytes.pick(&[STREAMS + 64, STREAMS + 128, STREAMS + 192, CD])
                    + 8 * u64::from(bytes.below(4));
                self.ram.put(at, &[self.ram.word(at) ^ Self::word(bytes)]);
            }
            4 | 5 => {
                let table = bytes.pick(&[0, 0x1000, 0x2000]) + bytes.pick(&[TABLES, TABLES_2]);
                let leaf = bytes.pick(&[
                    PAGE,
                    S2_PAGE,
                    PAGE & !2,
                    S2_PAGE & !2,
                    3,
                    PAGE & !0x400 | 0x8_0000_0000_0080,
                ]);
                self.ram.put(table + 8 * u64::from(bytes.below(8)), &[Self::word(bytes) & !0xfff | leaf]);
            }
            6..=8 => self.command(bytes),
            9 => {
                // As a driver does: a CMD_SYNC in place of the bad command.
                let slot = self.read(CMDQ_CONS) & 0xf;
                self.ram.put(COMMANDS + 16 * slot, &[0x46, 0]);
                self.write(GERRORN, self.read(GERROR));
            }
            10 => self.write(EVENTQ_CONS, self.read(EVENTQ_PROD)),
            11 => self.write(PRIQ_CONS, self.read(PRIQ_PROD)),
            12 => {
                let tags = *self.device.tags.lock().unwrap() & bytes.u32();
                *self.device.tags.lock().unwrap() &= !tags;
                self.smmu.invalidation_done(&InvalidationDone { source: SourceId(1), tags });
                self.ram.advance(bytes.u16().into());
            }
            13 => self.page_service(bytes),
            14 => self.hear(bytes),
            15 if bytes.one_in(4) => unit::hole(&self.ram, Self::word(bytes), bytes),
            15 if bytes.one_in(3) => self.repair(),
            15 => drop(self.smmu.step(self.ram.now_ns())),
            _ => self.access(bytes),
        }
        self.check_queues();
    }

    /// A command in the next slot. Spec: SMMUv3 H.a, 4.1.1 "Command opcodes".
    fn command(&self, bytes: &mut Bytes<'_>) {
        let slot = self.read(CMDQ_PROD) & 0x1f;
        let opcodes =
            [1, 2, 3, 4, 5, 6, 0x10, 0x11, 0x12, 0x13, 0x22, 0x28, 0x2a, 0x30, 0x40, 0x41, 0x44, 0x45, 0x46];
        let opcode = bytes.pick(&opcodes);
        let words = match bytes.below(4) {
            0 => [Self::word(bytes) & !0xff | opcode, Self::word(bytes)],
            1 => [opcode, 0x1f],
            _ => [opcode | u64::from(bytes.below(4)) << 32, u64::from(bytes.u16()) << 12 | 1],
        };
        self.ram.put(COMMANDS + 16 * (slot & 0xf), &words);
        self.write(CMDQ_PROD, (slot + 1) & 0x1f);
    }

    fn address(bytes: &mut Bytes<'_>) -> Iova {
        let base = bytes.pick(&[0, 0x1000, 0x20_0000, 0x40_0000, 0x7f_ffff_f000, 0xffff_ffff_ffff_f000]);
        Iova::new(base ^ u64::from(bytes.u16()))
    }

    fn pasid(bytes: &mut Bytes<'_>) -> Option<Pasid> {
        bytes.one_in(3).then(|| bytes.below(4).into()).and_then(Pasid::new)
    }

    fn access(&self, bytes: &mut Bytes<'_>) {
        let kind = bytes.pick(&[AccessKind::Read, AccessKind::Write, AccessKind::Execute]);
        let (source, iova) = (SourceId(bytes.below(5).into()), Self::address(bytes));
        let room = 0x1000 - iova.get() % 0x1000;
        let len_bytes = u32::try_from(room.min(u64::from(bytes.u8()) + 1)).unwrap_or(1);
        let access = Access { kind, privileged: bytes.flag() };
        let request = Request { source, pasid: Self::pasid(bytes), iova, len_bytes, access };
        let seen = || (self.smmu.counters(), self.smmu.cached_translations());
        let _ = unit::look(seen, || self.smmu.outlook(&request));
        let (outcome, went) = unit::watch(|commit| self.smmu.access(&request, commit));
        if let Some(pa) = went {
            unit::check_reach(pa, len_bytes, 52);
        }
        self.stalls.note(outcome);
    }

    /// What only a device with an ATC does.
    fn page_service(&self, bytes: &mut Bytes<'_>) {
        let (source, pasid) = (SourceId(bytes.below(5).into()), Self::pasid(bytes));
        let (iova, flags) = (Self::address(bytes), bytes.u8());
        let bit = |n: u8| flags >> n & 1 == 1;
        match bytes.below(3) {
            0 => {
                let request = TranslationRequest {
                    source,
                    pasid,
                    iova,
                    no_write: bit(0),
                    execute: bit(1),
                    privileged: bit(2),
                };
                if let TranslationAnswer::Translated(translation) = self.smmu.translate(&request) {
                    assert_eq!(translation.pa.get() >> 52, 0, "beyond any output");
                }
            }
            1 => {
                let kind = if bit(0) { AccessKind::Read } else { AccessKind::Write };
                let access = Access { kind, privileged: bit(1) };
                let request =
                    TranslatedRequest { source, pasid, at: Pa::new(iova.get()), len_bytes: 1, access };
                let (_, went) = unit::watch(|commit| self.smmu.access_translated(&request, commit));
                if let Some(pa) = went {
                    unit::check_reach(pa, 1, 52);
                }
            }
            _ => self.smmu.request_page(&PageRequest {
                source,
                pasid,
                privileged: bit(0),
                execute: bit(1),
                iova,
                group: bytes.u16() & 0x1ff,
                last: bit(2),
                read: bit(3),
                write: bit(4),
            }),
        }
    }

    /// Answers for what is held back, and what CPUs say.
    fn hear(&self, bytes: &mut Bytes<'_>) {
        match bytes.below(3) {
            0 => {
                let slot = self.read(CMDQ_PROD) & 0x1f;
                let words = [0x44 | u64::from(bytes.below(4)) << 12 | 1 << 32, bytes.below(3).into()];
                self.ram.put(COMMANDS + 16 * (slot & 0xf), &words);
                self.write(CMDQ_PROD, (slot + 1) & 0x1f);
            }
            1 => self.stalls.ask(&self.smmu, bytes),
            _ => {
                let (first, last_level_only) = (Self::address(bytes).get(), bytes.flag());
                let last = first.saturating_add(u64::from(bytes.u16()));
                let asid = bytes.flag().then_some(1);
                let scope = bytes.pick(&[
                    BroadcastScope::All,
                    BroadcastScope::BothStages,
                    BroadcastScope::EveryVmid,
                    BroadcastScope::Asid { asid: 1 },
                    BroadcastScope::Address { asid, first, last, last_level_only },
                    BroadcastScope::Stage2Address { first, last, last_level_only },
                ]);
                let regimes = [
                    BroadcastRegime::El1 { vmid: 0 },
                    BroadcastRegime::El1 { vmid: 1 },
                    BroadcastRegime::El2,
                    BroadcastRegime::El2Host,
                ];
                self.smmu.broadcast(&Broadcast { regime: bytes.pick(&regimes), scope });
                self.smmu.broadcast_sync();
            }
        }
    }

    /// An index has no more bits than the largest queue that there can be, with its wrap bit. Spec: SMMUv3 H.a, 6.3.27 "SMMU_CMDQ_PROD".
    fn check_queues(&self) {
        let most = (2 << 19) - 1;
        assert!(self.read(EVENTQ_PROD) & !(1 << 31) <= most && self.read(PRIQ_PROD) & !(1 << 31) <= most);
        assert!(self.read(CMDQ_CONS) & 0xff_ffff <= most);
    }

    fn check_reset(&self) {
        self.smmu.reset();
        assert_eq!(self.smmu.cached_translations(), 0);
        assert_eq!((self.read(CR0), self.read(CR0ACK)), (0, 0));
        assert_eq!(self.read(GERROR), self.read(GERRORN), "no error is active");
        self.settle();
        self.stalls.check_over(&self.smmu);
        self.write(EVENTQ_CONS, 0);
        assert_eq!(self.read(EVENTQ_PROD) & 0x7fff_ffff, 0, "the event queue is empty");
    }
}
