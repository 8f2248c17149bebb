//! Doorbells: found first, mapped once, given back when they cannot be.

use std::sync::Arc;

use crate::support::{Bench, Call, Machine, RAM, STRICT, bench, bench_with, range, region};
use portcullis_core::device::{Device, DeviceInfo, DmaMask};
use portcullis_core::dma::{MsiError, MsiMessage, compose_msi};
use portcullis_core::domain::{CookieError, Domain, DomainMapError, DomainType, DomainUnmapError};
use portcullis_core::group::{DefaultDomain, GroupError};
use portcullis_core::iommu::{AttachError, Gather, MapError, ReservedKind};
use portcullis_types::{Iova, Pa, Perms, Prot};

const ITS: Pa = Pa::new(0x808_0040);

#[test]
fn a_doorbells_page_is_mapped_once_as_device_memory_for_writes() {
    let bench = bench(STRICT);
    let dma = bench.handle(|_| ());
    let message = dma.compose_msi(ITS, 5).unwrap();
    let page = message.address.get() - 0x40;
    assert_eq!(message.data, 5);
    assert_eq!(bench.iommu.domain(0).mapped(), [(page, 0x808_0000)]);
    assert_eq!(bench.iommu.domain(0).prot(page), Some(Prot::device(Perms::WRITE)));
    let neighbour = dma.compose_msi(Pa::new(0x808_0ffc), 6).unwrap();
    assert_eq!(neighbour, MsiMessage { address: Iova::new(page + 0xffc), data: 6 });
    assert_eq!(bench.iommu.domain(0).map_calls(), 1);
    let other = dma.compose_msi(Pa::new(0x809_0040), 7).unwrap();
    assert_eq!((other.address.get() & 0xfff, bench.iommu.domain(0).map_calls()), (0x40, 2));
    assert_eq!(dma.stats().live, 2, "doorbells' pages stay");
}

#[test]
fn only_a_new_doorbell_is_said() {
    let bench = bench(STRICT);
    let dma = bench.handle(|_| ());
    bench.machine.events();
    let message = dma.compose_msi(ITS, 5).unwrap();
    dma.compose_msi(ITS, 6).unwrap();
    let wanted =
        format!("msi_map: dev=dev1 iova={:#018x} doorbell=0x0000000008080040", message.address.get());
    assert_eq!(bench.machine.events(), [wanted]);
}

#[test]
fn a_doorbell_that_cannot_be_mapped_gives_its_address_back() {
    let bench = bench_with(STRICT, range(0, 0x1fff));
    let dma = bench.handle(|_| ());
    bench.iommu.fail(Call::Map, 0, 1);
    assert_eq!(dma.compose_msi(ITS, 5), Err(MsiError::Map(MapError::NoTableMemory)));
    assert_eq!(dma.stats().live, 0);
    assert_eq!(dma.compose_msi(ITS, 5).unwrap().address, Iova::new(0x1040), "the only page is free again");
    assert!(matches!(dma.compose_msi(Pa::new(0x1_0000), 5), Err(MsiError::NoIova { .. })));
}

#[test]
fn a_device_that_cannot_reach_the_mapped_page_gets_one_that_it_can() {
    let bench = bench(STRICT);
    let far = bench.handle(|_| ());
    let near = bench.group.dma(&bench.member(2, |_| ())).unwrap();
    near.device().set_dma_mask(DmaMask::new(24).unwrap());
    let high = far.compose_msi(ITS, 1).unwrap().address;
    let low = near.compose_msi(ITS, 1).unwrap().address;
    assert!(high > Iova::new(0xff_ffff) && low <= Iova::new(0xff_ffff));
    assert_eq!(near.domain().lookup(low), Some(ITS));
}

#[test]
fn a_doorbell_that_hardware_decodes_is_written_where_it_is() {
    let bench = bench(STRICT);
    let dma = bench
        .handle(|info| info.firmware_regions = vec![region(0xfee0_0000, 0xfeef_ffff, ReservedKind::Msi)]);
    let message = dma.compose_msi(Pa::new(0xfee0_1004), 5).unwrap();
    assert_eq!((message.address, bench.iommu.domain(0).map_calls()), (Iova::new(0xfee0_1004), 0));
    dma.device().set_dma_mask(DmaMask::new(24).unwrap());
    assert!(matches!(dma.compose_msi(Pa::new(0xfee0_1004), 5), Err(MsiError::NoIova { .. })));
}

#[test]
fn a_device_that_was_refused_leaves_no_doorbell_that_hardware_decodes() {
    let bench = bench(STRICT);
    let dma = bench.handle(|_| ());
    let late = bench
        .device(2, |info| info.firmware_regions = vec![region(0x808_0000, 0x808_ffff, ReservedKind::Msi)]);
    bench.iommu.fail(Call::Attach, 0, 1);
    assert!(bench.group.add_device(&late).is_err());
    assert_ne!(dma.compose_msi(ITS, 5).unwrap().address, Iova::new(ITS.get()));
}

#[test]
fn where_addresses_are_physical_so_is_the_doorbells() {
    let bench = bench(DefaultDomain::Identity);
    let dma = bench.handle(|_| ());
    assert_eq!(dma.compose_msi(ITS, 5), Ok(MsiMessage { address: Iova::new(ITS.get()), data: 5 }));
    dma.device().set_dma_mask(DmaMask::new(24).unwrap());
    assert!(matches!(dma.compose_msi(ITS, 5), Err(MsiError::NoIova { .. })));
}

#[test]
fn a_blocked_device_gets_no_message() {
    let bench = bench(STRICT);
    let device = bench.member(1, |_| ());
    let blocked = bench.group.blocked_domain();
    assert_eq!(compose_msi(&device, blocked, ITS, 5), Err(MsiError::Blocked));
}

#[test]
fn a_blocked_device_gets_messages_that_hardware_takes_before_it_translates() {
    let bench = bench(STRICT);
    let decoded = |info: &mut DeviceInfo| {
        info.firmware_regions = vec![region(0xfee0_0000, 0xfeef_ffff, ReservedKind::Msi)];
    };
    let device = bench.member(1, decoded);
    let blocked = bench.group.blocked_domain();
    let message = compose_msi(&device, blocked, Pa::new(0xfee0_0010), 5);
    assert_eq!(message, Ok(MsiMessage { address: Iova::new(0xfee0_0010), data: 5 }));
    assert_eq!(compose_msi(&device, blocked, ITS, 5), Err(MsiError::Blocked));
}

fn users_device(bench: &Bench) -> (Arc<Device<Machine>>, Arc<Domain<Machine>>) {
    let device = bench
        .member(1, |info| info.firmware_regions = vec![region(0xfee0_0000, 0xfeef_ffff, ReservedKind::Msi)]);
    let user = Domain::new(bench.machine.clone(), bench.iommu.clone(), DomainType::Unmanaged).unwrap();
    bench.group.attach(&user).unwrap();
    (device, user)
}

#[test]
fn a_users_domain_needs_a_window_unless_hardware_decodes_the_doorbell() {
    let bench = bench(STRICT);
    let (device, user) = users_device(&bench);
    assert_eq!(compose_msi(&device, &user, ITS, 5), Err(MsiError::NoCookie));
    let decoded = compose_msi(&device, &user, Pa::new(0xfee0_0010), 5).unwrap();
    assert_eq!(decoded.address, Iova::new(0xfee0_0010));
}

#[test]
fn a_users_window_fills_from_its_base_one_page_for_each_doorbell() {
    let bench = bench(STRICT);
    let (device, user) = users_device(&bench);
    user.set_msi_window(range(0x800_0000, 0x800_1fff)).unwrap();
    let address =
        |doorbell: u64| compose_msi(&device, &user, Pa::new(doorbell), 5).map(|message| message.address);
    assert_eq!(address(0x808_0040), Ok(Iova::new(0x800_0040)));
    bench.iommu.fail(Call::Map, 0, 1);
    assert_eq!(address(0x909_0080), Err(MsiError::Map(MapError::NoTableMemory)));
    assert_eq!(address(0x909_0080), Ok(Iova::new(0x800_1080)), "the refused page was not used up");
    assert_eq!(bench.iommu.domain(1).stale_count(), 0);
    assert_eq!(address(0x808_0000), Ok(Iova::new(0x800_0000)));
    assert!(matches!(address(0xa0a_0000), Err(MsiError::NoIova { .. })));
    assert_eq!(bench.iommu.domain(1).mapped(), [(0x800_0000, 0x808_0000), (0x800_1000, 0x909_0000)]);
}

#[test]
fn a_page_of_the_window_that_hardware_may_remember_is_not_used_again() {
    let bench = bench(STRICT);
    let (device, user) = users_device(&bench);
    user.set_msi_window(range(0x800_0000, 0x800_1fff)).unwrap();
    bench.iommu.fail(Call::Map, 0, 1);
    bench.iommu.fail(Call::Sync, 0, 1);
    assert!(compose_msi(&device, &user, ITS, 5).is_err());
    assert_eq!(compose_msi(&device, &user, ITS, 5).unwrap().address, Iova::new(0x800_1040));
}

#[test]
fn no_doorbell_gets_a_page_that_is_reserved_for_a_device_of_the_domain() {
    let bench = bench(STRICT);
    let (device, user) = users_device(&bench);
    user.set_msi_window(range(0x800_0000, 0x800_3fff)).unwrap();
    let late = bench.member(2, |info| {
        let soft = region(0x800_0000, 0x800_3fff, ReservedKind::SoftwareMsi);
        info.firmware_regions = vec![region(0x800_0800, 0x800_17ff, ReservedKind::Reserved), soft];
    });
    let address =
        |doorbell: u64| compose_msi(&device, &user, Pa::new(doorbell), 5).map(|message| message.address);
    assert_eq!(address(0x808_0040), Ok(Iova::new(0x800_2040)));
    assert_eq!(address(0x909_0040), Ok(Iova::new(0x800_3040)));
    assert!(matches!(address(0xa0a_0040), Err(MsiError::NoIova { .. })));
    bench.group.remove_device(&late).unwrap();
    assert_eq!(address(0xa0a_0040), Ok(Iova::new(0x800_0040)), "it is nobody's any more");
}

#[test]
fn a_device_does_not_join_where_a_doorbell_has_what_is_reserved_for_it() {
    let bench = bench(STRICT);
    let (device, user) = users_device(&bench);
    user.set_msi_window(range(0x800_0000, 0x800_3fff)).unwrap();
    assert_eq!(compose_msi(&device, &user, ITS, 5).unwrap().address, Iova::new(0x800_0040));
    let late = bench
        .device(2, |info| info.firmware_regions = vec![region(0x800_0fff, 0x800_1fff, ReservedKind::Direct)]);
    let error = AttachError::Reserved(range(0x800_0fff, 0x800_1fff));
    let refused = Err(GroupError::Attach { device: "dev2".into(), error });
    assert_eq!(bench.group.add_device(&late), refused);
    // The rest of the window keeps nobody out, nor does a doorbell where doorbells belong.
    let soft = region(0x800_0000, 0x800_3fff, ReservedKind::SoftwareMsi);
    bench.member(3, |info| {
        info.firmware_regions = vec![soft, region(0x800_1000, 0x800_1fff, ReservedKind::Reserved)];
    });
}

#[test]
fn a_users_window_is_not_for_the_user_and_there_is_one() {
    let bench = bench(STRICT);
    let (_, user) = users_device(&bench);
    let map = |iova| user.map(Iova::new(iova), Pa::new(RAM), 0x1000, Prot::cached(Perms::READ));
    map(0x4000).unwrap();
    assert_eq!(user.set_msi_window(range(0x4000, 0x7fff)), Err(CookieError::Mapped(range(0x4000, 0x7fff))));
    assert_eq!(user.set_msi_window(range(0x8000, 0x8ffe)), Err(CookieError::BadRange(range(0x8000, 0x8ffe))));
    let beyond = range(1 << 40, (1 << 40) + 0xfff);
    assert_eq!(user.set_msi_window(beyond), Err(CookieError::BadRange(beyond)));
    let window = range(0x8000, 0x8fff);
    user.set_msi_window(window).unwrap();
    assert_eq!(user.set_msi_window(range(0xa000, 0xafff)), Err(CookieError::Exists));
    assert_eq!(map(0x8000), Err(DomainMapError::Reserved(window)));
    let unmapped = user.unmap(range(0x4000, 0x8fff), &mut Gather::new());
    assert_eq!(unmapped, Err(DomainUnmapError::Reserved(window)));
}
