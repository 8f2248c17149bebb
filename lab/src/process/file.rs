//! Files, and those of their pages that somebody touched.
//!
//! A page is read when it is first wanted, and stays until the file goes. All processes that map the file have the same pages; who may
//! not change them gets copies (`fault`).
//!
//! Where entries say whether they are dirty, [`File::write_back`] asks the processes that map the file, makes their entries clean and writes what was dirty
//! in any. Elsewhere pages that were made writable for somebody count as dirty from then on, and are written each time.

use core::fmt;
use core::ops::Range;
use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use portcullis::core::mm::MmFaultError;

use super::frame::{Frame, Frames};
use super::process::Process;

/// Where a file's bytes lie.
pub trait Backing: Send + Sync + fmt::Debug {
    /// How many bytes there are. The same at each call.
    fn len_bytes(&self) -> u64;

    /// Whether they may be changed.
    fn is_writable(&self) -> bool;

    /// Fills `into` with bytes from `offset` on, all of them below [`len_bytes`](Self::len_bytes).
    ///
    /// # Errors
    ///
    /// They could not be read.
    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()>;

    /// Changes bytes from `offset` on, all of them below [`len_bytes`](Self::len_bytes).
    ///
    /// # Errors
    ///
    /// They could not be written.
    fn write_at(&self, offset: u64, from: &[u8]) -> io::Result<()>;
}

/// A file of the host.
#[derive(Debug)]
pub struct RealFile {
    file: std::fs::File,
    len_bytes: u64,
    writable: bool,
}

impl RealFile {
    /// Opens the file at `path` for reading.
    ///
    /// # Errors
    ///
    /// What the host says.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = std::fs::File::open(path)?;
        Ok(Self { len_bytes: file.metadata()?.len(), file, writable: false })
    }

    /// Opens the file at `path` for reading and writing.
    ///
    /// # Errors
    ///
    /// What the host says.
    pub fn open_writable(path: &Path) -> io::Result<Self> {
        let file = std::fs::File::options().read(true).write(true).open(path)?;
        Ok(Self { len_bytes: file.metadata()?.len(), file, writable: true })
    }
}

impl Backing for RealFile {
    fn len_bytes(&self) -> u64 {
        self.len_bytes
    }

    fn is_writable(&self) -> bool {
        self.writable
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(into, offset)
    }

    fn write_at(&self, offset: u64, from: &[u8]) -> io::Result<()> {
        self.file.write_all_at(from, offset)
    }
}

/// Memory that several processes share, and that is no file of the host: zeroes at first, gone in the end.
#[derive(Debug)]
struct Nameless {
    len_bytes: u64,
}

impl Backing for Nameless {
    fn len_bytes(&self) -> u64 {
        self.len_bytes
    }

    fn is_writable(&self) -> bool {
        true
    }

    fn read_at(&self, _: u64, into: &mut [u8]) -> io::Result<()> {
        into.fill(0);
        Ok(())
    }

    fn write_at(&self, _: u64, _: &[u8]) -> io::Result<()> {
        Ok(())
    }
}

/// A file that processes can map.
#[derive(Debug)]
pub struct File {
    frames: Frames,
    backing: Box<dyn Backing>,
    pages: Mutex<BTreeMap<u64, Cached>>,
    /// Whether entries of processes say what is dirty.
    keeps_dirty: bool,
    /// Who has it mapped so that changes are everybody's, or had.
    mappers: Mutex<Vec<Weak<Process>>>,
}

#[derive(Debug)]
struct Cached {
    frame: Frame,
    dirty: bool,
}

impl File {
    pub(super) fn new(frames: Frames, backing: Box<dyn Backing>, keeps_dirty: bool) -> Self {
        Self { frames, backing, pages: Mutex::default(), keeps_dirty, mappers: Mutex::default() }
    }

    pub(super) fn nameless(frames: Frames, len_bytes: u64, keeps_dirty: bool) -> Self {
        Self::new(frames, Box::new(Nameless { len_bytes }), keeps_dirty)
    }

    /// How many bytes it has.
    pub fn len_bytes(&self) -> u64 {
        self.backing.len_bytes()
    }

    /// Whether its bytes may be changed.
    pub fn is_writable(&self) -> bool {
        self.backing.is_writable()
    }

    /// How many of its pages lie in memory.
    pub fn resident_pages(&self) -> usize {
        self.pages().len()
    }

    /// Writes what may have been changed back to where the bytes lie. Where entries do not say what is dirty, pages that a process may
    /// still write stay dirty: they are written again the next time.
    ///
    /// Answers how many pages were written.
    ///
    /// # Errors
    ///
    /// What could not be written. Pages before it have been; the others stay dirty.
    pub fn write_back(&self) -> io::Result<usize> {
        self.write_back_pages(0..u64::MAX)
    }

    /// The same for pages of these indexes.
    pub(super) fn write_back_pages(&self, indexes: Range<u64>) -> io::Result<usize> {
        // Entries are clean, and hardware has forgotten the dirty ones, before the bytes are looked at: a later write makes them dirty again.
        let doubtful = self.collect_dirty(&indexes);
        let dirty = self.take_dirty(indexes);
        let mut written = Ok(dirty.len());
        for (index, frame) in dirty {
            if written.is_ok()
                && let Err(error) = self.write_page(index, &frame)
            {
                written = Err(error);
            }
            if written.is_err() {
                self.mark_dirty(index);
            }
        }
        doubtful.into_iter().for_each(|index| self.mark_dirty(index));
        written
    }

    fn write_page(&self, index: u64, frame: &Frame) -> io::Result<()> {
        let mut bytes = self.buffer(index)?;
        frame.read(&mut bytes);
        self.backing.write_at(index * self.frames.size().bytes(), &bytes)
    }

    /// Has every process say what its entries know, and answers the pages that some hardware may still change without saying so.
    fn collect_dirty(&self, indexes: &Range<u64>) -> Vec<u64> {
        if !self.keeps_dirty {
            return Vec::new();
        }
        let mappers: Vec<_> = {
            let mut mappers = self.mappers();
            mappers.retain(|mapper| mapper.strong_count() > 0);
            mappers.iter().filter_map(Weak::upgrade).collect()
        };
        mappers.iter().flat_map(|process| process.make_clean(self, indexes)).collect()
    }

    /// The dirty pages, which are so no longer where entries say what becomes dirty again.
    fn take_dirty(&self, indexes: Range<u64>) -> Vec<(u64, Frame)> {
        let mut pages = self.pages();
        let dirty = pages.range_mut(indexes).filter(|(_, page)| page.dirty);
        let take = |(&index, page): (&u64, &mut Cached)| {
            page.dirty = !self.keeps_dirty;
            (index, page.frame.clone())
        };
        dirty.map(take).collect()
    }

    /// `process` maps some of it so that changes are everybody's.
    pub(super) fn add_mapper(&self, process: &Weak<Process>) {
        let mut mappers = self.mappers();
        mappers.retain(|mapper| mapper.strong_count() > 0 && !mapper.ptr_eq(process));
        mappers.push(process.clone());
    }

    fn mappers(&self) -> MutexGuard<'_, Vec<Weak<Process>>> {
        self.mappers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The page of this index, read now if it was not there.
    pub(super) fn page(&self, index: u64) -> Result<Frame, MmFaultError> {
        if let Some(page) = self.pages().get(&index) {
            return Ok(page.frame.clone());
        }
        let mut bytes = self.buffer(index).map_err(|_| MmFaultError::Io)?;
        if bytes.is_empty() {
            return Err(MmFaultError::Io);
        }
        let frame = self.frames.zeroed().ok_or(MmFaultError::NoMemory)?;
        let offset = index * self.frames.size().bytes();
        self.backing.read_at(offset, &mut bytes).map_err(|_| MmFaultError::Io)?;
        frame.write(0, &bytes);
        // Somebody else may have been quicker: then theirs is the page.
        Ok(self.pages().entry(index).or_insert(Cached { frame, dirty: false }).frame.clone())
    }

    /// Whether `frame` is the page of this index.
    pub(super) fn holds(&self, index: u64, frame: &Frame) -> bool {
        self.pages().get(&index).is_some_and(|page| Arc::ptr_eq(&page.frame, frame))
    }

    pub(super) fn mark_dirty(&self, index: u64) {
        if let Some(page) = self.pages().get_mut(&index) {
            page.dirty = true;
        }
    }

    /// Room for the bytes of the page of this index; none of it beyond the end of the file.
    fn buffer(&self, index: u64) -> io::Result<Vec<u8>> {
        let page = self.frames.size().bytes();
        let offset = index.checked_mul(page).ok_or(io::ErrorKind::InvalidInput)?;
        let len = self.len_bytes().saturating_sub(offset).min(page);
        Ok(vec![0; usize::try_from(len).map_err(|_| io::ErrorKind::InvalidInput)?])
    }

    fn pages(&self) -> MutexGuard<'_, BTreeMap<u64, Cached>> {
        self.pages.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
