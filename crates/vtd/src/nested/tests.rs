//! Guests' tables before domains': which words are written, and what is forgotten under which domain-id.

use alloc::vec;

use portcullis_core::iommu::{AttachError, DomainError, Gather, Iommu, MapError, Target};
use portcullis_core::sva::{CpuFacts, DeviceSvaFacts, DeviceSwitches, SvaIommu};
use portcullis_spec::vtd::invalidation::*;
use portcullis_types::{Iova, IovaRange, Pa, Perms, Prot, SizeLg2, SourceId};

use super::*;
use crate::config::{Config, Mode};
use crate::testing::{Act, CAP_LEGACY, ECAP_SCALABLE, Fake};
use crate::vtd::Vtd;

const SID: SourceId = SourceId(0x0108);
const READ_WRITE: Prot = Prot::cached(Perms::READ_WRITE);
/// NEST.
const ECAP_NESTED: u64 = ECAP_SCALABLE | 1 << 26;
const PAT: u64 = 0x0007_0406_0007_0406;

type Parent = Arc<dyn HwDomain<Fake>>;

fn table(root: u64) -> GuestTable {
    GuestTable::X86 {
        root: Gpa::new(root),
        levels: 4,
        pat: PAT,
        write_protect: true,
        extended_accessed: false,
    }
}

fn page(iova: u64) -> IovaRange {
    IovaRange::new(Iova::new(iova), 0x1000).unwrap()
}

fn of(nested: &Arc<dyn NestedDomain>) -> &Nested<Fake, Fake> {
    nested.as_any().downcast_ref().unwrap()
}

/// A unit with a device, and a parent with domain-id 2. Domain-id 1 is for requests that pass.
fn unit(capability: u64, extended: u64) -> (Arc<Fake>, Vtd<Fake, Fake>, Parent) {
    let fake = Fake::new(capability, extended);
    let mut cpus = CpuFacts::new(SizeLg2::KIB_4);
    cpus.output_bits = 46;
    let unit = fake.probe(Config { cpus: Some(cpus), ..Fake::config() });
    unit.add_device("gpu", &[SID]).unwrap();
    let parent = unit.new_parent().unwrap();
    (fake, unit, parent)
}

/// With a guest's table that has domain-id 3, to which the device is attached.
fn attached() -> (Arc<Fake>, Vtd<Fake, Fake>, Parent, Arc<dyn NestedDomain>) {
    let (fake, unit, parent) = unit(CAP_LEGACY, ECAP_NESTED);
    let nested = unit.new_nested(&parent, &table(0x1_2345_6000)).unwrap();
    unit.attach(&[SID], &Target::Nested(nested.clone())).unwrap();
    fake.take_log();
    (fake, unit, parent, nested)
}

#[derive(Debug)]
struct Switches;

impl DeviceSwitches for Switches {
    fn set_ats(&self, _: bool) {}
}

/// The device has a TLB, which is on.
fn with_device_tlb(unit: &Vtd<Fake, Fake>) {
    let facts =
        DeviceSvaFacts { ats: true, pri: true, response_pasid: true, pasid_bits: 20, can_stall: false };
    unit.enable(&[SID], &facts, Arc::new(Switches)).unwrap();
}

#[test]
fn an_entry_says_nested_with_the_guests_root_the_parents_table_and_an_id_of_its_own() {
    let (fake, unit, parent, nested) = attached();
    let second = match of(&nested).lead().to {
        To::Nested { second, .. } => second.get(),
        other => panic!("{other:?}"),
    };
    let entry = fake.pasid(0x108, 0).unwrap();
    // P, AW 48 bits, PGTT 011; domain-id 3, PWSNP, PGSNP, PAT; FSPM 4 levels, WPE.
    assert_eq!(entry, [second | 0xc9, 0x0746_0746_0180_0003, 0x1_2345_6010, 0, 0, 0, 0, 0]);
    let root = parent.as_any().downcast_ref::<Domain<Fake, Fake>>().unwrap().lead().unwrap();
    assert_eq!(root.to, To::Second { root: Pa::new(second), aw: 2 });
    // With 5 levels, the extended accessed flag, and no write protection.
    let (fake, unit5, parent) = self::unit(CAP_LEGACY | 1 << 60, ECAP_NESTED | 1 << 34);
    let (root, pat) = (Gpa::new(0x7000), 0);
    let five = GuestTable::X86 { root, levels: 5, pat, write_protect: false, extended_accessed: true };
    let nested = unit5.new_nested(&parent, &five).unwrap();
    unit5.attach(&[SID], &Target::Nested(nested)).unwrap();
    assert_eq!(fake.pasid(0x108, 0).unwrap()[2], 0x7084);
    drop(unit);
}

#[test]
fn the_first_stage_of_the_guest_is_never_used_without_the_parents() {
    let (fake, _unit, ..) = attached();
    assert_eq!(fake.pasid(0x108, 0).unwrap()[0] >> 6 & 7, 3, "PGTT");
}

/// What is forgotten of the page at 5000h under the parent's own id.
fn pages_of_parent() -> Descriptor {
    Descriptor::iotlb_pages(2, Span::covering(page(0x5000)).unwrap(), true)
}

#[test]
fn what_the_parent_unmaps_is_forgotten_under_every_nested_id_as_well() {
    let (fake, unit, parent, _first) = attached();
    let second = unit.new_nested(&parent, &table(0x9000)).unwrap();
    parent.map(Iova::new(0x5000), Pa::new(0x9000), 0x2000, READ_WRITE).unwrap();
    assert!(fake.take_log().is_empty(), "what was not present is not cached");
    let mut gather = Gather::new();
    parent.unmap(page(0x5000), &mut gather).unwrap();
    let _ = parent.sync(&mut gather).unwrap();
    let log = fake.take_log();
    // Under nested ids everything: of an invalidation of pages the draining would be of requests with their addresses, which are the guest's.
    let wanted = [pages_of_parent(), Descriptor::iotlb_domain(3), Descriptor::iotlb_domain(4)];
    assert_eq!(
        (&log[..3], log.len()),
        (&wanted[..], 4),
        "the parent's id and both nested ones, and one wait"
    );
    drop(second);
    fake.take_log();
    let _ = parent.flush_all().unwrap();
    assert_eq!(fake.take_log()[..2], [2, 3].map(Descriptor::iotlb_domain));
}

#[test]
fn what_the_parent_unmaps_is_forgotten_by_the_devices_of_nested_domains_whole_and_after_the_iotlb() {
    let (fake, unit, parent, _nested) = attached();
    with_device_tlb(&unit);
    parent.map(Iova::new(0x5000), Pa::new(0x9000), 0x1000, READ_WRITE).unwrap();
    fake.take_log();
    let mut gather = Gather::new();
    parent.unmap(page(0x5000), &mut gather).unwrap();
    let _ = parent.sync(&mut gather).unwrap();
    let log = fake.take_log();
    let kinds: Vec<u8> = log.iter().map(Descriptor::kind).collect();
    assert_eq!(kinds, [TYPE_IOTLB, TYPE_IOTLB, TYPE_WAIT, TYPE_DEVICE_TLB, TYPE_WAIT]);
    assert_eq!(log[3], Descriptor::device_tlb(0x108, None).fitted(of_unit(&unit).0, of_unit(&unit).1));
}

fn of_unit(
    unit: &Vtd<Fake, Fake>,
) -> (portcullis_spec::vtd::capability::Capability, portcullis_spec::vtd::capability::ExtendedCapability) {
    (unit.features().capability, unit.features().extended)
}

#[test]
fn a_unit_that_caches_what_is_not_present_is_told_of_the_parents_maps_under_nested_ids_too() {
    let (fake, unit, parent) = unit(CAP_LEGACY | 1 << 7, ECAP_NESTED);
    let _nested = unit.new_nested(&parent, &table(0x7000)).unwrap();
    fake.take_log();
    parent.map(Iova::new(0x5000), Pa::new(0x9000), 0x1000, READ_WRITE).unwrap();
    let span = Span::covering(page(0x5000)).unwrap();
    assert_eq!(fake.take_log()[..2], [2, 3].map(|id| Descriptor::iotlb_pages(id, span, false)));
}

#[test]
fn a_guests_invalidation_is_of_its_own_pages_under_the_nested_id_and_then_of_its_devices() {
    let (fake, unit, _parent, nested) = attached();
    let span = Span::covering(page(0x7000)).unwrap();
    let one = |leaves_only| GuestInvalidation::Range { range: page(0x7000), leaves_only };
    for leaves_only in [true, false] {
        nested.invalidate(one(leaves_only)).unwrap();
        assert_eq!(fake.take_log()[0], Descriptor::iotlb_pasid_pages(3, 0, span, leaves_only));
    }
    nested.invalidate(GuestInvalidation::All).unwrap();
    assert_eq!(fake.take_log()[0], Descriptor::iotlb_pasid(3, 0));
    let all = GuestInvalidation::Range { range: IovaRange::all(), leaves_only: true };
    nested.invalidate(all).unwrap();
    assert_eq!(fake.take_log()[0], Descriptor::iotlb_pasid(3, 0), "no descriptor says so much");
    with_device_tlb(&unit);
    fake.take_log();
    nested.invalidate(one(true)).unwrap();
    let log = fake.take_log();
    assert_eq!((log[2].kind(), log[2].0[1]), (TYPE_DEVICE_TLB, 0x7000), "just the page");
}

#[test]
fn a_source_that_leaves_is_forgotten_under_the_nested_id_as_a_whole_domain_before_anything_else_is_written() {
    let (fake, unit, parent, _nested) = attached();
    unit.attach(&[SID], &Target::Domain(parent)).unwrap();
    let story = fake.with(|state| state.story.clone());
    let at = |descriptor| story.iter().position(|it| *it == Act::Consumed(descriptor)).unwrap();
    let gone = at(Descriptor::pasid_cache(3, 0));
    let iotlb = at(Descriptor::iotlb_domain(3));
    let next =
        story.iter().rposition(|it| matches!(it, Act::Store(_, word) if word & 0x1ff == 0x89)).unwrap();
    assert!(gone < iotlb && iotlb < next, "{story:?}");
}

#[test]
fn a_nested_id_and_the_parents_tables_are_kept_until_hardware_confirms() {
    let id = |domain: &Parent| domain.as_any().downcast_ref::<Domain<Fake, Fake>>().unwrap().id();
    for by_turning_off in [false, true] {
        let (fake, unit, parent) = unit(CAP_LEGACY, ECAP_NESTED);
        let nested = unit.new_nested(&parent, &table(0x7000)).unwrap();
        fake.with(|state| state.refused = vec![TYPE_IOTLB]);
        drop(nested);
        let held = fake.live_bytes();
        drop(parent);
        unit.handle_errors();
        assert_eq!(fake.live_bytes(), held, "hardware may go on walking the parent's tables");
        assert_eq!(id(&unit.new_domain().unwrap()), 4);
        fake.with(|state| state.refused.clear());
        if by_turning_off {
            unit.teardown().unwrap();
            assert_eq!(fake.live_bytes(), 0x1000, "the root table, with nothing in it");
            continue;
        }
        unit.handle_errors();
        assert!(fake.live_bytes() < held);
        fake.take_log();
        unit.handle_errors();
        assert_eq!(fake.take_log(), [], "once");
    }
}

#[test]
fn a_table_may_be_walked_otherwise_once_hardware_has_forgotten_how_it_was() {
    let (fake, unit, parent) = unit(CAP_LEGACY | 1 << 60, ECAP_NESTED);
    fake.with(|state| state.refused = vec![TYPE_IOTLB]);
    drop(unit.new_nested(&parent, &table(0x7000)).unwrap());
    fake.with(|state| state.refused.clear());
    let root = Gpa::new(0x7000);
    let five = GuestTable::X86 { root, levels: 5, pat: PAT, write_protect: true, extended_accessed: false };
    assert_eq!(unit.new_nested(&parent, &five).err(), Some(NestedError::Conflict(root)));
    unit.handle_errors();
    unit.new_nested(&parent, &five).unwrap();
}

fn unmap(parent: &Parent, iova: u64) {
    let mut gather = Gather::new();
    parent.unmap(page(iova), &mut gather).unwrap();
    let _ = parent.sync(&mut gather).unwrap();
}

#[test]
fn what_the_parent_unmaps_is_forgotten_under_a_nested_id_until_hardware_has_confirmed_that_it_is_nobodys() {
    let (fake, unit, parent) = unit(CAP_LEGACY, ECAP_NESTED);
    let nested = unit.new_nested(&parent, &table(0x7000)).unwrap();
    parent.map(Iova::new(0x5000), Pa::new(0x9000), 0x2000, READ_WRITE).unwrap();
    fake.with(|state| state.refused = vec![TYPE_IOTLB]);
    drop(nested);
    fake.with(|state| state.refused.clear());
    fake.take_log();
    unmap(&parent, 0x5000);
    let wanted = [pages_of_parent(), Descriptor::iotlb_domain(3)];
    assert!(fake.take_log().windows(2).any(|told| told == wanted));
}

#[test]
fn a_source_that_hardware_may_still_lead_to_a_guests_table_keeps_it_and_is_told_what_the_parent_unmaps() {
    let (fake, unit, parent, nested) = attached();
    with_device_tlb(&unit);
    parent.map(Iova::new(0x5000), Pa::new(0x9000), 0x2000, READ_WRITE).unwrap();
    let there = Arc::downgrade(&nested);
    drop(nested);
    fake.with(|state| state.refused = vec![TYPE_PASID_CACHE]);
    let error = unit.attach(&[SID], &Target::Blocked).unwrap_err();
    assert!(matches!(error, AttachError::LeftBlocked(_)), "{error:?}");
    fake.with(|state| state.refused.clear());
    assert!(there.upgrade().is_some(), "hardware may be using it for ever");
    fake.take_log();
    unmap(&parent, 0x5000);
    let wanted = [pages_of_parent(), Descriptor::iotlb_domain(3)];
    assert!(fake.take_log().windows(2).any(|told| told == wanted));
    let held = fake.live_bytes();
    drop(parent);
    assert_eq!(fake.live_bytes(), held);
}

#[test]
fn a_device_that_left_a_guests_table_is_told_nothing_of_it_any_more() {
    let (fake, unit, parent, nested) = attached();
    with_device_tlb(&unit);
    parent.map(Iova::new(0x5000), Pa::new(0x9000), 0x1000, READ_WRITE).unwrap();
    unit.attach(&[SID], &Target::Domain(parent.clone())).unwrap();
    fake.take_log();
    nested.invalidate(GuestInvalidation::All).unwrap();
    assert!(fake.take_log().iter().all(|told| told.kind() != TYPE_DEVICE_TLB));
    unmap(&parent, 0x5000);
    let told = fake.take_log();
    let told: Vec<_> = told.iter().filter(|told| told.kind() == TYPE_DEVICE_TLB).collect();
    assert_eq!((told.len(), told[0].0[1]), (1, 0x5000), "just the page, as of any domain");
}

#[test]
fn a_unit_that_is_turned_off_leaves_nothing_of_a_guests_table_and_its_parent() {
    let (fake, unit, parent, nested) = attached();
    unit.teardown().unwrap();
    fake.take_log();
    nested.invalidate(GuestInvalidation::All).unwrap();
    drop((parent, nested));
    assert!(fake.take_log().is_empty());
    assert_eq!(fake.live_bytes(), 0x1000, "the root table, with nothing in it");
}

#[test]
fn nothing_is_left_of_nested_domains_that_are_gone() {
    let fake = Fake::new(CAP_LEGACY, ECAP_NESTED);
    let unit = fake.probe(Fake::config());
    unit.add_device("gpu", &[SID]).unwrap();
    unit.attach(&[SID], &Target::Identity).unwrap();
    unit.attach(&[SID], &Target::Blocked).unwrap();
    // Its context table and PASID directory stay.
    let held = fake.live_bytes();
    for round in 0..3u16 {
        let parent = unit.new_parent().unwrap();
        let nested = unit.new_nested(&parent, &table(0x7000)).unwrap();
        assert_eq!(of(&nested).id(), 3 + 2 * round, "each an id that nobody had");
        drop(parent);
        unit.attach(&[SID], &Target::Nested(nested)).unwrap();
        unit.attach(&[SID], &Target::Blocked).unwrap();
    }
    assert_eq!(fake.live_bytes(), held);
}

#[test]
fn the_same_table_is_not_walked_in_two_ways() {
    let (_fake, unit, parent) = unit(CAP_LEGACY | 1 << 60, ECAP_NESTED);
    let _four = unit.new_nested(&parent, &table(0x7000)).unwrap();
    let _again = unit.new_nested(&parent, &table(0x7000)).unwrap();
    let root = Gpa::new(0x7000);
    let five = GuestTable::X86 { root, levels: 5, pat: PAT, write_protect: true, extended_accessed: false };
    assert_eq!(unit.new_nested(&parent, &five).err(), Some(NestedError::Conflict(root)));
    let other = unit.new_parent().unwrap();
    assert!(unit.new_nested(&other, &five).is_ok(), "another parent, another table");
}

#[test]
fn what_cannot_be_a_parent_or_a_guests_table_is_refused() {
    let (fake, unit, parent) = unit(CAP_LEGACY, ECAP_NESTED);
    let refused = |parent: &Parent, table| unit.new_nested(parent, &table).err();
    let ordinary = unit.new_domain().unwrap();
    assert_eq!(refused(&ordinary, table(0x7000)), Some(NestedError::NotParent));
    let (_, stranger, theirs) = self::unit(CAP_LEGACY, ECAP_NESTED);
    assert_eq!(refused(&theirs, table(0x7000)), Some(NestedError::ForeignParent));
    let foreign = stranger.new_nested(&theirs, &table(0x7000)).unwrap();
    let attach = unit.attach(&[SID], &Target::Nested(foreign));
    assert_eq!(attach, Err(AttachError::ForeignDomain));
    assert_eq!(refused(&parent, table(0x7800)), Some(NestedError::Root(Gpa::new(0x7800))));
    assert_eq!(refused(&parent, table(1 << 48)), Some(NestedError::Root(Gpa::new(1 << 48))));
    let arm = GuestTable::Vmsa64 {
        root: Gpa::new(0x7000),
        granule: SizeLg2::KIB_4,
        input_bits: 48,
        output_bits: 48,
        mair: 0,
    };
    assert_eq!(refused(&parent, arm), Some(NestedError::Format));
    fake.take_log();
}

#[test]
fn hardware_and_modes_that_nest_nothing_say_so() {
    // No NEST; NEST without a first stage, and without a second.
    for extended in [ECAP_SCALABLE, ECAP_NESTED & !(1 << 47), ECAP_NESTED & !(1 << 46)] {
        let unit = Fake::new(CAP_LEGACY, extended).probe(Fake::config());
        assert!(unit.guest_tables().is_empty());
        assert_eq!(unit.new_parent().err(), Some(DomainError::Unsupported));
    }
    let legacy = Config { mode: Mode::Legacy, ..Fake::config() };
    let unit = Fake::new(CAP_LEGACY, ECAP_NESTED).probe(legacy);
    assert!(unit.guest_tables().is_empty());
    assert_eq!(unit.new_parent().err(), Some(DomainError::Unsupported));
    let domain = unit.new_domain().unwrap();
    assert_eq!(unit.new_nested(&domain, &table(0x7000)).err(), Some(NestedError::Unsupported));
}

#[test]
fn where_hardware_writes_through_what_is_read_only_a_parent_has_no_such_pages() {
    let fake = Fake::new(CAP_LEGACY, ECAP_NESTED);
    let unit = fake.probe(Config { read_only_parents: false, ..Fake::config() });
    let (parent, ordinary) = (unit.new_parent().unwrap(), unit.new_domain().unwrap());
    let read = Prot::cached(Perms::READ);
    let map = |domain: &Parent, prot| domain.map(Iova::new(0x5000), Pa::new(0x9000), 0x1000, prot);
    assert_eq!(map(&parent, read), Err(MapError::Unsupported(read)));
    assert_eq!((map(&parent, READ_WRITE), map(&ordinary, read)), (Ok(()), Ok(())));
}
