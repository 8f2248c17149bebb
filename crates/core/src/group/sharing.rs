//! A device that shares processes' memory has its group for itself.
//!
//! Devices of one group are those that the IOMMU, or what is below it, cannot keep apart. A neighbour's access may be taken for the device's own, and then it reaches
//! a process; or the device's may be turned around to the neighbour, where a process's address is taken for the bus's.
//!
//! Observed: Linux 5.7 with the SVA series, `iommu_sva_bind_device`: no group of several devices. Choice: nor does one become that afterwards. And the group is the one in which
//! it was enabled, which knows of its PASIDs and keeps users away for their sake: a device that leaves it joins no other before it is disabled.
//!
//! Not here: which devices belong together (`portcullis-pci`), sharing itself (`sva`).

use alloc::sync::Arc;
use core::sync::atomic::Ordering::Relaxed;

use portcullis_hal::Platform;

use super::attach::alone;
use super::{Group, GroupError, State};
use crate::device::Device;

impl<P: Platform> Group<P> {
    /// Notes that a member, the only one, is about to be enabled to share: before hardware is told. As many [`end_sharing`] take it back.
    pub(crate) fn begin_sharing(&self, device: &Arc<Device<P>>) -> Result<(), GroupError> {
        let state = self.lock();
        alone(&state, device)?;
        device.shares_in.store(self.address(), Relaxed);
        device.shares.fetch_add(1, Relaxed);
        Ok(())
    }

    /// That a device which is to join does not share for another group.
    pub(super) fn is_where_it_shares(&self, device: &Device<P>) -> Result<(), GroupError> {
        let is_elsewhere = device.shares_in.load(Relaxed) != self.address();
        if device.shares.load(Relaxed) > 0 && is_elsewhere {
            return Err(GroupError::Sharing(device.name().into()));
        }
        Ok(())
    }

    /// Who it is, for as long as a device shares: that keeps it.
    fn address(&self) -> usize {
        core::ptr::from_ref(self).addr()
    }
}

/// Notes that a device is not enabled after all, or no more: after hardware was told.
pub(crate) fn end_sharing<P: Platform>(device: &Device<P>) {
    let before = device.shares.fetch_sub(1, Relaxed);
    debug_assert!(before > 0, "it was noted");
}

/// That nobody shares who would not be alone any more with `device` in the group.
pub(super) fn leaves_room<P: Platform>(state: &State<P>, device: &Arc<Device<P>>) -> Result<(), GroupError> {
    let mut together = state.members.iter().chain([device]);
    let sharer = together.find(|one| one.shares.load(Relaxed) > 0);
    match sharer.filter(|_| !state.members.is_empty()) {
        Some(sharer) => Err(GroupError::Sharing(sharer.name().into())),
        None => Ok(()),
    }
}
