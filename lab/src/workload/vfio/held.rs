//! What is tried while somebody has the group: all of it must be refused, and say who is in the way.

use std::sync::Arc;

use portcullis::core::bus::{BindError, ConfigureError, Driver, Place, dma_configure};
use portcullis::core::owner::{ClaimError, Owner, UseError};

use super::super::disk::{DRIVER, find};
use super::TRY_VERBOSE;
use crate::boot::{Bound, System};
use crate::error::RunError;
use crate::platform::LabPlatform;
use crate::vfio::UserKernel;

/// A user who claims groups by hand, as no process could.
fn somebody() -> Arc<u8> {
    Arc::new(0)
}

/// The kernel's driver is bound: a user is refused, and told the device and the driver. Answers how many tries were refused.
///
/// # Errors
///
/// [`RunError::Wrong`]: he was not.
pub(super) fn by_the_kernel(place: &Place<LabPlatform>, disk: &str) -> Result<u64, RunError> {
    let user = somebody();
    match place.group.claim_group(Owner::of(&user)) {
        Err(ClaimError::KernelUses(users))
            if users.iter().any(|user| user.device == disk && user.driver == DRIVER) =>
        {
            Ok(1)
        }
        other => Err(wrong(disk, format!("a user claims a group that the kernel uses: {other:?}"))),
    }
}

/// Groups with a device of which firmware keeps something mapped: a user is refused, and told the region. Answers how many tries were refused.
///
/// # Errors
///
/// [`RunError::Wrong`]: he was not.
pub(super) fn by_firmware(system: &System) -> Result<u64, RunError> {
    let user = somebody();
    let mut refused = 0;
    for group in &system.groups {
        let regions = group.reserved_regions();
        let mut direct = regions.iter().filter(|region| region.kind.is_direct() && region.kind.binds_users());
        let Some(region) = direct.next() else { continue };
        match group.claim_group(Owner::of(&user)) {
            Err(ClaimError::Direct { range, .. }) if region.range.covers(range) => refused += 1,
            other => {
                let what = format!("a user claims group {} with {}: {other:?}", group.id(), region.range);
                return Err(wrong("one-owner", what));
            }
        }
    }
    Ok(refused)
}

/// A user has the group: for each of its devices an ordinary driver is refused, by the group where nothing is bound and by its place on the
/// bus where something is; and so is another user. Answers how many tries were refused.
///
/// # Errors
///
/// [`RunError::Wrong`]: one was not.
pub(in crate::workload) fn by_a_user(system: &System, place: &Place<LabPlatform>) -> Result<u64, RunError> {
    let mut refused = 0;
    let owner = place.group.ownership().owner;
    for device in place.group.devices() {
        let (_, endpoint) = find(system, device.name())?;
        let member = Place { device: device.clone(), group: place.group.clone() };
        let ordinary = Driver::new(DRIVER);
        match dma_configure::<_, RunError>(Some(&member), Some(&ordinary), || Ok(())) {
            Err(ConfigureError::Use(UseError::Owned(by))) if Some(by) == owner => refused += 1,
            other => return Err(wrong(device.name(), format!("it is configured for {DRIVER}: {other:?}"))),
        }
        let bound = endpoint.driver_name();
        let tried = endpoint.binding.bind(
            ordinary,
            || Ok::<_, RunError>(()),
            |_| -> Result<Box<dyn Bound>, RunError> { Err(wrong(device.name(), "it was probed".into())) },
        );
        match (tried, bound) {
            (Err(BindError::Bound(other)), Some(driver)) if other == driver => refused += 1,
            (Err(BindError::Configure(ConfigureError::Use(UseError::Owned(_)))), None) => refused += 1,
            (other, _) => return Err(wrong(device.name(), format!("{DRIVER} is bound to it: {other:?}"))),
        }
    }
    let user = somebody();
    match place.group.claim_group(Owner::of(&user)) {
        Err(ClaimError::Owned(by)) if Some(by) == owner => Ok(refused + 1),
        other => Err(wrong("one-owner", format!("a second user claims the group: {other:?}"))),
    }
}

/// The group is back: nothing is pinned, charged or connected.
///
/// # Errors
///
/// [`RunError::Wrong`]: something is.
pub(super) fn nothing_kept(kernel: &UserKernel, disk: &str) -> Result<(), RunError> {
    let left = [
        ("pins", kernel.ledger().pinned()),
        ("pages charged", kernel.ledger().locked()),
        ("interrupts connected", kernel.user_interrupts().connected() as u64),
        ("pages that hardware may know", kernel.vfio().reclaim()),
    ];
    match left.into_iter().find(|&(_, count)| count > 0) {
        Some((what, count)) => Err(wrong(disk, format!("no-leak: {count} {what} after the user is gone"))),
        None => Ok(()),
    }
}

fn wrong(at: &str, what: String) -> RunError {
    RunError::wrong(at, what, TRY_VERBOSE)
}
