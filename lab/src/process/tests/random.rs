//! Random lives of processes and of the devices bound to them, against plain bytes.

use std::sync::{Arc, Mutex};

use model_bus::Chance;
use model_cpu::{CpuFeatures, TlbPolicy};
use portcullis::core::mm::{MmFaultError, ProcessMemory};
use portcullis::types::{Iova, IovaRange, Perms, SizeLg2};

use super::bench::{Bench, Device, R, RW};
use super::maps::Scripted;
use crate::process::{File, KernelOptions, Mapping, Process, Source, UserError};

const PAGES: usize = 40;
const BASE: u64 = 0x10_0000;

/// What a page should be.
#[derive(Clone)]
struct Expected {
    perms: Perms,
    bytes: Bytes,
}

#[derive(Clone)]
enum Bytes {
    Own(Vec<u8>),
    Shared(Arc<Mutex<Vec<u8>>>),
}

impl Bytes {
    fn with<T>(&mut self, work: impl FnOnce(&mut Vec<u8>) -> T) -> T {
        match self {
            Self::Own(bytes) => work(bytes),
            Self::Shared(bytes) => work(&mut bytes.lock().unwrap()),
        }
    }
}

struct Life {
    process: Arc<Process>,
    device: Arc<Device>,
    pages: Vec<Option<Expected>>,
}

struct World {
    bench: Bench,
    chance: Chance,
    page: u64,
    file: Arc<File>,
    /// Its pages, as they should be for those who share them.
    file_bytes: Vec<Arc<Mutex<Vec<u8>>>>,
    /// A file that is only mapped privately, so that its bytes stay.
    quiet_file: Arc<File>,
    quiet_bytes: Vec<u8>,
    lives: Vec<Life>,
}

impl World {
    fn new(granule: SizeLg2, seed: u64) -> Self {
        let bench = Bench::with(KernelOptions::new(granule, seed), CpuFeatures::COMMON, 0x4000_0000);
        let page = granule.bytes();
        let bytes: Vec<u8> = (0..PAGES as u64 * page).map(|i| (i * 31 / 8).to_le_bytes()[0]).collect();
        let pages = bytes.chunks(page as usize).map(|page| Arc::new(Mutex::new(page.to_vec()))).collect();
        let open = |bytes| bench.kernel.open(Box::new(Scripted { bytes, ..Scripted::default() }));
        let (file, quiet_file, quiet_bytes) = (open(bytes.clone()), open(bytes.clone()), bytes);
        let (chance, lives) = (Chance::new(seed), Vec::new());
        let mut world = Self { bench, chance, page, file, file_bytes: pages, quiet_file, quiet_bytes, lives };
        let process = world.bench.process();
        world.adopt(process, vec![None; PAGES]);
        world
    }

    fn adopt(&mut self, process: Arc<Process>, pages: Vec<Option<Expected>>) {
        let policy = TlbPolicy::seeded(self.chance.next());
        let (device, _) = Device::bind(&self.bench, &process, policy);
        self.lives.push(Life { process, device, pages });
    }

    fn span(&self) -> (usize, usize) {
        let first = self.chance.below(PAGES);
        (first, 1 + self.chance.below((PAGES - first).min(12)))
    }

    fn range(&self, first: usize, count: usize) -> IovaRange {
        IovaRange::new(Iova::new(BASE + first as u64 * self.page), count as u64 * self.page).unwrap()
    }

    fn perms(&self) -> Perms {
        [RW, RW, R, R | Perms::EXECUTE, Perms::empty()][self.chance.below(5)]
    }

    fn turn(&mut self) {
        if self.lives.is_empty() {
            let process = self.bench.process();
            self.adopt(process, vec![None; PAGES]);
        }
        let who = self.chance.below(self.lives.len());
        match self.chance.below(20) {
            0..=2 => self.map(who),
            3 => self.unmap(who),
            4..=5 => self.protect(who),
            6 => self.fork(who),
            7 if self.chance.once_in(4) => self.exit(who),
            8..=12 => self.write(who),
            _ => self.read(who),
        }
    }

    fn map(&mut self, who: usize) {
        let (first, count) = self.span();
        let perms = self.perms();
        let offset = first as u64 * self.page;
        let file = self.file.clone();
        let (source, what): (_, fn(&Self, usize) -> Bytes) = match self.chance.below(4) {
            0 => (Source::Anonymous, |world, _| Bytes::Own(vec![0; world.page as usize])),
            1 => (Source::SharedAnonymous, |world, _| {
                Bytes::Shared(Arc::new(Mutex::new(vec![0; world.page as usize])))
            }),
            2 => (Source::Shared { file, offset_bytes: offset }, |world, index| {
                Bytes::Shared(world.file_bytes[index].clone())
            }),
            _ => (Source::Private { file: self.quiet_file.clone(), offset_bytes: offset }, |world, index| {
                let page = world.page as usize;
                Bytes::Own(world.quiet_bytes[page * index..page * (index + 1)].to_vec())
            }),
        };
        let at = Some(self.range(first, count).first());
        let mapping = Mapping { at, len_bytes: count as u64 * self.page, perms, source };
        let free = self.lives[who].pages[first..first + count].iter().all(Option::is_none);
        assert_eq!(self.lives[who].process.map(&mapping).is_ok(), free);
        if free {
            for index in first..first + count {
                let bytes = what(self, index);
                self.lives[who].pages[index] = Some(Expected { perms, bytes });
            }
        }
    }

    fn unmap(&mut self, who: usize) {
        let (first, count) = self.span();
        let range = self.range(first, count);
        let life = &mut self.lives[who];
        life.process.unmap(range).unwrap();
        life.pages[first..first + count].fill(None);
    }

    fn protect(&mut self, who: usize) {
        let (first, count) = self.span();
        let (range, perms) = (self.range(first, count), self.perms());
        let life = &mut self.lives[who];
        let whole = life.pages[first..first + count].iter().all(Option::is_some);
        assert_eq!(life.process.protect(range, perms).is_ok(), whole);
        if whole {
            life.pages[first..first + count].iter_mut().flatten().for_each(|page| page.perms = perms);
        }
    }

    fn fork(&mut self, who: usize) {
        if self.lives.len() < 4 {
            let child = self.lives[who].process.fork().unwrap();
            let pages = self.lives[who].pages.clone();
            self.adopt(child, pages);
        }
    }

    fn exit(&mut self, who: usize) {
        let life = self.lives.swap_remove(who);
        life.process.exit();
        let mut byte = [0];
        assert_eq!(life.device.read(Iova::new(BASE), &mut byte), Err(MmFaultError::Exited));
        assert_eq!(life.device.unpredictable(), 0);
        life.process.unpin_asid();
    }

    fn bytes_at(&self) -> (u64, usize) {
        let all = PAGES * self.page as usize;
        let first = self.chance.below(all);
        (first as u64, 1 + self.chance.below((all - first).min(3 * self.page as usize)))
    }

    /// How many bytes from `offset` on allow `wanted`, at most `len`.
    fn allowed(&self, who: usize, offset: u64, len: usize, wanted: Perms) -> usize {
        let ok = |at: u64| {
            let page = &self.lives[who].pages[(at / self.page) as usize];
            page.as_ref().is_some_and(|page| page.perms.contains(wanted))
        };
        (0..len).find(|&done| !ok(offset + done as u64)).unwrap_or(len)
    }

    fn write(&mut self, who: usize) {
        let (offset, len) = self.bytes_at();
        let bytes: Vec<u8> = (0..len).map(|_| self.chance.next().to_le_bytes()[0]).collect();
        let good = self.allowed(who, offset, len, Perms::WRITE);
        let at = Iova::new(BASE + offset);
        let life = &self.lives[who];
        if self.chance.once_in(2) {
            life.process.run_on(self.chance.below(2));
            assert_eq!(reached(life.process.write(at, &bytes), at, len), good);
        } else {
            assert_eq!(life.device.write(at, &bytes).is_ok(), good == len);
        }
        for (done, &byte) in bytes[..good].iter().enumerate() {
            let at = offset + done as u64;
            let (index, within) = ((at / self.page) as usize, (at % self.page) as usize);
            if let Some(page) = &mut self.lives[who].pages[index] {
                page.bytes.with(|bytes| bytes[within] = byte);
            }
        }
    }

    fn read(&mut self, who: usize) {
        let (offset, len) = self.bytes_at();
        let good = self.allowed(who, offset, len, Perms::READ);
        let at = Iova::new(BASE + offset);
        let mut bytes = vec![0xee; len];
        let life = &self.lives[who];
        if self.chance.once_in(2) {
            assert_eq!(reached(life.process.read(at, &mut bytes), at, len), good);
        } else {
            assert_eq!(life.device.read(at, &mut bytes).is_ok(), good == len);
        }
        for (done, &byte) in bytes[..good].iter().enumerate() {
            let at = offset + done as u64;
            let (index, within) = ((at / self.page) as usize, (at % self.page) as usize);
            let page = self.lives[who].pages[index].as_mut().unwrap();
            assert_eq!(byte, page.bytes.with(|bytes| bytes[within]), "at {offset:#x} + {done:#x}");
        }
    }

    fn end(mut self) {
        while !self.lives.is_empty() {
            self.exit(0);
        }
        let Self { bench, file, quiet_file, .. } = self;
        drop((file, quiet_file));
        bench.assert_clean();
    }
}

/// How many bytes an access did.
fn reached(result: Result<(), UserError>, at: Iova, len: usize) -> usize {
    match result {
        Ok(()) => len,
        Err(UserError::Fault { at: end, .. }) => (end.get() - at.get()) as usize,
        Err(other @ UserError::Abort { .. }) => panic!("{other:?}"),
    }
}

#[test]
fn random_lives_agree_with_plain_bytes_and_leave_nothing_behind() {
    for seed in 0..24 {
        let mut world = World::new(SizeLg2::KIB_4, seed);
        (0..400).for_each(|_| world.turn());
        world.end();
    }
}

#[test]
fn random_lives_with_large_pages_agree_too() {
    for (granule, seed) in [(SizeLg2::KIB_16, 100), (SizeLg2::KIB_16, 101), (SizeLg2::KIB_64, 102)] {
        let mut world = World::new(granule, seed);
        (0..150).for_each(|_| world.turn());
        world.end();
    }
}
