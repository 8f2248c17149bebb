//! What a disk's bytes lie on: memory, or a file.
//!
//! A file is read as it is needed and never written: changes go to an overlay in memory, if it may be changed at all.

use core::fmt;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::{Mutex, PoisonError, RwLock};

const PAGE_BYTES: u64 = 4096;

/// The medium could not do it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MediumError;

/// Bytes that stay.
///
/// A disk is made of whole blocks: bytes from the length on to the end of the last block are zero until they are written.
pub trait Medium: Send + Sync + fmt::Debug {
    /// How many bytes there are.
    fn len_bytes(&self) -> u64;

    /// Whether writes are refused.
    fn is_read_only(&self) -> bool;

    /// Reads from `at` on.
    ///
    /// # Errors
    ///
    /// The bytes cannot be had.
    fn read(&self, at: u64, into: &mut [u8]) -> Result<(), MediumError>;

    /// Writes from `at` on.
    ///
    /// # Errors
    ///
    /// The bytes cannot be kept.
    fn write(&self, at: u64, from: &[u8]) -> Result<(), MediumError>;
}

/// A medium in memory.
pub struct MemoryMedium {
    len_bytes: u64,
    bytes: RwLock<Vec<u8>>,
}

impl fmt::Debug for MemoryMedium {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryMedium").field("len_bytes", &self.len_bytes).finish_non_exhaustive()
    }
}

impl MemoryMedium {
    /// A medium that holds `bytes`.
    pub fn new(mut bytes: Vec<u8>) -> Self {
        let len_bytes = bytes.len() as u64;
        bytes.resize(bytes.len().next_multiple_of(PAGE_BYTES as usize), 0);
        Self { len_bytes, bytes: RwLock::new(bytes) }
    }

    /// What it holds now, without the padding.
    pub fn contents(&self) -> Vec<u8> {
        self.bytes.read().unwrap_or_else(PoisonError::into_inner)[..self.len_bytes as usize].to_vec()
    }
}

fn run(at: u64, len: usize) -> Option<core::ops::Range<usize>> {
    let start = usize::try_from(at).ok()?;
    Some(start..start.checked_add(len)?)
}

impl Medium for MemoryMedium {
    fn len_bytes(&self) -> u64 {
        self.len_bytes
    }

    fn is_read_only(&self) -> bool {
        false
    }

    fn read(&self, at: u64, into: &mut [u8]) -> Result<(), MediumError> {
        let bytes = self.bytes.read().unwrap_or_else(PoisonError::into_inner);
        let from = run(at, into.len()).and_then(|run| bytes.get(run)).ok_or(MediumError)?;
        into.copy_from_slice(from);
        Ok(())
    }

    fn write(&self, at: u64, from: &[u8]) -> Result<(), MediumError> {
        let mut bytes = self.bytes.write().unwrap_or_else(PoisonError::into_inner);
        let into = run(at, from.len()).and_then(|run| bytes.get_mut(run)).ok_or(MediumError)?;
        into.copy_from_slice(from);
        Ok(())
    }
}

/// A file as a medium.
#[derive(Debug)]
pub struct FileMedium {
    file: File,
    len_bytes: u64,
    overlay: Option<Mutex<Overlay>>,
}

/// Pages that differ from the file's, by number.
type Overlay = HashMap<u64, Box<[u8; PAGE_BYTES as usize]>>;

impl FileMedium {
    /// The file at `path`, to be read only.
    ///
    /// # Errors
    ///
    /// It cannot be opened, or is no regular file.
    pub fn read_only(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
        }
        Ok(Self { file, len_bytes: metadata.len(), overlay: None })
    }

    /// The file at `path`, with changes kept in memory and lost with the medium.
    ///
    /// # Errors
    ///
    /// It cannot be opened, or is no regular file.
    pub fn with_overlay(path: &Path) -> io::Result<Self> {
        Ok(Self { overlay: Some(Mutex::default()), ..Self::read_only(path)? })
    }

    /// Reads the file itself; zeroes past its end.
    fn read_file(&self, at: u64, into: &mut [u8]) -> Result<(), MediumError> {
        let inside = self.len_bytes.saturating_sub(at).min(into.len() as u64) as usize;
        let (bytes, padding) = into.split_at_mut(inside);
        padding.fill(0);
        read_exact_at(&self.file, bytes, at).map_err(|_| MediumError)
    }
}

#[cfg(unix)]
fn read_exact_at(file: &File, into: &mut [u8], at: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, into, at)
}

#[cfg(windows)]
fn read_exact_at(file: &File, into: &mut [u8], at: u64) -> io::Result<()> {
    let mut done = 0;
    while done < into.len() {
        match std::os::windows::fs::FileExt::seek_read(file, &mut into[done..], at + done as u64)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            count => done += count,
        }
    }
    Ok(())
}

/// Cuts a run at page borders: page number, where in the page, and which bytes of the run.
fn pages(at: u64, len: usize) -> impl Iterator<Item = (u64, usize, core::ops::Range<usize>)> {
    let mut done = 0;
    core::iter::from_fn(move || {
        let now = at.checked_add(done as u64).filter(|_| done < len)?;
        let within = (now % PAGE_BYTES) as usize;
        let count = (len - done).min(PAGE_BYTES as usize - within);
        done += count;
        Some((now / PAGE_BYTES, within, done - count..done))
    })
}

impl Medium for FileMedium {
    fn len_bytes(&self) -> u64 {
        self.len_bytes
    }

    fn is_read_only(&self) -> bool {
        self.overlay.is_none()
    }

    fn read(&self, at: u64, into: &mut [u8]) -> Result<(), MediumError> {
        self.read_file(at, into)?;
        let Some(overlay) = &self.overlay else { return Ok(()) };
        let overlay = overlay.lock().unwrap_or_else(PoisonError::into_inner);
        if overlay.is_empty() {
            return Ok(());
        }
        for (page, within, part) in pages(at, into.len()) {
            if let Some(changed) = overlay.get(&page) {
                let len = part.len();
                into[part].copy_from_slice(&changed[within..within + len]);
            }
        }
        Ok(())
    }

    fn write(&self, at: u64, from: &[u8]) -> Result<(), MediumError> {
        let mut overlay =
            self.overlay.as_ref().ok_or(MediumError)?.lock().unwrap_or_else(PoisonError::into_inner);
        for (page, within, part) in pages(at, from.len()) {
            let changed = match overlay.entry(page) {
                Entry::Occupied(entry) => entry.into_mut(),
                Entry::Vacant(entry) => {
                    let mut bytes = Box::new([0; PAGE_BYTES as usize]);
                    self.read_file(page * PAGE_BYTES, &mut bytes[..])?;
                    entry.insert(bytes)
                }
            };
            let len = part.len();
            changed[within..within + len].copy_from_slice(&from[part]);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    /// A file that goes away with the test.
    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str, bytes: &[u8]) -> Self {
            let path = std::env::temp_dir().join(format!("medium-{}-{name}", std::process::id()));
            std::fs::write(&path, bytes).unwrap();
            Self(path)
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = std::fs::remove_file(&self.0);
        }
    }

    fn read(medium: &dyn Medium, at: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0xee; len];
        medium.read(at, &mut bytes).unwrap();
        bytes
    }

    #[test]
    fn a_file_is_padded_with_zeroes_and_cannot_be_written() {
        let scratch = Scratch::new("padded", b"hello");
        let medium = FileMedium::read_only(&scratch.0).unwrap();
        assert_eq!((medium.len_bytes(), medium.is_read_only()), (5, true));
        assert_eq!(read(&medium, 3, 6), b"lo\0\0\0\0");
        assert_eq!(read(&medium, 512, 2), [0, 0]);
        assert_eq!(medium.write(0, b"x"), Err(MediumError));
    }

    #[test]
    fn an_overlay_hides_the_file_and_leaves_it_as_it_is() {
        let content = vec![7; 10_000];
        let scratch = Scratch::new("overlay", &content);
        let medium = FileMedium::with_overlay(&scratch.0).unwrap();
        medium.write(4090, &[1; 12]).unwrap();
        medium.write(10_100, &[2]).unwrap();
        assert_eq!(read(&medium, 4089, 14), [7, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 7]);
        assert_eq!(read(&medium, 9_999, 2), [7, 0]);
        assert_eq!(read(&medium, 10_100, 1), [2]);
        assert_eq!(std::fs::read(&scratch.0).unwrap(), content);
    }

    #[test]
    fn a_file_that_shrinks_is_an_error_and_nothing_else() {
        let scratch = Scratch::new("shrinks", &[7; 4096]);
        let medium = FileMedium::read_only(&scratch.0).unwrap();
        std::fs::write(&scratch.0, [7; 100]).unwrap();
        assert_eq!(medium.read(0, &mut [0; 512]), Err(MediumError));
    }

    #[test]
    fn a_directory_is_no_medium() {
        let error = FileMedium::read_only(&std::env::temp_dir()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    }

    #[test]
    fn memory_keeps_what_is_written() {
        let medium = MemoryMedium::new(vec![1; 600]);
        medium.write(599, &[2, 3]).unwrap();
        assert_eq!(read(&medium, 598, 4), [1, 2, 3, 0]);
        assert_eq!((medium.contents().len(), medium.contents()[599]), (600, 2));
        assert_eq!(medium.read(4095, &mut [0; 2]), Err(MediumError));
        assert_eq!(medium.write(u64::MAX, &[0; 2]), Err(MediumError));
    }
}
