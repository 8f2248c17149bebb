//! Legacy mode, interrupts and errors: which words are written, and in which order.

use alloc::boxed::Box;

use portcullis_core::iommu::{FaultReason, Gather, MapError};
use portcullis_hal::{BlockLayout, DmaMemory};
use portcullis_spec::vtd::invalidation::*;
use portcullis_spec::vtd::registers::*;

use super::*;
use crate::config::{InterruptConfig, Mode};
use crate::descriptor::Descriptor;
use crate::interrupt::{Destination, Interrupt, InterruptError, Requester};
use crate::testing::{Act, CAP_LEGACY, ECAP_LEGACY, Fake};

const SID: SourceId = SourceId(0x0108);
const READ_WRITE: Prot = Prot::cached(Perms::READ_WRITE);

type Unit = Vtd<Fake, Fake>;

fn unit() -> (Arc<Fake>, Unit) {
    let fake = Fake::legacy();
    let unit = fake.probe(Fake::config());
    unit.add_device("disk", &[SID]).unwrap();
    fake.take_log();
    (fake, unit)
}

fn attached() -> (Arc<Fake>, Unit, Arc<dyn HwDomain<Fake>>) {
    let (fake, unit) = unit();
    let domain = unit.new_domain().unwrap();
    unit.attach(&[SID], &Target::Domain(domain.clone())).unwrap();
    fake.take_log();
    (fake, unit, domain)
}

fn id(domain: &Arc<dyn HwDomain<Fake>>) -> u16 {
    domain.as_any().downcast_ref::<Domain<Fake, Fake>>().expect("it is ours").id()
}

fn page(iova: u64) -> IovaRange {
    IovaRange::new(Iova::new(iova), 0x1000).unwrap()
}

/// Maps two pages from 0x5000 on, and unmaps the first. What hardware is to forget.
fn first_of_two_unmapped(domain: &dyn HwDomain<Fake>) -> Gather {
    domain.map(Iova::new(0x5000), Pa::new(0x9000), 0x2000, READ_WRITE).unwrap();
    let mut gather = Gather::new();
    domain.unmap(page(0x5000), &mut gather).unwrap();
    gather
}

#[test]
fn the_root_is_set_and_everything_forgotten_before_translation_is_turned_on() {
    let fake = Fake::legacy();
    let _unit = fake.probe(Fake::config());
    let story = fake.with(|state| state.story.clone());
    let place = |act: &dyn Fn(&Act) -> bool| story.iter().position(act).unwrap();
    let command = |bit: u32| place(&|act| matches!(act, Act::Write(GCMD, value) if value >> bit & 1 == 1));
    let (queue, root, on) = (command(26), command(30), command(31));
    let context = place(&|act| *act == Act::Consumed(Descriptor::context_all()));
    let iotlb = place(&|act| *act == Act::Consumed(Descriptor::iotlb_all()));
    assert!(queue < root && root < context && context < iotlb && iotlb < on, "{story:?}");
    assert_eq!(fake.get(GSTS) >> 31 & 1, 1);
}

#[test]
fn what_firmware_left_on_is_turned_off_translation_first_and_the_queue_last() {
    let fake = Fake::legacy();
    fake.set(GSTS, 1 << 31 | 1 << 26 | 1 << 25);
    let _unit = fake.probe(Fake::config());
    let commands: Vec<u64> = fake.with(|state| {
        let all = state.story.iter();
        all.filter_map(|act| if let Act::Write(GCMD, value) = act { Some(*value) } else { None }).collect()
    });
    assert_eq!(commands[..3], [1 << 26 | 1 << 25, 1 << 26, 0], "{commands:x?}");
}

#[test]
fn a_unit_that_does_not_stop_translating_is_refused_and_leaves_no_memory_behind() {
    let fake = Fake::legacy();
    let before = fake.live_bytes();
    fake.set(GSTS, 1 << 31);
    fake.with(|state| state.stuck = 1 << 31);
    let refused = Vtd::probe(fake.clone(), fake.clone(), Fake::config()).unwrap_err();
    assert!(matches!(refused, ProbeError::Timeout { register: "GSTS_REG.TES", .. }));
    assert_eq!(fake.live_bytes(), before);
    fake.set(GSTS, 0);
    let refused = Vtd::probe(fake.clone(), fake.clone(), Fake::config()).unwrap_err();
    assert!(matches!(refused, ProbeError::Timeout { register: "GSTS_REG.TES", .. }));
    assert_eq!(fake.live_bytes(), before, "a probe that fails at its end gives all back");
}

#[test]
fn regions_that_firmware_protected_are_opened_once_translation_is_on_and_not_before() {
    let story = |capability| {
        let fake = Fake::new(capability, ECAP_LEGACY);
        fake.set(PMEN, 1 << 31);
        let _unit = fake.probe(Fake::config());
        (fake.get(PMEN), fake.with(|state| state.story.clone()))
    };
    // PLMR and PHMR.
    for protects in [1 << 5, 1 << 6] {
        let (left, story) = story(CAP_LEGACY | protects);
        let on = story.iter().position(|act| matches!(act, Act::Write(GCMD, value) if value >> 31 == 1));
        let opened = story.iter().position(|act| *act == Act::Write(PMEN, 0));
        assert!(left == 0 && on.unwrap() < opened.unwrap());
    }
    assert_eq!(story(CAP_LEGACY).0, 1 << 31, "a unit without such regions has no such register");
}

#[test]
fn interrupts_for_32_bit_destinations_are_refused_where_hardware_has_none() {
    let fake = Fake::new(CAP_LEGACY, ECAP_LEGACY & !(1 << 4));
    let interrupts = Some(InterruptConfig { entries_lg2: 8, x2apic: true });
    let refused = Vtd::probe(fake.clone(), fake.clone(), Config { interrupts, ..Fake::config() });
    assert!(matches!(refused, Err(ProbeError::Missing("EIM"))));
    let interrupts = Some(InterruptConfig { entries_lg2: 8, x2apic: false });
    assert!(fake.probe(Config { interrupts, ..Fake::config() }).capabilities().isolated_interrupts);
}

#[test]
fn a_device_is_blocked_until_it_is_attached_and_after_it_is_blocked() {
    let (fake, unit) = unit();
    assert_eq!(fake.context(0x108).unwrap()[0], 0);
    let domain = unit.new_domain().unwrap();
    unit.attach(&[SID], &Target::Domain(domain.clone())).unwrap();
    let words = fake.context(0x108).unwrap();
    assert_eq!((words[0] & 0xfff, words[1]), (1, 0x202), "present, translated, domain 2, 48 bits");
    assert!(fake.take_log().is_empty(), "what was not present is not cached");
    unit.attach(&[SID], &Target::Blocked).unwrap();
    assert_eq!(fake.context(0x108).unwrap()[0], 0);
    let wanted = [Descriptor::context(2, 0x108), Descriptor::iotlb_domain(2)];
    assert_eq!(fake.take_log()[..2], wanted);
    assert_eq!(fake.context(0x109).unwrap()[0], 0, "the next function was never added");
}

#[test]
fn a_present_entry_is_cleared_and_forgotten_under_its_old_domain_before_the_next_is_written() {
    let (fake, unit, _old) = attached();
    let next = unit.new_domain().unwrap();
    let at = fake.get(RTADDR) + 16;
    let entry = (fake.word(at) & !0xfff) + 16 * 8;
    unit.attach(&[SID], &Target::Domain(next)).unwrap();
    let story = fake.with(|state| state.story.clone());
    let place = |act: Act| story.iter().position(|it| *it == act).unwrap();
    let present =
        story.iter().position(|it| matches!(it, Act::Store(at, word) if *at == entry && word & 1 == 1));
    let cleared = place(Act::Store(entry, 0));
    let forgotten = place(Act::Consumed(Descriptor::iotlb_domain(2)));
    let second = place(Act::Store(entry + 8, 0x302));
    assert!(cleared < place(Act::Consumed(Descriptor::context(2, 0x108))));
    assert!(cleared < forgotten && forgotten < second && second < present.unwrap(), "{story:?}");
}

#[test]
fn to_map_and_unmap_a_page_costs_one_iotlb_invalidation_and_one_wait() {
    let (fake, unit, domain) = attached();
    let before = unit.counts();
    domain.map(Iova::new(0x5000), Pa::new(0x9000), 0x1000, READ_WRITE).unwrap();
    assert_eq!(unit.counts(), before, "a map tells hardware nothing");
    domain.map(Iova::new(0x6000), Pa::new(0xa000), 0x1000, READ_WRITE).unwrap();
    let mut gather = Gather::new();
    domain.unmap(page(0x5000), &mut gather).unwrap();
    let _ = domain.sync(&mut gather).unwrap();
    let after = unit.counts();
    assert_eq!(after.all_descriptors() - before.all_descriptors(), 2);
    assert_eq!(
        (after.descriptors(TYPE_IOTLB), after.waits()),
        (before.descriptors(TYPE_IOTLB) + 1, before.waits() + 1)
    );
    assert_eq!(fake.take_log()[0].0[1], 0x5040, "one page, leaves only");
}

#[test]
fn tables_that_went_are_forgotten_without_the_hint_and_large_ranges_as_a_whole_domain() {
    let (fake, _unit, domain) = attached();
    let mut gather = Gather::new();
    domain.map(Iova::new(0x5000), Pa::new(0x9000), 0x1000, READ_WRITE).unwrap();
    domain.unmap(page(0x5000), &mut gather).unwrap();
    let _ = domain.sync(&mut gather).unwrap();
    assert_eq!(fake.take_log()[0].0, [0x2_00f2, 0x5000, 0, 0]);
    domain.map(Iova::new(0), Pa::new(0), 4 << 30, READ_WRITE).unwrap();
    domain.unmap(IovaRange::new(Iova::new(0), 4 << 30).unwrap(), &mut gather).unwrap();
    let _ = domain.sync(&mut gather).unwrap();
    assert_eq!(fake.take_log()[0], Descriptor::iotlb_domain(2), "2^20 pages are more than a mask of 18");
}

#[test]
fn a_leaf_that_an_unmap_split_is_forgotten_by_a_mask_of_all_of_it() {
    let (fake, _unit, domain) = attached();
    domain.map(Iova::new(0x20_0000), Pa::new(0x20_0000), 0x20_0000, READ_WRITE).unwrap();
    let forgotten = |iova: u64| {
        let mut gather = Gather::new();
        domain.unmap(page(iova), &mut gather).unwrap();
        let _ = domain.sync(&mut gather).unwrap();
        fake.take_log()[0].0[1]
    };
    assert_eq!(forgotten(0x20_1000), 0x20_0009, "2 MiB, without the hint");
    assert_eq!(forgotten(0x20_2000), 0x20_2040, "there is no such leaf any more");
}

#[test]
fn in_caching_mode_what_is_mapped_or_attached_is_forgotten_as_not_present() {
    let fake = Fake::new(CAP_LEGACY | 1 << 7, ECAP_LEGACY);
    let unit = fake.probe(Fake::config());
    unit.add_device("disk", &[SID]).unwrap();
    let domain = unit.new_domain().unwrap();
    fake.take_log();
    unit.attach(&[SID], &Target::Domain(domain.clone())).unwrap();
    assert_eq!(fake.take_log()[..2], [Descriptor::context(0, 0x108), Descriptor::iotlb_domain(2)]);
    domain.map(Iova::new(0x5000), Pa::new(0x9000), 0x1000, READ_WRITE).unwrap();
    assert_eq!(fake.kinds(), [TYPE_IOTLB, TYPE_WAIT]);
    fake.with(|state| state.asleep = true);
    let error = domain.map(Iova::new(0x6000), Pa::new(0x9000), 0x1000, READ_WRITE).unwrap_err();
    assert_eq!(error, MapError::Unconfirmed { waiting_for: "an invalidation wait" });
    assert_eq!(domain.lookup(Iova::new(0x6000)), None);
    fake.with(|state| state.asleep = false);
}

#[test]
fn pieces_of_one_map_are_forgotten_as_not_present_by_one_invalidation_around_them_all() {
    let fake = Fake::new(CAP_LEGACY | 1 << 7, ECAP_LEGACY);
    let unit = fake.probe(Fake::config());
    unit.add_device("disk", &[SID]).unwrap();
    let domain = unit.new_domain().unwrap();
    unit.attach(&[SID], &Target::Domain(domain.clone())).unwrap();
    fake.take_log();
    let piece = |at: u64| domain.map_piece(Iova::new(at), Pa::new(0x10_0000 + 2 * at), 0x1000, READ_WRITE);
    [0x4000, 0x5000, 0x7000].into_iter().for_each(|at| piece(at).unwrap());
    assert!(fake.take_log().is_empty(), "hardware need not see them yet");
    domain.show(IovaRange::new(Iova::new(0x4000), 0x4000).unwrap()).unwrap();
    // Four pages from 4000h on of domain 2: G 11b, AM 2; then the wait.
    let log = fake.take_log();
    assert_eq!((log[0].0[0] & !0xc0, log[0].0[1], log.len()), (0x2_0032, 0x4002, 2));
    // A range that no descriptor can say: everything of the domain.
    domain.show(IovaRange::new(Iova::new(0), 4 << 30).unwrap()).unwrap();
    assert_eq!(fake.take_log()[0], Descriptor::iotlb_domain(2));
    // Unconfirmed: none of them is there.
    piece(0x6000).unwrap();
    fake.with(|state| state.asleep = true);
    let error = domain.show(IovaRange::new(Iova::new(0x4000), 0x4000).unwrap()).unwrap_err();
    assert_eq!(error, MapError::Unconfirmed { waiting_for: "an invalidation wait" });
    assert!([0x4000, 0x5000, 0x6000, 0x7000].iter().all(|&at| domain.lookup(Iova::new(at)).is_none()));
    fake.with(|state| state.asleep = false);
}

#[test]
fn a_write_buffer_is_flushed_where_hardware_has_one_and_nothing_is_invalidated_for_it() {
    let fake = Fake::new(CAP_LEGACY | 1 << 4, ECAP_LEGACY);
    let unit = fake.probe(Fake::config());
    unit.add_device("disk", &[SID]).unwrap();
    let domain = unit.new_domain().unwrap();
    unit.attach(&[SID], &Target::Domain(domain.clone())).unwrap();
    fake.take_log();
    domain.map(Iova::new(0x5000), Pa::new(0x9000), 0x1000, READ_WRITE).unwrap();
    assert!(fake.take_log().is_empty());
    assert_eq!(unit.counts().write_buffer_flushes, 2);
}

#[test]
fn tables_are_cleaned_where_hardware_does_not_snoop() {
    let fake = Fake::new(CAP_LEGACY, ECAP_LEGACY & !1);
    let unit = fake.probe(Fake::config());
    unit.add_device("disk", &[SID]).unwrap();
    let domain = unit.new_domain().unwrap();
    unit.attach(&[SID], &Target::Domain(domain.clone())).unwrap();
    domain.map(Iova::new(0x5000), Pa::new(0x9000), 0x1000, READ_WRITE).unwrap();
    unit.attach(&[SID], &Target::Blocked).unwrap();
    assert!(fake.with(|state| state.dirty.is_empty()));
}

#[test]
fn nothing_is_given_back_when_the_queue_does_not_answer_and_all_of_it_later() {
    let (fake, _unit, domain) = attached();
    domain.map(Iova::new(0x5000), Pa::new(0x9000), 0x1000, READ_WRITE).unwrap();
    let tables = fake.live_bytes();
    let mut gather = Gather::new();
    domain.unmap(page(0x5000), &mut gather).unwrap();
    fake.with(|state| state.asleep = true);
    assert!(matches!(domain.sync(&mut gather), Err(SyncError::Timeout { .. })));
    assert!(!gather.is_empty());
    assert_eq!(fake.live_bytes(), tables);
    fake.with(|state| state.asleep = false);
    let _ = domain.sync(&mut gather).unwrap();
    assert!(fake.live_bytes() < tables);
}

#[test]
fn a_refused_descriptor_fails_its_sender_and_the_queue_goes_on() {
    let (fake, unit, domain) = attached();
    let mut gather = first_of_two_unmapped(&*domain);
    fake.with(|state| state.refused = alloc::vec![TYPE_IOTLB]);
    assert_eq!(domain.sync(&mut gather).unwrap_err(), SyncError::Failed { code: 3 });
    fake.with(|state| state.refused.clear());
    let _ = domain.sync(&mut gather).unwrap();
    assert_eq!(unit.counts().queue_errors, 1);
}

#[test]
fn who_finds_at_the_limit_that_anothers_descriptor_stopped_the_queue_gives_it_its_time_once_it_goes_on() {
    let fake = Fake::legacy();
    // Over after one turn.
    let unit = fake.probe(Config { wait_limit_ns: 0, ..Fake::config() });
    fake.with(|state| state.refused = vec![TYPE_IOTLB]);
    unit.hardware.queue.send(Descriptor::iotlb_all()).unwrap();
    unit.hardware.run(&[Descriptor::context_all()]).unwrap();
    assert!(unit.counts().queue_errors > 0);
}

#[test]
fn a_queue_that_stops_again_where_its_descriptor_was_replaced_is_given_up() {
    let (fake, _unit, domain) = attached();
    let mut gather = first_of_two_unmapped(&*domain);
    fake.with(|state| state.refused = alloc::vec![TYPE_IOTLB, Descriptor::nothing().kind()]);
    assert_eq!(domain.sync(&mut gather).unwrap_err(), SyncError::Failed { code: 3 });
    let waiting_for = "an invalidation queue that works";
    assert_eq!(domain.sync(&mut gather).unwrap_err(), SyncError::Timeout { waiting_for, last: 0 });
    assert!(!gather.is_empty(), "nothing is given back any more");
}

#[test]
fn a_queue_is_never_so_full_that_it_would_look_empty() {
    let (fake, unit) = unit();
    fake.with(|state| state.asleep = true);
    for _ in 0..10 {
        // With their wait an eighth of the queue.
        let run = unit.hardware.run(&[Descriptor::iotlb_all(); 31]);
        assert!(matches!(run, Err(SyncError::Timeout { .. })));
        assert_ne!(fake.get(IQT), fake.get(IQH));
    }
    fake.with(|state| state.asleep = false);
    unit.hardware.run(&[Descriptor::iotlb_all()]).unwrap();
}

#[test]
fn an_attach_that_hardware_does_not_confirm_leaves_what_was_there_and_a_block_stays_blocked() {
    let (fake, unit, _domain) = attached();
    let before = fake.context(0x108);
    let next = unit.new_domain().unwrap();
    fake.with(|state| state.asleep = true);
    let error = unit.attach(&[SID], &Target::Domain(next.clone())).unwrap_err();
    assert!(matches!(error, AttachError::Sync(_)));
    assert_eq!(fake.context(0x108), before);
    let error = unit.attach(&[SID], &Target::Blocked).unwrap_err();
    assert!(matches!(error, AttachError::LeftBlocked(_)));
    assert_eq!(fake.context(0x108).unwrap()[0], 0);
    fake.with(|state| state.asleep = false);
}

/// A unit that did not confirm that its device is blocked, and what the device was attached to.
fn unconfirmed() -> (Arc<Fake>, Unit, alloc::sync::Weak<dyn HwDomain<Fake>>) {
    let (fake, unit, domain) = attached();
    fake.with(|state| state.refused = alloc::vec![TYPE_CONTEXT]);
    for _ in 0..2 {
        assert!(matches!(unit.attach(&[SID], &Target::Blocked), Err(AttachError::LeftBlocked(_))));
    }
    (fake, unit, Arc::downgrade(&domain))
}

#[test]
fn what_a_device_was_attached_to_is_kept_until_hardware_has_confirmed_that_it_is_not_any_more() {
    let confirmed: [&dyn Fn(&Unit); 4] = [
        &|unit| unit.attach(&[SID], &Target::Blocked).unwrap(),
        &|unit| assert_eq!(unit.handle_errors(), []),
        &|unit| unit.remove_device(&[SID]).unwrap(),
        &|unit| unit.teardown().unwrap(),
    ];
    for confirm in confirmed {
        let (fake, unit, kept) = unconfirmed();
        assert_eq!(unit.handle_errors(), [], "this is not confirmed either");
        assert!(kept.upgrade().is_some(), "hardware may be using it");
        let held = fake.live_bytes();
        fake.with(|state| state.refused.clear());
        confirm(&unit);
        assert!(kept.upgrade().is_none() && fake.live_bytes() < held);
    }
}

#[test]
fn what_was_kept_for_hardware_goes_on_where_its_device_is_attached_to_it_again() {
    let (fake, unit, kept) = unconfirmed();
    fake.with(|state| state.refused.clear());
    let domain = kept.upgrade().unwrap();
    unit.attach(&[SID], &Target::Domain(domain.clone())).unwrap();
    drop(domain);
    assert_eq!(unit.handle_errors(), []);
    assert!(kept.upgrade().is_some(), "its device is attached to it");
    unit.attach(&[SID], &Target::Blocked).unwrap();
    assert!(kept.upgrade().is_none());
}

#[test]
fn a_unit_that_is_let_go_of_is_turned_off_first_and_keeps_what_hardware_may_read_if_it_does_not_stop() {
    let fake = Fake::legacy();
    let before = fake.live_bytes();
    let attached = || {
        let unit = fake.probe(Fake::config());
        unit.add_device("disk", &[SID]).unwrap();
        let domain = unit.new_domain().unwrap();
        unit.attach(&[SID], &Target::Domain(domain.clone())).unwrap();
        (unit, Arc::downgrade(&domain))
    };
    let (unit, domain) = attached();
    drop(unit);
    assert_eq!((fake.get(GSTS) >> 31 & 1, fake.get(GSTS) >> 26 & 1, fake.context(0x108)), (1, 0, None));
    assert!(domain.upgrade().is_none());
    assert_eq!(fake.live_bytes(), before + 0x1000, "the root, which blocks");
    let (unit, domain) = attached();
    let held = fake.live_bytes();
    fake.with(|state| state.asleep = true);
    drop(unit);
    assert!(domain.upgrade().is_some());
    assert_eq!(fake.live_bytes(), held);
}

#[test]
fn what_hardware_did_not_confirm_to_have_forgotten_is_forgotten_altogether_before_the_next_attach() {
    let (fake, unit, _domain) = attached();
    let next = unit.new_domain().unwrap();
    let everything = [Descriptor::context_all(), Descriptor::iotlb_all()];
    for attempt in 0..2 {
        fake.with(|state| state.refused = alloc::vec![TYPE_CONTEXT]);
        let error = unit.attach(&[SID], &Target::Blocked).unwrap_err();
        assert_eq!(error, AttachError::LeftBlocked(SyncError::Failed { code: 3 }), "attempt {attempt}");
        fake.with(|state| state.refused.clear());
    }
    fake.take_log();
    unit.attach(&[SID], &Target::Domain(next)).unwrap();
    assert!(fake.take_log().windows(2).any(|run| run == everything));
    assert_eq!(fake.context(0x108).unwrap()[0] & 1, 1);
    unit.attach(&[SID], &Target::Blocked).unwrap();
    assert_eq!(fake.take_log()[0], Descriptor::context(3, 0x108), "nothing is doubted any more");
}

#[test]
fn what_hardware_did_not_confirm_to_have_forgotten_is_forgotten_by_the_next_look_at_errors_at_the_latest() {
    let (fake, unit, _domain) = attached();
    fake.with(|state| state.refused = alloc::vec![TYPE_CONTEXT]);
    unit.attach(&[SID], &Target::Blocked).unwrap_err();
    assert_eq!(unit.handle_errors(), [], "whoever waited has repaired it");
    fake.with(|state| state.refused.clear());
    fake.take_log();
    unit.handle_errors();
    let everything = [Descriptor::context_all(), Descriptor::iotlb_all()];
    assert!(fake.take_log().windows(2).any(|run| run == everything));
    unit.handle_errors();
    assert!(fake.take_log().is_empty(), "once");
}

#[test]
fn an_entry_that_hardware_in_caching_mode_was_not_told_of_is_taken_back() {
    let fake = Fake::new(CAP_LEGACY | 1 << 7, ECAP_LEGACY);
    let unit = fake.probe(Fake::config());
    unit.add_device("disk", &[SID]).unwrap();
    let domain = unit.new_domain().unwrap();
    fake.with(|state| state.asleep = true);
    let error = unit.attach(&[SID], &Target::Domain(domain.clone())).unwrap_err();
    assert!(matches!(error, AttachError::LeftBlocked(_)));
    assert_eq!(fake.context(0x108).unwrap()[0], 0, "what it will see by itself one day is nothing");
    fake.with(|state| state.asleep = false);
    unit.attach(&[SID], &Target::Domain(domain)).unwrap();
}

#[test]
fn a_device_whose_removal_is_not_confirmed_stays_known_and_blocked() {
    let (fake, unit, _domain) = attached();
    fake.with(|state| state.asleep = true);
    let removed = unit.remove_device(&[SID]);
    assert!(matches!(removed, Err(SyncError::Timeout { waiting_for: "an invalidation wait", .. })));
    assert_eq!(fake.context(0x108).unwrap()[0], 0);
    fake.with(|state| state.asleep = false);
    let taken = AddDeviceError::Taken { source: SID, by: "disk".into() };
    assert_eq!(unit.add_device("other", &[SID]), Err(taken));
    unit.remove_device(&[SID]).unwrap();
    unit.add_device("other", &[SID]).unwrap();
}

#[test]
fn a_source_that_is_another_devices_is_refused_and_said_whose_it_is() {
    let (_fake, unit) = unit();
    let taken = AddDeviceError::Taken { source: SID, by: "disk".into() };
    assert_eq!(unit.add_device("net", &[SourceId(0x0109), SID]), Err(taken));
    unit.add_device("disk", &[SID]).unwrap();
    unit.add_device("other", &[SourceId(0x0109)]).unwrap();
    let far = SourceId(0x1_0000);
    assert_eq!(unit.add_device("far", &[far]), Err(AddDeviceError::OutOfRange { source: far, bits: 16 }));
}

#[test]
fn identity_is_pass_through_and_a_table_where_hardware_has_none() {
    let (fake, unit) = unit();
    unit.attach(&[SID], &Target::Identity).unwrap();
    assert_eq!(fake.context(0x108), Some([0b1001, 0x102, 0, 0]));
    let fake = Fake::new(CAP_LEGACY, ECAP_LEGACY & !(1 << 6));
    let unit = fake.probe(Config { host_address_bits: 39, ..Fake::config() });
    unit.add_device("disk", &[SID]).unwrap();
    assert!(unit.capabilities().identity);
    unit.attach(&[SID], &Target::Identity).unwrap();
    let words = fake.context(0x108).unwrap();
    assert_eq!((words[0] & 0xfff, words[1]), (1, 0x202));
    let top = fake.word(words[0] & !0xfff);
    assert_eq!(fake.word((top & !0xfff) + 8 * 3) & 0xf_ffff_f083, 3 << 30 | 0x83, "the fourth GiB to itself");
}

#[test]
fn a_map_that_hardware_does_not_confirm_is_no_lack_of_memory_and_no_bad_region() {
    let caching = CAP_LEGACY | 1 << 7;
    let fake = Fake::new(caching, ECAP_LEGACY & !(1 << 6));
    let unit = fake.probe(Config { host_address_bits: 39, ..Fake::config() });
    unit.add_device("disk", &[SID]).unwrap();
    fake.with(|state| state.refused = alloc::vec![TYPE_IOTLB]);
    let all = unit.attach(&[SID], &Target::Identity);
    assert!(matches!(all, Err(AttachError::Sync(_))), "{all:?}");
    fake.with(|state| state.refused.clear());
    unit.attach(&[SID], &Target::Identity).unwrap();

    let fake = Fake::new(caching, ECAP_LEGACY);
    let range = page(0x7f00_0000);
    let region = BootRegion { range, sources: alloc::vec![SID], relaxable: false };
    let hardware = fake.clone();
    fake.with(|state| {
        let leaf: crate::testing::About = Box::new(|_, word| word & 0xf_ffff_f003 == 0x7f00_0003);
        let sleep: crate::testing::Hook = Box::new(move || hardware.with(|state| state.asleep = true));
        state.behind_store = Some((leaf, sleep));
    });
    let config = Config { boot_regions: alloc::vec![region], ..Fake::config() };
    let probed = Vtd::probe(fake.clone(), fake.clone(), config);
    assert!(matches!(probed, Err(ProbeError::Sync(SyncError::Timeout { .. }))), "{probed:?}");
    assert_eq!(fake.live_bytes(), 0);
}

#[test]
fn however_much_firmware_reserves_is_mapped_at_once_and_what_two_of_its_regions_have_once() {
    // SSLPS: leaves of 2 MiB and 1 GiB. In caching mode each map is an invalidation.
    let fake = Fake::new(CAP_LEGACY | 0b11 << 34 | 1 << 7, ECAP_LEGACY);
    let region = |first: u64, len_bytes: u64| BootRegion {
        range: IovaRange::new(Iova::new(first), len_bytes).unwrap(),
        sources: alloc::vec![SID],
        relaxable: false,
    };
    let gib = 1 << 30;
    let regions = [(4 * gib, 60 * gib), (0x10_0000, 0x3000), (0x10_2000, 0x2000), (8 * gib, 64 * gib)];
    let boot_regions = regions.into_iter().map(|(first, len_bytes)| region(first, len_bytes)).collect();
    let before = fake.live_bytes();
    let unit = fake.probe(Config { boot_regions, ..Fake::config() });
    let told = fake.take_log().iter().filter(|it| it.kind() == TYPE_IOTLB).count();
    assert!(told <= 4, "{told} invalidations: all caches, two ranges, and the entry");
    assert!(fake.live_bytes() - before <= 0x1_0000, "{:#x}", fake.live_bytes() - before);
    let root = fake.context(0x108).unwrap();
    let reaches = |iova: u64| {
        let mut table = root[0] & !0xfff;
        for level in (0..(root[1] & 7) + 2).rev() {
            let entry = fake.word(table + 8 * (iova >> (12 + 9 * level) & 0x1ff));
            if entry & 3 != 3 {
                return false;
            }
            // PS is bit 7.
            if level == 0 || entry >> 7 & 1 == 1 {
                let size = 1 << (12 + 9 * level);
                assert_eq!(entry & 0xf_ffff_ffff_f000 & !(size - 1), iova & !(size - 1), "1:1");
                return true;
            }
            table = entry & 0xf_ffff_ffff_f000;
        }
        false
    };
    let there = [0x10_0000, 0x10_2fff, 0x10_3000, 0x10_3fff, 4 * gib, 8 * gib, 64 * gib, 72 * gib - 1];
    assert!(there.into_iter().all(reaches));
    let not_there = [0xf_ffff, 0x10_4000, 4 * gib - 1, 72 * gib];
    assert!(!not_there.into_iter().any(reaches));
    drop(unit);
}

#[test]
fn what_firmware_reserved_is_mapped_before_translation_is_turned_on_and_stays_until_an_attach() {
    let fake = Fake::legacy();
    let region = BootRegion {
        range: IovaRange::new(Iova::new(0x7f00_0000), 0x2000).unwrap(),
        sources: alloc::vec![SID],
        relaxable: true,
    };
    let unit = fake.probe(Config { boot_regions: alloc::vec![region], ..Fake::config() });
    let root = fake.context(0x108).unwrap();
    assert_eq!(root[0] & 1, 1);
    let story = fake.with(|state| state.story.clone());
    let on = story.iter().position(|act| matches!(act, Act::Write(GCMD, value) if value >> 31 == 1));
    let entry = (fake.word(fake.get(RTADDR) + 16) & !0xfff) + 16 * 8;
    let led = story.iter().position(|act| *act == Act::Store(entry, root[0]));
    assert!(led.unwrap() < on.unwrap());
    // AW, bits 2:0 of the second word: 1 is three levels of 9 bits. R and W of a leaf are bits 1:0.
    let leaf = |iova: u64| {
        let levels = (root[1] & 7) + 2;
        (0..levels).rev().fold(root[0] & !0xfff, |table, level| match table {
            0 => 0,
            table => fake.word((table & !0xfff) + 8 * (iova >> (12 + 9 * level) & 0x1ff)),
        })
    };
    let leaves = [0x7eff_f000, 0x7f00_0000, 0x7f00_1000, 0x7f00_2000].map(leaf);
    assert_eq!(
        leaves.map(|leaf| leaf & 0xf_ffff_f003),
        [0, 0x7f00_0003, 0x7f00_1003, 0],
        "1:1, and nothing else"
    );
    unit.add_device("screen", &[SID]).unwrap();
    assert_eq!(fake.context(0x108), Some(root), "adding the device does not black the screen out");
    let kinds: Vec<_> = unit.reserved_regions(&[SID]).iter().map(|region| region.kind).collect();
    assert_eq!(kinds, [ReservedKind::Msi, ReservedKind::DirectRelaxable]);
    assert_eq!(unit.reserved_regions(&[SourceId(9)]).len(), 1);
}

#[test]
fn faults_are_taken_in_order_cleared_one_by_one_and_the_overflow_last() {
    let (fake, unit) = unit();
    // The oldest is the second of two records.
    fake.set(FSTS, 1 << 8 | 0b11);
    fake.set(0x220, 0x6000);
    fake.set(0x228, 1 << 63 | 5 << 32 | 0x108);
    fake.set(0x230, 0x5000);
    fake.set(0x238, 1 << 63 | 1 << 62 | 6 << 32 | 0x108);
    let mut seen = Vec::new();
    assert_eq!(unit.drain_events(&mut |fault| seen.push((fault.iova, fault.reason))), 2);
    let not_mapped = |iova| (Some(Iova::new(iova)), FaultReason::NotMapped);
    assert_eq!(seen, [not_mapped(0x5000), not_mapped(0x6000)]);
    let writes = fake.with(|state| state.story.clone());
    assert_eq!(
        writes,
        [Act::Write(0x23c, 1 << 31), Act::Write(0x22c, 1 << 31), Act::Write(FSTS, 1)],
        "each record, then the overflow"
    );
    assert_eq!(unit.counts().fault_overflows, 1);
}

/// A unit that remaps interrupts, and what one may be.
fn remapping() -> (Arc<Fake>, Vtd<Fake, Fake>, Interrupt) {
    let fake = Fake::legacy();
    let interrupts = Some(InterruptConfig { entries_lg2: 8, x2apic: true });
    let unit = fake.probe(Config { interrupts, ..Fake::config() });
    let destination = Destination::Physical(3);
    let requester = Requester::Source(SID);
    (fake, unit, Interrupt { vector: 0x41, destination, level: false, requester })
}

#[test]
fn an_interrupt_that_changes_hands_is_nobodys_in_between() {
    let (fake, unit, mine) = remapping();
    let remapping = unit.interrupts().unwrap();
    let block = remapping.allocate(1).unwrap();
    remapping.set(&block, 0, &mine).unwrap();
    let entry = fake.get(IRTA) & !0xfff;
    let before = fake.with(|state| state.story.len());
    let theirs = Interrupt { requester: Requester::Source(SourceId(0x0200)), ..mine };
    remapping.set(&block, 0, &theirs).unwrap();
    let story = fake.with(|state| state.story[before..].to_vec());
    let place = |act: &Act| story.iter().position(|it| it == act).unwrap_or(usize::MAX);
    let gone = place(&Act::Store(entry, 0));
    let forgotten = place(&Act::Consumed(Descriptor::interrupts(0, 0)));
    let (whose, there) = (place(&Act::Store(entry + 8, 0x4_0200)), place(&Act::Store(entry, 0x3_0041_0001)));
    assert!(gone < forgotten && forgotten < whose && whose < there && there < usize::MAX, "{story:x?}");
}

#[test]
fn interrupts_that_are_not_confirmed_gone_are_not_given_out_again() {
    let (fake, unit, _) = remapping();
    let remapping = unit.interrupts().unwrap();
    let block = remapping.allocate(128).unwrap();
    fake.with(|state| state.asleep = true);
    assert!(matches!(remapping.free_block(block), Err(InterruptError::Sync(_))));
    let next = remapping.allocate(128).unwrap();
    assert_eq!(next.first(), 128);
    assert_eq!(remapping.allocate(1), Err(InterruptError::NoEntries));
}

#[test]
fn interrupts_that_were_not_confirmed_gone_are_given_out_once_they_are() {
    let (fake, unit, mine) = remapping();
    let remapping = unit.interrupts().unwrap();
    let others = remapping.allocate(128).unwrap();
    let block = remapping.allocate(128).unwrap();
    remapping.set(&block, 1, &mine).unwrap();
    let free = |block| {
        fake.with(|state| state.asleep = true);
        assert!(matches!(remapping.free_block(block), Err(InterruptError::Sync(_))));
        fake.with(|state| state.asleep = false);
        fake.take_log();
    };
    free(block);
    // There are no others.
    let block = remapping.allocate(2).unwrap();
    assert_eq!((block.first(), fake.take_log().contains(&Descriptor::interrupts_all())), (128, true));
    free(block);
    unit.handle_errors();
    assert!(fake.take_log().contains(&Descriptor::interrupts_all()));
    assert_eq!(remapping.allocate(128).map(|block| block.first()), Ok(128));
    unit.handle_errors();
    assert_eq!(fake.take_log(), [], "hardware is asked once");
    assert_eq!(remapping.allocate(1), Err(InterruptError::NoEntries), "what is somebody's stays so");
    remapping.free_block(others).unwrap();
}

#[test]
fn an_interrupt_is_for_its_requester_alone_and_is_forgotten_when_it_changes() {
    let fake = Fake::legacy();
    let interrupts = Some(InterruptConfig { entries_lg2: 8, x2apic: true });
    let unit = fake.probe(Config { interrupts, ..Fake::config() });
    assert!(unit.capabilities().isolated_interrupts);
    assert_eq!(
        (fake.get(IRTA) & 0xfff, fake.get(GSTS) >> 23 & 0b101),
        (0x807, 0b100),
        "remapping, no others"
    );
    fake.take_log();
    let remapping = unit.interrupts().unwrap();
    let block = remapping.allocate(2).unwrap();
    let mut interrupt = Interrupt {
        vector: 0x41,
        destination: Destination::Physical(0x1_0203),
        level: false,
        requester: Requester::Source(SID),
    };
    remapping.set(&block, 1, &interrupt).unwrap();
    let table = fake.get(IRTA) & !0xfff;
    assert_eq!([fake.word(table + 16), fake.word(table + 24)], [0x1_0203_0041_0001, 0x4_0108]);
    assert!(fake.take_log().is_empty());
    interrupt.vector = 0x42;
    remapping.set(&block, 1, &interrupt).unwrap();
    assert_eq!(fake.take_log()[0], Descriptor::interrupts(1, 0));
    let message = remapping.message(&block, 1);
    assert_eq!((message.address, message.data), (0xfee0_0018, 1));
    remapping.free_block(block).unwrap();
    assert_eq!((fake.word(table + 16), fake.take_log()[0]), (0, Descriptor::interrupts(0, 1)));
    let bad = Interrupt { requester: Requester::Buses { first: 2, last: 1 }, ..interrupt };
    let block = remapping.allocate(1).unwrap();
    assert_eq!(remapping.set(&block, 0, &bad), Err(InterruptError::BadRequester(bad.requester)));
    assert_eq!(remapping.set(&block, 1, &interrupt), Err(InterruptError::BadIndex(1)));
    assert_eq!(remapping.allocate(3), Err(InterruptError::BadCount(3)));
}

#[test]
fn an_interrupt_that_hardware_may_still_know_is_forgotten_before_its_entry_is_another() {
    let fake = Fake::legacy();
    let interrupts = Some(InterruptConfig { entries_lg2: 8, x2apic: true });
    let unit = fake.probe(Config { interrupts, ..Fake::config() });
    let remapping = unit.interrupts().unwrap();
    let block = remapping.allocate(1).unwrap();
    let interrupt = Interrupt {
        vector: 0x41,
        destination: Destination::Physical(1),
        level: false,
        requester: Requester::Source(SID),
    };
    remapping.set(&block, 0, &interrupt).unwrap();
    let failed = Err(InterruptError::Sync(SyncError::Failed { code: 3 }));
    let other = Interrupt { vector: 0x42, requester: Requester::Source(SourceId(0x110)), ..interrupt };
    let changes: [&dyn Fn() -> Result<(), InterruptError>; 3] = [
        &|| remapping.clear(&block, 0),
        &|| remapping.set(&block, 0, &Interrupt { vector: 0x43, ..interrupt }),
        &|| remapping.set(&block, 0, &other),
    ];
    for (place, change) in changes.into_iter().enumerate() {
        fake.with(|state| state.refused = alloc::vec![TYPE_INTERRUPT]);
        assert_eq!(change(), failed, "change {place}");
        fake.with(|state| state.refused.clear());
        fake.take_log();
        remapping.set(&block, 0, &other).unwrap();
        assert!(fake.take_log().contains(&Descriptor::interrupts(0, 0)), "change {place}");
        remapping.set(&block, 0, &interrupt).unwrap();
    }
}

#[test]
fn scalable_mode_is_chosen_where_it_is_unless_legacy_is_asked_for() {
    let fake = Fake::scalable();
    assert!(fake.probe(Fake::config()).features().scalable);
    assert_eq!((fake.get(RTADDR) >> 10 & 3, fake.get(IQA) >> 11 & 1), (1, 1));
    let fake = Fake::scalable();
    assert!(!fake.probe(Config { mode: Mode::Legacy, ..Fake::config() }).features().scalable);
}

#[test]
fn what_a_dropped_domain_left_is_given_back_once_hardware_confirms_or_is_off() {
    for by_turning_off in [false, true] {
        let fake = Fake::legacy();
        let unit = fake.probe(Fake::config());
        let empty = fake.live_bytes();
        let domain = unit.new_domain().unwrap();
        domain.map(Iova::new(0x5000), Pa::new(0x9000), 0x1000, READ_WRITE).unwrap();
        // A buffer that hardware may reach through it.
        let layout = BlockLayout::naturally_aligned(12);
        domain.keep(fake.alloc_buffer(layout).unwrap(), layout);
        let (id, held) = (id(&domain), fake.live_bytes());
        fake.with(|state| state.refused = vec![TYPE_IOTLB]);
        drop(domain);
        unit.handle_errors();
        assert_eq!(fake.live_bytes(), held);
        fake.with(|state| state.refused.clear());
        if by_turning_off {
            unit.teardown().unwrap();
            assert_eq!(fake.live_bytes(), 0x1000, "the root table, with nothing in it");
            continue;
        }
        fake.take_log();
        unit.handle_errors();
        assert!(fake.take_log().contains(&Descriptor::iotlb_domain(id)) && fake.live_bytes() == empty);
        unit.handle_errors();
        assert_eq!(fake.take_log(), [], "once");
        let mut again = (0..0x1_0000).filter_map(|_| Some(self::id(&unit.new_domain().ok()?)));
        assert!(again.any(|again| again == id), "it can be had again");
    }
}

#[test]
fn after_teardown_every_request_is_blocked_and_all_but_the_root_is_given_back() {
    let fake = Fake::legacy();
    let before = fake.live_bytes();
    let unit = fake.probe(Fake::config());
    unit.add_device("disk", &[SID]).unwrap();
    let domain = unit.new_domain().unwrap();
    unit.attach(&[SID], &Target::Domain(domain.clone())).unwrap();
    unit.teardown().unwrap();
    unit.teardown().unwrap();
    assert_eq!((fake.get(GSTS) >> 31 & 1, fake.get(GSTS) >> 26 & 1), (1, 0));
    assert_eq!(fake.context(0x108), None);
    drop(domain);
    assert_eq!(fake.live_bytes(), before + 0x1000);
}

#[test]
fn after_a_teardown_that_was_not_confirmed_nobody_is_told_that_a_device_is_attached() {
    let (fake, unit, domain) = attached();
    fake.with(|state| state.refused = vec![TYPE_IOTLB]);
    assert_eq!(unit.teardown(), Err(SyncError::Failed { code: 3 }));
    fake.with(|state| state.refused.clear());
    for target in [Target::Domain(domain), Target::Identity] {
        assert_eq!(unit.attach(&[SID], &target), Err(AttachError::Unsupported));
    }
    let on = SyncError::Timeout { waiting_for: "a unit that is on", last: 0 };
    assert_eq!(unit.add_device("net", &[SourceId(0x0200)]), Err(AddDeviceError::Sync(on)));
    assert_eq!((fake.context(0x108), fake.context(0x200)), (None, None));
    unit.attach(&[SID], &Target::Blocked).unwrap();
    unit.remove_device(&[SID]).unwrap();
    unit.teardown().unwrap();
    assert_eq!(fake.live_bytes(), 0x1000, "the root table, with nothing in it");
}

#[test]
fn at_teardown_a_queue_that_was_given_up_is_begun_anew_and_everything_is_kept_until_hardware_confirms() {
    let (fake, unit, domain) = attached();
    let mut gather = first_of_two_unmapped(&*domain);
    fake.with(|state| state.refused = vec![TYPE_IOTLB, Descriptor::nothing().kind()]);
    let refused = SyncError::Failed { code: 3 };
    let given_up = SyncError::Timeout { waiting_for: "an invalidation queue that works", last: 0 };
    assert_eq!(domain.sync(&mut gather).unwrap_err(), refused);
    assert_eq!(domain.sync(&mut gather).unwrap_err(), given_up);
    let held = fake.live_bytes();
    for down in [refused, given_up, refused, given_up] {
        assert_eq!(unit.teardown(), Err(down));
        assert_eq!((fake.context(0x108), fake.live_bytes()), (None, held));
        assert_eq!(unit.attach(&[SID], &Target::Domain(domain.clone())), Err(AttachError::Unsupported));
    }
    assert_eq!(
        domain.sync(&mut gather).unwrap_err(),
        given_up,
        "its device may be writing to what was unmapped"
    );
    fake.with(|state| state.refused.clear());
    fake.take_log();
    unit.teardown().unwrap();
    assert_eq!(fake.take_log()[..2], [Descriptor::context_all(), Descriptor::iotlb_all()]);
    let _ = domain.sync(&mut gather).unwrap();
    drop(domain);
    assert_eq!((fake.get(GSTS) >> 26 & 1, fake.live_bytes()), (0, 0x1000), "the root table");
}

#[test]
fn a_unit_that_could_not_fetch_a_descriptor_is_torn_down_wherever_its_queue_was() {
    for before in 0..4 {
        let (fake, unit, domain) = attached();
        (0..before).for_each(|_| unit.hardware.run(&[Descriptor::iotlb_all()]).unwrap());
        fake.with(|state| state.asleep = true);
        unit.hardware.run(&[Descriptor::iotlb_all()]).unwrap_err();
        // IQEI 2.
        fake.set(IQERCD, 2);
        fake.set(FSTS, 1 << 4);
        assert_eq!(unit.handle_errors(), [GlobalError::ServiceFailure]);
        fake.with(|state| state.asleep = false);
        fake.take_log();
        unit.teardown().unwrap();
        let kinds = [Descriptor::context_all().kind(), TYPE_IOTLB, TYPE_WAIT];
        assert_eq!(fake.kinds(), kinds, "and nothing of before");
        drop(domain);
        assert_eq!(fake.live_bytes(), 0x1000);
    }
}

#[test]
fn a_unit_that_turned_its_queue_off_too_slowly_is_torn_down_by_the_next_try() {
    let (fake, unit, domain) = attached();
    drop(domain);
    fake.with(|state| state.stuck = 1 << 26);
    let down = unit.teardown();
    assert!(matches!(down, Err(SyncError::Timeout { waiting_for: "GSTS_REG.QIES", .. })), "{down:?}");
    fake.with(|state| state.stuck = 0);
    unit.teardown().unwrap();
    assert_eq!((fake.get(GSTS) >> 26 & 1, fake.live_bytes()), (0, 0x1000));
}

#[test]
fn faults_that_come_while_others_are_taken_are_taken_too_and_an_overflow_of_then_is_cleared() {
    // Hardware would not interrupt for either: one of them was set all the time.
    let (fake, unit) = unit();
    let record = |at: usize, iova: u64| {
        fake.set(at, iova);
        fake.set(at + 8, 1 << 63 | 5 << 32 | 0x108);
        fake.set(FSTS, fake.get(FSTS) | 1 << 1);
    };
    record(0x220, 0x5000);
    record(0x230, 0x6000);
    let mut seen = Vec::new();
    let taken = unit.drain_events(&mut |fault| {
        seen.push(fault.iova.unwrap().get());
        if seen.len() == 2 {
            record(0x220, 0x7000);
            fake.set(FSTS, fake.get(FSTS) | 1);
        }
    });
    assert_eq!((taken, seen), (3, alloc::vec![0x5000, 0x6000, 0x7000]));
    assert_eq!(fake.get(FSTS) & 1, 0, "PFO");
}

#[test]
fn a_fault_is_found_though_the_oldest_that_hardware_names_was_taken_before() {
    let (fake, unit) = unit();
    fake.set(0x230, 0x6000);
    fake.set(0x238, 1 << 63 | 5 << 32 | 0x108);
    fake.set(FSTS, 1 << 1);
    assert_eq!(unit.drain_events(&mut |_| {}), 1);
}

#[test]
fn a_fault_that_is_recorded_while_its_record_is_looked_at_is_taken_whole() {
    let (fake, unit) = unit();
    let of = |sid: u64| 1 << 63 | 5 << 32 | sid;
    fake.set(0x230, 0x5000);
    fake.set(0x238, of(0x108));
    fake.set(FSTS, 1 << 8 | 1 << 1);
    fake.with(|state| state.fault = Some((0x220, [0x6000, of(0x110)])));
    let mut seen = Vec::new();
    unit.drain_events(&mut |fault| seen.push((fault.source.unwrap().0, fault.iova.unwrap().get())));
    assert_eq!(seen, [(0x108, 0x5000), (0x110, 0x6000)]);
}

#[test]
fn a_unit_that_is_gone_has_no_faults() {
    let (fake, unit) = unit();
    for register in [FSTS, 0x220, 0x228, 0x230, 0x238] {
        fake.set(register, u64::MAX);
    }
    assert_eq!(unit.drain_events(&mut |fault| panic!("{fault:?}")), 0);
}

#[test]
fn what_is_said_of_interrupts_after_teardown_touches_no_memory() {
    let (fake, unit, mine) = remapping();
    let remapping = unit.interrupts().unwrap();
    let block = remapping.allocate(2).unwrap();
    remapping.set(&block, 0, &mine).unwrap();
    unit.teardown().unwrap();
    fake.take_log();
    let off = InterruptError::Sync(SyncError::Timeout { waiting_for: "a unit that is on", last: 0 });
    assert_eq!(remapping.set(&block, 1, &mine), Err(off));
    assert_eq!(remapping.allocate(1), Err(off));
    assert_eq!((remapping.clear(&block, 0), remapping.free_block(block)), (Ok(()), Ok(())));
    assert_eq!(fake.with(|state| state.story.clone()), [], "the table is somebody else's memory");
}

#[test]
fn interrupts_of_a_unit_that_another_owner_left_on_are_held_back() {
    for (extended, held) in [(ECAP_LEGACY, 0), (crate::testing::ECAP_SCALABLE, 1 << 31)] {
        let fake = Fake::new(CAP_LEGACY, extended);
        let _unit = fake.probe(Fake::config());
        assert_eq!((fake.get(FECTL), fake.get(PECTL)), (1 << 31, held), "no page requests, no such register");
    }
}
