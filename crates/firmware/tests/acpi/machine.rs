//! Machines that ACPI's tables describe.

use portcullis_firmware::acpi::dmar::{Cover, DmarFault};
use portcullis_firmware::acpi::{AcpiFault, AcpiTables, BridgeWindows, FoundFunction, NamedDevice};
use portcullis_firmware::{
    DeviceRef, IommuKind, Machine, MsiControllerKind, PciConfig, PlatformDevice, ReservedUse, Translation,
};
use portcullis_spec::pcie::{Bdf, HostWindow, Space};
use portcullis_types::{Pa, PaRange, SourceId};

use crate::builder::*;

const UNIT: u64 = 0xfed9_0000;
const ECAM: u64 = 0xb000_0000;
const NVME: (u8, u8) = (0x01, 0x08);
const USB: (u8, u8) = (0x0c, 0x03);

fn mcfg(windows: &[(u64, u16, u8, u8)]) -> Vec<u8> {
    let mut rest = vec![0; 8];
    for &(base, segment, first, last) in windows {
        rest.extend(base.to_le_bytes());
        rest.extend(segment.to_le_bytes());
        rest.extend([first, last, 0, 0, 0, 0]);
    }
    sealed(*b"MCFG", 1, &rest)
}

fn machine(dmar: Option<&[u8]>) -> Machine {
    let mcfg = mcfg(&[(ECAM, 0, 0, 0xff)]);
    Machine::from_acpi(&AcpiTables { dmar, mcfg: Some(&mcfg), ..AcpiTables::default() })
}

/// A function at the end of this way, which is on this bus.
fn found(bus: u8, path: &[(u8, u8)], class: (u8, u8)) -> FoundFunction {
    let &(device, function) = path.last().unwrap();
    let at = Bdf::new(bus, device, function).unwrap();
    FoundFunction { at, requester_ids: vec![at], path: path.to_vec(), class }
}

fn behind(iommu: usize, source: u32) -> Translation {
    Translation::Behind { iommu, source: SourceId(source) }
}

#[test]
fn functions_behind_bridges_are_found_by_their_way_whatever_bus_they_are_on() {
    let tables =
        table(&[drhd(0, 0, UNIT, &[endpoint(0, &[(1, 0), (2, 0)])]), drhd(1, 0, UNIT + 0x1000, &[])]);
    let mut machine = machine(Some(&tables));
    let [one, rest] = &machine.iommus[..] else { panic!("two units") };
    assert_eq!(
        (one.kind, one.registers[0].first(), one.path.as_str()),
        (IommuKind::Vtd, Pa::new(UNIT), "dmar0")
    );
    assert_eq!(rest.registers[0].first(), Pa::new(UNIT + 0x1000));
    let functions = [
        found(0, &[(1, 0)], (6, 4)),
        found(0x42, &[(1, 0), (2, 0)], NVME),
        found(0x42, &[(1, 0), (3, 0)], NVME),
    ];
    machine.place_functions(0, &functions);
    let host = &machine.pci_hosts[0];
    let translations = functions.each_ref().map(|one| host.translation(one.at));
    assert_eq!(translations, [behind(1, 8), behind(0, 0x4210), behind(1, 0x4218)]);
    assert_eq!(machine.acpi_faults, []);
}

#[test]
fn nothing_is_covered_before_it_was_found_nor_what_nobody_covers_nor_anything_by_a_table_that_cannot_be_read()
{
    let only_one = table(&[drhd(0, 0, UNIT, &[endpoint(0, &[(2, 0)])])]);
    let functions = [found(0, &[(2, 0)], NVME), found(0, &[(3, 0)], NVME)];
    let mut read = machine(Some(&only_one));
    assert_eq!(read.pci_hosts[0].translation(functions[0].at), Translation::Uncovered);
    read.place_functions(0, &functions);
    assert_eq!(read.pci_hosts[0].translation(functions[0].at), behind(0, 0x10));
    assert_eq!(read.pci_hosts[0].translation(functions[1].at), Translation::Uncovered);
    let nobody = AcpiFault::NotCovered { segment: 0, function: functions[1].at, cover: Cover::Nobody };
    assert_eq!(read.acpi_faults, [nobody]);
    assert_eq!(nobody.to_string(), "DMAR: 0000:00:03.0: no unit covers it");

    let mut broken = only_one.clone();
    broken[50] = 0;
    seal(&mut broken);
    let mut unread = machine(Some(&broken));
    assert_eq!((unread.iommus.len(), unread.pci_hosts.len()), (0, 1), "it boots all the same");
    unread.place_functions(0, &functions);
    assert_eq!(unread.pci_hosts[0].translation(functions[0].at), Translation::Uncovered);
    let Some(AcpiFault::Dmar(why)) = unread.acpi_faults.first() else { panic!("{:?}", unread.acpi_faults) };
    assert_eq!((why.offset, why.fault), (48, DmarFault::Length(0)));
    assert_eq!(unread.acpi_faults.len(), 3, "and each function is named");

    assert_eq!(machine(None).pci_hosts[0].translation(functions[0].at), Translation::NoIommu);
}

#[test]
fn a_function_that_two_units_claim_is_behind_neither() {
    let both = [endpoint(0, &[(2, 0)])];
    let tables = table(&[drhd(0, 0, UNIT, &both), drhd(0, 0, UNIT + 0x1000, &both)]);
    let mut machine = machine(Some(&tables));
    let function = found(0, &[(2, 0)], NVME);
    machine.place_functions(0, core::slice::from_ref(&function));
    assert_eq!(machine.pci_hosts[0].translation(function.at), Translation::Uncovered);
    let cover = Cover::Disputed(0, 1);
    let wanted = AcpiFault::NotCovered { segment: 0, function: function.at, cover };
    assert!(machine.acpi_faults.contains(&wanted), "{:?}", machine.acpi_faults);
}

#[test]
fn a_function_is_behind_its_unit_by_every_id_that_its_requests_may_carry() {
    let mut machine = machine(Some(&table(&[drhd(1, 0, UNIT, &[])])));
    let mut function = found(1, &[(1, 0), (3, 0)], NVME);
    let bridges = Bdf::from_requester_id(0x100);
    function.requester_ids.push(bridges);
    machine.place_functions(0, core::slice::from_ref(&function));
    let translations = [function.at, bridges].map(|id| machine.pci_hosts[0].translation(id));
    assert_eq!(translations, [behind(0, 0x118), behind(0, 0x100)]);
}

#[test]
fn an_id_that_functions_behind_two_units_share_is_behind_neither() {
    let tables = table(&[drhd(0, 0, UNIT, &[endpoint(0, &[(2, 0)])]), drhd(1, 0, UNIT + 0x1000, &[])]);
    let mut machine = machine(Some(&tables));
    let mut one = found(0, &[(2, 0)], NVME);
    let mut two = found(0, &[(3, 0)], NVME);
    let shared = Bdf::from_requester_id(0x100);
    one.requester_ids.push(shared);
    two.requester_ids.push(shared);
    machine.place_functions(0, &[one.clone(), two]);
    assert_eq!(machine.pci_hosts[0].translation(shared), Translation::Uncovered);
    assert_eq!(machine.pci_hosts[0].translation(one.at), behind(0, 0x10));
}

#[test]
fn reserved_memory_is_direct_and_may_be_given_up_by_usb_controllers_and_graphics() {
    let all = [endpoint(0, &[(2, 0)]), endpoint(0, &[(3, 0)]), endpoint(0, &[(4, 0)])];
    let tables = table(&[drhd(1, 0, UNIT, &[]), rmrr(0, 0x7b80_0000, 0x7b9f_ffff, &all)]);
    let mut machine = machine(Some(&tables));
    let kinds = [NVME, USB, (0x03, 0x00)];
    let functions: Vec<_> = (2..).zip(kinds).map(|(at, class)| found(0, &[(at, 0)], class)).collect();
    machine.place_functions(0, &functions);
    let used = |one: &FoundFunction| {
        let device = Machine::pci_function(0, one.at);
        let all: Vec<_> = machine.reserved_for(&device).map(|(_, addresses)| addresses.clone()).collect();
        let [only] = &all[..] else { panic!("{all:?}") };
        assert_eq!((only.range.first().get(), only.range.last().get()), (0x7b80_0000, 0x7b9f_ffff));
        only.used
    };
    let used: Vec<_> = functions.iter().map(used).collect();
    assert_eq!(used, [ReservedUse::Direct, ReservedUse::DirectRelaxable, ReservedUse::DirectRelaxable]);
}

#[test]
fn memory_that_is_kept_for_a_function_of_one_segment_is_not_kept_for_its_namesake_in_another() {
    let scope = [endpoint(0, &[(2, 0)])];
    let tables = table(&[
        drhd(1, 0, UNIT, &[]),
        drhd(1, 1, UNIT + 0x1000, &[]),
        rmrr(1, 0x7b80_0000, 0x7b9f_ffff, &scope),
    ]);
    let mcfg = mcfg(&[(ECAM, 0, 0, 0x0f), (ECAM + 0x1000_0000, 1, 0, 0x0f)]);
    let mut machine =
        Machine::from_acpi(&AcpiTables { dmar: Some(&tables), mcfg: Some(&mcfg), ..AcpiTables::default() });
    let function = found(0, &[(2, 0)], NVME);
    let kept = [0, 1].map(|host| {
        machine.place_functions(host, core::slice::from_ref(&function));
        let device = Machine::pci_function(host, function.at);
        machine.reserved_for(&device).count()
    });
    assert_eq!(kept, [0, 1]);
    let translations = [0, 1].map(|host| machine.pci_hosts[host].translation(function.at));
    assert_eq!(translations, [behind(0, 0x10), behind(1, 0x10)]);
}

/// An entry of a scope for the device of the name space with this number.
fn named(number: u8, bus: u8, path: &[(u8, u8)]) -> Vec<u8> {
    entry(5, number, bus, path)
}

#[test]
fn devices_of_the_name_space_are_behind_the_units_that_name_them_as_whom_they_say() {
    let registers = [PaRange::new(Pa::new(0xfe00_0000), 0x1000).unwrap()];
    let devices = ["\\_SB.I2C0", "\\_SB.DMA1", "\\_SB.SPI2", "\\_SB.FREE"].map(|name| NamedDevice {
        name,
        compatible: &["ACPI0001"],
        registers: &registers,
    });
    let kept = [named(1, 0xfa, &[(0x1f, 7)])];
    let tables = table(&[
        drhd(0, 0, UNIT, &[named(1, 0xfa, &[(0x1f, 7)]), named(1, 0xfa, &[(0x1f, 6)])]),
        drhd(1, 0, UNIT + 0x1000, &[named(2, 0, &[(3, 0)])]),
        rmrr(0, 0x7b80_0000, 0x7b9f_ffff, &kept),
        andd(1, b"\\_SB.I2C0\0"),
        andd(2, b"\\_SB.DMA1\0"),
        andd(3, b"\\_SB.SPI2\0"),
        andd(4, b"\\_SB.UART\0"),
    ]);
    let machine =
        Machine::from_acpi(&AcpiTables { dmar: Some(&tables), devices: &devices, ..AcpiTables::default() });
    assert_eq!(machine.acpi_faults, []);
    let behind = |device: &PlatformDevice| {
        let places = device.streams.iter().map(|stream| (stream.iommu, stream.source().unwrap().0));
        (device.path.clone(), places.collect::<Vec<_>>())
    };
    let found: Vec<_> = machine.devices.iter().map(behind).collect();
    let wanted = [
        ("\\_SB.I2C0", vec![(0, 0xfaff), (0, 0xfafe)]),
        ("\\_SB.DMA1", vec![(1, 0x18)]),
        // No table tells of it: it is as it would be without units.
        ("\\_SB.FREE", vec![]),
    ];
    assert_eq!(found, wanted.map(|(name, places)| (name.to_owned(), places)));
    let first = &machine.devices[0];
    assert_eq!((&first.compatible[..], &first.registers[..]), (&["ACPI0001".to_owned()][..], &registers[..]));
    let kept: Vec<_> = machine.reserved_for(&DeviceRef::Platform(0)).collect();
    assert_eq!((kept.len(), kept[0].1.used), (1, ReservedUse::Direct));
    assert_eq!(machine.reserved_for(&DeviceRef::Platform(1)).count(), 0);
    // The rest of a segment has no devices of the name space in it.
    let unknown: Vec<_> = machine.unsupported.iter().map(|device| device.path.as_str()).collect();
    assert_eq!(unknown, ["\\_SB.SPI2", "\\_SB.UART"]);
}

#[test]
fn a_device_of_the_name_space_of_a_unit_that_was_left_out_or_with_no_id_is_not_known() {
    let left_out = [
        drhd(0, 0, UNIT, &[named(1, 0, &[(3, 0)])]),
        drhd(0, 0, UNIT, &[named(1, 0, &[(3, 0)])]),
        drhd(1, 0, UNIT + 0x1000, &[]),
        andd(1, b"\\_SB.I2C0\0"),
    ];
    let no_id = |path: &[(u8, u8)]| vec![drhd(1, 0, UNIT, &[named(1, 0, path)]), andd(1, b"\\_SB.I2C0\0")];
    for structures in [left_out.to_vec(), no_id(&[(32, 0)]), no_id(&[(1, 8)]), no_id(&[(1, 0), (2, 0)])] {
        let machine = machine(Some(&table(&structures)));
        assert_eq!((machine.devices.len(), machine.unsupported.len()), (0, 1), "{structures:?}");
    }
    let device = NamedDevice { name: "\\_SB.I2C0", ..NamedDevice::default() };
    let broken = &table(&left_out)[..60];
    let devices = [device];
    let unread =
        Machine::from_acpi(&AcpiTables { dmar: Some(broken), devices: &devices, ..AcpiTables::default() });
    assert_eq!((unread.devices.len(), unread.unsupported.len()), (0, 1), "nothing is known of any");
}

#[test]
fn translation_requests_pass_the_ports_that_dmar_names() {
    let tables = table(&[drhd(1, 0, UNIT, &[]), atsr(0, 0, &[bridge(0, &[(1, 0)])])]);
    let mut machine = machine(Some(&tables));
    let functions =
        [found(0, &[(3, 0)], NVME), found(1, &[(1, 0), (0, 0)], NVME), found(2, &[(2, 0), (0, 0)], NVME)];
    machine.place_functions(0, &functions);
    let passes = functions.each_ref().map(|one| machine.pci_hosts[0].passes_ats(one.at));
    assert_eq!(passes, [true, true, false]);
    assert!(!self::machine(None).pci_hosts[0].passes_ats(functions[0].at), "no unit would understand them");
}

#[test]
fn each_window_of_mcfg_is_a_host_bridge_with_the_embedders_windows_and_disputed_buses_are_nobodys() {
    let window = HostWindow {
        space: Space::Memory32,
        prefetchable: false,
        bus_first: 0xc000_0000,
        cpu_first: Pa::new(0xc000_0000),
        size_bytes: 0x1000_0000,
    };
    let windows = [BridgeWindows { segment: 0, first_bus: 0x80, windows: core::slice::from_ref(&window) }];
    let table = mcfg(&[
        (ECAM, 0, 0, 0x1f),
        (ECAM, 0, 0x80, 0x8f),
        (0x8000_0000, 1, 0, 0x0f),
        (0x9000_0000, 1, 0x0f, 0x1f),
    ]);
    let tables = AcpiTables { mcfg: Some(&table), windows: &windows, ..AcpiTables::default() };
    let machine = Machine::from_acpi(&tables);
    let [low, high] = &machine.pci_hosts[..] else { panic!("{:?}", machine.pci_hosts) };
    assert_eq!((low.buses.clone(), low.windows.len()), (0..=0x1f, 0));
    assert_eq!((high.buses.clone(), &high.windows[..]), (0x80..=0x8f, &[window][..]));
    let ecam = PaRange::new(Pa::new(ECAM + (0x80 << 20)), 0x10 << 20).unwrap();
    assert_eq!(high.config, PciConfig::Ecam(ecam));
    assert!(!machine.acpi_faults.is_empty());
    let target = high.msi_target(Bdf::from_requester_id(0x8010)).unwrap();
    let controller = &machine.msi_controllers[target.controller];
    assert_eq!((controller.kind, target.device_id), (MsiControllerKind::LocalApics, Some(0x8010)));
    assert!(controller.registers[0].contains(Pa::new(0xfee0_0000)));
}
