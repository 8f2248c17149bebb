//! Each promise of the shadow, of the ledger and of the gate is broken once here, on purpose: they must object, and by the promise's name.

use std::sync::Arc;

use model_bus::{Bus, BusError, BusOptions, Outcome, Passage, Request, Translator};
use portcullis::types::{Access, Iova, Pa, PaRange, Pasid, SourceId};

use super::{Gate, Grant, Ledger, Seen, Shadow, SpaceId, Way, Wrong};
use crate::hub::Hub;
use crate::promise::Promise;

const SOURCE: u32 = 8;
/// Two pages at 0x1000, of memory at 0x8000.
const PAGES: Grant = Grant {
    first: 0x1000,
    last: 0x2fff,
    pa: 0x8000,
    read: true,
    owed_read: true,
    write: true,
    owed_write: true,
    since: 0,
};
/// A lazy flush is due after so long.
const LAZY_NS: u64 = 10_000_000;

/// A device that is attached to a space where two pages are granted.
fn attached() -> (Shadow, SpaceId) {
    let mut shadow = Shadow::default();
    let device = shadow.add_device(&[SOURCE]);
    let space = shadow.add_space();
    shadow.end_move(device, Way::Space(space));
    shadow.know(device, true);
    shadow.grant_over(space, PAGES);
    (shadow, space)
}

fn seen(iova: u64, pa: u64) -> Seen {
    Seen { source: SOURCE, iova, len: 8, pa, write: false }
}

/// The promise that is broken, if one is.
fn broken<T>(result: Result<T, Wrong>) -> Option<Promise> {
    result.err().map(|wrong| wrong.promise)
}

/// What is said of an access to the first page.
fn judged(shadow: &mut Shadow) -> Option<Promise> {
    broken(shadow.judge(&seen(0x1000, 0x8000)))
}

#[test]
fn an_access_that_nobody_was_granted_breaks_isolation() {
    let (mut shadow, space) = attached();
    assert_eq!(judged(&mut shadow), None);
    assert_eq!(broken(shadow.judge(&seen(0x2ff8, 0x9ff8))), None);
    let others = [
        ("nobody's source", Seen { source: 9, ..seen(0x1000, 0x8000) }),
        ("before it", seen(0xff8, 0x7ff8)),
        ("behind it", seen(0x3000, 0xa000)),
        ("beyond its end", seen(0x2ffc, 0x9ffc)),
        ("other memory", seen(0x1000, 0x9000)),
    ];
    for (what, other) in others {
        assert_eq!(broken(shadow.judge(&other)), Some(Promise::Isolation), "{what}");
    }
    shadow.grant_over(space, Grant { first: 0x5000, last: 0x5fff, write: false, ..PAGES });
    let read = seen(0x5000, 0x8000);
    assert_eq!(broken(shadow.judge(&read)), None);
    assert_eq!(broken(shadow.judge(&Seen { write: true, ..read })), Some(Promise::Isolation));
    shadow.grant_over(space, Grant { first: 0x7000, last: 0x7fff, read: false, ..PAGES });
    assert_eq!(broken(shadow.judge(&seen(0x7000, 0x8000))), Some(Promise::Isolation));
}

#[test]
fn a_blocked_device_reaches_nothing_once_hardware_was_told() {
    let (mut shadow, _) = attached();
    shadow.begin_move(0, Way::Blocked);
    assert_eq!(judged(&mut shadow), None, "the move has not returned");
    shadow.end_move(0, Way::Blocked);
    assert_eq!(judged(&mut shadow), None, "hardware takes no commands, and may not know it");
    shadow.told();
    assert_eq!(judged(&mut shadow), Some(Promise::Isolation));
}

#[test]
fn a_device_that_was_blocked_without_a_word_is_where_hardware_says_and_not_where_it_was_before() {
    for told in [false, true] {
        let (mut shadow, _) = attached();
        shadow.begin_move(0, Way::Blocked);
        shadow.end_move(0, Way::Blocked);
        let other = shadow.add_space();
        shadow.begin_move(0, Way::Space(other));
        shadow.end_move(0, Way::Space(other));
        if told {
            shadow.arrived(0);
        }
        assert_eq!(judged(&mut shadow), told.then_some(Promise::Isolation));
    }
}

#[test]
fn a_device_may_be_wherever_moves_that_were_left_open_were_to_take_it_however_many() {
    let (mut shadow, _) = attached();
    let others = [0; 7].map(|_| shadow.add_space());
    for (&space, page) in others.iter().zip(5..) {
        let (first, last) = (page << 12, page << 12 | 0xfff);
        shadow.grant_over(space, Grant { first, last, ..PAGES });
        shadow.begin_move(0, Way::Space(space));
    }
    for page in 5..12 {
        assert_eq!(broken(shadow.judge(&seen(page << 12, 0x8000))), None, "page {page}");
    }
}

#[test]
fn a_space_that_goes_takes_no_other_way_of_a_device_with_it() {
    let (mut shadow, user) = attached();
    let [kernel, other] = [0; 2].map(|_| shadow.add_space());
    shadow.grant_over(other, Grant { first: 0x5000, last: 0x5fff, ..PAGES });
    shadow.begin_move(0, Way::Space(kernel));
    shadow.begin_move(0, Way::Space(other));
    shadow.forsake(0, user, Way::Space(kernel));
    assert_eq!(shadow.way(0), Way::Space(kernel));
    assert_eq!(judged(&mut shadow), Some(Promise::Isolation), "it is gone");
    assert_eq!(broken(shadow.judge(&seen(0x5000, 0x8000))), None, "that move is open still");
    shadow.forsake(0, other, Way::Space(kernel));
    assert_eq!(broken(shadow.judge(&seen(0x5000, 0x8000))), None, "nor was it there");
}

#[test]
fn a_blocked_device_reaches_nothing_of_a_space_that_has_the_number_of_its_own() {
    let (mut shadow, space) = attached();
    shadow.begin_move(0, Way::Blocked);
    shadow.end_move(0, Way::Blocked);
    shadow.remove_space(space);
    assert_eq!(shadow.add_space(), space);
    shadow.grant_over(space, PAGES);
    assert_eq!(judged(&mut shadow), Some(Promise::Isolation));
}

#[test]
fn a_device_that_went_to_another_space_reaches_nothing_of_the_one_before() {
    let (mut shadow, _) = attached();
    let other = shadow.add_space();
    shadow.begin_move(0, Way::Space(other));
    assert_eq!(judged(&mut shadow), None, "the move has not returned");
    shadow.end_move(0, Way::Space(other));
    assert_eq!(judged(&mut shadow), Some(Promise::Isolation));
}

#[test]
fn a_move_that_was_left_open_leads_to_nothing_of_a_space_that_has_the_number_of_its_own() {
    for again in [false, true] {
        let (mut shadow, _) = attached();
        let container = shadow.add_space();
        shadow.begin_move(0, Way::Space(container));
        if again {
            shadow.begin_move(0, Way::Blocked);
        }
        shadow.remove_space(container);
        assert_eq!(shadow.add_space(), container);
        shadow.grant_over(container, Grant { first: 0x5000, last: 0x5fff, ..PAGES });
        assert_eq!(broken(shadow.judge(&seen(0x5000, 0x8000))), Some(Promise::Isolation), "{again}");
    }
}

/// A device of which hardware did not confirm that it left its user for the kernel, and which is being blocked now. Answers with the user's space.
fn left_open() -> (Shadow, SpaceId) {
    let (mut shadow, user) = attached();
    let kernel = shadow.add_space();
    shadow.grant_over(kernel, Grant { first: 0x5000, last: 0x5fff, ..PAGES });
    shadow.begin_move(0, Way::Space(kernel));
    shadow.begin_move(0, Way::Blocked);
    (shadow, user)
}

#[test]
fn a_move_that_was_left_open_is_kept_when_the_next_begins_and_ends_with_it() {
    let kernels = seen(0x5000, 0x8000);
    let (mut shadow, user) = left_open();
    assert_eq!(judged(&mut shadow), None, "its user may still have it");
    assert_eq!(broken(shadow.judge(&kernels)), None, "or the kernel");
    for at in [Way::Space(user), Way::Blocked] {
        let (mut shadow, _) = left_open();
        shadow.end_move(0, at);
        shadow.told();
        assert_eq!(broken(shadow.judge(&kernels)), Some(Promise::Isolation));
    }
}

#[test]
fn what_is_mapped_now_may_be_reached_wherever_it_comes_to_lie_and_only_its_memory() {
    let (mut shadow, space) = attached();
    let token = shadow.begin_map(space, &[(0xc000, 0x1000)], true, false);
    let arriving = seen(0x4_0000, 0xc000);
    assert_eq!(broken(shadow.judge(&arriving)), None);
    assert_eq!(broken(shadow.judge(&Seen { write: true, ..arriving })), Some(Promise::Isolation));
    assert_eq!(broken(shadow.judge(&seen(0x4_0000, 0xd000))), Some(Promise::Isolation));
    assert_eq!(broken(shadow.judge(&seen(0x4_0000, 0xcffc))), Some(Promise::Isolation));
    assert_eq!(broken(shadow.end_map(space, token, false)), None);
    assert_eq!(broken(shadow.judge(&arriving)), Some(Promise::Isolation));
}

#[test]
fn what_was_unmapped_may_be_reached_until_its_flush_and_no_longer() {
    type Take = (&'static str, fn(&mut Shadow, SpaceId, u64));
    let takes: [Take; 4] = [
        ("the unmap returns", |shadow, space, token| shadow.end_unmap(space, token)),
        ("a sync of it", |shadow, space, token| {
            shadow.linger(space, token, 0, false);
            shadow.synced(space, &[token]);
        }),
        ("a flush that began later", |shadow, space, token| {
            shadow.linger(space, token, 0, false);
            shadow.flushed(space, token);
        }),
        ("a poll that came too late", |shadow, space, token| {
            shadow.linger(space, token, 0, true);
            shadow.polled(space, LAZY_NS + 1);
        }),
    ];
    for (what, take) in takes {
        let (mut shadow, space) = attached();
        let token = shadow.begin_unmap(space, &[(0x1000, 0x1fff)]);
        assert_eq!(judged(&mut shadow), None, "{what}");
        take(&mut shadow, space, token);
        assert_eq!(judged(&mut shadow), Some(Promise::Isolation), "{what}");
        assert_eq!(broken(shadow.judge(&seen(0x2000, 0x9000))), None, "{what}: the rest stays");
    }
}

#[test]
fn what_hardware_confirms_later_is_reached_no_more_and_nothing_beside_it_or_older() {
    // What, of which addresses, of what began before or behind it, and whether it takes the grant away.
    let settles = [
        ("all of it", (0, 0xffff), false, true),
        ("just it", (0x1000, 0x1fff), false, true),
        ("another window", (0x2000, 0xffff), false, false),
        ("of one that was there before", (0, 0xffff), true, false),
    ];
    for (what, ends, older, takes) in settles {
        let (mut shadow, space) = attached();
        let began = shadow.newest();
        let token = shadow.begin_unmap(space, &[(0x1000, 0x1fff)]);
        shadow.settled(space, ends, began);
        assert_eq!(judged(&mut shadow), None, "{what}: the unmap has not returned");
        shadow.linger(space, token, 0, false);
        let since = if older { token } else { began };
        shadow.settled(space, ends, since);
        assert_eq!(judged(&mut shadow), takes.then_some(Promise::Isolation), "{what}");
        assert_eq!(broken(shadow.judge(&seen(0x2000, 0x9000))), None, "{what}: the rest stays");
        assert!(shadow.some_leaving(0).is_some(), "{what}: somebody tries it still");
    }
}

#[test]
fn a_flush_that_began_earlier_and_a_poll_in_time_take_nothing_away() {
    let (mut shadow, space) = attached();
    let before = shadow.newest();
    let token = shadow.begin_unmap(space, &[(0x1000, 0x1fff)]);
    shadow.linger(space, token, 0, true);
    shadow.flushed(space, before);
    shadow.polled(space, LAZY_NS);
    assert_eq!(judged(&mut shadow), None);
    assert!(shadow.waits(space, token));
}

#[test]
fn an_unmap_that_was_refused_takes_nothing_away() {
    let (mut shadow, space) = attached();
    let token = shadow.begin_unmap(space, &[(0, u64::MAX)]);
    shadow.undo_unmap(space, token);
    assert_eq!(judged(&mut shadow), None);
    assert!(shadow.expects(SOURCE, 0x1000, 8, true));
}

#[test]
fn memory_that_goes_to_another_use_is_reached_no_more_though_its_flush_is_under_way() {
    let (mut shadow, space) = attached();
    let _token = shadow.begin_unmap(space, &[(0x1000, 0x2fff)]);
    assert_eq!(broken(shadow.freed(0x8000, 0x8fff)), None);
    assert_eq!(judged(&mut shadow), Some(Promise::Reclaim));
}

#[test]
fn of_what_was_taken_away_only_the_page_that_goes_to_another_use_is_reached_no_more() {
    let (mut shadow, space) = attached();
    let token = shadow.begin_unmap(space, &[(0x1000, 0x2fff)]);
    shadow.linger(space, token, 0, false);
    assert_eq!(broken(shadow.unpinned(&[space], 0x8000, 0x8fff)), None);
    assert_eq!(broken(shadow.judge(&seen(0x1000, 0x8000))), Some(Promise::Reclaim));
    assert_eq!(broken(shadow.judge(&seen(0x2000, 0x9000))), None, "its pin is held");
    assert_eq!(broken(shadow.unpinned(&[space], 0x9000, 0x9fff)), None);
    assert_eq!(broken(shadow.judge(&seen(0x2000, 0x9000))), Some(Promise::Reclaim));
}

#[test]
fn memory_that_hardware_did_not_confirm_to_have_forgotten_is_not_freed() {
    let (mut shadow, space) = attached();
    let token = shadow.begin_map(space, &[(0xc000, 0x1000)], true, true);
    assert_eq!(broken(shadow.end_map(space, token, true)), None);
    assert_eq!(broken(shadow.judge(&seen(0x4_0000, 0xc000))), None, "it is kept");
    assert_eq!(broken(shadow.freed(0xc000, 0xcfff)), Some(Promise::Reclaim));
    // Or it was freed before the map came to its end.
    let (mut shadow, space) = attached();
    let token = shadow.begin_map(space, &[(0xc000, 0x1000)], true, true);
    assert_eq!(broken(shadow.freed(0xc000, 0xcfff)), None);
    assert_eq!(broken(shadow.judge(&seen(0x4_0000, 0xc000))), Some(Promise::Isolation));
    assert_eq!(broken(shadow.end_map(space, token, true)), Some(Promise::Reclaim));
}

#[test]
fn all_that_a_space_may_have_of_memory_that_is_freed_is_looked_at() {
    let (mut shadow, space) = attached();
    // Of two maps the first had hardware forget it, and the second did not.
    let _first = shadow.begin_map(space, &[(0xc000, 0x1000)], true, true);
    let second = shadow.begin_map(space, &[(0xc000, 0x1000)], true, true);
    assert_eq!(broken(shadow.end_map(space, second, true)), None);
    assert_eq!(broken(shadow.freed(0xc000, 0xcfff)), Some(Promise::Reclaim));
    assert_eq!(broken(shadow.judge(&seen(0x4_0000, 0xc000))), Some(Promise::Isolation), "of neither");
}

#[test]
fn a_buffer_that_is_granted_is_not_freed() {
    let (mut shadow, space) = attached();
    assert_eq!(broken(shadow.buffer_freed(0xa000, 0xafff)), None);
    assert_eq!(broken(shadow.buffer_freed(0x9000, 0x9fff)), Some(Promise::Reclaim));
    let token = shadow.begin_unmap(space, &[(0x1000, 0x2fff)]);
    assert_eq!(broken(shadow.buffer_freed(0x9000, 0x9fff)), None, "its unmap may have been confirmed");
    assert!(shadow.is_dead(space, token));
}

#[test]
fn memory_that_an_unmap_left_to_a_flush_is_not_freed_before_one() {
    for (flushes, wanted) in [(false, Some(Promise::Reclaim)), (true, None)] {
        let (mut shadow, space) = attached();
        let token = shadow.begin_unmap(space, &[(0x1000, 0x2fff)]);
        shadow.linger(space, token, 0, false);
        if flushes {
            shadow.told_to_flush();
        }
        assert_eq!(broken(shadow.freed(0x8000, 0x8fff)), wanted);
    }
}

#[test]
fn the_last_pin_of_a_page_that_somebody_is_granted_does_not_go() {
    let (mut shadow, space) = attached();
    assert_eq!(broken(shadow.unpinned(&[space], 0x9000, 0x9fff)), Some(Promise::Reclaim));
    assert_eq!(broken(shadow.unpinned(&[space], 0xa000, 0xafff)), None);
    let token = shadow.begin_unmap(space, &[(0x1000, 0x2fff)]);
    shadow.end_unmap(space, token);
    assert_eq!(broken(shadow.unpinned(&[space], 0x9000, 0x9fff)), None);
}

#[test]
fn a_page_that_another_map_lets_go_of_is_reached_by_the_one_under_way_once_that_has_pinned_it() {
    let (mut shadow, space) = attached();
    let token = shadow.begin_map(space, &[(0xa000, 0x3000)], true, true);
    let reached = |shadow: &mut Shadow| {
        [0xa000, 0xb000, 0xc000].map(|pa| broken(shadow.judge(&seen(0x4_0000, pa))).is_none())
    };
    assert_eq!(broken(shadow.unpinned(&[space], 0xb000, 0xbfff)), None);
    assert_eq!(reached(&mut shadow), [true, false, true], "the others are as they were");
    shadow.pinned(0xb000, 0xbfff);
    assert_eq!(reached(&mut shadow), [true; 3]);
    // Of a map that has failed, and is kept, nothing comes back.
    assert_eq!(broken(shadow.unpinned(&[space], 0xb000, 0xbfff)), None);
    assert_eq!(broken(shadow.end_map(space, token, true)), Some(Promise::Reclaim));
    shadow.pinned(0xb000, 0xbfff);
    assert_eq!(reached(&mut shadow), [true, false, true]);
}

#[test]
fn an_address_is_not_handed_out_over_one_in_use_or_before_hardware_has_forgotten_it() {
    let (mut shadow, space) = attached();
    let again = Grant { first: 0x2000, last: 0x2fff, pa: 0xc000, ..PAGES };
    assert_eq!(broken(shadow.grant(space, again, false)), Some(Promise::NoReuse), "in use");
    let token = shadow.begin_unmap(space, &[(0x2000, 0x2fff)]);
    assert_eq!(
        broken(shadow.grant(space, again, false)),
        Some(Promise::NoReuse),
        "the unmap has not returned"
    );
    shadow.told_to_flush();
    assert_eq!(broken(shadow.grant(space, again, false)), Some(Promise::NoReuse), "nor by any flush");
    shadow.undo_unmap(space, token);
    let token = shadow.begin_unmap(space, &[(0x2000, 0x2fff)]);
    shadow.linger(space, token, 0, true);
    assert_eq!(broken(shadow.grant(space, again, false)), Some(Promise::NoReuse), "no flush since");
    shadow.told_to_flush();
    assert_eq!(broken(shadow.grant(space, again, false)), None);
}

#[test]
fn an_address_is_handed_out_behind_a_sync_that_was_confirmed_though_the_unmap_goes_on() {
    let (mut shadow, space) = attached();
    shadow.confirmed(space, 3);
    let again = Grant { first: 0x2000, last: 0x2fff, pa: 0xc000, ..PAGES };
    let _token = shadow.begin_unmap(space, &[(0x2000, 0x2fff)]);
    shadow.confirmed(space, 3);
    assert_eq!(broken(shadow.grant(space, again, false)), Some(Promise::NoReuse), "none since it began");
    shadow.confirmed(space, 4);
    assert_eq!(broken(shadow.grant(space, again, false)), None);
    assert_eq!(broken(shadow.judge(&seen(0x2000, 0x9000))), Some(Promise::Isolation), "the slack is over");
}

#[test]
fn memory_of_a_map_that_failed_is_freed_behind_a_sync_that_was_confirmed_whatever_fails_after_it() {
    for (syncs, wanted) in [(3, Some(Promise::Reclaim)), (4, None)] {
        let (mut shadow, space) = attached();
        shadow.confirmed(space, 3);
        let token = shadow.begin_map(space, &[(0xc000, 0x1000)], true, true);
        assert_eq!(broken(shadow.freed(0xc000, 0xcfff)), None);
        shadow.confirmed(space, syncs);
        assert_eq!(broken(shadow.end_map(space, token, true)), wanted);
        assert_eq!(broken(shadow.judge(&seen(0x4_0000, 0xc000))), Some(Promise::Isolation), "nobody's");
    }
}

#[test]
fn memory_that_a_failed_map_holds_still_is_kept_whatever_was_confirmed() {
    let (mut shadow, space) = attached();
    let token = shadow.begin_map(space, &[(0xc000, 0x1000)], true, true);
    shadow.confirmed(space, 1);
    assert_eq!(broken(shadow.end_map(space, token, true)), None);
    assert_eq!(broken(shadow.judge(&seen(0x4_0000, 0xc000))), None, "a flush has not succeeded yet");
    assert_eq!(broken(shadow.freed(0xc000, 0xcfff)), Some(Promise::Reclaim));
}

#[test]
fn only_what_was_promised_is_expected_and_only_while_nothing_moves() {
    let (mut shadow, space) = attached();
    assert!(shadow.expects(SOURCE, 0x2ff8, 8, true));
    assert!(!shadow.expects(SOURCE, 0x2ff9, 8, true), "beyond its end");
    shadow.grant_over(space, Grant { first: 0x5000, last: 0x5fff, owed_write: false, ..PAGES });
    assert!(shadow.expects(SOURCE, 0x5000, 8, false));
    assert!(!shadow.expects(SOURCE, 0x5000, 8, true), "allowed, and not owed");
    shadow.begin_move(0, Way::Blocked);
    assert!(!shadow.expects(SOURCE, 0x1000, 8, true));
}

#[test]
fn a_group_that_the_kernel_uses_is_no_users() {
    let mut ledger = Ledger::default();
    assert_eq!(broken(ledger.used(0)), None);
    assert_eq!(broken(ledger.clone().claimed(Some(1), 1)), Some(Promise::OneOwner));
    assert_eq!(broken(ledger.clone().claimed(None, 1)), Some(Promise::OneOwner));
    assert_eq!(broken(ledger.clone().unused(1)), Some(Promise::OneOwner));
    assert_eq!(broken(ledger.unused(0)), None);
    assert_eq!(broken(ledger.claimed(Some(1), 1)), None);
    assert_eq!(broken(ledger.used(0)), Some(Promise::OneOwner));
}

#[test]
fn a_group_is_one_users_and_whole_only_if_nobody_holds_it() {
    let mut ledger = Ledger::default();
    assert_eq!(broken(ledger.claimed(Some(0), 1)), None);
    assert_eq!(broken(ledger.claimed(Some(1), 1)), None);
    assert_eq!(broken(ledger.clone().claimed(Some(1), 2)), Some(Promise::OneOwner));
    assert_eq!(broken(ledger.clone().claimed(None, 1)), Some(Promise::OneOwner));
    assert_eq!(broken(ledger.clone().released(Some(1), 2)), Some(Promise::OneOwner));
    assert_eq!(broken(ledger.clone().released(Some(2), 1)), Some(Promise::OneOwner));
    assert_eq!(broken(ledger.clone().released(None, 1)), Some(Promise::OneOwner));
    assert_eq!(ledger.released(Some(0), 1).ok(), Some(false));
    assert_eq!(ledger.released(Some(1), 1).ok(), Some(true));
    assert_eq!(broken(ledger.claimed(None, 2)), None);
    assert_eq!(broken(ledger.claimed(Some(0), 2)), None, "beside his own");
    assert_eq!(ledger.released(None, 2).ok(), Some(false));
}

/// An IOMMU that lets everything through as it is.
struct Open;

impl Translator for Open {
    fn access(&self, request: &Request, commit: &mut dyn FnMut(Passage) -> Result<(), BusError>) -> Outcome {
        match commit(Passage { pa: Pa::new(request.iova.get()) }) {
            Ok(()) => Outcome::Done,
            Err(error) => Outcome::BusError(error),
        }
    }
}

/// An access through a gate that lets everything through. Answers what is objected, and whether its bytes moved.
fn through_the_gate(pasid: Option<u32>, prepare: impl FnOnce(&Hub)) -> (Option<Promise>, bool) {
    let ram = PaRange::new(Pa::new(0x4000_0000), 0x1_0000).expect("RAM does not wrap");
    let hub = Hub::new(Bus::new(&BusOptions::new(ram, 1)), Vec::new(), false);
    hub.shadow(|shadow| {
        shadow.add_device(&[SOURCE]);
        let space = shadow.add_space();
        shadow.end_move(0, Way::Space(space));
        shadow.grant_over(space, Grant { pa: 0x1000, ..PAGES });
    });
    prepare(&hub);
    let request = Request {
        source: SourceId(SOURCE),
        pasid: pasid.and_then(Pasid::new),
        iova: Iova::new(0x1000),
        len_bytes: 8,
        access: Access::READ,
    };
    let mut moved = false;
    let outcome = Gate::new(hub.clone(), Arc::new(Open), None).access(&request, &mut |_| {
        moved = true;
        Ok(())
    });
    assert_eq!(outcome, Outcome::Done);
    (hub.first_wrong().map(|wrong| wrong.promise), moved)
}

#[test]
fn the_gate_objects_to_what_an_iommu_lets_through_that_nobody_was_granted() {
    assert_eq!(through_the_gate(None, |_| {}), (None, true));
    let taken = |hub: &Hub| {
        hub.shadow(|shadow| {
            let token = shadow.begin_unmap(0, &[(0x1000, 0x1fff)]);
            shadow.end_unmap(0, token);
        });
    };
    assert_eq!(through_the_gate(None, taken), (Some(Promise::Isolation), true));
    assert_eq!(through_the_gate(Some(5), taken), (None, true), "processes' memory is judged elsewhere");
}

#[test]
fn a_spoiled_device_moves_no_bytes_and_is_not_judged_and_others_are() {
    let spoil = |hub: &Hub, device: usize| {
        hub.flipped();
        hub.shadow(|shadow| {
            shadow.add_device(&[SOURCE + 1]);
            shadow.spoil(device, true);
            let token = shadow.begin_unmap(0, &[(0x1000, 0x1fff)]);
            shadow.end_unmap(0, token);
        });
    };
    assert_eq!(through_the_gate(None, |hub| spoil(hub, 0)), (None, false));
    assert_eq!(through_the_gate(None, |hub| spoil(hub, 1)), (Some(Promise::Isolation), true));
}

#[test]
fn who_may_still_be_where_a_bit_has_flipped_is_not_judged_and_moves_no_bytes_until_hardware_was_told() {
    let (mut shadow, space) = attached();
    let other = shadow.add_device(&[SOURCE + 1]);
    shadow.end_move(other, Way::Space(space));
    shadow.begin_move(0, Way::Blocked);
    shadow.end_move(0, Way::Blocked);
    let strays = seen(0x1000, 0xf000);
    assert_eq!(broken(shadow.judge(&strays)), Some(Promise::Isolation));
    shadow.spoil(other, false);
    assert_eq!(broken(shadow.judge(&strays)), None);
    assert!(shadow.is_source_spoiled(SOURCE) && !shadow.is_spoiled(0));
    shadow.told();
    assert_eq!(broken(shadow.judge(&strays)), Some(Promise::Isolation));
    assert!(!shadow.is_source_spoiled(SOURCE));
}
