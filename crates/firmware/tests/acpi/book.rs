//! The platform that the book draws, and its table.
//!
//! Spec: VT-d 5.10, Figure 8-1 "Hypothetical Platform Configuration", Table 33 "DMAR Structure for Platform Shown in Figure 8-1".

use portcullis_firmware::acpi::dmar::{Cover, DevicePath, Dmar, Remapping, ScopeKind, Structure};
use portcullis_types::{Pa, PaRange};

/// Table 33, row by row. The book leaves OEM fields, register bases and the ids of I/O APIC (x) and timer block (y) open: here the bases are
/// 0xfed9_1000, 0xfed9_2000 and 0xfed9_3000, x is 8 and y is 0. Its table ends at 152, which is also its length.
#[rustfmt::skip]
pub(crate) const TABLE: [u8; 152] = [
    b'D', b'M', b'A', b'R', 152, 0, 0, 0,
    1, 0xa2, b'I', b'N', b'T', b'E', b'L', b' ',
    b'B', b'O', b'O', b'K', b' ', b' ', b' ', b' ',
    1, 0, 0, 0, b'P', b'R', b'T', b'C',
    1, 0, 0, 0, 38, 1, 0, 0,
    0, 0, 0, 0, 0, 0, 0, 0,
    // DRHD #1
    0, 0, 32, 0, 0, 0, 0, 0,
    0x00, 0x10, 0xd9, 0xfe, 0, 0, 0, 0,
    1, 8, 0, 0, 0, 0, 4, 0,
    1, 8, 0, 0, 0, 0, 5, 0,
    // DRHD #2
    0, 0, 24, 0, 0, 0, 0, 0,
    0x00, 0x20, 0xd9, 0xfe, 0, 0, 0, 0,
    2, 8, 0, 0, 0, 0, 7, 0,
    // DRHD #3
    0, 0, 32, 0, 1, 0, 0, 0,
    0x00, 0x30, 0xd9, 0xfe, 0, 0, 0, 0,
    3, 8, 0, 0, 8, 0, 31, 7,
    4, 8, 0, 0, 0, 0, 31, 6,
    // SATC
    5, 0, 16, 0, 1, 0, 0, 0,
    1, 8, 0, 0, 0, 0, 5, 0,
];

fn function(path: &[(u8, u8)]) -> DevicePath {
    DevicePath { segment: 0, start_bus: 0, path: path.to_vec() }
}

#[test]
fn the_books_table_reads_as_the_book_draws_it() {
    let dmar = Dmar::read(&TABLE).unwrap();
    assert_eq!((dmar.host_address_bits(), dmar.interrupt_remapping()), (39, true));
    assert!(!dmar.x2apic_opt_out() && !dmar.dma_control_opt_in());
    let at: Vec<(usize, u16)> = dmar.structures().map(|(at, structure)| (at, structure.number())).collect();
    assert_eq!(at, [(48, 0), (80, 0), (104, 0), (136, 5)]);
    let scopes: Vec<usize> =
        dmar.structures().flat_map(|(_, s)| s.scope().entries()).map(|e| e.offset).collect();
    assert_eq!(scopes, [64, 72, 96, 120, 128, 144]);
    let Some((_, Structure::Drhd(third))) = dmar.structures().nth(2) else { panic!("a unit") };
    let kinds: Vec<_> =
        third.scope.entries().map(|entry| (entry.kind(), entry.fixed_requester_id())).collect();
    assert_eq!(kinds, [(ScopeKind::IoApic, Some(0x00ff)), (ScopeKind::Hpet, Some(0x00fe))]);
}

#[test]
fn the_books_devices_are_covered_as_the_book_says() {
    let read = Remapping::read(&TABLE, &[]).unwrap();
    assert_eq!(read.faults, []);
    let registers: Vec<PaRange> = read.units.iter().map(|unit| unit.registers).collect();
    let page = |at| PaRange::new(Pa::new(at), 0x1000).unwrap();
    assert_eq!(registers, [page(0xfed9_1000), page(0xfed9_2000), page(0xfed9_3000)]);
    assert_eq!(read.cover(&function(&[(4, 0)])), Cover::Unit(0));
    assert_eq!(read.cover(&function(&[(5, 0)])), Cover::Unit(0));
    assert_eq!(read.cover(&function(&[(7, 0)])), Cover::Unit(1), "the bridge itself");
    assert_eq!(read.cover(&function(&[(7, 0), (0, 0)])), Cover::Unit(1));
    assert_eq!(read.cover(&function(&[(7, 0), (0, 0), (3, 1)])), Cover::Unit(1));
    assert_eq!(read.cover(&function(&[(30, 0)])), Cover::Unit(2));
    assert_eq!(read.cover(&function(&[(4, 1)])), Cover::Unit(2), "another function of that device");
    assert_eq!(read.cover(&DevicePath { segment: 1, ..function(&[(4, 0)]) }), Cover::Nobody);
    let property = read.properties_of(&function(&[(5, 0)])).unwrap();
    assert!(property.atc_required && property.atc_hardened && !property.no_nesting);
    assert_eq!(read.properties_of(&function(&[(4, 0)])), None);
}
