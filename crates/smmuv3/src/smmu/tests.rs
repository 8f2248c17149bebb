#![expect(clippy::cast_possible_truncation, reason = "test values are small, registers 32 bits wide")]

extern crate std;

use portcullis_core::iommu::FaultReason;
use portcullis_hal::{BlockLayout, TableMemory};
use portcullis_spec::smmuv3::command::{Command, Opcode};
use portcullis_spec::smmuv3::registers::*;
use portcullis_types::Pa;

use super::*;
use crate::config::{Msi, Overrides};
use crate::testing::{Fake, Machine, Shared, opcodes, put_event, with_syncs};

type Driver = Smmu<Fake, Arc<Fake>>;

fn probe(fake: &Arc<Fake>) -> Arc<Driver> {
    Smmu::probe(fake.clone(), fake.clone(), Fake::config()).unwrap()
}

/// Hardware that signals the end of syncs by messages, or does not.
fn that_sends_messages(msi: bool) -> Arc<Fake> {
    let fake = Fake::new();
    fake.set(IDR0, fake.get(IDR0) as u32 | Idr0::new().with_msi(msi).into_bits());
    fake
}

fn cr0(fake: &Fake) -> Cr0 {
    Cr0::from_bits(fake.get(CR0) as u32)
}

#[test]
fn after_probe_translation_is_on_and_bypass_aborts() {
    let fake = Fake::new();
    let _smmu = probe(&fake);
    assert!(cr0(&fake).smmuen() && cr0(&fake).cmdqen() && cr0(&fake).eventqen());
    assert!(Gbpa::from_bits(fake.get(GBPA) as u32).abort());
    assert_eq!(fake.get(IRQ_CTRL), 0b101);
}

#[test]
fn what_firmware_knows_better_than_the_registers_counts() {
    let probed = |httu: u8, coherent: bool, overrides: Overrides| {
        let fake = Fake::new();
        let idr0 = Idr0::from_bits(fake.get(IDR0) as u32).with_cohacc(coherent).with_httu(httu);
        fake.set(IDR0, idr0.into_bits());
        let config = Config { overrides, ..Fake::config() };
        let smmu = Smmu::probe(fake.clone(), fake.clone(), config).unwrap();
        let features = smmu.features();
        (features.access_flag, features.dirty_state, smmu.hardware.coherent())
    };
    let none = Overrides::default();
    assert_eq!(probed(0, false, none), (false, false, false));
    assert_eq!(probed(2, true, none), (true, true, true));
    let access = Overrides { access_flag: true, ..none };
    assert_eq!(probed(0, false, access), (true, false, false));
    assert_eq!(probed(2, true, access), (true, true, true), "it takes nothing away");
    let dirty = Overrides { dirty_state: true, ..none };
    assert_eq!(probed(0, false, dirty), (true, true, false), "one does not come without the other");
    let all = Overrides { coherent: true, access_flag: true, dirty_state: true };
    assert_eq!(probed(0, false, all), (true, true, true));
}

/// The first three words of an STE decide here: valid and bypass, valid and abort.
const BYPASS: u64 = 0b1001;
const ABORT: u64 = 1;

fn with_boot_stream(fake: &Arc<Fake>, id: u32) -> Result<Arc<Smmu<Fake, Arc<Fake>>>, ProbeError> {
    let config = Config { boot_streams: vec![SourceId(id), SourceId(id)], ..Fake::config() };
    Smmu::probe(fake.clone(), fake.clone(), config)
}

#[test]
fn a_stream_that_firmware_uses_passes_an_smmu_that_was_off_all_the_time_until_it_is_attached() {
    let fake = Fake::new();
    let smmu = with_boot_stream(&fake, 8).unwrap();
    let writes = fake.with(|state| state.writes.clone());
    let on = writes.iter().position(|&(at, value)| at == CR0 && value & 1 == 1).unwrap();
    let closed = writes.iter().position(|&(at, value)| at == GBPA && value >> 20 & 1 == 1).unwrap();
    assert!(on < closed, "traffic is aborted while off only from then on");
    let entry = |id| {
        let configuration = smmu.configuration.lock();
        configuration.table.entry(id).map(|at| portcullis_hal::TableMemory::load(&*fake, at) & 0xf)
    };
    assert_eq!((entry(8), entry(9)), (Some(BYPASS), Some(0)), "all others are not valid");
    let word0 = smmu.configuration.lock().table.entry(8).unwrap();
    assert!(!fake.with(|state| state.stored_while_on.contains(&word0.get())), "it was there before that");
    smmu.add_device("screen", &[SourceId(8)]).unwrap();
    smmu.add_device("disk", &[SourceId(9)]).unwrap();
    assert_eq!((entry(8), entry(9)), (Some(BYPASS), Some(ABORT)), "its driver comes later");
    smmu.attach(&[SourceId(8)], &Target::Blocked).unwrap();
    assert_eq!(entry(8), Some(ABORT));
    smmu.remove_device(&[SourceId(8)]).unwrap();
    smmu.add_device("screen", &[SourceId(8)]).unwrap();
    assert_eq!(entry(8), Some(ABORT), "what was before is over");
    smmu.teardown().unwrap();
    assert_eq!(fake.live_bytes(), 0);
}

#[test]
fn a_stream_that_firmware_uses_passes_on_though_its_device_was_refused_at_first() {
    let fake = Fake::new();
    let smmu = with_boot_stream(&fake, 8).unwrap();
    let both = [SourceId(8), SourceId(9)];
    fake.with(|state| state.illegal_once = Some(Command::cfgi_ste(9, true)));
    let refused = smmu.add_device("screen", &both).unwrap_err();
    assert_eq!(refused, AddDeviceError::Sync(SyncError::Failed { code: 1 }));
    smmu.add_device("screen", &both).unwrap();
    let entry = |id| {
        let configuration = smmu.configuration.lock();
        configuration.table.entry(id).map(|at| portcullis_hal::TableMemory::load(&*fake, at) & 0xf)
    };
    assert_eq!((entry(8), entry(9)), (Some(BYPASS), Some(ABORT)));
}

#[test]
fn an_smmu_that_was_on_or_whose_probe_fails_is_closed_whoever_firmware_uses() {
    let fake = Fake::new();
    fake.set(CR0, 1);
    let _smmu = with_boot_stream(&fake, 8).unwrap();
    let writes = fake.with(|state| state.writes.clone());
    let off = writes.iter().position(|&(at, value)| at == CR0 && value & 1 == 0).unwrap();
    let closed = writes.iter().position(|&(at, value)| at == GBPA && value >> 20 & 1 == 1).unwrap();
    assert!(closed < off, "who else would pass is not known");

    let fake = Fake::new();
    let beyond = with_boot_stream(&fake, 0x1_0000).unwrap_err();
    assert_eq!(beyond, ProbeError::BootStream(SourceId(0x1_0000)));
    assert!(Gbpa::from_bits(fake.get(GBPA) as u32).abort() && !cr0(&fake).smmuen());
    assert_eq!(fake.live_bytes(), 0);
}

#[test]
fn memory_that_the_hardware_does_not_reach_is_no_memory() {
    for (oas, probed) in [(0, false), (1, true)] {
        // Above 4 GiB, which is as far as 32 bits reach.
        let fake = Fake::with_memory_at(0x1_4000_0000);
        fake.set(IDR5, Idr5::from_bits(fake.get(IDR5) as u32).with_oas(oas).into_bits());
        let outcome = Smmu::probe(fake.clone(), fake.clone(), Fake::config()).map(drop);
        assert_eq!(outcome, if probed { Ok(()) } else { Err(ProbeError::NoMemory) });
        assert!(Gbpa::from_bits(fake.get(GBPA) as u32).abort());
        assert_eq!(fake.live_bytes(), 0);
    }
}

#[test]
fn a_probe_that_fails_before_there_are_tables_closes_what_was_left_open_for_firmware() {
    let cramped =
        |fake: &Fake| fake.set(IDR1, Idr1::from_bits(fake.get(IDR1) as u32).with_sidsize(20).into_bits());
    let mute = |fake: &Fake| {
        // A queue of firmware's is on, and stays so.
        fake.set(CR0ACK, 8);
        fake.with(|state| state.stuck.push(CR0ACK));
    };
    for trouble in [&cramped as &dyn Fn(&Fake), &mute] {
        let fake = Fake::new();
        trouble(&fake);
        let config = Config {
            boot_streams: vec![SourceId(8)],
            stream_table: crate::TableShape::Linear,
            ..Fake::config()
        };
        let error = Smmu::probe(fake.clone(), fake.clone(), config).unwrap_err();
        assert!(matches!(error, ProbeError::NoMemory | ProbeError::Timeout { register: "SMMU_CR0ACK", .. }));
        assert!(Gbpa::from_bits(fake.get(GBPA) as u32).abort(), "{error:?}");
        assert_eq!(fake.live_bytes(), 0);
    }
}

#[test]
fn an_smmu_that_cannot_be_used_is_off_and_closed_and_what_is_none_is_not_touched() {
    let probed = |change: &dyn Fn(&Fake, &mut Config)| {
        let fake = Fake::new();
        // Somebody had it before.
        fake.set(CR0, 0b1101);
        fake.set(CR0ACK, 0b1101);
        let mut config = Fake::config();
        change(&fake, &mut config);
        let error = Smmu::probe(fake.clone(), fake.clone(), config).unwrap_err();
        (error, fake)
    };
    let idr0 = |fake: &Fake, change: fn(Idr0) -> Idr0| {
        fake.set(IDR0, change(Idr0::from_bits(fake.get(IDR0) as u32)).into_bits());
    };
    let no_stage: &dyn Fn(&Fake, &mut Config) =
        &|fake, _| idr0(fake, |idr0| idr0.with_s1p(false).with_s2p(false));
    let other_stage: &dyn Fn(&Fake, &mut Config) = &|fake, config| {
        idr0(fake, |idr0| idr0.with_s1p(false));
        config.stage = Stage::One;
    };
    let no_doorbell: &dyn Fn(&Fake, &mut Config) = &|_, config| {
        let doorbell = Pa::new(2);
        config.msi = Some(Msi { doorbell, event_data: 0, error_data: 0, page_request_data: 0 });
    };
    let few_bits: &dyn Fn(&Fake, &mut Config) = &|_, config| config.input_bits = Some(20);
    for (change, wanted) in [
        (no_stage, ProbeError::NoTranslation),
        (other_stage, ProbeError::NoSuchStage),
        (no_doorbell, ProbeError::BadDoorbell),
        (few_bits, ProbeError::NoGranule),
    ] {
        let (error, fake) = probed(change);
        assert_eq!(error, wanted);
        assert!(Gbpa::from_bits(fake.get(GBPA) as u32).abort(), "{error:?}");
        assert_eq!((cr0(&fake).into_bits(), fake.get(CR0ACK)), (0, 0), "{error:?}");
    }
    let (error, fake) = probed(&|fake, _| fake.set(AIDR, 0x10));
    assert_eq!(error, ProbeError::NotSmmuv3 { aidr: 0x10 });
    assert_eq!(fake.with(|state| state.writes.clone()), []);
}

#[test]
fn caches_are_invalidated_before_translation_is_on() {
    let fake = Fake::new();
    let _smmu = probe(&fake);
    let log = fake.take_log();
    assert_eq!(log[0], Command::cfgi_all());
    assert_eq!(opcodes(&log), [Opcode::CFGI_STE_RANGE, Opcode::SYNC, Opcode::TLBI_NSNH_ALL, Opcode::SYNC]);
    let writes = fake.with(|state| state.writes.clone());
    let enabled = writes.iter().position(|&(at, value)| at == CR0 && value & 1 == 1).unwrap();
    let last_command = writes.iter().rposition(|&(at, _)| at == CMDQ_PROD).unwrap();
    assert!(last_command < enabled);
}

#[test]
fn translated_traffic_is_checked_from_before_caches_are_invalidated_and_the_pri_queue_is_set_up_while_off() {
    let shared = Shared::plain(Machine::Pcie, |_, config| config.page_request_queue_lg2 = 19);
    let writes = shared.fake.with(|state| state.writes.clone());
    let first = |wanted: fn(&(usize, u64)) -> bool| writes.iter().position(wanted).unwrap();
    // CR0: SMMUEN bit 0, PRIQEN bit 1, ATSCHK bit 4.
    let checked = first(|&(at, value)| at == CR0 && value >> 4 & 1 == 1);
    let invalidated = first(|&(at, value)| at == CMDQ_PROD && value != 0);
    let enabled = first(|&(at, value)| at == CR0 && value >> 1 & 1 == 1);
    let translates = first(|&(at, value)| at == CR0 && value & 1 == 1);
    assert!(checked < invalidated && invalidated < enabled && enabled < translates);
    for register in [PRIQ_BASE, PRIQ_PROD, PRIQ_CONS] {
        assert!(writes.iter().rposition(|&(at, _)| at == register).unwrap() < enabled, "{register:#x}");
    }
    // 32 entries of 16 bytes at most here: LOG2SIZE 5, WA bit 62, and aligned to 512 bytes.
    let base = shared.fake.get(PRIQ_BASE);
    assert_eq!((base & 0x1f, base >> 62, base & 0x1e0), (5, 1, 0));
    let without = Fake::new();
    let _smmu = probe(&without);
    assert_eq!(cr0(&without).into_bits() >> 4, 0, "reserved where there is no ATS");
}

#[test]
fn guarded_registers_are_written_only_while_their_enable_is_off() {
    let fake = Fake::new();
    fake.set(CR0, 0xf);
    fake.set(CR0ACK, 0xf);
    fake.set(IRQ_CTRL, 5);
    fake.set(IRQ_CTRLACK, 5);
    let mut config = Fake::config();
    fake.set(
        IDR0,
        fake.get(IDR0) as u32 | Idr0::new().with_msi(true).with_ats(true).with_pri(true).into_bits(),
    );
    fake.set(IDR1, Idr1::from_bits(fake.get(IDR1) as u32).with_priqs(5).into_bits());
    config.cpus = Some(portcullis_core::sva::CpuFacts::new(SizeLg2::KIB_4));
    config.msi =
        Some(Msi { doorbell: Pa::new(0x800_0040), event_data: 7, error_data: 8, page_request_data: 9 });
    let _smmu = Smmu::probe(fake.clone(), fake.clone(), config).unwrap();
    let (mut cr0, mut irq) = (Cr0::from_bits(0xf), 5);
    for (at, value) in fake.with(|state| state.writes.clone()) {
        match at {
            CR0 => cr0 = Cr0::from_bits(value as u32),
            IRQ_CTRL => irq = value,
            STRTAB_BASE | STRTAB_BASE_CFG | CR2 => assert!(!cr0.smmuen()),
            CR1 => assert!(!cr0.smmuen() && !cr0.cmdqen() && !cr0.eventqen()),
            CMDQ_BASE | CMDQ_CONS => assert!(!cr0.cmdqen()),
            EVENTQ_BASE | EVENTQ_PROD | EVENTQ_CONS => assert!(!cr0.eventqen()),
            PRIQ_BASE | PRIQ_PROD | PRIQ_CONS => assert!(!cr0.priqen()),
            PRIQ_IRQ_CFG0 | PRIQ_IRQ_CFG1 | PRIQ_IRQ_CFG2 => assert_eq!(irq & 2, 0),
            GERROR_IRQ_CFG0 | GERROR_IRQ_CFG1 | GERROR_IRQ_CFG2 => assert_eq!(irq & 1, 0),
            EVENTQ_IRQ_CFG0 | EVENTQ_IRQ_CFG1 | EVENTQ_IRQ_CFG2 => assert_eq!(irq & 4, 0),
            _ => {}
        }
    }
    assert_eq!((fake.get(GERROR_IRQ_CFG0), fake.get(GERROR_IRQ_CFG1)), (0x800_0040, 8));
    assert_eq!((fake.get(EVENTQ_IRQ_CFG0), fake.get(EVENTQ_IRQ_CFG1)), (0x800_0040, 7));
    assert_eq!(fake.get(EVENTQ_IRQ_CFG2), 1);
    assert_eq!((fake.get(PRIQ_IRQ_CFG0), fake.get(PRIQ_IRQ_CFG1)), (0x800_0040, 9));
    assert_eq!(
        (fake.get(PRIQ_IRQ_CFG2), fake.get(IRQ_CTRL)),
        (1, 0b111),
        "each request interrupts, not only the last"
    );
}

#[test]
fn without_a_doorbell_msis_are_told_to_go_nowhere() {
    let fake = that_sends_messages(true);
    fake.write64(EVENTQ_IRQ_CFG0, 0xdead_0000);
    fake.write64(GERROR_IRQ_CFG0, 0xdead_0000);
    let _smmu = probe(&fake);
    assert_eq!((fake.get(EVENTQ_IRQ_CFG0), fake.get(GERROR_IRQ_CFG0)), (0, 0));
}

#[test]
fn errors_of_a_previous_owner_do_not_stop_the_new_queue() {
    let fake = Fake::new();
    fake.set(GERROR, 0b1_1101);
    let _smmu = probe(&fake);
    assert_eq!(fake.get(GERRORN), 0b1_1101);
}

#[test]
fn registers_that_never_answer_are_named() {
    for (register, name) in [(CR0ACK, "SMMU_CR0ACK"), (IRQ_CTRLACK, "SMMU_IRQ_CTRLACK"), (GBPA, "SMMU_GBPA")]
    {
        let fake = Fake::new();
        fake.with(|state| state.stuck.push(register));
        let error = Smmu::probe(fake.clone(), fake.clone(), Fake::config()).unwrap_err();
        assert!(matches!(error, ProbeError::Timeout { register, .. } if register == name), "{error:?}");
        assert!(!Cr0::from_bits(fake.get(CR0ACK) as u32).smmuen());
    }
}

#[test]
fn hardware_that_takes_no_command_is_left_off() {
    let fake = Fake::new();
    fake.with(|state| state.asleep = true);
    let error = Smmu::probe(fake.clone(), fake.clone(), Fake::config()).unwrap_err();
    assert!(matches!(error, ProbeError::Sync(SyncError::Timeout { .. })));
    assert_eq!((cr0(&fake).into_bits(), fake.live_bytes()), (0, 0));
}

#[test]
fn a_probe_that_fails_gives_its_memory_back() {
    let fake = Fake::new();
    fake.set(IDR1, Idr1::from_bits(fake.get(IDR1) as u32).with_sidsize(20).into_bits());
    let config = Config { stream_table: crate::TableShape::Linear, ..Fake::config() };
    let error = Smmu::probe(fake.clone(), fake.clone(), config).unwrap_err();
    assert_eq!((error, fake.live_bytes()), (ProbeError::NoMemory, 0));
}

#[test]
fn a_probe_that_fails_before_there_is_a_command_keeps_no_words_of_signals() {
    let fake = that_sends_messages(true);
    fake.with(|state| state.stuck.push(CR0ACK));
    let error = Smmu::probe(fake.clone(), fake.clone(), Fake::config()).unwrap_err();
    assert!(matches!(error, ProbeError::Timeout { register: "SMMU_CR0ACK", .. }), "{error:?}");
    assert_eq!((cr0(&fake).into_bits(), fake.live_bytes()), (0, 0));
}

#[test]
fn words_of_signals_are_given_back_when_none_is_on_its_way_any_more() {
    for late in [false, true] {
        let fake = that_sends_messages(true);
        let smmu = probe(&fake);
        fake.with(|state| state.signals_come_late = late);
        // The end of the sync is seen by the index.
        smmu.add_device("disk", &[SourceId(8)]).unwrap();
        assert_eq!(fake.with(|state| state.signal_on_its_way.is_some()), late);
        smmu.teardown().unwrap();
        assert!(fake.with(|state| state.signal_on_its_way.is_none()), "turning the queue off waits for none");
        assert_eq!(fake.live_bytes(), 0);
    }
    // If that is not confirmed, they are hardware's until it is; after a probe that failed there is nobody who could ask again.
    let fake = that_sends_messages(true);
    fake.with(|state| state.asleep = true);
    let error = Smmu::probe(fake.clone(), fake.clone(), Fake::config()).unwrap_err();
    assert!(matches!(error, ProbeError::Sync(SyncError::Timeout { .. })));
    assert!(cr0(&fake).into_bits() == 0 && fake.live_bytes() > 0);
}

#[test]
fn at_teardown_everything_is_kept_until_hardware_has_confirmed_that_what_was_under_way_is_over() {
    for msi in [false, true] {
        let fake = that_sends_messages(msi);
        let smmu = probe(&fake);
        smmu.add_device("disk", &[SourceId(8)]).unwrap();
        let domain = smmu.new_domain().unwrap();
        smmu.attach(&[SourceId(8)], &Target::Domain(domain.clone())).unwrap();
        let held = fake.live_bytes();
        fake.with(|state| state.asleep = true);
        for _ in 0..2 {
            let waiting_for = "the end of accesses that were under way";
            let down = smmu.teardown();
            assert!(
                matches!(down, Err(SyncError::Timeout { waiting_for: it, .. }) if it == waiting_for),
                "{down:?}"
            );
            assert_eq!(fake.live_bytes(), held);
            assert!(!cr0(&fake).smmuen() && Gbpa::from_bits(fake.get(GBPA) as u32).abort());
            let closed = SyncError::Timeout { waiting_for: "a command queue that works", last: 1 };
            assert_eq!(
                domain.flush_all().map(drop),
                Err(closed),
                "a device may be writing to what was unmapped"
            );
        }
        // Nobody is told that anything is led anywhere, nor that a device has come.
        for target in [Target::Domain(domain.clone()), Target::Identity] {
            assert_eq!(smmu.attach(&[SourceId(8)], &target), Err(AttachError::Unsupported));
        }
        let on = SyncError::Timeout { waiting_for: "an SMMU that is on", last: 0 };
        assert_eq!(smmu.add_device("net", &[SourceId(9)]), Err(AddDeviceError::Sync(on)));
        fake.with(|state| state.asleep = false);
        smmu.teardown().unwrap();
        assert!(domain.flush_all().is_ok());
        drop(domain);
        assert_eq!((cr0(&fake).into_bits(), fake.live_bytes()), (0, 0));
    }
}

#[test]
fn at_teardown_a_command_queue_that_stands_still_is_begun_anew() {
    for fatal in [false, true] {
        let fake = Fake::new();
        let smmu = probe(&fake);
        smmu.add_device("disk", &[SourceId(8)]).unwrap();
        smmu.attach(&[SourceId(8)], &Target::Identity).unwrap();
        if fatal {
            // Given up after some tries.
            fake.with(|state| state.fetch_aborts = true);
            assert!(matches!(
                smmu.attach(&[SourceId(8)], &Target::Blocked),
                Err(AttachError::LeftBlocked(_))
            ));
            fake.with(|state| state.fetch_aborts = false);
        } else {
            // Refused when nobody repairs the queue any more.
            fake.with(|state| state.illegal_once = Some(Command::cfgi_all()));
        }
        fake.take_log();
        smmu.teardown().unwrap();
        assert_eq!(fake.take_log(), [Command::cfgi_all(), Command::sync()], "{fatal}");
        assert_eq!((cr0(&fake).into_bits(), fake.live_bytes()), (0, 0));
    }
}

#[test]
fn at_teardown_a_command_queue_that_is_off_is_not_asked_before_it_is_on_again() {
    let fake = Fake::new();
    let smmu = probe(&fake);
    fake.with(|state| state.asleep = true);
    smmu.teardown().unwrap_err();
    // It was turned off more slowly than it was waited for.
    let off = cr0(&fake).with_cmdqen(false).into_bits();
    [CR0, CR0ACK].into_iter().for_each(|register| fake.set(register, off));
    fake.with(|state| {
        state.asleep = false;
        state.writes.clear();
    });
    smmu.teardown().unwrap();
    let writes = fake.with(|state| core::mem::take(&mut state.writes));
    let writes = writes.into_iter().map(|(register, _)| register);
    let writes: Vec<usize> = writes.filter(|register| [CR0, CMDQ_PROD].contains(register)).collect();
    assert_eq!(writes, [CR0, CMDQ_PROD, CR0, CMDQ_PROD, CMDQ_PROD, CR0]);
}

#[test]
fn at_teardown_what_was_under_way_is_asked_of_when_translation_is_off_also_at_a_second_try() {
    let fake = Fake::new();
    let smmu = probe(&fake);
    fake.with(|state| state.stuck.push(CR0ACK));
    fake.take_log();
    for _ in 0..2 {
        let down = smmu.teardown();
        let waiting_for = "SMMU_CR0ACK";
        assert!(
            matches!(down, Err(SyncError::Timeout { waiting_for: it, .. }) if it == waiting_for),
            "{down:?}"
        );
        assert_eq!(fake.take_log(), [], "accesses may be translated still");
    }
    fake.with(|state| state.stuck.clear());
    fake.set(CR0ACK, fake.get(CR0) as u32);
    smmu.teardown().unwrap();
    assert_eq!(fake.live_bytes(), 0);
}

#[test]
fn a_doorbell_that_cannot_be_one_is_refused() {
    // The hardware has 48 bits, and would write somewhere else.
    for doorbell in [0, 0x1002, 1 << 56, 1 << 48] {
        let fake = Fake::new();
        let msi = Msi { doorbell: Pa::new(doorbell), event_data: 0, error_data: 0, page_request_data: 0 };
        let config = Config { msi: Some(msi), ..Fake::config() };
        let error = Smmu::probe(fake.clone(), fake.clone(), config).unwrap_err();
        assert_eq!(error, ProbeError::BadDoorbell);
    }
}

#[test]
fn at_teardown_what_was_under_way_is_over_before_anything_is_given_back() {
    for (msi, size_lg2) in [(false, 8), (true, 8), (true, 0)] {
        let fake = that_sends_messages(msi);
        let config = Config { command_queue_lg2: size_lg2, ..Fake::config() };
        let smmu = Smmu::probe(fake.clone(), fake.clone(), config).unwrap();
        smmu.add_device("disk", &[SourceId(8)]).unwrap();
        smmu.attach(&[SourceId(8)], &Target::Identity).unwrap();
        fake.take_log();
        fake.with(|state| state.writes.clear());
        smmu.teardown().unwrap();
        assert_eq!(
            fake.take_log(),
            [Command::cfgi_all(), Command::sync()],
            "a sync waits for what it was led by"
        );
        let writes = fake.with(|state| state.writes.clone());
        // CR0: SMMUEN bit 0, CMDQEN bit 3.
        let translates_no_more = writes.iter().position(|&(at, value)| at == CR0 && value & 1 == 0).unwrap();
        let asked = writes.iter().position(|&(at, _)| at == CMDQ_PROD).unwrap();
        let closed = writes.iter().position(|&(at, value)| at == CR0 && value >> 3 & 1 == 0).unwrap();
        assert!(translates_no_more < asked && asked < closed, "{writes:x?}");
        assert_eq!(fake.live_bytes(), 0);
    }
}

#[test]
fn teardown_turns_everything_off_and_gives_everything_back() {
    let fake = Fake::new();
    let smmu = probe(&fake);
    smmu.add_device("disk", &[SourceId(8), SourceId(0x1234)]).unwrap();
    smmu.attach(&[SourceId(8)], &Target::Identity).unwrap();
    smmu.teardown().unwrap();
    smmu.teardown().unwrap();
    assert_eq!((cr0(&fake).into_bits(), fake.get(IRQ_CTRL), fake.live_bytes()), (0, 0, 0));
    assert!(Gbpa::from_bits(fake.get(GBPA) as u32).abort());
    assert_eq!(smmu.attach(&[SourceId(8)], &Target::Blocked), Err(AttachError::Unsupported));
}

#[test]
fn one_device_behind_16_bit_stream_ids_costs_less_than_20_kib() {
    let fake = Fake::new();
    let smmu = probe(&fake);
    smmu.add_device("disk", &[SourceId(8)]).unwrap();
    assert_eq!(smmu.stream_table_shape().stream_bits, 16);
    assert_eq!(smmu.table_bytes().stream_table, 2048 + 16384);
}

#[test]
fn a_new_second_level_table_is_announced_once() {
    let fake = Fake::new();
    let smmu = probe(&fake);
    fake.take_log();
    smmu.add_device("disk", &[SourceId(8)]).unwrap();
    smmu.add_device("net", &[SourceId(16)]).unwrap();
    smmu.add_device("far", &[SourceId(0x1000)]).unwrap();
    let ste: Vec<_> = fake.take_log().into_iter().filter(|c| c.opcode() == Opcode::CFGI_STE).collect();
    let wanted = [Command::cfgi_ste(8, false), Command::cfgi_ste(16, true), Command::cfgi_ste(0x1000, false)];
    assert_eq!(ste, wanted);
}

#[test]
fn a_device_that_comes_and_lacks_memory_for_one_of_several_streams_keeps_none_for_the_others() {
    let fake = Fake::new();
    let smmu = probe(&fake);
    let others = [SourceId(0x108), SourceId(0x208), SourceId(0x109)];
    let before = fake.live_bytes();
    // All memory but one table of the second level: of 256 entries of 64 bytes.
    let mut taken = Vec::new();
    let table = BlockLayout::naturally_aligned(14);
    let one = fake.alloc(table).unwrap();
    while let Some(at) = fake.alloc(table) {
        taken.push(at);
    }
    fake.free(one, table);
    let held = fake.live_bytes();
    assert_eq!(smmu.add_device("disk", &others), Err(AddDeviceError::NoMemory));
    assert_eq!(fake.live_bytes(), held);
    taken.into_iter().for_each(|at| fake.free(at, table));
    smmu.add_device("disk", &others).unwrap();
    assert_eq!(fake.live_bytes() - before, 2 * table.size_bytes());
}

#[test]
fn stream_ids_are_checked_before_anything_changes() {
    let fake = Fake::new();
    let smmu = probe(&fake);
    smmu.add_device("disk", &[SourceId(8), SourceId(8), SourceId(9)]).expect("the same id twice is one");
    smmu.add_device("disk", &[SourceId(8)]).expect("and so it is a second time");
    assert_eq!(
        smmu.add_device("far", &[SourceId(7), SourceId(0x1_0000)]),
        Err(AddDeviceError::OutOfRange { source: SourceId(0x1_0000), bits: 16 })
    );
    assert_eq!(
        smmu.add_device("net", &[SourceId(7), SourceId(9)]),
        Err(AddDeviceError::Taken { source: SourceId(9), by: "disk".into() })
    );
    assert_eq!(
        smmu.attach(&[SourceId(7)], &Target::Identity),
        Err(AttachError::UnknownSource(SourceId(7))),
        "a device that was refused left nothing behind"
    );
    smmu.remove_device(&[SourceId(9)]).unwrap();
    smmu.add_device("net", &[SourceId(7), SourceId(9)]).unwrap();
}

#[test]
fn blocked_and_identity_change_into_each_other_with_two_syncs() {
    let fake = Fake::new();
    let smmu = probe(&fake);
    smmu.add_device("disk", &[SourceId(8)]).unwrap();
    for target in [Target::Identity, Target::Blocked, Target::Identity] {
        fake.take_log();
        smmu.attach(&[SourceId(8)], &target).unwrap();
        assert_eq!(opcodes(&fake.take_log()), with_syncs(Opcode::CFGI_STE, 2));
        fake.take_log();
        smmu.attach(&[SourceId(8)], &target).unwrap();
        assert_eq!(fake.take_log(), [], "nothing changes, nothing is said");
    }
}

#[test]
fn an_attach_that_is_not_confirmed_goes_back_or_blocks() {
    let fake = Fake::new();
    let smmu = probe(&fake);
    smmu.add_device("disk", &[SourceId(8), SourceId(9)]).unwrap();
    fake.with(|state| state.asleep = true);
    let error = smmu.attach(&[SourceId(8), SourceId(9)], &Target::Identity).unwrap_err();
    assert!(matches!(error, AttachError::LeftBlocked(SyncError::Timeout { .. })), "{error:?}");
    let configuration = smmu.configuration.lock();
    for id in [8, 9] {
        let at = configuration.table.entry(id).unwrap();
        assert_eq!(portcullis_hal::TableMemory::load(&*fake, at), 1, "valid, aborts");
    }
}

#[test]
fn a_stream_that_is_refused_takes_those_before_it_back() {
    let fake = Fake::new();
    let smmu = probe(&fake);
    let both = [SourceId(8), SourceId(9)];
    smmu.add_device("disk", &both).unwrap();
    fake.with(|state| state.illegal_once = Some(Command::cfgi_ste(9, true)));
    let error = smmu.attach(&both, &Target::Identity).unwrap_err();
    assert!(matches!(error, AttachError::Sync(SyncError::Failed { code: 1 })), "{error:?}");
    let configuration = smmu.configuration.lock();
    for id in [8, 9] {
        let at = configuration.table.entry(id).unwrap();
        assert_eq!(portcullis_hal::TableMemory::load(&*fake, at), 1, "{id} is valid, and aborts");
    }
}

#[test]
fn what_an_entry_points_to_is_visible_before_the_entry_is() {
    let fake = Fake::new();
    let smmu = probe(&fake);
    smmu.add_device("disk", &[SourceId(8)]).unwrap();
    let domain = smmu.new_domain().unwrap();
    let at = smmu.configuration.lock().table.entry(8).unwrap().get();
    fake.with(|state| state.entry = Some(at..at + 64));
    smmu.attach(&[SourceId(8)], &Target::Domain(domain)).unwrap();
    assert!(!fake.with(|state| state.entry_came_early));
}

#[test]
fn a_refused_invalidation_undoes_the_attach() {
    let fake = Fake::new();
    let smmu = probe(&fake);
    smmu.add_device("disk", &[SourceId(8)]).unwrap();
    smmu.attach(&[SourceId(8)], &Target::Identity).unwrap();
    fake.with(|state| state.illegal.push(Opcode::CFGI_STE));
    let error = smmu.attach(&[SourceId(8)], &Target::Blocked).unwrap_err();
    assert!(matches!(error, AttachError::LeftBlocked(SyncError::Failed { code: 1 })), "{error:?}");
    assert!(!smmu.handle_errors().is_empty());
}

#[test]
fn events_come_out_in_order_once_and_leave_room_behind() {
    let fake = Fake::new();
    let smmu = probe(&fake);
    for at in 0..40u64 {
        put_event(&fake, [0x0000_0008_0000_0010, 1 << 35, at << 12, 0]);
    }
    let mut seen = Vec::new();
    assert_eq!(smmu.drain_events(&mut |record| seen.push(record.iova.unwrap().get() >> 12)), 40);
    assert_eq!(seen, (0..40).collect::<Vec<_>>());
    assert_eq!(fake.get(EVENTQ_CONS), fake.get(EVENTQ_PROD));
    assert_eq!(smmu.drain_events(&mut |_| panic!("no more")), 0);
}

#[test]
fn an_overflow_is_acknowledged_and_counted_once() {
    let fake = Fake::new();
    let smmu = probe(&fake);
    put_event(&fake, [0x04, 0, 0, 0]);
    fake.set(EVENTQ_PROD, fake.get(EVENTQ_PROD) as u32 | 1 << 31);
    let mut reasons = Vec::new();
    smmu.drain_events(&mut |record| reasons.push(record.reason));
    smmu.drain_events(&mut |_| {});
    assert_eq!(reasons, [FaultReason::Configuration]);
    assert_eq!(fake.get(EVENTQ_CONS), 1 << 31 | 1);
    assert_eq!(smmu.counts().event_overflows, 1);
}

#[test]
fn an_event_that_comes_while_others_are_taken_is_not_left_for_an_interrupt_that_never_comes() {
    let fake = Fake::new();
    let smmu = probe(&fake);
    let event = |at| [0x0000_0009_0000_0010, 0, at, 0];
    put_event(&fake, event(0x1000));
    fake.with(|state| state.late_event = Some(event(0x2000)));
    let mut seen = Vec::new();
    assert_eq!(smmu.drain_events(&mut |record| seen.push(record.raw[2])), 2);
    assert_eq!(seen, [0x1000, 0x2000]);
    // Hardware interrupts when the queue is not empty any more.
    assert_eq!(fake.get(EVENTQ_PROD), fake.get(EVENTQ_CONS));
}

#[test]
fn a_stalled_transaction_is_aborted_with_its_own_stream_and_tag() {
    let fake = Fake::new();
    let smmu = probe(&fake);
    fake.take_log();
    put_event(&fake, [0x0000_0009_0000_0010, 1 << 31 | 0x42, 0x1000, 0]);
    smmu.drain_events(&mut |_| {});
    fake.work(4);
    assert_eq!(fake.take_log(), [Command([0x0000_0009_0000_2044, 0x42])]);
}

#[test]
fn nonsense_in_the_event_index_yields_no_events() {
    let fake = Fake::new();
    let smmu = probe(&fake);
    fake.set(EVENTQ_PROD, 200);
    assert_eq!(smmu.drain_events(&mut |_| panic!("not a record")), 0);
}

#[test]
fn every_global_error_is_told_and_acknowledged() {
    let fake = Fake::new();
    let smmu = probe(&fake);
    let all = Gerror::new()
        .with_eventq_abt_err(true)
        .with_priq_abt_err(true)
        .with_msi_cmdq_abt_err(true)
        .with_msi_eventq_abt_err(true)
        .with_msi_priq_abt_err(true)
        .with_msi_gerror_abt_err(true)
        .with_sfm_err(true);
    fake.set(GERROR, all.into_bits());
    let told = smmu.handle_errors();
    assert_eq!(told.len(), 7);
    assert_eq!(told[6], GlobalError::ServiceFailure);
    assert_eq!(fake.get(GERRORN), u64::from(all.into_bits()));
    assert_eq!(smmu.handle_errors(), []);
    let error = smmu.add_device("disk", &[SourceId(8)]).unwrap_err();
    assert!(matches!(error, AddDeviceError::Sync(_)), "a failed SMMU confirms nothing");
}

#[test]
fn the_doorbell_region_is_where_user_space_expects_it() {
    let fake = Fake::new();
    let regions = probe(&fake).reserved_regions(&[]);
    assert_eq!(regions.len(), 1);
    assert_eq!((regions[0].range.first().get(), regions[0].range.last().get()), (0x800_0000, 0x80f_ffff));
    assert_eq!((regions[0].kind, regions[0].prot), (ReservedKind::SoftwareMsi, Prot::device(Perms::WRITE)));
}

#[test]
fn stage_and_granule_follow_the_hardware_and_the_wish() {
    let fake = Fake::new();
    assert!(!probe(&fake).uses_stage2());
    let fake = Fake::new();
    fake.set(IDR0, Idr0::from_bits(fake.get(IDR0) as u32).with_s1p(false).into_bits());
    assert!(probe(&fake).uses_stage2());
    let config = Config { stage: Stage::One, ..Fake::config() };
    let error = Smmu::probe(fake.clone(), fake.clone(), config).unwrap_err();
    assert_eq!(error, ProbeError::NoSuchStage);
    let features = *probe(&Fake::new()).features();
    assert_eq!(choose_granule(&features, Some(SizeLg2::KIB_64)), SizeLg2::KIB_64);
    assert_eq!(choose_granule(&features, Some(SizeLg2::MIB_2)), SizeLg2::KIB_4);
}

#[test]
fn hardware_that_does_not_snoop_finds_every_word_cleaned() {
    for substream_bits in [0, 10] {
        let fake = Fake::new();
        fake.set(IDR0, Idr0::from_bits(fake.get(IDR0) as u32).with_cohacc(false).into_bits());
        let config = Config { substream_bits, ..Fake::config() };
        let smmu = Smmu::probe(fake.clone(), fake.clone(), config).unwrap();
        smmu.add_device("disk", &[SourceId(8)]).unwrap();
        let domain = smmu.new_domain().unwrap();
        smmu.attach(&[SourceId(8)], &Target::Domain(domain.clone())).unwrap();
        smmu.attach(&[SourceId(8)], &Target::Identity).unwrap();
        domain.map(Iova::new(0x1000), Pa::new(0x1000), 0x1000, Prot::cached(Perms::READ)).unwrap();
        assert_eq!(fake.with(|state| state.dirty.clone()).len(), 0);
        assert_eq!(fake.get(CR1), 0, "and accesses are made non-cacheable");
    }
}

#[test]
fn what_the_driver_does_can_be_heard() {
    let fake = Fake::new();
    let smmu = probe(&fake);
    smmu.add_device("disk", &[SourceId(8)]).unwrap();
    smmu.attach(&[SourceId(8)], &Target::Identity).unwrap();
    put_event(&fake, [0x04, 0, 0, 0]);
    smmu.drain_events(&mut |_| {});
    let heard = fake.events.lock().unwrap().clone();
    for name in ["probe", "cmd", "sync", "ste_update", "attach", "event_record"] {
        assert!(heard.contains(&name), "{name}");
    }
    assert!(heard.iter().all(|name| name.chars().all(|c| c.is_ascii_lowercase() || c == '_')));
}

/// Found by the simulator, seed 0x85 on `smmuv3`: the second stream stayed where it was.
#[test]
fn a_device_that_is_left_blocked_is_so_with_every_stream() {
    let fake = Fake::new();
    let smmu = probe(&fake);
    let sources = [SourceId(8), SourceId(9)];
    smmu.add_device("two", &sources).unwrap();
    let domains = [smmu.new_domain().unwrap(), smmu.new_domain().unwrap()];
    smmu.attach(&sources, &Target::Domain(domains[0].clone())).unwrap();
    fake.with(|state| state.illegal.push(Opcode::CFGI_STE));
    let refused = smmu.attach(&sources, &Target::Domain(domains[1].clone()));
    assert!(matches!(refused, Err(AttachError::LeftBlocked(_))));
    // V, and Config 0b000: whatever comes is aborted.
    assert_eq!([8, 9].map(|stream| crate::testing::ste(&fake, stream)[0]), [1, 1]);
}

/// Found by the simulator, seed 0x85 on `smmuv3`: memory said that the device was blocked, and nobody said it to hardware.
#[test]
fn a_device_that_could_not_be_said_to_be_blocked_is_so_when_the_queue_works_again() {
    let fake = Fake::new();
    let smmu = probe(&fake);
    smmu.add_device("disk", &[SourceId(8)]).unwrap();
    smmu.attach(&[SourceId(8)], &Target::Identity).unwrap();
    fake.with(|state| state.illegal.push(Opcode::CFGI_STE));
    let refused = smmu.attach(&[SourceId(8)], &Target::Blocked);
    assert!(matches!(refused, Err(AttachError::LeftBlocked(_))));
    fake.work(64);
    let _found = smmu.handle_errors();
    fake.with(|state| state.illegal.clear());
    fake.take_log();
    let _found_before = smmu.handle_errors();
    assert_eq!(fake.take_log(), [Command::cfgi_ste(8, false), Command::sync()]);
    assert_eq!(smmu.handle_errors(), []);
    assert_eq!(fake.take_log(), [], "it was confirmed");
}

/// An SMMU that did not confirm that its device is blocked, and what the device was attached to.
fn unconfirmed() -> (Arc<Fake>, Arc<Driver>, alloc::sync::Weak<dyn HwDomain<Fake>>) {
    let fake = Fake::new();
    let smmu = probe(&fake);
    smmu.add_device("disk", &[SourceId(8)]).unwrap();
    let domain = smmu.new_domain().unwrap();
    smmu.attach(&[SourceId(8)], &Target::Domain(domain.clone())).unwrap();
    fake.with(|state| state.illegal.push(Opcode::CFGI_STE));
    let refused = smmu.attach(&[SourceId(8)], &Target::Blocked);
    assert!(matches!(refused, Err(AttachError::LeftBlocked(_))));
    fake.work(64);
    (fake, smmu, Arc::downgrade(&domain))
}

#[test]
fn what_a_device_was_attached_to_is_kept_until_hardware_has_confirmed_that_it_is_not_any_more() {
    let confirmed: [&dyn Fn(&Driver); 4] = [
        &|smmu| smmu.attach(&[SourceId(8)], &Target::Blocked).unwrap(),
        &|smmu| drop(smmu.handle_errors()),
        &|smmu| smmu.remove_device(&[SourceId(8)]).unwrap(),
        &|smmu| smmu.teardown().unwrap(),
    ];
    for confirm in confirmed {
        let (fake, smmu, kept) = unconfirmed();
        let _not_confirmed_either = smmu.handle_errors();
        fake.work(64);
        assert!(kept.upgrade().is_some(), "hardware may read its table");
        let held = fake.live_bytes();
        fake.with(|state| state.illegal.clear());
        confirm(&smmu);
        assert!(kept.upgrade().is_none() && fake.live_bytes() < held);
    }
}

#[test]
fn an_smmu_that_is_let_go_of_is_turned_off_first_and_keeps_what_hardware_may_read_if_it_does_not_stop() {
    let attached = || {
        let fake = Fake::new();
        let smmu = probe(&fake);
        smmu.add_device("disk", &[SourceId(8)]).unwrap();
        let domain = smmu.new_domain().unwrap();
        smmu.attach(&[SourceId(8)], &Target::Domain(domain.clone())).unwrap();
        (fake, smmu, Arc::downgrade(&domain))
    };
    let (fake, smmu, domain) = attached();
    drop(smmu);
    assert!(domain.upgrade().is_none());
    assert_eq!((cr0(&fake).into_bits(), fake.live_bytes()), (0, 0));
    let (fake, smmu, domain) = attached();
    let held = fake.live_bytes();
    fake.with(|state| state.stuck.push(CR0ACK));
    drop(smmu);
    assert!(domain.upgrade().is_some());
    assert_eq!(fake.live_bytes(), held);
}

#[test]
fn no_guests_table_is_nested_and_every_way_to_ask_for_one_says_so() {
    use portcullis_core::nested::{GuestInvalidation, GuestTable, NestedDomain, NestedError};

    struct Foreign;

    impl NestedDomain for Foreign {
        fn invalidate(&self, _: GuestInvalidation) -> Result<(), SyncError> {
            Ok(())
        }

        fn as_any(&self) -> &dyn core::any::Any {
            self
        }
    }

    let fake = Fake::new();
    let smmu = probe(&fake);
    smmu.add_device("disk", &[SourceId(9)]).unwrap();
    assert!(smmu.guest_tables().is_empty());
    assert_eq!(smmu.new_parent().err(), Some(DomainError::Unsupported));
    let table = GuestTable::Vmsa64 {
        root: portcullis_types::Gpa::new(0x7000),
        granule: SizeLg2::KIB_4,
        input_bits: 48,
        output_bits: 48,
        mair: 0xff,
    };
    let domain = smmu.new_domain().unwrap();
    assert_eq!(smmu.new_nested(&domain, &table).err(), Some(NestedError::Unsupported));
    let attached = smmu.attach(&[SourceId(9)], &Target::Nested(Arc::new(Foreign)));
    assert_eq!(attached, Err(AttachError::Unsupported));
}
