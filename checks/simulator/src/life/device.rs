//! What devices do by themselves: they move bytes at addresses that are mapped, that were mapped, and that never were.

use core::sync::atomic::Ordering::Relaxed;

use model_bus::{Outcome, Request};
use portcullis::types::{Access, Iova, SourceId};

use super::world::World;
use super::{Done, Pick};
use crate::fault::FaultKind;
use crate::hub::locked;
use crate::machine::{Move, Sight};
use crate::oracle::Way;
use crate::promise::Promise;

impl World {
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
            Pick::Live(pick) => match self.live_address(index, pick, offset) {
                Some(iova) => iova,
                None => return Done::Skipped,
            },
            Pick::Edge(pick) => match self.edge(index, pick) {
                Some(iova) => iova,
                None => return Done::Skipped,
            },
            Pick::Stale(back) => {
                let stale = locked(&self.stale).get(usize::from(back)).copied();
                let Some(stale) = stale else { return Done::Skipped };
                index = stale.device;
                let kind = if stale.freed { FaultKind::DmaToFreed } else { FaultKind::DmaAfterUnbind };
                self.hub.faults.fired(kind);
                stale.iova + u64::from(offset)
            }
            Pick::Wild(bits) => bits,
            Pick::Physical(pick) => locked(&self.pool).some(u64::from(pick)) + u64::from(offset),
        };
        let outcome = self.access(index, source, iova, u32::from(len), write);
        if outcome == Outcome::Done { Done::Succeeded } else { Done::Refused }
    }

    /// An access that is cut so that it stays in its page; what must be let through must be.
    pub(super) fn access(&self, device: usize, source: u8, iova: u64, len: u32, write: bool) -> Outcome {
        let engine = &self.devices[device].engine;
        let source = engine.sources[usize::from(source) % engine.sources.len()];
        let room = u32::try_from(0x1000 - (iova & 0xfff)).expect("at most a page");
        let len = len.clamp(1, 64).min(room);
        let (expected, changes) =
            self.hub.shadow(|shadow| (shadow.expects(source.0, iova, len, write), shadow.changes()));
        let outcome = engine.access(&Move { source, pasid: None, iova, len, write });
        if outcome != Outcome::Done {
            self.refused.fetch_add(1, Relaxed);
        }
        self.hub.trace(|trace| trace.note(&[iova, u64::from(outcome == Outcome::Done)]));
        // Another thread may have taken it away meanwhile.
        let changed = || self.hub.shadow(|shadow| shadow.changes() > changes);
        self.hub.hold(Promise::Service, !expected || outcome == Outcome::Done || changed(), || {
            let sight = self.look(device, source, iova, write);
            format!("device {device} was granted {iova:#x} (write {write}), and got {outcome:?}; memory says {sight:?}")
        });
        outcome
    }

    /// What a source of a device would meet if hardware looked now.
    fn look(&self, device: usize, source: SourceId, iova: u64, write: bool) -> Sight {
        let access = if write { Access::WRITE } else { Access::READ };
        let request = Request { source, pasid: None, iova: Iova::new(iova), len_bytes: 4, access };
        let unit = self.devices[device].spec.unit;
        self.units[unit].iron.sight(&self.place(unit), &request)
    }

    /// An address that some grant of the device's space has.
    pub(super) fn live_address(&self, device: usize, pick: u16, offset: u16) -> Option<u64> {
        self.hub.shadow(|shadow| {
            let Way::Space(space) = shadow.way(device) else { return None };
            let grant = shadow.some_live(space, u64::from(pick) << 16)?;
            Some(grant.first + u64::from(offset) % (grant.last - grant.first + 1))
        })
    }

    /// An address right behind or right before some grant.
    fn edge(&self, device: usize, pick: u16) -> Option<u64> {
        self.hub.shadow(|shadow| {
            let Way::Space(space) = shadow.way(device) else { return None };
            let grant = shadow.some_live(space, u64::from(pick) << 16)?;
            if pick & 1 == 0 { grant.last.checked_add(1) } else { grant.first.checked_sub(1) }
        })
    }

    /// Right after an unmap has returned: is it closed? Not always, so that some stay in hardware's memory if nobody invalidates.
    pub(super) fn try_stale(&self, device: usize, iova: u64) {
        if self.hub.below(2) == 0 {
            self.hub.faults.fired_in(super::OpKind::Dma, FaultKind::DmaAfterUnbind);
            let _refused = self.access(device, 0, iova, 8, false);
        }
    }

    /// Interrupts of an IOMMU are served.
    pub(super) fn serve(&self, unit: usize) -> Done {
        let state = &self.units[unit];
        self.ask_in_passing();
        let faults = match &self.sharing {
            Some(sharing) => {
                sharing.serve();
                0
            }
            None => state.unit.dispatch_faults(),
        };
        let _errors = state.unit.handle_errors();
        self.hub.trace(|trace| trace.note(&[faults as u64]));
        self.nothing_is_forbidden(unit);
        Done::Succeeded
    }

    /// Nothing was done to an IOMMU that its book forbids.
    pub(super) fn nothing_is_forbidden(&self, unit: usize) {
        let (iron, tap) = (&self.units[unit].iron, self.hub.tap(unit));
        let (doubted, flipped) = (self.doubted(), self.hub.has_flipped());
        let forbidden = iron.take_unpredictable();
        let of_driver = forbidden.into_iter().find(|one| !iron.is_excused(one, tap, doubted));
        self.hub.hold(Promise::Book, of_driver.is_none() || flipped, || format!("{of_driver:?}"));
    }
}
