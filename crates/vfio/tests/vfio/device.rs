//! Devices: what they are, regions, configuration space, reset.

use crate::support::{
    BAR_BYTES, BAR_PA, Disk, NOWHERE, PAGE, Process, TABLE, World, bytes, double, word, world,
};
use std::sync::{Arc, Mutex};

use portcullis_core::bus::Place;
use portcullis_pci::{Bridge, Capabilities, Function, IoWidth, Kind, PrefetchableWidth};
use portcullis_types::{Pa, PaRange};
use portcullis_vfio::pci::Mappings;
use portcullis_vfio::{Errno, VfioDevice};

const GET_INFO: u32 = 0x3b6b;
const GET_REGION_INFO: u32 = 0x3b6c;
const RESET: u32 = 0x3b6f;
const CONFIG: u64 = 7 << 40;

fn open() -> (World, Process, i32) {
    let world = world();
    let (process, _, device) = world.driver();
    (world, process, device)
}

/// The same with a function that cannot be reset.
fn open_without_reset() -> (World, Process, i32) {
    let mut world = crate::support::bare(
        crate::support::range(0, (1 << 48) - 1),
        portcullis_types::PageSizes::from_bits(0x1000),
    );
    world.disk = Disk::new(false);
    world.add(7, 1, |_| ()).unwrap();
    let (process, _, device) = world.driver();
    (world, process, device)
}

fn config(process: &Process, device: i32, offset: u64) -> u32 {
    word(&process.pread(device, CONFIG + offset, 4).unwrap(), 0)
}

fn region(process: &Process, device: i32, index: u32, room: u32) -> Result<Vec<u8>, Errno> {
    let mut request = bytes(&[room, 0xaaaa_aaaa, index, 0xbbbb_bbbb, 0, 0, 0, 0]);
    request.resize(128, 0xcc);
    process.ioctl_with(device, GET_REGION_INFO, &request)
}

#[test]
pub(crate) fn a_device_says_what_it_is() {
    let (_world, process, device) = open();
    let info = process.ioctl_with(device, GET_INFO, &bytes(&[24, 0, 0, 0, 9, 9])).unwrap();
    assert_eq!(info, bytes(&[24, 3, 9, 5, 0, 0]), "PCI, with reset; 9 regions, 5 kinds of interrupts");
    let info = process.ioctl_with(device, GET_INFO, &bytes(&[16, 0, 0, 0, 9, 9])).unwrap();
    assert_eq!(info, bytes(&[16, 3, 9, 5, 9, 9]), "no more than there is room for");
    let (_world, process, device) = open_without_reset();
    let info = process.ioctl_with(device, GET_INFO, &bytes(&[16, 0, 0, 0])).unwrap();
    assert_eq!(word(&info, 4), 2);
}

#[test]
pub(crate) fn a_device_without_room_to_say_so_is_refused() {
    let (_world, process, device) = open();
    assert_eq!(process.ioctl_with(device, GET_INFO, &bytes(&[15, 0, 0, 0])), Err(Errno::Einval));
}

#[test]
pub(crate) fn a_device_that_is_to_say_it_nowhere_is_a_fault() {
    let (_world, process, device) = open();
    for request in [GET_INFO, GET_REGION_INFO, 0x3b6d, 0x3b6e] {
        assert_eq!(process.ioctl(device, request, NOWHERE), Err(Errno::Efault));
    }
}

#[test]
pub(crate) fn registers_can_be_mapped_but_for_the_pages_of_the_interrupts_table() {
    let (_world, process, device) = open();
    let info = region(&process, device, 0, 80).unwrap();
    let fixed = [80, 0xf, 0, 32, BAR_BYTES as u32, 0, 0, 0];
    // Sparse mapping, version 1, the last; two areas: the first two pages, the fourth.
    let chain = [0x1_0001, 0, 2, 0, 0, 0, 0x2000, 0, 0x3000, 0, 0x1000, 0];
    assert_eq!(info[..80], bytes(&[&fixed[..], &chain].concat()));
    assert!(info[80..].iter().all(|&byte| byte == 0xcc));
}

#[test]
fn a_region_without_room_for_its_chain_says_how_much_is_needed() {
    let (_world, process, device) = open();
    for room in [32, 79] {
        let info = region(&process, device, 0, room).unwrap();
        assert_eq!(info[..32], bytes(&[80, 0xf, 0, 0, BAR_BYTES as u32, 0, 0, 0]));
        assert!(info[32..].iter().all(|&byte| byte == 0xcc));
    }
}

#[test]
fn other_regions_are_configuration_space_and_what_there_is_not() {
    let (_world, process, device) = open();
    let info = region(&process, device, 7, 32).unwrap();
    assert_eq!(info[..32], bytes(&[32, 3, 7, 0, 0x1000, 0, 0, 7 << 8]));
    for index in [1, 2, 5, 6] {
        let info = region(&process, device, index, 32).unwrap();
        assert_eq!(info[..32], bytes(&[32, 0, index, 0, 0, 0, 0, index << 8]), "{index}");
    }
}

#[test]
pub(crate) fn a_region_without_room_or_with_another_index_is_refused() {
    let (_world, process, device) = open();
    assert_eq!(region(&process, device, 0, 31), Err(Errno::Einval));
    for index in [8, 9, 255, u32::MAX] {
        assert_eq!(region(&process, device, index, 128), Err(Errno::Einval));
    }
}

#[test]
fn registers_are_read_and_written_by_words() {
    let (world, process, device) = open();
    assert_eq!(process.pwrite(device, 0x14, &bytes(&[0x1234_5678, 0x9abc_def0])), Ok(8));
    assert_eq!((world.disk.register(0x14), world.disk.register(0x18)), (0x1234_5678, 0x9abc_def0));
    assert_eq!(process.pread(device, 0x14, 8), Ok(bytes(&[0x1234_5678, 0x9abc_def0])));
    assert_eq!(
        process.pread(device, 0x3ffc, 64).map(|read| read.len()),
        Ok(4),
        "as far as the region reaches"
    );
    for (offset, len) in [
        (0x4000, 4),
        (0x4004, 4),
        (1, 4),
        (0, 3),
        (2, 2),
        (1 << 40, 4),
        (6 << 40, 4),
        (8 << 40, 4),
        (u64::MAX - 3, 4),
    ] {
        assert_eq!(process.pread(device, offset, len), Err(Errno::Einval), "{offset:#x} {len}");
        assert_eq!(process.pwrite(device, offset, &vec![0; len]), Err(Errno::Einval), "{offset:#x} {len}");
    }
}

#[test]
fn the_interrupts_table_reads_as_ones_and_is_not_written() {
    let (world, process, device) = open();
    assert_eq!(process.pwrite(device, TABLE as u64 - 4, &bytes(&[1, 2, 3, 4])), Ok(16));
    assert_eq!(world.disk.register(TABLE - 4), 1);
    assert_eq!([0, 4, 8, 12].map(|at| world.disk.register(TABLE + at)), [0, 0, 0, 1], "as after reset");
    assert_eq!(process.pread(device, TABLE as u64, 8), Ok(vec![0xff; 8]));
    // The last entry's last word, and what lies behind.
    assert_eq!(process.pwrite(device, TABLE as u64 + 17 * 16 - 4, &bytes(&[0, 7])), Ok(8));
    assert_eq!((world.disk.register(TABLE + 17 * 16 - 4), world.disk.register(TABLE + 17 * 16)), (1, 7));
}

#[test]
fn memory_for_registers_that_is_nowhere_is_a_fault() {
    let world = world();
    let (process, _, device) = world.driver();
    let file = process.dup(device);
    assert_eq!(file.read(&process, NOWHERE, 4, 0), Err(Errno::Efault));
    assert_eq!(file.write(&process, NOWHERE, 4, 0), Err(Errno::Efault));
    assert_eq!(file.read(&process, u64::MAX - 1, 4, 0), Err(Errno::Efault));
}

#[test]
fn what_can_be_mapped_is_where_the_cpu_finds_it() {
    let (_world, process, device) = open();
    let at = |offset, len| PaRange::new(Pa::new(BAR_PA + offset), len).unwrap();
    assert_eq!(process.mmap(device, 0, 0x2000), Ok(at(0, 0x2000)));
    assert_eq!(process.mmap(device, 0x1000, 0x1000), Ok(at(0x1000, 0x1000)));
    assert_eq!(process.mmap(device, 0x3000, 0x1000), Ok(at(0x3000, 0x1000)));
    for (offset, len) in [
        (0, 0x4000),
        (0, 0x3000),
        (0x2000, 0x1000),
        (0x1000, 0x2000),
        (0x3000, 0x2000),
        (0x4000, 0x1000),
        (0, 0),
        (0, 0x800),
        (0x800, 0x1000),
        (CONFIG, 0x1000),
        (1 << 40, 0x1000),
        (9 << 40, 0x1000),
        (u64::MAX - 0xfff, 0x1000),
        (0, u64::MAX - 0xfff),
        (0x3000, u64::MAX - 0xfff),
    ] {
        assert_eq!(process.mmap(device, offset, len), Err(Errno::Einval), "{offset:#x} {len:#x}");
    }
}

#[test]
fn configuration_space_reads_as_the_functions_but_for_what_is_kept_from_users() {
    let (world, process, device) = open();
    assert_eq!(config(&process, device, 0), 0x0010_1b36);
    assert_eq!(config(&process, device, 4), 0x0010_0002, "memory decoding, and nothing else");
    assert_eq!(world.disk.config(4), 0x0010_0402, "no INTx either");
    assert_eq!(config(&process, device, 0x3c), 0x0000_0009, "the line, and no pin");
    assert_eq!(config(&process, device, 0x40), 0x0002_8010);
    world.disk.set_config(0x30, 0xfff0_0001);
    assert_eq!(config(&process, device, 0x30), 0, "no expansion ROM");
    assert_eq!((config(&process, device, 0x10), config(&process, device, 0x14)), (4, 0x10));
    assert_eq!(process.pread(device, CONFIG + 0x41, 3), Ok(vec![0x80, 2, 0]));
    assert_eq!(process.pread(device, CONFIG + 0xffe, 8).map(|read| read.len()), Ok(2));
    assert_eq!(process.pread(device, CONFIG + 0x1000, 4), Err(Errno::Einval));
}

#[test]
fn base_address_registers_are_sized_and_moved_in_thought_only() {
    let (world, process, device) = open();
    process.pwrite(device, CONFIG + 0x10, &[0xff; 8]).unwrap();
    assert_eq!((config(&process, device, 0x10), config(&process, device, 0x14)), (0xffff_c004, u32::MAX));
    process.pwrite(device, CONFIG + 0x11, &[0x40]).unwrap();
    assert_eq!(config(&process, device, 0x10), 0xffff_4004);
    process.pwrite(device, CONFIG + 0x18, &[0xff; 4]).unwrap();
    assert_eq!(config(&process, device, 0x18), 0, "there is none");
    assert_eq!((world.disk.config(0x10), world.disk.config(0x14)), (4, 0x10));
    assert!(process.pread(device, 0, 4).is_ok());
}

#[test]
fn bus_mastering_is_the_users_to_turn_on_and_off() {
    let (world, process, device) = open();
    assert_eq!(world.disk.config(4) & 4, 0);
    process.pwrite(device, CONFIG + 4, &[6, 0]).unwrap();
    assert_eq!((world.disk.config(4) & 4, config(&process, device, 4) & 0xffff), (4, 6));
    process.pwrite(device, CONFIG + 4, &[2]).unwrap();
    assert_eq!((world.disk.config(4) & 4, config(&process, device, 4) & 0xffff), (0, 2));
}

#[test]
fn a_user_who_turns_memory_off_reaches_no_registers_and_the_machine_is_safe() {
    let (world, process, device) = open();
    process.pwrite(device, CONFIG + 4, &[0, 0]).unwrap();
    assert_eq!(world.disk.config(4) & 2, 2);
    assert_eq!(process.pread(device, 0, 4), Err(Errno::Eio));
    assert_eq!(process.pwrite(device, 0, &[0; 4]), Err(Errno::Eio));
    process.pwrite(device, CONFIG + 4, &[2, 4]).unwrap();
    assert_eq!(config(&process, device, 4) & 0xffff, 0x402);
    assert!(process.pread(device, 0, 4).is_ok());
}

#[test]
fn what_is_not_for_users_is_not_written() {
    let (world, process, device) = open();
    let before: Vec<u32> = (0..1024).map(|at| world.disk.config(4 * at)).collect();
    for at in (0..0x1000u64).filter(|at| !matches!(at & !3, 4 | 0x48)) {
        process.pwrite(device, CONFIG + at, &[0xff]).unwrap();
    }
    let after: Vec<u32> = (0..1024).map(|at| world.disk.config(4 * at)).collect();
    assert_eq!(before, after, "MSI-X control among it");
    process.pwrite(device, CONFIG + 0x3c, &[0x55, 0x66]).unwrap();
    assert_eq!(config(&process, device, 0x3c), 0x55);
}

#[test]
pub(crate) fn a_reset_leaves_the_function_where_it_was() {
    let (world, process, device) = open();
    process.pwrite(device, CONFIG + 4, &[6, 0]).unwrap();
    process.pwrite(device, 0x14, &bytes(&[7])).unwrap();
    let before = world.disk.resets();
    assert_eq!(process.ioctl(device, RESET, 0), Ok(0));
    assert_eq!((world.disk.resets(), world.disk.register(0x14)), (before + 1, 0));
    assert_eq!((world.disk.config(4), world.disk.config(0x14)), (0x0010_0406, 0x10));
    assert!(process.pread(device, 0, 4).is_ok());
}

#[test]
fn a_reset_by_the_capability_is_a_reset() {
    let (world, process, device) = open();
    let before = world.disk.resets();
    process.pwrite(device, CONFIG + 0x48, &[0x10, 0xa8]).unwrap();
    assert_eq!(world.disk.resets(), before + 1);
    assert_eq!((world.disk.config(0x14), world.disk.config(0x48)), (0x10, 0x2810));
    process.pwrite(device, CONFIG + 0x48, &[0xff, 0x7f]).unwrap();
    assert_eq!(
        (world.disk.resets(), world.disk.config(0x48)),
        (before + 1, 0x2810),
        "nothing else of it is written"
    );
}

#[test]
fn a_reset_does_not_turn_off_translations_behind_the_iommus_back() {
    let (world, process, device) = open();
    // On, 4 KiB: who did it is the IOMMU's driver.
    world.disk.set_config(0x104, 0x8000_0000);
    process.ioctl(device, RESET, 0).unwrap();
    assert_eq!(world.disk.config(0x104), 0x8000_0000);
    process.close(device);
    assert_eq!(world.disk.config(0x104), 0x8000_0000);
}

#[test]
pub(crate) fn a_function_that_cannot_be_reset_is_not() {
    let (world, process, device) = open_without_reset();
    assert_eq!(process.ioctl(device, RESET, 0), Err(Errno::Einval));
    process.pwrite(device, CONFIG + 0x48, &[0x10, 0xa8]).unwrap();
    assert_eq!(world.disk.resets(), 0);
}

#[test]
fn a_function_that_cannot_be_reset_sends_nothing_before_its_user_says_so() {
    let (world, process, device) = open_without_reset();
    assert_eq!(world.disk.config(4) & 4, 0);
    process.pwrite(device, CONFIG + 4, &[6, 0]).unwrap();
    assert_eq!(world.disk.config(4) & 4, 4);
}

#[test]
pub(crate) fn a_function_that_does_not_come_back_from_a_reset_is_an_error() {
    let (world, process, device) = open();
    world.disk.set_config(0, u32::MAX);
    assert_eq!(process.ioctl(device, RESET, 0), Err(Errno::Eio));
}

#[test]
fn a_function_that_is_closed_is_as_it_was_but_sends_nothing() {
    for (world, process, device) in [open(), open_without_reset()] {
        process.close(device);
        // A kernel driver without INTx, then one with.
        for before in [0x0010_0402, 0x0010_0002] {
            world.disk.set_config(4, before | 4);
            let group = 4;
            let device = process.device(group, "0000:00:01.0").unwrap();
            process.pwrite(device, CONFIG + 4, &[4, 4]).unwrap();
            process.close(device);
            assert_eq!(world.disk.config(4), before);
        }
    }
}

#[test]
fn the_next_user_finds_a_function_that_nobody_has_touched() {
    let (world, process, device) = open();
    process.pwrite(device, 0x14, &bytes(&[7])).unwrap();
    process.pwrite(device, CONFIG + 0x3c, &[0x55]).unwrap();
    process.close(device);
    drop(process);
    let (process, _, device) = world.driver();
    assert_eq!(process.pread(device, 0x14, 4), Ok(vec![0; 4]));
    assert_eq!(config(&process, device, 0x3c), 9);
}

#[test]
pub(crate) fn a_device_does_not_know_what_it_does_not_know() {
    let (_world, process, device) = open();
    for request in [0x3b64, 0x3b67, 0x3b70, 0x3b71, 0x3b75, 0x3bff, 0, u32::MAX] {
        assert_eq!(process.ioctl(device, request, 0), Err(Errno::Enotty));
    }
}

#[test]
fn offsets_of_regions_are_their_indexes_at_40_bits() {
    let (_world, process, device) = open();
    assert_eq!(double(&region(&process, device, 7, 32).unwrap(), 24), CONFIG);
    assert_eq!(PAGE, 0x1000);
}

#[test]
fn a_function_that_did_not_come_back_from_a_reset_is_not_touched_until_a_reset_succeeds() {
    let world = world();
    let (process, _, device) = world.driver();
    process.pwrite(device, (7 << 40) + 4, &[6, 0]).unwrap();
    let (event, file) = process.event();
    let irqs = || {
        let request = bytes(&[24, 0x24, 2, 3, 1, event as u32]);
        process.ioctl_with(device, 0x3b6e, &request).map(drop)
    };
    irqs().unwrap();
    let id = world.disk.config(0);
    for reset in [false, true] {
        world.disk.set_config(0, u32::MAX);
        // By the call, and by a write to the function's own register.
        let done = || match reset {
            false => process.ioctl(device, 0x3b6f, 0).map(drop),
            true => process.pwrite(device, (7 << 40) + 0x48, &[0, 0x80]).map(drop),
        };
        assert_eq!(done(), Err(Errno::Eio));
        world.disk.set_config(0, id);
        assert_eq!(process.pread(device, 0x14, 4), Err(Errno::Eio), "its registers answer nobody");
        assert_eq!(process.pwrite(device, 0x14, &[0; 4]), Err(Errno::Eio));
        assert_eq!(process.mmap(device, 0, PAGE), Err(Errno::Einval));
        assert_eq!(irqs(), Err(Errno::Eio));
        assert!(!world.controller.raise(&world.disk, 3, &world.hardware));
        done().unwrap();
        assert_eq!(process.pread(device, 0x14, 4), Ok(vec![0; 4]));
        assert!(world.controller.raise(&world.disk, 3, &world.hardware));
        assert_eq!(file.take(), 1);
        irqs().unwrap();
    }
    world.disk.set_config(0, u32::MAX);
    assert_eq!(process.ioctl(device, 0x3b6f, 0), Err(Errno::Eio));
    process.close(device);
    world.disk.set_config(0, id);
    assert!(world.disk.message(3).is_none());
}

/// Who maps registers notes what he is told, how often the function had been reset, and whether its registers answer.
struct Noting {
    disk: Arc<Disk>,
    notes: Mutex<Vec<(&'static str, usize, bool)>>,
}

impl Noting {
    fn note(&self, what: &'static str) {
        assert_eq!(crate::support::locks_held(), 0);
        let answers = self.disk.config(4) & 2 != 0 && self.disk.config(0x14) == (BAR_PA >> 32) as u32;
        self.notes.lock().unwrap().push((what, self.disk.resets(), answers));
    }

    fn notes(&self) -> Vec<(&'static str, usize, bool)> {
        core::mem::take(&mut self.notes.lock().unwrap())
    }
}

impl Mappings for Noting {
    fn revoke(&self) {
        self.note("revoke");
    }

    fn restore(&self) {
        self.note("restore");
    }
}

#[test]
fn registers_are_in_no_process_while_their_function_is_reset() {
    let mut world = crate::support::bare(
        crate::support::range(0, (1 << 48) - 1),
        portcullis_types::PageSizes::from_bits(0x1000),
    );
    let noting = Arc::new(Noting { disk: world.disk.clone(), notes: Mutex::default() });
    let device = world.device(7, 1, |_| ());
    let (function, services) = world.disk.enumerated();
    let function = world.function(&device, function).keeping(services).mapped_by(noting.clone());
    let place = Place { device, group: world.groups[&7].clone() };
    world.registered.push(world.vfio.register(&place, Arc::new(function)).unwrap());
    let (process, _, device) = world.driver();
    assert_eq!(noting.notes(), [("restore", 1, true)]);
    process.ioctl(device, RESET, 0).unwrap();
    assert_eq!(noting.notes(), [("revoke", 1, true), ("restore", 2, true)]);
    process.pwrite(device, CONFIG + 0x48, &[0, 0x80]).unwrap();
    assert_eq!(noting.notes(), [("revoke", 2, true), ("restore", 3, true)]);
    world.disk.goes_silent();
    assert_eq!(process.ioctl(device, RESET, 0), Err(Errno::Eio));
    assert_eq!(noting.notes(), [("revoke", 3, true)], "and whoever touches them is told that they are gone");
    assert_eq!(process.mmap(device, 0, PAGE), Err(Errno::Einval));
    world.disk.comes_back();
    process.ioctl(device, RESET, 0).unwrap();
    assert_eq!(noting.notes(), [("revoke", 4, false), ("restore", 5, true)]);
    // Its driver takes it back, and somebody has it mapped still.
    world.registered.clear();
    assert_eq!(noting.notes(), [("revoke", 5, true)]);
    assert_eq!(process.mmap(device, 0, PAGE), Err(Errno::Enodev));
}

#[test]
fn a_reset_does_not_let_a_function_reach_its_siblings() {
    let (world, process, device) = open();
    assert_eq!(world.disk.config(0x114), 0x000c_000c, "by this its group was decided");
    process.ioctl(device, RESET, 0).unwrap();
    assert_eq!(world.disk.config(0x114), 0x000c_000c);
    process.pwrite(device, CONFIG + 0x48, &[0, 0x80]).unwrap();
    assert_eq!(world.disk.config(0x114), 0x000c_000c);
    // One that does not keep it sends nothing, whatever its user says.
    process.pwrite(device, CONFIG + 4, &[6, 0]).unwrap();
    world.disk.loses_control(true);
    assert_eq!(process.ioctl(device, RESET, 0), Err(Errno::Eio));
    process.pwrite(device, CONFIG + 4, &[6, 0]).unwrap();
    assert_eq!(world.disk.config(4) & 4, 0);
    assert_eq!(process.pread(device, 0, 4), Err(Errno::Eio));
    world.disk.loses_control(false);
    process.ioctl(device, RESET, 0).unwrap();
    assert_eq!((world.disk.config(0x114), world.disk.config(4) & 6), (0x000c_000c, 6));
    process.close(device);
    assert_eq!(world.disk.config(0x114), 0x000c_000c);
}

#[test]
fn what_firmware_has_set_in_a_functions_second_control_register_outlives_its_users() {
    let (world, process, device) = open();
    // LTR, tags of 10 bits, a time limit.
    world.disk.set_config(0x68, 0x1409);
    process.ioctl(device, RESET, 0).unwrap();
    assert_eq!(world.disk.config(0x68), 0x1409);
    world.disk.goes_silent();
    assert_eq!(process.ioctl(device, RESET, 0), Err(Errno::Eio));
    world.disk.comes_back();
    process.close(device);
    let device = process.device(4, "0000:00:01.0").unwrap();
    process.close(device);
    assert_eq!(world.disk.config(0x68), 0x1409);
}

#[test]
fn a_function_that_comes_back_late_is_what_it_was_before_the_first_reset() {
    let (world, process, device) = open();
    // On, 4 KiB; and a device control that is not what a reset leaves.
    world.disk.set_config(0x104, 0x8000_0000);
    world.disk.set_config(0x48, 0x0000_5810);
    world.disk.goes_silent();
    assert_eq!(process.ioctl(device, RESET, 0), Err(Errno::Eio));
    assert_eq!(process.ioctl(device, RESET, 0), Err(Errno::Eio), "silent still");
    world.disk.comes_back();
    process.ioctl(device, RESET, 0).unwrap();
    assert_eq!((world.disk.config(0x104), world.disk.config(0x48)), (0x8000_0000, 0x0000_5810));
    // The same when its user goes meanwhile.
    world.disk.goes_silent();
    process.close(device);
    assert_eq!(process.device(4, "0000:00:01.0"), Err(Errno::Eio));
    world.disk.comes_back();
    assert_eq!(world.disk.config(4) & 2, 0, "it is placed nowhere, and answers nobody");
    let device = process.device(4, "0000:00:01.0").unwrap();
    assert_eq!(world.disk.config(0x48), 0x0000_5810);
    assert_eq!(world.disk.config(0x104), 0, "who turns translations on may have done anything meanwhile");
    assert_eq!((config(&process, device, 0x10), config(&process, device, 0x14)), (4, 0x10));
    assert_eq!(config(&process, device, 0x3c), 9);
    process.close(device);
    assert_eq!(world.disk.config(4) & 0xffff, 0x402, "as it was before the first user");
}

#[test]
fn a_function_that_takes_its_time_after_a_reset_is_waited_for() {
    // Nobody answers; or a root complex says for it that it is not ready.
    for word in [u32::MAX, 0xffff_0001] {
        let (world, process, device) = open();
        world.disk.comes_up_late(word, 500);
        process.ioctl(device, RESET, 0).unwrap();
        assert_eq!((world.disk.config(0x14), world.disk.config(0x114)), (0x10, 0x000c_000c));
        assert_eq!(process.pread(device, 0x14, 4), Ok(vec![0; 4]));
        process.close(device);
        process.device(4, "0000:00:01.0").unwrap();
        world.disk.comes_up_late(word, 5000);
        assert_eq!(process.ioctl(device, RESET, 0), Err(Errno::Eio), "not for ever");
    }
}

#[test]
fn a_function_is_reset_when_what_it_asked_for_before_has_come() {
    let (world, process, device) = open();
    world.disk.waits_for(300);
    process.ioctl(device, RESET, 0).unwrap();
    assert_eq!(world.disk.resets_while_pending(), 0, "its next user might get it");
    world.disk.waits_for(300);
    process.close(device);
    assert_eq!(world.disk.resets_while_pending(), 0);
    // One for which it never comes is reset all the same.
    world.disk.waits_for(usize::MAX);
    process.device(4, "0000:00:01.0").unwrap();
    assert_eq!(world.disk.resets_while_pending(), 1);
}

#[test]
fn messages_of_a_driver_before_are_not_sent_for_a_user_of_a_function_that_cannot_be_reset() {
    let mut world = crate::support::bare(
        crate::support::range(0, (1 << 48) - 1),
        portcullis_types::PageSizes::from_bits(0x1000),
    );
    world.disk = Disk::new(false);
    world.disk.has_msi();
    world.add(7, 1, |_| ()).unwrap();
    // Eight messages, as the driver had them.
    world.disk.set_config(0xa0, 0x00b1_0005);
    let (process, _, device) = world.driver();
    assert_eq!(world.disk.config(0xa0) >> 16 & 1, 0);
    process.pwrite(device, CONFIG + 0xa0, &[0xff; 4]).unwrap();
    assert_eq!(world.disk.config(0xa0) >> 16 & 1, 0, "nor by him");
    process.close(device);
    assert_eq!(world.disk.config(0xa0) >> 16 & 1, 0);
}

#[test]
fn a_function_without_room_for_its_registers_is_not_opened() {
    let world = world();
    let mut function = world.disk.enumerated().0;
    function.bars[0].placed = None;
    world.disk.set_config(4, 0x0010_0400);
    assert_eq!(world.function(&world.devices[0], function.clone()).open(), Err(Errno::Einval));
    assert_eq!(world.disk.config(4) & 2, 0, "it would answer at address 0");
    // One of whose registers nothing is known answers nobody.
    (function.bars, function.capabilities) = (Vec::new(), Capabilities::default());
    world.function(&world.devices[0], function).open().unwrap();
    assert_eq!(world.disk.config(4) & 2, 0);
}

#[test]
fn what_is_no_endpoint_is_not_opened() {
    let world = world();
    let (prefetchable, io) = (PrefetchableWidth::None, IoWidth::None);
    let bridge = Bridge { secondary: Some(1), subordinate: 1, prefetchable, io };
    for kind in [Kind::Bridge(bridge), Kind::Unknown] {
        let function = Function { kind, ..world.disk.enumerated().0 };
        // Requests from below it pass.
        world.disk.set_config(4, 0x0010_0406);
        assert_eq!(world.function(&world.devices[0], function).open(), Err(Errno::Einval));
        assert_eq!(world.disk.config(4), 0x0010_0406, "{kind:?}");
    }
}

#[test]
fn what_was_done_before_a_refusal_is_answered() {
    let (world, process, device) = open();
    let words: Vec<u32> = (1..=64).collect();
    let bytes = [&bytes(&words)[..], &[9, 9]].concat();
    assert_eq!(process.pwrite(device, 0, &bytes), Ok(256), "the rest is no word");
    assert_eq!((world.disk.register(0), world.disk.register(252)), (1, 64));
    assert_eq!(process.pread(device, 0, 258).map(|read| read.len()), Ok(256));
    process.memory.populate(0x5_0000, 0x9_1000_0000, 0x1000, true);
    let file = process.dup(device);
    assert_eq!(file.read(&process, 0x5_0f00, 512, 0), Ok(256), "its memory ends there");
    assert_eq!(file.write(&process, 0x5_1000, 512, 0), Err(Errno::Efault));
}
