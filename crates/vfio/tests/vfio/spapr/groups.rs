//! Groups that join and leave, and what they share.

use super::{nothing_is_left, ram, registered};
use crate::support::{BUFFER, Call, FakeTableGroup, Offer, PAGE, power, power_alone, range, region};
use portcullis_core::iommu::ReservedKind;
use portcullis_types::{Iova, IovaRange, PageSizes};
use portcullis_vfio::Errno;
use std::sync::Arc;

const WINDOW_1: u64 = 0x0800_0000_0000_0000;

#[test]
fn groups_of_one_bridge_share_every_window() {
    let (world, [first, second]) = power();
    let (process, container, _) = registered(&world);
    process.create(container, 16, 1 << 30, 2).unwrap();
    process.map(container, WINDOW_1, BUFFER, 16 * PAGE, 3).unwrap();
    process.join_to(container, 8).unwrap();
    for window in [0, 1] {
        assert!(Arc::ptr_eq(&first.table(window).unwrap(), &second.table(window).unwrap()));
    }
    process.map(container, 0, BUFFER, PAGE, 3).unwrap();
    assert_eq!(second.table(0).unwrap().mapped(), [(0, ram(0), 3)]);
    process.remove(container, WINDOW_1).unwrap();
    assert!(first.table(1).is_none() && second.table(1).is_none());
    process.create(container, 24, 1 << 30, 1).unwrap();
    assert!(first.table(1).is_some() && second.table(1).is_some());
}

#[test]
fn the_default_window_is_made_for_all_groups() {
    let (world, [first, second]) = power();
    let (process, container, _) = registered(&world);
    process.join_to(container, 8).unwrap();
    process.map(container, 0, BUFFER, PAGE, 3).unwrap();
    assert!(Arc::ptr_eq(&first.table(0).unwrap(), &second.table(0).unwrap()));
}

#[test]
fn who_leaves_loses_the_windows_and_the_others_keep_them() {
    let (world, [first, second]) = power();
    let (process, container, group) = registered(&world);
    process.map(container, 0, BUFFER, PAGE, 3).unwrap();
    let other = process.join_to(container, 8).unwrap();
    // The first one goes.
    process.ioctl(group, 0x3b69, 0).unwrap();
    assert!(first.table(0).is_none() && !first.is_taken());
    assert_eq!(second.table(0).unwrap().mapped().len(), 1);
    process.map(container, PAGE, BUFFER, PAGE, 3).unwrap();
    assert_eq!(process.create(container, 16, 1 << 30, 1), Ok(WINDOW_1));
    // And comes back.
    process.set_container(group, container).unwrap();
    assert_eq!(first.table(0).unwrap().mapped().len(), 2);
    process.ioctl(group, 0x3b69, 0).unwrap();
    process.ioctl(other, 0x3b69, 0).unwrap();
    nothing_is_left(&world, &process, &[&first, &second]);
}

fn refused(change: impl FnOnce(&FakeTableGroup)) -> Errno {
    let (world, [first, second]) = power();
    let (process, container, _) = registered(&world);
    process.create(container, 16, 1 << 30, 4).unwrap();
    change(&second);
    let errno = process.join_to(container, 8).unwrap_err();
    assert!(!second.is_taken() && second.table(0).is_none() && second.table(1).is_none());
    assert_eq!(world.groups[&8].ownership().count, 0, "it is the platform's");
    process.map(container, 0, BUFFER, PAGE, 3).unwrap();
    assert_eq!(first.table(0).unwrap().mapped().len(), 1, "and nothing has changed for the first");
    errno
}

#[test]
pub(crate) fn a_group_whom_the_windows_do_not_fit_is_refused() {
    let change = |act: fn(&mut portcullis_core::table_group::TableGroupInfo)| {
        refused(move |group| act(&mut group.info.lock().unwrap()))
    };
    assert_eq!(change(|info| info.page_sizes = PageSizes::from_bits(0x1000)), Errno::Einval);
    assert_eq!(change(|info| info.page_sizes = PageSizes::from_bits(0x20_0000)), Errno::Einval);
    assert_eq!(change(|info| info.max_levels = 3), Errno::Einval);
    assert_eq!(change(|info| info.windows[1] = None), Errno::Einval);
    assert_eq!(change(|info| info.windows[1] = Some(Iova::new(1 << 58))), Errno::Einval);
    assert_eq!(change(|info| info.window32 = IovaRange::new(Iova::new(0), 1 << 30).unwrap()), Errno::Einval);
}

#[test]
fn a_group_that_cannot_be_taken_is_refused() {
    let (world, [_, second]) = power();
    let (process, container, _) = registered(&world);
    world.hardware.fail(Call::Take, 0, 1);
    assert_eq!(process.join_to(container, 8), Err(Errno::Eio));
    assert!(!second.is_taken());
    assert_eq!(process.join_to(container, 8).map(drop), Ok(()));
}

#[test]
fn a_group_for_which_a_window_cannot_be_set_loses_those_before_it() {
    for pass in [0, 1] {
        let (world, [_, second]) = power();
        let (process, container, _) = registered(&world);
        process.create(container, 16, 1 << 30, 1).unwrap();
        world.hardware.fail(Call::SetWindow, pass, 1);
        assert_eq!(process.join_to(container, 8), Err(Errno::Eio));
        assert!(!second.is_taken() && second.table(0).is_none());
    }
}

#[test]
fn a_group_of_another_bridge_is_refused() {
    let (mut world, _) = power();
    world.next_iommu("iommu1", range(0, (1 << 60) - 1), PageSizes::from_bits(0x1101_1000));
    let third = FakeTableGroup::new(&world.hardware, 1, 1, Offer::OnDemand, true);
    world.add_windows(9, 3, &third);
    let (process, container, _) = registered(&world);
    assert_eq!(process.join_to(container, 9), Err(Errno::Eperm));
    assert!(!third.is_taken());
}

#[test]
pub(crate) fn tables_of_another_driver_are_not_for_a_group() {
    // Behind the same IOMMU, but with tables of its own.
    let (mut world, _) = power();
    let third = FakeTableGroup::new(&world.hardware, 1, 1, Offer::OnDemand, true);
    world.add_windows(9, 3, &third);
    let (process, container, _) = registered(&world);
    process.map(container, 0, BUFFER, PAGE, 3).unwrap();
    assert_eq!(process.join_to(container, 9), Err(Errno::Eperm));
    assert!(!third.is_taken());
}

#[test]
fn version_1_has_one_group() {
    let (world, [first, second]) = power();
    let (process, container, _) = world.tce_user(2);
    assert_eq!(process.join_to(container, 8), Err(Errno::Ebusy));
    assert!(first.is_taken() && !second.is_taken());
    drop(process);
    let process = world.process();
    let (container, _) = process.join(7).unwrap();
    process.join_to(container, 8).unwrap();
    assert_eq!(process.ioctl(container, 0x3b66, 2), Err(Errno::Ebusy), "nor when there were two before");
    assert!(!first.is_taken() && !second.is_taken());
    assert_eq!(process.ioctl(container, 0x3b66, 7), Ok(0));
}

#[test]
pub(crate) fn a_driver_that_offers_ownership_and_no_tables_is_refused() {
    let (world, group) = power_alone(Offer::OwnershipOnly);
    let process = world.process();
    let (container, _) = process.join(7).unwrap();
    for version in [2, 7] {
        assert_eq!(process.ioctl(container, 0x3b66, version), Err(Errno::Efault));
        assert!(!group.is_taken());
    }
}

#[test]
fn version_2_is_not_for_a_group_whose_table_is_what_it_is() {
    let (world, group) = power_alone(Offer::Whole);
    let process = world.process();
    let (container, _) = process.join(7).unwrap();
    assert_eq!(process.ioctl(container, 0x3b66, 7), Err(Errno::Einval));
    assert!(!group.is_taken());
    assert_eq!(process.ioctl(container, 0x3b66, 2), Ok(0));
    assert!(group.is_taken());
}

#[test]
fn a_device_that_joins_a_users_group_in_another_pe_is_not_his() {
    let (mut world, [first, _]) = power();
    let (process, container, group) = registered(&world);
    process.map(container, 0, BUFFER, PAGE, 3).unwrap();
    let third = FakeTableGroup::new(&world.hardware, 0, 3, Offer::OnDemand, true);
    world.add_windows(7, 3, &third);
    assert_eq!(process.device(group, "0000:00:03.0"), Err(Errno::Einval), "it finds none of his windows");
    assert!(process.device(group, "0000:00:01.0").is_ok());
    world.add_windows(7, 4, &first);
    assert!(process.device(group, "0000:00:04.0").is_ok(), "where the first is");
}

#[test]
fn nothing_is_mapped_where_something_is_reserved_for_a_device_that_came_later() {
    let (mut world, [first, _]) = power();
    let (process, container, group) = registered(&world);
    let at = 0x10_0000;
    process.map(container, at, BUFFER, PAGE, 3).unwrap();
    world.iommu.window_groups.lock().unwrap().insert(3, first.clone());
    let reserved = region(at, at + PAGE - 1, ReservedKind::Reserved);
    world.add(7, 3, |info| info.firmware_regions = vec![reserved]).unwrap();
    assert_eq!(process.device(group, "0000:00:03.0"), Err(Errno::Einval), "its user has mapped it");
    process.unmap_tce(container, at, PAGE).unwrap();
    assert_eq!(
        process.map(container, at, BUFFER, PAGE, 3),
        Err(Errno::Einval),
        "though he has not opened it"
    );
    let device = process.device(group, "0000:00:03.0").unwrap();
    assert_eq!(process.map(container, at, BUFFER, PAGE, 3), Err(Errno::Einval));
    process.map(container, at + PAGE, BUFFER, PAGE, 3).unwrap();
    process.close(device);
}

#[test]
fn a_group_whose_devices_are_in_different_pes_has_no_windows_to_share() {
    let (mut world, _) = power();
    let third = FakeTableGroup::new(&world.hardware, 0, 3, Offer::OnDemand, true);
    world.add_windows(7, 3, &third);
    let process = world.process();
    let (container, _) = process.join(7).unwrap();
    assert_eq!(process.ioctl(container, 0x3b66, 7), Err(Errno::Enodev));
}
