//! Finding ACPI's tables: RSDP, then XSDT or RSDT, then the tables that matter here.
//!
//! What of it is missing or broken is not there: a machine boots with what is left, and what its devices may do then is decided where they are brought up.
//!
//! Spec: ACPI 6.5, 5.2.5 "Root System Description Pointer (RSDP)"; 5.2.7 "Root System Description Table (RSDT)"; 5.2.8 "Extended System Description Table (XSDT)".
//! Not here: what the tables mean (`portcullis::firmware::acpi`).

use portcullis::firmware;
use portcullis::firmware::acpi::{AcpiTables, BridgeWindows, NamedDevice, Table};
use portcullis::pci::{HostWindow, Space};
use portcullis::types::PaRange;

use crate::machine::MachineSpec;
use crate::machine::acpi::AREA_FIRST;
use crate::machine::fdt::{ACCELERATOR, ACCELERATOR_BYTES};
use crate::machine::spec::AcceleratorSpec;

/// Bytes of the RSDP of ACPI 1.0, and of later ones.
const RSDP_1_BYTES: usize = 20;
const RSDP_2_BYTES: usize = 36;
/// Bytes of the header of a table.
const HEADER_BYTES: usize = 36;

/// What firmware tells a kernel by other ways than ACPI's static tables: by the memory map, and by AML.
#[derive(Clone, Debug)]
pub struct PcFacts {
    /// The memory that is the kernel's to use.
    pub memory: Vec<PaRange>,
    /// What the CPU reaches through each host bridge, by segment; each begins with bus 0.
    pub windows: Vec<Vec<HostWindow>>,
    /// Devices by their names: what they are compatible with, and their registers.
    pub devices: Vec<(String, &'static str, PaRange)>,
}

impl PcFacts {
    /// Those of a machine; none if a device tree tells of it.
    pub fn of(spec: &MachineSpec) -> Option<Self> {
        if spec.pc.is_none() && !spec.acpi {
            return None;
        }
        let window = |space, cpu: PaRange| HostWindow {
            space,
            prefetchable: false,
            bus_first: cpu.first().get(),
            cpu_first: cpu.first(),
            size_bytes: cpu.len_bytes().unwrap_or(0),
        };
        let windows = |bridge: &crate::machine::spec::HostBridgeSpec| {
            let high = bridge.window_64.map(|cpu| window(Space::Memory64, cpu));
            [window(Space::Memory32, bridge.window_32)].into_iter().chain(high).collect()
        };
        let device = |device: &AcceleratorSpec| {
            let registers = PaRange::new(device.base, ACCELERATOR_BYTES)?;
            Some((device.acpi_name(), ACCELERATOR, registers))
        };
        Some(Self {
            memory: spec.usable_memory(),
            windows: spec.host_bridges.iter().map(windows).collect(),
            devices: spec.accelerators.iter().filter_map(device).collect(),
        })
    }

    /// The machine whose tables are in `area`, which begins at [`AREA_FIRST`].
    pub(super) fn machine(&self, area: &[u8]) -> firmware::Machine {
        let tables = listed(area);
        let find =
            |signature: [u8; 4]| tables.iter().copied().find(|table| table.first_chunk() == Some(&signature));
        let windows = (0..).zip(&self.windows);
        let windows: Vec<_> =
            windows.map(|(segment, windows)| BridgeWindows { segment, first_bus: 0, windows }).collect();
        let compatible: Vec<_> = self.devices.iter().map(|(_, compatible, _)| [*compatible]).collect();
        let devices = self.devices.iter().zip(&compatible).map(|((name, _, registers), compatible)| {
            NamedDevice { name, compatible, registers: core::slice::from_ref(registers) }
        });
        let devices: Vec<_> = devices.collect();
        firmware::Machine::from_acpi(&AcpiTables {
            dmar: find(*b"DMAR"),
            iort: find(*b"IORT"),
            madt: find(*b"APIC"),
            mcfg: find(*b"MCFG"),
            memory: &self.memory,
            windows: &windows,
            devices: &devices,
        })
    }
}

/// The bytes of the area from a physical address on; none if that is not in it.
fn at(area: &[u8], address: u64) -> Option<&[u8]> {
    area.get(usize::try_from(address.checked_sub(AREA_FIRST)?).ok()?..).filter(|rest| !rest.is_empty())
}

fn sums_to_zero(bytes: &[u8]) -> bool {
    bytes.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte)) == 0
}

/// The RSDP: on a boundary of 16 bytes, its sum right.
fn rsdp(area: &[u8]) -> Option<&[u8]> {
    let is_one =
        |bytes: &&[u8]| bytes.starts_with(b"RSD PTR ") && bytes.get(..RSDP_1_BYTES).is_some_and(sums_to_zero);
    (0..area.len()).step_by(16).filter_map(|offset| area.get(offset..)).find(is_one)
}

/// Every table that XSDT or RSDT lists, from where it begins. Whether it is whole, its reader looks.
fn listed(area: &[u8]) -> Vec<&[u8]> {
    let Some(rsdp) = rsdp(area) else { return Vec::new() };
    let extended = rsdp.get(..RSDP_2_BYTES).filter(|whole| whole[15] >= 2 && sums_to_zero(whole));
    let (root, signature, width) = match extended {
        Some(whole) => (little(&whole[24..32]), *b"XSDT", 8),
        None => (little(&rsdp[16..20]), *b"RSDT", 4),
    };
    let root = at(area, root).and_then(|bytes| Table::read(bytes, signature, HEADER_BYTES).ok());
    let entries = root.map_or(&[][..], |root| &root.bytes()[HEADER_BYTES..]);
    entries.chunks_exact(width).filter_map(|entry| at(area, little(entry))).collect()
}

fn little(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

#[cfg(test)]
mod tests {
    use portcullis::firmware::acpi::AcpiFault;
    use portcullis::firmware::acpi::dmar::DmarFault;
    use portcullis::firmware::{IommuKind, PciConfig};
    use portcullis::types::Pa;

    use super::*;
    use crate::machine::{acpi, builtin};

    fn x86() -> (MachineSpec, Vec<u8>) {
        let spec = builtin::find("x86").unwrap();
        let area = acpi::emit(&spec, spec.pc.as_ref().unwrap()).unwrap();
        (spec, area)
    }

    #[test]
    fn the_machines_own_tables_are_found_and_say_what_it_is() {
        let (spec, area) = x86();
        let machine = PcFacts::of(&spec).unwrap().machine(&area);
        assert_eq!(machine.acpi_faults, []);
        let bases: Vec<Pa> = machine.iommus.iter().map(|unit| unit.registers[0].first()).collect();
        let wanted: Vec<Pa> = spec.pc.as_ref().unwrap().units.iter().map(|unit| unit.base).collect();
        assert_eq!(bases, wanted);
        assert!(machine.iommus.iter().all(|unit| unit.kind == IommuKind::Vtd));
        let [host] = &machine.pci_hosts[..] else { panic!("{:?}", machine.pci_hosts) };
        assert!(matches!(host.config, PciConfig::Ecam(ecam) if ecam.first().get() == 0xb000_0000));
        assert_eq!(host.windows.len(), 2);
    }

    #[test]
    fn tables_whose_sums_are_wrong_or_that_nobody_lists_are_none() {
        let (spec, area) = x86();
        let facts = PcFacts::of(&spec).unwrap();
        let dmar = area.windows(4).position(|word| word == b"DMAR").unwrap();
        let mut broken = area.clone();
        broken[dmar + 40] ^= 1;
        let machine = facts.machine(&broken);
        assert!(machine.iommus.is_empty() && machine.pci_hosts.len() == 1);
        let [AcpiFault::Dmar(error)] = machine.acpi_faults[..] else { panic!("{:?}", machine.acpi_faults) };
        assert!(matches!(error.fault, DmarFault::Table(_)));

        let mut lost = area.clone();
        let rsdp = lost.windows(8).position(|word| word == b"RSD PTR ").unwrap();
        lost[rsdp + 9] ^= 1;
        let machine = facts.machine(&lost);
        assert!(machine.iommus.is_empty() && machine.pci_hosts.is_empty());
        facts.machine(&[]);
    }

    #[test]
    fn no_damage_to_the_pointers_panics() {
        let (spec, area) = x86();
        let facts = PcFacts::of(&spec).unwrap();
        let area = &area[..0x1000];
        for offset in 0..area.len() {
            for value in [0, 0x7f, 0xff] {
                let mut turned = area.to_vec();
                turned[offset] = value;
                listed(&turned);
            }
        }
        facts.machine(area);
    }

    mod on_qemu {
        use portcullis::firmware::Translation;
        use portcullis::firmware::acpi::FoundFunction;
        use portcullis::pci::Bdf;
        use portcullis_qemu::Arch;
        use portcullis_qemu::testing::qemus;

        use super::*;
        use crate::machine::{DiskContent, Machine};

        #[test]
        fn the_tables_that_qemu_makes_say_that_its_unit_covers_every_function() {
            for qemu in qemus(Arch::X86_64) {
                let (machine, area) = Machine::on_qemu(&qemu, DiskContent::Blank, 1).unwrap();
                let mut firmware = PcFacts::of(&machine.spec).unwrap().machine(&area);
                assert_eq!(firmware.acpi_faults, [], "{qemu}");
                let [unit] = &firmware.iommus[..] else { panic!("{qemu}: {:?}", firmware.iommus) };
                assert_eq!(unit.registers[0].first(), Pa::new(0xfed9_0000), "{qemu}");
                assert_eq!(firmware.pci_hosts.len(), 1, "{qemu}");
                let at = Bdf::from_requester_id(8);
                let disk = FoundFunction { at, requester_ids: vec![at], path: vec![(1, 0)], class: (1, 8) };
                firmware.place_functions(0, &[disk]);
                let translation = firmware.pci_hosts[0].translation(at);
                assert!(
                    matches!(translation, Translation::Behind { iommu: 0, source } if source.0 == 8),
                    "{qemu}"
                );
            }
        }
    }
}
