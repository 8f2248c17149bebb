//! Invalidations of ATCs, and the CMD_SYNC that waits for them.

use core::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;

use model_bus::{Clocked, Invalidation, InvalidationDone, Translator};
use model_smmuv3::{Config, Policy, clause};
use portcullis_types::{Access, Iova, Pasid, SourceId};

use crate::endpoint::{Endpoint, Manner, enable, plug, translated, with_ats};
use crate::harness::{Got, L3, Machine, PAGE};

/// CMD_ATC_INV of stream 1, without a substream.
const INV: u64 = 0x0000_0001_0000_0040;

/// Stream 1 with a device.
fn machine(manner: Manner) -> (Machine, Arc<Endpoint>) {
    let machine = Machine::stage1(with_ats());
    let endpoint = plug(&machine, 1, manner);
    (machine, endpoint)
}

fn done(machine: &Machine, tags: u32) {
    machine.smmu.invalidation_done(&InvalidationDone { source: SourceId(1), tags });
}

/// Submits a CMD_SYNC; answers whether it was consumed.
fn sync(machine: &Machine) -> bool {
    machine.command(0x46, 0);
    is_idle(machine)
}

/// Whether everything that was submitted was consumed.
fn is_idle(machine: &Machine) -> bool {
    machine.settle();
    machine.r32(0x98) == machine.r32(0x9c) & 0x1f
}

fn pass(machine: &Machine, ns: u64) {
    machine.ram.memory.advance(ns);
}

/// Acknowledges the command error, as long as it has this code.
fn acknowledge(machine: &Machine, code: u32) {
    assert_eq!((machine.r32(0x9c) >> 24 & 0x7f, (machine.r32(0x60) ^ machine.r32(0x64)) & 1), (code, 1));
    machine.w32(0x64, machine.r32(0x60));
}

#[test]
fn an_invalidation_reaches_its_device_as_the_command_says() {
    let (machine, endpoint) = machine(Manner::Prompt);
    machine.command(0x0000_0001_0000_5a40, 0x1234_5000); // SSV, G
    machine.command(0x0000_0001_0000_5840, 0x1234_5004); // 64 KiB
    machine.command(0x0000_0001_0000_5240, 0x1234_5000); // G without SSV
    machine.command(INV, 0xffff_ffff_ffff_f034); // everything
    let of = |pasid: Option<u32>, global, first, size_lg2, tag| Invalidation {
        source: SourceId(1),
        pasid: pasid.and_then(Pasid::new),
        global,
        first: Iova::new(first),
        size_lg2,
        tag,
    };
    let expected = [
        of(Some(5), true, 0x1234_5000, 12, 0),
        of(Some(5), false, 0x1234_0000, 16, 1),
        of(None, false, 0x1234_5000, 12, 2),
        of(None, false, 0, 64, 3),
    ];
    assert_eq!(endpoint.invalidations(), expected);
    assert!(sync(&machine));
    let counters = machine.smmu.counters();
    assert_eq!((counters.atc_invalidations, counters.atc_unsupported), (4, 0));
    machine.assert_clean();
}

#[test]
fn a_sync_waits_for_all_invalidations_before_it() {
    let (machine, endpoint) = machine(Manner::Late);
    machine.command(INV, 0x1000);
    machine.command(INV, 0x2000);
    assert!(is_idle(&machine), "a command alone waits for nothing");
    assert!(!sync(&machine));
    assert_eq!(endpoint.invalidations().len(), 2);
    done(&machine, 1 << 1);
    assert!(!is_idle(&machine));
    machine.smmu.invalidation_done(&InvalidationDone { source: SourceId(2), tags: 1 });
    assert!(!is_idle(&machine), "another device's completion");
    done(&machine, 1 << 0);
    assert!(is_idle(&machine));
    machine.assert_clean();
}

#[test]
fn the_message_of_a_sync_does_not_overtake_the_completion() {
    let (machine, _endpoint) = machine(Manner::Late);
    machine.command(INV, 0x1000);
    machine.command(0x0000_0043_0fc0_1046, 0x3000);
    assert_eq!(machine.word(0x3000), 0);
    done(&machine, 1);
    assert!(is_idle(&machine));
    assert_eq!(machine.word(0x3000), 0x43);
}

#[test]
fn several_completions_may_come_in_one() {
    let (machine, _endpoint) = machine(Manner::Late);
    (0..8).for_each(|_| machine.command(INV, 0x1000));
    assert!(!sync(&machine));
    done(&machine, 0xff);
    assert!(is_idle(&machine));
}

#[test]
fn an_unsupported_request_completes_it_without_a_guarantee() {
    let (machine, endpoint) = machine(Manner::Refuses);
    machine.command(INV, 0x1000);
    machine.command(0x0000_0009_0000_0040, 0x1000); // nobody is there
    assert!(sync(&machine));
    assert!(endpoint.invalidations().is_empty());
    assert_eq!(machine.smmu.counters().atc_unsupported, 2);
    machine.assert_clean();
}

#[test]
fn a_sync_fails_once_an_invalidation_took_too_long() {
    let (machine, endpoint) = machine(Manner::Late);
    machine.command(INV, 0x1000);
    machine.command(0x0000_0043_0fc0_1046, 0x3000);
    let at = machine.r32(0x9c);
    pass(&machine, 500_000);
    assert!(!is_idle(&machine) && machine.r32(0x60) == 0, "not a moment too early");
    pass(&machine, 1);
    machine.settle();
    assert_eq!(machine.r32(0x9c), at | 3 << 24, "RD at the CMD_SYNC");
    assert_eq!((machine.word(0x3000), machine.smmu.counters().atc_timeouts), (0, 1), "nothing is signalled");
    machine.settle();
    assert_eq!(machine.r32(0x9c), at | 3 << 24, "not before it is acknowledged");
    // The same CMD_SYNC again: what was given up is not waited for.
    acknowledge(&machine, 3);
    assert!(is_idle(&machine));
    assert_eq!(machine.word(0x3000), 0x43);
    assert_eq!(machine.smmu.counters().command("CMD_SYNC"), 2, "one of them of the set-up");
    // Its completion comes late, and means nothing; the next invalidation has another tag.
    machine.command(INV, 0x2000);
    let tags: Vec<u8> = endpoint.invalidations().iter().map(|message| message.tag).collect();
    assert_eq!(tags, [0, 1]);
    assert!(!sync(&machine));
    done(&machine, 1 << 0);
    assert!(!is_idle(&machine));
    done(&machine, 1 << 1);
    assert!(is_idle(&machine));
    machine.assert_clean();
}

#[test]
fn a_sync_that_failed_is_done_again_with_what_else_was_outstanding() {
    let (machine, _endpoint) = machine(Manner::Late);
    machine.command(INV, 0x1000);
    pass(&machine, 400_000);
    machine.command(INV, 0x2000);
    assert!(!sync(&machine));
    pass(&machine, 200_000);
    machine.settle();
    acknowledge(&machine, 3);
    assert!(!is_idle(&machine), "the second is still waited for");
    done(&machine, 1 << 1);
    assert!(is_idle(&machine));
}

#[test]
fn the_policy_says_how_long_an_answer_may_take() {
    let policy = Policy { atc_timeout_ns: 10, ..Policy::eager() };
    let machine = Machine::stage1(Config { policy, ..with_ats() });
    let _endpoint = plug(&machine, 1, Manner::Late);
    machine.command(INV, 0x1000);
    assert!(!sync(&machine));
    pass(&machine, 11);
    machine.settle();
    acknowledge(&machine, 3);
}

#[test]
fn no_more_are_under_way_than_there_are_tags() {
    let (machine, endpoint) = machine(Manner::Late);
    for _ in 0..4 {
        (0..8).for_each(|_| machine.command(INV, 0x1000));
        assert!(is_idle(&machine));
    }
    assert_eq!(endpoint.invalidations().len(), 32);
    machine.command(INV, 0x2000);
    assert!(!is_idle(&machine), "it waits in the queue");
    assert!(endpoint.invalidations().is_empty());
    done(&machine, 1 << 7);
    assert!(is_idle(&machine));
    let messages = endpoint.invalidations();
    assert_eq!((messages.len(), messages[0].tag), (1, 7));
    // All given up: tags are used again, and the next CMD_SYNC tells.
    pass(&machine, 500_001);
    machine.command(INV, 0x3000);
    assert!(is_idle(&machine));
    assert_eq!(endpoint.invalidations().len(), 1);
    done(&machine, u32::MAX);
    assert!(!sync(&machine));
    acknowledge(&machine, 3);
    assert!(is_idle(&machine));
    machine.assert_clean();
}

#[test]
fn while_the_smmu_is_off_an_invalidation_waits_for_no_tag() {
    let (machine, endpoint) = machine(Manner::Late);
    for _ in 0..4 {
        (0..8).for_each(|_| machine.command(INV, 0x1000));
    }
    machine.disable();
    machine.command(INV, 0x2000);
    assert!(is_idle(&machine));
    assert_eq!(endpoint.invalidations().len(), 32);
    assert!(!sync(&machine), "those sent before are still waited for");
    done(&machine, u32::MAX);
    assert!(is_idle(&machine));
}

#[test]
fn invalidations_are_ignored_while_the_smmu_is_off() {
    let (machine, endpoint) = machine(Manner::Late);
    machine.disable();
    machine.command(INV, 0x1000);
    assert!(sync(&machine));
    assert!(endpoint.invalidations().is_empty());
}

#[test]
fn what_the_book_forbids_is_noted() {
    let (machine, endpoint) = machine(Manner::Prompt);
    machine.command(0x0001_0000_0000_0040, 0);
    machine.command(0x0000_0001_0010_0840, 0);
    assert_eq!(machine.clauses(), [clause::COMMAND_RANGE, clause::COMMAND_RANGE]);
    endpoint.invalidations();
    let machine = Machine::stage1(Config { substream_id_bits: 0, ..with_ats() });
    let endpoint = plug(&machine, 1, Manner::Prompt);
    machine.command(0x0000_0001_0000_5840, 0);
    assert_eq!(machine.clauses(), [clause::ATS_SUBSTREAM]);
    assert!(endpoint.invalidations().is_empty(), "and has no effect");
    let machine = Machine::stage1(Config { granule_4k: false, ..with_ats() });
    machine.command(INV, 0x1001);
    assert_eq!(machine.clauses(), [clause::ATC_SIZE]);
    machine.command(INV, 0x1002);
    machine.assert_clean();
}

#[test]
fn an_illegal_invalidation_stops_the_queue() {
    let (machine, endpoint) = machine(Manner::Prompt);
    machine.command(INV, 0x35);
    assert_eq!(machine.clauses(), [clause::ILLEGAL_COMMAND]);
    acknowledge(&machine, 1);
    assert!(endpoint.invalidations().is_empty());
    let machine = Machine::stage1(Config { ats: false, ..with_ats() });
    machine.command(INV, 0x1000);
    acknowledge(&machine, 1);
}

#[test]
fn a_reset_forgets_what_was_under_way() {
    let (machine, endpoint) = machine(Manner::Late);
    machine.command(INV, 0x1000);
    machine.smmu.reset();
    machine.w32(0x9c, 0);
    machine.set_up();
    machine.enable();
    done(&machine, 1);
    machine.command(INV, 0x2000);
    assert_eq!(endpoint.invalidations().len(), 2, "the way down is still known");
    assert!(!sync(&machine));
    done(&machine, 1);
    assert!(is_idle(&machine));
}

#[test]
fn a_device_may_come_back_from_within_an_invalidation() {
    let (machine, endpoint) = machine(Manner::Prompt);
    endpoint.curious.store(true, Ordering::Relaxed);
    (0..5).for_each(|slot| machine.put(3 + slot, INV, 0x1000));
    machine.put(8, 0x46, 0);
    machine.w32(0x98, 9);
    assert!(is_idle(&machine));
    assert_eq!(endpoint.invalidations().len(), 5);
    machine.assert_clean();
}

#[test]
fn a_write_by_translated_address_never_lands_after_the_sync_that_took_the_page_away() {
    const ROUNDS: u32 = 60;
    let (machine, endpoint) = machine(Manner::Late);
    machine.ste(1, &[0x5_000b, 1 << 28, 0, 0, 0, 0, 0, 0]);
    enable(&machine, 0b1_1101);
    // What the ATC knows, and whether the driver still lends the page.
    let (known, lent) = (AtomicBool::new(true), AtomicBool::new(true));
    let stop = AtomicBool::new(false);
    let mut writes = 0u64;
    std::thread::scope(|scope| {
        let device = scope.spawn(|| {
            let mut writes = 0;
            while !stop.load(Ordering::Acquire) {
                if known.load(Ordering::Acquire) {
                    assert!(lent.load(Ordering::Acquire), "the page was taken away");
                    assert_eq!(translated(&machine, 1, 0x30_0000, Access::WRITE), Got::At(0x30_0000));
                    writes += 1;
                }
                // Completes what came, late, when nothing that uses it is under way.
                for message in endpoint.invalidations() {
                    known.store(false, Ordering::Release);
                    std::thread::yield_now();
                    done(&machine, 1 << message.tag);
                }
            }
            writes
        });
        for _ in 0..ROUNDS {
            machine.words(L3 + 8, &[0]);
            let prod = machine.r32(0x98);
            let commands = [(0x0001_0000_0000_0012, 0x1001), (0x46, 0), (INV, 0x1000), (0x46, 0)];
            for (slot, (low, high)) in (u64::from(prod)..).zip(commands) {
                machine.put(slot, low, high);
            }
            machine.w32(0x98, (prod + 4) & 0x1f);
            while machine.r32(0x9c) != (prod + 4) & 0x1f {
                assert!(!device.is_finished(), "the device gave up");
                machine.smmu.step(0);
                std::thread::yield_now();
            }
            lent.store(false, Ordering::Release);
            std::thread::yield_now();
            lent.store(true, Ordering::Release);
            machine.words(L3 + 8, &[0x30_0000 | PAGE]);
            known.store(true, Ordering::Release);
            std::thread::yield_now();
        }
        stop.store(true, Ordering::Release);
        writes = device.join().unwrap();
    });
    assert!(writes > 0);
    assert_eq!(machine.smmu.counters().translated_accesses, writes);
    machine.assert_clean();
}
