//! The VT-d model against words typed by hand: tables in memory, descriptors, messages and fault records.

use std::sync::{Arc, Mutex};

use model_bus::{
    Clocked, Doorbell, Downstream, Invalidation, Mmio, Outcome, PageRequest, PageResponse, Request,
    SparseMemory, Translator, Width,
};
use model_vtd::{Config, Interrupt, Interrupts, Memory, Policy, Scalable, Vtd};
use portcullis_checks::golden::vtd::scenes::{
    ADDRESS, Comes, LEGACY, PASID, ROOT_TABLE, SCALABLE, SCENES, SOURCE, Scene,
};
use portcullis_types::trace::Silence;
use portcullis_types::{Access, Iova, Pasid, SourceId};

/// The invalidation queue, the page request queue, and the interrupt remapping table: a page each.
const QUEUE: u64 = 0x2_0000;
const REQUESTS: u64 = 0x3_0000;
const INTERRUPTS: u64 = 0x4_0000;
/// Where a wait writes.
const STATUS: u64 = 0x2_8010;

/// CPUs and devices that remember what they were told.
#[derive(Default)]
struct Ears {
    interrupts: Mutex<Vec<Interrupt>>,
    invalidations: Mutex<Vec<Invalidation>>,
    responses: Mutex<Vec<PageResponse>>,
}

impl Interrupts for Ears {
    fn deliver(&self, interrupt: &Interrupt) {
        self.interrupts.lock().unwrap().push(*interrupt);
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

struct Bench {
    scalable: bool,
    ram: Arc<SparseMemory>,
    ears: Arc<Ears>,
    unit: Vtd,
}

impl Bench {
    /// A unit with these words before it, on.
    fn new(scalable: bool, memory: &[(u64, &[u64])]) -> Self {
        let full = Scalable { first_stage_5_levels: true, ..Scalable::full() };
        let config = Config { policy: Policy::eager(), scalable: Some(full), ..Config::default() };
        let ram = Arc::new(SparseMemory::new(46));
        let always = if scalable { SCALABLE } else { LEGACY };
        always.iter().chain(memory).for_each(|(at, words)| ram.put(*at, words));
        let ears = Arc::new(Ears::default());
        let both = Memory { snooped: ram.clone(), unsnooped: ram.clone() };
        let unit = Vtd::new(config, both, ears.clone(), 1, Arc::new(Silence));
        let down: Arc<dyn Downstream> = ears.clone();
        unit.connect(Arc::downgrade(&down));
        let bench = Self { scalable, ram, ears, unit };
        // IQA_REG: 256-bit descriptors in scalable mode (DW, bit 11). RTADDR_REG: TTM 01b.
        bench.write64(0x90, QUEUE | u64::from(scalable) << 11);
        bench.write64(0x20, ROOT_TABLE | u64::from(scalable) << 10);
        // PQA_REG, IRTA_REG with 256 entries.
        bench.write64(0xd0, REQUESTS);
        bench.write64(0xb8, INTERRUPTS | 7);
        // GCMD_REG: QIE 26, SRTP 30, SIRTP 24.
        [26, 30, 24].iter().for_each(|&bit| bench.command(bit));
        // What a new root and a new table for interrupts ask for: context cache, PASID cache, IOTLB, interrupt entry cache, each globally.
        let globally = [0x11, 0x37, 0x12, 0x4].into_iter().filter(|&word| scalable || word != 0x37);
        globally.for_each(|word| bench.submit([word, 0]));
        // IRE 25, TE 31.
        [25, 31].iter().for_each(|&bit| bench.command(bit));
        bench
    }

    fn write64(&self, offset: u64, value: u64) {
        self.unit.write(offset, Width::Bits64, value);
    }

    fn read64(&self, offset: u64) -> u64 {
        self.unit.read(offset, Width::Bits64)
    }

    fn command(&self, bit: u32) {
        // What is one shot is not written again: 96FFFFFFh.
        let status = self.unit.read(0x1c, Width::Bits32) & 0x96ff_ffff;
        self.unit.write(0x18, Width::Bits32, status | 1 << bit);
        self.ticks();
        assert_eq!(self.unit.read(0x1c, Width::Bits32) >> bit & 1, 1, "command {bit}");
    }

    fn ticks(&self) {
        (0..100).for_each(|_| {
            self.unit.step(0);
        });
    }

    /// Queues a descriptor, of 256 bits in scalable mode.
    fn submit(&self, words: [u64; 2]) {
        let tail = self.read64(0x88);
        self.ram.put(QUEUE + tail, &[words[0], words[1], 0, 0]);
        self.write64(0x88, (tail + if self.scalable { 32 } else { 16 }) % 0x1000);
        self.ticks();
    }

    fn ask(&self, scene: &Scene) -> Comes {
        let request = Request {
            source: SourceId(SOURCE),
            pasid: scene.tagged.then(|| Pasid::new(PASID).unwrap()),
            iova: Iova::new(scene.address),
            len_bytes: 4,
            access: if scene.write { Access::WRITE } else { Access::READ },
        };
        let mut at = None;
        let outcome = self.unit.access(&request, &mut |passage| {
            at = Some(passage.pa.get());
            Ok(())
        });
        match (outcome, at) {
            (Outcome::Done, Some(at)) => Comes::At(at),
            (Outcome::Aborted, None) => self.record().map_or(Comes::Quiet, Comes::Recorded),
            other => panic!("{}: {other:?}", scene.name),
        }
    }

    /// The record of the fault that is pending: FSTS_REG, PPF bit 1, FRI 15:8; records from CAP_REG.FRO on, bits 33:24 in 16 bytes.
    fn record(&self) -> Option<[u64; 2]> {
        let status = self.unit.read(0x34, Width::Bits32);
        let first = (self.read64(0x08) >> 24 & 0x3ff) * 16 + 16 * (status >> 8 & 0xff);
        (status & 2 != 0).then(|| [self.read64(first), self.read64(first + 8)])
    }
}

#[test]
fn what_lies_in_memory_means_to_the_model_what_it_means_to_a_reader_of_the_book() {
    for scene in SCENES {
        let bench = Bench::new(scene.scalable, scene.memory);
        let came = bench.ask(scene);
        let told = |comes| match comes {
            Comes::Recorded(words) => format!("{words:x?}"),
            other => format!("{other:x?}"),
        };
        assert_eq!(told(came), told(scene.comes), "{}", scene.name);
        for &(at, word) in scene.after {
            assert_eq!(bench.ram.word(at), word, "{}: {at:#x}", scene.name);
        }
        assert!(bench.unit.take_unpredictable().is_empty(), "{}", scene.name);
    }
}

#[test]
fn descriptors_of_invalidations_reach_the_devices_that_they_name() {
    let bench = Bench::new(true, &[]);
    // A page of 00:02.0 without a PASID; everything of it: S, bit 0, and ones up to the highest bit, which is 0.
    bench.submit([0x0000_0010_0000_0003, 0x7654_1000]);
    bench.submit([0x0000_0010_0000_0003, 0x7fff_ffff_ffff_f001]);
    // Four pages of PASID 85h: S, bit 11, and one 1 above the page.
    bench.submit([0x0000_0085_0010_0008, 0x7654_1800]);
    let heard = bench.ears.invalidations.lock().unwrap();
    let told: Vec<_> =
        heard.iter().map(|one| (one.source.0, one.pasid, one.first.get(), one.size_lg2)).collect();
    let pasid = Pasid::new(PASID);
    let wanted = [(0x10, None, 0x7654_1000, 12), (0x10, None, 0, 64), (0x10, pasid, 0x7654_0000, 14)];
    assert_eq!(told, wanted);
}

#[test]
fn descriptors_of_invalidations_make_the_unit_forget_what_they_name_and_waits_say_so() {
    let scene = |name| SCENES.iter().find(|scene| scene.name == name).unwrap();
    let (first, second) = (scene("first stage, read"), scene("second stage"));
    // PASID-selective of domain 6; page-selective-within-PASID of this page; PASID cache of this PASID; domain-selective, and page-selective of this page, of domain 5.
    let cases: [(&Scene, [u64; 2], (u64, u64)); 5] = [
        (first, [0x0000_0085_0006_0026, 0], (0x20_3800, 0x1_5555_5007)),
        (first, [0x0000_0085_0006_0036, 0x7654_1910_0000], (0x20_3800, 0x1_5555_5007)),
        (first, [0x0000_0085_0006_0026, 0], (0x20_3800, 0x1_5555_5007)),
        (second, [0x0005_0022, 0], (0x10_3800, 0x1_5555_5003)),
        (second, [0x0005_0032, 0x7654_1910_0000], (0x10_3800, 0x1_5555_5003)),
    ];
    for (scene, words, (at, word)) in cases {
        let bench = Bench::new(true, scene.memory);
        assert_eq!(bench.ask(scene), Comes::At(0x1_2345_6123));
        bench.ram.put(at, &[word]);
        bench.submit(words);
        // SW, and 42h as status data.
        bench.submit([0x0000_0042_0000_0025, STATUS]);
        assert_eq!(bench.ram.word(STATUS) & 0xffff_ffff, 0x42);
        assert_eq!(bench.ask(scene), Comes::At(0x1_5555_5123), "{words:x?}");
    }
    // A PASID table entry that has changed: PASID cache, PASID-selective (G 01b) of domain 6, and then the IOTLB.
    let bench = Bench::new(true, first.memory);
    assert_eq!(bench.ask(first), Comes::At(0x1_2345_6123));
    bench.ram.put(0x1_3140, &[0x2]);
    bench.submit([0x0000_0085_0006_0017, 0]);
    bench.submit([0x0000_0085_0006_0026, 0]);
    assert_eq!(bench.ask(first), Comes::Quiet);
}

#[test]
fn page_requests_and_responses_are_the_words_of_the_book() {
    let entry: (u64, &[u64]) = (0x1_3140, &[0x41, 0x80_0006, 0x20_0000, 0, 0, 0, 0, 0]);
    let bench = Bench::new(true, &[entry]);
    bench.unit.request_page(&PageRequest {
        source: SourceId(SOURCE),
        pasid: Pasid::new(PASID),
        privileged: false,
        execute: false,
        iova: Iova::new(ADDRESS & !0xfff),
        group: 0x1f,
        last: true,
        read: true,
        write: false,
    });
    bench.ticks();
    // Type 01h, PP, RID, PASID; RDR, LPIG, PRGI in 11:3, the address.
    let words = [REQUESTS, REQUESTS + 8].map(|at| bench.ram.word(at));
    assert_eq!(words, [0x0000_0085_0010_0101, 0x7654_1910_00fd]);
    // PQT_REG, and PPR of PRS_REG.
    assert_eq!((bench.read64(0xc8), bench.unit.read(0xdc, Width::Bits32)), (0x20, 1));
    // Type 9, PP, RC 1 in 15:12, RID, PASID; PRGI in 11:3.
    bench.submit([0x0000_0085_0010_1019, 0xf8]);
    let response = PageResponse { source: SourceId(SOURCE), pasid: Pasid::new(PASID), group: 0x1f, code: 1 };
    assert_eq!(*bench.ears.responses.lock().unwrap(), [response]);
}

#[test]
fn entries_for_interrupts_say_who_may_raise_what() {
    // Entry 5: P, V 41h, DST of APIC 1 in 47:40; SID, SVT 01b. Entry 6: SVT 10b, buses 5 to 7.
    let entries: [(u64, &[u64]); 2] = [
        (INTERRUPTS + 0x50, &[0x0000_0100_0041_0001, 0x4_0010]),
        (INTERRUPTS + 0x60, &[0x0000_0200_0042_0001, 0x8_0507]),
    ];
    let bench = Bench::new(true, &entries);
    // Bit 4: remappable; the handle in 19:5.
    let rings = |source, address: u64| {
        let rung = bench.unit.ring(address - 0xfee0_0000, &[0; 4], Some(SourceId(source))).is_ok();
        let heard = bench.ears.interrupts.lock().unwrap().pop();
        assert_eq!(rung, heard.is_some());
        heard.map(|interrupt| (interrupt.vector, interrupt.destination, interrupt.index))
    };
    assert_eq!(rings(0x10, 0xfee0_00b0), Some((0x41, 1, Some(5))));
    assert_eq!(rings(0x11, 0xfee0_00b0), None);
    let by_bus = [0x4ff, 0x500, 0x700, 0x7ff, 0x800].map(|source| rings(source, 0xfee0_00d0).is_some());
    assert_eq!(by_bus, [false, true, true, true, false]);
    assert_eq!(rings(0x500, 0xfee0_00d0), Some((0x42, 2, Some(6))));
    // An entry that is not there: reason 22h, the index in 63:48 of the record's first word. And a message in compatibility format, which CFIS lets nobody send: 25h, of no index.
    let refused = |address| {
        let bench = Bench::new(true, &[]);
        assert!(bench.unit.ring(address, &[0; 4], Some(SourceId(0x10))).is_err());
        let record = bench.record().unwrap();
        (record[0] >> 48, record[1] >> 32 & 0xff, record[1] & 0xffff)
    };
    assert_eq!(refused(0xf0), (7, 0x22, 0x10));
    assert_eq!(refused(0xe0), (0, 0x25, 0x10));
}
