//! Groups: all members or none, and what is said when hardware will not go back.

use std::sync::{Arc, Mutex};

use crate::support::{Bench, Call, Machine, RAM, STRICT, bench, range, region};
use portcullis_core::device::DeviceInfo;
use portcullis_core::domain::{Domain, DomainType};
use portcullis_core::group::{DefaultDomain, Group, GroupError, Left};
use portcullis_core::iommu::{AttachError, DomainError, ReservedKind, SyncError};
use portcullis_core::unit::{IommuUnit, RemoveDeviceError};
use portcullis_types::{Iova, Pa, Perms, Prot, SourceId};

fn user(bench: &Bench) -> Arc<Domain<Machine>> {
    Domain::new(bench.machine.clone(), bench.iommu.clone(), DomainType::Unmanaged).unwrap()
}

fn four_members() -> Bench {
    let bench = bench(STRICT);
    (1..5).for_each(|source| drop(bench.member(source, |_| ())));
    bench
}

fn hardware_and_core_agree(bench: &Bench, domain: &Arc<Domain<Machine>>, place: &str) {
    assert!(bench.iommu.places().iter().all(|at| at == place), "{:?}", bench.iommu.places());
    assert!(Arc::ptr_eq(&bench.group.current_domain(), domain));
    assert!(bench.group.devices().iter().all(|device| Arc::ptr_eq(&device.domain().unwrap(), domain)));
}

const NO_ANSWER: SyncError = SyncError::Failed { code: 1 };

#[test]
fn all_members_move_together_and_back() {
    let bench = four_members();
    let user = user(&bench);
    hardware_and_core_agree(&bench, &bench.group.default_domain(), "domain0");
    bench.group.attach(&user).unwrap();
    hardware_and_core_agree(&bench, &user, "domain1");
    bench.group.detach().unwrap();
    hardware_and_core_agree(&bench, &bench.group.default_domain(), "domain0");
    let blocked = bench.group.blocked_domain().clone();
    bench.group.attach(&blocked).unwrap();
    hardware_and_core_agree(&bench, &blocked, "blocked");
}

#[test]
fn whichever_member_is_refused_all_stay_where_they_were() {
    for pass in 0..4 {
        let bench = four_members();
        let user = user(&bench);
        bench.iommu.fail(Call::Attach, pass, 1);
        let device = format!("dev{}", pass + 1);
        let refused = Err(GroupError::Attach { device, error: AttachError::Sync(NO_ANSWER) });
        assert_eq!(bench.group.attach(&user), refused);
        hardware_and_core_agree(&bench, &bench.group.default_domain(), "domain0");
        bench.group.attach(&user).unwrap();
        hardware_and_core_agree(&bench, &user, "domain1");
    }
}

#[test]
fn members_that_cannot_go_back_are_left_blocked_and_named() {
    let bench = four_members();
    // The first two move, the third is refused, the first cannot go back but can be blocked, the second can go back.
    bench.iommu.fail(Call::Attach, 2, 2);
    let refused = Err(GroupError::Stranded {
        device: "dev3".into(),
        error: AttachError::Sync(NO_ANSWER),
        left: vec![("dev1".into(), Left::Blocked)],
    });
    assert_eq!(bench.group.attach(&user(&bench)), refused);
    assert_eq!(bench.iommu.places(), ["blocked", "domain0", "domain0", "domain0"]);
    let first = bench.unit.device(SourceId(1)).unwrap();
    assert_eq!(first.domain().unwrap().domain_type(), DomainType::Blocked);
    bench.group.detach().expect("hardware answers again");
    hardware_and_core_agree(&bench, &bench.group.default_domain(), "domain0");
}

#[test]
fn a_member_that_the_driver_left_blocked_is_named_too() {
    let bench = four_members();
    bench.iommu.fail(Call::AttachAndBlock, 1, 1);
    let refused = Err(GroupError::Stranded {
        device: "dev2".into(),
        error: AttachError::LeftBlocked(NO_ANSWER),
        left: vec![("dev2".into(), Left::Blocked)],
    });
    assert_eq!(bench.group.attach(&user(&bench)), refused);
    assert_eq!(bench.iommu.places(), ["domain0", "blocked", "domain0", "domain0"]);
}

#[test]
fn a_member_that_cannot_even_be_blocked_stays_bound_to_the_new_domain() {
    let bench = four_members();
    for source in 1..3 {
        let device = bench.unit.device(SourceId(source)).unwrap();
        bench.group.remove_device(&device).unwrap();
        bench.unit.remove_device(&device).unwrap();
        bench.member(source, |info| {
            info.firmware_regions = vec![region(
                0x1000 * u64::from(source),
                0x1000 * u64::from(source) + 0xfff,
                ReservedKind::Reserved,
            )];
        });
    }
    let user = user(&bench);
    // Members are now 3, 4, 1, 2. All move but the last; the first of them can neither go back nor be blocked.
    bench.iommu.fail(Call::Attach, 3, 3);
    let refused = bench.group.attach(&user);
    let left = vec![("dev3".into(), Left::Attached)];
    let error = AttachError::Sync(NO_ANSWER);
    assert_eq!(refused, Err(GroupError::Stranded { device: "dev2".into(), error, left }));
    assert_eq!(bench.iommu.places(), ["domain0", "domain0", "domain1", "domain0"]);
    let third = bench.unit.device(SourceId(3)).unwrap();
    assert!(Arc::ptr_eq(&third.domain().unwrap(), &user));
    // Those who went back bind nobody.
    user.map(Iova::new(0x1000), Pa::new(RAM), 0x2000, Prot::cached(Perms::READ)).unwrap();
}

#[test]
fn a_refused_attach_takes_back_what_was_made_ready_for_every_member() {
    let bench = bench(STRICT);
    for source in 1..4u64 {
        bench.member(source as u32, |info| {
            info.firmware_regions =
                vec![region(source << 12, (source << 12) + 0xfff, ReservedKind::Reserved)];
        });
    }
    for pass in 0..3 {
        let user = user(&bench);
        bench.iommu.fail(Call::Attach, pass, 1);
        assert!(bench.group.attach(&user).is_err());
        user.map(Iova::new(0x1000), Pa::new(RAM), 0x3000, Prot::cached(Perms::READ)).unwrap();
        // The third one's region is mapped now: found before any member is moved.
        let error = AttachError::Reserved(range(0x1000, 0x1fff));
        assert_eq!(bench.group.attach(&user), Err(GroupError::Attach { device: "dev1".into(), error }));
    }
}

#[test]
fn a_member_that_cannot_be_made_ready_takes_back_what_was_made_ready_for_those_before_it() {
    let bench = bench(STRICT);
    for source in 1..4u64 {
        bench.member(source as u32, |info| {
            info.firmware_regions =
                vec![region(source << 12, (source << 12) + 0xfff, ReservedKind::Reserved)];
        });
    }
    let user = user(&bench);
    user.map(Iova::new(0x3000), Pa::new(RAM), 0x1000, Prot::cached(Perms::READ)).unwrap();
    let error = AttachError::Reserved(range(0x3000, 0x3fff));
    assert_eq!(bench.group.attach(&user), Err(GroupError::Attach { device: "dev3".into(), error }));
    user.map(Iova::new(0x1000), Pa::new(RAM), 0x2000, Prot::cached(Perms::READ)).unwrap();
}

#[test]
fn a_device_that_joins_gets_the_groups_current_domain() {
    let bench = four_members();
    let user = user(&bench);
    bench.group.attach(&user).unwrap();
    let late = bench.member(9, |_| ());
    assert_eq!(bench.iommu.place(9).unwrap(), "domain1");
    assert!(Arc::ptr_eq(&late.domain().unwrap(), &user));
}

#[test]
fn a_device_that_is_refused_is_no_member() {
    let bench = bench(STRICT);
    let device = bench.device(1, |_| ());
    for call in [Call::Attach, Call::AttachAndBlock] {
        bench.iommu.fail(call, 0, 1);
        assert!(matches!(bench.group.add_device(&device), Err(GroupError::Attach { .. })));
        assert!(bench.group.devices().is_empty() && device.domain().is_none());
        assert_eq!(bench.iommu.place(1).unwrap(), "blocked");
        assert!(bench.group.dma(&device).is_none());
    }
    bench.group.add_device(&device).unwrap();
    assert_eq!(bench.group.add_device(&device), Err(GroupError::InGroup));
}

#[test]
fn a_device_behind_another_iommu_joins_no_group_though_there_is_no_default_domain_yet() {
    let (ours, theirs) = (bench(STRICT), bench(STRICT));
    drop(ours.member(1, |_| ()));
    let later = Group::without_default(ours.machine.clone(), ours.iommu.clone(), 8, STRICT).unwrap();
    let foreign = theirs.device(1, |_| ());
    let refused = Err(GroupError::Attach { device: "dev1".into(), error: AttachError::ForeignDomain });
    assert_eq!(later.add_device(&foreign), refused);
    assert_eq!(ours.iommu.place(1).unwrap(), "domain0", "who has its number here stays where he is");
}

#[test]
fn a_unit_forgets_no_device_for_one_behind_another_that_has_the_same_source() {
    let (ours, theirs) = (bench(STRICT), bench(STRICT));
    drop(ours.member(1, |_| ()));
    let foreign = theirs.device(1, |_| ());
    assert_eq!(ours.unit.remove_device(&foreign), Err(RemoveDeviceError::Foreign));
    assert_eq!(ours.iommu.place(1).unwrap(), "domain0");
    theirs.unit.remove_device(&foreign).unwrap();
}

#[test]
fn a_device_that_leaves_is_blocked_and_unbinds_the_user() {
    let bench = bench(STRICT);
    let device =
        bench.member(1, |info| info.firmware_regions = vec![region(0x1000, 0x1fff, ReservedKind::Reserved)]);
    let user = user(&bench);
    bench.group.attach(&user).unwrap();
    bench.iommu.fail(Call::Attach, 0, 1);
    assert!(matches!(bench.group.remove_device(&device), Err(GroupError::Attach { .. })));
    assert_eq!((bench.group.devices().len(), bench.iommu.place(1).unwrap()), (1, "domain1".into()));
    bench.group.remove_device(&device).unwrap();
    assert_eq!((bench.group.devices().len(), bench.iommu.place(1).unwrap()), (0, "blocked".into()));
    assert_eq!(bench.group.remove_device(&device), Err(GroupError::NotMember));
    user.map(Iova::new(0x1000), Pa::new(RAM), 0x1000, Prot::cached(Perms::READ)).unwrap();
}

#[test]
fn the_unit_forgets_a_device_only_when_it_is_in_no_group_and_hardware_agrees() {
    let bench = bench(STRICT);
    let device = bench.member(1, |_| ());
    assert_eq!(bench.unit.remove_device(&device), Err(RemoveDeviceError::InGroup));
    bench.group.remove_device(&device).unwrap();
    bench.iommu.fail(Call::RemoveDevice, 0, 1);
    assert_eq!(bench.unit.remove_device(&device), Err(RemoveDeviceError::Sync(NO_ANSWER)));
    assert!(bench.unit.device(SourceId(1)).is_some());
    bench.unit.remove_device(&device).unwrap();
    assert!(bench.unit.device(SourceId(1)).is_none() && bench.iommu.place(1).is_none());
}

type Groups = [Arc<Group<Machine>>; 2];

/// A unit of its own, and two groups behind its IOMMU.
fn two_groups() -> (Bench, Arc<IommuUnit<Machine>>, Groups) {
    let bench = bench(STRICT);
    let unit = Arc::new(IommuUnit::new(bench.machine.clone(), bench.iommu.clone()));
    let group = |id| Arc::new(Group::new(bench.machine.clone(), bench.iommu.clone(), id, STRICT).unwrap());
    let groups = [group(1), group(2)];
    (bench, unit, groups)
}

#[test]
fn a_device_that_is_about_to_join_a_group_joins_no_other_and_is_not_forgotten() {
    let (bench, unit, [group, other]) = two_groups();
    let device = unit.add_device(DeviceInfo::new("disk", &[SourceId(1)])).unwrap();
    let answers = Arc::new(Mutex::new(None));
    let (theirs, its, told) = (unit.clone(), device.clone(), answers.clone());
    bench.iommu.meanwhile(move || {
        *told.lock().unwrap() = Some((other.add_device(&its), theirs.remove_device(&its)));
    });
    group.add_device(&device).unwrap();
    let answers = answers.lock().unwrap().take().unwrap();
    assert_eq!(answers, (Err(GroupError::InGroup), Err(RemoveDeviceError::InGroup)));
    assert!(Arc::ptr_eq(&device.domain().unwrap(), &group.default_domain()));
}

#[test]
fn a_device_that_its_unit_is_about_to_forget_or_has_forgotten_joins_no_group() {
    let (bench, unit, [group, other]) = two_groups();
    let info = || DeviceInfo::new("disk", &[SourceId(1)]);
    let old = unit.add_device(info()).unwrap();
    let (its, joins) = (old.clone(), group.clone());
    bench.iommu.meanwhile(move || assert_eq!(joins.add_device(&its), Err(GroupError::InGroup)));
    unit.remove_device(&old).unwrap();
    let next = unit.add_device(info()).unwrap();
    other.add_device(&next).unwrap();
    let there = bench.iommu.place(1);
    // Who has its source now is another, and stays where he is.
    let error = AttachError::UnknownSource(SourceId(1));
    assert_eq!(group.add_device(&old), Err(GroupError::Attach { device: "disk".into(), error }));
    assert_eq!(unit.remove_device(&old), Ok(()), "it is forgotten");
    assert_eq!(bench.iommu.place(1), there);
    assert!(there.is_some() && unit.device(SourceId(1)).is_some());
}

#[test]
fn a_group_needs_its_default_domain() {
    let bench = bench(STRICT);
    bench.iommu.fail(Call::NewDomain, 0, 1);
    let refused = Group::new(bench.machine.clone(), bench.iommu.clone(), 1, STRICT);
    assert_eq!(refused.err(), Some(DomainError::NoIds));
    let identity =
        Group::new(bench.machine.clone(), bench.iommu.clone(), 1, DefaultDomain::Identity).unwrap();
    assert_eq!(identity.default_domain().domain_type(), DomainType::Identity);
}

#[test]
fn a_groups_regions_are_its_devices_merged() {
    let bench = bench(STRICT);
    *bench.iommu.regions.lock().unwrap() = vec![region(0x800_0000, 0x80f_ffff, ReservedKind::SoftwareMsi)];
    bench.member(1, |info| info.firmware_regions = vec![region(0x2000, 0x2fff, ReservedKind::Reserved)]);
    bench.member(2, |info| info.firmware_regions = vec![region(0x3000, 0x3fff, ReservedKind::Reserved)]);
    let wanted = [
        region(0x2000, 0x3fff, ReservedKind::Reserved),
        region(0x800_0000, 0x80f_ffff, ReservedKind::SoftwareMsi),
    ];
    assert_eq!(bench.group.reserved_regions(), wanted);
}
