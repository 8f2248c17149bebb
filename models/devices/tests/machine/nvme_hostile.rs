//! A driver that writes anything anywhere: the controller may refuse, complain or stop, but never panic, and after a
//! reset it works.

use model_bus::{Chance, Width};
use portcullis_types::Pa;

use crate::rig::{ACQ, ASQ, BAR, CQ, DATA, DISK, DiskRig, ENTRIES, SQ, Sqe};

/// An address that is often something: a queue, data, the controller's own registers, the doorbell of the ITS, nothing.
fn address(chance: &Chance) -> u64 {
    let bases = [ASQ, ACQ, SQ, CQ, DATA, BAR, BAR + 0x1000, BAR + 0x2000, 0x0809_0040, 0, u64::MAX - 0xfff];
    let offset = [0, 0, 0, 4, 8, 0x800, 0xff8, 1][chance.below(8)];
    bases[chance.below(bases.len())].wrapping_add(offset)
}

fn value(chance: &Chance) -> u32 {
    match chance.below(4) {
        0 => chance.below(4) as u32,
        1 => chance.below(ENTRIES as usize * 2) as u32,
        2 => 1u32 << chance.below(32),
        _ => chance.next() as u32,
    }
}

fn command(chance: &Chance) -> Sqe {
    const OPCODES: [u32; 16] = [0, 1, 2, 4, 5, 6, 8, 9, 10, 12, 0, 1, 2, 5, 8, 0x80];
    let mut sqe = Sqe::new(OPCODES[chance.below(16)], [0, 1, 1, 1, 2, u32::MAX][chance.below(6)]);
    sqe = sqe.prps(address(chance), address(chance));
    for index in 10..16 {
        sqe = sqe.dw(index, value(chance));
    }
    if chance.once_in(10) {
        sqe.0[0] |= (chance.next() as u32) & 0xff00;
    }
    sqe
}

fn misbehave(disk: &DiskRig, chance: &Chance) {
    match chance.below(8) {
        0..4 => {
            let queue = chance.below(2);
            disk.put_as(queue, command(chance), chance.below(4) as u16);
            disk.ring(queue);
        }
        4 => disk.rig.write32(BAR + 0x1000 + 4 * chance.below(40) as u64, value(chance)),
        5 => {
            let at = Pa::new((BAR + chance.below(0x4000) as u64) & !7);
            let width = [Width::Bits8, Width::Bits16, Width::Bits32, Width::Bits64][chance.below(4)];
            if chance.once_in(2) {
                disk.rig.bus.write_register(at, width, chance.next()).unwrap();
            } else {
                disk.rig.bus.read_register(at, width).unwrap();
            }
        }
        6 => disk.rig.write32(BAR + 0x14, 0x0046_0000 | value(chance) & 0xf7c1),
        _ => disk.rig.gate.shut(address(chance) & !0xfff),
    }
    (0..chance.below(4)).for_each(|_| {
        disk.rig.bus.step();
    });
    if chance.once_in(8) {
        disk.rig.gate.open();
    }
}

#[test]
fn whatever_a_driver_does_the_controller_does_not_panic_and_works_after_a_reset() {
    for seed in 0..150 {
        let chance = Chance::new(seed);
        let disk = DiskRig::ready(vec![7; 512 * 64]);
        (0..200).for_each(|_| misbehave(&disk, &chance));
        disk.rig.gate.open();
        disk.rig.write_config(DISK, 4, Width::Bits16, 6);
        // Only clearing an enable that was set resets.
        disk.rig.write32(BAR + 0x14, 0x0046_0001);
        disk.rig.write32(BAR + 0x14, 0);
        disk.settle();
        assert_eq!(disk.csts(), 0, "seed {seed}");
        disk.enable();
        disk.create_queues();
        let read = Sqe::new(0x02, 1).prps(DATA, 0).blocks(0, 1);
        assert_eq!(disk.io(read).status & 0x7ff, 0, "seed {seed}");
    }
}

#[test]
fn a_disk_that_writes_to_its_own_registers_does_not_wait_for_itself() {
    let disk = DiskRig::ready(vec![0; 512 * 64]);
    // Zeroes over the MSI-X table, the registers and the doorbells.
    for at in [BAR + 0x2000, BAR, BAR + 0x1000] {
        assert_eq!(disk.io(Sqe::new(0x02, 1).prps(at, 0).blocks(0, 1)).status, 0x0004);
    }
    // Entries of a queue that lies in the registers.
    let cq = Sqe::new(0x05, 0).prps(BAR, 0).dw(10, 0x0007_0002).dw(11, 1);
    assert_eq!(disk.admin(cq).status, 0);
    assert_eq!(disk.admin(Sqe::new(0x01, 0).prps(BAR, 0).dw(10, 0x0007_0002).dw(11, 0x0002_0001)).status, 0);
    disk.rig.write32(BAR + 0x1010, 1);
    disk.settle();
    assert_eq!(disk.csts(), 3);
}

#[test]
fn the_whole_configuration_space_can_be_written_over() {
    let disk = DiskRig::ready(vec![0; 512]);
    for register in (0..4096).step_by(4) {
        disk.rig.write_config(DISK, register, Width::Bits32, 0xffff_ffff);
        disk.rig.write_config(DISK, register, Width::Bits32, 0);
        disk.rig.bus.step();
    }
    assert_eq!(disk.rig.read_config(DISK, 0, Width::Bits32), 0x0010_1b36);
}
