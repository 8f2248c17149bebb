//! Interrupt remapping: entries, source validation, faults, the interrupt entry cache.

use std::sync::{Arc, Mutex};

use model_vtd::{Config, clause};

use crate::harness::*;

/// Remapping on, 256 entries, 32-bit APIC ids if `wide`.
fn remapping(config: Config, wide: bool) -> Machine {
    let machine = Machine::legacy(config);
    machine.write64(0xb8, IRT | 7 | u64::from(wide) << 11);
    machine.command(24, true);
    machine.invalidate(&[0x4]);
    machine.command(25, true);
    machine
}

/// Index 3, handle only.
const MESSAGE: u64 = 0xfee0_0070;
/// Vector 0x51 to APIC 0x1234, P.
const ENTRY: u64 = 0x1234_0051_0001;
const ENTRY_WIDE: u64 = 0x0000_1234_0051_0001;

fn vectors(machine: &Machine) -> Vec<(u8, u32)> {
    let mut heard = machine.ears.interrupts.lock().unwrap();
    let all = heard.iter().map(|interrupt| (interrupt.vector, interrupt.destination)).collect();
    heard.clear();
    all
}

fn refused(words: [u64; 2], source: u16) -> Option<[u64; 2]> {
    let machine = remapping(plain(), true);
    machine.set(IRT + 48, &words);
    assert!(!machine.message(source, MESSAGE, 0));
    assert_eq!(vectors(&machine), []);
    machine.fault()
}

#[test]
fn a_message_is_what_its_entry_says() {
    let machine = remapping(plain(), true);
    machine.set(IRT + 48, &[ENTRY_WIDE, 0]);
    assert!(machine.message(8, MESSAGE, 0));
    // Handle 1 and subhandle 2.
    assert!(machine.message(8, 0xfee0_0038, 2));
    assert_eq!(vectors(&machine), [(0x51, 0x1234); 2]);
    // xAPIC: 8 bits, from bit 40.
    let machine = remapping(plain(), false);
    machine.set(IRT + 48, &[0x3400_0051_0001, 0]);
    assert!(machine.message(8, MESSAGE, 0));
    assert_eq!(vectors(&machine), [(0x51, 0x34)]);
    assert_eq!(machine.notes(), []);
}

#[test]
fn the_faults_20h_to_26h_have_their_conditions() {
    let machine = remapping(plain(), true);
    assert!(!machine.message(8, 0xfee0_0038, 1 << 16));
    assert_eq!(machine.reason(), Some(0x20));
    assert!(!machine.message(8, 0xfee0_2010, 0));
    // Index 0x100.
    assert_eq!(machine.fault(), Some([0x100 << 48, 1 << 63 | 0x21 << 32 | 8]));
    machine.ram.hole(IRT..=IRT + 0xfff);
    assert!(!machine.message(8, MESSAGE, 0));
    assert_eq!(machine.reason(), Some(0x23));
    assert!(!machine.message(8, 0xfee0_0000, 0x51));
    assert_eq!(machine.reason(), Some(0x25));
    let at = |reason: u64| Some([3 << 48, 1 << 63 | reason << 32 | 8]);
    assert_eq!(refused([0, 0], 8), at(0x22));
    for words in [[1 << 24 | 1, 0], [1 << 12 | 1, 0], [1 << 15 | 1, 0], [1, 1 << 20], [1, 3 << 18], [0x61, 0]]
    {
        assert_eq!(refused(words, 8), at(0x24), "{words:x?}");
    }
    assert_eq!(refused([1, 1 << 18 | 9], 8), at(0x26));
    // FPD.
    assert_eq!(refused([2, 0], 8), None);
    assert_eq!(refused([3, 1 << 18 | 9], 8), None);
}

#[test]
fn source_validation_compares_what_svt_and_sq_say() {
    for (upper, source, passes) in [
        (1 << 18 | 8, 8, true),
        (1 << 18 | 8, 9, false),
        // All but bit 2; bits 2:1; bits 2:0.
        (1 << 18 | 1 << 16 | 8, 0xc, true),
        (1 << 18 | 1 << 16 | 8, 0xa, false),
        (1 << 18 | 2 << 16 | 8, 0xe, true),
        (1 << 18 | 2 << 16 | 8, 0x9, false),
        (1 << 18 | 3 << 16 | 8, 0xf, true),
        (1 << 18 | 3 << 16 | 8, 0x10, false),
        // Buses 1 to 3.
        (2 << 18 | 0x103, 0x208, true),
        (2 << 18 | 0x103, 0x408, false),
    ] {
        let machine = remapping(plain(), true);
        machine.set(IRT + 48, &[ENTRY, upper]);
        assert_eq!(machine.message(source, MESSAGE, 0), passes, "{upper:x} {source:x}");
    }
}

#[test]
fn an_entry_stays_cached_until_its_index_is_invalidated() {
    for (words, gone) in [
        ([0x4, 0], true),
        ([0x3_0000_0014, 0], true),
        ([0x4_0000_0014, 0], false),
        // Index 2, two of them.
        ([0x2_0800_0014, 0], true),
    ] {
        let machine = remapping(plain(), true);
        machine.set(IRT + 48, &[ENTRY, 0]);
        assert!(machine.message(8, MESSAGE, 0));
        machine.set(IRT + 48, &[ENTRY + 0x1_0000, 0]);
        assert!(machine.message(8, MESSAGE, 0));
        machine.invalidate(&words);
        assert!(machine.message(8, MESSAGE, 0));
        let last = if gone { 0x52 } else { 0x51 };
        assert_eq!(vectors(&machine).iter().map(|it| it.0).collect::<Vec<_>>(), [0x51, 0x51, last]);
    }
}

#[test]
fn compatibility_format_passes_where_it_is_let() {
    let machine = Machine::legacy(plain());
    assert!(machine.message(8, 0xfee0_5000, 0x61));
    let machine = remapping(plain(), false);
    machine.command(23, true);
    assert!(machine.message(8, 0xfee0_5000, 0x61));
    assert_eq!(vectors(&machine), [(0x61, 5)]);
    let machine = remapping(plain(), true);
    machine.command(23, true);
    assert!(!machine.message(8, 0xfee0_5000, 0x61));
    assert_eq!(machine.reason(), Some(0x25));
}

#[test]
fn a_message_is_diverted_from_the_tables() {
    use model_bus::{Outcome, Request, Translator};
    use portcullis_types::{Access, Iova, SourceId};
    let machine = Machine::legacy(plain());
    let request = Request {
        source: SourceId(8),
        pasid: None,
        iova: Iova::new(0xfee0_0070),
        len_bytes: 4,
        access: Access::WRITE,
    };
    let mut at = None;
    let outcome = machine.unit.access(&request, &mut |passage| {
        at = Some(passage.pa.get());
        Ok(())
    });
    assert_eq!((outcome, at), (Outcome::Done, Some(0xfee0_0070)));
}

#[test]
fn enabling_without_invalidation_is_against_the_rules() {
    let machine = Machine::legacy(plain());
    machine.write64(0xb8, IRT | 7);
    machine.command(24, true);
    machine.command(25, true);
    assert_eq!(machine.broken(), [clause::INTERRUPT_TABLE_NOT_INVALIDATED]);
}

#[test]
fn an_invalidation_of_the_entry_cache_waits_for_interrupts_under_way() {
    let machine = Arc::new(remapping(plain(), true));
    machine.set(IRT + 48, &[ENTRY_WIDE, 0]);
    let done = Arc::new(Mutex::new(None));
    let (weak, seen) = (Arc::downgrade(&machine), done.clone());
    let meanwhile = move || {
        let machine = weak.upgrade().unwrap();
        machine.submit(&[0x4]);
        *seen.lock().unwrap() = Some(machine.waited());
    };
    assert!(machine.ears.meanwhile.set(Box::new(meanwhile)).is_ok());
    assert!(machine.message(DEVICE, MESSAGE, 0));
    assert_eq!(*done.lock().unwrap(), Some(false), "it is being delivered");
    machine.ticks();
    assert_eq!(machine.get(STATUS), 7);
}
