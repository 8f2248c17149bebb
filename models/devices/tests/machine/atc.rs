//! The ATC and its invalidations, seen from the other end of the link.

use core::sync::atomic::{AtomicBool, Ordering::Relaxed};
use core::time::Duration;
use std::sync::Arc;
use std::time::Instant;

use model_bus::{Invalidation, PageResponse, Width};
use model_devices::accelerator::{AcceleratorOptions, PcieAccelerator};
use model_devices::pcie::{Access, Behaviour, BridgeOptions, RequestError, Rid, clause};
use portcullis_types::{Iova, Pa, Pasid, SourceId};

use crate::accelerator_rig::{AccRig, COPY, DEST, PASID, Policy, SOURCE, STREAM, job, pa_of, pasid, text};
use crate::rig::RAM;

fn rig() -> AccRig {
    with(Behaviour::default())
}

/// Everything on, a page at `SOURCE` present, and held.
fn with(behaviour: Behaviour) -> AccRig {
    let options = AcceleratorOptions { behaviour, ..AcceleratorOptions::default() };
    let rig = AccRig::pcie(&options);
    rig.mmu.grant(pasid(), SOURCE, 0x4000, true, true);
    assert_eq!(read(&rig, SOURCE), Access::Done);
    rig
}

fn read(rig: &AccRig, at: u64) -> Access {
    rig.device().atc().read(pasid(), Iova::new(at), &mut [0; 8])
}

fn write(rig: &AccRig, at: u64) -> Access {
    rig.device().atc().write(pasid(), Iova::new(at), &[0; 8])
}

fn asked(rig: &AccRig) -> usize {
    rig.mmu.table().translations.len()
}

#[test]
fn a_translation_is_used_until_an_invalidation_comes() {
    let rig = rig();
    rig.mmu.revoke(pasid(), SOURCE);
    assert_eq!((read(&rig, SOURCE + 0xff8), asked(&rig)), (Access::Done, 1));
    assert!(rig.mmu.invalidate(pasid(), SOURCE, 12, 9));
    assert_eq!(rig.mmu.tags(), [1 << 9]);
    assert_eq!((read(&rig, SOURCE), asked(&rig)), (Access::Absent, 2));
    let counts = rig.device().atc().counts();
    assert_eq!((counts.requests, counts.hits, counts.not_allowed), (2, 1, 1));
    assert_eq!((counts.invalidations, counts.answered), (1, 1));
    assert!(rig.ear.heard("model.pcie invalidation_answered: tags=0x200"));
}

#[test]
fn a_translation_for_reading_is_not_one_for_writing() {
    let rig = rig();
    assert!(rig.mmu.table().translations[0].no_write);
    assert_eq!(write(&rig, SOURCE), Access::Done);
    let again = rig.mmu.table().translations[1];
    assert_eq!(
        (again.no_write, again.iova.get(), again.pasid, again.source),
        (false, SOURCE, pasid(), STREAM)
    );
    assert_eq!((read(&rig, SOURCE), asked(&rig), rig.device().atc().entries()), (Access::Done, 2, 1));
}

#[test]
fn an_invalidation_hits_its_range_and_its_pasid() {
    let rig = rig();
    assert_eq!(read(&rig, SOURCE + 0x1000), Access::Done);
    let none = None;
    rig.mmu.grant(none, SOURCE, 1, true, false);
    assert_eq!(rig.device().atc().read(none, Iova::new(SOURCE), &mut [0; 8]), Access::Done);
    let held = || rig.device().atc().entries();
    assert_eq!(held(), 3);
    rig.mmu.invalidate(Pasid::new(PASID + 1), SOURCE, 64, 0);
    rig.mmu.invalidate(pasid(), SOURCE + 0x2000, 13, 0);
    assert_eq!(held(), 3);
    rig.mmu.invalidate(pasid(), SOURCE, 12, 0);
    assert_eq!(held(), 2);
    rig.mmu.invalidate(pasid(), 0, 64, 0);
    assert_eq!(held(), 1);
    // Without a PASID it means all of them, and with none as well.
    assert_eq!(read(&rig, SOURCE), Access::Done);
    rig.mmu.invalidate(None, SOURCE, 12, 0);
    assert_eq!((held(), rig.mmu.tags().len()), (0, 5));
}

#[test]
fn a_global_invalidation_hits_every_pasid_if_the_capability_says_so() {
    for global_invalidate in [true, false] {
        let options = AcceleratorOptions { global_invalidate, ..AcceleratorOptions::default() };
        let rig = AccRig::pcie(&options);
        assert_eq!(
            rig.read_config(rig.extended(0x0f) + 4, Width::Bits16) >> 6 & 1,
            u64::from(global_invalidate)
        );
        rig.mmu.grant(pasid(), SOURCE, 1, true, true);
        assert_eq!(read(&rig, SOURCE), Access::Done);
        let first = Iova::new(SOURCE);
        let other = Pasid::new(PASID + 1);
        let message =
            Invalidation { source: STREAM, pasid: other, global: true, first, size_lg2: 12, tag: 0 };
        assert!(rig.mmu.down().invalidate(&message));
        assert_eq!(rig.device().atc().entries(), usize::from(!global_invalidate));
    }
}

#[test]
fn large_translations_are_kept_whole() {
    let rig = AccRig::pcie(&AcceleratorOptions::default());
    rig.mmu.table().open = true;
    rig.mmu.table().size_lg2 = 21;
    rig.start(0, Some(PASID));
    rig.store(SOURCE, &text(0x10_0000));
    assert_eq!(rig.run(job(COPY, 0x10_0000, 0x10_0000)).status, 1);
    assert!(rig.load(DEST, 0x10_0000) == text(0x10_0000));
    // The ring for reading and for writing, the source, the destination.
    assert_eq!((asked(&rig), rig.device().atc().entries()), (4, 3));
    // A part of it forgotten is all of it forgotten.
    rig.mmu.invalidate(pasid(), SOURCE + 0x1f_f000, 12, 0);
    assert_eq!(rig.device().atc().entries(), 2);
}

#[test]
fn what_is_to_be_accessed_untranslated_is() {
    let rig = AccRig::pcie(&AcceleratorOptions::default());
    rig.mmu.table().open = true;
    rig.mmu.table().untranslated_only = true;
    assert_eq!((read(&rig, SOURCE), read(&rig, SOURCE), asked(&rig)), (Access::Done, Access::Done, 1));
    let table = rig.mmu.table();
    assert_eq!((table.untranslated.len(), table.translated.len()), (2, 0));
}

#[test]
fn room_is_made_by_eviction_and_everything_still_arrives() {
    for (entries, seed) in [(1, 0), (2, 1), (3, 2)] {
        let options = AcceleratorOptions { atc_entries: entries, seed, ..AcceleratorOptions::default() };
        let rig = AccRig::pcie(&options);
        rig.mmu.table().open = true;
        rig.start(0, Some(PASID));
        rig.store(SOURCE, &text(0x8000));
        assert_eq!(rig.run(job(COPY, 0x8000, 0x8000)).status, 1);
        assert!(rig.load(DEST, 0x8000) == text(0x8000));
        assert_eq!(rig.device().atc().entries(), entries);
        assert!(rig.device().atc().counts().evicted > 0);
    }
}

#[test]
fn an_invalidation_is_answered_when_the_access_that_it_hits_is_over() {
    let rig = rig();
    let (mmu, device) = (rig.mmu.clone(), rig.device().clone());
    let seen = Arc::new(AtomicBool::new(false));
    let inside = seen.clone();
    let hook = move || {
        assert!(mmu.invalidate(pasid(), SOURCE, 12, 3));
        assert_eq!((mmu.tags().len(), device.atc().entries(), device.atc().unanswered()), (0, 0, 1));
        // One that the access has nothing to do with is answered at once.
        assert!(mmu.invalidate(pasid(), SOURCE + 0x1000, 12, 4));
        assert_eq!(mmu.tags(), [1 << 4]);
        inside.store(true, Relaxed);
    };
    *rig.mmu.in_access.lock().unwrap() = Some(Box::new(hook));
    assert_eq!(read(&rig, SOURCE), Access::Done);
    assert!(seen.load(Relaxed));
    assert_eq!((rig.mmu.tags(), rig.device().atc().unanswered()), (vec![1 << 4, 1 << 3], 0));
}

#[test]
fn a_translation_that_an_invalidation_has_overtaken_is_not_kept() {
    let rig = rig();
    let mmu = rig.mmu.clone();
    // The answer is made; then the page goes, and the invalidation is there before the answer.
    let hook = move || {
        mmu.revoke(pasid(), SOURCE + 0x1000);
        assert!(mmu.invalidate(pasid(), SOURCE, 14, 1));
        assert_eq!(mmu.tags(), [1 << 1]);
    };
    *rig.mmu.in_translate.lock().unwrap() = Some(Box::new(hook));
    assert_eq!(read(&rig, SOURCE + 0x1000), Access::Absent);
    let counts = rig.device().atc().counts();
    assert_eq!((counts.raced, rig.device().atc().entries(), rig.mmu.table().translated.len()), (1, 0, 1));
    // One for other addresses takes nothing away.
    let mmu = rig.mmu.clone();
    let hook = move || assert!(mmu.invalidate(pasid(), SOURCE + 0x2000, 12, 1));
    *rig.mmu.in_translate.lock().unwrap() = Some(Box::new(hook));
    assert_eq!((read(&rig, SOURCE), rig.device().atc().counts().raced), (Access::Done, 1));
}

#[test]
fn with_ats_off_an_invalidation_is_an_unsupported_request() {
    let rig = rig();
    let control = rig.extended(0x0f) + 6;
    rig.write_config(control, Width::Bits16, 0);
    assert!(!rig.mmu.invalidate(pasid(), SOURCE, 12, 1));
    assert!(rig.mmu.tags().is_empty());
    assert!(rig.ear.heard("unsupported_request: message=invalidate source=0x10010"));
    // Switched on anew it knows nothing.
    rig.write_config(control, Width::Bits16, 0x8000);
    assert_eq!(rig.device().atc().entries(), 0);
    assert_eq!((read(&rig, SOURCE), asked(&rig)), (Access::Done, 2));
}

#[test]
fn switching_ats_while_a_translation_is_asked_for_drops_the_answer() {
    let rig = rig();
    let (root, control) = (rig.root.clone(), rig.extended(0x0f) as usize + 6);
    let hook = move || {
        root.write_config(crate::accelerator_rig::FUNCTION, control, Width::Bits16, 0);
        root.write_config(crate::accelerator_rig::FUNCTION, control, Width::Bits16, 0x8000);
    };
    *rig.mmu.in_translate.lock().unwrap() = Some(Box::new(hook));
    assert_eq!((read(&rig, SOURCE + 0x1000), asked(&rig)), (Access::Done, 3));
    assert_eq!(rig.device().atc().entries(), 1);
}

#[test]
fn answers_come_late_twice_or_never_on_demand() {
    let late = with(Behaviour { answer_after_steps: 3, ..Behaviour::default() });
    assert!(late.mmu.invalidate(pasid(), SOURCE, 12, 5));
    assert_eq!((late.device().atc().entries(), late.mmu.tags().len()), (0, 0));
    assert!(late.step() && late.step());
    assert!(late.mmu.tags().is_empty());
    assert!(late.step());
    assert_eq!(late.mmu.tags(), [1 << 5]);
    assert!(!late.step());

    let twice = with(Behaviour { answer_twice: true, ..Behaviour::default() });
    twice.mmu.invalidate(pasid(), SOURCE, 12, 5);
    assert_eq!(twice.mmu.tags(), [1 << 5, 1 << 5]);

    let never = with(Behaviour { never_answer: true, ..Behaviour::default() });
    assert!(never.mmu.invalidate(pasid(), SOURCE, 12, 5));
    never.settle();
    assert_eq!((never.mmu.tags().len(), never.device().atc().entries()), (0, 0));
    never.device().atc().behave(Behaviour::default());
    never.mmu.invalidate(pasid(), SOURCE, 12, 6);
    assert_eq!(never.mmu.tags(), [1 << 6]);
}

#[test]
fn a_hostile_atc_keeps_what_it_said_it_forgot() {
    let rig = with(Behaviour { keep_stale: true, ..Behaviour::default() });
    rig.mmu.revoke(pasid(), SOURCE);
    rig.mmu.invalidate(pasid(), SOURCE, 12, 0);
    assert_eq!((rig.mmu.tags().len(), read(&rig, SOURCE), asked(&rig)), (1, Access::Done, 1));
}

#[test]
fn a_hostile_device_makes_translated_requests_of_its_own() {
    let rig = rig();
    let atc = rig.device().atc();
    atc.forge_write(None, Pa::new(RAM + 0xff8), &[0x5a; 16]).unwrap();
    let mut back = [0; 16];
    atc.forge_read(pasid(), Pa::new(RAM + 0xff8), &mut back).unwrap();
    assert_eq!(back, [0x5a; 16]);
    let table = rig.mmu.table();
    let ats: Vec<(u64, u32)> =
        table.translated[1..].iter().map(|request| (request.at.get(), request.len_bytes)).collect();
    assert_eq!(ats, [(RAM + 0xff8, 8), (RAM + 0x1000, 8), (RAM + 0xff8, 8), (RAM + 0x1000, 8)]);
}

#[test]
fn misuse_of_the_capabilities_is_said() {
    let rig = rig();
    let clauses = || {
        let broken = rig.device().take_unpredictable();
        broken.iter().map(|one| one.clause).collect::<Vec<_>>()
    };
    assert_eq!(clauses(), [""; 0]);
    rig.write_config(rig.extended(0x1b) + 6, Width::Bits16, 0);
    assert_eq!(clauses(), [clause::PASIDS_CHANGED]);
    assert!(rig.ear.heard("model.pcie unpredictable: clause=PCIe 6.0, 7.8.9.3"));
    rig.write_config(rig.extended(0x0f) + 6, Width::Bits16, 0x8001);
    assert_eq!(clauses(), [clause::UNIT_CHANGED]);
    rig.mmu.invalidate(pasid(), SOURCE, 12, 0);
    assert_eq!(clauses(), [clause::INVALIDATION_TOO_SMALL]);
}

#[test]
fn messages_find_functions_behind_ports_and_not_those_that_are_gone() {
    let rig = AccRig::pcie(&AcceleratorOptions::default());
    let port = rig.root.root_bus().add_bridge(8, BridgeOptions::default()).unwrap();
    let bridge = Rid::new(0, 8);
    rig.root.write_config(bridge, 0x18, Width::Bits32, 0x0003_0300);
    rig.root.write_config(bridge, 0x04, Width::Bits16, 0x0006);
    let behind = PcieAccelerator::new(&AcceleratorOptions::default(), rig.ear.clone());
    port.secondary().plug(0, behind.clone()).unwrap();
    let rid = Rid::new(3, 0);
    let source = SourceId(0x1_0300);
    let first = Iova::new(0);
    let message = Invalidation { source, pasid: None, global: false, first, size_lg2: 64, tag: 2 };
    assert!(!rig.mmu.down().invalidate(&message));
    rig.root.write_config(rid, 0x04, Width::Bits16, 0x0006);
    // ATS is the first extended capability.
    rig.root.write_config(rid, 0x106, Width::Bits16, 0x8000);
    assert!(rig.mmu.down().invalidate(&message));
    assert_eq!((rig.mmu.table().done[0].source, behind.atc().counts().answered), (source, 1));
    let response = PageResponse { source, pasid: None, group: 0, code: 0 };
    assert!(rig.mmu.down().page_response(&response));
    port.secondary().unplug(0);
    assert!(!rig.mmu.down().invalidate(&message) && !rig.mmu.down().page_response(&response));
    // Nobody at all, and somebody without an ATC.
    assert!(!rig.mmu.down().page_response(&PageResponse { source: SourceId(0x1_0008), ..response }));
    assert!(!rig.mmu.down().invalidate(&Invalidation { source: SourceId(5), ..message }));
}

#[test]
fn a_function_that_is_unplugged_in_the_middle_makes_no_more_accesses() {
    let rig = AccRig::pcie(&AcceleratorOptions::default());
    rig.mmu.table().policy = Policy::Grant;
    rig.start(0, Some(PASID));
    rig.submit(0, job(COPY, 0x10_0000, 0x10_0000));
    rig.step();
    let device = rig.root.root_bus().unplug(0x10).unwrap();
    let before = rig.mmu.table().translated.len();
    rig.settle();
    assert_eq!(rig.mmu.table().translated.len(), before);
    assert_eq!(rig.counts().queues_failed, 1);
    assert!(matches!(
        rig.device().atc().forge_read(None, Pa::new(RAM), &mut [0; 4]),
        Err(RequestError::Unplugged)
    ));
    device.reset();
    rig.root.root_bus().plug(0x10, device).unwrap();
    assert_eq!(rig.read_config(0, Width::Bits32), 0x5a1f_1234);
}

#[test]
fn the_function_says_what_it_is() {
    let rig = AccRig::cold_pcie(&AcceleratorOptions { pasid_bits: 20, ..AcceleratorOptions::default() });
    assert_eq!(
        (rig.read_config(0, Width::Bits32), rig.read_config(8, Width::Bits32)),
        (0x5a1f_1234, 0x1200_0000)
    );
    rig.write_config(0x10, Width::Bits32, 0xffff_ffff);
    assert_eq!(rig.read_config(0x10, Width::Bits32), 0xffff_0004);
    assert_eq!(rig.read_config(rig.extended(0x1b) + 4, Width::Bits16), 0x1400);
    assert_eq!(rig.read_config(rig.extended(0x0f) + 4, Width::Bits16), 0x0060);
    assert_eq!(rig.pri_status(), 0x8100);
}

/// Reads and writes a few pages from two threads, while a third takes them away: it unmaps, invalidates, and waits for the answer; from then on a
/// translated access there is a breach. Goes on for `rounds`, or until there is a breach.
fn race(behaviour: Behaviour, rounds: u64) -> usize {
    const PAGES: u64 = 4;
    let rig = with(behaviour);
    rig.mmu.quiet.store(true, Relaxed);
    rig.mmu.slow.store(true, Relaxed);
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for thread in 0..2u64 {
            let (rig, over) = (&rig, &over);
            scope.spawn(move || {
                let mut turn = thread;
                while !over.load(Relaxed) {
                    turn = turn.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    let at = SOURCE + (turn >> 33) % PAGES * 0x1000;
                    let _ = if turn >> 63 == 0 { read(rig, at) } else { write(rig, at) };
                    std::thread::yield_now();
                }
            });
        }
        for round in 0..rounds {
            take_away(&rig, SOURCE + 0x1000 * (round % PAGES));
            if !rig.mmu.table().breaches.is_empty() {
                break;
            }
        }
        over.store(true, Relaxed);
    });
    rig.mmu.table().breaches.len()
}

/// Takes a page away, as an IOMMU's driver does, looks for a while whether it is used, and gives it back.
fn take_away(rig: &AccRig, at: u64) {
    rig.mmu.revoke(pasid(), at);
    rig.mmu.table().done.clear();
    assert!(rig.mmu.invalidate(pasid(), at, 12, 7));
    let patience = Instant::now() + Duration::from_secs(120);
    while rig.mmu.table().done.is_empty() {
        assert!(Instant::now() < patience, "an answer comes when the accesses are over");
        std::thread::yield_now();
    }
    rig.mmu.table().dead.insert(pa_of(at));
    (0..20).for_each(|_| std::thread::yield_now());
    rig.mmu.table().dead.clear();
    rig.mmu.grant(pasid(), at, 1, true, true);
}

#[test]
fn after_an_invalidation_is_answered_no_thread_uses_what_it_named() {
    assert_eq!(race(Behaviour::default(), 200), 0);
}

#[test]
fn the_race_would_find_an_atc_that_goes_on_using_it() {
    assert!(race(Behaviour { keep_stale: true, ..Behaviour::default() }, 100_000) > 0);
}
