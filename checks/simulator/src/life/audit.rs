//! An audit: all tables in memory, read by a reader of its own, against the shadow.

use core::sync::atomic::Ordering::Relaxed;
use std::collections::BTreeMap;

use super::world::{Slot, World};
use crate::hub::{Hub, locked};
use crate::oracle::tables::{Leaf, Tag, Tagged, Way as Found};
use crate::oracle::{Way, Wrong};
use crate::promise::Promise;
use portcullis::types::SourceId;

/// Operations between two audits.
pub(super) const EVERY: u32 = 1024;

impl World {
    /// Looks at the entry of every source, and at every table that one leads to.
    pub(super) fn audit(&self) {
        self.audits.fetch_add(1, Relaxed);
        let (mut seen, mut tagged) = (Vec::new(), BTreeMap::new());
        for (index, device) in self.devices.iter().enumerate() {
            let (way, spoiled) = self.hub.shadow(|shadow| (shadow.at_rest(index), shadow.is_spoiled(index)));
            if spoiled {
                continue;
            }
            for &source in &device.engine.sources {
                let found = self.found(device.spec.unit, source);
                self.audit_source(index, source, way, found, &mut seen);
            }
            self.audit_contexts(index, way);
            self.audit_tags(index, &mut tagged);
        }
        self.audit_addresses();
    }

    pub(super) fn audit_tags(&self, index: usize, tagged: &mut AllTagged) {
        let device = &self.devices[index];
        let unit = device.spec.unit;
        for &source in &device.engine.sources {
            let found =
                self.hub.reading(|tables| self.units[unit].iron.tags(&self.place(unit), source, tables));
            hold_tags(&self.hub, (unit, index), found, tagged);
        }
    }

    /// Every range of addresses that a domain of the DMA API has handed out is some driver's, or a doorbell's; and no other.
    pub(super) fn audit_addresses(&self) {
        for state in &self.groups {
            let (space, doorbells) = {
                let inner = locked(&state.inner);
                (inner.space, inner.doorbells.len())
            };
            // What cannot be unmapped stays.
            if self.hub.shadow(|shadow| shadow.is_space_spoiled(space)) {
                continue;
            }
            let is_its = |slot: &&Slot| match slot {
                Slot::Single { space: of, .. }
                | Slot::List { space: of, .. }
                | Slot::Shared { space: of, .. } => *of == space,
                Slot::Empty | Slot::Busy => false,
            };
            let held = locked(&self.slots).iter().filter(is_its).count() + doorbells;
            let stats = state.group.default_domain().dma_stats();
            self.hub.hold(Promise::NoLeak, stats.live == held as u64, || {
                format!("group {} has handed out {stats:?}, and its drivers have {held}", state.group.id())
            });
        }
    }

    /// Where a source's traffic goes.
    pub(super) fn found(&self, unit: usize, source: SourceId) -> Found {
        self.hub.reading(|tables| self.units[unit].iron.way(&self.place(unit), source, tables))
    }

    fn audit_source(
        &self,
        index: usize,
        source: SourceId,
        way: Option<Way>,
        found: Found,
        seen: &mut Vec<(usize, u64)>,
    ) {
        // A device that core does not know may be one that hardware would not let go.
        if way.is_none() && self.is_stranded(index) {
            return;
        }
        if let (Some(Way::Space(space)), Found::Through(root)) = (way, found) {
            if seen.contains(&(space, root.at)) {
                return;
            }
            seen.push((space, root.at));
        }
        hold_against(&self.hub, (index, source), way.unwrap_or(Way::Blocked), found, |_| true);
    }
}

/// By unit and tag, the table that was found first.
pub(super) type AllTagged = BTreeMap<(usize, Tag), u64>;

/// What entries of an IOMMU's TLB are told apart by belongs to one table: another's entries would be taken for its own. `found` is what a source of a device has,
/// `tagged` what was found so far.
pub(super) fn hold_tags(
    hub: &Hub,
    (unit, index): (usize, usize),
    found: Vec<Tagged>,
    tagged: &mut AllTagged,
) {
    for (tag, table) in found {
        let first = *tagged.entry((unit, tag)).or_insert(table);
        hub.hold(Promise::NoReuse, first == table, || {
            format!("{tag:?} of device {index} is of the table at {table:#x}, and of that at {first:#x}")
        });
    }
}

/// Holds where a source of a device leads against where the device is, and the leaves that it is led to, of those that `counts`, against what is granted there.
pub(super) fn hold_against(
    hub: &Hub,
    (index, source): (usize, SourceId),
    way: Way,
    found: Found,
    counts: impl Fn(&Leaf) -> bool,
) {
    let object = |promise, what: String| hub.object(Wrong::new(promise, what));
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
            let mut leaves = hub.reading(|tables| tables.leaves(&root));
            leaves.retain(counts);
            let compared = hub.shadow(|shadow| shadow.compare(space, &leaves));
            hub.judged(
                compared
                    .map_err(|wrong| Wrong::new(wrong.promise, format!("device {index}: {}", wrong.what))),
            );
        }
        (Way::Space(space), found) => {
            let promise = if found == Found::Everywhere { Promise::Isolation } else { Promise::Service };
            object(promise, format!("device {index} is in space {space}, and its {source} leads {found:x?}"));
        }
    }
}
