//! An audit of a life with users behind SMMUs: all tables in memory, read by a reader of its own, against the shadow.
//!
//! Not looked at: who was left where hardware did not confirm, and POWER8's tables, of which the bridge may see less than memory says.
//! Not here: the audit of lives of the kernel (`life::audit`).

use core::sync::atomic::Ordering::Relaxed;

use portcullis::types::SourceId;

use super::super::audit::hold_against;
use super::world::{Iron, UserWorld};
use crate::hub::locked;
use crate::machine::{DOORBELL_PAGE, DOORBELLS, Place};
use crate::oracle::Way;
use crate::oracle::tables::Leaf;

impl UserWorld {
    /// Looks at the entry of every source, and at every table that one leads to.
    pub(super) fn audit(&self) {
        let Iron::Units(_) = &self.iron else { return };
        self.audits.fetch_add(1, Relaxed);
        for (index, device) in self.devices.iter().enumerate() {
            let Some(way) = self.hub.shadow(|shadow| shadow.at_rest(index)) else { continue };
            if !self.may_be_elsewhere(index) {
                device.engine.sources.iter().for_each(|&source| self.audit_source(index, source, way));
            }
        }
    }

    /// Whether something failed when the device's group was last moved, or its container's mappings were changed.
    fn may_be_elsewhere(&self, device: usize) -> bool {
        let (stuck, container) = {
            let held = locked(&self.group_of(device).held);
            (held.stuck, held.container)
        };
        stuck || self.is_in_doubt(container)
    }

    fn audit_source(&self, index: usize, source: SourceId, way: Way) {
        let Iron::Units(units) = &self.iron else { return };
        let unit = self.group_of(index).unit;
        let place = Place { hub: &self.hub, unit, registers: self.registers[unit] };
        let found = self.hub.reading(|tables| units[unit].0.way(&place, source, tables));
        hold_against(&self.hub, (index, source), way, found, |leaf| !is_doorbell(leaf));
    }
}

/// The page of a doorbell, where the kernel maps it for whoever maps by himself.
fn is_doorbell(leaf: &Leaf) -> bool {
    DOORBELLS.contains(&leaf.iova) && (leaf.pa, leaf.len) == (DOORBELL_PAGE, 0x1000)
}
