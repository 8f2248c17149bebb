//! CPUs' accesses to devices, and configuration space.

use std::sync::{Arc, Mutex};

use model_bus::{Mmio, Width};
use model_ioda2::{Cause, ConfigTarget, Transaction, clause};
use portcullis_types::{Access, Pa};

use crate::harness::{KILL, KILL_ONE, M32DT, M64BT, Machine, PESTA, TABLE};

const M32: u64 = 0x3ff8_0000_0000;

/// Answers with where it was asked.
#[derive(Default)]
struct Echo(Mutex<Vec<(u64, u64)>>);

impl Mmio for Echo {
    fn read(&self, offset: u64, _: Width) -> u64 {
        offset
    }

    fn write(&self, offset: u64, _: Width, value: u64) {
        self.0.lock().unwrap().push((offset, value));
    }
}

/// M32 is 2 GiB in 256 segments of 8 MiB; the second is of PE 1.
fn machine() -> Machine {
    let machine = Machine::new();
    machine.store(0x190, M32);
    machine.store(0x198, 0xffff_ffff_8000_0000);
    machine.store(0x1a0, 0x8000_0000);
    machine.ioda(M32DT | 1, &[1 << 48]);
    machine
}

#[test]
fn a_frozen_pe_answers_all_ones_by_its_segments() {
    let machine = machine();
    let echo = Arc::new(Echo::default());
    let window = machine.phb.guard(Pa::new(M32), echo.clone());
    assert_eq!(window.read(0x80_0010, Width::Bits32), 0x80_0010);
    machine.ioda(PESTA | 1, &[1 << 63]);
    assert_eq!(window.read(0x80_0010, Width::Bits32), 0xffff_ffff);
    assert_eq!(window.read(0xff_ffff, Width::Bits8), 0xff);
    window.write(0x80_0010, Width::Bits32, 1);
    // The segments beside it are of PE 0.
    assert_eq!(window.read(0x7f_fff8, Width::Bits64), 0x7f_fff8);
    window.write(0x100_0000, Width::Bits32, 2);
    assert_eq!(*echo.0.lock().unwrap(), [(0x100_0000, 2)]);
    assert_eq!(machine.phb.counters().mmio_blocked, 3);
    machine.ioda(PESTA | 1, &[0]);
    assert_eq!(window.read(0x80_0010, Width::Bits32), 0x80_0010);
}

#[test]
fn m64_bars_say_whose_an_address_is() {
    let machine = machine();
    // 64 GiB at 0x3d00_0000_0000: 256 MiB each.
    machine.ioda(M64BT | 15, &[1 << 63 | 0x3d0_0000 << 32 | 0x3fff_0000]);
    machine.ioda(PESTA | 2, &[1 << 63]);
    let admitted = |at| machine.phb.admits(Pa::new(at), false);
    assert!(!admitted(0x3d00_2000_0000) && !admitted(0x3d00_2fff_ffff));
    assert!(admitted(0x3d00_1fff_ffff) && admitted(0x3d00_3000_0000));
    assert!(admitted(0x1000), "nobody's");
}

#[test]
fn m32_counts_only_where_it_is_on() {
    let machine = machine();
    machine.ioda(PESTA | 1, &[1 << 63]);
    assert!(!machine.phb.admits(Pa::new(M32 + 0x80_0000), true));
    machine.store(0x160, 0x0082_0000_0000_0000);
    assert!(machine.phb.admits(Pa::new(M32 + 0x80_0000), true));
}

#[test]
fn an_error_that_software_asks_for_freezes_the_pe_of_the_address() {
    let machine = machine();
    machine.store(0x2b8, M32 + 0x80_0000);
    machine.store(0x2c0, 0xffff_ffff_ff80_0000);
    machine.store(0x2b0, 1 << 62 | 1 << 59);
    assert!(machine.phb.admits(Pa::new(M32 + 0x80_0000), true), "a store");
    assert!(machine.phb.admits(Pa::new(M32), false), "another segment");
    assert!(!machine.phb.admits(Pa::new(M32 + 0x80_0020), false));
    let first = machine.phb.first_error(1).unwrap();
    assert_eq!((first.cause, first.transaction), (Cause::Injected, Transaction::MmioLoad));
}

#[derive(Default)]
struct Functions(Mutex<Vec<(u16, u16, Width, u64)>>);

impl ConfigTarget for Functions {
    fn read(&self, rid: u16, offset: u16, _: Width) -> u64 {
        u64::from(rid) << 16 | u64::from(offset)
    }

    fn write(&self, rid: u16, offset: u16, width: Width, value: u64) {
        self.0.lock().unwrap().push((rid, offset, width, value));
    }
}

#[test]
fn configuration_space_is_reached_by_address_and_data() {
    let machine = Machine::new();
    assert_eq!(machine.phb.read(0x130, Width::Bits32), 0xffff_ffff, "nobody is there");
    let functions = Arc::new(Functions::default());
    machine.phb.set_config_target(functions.clone());
    assert_eq!(machine.phb.read(0x130, Width::Bits32), 0xffff_ffff, "it is off");
    // Bus 1, device 0, function 2, register 0x10, PE 1.
    machine.store(0x140, 0x8010_2010_0001_0000);
    assert_eq!(machine.phb.read(0x130, Width::Bits32), 0x0102_0010);
    assert_eq!(machine.phb.read(0x132, Width::Bits16), 0x0012);
    machine.phb.write(0x133, Width::Bits8, 0x5a);
    assert_eq!(*functions.0.lock().unwrap(), [(0x102, 0x13, Width::Bits8, 0x5a)]);
    assert_eq!(machine.clauses(), [] as [&str; 0]);
    assert_eq!(machine.phb.read(0x130, Width::Bits64), u64::MAX);
    assert_eq!(machine.phb.read(0x131, Width::Bits16), 0xffff);
    assert_eq!(machine.clauses(), [clause::REGISTER_WIDTH; 2]);
    machine.ioda(PESTA | 1, &[1 << 63]);
    assert_eq!(machine.phb.read(0x130, Width::Bits32), 0xffff_ffff, "frozen");
    machine.phb.write(0x130, Width::Bits32, 1);
    assert_eq!(functions.0.lock().unwrap().len(), 1);
}

#[test]
fn a_device_that_is_told_of_a_mapping_finds_it() {
    let machine = machine();
    let guarded = machine.phb.guard(Pa::new(M32), Arc::new(Echo::default()));
    assert_eq!(machine.access(0x100, 0, Access::READ), None, "not there, and cached so");
    machine.unfreeze();
    machine.put_be(TABLE, 0x700_0003);
    // Slow to take effect: after so many kills, some wait for several ticks.
    (0..8).for_each(|_| machine.store(KILL, KILL_ONE | 1));
    guarded.write(0, Width::Bits32, 0);
    assert_eq!(machine.access(0x100, 0, Access::READ), Some(0x700_0000));
}
