//! MSI-X and MSI of a function, to the interrupt controller.

use model_bus::Width;
use model_devices::pcie::Function;
use model_devices::pcie::{ConfigBuilder, Identity, MessageLayout, Messages, Raised, clause};

use crate::rig::{BAR, DISK, DiskRig, FIRST_LPI, ITS, Sqe};

const TABLE: u64 = BAR + 0x2000;
const PENDING: u64 = BAR + 0x3000;
const IDENTIFY: Sqe = Sqe([6, 0, 0, 0, 0, 0, 0x4020_0000, 0, 0, 0, 1, 0, 0, 0, 0, 0]);

fn enabled() -> DiskRig {
    let disk = DiskRig::new(vec![0; 512]);
    disk.enable();
    disk
}

#[test]
fn the_table_is_masked_at_first_and_keeps_what_is_written() {
    let disk = enabled();
    let words = |at: u64| [0, 4, 8, 12].map(|offset| disk.rig.read32(at + offset));
    assert_eq!(words(TABLE + 0x20), [0, 0, 0, 1]);
    assert_eq!(words(TABLE + 0x10), [0x0809_0040, 0, 1, 0]);
    disk.rig.write32(TABLE + 0x2c, 0xffff_ffff);
    assert_eq!(words(TABLE + 0x20), [0, 0, 0, 1]);
    let qword =
        model_bus::Bus::read_register(&disk.rig.bus, portcullis_types::Pa::new(TABLE + 0x18), Width::Bits64);
    assert_eq!(qword, Ok(1));
}

#[test]
fn the_capability_says_where_table_and_pending_bits_are() {
    let disk = enabled();
    let at = disk.capability(0x11);
    assert_eq!(disk.rig.read_config(DISK, at + 2, Width::Bits16), 0x8010);
    assert_eq!(disk.rig.read_config(DISK, at + 4, Width::Bits32), 0x0000_2000);
    assert_eq!(disk.rig.read_config(DISK, at + 8, Width::Bits32), 0x0000_3000);
    disk.rig.write_config(DISK, at + 2, Width::Bits16, 0xffff);
    assert_eq!(disk.rig.read_config(DISK, at + 2, Width::Bits16), 0xc010);
}

#[test]
fn a_completion_interrupts() {
    let disk = enabled();
    assert_eq!(disk.admin(IDENTIFY).status, 0);
    assert_eq!(disk.rig.its.take_pending(), Some(FIRST_LPI));
    assert!(disk.rig.ear.heard("model.nvme interrupt: vector=0 message=sent"));
    assert!(disk.rig.ear.heard("model.its msi: device=0x20100 event=0 lpi=8192"));
    assert_eq!(disk.nvme.traffic().messages, 1);
}

#[test]
fn a_masked_vector_waits_until_it_is_unmasked() {
    let disk = enabled();
    disk.rig.write32(TABLE + 12, 1);
    disk.admin(IDENTIFY);
    assert_eq!((disk.rig.its.take_pending(), disk.rig.read32(PENDING)), (None, 1));
    disk.rig.write32(PENDING, 0);
    assert_eq!(disk.rig.read32(PENDING), 1);
    disk.rig.write32(TABLE + 12, 0);
    disk.settle();
    assert_eq!((disk.rig.its.take_pending(), disk.rig.read32(PENDING)), (Some(FIRST_LPI), 0));
}

#[test]
fn a_vector_is_changed_while_it_is_masked() {
    let disk = enabled();
    let control = disk.capability(0x11) + 2;
    let clauses = || disk.nvme.take_unpredictable().iter().map(|one| one.clause).collect::<Vec<_>>();
    // What is there; masked by itself; by the function; off.
    disk.rig.write32(TABLE + 8, 0);
    disk.rig.write32(TABLE + 12, 1);
    disk.rig.write32(TABLE + 8, 1);
    disk.rig.write32(TABLE + 12, 0);
    disk.rig.write_config(DISK, control, Width::Bits16, 0xc000);
    disk.rig.write32(TABLE, 0x0809_0044);
    disk.rig.write_config(DISK, control, Width::Bits16, 0);
    disk.rig.write32(TABLE + 4, 1);
    disk.rig.write_config(DISK, control, Width::Bits16, 0x8000);
    assert_eq!(clauses(), [""; 0]);
    for field in [0, 4, 8] {
        disk.rig.write32(TABLE + field, 0x10);
        assert_eq!(clauses(), [clause::LIVE_VECTOR], "{field}");
    }
    assert!(disk.rig.ear.heard("model.pcie unpredictable: clause=PCIe 6.0, 6.1.4.2"));
}

#[test]
fn msi_and_msi_x_are_not_enabled_at_once() {
    let disk = enabled();
    let (msix, msi) = (disk.capability(0x11) + 2, disk.capability(0x05) + 2);
    let clauses = || disk.nvme.take_unpredictable().iter().map(|one| one.clause).collect::<Vec<_>>();
    disk.rig.write_config(DISK, msix, Width::Bits16, 0);
    disk.rig.write_config(DISK, msi, Width::Bits16, 1);
    assert_eq!(clauses(), [""; 0]);
    disk.rig.write_config(DISK, msix, Width::Bits16, 0x8000);
    disk.rig.write_config(DISK, msix, Width::Bits16, 0xc000);
    assert_eq!(clauses(), [clause::BOTH_MESSAGES], "said once");
    disk.rig.write_config(DISK, msi, Width::Bits16, 0);
    disk.rig.write_config(DISK, msi, Width::Bits16, 1);
    assert_eq!(clauses(), [clause::BOTH_MESSAGES], "and again");
}

#[test]
fn a_table_of_vectors_is_accessed_by_whole_words() {
    let disk = enabled();
    let at = portcullis_types::Pa::new(TABLE + 0x18);
    let clauses = || disk.nvme.take_unpredictable().iter().map(|one| one.clause).collect::<Vec<_>>();
    for width in [Width::Bits32, Width::Bits64] {
        let value = disk.rig.bus.read_register(at, width).unwrap();
        disk.rig.bus.write_register(at, width, value).unwrap();
    }
    assert_eq!(clauses(), [""; 0]);
    for width in [Width::Bits8, Width::Bits16] {
        assert_eq!(disk.rig.bus.read_register(at, width), Ok(0));
        disk.rig.bus.write_register(at, width, 7).unwrap();
        assert_eq!(clauses(), [clause::VECTOR_IN_PARTS; 2]);
    }
    assert_eq!(disk.rig.read32(TABLE + 0x18), 1, "nothing was written");
}

#[test]
fn the_function_mask_holds_every_vector() {
    let disk = enabled();
    let control = disk.capability(0x11) + 2;
    disk.rig.write_config(DISK, control, Width::Bits16, 0xc000);
    disk.admin(IDENTIFY);
    assert_eq!((disk.rig.its.take_pending(), disk.rig.read32(PENDING)), (None, 1));
    disk.rig.write_config(DISK, control, Width::Bits16, 0x8000);
    disk.settle();
    assert_eq!(disk.rig.its.take_pending(), Some(FIRST_LPI));
}

#[test]
fn without_msi_or_msi_x_nothing_is_sent() {
    let disk = enabled();
    disk.rig.write_config(DISK, disk.capability(0x11) + 2, Width::Bits16, 0);
    disk.admin(IDENTIFY);
    assert_eq!((disk.rig.its.take_pending(), disk.nvme.traffic().messages), (None, 0));
}

#[test]
fn a_message_that_is_refused_is_lost_and_counted() {
    let disk = enabled();
    disk.rig.gate.shut(ITS + 0x1_0000);
    assert_eq!(disk.admin(IDENTIFY).status, 0);
    assert_eq!((disk.rig.its.take_pending(), disk.nvme.lost_interrupts()), (None, 1));
    assert_eq!(disk.csts(), 1);
}

#[test]
fn msi_sends_its_data_and_respects_its_mask() {
    let disk = enabled();
    disk.rig.write_config(DISK, disk.capability(0x11) + 2, Width::Bits16, 0);
    let at = disk.capability(0x05);
    assert_eq!(disk.rig.read_config(DISK, at + 2, Width::Bits16), 0x0180);
    disk.rig.write_config(DISK, at + 4, Width::Bits32, 0x0809_0043);
    assert_eq!(disk.rig.read_config(DISK, at + 4, Width::Bits32), 0x0809_0040);
    disk.rig.write_config(DISK, at + 12, Width::Bits16, 1);
    disk.rig.write_config(DISK, at + 16, Width::Bits32, 1);
    disk.rig.write_config(DISK, at + 2, Width::Bits16, 1);
    disk.admin(IDENTIFY);
    assert_eq!(disk.rig.its.take_pending(), None);
    assert_eq!(disk.rig.read_config(DISK, at + 20, Width::Bits32), 1);
    disk.rig.write_config(DISK, at + 16, Width::Bits32, 0);
    disk.settle();
    assert_eq!(disk.rig.its.take_pending(), Some(FIRST_LPI + 1));
    assert_eq!(disk.rig.read_config(DISK, at + 20, Width::Bits32), 0);
}

#[test]
fn the_controllers_own_mask_holds_msi() {
    let disk = enabled();
    disk.rig.write_config(DISK, disk.capability(0x11) + 2, Width::Bits16, 0);
    let at = disk.capability(0x05);
    disk.rig.write_config(DISK, at + 4, Width::Bits32, 0x0809_0040);
    disk.rig.write_config(DISK, at + 2, Width::Bits16, 1);
    disk.rig.write32(BAR + 0x0c, 1);
    disk.admin(IDENTIFY);
    assert_eq!(disk.rig.its.take_pending(), None);
    disk.rig.write32(BAR + 0x10, 1);
    disk.settle();
    assert_eq!(disk.rig.its.take_pending(), Some(FIRST_LPI));
}

#[test]
fn several_msi_vectors_change_the_low_bits_of_the_data() {
    let disk = enabled();
    let requester = disk.nvme.requester().unwrap();
    let mut builder = ConfigBuilder::new(Identity { vendor: 1, device: 2, revision: 0, class: 0 }, 0);
    let layout = MessageLayout { vectors: 1, bar: 0, table: 0, pending: 64, msi_vectors_lg2: Some(2) };
    let places = layout.lay_out(&mut builder);
    let config = std::sync::Arc::new(builder.build());
    let messages = Messages::new(config.clone(), layout, places, disk.rig.ear.clone());
    assert_eq!(messages.raise(0, requester), Raised::Disabled);
    assert_eq!(config.read16(0x42), 0x0184);
    config.write(0x44, Width::Bits32, 0x0809_0040);
    config.write(0x4c, Width::Bits16, 0xff);
    config.write(0x42, Width::Bits16, 0x0021);
    let device = portcullis_types::SourceId(0x2_0100);
    for event in 0xfc..=0xff {
        disk.rig.its.map(device, event, 9000 + event).unwrap();
    }
    assert_eq!(messages.raise(2, requester), Raised::Sent);
    assert_eq!(disk.rig.its.take_pending(), Some(9000 + 0xfe));
    assert_eq!(messages.raise(4, requester), Raised::Sent);
    assert_eq!(disk.rig.its.take_pending(), Some(9000 + 0xfc));
    // More than there is: 7 is reserved, and the function has four.
    config.write(0x42, Width::Bits16, 0x0071);
    assert_eq!(messages.raise(40, requester), Raised::Sent);
    assert_eq!(disk.rig.its.take_pending(), Some(9000 + 0xfc));
}
