//! Hardware that refuses during a change of hands: whichever call it is, nothing has changed, or devices are blocked and that is said.

use std::sync::Arc;

use crate::support::{Bench, Call, Machine, STRICT, bench};
use portcullis_core::device::Device;
use portcullis_core::domain::{Domain, DomainType};
use portcullis_core::group::{DefaultDomain, DefaultType, DefaultTypeError, GroupError, Left};
use portcullis_core::iommu::{AttachError, DomainError, SyncError};
use portcullis_core::owner::{ClaimError, Errno, Owner, Released, UseError};
use portcullis_types::SourceId;

const NO_ANSWER: SyncError = SyncError::Failed { code: 1 };

fn user() -> Owner {
    Owner::new(1).unwrap()
}

fn three_members() -> (Bench, Vec<Arc<Device<Machine>>>) {
    let bench = bench(STRICT);
    let members = (1..4).map(|source| bench.member(source, |_| ())).collect();
    (bench, members)
}

fn user_domain(bench: &Bench) -> Arc<Domain<Machine>> {
    Domain::new(bench.machine.clone(), bench.iommu.clone(), DomainType::Unmanaged).unwrap()
}

fn places_are(bench: &Bench, place: &str) {
    assert!(bench.iommu.places().iter().all(|at| at == place), "{:?} and not {place}", bench.iommu.places());
    core_knows(bench);
}

/// Core says of each device where hardware has it.
fn core_knows(bench: &Bench) {
    for (source, place) in (1..).zip(bench.iommu.places()) {
        let domain = bench.unit.device(SourceId(source)).unwrap().domain().unwrap();
        assert_eq!(domain.domain_type() == DomainType::Blocked, place == "blocked", "dev{source}");
        let default = Arc::ptr_eq(&domain, &bench.group.default_domain());
        assert_eq!(default, place == "domain0", "dev{source}");
    }
}

fn nobody_holds(bench: &Bench) {
    let now = bench.group.ownership();
    assert_eq!((now.count, now.owner), (0, None));
}

type Claim = fn(&Bench) -> Result<(), ClaimError>;

/// Both kinds of claim.
fn claims() -> [Claim; 2] {
    [
        |bench| bench.group.claim_group(user()),
        |bench| bench.group.claim_device(&bench.unit.device(SourceId(2)).unwrap(), user()),
    ]
}

#[test]
fn a_claim_that_fails_at_any_device_leaves_all_as_it_was() {
    for (claim, pass) in claims().into_iter().flat_map(|claim| (0..3).map(move |pass| (claim, pass))) {
        let (bench, members) = three_members();
        bench.iommu.fail(Call::Attach, pass, 1);
        let error = AttachError::Sync(NO_ANSWER);
        let refused = ClaimError::Attach(GroupError::Attach { device: members[pass].name().into(), error });
        assert_eq!(refused.errno(), Errno::Eio);
        assert_eq!(claim(&bench), Err(refused));
        nobody_holds(&bench);
        places_are(&bench, "domain0");
        bench.group.use_default_domain(&members[0], "nvme").unwrap();
        bench.group.unuse_default_domain(&members[0]).unwrap();
        claim(&bench).unwrap();
        places_are(&bench, "blocked");
    }
}

#[test]
fn a_claim_that_leaves_devices_blocked_names_them_and_the_next_driver_takes_them_home() {
    // The third is refused, and the first cannot go back.
    let (bench, members) = three_members();
    bench.iommu.fail(Call::Attach, 2, 2);
    let stranded = GroupError::Stranded {
        device: "dev3".into(),
        error: AttachError::Sync(NO_ANSWER),
        left: vec![("dev1".into(), Left::Blocked)],
    };
    assert_eq!(bench.group.claim_group(user()), Err(ClaimError::Attach(stranded)));
    nobody_holds(&bench);
    assert_eq!(bench.iommu.places(), ["blocked", "domain0", "domain0"]);
    core_knows(&bench);
    bench.iommu.fail(Call::Attach, 0, 1);
    let stuck = GroupError::Attach { device: "dev1".into(), error: AttachError::Sync(NO_ANSWER) };
    assert_eq!(bench.group.use_default_domain(&members[1], "nvme"), Err(UseError::Stuck(stuck)));
    nobody_holds(&bench);
    assert_eq!(bench.iommu.places(), ["blocked", "domain0", "domain0"]);
    bench.group.use_default_domain(&members[1], "nvme").unwrap();
    places_are(&bench, "domain0");
}

#[test]
fn a_user_can_have_a_group_of_which_a_failed_claim_left_devices_blocked() {
    let (bench, _) = three_members();
    bench.iommu.fail(Call::AttachAndBlock, 1, 1);
    assert!(matches!(bench.group.claim_group(user()), Err(ClaimError::Attach(GroupError::Stranded { .. }))));
    core_knows(&bench);
    bench.group.claim_group(user()).unwrap();
    places_are(&bench, "blocked");
    assert_eq!(bench.group.release_group(user()), Ok(Released::Free));
    places_are(&bench, "domain0");
}

#[test]
fn a_claim_has_hardwares_word_that_each_device_is_blocked_also_where_it_is_said_to_be() {
    for (claim, pass) in claims().into_iter().flat_map(|claim| (0..3).map(move |pass| (claim, pass))) {
        let (bench, _members) = held(false);
        // Nobody can go home, nor does hardware confirm that anybody is blocked.
        bench.iommu.fail(Call::AttachAndBlock, 0, usize::MAX);
        assert!(matches!(bench.group.release_group(user()), Ok(Released::Blocked(_))));
        bench.iommu.fail_no_more();
        bench.iommu.fail(Call::AttachAndBlock, pass, 1);
        let refused = claim(&bench);
        assert!(matches!(refused, Err(ClaimError::Attach(_))), "device {pass}: {refused:?}");
        nobody_holds(&bench);
        places_are(&bench, "blocked");
        bench.iommu.fail_no_more();
        claim(&bench).unwrap();
        places_are(&bench, "blocked");
    }
}

/// A group that a user has claimed and attached, or not attached.
fn held(attached: bool) -> (Bench, Vec<Arc<Device<Machine>>>) {
    let (bench, members) = three_members();
    bench.group.claim_group(user()).unwrap();
    if attached {
        bench.group.attach_as(user(), &user_domain(&bench)).unwrap();
    }
    (bench, members)
}

#[test]
fn a_release_that_hardware_refuses_at_any_device_leaves_the_whole_group_blocked_and_says_so() {
    for (attached, pass) in
        [false, true].into_iter().flat_map(|attached| (0..3).map(move |pass| (attached, pass)))
    {
        for call in [Call::Attach, Call::AttachAndBlock] {
            let (bench, members) = held(attached);
            bench.iommu.fail(call, pass, 1);
            let Ok(Released::Blocked(stuck)) = bench.group.release_group(user()) else {
                panic!("hardware refused and nobody said so");
            };
            assert!(stuck.open.is_empty());
            let device = match stuck.error {
                GroupError::Attach { device, .. } | GroupError::Stranded { device, .. } => device,
                other => panic!("{other:?}"),
            };
            assert_eq!(device, members[pass].name());
            nobody_holds(&bench);
            places_are(&bench, "blocked");
            assert!(Arc::ptr_eq(&bench.group.current_domain(), bench.group.blocked_domain()));
            // A driver cannot have it while hardware refuses, and has it when hardware agrees.
            bench.iommu.fail(Call::Attach, 0, 1);
            assert!(matches!(bench.group.use_default_domain(&members[0], "nvme"), Err(UseError::Stuck(_))));
            places_are(&bench, "blocked");
            bench.group.use_default_domain(&members[0], "nvme").unwrap();
            places_are(&bench, "domain0");
            assert!(Arc::ptr_eq(&bench.group.current_domain(), &bench.group.default_domain()));
        }
    }
}

#[test]
fn a_blocked_group_is_taken_home_by_detach_or_by_the_next_release_or_gets_another_default() {
    let ways: [fn(&Bench); 3] = [
        |bench| bench.group.detach().unwrap(),
        |bench| {
            bench.group.claim_group(user()).unwrap();
            assert_eq!(bench.group.release_group(user()), Ok(Released::Free));
        },
        |bench| {
            bench.group.set_default_type(DefaultType::This(DefaultDomain::Identity)).unwrap();
            assert!(bench.iommu.places().iter().all(|place| place == "identity"));
            bench.group.set_default_type(DefaultType::Auto).unwrap();
        },
    ];
    for way in ways {
        let (bench, members) = held(true);
        bench.iommu.fail(Call::Attach, 0, 1);
        assert!(matches!(bench.group.release_group(user()), Ok(Released::Blocked(_))));
        way(&bench);
        let rest = bench.group.default_domain();
        assert!(members.iter().all(|device| Arc::ptr_eq(&device.domain().unwrap(), &rest)));
        assert!(bench.iommu.places().iter().all(|place| place != "blocked"));
        bench.group.use_default_domain(&members[0], "nvme").unwrap();
    }
}

#[test]
fn a_device_that_hardware_does_not_even_block_is_named_and_no_driver_gets_the_group() {
    let (bench, members) = held(true);
    // The first is refused its default domain, stays where it is, and cannot be blocked either.
    bench.iommu.fail(Call::Attach, 0, 2);
    let Ok(Released::Blocked(stuck)) = bench.group.release_group(user()) else {
        panic!("hardware refused and nobody said so");
    };
    assert_eq!(stuck.open, ["dev1"]);
    assert_eq!(bench.iommu.places(), ["domain1", "blocked", "blocked"]);
    core_knows(&bench);
    bench.iommu.fail(Call::Attach, 0, 1);
    assert!(matches!(bench.group.use_default_domain(&members[2], "nvme"), Err(UseError::Stuck(_))));
    bench.group.use_default_domain(&members[2], "nvme").unwrap();
    places_are(&bench, "domain0");
}

/// Found by the simulator, seed 0xf425a: the driver was bound, and its device stayed blocked.
#[test]
fn a_driver_takes_devices_that_hardware_left_blocked_to_where_their_group_is() {
    let (bench, members) = three_members();
    let domain = user_domain(&bench);
    bench.group.attach(&domain).unwrap();
    bench.iommu.fail(Call::AttachAndBlock, 0, 1);
    assert!(matches!(bench.group.detach(), Err(GroupError::Stranded { .. })));
    assert_eq!(bench.iommu.places(), ["blocked", "domain1", "domain1"]);
    bench.iommu.fail(Call::Attach, 0, 1);
    assert!(matches!(bench.group.use_default_domain(&members[0], "nvme"), Err(UseError::Stuck(_))));
    nobody_holds(&bench);
    bench.group.use_default_domain(&members[0], "nvme").unwrap();
    assert!(members.iter().all(|device| Arc::ptr_eq(&device.domain().unwrap(), &domain)));
    assert_eq!(bench.iommu.places(), ["domain1", "domain1", "domain1"]);
}

#[test]
fn a_users_attach_or_detach_that_fails_leaves_him_what_he_had() {
    for pass in 0..3 {
        let (bench, _) = held(false);
        let domain = user_domain(&bench);
        bench.iommu.fail(Call::Attach, pass, 1);
        assert!(matches!(bench.group.attach_as(user(), &domain), Err(GroupError::Attach { .. })));
        places_are(&bench, "blocked");
        bench.group.attach_as(user(), &domain).unwrap();
        bench.iommu.fail(Call::Attach, pass, 1);
        assert!(matches!(bench.group.detach_as(user()), Err(GroupError::Attach { .. })));
        places_are(&bench, "domain1");
        assert_eq!(bench.group.ownership().owner, Some(user()));
        bench.group.detach_as(user()).unwrap();
        places_are(&bench, "blocked");
    }
}

#[test]
fn a_change_of_the_default_type_that_fails_leaves_the_default_as_it_was() {
    let identity = DefaultType::This(DefaultDomain::Identity);
    for pass in 0..3 {
        let (bench, members) = three_members();
        bench.iommu.fail(Call::Attach, pass, 1);
        let refused = bench.group.set_default_type(identity);
        assert!(matches!(refused, Err(DefaultTypeError::Attach(GroupError::Attach { .. }))));
        assert_eq!(bench.group.default_type(), Some(STRICT));
        places_are(&bench, "domain0");
        bench.group.use_default_domain(&members[0], "nvme").unwrap();
    }
    let (bench, _) = three_members();
    bench.group.set_default_type(identity).unwrap();
    bench.iommu.fail(Call::NewDomain, 0, 1);
    let refused = Err(DefaultTypeError::Domain(DomainError::NoIds));
    assert_eq!(bench.group.set_default_type(DefaultType::Auto), refused);
    assert_eq!(bench.group.default_type(), Some(DefaultDomain::Identity));
    assert!(bench.iommu.places().iter().all(|place| place == "identity"));
}
