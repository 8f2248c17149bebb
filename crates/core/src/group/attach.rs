//! Taking a group, or the only device of one, to another domain.

use alloc::string::String;
use alloc::sync::Arc;

use portcullis_hal::Platform;

use super::{Group, GroupError, State};
use crate::device::Device;
use crate::domain::{Domain, DomainType};
use crate::iommu::AttachError;
use crate::owner::Owner;

/// For a group that is nobody's or the kernel's. Who holds a group as its user says who he is: [`attach_as`](Self::attach_as).
impl<P: Platform> Group<P> {
    /// Attaches all devices to `domain`, which is the current one from then on.
    ///
    /// # Errors
    ///
    /// As [`GroupError`] says.
    pub fn attach(&self, domain: &Arc<Domain<P>>) -> Result<(), GroupError> {
        self.attach_by(None, domain)
    }

    /// Attaches all devices to the default domain.
    ///
    /// # Errors
    ///
    /// As [`GroupError`] says.
    pub fn detach(&self) -> Result<(), GroupError> {
        self.detach_by(None)
    }

    /// For the user who holds the group: attaches all devices to an unmanaged or nested domain of his, or to the blocked one.
    ///
    /// # Errors
    ///
    /// As [`GroupError`] says.
    pub fn attach_as(&self, owner: Owner, domain: &Arc<Domain<P>>) -> Result<(), GroupError> {
        self.attach_by(Some(owner), domain)
    }

    /// For the user who holds the group: takes all devices from a domain of his straight to another. They are not blocked in between, except as the driver has to while
    /// it changes an entry; and if a device is refused, all are where they were.
    ///
    /// # Errors
    ///
    /// As [`GroupError`] says.
    pub fn replace_as(&self, owner: Owner, domain: &Arc<Domain<P>>) -> Result<(), GroupError> {
        self.attach_locked(&mut self.lock(), Some(owner), domain, true)
    }

    /// For the user who holds the group: blocks all devices.
    ///
    /// # Errors
    ///
    /// As [`GroupError`] says.
    pub fn detach_as(&self, owner: Owner) -> Result<(), GroupError> {
        self.detach_by(Some(owner))
    }

    /// Attaches a device that has its group for itself; `by` is the user who holds it, none for the device's own driver.
    ///
    /// # Errors
    ///
    /// As [`GroupError`] says.
    pub fn attach_device(
        &self,
        device: &Arc<Device<P>>,
        domain: &Arc<Domain<P>>,
        by: Option<Owner>,
    ) -> Result<(), GroupError> {
        let mut state = self.lock();
        alone(&state, device)?;
        self.attach_locked(&mut state, by, domain, false)
    }

    /// Takes a device that has its group for itself back: blocked while a user holds it, else to the default domain.
    ///
    /// # Errors
    ///
    /// As [`GroupError`] says.
    pub fn detach_device(&self, device: &Arc<Device<P>>, by: Option<Owner>) -> Result<(), GroupError> {
        let mut state = self.lock();
        alone(&state, device)?;
        self.detach_locked(&mut state, by)
    }

    fn attach_by(&self, by: Option<Owner>, domain: &Arc<Domain<P>>) -> Result<(), GroupError> {
        self.attach_locked(&mut self.lock(), by, domain, false)
    }

    fn detach_by(&self, by: Option<Owner>) -> Result<(), GroupError> {
        self.detach_locked(&mut self.lock(), by)
    }

    fn attach_locked(
        &self,
        state: &mut State<P>,
        by: Option<Owner>,
        domain: &Arc<Domain<P>>,
        replacing: bool,
    ) -> Result<(), GroupError> {
        is_holder(state, by)?;
        if !Arc::ptr_eq(domain.iommu(), &self.iommu) {
            let device = state.members.first().map_or(String::new(), |device| device.name().into());
            return Err(GroupError::Attach { device, error: AttachError::ForeignDomain });
        }
        let to_rest = Arc::ptr_eq(domain, &state.default);
        // Choice: the kernel's domains are not for users: in one, the user's devices would reach what the kernel has mapped for itself.
        let users =
            matches!(domain.domain_type(), DomainType::Unmanaged | DomainType::Nested | DomainType::Blocked);
        if by.is_some() && !users {
            return Err(GroupError::NotUsers);
        }
        // Choice: a driver that uses the DMA API may take its own device elsewhere, but not the devices of others with it.
        let several = state.members.len() > 1 && state.ledger.users().next().is_some();
        if by.is_none() && several && !to_rest {
            return Err(GroupError::KernelUses(state.ledger.users().cloned().collect()));
        }
        let leaving = state.at_rest() || Arc::ptr_eq(&state.current, &self.blocked);
        let staying = Arc::ptr_eq(&state.current, domain);
        if !(replacing || leaving || staying || to_rest || Arc::ptr_eq(domain, &self.blocked)) {
            return Err(GroupError::OtherDomain);
        }
        self.move_all(state, domain)?;
        state.stuck = false;
        Ok(())
    }

    fn detach_locked(&self, state: &mut State<P>, by: Option<Owner>) -> Result<(), GroupError> {
        is_holder(state, by)?;
        let rest = if by.is_some() { self.blocked.clone() } else { state.default.clone() };
        self.move_all(state, &rest)?;
        state.stuck = false;
        Ok(())
    }
}

/// That `by` holds the group; for none, that no user does.
pub(super) fn is_holder<P: Platform>(state: &State<P>, by: Option<Owner>) -> Result<(), GroupError> {
    let owner = state.ledger.owner();
    if owner == by { Ok(()) } else { Err(GroupError::NotOwner(owner)) }
}

/// That `device` is the only one.
pub(super) fn alone<P: Platform>(state: &State<P>, device: &Arc<Device<P>>) -> Result<(), GroupError> {
    match (state.is_member(device), state.members.len()) {
        (false, _) => Err(GroupError::NotMember),
        (true, 1) => Ok(()),
        (true, count) => Err(GroupError::Shared(count)),
    }
}
