//! What sharing needs, word by word: records of stalls and of page requests, the commands that answer them and that tell ATCs, and the fields of STE and CD
//! that decide about them.
//!
//! Every word was typed by hand from the book. Spec: SMMUv3 H.a, 4.5 "ATS and PRI", 4.7 "Fault response and synchronization commands", 5.2 "Stream Table Entry",
//! 5.4 "Context Descriptor", 7.3 "Event records", 8 "Page request queue".

use std::sync::{Arc, Mutex};

use model_bus::Width::{Bits32, Bits64};
use model_bus::{
    Downstream, Invalidation, Mmio, Outcome, PageRequest, PageResponse, Stall, StallState, TranslationAnswer,
    TranslationRequest, Translator,
};
use model_smmuv3::{Config, Policy, StallModel};
use portcullis_checks::golden::scenes::{Answer, Ask, Does, Part, STREAM, Scene};
use portcullis_types::{Iova, Pasid, SourceId};

use crate::stage::Stage;

const SYNC: [u64; 2] = [0x46, 0];
/// A page that is there, in substream 1, and one that is not.
const VA: u64 = 0x0000_0012_3456_7ABC;
const ABSENT: u64 = 0x0000_0012_3456_8ABC;
const PRI_QUEUE: u64 = 0x8000_2800;

/// Stage 1 with four descriptors (S1CDMax 2), S1DSS 2, EATS 1. Descriptor 1 is T0SZ 25, ASID 0x2A, A, R, and S as the test has it.
const SHARED: Scene = Scene {
    name: "shared",
    part: Part::Usual,
    ste: [0x1000_0000_8000_300B, 0x0000_0000_1000_00D6, 0, 0, 0, 0, 0, 0],
    registers: &[],
    memory: &[
        (0x8000_3040, 0x002A_F205_C000_3519),
        (0x8000_3048, 0x0000_0000_8001_0000),
        (0x8000_3058, 0x0000_0000_0004_44FF),
        (0x8001_0240, 0x0000_0000_8001_1003),
        (0x8001_1D10, 0x0000_0000_8001_2003),
        (0x8001_2B38, 0x0060_0000_80A0_0F43),
    ],
    asks: &[],
};

/// What goes down to devices.
#[derive(Default)]
struct Down {
    invalidations: Mutex<Vec<Invalidation>>,
    responses: Mutex<Vec<PageResponse>>,
}

impl Downstream for Down {
    fn invalidate(&self, message: &Invalidation) -> bool {
        self.invalidations.lock().unwrap().push(*message);
        false
    }

    fn page_response(&self, message: &PageResponse) -> bool {
        self.responses.lock().unwrap().push(*message);
        true
    }
}

/// An SMMU that shares, with page requests on: PRIQEN, CR0 bit 1.
fn stage() -> (Stage, Arc<Down>) {
    let config = Config {
        substream_id_bits: 8,
        stall: StallModel::Configurable,
        ats: true,
        pri: true,
        page_queue_lg2: 4,
        policy: Policy::stale(),
        ..Config::default()
    };
    let stage = Stage::with(&SHARED, config);
    let down = Arc::new(Down::default());
    let as_seen: Arc<dyn Downstream> = down.clone();
    stage.smmu.connect(Arc::downgrade(&as_seen));
    stage.smmu.write(0xC0, Bits64, PRI_QUEUE | 4);
    stage.smmu.write(0x1_00C8, Bits32, 0);
    stage.smmu.write(0x1_00CC, Bits32, 0);
    let cr0 = stage.smmu.read(0x20, Bits32) | 2;
    stage.smmu.write(0x20, Bits32, cr0);
    stage.await_register(0x24, cr0);
    (stage, down)
}

fn ask(address: u64, does: Does) -> Ask {
    Ask { stream: STREAM, substream: Some(1), address, does, answer: Answer::Aborts }
}

fn stalls(stage: &Stage, address: u64, does: Does) -> Stall {
    match stage.ask(&ask(address, does)) {
        (Outcome::Stalled(stall), None) => stall,
        other => panic!("it is not held back: {other:?}"),
    }
}

#[test]
fn part_22_a_stall_is_recorded_with_its_tag_and_answered_by_the_words_of_the_book() {
    let (mut stage, _down) = stage();
    let read = stalls(&stage, ABSENT, Does::Reads);
    // Event 0x10, SSV, SubstreamID 1, StreamID 5; STAG 0, Stall, RnW, CLASS IN.
    assert_eq!(stage.new_record(), Some([0x0000_0005_0000_1810, 0x0000_0208_8000_0000, ABSENT, 0]));
    let write = stalls(&stage, ABSENT, Does::Writes);
    assert_eq!(stage.new_record(), Some([0x0000_0005_0000_1810, 0x0000_0200_8000_0001, ABSENT, 0]));
    let third = stalls(&stage, ABSENT, Does::Reads);
    assert_eq!(stage.new_record(), Some([0x0000_0005_0000_1810, 0x0000_0208_8000_0002, ABSENT, 0]));
    // Another StreamID, another tag: nobody is meant.
    stage.command(&[[0x0000_0004_0000_1044, 0], [0x0000_0005_0000_1044, 3], SYNC]);
    assert_eq!([read, write, third].map(|stall| stage.smmu.stalled(stall)), [StallState::Waiting; 3]);
    // Ac: try again. Ab: abort. Neither: as if it read zeroes.
    stage.command(&[
        [0x0000_0005_0000_1044, 0],
        [0x0000_0005_0000_2044, 1],
        [0x0000_0005_0000_0044, 2],
        SYNC,
    ]);
    let ends = [StallState::Retry, StallState::Aborted, StallState::Ignored];
    assert_eq!([read, write, third].map(|stall| stage.smmu.stalled(stall)), ends);
}

#[test]
fn part_22_stall_term_ends_the_stalls_of_a_stream_that_aborts() {
    let (stage, _down) = stage();
    let stall = stalls(&stage, ABSENT, Does::Reads);
    // Config 0: V and nothing else.
    stage.store(0x8000_0000 + 64 * u64::from(STREAM), 1);
    stage.command(&[[0x0000_0005_0000_0003, 1], SYNC, [0x0000_0004_0000_0045, 0], SYNC]);
    assert_eq!(stage.smmu.stalled(stall), StallState::Waiting, "another stream's");
    stage.command(&[[0x0000_0005_0000_0045, 0], SYNC]);
    assert_eq!(stage.smmu.stalled(stall), StallState::Aborted);
}

#[test]
fn part_17_epd0_ends_every_access_and_r_its_record() {
    let (mut stage, _down) = stage();
    // EPD0, bit 14; S, bit 44, off; R, bit 45, on and off.
    for (word, record) in [
        (0x002A_E205_C000_7519, Some([0x0000_0005_0000_1810, 0x0000_0208_0000_0000, VA, 0])),
        (0x002A_C205_C000_7519, None),
    ] {
        stage.store(0x8000_3040, word);
        // CMD_CFGI_CD of substream 1, Leaf; then CMD_TLBI_NSNH_ALL.
        stage.command(&[[0x0000_0005_0000_1005, 1], [0x30, 0], SYNC]);
        assert_eq!(stage.ask(&ask(VA, Does::Reads)), (Outcome::Aborted, None));
        assert_eq!(stage.new_record(), record);
    }
}

#[test]
fn part_17_s1dss_says_what_traffic_without_a_substream_is() {
    // S1DSS 2: descriptor 0, which is not valid here. 1: bypass. 0: F_STREAM_DISABLED.
    let without = Ask {
        stream: STREAM,
        substream: None,
        address: 0x80A0_0123,
        does: Does::Reads,
        answer: Answer::Aborts,
    };
    for (word1, outcome, went, event) in [
        (0x0000_0000_1000_00D6, Outcome::Aborted, None, Some(0x0A)),
        (0x0000_0000_1000_00D5, Outcome::Done, Some(0x80A0_0123), None),
        (0x0000_0000_1000_00D4, Outcome::Aborted, None, Some(0x06)),
    ] {
        let (mut stage, _down) = stage();
        stage.store(0x8000_0008 + 64 * u64::from(STREAM), word1);
        stage.command(&[[0x0000_0005_0000_0003, 1], SYNC]);
        assert_eq!(stage.ask(&without), (outcome, went), "{word1:#x}");
        assert_eq!(stage.new_record().map(|record| record[0] & 0xff), event, "{word1:#x}");
    }
}

#[test]
fn part_18_eats_lets_translation_requests_in() {
    let request = TranslationRequest {
        source: SourceId(STREAM),
        pasid: Pasid::new(1),
        iova: Iova::new(VA & !0xfff),
        no_write: true,
        execute: false,
        privileged: false,
    };
    for (word1, is_in) in [(0x0000_0000_1000_00D6, true), (0x0000_0000_0000_00D6, false)] {
        let (stage, _down) = stage();
        stage.store(0x8000_0008 + 64 * u64::from(STREAM), word1);
        stage.command(&[[0x0000_0005_0000_0003, 1], SYNC]);
        match stage.smmu.translate(&request) {
            TranslationAnswer::Translated(given) => {
                assert!(is_in);
                assert_eq!((given.pa.get(), given.read), (0x80A0_0000, true));
            }
            answer => assert!(!is_in && answer == TranslationAnswer::UnsupportedRequest, "{answer:?}"),
        }
    }
}

#[test]
fn part_24_page_requests_are_two_words_as_the_book_has_them() {
    let (stage, _down) = stage();
    let request = PageRequest {
        source: SourceId(STREAM),
        pasid: Pasid::new(0x9C),
        privileged: false,
        execute: false,
        iova: Iova::new(0x0000_0012_3456_8000),
        group: 0x1A5,
        last: true,
        read: true,
        write: false,
    };
    let requests = [
        (request, [0xD000_009C_0000_0005, 0x0000_0012_3456_81A5]),
        (PageRequest { write: true, last: false, ..request }, [0xB000_009C_0000_0005, 0x0000_0012_3456_81A5]),
        (
            PageRequest { execute: true, privileged: true, ..request },
            [0xDC00_009C_0000_0005, 0x0000_0012_3456_81A5],
        ),
        (PageRequest { pasid: None, ..request }, [0x5000_0000_0000_0005, 0x0000_0012_3456_81A5]),
    ];
    for (number, (request, words)) in (0u64..).zip(requests) {
        stage.smmu.request_page(&request);
        let at = PRI_QUEUE + 16 * number;
        assert_eq!(stage.smmu.read(0x1_00C8, Bits32), number + 1);
        assert_eq!([stage.load(at), stage.load(at + 8)], words, "{request:x?}");
    }
}

#[test]
fn part_25_responses_go_down_with_the_codes_of_the_link() {
    let (stage, down) = stage();
    // Resp 2 success, 1 invalid, 0 failure; SSV and SubstreamID 0x9C; PRGIndex 0x1A5.
    stage.command(&[
        [0x0000_0005_0009_C841, 0x21A5],
        [0x0000_0005_0009_C841, 0x11A5],
        [0x0000_0005_0000_0041, 0x01A5],
        SYNC,
    ]);
    let (source, group) = (SourceId(STREAM), 0x1A5);
    let with = |pasid, code| PageResponse { source, pasid, group, code };
    let pasid = Pasid::new(0x9C);
    assert_eq!(*down.responses.lock().unwrap(), [with(pasid, 0), with(pasid, 1), with(None, 15)]);
}

#[test]
fn part_18_invalidations_of_atcs_go_down_as_the_command_says() {
    let (stage, down) = stage();
    stage.command(&[
        // SSV, SubstreamID 0x9C; 2^0 pages at 0x12_3456_8000.
        [0x0000_0005_0009_C840, 0x0000_0012_3456_8000],
        // The same with G, and 2^9 pages.
        [0x0000_0005_0009_CA40, 0x0000_0012_3440_0009],
        // Everything: Size 52.
        [0x0000_0005_0000_0040, 0x0000_0000_0000_0034],
        SYNC,
    ]);
    let seen = down.invalidations.lock().unwrap();
    let seen: Vec<_> = seen
        .iter()
        .map(|told| (told.source.0, told.pasid.map(Pasid::get), told.global, told.first.get(), told.size_lg2))
        .collect();
    let wanted = [
        (5, Some(0x9C), false, 0x0000_0012_3456_8000, 12),
        (5, Some(0x9C), true, 0x0000_0012_3440_0000, 21),
        (5, None, false, 0, 64),
    ];
    assert_eq!(seen, wanted);
}
