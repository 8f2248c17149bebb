//! Translation requests, and accesses by translated address.

use model_bus::{Translation, TranslationAnswer, TranslationRequest, Translator};
use model_smmuv3::{Config, EventKind, Policy, StallModel, clause};
use portcullis_types::{Access, AccessKind, Iova, Pa, Pasid, SourceId};

use crate::endpoint::{enable, given, rwx, translated, wish, with_ats};
use crate::harness::{
    CD, Got, L1, L2, L3, Machine, PAGE, S2_L2, S2_L3, S2_PAGE, STE_ABORT, STE_BYPASS, STE_NESTED, STE_S1,
    STE_S2,
};

/// SMMUEN, EVENTQEN, CMDQEN, ATSCHK.
const CHECKED: u32 = 0b1_1101;
/// Without ATSCHK.
const FAST: u32 = 0b0_1101;
/// EATS, bits 93:92.
const FULL: u64 = 1 << 28;
const SPLIT: u64 = 2 << 28;

fn with_word1(ste: [u64; 8], bits: u64) -> [u64; 8] {
    [ste[0], ste[1] | bits, ste[2], ste[3], ste[4], ste[5], ste[6], ste[7]]
}

/// Stream 1 with stage 1 and Full ATS.
fn full(config: Config) -> Machine {
    let machine = Machine::stage1(config);
    machine.ste(1, &with_word1(STE_S1, FULL));
    enable(&machine, CHECKED);
    machine
}

/// Stream 1 with both stages: 0x1000 to intermediate 0x40_1000 to 0x50_0000.
fn nested(eats: u64) -> Machine {
    let machine = Machine::stage1(with_ats());
    machine.ste(1, &with_word1(STE_NESTED, eats));
    machine.tables2();
    machine.words(L3 + 8, &[0x40_1000 | PAGE]);
    enable(&machine, CHECKED);
    machine
}

/// Stream 1 with Full ATS and four contexts: substream 2 has the usual tables.
fn four_contexts(s1dss: u64) -> Machine {
    let machine = full(with_ats());
    machine.ste(1, &[0x1000_0000_0005_000b, FULL | s1dss, 0, 0, 0, 0, 0, 0]);
    machine.words(CD + 2 * 64, &[0x0007_6205_c000_0019, L1, 0, 0xff]);
    machine
}

fn in_substream(address: u64, pasid: u32) -> TranslationRequest {
    TranslationRequest { pasid: Pasid::new(pasid), ..wish(address) }
}

fn answer(machine: &Machine, request: &TranslationRequest) -> TranslationAnswer {
    machine.smmu.translate(request)
}

fn nothing(machine: &Machine, request: &TranslationRequest) {
    let found = given(machine, request);
    assert_eq!((rwx(&found).as_str(), found.size_lg2), ("---", 12));
    assert_eq!(found.first.get(), request.iova.get() & !0xfff);
    assert!(machine.events().is_empty(), "and nothing is recorded");
}

#[test]
fn a_request_is_answered_with_where_the_page_goes() {
    let machine = full(with_ats());
    let found = given(&machine, &wish(0x1234));
    let expected = Translation {
        first: Iova::new(0x1000),
        pa: Pa::new(0x30_0000),
        size_lg2: 12,
        read: true,
        write: true,
        execute: false,
        privileged: false,
        global: false,
        untranslated_only: false,
    };
    assert_eq!(found, expected);
    assert_eq!(machine.smmu.cached_translations(), 1, "it is a translation like any other");
    let counters = machine.smmu.counters();
    assert_eq!((counters.translation_requests, counters.translations_given), (1, 1));
    machine.assert_clean();
}

#[test]
fn a_block_is_answered_whole() {
    let machine = full(with_ats());
    machine.words(L2 + 8, &[0x80_0000 | (PAGE & !2)]);
    let found = given(&machine, &wish(0x2f_f123));
    assert_eq!((found.first.get(), found.pa.get(), found.size_lg2), (0x20_0000, 0x80_0000, 21));
}

#[test]
fn stale_translations_are_given_until_they_are_invalidated() {
    let machine = full(with_ats());
    given(&machine, &wish(0x1000));
    machine.words(L3 + 8, &[0]);
    assert_eq!(rwx(&given(&machine, &wish(0x1000))), "rw-");
    machine.flush_tlb();
    nothing(&machine, &wish(0x1000));
}

#[test]
fn the_part_must_have_ats() {
    let machine = Machine::stage1(Config { ats: false, ..with_ats() });
    machine.ste(1, &with_word1(STE_S1, FULL));
    assert_eq!(answer(&machine, &wish(0x1000)), TranslationAnswer::UnsupportedRequest);
    assert_eq!(translated(&machine, 1, 0x1000, Access::READ), Got::Abort);
    assert!(machine.events().is_empty());
}

#[test]
fn where_ats_is_off_a_request_is_unsupported_and_told() {
    let told = |machine: &Machine, request: &TranslationRequest, head: u64| {
        assert_eq!(answer(machine, request), TranslationAnswer::UnsupportedRequest);
        assert_eq!(machine.event(), [head, 0, request.iova.get() & !0xfff, 0]);
    };
    let machine = full(with_ats());
    machine.ste(2, &STE_BYPASS);
    machine.ste(3, &STE_S1);
    machine.ste(4, &with_word1(STE_S1, 3 << 28)); // Reserved without a DPT.
    let from = |stream| TranslationRequest { source: SourceId(stream), ..wish(0x7123) };
    told(&machine, &from(2), 0x0000_0002_0000_0005);
    told(&machine, &from(3), 0x0000_0003_0000_0005);
    told(&machine, &from(4), 0x0000_0004_0000_0005);
    told(&machine, &TranslationRequest { pasid: Pasid::new(7), ..from(3) }, 0x0000_0003_0000_7805);
    // A bypassed stream may say EATS, and it counts for nothing.
    machine.ste(5, &with_word1(STE_BYPASS, FULL));
    told(&machine, &from(5), 0x0000_0005_0000_0005);
    machine.disable();
    told(&machine, &from(1), 0x0000_0001_0000_0005);
    machine.assert_clean();
}

#[test]
fn a_stream_that_aborts_is_unsupported_in_silence() {
    let machine = full(with_ats());
    machine.ste(2, &with_word1(STE_ABORT, FULL));
    let request = TranslationRequest { source: SourceId(2), ..wish(0x1000) };
    assert_eq!(answer(&machine, &request), TranslationAnswer::UnsupportedRequest);
    assert!(machine.events().is_empty());
}

#[test]
fn a_configuration_error_aborts_the_request_and_is_not_recorded() {
    let aborted = |machine: &Machine, request: &TranslationRequest| {
        assert_eq!(answer(machine, request), TranslationAnswer::CompleterAbort);
        assert!(machine.events().is_empty());
    };
    let machine = full(with_ats());
    aborted(&machine, &TranslationRequest { source: SourceId(64), ..wish(0) }); // C_BAD_STREAMID
    aborted(&machine, &TranslationRequest { source: SourceId(9), ..wish(0) }); // C_BAD_STE
    aborted(&machine, &in_substream(0x1000, 1)); // C_BAD_SUBSTREAMID
    let machine = four_contexts(0);
    aborted(&machine, &wish(0x1000)); // F_STREAM_DISABLED
    aborted(&machine, &in_substream(0x1000, 3)); // C_BAD_CD
    machine.hole(CD + 64..=CD + 127);
    aborted(&machine, &in_substream(0x1000, 1)); // F_CD_FETCH
    let machine = full(with_ats());
    machine.hole(L3..=L3 + 0xfff);
    aborted(&machine, &wish(0x1000)); // F_WALK_EABT
    let machine = full(with_ats());
    machine.hole(crate::harness::STREAMS + 64..=crate::harness::STREAMS + 127);
    aborted(&machine, &wish(0x1000)); // F_STE_FETCH
}

#[test]
fn a_fault_is_a_success_without_permission_and_is_not_recorded() {
    let machine = full(with_ats());
    nothing(&machine, &wish(0x7123)); // F_TRANSLATION
    machine.words(L3 + 16, &[0x30_0000 | (PAGE & !0x400)]);
    nothing(&machine, &wish(0x2000)); // F_ACCESS
    machine.words(L3 + 32, &[0x30_0000 | (PAGE & !0x40)]);
    nothing(&machine, &wish(0x4000)); // F_PERMISSION: privileged only
    assert_eq!(machine.smmu.counters().translations_given, 0);
    let small = full(Config { output_bits: 44, ..with_ats() });
    small.words(L3 + 24, &[1 << 45 | PAGE]);
    nothing(&small, &wish(0x3000)); // F_ADDR_SIZE
    // A CD that reads as zero where it faults makes no difference.
    machine.words(CD, &[0x0001_2205_c000_0019]);
    machine.flush_cd();
    nothing(&machine, &wish(0x7000));
}

#[test]
fn a_part_without_small_pages_answers_in_its_own_units() {
    let config = Config { granule_4k: false, ..with_ats() };
    let machine = full(config);
    machine.ste(2, &[0x5_000b, FULL, 0, 0, 0, 0, 0, 0]);
    // TG0 64 KiB: T0SZ 25, a level 2 table with nothing in it.
    machine.words(CD, &[0x0001_6205_c000_4059, L1 + 0x10_0000, 0, 0xff]);
    let found = given(&machine, &TranslationRequest { source: SourceId(2), ..wish(0x1_7123) });
    assert_eq!((rwx(&found).as_str(), found.size_lg2, found.first.get()), ("---", 14, 0x1_4000));
}

/// What pages of the given descriptors give to a request of this kind.
fn rights(machine: &Machine, no_write: bool, execute: bool, privileged: bool) -> String {
    let request = TranslationRequest { no_write, execute, privileged, ..in_substream(0x1000, 2) };
    let found = given(machine, &request);
    assert_eq!(found.privileged, privileged, "Priv is that of the request");
    rwx(&found)
}

#[test]
fn permissions_are_those_of_the_table() {
    // AP[2:1], UXN, PXN; then NW, Exe, Priv; the answer. 13.7 "PCIe permission attribute interpretation".
    let read_only = PAGE | 0x80;
    let table = [
        (PAGE, false, false, false, "rw-"),
        (PAGE, false, true, false, "rwx"),
        (PAGE, true, true, false, "rwx"),
        (PAGE, false, false, true, "rw-"),
        // "All EL0-writable regions are treated as being PXN."
        (PAGE, false, true, true, "rw-"),
        (read_only, false, true, false, "r-x"),
        (PAGE | 1 << 54, false, true, false, "rw-"),
        // AP 0b00: privileged only.
        (PAGE & !0x40, false, false, false, "---"),
        (PAGE & !0x40, false, true, true, "rwx"),
        // Execute-only for the unprivileged: "no access".
        (PAGE & !0x40, false, true, false, "---"),
    ];
    for (page, no_write, execute, privileged, expected) in table {
        let machine = four_contexts(0);
        machine.words(L3 + 8, &[0x30_0000 | page]);
        assert_eq!(rights(&machine, no_write, execute, privileged), expected, "{page:#x}");
        assert_eq!(rights(&machine, no_write, execute, privileged), expected, "{page:#x}, cached");
        machine.assert_clean();
    }
}

#[test]
fn what_another_privilege_filled_is_judged_anew() {
    let machine = four_contexts(0);
    machine.words(L3 + 8, &[0x30_0000 | (PAGE & !0x40)]);
    assert_eq!(rights(&machine, false, true, true), "rwx");
    assert_eq!(rights(&machine, false, true, false), "---", "execute-only");
}

#[test]
fn without_a_pasid_there_is_neither_privilege_nor_execution() {
    let machine = full(with_ats());
    machine.words(L3 + 8, &[0x30_0000 | (PAGE & !0x40)]);
    let request = TranslationRequest { privileged: true, ..wish(0x1000) };
    nothing(&machine, &request);
    machine.words(L3 + 16, &[0x30_0000 | PAGE]);
    let found = given(&machine, &TranslationRequest { execute: true, privileged: true, ..wish(0x2000) });
    assert_eq!((rwx(&found).as_str(), found.privileged), ("rw-", false));
}

#[test]
fn overrides_of_the_entry_count_and_priv_is_still_that_of_the_request() {
    // PRIVCFG 113:112, INSTCFG 115:114.
    let with = |overrides: u64, page: u64| {
        let machine = four_contexts(0);
        machine.ste(1, &[0x1000_0000_0005_000b, FULL | overrides << 48, 0, 0, 0, 0, 0, 0]);
        machine.words(L3 + 8, &[0x30_0000 | page]);
        machine
    };
    let privileged = with(0b0011, PAGE & !0x40);
    assert_eq!(rights(&privileged, false, true, false), "rwx");
    let unprivileged = with(0b0010, PAGE & !0x40);
    assert_eq!(rights(&unprivileged, false, true, true), "---");
    // Instruction: reads are fetches, so an execute-never page gives only W.
    let instruction = with(0b1100, PAGE | 1 << 54);
    assert_eq!(rights(&instruction, false, true, false), "-w-");
    let instruction = with(0b1100, PAGE | 0x80 | 1 << 54);
    assert_eq!(rights(&instruction, false, true, false), "---");
    // Data: whatever can be read can be executed.
    let data = with(0b1000, PAGE | 1 << 54);
    assert_eq!(rights(&data, false, true, false), "rwx");
}

#[test]
fn a_stingy_answer_is_a_piece_of_the_whole() {
    let policy = Policy { stingy_answer_one_in: 2, ..Policy::eager() };
    let machine = full(Config { policy, ..with_ats() });
    machine.words(L2 + 8, &[0x80_0000 | (PAGE & !2)]);
    let (mut sizes, mut withheld) = ([0u32; 22], 0);
    for round in 0..400u64 {
        let address = 0x20_0000 + round * 0x1357 % 0x20_0000;
        let no_write = round % 2 == 0;
        let found = given(&machine, &TranslationRequest { no_write, ..wish(address) });
        let offset = address - found.first.get();
        assert_eq!(found.first.get() >> found.size_lg2 << found.size_lg2, found.first.get());
        assert!(found.size_lg2 >= 12 && offset >> found.size_lg2 == 0);
        assert_eq!(found.pa.get() + offset, 0x80_0000 + address - 0x20_0000);
        assert!(found.read && (found.write || no_write), "what was asked for is given");
        sizes[usize::from(found.size_lg2)] += 1;
        withheld += u32::from(!found.write);
    }
    assert!(sizes[12] > 0 && sizes[16] > 0 && sizes[21] > 150, "{sizes:?}");
    assert!(withheld > 50, "{withheld}");
    nothing(&machine, &wish(0x7000));
}

#[test]
fn what_skips_stage_1_is_given_one_to_one() {
    let machine = four_contexts(1);
    let found = given(&machine, &TranslationRequest { no_write: true, ..wish(0x1234_5678) });
    let whole = (found.first.get(), found.pa.get(), found.size_lg2);
    assert_eq!((whole, rwx(&found).as_str()), ((0, 0, 48), "rw-"));
    nothing(&machine, &wish(1 << 48));
    assert_eq!(given(&machine, &in_substream(0x1000, 2)).pa.get(), 0x30_0000, "substreams are translated");
    let machine = four_contexts(2);
    assert_eq!(given(&machine, &wish(0x1000)).pa.get(), 0x30_0000, "descriptor 0");
    assert_eq!(answer(&machine, &in_substream(0x1000, 0)), TranslationAnswer::CompleterAbort);
}

#[test]
fn both_stages_give_their_common_part() {
    let machine = nested(FULL);
    let found = given(&machine, &wish(0x1234));
    assert_eq!((found.pa.get(), found.size_lg2, rwx(&found).as_str()), (0x50_0000, 12, "rw-"));
    // Stage 2 read-only; then nothing there.
    machine.words(S2_L3 + 8, &[0x50_0000 | (S2_PAGE & !0x80)]);
    machine.flush_tlb();
    assert_eq!(rwx(&given(&machine, &wish(0x1000))), "r--");
    machine.words(S2_L3 + 8, &[0]);
    machine.flush_tlb();
    nothing(&machine, &wish(0x1000));
    // A stage 2 fault of the walk itself, and of the fetch of the descriptor.
    machine.words(S2_L2, &[0]);
    machine.flush_tlb();
    nothing(&machine, &wish(0x1000));
    machine.command(0x1_0000_0006, 0);
    machine.sync();
    nothing(&machine, &wish(0x1000));
}

#[test]
fn a_block_without_permissions_is_denied_page_by_page() {
    let machine = nested(FULL);
    machine.ste(1, &with_word1(STE_S2, FULL));
    machine.words(S2_L2, &[S2_PAGE & !0xc2]);
    nothing(&machine, &wish(0x1234));
    nothing(&machine, &wish(0x2234));
}

#[test]
fn stage_2_is_not_looked_at_where_stage_1_gives_nothing() {
    let machine = nested(FULL);
    // Stage 1 is privileged only; the walk of stage 2 would abort.
    machine.words(L3 + 8, &[0x40_1000 | (PAGE & !0x40)]);
    machine.hole(S2_L3..=S2_L3 + 0xfff);
    nothing(&machine, &wish(0x1000));
    machine.words(L3 + 16, &[0x40_1000 | PAGE]);
    assert_eq!(answer(&machine, &wish(0x2000)), TranslationAnswer::CompleterAbort);
    // INSTCFG "Instruction": what cannot be executed cannot be read.
    machine.ste(1, &with_word1(STE_NESTED, FULL | 3 << 50));
    machine.flush_ste(1);
    machine.words(L3 + 24, &[0x40_1000 | PAGE | 0x80 | 1 << 54]);
    nothing(&machine, &wish(0x3000));
}

#[test]
fn a_fault_of_stage_2_that_is_not_recorded_is_answered_the_same() {
    let machine = nested(FULL);
    // S2R=0.
    machine.ste(1, &[0x5_000f, FULL, 0x000d_0058_0000_0001 & !(1 << 58), crate::harness::S2_L1, 0, 0, 0, 0]);
    machine.words(S2_L2, &[0]);
    nothing(&machine, &wish(0x1000));
}

#[test]
fn split_stage_gives_intermediate_addresses_with_the_permissions_of_both() {
    let machine = nested(SPLIT);
    let found = given(&machine, &wish(0x1234));
    assert_eq!((found.pa.get(), found.size_lg2, rwx(&found).as_str()), (0x40_1000, 12, "rw-"));
    machine.words(S2_L3 + 8, &[0x50_0000 | (S2_PAGE & !0x80)]);
    machine.flush_tlb();
    assert_eq!(rwx(&given(&machine, &wish(0x1000))), "r--");
    machine.assert_clean();
}

#[test]
fn split_stage_that_skips_stage_1_is_one_to_one_in_pages_of_stage_2() {
    let machine = nested(SPLIT);
    machine.ste(1, &[0x1000_0000_0005_000f, SPLIT | 1, STE_NESTED[2], STE_NESTED[3], 0, 0, 0, 0]);
    let found = given(&machine, &wish(0x20_1234));
    assert_eq!((found.first.get(), found.pa.get(), found.size_lg2), (0x20_0000, 0x20_0000, 21));
    let found = given(&machine, &wish(0x40_1234));
    assert_eq!((found.first.get(), found.pa.get(), found.size_lg2), (0x40_1000, 0x40_1000, 12));
    nothing(&machine, &wish(1 << 48));
}

#[test]
fn entries_that_ask_for_what_cannot_be_are_illegal() {
    // Stalls are there, so that S2S alone would be legal.
    let bad = |ste: [u64; 8]| {
        let machine = Machine::stage1(Config { stall: StallModel::Configurable, ..with_ats() });
        enable(&machine, CHECKED);
        machine.ste(1, &ste);
        assert_eq!(machine.read(1, 0), Got::Abort);
        assert_eq!(machine.event()[0] & 0xff, 0x04, "{ste:x?}");
        assert!(machine.clauses()[0].contains("EATS"), "{ste:x?}");
    };
    bad(with_word1(STE_S1, SPLIT));
    bad(with_word1(STE_S2, SPLIT));
    let stalling = |ste: [u64; 8]| [ste[0], ste[1], ste[2] | 1 << 57, ste[3], 0, 0, 0, 0];
    bad(with_word1(stalling(STE_S2), FULL));
    bad(with_word1(stalling(STE_NESTED), SPLIT));
    // Without ATS the field is ignored.
    let machine = Machine::stage1(Config { ats: false, ..with_ats() });
    machine.ste(1, &with_word1(STE_S1, SPLIT));
    assert_eq!(machine.read(1, 0x1000), Got::At(0x30_0000));
    machine.assert_clean();
}

#[test]
fn in_fast_mode_translated_accesses_pass_unless_their_address_is_too_large() {
    let machine = full(with_ats());
    enable(&machine, FAST);
    for stream in [1, 2, 9, 64] {
        assert_eq!(translated(&machine, stream, 0x1234_5678, Access::WRITE), Got::At(0x1234_5678));
    }
    assert_eq!(translated(&machine, 1, 1 << 48, Access::READ), Got::Abort);
    assert!(machine.events().is_empty());
    let counters = machine.smmu.counters();
    assert_eq!((counters.translated_accesses, counters.translated_bytes), (4, 16));
    assert_eq!((counters.refused, counters.granted, counters.configuration_reads), (1, 0, 0));
}

#[test]
fn in_safe_mode_translated_accesses_are_checked_against_the_entry() {
    let machine = full(with_ats());
    assert_eq!(translated(&machine, 1, 0x1234_5678, Access::WRITE), Got::At(0x1234_5678));
    assert_eq!(translated(&machine, 1, 1 << 48, Access::READ), Got::Abort, "too large, in silence");
    machine.ste(2, &with_word1(STE_ABORT, FULL));
    for stream in [2, 9, 64] {
        assert_eq!(translated(&machine, stream, 0x1000, Access::READ), Got::Abort);
    }
    assert!(machine.events().is_empty(), "silent: Config 0b000, and all configuration errors");
    machine.ste(3, &STE_S1);
    machine.ste(4, &with_word1(STE_BYPASS, FULL));
    let forbidden = |stream: u32, access: Access, read: u64| {
        assert_eq!(translated(&machine, stream, 0x1234, access), Got::Abort);
        assert_eq!(machine.event(), [u64::from(stream) << 32 | 7, read << 35, 0x1234, 0]);
    };
    forbidden(3, Access::READ, 1);
    forbidden(3, Access::WRITE, 0);
    forbidden(4, Access { kind: AccessKind::Execute, privileged: true }, 1);
    machine.assert_clean();
}

#[test]
fn safe_mode_outlives_the_smmu_being_off() {
    let machine = full(with_ats());
    machine.ste(3, &STE_S1);
    enable(&machine, 0b1_1100);
    enable(&machine, CHECKED);
    assert_eq!(translated(&machine, 3, 0x1000, Access::READ), Got::Abort);
    assert_eq!(machine.event()[0], 0x0000_0003_0000_0007);
}

#[test]
fn while_the_smmu_is_off_translated_accesses_are_forbidden() {
    let machine = full(with_ats());
    for cr0 in [0b0_1100, 0b1_1100] {
        machine.w32(0x20, cr0);
        machine.settle();
        assert_eq!(translated(&machine, 1, 0x1234, Access::READ), Got::Abort);
        assert_eq!(machine.event(), [0x0000_0001_0000_0007, 1 << 35, 0x1234, 0]);
    }
}

#[test]
fn split_stage_translates_what_was_given() {
    let machine = nested(SPLIT);
    assert_eq!(translated(&machine, 1, 0x40_1234, Access::WRITE), Got::At(0x50_0234));
    assert_eq!(translated(&machine, 1, 0x1234, Access::READ), Got::At(0x1234));
    // A stage 2 fault is an event like any other: S2, CLASS=IN, the IPA.
    assert_eq!(translated(&machine, 1, 0x40_2234, Access::READ), Got::Abort);
    assert_eq!(machine.event(), [0x0000_0001_0000_0010, 0x0000_0288_0000_0000, 0x40_2234, 0x40_2000]);
    machine.words(S2_L3 + 8, &[0x50_0000 | (S2_PAGE & !0x80)]);
    machine.flush_tlb();
    assert_eq!(translated(&machine, 1, 0x40_1234, Access::WRITE), Got::Abort);
    assert_eq!(machine.event()[0] & 0xff, 0x13);
    assert_eq!(translated(&machine, 1, 1 << 48, Access::READ), Got::Abort);
    assert_eq!(machine.event(), [0x0000_0001_0000_0011, 0x0000_0208_0000_0000, 1 << 48, 0], "stage 1");
    // A fetch by the device counts as a read; with INSTCFG it is a fetch after all.
    machine.words(S2_L3 + 8, &[0x50_0000 | S2_PAGE | 2 << 53]);
    machine.flush_tlb();
    let fetch = Access { kind: AccessKind::Execute, privileged: false };
    assert_eq!(translated(&machine, 1, 0x40_1000, fetch), Got::At(0x50_0000));
    machine.ste(1, &with_word1(STE_NESTED, SPLIT | 3 << 50));
    machine.flush_ste(1);
    assert_eq!(translated(&machine, 1, 0x40_1000, fetch), Got::Abort);
    machine.assert_clean();
}

#[test]
fn an_entry_is_read_with_atschk_as_it_was_when_it_was_fetched() {
    let machine = nested(SPLIT);
    enable(&machine, FAST);
    machine.assert_clean();
    // Fetched while ATSCHK is 0: Split-stage is off.
    assert_eq!(answer(&machine, &wish(0x1000)), TranslationAnswer::UnsupportedRequest);
    assert_eq!(machine.event()[0], 0x0000_0001_0000_0005);
    enable(&machine, CHECKED);
    assert_eq!(answer(&machine, &wish(0x1000)), TranslationAnswer::UnsupportedRequest);
    machine.events();
    machine.flush_ste(1);
    assert_eq!(given(&machine, &wish(0x1000)).pa.get(), 0x40_1000);
    // Cleared with such an entry about, intermediate addresses go to the system as they are.
    enable(&machine, FAST);
    assert_eq!(machine.clauses(), [clause::ATSCHK_CLEARED]);
    assert_eq!(translated(&machine, 1, 0x40_1000, Access::READ), Got::At(0x40_1000));
}

#[test]
fn atschk_may_be_cleared_while_only_entries_that_do_not_count_say_split_stage() {
    let machine = full(with_ats());
    machine.ste(2, &with_word1(STE_ABORT, SPLIT));
    machine.ste(3, &[0, SPLIT, 0, 0, 0, 0, 0, 0]);
    machine.ste(4, &[STE_NESTED[0] & !1, SPLIT, STE_NESTED[2], STE_NESTED[3], 0, 0, 0, 0]);
    for stream in [2, 3, 4] {
        assert_eq!(machine.read(stream, 0x1000), Got::Abort);
    }
    enable(&machine, FAST);
    machine.assert_clean();
}

#[test]
fn eats_may_not_go_straight_from_full_to_split() {
    let machine = nested(SPLIT);
    given(&machine, &wish(0x1000));
    machine.ste(1, &with_word1(STE_NESTED, FULL));
    machine.flush_ste(1);
    assert_eq!(machine.clauses(), [clause::EATS_CHANGE]);
    given(&machine, &wish(0x1000));
    for eats in [0, SPLIT, 0, FULL] {
        machine.ste(1, &with_word1(STE_NESTED, eats));
        machine.flush_ste(1);
        let _ = answer(&machine, &wish(0x1000));
    }
    machine.assert_clean();
}

#[test]
fn a_sync_waits_for_translated_accesses_that_began_before_it() {
    let machine = full(with_ats());
    let request = model_bus::TranslatedRequest {
        source: SourceId(1),
        pasid: None,
        at: Pa::new(0x1000),
        len_bytes: 8,
        access: Access::WRITE,
    };
    let _ = machine.smmu.access_translated(&request, &mut |_| {
        machine.put(3, 0x46, 0);
        machine.w32(0x98, 4);
        machine.settle();
        assert_eq!(machine.r32(0x9c), 3, "the access is under way");
        Ok(())
    });
    machine.settle();
    assert_eq!(machine.r32(0x9c), 4);
}

#[test]
fn a_tagged_pointer_is_answered_with_its_tag() {
    let machine = full(with_ats());
    machine.words(CD, &[0x0001_6245_c000_0019]); // TBI0
    let found = given(&machine, &wish(0x5a00_0000_0000_1234));
    assert_eq!((found.first.get(), found.pa.get()), (0x5a00_0000_0000_1000, 0x30_0000));
}

#[test]
fn requests_are_told_to_the_trace_by_kind_of_event() {
    let machine = full(with_ats());
    machine.ste(2, &STE_BYPASS);
    let _ = answer(&machine, &TranslationRequest { source: SourceId(2), ..wish(0) });
    let _ = translated(&machine, 2, 0, Access::READ);
    let events = machine.smmu.counters().events;
    assert_eq!(events.get(&EventKind::BadAtsRequest), Some(&1));
    assert_eq!(events.get(&EventKind::TranslatedForbidden), Some(&1));
    assert_eq!(EventKind::BadAtsRequest.name(), "F_BAD_ATS_TREQ");
    assert_eq!(EventKind::TranslatedForbidden.name(), "F_TRANSL_FORBIDDEN");
}
