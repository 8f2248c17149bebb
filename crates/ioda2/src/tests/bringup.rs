//! From reset, and back.

use portcullis_core::iommu::{AddDeviceError, SyncError};
use portcullis_core::table_group::TableError;
use portcullis_hal::TableMemory;

use super::*;
use crate::bringup::ProbeError;
use crate::phb3::{AssignError, Phb3};

#[test]
fn after_probe_nothing_of_what_was_there_is_left_and_everybody_is_nobodys() {
    let fake = Fake::new();
    let bridge = fake.bridge(|_| ());
    for (table, size) in [(9, 512), (7, 256), (8, 256), (20, 4)] {
        assert!((0..size).all(|index| fake.entry(table, index) == 0), "table {table}");
    }
    assert_eq!(fake.entry(17, 200), 254 << 48);
    assert_eq!(fake.register(0x160), 0x0082_0000_0000_0000);
    let rtt = fake.register(0x168);
    assert_eq!(rtt >> 63, 1);
    let bytes = fake.load(Pa::new((rtt & !(1 << 63)) + 0x1_fff8)).to_le_bytes();
    assert_eq!(bytes, [0, 255, 0, 255, 0, 255, 0, 255], "the last four request ids");
    assert_eq!(fake.take_kills(), [1 << 63]);
    assert_eq!(fake.state().wrong, 0);
    assert_eq!(fake.access(DISK, 0, false), None);
    drop(bridge);
    assert_eq!((fake.live_bytes(), fake.register(0x168), fake.register(0x1a8)), (0, 0, 0));
}

#[test]
fn what_is_no_phb3_or_makes_no_sense_or_does_not_answer_is_refused() {
    let probe = |fake: &Arc<Fake>, change: &dyn Fn(&mut Config)| {
        let mut config = Config::new("phb");
        change(&mut config);
        Phb3::probe(fake.clone(), fake.clone(), config).map(|_| ()).unwrap_err()
    };
    let fake = Fake::new();
    let too_deep = ProbeError::DefaultTable(TableError::Levels(5));
    assert_eq!(probe(&fake, &|config| config.default_levels = 5), too_deep);
    assert_eq!(probe(&fake, &|config| config.window32_bytes = 1 << 33), ProbeError::WindowTooLarge(1 << 33));
    // The TVE's field for pages has five bits: 32 would be no table, and 33 the smallest pages.
    for lg2 in [43, 44, 11] {
        let page = SizeLg2::new(lg2).unwrap();
        let sizes = PageSizes::from_bits(0x1101_1000 | page.bytes());
        assert_eq!(probe(&fake, &|config| config.page_sizes = sizes), ProbeError::PageSize(page));
    }
    let m32 = M32 { cpu_first: Pa::new(0x3fe0_0000_0000), pci_first: 0x8000_0000, bytes: 0x8000_0000 };
    let lies = [
        M32 { bytes: 0, ..m32 },
        // Of 256 segments each would have less than a byte.
        M32 { bytes: 0x80, ..m32 },
        M32 { bytes: 0x7fff_0000, ..m32 },
        M32 { cpu_first: Pa::new(0x3fe0_4000_0000), ..m32 },
        M32 { pci_first: 0xc000_0000, ..m32 },
        M32 { pci_first: 0x1_0000_0000, ..m32 },
        M32 { pci_first: 0, ..m32 },
    ];
    for lie in lies {
        assert_eq!(probe(&fake, &|config| config.m32 = Some(lie)), ProbeError::M32(lie));
    }
    let end = Pa::new(0x0004_0000_0000_0001);
    assert_eq!(probe(&fake, &|config| config.bypass_end = Some(end)), ProbeError::MemoryEnd(end));
    assert_eq!(probe(&fake, &|config| config.identity_end = Some(end)), ProbeError::MemoryEnd(end));
    fake.answers(Some(0));
    assert_eq!(probe(&fake, &|_| ()), ProbeError::NotPhb3(u64::MAX));
    fake.answers(Some(1));
    let gone = SyncError::Timeout { waiting_for: "RTT_BAR, PELTV_BAR, PEST_BAR", last: u64::MAX };
    assert_eq!(probe(&fake, &|_| ()), ProbeError::Sync(gone));
    assert_ne!(fake.live_bytes(), 0, "a bridge that does not answer may still read its tables");
    for allocations in 0..3 {
        let fake = Fake::new();
        fake.allocations_left.store(allocations, core::sync::atomic::Ordering::SeqCst);
        assert_eq!(probe(&fake, &|_| ()), ProbeError::NoMemory);
        assert_eq!(fake.live_bytes(), 0);
    }
}

#[test]
fn a_pe_is_in_its_own_row_of_the_pelt_v_and_its_members_in_the_rtt() {
    let fake = Fake::new();
    let bridge = fake.bridge(|_| ());
    assert_eq!(bridge.assign(&[source(DISK), source(DISK + 1)]), Ok(1));
    assert_eq!(bridge.assign(&[source(DISK + 1)]), Err(AssignError::Assigned(source(DISK + 1))));
    assert_eq!(bridge.assign(&[SourceId(0x1_0000)]), Err(AssignError::OutOfRange(SourceId(0x1_0000))));
    bridge.add_device("disk", &[source(DISK)]).unwrap();
    bridge.add_device("other", &[source(CARD)]).unwrap();
    assert_eq!((bridge.pe_of(source(DISK)), bridge.pe_of(source(CARD))), (Some(1), Some(2)));
    let rtt = fake.register(0x168) & !(1 << 63);
    let rows =
        || <[u8; 4]>::try_from(&fake.load(Pa::new(rtt + 2 * u64::from(DISK))).to_le_bytes()[..4]).unwrap();
    assert_eq!(rows(), [0, 255, 0, 255], "they are in no group");
    bridge.attach(&[source(DISK)], &Target::Blocked).unwrap();
    assert_eq!(rows(), [0, 1, 0, 255]);
    bridge.add_device("function", &[source(DISK + 1)]).unwrap();
    bridge.attach(&[source(DISK + 1)], &Target::Blocked).unwrap();
    assert_eq!(rows(), [0, 1, 0, 1]);
    let peltv = fake.register(0x188) & !(1 << 63);
    assert_eq!(fake.load(Pa::new(peltv + 32)).to_le_bytes(), [0x40, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(fake.load(Pa::new(peltv + 64)).to_le_bytes(), [0x20, 0, 0, 0, 0, 0, 0, 0]);
    bridge.remove_device(&[source(CARD)]).unwrap();
    assert_eq!(fake.load(Pa::new(peltv + 64)), 0);
    assert_eq!(fake.load(Pa::new(rtt + 2 * u64::from(CARD))).to_le_bytes()[..2], [0, 255], "nobody's");
    assert_eq!(bridge.pe_of(source(CARD)), None);
}

#[test]
fn a_teardown_closes_every_pe_also_behind_one_that_is_not_confirmed() {
    let machine = Machine::new(&[DISK, CARD, 0x0300], with_bypass);
    let tves = || [2, 3, 4, 5, 6, 7].map(|at| machine.fake.entry(9, at));
    assert!(!tves().contains(&0), "all are open");
    machine.fake.state().reads_missed = 1;
    assert_eq!(machine.bridge.teardown(), Err(NO_ANSWER));
    assert_eq!(tves(), [0; 6]);
    assert_ne!(machine.fake.register(0x168), 0, "the bridge may read its tables still");
    machine.bridge.teardown().unwrap();
    assert_eq!(machine.fake.register(0x168), 0);
}

#[test]
fn a_device_without_sources_takes_no_pe_and_a_source_that_is_said_twice_is_one() {
    let fake = Fake::new();
    let bridge = fake.bridge(|_| ());
    assert_eq!(bridge.assign(&[]), Err(AssignError::Nobody));
    bridge.add_device("nothing", &[]).unwrap();
    bridge.remove_device(&[]).unwrap();
    assert_eq!(bridge.assign(&[source(DISK), source(DISK)]), Ok(1));
    bridge.add_device("disk", &[source(DISK)]).unwrap();
    assert!(matches!(bridge.add_device("other", &[source(DISK)]), Err(AddDeviceError::Taken { .. })));
    let twice = [source(CARD), source(CARD)];
    bridge.add_device("card", &twice).unwrap();
    assert_eq!(bridge.pe_of(source(CARD)), Some(2));
    bridge.remove_device(&twice).unwrap();
    assert_eq!((bridge.pe_of(source(CARD)), bridge.assign(&[source(CARD)])), (None, Ok(2)));
}

#[test]
fn segments_of_m32_freeze_with_their_pe_and_are_nobodys_before_and_after() {
    let fake = Fake::new();
    let bridge = fake.bridge(|_| ());
    bridge.add_device("card", &[source(CARD)]).unwrap();
    let segments = || [15, 16, 17, 18].map(|segment| fake.entry(17, segment) >> 48);
    bridge.assign_m32(source(CARD), 16..=17).unwrap();
    assert_eq!(segments(), [254, 1, 1, 254]);
    assert_eq!(bridge.assign_m32(source(DISK), 18..=18), Err(AssignError::Unknown(source(DISK))));
    bridge.remove_device(&[source(CARD)]).unwrap();
    assert_eq!(segments(), [254; 4]);
}
