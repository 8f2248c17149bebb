//! The event queue, global errors, messages.

use model_smmuv3::{Config, Policy, clause};

use crate::harness::{DOORBELL, EVENTS, Got, Machine, plain};

/// Makes an event: C_BAD_STE of the stream.
fn provoke(machine: &Machine, stream: u32) {
    assert_eq!(machine.read(stream, 0), Got::Abort);
}

#[test]
fn events_fill_the_queue_in_order_and_it_wraps() {
    let machine = Machine::new(plain());
    for round in 0..5u64 {
        (1..=5).for_each(|stream| provoke(&machine, stream));
        let streams: Vec<u64> = machine.events().iter().map(|event| event[0] >> 32).collect();
        assert_eq!(streams, [1, 2, 3, 4, 5], "round {round}");
    }
    assert_eq!(machine.r32(0x1_00a8), 25 & 0xf);
    machine.assert_clean();
}

#[test]
fn an_overflow_is_flagged_once_and_loses_what_comes() {
    let machine = Machine::new(plain());
    (1..=8).for_each(|stream| provoke(&machine, stream));
    assert_eq!(machine.r32(0x1_00a8), 8, "full, not overflown");
    provoke(&machine, 9);
    provoke(&machine, 10);
    assert_eq!(machine.r32(0x1_00a8), 0x8000_0008, "OVFLG toggled once");
    // One place free: the queue goes on, though the overflow is not acknowledged.
    machine.w32(0x1_00ac, 1);
    provoke(&machine, 11);
    assert_eq!(machine.r32(0x1_00a8), 0x8000_0009);
    provoke(&machine, 12);
    assert_eq!(machine.r32(0x1_00a8), 0x8000_0009, "still the same overflow");
    // Acknowledged: the next overflow toggles back.
    machine.w32(0x1_00ac, 0x8000_0001);
    provoke(&machine, 13);
    assert_eq!(machine.r32(0x1_00a8), 0x0000_0009);
    assert_eq!(machine.smmu.counters().events_lost, 4);
    machine.assert_clean();
}

#[test]
fn a_queue_that_is_off_loses_events_without_overflow() {
    let machine = Machine::new(plain());
    machine.w32(0x20, 0b1001);
    machine.settle();
    (0..20).for_each(|_| provoke(&machine, 1));
    assert_eq!(machine.r32(0x1_00a8), 0);
    assert_eq!(machine.smmu.counters().events_lost, 20);
}

#[test]
fn a_queue_that_cannot_be_written_is_a_global_error_and_stops() {
    let machine = Machine::new(plain());
    machine.hole(EVENTS..=EVENTS + 31);
    provoke(&machine, 1);
    assert_eq!(machine.r32(0x60), 1 << 2, "EVENTQ_ABT_ERR");
    assert_eq!(machine.r32(0x1_00a8), 0, "PROD stays");
    machine.fill_holes();
    provoke(&machine, 2);
    assert_eq!(machine.r32(0x1_00a8), 0, "nothing is delivered while the error is active");
    machine.w32(0x64, 1 << 2);
    provoke(&machine, 3);
    assert_eq!(machine.event()[0] >> 32, 3);
}

fn with_messages() -> Machine {
    let machine = Machine::new(plain());
    machine.w64(0xb0, DOORBELL + 0x10);
    machine.w32(0xb8, 0x88);
    machine.w32(0xbc, 0x3f);
    machine.w64(0x68, DOORBELL);
    machine.w32(0x70, 0x77);
    machine.w32(0x50, 0b101);
    machine.settle();
    machine
}

#[test]
fn a_message_tells_when_the_queue_is_no_longer_empty() {
    let machine = with_messages();
    provoke(&machine, 1);
    provoke(&machine, 2);
    assert_eq!(*machine.ram.messages.lock().unwrap(), [(DOORBELL + 0x10, 0x88)], "one, not two");
    assert_eq!(machine.events().len(), 2);
    provoke(&machine, 3);
    assert_eq!(machine.ram.messages.lock().unwrap().len(), 2);
    machine.w32(0x50, 0);
    machine.settle();
    machine.events();
    provoke(&machine, 4);
    assert_eq!(machine.ram.messages.lock().unwrap().len(), 2, "not while disabled");
    machine.assert_clean();
}

#[test]
fn a_message_that_cannot_be_written_is_a_global_error() {
    let machine = with_messages();
    machine.hole(DOORBELL + 0x10..=DOORBELL + 0x13);
    provoke(&machine, 1);
    assert_eq!(machine.r32(0x60), 1 << 5, "MSI_EVENTQ_ABT_ERR");
    assert_eq!(*machine.ram.messages.lock().unwrap(), [(DOORBELL, 0x77)], "and told by a message of its own");
    // One about GERROR itself that fails tells no further.
    let machine = with_messages();
    machine.hole(DOORBELL..=DOORBELL + 3);
    machine.command(0, 0);
    assert_eq!(machine.r32(0x60), 1 | 1 << 7, "MSI_GERROR_ABT_ERR");
}

#[test]
fn consuming_backwards_or_too_much_is_noted() {
    let machine = Machine::new(plain());
    (1..=3).for_each(|stream| provoke(&machine, stream));
    machine.w32(0x1_00ac, 2);
    machine.assert_clean();
    machine.w32(0x1_00ac, 1);
    assert_eq!(machine.clauses(), [clause::QUEUE_INDEXES], "backwards");
    machine.w32(0x1_00ac, 4);
    assert_eq!(machine.clauses(), [clause::QUEUE_INDEXES], "past PROD");
}

#[test]
fn late_events_keep_their_order_and_a_sync_pushes_them_out() {
    let config = Config { policy: Policy { event_ticks: 1000, ..Policy::eager() }, ..plain() };
    let machine = Machine::new(config);
    let mut late = false;
    for _ in 0..20 {
        (1..=5).for_each(|stream| provoke(&machine, stream));
        late |= machine.smmu_prod() & 7 != 0;
        // Not even a tick, but the command that demands it.
        let prod = machine.r32(0x98);
        machine.put(prod.into(), 0x46, 0);
        machine.w32(0x98, (prod + 1) & 0x1f);
        while machine.r32(0x9c) != machine.r32(0x98) {
            machine.smmu_step();
        }
        let streams: Vec<u64> = machine.events().iter().map(|event| event[0] >> 32).collect();
        assert_eq!(streams, [1, 2, 3, 4, 5]);
    }
    assert!(late);
    machine.assert_clean();
}

#[test]
fn late_events_are_lost_when_the_queue_is_switched_off() {
    let config = Config {
        policy: Policy { event_ticks: 1_000_000, work_on_reads: false, ..Policy::eager() },
        ..plain()
    };
    let machine = Machine::new(config);
    provoke(&machine, 1);
    machine.w32(0x20, 0b1001);
    machine.w32(0x20, 0b1101);
    machine.put(3, 0x46, 0);
    machine.w32(0x98, 4);
    machine.smmu_step();
    assert_eq!(machine.smmu_prod(), 0);
    assert_eq!(machine.smmu.counters().events_lost, 1);
}
