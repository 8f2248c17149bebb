//! CPUs' accesses to devices, and configuration space.

use core::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use model_bus::{Mmio, Width};
use model_ioda2::{Cause, ConfigTarget, Transaction, Unit, clause};
use portcullis_types::{Access, Pa};

use crate::harness::{KILL, KILL_ONE, M32DT, M64BT, Machine, PEST, PESTA, TABLE};

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
    // OUT_ERR_STATUS: bit 28; and the PEST: MMIO cause, a load, LEM bit 39.
    assert_eq!((machine.load(0xd00), machine.load(0xd80)), (0x0000_0008_0000_0000, 0));
    assert_eq!(machine.get_be(PEST + 16), 0x2400_8027_0000_0000);
}

#[test]
fn the_store_that_an_error_was_asked_for_does_not_arrive_and_the_ones_before_did() {
    let machine = machine();
    let echo = Arc::new(Echo::default());
    let window = machine.phb.guard(Pa::new(M32), echo.clone());
    machine.store(0x2b8, M32 + 0x80_0010);
    // Bits 0 to 15 do not count.
    machine.store(0x2c0, u64::MAX);
    machine.store(0x2b0, 1 << 62 | 1 << 58);
    window.write(0x80_0008, Width::Bits32, 1);
    assert_eq!(window.read(0x80_0010, Width::Bits32), 0x80_0010, "a load");
    window.write(0x80_0010, Width::Bits32, 2);
    assert!(machine.phb.is_mmio_frozen(1) && machine.phb.is_dma_frozen(1));
    assert_eq!(machine.phb.first_error(1).unwrap().transaction, Transaction::MmioStore);
    // The error stands until it is cleared, however often the PE is thawed.
    machine.unfreeze();
    window.write(0x80_0010, Width::Bits32, 3);
    assert!(machine.phb.is_mmio_frozen(1));
    machine.store(0x2b0, 0);
    machine.unfreeze();
    window.write(0x80_0010, Width::Bits32, 4);
    assert_eq!(*echo.0.lock().unwrap(), [(0x80_0008, 1), (0x80_0010, 4)]);
}

/// Bus 1, device 0, function 0, register 4 of PE 1, and of PE 2 the same of bus 2; where they lie in CONFIG_ADDRESS.
const OF_PE_1: u64 = 0x8010_0004_0001_0000;
const OF_PE_2: u64 = 0x8020_0004_0002_0000;

#[test]
fn an_error_in_configuration_space_freezes_the_pe_of_the_access() {
    for (control, written) in [(1 << 60 | 1 << 59, false), (1 << 60 | 1 << 58, true)] {
        let machine = Machine::new();
        let functions = Arc::new(Functions::default());
        machine.phb.set_config_target(functions.clone());
        let tries = |address, write| {
            machine.store(0x140, address);
            if write {
                machine.phb.write(0x130, Width::Bits32, 7);
            } else {
                machine.phb.read(0x130, Width::Bits32);
            }
            machine.phb.is_mmio_frozen(1)
        };
        // Function 1.0 of bus 1: bits 4 to 19.
        machine.store(0x2b8, 0x0010_0000_0000_0000);
        machine.store(0x2c0, 0x0fff_f000_0000_0000);
        machine.store(0x2b0, control);
        assert!(!tries(OF_PE_1, !written), "the other kind");
        assert!(!tries(OF_PE_2, written) && !machine.phb.is_mmio_frozen(2), "another function");
        functions.written.lock().unwrap().clear();
        assert!(tries(OF_PE_1, written) && machine.phb.is_dma_frozen(1) && !machine.phb.is_mmio_frozen(2));
        assert_eq!(machine.phb.read(0x130, Width::Bits32), 0xffff_ffff);
        assert_eq!(*functions.written.lock().unwrap(), []);
        let first = machine.phb.first_error(1).unwrap();
        let transaction = if written { Transaction::ConfigWrite } else { Transaction::ConfigRead };
        assert_eq!((first.cause, first.transaction, first.rid), (Cause::Injected, transaction, 0x100));
        let [read, write] = [0x3400_8027_0100_0000, 0x2d00_8027_0100_0000];
        assert_eq!(machine.get_be(PEST + 16), if written { write } else { read });
        assert_eq!(machine.get_be(PEST + 24), 4);
        machine.unfreeze();
        machine.store(0x2b0, 0);
        assert!(!tries(OF_PE_1, written));
    }
}

#[test]
fn an_error_on_a_bus_hits_every_function_of_it() {
    let machine = Machine::new();
    machine.phb.set_config_target(Arc::new(Functions::default()));
    machine.store(0x2b8, 0x0010_0000_0000_0000);
    machine.store(0x2c0, 0x0ff0_0000_0000_0000);
    machine.store(0x2b0, 1 << 60 | 1 << 59);
    // Function 2 of device 3.
    machine.store(0x140, 0x8011_a010_0001_0000);
    assert_eq!(machine.phb.read(0x130, Width::Bits32), 0xffff_ffff);
    assert!(machine.phb.is_mmio_frozen(1));
}

/// DLP_TRAIN_CTL: something is there, the link is active.
const LINK: u64 = 0x0000_1100_0000_0000;

#[test]
fn perst_resets_what_is_below_and_the_link_is_down_while_it_is_asserted() {
    let machine = Machine::new();
    let functions = Arc::new(Functions { linked: AtomicBool::new(true), ..Functions::default() });
    machine.phb.set_config_target(functions.clone());
    let told = || core::mem::take(&mut *functions.line.lock().unwrap());
    let reset = machine.load(0x808);
    assert_eq!((reset & 1 << 61, machine.load(0x640) & LINK), (1 << 61, LINK));
    machine.store(0x808, reset);
    assert_eq!(told(), [], "nothing has changed");
    machine.store(0x808, reset & !(1 << 61));
    assert_eq!((told(), machine.load(0x640) & LINK), (vec![true], 0));
    machine.store(0x808, reset & !(1 << 61));
    assert_eq!(told(), []);
    machine.store(0x808, reset);
    assert_eq!((told(), machine.load(0x640) & LINK), (vec![false], LINK));
}

#[test]
fn the_link_is_up_only_if_somebody_is_at_its_other_end() {
    let machine = Machine::new();
    let functions = Arc::new(Functions::default());
    machine.phb.set_config_target(functions.clone());
    machine.store(0x640, u64::MAX);
    assert_eq!(machine.load(0x640), !LINK);
    functions.linked.store(true, Ordering::SeqCst);
    machine.store(0x640, 0);
    assert_eq!(machine.load(0x640), LINK);
}

#[test]
fn a_bridge_held_in_reset_holds_its_slot() {
    let machine = Machine::new();
    let functions = Arc::new(Functions::default());
    machine.phb.set_config_target(functions.clone());
    let pci = machine.phb.xscom(Unit::Pci);
    pci.write(8 * 0x0a, Width::Bits64, 1 << 63);
    assert_eq!(*functions.line.lock().unwrap(), [true]);
    pci.write(8 * 0x0a, Width::Bits64, 0);
    assert_eq!(*functions.line.lock().unwrap(), [true, false]);
    // PERST is let go by a reset, too.
    machine.store(0x808, 0);
    machine.phb.reset();
    assert_eq!(*functions.line.lock().unwrap(), [true, false, true, false]);
}

/// What was written to configuration space; the reset line, as it was told; whether somebody is at the other end of the link.
#[derive(Default)]
struct Functions {
    written: Mutex<Vec<(u16, u16, Width, u64)>>,
    line: Mutex<Vec<bool>>,
    linked: AtomicBool,
}

impl ConfigTarget for Functions {
    fn read(&self, rid: u16, offset: u16, _: Width) -> u64 {
        u64::from(rid) << 16 | u64::from(offset)
    }

    fn write(&self, rid: u16, offset: u16, width: Width, value: u64) {
        self.written.lock().unwrap().push((rid, offset, width, value));
    }

    fn hold(&self, held: bool) {
        self.line.lock().unwrap().push(held);
    }

    fn has_link(&self) -> bool {
        self.linked.load(Ordering::SeqCst)
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
    assert_eq!(*functions.written.lock().unwrap(), [(0x102, 0x13, Width::Bits8, 0x5a)]);
    assert_eq!(machine.clauses(), [] as [&str; 0]);
    assert_eq!(machine.phb.read(0x130, Width::Bits64), u64::MAX);
    assert_eq!(machine.phb.read(0x131, Width::Bits16), 0xffff);
    assert_eq!(machine.clauses(), [clause::REGISTER_WIDTH; 2]);
    machine.ioda(PESTA | 1, &[1 << 63]);
    assert_eq!(machine.phb.read(0x130, Width::Bits32), 0xffff_ffff, "frozen");
    machine.phb.write(0x130, Width::Bits32, 1);
    assert_eq!(functions.written.lock().unwrap().len(), 1);
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
