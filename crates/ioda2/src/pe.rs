//! One partitionable endpoint: who is in it, and whose it is.
//!
//! A PE has one pair of windows for all its request ids, and moves as a whole: its first member that is attached somewhere takes it there, the others
//! follow by saying the same. A member that is blocked while others are not is routed to the PE that has no windows. When all are
//! blocked, the PE is *taken*: it has no windows but what a user sets, and all its members that are in a group are routed to it again. Who is in none has
//! nothing of theirs: he is routed to nobody until his first attach, and from when he leaves.

use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

use portcullis_core::iommu::{AttachError, SyncError};
use portcullis_core::table_group::Slot;
use portcullis_hal::{Platform, Registers};
use portcullis_types::mutant;

use crate::bridge::Bridge;
use crate::domain::{Domain, NoMemory};
use crate::routes::{NOBODY, Routes};
use crate::setup::{Failing, Refused, Setup, Windows};
use crate::tve;

/// Where the platform has a PE.
pub(crate) enum Place<P: Platform, R: Registers + 'static> {
    /// Nowhere: it is blocked, or a user's.
    Blocked,
    Identity,
    Domain(Arc<Domain<P, R>>),
}

impl<P: Platform, R: Registers> Clone for Place<P, R> {
    fn clone(&self) -> Self {
        match self {
            Self::Blocked => Self::Blocked,
            Self::Identity => Self::Identity,
            Self::Domain(domain) => Self::Domain(domain.clone()),
        }
    }
}

impl<P: Platform, R: Registers> Place<P, R> {
    fn is(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Blocked, Self::Blocked) | (Self::Identity, Self::Identity) => true,
            (Self::Domain(one), Self::Domain(other)) => Arc::ptr_eq(one, other),
            _ => false,
        }
    }

    fn leave(&self) {
        if let Self::Domain(domain) = self {
            domain.detach();
        }
    }
}

/// A request id of a PE.
pub(crate) struct Member {
    pub(crate) rid: u16,
    /// Whose it is; none before the device is known.
    pub(crate) device: Option<String>,
    /// Whether its device is attached to nothing.
    pub(crate) blocked: bool,
    /// Whether its device is in a group: it has been attached, if only to nothing, and has not left since.
    joined: bool,
    /// Where the RTT has it.
    routed: u8,
    /// Whether the bridge has said that it has it there, too.
    confirmed: bool,
}

/// A PE.
pub(crate) struct Pe<P: Platform, R: Registers + 'static> {
    pub(crate) number: u8,
    pub(crate) members: Vec<Member>,
    /// The segments of M32 that hold its devices' registers.
    pub(crate) segments: Vec<u8>,
    /// How its devices are reset; none if nobody can without others.
    pub(crate) slot: Option<Arc<dyn Slot>>,
    /// Whether its devices were reset and that was not ended.
    pub(crate) in_reset: bool,
    pub(crate) windows: Windows<P, R>,
    pub(crate) place: Place<P, R>,
    /// Whether it was taken by [`Ownership`](portcullis_core::table_group::Ownership), and where the platform had it then.
    pub(crate) held: Option<Place<P, R>>,
    /// The kernel's domain in which it was last.
    pub(crate) last: Option<Arc<Domain<P, R>>>,
    /// The domain whose table a user has taken over whole.
    pub(crate) whole: Option<Arc<Domain<P, R>>>,
}

impl<P: Platform, R: Registers> Pe<P, R> {
    pub(crate) fn new(number: u8) -> Self {
        Self {
            number,
            members: Vec::new(),
            segments: Vec::new(),
            slot: None,
            in_reset: false,
            windows: Windows::new(number),
            place: Place::Blocked,
            held: None,
            last: None,
            whole: None,
        }
    }

    pub(crate) fn add(&mut self, rid: u16) {
        let (blocked, joined, routed, confirmed) = (true, false, NOBODY, true);
        self.members.push(Member { rid, device: None, blocked, joined, routed, confirmed });
    }

    /// The first window that a user has set.
    pub(crate) fn users_window(&self) -> Option<usize> {
        let users = matches!(self.place, Place::Blocked) && self.whole.is_none();
        self.windows.setup().tables.iter().position(Option::is_some).filter(|_| users)
    }

    /// Whether it is in a user's hands.
    pub(crate) fn in_use(&self) -> bool {
        self.held.is_some() || self.whole.is_some() || self.users_window().is_some()
    }

    /// Whether it has no members, and is in nobody's hands.
    pub(crate) fn is_left(&self) -> bool {
        self.members.is_empty() && !self.in_use()
    }

    /// Whether the PE is the platform's to open.
    pub(crate) fn is_taken(&self) -> bool {
        matches!(self.place, Place::Blocked)
    }

    /// Takes the PE to `place`.
    pub(crate) fn enter(&mut self, bridge: &Bridge<P, R>, place: Place<P, R>) -> Result<(), Refused> {
        let closes = matches!(place, Place::Blocked);
        let is_sure = !closes || self.windows.is_confirmed() || mutant!("closed-windows-not-asked-again");
        if is_sure && self.place.is(&place) {
            return Ok(());
        }
        let around = |end: Option<portcullis_types::Pa>| end.map_or(tve::DISABLED, tve::bypass);
        let bypass = around(bridge.config.bypass_end);
        let (next, failing) = match &place {
            // What a user has set stays: his container knows of nothing else. What he was told is not there is closed.
            Place::Blocked if self.is_taken() && !self.windows.is_closed() => {
                (self.windows.known(), Failing::Keep)
            }
            Place::Blocked => (Setup::CLOSED, Failing::Close),
            Place::Identity => {
                let untranslated = [around(bridge.config.identity_end), bypass];
                (Setup { untranslated, ..Setup::CLOSED }, Failing::Restore)
            }
            Place::Domain(domain) => {
                let table = domain.attach().map_err(|NoMemory| Refused::NoMemory)?;
                let bypass = if domain.kernel || mutant!("user-keeps-the-way-around") {
                    bypass
                } else {
                    tve::DISABLED
                };
                let setup = Setup { tables: [Some(table), None], untranslated: [tve::DISABLED, bypass] };
                (setup, Failing::Restore)
            }
        };
        match self.windows.switch(bridge, next, failing) {
            Ok(()) => {
                core::mem::replace(&mut self.place, place).leave();
                // Where an earlier try was not confirmed, its domain has the table still.
                self.last.iter().filter(|_| closes).for_each(|last| last.let_go());
                if let Place::Domain(domain) = &self.place {
                    self.last = Some(domain.clone()).filter(|domain| domain.kernel).or(self.last.take());
                }
                Ok(())
            }
            Err(refused) => {
                place.leave();
                if let Refused::Closed(_) = refused {
                    core::mem::replace(&mut self.place, Place::Blocked).leave();
                }
                Err(refused)
            }
        }
    }

    /// Routes each member to this PE or to nobody; `open` if the PE has, or is about to have, windows of the platform's.
    ///
    /// What is not confirmed is stored again as it was: the caller undoes what he wanted it for, and who has no part in that keeps his windows. No member
    /// that was with nobody is led anywhere by it.
    pub(crate) fn route(
        &mut self,
        bridge: &Bridge<P, R>,
        routes: &Routes,
        open: bool,
    ) -> Result<(), SyncError> {
        let number = self.number;
        let is_apart = |member: &Member| open && member.blocked && !mutant!("blocked-member-stays-in-its-pe");
        let wanted = |member: &Member| if is_apart(member) || !member.joined { NOBODY } else { number };
        if self.members.iter().all(|member| member.confirmed && member.routed == wanted(member)) {
            return Ok(());
        }
        let store = |member: &Member, pe| routes.set(&*bridge.platform, member.rid, pe);
        self.members.iter().for_each(|member| store(member, wanted(member)));
        bridge.forget_routes();
        if let Err(error) = bridge.confirm() {
            if !mutant!("refused-route-stays-stored") {
                self.members.iter().for_each(|member| store(member, member.routed));
            }
            bridge.forget_routes();
            self.members.iter_mut().for_each(|member| member.confirmed = false);
            return Err(error);
        }
        for member in &mut self.members {
            (member.routed, member.confirmed) = (wanted(member), true);
        }
        Ok(())
    }

    /// Blocks some of its members, the rest staying where it is; with the last, the PE is taken.
    pub(crate) fn block(
        &mut self,
        bridge: &Bridge<P, R>,
        routes: &Routes,
        rids: &[u16],
    ) -> Result<(), AttachError> {
        let before: Vec<bool> = self.members.iter().map(|member| member.blocked).collect();
        self.mark(rids, true);
        if self.members.iter().any(|member| !member.blocked) {
            let open = !self.is_taken();
            return self.route(bridge, routes, open).map_err(|error| {
                self.members.iter_mut().zip(before).for_each(|(member, blocked)| member.blocked = blocked);
                AttachError::Sync(error)
            });
        }
        // Whoever takes it from here says where it goes back to.
        if let Some(held) = &mut self.held {
            *held = Place::Blocked;
        }
        self.enter(bridge, Place::Blocked)?;
        self.route(bridge, routes, false).map_err(AttachError::LeftBlocked)
    }

    /// Takes all windows away, whosever they are.
    pub(crate) fn close(&mut self, bridge: &Bridge<P, R>) -> Result<(), Refused> {
        self.windows.switch(bridge, Setup::CLOSED, Failing::Close)?;
        // It was left when its table was taken over.
        if let Some(domain) = self.whole.take() {
            domain.give_back();
            domain.let_go();
        }
        Ok(())
    }

    /// Notes that the devices of some members are in a group from now on, or in none. Answers those for which that is news.
    pub(crate) fn note_joined(&mut self, rids: &[u16], joined: bool) -> Vec<u16> {
        let meant = self.members.iter_mut().filter(|member| rids.contains(&member.rid));
        let news = meant.filter(|member| member.joined != joined);
        let note = |member: &mut Member| {
            member.joined = joined;
            member.rid
        };
        news.map(note).collect()
    }

    /// Routes members whose device is gone to nobody.
    pub(crate) fn expel(
        &mut self,
        bridge: &Bridge<P, R>,
        routes: &Routes,
        rids: &[u16],
    ) -> Result<(), SyncError> {
        let gone = |member: &Member| rids.contains(&member.rid);
        self.note_joined(rids, false);
        self.members.iter().filter(|member| gone(member)).for_each(|member| {
            let pe = if mutant!("removed-device-keeps-its-route") { self.number } else { NOBODY };
            routes.set(&*bridge.platform, member.rid, pe);
        });
        bridge.forget_routes();
        let confirmed = bridge.confirm();
        for member in self.members.iter_mut().filter(|member| gone(member)) {
            (member.routed, member.confirmed) = (NOBODY, confirmed.is_ok());
        }
        confirmed
    }

    /// Takes the PE to `place` for the sake of some of its members.
    pub(crate) fn open(
        &mut self,
        bridge: &Bridge<P, R>,
        routes: &Routes,
        rids: &[u16],
        place: Place<P, R>,
    ) -> Result<(), AttachError> {
        if self.in_use() {
            return Err(AttachError::WindowsInUse);
        }
        // Those that stay blocked must not come along.
        self.route(bridge, routes, true).map_err(AttachError::Sync)?;
        if let Err(refused) = self.enter(bridge, place) {
            let open = !self.is_taken();
            // What this does not do leaves members with nobody: they are blocked.
            let _ = self.route(bridge, routes, open);
            return Err(refused.into());
        }
        self.mark(rids, false);
        self.route(bridge, routes, true).map_err(|error| {
            self.mark(rids, true);
            AttachError::LeftBlocked(error)
        })
    }

    /// Says again what the bridge has not confirmed: that all windows are closed, and who is routed where. What it does not confirm now either waits for the next time.
    pub(crate) fn say_again(&mut self, bridge: &Bridge<P, R>, routes: &Routes) {
        let asks = self.windows.is_closed() && !self.windows.is_confirmed();
        if asks && self.windows.switch(bridge, Setup::CLOSED, Failing::Close).is_ok() {
            self.last.iter().for_each(|last| last.let_go());
        }
        if self.members.iter().any(|member| !member.confirmed) {
            let open = !self.is_taken();
            let _ = self.route(bridge, routes, open);
        }
    }

    fn mark(&mut self, rids: &[u16], blocked: bool) {
        let meant = self.members.iter_mut().filter(|member| rids.contains(&member.rid));
        meant.for_each(|member| member.blocked = blocked);
    }
}
