//! What happens in the middle of an operation: a device moves bytes where the operation is at work.

use core::sync::atomic::Ordering::Relaxed;

use model_bus::Request;
use portcullis::types::{Access, Iova, SourceId};

use super::world::World;
use super::{Done, Op, OpKind};
use crate::fault::FaultKind;
use crate::hub::{Place, Turns, locked};
use crate::machine::{Sight, held};
use crate::oracle::{Seen, Wrong};
use crate::promise::Promise;

impl Turns for World {
    fn turn(&self, place: Place) {
        let (kind, bits) = (self.hub.below(8), self.hub.below(1 << 32));
        let device = usize::try_from(bits >> 8).unwrap_or(0) % self.devices.len();
        let write = bits & 1 == 0;
        if self.flip(bits) || self.misbehave(bits) || self.raise_in_turn(device, bits) {
            return;
        }
        let low = u16::try_from(bits >> 16 & 0xffff).expect("16 bits");
        match kind {
            // What an operation takes away is what is worth trying.
            0..4 => {
                if let Some((device, iova)) = self.hub.shadow(|shadow| shadow.some_leaving(bits)) {
                    let _either_way = self.access(device, u8::from(write), iova, 8, write);
                }
            }
            4 | 5 => {
                if let Some(iova) = self.live_address(device, low, low) {
                    let _granted = self.access(device, 0, iova, 8, write);
                }
            }
            6 => {
                let stale = locked(&self.stale).front().copied();
                if let Some(stale) = stale {
                    let kind = if stale.freed { FaultKind::DmaToFreed } else { FaultKind::DmaAfterUnbind };
                    self.hub.faults.happened(kind);
                    let _refused = self.access(stale.device, 0, stale.iova, 8, write);
                }
            }
            _ if place == Place::Wait && held() == 0 && !self.ending.load(Relaxed) => self.another_cpu(bits),
            _ => self.pass(1),
        }
    }

    /// What hardware would see of every source that is being moved, if it looked now and had nothing cached.
    fn watch(&self) {
        for (index, device) in self.devices.iter().enumerate() {
            if self.hub.has_flipped() && self.hub.shadow(|shadow| shadow.is_spoiled(index)) {
                continue;
            }
            let Some((now, next)) = self.hub.shadow(|shadow| shadow.moving(index)) else { continue };
            let addresses = [now, next].map(|way| self.hub.shadow(|shadow| shadow.an_address(way)));
            for iova in addresses.into_iter().flatten() {
                for source in &device.engine.sources {
                    self.look_at_entry(device.spec.unit, *source, iova);
                }
            }
        }
    }
}

impl World {
    /// Another CPU does something whole while this one waits, with no lock held that it could want.
    fn another_cpu(&self, bits: u64) {
        let byte = |place: u32| u8::try_from(bits >> place & 0xff).expect("a byte");
        let (device, slot, pages) = (byte(3), byte(9), 1 + byte(14) % 4);
        let (domain, page) = (byte(5), u16::from(byte(12)));
        let op = match bits >> 29 & 7 {
            0 | 1 => Op::Map { device, slot, pages, offset: 0, direction: byte(17) % 3 },
            2 | 3 => Op::Unmap { slot },
            4 => Op::UserMap { domain, page, pages, perms: 2, runs: 1 },
            5 => Op::UserUnmap { domain, page, pages: 2 * pages, sync: true },
            7 if self.hub.faults.current().lets_die() => match (&self.sharing, bits & 1) {
                (Some(_), 0) => Op::Exit { process: byte(9) },
                _ => Op::Die { user: byte(9) % 3 },
            },
            _ => Op::Flush { device },
        };
        let Some(kind) = op.kind() else { return };
        let outer = self.hub.faults.current();
        self.nested.fetch_add(1, Relaxed);
        let done = self.during(kind, || self.apply(&op));
        if matches!(kind, OpKind::Die | OpKind::Exit) && done != Done::Skipped {
            self.hub.faults.fired_in(outer, FaultKind::UserDies);
        }
        self.hub.trace(|trace| {
            if done != Done::Skipped {
                trace.note(&[bits, done as u64]);
                trace.say(|| format!("        meanwhile, on another CPU: {op:?}: {done:?}"));
            }
        });
    }

    fn look_at_entry(&self, unit: usize, source: SourceId, iova: u64) {
        let request =
            Request { source, pasid: None, iova: Iova::new(iova), len_bytes: 4, access: Access::READ };
        self.hub.shadow(|shadow| shadow.check(Promise::Hitless));
        match self.units[unit].iron.sight(&self.place(unit), &request) {
            Sight::Allowed(pa) => {
                let seen = Seen { source: source.0, iova, len: 4, pa: pa.get(), write: false };
                if let Err(wrong) = self.hub.shadow(|shadow| shadow.judge(&seen)) {
                    self.hub
                        .object(Wrong::new(Promise::Hitless, format!("hardware would see: {}", wrong.what)));
                }
            }
            // An entry that is not there at all, as before a device is known, is no mixture.
            Sight::Mixed(kind) if self.hub.shadow(|shadow| shadow.was_attached(source.0)) => {
                let what = format!("{source} would meet {kind} in the middle of a change");
                self.hub.object(Wrong::new(Promise::Hitless, what));
            }
            Sight::Mixed(_) | Sight::Refused => {}
        }
    }
}
