//! The end of a life: everybody gives everything back, and then everything must be back.

use core::sync::atomic::Ordering::Relaxed;
use std::sync::Arc;

use model_bus::Bus;

use super::world::{DOMAINS, USERS, World};
use super::{Done, OpKind};
use crate::fault::FaultKind;
use crate::hub::locked;
use crate::oracle::Wrong;
use crate::promise::Promise;

impl World {
    /// Everybody gives everything back; twice, if a fault is armed: once while it happens, and again when it is over.
    pub(super) fn end(&self, armed: Option<FaultKind>) {
        self.hub.faults.disarm_but(armed);
        // What the audit before has tried is not of the end, nor what was held back in it.
        let _of_the_audit = self.units_that_lost_events();
        self.go_on();
        self.ending.store(true, Relaxed);
        self.during(OpKind::Teardown, || {
            if armed.is_some() {
                self.give_back();
                self.hub.faults.disarm();
                self.hub.end();
                self.pass(64);
            }
            self.give_back();
            self.nothing_stays();
            Done::Succeeded
        });
        self.hub.end();
        self.look_after(OpKind::Teardown);
        if !self.hub.is_wrong() {
            self.take_down();
            self.look_after(OpKind::Teardown);
        }
    }

    fn give_back(&self) {
        self.end_sharing();
        self.end_irqs();
        for unit in 0..self.units.len() {
            self.serve(unit);
        }
        let devices = u8::try_from(self.devices.len()).expect("few devices");
        for device in 0..devices {
            self.flush(device);
        }
        for user in 0..u8::try_from(USERS).expect("few users") {
            self.die(user);
        }
        for device in 0..devices {
            self.unbind_driver(device);
            self.detach(device, 0);
            self.remove(device);
        }
        for domain in 0..u8::try_from(DOMAINS).expect("few domains") {
            self.drop_domain(domain);
        }
    }

    /// Whatever was left has gone by now.
    fn nothing_stays(&self) {
        // What cannot be unmapped stays, and with it whoever has it.
        let spoiled = self.hub.has_flipped();
        let units = &self.units;
        let stranded = core::mem::take(&mut *locked(&self.stranded));
        for device in stranded {
            let unit = units.iter().find(|unit| unit.unit.iommu().name() == device.iommu().name());
            let gone = unit.map(|unit| unit.unit.remove_device(&device));
            self.hub.hold(Promise::NoLeak, matches!(gone, Some(Ok(()))) || spoiled, || {
                format!("{} is not forgotten, though nothing is wrong any more: {gone:?}", device.name())
            });
        }
        let left: Vec<usize> =
            (0..self.devices.len()).filter(|&index| self.device(index).is_some()).collect();
        self.hub
            .hold(Promise::NoLeak, left.is_empty() || spoiled, || format!("devices {left:?} do not leave"));
    }

    /// Groups and SMMUs go, and then the heap must be empty.
    pub(super) fn take_down(&self) {
        let spoiled = self.hub.has_flipped();
        for group in &self.groups {
            let count = group.group.ownership().count;
            self.hub.hold(Promise::NoLeak, count == 0 || spoiled, || {
                format!("group {} is still held, {count} times", group.group.id())
            });
            // What hardware would not confirm before is tried again when it is due.
            self.bus.advance_ns(20_000_000);
            let _flushed = group.group.default_domain().poll();
            let stats = group.group.default_domain().dma_stats();
            self.hub.hold(Promise::NoLeak, stats.quarantined == 0, || {
                format!("addresses are kept back: {stats:?}")
            });
        }
        self.audit_addresses();
        for (index, (unit, spec)) in self.units.iter().zip(&self.spec.units).enumerate() {
            let keeps = spec.parts.keeps();
            let down = unit.driver.teardown();
            self.kept.fetch_add(keeps, Relaxed);
            self.hub.hold(Promise::NoLeak, down.is_ok(), || format!("teardown: {down:?}"));
            self.nothing_is_forbidden(index);
        }
    }
}

/// After everything that held something has been dropped: is more still out than what is kept (`kept`; none if it may be anything), or does somebody still hold the machine? A
/// night of lives is to cost no more memory than one of them.
pub(super) fn what_is_left(bus: Arc<Bus>, kept: Option<usize>) -> Option<Wrong> {
    let live = bus.cpu().heap().live();
    if kept.is_some_and(|kept| live.len() > kept) {
        let what = format!("{} blocks are still out: {:x?}", live.len(), &live[..live.len().min(4)]);
        return Some(Wrong::new(Promise::NoLeak, what));
    }
    let others = Arc::strong_count(&bus) - 1;
    (others > 0).then(|| Wrong::new(Promise::NoLeak, format!("the machine is kept, {others} times")))
}
