//! An audit of a life with users behind SMMUs: all tables in memory, read by a reader of its own, against the shadow.
//!
//! Not looked at: who was left where hardware did not confirm, and POWER8's tables, of which the bridge may see less than memory says.
//! Not here: the audit of lives of the kernel (`life::audit`).

use core::sync::atomic::Ordering::Relaxed;

use portcullis::types::{Pa, SourceId};

use super::world::{Iron, UserWorld};
use crate::hub::locked;
use crate::machine::{DOORBELL_PAGE, DOORBELLS, Place};
use crate::oracle::tables::{Leaf, Tables, Way as Found};
use crate::oracle::{Way, Wrong};
use crate::promise::Promise;

impl UserWorld {
    /// A reader of memory as hardware sees it.
    fn reading<T>(&self, read: impl FnOnce(&Tables<'_>) -> T) -> T {
        let ram = self.bus.cpu().ram().clone();
        let load = |at: u64| ram.load(Pa::new(at & !7)).ok();
        read(&Tables { load: &load })
    }

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
        stuck || container.is_some_and(|id| self.container(id).is_some_and(|one| one.doubt))
    }

    fn audit_source(&self, index: usize, source: SourceId, way: Way) {
        let Iron::Units(units) = &self.iron else { return };
        let unit = self.group_of(index).unit;
        let place = Place { hub: &self.hub, unit, registers: self.registers[unit] };
        let found = self.reading(|tables| units[unit].0.way(&place, source, tables));
        let object = |promise, what: String| self.hub.object(Wrong::new(promise, what));
        match (way, found) {
            (_, Found::Nonsense(what)) => {
                object(
                    Promise::Hitless,
                    format!("the entry of {source} of device {index} makes no sense: {what}"),
                );
            }
            (Way::Blocked, Found::Nowhere) => {}
            (Way::Blocked, found) => {
                let what = format!("device {index} is nowhere, and its {source} leads to {found:x?}");
                object(Promise::Isolation, what);
            }
            (Way::Space(space), Found::Through(root)) => {
                let mut leaves = self.reading(|tables| tables.leaves(&root));
                leaves.retain(|leaf| !is_doorbell(leaf));
                let compared = self.hub.shadow(|shadow| shadow.compare(space, &leaves));
                self.hub.judged(
                    compared.map_err(|wrong| {
                        Wrong::new(wrong.promise, format!("device {index}: {}", wrong.what))
                    }),
                );
            }
            (Way::Space(space), found) => {
                let promise = if found == Found::Everywhere { Promise::Isolation } else { Promise::Service };
                object(
                    promise,
                    format!("device {index} is in space {space}, and its {source} leads {found:x?}"),
                );
            }
        }
    }
}

/// The page of a doorbell, where the kernel maps it for whoever maps by himself.
fn is_doorbell(leaf: &Leaf) -> bool {
    DOORBELLS.contains(&leaf.iova) && (leaf.pa, leaf.len) == (DOORBELL_PAGE, 0x1000)
}
