//! Ownership: who gets a group, who does not and why, and that nothing which is refused changes anything.

use std::sync::Arc;

use crate::support::{Bench, LAZY, Machine, RAM, STRICT, bench, range, region};
use portcullis_core::device::Device;
use portcullis_core::dma::Direction;
use portcullis_core::domain::{Domain, DomainType, FlushMode};
use portcullis_core::group::{
    DefaultDomain, DefaultType, DefaultTypeError, Group, GroupError, PasidError, UnknownWord,
};
use portcullis_core::iommu::{AttachError, DomainError, MapError, RegionSource, ReservedKind, SyncError};
use portcullis_core::owner::{
    ClaimError, Errno, KernelUser, NullOwner, Owner, ReleaseError, Released, UnuseError, UseError,
};
use portcullis_types::{Iova, Pa, Pasid, Perms, Prot};

fn owner(identity: usize) -> Owner {
    Owner::new(identity).unwrap()
}

fn user_domain(bench: &Bench) -> Arc<Domain<Machine>> {
    Domain::new(bench.machine.clone(), bench.iommu.clone(), DomainType::Unmanaged).unwrap()
}

fn two_members() -> (Bench, Arc<Device<Machine>>, Arc<Device<Machine>>) {
    let bench = bench(STRICT);
    let (one, two) = (bench.member(1, |_| ()), bench.member(2, |_| ()));
    (bench, one, two)
}

/// How often the group is held, by which user, and where hardware has the devices.
fn is(bench: &Bench, count: usize, owner: Option<Owner>, place: &str) {
    let now = bench.group.ownership();
    assert_eq!((now.count, now.owner), (count, owner));
    assert!(bench.iommu.places().iter().all(|at| at == place), "{:?} and not {place}", bench.iommu.places());
}

fn users(users: &[(&str, &str)]) -> Vec<KernelUser> {
    users
        .iter()
        .map(|&(device, driver)| KernelUser { device: device.into(), driver: driver.into() })
        .collect()
}

#[test]
fn nobody_is_no_owner() {
    assert_eq!(Owner::new(0), Err(NullOwner));
    assert_eq!(NullOwner.errno(), Errno::Einval);
    let (one, two) = (Arc::new(()), Arc::new(()));
    assert_eq!(Owner::of(&one), Owner::of(&one.clone()));
    assert_ne!(Owner::of(&one), Owner::of(&two));
}

#[test]
fn drivers_of_the_dma_api_are_counted_and_keep_users_away_by_name() {
    let (bench, one, two) = two_members();
    bench.group.use_default_domain(&one, "nvme").unwrap();
    bench.group.use_default_domain(&two, "e1000").unwrap();
    is(&bench, 2, None, "domain0");
    let refused = ClaimError::KernelUses(users(&[("dev1", "nvme"), ("dev2", "e1000")]));
    assert_eq!(refused.errno(), Errno::Eperm);
    assert_eq!(bench.group.claim_group(owner(1)), Err(refused.clone()));
    assert_eq!(bench.group.claim_device(&two, owner(1)), Err(refused));
    is(&bench, 2, None, "domain0");
    bench.group.unuse_default_domain(&one).unwrap();
    let refused = ClaimError::KernelUses(users(&[("dev2", "e1000")]));
    assert_eq!(bench.group.claim_device(&one, owner(1)), Err(refused));
    bench.group.unuse_default_domain(&two).unwrap();
    bench.group.claim_group(owner(1)).unwrap();
}

#[test]
fn giving_back_what_was_never_taken_is_caught_and_changes_no_count() {
    let (bench, one, two) = two_members();
    assert_eq!(bench.group.unuse_default_domain(&one), Err(UnuseError::NotUsed));
    bench.group.use_default_domain(&one, "nvme").unwrap();
    assert_eq!(bench.group.unuse_default_domain(&two), Err(UnuseError::NotUsed));
    is(&bench, 1, None, "domain0");
    bench.group.unuse_default_domain(&one).unwrap();
    assert_eq!(bench.group.unuse_default_domain(&one), Err(UnuseError::NotUsed));
    is(&bench, 0, None, "domain0");
    assert_eq!(UnuseError::NotUsed.errno(), Errno::Einval);
}

#[test]
fn a_claimed_group_is_blocked_until_its_user_attaches_and_goes_back_when_he_is_done() {
    let (bench, one, _) = two_members();
    bench.group.claim_group(owner(1)).unwrap();
    is(&bench, 1, Some(owner(1)), "blocked");
    assert_eq!(bench.group.use_default_domain(&one, "nvme"), Err(UseError::Owned(owner(1))));
    bench.group.attach_as(owner(1), &user_domain(&bench)).unwrap();
    is(&bench, 1, Some(owner(1)), "domain1");
    assert_eq!(bench.group.use_default_domain(&one, "nvme"), Err(UseError::Owned(owner(1))));
    assert_eq!(UseError::Owned(owner(1)).errno(), Errno::Ebusy);
    bench.group.detach_as(owner(1)).unwrap();
    is(&bench, 1, Some(owner(1)), "blocked");
    bench.group.attach_as(owner(1), &user_domain(&bench)).unwrap();
    assert_eq!(bench.group.release_group(owner(1)), Ok(Released::Free));
    is(&bench, 0, None, "domain0");
    bench.group.use_default_domain(&one, "nvme").unwrap();
}

#[test]
fn a_group_is_claimed_whole_only_once_even_by_its_own_user() {
    let (bench, _, two) = two_members();
    bench.group.claim_group(owner(1)).unwrap();
    for who in [owner(1), owner(2)] {
        assert_eq!(bench.group.claim_group(who), Err(ClaimError::Owned(owner(1))));
    }
    assert_eq!(bench.group.claim_device(&two, owner(2)), Err(ClaimError::Owned(owner(1))));
    assert_eq!(ClaimError::Owned(owner(1)).errno(), Errno::Eperm);
    is(&bench, 1, Some(owner(1)), "blocked");
}

#[test]
fn devices_are_claimed_one_by_one_with_one_owner_and_the_last_release_opens_the_group() {
    let (bench, one, two) = two_members();
    bench.group.claim_device(&one, owner(1)).unwrap();
    is(&bench, 1, Some(owner(1)), "blocked");
    assert_eq!(bench.group.claim_device(&two, owner(2)), Err(ClaimError::Owned(owner(1))));
    bench.group.attach_as(owner(1), &user_domain(&bench)).unwrap();
    bench.group.claim_device(&two, owner(1)).unwrap();
    bench.group.claim_device(&two, owner(1)).unwrap();
    is(&bench, 3, Some(owner(1)), "domain1");
    assert_eq!(bench.group.release_device(&two, owner(1)), Ok(Released::Held(2)));
    assert_eq!(bench.group.release_device(&one, owner(1)), Ok(Released::Held(1)));
    is(&bench, 1, Some(owner(1)), "domain1");
    assert_eq!(bench.group.release_device(&one, owner(1)), Err(ReleaseError::NotClaimed));
    assert_eq!(bench.group.release_group(owner(1)), Err(ReleaseError::NotClaimed));
    is(&bench, 1, Some(owner(1)), "domain1");
    assert_eq!(bench.group.release_device(&two, owner(1)), Ok(Released::Free));
    is(&bench, 0, None, "domain0");
}

#[test]
fn what_was_not_claimed_or_is_anothers_cannot_be_released() {
    let (bench, one, _) = two_members();
    assert_eq!(bench.group.release_group(owner(1)), Err(ReleaseError::NotClaimed));
    assert_eq!(bench.group.release_device(&one, owner(1)), Err(ReleaseError::NotClaimed));
    bench.group.use_default_domain(&one, "nvme").unwrap();
    assert_eq!(bench.group.release_group(owner(1)), Err(ReleaseError::NotClaimed));
    is(&bench, 1, None, "domain0");
    bench.group.unuse_default_domain(&one).unwrap();
    bench.group.claim_group(owner(1)).unwrap();
    assert_eq!(bench.group.release_group(owner(2)), Err(ReleaseError::NotOwner(owner(1))));
    assert_eq!(bench.group.release_device(&one, owner(2)), Err(ReleaseError::NotOwner(owner(1))));
    bench.group.claim_device(&one, owner(1)).unwrap();
    assert_eq!(bench.group.release_group(owner(1)), Err(ReleaseError::DevicesClaimed(1)));
    is(&bench, 2, Some(owner(1)), "blocked");
    let errors =
        [ReleaseError::NotClaimed, ReleaseError::NotOwner(owner(1)), ReleaseError::DevicesClaimed(1)];
    assert_eq!(errors.map(ReleaseError::errno), [Errno::Einval, Errno::Eperm, Errno::Ebusy]);
}

#[test]
fn a_stranger_to_the_group_neither_uses_nor_claims_it() {
    let (bench, ..) = two_members();
    let stranger = bench.device(9, |_| ());
    assert_eq!(bench.group.use_default_domain(&stranger, "nvme"), Err(UseError::NotMember));
    assert_eq!(bench.group.claim_device(&stranger, owner(1)), Err(ClaimError::NotMember));
    assert_eq!((UseError::NotMember.errno(), ClaimError::NotMember.errno()), (Errno::Enodev, Errno::Enodev));
    assert_eq!(bench.group.ownership().count, 0);
}

#[test]
fn a_group_in_somebodys_domain_is_claimed_by_nobody_and_takes_no_second_driver() {
    let bench = bench(STRICT);
    let device = bench.member(1, |_| ());
    // The driver of the device manages DMA itself, and later wants the DMA API as well.
    bench.group.attach_device(&device, &user_domain(&bench), None).unwrap();
    assert_eq!(bench.group.claim_group(owner(1)), Err(ClaimError::OtherDomain));
    assert_eq!(bench.group.claim_device(&device, owner(1)), Err(ClaimError::OtherDomain));
    assert_eq!(ClaimError::OtherDomain.errno(), Errno::Ebusy);
    is(&bench, 0, None, "domain1");
    bench.group.use_default_domain(&device, "gpu").unwrap();
    assert_eq!(bench.group.use_default_domain(&device, "another"), Err(UseError::OtherDomain));
    assert_eq!(UseError::OtherDomain.errno(), Errno::Ebusy);
    is(&bench, 1, None, "domain1");
}

#[test]
fn while_a_pasid_means_something_the_group_changes_hands_for_nobody() {
    let (bench, one, two) = two_members();
    let pasid = Pasid::new(5).unwrap();
    bench.group.use_default_domain(&one, "accel").unwrap();
    bench.group.hold_pasid(pasid, None).unwrap();
    assert_eq!(bench.group.hold_pasid(pasid, None), Err(PasidError::Taken));
    assert_eq!(bench.group.use_default_domain(&two, "nvme"), Err(UseError::PasidsInUse));
    bench.group.unuse_default_domain(&one).unwrap();
    assert_eq!(bench.group.claim_group(owner(1)), Err(ClaimError::PasidsInUse));
    assert_eq!(
        (UseError::PasidsInUse.errno(), ClaimError::PasidsInUse.errno()),
        (Errno::Ebusy, Errno::Ebusy)
    );
    assert_eq!(bench.group.set_default_type(DefaultType::This(LAZY)), Ok(()), "the domain stays the same");
    let identity = DefaultType::This(DefaultDomain::Identity);
    assert_eq!(bench.group.set_default_type(identity), Err(DefaultTypeError::PasidsInUse));
    bench.group.drop_pasid(pasid).unwrap();
    assert_eq!(bench.group.drop_pasid(pasid), Err(PasidError::NotHeld));
    bench.group.claim_group(owner(1)).unwrap();
    assert_eq!(bench.group.hold_pasid(pasid, None), Err(PasidError::NotOwner(Some(owner(1)))));
    bench.group.hold_pasid(pasid, Some(owner(1))).unwrap();
    assert_eq!(bench.group.release_group(owner(1)), Err(ReleaseError::PasidsInUse));
    is(&bench, 1, Some(owner(1)), "blocked");
}

#[test]
fn a_device_that_firmware_uses_is_not_claimed_and_the_region_is_named() {
    let bench = bench(STRICT);
    bench.member(1, |_| ());
    let two =
        bench.member(2, |info| info.firmware_regions = vec![region(0x5000, 0x5fff, ReservedKind::Direct)]);
    let refused = ClaimError::Direct {
        device: "dev2".into(),
        range: range(0x5000, 0x5fff),
        source: RegionSource::DeviceTree,
    };
    assert_eq!(refused.errno(), Errno::Einval);
    assert_eq!(bench.group.claim_group(owner(1)), Err(refused.clone()));
    assert_eq!(bench.group.claim_device(&two, owner(1)), Err(refused));
    is(&bench, 0, None, "domain0");
}

#[test]
fn a_refusal_for_firmwares_sake_says_which_region_and_which_table() {
    let bench = bench(STRICT);
    bench.member(1, |info| info.firmware_regions = vec![region(0x5000, 0x5fff, ReservedKind::Direct)]);
    bench.machine.events();
    assert!(bench.group.claim_group(owner(1)).is_err());
    let wanted = "claim: dev=dev1 group=7 first=0x0000000000005000 last=0x0000000000005fff table=reserved-memory count=0 \
                  result=refused";
    assert_eq!(bench.machine.events(), [wanted]);
}

#[test]
fn a_device_that_firmware_gives_up_is_claimed() {
    let bench = bench(STRICT);
    bench.member(1, |info| {
        info.firmware_regions = vec![region(0x5000, 0x5fff, ReservedKind::DirectRelaxable)];
    });
    bench.group.claim_group(owner(1)).unwrap();
    is(&bench, 1, Some(owner(1)), "blocked");
}

#[test]
fn a_device_that_joins_a_users_group_is_the_users_too_and_its_driver_is_refused() {
    let (bench, ..) = two_members();
    bench.group.claim_group(owner(1)).unwrap();
    let early = bench.member(3, |_| ());
    is(&bench, 1, Some(owner(1)), "blocked");
    bench.group.attach_as(owner(1), &user_domain(&bench)).unwrap();
    let late = bench.member(4, |_| ());
    is(&bench, 1, Some(owner(1)), "domain1");
    for device in [&early, &late] {
        assert_eq!(bench.group.use_default_domain(device, "nvme"), Err(UseError::Owned(owner(1))));
    }
    let firmwares =
        bench.device(5, |info| info.firmware_regions = vec![region(0x5000, 0x5fff, ReservedKind::Direct)]);
    let refused = GroupError::Direct {
        device: "dev5".into(),
        range: range(0x5000, 0x5fff),
        source: RegionSource::DeviceTree,
    };
    assert_eq!(refused.errno(), Errno::Einval);
    assert_eq!(bench.group.add_device(&firmwares), Err(refused));
    assert_eq!(bench.iommu.place(5).unwrap(), "blocked");
    bench.unit.remove_device(&firmwares).unwrap();
    assert_eq!(bench.group.release_group(owner(1)), Ok(Released::Free));
    is(&bench, 0, None, "domain0");
    bench.group.use_default_domain(&late, "nvme").unwrap();
}

#[test]
fn a_device_that_is_held_for_itself_does_not_leave_and_one_of_a_claimed_group_does() {
    let (bench, one, two) = two_members();
    bench.group.use_default_domain(&one, "nvme").unwrap();
    assert_eq!(bench.group.remove_device(&one), Err(GroupError::Held));
    bench.group.unuse_default_domain(&one).unwrap();
    bench.group.claim_device(&one, owner(1)).unwrap();
    assert_eq!(bench.group.remove_device(&one), Err(GroupError::Held));
    assert_eq!(GroupError::Held.errno(), Errno::Ebusy);
    bench.group.remove_device(&two).unwrap();
    assert_eq!(bench.group.release_device(&one, owner(1)), Ok(Released::Free));
    bench.group.claim_group(owner(1)).unwrap();
    bench.group.remove_device(&one).unwrap();
    assert_eq!(bench.group.ownership().count, 1);
    assert_eq!(bench.group.release_group(owner(1)), Ok(Released::Free));
}

#[test]
fn only_who_holds_the_group_moves_it() {
    let (bench, one, _) = two_members();
    let domain = user_domain(&bench);
    let not_owner = |now| Err(GroupError::NotOwner(now));
    assert_eq!(bench.group.attach_as(owner(1), &domain), not_owner(None));
    bench.group.claim_group(owner(1)).unwrap();
    let holder = Some(owner(1));
    assert_eq!(bench.group.attach(&domain), not_owner(holder));
    assert_eq!(bench.group.detach(), not_owner(holder));
    assert_eq!(bench.group.attach_as(owner(2), &domain), not_owner(holder));
    assert_eq!(bench.group.detach_as(owner(2)), not_owner(holder));
    assert_eq!(GroupError::NotOwner(holder).errno(), Errno::Eperm);
    is(&bench, 1, holder, "blocked");
    bench.group.release_group(owner(1)).map(|left| assert_eq!(left, Released::Free)).unwrap();
    // Two devices, and the driver of one uses the DMA API: the other's may not take both elsewhere.
    bench.group.use_default_domain(&one, "nvme").unwrap();
    let refused = GroupError::KernelUses(users(&[("dev1", "nvme")]));
    assert_eq!(refused.errno(), Errno::Ebusy);
    assert_eq!(bench.group.attach(&domain), Err(refused));
    bench.group.detach().unwrap();
    is(&bench, 1, None, "domain0");
}

#[test]
fn a_user_gets_none_of_the_kernels_domains() {
    let (bench, ..) = two_members();
    bench.group.claim_group(owner(1)).unwrap();
    let identity = Domain::new(bench.machine.clone(), bench.iommu.clone(), DomainType::Identity).unwrap();
    for domain in [&bench.group.default_domain(), &identity] {
        assert_eq!(bench.group.attach_as(owner(1), domain), Err(GroupError::NotUsers));
    }
    assert_eq!(GroupError::NotUsers.errno(), Errno::Einval);
    is(&bench, 1, Some(owner(1)), "blocked");
    let blocked = bench.group.blocked_domain().clone();
    bench.group.attach_as(owner(1), &blocked).unwrap();
}

#[test]
fn a_user_changes_from_one_domain_to_another_by_way_of_the_blocked_one() {
    let (bench, ..) = two_members();
    bench.group.claim_group(owner(1)).unwrap();
    let (first, second) = (user_domain(&bench), user_domain(&bench));
    bench.group.attach_as(owner(1), &first).unwrap();
    assert_eq!(bench.group.attach_as(owner(1), &second), Err(GroupError::OtherDomain));
    assert_eq!(GroupError::OtherDomain.errno(), Errno::Ebusy);
    bench.group.attach_as(owner(1), &first).expect("it is there");
    is(&bench, 1, Some(owner(1)), "domain1");
    bench.group.detach_as(owner(1)).unwrap();
    bench.group.attach_as(owner(1), &second).unwrap();
    is(&bench, 1, Some(owner(1)), "domain2");
}

#[test]
fn a_device_moves_alone_only_if_it_is_alone() {
    let (bench, one, two) = two_members();
    let domain = user_domain(&bench);
    assert_eq!(bench.group.attach_device(&one, &domain, None), Err(GroupError::Shared(2)));
    assert_eq!(bench.group.detach_device(&one, None), Err(GroupError::Shared(2)));
    assert_eq!(GroupError::Shared(2).errno(), Errno::Einval);
    bench.group.remove_device(&two).unwrap();
    bench.unit.remove_device(&two).unwrap();
    assert_eq!(bench.group.attach_device(&two, &domain, None), Err(GroupError::NotMember));
    assert_eq!(GroupError::NotMember.errno(), Errno::Enodev);
    let theirs = user_domain(&crate::support::bench(STRICT));
    let foreign = GroupError::Attach { device: "dev1".into(), error: AttachError::ForeignDomain };
    assert_eq!(foreign.errno(), Errno::Einval);
    assert_eq!(bench.group.attach_device(&one, &theirs, None), Err(foreign));
    bench.group.attach_device(&one, &domain, None).unwrap();
    assert_eq!(bench.group.attach_device(&one, &user_domain(&bench), None), Err(GroupError::OtherDomain));
    is(&bench, 0, None, "domain1");
    bench.group.detach_device(&one, None).unwrap();
    is(&bench, 0, None, "domain0");
    bench.group.claim_device(&one, owner(1)).unwrap();
    bench.group.attach_device(&one, &domain, Some(owner(1))).unwrap();
    bench.group.detach_device(&one, Some(owner(1))).unwrap();
    is(&bench, 1, Some(owner(1)), "blocked");
}

#[test]
fn a_group_with_no_default_domain_defers_drivers_and_can_be_a_users() {
    let bench = bench(STRICT);
    let group = Group::without_default(bench.machine.clone(), bench.iommu.clone(), 8, LAZY).unwrap();
    let device =
        bench.device(1, |info| info.firmware_regions = vec![region(0x5000, 0x5fff, ReservedKind::Direct)]);
    group.add_device(&device).unwrap();
    assert_eq!((group.default_type(), bench.iommu.place(1).unwrap()), (None, "blocked".into()));
    assert_eq!(group.use_default_domain(&device, "nvme"), Err(UseError::NoDefaultDomain));
    assert_eq!(UseError::NoDefaultDomain.errno().code(), 517);
    assert!(matches!(group.claim_group(owner(1)), Err(ClaimError::Direct { .. })), "it is blocked already");
    let plain = bench.device(2, |_| ());
    let other = Group::without_default(bench.machine.clone(), bench.iommu.clone(), 9, LAZY).unwrap();
    other.add_device(&plain).unwrap();
    other.claim_group(owner(1)).unwrap();
    assert_eq!(other.release_group(owner(1)), Ok(Released::Free));
    group.set_default_type(DefaultType::Auto).unwrap();
    assert_eq!(group.default_type(), Some(LAZY));
    group.use_default_domain(&device, "nvme").unwrap();
    assert_eq!(bench.iommu.place(1).unwrap(), "domain1");
    assert_eq!(bench.iommu.domain(1).mapped(), [(0x5000, 0x5000)]);
}

#[test]
fn the_words_of_default_domains_are_sysfs_words() {
    let this = |kind| Ok(DefaultType::This(kind));
    for (word, wanted) in [
        ("identity", this(DefaultDomain::Identity)),
        ("DMA", this(STRICT)),
        ("DMA-FQ\n", this(LAZY)),
        ("auto", Ok(DefaultType::Auto)),
    ] {
        assert_eq!(word.parse::<DefaultType>(), wanted);
    }
    for word in ["", "dma", "DMA-FQ ", "DMA\n\n", "blocked"] {
        assert_eq!(word.parse::<DefaultType>(), Err(UnknownWord), "{word:?}");
    }
    assert_eq!(UnknownWord.errno(), Errno::Einval);
    assert_eq!(
        [DefaultDomain::Identity, STRICT, LAZY].map(DefaultDomain::word),
        ["identity", "DMA", "DMA-FQ"]
    );
}

#[test]
fn while_the_group_is_held_only_dma_to_dma_fq_is_allowed_and_mappings_live_through_it() {
    let (bench, one, _) = two_members();
    bench.group.use_default_domain(&one, "nvme").unwrap();
    let dma = bench.group.dma(&one).unwrap();
    let before = dma.map_single(Pa::new(RAM), 0x1000, Direction::ToDevice).unwrap();
    let identity = DefaultType::This(DefaultDomain::Identity);
    assert_eq!(bench.group.set_default_type(identity), Err(DefaultTypeError::InUse(1)));
    assert_eq!(DefaultTypeError::InUse(1).errno(), Errno::Eperm);
    let domain = bench.group.default_domain();
    bench.group.set_default_type(DefaultType::This(LAZY)).unwrap();
    assert!(Arc::ptr_eq(&domain, &bench.group.default_domain()));
    assert_eq!(domain.domain_type(), DomainType::Dma(FlushMode::Lazy));
    dma.unmap_single(before).unwrap();
    assert_eq!(dma.stats().waiting, 1, "it is flushed later from now on");
    assert_eq!(bench.group.set_default_type(DefaultType::Auto), Err(DefaultTypeError::InUse(1)));
    is(&bench, 1, None, "domain0");
    bench.group.unuse_default_domain(&one).unwrap();
    bench.group.claim_group(owner(1)).unwrap();
    assert_eq!(bench.group.set_default_type(DefaultType::Auto), Err(DefaultTypeError::InUse(1)));
    is(&bench, 1, Some(owner(1)), "blocked");
}

#[test]
fn a_group_that_nobody_holds_changes_its_default_domain() {
    let (bench, one, _) = two_members();
    bench.group.set_default_type(DefaultType::This(DefaultDomain::Identity)).unwrap();
    is(&bench, 0, None, "identity");
    bench.group.set_default_type(DefaultType::Auto).unwrap();
    is(&bench, 0, None, "domain1");
    bench.group.set_default_type(DefaultType::Auto).unwrap();
    is(&bench, 0, None, "domain1");
    bench.group.attach(&user_domain(&bench)).unwrap();
    let identity = DefaultType::This(DefaultDomain::Identity);
    assert_eq!(bench.group.set_default_type(identity), Err(DefaultTypeError::OtherDomain));
    assert_eq!(DefaultTypeError::OtherDomain.errno(), Errno::Ebusy);
    bench.group.detach().unwrap();
    *bench.iommu.identity.lock().unwrap() = false;
    let unsupported = GroupError::Attach { device: "dev1".into(), error: AttachError::Unsupported };
    assert_eq!(bench.group.set_default_type(identity), Err(DefaultTypeError::Attach(unsupported)));
    is(&bench, 0, None, "domain1");
    assert_eq!(bench.group.default_type(), Some(STRICT));
    bench.group.use_default_domain(&one, "nvme").unwrap();
}

#[test]
fn every_change_of_hands_is_told_and_a_refused_claim_says_who_stands_in_the_way() {
    let (bench, one, _) = two_members();
    bench.machine.events();
    bench.group.use_default_domain(&one, "nvme").unwrap();
    assert!(bench.group.claim_group(owner(0x51)).is_err());
    bench.group.unuse_default_domain(&one).unwrap();
    bench.group.claim_device(&one, owner(0x51)).unwrap();
    assert!(bench.group.use_default_domain(&one, "nvme").is_err());
    assert_eq!(bench.group.release_device(&one, owner(0x51)), Ok(Released::Free));
    let told = bench.machine.events();
    let own: Vec<_> = told.iter().filter(|event| !event.starts_with("attach")).collect();
    let wanted = [
        "dma_use: dev=dev1 group=7 driver=nvme count=1 result=ok",
        "claim: dev= group=7 owner=0x51 by=dev1 driver=nvme count=1 result=refused",
        "dma_unuse: dev=dev1 group=7 driver=nvme count=0 result=ok",
        "claim: dev=dev1 group=7 owner=0x51 count=1 result=ok",
        "dma_use: dev=dev1 group=7 driver=nvme count=1 result=refused",
        "release: dev=dev1 group=7 owner=0x51 count=0 result=ok",
    ];
    assert_eq!(own, wanted);
}

#[test]
fn every_cause_has_its_errno() {
    let no_answer = SyncError::Failed { code: 1 };
    let attach = [
        (AttachError::NoMemory, Errno::Enomem, 12),
        (AttachError::LeftBlocked(no_answer), Errno::Eio, 5),
        (AttachError::PasidsInUse, Errno::Ebusy, 16),
        (AttachError::Reserved(range(0, 0xfff)), Errno::Einval, 22),
        (
            AttachError::Direct { range: range(0, 0xfff), error: MapError::OutsideAperture(Iova::new(0)) },
            Errno::Erange,
            34,
        ),
    ];
    for (error, errno, code) in attach {
        assert_eq!((error.errno(), errno.code()), (errno, code));
        let stranded = GroupError::Stranded { device: "dev1".into(), error, left: Vec::new() };
        assert_eq!(ClaimError::Attach(stranded.clone()).errno(), errno);
        assert_eq!(UseError::Stuck(stranded.clone()).errno(), errno);
        assert_eq!(DefaultTypeError::Attach(stranded).errno(), errno);
    }
    assert_eq!(DefaultTypeError::Domain(DomainError::NoIds).errno(), Errno::Enospc);
    assert_eq!(MapError::Unsupported(Prot::cached(Perms::READ)).errno(), Errno::Einval);
    let codes = [Errno::Eperm, Errno::Eexist, Errno::Enodev, Errno::Enospc].map(Errno::code);
    assert_eq!(codes, [1, 17, 19, 28]);
}
