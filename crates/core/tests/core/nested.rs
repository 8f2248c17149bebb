//! Nested domains: whose they are, what their parents are kept from, and who hears of their faults.

use std::sync::{Arc, Mutex};

use crate::support::{Bench, Call, Machine, RAM, STRICT, bench, range, region};
use portcullis_core::device::Device;
use portcullis_core::dma::compose_msi;
use portcullis_core::domain::{Domain, DomainMapError, DomainSyncError, DomainType, DomainUnmapError};
use portcullis_core::group::GroupError;
use portcullis_core::iommu::{
    AttachError, DomainError, FaultReason, FaultRecord, Gather, ReservedKind, SyncError,
};
use portcullis_core::nested::{GuestInvalidation, GuestTable, NestedError};
use portcullis_core::owner::{Errno, Owner, Released};
use portcullis_types::{Access, Gpa, Iova, Pa, Perms, Prot, SourceId};

const RW: Prot = Prot::cached(Perms::READ_WRITE);

fn table(root: u64) -> GuestTable {
    GuestTable::X86 {
        root: Gpa::new(root),
        levels: 4,
        pat: 0x0007_0406_0007_0406,
        write_protect: true,
        extended_accessed: false,
    }
}

fn parent(bench: &Bench) -> Arc<Domain<Machine>> {
    Domain::new_parent(bench.iommu.clone()).unwrap()
}

fn nested(parent: &Arc<Domain<Machine>>) -> Arc<Domain<Machine>> {
    Domain::new_nested(parent, &table(0x7000)).unwrap()
}

fn owner() -> Owner {
    Owner::new(1).unwrap()
}

/// How many nested domains the driver was told are gone.
fn gone(bench: &Bench) -> usize {
    bench.iommu.nested.lock().unwrap().iter().filter(|told| told.is_none()).count()
}

#[test]
fn a_nested_domain_keeps_its_parent_which_knows_how_many_it_has() {
    let bench = bench(STRICT);
    let parent = parent(&bench);
    let (one, two) = (nested(&parent), nested(&parent));
    assert_eq!((one.domain_type(), parent.domain_type()), (DomainType::Nested, DomainType::Unmanaged));
    assert!(Arc::ptr_eq(one.parent().unwrap(), &parent) && parent.parent().is_none());
    assert_eq!((parent.nested_count(), one.nested_count()), (Some(2), None));
    drop(one);
    assert_eq!((parent.nested_count(), gone(&bench)), (Some(1), 1));
    let there = Arc::downgrade(&parent);
    drop(parent);
    assert!(there.upgrade().is_some(), "hardware may go through it still");
    drop(two);
    assert!(there.upgrade().is_none());
}

#[test]
fn only_a_domain_that_was_made_for_it_is_a_parent() {
    let bench = bench(STRICT);
    let user = Domain::new(bench.machine.clone(), bench.iommu.clone(), DomainType::Unmanaged).unwrap();
    let refused = |parent: &Arc<Domain<Machine>>, table| Domain::new_nested(parent, &table).err();
    assert_eq!(refused(&user, table(0x7000)), Some(NestedError::NotParent));
    assert_eq!(refused(&bench.group.default_domain(), table(0x7000)), Some(NestedError::NotParent));
    assert_eq!(refused(bench.group.blocked_domain(), table(0x7000)), Some(NestedError::NotParent));
    let parent = parent(&bench);
    assert_eq!(refused(&nested(&parent), table(0x7000)), Some(NestedError::NotParent), "not in one another");
    assert_eq!(refused(&parent, table(0x7001)), Some(NestedError::Root(Gpa::new(0x7001))));
    assert_eq!(
        (parent.nested_count(), user.nested_count()),
        (Some(0), None),
        "what was refused is not counted"
    );
    let made = Domain::new(bench.machine.clone(), bench.iommu.clone(), DomainType::Nested);
    assert_eq!(made.err(), Some(DomainError::Unsupported));
    assert_eq!((NestedError::NotParent.errno(), NestedError::NoIds.errno()), (Errno::Einval, Errno::Enospc));
}

#[test]
fn the_guests_addresses_are_nobodys_to_map_and_the_parents_stay_the_users() {
    let bench = bench(STRICT);
    let parent = parent(&bench);
    let nested = nested(&parent);
    let map = |domain: &Domain<Machine>| domain.map(Iova::new(0x4000), Pa::new(RAM), 0x1000, RW);
    assert_eq!((map(&parent), map(&nested)), (Ok(()), Err(DomainMapError::NotUsers)));
    let mut gather = Gather::new();
    assert_eq!(nested.unmap(range(0x4000, 0x4fff), &mut gather), Err(DomainUnmapError::NotUsers));
    assert_eq!(
        (nested.lookup(Iova::new(0x4000)), nested.aperture(), nested.page_sizes()),
        (None, None, None)
    );
    assert_eq!(parent.unmap(range(0x4000, 0x4fff), &mut gather), Ok(0x1000));
    let _ = parent.sync(&mut gather).unwrap();
}

#[test]
fn a_guests_invalidations_reach_the_driver_and_its_silence_the_caller() {
    let bench = bench(STRICT);
    let parent = parent(&bench);
    let nested = nested(&parent);
    let pages = GuestInvalidation::Range { range: range(0x5000, 0x6fff), leaves_only: true };
    nested.invalidate(pages).unwrap();
    nested.invalidate(GuestInvalidation::All).unwrap();
    assert_eq!(*bench.iommu.nested.lock().unwrap(), [Some(pages), Some(GuestInvalidation::All)]);
    bench.iommu.fail(Call::Sync, 0, 1);
    let silent = DomainSyncError::Sync(SyncError::Failed { code: 1 });
    assert_eq!(nested.invalidate(pages), Err(silent));
    assert_eq!(parent.invalidate(pages), Err(DomainSyncError::NotUsers));
}

#[test]
fn a_nested_domain_is_for_who_holds_the_group_and_for_nobody_else() {
    let bench = bench(STRICT);
    let device = bench.member(1, |_| ());
    let parent = parent(&bench);
    let nested = nested(&parent);
    assert_eq!(bench.group.attach_as(owner(), &nested), Err(GroupError::NotOwner(None)));
    bench.group.claim_group(owner()).unwrap();
    assert_eq!(bench.group.attach(&nested), Err(GroupError::NotOwner(Some(owner()))));
    bench.group.attach_as(owner(), &nested).unwrap();
    assert_eq!(bench.iommu.place(1).as_deref(), Some("nested in 1"));
    // From one domain to another only by saying so.
    assert_eq!(bench.group.attach_as(owner(), &parent), Err(GroupError::OtherDomain));
    let other = Owner::new(2).unwrap();
    assert_eq!(bench.group.replace_as(other, &parent), Err(GroupError::NotOwner(Some(owner()))));
    bench.group.replace_as(owner(), &parent).unwrap();
    assert_eq!(bench.iommu.place(1).as_deref(), Some("domain1"));
    bench.group.replace_as(owner(), &nested).unwrap();
    assert_eq!(bench.group.replace_as(owner(), &bench.group.default_domain()), Err(GroupError::NotUsers));
    assert!(Arc::ptr_eq(&device.domain().unwrap(), &nested));
    // The user dies: his claim is released, and what he held is dropped.
    assert_eq!(bench.group.release_group(owner()), Ok(Released::Free));
    assert_eq!((bench.iommu.place(1).as_deref(), gone(&bench)), (Some("domain0"), 0));
    drop((nested, parent));
    assert_eq!(gone(&bench), 1);
}

#[test]
fn a_replacement_that_fails_leaves_every_device_where_it_was() {
    let bench = bench(STRICT);
    let (one, two) = (bench.member(1, |_| ()), bench.member(2, |_| ()));
    let parent = parent(&bench);
    let nested = nested(&parent);
    bench.group.claim_group(owner()).unwrap();
    bench.group.attach_as(owner(), &parent).unwrap();
    bench.iommu.fail(Call::Attach, 1, 1);
    let failed = bench.group.replace_as(owner(), &nested);
    assert!(matches!(failed, Err(GroupError::Attach { .. })), "{failed:?}");
    assert_eq!(bench.iommu.places(), ["domain1", "domain1"]);
    for device in [one, two] {
        assert!(Arc::ptr_eq(&device.domain().unwrap(), &parent));
    }
    assert!(Arc::ptr_eq(&bench.group.current_domain(), &parent));
}

#[test]
fn reserved_regions_of_a_device_bind_the_parent_while_it_is_in_either() {
    let bench = bench(STRICT);
    let _device = bench.member(1, |info| {
        info.firmware_regions = vec![region(0x8000, 0x8fff, ReservedKind::Reserved)];
    });
    let parent = parent(&bench);
    let (one, two) = (nested(&parent), nested(&parent));
    let map = || parent.map(Iova::new(0x8000), Pa::new(RAM), 0x1000, RW);
    let bound = Err(DomainMapError::Reserved(range(0x8000, 0x8fff)));
    bench.group.claim_group(owner()).unwrap();
    bench.group.attach_as(owner(), &one).unwrap();
    assert_eq!(map(), bound);
    // Whichever way it moves between domains of one parent, at no time and afterwards is the region free.
    for next in [&parent, &two, &one, &parent] {
        bench.group.replace_as(owner(), next).unwrap();
        assert_eq!(map(), bound);
    }
    bench.group.detach_as(owner()).unwrap();
    assert_eq!(map(), Ok(()));
    let refused = AttachError::Reserved(range(0x8000, 0x8fff));
    let device = "dev1".into();
    assert_eq!(bench.group.attach_as(owner(), &one), Err(GroupError::Attach { device, error: refused }));
}

#[test]
fn a_replacement_that_fails_leaves_reserved_regions_bound_for_as_long_as_the_device_stays_and_no_longer() {
    let bench = bench(STRICT);
    let _device = bench.member(1, |info| {
        info.firmware_regions = vec![region(0x8000, 0x8fff, ReservedKind::Reserved)];
    });
    let parent = parent(&bench);
    let nested = nested(&parent);
    let map = || parent.map(Iova::new(0x8000), Pa::new(RAM), 0x1000, RW);
    bench.group.claim_group(owner()).unwrap();
    bench.group.attach_as(owner(), &parent).unwrap();
    bench.iommu.fail(Call::Attach, 0, 1);
    assert!(matches!(bench.group.replace_as(owner(), &nested), Err(GroupError::Attach { .. })));
    assert_eq!(map(), Err(DomainMapError::Reserved(range(0x8000, 0x8fff))));
    bench.group.detach_as(owner()).unwrap();
    assert_eq!(map(), Ok(()));
}

#[test]
fn a_doorbell_for_a_nested_device_is_mapped_in_the_parent_and_its_address_is_guest_physical() {
    let bench = bench(STRICT);
    let device = bench.member(1, |_| ());
    let parent = parent(&bench);
    let nested = nested(&parent);
    parent.set_msi_window(range(0x10_0000, 0x1f_ffff)).unwrap();
    let message = compose_msi(&device, &nested, Pa::new(0x808_0040), 5).unwrap();
    assert_eq!(message.address, Iova::new(0x10_0040));
    assert_eq!(bench.iommu.domain(1).mapped(), [(0x10_0000, 0x808_0000)]);
    // Decoded by hardware: never by a table, the guest's or another.
    let decoding = bench.member(2, |info| {
        info.firmware_regions = vec![region(0xfee0_0000, 0xfeef_ffff, ReservedKind::Msi)];
    });
    bench.group.claim_group(owner()).unwrap();
    bench.group.attach_as(owner(), &nested).unwrap();
    let message = compose_msi(&decoding, &nested, Pa::new(0xfee0_1000), 5).unwrap();
    assert_eq!((message.address, bench.iommu.domain(1).map_calls()), (Iova::new(0xfee0_1000), 1));
}

#[test]
fn faults_are_told_to_the_nested_domain_with_the_guests_address() {
    let bench = bench(STRICT);
    let _device = bench.member(3, |_| ());
    let parent = parent(&bench);
    let nested = nested(&parent);
    bench.group.claim_group(owner()).unwrap();
    bench.group.attach_as(owner(), &nested).unwrap();
    let heard = Arc::new(Mutex::new(Vec::new()));
    let to = heard.clone();
    nested.set_fault_handler(Some(Arc::new(move |device: &Device<Machine>, record: &FaultRecord| {
        to.lock().unwrap().push((device.name().to_string(), record.iova.unwrap().get()));
    })));
    bench.iommu.faults.lock().unwrap().push(FaultRecord {
        source: Some(SourceId(3)),
        pasid: None,
        iova: Some(Iova::new(0xffff_8000_0000_1000)),
        access: Some(Access::READ),
        reason: FaultReason::NotMapped,
        name: "first",
        raw: [0; 4],
    });
    bench.unit.dispatch_faults();
    assert_eq!(*heard.lock().unwrap(), [("dev3".to_string(), 0xffff_8000_0000_1000)]);
    assert_eq!((nested.fault_count(), parent.fault_count()), (1, 0));
}
