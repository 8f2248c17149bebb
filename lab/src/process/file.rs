//! Files, and those of their pages that somebody touched.
//!
//! A page is read when it is first wanted, and stays until the file goes. All processes that map the file have the same pages; who may
//! not change them gets copies (`fault`). Pages that were made writable for somebody count as dirty from then on, and
//! [`File::write_back`] writes them.

use core::fmt;
use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use portcullis::core::mm::MmFaultError;

use super::frame::{Frame, Frames};

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
}

#[derive(Debug)]
struct Cached {
    frame: Frame,
    dirty: bool,
}

impl File {
    pub(super) fn new(frames: Frames, backing: Box<dyn Backing>) -> Self {
        Self { frames, backing, pages: Mutex::default() }
    }

    pub(super) fn nameless(frames: Frames, len_bytes: u64) -> Self {
        Self::new(frames, Box::new(Nameless { len_bytes }))
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

    /// Writes what may have been changed back to where the bytes lie. Pages that a process may still write stay dirty: they are
    /// written again the next time.
    ///
    /// Answers how many pages were written.
    ///
    /// # Errors
    ///
    /// What could not be written. Pages before it have been.
    pub fn write_back(&self) -> io::Result<usize> {
        let dirty: Vec<(u64, Frame)> = {
            let pages = self.pages();
            pages.iter().filter(|(_, page)| page.dirty).map(|(&i, page)| (i, page.frame.clone())).collect()
        };
        for (index, frame) in &dirty {
            let mut bytes = self.buffer(*index)?;
            frame.read(&mut bytes);
            self.backing.write_at(index * self.frames.size().bytes(), &bytes)?;
        }
        Ok(dirty.len())
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
