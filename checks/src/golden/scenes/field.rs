//! Scenes that turn on a single field of an STE, a CD or a descriptor: read one bit beside it, and the answer is another.

use super::{
    Answer, Ask, Does, Part, STE_NESTED, STE_STAGE_1, STE_STAGE_2, Scene, VA, ask, read, record, scene,
    stage_1_record, stage_2_record, write,
};

const fn on(part: Part, scene: Scene) -> Scene {
    Scene { part, ..scene }
}

/// Memory of a stage 1 walk for [`VA`] with 4K and 39 bits: words 0 and 1 of the CD, the level 1 descriptor, the page.
const fn stage_1(cd_0: u64, cd_1: u64, level_1: u64, page: u64) -> [(u64, u64); 6] {
    [
        (0x8000_3000, cd_0),
        (0x8000_3008, cd_1),
        (0x8000_3018, 0x0000_0000_0004_44FF),
        (0x8001_0240, level_1),
        (0x8001_1D10, 0x0000_0000_8001_2003),
        (0x8001_2B38, page),
    ]
}

/// Memory of a stage 2 walk for [`IPA`]: the page.
const fn stage_2(page: u64) -> [(u64, u64); 3] {
    [(0x8008_1420, 0x0000_0000_8008_2003), (0x8008_28D0, 0x0000_0000_8008_3003), (0x8008_32B0, page)]
}

/// Word 0 of the CD of most scenes: T0SZ 25, 4K, EPD1, V, IPS 48 bits, AA64, R, A, ASET, ASID 0x2A.
const CD_0: u64 = 0x002A_E205_C000_3519;
/// TTB0.
const CD_1: u64 = 0x0000_0000_8001_0000;
/// The level 1 descriptor of most scenes.
const LEVEL_1: u64 = 0x0000_0000_8001_1003;
/// The page of most scenes: for all to read and write, for nobody to execute.
const PAGE: u64 = 0x0060_0000_80A0_0F43;
/// The same, for all to read and execute, for nobody to write.
const TEXT: u64 = 0x0000_0000_80A0_0FC3;
/// Where [`VA`] leads.
const HOME: Answer = Answer::Passes(0x80A0_0ABC);
/// An input address of stage 2.
const IPA: u64 = 0x0000_00A1_2345_6788;
/// Where it leads.
const HOME_2: Answer = Answer::Passes(0x80A2_0788);

const BAD_STE: Answer = Answer::Faults(record([0x0000_0005_0000_0004, 0, 0, 0]));
const BAD_CD: Answer = Answer::Faults(record([0x0000_0005_0000_000A, 0, 0, 0]));

/// F_PERMISSION at stage 1 for [`VA`]; the attributes are word 1.
const fn forbidden(attributes: u64) -> Answer {
    Answer::Faults(stage_1_record([0x0000_0005_0000_0013, attributes, VA, 0]))
}

/// A fault at stage 2 for [`IPA`].
const fn stage_2_fault(number: u64, attributes: u64) -> Answer {
    Answer::Faults(stage_2_record([0x0000_0005_0000_0000 | number, attributes, IPA, 0x0000_00A1_2345_6000]))
}

/// An STE with stage 1 whose word 1 is this.
const fn ste_with(word_1: u64) -> [u64; 8] {
    [STE_STAGE_1[0], word_1, 0, 0, 0, 0, 0, 0]
}

/// An STE with stage 2 whose word 2 is this.
const fn ste_2_with(word_2: u64) -> [u64; 8] {
    [STE_STAGE_2[0], 0, word_2, STE_STAGE_2[3], 0, 0, 0, 0]
}

/// The scenes.
pub const FIELDS: &[Scene] = &[
    // STE.
    scene("STE.S1STALLD without stalls", ste_with(0x0000_0000_0800_00D4), &[], &[read(VA, BAD_STE)]),
    on(
        Part::Hypervisor,
        scene("STE.STRW 0b01 is reserved", ste_with(0x0000_0000_4000_00D4), &[], &[read(VA, BAD_STE)]),
    ),
    on(
        Part::Hypervisor,
        scene(
            "STE.STRW 0b10 is EL2: one privilege level, so AP[1] is not looked at, and XN is",
            ste_with(0x0000_0000_8000_00D4),
            &stage_1(CD_0, CD_1, LEVEL_1, 0x0040_0000_80A0_0703),
            &[read(VA, HOME), ask(Does::Fetches, VA, forbidden(0x0000_020C_0000_0000))],
        ),
    ),
    scene(
        "STE.PRIVCFG 0b11: an unprivileged read is privileged",
        ste_with(0x0003_0000_0000_00D4),
        &stage_1(CD_0, CD_1, LEVEL_1, 0x0060_0000_80A0_0F03),
        &[read(VA, HOME)],
    ),
    scene(
        "STE.PRIVCFG 0b10: a privileged read is not",
        ste_with(0x0002_0000_0000_00D4),
        &stage_1(CD_0, CD_1, LEVEL_1, 0x0060_0000_80A0_0F03),
        &[ask(Does::ReadsPrivileged, VA, forbidden(0x0000_0208_0000_0000))],
    ),
    scene(
        "STE.INSTCFG 0b11: a read is a fetch",
        ste_with(0x000C_0000_0000_00D4),
        &stage_1(CD_0, CD_1, LEVEL_1, PAGE),
        &[read(VA, forbidden(0x0000_020C_0000_0000)), write(VA, HOME)],
    ),
    scene(
        "STE.INSTCFG 0b10: a fetch is a read",
        ste_with(0x0008_0000_0000_00D4),
        &stage_1(CD_0, CD_1, LEVEL_1, PAGE),
        &[ask(Does::Fetches, VA, HOME)],
    ),
    on(
        Part::Narrow,
        scene("STE.S2VMID of 9 bits", ste_2_with(0x040D_3558_0000_0107), &[], &[read(IPA, BAD_STE)]),
    ),
    scene("STE.S2AA64 clear", ste_2_with(0x0405_3558_0000_0007), &[], &[read(IPA, BAD_STE)]),
    scene("STE.S2ENDI", ste_2_with(0x041D_3558_0000_0007), &[], &[read(IPA, BAD_STE)]),
    scene("STE.S2HD", ste_2_with(0x048D_3558_0000_0007), &[], &[read(IPA, BAD_STE)]),
    scene("STE.S2HA", ste_2_with(0x050D_3558_0000_0007), &[], &[read(IPA, BAD_STE)]),
    scene("STE.S2S without stalls", ste_2_with(0x060D_3558_0000_0007), &[], &[read(IPA, BAD_STE)]),
    scene(
        "STE.S2R clear: a fault is not recorded",
        ste_2_with(0x000D_3558_0000_0007),
        &[],
        &[read(IPA, Answer::Aborts)],
    ),
    scene(
        "STE.S2PS of 32 bits: an output beyond it",
        ste_2_with(0x0408_3558_0000_0007),
        &stage_2(0x0040_0001_80A2_07FF),
        &[read(IPA, stage_2_fault(0x11, 0x0000_0288_0000_0000))],
    ),
    scene(
        "STE.S2AFFD clear: AF is looked at",
        STE_STAGE_2,
        &stage_2(0x0040_0000_80A2_03FF),
        &[read(IPA, stage_2_fault(0x12, 0x0000_0288_0000_0000))],
    ),
    scene(
        "STE.S2AFFD: AF is not looked at",
        ste_2_with(0x042D_3558_0000_0007),
        &stage_2(0x0040_0000_80A2_03FF),
        &[read(IPA, HOME_2)],
    ),
    scene(
        "STE.S2PTW: a CD behind Device memory",
        [STE_NESTED[0], STE_NESTED[1], 0x044D_3558_0000_0007, STE_NESTED[3], 0, 0, 0, 0],
        &[
            (0x8008_0008, 0x0000_0000_8008_2003),
            (0x8008_2000, 0x0000_0000_8008_3003),
            // MemAttr 0b0001.
            (0x8008_3018, 0x0040_0000_8000_37C7),
        ],
        &[read(
            VA,
            Answer::Faults(stage_2_record([
                0x0000_0005_0000_0013,
                0x0000_0088_0000_0000,
                VA,
                0x0000_0000_4000_3000,
            ])),
        )],
    ),
    // Descriptors of stage 2.
    scene(
        "stage 2 XN 0b00: everybody executes",
        STE_STAGE_2,
        &stage_2(0x0000_0000_80A2_07FF),
        &[ask(Does::Fetches, IPA, HOME_2), ask(Does::FetchesPrivileged, IPA, HOME_2)],
    ),
    scene(
        "stage 2 XN 0b01: only the unprivileged execute",
        STE_STAGE_2,
        &stage_2(0x0020_0000_80A2_07FF),
        &[
            ask(Does::Fetches, IPA, HOME_2),
            ask(Does::FetchesPrivileged, IPA, stage_2_fault(0x13, 0x0000_028E_0000_0000)),
        ],
    ),
    scene(
        "stage 2 XN 0b10: nobody executes",
        STE_STAGE_2,
        &stage_2(0x0040_0000_80A2_07FF),
        &[
            ask(Does::Fetches, IPA, stage_2_fault(0x13, 0x0000_028C_0000_0000)),
            ask(Does::FetchesPrivileged, IPA, stage_2_fault(0x13, 0x0000_028E_0000_0000)),
        ],
    ),
    scene(
        "stage 2 XN 0b11: only the privileged execute",
        STE_STAGE_2,
        &stage_2(0x0060_0000_80A2_07FF),
        &[
            ask(Does::Fetches, IPA, stage_2_fault(0x13, 0x0000_028C_0000_0000)),
            ask(Does::FetchesPrivileged, IPA, HOME_2),
        ],
    ),
    // CD.
    scene(
        "CD.EPD0: no walks",
        STE_STAGE_1,
        &stage_1(0x002A_E205_C000_7519, CD_1, LEVEL_1, PAGE),
        &[read(VA, Answer::Faults(stage_1_record([0x0000_0005_0000_0010, 0x0000_0208_0000_0000, VA, 0])))],
    ),
    scene("CD.ENDI", STE_STAGE_1, &stage_1(0x002A_E205_C000_B519, CD_1, LEVEL_1, PAGE), &[read(VA, BAD_CD)]),
    scene(
        "CD.AA64 clear",
        STE_STAGE_1,
        &stage_1(0x002A_E005_C000_3519, CD_1, LEVEL_1, PAGE),
        &[read(VA, BAD_CD)],
    ),
    scene("CD.HD", STE_STAGE_1, &stage_1(0x002A_E605_C000_3519, CD_1, LEVEL_1, PAGE), &[read(VA, BAD_CD)]),
    scene("CD.HA", STE_STAGE_1, &stage_1(0x002A_EA05_C000_3519, CD_1, LEVEL_1, PAGE), &[read(VA, BAD_CD)]),
    scene("CD.S", STE_STAGE_1, &stage_1(0x002A_F205_C000_3519, CD_1, LEVEL_1, PAGE), &[read(VA, BAD_CD)]),
    on(
        Part::Narrow,
        scene(
            "CD.ASID of 16 bits",
            STE_STAGE_1,
            &stage_1(0x8000_E205_C000_3519, CD_1, LEVEL_1, PAGE),
            &[read(VA, BAD_CD)],
        ),
    ),
    on(
        Part::Narrow,
        scene(
            "CD.ASID of 8 bits",
            STE_STAGE_1,
            &stage_1(0x00FF_E205_C000_3519, CD_1, LEVEL_1, PAGE),
            &[read(VA, HOME)],
        ),
    ),
    on(
        Part::Aborting,
        scene(
            "CD.A clear where everything aborts",
            STE_STAGE_1,
            &stage_1(0x002A_A205_C000_3519, CD_1, LEVEL_1, PAGE),
            &[read(VA, BAD_CD)],
        ),
    ),
    scene(
        "CD.IPS of 36 bits: an output within it",
        STE_STAGE_1,
        &stage_1(0x002A_E201_C000_3519, CD_1, LEVEL_1, 0x0060_0008_80A0_0F43),
        &[read(VA, Answer::Passes(0x8_80A0_0ABC))],
    ),
    scene(
        "CD.AFFD: AF is not looked at",
        STE_STAGE_1,
        &stage_1(0x002A_E20D_C000_3519, CD_1, LEVEL_1, 0x0060_0000_80A0_0B43),
        &[read(VA, HOME)],
    ),
    scene(
        "CD.WXN: what may be written is not executed",
        STE_STAGE_1,
        &stage_1(0x002A_E215_C000_3519, CD_1, LEVEL_1, 0x0000_0000_80A0_0F43),
        &[write(VA, HOME), ask(Does::Fetches, VA, forbidden(0x0000_020C_0000_0000))],
    ),
    scene(
        "CD.WXN clear: it is",
        STE_STAGE_1,
        &stage_1(CD_0, CD_1, LEVEL_1, 0x0000_0000_80A0_0F43),
        &[ask(Does::Fetches, VA, HOME)],
    ),
    scene(
        "CD.PAN: the privileged do not read what the unprivileged may",
        STE_STAGE_1,
        &stage_1(0x002A_E305_C000_3519, CD_1, LEVEL_1, PAGE),
        &[read(VA, HOME), ask(Does::ReadsPrivileged, VA, forbidden(0x0000_020A_0000_0000))],
    ),
    scene(
        "CD.PAN clear: they do",
        STE_STAGE_1,
        &stage_1(CD_0, CD_1, LEVEL_1, PAGE),
        &[ask(Does::ReadsPrivileged, VA, HOME)],
    ),
    scene(
        "CD.TBI0: the top byte of a lower address is not looked at",
        STE_STAGE_1,
        &stage_1(0x002A_E245_C000_3519, CD_1, LEVEL_1, PAGE),
        &[read(0xA500_0012_3456_7ABC, HOME)],
    ),
    scene(
        "CD.TBI1: the top byte of an upper address is not looked at",
        STE_STAGE_1,
        &[
            (0x8000_3000, 0x002A_E285_B599_3519),
            (0x8000_3008, CD_1),
            (0x8000_3010, CD_1), // TTB1: the same tables
            (0x8001_0240, LEVEL_1),
            (0x8001_1D10, 0x0000_0000_8001_2003),
            (0x8001_2B38, PAGE),
        ],
        &[read(0x5AFF_FF92_3456_7ABC, HOME)],
    ),
    // Descriptors of stage 1.
    scene(
        "UXN: the unprivileged do not execute",
        STE_STAGE_1,
        &stage_1(CD_0, CD_1, LEVEL_1, 0x0040_0000_80A0_0FC3),
        &[
            ask(Does::Fetches, VA, forbidden(0x0000_020C_0000_0000)), //
            ask(Does::FetchesPrivileged, VA, HOME),
        ],
    ),
    scene(
        "PXN: the privileged do not execute",
        STE_STAGE_1,
        &stage_1(CD_0, CD_1, LEVEL_1, 0x0020_0000_80A0_0FC3),
        &[
            ask(Does::Fetches, VA, HOME), //
            ask(Does::FetchesPrivileged, VA, forbidden(0x0000_020E_0000_0000)),
        ],
    ),
    scene(
        "APTable[0], bit 61: nothing for the unprivileged",
        STE_STAGE_1,
        &stage_1(CD_0, CD_1, 0x2000_0000_8001_1003, PAGE),
        &[read(VA, forbidden(0x0000_0208_0000_0000)), ask(Does::ReadsPrivileged, VA, HOME)],
    ),
    scene(
        "APTable[1], bit 62: no writes",
        STE_STAGE_1,
        &stage_1(CD_0, CD_1, 0x4000_0000_8001_1003, PAGE),
        &[read(VA, HOME), write(VA, forbidden(0x0000_0200_0000_0000))],
    ),
    scene(
        "UXNTable, bit 60: the unprivileged do not execute",
        STE_STAGE_1,
        &stage_1(CD_0, CD_1, 0x1000_0000_8001_1003, TEXT),
        &[
            ask(Does::Fetches, VA, forbidden(0x0000_020C_0000_0000)), //
            ask(Does::FetchesPrivileged, VA, HOME),
        ],
    ),
    scene(
        "PXNTable, bit 59: the privileged do not execute",
        STE_STAGE_1,
        &stage_1(CD_0, CD_1, 0x0800_0000_8001_1003, TEXT),
        &[
            ask(Does::Fetches, VA, HOME), //
            ask(Does::FetchesPrivileged, VA, forbidden(0x0000_020E_0000_0000)),
        ],
    ),
    scene(
        "CD.HAD0: what table descriptors forbid does not count",
        STE_STAGE_1,
        &stage_1(CD_0, 0x0000_0000_8001_0002, 0x7800_0000_8001_1003, 0x0000_0000_80A0_0F43),
        &[write(VA, HOME), ask(Does::Fetches, VA, HOME)],
    ),
    // What tags a cached translation.
    scene("two VMIDs that differ in bit 0 alone", ste_2_with(0x040D_3558_0000_0006), TWO_VMIDS, IN_TURN_2),
    scene("two ASIDs that differ in bit 15 alone", STE_STAGE_1, TWO_ASIDS, IN_TURN),
    scene("global translations of two ASETs", STE_STAGE_1, TWO_ASETS, IN_TURN),
];

/// [`VA`] for one stream after the other.
const IN_TURN: &[Ask] =
    &[read(VA, HOME), Ask { stream: 6, ..read(VA, Answer::Passes(0x80A1_0ABC)) }, read(VA, HOME)];
/// [`IPA`] for one stream after the other.
const IN_TURN_2: &[Ask] =
    &[read(IPA, HOME_2), Ask { stream: 6, ..read(IPA, Answer::Passes(0x80A3_0788)) }, read(IPA, HOME_2)];

/// Stream 6 has VMID 7, and tables of its own.
const TWO_VMIDS: &[(u64, u64)] = &[
    (0x8000_0180, 0x0000_0000_0000_000D),
    (0x8000_0190, 0x040D_3558_0000_0007),
    (0x8000_0198, 0x0000_0000_8009_0000),
    (0x8008_1420, 0x0000_0000_8008_2003),
    (0x8008_28D0, 0x0000_0000_8008_3003),
    (0x8008_32B0, 0x0040_0000_80A2_07FF),
    (0x8009_1420, 0x0000_0000_8009_2003),
    (0x8009_28D0, 0x0000_0000_8009_3003),
    (0x8009_32B0, 0x0040_0000_80A3_07FF),
];

/// Stream 6 has a CD of its own at 0x8000_3040, with ASID 0x802A, and tables of its own.
const TWO_ASIDS: &[(u64, u64)] = &[
    (0x8000_0180, 0x0000_0000_8000_304B),
    (0x8000_0188, 0x0000_0000_0000_00D4),
    (0x8000_3000, CD_0),
    (0x8000_3008, CD_1),
    (0x8000_3040, 0x802A_E205_C000_3519),
    (0x8000_3048, 0x0000_0000_8002_0000),
    (0x8001_0240, LEVEL_1),
    (0x8001_1D10, 0x0000_0000_8001_2003),
    (0x8001_2B38, PAGE),
    (0x8002_0240, 0x0000_0000_8002_1003),
    (0x8002_1D10, 0x0000_0000_8002_2003),
    (0x8002_2B38, 0x0060_0000_80A1_0F43),
];

/// The same with ASID 0x2C and ASET 0 for stream 6, and nG clear in both pages.
const TWO_ASETS: &[(u64, u64)] = &[
    (0x8000_0180, 0x0000_0000_8000_304B),
    (0x8000_0188, 0x0000_0000_0000_00D4),
    (0x8000_3000, CD_0),
    (0x8000_3008, CD_1),
    (0x8000_3040, 0x002C_6205_C000_3519),
    (0x8000_3048, 0x0000_0000_8002_0000),
    (0x8001_0240, LEVEL_1),
    (0x8001_1D10, 0x0000_0000_8001_2003),
    (0x8001_2B38, 0x0060_0000_80A0_0743),
    (0x8002_0240, 0x0000_0000_8002_1003),
    (0x8002_1D10, 0x0000_0000_8002_2003),
    (0x8002_2B38, 0x0060_0000_80A1_0743),
];
