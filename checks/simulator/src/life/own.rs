//! Who has a group: drivers that are bound, users who claim, domains that groups are attached to, default domains that change.

use core::fmt::Debug;
use core::sync::atomic::Ordering::Relaxed;
use std::sync::Arc;

use portcullis::core::domain::FlushMode;
use portcullis::core::group::{DefaultDomain, DefaultType, Group, GroupError, Left};
use portcullis::core::owner::{ClaimError, Owner, ReleaseError, Released, UseError};

use super::Done;
use super::world::{GroupState, Slot, World};
use crate::hub::locked;
use crate::machine::SimPlatform;
use crate::oracle::{Way, Who};
use crate::promise::Promise;

/// The user of a number, from 1.
fn owner(who: Who) -> Owner {
    Owner::new(who * 0x1000).expect("users count from 1")
}

/// What moved nobody is told like this; what did says who is where.
pub(super) enum Moved<'a> {
    /// All are where they were to go.
    There,
    /// All are where they were.
    Back,
    /// Why not, which may say that some are elsewhere.
    Perhaps(&'a GroupError),
}

impl World {
    /// All members of a group are about to go somewhere. Answers where they are. One that came while they were elsewhere has what firmware works in mapped only now.
    pub(super) fn begin_move(&self, group: &GroupState, to: Way) -> Vec<(usize, Way)> {
        let members = self.members(group);
        let default = locked(&group.inner).space;
        if to == Way::Space(default) {
            members.iter().for_each(|&(member, _)| self.firmware_mapped(member, default));
        }
        self.hub.shadow(|shadow| members.iter().for_each(|&(member, _)| shadow.begin_move(member, to)));
        self.hub.watch(true);
        members
    }

    /// They have gone, or not.
    pub(super) fn end_move(&self, members: &[(usize, Way)], to: Way, moved: &Moved<'_>) {
        self.hub.watch(false);
        for &(member, was) in members {
            let at = match moved {
                Moved::There => to,
                Moved::Back => was,
                Moved::Perhaps(error) => where_left(error, member, was, to),
            };
            self.hub.shadow(|shadow| shadow.end_move(member, at));
        }
    }

    /// A driver is bound.
    pub(super) fn bind_driver(&self, device: u8) -> Done {
        let index = self.device_index(device);
        let state = &self.devices[index];
        let Some(device) = self.device(index).filter(|_| !state.bound.load(Relaxed)) else {
            return Done::Skipped;
        };
        let group = self.group_of(index);
        let space = locked(&group.inner).space;
        // Who was left blocked is taken to where the group is.
        let to = match self.current(group, space) {
            Way::Blocked => Way::Space(space),
            at => at,
        };
        let before = self.before(None);
        let members = self.begin_move(group, to);
        let end = group.group.use_default_domain(&device, "driver");
        let moved = match &end {
            Ok(()) => Moved::There,
            Err(UseError::Stuck(error)) => Moved::Perhaps(error),
            Err(_) => Moved::Back,
        };
        self.end_move(&members, to, &moved);
        match end {
            Ok(()) => {
                device.set_dma_mask(self.mask(index));
                device.set_coherent_mask(self.mask(index));
                state.bound.store(true, Relaxed);
                let used = locked(&group.inner).ledger.used(index);
                self.hub.judged(used);
                Done::Succeeded
            }
            Err(error) => {
                let held = locked(&group.inner).ledger.clone();
                self.expect(
                    Promise::OneOwner,
                    &error,
                    matches!(error, UseError::Owned(_)) == held.owner.is_some(),
                );
                self.excuse(&before, &error);
                self.unwound(&before, false, &error);
                Done::Refused
            }
        }
    }

    fn expect(&self, promise: Promise, what: &dyn Debug, fits: bool) {
        self.hub.hold(promise, fits, || format!("{what:?} does not fit what was claimed before"));
    }

    /// A driver is unbound: it takes back what it gave, and then lets the DMA API go.
    pub(super) fn unbind_driver(&self, device: u8) -> Done {
        let index = self.device_index(device);
        let state = &self.devices[index];
        let Some(device) = self.device(index).filter(|_| state.bound.load(Relaxed)) else {
            return Done::Skipped;
        };
        let mine: Vec<u8> = self.slots_of(index);
        if self.a_slot_is_busy() {
            return Done::Skipped;
        }
        for slot in mine {
            self.unmap(slot);
            self.free_coherent(slot);
        }
        if !self.slots_of(index).is_empty() {
            // Something could not be unmapped: its driver stays.
            return Done::Refused;
        }
        let group = self.group_of(index);
        state.bound.store(false, Relaxed);
        let given = group.group.unuse_default_domain(&device);
        let fits = locked(&group.inner).ledger.unused(index);
        self.hub.judged(fits);
        self.hub.hold(Promise::OneOwner, given.is_ok(), || format!("a driver cannot be unbound: {given:?}"));
        Done::Succeeded
    }

    /// The slots that a device's driver has.
    pub(super) fn slots_of(&self, index: usize) -> Vec<u8> {
        let slots = locked(&self.slots);
        let mine = (0u8..).zip(slots.iter()).filter(|(_, slot)| match slot {
            Slot::Single { device, .. } | Slot::List { device, .. } | Slot::Shared { device, .. } => {
                *device == index
            }
            Slot::Empty | Slot::Busy => false,
        });
        mine.map(|(slot, _)| slot).collect()
    }

    fn a_slot_is_busy(&self) -> bool {
        locked(&self.slots).iter().any(|slot| matches!(slot, Slot::Busy))
    }

    /// A user claims.
    pub(super) fn claim(&self, device: u8, user: u8, whole: bool) -> Done {
        let (index, who) = (self.device_index(device), usize::from(user) + 1);
        let Some(device) = self.device(index) else { return Done::Skipped };
        let group = self.group_of(index);
        let before = self.before(None);
        let held = locked(&group.inner).ledger.clone();
        let members = self.begin_move(group, Way::Blocked);
        let end = if whole {
            group.group.claim_group(owner(who))
        } else {
            group.group.claim_device(&device, owner(who))
        };
        let moved = match &end {
            // One more claim by who has it moves nobody.
            Ok(()) if held.owner.is_some() => Moved::Back,
            Ok(()) => Moved::There,
            Err(ClaimError::Attach(error)) => Moved::Perhaps(error),
            Err(_) => Moved::Back,
        };
        self.end_move(&members, Way::Blocked, &moved);
        match end {
            Ok(()) => {
                let claimed = locked(&group.inner).ledger.claimed((!whole).then_some(index), who);
                self.hub.judged(claimed);
                self.no_firmware(group, index);
                Done::Succeeded
            }
            Err(error) => {
                let fits = match &error {
                    ClaimError::Owned(_) => held.owner.is_some(),
                    ClaimError::KernelUses(users) => users.len() == held.kernel.len() && !users.is_empty(),
                    _ => true,
                };
                self.expect(Promise::OneOwner, &error, fits);
                self.excuse(&before, &error);
                self.unwound(&before, false, &error);
                Done::Refused
            }
        }
    }

    /// No user has a device that firmware works with.
    fn no_firmware(&self, group: &GroupState, index: usize) {
        let firmwares = self.members(group).into_iter().find(|&(member, _)| {
            let spec = &self.devices[member].spec;
            spec.direct.is_some() && !spec.relaxable
        });
        self.hub.hold(Promise::Reserved, firmwares.is_none(), || {
            format!("a user was given device {index}, and firmware works with {firmwares:?}")
        });
    }

    /// A user gives back.
    pub(super) fn release(&self, device: u8, user: u8, whole: bool) -> Done {
        let (index, who) = (self.device_index(device), usize::from(user) + 1);
        let group = self.group_of(index);
        match self.device(index) {
            _ if whole => self.release_whole(group, who),
            Some(device) => {
                self.release_by(group, who, Some(index), |group| group.release_device(&device, owner(who)))
            }
            None => Done::Skipped,
        }
    }

    /// A user gives a whole group back, whichever of its devices are there.
    fn release_whole(&self, group: &GroupState, who: Who) -> Done {
        self.release_by(group, who, None, |group| group.release_group(owner(who)))
    }

    fn release_by(
        &self,
        group: &GroupState,
        who: Who,
        device: Option<usize>,
        give: impl FnOnce(&Group<SimPlatform>) -> Result<Released, ReleaseError>,
    ) -> Done {
        let before = self.before(None);
        let (held, space) = {
            let inner = locked(&group.inner);
            (inner.ledger.clone(), inner.space)
        };
        let to = Way::Space(space);
        let last = held.count() == 1 && held.owner == Some(who);
        let members = if last { self.begin_move(group, to) } else { self.members(group) };
        let end = give(&group.group);
        let moved = match &end {
            Ok(Released::Free) => Moved::There,
            _ => Moved::Back,
        };
        self.end_move(&members, to, &moved);
        match end {
            Ok(released) => {
                let free = locked(&group.inner).ledger.released(device, who);
                let fits = free.as_ref().map_or(true, |free| *free != matches!(released, Released::Held(_)));
                self.hub.judged(free.map(drop));
                self.expect(Promise::OneOwner, &released, fits);
                if let Released::Blocked(stuck) = &released {
                    self.excuse(&before, stuck);
                    for &(member, was) in &members {
                        let open = stuck.open.contains(&format!("device{member}"));
                        let at = if open { was } else { Way::Blocked };
                        self.hub.shadow(|shadow| {
                            shadow.begin_move(member, to);
                            shadow.end_move(member, at);
                        });
                    }
                }
                Done::Succeeded
            }
            Err(error) => {
                self.excuse(&before, &error);
                Done::Refused
            }
        }
    }

    /// A group is attached to a domain; user 0 is nobody.
    pub(super) fn attach(&self, device: u8, domain: u8, user: u8) -> Done {
        let index = self.device_index(device);
        if self.device(index).is_none() {
            return Done::Skipped;
        }
        let Some(domain) = self.user_domain(domain) else { return Done::Skipped };
        if locked(&domain.inner).busy {
            return Done::Skipped;
        }
        let group = self.group_of(index);
        let held = locked(&group.inner).ledger.clone();
        let before = self.before(None);
        let to = Way::Space(domain.space);
        let members = self.begin_move(group, to);
        let end = match usize::from(user) {
            0 => group.group.attach(&domain.domain),
            who => group.group.attach_as(owner(who), &domain.domain),
        };
        let moved = end.as_ref().map_or_else(Moved::Perhaps, |()| Moved::There);
        self.end_move(&members, to, &moved);
        match end {
            Ok(()) => {
                let by = usize::from(user);
                let fits = held.owner == (by > 0).then_some(by);
                self.hub.hold(Promise::OneOwner, fits, || {
                    format!("user {by} attached what is {:?}'s", held.owner)
                });
                let alone = by > 0 || members.len() == 1 || held.kernel.is_empty();
                self.hub.hold(Promise::OneOwner, alone, || {
                    format!(
                        "{members:?} were attached elsewhere, and the kernel's drivers of {:?} use them",
                        held.kernel
                    )
                });
                self.hub.hold(Promise::Isolation, domain.unit == group.unit, || {
                    "a domain of another IOMMU was attached".to_owned()
                });
                members.iter().for_each(|&(member, _)| self.nothing_reserved(member, domain.space));
                Done::Succeeded
            }
            Err(error) => {
                self.excuse(&before, &error);
                self.unwound(&before, false, &error);
                Done::Refused
            }
        }
    }

    /// Nothing is mapped where a device that is attached must find nothing, but what firmware works in.
    pub(super) fn nothing_reserved(&self, device: usize, space: usize) {
        let spec = &self.devices[device].spec;
        let page = self.firmware_page(spec).filter(|_| !spec.relaxable);
        let regions = spec.reserved.into_iter().chain(page.map(|page| (page, page + self.granule() - 1)));
        for (first, last) in regions {
            let mut there = self.hub.shadow(|shadow| shadow.live_in(space, first, last));
            there.retain(|grant| grant.owed_read || grant.owed_write);
            self.hub.hold(Promise::Reserved, there.is_empty(), || {
                format!("device {device} was attached where its reserved {first:#x}..={last:#x} is mapped: {there:x?}")
            });
        }
    }

    /// A group is taken back.
    pub(super) fn detach(&self, device: u8, user: u8) -> Done {
        let index = self.device_index(device);
        if self.device(index).is_none() {
            return Done::Skipped;
        }
        let group = self.group_of(index);
        let before = self.before(None);
        let (held, space) = {
            let inner = locked(&group.inner);
            (inner.ledger.clone(), inner.space)
        };
        let who = usize::from(user);
        let to = if who == 0 { Way::Space(space) } else { Way::Blocked };
        let members = self.begin_move(group, to);
        let end = if who == 0 { group.group.detach() } else { group.group.detach_as(owner(who)) };
        let moved = end.as_ref().map_or_else(Moved::Perhaps, |()| Moved::There);
        self.end_move(&members, to, &moved);
        match end {
            Ok(()) => {
                let fits = held.owner == (who > 0).then_some(who);
                self.hub.hold(Promise::OneOwner, fits, || {
                    format!("user {who} detached what is {:?}'s", held.owner)
                });
                if who == 0 {
                    members.iter().for_each(|&(member, _)| self.nothing_reserved(member, space));
                }
                Done::Succeeded
            }
            Err(error) => {
                self.excuse(&before, &error);
                Done::Refused
            }
        }
    }

    /// A group gets another default domain.
    pub(super) fn set_type(&self, device: u8, lazy: bool) -> Done {
        let index = self.device_index(device);
        let group = self.group_of(index);
        let mode = if lazy { FlushMode::Lazy } else { FlushMode::Strict };
        let (old, was_lazy, held) = {
            let inner = locked(&group.inner);
            (inner.space, inner.lazy, inner.ledger.count())
        };
        if was_lazy == lazy {
            return Done::Skipped;
        }
        let before = self.before(None);
        let domain = group.group.default_domain();
        let space = self.hub.shadow(|shadow| shadow.add_space());
        let to = Way::Space(space);
        let members = self.begin_move(group, to);
        members.iter().for_each(|&(member, _)| self.firmware_mapped(member, space));
        let end = group.group.set_default_type(DefaultType::This(DefaultDomain::Dma(mode)));
        let same = Arc::ptr_eq(&domain, &group.group.default_domain());
        let moved = match &end {
            Ok(()) if !same => Moved::There,
            Err(portcullis::core::group::DefaultTypeError::Attach(error)) => Moved::Perhaps(error),
            _ => Moved::Back,
        };
        self.end_move(&members, to, &moved);
        let gone = if end.is_ok() && !same { old } else { space };
        match end {
            Ok(()) => {
                let mut inner = locked(&group.inner);
                inner.lazy = lazy;
                if !same {
                    self.hub.hold(Promise::OneOwner, held == 0, || {
                        "a domain changed under its drivers".to_owned()
                    });
                    (inner.space, inner.doorbells) = (space, Vec::new());
                    // Its counts begin anew.
                    inner.failed = (0, 0);
                }
                drop(inner);
                drop(domain);
                self.drop_space(gone);
                Done::Succeeded
            }
            Err(error) => {
                self.drop_space(gone);
                self.excuse(&before, &error);
                self.unwound(&before, false, &error);
                Done::Refused
            }
        }
    }

    /// A space is nobody's any more. Whoever is in it all the same keeps it.
    pub(super) fn drop_space(&self, space: usize) {
        let inside = (0..self.devices.len())
            .any(|device| self.hub.shadow(|shadow| shadow.way(device)) == Way::Space(space));
        self.quarantine_ends(space);
        if !inside {
            self.hub.shadow(|shadow| shadow.remove_space(space));
        }
    }

    /// A domain is gone, and with it whatever might have reached memory through it.
    fn quarantine_ends(&self, space: usize) {
        let mut quarantine = locked(&self.quarantine);
        let mut pool = locked(&self.pool);
        quarantine.retain(|one| {
            if one.space == space {
                one.pages.iter().for_each(|&(first, count)| pool.give(first, count));
            }
            one.space != space
        });
    }

    /// A user dies: whatever he has is taken from him.
    pub(super) fn die(&self, user: u8) -> Done {
        let who = usize::from(user) + 1;
        let mut done = Done::Skipped;
        for group in &self.groups {
            loop {
                let held = locked(&group.inner).ledger.clone();
                if held.owner != Some(who) {
                    break;
                }
                if done == Done::Skipped {
                    self.hub.faults.happened(crate::fault::FaultKind::UserDies);
                }
                let claim = held.claims.first().copied();
                done = match claim.and_then(|device| u8::try_from(device).ok()) {
                    Some(device) => self.release(device, user, false),
                    None => self.release_whole(group, who),
                };
                if done != Done::Succeeded {
                    if self.sharing.is_some() {
                        // Bonds of its devices mean something still: who has them gives them back first.
                        return done;
                    }
                    self.hub.hold(Promise::OneOwner, self.hub.has_flipped(), || {
                        format!("a dead user's claim is not taken back: {held:?}")
                    });
                    return done;
                }
            }
        }
        done
    }
}

/// Where a member is after an attach that failed.
fn where_left(error: &GroupError, member: usize, was: Way, to: Way) -> Way {
    let GroupError::Stranded { left, .. } = error else { return was };
    let name = format!("device{member}");
    match left.iter().find(|(device, _)| *device == name) {
        Some((_, Left::Blocked)) => Way::Blocked,
        Some((_, Left::Attached)) => to,
        None => was,
    }
}
