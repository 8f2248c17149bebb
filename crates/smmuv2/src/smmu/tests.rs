use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::AtomicUsize;

use portcullis_core::iommu::{
    AddDeviceError, AttachError, DomainError, FaultReason, Gather, GlobalError, HwDomain, Iommu, SyncError,
    Target,
};
use portcullis_hal::{BlockLayout, DmaMemory};
use portcullis_spec::smmuv2::bank::{
    ACTLR, FAR, FSR, FSYNR0, RESUME, SCTLR, TCR, TLBIASID, TLBIIPAS2L, TLBIVA, TLBIVAL, TLBSYNC, TTBR0,
};
use portcullis_spec::smmuv2::global::{
    ACR, CR0, GFAR, GFSR, GFSYNR0, GFSYNR1, IDR0, TLBGSYNC, TLBIALLNSNH, TLBIVMID, cba2r, cbar, cbfrsynra,
    s2cr, smr,
};
use portcullis_types::{Iova, IovaRange, Pa, Perms, Prot, SizeLg2, SourceId};

use super::*;
use crate::config::Implementation;
use crate::counters::Operation;
use crate::testing::Fake;

const FAULT: u8 = 0b10;
const BYPASS: u8 = 0b01;
const TRANSLATE: u8 = 0b00;
const GPU: [SourceId; 1] = [SourceId(0x003f_0400)];
const NET: [SourceId; 1] = [SourceId(9)];

type Driver = Smmu<Fake, Arc<Fake>>;
/// Something that is asked of the driver, and whether it did it.
type Step = dyn Fn(&Driver) -> bool;

fn ready(config: Config) -> (Arc<Fake>, Arc<Driver>) {
    let fake = Fake::new();
    let smmu = fake.probe(config);
    smmu.add_device("gpu", &GPU).unwrap();
    fake.take_writes();
    (fake, smmu)
}

fn attached(config: Config) -> (Arc<Fake>, Arc<Driver>, Arc<dyn HwDomain<Fake>>) {
    let (fake, smmu) = ready(config);
    let domain = smmu.new_domain().unwrap();
    smmu.attach(&GPU, &Target::Domain(domain.clone())).unwrap();
    fake.take_writes();
    (fake, smmu, domain)
}

fn range(first: u64, len_bytes: u64) -> IovaRange {
    IovaRange::new(Iova::new(first), len_bytes).unwrap()
}

fn map(domain: &dyn HwDomain<Fake>, first: u64, len_bytes: u64) {
    domain
        .map(Iova::new(first), Pa::new(0x8000_0000 + first), len_bytes, Prot::cached(Perms::READ_WRITE))
        .unwrap();
}

fn unmap(domain: &dyn HwDomain<Fake>, range: IovaRange) -> Result<(), SyncError> {
    let mut gather = Gather::new();
    domain.unmap(range, &mut gather).unwrap();
    domain.sync(&mut gather).map(drop)
}

#[test]
fn after_probe_nobody_gets_through() {
    let fake = Fake::new();
    let _smmu = fake.probe(Fake::config());
    // CLIENTPD 0; USFCFG, SMCFCFG, fault reports and interrupts, PTM, VMIDPNE, STALLD.
    assert_eq!(fake.get(CR0), 0x0020_1d36);
    assert!(fake.table().is_empty());
    assert!((0..8).all(|group| fake.get(s2cr(group)) == 0x0002_0000), "a group of nobody's says fault");
    for bank in 0..4 {
        assert_eq!(fake.get_bank(bank, SCTLR), 0);
        assert_eq!(fake.get(fake.global1(cbar(bank))), 0x0002_0000, "a bank of nobody's faults");
    }
}

#[test]
fn the_way_around_is_closed_after_groups_and_banks_are_in_order_and_not_before() {
    let fake = Fake::new();
    let _smmu = Smmu::probe(fake.clone(), fake.clone(), Fake::config()).unwrap();
    let writes = fake.take_writes();
    assert_eq!(writes.last().map(|&(at, _)| at), Some(CR0), "last of all");
    assert_eq!(writes.iter().filter(|&&(at, _)| at == CR0).count(), 1);
}

#[test]
fn hardware_that_does_not_forget_is_left_with_nobody_getting_through() {
    let fake = Fake::new();
    fake.with(|state| state.stuck = true);
    let probed = Smmu::probe(fake.clone(), fake.clone(), Fake::config());
    assert!(matches!(
        probed,
        Err(ProbeError::Timeout { waiting_for: "SMMU_TLBGSTATUS to be idle", last: 1 })
    ));
    // As when it is in use, but that nobody is interrupted, who is not there: GFIE and GCFGFIE, bits 2 and 5.
    assert_eq!((fake.get(CR0), fake.table()), (0x0020_1d12, Vec::new()));
}

#[test]
fn an_mmu_500_translates_nothing_ahead_and_keeps_nobody_who_passes() {
    let fake = Fake::new();
    fake.set(ACR, 1 << 26 | 1 << 10 | 1 << 8 | 1 << 2);
    (0..4).for_each(|bank| fake.set_bank(bank, ACTLR, 0b11));
    fake.probe(Config { implementation: Implementation::Mmu500, ..Fake::config() });
    assert_eq!(fake.get(ACR), 1 << 2, "the lock, and the bits for traffic that passes");
    assert!((0..4).all(|bank| fake.get_bank(bank, ACTLR) == 0b01), "CPRE");
}

#[test]
fn a_device_is_blocked_until_it_is_attached_and_its_groups_are_whole_before_they_match() {
    let (fake, smmu) = ready(Fake::config());
    assert_eq!(fake.table(), [(0x400, 0x3f, FAULT, 0)]);
    smmu.add_device("net", &NET).unwrap();
    assert_eq!(fake.take_writes(), [(s2cr(1), 0x0002_0000), (smr(1), 0x8000_0009)]);
}

#[test]
fn a_bank_is_set_up_whole_before_it_is_turned_on_and_a_stream_led_there() {
    let (fake, smmu) = ready(Fake::config());
    let domain = smmu.new_domain().unwrap();
    let words = |register| fake.get_bank(0, register);
    assert_eq!(words(SCTLR), 0x1167, "M, TRE, AFE, CFRE, CFIE, HUPCF, ASIDPNE");
    assert_eq!((words(TCR), fake.get(fake.global1(cba2r(0)))), (0x0080_3510, 1));
    assert_eq!(fake.get(fake.global1(cbar(0))), 0x0001_f300, "stage 2 is bypassed and weakens nothing");
    let writes = fake.take_writes();
    assert_eq!(writes.last(), Some(&(fake.bank(0, SCTLR), 0x1167)));
    assert_eq!(writes.first(), Some(&(fake.bank(0, SCTLR), 0)));
    smmu.attach(&GPU, &Target::Domain(domain)).unwrap();
    assert_eq!(fake.take_writes(), [(s2cr(0), 0)], "one write, and nobody was there before to wait for");
    assert_eq!(fake.table(), [(0x400, 0x3f, TRANSLATE, 0)]);
}

#[test]
fn every_domain_has_a_bank_and_a_tag_of_its_own_and_more_than_there_are_is_an_error() {
    let (fake, smmu) = ready(Fake::config());
    let domains: Vec<_> = (0..4).map(|_| smmu.new_domain().unwrap()).collect();
    assert!((0..4).all(|bank| fake.read64(fake.bank(bank, TTBR0)) >> 48 == bank as u64));
    assert!(matches!(smmu.new_domain(), Err(DomainError::NoIds)));
    drop(domains);
    assert!(smmu.new_domain().is_ok());
}

#[test]
fn mapping_tells_the_hardware_nothing() {
    let (fake, _smmu, domain) = attached(Fake::config());
    map(&*domain, 0x10_0000, 0x40_0000);
    assert!(fake.take_writes().is_empty());
}

#[test]
fn an_unmapped_page_is_one_write_and_one_sync() {
    let (fake, smmu, domain) = attached(Fake::config());
    map(&*domain, 0x10_0000, 0x2000);
    let before = smmu.counts();
    unmap(&*domain, range(0x10_0000, 0x1000)).unwrap();
    let bank = |register| fake.bank(0, register);
    assert_eq!(fake.take_writes(), [(bank(TLBIVAL), 0x100), (bank(TLBSYNC), 0)]);
    unmap(&*domain, range(0x10_1000, 0x1000)).unwrap();
    assert_eq!(fake.take_writes()[0], (bank(TLBIVA), 0x101), "its table went: no leaf hint");
    let counts = smmu.counts().since(&before);
    assert_eq!((counts.of(Operation::TlbiVal), counts.of(Operation::TlbiVa), counts.syncs()), (1, 1, 2));
}

#[test]
fn a_range_is_one_sync_and_a_large_one_is_everything() {
    let (fake, _smmu, domain) = attached(Fake::config());
    map(&*domain, 0x10_1000, 0x8000);
    unmap(&*domain, range(0x10_1000, 0x8000)).unwrap();
    assert_eq!(fake.take_writes().len(), 9);
    map(&*domain, 0x1000, 0x1f_f000);
    map(&*domain, 0x20_0000, 0x1000);
    unmap(&*domain, range(0x1000, 0x20_0000)).unwrap();
    assert_eq!(fake.take_writes(), [(fake.bank(0, TLBIASID), 0), (fake.bank(0, TLBSYNC), 0)]);
}

#[test]
fn addresses_that_no_table_has_need_not_be_forgotten() {
    for stage in [Stage::One, Stage::Two] {
        let (fake, _smmu, domain) = attached(Config { stage, ..Fake::config() });
        let aperture = domain.aperture();
        // Whoever undoes a map that was refused names them.
        let mut gather = Gather::new();
        gather.add(range(0x0fff_0000_0000_0000, 0x1000), SizeLg2::KIB_4, true);
        domain.sync(&mut gather).map(drop).unwrap();
        assert_eq!(fake.take_writes(), []);
        gather.add(range(aperture.last().get() - 0xfff, 0x2000), SizeLg2::KIB_4, true);
        domain.sync(&mut gather).map(drop).unwrap();
        assert_eq!(fake.take_writes().len(), 2, "the page that the domain has");
    }
}

#[test]
fn the_asid_stands_in_what_is_forgotten() {
    let (fake, smmu, _other) = attached(Fake::config());
    let domain = smmu.new_domain().unwrap();
    map(&*domain, 0x5000, 0x2000);
    fake.take_writes();
    unmap(&*domain, range(0x5000, 0x1000)).unwrap();
    assert_eq!(fake.take_writes()[0], (fake.bank(1, TLBIVAL), 1 << 48 | 5));
    domain.flush_all().map(drop).unwrap();
    assert_eq!(fake.take_writes()[0], (fake.bank(1, TLBIASID), 1));
}

#[test]
fn a_bus_that_splits_writes_gets_none_that_may_not_be_split() {
    let (fake, _smmu, domain) = attached(Config { wide_writes: false, ..Fake::config() });
    map(&*domain, 0x5000, 0x2000);
    unmap(&*domain, range(0x5000, 0x1000)).unwrap();
    assert_eq!(fake.take_writes()[0], (fake.bank(0, TLBIASID), 0));
}

#[test]
fn stage_2_is_forgotten_by_its_own_operations_and_a_vmid_by_the_global_sync() {
    let (fake, _smmu, domain) = attached(Config { stage: Stage::Two, ..Fake::config() });
    assert_eq!(fake.get(fake.global1(cbar(0))), 0x0000_0001, "a VMID of its own");
    assert_eq!(fake.get_bank(0, SCTLR), 0x0167);
    map(&*domain, 0x5000, 0x2000);
    unmap(&*domain, range(0x5000, 0x1000)).unwrap();
    assert_eq!(fake.take_writes(), [(fake.bank(0, TLBIIPAS2L), 5), (fake.bank(0, TLBSYNC), 0)]);
    domain.flush_all().map(drop).unwrap();
    assert_eq!(fake.take_writes(), [(TLBIVMID, 1), (TLBGSYNC, 0)]);
}

#[test]
fn a_sync_that_does_not_end_proves_nothing_and_frees_nothing() {
    let (fake, smmu, domain) = attached(Fake::config());
    map(&*domain, 0x5000, 0x1000);
    let mut gather = Gather::new();
    domain.unmap(range(0x5000, 0x1000), &mut gather).unwrap();
    let held = fake.live_bytes();
    fake.with(|state| state.stuck = true);
    let timeout = SyncError::Timeout { waiting_for: "SMMU_CBn_TLBSTATUS to be idle", last: 1 };
    assert_eq!(domain.sync(&mut gather).map(drop), Err(timeout));
    assert!(!gather.is_empty() && fake.live_bytes() == held, "it is as it was, for another try");
    assert_eq!((smmu.handle_errors(), smmu.handle_errors()), (vec![GlobalError::ServiceFailure], vec![]));
    fake.with(|state| state.stuck = false);
    domain.sync(&mut gather).map(drop).unwrap();
    assert!(gather.is_empty() && fake.live_bytes() < held);
}

#[test]
fn a_bank_that_may_be_remembered_is_nobodys_and_its_tables_stay_until_hardware_confirms_or_is_off() {
    for by_turning_off in [false, true] {
        let (fake, smmu) = ready(Fake::config());
        let empty = fake.live_bytes();
        let domain = smmu.new_domain().unwrap();
        map(&*domain, 0x5000, 0x1000);
        // A buffer that hardware may reach through it.
        let layout = BlockLayout::naturally_aligned(12);
        domain.keep(fake.alloc_buffer(layout).unwrap(), layout);
        let held = fake.live_bytes();
        fake.with(|state| state.stuck = true);
        drop(domain);
        assert_eq!(smmu.handle_errors(), [GlobalError::ServiceFailure]);
        assert_eq!((fake.get_bank(0, SCTLR), fake.live_bytes()), (0, held));
        fake.with(|state| state.stuck = false);
        let next: Vec<_> = (0..3).map(|_| smmu.new_domain().unwrap()).collect();
        assert!(matches!(smmu.new_domain(), Err(DomainError::NoIds)), "one bank less");
        drop(next);
        if by_turning_off {
            smmu.teardown().unwrap();
            assert_eq!(fake.live_bytes(), 0);
            continue;
        }
        fake.take_writes();
        assert_eq!((smmu.handle_errors(), fake.live_bytes()), (vec![], empty));
        assert_eq!(fake.get(fake.global1(cbar(0))), 0x0002_0000, "no way around");
        assert!(!fake.take_writes().is_empty());
        smmu.handle_errors();
        assert_eq!(fake.take_writes(), [], "once");
        let all: Vec<_> = (0..4).map(|_| smmu.new_domain().unwrap()).collect();
        drop(all);
    }
}

#[test]
fn a_dropped_domain_gives_everything_back_and_leaves_no_way_around() {
    let fake = Fake::new();
    let smmu = fake.probe(Fake::config());
    let domain = smmu.new_domain().unwrap();
    map(&*domain, 0x5000, 0x1000);
    fake.take_writes();
    drop(domain);
    assert_eq!(fake.live_bytes(), 0);
    let at = |at: usize| fake.with(|state| state.writes.iter().position(|&(register, _)| register == at));
    let (off, forgotten, left) = (fake.bank(0, SCTLR), fake.bank(0, TLBIASID), fake.global1(cbar(0)));
    // The operation is about the VMID that the bank still has.
    assert!(at(off) < at(forgotten) && at(forgotten) < at(left) && at(off).is_some());
    assert_eq!(fake.get(fake.global1(cbar(0))), 0x0002_0000);
}

#[test]
fn what_a_device_was_attached_to_is_forgotten_before_attach_returns() {
    let (fake, smmu, domain) = attached(Fake::config());
    smmu.attach(&GPU, &Target::Identity).unwrap();
    assert_eq!(fake.table(), [(0x400, 0x3f, BYPASS, 0)]);
    let bank = |register| fake.bank(0, register);
    assert_eq!(fake.take_writes(), [(s2cr(0), 0x0001_0000), (bank(TLBIASID), 0), (bank(TLBSYNC), 0)]);
    smmu.attach(&GPU, &Target::Domain(domain)).unwrap();
    let after_passing: Vec<usize> = fake.take_writes().iter().map(|&(at, _)| at).collect();
    assert!(after_passing.contains(&TLBIALLNSNH) && after_passing.contains(&TLBGSYNC));
}

#[test]
fn an_attach_that_is_not_confirmed_leaves_the_device_as_it_was() {
    let (fake, smmu, _domain) = attached(Fake::config());
    fake.with(|state| state.stuck = true);
    let refused = smmu.attach(&GPU, &Target::Identity);
    assert!(matches!(refused, Err(AttachError::Sync(SyncError::Timeout { .. }))));
    assert_eq!(fake.table(), [(0x400, 0x3f, TRANSLATE, 0)]);
}

#[test]
fn a_bank_to_which_an_attach_led_that_was_not_confirmed_is_turned_off_when_nothing_is_under_way_by_it() {
    let (fake, smmu, domain) = attached(Fake::config());
    let next = smmu.new_domain().unwrap();
    let on = fake.get_bank(1, SCTLR);
    fake.with(|state| state.stuck = true);
    let refused = smmu.attach(&GPU, &Target::Domain(next.clone()));
    assert!(matches!(refused, Err(AttachError::Sync(SyncError::Timeout { .. }))), "{refused:?}");
    drop(next);
    assert_eq!(fake.get_bank(1, SCTLR), on, "what arrived meanwhile would get through");
    fake.with(|state| state.stuck = false);
    fake.take_writes();
    smmu.handle_errors();
    let bank = |register| fake.bank(1, register);
    let writes = fake.take_writes();
    let at = |wanted: (usize, u64)| writes.iter().position(|&write| write == wanted).unwrap();
    assert!(at((bank(TLBSYNC), 0)) < at((bank(SCTLR), 0)), "{writes:x?}");
    let last = |wanted: usize| writes.iter().rposition(|&(at, _)| at == wanted).unwrap();
    assert!(last(bank(SCTLR)) < last(bank(TLBIASID)) && last(bank(TLBIASID)) < last(bank(TLBSYNC)));
    drop((smmu, domain));
    assert_eq!(fake.live_bytes(), 0);
}

#[test]
fn one_that_is_to_be_blocked_is_blocked_whether_or_not_that_is_confirmed() {
    let (fake, smmu, domain) = attached(Fake::config());
    fake.with(|state| state.stuck = true);
    let weak = Arc::downgrade(&domain);
    drop(domain);
    assert!(matches!(smmu.attach(&GPU, &Target::Blocked), Err(AttachError::LeftBlocked(_))));
    assert_eq!(fake.table(), [(0x400, 0x3f, FAULT, 0)]);
    assert!(weak.upgrade().is_some(), "what it was attached to may be in use for ever");
}

#[test]
fn what_hardware_did_not_confirm_to_have_left_is_waited_for_by_whatever_comes_next() {
    let (block, remove): (&Step, &Step) =
        (&|smmu| smmu.attach(&GPU, &Target::Blocked).is_ok(), &|smmu| smmu.remove_device(&GPU).is_ok());
    let pass: &Step = &|smmu| smmu.attach(&GPU, &Target::Identity).is_ok();
    for unconfirmed in [block, remove] {
        for (next, table) in
            [(block, vec![(0x400, 0x3f, FAULT, 0)]), (remove, vec![]), (pass, vec![(0x400, 0x3f, BYPASS, 0)])]
        {
            let (fake, smmu, domain) = attached(Fake::config());
            let weak = Arc::downgrade(&domain);
            drop(domain);
            fake.with(|state| state.stuck = true);
            assert!(!unconfirmed(&smmu) && !next(&smmu) && !next(&smmu), "it is asked each time");
            assert_eq!((fake.table(), weak.strong_count()), (vec![(0x400, 0x3f, FAULT, 0)], 1));
            fake.with(|state| state.stuck = false);
            fake.take_writes();
            assert!(next(&smmu));
            let written: Vec<usize> = fake.take_writes().iter().map(|&(at, _)| at).collect();
            assert!(written.contains(&TLBIALLNSNH) && written.contains(&TLBGSYNC));
            assert_eq!((fake.table(), weak.strong_count()), (table, 0), "it is given back with that");
        }
    }
}

#[test]
fn what_hardware_did_not_confirm_to_have_left_is_asked_of_when_errors_are_next_handled() {
    let (block, remove): (&Step, &Step) =
        (&|smmu| smmu.attach(&GPU, &Target::Blocked).is_ok(), &|smmu| smmu.remove_device(&GPU).is_ok());
    for unconfirmed in [block, remove] {
        let (fake, smmu, domain) = attached(Fake::config());
        let weak = Arc::downgrade(&domain);
        drop(domain);
        fake.with(|state| state.stuck = true);
        assert!(!unconfirmed(&smmu));
        assert_eq!(smmu.handle_errors(), [GlobalError::ServiceFailure]);
        assert_eq!((fake.table(), weak.strong_count()), (vec![(0x400, 0x3f, FAULT, 0)], 1));
        fake.with(|state| state.stuck = false);
        assert_eq!(smmu.handle_errors(), []);
        assert_eq!((fake.table(), weak.strong_count()), (vec![(0x400, 0x3f, FAULT, 0)], 0));
        assert_eq!(fake.live_bytes(), 0);
        fake.take_writes();
        smmu.handle_errors();
        assert_eq!(fake.take_writes(), [], "once");
    }
}

#[test]
fn streams_of_firmwares_that_gave_way_unconfirmed_are_waited_for_before_their_group_is_anothers() {
    let fake = left_on();
    let smmu = fake.probe(keeping(&[0x000f_0040]));
    fake.with(|state| state.stuck = true);
    for _ in 0..2 {
        assert!(matches!(smmu.add_device("disk", &[SourceId(0x41)]), Err(AddDeviceError::Sync(_))));
    }
    assert_eq!(fake.table(), [(0x40, 0xf, FAULT, 0)]);
    fake.with(|state| state.stuck = false);
    smmu.add_device("disk", &[SourceId(0x41)]).unwrap();
    assert_eq!(fake.table(), [(0x41, 0, FAULT, 0)]);
}

#[test]
fn a_removed_device_is_a_stream_that_nobody_knows() {
    let (fake, smmu, _domain) = attached(Fake::config());
    smmu.remove_device(&GPU).unwrap();
    assert!(fake.table().is_empty());
    let writes = fake.take_writes();
    let (blocked, forgotten) = ((s2cr(0), 0x0002_0000), (fake.bank(0, TLBIASID), 0));
    assert_eq!((writes[0], writes[1]), (blocked, forgotten));
    assert_eq!(smmu.attach(&GPU, &Target::Blocked), Err(AttachError::UnknownSource(GPU[0])));
    smmu.add_device("other", &GPU).unwrap();
}

#[test]
fn a_device_whose_removal_is_not_confirmed_stays_known_and_blocked() {
    let (fake, smmu, domain) = attached(Fake::config());
    let weak = Arc::downgrade(&domain);
    drop(domain);
    fake.with(|state| state.stuck = true);
    let removed = smmu.remove_device(&GPU);
    assert!(matches!(removed, Err(SyncError::Timeout { .. })), "{removed:?}");
    assert_eq!(fake.table(), [(0x400, 0x3f, FAULT, 0)]);
    let taken = AddDeviceError::Taken { source: GPU[0], by: "gpu".into() };
    assert_eq!(smmu.add_device("other", &GPU), Err(taken));
    assert!(weak.upgrade().is_some(), "what it was attached to may be in use for ever");
}

#[test]
fn a_foreign_domain_a_part_of_a_device_and_a_process_are_refused() {
    let (_fake, smmu) = ready(Fake::config());
    let foreign = Fake::new().probe(Fake::config()).new_domain().unwrap();
    assert_eq!(smmu.attach(&GPU, &Target::Domain(foreign)), Err(AttachError::ForeignDomain));
    smmu.add_device("net", &[SourceId(9), SourceId(11)]).unwrap();
    assert_eq!(smmu.attach(&NET, &Target::Identity), Err(AttachError::Unsupported));
}

#[test]
fn streams_that_index_have_the_group_of_their_number() {
    let fake = Fake::new();
    fake.set(IDR0, fake.get(IDR0) & !(1 << 27) & !(0xf << 9) | 3 << 9);
    let smmu = fake.probe(Fake::config());
    smmu.add_device("gpu", &[SourceId(0x0001_0004)]).unwrap();
    smmu.attach(&[SourceId(0x0001_0004)], &Target::Identity).unwrap();
    let kinds: Vec<u32> = (0..8).map(|group| fake.get(s2cr(group)) >> 16 & 3).collect();
    assert_eq!(kinds, [2, 2, 2, 2, 1, 1, 2, 2]);
}

#[test]
fn streams_of_16_bits_are_valid_where_their_group_says_where_they_go() {
    let fake = Fake::new();
    fake.set(IDR0, fake.get(IDR0) | 1 << 8);
    fake.with(|state| state.smr_bits = u32::MAX);
    let smmu = fake.probe(Fake::config());
    assert_eq!(fake.get(CR0) & 1 << 3, 1 << 3);
    smmu.add_device("gpu", &[SourceId(0x00ff_fe00)]).unwrap();
    assert_eq!(fake.take_writes(), [(smr(0), 0x00ff_fe00), (s2cr(0), 0x0002_0400)]);
    smmu.attach(&[SourceId(0x00ff_fe00)], &Target::Identity).unwrap();
    assert_eq!(fake.get(s2cr(0)), 0x0001_0400);
    smmu.remove_device(&[SourceId(0x00ff_fe00)]).unwrap();
    assert_eq!((fake.get(s2cr(0)), fake.get(smr(0))), (0x0002_0000, 0));
}

#[test]
fn masks_that_the_hardware_does_not_hold_are_not_used() {
    let fake = Fake::new();
    fake.with(|state| state.smr_bits = 0x800f_03ff);
    let smmu = fake.probe(Fake::config());
    let refused = smmu.add_device("gpu", &GPU);
    assert!(
        matches!(refused, Err(AddDeviceError::OutOfRange { source, .. }) if source == GPU[0]),
        "{refused:?}"
    );
    smmu.add_device("net", &[SourceId(0x000f_0010)]).unwrap();
}

fn context_fault(fake: &Fake, fsr: u32, fsynr0: u32) {
    fake.set_bank(0, FSR, fsr);
    fake.set_bank(0, FSYNR0, fsynr0);
    fake.set_bank(0, FAR, 0x7000);
    fake.set(fake.global1(cbfrsynra(0)), 0x423);
    fake.take_writes();
}

#[test]
fn a_context_fault_is_read_whole_and_cleared_and_told_of_the_device_whose_stream_it_was() {
    let (fake, smmu, _domain) = attached(Fake::config());
    context_fault(&fake, 0x8000_0402, 0x10);
    let mut seen = Vec::new();
    assert_eq!(smmu.drain_events(&mut |record| seen.push(*record)), 1);
    assert_eq!((seen[0].source, seen[0].reason), (Some(GPU[0]), FaultReason::NotMapped));
    assert_eq!(seen[0].iova, Some(Iova::new(0x7000)));
    assert_eq!(fake.take_writes(), [(fake.bank(0, FSR), 0x8000_0402)]);
    assert_eq!(smmu.counts().of(Operation::LostFaults), 1, "MULTI says that there were others");
    assert_eq!(smmu.drain_events(&mut |_| panic!("it is cleared")), 0);
}

#[test]
fn a_bank_that_says_only_its_format_has_no_fault() {
    let (fake, smmu, _domain) = attached(Fake::config());
    context_fault(&fake, 0x400, 0);
    assert_eq!(smmu.drain_events(&mut |_| panic!("Format is no fault")), 0);
}

#[test]
fn a_blocked_stream_and_an_unknown_one_are_global_faults() {
    let (fake, smmu) = ready(Fake::config());
    for (gfsr, stream, source) in [(1, 0x400, GPU[0]), (2, 0x77, SourceId(0x77))] {
        fake.set(GFSR, gfsr);
        fake.set(GFSYNR0, 0x2);
        fake.set(GFSYNR1, stream);
        fake.set(GFAR, 0x9000);
        let mut seen = Vec::new();
        assert_eq!(smmu.drain_events(&mut |record| seen.push(*record)), 1);
        assert_eq!((seen[0].source, seen[0].reason), (Some(source), FaultReason::Configuration));
        assert_eq!(fake.get(GFSR), 0);
    }
}

fn stalled(fake: &Fake, smmu: &Driver, act: &mut dyn FnMut()) -> Vec<(usize, u64)> {
    context_fault(fake, 0x4000_0402, 0x10);
    assert_eq!(smmu.drain_events(&mut |_| act()), 1);
    fake.take_writes()
}

#[test]
fn a_stalled_transaction_is_retried_if_somebody_mapped_its_page_and_terminated_if_nobody_did() {
    let (fake, smmu, domain) = attached(Config { stall: true, ..Fake::config() });
    assert_eq!((fake.get(CR0) & 1 << 8, fake.get_bank(0, SCTLR)), (0, 0x11e7), "STALLD off, CFCFG on");
    let bank = |register| fake.bank(0, register);
    let let_go = |word| [(bank(FSR), 0x4000_0402), (bank(RESUME), word)];
    assert_eq!(stalled(&fake, &smmu, &mut || ()), let_go(1), "the fault is cleared first");
    assert_eq!(stalled(&fake, &smmu, &mut || map(&*domain, 0x7000, 0x1000)), let_go(0));
    let counts = smmu.counts();
    assert_eq!((counts.of(Operation::Terminate), counts.of(Operation::Retry)), (1, 1));
    assert_eq!(fake.get_bank(0, FSR), 0);
}

#[test]
fn while_somebody_looks_at_a_stalled_transaction_nobody_else_does() {
    let (fake, smmu, _domain) = attached(Config { stall: true, ..Fake::config() });
    let inner = smmu.clone();
    stalled(&fake, &smmu, &mut || assert_eq!(inner.drain_events(&mut |_| panic!("twice")), 0));
}

#[test]
fn a_stalled_transaction_of_a_domain_that_went_meanwhile_lets_go_of_nobody_elses() {
    let (fake, smmu) = ready(Config { stall: true, ..Fake::config() });
    let attach = || {
        let domain = smmu.new_domain().unwrap();
        smmu.attach(&GPU, &Target::Domain(domain)).unwrap();
    };
    attach();
    context_fault(&fake, 0x4000_0402, 0x10);
    let mut told = 0;
    let told = smmu.drain_events(&mut |_| {
        told += 1;
        if told == 1 {
            // Its bank is another's now, and somebody waits in that.
            smmu.attach(&GPU, &Target::Blocked).unwrap();
            attach();
            context_fault(&fake, 0x4000_0408, 0x10);
        }
    });
    assert_eq!(told, 2, "the second one is told of before it is let go");
    let bank = |register| fake.bank(0, register);
    assert_eq!(fake.take_writes(), [(bank(FSR), 0x4000_0408), (bank(RESUME), 1)]);
}

#[test]
fn who_lets_a_stalled_transaction_go_is_never_the_last_who_has_its_domain() {
    let (fake, smmu, domain) = attached(Config { stall: true, ..Fake::config() });
    map(&*domain, 0x7000, 0x1000);
    context_fault(&fake, 0x4000_0402, 0x10);
    let holders = Arc::strong_count(&domain);
    let (looked_at, seen) = (Arc::downgrade(&domain), Arc::new(AtomicUsize::new(0)));
    let told = smmu.drain_events(&mut |_| {
        let (looked_at, seen) = (looked_at.clone(), seen.clone());
        let look = move || seen.store(looked_at.strong_count(), Ordering::SeqCst);
        fake.with(|state| state.before_load = Some(Box::new(look)));
    });
    assert_eq!((told, seen.load(Ordering::SeqCst)), (1, holders), "others may leave it meanwhile");
    assert_eq!(fake.take_writes().last(), Some(&(fake.bank(0, RESUME), 0)));
    // Gone, it has nothing to be looked at.
    drop(domain);
    smmu.attach(&GPU, &Target::Blocked).unwrap();
    assert!(looked_at.upgrade().is_none());
    assert_eq!(fake.live_bytes(), 0);
}

#[test]
fn a_transaction_that_waits_where_its_stream_has_left_is_terminated_and_told_of_and_nobody_elses_is() {
    for (stream, is_its) in [(0x423, true), (9, false)] {
        let (fake, smmu, domain) = attached(Config { stall: true, ..Fake::config() });
        smmu.add_device("net", &NET).unwrap();
        smmu.attach(&NET, &Target::Domain(domain.clone())).unwrap();
        context_fault(&fake, 0x4000_0402, 0x10);
        fake.set(fake.global1(cbfrsynra(0)), stream);
        smmu.attach(&GPU, &Target::Domain(smmu.new_domain().unwrap())).unwrap();
        let writes = fake.take_writes();
        let at = |wanted: (usize, u64)| writes.iter().position(|&write| write == wanted);
        let (ended, synced) = (at((fake.bank(0, RESUME), 1)), at((fake.bank(0, TLBSYNC), 0)).unwrap());
        assert_eq!(ended.is_some_and(|ended| ended < synced), is_its, "{writes:x?}");
        // What is mapped there now is not for who has left.
        map(&*domain, 0x7000, 0x1000);
        let mut told = Vec::new();
        smmu.drain_events(&mut |record| told.push((record.source, record.iova)));
        assert_eq!(told, [(Some(if is_its { GPU[0] } else { NET[0] }), Some(Iova::new(0x7000)))]);
        let resumed = fake.take_writes().contains(&(fake.bank(0, RESUME), 0));
        assert_eq!((resumed, fake.get_bank(0, FSR)), (!is_its, 0));
    }
}

/// Hardware that firmware left on: stream 5 passes, streams 0x40 to 0x4f are translated by bank 2, streams of 9 by bank 1.
fn left_on() -> Arc<Fake> {
    let fake = Fake::new();
    fake.set(CR0, 0);
    (0..8).for_each(|group| fake.set(smr(group), 0));
    for (group, of, to) in [(1, 0x8000_0005, 0x0001_0000), (3, 0x800f_0040, 2), (4, 0x8000_0009, 1)] {
        fake.set(smr(group), of);
        fake.set(s2cr(group), to);
    }
    fake.set(fake.global1(cbar(2)), 0x0001_f300);
    fake.set(fake.global1(cbar(1)), 0x0001_f300);
    fake
}

fn keeping(streams: &[u32]) -> Config {
    Config { boot_streams: streams.iter().map(|&id| SourceId(id)).collect(), ..Fake::config() }
}

#[test]
fn streams_of_firmwares_keep_what_they_have_and_nobody_else_does() {
    let fake = left_on();
    let _smmu = Smmu::probe(fake.clone(), fake.clone(), keeping(&[5, 0x000f_0040, 0x60])).unwrap();
    let wanted = [(0x60, 0, BYPASS, 0), (5, 0, BYPASS, 0), (0x40, 0xf, TRANSLATE, 2)];
    assert_eq!(fake.table(), wanted);
    assert_eq!((fake.get_bank(2, SCTLR), fake.get_bank(1, SCTLR)), (u32::MAX, 0));
    let writes = fake.take_writes();
    let touched = |at: usize| writes.iter().any(|&(register, _)| register == at);
    assert!([smr(1), s2cr(1), smr(3), s2cr(3)].into_iter().all(|at| !touched(at)), "not a moment without");
    let at = |wanted: (usize, u64)| writes.iter().position(|&write| write == wanted).unwrap();
    let blocked = at((s2cr(4), 0x0002_0000));
    let unmatched = at((smr(4), 0));
    let nobody_passes = at((CR0, 0x0020_0400));
    assert!(blocked < nobody_passes && nobody_passes < unmatched, "others do not get through in between");
}

#[test]
fn a_stream_that_firmware_leads_nowhere_keeps_that_and_gets_no_way_around() {
    let fake = left_on();
    // A group of stream 7 that says "fault", and one of 0x80 to 0x8f.
    for (group, of) in [(5, 0x8000_0007), (6, 0x800f_0080)] {
        fake.set(smr(group), of);
        fake.set(s2cr(group), 0x0002_0000);
    }
    let smmu = Smmu::probe(fake.clone(), fake.clone(), keeping(&[5, 7, 0x85])).unwrap();
    let wanted = [(5, 0, BYPASS, 0), (7, 0, FAULT, 0), (0x80, 0xf, FAULT, 0)];
    assert_eq!(fake.table(), wanted);
    // Their devices come as those of others do.
    for stream in [7u16, 0x85] {
        let source = [SourceId(stream.into())];
        smmu.add_device("display", &source).unwrap();
        smmu.attach(&source, &Target::Identity).unwrap();
        assert!(fake.table().contains(&(stream, 0, BYPASS, 0)), "{:x?}", fake.table());
        smmu.remove_device(&source).unwrap();
    }
    // Where streams index, group 3 says "fault".
    let fake = left_on();
    fake.set(IDR0, fake.get(IDR0) & !(1 << 27) & !(0xf << 9) | 3 << 9);
    [0, 0, 0x0001_0000, 0x0002_0000].into_iter().enumerate().for_each(|(at, to)| fake.set(s2cr(at), to));
    let _smmu = Smmu::probe(fake.clone(), fake.clone(), keeping(&[2, 3])).unwrap();
    assert_eq!([2, 3].map(|group| fake.get(s2cr(group)) >> 16 & 3), [1, 2]);
}

#[test]
fn firmwares_banks_are_turned_off_when_nothing_is_under_way_by_them_any_more() {
    for boot in [&[][..], &[5]] {
        let fake = left_on();
        let _smmu = Smmu::probe(fake.clone(), fake.clone(), keeping(boot)).unwrap();
        let writes = fake.take_writes();
        let at = |wanted: (usize, u64)| writes.iter().position(|&write| write == wanted).unwrap();
        let (ended, off) = (at((TLBGSYNC, 0)), at((fake.bank(2, SCTLR), 0)));
        assert!(at((s2cr(3), 0x0002_0000)) < ended && ended < off, "{writes:x?}");
        assert!(writes[off..].contains(&(TLBGSYNC, 0)), "what they put into TLBs until then is forgotten");
    }
}

#[test]
fn nobody_keeps_anything_unless_asked() {
    let fake = left_on();
    let _smmu = fake.probe(Fake::config());
    assert!(fake.table().is_empty());
}

#[test]
fn a_stream_that_no_group_was_about_passes_until_its_device_is_attached() {
    let fake = Fake::new();
    let smmu = fake.probe(keeping(&[5]));
    assert_eq!(fake.table(), [(5, 0, BYPASS, 0)]);
    smmu.add_device("display", &[SourceId(5)]).unwrap();
    assert_eq!(fake.table(), [(5, 0, BYPASS, 0)], "no glitch");
    let domain = smmu.new_domain().unwrap();
    smmu.attach(&[SourceId(5)], &Target::Domain(domain)).unwrap();
    assert_eq!(fake.table(), [(5, 0, TRANSLATE, 0)]);
    smmu.attach(&[SourceId(5)], &Target::Blocked).unwrap();
    assert_eq!(fake.table(), [(5, 0, FAULT, 0)]);
}

#[test]
fn firmwares_bank_is_nobodys_until_its_last_stream_has_left_it() {
    let fake = left_on();
    let smmu = fake.probe(keeping(&[0x000f_0040]));
    smmu.add_device("display", &[SourceId(0x000f_0040)]).unwrap();
    let domains: Vec<_> = (0..3).map(|_| smmu.new_domain().unwrap()).collect();
    assert!(matches!(smmu.new_domain(), Err(DomainError::NoIds)));
    assert_eq!(fake.get(fake.global1(cbar(0))) & 0xff, 1, "firmware's bank has VMID 0");
    smmu.attach(&[SourceId(0x000f_0040)], &Target::Domain(domains[0].clone())).unwrap();
    assert_eq!((fake.get_bank(2, SCTLR), fake.table()), (0, vec![(0x40, 0xf, TRANSLATE, 0)]));
    assert!(smmu.new_domain().is_ok());
}

#[test]
fn streams_of_firmwares_that_give_way_fault_and_are_waited_for_before_their_group_is_anothers() {
    let fake = left_on();
    let smmu = fake.probe(keeping(&[0x000f_0040]));
    smmu.add_device("disk", &[SourceId(0x41)]).unwrap();
    assert_eq!(fake.table(), [(0x41, 0, FAULT, 0)]);
    let writes = fake.take_writes();
    let at = |wanted: (usize, u64)| writes.iter().position(|&write| write == wanted).unwrap();
    let (blocked, waited) = (at((s2cr(3), 0x0002_0000)), at((TLBGSYNC, 0)));
    assert!(blocked < waited && waited < at((smr(3), 0)), "{writes:x?}");
    let fake = left_on();
    let smmu = fake.probe(keeping(&[0x000f_0040]));
    fake.with(|state| state.stuck = true);
    assert!(matches!(smmu.add_device("disk", &[SourceId(0x41)]), Err(AddDeviceError::Sync(_))));
    assert_eq!(fake.table(), [(0x40, 0xf, FAULT, 0)], "blocked, and nobody's");
}

#[test]
fn firmwares_bank_that_may_be_remembered_is_nobodys_until_hardware_has_forgotten_it() {
    let fake = left_on();
    let smmu = fake.probe(keeping(&[0x000f_0040]));
    smmu.add_device("display", &[SourceId(0x000f_0040)]).unwrap();
    let held = [smmu.new_domain().unwrap(), smmu.new_domain().unwrap(), smmu.new_domain().unwrap()];
    // What leaves is confirmed, and what the bank put into TLBs is not.
    fake.take_writes();
    fake.with(|state| state.syncs_that_end = Some(1));
    smmu.attach(&[SourceId(0x000f_0040)], &Target::Blocked).unwrap();
    fake.with(|state| state.syncs_that_end = None);
    let bank_off = fake.take_writes().iter().position(|&write| write == (fake.bank(2, SCTLR), 0));
    assert!(bank_off.is_some());
    assert!(matches!(smmu.new_domain(), Err(DomainError::NoIds)), "one bank less");
    fake.with(|state| state.stuck = true);
    smmu.handle_errors();
    assert!(matches!(smmu.new_domain(), Err(DomainError::NoIds)), "it is asked again, and not confirmed");
    fake.with(|state| state.stuck = false);
    smmu.handle_errors();
    assert_eq!(fake.get(fake.global1(cbar(2))), 0x0002_0000, "no way around");
    assert!(smmu.new_domain().is_ok());
    drop(held);
}

#[test]
fn a_bank_of_firmwares_by_which_something_may_be_under_way_is_not_turned_off() {
    // Whoever is under way there when translation is turned off gets through.
    let fake = left_on();
    let smmu = fake.probe(keeping(&[0x000f_0040]));
    smmu.add_device("display", &[SourceId(0x000f_0040)]).unwrap();
    smmu.add_device("net", &NET).unwrap();
    let on = fake.get_bank(2, SCTLR);
    fake.with(|state| state.stuck = true);
    let blocked = smmu.attach(&[SourceId(0x000f_0040)], &Target::Blocked);
    assert!(matches!(blocked, Err(AttachError::LeftBlocked(SyncError::Timeout { .. }))), "{blocked:?}");
    fake.with(|state| state.stuck = false);
    smmu.attach(&NET, &Target::Identity).unwrap();
    assert_eq!(fake.get_bank(2, SCTLR), on);
    smmu.handle_errors();
    assert_eq!((fake.get_bank(2, SCTLR), on != 0), (0, true));
}

#[test]
fn streams_of_which_firmwares_group_has_a_part_pass_with_the_others() {
    let fake = left_on();
    let _smmu = fake.probe(keeping(&[0x001f_0040]));
    assert_eq!(fake.table(), [(0x50, 0xf, BYPASS, 0), (0x40, 0xf, TRANSLATE, 2)]);
    let fake = Fake::new();
    fake.set(IDR0, fake.get(IDR0) & !(1 << 27) & !(0xf << 9) | 3 << 9);
    let _smmu = fake.probe(keeping(&[0x0001_0004]));
    let kinds: Vec<u32> = (0..8).map(|group| fake.get(s2cr(group)) >> 16 & 3).collect();
    assert_eq!(kinds, [2, 2, 2, 2, 1, 1, 2, 2]);
}

#[test]
fn a_bank_of_stage_2_that_firmwares_bank_leads_to_is_kept_with_it_and_one_that_is_not_there_is_not_looked_for()
 {
    // SMMU_CBARn.TYPE 0b11: stage 1, then stage 2 by the bank in CBNDX, bits 15:8.
    let nested = |to: u32| {
        let fake = left_on();
        fake.set(fake.global1(cbar(2)), 0x0003_0000 | to << 8);
        let _smmu = Smmu::probe(fake.clone(), fake.clone(), keeping(&[0x000f_0040])).unwrap();
        [0, 1, 2, 3].map(|bank| fake.get_bank(bank, SCTLR) != 0)
    };
    assert_eq!(nested(3), [false, false, true, true]);
    assert_eq!(nested(200), [false, false, true, false]);
}

#[test]
fn streams_that_cannot_be_kept_fail_the_probe_and_leave_no_way_around() {
    let fake = Fake::new();
    let apart: Vec<u32> = (0..9).map(|at| 0x31 * at).collect();
    let probed = Smmu::probe(fake.clone(), fake.clone(), keeping(&apart));
    assert!(matches!(probed, Err(ProbeError::BootStreams)));
    assert_eq!((fake.get(CR0), fake.table()), (0x0020_1d12, vec![]), "nor those that fit");
    for fake in [Fake::new(), left_on()] {
        fake.with(|state| state.stuck = true);
        let probed = Smmu::probe(fake.clone(), fake.clone(), keeping(&[5, 0x000f_0040]));
        assert!(matches!(probed, Err(ProbeError::Timeout { .. })));
        assert_eq!((fake.get(CR0) & 1, fake.table()), (0, vec![]), "nobody will be there to attach them");
    }
}

#[test]
fn after_teardown_nobody_gets_through_and_everything_is_given_back() {
    let (fake, smmu, domain) = attached(Fake::config());
    map(&*domain, 0x5000, 0x1000);
    smmu.teardown().unwrap();
    smmu.teardown().unwrap();
    assert!(fake.table().is_empty() && (0..4).all(|bank| fake.get_bank(bank, SCTLR) == 0));
    assert_eq!(fake.get(CR0) & 1, 0);
    unmap(&*domain, range(0x5000, 0x1000)).unwrap();
    drop(domain);
    assert_eq!(fake.live_bytes(), 0);
    assert_eq!(fake.get(CR0) & 0b10_0100, 0, "nobody is interrupted for who tries to");
    assert_eq!(smmu.new_domain().err(), Some(DomainError::Unsupported));
    assert_eq!(smmu.add_device("net", &NET), Err(AddDeviceError::Sync(OFF)));
}

/// It has been turned off, or somebody has begun to.
const OFF: SyncError = SyncError::Timeout { waiting_for: "an SMMU that is on", last: 0 };

/// What hardware says that does not forget.
fn hung(down: Result<(), SyncError>) -> bool {
    matches!(down, Err(SyncError::Timeout { waiting_for: "SMMU_TLBGSTATUS to be idle", last: 1 }))
}

#[test]
fn a_teardown_that_is_not_confirmed_keeps_what_the_hardware_may_read_and_nobody_gets_through() {
    let (fake, smmu, domain) = attached(Fake::config());
    map(&*domain, 0x5000, 0x1000);
    let held = fake.live_bytes();
    fake.with(|state| state.stuck = true);
    assert!(hung(smmu.teardown()));
    drop(domain);
    assert_eq!((fake.live_bytes(), fake.table()), (held, vec![]));
    fake.with(|state| state.stuck = false);
    smmu.teardown().unwrap();
    assert_eq!(fake.live_bytes(), 0);
}

#[test]
fn after_a_teardown_that_was_not_confirmed_nobody_is_led_to_a_bank_that_is_off() {
    let indexed = |fake: &Fake| fake.set(IDR0, fake.get(IDR0) & !(1 << 27) & !(0xf << 9) | 3 << 9);
    let extended = |fake: &Fake| {
        fake.set(IDR0, fake.get(IDR0) | 1 << 8);
        fake.with(|state| state.smr_bits = u32::MAX);
    };
    let matching = |_: &Fake| {};
    for hardware in [&matching as &dyn Fn(&Fake), &indexed, &extended] {
        let fake = Fake::new();
        hardware(&fake);
        let smmu = fake.probe(Fake::config());
        let one = [SourceId(4)];
        smmu.add_device("net", &one).unwrap();
        let domain = smmu.new_domain().unwrap();
        smmu.attach(&one, &Target::Domain(domain.clone())).unwrap();
        // The banks are off, and what came from them is not forgotten.
        fake.with(|state| state.syncs_that_end = Some(1));
        assert!(hung(smmu.teardown()));
        fake.with(|state| state.syncs_that_end = None);
        assert_eq!(fake.get_bank(0, SCTLR), 0);
        for target in [Target::Domain(domain), Target::Identity] {
            assert_eq!(smmu.attach(&one, &target), Err(AttachError::Unsupported));
        }
        assert_eq!(smmu.add_device("disk", &[SourceId(6)]), Err(AddDeviceError::Sync(OFF)));
        assert_eq!(fake.get(CR0) >> 3 & 1, fake.get(IDR0) >> 8 & 1, "the format of StreamIDs stays");
        smmu.handle_errors();
        smmu.attach(&one, &Target::Blocked).unwrap();
        assert!((0..8).all(|group| fake.get(s2cr(group)) >> 16 & 3 == u32::from(FAULT)));
        smmu.remove_device(&one).unwrap();
        smmu.teardown().unwrap();
        assert_eq!(fake.live_bytes(), 0);
    }
}

#[test]
fn at_teardown_a_bank_is_turned_off_when_nothing_is_under_way_by_it_any_more_and_forgotten_then() {
    let (fake, smmu, _domain) = attached(Fake::config());
    smmu.teardown().unwrap();
    let writes = fake.take_writes();
    let at = |wanted: (usize, u64)| writes.iter().position(|&write| write == wanted).unwrap();
    let off = at((fake.bank(0, SCTLR), 0));
    assert!(at((s2cr(0), 0x0002_0000)) < at((TLBGSYNC, 0)) && at((TLBGSYNC, 0)) < off, "{writes:x?}");
    let forgotten = writes[off..].iter().position(|&(at, _)| at == TLBIALLNSNH).unwrap();
    let synced = writes[off..].iter().rposition(|&(at, _)| at == TLBGSYNC).unwrap();
    assert!(forgotten < synced, "{writes:x?}");
    let (fake, smmu, _domain) = attached(Fake::config());
    let on = fake.get_bank(0, SCTLR);
    fake.with(|state| state.stuck = true);
    assert!(hung(smmu.teardown()));
    assert_eq!((fake.get_bank(0, SCTLR), fake.table()), (on, vec![]));
}

#[test]
fn an_smmu_that_is_let_go_of_is_turned_off_first_and_keeps_what_hardware_may_read_if_it_does_not_stop() {
    let attached = || {
        let (fake, smmu, domain) = attached(Fake::config());
        (fake, smmu, Arc::downgrade(&domain))
    };
    let (fake, smmu, domain) = attached();
    drop(smmu);
    assert!(fake.table().is_empty() && domain.upgrade().is_none());
    assert_eq!(fake.live_bytes(), 0);
    let (fake, smmu, domain) = attached();
    let held = fake.live_bytes();
    fake.with(|state| state.stuck = true);
    drop(smmu);
    assert!(fake.table().is_empty(), "nobody gets through all the same");
    assert!(domain.upgrade().is_some());
    assert_eq!(fake.live_bytes(), held);
}

#[test]
fn walks_snoop_only_where_firmware_and_hardware_both_say_so() {
    let shared = |firmware, hardware: bool| {
        let fake = Fake::new();
        // SMMU_IDR0.CTTW.
        fake.set(IDR0, if hardware { fake.get(IDR0) } else { fake.get(IDR0) & !(1 << 14) });
        let smmu = fake.probe(Config { coherent: firmware, ..Fake::config() });
        let _domain = smmu.new_domain().unwrap();
        (smmu.capabilities().coherent_walk, fake.get_bank(0, TCR))
    };
    assert_eq!(shared(true, true), (true, 0x0080_3510));
    for (firmware, hardware) in [(true, false), (false, true), (false, false)] {
        assert_eq!(shared(firmware, hardware), (false, 0x0080_2010));
    }
}

#[test]
fn a_granule_of_the_hardwares_is_used_if_it_is_wished() {
    let (_fake, smmu, domain) = attached(Config { granule: Some(SizeLg2::KIB_64), ..Fake::config() });
    assert_eq!(domain.page_sizes().smallest(), Some(SizeLg2::KIB_64));
    assert_eq!(smmu.capabilities().page_sizes, domain.page_sizes());
    let regions = smmu.reserved_regions(&GPU);
    assert_eq!(
        (regions[0].range, regions[0].kind),
        (range(0x800_0000, 0x10_0000), ReservedKind::SoftwareMsi)
    );
}
