//! Event records of `portcullis-spec` against the golden words: numbers, fields, and which record has which.

use portcullis_checks::accessors;
use portcullis_checks::golden::smmuv3::EVENTS;
use portcullis_checks::golden::{Table, hold};
use portcullis_spec::smmuv3::event::{CLASS_CD, CLASS_IN, CLASS_TTD, EventId, EventWord0, EventWord1};

fn golden(name: &str) -> &'static Table {
    EVENTS.iter().find(|table| table.name == name).expect("the book has this event")
}

#[test]
fn event_numbers_are_the_books() {
    for code in 0..=u8::MAX {
        let golden = EVENTS.iter().find(|table| table.code == Some(code)).map(|table| table.name);
        // 7.3.21 "IMPDEF_EVENTn": 0xE0 to 0xEF.
        let golden = if (0xE0..=0xEF).contains(&code) { Some("IMPDEF_EVENT") } else { golden };
        assert_eq!(EventId(code).name(), golden, "event {code:#04x}");
    }
}

#[test]
fn words_of_records_lie_where_the_book_says() {
    let word_0 = accessors! {EventWord0;
        "EventNumber" => id with_id,
        "SSV" => ssv with_ssv,
        "SubstreamID" => substream_id with_substream_id,
        "StreamID" => stream_id with_stream_id,
    };
    hold(golden("F_TRANSLATION"), 0, !0, word_0, &[]);
    let word_1 = accessors! {EventWord1;
        "STAG" => stag with_stag,
        "Stall" => stall with_stall,
        "PnU" => pnu with_pnu,
        "InD" => ind with_ind,
        "RnW" => rnw with_rnw,
        "S2" => s2 with_s2,
        "CLASS" => class with_class,
        "TTRnW" => ttrnw with_ttrnw,
    };
    hold(golden("F_PERMISSION"), 1, !0, word_1, &[]);
    let reason = accessors! {EventWord1; "Reason" => stag with_stag,};
    hold(golden("F_CFG_CONFLICT"), 1, !0, reason, &[]);
}

#[test]
fn what_a_record_is_said_to_hold_is_what_the_book_puts_there() {
    for table in EVENTS {
        let id = EventId(table.code.expect("an event has a number"));
        let has = |name: &str| table.fields.iter().any(|field| field.name.starts_with(name));
        assert_eq!(id.has_input_address(), has("InputAddr"), "{}: input address", table.name);
        assert_eq!(id.has_fetch_address(), has("FetchAddr"), "{}: fetch address", table.name);
        assert_eq!(id.has_ipa(), has("IPA"), "{}: intermediate address", table.name);
        assert_eq!(id.has_access(), has("RnW"), "{}: access", table.name);
        assert_eq!(id.is_translation_related(), has("Stall"), "{}: can stall", table.name);
        let always = has("SubstreamID") && !has("SSV");
        assert_eq!(id.always_has_substream(), always, "{}: SubstreamID without SSV", table.name);
    }
}

#[test]
fn named_values_of_records_are_the_books() {
    // 7.3 "Event records", CLASS.
    assert_eq!([CLASS_CD, CLASS_TTD, CLASS_IN], [0b00, 0b01, 0b10]);
}

/// One record as it would lie in the queue, typed by hand, and read back.
#[test]
fn a_stalled_translation_fault_reads_as_it_was_meant() {
    // F_TRANSLATION 0x10, SSV, SubstreamID 0x00042, StreamID 0x0000_0108.
    let word_0 = EventWord0::from_bits(0x0000_0108_0004_2810);
    assert_eq!(EventId(word_0.id()), EventId::F_TRANSLATION);
    assert!(word_0.ssv());
    assert_eq!((word_0.substream_id(), word_0.stream_id()), (0x42, 0x108));
    // STAG 0x1234, Stall, RnW, CLASS IN.
    let word_1 = EventWord1::from_bits(0x0000_0208_8000_1234);
    assert_eq!((word_1.stag(), word_1.stall()), (0x1234, true));
    assert!(word_1.rnw() && !word_1.ind() && !word_1.pnu() && !word_1.s2());
    assert_eq!(word_1.class(), 0b10);
}

/// Records that sharing meets, typed by hand.
#[test]
fn records_of_shared_memory_read_as_they_were_meant() {
    // F_PERMISSION 0x13 of stream 0x200, SSV, SubstreamID 5: a stalled privileged write, STAG 0x0042, CLASS IN.
    let (word_0, word_1) =
        (EventWord0::from_bits(0x0000_0200_0000_5813), EventWord1::from_bits(0x0000_0202_8000_0042));
    assert_eq!((word_0.stream_id(), word_0.ssv(), word_0.substream_id()), (0x200, true, 5));
    assert!(EventId(word_0.id()).is_translation_related() && word_1.stall() && word_1.pnu());
    assert!(!word_1.rnw() && !word_1.ind() && !word_1.s2());
    assert_eq!((word_1.stag(), word_1.class()), (0x42, CLASS_IN));
    // A fetch of instructions that does not wait: InD, RnW.
    let fetch = EventWord1::from_bits(0x0000_020C_0000_0000);
    assert!(fetch.rnw() && fetch.ind() && !fetch.pnu() && !fetch.stall());
    // F_TRANSL_FORBIDDEN 0x07 of stream 0x18: RnW alone, and no SubstreamID, whatever lies there.
    let id = EventId(EventWord0::from_bits(0x0000_0018_0000_0007).id());
    assert_eq!(id, EventId::F_TRANSL_FORBIDDEN);
    assert!(id.has_access() && id.has_input_address() && !id.is_translation_related());
    assert!(EventWord1::from_bits(0x0000_0008_0000_0000).rnw());
    // F_BAD_ATS_TREQ 0x05: W (94) and R (95) where a fault has Stall, so that it must not be taken for one.
    let id = EventId(EventWord0::from_bits(0x0000_0018_0000_5805).id());
    assert_eq!(id, EventId::F_BAD_ATS_TREQ);
    assert!(!id.has_access() && id.has_input_address() && !id.is_translation_related());
}
