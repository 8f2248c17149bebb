//! Tables that are broken: each fault is told by name and place, and no device is covered by mistake.

use portcullis_firmware::acpi::TableFault;
use portcullis_firmware::acpi::dmar::{Cover, DevicePath, Dmar, DmarError, DmarFault, Remapping, ScopeKind};
use portcullis_types::{Pa, PaRange};

use crate::book::TABLE;
use crate::builder::*;

const UNIT: u64 = 0xfed9_0000;

fn function(path: &[(u8, u8)]) -> DevicePath {
    DevicePath { segment: 0, start_bus: 0, path: path.to_vec() }
}

fn read(structures: &[Vec<u8>]) -> Remapping {
    Remapping::read(&table(structures), &[]).unwrap()
}

fn errors(read: &Remapping) -> Vec<(usize, DmarFault)> {
    read.faults.iter().map(|error| (error.offset, error.fault)).collect()
}

/// The book's table with some bytes changed, its checksum right.
fn changed(changes: &[(usize, u8)]) -> Vec<u8> {
    let mut bytes = TABLE.to_vec();
    changes.iter().for_each(|&(at, byte)| bytes[at] = byte);
    seal(&mut bytes);
    bytes
}

#[test]
fn a_header_that_cannot_be_is_an_error() {
    let refused = |bytes: &[u8]| match Dmar::read(bytes) {
        Err(DmarError { offset: 0, fault: DmarFault::Table(fault) }) => fault,
        other => panic!("{other:?}"),
    };
    assert_eq!(refused(&[]), TableFault::Truncated { len_bytes: 0, wanted_bytes: 36 });
    assert_eq!(refused(&TABLE[..7]), TableFault::Truncated { len_bytes: 7, wanted_bytes: 36 });
    assert_eq!(refused(&TABLE[..151]), TableFault::Truncated { len_bytes: 151, wanted_bytes: 152 });
    assert_eq!(refused(&changed(&[(0, b'X')])), TableFault::Signature(*b"XMAR"));
    assert_eq!(refused(&changed(&[(4, 47)])), TableFault::Length(47));
    let mut bytes = TABLE;
    bytes[60] ^= 4;
    assert!(matches!(refused(&bytes), TableFault::Checksum(_)));
}

#[test]
fn lengths_that_do_not_fit_are_errors_with_their_place() {
    let refused = |changes: &[(usize, u8)]| Dmar::read(&changed(changes)).unwrap_err();
    let at = |offset, fault| DmarError { offset, fault };
    assert_eq!(refused(&[(50, 0)]), at(48, DmarFault::Length(0)), "no walk without end");
    assert_eq!(refused(&[(50, 15)]), at(48, DmarFault::Length(15)));
    assert_eq!(refused(&[(138, 255)]), at(136, DmarFault::Truncated));
    assert_eq!(refused(&[(65, 0)]), at(64, DmarFault::ScopeLength(0)));
    assert_eq!(refused(&[(65, 6)]), at(64, DmarFault::ScopeLength(6)), "a path without a step");
    assert_eq!(refused(&[(65, 9)]), at(64, DmarFault::ScopeLength(9)), "half a step");
    assert_eq!(refused(&[(73, 10)]), at(72, DmarFault::Truncated), "beyond the end of its structure");
}

#[test]
fn units_whose_registers_cannot_be_are_left_out_and_their_devices_covered_by_nobody_else() {
    let scope = [endpoint(0, &[(4, 0)])];
    let rest = drhd(1, 0, UNIT, &[]);
    for (registers, size_lg2) in [(0, 0), (UNIT + 0x800, 0), (UNIT + 0x1000, 1), (u64::MAX - 0xfff, 1)] {
        let mut unit = drhd(0, 0, registers, &scope);
        unit[5] = size_lg2;
        let read = read(&[unit, rest.clone()]);
        let why = DmarError { offset: 48, fault: DmarFault::Registers(Pa::new(registers)) };
        assert_eq!(read.faults, [why]);
        assert_eq!(read.cover(&function(&[(4, 0)])), Cover::Broken(why), "not the unit for the rest");
        assert_eq!(read.cover(&function(&[(5, 0)])), Cover::Unit(0));
    }
    let read = read(&[drhd(0, 0, UNIT, &scope), drhd(1, 0, UNIT, &[])]);
    let range = PaRange::new(Pa::new(UNIT), 0x1000).unwrap();
    let why = DmarError { offset: 72, fault: DmarFault::SharedRegisters(range) };
    assert_eq!(read.faults, [why]);
    assert_eq!(read.cover(&function(&[(5, 0)])), Cover::Broken(why));
}

#[test]
fn a_device_that_two_units_claim_is_covered_by_neither() {
    let both = read(&[
        drhd(0, 0, UNIT, &[bridge(0, &[(1, 0)])]),
        drhd(0, 0, UNIT + 0x1000, &[endpoint(0, &[(1, 0), (0, 0)])]),
        drhd(1, 0, UNIT + 0x2000, &[]),
    ]);
    assert_eq!(errors(&both), [(72, DmarFault::Overlap)]);
    assert_eq!(both.cover(&function(&[(1, 0), (0, 0)])), Cover::Disputed(0, 1));
    assert_eq!(both.cover(&function(&[(1, 0), (0, 1)])), Cover::Unit(0));
    let rest = read(&[drhd(1, 0, UNIT, &[]), drhd(1, 0, UNIT + 0x1000, &[])]);
    let why = DmarError { offset: 64, fault: DmarFault::SecondIncludeAll(0) };
    assert_eq!(rest.faults, [why]);
    assert_eq!(rest.cover(&function(&[(1, 0)])), Cover::Broken(why));
}

#[test]
fn reserved_memory_that_is_no_pages_is_left_out() {
    let scope = [endpoint(0, &[(2, 0)])];
    for (base, limit) in
        [(0x1000, 0x1fff_u64.wrapping_add(1)), (0x1001, 0x1fff), (0x3000, 0x1fff), (0x1000, 0x1000)]
    {
        let read = read(&[drhd(1, 0, UNIT, &[]), rmrr(0, base, limit, &scope)]);
        assert_eq!(errors(&read), [(64, DmarFault::Region { base, limit })]);
        assert_eq!(read.reserved_for(&function(&[(2, 0)])).count(), 0);
    }
    let nobody = read(&[drhd(1, 0, UNIT, &[]), rmrr(0, 0x1000, 0x1fff, &[])]);
    assert_eq!(errors(&nobody), [(64, DmarFault::CoversNothing)]);
}

#[test]
fn entries_that_cannot_be_there_are_told_and_left_out() {
    let wrong = |structure: Vec<u8>| errors(&read(&[drhd(1, 0, UNIT, &[]), structure]));
    let kind = |at, kind| vec![(at, DmarFault::WrongKind(kind))];
    assert_eq!(wrong(atsr(0, 0, &[endpoint(0, &[(1, 0)])])), kind(72, ScopeKind::Endpoint));
    assert_eq!(wrong(satc(0, 0, &[bridge(0, &[(1, 0)])])), kind(72, ScopeKind::SubHierarchy));
    assert_eq!(wrong(rhsa(UNIT + 0x1000, 0)), [(64, DmarFault::NoSuchUnit(Pa::new(UNIT + 0x1000)))]);
    assert_eq!(wrong(andd(1, b"\\_SB.I2C0")), [(64, DmarFault::Name)]);
    assert_eq!(wrong(andd(1, b"\0")), [(64, DmarFault::Name)]);
    let unit = |entry: Vec<u8>| errors(&read(&[drhd(1, 0, UNIT, &[entry])]));
    assert_eq!(unit(endpoint(0, &[(4, 0)])), kind(64, ScopeKind::Endpoint), "all are its own already");
    assert_eq!(unit(entry(9, 0, 0, &[(4, 0)])), kind(64, ScopeKind::Unknown(9)));
    assert_eq!(unit(entry(3, 8, 0, &[(32, 0)])), [(64, DmarFault::Path)]);
    assert_eq!(unit(entry(5, 8, 0, &[(1, 0)])), [(64, DmarFault::NoSuchDevice(8))]);
    let twice = read(&[drhd(1, 0, UNIT, &[]), andd(1, b"\\A\0"), andd(1, b"\\B\0")]);
    assert_eq!(errors(&twice), [(75, DmarFault::SecondDevice(1))]);
}

#[test]
fn what_is_out_of_order_or_missing_is_told() {
    let late = read(&[drhd(1, 0, UNIT, &[]), drhd(0, 0, UNIT + 0x1000, &[endpoint(0, &[(4, 0)])])]);
    assert_eq!(errors(&late), [(64, DmarFault::AfterIncludeAll(0))]);
    assert_eq!(late.cover(&function(&[(4, 0)])), Cover::Unit(1), "its place changes nothing about its scope");
    let turned = read(&[atsr(1, 0, &[]), drhd(1, 0, UNIT, &[])]);
    assert_eq!(errors(&turned), [(56, DmarFault::Order)]);
    let nothing = read(&[drhd(0, 0, UNIT, &[])]);
    assert_eq!(errors(&nothing), [(48, DmarFault::CoversNothing)]);
    let empty = read(&[]);
    assert_eq!(errors(&empty), [(0, DmarFault::NoUnits)]);
    assert_eq!(empty.cover(&function(&[(4, 0)])), Cover::Nobody);
}

/// Every byte of the book's table with every bit turned, and every end cut off: read or refused, and what is read can be asked.
#[test]
fn no_byte_makes_it_panic() {
    let mut refused = 0;
    let ask = |bytes: &[u8]| match Remapping::read(bytes, &[]) {
        Err(error) => {
            refused += 1;
            assert!(!error.to_string().is_empty());
        }
        Ok(read) => {
            for device in 0..32 {
                let path = function(&[(device, 0), (0, 0)]);
                if let Cover::Unit(unit) = read.cover(&path) {
                    assert!(read.units.len() > unit);
                }
                assert!(read.reserved_for(&path).count() <= read.reserved.len());
            }
            read.faults.iter().for_each(|error| assert!(!error.to_string().is_empty()));
        }
    };
    every_damage(&TABLE, ask);
    assert!(refused > TABLE.len());
}
