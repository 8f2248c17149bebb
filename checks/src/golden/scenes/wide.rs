//! Scenes with 52 bits of address: where a descriptor keeps the upper ones, and what says so.

use super::{Answer, Part, STE_STAGE_1, STE_STAGE_2, Scene, read, scene};

const fn wide(scene: Scene) -> Scene {
    Scene { part: Part::Wide, ..scene }
}

/// The scenes.
pub const WIDE: &[Scene] = &[
    wide(scene(
        "stage 1, 4K with DS, 52 bits: from level -1, address bits 51:50 at 9:8",
        STE_STAGE_1,
        &[
            // CD: T0SZ 12, IPS 52 bits, DS.
            (0x8000_3000, 0x002A_E206_C000_350C),
            (0x8000_3008, 0x0000_0000_8001_3000),
            (0x8000_3010, 0x0400_0000_0000_0000),
            (0x8000_3018, 0x0000_0000_0004_44FF),
            // 0xA_9012_3456_7ABC: level -1 index 0xA, level 0 0x120, then 0x48, 0x1A2, 0x167.
            (0x8001_3050, 0x0000_0000_8001_4003),
            (0x8001_4900, 0x0000_0000_8001_0003),
            (0x8001_0240, 0x0000_0000_8001_1003),
            (0x8001_1D10, 0x0000_0000_8001_2003),
            // To 0x9_0000_80A0_0000: bit 51 at 9, bit 48 in place.
            (0x8001_2B38, 0x0061_0000_80A0_0E43),
        ],
        &[read(0x000A_9012_3456_7ABC, Answer::Passes(0x0009_0000_80A0_0ABC))],
    )),
    wide(scene(
        "stage 1, 64K, 52 bits: address bits 51:48 at 15:12",
        STE_STAGE_1,
        &[
            // CD: T0SZ 12, TG0 0b01, IPS 52 bits.
            (0x8000_3000, 0x002A_E206_C000_354C),
            (0x8000_3008, 0x0000_0000_8007_0000),
            (0x8000_3018, 0x0000_0000_0004_44FF),
            // 0x8_0212_3456_7898: level 1 index 0x200, level 2 0x1091, level 3 0x1456.
            (0x8007_1000, 0x0000_0000_8005_0003),
            (0x8005_8488, 0x0000_0000_8006_0003),
            // To 0xF_0000_80A1_0000.
            (0x8006_A2B0, 0x0060_0000_80A1_FF43),
        ],
        &[read(0x0008_0212_3456_7898, Answer::Passes(0x000F_0000_80A1_7898))],
    )),
    wide(scene(
        "stage 2, 4K with S2DS, 52 bits: S2SL0_2 starts at level -1",
        // S2T0SZ 12, S2SL0 0, S2PS 52 bits; S2SL0_2 and S2DS.
        [0x0000_0000_0000_000D, 0, 0x040E_350C_0000_0007, 0x0000_0000_8008_000C, 0, 0, 0, 0],
        &[
            // 0xA_90A1_2345_6788: level -1 index 0xA, level 0 0x121, level 1 0x84, level 2 0x11A, level 3 0x56.
            (0x8008_0050, 0x0000_0000_8008_1003),
            (0x8008_1908, 0x0000_0000_8008_4003),
            (0x8008_4420, 0x0000_0000_8008_2003),
            (0x8008_28D0, 0x0000_0000_8008_3003),
            // To 0x6_0000_80A2_0000: bit 50 at 8, bit 49 in place.
            (0x8008_32B0, 0x0042_0000_80A2_05FF),
        ],
        &[read(0x000A_90A1_2345_6788, Answer::Passes(0x0006_0000_80A2_0788))],
    )),
    wide(scene(
        "stage 2, 4K with S2DS and without S2SL0_2: from level 1",
        [STE_STAGE_2[0], 0, STE_STAGE_2[2], 0x0000_0000_8008_0008, 0, 0, 0, 0],
        &[
            (0x8008_1420, 0x0000_0000_8008_2003),
            (0x8008_28D0, 0x0000_0000_8008_3003),
            (0x8008_32B0, 0x0040_0000_80A2_04FF),
        ],
        &[read(0x0000_00A1_2345_6788, Answer::Passes(0x80A2_0788))],
    )),
];
