//! Bringing up what is below a PCI host bridge: enumeration, IOMMU, groups.

use core::convert::Infallible;
use std::sync::Arc;

use portcullis::core::bus::{Driver, Place};
use portcullis::core::device::DeviceInfo;
use portcullis::core::domain::FlushMode;
use portcullis::core::group::Group;
use portcullis::core::iommu::{RegionSource, ReservedKind, ReservedRegion};
use portcullis::firmware::acpi::FoundFunction;
use portcullis::firmware::{
    DeviceRef, Machine, MsiControllerKind, MsiTarget, PciConfig, PciHost, PciMsi, ReservedUse, Translation,
};
use portcullis::pci::{self, Bdf, ConfigAccess, Ecam, Space, Topology};
use portcullis::types::{Iova, IovaRange, SourceId};

use super::drivers::{Binding, Bound, Port, unbind};
use super::phb3::{self, Phb3Config};
use super::unit::{Hardware, Unit};
use super::{Standing, System, not_added};
use crate::error::RunError;
use crate::platform::LabPlatform;

/// A host bridge and what is below it.
pub struct HostBridge {
    /// Its index in the firmware's list.
    pub index: usize,
    /// Its configuration space.
    pub config: Arc<dyn ConfigAccess + Send + Sync>,
    /// What enumeration found.
    pub topology: Topology,
    /// Every function, bridges included, in the topology's order.
    pub endpoints: Vec<Endpoint>,
    pub(super) groups: Vec<Arc<Group<LabPlatform>>>,
}

impl core::fmt::Debug for HostBridge {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("HostBridge").field("topology", &self.topology).finish_non_exhaustive()
    }
}

/// A function, and where it stands.
#[derive(Debug)]
pub struct Endpoint {
    /// Its name: `0000:00:01.0`.
    pub name: String,
    /// Its index in the topology.
    pub function: usize,
    /// Whether it can do DMA, and through what.
    pub standing: Standing,
    /// Where its messages go; none if firmware does not say.
    pub msi: Option<MsiTarget>,
    /// Its driver.
    pub binding: Binding,
}

impl Endpoint {
    fn new(name: String, function: usize, standing: Standing, msi: Option<MsiTarget>) -> Self {
        let place = match &standing {
            Standing::Behind { device, group } => {
                Some(Place { device: device.clone(), group: group.clone() })
            }
            Standing::Uncovered(_) => None,
        };
        Self { name, function, standing, msi, binding: Binding::new(place) }
    }

    /// The name of the driver that is bound.
    pub fn driver_name(&self) -> Option<String> {
        self.binding.driver().map(|driver| driver.name)
    }

    /// Its driver, if it is a bridge: one that does no DMA.
    fn bind_port(&self) {
        let bound = self.binding.bind(
            Driver::managing_dma("pcieport"),
            || Ok::<_, Infallible>(()),
            |_| Ok(Box::new(Port) as Box<dyn Bound>),
        );
        debug_assert!(bound.is_ok(), "it has no driver yet, and asks for nothing");
    }
}

/// What is below a host bridge, found, and with no devices made of it yet.
pub(super) struct Found {
    config: Arc<dyn ConfigAccess + Send + Sync>,
    past_freezes: Option<Arc<Phb3Config>>,
    topology: Topology,
}

/// Enumerates what is below host bridge `index` of the firmware's list, of which firmware is told then.
pub(super) fn find(system: &mut System, index: usize) -> Found {
    let host = &system.firmware.pci_hosts[index];
    let (config, past_freezes): (Arc<dyn ConfigAccess + Send + Sync>, _) = match &host.config {
        PciConfig::Ecam(ecam) => {
            (Arc::new(Ecam::new(system.platform.registers(*ecam), host.buses.clone())), None)
        }
        PciConfig::Phb3(phb) => {
            let past_freezes = Arc::new(Phb3Config::new(system.platform.registers(phb.registers)));
            (past_freezes.clone(), Some(past_freezes))
        }
    };
    let bridge = pci::HostBridge {
        segment: host.segment,
        buses: host.buses.clone(),
        windows: host.windows.clone(),
        segment_bytes: phb3::segment_bytes(host),
    };
    let topology = pci::enumerate(&*config, &bridge);
    let found = Found { config, past_freezes, topology };
    system.firmware.place_functions(index, &found.functions());
    found
}

impl Found {
    /// The functions as firmware's tables name them.
    fn functions(&self) -> Vec<FoundFunction> {
        let topology = &self.topology;
        let step = |function: usize| {
            let at = topology.functions[function].at;
            (at.device(), at.function())
        };
        let found = |function: usize| {
            let mut path: Vec<_> = topology.bridges_above(function).map(step).collect();
            path.reverse();
            path.push(step(function));
            let class = topology.functions[function].class;
            FoundFunction {
                at: topology.functions[function].at,
                requester_ids: topology.requester_ids(function),
                path,
                class: (class.base_class(), class.subclass()),
            }
        };
        (0..topology.functions.len()).map(found).collect()
    }
}

/// Brings up host bridge `index` of the firmware's list, below which is what was `found`.
pub(super) fn bring_up(
    system: &System,
    index: usize,
    found: Found,
    mode: FlushMode,
) -> Result<HostBridge, RunError> {
    let host = &system.firmware.pci_hosts[index];
    let Found { config, past_freezes, topology } = found;
    let mut found = HostBridge { index, config, topology, endpoints: Vec::new(), groups: Vec::new() };
    let mut standings: Vec<Option<Standing>> = found.topology.functions.iter().map(|_| None).collect();
    let mut next_id = system.next_group_id();
    for members in found.topology.groups() {
        let topology = &found.topology;
        let mut builder =
            GroupBuilder { system, index, mode, topology, members: &members, groups: Vec::new(), next_id };
        let ids = found.topology.distinct_ids(&members);
        builder.join(&members, &ids)?;
        let unit_of = |function| builder.covering(function, &[]).ok().map(|(unit, _)| unit.index);
        let split = is_split(&found.topology, &members, unit_of);
        for (&function, ids) in members.iter().zip(&ids) {
            let is_bridge = found.topology.functions[function].bridge().is_some();
            standings[function] = Some(match split && !is_bridge {
                true => Standing::Uncovered("it cannot be kept apart from a device behind another IOMMU"),
                false => builder.place(function, ids)?,
            });
        }
        next_id = builder.next_id;
        let groups = builder.groups;
        found.groups.extend(groups);
    }
    phb3::know_devices(system, host, &found)?;
    // Who resets devices goes on past freezes; all others do not.
    if let Some(past_freezes) = past_freezes {
        found.config = Arc::new(past_freezes.with_pes(system, host, &found.topology));
    }
    let standings =
        standings.into_iter().map(|standing| standing.unwrap_or(Standing::Uncovered("it is in no group")));
    found.endpoints = standings
        .enumerate()
        .map(|(function, standing)| {
            let at = found.topology.functions[function].at;
            let name = found.topology.name(at).to_string();
            Endpoint::new(name, function, standing, message_target(host, at))
        })
        .collect();
    let bridges =
        found.endpoints.iter().filter(|at| found.topology.functions[at.function].bridge().is_some());
    bridges.for_each(Endpoint::bind_port);
    Ok(found)
}

/// Where a function's messages go. The CPUs of a PC hear all segments, in which functions have the same ids: there the segment is in front.
fn message_target(host: &PciHost, at: Bdf) -> Option<MsiTarget> {
    let target = host.msi_target(at)?;
    let to_cpus = matches!(host.msi, PciMsi::Parent(_));
    let segment = if to_cpus { u32::from(host.segment) << 16 } else { 0 };
    Some(MsiTarget { device_id: target.device_id.map(|id| segment | id), ..target })
}

/// Takes devices out of their groups and away from their IOMMUs.
pub(super) fn let_go(units: &[Unit], host: HostBridge) -> Result<(), RunError> {
    let mut result = Ok(());
    for endpoint in host.endpoints {
        result = result.and(unbind(&endpoint.binding));
        host.topology.disable_bus_master(&*host.config, endpoint.function);
        result = result.and(super::let_go(units, &endpoint.name, endpoint.standing));
    }
    result
}

/// Whether there are devices behind different IOMMUs among functions that must be together. One group cannot have them all, and who had one would reach what is
/// another's. Bridges, which do no DMA of their own, do not count.
fn is_split(topology: &Topology, members: &[usize], unit_of: impl Fn(usize) -> Option<usize>) -> bool {
    let devices = members.iter().filter(|&&member| topology.functions[member].bridge().is_none());
    let mut units = devices.filter_map(|&member| unit_of(member));
    units.next().is_some_and(|first| units.any(|other| other != first))
}

/// Whether messages of the function at `at` arrive under a name that nobody outside its group has.
fn has_own_messages(
    topology: &Topology,
    members: &[usize],
    at: Bdf,
    target_of: impl Fn(Bdf) -> Option<MsiTarget>,
) -> bool {
    let own = target_of(at);
    let others = (0..topology.functions.len()).filter(|other| !members.contains(other));
    others.map(|other| topology.functions[other].at).all(|other| target_of(other) != own)
}

/// Makes the groups of functions that must be together: one for the devices, and one for each other IOMMU that bridges among them are behind.
struct GroupBuilder<'a> {
    system: &'a System,
    index: usize,
    mode: FlushMode,
    topology: &'a Topology,
    members: &'a [usize],
    groups: Vec<Arc<Group<LabPlatform>>>,
    next_id: u32,
}

impl<'a> GroupBuilder<'a> {
    fn host(&self) -> &PciHost {
        &self.system.firmware.pci_hosts[self.index]
    }

    /// `ids` are those of the function's requester ids that are with it rather than with another member of the group.
    fn place(&mut self, function: usize, ids: &[Bdf]) -> Result<Standing, RunError> {
        let (unit, sources) = match self.covering(function, ids) {
            Ok(covering) => covering,
            Err(why) => return Ok(Standing::Uncovered(why)),
        };
        let at = self.topology.functions[function].at;
        let name = self.topology.name(at).to_string();
        let wrong = |error: String| RunError::wrong(&name, error, "run with -v to see the SMMU's commands");
        let info = self.info(&name, at, sources);
        let device = unit.unit.add_device(info).map_err(|error| not_added(&name, &error))?;
        let group = self.group_for(unit)?;
        group.add_device(&device).map_err(|error| wrong(format!("it did not join its group: {error:?}")))?;
        Ok(Standing::Behind { device, group })
    }

    /// Functions that must be together are one PE of a PHB3, before any of them is known to it.
    fn join(&self, members: &[usize], ids: &[Vec<Bdf>]) -> Result<(), RunError> {
        for unit in &self.system.units {
            let Hardware::Phb3(phb, _) = &unit.driver else { continue };
            let covered =
                members.iter().zip(ids).filter_map(|(&function, ids)| self.covering(function, ids).ok());
            let own = covered.filter(|(other, _)| other.index == unit.index);
            let sources: Vec<SourceId> = own.flat_map(|(_, sources)| sources).collect();
            if !sources.is_empty() {
                phb.assign(&sources).map_err(|error| {
                    let what = format!("no PE for {sources:?}: {error:?}");
                    RunError::wrong(unit.name(), what, "run with -v to see what led to it")
                })?;
            }
        }
        Ok(())
    }

    /// The IOMMU that covers a function, and who the function is there.
    fn covering(&self, function: usize, ids: &[Bdf]) -> Result<(&'a Unit, Vec<SourceId>), &'static str> {
        let system = self.system;
        let mut covering: Option<usize> = None;
        let mut sources = Vec::new();
        for id in self.topology.requester_ids(function) {
            let (iommu, source) = match self.host().translation(id) {
                Translation::Behind { iommu, source } => (iommu, source),
                Translation::NoIommu => return Err("its host bridge has no iommu-map"),
                Translation::Uncovered => return Err("its requester id is not in the iommu-map"),
            };
            if covering.is_some_and(|other| other != iommu) {
                return Err("its requester ids are behind different IOMMUs");
            }
            covering = Some(iommu);
            if ids.contains(&id) {
                sources.push(source);
            }
        }
        let iommu = covering.ok_or("it has no requester id")?;
        let unit = system.unit(iommu).ok_or("its IOMMU is not enabled")?;
        sources.dedup();
        Ok((unit, sources))
    }

    fn group_for(&mut self, unit: &Unit) -> Result<Arc<Group<LabPlatform>>, RunError> {
        let same = |group: &&Arc<Group<LabPlatform>>| group.iommu().name() == unit.name();
        if let Some(group) = self.groups.iter().find(same) {
            return Ok(group.clone());
        }
        let group = self.system.new_group(unit, self.next_id, self.mode)?;
        self.next_id += 1;
        self.groups.push(group.clone());
        Ok(group)
    }

    /// What firmware and enumeration know of a function.
    fn info(&self, name: &str, at: Bdf, sources: Vec<SourceId>) -> DeviceInfo {
        let host = self.host();
        let mut info = DeviceInfo::new(name, &sources);
        info.pci = true;
        info.coherent = host.dma_coherent;
        let of_memory = host.windows.iter().filter(|window| window.space != Space::Io);
        info.bridge_windows = of_memory
            .filter_map(|window| IovaRange::new(Iova::new(window.bus_first), window.size_bytes))
            .collect();
        if let Some(ranges) = &host.dma_ranges {
            info.bus_limit = ranges.iter().map(|range| range.bus.last()).max();
            info.bridge_windows.extend(gaps(ranges.iter().map(|range| range.bus)));
        }
        let function = Machine::pci_function(self.index, at);
        info.firmware_regions = reserved(&self.system.firmware, &function);
        // An ITS tells devices apart, and a PHB3 PEs, so that none can raise another's interrupts, unless firmware gives both one name.
        let kind =
            |target: MsiTarget| Some(self.system.firmware.msi_controllers.get(target.controller)?.kind);
        let kind = host.msi_target(at).and_then(kind);
        info.isolated_interrupts = matches!(kind, Some(MsiControllerKind::Its | MsiControllerKind::Phb3))
            && has_own_messages(self.topology, self.members, at, |at| host.msi_target(at));
        info
    }
}

/// Addresses between ranges.
pub(super) fn gaps(ranges: impl Iterator<Item = IovaRange>) -> Vec<IovaRange> {
    let mut ranges: Vec<IovaRange> = ranges.collect();
    ranges.sort();
    let mut next = Some(Iova::new(0));
    let mut gaps = Vec::new();
    for range in ranges {
        let Some(first) = next else { break };
        let before = range.first().checked_sub(1).and_then(|last| IovaRange::from_ends(first, last));
        gaps.extend(before);
        next = range.last().checked_add(1).map(|after| after.max(first));
    }
    gaps
}

/// The regions that firmware reserves for a device.
pub(super) fn reserved(firmware: &Machine, device: &DeviceRef) -> Vec<ReservedRegion> {
    let regions = firmware.reserved_for(device);
    let source = match (firmware.has_dmar(), firmware.has_iort()) {
        (true, _) => RegionSource::Dmar,
        (false, true) => RegionSource::Iort,
        (false, false) => RegionSource::DeviceTree,
    };
    let kind = |used| match used {
        ReservedUse::Direct => ReservedKind::Direct,
        ReservedUse::DirectRelaxable => ReservedKind::DirectRelaxable,
        ReservedUse::Reserved => ReservedKind::Reserved,
    };
    regions
        .map(|(_, addresses)| ReservedRegion {
            range: addresses.range,
            kind: kind(addresses.used),
            prot: addresses.prot,
            source,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use portcullis::pci::{Bridge, Capabilities, Function, IoWidth, Kind, PrefetchableWidth};
    use portcullis::spec::pcie::header::ClassRevision;

    use super::*;

    fn function(device: u8, kind: Kind) -> Function {
        Function {
            at: Bdf::new(0, device, 0).unwrap(),
            above: None,
            vendor: 0x1b36,
            device: 0x10,
            class: ClassRevision::from_bits(0),
            kind,
            port: None,
            capabilities: Capabilities::default(),
            bars: Vec::new(),
            acs: None,
            aliases: Vec::new(),
        }
    }

    #[test]
    fn devices_that_must_be_together_and_are_behind_two_iommus_are_nobodys_and_bridges_do_not_count() {
        let (prefetchable, io) = (PrefetchableWidth::None, IoWidth::None);
        let bridge = Kind::Bridge(Bridge { secondary: None, subordinate: 0, prefetchable, io });
        let kinds = [bridge, Kind::Endpoint, Kind::Endpoint, Kind::Endpoint];
        let functions = (1..).zip(kinds).map(|(device, kind)| function(device, kind)).collect();
        let topology = Topology { functions, ..Topology::default() };
        let units = [Some(0), Some(1), Some(1), Some(0)];
        let split = |members: &[usize]| is_split(&topology, members, |member| units[member]);
        assert!(split(&[1, 3]) && split(&[0, 1, 2, 3]));
        assert!(!split(&[0, 1, 2]) && !split(&[0, 3]) && !split(&[0]));
        let only_first = |member| (member == 1).then_some(0);
        assert!(!is_split(&topology, &[1, 2], only_first), "one that is not covered is not used");
    }

    #[test]
    fn messages_of_functions_with_one_name_are_apart_only_from_those_of_others_than_these() {
        let functions: Vec<Function> = (1..4).map(|device| function(device, Kind::Endpoint)).collect();
        let at = [0, 1, 2].map(|member: usize| functions[member].at);
        let topology = Topology { functions, ..Topology::default() };
        // As an `msi-map-mask` can have it: the last two have one device id.
        let target = |of: Bdf| {
            Some(MsiTarget { controller: 0, device_id: Some(u32::from(of.requester_id()) & 0xfff0 | 1) })
        };
        let own = |members: &[usize], member: usize| has_own_messages(&topology, members, at[member], target);
        assert_eq!(at.map(|at| target(at).unwrap().device_id.unwrap()), [1, 0x11, 0x11]);
        assert!(own(&[0], 0) && own(&[1, 2], 1) && !own(&[1], 1) && !own(&[2], 2));
    }
}
