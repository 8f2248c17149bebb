//! MCFG: a table of a real machine, and tables that are broken.

use portcullis_firmware::acpi::TableFault;
use portcullis_firmware::acpi::mcfg::{EcamWindow, Mcfg, McfgError, McfgFault};
use portcullis_spec::pcie::Bdf;
use portcullis_types::{Pa, PaRange};

use crate::builder::{every_damage, seal, sealed};

/// What QEMU's virt machine has: 256 buses at 0x40_1000_0000.
const VIRT: (u64, u16, u8, u8) = (0x40_1000_0000, 0, 0, 255);

fn table(windows: &[(u64, u16, u8, u8)]) -> Vec<u8> {
    let mut rest = vec![0; 8];
    for (base, segment, first, last) in windows {
        rest.extend([&base.to_le_bytes()[..], &segment.to_le_bytes(), &[*first, *last, 0, 0, 0, 0]].concat());
    }
    sealed(*b"MCFG", 1, &rest)
}

fn function(bus: u8, device: u8, function: u8) -> Bdf {
    Bdf::new(bus, device, function).unwrap()
}

fn page(first: u64) -> Option<PaRange> {
    PaRange::new(Pa::new(first), 0x1000)
}

fn faults(windows: &[(u64, u16, u8, u8)]) -> Vec<(usize, McfgFault)> {
    let bytes = table(windows);
    Mcfg::read(&bytes).unwrap().faults().map(|error| (error.offset, error.fault)).collect()
}

#[test]
fn a_functions_configuration_space_is_where_bus_device_and_function_say() {
    let bytes = table(&[VIRT, (0x1_0000_0000, 2, 0x40, 0x5f)]);
    let mcfg = Mcfg::read(&bytes).unwrap();
    assert_eq!(mcfg.faults().count(), 0);
    assert_eq!(mcfg.config(0, function(0, 0, 0)), page(0x40_1000_0000));
    assert_eq!(mcfg.config(0, function(1, 2, 3)), page(0x40_1011_3000));
    assert_eq!(mcfg.config(0, function(255, 31, 7)), page(0x40_1fff_f000));
    assert_eq!(mcfg.config(2, function(0x41, 0, 0)), page(0x1_0410_0000), "the base is bus 0's");
    assert_eq!(mcfg.config(2, function(0x3f, 31, 7)), None);
    assert_eq!(mcfg.config(2, function(0x60, 0, 0)), None);
    assert_eq!(mcfg.config(1, function(0, 0, 0)), None, "another segment");
    let window = mcfg.windows().nth(1).unwrap();
    let expected =
        EcamWindow { offset: 60, base: Pa::new(0x1_0000_0000), segment: 2, first_bus: 0x40, last_bus: 0x5f };
    assert_eq!(window, expected);
    assert_eq!(window.range(), Ok(PaRange::new(Pa::new(0x1_0400_0000), 0x200_0000).unwrap()));
}

#[test]
fn a_table_that_ends_within_a_window_is_an_error() {
    let mut bytes = table(&[VIRT, VIRT]);
    bytes[4] -= 5;
    bytes.truncate(bytes.len() - 5);
    seal(&mut bytes);
    assert_eq!(Mcfg::read(&bytes), Err(McfgError { offset: 60, fault: McfgFault::Partial(11) }));
    let short = TableFault::Truncated { len_bytes: 70, wanted_bytes: 71 };
    assert_eq!(Mcfg::read(&bytes[..70]), Err(McfgError { offset: 0, fault: McfgFault::Table(short) }));
}

#[test]
fn windows_that_cannot_be_are_told_and_nobody_is_there() {
    for base in [0, 0x40_1000_1000, 0_u64.wrapping_sub(0x1000_0000) + 0x10_0000] {
        let bytes = table(&[(base, 0, 0, 255)]);
        assert_eq!(faults(&[(base, 0, 0, 255)]), [(44, McfgFault::Base(Pa::new(base)))]);
        assert_eq!(Mcfg::read(&bytes).unwrap().config(0, function(0, 0, 0)), None);
    }
    let turned = [(0x40_1000_0000, 0, 9, 3), (0x50_1000_0000, 0, 5, 20)];
    assert_eq!(faults(&turned), [(44, McfgFault::Buses(9, 3)), (60, McfgFault::Overlap)]);
    let bytes = table(&turned);
    let mcfg = Mcfg::read(&bytes).unwrap();
    assert_eq!(mcfg.config(0, function(3, 0, 0)), None);
    assert_eq!(mcfg.config(0, function(5, 0, 0)), None, "nor in the other one");
    assert_eq!(mcfg.config(0, function(10, 0, 0)), page(0x50_10a0_0000));
}

#[test]
fn a_bus_that_two_windows_have_is_had_by_neither() {
    let both = [(0x40_1000_0000, 0, 0, 0x10), (0x50_1000_0000, 0, 0x10, 0x20)];
    assert_eq!(faults(&both), [(60, McfgFault::Overlap)]);
    let bytes = table(&both);
    let mcfg = Mcfg::read(&bytes).unwrap();
    assert_eq!(mcfg.config(0, function(0x10, 0, 0)), None);
    assert_eq!(mcfg.config(0, function(0x11, 0, 0)), page(0x50_1110_0000));
    assert_eq!(faults(&[VIRT, (0x50_1000_0000, 1, 0, 255)]), [], "another segment");
}

#[test]
fn windows_in_the_same_memory_are_none() {
    // Bus 0x10 of segment 1 is where bus 0x0f of segment 0 is.
    let both = [(0x40_1000_0000, 0, 0, 0x0f), (0x40_0ff0_0000, 1, 0x10, 0x20), (0x50_1000_0000, 2, 0, 1)];
    let second = PaRange::new(Pa::new(0x40_10f0_0000), 0x110_0000).unwrap();
    assert_eq!(faults(&both), [(60, McfgFault::SharedMemory(second))]);
    let bytes = table(&both);
    let mcfg = Mcfg::read(&bytes).unwrap();
    for (segment, bus) in [(0, 0), (0, 0x0f), (1, 0x10), (1, 0x20)] {
        assert_eq!(mcfg.config(segment, function(bus, 0, 0)), None, "{segment}:{bus:x}");
    }
    assert_eq!(mcfg.config(2, function(0, 0, 0)), page(0x50_1000_0000));
    // Side by side they are two.
    assert_eq!(faults(&[(0x40_1000_0000, 0, 0, 0x0f), (0x40_1000_0000, 1, 0x10, 0x20)]), []);
}

/// Every bit turned and every end cut off: read or refused, and what is read can be asked.
#[test]
fn no_byte_makes_it_panic() {
    let ask = |bytes: &[u8]| match Mcfg::read(bytes) {
        Err(error) => assert!(!error.to_string().is_empty()),
        Ok(mcfg) => {
            for bus in [0, 1, 0x40, 255] {
                let windows: Vec<PaRange> = mcfg.windows().filter_map(|window| window.range().ok()).collect();
                if let Some(config) = mcfg.config(0, function(bus, 31, 7)) {
                    assert!(windows.iter().any(|window| window.covers(config)));
                }
            }
            mcfg.faults().for_each(|error| assert!(!error.to_string().is_empty()));
        }
    };
    every_damage(&table(&[VIRT, (0x1_0000_0000, 2, 0x40, 0x5f)]), ask);
}
