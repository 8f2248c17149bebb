//! PEs that freeze.

use crate::support::{Call, power, structure};
use portcullis_vfio::Errno;

const EEH_PE_OP: u32 = 0x3b79;
const UNSET_CONTAINER: u32 = 0x3b69;

#[test]
pub(crate) fn a_frozen_pe_is_recovered_step_by_step() {
    let (world, [first, _]) = power();
    let (process, container, _) = world.tce_user(7);
    let op = |operation| process.eeh(container, operation);
    assert_eq!(op(4), Ok(0), "normal");
    first.freeze_now();
    assert_eq!(op(4), Ok(2), "neither DMA nor MMIO");
    assert_eq!(op(2), Ok(0));
    assert_eq!(op(4), Ok(4), "no DMA");
    assert_eq!(op(3), Ok(0));
    assert_eq!(op(4), Ok(0));
    assert_eq!([6, 5, 7, 5, 8].map(op), [Ok(0); 5]);
    let wanted = [
        "unfreeze Io",
        "unfreeze Dma",
        "reset Hot",
        "reset Deactivate",
        "reset Fundamental",
        "reset Deactivate",
        "configure",
    ];
    assert_eq!(first.done(), wanted);
}

#[test]
fn disabling_does_nothing_and_enabling_wakes_who_is_frozen() {
    let (world, [first, _]) = power();
    let (process, container, _) = world.tce_user(2);
    assert_eq!((process.eeh(container, 0), process.eeh(container, 1)), (Ok(0), Ok(0)));
    assert_eq!(first.done(), [""; 0]);
    first.freeze_now();
    assert_eq!(process.eeh(container, 1), Ok(0));
    assert_eq!(process.eeh(container, 4), Ok(0));
}

#[test]
fn an_operation_is_for_every_group_and_the_state_is_the_first_that_is_not_normal() {
    let (world, [first, second]) = power();
    let (process, container, _) = world.tce_user(7);
    process.join_to(container, 8).unwrap();
    second.freeze_now();
    assert_eq!(process.eeh(container, 4), Ok(2));
    assert_eq!(process.eeh(container, 2), Ok(0));
    assert_eq!(process.eeh(container, 4), Ok(4));
    assert_eq!((first.done(), second.done()), (vec!["unfreeze Io".into()], vec!["unfreeze Io".into()]));
}

#[test]
fn a_group_that_its_user_leaves_stopped_goes_back_alive() {
    let (world, [first, second]) = power();
    let (process, container, group) = world.tce_user(7);
    process.join_to(container, 8).unwrap();
    first.freeze_now();
    process.ioctl(group, UNSET_CONTAINER, 0).unwrap();
    assert_eq!(first.done(), ["reset Deactivate", "unfreeze Io", "unfreeze Dma"]);
    assert_eq!(second.done(), [""; 0], "it stays");
    assert_eq!(process.eeh(container, 4), Ok(0));
}

fn inject(argsz: u32, flags: u32, kind: u32, func: u32) -> Vec<u8> {
    structure(&[argsz, flags, 9, 0, kind, func], &[0x0800_0000_0000_1000, !0xfff])
}

#[test]
fn errors_are_injected_with_what_was_said_of_them() {
    let (world, [first, _]) = power();
    let (process, container, _) = world.tce_user(7);
    process.ioctl_with(container, EEH_PE_OP, &inject(40, 0, 1, 18)).unwrap();
    process.ioctl_with(container, EEH_PE_OP, &inject(64, 0, 0, 0)).unwrap();
    let wanted = [
        "inject true 18 0x800000000001000 0xfffffffffffff000",
        "inject false 0 0x800000000001000 0xfffffffffffff000",
    ];
    assert_eq!(first.done(), wanted);
}

#[test]
fn an_error_that_a_user_has_made_does_not_wait_for_who_has_the_group_next() {
    let (world, [first, second]) = power();
    let (process, container, group) = world.tce_user(7);
    process.join_to(container, 8).unwrap();
    process.ioctl_with(container, EEH_PE_OP, &inject(40, 0, 1, 18)).unwrap();
    process.ioctl(group, UNSET_CONTAINER, 0).unwrap();
    drop(process);
    for pe in [first, second] {
        assert_eq!(pe.done()[1..], ["reset Deactivate", "unfreeze Io", "unfreeze Dma"]);
    }
}

#[test]
pub(crate) fn operations_that_there_are_not_are_refused() {
    let (world, [first, _]) = power();
    let (process, container, _) = world.tce_user(7);
    assert_eq!([10, 11, u32::MAX].map(|op| process.eeh(container, op)), [Err(Errno::Einval); 3]);
    for (argsz, flags, op) in [(11, 0, 4), (0, 0, 4), (12, 1, 4), (12, 0, 9), (39, 0, 9)] {
        let done = process.ioctl_with(container, EEH_PE_OP, &structure(&[argsz, flags, op, 0], &[0; 3]));
        assert_eq!(done, Err(Errno::Einval), "{argsz} {flags} {op}");
    }
    for (kind, func) in [(2, 0), (u32::MAX, 0), (0, 20), (1, u32::MAX)] {
        assert_eq!(process.ioctl_with(container, EEH_PE_OP, &inject(40, 0, kind, func)), Err(Errno::Einval));
    }
    assert_eq!(first.done(), [""; 0]);
}

#[test]
pub(crate) fn what_hardware_does_not_confirm_is_an_error() {
    let (world, [first, _]) = power();
    let (process, container, _) = world.tce_user(7);
    first.freeze_now();
    world.hardware.fail(Call::Eeh, 0, 1);
    assert_eq!(process.eeh(container, 2), Err(Errno::Eio));
    assert_eq!(process.eeh(container, 4), Ok(2));
}

#[test]
pub(crate) fn a_group_that_does_not_freeze_has_no_such_operations() {
    use crate::support::{FakeTableGroup, Offer};
    let (mut world, _) = power();
    let calm = FakeTableGroup::new(&world.hardware, 0, 3, Offer::OnDemand, false);
    world.add_windows(9, 3, &calm);
    let process = world.process();
    let (container, _) = process.join(9).unwrap();
    process.ioctl(container, 0x3b66, 7).unwrap();
    for op in 0..9 {
        assert_eq!(process.eeh(container, op), Err(Errno::Enodev));
    }
}

#[test]
fn a_group_that_its_user_leaves_stopped_and_that_is_given_back_late_goes_back_alive() {
    let (world, [first, _]) = power();
    let (process, _, group) = world.tce_user(7);
    first.freeze_now();
    world.hardware.fail(Call::Release, 0, 1);
    process.ioctl(group, UNSET_CONTAINER, 0).unwrap();
    assert!(first.is_taken());
    assert_eq!(
        first.done(),
        ["reset Deactivate", "unfreeze Io", "unfreeze Dma"],
        "before anybody else has it"
    );
    first.freeze_now();
    world.vfio.reclaim();
    assert!(!first.is_taken());
    assert_eq!(
        first.done(),
        ["reset Deactivate", "unfreeze Io", "unfreeze Dma"],
        "and whatever has come since"
    );
}

#[test]
fn a_group_that_its_user_never_got_is_left_as_it_is() {
    let (world, [first, second]) = power();
    let (process, container, _) = world.tce_user(7);
    process.create(container, 16, 1 << 30, 1).unwrap();
    second.freeze_now();
    world.hardware.fail(Call::SetWindow, 0, 1);
    assert_eq!(process.join_to(container, 8).err(), Some(Errno::Eio));
    assert!(!second.is_taken());
    assert_eq!((first.done(), second.done()), (vec![], vec![]));
}
