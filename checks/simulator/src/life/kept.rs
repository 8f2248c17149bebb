//! What looks like a broken promise and is none, one at a time: nobody may object, before the end or after it.

use std::sync::Arc;

use super::broken::{SHARING, booted, bound, objection, spec};
use super::world::World;
use super::{Done, buried};
use crate::fault::FaultKind;
use crate::machine::{DeviceSpec, Form, Spec};
use crate::options::MachineKind;
use crate::promise::Promise;

/// Nobody has objected, nor does at the end, in which a fault is armed or none.
fn ends_well(world: Arc<World>, armed: Option<FaultKind>) {
    assert_eq!(objection(&world), None);
    if let Some(fault) = armed {
        world.hub.faults.arm(fault, 1);
    }
    world.end(armed);
    let fired = armed.is_none_or(|fault| world.hub.faults.coverage(|met| met.fired(fault)) > 0);
    assert!(fired, "{armed:?} does not fire");
    assert_eq!(world.hub.first_wrong().map(|wrong| wrong.what), None);
    assert_eq!(buried(world, 0).wrong.map(|(wrong, _)| wrong.what), None);
}

#[test]
fn a_device_that_comes_while_its_group_is_elsewhere_has_firmwares_page_when_it_comes_to_the_kernels_domain() {
    let alone = spec(MachineKind::Smmuv3);
    let other =
        DeviceSpec { sources: vec![0x40], direct: Some(0), relaxable: true, ..alone.devices[0].clone() };
    let world = booted(Spec { devices: vec![alone.devices[0].clone(), other], ..alone });
    assert_eq!(world.remove(1), Done::Succeeded);
    assert_eq!(world.set_type(0, true), Done::Succeeded, "a domain in which firmware's page never was");
    assert_eq!(world.new_domain(0, 0), Done::Succeeded);
    assert_eq!(world.attach(0, 0, 0), Done::Succeeded);
    assert_eq!(world.add(1), Done::Succeeded);
    assert_eq!(world.detach(0, 0), Done::Succeeded);
    world.audit();
    ends_well(world, None);
}

/// A process is bound to a device with an ATC, which has worked in its memory.
fn bound_with_atc(kind: MachineKind) -> Arc<World> {
    let world = bound(kind);
    assert_eq!(world.devices[0].engine.form, Form::Pcie);
    world
}

#[test]
fn a_device_whose_atc_never_answers_at_the_end_is_given_up_and_leaves() {
    for kind in SHARING {
        ends_well(bound_with_atc(kind), Some(FaultKind::AtcNever));
    }
}

#[test]
fn a_bond_that_nobody_gives_back_keeps_its_device_however_silent_it_is() {
    let world = bound_with_atc(MachineKind::Sva);
    world.hub.faults.arm(FaultKind::AtcNever, 1);
    assert_eq!(world.unbind(0), Done::Refused);
    world.bond_is_lost(0);
    world.end_sharing();
    assert_eq!(objection(&world), Some(Promise::NoLeak));
}

#[test]
fn an_invalidation_that_is_not_answered_is_the_operations_that_had_it_sent_and_no_others() {
    let world = bound_with_atc(MachineKind::Sva);
    let sent = world.sharing.as_ref().expect("they share").judge.invalidations();
    world.hub.faults.arm(FaultKind::AtcNever, 1);
    assert_eq!(world.unbind(0), Done::Refused);
    assert_eq!(
        world.said_of(0, false, None, sent),
        [""; 0],
        "on another CPU somebody works on another process"
    );
    assert_eq!(world.said_of(0, true, Some(1), sent), [""; 0], "another device is unbound");
    assert_eq!(world.said_of(0, true, Some(0), sent).len(), 1);
    assert_eq!(world.said_of(0, true, None, sent).len(), 2);
}

#[test]
fn a_shared_buffer_that_never_had_addresses_goes_back_at_once_whatever_hardware_did_not_confirm() {
    // One page, as the first is never handed out.
    let alone = spec(MachineKind::Smmuv3);
    let device = DeviceSpec { mask_bits: 13, ..alone.devices[0].clone() };
    let world = booted(Spec { devices: vec![device], groups: vec![(0, true)], ..alone });
    assert_eq!(world.bind_driver(0), Done::Succeeded);
    assert_eq!(world.map(0, 0, 1, 0, 2), Done::Succeeded);
    assert_eq!(world.unmap(0), Done::Succeeded, "its address waits for a flush");
    world.hub.faults.arm(FaultKind::NoSync, 1);
    assert_eq!(world.coherent(0, 1, 64), Done::Refused);
    assert!(world.hub.is_held());
    world.hub.end();
    world.pass(64);
    ends_well(world, None);
}

/// A device with an ATC is in a domain of a user's, in which a page is mapped.
fn mapped_with_atc() -> Arc<World> {
    let mut alone = spec(MachineKind::Sva);
    alone.devices[0].form = Form::Pcie;
    let world = booted(alone);
    assert_eq!(world.enable(0), Done::Succeeded);
    assert_eq!(world.new_domain(0, 0), Done::Succeeded);
    assert_eq!(world.attach(0, 0, 0), Done::Succeeded);
    assert_eq!(world.user_map(0, 0, 1, 2, 1), Done::Succeeded);
    world
}

#[test]
fn a_map_beside_an_operation_in_which_a_device_fell_silent_may_leave_what_it_could_not_undo() {
    let world = mapped_with_atc();
    world.hub.faults.arm(FaultKind::AtcNever, 1);
    assert_eq!(world.user_unmap(0, 0, 1, true), Done::Refused);
    // As if the operation went on: a table is missing, and the device does not say that it has forgotten.
    world.hub.faults.arm(FaultKind::AllocationFails, 1);
    assert_eq!(world.user_map(0, 0x2000, 1, 2, 1), Done::Refused);
    assert_eq!(world.user_map(0, 0x2000, 1, 2, 1), Done::Refused, "it counts as mapped");
    world.hub.begin(8);
    assert_eq!(world.user_unmap(0, 0x2000, 1, true), Done::Succeeded, "it answers again");
    assert_eq!(world.user_map(0, 0x2000, 1, 2, 1), Done::Succeeded);
    ends_well(world, None);
}

#[test]
fn what_lingers_of_one_process_is_not_undone_with_the_bind_of_another_that_has_its_table() {
    let world = booted(spec(MachineKind::Sva));
    assert_eq!(world.enable(0), Done::Succeeded);
    assert_eq!(world.spawn(0), Done::Succeeded);
    world.lingers_where_a_table_is(0, 0);
    assert_eq!(world.bind(0, 0, 0), Done::Succeeded);
    assert!(world.something_lingers(0));
    ends_well(world, None);
}
