//! Page requests on their way to the queue, and what drains them.

use model_bus::{InvalidationDone, Translator};
use model_vtd::{Config, Policy, Scalable};
use portcullis_types::Pasid;

use crate::ats::page;
use crate::harness::*;

/// SW, with data 7 and 8; and PD with data 8.
const WAIT: [u64; 2] = [0x25 | 7 << 32, STATUS];
const DRAIN: [u64; 2] = [0xa5 | 8 << 32, STATUS];

/// Page requests wait in the unit for as long as nothing drains them.
fn holding() -> Machine {
    let policy = Policy { page_request_ticks: u32::MAX, ..Policy::eager() };
    let machine = Machine::scalable(Config { policy, ..plain() });
    machine.write64(0xd0, REQUESTS);
    machine
}

fn tail(machine: &Machine) -> u64 {
    machine.read64(0xc8)
}

#[test]
fn a_wait_that_drains_is_complete_behind_every_page_request_that_arrived_before_it() {
    let machine = holding();
    page(&machine, Some(1), 5, true);
    machine.submit(&WAIT);
    machine.ticks();
    assert_eq!((machine.get(STATUS), tail(&machine)), (7, 0), "a wait that does not drain is not behind it");
    machine.submit(&DRAIN);
    machine.ticks();
    assert_eq!((machine.get(STATUS), tail(&machine)), (8, 0x20));
    assert_eq!(machine.get(REQUESTS), 0x1_0008_0101);
    (6..9).for_each(|group| page(&machine, Some(1), group, true));
    machine.submit(&DRAIN);
    machine.ticks();
    assert_eq!(tail(&machine), 0x80, "every one of them");
    assert_eq!(machine.notes(), []);
}

#[test]
fn a_wait_that_drains_waits_for_the_device_first_and_so_for_what_the_device_asked_before_its_answer() {
    let machine = holding();
    machine.set(STATUS, &[0]);
    machine.submit(&[0x1_0008_0008, 0x7fff_ffff_ffff_f800]);
    machine.submit(&DRAIN);
    machine.ticks();
    let message = machine.ears.invalidations.lock().unwrap()[0];
    page(&machine, Some(1), 5, true);
    assert_eq!((machine.get(STATUS), tail(&machine)), (0, 0));
    machine.unit.invalidation_done(&InvalidationDone { source: message.source, tags: 1 << message.tag });
    machine.ticks();
    assert_eq!((machine.get(STATUS), tail(&machine)), (8, 0x20));
}

#[test]
fn page_requests_reach_the_queue_by_themselves_and_in_the_order_of_their_arrival() {
    let policy = Policy { page_request_ticks: 9, ..Policy::eager() };
    let machine = Machine::scalable(Config { policy, ..plain() });
    machine.write64(0xd0, REQUESTS);
    (0..8).for_each(|group| page(&machine, Some(1), group, true));
    assert!(tail(&machine) < 0x100, "all at once");
    (0..10).for_each(|_| machine.ticks());
    assert_eq!(tail(&machine), 0x100);
    let group = |at: u64| machine.get(REQUESTS + 32 * at + 8) >> 3 & 0x1ff;
    assert_eq!([0, 1, 2, 3, 4, 5, 6, 7].map(group), [0, 1, 2, 3, 4, 5, 6, 7]);
}

#[test]
fn a_device_that_never_stops_asking_is_not_held_back_for_ever() {
    let machine = holding();
    (0..100).for_each(|_| page(&machine, Some(1), 1, false));
    assert!(tail(&machine) >= 0x40 * 32, "{:#x}", tail(&machine));
}

#[test]
fn a_page_request_is_judged_when_it_is_accepted() {
    let machine = holding();
    page(&machine, Some(1), 5, true);
    // Not present, and quiet.
    machine.pasid(1, [2, 0, 0]);
    machine.submit(&[0x1_0006_0017]);
    machine.submit(&DRAIN);
    machine.ticks();
    let response = machine.ears.responses.lock().unwrap()[0];
    assert_eq!((response.group, response.code, response.pasid), (5, 1, Pasid::new(1)));
    assert_eq!((tail(&machine), machine.fault()), (0, None));
    page(&machine, Some(2), 6, true);
    machine.command(31, false);
    machine.submit(&DRAIN);
    machine.ticks();
    assert_eq!(tail(&machine), 0, "nobody translates any more");
}

#[test]
fn a_page_request_that_was_received_before_a_reset_never_arrives() {
    let machine = holding();
    page(&machine, Some(1), 5, true);
    machine.unit.reset();
    let machine = machine.in_scalable_mode();
    machine.write64(0xd0, REQUESTS);
    page(&machine, Some(1), 6, true);
    machine.submit(&DRAIN);
    machine.ticks();
    assert_eq!((tail(&machine), machine.get(REQUESTS + 8)), (0x20, 0x7037), "W, R, last, group 6");
}

#[test]
fn a_part_says_that_it_drains_if_it_has_requests_to_drain() {
    let drains = |config| Machine::new(config).read64(0x10) >> 42 & 1 == 1;
    let without = Scalable { page_request_drain: false, ..Scalable::full() };
    assert!(drains(plain()));
    assert!(!drains(Config { scalable: Some(without), ..plain() }));
    assert!(!drains(Config { device_tlbs: false, ..plain() }));
    assert!(!drains(Config::legacy()));
}

#[test]
fn where_nothing_drains_the_flag_is_reserved() {
    let mode = Scalable { page_request_drain: false, ..Scalable::full() };
    for machine in
        [Machine::scalable(Config { scalable: Some(mode), ..plain() }), Machine::legacy(Config::legacy())]
    {
        machine.submit(&DRAIN);
        machine.ticks();
        assert_eq!((machine.read64(0xb0) & 0xf, machine.read32(0x34) & 0x10), (4, 0x10));
    }
}
