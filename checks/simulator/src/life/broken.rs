//! Promises are broken behind the back of a life, one at a time: an operation, an audit or the end must object, and by the promise's name.
//!
//! Either the world is not what whoever watches was told, or somebody does in the middle of an operation what a driver must not do. What the watchers decide by
//! themselves is tested beside them (`oracle::broken`).

use core::sync::atomic::Ordering::Relaxed;
use std::collections::BTreeMap;
use std::sync::{Arc, Weak};

use model_bus::{Bus, Fabric, Outcome, Width};
use portcullis::core::owner::Owner;
use portcullis::core::sva::DeviceSwitches;
use portcullis::hal::{BlockLayout, DmaMemory};
use portcullis::types::{Pa, PaRange, SizeLg2};

use super::irq::Forge;
use super::sva::PROCESSES;
use super::world::{Slot, World};
use super::{Done, OpKind, Pick, buried};
use crate::fault::FaultKind;
use crate::hub::{Hub, Place, Turns, locked};
use crate::machine::{DeviceSpec, Spec, Switch};
use crate::options::MachineKind;
use crate::oracle::tables::Way as Found;
use crate::oracle::{Ended, Grant, Meaning, Seen, SpaceId, Way};
use crate::promise::Promise;

/// Machines with one device, of which firmware says nothing, and pages of 4 KiB.
fn specs(kind: MachineKind) -> impl Iterator<Item = Spec> {
    let fits = |spec: &Spec| spec.granule == SizeLg2::KIB_4 && spec.coherent && spec.units.len() == 1;
    (0..64).map(move |seed| Spec::draw(seed, kind)).filter(fits).map(|mut spec| {
        spec.groups = vec![(0, false)];
        spec.devices.truncate(1);
        let device = &mut spec.devices[0];
        (device.mask_bits, device.max_segment, device.boundary) = (64, u64::MAX, None);
        (device.reserved, device.direct) = (None, None);
        spec
    })
}

pub(super) fn spec(kind: MachineKind) -> Spec {
    specs(kind).next().expect("many seeds draw one")
}

/// It has booted, its device is there, and nobody has turns.
pub(super) fn booted(spec: Spec) -> Arc<World> {
    let world = World::new(7, spec, false).expect("the machine boots");
    world.hub.begin(7);
    world.all_devices_come();
    assert_eq!(objection(&world), None);
    world
}

fn plain() -> Arc<World> {
    booted(spec(MachineKind::Smmuv3))
}

/// The same, and its group's domain is lazy.
fn lazy() -> Arc<World> {
    booted(Spec { groups: vec![(0, true)], ..spec(MachineKind::Smmuv3) })
}

/// IOMMUs of each vendor.
const VENDORS: [MachineKind; 3] = [MachineKind::Smmuv3, MachineKind::Smmuv2, MachineKind::X86];

/// A driver is bound, and has mapped two pages.
fn mapped_on(kind: MachineKind) -> (Arc<World>, SpaceId, Grant) {
    let world = booted(spec(kind));
    assert_eq!(world.bind_driver(0), Done::Succeeded);
    assert_eq!(world.map(0, 0, 2, 0, 2), Done::Succeeded);
    let space = locked(&world.groups[0].inner).space;
    let grant = world.hub.shadow(|shadow| shadow.some_live(space, 0)).expect("something is mapped");
    (world, space, grant)
}

fn mapped() -> (Arc<World>, SpaceId, Grant) {
    mapped_on(MachineKind::Smmuv3)
}

/// User 1 has the group, and attached it to a domain.
fn attached_on(kind: MachineKind) -> Arc<World> {
    let world = booted(spec(kind));
    assert_eq!(world.claim(0, 0, true), Done::Succeeded);
    assert_eq!(world.new_domain(0, 0), Done::Succeeded);
    assert_eq!(world.attach(0, 0, 1), Done::Succeeded);
    world
}

fn attached() -> Arc<World> {
    attached_on(MachineKind::Smmuv3)
}

pub(super) fn objection(world: &World) -> Option<Promise> {
    world.hub.first_wrong().map(|wrong| wrong.promise)
}

/// Whoever watches believes that nothing is mapped in a space.
fn forget(world: &World, space: SpaceId) {
    world.hub.shadow(|shadow| {
        let token = shadow.begin_unmap(space, &[(0, u64::MAX)]);
        shadow.end_unmap(space, token);
    });
}

/// Changes the first word of the device's entry in memory.
fn spoil_entry(world: &World, value: u64, mask: u64) {
    let source = world.devices[0].engine.sources[0].0;
    let entry = world.hub.entry_of(0, source).expect("it has an entry");
    world.bus.cpu().ram().store_masked(entry, value, mask).expect("it lies in RAM");
}

#[test]
fn a_machine_that_somebody_keeps_beyond_its_life_is_objected_to() {
    let lived = |keeps: bool| {
        let world = plain();
        world.end(None);
        let _platform = keeps.then(|| world.platform.clone());
        buried(world, 0).wrong.map(|(wrong, _)| (wrong.promise, wrong.what))
    };
    assert_eq!(lived(false), None);
    // The platform has the bus, and the hub that has it too.
    assert_eq!(lived(true), Some((Promise::NoLeak, "the machine is kept, 2 times".into())));
}

#[test]
fn a_block_that_is_out_when_a_life_is_over_breaks_no_leak_unless_hardware_may_have_it_still() {
    for excused in [false, true] {
        let world = plain();
        world.end(None);
        world.bus.cpu().alloc(0x1000, 0x1000).expect("there is room");
        world.lost.store(excused, Relaxed);
        let said = buried(world, 0).wrong.map(|(wrong, _)| (wrong.promise, wrong.what));
        let is_it = |what: &str| what.starts_with("1 blocks are still out: ");
        let leak = said.as_ref().is_some_and(|(promise, what)| *promise == Promise::NoLeak && is_it(what));
        assert_eq!((leak, said.is_none()), (!excused, excused), "{said:?}");
    }
}

#[test]
fn an_access_to_what_was_taken_away_breaks_isolation() {
    let (world, space, grant) = mapped();
    let _done = world.access(0, 0, grant.first, 8, true);
    assert_eq!(objection(&world), None);
    forget(&world, space);
    let _reached = world.access(0, 0, grant.first, 8, true);
    assert_eq!(objection(&world), Some(Promise::Isolation));
}

#[test]
fn an_access_that_is_refused_though_it_was_granted_breaks_service() {
    let (world, space, grant) = mapped();
    let beside = Grant { first: grant.first ^ 0x100_0000, last: grant.last ^ 0x100_0000, ..grant };
    world.hub.shadow(|shadow| shadow.grant_over(space, beside));
    let _refused = world.access(0, 0, beside.first, 8, true);
    assert_eq!(objection(&world), Some(Promise::Service));
}

/// A PC whose device has two interrupts, of which it can raise the first.
fn with_interrupts() -> Arc<World> {
    let worlds = specs(MachineKind::X86).map(booted);
    let mut remapping = worlds.filter(|world| world.units[0].driver.remapping().is_some());
    let world = remapping.next().expect("many seeds draw one that remaps");
    // Of its first source alone.
    assert_eq!(world.take_irqs(0, 0, 1, 0b10), Done::Succeeded);
    assert_eq!(world.clear_irq(0, 1), Done::Succeeded);
    assert_eq!(world.raise_irq(0, 0, 0, 0, Forge::Nothing), Done::Succeeded);
    assert_eq!(objection(&world), None);
    world
}

#[test]
fn an_interrupt_that_is_nobodys_any_more_breaks_isolation() {
    let world = with_interrupts();
    for forge in [Forge::Entry(1), Forge::Entry(200), Forge::Compatible(0x141)] {
        assert_eq!(world.raise_irq(0, 0, 0, 0, forge), Done::Refused, "{forge:?}");
    }
    assert_eq!(objection(&world), None);
    world.hub.vectors(|vectors| vectors.end((0, 0), None, Ended::Confirmed));
    let _raised = world.raise_irq(0, 0, 0, 0, Forge::Nothing);
    assert_eq!(objection(&world), Some(Promise::Isolation));
}

#[test]
fn an_interrupt_that_does_not_come_breaks_service() {
    let world = with_interrupts();
    assert_eq!(world.raise_irq(0, 0, 0, 1, Forge::Nothing), Done::Refused);
    assert_eq!(objection(&world), None);
    let sources = vec![world.devices[0].engine.sources[0].0];
    world.hub.vectors(|vectors| {
        let raised = vectors.fresh(false);
        vectors.end((0, 1), Some(Meaning { sources, raised }), Ended::Confirmed);
    });
    let _blocked = world.raise_irq(0, 0, 0, 1, Forge::Nothing);
    assert_eq!(objection(&world), Some(Promise::Service));
}

#[test]
fn an_audit_finds_what_is_mapped_and_not_granted() {
    for kind in VENDORS {
        let (world, space, _) = mapped_on(kind);
        world.audit();
        assert_eq!(objection(&world), None, "{kind:?}");
        forget(&world, space);
        world.audit();
        assert_eq!(objection(&world), Some(Promise::Isolation), "{kind:?}");
    }
}

#[test]
fn an_audit_finds_what_is_granted_and_not_mapped() {
    for kind in VENDORS {
        let (world, space, grant) = mapped_on(kind);
        let beside = Grant { first: grant.first ^ 0x100_0000, last: grant.last ^ 0x100_0000, ..grant };
        world.hub.shadow(|shadow| shadow.grant_over(space, beside));
        world.audit();
        assert_eq!(objection(&world), Some(Promise::Service), "{kind:?}");
    }
}

#[test]
fn an_audit_finds_a_tag_that_two_tables_have() {
    for kind in VENDORS {
        let alone = spec(kind);
        let other = DeviceSpec { sources: vec![0x10], group: 1, ..alone.devices[0].clone() };
        let groups = vec![(0, false), (0, false)];
        let world = booted(Spec { devices: vec![alone.devices[0].clone(), other], groups, ..alone });
        world.audit();
        assert_eq!(objection(&world), None, "{kind:?}");
        // Somebody was found before whose table is another.
        let source = world.devices[1].engine.sources[0];
        let tags = world.hub.reading(|tables| world.units[0].iron.tags(&world.place(0), source, tables));
        let mut tagged = BTreeMap::from([((0, tags[0].0), tags[0].1 + 0x1000)]);
        world.audit_tags(1, &mut tagged);
        assert_eq!(objection(&world), Some(Promise::NoReuse), "{kind:?}");
    }
}

#[test]
fn an_audit_finds_a_device_that_is_blocked_and_has_a_table() {
    for kind in VENDORS {
        let (world, ..) = mapped_on(kind);
        world.hub.shadow(|shadow| shadow.end_move(0, Way::Blocked));
        world.audit();
        assert_eq!(objection(&world), Some(Promise::Isolation), "{kind:?}");
    }
}

#[test]
fn hardware_that_is_held_back_confirms_late_or_not_until_the_operation_has_returned() {
    for kind in VENDORS {
        let (world, ..) = mapped_on(kind);
        world.hub.faults.arm(FaultKind::LateSync, 1);
        assert_eq!(world.unmap(0), Done::Succeeded, "{kind:?}");
        assert_eq!((world.hub.faults.count(), world.hub.is_held()), (1, false), "{kind:?}");
        assert_eq!(world.map(0, 0, 2, 0, 2), Done::Succeeded, "{kind:?}");
        world.hub.faults.arm(FaultKind::NoSync, 1);
        assert_eq!(world.unmap(0), Done::Refused, "{kind:?}");
        assert!(world.hub.is_held(), "{kind:?}");
        world.hub.end();
        assert!(!world.hub.is_held(), "{kind:?}");
        world.pass(64);
        assert_eq!(world.map(0, 1, 2, 0, 2), Done::Succeeded, "{kind:?}");
        assert_eq!(world.unmap(1), Done::Succeeded, "it answers again, {kind:?}");
        assert_eq!(objection(&world), None, "{kind:?}");
    }
}

#[test]
fn a_domain_is_dropped_only_when_hardware_has_said_that_nobody_is_in_it_any_more() {
    for kind in VENDORS {
        let world = attached_on(kind);
        assert_eq!(world.user_map(0, 0, 2, 2, 1), Done::Succeeded, "{kind:?}");
        world.hub.faults.arm(FaultKind::NoSync, 1);
        assert_eq!(world.detach(0, 1), Done::Refused, "{kind:?}");
        world.release(0, 0, true);
        world.remove(0);
        assert!(world.hub.is_held() && world.hub.shadow(|shadow| shadow.is_late(0)), "{kind:?}");
        assert_eq!(world.drop_domain(0), Done::Skipped, "{kind:?}");
        world.go_on();
        assert_eq!(world.drop_domain(0), Done::Succeeded, "{kind:?}");
        world.end(None);
        assert_eq!(objection(&world), None, "{kind:?}");
    }
}

#[test]
fn what_an_audit_left_held_back_goes_on_before_the_end() {
    for kind in VENDORS {
        let (world, ..) = mapped_on(kind);
        world.hub.faults.arm(FaultKind::NoSync, 1);
        assert_eq!(world.unmap(0), Done::Refused, "{kind:?}");
        assert!(world.hub.is_held(), "{kind:?}");
        world.end(None);
        assert_eq!(objection(&world), None, "{kind:?}");
    }
}

#[test]
fn a_device_that_was_reset_moves_bytes_though_nothing_was_ever_taken_from_it() {
    let (world, ..) = mapped();
    let before = world.hub.accesses();
    assert_eq!(world.reset(0), Done::Succeeded);
    assert_eq!(world.hub.accesses(), before + 1, "what it has it reaches");
    let world = plain();
    assert_eq!(world.reset(0), Done::Succeeded);
    assert_eq!(world.refused.load(Relaxed), 1, "it has nothing");
    assert_eq!(objection(&world), None);
}

#[test]
fn firmware_lies_of_a_device_that_is_alone_too() {
    let world = plain();
    assert_eq!(world.remove(0), Done::Succeeded);
    // While hardware may not answer, it lies of sources alone.
    world.hub.faults.arm(FaultKind::NoSync, 1);
    world.hub.faults.arm(FaultKind::LyingFirmware, 1);
    assert_eq!(world.add(0), Done::Refused);
    assert_eq!(objection(&world), None);
}

#[test]
fn an_audit_finds_an_entry_past_translation_one_to_nowhere_and_one_without_sense() {
    // V, and Config in bits 3:1.
    let entries = [(0b1001, Promise::Isolation), (0b0001, Promise::Service), (0b1111, Promise::Hitless)];
    for (word, promise) in entries {
        let (world, ..) = mapped();
        spoil_entry(&world, word, 0xf);
        world.audit();
        assert_eq!(objection(&world), Some(promise), "{word:#b}");
    }
}

#[test]
fn a_mixture_that_hardware_would_see_in_the_middle_of_a_move_breaks_hitless() {
    let looked = |kind: MachineKind, spoil: &dyn Fn(&World, SpaceId, Grant)| {
        let (world, space, grant) = mapped_on(kind);
        world.hub.shadow(|shadow| shadow.begin_move(0, Way::Blocked));
        spoil(&world, space, grant);
        world.watch();
        objection(&world)
    };
    let elsewhere = |world: &World, space, grant: Grant| {
        world.hub.shadow(|shadow| shadow.grant_over(space, Grant { pa: grant.pa ^ 0x10_0000, ..grant }));
    };
    for kind in VENDORS {
        assert_eq!(looked(kind, &|_, _, _| {}), None, "{kind:?}");
        assert_eq!(looked(kind, &elsewhere), Some(Promise::Hitless), "another table, {kind:?}");
    }
    // An SMMUv2 has no entries in memory.
    for kind in [MachineKind::Smmuv3, MachineKind::X86] {
        let invalid = |world: &World, _, _| spoil_entry(world, 0, 1);
        assert_eq!(looked(kind, &invalid), None, "an entry that is not valid, {kind:?}");
        let half = |world: &World, _, _| spoil_entry(world, u64::MAX, u64::MAX);
        assert_eq!(looked(kind, &half), Some(Promise::Hitless), "half an entry, {kind:?}");
    }
}

#[test]
fn an_address_that_is_handed_out_twice_breaks_no_reuse() {
    let (world, space, grant) = mapped();
    world.hub.shadow(|shadow| shadow.grant_over(space, Grant { first: 0, last: u64::MAX >> 1, ..grant }));
    assert_eq!(world.map(0, 1, 1, 0, 2), Done::Succeeded);
    assert_eq!(objection(&world), Some(Promise::NoReuse));
    let world = attached();
    let space = world.user_domain(0).expect("it was made").space;
    world.hub.shadow(|shadow| shadow.grant_over(space, Grant { first: 0, last: u64::MAX >> 1, ..grant }));
    assert_eq!(world.user_map(0, 0, 1, 2, 1), Done::Succeeded);
    assert_eq!(objection(&world), Some(Promise::NoReuse));
}

/// Firmware has reserved everything, and only whoever watches knows it.
fn reserve_all(world: &mut Arc<World>) {
    let world = Arc::get_mut(world).expect("nobody else has it");
    world.devices[0].spec.reserved = Some((0, u64::MAX));
}

#[test]
fn a_map_over_a_reserved_region_breaks_reserved() {
    let mut world = plain();
    reserve_all(&mut world);
    assert_eq!(world.bind_driver(0), Done::Succeeded);
    assert_eq!(world.map(0, 0, 1, 0, 2), Done::Succeeded);
    assert_eq!(objection(&world), Some(Promise::Reserved));
    let mut world = attached();
    reserve_all(&mut world);
    assert_eq!(world.user_map(0, 0, 1, 2, 1), Done::Succeeded);
    assert_eq!(objection(&world), Some(Promise::Reserved));
}

/// Two devices in one group.
fn together() -> Arc<World> {
    let alone = spec(MachineKind::Smmuv3);
    let other = DeviceSpec { sources: vec![0x40], ..alone.devices[0].clone() };
    booted(Spec { devices: vec![alone.devices[0].clone(), other], ..alone })
}

#[test]
fn a_map_where_something_is_reserved_for_another_device_of_the_group_breaks_reserved() {
    for is_there in [true, false] {
        let mut world = together();
        assert_eq!(world.bind_driver(0), Done::Succeeded);
        if !is_there {
            assert_eq!(world.remove(1), Done::Succeeded);
        }
        let state = Arc::get_mut(&mut world).expect("nobody else has it");
        state.devices[1].spec.reserved = Some((0, u64::MAX));
        assert_eq!(world.map(0, 0, 1, 0, 2), Done::Succeeded);
        assert_eq!(objection(&world), is_there.then_some(Promise::Reserved));
    }
}

#[test]
fn a_map_beyond_what_a_device_reaches_breaks_reserved() {
    let mut world = plain();
    assert_eq!(world.bind_driver(0), Done::Succeeded);
    Arc::get_mut(&mut world).expect("nobody else has it").devices[0].spec.mask_bits = 13;
    assert_eq!(world.map(0, 0, 1, 0, 2), Done::Succeeded);
    assert_eq!(objection(&world), Some(Promise::Reserved));
}

#[test]
fn a_device_that_comes_where_something_of_the_kernels_lies_in_its_reserved_region_breaks_reserved() {
    let mut world = together();
    assert_eq!(world.bind_driver(0), Done::Succeeded);
    assert_eq!(world.remove(1), Done::Succeeded);
    assert_eq!(world.map(0, 0, 1, 0, 2), Done::Succeeded);
    let space = locked(&world.groups[0].inner).space;
    let grant = world.hub.shadow(|shadow| shadow.some_live(space, 0)).expect("it is mapped");
    // Its neighbour has been told of it as mapped elsewhere.
    let away = Grant { first: 0x9_0000, last: 0x9_0fff, ..grant };
    world.hub.shadow(|shadow| shadow.grant_over(space, away));
    let state = Arc::get_mut(&mut world).expect("nobody else has it");
    state.devices[1].spec.reserved = Some((0x9_0000, 0x9_0fff));
    assert_eq!(world.add(1), Done::Succeeded);
    assert_eq!(objection(&world), Some(Promise::Reserved));
}

#[test]
fn a_list_with_a_segment_that_its_device_does_not_take_breaks_service() {
    let lists: [fn(&mut DeviceSpec); 3] = [
        |_| {},
        // Pages of 4 KiB: of two the device takes one.
        |spec| spec.max_segment = 1,
        |spec| spec.boundary = SizeLg2::new(12),
    ];
    for (number, limit) in lists.into_iter().enumerate() {
        let mut world = plain();
        assert_eq!(world.bind_driver(0), Done::Succeeded);
        limit(&mut Arc::get_mut(&mut world).expect("nobody else has it").devices[0].spec);
        assert_eq!(world.scatter(0, 0, 1, 1, 2), Done::Succeeded);
        assert_eq!(objection(&world), (number > 0).then_some(Promise::Service));
    }
}

#[test]
fn addresses_that_are_nobodys_and_are_not_free_break_no_leak() {
    let (world, ..) = mapped();
    world.audit_addresses();
    assert_eq!(objection(&world), None);
    let lost = core::mem::replace(&mut locked(&world.slots)[0], Slot::Empty);
    world.audit_addresses();
    assert_eq!(objection(&world), Some(Promise::NoLeak));
    drop(lost);
}

#[test]
fn an_attach_of_several_devices_that_drivers_of_the_kernel_use_breaks_one_owner() {
    for used in [false, true] {
        let world = together();
        assert_eq!(world.new_domain(0, 0), Done::Succeeded);
        if used {
            locked(&world.groups[0].inner).ledger.kernel.push(0);
        }
        assert_eq!(world.attach(0, 0, 0), Done::Succeeded);
        assert_eq!(objection(&world), used.then_some(Promise::OneOwner));
    }
}

#[test]
fn an_attach_where_something_lies_in_a_reserved_region_breaks_reserved() {
    let mut world = plain();
    reserve_all(&mut world);
    assert_eq!(world.claim(0, 0, true), Done::Succeeded);
    assert_eq!(world.new_domain(0, 0), Done::Succeeded);
    assert_eq!(world.user_map(0, 0, 1, 2, 1), Done::Succeeded);
    assert_eq!(objection(&world), None);
    assert_eq!(world.attach(0, 0, 1), Done::Succeeded);
    assert_eq!(objection(&world), Some(Promise::Reserved));
}

#[test]
fn a_user_who_is_given_a_device_that_firmware_works_with_breaks_reserved() {
    let mut world = plain();
    let state = Arc::get_mut(&mut world).expect("nobody else has it");
    (state.devices[0].spec.direct, state.devices[0].spec.relaxable) = (Some(0), false);
    assert_eq!(world.claim(0, 0, true), Done::Succeeded);
    assert_eq!(objection(&world), Some(Promise::Reserved));
}

#[test]
fn who_is_given_a_group_that_another_has_breaks_one_owner() {
    type Told = fn(&mut crate::oracle::Ledger);
    type Given = (&'static str, Arc<World>, Told, fn(&World) -> Done);
    let given: [Given; 8] = [
        ("a driver", plain(), |held| held.owner = Some(2), |world| world.bind_driver(0)),
        ("a user", plain(), |held| held.kernel.push(0), |world| world.claim(0, 0, true)),
        ("a user beside another", plain(), |held| held.owner = Some(2), |world| world.claim(0, 0, false)),
        ("another default domain", lazy(), |held| held.kernel.push(0), |world| world.set_type(0, false)),
        ("a device taken away", plain(), |held| held.claims.push(0), |world| world.remove(0)),
        ("an attach", attached(), |held| held.owner = Some(2), |world| world.attach(0, 0, 1)),
        ("a detach", attached(), |held| held.owner = Some(2), |world| world.detach(0, 1)),
        ("a release", attached(), |held| held.owner = Some(2), |world| world.release(0, 0, true)),
    ];
    for (what, world, tell, give) in given {
        tell(&mut locked(&world.groups[0].inner).ledger);
        assert_eq!(give(&world), Done::Succeeded, "{what}");
        assert_eq!(objection(&world), Some(Promise::OneOwner), "{what}");
    }
}

#[test]
fn a_driver_that_is_refused_a_group_that_nobody_has_breaks_one_owner() {
    let world = plain();
    world.groups[0].group.claim_group(Owner::new(0x9000).expect("not zero")).expect("nobody has it");
    assert_eq!(world.bind_driver(0), Done::Refused);
    assert_eq!(objection(&world), Some(Promise::OneOwner));
}

/// Takes memory whenever somebody else gets a turn, and never gives it back.
struct Leak(Arc<Bus>);

impl Turns for Leak {
    fn turn(&self, _: Place) {
        let _lost = self.0.cpu().alloc(0x1000, 0x1000);
    }

    fn watch(&self) {}
}

#[test]
fn an_operation_that_fails_and_keeps_memory_breaks_unwind() {
    let fails = |world: &World, leaks: bool, act: &dyn Fn(&World) -> Done| {
        let leak: Arc<dyn Turns> = Arc::new(Leak(world.bus.clone()));
        let to: Weak<dyn Turns> = Arc::downgrade(&leak);
        world.hub.give_turns(to, u32::from(leaks));
        world.hub.begin(7);
        world.hub.faults.arm(FaultKind::AllocationFails, 2);
        assert_eq!(act(world), Done::Refused);
        objection(world)
    };
    let bound = || {
        let world = plain();
        assert_eq!(world.bind_driver(0), Done::Succeeded);
        world
    };
    let map = |world: &World| world.map(0, 0, 1, 0, 2);
    assert_eq!(fails(&bound(), false, &map), None);
    assert_eq!(fails(&bound(), true, &map), Some(Promise::Unwind));
    let user_map = |world: &World| world.user_map(0, 0, 1, 2, 1);
    assert_eq!(fails(&attached(), false, &user_map), None);
    assert_eq!(fails(&attached(), true, &user_map), Some(Promise::Unwind));
}

#[test]
fn an_unmap_of_less_than_was_mapped_breaks_service_unless_a_bit_has_flipped() {
    for (flipped, promise) in [(false, Some(Promise::Service)), (true, None)] {
        let (world, _, grant) = mapped();
        let Found::Through(root) = world.found(0, world.devices[0].engine.sources[0]) else {
            panic!("it has a table")
        };
        let path = world.hub.reading(|tables| tables.path(&root, grant.first));
        let leaf = path.last().filter(|word| word.leaf).expect("it is mapped");
        world.bus.cpu().ram().store_masked(Pa::new(leaf.at), 0, u64::MAX).expect("it lies in RAM");
        if flipped {
            world.hub.flipped();
            world.hub.shadow(|shadow| shadow.spoil(0, false));
        }
        assert_eq!(world.unmap(0), Done::Succeeded);
        assert_eq!(objection(&world), promise, "flipped {flipped}");
    }
}

#[test]
fn a_driver_that_comes_takes_its_device_along_and_one_that_is_refused_takes_nobody() {
    let at = |world: &World| world.hub.shadow(|shadow| shadow.way(0));
    let world = plain();
    let space = locked(&world.groups[0].inner).space;
    world.hub.shadow(|shadow| {
        let elsewhere = shadow.add_space();
        shadow.end_move(0, Way::Space(elsewhere));
    });
    assert_eq!(world.bind_driver(0), Done::Succeeded);
    assert_eq!(at(&world), Way::Space(space));
    let world = plain();
    assert_eq!(world.claim(0, 0, true), Done::Succeeded);
    assert_eq!(world.bind_driver(0), Done::Refused);
    assert_eq!(at(&world), Way::Blocked);
}

#[test]
fn an_error_that_blames_memory_when_nothing_was_wrong_breaks_service() {
    let world = plain();
    assert_eq!(world.bind_driver(0), Done::Succeeded);
    world.bus.cpu().heap().fail_after(0);
    assert_eq!(world.map(0, 0, 1, 0, 2), Done::Refused);
    assert_eq!(objection(&world), Some(Promise::Service));
}

#[test]
fn an_error_that_nobody_can_have_asked_for_breaks_service_whatever_it_is() {
    for fires in [false, true] {
        let world = attached();
        let before = world.before(None);
        if fires {
            world.hub.faults.fired(FaultKind::LateSync);
        }
        world.excuse_any(&before, &"Misaligned");
        assert_eq!(objection(&world), (!fires).then_some(Promise::Service));
    }
}

#[test]
fn a_death_in_the_middle_of_an_operation_is_no_reason_for_its_failing() {
    let world = attached();
    let before = world.before(None);
    assert_eq!(world.die(0), Done::Succeeded);
    world.excuse(&before, &"Timeout");
    assert_eq!(objection(&world), Some(Promise::Service));
}

#[test]
fn memory_that_is_used_after_it_was_freed_breaks_reclaim() {
    for at_the_end in [false, true] {
        let world = plain();
        let block = world.bus.cpu().alloc(0x1000, 0x1000).expect("there is memory");
        world.bus.cpu().free(block, 0x1000).expect("it is live");
        world.look_after(OpKind::Step);
        assert_eq!(objection(&world), None);
        let _read = Fabric::read(&*world.bus, block, &mut [0; 8]);
        if at_the_end {
            world.end(None)
        } else {
            world.look_after(OpKind::Step)
        }
        assert_eq!(objection(&world), Some(Promise::Reclaim), "at the end {at_the_end}");
    }
}

#[test]
fn a_buffer_that_is_freed_while_it_may_be_reached_breaks_reclaim() {
    let (world, space, _) = mapped();
    let layout = BlockLayout::new(0x1000, 0x1000).expect("a page");
    let buffer = world.platform.alloc_buffer(layout).expect("there is memory");
    world.hub.shadow(|shadow| {
        let token = shadow.begin_map(space, &[(buffer.get(), 0x1000)], true, true);
        shadow.end_map(space, token, true).expect("it is kept");
    });
    world.platform.free_buffer(buffer, layout);
    assert_eq!(objection(&world), Some(Promise::Reclaim));
}

#[test]
fn a_buffer_that_is_freed_while_it_is_shared_breaks_reclaim() {
    let world = plain();
    assert_eq!(world.bind_driver(0), Done::Succeeded);
    assert_eq!(world.coherent(0, 0, 0x1000), Done::Succeeded);
    let space = locked(&world.groups[0].inner).space;
    let grant = world.hub.shadow(|shadow| shadow.some_live(space, 0)).expect("it is shared");
    let layout = BlockLayout::new(0x1000, 0x1000).expect("a page");
    world.platform.free_buffer(Pa::new(grant.pa), layout);
    assert_eq!(objection(&world), Some(Promise::Reclaim));
}

/// Gives memory away in the middle of an operation.
struct Frees(Arc<Hub>, PaRange);

impl Turns for Frees {
    fn turn(&self, _: Place) {
        self.0.freed(self.1);
    }

    fn watch(&self) {}
}

#[test]
fn a_buffer_that_is_freed_though_hardware_did_not_confirm_breaks_reclaim() {
    for frees in [false, true] {
        let world = plain();
        assert_eq!(world.bind_driver(0), Done::Succeeded);
        assert_eq!(world.coherent(0, 0, 0x1000), Done::Succeeded);
        let space = locked(&world.groups[0].inner).space;
        let grant = world.hub.shadow(|shadow| shadow.some_live(space, 0)).expect("it is shared");
        let buffer = PaRange::new(Pa::new(grant.pa), 0x1000).expect("it does not wrap");
        let who: Arc<dyn Turns> = Arc::new(Frees(world.hub.clone(), buffer));
        world.hub.give_turns(Arc::downgrade(&who), u32::from(frees));
        world.hub.begin(7);
        world.hub.faults.arm(FaultKind::NoSync, 1);
        assert_eq!(world.free_coherent(0), Done::Refused);
        assert_eq!(objection(&world), frees.then_some(Promise::Reclaim));
    }
}

#[test]
fn what_is_still_out_when_a_life_is_over_breaks_no_leak() {
    for leaks in [false, true] {
        let (world, ..) = mapped();
        world.end(None);
        assert_eq!(objection(&world), None);
        if leaks {
            let _lost = world.bus.cpu().alloc(0x1000, 0x1000);
        }
        let wrong = buried(world, 0).wrong.map(|(wrong, _)| wrong.promise);
        assert_eq!(wrong, leaks.then_some(Promise::NoLeak));
    }
}

#[test]
fn a_group_that_is_still_held_when_a_life_is_over_breaks_no_leak() {
    let world = plain();
    world.groups[0].group.claim_group(Owner::new(0x9000).expect("not zero")).expect("nobody has it");
    world.end(None);
    assert_eq!(objection(&world), Some(Promise::NoLeak));
}

#[test]
fn a_register_that_is_written_when_the_book_forbids_it_breaks_book() {
    for at_the_end in [false, true] {
        let world = plain();
        assert_eq!(world.serve(0), Done::Succeeded);
        assert_eq!(objection(&world), None);
        // SMMU_STRTAB_BASE, while SMMU_CR0.SMMUEN is set.
        let base = Pa::new(world.spec.units[0].registers + 0x80);
        world.bus.write_register(base, Width::Bits64, 0).expect("a register is there");
        // When everybody has left, nobody serves interrupts any more.
        if at_the_end {
            world.take_down()
        } else {
            _ = world.serve(0)
        }
        assert_eq!(objection(&world), Some(Promise::Book), "at the end {at_the_end}");
    }
}

/// Puts a command into the queue of the SMMUv3, behind its driver's back.
fn command(world: &World, word: u64) {
    let registers = world.spec.units[0].registers;
    let read = |at, width| world.bus.read_register(Pa::new(registers + at), width).expect("a register");
    // SMMU_CMDQ_BASE: LOG2SIZE, bits 4:0, and the address; SMMU_CMDQ_PROD.
    let (base, prod) = (read(0x90, Width::Bits64), read(0x98, Width::Bits32));
    let slots = 1 << (base & 0x1f);
    let slot = Pa::new((base & 0x000f_ffff_ffff_ffe0) + 16 * (prod % slots));
    world.bus.cpu().ram().store_masked(slot, word, u64::MAX).expect("it lies in RAM");
    let next = (prod + 1) % (2 * slots);
    world.bus.write_register(Pa::new(registers + 0x98), Width::Bits32, next).expect("a register");
    world.pass(64);
}

#[test]
fn an_illegal_command_breaks_book_unless_it_was_falsified_on_its_way() {
    for (word, promise) in [(0xee, Some(Promise::Book)), (0xff, None)] {
        let world = plain();
        command(&world, word);
        assert_eq!(world.serve(0), Done::Succeeded);
        assert_eq!(objection(&world), promise, "opcode {word:#x}");
    }
}

#[test]
fn a_descriptor_of_no_type_breaks_book_unless_it_was_falsified_on_its_way() {
    let falsified = mapped_on(MachineKind::X86).0;
    falsified.hub.faults.arm(FaultKind::CommandError, 1);
    let _either_way = falsified.unmap(0);
    assert_eq!(falsified.hub.faults.count(), 1);
    assert_eq!(falsified.serve(0), Done::Succeeded);
    assert_eq!(objection(&falsified), None);
    let (world, ..) = mapped_on(MachineKind::X86);
    let registers = world.spec.units[0].registers;
    let read = |at| world.bus.read_register(Pa::new(registers + at), Width::Bits64).expect("a register");
    // IQT_REG, IQA_REG: QS, bits 2:0, and DW, bit 11.
    let (tail, address) = (read(0x88), read(0x90));
    let bytes = if address >> 11 & 1 == 1 { 32 } else { 16 };
    let slot = Pa::new((address & !0xfff) + tail);
    world.bus.cpu().ram().store_masked(slot, 0xe, u64::MAX).expect("it lies in RAM");
    let next = (tail + bytes) % (0x1000 << (address & 7));
    world.bus.write_register(Pa::new(registers + 0x88), Width::Bits64, next).expect("a register");
    world.pass(64);
    assert_eq!(world.serve(0), Done::Succeeded);
    assert_eq!(objection(&world), Some(Promise::Book));
}

/// Machines whose devices share processes' memory.
pub(super) const SHARING: [MachineKind; 2] = [MachineKind::Sva, MachineKind::X86Sva];

/// A process is bound to the device, which has worked in its memory.
pub(super) fn bound(kind: MachineKind) -> Arc<World> {
    let world = booted(spec(kind));
    assert_eq!(world.enable(0), Done::Succeeded);
    assert_eq!(world.spawn(0), Done::Succeeded);
    assert_eq!(world.bind(0, 0, 0), Done::Succeeded);
    assert_eq!(world.touch(0, 0, 0, true), Done::Succeeded);
    assert_eq!(world.shared_dma(0, 0, 0, true, 0), Done::Succeeded);
    world.look_after(OpKind::SharedDma);
    world.audit();
    assert_eq!(objection(&world), None);
    world
}

#[test]
fn an_address_that_a_device_without_ats_made_up_is_out_of_its_reach_unless_hardware_may_know_its_entry_of_before()
 {
    for kind in SHARING {
        for late in [false, true] {
            let world = booted(spec(kind));
            assert_eq!(world.enable(0), Done::Succeeded);
            if late {
                world.hub.faults.arm(FaultKind::NoSync, 1);
                assert_eq!(world.claim(0, 0, true), Done::Refused);
                assert!(world.hub.shadow(|shadow| shadow.is_late(0)));
            }
            // Behind the driver's back, or because it blocks the device.
            Switch(world.devices[0].engine.clone()).set_ats(false);
            assert_eq!(world.forge_translated(0, Pick::Physical(3), true), Done::Refused);
            assert_eq!(objection(&world), (!late).then_some(Promise::Isolation), "{kind:?}, late {late}");
        }
    }
}

#[test]
fn an_access_by_an_atc_is_judged_by_the_address_that_it_was_given_for() {
    for kind in SHARING {
        let (world, space, grant) = mapped_on(kind);
        assert_eq!(world.enable(0), Done::Succeeded);
        let translated = || world.sharing.as_ref().expect("they share").judge.seen().1;
        let before = translated();
        let accesses = [(); 2].map(|()| world.access(0, 0, grant.first, 8, true));
        assert_eq!((accesses, translated() - before), ([Outcome::Done; 2], 2));
        assert_eq!(objection(&world), None);
        forget(&world, space);
        let _reached = world.access(0, 0, grant.first, 8, true);
        assert_eq!(objection(&world), Some(Promise::Isolation));
    }
}

/// Spoils the device's entry in the middle of an operation.
struct Meddler(Arc<World>);

impl Turns for Meddler {
    fn turn(&self, _: Place) {
        spoil_entry(&self.0, u64::MAX, u64::MAX);
    }

    fn watch(&self) {
        self.0.watch();
    }
}

#[test]
fn what_a_device_was_granted_is_its_own_whether_it_shares_or_not() {
    let world = booted(spec(MachineKind::Sva));
    assert_eq!(world.bind_driver(0), Done::Succeeded);
    assert_eq!(world.map(0, 0, 1, 0, 2), Done::Succeeded);
    let space = locked(&world.groups[0].inner).space;
    let grant = world.hub.shadow(|shadow| shadow.some_live(space, 0)).expect("something is mapped");
    let source = world.devices[0].engine.sources[0].0;
    let owed = || world.hub.shadow(|shadow| shadow.expects(source, grant.first, 8, true));
    assert!(owed());
    assert_eq!(world.enable(0), Done::Succeeded);
    assert!(owed(), "it shares");
    assert_eq!(world.disable(0), Done::Succeeded);
    assert!(owed(), "it shares no more");
}

#[test]
fn a_mixture_that_hardware_would_see_while_a_device_starts_to_share_breaks_hitless() {
    let world = booted(spec(MachineKind::Sva));
    assert_eq!(world.bind_driver(0), Done::Succeeded);
    assert_eq!(world.map(0, 0, 1, 0, 2), Done::Succeeded);
    let meddler: Arc<dyn Turns> = Arc::new(Meddler(world.clone()));
    world.hub.give_turns(Arc::downgrade(&meddler), 1);
    world.hub.begin(7);
    let _either_way = world.enable(0);
    assert_eq!(objection(&world), Some(Promise::Hitless));
}

#[test]
fn what_the_judge_of_processes_memory_says_is_objected_to_by_the_promise_it_names() {
    let lines = [
        ("one-answer: answered twice", Promise::OneAnswer),
        ("isolation: reached", Promise::Isolation),
        ("forbidden: an answer to nobody", Promise::Book),
        ("whatever else", Promise::Service),
    ];
    for (line, promise) in lines {
        let world = booted(spec(MachineKind::Sva));
        world.sharing.as_ref().expect("they share").judge.note(line);
        world.look_after(OpKind::Step);
        assert_eq!(objection(&world), Some(promise), "{line}");
    }
}

#[test]
fn a_process_that_is_reached_and_bound_to_nobody_breaks_isolation() {
    for kind in SHARING {
        let world = bound(kind);
        world.judge_forgets(0);
        assert_eq!(world.shared_dma(0, 0, 0, true, 0), Done::Succeeded);
        world.look_after(OpKind::SharedDma);
        assert_eq!(objection(&world), Some(Promise::Isolation));
    }
}

#[test]
fn an_audit_finds_a_descriptor_of_a_pasid_that_nobody_is_bound_to() {
    for kind in SHARING {
        let world = bound(kind);
        world.bond_is_lost(0);
        world.audit();
        assert_eq!(objection(&world), Some(Promise::Isolation));
    }
}

#[test]
fn an_audit_finds_a_bond_without_a_descriptor() {
    for kind in SHARING {
        let world = bound(kind);
        world.unbind_behind(0);
        world.audit();
        assert_eq!(objection(&world), Some(Promise::Service));
    }
}

#[test]
fn pages_that_came_in_for_others_during_a_refused_bind_are_no_leak_and_other_blocks_are() {
    for kind in SHARING {
        let world = bound(kind);
        let (before, faults) = (world.before(None), world.faults());
        assert_eq!(world.shared_dma(0, 0, 5, true, 0), Done::Succeeded, "a page that nobody has touched");
        world.bind_unwound(&before, faults, &"refused");
        assert_eq!(objection(&world), None);
        world.bind_unwound(&before, world.faults(), &"refused");
        assert_eq!(objection(&world), Some(Promise::Unwind));
    }
}

#[test]
fn a_page_that_a_process_has_and_its_device_is_refused_breaks_service() {
    for kind in SHARING {
        let world = bound(kind);
        assert_eq!(world.shared_dma(0, 0, 8, true, 0), Done::Refused, "there is none");
        assert_eq!(objection(&world), None);
        let page = world.judge_believes_in_a_page(0);
        assert_eq!(world.shared_dma(0, 0, page, true, 0), Done::Refused);
        assert_eq!(objection(&world), Some(Promise::Service));
    }
}

#[test]
fn an_audit_finds_a_descriptor_that_leads_to_the_table_of_a_process_that_has_exited() {
    for kind in SHARING {
        let world = bound(kind);
        world.process_is_lost(0);
        world.audit();
        assert_eq!(objection(&world), Some(Promise::Isolation));
    }
}

#[test]
fn what_hardware_did_not_confirm_elsewhere_excuses_no_descriptor() {
    for (breaks, promise) in [
        (World::bond_is_lost as fn(&World, u8), Promise::Isolation),
        (World::unbind_behind, Promise::Service),
    ] {
        let world = bound(MachineKind::Sva);
        world.hub.faults.fired(FaultKind::CommandError);
        breaks(&world, 0);
        world.audit();
        assert_eq!(objection(&world), Some(promise));
    }
}

#[test]
fn a_pasid_of_a_process_that_has_exited_is_a_bonds_or_breaks_no_leak() {
    for lost in [false, true] {
        let world = bound(MachineKind::Sva);
        if lost {
            world.bond_is_lost(0);
        }
        for process in 0..u8::try_from(PROCESSES).expect("few processes") {
            world.exit(process);
        }
        world.look_after(OpKind::Exit);
        assert_eq!(objection(&world), lost.then_some(Promise::NoLeak));
    }
}

#[test]
fn a_pasid_that_is_still_in_use_when_a_life_is_over_breaks_no_leak() {
    for kind in SHARING {
        let world = bound(kind);
        world.bond_is_lost(0);
        world.end_sharing();
        assert_eq!(objection(&world), Some(Promise::NoLeak));
    }
}

/// A bit of a word that leads to the entries of several devices spoils these, and no other.
#[test]
fn a_bit_of_what_leads_to_entries_spoils_every_device_that_it_leads_to() {
    let fits = |spec: &Spec| spec.units.len() == 1 && spec.devices.len() > 2;
    let worlds = (0..400).map(|seed| Spec::draw(seed, MachineKind::Smmuv3)).filter(fits).map(booted);
    let descriptor = |world: &World, index: usize| {
        let sources = world.devices[index].engine.sources.iter();
        sources.map(|source| world.hub.descriptor_of(0, source.0)).collect::<Vec<_>>()
    };
    let shared = |world: &Arc<World>| {
        let first = descriptor(world, 0)[0];
        let ways = [0, 2].map(|index| world.hub.shadow(|shadow| shadow.way(index)));
        let leads_to = |index| descriptor(world, index).contains(&first);
        first.is_some() && leads_to(2) && !leads_to(1) && ways[0] != ways[1]
    };
    let world = worlds.into_iter().find(shared).expect("some table has two levels");
    let word = descriptor(&world, 0)[0];
    let before = word.map(|at| world.bus.cpu().ram().load(at));
    world.hub.faults.arm(FaultKind::BitFlip, 1);
    assert!(world.flip(0), "of the first device's, the first bit");
    assert_ne!(word.map(|at| world.bus.cpu().ram().load(at)), before);
    for index in 0..world.devices.len() {
        let led_to = descriptor(&world, index).iter().any(|at| descriptor(&world, 0).contains(at));
        let spaces = [0, index].map(|index| world.hub.shadow(|shadow| shadow.way(index)));
        let spoiled = world.hub.shadow(|shadow| shadow.is_spoiled(index));
        assert!(spoiled || !led_to, "{index}");
        assert!(!spoiled || led_to || spaces[0] == spaces[1], "{index}");
    }
}

#[test]
fn no_bit_flips_of_a_table_to_which_an_entry_leads_that_has_flipped() {
    for (flipped, flips) in [(false, true), (true, false)] {
        let (world, ..) = mapped();
        if flipped {
            world.hub.shadow(|shadow| shadow.spoil(0, true));
        }
        world.hub.faults.arm(FaultKind::BitFlip, 1);
        // Of tables, of the first device, the first bit.
        assert_eq!(world.flip(2 << 8), flips);
    }
}

#[test]
fn what_a_failed_map_left_is_neither_mapped_over_nor_out_of_reach_before_a_sync() {
    let world = attached();
    let space = world.user_domain(0).expect("it was made").space;
    assert_eq!(world.user_map(0, 0, 1, 2, 1), Done::Succeeded);
    world.hub.faults.arm(FaultKind::AllocationFails, 1);
    world.hub.faults.arm(FaultKind::NoSync, 1);
    assert_eq!(world.user_map(0, 0x2000, 2, 2, 1), Done::Refused);
    world.hub.end();
    world.pass(64);
    let (pa, _) = locked(&world.quarantine).first().expect("its memory is kept").pages[0];
    let source = world.devices[0].engine.sources[0].0;
    let reached = |world: &World| {
        let seen = Seen { source, iova: 0, len: 8, pa, write: true };
        world.hub.shadow(|shadow| shadow.judge(&seen)).is_ok()
    };
    assert_eq!(world.hub.shadow(|shadow| shadow.way(0)), Way::Space(space));
    assert_eq!(world.user_unmap(0, 0x2000, 1, true), Done::Succeeded);
    assert_eq!(world.user_map(0, 0x2000, 1, 2, 1), Done::Succeeded, "it is forgotten");
    assert!(reached(&world), "the other page is not");
    assert_eq!(world.user_unmap(0, 0x2001, 1, false), Done::Succeeded);
    assert_eq!(world.user_map(0, 0x2001, 1, 2, 1), Done::Skipped, "break before make");
    assert!(reached(&world));
    assert_eq!(world.user_sync(0), Done::Succeeded);
    assert!(!reached(&world));
    assert_eq!(world.user_map(0, 0x2001, 1, 2, 1), Done::Succeeded);
    assert_eq!(objection(&world), None);
}
