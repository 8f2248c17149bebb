//! Why a process did not get what it asked for.

use portcullis::core::iommu::SyncError;
use portcullis::core::mm::MmFaultError;
use portcullis::types::{Iova, Perms};

/// Why areas were not changed. Unless it says otherwise, nothing changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum MmError {
    /// The process has exited. ESRCH.
    Exited,
    /// Address, length or offset is no multiple of the page size, the length is 0, or some of it lies where no area may be. EINVAL.
    BadRange,
    /// Something is mapped there already. EEXIST.
    Occupied(Iova),
    /// No room for so many addresses. ENOMEM.
    NoSpace,
    /// No entry can say this: writing or executing goes with reading, and a process's page is no kernel's. EINVAL.
    Unsupported(Perms),
    /// The file may not be written, but would be. EACCES.
    ReadOnlyFile,
    /// Nothing is mapped there. ENOMEM.
    NotMapped(Iova),
    /// No memory for a table. ENOMEM.
    NoMemory,
    /// A file could not be written. EIO.
    Io(std::io::ErrorKind),
    /// It is done, but a listener could not confirm that its hardware has forgotten: the pages are kept. EIO.
    Unconfirmed(SyncError),
    /// A listener could not confirm that its hardware has forgotten that pages were writable, so there was no fork. EIO.
    NotForked(SyncError),
}

/// Why a load or store of the process did not go on: what a signal would say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum UserError {
    /// A byte that the process may not reach (SIGSEGV), or whose page could not be had (SIGBUS, or no memory).
    Fault {
        /// Where. What lies before was done.
        at: Iova,
        /// Why.
        why: MmFaultError,
    },
    /// The CPU reported what no fault handler can mend.
    Abort {
        /// Where.
        at: Iova,
    },
}
