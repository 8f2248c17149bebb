//! The end of a life with users: everybody dies, drivers leave, devices go, and then everything must be back.

use super::world::{Iron, Presence, UserWorld};
use super::{Done, OpKind};
use crate::fault::FaultKind;
use crate::hub::locked;
use crate::promise::Promise;

impl UserWorld {
    /// Everybody gives everything back; twice, if a fault is armed: once while it happens, and again when it is over.
    pub(super) fn end(&self, armed: Option<FaultKind>) {
        self.hub.faults.disarm_but(armed);
        // What the audit before has tried is not of the end.
        let _of_the_audit = self.lost_events();
        self.during(OpKind::Teardown, || {
            if armed.is_some() {
                self.give_back();
                self.hub.faults.disarm();
                self.hub.end();
                self.go_on();
            }
            self.give_back();
            self.go_on();
            self.give_back();
            Done::Succeeded
        });
        self.hub.end();
        self.look_after(OpKind::Teardown);
        if !self.hub.is_wrong() {
            self.nothing_stays();
            self.take_down();
            self.look_after(OpKind::Teardown);
        }
    }

    fn give_back(&self) {
        for user in 0..self.users.len() {
            self.die(user);
        }
        let _kept = self.reclaim();
        for device in 0..self.devices.len() {
            self.thaw(device);
            self.unbind_driver(device);
        }
    }

    /// Nothing is pinned, charged, kept or held any more.
    fn nothing_stays(&self) {
        let (pins, locked_pages, kept) = (self.book.pins(), self.locked(), self.vfio.reclaim());
        self.hub.hold(Promise::NoLeak, pins == 0 && locked_pages == 0 && kept == 0, || {
            format!("{pins} pages are pinned, {locked_pages} charged, {kept} kept, and everybody is dead")
        });
        for group in &self.groups {
            let ownership = group.group.ownership();
            self.hub.hold(Promise::OneOwner, ownership.count == 0, || {
                format!("group {} is still held: {ownership:?}", group.group.id())
            });
            let connected: usize =
                group.members.iter().map(|&member| self.devices[member].function().connected()).sum();
            self.hub.hold(Promise::NoLeak, connected == 0, || {
                format!("{connected} interrupts of group {} still go somewhere", group.group.id())
            });
        }
    }

    fn take_down(&self) {
        // A bridge that is being turned off is no more for devices.
        self.hub.dismantle();
        locked(&self.registered).clear();
        self.bus.advance_ns(20_000_000);
        for group in &self.groups {
            let _flushed = group.group.default_domain().poll();
        }
        for (group, device) in locked(&self.strays).drain(..) {
            let left = self.groups[group].group.remove_device(&device);
            let gone = self.units[self.groups[group].unit].remove_device(&device);
            self.hub.hold(Promise::NoLeak, left.is_ok() && gone.is_ok(), || {
                format!("{} does not leave: {left:?}, {gone:?}", device.name())
            });
        }
        for state in self.devices.iter().filter(|state| state.presence() != Presence::Gone) {
            let group = &self.groups[state.spec.group];
            let inside = state.presence() == Presence::In;
            let left = if inside { group.group.remove_device(&state.device()) } else { Ok(()) };
            let gone = self.units[group.unit].remove_device(&state.device());
            self.hub.hold(Promise::NoLeak, left.is_ok() && gone.is_ok(), || {
                format!("{} does not leave: {left:?}, {gone:?}", state.device().name())
            });
        }
        match &self.iron {
            Iron::Units(units) => units.iter().for_each(|(_, driver)| {
                let down = driver.teardown();
                self.hub.hold(Promise::NoLeak, down.is_ok(), || format!("teardown: {down:?}"));
            }),
            Iron::Power { driver, .. } => {
                let down = driver.teardown();
                self.hub.hold(Promise::NoLeak, down.is_ok(), || format!("teardown: {down:?}"));
            }
        }
        self.nothing_is_forbidden();
    }
}
