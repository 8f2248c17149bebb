//! The machine that ACPI's tables describe: VT-d units from DMAR or SMMUs from IORT, PCI host bridges from MCFG, ITSs from MADT.
//!
//! DMAR names functions by the way to them from their host bridge, and bus numbers behind bridges are the embedder's choice. So a machine comes in two steps:
//! [`Machine::from_acpi`] makes units and host bridges, behind which DMAR covers nothing yet; once PCI has been enumerated, [`Machine::place_functions`] says
//! who of what was found is behind which unit, and which memory firmware keeps for it. IORT names functions by their requester ids, so that these are covered at
//! once; what is kept for them needs the second step all the same.
//!
//! # What a broken or unusual table leads to
//!
//! Never to an error: a machine boots with what is left. [`Machine::acpi_faults`] has what was wrong.
//!
//! - Without a table of units or SMMUs, no function is behind an IOMMU ([`Translation::NoIommu`](crate::Translation)): firmware says that there is none.
//! - With one that cannot be read, or that covers a function by nobody, by two units or by one that was left out, that function is
//!   [`Translation::Uncovered`](crate::Translation), and listed with the reason. It is never behind another unit instead, nor behind none.
//! - Devices of ACPI's name space of which a table does not say how they reach memory, or that are behind a unit that was left out, are in [`Machine::unsupported`]: nothing
//!   more is known here of what they do.
//!
//! Spec: VT-d 5.10, 8 "BIOS Considerations"; Arm DEN0049 E.f "IO Remapping Table"; PCI Firmware 3.3, 4.1.2 "MCFG Table Description".
//! Not here: what DMAR says (`units`), what IORT says (`smmus`); finding the tables, the memory map, and what AML says of host bridges' windows and of devices'
//! registers: the embedder has these.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use portcullis_spec::pcie::{Bdf, HostWindow};
use portcullis_types::{Pa, PaRange};

use super::dmar::Remapping;
use super::fault::AcpiFault;
use super::madt::Madt;
use super::mcfg::{EcamWindow, Mcfg};
use crate::idmap::IdMap;
use crate::machine::Machine;
use crate::msi::{MsiController, MsiControllerKind};
use crate::pci::{ExternalPorts, PciConfig, PciHost, PciMsi};

/// Where interrupt messages go: every write of a device's there is one.
///
/// Spec: VT-d 5.10, 3.14 "Handling Requests to Interrupt Address Range".
const MESSAGES: (u64, u64) = (0xfee0_0000, 0x10_0000);

/// What an embedder knows of a machine with ACPI.
#[derive(Clone, Copy, Debug, Default)]
pub struct AcpiTables<'a> {
    /// DMAR, if there is one.
    pub dmar: Option<&'a [u8]>,
    /// IORT, if there is one.
    pub iort: Option<&'a [u8]>,
    /// MADT, if there is one.
    pub madt: Option<&'a [u8]>,
    /// MCFG, if there is one.
    pub mcfg: Option<&'a [u8]>,
    /// The memory that the firmware's memory map gives to the operating system.
    pub memory: &'a [PaRange],
    /// What the CPU reaches through host bridges.
    pub windows: &'a [BridgeWindows<'a>],
    /// Devices of the name space, as far as they have drivers.
    pub devices: &'a [NamedDevice<'a>],
}

/// A device of ACPI's name space, as AML tells of it.
#[derive(Clone, Copy, Debug, Default)]
pub struct NamedDevice<'a> {
    /// Its full path in the name space, as IORT writes it.
    pub name: &'a str,
    /// What it is: its hardware id, then those that it is compatible with.
    pub compatible: &'a [&'a str],
    /// Its registers.
    pub registers: &'a [PaRange],
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
    pub(super) fn is_relaxable(&self) -> bool {
        matches!(self.class, (0x03, _) | (0x0c, 0x03))
    }
}

fn local_apics() -> MsiController {
    let (first, len_bytes) = MESSAGES;
    MsiController {
        path: String::from("local APICs"),
        phandle: None,
        kind: MsiControllerKind::LocalApics,
        registers: PaRange::new(Pa::new(first), len_bytes).into_iter().collect(),
        cells: 1,
        enabled: true,
    }
}

impl Machine {
    /// The machine that these tables describe. Nothing of the tables is needed afterwards.
    pub fn from_acpi(tables: &AcpiTables<'_>) -> Self {
        let mut machine = Self { memory: tables.memory.to_vec(), ..Self::default() };
        let madt = tables.madt.and_then(|bytes| {
            let read = Madt::read(bytes);
            machine.acpi_faults.extend(read.err().map(AcpiFault::Madt));
            read.ok()
        });
        if tables.iort.is_none() && !madt.is_some_and(Madt::has_gic) {
            machine.msi_controllers.push(local_apics());
        }
        machine.take_itses(madt);
        if let Some(bytes) = tables.dmar {
            machine.take_dmar(Remapping::read(bytes, tables.memory), tables);
        }
        match (tables.iort, tables.dmar) {
            (Some(_), Some(_)) => machine.acpi_faults.push(AcpiFault::TwoKinds),
            (Some(bytes), None) => machine.take_iort(bytes, tables, madt),
            (None, _) => {}
        }
        if let Some(bytes) = tables.mcfg {
            match Mcfg::read(bytes) {
                Ok(mcfg) => machine.take_mcfg(mcfg, tables),
                Err(error) => machine.acpi_faults.push(AcpiFault::Mcfg(error)),
            }
        }
        machine
    }

    fn take_mcfg(&mut self, mcfg: Mcfg<'_>, tables: &AcpiTables<'_>) {
        for window in mcfg.windows() {
            // Choice: neither of two windows that have a bus both is used, not even for its other buses: what a table says that is wrong there is not to be relied on.
            let is_own =
                |bus: u8| mcfg.config(window.segment, Bdf::from_requester_id(u16::from(bus) << 8)).is_some();
            if let Some(range) =
                window.range().ok().filter(|_| (window.first_bus..=window.last_bus).all(is_own))
            {
                let mut host = self.host(&window, range, tables);
                self.lead_host(&mut host);
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
            msi: self.messages_to_cpus(),
            ats_supported: self.remapping.is_some(),
            pasid_bits: None,
            no_ats: Vec::new(),
            // ACPI says it in AML.
            external: ExternalPorts::Ports(Vec::new()),
        }
    }

    /// Where messages go if nobody says where.
    fn messages_to_cpus(&self) -> PciMsi {
        let is_cpus = |one: &MsiController| one.kind == MsiControllerKind::LocalApics;
        self.msi_controllers.iter().position(is_cpus).map_or(PciMsi::None, PciMsi::Parent)
    }

    /// ITSs, by which IORT's groups are found.
    fn take_itses(&mut self, madt: Option<Madt<'_>>) {
        let Some(madt) = madt else { return };
        self.acpi_faults.extend(madt.faults().map(AcpiFault::Madt));
        for (id, registers) in madt.its() {
            self.msi_controllers.push(MsiController {
                path: format!("ITS {id}"),
                phandle: None,
                kind: MsiControllerKind::Its,
                registers: [registers].into(),
                cells: 1,
                enabled: true,
            });
        }
    }

    /// Says of what was found below host bridge `host` who is behind which IOMMU, which memory is kept for whom, and whose translation requests get through. A device tree
    /// says these things itself, but for which functions those are that it names by the way to them ([`DeviceRef::PciBehind`](crate::DeviceRef::PciBehind)).
    ///
    /// # Panics
    ///
    /// If there is no such host bridge.
    pub fn place_functions(&mut self, host: usize, found: &[FoundFunction]) {
        self.place_behind_bridges(host, found);
        if self.streams.is_some() {
            self.keep_for_functions(host, found);
        } else {
            self.place_behind_units(host, found);
        }
    }
}
