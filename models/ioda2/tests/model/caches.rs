//! What stays cached, and which kill removes it.

use model_bus::Clocked;
use model_ioda2::{Policy, clause};
use portcullis_types::Access;

use crate::harness::{KILL, KILL_ALL, KILL_ONE, KILL_PE, Machine, RTT, TABLE, TABLE_2, TVE, TVT};

/// Both PEs have page 0x700_0000 at 0 and 0x701_0000 at 0x10_0000, cached, and 0x800_0000 in memory since.
fn stale() -> Machine {
    let machine = Machine::new();
    for table in [TABLE, TABLE_2] {
        machine.put_be(table, 0x700_0003);
        machine.put_be(table + 0x800, 0x701_0003);
    }
    let seen = seen(&machine);
    assert_eq!(seen, [0x700_0000, 0x701_0000, 0x700_0000, 0x701_0000]);
    for table in [TABLE, TABLE_2] {
        machine.put_be(table, 0x800_0003);
        machine.put_be(table + 0x800, 0x800_0003);
    }
    machine
}

fn seen(machine: &Machine) -> [u64; 4] {
    [(0x100, 0), (0x100, 0x10_0000), (0x200, 0), (0x200, 0x10_0000)]
        .map(|(rid, address)| machine.access(rid, address, Access::READ).unwrap())
}

const NEW: u64 = 0x800_0000;

#[test]
fn tces_stay_until_they_are_killed() {
    let machine = stale();
    assert_eq!(seen(&machine), [0x700_0000, 0x701_0000, 0x700_0000, 0x701_0000]);
    machine.kill(KILL_ALL);
    assert_eq!(seen(&machine), [NEW; 4]);
    assert_eq!(machine.phb.counters().kills_all, 2);
}

#[test]
fn a_kill_by_pe_removes_what_is_of_that_pe() {
    let machine = stale();
    machine.kill(KILL_PE | 2);
    assert_eq!(seen(&machine), [0x700_0000, 0x701_0000, NEW, NEW]);
    assert_eq!(machine.phb.counters().kills_pe, 1);
}

#[test]
fn a_kill_by_pe_reaches_both_windows() {
    let machine = Machine::new();
    machine.ioda(TVT | 3, &[0x0000_0000_0120_0501]);
    machine.put_be(0x12_0000, 0x700_0003);
    assert_eq!(machine.read(0x0800_0000_0000_0000), Some(0x700_0000));
    machine.put_be(0x12_0000, 0x800_0003);
    machine.kill(KILL_ONE | 1);
    assert_eq!(machine.read(0x0800_0000_0000_0000), Some(0x700_0000), "the same page of the other window");
    machine.kill(KILL_PE | 1);
    assert_eq!(machine.read(0x0800_0000_0000_0000), Some(0x800_0000));
    machine.put_be(0x12_0000, 0x900_0003);
    machine.kill(KILL_ONE | 0x0800_0000_0000_0001);
    assert_eq!(machine.read(0x0800_0000_0000_0000), Some(0x900_0000));
}

#[test]
fn a_kill_by_entry_removes_one_tce_of_one_pe() {
    let machine = stale();
    machine.kill(KILL_ONE | 0x10_0000 | 2);
    assert_eq!(seen(&machine), [0x700_0000, 0x701_0000, 0x700_0000, NEW]);
    machine.kill(KILL_ONE | 0x10_0000 | 1);
    assert_eq!(seen(&machine), [0x700_0000, NEW, 0x700_0000, NEW]);
    assert_eq!(machine.phb.counters().kills_one, 2);
}

#[test]
fn a_kill_names_exactly_one_of_three() {
    let machine = stale();
    for value in [0, KILL_ALL | KILL_PE, KILL_PE | KILL_ONE | 1, 0x10_0001] {
        machine.store(KILL, value);
    }
    assert_eq!(machine.clauses(), [clause::KILL_FORM; 4]);
    machine.load(KILL);
    assert_eq!(seen(&machine), [0x700_0000, 0x701_0000, 0x700_0000, 0x701_0000]);
}

#[test]
fn a_kill_takes_its_time_until_a_register_is_loaded() {
    let patient = Policy { kill_ticks: 1_000_000, ..Policy::stale() };
    let machine = Machine::with(patient);
    machine.put_be(TABLE, 0x700_0003);
    assert!(machine.read(0).is_some());
    machine.put_be(TABLE, 0x800_0003);
    machine.store(KILL, KILL_ALL);
    assert_eq!(machine.read(0), Some(0x700_0000));
    // Any register does.
    machine.load(0x800);
    assert_eq!(machine.read(0), Some(0x800_0000));
}

#[test]
fn a_kill_is_done_some_time_even_if_nobody_asks() {
    let machine = stale();
    machine.store(KILL, KILL_ALL);
    machine.settle();
    assert_eq!(seen(&machine), [NEW; 4]);
}

#[test]
fn a_bridge_is_idle_while_no_kill_waits() {
    let machine = Machine::with(Policy { kill_ticks: 1_000_000, ..Policy::stale() });
    assert!(machine.phb.is_idle());
    machine.store(KILL, KILL_ALL);
    assert!(!machine.phb.is_idle());
    assert!(machine.phb.step(0), "there is work");
    machine.load(KILL);
    assert!(machine.phb.is_idle());
    assert!(!machine.phb.step(0));
}

#[test]
fn what_comes_too_often_to_wait_is_done() {
    let machine = Machine::with(Policy { kill_ticks: 1_000_000, ..Policy::stale() });
    machine.put_be(TABLE, 0x700_0003);
    assert!(machine.read(0).is_some());
    machine.put_be(TABLE, 0x800_0003);
    (0..33).for_each(|_| machine.store(KILL, KILL_ALL));
    assert_eq!(machine.read(0), Some(0x800_0000));
}

#[test]
fn an_entry_that_was_made_valid_may_need_a_kill() {
    let machine = Machine::new();
    machine.put_be(TABLE, 0x700_0003);
    assert!(machine.read(0).is_some());
    // Its neighbour came along in the same line, invalid.
    machine.put_be(TABLE + 8, 0x701_0003);
    assert_eq!(machine.read(0x1000), None);
    machine.unfreeze();
    machine.kill(KILL_ONE | 0x1001);
    assert_eq!(machine.read(0x1000), Some(0x701_0000));
}

#[test]
fn an_eager_bridge_keeps_nothing_invalid() {
    let machine = Machine::with(Policy::eager());
    assert_eq!(machine.read(0), None);
    machine.unfreeze();
    machine.put_be(TABLE, 0x700_0003);
    assert_eq!(machine.read(0), Some(0x700_0000));
}

#[test]
fn what_is_cached_of_neighbours_is_not_refreshed_by_a_line() {
    let machine = Machine::new();
    machine.put_be(TABLE, 0x700_0003);
    machine.put_be(TABLE + 8, 0x701_0003);
    assert_eq!(machine.read(0), Some(0x700_0000));
    machine.put_be(TABLE, 0x800_0003);
    machine.put_be(TABLE + 8, 0x801_0003);
    machine.kill(KILL_ONE | 0x1001);
    // Its line is fetched again, and of that only the entry that was killed is taken.
    assert_eq!(machine.read(0x1000), Some(0x801_0000));
    assert_eq!(machine.read(0), Some(0x700_0000));
}

#[test]
fn upper_levels_stay_until_a_kill_by_pe() {
    let machine = Machine::with(Policy::eager());
    machine.ioda(TVT | 2, &[0x0000_0000_0100_2101]);
    machine.kill(KILL_PE | 1);
    machine.put_be(TABLE, 0x12_0003);
    machine.put_be(0x12_0000, 0x700_0003);
    machine.put_be(0x13_0000, 0x800_0003);
    assert_eq!(machine.read(0), Some(0x700_0000));
    machine.put_be(TABLE, 0x13_0003);
    machine.kill(KILL_ONE | 1);
    assert_eq!(machine.read(0), Some(0x700_0000));
    machine.kill(KILL_PE | 1);
    assert_eq!(machine.read(0), Some(0x800_0000));
}

#[test]
fn a_window_used_before_its_pe_was_killed_is_noted() {
    let machine = Machine::new();
    machine.put_be(TABLE, 0x700_0003);
    machine.put_be(TABLE_2, 0x800_0003);
    assert!(machine.read(0).is_some());
    machine.ioda(TVT | 2, &[0x0000_0000_0110_0501]);
    assert_eq!(machine.read(0), Some(0x700_0000), "of the window that was");
    assert_eq!(machine.clauses(), [clause::STALE_WINDOW]);
    machine.kill(KILL_PE | 1);
    assert_eq!(machine.read(0), Some(0x800_0000));
    assert_eq!(machine.clauses(), [] as [&str; 0]);
}

#[test]
fn a_tce_of_a_window_with_other_pages_stays_as_well() {
    let machine = Machine::new();
    machine.put_be(TABLE, 0x700_0003);
    assert!(machine.read(0).is_some());
    // 64K pages at the same table.
    machine.ioda(TVT | 2, &[TVE | 4]);
    assert_eq!(machine.read(0x10), Some(0x700_0010));
    assert_eq!(machine.clauses(), [clause::STALE_WINDOW]);
}

#[test]
fn the_pe_of_a_requester_stays_until_the_rtc_is_invalidated() {
    let machine = Machine::new();
    machine.put_be(TABLE, 0x700_0003);
    machine.put_be(TABLE_2, 0x800_0003);
    let move_to = |pe: u8| machine.put(RTT + 0x200, &[0, pe]);
    assert_eq!(machine.read(0), Some(0x700_0000));
    move_to(2);
    assert_eq!(machine.read(0), Some(0x700_0000));
    // Another requester's entry.
    machine.store(0x208, 0x0000_0200_0000_0000);
    machine.load(0x208);
    assert_eq!(machine.read(0), Some(0x700_0000));
    machine.store(0x208, 0x0000_0100_0000_0000);
    machine.load(0x208);
    assert_eq!(machine.read(0), Some(0x800_0000));
    move_to(1);
    assert_eq!(machine.read(0), Some(0x800_0000));
    machine.store(0x208, 1 << 63);
    machine.load(0x208);
    assert_eq!(machine.read(0), Some(0x700_0000));
    assert_eq!(machine.phb.counters().rtc_invalidations, 3);
}

#[test]
fn there_is_room_for_so_many_entries() {
    let machine = Machine::with(Policy { entries: 40, ..Policy::stale() });
    for page in 0..1024 {
        machine.put_be(TABLE + 8 * page, 0x700_0003);
    }
    for page in 0..1024 {
        assert!(machine.read(page << 12).is_some());
        assert!(machine.phb.cached_entries() <= 40);
    }
}

#[test]
fn a_hostile_bridge_throws_entries_out() {
    let machine = Machine::with(Policy::hostile());
    machine.put_be(TABLE, 0x700_0003);
    (0..200).for_each(|_| assert!(machine.read(0).is_some()));
    let counters = machine.phb.counters();
    assert!(counters.misses > 1 && counters.hits > 1, "{counters:?}");
}
