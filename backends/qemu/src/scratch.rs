//! A private directory for the files that a QEMU is started with.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::fs::{self, DirBuilder};
use std::io::{self, ErrorKind};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process;

use crate::QemuError;

/// A directory that only its owner may enter, in shared memory where there is such a place. Gone when dropped.
#[derive(Debug)]
pub(crate) struct Scratch {
    path: PathBuf,
}

/// Makes names differ within a process.
static NEXT: AtomicU64 = AtomicU64::new(0);

impl Scratch {
    pub(crate) fn new() -> Result<Self, QemuError> {
        let places = [PathBuf::from("/dev/shm"), std::env::temp_dir()];
        let mut last = io::Error::from(ErrorKind::NotFound);
        for place in places {
            match Self::within(&place) {
                Ok(scratch) => return Ok(scratch),
                Err(error) => last = error,
            }
        }
        Err(QemuError::host("making a private directory", &last))
    }

    fn within(place: &Path) -> io::Result<Self> {
        loop {
            let name = format!("portcullis-qemu-{}-{}", process::id(), NEXT.fetch_add(1, Relaxed));
            let path = place.join(name);
            match DirBuilder::new().mode(0o700).create(&path) {
                Ok(()) => return Ok(Self { path }),
                // Left behind by a process that was killed and had the same number.
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Where a file of this name lies.
    pub(crate) fn at(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Writes a file.
    pub(crate) fn write(&self, name: &str, bytes: &[u8]) -> Result<PathBuf, QemuError> {
        let path = self.at(name);
        fs::write(&path, bytes).map_err(|error| QemuError::host("writing a file for QEMU", &error))?;
        Ok(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_private_directory_is_gone_when_it_is_dropped() {
        let scratch = Scratch::new().unwrap();
        let other = Scratch::new().unwrap();
        assert_ne!(scratch.at(""), other.at(""));
        let file = scratch.write("a", b"b").unwrap();
        assert_eq!(fs::read(&file).unwrap(), b"b");
        drop(scratch);
        assert!(!file.exists() && !file.parent().unwrap().exists());
    }
}
