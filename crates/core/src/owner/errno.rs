//! The numbers by which a system call says why not.

use super::{ClaimError, NullOwner, ReleaseError, UnuseError, UseError};
use crate::domain::{CookieError, DomainMapError, DomainSyncError, DomainUnmapError};
use crate::group::{DefaultTypeError, GroupError, PasidError, UnknownWord};
use crate::iommu::{AttachError, DomainError, MapError, UnmapError};
use crate::nested::NestedError;

/// An error number of Linux, as far as errors of core and of VFIO need one.
///
/// Observed: Linux 7.3, include/uapi/asm-generic/errno-base.h, errno.h and include/linux/errno.h.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Errno {
    /// Operation not permitted.
    Eperm,
    /// No such file.
    Enoent,
    /// No such process.
    Esrch,
    /// The hardware did not do it.
    Eio,
    /// No such address.
    Enxio,
    /// Not an open file.
    Ebadf,
    /// No memory.
    Enomem,
    /// Not allowed to.
    Eacces,
    /// A pointer that leads nowhere.
    Efault,
    /// In use.
    Ebusy,
    /// Exists already.
    Eexist,
    /// No such device.
    Enodev,
    /// The caller asked for what makes no sense.
    Einval,
    /// Too many open files.
    Emfile,
    /// The object has no such request.
    Enotty,
    /// No room left.
    Enospc,
    /// Out of range.
    Erange,
    /// The end is beyond what a number can say.
    Eoverflow,
    /// A file of another kind.
    Ebadfd,
    /// Not yet; never seen by user space.
    EprobeDefer,
}

impl Errno {
    /// The number, positive.
    pub const fn code(self) -> i32 {
        match self {
            Self::Eperm => 1,
            Self::Enoent => 2,
            Self::Esrch => 3,
            Self::Eio => 5,
            Self::Enxio => 6,
            Self::Ebadf => 9,
            Self::Enomem => 12,
            Self::Eacces => 13,
            Self::Efault => 14,
            Self::Ebusy => 16,
            Self::Eexist => 17,
            Self::Enodev => 19,
            Self::Einval => 22,
            Self::Emfile => 24,
            Self::Enotty => 25,
            Self::Enospc => 28,
            Self::Erange => 34,
            Self::Eoverflow => 75,
            Self::Ebadfd => 77,
            Self::EprobeDefer => 517,
        }
    }
}

impl NullOwner {
    /// The error number.
    pub const fn errno(self) -> Errno {
        Errno::Einval
    }
}

impl UseError {
    /// The error number.
    pub const fn errno(&self) -> Errno {
        match self {
            Self::NotMember => Errno::Enodev,
            Self::NoDefaultDomain => Errno::EprobeDefer,
            Self::Owned(_) | Self::OtherDomain | Self::PasidsInUse => Errno::Ebusy,
            Self::Stuck(error) => error.errno(),
        }
    }
}

impl UnuseError {
    /// The error number.
    pub const fn errno(self) -> Errno {
        Errno::Einval
    }
}

impl ClaimError {
    /// The error number.
    pub const fn errno(&self) -> Errno {
        match self {
            Self::NotMember => Errno::Enodev,
            Self::KernelUses(_) | Self::Owned(_) => Errno::Eperm,
            Self::OtherDomain | Self::PasidsInUse => Errno::Ebusy,
            Self::Direct { .. } => Errno::Einval,
            Self::Attach(error) => error.errno(),
        }
    }
}

impl ReleaseError {
    /// The error number.
    pub const fn errno(self) -> Errno {
        match self {
            Self::NotClaimed => Errno::Einval,
            Self::NotOwner(_) => Errno::Eperm,
            Self::DevicesClaimed(_) | Self::PasidsInUse => Errno::Ebusy,
        }
    }
}

impl GroupError {
    /// The error number.
    pub const fn errno(&self) -> Errno {
        match self {
            Self::NotMember => Errno::Enodev,
            Self::NotOwner(_) => Errno::Eperm,
            Self::InGroup | Self::Held | Self::OtherDomain | Self::KernelUses(_) | Self::Sharing(_) => {
                Errno::Ebusy
            }
            Self::Shared(_) | Self::NotUsers | Self::Direct { .. } => Errno::Einval,
            Self::Attach { error, .. } | Self::Stranded { error, .. } => error.errno(),
        }
    }
}

impl PasidError {
    /// The error number.
    pub const fn errno(self) -> Errno {
        match self {
            Self::Taken => Errno::Ebusy,
            Self::NotHeld => Errno::Einval,
            Self::NotOwner(_) => Errno::Eperm,
        }
    }
}

impl DefaultTypeError {
    /// The error number.
    pub const fn errno(&self) -> Errno {
        match self {
            Self::InUse(_) => Errno::Eperm,
            Self::OtherDomain | Self::PasidsInUse => Errno::Ebusy,
            Self::Domain(error) => error.errno(),
            Self::Attach(error) => error.errno(),
        }
    }
}

impl UnknownWord {
    /// The error number.
    pub const fn errno(self) -> Errno {
        Errno::Einval
    }
}

impl DomainError {
    /// The error number.
    pub const fn errno(self) -> Errno {
        match self {
            Self::NoMemory => Errno::Enomem,
            Self::NoIds => Errno::Enospc,
            Self::Unsupported => Errno::Einval,
        }
    }
}

impl NestedError {
    /// The error number.
    pub const fn errno(self) -> Errno {
        match self {
            Self::NoIds => Errno::Enospc,
            Self::NoMemory => Errno::Enomem,
            _ => Errno::Einval,
        }
    }
}

impl AttachError {
    /// The error number.
    pub const fn errno(&self) -> Errno {
        match self {
            Self::UnknownSource(_) => Errno::Enodev,
            Self::ForeignDomain | Self::Unsupported | Self::Reserved(_) => Errno::Einval,
            Self::NoMemory => Errno::Enomem,
            Self::Sync(_) | Self::LeftBlocked(_) => Errno::Eio,
            Self::PasidsInUse | Self::WindowsInUse => Errno::Ebusy,
            Self::Direct { error, .. } => error.errno(),
            Self::Exited => Errno::Esrch,
        }
    }
}

impl MapError {
    /// The error number.
    pub const fn errno(&self) -> Errno {
        match self {
            Self::Misaligned { .. } | Self::BadLength | Self::Unsupported(_) => Errno::Einval,
            Self::OutsideAperture(_) | Self::OutputTooLarge(_) => Errno::Erange,
            Self::Mapped(_) => Errno::Eexist,
            Self::NoTableMemory => Errno::Enomem,
            Self::CorruptTable { .. } | Self::Unconfirmed { .. } => Errno::Eio,
        }
    }
}

impl UnmapError {
    /// The error number.
    pub const fn errno(&self) -> Errno {
        match self {
            Self::Misaligned { .. } | Self::WouldSplit { .. } => Errno::Einval,
            Self::OutsideAperture(_) => Errno::Erange,
            Self::NoTableMemory => Errno::Enomem,
            Self::CorruptTable { .. } => Errno::Eio,
        }
    }
}

impl DomainMapError {
    /// The error number.
    pub const fn errno(&self) -> Errno {
        match self {
            Self::NotUsers | Self::Reserved(_) => Errno::Einval,
            Self::Map(error) => error.errno(),
        }
    }
}

impl DomainUnmapError {
    /// The error number.
    pub const fn errno(&self) -> Errno {
        match self {
            Self::NotUsers | Self::Reserved(_) => Errno::Einval,
            Self::Unmap(error) => error.errno(),
        }
    }
}

impl DomainSyncError {
    /// The error number.
    pub const fn errno(&self) -> Errno {
        match self {
            Self::NotUsers => Errno::Einval,
            Self::Sync(_) => Errno::Eio,
        }
    }
}

impl CookieError {
    /// The error number.
    pub const fn errno(&self) -> Errno {
        match self {
            Self::NotUsers | Self::BadRange(_) => Errno::Einval,
            Self::Exists => Errno::Eexist,
            Self::Mapped(_) => Errno::Ebusy,
        }
    }
}
