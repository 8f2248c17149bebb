//! The process that calls: its memory, its open files, its limit.

use alloc::sync::Arc;
use alloc::vec::Vec;

use portcullis_hal::Platform;
use portcullis_types::{PaRange, SizeLg2};

use crate::{Errno, File};

/// No memory there, or none that may be used so. EFAULT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UserFault;

/// The process has no more pages to lock. ENOMEM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OverLimit;

impl From<UserFault> for Errno {
    fn from(_: UserFault) -> Self {
        Self::Efault
    }
}

impl From<OverLimit> for Errno {
    fn from(_: OverLimit) -> Self {
        Self::Enomem
    }
}

/// The memory of a process. Lives on when the process has exited, for as long as pages of it are pinned.
///
/// Called from any thread, with no spin lock held; may sleep.
pub trait UserMemory: Send + Sync {
    /// How large a page is.
    fn page_size(&self) -> SizeLg2;

    /// Copies from the process's memory at `at`.
    ///
    /// # Errors
    ///
    /// Not all of it can be read; what was copied has no meaning.
    fn copy_in(&self, at: u64, into: &mut [u8]) -> Result<(), UserFault>;

    /// Copies to the process's memory at `at`.
    ///
    /// # Errors
    ///
    /// Not all of it can be written; a part may have been.
    fn copy_out(&self, at: u64, from: &[u8]) -> Result<(), UserFault>;

    /// Pins pages from `at` on, a page's beginning: they are there, are kept where they are, and belong to nobody else, until
    /// [`unpin`](Self::unpin). Answers where they are: as many as lie one behind the other, at least one, at most `len_bytes`, whole pages. For `write`
    /// they must be writable by the process.
    ///
    /// # Errors
    ///
    /// The first page is not there, or not for this. Nothing is pinned.
    fn pin(&self, at: u64, len_bytes: u64, write: bool) -> Result<PaRange, UserFault>;

    /// Lets pinned pages go, which may have been written if `dirty`. Given in any pieces of whole pages, once each.
    fn unpin(&self, pages: PaRange, dirty: bool);

    /// Counts pages as locked.
    ///
    /// # Errors
    ///
    /// That would be more than the process may lock. Nothing is counted.
    fn charge(&self, page_count: u64) -> Result<(), OverLimit>;

    /// Takes [`charge`](Self::charge) back.
    fn uncharge(&self, page_count: u64);

    /// Whether so many bytes more of the kernel's own memory may be taken for this process, for a list that its calls make longer. Asked before each
    /// time; if not, the call fails (ENOMEM), and nothing has changed.
    ///
    /// # Errors
    ///
    /// They may not.
    fn may_grow(&self, _bytes: usize) -> Result<(), OverLimit> {
        Ok(())
    }
}

/// What is signalled to when an interrupt comes: an eventfd.
pub trait EventFile: Send + Sync {
    /// Adds one to its count. In interrupt context.
    fn signal(&self);
}

/// What a number stands for in a process's table of open files.
pub enum Fd<P: Platform> {
    /// A file of VFIO's.
    Vfio(File<P>),
    /// An event file.
    Event(Arc<dyn EventFile>),
    /// Some other file.
    Other,
}

/// The process that makes a call, for as long as the call lasts.
pub trait Caller<P: Platform> {
    /// Its memory.
    fn memory(&self) -> &Arc<dyn UserMemory>;

    /// What the number stands for; none if for nothing.
    fn fd(&self, fd: i32) -> Option<Fd<P>>;

    /// Gives `file` the lowest free number.
    ///
    /// # Errors
    ///
    /// There is none: [`Errno::Emfile`]. The file is dropped.
    fn install(&self, file: File<P>) -> Result<i32, Errno>;
}

/// Reads a structure.
pub(crate) fn read<const N: usize>(memory: &dyn UserMemory, at: u64) -> Result<[u8; N], Errno> {
    let mut bytes = [0; N];
    memory.copy_in(at, &mut bytes)?;
    Ok(bytes)
}

/// Reads the beginning of a structure whose rest is taken as zero.
pub(crate) fn read_head<const N: usize>(
    memory: &dyn UserMemory,
    at: u64,
    head_bytes: usize,
) -> Result<[u8; N], Errno> {
    let mut bytes = [0; N];
    memory.copy_in(at, &mut bytes[..head_bytes])?;
    Ok(bytes)
}

/// Has `list` have room for `more`, so that adding them cannot fail. ENOMEM, and nothing changed, if there is none.
pub(crate) fn room<T>(memory: &dyn UserMemory, list: &mut Vec<T>, more: usize) -> Result<(), Errno> {
    if list.capacity() - list.len() >= more {
        return Ok(());
    }
    memory.may_grow(more.saturating_mul(size_of::<T>()))?;
    list.try_reserve(more).map_err(|_| Errno::Enomem)
}

/// The address `offset_bytes` further on.
pub(crate) fn beyond(at: u64, offset_bytes: usize) -> Result<u64, Errno> {
    at.checked_add(offset_bytes as u64).ok_or(Errno::Efault)
}
