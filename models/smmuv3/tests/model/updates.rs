//! Changes of live structures: what is remembered until it is invalidated, and what must not be changed in place.

use model_smmuv3::{Config, clause};

use crate::harness::{CD, CD_39, Got, L1, Machine, STE_ABORT, STE_BYPASS, STE_S1, STREAMS, plain};

#[test]
fn an_entry_stays_as_it_was_until_it_is_invalidated() {
    let machine = Machine::new(plain());
    assert_eq!(machine.read(1, 0x1000), Got::Abort, "not valid, and remembered");
    machine.ste(1, &STE_BYPASS);
    assert_eq!(machine.read(1, 0x1000), Got::Abort);
    machine.flush_ste(2);
    assert_eq!(machine.read(1, 0x1000), Got::Abort, "another stream's does not help");
    machine.flush_ste(1);
    assert_eq!(machine.read(1, 0x1000), Got::At(0x1000));
    machine.ste(1, &STE_ABORT);
    assert_eq!(machine.read(1, 0x1000), Got::At(0x1000));
    machine.command(0x0000_0000_0000_0004, 0); // streams 0 and 1
    machine.sync();
    assert_eq!(machine.read(1, 0x1000), Got::Abort);
}

#[test]
fn a_descriptor_stays_as_it_was_until_it_is_invalidated() {
    let machine = Machine::stage1(plain());
    assert_eq!(machine.read(1, 0x1000), Got::At(0x30_0000));
    machine.flush_tlb();
    machine.words(CD, &[CD_39[0] & !0x8000_0000]);
    assert_eq!(machine.read(1, 0x1000), Got::At(0x30_0000));
    machine.command(0x2_0000_0005, 1);
    machine.sync();
    assert_eq!(machine.read(1, 0x1000), Got::At(0x30_0000), "another stream's does not help");
    for command in [0x1_0000_0005, 0x1_0000_0006, 0x1_0000_0003] {
        machine.words(CD, &CD_39);
        machine.flush_cd();
        assert_eq!(machine.read(1, 0x1000), Got::At(0x30_0000));
        machine.words(CD, &[CD_39[0] & !0x8000_0000]);
        machine.command(command, 1 & !(command >> 1));
        machine.sync();
        assert_eq!(machine.read(1, 0x1000), Got::Abort, "{command:#x}");
    }
}

#[test]
fn a_level_1_descriptor_stays_until_invalidated_with_leaf_0() {
    let machine = Machine::bare(plain());
    machine.set_up();
    machine.w64(0x80, 0x6_0000);
    machine.w32(0x88, 0x1_0188);
    machine.enable();
    assert_eq!(machine.read(0x45, 0x1000), Got::Abort);
    machine.words(0x7_0000 + 5 * 64, &STE_BYPASS);
    machine.words(0x6_0008, &[0x7_0007]);
    machine.flush_ste(0x45);
    assert_eq!(machine.read(0x45, 0x1000), Got::Abort, "leaf only");
    machine.command(0x45_0000_0003, 0);
    machine.sync();
    assert_eq!(machine.read(0x45, 0x1000), Got::At(0x1000));
    machine.assert_clean();
}

#[test]
fn one_word_of_a_live_entry_may_change_and_two_may_not() {
    let machine = Machine::stage1(plain());
    assert_eq!(machine.read(1, 0x1000), Got::At(0x30_0000));
    // Config from stage 1 to abort: one word.
    machine.ste(1, &STE_ABORT);
    machine.flush_ste(1);
    machine.assert_clean();
    // From abort to stage 1 with S1CIR and VMID: three words at once.
    assert_eq!(machine.read(1, 0x1000), Got::Abort);
    machine.ste(1, &[STE_S1[0], 0x54, 7, 0, 0, 0, 0, 0]);
    machine.flush_ste(1);
    assert_eq!(machine.clauses(), [clause::STE_UPDATE]);
}

#[test]
fn bits_that_nobody_looks_at_may_be_prepared() {
    let machine = Machine::new(plain());
    machine.ste(1, &STE_ABORT);
    assert_eq!(machine.read(1, 0x1000), Got::Abort);
    // Two words that an aborting entry does not use, then the switch, then the clearing of what is no longer used.
    let steps = [
        [STE_ABORT[0], 0x54, 7, 0, 0, 0, 0, 0],
        [STE_S1[0], 0x54, 7, 0, 0, 0, 0, 0],
        [STE_ABORT[0], 0x54, 7, 0, 0, 0, 0, 0],
        STE_ABORT,
        [0; 8],
        // Not valid: Config and all else may change together. Then the reserved Config 0b011, which aborts.
        [STE_S1[0] & !1, 0x54, 7, 0, 0, 0, 0, 0],
        [6, 0, 0, 0, 0, 0, 0, 0],
        [7, 0, 0, 0, 0, 0, 0, 0],
        [7, 0x54, 7, 0x20_0000, 0, 0, 0, 0],
        [6, 0x54, 7, 0x20_0000, 0, 0, 0, 0],
        [0, 0x54, 7, 0, 0, 0, 0, 0],
        [STE_S1[0], 0x54, 7, 0, 0, 0, 0, 0],
    ];
    for step in steps {
        machine.ste(1, &step);
        machine.flush_ste(1);
        let _ = machine.read(1, 0x1000);
    }
    machine.assert_clean();
    // The last two steps in one.
    for step in [[0, 0x54, 7, 0, 0, 0, 0, 0], [0; 8]] {
        machine.ste(1, &step);
        machine.flush_ste(1);
        let _ = machine.read(1, 0x1000);
    }
    machine.assert_clean();
    machine.ste(1, &[STE_S1[0], 0x54, 7, 0, 0, 0, 0, 0]);
    machine.command(0x04, 0x1f);
    machine.sync();
    assert_eq!(machine.clauses(), [clause::STE_UPDATE], "from not valid to valid in one step, too");
}

#[test]
fn an_entry_that_nobody_fetched_may_be_written_at_once() {
    let machine = Machine::new(plain());
    machine.ste(1, &[STE_S1[0], 0x54, 7, 0, 0, 0, 0, 0]);
    machine.flush_ste(1);
    machine.assert_clean();
    // While the SMMU is off, nothing is reachable.
    let _ = machine.read(1, 0x1000);
    machine.disable();
    machine.ste(1, &[0; 8]);
    machine.ste(1, &[STE_S1[0], 0x44, 9, 0, 0, 0, 0, 0]);
    machine.flush_ste(1);
    machine.assert_clean();
    // Nor is a descriptor.
    let machine = Machine::stage1(plain());
    let _ = machine.read(1, 0x1000);
    machine.disable();
    machine.words(CD, &[CD_39[0] + 0x0002_0000_0000_0000, 0x11_0000]);
    machine.flush_cd();
    machine.assert_clean();
}

#[test]
fn two_words_of_a_live_descriptor_may_not_change_at_once() {
    let machine = Machine::stage1(plain());
    assert_eq!(machine.read(1, 0x1000), Got::At(0x30_0000));
    // The ASID alone; then ASID and TTB0; TTB1 is not looked at.
    machine.words(CD, &[CD_39[0] + 0x0001_0000_0000_0000, L1, 0xffff_0000, 0xff]);
    machine.flush_cd();
    machine.assert_clean();
    assert_eq!(machine.read(1, 0x1000), Got::At(0x30_0000));
    machine.words(CD, &[CD_39[0] + 0x0002_0000_0000_0000, 0x11_0000]);
    machine.flush_cd();
    assert_eq!(machine.clauses(), [clause::CD_UPDATE]);
}

#[test]
fn two_words_of_a_live_descriptor_may_not_change_at_once_whichever_command_forgets_it() {
    let changed = [CD_39[0] + 0x0002_0000_0000_0000, 0x11_0000];
    // CMD_CFGI_CD_ALL, CMD_CFGI_STE.
    for (low, high) in [(0x1_0000_0006, 0), (0x1_0000_0003, 1)] {
        let machine = Machine::stage1(plain());
        assert_eq!(machine.read(1, 0x1000), Got::At(0x30_0000));
        machine.words(CD, &changed[..1]);
        machine.command(low, high);
        machine.sync();
        machine.assert_clean();
        assert_eq!(machine.read(1, 0x1000), Got::At(0x30_0000));
        machine.words(CD, &[CD_39[0], changed[1]]);
        machine.command(low, high);
        machine.sync();
        assert_eq!(machine.clauses(), [clause::CD_UPDATE], "{low:#x}");
        // To where the stream does not lead any more there may be anything.
        let machine = Machine::stage1(plain());
        assert_eq!(machine.read(1, 0x1000), Got::At(0x30_0000));
        machine.ste(1, &STE_ABORT);
        machine.words(CD, &changed);
        machine.command(low, high);
        machine.sync();
        machine.assert_clean();
    }
}

#[test]
fn each_half_of_a_live_descriptor_counts_where_it_is_enabled() {
    // What the descriptor was and what it became: T0SZ and TTB0; T1SZ and TTB1 (EPD1 clear); T0SZ and DS.
    let upper = [0x0001_6205_8099_0019, L1, 0x11_0000, 0xff];
    let rows = [
        ([CD_39[0], L1, 0, 0xff], [CD_39[0] ^ 1, 0x11_0000, 0, 0xff]),
        (upper, [upper[0] ^ 0x1_0000, L1, 0x12_0000, 0xff]),
        ([CD_39[0], L1, 0, 0xff], [CD_39[0] ^ 1, L1, 0x0400_0000_0000_0000, 0xff]),
    ];
    for (old, new) in rows {
        let machine = Machine::stage1(plain());
        machine.words(CD, &old);
        assert_eq!(machine.read(1, 0x1000), Got::At(0x30_0000));
        machine.words(CD, &new);
        machine.flush_cd();
        assert_eq!(machine.clauses(), [clause::CD_UPDATE], "{new:x?}");
    }
    // Where EPD0 is set, T0SZ and TTB0 are not looked at.
    let machine = Machine::stage1(plain());
    machine.words(CD, &[CD_39[0] | 0x4000, L1]);
    let _ = machine.read(1, 0x1000);
    machine.words(CD, &[CD_39[0] | 0x4001, 0x11_0000]);
    machine.flush_cd();
    machine.assert_clean();
}

#[test]
fn a_level_1_context_descriptor_stays_until_invalidated_with_leaf_0() {
    let machine = Machine::stage1(Config { substream_id_bits: 8, ..plain() });
    machine.ste(1, &[0x4000_0000_0006_001b, 2, 0, 0, 0, 0, 0, 0]);
    machine.words(0x6_0008, &[0x7_0001]);
    machine.words(0x7_0000, &CD_39);
    machine.words(0x7_0040, &CD_39);
    let read = |pasid| machine.access(1, Some(pasid), 0x1000, portcullis_types::Access::READ);
    assert_eq!(read(64), Got::At(0x30_0000));
    assert_eq!(machine.smmu.counters().configuration_reads, 3, "STE, L1CD, CD");
    machine.words(0x6_0008, &[0]);
    assert_eq!(read(65), Got::At(0x30_0000), "the table is remembered");
    machine.command(0x1_0004_1005, 1);
    machine.sync();
    assert_eq!(read(65), Got::At(0x30_0000), "leaf only");
    machine.command(0x1_0004_1005, 0);
    machine.sync();
    assert_eq!(read(65), Got::Abort);
    machine.assert_clean();
}

#[test]
fn a_descriptor_that_is_not_valid_may_be_prepared() {
    let machine = Machine::stage1(plain());
    let invalid = |mair| [CD_39[0] & !0x8000_0000, L1, 0, mair, 0, 0, 0, 0];
    for words in [[0; 8], invalid(0xff), CD_39, invalid(0xff), [0; 8]] {
        machine.words(CD, &words);
        machine.flush_cd();
        let _ = machine.read(1, 0x1000);
    }
    machine.assert_clean();
}

#[test]
fn a_stream_table_that_moved_needs_invalidation_too() {
    let machine = Machine::new(plain());
    machine.ste(1, &STE_BYPASS);
    assert_eq!(machine.read(1, 0x1000), Got::At(0x1000));
    machine.disable();
    machine.w64(0x80, STREAMS + 0x2000);
    machine.enable();
    assert_eq!(machine.read(1, 0x1000), Got::At(0x1000), "remembered from the old table");
    machine.command(0x04, 0x1f);
    machine.sync();
    assert_eq!(machine.read(1, 0x1000), Got::Abort);
}

#[test]
fn the_outlook_sees_what_memory_says_and_leaves_no_trace() {
    use model_smmuv3::{EventKind, Outlook};
    let machine = Machine::new(Config { substream_id_bits: 4, ..plain() });
    let request = model_bus::Request {
        source: portcullis_types::SourceId(1),
        pasid: None,
        iova: portcullis_types::Iova::new(0x1234),
        len_bytes: 4,
        access: portcullis_types::Access::READ,
    };
    assert_eq!(machine.smmu.outlook(&request), Outlook::Refused(Some(EventKind::BadSte)));
    machine.ste(1, &STE_ABORT);
    assert_eq!(machine.smmu.outlook(&request), Outlook::Refused(None));
    machine.ste(1, &STE_BYPASS);
    assert_eq!(machine.smmu.outlook(&request), Outlook::Allowed(portcullis_types::Pa::new(0x1234)));
    assert_eq!(machine.events(), [[0; 4]; 0]);
    assert_eq!(machine.smmu.counters().configuration_reads, 0);
    machine.ste(1, &STE_ABORT);
    machine.disable();
    assert_eq!(
        machine.smmu.outlook(&request),
        Outlook::Allowed(portcullis_types::Pa::new(0x1234)),
        "off, all is let through"
    );
    machine.assert_clean();
}

#[test]
fn a_stream_that_a_smaller_table_no_longer_holds_is_bad_at_once() {
    let machine = Machine::new(plain());
    machine.ste(1, &STE_BYPASS);
    assert_eq!(machine.read(1, 0x1000), Got::At(0x1000));
    machine.disable();
    machine.w32(0x88, 0);
    machine.enable();
    assert_eq!(machine.read(1, 0x1000), Got::Abort, "the size is not cached");
    assert_eq!(machine.event()[0], 0x0000_0001_0000_0002);
}
