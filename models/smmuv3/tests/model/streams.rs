//! Stream table: finding an entry, and every way in which one can be wrong.

use model_smmuv3::{Config, clause};

use crate::harness::{
    CD, CD_39, Got, Machine, STE_ABORT, STE_BYPASS, STE_NESTED, STE_S1, STE_S2, STREAMS, plain,
};

#[test]
fn each_configuration_does_what_it_says() {
    let machine = Machine::stage1(plain());
    machine.tables2();
    machine.ste(2, &STE_BYPASS);
    machine.ste(3, &STE_ABORT);
    machine.ste(4, &STE_S2);
    machine.ste(5, &STE_NESTED);
    machine.words(CD, &[0x0001_6205_c000_0019, 0x10_0000, 0, 0xff]);
    assert_eq!(machine.read(1, 0x1234), Got::At(0x30_0234));
    assert_eq!(machine.read(2, 0x1234), Got::At(0x1234));
    assert_eq!(machine.read(3, 0x1234), Got::Abort);
    assert_eq!(machine.read(4, 0x40_1234), Got::At(0x50_0234));
    assert_eq!(machine.read(5, 0x1234), Got::At(0x30_0234));
    assert_eq!(machine.events(), [[0; 4]; 0], "an abort by configuration is silent");
    machine.assert_clean();
    let counters = machine.smmu.counters();
    assert_eq!(
        (counters.granted, counters.granted_bytes, counters.bypassed, counters.refused),
        (3, 12, 1, 1)
    );
}

#[test]
fn reserved_configurations_abort_as_zero_does() {
    let machine = Machine::new(plain());
    for code in 0..4u32 {
        machine.ste(code.into(), &[u64::from(1 | (code << 1)), 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(machine.read(code, 0), Got::Abort);
    }
    assert_eq!(machine.events(), [[0; 4]; 0]);
}

/// The rule that is broken, the part, a sound entry, the word and bits in which it is made wrong: set, cleared.
struct Wrong(&'static str, Config, [u64; 8], usize, u64, u64);

/// Every cause of C_BAD_STE.
fn wrong_entries() -> Vec<Wrong> {
    let small = || Config { substream_id_bits: 8, ..plain() };
    let no_hyp = plain;
    let hyp = || Config { hyp: true, ..plain() };
    let s2 = |replace: u64| [STE_S2[0], 0, replace, STE_S2[3], 0, 0, 0, 0];
    vec![
        Wrong("reserved bits set in an STE", plain(), STE_S1, 0, 0x0010_0000_0000_0000, 0),
        Wrong("reserved bits set in an STE", plain(), STE_S1, 1, 0x0000_0200_0000_0000, 0),
        Wrong("reserved bits set in an STE", plain(), STE_S2, 2, 0x0800_0000_0000_0000, 0),
        Wrong("reserved bits set in an STE", plain(), STE_S2, 3, 0x1, 0),
        Wrong("reserved bits set in an STE", plain(), STE_S1, 7, 0x1, 0),
        Wrong("Config enables stage 1", Config { stage1: false, ..plain() }, STE_S2, 0, 0x2, 0),
        Wrong("Config enables stage 2", Config { stage2: false, ..plain() }, STE_S1, 0, 0x4, 0),
        Wrong("reserved STRW", hyp(), STE_S1, 1, 0x4000_0000, 0),
        Wrong("reserved STRW", hyp(), STE_S1, 1, 0xc000_0000, 0),
        Wrong("S1STALLD", no_hyp(), STE_S1, 1, 0x0800_0000, 0),
        Wrong("S1CDMax above", small(), STE_S1, 0, 0x4800_0000_0000_0000, 0),
        Wrong(
            "two-level S1Fmt",
            Config { two_level_contexts: false, ..small() },
            [0x0800_0000_0005_000b, 0, 0, 0, 0, 0, 0, 0],
            0,
            0x10,
            0,
        ),
        Wrong("S1ContextPtr out of range", plain(), STE_S1, 0, 0x0001_0000_0000_0000, 0),
        Wrong("S1ContextPtr out of range", plain(), STE_NESTED, 0, 0x0001_0000_0000_0000, 0),
        Wrong("S2S set", plain(), STE_S2, 2, 0x0200_0000_0000_0000, 0),
        Wrong("S2HA or S2HD", plain(), STE_S2, 2, 0x0100_0000_0000_0000, 0),
        Wrong("S2HA or S2HD", plain(), STE_S2, 2, 0x0080_0000_0000_0000, 0),
        Wrong("S2TG selects", plain(), STE_S2, 2, 0x0000_c000_0000_0000, 0),
        // 64 KiB with S2SL0=1, S2T0SZ=24 is sound where there are such granules.
        Wrong("S2TG selects", Config { granule_64k: false, ..plain() }, STE_S2, 2, 0x0000_4000_0000_0000, 0),
        Wrong("S2TG selects", Config { granule_16k: false, ..plain() }, STE_S2, 2, 0x0000_8000_0000_0000, 0),
        Wrong("S2TTB out of range", plain(), STE_S2, 3, 0x0001_0000_0000_0000, 0),
        // S2PS=1: 36 bits.
        Wrong("S2TTB out of range", plain(), s2(0x0409_0058_0000_0001), 3, 0x10_0000_0000, 0),
        // S2T0SZ of 40 and of 8.
        Wrong("S2T0SZ out of range", plain(), s2(0x040d_0020_0000_0001), 2, 0x8_0000_0000, 0),
        Wrong("S2T0SZ out of range", plain(), s2(0x040d_0090_0000_0001), 2, 0x8_0000_0000, 0x10_0000_0000),
        // S2SL0=3 is reserved; S2SL0=2 resolves more than 39 bits.
        Wrong("contradict each other", plain(), STE_S2, 2, 0x0000_0080_0000_0000, 0),
        Wrong("contradict each other", plain(), s2(0x040d_0098_0000_0001), 2, 0x1_0000_0000, 0),
        Wrong("S2AA64", plain(), STE_S2, 2, 0, 0x0008_0000_0000_0000),
        Wrong("S2ENDI", plain(), STE_S2, 2, 0x0010_0000_0000_0000, 0),
        Wrong("S2VMID of 16 bits", Config { vmid_16_bits: false, ..plain() }, STE_S2, 2, 0x0100, 0),
        Wrong("S2VMID of 16 bits", Config { vmid_16_bits: false, ..plain() }, STE_S1, 2, 0x0100, 0),
    ]
}

#[test]
fn each_cause_of_a_bad_ste_is_found_and_named() {
    for Wrong(rule, config, base, word, set, clear) in wrong_entries() {
        let machine = Machine::new(config);
        machine.words(CD, &CD_39);
        machine.tables();
        machine.tables2();
        let mut entry = base;
        entry[word] = entry[word] & !clear | set;
        machine.ste(1, &entry);
        assert_eq!(machine.read(1, 0x1000), Got::Abort, "{rule}");
        assert_eq!(machine.event(), [0x0000_0001_0000_0004, 0, 0, 0], "{rule}");
        let clauses = machine.clauses();
        assert!(clauses.len() == 1 && clauses[0].contains(rule), "{rule}: {clauses:?}");
    }
}

#[test]
fn the_entries_that_the_wrong_ones_come_from_are_sound() {
    for Wrong(rule, config, base, ..) in wrong_entries() {
        let machine = Machine::new(config);
        machine.words(CD, &CD_39);
        machine.tables();
        machine.tables2();
        machine.ste(1, &base);
        let _ = machine.read(1, 0x1000);
        assert!(machine.events().iter().all(|event| event[0] & 0xff != 0x04), "{rule}");
        machine.assert_clean();
    }
}

#[test]
fn an_entry_that_is_not_valid_is_bad_but_breaks_no_rule() {
    let machine = Machine::new(plain());
    machine.ste(1, &[0x5_000a, u64::MAX, u64::MAX, 0, 0, 0, 0, u64::MAX]);
    assert_eq!(machine.read(1, 0), Got::Abort);
    assert_eq!(machine.event(), [0x0000_0001_0000_0004, 0, 0, 0]);
    machine.assert_clean();
}

#[test]
fn fields_that_the_configuration_ignores_are_not_checked() {
    let machine = Machine::stage1(plain());
    // Bypass with nonsense in the fields of both stages; stage 1 with nonsense in those of stage 2.
    machine.ste(
        2,
        &[0xf80f_ffff_ffff_fff9, 0x0800_0000, 0x07ff_ffff_0000_0000, 0x000f_ffff_ffff_fff0, 0, 0, 0, 0],
    );
    machine.ste(1, &[STE_S1[0], 0, 0x07f7_ffff_0000_0000, 0x000f_ffff_ffff_fff0, 0, 0, 0, 0]);
    assert_eq!(machine.read(2, 0x1234), Got::At(0x1234));
    assert_eq!(machine.read(1, 0x1000), Got::At(0x30_0000));
    machine.assert_clean();
}

#[test]
fn a_stream_beyond_the_table_is_bad_and_recorded_only_on_demand() {
    let machine = Machine::new(plain());
    assert_eq!(machine.read(64, 0), Got::Abort);
    assert_eq!(machine.event(), [0x0000_0040_0000_0002, 0, 0, 0]);
    machine.disable();
    machine.w32(0x2c, 0);
    machine.enable();
    assert_eq!(machine.read(64, 0), Got::Abort);
    assert_eq!(machine.events(), [[0; 4]; 0]);
}

/// Two levels, SPLIT=6: level 1 at 0x6_0000 for 256 streams, the second for streams 0x40 to 0x7f at 0x7_0000.
fn two_level(span: u64) -> Machine {
    let machine = Machine::bare(plain());
    machine.set_up();
    machine.w64(0x80, 0x6_0000);
    machine.w32(0x88, 0x1_0188);
    machine.words(0x6_0008, &[0x7_0000 | span]);
    machine.words(0x7_0000 + 5 * 64, &STE_BYPASS);
    machine.enable();
    machine
}

#[test]
fn a_two_level_table_is_walked() {
    let machine = two_level(7);
    assert_eq!(machine.read(0x45, 0x1234), Got::At(0x1234));
    machine.assert_clean();
}

#[test]
fn each_way_to_miss_the_second_level_is_a_bad_stream() {
    // Span 0; reserved; above SPLIT + 1; 2^(Span-1) = 4 streams do not reach to 5; and the L1STD of another range is empty.
    for (span, stream) in [(0, 0x45), (12, 0x45), (8, 0x45), (3, 0x45), (7, 0x05)] {
        let machine = two_level(span);
        assert_eq!(machine.read(stream, 0x1234), Got::Abort, "span {span}");
        assert_eq!(machine.event(), [u64::from(stream) << 32 | 2, 0, 0, 0], "span {span}");
    }
    let machine = two_level(4);
    assert_eq!(machine.read(0x45, 0x1234), Got::At(0x1234), "8 streams reach to 5");
}

#[test]
fn a_fetch_that_fails_says_where_and_is_not_remembered() {
    let machine = Machine::new(plain());
    machine.ste(1, &STE_BYPASS);
    machine.hole(STREAMS + 0x40..=STREAMS + 0x7f);
    assert_eq!(machine.read(1, 0), Got::Abort);
    assert_eq!(machine.event(), [0x0000_0001_0000_0003, 0, 0, STREAMS + 0x40]);
    machine.fill_holes();
    assert_eq!(machine.read(1, 0x1234), Got::At(0x1234));

    let machine = two_level(7);
    machine.hole(0x6_0008..=0x6_000f);
    assert_eq!(machine.read(0x45, 0), Got::Abort);
    assert_eq!(machine.event(), [0x0000_0045_0000_0003, 0, 0, 0x6_0008]);
}

#[test]
fn a_second_level_beyond_the_address_size_is_a_failed_fetch() {
    let machine = two_level(7);
    machine.words(0x6_0008, &[0x0001_0000_0000_0007]);
    assert_eq!(machine.read(0x45, 0), Got::Abort);
    // FetchAddr[55:OAS] are RES0.
    assert_eq!(machine.event(), [0x0000_0045_0000_0003, 0, 0, 0x140]);
}

#[test]
fn a_misaligned_second_level_is_aligned_and_noted() {
    let machine = two_level(7);
    machine.words(0x6_0008, &[0x7_0040 | 7]);
    assert_eq!(machine.read(0x45, 0x1234), Got::At(0x1234));
    assert_eq!(machine.clauses(), [clause::STREAM_TABLE_ALIGNMENT]);
}

#[test]
fn two_entries_with_one_vmid_must_agree_on_stage_2() {
    let machine = Machine::new(plain());
    machine.tables2();
    machine.ste(1, &STE_S2);
    machine.ste(2, &STE_S2);
    // S2R may differ, S2PTW may not.
    machine.ste(3, &[STE_S2[0], 0, STE_S2[2] & !0x0400_0000_0000_0000, STE_S2[3], 0, 0, 0, 0]);
    machine.ste(4, &[STE_S2[0], 0, STE_S2[2] | 0x0040_0000_0000_0000, STE_S2[3], 0, 0, 0, 0]);
    for stream in 1..=3 {
        assert_eq!(machine.read(stream, 0x40_1000), Got::At(0x50_0000));
    }
    machine.assert_clean();
    let _ = machine.read(4, 0x40_1000);
    assert_eq!(machine.clauses(), [clause::SHARED_VMID]);
}
