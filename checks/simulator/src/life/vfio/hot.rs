//! Endpoints of a POWER8 bridge that come and go while others work: all devices of a group, which nobody has, leave; and come again, as another PE.
//!
//! Firmware may lie of them when they come, and of a whole bridge: then what cannot be is refused, and leaves nothing behind.

use std::sync::Arc;

use model_bus::Chance;
use model_ioda2::{Config as Model, Phb3 as PowerModel};
use portcullis::core::bus::Place;
use portcullis::core::iommu::{AddDeviceError, RegionSource, ReservedKind, ReservedRegion};
use portcullis::ioda2::{AssignError, Config, M32, Phb3, ProbeError};
use portcullis::types::{Iova, IovaRange, Pa, PaRange, PageSizes, Perms, Prot, SizeLg2, SourceId};
use portcullis_lab::trace;

use super::world::{Iron, Known, PowerDriver, Presence, UserWorld, bell, info, set_slot};
use super::{Before, Done};
use crate::fault::FaultKind;
use crate::hub::locked;
use crate::machine::{BridgeRegisters, BridgeWire, SPARE_BRIDGE, SPARE_DOORBELL, SimFunction, draw_power};
use crate::oracle::Way;
use crate::promise::Promise;

impl UserWorld {
    fn bridge(&self) -> Option<&Arc<PowerDriver>> {
        if let Iron::Power { driver, .. } = &self.iron { Some(driver) } else { None }
    }

    pub(super) fn members_at(&self, group: usize, at: Presence) -> Vec<usize> {
        let members = self.groups[group].members.iter().copied();
        members.filter(|&member| self.devices[member].presence() == at).collect()
    }

    /// Whether a failure may be: something was in the way.
    fn excused(&self, before: &Before) -> bool {
        self.fired(before) || self.doubted()
    }

    /// All devices of a group are taken away, if nobody has them.
    pub(super) fn remove(&self, device: u8) -> Done {
        let index = self.device_index(device);
        let group = self.devices[index].spec.group;
        let held = locked(&self.groups[group].held).clone();
        let there = self.members_at(group, Presence::In);
        if there.is_empty() || held.drivers > 0 || held.files > 0 || held.container.is_some() {
            return Done::Skipped;
        }
        let before = self.before();
        for member in there {
            drop(locked(&self.registered)[member].take());
            let device = self.devices[member].device();
            self.hub.shadow(|shadow| shadow.begin_move(member, Way::Blocked));
            if let Err(error) = self.groups[group].group.remove_device(&device) {
                // The bridge has not confirmed it: the device is on either side, or wherever an earlier move that was left open has it.
                self.hub.hold(Promise::Service, self.excused(&before), || {
                    format!("device {member} does not leave its group: {error:?}")
                });
                self.register(member);
                return Done::Refused;
            }
            self.hub.shadow(|shadow| shadow.end_move(member, Way::Blocked));
            self.devices[member].is_now(Presence::Out);
        }
        if self.forget(group, &before) { Done::Succeeded } else { Done::Refused }
    }

    /// The bridge forgets devices that are in no group.
    fn forget(&self, group: usize, before: &Before) -> bool {
        for member in self.members_at(group, Presence::Out) {
            let device = self.devices[member].device();
            if let Err(error) = self.units[0].remove_device(&device) {
                self.hub.hold(Promise::Service, self.excused(before), || {
                    format!("device {member} is not forgotten: {error:?}")
                });
                return false;
            }
            self.devices[member].is_now(Presence::Gone);
            self.hub.shadow(|shadow| {
                shadow.end_move(member, Way::Blocked);
                shadow.arrived(member);
                shadow.know(member, false);
            });
        }
        if self.members_at(group, Presence::Gone).len() == self.groups[group].members.len() {
            *locked(&self.groups[group].pe) = None;
        }
        true
    }

    /// Users can have a device that is in its group.
    fn register(&self, member: usize) {
        let known = self.devices[member].known();
        let place =
            Place { device: known.device, group: self.groups[self.devices[member].spec.group].group.clone() };
        let registered = self.vfio.register(&place, known.function);
        self.hub.hold(Promise::Service, registered.is_ok(), || {
            format!("device {member} is not registered: {registered:?}")
        });
        locked(&self.registered)[member] = registered.ok();
    }

    /// They come again.
    pub(super) fn add(&self, device: u8) -> Done {
        let index = self.device_index(device);
        let group = self.devices[index].spec.group;
        let Some(driver) = self.bridge() else { return Done::Skipped };
        if self.members_at(group, Presence::In).len() == self.groups[group].members.len() {
            return Done::Skipped;
        }
        let before = self.before();
        if !self.is_held() && self.hub.faults.fires(FaultKind::LyingFirmware) {
            self.lie(driver, group, &before);
            return Done::Refused;
        }
        let gone = !self.members_at(group, Presence::Gone).is_empty();
        if gone && !(self.forget(group, &before) && self.become_a_pe(driver, group, &before)) {
            return Done::Refused;
        }
        for member in self.members_at(group, Presence::Out) {
            if !self.join(group, member, &before) {
                return Done::Refused;
            }
        }
        let set = set_slot(driver, &self.devices, &self.groups[group]);
        self.hub.hold(Promise::Service, set.is_ok(), || format!("no slot for group {group}: {set:?}"));
        Done::Succeeded
    }

    fn sources(&self, group: usize) -> Vec<SourceId> {
        let members = self.groups[group].members.iter();
        members.flat_map(|&member| self.devices[member].engine.sources.iter().copied()).collect()
    }

    /// The sources of a group become a PE, and its devices known.
    fn become_a_pe(&self, driver: &Arc<PowerDriver>, group: usize, before: &Before) -> bool {
        let sources = self.sources(group);
        // What an earlier try may have left.
        if self.units[0].iommu().remove_device(&sources).is_err() {
            self.hub.hold(Promise::Service, self.excused(before), || "a PE is not forgotten".to_owned());
            return false;
        }
        let pe = driver.assign(&sources);
        let most = self.groups.len();
        // A PE of whose windows the bridge has not confirmed that they are gone outlives its devices: one of each group for each time that it did not, since a user who dies then
        // may have had them all.
        let left = usize::try_from(self.hub.faults.unconfirmed()).unwrap_or(usize::MAX);
        let lawful = pe.is_ok_and(|pe| usize::from(pe) <= most.saturating_mul(left.saturating_add(1)));
        self.hub.hold(Promise::NoLeak, lawful, || {
            format!("group {group} of {most} becomes a PE again: {pe:?}, and all others are in one each")
        });
        *locked(&self.groups[group].pe) = pe.ok();
        for &member in &self.groups[group].members {
            let state = &self.devices[member];
            let device = match self.units[0].add_device(info(member, &state.spec, true)) {
                Ok(device) => device,
                Err(error) => {
                    self.hub.hold(Promise::Service, self.excused(before), || {
                        format!("device {member} does not come: {error:?}")
                    });
                    return false;
                }
            };
            let function =
                SimFunction::new(state.engine.clone(), self.platform.clone(), device.clone(), bell(true));
            let Ok(function) = function else { return false };
            state.is_another(Known { device, function, at: Presence::Out });
            self.hub.shadow(|shadow| shadow.know(member, true));
        }
        true
    }

    /// Where a device is that joins a group: in a PE that is a user's it has his windows, as those have that came before.
    fn place_in(&self, group: usize) -> Way {
        let state = &self.groups[group];
        let container = locked(&state.held).container.and_then(|id| self.container(id));
        match container {
            Some(one) if one.kind != 0 => Way::Space(one.space),
            Some(_) => Way::Blocked,
            None if Arc::ptr_eq(&state.group.current_domain(), &state.group.default_domain()) => {
                Way::Space(state.space)
            }
            None => Way::Blocked,
        }
    }

    /// A device that is known joins its group.
    fn join(&self, group: usize, member: usize, before: &Before) -> bool {
        let state = &self.groups[group];
        let to = self.place_in(group);
        self.hub.shadow(|shadow| shadow.begin_move(member, to));
        let joined = state.group.add_device(&self.devices[member].device());
        self.hub.shadow(|shadow| {
            shadow.end_move(member, if joined.is_ok() { to } else { Way::Blocked });
            if joined.is_ok() {
                shadow.arrived(member);
            }
        });
        if let Err(error) = joined {
            self.hub.hold(Promise::Service, self.excused(before), || {
                format!("device {member} does not join its group: {error:?}")
            });
            return false;
        }
        self.devices[member].is_now(Presence::In);
        self.register(member);
        true
    }

    /// Firmware says of a device that comes what cannot be: it is refused, or comes and goes, and nothing is left of it.
    fn lie(&self, driver: &Arc<PowerDriver>, group: usize, before: &Before) {
        let Some(&member) = self.groups[group].members.first() else { return };
        let (liar, iommu) = (SourceId(0xfff8), self.units[0].iommu());
        // The last one, if a silent bridge did not let it go.
        let left =
            |(group, device): &(usize, Arc<_>)| self.groups[*group].group.remove_device(device).is_ok();
        let mut strays = locked(&self.strays);
        strays.retain(|stray| !left(stray));
        if !strays.is_empty() || iommu.remove_device(&[liar]).is_err() {
            return;
        }
        drop(strays);
        let mut info = info(member, &self.devices[member].spec, true);
        info.name = "liar".into();
        info.sources = [liar].into();
        let far = SourceId(0x1_0000);
        let known = |index: &usize| self.devices[*index].presence() != Presence::Gone;
        let other = (0..self.devices.len()).find(known).map(|index| self.devices[index].engine.sources[0]);
        let first = match self.hub.below(6) {
            0 => [liar, far].to_vec(),
            1 => Vec::new(),
            2 => [liar; 2].to_vec(),
            3 => {
                // No table leads there.
                let range =
                    IovaRange::new(Iova::new(0x0fff_0000_0000_0000), 0x1000).expect("it does not wrap");
                info.firmware_regions.push(ReservedRegion {
                    range,
                    kind: ReservedKind::Direct,
                    prot: Prot::cached(Perms::READ_WRITE),
                    source: RegionSource::DeviceTree,
                });
                info.sources.clone()
            }
            4 => {
                (info.max_segment_bytes, info.segment_boundary) = (0, SizeLg2::new(3));
                info.sources.clone()
            }
            _ => info.sources.iter().copied().chain(other).collect(),
        };
        info.sources = first;
        let wrong = info.sources.contains(&far) || other.is_some_and(|other| info.sources.contains(&other));
        let assigned = driver.assign(&info.sources);
        let fits = match assigned {
            Ok(_) => !wrong && !info.sources.is_empty(),
            Err(AssignError::Nobody) => info.sources.is_empty(),
            Err(_) => wrong,
        };
        self.hub.hold(Promise::Isolation, fits, || format!("{:?} became a PE: {assigned:?}", info.sources));
        let sources = info.sources.clone();
        match self.units[0].add_device(info) {
            Ok(device) => {
                self.hub.hold(Promise::Isolation, !wrong, || {
                    format!("a device was given a source that is another's, or none: {sources:?}")
                });
                let home = &self.groups[group].group;
                if home.add_device(&device).is_ok() {
                    let left = home.remove_device(&device);
                    self.hub.hold(Promise::NoLeak, left.is_ok() || self.excused(before), || {
                        format!("a device of which firmware lied does not leave: {left:?}")
                    });
                    if left.is_err() {
                        locked(&self.strays).push((group, device));
                        return;
                    }
                }
                let gone = self.units[0].remove_device(&device);
                self.hub.hold(Promise::NoLeak, gone.is_ok() || self.excused(before), || {
                    format!("a device of which firmware lied is not forgotten: {gone:?}")
                });
            }
            Err(error) => {
                let lawful = match error {
                    AddDeviceError::Taken { .. } | AddDeviceError::OutOfRange { .. } => wrong,
                    _ => self.excused(before),
                };
                self.hub.hold(Promise::Service, lawful, || format!("{sources:?}: {error:?}"));
            }
        }
        let stays = driver.pe_of(liar).is_some() && !self.unconfirmed(before);
        self.hub.hold(Promise::NoLeak, !stays, || "what firmware lied of is in a PE still".to_owned());
    }

    /// Another bridge is brought up and turned off again. Of some of them firmware says what cannot be: those are refused. Whatever fails on the way, nothing is left.
    pub(super) fn probe(&self, shape: u8) -> Done {
        let Some(_) = self.bridge() else { return Done::Skipped };
        let chance = Chance::new(u64::from(shape) ^ self.hub.below(1 << 32));
        let (mut model, mut config) = draw_power(&chance, super::world::END);
        model.doorbell = Pa::new(SPARE_DOORBELL);
        config.m32 = chance.once_in(2).then_some(TRUE_M32);
        let lies = self.hub.faults.fires(FaultKind::LyingFirmware);
        if lies {
            falsify(&mut config, chance.below(LIES));
        }
        let fabric = Arc::new(BridgeWire::new(&self.hub));
        let model = Arc::new(PowerModel::new(model, fabric, shape.into(), trace::shared(None)));
        let bus = &self.hub.bus;
        let place = |first, bytes| PaRange::new(Pa::new(first), bytes).expect("it does not wrap");
        let registers =
            bus.add_registers("spare", place(SPARE_BRIDGE, PowerModel::REGISTER_BYTES), model.clone());
        let messages =
            bus.add_doorbell("spare messages", place(SPARE_DOORBELL, Model::DOORBELL_BYTES), model.clone());
        self.hub.hold(Promise::Alive, registers.is_ok() && messages.is_ok(), || {
            format!("no room for a bridge: {registers:?}, {messages:?}")
        });
        self.guest.is(Some(model.clone()));
        let registers = BridgeRegisters::spare(&self.hub);
        let before = self.before();
        let done = match Phb3::probe(self.platform.clone(), registers.clone(), config.clone()) {
            Ok(driver) => {
                self.hub.hold(Promise::Book, !lies, || format!("a bridge was brought up as {config:?}"));
                registers.speak();
                let down = driver.teardown();
                self.hub.hold(Promise::NoLeak, down.is_ok() || self.excused(&before), || {
                    format!("a bridge is not turned off: {down:?}")
                });
                registers.speak();
                let again = driver.teardown();
                self.hub.hold(Promise::NoLeak, again.is_ok(), || format!("nor when it answers: {again:?}"));
                drop(driver);
                Done::Succeeded
            }
            Err(error) => {
                let lawful = match error {
                    ProbeError::NoMemory | ProbeError::Sync(_) | ProbeError::NotPhb3(_) => {
                        self.excused(&before)
                    }
                    _ => lies,
                };
                self.hub.hold(Promise::Service, lawful, || format!("{config:?}: {error}"));
                registers.speak();
                Done::Refused
            }
        };
        let now = self.before();
        let lost = now.blocks > before.blocks && !self.unconfirmed(&before);
        self.hub.hold(Promise::NoLeak, !lost, || {
            format!("a bridge came and went: {} blocks before, and {} now", before.blocks, now.blocks)
        });
        let forbidden = model.take_unpredictable();
        self.hub.hold(Promise::Book, forbidden.is_empty(), || format!("{forbidden:?}"));
        self.guest.is(None);
        bus.remove(Pa::new(SPARE_BRIDGE));
        bus.remove(Pa::new(SPARE_DOORBELL));
        done
    }
}

/// As on POWER8: above 2 GiB on the bus.
const TRUE_M32: M32 =
    M32 { cpu_first: Pa::new(0x3fe0_0000_0000), pci_first: 0x8000_0000, bytes: 0x8000_0000 };

/// What firmware can lie about a bridge.
const LIES: usize = 12;

/// Makes a bridge one that cannot be: wrong sizes, windows where others are, nothing where something must be.
fn falsify(config: &mut Config, lie: usize) {
    let m32 = |change: fn(&mut M32)| {
        let mut m32 = TRUE_M32;
        change(&mut m32);
        Some(m32)
    };
    match lie {
        0 => config.window32_bytes = 0,
        1 => config.window32_bytes = 0x00ff_f000,
        2 => config.window32_bytes = 1 << 33,
        3 => config.page_sizes = PageSizes::from_bits(0),
        4 => config.page_sizes = PageSizes::from_bits(0x1101_1000 | 1 << 44),
        5 => config.default_levels = 0,
        6 => config.default_levels = 9,
        7 => config.m32 = m32(|m32| m32.bytes = 0),
        8 => config.m32 = m32(|m32| m32.bytes -= 0x1_0000),
        9 => config.m32 = m32(|m32| m32.pci_first = 0),
        10 => config.m32 = m32(|m32| m32.cpu_first = Pa::new(0x3fe0_0001_0000)),
        _ => config.bypass_end = Some(Pa::new(1 << 52)),
    }
}
