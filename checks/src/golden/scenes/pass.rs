//! Scenes in which accesses are let through: one for each configuration and granule.

use super::{Answer, Part, STE_NESTED, STE_STAGE_1, STE_STAGE_2, Scene, read, read_in, scene, write};

/// The scenes.
pub const PASSES: &[Scene] = &[
    scene(
        "bypass lets the address through as it is",
        // V, Config 0b100.
        [0x0000_0000_0000_0009, 0, 0, 0, 0, 0, 0, 0],
        &[],
        &[
            read(0x0000_0000_80A0_0120, Answer::Passes(0x80A0_0120)),
            write(0x0000_0000_80A0_0FFC, Answer::Passes(0x80A0_0FFC)),
        ],
    ),
    scene(
        "Config 0b000 aborts and records nothing",
        [0x0000_0000_0000_0001, 0, 0, 0, 0, 0, 0, 0],
        &[],
        &[
            read(0x0000_0000_80A0_0120, Answer::Aborts), //
            write(0x0000_0000_80A0_0120, Answer::Aborts),
        ],
    ),
    scene(
        "stage 1, 4K granule, 39 bits: page, 2 MiB block, 1 GiB block",
        STE_STAGE_1,
        &[
            // CD: T0SZ 25, TG0 4K, IR0 OR0 write-back, SH0 inner, EPD1, V, IPS 48 bits, AA64, R, A, ASET, ASID 0x2A.
            (0x8000_3000, 0x002A_E205_C000_3519),
            (0x8000_3008, 0x0000_0000_8001_0000), // TTB0
            (0x8000_3018, 0x0000_0000_0004_44FF), // MAIR: write-back, non-cacheable, Device-nGnRE
            // 0x12_3456_7ABC: level 1 index 0x48, level 2 0x1A2, level 3 0x167.
            (0x8001_0240, 0x0000_0000_8001_1003),
            (0x8001_1D10, 0x0000_0000_8001_2003),
            // Page: UXN PXN, nG AF, inner shareable, AP 0b01, AttrIndx 0.
            (0x8001_2B38, 0x0060_0000_80A0_0F43),
            // 0x12_3460_0000: level 2 index 0x1A3, a block of 2 MiB.
            (0x8001_1D18, 0x0060_0000_80A0_0F41),
            // 0x7F_C000_0000: level 1 index 0x1FF, a block of 1 GiB.
            (0x8001_0FF8, 0x0060_0000_8000_0F41),
        ],
        &[
            read(0x0000_0012_3456_7ABC, Answer::Passes(0x80A0_0ABC)),
            write(0x0000_0012_3456_7000, Answer::Passes(0x80A0_0000)),
            read(0x0000_0012_3472_3454, Answer::Passes(0x80B2_3454)),
            write(0x0000_007F_C0A1_2340, Answer::Passes(0x80A1_2340)),
        ],
    ),
    scene(
        "stage 1, 16K granule, 47 bits: page, 32 MiB block",
        STE_STAGE_1,
        &[
            // CD as above with T0SZ 17 and TG0 0b10.
            (0x8000_3000, 0x002A_E205_C000_3591),
            (0x8000_3008, 0x0000_0000_8004_0000),
            (0x8000_3018, 0x0000_0000_0004_44FF),
            // 0x1234_5678_9ABC: level 1 index 0x123, level 2 0x22B, level 3 0x1E2.
            (0x8004_0918, 0x0000_0000_8004_4003),
            (0x8004_5158, 0x0000_0000_8004_8003),
            (0x8004_8F10, 0x0060_0000_80A0_4F43),
            // 0x1234_5800_0000: level 2 index 0x22C, a block of 32 MiB.
            (0x8004_5160, 0x0060_0000_8000_0F41),
        ],
        &[
            read(0x0000_1234_5678_9ABC, Answer::Passes(0x80A0_5ABC)),
            write(0x0000_1234_58A0_1230, Answer::Passes(0x80A0_1230)),
        ],
    ),
    scene(
        "stage 1, 64K granule, 42 bits: page, 512 MiB block",
        STE_STAGE_1,
        &[
            // CD as above with T0SZ 22 and TG0 0b01.
            (0x8000_3000, 0x002A_E205_C000_3556),
            (0x8000_3008, 0x0000_0000_8005_0000),
            (0x8000_3018, 0x0000_0000_0004_44FF),
            // 0x212_3456_789A: level 2 index 0x1091, level 3 0x1456.
            (0x8005_8488, 0x0000_0000_8006_0003),
            (0x8006_A2B0, 0x0060_0000_80A1_0F43),
            // 0x212_4000_0000: level 2 index 0x1092, a block of 512 MiB.
            (0x8005_8490, 0x0060_0000_8000_0F41),
        ],
        &[
            read(0x0000_0212_3456_7898, Answer::Passes(0x80A1_7898)),
            write(0x0000_0212_40A0_ABCC, Answer::Passes(0x80A0_ABCC)),
        ],
    ),
    scene(
        "stage 2, 4K granule, 40 bits in two concatenated tables",
        STE_STAGE_2,
        &[
            // 0xA1_2345_6789: level 1 index 0x284, in the second table; level 2 0x11A, level 3 0x56.
            (0x8008_1420, 0x0000_0000_8008_2003),
            (0x8008_28D0, 0x0000_0000_8008_3003),
            // Page: XN 0b10, AF, inner shareable, S2AP 0b11, MemAttr 0b1111.
            (0x8008_32B0, 0x0040_0000_80A2_07FF),
            // 0xA1_2360_0000: level 2 index 0x11B, a block of 2 MiB.
            (0x8008_28D8, 0x0040_0000_80A0_07FD),
        ],
        &[
            read(0x0000_00A1_2345_6788, Answer::Passes(0x80A2_0788)),
            write(0x0000_00A1_2365_4320, Answer::Passes(0x80A5_4320)),
        ],
    ),
    scene(
        "stage 2, 16K granule, 40 bits in sixteen concatenated tables",
        // As above with S2TG 0b10; S2SL0 1 is level 2 here.
        [0x0000_0000_0000_000D, 0, 0x040D_B558_0000_0007, 0x0000_0000_8040_0000, 0, 0, 0, 0],
        &[
            // 0xA1_2345_6789: level 2 index 0x5091, level 3 0x515.
            (0x8042_8488, 0x0000_0000_8044_0003),
            (0x8044_28A8, 0x0040_0000_80A2_47FF),
        ],
        &[read(0x0000_00A1_2345_6788, Answer::Passes(0x80A2_6788))],
    ),
    scene(
        "stage 2, 64K granule, 40 bits",
        // As above with S2TG 0b01.
        [0x0000_0000_0000_000D, 0, 0x040D_7558_0000_0007, 0x0000_0000_8045_0000, 0, 0, 0, 0],
        &[
            // 0xA1_2345_6789: level 2 index 0x509, level 3 0x345.
            (0x8045_2848, 0x0000_0000_8046_0003),
            (0x8046_1A28, 0x0040_0000_80A3_07FF),
        ],
        &[write(0x0000_00A1_2345_6788, Answer::Passes(0x80A3_6788))],
    ),
    scene(
        "nested: the CD, the stage 1 tables and the output all go through stage 2",
        STE_NESTED,
        NESTED_MEMORY,
        &[
            read(0x0000_0012_3456_7ABC, Answer::Passes(0x80B0_0ABC)),
            write(0x0000_0012_3456_7004, Answer::Passes(0x80B0_0004)),
        ],
    ),
    scene(
        "two levels of CDs: each substream has its own, S1DSS 1 bypasses without one",
        // S1CDMax 8, S1Fmt 4K leaves, L1CDs at 0x8000_4000; S1DSS 0b01.
        [0x4000_0000_8000_401B, 0x0000_0000_0000_00D5, 0, 0, 0, 0, 0, 0],
        SUBSTREAMS,
        &[
            read_in(0x42, 0x0000_0012_3456_7ABC, Answer::Passes(0x80A0_0ABC)),
            read(0x0000_0000_80A0_0120, Answer::Passes(0x80A0_0120)),
        ],
    ),
    Scene {
        name: "two levels of STEs: the stream is found by its upper and lower bits",
        part: Part::Usual,
        ste: [0; 8],
        // STRTAB_BASE 0x8000_8000; STRTAB_BASE_CFG: two levels, SPLIT 6, LOG2SIZE 8.
        registers: &[(0x0080, 0x0000_0000_8000_8000), (0x0088, 0x0001_0188)],
        memory: &[
            // Stream 0xC5: L1STD 3, Span 7 (64 STEs) at 0x8000_9000; STE 5 of it bypasses.
            (0x8000_8018, 0x0000_0000_8000_9007),
            (0x8000_9140, 0x0000_0000_0000_0009),
        ],
        asks: &[
            super::Ask { stream: 0xC5, ..read(0x80A0_0120, Answer::Passes(0x80A0_0120)) },
            // L1STD 2 has Span 0.
            super::Ask {
                stream: 0x85,
                ..read(0x80A0_0120, Answer::Faults(super::record([0x0000_0085_0000_0002, 0, 0, 0])))
            },
        ],
    },
    scene(
        "the upper region goes through TTB1, and between the regions nothing is",
        STE_STAGE_1,
        &[
            // CD: as for 4K with T1SZ 25, TG1 4K (0b10), IR1 OR1 write-back, SH1 inner, and EPD1 clear.
            (0x8000_3000, 0x002A_E205_B599_3519),
            (0x8000_3008, 0x0000_0000_8001_0000),
            (0x8000_3010, 0x0000_0000_8001_4000), // TTB1
            (0x8000_3018, 0x0000_0000_0004_44FF),
            // 0xFFFF_FF92_3456_7ABC: bits 38:0 are 0x12_3456_7ABC.
            (0x8001_4240, 0x0000_0000_8001_1003),
            (0x8001_1D10, 0x0000_0000_8001_2003),
            (0x8001_2B38, 0x0060_0000_80A0_0F43),
        ],
        &[
            read(0xFFFF_FF92_3456_7ABC, Answer::Passes(0x80A0_0ABC)),
            read(
                0x0001_0012_3456_7ABC,
                Answer::Faults(super::stage_1_record([
                    0x0000_0005_0000_0010,
                    0x0000_0208_0000_0000,
                    0x0001_0012_3456_7ABC,
                    0,
                ])),
            ),
        ],
    ),
];

/// A table of CDs in two levels, with one address space for substream 0x42.
pub(super) const SUBSTREAMS: &[(u64, u64)] = &[
    // L1CD 1 covers substreams 0x40 to 0x7F; CD 2 of its table is at 0x8000_5080.
    (0x8000_4008, 0x0000_0000_8000_5001),
    (0x8000_5080, 0x002A_E205_C000_3519),
    (0x8000_5088, 0x0000_0000_8001_0000),
    (0x8000_5098, 0x0000_0000_0004_44FF),
    (0x8001_0240, 0x0000_0000_8001_1003),
    (0x8001_1D10, 0x0000_0000_8001_2003),
    (0x8001_2B38, 0x0060_0000_80A0_0F43),
];

/// Both stages: 0x12_3456_7000 to IPA 0x4050_0000 to 0x80B0_0000.
const NESTED_MEMORY: &[(u64, u64)] = &[
    // Stage 2: IPA 0x4000_0000 has level 1 index 1; its first 2 MiB by pages, 0x4040_0000 by a block of 2 MiB.
    (0x8008_0008, 0x0000_0000_8008_2003),
    (0x8008_2000, 0x0000_0000_8008_3003),
    (0x8008_2010, 0x0040_0000_80A0_07FD),
    (0x8008_3018, 0x0040_0000_8000_37FF), // IPA 0x4000_3000: the CD
    (0x8008_3080, 0x0040_0000_8001_07FF), // IPA 0x4001_0000: stage 1, level 1
    (0x8008_3088, 0x0040_0000_8001_17FF), // level 2
    (0x8008_3090, 0x0040_0000_8001_27FF), // level 3
    // The CD: TTB0 is an IPA.
    (0x8000_3000, 0x002A_E205_C000_3519),
    (0x8000_3008, 0x0000_0000_4001_0000),
    (0x8000_3018, 0x0000_0000_0004_44FF),
    // Stage 1: the addresses in it are IPAs.
    (0x8001_0240, 0x0000_0000_4001_1003),
    (0x8001_1D10, 0x0000_0000_4001_2003),
    (0x8001_2B38, 0x0060_0000_4050_0F43),
];
