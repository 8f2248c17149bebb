//! Promises are broken behind the back of a life with users, one at a time: the call, the pin or the end that comes by must object, and by the promise's name.
//!
//! As in `life::broken`: the world is not what whoever watches was told.

use core::sync::atomic::Ordering::Relaxed;
use std::sync::Arc;

use model_bus::{Outcome, Width};
use portcullis::core::owner::Owner;
use portcullis::hal::Registers;
use portcullis::types::{Pa, PaRange, SourceId};
use portcullis::vfio::{Errno, UserMemory};

use super::task::{Event, PAGE, VA};
use super::type1::Wanted;
use super::world::{Container, Iron, MapState, Mapped, Presence, UserWorld};
use super::{Done, OpKind, buried};
use crate::fault::FaultKind;
use crate::hub::locked;
use crate::machine::Spec;
use crate::options::MachineKind;
use crate::oracle::{Grant, Seen, Shadow, SpaceId, Way};
use crate::promise::Promise;

const BOTH: [MachineKind; 2] = [MachineKind::Vfio, MachineKind::Power8];
/// The first container of the first user.
const HIS: usize = 0;

/// A page that may be read and written, and that this is owed of.
fn one_page(first: u64, pa: u64) -> Grant {
    Grant {
        first,
        last: first + (PAGE - 1),
        pa,
        read: true,
        owed_read: true,
        write: true,
        owed_write: true,
        since: 0,
    }
}

/// A machine with two devices in groups of their own, of which firmware says nothing. Nobody has turns.
fn booted(kind: MachineKind) -> Arc<UserWorld> {
    booted_with(kind, 2)
}

/// A machine with two devices in so many groups.
fn booted_with(kind: MachineKind, groups: usize) -> Arc<UserWorld> {
    let fits = |spec: &Spec| spec.units.len() == 1 && spec.groups.len() > 1;
    let mut spec = (0..64).map(|seed| Spec::draw(seed, kind)).find(fits).expect("many seeds draw one");
    spec.groups.truncate(groups);
    spec.devices.truncate(2);
    for (index, device) in spec.devices.iter_mut().enumerate() {
        (device.group, device.reserved, device.mask_bits) = (index % groups, None, 64);
    }
    let world = UserWorld::new(7, &spec, false).expect("the machine boots");
    world.hub.begin(7);
    world
}

/// The first user has a container with the first group, which has its kind, and has registered memory where that is asked for.
fn usable(kind: MachineKind) -> Arc<UserWorld> {
    let world = booted(kind);
    assert_eq!(world.open_container(0), Done::Succeeded);
    assert_eq!(world.open_group(0, 0), Done::Succeeded);
    assert_eq!(world.set_container(0, 0, 0), Done::Succeeded);
    assert_eq!(world.set_iommu(0, 0, 0), Done::Succeeded);
    if kind == MachineKind::Power8 {
        assert_eq!(world.register_memory(0, 0, 0, 32), Done::Succeeded);
    }
    assert_eq!(objection(&world), None);
    world
}

/// He has mapped a page.
fn mapped(kind: MachineKind) -> (Arc<UserWorld>, Grant) {
    let world = usable(kind);
    assert_eq!(map(&world), Done::Succeeded);
    assert_eq!(objection(&world), None);
    let space = container(&world).space;
    let grant = world.hub.shadow(|shadow| shadow.some_live(space, 0)).expect("it is mapped");
    (world, grant)
}

fn map(world: &UserWorld) -> Done {
    world.map_dma(0, 0, 4, (0, 1), 3)
}

fn container(world: &UserWorld) -> Container {
    world.container(HIS).expect("he has it open")
}

fn objection(world: &UserWorld) -> Option<Promise> {
    world.hub.first_wrong().map(|wrong| wrong.promise)
}

fn page(first: u64) -> PaRange {
    PaRange::new(Pa::new(first), PAGE).expect("pages do not wrap")
}

/// Something that is done, and what it is.
type Deed = (&'static str, fn(&UserWorld));

/// A page of a user's is pinned, and nobody has asked for it.
fn pins(world: &UserWorld, user: usize) {
    world.users[user].memory.pin(VA, PAGE, true).expect("his first page");
}

/// A page is charged to a user, and nobody has asked for it.
fn charges(world: &UserWorld, user: usize) {
    world.users[user].memory.charge(1).expect("he may lock more");
}

#[test]
fn an_access_to_what_was_taken_away_breaks_isolation() {
    for kind in BOTH {
        let (world, grant) = mapped(kind);
        let space = container(&world).space;
        let _done = world.access(0, 0, grant.first, 8, true);
        assert_eq!(objection(&world), None);
        world.hub.shadow(|shadow| {
            let token = shadow.begin_unmap(space, &[(0, u64::MAX)]);
            shadow.end_unmap(space, token);
        });
        let _reached = world.access(0, 0, grant.first, 8, true);
        assert_eq!(objection(&world), Some(Promise::Isolation), "{kind:?}");
    }
}

#[test]
fn an_access_that_is_refused_though_it_was_granted_breaks_service() {
    let (world, grant) = mapped(MachineKind::Vfio);
    let beside = Grant { first: grant.first ^ 0x10_0000, last: grant.last ^ 0x10_0000, ..grant };
    world.hub.shadow(|shadow| shadow.grant_over(container(&world).space, beside));
    let _refused = world.access(0, 0, beside.first, 8, true);
    assert_eq!(objection(&world), Some(Promise::Service));
}

#[test]
fn a_page_that_is_let_go_while_it_is_granted_breaks_reclaim() {
    for kind in BOTH {
        let (world, grant) = mapped(kind);
        world.users[0].memory.unpin(page(grant.pa), true);
        assert_eq!(objection(&world), Some(Promise::Reclaim), "{kind:?}");
    }
}

#[test]
fn a_page_that_is_let_go_and_was_not_pinned_breaks_reclaim() {
    let world = usable(MachineKind::Vfio);
    let (pa, _) = world.users[0].memory.page(VA).expect("his first page");
    world.users[0].memory.unpin(page(pa), true);
    assert_eq!(objection(&world), Some(Promise::Reclaim));
}

#[test]
fn a_map_that_stopped_half_way_and_was_not_confirmed_to_be_gone_may_be_used_as_far_as_it_came() {
    for confirmed in [true, false] {
        let world = booted(MachineKind::Power8);
        // He may lock enough for a window that is paid for at once.
        let rich = world.users.len() - 1;
        assert_eq!(world.open_container(rich), Done::Succeeded);
        assert_eq!(world.open_group(rich, 0), Done::Succeeded);
        assert_eq!(world.set_container(rich, 0, 0), Done::Succeeded);
        assert_eq!(world.set_iommu(rich, 0, 3), Done::Succeeded);
        assert_eq!(world.tce_enable(rich, 0, true), Done::Succeeded);
        assert_eq!(world.map_dma(rich, 0, 4, (0, 1), 3), Done::Succeeded);
        if !confirmed {
            world.hub.faults.arm(FaultKind::NoSync, 1);
        }
        // Two pages that he may write, and one that he may not.
        assert_eq!(world.map_dma(rich, 0, 8, (46, 3), 3), Done::Refused);
        assert_eq!(world.hub.faults.unconfirmed() != 0, !confirmed);
        assert_eq!(objection(&world), None);
        let source = world.devices[world.groups[0].members[0]].engine.sources[0].0;
        let reaches = |page: u64| {
            let (pa, _) = world.users[rich].memory.page(VA + page * PAGE).expect("it is there");
            let iova = 2 * PAGE + (page - 46) * PAGE;
            world.hub.shadow(|shadow| shadow.judge(&Seen { source, iova, len: 8, pa, write: true }).is_ok())
        };
        assert_eq!([46, 47, 48].map(reaches), [!confirmed, !confirmed, false]);
    }
}

/// What somebody says of an access to the first bytes at an address that lie there.
fn reaches(world: &UserWorld, device: usize, iova: u64, pa: u64) -> bool {
    let source = world.devices[device].engine.sources[0].0;
    world.hub.shadow(|shadow| shadow.judge(&Seen { source, iova, len: 8, pa, write: true }).is_ok())
}

/// Both devices of a group have left and come again, the second of which the bridge did not confirm. Its user has mapped a page at 0x1000.
fn half_there() -> Arc<UserWorld> {
    for chance in 1..64 {
        let world = booted_with(MachineKind::Power8, 1);
        assert_eq!(world.remove(0), Done::Succeeded);
        world.hub.faults.arm(FaultKind::NoSync, chance);
        let _came = world.add(0);
        world.hub.faults.disarm();
        world.go_on();
        if [0, 1].map(|device| world.devices[device].presence()) != [Presence::In, Presence::Out] {
            continue;
        }
        assert_eq!(world.open_container(0), Done::Succeeded);
        assert_eq!(world.open_group(0, 0), Done::Succeeded);
        assert_eq!(world.set_container(0, 0, 0), Done::Succeeded);
        assert_eq!(world.set_iommu(0, 0, 0), Done::Succeeded);
        assert_eq!(world.register_memory(0, 0, 0, 32), Done::Succeeded);
        assert_eq!(map(&world), Done::Succeeded);
        assert_eq!(objection(&world), None);
        return world;
    }
    panic!("nowhere is one confirmed and the other not");
}

#[test]
fn a_device_of_a_users_pe_has_his_windows_also_if_it_comes_later_and_not_before() {
    for comes in [false, true] {
        let world = half_there();
        if comes {
            assert_eq!(world.add(0), Done::Succeeded);
        }
        let (pa, _) = world.users[0].memory.page(VA).expect("his first page");
        assert_eq!(world.access(1, 0, PAGE, 8, true) == Outcome::Done, comes);
        assert_eq!(world.reset(1), Done::Succeeded);
        assert_eq!(objection(&world), None, "{comes}");
        assert_eq!(reaches(&world, 1, PAGE, pa), comes);
        assert!(!reaches(&world, 1, 2 * PAGE, pa), "and nothing else");
        world.end(None);
        assert_eq!(objection(&world), None, "{comes}");
    }
}

#[test]
fn a_device_that_does_not_leave_without_the_bridges_word_is_where_moves_before_may_have_it() {
    let world = booted_with(MachineKind::Power8, 1);
    let kernel = world.groups[0].space;
    let (pa, _) = world.users[0].memory.page(VA).expect("his first page");
    let grant = one_page(PAGE, pa);
    world.hub.shadow(|shadow| {
        let users = shadow.add_space();
        shadow.end_move(0, Way::Space(users));
        shadow.begin_move(0, Way::Space(kernel));
        shadow.grant_over(kernel, grant);
    });
    world.hub.faults.arm(FaultKind::NoSync, 1);
    assert_eq!(world.remove(0), Done::Refused);
    assert!(reaches(&world, 0, PAGE, pa));
    assert_eq!(objection(&world), None);
}

#[test]
fn a_group_that_joins_a_container_reaches_nothing_of_the_kernels() {
    for kind in BOTH {
        let world = booted(kind);
        let kernel = world.groups[0].space;
        let (pa, _) = world.users[0].memory.page(VA).expect("his first page");
        let grant = Grant { owed_read: false, owed_write: false, ..one_page(PAGE, pa) };
        world.hub.shadow(|shadow| shadow.grant_over(kernel, grant));
        assert!(reaches(&world, 0, PAGE, pa), "{kind:?}");
        assert_eq!(world.open_container(0), Done::Succeeded);
        assert_eq!(world.open_group(0, 0), Done::Succeeded);
        assert_eq!(world.set_container(0, 0, 0), Done::Succeeded);
        assert!(!reaches(&world, 0, PAGE, pa), "{kind:?}: it is blocked");
        assert_eq!(world.set_iommu(0, 0, 0), Done::Succeeded);
        assert!(!reaches(&world, 0, PAGE, pa), "{kind:?}: it is in the container");
    }
}

#[test]
fn one_entry_that_the_bridge_forgets_is_no_flush_of_all() {
    // All of PE 1; one of its entries.
    for (kill, promise) in [(1 << 62 | 1, None), (1 << 61 | 1, Some(Promise::NoReuse))] {
        let world = booted(MachineKind::Power8);
        let Iron::Power { registers, .. } = &world.iron else { panic!("it is one") };
        let space = world.groups[0].space;
        let grant = one_page(PAGE, UserWorld::slot_memory(0));
        world.hub.shadow(|shadow| {
            shadow.grant_over(space, grant);
            let token = shadow.begin_unmap(space, &[(PAGE, 2 * PAGE - 1)]);
            shadow.linger(space, token, 0, false);
        });
        portcullis::hal::Registers::write64(registers, 0x210, kill);
        let granted = world.hub.shadow(|shadow| shadow.grant(space, grant, false));
        assert_eq!(granted.err().map(|wrong| wrong.promise), promise, "{kill:#x}");
    }
}

#[test]
fn what_was_not_confirmed_in_a_window_is_forgotten_with_the_next_call_that_is() {
    let (world, grant) = mapped(MachineKind::Power8);
    world.hub.faults.arm(FaultKind::NoSync, 1);
    assert_eq!(world.unmap_dma(0, 0, 0, 0), Done::Refused);
    assert!(reaches(&world, 0, grant.first, grant.pa), "hardware did not confirm");
    world.go_on();
    assert!(reaches(&world, 0, grant.first, grant.pa));
    assert_eq!(world.map_dma(0, 0, 8, (1, 1), 3), Done::Succeeded);
    assert!(!reaches(&world, 0, grant.first, grant.pa), "it has confirmed all of the window");
    assert!(reaches(&world, 0, 2 * PAGE, grant.pa + PAGE));
    assert_eq!(objection(&world), None);
}

#[test]
fn what_was_not_confirmed_in_one_window_may_be_reached_whatever_is_unmapped_in_the_other() {
    let (world, grant) = mapped(MachineKind::Power8);
    assert_eq!(world.create_window(0, 0, 0), Done::Succeeded);
    // The first page of the second window.
    assert_eq!(world.map_dma(0, 0, 3, (4, 1), 3), Done::Succeeded);
    world.hub.faults.arm(FaultKind::NoSync, 1);
    assert_eq!(world.unmap_dma(0, 0, 0, 0), Done::Refused);
    world.go_on();
    // Nothing is mapped in the first any more: what is unmapped is that of the second.
    assert_eq!(world.unmap_dma(0, 0, 0, 0), Done::Succeeded);
    let space = container(&world).space;
    assert_eq!(world.hub.shadow(|shadow| shadow.live_in(space, 0, u64::MAX)), []);
    assert!(reaches(&world, 0, grant.first, grant.pa), "nobody asked the bridge of the first again");
    assert_eq!(objection(&world), None);
}

/// The first user's container is one of version 1 of type 1.
fn of_version_1() -> Arc<UserWorld> {
    let world = booted(MachineKind::Vfio);
    assert_eq!(world.open_container(0), Done::Succeeded);
    assert_eq!(world.open_group(0, 0), Done::Succeeded);
    assert_eq!(world.set_container(0, 0, 0), Done::Succeeded);
    assert_eq!(world.set_iommu(0, 0, 3), Done::Succeeded);
    assert_eq!(container(&world).kind, 1);
    world
}

#[test]
fn an_unmap_that_took_nothing_since_something_longer_begins_before_it_takes_nothing_away() {
    let world = of_version_1();
    assert_eq!(world.map_dma(0, 0, 2, (4, 2), 3), Done::Succeeded);
    assert_eq!(world.map_dma(0, 0, 19, (8, 1), 3), Done::Succeeded);
    // Of the first nobody knows how long it is.
    world.change(HIS, |one| {
        one.maps.insert(0x000e_2000, Mapped { len: PAGE, state: MapState::Unknown });
        one.doubt = true;
    });
    // From 16 pages before the second on, which is the first's second page.
    assert_eq!(world.unmap_dma(0, 0, 1, 2), Done::Succeeded);
    assert_eq!(world.access(0, 0, 0x000f_3000, 8, true), Outcome::Done);
    assert_eq!(objection(&world), None);
    assert_eq!(world.unmap_dma(0, 0, 1, 7), Done::Succeeded);
    assert_eq!(objection(&world), None);
    assert!(world.access(0, 0, 0x000f_3000, 8, true) != Outcome::Done);
}

#[test]
fn a_map_forgets_what_may_have_been_left_beside_it_unless_that_may_be_shorter_than_anybody_knows() {
    for doubt in [false, true] {
        let world = usable(MachineKind::Vfio);
        let space = container(&world).space;
        let (pa, _) = world.users[0].memory.page(VA).expect("his first page");
        let left = one_page(0x000e_4000, pa);
        world.hub.shadow(|shadow| {
            let token = shadow.begin_map(space, &[], true, true);
            shadow.doubt(space, token, &[left]);
        });
        world.change(HIS, |one| {
            one.maps.insert(left.first, Mapped { len: 5 * PAGE, state: MapState::Unknown });
            one.doubt = doubt;
        });
        assert_eq!(world.map_dma(0, 0, 7, (8, 1), 3), Done::Succeeded);
        assert_eq!(reaches(&world, 0, left.first, pa), doubt);
        assert_eq!(objection(&world), None);
    }
}

#[test]
fn a_group_that_is_in_a_container_and_does_not_join_tries_nothing_again() {
    let world = usable(MachineKind::Vfio);
    world.change(HIS, |one| one.maps.insert(0x000e_4000, Mapped { len: PAGE, state: MapState::Stale }));
    assert_eq!(world.set_container(0, 0, 0), Done::Refused);
    assert_eq!(container(&world).maps[&0x000e_4000].state, MapState::Stale);
}

#[test]
fn an_error_that_is_to_be_made_is_so_until_an_operation_forgets_it_and_not_until_any_has_succeeded() {
    let world = usable(MachineKind::Power8);
    for (op, is_left) in [(1, true), (5, true), (2, false), (3, false), (8, false)] {
        assert_eq!(world.eeh(0, 0, 9), Done::Succeeded);
        assert_eq!(world.eeh(0, 0, op), Done::Succeeded);
        assert_eq!(world.injected.load(Relaxed), is_left, "{op}");
    }
    assert_eq!(objection(&world), None);
}

#[test]
fn pages_that_are_charged_no_more_and_never_were_break_unwind() {
    let world = booted(MachineKind::Vfio);
    world.users[0].memory.uncharge(1);
    assert_eq!(objection(&world), Some(Promise::Unwind));
}

#[test]
fn a_call_that_fails_and_keeps_a_pin_or_a_charge_breaks_unwind() {
    let keeps: [Deed; 3] =
        [("nothing", |_| {}), ("a pin", |world| pins(world, 0)), ("a charge", |world| charges(world, 0))];
    for (what, keep) in keeps {
        let world = usable(MachineKind::Vfio);
        let before = world.before();
        keep(&world);
        assert_eq!(world.refused(&before, Errno::Einval, "it"), Done::Refused);
        assert_eq!(objection(&world), (what != "nothing").then_some(Promise::Unwind), "{what}");
    }
}

#[test]
fn a_block_that_is_out_when_a_users_life_is_over_and_a_machine_that_is_kept_break_no_leak() {
    let lived = |leaks: bool, keeps: bool| {
        let world = usable(MachineKind::Vfio);
        world.end(None);
        let _machine = keeps.then(|| world.bus.clone());
        if leaks {
            world.bus.cpu().alloc(0x1000, 0x1000).expect("there is room");
        }
        buried(world, 0).wrong.map(|(wrong, _)| (wrong.promise, wrong.what))
    };
    assert_eq!(lived(false, false), None);
    assert_eq!(lived(false, true), Some((Promise::NoLeak, "the machine is kept, 1 times".into())));
    let (promise, what) = lived(true, false).expect("a block is out");
    assert!(promise == Promise::NoLeak && what.starts_with("1 blocks are still out: "), "{what}");
}

#[test]
fn a_call_for_interrupts_that_fails_may_keep_its_doorbells_tables_and_no_more() {
    let world = usable(MachineKind::Vfio);
    let takes = || world.bus.cpu().alloc(0x1000, 0x1000).expect("there is room");
    let mut before = world.before();
    before.may_add = 1;
    let _table = takes();
    assert_eq!(world.refused(&before, Errno::Einval, "it"), Done::Refused);
    assert_eq!(objection(&world), None);
    let _lost = takes();
    assert_eq!(world.refused(&before, Errno::Einval, "it"), Done::Refused);
    assert_eq!(objection(&world), Some(Promise::Unwind));
}

#[test]
fn a_doorbell_has_its_tables_from_the_first_interrupt_until_the_group_leaves() {
    let world = usable(MachineKind::Vfio);
    let has_one = || locked(&world.groups[0].held).doorbell;
    assert_eq!(world.open_device(0, 0), Done::Succeeded);
    // No event files: no doorbell.
    world.set_irqs(0, 0, 0);
    assert!(!has_one());
    assert_eq!((world.set_irqs(0, 0, 0b10_0100), has_one()), (Done::Succeeded, true));
    assert_eq!(world.die(0), Done::Succeeded);
    assert!(!has_one());
    assert_eq!(objection(&world), None);
}

#[test]
fn a_pe_that_nobody_gave_back_breaks_no_leak_when_a_group_comes_again() {
    for leaks in [false, true] {
        let world = booted(MachineKind::Power8);
        let Iron::Power { driver, .. } = &world.iron else { panic!("it is one") };
        assert_eq!(world.remove(0), Done::Succeeded);
        if leaks {
            driver.assign(&[SourceId(0x7700)]).expect("there are PEs left");
        }
        assert_eq!(world.add(0), Done::Succeeded);
        assert_eq!(objection(&world), leaks.then_some(Promise::NoLeak));
    }
}

#[test]
fn an_error_that_blames_hardware_or_memory_when_nothing_was_wrong_breaks_service() {
    for errno in [Errno::Eio, Errno::Enomem] {
        let world = usable(MachineKind::Vfio);
        assert_eq!(world.refused(&world.before(), errno, "it"), Done::Refused);
        assert_eq!(objection(&world), Some(Promise::Service), "{errno:?}");
    }
}

#[test]
fn a_call_that_is_refused_though_nothing_is_in_its_way_breaks_service() {
    let opens = || {
        let world = booted(MachineKind::Vfio);
        assert_eq!(world.open_container(0), Done::Succeeded);
        assert_eq!(world.open_group(0, 0), Done::Succeeded);
        world
    };
    // Each is refused for what whoever watches does not know.
    let joins = opens();
    assert_eq!(joins.set_container(0, 0, 0), Done::Succeeded);
    locked(&joins.groups[0].held).container = None;
    joins.change(HIS, |one| one.groups.clear());
    assert_eq!(joins.set_container(0, 0, 0), Done::Refused, "it is in it");
    assert_eq!(objection(&joins), Some(Promise::Service), "joining");
    for kind in BOTH {
        let becomes = usable(kind);
        becomes.change(HIS, |one| one.kind = 0);
        assert_eq!(becomes.set_iommu(0, 0, 0), Done::Refused);
        assert_eq!(objection(&becomes), Some(Promise::Service), "setting the IOMMU on {kind:?}");
    }
    let device = opens();
    let known = usable(MachineKind::Vfio);
    locked(&device.groups[0].held).container = Some(HIS);
    device.change(HIS, |one| one.kind = container(&known).kind);
    assert_eq!(device.open_device(0, 0), Done::Refused);
    assert_eq!(objection(&device), Some(Promise::Service), "opening a device");
}

#[test]
fn a_dead_user_whose_pages_stay_pinned_or_charged_breaks_no_leak() {
    let keeps: [Deed; 2] = [("a pin", |world| pins(world, 0)), ("a charge", |world| charges(world, 0))];
    for (what, keep) in keeps {
        let (world, _) = mapped(MachineKind::Vfio);
        keep(&world);
        assert_eq!(world.die(0), Done::Succeeded);
        assert_eq!(objection(&world), Some(Promise::NoLeak), "{what}");
    }
}

#[test]
fn the_end_of_a_life_finds_pins_interrupts_and_groups_that_are_still_held() {
    let left: [(Deed, Option<Promise>); 5] = [
        (("nothing", |_| {}), None),
        // He has no file open, so that his death is none.
        (("a pin", |world| pins(world, 1)), Some(Promise::NoLeak)),
        (("a charge", |world| charges(world, 1)), Some(Promise::NoLeak)),
        (
            ("an interrupt", |world| world.devices[1].function().connect(Arc::new(Event::default()))),
            Some(Promise::NoLeak),
        ),
        (
            ("a claim", |world| {
                let owner = Owner::new(0x9000).expect("not zero");
                world.groups[1].group.claim_group(owner).expect("nobody has it");
            }),
            Some(Promise::OneOwner),
        ),
    ];
    for kind in BOTH {
        for ((what, leave), promise) in left {
            let (world, _) = mapped(kind);
            leave(&world);
            world.end(None);
            assert_eq!(objection(&world), promise, "{what} on {kind:?}");
        }
    }
}

#[test]
fn memory_that_is_used_after_it_was_freed_breaks_reclaim() {
    for at_the_end in [false, true] {
        let world = booted(MachineKind::Vfio);
        let block = world.bus.cpu().alloc(0x1000, 0x1000).expect("there is memory");
        world.bus.cpu().free(block, 0x1000).expect("it is live");
        let _read = model_bus::Fabric::read(&*world.bus, block, &mut [0; 8]);
        if at_the_end {
            world.end(None)
        } else {
            world.look_after(OpKind::Step)
        }
        assert_eq!(objection(&world), Some(Promise::Reclaim), "at the end {at_the_end}");
    }
}

#[test]
fn an_audit_finds_what_is_mapped_and_not_granted_and_what_is_granted_and_not_mapped() {
    type Told = fn(&mut Shadow, SpaceId, Grant);
    let told: [(Told, Option<Promise>); 4] = [
        (|_, _, _| {}, None),
        (
            |shadow, space, _| {
                let token = shadow.begin_unmap(space, &[(0, u64::MAX)]);
                shadow.end_unmap(space, token);
            },
            Some(Promise::Isolation),
        ),
        (
            |shadow, space, grant| {
                let next = Grant { first: grant.last + 1, last: grant.last + PAGE, ..grant };
                shadow.grant_over(space, next);
            },
            Some(Promise::Service),
        ),
        (|shadow, _, _| shadow.end_move(0, Way::Blocked), Some(Promise::Isolation)),
    ];
    for kind in BOTH {
        for (number, (tell, promise)) in told.into_iter().enumerate() {
            let (world, grant) = mapped(kind);
            assert_eq!(world.open_device(0, 0), Done::Succeeded);
            assert_eq!(world.set_irqs(0, 0, 0b10_0100), Done::Succeeded, "a doorbell is nobody's grant");
            let space = container(&world).space;
            world.hub.shadow(|shadow| tell(shadow, space, grant));
            world.audit();
            assert_eq!(objection(&world), promise, "{kind:?}, {number}");
        }
    }
}

/// He has mapped a page on POWER8, with these flags. With where its TCE lies.
fn mapped_by_tce(flags: u8) -> (Arc<UserWorld>, Grant, u64) {
    let world = usable(MachineKind::Power8);
    assert_eq!(world.map_dma(0, 0, 4, (0, 1), flags), Done::Succeeded);
    let space = container(&world).space;
    let grant = world.hub.shadow(|shadow| shadow.some_live(space, 0)).expect("it is mapped");
    let ram = world.bus.cpu().ram();
    let is_it = |at: &u64| ram.load(Pa::new(*at)).is_ok_and(|word| word.swap_bytes() & !3 == grant.pa);
    let tce = (0x4000_0000..0x4400_0000).step_by(8).find(is_it).expect("it is in a table");
    world.audit();
    assert_eq!(objection(&world), None);
    (world, grant, tce)
}

#[test]
fn an_audit_finds_a_tce_that_says_what_nobody_was_granted_or_not_what_somebody_was() {
    type Told = (&'static str, u8, u64, fn(u64) -> u64, Promise);
    let told: [Told; 5] = [
        ("one more", 3, 8, |pa| (pa + PAGE) | 3, Promise::Isolation),
        ("another page", 3, 0, |pa| (pa + PAGE) | 3, Promise::Isolation),
        ("writing, too", 1, 0, |pa| pa | 3, Promise::Isolation),
        ("reading alone", 3, 0, |pa| pa | 1, Promise::Service),
        ("nothing", 3, 0, |_| 0, Promise::Service),
    ];
    for (what, flags, beside, says, promise) in told {
        for unsure in [false, true] {
            let (world, grant, tce) = mapped_by_tce(flags);
            if unsure {
                world.hub.faults.fired(FaultKind::NoSync);
            }
            let word = says(grant.pa).swap_bytes();
            world
                .bus
                .cpu()
                .ram()
                .store_masked(Pa::new(tce + beside), word, u64::MAX)
                .expect("a table has more than one");
            world.audit();
            assert_eq!(objection(&world), Some(promise), "{what}, unsure: {unsure}");
        }
    }
}

#[test]
fn an_audit_finds_a_window_that_nobody_made_and_one_without_sense() {
    // The second TVE: past translation up to 16 GiB; I/O pages of 8K.
    for (tve, promise) in [(0x0000_0000_0400_1000, Promise::Isolation), (0x1_0102, Promise::Hitless)] {
        let (world, _) = mapped(MachineKind::Power8);
        let Iron::Power { registers, .. } = &world.iron else { panic!("no bridge") };
        let pe = locked(&world.groups[0].pe).expect("its devices are there");
        // IODA_ADDR and IODA_DATA0.
        registers.write64(0x220, 9 << 48 | u64::from(pe) << 1 | 1);
        registers.write64(0x228, tve);
        world.audit();
        assert_eq!(objection(&world), Some(promise), "{tve:#x}");
    }
}

#[test]
fn an_audit_finds_a_tag_that_the_tables_of_two_groups_have() {
    let (world, _) = mapped(MachineKind::Vfio);
    world.audit();
    assert_eq!(objection(&world), None);
    let ram = world.bus.cpu().ram();
    let load = |at: u64| ram.load(Pa::new(at)).expect("it lies in RAM");
    // The VMID of an entry with a second stage alone, bits 143:128; or the ASID of its context descriptor, bits 63:48.
    let tag = |device: usize| {
        let source = world.devices[device].engine.sources[0].0;
        let entry = world.hub.entry_of(0, source).expect("it has an entry").get();
        let word = load(entry);
        if word & 0b1110 == 0b1100 {
            (entry + 16, 0xffff)
        } else {
            (word & 0x000f_ffff_ffff_ffc0, 0xffff << 48)
        }
    };
    let ((at, mask), (other, same)) = (tag(0), tag(1));
    assert_eq!(mask, same, "tables of one stage");
    ram.store_masked(Pa::new(at), load(other), mask).expect("it lies in RAM");
    world.audit();
    assert_eq!(objection(&world), Some(Promise::NoReuse));
}

#[test]
fn an_audit_finds_a_source_that_is_of_another_groups_pe() {
    let world = usable(MachineKind::Power8);
    world.audit();
    assert_eq!(objection(&world), None);
    let (mut one, mut other) = (locked(&world.groups[0].pe), locked(&world.groups[1].pe));
    core::mem::swap(&mut *one, &mut *other);
    drop((one, other));
    world.audit();
    assert_eq!(objection(&world), Some(Promise::Isolation));
}

#[test]
fn an_audit_finds_a_source_that_is_nobodys_also_if_the_bridge_did_not_confirm_something() {
    for unsure in [false, true] {
        let (world, _) = mapped(MachineKind::Power8);
        let Iron::Power { registers, .. } = &world.iron else { panic!("no bridge") };
        if unsure {
            world.hub.faults.fired(FaultKind::NoSync);
        }
        // RTT_BAR: bit 63 says that it is valid. Two bytes for each requester.
        let entry =
            (registers.read64(0x168) & !(1 << 63)) + 2 * u64::from(world.devices[0].engine.sources[0].0);
        world.bus.cpu().ram().write(Pa::new(entry), &[0, 255]).expect("the RTT lies in RAM");
        world.audit();
        assert_eq!(objection(&world), Some(Promise::Service));
    }
}

#[test]
fn an_audit_finds_a_group_that_left_and_is_in_its_container_still() {
    let (world, _) = mapped(MachineKind::Vfio);
    world.audit();
    assert_eq!(objection(&world), None);
    let kernels = world.groups[0].space;
    world.hub.shadow(|shadow| shadow.end_move(0, Way::Space(kernels)));
    world.audit();
    assert_eq!(objection(&world), Some(Promise::Isolation));
}

/// Writes SMMU_STRTAB_BASE of the first SMMU, while SMMU_CR0.SMMUEN is set.
fn does_what_is_forbidden(world: &UserWorld) {
    world.bus.write_register(Pa::new(0x0900_0080), Width::Bits64, 0).expect("a register is there");
}

#[test]
fn a_register_that_is_written_when_the_book_forbids_it_breaks_book() {
    for at_the_end in [false, true] {
        let world = usable(MachineKind::Vfio);
        world.look_after(OpKind::Step);
        assert_eq!(objection(&world), None);
        does_what_is_forbidden(&world);
        if at_the_end {
            world.end(None)
        } else {
            world.look_after(OpKind::Step)
        }
        assert_eq!(objection(&world), Some(Promise::Book), "at the end {at_the_end}");
    }
}

#[test]
fn who_is_given_a_group_that_another_has_breaks_one_owner() {
    type Told = fn(&mut super::world::GroupHeld);
    type Given = (&'static str, Arc<UserWorld>, Told, fn(&UserWorld) -> Done);
    let kind = MachineKind::Vfio;
    let joins = || {
        let world = booted(kind);
        assert_eq!(world.open_container(0), Done::Succeeded);
        assert_eq!(world.open_group(0, 0), Done::Succeeded);
        world
    };
    let given: [Given; 5] = [
        ("a group opened twice", booted(kind), |held| held.files = 1, |world| world.open_group(0, 0)),
        ("a driver", booted(kind), |held| held.container = Some(HIS), |world| world.bind_driver(0)),
        ("a group that joins", joins(), |held| held.drivers = 1, |world| world.set_container(0, 0, 0)),
        ("a device", usable(kind), |held| held.drivers = 1, |world| world.open_device(0, 0)),
        (
            "a device of no container",
            usable(kind),
            |held| held.container = None,
            |world| world.open_device(0, 0),
        ),
    ];
    for (what, world, tell, give) in given {
        tell(&mut locked(&world.groups[0].held));
        assert_eq!(give(&world), Done::Succeeded, "{what}");
        assert_eq!(objection(&world), Some(Promise::OneOwner), "{what}");
    }
}

#[test]
fn a_group_that_leaves_while_its_devices_are_open_breaks_one_owner() {
    let world = usable(MachineKind::Vfio);
    locked(&world.groups[0].held).files = 2;
    let _left = world.unset_container(0, 0);
    assert_eq!(objection(&world), Some(Promise::OneOwner));
}

#[test]
fn a_message_that_a_user_wrote_breaks_isolation() {
    for forged in [false, true] {
        let world = usable(MachineKind::Vfio);
        assert_eq!(world.open_device(0, 0), Done::Succeeded);
        if forged {
            world.devices[0].function().forge_message();
        }
        // A word of its registers.
        assert_eq!(world.region(0, 0, 0), Done::Succeeded);
        assert_eq!(objection(&world), forged.then_some(Promise::Isolation));
    }
}

#[test]
fn a_device_that_goes_on_when_its_file_is_closed_breaks_one_owner() {
    let world = usable(MachineKind::Vfio);
    assert_eq!(world.open_device(0, 0), Done::Succeeded);
    assert_eq!(world.open_device(0, 0), Done::Succeeded);
    // One of two files of the device, and whoever watches is told of none.
    world.users[0].forget_file(super::task::Of::Device(0));
    let place = world.users[0].open_files().len() - 1;
    assert_eq!(world.close(0, u8::try_from(place).expect("few files")), Done::Succeeded);
    assert_eq!(objection(&world), Some(Promise::OneOwner));
}

/// Firmware has reserved everything, and only whoever watches knows it.
fn reserve_all(world: &mut Arc<UserWorld>) {
    let world = Arc::get_mut(world).expect("nobody else has it");
    world.devices[0].spec.reserved = Some((0, u64::MAX));
}

#[test]
fn a_map_over_a_reserved_region_breaks_reserved() {
    let mut world = usable(MachineKind::Vfio);
    reserve_all(&mut world);
    assert_eq!(map(&world), Done::Succeeded);
    assert_eq!(objection(&world), Some(Promise::Reserved));
    let mut world = booted(MachineKind::Vfio);
    reserve_all(&mut world);
    assert_eq!(world.bind_driver(0), Done::Succeeded);
    assert_eq!(world.kernel_map(0, 0, 1, 2), Done::Succeeded);
    assert_eq!(objection(&world), Some(Promise::Reserved));
}

#[test]
fn a_group_that_joins_where_its_reserved_region_is_mapped_breaks_reserved() {
    let (mut world, _) = mapped(MachineKind::Vfio);
    let state = Arc::get_mut(&mut world).expect("nobody else has it");
    state.devices[1].spec.reserved = Some((0, u64::MAX));
    assert_eq!(world.open_group(0, 1), Done::Succeeded);
    assert_eq!(world.set_container(0, 1, 0), Done::Succeeded);
    assert_eq!(objection(&world), Some(Promise::Reserved));
}

#[test]
fn an_address_that_is_mapped_twice_breaks_no_reuse() {
    let (world, grant) = mapped(MachineKind::Vfio);
    let space = container(&world).space;
    let next = Grant { first: grant.last + 1, last: grant.last + PAGE, ..grant };
    world.hub.shadow(|shadow| shadow.grant_over(space, next));
    assert_eq!(world.map_dma(0, 0, 5, (0, 1), 3), Done::Succeeded);
    assert_eq!(objection(&world), Some(Promise::NoReuse));
    let world = booted(MachineKind::Vfio);
    assert_eq!(world.bind_driver(0), Done::Succeeded);
    let all = Grant { first: 0, last: u64::MAX >> 1, ..grant };
    world.hub.shadow(|shadow| shadow.grant_over(world.groups[0].space, all));
    assert_eq!(world.kernel_map(0, 0, 1, 2), Done::Succeeded);
    assert_eq!(objection(&world), Some(Promise::NoReuse));
}

#[test]
fn a_map_where_a_mapping_waits_for_hardwares_word_breaks_no_reuse() {
    for (state, promise) in [(MapState::Stale, Some(Promise::NoReuse)), (MapState::Unknown, None)] {
        let world = usable(MachineKind::Vfio);
        let waits = Mapped { len: PAGE, state };
        world.change(HIS, |one| one.maps.insert(0x000e_4000, waits));
        assert_eq!(map(&world), Done::Succeeded);
        assert_eq!(objection(&world), promise, "{state:?}");
        let left = container(&world).maps[&0x000e_4000];
        assert!(!left.waits(), "it is the new one");
    }
}

#[test]
fn a_container_is_in_doubt_where_either_of_two_mappings_may_have_been_left() {
    let world = usable(MachineKind::Vfio);
    let wanted = |pages: u64| Wanted { first: 0x000e_4000, len: pages * PAGE, va: VA, flags: 3 };
    for (pages, doubt) in [(2, false), (2, false), (3, true)] {
        world.may_be_left(HIS, &wanted(pages));
        let one = container(&world);
        assert_eq!((one.maps[&0x000e_4000].len, one.maps.len(), one.doubt), (2 * PAGE, 1, doubt));
    }
}

#[test]
fn an_unmap_that_leaves_out_what_waits_breaks_service() {
    let (world, grant) = mapped(MachineKind::Vfio);
    let waits = |state| Mapped { len: PAGE, state };
    world.change(HIS, |one| one.maps.insert(grant.first + PAGE, waits(MapState::Unknown)));
    assert_eq!(world.unmap_all(0, 0), Done::Succeeded);
    assert_eq!(objection(&world), None, "nobody said that it was there");
    let (world, grant) = mapped(MachineKind::Vfio);
    world.change(HIS, |one| one.maps.insert(grant.first + PAGE, waits(MapState::Stale)));
    assert_eq!(world.unmap_all(0, 0), Done::Succeeded);
    assert_eq!(objection(&world), Some(Promise::Service));
}

#[test]
fn a_container_is_in_doubt_behind_a_refused_call_only_if_hardware_did_not_confirm() {
    for confirmed in [true, false] {
        let world = usable(MachineKind::Power8);
        let before = world.before();
        if !confirmed {
            world.hub.faults.fired(FaultKind::NoSync);
        }
        let one = container(&world);
        assert_eq!(world.refused_tce(&before, (HIS, &one), Errno::Einval, 0, "nothing"), Done::Refused);
        assert_eq!(container(&world).doubt, !confirmed);
    }
}

#[test]
fn a_map_of_memory_that_is_not_the_users_breaks_isolation() {
    let world = usable(MachineKind::Vfio);
    let one = container(&world);
    let token = world.hub.shadow(|shadow| shadow.begin_map(one.space, &[], true, true));
    world.mapped(HIS, &one, token, None, &Wanted { first: 0, len: PAGE, va: VA, flags: 3 });
    assert_eq!(objection(&world), Some(Promise::Isolation));
}

#[test]
fn a_map_of_memory_that_is_not_registered_breaks_isolation() {
    let world = usable(MachineKind::Power8);
    world.change(HIS, |one| one.registered.clear());
    assert_eq!(map(&world), Done::Succeeded);
    assert_eq!(objection(&world), Some(Promise::Isolation));
}

#[test]
fn a_map_in_no_window_breaks_reserved() {
    let world = usable(MachineKind::Power8);
    world.change(HIS, |one| (one.windows, one.pending) = ([None; 2], false));
    assert_eq!(map(&world), Done::Succeeded);
    assert_eq!(objection(&world), Some(Promise::Reserved));
}

#[test]
fn a_window_that_is_made_where_one_is_breaks_reserved() {
    let (world, _) = mapped(MachineKind::Power8);
    let first = container(&world).windows[0].expect("the default one was made");
    world.change(HIS, |one| one.windows[1] = Some(first));
    assert_eq!(world.create_window(0, 0, 0), Done::Succeeded);
    assert_eq!(objection(&world), Some(Promise::Reserved));
}

#[test]
fn a_window_that_is_removed_and_that_there_is_not_breaks_service() {
    let (world, _) = mapped(MachineKind::Power8);
    world.change(HIS, |one| one.windows[0] = None);
    assert_eq!(world.remove_window(0, 0, 0), Done::Succeeded);
    assert_eq!(objection(&world), Some(Promise::Service));
}

#[test]
fn memory_that_is_registered_twice_breaks_isolation() {
    let world = usable(MachineKind::Power8);
    world.change(HIS, |one| one.registered.insert(VA + 40 * PAGE, PAGE));
    assert_eq!(world.register_memory(0, 0, 40, 1), Done::Succeeded);
    assert_eq!(objection(&world), Some(Promise::Isolation));
}

#[test]
fn memory_that_is_unregistered_while_it_is_mapped_breaks_reclaim() {
    let world = usable(MachineKind::Power8);
    let (pa, _) = world.users[0].memory.page(VA).expect("his first page");
    let one = one_page(0x10_0000, pa);
    // Not by the pins, which the shadow judges for itself.
    locked(&world.book.spaces).clear();
    world.hub.shadow(|shadow| shadow.grant_over(container(&world).space, one));
    assert_eq!(world.unregister_memory(0, 0, 0), Done::Succeeded);
    assert_eq!(objection(&world), Some(Promise::Reclaim));
}

#[test]
fn an_unmap_that_says_other_bytes_than_were_mapped_breaks_service() {
    let (world, grant) = mapped(MachineKind::Vfio);
    world.change(HIS, |one| one.maps.get_mut(&grant.first).expect("it is mapped").len = 2 * PAGE);
    assert_eq!(world.unmap_all(0, 0), Done::Succeeded);
    assert_eq!(objection(&world), Some(Promise::Service));
}
