//! Why a group's owner does not change.

use alloc::string::String;
use alloc::vec::Vec;

use portcullis_types::IovaRange;

use super::{KernelUser, Owner};
use crate::group::GroupError;
use crate::iommu::RegionSource;

/// Why a device's driver may not use the DMA API. Nothing is counted.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum UseError {
    /// The device is not in this group. ENODEV.
    NotMember,
    /// The group has no default domain yet: ask again later. EPROBE_DEFER.
    NoDefaultDomain,
    /// A user holds the group. EBUSY.
    Owned(Owner),
    /// Another device's driver uses the DMA API, and yet the group is in another domain than the default. EBUSY.
    OtherDomain,
    /// Another device's driver uses the DMA API, and PASIDs of the group mean something. EBUSY.
    PasidsInUse,
    /// Some of the group was left outside its default domain, and hardware refuses still to take it there. The errno of the error.
    Stuck(GroupError),
}

/// Why nothing was given back. The count is as it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum UnuseError {
    /// No driver uses the DMA API for this device: it gave back what it never had, or twice. EINVAL.
    NotUsed,
}

/// Why a user does not get the group, or the device.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ClaimError {
    /// The device is not in this group. ENODEV.
    NotMember,
    /// Drivers use the DMA API for devices of the group: these. EPERM.
    KernelUses(Vec<KernelUser>),
    /// A user holds the group: another one, or the same who claims the whole of it a second time. EPERM.
    Owned(Owner),
    /// The group is in another domain than the default. EBUSY.
    OtherDomain,
    /// PASIDs of the group mean something. EBUSY.
    PasidsInUse,
    /// Firmware uses this region of the device, which therefore cannot be blocked. EINVAL.
    Direct {
        /// The device.
        device: String,
        /// The region.
        range: IovaRange,
        /// Who says that firmware uses it.
        source: RegionSource,
    },
    /// The group was not blocked. The errno of the error, which says if devices are not where they were.
    Attach(GroupError),
}

/// Why nothing was released. The count is as it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ReleaseError {
    /// Nobody has claimed this. EINVAL.
    NotClaimed,
    /// Another user holds the group. EPERM.
    NotOwner(Owner),
    /// The group is to be released as a whole, and claims of so many of its devices would be lost. EBUSY.
    DevicesClaimed(usize),
    /// PASIDs of the group mean something still. EBUSY.
    PasidsInUse,
}

/// A group that hardware did not take back to its default domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stuck {
    /// Why not.
    pub error: GroupError,
    /// Devices that hardware refused to block as well: they are still where their user had them.
    pub open: Vec<String>,
}
