//! Everything here that the compiler cannot check: a file mapped as words, and a child that does not outlive us.
#![expect(unsafe_code, reason = "a mapping of a shared file is memory that no safe interface gives")]

use core::ffi::c_void;
use core::num::NonZeroUsize;
use core::ptr::{NonNull, null_mut};
use core::sync::atomic::AtomicU64;
use std::fs::File;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use rustix::process::{Signal, getpid, getppid, set_parent_process_death_signal};

/// A file, mapped shared, as words.
#[derive(Debug)]
pub(crate) struct Mapping {
    first: NonNull<AtomicU64>,
    len_bytes: NonZeroUsize,
}

// SAFETY: the mapping belongs to this value alone until `drop`, and is reached as `AtomicU64`s only, which any thread may use.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps the first `len_bytes` bytes of `file`, a multiple of 8.
    pub(crate) fn of(file: &File, len_bytes: NonZeroUsize) -> io::Result<Self> {
        if !len_bytes.get().is_multiple_of(8) || file.metadata()?.len() < len_bytes.get() as u64 {
            return Err(io::Error::from(io::ErrorKind::InvalidInput));
        }
        // SAFETY: no address is asked for, so the kernel picks one where nothing of ours lies. The file was just seen to be long enough; who
        // shortens it later gets us a SIGBUS, which is an abort and not an access elsewhere.
        let at = unsafe {
            mmap(null_mut(), len_bytes.get(), ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED, file, 0)
        }?;
        let first = NonNull::new(at.cast::<AtomicU64>()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { first, len_bytes })
    }

    /// The words. Another process may change them at any time, which is what atomics are for.
    pub(crate) fn words(&self) -> &[AtomicU64] {
        // SAFETY: `first` is the start of a live mapping of `len_bytes` bytes, page aligned; it is unmapped in `drop` only, which the
        // borrow outlives. Any bits are an `AtomicU64`, and shared changes go through atomics, in the other process through
        // the machine's own instructions.
        unsafe { core::slice::from_raw_parts(self.first.as_ptr(), self.len_bytes.get() / 8) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: `of` mapped exactly this, and no slice of it lives: `words` borrows from `self`.
        let unmapped = unsafe { munmap(self.first.as_ptr().cast::<c_void>(), self.len_bytes.get()) };
        debug_assert!(unmapped.is_ok());
    }
}

/// Has the kernel kill the child once the thread that starts it is gone.
pub(crate) fn dies_with_this_thread(command: &mut Command) {
    let parent = getpid();
    let ask = move || {
        set_parent_process_death_signal(Some(Signal::KILL))?;
        // The parent may have gone before the call: then no signal will come.
        if getppid() == Some(parent) { Ok(()) } else { Err(io::Error::from(io::ErrorKind::NotFound)) }
    };
    // SAFETY: between fork and exec only two plain system calls happen, no allocation and no lock; `parent` was copied before.
    unsafe { command.pre_exec(ask) };
}
