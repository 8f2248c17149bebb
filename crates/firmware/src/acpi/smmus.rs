//! What IORT says of a machine: SMMUs, who is which stream of which, whose messages go to which ITS, and memory that firmware keeps.
//!
//! Host bridges and devices get the same words that device trees have for them: a map from requester ids to streams, one to DeviceIDs, streams by their numbers.
//!
//! Choice: an SMMUv3 is taken for coherent, so that its SMMU_IDR0.COHACC decides, unless firmware overrides that ([`IommuNode::overrides`]).
//! A device is coherent if its word for coherency says so. One that only an SMMU makes coherent (CPM without DACS) is taken for one that is not.
//!
//! Spec: Arm DEN0049 E.f "IO Remapping Table", "Memory access properties", "Reserved Memory Range node".
//! Not here: reading the table (`iort`), interrupts of performance counters.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use portcullis_types::{Cacheability, Iova, IovaRange, Pa, Perms, Prot};

use super::fault::AcpiFault;
use super::iort::{
    Component, Dma, Messages, Remapping, ReservedRegion, Run, Segment, Smmu, SmmuKind, SmmuV2, SmmuV3Node,
};
use super::machine::{AcpiTables, FoundFunction, NamedDevice};
use super::madt::Madt;
use crate::device::PlatformDevice;
use crate::idmap::{IdMap, IdMapEntry};
use crate::interrupt::Interrupt;
use crate::iommu::{IommuKind, IommuNode, Overrides, Stream};
use crate::machine::{Machine, Unsupported};
use crate::msi::{MsiController, MsiControllerKind, MsiTarget};
use crate::pci::{DmaRange, PciHost, PciMsi};
use crate::reserved::{DeviceRef, IommuAddresses, ReservedMemory, ReservedUse};

/// What IORT says, and which of the machine's parts it speaks of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Streams {
    iort: Remapping,
    /// The MSI controller of each group of ITSs: its first one that MADT has.
    its: Vec<Option<usize>>,
}

impl Machine {
    /// Takes SMMUs and devices of the name space. Host bridges come later ([`Self::lead_host`]).
    pub(super) fn take_iort(&mut self, bytes: &[u8], tables: &AcpiTables<'_>, madt: Option<Madt<'_>>) {
        let iort = match Remapping::read(bytes, tables.memory) {
            Ok(iort) => iort,
            Err(error) => {
                self.acpi_faults.push(AcpiFault::Iort(error));
                self.unsupported.extend(tables.devices.iter().map(unknown));
                self.streams = Some(Err(error));
                return;
            }
        };
        self.acpi_faults.extend(iort.faults.iter().copied().map(AcpiFault::Iort));
        let its = self.controllers(&iort, madt);
        let streams = Streams { iort, its };
        self.iommus.extend(streams.iort.smmus.iter().map(|smmu| iommu(smmu, &streams)));
        for component in first_of_each_name(&streams.iort.components) {
            let told = tables.devices.iter().find(|device| device.name == component.name);
            self.take_component(component, told.copied().unwrap_or_default(), &streams);
        }
        let named = |device: &&NamedDevice<'_>| streams.iort.component(device.name).is_none();
        self.devices.extend(tables.devices.iter().filter(named).map(uncovered));
        self.streams = Some(Ok(streams));
    }

    /// Whether what it reserves for devices is from an IORT table.
    pub fn has_iort(&self) -> bool {
        self.streams.is_some()
    }

    fn controllers(&mut self, iort: &Remapping, madt: Option<Madt<'_>>) -> Vec<Option<usize>> {
        let is_its = |one: &MsiController| one.kind == MsiControllerKind::Its;
        let Some(first) = self.msi_controllers.iter().position(is_its) else {
            let all = iort.its_groups.iter().flat_map(|group| &group.identifiers);
            self.acpi_faults.extend(all.copied().map(AcpiFault::NoSuchIts));
            return iort.its_groups.iter().map(|_| None).collect();
        };
        let ids: Vec<u32> = madt.into_iter().flat_map(Madt::its).map(|(id, _)| id).collect();
        let place = |id: &u32| ids.iter().position(|other| other == id).map(|at| first + at);
        let all = iort.its_groups.iter().flat_map(|group| &group.identifiers);
        let missing = all.filter(|id| place(id).is_none()).copied().map(AcpiFault::NoSuchIts);
        self.acpi_faults.extend(missing);
        iort.its_groups.iter().map(|group| group.identifiers.iter().find_map(place)).collect()
    }

    /// Says of a host bridge from MCFG who of its functions is which stream, and where their messages go. Does nothing without IORT.
    pub(super) fn lead_host(&self, host: &mut PciHost) {
        let streams = match &self.streams {
            None => return,
            Some(Err(_)) => {
                host.iommu_map = Some(IdMap::nobody());
                host.msi = PciMsi::None;
                return;
            }
            Some(Ok(streams)) => streams,
        };
        let (dma, messages) = streams.maps(host.segment);
        host.iommu_map = (!streams.iort.is_past_smmus(host.segment)).then_some(dma);
        host.msi = if messages.entries().is_empty() { PciMsi::None } else { PciMsi::Map(messages) };
        let roots = streams.iort.root_complexes.iter().filter(|root| root.segment == host.segment);
        host.dma_coherent =
            roots.clone().next().is_some() && roots.clone().all(|root| root.memory.coherency == 1);
        host.ats_supported = roots.clone().next().is_some() && roots.clone().all(|root| root.ats);
        host.pasid_bits = roots.clone().filter_map(|root| root.pasid_bits).min();
        host.dma_ranges = limit(roots.filter_map(|root| root.address_bits).min());
    }

    /// Keeps for functions what firmware keeps for their streams, and names those that are led to no SMMU.
    pub(super) fn keep_for_functions(&mut self, host: usize, found: &[FoundFunction]) {
        let (segment, past) = (self.pci_hosts[host].segment, self.pci_hosts[host].iommu_map.is_none());
        let Some(streams) = self.streams.take() else { return };
        for one in found {
            let mut kept: Vec<&ReservedRegion> = Vec::new();
            let mut lost = None;
            for &id in &one.requester_ids {
                let dma = match &streams {
                    Ok(streams) => streams.iort.function(segment, id).dma,
                    Err(error) => Dma::Broken(*error),
                };
                let (Dma::Smmu { smmu, stream }, Ok(streams)) = (dma, &streams) else {
                    lost = lost.or(Some(dma));
                    continue;
                };
                for region in streams.iort.reserved_for(smmu, stream) {
                    if !kept.contains(&region) {
                        kept.push(region);
                    }
                }
            }
            let not_led = |dma| AcpiFault::NotLed { segment, function: one.at, dma };
            self.acpi_faults.extend(lost.filter(|_| !past).map(not_led));
            let device = DeviceRef::PciFunction { host, function: one.at };
            self.reserved_memory.extend(kept.into_iter().filter_map(|region| kept_for(region, &device)));
        }
        self.streams = Some(streams);
    }

    fn take_component(&mut self, component: &Component, told: NamedDevice<'_>, streams: &Streams) {
        let Some(routes) = streams.iort.component(&component.name) else { return };
        let place = |dma: &Dma| match *dma {
            Dma::Smmu { smmu, stream } => Some(Stream { iommu: smmu, specifier: [stream].into() }),
            _ => None,
        };
        let places: Option<Vec<Stream>> = routes.dma.iter().map(place).collect();
        let Some(places) = places.filter(|_| !streams.iort.has_ids(&component.name)) else {
            let compatible = told.compatible.iter().copied().map(String::from).collect();
            self.unsupported.push(Unsupported { path: component.name.clone(), compatible });
            return;
        };
        let device = DeviceRef::Platform(self.devices.len());
        let mut kept: Vec<&ReservedRegion> = Vec::new();
        for dma in &routes.dma {
            let Dma::Smmu { smmu, stream } = *dma else { continue };
            kept.extend(streams.iort.reserved_for(smmu, stream));
        }
        kept.dedup();
        self.reserved_memory.extend(kept.into_iter().filter_map(|region| kept_for(region, &device)));
        let covered = !places.is_empty();
        self.devices.push(PlatformDevice {
            path: component.name.clone(),
            compatible: told.compatible.iter().copied().map(String::from).collect(),
            registers: told.registers.to_vec(),
            streams: places,
            can_stall: covered && component.stall,
            pasid_bits: if covered { component.pasid_bits } else { 0 },
            dma_coherent: component.memory.coherency == 1,
            dma_ranges: limit(component.address_bits),
            msi: routes.messages.iter().filter_map(|&to| streams.target(to)).collect(),
        });
    }
}

impl Streams {
    fn target(&self, messages: Messages) -> Option<MsiTarget> {
        let Messages::Its { group, device } = messages else { return None };
        let controller = *self.its.get(group)?;
        Some(MsiTarget { controller: controller?, device_id: Some(device) })
    }

    /// Where requester ids of a segment are led: to streams, and to DeviceIDs.
    fn maps(&self, segment: u16) -> (IdMap, IdMap) {
        let runs = match self.iort.segment(segment) {
            Segment::Unknown | Segment::Broken => Vec::new(),
            Segment::AsOne(route) => {
                let one = [Run { first: 0, count: 1, route }];
                let [dma, messages] = [self.dma_entries(&one), self.message_entries(&one)].map(IdMap::of);
                return (dma.with_mask(0), messages.with_mask(0));
            }
            Segment::Runs(runs) => runs,
        };
        (IdMap::of(self.dma_entries(&runs)), IdMap::of(self.message_entries(&runs)))
    }

    fn dma_entries(&self, runs: &[Run]) -> Vec<IdMapEntry> {
        joined(runs, |run| match run.route.dma {
            Dma::Smmu { smmu, stream } => Some((smmu, stream)),
            _ => None,
        })
    }

    fn message_entries(&self, runs: &[Run]) -> Vec<IdMapEntry> {
        joined(runs, |run| {
            let MsiTarget { controller, device_id } = self.target(run.route.messages)?;
            Some((controller, device_id?))
        })
    }
}

/// Entries for the runs that lead somewhere. Those that one entry can say are one.
fn joined(runs: &[Run], to: impl Fn(&Run) -> Option<(usize, u32)>) -> Vec<IdMapEntry> {
    let mut entries: Vec<IdMapEntry> = Vec::new();
    for run in runs {
        let Some((target, base)) = to(run) else { continue };
        match entries.last_mut() {
            Some(last)
                if last.target == target
                    && u32::from(last.first) + last.count == run.first.into()
                    && last.base.checked_add(last.count) == Some(base) =>
            {
                last.count += run.count;
            }
            _ => entries.push(IdMapEntry { first: run.first, count: run.count, target, base }),
        }
    }
    entries
}

/// The SMMU. Which messages are its own, only an SMMUv3's mapping says.
fn iommu(smmu: &Smmu, streams: &Streams) -> IommuNode {
    let mut node = IommuNode {
        path: format!("smmu@{:x}", smmu.registers.first()),
        phandle: None,
        compatible: Vec::new(),
        kind: IommuKind::Other,
        cells: 1,
        stream_mask: 0,
        global_interrupts: 0,
        registers: [smmu.registers].into(),
        interrupts: Vec::new(),
        msi: Vec::new(),
        dma_coherent: true,
        overrides: Overrides::default(),
        enabled: true,
    };
    match &smmu.kind {
        SmmuKind::V2(v2) => describe_v2(&mut node, v2),
        SmmuKind::V3 { node: v3, messages } => {
            describe_v3(&mut node, v3);
            node.msi = streams.target(*messages).into_iter().collect();
        }
    }
    node
}

/// Spec: Arm DEN0049 E.f, "SMMUv1 or SMMUv2 node", Model.
fn describe_v2(node: &mut IommuNode, smmu: &SmmuV2) {
    let (kind, name) = match smmu.model {
        1 => (IommuKind::SmmuV2, "SMMUv2"),
        3 => (IommuKind::Mmu500, "MMU-500"),
        // Of version 1, or with errata that nobody here works around.
        0 => (IommuKind::Other, "SMMUv1"),
        2 => (IommuKind::Other, "MMU-400"),
        4 => (IommuKind::Other, "MMU-401"),
        5 => (IommuKind::Other, "Cavium ThunderX SMMUv2"),
        _ => (IommuKind::Other, "an SMMU of a model that is not known"),
    };
    node.kind = kind;
    node.compatible = [String::from(name)].into();
    node.dma_coherent = smmu.coherent_walk;
    let global = [("global", smmu.global), ("config", smmu.config)];
    let global = global.into_iter().filter_map(|(name, wire)| Interrupt::of_gsiv(name, wire.gsiv, wire.edge));
    node.interrupts = global.collect();
    node.global_interrupts = node.interrupts.len();
    let contexts = smmu.contexts.iter();
    node.interrupts.extend(contexts.filter_map(|wire| Interrupt::of_gsiv("context", wire.gsiv, wire.edge)));
}

/// Spec: Arm DEN0049 E.f, "SMMUv3 node", Model. The wires are edges: SMMUv3 H.a, 3.18 "Interrupts and notifications".
fn describe_v3(node: &mut IommuNode, smmu: &SmmuV3Node) {
    let (kind, name) = match smmu.model {
        0 => (IommuKind::SmmuV3, "SMMUv3"),
        1 => (IommuKind::Other, "HiSilicon Hi161x SMMUv3"),
        2 => (IommuKind::Other, "Cavium CN99xx SMMUv3"),
        _ => (IommuKind::Other, "an SMMUv3 of a model that is not known"),
    };
    node.kind = kind;
    node.compatible = [String::from(name)].into();
    node.overrides =
        Overrides { coherent: smmu.coherent, access_flag: smmu.httu >= 1, dirty_state: smmu.httu >= 2 };
    let wires =
        [("eventq", smmu.event), ("priq", smmu.pri), ("cmdq-sync", smmu.sync), ("gerror", smmu.gerror)];
    node.interrupts =
        wires.into_iter().filter_map(|(name, gsiv)| Interrupt::of_gsiv(name, gsiv, true)).collect();
}

fn first_of_each_name(components: &[Component]) -> impl Iterator<Item = &Component> {
    let is_first =
        |&(at, one): &(usize, &Component)| components[..at].iter().all(|other| other.name != one.name);
    components.iter().enumerate().filter(is_first).map(|(_, one)| one)
}

/// A device that no table of IOMMUs knows: none covers it.
pub(super) fn uncovered(device: &NamedDevice<'_>) -> PlatformDevice {
    PlatformDevice {
        path: device.name.into(),
        compatible: device.compatible.iter().copied().map(String::from).collect(),
        registers: device.registers.to_vec(),
        streams: Vec::new(),
        can_stall: false,
        pasid_bits: 0,
        dma_coherent: false,
        dma_ranges: None,
        msi: Vec::new(),
    }
}

/// A device of which nobody knows how it reaches memory: the table that would say it cannot be read.
pub(super) fn unknown(device: &NamedDevice<'_>) -> Unsupported {
    let compatible = device.compatible.iter().copied().map(String::from).collect();
    Unsupported { path: device.name.into(), compatible }
}

/// The addresses of a device that has so many bits of them.
fn limit(bits: Option<u8>) -> Option<Vec<DmaRange>> {
    let size = 1_u64.checked_shl(bits?.into())?;
    let bus = IovaRange::new(Iova::new(0), size)?;
    Some([DmaRange { bus, cpu_first: Pa::new(0) }].into())
}

/// What is kept for a device, at addresses that are the memory's.
fn kept_for(region: &ReservedRegion, device: &DeviceRef) -> Option<ReservedMemory> {
    let used = if region.remappable { ReservedUse::DirectRelaxable } else { ReservedUse::Direct };
    let (first, last) = (region.range.first().get(), region.range.last().get());
    let range = IovaRange::from_ends(Iova::new(first), Iova::new(last))?;
    let addresses = IommuAddresses { device: device.clone(), range, used, prot: prot(region) };
    Some(ReservedMemory {
        path: format!("IORT RMR {}", region.range),
        memory: [region.range].into(),
        no_map: false,
        addresses: [addresses].into(),
    })
}

/// Spec: Arm DEN0049 E.f, "Reserved Memory Range node", Flags: Access Privilege, Access Attributes. Before revision 3 they say nothing, and the memory is taken for ordinary.
fn prot(region: &ReservedRegion) -> Prot {
    let Some(access) = region.access else { return Prot::cached(Perms::READ_WRITE) };
    let cacheability = match access.attributes {
        0..=3 => Cacheability::Device,
        4 => Cacheability::Uncached,
        _ => Cacheability::Cached,
    };
    let privileged = if access.privileged { Perms::PRIVILEGED } else { Perms::empty() };
    Prot { perms: Perms::READ_WRITE | privileged, cacheability }
}
