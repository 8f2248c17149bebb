//! GET_IRQ_INFO and SET_IRQS, and interrupts that arrive.

use proptest::prelude::*;

use crate::support::{Event, Process, VECTORS, World, bytes, word, world};
use portcullis_vfio::Errno;
use std::sync::Arc;

const GET_IRQ_INFO: u32 = 0x3b6d;
const SET_IRQS: u32 = 0x3b6e;
const INTX: u32 = 0;
const MSI: u32 = 1;
const MSIX: u32 = 2;
const ERR: u32 = 3;
const REQ: u32 = 4;
const NONE: u32 = 1;
const BOOL: u32 = 2;
const EVENTFD: u32 = 4;
const MASK: u32 = 8;
const UNMASK: u32 = 16;
const TRIGGER: u32 = 32;

fn open() -> (World, Process, i32) {
    let world = world();
    let (process, _, device) = world.driver();
    process.pwrite(device, (7 << 40) + 4, &[6, 0]).unwrap();
    (world, process, device)
}

fn set(
    process: &Process,
    device: i32,
    flags: u32,
    index: u32,
    start: u32,
    count: u32,
    data: &[u8],
) -> Result<(), Errno> {
    let mut request = bytes(&[20 + data.len() as u32, flags, index, start, count]);
    request.extend(data);
    process.ioctl_with(device, SET_IRQS, &request).map(drop)
}

fn fds(fds: &[i32]) -> Vec<u8> {
    fds.iter().flat_map(|fd| fd.to_le_bytes()).collect()
}

fn events<const N: usize>(process: &Process) -> ([i32; N], [Arc<Event>; N]) {
    let made = [(); N].map(|()| process.event());
    (made.each_ref().map(|one| one.0), made.map(|one| one.1))
}

fn raise(world: &World, vector: usize) -> bool {
    world.controller.raise(&world.disk, vector, &world.hardware)
}

#[test]
pub(crate) fn kinds_of_interrupts_are_told_with_their_counts() {
    let (_world, process, device) = open();
    let info = |index| {
        process
            .ioctl_with(device, GET_IRQ_INFO, &bytes(&[16, 0, index, 0]))
            .map(|info| (word(&info, 4), word(&info, 12)))
    };
    assert_eq!(info(MSIX), Ok((1, VECTORS)));
    assert_eq!((info(INTX), info(MSI)), (Ok((7, 0)), Ok((9, 0))), "there are none yet");
    assert_eq!((info(ERR), info(REQ)), (Ok((9, 1)), Ok((9, 1))));
}

#[test]
pub(crate) fn kinds_that_there_are_not_and_answers_without_room_are_refused() {
    let (_world, process, device) = open();
    for words in [[16, 0, 5, 0], [16, 0, u32::MAX, 0], [15, 0, 2, 0], [0, 0, 0, 0]] {
        assert_eq!(process.ioctl_with(device, GET_IRQ_INFO, &bytes(&words)), Err(Errno::Einval));
    }
}

#[test]
pub(crate) fn an_interrupt_arrives_through_the_doorbells_window() {
    let (world, process, device) = open();
    let (numbers, files) = events::<2>(&process);
    set(&process, device, EVENTFD | TRIGGER, MSIX, 0, 2, &fds(&numbers)).unwrap();
    assert_eq!(world.disk.message(1), Some((0x800_0040, 101)));
    assert!(raise(&world, 1));
    assert_eq!((files[0].take(), files[1].take()), (0, 1));
    assert!(!raise(&world, 2), "nobody wants it, and it is masked");
    process.pwrite(device, (7 << 40) + 4, &[2, 0]).unwrap();
    assert!(!raise(&world, 1), "no requests, no messages");
}

#[test]
fn an_interrupt_can_be_raised_by_hand() {
    let (_world, process, device) = open();
    let (numbers, files) = events::<3>(&process);
    set(&process, device, EVENTFD | TRIGGER, MSIX, 4, 3, &fds(&numbers)).unwrap();
    set(&process, device, NONE | TRIGGER, MSIX, 4, 2, &[]).unwrap();
    assert_eq!(files.each_ref().map(|file| file.take()), [1, 1, 0]);
    set(&process, device, BOOL | TRIGGER, MSIX, 4, 3, &[0, 7, 1]).unwrap();
    assert_eq!(files.each_ref().map(|file| file.take()), [0, 1, 1]);
    set(&process, device, NONE | TRIGGER, MSIX, 0, 2, &[]).unwrap();
    assert_eq!(files.each_ref().map(|file| file.take()), [0; 3], "those have no files");
}

#[test]
fn a_vector_is_given_another_file_or_none() {
    let (world, process, device) = open();
    let (numbers, files) = events::<3>(&process);
    set(&process, device, EVENTFD | TRIGGER, MSIX, 0, 2, &fds(&numbers[..2])).unwrap();
    set(&process, device, EVENTFD | TRIGGER, MSIX, 0, 2, &fds(&[numbers[2], -1])).unwrap();
    assert!(raise(&world, 0) && !raise(&world, 1));
    assert_eq!(world.disk.message(1), None, "it is masked");
    assert_eq!(files.each_ref().map(|file| file.take()), [0, 0, 1]);
    assert_eq!(world.controller.connected(), [0]);
}

#[test]
fn interrupts_of_a_function_whose_slot_was_reset_are_told_to_it_again() {
    let (world, process, device) = open();
    let (numbers, files) = events::<3>(&process);
    set(&process, device, EVENTFD | TRIGGER, MSIX, 0, 2, &fds(&numbers[..2])).unwrap();
    world.disk.reset_by_its_slot();
    assert_eq!(world.disk.message(0), None, "a reset of its own VFIO knows of, one of its slot not");
    process.pwrite(device, (7 << 40) + 4, &[6, 0]).unwrap();
    set(&process, device, EVENTFD | TRIGGER, MSIX, 1, 1, &fds(&numbers[2..])).unwrap();
    assert!(raise(&world, 0) && raise(&world, 1) && !raise(&world, 2));
    assert_eq!(files.each_ref().map(|file| file.take()), [1, 0, 1]);
    // Or all out of use, and anew.
    world.disk.reset_by_its_slot();
    set(&process, device, NONE | TRIGGER, MSIX, 0, 0, &[]).unwrap();
    process.pwrite(device, (7 << 40) + 4, &[6, 0]).unwrap();
    set(&process, device, EVENTFD | TRIGGER, MSIX, 0, 1, &fds(&numbers[..1])).unwrap();
    assert!(raise(&world, 0) && !raise(&world, 1));
}

#[test]
fn a_count_of_0_takes_all_out_of_use() {
    let (world, process, device) = open();
    let (numbers, _) = events::<2>(&process);
    set(&process, device, EVENTFD | TRIGGER, MSIX, 0, 2, &fds(&numbers)).unwrap();
    set(&process, device, NONE | TRIGGER, MSIX, 0, 0, &[]).unwrap();
    assert_eq!((raise(&world, 0), world.disk.config(0x80) >> 31), (false, 0));
    assert_eq!(world.controller.connected(), []);
    assert_eq!(set(&process, device, NONE | TRIGGER, MSIX, 0, 0, &[]), Err(Errno::Einval), "none is in use");
}

#[test]
pub(crate) fn what_is_not_in_use_is_not_raised() {
    let (_world, process, device) = open();
    assert_eq!(set(&process, device, NONE | TRIGGER, MSIX, 0, 1, &[]), Err(Errno::Einval));
    assert_eq!(set(&process, device, BOOL | TRIGGER, MSIX, 0, 1, &[1]), Err(Errno::Einval));
}

#[test]
pub(crate) fn messages_are_not_masked_one_by_one() {
    let (_world, process, device) = open();
    for action in [MASK, UNMASK] {
        assert_eq!(set(&process, device, NONE | action, MSIX, 0, 1, &[]), Err(Errno::Enotty));
        assert_eq!(set(&process, device, BOOL | action, REQ, 0, 1, &[1]), Err(Errno::Enotty));
    }
    for flags in [NONE, NONE | MASK | TRIGGER, NONE | MASK | UNMASK | TRIGGER] {
        assert_eq!(set(&process, device, flags, MSIX, 0, 1, &[]), Err(Errno::Enotty), "one action");
    }
}

#[test]
pub(crate) fn interrupts_that_there_are_not_are_refused() {
    let (world, process, device) = open();
    for (index, start, count) in [
        (MSIX, VECTORS, 0),
        (MSIX, VECTORS, 1),
        (MSIX, 0, VECTORS + 1),
        (MSIX, 16, 2),
        (MSIX, u32::MAX, 1),
        (MSIX, 1, u32::MAX),
        (MSIX, 0, u32::MAX),
        (INTX, 0, 1),
        (INTX, 0, 0),
        (MSI, 0, 1),
        (ERR, 0, 2),
        (REQ, 1, 0),
        (5, 0, 1),
        (u32::MAX, 0, 1),
    ] {
        let data = fds(&vec![-1; count.min(32) as usize]);
        assert_eq!(
            set(&process, device, EVENTFD | TRIGGER, index, start, count, &data),
            Err(Errno::Einval),
            "{index} {start} {count}"
        );
    }
    assert_eq!(world.disk.config(0x80) >> 31, 0);
}

#[test]
pub(crate) fn data_of_two_kinds_or_none_or_too_little_or_unknown_flags_are_refused() {
    let (_world, process, device) = open();
    for flags in [
        TRIGGER,
        NONE | BOOL | TRIGGER,
        BOOL | EVENTFD | TRIGGER,
        7 | TRIGGER,
        NONE | TRIGGER | 64,
        NONE | TRIGGER | 1 << 31,
    ] {
        assert_eq!(set(&process, device, flags, MSIX, 0, 1, &[0; 8]), Err(Errno::Einval), "{flags:#x}");
    }
    assert_eq!(set(&process, device, EVENTFD | TRIGGER, MSIX, 0, 2, &[0xff; 7]), Err(Errno::Einval));
    assert_eq!(set(&process, device, BOOL | TRIGGER, MSIX, 0, 2, &[0]), Err(Errno::Einval));
    assert_eq!(
        process.ioctl_with(device, SET_IRQS, &bytes(&[19, NONE | TRIGGER, MSIX, 0, 1])),
        Err(Errno::Einval)
    );
}

#[test]
pub(crate) fn data_that_is_nowhere_is_a_fault() {
    let (_world, process, device) = open();
    let at = crate::support::SCRATCH + 0x1000 - 20;
    let request = bytes(&[24, EVENTFD | TRIGGER, MSIX, 0, 1]);
    portcullis_vfio::UserMemory::copy_out(&*process.memory, at, &request).unwrap();
    assert_eq!(process.ioctl(device, SET_IRQS, at), Err(Errno::Efault));
}

#[test]
pub(crate) fn a_number_that_is_no_file_changes_nothing() {
    let (world, process, device) = open();
    let (numbers, files) = events::<2>(&process);
    set(&process, device, EVENTFD | TRIGGER, MSIX, 0, 1, &fds(&numbers[..1])).unwrap();
    assert_eq!(
        set(&process, device, EVENTFD | TRIGGER, MSIX, 0, 2, &fds(&[numbers[1], 63])),
        Err(Errno::Ebadf)
    );
    assert!(raise(&world, 0));
    assert_eq!((files[0].take(), files[1].take()), (1, 0));
}

#[test]
pub(crate) fn a_file_that_is_no_event_file_changes_nothing() {
    let (world, process, device) = open();
    let (numbers, files) = events::<2>(&process);
    set(&process, device, EVENTFD | TRIGGER, MSIX, 0, 1, &fds(&numbers[..1])).unwrap();
    for wrong in [process.other_file(), device] {
        assert_eq!(
            set(&process, device, EVENTFD | TRIGGER, MSIX, 0, 2, &fds(&[numbers[1], wrong])),
            Err(Errno::Einval)
        );
    }
    assert!(raise(&world, 0));
    assert_eq!((files[0].take(), files[1].take()), (1, 0));
}

#[test]
pub(crate) fn an_interrupt_that_the_machine_does_not_have_changes_nothing() {
    let (world, process, device) = open();
    let (numbers, files) = events::<4>(&process);
    world.controller.refused.lock().unwrap().push(3);
    let refused = || set(&process, device, EVENTFD | TRIGGER, MSIX, 1, 3, &fds(&numbers[1..]));
    assert_eq!(refused(), Err(Errno::Enospc));
    assert_eq!((world.controller.connected(), world.disk.config(0x80) >> 31), (vec![], 0));
    set(&process, device, EVENTFD | TRIGGER, MSIX, 1, 1, &fds(&numbers[..1])).unwrap();
    assert_eq!(refused(), Err(Errno::Enospc));
    assert!(raise(&world, 1) && !raise(&world, 2));
    assert_eq!(files.each_ref().map(|file| file.take()), [1, 0, 0, 0]);
    assert_eq!(world.controller.connected(), [1]);
}

#[test]
fn interrupts_come_again_after_a_reset() {
    let (world, process, device) = open();
    let (numbers, files) = events::<1>(&process);
    set(&process, device, EVENTFD | TRIGGER, MSIX, 5, 1, &fds(&numbers)).unwrap();
    process.ioctl(device, 0x3b6f, 0).unwrap();
    assert!(raise(&world, 5) && !raise(&world, 0));
    assert_eq!(files[0].take(), 1);
}

#[test]
fn what_a_former_driver_left_in_the_table_interrupts_nobody() {
    let mut world = crate::support::bare(
        crate::support::range(0, (1 << 48) - 1),
        portcullis_types::PageSizes::from_bits(0x1000),
    );
    // Without a reset, which would clear it.
    world.disk = crate::support::Disk::new(false);
    world.add(7, 1, |_| ()).unwrap();
    let table = crate::support::TABLE + 3 * 16;
    for (offset, word) in [(0, 0x1234_5678), (4, 0), (8, 103), (12, 0)] {
        portcullis_hal::Registers::write32(&*world.disk, table + offset, word);
    }
    let (process, _, device) = world.driver();
    process.pwrite(device, (7 << 40) + 4, &[6, 0]).unwrap();
    let (numbers, _) = events::<1>(&process);
    set(&process, device, EVENTFD | TRIGGER, MSIX, 0, 1, &fds(&numbers)).unwrap();
    assert!(world.disk.message(0).is_some());
    assert_eq!(world.disk.message(3), None);
}

#[test]
fn a_device_that_is_closed_interrupts_nobody() {
    let (world, process, device) = open();
    let (numbers, _) = events::<1>(&process);
    set(&process, device, EVENTFD | TRIGGER, MSIX, 0, 1, &fds(&numbers)).unwrap();
    process.close(device);
    assert_eq!((world.disk.message(0), world.controller.connected()), (None, vec![]));
}

#[test]
fn the_wish_to_have_the_device_back_is_told_if_one_wants_to_know() {
    let (_world, process, device) = open();
    let (numbers, files) = events::<1>(&process);
    for index in [ERR, REQ] {
        set(&process, device, NONE | TRIGGER, index, 0, 1, &[]).unwrap();
        set(&process, device, EVENTFD | TRIGGER, index, 0, 1, &fds(&numbers)).unwrap();
        set(&process, device, NONE | TRIGGER, index, 0, 1, &[]).unwrap();
        set(&process, device, BOOL | TRIGGER, index, 0, 1, &[1]).unwrap();
        set(&process, device, BOOL | TRIGGER, index, 0, 1, &[0]).unwrap();
        assert_eq!(files[0].take(), 2);
        set(&process, device, NONE | TRIGGER, index, 0, 0, &[]).unwrap();
        set(&process, device, NONE | TRIGGER, index, 0, 1, &[]).unwrap();
        assert_eq!(files[0].take(), 0);
    }
}

#[test]
fn a_vector_that_keeps_its_file_arrives_also_where_each_connection_has_a_message_of_its_own() {
    let (world, process, device) = open();
    *world.controller.moving.lock().unwrap() = Some(300);
    let (numbers, files) = events::<4>(&process);
    let give = |start, numbers: &[i32]| {
        let count = numbers.len() as u32;
        set(&process, device, EVENTFD | TRIGGER, MSIX, start, count, &fds(numbers))
    };
    give(1, &numbers[..2]).unwrap();
    world.controller.refused.lock().unwrap().push(3);
    assert_eq!(give(2, &numbers[2..]), Err(Errno::Enospc));
    assert!(raise(&world, 1) && raise(&world, 2) && !raise(&world, 3));
    assert_eq!(files.each_ref().map(|file| file.take()), [1, 1, 0, 0]);
    process.ioctl(device, 0x3b6f, 0).unwrap();
    assert!(raise(&world, 2), "after a reset, too");
    assert_eq!(files[1].take(), 1);
}

proptest! {
    #[test]
    fn whatever_is_given_taken_refused_and_reset_an_interrupt_goes_to_the_file_that_its_vector_has(
        moving in any::<bool>(),
        steps in prop::collection::vec((0..10u32, 0..6u32, 0..4usize, prop::collection::vec(0..5usize, 4)), 1..30),
    ) {
        let (world, process, device) = open();
        if moving {
            *world.controller.moving.lock().unwrap() = Some(300);
        }
        let (numbers, files) = events::<4>(&process);
        // Which file each of the first ten vectors has.
        let mut has = [None; 10];
        for (kind, start, count, which) in steps {
            let first = start as usize;
            match kind {
                0..=4 => {
                    let given: Vec<i32> =
                        which[..count].iter().map(|&file| numbers.get(file).copied().unwrap_or(-1)).collect();
                    if set(&process, device, EVENTFD | TRIGGER, MSIX, start, count as u32, &fds(&given)).is_ok() {
                        (0..count).for_each(|at| has[first + at] = Some(which[at]).filter(|&file| file < 4));
                    }
                }
                5 => {
                    let _ = set(&process, device, NONE | TRIGGER, MSIX, 0, 0, &[]);
                    has = [None; 10];
                }
                6 => process.ioctl(device, 0x3b6f, 0).map(drop).unwrap(),
                7 => process.pwrite(device, (7 << 40) + 0x49, &[0x80]).map(drop).unwrap(),
                8 => *world.controller.refused.lock().unwrap() = vec![start as u16, 2 + start as u16],
                _ => world.controller.refused.lock().unwrap().clear(),
            }
            for (vector, has) in has.iter().enumerate() {
                prop_assert_eq!(raise(&world, vector), has.is_some(), "{}", vector);
                let told = files.each_ref().map(|file| file.take());
                let wanted = core::array::from_fn(|at| u64::from(*has == Some(at)));
                prop_assert_eq!(told, wanted, "{}", vector);
            }
        }
    }
}

#[test]
fn a_vector_that_is_refused_another_file_keeps_its_own() {
    let (world, process, device) = open();
    let (numbers, files) = events::<2>(&process);
    set(&process, device, EVENTFD | TRIGGER, MSIX, 3, 1, &fds(&numbers[..1])).unwrap();
    world.controller.refused.lock().unwrap().push(3);
    let refused = set(&process, device, EVENTFD | TRIGGER, MSIX, 3, 1, &fds(&numbers[1..]));
    assert_eq!(refused, Err(Errno::Enospc));
    assert!(raise(&world, 3));
    assert_eq!((files[0].take(), files[1].take()), (1, 0));
}
