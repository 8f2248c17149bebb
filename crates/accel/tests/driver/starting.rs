//! Start, reset, shut down, and devices that are none or do not obey.

use crate::fake::{Bus, CAP, LIMIT_NS, Machine, Mischief, Op, Process, RING, STOP_MARKER};
use portcullis_accel::{AccelError, Accelerator, Form, HowClosed, OpenError};

fn start(machine: &std::sync::Arc<Machine>, form: Form) -> Result<(), AccelError> {
    Accelerator::start(machine.clone(), Bus(machine.clone()), form).map(drop)
}

#[test]
fn an_accelerator_is_taken_down_before_it_is_started() {
    let machine = Machine::new(CAP, Mischief::default());
    let accelerator = machine.start();
    assert_eq!(machine.take_log(), [Op::Write(0x10, 0), Op::Write(0x10, 1)]);
    assert!(machine.enabled());
    let capabilities = accelerator.capabilities();
    assert_eq!((capabilities.queue_count, capabilities.max_size_lg2, capabilities.pasid_bits), (2, 4, 16));
    assert!(!capabilities.stop_marker);
    // What somebody before us left running is off.
    machine.set_state(1, 1);
    let again = machine.start();
    assert_eq!((machine.queue(1).3, again.form()), (0, Form::Pcie));
}

#[test]
fn both_forms_start_and_only_one_has_stop_markers() {
    assert_eq!(start(&Machine::new(CAP, Mischief::default()), Form::Platform), Ok(()));
    let cap = CAP | STOP_MARKER;
    let machine = Machine::new(cap, Mischief::default());
    assert_eq!(start(&machine, Form::Pcie), Ok(()));
    assert_eq!(start(&machine, Form::Platform), Err(AccelError::Capabilities { cap }));
}

#[test]
fn what_is_no_accelerator_is_left_alone() {
    for (id, error) in
        [(0x315a_4351, AccelError::NotAnAccelerator { id: 0x315a_4351 }), (u32::MAX, AccelError::Gone)]
    {
        let machine = Machine::new(CAP, Mischief::default()).with_id(id);
        assert_eq!(start(&machine, Form::Pcie), Err(error));
        assert_eq!(machine.take_log(), []);
    }
    let machine = Machine::new(0x0010_0411, Mischief::default());
    assert_eq!(start(&machine, Form::Pcie), Err(AccelError::Capabilities { cap: 0x0010_0411 }));
    assert_eq!(machine.take_log(), []);
}

#[test]
fn a_device_that_is_never_ready_is_waited_for_a_second_and_left_off() {
    let machine = Machine::exactly(CAP, Mischief::default());
    let error = start(&machine, Form::Pcie).unwrap_err();
    let AccelError::NotReady { ctrl: 1, read: 1, status: 0, waited_ns } = error else { panic!("{error}") };
    assert!((1_000_000_000..1_001_000_000).contains(&waited_ns), "{waited_ns}");
    assert!(!machine.enabled());
}

#[test]
fn a_device_that_stays_disabled_is_not_taken_for_ready() {
    let machine = Machine::new(CAP, Mischief { stays_disabled: true, ..Mischief::default() });
    let error = start(&machine, Form::Pcie).unwrap_err();
    assert!(matches!(error, AccelError::NotReady { ctrl: 1, read: 0, status: 1, .. }), "{error}");
}

#[test]
fn a_device_that_goes_away_is_not_waited_for() {
    let machine = Machine::new(CAP, Mischief::default());
    let accelerator = machine.start();
    machine.mischief(|mischief| mischief.gone = true);
    let before = machine.now_ns();
    assert_eq!(accelerator.reset(), Err(AccelError::Gone));
    assert_eq!(machine.now_ns(), before);
}

#[test]
fn an_accelerator_with_open_queues_is_not_shut_down() {
    let machine = Machine::new(CAP, Mischief::default());
    let accelerator = machine.start();
    let queue = accelerator.open_queue(Process(7), RING, 3).unwrap();
    let other = accelerator.open_queue(Process(8), RING, 3).unwrap();
    drop(queue.close(LIMIT_NS).unwrap());
    assert_eq!(accelerator.shut_down(), Err(AccelError::QueuesOpen { queues: 0b10 }));
    assert!(machine.enabled());
    drop(other.close(LIMIT_NS).unwrap());
    assert_eq!(accelerator.shut_down(), Ok(()));
    assert!(!machine.enabled());
    let refused = accelerator.open_queue(Process(7), RING, 3).unwrap_err();
    assert_eq!((refused.error, refused.space.ok()), (OpenError::NotStarted, Some(Process(7))));
}

#[test]
fn a_reset_turns_queues_off_and_their_owners_close_them() {
    let machine = Machine::new(CAP, Mischief::default());
    let accelerator = machine.start();
    let queue = accelerator.open_queue(Process(7), RING, 3).unwrap();
    accelerator.reset().unwrap();
    assert!(machine.enabled());
    let other = accelerator.open_queue(Process(8), RING, 3).unwrap();
    assert_eq!((queue.index(), other.index()), (0, 1), "a queue stays its owner's until that closes it");
    let closed = queue.close(0).unwrap();
    assert_eq!((closed.space, closed.how), (Process(7), HowClosed::Off));
    assert_eq!(other.close(LIMIT_NS).unwrap().how, HowClosed::Stopped);
}
