//! The machine that ACPI's tables describe: VT-d units from DMAR, PCI host bridges from MCFG.
//!
//! Tables name functions by the way to them from their host bridge, and bus numbers behind bridges are the embedder's choice. So a machine comes in two steps:
//! [`Machine::from_acpi`] makes units and host bridges, behind which nothing is covered yet; once PCI has been enumerated, [`Machine::place_functions`] says
//! who of what was found is behind which unit, and which memory firmware keeps for it.
//!
//! # What a broken or unusual table leads to
//!
//! Never to an error: a machine boots with what is left. [`Machine::acpi_faults`] has what was wrong.
//!
//! - Without a table of units, no function is behind an IOMMU ([`Translation::NoIommu`](crate::Translation)): firmware says that there is none.
//! - With one that cannot be read, or that covers a function by nobody, by two units or by one that was left out, that function is
//!   [`Translation::Uncovered`](crate::Translation), and listed with the reason. It is never behind another unit instead, nor behind none.
//! - Devices of ACPI's name space that a unit covers are in [`Machine::unsupported`]: nothing more is known here of what they do.
//!
//! Spec: VT-d 5.10, 8 "BIOS Considerations"; PCI Firmware 3.3, 4.1.2 "MCFG Table Description".
//! Not here: finding the tables, the memory map, and what AML says of host bridges' windows: the embedder has these.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use portcullis_spec::pcie::{Bdf, HostWindow};
use portcullis_types::{Iova, IovaRange, Pa, PaRange};

use super::dmar::{Cover, DevicePath, DmarError, Remapping};
use super::fault::AcpiFault;
use super::mcfg::{EcamWindow, Mcfg};
use crate::idmap::{IdMap, IdMapEntry};
use crate::iommu::{IommuKind, IommuNode};
use crate::machine::{Machine, Unsupported};
use crate::msi::{MsiController, MsiControllerKind};
use crate::pci::{ExternalPorts, PciConfig, PciHost, PciMsi};
use crate::reserved::{DeviceRef, IommuAddresses, ReservedMemory, ReservedUse};

/// Where interrupt messages go: every write of a device's there is one.
///
/// Spec: VT-d 5.10, 3.14 "Handling Requests to Interrupt Address Range".
const MESSAGES: (u64, u64) = (0xfee0_0000, 0x10_0000);

/// What an embedder knows of a machine with ACPI.
#[derive(Clone, Copy, Debug, Default)]
pub struct AcpiTables<'a> {
    /// DMAR, if there is one.
    pub dmar: Option<&'a [u8]>,
    /// MCFG, if there is one.
    pub mcfg: Option<&'a [u8]>,
    /// The memory that the firmware's memory map gives to the operating system.
    pub memory: &'a [PaRange],
    /// What the CPU reaches through host bridges.
    pub windows: &'a [BridgeWindows<'a>],
}

/// What the CPU reaches through a host bridge.
#[derive(Clone, Copy, Debug)]
pub struct BridgeWindows<'a> {
    /// The bridge's segment.
    pub segment: u16,
    /// Its first bus.
    pub first_bus: u8,
    /// Its windows.
    pub windows: &'a [HostWindow],
}

/// A function that enumeration has found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundFunction {
    /// Where it is. Of a virtual function, where its physical function is.
    pub at: Bdf,
    /// As whom its requests may arrive, itself among them.
    pub requester_ids: Vec<Bdf>,
    /// Device and function of each bridge on the way from the host bridge, and of itself.
    pub path: Vec<(u8, u8)>,
    /// Its base class and its subclass.
    pub class: (u8, u8),
}

impl FoundFunction {
    /// Whether what firmware keeps for it may be given up for a driver in user space: firmware uses USB controllers for its keyboard, and graphics for its
    /// screen, until an operating system has drivers of its own.
    ///
    /// Observed: Linux 6.x, `device_rmrr_is_relaxable`. Spec: PCI Code and ID Assignment 1.15, 1.4 "Base Class 03h", 1.13 "Base Class 0Ch".
    fn is_relaxable(&self) -> bool {
        matches!(self.class, (0x03, _) | (0x0c, 0x03))
    }
}

impl Machine {
    /// The machine that these tables describe. Nothing of the tables is needed afterwards.
    pub fn from_acpi(tables: &AcpiTables<'_>) -> Self {
        let mut machine = Self { memory: tables.memory.to_vec(), ..Self::default() };
        let (first, len_bytes) = MESSAGES;
        machine.msi_controllers.push(MsiController {
            path: String::from("local APICs"),
            phandle: None,
            kind: MsiControllerKind::LocalApics,
            registers: PaRange::new(Pa::new(first), len_bytes).into_iter().collect(),
            cells: 1,
            enabled: true,
        });
        if let Some(bytes) = tables.dmar {
            machine.take_dmar(Remapping::read(bytes, tables.memory));
        }
        if let Some(bytes) = tables.mcfg {
            match Mcfg::read(bytes) {
                Ok(mcfg) => machine.take_mcfg(mcfg, tables),
                Err(error) => machine.acpi_faults.push(AcpiFault::Mcfg(error)),
            }
        }
        machine
    }

    fn take_dmar(&mut self, read: Result<Remapping, DmarError>) {
        let remapping = match read {
            Ok(remapping) => remapping,
            Err(error) => {
                self.acpi_faults.push(AcpiFault::Dmar(error));
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
                enabled: true,
            });
        }
        let names = remapping.namespace.iter().map(|device| device.name.clone());
        self.unsupported.extend(names.map(|path| Unsupported { path, compatible: Vec::new() }));
        self.remapping = Some(remapping);
    }

    fn take_mcfg(&mut self, mcfg: Mcfg<'_>, tables: &AcpiTables<'_>) {
        for window in mcfg.windows() {
            // Choice: neither of two windows that have a bus both is used, not even for its other buses: what a table says that is wrong there is not to be relied on.
            let is_own =
                |bus: u8| mcfg.config(window.segment, Bdf::from_requester_id(u16::from(bus) << 8)).is_some();
            if let Some(range) =
                window.range().ok().filter(|_| (window.first_bus..=window.last_bus).all(is_own))
            {
                let host = self.host(&window, range, tables);
                self.pci_hosts.push(host);
            }
        }
        self.acpi_faults.extend(mcfg.faults().map(AcpiFault::Mcfg));
    }

    /// A host bridge behind which nothing is covered yet.
    fn host(&self, window: &EcamWindow, ecam: PaRange, tables: &AcpiTables<'_>) -> PciHost {
        let own = |windows: &&BridgeWindows<'_>| {
            (windows.segment, windows.first_bus) == (window.segment, window.first_bus)
        };
        let windows = tables.windows.iter().find(own).map_or(&[][..], |windows| windows.windows);
        PciHost {
            path: format!("PCI {:04x}:{:02x}", window.segment, window.first_bus),
            segment: window.segment,
            buses: window.first_bus..=window.last_bus,
            config: PciConfig::Ecam(ecam),
            windows: windows.to_vec(),
            dma_ranges: None,
            // As everything on a PC.
            dma_coherent: true,
            iommu_map: tables.dmar.map(|_| IdMap::nobody()),
            msi: PciMsi::Parent(0),
            ats_supported: self.remapping.is_some(),
            no_ats: Vec::new(),
            // ACPI says it in AML.
            external: ExternalPorts::Ports(Vec::new()),
        }
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

    /// Says of what was found below host bridge `host` who is behind which IOMMU, which memory is kept for whom, and whose translation requests get through. Does nothing
    /// for a machine from a device tree, which says these things itself.
    ///
    /// # Panics
    ///
    /// If there is no such host bridge.
    pub fn place_functions(&mut self, host: usize, found: &[FoundFunction]) {
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
            let (first, last) = (region.range.first().get(), region.range.last().get());
            let Some(range) = IovaRange::from_ends(Iova::new(first), Iova::new(last)) else { continue };
            let device = DeviceRef::PciFunction { host, function: one.at };
            self.reserved_memory.push(ReservedMemory {
                path: format!("DMAR RMRR {}", region.range),
                memory: [region.range].into(),
                no_map: false,
                addresses: [IommuAddresses { device, range, used }].into(),
            });
        }
    }
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
