//! A program's system calls, on a whole machine: processes with open files, VFIO, the SMMUv3 driver, and the models of SMMU and disk under it.
//!
//! What must hold:
//!
//! - a call is answered with a number, and the kernel goes on;
//! - what the program could map for a device is its own page, at every moment while it is mapped, and no more once it was unmapped;
//! - when the program is gone nothing is pinned, charged, owned or reachable by the device at any address that was ever mapped;
//! - the driver did nothing that the book forbids, whatever it was asked for;
//! - switched off, no table is left.
//!
//! Not here: which call is answered how (`crates/vfio/tests`), containers of spapr_tce (the same, `spapr`).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use model_bus::Request;
use model_smmuv3::Outlook;
use portcullis::types::{Access, Iova, SourceId};
use portcullis_lab::boot::{BootRequest, Standing, System, unbind};
use portcullis_lab::machine::{DiskContent, Machine, builtin, fdt};
use portcullis_lab::trace;
use portcullis_lab::vfio::{self, Instructions, Task, UserKernel};

use crate::bytes::Bytes;

const PAGE: u64 = 0x1000;
const BUFFER_PAGES: u64 = 16;
const SCRATCH_BYTES: u64 = 0x1_0000;

const EVENTFD2: u64 = 19;
const IOCTL: u64 = 29;
const OPENAT: u64 = 56;
const CLOSE: u64 = 57;
const PREAD64: u64 = 67;
const PWRITE64: u64 = 68;
const MUNMAP: u64 = 215;
const MMAP: u64 = 222;
const CALLS: [u64; 11] = [EVENTFD2, IOCTL, OPENAT, CLOSE, 63, PREAD64, PWRITE64, 113, MUNMAP, MMAP, 1];

const SET_IOMMU: u64 = 0x3b66;
const SET_CONTAINER: u64 = 0x3b68;
const GET_DEVICE_FD: u64 = 0x3b6a;
const MAP_DMA: u64 = 0x3b71;
const UNMAP_DMA: u64 = 0x3b72;

/// The disk behind a port, alone in its group.
const DISK: &str = "0000:01:00.0";

pub(crate) fn run(input: &[u8]) {
    let sink = trace::shared(None);
    let mut spec = builtin::find("arm").expect("it is built in");
    spec.reserved.clear();
    let tree = fdt::emit(&spec).expect("it is sound");
    let machine = Machine::build(spec, DiskContent::Blank, 1, &sink).expect("it is sound");
    let system = System::boot(BootRequest::new(&machine, &tree, sink)).expect("it boots");
    let platform = system.platform.clone();
    {
        let kernel = UserKernel::new(&system, 1).expect("there are processes");
        play(&machine, &system, &kernel, &mut Bytes::new(input));
    }
    system.shut_down().expect("the hardware confirms");
    for smmu in &machine.smmus {
        assert_eq!(smmu.take_unpredictable(), [], "the driver did what the book forbids");
    }
    assert_eq!(platform.live_table_bytes(), 0, "tables are left");
}

fn play(machine: &Machine, system: &System, kernel: &Arc<UserKernel>, bytes: &mut Bytes<'_>) {
    let at = system.endpoints().find(|(_, endpoint)| endpoint.name == DISK).expect("it is there");
    if at.1.binding.driver().is_some() {
        unbind(&at.1.binding).expect("its driver lets go");
    }
    vfio::bind(system, kernel.vfio(), kernel.user_interrupts(), at).expect("it can be had");
    let Standing::Behind { device, group } = &at.1.standing else { panic!("no IOMMU covers it") };
    let source = device.sources()[0];
    let used = {
        let task = kernel.spawn().expect("there is memory");
        let mut program = Program::new(machine, &task, source, group.id());
        if bytes.u8() % 8 != 7 {
            program.set_up(bytes.flag());
        }
        while !bytes.is_empty() {
            program.step(bytes);
        }
        program.check();
        task.kill();
        program.used
    };
    assert_eq!(
        (kernel.ledger().pinned(), kernel.ledger().locked()),
        (0, 0),
        "pages of a program that is gone"
    );
    assert_eq!(kernel.vfio().reclaim(), 0);
    assert_eq!(group.ownership().count, 0, "the group has an owner");
    for iova in used {
        assert!(matches!(look(machine, source, iova), Outlook::Refused(_)), "{iova:#x} is open");
    }
    unbind(&at.1.binding).expect("the driver lets go");
}

fn look(machine: &Machine, source: SourceId, iova: u64) -> Outlook {
    let (iova, access) = (Iova::new(iova), Access::READ);
    machine.smmus[0].outlook(&Request { source, pasid: None, iova, len_bytes: 1, access })
}

struct Program<'a> {
    machine: &'a Machine,
    task: &'a Task,
    source: SourceId,
    group: u32,
    /// Memory where arguments are put.
    scratch: u64,
    put: u64,
    buffer: u64,
    /// Pages of the buffer that were unmapped from the process, so that nothing is known about them.
    torn: bool,
    /// What is mapped for the device, by calls whose arguments were sound: the first address, how many bytes, where in the process.
    mapped: BTreeMap<u64, (u64, u64)>,
    /// Every page that was.
    used: BTreeSet<u64>,
    /// The file of the container, where mappings are known.
    container: i64,
}

impl<'a> Program<'a> {
    fn new(machine: &'a Machine, task: &'a Task, source: SourceId, group: u32) -> Self {
        let map = |pages: u64| {
            let at = task.svc(MMAP, [0, pages * PAGE, 3, 0x22, u64::MAX, 0]);
            u64::try_from(at).expect("there is memory")
        };
        let (scratch, buffer) = (map(SCRATCH_BYTES / PAGE), map(BUFFER_PAGES));
        let (mapped, used) = (BTreeMap::new(), BTreeSet::new());
        Self {
            machine,
            task,
            source,
            group,
            scratch,
            put: 0,
            buffer,
            torn: false,
            mapped,
            used,
            container: -1,
        }
    }

    /// Puts bytes into memory, and says where.
    fn put(&mut self, bytes: &[u8]) -> u64 {
        let len_bytes = (bytes.len() as u64).next_multiple_of(8);
        if self.put + len_bytes > SCRATCH_BYTES {
            self.put = 0;
        }
        let at = self.scratch + self.put;
        self.put += len_bytes;
        // If the program has unmapped its own scratch memory it gets a signal, and the call gets EFAULT.
        let _ = self.task.store(at, bytes);
        at
    }

    fn words(&mut self, words: &[u32]) -> u64 {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        self.put(&bytes)
    }

    fn open(&mut self, path: &str) -> i64 {
        let at = self.put(&[path.as_bytes(), &[0]].concat());
        self.task.svc(OPENAT, [u64::MAX - 99, at, 2, 0, 0, 0])
    }

    fn ioctl(&self, fd: i64, request: u64, argument: u64) -> i64 {
        self.task.svc(IOCTL, [fd.cast_unsigned(), request, argument, 0, 0, 0])
    }

    /// As a driver begins: the group in a container of type 1, version 2 or 1, and the device open if asked for.
    fn set_up(&mut self, device: bool) {
        let container = self.open("/dev/vfio/vfio");
        let group = self.open(&format!("/dev/vfio/{}", self.group));
        let at = self.words(&[container as u32]);
        assert_eq!(self.ioctl(group, SET_CONTAINER, at), 0);
        assert_eq!(self.ioctl(container, SET_IOMMU, 3), 0);
        self.container = container;
        if device {
            let name = self.put(&[DISK.as_bytes(), &[0]].concat());
            assert!(self.ioctl(group, GET_DEVICE_FD, name) >= 0);
        }
    }

    fn step(&mut self, bytes: &mut Bytes<'_>) {
        match bytes.below(12) {
            0..=2 => self.map(bytes),
            3 => self.unmap(bytes),
            4..=7 => {
                let (fd, request) = (self.fd(bytes), 0x3b64 + u64::from(bytes.below(0x16)));
                let argument = self.argument(bytes);
                self.touch(fd, request);
                let _ = self.ioctl(fd, request, argument);
            }
            8 => {
                let (fd, call) = (self.fd(bytes), bytes.pick(&[PREAD64, PWRITE64]));
                let (at, offset) = (self.argument(bytes), Self::offset(bytes));
                self.task.svc(call, [fd.cast_unsigned(), at, bytes.u8().into(), offset, 0, 0]);
            }
            9 => {
                let fd = self.fd(bytes);
                let offset = Self::offset(bytes) & !0xfff;
                let at = self.task.svc(MMAP, [0, PAGE, 3, 1, fd.cast_unsigned(), offset]);
                // Registers of the device: it can be reached, or there is a signal.
                if let Ok(at) = u64::try_from(at) {
                    let _ = (
                        self.task.load(at, &mut [0; 4]),
                        self.task.store(at + 0x14, &bytes.u32().to_le_bytes()),
                    );
                }
            }
            10 => match bytes.below(4) {
                0 => _ = self.task.svc(EVENTFD2, [0, 0o4000, 0, 0, 0, 0]),
                1 => _ = self.open("/dev/vfio/vfio"),
                2 => _ = self.open(&format!("/dev/vfio/{}", self.group)),
                _ => {
                    let fd = self.fd(bytes);
                    // The last file of a group or of a container takes all mappings with it.
                    self.forget_if(true);
                    self.task.svc(CLOSE, [fd.cast_unsigned(), 0, 0, 0, 0, 0]);
                }
            },
            _ => self.any_call(bytes),
        }
    }

    /// Any call with any words, but for those that only waste time.
    fn any_call(&mut self, bytes: &mut Bytes<'_>) {
        let number = bytes.pick(&CALLS);
        let mut words: [u64; 6] = core::array::from_fn(|_| self.number(bytes));
        if matches!(number, MMAP | PREAD64 | PWRITE64) {
            // How long: no gigabytes.
            let length = if number == MMAP { 1 } else { 2 };
            words[length] &= 0xf_ffff;
        }
        self.touch(words[0].cast_signed(), words[1]);
        self.forget_if(matches!(number, CLOSE));
        self.torn |= number == MUNMAP;
        self.task.svc(number, words);
    }

    fn fd(&self, bytes: &mut Bytes<'_>) -> i64 {
        i64::from(bytes.below(9)) - 1
    }

    fn number(&self, bytes: &mut Bytes<'_>) -> u64 {
        match bytes.below(5) {
            0 => bytes.below(10).into(),
            1 => self.buffer + u64::from(bytes.below(20)) * PAGE,
            2 => self.scratch + u64::from(bytes.u8()) * 8,
            3 => u64::from(bytes.below(32)) * PAGE,
            _ => bytes.word(),
        }
    }

    /// Index and offset of a region.
    fn offset(bytes: &mut Bytes<'_>) -> u64 {
        u64::from(bytes.below(10)) << 40 | u64::from(bytes.u16())
    }

    /// A structure with a plausible size and flags; interrupts with files; a name; or a bare number.
    fn argument(&mut self, bytes: &mut Bytes<'_>) -> u64 {
        match bytes.below(8) {
            0..=3 => {
                let mut structure =
                    vec![bytes.pick(&[8, 16, 20, 24, 32, 48, 120, u32::MAX]), bytes.u8().into()];
                for _ in 0..5 {
                    let number = self.number(bytes);
                    structure.extend([number as u32, (number >> 32) as u32]);
                }
                self.words(&structure)
            }
            4 | 5 => {
                let mut irqs = vec![52, u32::from(bytes.below(64))];
                irqs.extend([bytes.below(6).into(), bytes.below(20).into(), u32::from(bytes.below(20))]);
                irqs.extend((0..8).map(|_| u32::from(bytes.below(10)).wrapping_sub(1)));
                self.words(&irqs)
            }
            6 => self.put(&[DISK.as_bytes(), &[0]].concat()),
            _ => self.number(bytes),
        }
    }

    /// A call may change what is mapped behind our back.
    fn touch(&mut self, fd: i64, request: u64) {
        let harmless =
            fd != self.container || !matches!(request & 0xffff_ffff, SET_IOMMU | MAP_DMA | UNMAP_DMA);
        self.forget_if(!harmless || matches!(request & 0xffff_ffff, 0x3b68 | 0x3b69));
    }

    fn forget_if(&mut self, changed: bool) {
        if changed {
            self.mapped.clear();
        }
    }

    /// Maps pages of the buffer.
    fn map(&mut self, bytes: &mut Bytes<'_>) {
        let (page, pages, from) =
            (u64::from(bytes.below(64)), 1 + u64::from(bytes.below(4)), u64::from(bytes.below(18)));
        let base = bytes.pick(&[0, 0x7ff_0000, 0x1_0000_0000, 1 << 47]);
        let (iova, vaddr, len_bytes) = (base + page * PAGE, self.buffer + from * PAGE, pages * PAGE);
        let flags = u64::from(bytes.pick(&[1u8, 3, 3, 3]));
        let request: Vec<u8> =
            [32 | flags << 32, vaddr, iova, len_bytes].iter().flat_map(|word| word.to_le_bytes()).collect();
        let at = self.put(&request);
        self.used.extend((0..pages).map(|page| iova + page * PAGE));
        if self.ioctl(self.container, MAP_DMA, at) == 0 {
            self.mapped.insert(iova, (len_bytes, vaddr));
            self.check_page(iova, vaddr);
            self.check_page(iova + len_bytes - PAGE, vaddr + len_bytes - PAGE);
        }
    }

    /// What the program stores is what the device would find.
    fn check_page(&self, iova: u64, vaddr: u64) {
        if self.torn {
            return;
        }
        let mark = (iova ^ vaddr ^ 0x5a5a_5a5a).to_le_bytes();
        self.task.store(vaddr, &mark).expect("it is the program's own");
        let Outlook::Allowed(pa) = look(self.machine, self.source, iova) else {
            panic!("{iova:#x} is mapped")
        };
        let mut found = [0; 8];
        self.machine.bus.cpu().read(pa, &mut found).expect("it is memory");
        assert_eq!(found, mark, "{iova:#x} leads to another's page");
    }

    fn unmap(&mut self, bytes: &mut Bytes<'_>) {
        let base = bytes.pick(&[0, 0x7ff_0000, 0x1_0000_0000, 1 << 47]);
        let (iova, len_bytes) = (base + u64::from(bytes.below(64)) * PAGE, u64::from(bytes.below(6)) * PAGE);
        let request: Vec<u8> = [24u64, iova, len_bytes].iter().flat_map(|word| word.to_le_bytes()).collect();
        let at = self.put(&request);
        if self.ioctl(self.container, UNMAP_DMA, at) != 0 {
            return;
        }
        let gone = |first: u64, held: u64| iova <= first && first + held <= iova + len_bytes;
        self.mapped.retain(|&first, &mut (held, _)| {
            if gone(first, held) {
                let open = matches!(look(self.machine, self.source, first), Outlook::Allowed(_));
                assert!(!open, "{first:#x} was unmapped");
            }
            !gone(first, held)
        });
    }

    /// What is mapped, still is.
    fn check(&self) {
        self.mapped.iter().for_each(|(&iova, &(_, vaddr))| self.check_page(iova, vaddr));
    }
}
