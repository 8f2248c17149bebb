//! Bringing up a PHB3: what firmware (OPAL) does for a kernel on POWER8, then the driver, then interrupts.
//!
//! Firmware's part is the control register and configuration space; the rest of it, the chip's side and the link, the model has out of reset, and QEMU's machine when it is started
//! (`machine::qemu`).
//!
//! Observed: skiboot hw/phb3.c, `phb3_init_hw` (Init_87), `phb3_pcicfg_read32`.
//! After enumeration the bridge is told which segments of M32 hold whose registers, and how devices are reset (`slot`).
//!
//! Not here: interrupts' table (`messages`).

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use portcullis::firmware::{PciConfig, PciHost, Translation};
use portcullis::hal::Registers;
use portcullis::ioda2::{Config, M32, Phb3};
use portcullis::pci::{Bdf, ConfigAccess, Space, Topology};
use portcullis::types::{Pa, SourceId};

use super::System;
use super::messages::Messages;
use super::pci::HostBridge;
use super::presenter::Presenter;
use super::slot::BusSlot;
use super::unit::{Hardware, Unit};
use crate::error::RunError;
use crate::platform::RegisterWindow;

/// Bytes of registers. Observed: skiboot hw/phb3.c, `phb3_probe_pbcq`.
const REGISTER_BYTES: u64 = 0x1000;

/// PHB_CONTROL, and what skiboot stores there for entries of 128 bytes. Observed: skiboot hw/phb3.c, Init_87.
const CONTROL: usize = 0x810;
const CONTROL_IVE_128: u64 = 0xf3a8_0edb_0000_0000;
/// What it stores besides where window 0 can pass addresses as they are.
const CONTROL_BYPASS_32: u64 = 0x0010_0000_0000_0000;

/// What is around the bridges.
#[derive(Debug, Default)]
pub(super) struct Chip {
    /// Who presents interrupts, by the addresses of the bridges' registers.
    pub(super) bridges: Vec<(Pa, Presenter)>,
    /// Whether the kernel's devices may go around translation.
    pub(super) bypass: bool,
}

/// Brings up the PHB3 that is IOMMU `index` of the firmware's list.
pub(super) fn bring_up(system: &System, chip: &Chip, index: usize) -> Result<Unit, RunError> {
    let System { platform, firmware, interrupts, .. } = system;
    let node = &firmware.iommus[index];
    let is_host = |host: &&PciHost| host.path == node.path;
    let host = firmware.pci_hosts.iter().find(is_host);
    let Some((host, PciConfig::Phb3(own))) = host.map(|host| (host, &host.config)) else {
        return Err(RunError::bad_input(&node.path, "a PHB3 that is no host bridge", "correct the tree"));
    };
    if own.registers.len_bytes().is_none_or(|len| len < REGISTER_BYTES) {
        let what = format!("a PHB3 has 4 KiB of registers, and {} is less", own.registers);
        return Err(RunError::bad_input(&node.path, what, "correct the tree, or name a built-in machine"));
    }
    let found = chip.bridges.iter().find(|(at, _)| *at == own.registers.first());
    let (_, presenter) = found.ok_or_else(|| {
        RunError::refused(&node.path, "the lab has no model there", "name a built-in machine")
    })?;
    let registers = platform.registers(own.registers);
    let naples = if own.bypass_32 { CONTROL_BYPASS_32 } else { 0 };
    registers.write64(CONTROL, CONTROL_IVE_128 | naples);

    let end = firmware.memory.iter().filter_map(|range| range.last().checked_add(1)).max();
    let mut config = Config::new(node.path.clone());
    config.page_sizes = own.page_sizes;
    config.cpu_page = system.cpus.page;
    config.m32 = m32(host);
    config.bypass_end = end.filter(|_| chip.bypass);
    config.identity_end = end.filter(|_| chip.bypass && own.bypass_32);
    let wrong = |what: String| RunError::wrong(&node.path, what, "run with -v to see its registers");
    let phb = Phb3::probe(platform.clone(), registers.clone(), config)
        .map_err(|error| wrong(format!("probing the PHB3 failed: {error}")))?;
    let messages = Messages::new(platform.clone(), registers, presenter.clone(), phb.clone())
        .ok_or_else(|| wrong("no memory for the table of its interrupts".into()))?;
    interrupts.add_bridge(&node.path, &messages, firmware);
    Ok(Unit::new(system, index, phb.clone(), Hardware::Phb3(phb, messages), None))
}

/// The M32 window. Firmware takes the last 64 KiB off it, which are messages.
fn m32(host: &PciHost) -> Option<M32> {
    let window = host.windows.iter().find(|window| window.space == Space::Memory32)?;
    let bytes = window.size_bytes.checked_next_power_of_two()?;
    Some(M32 { cpu_first: window.cpu_first, pci_first: window.bus_first, bytes })
}

/// Segments of M32.
const SEGMENTS: u64 = 256;

/// What a segment of M32 holds below this host bridge; 1 where it has none.
pub(super) fn segment_bytes(host: &PciHost) -> u64 {
    let is_phb = matches!(host.config, PciConfig::Phb3(_));
    m32(host).filter(|_| is_phb).map_or(1, |m32| m32.bytes / SEGMENTS)
}

/// Tells a PHB3 of the devices below it: whose registers are in which segments of M32, and how they are reset.
pub(super) fn know_devices(system: &System, host: &PciHost, found: &HostBridge) -> Result<(), RunError> {
    let Some(unit) = system.units.iter().find(|unit| unit.name() == host.path) else { return Ok(()) };
    let Hardware::Phb3(phb, _) = &unit.driver else { return Ok(()) };
    let groups = found.topology.groups();
    let source = |group: &[usize]| {
        group.iter().find_map(|&function| match host.translation(found.topology.functions[function].at) {
            Translation::Behind { iommu, source } if iommu == unit.index => Some(source),
            _ => None,
        })
    };
    let sources: Vec<Option<SourceId>> = groups.iter().map(|group| source(group)).collect();
    let wrong = |error| {
        RunError::wrong(
            unit.name(),
            format!("a device is unknown to it: {error:?}"),
            "run with -v to see why",
        )
    };
    for (segment, group) in segments(host, found, &groups) {
        // What several share freezes with nobody.
        if let Some(source) = group.and_then(|group| sources[group]) {
            phb.assign_m32(source, segment..=segment).map_err(wrong)?;
        }
    }
    for (group, source) in groups.iter().zip(sources) {
        let slot = BusSlot::of(&system.platform, found, group, || phb.root_port());
        if let (Some(slot), Some(source)) = (slot, source) {
            phb.set_slot(source, Arc::new(slot)).map_err(wrong)?;
        }
    }
    Ok(())
}

/// The segments in which there are registers, and of which group; none if of several.
fn segments(host: &PciHost, found: &HostBridge, groups: &[Vec<usize>]) -> BTreeMap<u8, Option<usize>> {
    let mut owners = BTreeMap::new();
    let Some(m32) = m32(host) else { return owners };
    let bytes = segment_bytes(host);
    for (group, &function) in
        groups.iter().enumerate().flat_map(|(at, group)| group.iter().map(move |one| (at, one)))
    {
        for bar in found.topology.functions[function].bars.iter().filter(|bar| bar.space != Space::Io) {
            let Some(placed) = bar.placed.filter(|placed| placed.bus_address >= m32.pci_first) else {
                continue;
            };
            let first = placed.bus_address - m32.pci_first;
            for segment in first / bytes..=(first + (bar.size_bytes - 1)) / bytes {
                let Ok(segment) = u8::try_from(segment) else { continue };
                let owner = owners.entry(segment).or_insert(Some(group));
                *owner = owner.filter(|other| *other == group);
            }
        }
    }
    owners
}

/// PHB_CONFIG_DATA and PHB_CONFIG_ADDRESS. Observed: skiboot include/phb3-regs.h.
const CONFIG_DATA: usize = 0x130;
const CONFIG_ADDRESS: usize = 0x140;
/// PPC bit 0 of the address: it is on.
const ENABLE: u64 = 1 << 63;
/// Where bus, device and function lie in it: PPC bits 4 to 19.
const BDFN_SHIFT: u32 = 44;
/// Where the register's number lies: PPC bits 20 to 31, without the lowest two.
const REGISTER_SHIFT: u32 = 32;

/// Where the PE lies: PPC bits 40 to 47.
const PE_SHIFT: u32 = 16;

/// Configuration space below a PHB3, by its registers.
///
/// Accesses name the PE of the function, so that a frozen one is out of reach, and an error made there freezes it.
///
/// Choice: whoever recovers a frozen device has to reach its configuration space. His accesses name PE 0, in which no device is, as those before there are PEs do. Skiboot
/// goes past the freeze in a harder way (ASB).
#[derive(Debug)]
pub(super) struct Phb3Config {
    registers: Arc<Mutex<RegisterWindow>>,
    /// The PEs of functions, by requester id.
    pes: BTreeMap<u16, u8>,
}

impl Phb3Config {
    /// One that goes past freezes.
    pub(super) fn new(registers: RegisterWindow) -> Self {
        Self { registers: Arc::new(Mutex::new(registers)), pes: BTreeMap::new() }
    }

    /// The same for everybody else, once there are PEs.
    pub(super) fn with_pes(&self, system: &System, host: &PciHost, topology: &Topology) -> Self {
        let unit = system.units.iter().find(|unit| unit.name() == host.path);
        let pe = |at| match (unit.map(|unit| (unit.index, &unit.driver)), host.translation(at)) {
            (Some((index, Hardware::Phb3(phb, _))), Translation::Behind { iommu, source })
                if iommu == index =>
            {
                phb.pe_of(source)
            }
            _ => None,
        };
        let functions = topology.functions.iter().map(|function| function.at);
        let pes = functions.filter_map(|at| Some((at.requester_id(), pe(at)?))).collect();
        Self { registers: self.registers.clone(), pes }
    }

    /// The registers, with the address set.
    fn at(&self, at: Bdf, offset: u16) -> MutexGuard<'_, RegisterWindow> {
        let registers = self.registers.lock().unwrap_or_else(PoisonError::into_inner);
        let rid = at.requester_id();
        let register = u64::from(offset & 0xffc) << REGISTER_SHIFT;
        let pe = u64::from(self.pes.get(&rid).copied().unwrap_or(0)) << PE_SHIFT;
        registers.write64(CONFIG_ADDRESS, ENABLE | u64::from(rid) << BDFN_SHIFT | register | pe);
        registers
    }
}

impl ConfigAccess for Phb3Config {
    fn read32(&self, at: Bdf, offset: u16) -> u32 {
        if !offset.is_multiple_of(4) || offset > 0xffc {
            return u32::MAX;
        }
        self.at(at, offset).read32(CONFIG_DATA)
    }

    fn write32(&self, at: Bdf, offset: u16, value: u32) {
        if offset.is_multiple_of(4) && offset <= 0xffc {
            self.at(at, offset).write32(CONFIG_DATA, value);
        }
    }
}
