//! Part 8 and part 11: the descriptor of a process, word by word. Part 19: hardware updates. Part 17: exit and unbind. Part 18: invalidations.
//! Parts 13 and 14: kernels at EL2, and broadcasts.

extern crate std;

use alloc::vec;
use core::sync::atomic::Ordering::SeqCst;

use portcullis_core::iommu::{Iommu, Target};
use portcullis_spec::smmuv3::command::{Command, Opcode};
use portcullis_spec::smmuv3::registers::{CMDQ_PROD, CR2, Idr0};
use portcullis_types::{Iova, Pa, SourceId};

use super::*;
use crate::features::IdRegisters;
use crate::testing::{Fake, FakeMm, FakeSwitches, Machine, Shared, cd, opcodes, ste};

fn features(change: impl FnOnce(&mut Features)) -> Features {
    let mut features = Features::decode(&IdRegisters::read(&*Fake::new())).unwrap();
    change(&mut features);
    features
}

fn table(root: u64, granule: SizeLg2, input_bits: u8, output_bits: u8, large: bool) -> ProcessTable {
    let mair = 0x04_ff44;
    let root = Pa::new(root);
    ProcessTable::Vmsa64 { root, granule, input_bits, output_bits, large_descriptors: large, mair }
}

fn range(first: u64, last: u64) -> IovaRange {
    IovaRange::from_ends(Iova::new(first), Iova::new(last)).unwrap()
}

const DEAD: IovaRangeEnds = (0xffff_860e_6000, 0xffff_860e_7fff);
type IovaRangeEnds = (u64, u64);

#[test]
fn part_11_a_4k_process_has_the_words_of_the_book() {
    let cd = descriptor(&features(|_| {}), &table(0x1_2345_6000, SizeLg2::KIB_4, 48, 48, false), 0x42);
    // ASID 0x42, ASET 0 (shared), A, R, AA64, IPS 48, V, EPD1, SH0 inner, OR0 and IR0 write-back allocate, TG0 4 KiB, T0SZ 16.
    assert_eq!(cd, [0x0042_6205_c000_3510, 0x1_2345_6000, 0, 0x04_ff44, 0, 0, 0, 0]);
}

#[test]
fn part_11_granules_and_sizes_follow_the_process_and_the_lesser_output_size() {
    let word0 = |granule, input, output| {
        descriptor(&features(|_| {}), &table(0x10_0000, granule, input, output, false), 1)[0]
    };
    // T0SZ 17, TG0 2, IPS 40 bits; T0SZ 22, TG0 1, IPS 44 bits.
    assert_eq!(word0(SizeLg2::KIB_16, 47, 40), 0x0001_6202_c000_3591);
    assert_eq!(word0(SizeLg2::KIB_64, 42, 44), 0x0001_6204_c000_3556);
    // The SMMU says 48 bits, the process 52.
    assert_eq!(word0(SizeLg2::KIB_64, 48, 52) >> 32 & 7, 5);
}

#[test]
fn part_11_a_52_bit_table_address_is_not_rotated() {
    let features = features(|features| {
        (features.output_bits, features.input_bits, features.large_addresses) = (52, 52, true);
    });
    let root = 0x000f_0000_1234_0000;
    let cd = descriptor(&features, &table(root, SizeLg2::KIB_64, 52, 52, false), 1);
    assert_eq!((cd[0], cd[1], cd[2]), (0x0001_6206_c000_354c, root, 0));
    let cd = descriptor(&features, &table(root, SizeLg2::KIB_4, 52, 52, true), 1);
    assert_eq!((cd[0], cd[1], cd[2]), (0x0001_6206_c000_350c, root, 1 << 58), "DS");
}

#[test]
fn part_19_hardware_updates_are_enabled_as_far_as_the_smmu_has_them() {
    let flags = |access_flag, dirty_state| {
        let features = features(|features| {
            (features.access_flag, features.dirty_state) = (access_flag, dirty_state);
        });
        descriptor(&features, &table(0x1000, SizeLg2::KIB_4, 48, 48, false), 1)[0] >> 42 & 3
    };
    // HD is bit 42, HA bit 43.
    assert_eq!((flags(false, false), flags(true, false), flags(true, true)), (0, 0b10, 0b11));
    for (httu, wanted) in [(0, 0), (1, 0b10), (2, 0b11), (3, 0b11)] {
        let shared = Shared::with(Machine::Pcie, |idr0, _| idr0.set_httu(httu));
        let _bound = shared.bound(0x42, 1);
        assert_eq!(cd(&shared.fake, 8, 1).unwrap()[0] >> 42 & 3, wanted, "IDR0.HTTU {httu}");
        assert_eq!(cd(&shared.fake, 8, 0).unwrap()[0] >> 42 & 3, 0, "private tables are not updated");
    }
}

#[test]
fn part_11_tables_that_the_hardware_cannot_walk_are_refused() {
    let plain = features(|_| {});
    let wide = features(|features| {
        (features.output_bits, features.input_bits, features.large_addresses) = (52, 52, true);
    });
    let four = SizeLg2::KIB_4;
    assert!(can_walk(&plain, &table(0x1000, four, 48, 48, false)));
    assert!(!can_walk(&plain, &table(0x1000, four, 52, 48, true)), "no 52 bits of input");
    assert!(!can_walk(&plain, &table(0x1000, four, 48, 52, false)), "no 52 bits of output");
    assert!(can_walk(&wide, &table(0x1000, four, 52, 52, true)));
    assert!(!can_walk(&wide, &table(0x1000, four, 52, 52, false)), "52 bits of input want large descriptors");
    assert!(!can_walk(&plain, &table(0x1000, four, 24, 48, false)), "no small tables");
    assert!(!can_walk(&plain, &table(0x1000, SizeLg2::MIB_2, 48, 48, false)));
    assert!(!can_walk(&plain, &table(1 << 50, four, 48, 48, false)), "beyond what the SMMU reaches");
    assert!(!can_walk(&plain, &table(1 << 40, four, 48, 40, false)), "beyond what IPS says");
    assert!(!can_walk(&plain, &table(1 << 40, four, 48, 41, false)), "IPS has no 41 bits");
    assert!(can_walk(&plain, &table(1 << 39, four, 48, 40, false)));
    assert!(!can_walk(&wide, &table(1 << 50, four, 48, 52, false)), "beyond 48 bits want large descriptors");
    assert!(can_walk(&wide, &table(1 << 50, SizeLg2::KIB_64, 48, 52, false)));
    let shared = Shared::on(Machine::Pcie);
    let mm = FakeMm::with_table(7, table(0x1000, four, 52, 52, true));
    let refused = shared.sva().new_process_domain(mm.clone()).unwrap_err();
    assert_eq!(refused, ProcessDomainError::UnsupportedTable);
    assert_eq!(mm.pins.load(SeqCst), 0);
}

#[test]
fn part_17_exit_keeps_the_descriptor_valid_and_ends_walks_and_events() {
    // EPD0 is bit 14; R bit 45, S bit 44.
    for (machine, before, after) in [
        (Machine::Pcie, 0x0042_6205_c000_3510u64, 0x0042_4205_c000_7510u64),
        (Machine::Platform, 0x0042_7205_c000_3510, 0x0042_4205_c000_7510),
        (Machine::Forced, 0x0042_7205_c000_3510, 0x0042_7205_c000_7510),
    ] {
        let shared = Shared::on(machine);
        let (_mm, process) = shared.bound(0x42, 5);
        assert_eq!(cd(&shared.fake, 8, 5).unwrap()[0], before, "{machine:?}");
        shared.fake.take_log();
        process.quiesce().unwrap();
        assert_eq!(cd(&shared.fake, 8, 5).unwrap()[0], after, "{machine:?}");
        assert_eq!(cd(&shared.fake, 8, 5).unwrap()[1], 0x1_2345_6000);
        let mut wanted = vec![Opcode::CFGI_CD, Opcode::CFGI_CD, Opcode::SYNC, Opcode::TLBI_NH_ASID];
        wanted.push(Opcode::SYNC);
        if machine == Machine::Pcie {
            wanted.extend([Opcode::ATC_INV, Opcode::ATC_INV, Opcode::SYNC]);
        }
        assert_eq!(opcodes(&shared.fake.take_log()), wanted, "the descriptor, the TLB, the ATC");
        process.quiesce().unwrap();
        assert_eq!(shared.fake.take_log(), [], "once is enough");
    }
}

#[test]
fn part_17_a_device_of_which_an_exit_is_not_confirmed_leaves_no_other_one_with_the_process() {
    let shared = Shared::on(Machine::Pcie);
    let (_mm, process) = shared.bound(0x42, 5);
    let net = [SourceId(10)];
    shared.smmu.add_device("net", &net).unwrap();
    shared.smmu.attach(&net, &Target::Domain(shared.smmu.new_domain().unwrap())).unwrap();
    shared.sva().enable(&net, &shared.facts, FakeSwitches::new(&shared.fake)).unwrap();
    shared.sva().attach_pasid(&net, Pasid::new(5).unwrap(), &process).unwrap();
    let is_quiet = |stream| cd(&shared.fake, stream, 5).unwrap()[0] & 1 << 14 != 0;
    assert!(!is_quiet(8) && !is_quiet(10));
    shared.fake.with(|state| state.illegal.push(Opcode::CFGI_CD));
    shared.fake.take_log();
    assert_eq!(process.quiesce(), Err(SyncError::Failed { code: 1 }));
    assert!(is_quiet(8) && is_quiet(10));
    let log = shared.fake.take_log();
    assert!(log.contains(&Command::tlbi_nh_asid(0, 0x42)));
    assert!([8, 9, 10].iter().all(|&stream| log.contains(&Command::atc_inv(stream, Some(5), 0, 52))));
    shared.fake.with(|state| state.illegal.clear());
    process.quiesce().unwrap();
}

#[test]
fn part_17_unbind_removes_the_descriptor_and_forgets_by_asid_then_by_pasid() {
    let shared = Shared::on(Machine::Pcie);
    let (mm, process) = shared.bound(0x42, 5);
    shared.fake.take_log();
    shared.detach(5).unwrap();
    assert_eq!(cd(&shared.fake, 8, 5).unwrap()[0] & 1 << 31, 0);
    let log = shared.fake.take_log();
    let tlb = log.iter().position(|&c| c == Command::tlbi_nh_asid(0, 0x42)).unwrap();
    let atc: Vec<_> = (0..log.len()).filter(|&at| log[at].opcode() == Opcode::ATC_INV).collect();
    assert_eq!(log[tlb + 1], Command::sync(), "the TLB first, with its own sync");
    assert_eq!(atc, [tlb + 2, tlb + 3]);
    assert_eq!(log[atc[0]], Command::atc_inv(8, Some(5), 0, 52));
    assert_eq!(log[atc[1]], Command::atc_inv(9, Some(5), 0, 52));
    assert_eq!(mm.pins.load(SeqCst), 1, "pinned while the domain lives");
    drop(process);
    assert_eq!(mm.pins.load(SeqCst), 0);
}

#[test]
fn part_17_exit_then_unbind_and_unbind_then_exit_leave_the_same_and_forget_no_more_than_needed() {
    let shared = Shared::on(Machine::Pcie);
    let (mm, process) = shared.bound(0x42, 5);
    process.quiesce().unwrap();
    shared.fake.take_log();
    shared.detach(5).unwrap();
    drop(process);
    assert!(shared.fake.take_log().iter().all(|c| matches!(c.opcode(), Opcode::CFGI_CD | Opcode::SYNC)));
    let (_, process) = shared.bound(0x43, 5);
    shared.detach(5).unwrap();
    process.quiesce().unwrap();
    let mut late = shared.sva().attach_pasid(&Shared::SOURCES, Pasid::new(5).unwrap(), &process);
    assert_eq!(late, Err(AttachPasidError::Exited));
    drop(process);
    let again = shared.process(&mm);
    late = shared.sva().attach_pasid(&Shared::SOURCES, Pasid::new(5).unwrap(), &again);
    assert_eq!(late, Ok(()), "the PASID can be used again");
}

#[test]
fn part_17_a_detach_that_is_not_confirmed_keeps_the_pasid_and_the_pin() {
    let shared = Shared::on(Machine::Pcie);
    let (mm, process) = shared.bound(0x42, 5);
    drop(process);
    shared.fake.with(|state| state.illegal.push(Opcode::TLBI_NH_ASID));
    assert_eq!(shared.detach(5), Err(SyncError::Failed { code: 1 }));
    assert_eq!(mm.pins.load(SeqCst), 1);
    let other = shared.process(&FakeMm::new(0x43));
    let taken = shared.sva().attach_pasid(&Shared::SOURCES, Pasid::new(5).unwrap(), &other);
    assert_eq!(taken, Err(AttachPasidError::Taken));
    shared.fake.with(|state| state.illegal.clear());
    shared.detach(5).unwrap();
    assert_eq!(mm.pins.load(SeqCst), 0);
}

#[test]
fn part_17_a_descriptor_that_hardware_may_still_use_is_forgotten_before_its_process_is_gone() {
    let forgets = |shared: &Shared| {
        let log = shared.fake.take_log();
        log.iter().filter(|command| command.opcode() == Opcode::CFGI_CD).count()
    };
    let doubted = || {
        let shared = Shared::on(Machine::Pcie);
        let (mm, process) = shared.bound(0x42, 5);
        shared.fake.with(|state| state.illegal.push(Opcode::CFGI_CD));
        assert_eq!(shared.detach(5), Err(SyncError::Failed { code: 1 }));
        // Nothing is left to be changed, and hardware may walk the table all the same.
        assert_eq!(cd(&shared.fake, 8, 5).unwrap()[0] & 1 << 31, 0);
        assert_eq!(process.quiesce(), Err(SyncError::Failed { code: 1 }));
        assert_eq!(shared.detach(5), Err(SyncError::Failed { code: 1 }));
        shared.fake.with(|state| state.illegal.clear());
        shared.fake.take_log();
        (shared, mm, process)
    };
    let (shared, _mm, process) = doubted();
    process.quiesce().unwrap();
    assert_eq!(forgets(&shared), 2, "one for each stream");
    let (shared, _mm, _process) = doubted();
    shared.detach(5).unwrap();
    assert_eq!(
        forgets(&shared),
        4,
        "what was in doubt, and the words that are cleared when nobody looks at them"
    );
    assert_eq!(shared.detach(5), Ok(()), "once is enough");
    assert_eq!(forgets(&shared), 0);
}

#[test]
fn part_17_a_table_of_descriptors_that_hardware_may_remember_is_kept_until_it_is_asked_again_and_no_longer() {
    // PASID 100 is the only one in its second-level table, which is cut off with it.
    let cut = || {
        let shared = Shared::on(Machine::Pcie);
        let before = shared.fake.live_bytes();
        let bound = shared.bound(0x42, 100);
        shared.fake.with(|state| state.illegal_once = Some(Command::cfgi_cd(8, 100, false)));
        assert_eq!(shared.detach(100), Err(SyncError::Failed { code: 1 }));
        assert_eq!(shared.fake.live_bytes(), before + 4096, "hardware may look there");
        shared.fake.take_log();
        (shared, before, bound)
    };
    let (shared, before, _bound) = cut();
    shared.detach(100).unwrap();
    assert!(shared.fake.take_log().contains(&Command::cfgi_cd(9, 100, false)), "it is asked of each stream");
    assert_eq!(shared.fake.live_bytes(), before);
    // Another that comes into the same place has it forgotten, too.
    let (shared, before, _bound) = cut();
    let process = shared.process(&FakeMm::new(0x43));
    shared.sva().attach_pasid(&Shared::SOURCES, Pasid::new(101).unwrap(), &process).unwrap();
    assert_eq!(shared.fake.live_bytes(), before + 4096, "the new one");
    // And whoever leads the device elsewhere: nothing leads to the table of tables any more.
    let (shared, _, bound) = cut();
    shared.smmu.remove_device(&Shared::SOURCES).unwrap();
    shared.smmu.teardown().unwrap();
    let Shared { fake, smmu, base, .. } = shared;
    drop((smmu, base, bound));
    assert_eq!(fake.live_bytes(), 0);
}

#[test]
fn part_17_an_asid_that_hardware_may_remember_stays_pinned_and_shared_until_hardware_confirms() {
    let shared = Shared::on(Machine::Pcie);
    let mm = FakeMm::new(0x42);
    let process = shared.process(&mm);
    shared.fake.with(|state| state.illegal.push(Opcode::TLBI_NH_ASID));
    drop(process);
    shared.smmu.handle_errors();
    assert_eq!(mm.pins.load(SeqCst), 1);
    let asids = || shared.smmu.hardware.asids.lock().is_shared(0x42);
    assert!(asids());
    shared.fake.with(|state| state.illegal.clear());
    shared.smmu.handle_errors();
    assert!(mm.pins.load(SeqCst) == 0 && !asids());
}

#[test]
fn part_17_a_pasid_means_a_process_that_has_another_domain_only_when_its_asid_is_forgotten() {
    let shared = Shared::on(Machine::Pcie);
    let (mm, _other) = shared.bound(0x42, 5);
    let process = shared.process(&mm);
    let bind = || shared.sva().attach_pasid(&Shared::SOURCES, Pasid::new(6).unwrap(), &process);
    shared.fake.with(|state| state.illegal.push(Opcode::TLBI_NH_ASID));
    assert_eq!(bind(), Err(AttachPasidError::Sync(SyncError::Failed { code: 1 })));
    assert_eq!(cd(&shared.fake, 8, 6).map_or(0, |cd| cd[0] & 1 << 31), 0, "it means nothing, as before");
    shared.fake.with(|state| state.illegal.clear());
    shared.fake.take_log();
    bind().unwrap();
    assert_eq!(opcodes(&shared.fake.take_log())[..3], [Opcode::TLBI_NH_ASID, Opcode::SYNC, Opcode::CFGI_CD]);
}

#[test]
fn part_18_a_range_is_forgotten_by_the_tlb_and_then_by_every_atc() {
    let shared = Shared::on(Machine::Pcie);
    let (_mm, process) = shared.bound(0x42, 5);
    shared.fake.take_log();
    process.invalidate(range(DEAD.0, DEAD.1)).unwrap();
    let log = shared.fake.take_log();
    let wanted = [Opcode::TLBI_NH_VA, Opcode::SYNC, Opcode::ATC_INV, Opcode::ATC_INV, Opcode::SYNC];
    assert_eq!(opcodes(&log), wanted);
    // ASID 0x42, NUM 0 and SCALE 1 (two pages), TG 4 KiB, not only leaves: a table may have gone.
    assert_eq!(log[0].0, [0x0042_0000_0010_0012, 0xffff_860e_6400]);
    assert_eq!(log[2], Command::atc_inv(8, Some(5), 0xffff_860e_6000, 1));
    process.invalidate(range(0, u64::MAX)).unwrap();
    let log = shared.fake.take_log();
    assert_eq!(log[0], Command::tlbi_nh_asid(0, 0x42), "everything, once");
    assert_eq!(log[2], Command::atc_inv(8, Some(5), 0, 52));
}

#[test]
fn part_17_what_is_seen_of_a_bond_has_the_form_of_the_reference() {
    let shared = Shared::on(Machine::Pcie);
    let (_mm, process) = shared.bound(0x42, 5);
    process.invalidate(range(DEAD.0, DEAD.1)).unwrap();
    process.invalidate(range(DEAD.0, u64::MAX)).unwrap();
    process.quiesce().unwrap();
    process.quiesce().unwrap();
    shared.detach(5).unwrap();
    process.invalidate(range(DEAD.0, DEAD.1)).unwrap();
    let told = |shared: &Shared| -> Vec<_> {
        let lines = shared.fake.lines.lock().unwrap().clone();
        lines.into_iter().filter(|line| line.starts_with("smmu_")).collect()
    };
    let wanted = [
        "smmu_bind_alloc: dev=disk pasid=5",
        "smmu_mm_invalidate: pasid=5 start=0xffff860e6000 end=0xffff860e8000",
        "smmu_mm_invalidate: pasid=5 start=0xffff860e6000 end=0xffffffffffffffff",
        "smmu_mm_release: pasid=5",
        "smmu_unbind_free: dev=disk pasid=5",
    ];
    assert_eq!(told(&shared), wanted);
    let quiet = Shared::with(Machine::Platform, |idr0, config| {
        idr0.set_btm(true);
        config.cpus.as_mut().unwrap().broadcast = true;
    });
    let (_mm, process) = quiet.bound(0x42, 5);
    quiet.fake.take_log();
    process.invalidate(range(DEAD.0, DEAD.1)).unwrap();
    assert_eq!((quiet.fake.take_log(), told(&quiet).len()), (vec![], 2), "told, not sent");
}

#[test]
fn part_22_descriptors_let_faults_stall_where_the_device_may_and_where_hardware_knows_nothing_else() {
    // S is bit 44 of the descriptor; S1STALLD bit 91 of the entry, legal where stalls can be chosen.
    for (machine, stalls, private, forbidden) in
        [(Machine::Pcie, 0, 0, 0), (Machine::Platform, 1, 0, 0), (Machine::Forced, 1, 1, 0)]
    {
        let shared = Shared::on(machine);
        let _bound = shared.bound(0x42, 5);
        assert_eq!(cd(&shared.fake, 9, 5).unwrap()[0] >> 44 & 1, stalls, "{machine:?}");
        assert_eq!(cd(&shared.fake, 9, 0).unwrap()[0] >> 44 & 1, private, "{machine:?}");
        assert_eq!(ste(&shared.fake, 9)[1] >> 27 & 1, forbidden, "{machine:?}");
    }
    let choice = Shared::plain(Machine::Pcie, |idr0, _| idr0.set_stall_model(0));
    choice.enable().unwrap();
    assert_eq!(ste(&choice.fake, 9)[1] >> 27 & 1, 1, "what is on a PCIe link must not stall");
}

#[test]
fn part_18_a_gibibyte_is_one_command_for_the_tlb_and_one_for_each_stream() {
    let shared = Shared::on(Machine::Pcie);
    let (_mm, process) = shared.bound(0x42, 5);
    shared.fake.take_log();
    process.invalidate(range(1 << 30, (2 << 30) - 1)).unwrap();
    assert_eq!(shared.fake.take_log().len(), 1 + 1 + 2 + 1);
}

#[test]
fn part_18_a_device_without_an_atc_is_not_bothered() {
    let shared = Shared::on(Machine::Platform);
    let (_mm, process) = shared.bound(0x42, 5);
    shared.fake.take_log();
    process.invalidate(range(DEAD.0, DEAD.1)).unwrap();
    assert_eq!(opcodes(&shared.fake.take_log()), [Opcode::TLBI_NH_VA, Opcode::SYNC]);
}

#[test]
fn part_18_an_atc_that_does_not_answer_keeps_the_pages() {
    let shared = Shared::on(Machine::Pcie);
    let (_mm, process) = shared.bound(0x42, 5);
    shared.fake.with(|state| state.atc_silent = true);
    assert_eq!(process.invalidate(range(DEAD.0, DEAD.1)), Err(SyncError::Failed { code: 3 }));
    assert_eq!(process.quiesce(), Err(SyncError::Failed { code: 3 }));
    let mut gather = portcullis_core::iommu::Gather::new();
    gather.add(range(0x1000, 0x1fff), SizeLg2::KIB_4, false);
    let base = shared.base.sync(&mut gather);
    assert_eq!(base.err(), Some(SyncError::Failed { code: 3 }), "so for the device's other traffic");
    assert!(!gather.is_empty());
    shared.fake.with(|state| state.atc_silent = false);
    process.quiesce().unwrap();
    let _ = shared.base.sync(&mut gather).unwrap();
}

#[test]
fn part_18_traffic_without_a_pasid_is_forgotten_without_one() {
    let shared = Shared::on(Machine::Pcie);
    let mut gather = portcullis_core::iommu::Gather::new();
    gather.add(range(0x7000, 0x8fff), SizeLg2::KIB_4, false);
    let _ = shared.base.sync(&mut gather).unwrap();
    let log = shared.fake.take_log();
    let wanted = [Opcode::TLBI_NH_VA, Opcode::SYNC, Opcode::ATC_INV, Opcode::ATC_INV, Opcode::SYNC];
    assert_eq!(opcodes(&log), wanted);
    assert_eq!(log[2], Command::atc_inv(8, None, 0, 4));
}

#[test]
fn part_14_what_the_smmu_hears_it_is_not_told() {
    let shared = Shared::with(Machine::Pcie, |idr0, config| {
        idr0.set_btm(true);
        config.cpus.as_mut().unwrap().broadcast = true;
    });
    assert_eq!(shared.fake.get(CR2), 0b010, "RECINVSID, and PTM is 0");
    let (_mm, process) = shared.bound(0x42, 5);
    shared.fake.take_log();
    process.invalidate(range(DEAD.0, DEAD.1)).unwrap();
    let log = opcodes(&shared.fake.take_log());
    assert_eq!(log, [Opcode::ATC_INV, Opcode::ATC_INV, Opcode::SYNC]);
    process.quiesce().unwrap();
    assert!(opcodes(&shared.fake.take_log()).contains(&Opcode::TLBI_NH_ASID), "no broadcast says that");
    assert_eq!(cd(&shared.fake, 8, 5).unwrap()[0] >> 47 & 1, 0, "a shared ASID hears");
    assert_eq!(cd(&shared.fake, 8, 0).unwrap()[0] >> 47 & 1, 1, "a private one does not");
}

#[test]
fn part_14_without_broadcasts_on_either_side_both_are_told() {
    let variants: [fn(&mut Idr0, &mut crate::Config); 4] = [
        |idr0, _| idr0.set_btm(true),
        |_, config| config.cpus.as_mut().unwrap().broadcast = true,
        |idr0, config| {
            idr0.set_btm(true);
            config.cpus.as_mut().unwrap().broadcast = true;
            config.broadcast = false;
        },
        |idr0, config| {
            // The CPUs' kernel is at EL2, but the SMMU cannot tag as it does.
            idr0.set_btm(true);
            let cpus = config.cpus.as_mut().unwrap();
            (cpus.broadcast, cpus.vhe) = (true, true);
        },
    ];
    for (at, change) in variants.into_iter().enumerate() {
        let shared = Shared::with(Machine::Pcie, change);
        let (_mm, process) = shared.bound(0x42, 5);
        shared.fake.take_log();
        process.invalidate(range(DEAD.0, DEAD.1)).unwrap();
        assert_eq!(shared.fake.take_log()[0].opcode(), Opcode::TLBI_NH_VA, "variant {at}");
        let hears = Idr0::from_bits(u32::try_from(shared.fake.get(0)).unwrap()).btm();
        assert_eq!(shared.fake.get(CR2) >> 2 & 1 == 1, hears, "PTM where there is something to ignore");
    }
}

#[test]
fn part_13_with_a_kernel_at_el2_entries_are_tagged_and_forgotten_as_its_own() {
    let shared = Shared::with(Machine::Pcie, |idr0, config| {
        idr0.set_hyp(true);
        idr0.set_btm(true);
        let cpus = config.cpus.as_mut().unwrap();
        (cpus.vhe, cpus.broadcast) = (true, true);
    });
    assert_eq!(shared.fake.get(CR2), 0b011, "E2H, RECINVSID; PTM is 0");
    assert_eq!(ste(&shared.fake, 8)[1] >> 30 & 3, 0b10, "STRW is EL2");
    let (_mm, process) = shared.bound(0x42, 5);
    shared.fake.take_log();
    process.quiesce().unwrap();
    assert!(shared.fake.take_log().contains(&Command::tlbi_el2_asid(0x42)));
    let mut gather = portcullis_core::iommu::Gather::new();
    gather.add(range(0x1000, 0x1fff), SizeLg2::KIB_4, false);
    let _ = shared.base.sync(&mut gather).unwrap();
    assert_eq!(shared.fake.take_log()[0].opcode(), Opcode::TLBI_EL2_VA, "and so are private ones");
    let deaf = Shared::with(Machine::Pcie, |idr0, config| {
        idr0.set_hyp(true);
        config.cpus.as_mut().unwrap().vhe = true;
    });
    let (_mm, process) = deaf.bound(0x42, 5);
    deaf.fake.take_log();
    process.invalidate(range(DEAD.0, DEAD.1)).unwrap();
    // The same as CMD_TLBI_NH_VA, without a VMID.
    assert_eq!(deaf.fake.take_log()[0].0, [0x0042_0000_0010_0022, 0xffff_860e_6400]);
}

#[test]
fn part_18_a_device_is_known_to_invalidations_before_its_descriptor_is_valid() {
    let shared = &Shared::with(Machine::Pcie, |_, config| config.wait_limit_ns = Fake::PATIENT_NS);
    let process = &shared.process(&FakeMm::new(0x42));
    let ours = process.as_any().downcast_ref::<Process<Fake, Arc<Fake>>>().unwrap();
    let fake = &shared.fake;
    let known = |known: usize, valid: u64| {
        assert_eq!(ours.atc_streams().len(), known);
        assert_eq!(cd(fake, 8, 5).unwrap()[0] >> 31 & 1, valid);
    };
    known(0, 0);
    fake.works_while_waited_for.store(false, SeqCst);
    let queued = fake.get(CMDQ_PROD);
    std::thread::scope(|scope| {
        let attach = scope
            .spawn(|| shared.sva().attach_pasid(&Shared::SOURCES, Pasid::new(5).unwrap(), process).unwrap());
        while fake.get(CMDQ_PROD) == queued {
            std::thread::yield_now();
        }
        // The descriptor is filled, and waits for hardware to have forgotten it before V is set.
        known(2, 0);
        while !attach.is_finished() {
            fake.work(1);
            std::thread::yield_now();
        }
    });
    fake.works_while_waited_for.store(true, SeqCst);
    known(2, 1);
}

#[test]
fn part_17_an_attach_that_is_not_confirmed_is_known_until_a_detach_is() {
    let shared = Shared::on(Machine::Pcie);
    let process = shared.process(&FakeMm::new(0x42));
    shared.fake.with(|state| state.asleep = true);
    let failed = shared.sva().attach_pasid(&Shared::SOURCES, Pasid::new(5).unwrap(), &process);
    assert!(matches!(failed, Err(AttachPasidError::Sync(_))));
    let ours = process.as_any().downcast_ref::<Process<Fake, Arc<Fake>>>().unwrap();
    assert_eq!(ours.atc_streams().len(), 2, "hardware may use it");
    shared.fake.with(|state| state.asleep = false);
    shared.detach(5).unwrap();
    assert_eq!(ours.atc_streams().len(), 0);
}

#[test]
fn part_08_the_descriptor_says_of_a_table_what_the_cpus_registers_say() {
    use portcullis_pgtable::arm::{Config, HardwareUpdate, MAIR, Stage1, ttbr};
    let features = features(|features| {
        (features.output_bits, features.input_bits, features.large_addresses) = (52, 52, true);
    });
    let shapes = [
        (SizeLg2::KIB_4, 48, 48, false),
        (SizeLg2::KIB_4, 39, 40, false),
        (SizeLg2::KIB_16, 47, 44, false),
        (SizeLg2::KIB_64, 52, 52, false),
        (SizeLg2::KIB_64, 42, 36, false),
        (SizeLg2::KIB_4, 52, 52, true),
    ];
    for (granule, input_bits, output_bits, large) in shapes {
        let config = Config { input_bits, output_bits, large, ..Config::new(granule) };
        let tcr = Stage1::new(config).unwrap().tcr(HardwareUpdate::None);
        let root = 0x1_2345_0000;
        let cd = descriptor(&features, &table(root, granule, input_bits, output_bits, large), 1);
        // T0SZ 5:0. Then TCR: IRGN0 9:8, ORGN0 11:10, SH0 13:12, TG0 15:14; CD: IR0 9:8, OR0 11:10, SH0 13:12, TG0 7:6. IPS 34:32 in both.

        assert_eq!(cd[0] & 0x3f, tcr & 0x3f);
        assert_eq!(cd[0] >> 8 & 0x3f, tcr >> 8 & 0x3f);
        assert_eq!(cd[0] >> 6 & 3, tcr >> 14 & 3);
        assert_eq!(cd[0] >> 32 & 7, tcr >> 32 & 7);
        assert_eq!(CdWord2::from_bits(cd[2]).ds(), tcr >> 59 & 1 == 1);
        assert_eq!((cd[1], cd[3]), (ttbr(Pa::new(root), false), MAIR));
    }
}
