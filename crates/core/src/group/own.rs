//! Who holds a group: counting drivers, handing it to a user, taking it back.

use alloc::sync::Arc;
use alloc::vec::Vec;

use portcullis_hal::Platform;
use portcullis_types::mutant;
use portcullis_types::trace::Value;

use super::moving::is_in;
use super::{Group, State, direct_region, key};
use crate::device::Device;
use crate::iommu::ReservedRegion;
use crate::owner::{
    ClaimError, Claiming, KernelUser, Owner, Ownership, ReleaseError, Released, Stuck, UnuseError, UseError,
};
use crate::trace;

impl<P: Platform> Group<P> {
    /// Who holds the group.
    pub fn ownership(&self) -> Ownership {
        let State { ledger, .. } = &*self.lock();
        Ownership {
            count: ledger.count(),
            owner: ledger.owner(),
            kernel_users: ledger.users().cloned().collect(),
        }
    }

    /// For the bus, before an ordinary driver is probed: from now on `driver` uses the DMA API for `device`, and no user gets the group.
    ///
    /// If hardware left devices outside the domain that the group is in, they are taken there first.
    ///
    /// # Errors
    ///
    /// As [`UseError`] says; then nothing is counted.
    pub fn use_default_domain(&self, device: &Arc<Device<P>>, driver: &str) -> Result<(), UseError> {
        let user = KernelUser { device: device.name().into(), driver: driver.into() };
        let mut state = self.lock();
        let done = self.may_use(&mut state, device);
        if done.is_ok() {
            state.ledger.add_user(key(device), user);
        }
        self.say_own(&state, "dma_use", device.name(), &[("driver", Value::Str(driver))], result(&done));
        done
    }

    fn may_use(&self, state: &mut State<P>, device: &Arc<Device<P>>) -> Result<(), UseError> {
        if !state.is_member(device) {
            return Err(UseError::NotMember);
        }
        if state.kind.is_none() {
            return Err(UseError::NoDefaultDomain);
        }
        if let Some(owner) = state.ledger.owner().filter(|_| !mutant!("driver-bound-in-a-users-group")) {
            return Err(UseError::Owned(owner));
        }
        if state.ledger.count() > 0 {
            if !state.at_rest() {
                return Err(UseError::OtherDomain);
            }
            if !state.pasids.is_empty() {
                return Err(UseError::PasidsInUse);
            }
        }
        self.come_to_rest(state)
    }

    /// Takes to the default domain whom hardware left elsewhere; or, if the group is in another domain by somebody's wish, to that.
    fn come_to_rest(&self, state: &mut State<P>) -> Result<(), UseError> {
        let rest = if state.at_rest() { state.default.clone() } else { state.current.clone() };
        if state.members.iter().all(|device| is_in(device, &rest)) {
            return Ok(());
        }
        self.move_all(state, &rest).map_err(UseError::Stuck)?;
        state.stuck = false;
        Ok(())
    }

    /// For the bus, after the driver of `device` is gone or was not bound after all: takes [`use_default_domain`](Self::use_default_domain)
    /// back.
    ///
    /// # Errors
    ///
    /// As [`UnuseError`] says; then the count is as it was.
    pub fn unuse_default_domain(&self, device: &Arc<Device<P>>) -> Result<(), UnuseError> {
        let mut state = self.lock();
        let user = state.ledger.remove_user(key(device))?;
        self.say_own(&state, "dma_unuse", device.name(), &[("driver", Value::Str(&user.driver))], "ok");
        Ok(())
    }

    /// Hands the group to a user: all its devices are blocked, and stay so until he attaches a domain of his own with
    /// [`attach_as`](Self::attach_as).
    ///
    /// # Errors
    ///
    /// As [`ClaimError`] says; then nobody holds more than before.
    pub fn claim_group(&self, owner: Owner) -> Result<(), ClaimError> {
        let mut state = self.lock();
        let done = state.ledger.may_claim_whole().and_then(|()| self.close(&mut state));
        if done.is_ok() {
            state.ledger.claim_whole(owner);
        }
        self.say_claim(&state, "", owner, &done);
        done
    }

    /// Hands the group to a user for the sake of one device; or counts one more claim, if it is his already. Everything else is as for
    /// [`claim_group`](Self::claim_group).
    ///
    /// # Errors
    ///
    /// As [`ClaimError`] says; then nobody holds more than before.
    pub fn claim_device(&self, device: &Arc<Device<P>>, owner: Owner) -> Result<(), ClaimError> {
        let mut state = self.lock();
        let done = self.may_claim_device(&mut state, device, owner);
        if done.is_ok() {
            state.ledger.claim_device(key(device), owner);
        }
        self.say_claim(&state, device.name(), owner, &done);
        done
    }

    fn may_claim_device(
        &self,
        state: &mut State<P>,
        device: &Arc<Device<P>>,
        owner: Owner,
    ) -> Result<(), ClaimError> {
        if !state.is_member(device) {
            return Err(ClaimError::NotMember);
        }
        match state.ledger.may_claim_device(owner)? {
            Claiming::First => self.close(state),
            Claiming::More => Ok(()),
        }
    }

    /// Blocks a group that nobody holds.
    fn close(&self, state: &mut State<P>) -> Result<(), ClaimError> {
        if !state.at_rest() {
            return Err(ClaimError::OtherDomain);
        }
        if !state.pasids.is_empty() {
            return Err(ClaimError::PasidsInUse);
        }
        // Asked here too, because a device may be blocked already and need not be moved.
        let firmwares = state.members.iter().find_map(|device| Some((device, direct_region(device)?)));
        if let Some((device, ReservedRegion { range, source, .. })) = firmwares {
            return Err(ClaimError::Direct { device: device.name().into(), range, source });
        }
        if !mutant!("claimed-group-is-not-blocked") {
            self.move_all(state, &self.blocked).map_err(ClaimError::Attach)?;
        }
        state.stuck = false;
        Ok(())
    }

    /// Takes a group back that `owner` has claimed as a whole, to its default domain.
    ///
    /// Choice: while he has claimed devices of it as well, the whole is not released, because their count would be lost.
    ///
    /// # Errors
    ///
    /// As [`ReleaseError`] says; then the count is as it was.
    pub fn release_group(&self, owner: Owner) -> Result<Released, ReleaseError> {
        let mut state = self.lock();
        no_pasids(&state, owner)?;
        let count = state.ledger.release_whole(owner)?;
        Ok(self.released(&mut state, "", owner, count))
    }

    /// Takes one claim of a device back; with the last one, the group to its default domain.
    ///
    /// # Errors
    ///
    /// As [`ReleaseError`] says; then the count is as it was.
    pub fn release_device(&self, device: &Arc<Device<P>>, owner: Owner) -> Result<Released, ReleaseError> {
        let mut state = self.lock();
        no_pasids(&state, owner)?;
        let count = state.ledger.release_device(key(device), owner)?;
        Ok(self.released(&mut state, device.name(), owner, count))
    }

    fn released(&self, state: &mut State<P>, device: &str, owner: Owner, count: usize) -> Released {
        let released = if count > 0 { Released::Held(count) } else { self.open(state) };
        let result = match released {
            Released::Held(_) | Released::Free => "ok",
            Released::Blocked(_) => "blocked",
        };
        self.say_own(state, "release", device, &[("owner", hex(owner))], result);
        released
    }

    /// Takes a group that nobody holds any more to its default domain, or blocks it.
    fn open(&self, state: &mut State<P>) -> Released {
        let default = state.default.clone();
        if mutant!("released-group-keeps-the-users-domain") {
            return Released::Free;
        }
        match self.move_all(state, &default) {
            Ok(()) => Released::Free,
            Err(error) => {
                let open: Vec<_> = self.block_all(state);
                state.stuck = true;
                Released::Blocked(Stuck { error, open })
            }
        }
    }

    fn say_claim(&self, state: &State<P>, device: &str, owner: Owner, done: &Result<(), ClaimError>) {
        let owned = ("owner", hex(owner));
        match done {
            Err(ClaimError::KernelUses(users)) => {
                for KernelUser { device: by, driver } in users {
                    let particulars = [owned, ("by", Value::Str(by)), ("driver", Value::Str(driver))];
                    self.say_own(state, "claim", device, &particulars, "refused");
                }
            }
            Err(ClaimError::Direct { device, range, source }) => {
                let ends = (Value::Addr(range.first().get()), Value::Addr(range.last().get()));
                let particulars =
                    [("first", ends.0), ("last", ends.1), ("table", Value::Str(source.table()))];
                self.say_own(state, "claim", device, &particulars, "refused");
            }
            _ => self.say_own(state, "claim", device, &[owned], result(done)),
        }
    }

    fn say_own(
        &self,
        state: &State<P>,
        name: &'static str,
        device: &str,
        particulars: &[(&'static str, Value<'_>)],
        result: &'static str,
    ) {
        let mut fields = [("group", Value::Dec(self.id.into())); 6];
        let mut count = 1;
        let ends = [("count", Value::Dec(state.ledger.count() as u64)), ("result", Value::Str(result))];
        for &field in particulars.iter().chain(&ends) {
            fields[count] = field;
            count += 1;
        }
        trace::say(&*self.platform, name, device, &fields[..count]);
    }
}

/// That the last claim of `owner`'s leaves no PASID behind that means something of his.
fn no_pasids<P: Platform>(state: &State<P>, owner: Owner) -> Result<(), ReleaseError> {
    let last = state.ledger.owner() == Some(owner) && state.ledger.count() == 1;
    if last && !state.pasids.is_empty() && !mutant!("released-with-pasids-in-use") {
        Err(ReleaseError::PasidsInUse)
    } else {
        Ok(())
    }
}

fn result<T, E>(done: &Result<T, E>) -> &'static str {
    if done.is_ok() { "ok" } else { "refused" }
}

fn hex(owner: Owner) -> Value<'static> {
    Value::Hex(owner.identity() as u64)
}
