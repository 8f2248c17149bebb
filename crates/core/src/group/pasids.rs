//! Which PASIDs of a group mean something: while one does, the group changes hands for nobody.

use portcullis_hal::Platform;
use portcullis_types::Pasid;

use super::Group;
use super::attach::is_holder;
use crate::owner::Owner;

/// Why a PASID is held, or is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PasidError {
    /// It is held already. EBUSY.
    Taken,
    /// It is not held. EINVAL.
    NotHeld,
    /// Who asks does not hold the group: this user does, or nobody where a user asks. EPERM.
    NotOwner(Option<Owner>),
}

impl<P: Platform> Group<P> {
    /// Notes that `pasid` of the group is going to mean something: before hardware is told. `by` is the user who holds the group, none for
    /// its drivers.
    ///
    /// # Errors
    ///
    /// As [`PasidError`] says; then nothing is noted.
    pub fn hold_pasid(&self, pasid: Pasid, by: Option<Owner>) -> Result<(), PasidError> {
        let mut state = self.lock();
        if is_holder(&state, by).is_err() {
            return Err(PasidError::NotOwner(state.ledger.owner()));
        }
        if state.pasids.insert(pasid) { Ok(()) } else { Err(PasidError::Taken) }
    }

    /// Notes that `pasid` means nothing any more: after hardware has forgotten it.
    ///
    /// # Errors
    ///
    /// [`PasidError::NotHeld`].
    pub fn drop_pasid(&self, pasid: Pasid) -> Result<(), PasidError> {
        if self.lock().pasids.remove(&pasid) { Ok(()) } else { Err(PasidError::NotHeld) }
    }
}
