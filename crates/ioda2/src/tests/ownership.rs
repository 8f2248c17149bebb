//! Taking a group and giving it back, by core and by the group itself.

use core::sync::atomic::Ordering::SeqCst;

use portcullis_core::dma::{Direction, DmaMapError};
use portcullis_core::group::GroupError;
use portcullis_core::iommu::{AttachError, MapError};
use portcullis_core::owner::{Released, Stuck, UseError};
use portcullis_core::table_group::{self, Kind, OwnershipError, WindowError};

use super::*;

#[test]
fn a_claim_takes_the_group_and_the_release_gives_window_and_bypass_back() {
    let machine = Machine::new(&[DISK], with_bypass);
    let (group, device) = &machine.groups[0];
    let dma = group.dma(device).unwrap();
    let before = machine.fake.live_bytes();
    group.claim_group(user()).unwrap();
    assert_eq!((machine.fake.entry(9, 2), machine.fake.entry(9, 3)), (0, 0));
    assert_eq!(machine.reach(DISK, BYPASS | 0x1000), None);
    assert!(machine.fake.live_bytes() < before, "the platform's table is freed");
    assert_eq!(group.release_group(user()), Ok(Released::Free));
    assert_eq!(machine.fake.live_bytes(), before);
    assert_eq!(machine.reach(DISK, BYPASS | 0x1000), Some(0x1000));
    let mapping = dma.map_single(Pa::new(0x123_4000), 0x1000, Direction::Bidirectional).unwrap();
    assert_eq!(machine.reach(DISK, mapping.iova().get()), Some(0x123_4000));
    dma.unmap_single(mapping).unwrap();
}

#[test]
fn a_thousand_times_taken_and_released_nothing_is_lost() {
    let machine = Machine::new(&[DISK], with_bypass);
    let before = machine.fake.live_bytes();
    for round in 0..1000u64 {
        machine.group(0).claim_group(user()).unwrap();
        let group = machine.table_group(DISK);
        let ops = group.tables().unwrap();
        let table = ops.create_table(spec(usize::from(round % 2 == 0), 16, GIB, 2)).unwrap();
        ops.set_window(&table).unwrap();
        let first = table.range().first();
        assert_eq!(table.exchange(first, Some(page(0x10_0000))), Ok(None));
        flush(&*table, table.range());
        assert_eq!(machine.reach(DISK, first.get() + 8), Some(0x10_0008));
        assert_eq!(table.exchange(first, None), Ok(Some(page(0x10_0000))));
        drop(ops.unset_window(table.spec().window).unwrap());
        drop(table);
        assert_eq!(machine.group(0).release_group(user()), Ok(Released::Free));
    }
    assert_eq!(machine.fake.live_bytes(), before);
    assert_eq!(machine.reach(DISK, BYPASS | 0x1000), Some(0x1000));
}

#[test]
fn without_memory_for_the_platforms_table_the_group_stays_blocked_says_so_and_tries_again() {
    let machine = Machine::new(&[DISK], with_bypass);
    let (group, device) = &machine.groups[0];
    let before = machine.fake.live_bytes();
    group.claim_group(user()).unwrap();
    machine.fake.allocations_left.store(0, SeqCst);
    let error = GroupError::Attach { device: "device".into(), error: AttachError::NoMemory };
    assert_eq!(
        group.release_group(user()),
        Ok(Released::Blocked(Stuck { error, open: std::vec::Vec::new() }))
    );
    assert_eq!((machine.fake.entry(9, 2), machine.fake.entry(9, 3)), (0, 0));
    assert_eq!(machine.reach(DISK, BYPASS | 0x1000), None);
    let error = GroupError::Attach { device: "device".into(), error: AttachError::NoMemory };
    assert_eq!(group.use_default_domain(device, "driver"), Err(UseError::Stuck(error)));
    machine.fake.allocations_left.store(usize::MAX, SeqCst);
    group.use_default_domain(device, "driver").unwrap();
    assert_eq!(machine.reach(DISK, BYPASS | 0x1000), Some(0x1000));
    assert_eq!(machine.fake.live_bytes(), before);
}

#[test]
fn every_allocation_of_a_users_visit_may_fail_and_the_group_comes_back() {
    let visit = |machine: &Machine| -> bool {
        let group = machine.table_group(DISK);
        let ops = group.tables().unwrap();
        let Ok(table) = ops.create_table(spec(1, 16, 1 << 40, 4)) else { return false };
        ops.set_window(&table).unwrap();
        let first = Iova::new(BYPASS + 5 * GIB);
        let mapped = table.prepare(range(first.get(), 64 * MIB)).is_ok();
        if mapped {
            assert_eq!(table.exchange(first, Some(page(0x10_0000))), Ok(None));
            flush(&*table, range(first.get(), 0x1_0000));
            assert_eq!(machine.reach(DISK, first.get()), Some(0x10_0000));
        }
        let table = ops.unset_window(1).unwrap();
        assert_eq!(table.exchange(first, None).unwrap().is_some(), mapped);
        mapped
    };
    let machine = Machine::new(&[DISK], with_bypass);
    let before = machine.fake.live_bytes();
    machine.group(0).claim_group(user()).unwrap();
    let start = machine.fake.allocations.load(SeqCst);
    assert!(visit(&machine));
    let count = machine.fake.allocations.load(SeqCst) - start;
    assert!(count > 4);
    for allocations in 0..count {
        machine.fake.allocations_left.store(allocations, SeqCst);
        assert!(!visit(&machine), "allocation {allocations} of {count}");
    }
    machine.fake.allocations_left.store(usize::MAX, SeqCst);
    assert_eq!(machine.group(0).release_group(user()), Ok(Released::Free));
    assert_eq!(machine.fake.live_bytes(), before);
}

#[test]
fn a_group_with_a_users_window_is_not_given_back() {
    let machine = Machine::new(&[DISK], |_| ());
    let group = machine.table_group(DISK);
    let ops = group.tables().unwrap();
    let table = ops.create_table(spec(0, 12, MIB, 1)).unwrap();
    assert_eq!(ops.set_window(&table), Err(WindowError::NotTaken));
    machine.group(0).claim_group(user()).unwrap();
    ops.set_window(&table).unwrap();
    let stuck = machine.group(0).release_group(user()).unwrap();
    let refused = GroupError::Attach { device: "device".into(), error: AttachError::WindowsInUse };
    assert_eq!(stuck, Released::Blocked(Stuck { error: refused, open: std::vec::Vec::new() }));
    assert!(ops.window(0).is_some(), "it is the user's still");
    ops.unset_window(0).unwrap();
    machine.group(0).detach().unwrap();
    assert_ne!(machine.fake.entry(9, 2), 0);
}

#[test]
fn a_pe_whose_devices_left_while_a_user_had_it_is_free_when_he_gives_it_back() {
    let fake = Fake::new();
    let bridge = fake.bridge(|_| ());
    let domain = bridge.new_kernel_domain().unwrap();
    let bytes = |fake: &Fake| fake.live_bytes();
    let mut before = None;
    // A bridge has 254 PEs.
    for turn in 0..300 {
        bridge.add_device("card", &[source(CARD)]).unwrap();
        bridge.attach(&[source(CARD)], &target(&domain)).unwrap();
        let group = bridge.table_group(source(CARD)).unwrap();
        let (ownership, tables) = (group.ownership().unwrap(), group.tables().unwrap());
        ownership.take_ownership().unwrap();
        let table = tables.create_table(spec(0, 16, 1 << 20, 1)).unwrap();
        tables.set_window(&table).unwrap();
        bridge.attach(&[source(CARD)], &Target::Blocked).unwrap();
        bridge.remove_device(&[source(CARD)]).unwrap();
        drop(tables.unset_window(0).unwrap());
        drop(table);
        ownership.release_ownership().unwrap();
        assert_eq!(*before.get_or_insert(bytes(&fake)), bytes(&fake), "in turn {turn}");
        assert_eq!(bridge.pe_of(source(CARD)), None);
    }
    assert_eq!(bridge.assign(&[source(DISK)]), Ok(1), "the first is free");
}

#[test]
fn a_pe_whose_windows_were_not_confirmed_to_be_gone_is_free_once_they_are() {
    let fake = Fake::new();
    let bridge = fake.bridge(|_| ());
    let domain = bridge.new_kernel_domain().unwrap();
    bridge.add_device("card", &[source(CARD)]).unwrap();
    bridge.attach(&[source(CARD)], &target(&domain)).unwrap();
    fake.answers(Some(0));
    assert!(matches!(bridge.attach(&[source(CARD)], &Target::Blocked), Err(AttachError::LeftBlocked(_))));
    fake.answers(None);
    bridge.remove_device(&[source(CARD)]).unwrap();
    assert_eq!(bridge.assign(&[source(DISK)]), Ok(1), "the first is free");
}

/// A card that is attached, once `ready` has been done with its bridge, is removed while the bridge gives so many answers and no more. Answers whether it is gone.
fn card_leaves(answers: usize, ready: impl FnOnce(&Bridge)) -> (Arc<Fake>, Arc<Bridge>, bool) {
    let fake = Fake::new();
    let bridge = fake.bridge(|_| ());
    let domain = bridge.new_kernel_domain().unwrap();
    bridge.add_device("card", &[source(CARD)]).unwrap();
    ready(&bridge);
    bridge.attach(&[source(CARD)], &target(&domain)).unwrap();
    fake.answers(Some(answers));
    let removed = bridge.remove_device(&[source(CARD)]).is_ok();
    fake.answers(None);
    (fake, bridge, removed)
}

#[test]
fn a_pe_that_could_not_be_closed_when_its_devices_left_is_free_when_another_is_wanted() {
    let mut left = 0;
    for answers in 1..8 {
        let (fake, bridge, removed) = card_leaves(answers, |_| ());
        if removed {
            left += usize::from(fake.entry(9, 2) != 0);
            assert_eq!(bridge.assign(&[source(DISK)]), Ok(1), "the first is free");
            assert_eq!((fake.entry(9, 2), fake.entry(9, 3)), (0, 0), "and has no window");
        }
    }
    assert!(left > 0, "one was left open");
}

#[test]
fn a_segment_of_m32_stays_whose_it_is_when_a_pe_that_had_it_before_comes_to_its_end() {
    let mut left = 0;
    for answers in 1..8 {
        let (fake, bridge, removed) =
            card_leaves(answers, |bridge| bridge.assign_m32(source(CARD), 16..=17).unwrap());
        if !removed || fake.entry(9, 2) == 0 {
            continue;
        }
        left += 1;
        // Not confirmed for the next device either, which has its registers where those of the first were.
        fake.state().reads_missed = 1;
        bridge.add_device("disk", &[source(DISK)]).unwrap();
        bridge.assign_m32(source(DISK), 16..=16).unwrap();
        assert_eq!(bridge.assign(&[source(0x0300)]), Ok(1), "the first has come to its end");
        assert_eq!([16, 17].map(|segment| fake.entry(17, segment) >> 48), [2, 254]);
    }
    assert!(left > 0, "one was left open");
}

#[test]
fn a_device_whose_route_was_not_confirmed_is_blocked_only_by_the_bridges_word() {
    let fake = Fake::new();
    let bridge = fake.bridge(|_| ());
    let number = bridge.assign(&[source(DISK), source(CARD)]).unwrap();
    let domain = bridge.new_kernel_domain().unwrap();
    bridge.add_device("disk", &[source(DISK)]).unwrap();
    bridge.add_device("card", &[source(CARD)]).unwrap();
    bridge.attach(&[source(DISK)], &target(&domain)).unwrap();
    domain.map(Iova::new(0), Pa::new(0x9000), 0x1000, READ_WRITE).unwrap();
    // The bridge looks the card up when its route is there, and hears of nothing more.
    let card = fake.clone();
    let look_up = move || assert!(card.access(CARD, 0, true).is_some());
    let mut state = fake.state();
    state.behind_store = Some((0x208, 1 << 63, std::boxed::Box::new(look_up)));
    (state.stores_left, state.reads_missed) = (Some(1), 1);
    drop(state);
    let attached = bridge.attach(&[source(CARD)], &target(&domain));
    assert!(matches!(attached, Err(AttachError::LeftBlocked(_))), "{attached:?}");
    fake.state().stores_left = None;
    fake.answers(None);
    assert_eq!(fake.access(CARD, 0, true), Some(0x9000), "it remembers");
    bridge.attach(&[source(CARD)], &Target::Blocked).unwrap();
    assert_eq!(fake.access(CARD, 0, true), None);
    assert_eq!((fake.access(DISK, 0, true), number), (Some(0x9000), 1));
}

#[test]
fn windows_that_were_not_confirmed_to_be_closed_are_so_when_errors_are_next_handled() {
    let fake = Fake::new();
    let bridge = fake.bridge(|_| ());
    let domain = bridge.new_kernel_domain().unwrap();
    bridge.add_device("card", &[source(CARD)]).unwrap();
    domain.map(Iova::new(0), Pa::new(0x9000), 0x1000, READ_WRITE).unwrap();
    bridge.attach(&[source(CARD)], &target(&domain)).unwrap();
    fake.answers(Some(0));
    let blocked = bridge.attach(&[source(CARD)], &Target::Blocked);
    assert!(matches!(blocked, Err(AttachError::LeftBlocked(_))));
    fake.answers(None);
    assert_eq!(fake.access(CARD, 0, true), Some(0x9000), "it heard nothing");
    assert_eq!(bridge.handle_errors(), []);
    assert_eq!(fake.access(CARD, 0, true), None);
    // A user's windows are not the platform's to close.
    let group = bridge.table_group(source(CARD)).unwrap();
    let tables = group.tables().unwrap();
    let table = tables.create_table(spec(0, 12, MIB, 1)).unwrap();
    fake.state().reads_missed = 2;
    assert_eq!(tables.set_window(&table), Err(WindowError::Sync(NO_ANSWER)));
    tables.set_window(&table).unwrap();
    let set = fake.entry(9, 2);
    fake.state().reads_missed = 2;
    let second = tables.create_table(spec(1, 12, MIB, 1)).unwrap();
    assert_eq!(tables.set_window(&second), Err(WindowError::Sync(NO_ANSWER)));
    assert_eq!(bridge.handle_errors(), []);
    assert_eq!((fake.entry(9, 2), set == 0), (set, false));
}

#[test]
fn a_device_that_is_left_blocked_is_so_when_errors_are_next_handled() {
    for other in [false, true] {
        let fake = Fake::new();
        let bridge = fake.bridge(|_| ());
        bridge.assign(&[source(CARD), source(DISK)]).unwrap();
        let domain = bridge.new_kernel_domain().unwrap();
        bridge.add_device("card", &[source(CARD)]).unwrap();
        bridge.add_device("disk", &[source(DISK)]).unwrap();
        if other {
            bridge.attach(&[source(DISK)], &target(&domain)).unwrap();
        }
        domain.map(Iova::new(0), Pa::new(0x9000), 0x1000, READ_WRITE).unwrap();
        // The bridge looks the card up when its route is there, and hears of nothing more for a while.
        let card = fake.clone();
        let look_up = move || {
            assert!(card.access(CARD, 0, true).is_some());
            let mut state = card.state();
            (state.stores_left, state.reads_missed) = (Some(0), 1);
        };
        let look_up = (0x208, 1 << 63, std::boxed::Box::new(look_up) as crate::testing::Hook);
        if other {
            fake.state().behind_store = Some(look_up);
        } else {
            // The first time its route is taken away; the second is behind the kill of its PE.
            let later = fake.clone();
            let open = move || later.state().behind_store = Some(look_up);
            fake.state().behind_store = Some((0x210, 0x4000_0000_0000_0001, std::boxed::Box::new(open)));
        }
        let attached = bridge.attach(&[source(CARD)], &target(&domain));
        assert!(matches!(attached, Err(AttachError::LeftBlocked(_))), "{attached:?}");
        fake.state().stores_left = None;
        fake.answers(None);
        assert_eq!(fake.access(CARD, 0, true), Some(0x9000), "it remembers");
        assert_eq!(bridge.handle_errors(), []);
        assert_eq!(fake.access(CARD, 0, true), None);
        assert_eq!(fake.access(DISK, 0, true), Some(0x9000).filter(|_| other));
        let (kills, wrong) = (fake.take_kills(), fake.state().wrong);
        assert_eq!(bridge.handle_errors(), []);
        assert_eq!((fake.take_kills().len(), wrong, kills.is_empty()), (0, 0, false), "once");
    }
}

#[test]
fn a_device_whose_removal_was_not_confirmed_goes_on_where_its_user_says() {
    let fake = Fake::new();
    let bridge = fake.bridge(|_| ());
    bridge.add_device("card", &[source(CARD)]).unwrap();
    fake.answers(Some(0));
    assert_eq!(bridge.remove_device(&[source(CARD)]), Err(NO_ANSWER));
    fake.answers(None);
    let domain = bridge.new_kernel_domain().unwrap();
    domain.map(Iova::new(0), Pa::new(0x9000), 0x1000, READ_WRITE).unwrap();
    bridge.attach(&[source(CARD)], &target(&domain)).unwrap();
    assert_eq!(fake.access(CARD, 0, true), Some(0x9000));
    // A user's windows are for all of its members.
    bridge.attach(&[source(CARD)], &Target::Blocked).unwrap();
    fake.answers(Some(0));
    assert_eq!(bridge.remove_device(&[source(CARD)]), Err(NO_ANSWER));
    fake.answers(None);
    bridge.attach(&[source(CARD)], &Target::Blocked).unwrap();
    let group = bridge.table_group(source(CARD)).unwrap();
    let tables = group.tables().unwrap();
    let table = tables.create_table(spec(0, 12, MIB, 1)).unwrap();
    tables.set_window(&table).unwrap();
    table.exchange(Iova::new(0), Some(page(0x7000))).unwrap();
    flush(&*table, range(0, 0x1000));
    forget_every_route(&bridge);
    assert_eq!(fake.access(CARD, 0, true), Some(0x7000));
}

/// Another device comes, and for its sake the bridge looks up each one's PE anew.
fn forget_every_route(bridge: &Bridge) {
    bridge.add_device("other", &[source(0x0300)]).unwrap();
    bridge.attach(&[source(0x0300)], &Target::Blocked).unwrap();
}

/// A PE of a user's, with a page at address 0: of two devices the disk is in the group.
fn disk_of_a_users_pe() -> (Machine, Grouped) {
    let machine = Machine::new(&[], |_| ());
    machine.bridge.assign(&[source(DISK), source(CARD)]).unwrap();
    let kind = DefaultDomain::Dma(FlushMode::Strict);
    let group = Group::new(machine.fake.clone(), machine.bridge.clone(), 1, kind).unwrap();
    let disk = machine.unit.add_device(DeviceInfo::new("disk", &[source(DISK)])).unwrap();
    group.add_device(&disk).unwrap();
    group.claim_group(user()).unwrap();
    let tables = machine.table_group(DISK);
    let ops = tables.tables().unwrap();
    let table = ops.create_table(spec(0, 12, MIB, 1)).unwrap();
    ops.set_window(&table).unwrap();
    table.exchange(Iova::new(0), Some(page(0x8000))).unwrap();
    flush(&*table, range(0, 0x1000));
    (machine, (Arc::new(group), disk))
}

#[test]
fn a_device_of_a_users_pe_has_his_windows_only_while_it_is_in_the_group() {
    let (machine, (group, _disk)) = disk_of_a_users_pe();
    let reached = || [DISK, CARD].map(|rid| machine.fake.access(rid, 0, true));
    assert_eq!(reached(), [Some(0x8000), None], "nobody knows it yet");
    let card = machine.unit.add_device(DeviceInfo::new("card", &[source(CARD)])).unwrap();
    for _ in 0..2 {
        assert_eq!(reached(), [Some(0x8000), None], "it is in no group");
        group.add_device(&card).unwrap();
        assert_eq!(reached(), [Some(0x8000); 2]);
        group.remove_device(&card).unwrap();
    }
    assert_eq!(reached(), [Some(0x8000), None]);
    machine.unit.remove_device(&card).unwrap();
    assert_eq!(reached(), [Some(0x8000), None]);
}

#[test]
fn a_device_that_does_not_come_to_a_users_group_has_nothing_of_his() {
    let (machine, (group, _disk)) = disk_of_a_users_pe();
    let card = machine.unit.add_device(DeviceInfo::new("card", &[source(CARD)])).unwrap();
    machine.fake.answers(Some(0));
    assert!(group.add_device(&card).is_err());
    machine.fake.answers(None);
    assert_eq!(machine.bridge.handle_errors(), []);
    forget_every_route(&machine.bridge);
    assert_eq!([DISK, CARD].map(|rid| machine.fake.access(rid, 0, true)), [Some(0x8000), None]);
}

#[test]
fn a_device_that_leaves_a_users_group_without_the_bridges_word_is_not_led_back() {
    let (machine, (group, _disk)) = disk_of_a_users_pe();
    let card = machine.unit.add_device(DeviceInfo::new("card", &[source(CARD)])).unwrap();
    group.add_device(&card).unwrap();
    let reached = || [DISK, CARD].map(|rid| machine.fake.access(rid, 0, true));
    assert_eq!(reached(), [Some(0x8000); 2]);
    machine.fake.answers(Some(0));
    group.remove_device(&card).unwrap();
    machine.fake.answers(None);
    assert_eq!(reached(), [Some(0x8000); 2], "it has heard nothing, and remembers");
    forget_every_route(&machine.bridge);
    assert_eq!(reached(), [Some(0x8000), None]);
}

#[test]
fn a_pe_whose_devices_left_lets_nobody_through_who_is_in_it_next() {
    for is_confirmed in [true, false] {
        let fake = Fake::new();
        let bridge = fake.bridge(|config| config.identity_end = Some(Pa::new(1 << 40)));
        bridge.add_device("card", &[source(CARD)]).unwrap();
        fake.state().stores_left = Some(4).filter(|_| !is_confirmed);
        let attached = bridge.attach(&[source(CARD)], &Target::Identity);
        assert_eq!(attached.is_ok(), is_confirmed, "{attached:?}");
        fake.state().stores_left = None;
        fake.answers(None);
        bridge.remove_device(&[source(CARD)]).unwrap();
        bridge.add_device("disk", &[source(DISK)]).unwrap();
        assert_eq!(bridge.pe_of(source(DISK)), Some(1), "the first is free");
        assert_eq!((fake.entry(9, 2), fake.entry(9, 3)), (0, 0));
        assert_eq!(fake.access(DISK, 0x1000, true), None, "it is attached to nothing");
    }
}

#[test]
fn a_pe_whose_devices_left_is_in_its_domain_no_more() {
    let fake = Fake::new();
    let bridge = fake.bridge(|_| ());
    let domain = bridge.new_domain().unwrap();
    let before = fake.live_bytes();
    for _ in 0..2 {
        bridge.add_device("card", &[source(CARD)]).unwrap();
        bridge.attach(&[source(CARD)], &target(&domain)).unwrap();
        assert!(fake.live_bytes() > before);
        bridge.remove_device(&[source(CARD)]).unwrap();
        assert_eq!(fake.live_bytes(), before, "its table is freed");
    }
}

#[test]
fn taking_twice_is_taking_once_and_releasing_gives_back_what_was() {
    let machine = Machine::new(&[DISK], with_bypass);
    let group = machine.table_group(DISK);
    let Ok(Kind::OnDemand(ownership, ops)) = table_group::kind(&*group) else { panic!("tables on demand") };
    let tves = || (machine.fake.entry(9, 2), machine.fake.entry(9, 3));
    let before = tves();
    ownership.release_ownership().unwrap();
    assert_eq!(tves(), before, "what was not taken is not released");
    ownership.take_ownership().unwrap();
    ownership.take_ownership().unwrap();
    assert_eq!(tves(), (0, 0));
    let table = ops.create_table(spec(0, 24, GIB, 1)).unwrap();
    ops.set_window(&table).unwrap();
    assert_eq!(ownership.release_ownership(), Err(OwnershipError::WindowSet(0)));
    ops.unset_window(0).unwrap();
    machine.fake.allocations_left.store(0, SeqCst);
    assert_eq!(ownership.release_ownership(), Err(OwnershipError::NoMemory));
    assert_eq!(tves(), (0, 0));
    machine.fake.allocations_left.store(usize::MAX, SeqCst);
    ownership.release_ownership().unwrap();
    assert_eq!(tves().1, before.1);
    assert_ne!(tves().0, 0);
}

#[test]
fn a_bridge_without_tables_on_demand_hands_its_table_over_whole_if_nothing_is_mapped_there() {
    let machine = Machine::new(&[DISK], |config| {
        with_bypass(config);
        config.tables_on_demand = false;
    });
    let (group, device) = &machine.groups[0];
    let dma = group.dma(device).unwrap();
    let mapping = dma.map_single(Pa::new(0x123_4000), 0x1000, Direction::FromDevice).unwrap();
    let tables = machine.table_group(DISK);
    assert!(tables.tables().is_none());
    let Ok(Kind::Whole(whole)) = table_group::kind(&*tables) else { panic!("one table for good") };
    group.claim_group(user()).unwrap();
    assert_eq!(whole.take_table().err(), Some(OwnershipError::Live(mapping.iova())));
    assert_eq!(machine.fake.entry(9, 2), 0);
    dma.unmap_single(mapping).unwrap();
    let table = whole.take_table().unwrap();
    assert_eq!(whole.take_table().err(), Some(OwnershipError::Taken));
    assert_eq!(table.exchange(Iova::new(0x1000), Some(page(0x8000))), Ok(None));
    flush(&*table, range(0x1000, 0x1000));
    assert_eq!(machine.reach(DISK, 0x1000), Some(0x8000));
    assert_eq!(machine.reach(DISK, BYPASS | 0x1000), None);
    let refused = dma.map_single(Pa::new(0x123_4000), 0x1000, Direction::FromDevice).err();
    assert!(matches!(refused, Some(DmaMapError::Map(MapError::Mapped(_)))), "it is the user's: {refused:?}");
    assert_eq!(whole.give_back_table(), Err(OwnershipError::Live(Iova::new(0x1000))));
    assert_eq!(table.exchange(Iova::new(0x1000), None), Ok(Some(page(0x8000))));
    whole.give_back_table().unwrap();
    assert_eq!(group.release_group(user()), Ok(Released::Free));
    assert_eq!(machine.reach(DISK, BYPASS | 0x1000), Some(0x1000));
    let mapping = dma.map_single(Pa::new(0x123_4000), 0x1000, Direction::FromDevice).unwrap();
    assert_eq!(machine.reach(DISK, mapping.iova().get()), Some(0x123_4000));
    dma.unmap_single(mapping).unwrap();
}

#[test]
fn a_table_that_could_not_be_taken_over_is_the_kernels_to_map() {
    let machine = Machine::new(&[DISK], |config| config.tables_on_demand = false);
    let (group, device) = &machine.groups[0];
    let dma = group.dma(device).unwrap();
    let tables = machine.table_group(DISK);
    let Ok(Kind::Whole(whole)) = table_group::kind(&*tables) else { panic!("one table for good") };
    group.claim_group(user()).unwrap();
    machine.fake.state().reads_missed = 1;
    assert!(matches!(whole.take_table(), Err(OwnershipError::Sync(_))));
    assert_eq!(group.release_group(user()), Ok(Released::Free));
    let mapping = dma.map_single(Pa::new(0x123_4000), 0x1000, Direction::FromDevice).unwrap();
    assert_eq!(machine.reach(DISK, mapping.iova().get()), Some(0x123_4000));
    dma.unmap_single(mapping).unwrap();
}

#[test]
fn a_group_whose_table_could_not_be_taken_over_is_the_kernels_once_the_bridge_answers() {
    for missed in 1..6 {
        let machine = Machine::new(&[DISK], |config| config.tables_on_demand = false);
        let tables = machine.table_group(DISK);
        let Ok(Kind::Whole(whole)) = table_group::kind(&*tables) else { panic!("one table for good") };
        machine.group(0).claim_group(user()).unwrap();
        machine.fake.state().reads_missed = missed;
        assert!(matches!(whole.take_table(), Err(OwnershipError::Sync(_))));
        machine.fake.state().reads_missed = 0;
        assert_eq!(machine.group(0).release_group(user()), Ok(Released::Free), "{missed} reads missed");
    }
}

#[test]
fn a_table_is_given_back_in_two_tries_where_the_first_gets_half_the_way() {
    let machine = Machine::new(&[DISK], |config| config.tables_on_demand = false);
    let (group, device) = &machine.groups[0];
    let tables = machine.table_group(DISK);
    let Ok(Kind::Whole(whole)) = table_group::kind(&*tables) else { panic!("one table for good") };
    let before = machine.fake.entry(9, 2);
    drop(whole.take_table().unwrap());
    // It says that the user's window is closed, and then nothing more.
    machine.fake.answers(Some(1));
    assert!(matches!(whole.give_back_table(), Err(OwnershipError::Sync(_))));
    machine.fake.answers(None);
    whole.give_back_table().unwrap();
    assert_eq!(machine.fake.entry(9, 2), before, "the platform's again");
    let dma = group.dma(device).unwrap();
    let mapping = dma.map_single(Pa::new(0x123_4000), 0x1000, Direction::FromDevice).unwrap();
    assert_eq!(machine.reach(DISK, mapping.iova().get()), Some(0x123_4000));
    dma.unmap_single(mapping).unwrap();
    whole.give_back_table().unwrap();
    assert_eq!(machine.fake.entry(9, 2), before, "what was not taken is not given back");
}
