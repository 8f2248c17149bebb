//! Devices that come and go.

use core::sync::atomic::Ordering::Relaxed;

use std::sync::Arc;

use portcullis::core::device::DeviceInfo;
use portcullis::core::group::GroupError;
use portcullis::core::iommu::{RegionSource, ReservedKind, ReservedRegion};
use portcullis::types::{Iova, IovaRange, Pa, Perms, Prot, SizeLg2};

use super::world::{SPARE_UNIT, World};
use super::{Before, Done};
use crate::fault::FaultKind;
use crate::hub::locked;
use crate::machine::UnitSpec;
use crate::oracle::{Grant, Way};
use crate::promise::Promise;

/// What firmware lies about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lie {
    /// Whose sources are whose: the device must be refused.
    Source,
    /// What the device is like: it may come, and nothing comes of it.
    Shape,
}

impl World {
    /// At boot every device comes.
    pub(super) fn all_devices_come(&self) {
        for index in 0..self.devices.len() {
            let came = self.come(index);
            self.hub.hold(Promise::Service, came == Done::Succeeded, || {
                format!("device {index} does not come at boot")
            });
        }
    }

    /// A device comes.
    pub(super) fn add(&self, device: u8) -> Done {
        let index = self.device_index(device);
        if self.device(index).is_some() { Done::Skipped } else { self.come(index) }
    }

    /// What firmware works in is mapped 1:1 in a kernel's space.
    pub(super) fn firmware_mapped(&self, index: usize, space: usize) {
        if let Some(page) = self.firmware_page(&self.devices[index].spec) {
            let last = page + self.granule() - 1;
            // Mapped for a device that may not come after all: nobody promises that it can be reached.
            let grant = Grant {
                first: page,
                last,
                pa: page,
                read: true,
                owed_read: false,
                write: true,
                owed_write: false,
                since: self.step(),
            };
            // Where something is mapped nothing else is.
            self.hub.shadow(|shadow| {
                if shadow.live_in(space, page, last).is_empty() {
                    shadow.grant_over(space, grant);
                }
            });
        }
    }

    /// Firmware says of a device what cannot be. Answers what kind of lie it is; none if it is one that does no harm.
    fn lie(&self, index: usize, info: &mut DeviceInfo) -> Option<Lie> {
        let unit = self.devices[index].spec.unit;
        // Who comes and leaves at once needs hardware that confirms.
        let faults = [FaultKind::CommandError, FaultKind::NoSync, FaultKind::AtcNever];
        let silent = faults.into_iter().any(|fault| self.hub.faults.is_armed(fault)) || self.hub.is_held();
        match if silent { 5 } else { self.hub.below(6) } {
            0 => info.sources.push(self.spec.units[unit].parts.no_source()),
            1 => {
                info.sources.clear();
                return Some(Lie::Shape);
            }
            2 => {
                // No table leads there.
                let first = Iova::new(0x0fff_0000_0000_0000);
                info.firmware_regions.push(ReservedRegion {
                    range: IovaRange::new(first, self.granule())?,
                    kind: ReservedKind::Direct,
                    prot: Prot::cached(Perms::READ_WRITE),
                    source: RegionSource::DeviceTree,
                });
                return Some(Lie::Shape);
            }
            3 => {
                (info.max_segment_bytes, info.segment_boundary) = (0, SizeLg2::new(3));
                return Some(Lie::Shape);
            }
            4 => {
                // The same source once more: one source for all that.
                let first = info.sources.first().copied();
                info.sources.extend(first);
                return None;
            }
            _ => {
                let taken = self.devices.iter().enumerate().find(|(other, state)| {
                    *other != index && state.spec.unit == unit && self.device(*other).is_some()
                });
                let other = taken.and_then(|(_, other)| other.engine.sources.first().copied());
                // Where nobody else is there, no table has room for it.
                info.sources.push(other.unwrap_or_else(|| self.spec.units[unit].parts.no_source()));
            }
        }
        Some(Lie::Source)
    }

    /// A device that firmware has lied about joins its group, if it may, and leaves at once. In between it is where the group is.
    fn goes_again(
        &self,
        index: usize,
        group: &super::world::GroupState,
        unit: &super::world::Unit,
        device: &Arc<portcullis::core::device::Device<crate::machine::SimPlatform>>,
    ) {
        let to = self.begin_coming(index, group);
        let joined = group.group.add_device(device);
        self.hub.shadow(|shadow| shadow.end_move(index, if joined.is_ok() { to } else { Way::Blocked }));
        if joined.is_ok() {
            self.hub.shadow(|shadow| shadow.begin_move(index, Way::Blocked));
            let left = group.group.remove_device(device);
            self.hub.shadow(|shadow| shadow.end_move(index, Way::Blocked));
            self.hub.hold(Promise::NoLeak, left.is_ok(), || {
                format!("a device of which firmware lied does not leave: {left:?}")
            });
        }
        let gone = unit.remove_device(device);
        self.hub.hold(Promise::NoLeak, gone.is_ok() || self.hub.is_held(), || {
            format!("a device of which firmware lied is not forgotten: {gone:?}")
        });
    }

    /// A device is about to join its group. Answers where that is.
    fn begin_coming(&self, index: usize, group: &super::world::GroupState) -> Way {
        let space = locked(&group.inner).space;
        let to = self.current(group, space);
        if to == Way::Space(space) {
            self.firmware_mapped(index, space);
        }
        self.hub.shadow(|shadow| shadow.begin_move(index, to));
        to
    }

    fn come(&self, index: usize) -> Done {
        let group = self.group_of(index);
        let unit = &self.units[group.unit].unit;
        let before = self.before(None);
        let mut info = self.info(index);
        let lie =
            self.hub.faults.fires(FaultKind::LyingFirmware).then(|| self.lie(index, &mut info)).flatten();
        let device = match unit.add_device(info) {
            Ok(device) if lie == Some(Lie::Shape) => {
                self.goes_again(index, group, unit, &device);
                return Done::Refused;
            }
            Ok(device) => {
                self.hub.hold(Promise::Isolation, lie != Some(Lie::Source), || {
                    "a device was given a source that is another's, or none".to_owned()
                });
                device
            }
            Err(error) => {
                if lie.is_none() {
                    self.excuse(&before, &error);
                }
                self.unwound(&before, false, &error);
                return Done::Refused;
            }
        };
        let to = self.begin_coming(index, group);
        self.hub.watch(true);
        let end = group.group.add_device(&device);
        self.hub.watch(false);
        let at = if end.is_ok() { to } else { Way::Blocked };
        self.hub.shadow(|shadow| {
            shadow.end_move(index, at);
            shadow.know(index, end.is_ok());
        });
        match end {
            Ok(()) => {
                *locked(&self.devices[index].device) = Some(device);
                if let Way::Space(space) = to {
                    self.nothing_reserved(index, space);
                }
                Done::Succeeded
            }
            Err(error) => {
                if let GroupError::Attach { .. } = error {
                    self.excuse(&before, &error);
                }
                let gone = unit.remove_device(&device);
                if gone.is_err() {
                    self.excuse(&before, &gone);
                    // Core says that it stays known, and blocked; hardware may be asked again later.
                    self.stranded(device);
                }
                Done::Refused
            }
        }
    }

    /// A device that core could not forget: tried again at the end.
    fn stranded(&self, device: Arc<portcullis::core::device::Device<crate::machine::SimPlatform>>) {
        locked(&self.stranded).push(device);
    }

    /// Whether hardware did not let a device go.
    pub(super) fn is_stranded(&self, index: usize) -> bool {
        let name = format!("device{index}");
        locked(&self.stranded).iter().any(|device| device.name() == name)
    }

    /// Where a group's devices are when they come.
    pub(super) fn current(&self, group: &super::world::GroupState, default: usize) -> Way {
        let current = group.group.current_domain();
        if Arc::ptr_eq(&current, &group.group.default_domain()) {
            return Way::Space(default);
        }
        let domains = locked(&self.domains);
        let users = domains.iter().flatten().find(|state| Arc::ptr_eq(&state.domain, &current));
        users.map_or(Way::Blocked, |state| Way::Space(state.space))
    }

    /// A device is taken away.
    pub(super) fn remove(&self, device: u8) -> Done {
        let index = self.device_index(device);
        let state = &self.devices[index];
        let Some(device) = self.device(index) else { return Done::Skipped };
        let shares = self.sharing.as_ref().is_some_and(|sharing| sharing.shares(index));
        if state.bound.load(Relaxed) || shares {
            return Done::Skipped;
        }
        let group = self.group_of(index);
        let before = self.before(None);
        self.hub.shadow(|shadow| shadow.begin_move(index, Way::Blocked));
        self.hub.watch(true);
        let left = group.group.remove_device(&device);
        self.hub.watch(false);
        let was = self.hub.shadow(|shadow| shadow.way(index));
        let at = if left.is_ok() { Way::Blocked } else { was };
        self.hub.shadow(|shadow| shadow.end_move(index, at));
        if let Err(error) = left {
            let claimed = locked(&group.inner).ledger.claims.contains(&index);
            let fits = !matches!(error, GroupError::Held) || claimed;
            self.hub.hold(Promise::OneOwner, fits, || {
                format!("a device that nobody holds does not leave: {error:?}")
            });
            self.excuse(&before, &error);
            return Done::Refused;
        }
        let claimed = locked(&group.inner).ledger.claims.contains(&index);
        self.hub
            .hold(Promise::OneOwner, !claimed, || format!("device {index} is a user's, and was taken away"));
        *locked(&state.device) = None;
        self.hub.shadow(|shadow| shadow.know(index, false));
        if let Err(error) = self.units[group.unit].unit.remove_device(&device) {
            self.excuse(&before, &error);
            self.stranded(device);
            return Done::Refused;
        }
        Done::Succeeded
    }

    /// A device is reset while it works, and goes on moving bytes as if nothing had happened.
    pub(super) fn reset(&self, device: u8) -> Done {
        let index = self.device_index(device);
        if self.device(index).is_none() {
            return Done::Skipped;
        }
        self.devices[index].engine.reset();
        self.hub.faults.fired(FaultKind::DmaAfterReset);
        let mut addresses: Vec<u64> = locked(&self.stale)
            .iter()
            .filter(|stale| stale.device == index)
            .map(|stale| stale.iova)
            .collect();
        // And what it has, if it has anything; some address in any case.
        addresses.extend(self.live_address(index, 0, 0));
        if addresses.is_empty() {
            addresses.push(self.granule());
        }
        for iova in addresses {
            let _either_way = self.access(index, 0, iova, 8, true);
        }
        Done::Succeeded
    }

    /// Another IOMMU is brought up, and turned off again: whatever fails on the way, nothing is left of it.
    pub(super) fn probe(&self, shape: u8) -> Done {
        let unit = &self.spec.units[usize::from(shape) % self.units.len()];
        let unit = UnitSpec { registers: SPARE_UNIT, ..unit.clone() };
        let Ok(iron) = unit.build(&self.hub, self.spec.coherent, u64::from(shape)) else {
            return Done::Skipped;
        };
        self.guest.is(Some(iron.model()));
        let before = self.before(None);
        let done = match unit.probe(self.units.len(), &self.platform, None) {
            Ok(driver) => {
                if let Err(error) = driver.teardown() {
                    self.excuse(&before, &error);
                    self.hub.end();
                    let before = self.before(None);
                    if let Err(error) = driver.teardown() {
                        self.excuse_any(&before, &error);
                        self.lost.store(true, Relaxed);
                    }
                }
                drop(driver);
                let keeps = unit.parts.keeps();
                self.kept.fetch_add(keeps, Relaxed);
                let before = Before { blocks: before.blocks + keeps, ..before };
                self.unwound(&before, false, &"it was turned off");
                Done::Succeeded
            }
            Err(error) => {
                self.excuse(&before, &error);
                self.unwound(&before, false, &error);
                // What hardware did not confirm to have forgotten stays where it may look for it.
                self.lost.fetch_or(self.hub.faults.unconfirmed() > before.unconfirmed, Relaxed);
                Done::Refused
            }
        };
        self.guest.is(None);
        self.bus.remove(Pa::new(SPARE_UNIT));
        let tap = self.hub.tap(self.units.len());
        let forbidden = iron.take_unpredictable().into_iter().find(|one| !iron.is_excused(one, tap, false));
        self.hub
            .hold(Promise::Book, forbidden.is_none(), || format!("while it was brought up: {forbidden:?}"));
        done
    }
}
