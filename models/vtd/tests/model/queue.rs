//! The invalidation queue: completion, errors, device TLBs.

use model_bus::{Clocked, InvalidationDone, Translator};
use model_vtd::{Config, Policy, clause};
use portcullis_types::SourceId;

use crate::harness::*;

/// Submits a descriptor that is wrong: IQEI, and whether the head stayed.
fn error(machine: &Machine, words: &[u64]) -> u64 {
    let head = machine.read64(0x80);
    machine.submit(words);
    machine.ticks();
    assert_eq!(machine.read32(0x34) & 0x10, 0x10, "{words:x?}");
    assert_eq!(machine.read64(0x80), head);
    machine.read64(0xb0) & 0xf
}

#[test]
fn a_wait_writes_its_status_and_raises_its_event() {
    let machine = Machine::legacy(plain());
    machine.write32(0xa4, 0x41);
    machine.write32(0xa8, 0xfee0_0000);
    machine.write32(0xa0, 0);
    machine.submit(&[0x35 | 9 << 32, STATUS]);
    machine.ticks();
    assert_eq!((machine.get(STATUS), machine.read32(0x9c)), (9, 1));
    assert_eq!(machine.read64(0x80), machine.read64(0x88));
    assert_eq!(machine.ears.interrupts.lock().unwrap()[0].vector, 0x41);
    machine.write32(0x9c, 1);
    assert_eq!(machine.read32(0x9c), 0);
}

#[test]
fn a_descriptor_of_an_unknown_type_or_with_reserved_bits_stops_the_queue() {
    for (words, code) in [
        ([0x0, 0], 3),
        ([0x6, 0], 3),
        ([0xf, 0], 3),
        ([0x211, 0], 3),
        ([0x01, 0], 4),
        ([0x111, 0], 4),
        ([0x11, 1], 4),
        ([0x02, 0], 4),
        ([0x1_0000_0012, 0], 4),
        ([0x5_0032, 0x80], 4),
        ([0x25, STATUS | 1], 4),
        ([0x13, 0], 4),
    ] {
        let machine = Machine::legacy(plain());
        assert_eq!(error(&machine, &words), code, "{words:x?}");
        assert_eq!(machine.broken(), [clause::DESCRIPTOR]);
    }
}

#[test]
fn a_stopped_queue_goes_on_when_the_descriptor_is_mended_and_the_error_cleared() {
    let machine = Machine::legacy(plain());
    let head = machine.read64(0x80);
    error(&machine, &[0, 0]);
    assert!(!machine.waited(), "the tail moves nothing");
    machine.set(QUEUE + head, &[0x12, 0]);
    machine.write32(0x34, 0x10);
    machine.ticks();
    assert_eq!(machine.get(STATUS), 7);
    assert_eq!(machine.read32(0x34), 0);
}

#[test]
fn a_wrong_tail_width_address_or_mode_has_its_own_code() {
    let machine = Machine::legacy(plain());
    machine.write64(0x88, 0x1000);
    machine.ticks();
    assert_eq!((machine.read32(0x34) & 0x10, machine.read64(0xb0) & 0xf), (0x10, 1));
    let machine = Machine::scalable(plain());
    machine.write64(0x88, machine.read64(0x88) + 0x10);
    machine.ticks();
    assert_eq!(machine.read64(0xb0) & 0xf, 6);
    let machine = Machine::legacy(plain());
    machine.ram.hole(QUEUE..=QUEUE + 0xfff);
    machine.write64(0x88, machine.read64(0x88) + 0x10);
    machine.ticks();
    assert_eq!(machine.read64(0xb0) & 0xf, 2);
    // 256 bits, where there is neither scalable mode nor abort-dma.
    let machine = Machine::new(Config { policy: Policy::eager(), ..Config::legacy() });
    machine.write64(0x90, QUEUE | 0x800);
    machine.command(26, true);
    machine.write64(0x88, 0x20);
    machine.ticks();
    assert_eq!(machine.read64(0xb0) & 0xf, 5);
    // 10b.
    let machine = Machine::legacy(plain());
    machine.write64(0x20, ROOT | 2 << 10);
    machine.command(30, true);
    machine.write64(0x88, machine.read64(0x88) + 0x10);
    machine.ticks();
    assert_eq!(machine.read64(0xb0) & 0xf, 7);
    assert_eq!((machine.read(0x1000), machine.reason()), (Got::Abort, Some(0x30)));
}

#[test]
fn a_wait_is_not_complete_before_the_accesses_under_way_are() {
    let machine = Machine::legacy(plain());
    let mut inside = None;
    machine.during_a_write(|| {
        // With DR and DW or without: major version 5 always drains.
        machine.submit(&[0x5_0022]);
        inside = Some(machine.waited());
    });
    assert_eq!(inside, Some(false));
    machine.ticks();
    assert_eq!(machine.get(STATUS), 7);
}

#[test]
fn a_device_tlb_invalidation_names_its_range_and_the_wait_waits_for_the_answer() {
    let machine = Machine::legacy(plain());
    for (word, first, size_lg2) in
        [(0x5000, 0x5000, 12), (0x4001, 0x4000, 13), (0xf_f001, 0, 21), (0x7fff_ffff_ffff_f001, 0, 64)]
    {
        machine.submit(&[0x8_0000_0003, word]);
        assert!(!machine.waited());
        let message = *machine.ears.invalidations.lock().unwrap().last().unwrap();
        assert_eq!((message.first.get(), message.size_lg2, message.source.0), (first, size_lg2, 8));
        machine.unit.invalidation_done(&InvalidationDone { source: message.source, tags: 1 << message.tag });
        machine.ticks();
        assert_eq!(machine.get(STATUS), 7);
    }
    assert_eq!(machine.read32(0x34), 0);
}

#[test]
fn while_translation_is_off_no_answer_of_a_device_is_heard() {
    let machine = Machine::legacy(plain());
    machine.submit(&[0x8_0000_0003, 0x5000]);
    assert!(!machine.waited());
    let message = machine.ears.invalidations.lock().unwrap()[0];
    let done = InvalidationDone { source: message.source, tags: 1 << message.tag };
    machine.command(31, false);
    machine.unit.invalidation_done(&done);
    machine.ticks();
    assert_eq!((machine.get(STATUS), machine.read32(0x34)), (0, 0), "an Unsupported Request, and no error");
    machine.command(31, true);
    machine.unit.invalidation_done(&done);
    machine.ticks();
    assert_eq!((machine.get(STATUS), machine.read32(0x34)), (7, 0));
}

#[test]
fn a_device_that_does_not_answer_stops_the_queue_and_its_wait_never_completes() {
    let machine = Machine::legacy(plain());
    machine.submit(&[0x8_0000_0003, 0x5000]);
    assert!(!machine.waited());
    machine.ram.advance(1_000_000);
    machine.ticks();
    assert_eq!(machine.read32(0x34), 0x40);
    assert_eq!(machine.read64(0xb0) >> 32 & 0xffff, 8);
    machine.submit(&[0x12]);
    machine.ticks();
    assert_ne!(machine.read64(0x80), machine.read64(0x88));
    machine.write32(0x34, 0x40);
    machine.ticks();
    assert_eq!(machine.get(STATUS), 0, "aborted");
    machine.wait();
    // Its late answer is to nobody.
    let tags = 1 << machine.ears.invalidations.lock().unwrap()[0].tag;
    machine.unit.invalidation_done(&InvalidationDone { source: SourceId(8), tags });
    assert_eq!((machine.read32(0x34), machine.read64(0xb0) >> 48), (0x20, 8));
}

#[test]
fn a_held_head_fetches_the_aborted_wait_again() {
    let policy = Policy { head_stays_at_wait: true, ..Policy::eager() };
    let machine = Machine::legacy(Config { policy, ..Config::default() });
    machine.submit(&[0x8_0000_0003, 0x5000]);
    assert!(!machine.waited());
    machine.ram.advance(1_000_000);
    machine.ticks();
    assert_eq!(machine.read64(0x80) + 0x10, machine.read64(0x88));
    machine.write32(0x34, 0x40);
    machine.ticks();
    assert_eq!(machine.get(STATUS), 7);
}

#[test]
fn a_lazy_invalidation_is_done_when_the_wait_is() {
    let machine = Machine::legacy(Config { policy: Policy::stale(), ..Config::default() });
    assert_eq!(machine.read(0x1000), Got::At(0x80_0000));
    machine.set(SS1 + 8, &[0x90_0003]);
    machine.invalidate(&[0x5_0032, 0x1000]);
    assert_eq!(machine.read(0x1000), Got::At(0x90_0000));
}

#[test]
fn an_address_of_a_queue_has_no_more_bits_than_the_part() {
    let machine = Machine::new(plain());
    // 512 descriptors, of which 257 are taken.
    machine.write64(0x90, QUEUE | 1);
    machine.command(26, true);
    (0..0x1010).step_by(16).for_each(|offset| machine.set(QUEUE + offset, &[0x12, 0]));
    machine.write64(0x88, 0x1010);
    machine.ticks();
    assert_eq!(machine.read64(0x80), 0x1010);
    // There is memory at the part's last addresses; what is behind 46 bits is not there.
    machine.write64(0x90, !0xfff << 46 | QUEUE | 1);
    machine.set(QUEUE + 0x1010, &[0x25 | 7 << 32, STATUS]);
    machine.write64(0x88, 0x1020);
    machine.ticks();
    assert_eq!((machine.read64(0x80), machine.get(STATUS)), (0x1020, 7));
    machine.write64(0x90, !0xfff | 1);
    machine.write64(0x88, 0x1030);
    machine.ticks();
    assert_eq!((machine.read32(0x34), machine.read64(0xb0)), (0x10, 2), "the end of memory: no descriptor");
}

/// An invalidation of what is cached of 0x1000 that may be put off, and `then` behind it, in one tick: whether it is done. Again and again, as dice may do
/// it all the same.
fn done_before(then: &[u64; 2], mend: fn(&Machine)) -> bool {
    let policy = Policy { lazy_invalidation: true, work_on_reads: false, ..Policy::eager() };
    let machine = Machine::legacy(Config { policy, ..plain() });
    (0..10).all(|round| {
        let (old, new) = (0x80_0000 + (round << 12), 0x80_1000 + (round << 12));
        assert_eq!(machine.read(0x1000), Got::At(old));
        machine.set(SS1 + 8, &[new | 3]);
        let tail = machine.read64(0x88);
        machine.set(QUEUE + tail, &[0x5_0022, 0, then[0], then[1]]);
        machine.write64(0x88, tail + 0x20);
        machine.unit.step(0);
        let done = machine.read(0x1000) == Got::At(new);
        mend(&machine);
        done
    })
}

#[test]
fn a_device_is_told_after_the_unit_itself_has_forgotten() {
    let answer = |machine: &Machine| {
        let tags = 1 << machine.ears.invalidations.lock().unwrap().pop().expect("it was told").tag;
        machine.unit.invalidation_done(&InvalidationDone { source: SourceId(8), tags });
    };
    assert!(done_before(&[0x8_0000_0003, 0x1000], answer));
    assert!(!done_before(&[0x12, 0], |_| {}), "otherwise it may wait");
}

#[test]
fn what_was_fetched_before_a_wrong_descriptor_is_done() {
    let mend = |machine: &Machine| {
        assert_eq!(machine.read32(0x34), 0x10);
        machine.set(QUEUE + machine.read64(0x80), &[0x22, 0]);
        machine.write32(0x34, 0x10);
        machine.ticks();
    };
    assert!(done_before(&[0xf, 0], mend));
}

#[test]
fn nothing_is_fetched_behind_a_fence_before_its_wait_is_complete() {
    // SW, and FN.
    for (wait, fenced) in [(0x25, false), (0x65, true)] {
        let machine = Machine::legacy(plain());
        machine.submit(&[0x8_0000_0003, 0x5000]);
        machine.submit(&[wait, STATUS]);
        machine.submit(&[0x12]);
        machine.ticks();
        assert_eq!(machine.read64(0x80) != machine.read64(0x88), fenced);
        let tags = 1 << machine.ears.invalidations.lock().unwrap()[0].tag;
        machine.unit.invalidation_done(&InvalidationDone { source: SourceId(8), tags });
        machine.ticks();
        assert_eq!(machine.read64(0x80), machine.read64(0x88));
    }
}
