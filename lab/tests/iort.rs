//! Arm machines whose firmware tells of them by IORT, beside the same ones with a device tree: they are one machine, they do the same work with the same steps, and what firmware
//! uses is never cut off.

mod screen;

use core::sync::atomic::Ordering::Relaxed;
use std::sync::Arc;

use model_bus::Translator;
use model_smmuv3::HardwareUpdate;
use portcullis::core::domain::FlushMode;
use portcullis::core::iommu::RegionSource;
use portcullis::firmware::{self, MsiTarget, PciHost, Translation};
use portcullis::pci::Bdf;
use portcullis::types::{Access, SourceId};
use portcullis_lab::boot::{BootRequest, Hardware, Standing, System};
use portcullis_lab::input::Opened;
use portcullis_lab::machine::builtin::{self, WITH_ACPI};
use portcullis_lab::machine::{DiskContent, Machine, MachineSpec, acpi, fdt};
use portcullis_lab::report::Counters;
use portcullis_lab::workload::{dma, sva, vfio};
use portcullis_lab::{DeviceKind, RunError, trace};

use self::screen::{Firmware, Use, reaches};

/// Every built-in machine with an SMMU: with IORT, and with a device tree that says no more.
fn pairs() -> Vec<[MachineSpec; 2]> {
    let names = builtin::all().into_iter().map(|spec| format!("{}{WITH_ACPI}", spec.name));
    let with_acpi: Vec<_> = names.filter_map(|name| builtin::find(&name)).collect();
    with_acpi.into_iter().map(|spec| [spec.clone(), MachineSpec { acpi: false, ..spec }]).collect()
}

fn tables(spec: &MachineSpec) -> Vec<u8> {
    if spec.acpi { acpi::emit_arm(spec).unwrap() } else { fdt::emit(spec).unwrap() }
}

fn booted(spec: &MachineSpec) -> (Machine, System) {
    let machine = Machine::build(spec.clone(), DiskContent::Blank, 1, &trace::shared(None)).unwrap();
    let system = System::boot(BootRequest::new(&machine, &tables(spec), trace::shared(None))).unwrap();
    (machine, system)
}

#[test]
fn there_is_a_machine_with_iort_for_every_one_with_an_smmu_and_no_other() {
    let names: Vec<_> = pairs().into_iter().map(|[spec, _]| spec.name).collect();
    assert_eq!(names.len(), builtin::all().len() - 3, "{names:?}");
    assert!(names.contains(&"smmuv2+acpi".into()) && builtin::find("x86+acpi").is_none());
    assert!(builtin::find("power8+acpi").is_none() && builtin::find("+acpi").is_none());
}

/// Has IORT say so of its first SMMUv3. Spec: Arm DEN0049 E.f, "SMMUv3 node": of type 4, with its flags behind 24 bytes.
fn override_with(area: &mut [u8], flags: u32) {
    let word = |bytes: &[u8], at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
    let start = area.windows(4).position(|word| word == b"IORT").unwrap();
    let len = word(area, start + 4) as usize;
    let iort = &mut area[start..start + len];
    let mut node = word(iort, 40) as usize;
    while iort[node] != 4 {
        node += usize::from(u16::from_le_bytes([iort[node + 1], iort[node + 2]]));
    }
    let flags = word(iort, node + 24) | flags;
    iort[node + 24..node + 28].copy_from_slice(&flags.to_le_bytes());
    let sum = iort.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte));
    iort[9] = iort[9].wrapping_sub(sum);
}

#[test]
fn what_iort_knows_better_than_an_smmus_registers_is_what_its_driver_goes_by() {
    // It snoops, and updates descriptors, and its registers say nothing of either.
    let mut spec = builtin::find("arm+acpi").unwrap();
    spec.smmus[0].config.coherent = false;
    spec.smmus[0].config.hardware_update = HardwareUpdate::None;
    // COHACC override is bit 0, HTTU override bits 2:1.
    let told = [
        (0b000, [false, false, false]),
        (0b001, [true, false, false]),
        (0b010, [false, true, false]),
        (0b100, [false, true, true]),
    ];
    for (flags, wanted) in told {
        let machine = Machine::build(spec.clone(), DiskContent::Blank, 1, &trace::shared(None)).unwrap();
        let mut tables = tables(&spec);
        override_with(&mut tables, flags);
        let system = System::boot(BootRequest::new(&machine, &tables, trace::shared(None))).unwrap();
        assert_eq!(system.firmware.acpi_faults, []);
        let Hardware::Smmu(smmu) = &system.units[0].driver else { panic!("{:?}", system.units[0].driver) };
        let features = smmu.features();
        let goes_by = [features.coherent, features.access_flag, features.dirty_state];
        assert_eq!(goes_by, wanted, "{flags:#b}");
        system.shut_down().unwrap();
    }
}

/// What a host bridge's functions meet, by every requester id. Messages of those that no SMMU covers are nobody's to send: IORT leads messages through streams.
fn ways(host: &PciHost) -> Vec<(Translation, Option<MsiTarget>)> {
    let ids = (0..=u16::from(*host.buses.end()) << 8 | 0xff).map(Bdf::from_requester_id);
    let way = |id| match host.translation(id) {
        Translation::Uncovered => (Translation::Uncovered, None),
        translation => (translation, host.msi_target(id)),
    };
    ids.map(way).collect()
}

#[test]
fn iort_and_the_device_tree_are_one_machine_in_two_languages() {
    for [with_acpi, with_tree] in pairs() {
        let name = &with_acpi.name;
        let [one, two] = [&with_acpi, &with_tree].map(|spec| booted(spec).1.firmware);
        assert_eq!(one.acpi_faults, [], "{name}");
        assert_eq!((one.iommus.len(), one.devices.len()), (two.iommus.len(), two.devices.len()), "{name}");
        for (one, two) in one.iommus.iter().zip(&two.iommus) {
            assert_eq!((one.kind, &one.registers, &one.msi), (two.kind, &two.registers, &two.msi), "{name}");
            let wires = |node: &firmware::IommuNode| {
                node.interrupts
                    .iter()
                    .map(|wire| (wire.gic().unwrap(), node.global_interrupts))
                    .collect::<Vec<_>>()
            };
            let sorted = |node| {
                let mut wires = wires(node);
                wires.sort_by_key(|(wire, _)| wire.intid);
                wires
            };
            assert_eq!(sorted(one), sorted(two), "{name}");
        }
        for (one, two) in one.pci_hosts.iter().zip(&two.pci_hosts) {
            assert!(ways(one) == ways(two), "{name}: {:?}, {:?}", one.iommu_map, two.iommu_map);
            assert_eq!(
                (&one.config, &one.buses, one.segment),
                (&two.config, &two.buses, two.segment),
                "{name}"
            );
            assert_eq!(
                (one.dma_coherent, one.ats_supported),
                (two.dma_coherent, two.ats_supported),
                "{name}"
            );
        }
        for (one, two) in one.devices.iter().zip(&two.devices).filter(|(_, two)| !two.streams.is_empty()) {
            assert_eq!((&one.streams, &one.registers), (&two.streams, &two.registers), "{name}");
            assert_eq!((one.can_stall, one.pasid_bits), (two.can_stall, two.pasid_bits), "{name}");
            assert_eq!((&one.compatible, one.dma_coherent), (&two.compatible, two.dma_coherent), "{name}");
        }
        let disk = firmware::Machine::pci_function(0, Bdf::from_requester_id(8));
        let kept = |machine: &firmware::Machine| {
            machine.reserved_for(&disk).map(|(_, kept)| kept.clone()).collect::<Vec<_>>()
        };
        assert_eq!(kept(&one), kept(&two), "{name}");
    }
}

/// A workload's counters and its digest.
fn work(workload: &str, spec: MachineSpec) -> Result<(Counters, Option<String>), RunError> {
    let input = Opened::beginning_of_sample(20_000);
    let sink = trace::shared(None);
    match workload {
        "dma" => {
            let job = dma::Job {
                spec,
                device_tree: None,
                input: &input,
                seed: 1,
                mode: FlushMode::Strict,
                sink,
                tamper: None,
                progress: None,
            };
            dma::run(&job).map(|outcome| (outcome.counters, Some(outcome.digest)))
        }
        "vfio" => {
            let job = vfio::Job {
                spec,
                device_tree: None,
                input: &input,
                seed: 1,
                unsafe_interrupts: true,
                kill: false,
                sink,
                tamper: None,
                progress: None,
            };
            vfio::run(&job).map(|outcome| (outcome.counters, Some(outcome.digest)))
        }
        device => {
            let device = if device == "sva" { DeviceKind::Pcie } else { DeviceKind::Platform };
            let job = sva::Job {
                spec,
                device_tree: None,
                input: &input,
                seed: 1,
                device,
                kill: false,
                sink,
                tamper: None,
                progress: None,
            };
            sva::run(&job).map(|outcome| (outcome.counters, outcome.digest))
        }
    }
}

#[test]
fn a_machine_does_the_same_work_by_the_same_steps_whichever_tables_tell_of_it() {
    let mut worked = 0;
    for [with_acpi, with_tree] in pairs() {
        for workload in ["dma", "vfio", "sva", "sva on a platform's"] {
            let name = &with_acpi.name;
            let [one, two] = [&with_acpi, &with_tree].map(|spec| work(workload, spec.clone()));
            match (one, two) {
                (Ok(one), Ok(two)) => {
                    assert_eq!(one, two, "{name}, {workload}");
                    assert!(one.0.device_wrote_bytes > 0 || one.0.sva.is_some(), "{name}, {workload}");
                    worked += 1;
                }
                (Err(RunError::Refused(_)), Err(RunError::Refused(_))) => {}
                (one, two) => panic!("{name}, {workload}: {one:?}, {two:?}"),
            }
        }
    }
    assert!(worked >= 30, "{worked}");
}

/// The disk on the root bus, which stands for a screen, and another's.
const DISK: SourceId = SourceId(0x08);
const OTHER: SourceId = SourceId(0x100);
/// Both ends of what firmware keeps for it, and an address that nobody has.
const KEPT: [u64; 2] = [0x4fff_0000, 0x4fff_ffff];
const NOBODYS: u64 = 0x6000_0000;

#[test]
fn a_screen_that_firmware_left_on_is_reached_at_every_step_until_the_kernel_shuts_down() {
    for name in ["arm", "arm-stage2", "arm-noncoherent", "smmuv2"] {
        for acpi in [true, false] {
            let mut spec = MachineSpec { acpi, ..builtin::find(&format!("{name}{WITH_ACPI}")).unwrap() };
            spec.reserved = builtin::find("arm+acpi").unwrap().reserved;
            let machine = Machine::build(spec.clone(), DiskContent::Blank, 1, &trace::shared(None)).unwrap();
            let smmu: Arc<dyn Translator> = match machine.smmus.first() {
                Some(smmu) => smmu.clone(),
                None => machine.smmuv2s[0].clone(),
            };
            let using = Use { disk: DISK, kept: KEPT, others: [None, Some(OTHER)], nobodys: NOBODYS };
            let firmware = Firmware::new(smmu.clone(), using);
            let tables = tables(&spec);
            let request = BootRequest::new(&machine, &tables, trace::shared(None));
            let system = System::boot(BootRequest { tamper: Some(firmware.clone()), ..request }).unwrap();
            let [before, after] = firmware.met();
            let tried = before.tried.load(Relaxed) + after.tried.load(Relaxed);
            let came = (before.refused.load(Relaxed) + after.refused.load(Relaxed), after.open.load(Relaxed));
            assert!(tried > 50, "{name}, {acpi}");
            assert_eq!(came, (0, 0), "{name}, {acpi}: {before:?}, {after:?}");
            let reaches = |source, at| reaches(&*smmu, source, at, Access::READ);
            assert!(reaches(DISK, KEPT[0]) && !reaches(DISK, NOBODYS), "{name}: it is the kernel's, mapped");
            let (_, disk) = system.endpoints().find(|(_, endpoint)| endpoint.name == "0000:00:01.0").unwrap();
            let Standing::Behind { device, .. } = &disk.standing else { panic!("{:?}", disk.standing) };
            let from = if acpi { RegionSource::Iort } else { RegionSource::DeviceTree };
            assert!(device.reserved_regions().iter().any(|region| region.source == from), "{name}");
            system.shut_down().unwrap();
            assert!(!reaches(DISK, KEPT[0]), "{name}: the SMMU is closed");
        }
    }
}

#[test]
fn a_table_that_cannot_be_read_leaves_no_device_in_use() {
    let spec = builtin::find("arm+acpi").unwrap();
    let machine = Machine::build(spec.clone(), DiskContent::Blank, 1, &trace::shared(None)).unwrap();
    let mut tables = tables(&spec);
    let iort = tables.windows(4).position(|word| word == b"IORT").unwrap();
    tables[iort + 60] ^= 1;
    let system = System::boot(BootRequest::new(&machine, &tables, trace::shared(None))).unwrap();
    assert!(system.units.is_empty() && system.fixed.is_empty());
    assert!(system.endpoints().count() > 0);
    assert!(system.endpoints().all(|(_, endpoint)| matches!(endpoint.standing, Standing::Uncovered(_))));
    assert!(system.firmware.acpi_faults.len() > system.endpoints().count(), "each is named");
    system.shut_down().unwrap();
}

#[test]
fn a_function_has_no_more_bits_of_pasid_than_its_root_complex_passes_on() {
    const TOLD: [u8; 12] = [7, 0, 0, 0, 0, 0, 0, 0, 64, 20, 0, 0];
    let spec = builtin::find("arm+acpi").unwrap();
    for (passed_on, wanted) in [(20, 16), (8, 8), (0, 0)] {
        let machine = Machine::build(spec.clone(), DiskContent::Blank, 1, &trace::shared(None)).unwrap();
        let mut tables = tables(&spec);
        // The root complex: ATS, PRI and PASID, segment 0, and how many bits there are of an address and of a PASID.
        let start = tables.windows(4).position(|word| word == b"IORT").unwrap();
        let at = start + tables[start..].windows(TOLD.len()).position(|bytes| bytes == TOLD).unwrap();
        tables[at + 9] = passed_on;
        tables[start + 9] = tables[start + 9].wrapping_add(20).wrapping_sub(passed_on);
        let system = System::boot(BootRequest::new(&machine, &tables, trace::shared(None))).unwrap();
        assert_eq!(system.firmware.acpi_faults, []);
        let (host, endpoint) =
            system.endpoints().find(|(_, endpoint)| endpoint.name == "0000:00:03.0").unwrap();
        let services = system.services(host, endpoint);
        assert_eq!(services.sva_facts().pasid_bits, 16, "the function's own");
        assert_eq!(system.function_facts(host, &services).pasid_bits, wanted);
        system.shut_down().unwrap();
    }
}
