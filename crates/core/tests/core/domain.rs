//! A user's domain: what he may map, and what binds him.

use std::sync::Arc;

use crate::support::{Bench, Call, GRANULE, LAZY, Machine, RAM, STRICT, bench, bench_with, range, region};
use portcullis_core::device::DeviceInfo;
use portcullis_core::dma::{Direction, compose_msi};
use portcullis_core::domain::{
    CookieError, Domain, DomainMapError, DomainSyncError, DomainType, DomainUnmapError, FlushMode,
};
use portcullis_core::group::{Group, GroupError, Left};
use portcullis_core::iommu::{AttachError, Gather, MapError, ReservedKind, UnmapError};
use portcullis_types::{Iova, Pa, Perms, Prot, SizeLg2};

const RW: Prot = Prot::cached(Perms::READ_WRITE);

fn domain(bench: &Bench, kind: DomainType) -> Arc<Domain<Machine>> {
    Domain::new(bench.machine.clone(), bench.iommu.clone(), kind).unwrap()
}

fn map(domain: &Domain<Machine>, iova: u64, len: u64) -> Result<(), DomainMapError> {
    domain.map(Iova::new(iova), Pa::new(RAM), len, RW)
}

fn refused(error: AttachError) -> Result<(), GroupError> {
    Err(GroupError::Attach { device: "dev1".into(), error })
}

#[test]
fn a_user_maps_unmaps_and_syncs() {
    let bench = bench(STRICT);
    let user = domain(&bench, DomainType::Unmanaged);
    map(&user, 0x4000, 0x3000).unwrap();
    assert_eq!(user.lookup(Iova::new(0x6123)), Some(Pa::new(RAM + 0x2123)));
    let mut gather = Gather::new();
    assert_eq!(user.unmap(range(0x5000, 0x8fff), &mut gather), Ok(0x2000));
    assert!(!gather.is_empty());
    assert!(user.sync(&mut gather).is_ok() && gather.is_empty());
    assert_eq!(user.lookup(Iova::new(0x5000)), None);
    map(&user, 0x5000, 0x1000).expect("it is free again");
}

#[test]
fn misaligned_empty_and_outlying_ranges_are_refused_before_hardware_is_asked() {
    let bench = bench_with(STRICT, range(0x1000, 0xffff));
    let user = domain(&bench, DomainType::Unmanaged);
    let misaligned =
        |value| Err(DomainMapError::Map(MapError::Misaligned { value, granule: SizeLg2::KIB_4 }));
    assert_eq!(map(&user, 0x1800, 0x1000), misaligned(0x1800));
    assert_eq!(map(&user, 0x1000, 0x1800), misaligned(0x1800));
    assert_eq!(user.map(Iova::new(0x1000), Pa::new(0x10), 0x1000, RW), misaligned(0x10));
    let wrong = |error| Err(DomainMapError::Map(error));
    assert_eq!(map(&user, 0x1000, 0), wrong(MapError::BadLength));
    assert_eq!(map(&user, u64::MAX - 0xfff, 0x2000), wrong(MapError::BadLength));
    assert_eq!(
        user.map(Iova::new(0x1000), Pa::new(u64::MAX - 0xfff), 0x2000, RW),
        wrong(MapError::BadLength)
    );
    assert_eq!(map(&user, 0, 0x1000), wrong(MapError::OutsideAperture(Iova::new(0))));
    assert_eq!(map(&user, 0xf000, 0x2000), wrong(MapError::OutsideAperture(Iova::new(0x1_0000))));
    assert_eq!(map(&user, 0x2_0000, 0x1000), wrong(MapError::OutsideAperture(Iova::new(0x2_0000))));
    let mut gather = Gather::new();
    let wrong = |error| Err(DomainUnmapError::Unmap(error));
    let granule = SizeLg2::KIB_4;
    assert_eq!(user.unmap(range(0x1000, 0x1ffe), &mut gather), wrong(UnmapError::Misaligned { granule }));
    assert_eq!(
        user.unmap(range(0xf000, 0x1_0fff), &mut gather),
        wrong(UnmapError::OutsideAperture(Iova::new(0x1_0000)))
    );
    assert_eq!(bench.iommu.domain(1).map_calls(), 0);
    map(&user, 0x1000, 0xf000).expect("the whole aperture");
}

#[test]
fn a_mapping_over_another_is_refused_and_the_other_stays() {
    let bench = bench(STRICT);
    let user = domain(&bench, DomainType::Unmanaged);
    map(&user, 0x4000, 0x1000).unwrap();
    let mapped = Err(DomainMapError::Map(MapError::Mapped(Iova::new(0x4000))));
    assert_eq!(map(&user, 0x3000, 0x3000), mapped);
    assert_eq!(bench.iommu.domain(1).mapped(), [(0x4000, RAM)]);
}

#[test]
fn what_the_table_refused_is_not_held_to_be_mapped() {
    let bench = bench(STRICT);
    let user = domain(&bench, DomainType::Unmanaged);
    bench.iommu.fail(Call::Map, 0, 1);
    assert_eq!(map(&user, 0x4000, 0x1000), Err(DomainMapError::Map(MapError::NoTableMemory)));
    bench.iommu.fail(Call::Map, 0, 1);
    bench.iommu.fail(Call::Sync, 0, 1);
    assert!(map(&user, 0x4000, 0x1000).is_err());
    let mapped = Err(DomainMapError::Map(MapError::Mapped(Iova::new(0x4000))));
    assert_eq!(map(&user, 0x4000, 0x1000), mapped, "hardware may remember the first try");
    let mut gather = Gather::new();
    assert_eq!(user.unmap(range(0x4000, 0x4fff), &mut gather), Ok(0));
    let _ = user.sync(&mut gather).unwrap();
    map(&user, 0x4000, 0x1000).unwrap();
    bench.iommu.fail(Call::Unmap, 0, 1);
    let mut gather = Gather::new();
    let kept = user.unmap(range(0x4000, 0x4fff), &mut gather);
    assert_eq!(kept, Err(DomainUnmapError::Unmap(UnmapError::NoTableMemory)));
    let mapped = Err(DomainMapError::Map(MapError::Mapped(Iova::new(0x4000))));
    assert_eq!(map(&user, 0x4000, 0x1000), mapped, "it is mapped still");
}

#[test]
fn a_failed_sync_keeps_the_gather_for_another_try() {
    let bench = bench(STRICT);
    let user = domain(&bench, DomainType::Unmanaged);
    map(&user, 0x4000, 0x1000).unwrap();
    let mut gather = Gather::new();
    user.unmap(range(0x4000, 0x4fff), &mut gather).unwrap();
    bench.iommu.fail(Call::Sync, 0, 1);
    assert!(matches!(user.sync(&mut gather), Err(DomainSyncError::Sync(_))));
    assert!(!gather.is_empty());
    let _ = user.sync(&mut gather).unwrap();
    assert_eq!(bench.iommu.domain(1).stale_count(), 0);
}

#[test]
fn only_a_users_domain_is_the_users() {
    let bench = bench(STRICT);
    for kind in [DomainType::Blocked, DomainType::Identity, bench.group.default_domain().domain_type()] {
        let domain = domain(&bench, kind);
        let mut gather = Gather::new();
        assert_eq!(map(&domain, 0x4000, 0x1000), Err(DomainMapError::NotUsers));
        assert_eq!(domain.unmap(range(0, 0xfff), &mut gather), Err(DomainUnmapError::NotUsers));
        assert!(matches!(domain.sync(&mut gather), Err(DomainSyncError::NotUsers)));
        assert_eq!(domain.set_msi_window(range(0, 0xfff)), Err(CookieError::NotUsers));
    }
    let lookup = |kind| domain(&bench, kind).lookup(Iova::new(0x1234));
    assert_eq!(lookup(DomainType::Blocked), None);
    assert_eq!(lookup(DomainType::Identity), Some(Pa::new(0x1234)));
}

#[test]
fn regions_of_attached_devices_bind_the_user_until_they_leave() {
    let bench = bench(STRICT);
    *bench.iommu.regions.lock().unwrap() = vec![region(0x800_0000, 0x80f_ffff, ReservedKind::SoftwareMsi)];
    bench.member(1, |info| info.firmware_regions = vec![region(0x5800, 0x5fff, ReservedKind::Reserved)]);
    let user = domain(&bench, DomainType::Unmanaged);
    bench.group.attach(&user).unwrap();
    assert_eq!(map(&user, 0x4000, 0x2000), Err(DomainMapError::Reserved(range(0x5800, 0x5fff))));
    assert_eq!(map(&user, 0x80f_f000, 0x1000), Err(DomainMapError::Reserved(range(0x800_0000, 0x80f_ffff))));
    map(&user, 0x4000, 0x1000).unwrap();
    map(&user, 0x6000, 0x1000).unwrap();
    bench.group.detach().unwrap();
    map(&user, 0x5000, 0x1000).expect("nobody is bound any more");
}

#[test]
fn a_device_whose_region_is_mapped_is_not_attached_and_binds_nobody() {
    let bench = bench(STRICT);
    bench.member(1, |info| {
        info.firmware_regions =
            vec![region(0x9000, 0x9fff, ReservedKind::Msi), region(0x5800, 0x5fff, ReservedKind::Reserved)];
    });
    let user = domain(&bench, DomainType::Unmanaged);
    map(&user, 0x5000, 0x1000).unwrap();
    assert_eq!(bench.group.attach(&user), refused(AttachError::Reserved(range(0x5800, 0x5fff))));
    assert_eq!(bench.iommu.place(1).unwrap(), "domain0");
    map(&user, 0x9000, 0x1000).expect("the region of a device that is not attached");
}

#[test]
fn a_region_that_firmware_gives_up_does_not_bind_a_user() {
    let bench = bench(STRICT);
    bench.member(1, |info| {
        info.firmware_regions = vec![region(0x5000, 0x5fff, ReservedKind::DirectRelaxable)]
    });
    let user = domain(&bench, DomainType::Unmanaged);
    map(&user, 0x5000, 0x1000).unwrap();
    bench.group.attach(&user).unwrap();
}

#[test]
fn a_device_that_firmware_uses_cannot_be_blocked() {
    let bench = bench(STRICT);
    bench.member(1, |info| info.firmware_regions = vec![region(0x5000, 0x5fff, ReservedKind::Direct)]);
    let blocked = bench.group.blocked_domain().clone();
    assert_eq!(bench.group.attach(&blocked), refused(AttachError::Reserved(range(0x5000, 0x5fff))));
    assert_eq!(bench.iommu.place(1).unwrap(), "domain0");
}

#[test]
fn an_iommu_that_cannot_pass_addresses_says_so() {
    let bench = bench(STRICT);
    bench.member(1, |_| ());
    *bench.iommu.identity.lock().unwrap() = false;
    let identity = domain(&bench, DomainType::Identity);
    assert_eq!(bench.group.attach(&identity), refused(AttachError::Unsupported));
}

#[test]
fn a_domain_of_another_iommu_is_refused() {
    let (ours, theirs) = (bench(STRICT), bench(STRICT));
    ours.member(1, |_| ());
    let foreign = domain(&theirs, DomainType::Unmanaged);
    assert_eq!(ours.group.attach(&foreign), refused(AttachError::ForeignDomain));
}

#[test]
fn direct_regions_are_mapped_one_to_one_with_their_partial_pages_before_the_device_is_attached() {
    let bench = bench(STRICT);
    let device =
        bench.device(1, |info| info.firmware_regions = vec![region(0x5800, 0x7100, ReservedKind::Direct)]);
    bench.iommu.fail(Call::Attach, 0, 1);
    assert!(bench.group.add_device(&device).is_err());
    assert_eq!(bench.iommu.domain(0).mapped(), [], "undone");
    assert_eq!(bench.iommu.domain(0).map_calls(), 1, "mapped before hardware was asked to attach");
    bench.group.add_device(&device).unwrap();
    assert_eq!(bench.iommu.domain(0).mapped(), [0x5000, 0x6000, 0x7000].map(|page| (page, page)));
}

#[test]
fn pages_that_are_mapped_one_to_one_already_are_left_alone_and_stay() {
    let bench = bench(STRICT);
    bench.member(1, |info| info.firmware_regions = vec![region(0x6000, 0x6fff, ReservedKind::Direct)]);
    let second = bench.device(2, |info| {
        info.firmware_regions = vec![region(0x5000, 0x7fff, ReservedKind::DirectRelaxable)]
    });
    bench.iommu.fail(Call::Attach, 0, 1);
    assert!(bench.group.add_device(&second).is_err());
    assert_eq!(bench.iommu.domain(0).mapped(), [(0x6000, 0x6000)], "the first one's page stays");
    bench.group.add_device(&second).unwrap();
    bench.group.remove_device(&second).unwrap();
    assert_eq!(bench.iommu.domain(0).mapped().len(), 3);
}

#[test]
fn what_is_mapped_of_a_direct_region_is_not_looked_for_page_by_page() {
    let bench = bench(STRICT);
    for (source, last) in [(1, 0x7f_ffff), (2, 0xff_ffff)] {
        bench.member(source, |info| {
            info.firmware_regions = vec![region(0x1000, last, ReservedKind::Direct)];
        });
    }
    let domain = bench.iommu.domain(0);
    assert_eq!((domain.mapped().len(), domain.map_calls(), domain.lookups()), (0xfff, 2, 0));
}

#[test]
fn of_direct_regions_that_are_undone_each_is_taken_out_though_the_table_keeps_another() {
    let bench = bench(STRICT);
    let regions =
        vec![region(0x5000, 0x5fff, ReservedKind::Direct), region(0x8000, 0x8fff, ReservedKind::Direct)];
    let device = bench.device(1, |info| info.firmware_regions = regions);
    bench.iommu.fail(Call::Attach, 0, 1);
    bench.iommu.fail(Call::Unmap, 0, 1);
    assert!(bench.group.add_device(&device).is_err());
    assert_eq!(bench.iommu.domain(0).mapped(), [(0x5000, 0x5000)]);
    bench.group.add_device(&device).unwrap();
    assert_eq!(bench.iommu.domain(0).mapped(), [0x5000, 0x8000].map(|page| (page, page)));
}

#[test]
fn a_direct_region_that_cannot_be_mapped_keeps_the_device_out_and_leaves_nothing() {
    let bench = bench_with(STRICT, range(0, 0xffff));
    let regions =
        vec![region(0x5000, 0x5fff, ReservedKind::Direct), region(0x8000, 0x8fff, ReservedKind::Direct)];
    let device = bench.device(1, |info| info.firmware_regions = regions);
    bench.iommu.fail(Call::Map, 1, 1);
    let error = AttachError::Direct { range: range(0x8000, 0x8fff), error: MapError::NoTableMemory };
    assert_eq!(bench.group.add_device(&device), refused(error));
    assert_eq!((bench.iommu.domain(0).mapped(), bench.iommu.domain(0).stale_count()), (vec![], 0));
    assert_eq!(bench.iommu.place(1).unwrap(), "blocked");
    // All sixteen pages but the one at 0 can be had: nothing stayed reserved.
    let dma = bench.group.dma(&bench.member(2, |_| ())).unwrap();
    let all: Vec<_> = core::iter::from_fn(|| dma.alloc_coherent(GRANULE).ok()).collect();
    assert_eq!(all.len(), 15);
}

#[test]
fn the_dma_api_hands_out_no_reserved_address() {
    let bench = bench_with(STRICT, range(0, 0xffff));
    let dma = bench.handle(|info| {
        info.firmware_regions = vec![
            region(0x2000, 0x2fff, ReservedKind::Direct),
            region(0x4000, 0x4fff, ReservedKind::Reserved),
            region(0x6000, 0x6fff, ReservedKind::Msi),
            region(0x8000, 0x8fff, ReservedKind::SoftwareMsi),
        ];
        info.bridge_windows = vec![range(0xa800, 0xbfff)];
    });
    let all: Vec<_> = core::iter::from_fn(|| dma.alloc_coherent(GRANULE).ok()).collect();
    let mut pages: Vec<_> = all.iter().map(|buffer| buffer.iova().get() / GRANULE).collect();
    pages.sort_unstable();
    assert_eq!(pages, [1, 3, 5, 7, 8, 9, 12, 13, 14, 15]);
}

#[test]
fn a_device_whose_region_is_in_use_by_the_dma_api_is_refused_and_nothing_changes() {
    let bench = bench_with(STRICT, range(0, 0x3fff));
    let dma = bench.handle(|_| ());
    let buffer = dma.alloc_coherent(GRANULE).unwrap();
    let late = bench.device(2, |info| {
        info.bridge_windows = vec![range(0x1000, 0x1fff), range(0x3000, 0x3fff)];
    });
    let error = AttachError::Reserved(range(0x3000, 0x3fff));
    let refused = Err(GroupError::Attach { device: "dev2".into(), error });
    assert_eq!(bench.group.add_device(&late), refused);
    dma.free_coherent(buffer).unwrap();
    let all: Vec<_> = core::iter::from_fn(|| dma.alloc_coherent(GRANULE).ok()).collect();
    assert_eq!(all.len(), 3, "the window at 0x1000 is not reserved either");
    all.into_iter().for_each(|buffer| dma.free_coherent(buffer).unwrap());
    bench.group.add_device(&late).unwrap();
}

#[test]
fn an_undone_direct_mapping_that_hardware_may_remember_stays_reserved() {
    let bench = bench_with(STRICT, range(0, 0x3fff));
    let device =
        bench.device(1, |info| info.firmware_regions = vec![region(0x2000, 0x2fff, ReservedKind::Direct)]);
    bench.iommu.fail(Call::Attach, 0, 1);
    bench.iommu.fail(Call::Sync, 0, 1);
    assert!(bench.group.add_device(&device).is_err());
    let dma = bench.group.dma(&bench.member(2, |_| ())).unwrap();
    let all: Vec<_> = core::iter::from_fn(|| dma.alloc_coherent(GRANULE).ok()).collect();
    assert_eq!(all.len(), 2);
}

#[test]
fn what_was_made_ready_for_a_device_that_goes_back_stays_for_one_that_cannot() {
    let bench = bench(STRICT);
    let direct = || vec![region(0x5000, 0x5fff, ReservedKind::Direct)];
    (1..=2).for_each(|source| drop(bench.member(source, |info| info.firmware_regions = direct())));
    drop(bench.member(3, |_| ()));
    let other = domain(&bench, DomainType::Dma(FlushMode::Strict));
    // The third is refused, the first goes back, and the second goes neither back nor is it blocked.
    bench.iommu.fail(Call::Attach, 2, 1);
    bench.iommu.fail(Call::Attach, 1, 2);
    let Err(GroupError::Stranded { left, .. }) = bench.group.attach(&other) else {
        panic!("it was not refused")
    };
    assert_eq!(left, [(String::from("dev2"), Left::Attached)]);
    assert_eq!(["domain0", "domain1", "domain0"], bench.iommu.places()[..]);
    assert_eq!(bench.iommu.domain(1).mapped(), [(0x5000, 0x5000)], "firmware uses it by the second");
    // When nobody is there any more it stays as well.
    bench.group.detach().unwrap();
    assert_eq!(bench.iommu.domain(1).mapped(), [(0x5000, 0x5000)]);
}

#[test]
fn what_is_made_ready_for_a_device_that_is_refused_stays_for_one_of_another_group() {
    let bench = bench_with(STRICT, range(0, 0xffff));
    let regions = |info: &mut DeviceInfo| {
        info.firmware_regions =
            vec![region(0x5800, 0x6100, ReservedKind::Direct), region(0x8000, 0x8fff, ReservedKind::Msi)];
        info.bridge_windows = vec![range(0xa000, 0xa0ff)];
    };
    let group = Group::new(bench.machine.clone(), bench.iommu.clone(), 8, STRICT).unwrap();
    let (group, second) = (Arc::new(group), bench.device(2, regions));
    let first = bench.member(1, |info| {
        regions(info);
        // Nobody else needs these.
        info.firmware_regions.push(region(0xc000, 0xcfff, ReservedKind::Direct));
    });
    let (joined, its) = (group.clone(), second.clone());
    bench.iommu.meanwhile(move || joined.add_device(&its).unwrap());
    bench.iommu.fail(Call::Attach, 1, 1);
    let shared = group.default_domain();
    assert!(bench.group.attach(&shared).is_err());
    assert_eq!(bench.iommu.places(), ["domain0", "domain1"]);
    assert_eq!(bench.iommu.domain(1).mapped(), [0x5000, 0x6000].map(|page| (page, page)));
    let doorbell = Pa::new(0x8040);
    let message = compose_msi(&second, &shared, doorbell, 0).unwrap();
    assert_eq!(message.address.get(), 0x8040, "hardware decodes it still");
    let dma = group.dma(&second).unwrap();
    let all: Vec<_> = core::iter::from_fn(|| dma.alloc_coherent(GRANULE).ok()).collect();
    let mut pages: Vec<_> = all.iter().map(|buffer| buffer.iova().get() / GRANULE).collect();
    pages.sort_unstable();
    assert_eq!(pages, [1, 2, 3, 4, 7, 9, 11, 12, 13, 14, 15]);
    drop(first);
}

#[test]
fn a_direct_region_that_no_table_can_say_leaves_nothing_reserved_either() {
    let bench = bench_with(STRICT, range(0, 0xffff));
    let regions = vec![
        region(0x3000, 0x3fff, ReservedKind::Reserved),
        region(0x5000, 0x5fff, ReservedKind::Direct),
        region(0xf000, 0x1_0fff, ReservedKind::Direct),
    ];
    let device = bench.device(1, |info| info.firmware_regions = regions);
    let error = AttachError::Direct {
        range: range(0xf000, 0x1_0fff),
        error: MapError::OutsideAperture(Iova::new(0x1_0000)),
    };
    assert_eq!(bench.group.add_device(&device), refused(error));
    assert_eq!((bench.iommu.domain(0).mapped(), bench.iommu.domain(0).stale_count()), (vec![], 0));
    let dma = bench.group.dma(&bench.member(2, |_| ())).unwrap();
    let all: Vec<_> = core::iter::from_fn(|| dma.alloc_coherent(GRANULE).ok()).collect();
    assert_eq!(all.len(), 15, "all sixteen pages but the one at 0");
}

#[test]
fn a_direct_region_up_to_the_last_of_all_addresses_is_refused_at_once() {
    let bench = bench(STRICT);
    let all = region(0x5000, u64::MAX, ReservedKind::Direct);
    let device = bench.device(1, |info| info.firmware_regions = vec![all.clone()]);
    let error = MapError::OutsideAperture(Iova::new(1 << 40));
    assert_eq!(bench.group.add_device(&device), refused(AttachError::Direct { range: all.range, error }));
    assert_eq!(bench.iommu.domain(0).map_calls(), 0);
}

#[test]
fn addresses_that_wait_for_a_flush_keep_no_device_out() {
    let bench = bench_with(LAZY, range(0, 0x3fff));
    let dma = bench.handle(|_| ());
    let mapping = dma.map_single(Pa::new(RAM), 8, Direction::ToDevice).unwrap();
    assert_eq!(mapping.iova(), Iova::new(0x3000));
    dma.unmap_single(mapping).unwrap();
    assert_eq!(dma.stats().waiting, 1);
    let late = bench.device(2, |info| info.bridge_windows = vec![range(0x3000, 0x3fff)]);
    bench.iommu.fail(Call::FlushAll, 0, 1);
    let kept_out = bench.group.add_device(&late);
    assert_eq!(
        kept_out,
        Err(GroupError::Attach {
            device: "dev2".into(),
            error: AttachError::Reserved(range(0x3000, 0x3fff)),
        })
    );
    bench.group.add_device(&late).expect("hardware has forgotten the page");
    assert_eq!((dma.stats().waiting, bench.iommu.domain(0).stale_count()), (0, 0));
}
