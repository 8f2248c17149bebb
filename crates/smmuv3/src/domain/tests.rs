extern crate std;

use portcullis_core::iommu::{AttachError, Iommu, Target};
use portcullis_hal::{DmaMemory, TableMemory};
use portcullis_spec::smmuv3::command::Opcode;
use portcullis_spec::smmuv3::registers::{IDR0, IDR3, Idr0};
use portcullis_types::{Perms, SourceId};

use super::*;
use crate::config::{Config, Stage};
use crate::smmu::Smmu;
use crate::testing::{Fake, opcodes};

type FakeSmmu = Arc<Smmu<Fake, Arc<Fake>>>;
type FakeDomain = Arc<dyn HwDomain<Fake>>;

const RW: Prot = Prot::cached(Perms::READ_WRITE);
const GIB: u64 = 1 << 30;

fn with(config: Config) -> (Arc<Fake>, FakeSmmu) {
    let fake = Fake::new();
    let smmu = Smmu::probe(fake.clone(), fake.clone(), config).unwrap();
    smmu.add_device("disk", &[SourceId(8)]).unwrap();
    fake.take_log();
    (fake, smmu)
}

fn domain() -> (Arc<Fake>, FakeSmmu, FakeDomain) {
    let (fake, smmu) = with(Fake::config());
    let domain = smmu.new_domain().unwrap();
    (fake, smmu, domain)
}

fn range(first: u64, len_bytes: u64) -> IovaRange {
    IovaRange::new(Iova::new(first), len_bytes).unwrap()
}

/// Maps page by page, at outputs that make no larger leaf.
fn map_pages(domain: &FakeDomain, first: u64, count: u64) {
    for page in 0..count {
        let pa = Pa::new(0x1000_0000 + (page ^ 1) * 0x1000);
        domain.map(Iova::new(first + page * 0x1000), pa, 0x1000, RW).unwrap();
    }
}

fn unmap(domain: &FakeDomain, first: u64, len_bytes: u64) -> Gather {
    let mut gather = Gather::new();
    domain.unmap(range(first, len_bytes), &mut gather).unwrap();
    gather
}

/// The words of the entry of stream 8, as hardware finds them.
fn ste(fake: &Fake) -> Ste {
    let level1 = fake.get(portcullis_spec::smmuv3::registers::STRTAB_BASE) & 0x00ff_ffff_ffff_ffc0;
    let leaf = fake.load(Pa::new(level1)) & 0x00ff_ffff_ffff_ffc0;
    core::array::from_fn(|word| fake.load(Pa::new(leaf + 8 * 64 + 8 * word as u64)))
}

#[test]
fn unmapping_a_gibibyte_is_one_range_and_one_sync() {
    let (fake, _smmu, domain) = domain();
    domain.map(Iova::new(GIB), Pa::new(0x10_0000_0000), GIB, RW).unwrap();
    let mut gather = unmap(&domain, GIB, GIB);
    let _ = domain.sync(&mut gather).unwrap();
    assert!(gather.is_empty());
    // TLBI_NH_VA, NUM 0, SCALE 18, ASID 1; TG 4 KiB, at 1 GiB, all levels: the block's table went with it.
    let log = fake.take_log();
    assert_eq!(log[0].0, [0x0001_0000_0120_0012, 0x4000_0400]);
    assert_eq!(opcodes(&log), [Opcode::TLBI_NH_VA, Opcode::SYNC]);
}

#[test]
fn where_tables_went_the_leaf_hint_is_not_given_and_the_tables_wait() {
    let (fake, _smmu, domain) = domain();
    let empty = fake.live_bytes();
    map_pages(&domain, GIB, 600);
    let full = fake.live_bytes();
    let mut gather = unmap(&domain, GIB, 600 << 12);
    assert!(gather.tables());
    assert_eq!(fake.live_bytes(), full, "hardware may still walk them");
    let _ = domain.sync(&mut gather).unwrap();
    assert!(fake.take_log().iter().filter(|c| c.opcode() == Opcode::TLBI_NH_VA).all(|c| c.0[1] & 1 == 0));
    assert_eq!(fake.live_bytes(), empty);
}

#[test]
fn a_sync_that_fails_keeps_gather_and_tables_for_the_next() {
    let (fake, _smmu, domain) = domain();
    let empty = fake.live_bytes();
    map_pages(&domain, GIB, 3);
    let full = fake.live_bytes();
    let mut gather = unmap(&domain, GIB, 3 << 12);
    let before = gather.clone();
    fake.with(|state| state.illegal.push(Opcode::TLBI_NH_VA));
    assert_eq!(domain.sync(&mut gather).unwrap_err(), SyncError::Failed { code: 1 });
    assert_eq!((&gather, fake.live_bytes()), (&before, full));
    fake.with(|state| state.illegal.clear());
    let _ = domain.sync(&mut gather).unwrap();
    assert_eq!(fake.live_bytes(), empty);
}

#[test]
fn addresses_that_no_table_has_need_not_be_forgotten() {
    for stage in [Stage::One, Stage::Two] {
        let (fake, smmu) = with(Config { stage, ..Fake::config() });
        let domain = smmu.new_domain().unwrap();
        // Whoever undoes a map that was refused names them; in a command there is no room for them.
        let mut gather = Gather::new();
        gather.add(range(0x0fff_0000_0000_0000, 0x1000), SizeLg2::KIB_4, true);
        let _ = domain.sync(&mut gather).unwrap();
        assert_eq!(fake.take_log(), []);
        let last = domain.aperture().last().get();
        gather.add(range(last - 0xfff, 0x2000), SizeLg2::KIB_4, true);
        let _ = domain.sync(&mut gather).unwrap();
        let log = fake.take_log();
        assert_eq!(log.len(), 2, "{log:?}");
        assert_eq!(log[0].0[1] & !0xfff, last - 0xfff, "the page that the domain has");
    }
}

#[test]
fn a_sync_frees_nothing_that_it_does_not_cover() {
    let (fake, _smmu, domain) = domain();
    map_pages(&domain, GIB, 1);
    map_pages(&domain, 5 * GIB, 1);
    let mut one = unmap(&domain, GIB, 0x1000);
    let mut other = unmap(&domain, 5 * GIB, 0x1000);
    let both = fake.live_bytes();
    let _ = domain.sync(&mut one).unwrap();
    let half = fake.live_bytes();
    assert!(half < both);
    let _ = domain.sync(&mut other).unwrap();
    assert!(fake.live_bytes() < half);
}

#[test]
fn without_ranges_many_pages_are_one_asid_and_few_are_single() {
    let (fake, smmu) = with(Config { range_invalidation: false, ..Fake::config() });
    let domain = smmu.new_domain().unwrap();
    map_pages(&domain, GIB, 600);
    let _ = domain.sync(&mut unmap(&domain, GIB, 3 << 12)).unwrap();
    assert_eq!(opcodes(&fake.take_log()), [[Opcode::TLBI_NH_VA; 3].as_slice(), &[Opcode::SYNC]].concat());
    let _ = domain.sync(&mut unmap(&domain, GIB, 600 << 12)).unwrap();
    assert_eq!(fake.take_log(), [Command::tlbi_nh_asid(0, 1), Command::sync()]);
}

#[test]
fn hardware_without_ranges_is_not_told_of_any() {
    let fake = Fake::new();
    fake.set(IDR3, 0);
    let smmu = Smmu::probe(fake.clone(), fake.clone(), Fake::config()).unwrap();
    let domain = smmu.new_domain().unwrap();
    map_pages(&domain, GIB, 40);
    fake.take_log();
    let _ = domain.sync(&mut unmap(&domain, GIB, 40 << 12)).unwrap();
    let log = fake.take_log();
    assert_eq!(log.len(), 41);
    // NUM, SCALE, TTL and TG are reserved then.
    assert!(log[..40].iter().all(|c| c.0[0] & 0x03f1_f000 == 0 && c.0[1] & 0xf80 == 0));
}

#[test]
fn stage_1_has_the_words_of_the_book() {
    let (fake, smmu, domain) = domain();
    smmu.attach(&[SourceId(8)], &Target::Domain(domain.clone())).unwrap();
    let ste = ste(&fake);
    let cd_at = ste[0] & 0x00ff_ffff_ffff_ffc0;
    // V, Config 0b101, one CD; S1CIR, S1COR write-back, S1CSH inner.
    assert_eq!(ste[0] & !0x00ff_ffff_ffff_ffc0, 0b1011);
    assert_eq!(ste[1..], [0xd4, 0, 0, 0, 0, 0, 0]);
    let cd: [u64; 8] = core::array::from_fn(|word| fake.load(Pa::new(cd_at + 8 * word as u64)));
    // ASID 1, ASET, A, R, AA64, IPS 48, V, EPD1, SH0 inner, OR0 and IR0 write-back, T0SZ 16.
    assert_eq!(cd[0], 0x0001_e205_c000_3510);
    assert_eq!((cd[1] & 0xfff, cd[2], cd[3], cd[4]), (0, 0, 0x04ff44, 0));
    domain.map(Iova::new(0), Pa::new(0x8000_0000), 0x1000, RW).unwrap();
    assert_ne!(fake.load(Pa::new(cd[1])), 0, "TTB0 is where the domain maps");
}

#[test]
fn stage_2_has_the_words_of_the_book() {
    let (fake, smmu) = with(Config { stage: Stage::Two, ..Fake::config() });
    let domain = smmu.new_domain().unwrap();
    smmu.attach(&[SourceId(8)], &Target::Domain(domain.clone())).unwrap();
    let ste = ste(&fake);
    // V, Config 0b110; SHCFG incoming.
    assert_eq!((ste[0], ste[1]), (0b1101, 1 << 44));
    // VMID 1, T0SZ 16, SL0 2 (level 0), IR0 and OR0 write-back, SH0 inner, TG 4 KiB, PS 48, AA64, R.
    assert_eq!(ste[2], 0x040d_3590_0000_0001);
    domain.map(Iova::new(0), Pa::new(0x8000_0000), 0x1000, RW).unwrap();
    assert_ne!(fake.load(Pa::new(ste[3])), 0, "S2TTB is where the domain maps");
    fake.take_log();
    let _ = domain.sync(&mut unmap(&domain, 0, 0x1000)).unwrap();
    let _ = domain.flush_all().unwrap();
    let log = fake.take_log();
    assert_eq!(opcodes(&log), [Opcode::TLBI_S2_IPA, Opcode::SYNC, Opcode::TLBI_S12_VMALL, Opcode::SYNC],);
    assert_eq!((log[0].0[0] >> 32, log[2].0[0] >> 32), (1, 1), "the VMID, and no ASID");
}

#[test]
fn from_domain_to_domain_is_one_hitless_step() {
    let (fake, smmu, first) = domain();
    let second = smmu.new_domain().unwrap();
    smmu.attach(&[SourceId(8)], &Target::Domain(first)).unwrap();
    fake.take_log();
    smmu.attach(&[SourceId(8)], &Target::Domain(second.clone())).unwrap();
    let log = fake.take_log();
    let ste: Vec<_> = log.iter().filter(|c| c.opcode() == Opcode::CFGI_STE).collect();
    assert_eq!(ste.len(), 1);
    // The first domain went with its last stream: it was forgotten by its ASID.
    assert!(log.contains(&Command::tlbi_nh_asid(0, 1)));
    drop(second);
}

#[test]
fn domains_of_another_smmu_are_refused() {
    let (_fake, smmu, _domain) = domain();
    let (_other_fake, _other, foreign) = domain();
    let outcome = smmu.attach(&[SourceId(8)], &Target::Domain(foreign));
    assert_eq!(outcome, Err(AttachError::ForeignDomain));
}

#[test]
fn a_dropped_domain_gives_everything_back_after_the_hardware_forgot_it() {
    let (fake, smmu) = with(Fake::config());
    let before = fake.live_bytes();
    let domain = smmu.new_domain().unwrap();
    map_pages(&domain, GIB, 5);
    let _gather = unmap(&domain, GIB, 5 << 12);
    map_pages(&domain, 2 * GIB, 5);
    drop(domain);
    assert_eq!(fake.take_log(), [Command::tlbi_nh_asid(0, 1), Command::sync()]);
    assert_eq!(fake.live_bytes(), before);
}

#[test]
fn an_id_that_hardware_may_remember_is_not_given_out_again() {
    let fake = Fake::new();
    fake.set(IDR0, Idr0::from_bits(u32::try_from(fake.get(IDR0)).unwrap()).with_asid16(false).into_bits());
    let smmu = Smmu::probe(fake.clone(), fake.clone(), Fake::config()).unwrap();
    let before = fake.live_bytes();
    fake.with(|state| state.illegal.push(Opcode::TLBI_NH_ASID));
    drop(smmu.new_domain().unwrap());
    assert!(fake.live_bytes() > before, "its table is kept as well");
    fake.with(|state| state.illegal.clear());
    let domains: Vec<_> = core::iter::from_fn(|| smmu.new_domain().ok()).collect();
    assert_eq!(domains.len(), 254);
    let id = |domain: &FakeDomain| domain.as_any().downcast_ref::<Domain<Fake, Arc<Fake>>>().unwrap().id();
    assert!(domains.iter().all(|domain| id(domain) != 1));
    assert_eq!(smmu.new_domain().err(), Some(DomainError::NoIds));
}

#[test]
fn what_a_dropped_domain_left_is_given_back_once_hardware_confirms_and_not_before() {
    let (fake, smmu) = with(Fake::config());
    let before = fake.live_bytes();
    fake.with(|state| state.illegal.push(Opcode::TLBI_NH_ASID));
    for _ in 0..2 {
        let domain = smmu.new_domain().unwrap();
        map_pages(&domain, GIB, 5);
        let _retired = unmap(&domain, GIB, 5 << 12);
        map_pages(&domain, 2 * GIB, 5);
        // A buffer that hardware may reach through it.
        let layout = BlockLayout::naturally_aligned(12);
        domain.keep(fake.alloc_buffer(layout).unwrap(), layout);
    }
    let held = fake.live_bytes();
    smmu.handle_errors();
    assert!(fake.live_bytes() == held && held > before);
    fake.with(|state| state.illegal.clear());
    fake.take_log();
    smmu.handle_errors();
    let asked = [1, 2].map(|asid| [Command::tlbi_nh_asid(0, asid), Command::sync()]);
    assert_eq!((fake.take_log(), fake.live_bytes()), (asked.concat(), before));
    smmu.handle_errors();
    assert_eq!(fake.take_log(), [], "once");
    let again = core::iter::from_fn(|| smmu.new_domain().ok());
    assert_eq!(again.take(0xffff).count(), 0xffff, "every id can be had");
}

#[test]
fn nothing_is_left_of_a_dropped_domain_once_the_smmu_is_off() {
    let (fake, smmu) = with(Fake::config());
    fake.with(|state| state.illegal.push(Opcode::TLBI_NH_ASID));
    drop(smmu.new_domain().unwrap());
    smmu.teardown().unwrap();
    assert_eq!(fake.live_bytes(), 0);
}

#[test]
fn after_teardown_a_domain_goes_without_asking_the_hardware() {
    let (fake, smmu, domain) = domain();
    smmu.attach(&[SourceId(8)], &Target::Domain(domain.clone())).unwrap();
    map_pages(&domain, GIB, 5);
    smmu.teardown().unwrap();
    fake.take_log();
    let _ = domain.sync(&mut unmap(&domain, GIB, 5 << 12)).unwrap();
    drop(domain);
    assert_eq!((fake.take_log(), fake.live_bytes()), (Vec::new(), 0));
}

#[test]
fn threads_that_map_and_unmap_share_a_domain_and_leave_nothing() {
    let (fake, smmu) = with(Config { wait_limit_ns: Fake::PATIENT_NS, ..Fake::config() });
    let domain = smmu.new_domain().unwrap();
    let empty = fake.live_bytes();
    std::thread::scope(|scope| {
        for thread in 0..4u64 {
            let domain = &domain;
            scope.spawn(move || {
                for round in 0..20 {
                    let first = GIB + thread * 0x40_0000 + round * 0x1000;
                    map_pages(domain, first, 8);
                    assert_eq!(domain.lookup(Iova::new(first)), Some((Pa::new(0x1000_1000), RW)));
                    let mut gather = unmap(domain, first, 8 << 12);
                    let _ = domain.sync(&mut gather).unwrap();
                }
            });
        }
    });
    assert_eq!(fake.live_bytes(), empty);
}
