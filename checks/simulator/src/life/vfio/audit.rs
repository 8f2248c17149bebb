//! An audit of a life with users: all tables in memory, read by a reader of its own, against the shadow.
//!
//! On POWER8 that is what memory says, of which the bridge may see less: a store may be on its way, and a TCE without permissions may be kept until it is killed.
//!
//! Not looked at: who was left where hardware did not confirm.
//! Not here: the audit of lives of the kernel (`life::audit`).

use core::sync::atomic::Ordering::Relaxed;

use model_ioda2::Phb3 as PowerModel;
use portcullis::types::SourceId;

use super::super::audit::{AllTagged, hold_against, hold_tags};
use super::world::{Iron, UnitPair, UserWorld};
use crate::hub::locked;
use crate::machine::{DOORBELL_PAGE, DOORBELLS, Place};
use crate::oracle::tables::Leaf;
use crate::oracle::{Way, Wrong};
use crate::promise::Promise;

impl UserWorld {
    /// Looks at the entry of every source, and at every table that one leads to.
    pub(super) fn audit(&self) {
        self.audits.fetch_add(1, Relaxed);
        let mut tagged = AllTagged::new();
        for (index, device) in self.devices.iter().enumerate() {
            let Some(way) = self.hub.shadow(|shadow| shadow.at_rest(index)) else { continue };
            if self.may_be_elsewhere(index) {
                continue;
            }
            match &self.iron {
                Iron::Units(units) => {
                    for &source in &device.engine.sources {
                        self.audit_source(units, index, source, (way, &mut tagged));
                    }
                }
                Iron::Power { model, .. } => self.audit_windows(index, model, way),
            }
        }
    }

    /// What each source of a device may reach, by the PE that it is of, is what is granted where the device is; and that is no other group's PE.
    fn audit_windows(&self, index: usize, model: &PowerModel, way: Way) {
        let group = self.group_of(index);
        // A PE is where all of its devices are, and some may be on their way.
        if self.members(self.devices[index].spec.group).len() != group.members.len() {
            return;
        }
        let Some(own) = *locked(&group.pe) else { return };
        for &source in &self.devices[index].engine.sources {
            let Some(pe) = model.pe_of(source) else { continue };
            let anothers = pe != own && self.groups.iter().any(|other| *locked(&other.pe) == Some(pe));
            self.hub.hold(Promise::Isolation, !anothers, || {
                format!("{source} of device {index} is of PE {pe}, and its group's is {own}")
            });
            match self.hub.reading(|tables| tables.windows(model.tves(pe))) {
                Ok(leaves) => self.hold_leaves(index, pe, way, &leaves),
                Err(what) => {
                    self.hub.object(Wrong::new(Promise::Hitless, format!("{what} of PE {pe} makes no sense")))
                }
            }
        }
    }

    fn hold_leaves(&self, index: usize, pe: u8, way: Way, leaves: &[Leaf]) {
        match way {
            Way::Blocked => self.hub.hold(Promise::Isolation, leaves.is_empty(), || {
                format!("device {index} is nowhere, and its PE {pe} may reach {:x?}", leaves.first())
            }),
            Way::Space(space) => {
                let compared = self.hub.shadow(|shadow| shadow.compare(space, leaves));
                let whose = |wrong: Wrong| {
                    Wrong::new(wrong.promise, format!("device {index}, of PE {pe}: {}", wrong.what))
                };
                self.hub.judged(compared.map_err(whose));
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

    fn audit_source(
        &self,
        units: &[UnitPair],
        index: usize,
        source: SourceId,
        (way, tagged): (Way, &mut AllTagged),
    ) {
        let unit = self.group_of(index).unit;
        let place = Place { hub: &self.hub, unit, registers: self.registers[unit] };
        let iron = &units[unit].0;
        let found = self.hub.reading(|tables| iron.way(&place, source, tables));
        hold_against(&self.hub, (index, source), way, found, |leaf| !is_doorbell(leaf));
        let tags = self.hub.reading(|tables| iron.tags(&place, source, tables));
        hold_tags(&self.hub, (unit, index), tags, tagged);
    }
}

/// The page of a doorbell, where the kernel maps it for whoever maps by himself.
fn is_doorbell(leaf: &Leaf) -> bool {
    DOORBELLS.contains(&leaf.iova) && (leaf.pa, leaf.len) == (DOORBELL_PAGE, 0x1000)
}
