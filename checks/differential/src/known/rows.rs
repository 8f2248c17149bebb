//! The table itself.

use super::{Remedy, Row, correct, explain};

/// All of them.
pub const ROWS: &[Row] = &[
    Row {
        name: "repeated records",
        qemu: "records one refused access of more than 4 bytes once for every 4 bytes (or for every 1 or 2 where it is not aligned)",
        clause: "7.3.1 \"Event record merging\": \"one transaction can be matched to one fault event\"",
        remedy: Remedy::Correct(correct::merge_repeats),
    },
    Row {
        name: "offset in IPA",
        qemu: "leaves bits 11:0 of the intermediate address in the record",
        clause: "7.3.13 \"F_TRANSLATION\", IPA[55:12]; 7.3: what is not defined is RES0",
        remedy: Remedy::Correct(correct::drop_offset),
    },
    Row {
        name: "RnW of fetches",
        qemu: "says RnW = 1 where the fetch of a CD or of a stage 1 table is refused, though the device was writing",
        clause: "7.3 \"Event records\": \"RnW: The Read/Write nature of the incoming transaction that led to the event\"",
        remedy: Remedy::Correct(correct::correct_direction),
    },
    Row {
        name: "TTRnW",
        qemu: "leaves TTRnW clear where stage 2 does not let a stage 1 table be read",
        clause: "7.3.16 \"F_PERMISSION\": \"TTRnW is valid when CLASS == TT ... 1 Translation table descriptor Read\"",
        remedy: Remedy::Correct(correct::set_table_read),
    },
    Row {
        name: "stage of table fetches",
        qemu: "says stage 1 where stage 2 refuses the fetch of a stage 1 table below the root, and records it as CD.R says, not STE.S2R",
        clause: "7.3.13 \"F_TRANSLATION\": \"fault occurs at stage 2, S2 == 1 ... If walking stage 1 translation table, CLASS == TT\"",
        remedy: Remedy::Correct(correct::correct_stage),
    },
    Row {
        name: "privilege",
        qemu: "takes every access for privileged where permissions are looked at, and records it as unprivileged",
        clause: "7.3 \"Event records\", PnU; 13.4.1 \"Stage 1 page permissions\"",
        remedy: Remedy::Correct(correct::set_privileged),
    },
    Row {
        name: "place of FetchAddr",
        qemu: "puts the address of a CD that cannot be fetched into the place of InputAddr",
        clause: "7.3.10 \"F_CD_FETCH\", FetchAddr in bits 247:195",
        remedy: Remedy::Correct(correct::move_fetch_address),
    },
    Row {
        name: "size without stage 1",
        qemu: "does not record that an address is beyond the output size where stage 1 is bypassed",
        clause: "7.3.14 \"F_ADDR_SIZE\": \"When stage 1 bypasses translation, this fault occurs when the output address ... is outside\"",
        remedy: Remedy::Explain(explain::size_without_stage1),
    },
    Row {
        name: "roots at once",
        qemu: "translates both TTB0 and TTB1 through stage 2 when it fetches the CD, and refuses every access if one of them is refused",
        clause: "3.3.3 \"Configuration and Translation lookup\"; 7.3.13 \"F_TRANSLATION\": \"CLASS == TT, IPA is the stage 1 translation table descriptor address\"",
        remedy: Remedy::Explain(explain::roots_at_once),
    },
    Row {
        name: "record of table fetches",
        qemu: "lets CD.R say whether a fault of stage 2 in the fetch of a table is recorded",
        clause: "5.2 \"STE, Stream Table Entry\", S2R",
        remedy: Remedy::Explain(explain::record_of_table_fetches),
    },
    Row {
        name: "tables side by side",
        qemu: "does not find the second and later ones of several stage 2 tables side by side at the root",
        clause: "Arm DDI 0487, D8.2.2 \"Concatenated translation tables\"",
        remedy: Remedy::Explain(explain::tables_side_by_side),
    },
    Row {
        name: "tables in pieces",
        qemu: "translates only the first byte of a stage 1 table that is larger than a page of stage 2",
        clause: "3.4 \"Address sizes\"; 7.3.13 \"F_TRANSLATION\": \"IPA is the stage 1 translation table descriptor address\"",
        remedy: Remedy::Explain(explain::tables_in_pieces),
    },
    Row {
        name: "misplaced blocks",
        qemu: "takes a block at a level that has none for one",
        clause: "Arm DDI 0487, D8.3.1 \"VMSAv8-64 descriptor formats\": reserved, treated as invalid",
        remedy: Remedy::Explain(explain::misplaced_block),
    },
    Row {
        name: "size of tables",
        qemu: "does not look whether a table descriptor's address is beyond the output size, and goes there",
        clause: "7.3.14 \"F_ADDR_SIZE\": \"an intermediate or leaf translation table descriptor outputs an address outside\"",
        remedy: Remedy::Explain(explain::size_of_tables),
    },
    Row {
        name: "size after rights",
        qemu: "looks at a leaf's output address after its access flag and permissions",
        clause: "Arm DDI 0487, D8.15.6 \"MMU fault priority\": an Address size fault goes before an Access flag and a Permission fault",
        remedy: Remedy::Explain(explain::size_after_rights),
    },
    Row {
        name: "limits on the way",
        qemu: "refuses a write at a table with APTable[1] without looking at what is below it",
        clause: "Arm DDI 0487, D8.15.6 \"MMU fault priority\": a Permission fault is of the last level and comes last",
        remedy: Remedy::Explain(explain::limits_on_the_way),
    },
    Row {
        name: "S1STALLD of stage 2",
        qemu: "calls an entry bad for S1STALLD, though its stage 1 is off",
        clause: "5.2 \"STE, Stream Table Entry\", S1STALLD: IGNORED where Config does not enable stage 1",
        remedy: Remedy::Explain(explain::stall_disable_of_stage2),
    },
    Row {
        name: "address of table descriptors",
        qemu: "gives the address of the table where it should give that of the descriptor that stage 2 does not let it read",
        clause: "7.3.13 \"F_TRANSLATION\": \"CLASS == TT, IPA is the stage 1 translation table descriptor address\"",
        remedy: Remedy::Correct(correct::find_descriptor),
    },
    Row {
        name: "S2T0SZ against S2PS",
        qemu: "calls an entry bad whose stage 2 takes in more bits than S2PS lets out",
        clause: "5.2 \"STE, Stream Table Entry\", S2T0SZ: \"the minimum valid value for this field is MAX(16, 64-IAS)\", and IAS is OAS",
        remedy: Remedy::Explain(explain::input_against_output),
    },
    Row {
        name: "S2SL0 against S2T0SZ",
        qemu: "does not look whether stage 2 takes in too few bits for the level at which it begins",
        clause: "5.2.2 \"Validity of STE\", STEWalkConfigInconsistentAA64(); Arm DDI 0487, AArch64.S2InconsistentSL",
        remedy: Remedy::Explain(explain::start_against_input),
    },
    Row {
        name: "spans",
        qemu: "takes a second-level stream table of span S for one of 2^S entries, does not look for spans that are reserved or too large, and calls \
               an id behind its end C_BAD_STE",
        clause: "7.3.3 \"C_BAD_STREAMID\": \"L1STD.Span == Reserved\", \"Span > SPLIT + 1\", \"StreamID[SPLIT - 1:0] >= 2^(Span-1)\"",
        remedy: Remedy::Explain(explain::spans),
    },
    Row {
        name: "aborts behind table fetches",
        qemu: "says stage 1, and gives the address of the table, where stage 2's own walk for a stage 1 table meets nothing",
        clause: "7.3.12 \"F_WALK_EABT\": \"Translation of an IPA for Stage 1 descriptor fetch - S2 == 1 ... and S2 descriptor fetch PA\"",
        remedy: Remedy::Correct(correct::find_abort),
    },
    Row {
        name: "FetchAddr beyond the output size",
        qemu: "gives all bits of the address of an STE that cannot be fetched",
        clause: "7.3.4 \"F_STE_FETCH\": \"FetchAddr bits [55:OAS] are RES0 if OAS is smaller than 56\"",
        remedy: Remedy::Correct(correct::cut_fetch_address),
    },
    Row {
        name: "RECINVSID",
        qemu: "records C_BAD_STREAMID though CR2.RECINVSID is 0",
        clause: "7.3.3 \"C_BAD_STREAMID\": \"Recorded when SMMU_(*_)CR2.RECINVSID == 1\"",
        remedy: Remedy::Explain(explain::record_of_bad_streams),
    },
    Row {
        name: "S1ContextPtr beyond the output size",
        qemu: "does not look whether S1ContextPtr is in range, and tries to fetch the CD",
        clause: "5.2.2 \"Validity of STE\": S1ContextPtr out of range",
        remedy: Remedy::Explain(explain::context_pointer),
    },
    Row {
        name: "S1CDMax",
        qemu: "calls an entry bad for S1CDMax, though there are no substreams, or no stage 1",
        clause: "5.2 \"STE, Stream Table Entry\", S1CDMax: RES0 where SMMU_IDR1.SSIDSIZE is 0, and IGNORED where stage 1 is off",
        remedy: Remedy::Explain(explain::contexts_max),
    },
    Row {
        name: "S2HA and S2HD",
        qemu: "does not look at S2HA and S2HD, though it has no hardware updates",
        clause: "5.2.2 \"Validity of STE\": S2HA or S2HD set where SMMU_IDR0.HTTU does not have it",
        remedy: Remedy::Explain(explain::hardware_updates),
    },
    Row {
        name: "S2PTW",
        qemu: "does not know S2PTW",
        clause: "5.2 \"STE, Stream Table Entry\", S2PTW: \"CD fetch or stage 1 table walk to Device-mapped stage 2 address: stage 2 Permission fault\"",
        remedy: Remedy::Explain(explain::protected_walk),
    },
    Row {
        name: "PAN",
        qemu: "does not know PAN",
        clause: "5.4 \"CD, Context Descriptor\", PAN",
        remedy: Remedy::Explain(explain::privileged_access_never),
    },
    Row {
        name: "TBI1",
        qemu: "takes TBI0 for TBI1",
        clause: "5.4 \"CD, Context Descriptor\", TBI0, TBI1",
        remedy: Remedy::Explain(explain::other_top_byte),
    },
    Row {
        name: "IPS above 5",
        qemu: "ends where a CD says IPS 6 or 7",
        clause: "5.4 \"CD, Context Descriptor\", IPS: the effective size is capped by OAS",
        remedy: Remedy::Avoid,
    },
    Row {
        name: "S2AA64",
        qemu: "ends where an entry says S2AA64 0",
        clause: "5.2.2 \"Validity of STE\": S2AA64 selects a table format that is not there",
        remedy: Remedy::Avoid,
    },
    Row {
        name: "back to one level",
        qemu: "goes on with a two-level stream table when STRTAB_BASE_CFG.FMT is set to linear again",
        clause: "6.3.25 \"SMMU_STRTAB_BASE_CFG\", FMT",
        remedy: Remedy::Avoid,
    },
];
