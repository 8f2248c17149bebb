//! Guests' tables before domains': which registers are written, and what is forgotten by which operation.

use alloc::vec::Vec;

use portcullis_core::iommu::{AttachError, DomainError, Gather, GlobalError, Iommu, Target};
use portcullis_spec::smmuv2::bank::{
    MAIR0, MAIR1, SCTLR, TCR, TCR2, TLBIALL, TLBIIPAS2L, TLBIVA, TLBIVAL, TLBSYNC, TTBR0,
};
use portcullis_spec::smmuv2::global::{IDR0, IDR1, TLBGSYNC, TLBIVMID, cbar, s2cr};
use portcullis_types::{Gpa, Pa, Perms, Prot, SourceId};

use super::*;
use crate::config::{Config, Stage};
use crate::smmu::Smmu;
use crate::testing::Fake;

const GPU: [SourceId; 1] = [SourceId(0x400)];
const RW: Prot = Prot::cached(Perms::READ_WRITE);

type Driver = Arc<Smmu<Fake, Arc<Fake>>>;
type Parent = Arc<dyn HwDomain<Fake>>;

fn table(root: u64) -> GuestTable {
    GuestTable::Vmsa64 {
        root: Gpa::new(root),
        granule: SizeLg2::KIB_4,
        input_bits: 39,
        output_bits: 40,
        mair: 0xffee_ddcc_bbaa_0044,
    }
}

/// An ordinary domain in bank 0, so that numbers of banks and VMIDs differ; a parent in bank 1, with VMID 2.
fn smmu(config: Config) -> (Arc<Fake>, Driver, Parent, Parent) {
    let fake = Fake::new();
    let smmu = fake.probe(config);
    smmu.add_device("gpu", &GPU).unwrap();
    let (ordinary, parent) = (smmu.new_domain().unwrap(), smmu.new_parent().unwrap());
    fake.take_writes();
    (fake, smmu, ordinary, parent)
}

/// And a guest's table in bank 2, to which the device is attached.
fn attached() -> (Arc<Fake>, Driver, Parent, Arc<dyn NestedDomain>) {
    let (fake, smmu, ordinary, parent) = smmu(Fake::config());
    let nested = smmu.new_nested(&parent, &table(0x1_2345_6000)).unwrap();
    drop(ordinary);
    smmu.attach(&GPU, &Target::Nested(nested.clone())).unwrap();
    fake.take_writes();
    (fake, smmu, parent, nested)
}

fn range(first: u64, len_bytes: u64) -> IovaRange {
    IovaRange::new(Iova::new(first), len_bytes).unwrap()
}

fn unmap(domain: &dyn HwDomain<Fake>, range: IovaRange) -> Result<(), SyncError> {
    let mut gather = Gather::new();
    domain.unmap(range, &mut gather).unwrap();
    domain.sync(&mut gather).map(drop)
}

#[test]
fn a_parents_bank_is_of_stage_2_with_a_vmid_of_its_own_though_other_domains_are_of_stage_1() {
    let (fake, smmu, ordinary, parent) = smmu(Fake::config());
    assert!(!smmu.uses_stage2());
    assert_eq!(fake.get(fake.global1(cbar(0))), 0x0001_f300, "the ordinary domain");
    assert_eq!(fake.get(fake.global1(cbar(1))), 0x0000_0002);
    // Stage 2 from level 0: SL0 2, PASize 48.
    assert_eq!((fake.get_bank(1, TCR), fake.get_bank(1, SCTLR)), (0x0005_3590, 0x167));
    assert_eq!(parent.aperture(), ordinary.aperture());
    smmu.attach(&GPU, &Target::Domain(parent)).unwrap();
    assert_eq!(fake.table()[0].3, 1, "devices can be attached to a parent as well");
}

#[test]
fn a_guests_bank_names_the_parents_and_says_what_the_guest_says() {
    let (fake, _smmu, _parent, _nested) = attached();
    // TYPE 3, CBNDX 1, VMID 2.
    assert_eq!(fake.get(fake.global1(cbar(2))), 0x0003_0102);
    // T0SZ 25, write-back walks, inner shareable, EPD1; PASize 40, SEP as upstream.
    assert_eq!((fake.get_bank(2, TCR), fake.get_bank(2, TCR2)), (0x0080_3519, 0x0003_8002));
    assert_eq!(fake.read64(fake.bank(2, TTBR0)), 0x0002_0001_2345_6000, "ASID 2, and the guest's address");
    assert_eq!((fake.get_bank(2, MAIR0), fake.get_bank(2, MAIR1)), (0xbbaa_0044, 0xffee_ddcc));
    assert_eq!(fake.get_bank(2, SCTLR), 0x1167, "M, TRE, AFE, CFRE, CFIE, HUPCF, ASIDPNE");
    assert_eq!(fake.table()[0].3, 2);
}

#[test]
fn a_guests_bank_is_whole_before_it_is_turned_on_and_a_stream_led_there() {
    let (fake, smmu, _ordinary, parent) = smmu(Fake::config());
    let nested = smmu.new_nested(&parent, &table(0x7000)).unwrap();
    let writes = fake.take_writes();
    assert_eq!(writes.first(), Some(&(fake.bank(2, SCTLR), 0)));
    assert_eq!(writes.last(), Some(&(fake.bank(2, SCTLR), 0x1167)));
    smmu.attach(&GPU, &Target::Nested(nested)).unwrap();
    assert_eq!(fake.take_writes(), [(s2cr(0), 2)]);
}

#[test]
fn what_a_parent_unmaps_is_everything_of_its_vmid_while_a_guests_table_is_before_it_and_the_page_when_none_is()
 {
    let (fake, smmu, parent, nested) = attached();
    parent.map(Iova::new(0x10_0000), Pa::new(0x8000_0000), 0x4000, RW).unwrap();
    assert!(fake.take_writes().is_empty());
    unmap(&*parent, range(0x10_0000, 0x1000)).unwrap();
    assert_eq!(fake.take_writes(), [(TLBIVMID, 2), (TLBGSYNC, 0)]);
    smmu.attach(&GPU, &Target::Blocked).unwrap();
    drop(nested);
    fake.take_writes();
    unmap(&*parent, range(0x10_1000, 0x1000)).unwrap();
    assert_eq!(fake.take_writes(), [(fake.bank(1, TLBIIPAS2L), 0x101), (fake.bank(1, TLBSYNC), 0)]);
}

#[test]
fn a_guests_invalidation_is_of_its_own_pages_by_its_asid_and_of_all_by_the_vmid() {
    let (fake, _smmu, _parent, nested) = attached();
    let bank = |register| fake.bank(2, register);
    let of = |first, len_bytes, leaves_only| GuestInvalidation::Range {
        range: range(first, len_bytes),
        leaves_only,
    };
    nested.invalidate(of(0x5000, 0x2000, true)).unwrap();
    let asid = 2 << 48;
    let wanted = [(bank(TLBIVAL), asid | 5), (bank(TLBIVAL), asid | 6), (bank(TLBSYNC), 0)];
    assert_eq!(fake.take_writes(), wanted);
    nested.invalidate(of(0x5000, 0x1000, false)).unwrap();
    assert_eq!(fake.take_writes(), [(bank(TLBIVA), asid | 5), (bank(TLBSYNC), 0)]);
    let all = [(bank(TLBIALL), 0), (bank(TLBSYNC), 0)];
    nested.invalidate(GuestInvalidation::All).unwrap();
    assert_eq!(fake.take_writes(), all);
    nested.invalidate(GuestInvalidation::Range { range: IovaRange::all(), leaves_only: true }).unwrap();
    assert_eq!(fake.take_writes(), all, "as many pages as a table has");
    nested.invalidate(of(1 << 39, 0x1000, true)).unwrap();
    assert!(fake.take_writes().is_empty(), "no table of 39 bits says anything of this");
    fake.with(|state| state.stuck = true);
    assert!(matches!(nested.invalidate(GuestInvalidation::All), Err(SyncError::Timeout { .. })));
}

#[test]
fn where_a_bus_splits_64_bit_writes_a_guests_invalidation_is_of_all() {
    let (fake, smmu, _ordinary, parent) = smmu(Config { wide_writes: false, ..Fake::config() });
    let nested = smmu.new_nested(&parent, &table(0x7000)).unwrap();
    fake.take_writes();
    nested.invalidate(GuestInvalidation::Range { range: range(0x5000, 0x1000), leaves_only: true }).unwrap();
    assert_eq!(fake.take_writes()[0], (fake.bank(2, TLBIALL), 0));
}

#[test]
fn a_stream_that_leaves_is_waited_for_and_the_bank_is_forgotten_before_it_is_anybodys() {
    let (fake, smmu, parent, nested) = attached();
    smmu.attach(&GPU, &Target::Domain(parent)).unwrap();
    let bank = |register| fake.bank(2, register);
    assert_eq!(fake.take_writes(), [(s2cr(0), 1), (bank(TLBIALL), 0), (bank(TLBSYNC), 0)]);
    drop(nested);
    let writes = fake.take_writes();
    let at = |place: usize| writes.iter().position(|&(register, _)| register == place).unwrap();
    let left = at(fake.global1(cbar(2)));
    assert!(
        at(bank(SCTLR)) < at(bank(TLBIALL))
            && at(bank(TLBIALL)) < at(bank(TLBSYNC))
            && at(bank(TLBSYNC)) < left
    );
    assert_eq!(fake.get(fake.global1(cbar(2))), 0x0002_0000, "in nobody's hands it faults");
}

#[test]
fn a_parent_outlives_what_is_nested_in_it_and_nothing_is_left_of_both() {
    let fake = Fake::new();
    let smmu = fake.probe(Fake::config());
    smmu.add_device("gpu", &GPU).unwrap();
    let held = fake.live_bytes();
    for _ in 0..3 {
        let parent = smmu.new_parent().unwrap();
        let nested = smmu.new_nested(&parent, &table(0x7000)).unwrap();
        drop(parent);
        assert_eq!(fake.get_bank(0, SCTLR) & 1, 1, "the parent's bank stays on");
        smmu.attach(&GPU, &Target::Nested(nested)).unwrap();
        smmu.attach(&GPU, &Target::Blocked).unwrap();
        assert_eq!((fake.get_bank(0, SCTLR), fake.get_bank(1, SCTLR), fake.live_bytes()), (0, 0, held));
    }
}

#[test]
fn banks_that_are_all_taken_are_an_error_and_the_parent_goes_on_as_before() {
    let (fake, smmu, _ordinary, parent) = smmu(Fake::config());
    let all: Vec<_> = (0..2).map(|_| smmu.new_nested(&parent, &table(0x7000)).unwrap()).collect();
    fake.take_writes();
    assert_eq!(smmu.new_nested(&parent, &table(0x7000)).err(), Some(NestedError::NoIds));
    assert_eq!(smmu.new_parent().err(), Some(DomainError::NoIds));
    assert!(fake.take_writes().is_empty());
    drop(all);
    parent.map(Iova::new(0x10_0000), Pa::new(0x8000_0000), 0x2000, RW).unwrap();
    fake.take_writes();
    unmap(&*parent, range(0x10_0000, 0x1000)).unwrap();
    assert_eq!(fake.take_writes()[0].0, fake.bank(1, TLBIIPAS2L), "nothing is nested that was refused");
}

#[test]
fn banks_of_stage_2_alone_are_parents_and_never_guests() {
    let fake = Fake::new();
    fake.set(IDR1, fake.get(IDR1) | 2 << 16);
    let smmu = fake.probe(Fake::config());
    let (one, two) = (smmu.new_parent().unwrap(), smmu.new_parent().unwrap());
    let bank = |domain: &Parent| domain.as_any().downcast_ref::<Domain<Fake, Arc<Fake>>>().unwrap().bank();
    assert_eq!((bank(&one), bank(&two)), (0, 1));
    let nested = smmu.new_nested(&one, &table(0x7000)).unwrap();
    assert_eq!(nested.as_any().downcast_ref::<Nested<Fake, Arc<Fake>>>().unwrap().bank(), 2);
}

#[test]
fn a_bank_whose_guests_entries_may_be_remembered_is_nobodys_and_the_parent_is_kept_until_hardware_confirms() {
    let (fake, smmu, _ordinary, parent) = smmu(Fake::config());
    let nested = smmu.new_nested(&parent, &table(0x7000)).unwrap();
    fake.with(|state| state.stuck = true);
    drop(nested);
    fake.with(|state| state.stuck = false);
    let held = fake.live_bytes();
    drop(parent);
    assert_eq!(fake.live_bytes(), held, "hardware may go on walking the parent's tables");
    let _last = smmu.new_domain().unwrap();
    assert_eq!(smmu.new_domain().err(), Some(DomainError::NoIds), "one bank of four was left");
    fake.with(|state| state.stuck = true);
    assert_eq!(smmu.handle_errors(), [GlobalError::ServiceFailure]);
    assert_eq!(smmu.new_domain().err(), Some(DomainError::NoIds));
    fake.with(|state| state.stuck = false);
    let with_last = fake.live_bytes();
    assert_eq!(smmu.handle_errors(), [], "it is asked again");
    assert!(fake.live_bytes() < with_last, "and the parent is gone with it");
    let _both = [smmu.new_domain().unwrap(), smmu.new_domain().unwrap()];
}

#[test]
fn what_a_parent_unmaps_is_everything_of_its_vmid_for_as_long_as_a_guests_entries_may_be_remembered() {
    let (fake, smmu, _ordinary, parent) = smmu(Fake::config());
    let nested = smmu.new_nested(&parent, &table(0x7000)).unwrap();
    parent.map(Iova::new(0x10_0000), Pa::new(0x8000_0000), 0x1000, RW).unwrap();
    fake.with(|state| state.stuck = true);
    drop(nested);
    fake.with(|state| state.stuck = false);
    fake.take_writes();
    unmap(&*parent, range(0x10_0000, 0x1000)).unwrap();
    assert_eq!(fake.take_writes(), [(TLBIVMID, 2), (TLBGSYNC, 0)]);
}

#[test]
fn a_guests_table_that_a_stream_may_still_go_through_is_kept_with_its_parent_and_what_that_unmaps_is_closed()
{
    let (fake, smmu, parent, nested) = attached();
    parent.map(Iova::new(0x10_0000), Pa::new(0x8000_0000), 0x1000, RW).unwrap();
    fake.with(|state| state.stuck = true);
    assert!(matches!(smmu.attach(&GPU, &Target::Blocked), Err(AttachError::LeftBlocked(_))));
    fake.with(|state| state.stuck = false);
    drop(nested);
    assert_eq!((fake.get_bank(1, SCTLR) & 1, fake.get_bank(2, SCTLR) & 1), (1, 1));
    fake.take_writes();
    unmap(&*parent, range(0x10_0000, 0x1000)).unwrap();
    assert_eq!(fake.take_writes(), [(TLBIVMID, 2), (TLBGSYNC, 0)]);
    let held = fake.live_bytes();
    drop(parent);
    assert_eq!(fake.live_bytes(), held);
}

#[test]
fn an_smmu_that_is_turned_off_leaves_nothing_of_a_guests_table_and_its_parent() {
    let (fake, smmu, parent, nested) = attached();
    smmu.teardown().unwrap();
    nested.invalidate(GuestInvalidation::All).unwrap();
    drop((parent, nested));
    assert_eq!((fake.get_bank(1, SCTLR), fake.get_bank(2, SCTLR), fake.live_bytes()), (0, 0, 0));
}

#[test]
fn what_cannot_be_a_parent_or_a_guests_table_is_refused() {
    let (_fake, smmu, ordinary, parent) = smmu(Fake::config());
    let refused = |parent: &Parent, table| smmu.new_nested(parent, &table).err();
    assert_eq!(refused(&ordinary, table(0x7000)), Some(NestedError::NotParent));
    let (_, stranger, _, theirs) = self::smmu(Fake::config());
    assert_eq!(refused(&theirs, table(0x7000)), Some(NestedError::ForeignParent));
    let foreign = stranger.new_nested(&theirs, &table(0x7000)).unwrap();
    assert_eq!(smmu.attach(&GPU, &Target::Nested(foreign)), Err(AttachError::ForeignDomain));
    assert_eq!(refused(&parent, table(0x7800)), Some(NestedError::Root(Gpa::new(0x7800))));
    let x86 = GuestTable::X86 {
        root: Gpa::new(0x7000),
        levels: 4,
        pat: 0,
        write_protect: true,
        extended_accessed: false,
    };
    assert_eq!(refused(&parent, x86), Some(NestedError::Format));
    smmu.teardown().unwrap();
    assert_eq!(refused(&parent, table(0x7000)), Some(NestedError::Unsupported), "it is off");
}

#[test]
fn hardware_without_both_stages_in_a_row_nests_nothing_and_domains_of_stage_2_are_parents_where_it_has() {
    for missing in [1 << 28, 1 << 29, 1 << 30] {
        let fake = Fake::new();
        fake.set(IDR0, fake.get(IDR0) & !missing);
        let smmu = fake.probe(Fake::config());
        assert!(smmu.guest_tables().is_empty());
        assert_eq!(smmu.new_parent().err(), Some(DomainError::Unsupported));
        let domain = smmu.new_domain().unwrap();
        assert_eq!(smmu.new_nested(&domain, &table(0x7000)).err(), Some(NestedError::Unsupported));
    }
    let fake = Fake::new();
    let smmu = fake.probe(Config { stage: Stage::Two, ..Fake::config() });
    let parent = smmu.new_parent().unwrap();
    let _nested = smmu.new_nested(&parent, &table(0x7000)).unwrap();
    // TYPE 3, CBNDX 0, VMID 1.
    assert_eq!(fake.get(fake.global1(cbar(1))), 0x0003_0001);
}

#[test]
fn what_faults_in_or_behind_a_guests_table_does_not_wait_for_an_answer_that_nobody_has() {
    let (fake, smmu, _ordinary, parent) = smmu(Config { stall: true, ..Fake::config() });
    let _nested = smmu.new_nested(&parent, &table(0x7000)).unwrap();
    let stalls = |bank| fake.get_bank(bank, SCTLR) >> 7 & 1;
    assert_eq!((stalls(0), stalls(1), stalls(2)), (1, 0, 0), "CFCFG");
}
