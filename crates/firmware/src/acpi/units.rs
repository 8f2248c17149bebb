//! What DMAR says of a machine: units, who is behind which, and memory that firmware keeps.
//!
//! Spec: VT-d 5.10, 8 "BIOS Considerations".

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use portcullis_types::{Iova, IovaRange, Perms, Prot};

use super::dmar::{Cover, DevicePath, DmarError, NamespaceDevice, Remapping, ReservedRegion};
use super::fault::AcpiFault;
use super::machine::{AcpiTables, FoundFunction, NamedDevice};
use super::smmus::{uncovered, unknown};
use crate::device::PlatformDevice;
use crate::idmap::{IdMap, IdMapEntry};
use crate::iommu::{IommuKind, IommuNode, Overrides, Stream};
use crate::machine::{Machine, Unsupported};
use crate::reserved::{DeviceRef, IommuAddresses, ReservedMemory, ReservedUse};

impl Machine {
    pub(super) fn take_dmar(&mut self, read: Result<Remapping, DmarError>, tables: &AcpiTables<'_>) {
        let remapping = match read {
            Ok(remapping) => remapping,
            Err(error) => {
                self.acpi_faults.push(AcpiFault::Dmar(error));
                self.unsupported.extend(tables.devices.iter().map(unknown));
                self.unreadable = Some(error);
                return;
            }
        };
        self.acpi_faults.extend(remapping.faults.iter().copied().map(AcpiFault::Dmar));
        for unit in &remapping.units {
            self.iommus.push(IommuNode {
                path: format!("dmar{}", self.iommus.len()),
                phandle: None,
                compatible: Vec::new(),
                kind: IommuKind::Vtd,
                cells: 1,
                stream_mask: 0,
                global_interrupts: 0,
                registers: [unit.registers].into(),
                interrupts: Vec::new(),
                msi: Vec::new(),
                // Whether its walks snoop, its registers say.
                dma_coherent: true,
                overrides: Overrides::default(),
                enabled: true,
            });
        }
        for device in &remapping.namespace {
            let told = tables.devices.iter().find(|told| told.name == device.name);
            self.take_named(&remapping, device, told.copied().unwrap_or_default());
        }
        let known = |told: &&NamedDevice<'_>| remapping.namespace.iter().any(|known| known.name == told.name);
        self.devices.extend(tables.devices.iter().filter(|told| !known(told)).map(uncovered));
        self.remapping = Some(remapping);
    }

    /// Takes a device of the name space: it is at each unit as whom scopes say.
    fn take_named(&mut self, remapping: &Remapping, device: &NamespaceDevice, told: NamedDevice<'_>) {
        let compatible = || told.compatible.iter().copied().map(String::from).collect();
        let Some(ids) = remapping.ids_of(device.number).filter(|ids| !ids.is_empty()) else {
            self.unsupported.push(Unsupported { path: device.name.clone(), compatible: compatible() });
            return;
        };
        let place = DeviceRef::Platform(self.devices.len());
        for region in remapping.reserved_for_named(device.number) {
            self.reserved_memory.extend(kept(region, place.clone(), ReservedUse::Direct));
        }
        let stream = |(iommu, id): (usize, u16)| Stream { iommu, specifier: [id.into()].into() };
        self.devices.push(PlatformDevice {
            path: device.name.clone(),
            compatible: compatible(),
            registers: told.registers.to_vec(),
            streams: ids.into_iter().map(stream).collect(),
            can_stall: false,
            pasid_bits: 0,
            // As everything on a PC.
            dma_coherent: true,
            dma_ranges: None,
            // It has wires, if AML says so.
            msi: Vec::new(),
        });
    }

    /// Whether what it reserves for devices is from a DMAR table.
    pub fn has_dmar(&self) -> bool {
        self.remapping.is_some()
    }

    /// How many bits of address the platform's memory has, where DMAR says it.
    pub fn host_address_bits(&self) -> Option<u8> {
        self.remapping.as_ref().and_then(|remapping| u8::try_from(remapping.host_address_bits).ok())
    }

    /// Whether DMAR says that interrupts can be remapped.
    pub fn interrupt_remapping(&self) -> bool {
        self.remapping.as_ref().is_some_and(|remapping| remapping.interrupt_remapping)
    }

    /// Says of what was found below host bridge `host` who is behind which unit.
    pub(super) fn place_behind_units(&mut self, host: usize, found: &[FoundFunction]) {
        let (segment, start_bus) = (self.pci_hosts[host].segment, *self.pci_hosts[host].buses.start());
        if let (Some(error), None) = (self.unreadable, &self.remapping) {
            let uncovered = |one: &FoundFunction| AcpiFault::NotCovered {
                segment,
                function: one.at,
                cover: Cover::Broken(error),
            };
            self.acpi_faults.extend(found.iter().map(uncovered));
        }
        let Some(remapping) = self.remapping.take() else { return };
        let mut map = Coverage::default();
        for one in found {
            let path = DevicePath { segment, start_bus, path: one.path.clone() };
            let cover = remapping.cover(&path);
            match cover {
                Cover::Unit(unit) => map.cover(one, unit),
                cover => {
                    self.acpi_faults.push(AcpiFault::NotCovered { segment, function: one.at, cover });
                }
            }
            self.reserve(host, one, &remapping, &path);
            if !remapping.passes_translation_requests(&path) {
                self.pci_hosts[host].no_ats.push(one.at);
            }
        }
        self.pci_hosts[host].iommu_map = Some(map.done());
        self.remapping = Some(remapping);
    }

    /// Keeps for a function what firmware keeps for it.
    fn reserve(&mut self, host: usize, one: &FoundFunction, remapping: &Remapping, path: &DevicePath) {
        let used = if one.is_relaxable() { ReservedUse::DirectRelaxable } else { ReservedUse::Direct };
        for region in remapping.reserved_for(path) {
            let device = DeviceRef::PciFunction { host, function: one.at };
            self.reserved_memory.extend(kept(region, device, used));
        }
    }
}

/// What is kept for a device, at addresses that are the memory's.
fn kept(region: &ReservedRegion, device: DeviceRef, used: ReservedUse) -> Option<ReservedMemory> {
    let (first, last) = (region.range.first().get(), region.range.last().get());
    let range = IovaRange::from_ends(Iova::new(first), Iova::new(last))?;
    let prot = Prot::cached(Perms::READ_WRITE);
    Some(ReservedMemory {
        path: format!("DMAR RMRR {}", region.range),
        memory: [region.range].into(),
        no_map: false,
        addresses: [IommuAddresses { device, range, used, prot }].into(),
    })
}

/// Which requester ids are behind which unit, while that is found out.
#[derive(Default)]
struct Coverage {
    entries: Vec<IdMapEntry>,
    /// Ids that functions behind different units share: they are behind neither.
    disputed: Vec<u16>,
}

impl Coverage {
    fn cover(&mut self, one: &FoundFunction, unit: usize) {
        for id in one.requester_ids.iter().map(|id| id.requester_id()) {
            match self.entries.iter().find(|entry| entry.first == id) {
                Some(entry) if entry.target != unit => self.disputed.push(id),
                Some(_) => {}
                None => {
                    self.entries.push(IdMapEntry { first: id, count: 1, target: unit, base: id.into() });
                }
            }
        }
    }

    fn done(mut self) -> IdMap {
        self.entries.retain(|entry| !self.disputed.contains(&entry.first));
        IdMap::of(self.entries)
    }
}
