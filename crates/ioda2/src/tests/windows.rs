//! Windows that a user makes: sizes, levels, sharing.

use core::slice::from_ref;

use portcullis_core::iommu::AttachError;
use portcullis_core::owner::Released;
use portcullis_core::table_group::{EntryError, JoinError, TableError, TableOps, WindowError, join, leave};

use super::*;

/// A machine whose groups are all a user's.
fn taken(rids: &[u16]) -> Machine {
    let machine = Machine::new(rids, with_bypass);
    machine.groups.iter().for_each(|(group, _)| group.claim_group(user()).unwrap());
    machine
}

#[test]
fn windows_of_every_page_and_every_number_of_levels_translate_and_the_next_level_is_refused() {
    let machine = taken(&[DISK]);
    let group = machine.table_group(DISK);
    let ops = group.tables().unwrap();
    for (page_lg2, most) in [(12, 4), (16, 4), (24, 3), (28, 2)] {
        for window in 0..2 {
            for levels in 1..=most {
                let table = ops.create_table(spec(window, page_lg2, GIB, levels)).unwrap();
                ops.set_window(&table).unwrap();
                let last = table.range().last().get() + 1 - (1 << page_lg2);
                assert_eq!(table.exchange(Iova::new(last), Some(page(3 << page_lg2))), Ok(None));
                flush(&*table, range(last, 1 << page_lg2));
                assert_eq!(machine.reach(DISK, last | 0x123), Some(3 << page_lg2 | 0x123));
                assert_eq!(machine.reach(DISK, table.range().first().get()), None);
                ops.unset_window(window).unwrap();
                assert_eq!(machine.reach(DISK, last | 0x123), None);
            }
        }
        let next = ops.create_table(spec(0, page_lg2, GIB, most + 1)).map(|_| ());
        assert_eq!(next, Err(TableError::Levels(most + 1)), "pages of 1 << {page_lg2}");
    }
}

#[test]
fn what_hardware_cannot_do_is_refused_with_einval() {
    let machine = taken(&[DISK]);
    let group = machine.table_group(DISK);
    let create = |spec| {
        let refused = group.tables().unwrap().create_table(spec).map(|_| ()).unwrap_err();
        assert_eq!(refused.errno().code(), 22);
        refused
    };
    assert_eq!(create(spec(2, 12, GIB, 1)), TableError::Window(2));
    assert_eq!(create(spec(0, 21, GIB, 1)), TableError::PageSize(SizeLg2::MIB_2));
    assert_eq!(create(spec(0, 12, 3 * GIB, 1)), TableError::WindowSize(3 * GIB));
    assert_eq!(create(spec(0, 12, 1 << 60, 1)), TableError::WindowSize(1 << 60));
    assert_eq!(create(spec(0, 12, GIB, 0)), TableError::Levels(0));
    assert_eq!(create(spec(0, 12, 1 << 54, 1)), TableError::Levels(1), "more than a TVE can say");
    assert_eq!(group.tables().unwrap().table_bytes(spec(0, 16, GIB, 2)), Ok(264 << 10));
    assert_eq!(group.info().page_sizes.bits(), 0x1101_1000);
    assert_eq!(group.info().windows, [Some(Iova::new(0)), Some(Iova::new(BYPASS))]);
}

#[test]
fn entries_are_exchanged_where_the_window_is_and_nowhere_else() {
    let machine = taken(&[DISK]);
    let group = machine.table_group(DISK);
    let table = group.tables().unwrap().create_table(spec(1, 16, GIB, 1)).unwrap();
    let exchange = |iova, pa| table.exchange(Iova::new(iova), Some(page(pa)));
    assert_eq!(exchange(0, 0), Err(EntryError::Outside(Iova::new(0))));
    assert_eq!(exchange(BYPASS + GIB, 0), Err(EntryError::Outside(Iova::new(BYPASS + GIB))));
    assert_eq!(exchange(BYPASS + 0x1000, 0), Err(EntryError::Misaligned(BYPASS + 0x1000)));
    assert_eq!(exchange(BYPASS, 0x1000), Err(EntryError::Misaligned(0x1000)));
    assert_eq!(exchange(BYPASS, 1 << 50), Err(EntryError::Unsupported));
    assert_eq!(
        table.prepare(range(BYPASS + GIB - 0x1000, 0x2000)).map_err(|error| error.errno().code()),
        Err(22)
    );
    assert_eq!(exchange(BYPASS + 0x3_0000, 0x5_0000), Ok(None));
    let at = Iova::new(BYPASS + 0x3_0000);
    assert_eq!(table.next(Iova::new(0)), Some((at, page(0x5_0000))));
    assert_eq!(table.next(Iova::new(at.get() + 1)), None);
    assert_eq!((table.entry(Iova::new(at.get() + 7)), table.live()), (Some(page(0x5_0000)), 1));
}

#[test]
fn those_who_join_share_tables_and_who_leaves_is_cut_off_alone() {
    let machine = taken(&[DISK, CARD]);
    let (disk, card) = (machine.table_group(DISK), machine.table_group(CARD));
    let ops = disk.tables().unwrap();
    let low = ops.create_table(spec(0, 12, GIB, 1)).unwrap();
    let high = ops.create_table(spec(1, 24, 1 << 40, 2)).unwrap();
    let tables = [low.clone(), high.clone()];
    join(&*disk, &tables).unwrap();
    join(&*card, &tables).unwrap();
    low.exchange(Iova::new(0x1000), Some(page(0x8000))).unwrap();
    high.exchange(Iova::new(BYPASS), Some(page(0x100_0000))).unwrap();
    tables.iter().for_each(|table| flush(&**table, table.range()));
    for rid in [DISK, CARD] {
        assert_eq!(machine.reach(rid, 0x1000), Some(0x8000));
        assert_eq!(machine.reach(rid, BYPASS + 5), Some(0x100_0005));
    }
    let mut removed = std::vec::Vec::new();
    leave(&*card, &mut removed).unwrap();
    assert_eq!(removed.len(), 2);
    assert_eq!(machine.reach(CARD, 0x1000), None);
    assert_eq!(machine.reach(CARD, BYPASS), None);
    assert_eq!(machine.reach(DISK, 0x1000), Some(0x8000));
    machine.fake.take_kills();
    low.exchange(Iova::new(0x1000), None).unwrap();
    flush(&*low, range(0x1000, 0x1000));
    assert_eq!(machine.fake.take_kills(), [0x2000_0000_0000_1001], "PE 1 only");
    assert_eq!(machine.reach(DISK, 0x1000), None);
}

#[test]
fn a_change_reaches_everybody_who_shares() {
    let machine = taken(&[DISK, CARD]);
    let table = machine.table_group(DISK).tables().unwrap().create_table(spec(0, 12, GIB, 1)).unwrap();
    [DISK, CARD].iter().for_each(|&rid| join(&*machine.table_group(rid), from_ref(&table)).unwrap());
    table.exchange(Iova::new(0), Some(page(0x8000))).unwrap();
    flush(&*table, range(0, 0x1000));
    assert_eq!([DISK, CARD].map(|rid| machine.reach(rid, 0)), [Some(0x8000); 2]);
    assert_eq!(table.exchange(Iova::new(0), Some(page(0x9000))), Ok(Some(page(0x8000))));
    flush(&*table, range(0, 0x1000));
    assert_eq!([DISK, CARD].map(|rid| machine.reach(rid, 0)), [Some(0x9000); 2]);
}

#[test]
fn a_join_that_fails_changes_nothing() {
    let machine = taken(&[DISK, CARD]);
    let other = Machine::new(&[DISK], |config| {
        config.page_sizes = portcullis_types::PageSizes::from_bits(0x4021_1000);
    });
    let (disk, card) = (machine.table_group(DISK), machine.table_group(CARD));
    let ops = disk.tables().unwrap();
    let large = ops.create_table(spec(0, 24, GIB, 1)).unwrap();
    let foreign = other.table_group(DISK);
    assert_eq!(join(&*foreign, from_ref(&large)), Err(JoinError::PageSize(SizeLg2::new(24).unwrap())));
    let foreign_tve = other.fake.entry(9, 2);
    let small = ops.create_table(spec(0, 12, GIB, 1)).unwrap();
    let set = |error| JoinError::Set { window: 0, error, left: std::vec::Vec::new() };
    assert_eq!(join(&*foreign, from_ref(&small)), Err(set(WindowError::Foreign)));
    assert_eq!(other.fake.entry(9, 2), foreign_tve);
    // The second window is refused: the first goes again.
    let theirs = other.table_group(DISK).tables().unwrap().create_table(spec(1, 12, GIB, 1)).unwrap();
    let error = JoinError::Set { window: 1, error: WindowError::Foreign, left: std::vec::Vec::new() };
    assert_eq!(join(&*card, &[small.clone(), theirs]), Err(error));
    assert_eq!((machine.fake.entry(9, 4), card.tables().unwrap().window(0).is_none()), (0, true));
    join(&*card, from_ref(&small)).unwrap();
    assert_eq!(join(&*card, &[small]), Err(JoinError::Occupied(0)));
}

#[test]
fn a_window_that_is_not_forgotten_keeps_its_table_and_can_be_removed_again() {
    let machine = taken(&[DISK]);
    let group = machine.table_group(DISK);
    let ops = group.tables().unwrap();
    let table = ops.create_table(spec(0, 12, GIB, 1)).unwrap();
    machine.fake.answers(Some(0));
    assert!(matches!(ops.set_window(&table), Err(WindowError::Sync(_))));
    assert!(ops.window(0).is_none());
    machine.fake.answers(None);
    ops.set_window(&table).unwrap();
    assert_eq!(ops.set_window(&table), Err(WindowError::Set(0)));
    drop(table);
    let before = machine.fake.live_bytes();
    machine.fake.answers(Some(0));
    assert!(matches!(ops.unset_window(0), Err(WindowError::Sync(_))));
    assert_eq!(machine.fake.live_bytes(), before);
    assert!(ops.window(0).is_some());
    machine.fake.answers(None);
    drop(ops.unset_window(0).unwrap());
    assert!(machine.fake.live_bytes() < before);
    assert_eq!(ops.unset_window(0).map(|_| ()), Err(WindowError::NotSet(0)));
    assert_eq!(ops.unset_window(7).map(|_| ()), Err(WindowError::NotSet(7)));
}

#[test]
fn what_a_window_was_is_forgotten_before_it_is_another() {
    let machine = taken(&[DISK]);
    let group = machine.table_group(DISK);
    let ops = group.tables().unwrap();
    let create = || ops.create_table(spec(0, 12, GIB, 1)).unwrap();
    let (before, after) = (create(), create());
    ops.set_window(&before).unwrap();
    before.exchange(Iova::new(0x1000), Some(page(0x8000))).unwrap();
    flush(&*before, range(0x1000, 0x1000));
    assert_eq!(machine.reach(DISK, 0x1000), Some(0x8000));
    ops.unset_window(0).unwrap();
    machine.fake.take_kills();
    assert_eq!(before.exchange(Iova::new(0x1000), None), Ok(Some(page(0x8000))));
    flush(&*before, range(0x1000, 0x1000));
    assert_eq!(machine.fake.take_kills(), [0u64; 0], "it is nobody's window");
    ops.set_window(&after).unwrap();
    assert_eq!(machine.reach(DISK, 0x1000), None);
    machine.fake.take_kills();
    flush(&*after, range(BYPASS, 0x1000));
    assert_eq!(machine.fake.take_kills(), [0u64; 0], "no page of the window");
}

#[test]
fn a_window_that_nobody_confirmed_is_forgotten_before_it_is_another() {
    let machine = taken(&[DISK]);
    let group = machine.table_group(DISK);
    let ops = group.tables().unwrap();
    let create = || ops.create_table(spec(0, 12, GIB, 1)).unwrap();
    let (before, after) = (create(), create());
    before.exchange(Iova::new(0x1000), Some(page(0x8000))).unwrap();
    // Both TVEs are heard, each by two stores, and nothing behind them: the window is open, and its user is told that it is not.
    machine.fake.state().stores_left = Some(4);
    assert!(matches!(ops.set_window(&before), Err(WindowError::Sync(_))));
    machine.fake.state().stores_left = None;
    machine.fake.answers(None);
    assert_eq!(machine.reach(DISK, 0x1000), Some(0x8000), "and cached");
    let pe = machine.bridge.pe_of(source(DISK)).unwrap();
    machine.fake.state().tries = Some((pe, 0x1000));
    ops.set_window(&after).unwrap();
    assert_eq!(machine.fake.state().tried, [None], "whoever comes first finds nothing of the old one");
}

/// Found by the simulator, seed 0xe2eb717f on `power8`: it was said to be blocked, and translated what an earlier user had set.
#[test]
fn a_device_is_blocked_only_by_the_bridges_word_also_where_its_windows_are_noted_as_closed() {
    let machine = taken(&[DISK]);
    let group = machine.table_group(DISK);
    let ops = group.tables().unwrap();
    let table = ops.create_table(spec(0, 12, GIB, 1)).unwrap();
    table.exchange(Iova::new(0x1000), Some(page(0x8000))).unwrap();
    machine.fake.state().stores_left = Some(4);
    assert!(matches!(ops.set_window(&table), Err(WindowError::Sync(_))));
    machine.fake.state().stores_left = None;
    machine.fake.answers(None);
    assert_eq!(machine.reach(DISK, 0x1000), Some(0x8000), "the window is open, and noted as closed");
    let block = || machine.bridge.attach(&[source(DISK)], &Target::Blocked);
    machine.fake.answers(Some(0));
    assert_eq!(block(), Err(AttachError::LeftBlocked(NO_ANSWER)));
    machine.fake.answers(None);
    block().unwrap();
    assert_eq!(machine.reach(DISK, 0x1000), None);
}

#[test]
fn a_window_that_is_known_stays_open_while_the_other_is_not() {
    let machine = taken(&[DISK]);
    let group = machine.table_group(DISK);
    let ops = group.tables().unwrap();
    let (low, high) =
        (ops.create_table(spec(0, 12, GIB, 1)).unwrap(), ops.create_table(spec(1, 12, GIB, 1)).unwrap());
    low.exchange(Iova::new(0x1000), Some(page(0x8000))).unwrap();
    ops.set_window(&low).unwrap();
    machine.fake.state().stores_left = Some(4);
    assert!(matches!(ops.set_window(&high), Err(WindowError::Sync(_))));
    machine.fake.state().stores_left = None;
    machine.fake.answers(None);
    let pe = machine.bridge.pe_of(source(DISK)).unwrap();
    machine.fake.state().tries = Some((pe, 0x1000));
    ops.set_window(&high).unwrap();
    let state = machine.fake.state();
    for tried in [&state.tried, &state.tried_closing] {
        assert!(!tried.is_empty() && tried.iter().all(|&reached| reached == Some(0x8000)));
    }
}

#[test]
fn what_a_user_has_set_stays_when_his_devices_are_blocked_once_more() {
    let machine = taken(&[DISK]);
    let group = machine.table_group(DISK);
    let ops = group.tables().unwrap();
    let create = |window| ops.create_table(spec(window, 12, GIB, 1)).unwrap();
    let (low, high) = (create(0), create(1));
    low.exchange(Iova::new(0x1000), Some(page(0x8000))).unwrap();
    high.exchange(Iova::new(BYPASS), Some(page(0x9000))).unwrap();
    ops.set_window(&low).unwrap();
    machine.fake.state().stores_left = Some(4);
    assert_eq!(ops.set_window(&high), Err(WindowError::Sync(NO_ANSWER)));
    machine.fake.state().stores_left = None;
    machine.fake.answers(None);
    assert_eq!(machine.reach(DISK, BYPASS), Some(0x9000), "it is open, and its user is told that it is not");
    // As core does when another device of the group comes or goes.
    let block = || machine.bridge.attach(&[source(DISK)], &Target::Blocked);
    machine.fake.answers(Some(0));
    assert_eq!(block(), Err(AttachError::Sync(NO_ANSWER)));
    machine.fake.answers(None);
    block().unwrap();
    assert_eq!((ops.window(0).is_some(), ops.window(1).is_some()), (true, false));
    assert_eq!(machine.reach(DISK, 0x1000), Some(0x8000), "his container knows of nothing else");
    assert_eq!(machine.reach(DISK, BYPASS), None);
    let before = machine.fake.live_bytes();
    drop(high);
    assert!(machine.fake.live_bytes() < before, "nobody has it");
    machine.fake.take_kills();
    flush(&*low, range(0x1000, 0x1000));
    assert_eq!(machine.fake.take_kills(), [0x2000_0000_0000_1001], "it is his window, once");
}

/// How a window is treated whose removal was not confirmed, by what is done with the other one. Answers what that came to.
fn after_an_unconfirmed_removal<T>(missed: usize, act: impl FnOnce(&dyn TableOps) -> T) -> T {
    let machine = taken(&[DISK]);
    let group = machine.table_group(DISK);
    let ops = group.tables().unwrap();
    let low = ops.create_table(spec(0, 12, GIB, 1)).unwrap();
    low.exchange(Iova::new(0x1000), Some(page(0x8000))).unwrap();
    ops.set_window(&low).unwrap();
    machine.fake.answers(Some(0));
    assert_eq!(ops.unset_window(0).map(drop), Err(WindowError::Sync(NO_ANSWER)));
    machine.fake.answers(None);
    assert_eq!(machine.reach(DISK, 0x1000), Some(0x8000), "it heard nothing");
    machine.fake.state().reads_missed = missed;
    let done = act(ops);
    machine.fake.state().reads_missed = 0;
    assert_eq!(machine.reach(DISK, 0x1000), None, "nothing by this window any more");
    assert!(ops.window(0).is_none(), "and that is confirmed");
    machine.fake.take_kills();
    flush(&*low, range(0x1000, 0x1000));
    assert_eq!(machine.fake.take_kills(), [0u64; 0], "it is nobody's window");
    done
}

#[test]
fn a_window_whose_removal_was_not_confirmed_is_not_opened_again_for_the_others_sake() {
    let set = |ops: &dyn TableOps| ops.set_window(&ops.create_table(spec(1, 12, GIB, 1)).unwrap());
    assert_eq!(after_an_unconfirmed_removal(0, set), Ok(()));
    assert_eq!(after_an_unconfirmed_removal(1, set), Err(WindowError::Sync(NO_ANSWER)), "taken back");
}

#[test]
fn a_window_is_not_opened_again_when_the_other_goes() {
    let machine = taken(&[DISK]);
    let group = machine.table_group(DISK);
    let ops = group.tables().unwrap();
    let tables = [0, 1].map(|window| ops.create_table(spec(window, 12, GIB, 1)).unwrap());
    tables[0].exchange(Iova::new(0x1000), Some(page(0x8000))).unwrap();
    join(&*group, &tables).unwrap();
    machine.fake.answers(Some(0));
    assert_eq!(ops.unset_window(0).map(drop), Err(WindowError::Sync(NO_ANSWER)));
    machine.fake.answers(None);
    drop(ops.unset_window(1).unwrap());
    assert_eq!(machine.reach(DISK, 0x1000), None);
    assert!(ops.window(0).is_none());
    assert_eq!(machine.group(0).release_group(user()), Ok(Released::Free), "nothing of a user's is set");
}
