//! Registers, queues and memory of the VT-d model, and requests of devices, by anybody, on parts of several kinds.
//!
//! What must hold:
//!
//! - it comes to rest, whatever it was told;
//! - an access is let through at most once, and is done then; what it reaches has no more bits than a host address;
//! - what does nothing changes nothing: looking at what an access would meet leaves counters and caches as they are;
//! - when everything was forgotten and a wait descriptor is complete, an access goes where the tables say, or nowhere;
//! - a translation that a device is given covers what it asked for, and is aligned to its size; no tag of an invalidation is used twice at a time;
//! - no more groups of page requests are answered than were asked for by devices and software;
//! - out of reset, whatever was before, nothing is cached, and nothing is translated or remapped;
//! - an input is one run: the same twice, counter by counter.
//!
//! Spec: VT-d 5.10, chapters 3 "DMA Remapping", 6 "Caching Translation Information", 7 "Address Translation Faults", 9 "Translation Structure Formats",
//! 11 "Register Descriptions".
//! Not here: whether translations are right (the model's own tests).

use std::sync::{Arc, Mutex};

use model_bus::{
    Clocked, Doorbell, Downstream, Fabric, Invalidation, InvalidationDone, Mmio, PageRequest, PageResponse,
    Request, SparseMemory, TranslatedRequest, TranslationAnswer, TranslationRequest, Translator, Width,
};
use model_vtd::{Config, Counters, Interrupt, Interrupts, Memory, Outlook, Policy, Scalable, Vtd};
use portcullis::types::trace::Silence;
use portcullis::types::{Access, AccessKind, Iova, Pa, Pasid, SourceId};

use crate::bytes::Bytes;
use crate::unit;

const ROOT: u64 = 0x1_0000;
const CONTEXTS: u64 = 0x1_1000;
const DIRECTORY: u64 = 0x1_2000;
const PASIDS: u64 = 0x1_3000;
const QUEUE: u64 = 0x2_0000;
const STATUS: u64 = 0x2_8000;
const REQUESTS: u64 = 0x3_0000;
const INTERRUPTS: u64 = 0x4_0000;
/// Tables of levels 4, 3, 2 and 1, a page each.
const SECOND: u64 = 0x10_0000;
const FIRST: u64 = 0x20_0000;

const PLACES: [u64; 11] = [
    ROOT,
    CONTEXTS,
    DIRECTORY,
    PASIDS,
    QUEUE,
    REQUESTS,
    INTERRUPTS,
    SECOND,
    SECOND + 0x3000,
    FIRST,
    FIRST + 0x3000,
];

/// Entries that an address goes by: where each leads is another place with a bit changed.
const MOVED: [u64; 10] = [
    ROOT,
    CONTEXTS + 16 * 8,
    CONTEXTS + 32 * 8,
    DIRECTORY,
    PASIDS,
    PASIDS + 64 + 16,
    SECOND + 0x2008,
    SECOND + 0x3008,
    FIRST + 0x2008,
    FIRST + 0x3018,
];

const GCMD: u64 = 0x18;
const GSTS: u64 = 0x1c;
const RTADDR: u64 = 0x20;
const FSTS: u64 = 0x34;
const IQT: u64 = 0x88;
const IQA: u64 = 0x90;
const PQH: u64 = 0xc0;
const PQT: u64 = 0xc8;
const PQA: u64 = 0xd0;
const PRS: u64 = 0xdc;
const IRTA: u64 = 0xb8;

/// Registers that do something: commands, context cache, faults, protected memory, queue, events, page requests, IVA, IOTLB, fault records.
const REGISTERS: [u64; 30] = [
    0x18, 0x20, 0x28, 0x34, 0x38, 0x3c, 0x40, 0x44, 0x64, 0x68, 0x6c, 0x70, 0x78, 0x80, 0x88, 0x90, 0x9c,
    0xa0, 0xb8, 0xc0, 0xc8, 0xd0, 0xdc, 0xe0, 0xe8, 0x500, 0x508, 0x100c, 0x1008, 0xb0,
];

/// Bits of GCMD_REG: TE, SRTP, QIE, IRE, SIRTP; those that last.
const TRANSLATE: u32 = 31;
const SET_ROOT: u32 = 30;
const USE_QUEUE: u32 = 26;
const REMAP: u32 = 25;
const SET_INTERRUPTS: u32 = 24;
const LASTING: u64 = 0x96ff_ffff;

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
    machine.ram.advance(1 << 40);
    machine.settle();
    let counters = machine.unit.counters();
    let answered = counters.own_page_responses + counters.page_responses;
    assert_eq!(machine.ears.responses(), answered, "answers and what is counted");
    let unasked = counters.descriptors.get(&0x09).copied().unwrap_or(0);
    let asked = machine.ears.told.lock().unwrap().groups;
    assert!(answered <= asked + unasked, "{answered} answers to {asked} groups");
    machine.check_reset();
    counters
}

fn config(bytes: &mut Bytes<'_>) -> Config {
    let policy = bytes.pick(&[Policy::eager(), Policy::stale(), Policy::hostile()]);
    let flags = bytes.u16();
    let bit = |n: u16| flags >> n & 1 == 1;
    let mode = Scalable {
        nested: !bit(0),
        coherent_walks: !bit(1),
        page_request_drain: !bit(2),
        translated_pasid: bit(3),
        pasid_bits: if bit(4) { Some(4) } else { Some(20) },
        ..Scalable::full()
    };
    Config {
        policy,
        caching_mode: bit(5),
        protected_memory: bit(6),
        io_permissions: bit(7),
        root_invalidates: bit(8),
        coherent: !bit(9),
        device_tlbs: !bit(10),
        snoop_control: !bit(11),
        write_buffers: bit(12) && bit(13),
        fault_records: if bit(14) { 1 } else { 8 },
        version: if bit(15) { (8, 0) } else { (1, 0) },
        scalable: (!bit(13)).then_some(mode),
        ..Config::default()
    }
}

/// What was told to devices and processors.
#[derive(Default)]
struct Told {
    /// Invalidations that were not answered.
    under_way: Vec<Invalidation>,
    responses: u64,
    /// Groups of page requests that ended.
    groups: u64,
}

#[derive(Default)]
struct Ears {
    told: Mutex<Told>,
}

impl Ears {
    fn responses(&self) -> u64 {
        self.told.lock().unwrap().responses
    }
}

impl Interrupts for Ears {
    fn deliver(&self, _: &Interrupt) {}
}

impl Downstream for Ears {
    fn invalidate(&self, message: &Invalidation) -> bool {
        let mut told = self.told.lock().unwrap();
        assert!(message.tag < 32 && (12..=64).contains(&message.size_lg2), "{message:?}");
        assert!(told.under_way.iter().all(|other| other.tag != message.tag), "one tag for two");
        told.under_way.push(*message);
        true
    }

    fn page_response(&self, _: &PageResponse) -> bool {
        self.told.lock().unwrap().responses += 1;
        true
    }
}

struct Machine {
    ram: Arc<SparseMemory>,
    ears: Arc<Ears>,
    unit: Vtd,
    scalable: bool,
}

impl Machine {
    /// As a driver leaves it: device 8 has PASIDs of every kind, or legacy tables where the part has no other.
    fn new(bytes: &mut Bytes<'_>) -> Self {
        let ram = Arc::new(SparseMemory::new(46));
        let ears = Arc::new(Ears::default());
        let seed = bytes.u8().into();
        let config = config(bytes);
        let memory = Memory::uncached(ram.clone() as Arc<dyn Fabric>);
        let unit = Vtd::new(config, memory, ears.clone(), seed, Arc::new(Silence));
        let down: Arc<dyn Downstream> = ears.clone();
        unit.connect(Arc::downgrade(&down));
        let scalable = unit.config().scalable.is_some();
        let machine = Self { ram, ears, unit, scalable };
        machine.tables();
        machine.start();
        machine
    }

    fn tables(&self) {
        let set = |at, words: &[u64]| self.ram.put(at, words);
        set(ROOT, &[CONTEXTS | 1, 0]);
        if self.scalable {
            // P, DTE, PASIDE and PRE, where they are.
            let ats = if self.unit.config().device_tlbs { 0x14 } else { 0 };
            set(CONTEXTS + 32 * 8, &[DIRECTORY | 9 | ats, 0, 0, 0]);
            set(DIRECTORY, &[PASIDS | 1]);
            // Second stage of 4 levels in domain 5; first stage in 6; nested in 5; pass-through in 6. PWSNP.
            let kinds =
                [[SECOND | 0x89, 5, 0], [0x41, 6, FIRST | 1], [SECOND | 0xc9, 5, FIRST | 1], [0x101, 6, 0]];
            for (pasid, [first, domain, second]) in (0..).zip(kinds) {
                set(PASIDS + 64 * pasid, &[first, 0x80_0000 | domain, second, 0, 0, 0, 0, 0]);
            }
        } else {
            set(CONTEXTS + 16 * 8, &[SECOND | 0x5, 0x502]);
        }
        set(SECOND, &[SECOND + 0x1003]);
        set(SECOND + 0x1000, &[SECOND + 0x2003]);
        set(SECOND + 0x2000, &[SECOND + 0x3003, FIRST | 0x83, 0x4020_0083]);
        set(SECOND + 0x3008, &[0x80_0003]);
        set(FIRST, &[FIRST + 0x1007]);
        set(FIRST + 0x1000, &[FIRST + 0x2007]);
        set(FIRST + 0x2000, &[FIRST + 0x3007, 0x40_0087]);
        set(FIRST + 0x3018, &[0x1007]);
        // Vector 0x31 to processor 1, of anybody.
        set(INTERRUPTS, &[0x31_0001 | 1 << 40, 0]);
    }

    /// Queue, root table, what must be forgotten, translation, interrupts.
    fn start(&self) {
        for bit in [TRANSLATE, REMAP, USE_QUEUE] {
            self.command(bit, false);
        }
        self.write(FSTS, 0x71);
        self.write(PRS, 3);
        self.unit.write(IQT, Width::Bits64, 0);
        self.unit.write(IQA, Width::Bits64, QUEUE | u64::from(self.scalable) << 11);
        self.command(USE_QUEUE, true);
        self.unit.write(RTADDR, Width::Bits64, ROOT | u64::from(self.scalable) << 10);
        self.command(SET_ROOT, true);
        self.unit.write(IRTA, Width::Bits64, INTERRUPTS | 7);
        self.command(SET_INTERRUPTS, true);
        self.unit.write(PQH, Width::Bits64, 0);
        self.unit.write(PQT, Width::Bits64, 0);
        self.unit.write(PQA, Width::Bits64, REQUESTS);
        self.forget_all();
        self.command(TRANSLATE, true);
        self.command(REMAP, true);
    }

    fn read(&self, offset: u64) -> u64 {
        self.unit.read(offset, Width::Bits32)
    }

    fn write(&self, offset: u64, value: u64) {
        self.unit.write(offset, Width::Bits32, value);
    }

    fn command(&self, bit: u32, on: bool) {
        let status = self.read(GSTS) & LASTING;
        self.write(GCMD, if on { status | 1 << bit } else { status & !(1 << bit) });
        self.settle();
    }

    fn settle(&self) {
        unit::settle(&self.unit, &self.ram);
    }

    fn submit(&self, words: [u64; 2]) {
        let tail = self.unit.read(IQT, Width::Bits64) & 0xff0;
        let wide = self.unit.read(IQA, Width::Bits64) >> 11 & 1 == 1;
        let (size, base) = if wide { (32, self.unit.read(IQA, Width::Bits64) & !0xfff) } else { (16, QUEUE) };
        self.ram.put(base.min(1 << 40) + tail, &[words[0], words[1], 0, 0][..size / 8]);
        self.unit.write(IQT, Width::Bits64, (tail + size as u64) % 4096);
    }

    /// Asks for everything to be forgotten. Answers whether a wait behind that is complete.
    fn forget_all(&self) -> bool {
        self.ram.put(STATUS, &[0]);
        self.submit([0x11, 0]);
        if self.scalable {
            self.submit([0x37, 0]);
        }
        self.submit([0x12, 0]);
        self.submit([0x4, 0]);
        self.submit([0x25 | 0xabcd << 32, STATUS]);
        self.settle();
        self.ram.word(STATUS) == 0xabcd
    }

    /// Something that means something, with a few bits changed.
    fn word(bytes: &mut Bytes<'_>) -> u64 {
        match bytes.below(4) {
            0 => bytes.word(),
            1 => bytes.pick(&PLACES) | 7,
            _ => bytes.pick(&PLACES) | u64::from(bytes.u16()),
        }
    }

    fn descriptor(bytes: &mut Bytes<'_>) -> [u64; 2] {
        let types = [
            0x11, 0x21, 0x31, 0x12, 0x22, 0x32, 0x03, 0x04, 0x14, 0x25, 0x65, 0xa5, 0x26, 0x36, 0x07, 0x17,
            0x37, 0x08, 0x19, 0x09,
        ];
        let low = bytes.pick(&types) | u64::from(bytes.below(9)) << 16 | bytes.pick(&[0, 1, 2, 8]) << 32;
        let high = bytes.pick(&[0, STATUS, 0x1000, 0x3001, 0x3040, 0x7fff_ffff_ffff_f800, 8, 0x28]);
        if bytes.one_in(8) { [low ^ bytes.word(), high ^ bytes.word()] } else { [low, high] }
    }

    fn act(&self, bytes: &mut Bytes<'_>) {
        match bytes.below(20) {
            0..=2 => {
                let register =
                    if bytes.one_in(4) { (bytes.u32() % 0x2000).into() } else { bytes.pick(&REGISTERS) };
                let width = bytes.pick(&[Width::Bits32, Width::Bits32, Width::Bits64, Width::Bits16]);
                self.unit.write(register & !(width.bytes() - 1), width, Self::word(bytes));
            }
            3 => drop(
                self.unit.read((bytes.u32() % 0x2000).into(), bytes.pick(&[Width::Bits32, Width::Bits64])),
            ),
            4 | 5 => {
                let at = bytes.pick(&PLACES) + bytes.pick(&[0, 0x40, 0x80, 0x100]);
                self.ram.put(at + 8 * u64::from(bytes.below(8)), &[Self::word(bytes)]);
            }
            6 | 7 => self.submit(Self::descriptor(bytes)),
            8 => {
                // As software does that was told of an error.
                self.write(FSTS, 0x71);
                self.write(PRS, 3);
                self.unit.write(PQH, Width::Bits64, self.unit.read(PQT, Width::Bits64));
            }
            9 if bytes.one_in(4) => unit::hole(&self.ram, Self::word(bytes), bytes),
            9 if bytes.one_in(3) => {
                self.tables();
                self.start();
            }
            9 => drop(self.unit.step(self.ram.now_ns())),
            10 => {
                let forgotten = self.forget_all();
                self.access(&request(bytes), forgotten);
            }
            11 => self.answer(bytes),
            12 => self.ask(bytes),
            13 => self.ask_page(bytes),
            14 => {
                let data = bytes.pick(&[0u32, 1, 7, 0x31, 0x1_0000]);
                let _ =
                    self.unit.ring((bytes.u32() & 0xf_ffff).into(), &data.to_le_bytes(), Some(source(bytes)));
            }
            15 => self.translated(bytes),
            18 if bytes.one_in(8) => self.exhaust_tags(bytes),
            19 => self.move_away(bytes),
            _ => self.access(&request(bytes), false),
        }
    }

    /// Something is accessed, goes elsewhere by the tables, is forgotten, and is accessed again; then the tables are as before, and nothing is forgotten.
    fn move_away(&self, bytes: &mut Bytes<'_>) {
        let request = request(bytes);
        self.access(&request, false);
        let at = bytes.pick(&MOVED);
        let before = self.ram.word(at);
        self.ram.put(at, &[before ^ bytes.pick(&[0x1000, 0x20_0000])]);
        let forgotten = self.forget_all();
        self.access(&request, forgotten);
        self.ram.put(at, &[before]);
    }

    /// More invalidations of a device at once than there are tags.
    fn exhaust_tags(&self, bytes: &mut Bytes<'_>) {
        let device = u64::from(source(bytes).0);
        (0..34).for_each(|page| self.submit([0x3 | device << 32, page << 12]));
        self.settle();
    }

    /// A device answers an invalidation, or says that it does; or time passes, and it has not.
    fn answer(&self, bytes: &mut Bytes<'_>) {
        let mut told = self.ears.told.lock().unwrap();
        let done = match (bytes.below(4), told.under_way.is_empty()) {
            (0, _) => {
                // The unit gives up on all of them.
                self.ram.advance(1 << 30);
                told.under_way.clear();
                drop(told);
                return self.settle();
            }
            (1, _) | (_, true) => InvalidationDone { source: source(bytes), tags: bytes.u32() & bytes.u32() },
            _ => {
                let message = told.under_way.remove(0);
                InvalidationDone { source: message.source, tags: 1 << message.tag }
            }
        };
        // An answer out of the blue frees what it names.
        told.under_way.retain(|other| other.source != done.source || done.tags >> other.tag & 1 == 0);
        drop(told);
        self.unit.invalidation_done(&done);
    }

    fn ask(&self, bytes: &mut Bytes<'_>) {
        let request = TranslationRequest {
            source: source(bytes),
            pasid: pasid(bytes),
            iova: Iova::new(address(bytes)),
            no_write: bytes.flag(),
            execute: bytes.one_in(8),
            privileged: bytes.one_in(4),
        };
        let TranslationAnswer::Translated(given) = self.unit.translate(&request) else { return };
        let within = u64::MAX >> (64 - given.size_lg2);
        let (asked, first) = (request.iova.get() & !0xfff, given.first.get());
        assert!(first & within == 0 && first <= asked && asked - first <= within, "{given:?}");
        assert!(given.untranslated_only || given.pa.get() & within == 0, "{given:?}");
        assert!(!(given.write && request.no_write && self.unit.config().no_write_flag), "{given:?}");
        if (given.read || given.write) && !given.untranslated_only {
            assert_eq!(given.pa.get() >> self.unit.config().host_bits, 0, "{given:?}");
        }
    }

    fn ask_page(&self, bytes: &mut Bytes<'_>) {
        let last = bytes.flag();
        self.ears.told.lock().unwrap().groups += u64::from(last);
        self.unit.request_page(&PageRequest {
            source: source(bytes),
            pasid: pasid(bytes),
            iova: Iova::new(address(bytes) & !0xfff),
            read: bytes.flag(),
            write: bytes.flag(),
            execute: bytes.one_in(8),
            privileged: bytes.one_in(8),
            last,
            group: bytes.u16() & 0x1ff,
        });
        let bytes_of_queue = 4096 << (self.unit.read(PQA, Width::Bits64) & 7);
        assert!(
            self.unit.read(PQT, Width::Bits64) < bytes_of_queue.max(1 << 19),
            "the tail is out of the queue"
        );
    }

    fn translated(&self, bytes: &mut Bytes<'_>) {
        let at = address(bytes);
        let request = TranslatedRequest {
            source: source(bytes),
            pasid: pasid(bytes),
            at: Pa::new(at),
            len_bytes: 4,
            access: access(bytes),
        };
        let (_, went) = unit::watch(|commit| self.unit.access_translated(&request, commit));
        assert!(went.is_none_or(|pa| pa.get() == at && at >> self.unit.config().host_bits == 0), "{went:x?}");
    }

    /// An access of a device. If `known`, nothing is cached that is not in the tables.
    fn access(&self, request: &Request, known: bool) {
        // A look at a register may end a command.
        let enabled = self.read(GSTS) >> TRANSLATE & 1 == 1;
        let seen = || (self.unit.counters(), self.unit.cached_translations());
        let outlook = unit::look(seen, || self.unit.outlook(request));
        let (_, went) = unit::watch(|commit| self.unit.access(request, commit));
        let Some(pa) = went else { return };
        let message = request.pasid.is_none() && pa.get() >> 20 == 0xfee;
        if enabled && !message {
            assert_eq!(pa.get() >> self.unit.config().host_bits, 0, "beyond any host address");
        }
        if known && !message {
            assert_eq!(outlook, Outlook::Allowed(pa), "it went where the tables do not say");
        }
    }

    fn check_reset(&self) {
        self.unit.reset();
        self.settle();
        assert_eq!((self.unit.cached_translations(), self.read(GSTS)), (0, 0));
        let request = Request {
            source: SourceId(8),
            pasid: None,
            iova: Iova::new(0x3000),
            len_bytes: 4,
            access: Access::READ,
        };
        assert_eq!(self.unit.outlook(&request), Outlook::Allowed(Pa::new(0x3000)));
    }
}

fn request(bytes: &mut Bytes<'_>) -> Request {
    Request {
        source: source(bytes),
        pasid: pasid(bytes),
        iova: Iova::new(address(bytes)),
        len_bytes: bytes.pick(&[4, 4, 64, 0]),
        access: access(bytes),
    }
}

fn source(bytes: &mut Bytes<'_>) -> SourceId {
    SourceId(bytes.pick(&[8, 8, 8, 8, 8, 9, 0x108, 0]))
}

fn pasid(bytes: &mut Bytes<'_>) -> Option<Pasid> {
    let pasid = bytes.pick(&[None, None, Some(1), Some(1), Some(2), Some(3), Some(0), Some(0xf_ffff)]);
    pasid.and_then(Pasid::new)
}

fn access(bytes: &mut Bytes<'_>) -> Access {
    let kind = bytes.pick(&[AccessKind::Read, AccessKind::Write, AccessKind::Execute]);
    Access { kind, privileged: bytes.one_in(4) }
}

fn address(bytes: &mut Bytes<'_>) -> u64 {
    // Two in the middle of large pages.
    let base =
        bytes.pick(&[0x1000, 0x3000, 0x3000, 0x25_5000, 0x4a_a000, 0xfee0_0000, 1 << 46, u64::MAX << 12]);
    if bytes.one_in(16) { bytes.word() } else { base ^ u64::from(bytes.u8()) << 4 }
}
