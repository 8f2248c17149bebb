//! Scalable mode: PASID tables, and processes that share their memory, word for word and in order.

extern crate std;

use alloc::boxed::Box;
use alloc::vec;
use core::fmt;
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};

use portcullis_core::iommu::{AddDeviceError, AttachError, Gather, HwDomain, Iommu, Target};
use portcullis_core::iopf::{GroupTag, PageRequest, ResponseCode};
use portcullis_core::mm::{
    Exited, ListenerId, MmFault, MmFaultError, MmId, MmListener, PasidSlot, PinAsidError, ProcessTable,
};
use portcullis_core::sva::CpuFacts;
use portcullis_hal::{Clock, TableMemory};
use portcullis_spec::vtd::invalidation::*;
use portcullis_spec::vtd::registers::{PQA, PQH, PQT, PRS};
use portcullis_types::{Iova, IovaRange, Perms, Prot};

use super::*;
use crate::config::Config;
use crate::descriptor::Descriptor;
use crate::span::Span;
use crate::testing::{Act, CAP_LEGACY, ECAP_SCALABLE, Fake, other_cpu};

const SID: SourceId = SourceId(0x0108);
const READ_WRITE: Prot = Prot::cached(Perms::READ_WRITE);

#[derive(Debug)]
struct Mm {
    slot: PasidSlot,
    table: ProcessTable,
}

impl Mm {
    fn new() -> Arc<Self> {
        Self::with(4, 0x1_2345_6000)
    }

    fn with(levels: u8, root: u64) -> Arc<Self> {
        let pat = 0x0007_0406_0007_0406;
        let table = ProcessTable::X86 { root: Pa::new(root), levels, output_bits: 46, pat };
        Arc::new(Self { slot: PasidSlot::new(), table })
    }
}

impl ProcessMemory for Mm {
    fn id(&self) -> MmId {
        MmId(7)
    }

    fn pasid_slot(&self) -> &PasidSlot {
        &self.slot
    }

    fn table(&self) -> ProcessTable {
        self.table
    }

    fn pin_asid(&self) -> Result<u16, PinAsidError> {
        Err(PinAsidError::Unsupported)
    }

    fn unpin_asid(&self) {
        panic!("nothing was pinned")
    }

    fn handle_fault(&self, _: &MmFault) -> Result<(), MmFaultError> {
        Ok(())
    }

    fn add_listener(&self, _: Arc<dyn MmListener>) -> Result<ListenerId, Exited> {
        Ok(ListenerId(1))
    }

    fn remove_listener(&self, _: ListenerId) {}
}

#[derive(Debug, Default)]
struct Switches {
    on: AtomicBool,
    turns: AtomicUsize,
}

impl DeviceSwitches for Switches {
    fn set_ats(&self, on: bool) {
        self.on.store(on, SeqCst);
        self.turns.fetch_add(1, SeqCst);
    }
}

fn facts() -> DeviceSvaFacts {
    DeviceSvaFacts { ats: true, pri: true, response_pasid: true, pasid_bits: 20, can_stall: false }
}

fn config() -> Config {
    let mut cpus = CpuFacts::new(SizeLg2::KIB_4);
    cpus.output_bits = 46;
    Config { cpus: Some(cpus), ..Fake::config() }
}

fn pasid(number: u32) -> Pasid {
    Pasid::new(number).unwrap()
}

type Unit = Vtd<Fake, Fake>;
type Shared = (Arc<Fake>, Unit, Arc<dyn HwDomain<Fake>>, Arc<Switches>);

/// A device in a domain that shares.
fn sharing() -> Shared {
    let fake = Fake::scalable();
    let unit = fake.probe(config());
    unit.add_device("gpu", &[SID]).unwrap();
    let domain = unit.new_domain().unwrap();
    unit.attach(&[SID], &Target::Domain(domain.clone())).unwrap();
    let switches = Arc::new(Switches::default());
    unit.enable(&[SID], &facts(), switches.clone()).unwrap();
    fake.take_log();
    (fake, unit, domain, switches)
}

#[test]
fn in_scalable_mode_a_domain_is_the_second_stage_of_requests_without_pasid() {
    let fake = Fake::scalable();
    let unit = fake.probe(config());
    unit.add_device("disk", &[SID]).unwrap();
    let domain = unit.new_domain().unwrap();
    unit.attach(&[SID], &Target::Domain(domain.clone())).unwrap();
    let context = fake.context(0x108).unwrap();
    assert_eq!((context[0] & 0xfff, context[1]), (1, 0), "present, the smallest directory, PASID 0");
    let entry = fake.pasid(0x108, 0).unwrap();
    // Present, 48 bits, second stage; domain 2, walks snoop.
    assert_eq!((entry[0] & 0xfff, entry[1], entry[2]), (0x89, 0x80_0002, 0));
    unit.attach(&[SID], &Target::Identity).unwrap();
    assert_eq!(fake.pasid(0x108, 0).unwrap()[..2], [0x109, 0x80_0001]);
    assert_eq!(fake.take_log()[4..6], [Descriptor::pasid_cache(2, 0), Descriptor::iotlb_domain(2)]);
    unit.attach(&[SID], &Target::Blocked).unwrap();
    assert_eq!(fake.context(0x108).unwrap()[0], 0);
}

#[test]
fn in_caching_mode_what_a_pasid_did_not_mean_before_is_forgotten_by_the_domain_id_0_and_by_its_own() {
    let fake = Fake::new(CAP_LEGACY | 1 << 7, ECAP_SCALABLE);
    let unit = fake.probe(config());
    unit.add_device("gpu", &[SID]).unwrap();
    let domain = unit.new_domain().unwrap();
    fake.take_log();
    unit.attach(&[SID], &Target::Domain(domain.clone())).unwrap();
    let not_present = [Descriptor::pasid_cache(0, 0), Descriptor::pasid_cache(2, 0)];
    let log = fake.take_log();
    assert_eq!(
        (log[0], &log[1..3], log[3]),
        (Descriptor::context(0, 0x108), &not_present[..], Descriptor::iotlb_domain(2))
    );
    unit.enable(&[SID], &facts(), Arc::new(Switches::default())).unwrap();
    let process = unit.new_process_domain(Mm::new()).unwrap();
    fake.take_log();
    unit.attach_pasid(&[SID], pasid(70), &process).unwrap();
    assert_eq!(fake.take_log()[..2], [Descriptor::pasid_cache(0, 70), Descriptor::pasid_cache(3, 70)]);
}

#[test]
fn a_source_leaves_only_when_hardware_has_confirmed_that_its_context_entry_is_gone() {
    let (fake, unit, _domain, _switches) = sharing();
    let tables = fake.live_bytes();
    fake.with(|state| state.refused = vec![TYPE_CONTEXT]);
    for _ in 0..2 {
        assert_eq!(unit.remove_device(&[SID]), Err(SyncError::Failed { code: 3 }));
        assert_eq!(fake.live_bytes(), tables, "hardware may read the directory");
    }
    fake.with(|state| state.refused.clear());
    fake.take_log();
    unit.remove_device(&[SID]).unwrap();
    let everything = [Descriptor::context_all(), Descriptor::pasid_cache_all(), Descriptor::iotlb_all()];
    assert!(fake.take_log().windows(3).any(|run| run == everything));
    assert!(fake.live_bytes() < tables);
}

#[test]
fn a_device_that_comes_and_lacks_memory_for_one_of_several_sources_keeps_none_for_the_others() {
    let others = [SID, SourceId(0x0188), SourceId(0x0208)];
    // A directory and its table for each, and then a table of contexts for both halves of one bus, and for another bus.
    for allowed in 0..9 {
        let fake = Fake::scalable();
        let unit = fake.probe(config());
        let before = fake.live_bytes();
        fake.with(|state| state.blocks_left = Some(allowed));
        assert_eq!(unit.add_device("disk", &others), Err(AddDeviceError::NoMemory), "{allowed}");
        assert_eq!(fake.live_bytes(), before, "{allowed}");
        fake.with(|state| state.blocks_left = None);
        unit.add_device("another", &others).expect("nobody has its sources");
        assert_eq!(fake.live_bytes(), before + 9 * 0x1000, "{allowed}");
        unit.remove_device(&others).unwrap();
        assert_eq!(fake.live_bytes(), before + 3 * 0x1000, "{allowed}: the tables of contexts stay");
    }
}

#[test]
fn a_bind_that_lacks_memory_for_one_of_several_sources_keeps_none_for_the_others() {
    let sources = [SID, SourceId(0x0208)];
    let fake = Fake::scalable();
    let unit = fake.probe(config());
    unit.add_device("gpu", &sources).unwrap();
    unit.attach(&sources, &Target::Domain(unit.new_domain().unwrap())).unwrap();
    unit.enable(&sources, &facts(), Arc::new(Switches::default())).unwrap();
    let [process, dead] = [(); 2].map(|()| unit.new_process_domain(Mm::new()).unwrap());
    dead.quiesce().unwrap();
    let state = || (fake.live_bytes(), [0x108, 0x208].map(|sid| fake.context(sid)));
    let before = state();
    assert_eq!(unit.attach_pasid(&sources, pasid(0x8000), &dead), Err(AttachPasidError::Exited));
    assert_eq!(state(), before);
    // A larger directory, and a table, for each.
    for allowed in 0..4 {
        fake.with(|state| state.blocks_left = Some(allowed));
        let refused = unit.attach_pasid(&sources, pasid(0x8000), &process);
        fake.with(|state| state.blocks_left = None);
        assert_eq!((refused, state()), (Err(AttachPasidError::NoMemory), before), "{allowed}");
    }
    // One of which hardware does not confirm that it knows it stays, since hardware may use it; its table and all of the other's do not.
    fake.with(|state| state.refused = vec![TYPE_CONTEXT]);
    let refused = unit.attach_pasid(&sources, pasid(0x8000), &process);
    assert_eq!(refused, Err(AttachPasidError::Sync(SyncError::Failed { code: 3 })));
    assert_eq!(fake.live_bytes(), before.0 + 0x2000, "for 2^16 PASIDs");
    fake.with(|state| state.refused.clear());
    unit.attach_pasid(&sources, pasid(0x8000), &process).unwrap();
    assert_eq!([0x108, 0x208].map(|sid| fake.pasid(sid, 0x8000).unwrap()[0] & 1), [1, 1]);
}

/// So one of a group can be taken back when another's attach fails, whatever it fails for, and nothing is left of it.
#[test]
fn a_device_is_led_anywhere_and_back_without_memory_and_shares_without() {
    for fake in [Fake::legacy(), Fake::scalable()] {
        let unit = fake.probe(config());
        unit.add_device("gpu", &[SID, SourceId(0x0208)]).unwrap();
        let target = Target::Domain(unit.new_domain().unwrap());
        let before = fake.live_bytes();
        fake.with(|state| state.blocks_left = Some(0));
        for next in [&target, &Target::Blocked, &target, &Target::Identity, &Target::Blocked] {
            unit.attach(&[SID, SourceId(0x0208)], next).unwrap();
            assert_eq!(fake.live_bytes(), before);
        }
        if unit.features().scalable {
            unit.enable(&[SID, SourceId(0x0208)], &facts(), Arc::new(Switches::default())).unwrap();
            assert_eq!(fake.live_bytes(), before);
        }
    }
}

#[test]
fn a_device_that_is_left_blocked_is_so_with_its_pasids_and_with_translated_addresses() {
    // In caching mode an attach can fail behind the last store.
    let fake = Fake::new(CAP_LEGACY | 1 << 7, ECAP_SCALABLE);
    let unit = fake.probe(config());
    unit.add_device("gpu", &[SID]).unwrap();
    let domain = unit.new_domain().unwrap();
    let target = Target::Domain(domain.clone());
    unit.attach(&[SID], &target).unwrap();
    unit.enable(&[SID], &facts(), Arc::new(Switches::default())).unwrap();
    let blocked = |target: &Target<Fake>, refused: u8| {
        fake.with(|state| state.refused = vec![refused]);
        let end = unit.attach(&[SID], target);
        fake.with(|state| state.refused.clear());
        assert_eq!(end, Err(AttachError::LeftBlocked(SyncError::Failed { code: 3 })));
        assert_eq!(fake.context(0x108).unwrap()[0], 0);
    };
    blocked(&Target::Blocked, TYPE_PASID_CACHE);
    unit.attach(&[SID], &target).unwrap();
    assert_eq!(fake.context(0x108).unwrap()[0] >> 2 & 1, 1, "DTE");
    unit.attach(&[SID], &Target::Blocked).unwrap();
    blocked(&target, TYPE_PASID_CACHE);
}

/// What the group of this number is told.
fn answer(group: u16) -> PageResponse {
    let (group, code) = (GroupTag::Prg(group), ResponseCode::Success);
    PageResponse { source: SID, pasid: Pasid::new(7), group, code }
}

#[test]
fn a_process_that_hardware_may_go_on_using_is_told_of_changes_until_that_has_ended_and_touches_nothing_then()
{
    let confirmed: [&dyn Fn(&Unit); 4] = [
        &|unit| unit.attach(&[SID], &Target::Blocked).unwrap(),
        &|unit| assert_eq!(unit.handle_errors(), []),
        &|unit| unit.remove_device(&[SID]).unwrap(),
        &|unit| unit.teardown().unwrap(),
    ];
    for confirm in confirmed {
        let fake = Fake::scalable();
        let unit = fake.probe(config());
        unit.add_device("gpu", &[SID]).unwrap();
        let process = unit.new_process_domain(Mm::new()).unwrap();
        let target = Target::Process(process.clone());
        unit.attach(&[SID], &target).unwrap();
        fake.with(|state| state.refused = vec![TYPE_PASID_CACHE]);
        assert!(matches!(unit.attach(&[SID], &Target::Blocked), Err(AttachError::LeftBlocked(_))));
        assert!(matches!(unit.attach(&[SID], &target), Err(AttachError::Sync(_))));
        fake.with(|state| state.refused.clear());
        fake.take_log();
        process.invalidate(IovaRange::all()).unwrap();
        assert!(fake.take_log().contains(&Descriptor::iotlb_pasid(2, 0)), "its entry may be cached");
        confirm(&unit);
        // Its entry is somebody else's memory, or will be.
        let before = fake.with(|state| state.story.len());
        process.invalidate(IovaRange::all()).unwrap();
        process.quiesce().unwrap();
        assert_eq!(fake.with(|state| state.story[before..].to_vec()), []);
    }
}

#[test]
fn of_all_that_a_source_was_to_be_attached_to_only_what_hardware_may_use_is_kept() {
    // In caching mode an attach can fail behind the last store, and before that hardware has confirmed that it forgot everything.
    let fake = Fake::new(CAP_LEGACY | 1 << 7, ECAP_SCALABLE);
    let unit = fake.probe(config());
    unit.add_device("gpu", &[SID]).unwrap();
    fake.with(|state| state.refused = vec![TYPE_PASID_IOTLB]);
    let tries: Vec<_> = core::iter::repeat_with(|| {
        let process = unit.new_process_domain(Mm::new()).unwrap();
        let attached = unit.attach(&[SID], &Target::Process(process.clone()));
        assert!(matches!(attached, Err(AttachError::LeftBlocked(_))), "{attached:?}");
        Arc::downgrade(&process)
    })
    .take(4)
    .collect();
    let kept = || tries.iter().map(|process| process.strong_count() > 0).collect::<Vec<_>>();
    assert_eq!(kept(), [false, false, false, true]);
    // The same once more is kept once more.
    let last = tries[3].upgrade().unwrap();
    assert!(unit.attach(&[SID], &Target::Process(last)).is_err());
    assert_eq!(kept(), [false, false, false, true]);
    fake.with(|state| state.refused.clear());
    fake.take_log();
    tries[3].upgrade().unwrap().invalidate(IovaRange::all()).unwrap();
    assert!(fake.kinds().contains(&TYPE_PASID_IOTLB), "hardware may use it");
    unit.attach(&[SID], &Target::Blocked).unwrap();
    assert_eq!(kept(), [false; 4]);
}

#[test]
fn an_answer_that_the_unit_refused_is_sent_once_more() {
    for refusals in [1, 2] {
        let (fake, unit, _domain, _switches) = sharing();
        fake.with(|state| state.refused = vec![TYPE_PAGE_GROUP_RESPONSE]);
        unit.respond(&answer(5));
        for _ in 1..refusals {
            fake.work(1);
            unit.handle_errors();
        }
        fake.work(1);
        fake.with(|state| state.refused.clear());
        unit.handle_errors();
        unit.hardware.run(&[Descriptor::iotlb_all()]).unwrap();
        let answered = fake.kinds().contains(&TYPE_PAGE_GROUP_RESPONSE);
        assert_eq!(answered, refusals == 1, "{refusals}");
    }
}

#[test]
fn an_answer_that_finds_no_room_is_sent_when_there_is_some() {
    const ANSWERS: u16 = 300;
    for by_errors in [false, true] {
        let (fake, unit, _domain, _switches) = sharing();
        fake.with(|state| state.asleep = true);
        let (limit_ns, before) = (unit.hardware.config.wait_limit_ns, fake.now_ns());
        (0..ANSWERS).for_each(|group| unit.respond(&answer(group)));
        let waited = fake.now_ns() - before;
        assert!(
            (limit_ns..2 * limit_ns).contains(&waited),
            "{waited} of {limit_ns}, for all that found no room"
        );
        fake.with(|state| state.asleep = false);
        fake.work(ANSWERS.into());
        let mut told = fake.take_log();
        assert!(told.len() < ANSWERS.into(), "{} were room for all", told.len());
        if by_errors {
            assert!(unit.handle_errors().is_empty());
        } else {
            assert_eq!(unit.drain_page_requests(&mut |drained| panic!("{drained:?}")), 0);
        }
        fake.work(ANSWERS.into());
        told.extend(fake.take_log());
        let wanted: Vec<_> =
            (0..ANSWERS).map(|group| Descriptor::response(0x108, Some(7), group, 0)).collect();
        assert_eq!(told, wanted);
    }
}

#[test]
fn answers_that_wait_behind_an_error_of_the_queue_are_sent_when_requests_are_drained() {
    let (fake, unit, _domain, _switches) = sharing();
    fake.with(|state| state.asleep = true);
    (0..300).for_each(|group| unit.respond(&answer(group)));
    fake.with(|state| {
        state.asleep = false;
        state.refused = vec![TYPE_PAGE_GROUP_RESPONSE];
    });
    // It stops at the first.
    fake.work(1);
    fake.with(|state| state.refused.clear());
    let mut told = Vec::new();
    for _ in 0..3 {
        assert_eq!(unit.drain_page_requests(&mut |drained| panic!("{drained:?}")), 0);
        fake.work(300);
        told.extend(fake.take_log());
    }
    let untold = |&group: &u16| !told.contains(&Descriptor::response(0x108, Some(7), group, 0));
    assert_eq!((0..300).find(untold), None);
}

#[test]
fn requests_stay_with_hardware_while_more_answers_wait_than_may() {
    let (fake, unit, _domain, _switches) = sharing();
    fake.with(|state| state.asleep = true);
    let queue = fake.get(PQA) & !0xfff;
    fake.store(Pa::new(queue), 5 << 32 | 0x108 << 16 | 0x101);
    fake.store(Pa::new(queue + 8), 0x7000 | 3 << 3 | 0b101);
    (0..0x8200u16).for_each(|number| unit.respond(&answer(number & 0x1ff)));
    fake.set(PQT, 32);
    fake.set(PRS, 1);
    assert_eq!(unit.drain_page_requests(&mut |drained| assert_eq!(drained, Drained::Left)), 0);
    assert_eq!((fake.get(PQH), fake.get(PRS)), (0, 1));
    fake.with(|state| state.asleep = false);
    let mut seen = 0;
    for _ in 0..8 {
        fake.work(0x200);
        unit.drain_page_requests(&mut |drained| seen += u32::from(drained != Drained::Left));
    }
    assert_eq!((seen, fake.get(PQH), fake.get(PRS)), (1, 32, 0));
}

#[test]
fn requests_stay_with_hardware_also_where_too_many_answers_wait_only_since_some_were_taken() {
    let (fake, unit, _domain, _switches) = sharing();
    fake.with(|state| state.asleep = true);
    let queue = fake.get(PQA) & !0xfff;
    for slot in [0, 32] {
        fake.store(Pa::new(queue + slot), 5 << 32 | 0x108 << 16 | 0x101);
        fake.store(Pa::new(queue + slot + 8), 0x7000 | 3 << 3 | 0b101);
    }
    fake.set(PQT, 32);
    let mut seen = 0;
    unit.drain_page_requests(&mut |_| {
        seen += 1;
        if seen == 1 {
            (0..0x8200u16).for_each(|number| unit.respond(&answer(number & 0x1ff)));
            fake.set(PQT, 64);
            fake.set(PRS, 0b11);
        }
    });
    assert_eq!((seen, fake.get(PQH), fake.get(PRS)), (1, 32, 0b11));
    fake.with(|state| state.asleep = false);
}

#[test]
fn an_answer_for_which_there_will_never_be_room_is_not_kept() {
    let (fake, unit, _domain, _switches) = sharing();
    unit.hardware.queue.close();
    unit.respond(&answer(1));
    assert!(unit.hardware.unsent.is_empty());
    assert_eq!(fake.take_log(), []);
}

#[test]
fn a_directory_that_hardware_may_not_know_of_is_said_again_before_a_pasid_is_put_into_it() {
    let (fake, unit, _domain, _switches) = sharing();
    let process = unit.new_process_domain(Mm::new()).unwrap();
    fake.with(|state| state.refused = vec![TYPE_CONTEXT]);
    for _ in 0..2 {
        let far = unit.attach_pasid(&[SID], pasid(0x8000), &process);
        assert_eq!(far, Err(AttachPasidError::Sync(SyncError::Failed { code: 3 })));
    }
    fake.with(|state| state.refused.clear());
    fake.take_log();
    unit.attach_pasid(&[SID], pasid(0x8000), &process).unwrap();
    assert!(fake.take_log().contains(&Descriptor::context(0, 0x108)));
}

#[test]
fn a_directory_that_was_outgrown_comes_back_when_hardware_has_confirmed_the_larger_one() {
    type Confirm = fn(&Unit, &Arc<dyn ProcessDomain>);
    let confirmed: [Confirm; 5] = [
        |unit, process| unit.attach_pasid(&[SID], pasid(0x8000), process).unwrap(),
        |unit, process| unit.attach_pasid(&[SID], pasid(5), process).unwrap(),
        |unit, _| assert_eq!(unit.handle_errors(), []),
        |unit, _| unit.remove_device(&[SID]).unwrap(),
        |unit, _| unit.teardown().unwrap(),
    ];
    for (case, confirm) in confirmed.into_iter().enumerate() {
        let (fake, unit, domain, _switches) = sharing();
        let process = unit.new_process_domain(Mm::new()).unwrap();
        let small = fake.context(0x108).unwrap()[0] & !0xfff;
        fake.with(|state| state.refused = vec![TYPE_CONTEXT]);
        let far = unit.attach_pasid(&[SID], pasid(0x8000), &process);
        assert_eq!(far, Err(AttachPasidError::Sync(SyncError::Failed { code: 3 })));
        assert_eq!(unit.handle_errors(), [], "this is not confirmed either");
        assert!(fake.is_given_out(small), "hardware may know it, case {case}");
        let held = fake.live_bytes();
        fake.with(|state| state.refused.clear());
        confirm(&unit, &process);
        // One more table for the first of them.
        let left = fake.live_bytes() - if case == 0 { 0x1000 } else { 0 };
        assert!(left + 0x1000 == held || case > 2 && !fake.is_given_out(small), "case {case}");
        drop((process, domain));
    }
}

#[test]
fn what_a_first_stage_maps_leaves_the_write_buffer_in_caching_mode_too() {
    let fake = Fake::new(CAP_LEGACY | 1 << 7 | 1 << 4, ECAP_SCALABLE & !(1 << 46));
    let unit = fake.probe(config());
    unit.add_device("disk", &[SID]).unwrap();
    let domain = unit.new_domain().unwrap();
    unit.attach(&[SID], &Target::Domain(domain.clone())).unwrap();
    fake.take_log();
    let before = unit.counts().write_buffer_flushes;
    domain.map(Iova::new(0x5000), Pa::new(0x9000), 0x1000, READ_WRITE).unwrap();
    assert_eq!(unit.counts().write_buffer_flushes, before + 1);
    assert!(fake.take_log().is_empty(), "a first stage's page that is not present is never cached");
}

#[test]
fn where_there_is_no_second_stage_domains_are_first_stage_and_forgotten_by_pasid() {
    let fake = Fake::new(CAP_LEGACY, ECAP_SCALABLE & !(1 << 46));
    let unit = fake.probe(config());
    unit.add_device("disk", &[SID]).unwrap();
    let domain = unit.new_domain().unwrap();
    assert_eq!(domain.aperture().last(), Iova::new((1 << 47) - 1));
    unit.attach(&[SID], &Target::Domain(domain.clone())).unwrap();
    let entry = fake.pasid(0x108, 0).unwrap();
    assert_eq!((entry[0], entry[1] & 0xffff, entry[1] >> 32), (0x41, 2, 0x0746_0746));
    fake.take_log();
    domain.map(Iova::new(0x5000), Pa::new(0x9000), 0x2000, READ_WRITE).unwrap();
    let mut gather = Gather::new();
    domain.unmap(IovaRange::new(Iova::new(0x5000), 0x1000).unwrap(), &mut gather).unwrap();
    let _ = domain.sync(&mut gather).unwrap();
    assert_eq!(fake.take_log()[0].0, [0x2_0036, 0x5040, 0, 0]);
    unit.attach(&[SID], &Target::Identity).unwrap();
    assert_eq!(fake.pasid(0x108, 0).unwrap()[0], 0x101, "AW is reserved without a second stage");
}

#[test]
fn a_device_is_prepared_by_flags_alone_and_its_ats_comes_last() {
    let (fake, unit, _domain, switches) = sharing();
    assert_eq!(fake.context(0x108).unwrap()[0] & 0xfff, 0b1_1101, "present, DTE, PASIDE, PRE");
    assert_eq!(fake.pasid(0x108, 0).unwrap()[0] & 1, 1);
    assert!(switches.on.load(SeqCst));
    unit.disable(&[SID]).unwrap();
    assert!(!switches.on.load(SeqCst));
    assert_eq!(fake.context(0x108).unwrap()[0] & 0xfff, 1);
    assert!(!fake.kinds().contains(&TYPE_DEVICE_TLB), "with its ATS off it would not answer");
}

#[test]
fn after_a_teardown_that_was_not_confirmed_nothing_more_is_shared() {
    let (fake, unit, domain, switches) = sharing();
    let other = [SourceId(0x0200)];
    unit.add_device("net", &other).unwrap();
    unit.attach(&other, &Target::Domain(domain)).unwrap();
    let process = unit.new_process_domain(Mm::new()).unwrap();
    fake.with(|state| state.refused = vec![TYPE_IOTLB]);
    assert_eq!(unit.teardown(), Err(SyncError::Failed { code: 3 }));
    fake.with(|state| state.refused.clear());
    let enabled = unit.enable(&other, &facts(), switches.clone());
    assert!(matches!(enabled, Err(EnableSvaError::Sync(_))));
    assert_eq!(unit.attach_pasid(&[SID], pasid(5), &process), Err(AttachPasidError::Blocked));
    assert!(!switches.on.load(SeqCst));
}

#[test]
fn what_is_unmapped_is_forgotten_by_the_iotlb_and_then_by_the_device() {
    let (fake, _unit, domain, _switches) = sharing();
    domain.map(Iova::new(0x5000), Pa::new(0x9000), 0x2000, READ_WRITE).unwrap();
    let mut gather = Gather::new();
    domain.unmap(IovaRange::new(Iova::new(0x5000), 0x1000).unwrap(), &mut gather).unwrap();
    let _ = domain.sync(&mut gather).unwrap();
    let log = fake.take_log();
    let kinds: Vec<u8> = log.iter().map(Descriptor::kind).collect();
    assert_eq!(kinds, [TYPE_IOTLB, TYPE_WAIT, TYPE_DEVICE_TLB, TYPE_WAIT]);
    assert_eq!((log[2].0[0] >> 32 & 0xffff, log[2].0[1]), (0x108, 0x5000));
}

#[test]
fn each_device_of_a_domain_is_told_to_forget_what_is_unmapped() {
    let (fake, unit, domain, _switches) = sharing();
    let other = SourceId(0x0209);
    unit.add_device("net", &[other]).unwrap();
    unit.attach(&[other], &Target::Domain(domain.clone())).unwrap();
    unit.enable(&[other], &facts(), Arc::new(Switches::default())).unwrap();
    domain.map(Iova::new(0x5000), Pa::new(0x9000), 0x1000, READ_WRITE).unwrap();
    fake.take_log();
    let mut gather = Gather::new();
    domain.unmap(IovaRange::new(Iova::new(0x5000), 0x1000).unwrap(), &mut gather).unwrap();
    let _ = domain.sync(&mut gather).unwrap();
    let log = fake.take_log();
    let told = log.iter().filter(|sent| sent.kind() == TYPE_DEVICE_TLB);
    let told: Vec<(u64, u64)> = told.map(|sent| (sent.0[0] >> 32 & 0xffff, sent.0[1])).collect();
    assert_eq!(told, [(0x108, 0x5000), (0x209, 0x5000)]);
}

#[test]
fn a_device_that_shares_leaves_a_domain_with_its_ats_off_and_is_sent_nothing_meanwhile() {
    let (fake, unit, _domain, switches) = sharing();
    let (next, turns) = (unit.new_domain().unwrap(), switches.turns.load(SeqCst));
    unit.attach(&[SID], &Target::Domain(next)).unwrap();
    assert_eq!(fake.kinds(), [TYPE_PASID_CACHE, TYPE_IOTLB, TYPE_WAIT]);
    assert_eq!((switches.on.load(SeqCst), switches.turns.load(SeqCst)), (true, turns + 2));
}

#[test]
fn a_blocked_device_that_would_not_answer_is_told_nothing_of_its_processes() {
    let (fake, unit, _domain, switches) = sharing();
    let process = unit.new_process_domain(Mm::new()).unwrap();
    unit.attach_pasid(&[SID], pasid(5), &process).unwrap();
    unit.attach(&[SID], &Target::Blocked).unwrap();
    assert!(!switches.on.load(SeqCst));
    fake.take_log();
    process.invalidate(IovaRange::new(Iova::new(0x7000), 0x1000).unwrap()).unwrap();
    assert_eq!(fake.kinds(), [TYPE_PASID_IOTLB, TYPE_WAIT]);
    unit.detach_pasid(&[SID], pasid(5)).unwrap();
    assert!(!fake.kinds().contains(&TYPE_PASID_DEVICE_TLB));
}

#[test]
fn a_device_that_never_answers_is_given_up_and_its_pasids_are_given_back() {
    let (fake, unit, _domain, switches) = sharing();
    let process = unit.new_process_domain(Mm::new()).unwrap();
    unit.attach_pasid(&[SID], pasid(5), &process).unwrap();
    fake.with(|state| state.unanswered = u32::MAX);
    let silent = Err(SyncError::Failed { code: 0x60 });
    assert_eq!(unit.detach_pasid(&[SID], pasid(5)), silent);
    assert_eq!(unit.detach_pasid(&[SID], pasid(5)), silent, "it may answer when it is asked again");
    assert_eq!(unit.disable(&[SID]), Err(DisableSvaError::PasidsInUse));
    unit.attach(&[SID], &Target::Blocked).unwrap();
    assert_eq!((fake.context(0x108).unwrap()[0], switches.on.load(SeqCst)), (0, false));
    unit.detach_pasid(&[SID], pasid(5)).unwrap();
    unit.disable(&[SID]).unwrap();
}

#[test]
fn a_pasid_of_a_blocked_device_is_kept_until_hardware_confirms_that_it_is_blocked() {
    let (fake, unit, _domain, _switches) = sharing();
    let process = unit.new_process_domain(Mm::new()).unwrap();
    unit.attach_pasid(&[SID], pasid(5), &process).unwrap();
    fake.with(|state| state.refused = vec![TYPE_CONTEXT]);
    let refused = SyncError::Failed { code: 3 };
    assert_eq!(unit.attach(&[SID], &Target::Blocked), Err(AttachError::LeftBlocked(refused)));
    assert_eq!(unit.detach_pasid(&[SID], pasid(5)), Err(refused), "the old context entry may live");
    assert_eq!(unit.disable(&[SID]), Err(DisableSvaError::PasidsInUse));
    fake.with(|state| state.refused.clear());
    fake.take_log();
    unit.detach_pasid(&[SID], pasid(5)).unwrap();
    assert!(fake.take_log().contains(&Descriptor::context_all()));
    unit.disable(&[SID]).unwrap();
}

#[test]
fn a_device_that_goes_off_while_it_is_told_to_forget_is_not_waited_for() {
    let (fake, unit, domain, _switches) = sharing();
    domain.map(Iova::new(0x5000), Pa::new(0x9000), 0x2000, READ_WRITE).unwrap();
    fake.with(|state| state.unanswered = 3);
    assert_eq!(domain.flush_all().err(), Some(SyncError::Failed { code: 0x60 }), "it is on and silent");
    let hardware = unit.hardware.clone();
    fake.with(|state| {
        state.unanswered = 3;
        state.at_timeout = Some(Box::new(move || hardware.atcs.lock().turned_off(&[0x108])));
    });
    let _ = domain.flush_all().unwrap();
}

/// Somebody who unmaps in the very moment in which ATS is turned on or off.
struct Busy {
    domain: Arc<dyn HwDomain<Fake>>,
    fake: Arc<Fake>,
    told: AtomicUsize,
}

impl fmt::Debug for Busy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Busy")
    }
}

impl DeviceSwitches for Busy {
    fn set_ats(&self, _: bool) {
        self.fake.take_log();
        let _ = self.domain.flush_all().unwrap();
        let told = self.fake.kinds().contains(&TYPE_DEVICE_TLB);
        self.told.fetch_add(usize::from(told), SeqCst);
    }
}

#[test]
fn a_device_is_told_from_before_its_ats_is_on_until_after_it_is_off() {
    let (fake, unit, domain, _switches) = sharing();
    unit.disable(&[SID]).unwrap();
    let busy = Arc::new(Busy { domain: domain.clone(), fake, told: AtomicUsize::new(0) });
    let told = || busy.told.load(SeqCst);
    unit.enable(&[SID], &facts(), busy.clone()).unwrap();
    assert_eq!(told(), 1, "it may have asked at once");
    unit.attach(&[SID], &Target::Domain(domain.clone())).unwrap();
    assert_eq!(told(), 3, "off and on again");
    unit.disable(&[SID]).unwrap();
    assert_eq!(told(), 4, "what it was answered before is still in use");
}

#[test]
fn a_pasid_leads_to_the_table_of_the_process_and_costs_one_page() {
    let (fake, unit, _domain, _switches) = sharing();
    let before = unit.table_bytes();
    let process = unit.new_process_domain(Mm::new()).unwrap();
    unit.attach_pasid(&[SID], pasid(100), &process).unwrap();
    let entry = fake.pasid(0x108, 100).unwrap();
    assert_eq!(entry[0], 0x41, "present, first stage");
    assert_eq!(
        entry[1],
        0x0746_0746 << 32 | 1 << 24 | 1 << 23 | 3,
        "types, accesses and walks snoop, domain 3"
    );
    assert_eq!(entry[2], 0x1_2345_6000 | 1 << 4, "the root, 4 levels, privileged writes obey");
    assert!(fake.take_log().is_empty());
    assert_eq!(unit.table_bytes() - before, 0x1000);
    assert_eq!(unit.attach_pasid(&[SID], pasid(100), &process), Err(AttachPasidError::Taken));
    assert!(matches!(unit.attach_pasid(&[SID], pasid(0), &process), Err(AttachPasidError::OutOfRange(_))));
    let busy = unit.attach(&[SID], &Target::Identity);
    assert_eq!(busy, Err(AttachError::PasidsInUse));
    unit.attach(&[SID], &Target::Blocked).unwrap();
    assert_eq!(fake.context(0x108).unwrap()[0], 0, "with PASID or without");
}

#[test]
fn memory_types_are_left_out_where_hardware_does_not_know_them() {
    let fake = Fake::new(CAP_LEGACY, ECAP_SCALABLE & !(1 << 25));
    let unit = fake.probe(config());
    unit.add_device("gpu", &[SID]).unwrap();
    unit.attach(&[SID], &Target::Identity).unwrap();
    unit.enable(&[SID], &facts(), Arc::new(Switches::default())).unwrap();
    let process = unit.new_process_domain(Mm::new()).unwrap();
    unit.attach_pasid(&[SID], pasid(5), &process).unwrap();
    assert_eq!(fake.pasid(0x108, 5).unwrap()[1] >> 32, 0);
}

#[test]
fn a_directory_grows_with_the_largest_pasid_and_takes_its_tables_along() {
    let (fake, unit, _domain, _switches) = sharing();
    let process = unit.new_process_domain(Mm::new()).unwrap();
    let whole = fake.pasid(0x108, 0);
    let before = unit.table_bytes();
    unit.attach_pasid(&[SID], pasid(0xf_ffff), &process).unwrap();
    assert_eq!(fake.pasid(0x108, 0xf_ffff).unwrap()[0], 0x41);
    assert_eq!(fake.pasid(0x108, 0), whole);
    assert_eq!(fake.context(0x108).unwrap()[0] & 0xfff, 0b1110_0001_1101, "PDTS 7, and the flags");
    assert_eq!(fake.kinds(), [TYPE_CONTEXT, TYPE_PASID_CACHE, TYPE_IOTLB, TYPE_WAIT]);
    assert_eq!(unit.table_bytes() - before, (128 << 10) - 0x1000 + 0x1000);
}

#[test]
fn a_directory_for_20_bits_of_pasids_takes_memory_in_proportion_to_those_in_use() {
    let (_fake, unit, _domain, _switches) = sharing();
    let process = unit.new_process_domain(Mm::new()).unwrap();
    let bytes = |unit: &Vtd<Fake, Fake>, last: u32, count: u32| {
        let used = (last + 1 - count..=last).rev();
        for pasid in used {
            match unit.attach_pasid(&[SID], self::pasid(pasid), &process) {
                Ok(()) | Err(AttachPasidError::Taken) => {}
                Err(error) => panic!("{pasid}: {error:?}"),
            }
        }
        unit.table_bytes()
    };
    let none = unit.table_bytes();
    // From the bottom, as they are given out: a table of a page for each 64 of them.
    assert_eq!(bytes(&unit, 1, 1) - none, 0, "PASID 0 has a table already");
    assert_eq!(bytes(&unit, 1000, 1000) - none, 15 * 0x1000);
    let many = bytes(&unit, 10_000, 10_000) - none;
    assert_eq!(many, 156 * 0x1000, "and the directory is one page still");
    // The largest of all: the whole directory, 128 KiB, and one table.
    assert_eq!(bytes(&unit, 0xf_ffff, 1) - none, many + 0x2_0000 - 0x1000 + 0x1000);
}

#[test]
fn an_invalidation_names_the_pasid_and_then_its_devices() {
    let (fake, unit, _domain, _switches) = sharing();
    let process = unit.new_process_domain(Mm::new()).unwrap();
    unit.attach_pasid(&[SID], pasid(5), &process).unwrap();
    fake.take_log();
    process.invalidate(IovaRange::new(Iova::new(0x7000), 0x1000).unwrap()).unwrap();
    let log = fake.take_log();
    assert_eq!(log[0].0, [0x5_0003_0036, 0x7000, 0, 0]);
    assert_eq!(log[2], Descriptor::pasid_device_tlb(0x108, 5, Some(Span { first: 0x7000, mask: 0 })));
    process.invalidate(IovaRange::all()).unwrap();
    assert_eq!(fake.take_log()[0], Descriptor::iotlb_pasid(3, 5));
}

#[test]
fn on_exit_devices_are_told_to_forget_though_the_unit_did_not_confirm_that_it_has() {
    let (fake, unit, _domain, _switches) = sharing();
    let process = unit.new_process_domain(Mm::new()).unwrap();
    unit.attach_pasid(&[SID], pasid(5), &process).unwrap();
    fake.with(|state| state.refused = vec![TYPE_PASID_CACHE]);
    fake.take_log();
    assert_eq!(process.quiesce(), Err(SyncError::Failed { code: 3 }), "what the unit did not do");
    assert!(fake.take_log().contains(&Descriptor::pasid_device_tlb(0x108, 5, None)));
    // Who asks again has all of it done.
    fake.with(|state| state.refused.clear());
    process.quiesce().unwrap();
    let order = [TYPE_PASID_CACHE, TYPE_PASID_IOTLB, TYPE_WAIT, TYPE_PASID_DEVICE_TLB, TYPE_WAIT];
    assert_eq!(fake.kinds(), order);
}

#[test]
fn on_exit_the_entry_faults_quietly_before_caches_and_devices_forget_in_order() {
    let (fake, unit, _domain, _switches) = sharing();
    let process = unit.new_process_domain(Mm::new()).unwrap();
    unit.attach_pasid(&[SID], pasid(5), &process).unwrap();
    fake.take_log();
    process.quiesce().unwrap();
    assert_eq!(fake.pasid(0x108, 5).unwrap()[0], 0b10);
    let story = fake.with(|state| state.story.clone());
    let quiet = story.iter().position(|act| matches!(act, Act::Store(_, 0b10))).unwrap();
    let first = story.iter().position(|act| matches!(act, Act::Consumed(_))).unwrap();
    assert!(quiet < first);
    let order = [TYPE_PASID_CACHE, TYPE_PASID_IOTLB, TYPE_WAIT, TYPE_PASID_DEVICE_TLB, TYPE_WAIT];
    assert_eq!(fake.kinds(), order);
    assert_eq!(unit.attach_pasid(&[SID], pasid(6), &process), Err(AttachPasidError::Exited));
    unit.detach_pasid(&[SID], pasid(5)).unwrap();
    assert_eq!(fake.pasid(0x108, 5).unwrap()[0], 0, "what comes now is an error again");
    let log = fake.take_log();
    let kinds: Vec<u8> = log.iter().map(Descriptor::kind).collect();
    assert_eq!(kinds, order);
    assert_eq!(log[4].0[0] & 0xff, 0xe5, "the last wait drains page requests");
    drop(process);
    assert_eq!(fake.kinds(), [TYPE_IOTLB, TYPE_WAIT]);
}

#[test]
fn a_detached_pasid_faults_quietly_until_what_was_under_way_is_drained_and_loudly_from_then_on() {
    let (fake, unit, _domain, _switches) = sharing();
    let process = unit.new_process_domain(Mm::new()).unwrap();
    unit.attach_pasid(&[SID], pasid(5), &process).unwrap();
    let before = fake.with(|state| state.story.len());
    unit.detach_pasid(&[SID], pasid(5)).unwrap();
    let story = fake.with(|state| state.story[before..].to_vec());
    let consumed: Vec<usize> = (0..story.len()).filter(|&at| matches!(story[at], Act::Consumed(_))).collect();
    let Act::Store(entry, 0b10) = story[0] else { panic!("FPD first of all: {:x?}", story[0]) };
    let (drained, loud) = (consumed[consumed.len() - 1], story.len() - 1);
    assert!(matches!(story[drained], Act::Consumed(wait) if wait.0[0] & 0xff == 0xe5), "page requests, too");
    assert_eq!((&story[loud], drained < loud), (&Act::Store(entry, 0), true));
    let meanwhile = |act: &&Act| matches!(act, Act::Store(at, _) if *at == entry);
    assert_eq!(story[1..loud].iter().find(meanwhile), None);
}

#[test]
fn a_device_that_does_not_answer_is_asked_three_times_and_the_pasid_stays_taken() {
    let (fake, unit, _domain, _switches) = sharing();
    let process = unit.new_process_domain(Mm::new()).unwrap();
    unit.attach_pasid(&[SID], pasid(5), &process).unwrap();
    fake.with(|state| state.unanswered = 3);
    assert_eq!(unit.detach_pasid(&[SID], pasid(5)), Err(SyncError::Failed { code: 0x60 }));
    assert_eq!(unit.attach_pasid(&[SID], pasid(5), &process), Err(AttachPasidError::Taken));
    assert_eq!(unit.counts().device_timeouts, 3);
    fake.with(|state| state.unanswered = 2);
    unit.detach_pasid(&[SID], pasid(5)).unwrap();
}

#[test]
fn an_innocent_senders_run_is_sent_again_when_another_device_does_not_answer() {
    let (fake, unit, domain, _switches) = sharing();
    domain.map(Iova::new(0x5000), Pa::new(0x9000), 0x2000, READ_WRITE).unwrap();
    fake.with(|state| state.unanswered = 1);
    let _ = domain.flush_all().unwrap();
    assert_eq!(unit.counts().device_timeouts, 1);
}

#[test]
fn page_requests_come_in_order_strangers_are_refused_and_an_overflow_is_told_last() {
    let (fake, unit, _domain, _switches) = sharing();
    let queue = fake.get(PQA) & !0xfff;
    let put = |slot: u64, word0: u64, word1: u64| {
        fake.store(Pa::new(queue + 32 * slot), word0);
        fake.store(Pa::new(queue + 32 * slot + 8), word1);
    };
    put(0, 5 << 32 | 0x108 << 16 | 0x101, 0x7000 | 3 << 3 | 0b001);
    put(1, 5 << 32 | 0x108 << 16 | 0x101, 0x8000 | 3 << 3 | 0b110);
    put(2, 5 << 32 | 0x200 << 16 | 0x101, 0x8000 | 4 << 3 | 0b101);
    fake.set(PQT, 96);
    fake.set(PRS, 0b11);
    fake.take_log();
    let mut seen = vec![];
    assert_eq!(unit.drain_page_requests(&mut |drained| seen.push(drained)), 3);
    let request = |address, last, wanted| {
        Drained::Request(PageRequest {
            source: SID,
            pasid: Pasid::new(5),
            group: GroupTag::Prg(3),
            last,
            wanted,
            address: Iova::new(address),
        })
    };
    let wanted =
        [request(0x7000, false, Perms::READ), request(0x8000, true, Perms::WRITE), Drained::Overflowed];
    assert_eq!(seen, wanted);
    assert_eq!((fake.get(PQH), fake.get(PRS)), (96, 0));
    fake.work(4);
    assert_eq!(fake.take_log(), [Descriptor::response(0x200, Some(5), 4, 1)]);
    let code = ResponseCode::Success;
    unit.respond(&PageResponse { source: SID, pasid: Pasid::new(5), group: GroupTag::Prg(3), code });
    fake.work(4);
    assert_eq!(fake.take_log(), [Descriptor::response(0x108, Some(5), 3, 0)]);
}

#[test]
fn what_is_missing_for_sharing_is_named() {
    let refusal = |extended: u64, change: &dyn Fn(&mut DeviceSvaFacts)| {
        let fake = Fake::new(CAP_LEGACY, extended);
        let unit = fake.probe(config());
        unit.add_device("gpu", &[SID]).unwrap();
        let mut device = facts();
        change(&mut device);
        unit.check(&[SID], &device).unwrap_err()
    };
    assert_eq!(refusal(ECAP_SCALABLE, &|it| it.ats = false), SvaRefusal::NoAts(Side::Device));
    assert_eq!(refusal(ECAP_SCALABLE & !(1 << 29), &|_| {}), SvaRefusal::NoPri(Side::Iommu));
    assert_eq!(refusal(ECAP_SCALABLE, &|it| it.response_pasid = false), SvaRefusal::ResponsePasid);
    assert_eq!(refusal(ECAP_SCALABLE & !(1 << 47), &|_| {}), SvaRefusal::NoFirstStage);
    assert_eq!(refusal(ECAP_SCALABLE & !(1 << 48), &|_| {}), SvaRefusal::NotCoherent);
    assert_eq!(refusal(ECAP_SCALABLE & !(1 << 43), &|_| {}), SvaRefusal::NoFirstStage, "legacy mode");
    let (_fake, unit, _domain, _switches) = sharing();
    let five = unit.new_process_domain(Mm::with(5, 0x1000)).unwrap_err();
    assert_eq!(five, ProcessDomainError::UnsupportedTable);
}

#[test]
fn a_device_that_leaves_while_it_shares_takes_everything_of_its_with_it() {
    let fake = Fake::scalable();
    let before = fake.live_bytes();
    let unit = fake.probe(config());
    unit.add_device("gpu", &[SID]).unwrap();
    let domain = unit.new_domain().unwrap();
    unit.attach(&[SID], &Target::Domain(domain.clone())).unwrap();
    unit.enable(&[SID], &facts(), Arc::new(Switches::default())).unwrap();
    let process = unit.new_process_domain(Mm::new()).unwrap();
    unit.attach_pasid(&[SID], pasid(5), &process).unwrap();
    unit.remove_device(&[SID]).unwrap();
    assert_eq!(fake.context(0x108).unwrap()[0], 0);
    fake.take_log();
    process.quiesce().unwrap();
    assert!(fake.take_log().is_empty(), "nobody is left to be told");
    unit.teardown().unwrap();
    drop((domain, process));
    assert_eq!(fake.live_bytes(), before + 0x1000);
}

/// A device that is attached to a process as a whole.
fn whole() -> (Arc<Fake>, Arc<Unit>, Arc<dyn ProcessDomain>) {
    let fake = Fake::scalable();
    let unit = fake.probe(config());
    unit.add_device("gpu", &[SID]).unwrap();
    let process = unit.new_process_domain(Mm::new()).unwrap();
    unit.attach(&[SID], &Target::Process(process.clone())).unwrap();
    fake.take_log();
    (fake, Arc::new(unit), process)
}

/// Has the process exit on another CPU behind the first store that `about` is true of. What it answers is waited for by what comes back.
fn exit_behind(
    fake: &Fake,
    process: &Arc<dyn ProcessDomain>,
    about: impl Fn(Pa, u64) -> bool + Send + 'static,
) -> impl FnOnce() -> Result<(), SyncError> {
    let (said, heard) = std::sync::mpsc::channel();
    let process = process.clone();
    let exit = move || said.send(other_cpu(move || process.quiesce())).unwrap();
    fake.with(|state| state.behind_store = Some((Box::new(about), Box::new(exit))));
    move || heard.recv().unwrap().join().unwrap()
}

/// Flags of the entry for requests without PASID: P and FPD.
fn flags(fake: &Fake) -> u64 {
    fake.pasid(0x108, 0).unwrap()[0] & 0b11
}

#[test]
fn a_process_that_exits_while_a_device_is_attached_to_it_is_reached_by_nobody_afterwards() {
    let (fake, unit, process) = whole();
    unit.attach(&[SID], &Target::Blocked).unwrap();
    let exited = exit_behind(&fake, &process, |_, _| true);
    let attached = unit.attach(&[SID], &Target::Process(process.clone()));
    exited().unwrap();
    assert!(matches!(attached, Ok(()) | Err(AttachError::Exited)));
    assert_eq!(flags(&fake), 0b10);
    unit.attach(&[SID], &Target::Blocked).unwrap();
    assert_eq!(unit.attach(&[SID], &Target::Process(process)), Err(AttachError::Exited));
}

#[test]
fn a_device_is_not_led_back_to_a_process_that_has_exited() {
    let (fake, unit, process) = whole();
    process.quiesce().unwrap();
    let domain = unit.new_domain().unwrap();
    for refused in [TYPE_PASID_CACHE, TYPE_PASID_IOTLB] {
        fake.with(|state| state.refused = vec![refused]);
        let attached = unit.attach(&[SID], &Target::Domain(domain.clone()));
        assert_eq!(attached, Err(AttachError::Sync(SyncError::Failed { code: 3 })));
        fake.with(|state| state.refused.clear());
        assert_eq!(flags(&fake), 0b10, "as its exit has left it");
    }
    unit.attach(&[SID], &Target::Domain(domain)).unwrap();
    assert_eq!(flags(&fake), 0b01);
}

#[test]
fn a_process_that_exits_while_its_device_is_led_elsewhere_does_not_touch_the_entry_that_is_there_then() {
    let (fake, unit, process) = whole();
    let domain = unit.new_domain().unwrap();
    // Present, and a second stage.
    let exited = exit_behind(&fake, &process, |_, word| word & 0x1c1 == 0x81);
    unit.attach(&[SID], &Target::Domain(domain)).unwrap();
    exited().unwrap();
    assert_eq!(flags(&fake), 0b01);
}

#[test]
fn what_hardware_has_let_go_of_forgets_its_source_before_anybody_can_attach_that_to_it_again() {
    let let_go: [fn(&Unit); 3] = [
        |unit| assert_eq!(unit.handle_errors(), []),
        |unit| unit.remove_device(&[SID]).unwrap(),
        |unit| unit.remove_device(&[SourceId(0x0200)]).unwrap(),
    ];
    for (case, let_go) in let_go.into_iter().enumerate() {
        let (fake, unit, process) = whole();
        unit.add_device("disk", &[SourceId(0x0200)]).unwrap();
        fake.with(|state| state.refused = vec![TYPE_PASID_CACHE]);
        assert!(matches!(unit.attach(&[SID], &Target::Blocked), Err(AttachError::LeftBlocked(_))));
        fake.with(|state| state.refused.clear());
        if case == 2 {
            unit.configuration.lock().devices.doubt(&[0x108], false);
        }
        let process = process.as_any().downcast_ref::<Process<Fake, Fake>>().unwrap();
        let held = process.hold();
        let other = unit.clone();
        let other = other_cpu(move || let_go(&other));
        assert!(unit.configuration.try_lock().is_none(), "it would be known by nobody, case {case}");
        drop(held);
        other.join().unwrap();
    }
}

#[test]
fn a_process_that_exits_while_its_unit_is_turned_off_touches_no_memory_that_was_given_back() {
    let (fake, unit, _domain, _switches) = sharing();
    let process = unit.new_process_domain(Mm::new()).unwrap();
    unit.attach_pasid(&[SID], pasid(5), &process).unwrap();
    let directory = fake.word(fake.context(0x108).unwrap()[0] & !0xfff);
    let table = directory & !0xfff;
    fake.take_log();
    let exit = move || process.quiesce().unwrap();
    fake.with(|state| state.behind_free = Some((Pa::new(table), Box::new(exit))));
    unit.teardown().unwrap();
    let story = fake.with(|state| (state.behind_free.is_none(), state.story.clone()));
    assert!(story.0, "the table was given back");
    assert!(!story.1.iter().any(|act| matches!(act, Act::Store(at, _) if at & !0xfff == table)));
}

#[test]
fn page_requests_that_were_let_through_are_in_their_queue_before_its_memory_is_given_back() {
    let (fake, unit, _domain, _switches) = sharing();
    unit.teardown().unwrap();
    let log = fake.take_log();
    let wait = log.iter().rev().find(|descriptor| descriptor.kind() == TYPE_WAIT).unwrap();
    assert_eq!(wait.0[0] >> 7 & 1, 1, "PD");
    let place = |wanted| log.iter().position(|it| *it == wanted).unwrap();
    assert!(place(Descriptor::iotlb_all()) < log.iter().position(|it| it == wait).unwrap());
}

#[test]
fn an_overflow_while_page_requests_are_taken_is_told_and_cleared() {
    let (fake, unit, _domain, _switches) = sharing();
    let queue = fake.get(PQA) & !0xfff;
    let request = |slot: u64, group: u64| {
        fake.store(Pa::new(queue + 32 * slot), 0x108 << 16 | 1);
        fake.store(Pa::new(queue + 32 * slot + 8), 0x7000 | group << 3 | 0b101);
        fake.set(PQT, 32 * (slot + 1));
    };
    request(0, 3);
    let mut told = vec![];
    let taken = unit.drain_page_requests(&mut |drained| {
        if told.is_empty() {
            // One more, then the queue is full: hardware interrupts for nothing any more.
            request(1, 4);
            fake.set(PRS, 0b11);
        }
        told.push(drained);
    });
    assert_eq!((taken, told.len(), told.last()), (2, 3, Some(&Drained::Overflowed)));
    assert_eq!(fake.get(PRS), 0);
}
