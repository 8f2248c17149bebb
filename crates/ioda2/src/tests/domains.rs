//! Domains that core fills, and who is in them.

use portcullis_core::dma::Direction;
use portcullis_core::iommu::{AddDeviceError, AttachError, Gather, MapError};
use portcullis_hal::TableMemory;

use super::*;
use crate::phb3::AssignError;
use crate::table::KILL_ONE_BY_ONE;

/// A PE with two devices, which are in a group that is blocked.
fn two_in_a_pe(change: impl FnOnce(&mut Config)) -> (Arc<Fake>, Arc<Bridge>) {
    let fake = Fake::new();
    let bridge = fake.bridge(change);
    bridge.assign(&[source(DISK), source(CARD)]).unwrap();
    for (name, rid) in [("disk", DISK), ("card", CARD)] {
        bridge.add_device(name, &[source(rid)]).unwrap();
        bridge.attach(&[source(rid)], &Target::Blocked).unwrap();
    }
    (fake, bridge)
}

#[test]
fn the_dma_api_maps_by_tces_and_unmaps_before_it_returns() {
    let machine = Machine::new(&[DISK], |_| ());
    let (group, device) = &machine.groups[0];
    let dma = group.dma(device).unwrap();
    let mapping = dma.map_single(Pa::new(0x123_4000), 0x3000, Direction::FromDevice).unwrap();
    let iova = mapping.iova().get();
    assert_eq!(machine.reach(DISK, iova + 0x2abc), Some(0x123_6abc));
    dma.unmap_single(mapping).unwrap();
    assert_eq!(machine.reach(DISK, iova), None, "and not even from what the bridge had cached");
    // The bridge cached the line when nothing was there: the next mapping is seen nonetheless.
    let again = dma.map_single(Pa::new(0x200_0000), 0x1000, Direction::FromDevice).unwrap();
    assert_eq!(machine.reach(DISK, again.iova().get()), Some(0x200_0000));
    dma.unmap_single(again).unwrap();
}

#[test]
fn a_kernel_domain_may_leave_the_bypass_open_and_a_users_never_does() {
    let machine = Machine::new(&[DISK], with_bypass);
    assert_eq!(machine.reach(DISK, BYPASS | 0x0fff_fff8), Some(0x0fff_fff8));
    assert_eq!(machine.reach(DISK, BYPASS | 0x1000_0000), None);
    let users = machine.bridge.new_domain().unwrap();
    machine.bridge.attach(&[source(DISK)], &target(&users)).unwrap();
    assert_eq!(machine.reach(DISK, BYPASS | 0x1000), None);
    users.map(Iova::new(0x1000), Pa::new(0x8000), 0x1000, READ_WRITE).unwrap();
    assert_eq!(machine.reach(DISK, 0x1000), Some(0x8000));
}

#[test]
fn identity_is_only_where_the_low_window_can_pass_addresses() {
    let (fake, bridge) = two_in_a_pe(|_| ());
    assert!(!bridge.capabilities().identity);
    assert_eq!(bridge.attach(&[source(DISK)], &Target::Identity), Err(AttachError::Unsupported));
    drop((fake, bridge));
    let (fake, bridge) = two_in_a_pe(|config| config.identity_end = Some(Pa::new(0x4000_0000)));
    fake.state().watched = Some(CARD);
    bridge.attach(&[source(DISK)], &Target::Identity).unwrap();
    assert_eq!(fake.state().seen, [255], "who stays blocked is nobody's before a window opens");
    assert_eq!(fake.access(DISK, 0x1234, true), Some(0x1234));
    assert_eq!(fake.access(CARD, 0x1234, true), None, "who was not attached is blocked");
}

#[test]
fn a_member_is_blocked_without_the_others_and_the_last_takes_the_pe() {
    let (fake, bridge) = two_in_a_pe(|_| ());
    let domain = bridge.new_kernel_domain().unwrap();
    domain.map(Iova::new(0x1000), Pa::new(0x8000), 0x1000, READ_WRITE).unwrap();
    bridge.attach(&[source(DISK)], &target(&domain)).unwrap();
    bridge.attach(&[source(CARD)], &target(&domain)).unwrap();
    let both = || (fake.access(DISK, 0x1000, false), fake.access(CARD, 0x1000, false));
    assert_eq!(both(), (Some(0x8000), Some(0x8000)));
    bridge.attach(&[source(CARD)], &Target::Blocked).unwrap();
    assert_eq!(both(), (Some(0x8000), None));
    bridge.attach(&[source(CARD)], &target(&domain)).unwrap();
    assert_eq!(fake.access(CARD, 0x1000, false), Some(0x8000), "nobody's PE is frozen, not this one");
    bridge.attach(&[source(CARD)], &Target::Blocked).unwrap();
    bridge.attach(&[source(DISK)], &Target::Blocked).unwrap();
    assert_eq!(fake.entry(9, 2), 0);
    assert_eq!(both(), (None, None));
}

#[test]
fn few_pages_are_killed_one_by_one_many_by_pe_and_none_not_at_all() {
    let (fake, bridge) = two_in_a_pe(|_| ());
    let domain = bridge.new_kernel_domain().unwrap();
    bridge.attach(&[source(DISK)], &target(&domain)).unwrap();
    fake.take_kills();
    let mut gather = Gather::new();
    let _ = domain.sync(&mut gather).unwrap();
    assert_eq!(domain.unmap(range(0, GIB), &mut gather), Ok(0));
    let _ = domain.sync(&mut gather).unwrap();
    assert_eq!(fake.take_kills(), [0u64; 0]);
    domain.map(Iova::new(0x5000), Pa::new(0x8000), 0x2000, READ_WRITE).unwrap();
    assert_eq!(fake.take_kills(), [0x2000_0000_0000_5001, 0x2000_0000_0000_6001]);
    domain.map(Iova::new(0x10_0000), Pa::new(0x8000), (KILL_ONE_BY_ONE + 1) << 12, READ_WRITE).unwrap();
    assert_eq!(fake.take_kills(), [0x4000_0000_0000_0001]);
    assert_eq!(domain.unmap(range(0x6000, 0x1000), &mut gather), Ok(0x1000));
    assert_eq!(domain.unmap(range(0x10_0000, MIB), &mut gather), Ok((KILL_ONE_BY_ONE + 1) << 12));
    assert_eq!(fake.take_kills(), [0u64; 0], "hardware is told at the sync");
    let _ = domain.sync(&mut gather).unwrap();
    assert_eq!(fake.take_kills(), [0x4000_0000_0000_0001]);
}

#[test]
fn a_bridge_that_does_not_answer_proves_nothing() {
    let (fake, bridge) = two_in_a_pe(|_| ());
    let domain = bridge.new_kernel_domain().unwrap();
    bridge.attach(&[source(DISK)], &target(&domain)).unwrap();
    domain.map(Iova::new(0), Pa::new(0x8000), 0x1000, READ_WRITE).unwrap();
    let mut gather = Gather::new();
    domain.unmap(range(0, 0x1000), &mut gather).unwrap();
    fake.answers(Some(0));
    assert_eq!(domain.sync(&mut gather).map(drop), Err(NO_ANSWER));
    assert!(!gather.is_empty(), "for another try");
    let kept = fake.live_bytes();
    assert!(matches!(bridge.attach(&[source(DISK)], &Target::Blocked), Err(AttachError::LeftBlocked(_))));
    assert_eq!(fake.live_bytes(), kept, "the bridge may still read the table");
    fake.answers(None);
    bridge.attach(&[source(DISK)], &target(&domain)).unwrap();
    bridge.attach(&[source(DISK)], &Target::Blocked).unwrap();
    assert!(fake.live_bytes() < kept, "nobody reads the table any more");
    drop(domain);
    bridge.teardown().unwrap();
    assert_eq!(fake.live_bytes(), 0);
}

#[test]
fn a_bridge_that_was_shut_down_takes_nobody_in() {
    let fake = Fake::new();
    let bridge = fake.bridge(|_| ());
    bridge.teardown().unwrap();
    let shut = SyncError::Failed { code: 0 };
    assert_eq!(bridge.add_device("disk", &[source(DISK)]), Err(AddDeviceError::Sync(shut)));
    assert_eq!(bridge.assign(&[source(CARD)]), Err(AssignError::ShutDown));
    for rid in [DISK, CARD] {
        assert_eq!(bridge.pe_of(source(rid)), None);
        assert_eq!(bridge.remove_device(&[source(rid)]), Ok(()));
    }
}

#[test]
fn a_domain_that_was_left_without_the_bridges_word_is_forgotten_only_by_it() {
    let machine = Machine::new(&[], |_| ());
    let (fake, bridge) = (&machine.fake, &machine.bridge);
    bridge.add_device("disk", &[source(DISK)]).unwrap();
    bridge.add_device("card", &[source(CARD)]).unwrap();
    let domain = bridge.new_kernel_domain().unwrap();
    let before = fake.live_bytes();
    for next in [false, true] {
        bridge.attach(&[source(DISK)], &target(&domain)).unwrap();
        domain.map(Iova::new(0), Pa::new(0x8000), 0x1000, READ_WRITE).unwrap();
        assert_eq!(fake.access(DISK, 0, true), Some(0x8000));
        let mut gather = Gather::new();
        domain.unmap(range(0, 0x1000), &mut gather).unwrap();
        fake.answers(Some(0));
        let left = bridge.attach(&[source(DISK)], &Target::Blocked);
        assert!(matches!(left, Err(AttachError::LeftBlocked(_))), "{left:?}");
        assert_eq!(domain.sync(&mut gather).map(drop), Err(NO_ANSWER), "nobody has heard of it");
        assert_eq!(domain.flush_all().map(drop), Err(NO_ANSWER));
        fake.answers(None);
        assert_eq!(fake.access(DISK, 0, true), Some(0x8000), "it remembers");
        if next {
            // Another that is attached meanwhile does not speak for the one that left.
            bridge.attach(&[source(CARD)], &target(&domain)).unwrap();
        }
        let _ = domain.sync(&mut gather).unwrap();
        assert_eq!(fake.access(DISK, 0, true), None);
        machine.unfreeze(DISK);
        bridge.attach(&[source(CARD)], &Target::Blocked).unwrap();
        bridge.attach(&[source(DISK)], &Target::Blocked).unwrap();
        assert_eq!(fake.live_bytes(), before, "and then its table goes");
    }
}

#[test]
fn a_window_that_is_not_confirmed_goes_back_and_its_table_is_nobodys() {
    let (fake, bridge) = two_in_a_pe(|_| ());
    let [before, next] = [(); 2].map(|()| bridge.new_domain().unwrap());
    let both = [source(DISK), source(CARD)];
    bridge.attach(&both, &target(&before)).unwrap();
    before.map(Iova::new(0x3000), Pa::new(0x8000), 0x1000, READ_WRITE).unwrap();
    fake.state().reads_missed = 1;
    assert!(matches!(bridge.attach(&both, &target(&next)), Err(AttachError::Sync(_))));
    assert_eq!(fake.access(DISK, 0x3000, true), Some(0x8000));
    let kept = fake.live_bytes();
    drop(next);
    assert!(fake.live_bytes() <= kept, "nothing reads the table that was refused");
}

/// Where the RTT has the disk and the card.
fn routes_of(fake: &Fake) -> [u64; 2] {
    let rtt = fake.register(0x168) & !(1 << 63);
    [DISK, CARD].map(|rid| {
        let at = rtt + 2 * u64::from(rid);
        fake.load(Pa::new(at & !7)) >> (8 * (at & 7)) & 0xffff
    })
}

#[test]
fn a_route_that_is_not_confirmed_goes_back() {
    let (fake, bridge) = two_in_a_pe(|_| ());
    let domain = bridge.new_domain().unwrap();
    let before = routes_of(&fake);
    // The one that stays blocked would go to nobody.
    fake.state().reads_missed = 1;
    assert!(matches!(bridge.attach(&[source(DISK)], &target(&domain)), Err(AttachError::Sync(_))));
    assert_eq!(routes_of(&fake), before);
    bridge.attach(&[source(DISK)], &target(&domain)).unwrap();
    assert_ne!(routes_of(&fake), before);
}

#[test]
fn a_bystanders_route_stays_however_often_anothers_is_not_confirmed() {
    let (fake, bridge) = two_in_a_pe(|_| ());
    let domain = bridge.new_kernel_domain().unwrap();
    bridge.attach(&[source(DISK)], &target(&domain)).unwrap();
    domain.map(Iova::new(0), Pa::new(0x9000), 0x1000, READ_WRITE).unwrap();
    let before = routes_of(&fake);
    for times in 1..=3 {
        fake.state().reads_missed = 1;
        let attached = bridge.attach(&[source(CARD)], &target(&domain));
        assert!(matches!(attached, Err(AttachError::LeftBlocked(_) | AttachError::Sync(_))), "{attached:?}");
        assert_eq!(routes_of(&fake), before, "{times} times");
        assert_eq!(fake.access(DISK, 0, true), Some(0x9000), "{times} times");
        assert_eq!(fake.access(CARD, 0, true), None, "{times} times");
    }
    bridge.attach(&[source(CARD)], &target(&domain)).unwrap();
    assert_eq!([DISK, CARD].map(|rid| fake.access(rid, 0, true)), [Some(0x9000); 2]);
}

#[test]
fn what_a_table_cannot_say_is_not_mapped() {
    let (_fake, bridge) = two_in_a_pe(|_| ());
    let domain = bridge.new_kernel_domain().unwrap();
    let map = |iova, pa, len, prot| domain.map(Iova::new(iova), Pa::new(pa), len, prot);
    assert_eq!(domain.aperture(), range(0, 2 * GIB));
    let granule = SizeLg2::KIB_4;
    assert_eq!(map(0x800, 0, 0x1000, READ_WRITE), Err(MapError::Misaligned { value: 0x800, granule }));
    assert_eq!(map(0, 0, 0, READ_WRITE), Err(MapError::BadLength));
    assert_eq!(
        map(0x7fff_f000, 0, 0x2000, READ_WRITE),
        Err(MapError::OutsideAperture(Iova::new(0x8000_0fff)))
    );
    let far = 0x0003_ffff_ffff_f000;
    map(0, far, 0x1000, READ_WRITE).unwrap();
    assert_eq!(map(0x1000, far, 0x2000, READ_WRITE), Err(MapError::OutputTooLarge(Pa::new(far))));
    let execute = Prot::cached(Perms::READ | Perms::EXECUTE);
    assert_eq!(map(0x1000, 0, 0x1000, execute), Err(MapError::Unsupported(execute)));
    assert_eq!(map(0, 0, 0x1000, READ_WRITE), Err(MapError::Mapped(Iova::new(0))));
    assert_eq!(domain.lookup(Iova::new(0x123)), Some((Pa::new(far | 0x123), READ_WRITE)));
}

#[test]
fn the_domain_of_another_bridge_is_refused() {
    let (_fake, bridge) = two_in_a_pe(|_| ());
    let (_other_fake, other) = two_in_a_pe(|_| ());
    let foreign = other.new_domain().unwrap();
    assert_eq!(bridge.attach(&[source(DISK)], &target(&foreign)), Err(AttachError::ForeignDomain));
    let domain = bridge.new_domain().unwrap();
    let stranger = source(0x777);
    assert_eq!(bridge.attach(&[stranger], &target(&domain)), Err(AttachError::UnknownSource(stranger)));
}
