//! Part 15: what is missing is named. Part 16: enable and disable. Part 17: PASIDs of a device. Part 12: a private ASID gives way. Part 20: streams.
//! Also the memory of context descriptors, and the order in which ATS is switched.

extern crate std;

use core::sync::atomic::Ordering::SeqCst;

use portcullis_core::iommu::{Gather, HwDomain, Iommu};
use portcullis_hal::{BlockLayout, TableMemory};
use portcullis_spec::smmuv3::command::Opcode;
use portcullis_spec::smmuv3::registers::{CMDQ_PROD, IDR1, IDR3, IDR5, Idr0, Idr1, Idr3, Idr5};
use portcullis_types::{Iova, IovaRange, Pa, Perms, Prot};

use super::*;
use crate::domain::Domain;
use crate::testing::{Fake, FakeMm, Machine, Shared, cd, cd_place, opcodes, ste};

fn pasid(number: u32) -> Pasid {
    Pasid::new(number).unwrap()
}

fn low(fake: &Fake, register: usize) -> u32 {
    u32::try_from(fake.get(register)).unwrap()
}

/// All the memory that is left, in ever smaller blocks.
fn take_all(fake: &Fake) -> Vec<(Pa, BlockLayout)> {
    let mut taken = Vec::new();
    for size_lg2 in (3..=20).rev() {
        let layout = BlockLayout::naturally_aligned(size_lg2);
        while let Some(at) = fake.alloc(layout) {
            taken.push((at, layout));
        }
    }
    taken
}

/// What is missing where the hardware, the CPUs or the device are changed like this.
fn refused(
    machine: Machine,
    hardware: impl FnOnce(&mut Idr0, &mut crate::Config),
    device: impl FnOnce(&mut DeviceSvaFacts),
) -> SvaRefusal {
    let mut shared = Shared::plain(machine, hardware);
    device(&mut shared.facts);
    let refusal = shared.sva().check(&Shared::SOURCES, &shared.facts).unwrap_err();
    assert_eq!(shared.enable(), Err(EnableSvaError::Refused(refusal)));
    assert_eq!((shared.fake.take_log(), shared.switches.turned.lock().unwrap().len()), (Vec::new(), 0));
    refusal
}

#[test]
fn part_15_of_the_cpus_and_the_tables_what_is_missing_is_named() {
    let cpus = |change: fn(&mut portcullis_core::sva::CpuFacts)| {
        refused(Machine::Pcie, |_, config| change(config.cpus.as_mut().unwrap()), |_| {})
    };
    assert_eq!(cpus(|cpus| cpus.input_bits = 52), SvaRefusal::InputSize { cpu: 52, iommu: 48 });
    assert_eq!(cpus(|cpus| cpus.output_bits = 52), SvaRefusal::OutputSize { cpu: 52, iommu: 48 });
    assert_eq!(
        refused(Machine::Pcie, |idr0, _| idr0.set_asid16(false), |_| {}),
        SvaRefusal::AsidSize { cpu: 16, iommu: 8 }
    );
    assert_eq!(refused(Machine::Pcie, |idr0, _| idr0.set_cohacc(false), |_| {}), SvaRefusal::NotCoherent);
    assert_eq!(refused(Machine::Pcie, |idr0, _| idr0.set_s1p(false), |_| {}), SvaRefusal::NoFirstStage);
    let granule = refused(Machine::Pcie, |_, config| config.stage = crate::Stage::Two, |_| {});
    assert_eq!(granule, SvaRefusal::NoFirstStage);
}

#[test]
fn part_15_granule_and_break_before_make_are_held_against_the_hardware() {
    let with = |change: fn(&mut Features)| {
        let shared = Shared::plain(Machine::Pcie, |_, config| {
            config.cpus.as_mut().unwrap().break_before_make_level = 2;
        });
        assert_eq!(check_tables(&shared.smmu.hardware), Ok(()));
        let mut features = *shared.smmu.features();
        change(&mut features);
        // The same hardware with other features, as a probe would have read them.
        let fake = shared.fake.clone();
        let bbml = features.break_before_make_level;
        fake.set(IDR3, Idr3::from_bits(low(&fake, IDR3)).with_bbml(bbml).into_bits());
        let four = features.granules.contains(SizeLg2::KIB_4);
        fake.set(IDR5, Idr5::from_bits(low(&fake, IDR5)).with_gran4k(four).into_bits());
        let config = shared.smmu.hardware.config.clone();
        let other = Smmu::probe(fake.clone(), fake.clone(), config).unwrap();
        check_tables(&other.hardware).unwrap_err()
    };
    assert_eq!(
        with(|features| features.break_before_make_level = 1),
        SvaRefusal::BreakBeforeMake { cpu: 2, iommu: 1 }
    );
    let sixteen = |features: &mut Features| {
        features.granules = portcullis_types::PageSizes::default().with(SizeLg2::KIB_16);
    };
    assert_eq!(with(sixteen), SvaRefusal::Granule(SizeLg2::KIB_4));
}

#[test]
fn part_15_of_the_device_what_is_missing_is_named_with_its_side() {
    let device = |machine, change: fn(&mut DeviceSvaFacts)| refused(machine, |_, _| {}, change);
    let iommu = |machine, change: fn(&mut Idr0)| refused(machine, |idr0, _| change(idr0), |_| {});
    assert_eq!(device(Machine::Pcie, |facts| facts.pasid_bits = 0), SvaRefusal::NoPasids(Side::Device));
    assert_eq!(device(Machine::Pcie, |facts| facts.ats = false), SvaRefusal::NoAts(Side::Device));
    assert_eq!(device(Machine::Pcie, |facts| facts.pri = false), SvaRefusal::NoPri(Side::Device));
    assert_eq!(iommu(Machine::Pcie, |idr0| idr0.set_ats(false)), SvaRefusal::NoAts(Side::Iommu));
    assert_eq!(iommu(Machine::Pcie, |idr0| idr0.set_pri(false)), SvaRefusal::NoPri(Side::Iommu));
    assert_eq!(iommu(Machine::Platform, |idr0| idr0.set_stall_model(1)), SvaRefusal::NoStall);
    assert_eq!(device(Machine::Platform, |facts| facts.can_stall = false), SvaRefusal::NoAts(Side::Device));
    let shared = Shared::plain(Machine::Pcie, |_, _| {});
    let unknown = shared.sva().check(&[SourceId(10)], &shared.facts);
    assert_eq!(unknown, Err(SvaRefusal::UnknownSource(SourceId(10))));
}

#[test]
fn part_15_hardware_without_substreams_has_no_pasids() {
    let features = |bits| {
        let fake = Fake::new();
        fake.set(IDR1, Idr1::from_bits(low(&fake, IDR1)).with_ssidsize(bits).into_bits());
        Features::decode(&crate::IdRegisters::read(&*fake)).unwrap()
    };
    let facts = DeviceSvaFacts { can_stall: true, pasid_bits: 20, ..DeviceSvaFacts::default() };
    assert_eq!(check_device(&features(0), TableShape::Auto, &facts), Err(SvaRefusal::NoPasids(Side::Iommu)));
    let mut wide = features(20);
    wide.stall_configurable = true;
    assert_eq!(check_device(&wide, TableShape::Auto, &facts).unwrap().last_pasid, Pasid::MAX);
    let narrow = DeviceSvaFacts { pasid_bits: 5, ..facts };
    assert_eq!(
        check_device(&wide, TableShape::Auto, &narrow).unwrap().last_pasid,
        pasid(31),
        "the lesser of both sides"
    );
}

#[test]
fn part_15_where_tables_of_contexts_have_one_level_devices_get_no_more_pasids_than_are_worth_the_memory() {
    for machine in [Machine::Pcie, Machine::Platform] {
        let mut shared = Shared::plain(machine, |idr0, _| idr0.set_cd2l(false));
        let before = shared.fake.live_bytes();
        let limits = shared.enable().unwrap();
        assert_eq!(limits.last_pasid, pasid(0x3ff));
        assert_eq!(shared.fake.live_bytes() - before, (64 << 10) - 64, "instead of one descriptor");
        let process = shared.process(&FakeMm::new(0x42));
        let attach = |number| shared.sva().attach_pasid(&Shared::SOURCES, pasid(number), &process);
        assert_eq!(attach(0x400), Err(AttachPasidError::OutOfRange(limits)));
        attach(0x3ff).unwrap();
        assert_eq!(cd(&shared.fake, 8, 0x3ff).unwrap()[0] >> 48, 0x42);
        shared.facts.pasid_bits = 5;
        let few = shared.sva().check(&Shared::SOURCES, &shared.facts).unwrap();
        assert_eq!(few.last_pasid, pasid(31));
    }
}

#[test]
fn part_16_an_enabled_device_has_room_for_pasids_and_its_entry_allows_what_it_needs() {
    // EATS is at 93:92, S1STALLD at 91 (word 1: 29:28 and 27); S1DSS 2; S1CDMax at 63:59, S1Fmt at 5:4.
    for (machine, allowed) in [(Machine::Pcie, 1 << 28), (Machine::Platform, 0), (Machine::Forced, 0)] {
        let shared = Shared::plain(machine, |_, _| {});
        let before = ste(&shared.fake, 8);
        let stalld = u64::from(machine == Machine::Platform) << 27;
        assert_eq!((before[0] >> 59, before[1]), (0, 0xd4 | stalld), "{machine:?}");
        assert_eq!(shared.enable().unwrap().last_pasid, pasid(0xffff));
        for stream_id in [8, 9] {
            let after = ste(&shared.fake, stream_id);
            assert_eq!((after[0] >> 59, after[0] >> 4 & 3), (16, 1), "{machine:?}");
            assert_eq!(after[1], 0xd4 | 0b10 | allowed, "{machine:?}");
            assert_eq!(cd(&shared.fake, stream_id, 0).unwrap()[0], 0x0001_e205_c000_3510 | forced(machine));
        }
        shared.sva().disable(&Shared::SOURCES).unwrap();
        assert_eq!(ste(&shared.fake, 8)[1..], before[1..], "{machine:?}");
        assert_eq!(ste(&shared.fake, 8)[0] >> 59, 0);
        assert_eq!(shared.sva().disable(&Shared::SOURCES), Err(DisableSvaError::NotEnabled));
    }
}

fn forced(machine: Machine) -> u64 {
    u64::from(machine == Machine::Forced) << 44
}

#[test]
fn part_16_enabling_and_disabling_never_makes_the_entry_invalid() {
    for machine in [Machine::Pcie, Machine::Platform] {
        let shared = Shared::plain(machine, |_, _| {});
        shared.fake.lines.lock().unwrap().clear();
        shared.enable().unwrap();
        shared.sva().disable(&Shared::SOURCES).unwrap();
        let lines = shared.fake.lines.lock().unwrap().clone();
        // Two entries on the way, up and down, for both streams.
        assert_eq!(lines.len(), 8);
        assert!(lines.iter().all(|line| line.ends_with("hitless=yes")), "{lines:#?}");
        let log = shared.fake.take_log();
        let syncs = log.iter().filter(|command| command.opcode() == Opcode::SYNC).count();
        let entries = log.iter().filter(|command| command.opcode() == Opcode::CFGI_STE).count();
        // Up: S1DSS is put there, the table switches, then what is allowed. Down: the table, S1DSS, what is allowed. For both streams.
        assert_eq!((entries, entries <= syncs), (12, true), "{machine:?}");
    }
}

#[test]
fn part_16_a_bond_that_lives_keeps_the_device_enabled() {
    let shared = Shared::on(Machine::Pcie);
    let (_mm, process) = shared.bound(0x42, 5);
    assert_eq!(shared.sva().disable(&Shared::SOURCES), Err(DisableSvaError::PasidsInUse));
    assert_eq!(shared.enable(), Err(EnableSvaError::Enabled));
    assert_eq!(
        shared.smmu.attach(&Shared::SOURCES, &Target::Identity),
        Err(AttachError::PasidsInUse),
        "nor does its other traffic move"
    );
    shared.detach(5).unwrap();
    drop(process);
    shared.sva().disable(&Shared::SOURCES).unwrap();
    shared.smmu.attach(&Shared::SOURCES, &Target::Identity).unwrap();
}

#[test]
fn part_16_a_device_is_enabled_as_a_whole_and_attached_as_a_whole() {
    let shared = Shared::plain(Machine::Pcie, |_, _| {});
    let part = shared.sva().enable(&[SourceId(8)], &shared.facts, shared.switches.clone());
    assert_eq!(part, Err(EnableSvaError::NotOneDevice));
    shared.smmu.add_device("net", &[SourceId(10)]).unwrap();
    let two = [SourceId(8), SourceId(9), SourceId(10)];
    let two = shared.sva().enable(&two, &shared.facts, shared.switches.clone());
    assert_eq!(two, Err(EnableSvaError::NotOneDevice));
    shared.enable().unwrap();
    assert_eq!(shared.smmu.attach(&[SourceId(8)], &Target::Blocked), Err(AttachError::Unsupported));
    let process = shared.process(&FakeMm::new(7));
    let part = shared.sva().attach_pasid(&[SourceId(8)], pasid(1), &process);
    assert_eq!(part, Err(AttachPasidError::NotEnabled));
}

#[test]
fn part_16_an_enable_that_is_not_confirmed_changes_nothing() {
    let shared = Shared::plain(Machine::Pcie, |_, _| {});
    let before = ste(&shared.fake, 8);
    shared.fake.with(|state| state.illegal.push(Opcode::CFGI_STE));
    assert!(matches!(shared.enable(), Err(EnableSvaError::LeftBlocked(_))));
    assert_eq!(shared.switches.turned.lock().unwrap().len(), 0);
    shared.fake.with(|state| state.illegal.clear());
    assert_eq!(ste(&shared.fake, 8)[0], 1, "neither way was confirmed: blocked");
    shared.smmu.attach(&Shared::SOURCES, &Target::Domain(shared.base.clone())).unwrap();
    assert_eq!(ste(&shared.fake, 8)[1], before[1], "and it does not share");
    shared.enable().unwrap();
}

#[test]
fn part_18_ats_is_off_while_an_entry_changes_and_on_after() {
    let shared = Shared::on(Machine::Pcie);
    let other = shared.smmu.new_domain().unwrap();
    shared.smmu.attach(&Shared::SOURCES, &Target::Domain(other)).unwrap();
    let domain = ste(&shared.fake, 8);
    shared.smmu.attach(&Shared::SOURCES, &Target::Identity).unwrap();
    let identity = ste(&shared.fake, 8);
    shared.smmu.attach(&Shared::SOURCES, &Target::Blocked).unwrap();
    let turned = shared.switches.turned.lock().unwrap().clone();
    let on: Vec<bool> = turned.iter().map(|&(on, _)| on).collect();
    assert_eq!(on, [true, false, true, false, true, false]);
    assert_eq!(
        (turned[2].1, turned[3].1),
        (domain, domain),
        "after the entry is in force, before it changes"
    );
    assert_eq!((turned[4].1, turned[5].1), (identity, identity));
    assert!(turned.iter().all(|(_, ste)| ste[1] >> 28 & 3 == 1), "never on without EATS");
    // Config 0b101, S1DSS 1: traffic without a PASID passes.
    assert_eq!((identity[0] >> 1 & 7, identity[1] & 3), (0b101, 1));
    shared.smmu.attach(&Shared::SOURCES, &Target::Domain(shared.base.clone())).unwrap();
    shared.sva().disable(&Shared::SOURCES).unwrap();
    let last = shared.switches.turned.lock().unwrap().last().copied().unwrap();
    assert!(!last.0 && last.1[1] >> 28 & 3 == 1, "off before EATS is");
}

#[test]
fn part_18_an_atc_is_invalidated_after_ats_is_off_and_before_the_entry_changes() {
    let shared = Shared::on(Machine::Pcie);
    let other = shared.smmu.new_domain().unwrap();
    let queued = shared.fake.get(CMDQ_PROD);
    shared.smmu.attach(&Shared::SOURCES, &Target::Domain(other)).unwrap();
    assert_eq!(shared.switches.when.lock().unwrap()[1].1, queued, "off before any command");
    let everything = [Command::atc_inv(8, None, 0, 52), Command::atc_inv(9, None, 0, 52), Command::sync()];
    let log = shared.fake.take_log();
    assert_eq!((&log[..3], log[3].opcode()), (&everything[..], Opcode::CFGI_STE));
    shared.sva().disable(&Shared::SOURCES).unwrap();
    assert_eq!(shared.fake.take_log()[..3], everything);
    shared.smmu.attach(&Shared::SOURCES, &Target::Blocked).unwrap();
    let asked = shared.fake.take_log().iter().any(|command| command.opcode() == Opcode::ATC_INV);
    assert!(!asked, "what does not use ATS is not asked");
}

#[test]
fn part_18_ats_is_off_before_a_device_is_removed_and_before_translation_ends() {
    let shared = Shared::on(Machine::Pcie);
    shared.smmu.remove_device(&Shared::SOURCES).unwrap();
    let (on, entry) = *shared.switches.turned.lock().unwrap().last().unwrap();
    assert!(!on && entry[0] & 1 == 1 && entry[1] >> 28 & 3 == 1, "while its entry was in force");
    assert_eq!(shared.fake.take_log()[0], Command::atc_inv(8, None, 0, 52));
    let shared = Shared::on(Machine::Pcie);
    shared.smmu.teardown().unwrap();
    let (cr0, _) = *shared.switches.when.lock().unwrap().last().unwrap();
    assert_eq!((cr0, shared.switches.turned.lock().unwrap().len()), (0b1_1111, 2), "while SMMUEN was set");
    assert_eq!(shared.fake.take_log()[0], Command::atc_inv(8, None, 0, 52));
}

#[test]
fn part_18_a_device_that_does_not_answer_stays_or_is_given_up_and_then_asked_no_more() {
    let shared = Shared::on(Machine::Pcie);
    let (mm, process) = shared.bound(0x42, 5);
    shared.detach(5).unwrap();
    shared.fake.with(|state| state.atc_silent = true);
    let other = shared.smmu.new_domain().unwrap();
    let silent = SyncError::Failed { code: 3 };
    let entry = ste(&shared.fake, 8);
    let attach = |target| shared.smmu.attach(&Shared::SOURCES, &target);
    assert_eq!(attach(Target::Domain(other)), Err(AttachError::Sync(silent)));
    assert_eq!(shared.sva().disable(&Shared::SOURCES), Err(DisableSvaError::Sync(silent)));
    assert_eq!(ste(&shared.fake, 8), entry);
    assert!(shared.switches.turned.lock().unwrap().last().is_some_and(|&(on, _)| on), "as before");
    shared.sva().attach_pasid(&Shared::SOURCES, pasid(5), &process).unwrap();
    let range = IovaRange::new(Iova::new(0x1000), 0x1000).unwrap();
    assert_eq!((process.invalidate(range), shared.detach(5)), (Err(silent), Err(silent)));
    attach(Target::Blocked).unwrap();
    assert_eq!(ste(&shared.fake, 8)[0], 1);
    shared.fake.take_log();
    process.invalidate(range).unwrap();
    shared.detach(5).unwrap();
    process.quiesce().unwrap();
    assert!(!opcodes(&shared.fake.take_log()).contains(&Opcode::ATC_INV));
    drop(process);
    assert_eq!(mm.pins.load(SeqCst), 0);
    shared.sva().disable(&Shared::SOURCES).unwrap();
    shared.smmu.remove_device(&Shared::SOURCES).unwrap();
}

/// Hardware does not confirm that the device is blocked. From the next command on it would.
fn left_blocked(shared: &Shared) {
    shared.fake.with(|state| state.illegal.push(Opcode::CFGI_STE));
    let blocked = shared.smmu.attach(&Shared::SOURCES, &Target::Blocked);
    assert!(matches!(blocked, Err(AttachError::LeftBlocked(_))), "{blocked:?}");
    shared.fake.work(64);
    shared.fake.with(|state| state.illegal.clear());
}

#[test]
fn part_18_a_device_that_was_given_up_is_asked_until_its_block_is_confirmed_and_no_more_then() {
    let confirmed: [&dyn Fn(&Shared); 2] = [&|shared| drop(shared.smmu.handle_errors()), &|shared| {
        shared.smmu.attach(&Shared::SOURCES, &Target::Blocked).unwrap()
    }];
    for confirm in confirmed {
        let shared = Shared::on(Machine::Pcie);
        let (_mm, process) = shared.bound(0x42, 5);
        shared.fake.with(|state| state.atc_silent = true);
        left_blocked(&shared);
        let range = IovaRange::new(Iova::new(0x1000), 0x1000).unwrap();
        assert_eq!(
            process.invalidate(range),
            Err(SyncError::Failed { code: 3 }),
            "its entry may be in force"
        );
        confirm(&shared);
        shared.fake.take_log();
        process.invalidate(range).unwrap();
        assert!(!opcodes(&shared.fake.take_log()).contains(&Opcode::ATC_INV));
    }
}

#[test]
fn part_18_what_a_device_was_attached_to_is_let_go_of_whoever_has_its_block_confirmed() {
    for by_detach in [false, true] {
        let mut shared = Shared::on(Machine::Pcie);
        let _bound = by_detach.then(|| shared.bound(0x42, 5));
        let another = shared.smmu.new_domain().unwrap();
        let kept = Arc::downgrade(&core::mem::replace(&mut shared.base, another));
        left_blocked(&shared);
        assert!(kept.upgrade().is_some(), "hardware may read its table");
        if by_detach {
            shared.detach(5).unwrap();
            shared.smmu.handle_errors();
        } else {
            shared.sva().disable(&Shared::SOURCES).unwrap();
        }
        assert!(kept.upgrade().is_none());
    }
}

#[test]
fn part_18_a_device_that_is_not_disabled_for_want_of_memory_has_its_ats_back() {
    let shared = Shared::on(Machine::Pcie);
    let entry = ste(&shared.fake, 8);
    let held = take_all(&shared.fake);
    assert_eq!(shared.sva().disable(&Shared::SOURCES), Err(DisableSvaError::NoMemory));
    assert_eq!(ste(&shared.fake, 8), entry);
    assert!(shared.switches.turned.lock().unwrap().last().is_some_and(|&(on, _)| on), "as before");
    held.into_iter().for_each(|(at, layout)| shared.fake.free(at, layout));
    shared.sva().disable(&Shared::SOURCES).unwrap();
}

#[test]
fn part_18_who_answers_by_itself_is_not_blamed_for_another() {
    let shared = Shared::on(Machine::Pcie);
    let (_mm, process) = shared.bound(0x42, 5);
    shared.fake.take_log();
    let range = IovaRange::new(Iova::new(0x1000), 0x1000).unwrap();
    shared.fake.with(|state| state.atc_late = 1);
    process.invalidate(range).unwrap();
    let (eight, nine) = (Command::atc_inv(8, Some(5), 0x1000, 0), Command::atc_inv(9, Some(5), 0x1000, 0));
    let sync = Command::sync();
    assert_eq!(
        shared.fake.take_log()[2..],
        [eight, nine, sync, eight, sync, nine, sync],
        "invalidated again"
    );
    shared.fake.with(|state| state.atc_late = 2);
    assert_eq!(process.invalidate(range), Err(SyncError::Failed { code: 3 }), "stream 8 is silent twice");
    let silent = shared.fake.events.lock().unwrap().iter().filter(|&&name| name == "atc_silent").count();
    assert_eq!(silent, 1, "and stream 9 is not");
}

#[test]
fn part_18_with_large_granules_alone_devices_are_asked_for_no_less() {
    let shared = Shared::with(Machine::Pcie, |_, config| {
        config.cpus = Some(portcullis_core::sva::CpuFacts::new(SizeLg2::KIB_64));
    });
    let fake = &shared.fake;
    fake.set(IDR5, Idr5::from_bits(low(fake, IDR5)).with_gran4k(false).with_gran16k(false).into_bits());
    let config = shared.smmu.hardware.config.clone();
    // One has the registers at a time.
    shared.smmu.teardown().unwrap();
    let other = Smmu::probe(fake.clone(), fake.clone(), config).unwrap();
    assert_eq!(other.hardware.translation_unit(), SizeLg2::KIB_64);
    assert_eq!(
        shared.smmu.hardware.translation_unit(),
        SizeLg2::KIB_4,
        "the smallest, whatever processes use"
    );
}

#[test]
fn after_a_teardown_that_was_not_confirmed_nothing_more_is_shared() {
    let shared = Shared::on(Machine::Pcie);
    let other = [SourceId(0x20)];
    shared.smmu.add_device("net", &other).unwrap();
    let process = shared.process(&FakeMm::new(0x42));
    shared.fake.with(|state| state.asleep = true);
    shared.smmu.teardown().unwrap_err();
    shared.fake.with(|state| state.asleep = false);
    let on = SyncError::Timeout { waiting_for: "an SMMU that is on", last: 0 };
    let enabled = shared.sva().enable(&other, &shared.facts, shared.switches.clone());
    assert_eq!(enabled, Err(EnableSvaError::Sync(on)));
    shared.fake.with(|state| state.dirty.clear());
    let bound = shared.sva().attach_pasid(&Shared::SOURCES, pasid(5), &process);
    assert_eq!(bound, Err(AttachPasidError::Blocked));
    assert!(shared.fake.with(|state| state.dirty.is_empty()), "no descriptor was written");
    shared.smmu.teardown().unwrap();
}

/// Switches that say, when they are let go of, whether the lock of the stream map is free.
#[derive(Debug)]
struct Watched {
    smmu: Arc<Smmu<Fake, Arc<Fake>>>,
    free: Arc<std::sync::Mutex<Vec<bool>>>,
}

impl DeviceSwitches for Watched {
    fn set_ats(&self, _: bool) {}
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.free.lock().unwrap().push(self.smmu.configuration.try_lock().is_some());
    }
}

#[test]
fn part_16_switches_are_let_go_of_with_no_lock_held() {
    let shared = Shared::plain(Machine::Pcie, |_, _| {});
    let free = Arc::new(std::sync::Mutex::default());
    let enable = || {
        let switches = Arc::new(Watched { smmu: shared.smmu.clone(), free: free.clone() });
        shared.sva().enable(&Shared::SOURCES, &shared.facts, switches)
    };
    let held = take_all(&shared.fake);
    assert_eq!(enable(), Err(EnableSvaError::NoMemory));
    held.into_iter().for_each(|(at, layout)| shared.fake.free(at, layout));
    enable().unwrap();
    shared.sva().disable(&Shared::SOURCES).unwrap();
    enable().unwrap();
    shared.smmu.remove_device(&Shared::SOURCES).unwrap();
    assert_eq!(*free.lock().unwrap(), [true; 3]);
}

#[test]
fn part_17_pasids_beyond_the_limit_zero_and_taken_ones_are_refused() {
    let mut shared = Shared::plain(Machine::Pcie, |_, _| {});
    shared.facts.pasid_bits = 4;
    shared.enable().unwrap();
    let (_mm, process) = shared.bound(0x42, 15);
    let attach = |number| shared.sva().attach_pasid(&Shared::SOURCES, pasid(number), &process);
    let out = Err(AttachPasidError::OutOfRange(SvaLimits { last_pasid: pasid(15) }));
    assert_eq!((attach(0), attach(16), attach(15)), (out, out, Err(AttachPasidError::Taken)));
    assert_eq!(attach(14), Err(AttachPasidError::Taken), "a process has one PASID");
    let foreign = Shared::on(Machine::Pcie);
    let theirs = foreign.process(&FakeMm::new(1));
    let foreign = shared.sva().attach_pasid(&Shared::SOURCES, pasid(1), &theirs);
    assert_eq!(foreign, Err(AttachPasidError::ForeignDomain));
    shared.detach(15).unwrap();
    shared.detach(15).expect("what means nothing is detached already");
    shared.smmu.attach(&Shared::SOURCES, &Target::Blocked).unwrap();
    assert_eq!(attach(14), Err(AttachPasidError::Blocked));
}

#[test]
fn part_17_a_device_that_is_blocked_or_removed_lets_its_pasids_go() {
    let shared = Shared::on(Machine::Pcie);
    let (mm, process) = shared.bound(0x42, 5);
    shared.smmu.attach(&Shared::SOURCES, &Target::Blocked).unwrap();
    assert_eq!(ste(&shared.fake, 8)[0], 1);
    drop(process);
    assert_eq!(mm.pins.load(SeqCst), 1);
    shared.detach(5).unwrap();
    assert_eq!(mm.pins.load(SeqCst), 0);
    shared.smmu.attach(&Shared::SOURCES, &Target::Domain(shared.base.clone())).unwrap();
    let (mm, process) = shared.bound(0x42, 5);
    drop(process);
    shared.smmu.remove_device(&Shared::SOURCES).unwrap();
    assert_eq!(mm.pins.load(SeqCst), 0);
    assert!(shared.switches.turned.lock().unwrap().last().is_some_and(|&(on, _)| !on));
}

#[test]
fn part_17_teardown_lets_processes_go_and_gives_everything_back() {
    let shared = Shared::on(Machine::Pcie);
    let (mm, process) = shared.bound(0x42, 5);
    shared.smmu.teardown().unwrap();
    process.quiesce().unwrap();
    drop(process);
    let Shared { fake, smmu, base, .. } = shared;
    drop((smmu, base));
    assert_eq!((mm.pins.load(SeqCst), fake.live_bytes()), (0, 0));
}

#[test]
fn descriptors_take_memory_in_proportion_to_pasids_in_use() {
    let fake_of = |shared: &Shared| shared.fake.live_bytes();
    let shared = Shared::on(Machine::Platform);
    let empty = fake_of(&shared);
    let mut processes = Vec::new();
    for number in 0..40u32 {
        let mm = FakeMm::new(100 + u16::try_from(number).unwrap());
        let process = shared.process(&mm);
        let pasid = pasid(1 + 1000 * number);
        shared.sva().attach_pasid(&Shared::SOURCES, pasid, &process).unwrap();
        processes.push((pasid, process));
        // The first is in the table that descriptor 0 has already.
        assert_eq!(fake_of(&shared) - empty, 4096 * u64::from(number));
    }
    for (pasid, _) in &processes {
        shared.sva().detach_pasid(&Shared::SOURCES, *pasid).unwrap();
    }
    assert_eq!(fake_of(&shared), empty, "a table goes with its last descriptor");
    let log = shared.fake.take_log();
    let wide: Vec<_> = log.iter().filter(|c| c.opcode() == Opcode::CFGI_CD && c.0[1] & 1 == 0).collect();
    // New and gone first-level descriptors are announced, for both streams: 39 of each.
    assert_eq!(wide.len(), 2 * 2 * 39);
}

#[test]
fn a_first_level_descriptor_that_hardware_may_remember_keeps_its_table() {
    let shared = Shared::on(Machine::Platform);
    let (_mm, _process) = shared.bound(0x42, 5000);
    let before = shared.fake.live_bytes();
    shared.fake.with(|state| state.illegal.push(Opcode::CFGI_CD));
    assert_eq!(shared.detach(5000), Err(SyncError::Failed { code: 1 }));
    assert_eq!(shared.fake.live_bytes(), before);
    shared.fake.with(|state| state.illegal.clear());
    shared.detach(5000).unwrap();
    assert_eq!(cd(&shared.fake, 8, 5000), None);
}

#[test]
fn part_17_a_descriptor_that_is_valid_no_more_keeps_its_table_until_it_is_forgotten() {
    let shared = Shared::on(Machine::Platform);
    // Both in the second table of 64.
    let _one = shared.bound(0x42, 64);
    let _other = shared.bound(0x43, 65);
    // A bit of memory has flipped, and hardware may remember the descriptor as it was.
    let at = Pa::new(cd_place(&shared.fake, 8, 64).unwrap());
    shared.fake.store(at, shared.fake.load(at) ^ 1 << 31);
    shared.detach(65).unwrap();
    assert!(cd(&shared.fake, 8, 64).is_some());
    shared.fake.take_log();
    shared.detach(64).unwrap();
    let log = shared.fake.take_log();
    assert!([8, 9].iter().all(|&stream| log.contains(&Command::cfgi_cd(stream, 64, true))), "{log:?}");
    assert_eq!(cd(&shared.fake, 8, 64), None);
}

#[test]
fn part_17_a_descriptor_in_doubt_is_asked_for_though_its_table_went_with_another() {
    let shared = Shared::on(Machine::Platform);
    // Both in the second table of 64.
    let (_mm, process) = shared.bound(0x42, 64);
    let _other = shared.bound(0x43, 65);
    let deaf = |opcodes: &[Opcode]| shared.fake.with(|state| state.illegal = opcodes.to_vec());
    deaf(&[Opcode::CFGI_CD]);
    let refused = SyncError::Failed { code: 1 };
    assert_eq!(shared.detach(64), Err(refused));
    deaf(&[]);
    shared.detach(65).unwrap();
    assert_eq!(cd(&shared.fake, 8, 64), None, "no descriptor in there is valid any more");
    deaf(&[Opcode::CFGI_CD]);
    assert_eq!(shared.detach(64), Err(refused), "hardware may have the descriptor still");
    assert_eq!(process.quiesce(), Err(refused), "and walk the table that it leads to");
    deaf(&[]);
    shared.fake.take_log();
    shared.detach(64).unwrap();
    let log = shared.fake.take_log();
    assert!([8, 9].iter().all(|&stream| log.contains(&Command::cfgi_cd(stream, 64, true))), "{log:?}");
    shared.fake.take_log();
    shared.detach(64).unwrap();
    assert_eq!(shared.fake.take_log(), [], "once");
}

#[test]
fn part_12_a_private_asid_gives_way_live_and_is_forgotten_before_it_is_shared() {
    let shared = Shared::on(Machine::Pcie);
    let ours = shared.base.as_any().downcast_ref::<Domain<Fake, Arc<Fake>>>().unwrap();
    assert_eq!(ours.id(), 1);
    let entry = ste(&shared.fake, 8);
    let process = shared.process(&FakeMm::new(1));
    assert_eq!(ours.id(), 2);
    // One word of the descriptor changes, once for both streams; then the old number is forgotten.
    assert_eq!(cd(&shared.fake, 9, 0).unwrap()[0], 0x0002_e205_c000_3510);
    assert_eq!(ste(&shared.fake, 8), entry);
    let log = shared.fake.take_log();
    let wanted = [Opcode::CFGI_CD, Opcode::CFGI_CD, Opcode::SYNC, Opcode::TLBI_NH_ASID, Opcode::SYNC];
    assert_eq!(opcodes(&log), wanted);
    assert_eq!(log[3], Command::tlbi_nh_asid(0, 1));
    let _ = shared.base.flush_all().unwrap();
    assert_eq!(shared.fake.take_log()[0], Command::tlbi_nh_asid(0, 2));
    let domains: Vec<_> = (0..3).map(|_| shared.smmu.new_domain().unwrap()).collect();
    let id = |domain: &Arc<dyn HwDomain<Fake>>| {
        domain.as_any().downcast_ref::<Domain<Fake, Arc<Fake>>>().unwrap().id()
    };
    assert!(domains.iter().all(|domain| id(domain) > 2));
    drop(process);
}

#[test]
fn part_12_a_descriptor_that_is_valid_no_more_is_forgotten_all_the_same_before_its_asid_is_shared() {
    let shared = Shared::on(Machine::Pcie);
    // A bit of memory has flipped, and hardware may remember the descriptor as it was.
    let at = Pa::new(cd_place(&shared.fake, 8, 0).unwrap());
    shared.fake.store(at, shared.fake.load(at) ^ 1 << 31);
    let _process = shared.process(&FakeMm::new(1));
    let wanted = [Opcode::CFGI_CD, Opcode::CFGI_CD, Opcode::SYNC, Opcode::TLBI_NH_ASID, Opcode::SYNC];
    assert_eq!(opcodes(&shared.fake.take_log()), wanted);
}

#[test]
fn part_12_a_move_that_is_not_confirmed_is_no_share_and_is_taken_up_again() {
    let shared = Shared::on(Machine::Pcie);
    shared.fake.with(|state| state.illegal.push(Opcode::TLBI_NH_ASID));
    let mm = FakeMm::new(1);
    let refused = shared.sva().new_process_domain(mm.clone()).unwrap_err();
    assert_eq!(refused, ProcessDomainError::Sync(SyncError::Failed { code: 1 }));
    assert_eq!(mm.pins.load(SeqCst), 0);
    shared.fake.with(|state| state.illegal.clear());
    shared.fake.take_log();
    let _ = shared.base.flush_all().unwrap();
    let log = shared.fake.take_log();
    assert_eq!(log[..2], [Command::tlbi_nh_asid(0, 2), Command::tlbi_nh_asid(0, 1)], "both are in use");
    let _process = shared.process(&mm);
    shared.fake.take_log();
    let _ = shared.base.flush_all().unwrap();
    assert_eq!(shared.fake.take_log()[..2], [Command::tlbi_nh_asid(0, 2), Command::sync()]);
}

#[test]
fn part_12_an_invalidation_during_a_move_names_both_numbers() {
    let shared = &Shared::with(Machine::Pcie, |_, config| config.wait_limit_ns = Fake::PATIENT_NS);
    let iova = Iova::new(0x7000);
    shared.base.map(iova, Pa::new(0x8000_0000), 0x1000, Prot::cached(Perms::READ)).unwrap();
    let fake = &shared.fake;
    fake.works_while_waited_for.store(false, SeqCst);
    let before = fake.get(CMDQ_PROD);
    std::thread::scope(|scope| {
        let mover = scope.spawn(|| shared.process(&FakeMm::new(1)));
        // The descriptor has the new number, and hardware has not confirmed.
        while fake.get(CMDQ_PROD) == before {
            std::thread::yield_now();
        }
        let mut gather = Gather::new();
        shared.base.unmap(IovaRange::new(iova, 0x1000).unwrap(), &mut gather).unwrap();
        let queued = fake.get(CMDQ_PROD);
        let sync = scope.spawn(move || shared.base.sync(&mut gather).map(drop));
        while fake.get(CMDQ_PROD) == queued {
            std::thread::yield_now();
        }
        while !(mover.is_finished() && sync.is_finished()) {
            fake.work(1);
            std::thread::yield_now();
        }
        sync.join().unwrap().unwrap();
        fake.works_while_waited_for.store(true, SeqCst);
        drop(mover.join().unwrap());
    });
    let log = fake.take_log();
    let named: Vec<u64> =
        log.iter().filter(|c| c.opcode() == Opcode::TLBI_NH_VA).map(|c| c.0[0] >> 48).collect();
    assert_eq!(named, [2, 1], "entries may have been made with either");
}

#[test]
fn part_16_a_device_that_is_attached_elsewhere_while_it_is_disabled_has_its_ats_off_in_the_end() {
    let shared = &Shared::plain(Machine::Pcie, |_, config| config.wait_limit_ns = Fake::PATIENT_NS);
    let other = &shared.smmu.new_domain().unwrap();
    shared.fake.restless.store(true, SeqCst);
    for _ in 0..8 {
        shared.enable().unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| shared.sva().disable(&Shared::SOURCES).unwrap());
            for domain in [other, &shared.base] {
                scope.spawn(|| {
                    shared.smmu.attach(&Shared::SOURCES, &Target::Domain(domain.clone())).unwrap();
                });
            }
        });
        let turned = core::mem::take(&mut *shared.switches.turned.lock().unwrap());
        assert_eq!(turned.last().map(|&(on, _)| on), Some(false), "off, like its entry");
        assert_eq!(ste(&shared.fake, 8)[1] >> 28 & 3, 0);
    }
}

#[test]
fn part_17_no_pasid_means_anything_to_a_device_whose_removal_was_not_confirmed() {
    let shared = Shared::on(Machine::Pcie);
    let (mm, process) = shared.bound(0x42, 5);
    shared.fake.with(|state| state.illegal.push(Opcode::CFGI_STE));
    assert_eq!(shared.smmu.remove_device(&Shared::SOURCES), Err(SyncError::Failed { code: 1 }));
    shared.fake.with(|state| state.illegal.clear());
    assert_eq!(ste(&shared.fake, 8)[0], 1, "it stays known, and blocked");
    let other = shared.process(&FakeMm::new(0x43));
    let late = shared.sva().attach_pasid(&Shared::SOURCES, pasid(6), &other);
    assert_eq!(late, Err(AttachPasidError::Blocked));
    // And its silence keeps nothing back.
    shared.fake.with(|state| state.atc_silent = true);
    shared.detach(5).unwrap();
    drop(process);
    assert_eq!(mm.pins.load(SeqCst), 0);
    shared.smmu.remove_device(&Shared::SOURCES).unwrap();
    let bytes = shared.fake.live_bytes();
    shared.smmu.add_device("disk", &Shared::SOURCES).unwrap();
    shared.smmu.attach(&Shared::SOURCES, &Target::Domain(shared.base.clone())).unwrap();
    shared.smmu.remove_device(&Shared::SOURCES).unwrap();
    assert_eq!(shared.fake.live_bytes(), bytes, "nothing of the first time is left");
}
