//! An accelerator in a small machine, and an IOMMU made of a table in the test's hands.

use core::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, Weak};

use model_bus::{
    Bus, BusError, BusOptions, Clocked, Downstream, Invalidation, InvalidationDone, Outcome, PageRequest,
    PageResponse, Passage, Request, Stall, StallState, Stores, TranslatedRequest, Translation,
    TranslationAnswer, TranslationRequest, Translator, Width,
};
use model_devices::accelerator::{AcceleratorOptions, PcieAccelerator, PlatformAccelerator};
use model_devices::pcie::{Host, Rid, RidMap, RootComplex, RootLayout, Window};
use portcullis_types::{AccessKind, Iova, Pa, Pasid, SourceId};

use crate::rig::{ECAM, Ear, RAM, RAM_BYTES, WINDOW, range};

/// Where a process has its memory: this much above where it lies in RAM.
pub(crate) const VA: u64 = 0x7f00_0000_0000;
/// Where the platform form's registers lie.
pub(crate) const PLATFORM: u64 = 0x0a00_0000;
pub(crate) const READS: SourceId = SourceId(0x40);
pub(crate) const WRITES: SourceId = SourceId(0x41);
/// The PCIe form, at 00:02.0, as the IOMMU knows it.
pub(crate) const FUNCTION: Rid = Rid(0x0010);
pub(crate) const STREAM: SourceId = SourceId(0x1_0010);
/// Where things of a process lie.
pub(crate) const RING: u64 = VA + 0x10_0000;
pub(crate) const SOURCE: u64 = VA + 0x100_0000;
pub(crate) const DEST: u64 = VA + 0x200_0000;
pub(crate) const SIZE_LG2: u32 = 4;
pub(crate) const PASID: u32 = 7;

/// What the table does about a group of page requests, from inside its last one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Policy {
    #[default]
    Keep,
    /// Makes the pages present, and says so.
    Grant,
    /// Only answers.
    Answer(u8),
}

#[derive(Default)]
pub(crate) struct Table {
    /// Everything is allowed.
    pub(crate) open: bool,
    /// What is not is stalled, instead of aborted.
    pub(crate) stalling: bool,
    pub(crate) policy: Policy,
    /// (pasid, page) to (read, write).
    pub(crate) pages: BTreeMap<(Option<Pasid>, u64), (bool, bool)>,
    /// Translations cover this much.
    pub(crate) size_lg2: u8,
    /// Translations say that they are to be accessed untranslated.
    pub(crate) untranslated_only: bool,
    pub(crate) translations: Vec<TranslationRequest>,
    pub(crate) requests: Vec<PageRequest>,
    pub(crate) untranslated: Vec<Request>,
    pub(crate) translated: Vec<TranslatedRequest>,
    pub(crate) done: Vec<InvalidationDone>,
    pub(crate) stalls: BTreeMap<u64, (Request, StallState)>,
    next_stall: u64,
    /// Pages whose invalidation has completed: translated accesses to them are breaches.
    pub(crate) dead: BTreeSet<u64>,
    pub(crate) breaches: Vec<TranslatedRequest>,
}

type Meanwhile = Mutex<Option<Box<dyn FnOnce() + Send>>>;

#[derive(Default)]
pub(crate) struct Mmu {
    table: Mutex<Table>,
    down: Mutex<Option<Weak<dyn Downstream>>>,
    /// What happens once while an access moves its bytes, or while a translation request is under way.
    pub(crate) in_access: Meanwhile,
    pub(crate) in_translate: Meanwhile,
    /// What happens once while a page request is on its way.
    pub(crate) in_request: Meanwhile,
    /// Whether lists are kept.
    pub(crate) quiet: AtomicBool,
    /// Whether translated accesses take their time, so that others come in between.
    pub(crate) slow: AtomicBool,
}

fn happen(meanwhile: &Meanwhile) {
    let happening = meanwhile.lock().unwrap().take();
    if let Some(happening) = happening {
        happening();
    }
}

pub(crate) fn pasid() -> Option<Pasid> {
    Pasid::new(PASID)
}

pub(crate) fn pa_of(va: u64) -> u64 {
    va.wrapping_sub(VA).wrapping_add(RAM)
}

fn carry_out(pa: u64, commit: &mut dyn FnMut(Passage) -> Result<(), BusError>) -> Outcome {
    match commit(Passage { pa: Pa::new(pa) }) {
        Ok(()) => Outcome::Done,
        Err(error) => Outcome::BusError(error),
    }
}

impl Translator for Mmu {
    fn access(&self, request: &Request, commit: &mut dyn FnMut(Passage) -> Result<(), BusError>) -> Outcome {
        assert!(request.iova.offset_in(4096) + u64::from(request.len_bytes) <= 4096);
        let mut table = self.table();
        if !self.quiet.load(Relaxed) {
            table.untranslated.push(*request);
        }
        if !table.allows(request.pasid, request.iova.get(), request.access.kind == AccessKind::Write) {
            if !table.stalling {
                return Outcome::Aborted;
            }
            table.next_stall += 1;
            let number = table.next_stall;
            table.stalls.insert(number, (*request, StallState::Waiting));
            return Outcome::Stalled(Stall(number));
        }
        drop(table);
        let outcome = carry_out(pa_of(request.iova.get()), commit);
        happen(&self.in_access);
        outcome
    }

    fn stalled(&self, stall: Stall) -> StallState {
        let mut table = self.table();
        match table.stalls.get(&stall.0) {
            Some((_, StallState::Waiting)) => StallState::Waiting,
            _ => table.stalls.remove(&stall.0).map_or(StallState::Aborted, |(_, state)| state),
        }
    }

    fn translate(&self, request: &TranslationRequest) -> TranslationAnswer {
        let mut table = self.table();
        if !self.quiet.load(Relaxed) {
            table.translations.push(*request);
        }
        let (pasid, at) = (request.pasid, request.iova.get());
        let size = 1u64 << table.size_lg2.max(12);
        let answer = Translation {
            first: Iova::new(at & !(size - 1)),
            pa: Pa::new(pa_of(at & !(size - 1))),
            size_lg2: table.size_lg2.max(12),
            read: table.allows(pasid, at, false),
            write: !request.no_write && table.allows(pasid, at, true),
            execute: false,
            privileged: false,
            global: false,
            untranslated_only: table.untranslated_only,
        };
        drop(table);
        happen(&self.in_translate);
        TranslationAnswer::Translated(answer)
    }

    fn access_translated(
        &self,
        request: &TranslatedRequest,
        commit: &mut dyn FnMut(Passage) -> Result<(), BusError>,
    ) -> Outcome {
        assert!(request.at.offset_in(4096) + u64::from(request.len_bytes) <= 4096);
        let page = request.at.get() & !0xfff;
        let breach = || {
            let mut table = self.table();
            if table.dead.contains(&page) {
                table.breaches.push(*request);
            }
        };
        if !self.quiet.load(Relaxed) {
            self.table().translated.push(*request);
        }
        breach();
        let outcome = carry_out(request.at.get(), commit);
        happen(&self.in_access);
        if self.slow.load(Relaxed) {
            (0..50).for_each(|_| std::thread::yield_now());
        }
        breach();
        outcome
    }

    fn request_page(&self, request: &PageRequest) {
        happen(&self.in_request);
        let mut table = self.table();
        if !self.quiet.load(Relaxed) {
            table.requests.push(*request);
        }
        let policy = table.policy;
        if policy == Policy::Grant {
            let page = table.pages.entry((request.pasid, request.iova.get())).or_default();
            *page = (page.0 | request.read, page.1 | request.write);
        }
        drop(table);
        let marker = request.pasid.is_some() && !request.read && !request.write;
        match policy {
            Policy::Answer(code) if request.last && !marker => self.respond(request, code),
            Policy::Grant if request.last && !marker => self.respond(request, 0),
            _ => (),
        }
    }

    fn invalidation_done(&self, done: &InvalidationDone) {
        self.table().done.push(*done);
    }

    fn connect(&self, downstream: Weak<dyn Downstream>) {
        *self.down.lock().unwrap() = Some(downstream);
    }
}

impl Table {
    fn allows(&self, pasid: Option<Pasid>, at: u64, write: bool) -> bool {
        let (read_ok, write_ok) = self.pages.get(&(pasid, at & !0xfff)).copied().unwrap_or_default();
        self.open || if write { write_ok } else { read_ok }
    }
}

impl Mmu {
    pub(crate) fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap()
    }

    pub(crate) fn down(&self) -> Arc<dyn Downstream> {
        self.down.lock().unwrap().as_ref().and_then(Weak::upgrade).expect("a root complex")
    }

    pub(crate) fn respond(&self, request: &PageRequest, code: u8) {
        self.respond_as(request, request.pasid, code);
    }

    pub(crate) fn respond_as(&self, request: &PageRequest, pasid: Option<Pasid>, code: u8) {
        let message = PageResponse { source: request.source, pasid, group: request.group, code };
        assert!(self.down().page_response(&message));
    }

    /// Makes every page of a run present.
    pub(crate) fn grant(&self, pasid: Option<Pasid>, at: u64, len: u64, read: bool, write: bool) {
        let mut table = self.table();
        for page in (at & !0xfff..at + len).step_by(4096) {
            table.pages.insert((pasid, page), (read, write));
        }
    }

    pub(crate) fn revoke(&self, pasid: Option<Pasid>, page: u64) {
        self.table().pages.remove(&(pasid, page));
    }

    pub(crate) fn invalidate(&self, pasid: Option<Pasid>, first: u64, size_lg2: u8, tag: u8) -> bool {
        let first = Iova::new(first);
        let message = Invalidation { source: STREAM, pasid, global: false, first, size_lg2, tag };
        self.down().invalidate(&message)
    }

    /// The tags that were completed, in order.
    pub(crate) fn tags(&self) -> Vec<u32> {
        self.table().done.iter().map(|done| done.tags).collect()
    }

    /// Page requests so far, stop markers among them.
    pub(crate) fn requests(&self) -> Vec<PageRequest> {
        self.table().requests.clone()
    }

    /// Ends every stall that waits.
    pub(crate) fn end_stalls(&self, end: StallState) -> Vec<Request> {
        let mut table = self.table();
        let waiting = table.stalls.values_mut().filter(|(_, state)| *state == StallState::Waiting);
        waiting
            .map(|(request, state)| {
                *state = end;
                *request
            })
            .collect()
    }
}

/// Which form, and how its pages come.
pub(crate) enum Form {
    Pcie(Arc<PcieAccelerator>),
    Platform(Arc<PlatformAccelerator>),
}

pub(crate) struct AccRig {
    pub(crate) bus: Arc<Bus>,
    pub(crate) root: Arc<RootComplex>,
    pub(crate) mmu: Arc<Mmu>,
    pub(crate) ear: Arc<Ear>,
    pub(crate) form: Form,
    base: u64,
    tails: Mutex<[u32; 16]>,
}

impl Drop for AccRig {
    fn drop(&mut self) {
        self.bus.dismantle();
    }
}

/// A job's words.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct JobWords {
    pub(crate) op: u32,
    pub(crate) flags: u32,
    pub(crate) source: u64,
    pub(crate) source_bytes: u64,
    pub(crate) dest: u64,
    pub(crate) dest_bytes: u64,
}

/// What the device wrote into an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ended {
    pub(crate) status: u32,
    pub(crate) consumed: u64,
    pub(crate) produced: u64,
    pub(crate) sum: u32,
}

pub(crate) const DEFLATE: u32 = 1;
pub(crate) const INFLATE: u32 = 2;
pub(crate) const COPY: u32 = 3;
pub(crate) const FILL: u32 = 4;
pub(crate) const SUM: u32 = 5;

/// A job from `SOURCE` to `DEST`.
pub(crate) fn job(op: u32, source_bytes: u64, dest_bytes: u64) -> JobWords {
    JobWords { op, flags: 0, source: SOURCE, source_bytes, dest: DEST, dest_bytes }
}

impl AccRig {
    fn machine() -> (Arc<Bus>, Arc<RootComplex>, Arc<Mmu>, Arc<Ear>) {
        let mut options = BusOptions::new(range(RAM, RAM_BYTES), 9);
        options.stores = Stores::Direct;
        let bus = Bus::new(&options);
        let (mmu, ear) = (Arc::new(Mmu::default()), Arc::new(Ear::default()));
        let layout = RootLayout {
            ecam: Pa::new(ECAM),
            buses: 0..=15,
            windows: vec![Window { cpu: range(WINDOW, 0x1000_0000), pci_first: WINDOW }],
        };
        let host = Host {
            translator: mmu.clone(),
            fabric: bus.clone(),
            stream_ids: RidMap::offset(0x1_0000),
            device_ids: RidMap::offset(0x2_0000),
            sink: ear.clone(),
        };
        let root = RootComplex::new(layout, host);
        root.connect(&bus).unwrap();
        (bus, root, mmu, ear)
    }

    /// On the root bus, with its BAR placed and everything still off.
    pub(crate) fn cold_pcie(options: &AcceleratorOptions) -> Self {
        let (bus, root, mmu, ear) = Self::machine();
        let device = PcieAccelerator::new(options, ear.clone());
        root.root_bus().plug(0x10, device.clone()).unwrap();
        bus.add_clocked(device.clone());
        let tails = Mutex::default();
        let rig = Self { bus, root, mmu, ear, form: Form::Pcie(device), base: WINDOW, tails };
        rig.write_config(0x10, Width::Bits32, WINDOW);
        rig.write_config(0x14, Width::Bits32, 0);
        rig.write_config(0x04, Width::Bits16, 0x0006);
        rig
    }

    /// Everything on: PASID, 16 page requests, ATS, the device.
    pub(crate) fn pcie(options: &AcceleratorOptions) -> Self {
        let rig = Self::cold_pcie(options);
        rig.switch_on(16);
        rig.enable();
        rig
    }

    pub(crate) fn switch_on(&self, allocation: u64) {
        self.write_config(self.extended(0x1b) + 6, Width::Bits16, 1);
        self.write_config(self.extended(0x13) + 12, Width::Bits32, allocation);
        self.write_config(self.extended(0x13) + 4, Width::Bits16, 1);
        self.write_config(self.extended(0x0f) + 6, Width::Bits16, 0x8000);
    }

    pub(crate) fn platform(options: &AcceleratorOptions) -> Self {
        let (bus, root, mmu, ear) = Self::machine();
        mmu.table().stalling = true;
        let translator: Arc<dyn Translator> = mmu.clone();
        let fabric: Arc<dyn model_bus::Fabric> = bus.clone();
        let device = PlatformAccelerator::new(options, [READS, WRITES], &translator, &fabric, ear.clone());
        device.connect(&bus, Pa::new(PLATFORM)).unwrap();
        bus.add_clocked(device.clone());
        let tails = Mutex::default();
        let rig = Self { bus, root, mmu, ear, form: Form::Platform(device), base: PLATFORM, tails };
        rig.enable();
        rig
    }

    /// Both forms, everything present.
    pub(crate) fn both() -> [Self; 2] {
        let options = AcceleratorOptions::default();
        let rigs = [Self::pcie(&options), Self::platform(&options)];
        rigs.iter().for_each(|rig| {
            rig.mmu.table().open = true;
            rig.start(0, Some(PASID));
        });
        rigs
    }

    pub(crate) fn device(&self) -> &Arc<PcieAccelerator> {
        let Form::Pcie(device) = &self.form else { panic!("the platform form") };
        device
    }

    pub(crate) fn counts(&self) -> model_devices::accelerator::AcceleratorCounts {
        match &self.form {
            Form::Pcie(device) => device.counts(),
            Form::Platform(device) => device.counts(),
        }
    }

    pub(crate) fn write_config(&self, at: u64, width: Width, value: u64) {
        self.root.write_config(FUNCTION, at as usize, width, value);
    }

    pub(crate) fn read_config(&self, at: u64, width: Width) -> u64 {
        self.root.read_config(FUNCTION, at as usize, width)
    }

    /// Where an extended capability lies.
    pub(crate) fn extended(&self, id: u64) -> u64 {
        let mut at = 0x100;
        loop {
            let header = self.read_config(at, Width::Bits32);
            if header & 0xffff == id {
                return at;
            }
            at = header >> 20;
            assert_ne!(at, 0, "no extended capability {id:#x}");
        }
    }

    pub(crate) fn pri_status(&self) -> u64 {
        self.read_config(self.extended(0x13) + 6, Width::Bits16)
    }

    pub(crate) fn get(&self, at: u64) -> u64 {
        self.bus.read_register(Pa::new(self.base + at), Width::Bits64).unwrap()
    }

    pub(crate) fn set(&self, at: u64, value: u64) {
        self.bus.write_register(Pa::new(self.base + at), Width::Bits64, value).unwrap();
    }

    pub(crate) fn enable(&self) {
        self.set(0x10, 1);
        self.bus.step();
        assert_eq!(self.get(0x18), 1);
    }

    /// The ring of a queue.
    pub(crate) fn ring(queue: u64) -> u64 {
        RING + 0x1_0000 * queue
    }

    pub(crate) fn start(&self, queue: u64, pasid: Option<u32>) {
        let at = 0x1000 + 0x40 * queue;
        self.set(at, pasid.map_or(0, |pasid| 0x8000_0000 | u64::from(pasid)));
        self.set(at + 0x08, Self::ring(queue));
        self.set(at + 0x10, u64::from(SIZE_LG2));
        self.set(at + 0x18, 1);
        self.tails.lock().unwrap()[queue as usize] = 0;
        assert_eq!(self.state(queue), 1);
    }

    pub(crate) fn stop(&self, queue: u64) {
        self.set(0x1018 + 0x40 * queue, 2);
    }

    pub(crate) fn abort(&self, queue: u64) {
        self.set(0x1018 + 0x40 * queue, 3);
    }

    pub(crate) fn state(&self, queue: u64) -> u64 {
        self.get(0x1020 + 0x40 * queue)
    }

    pub(crate) fn error(&self, queue: u64) -> u64 {
        self.get(0x1028 + 0x40 * queue)
    }

    pub(crate) fn head(&self, queue: u64) -> u64 {
        self.get(0x8008 + 0x400 * queue)
    }

    pub(crate) fn store(&self, va: u64, bytes: &[u8]) {
        self.bus.cpu().write(Pa::new(pa_of(va)), bytes).unwrap();
    }

    pub(crate) fn load(&self, va: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.bus.cpu().read(Pa::new(pa_of(va)), &mut bytes).unwrap();
        bytes
    }

    /// Puts a job into a queue and rings; the address of its entry.
    pub(crate) fn submit(&self, queue: u64, job: JobWords) -> u64 {
        let mut tails = self.tails.lock().unwrap();
        let tail = &mut tails[queue as usize];
        let at = Self::ring(queue) + 64 * u64::from(*tail % (1 << SIZE_LG2));
        let mut bytes = Vec::new();
        bytes.extend(job.op.to_le_bytes());
        bytes.extend(job.flags.to_le_bytes());
        for word in [job.source, job.source_bytes, job.dest, job.dest_bytes, u64::MAX, u64::MAX] {
            bytes.extend(word.to_le_bytes());
        }
        bytes.extend([0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0]);
        self.store(at, &bytes);
        *tail = (*tail + 1) % (2 << SIZE_LG2);
        self.set(0x8000 + 0x400 * queue, u64::from(*tail));
        at
    }

    pub(crate) fn settle(&self) {
        assert!(self.bus.settle(100_000), "the accelerator does not come to rest");
    }

    pub(crate) fn ended(&self, entry: u64) -> Ended {
        let bytes = self.load(entry + 40, 24);
        let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
        let long = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
        Ended { status: word(20), consumed: long(0), produced: long(8), sum: word(16) }
    }

    /// Does a job in queue 0.
    pub(crate) fn run(&self, job: JobWords) -> Ended {
        let entry = self.submit(0, job);
        self.settle();
        self.ended(entry)
    }

    /// Lets the device alone make a step.
    pub(crate) fn step(&self) -> bool {
        match &self.form {
            Form::Pcie(device) => device.step(0),
            Form::Platform(device) => device.step(0),
        }
    }
}

/// Bytes that compress somewhat.
pub(crate) fn text(len: usize) -> Vec<u8> {
    (0..len as u64).map(|at| (at.wrapping_mul(at / 7 + 13) >> 5) as u8 & 0x3f).collect()
}
