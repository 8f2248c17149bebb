//! The kernel's own drivers: bound where no user is, mapping by the DMA API.

use core::sync::atomic::Ordering::Relaxed;

use portcullis::core::dma::{Direction, DmaMapError, Refused};
use portcullis::core::owner::UseError;
use portcullis::types::Pa;

use super::task::PAGE;
use super::world::{KernelMap, Presence, SLOTS, UserWorld};
use super::{Before, Done};
use crate::hub::locked;
use crate::oracle::{Grant, Way};
use crate::promise::Promise;

impl UserWorld {
    pub(super) fn bind_driver(&self, device: u8) -> Done {
        let index = self.device_index(device);
        let state = &self.devices[index];
        if state.bound.load(Relaxed) || state.presence() != Presence::In {
            return Done::Skipped;
        }
        let group = self.group_of(index);
        let before = self.before();
        let held = locked(&group.held).clone();
        if held.container.is_none() {
            self.come_home(state.spec.group);
        }
        match group.group.use_default_domain(&state.device(), "driver") {
            Ok(()) => {
                self.hub.hold(Promise::OneOwner, held.container.is_none(), || {
                    format!("device {index} was given a driver, and its group is a user's: {held:?}")
                });
                state.device().set_dma_mask(self.mask(index));
                state.device().set_coherent_mask(self.mask(index));
                state.bound.store(true, Relaxed);
                self.end_move(state.spec.group, Way::Space(group.space));
                let mut held = locked(&group.held);
                held.drivers += 1;
                held.stuck = false;
                Done::Succeeded
            }
            Err(error) => {
                let owned = matches!(error, UseError::Owned(_));
                self.hub.hold(Promise::OneOwner, owned == held.container.is_some(), || {
                    format!("device {index} gets no driver: {error:?}, and {held:?}")
                });
                let excused = owned || held.stuck || self.fired(&before);
                self.hub.hold(Promise::Service, excused, || format!("nothing was wrong, and yet {error:?}"));
                Done::Refused
            }
        }
    }

    /// Whom hardware left elsewhere is about to be taken to the kernel's domain. If that is refused, he may be there all the same.
    fn come_home(&self, group: usize) {
        let home = Way::Space(self.groups[group].space);
        let members = self.members(group);
        self.hub.shadow(|shadow| {
            for member in members {
                if shadow.at_rest(member) != Some(home) {
                    shadow.begin_move(member, home);
                }
            }
        });
    }

    pub(super) fn unbind_driver(&self, index: usize) -> Done {
        let state = &self.devices[index];
        if !state.bound.load(Relaxed) {
            return Done::Skipped;
        }
        let is_its =
            |slot: &usize| locked(&self.slots)[*slot].as_ref().is_some_and(|held| held.device == index);
        for slot in (0..SLOTS).filter(is_its) {
            self.kernel_unmap(slot);
        }
        if (0..SLOTS).any(|slot| is_its(&slot)) {
            return Done::Refused;
        }
        let group = self.group_of(index);
        let given = group.group.unuse_default_domain(&state.device());
        self.hub.hold(Promise::OneOwner, given.is_ok(), || format!("a driver cannot be unbound: {given:?}"));
        state.bound.store(false, Relaxed);
        locked(&group.held).drivers -= 1;
        Done::Succeeded
    }

    pub(super) fn kernel_map(&self, device: u8, slot: u8, pages: u8, direction: u8) -> Done {
        let (index, slot) = (self.device_index(device), usize::from(slot) % SLOTS);
        let state = &self.devices[index];
        if !state.bound.load(Relaxed) || locked(&self.slots)[slot].is_some() {
            return Done::Skipped;
        }
        let group = self.group_of(index);
        let Some(dma) = group.group.dma(&state.device()) else { return Done::Skipped };
        let way = [Direction::ToDevice, Direction::FromDevice, Direction::Bidirectional]
            [usize::from(direction) % 3];
        let (first, len) = (Self::slot_memory(slot), u64::from(pages) * PAGE);
        let before = self.before();
        let write = way.device_writes();
        let token = self.hub.shadow(|shadow| shadow.begin_map(group.space, &[(first, len)], true, write));
        match dma.map_single(Pa::new(first), len, way) {
            Ok(mapping) => {
                let range = mapping.range();
                let (low, high) = (range.first().get() & !(PAGE - 1), range.last().get() | (PAGE - 1));
                let owed_read = way != Direction::FromDevice;
                let grant = Grant {
                    first: low,
                    last: high,
                    pa: first,
                    read: true,
                    owed_read,
                    write,
                    owed_write: write,
                    since: self.step(),
                };
                let reserved = self.reserved(index).filter(|&(from, to)| from <= high && to >= low);
                let mask = u64::MAX >> (64 - u32::from(state.spec.mask_bits));
                let reach = state.device().dma_limit().get().min(mask);
                self.hub.hold(Promise::Reserved, reserved.is_none() && high <= reach && low != 0, || {
                    format!("{grant:x?} for device {index}: reserved {reserved:x?}, reach {reach:#x}")
                });
                let granted = self.hub.shadow(|shadow| shadow.grant(group.space, grant, false));
                self.hub.judged(granted);
                let ended = self.hub.shadow(|shadow| shadow.end_map(group.space, token, false));
                self.hub.judged(ended);
                locked(&self.slots)[slot] = Some(KernelMap { device: index, mapping });
                Done::Succeeded
            }
            Err(error) => {
                // Who maps is told; else his buffer is his again.
                let doubt = matches!(error, DmaMapError::NotUndone(_) | DmaMapError::StillMapped(_));
                let ended = self.hub.shadow(|shadow| shadow.end_map(group.space, token, doubt));
                self.hub.judged(ended);
                let lawful = matches!(error, DmaMapError::NoIova { .. } | DmaMapError::Segment(_));
                self.hub.hold(Promise::Service, lawful || self.fired(&before), || {
                    format!("nothing was wrong, and yet {error:?}")
                });
                self.kernel_unwound(&before, doubt, &error);
                Done::Refused
            }
        }
    }

    fn kernel_unwound(&self, before: &Before, doubt: bool, error: &DmaMapError) {
        let blocks = self.before().blocks;
        // Levels of TCE tables that were made stay until their table goes.
        let alone = self.died_meanwhile.load(Relaxed) == before.died;
        let kept = blocks > before.blocks && !self.is_power() && !doubt && !self.unconfirmed(before) && alone;
        self.hub.hold(Promise::Unwind, !kept, || {
            format!(
                "a map failed ({error:?}), and {} blocks are out more than before",
                blocks - before.blocks
            )
        });
    }

    pub(super) fn kernel_unmap(&self, slot: usize) -> Done {
        let slot = slot % SLOTS;
        let Some(KernelMap { device, mapping }) = locked(&self.slots)[slot].take() else {
            return Done::Skipped;
        };
        let group = self.group_of(device);
        let Some(dma) = group.group.dma(&self.devices[device].device()) else { return Done::Skipped };
        let before = self.before();
        let range = mapping.range();
        let ends = (range.first().get() & !(PAGE - 1), range.last().get() | (PAGE - 1));
        let token = self.hub.shadow(|shadow| shadow.begin_unmap(group.space, &[ends]));
        match dma.unmap_single(mapping) {
            Ok(()) => {
                self.settle(group.space, token, true);
                self.note_stale(device, ends.0);
                if self.hub.below(2) == 0 {
                    let _refused = self.access(device, 0, ends.0, 8, false);
                    self.thaw(device);
                }
                Done::Succeeded
            }
            Err(Refused { error, mapping }) => {
                let excused = self.fired(&before);
                self.hub.hold(Promise::Service, excused, || format!("nothing was wrong, and yet {error:?}"));
                match mapping {
                    Some(mapping) => {
                        self.hub.shadow(|shadow| shadow.undo_unmap(group.space, token));
                        locked(&self.slots)[slot] = Some(KernelMap { device, mapping });
                    }
                    None => self.settle(group.space, token, false),
                }
                Done::Refused
            }
        }
    }
}
