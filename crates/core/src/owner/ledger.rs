//! The count of a group, entry by entry. Knows neither locks nor hardware; the group has both.

use alloc::vec::Vec;

use portcullis_types::mutant;

use super::{ClaimError, KernelUser, Owner, ReleaseError, UnuseError};

/// Which device: its place in memory, which is its own while it is a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DeviceKey(pub(crate) usize);

/// Who holds a group.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    owner: Option<Owner>,
    /// Whether the owner has claimed the group as a whole.
    whole: bool,
    /// One entry for each claim of a device.
    claims: Vec<DeviceKey>,
    /// One entry for each driver that uses the DMA API.
    users: Vec<(DeviceKey, KernelUser)>,
}

/// What a claim would be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Claiming {
    /// The first: the group is nobody's.
    First,
    /// One more by who holds it already.
    More,
}

impl Ledger {
    pub(crate) fn count(&self) -> usize {
        usize::from(self.whole) + self.claims.len() + self.users.len()
    }

    pub(crate) fn owner(&self) -> Option<Owner> {
        self.owner
    }

    pub(crate) fn users(&self) -> impl Iterator<Item = &KernelUser> {
        self.users.iter().map(|(_, user)| user)
    }

    /// Whether `device` is held for itself: its driver uses the DMA API, or it is claimed.
    pub(crate) fn holds(&self, device: DeviceKey) -> bool {
        self.claims.contains(&device) || self.users.iter().any(|&(key, _)| key == device)
    }

    /// The caller has seen that there is no owner.
    pub(crate) fn add_user(&mut self, device: DeviceKey, user: KernelUser) {
        debug_assert!(self.owner.is_none(), "the kernel and a user at once");
        self.users.push((device, user));
    }

    pub(crate) fn remove_user(&mut self, device: DeviceKey) -> Result<KernelUser, UnuseError> {
        let at = self.users.iter().rposition(|&(key, _)| key == device).ok_or(UnuseError::NotUsed)?;
        Ok(self.users.remove(at).1)
    }

    pub(crate) fn may_claim_whole(&self) -> Result<(), ClaimError> {
        match self.owner {
            Some(owner) => Err(ClaimError::Owned(owner)),
            None => self.no_kernel_users(),
        }
    }

    pub(crate) fn may_claim_device(&self, owner: Owner) -> Result<Claiming, ClaimError> {
        match self.owner {
            Some(now) if now == owner => Ok(Claiming::More),
            Some(other) => Err(ClaimError::Owned(other)),
            None => self.no_kernel_users().map(|()| Claiming::First),
        }
    }

    fn no_kernel_users(&self) -> Result<(), ClaimError> {
        if self.users.is_empty() || mutant!("claim-over-the-heads-of-drivers") {
            Ok(())
        } else {
            Err(ClaimError::KernelUses(self.users().cloned().collect()))
        }
    }

    /// The caller has seen that it [may](Self::may_claim_whole).
    pub(crate) fn claim_whole(&mut self, owner: Owner) {
        debug_assert!(self.count() == 0, "a whole group is claimed by who finds it nobody's");
        self.owner = Some(owner);
        self.whole = true;
    }

    /// The caller has seen that it [may](Self::may_claim_device).
    pub(crate) fn claim_device(&mut self, device: DeviceKey, owner: Owner) {
        debug_assert!(self.users.is_empty() && self.owner.is_none_or(|now| now == owner), "one owner");
        self.owner = Some(owner);
        if mutant!("two-claims-of-a-device-count-once") {
            self.claims.retain(|&key| key != device);
        }
        self.claims.push(device);
    }

    /// Answers how often the group is held still.
    pub(crate) fn release_whole(&mut self, owner: Owner) -> Result<usize, ReleaseError> {
        self.is_owner(owner)?;
        match (self.whole, self.claims.len()) {
            (false, _) => Err(ReleaseError::NotClaimed),
            (true, 0) => {
                self.whole = false;
                Ok(self.forget_owner())
            }
            (true, claims) => Err(ReleaseError::DevicesClaimed(claims)),
        }
    }

    /// Answers how often the group is held still.
    pub(crate) fn release_device(&mut self, device: DeviceKey, owner: Owner) -> Result<usize, ReleaseError> {
        self.is_owner(owner)?;
        let at = self.claims.iter().rposition(|&key| key == device).ok_or(ReleaseError::NotClaimed)?;
        self.claims.swap_remove(at);
        Ok(self.forget_owner())
    }

    fn is_owner(&self, owner: Owner) -> Result<(), ReleaseError> {
        match self.owner {
            None => Err(ReleaseError::NotClaimed),
            Some(now) if now == owner => Ok(()),
            Some(other) => Err(ReleaseError::NotOwner(other)),
        }
    }

    fn forget_owner(&mut self) -> usize {
        let count = self.count();
        if count == 0 {
            self.owner = None;
        }
        count
    }
}
