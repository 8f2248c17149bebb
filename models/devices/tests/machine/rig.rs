//! A small machine: RAM, a root complex, an interrupt controller, and hands that write registers and entries literally.

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

use model_bus::{Bus, BusError, BusOptions, Outcome, Passage, Request, Stores, Translator, Width};
use model_devices::its::Its;
use model_devices::nvme::{Medium, MemoryMedium, Nvme, NvmeOptions};
use model_devices::pcie::{Bridge, BridgeOptions, Host, Rid, RidMap, RootComplex, RootLayout, Window};
use portcullis_types::trace::{Event, Sink};
use portcullis_types::{Pa, PaRange, SourceId};

pub(crate) const ECAM: u64 = 0x40_1000_0000;
pub(crate) const WINDOW: u64 = 0x1000_0000;
pub(crate) const HIGH_WINDOW: u64 = 0x80_0000_0000;
pub(crate) const ITS: u64 = 0x0808_0000;
pub(crate) const RAM: u64 = 0x4000_0000;
pub(crate) const RAM_BYTES: u64 = 0x400_0000;
/// Where the rig's driver puts its things.
pub(crate) const ASQ: u64 = RAM + 0x10_0000;
pub(crate) const ACQ: u64 = RAM + 0x11_0000;
pub(crate) const SQ: u64 = RAM + 0x12_0000;
pub(crate) const CQ: u64 = RAM + 0x13_0000;
pub(crate) const DATA: u64 = RAM + 0x20_0000;

pub(crate) fn range(first: u64, len_bytes: u64) -> PaRange {
    PaRange::new(Pa::new(first), len_bytes).unwrap()
}

/// Passes everything but what lies in one page, and remembers who asked.
#[derive(Default)]
pub(crate) struct Gate {
    pub(crate) shut_page: AtomicU64,
    pub(crate) sources: Mutex<Vec<SourceId>>,
    pub(crate) shut: AtomicBool,
    /// What happens while the next access is under way.
    pub(crate) meanwhile: Mutex<Option<Box<dyn FnOnce() + Send>>>,
}

impl Translator for Gate {
    fn access(&self, request: &Request, commit: &mut dyn FnMut(Passage) -> Result<(), BusError>) -> Outcome {
        let mut sources = self.sources.lock().unwrap();
        if !sources.contains(&request.source) {
            sources.push(request.source);
        }
        drop(sources);
        let meanwhile = self.meanwhile.lock().unwrap().take();
        if let Some(meanwhile) = meanwhile {
            meanwhile();
        }
        if self.shut.load(Relaxed) && request.iova.get() & !0xfff == self.shut_page.load(Relaxed) {
            return Outcome::Aborted;
        }
        match commit(Passage { pa: Pa::new(request.iova.get()) }) {
            Ok(()) => Outcome::Done,
            Err(error) => Outcome::BusError(error),
        }
    }
}

impl Gate {
    /// Refuses accesses to the page at `page` from now on.
    pub(crate) fn shut(&self, page: u64) {
        self.shut_page.store(page, Relaxed);
        self.shut.store(true, Relaxed);
    }

    pub(crate) fn open(&self) {
        self.shut.store(false, Relaxed);
    }
}

/// Remembers events as lines.
#[derive(Default)]
pub(crate) struct Ear(pub(crate) Mutex<Vec<String>>);

impl Sink for Ear {
    fn listening(&self) -> bool {
        true
    }

    fn event(&self, event: &Event<'_>) {
        self.0.lock().unwrap().push(format!("{} {event}", event.source));
    }
}

impl Ear {
    pub(crate) fn heard(&self, line: &str) -> bool {
        self.0.lock().unwrap().iter().any(|heard| heard.contains(line))
    }
}

pub(crate) struct Rig {
    pub(crate) bus: Arc<Bus>,
    pub(crate) root: Arc<RootComplex>,
    pub(crate) its: Arc<Its>,
    pub(crate) gate: Arc<Gate>,
    pub(crate) ear: Arc<Ear>,
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.bus.dismantle();
    }
}

impl Rig {
    /// Stream ids are requester ids plus 0x1_0000, device ids plus 0x2_0000.
    pub(crate) fn new() -> Self {
        let mut options = BusOptions::new(range(RAM, RAM_BYTES), 5);
        options.stores = Stores::Direct;
        let bus = Bus::new(&options);
        let (gate, ear) = (Arc::new(Gate::default()), Arc::new(Ear::default()));
        let its = Its::new(ear.clone());
        its.connect(&bus, Pa::new(ITS)).unwrap();
        let layout = RootLayout {
            ecam: Pa::new(ECAM),
            buses: 0..=15,
            windows: vec![
                Window { cpu: range(WINDOW, 0x1000_0000), pci_first: WINDOW },
                Window { cpu: range(HIGH_WINDOW, 0x1_0000_0000), pci_first: 0x70_0000_0000 },
            ],
        };
        let host = Host {
            translator: gate.clone(),
            fabric: bus.clone(),
            stream_ids: RidMap::offset(0x1_0000),
            device_ids: RidMap::offset(0x2_0000),
            sink: ear.clone(),
        };
        let root = RootComplex::new(layout, host);
        root.connect(&bus).unwrap();
        Self { bus, root, its, gate, ear }
    }

    pub(crate) fn config(rid: Rid, register: u64) -> Pa {
        Pa::new(ECAM + (u64::from(rid.0) << 12) + register)
    }

    pub(crate) fn read_config(&self, rid: Rid, register: u64, width: Width) -> u64 {
        self.bus.read_register(Self::config(rid, register), width).unwrap()
    }

    pub(crate) fn write_config(&self, rid: Rid, register: u64, width: Width, value: u64) {
        self.bus.write_register(Self::config(rid, register), width, value).unwrap();
    }

    pub(crate) fn read32(&self, at: u64) -> u32 {
        self.bus.read_register(Pa::new(at), Width::Bits32).unwrap() as u32
    }

    pub(crate) fn write32(&self, at: u64, value: u32) {
        self.bus.write_register(Pa::new(at), Width::Bits32, u64::from(value)).unwrap();
    }

    /// Adds a root port in slot 1, with bus 1 behind it and the whole low window open.
    pub(crate) fn add_port(&self) -> Arc<Bridge> {
        let port = self.root.root_bus().add_bridge(1 << 3, BridgeOptions::default()).unwrap();
        let rid = Rid::new(0, 1 << 3);
        self.write_config(rid, 0x18, Width::Bits32, 0x0001_0100);
        self.write_config(rid, 0x20, Width::Bits32, 0x1ff0_1000);
        self.write_config(rid, 0x04, Width::Bits16, 0x0006);
        port
    }
}

/// An NVMe controller behind a root port at 01:00.0, its registers at the start of the window.
pub(crate) struct DiskRig {
    pub(crate) rig: Rig,
    pub(crate) nvme: Arc<Nvme>,
    pub(crate) port: Arc<Bridge>,
    next_id: AtomicU64,
    tails: Mutex<[u32; 2]>,
    heads: Mutex<[(u32, bool); 2]>,
}

pub(crate) const DISK: Rid = Rid(0x0100);
pub(crate) const BAR: u64 = WINDOW;
/// Entries in the rig's queues.
pub(crate) const ENTRIES: u32 = 8;
/// The vectors' LPIs begin here.
pub(crate) const FIRST_LPI: u32 = 8192;

/// A completion, cut into its fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cqe {
    pub(crate) result: u32,
    pub(crate) sq_head: u16,
    pub(crate) sq: u16,
    pub(crate) id: u16,
    /// Code in 7:0, type in 10:8, Do Not Retry in 14.
    pub(crate) status: u16,
}

/// A command's dwords, all zero but those that are set.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Sqe(pub(crate) [u32; 16]);

impl Sqe {
    pub(crate) fn new(opcode: u32, nsid: u32) -> Self {
        let mut dwords = [0; 16];
        dwords[0] = opcode;
        dwords[1] = nsid;
        Self(dwords)
    }

    pub(crate) fn prps(mut self, prp1: u64, prp2: u64) -> Self {
        self.0[6..10].copy_from_slice(&[prp1 as u32, (prp1 >> 32) as u32, prp2 as u32, (prp2 >> 32) as u32]);
        self
    }

    pub(crate) fn dw(mut self, index: usize, value: u32) -> Self {
        self.0[index] = value;
        self
    }

    /// Read or write: `count` blocks from `lba`.
    pub(crate) fn blocks(self, lba: u64, count: u32) -> Self {
        self.dw(10, lba as u32).dw(11, (lba >> 32) as u32).dw(12, count.wrapping_sub(1) & 0xffff)
    }
}

impl DiskRig {
    pub(crate) fn new(bytes: Vec<u8>) -> Self {
        Self::with(NvmeOptions::default(), Box::new(MemoryMedium::new(bytes)))
    }

    /// Plugged in, BAR placed, memory and bus mastering on, MSI-X on with vectors 0 and 1; not enabled.
    pub(crate) fn with(options: NvmeOptions, medium: Box<dyn Medium>) -> Self {
        let rig = Rig::new();
        let port = rig.add_port();
        let nvme = Nvme::new(options, medium, rig.ear.clone());
        port.secondary().plug(0, nvme.clone()).unwrap();
        rig.bus.add_clocked(nvme.clone());
        let disk = Self {
            rig,
            nvme,
            port,
            next_id: AtomicU64::new(1),
            tails: Mutex::default(),
            heads: Mutex::new([(0, true); 2]),
        };
        disk.set_up();
        disk
    }

    pub(crate) fn set_up(&self) {
        let rig = &self.rig;
        rig.write_config(DISK, 0x10, Width::Bits32, BAR);
        rig.write_config(DISK, 0x14, Width::Bits32, 0);
        rig.write_config(DISK, 0x04, Width::Bits16, 0x0406);
        let msix = self.capability(0x11);
        let table = BAR + u64::from(rig.read_config(DISK, msix + 4, Width::Bits32) as u32 & !7);
        for vector in 0..2u32 {
            let entry = table + 16 * u64::from(vector);
            rig.write32(entry, (ITS + 0x1_0040) as u32);
            rig.write32(entry + 4, 0);
            rig.write32(entry + 8, vector);
            rig.write32(entry + 12, 0);
            rig.its.map(SourceId(0x2_0100), vector, FIRST_LPI + vector).unwrap();
        }
        rig.write_config(DISK, msix + 2, Width::Bits16, 0x8000);
    }

    /// Resets the function while its next access is under way.
    pub(crate) fn reset_meanwhile(&self) {
        let control = self.capability(0x10) + 8;
        let root = self.rig.root.clone();
        let reset = move || root.write_config(DISK, control as usize, Width::Bits16, 0x8000);
        *self.rig.gate.meanwhile.lock().unwrap() = Some(Box::new(reset));
    }

    /// Where the capability `id` lies.
    pub(crate) fn capability(&self, id: u64) -> u64 {
        let mut at = self.rig.read_config(DISK, 0x34, Width::Bits8);
        while at != 0 && self.rig.read_config(DISK, at, Width::Bits8) != id {
            at = self.rig.read_config(DISK, at + 1, Width::Bits8);
        }
        assert_ne!(at, 0, "no capability {id:#x}");
        at
    }

    pub(crate) fn csts(&self) -> u32 {
        self.rig.read32(BAR + 0x1c)
    }

    pub(crate) fn settle(&self) {
        assert!(self.rig.bus.settle(10_000), "the controller does not come to rest");
    }

    pub(crate) fn enable(&self) {
        self.rig.write32(BAR + 0x24, (ENTRIES - 1) << 16 | (ENTRIES - 1));
        self.rig.write32(BAR + 0x28, ASQ as u32);
        self.rig.write32(BAR + 0x2c, 0);
        self.rig.write32(BAR + 0x30, ACQ as u32);
        self.rig.write32(BAR + 0x34, 0);
        self.rig.write32(BAR + 0x14, 0x0046_0001);
        *self.tails.lock().unwrap() = [0; 2];
        *self.heads.lock().unwrap() = [(0, true); 2];
        self.fill(ACQ, 16 * ENTRIES as usize, 0);
        self.fill(CQ, 16 * ENTRIES as usize, 0);
        self.settle();
        assert_eq!(self.csts(), 1);
    }

    /// Enabled, with completion and submission queue 1 on vector 1.
    pub(crate) fn ready(bytes: Vec<u8>) -> Self {
        let disk = Self::new(bytes);
        disk.enable();
        disk.create_queues();
        disk
    }

    pub(crate) fn create_queues(&self) {
        assert_eq!(
            self.admin(Sqe::new(0x05, 0).prps(CQ, 0).dw(10, 0x0007_0001).dw(11, 0x0001_0003)).status,
            0
        );
        assert_eq!(
            self.admin(Sqe::new(0x01, 0).prps(SQ, 0).dw(10, 0x0007_0001).dw(11, 0x0001_0001)).status,
            0
        );
    }

    pub(crate) fn fill(&self, at: u64, len: usize, byte: u8) {
        self.rig.bus.cpu().write(Pa::new(at), &vec![byte; len]).unwrap();
    }

    pub(crate) fn write(&self, at: u64, bytes: &[u8]) {
        self.rig.bus.cpu().write(Pa::new(at), bytes).unwrap();
    }

    pub(crate) fn read(&self, at: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.rig.bus.cpu().read(Pa::new(at), &mut bytes).unwrap();
        bytes
    }

    /// Puts a command into queue 0 or 1 without ringing; its id.
    pub(crate) fn put(&self, queue: usize, command: Sqe) -> u16 {
        let id = self.next_id.fetch_add(1, Relaxed) as u16;
        self.put_as(queue, command, id);
        id
    }

    pub(crate) fn put_as(&self, queue: usize, mut command: Sqe, id: u16) {
        command.0[0] |= u32::from(id) << 16;
        let tail = &mut self.tails.lock().unwrap()[queue];
        let at = [ASQ, SQ][queue] + 64 * u64::from(*tail);
        self.write(at, command.0.map(u32::to_le_bytes).as_flattened());
        *tail = (*tail + 1) % ENTRIES;
    }

    /// Tells the controller of all commands in the queue.
    pub(crate) fn ring(&self, queue: usize) {
        let tail = self.tails.lock().unwrap()[queue];
        self.rig.write32(BAR + 0x1000 + 8 * queue as u64, tail);
    }

    /// The next completion, if it is there; the head doorbell is rung.
    pub(crate) fn take(&self, queue: usize) -> Option<Cqe> {
        let mut heads = self.heads.lock().unwrap();
        let (head, phase) = heads[queue];
        let bytes = self.read([ACQ, CQ][queue] + 16 * u64::from(head), 16);
        let words: Vec<u32> = bytes.as_chunks::<4>().0.iter().map(|word| u32::from_le_bytes(*word)).collect();
        if (words[3] >> 16 & 1 == 1) != phase {
            return None;
        }
        assert_eq!(words[1], 0);
        let next = (head + 1) % ENTRIES;
        heads[queue] = (next, phase ^ (next == 0));
        self.rig.write32(BAR + 0x1004 + 8 * queue as u64, next);
        Some(Cqe {
            result: words[0],
            sq_head: words[2] as u16,
            sq: (words[2] >> 16) as u16,
            id: words[3] as u16,
            status: (words[3] >> 17) as u16,
        })
    }

    fn run(&self, queue: usize, command: Sqe) -> Cqe {
        let id = self.put(queue, command);
        self.ring(queue);
        self.settle();
        let cqe = self.take(queue).expect("a completion");
        assert_eq!((cqe.id, usize::from(cqe.sq)), (id, queue));
        assert_eq!(u32::from(cqe.sq_head), self.tails.lock().unwrap()[queue]);
        cqe
    }

    pub(crate) fn admin(&self, command: Sqe) -> Cqe {
        self.run(0, command)
    }

    pub(crate) fn io(&self, command: Sqe) -> Cqe {
        self.run(1, command)
    }
}
