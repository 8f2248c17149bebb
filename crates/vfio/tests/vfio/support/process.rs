//! A process: memory of which pages are there or not, writable or not, a limit, and a table of open files. Its only ways to VFIO are those of
//! a process: open, ioctl, read, write, mmap, close, each with numbers and bytes.

use core::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use portcullis_types::{Pa, PaRange, SizeLg2};
use portcullis_vfio::{Caller, Errno, EventFile, Fd, File, OverLimit, UserFault, UserMemory, Vfio};

use super::iommu::Hardware;
use super::lock::locks_held;
use super::machine::Machine;

pub(crate) const PAGE: u64 = 0x1000;
/// Where [`Process::put`] puts bytes; one page, with nothing before and behind it.
pub(crate) const SCRATCH: u64 = 0x1_0000;
/// Nothing is here.
pub(crate) const NOWHERE: u64 = 0xdead_0000;

#[derive(Clone, Copy)]
struct Page {
    pa: u64,
    writable: bool,
}

#[derive(Default)]
struct State {
    pages: BTreeMap<u64, Page>,
    bytes: BTreeMap<u64, Vec<u8>>,
    pins: BTreeMap<u64, usize>,
    locked: u64,
    pin_calls: usize,
    /// What is asked for next, and refused once: after so many times.
    refuse: Option<(Ask, usize)>,
    /// What happens, once, while memory is pinned.
    meanwhile: Option<Meanwhile>,
}

type Meanwhile = Box<dyn FnOnce() + Send>;

/// What a process's memory may refuse.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ask {
    /// More of the kernel's memory for a list.
    Grow,
    /// More locked pages.
    Charge,
    /// A page.
    Pin,
}

impl State {
    /// Whether this is the one that is refused.
    fn refuses(&mut self, ask: Ask) -> bool {
        match &mut self.refuse {
            Some((refused, 0)) if *refused == ask => {
                self.refuse = None;
                true
            }
            Some((refused, left)) if *refused == ask => {
                *left -= 1;
                false
            }
            _ => false,
        }
    }
}

/// The memory of a process.
pub(crate) struct Memory {
    hardware: Arc<Hardware>,
    state: Mutex<State>,
    pub(crate) limit: AtomicU64,
    /// How many pages are pinned at once at most.
    pub(crate) batch: AtomicU64,
    page_size: SizeLg2,
}

impl Memory {
    /// Makes pages from `at` on be there, at physical addresses from `pa` on.
    pub(crate) fn populate(&self, at: u64, pa: u64, len: u64, writable: bool) {
        let mut state = self.state.lock().unwrap();
        for page in (0..len).step_by(PAGE as usize) {
            state.pages.insert(at + page, Page { pa: pa + page, writable });
        }
    }

    /// Refuses one thing, after so many times.
    pub(crate) fn refuse(&self, ask: Ask, after: usize) {
        self.state.lock().unwrap().refuse = Some((ask, after));
    }

    /// Refuses nothing any more. Answers whether something was.
    pub(crate) fn refuse_no_more(&self) -> bool {
        self.state.lock().unwrap().refuse.take().is_none()
    }

    /// The next page that is pinned takes as long as this.
    pub(crate) fn while_pinned(&self, act: impl FnOnce() + Send + 'static) {
        self.state.lock().unwrap().meanwhile = Some(Box::new(act));
    }

    /// Whether everything that tables map is pinned, at one moment.
    pub(crate) fn holds_what_is_mapped(&self) -> bool {
        let state = self.state.lock().unwrap();
        let tables = self.hardware.tables();
        tables.iter().flat_map(|table| table.mapped()).all(|(_, pa, _)| state.pins.contains_key(&pa))
    }

    pub(crate) fn pinned(&self) -> usize {
        self.state.lock().unwrap().pins.values().sum()
    }

    pub(crate) fn locked(&self) -> u64 {
        self.state.lock().unwrap().locked
    }

    pub(crate) fn pin_calls(&self) -> usize {
        self.state.lock().unwrap().pin_calls
    }
}

/// What is called here may sleep.
fn may_sleep() {
    assert_eq!(locks_held(), 0, "with a spin lock held");
}

impl UserMemory for Memory {
    fn page_size(&self) -> SizeLg2 {
        may_sleep();
        self.page_size
    }

    fn copy_in(&self, at: u64, into: &mut [u8]) -> Result<(), UserFault> {
        may_sleep();
        let state = self.state.lock().unwrap();
        for (byte, offset) in into.iter_mut().zip(0..) {
            let at = at.checked_add(offset).ok_or(UserFault)?;
            let page = state.pages.get(&(at & !(PAGE - 1))).ok_or(UserFault)?;
            *byte = state.bytes.get(&page.pa).map_or(0, |bytes| bytes[(at % PAGE) as usize]);
        }
        Ok(())
    }

    fn copy_out(&self, at: u64, from: &[u8]) -> Result<(), UserFault> {
        may_sleep();
        let mut state = self.state.lock().unwrap();
        for (byte, offset) in from.iter().zip(0..) {
            let at = at.checked_add(offset).ok_or(UserFault)?;
            let page = *state.pages.get(&(at & !(PAGE - 1))).ok_or(UserFault)?;
            if !page.writable {
                return Err(UserFault);
            }
            state.bytes.entry(page.pa).or_insert_with(|| vec![0; PAGE as usize])[(at % PAGE) as usize] =
                *byte;
        }
        Ok(())
    }

    fn pin(&self, at: u64, len_bytes: u64, write: bool) -> Result<PaRange, UserFault> {
        may_sleep();
        assert!(at.is_multiple_of(PAGE) && len_bytes.is_multiple_of(PAGE) && len_bytes > 0, "whole pages");
        let meanwhile = self.state.lock().unwrap().meanwhile.take();
        meanwhile.into_iter().for_each(|act| act());
        let mut state = self.state.lock().unwrap();
        state.pin_calls += 1;
        if state.refuses(Ask::Pin) {
            return Err(UserFault);
        }
        let usable = |page: &Page| page.writable || !write;
        let first = *state.pages.get(&at).filter(|page| usable(page)).ok_or(UserFault)?;
        let most = len_bytes.min(self.batch.load(SeqCst) * PAGE);
        let follows = |offset: &u64| {
            let page = at.checked_add(*offset).and_then(|at| state.pages.get(&at));
            page.is_some_and(|page| usable(page) && page.pa == first.pa + offset)
        };
        let len =
            (PAGE..most).step_by(PAGE as usize).take_while(follows).last().map_or(PAGE, |last| last + PAGE);
        for page in (0..len).step_by(PAGE as usize) {
            *state.pins.entry(first.pa + page).or_default() += 1;
        }
        Ok(PaRange::new(Pa::new(first.pa), len).unwrap())
    }

    fn unpin(&self, pages: PaRange, _: bool) {
        may_sleep();
        let mut state = self.state.lock().unwrap();
        for page in (pages.first().get()..=pages.last().get()).step_by(PAGE as usize) {
            let pins = state.pins.get_mut(&page).expect("it is pinned");
            *pins -= 1;
            if *pins == 0 {
                state.pins.remove(&page);
                let page = PaRange::new(Pa::new(page), PAGE).unwrap();
                assert!(!self.hardware.reaches(page), "{page} is given back, and hardware still reaches it");
            }
        }
    }

    fn charge(&self, page_count: u64) -> Result<(), OverLimit> {
        may_sleep();
        let mut state = self.state.lock().unwrap();
        if state.refuses(Ask::Charge) || state.locked + page_count > self.limit.load(SeqCst) {
            return Err(OverLimit);
        }
        state.locked += page_count;
        Ok(())
    }

    fn uncharge(&self, page_count: u64) {
        may_sleep();
        let mut state = self.state.lock().unwrap();
        state.locked = state.locked.checked_sub(page_count).expect("what was charged");
    }

    fn may_grow(&self, _: usize) -> Result<(), OverLimit> {
        may_sleep();
        if self.state.lock().unwrap().refuses(Ask::Grow) { Err(OverLimit) } else { Ok(()) }
    }
}

/// An event file that counts.
#[derive(Default)]
pub(crate) struct Event(AtomicU64);

impl Event {
    /// The count, which is 0 afterwards.
    pub(crate) fn take(&self) -> u64 {
        self.0.swap(0, SeqCst)
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        may_sleep();
    }
}

impl EventFile for Event {
    fn signal(&self) {
        self.0.fetch_add(1, SeqCst);
    }
}

enum Open {
    Vfio(File<Machine>),
    Event(Arc<Event>),
    Other,
}

/// A process.
pub(crate) struct Process {
    vfio: Arc<Vfio<Machine>>,
    pub(crate) memory: Arc<Memory>,
    user_memory: Arc<dyn UserMemory>,
    files: Mutex<BTreeMap<i32, Open>>,
    pub(crate) fd_limit: i32,
}

impl Process {
    pub(crate) fn new(vfio: &Arc<Vfio<Machine>>, hardware: &Arc<Hardware>) -> Self {
        Self::with_pages(vfio, hardware, SizeLg2::KIB_4)
    }

    pub(crate) fn with_pages(
        vfio: &Arc<Vfio<Machine>>,
        hardware: &Arc<Hardware>,
        page_size: SizeLg2,
    ) -> Self {
        let memory = Arc::new(Memory {
            hardware: hardware.clone(),
            state: Mutex::default(),
            limit: AtomicU64::new(u64::MAX >> 12),
            batch: AtomicU64::new(u64::MAX >> 12),
            page_size,
        });
        memory.populate(SCRATCH, 0x9_0000_0000, PAGE, true);
        let (vfio, user_memory) = (vfio.clone(), memory.clone());
        Self { vfio, memory, user_memory, files: Mutex::default(), fd_limit: 64 }
    }

    fn add(&self, file: Open) -> Result<i32, Errno> {
        let mut files = self.files.lock().unwrap();
        let fd = (3..self.fd_limit).find(|fd| !files.contains_key(fd)).ok_or(Errno::Emfile)?;
        files.insert(fd, file);
        Ok(fd)
    }

    pub(crate) fn open(&self, path: &str) -> Result<i32, Errno> {
        self.add(Open::Vfio(self.vfio.open(path)?))
    }

    pub(crate) fn event(&self) -> (i32, Arc<Event>) {
        let event = Arc::new(Event::default());
        (self.add(Open::Event(event.clone())).unwrap(), event)
    }

    pub(crate) fn other_file(&self) -> i32 {
        self.add(Open::Other).unwrap()
    }

    pub(crate) fn close(&self, fd: i32) {
        let closed = self.files.lock().unwrap().remove(&fd);
        assert!(closed.is_some(), "{fd} is open");
    }

    pub(crate) fn close_if_open(&self, fd: i32) {
        // Dropped without the lock of the table, as it takes others.
        let closed = self.files.lock().unwrap().remove(&fd);
        drop(closed);
    }

    fn file(&self, fd: i32) -> Result<File<Machine>, Errno> {
        match self.files.lock().unwrap().get(&fd) {
            Some(Open::Vfio(file)) => Ok(file.clone()),
            _ => Err(Errno::Ebadf),
        }
    }

    /// A clone of the open file, as another number or a mapping has it.
    pub(crate) fn dup(&self, fd: i32) -> File<Machine> {
        self.file(fd).unwrap()
    }

    pub(crate) fn ioctl(&self, fd: i32, request: u32, arg: u64) -> Result<u64, Errno> {
        self.file(fd)?.ioctl(self, request, arg)
    }

    /// Puts bytes into memory, has them be the argument, and answers what is there then.
    pub(crate) fn ioctl_with(&self, fd: i32, request: u32, bytes: &[u8]) -> Result<Vec<u8>, Errno> {
        let at = self.put(bytes);
        self.ioctl(fd, request, at)?;
        Ok(self.get(at, bytes.len()))
    }

    pub(crate) fn pread(&self, fd: i32, offset: u64, len: usize) -> Result<Vec<u8>, Errno> {
        let done = self.file(fd)?.read(self, SCRATCH, len as u64, offset)?;
        Ok(self.get(SCRATCH, done as usize))
    }

    pub(crate) fn pwrite(&self, fd: i32, offset: u64, bytes: &[u8]) -> Result<u64, Errno> {
        let at = self.put(bytes);
        self.file(fd)?.write(self, at, bytes.len() as u64, offset)
    }

    pub(crate) fn mmap(&self, fd: i32, offset: u64, len: u64) -> Result<PaRange, Errno> {
        self.file(fd)?.mmap(self, len, offset)
    }

    pub(crate) fn put(&self, bytes: &[u8]) -> u64 {
        self.memory.copy_out(SCRATCH, bytes).unwrap();
        SCRATCH
    }

    pub(crate) fn get(&self, at: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.memory.copy_in(at, &mut bytes).unwrap();
        bytes
    }
}

impl Caller<Machine> for Process {
    fn memory(&self) -> &Arc<dyn UserMemory> {
        &self.user_memory
    }

    fn fd(&self, fd: i32) -> Option<Fd<Machine>> {
        Some(match self.files.lock().unwrap().get(&fd)? {
            Open::Vfio(file) => Fd::Vfio(file.clone()),
            Open::Event(event) => Fd::Event(event.clone()),
            Open::Other => Fd::Other,
        })
    }

    fn install(&self, file: File<Machine>) -> Result<i32, Errno> {
        self.add(Open::Vfio(file))
    }
}
