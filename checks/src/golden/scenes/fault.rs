//! Scenes in which an access is refused: one for each kind of event, with its record.

use super::pass::SUBSTREAMS;
use super::{
    Answer, Ask, Does, NOWHERE, Part, STE_NESTED, STE_STAGE_1, STE_STAGE_2, Scene, VA, fetch_record, read,
    read_in, record, scene, stage_1_record, stage_2_record, write,
};

/// Bypass.
const STE_BYPASS: [u64; 8] = [0x0000_0000_0000_0009, 0, 0, 0, 0, 0, 0, 0];

/// The scenes.
pub const FAULTS: &[Scene] = &[
    scene(
        "C_BAD_STREAMID: the stream table ends before the stream",
        STE_BYPASS,
        &[],
        &[Ask { stream: 0x10, ..read(VA, Answer::Faults(record([0x0000_0010_0000_0002, 0, 0, 0]))) }],
    ),
    Scene {
        name: "F_STE_FETCH: the stream table is nowhere",
        part: Part::Usual,
        ste: STE_BYPASS,
        registers: &[(0x0080, NOWHERE)],
        memory: &[],
        // FetchAddr: 0x1_0000_0000 + 5 * 64. Reason, bits 79:64, is implementation defined.
        asks: &[read(VA, Answer::Faults(fetch_record([0x0000_0005_0000_0003, 0, 0, 0x0000_0001_0000_0140])))],
    },
    scene(
        "C_BAD_STE: V is 0",
        [0, 0, 0, 0, 0, 0, 0, 0],
        &[],
        &[read(VA, Answer::Faults(record([0x0000_0005_0000_0004, 0, 0, 0])))],
    ),
    scene(
        "F_STREAM_DISABLED: substreams on, S1DSS 0, none given",
        // S1CDMax 1, S1Fmt linear.
        [0x0800_0000_8000_300B, 0x0000_0000_0000_00D4, 0, 0, 0, 0, 0, 0],
        &[],
        &[read(VA, Answer::Faults(record([0x0000_0005_0000_0006, 0, 0, 0])))],
    ),
    scene(
        "C_BAD_SUBSTREAMID: substreams off, one given",
        STE_STAGE_1,
        &[],
        &[read_in(0x42, VA, Answer::Faults(record([0x0000_0005_0004_2008, 0, 0, 0])))],
    ),
    scene(
        "C_BAD_SUBSTREAMID: stage 1 bypasses, one given",
        STE_BYPASS,
        &[],
        &[read_in(0x42, VA, Answer::Faults(record([0x0000_0005_0004_2008, 0, 0, 0])))],
    ),
    scene(
        "substreams in two levels of CDs: beyond S1CDMax, an L1CD that is not valid, a CD that is not",
        // S1CDMax 7, S1Fmt 4K leaves, L1CDs at 0x8000_4000; S1DSS 0b10.
        [0x3800_0000_8000_401B, 0x0000_0000_0000_00D6, 0, 0, 0, 0, 0, 0],
        SUBSTREAMS,
        &[
            read_in(0x80, VA, Answer::Faults(record([0x0000_0005_0008_0008, 0, 0, 0]))),
            read_in(0x01, VA, Answer::Faults(record([0x0000_0005_0000_1008, 0, 0, 0]))),
            // SSV, SubstreamID 0x43.
            read_in(0x43, VA, Answer::Faults(record([0x0000_0005_0004_380A, 0, 0, 0]))),
            // Substream 0 is not for those who ask for it.
            read_in(0x00, VA, Answer::Faults(record([0x0000_0005_0000_0006, 0, 0, 0]))),
            // SSV, SubstreamID 0x42: a fault in its address space.
            Ask {
                does: Does::Writes,
                ..read_in(
                    0x42,
                    0x0000_0012_3456_8000,
                    Answer::Faults(stage_1_record([
                        0x0000_0005_0004_2810,
                        0x0000_0200_0000_0000,
                        0x0000_0012_3456_8000,
                        0,
                    ])),
                )
            },
        ],
    ),
    scene(
        "F_CD_FETCH: the CD is nowhere",
        [0x0000_0001_0000_300B, 0x0000_0000_0000_00D4, 0, 0, 0, 0, 0, 0],
        &[],
        &[read(VA, Answer::Faults(fetch_record([0x0000_0005_0000_0009, 0, 0, 0x0000_0001_0000_3000])))],
    ),
    scene(
        "C_BAD_CD: V is 0",
        STE_STAGE_1,
        &[(0x8000_3000, 0x002A_E205_4000_3519)],
        &[read(VA, Answer::Faults(record([0x0000_0005_0000_000A, 0, 0, 0])))],
    ),
    scene(
        "F_WALK_EABT: the root table is nowhere",
        STE_STAGE_1,
        &[(0x8000_3000, 0x002A_E205_C000_3519), (0x8000_3008, NOWHERE)],
        // RnW, CLASS TT; FetchAddr: 0x1_0000_0000 + 0x48 * 8.
        &[read(
            VA,
            Answer::Faults(fetch_record([
                0x0000_0005_0000_000B,
                0x0000_0108_0000_0000,
                VA,
                0x0000_0001_0000_0240,
            ])),
        )],
    ),
    scene(
        "F_TRANSLATION at stage 1: no descriptor, and beyond T0SZ",
        STE_STAGE_1,
        &[
            (0x8000_3000, 0x002A_E205_C000_3519),
            (0x8000_3008, 0x0000_0000_8001_0000),
            (0x8001_0240, 0x0000_0000_8001_1003),
            (0x8001_1D10, 0x0000_0000_8001_2003),
        ],
        &[
            // RnW, CLASS IN.
            read(VA, Answer::Faults(stage_1_record([0x0000_0005_0000_0010, 0x0000_0208_0000_0000, VA, 0]))),
            write(VA, Answer::Faults(stage_1_record([0x0000_0005_0000_0010, 0x0000_0200_0000_0000, VA, 0]))),
            read(
                0x0000_0080_0000_0000,
                Answer::Faults(stage_1_record([
                    0x0000_0005_0000_0010,
                    0x0000_0208_0000_0000,
                    0x0000_0080_0000_0000,
                    0,
                ])),
            ),
        ],
    ),
    scene(
        "CD.A 0: a fault is recorded, and the device does not see it",
        STE_STAGE_1,
        // As above without A: bit 46.
        &[(0x8000_3000, 0x002A_A205_C000_3519), (0x8000_3008, 0x0000_0000_8001_0000)],
        &[write(
            VA,
            Answer::FaultsUnseen(stage_1_record([0x0000_0005_0000_0010, 0x0000_0200_0000_0000, VA, 0])),
        )],
    ),
    scene(
        "CD.R 0: a fault aborts and is not recorded",
        STE_STAGE_1,
        // As above without R: bit 45.
        &[(0x8000_3000, 0x002A_C205_C000_3519), (0x8000_3008, 0x0000_0000_8001_0000)],
        &[write(VA, Answer::Aborts)],
    ),
    scene(
        "F_ADDR_SIZE at stage 1: a page beyond IPS",
        STE_STAGE_1,
        &[
            // IPS 32 bits.
            (0x8000_3000, 0x002A_E200_C000_3519),
            (0x8000_3008, 0x0000_0000_8001_0000),
            (0x8001_0240, 0x0000_0000_8001_1003),
            (0x8001_1D10, 0x0000_0000_8001_2003),
            (0x8001_2B38, 0x0060_0001_80A0_0F43),
        ],
        &[read(VA, Answer::Faults(stage_1_record([0x0000_0005_0000_0011, 0x0000_0208_0000_0000, VA, 0])))],
    ),
    scene(
        "F_ADDR_SIZE at stage 1 that bypasses: an address beyond OAS",
        STE_BYPASS,
        &[],
        &[write(
            0x0001_0000_80A0_0000,
            Answer::Faults(stage_1_record([
                0x0000_0005_0000_0011,
                0x0000_0200_0000_0000,
                0x0001_0000_80A0_0000,
                0,
            ])),
        )],
    ),
    scene(
        "F_ACCESS: AF is 0",
        STE_STAGE_1,
        &[
            (0x8000_3000, 0x002A_E205_C000_3519),
            (0x8000_3008, 0x0000_0000_8001_0000),
            (0x8001_0240, 0x0000_0000_8001_1003),
            (0x8001_1D10, 0x0000_0000_8001_2003),
            (0x8001_2B38, 0x0060_0000_80A0_0B43),
        ],
        &[read(VA, Answer::Faults(stage_1_record([0x0000_0005_0000_0012, 0x0000_0208_0000_0000, VA, 0])))],
    ),
    scene(
        "F_PERMISSION: a write to a page that may be read",
        STE_STAGE_1,
        &[
            (0x8000_3000, 0x002A_E205_C000_3519),
            (0x8000_3008, 0x0000_0000_8001_0000),
            (0x8001_0240, 0x0000_0000_8001_1003),
            (0x8001_1D10, 0x0000_0000_8001_2003),
            // AP 0b11.
            (0x8001_2B38, 0x0060_0000_80A0_0FC3),
        ],
        &[
            read(VA, Answer::Passes(0x80A0_0ABC)),
            write(VA, Answer::Faults(stage_1_record([0x0000_0005_0000_0013, 0x0000_0200_0000_0000, VA, 0]))),
        ],
    ),
    scene(
        "F_TRANSLATION at stage 2 alone",
        STE_STAGE_2,
        &[(0x8008_1420, 0x0000_0000_8008_2003)],
        // S2, RnW, CLASS IN; IPA[55:12].
        &[read(
            0x0000_00A1_2345_6788,
            Answer::Faults(stage_2_record([
                0x0000_0005_0000_0010,
                0x0000_0288_0000_0000,
                0x0000_00A1_2345_6788,
                0x0000_00A1_2345_6000,
            ])),
        )],
    ),
    scene(
        "F_PERMISSION at stage 2 alone: a write where S2AP is 0b01",
        STE_STAGE_2,
        &[
            (0x8008_1420, 0x0000_0000_8008_2003),
            (0x8008_28D0, 0x0000_0000_8008_3003),
            (0x8008_32B0, 0x0040_0000_80A2_077F),
        ],
        &[
            read(0x0000_00A1_2345_6788, Answer::Passes(0x80A2_0788)),
            write(
                0x0000_00A1_2345_6788,
                Answer::Faults(stage_2_record([
                    0x0000_0005_0000_0013,
                    0x0000_0280_0000_0000,
                    0x0000_00A1_2345_6788,
                    0x0000_00A1_2345_6000,
                ])),
            ),
        ],
    ),
    scene(
        "nested, CLASS CD: stage 2 does not map the CD",
        STE_NESTED,
        &[(0x8008_0008, 0x0000_0000_8008_2003), (0x8008_2000, 0x0000_0000_8008_3003)],
        // S2, RnW, CLASS CD; the IPA is the CD's.
        &[read(
            VA,
            Answer::Faults(stage_2_record([
                0x0000_0005_0000_0010,
                0x0000_0088_0000_0000,
                VA,
                0x0000_0000_4000_3000,
            ])),
        )],
    ),
    scene(
        "nested, CLASS TT: stage 2 forbids to read a stage 1 table",
        STE_NESTED,
        &[
            (0x8008_0008, 0x0000_0000_8008_2003),
            (0x8008_2000, 0x0000_0000_8008_3003),
            (0x8008_3018, 0x0040_0000_8000_37FF),
            (0x8008_3080, 0x0040_0000_8001_07FF),
            // Level 2 of stage 1: S2AP 0b10, write only.
            (0x8008_3088, 0x0040_0000_8001_17BF),
            (0x8000_3000, 0x002A_E205_C000_3519),
            (0x8000_3008, 0x0000_0000_4001_0000),
            (0x8001_0240, 0x0000_0000_4001_1003),
        ],
        // S2, CLASS TT, TTRnW; the device wrote, so RnW is 0. The IPA is the table's.
        &[write(
            VA,
            Answer::Faults(record([0x0000_0005_0000_0013, 0x0000_1180_0000_0000, VA, 0x0000_0000_4001_1000])),
        )],
    ),
    scene(
        "nested, CLASS IN: stage 2 does not map the output of stage 1",
        STE_NESTED,
        &[
            (0x8008_0008, 0x0000_0000_8008_2003),
            (0x8008_2000, 0x0000_0000_8008_3003),
            (0x8008_3018, 0x0040_0000_8000_37FF),
            (0x8008_3080, 0x0040_0000_8001_07FF),
            (0x8008_3088, 0x0040_0000_8001_17FF),
            (0x8008_3090, 0x0040_0000_8001_27FF),
            (0x8000_3000, 0x002A_E205_C000_3519),
            (0x8000_3008, 0x0000_0000_4001_0000),
            (0x8001_0240, 0x0000_0000_4001_1003),
            (0x8001_1D10, 0x0000_0000_4001_2003),
            (0x8001_2B38, 0x0060_0000_4050_0F43),
        ],
        &[write(
            VA,
            Answer::Faults(stage_2_record([
                0x0000_0005_0000_0010,
                0x0000_0280_0000_0000,
                VA,
                0x0000_0000_4050_0000,
            ])),
        )],
    ),
];
