//! Who uses a group: the kernel's drivers through the DMA API, or one user; never both.
//!
//! An [`Owner`] is a user's identity and nothing more. A group keeps its count in a ledger by name, so that it can be neither
//! lost nor given back twice, and every refusal can say who stands in the way. The calls are the group's:
//! [`use_default_domain`](crate::group::Group::use_default_domain), [`claim_group`](crate::group::Group::claim_group) and their kin.
//!
//! | the group is | count | owner |
//! |---|---|---|
//! | nobody's | 0 | none |
//! | the kernel's | one for each driver that uses the DMA API | none |
//! | a user's | one for the claim of the whole, one for each claim of a device | the user |
//!
//! Not here: domains and hardware (`group`), drivers and when they ask (`bus`).

mod errno;
mod error;
mod ledger;

use alloc::string::String;
use alloc::sync::Arc;
use core::fmt;
use core::num::NonZeroUsize;

pub use errno::Errno;
pub use error::{ClaimError, ReleaseError, Stuck, UnuseError, UseError};
pub(crate) use ledger::{Claiming, DeviceKey, Ledger};

/// A user's identity. Says who it is, not what: only compared.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Owner(NonZeroUsize);

impl fmt::Debug for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Owner({:#x})", self.0)
    }
}

/// 0 is nobody's identity. EINVAL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NullOwner;

impl Owner {
    /// The user with this number, which no other user has while this one holds something.
    ///
    /// # Errors
    ///
    /// The number is 0.
    pub fn new(identity: usize) -> Result<Self, NullOwner> {
        NonZeroUsize::new(identity).map(Self).ok_or(NullOwner)
    }

    /// The user who is `thing`: an open file, a container. Another thing is another user for as long as `thing` lives.
    pub fn of<T: ?Sized>(thing: &Arc<T>) -> Self {
        Self(Arc::as_ptr(thing).cast::<()>().addr().try_into().expect("nothing lies at 0"))
    }

    /// The number.
    pub const fn identity(self) -> usize {
        self.0.get()
    }
}

/// A driver that uses the DMA API for a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelUser {
    /// The device.
    pub device: String,
    /// The driver.
    pub driver: String,
}

/// Who holds a group at a moment; for people and for tests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ownership {
    /// How often it is held.
    pub count: usize,
    /// The user; none if nobody's or the kernel's.
    pub owner: Option<Owner>,
    /// The drivers that use the DMA API.
    pub kernel_users: alloc::vec::Vec<KernelUser>,
}

/// What a release left.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "hardware may have refused to take the group back to its default domain"]
pub enum Released {
    /// The owner holds the group still, this often.
    Held(usize),
    /// The group is nobody's, and in its default domain.
    Free,
    /// The group is nobody's. Hardware refused its default domain: it is blocked. The next driver that asks for the DMA API, and the next
    /// [`detach`](crate::group::Group::detach), try again.
    Blocked(Stuck),
}
