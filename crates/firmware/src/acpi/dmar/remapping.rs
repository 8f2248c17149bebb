//! What a table means: units, reserved memory, and what else it says about devices.
//!
//! Not here: who covers a function (`cover`), how structures lie (`structure`).

use alloc::string::String;
use alloc::vec::Vec;

use portcullis_types::{Pa, PaRange, mutant};

use super::cover::{Claim, ScopedDevice, named};
use super::{
    Andd, Atsr, DevicePath, Dmar, DmarError, DmarFault, Drhd, Rhsa, Rmrr, Scope, ScopeEntry, ScopeKind,
    Structure,
};

const PAGE_BYTES: u64 = 1 << 12;

/// What a DMAR table says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remapping {
    /// How many bits of address the platform's memory has.
    pub host_address_bits: u16,
    /// Whether the platform can remap interrupts.
    pub interrupt_remapping: bool,
    /// Whether firmware asks that the extended interrupt mode stays off.
    pub x2apic_opt_out: bool,
    /// Whether firmware's own DMA keeps to the reserved regions.
    pub dma_control_opt_in: bool,
    /// The units, in the table's order.
    pub units: Vec<Unit>,
    /// Memory that firmware keeps for devices.
    pub reserved: Vec<ReservedRegion>,
    /// Which root ports pass translation requests on.
    pub ats: Vec<AtsPorts>,
    /// To what memory units are near.
    pub affinities: Vec<Affinity>,
    /// Devices of the ACPI name space.
    pub namespace: Vec<NamespaceDevice>,
    /// What is special about devices in the chip.
    pub properties: Vec<DeviceProperty>,
    /// What is wrong with the table, and was left out or, where that is said, kept all the same.
    pub faults: Vec<DmarError>,
    /// Units that were left out.
    pub(super) broken: Vec<Claim>,
}

/// A unit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unit {
    /// Its registers.
    pub registers: PaRange,
    /// The PCI segment.
    pub segment: u16,
    /// Whether it covers whatever of the segment no other unit covers.
    pub include_all: bool,
    /// Whom it covers by name.
    pub devices: Vec<ScopedDevice>,
}

/// Memory that firmware keeps for devices: to be mapped 1:1 for them before they are translated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReservedRegion {
    /// Where it is: whole pages of 4 KiB.
    pub range: PaRange,
    /// The PCI segment.
    pub segment: u16,
    /// Whose it is.
    pub devices: Vec<ScopedDevice>,
}

/// Which root ports of a segment pass translation requests on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AtsPorts {
    /// The PCI segment.
    pub segment: u16,
    /// The ports; none where all do.
    pub ports: Option<Vec<ScopedDevice>>,
}

/// To what memory a unit is near.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Affinity {
    /// The unit's index.
    pub unit: usize,
    /// The proximity domain, as SRAT numbers them.
    pub proximity: u32,
}

/// A device of the ACPI name space.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamespaceDevice {
    /// By this number device scopes mean it.
    pub number: u8,
    /// Its full path in the name space.
    pub name: String,
}

/// What is special about a device in the chip.
///
/// Spec: VT-d 5.10, 8.3.1 "Device Scope Structure", Flags; 8.8 "SoC Integrated Address Translation Cache Reporting Structure"; 8.9 "SoC Integrated Device
/// Property Reporting Structure": whose entries, if there are any, are the only ones.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceProperty {
    /// The PCI segment.
    pub segment: u16,
    /// The device.
    pub device: ScopedDevice,
    /// Its requests without PASID had better not be translated in two stages.
    pub no_nesting: bool,
    /// PWSNP must be clear for its requests without PASID.
    pub no_walk_snoop: bool,
    /// PGSNP, and SNP of last entries of second-stage tables, must be clear for its requests without PASID.
    pub no_page_snoop: bool,
    /// Its ATC is known to keep to the rules.
    pub atc_hardened: bool,
    /// It does not work without its ATC.
    pub atc_required: bool,
}

impl Remapping {
    /// What the table at the start of `bytes` says. `usable` is the memory that the firmware's memory map gives to the operating system, in which no reserved region
    /// should lie; empty where that is not known.
    ///
    /// # Errors
    ///
    /// The table's framing does not hold. What is wrong beyond that is in [`faults`](Self::faults).
    pub fn read(bytes: &[u8], usable: &[PaRange]) -> Result<Self, DmarError> {
        let dmar = Dmar::read(bytes)?;
        let mut read = Self {
            host_address_bits: dmar.host_address_bits(),
            interrupt_remapping: dmar.interrupt_remapping(),
            x2apic_opt_out: dmar.x2apic_opt_out(),
            dma_control_opt_in: dmar.dma_control_opt_in(),
            units: Vec::new(),
            reserved: Vec::new(),
            ats: Vec::new(),
            affinities: Vec::new(),
            namespace: Vec::new(),
            properties: Vec::new(),
            faults: Vec::new(),
            broken: Vec::new(),
        };
        let mut last = 0;
        let mut own_properties = false;
        // Devices of the name space first: scopes mean them by number, and may come before.
        for (offset, structure) in dmar.structures() {
            if let Structure::Andd(andd) = structure {
                read.take_andd(offset, andd);
            }
            own_properties |= matches!(structure, Structure::Sidp(_));
            if structure.number() < last {
                read.fault(offset, DmarFault::Order);
            }
            last = last.max(structure.number());
        }
        for (offset, structure) in dmar.structures() {
            match structure {
                Structure::Drhd(drhd) => read.take_drhd(offset, drhd),
                Structure::Rmrr(rmrr) => read.take_rmrr(offset, rmrr, usable),
                Structure::Atsr(atsr) => read.take_atsr(atsr),
                Structure::Satc(satc) if !own_properties => {
                    let flags = ATC_HARDENED | if satc.required { ATC_REQUIRED } else { 0 };
                    read.take_properties(satc.segment, satc.scope, |_| flags);
                }
                Structure::Sidp(sidp) => read.take_properties(sidp.segment, sidp.scope, |flags| flags),
                Structure::Rhsa(_) | Structure::Andd(_) | Structure::Satc(_) => {}
            }
        }
        for (offset, structure) in dmar.structures() {
            if let Structure::Rhsa(rhsa) = structure {
                read.take_rhsa(offset, rhsa);
            }
        }
        if read.units.is_empty() && read.broken.is_empty() {
            read.fault(0, DmarFault::NoUnits);
        }
        Ok(read)
    }

    fn fault(&mut self, offset: usize, fault: DmarFault) {
        self.faults.push(DmarError { offset, fault });
    }

    fn take_andd(&mut self, offset: usize, andd: Andd<'_>) {
        let Some(name) = andd.name() else { return self.fault(offset, DmarFault::Name) };
        if self.namespace.iter().any(|device| device.number == andd.number) {
            return self.fault(offset, DmarFault::SecondDevice(andd.number));
        }
        self.namespace.push(NamespaceDevice { number: andd.number, name: name.into() });
    }

    /// The entries of a scope that mean something, if they are of these kinds.
    fn devices(&mut self, scope: Scope<'_>, may_be: impl Fn(ScopeKind) -> bool) -> Vec<ScopedDevice> {
        scope.entries().filter_map(|entry| self.device(entry, &may_be)).collect()
    }

    /// The entry of a scope, if it means something and is of these kinds.
    fn device(&mut self, entry: ScopeEntry<'_>, may_be: impl Fn(ScopeKind) -> bool) -> Option<ScopedDevice> {
        let kind = entry.kind();
        // Messages of timer blocks and of devices of the name space have ids of firmware's choice, which need not be those of functions.
        let path_counts = kind.is_pci() || kind == ScopeKind::IoApic;
        let fault = if !may_be(kind) {
            DmarFault::WrongKind(kind)
        } else if path_counts && entry.path().any(|(device, function)| device > 31 || function > 7) {
            DmarFault::Path
        } else if kind == ScopeKind::NamespaceDevice
            && self.namespace.iter().all(|device| device.number != entry.enumeration_id())
        {
            DmarFault::NoSuchDevice(entry.enumeration_id())
        } else {
            return Some(ScopedDevice::new(entry));
        };
        self.fault(entry.offset, fault);
        None
    }

    fn take_drhd(&mut self, offset: usize, drhd: Drhd<'_>) {
        let Drhd { include_all, segment, .. } = drhd;
        let devices = self.devices(drhd.scope, |kind| match kind {
            // The rest of the segment is its own without being named.
            ScopeKind::Endpoint | ScopeKind::SubHierarchy => !include_all,
            ScopeKind::IoApic | ScopeKind::Hpet | ScopeKind::NamespaceDevice => true,
            ScopeKind::Unknown(_) => false,
        });
        let registers = match self.registers(&drhd) {
            Ok(registers) => registers,
            Err(fault) => {
                self.fault(offset, fault);
                let why = DmarError { offset, fault };
                return self.broken.push(Claim { why, segment, include_all, devices });
            }
        };
        let rest_is_taken = self.units.iter().any(|unit| unit.segment == segment && unit.include_all);
        if rest_is_taken {
            self.fault(offset, DmarFault::AfterIncludeAll(segment));
        }
        if devices.is_empty() && !include_all {
            self.fault(offset, DmarFault::CoversNothing);
        }
        let others = self.units.iter().filter(|unit| unit.segment == segment);
        let overlaps =
            |one: &ScopedDevice| others.clone().any(|unit| unit.devices.iter().any(|two| two.overlaps(one)));
        if devices.iter().any(overlaps) {
            self.fault(offset, DmarFault::Overlap);
        }
        self.units.push(Unit { registers, segment, include_all, devices });
    }

    /// Where a unit's registers are, if they can be there.
    fn registers(&self, drhd: &Drhd<'_>) -> Result<PaRange, DmarFault> {
        let len_bytes = PAGE_BYTES << drhd.size_lg2;
        let registers = PaRange::new(drhd.registers, len_bytes);
        let registers = registers
            .filter(|range| drhd.registers.get() != 0 && range.first().is_aligned(len_bytes))
            .ok_or(DmarFault::Registers(drhd.registers))?;
        if self.units.iter().any(|unit| unit.registers.overlaps(registers)) {
            return Err(DmarFault::SharedRegisters(registers));
        }
        let mut before = self.units.iter().filter(|unit| unit.segment == drhd.segment);
        match drhd.include_all && before.any(|unit| unit.include_all) {
            true => Err(DmarFault::SecondIncludeAll(drhd.segment)),
            false => Ok(registers),
        }
    }

    fn take_rmrr(&mut self, offset: usize, rmrr: Rmrr<'_>, usable: &[PaRange]) {
        let devices = self.devices(rmrr.scope, |kind| kind.is_pci() || kind == ScopeKind::NamespaceDevice);
        let Rmrr { segment, base, limit, .. } = rmrr;
        let pages = base.is_multiple_of(PAGE_BYTES) && limit.wrapping_add(1).is_multiple_of(PAGE_BYTES);
        let range = PaRange::from_ends(Pa::new(base), Pa::new(limit)).filter(|_| pages);
        let Some(range) = range else { return self.fault(offset, DmarFault::Region { base, limit }) };
        if usable.iter().any(|ram| ram.overlaps(range)) {
            self.fault(offset, DmarFault::RegionInRam(range));
            if mutant!("dmar-reserved-memory-in-ram-not-kept") {
                return;
            }
        }
        if devices.is_empty() {
            return self.fault(offset, DmarFault::CoversNothing);
        }
        self.reserved.push(ReservedRegion { range, segment, devices });
    }

    fn take_atsr(&mut self, atsr: Atsr<'_>) {
        let named = self.devices(atsr.scope, |kind| kind == ScopeKind::SubHierarchy);
        let ports = (!atsr.all_ports).then_some(named);
        self.ats.push(AtsPorts { segment: atsr.segment, ports });
    }

    fn take_rhsa(&mut self, offset: usize, rhsa: Rhsa) {
        match self.units.iter().position(|unit| unit.registers.first() == rhsa.registers) {
            Some(unit) => self.affinities.push(Affinity { unit, proximity: rhsa.proximity }),
            None => self.fault(offset, DmarFault::NoSuchUnit(rhsa.registers)),
        }
    }

    fn take_properties(&mut self, segment: u16, scope: Scope<'_>, flags: impl Fn(u8) -> u8) {
        for entry in scope.entries() {
            let may_be = |kind| matches!(kind, ScopeKind::Endpoint | ScopeKind::NamespaceDevice);
            let Some(device) = self.device(entry, may_be) else { continue };
            let flags = flags(entry.flags());
            self.properties.push(DeviceProperty {
                segment,
                device,
                no_nesting: flags & 1 != 0,
                no_walk_snoop: flags & 2 != 0,
                no_page_snoop: flags & 4 != 0,
                atc_hardened: flags & ATC_HARDENED != 0,
                atc_required: flags & ATC_REQUIRED != 0,
            });
        }
    }

    /// The memory that firmware keeps for this function.
    pub fn reserved_for<'a>(&'a self, function: &'a DevicePath) -> impl Iterator<Item = &'a ReservedRegion> {
        let its =
            |region: &&ReservedRegion| region.segment == function.segment && named(&region.devices, function);
        self.reserved.iter().filter(its)
    }

    /// The memory that firmware keeps for a device of the name space.
    pub fn reserved_for_named(&self, number: u8) -> impl Iterator<Item = &ReservedRegion> {
        let its = move |region: &&ReservedRegion| {
            region.devices.iter().any(|device| device.is_named_device(number))
        };
        self.reserved.iter().filter(its)
    }

    /// Whether this function may ask for translations: the root port that it is behind passes them on, or it is in the chip.
    ///
    /// Spec: VT-d 5.10, 8.5 "Root Port ATS Capability Reporting Structure"; 8.8 "SoC Integrated Address Translation Cache Reporting Structure".
    /// Choice: where firmware says of any device of the segment in the chip that its ATC keeps to the rules, one of which it does not say so is not trusted with one.
    pub fn passes_translation_requests(&self, function: &DevicePath) -> bool {
        let of_all = |ports: &AtsPorts| {
            ports.segment == function.segment
                && match &ports.ports {
                    None => true,
                    Some(ports) => named(ports, function),
                }
        };
        if function.path.len() > 1 {
            return self.ats.iter().any(of_all) || mutant!("dmar-translation-requests-of-any-port");
        }
        let hardened =
            |property: &&DeviceProperty| property.atc_hardened && property.segment == function.segment;
        let mut hardened = self.properties.iter().filter(hardened).peekable();
        hardened.peek().is_none() || hardened.any(|property| property.device.names(function))
    }

    /// What is special about this function, if it is in the chip.
    pub fn properties_of(&self, function: &DevicePath) -> Option<&DeviceProperty> {
        let its = |property: &&DeviceProperty| {
            property.segment == function.segment && property.device.names(function)
        };
        self.properties.iter().find(its)
    }
}

const ATC_HARDENED: u8 = 1 << 3;
const ATC_REQUIRED: u8 = 1 << 4;
