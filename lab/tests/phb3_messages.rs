//! Messages of a PHB3, as a kernel takes them.

use core::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::Arc;

use model_bus::{Fabric, Outcome, Request, Translator, Write};
use portcullis::types::{Access, Iova, SourceId};
use portcullis_lab::boot::{BootRequest, Line, System};
use portcullis_lab::machine::{DiskContent, Machine, builtin, fdt};
use portcullis_lab::trace;

const DISK: u32 = 0x100;
const OTHER: u32 = 0x200;

fn bench() -> (Machine, System) {
    let sink = trace::shared(None);
    let spec = builtin::find("power8").unwrap();
    let device_tree = fdt::emit(&spec).unwrap();
    let machine = Machine::build(spec, DiskContent::Blank, 1, &sink).unwrap();
    let system = System::boot(BootRequest::new(&machine, &device_tree, sink)).unwrap();
    (machine, system)
}

fn line(system: &System, device: u32, event: u32) -> Line {
    let endpoint = |target: &portcullis::firmware::MsiTarget| target.device_id == Some(device);
    let target = system.endpoints().filter_map(|(_, at)| at.msi).find(endpoint).unwrap();
    system.interrupts.line("disk", target, event).unwrap()
}

/// The device writes its message. Whether it arrived.
fn send(machine: &Machine, device: u32, line: &Line) -> bool {
    let iova = Iova::new(line.doorbell.get());
    let request =
        Request { source: SourceId(device), pasid: None, iova, len_bytes: 4, access: Access::WRITE };
    let source = Some(SourceId(device));
    let outcome = machine.phbs[0].access(&request, &mut |passage| {
        machine.bus.write(Write { at: passage.pa, bytes: &line.data.to_le_bytes(), source })
    });
    outcome == Outcome::Done
}

#[test]
fn each_message_is_taken_once_and_one_that_came_meanwhile_comes_again() {
    let (machine, system) = bench();
    let lines = [0, 1, 40].map(|event| line(&system, DISK, event));
    for round in 0..5 {
        for line in &lines {
            assert!(!line.take(), "round {round}");
            assert!(send(&machine, DISK, line));
            assert!(line.take() && !line.take(), "round {round}");
        }
    }
    // Before the first was served the bridge keeps one more, and drops what comes then.
    (0..3).for_each(|_| assert!(send(&machine, DISK, &lines[1])));
    let count = Arc::new(AtomicU32::new(0));
    let counted = count.clone();
    lines[1].on_signal(move || {
        counted.fetch_add(1, Relaxed);
    });
    assert!(!lines[0].take() && !lines[2].take());
    assert_eq!(count.load(Relaxed), 2);
    lines[1].no_handler();
    assert_eq!(machine.phbs[0].take_unpredictable(), []);
    drop(lines);
    system.shut_down().unwrap();
}

#[test]
fn a_device_cannot_raise_anothers_interrupts_nor_its_own_that_are_forgotten() {
    let (machine, system) = bench();
    let own = line(&system, DISK, 0);
    let others = line(&system, OTHER, 0);
    assert_ne!((own.doorbell, own.data), (others.doorbell, others.data));
    assert!(!send(&machine, DISK, &others), "it is frozen for it");
    assert!(!others.take() && !own.take());
    assert!(send(&machine, OTHER, &others) && others.take());
    let targets = system.endpoints().filter_map(|(_, at)| at.msi);
    let target = { targets }.find(|target| target.device_id == Some(OTHER)).unwrap();
    system.interrupts.forget(target, 0);
    assert!(!send(&machine, OTHER, &others) && !others.take());
    system.shut_down().unwrap();
}
