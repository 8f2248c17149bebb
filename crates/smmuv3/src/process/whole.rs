//! A device that is attached to a process as a whole: what its entry and the process's descriptor say, what is forgotten when, and who is refused.

extern crate std;

use alloc::vec;
use core::sync::atomic::Ordering::SeqCst;

use portcullis_core::iommu::{Iommu, Target};
use portcullis_core::sva::EnableSvaError;
use portcullis_spec::smmuv3::command::{Command, Opcode};
use portcullis_types::{Iova, SourceId};

use super::*;
use crate::testing::{FakeMm, Machine, Shared, cd, opcodes, ste};

fn range(first: u64, last: u64) -> IovaRange {
    IovaRange::from_ends(Iova::new(first), Iova::new(last)).unwrap()
}

/// A device with streams 8 and 9, attached to a process with ASID 0x42.
fn attached(machine: Machine) -> (Shared, Arc<FakeMm>, Arc<dyn ProcessDomain>) {
    let shared = Shared::plain(machine, |_, _| {});
    let mm = FakeMm::new(0x42);
    let process = shared.process(&mm);
    shared.smmu.attach(&Shared::SOURCES, &Target::Process(process.clone())).unwrap();
    (shared, mm, process)
}

#[test]
fn all_traffic_of_its_streams_uses_the_processs_descriptor_and_a_pasid_is_an_error() {
    let (shared, _mm, _process) = attached(Machine::Pcie);
    for stream in [8, 9] {
        let entry = ste(&shared.fake, stream);
        // V, Config stage 1; S1Fmt 0 and S1CDMax 0: one descriptor, and no SubstreamIDs.
        assert_eq!((entry[0] & 0xf, entry[0] >> 4 & 3, entry[0] >> 59), (0b1011, 0, 0));
        // The descriptor of ASID 0x42 with its table at 0x1_2345_6000, as it is for a PASID.
        let word0 = cd(&shared.fake, stream, 0).unwrap()[0];
        assert_eq!((word0 >> 48, word0 >> 31 & 1, word0 >> 30 & 1), (0x42, 1, 1), "ASID, V, EPD1");
        assert_eq!(cd(&shared.fake, stream, 0).unwrap()[1], 0x1_2345_6000);
        // EATS 0: nothing of it may be remembered where only a PASID would reach it.
        assert_eq!(entry[1] >> 28 & 3, 0);
    }
}

#[test]
fn hardware_forgets_a_range_of_the_process_for_it_too() {
    let (shared, _mm, process) = attached(Machine::Pcie);
    shared.fake.take_log();
    process.invalidate(range(0x1000, 0x1fff)).unwrap();
    let log = shared.fake.take_log();
    assert_eq!(opcodes(&log), [Opcode::TLBI_NH_VA, Opcode::SYNC]);
    assert_eq!(log[0].0[0] >> 48, 0x42);
}

#[test]
fn at_exit_its_descriptor_is_quiet_before_exit_returns_and_nothing_is_attached_later() {
    let (shared, _mm, process) = attached(Machine::Pcie);
    shared.fake.take_log();
    process.quiesce().unwrap();
    for stream in [8, 9] {
        let word0 = cd(&shared.fake, stream, 0).unwrap()[0];
        // V stays, EPD0 is set, faults are not recorded (R).
        assert_eq!((word0 >> 31 & 1, word0 >> 14 & 1, word0 >> 45 & 1), (1, 1, 0));
    }
    let log = shared.fake.take_log();
    let told = |stream| log.contains(&Command::cfgi_cd(stream, 0, true));
    assert!(told(8) && told(9) && log.contains(&Command::tlbi_nh_asid(0, 0x42)), "{log:?}");
    shared.smmu.attach(&Shared::SOURCES, &Target::Blocked).unwrap();
    let again = shared.smmu.attach(&Shared::SOURCES, &Target::Process(process));
    assert_eq!(again, Err(AttachError::Exited));
}

#[test]
fn attached_elsewhere_it_is_forgotten_and_all_memory_is_back() {
    let shared = Shared::plain(Machine::Pcie, |_, _| {});
    let before = shared.fake.live_bytes();
    let mm = FakeMm::new(0x42);
    let process = shared.process(&mm);
    for _ in 0..3 {
        shared.smmu.attach(&Shared::SOURCES, &Target::Process(process.clone())).unwrap();
        shared.smmu.attach(&Shared::SOURCES, &Target::Domain(shared.base.clone())).unwrap();
    }
    shared.fake.take_log();
    process.quiesce().unwrap();
    let told = opcodes(&shared.fake.take_log());
    assert_eq!(told, [Opcode::TLBI_NH_ASID, Opcode::SYNC], "no descriptor of its is left");
    drop(process);
    assert_eq!((shared.fake.live_bytes(), mm.pins.load(SeqCst)), (before, 0));
}

#[test]
fn a_process_that_is_shared_anew_is_reached_by_nobody_before_hardware_has_forgotten_its_asid() {
    let (shared, mm, process) = attached(Machine::Pcie);
    let silent = |on: bool| {
        let opcodes: &[_] = if on { &[Opcode::TLBI_NH_ASID] } else { &[] };
        shared.fake.with(|state| state.illegal = opcodes.to_vec());
    };
    let leads = |process: &Arc<dyn ProcessDomain>| {
        shared.smmu.attach(&Shared::SOURCES, &Target::Blocked).unwrap();
        shared.fake.take_log();
        shared.smmu.attach(&Shared::SOURCES, &Target::Process(process.clone()))
    };
    let place = |opcode: Opcode| {
        let log = shared.fake.with(|state| opcodes(&state.log));
        log.iter().position(|&told| told == opcode)
    };
    shared.smmu.attach(&Shared::SOURCES, &Target::Blocked).unwrap();
    silent(true);
    drop(process);
    assert_eq!(
        mm.pins.load(SeqCst),
        1,
        "the TLB may have what its devices read, and nobody tells it of changes"
    );
    let again = shared.process(&mm);
    assert_eq!(leads(&again), Err(AttachError::Sync(SyncError::Failed { code: 1 })));
    assert_eq!(ste(&shared.fake, 8)[0] & 0xf, 1, "valid, and blocked as before");
    silent(false);
    leads(&again).unwrap();
    assert!(place(Opcode::TLBI_NH_ASID).unwrap() < place(Opcode::CFGI_STE).unwrap());
    leads(&again).unwrap();
    assert_eq!(place(Opcode::TLBI_NH_ASID), None, "once is enough");
    // What was left is settled, and its ASID is this one's alone.
    shared.smmu.handle_errors();
    assert_eq!(mm.pins.load(SeqCst), 1);
}

#[test]
fn one_that_leaves_the_machine_is_forgotten() {
    let (shared, _mm, process) = attached(Machine::Pcie);
    shared.smmu.remove_device(&Shared::SOURCES).unwrap();
    shared.fake.take_log();
    process.quiesce().unwrap();
    assert!(!opcodes(&shared.fake.take_log()).contains(&Opcode::CFGI_CD));
}

#[test]
fn an_attach_that_is_not_confirmed_leaves_the_process_without_it() {
    let shared = Shared::plain(Machine::Pcie, |_, _| {});
    let process = shared.process(&FakeMm::new(0x42));
    let target = Target::Process(process.clone());
    shared.fake.with(|state| state.illegal = vec![Opcode::CFGI_STE]);
    assert!(matches!(shared.smmu.attach(&Shared::SOURCES, &target), Err(AttachError::LeftBlocked(_))));
    // Hardware may have seen the new entry: the process goes on telling it.
    shared.fake.with(|state| state.illegal.clear());
    shared.fake.take_log();
    process.quiesce().unwrap();
    assert!(opcodes(&shared.fake.take_log()).contains(&Opcode::CFGI_CD));

    let shared = Shared::plain(Machine::Pcie, |_, _| {});
    let process = shared.process(&FakeMm::new(0x42));
    let stranger = [SourceId(77)];
    let target = Target::Process(process.clone());
    assert_eq!(shared.smmu.attach(&stranger, &target), Err(AttachError::UnknownSource(stranger[0])));
    shared.fake.take_log();
    process.quiesce().unwrap();
    assert!(!opcodes(&shared.fake.take_log()).contains(&Opcode::CFGI_CD), "it is not known");
}

#[test]
fn an_attach_that_was_not_confirmed_can_be_tried_again_when_hardware_works() {
    let shared = Shared::plain(Machine::Pcie, |_, _| {});
    let process = shared.process(&FakeMm::new(0x42));
    let target = Target::Process(process.clone());
    shared.fake.with(|state| state.illegal = vec![Opcode::CFGI_STE]);
    assert!(matches!(shared.smmu.attach(&Shared::SOURCES, &target), Err(AttachError::LeftBlocked(_))));
    shared.fake.with(|state| state.illegal.clear());
    let bytes = shared.fake.live_bytes();
    shared.smmu.attach(&Shared::SOURCES, &target).unwrap();
    assert_eq!(cd(&shared.fake, 8, 0).unwrap()[0] >> 48, 0x42);
    assert!(shared.fake.live_bytes() <= bytes, "what was kept for the first try is given back");
}

#[test]
fn what_shares_by_pasid_is_not_attached_as_a_whole_nor_the_other_way_round() {
    let shared = Shared::on(Machine::Pcie);
    let process = shared.process(&FakeMm::new(0x42));
    let refused = shared.smmu.attach(&Shared::SOURCES, &Target::Process(process));
    assert_eq!(refused, Err(AttachError::Unsupported));
    let (shared, _mm, process) = attached(Machine::Pcie);
    assert_eq!(shared.enable().unwrap_err(), EnableSvaError::Process);
    let again = shared.smmu.attach(&Shared::SOURCES, &Target::Process(process));
    assert_eq!(again, Err(AttachError::PasidsInUse), "it is there");
    let foreign = Shared::plain(Machine::Pcie, |_, _| {});
    let process = foreign.process(&FakeMm::new(0x43));
    let refused = shared.smmu.attach(&Shared::SOURCES, &Target::Process(process));
    assert_eq!(refused, Err(AttachError::ForeignDomain));
}

#[test]
fn where_hardware_always_stalls_its_descriptor_says_so() {
    for (machine, stalls) in [(Machine::Platform, 0), (Machine::Forced, 1)] {
        let (shared, _mm, _process) = attached(machine);
        // S is bit 44.
        assert_eq!(cd(&shared.fake, 8, 0).unwrap()[0] >> 44 & 1, stalls);
    }
}
