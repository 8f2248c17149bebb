//! A user: a process with memory, a limit and open files, whose only way to VFIO are system calls.
//!
//! Pages that are pinned are counted in one book for all users, by where they are: what hardware may reach is a page and not a process. When the last
//! pin of a page goes, the shadow is asked whether somebody was still granted it, and from then on it is another's.
//!
//! Not here: what calls are made (`files`, `type1`, `spapr`).

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use portcullis::types::{Pa, PaRange, SizeLg2};
use portcullis::vfio::{Caller, Errno, EventFile, Fd, File, OverLimit, UserFault, UserMemory};

use crate::fault::FaultKind;
use crate::hub::{Hub, locked};
use crate::machine::SimPlatform;
use crate::oracle::SpaceId;

/// A page.
pub(super) const PAGE: u64 = 0x1000;
/// Where a user has his memory.
pub(super) const VA: u64 = 0x7f00_0000_0000;
/// Where he puts arguments.
pub(super) const SCRATCH: u64 = 0x1_0000;
/// Pages of a user; behind those that there are, nothing is.
pub(super) const PAGES: u64 = 64;
/// So many lie one behind the other, the next in the contrary order, the next are only read, and the rest is not there.
const STRAIGHT: u64 = 32;
const TURNED: u64 = 48;
const READ_ONLY: u64 = 56;
const FDS: i32 = 24;

/// What all users have pinned.
pub(super) struct Book {
    hub: Arc<Hub>,
    first: u64,
    counts: Mutex<Vec<u32>>,
    /// The spaces of containers.
    pub(super) spaces: Mutex<Vec<SpaceId>>,
}

impl Book {
    pub(super) fn new(hub: Arc<Hub>, first: u64, pages: usize) -> Arc<Self> {
        Arc::new(Self { hub, first, counts: Mutex::new(vec![0; pages]), spaces: Mutex::default() })
    }

    /// How many pins there are.
    pub(super) fn pins(&self) -> u64 {
        locked(&self.counts).iter().map(|&count| u64::from(count)).sum()
    }

    fn index(&self, pa: u64) -> usize {
        usize::try_from((pa - self.first) / PAGE).expect("few pages")
    }

    fn pin(&self, pa: u64) {
        let first = {
            let count = &mut locked(&self.counts)[self.index(pa)];
            *count += 1;
            *count == 1
        };
        if first {
            self.hub.shadow(|shadow| shadow.pinned(pa, pa + (PAGE - 1)));
        }
    }

    /// One pin less. Answers whether there was one.
    fn unpin(&self, pa: u64) -> bool {
        let left = {
            let count = &mut locked(&self.counts)[self.index(pa)];
            let Some(left) = count.checked_sub(1) else { return false };
            *count = left;
            left
        };
        if left == 0 {
            let spaces = locked(&self.spaces).clone();
            let judged = self.hub.shadow(|shadow| shadow.unpinned(&spaces, pa, pa + (PAGE - 1)));
            self.hub.judged(judged);
        }
        true
    }
}

/// A user's memory. Lives on after him, for as long as pages are pinned.
pub(super) struct Memory {
    hub: Arc<Hub>,
    book: Arc<Book>,
    first: u64,
    scratch: Mutex<Vec<u8>>,
    limit: u64,
    pub(super) locked: AtomicU64,
    pub(super) pinned: AtomicU64,
}

impl Memory {
    /// Where a page is, and whether it may be written; none where nothing is.
    pub(super) fn page(&self, at: u64) -> Option<(u64, bool)> {
        let number = at.checked_sub(VA)? / PAGE;
        let place = match number {
            0..STRAIGHT => number,
            STRAIGHT..TURNED => STRAIGHT + (TURNED - 1 - number),
            TURNED..READ_ONLY => number,
            _ => return None,
        };
        Some((self.first + place * PAGE, number < TURNED))
    }

    /// Whether `pages` more are more than he may lock.
    pub(super) fn is_over(&self, pages: u64) -> bool {
        self.locked.load(Relaxed) + pages > self.limit
    }

    fn usable(&self, at: u64, write: bool) -> Option<u64> {
        self.page(at).filter(|&(_, writable)| writable || !write).map(|(pa, _)| pa)
    }
}

impl UserMemory for Memory {
    fn page_size(&self) -> SizeLg2 {
        SizeLg2::KIB_4
    }

    fn copy_in(&self, at: u64, into: &mut [u8]) -> Result<(), UserFault> {
        let scratch = locked(&self.scratch);
        let from = at.checked_sub(SCRATCH).and_then(|at| usize::try_from(at).ok()).ok_or(UserFault)?;
        let end = from.checked_add(into.len()).ok_or(UserFault)?;
        into.copy_from_slice(scratch.get(from..end).ok_or(UserFault)?);
        Ok(())
    }

    fn copy_out(&self, at: u64, from: &[u8]) -> Result<(), UserFault> {
        let mut scratch = locked(&self.scratch);
        let first = at.checked_sub(SCRATCH).and_then(|at| usize::try_from(at).ok()).ok_or(UserFault)?;
        let end = first.checked_add(from.len()).ok_or(UserFault)?;
        scratch.get_mut(first..end).ok_or(UserFault)?.copy_from_slice(from);
        Ok(())
    }

    fn pin(&self, at: u64, len_bytes: u64, write: bool) -> Result<PaRange, UserFault> {
        if self.hub.faults.fires(FaultKind::AllocationFails) {
            return Err(UserFault);
        }
        let first = self.usable(at, write).ok_or(UserFault)?;
        let follows =
            |&page: &u64| self.usable(at + page * PAGE, write).is_some_and(|pa| pa == first + page * PAGE);
        let count = 1 + (1..len_bytes / PAGE).take_while(follows).count() as u64;
        (0..count).for_each(|page| self.book.pin(first + page * PAGE));
        self.pinned.fetch_add(count, Relaxed);
        PaRange::new(Pa::new(first), count * PAGE).ok_or(UserFault)
    }

    fn unpin(&self, pages: PaRange, _: bool) {
        for pa in (pages.first().get()..=pages.last().get()).step_by(0x1000) {
            let had = self.book.unpin(pa);
            self.hub.hold(crate::promise::Promise::Reclaim, had, || {
                format!("page {pa:#x} is let go, and is not pinned")
            });
            self.pinned.fetch_sub(u64::from(had), Relaxed);
        }
    }

    fn charge(&self, page_count: u64) -> Result<(), OverLimit> {
        if self.is_over(page_count) {
            return Err(OverLimit);
        }
        self.locked.fetch_add(page_count, Relaxed);
        Ok(())
    }

    fn uncharge(&self, page_count: u64) {
        let now = self.locked.load(Relaxed);
        self.hub.hold(crate::promise::Promise::Unwind, now >= page_count, || {
            format!("{page_count} pages are charged no more, and {now} were")
        });
        self.locked.store(now.saturating_sub(page_count), Relaxed);
    }

    fn may_grow(&self, _: usize) -> Result<(), OverLimit> {
        if self.hub.faults.fires(FaultKind::AllocationFails) { Err(OverLimit) } else { Ok(()) }
    }
}

/// An event file.
#[derive(Debug, Default)]
pub(super) struct Event(pub(super) AtomicU64);

impl EventFile for Event {
    fn signal(&self) {
        self.0.fetch_add(1, Relaxed);
    }
}

/// What an open file is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Of {
    Container(usize),
    Group(usize),
    Device(usize),
    Event,
}

enum Open {
    Vfio(File<SimPlatform>),
    Event(Arc<Event>),
}

/// A user.
pub(super) struct Task {
    pub(super) memory: Arc<Memory>,
    as_user: Arc<dyn UserMemory>,
    files: Mutex<BTreeMap<i32, (Of, Open)>>,
    /// Of what the next file is that a call opens.
    next: Mutex<Of>,
}

impl Task {
    pub(super) fn new(hub: &Arc<Hub>, book: &Arc<Book>, first: u64, limit: u64) -> Arc<Self> {
        let memory = Arc::new(Memory {
            hub: hub.clone(),
            book: book.clone(),
            first,
            scratch: Mutex::new(vec![0; 0x1000]),
            limit,
            locked: AtomicU64::new(0),
            pinned: AtomicU64::new(0),
        });
        let as_user: Arc<dyn UserMemory> = memory.clone();
        Arc::new(Self { memory, as_user, files: Mutex::default(), next: Mutex::new(Of::Event) })
    }

    fn add(&self, of: Of, file: Open) -> Result<i32, Errno> {
        let mut files = locked(&self.files);
        let free = (3..FDS).find(|fd| !files.contains_key(fd));
        let Some(fd) = free else {
            drop(files);
            return Err(Errno::Emfile);
        };
        files.insert(fd, (of, file));
        Ok(fd)
    }

    pub(super) fn opened(&self, of: Of, file: File<SimPlatform>) -> Result<i32, Errno> {
        self.add(of, Open::Vfio(file))
    }

    pub(super) fn event(&self) -> Option<i32> {
        self.add(Of::Event, Open::Event(Arc::default())).ok()
    }

    /// Closes a file. What that does happens with no lock held.
    pub(super) fn close(&self, fd: i32) {
        let closed = locked(&self.files).remove(&fd);
        drop(closed);
    }

    /// A file stays open, and nobody knows of what.
    #[cfg(test)]
    pub(super) fn forget_file(&self, of: Of) {
        let mut files = locked(&self.files);
        let found = files.values_mut().find(|(held, _)| *held == of).expect("it is open");
        found.0 = Of::Event;
    }

    /// The numbers of what is open, each with what it is.
    pub(super) fn open_files(&self) -> Vec<(i32, Of)> {
        locked(&self.files).iter().map(|(&fd, &(of, _))| (fd, of)).collect()
    }

    pub(super) fn find(&self, of: Of) -> Option<i32> {
        locked(&self.files).iter().find(|(_, (held, _))| *held == of).map(|(&fd, _)| fd)
    }

    /// `ioctl(fd, request, argument)`.
    pub(super) fn ioctl(&self, fd: i32, request: u32, argument: u64) -> Result<u64, Errno> {
        let file = match locked(&self.files).get(&fd) {
            Some((_, Open::Vfio(file))) => file.clone(),
            Some(_) => return Err(Errno::Enotty),
            None => return Err(Errno::Ebadf),
        };
        file.ioctl(self, request, argument)
    }

    /// The same with bytes as the argument. Answers them as they are afterwards.
    pub(super) fn ask(&self, fd: i32, request: u32, bytes: &[u8]) -> Result<Vec<u8>, Errno> {
        locked(&self.memory.scratch)[..bytes.len()].copy_from_slice(bytes);
        self.ioctl(fd, request, SCRATCH)?;
        Ok(locked(&self.memory.scratch)[..bytes.len()].to_vec())
    }

    /// `pread` or `pwrite` of a device's file: so many bytes behind `at`.
    pub(super) fn transfer(&self, fd: i32, write: bool, at: u64, bytes: &[u8]) -> Result<Vec<u8>, Errno> {
        let file = match locked(&self.files).get(&fd) {
            Some((_, Open::Vfio(file))) => file.clone(),
            _ => return Err(Errno::Ebadf),
        };
        locked(&self.memory.scratch)[..bytes.len()].copy_from_slice(bytes);
        let len = bytes.len() as u64;
        let done =
            if write { file.write(self, SCRATCH, len, at) } else { file.read(self, SCRATCH, len, at) }?;
        let done = usize::try_from(done).unwrap_or(0).min(bytes.len());
        Ok(locked(&self.memory.scratch)[..done].to_vec())
    }

    /// The same for a call that opens a file.
    pub(super) fn ask_file(&self, fd: i32, request: u32, bytes: &[u8], of: Of) -> Result<u64, Errno> {
        *locked(&self.next) = of;
        locked(&self.memory.scratch)[..bytes.len()].copy_from_slice(bytes);
        self.ioctl(fd, request, SCRATCH)
    }
}

impl Caller<SimPlatform> for Task {
    fn memory(&self) -> &Arc<dyn UserMemory> {
        &self.as_user
    }

    fn fd(&self, fd: i32) -> Option<Fd<SimPlatform>> {
        match locked(&self.files).get(&fd)? {
            (_, Open::Vfio(file)) => Some(Fd::Vfio(file.clone())),
            (_, Open::Event(event)) => Some(Fd::Event(event.clone())),
        }
    }

    fn install(&self, file: File<SimPlatform>) -> Result<i32, Errno> {
        let of = *locked(&self.next);
        self.add(of, Open::Vfio(file))
    }
}
