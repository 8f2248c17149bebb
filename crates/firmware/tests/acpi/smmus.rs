//! Machines that IORT describes: the same words that a device tree has for the same machine.

use portcullis_firmware::acpi::iort::{Dma, IortFault};
use portcullis_firmware::acpi::madt::MadtFault;
use portcullis_firmware::acpi::{AcpiFault, AcpiTables, FoundFunction, NamedDevice};
use portcullis_firmware::{
    DeviceRef, IommuKind, Machine, MsiControllerKind, MsiTarget, Overrides, PciMsi, PlatformDevice,
    ReservedUse, Stream, Translation,
};
use portcullis_spec::pcie::Bdf;
use portcullis_types::{Cacheability, Pa, PaRange, Perms, Prot, SourceId};

use crate::builder::{seal, sealed};
use crate::iort::builder::{component, its, mapping, places, reserved, root, smmu_v2, smmu_v3, table};

const SMMU: u64 = 0x0905_0000;
const SECOND: u64 = 0x0a00_0000;
const ITS: u64 = 0x0808_0000;
const WIRED: [u32; 4] = [106, 107, 109, 108];
const WINDOW: &[u8] = &[0, 0, 0, 0x10, 0x40, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 0];

/// ITSs by number and place, behind the distributor of a GIC.
fn madt(its: &[(u32, u64)]) -> Vec<u8> {
    let mut rest = vec![0; 8];
    rest.extend([&[12, 24][..], &[0; 22]].concat());
    for (id, base) in its {
        rest.extend([&[15, 20, 0, 0][..], &id.to_le_bytes(), &base.to_le_bytes(), &[0; 4]].concat());
    }
    sealed(*b"APIC", 5, &rest)
}

fn machine_of(iort: &[u8], madt: Option<&[u8]>, devices: &[NamedDevice<'_>]) -> Machine {
    let mcfg = sealed(*b"MCFG", 1, &[&[0; 8], WINDOW].concat());
    Machine::from_acpi(&AcpiTables {
        iort: Some(iort),
        madt,
        mcfg: Some(&mcfg),
        devices,
        ..AcpiTables::default()
    })
}

fn machine(nodes: &[Vec<u8>]) -> Machine {
    machine_of(&table(nodes), Some(&madt(&[(0, ITS)])), &[])
}

fn rid(id: u16) -> Bdf {
    Bdf::from_requester_id(id)
}

fn found(id: u16) -> FoundFunction {
    FoundFunction { at: rid(id), requester_ids: vec![rid(id)], path: vec![(1, 0)], class: (3, 0) }
}

fn behind(iommu: usize, source: u32) -> Translation {
    Translation::Behind { iommu, source: SourceId(source) }
}

#[test]
fn an_smmuv3_and_its_functions_are_what_a_device_tree_would_say() {
    let group = 48;
    let nodes = [
        its(&[0]),
        smmu_v3(
            5,
            SMMU,
            1 << 4,
            WIRED,
            1,
            &[mapping(0, 0xffff, 0, group, 0), mapping(0, 0, 0x1_0000, group, 1)],
        ),
        root(0, 1, &[mapping(0, 0x7ff, 0x100, 72, 0)]),
    ];
    assert_eq!(places(&nodes)[..2], [group, 72]);
    let read = machine(&nodes);
    assert_eq!(read.acpi_faults, []);
    let [smmu] = &read.iommus[..] else { panic!("{:?}", read.iommus) };
    assert_eq!((smmu.kind, smmu.path.as_str(), smmu.enabled), (IommuKind::SmmuV3, "smmu@9050000", true));
    assert_eq!(smmu.registers, [PaRange::new(Pa::new(SMMU), 0x2_0000).unwrap()]);
    let wires =
        ["eventq", "priq", "gerror", "cmdq-sync"].map(|name| smmu.interrupt(name).unwrap().gic().unwrap());
    assert_eq!(wires.map(|wire| (wire.intid, wire.edge)), WIRED.map(|gsiv| (gsiv, true)));
    assert_eq!(smmu.msi, [MsiTarget { controller: 0, device_id: Some(0x1_0000) }]);
    let its = &read.msi_controllers[0];
    assert_eq!((its.kind, its.doorbell()), (MsiControllerKind::Its, Some(Pa::new(ITS + 0x1_0040))));
    assert_eq!(read.msi_controllers.len(), 1, "no local APICs");
    let host = &read.pci_hosts[0];
    assert_eq!(
        (host.translation(rid(0)), host.translation(rid(0x7ff))),
        (behind(0, 0x100), behind(0, 0x8ff))
    );
    assert_eq!(host.translation(rid(0x800)), Translation::Uncovered);
    assert_eq!(host.msi_target(rid(8)), Some(MsiTarget { controller: 0, device_id: Some(0x108) }));
    assert_eq!((host.dma_coherent, host.ats_supported), (true, true));
    let limit = host.dma_ranges.as_deref().unwrap();
    assert_eq!(limit[0].bus.last().get(), (1 << 48) - 1);
}

#[test]
fn smmuv2s_are_told_apart_by_their_models_and_version_1_is_not_known() {
    for (model, kind) in [
        (0, IommuKind::Other),
        (1, IommuKind::SmmuV2),
        (2, IommuKind::Other),
        (3, IommuKind::Mmu500),
        (4, IommuKind::Other),
        (5, IommuKind::Other),
        (9, IommuKind::Other),
    ] {
        let mut node = smmu_v2(SMMU, 0x2_0000, &[]);
        node[32] = model;
        let read = machine(&[node, root(0, 0, &[mapping(0, 0xff, 0x40, 48, 0)])]);
        let [smmu] = &read.iommus[..] else { panic!("{:?}", read.iommus) };
        assert_eq!((smmu.kind, smmu.registers[0].len_bytes()), (kind, Some(0x2_0000)), "{model}");
        assert!(smmu.global_interrupts > 0 && smmu.interrupts.len() > smmu.global_interrupts);
        assert!(!smmu.compatible.is_empty(), "somebody has to be told which one nobody drives");
        assert_eq!(read.pci_hosts[0].translation(rid(1)), behind(0, 0x41), "behind it all the same");
    }
    let far = machine(&[smmu_v2(SMMU, 0x2_0000, &[]), root(0, 0, &[mapping(0, 0xff, 0xff80, 48, 0)])]);
    assert_eq!(far.pci_hosts[0].translation(rid(1)), Translation::Uncovered, "StreamIDs have 16 bits");
    let [AcpiFault::Iort(error)] = far.acpi_faults[..] else { panic!("{:?}", far.acpi_faults) };
    assert_eq!(error.fault, IortFault::Ids { first: 0xff80, more: 0xff });
}

#[test]
fn a_segment_is_behind_several_smmus_and_its_messages_go_to_the_itses_of_each() {
    let nodes = [
        its(&[0]),
        its(&[1]),
        smmu_v3(4, SMMU, 0, WIRED, 0, &[mapping(0, 0xffff, 0x2_0000, 48, 0)]),
        smmu_v3(4, SECOND, 0, WIRED, 0, &[mapping(0, 0x1f, 0, 72, 0), mapping(0x20, 0xff, 0x500, 48, 0)]),
        root(
            0,
            0,
            &[
                mapping(0, 0xff, 0, 96, 0),
                mapping(0x100, 0xff, 0, 204, 0),
                mapping(0x200, 0xff, 0x300, 72, 0),
            ],
        ),
    ];
    assert_eq!(places(&nodes)[2..4], [96, 184]);
    let nodes = {
        let [one, two, three, four, _] = nodes;
        let last = root(
            0,
            0,
            &[
                mapping(0, 0xff, 0, 96, 0),
                mapping(0x100, 0xff, 0, 184, 0),
                mapping(0x200, 0xff, 0x300, 72, 0),
            ],
        );
        [one, two, three, four, last]
    };
    let read = machine_of(&table(&nodes), Some(&madt(&[(1, ITS + 0x2_0000), (0, ITS)])), &[]);
    assert_eq!(read.acpi_faults, []);
    let host = &read.pci_hosts[0];
    assert_eq!((host.translation(rid(8)), host.translation(rid(0x108))), (behind(0, 8), behind(1, 8)));
    let to = |controller, device| Some(MsiTarget { controller, device_id: Some(device) });
    assert_eq!(host.msi_target(rid(8)), to(1, 0x2_0008));
    assert_eq!((host.msi_target(rid(0x11f)), host.msi_target(rid(0x120))), (to(0, 0x1f), to(1, 0x500)));
    assert_eq!(host.translation(rid(0x208)), Translation::Uncovered, "past both SMMUs");
    assert_eq!(host.msi_target(rid(0x208)), to(0, 0x308));
}

#[test]
fn what_an_smmu_can_do_whatever_its_registers_say_is_handed_on() {
    // COHACC override is bit 0 of the flags, HTTU override bits 2:1.
    let overrides = |flags| machine(&[smmu_v3(4, SMMU, flags, WIRED, 0, &[])]).iommus[0].overrides;
    let all = |coherent, access_flag, dirty_state| Overrides { coherent, access_flag, dirty_state };
    assert_eq!(overrides(0), Overrides::default());
    assert_eq!(overrides(0b001), all(true, false, false));
    assert_eq!(overrides(0b010), all(false, true, false));
    assert_eq!(overrides(0b101), all(true, true, true));
}

#[test]
fn functions_that_no_smmu_is_told_to_have_are_uncovered_and_named() {
    let good = smmu_v3(4, SMMU, 0, WIRED, 0, &[]);
    let maps =
        [mapping(0, 0x100, 0, 48, 0), mapping(0x100, 0xff, 0x100, 48, 0), mapping(0x200, 0xff, 0, 3, 0)];
    let mut read = machine(&[good, root(0, 0, &maps)]);
    let before = read.acpi_faults.len();
    read.place_functions(0, &[0, 0x100, 0x208, 0x308].map(found));
    let told: Vec<_> = read.acpi_faults[before..].iter().map(ToString::to_string).collect();
    assert_eq!(told[0], "IORT: 0000:01:00.0: the mappings at bytes 0x98 and 0xac both claim it");
    assert!(
        told[1].starts_with("IORT: 0000:02:01.0: where it is led cannot be known (IORT, byte 0xc0:"),
        "{told:?}"
    );
    assert_eq!(told[2], "IORT: 0000:03:01.0: no mapping claims it");
    assert_eq!(told.len(), 3);
    let host = &read.pci_hosts[0];
    assert_eq!(host.translation(rid(0)), behind(0, 0));
    assert!([0x100, 0x208, 0x308].iter().all(|&id| host.translation(rid(id)) == Translation::Uncovered));
}

#[test]
fn without_an_smmu_there_is_none_and_with_a_table_that_cannot_be_read_nothing_is_covered() {
    let mut past = machine(&[its(&[0]), root(0, 0, &[mapping(0, 0xffff, 0, 48, 0)])]);
    past.place_functions(0, &[found(8)]);
    assert_eq!((past.pci_hosts[0].translation(rid(8)), past.acpi_faults.len()), (Translation::NoIommu, 0));
    let other = machine(&[smmu_v3(4, SMMU, 0, WIRED, 0, &[]), root(1, 0, &[mapping(0, 0xffff, 0, 48, 0)])]);
    assert_eq!(
        other.pci_hosts[0].translation(rid(8)),
        Translation::Uncovered,
        "no root complex of its segment"
    );

    let mut broken =
        table(&[smmu_v3(4, SMMU, 0, WIRED, 0, &[]), root(0, 0, &[mapping(0, 0xffff, 0, 48, 0)])]);
    broken[49] = 0;
    seal(&mut broken);
    let name = NamedDevice { name: "\\_SB.DMA0", ..NamedDevice::default() };
    let mut unread = machine_of(&broken, None, &[name]);
    unread.place_functions(0, &[found(8)]);
    assert_eq!(unread.pci_hosts[0].translation(rid(8)), Translation::Uncovered);
    let [AcpiFault::Iort(why), AcpiFault::NotLed { dma, .. }] = unread.acpi_faults[..] else {
        panic!("{:?}", unread.acpi_faults)
    };
    assert_eq!((why.offset, why.fault, dma), (48, IortFault::Length(0), Dma::Broken(why)));
    assert_eq!((unread.devices.len(), unread.unsupported[0].path.as_str()), (0, "\\_SB.DMA0"));
}

#[test]
fn a_bridge_that_is_one_stream_is_it_with_every_id() {
    let smmu = smmu_v3(4, SMMU, 0, WIRED, 0, &[]);
    let one = machine(&[smmu.clone(), root(0, 0, &[mapping(0, 0, 0x77, 48, 1)])]);
    let host = &one.pci_hosts[0];
    assert_eq!([0, 8, 0xffff].map(|id| host.translation(rid(id))), [behind(0, 0x77); 3]);
    let beside = machine(&[smmu, root(0, 0, &[mapping(0, 0, 0x77, 48, 1), mapping(4, 0, 4, 48, 0)])]);
    let host = &beside.pci_hosts[0];
    assert_eq!([0, 4, 8].map(|id| host.translation(rid(id))), [Translation::Uncovered; 3]);
    assert!(!beside.acpi_faults.is_empty());
}

#[test]
fn ids_one_after_the_other_whose_streams_are_apart_are_led_apart() {
    let maps = [mapping(0, 0xff, 0, 48, 0), mapping(0x100, 0xff, 0x800, 48, 0)];
    let read = machine(&[smmu_v3(4, SMMU, 0, WIRED, 0, &[]), root(0, 0, &maps)]);
    let host = &read.pci_hosts[0];
    let streams = [(0xff, 0xff), (0x100, 0x800), (0x1ff, 0x8ff)];
    assert!(streams.iter().all(|&(id, stream)| host.translation(rid(id)) == behind(0, stream)));
}

#[test]
fn translation_requests_of_a_segment_get_through_if_all_its_root_complexes_pass_them() {
    for (one, two, passed) in [(1, 1, true), (1, 0, false), (0, 1, false)] {
        let one_root = root(0, one, &[mapping(0, 0xff, 0, 48, 0)]);
        let other_root = root(0, two, &[mapping(0x100, 0xff, 0x100, 48, 0)]);
        let read = machine(&[smmu_v3(4, SMMU, 0, WIRED, 0, &[]), one_root, other_root]);
        assert_eq!(read.pci_hosts[0].ats_supported, passed, "{one}, {two}");
    }
}

#[test]
fn memory_that_is_kept_is_its_functions_and_mapped_as_the_table_says() {
    let regions = [
        reserved(3, 0b01_0000, &[(0x8000_0000, 0x2_0000)], &[mapping(0, 0, 0x10, 48, 0)]),
        reserved(3, 0b00_0111, &[(0x9000_0000, 0x1_0000)], &[mapping(0, 1, 0x10, 48, 0)]),
    ];
    let [one, two] = regions;
    let map = [mapping(0, 0xff, 0, 48, 0)];
    let mut read = machine(&[smmu_v3(4, SMMU, 0, WIRED, 0, &[]), root(0, 0, &map), one, two]);
    let mut aliased = found(0x10);
    aliased.requester_ids.push(rid(0x11));
    read.place_functions(0, &[found(8), aliased]);
    assert!(read.has_iort() && !read.has_dmar());
    let of = |id| {
        let device = Machine::pci_function(0, rid(id));
        let all = read.reserved_for(&device);
        all.map(|(_, kept)| (kept.range.first().get(), kept.used, kept.prot)).collect::<Vec<_>>()
    };
    assert_eq!(of(8), []);
    let device = Prot { perms: Perms::READ_WRITE | Perms::PRIVILEGED, cacheability: Cacheability::Device };
    let wanted = [
        (0x8000_0000, ReservedUse::Direct, Prot::uncached(Perms::READ_WRITE)),
        (0x9000_0000, ReservedUse::DirectRelaxable, device),
    ];
    assert_eq!(of(0x10), wanted, "each once, though two of its ids have it");
}

#[test]
fn devices_of_the_name_space_have_the_streams_that_their_mappings_name() {
    let registers = [PaRange::from_ends(Pa::new(0x0c00_0000), Pa::new(0x0c00_ffff)).unwrap()];
    let device = |name| NamedDevice { name, compatible: &["PORT0001"], registers: &registers };
    let devices = ["\\_SB.ACC0", "\\_SB.OTH0"].map(device);
    let nodes = [
        its(&[0]),
        smmu_v3(4, SMMU, 0, WIRED, 0, &[]),
        component(
            1 | 16 << 1,
            40,
            b"\\_SB.ACC0\0",
            &[mapping(0, 0, 0x800, 72, 1), mapping(0, 0, 0x801, 72, 1)],
        ),
        component(0, 32, b"\\_SB.BUS0\0", &[mapping(0, 0xff, 0x900, 72, 0)]),
        component(0, 32, b"\\_SB.ODD0\0", &[mapping(0, 0, 1, 3, 1)]),
        reserved(3, 0, &[(0x8000_0000, 0x1_0000)], &[mapping(0, 0, 0x801, 72, 0)]),
    ];
    let read = machine_of(&table(&nodes), Some(&madt(&[(0, ITS)])), &devices);
    let [accelerator, other] = &read.devices[..] else { panic!("{:?}", read.devices) };
    let stream = |id| Stream { iommu: 0, specifier: vec![id] };
    assert_eq!(accelerator.streams, [stream(0x800), stream(0x801)]);
    assert_eq!((accelerator.can_stall, accelerator.pasid_bits, accelerator.dma_coherent), (true, 16, true));
    assert_eq!((accelerator.compatible[0].as_str(), accelerator.registers.len()), ("PORT0001", 1));
    assert!(
        matches!(other, PlatformDevice { path, streams, .. } if path == "\\_SB.OTH0" && streams.is_empty())
    );
    let paths: Vec<_> = read.unsupported.iter().map(|one| one.path.as_str()).collect();
    assert_eq!(paths, ["\\_SB.BUS0", "\\_SB.ODD0"], "how these reach memory is not known");
    assert_eq!(read.reserved_for(&DeviceRef::Platform(0)).count(), 1);
}

#[test]
fn an_its_that_madt_does_not_have_takes_no_messages() {
    let nodes = [
        its(&[3]),
        smmu_v3(5, SMMU, 1 << 4, [0; 4], 0, &[mapping(0, 0, 9, 48, 1), mapping(0, 0xff, 0, 48, 0)]),
        root(0, 0, &[mapping(0, 0xff, 0, 72, 0)]),
    ];
    let read = machine(&nodes);
    assert_eq!(read.acpi_faults, [AcpiFault::NoSuchIts(3)]);
    assert_eq!((read.pci_hosts[0].msi.clone(), read.iommus[0].msi.len()), (PciMsi::None, 0));
    assert_eq!(read.pci_hosts[0].translation(rid(8)), behind(0, 8), "its accesses are not in question");
    let faults = |its: &[(u32, u64)]| machine_of(&table(&nodes), Some(&madt(its)), &[]).acpi_faults;
    assert_eq!(faults(&[(3, ITS)]), []);
    for (its, fault) in [
        (&[(3, ITS + 0x1000)][..], MadtFault::Registers(Pa::new(ITS + 0x1000))),
        (&[(3, 0)], MadtFault::Registers(Pa::new(0))),
        (&[(3, ITS), (3, ITS + 0x2_0000)], MadtFault::SharedId(3)),
    ] {
        assert!(matches!(faults(its)[0], AcpiFault::Madt(error) if error.fault == fault), "{fault}");
    }
}

#[test]
fn a_madt_that_cannot_be_read_is_told_wherever_it_is_damaged_and_never_panics() {
    let iort = table(&[its(&[0]), root(0, 0, &[mapping(0, 0xff, 0, 48, 0)])]);
    let whole = madt(&[(0, ITS)]);
    let fault = |changes: &[(usize, u8)]| {
        let mut bytes = whole.clone();
        changes.iter().for_each(|&(at, byte)| bytes[at] = byte);
        seal(&mut bytes);
        match machine_of(&iort, Some(&bytes), &[]).acpi_faults[..] {
            [AcpiFault::Madt(error), ..] => (error.offset, error.fault),
            ref other => panic!("{other:?}"),
        }
    };
    assert_eq!(fault(&[(45, 0)]), (44, MadtFault::Length(0)), "no walk without end");
    assert_eq!(fault(&[(69, 19)]), (68, MadtFault::Length(19)));
    assert_eq!(fault(&[(69, 21)]), (68, MadtFault::Truncated));
    crate::builder::every_damage(&whole, &mut |bytes: &[u8]| {
        let read = machine_of(&iort, Some(bytes), &[]);
        read.acpi_faults.iter().for_each(|fault| assert!(!fault.to_string().is_empty()));
    });
}

#[test]
fn of_dmar_and_iort_both_only_dmar_is_heeded() {
    let iort = table(&[smmu_v3(4, SMMU, 0, WIRED, 0, &[]), root(0, 0, &[mapping(0, 0xff, 0, 48, 0)])]);
    let dmar = crate::builder::table(&[]);
    let read =
        Machine::from_acpi(&AcpiTables { iort: Some(&iort), dmar: Some(&dmar), ..AcpiTables::default() });
    assert!(read.acpi_faults.contains(&AcpiFault::TwoKinds) && read.iommus.is_empty() && !read.has_iort());
}
