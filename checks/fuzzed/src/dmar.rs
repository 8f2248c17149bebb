//! ACPI's DMAR: bytes as they are, or structures with some bytes changed in a table whose header is right.
//!
//! What must hold:
//!
//! - bytes are a table, or an error that can be said; the same bytes are the same, whatever follows them in memory;
//! - a function is covered by a unit of its own segment that names it, or that takes what is left where none names it;
//! - one that two units name is covered by neither, and one that nobody takes by nobody;
//! - no two units have the same registers, memory that is kept for devices is whole pages, an index into the list of units is one of that list's;
//! - what is said to be wrong lies in the table.
//!
//! Not here: what the book's own examples mean (`crates/firmware/tests/acpi`).

use portcullis::firmware::acpi::dmar::{Cover, DevicePath, Dmar, Remapping, ScopedDevice, Unit};

use crate::bytes::Bytes;

const HEADER_BYTES: usize = 48;

pub(crate) fn run(input: &[u8]) {
    let mut bytes = Bytes::new(input);
    if bytes.one_in(8) {
        check(bytes.run(usize::MAX), &mut Bytes::new(&[]));
    } else {
        let table = table(&mut bytes);
        check(&table, &mut bytes);
    }
}

/// A table of structures, of which most have sound lengths.
fn table(bytes: &mut Bytes<'_>) -> Vec<u8> {
    let mut body = Vec::new();
    for _ in 0..bytes.below(12) {
        let mut structure = structure(bytes);
        if bytes.one_in(16) {
            let at = usize::from(bytes.u8()) % structure.len();
            structure[at] ^= bytes.u8();
        }
        body.extend(structure);
    }
    if bytes.one_in(16) {
        body.extend(bytes.run(5));
    }
    let mut table = b"DMAR".to_vec();
    table.extend(u32::try_from(HEADER_BYTES + body.len()).unwrap_or(u32::MAX).to_le_bytes());
    table.resize(36, 1);
    table.extend([bytes.u8(), bytes.u8()]);
    table.resize(HEADER_BYTES, 0);
    table.extend(body);
    table[9] = 0;
    table[9] = table.iter().fold(0u8, |sum, byte| sum.wrapping_sub(*byte));
    table
}

/// Spec: VT-d 5.10, 8.2 "Remapping Structure Types".
fn structure(bytes: &mut Bytes<'_>) -> Vec<u8> {
    let kind = bytes.below(8);
    let (flags, segment) = (bytes.u8() & 3, u16::from(bytes.below(2)));
    let mut body = vec![flags, bytes.below(8) >> 2];
    body.extend(segment.to_le_bytes());
    match kind {
        0 => body.extend(address(bytes).to_le_bytes()),
        1 => {
            let first = address(bytes);
            let last = first.wrapping_add(u64::from(bytes.u8()) << 12).wrapping_sub(1);
            body.extend(first.to_le_bytes());
            body.extend(last.to_le_bytes());
        }
        3 => {
            body.extend(address(bytes).to_le_bytes());
            body.extend(u32::from(bytes.u8()).to_le_bytes());
        }
        4 => {
            body[3] = bytes.below(4);
            body.extend(b"\\DEV\0");
        }
        _ => {}
    }
    if kind != 3 && kind != 4 {
        (0..bytes.below(4)).for_each(|_| body.extend(scope_entry(bytes)));
    }
    let length = u16::try_from(4 + body.len()).unwrap_or(u16::MAX);
    [&u16::from(kind).to_le_bytes()[..], &length.to_le_bytes(), &body].concat()
}

/// One of a few pages, so that structures meet; or anything.
fn address(bytes: &mut Bytes<'_>) -> u64 {
    match bytes.below(8) {
        7 => bytes.u64(),
        page => 0xfed9_0000 + u64::from(page) * 0x1000,
    }
}

/// One of a few ways, so that scopes overlap.
fn scope_entry(bytes: &mut Bytes<'_>) -> Vec<u8> {
    let path = path(bytes);
    let kind = bytes.pick(&[1, 1, 2, 2, 2, 3, 4, 5, 6]);
    let length = u8::try_from(6 + 2 * path.len()).unwrap_or(u8::MAX);
    let mut entry = vec![kind, length, bytes.below(8), 0, bytes.below(4), bytes.below(2)];
    entry.extend(path.iter().flat_map(|&(device, function)| [device, function]));
    entry
}

fn path(bytes: &mut Bytes<'_>) -> Vec<(u8, u8)> {
    (0..=bytes.below(3)).map(|_| (bytes.pick(&[0, 1, 2, 31, 32]), bytes.pick(&[0, 1, 7, 8]))).collect()
}

fn check(table: &[u8], bytes: &mut Bytes<'_>) {
    let read = Remapping::read(table, &[]);
    assert_eq!(read, Remapping::read(table, &[]), "the same bytes are the same");
    let remapping = match read {
        Err(error) => {
            assert!(!error.to_string().is_empty());
            assert!(error.offset <= table.len());
            return;
        }
        Ok(remapping) => remapping,
    };
    let longer = [table, &[0xa5; 64]].concat();
    assert_eq!(Remapping::read(&longer, &[]).as_ref(), Ok(&remapping), "what follows is not looked at");
    let structures = Dmar::read(table).expect("it was read").structures().count();
    assert!(remapping.units.len() + remapping.reserved.len() + remapping.ats.len() <= structures);
    check_lists(&remapping, table);
    for _ in 0..8 {
        let function =
            DevicePath { segment: bytes.below(2).into(), start_bus: bytes.below(2), path: path(bytes) };
        check_cover(&remapping, &function);
    }
    // Whom scopes name, and what is right below.
    let scoped =
        remapping.units.iter().flat_map(|unit| unit.devices.iter().map(|device| (unit.segment, device)));
    for (segment, ScopedDevice { start_bus, path, .. }) in scoped {
        let function = DevicePath { segment, start_bus: *start_bus, path: path.clone() };
        check_cover(&remapping, &function);
        let below = [path.as_slice(), &[(0, 0)]].concat();
        check_cover(&remapping, &DevicePath { path: below, ..function });
    }
}

fn check_lists(remapping: &Remapping, table: &[u8]) {
    for error in &remapping.faults {
        assert!(error.offset < table.len() && !error.to_string().is_empty());
    }
    for (index, unit) in remapping.units.iter().enumerate() {
        let others = &remapping.units[..index];
        assert!(others.iter().all(|other| !other.registers.overlaps(unit.registers)));
        assert!(unit.registers.is_aligned(0x1000));
    }
    assert!(remapping.reserved.iter().all(|region| region.range.is_aligned(0x1000)));
    assert!(remapping.affinities.iter().all(|affinity| affinity.unit < remapping.units.len()));
    for (index, device) in remapping.namespace.iter().enumerate() {
        assert!(remapping.namespace[..index].iter().all(|other| other.number != device.number));
        let ids = remapping.ids_of(device.number).unwrap_or_default();
        assert!(ids.iter().all(|&(unit, _)| unit < remapping.units.len()));
        assert!(remapping.reserved_for_named(device.number).count() <= remapping.reserved.len());
    }
}

fn check_cover(remapping: &Remapping, function: &DevicePath) {
    let here = |unit: &&Unit| unit.segment == function.segment;
    let names = |unit: &Unit| unit.devices.iter().any(|device| device.names(function));
    let naming = remapping.units.iter().filter(here).filter(|unit| names(unit)).count();
    match remapping.cover(function) {
        Cover::Unit(index) => {
            let unit = &remapping.units[index];
            assert!(here(&unit), "a unit of another segment");
            assert!(names(unit) && naming == 1 || unit.include_all && naming == 0, "{naming} units name it");
        }
        Cover::Disputed(one, other) => {
            assert!(one < other && names(&remapping.units[one]) && names(&remapping.units[other]));
        }
        Cover::Broken(error) => assert!(remapping.faults.contains(&error), "it was not said"),
        Cover::Nobody => {
            assert_eq!(naming, 0);
            assert!(!remapping.units.iter().any(|unit| here(&unit) && unit.include_all));
        }
    }
    for region in remapping.reserved_for(function) {
        assert!(region.segment == function.segment);
        assert!(region.devices.iter().any(|device| device.names(function)));
    }
    let _ = (remapping.passes_translation_requests(function), remapping.properties_of(function));
}
