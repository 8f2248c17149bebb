//! Translation requests, translated requests and page requests.

use model_bus::{Outcome, PageRequest, TranslatedRequest, TranslationAnswer, TranslationRequest, Translator};
use model_vtd::{Config, clause};
use portcullis_types::{Access, Iova, Pa, Pasid, SourceId};

use crate::harness::*;

const CONTEXT: u64 = CONTEXTS + 32 * 8;
pub(crate) const NOTHING: Option<(u64, u8, bool, bool)> = Some((0, 12, false, false));

pub(crate) fn ask(machine: &Machine, pasid: Option<u32>, iova: u64, no_write: bool) -> TranslationAnswer {
    machine.unit.translate(&TranslationRequest {
        source: SourceId(DEVICE.into()),
        pasid: pasid.and_then(Pasid::new),
        iova: Iova::new(iova),
        no_write,
        execute: false,
        privileged: false,
    })
}

/// Where it goes, size, read, write.
pub(crate) fn given(answer: TranslationAnswer) -> Option<(u64, u8, bool, bool)> {
    match answer {
        TranslationAnswer::Translated(it) => Some((it.pa.get(), it.size_lg2, it.read, it.write)),
        _ => None,
    }
}

fn translated(machine: &Machine, at: u64) -> bool {
    let request = TranslatedRequest {
        source: SourceId(DEVICE.into()),
        pasid: None,
        at: Pa::new(at),
        len_bytes: 8,
        access: Access::READ,
    };
    machine.unit.access_translated(&request, &mut |_| Ok(())) == Outcome::Done
}

pub(crate) fn page(machine: &Machine, pasid: Option<u32>, group: u16, last: bool) {
    machine.unit.request_page(&PageRequest {
        source: SourceId(DEVICE.into()),
        pasid: pasid.and_then(Pasid::new),
        privileged: false,
        execute: false,
        iova: Iova::new(0x7000),
        group,
        last,
        read: true,
        write: true,
    });
}

#[test]
fn a_request_is_answered_with_what_is_allowed() {
    let machine = Machine::scalable(plain());
    assert_eq!(given(ask(&machine, None, 0x1234, false)), Some((0x80_0000, 12, true, true)));
    assert_eq!(given(ask(&machine, Some(1), 0x3000, true)), Some((0x1000, 12, true, false)));
    assert_eq!(machine.get(FS1 + 24) & 0x40, 0, "nothing is made dirty for a reader");
    assert_eq!(given(ask(&machine, Some(1), 0x3000, false)), Some((0x1000, 12, true, true)));
    assert_eq!(machine.get(FS1 + 24) & 0x40, 0x40);
    machine.set(SS1 + 16, &[0x90_0001]);
    assert_eq!(given(ask(&machine, None, 0x2000, false)), Some((0x90_0000, 12, true, false)));
    machine.set(SS2 + 16, &[0x4000_0083]);
    assert_eq!(given(ask(&machine, None, 0x41_2000, false)), Some((0x4000_0000, 21, true, true)));
    assert_eq!(machine.fault(), None);
}

#[test]
fn what_is_recoverable_is_the_devices_to_see_and_the_rest_is_recorded() {
    let machine = Machine::scalable(plain());
    assert_eq!(given(ask(&machine, Some(1), 0x7000, false)), NOTHING);
    assert_eq!(given(ask(&machine, Some(9), 0x7000, false)), NOTHING);
    assert_eq!(machine.fault(), None);
    machine.set(PASIDS + 64 * 5, &[0x61]);
    assert_eq!(ask(&machine, Some(5), 0x7000, false), TranslationAnswer::CompleterAbort);
    // F, T1=0, AT=01b, PASID 5, reason, PP.
    assert_eq!(machine.fault(), Some([0x7000, 0x9000_055a_8000_0008]));
    // DTE off.
    let machine = Machine::scalable(plain());
    machine.set(CONTEXT, &[DIRECTORY | 9]);
    assert_eq!(ask(&machine, None, 0x1000, false), TranslationAnswer::UnsupportedRequest);
    assert_eq!(machine.reason(), Some(0x44));
    assert_eq!((translated(&machine, 0x80_0000), machine.reason()), (false, Some(0x44)));
}

#[test]
fn legacy_mode_lets_ats_where_tt_says_so() {
    let machine = Machine::legacy(plain());
    assert_eq!(given(ask(&machine, None, 0x1000, false)), Some((0x80_0000, 12, true, true)));
    assert!(translated(&machine, 0x80_0000));
    assert_eq!((translated(&machine, 1 << 46), machine.reason()), (false, Some(4)));
    assert_eq!((translated(&machine, 0xfee0_0000), machine.reason()), (false, Some(0xe)));
    let machine = Machine::legacy(plain());
    machine.set(CONTEXTS + 16 * 8, &[SS4 | 1]);
    assert_eq!(ask(&machine, None, 0x1000, false), TranslationAnswer::UnsupportedRequest);
    assert_eq!(machine.reason(), Some(0xd));
    assert_eq!((translated(&machine, 0x80_0000), machine.reason()), (false, Some(0xd)));
}

#[test]
fn a_message_address_is_to_be_used_untranslated() {
    let machine = Machine::scalable(plain());
    let TranslationAnswer::Translated(it) = ask(&machine, None, 0xfee0_1000, false) else { panic!() };
    assert_eq!((it.read, it.write, it.untranslated_only), (false, true, true));
    assert_eq!(given(ask(&machine, None, 0xfee0_1000, true)).map(|it| (it.2, it.3)), Some((false, false)));
}

#[test]
fn a_page_request_is_written_answered_and_its_answer_checked() {
    let machine = Machine::scalable(plain());
    machine.write64(0xd0, REQUESTS);
    machine.write32(0xe4, 0x71);
    machine.write32(0xe8, 0xfee0_0000);
    machine.write32(0xe0, 0);
    page(&machine, Some(1), 5, true);
    assert_eq!([machine.get(REQUESTS), machine.get(REQUESTS + 8)], [0x1_0008_0101, 0x702f]);
    assert_eq!((machine.read64(0xc8), machine.read32(0xdc)), (0x20, 1));
    assert_eq!(machine.ears.interrupts.lock().unwrap()[0].vector, 0x71);
    machine.submit(&[0x1_0008_0019, 5 << 3]);
    machine.wait();
    let response = machine.ears.responses.lock().unwrap()[0];
    assert_eq!((response.group, response.code, response.pasid), (5, 0, Pasid::new(1)));
    assert_eq!(machine.notes(), []);
    machine.submit(&[0x1_0008_0019, 5 << 3]);
    machine.wait();
    assert_eq!(machine.broken(), [clause::RESPONSE_UNKNOWN]);
}

#[test]
fn an_answer_is_success_invalid_request_or_failure() {
    for code in 0..16 {
        let machine = Machine::scalable(plain());
        machine.write64(0xd0, REQUESTS);
        page(&machine, Some(1), 5, true);
        machine.submit(&[0x1_0008_0019 | code << 12, 5 << 3]);
        machine.wait();
        assert_eq!(u64::from(machine.ears.responses.lock().unwrap()[0].code), code);
        let wanted: &[&str] = if matches!(code, 0 | 1 | 15) { &[] } else { &[clause::RESPONSE_CODE] };
        assert_eq!(machine.broken(), wanted, "{code}");
    }
}

#[test]
fn a_group_that_a_device_ends_twice_is_answered_twice_and_no_more() {
    let machine = Machine::scalable(plain());
    machine.write64(0xd0, REQUESTS);
    page(&machine, Some(1), 5, true);
    page(&machine, Some(1), 5, true);
    for broken in [false, false, true] {
        machine.submit(&[0x1_0008_0019, 5 << 3]);
        machine.wait();
        let wanted: &[&str] = if broken { &[clause::RESPONSE_UNKNOWN] } else { &[] };
        assert_eq!(machine.broken(), wanted);
    }
}

#[test]
fn a_full_queue_overflows_and_the_hardware_answers_for_software() {
    let machine = Machine::scalable(plain());
    machine.write64(0xd0, REQUESTS);
    (0..127).for_each(|_| page(&machine, Some(1), 1, false));
    assert_eq!(machine.read32(0xdc), 1);
    page(&machine, Some(1), 2, false);
    assert_eq!((machine.read32(0xdc), machine.ears.responses.lock().unwrap().len()), (3, 0));
    page(&machine, Some(1), 2, true);
    let response = *machine.ears.responses.lock().unwrap().last().unwrap();
    assert_eq!((response.group, response.code), (2, 0), "Success: it will ask again");
    assert_eq!((machine.unit.page_requests_lost(), machine.unit.counters().page_requests_lost), (2, 2));
    machine.write64(0xc0, 0x20);
    machine.write32(0xdc, 2);
    page(&machine, Some(1), 3, true);
    assert_eq!(machine.read64(0xc8), 0);
}

#[test]
fn a_page_request_queue_at_the_end_of_memory_takes_nothing_and_breaks_nothing() {
    let machine = Machine::scalable(plain());
    // Eight pages from the last one of 46 bits on, and beyond that.
    machine.write64(0xd0, !0xfff | 3);
    machine.write64(0xc8, 0x2000);
    page(&machine, Some(1), 5, true);
    assert_eq!((machine.read64(0xc8), machine.read32(0xdc)), (0x2000, 0));
    let response = machine.ears.responses.lock().unwrap()[0];
    assert_eq!((response.group, response.code), (5, 1));
}

#[test]
fn a_page_request_that_meets_a_fault_is_invalid_and_recorded() {
    let machine = Machine::scalable(plain());
    machine.set(CONTEXT, &[DIRECTORY | 0xd]);
    page(&machine, Some(1), 4, true);
    assert_eq!(machine.ears.responses.lock().unwrap()[0].code, 1);
    // F, T1=0, T2=1, reason 47h.
    assert_eq!(machine.fault(), Some([0x7000, 0x8000_0147_9000_0008]));
    let machine = Machine::legacy(plain());
    page(&machine, None, 4, true);
    assert_eq!(machine.reason(), Some(0x32));
}

#[test]
fn a_page_request_forgets_what_is_stale_of_its_page() {
    let machine = Machine::scalable(plain());
    machine.write64(0xd0, REQUESTS);
    machine.set(FS1 + 56, &[0x5005]);
    assert_eq!(machine.read_in(1, 0x7000), Got::At(0x5000));
    machine.set(FS1 + 56, &[0x5007]);
    assert_eq!(machine.write_in(1, 0x7000), Got::Abort);
    page(&machine, Some(1), 1, true);
    assert_eq!(machine.write_in(1, 0x7000), Got::At(0x5000));
}

#[test]
fn a_part_without_device_tlbs_answers_none() {
    let machine = Machine::legacy(Config { device_tlbs: false, ..plain() });
    assert_eq!(ask(&machine, None, 0x1000, false), TranslationAnswer::UnsupportedRequest);
    assert!(!translated(&machine, 0x80_0000));
}

#[test]
fn a_translated_request_does_not_reach_protected_memory() {
    let machine = Machine::legacy(Config { protected_memory: true, ..plain() });
    machine.write32(0x68, 0x80_0000);
    machine.write32(0x6c, 0x80_0000);
    machine.write64(0x70, 0x4000_0000);
    assert!(translated(&machine, 0x80_0000));
    machine.write32(0x64, 1 << 31);
    assert!(!translated(&machine, 0x80_0000) && translated(&machine, 0xa0_0000));
    assert_eq!(machine.fault(), None);
}
