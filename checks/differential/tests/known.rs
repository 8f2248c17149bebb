//! Each row of what QEMU does otherwise: a case by hand in which the book says one thing, and QEMU still does another. If one of these fails, QEMU
//! has learnt it, and the row can go.

use portcullis_differential::case::{Access, Case, Setup, Stream};
use portcullis_differential::descriptor::{Granule, Stage};
use portcullis_differential::image::{Image, Table};
use portcullis_differential::layout::{DATA, STREAMS};
use portcullis_differential::tables::{Shape, Tables};

const CD: u64 = 0x4500_0000;
const ROOT: u64 = 0x4501_0000;
const UPPER: u64 = 0x4501_1000;
const NEXT: u64 = 0x4501_2000;
const LAST: u64 = 0x4501_4000;
const ROOT2: u64 = 0x4502_0000;
const WRITER: u32 = 8;
const READER: u32 = 0x10;
const NOWHERE: u64 = 0x6000_0000;

/// A page of stage 1 that all may use.
const PAGE: u64 = DATA | 0xf43;
/// V, EPD1, T0SZ 25, IPS 4, AA64, R, A, ASID 1.
const CD0: u64 = 0x0001_6204_c000_0019;
/// S2T0SZ 25, S2SL0 1, S2PS 4, S2AA64, S2R, VMID 1.
const STAGE2: u64 = 0x040c_0059_0000_0001;
/// All of RAM, as one block of stage 2.
const IDENTITY: u64 = 0x4000_07fd;

/// A machine with 4 KiB tables of three levels at stage 1 that lead the first page to the data, and a stage 2 that leaves RAM where it is.
struct Hand {
    image: Image,
    ste: [u64; 8],
    cd: [u64; 8],
    setup: Setup,
    privileged: bool,
    stage1: Granule,
    stage2: Granule,
    /// The level of stage 1's root.
    root: i8,
}

impl Hand {
    fn new(config: u64) -> Self {
        let mut ste = [1 | config << 1, 0, 1, 0, 0, 0, 0, 0];
        if config & 1 == 1 {
            ste[0] |= CD;
        }
        if config & 2 == 2 {
            (ste[2], ste[3]) = (STAGE2, ROOT2);
        }
        let mut image = Image::default();
        image.set(ROOT, NEXT | 3);
        image.set(NEXT, LAST | 3);
        image.set(LAST, PAGE);
        image.set(ROOT2 + 8, IDENTITY);
        let setup = Setup { table_base: STREAMS, table_config: 16, cr2: 2 };
        let cd = [CD0, ROOT, 0, 0xff, 0, 0, 0, 0];
        Self {
            image,
            ste,
            cd,
            setup,
            privileged: false,
            stage1: Granule::Kib4,
            stage2: Granule::Kib4,
            root: 1,
        }
    }

    fn set(mut self, at: u64, word: u64) -> Self {
        self.image.set(at, word);
        self
    }

    fn case(mut self, stream: u32, accesses: &[(u64, u32)]) -> Case {
        if self.setup.split().is_none() {
            self.image.set_all(STREAMS + u64::from(stream) * 64, &self.ste);
        }
        self.image.set_all(CD, &self.cd);
        let note = |image: &mut Image, at, bytes, stage, granule, level| {
            image.note_table(at, Table { bytes, stage, granule, level });
        };
        for (at, level) in [(ROOT, self.root), (UPPER, self.root), (NEXT, 2), (LAST, 3)] {
            note(&mut self.image, at, 0x1000, Stage::One, self.stage1, level);
        }
        note(&mut self.image, ROOT2, 0x1_0000, Stage::Two, self.stage2, 1);
        let tables = |stage, granule, root| {
            let shape = Shape { stage, granule, input_bits: 39, start: 1, output_bits: 44 };
            Tables { shape, root, delta: 0, leaves: Vec::new(), places: Vec::new(), privileged: true }
        };
        let config = self.ste[0] >> 1 & 7;
        let stream_of = |ste, cd| Stream {
            id: stream,
            ste,
            cd: (config & 1 == 1).then_some(cd),
            stage1: [(config & 1 == 1).then(|| tables(Stage::One, self.stage1, ROOT)), None],
            stage2: (config & 2 == 2).then(|| tables(Stage::Two, self.stage2, ROOT2)),
        };
        let access = |&(address, len): &(u64, u32)| Access {
            stream,
            address,
            len,
            write: stream == WRITER,
            flush: true,
        };
        Case {
            seed: 0,
            number: 0,
            setup: self.setup,
            streams: vec![stream_of(self.ste, self.cd)],
            image: self.image,
            accesses: accesses.iter().map(access).collect(),
            privileged: self.privileged,
        }
    }
}

mod on_qemu {
    use portcullis_differential::known::{self, Context, ROWS, Remedy};
    use portcullis_differential::ours::Ours;
    use portcullis_differential::theirs::Theirs;

    use super::*;

    /// Both answer the last access of the case otherwise, and it is this row that knows why. `fault` is the type of what the book has recorded, 0 for
    /// nothing.
    #[track_caller]
    fn differs(row: &str, case: &Case, fault: u8) {
        let Some(mut theirs) = Theirs::for_test() else { return };
        let verdicts = Ours::new().run(case);
        let answers = theirs.run(case, &verdicts).unwrap();
        let (ours, Some(Some(theirs))) = (verdicts.last().unwrap(), answers.last()) else {
            panic!("no answer")
        };
        assert_eq!(ours.answer.fault().unwrap_or(0), fault, "{}", ours.answer);
        assert_ne!(&ours.answer, theirs, "QEMU does as the book says");
        let context = Context { case, access: case.accesses.last().unwrap(), ours };
        let (corrected, rows) = known::corrected(&context, theirs);
        match ROWS.iter().find(|known| known.name == row).unwrap().remedy {
            Remedy::Correct(_) => {
                assert!(rows.contains(&row), "ours {}, theirs {theirs}, corrected by {rows:?}", ours.answer);
                assert_eq!(corrected, ours.answer, "theirs {theirs}");
            }
            Remedy::Explain(explains) => {
                assert_ne!(corrected, ours.answer);
                assert!(explains(&context, &corrected), "ours {}, theirs {theirs}", ours.answer);
            }
            Remedy::Avoid => {}
        }
    }

    /// QEMU ends.
    #[track_caller]
    fn ends(case: &Case, fault: u8) {
        let Some(mut theirs) = Theirs::for_test() else { return };
        let verdicts = Ours::new().run(case);
        assert_eq!(verdicts[0].answer.fault().unwrap_or(0), fault, "{}", verdicts[0].answer);
        let error = theirs.run(case, &verdicts).unwrap_err();
        assert!(matches!(error, portcullis_qemu::QemuError::Died { .. }), "{error}");
    }

    #[test]
    fn each_row_has_a_test() {
        let source = include_str!("known.rs");
        for row in ROWS {
            assert!(source.contains(&format!("\"{}\"", row.name)), "`{}` has no test", row.name);
        }
    }

    #[test]
    fn without_a_mistake_both_say_the_same() {
        let Some(mut theirs) = Theirs::for_test() else { return };
        let mut ours = Ours::new();
        for config in [1, 4, 5, 6, 7] {
            for stream in [WRITER, READER] {
                let address = if config & 1 == 1 { 0x120 } else { DATA + 0x120 };
                let case = Hand::new(config).case(stream, &[(address, 4)]);
                let verdicts = ours.run(&case);
                assert_eq!(verdicts[0].answer.reached, (config != 1).then_some(DATA + 0x120), "{config}");
                let answers = theirs.run(&case, &verdicts).unwrap();
                assert_eq!(answers[0].as_ref(), Some(&verdicts[0].answer), "{config}");
            }
        }
    }

    #[test]
    fn qemu_records_a_long_access_more_than_once() {
        differs("repeated records", &Hand::new(5).case(WRITER, &[(0x1000, 16)]), 0x10);
    }

    #[test]
    fn qemu_leaves_an_offset_in_the_intermediate_address() {
        differs("offset in IPA", &Hand::new(6).case(WRITER, &[(0x1234, 4)]), 0x10);
    }

    #[test]
    fn qemu_takes_a_writer_for_a_reader_when_a_cd_cannot_be_fetched() {
        differs("RnW of fetches", &Hand::new(7).set(ROOT2 + 8, 0).case(WRITER, &[(0, 4)]), 0x10);
    }

    #[test]
    fn qemu_does_not_say_that_a_table_was_read() {
        // Stage 1's second table is where stage 2 gives no right to read.
        let hand = Hand::new(7).set(ROOT, 0x8000_0003).set(ROOT2 + 16, 0x8000_073d);
        differs("TTRnW", &hand.case(READER, &[(0, 4)]), 0x13);
    }

    #[test]
    fn qemu_takes_stage_2_for_stage_1_when_a_table_cannot_be_fetched() {
        differs("stage of table fetches", &Hand::new(7).set(ROOT, 0x8000_0003).case(READER, &[(0, 4)]), 0x10);
    }

    #[test]
    fn qemu_does_not_say_that_an_access_is_privileged() {
        let hand = Hand { privileged: true, ..Hand::new(5) };
        differs("privilege", &hand.case(WRITER, &[(0x1000, 4)]), 0x10);
    }

    #[test]
    fn qemu_gives_the_unprivileged_what_only_the_privileged_may_have() {
        let Some(mut theirs) = Theirs::for_test() else { return };
        let case = Hand::new(5).set(LAST, PAGE & !0x40).case(WRITER, &[(0, 4)]);
        let verdicts = Ours::new().run(&case);
        assert_eq!(verdicts[0].answer.fault(), Some(0x13));
        let answers = theirs.run(&case, &verdicts).unwrap();
        assert!(answers[0].as_ref().unwrap().reached.is_some());
    }

    #[test]
    fn qemu_gives_the_address_of_a_cd_in_another_place() {
        let mut hand = Hand::new(5);
        hand.ste[0] = NOWHERE | 0xb;
        differs("place of FetchAddr", &hand.case(WRITER, &[(0, 4)]), 0x09);
    }

    #[test]
    fn qemu_does_not_record_an_address_that_is_too_large_for_a_bypass() {
        differs("size without stage 1", &Hand::new(4).case(WRITER, &[(1 << 44, 4)]), 0x11);
        differs("size without stage 1", &Hand::new(6).case(WRITER, &[(1 << 44, 4)]), 0x11);
    }

    #[test]
    fn qemu_needs_both_roots_for_either() {
        let mut hand = Hand::new(7);
        hand.cd[0] = CD0 & !(1 << 30) | 25 << 16 | 2 << 22;
        hand.cd[2] = 0x8000_0000;
        differs("roots at once", &hand.case(WRITER, &[(0, 4)]), 0);
    }

    #[test]
    fn qemu_lets_the_cd_say_whether_stage_2s_faults_are_recorded() {
        let mut hand = Hand::new(7).set(ROOT, 0x8000_0003);
        hand.cd[0] &= !(1 << 45);
        differs("record of table fetches", &hand.case(WRITER, &[(0, 4)]), 0x10);
    }

    #[test]
    fn qemu_finds_only_the_first_of_two_root_tables() {
        // 40 bits from level 1 on: two tables, of which only the second has RAM's block.
        let mut hand = Hand::new(6).set(ROOT2 + 8, 0).set(ROOT2 + 0x1008, IDENTITY);
        hand.ste[2] = STAGE2 - (1 << 32);
        differs("tables side by side", &hand.case(WRITER, &[(0x80_4800_0000, 4)]), 0);
    }

    #[test]
    fn qemu_takes_a_large_table_to_be_in_one_piece() {
        // A table of 64 KiB at level 3, of which stage 2 has only the second 4 KiB, in a place of their own.
        let piece = LAST + 0x1000;
        let mut hand = Hand::new(7).set(ROOT, 0x8000_0003).set(piece + 8, PAGE);
        hand = hand.set(ROOT2 + 16, NEXT | 3).set(NEXT, LAST | 3).set(LAST, 0).set(LAST + 8, piece | 0x7ff);
        hand.cd[0] = CD0 & !0x3f | 1 << 6 | 22;
        (hand.stage1, hand.root) = (Granule::Kib64, 2);
        differs("tables in pieces", &hand.case(WRITER, &[(0x201 << 16, 4)]), 0);
    }

    #[test]
    fn qemu_takes_a_reserved_word_for_a_block() {
        let mut hand = Hand::new(5).set(ROOT, 0x0000_0f41);
        hand.cd[0] = CD0 & !0x3f | 20;
        hand.root = 0;
        differs("misplaced blocks", &hand.case(WRITER, &[(DATA, 4)]), 0x10);
    }

    #[test]
    fn qemu_goes_to_a_table_beyond_the_output_size() {
        differs("size of tables", &Hand::new(5).set(NEXT, 1 << 46 | 3).case(WRITER, &[(0, 4)]), 0x11);
    }

    #[test]
    fn qemu_looks_at_the_output_address_last() {
        let hand = Hand::new(5).set(LAST, 1 << 46 | 0xbc3);
        differs("size after rights", &hand.case(WRITER, &[(0, 4)]), 0x11);
    }

    #[test]
    fn qemu_refuses_a_write_on_the_way_to_nothing() {
        let hand = Hand::new(5).set(NEXT, 1 << 62 | LAST | 3).set(LAST, 0);
        differs("limits on the way", &hand.case(WRITER, &[(0, 4)]), 0x10);
    }

    #[test]
    fn qemu_minds_a_stage_1_field_where_there_is_no_stage_1() {
        let mut hand = Hand::new(6);
        hand.ste[1] = 1 << 27;
        differs("S1STALLD of stage 2", &hand.case(WRITER, &[(DATA, 4)]), 0);
    }

    #[test]
    fn qemu_gives_the_address_of_the_table_for_that_of_the_descriptor() {
        // 16 KiB tables at level 1; the descriptor is in the second 4 KiB of one that stage 2 does not have.
        let mut hand = Hand::new(7).set(ROOT, 0x8000_0003);
        hand.cd[0] = CD0 & !0x3f | 2 << 6 | 25;
        (hand.stage1, hand.stage2) = (Granule::Kib16, Granule::Kib4);
        differs("address of table descriptors", &hand.case(READER, &[(0x200 << 25, 4)]), 0x10);
    }

    #[test]
    fn qemu_wants_more_output_than_input() {
        let mut hand = Hand::new(6);
        hand.ste[2] = STAGE2 & !(7 << 48);
        differs("S2T0SZ against S2PS", &hand.case(WRITER, &[(DATA, 4)]), 0);
    }

    #[test]
    fn qemu_begins_at_a_level_that_there_is_no_need_for() {
        let mut hand = Hand::new(6);
        hand.ste[2] = STAGE2 & !(0x3f << 32) | 36 << 32;
        differs("S2SL0 against S2T0SZ", &hand.case(WRITER, &[(0x1000, 4)]), 0x04);
    }

    #[test]
    fn qemu_counts_spans_by_another_measure() {
        let mut hand = Hand::new(4);
        hand.setup = Setup { table_base: STREAMS, table_config: 16 | 6 << 6 | 1 << 16, cr2: 2 };
        let entry = hand.ste;
        // Span 4: eight entries, 0 to 7.
        hand.image.set(STREAMS, (STREAMS + 0x1_0000) | 4);
        hand.image.set_all(STREAMS + 0x1_0000 + u64::from(WRITER) * 64, &entry);
        differs("spans", &hand.case(WRITER, &[(DATA, 4)]), 0x02);
    }

    #[test]
    fn qemu_takes_the_way_of_a_table_fetch_for_the_table() {
        // Stage 2's walk for stage 1's second table meets nothing.
        let hand = Hand::new(7).set(ROOT, 0x8000_0003).set(ROOT2 + 16, NOWHERE | 3);
        differs("aborts behind table fetches", &hand.case(READER, &[(0, 4)]), 0x0b);
    }

    #[test]
    fn qemu_gives_all_bits_of_an_entrys_address() {
        let mut hand = Hand::new(4);
        hand.setup = Setup { table_base: STREAMS, table_config: 16 | 6 << 6 | 1 << 16, cr2: 2 };
        hand.image.set(STREAMS, 1 << 46 | 7);
        differs("FetchAddr beyond the output size", &hand.case(WRITER, &[(DATA, 4)]), 0x03);
    }

    #[test]
    fn qemu_records_bad_streams_unasked() {
        let mut hand = Hand::new(4);
        hand.setup = Setup { table_base: STREAMS, table_config: 2, cr2: 0 };
        differs("RECINVSID", &hand.case(WRITER, &[(DATA, 4)]), 0);
    }

    #[test]
    fn qemu_fetches_a_cd_from_where_there_is_no_memory() {
        let mut hand = Hand::new(5);
        hand.ste[0] |= 1 << 46;
        differs("S1ContextPtr beyond the output size", &hand.case(WRITER, &[(0, 4)]), 0x04);
    }

    #[test]
    fn qemu_minds_how_many_cds_there_are_without_substreams() {
        let mut hand = Hand::new(5);
        hand.ste[0] |= 1 << 59;
        differs("S1CDMax", &hand.case(WRITER, &[(0, 4)]), 0);
    }

    #[test]
    fn qemu_lets_an_entry_ask_for_updates_that_it_does_not_do() {
        let mut hand = Hand::new(6);
        hand.ste[2] |= 1 << 56;
        differs("S2HA and S2HD", &hand.case(WRITER, &[(DATA, 4)]), 0x04);
    }

    #[test]
    fn qemu_walks_through_device_memory() {
        let mut hand = Hand::new(7).set(ROOT2 + 8, IDENTITY & !0x3c);
        hand.ste[2] |= 1 << 54;
        differs("S2PTW", &hand.case(WRITER, &[(0, 4)]), 0x13);
    }

    #[test]
    fn qemu_lets_the_privileged_reach_what_the_unprivileged_may() {
        let mut hand = Hand { privileged: true, ..Hand::new(5) };
        hand.cd[0] |= 1 << 40;
        differs("PAN", &hand.case(WRITER, &[(0, 4)]), 0x13);
    }

    #[test]
    fn qemu_ignores_the_other_halfs_top_byte() {
        let mut hand = Hand::new(5).set(UPPER, NEXT | 3);
        // Only TBI1.
        hand.cd[0] = CD0 & !(1 << 30) | 25 << 16 | 2 << 22 | 1 << 39;
        hand.cd[2] = UPPER;
        differs("TBI1", &hand.case(WRITER, &[(0x12ff_ff80_0000_0000, 4)]), 0);
    }

    #[test]
    fn qemu_ends_at_an_output_size_that_is_capped() {
        // "IPS above 5"
        let mut hand = Hand::new(5);
        hand.cd[0] = CD0 & !(7 << 32) | 6 << 32;
        ends(&hand.case(WRITER, &[(0, 4)]), 0);
    }

    #[test]
    fn qemu_ends_at_a_table_format_that_is_not_there() {
        // "S2AA64"
        let mut hand = Hand::new(6);
        hand.ste[2] &= !(1 << 51);
        ends(&hand.case(WRITER, &[(DATA, 4)]), 0x04);
    }

    #[test]
    fn qemu_stays_with_two_levels() {
        // "back to one level"
        let Some(mut theirs) = Theirs::for_test() else { return };
        let mut ours = Ours::new();
        let mut two = Hand::new(4);
        two.setup.table_config |= 6 << 6 | 1 << 16;
        let cases = [Hand::new(4).case(WRITER, &[(DATA, 4)]), two.case(WRITER, &[(DATA, 4)])];
        let mut agree = |case: &Case| {
            let verdicts = ours.run(case);
            let answers = theirs.run(case, &verdicts).unwrap();
            answers[0].as_ref() == Some(&verdicts[0].answer)
        };
        assert!(agree(&cases[0]) && agree(&cases[1]));
        assert!(!agree(&cases[0]), "QEMU turns back");
    }
}
