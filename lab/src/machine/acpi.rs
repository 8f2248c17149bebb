//! The ACPI tables that a PC's firmware leaves in memory, or that of an Arm machine without a device tree.
//!
//! Emitted from the same [`MachineSpec`] as the models: RSDP, XSDT, MCFG, MADT, and DMAR or IORT (`iort`). Headers, sums and MCFG are the `acpi_tables` crate's; DMAR, which it does not have, is put
//! together here byte by byte. Neither shares anything with who reads them.
//!
//! What firmware tells by other ways, AML and the memory map, is in no table: boot gets it from the machine ([`BootRequest`](crate::boot::BootRequest)).
//!
//! Spec: ACPI 6.5, 5.2.5 "Root System Description Pointer (RSDP)"; VT-d 5.10, 8 "BIOS Considerations".
//! Not here: finding and reading tables (`boot::acpi`).

use acpi_tables::Aml;
use acpi_tables::madt::{
    EnabledStatus, GicIts, GicVersion, Gicd, LocalInterruptController, MADT, ProcessorLocalApic,
};
use acpi_tables::mcfg::MCFG;
use acpi_tables::rsdp::Rsdp;
use acpi_tables::sdt::Sdt;
use acpi_tables::xsdt::XSDT;

use super::iort;
use super::spec::{BridgeKind, MachineSpec, PcSpec};

/// Where the area begins in which a PC's firmware leaves the RSDP, on a boundary of 16 bytes. Spec: ACPI 6.5, 5.2.5.1 "Finding the RSDP on IA-PC Systems".
pub const AREA_FIRST: u64 = 0xe_0000;
/// How large the area is.
pub const AREA_BYTES: usize = 0x2_0000;

const OEM: [u8; 6] = *b"PORTCU";
const TABLE: [u8; 8] = *b"PORTCULL";
/// Where the local APICs are. Spec: Intel SDM volume 3A, 11.4.1 "The Local APIC Block Diagram".
const APIC_BASE: u32 = 0xfee0_0000;
/// Where a GIC's distributor is, as in the device tree.
const DISTRIBUTOR: u64 = 0x0800_0000;
/// The flags of DMAR: interrupts can be remapped.
const INTR_REMAP: u8 = 1;
/// The flag of a unit for all that no other covers.
const INCLUDE_PCI_ALL: u8 = 1;
/// The registers of a unit take two pages of 4 KiB.
const PAGES_LG2: u8 = 1;
/// Bits of an address, less one.
const HOST_ADDRESS_WIDTH: u8 = 45;

/// The flag of an ATSR for every root port of its segment.
const ALL_PORTS: u8 = 1;

/// Types of structures of DMAR, and of entries of their device scopes.
const DRHD: u16 = 0;
const RMRR: u16 = 1;
const ATSR: u16 = 2;
const ANDD: u16 = 4;
const SATC: u16 = 5;
const ENDPOINT: u8 = 1;
const SUB_HIERARCHY: u8 = 2;
const NAME_SPACE: u8 = 5;

/// The area with the machine's tables.
///
/// # Errors
///
/// What of the machine no table can say.
pub fn emit(spec: &MachineSpec, pc: &PcSpec) -> Result<Vec<u8>, String> {
    area_of(&[madt(pc)?, mcfg(spec)?, dmar(spec, pc)?])
}

/// The area with the tables of an Arm machine. Where it is, EFI would say.
///
/// # Errors
///
/// What of the machine no table can say.
pub fn emit_arm(spec: &MachineSpec) -> Result<Vec<u8>, String> {
    let mut iort = Sdt::new(*b"IORT", 36, 6, OEM, TABLE, 1);
    iort.append_slice(&iort::body(spec)?);
    iort.update_checksum();
    area_of(&[gic(spec)?, mcfg(spec)?, bytes(&iort)])
}

/// An area in which these tables lie.
fn area_of(tables: &[Vec<u8>]) -> Result<Vec<u8>, String> {
    let mut area = vec![0; 0x100];
    let mut xsdt = XSDT::new(OEM, TABLE, 1);
    for table in tables {
        xsdt.add_entry(AREA_FIRST + area.len() as u64);
        area.extend(table);
        area.resize(area.len().next_multiple_of(16), 0);
    }
    let at = AREA_FIRST + area.len() as u64;
    area.extend(bytes(&xsdt));
    // Not at the very beginning: it has to be looked for.
    let rsdp = bytes(&Rsdp::new(OEM, at));
    area[0x40..][..rsdp.len()].copy_from_slice(&rsdp);
    if area.len() > AREA_BYTES {
        return Err(format!("its tables take {} bytes, and there is room for {AREA_BYTES}", area.len()));
    }
    area.resize(AREA_BYTES, 0);
    Ok(area)
}

fn bytes(table: &dyn Aml) -> Vec<u8> {
    let mut bytes = Vec::new();
    table.to_aml_bytes(&mut bytes);
    bytes
}

fn madt(pc: &PcSpec) -> Result<Vec<u8>, String> {
    let mut madt = MADT::new(OEM, TABLE, 1, LocalInterruptController::Address(APIC_BASE));
    for cpu in 0..pc.cpus.len() {
        let id = u8::try_from(cpu).map_err(|_| "an APIC's id has 8 bits")?;
        madt.add_structure(ProcessorLocalApic::new(id, id, EnabledStatus::Enabled));
    }
    Ok(bytes(&madt))
}

/// A GICv3 with the machine's ITSs, by their places in the spec.
fn gic(spec: &MachineSpec) -> Result<Vec<u8>, String> {
    let mut madt = MADT::new(OEM, TABLE, 1, LocalInterruptController::Address(0));
    madt.add_structure(Gicd::new(0, DISTRIBUTOR, GicVersion::GICv3));
    for (id, its) in spec.itses.iter().enumerate() {
        let id = u32::try_from(id).map_err(|_| "an ITS's number has 32 bits")?;
        madt.add_structure(GicIts::new(id, its.base.get()));
    }
    Ok(bytes(&madt))
}

fn mcfg(spec: &MachineSpec) -> Result<Vec<u8>, String> {
    let mut mcfg = MCFG::new(OEM, TABLE, 1);
    for (segment, bridge) in spec.host_bridges.iter().enumerate() {
        let BridgeKind::Ecam(ecam) = &bridge.kind else {
            return Err("MCFG tells of host bridges with an ECAM".into());
        };
        mcfg.add_ecam(ecam.first().get(), segment_of(segment)?, 0, bridge.last_bus);
    }
    Ok(bytes(&mcfg))
}

fn dmar(spec: &MachineSpec, pc: &PcSpec) -> Result<Vec<u8>, String> {
    let mut dmar = Sdt::new(*b"DMAR", 36, 1, OEM, TABLE, 1);
    dmar.append_slice(&[HOST_ADDRESS_WIDTH, INTR_REMAP, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    for structure in structures(spec, pc)? {
        dmar.append_slice(&structure);
    }
    dmar.update_checksum();
    Ok(bytes(&dmar))
}

/// The structures of DMAR, in the order of their types.
fn structures(spec: &MachineSpec, pc: &PcSpec) -> Result<Vec<Vec<u8>>, String> {
    let mut structures = Vec::new();
    // Units for all that is left come last.
    let (named, rest): (Vec<_>, Vec<_>) =
        pc.units.iter().enumerate().partition(|(_, unit)| unit.ways.is_some());
    for (index, unit) in named.into_iter().chain(rest) {
        let ways = unit.ways.iter().flatten().map(|way| entry(spec, unit.bridge, way));
        let mut scope = ways.collect::<Result<Vec<_>, _>>()?;
        scope.extend(name_space(spec, index)?);
        let flags = if unit.ways.is_none() { INCLUDE_PCI_ALL } else { 0 };
        let base = unit.base.get().to_le_bytes();
        let body = [&[flags, PAGES_LG2][..], &segment_of(unit.bridge)?.to_le_bytes(), &base].concat();
        structures.push(structure(DRHD, &body, &scope.concat()));
    }
    for region in &spec.reserved {
        let memory = region.memory.filter(|memory| memory.first().get() == region.iova.first().get());
        let memory = memory.ok_or("DMAR reserves memory that is mapped 1:1, and nothing else")?;
        let ends = [memory.first().get(), memory.last().get()].map(u64::to_le_bytes).concat();
        let (bridge, device) = region.slot;
        let body = [&[0, 0][..], &segment_of(bridge)?.to_le_bytes(), &ends].concat();
        let in_slot = spec.disks().find(|disk| (disk.bridge, disk.way[0]) == (bridge, device));
        let disk = in_slot.ok_or("memory is reserved for a disk")?;
        structures.push(structure(RMRR, &body, &entry(spec, bridge, &disk.way)?));
    }
    for (index, _) in spec.host_bridges.iter().enumerate().filter(|(_, bridge)| bridge.ats) {
        let flags = if pc.ats_ports.is_none() { ALL_PORTS } else { 0 };
        let body = [&[flags, 0][..], &segment_of(index)?.to_le_bytes()].concat();
        structures.push(structure(ATSR, &body, &in_slots(spec, index, pc.ats_ports.as_deref())?));
    }
    for (number, device) in spec.accelerators.iter().enumerate() {
        let number = u8::try_from(number).map_err(|_| "a device of the name space has a number of 8 bits")?;
        let name = [device.acpi_name().as_bytes(), &[0]].concat();
        structures.push(structure(ANDD, &[0, 0, 0, number], &name));
    }
    for index in 0..spec.host_bridges.len() {
        let scope = in_slots(spec, index, pc.satc.as_deref())?;
        if !scope.is_empty() {
            let body = [&[0, 0][..], &segment_of(index)?.to_le_bytes()].concat();
            structures.push(structure(SATC, &body, &scope));
        }
    }
    Ok(structures)
}

/// The entries of what is in these slots of a host bridge.
fn in_slots(spec: &MachineSpec, bridge: usize, slots: Option<&[(usize, u8)]>) -> Result<Vec<u8>, String> {
    let own = slots.unwrap_or_default().iter().filter(|(other, _)| *other == bridge);
    let entries = own.map(|&(_, device)| entry(spec, bridge, &[device])).collect::<Result<Vec<_>, _>>()?;
    Ok(entries.concat())
}

/// The entries of the devices of the name space behind a unit: one for each id that they have there.
fn name_space(spec: &MachineSpec, unit: usize) -> Result<Vec<Vec<u8>>, String> {
    let mut entries = Vec::new();
    for (number, device) in (0..).zip(&spec.accelerators).filter(|(_, device)| device.smmu == unit) {
        let mut sources = device.sources.to_vec();
        sources.dedup();
        for source in sources {
            let id = u16::try_from(source.0).map_err(|_| "a source id has 16 bits")?;
            let [function, bus] = id.to_le_bytes();
            entries.push(vec![NAME_SPACE, 8, 0, 0, number, bus, function >> 3, function & 7]);
        }
    }
    Ok(entries)
}

/// What a way leads to, as a device scope names it: a bridge with all below it, or a device.
fn entry(spec: &MachineSpec, bridge: usize, way: &[u8]) -> Result<Vec<u8>, String> {
    let slots = spec.host_bridges.get(bridge).map_or(&[][..], |bridge| &bridge.slots);
    let (device, below) = way.split_first().ok_or("a way leads somewhere")?;
    let found = slots.iter().find(|slot| slot.device == *device).ok_or("nothing is in that slot")?;
    let kind = if found.what.bridges().contains(&below) { SUB_HIERARCHY } else { ENDPOINT };
    let length = u8::try_from(6 + 2 * way.len()).map_err(|_| "a way is short")?;
    // Type, length, flags, a reserved byte, no enumeration id, bus 0, and the steps.
    let steps = way.iter().flat_map(|&device| [device, 0]);
    Ok([kind, length, 0, 0, 0, 0].into_iter().chain(steps).collect())
}

fn structure(kind: u16, body: &[u8], scope: &[u8]) -> Vec<u8> {
    let length = u16::try_from(4 + body.len() + scope.len()).expect("a machine has few slots");
    [&kind.to_le_bytes()[..], &length.to_le_bytes(), body, scope].concat()
}

fn segment_of(bridge: usize) -> Result<u16, String> {
    u16::try_from(bridge).map_err(|_| "a segment's number has 16 bits".into())
}
