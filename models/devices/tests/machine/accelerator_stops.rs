//! Stops and aborts in every phase of a job, for both kinds of stop, and registers under all kinds of abuse.

use std::sync::Arc;

use model_bus::{Chance, StallState, Width};
use model_devices::accelerator::AcceleratorOptions;
use portcullis_types::{Iova, Pa};

use crate::accelerator_rig::{
    AccRig, COPY, DEFLATE, DEST, FILL, Form, JobWords, PASID, PLATFORM, Policy, SOURCE, SUM, job, pasid, text,
};
use crate::rig::WINDOW;

/// What a job is at when it is stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Entry,
    Source,
    Dest,
    Report,
}

const PHASES: [Phase; 4] = [Phase::Entry, Phase::Source, Phase::Dest, Phase::Report];

fn options(stop_marker: bool) -> AcceleratorOptions {
    AcceleratorOptions { stop_marker, ..AcceleratorOptions::default() }
}

/// A job that waits in this phase; its entry.
fn wait_in(rig: &AccRig, phase: Phase) -> u64 {
    let ring = AccRig::ring(0);
    match phase {
        Phase::Entry => (),
        Phase::Source => rig.mmu.grant(pasid(), ring, 1, true, true),
        Phase::Dest => {
            rig.mmu.grant(pasid(), ring, 1, true, true);
            rig.mmu.grant(pasid(), SOURCE, 1, true, false);
        }
        Phase::Report => {
            rig.mmu.grant(pasid(), ring, 1, true, false);
            rig.mmu.grant(pasid(), SOURCE, 1, true, false);
            rig.mmu.grant(pasid(), DEST, 1, true, true);
        }
    }
    rig.start(0, Some(PASID));
    let entry = rig.submit(0, job(COPY, 16, 16));
    rig.settle();
    assert_eq!(rig.ended(entry).status, 0, "{phase:?}");
    entry
}

/// The status of the entry after a stop, and HEAD: the entry is written only if that needs no page.
fn expected(phase: Phase) -> (u32, u64) {
    match phase {
        Phase::Entry | Phase::Report => (0, 0),
        Phase::Source | Phase::Dest => (6, 1),
    }
}

#[test]
fn part_25_a_stop_that_waits_is_over_when_the_response_is_there() {
    for phase in PHASES {
        for code in [0, 1, 15] {
            let rig = AccRig::pcie(&options(false));
            let entry = wait_in(&rig, phase);
            rig.stop(0);
            for _ in 0..10 {
                rig.step();
                assert_eq!((rig.state(0), rig.ended(entry).status), (2, 0), "{phase:?}");
            }
            let requests = rig.mmu.requests();
            assert_eq!(requests.len(), 1);
            rig.mmu.respond(&requests[0], code);
            rig.settle();
            assert_eq!(rig.state(0), 0, "{phase:?} {code}");
            assert_eq!((rig.ended(entry).status, rig.head(0)), expected(phase), "{phase:?} {code}");
            // Nothing else is asked for, and no marker sent.
            assert_eq!(rig.mmu.requests().len(), 1);
        }
    }
}

#[test]
fn part_25_a_stop_with_a_marker_is_over_at_once_and_the_marker_is_behind_the_last_request() {
    for phase in PHASES {
        let rig = AccRig::pcie(&options(true));
        assert_eq!(rig.get(8) >> 24, 1);
        let entry = wait_in(&rig, phase);
        rig.stop(0);
        assert_eq!(rig.state(0), 0, "{phase:?}");
        assert_eq!((rig.ended(entry).status, rig.head(0)), expected(phase), "{phase:?}");
        let requests = rig.mmu.requests();
        let marker = requests.last().unwrap();
        assert_eq!(requests.len(), 2);
        assert_eq!((marker.pasid, marker.last, marker.read, marker.write), (pasid(), true, false, false));
        // A late response gives back its credit and does nothing else.
        let pages = rig.device().pages();
        assert_eq!(pages.outstanding(), 1);
        let before = rig.mmu.table().translated.len();
        rig.mmu.respond(&requests[0], 0);
        rig.settle();
        assert_eq!((pages.outstanding(), pages.counts().stale, pages.counts().stop_markers), (0, 1, 1));
        assert_eq!((rig.mmu.table().translated.len(), rig.pri_status() & 3), (before, 0));
    }
}

#[test]
fn part_25_an_abort_waits_for_nothing_in_any_phase() {
    for phase in PHASES {
        for marker in [false, true] {
            for stop_first in [false, true] {
                let rig = AccRig::pcie(&options(marker));
                let entry = wait_in(&rig, phase);
                if stop_first && !marker {
                    rig.stop(0);
                    assert_eq!(rig.state(0), 2);
                }
                rig.abort(0);
                assert_eq!((rig.state(0), rig.ended(entry).status), (0, 0), "{phase:?}");
                let before = rig.mmu.table().translated.len();
                let requests = rig.mmu.requests();
                assert_eq!(requests.len(), 1);
                rig.mmu.respond(&requests[0], 0);
                rig.settle();
                assert_eq!(rig.mmu.table().translated.len(), before);
                assert_eq!((rig.device().pages().counts().stale, rig.device().pages().outstanding()), (1, 0));
                // The queue can be used again.
                rig.mmu.table().open = true;
                rig.start(0, Some(PASID));
                assert_eq!(rig.run(job(SUM, 1, 0)).status, 1);
            }
        }
    }
}

#[test]
fn part_22_a_stop_on_the_platform_waits_for_the_stalled_access() {
    for phase in PHASES {
        for end in [StallState::Retry, StallState::Aborted, StallState::Ignored] {
            let rig = AccRig::platform(&options(false));
            let entry = wait_in(&rig, phase);
            rig.stop(0);
            (0..10).for_each(|_| {
                rig.step();
            });
            assert_eq!(rig.state(0), 2, "{phase:?}");
            let stalled = rig.mmu.end_stalls(end);
            assert_eq!(stalled.len(), 1);
            if phase == Phase::Report && end == StallState::Retry {
                rig.mmu.grant(pasid(), AccRig::ring(0), 1, true, true);
            }
            rig.settle();
            // A report whose first part counts as written stalls at its second.
            rig.mmu.end_stalls(end);
            rig.settle();
            assert_eq!(rig.state(0), 0, "{phase:?} {end:?}");
            let written = match (phase, end) {
                (Phase::Report, StallState::Retry) => (1, 1),
                (Phase::Report, StallState::Ignored) => (0, 1),
                _ => expected(phase),
            };
            assert_eq!((rig.ended(entry).status, rig.head(0)), written, "{phase:?} {end:?}");
        }
    }
}

#[test]
fn an_abort_on_the_platform_forgets_the_stalled_access() {
    for phase in PHASES {
        let rig = AccRig::platform(&options(false));
        wait_in(&rig, phase);
        rig.abort(0);
        assert_eq!(rig.state(0), 0);
        let before = rig.mmu.table().untranslated.len();
        rig.mmu.end_stalls(StallState::Retry);
        rig.settle();
        assert_eq!(rig.mmu.table().untranslated.len(), before);
    }
}

#[test]
fn a_stop_ends_a_job_that_has_not_finished_and_begins_no_other() {
    for rig in AccRig::both() {
        rig.store(SOURCE, &text(0x10_0000));
        let first = rig.submit(0, job(DEFLATE, 0x10_0000, 0x10_0000));
        let second = rig.submit(0, job(SUM, 1, 0));
        assert!(rig.step());
        rig.stop(0);
        assert_eq!(rig.state(0), 0);
        let ended = rig.ended(first);
        assert_eq!((ended.status, rig.ended(second).status, rig.head(0)), (6, 0, 1));
        assert!(ended.consumed > 0 && ended.consumed < 0x10_0000 && ended.produced > 0);
        rig.settle();
        assert_eq!(rig.ended(second).status, 0);
    }
}

#[test]
fn a_stop_of_an_idle_queue_is_over_at_once() {
    for rig in AccRig::both() {
        rig.stop(0);
        assert_eq!(rig.state(0), 0);
        rig.stop(0);
        assert_eq!(rig.state(0), 0);
    }
    let rig = AccRig::pcie(&options(true));
    rig.start(0, Some(PASID));
    rig.start(1, None);
    rig.stop(0);
    rig.stop(1);
    // Without a PASID there is nothing to say.
    assert_eq!((rig.state(0), rig.state(1), rig.mmu.requests().len()), (0, 0, 1));
    rig.write_config(rig.extended(0x13) + 4, Width::Bits16, 0);
    rig.start(0, Some(PASID));
    rig.stop(0);
    assert_eq!((rig.state(0), rig.mmu.requests().len()), (0, 1));
}

#[test]
fn a_stop_or_an_abort_from_inside_an_access_is_seen_before_the_next() {
    for control in [2, 3] {
        for rig in AccRig::both() {
            rig.store(SOURCE, &text(0x4_0000));
            let rig = Arc::new(rig);
            let entry = rig.submit(0, job(COPY, 0x1_0000, 0x1_0000));
            let (bus, base) =
                (rig.bus.clone(), if matches!(rig.form, Form::Pcie(_)) { WINDOW } else { PLATFORM });
            let again = rig.mmu.clone();
            // In the access after the next one: the entry is read, and the first page of the source.
            let inner = move || {
                let stop =
                    move || bus.write_register(Pa::new(base + 0x1018), Width::Bits32, control).unwrap();
                *again.in_access.lock().unwrap() = Some(Box::new(stop));
            };
            *rig.mmu.in_access.lock().unwrap() = Some(Box::new(inner));
            rig.step();
            assert_eq!(rig.state(0), 0);
            let (status, head) = if control == 2 { (6, 1) } else { (0, 0) };
            assert_eq!((rig.ended(entry).status, rig.head(0)), (status, head));
            // No page was written after the one that was under way.
            assert_eq!(rig.load(DEST, 0x10), [0; 0x10]);
        }
    }
}

#[test]
fn a_tail_out_of_range_fails_the_queue_which_then_touches_nothing() {
    for rig in AccRig::both() {
        let entry = rig.submit(0, job(COPY, 0x10_0000, 0x10_0000));
        rig.step();
        rig.set(0x8000, 0x19);
        assert_eq!((rig.state(0), rig.error(0), rig.counts().queues_failed), (3, 2, 1));
        let count = |rig: &AccRig| {
            let table = rig.mmu.table();
            table.translated.len() + table.untranslated.len()
        };
        let before = count(&rig);
        rig.settle();
        assert_eq!((count(&rig), rig.ended(entry).status), (before, 0));
        // Only stop and abort lead out.
        rig.set(0x1018, 1);
        assert_eq!(rig.state(0), 3);
        rig.stop(0);
        assert_eq!((rig.state(0), rig.error(0)), (0, 2));
        rig.start(0, Some(PASID));
        rig.set(0x8000, u64::from(u32::MAX));
        assert_eq!((rig.state(0), rig.error(0)), (3, 2));
        rig.abort(0);
        assert_eq!(rig.state(0), 0);
    }
}

#[test]
fn a_base_or_size_that_cannot_be_fails_the_start() {
    for rig in AccRig::both() {
        rig.set(0x1048, 0x1_0020);
        rig.set(0x1050, 4);
        rig.set(0x1058, 1);
        assert_eq!((rig.state(1), rig.error(1)), (3, 3));
    }
}

#[test]
fn disabling_drops_everything_and_is_power_on_again() {
    for rig in AccRig::both() {
        let entry = rig.submit(0, job(FILL, 0x10_0000, 0x10_0000));
        rig.step();
        rig.set(0x10, 0);
        assert_eq!((rig.state(0), rig.get(0x1000), rig.get(0x8000), rig.get(0x18)), (0, 0, 0, 0));
        rig.settle();
        assert_eq!((rig.get(0x18), rig.ended(entry).status), (1, 0));
        rig.enable();
        rig.start(0, Some(PASID));
        assert_eq!(rig.run(job(SUM, 1, 0)).status, 1);
    }
}

#[test]
fn a_function_level_reset_is_power_on_again() {
    let rig = AccRig::pcie(&options(false));
    wait_in(&rig, Phase::Source);
    assert!(rig.device().atc().enabled());
    // Device Control of the PCI Express capability, which is the first.
    rig.write_config(0x48, Width::Bits16, 0x8000);
    assert!(!rig.device().atc().enabled());
    assert_eq!((rig.device().pages().outstanding(), rig.device().atc().entries()), (0, 0));
    assert_eq!(rig.read_config(rig.extended(0x13) + 4, Width::Bits16), 0);
    rig.write_config(0x10, Width::Bits32, WINDOW);
    rig.write_config(0x04, Width::Bits16, 0x0006);
    assert_eq!((rig.state(0), rig.get(0x10)), (0, 0));
    rig.switch_on(4);
    rig.enable();
    rig.mmu.table().open = true;
    rig.start(0, Some(PASID));
    assert_eq!(rig.run(job(SUM, 1, 0)).status, 1);
}

#[test]
fn without_bus_mastering_jobs_wait_and_stops_do_not() {
    let [rig, _] = AccRig::both();
    rig.write_config(0x04, Width::Bits16, 0x0002);
    let entry = rig.submit(0, job(SUM, 1, 0));
    rig.settle();
    assert_eq!((rig.state(0), rig.ended(entry).status), (1, 0));
    rig.write_config(0x04, Width::Bits16, 0x0006);
    rig.settle();
    assert_eq!(rig.ended(entry).status, 1);
    rig.write_config(0x04, Width::Bits16, 0x0002);
    rig.submit(0, job(SUM, 1, 0));
    rig.stop(0);
    assert_eq!(rig.state(0), 0);
}

#[test]
fn whatever_is_written_to_the_registers_the_device_goes_on() {
    for seed in 0..6 {
        let chance = Chance::new(seed);
        let marker = seed % 2 == 0;
        let rigs = [AccRig::pcie(&options(marker)), AccRig::platform(&options(false))];
        for rig in rigs {
            rig.mmu.table().policy = Policy::Grant;
            rig.mmu.table().open = chance.once_in(2);
            rig.mmu.table().stalling = chance.once_in(2);
            rig.mmu.quiet.store(true, core::sync::atomic::Ordering::Relaxed);
            // Something in the rings that looks like jobs now and then.
            let noise: Vec<u8> = (0..0x1000).map(|_| chance.below(7) as u8).collect();
            (0..8).for_each(|queue| rig.store(AccRig::ring(queue), &noise));
            for _ in 0..1500 {
                abuse(&rig, &chance);
            }
            rig.set(0x10, 0);
            rig.mmu.table().open = true;
            rig.settle();
            rig.enable();
            rig.start(0, Some(PASID));
            assert_eq!(rig.run(JobWords { dest: DEST + 1, ..job(FILL, 3, 3) }).status, 1);
        }
    }
}

fn abuse(rig: &AccRig, chance: &Chance) {
    let base = if matches!(rig.form, Form::Pcie(_)) { WINDOW } else { PLATFORM };
    let queue = chance.below(9) as u64;
    let offset = match chance.below(8) {
        0 => chance.below(0x1_0000) as u64 & !7,
        1 => 0x10,
        2..=4 => 0x1000 + 0x40 * queue + 8 * chance.below(8) as u64,
        _ => 0x8000 + 0x400 * queue,
    };
    let width = [Width::Bits8, Width::Bits16, Width::Bits32, Width::Bits64][chance.below(8).min(3)];
    let value = match chance.below(6) {
        0 => chance.next(),
        1 => AccRig::ring(queue % 8),
        2 => u64::from(PASID) | 0x8000_0000,
        _ => chance.below(8) as u64,
    };
    let at = Pa::new(base + offset);
    rig.bus.write_register(at, width, value).unwrap();
    rig.bus.read_register(at, width).unwrap();
    match chance.below(6) {
        0 => drop(rig.mmu.end_stalls(StallState::Retry)),
        1 => drop(rig.mmu.end_stalls(StallState::Aborted)),
        2 => rig.mmu.grant(pasid(), Iova::new(AccRig::ring(queue % 8)).get(), 1, true, true),
        _ => {
            rig.step();
        }
    }
}
