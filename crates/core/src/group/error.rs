//! Why a group is as it was, or where its devices are instead.

use alloc::string::String;
use alloc::vec::Vec;

use portcullis_types::IovaRange;

use crate::iommu::{AttachError, RegionSource};
use crate::owner::{KernelUser, Owner};

/// Why the group, or a device of it, is not attached as was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum GroupError {
    /// The device is in a group already. EBUSY.
    InGroup,
    /// The device is not in this group. ENODEV.
    NotMember,
    /// The device is held for itself: its driver uses the DMA API, or a user has claimed it. EBUSY.
    Held,
    /// Who asks does not hold the group: this user does, or nobody where a user asks. EPERM.
    NotOwner(Option<Owner>),
    /// The group is in a domain of somebody else's: neither its default nor blocked. EBUSY.
    OtherDomain,
    /// Drivers use the DMA API in a group of several devices, which would leave the default domain under them. EBUSY.
    KernelUses(Vec<KernelUser>),
    /// The device shares its group, of so many devices, which is not for one of them to move. EINVAL.
    Shared(usize),
    /// A user's devices can be blocked, or in an unmanaged or nested domain: in no other. EINVAL.
    NotUsers,
    /// This device, of the group or about to join it, shares processes' memory, and has its group for itself, and no other, as long as it does. EBUSY.
    Sharing(String),
    /// The group is a user's, and firmware uses this region of the device that was to join. EINVAL.
    Direct {
        /// The device.
        device: String,
        /// The region.
        range: IovaRange,
        /// Who says that firmware uses it.
        source: RegionSource,
    },
    /// A device was not attached. Everything is as it was.
    Attach {
        /// The device; empty if the group has none.
        device: String,
        /// Why.
        error: AttachError,
    },
    /// A device was not attached, and hardware refused to take devices back to where they were.
    Stranded {
        /// The device that was not attached.
        device: String,
        /// Why.
        error: AttachError,
        /// The devices that are not where they were, and where they are. The others are where they were.
        left: Vec<(String, Left)>,
    },
}

/// Where a device is that could not go back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Left {
    /// Nowhere: its accesses are aborted.
    Blocked,
    /// In the domain that the attach was for: hardware refused to block it too.
    Attached,
}
