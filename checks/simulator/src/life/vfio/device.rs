//! What devices do by themselves, also in the middle of operations. On POWER an access that is refused freezes its endpoint, and somebody has to thaw it.

use core::sync::atomic::Ordering::Relaxed;

use model_bus::Outcome;
use portcullis::core::table_group::Freeze;
use portcullis::types::Pa;

use super::task::PAGE;
use super::world::{Iron, UserWorld};
use super::{Done, OpKind};
use crate::fault::FaultKind;
use crate::hub::{Place, Turns, locked};
use crate::life::Pick;
use crate::machine::{Move, held};
use crate::oracle::Way;
use crate::promise::Promise;

impl UserWorld {
    /// A device moves bytes.
    pub(super) fn device_access(
        &self,
        device: u8,
        source: u8,
        pick: Pick,
        write: bool,
        offset: u16,
        len: u8,
    ) -> Done {
        let mut index = self.device_index(device);
        let iova = match pick {
            Pick::Live(pick) => self.live_address(index, pick, offset),
            Pick::Edge(pick) => self.edge(index, pick),
            Pick::Stale(back) => {
                let stale = locked(&self.stale).get(usize::from(back)).copied();
                stale.map(|(device, iova)| {
                    index = device;
                    self.hub.faults.happened(FaultKind::DmaAfterUnbind);
                    iova + u64::from(offset)
                })
            }
            Pick::Wild(bits) => Some(bits),
            Pick::Physical(pick) => Some(Self::slot_memory(usize::from(pick) & 0x3f) + u64::from(offset)),
        };
        let Some(iova) = iova else { return Done::Skipped };
        self.tell();
        let outcome = self.access(index, source, iova, u32::from(len), write);
        self.told.store(false, Relaxed);
        // Now and then it stays frozen, for its user to find it so.
        if outcome != Outcome::Done && len & 7 != 0 {
            self.thaw(index);
        }
        if outcome == Outcome::Done { Done::Succeeded } else { Done::Refused }
    }

    /// A driver tells its device to work: that passes the bridge behind all that was stored before. A kill may be late until then.
    fn tell(&self) {
        if let Iron::Power { model, .. } = &self.iron {
            model.admits(Pa::new(0), true);
            self.told.store(true, Relaxed);
        }
    }

    /// Whether the endpoint of a device is frozen.
    fn is_frozen(&self, device: usize) -> bool {
        let Iron::Power { model, .. } = &self.iron else { return false };
        locked(&self.group_of(device).pe).is_some_and(|pe| model.is_dma_frozen(pe))
    }

    /// An access that is cut so that it stays in its page; what must be let through must be.
    pub(super) fn access(&self, device: usize, source: u8, iova: u64, len: u32, write: bool) -> Outcome {
        let engine = &self.devices[device].engine;
        let source = engine.sources[usize::from(source) % engine.sources.len()];
        let room = u32::try_from(0x1000 - (iova & 0xfff)).expect("at most a page");
        let len = len.clamp(1, 64).min(room);
        let expected =
            self.hub.shadow(|shadow| shadow.expects(source.0, iova, len, write)) && !self.is_excused(device);
        let outcome = engine.access(&Move { source, pasid: None, iova, len, write });
        if outcome != Outcome::Done {
            self.refused.fetch_add(1, Relaxed);
        }
        self.hub.trace(|trace| trace.note(&[iova, u64::from(outcome == Outcome::Done)]));
        self.hub.hold(Promise::Service, !expected || outcome == Outcome::Done, || {
            format!("device {device} was granted {iova:#x} (write {write}), and got {outcome:?}")
        });
        outcome
    }

    /// Whether a device may be refused what it was granted.
    fn is_excused(&self, device: usize) -> bool {
        let (stuck, container) = {
            let whose = locked(&self.group_of(device).held);
            (whose.stuck && whose.drivers == 0, whose.container)
        };
        let doubt = self.is_in_doubt(container);
        // An operation that runs may have stopped it.
        let running = held() > 0;
        // A bridge that is silent does not hear that an entry was made, and may keep what was there before.
        let unheard = self.is_power() && self.hub.faults.unconfirmed() > 0;
        stuck
            || doubt
            || running
            || self.is_power() && !self.told.load(Relaxed)
            || unheard
            || self.is_frozen(device)
            || self.hub.has_flipped()
            || self.injected.load(Relaxed)
    }

    /// The endpoint of a device goes on, if it is frozen: by whoever has the bridge.
    pub(super) fn thaw(&self, device: usize) {
        if !self.is_frozen(device) {
            return;
        }
        let source = self.devices[device].engine.sources[0];
        let Some(tables) = self.units[0].iommu().table_group(source) else { return };
        let Some(eeh) = tables.eeh() else { return };
        let fired = self.hub.faults.count();
        let thawed = eeh.unfreeze(Freeze::Io).and_then(|()| eeh.unfreeze(Freeze::Dma));
        self.hub.hold(Promise::Service, thawed.is_ok() || self.fired_since(fired), || {
            format!("the endpoint of device {device} does not go on: {thawed:?}")
        });
    }

    /// An address that some grant of the device's space has.
    fn live_address(&self, device: usize, pick: u16, offset: u16) -> Option<u64> {
        self.hub.shadow(|shadow| {
            let Way::Space(space) = shadow.way(device) else { return None };
            let grant = shadow.some_live(space, u64::from(pick) << 12)?;
            Some(grant.first + u64::from(offset) % (grant.last - grant.first + 1))
        })
    }

    /// A user dies while somebody else waits for hardware.
    fn dies_meanwhile(&self, user: usize) {
        if self.acting.load(Relaxed) == user {
            return;
        }
        let outer = self.hub.faults.current();
        let done = self.during(OpKind::Die, || self.die(user));
        if done != Done::Skipped {
            self.died_meanwhile.fetch_add(1, Relaxed);
            self.hub.faults.fired_in(outer, FaultKind::UserDies);
            self.hub.trace(|trace| trace.say(|| format!("        meanwhile user {user} dies: {done:?}")));
        }
    }

    fn edge(&self, device: usize, pick: u16) -> Option<u64> {
        self.hub.shadow(|shadow| {
            let Way::Space(space) = shadow.way(device) else { return None };
            let grant = shadow.some_live(space, u64::from(pick) << 12)?;
            if pick & 1 == 0 { grant.last.checked_add(1) } else { grant.first.checked_sub(1) }
        })
    }

    /// A device is reset while it works, and goes on moving bytes as if nothing had happened.
    pub(super) fn reset(&self, index: usize) -> Done {
        self.devices[index].engine.reset();
        self.hub.faults.happened(FaultKind::DmaAfterReset);
        let mut addresses: Vec<u64> = locked(&self.stale)
            .iter()
            .filter(|(device, _)| *device == index)
            .map(|&(_, iova)| iova)
            .collect();
        // And what it has, if it has anything; some address in any case.
        addresses.extend(self.live_address(index, 0, 0));
        if addresses.is_empty() {
            addresses.push(PAGE);
        }
        for iova in addresses {
            let _either_way = self.access(index, 0, iova, 8, true);
        }
        if held() == 0 {
            self.thaw(index);
        }
        Done::Succeeded
    }
}

impl Turns for UserWorld {
    fn turn(&self, place: Place) {
        let (kind, bits) = (self.hub.below(8), self.hub.below(1 << 32));
        let device = usize::try_from(bits >> 8).unwrap_or(0) % self.devices.len();
        let write = bits & 1 == 0;
        let low = u16::try_from(bits >> 16 & 0xffff).expect("16 bits");
        match kind {
            // What an operation takes away is what is worth trying.
            0..4 => {
                if let Some((device, iova)) = self.hub.shadow(|shadow| shadow.some_leaving(bits)) {
                    let _either_way = self.access(device, write.into(), iova, 8, write);
                }
            }
            4 | 5 => {
                if let Some(iova) = self.live_address(device, low, low) {
                    let _granted = self.access(device, 0, iova, 8, write);
                }
            }
            6 => {
                // A frozen endpoint shows nothing any more: on POWER that is done seldom, and the endpoint goes on when the operation has returned.
                let stale = locked(&self.stale).front().copied();
                if let Some((device, iova)) = stale.filter(|_| !self.is_power() || low & 3 == 0) {
                    self.hub.faults.happened(FaultKind::DmaAfterUnbind);
                    let _refused = self.access(device, 0, iova, 8, write);
                }
            }
            _ if place == Place::Wait && held() == 0 && self.hub.faults.current().lets_die() => {
                self.dies_meanwhile(usize::try_from(bits >> 4 & 0xff).unwrap_or(0) % self.users.len());
            }
            _ => self.pass(1),
        }
    }

    fn watch(&self) {}
}
