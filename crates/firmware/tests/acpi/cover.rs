//! What tables of every kind of structure mean.

use portcullis_firmware::acpi::dmar::{Cover, DevicePath, DmarFault, Remapping};
use portcullis_types::{Pa, PaRange};

use crate::builder::*;

const UNIT: u64 = 0xfed9_0000;

fn function(segment: u16, start_bus: u8, path: &[(u8, u8)]) -> DevicePath {
    DevicePath { segment, start_bus, path: path.to_vec() }
}

fn read(structures: &[Vec<u8>]) -> Remapping {
    Remapping::read(&table(structures), &[]).unwrap()
}

fn faults(read: &Remapping) -> Vec<DmarFault> {
    read.faults.iter().map(|error| error.fault).collect()
}

#[test]
fn segments_and_first_buses_are_told_apart() {
    let read = read(&[
        drhd(0, 0, UNIT, &[endpoint(0, &[(4, 0)]), bridge(0x80, &[(1, 0)])]),
        drhd(0, 1, UNIT + 0x1000, &[endpoint(0, &[(4, 0)])]),
        drhd(1, 0, UNIT + 0x2000, &[]),
    ]);
    assert_eq!(read.faults, []);
    assert_eq!(read.cover(&function(0, 0, &[(4, 0)])), Cover::Unit(0));
    assert_eq!(read.cover(&function(1, 0, &[(4, 0)])), Cover::Unit(1));
    assert_eq!(read.cover(&function(0, 0x80, &[(4, 0)])), Cover::Unit(2));
    assert_eq!(read.cover(&function(0, 0x80, &[(1, 0), (4, 0)])), Cover::Unit(0));
    assert_eq!(read.cover(&function(1, 0, &[(5, 0)])), Cover::Nobody, "segment 1 has no unit for the rest");
}

#[test]
fn an_endpoint_in_a_scope_is_that_function_alone_and_a_bridge_all_behind_it() {
    let read = read(&[drhd(0, 0, UNIT, &[endpoint(0, &[(1, 0), (2, 1)]), bridge(0, &[(3, 0), (0, 0)])])]);
    let covered = |path: &[(u8, u8)]| read.cover(&function(0, 0, path)) == Cover::Unit(0);
    assert!(covered(&[(1, 0), (2, 1)]) && covered(&[(3, 0), (0, 0)]) && covered(&[(3, 0), (0, 0), (9, 9)]));
    assert!(!covered(&[(1, 0)]) && !covered(&[(1, 0), (2, 1), (0, 0)]) && !covered(&[(1, 0), (2, 0)]));
    assert!(!covered(&[(3, 0)]) && !covered(&[(3, 0), (0, 1)]));
}

#[test]
fn reserved_memory_is_that_of_the_devices_that_are_named() {
    let usb = [endpoint(0, &[(0x14, 0)])];
    let read = read(&[
        drhd(1, 0, UNIT, &[]),
        rmrr(0, 0x7b80_0000, 0x7b9f_ffff, &usb),
        rmrr(0, 0x7c00_0000, 0x7fff_ffff, &[endpoint(0, &[(2, 0)]), endpoint(0, &[(0x14, 0)])]),
        rmrr(0, 0xffff_ffff_ffff_f000, u64::MAX, &usb),
    ]);
    assert_eq!(read.faults, []);
    let of = |path: &[(u8, u8)]| -> Vec<u64> {
        let function = function(0, 0, path);
        read.reserved_for(&function).map(|region| region.range.first().get()).collect()
    };
    assert_eq!(of(&[(0x14, 0)]), [0x7b80_0000, 0x7c00_0000, 0xffff_ffff_ffff_f000]);
    assert_eq!(of(&[(2, 0)]), [0x7c00_0000]);
    assert_eq!(of(&[(3, 0)]), []);
}

#[test]
fn reserved_memory_that_is_also_ram_is_told_and_kept() {
    let ram = [PaRange::new(Pa::new(0x10_0000), 0x7000_0000).unwrap()];
    let bytes = table(&[
        drhd(1, 0, UNIT, &[]),
        rmrr(0, 0x6000_0000, 0x6000_ffff, &[endpoint(0, &[(2, 0)])]),
        rmrr(0, 0x7800_0000, 0x7800_ffff, &[endpoint(0, &[(2, 0)])]),
    ]);
    let read = Remapping::read(&bytes, &ram).unwrap();
    let range = PaRange::new(Pa::new(0x6000_0000), 0x1_0000).unwrap();
    assert_eq!(faults(&read), [DmarFault::RegionInRam(range)]);
    assert_eq!(read.reserved.len(), 2);
}

#[test]
fn translation_requests_pass_the_ports_that_are_named_and_chips_own_devices_need_none() {
    let unit = drhd(1, 0, UNIT, &[]);
    let passes = |structures: &[Vec<u8>], path: &[(u8, u8)]| {
        read(&[core::slice::from_ref(&unit), structures].concat())
            .passes_translation_requests(&function(0, 0, path))
    };
    let port = atsr(0, 0, &[bridge(0, &[(1, 0)])]);
    assert!(passes(core::slice::from_ref(&port), &[(1, 0), (0, 0)]) && !passes(&[port], &[(2, 0), (0, 0)]));
    assert!(passes(&[atsr(1, 0, &[])], &[(2, 0), (0, 0)]));
    assert!(!passes(&[atsr(1, 7, &[])], &[(2, 0), (0, 0)]), "another segment");
    assert!(!passes(&[], &[(2, 0), (0, 0)]) && passes(&[], &[(2, 0)]));
}

#[test]
fn a_chips_own_device_is_trusted_with_an_atc_if_firmware_vouches_for_it_or_for_nobody() {
    let unit = drhd(1, 0, UNIT, &[]);
    let passes = |structure: Vec<u8>, device| {
        read(&[unit.clone(), structure]).passes_translation_requests(&function(0, 0, &[(device, 0)]))
    };
    let satc = |segment| satc(0, segment, &[endpoint(0, &[(5, 0)])]);
    assert_eq!([4, 5].map(|device| passes(satc(0), device)), [false, true]);
    assert_eq!([4, 5].map(|device| passes(satc(1), device)), [true, true], "of another segment");
    let sidp = sidp(0, &[(0b0_1000, endpoint(0, &[(5, 0)])), (0b0_0001, endpoint(0, &[(6, 0)]))]);
    assert_eq!([4, 5, 6].map(|device| passes(sidp.clone(), device)), [false, true, false]);
    let other = self::sidp(0, &[(0b0_0001, endpoint(0, &[(6, 0)]))]);
    assert_eq!([4, 6].map(|device| passes(other.clone(), device)), [true, true], "of ATCs it says nothing");
}

#[test]
fn affinities_devices_of_the_name_space_and_properties_are_kept() {
    let own = entry(5, 3, 0xfa, &[(0x1f, 7)]);
    let read = read(&[
        drhd(1, 0, UNIT, core::slice::from_ref(&own)),
        rmrr(0, 0x1000, 0x1fff, core::slice::from_ref(&own)),
        rhsa(UNIT, 5),
        andd(3, b"\\_SB.I2C0\0"),
        satc(1, 0, &[endpoint(0, &[(5, 0)])]),
        sidp(0, &[(0b1_0010, endpoint(0, &[(6, 0)])), (0b0_1101, own.clone())]),
    ]);
    assert_eq!(read.faults, []);
    assert_eq!((read.affinities[0].unit, read.affinities[0].proximity), (0, 5));
    assert_eq!((read.namespace[0].number, read.namespace[0].name.as_str()), (3, "\\_SB.I2C0"));
    assert_eq!((read.units[0].devices[0].enumeration_id, read.reserved[0].devices.len()), (3, 1));
    assert_eq!(
        read.properties_of(&function(0, 0, &[(5, 0)])),
        None,
        "where there is SIDP, SATC says nothing"
    );
    let six = read.properties_of(&function(0, 0, &[(6, 0)])).unwrap();
    assert!(six.no_walk_snoop && six.atc_required && !six.atc_hardened && !six.no_nesting);
    let own = &read.properties[1];
    assert!(own.no_nesting && own.no_page_snoop && own.atc_hardened && !own.atc_required);
}

#[test]
fn types_that_are_not_known_are_skipped() {
    let mut unknown = drhd(0, 0, UNIT + 0x1000, &[endpoint(0, &[(4, 0)])]);
    unknown[0] = 7;
    let read = read(&[drhd(1, 0, UNIT, &[]), unknown]);
    assert_eq!((read.units.len(), read.faults.len()), (1, 0));
}
