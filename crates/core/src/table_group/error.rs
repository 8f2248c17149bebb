//! Why not, for each thing that is asked of a table group, with the number that a system call answers.

use portcullis_types::{Iova, SizeLg2};

use crate::iommu::SyncError;
use crate::owner::Errno;

/// Why a group was not taken, or not given back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum OwnershipError {
    /// The driver offers taking and releasing but no tables or windows, or nothing at all. EFAULT.
    Incomplete,
    /// This window is still the user's. EBUSY.
    WindowSet(usize),
    /// Something is mapped at this address that is not reserved. EBUSY.
    Live(Iova),
    /// It is in other hands. EBUSY.
    Taken,
    /// No memory for the platform's table: the group is left blocked. ENOMEM.
    NoMemory,
    /// Hardware did not confirm: the group is left blocked. EIO.
    Sync(SyncError),
}

/// Why there is no such table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TableError {
    /// There is no such window. EINVAL.
    Window(usize),
    /// Hardware has no such page. EINVAL.
    PageSize(SizeLg2),
    /// The window is empty, no power of two, smaller than a page, or runs into the next one. EINVAL.
    WindowSize(u64),
    /// No level, more than hardware walks, or more than there are address bits for. EINVAL.
    Levels(u8),
    /// No memory. ENOMEM.
    NoMemory,
}

/// Why a window was not set or not removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum WindowError {
    /// There is no such window, or it is not set. EINVAL.
    NotSet(usize),
    /// It is set already. EBUSY.
    Set(usize),
    /// The group is the platform's. EPERM.
    NotTaken,
    /// The table belongs to another bridge. EINVAL.
    Foreign,
    /// No memory to note it. ENOMEM.
    NoMemory,
    /// Hardware did not confirm. EIO.
    Sync(SyncError),
}

/// Why an entry is as it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum EntryError {
    /// Outside the window. EINVAL: that no window holds an address is for the container to say.
    Outside(Iova),
    /// Not a multiple of the page. EINVAL.
    Misaligned(u64),
    /// Neither read nor write, or an address that no entry can say. EINVAL.
    Unsupported,
    /// No memory for a level. ENOMEM.
    NoMemory,
}

impl OwnershipError {
    /// The error number.
    pub const fn errno(&self) -> Errno {
        match self {
            Self::Incomplete => Errno::Efault,
            Self::WindowSet(_) | Self::Live(_) | Self::Taken => Errno::Ebusy,
            Self::NoMemory => Errno::Enomem,
            Self::Sync(_) => Errno::Eio,
        }
    }
}

impl TableError {
    /// The error number.
    pub const fn errno(&self) -> Errno {
        match self {
            Self::Window(_) | Self::PageSize(_) | Self::WindowSize(_) | Self::Levels(_) => Errno::Einval,
            Self::NoMemory => Errno::Enomem,
        }
    }
}

impl WindowError {
    /// The error number.
    pub const fn errno(&self) -> Errno {
        match self {
            Self::NotSet(_) | Self::Foreign => Errno::Einval,
            Self::Set(_) => Errno::Ebusy,
            Self::NotTaken => Errno::Eperm,
            Self::NoMemory => Errno::Enomem,
            Self::Sync(_) => Errno::Eio,
        }
    }
}

impl EntryError {
    /// The error number.
    pub const fn errno(&self) -> Errno {
        match self {
            Self::Outside(_) | Self::Misaligned(_) | Self::Unsupported => Errno::Einval,
            Self::NoMemory => Errno::Enomem,
        }
    }
}
