//! How a PC comes up: what firmware goes on using is never cut off, what no unit covers is not used, and no device raises another's interrupt.

mod screen;

use core::sync::atomic::Ordering::Relaxed;

use model_bus::Doorbell;
use model_vtd::Config;
use portcullis::types::{Access, SourceId};
use portcullis_lab::RunError;
use portcullis_lab::boot::{BootRequest, Hardware, Standing, System};
use portcullis_lab::machine::{DiskContent, Machine, MachineSpec, acpi, builtin};
use portcullis_lab::trace;

use self::screen::{Firmware, Use, reaches};

/// The disk on the root bus, 0000:00:01.0, and another's.
const DISK: SourceId = SourceId(0x08);
const OTHER: SourceId = SourceId(0x100);
/// Both ends of what firmware keeps for that disk, and an address that nobody has.
const KEPT: [u64; 2] = [0x3fff_0000, 0x3fff_ffff];
const NOBODYS: u64 = 0x2000_0000;

fn x86() -> MachineSpec {
    builtin::find("x86").unwrap()
}

/// A PC whose unit is like this and covers these slots, with what its firmware leaves in memory.
fn built(config: Config, slots: Option<Vec<u8>>) -> (Machine, Vec<u8>) {
    let mut spec = x86();
    let unit = &mut spec.pc.as_mut().unwrap().units[0];
    unit.config = config;
    unit.ways = slots.map(|slots| slots.into_iter().map(|device| vec![device]).collect());
    let tables = acpi::emit(&spec, spec.pc.as_ref().unwrap()).unwrap();
    (Machine::build(spec, DiskContent::Blank, 1, &trace::shared(None)).unwrap(), tables)
}

#[test]
fn what_firmware_keeps_for_a_disk_is_reached_at_every_step_of_bringing_its_unit_up() {
    for config in [Config::default(), Config::legacy()] {
        let (machine, tables) = built(config, None);
        let vtd = machine.vtds[0].clone();
        let using = Use { disk: DISK, kept: KEPT, others: [Some(DISK), None], nobodys: NOBODYS };
        let firmware = Firmware::new(vtd.clone(), using);
        let request = BootRequest::new(&machine, &tables, trace::shared(None));
        let system = System::boot(BootRequest { tamper: Some(firmware.clone()), ..request }).unwrap();
        let [before, after] = firmware.met();
        assert_eq!(before.refused.load(Relaxed), 0);
        assert!(before.closed.load(Relaxed) > 0);
        // An entry that leads elsewhere is not present for a moment, once.
        assert!(after.refused.load(Relaxed) <= 1, "{after:?}");
        assert!(reaches(&*vtd, DISK, KEPT[0], Access::READ), "it is the kernel's");
        system.shut_down().unwrap();
        assert!(!reaches(&*vtd, DISK, KEPT[0], Access::READ), "the unit is closed");
    }
}

#[test]
fn a_units_tables_hold_addresses_as_wide_as_firmware_says() {
    let (machine, tables) = built(Config::default(), None);
    let system = System::boot(BootRequest::new(&machine, &tables, trace::shared(None))).unwrap();
    let Hardware::Vtd(vtd) = &system.units[0].driver else { panic!("{:?}", system.units[0].driver) };
    assert_eq!(vtd.features().output_bits, 46);
    system.shut_down().unwrap();
}

#[test]
fn functions_that_no_unit_covers_are_not_used_and_master_no_bus() {
    const COMMAND: u16 = 4;
    const BUS_MASTER: u16 = 1 << 2;
    // A disk on the root bus, and a port with all behind it.
    let (machine, tables) = built(Config::default(), Some(vec![1, 2]));
    let system = System::boot(BootRequest::new(&machine, &tables, trace::shared(None))).unwrap();
    let mut covered = Vec::new();
    for (host, endpoint) in system.endpoints() {
        match &endpoint.standing {
            Standing::Behind { .. } => covered.push(endpoint.name.as_str()),
            Standing::Uncovered(_) => {
                let at = host.topology.functions[endpoint.function].at;
                assert_eq!(host.config.read16(at, COMMAND) & BUS_MASTER, 0, "{}", endpoint.name);
            }
        }
    }
    assert_eq!(covered, ["0000:00:01.0", "0000:00:02.0", "0000:01:00.0"]);
    assert_eq!(system.endpoints().count(), 6);
    system.shut_down().unwrap();
}

#[test]
fn a_devices_interrupt_is_raised_by_nobody_else_and_by_nobody_once_it_is_forgotten() {
    for config in [Config::default(), Config::legacy()] {
        let (machine, tables) = built(config, None);
        let system = System::boot(BootRequest::new(&machine, &tables, trace::shared(None))).unwrap();
        let (_, disk) = system.endpoints().find(|(_, endpoint)| endpoint.name == "0000:00:01.0").unwrap();
        let target = disk.msi.unwrap();
        let line = system.interrupts.line(&disk.name, target, 3).unwrap();
        let ring = |source: SourceId, at: u64, data: u32| {
            machine.vtds[0].ring(at - 0xfee0_0000, &data.to_le_bytes(), Some(source)).is_ok()
        };
        let at = line.doorbell.get();
        assert!(ring(DISK, at, line.data) && line.take());
        assert!(!ring(OTHER, at, line.data) && !line.take());
        // Nor by who names the CPU and a vector, as before there was remapping: none of all.
        for vector in 0..=0xff {
            assert!(!ring(DISK, 0xfee0_0000, vector) && !line.take(), "{vector:#x}");
        }
        system.interrupts.forget(target, 3);
        assert!(!ring(DISK, at, line.data) && !line.take());
        system.shut_down().unwrap();
    }
}

#[test]
fn registers_that_are_more_than_firmware_tells_of_are_refused() {
    let (machine, mut tables) = built(Config::default(), None);
    let dmar = tables.windows(4).position(|word| word == b"DMAR").unwrap();
    // The first structure is the unit's: from two pages to one, and the sum again right.
    let pages = dmar + 48 + 5;
    assert_eq!(tables[pages], 1);
    tables[pages] = 0;
    tables[dmar + 9] = tables[dmar + 9].wrapping_add(1);
    let refused = System::boot(BootRequest::new(&machine, &tables, trace::shared(None)));
    assert!(matches!(refused, Err(RunError::BadInput(_))));
}
