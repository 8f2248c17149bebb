//! Records of the SMMUv3's event and PRI queues, and what their registers say: the driver takes them out while the hardware writes what the input says.
//!
//! Bits of records are by hand, from the book, and not from the driver.
//!
//! What must hold:
//!
//! - every record that was told of comes out once, in order, as it lies in memory, and only then is its slot handed back; none that was not told of does;
//! - an index that no sound producer writes brings nothing out, and the queue goes on when the index is sound again;
//! - every stalled transaction gets one CMD_RESUME: at once if nobody shares its stream, else when its request is answered, and never two;
//! - every last page request gets one CMD_PRI_RESP: an answer that is given, or an invalid one if its stream is nobody's; a stop marker gets none;
//! - an overflow is told of, and acknowledged, once;
//! - torn down, all memory is back.
//!
//! Not here: what the queue of page requests makes of them (`crates/core/tests/iopf`), the command queue's own errors beyond those that interrupt a drain.

mod hardware;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use portcullis::core::iommu::{FaultRecord, Iommu, Target};
use portcullis::core::iopf::{GroupTag, PageRequest, PageResponse, ResponseCode};
use portcullis::core::sva::{CpuFacts, DeviceSvaFacts, DeviceSwitches, Drained, SvaIommu};
use portcullis::smmuv3::{Config, Smmu};
use portcullis::types::{Pasid, SizeLg2, SourceId};

use self::hardware::{CMDQ_CONS, EVENTS, GERROR, GERRORN, Hardware, Queue, REQUESTS};
use crate::bytes::Bytes;

/// Streams of the device that shares, and one of another.
const SHARED: [SourceId; 2] = [SourceId(8), SourceId(9)];

const CMD_PRI_RESP: u64 = 0x41;
const CMD_RESUME: u64 = 0x44;

pub(crate) fn run(input: &[u8]) {
    let mut bytes = Bytes::new(input);
    let mut act = Act::new(bytes.flag());
    while !bytes.is_empty() {
        act.step(&mut bytes);
    }
    act.end();
}

/// Switches of a device of which nobody looks at the switches.
#[derive(Debug)]
struct Switches;

impl DeviceSwitches for Switches {
    fn set_ats(&self, _: bool) {}
}

struct Act {
    hardware: Arc<Hardware>,
    smmu: Arc<Smmu<Hardware, Arc<Hardware>>>,
    /// Page requests are heard; otherwise stalls are.
    pcie: bool,
    /// Told of and not taken out.
    events: VecDeque<[u64; 4]>,
    requests: VecDeque<[u64; 2]>,
    /// To be answered.
    asked: Vec<PageRequest>,
    /// Stalls that were taken out and not resumed, by stream and tag: how many.
    stalled: BTreeMap<(u64, u64), u32>,
    /// Stalls that are to come out as requests, after their records were taken.
    kept: VecDeque<[u64; 4]>,
    /// Commands cannot be relied on any more: the hardware says that it could not read them.
    broken: bool,
}

impl Act {
    fn new(pcie: bool) -> Self {
        let hardware = Arc::new(Hardware::new(pcie));
        let mut config = Config::new("smmu");
        config.wait_limit_ns = 50_000;
        config.cpus = Some(CpuFacts::new(SizeLg2::KIB_4));
        let smmu = Smmu::probe(hardware.clone(), hardware.clone(), config).expect("it is a sound part");
        smmu.add_device("sharing", &SHARED).expect("there is room");
        smmu.add_device("other", &[SourceId(3)]).expect("there is room");
        let domain = smmu.new_domain().expect("there is room");
        smmu.attach(&SHARED, &Target::Domain(domain)).expect("it is ours");
        let facts = DeviceSvaFacts {
            ats: pcie,
            pri: pcie,
            can_stall: !pcie,
            pasid_bits: 16,
            ..DeviceSvaFacts::default()
        };
        let sva = smmu.sva().expect("the CPUs are known");
        sva.enable(&SHARED, &facts, Arc::new(Switches)).expect("it can share");
        hardware.take_commands();
        Self {
            hardware,
            smmu,
            pcie,
            events: VecDeque::new(),
            requests: VecDeque::new(),
            asked: Vec::new(),
            stalled: BTreeMap::new(),
            kept: VecDeque::new(),
            broken: false,
        }
    }

    fn sva(&self) -> &dyn SvaIommu<Hardware> {
        self.smmu.sva().expect("the CPUs are known")
    }

    fn step(&mut self, bytes: &mut Bytes<'_>) {
        match bytes.below(12) {
            0..=2 => self.happen(bytes),
            3 | 4 if self.pcie => self.ask(bytes),
            3..=5 => self.drain_events(),
            6 | 7 => self.drain_requests(),
            8 => self.nonsense(bytes),
            9 => self.overflow(bytes),
            10 if bytes.one_in(4) => self.errors(bytes),
            _ => self.answer(bytes),
        }
    }

    /// Writes a record if there is room, and tells of it.
    fn produce(&self, queue: Queue, record: &[u64]) -> bool {
        let (prod, entries) = self.hardware.indexes(queue);
        let cons = self.hardware.get(queue.cons) & (2 * entries - 1);
        if prod ^ cons == entries {
            return false;
        }
        self.hardware.put(queue, prod, record);
        let flags = self.hardware.get(queue.prod) & 1 << 31;
        self.hardware.set(queue.prod, flags | (prod + 1) & (2 * entries - 1));
        true
    }

    /// An event. Spec: SMMUv3 H.a, 7.3 "Event records".
    fn happen(&mut self, bytes: &mut Bytes<'_>) {
        let id = bytes.pick(&[0x10, 0x10, 0x12, 0x13, 0x11, 0x02, 0x04, 0x0a, 0x24, 0x25, 0xe5, 0x00, 0xff]);
        let flags = bytes.u8();
        let stream = u64::from(bytes.pick(&[8u8, 8, 9, 3, 77]));
        let (ssv, stall) = (u64::from(flags & 1), u64::from(flags >> 1 & 1));
        let word0 = id | ssv << 11 | u64::from(bytes.below(4)) << 12 | stream << 32;
        let tag = u64::from(bytes.below(4));
        let word1 = tag | stall << 31 | u64::from(flags >> 2 & 7) << 33;
        let record = if bytes.one_in(8) {
            [bytes.u64(), bytes.u64(), 0, 0]
        } else {
            [word0, word1, bytes.word(), bytes.word()]
        };
        let stalls = is_stall(&record);
        let key = (record[0] >> 32, record[1] & 0xffff);
        // No sound part gives a tag that is in use.
        let in_use = stalls
            && (self.stalled.contains_key(&key)
                || self
                    .events
                    .iter()
                    .any(|event| is_stall(event) && (event[0] >> 32, event[1] & 0xffff) == key));
        if !in_use && self.produce(EVENTS, &record) {
            self.events.push_back(record);
        }
    }

    /// A page request. Spec: SMMUv3 H.a, 8 "Page request queue", 8.2 "Miscellaneous".
    fn ask(&mut self, bytes: &mut Bytes<'_>) {
        let stream = u64::from(bytes.pick(&[8u8, 8, 9, 3, 77]));
        let word0 = stream | u64::from(bytes.below(4)) << 32 | u64::from(bytes.u8() & 0x3f) << 58;
        let word1 = u64::from(bytes.u16() & 0x1ff) | u64::from(bytes.u32()) << 12;
        if self.produce(REQUESTS, &[word0, word1]) {
            self.requests.push_back([word0, word1]);
        }
    }

    fn drain_events(&mut self) {
        let mut found: Vec<FaultRecord> = Vec::new();
        self.smmu.drain_events(&mut |record| found.push(*record));
        let mut found = found.into_iter();
        let wanted = core::mem::take(&mut self.events);
        for record in wanted {
            if is_stall(&record) {
                *self.stalled.entry((record[0] >> 32, record[1] & 0xffff)).or_default() += 1;
            }
            if self.is_kept(&record) {
                self.kept.push_back(record);
                continue;
            }
            let fault = found.next().expect("a record was lost");
            assert_eq!(fault.raw, record, "as it lies in memory, in order");
            assert!(fault.pasid.is_none_or(|pasid| u64::from(pasid.get()) == record[0] >> 12 & 0xf_ffff));
            assert!(fault.source.is_none_or(|source| u64::from(source.0) == record[0] >> 32));
        }
        assert!(found.next().is_none(), "a record that nobody wrote");
        self.check_handed_back(EVENTS);
        self.look_at_commands(&mut 0);
        // Whoever is stalled and shares nothing was ended at once.
        let waiting: u32 = self.stalled.values().sum();
        assert!(
            self.broken
                || waiting as usize
                    == self.kept.len() + self.asked.iter().filter(|request| is_stall_group(request)).count()
        );
    }

    /// Whether a record becomes a page request: a stall of a stream that shares by stalling, with a SubstreamID, while there is room.
    fn is_kept(&self, record: &[u64; 4]) -> bool {
        let shared = SHARED.iter().any(|source| u64::from(source.0) == record[0] >> 32);
        !self.pcie && is_stall(record) && record[0] >> 11 & 1 == 1 && shared && self.kept.len() < 4
    }

    fn drain_requests(&mut self) {
        let mut found = Vec::new();
        self.sva().drain_page_requests(&mut |drained| found.push(drained));
        let mut found = found.into_iter();
        let mut refused = 0;
        for raw in core::mem::take(&mut self.requests) {
            let shared = SHARED.iter().any(|source| source.0 as u64 == raw[0] & 0xffff_ffff);
            let (last, ssv) = (raw[0] >> 62 & 1 == 1, raw[0] >> 63 == 1);
            // Last, and neither read nor write, with a PASID.
            if last && ssv && raw[0] >> 60 & 3 == 0 {
                continue;
            }
            if !shared {
                refused += u32::from(last);
                continue;
            }
            match found.next() {
                Some(Drained::Request(request)) => {
                    assert_eq!(u64::from(request.source.0), raw[0] & 0xffff_ffff);
                    assert_eq!(
                        request.pasid,
                        if ssv { Pasid::new((raw[0] >> 32 & 0xf_ffff) as u32) } else { None }
                    );
                    assert_eq!(request.address.get(), raw[1] & !0xfff);
                    assert_eq!((request.group, request.last), (GroupTag::Prg((raw[1] & 0x1ff) as u16), last));
                    if last {
                        self.asked.push(request);
                    }
                }
                other => panic!("{raw:x?} came out as {other:?}"),
            }
        }
        let mut rest: Vec<Drained> = found.collect();
        rest.retain(|drained| *drained != Drained::Overflowed);
        for raw in core::mem::take(&mut self.kept) {
            assert!(!rest.is_empty(), "a stall was lost");
            let Drained::Request(request) = rest.remove(0) else { panic!("no request") };
            assert_eq!(u64::from(request.source.0), raw[0] >> 32);
            assert_eq!(u64::from(request.group.number()), raw[1] & 0xffff);
            assert!(request.is_last() && is_stall_group(&request));
            self.asked.push(request);
        }
        assert_eq!(rest, [], "requests that nobody made");
        if self.pcie {
            self.check_handed_back(REQUESTS);
        }
        let mut responses = 0;
        self.look_at_commands(&mut responses);
        assert!(
            self.broken || responses == refused,
            "{responses} responses to {refused} requests of nobody's"
        );
    }

    /// One of those who ask is answered.
    fn answer(&mut self, bytes: &mut Bytes<'_>) {
        if self.asked.is_empty() {
            return;
        }
        let PageRequest { source, pasid, group, .. } =
            self.asked.remove(usize::from(bytes.u8()) % self.asked.len());
        let code = bytes.pick(&[ResponseCode::Success, ResponseCode::Invalid, ResponseCode::Failure]);
        let response = PageResponse { source, pasid, group, code };
        let before: u32 = self.stalled.values().sum();
        self.sva().respond(&response);
        let mut responses = 0;
        self.look_at_commands(&mut responses);
        let resumed = before - self.stalled.values().sum::<u32>();
        assert!(
            self.broken || responses + resumed == 1,
            "one answer to one request: {responses} and {resumed}"
        );
        if matches!(group, GroupTag::Stall { .. }) {
            // A second answer is nobody's.
            self.sva().respond(&response);
            let mut responses = 0;
            self.look_at_commands(&mut responses);
            assert_eq!(responses, 0);
        }
    }

    /// What the driver told the hardware since the last look. Counts responses; every resumption must be of a stall that waits.
    fn look_at_commands(&mut self, responses: &mut u32) {
        for [word0, word1] in self.hardware.take_commands() {
            match word0 & 0xff {
                CMD_PRI_RESP => *responses += 1,
                CMD_RESUME => {
                    // StreamID, and STAG in the second word. Spec: SMMUv3 H.a, 4.7.1 "CMD_RESUME".
                    let key = (word0 >> 32, word1 & 0xffff);
                    let waits = self.stalled.get_mut(&key);
                    let left = waits.unwrap_or_else(|| panic!("{key:x?} is resumed, and nobody waits"));
                    *left -= 1;
                    if *left == 0 {
                        self.stalled.remove(&key);
                    }
                }
                // TLBI, CFGI, ATC_INV and CMD_SYNC may come with any of it.
                0x01..=0x06 | 0x10..=0x30 | 0x40 | 0x45 | 0x46 => {}
                other => panic!("command {other:#x}"),
            }
        }
    }

    /// The hardware says that records are where none can be: nothing comes out.
    fn nonsense(&mut self, bytes: &mut Bytes<'_>) {
        let queue = if bytes.flag() || !self.pcie { EVENTS } else { REQUESTS };
        let (prod, entries) = self.hardware.indexes(queue);
        let cons = self.hardware.get(queue.cons) & (2 * entries - 1);
        let before = self.hardware.get(queue.prod);
        // More than a queue's length ahead.
        let ahead = entries + 1 + u64::from(bytes.u8()) % (entries - 1);
        self.hardware.set(queue.prod, before & 1 << 31 | (cons + ahead) & (2 * entries - 1));
        let mut found = 0;
        if queue.base == EVENTS.base {
            found += self.smmu.drain_events(&mut |_| panic!("a record of nonsense"));
        } else if self.kept.is_empty() && self.pcie {
            found += self.sva().drain_page_requests(&mut |drained| assert_eq!(drained, Drained::Overflowed));
        }
        assert_eq!(found, 0);
        assert_eq!(self.hardware.get(queue.cons) & (2 * entries - 1), cons, "no slot is handed back");
        self.hardware.set(queue.prod, before & 1 << 31 | prod);
    }

    /// The hardware lost records: OVFLG is toggled if it is acknowledged.
    fn overflow(&mut self, bytes: &mut Bytes<'_>) {
        let queue = if bytes.flag() || !self.pcie { EVENTS } else { REQUESTS };
        let (prod, cons) = (self.hardware.get(queue.prod), self.hardware.get(queue.cons));
        if (prod ^ cons) >> 31 & 1 == 0 {
            self.hardware.set(queue.prod, prod ^ 1 << 31);
        }
        let mut told = 0;
        if queue.base == EVENTS.base {
            self.drain_events();
        } else {
            // What is there comes first.
            let wanted = core::mem::take(&mut self.requests).len();
            let mut count = 0;
            self.sva().drain_page_requests(&mut |drained| match drained {
                Drained::Overflowed => told += 1,
                // Whether the hardware answered it nobody knows: nobody answers it here.
                Drained::Request(_) => {
                    assert_eq!(told, 0, "what was there before an overflow is told before it");
                    count += 1;
                }
                Drained::Left => panic!("no answers wait for room here"),
            });
            assert!(count <= wanted);
            assert_eq!(told, 1, "an overflow is told of once");
            self.look_at_commands(&mut 0);
        }
        let (prod, cons) = (self.hardware.get(queue.prod), self.hardware.get(queue.cons));
        assert_eq!((prod ^ cons) >> 31 & 1, 0, "and acknowledged");
    }

    /// A global error, of any kind.
    fn errors(&mut self, bytes: &mut Bytes<'_>) {
        let bits = u64::from(bytes.u8() | bytes.u8() & 1) | u64::from(bytes.flag()) << 8;
        if bits & 1 != 0 {
            let code = u64::from(bytes.below(4));
            self.hardware.set(CMDQ_CONS, self.hardware.get(CMDQ_CONS) & 0xf_ffff | code << 24);
        }
        // Commands may be lost from here on, and are not counted any more; the rest must hold.
        self.broken |= bits & 0x101 != 0;
        self.hardware.set(GERROR, self.hardware.get(GERRORN) ^ bits);
        let errors = self.smmu.handle_errors();
        assert!(errors.len() <= 64);
        assert!(self.smmu.handle_errors().is_empty() || self.broken, "an error is told of once");
        self.look_at_commands(&mut 0);
        // PRIQ_ABT: requests may have been lost, which the next drain tells.
        if self.pcie && bits & 8 != 0 {
            self.drain_requests();
        }
    }

    /// All that was told of has been read.
    fn check_handed_back(&self, queue: Queue) {
        let (prod, entries) = self.hardware.indexes(queue);
        assert_eq!(self.hardware.get(queue.cons) & (2 * entries - 1), prod, "slots are handed back");
    }

    fn end(mut self) {
        self.drain_events();
        self.drain_requests();
        let done = self.smmu.teardown();
        assert!(done.is_ok() || self.broken, "{done:?}");
        let left = self.hardware.live_bytes();
        drop(self.smmu);
        assert!(done.is_err() || left == 0 || self.hardware.live_bytes() == 0, "{left} bytes are left");
    }
}

fn is_stall_group(request: &PageRequest) -> bool {
    matches!(request.group, GroupTag::Stall { .. })
}

/// Whether a record is that of a stalled transaction: Stall, in one of F_TRANSLATION, F_ADDR_SIZE, F_ACCESS, F_PERMISSION.
fn is_stall(record: &[u64; 4]) -> bool {
    (0x10..=0x13).contains(&(record[0] & 0xff)) && record[1] >> 31 & 1 == 1
}
