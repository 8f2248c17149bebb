//! Entries of the tables in memory.

use super::super::{Field, Table, f, table};

/// Root entry.
pub const ROOT: Table = table(
    "root-entry",
    "9.1 Root Entry",
    &[f("P", 0, 0, 0x0000_0000_0000_0001), f("CTP", 63, 12, 0xffff_ffff_ffff_f000)],
    &[0x0000_0000_0000_0ffe, 0xffff_ffff_ffff_ffff],
);

/// Scalable-mode root entry.
pub const SCALABLE_ROOT: Table = table(
    "scalable-mode root-entry",
    "9.2 Scalable-mode Root Entry",
    &[
        f("LP", 0, 0, 0x0000_0000_0000_0001),
        f("LCTP", 63, 12, 0xffff_ffff_ffff_f000),
        f("UP", 64, 64, 0x0000_0000_0000_0001),
        f("UCTP", 127, 76, 0xffff_ffff_ffff_f000),
    ],
    &[0x0000_0000_0000_0ffe, 0x0000_0000_0000_0ffe],
);

/// Context entry.
pub const CONTEXT: Table = table(
    "context-entry",
    "9.3 Context Entry",
    &[
        f("P", 0, 0, 0x0000_0000_0000_0001),
        f("FPD", 1, 1, 0x0000_0000_0000_0002),
        f("TT", 3, 2, 0x0000_0000_0000_000c),
        f("SSPTPTR", 63, 12, 0xffff_ffff_ffff_f000),
        f("AW", 66, 64, 0x0000_0000_0000_0007),
        f("IGN", 70, 67, 0x0000_0000_0000_0078),
        f("DID", 87, 72, 0x0000_0000_00ff_ff00),
    ],
    &[0x0000_0000_0000_0ff0, 0xffff_ffff_ff00_0080],
);

/// Scalable-mode context entry.
pub const SCALABLE_CONTEXT: Table = table(
    "scalable-mode context-entry",
    "9.4 Scalable-Mode Context-Entry",
    &[
        f("P", 0, 0, 0x0000_0000_0000_0001),
        f("FPD", 1, 1, 0x0000_0000_0000_0002),
        f("DTE", 2, 2, 0x0000_0000_0000_0004),
        f("PASIDE", 3, 3, 0x0000_0000_0000_0008),
        f("PRE", 4, 4, 0x0000_0000_0000_0010),
        f("HPTE", 5, 5, 0x0000_0000_0000_0020),
        f("EPTR", 6, 6, 0x0000_0000_0000_0040),
        f("PDTS", 11, 9, 0x0000_0000_0000_0e00),
        f("PASIDDIRPTR", 63, 12, 0xffff_ffff_ffff_f000),
        f("RID_PASID", 83, 64, 0x0000_0000_000f_ffff),
        f("RID_PRIV", 84, 84, 0x0000_0000_0010_0000),
    ],
    &[0x0000_0000_0000_0180, 0xffff_ffff_ffe0_0000, 0xffff_ffff_ffff_ffff, 0xffff_ffff_ffff_ffff],
);

/// Scalable-mode PASID directory entry.
pub const PASID_DIRECTORY: Table = table(
    "scalable-mode PASID directory entry",
    "9.5 Scalable-Mode PASID Directory Entry",
    &[
        f("P", 0, 0, 0x0000_0000_0000_0001),
        f("FPD", 1, 1, 0x0000_0000_0000_0002),
        f("SMPTBLPTR", 63, 12, 0xffff_ffff_ffff_f000),
    ],
    &[0x0000_0000_0000_0ffc],
);

/// Scalable-mode PASID table entry.
pub const PASID_TABLE: Table = table(
    "scalable-mode PASID table entry",
    "9.6 Scalable-Mode PASID Table Entry",
    &[
        f("P", 0, 0, 0x0000_0000_0000_0001),
        f("FPD", 1, 1, 0x0000_0000_0000_0002),
        f("AW", 4, 2, 0x0000_0000_0000_001c),
        f("PGTT", 8, 6, 0x0000_0000_0000_01c0),
        f("SSADE", 9, 9, 0x0000_0000_0000_0200),
        f("SSPTPTR", 63, 12, 0xffff_ffff_ffff_f000),
        f("DID", 79, 64, 0x0000_0000_0000_ffff),
        f("PWSNP", 87, 87, 0x0000_0000_0080_0000),
        f("PGSNP", 88, 88, 0x0000_0000_0100_0000),
        f("CD", 89, 89, 0x0000_0000_0200_0000),
        f("EMTE", 90, 90, 0x0000_0000_0400_0000),
        f("PAT", 127, 96, 0xffff_ffff_0000_0000),
        f("SRE", 128, 128, 0x0000_0000_0000_0001),
        f("FSPM", 131, 130, 0x0000_0000_0000_000c),
        f("WPE", 132, 132, 0x0000_0000_0000_0010),
        f("IGN", 134, 133, 0x0000_0000_0000_0060),
        f("EAFE", 135, 135, 0x0000_0000_0000_0080),
        f("FSPTPTR", 191, 140, 0xffff_ffff_ffff_f000),
        f("HPTSZ", 257, 256, 0x0000_0000_0000_0003),
        f("HPTPFD", 258, 258, 0x0000_0000_0000_0004),
        f("HPTPTR", 319, 268, 0xffff_ffff_ffff_f000),
        f("HPTDID", 335, 320, 0x0000_0000_0000_ffff),
    ],
    &[
        0x0000_0000_0000_0c20,
        0x0000_0000_f87f_0000,
        0x0000_0000_0000_0f02,
        0xffff_ffff_ffff_ffff,
        0x0000_0000_0000_0ff8,
        0xffff_ffff_ffff_0000,
        0xffff_ffff_ffff_ffff,
        0xffff_ffff_ffff_ffff,
    ],
);

/// Interrupt remapping table entry, remapped.
pub const IRTE: Table = table(
    "IRTE, remapped",
    "9.9 Interrupt Remapping Table Entry (IRTE) for Remapped Interrupts",
    &[
        f("P", 0, 0, 0x0000_0000_0000_0001),
        f("FPD", 1, 1, 0x0000_0000_0000_0002),
        f("DM", 2, 2, 0x0000_0000_0000_0004),
        f("RH", 3, 3, 0x0000_0000_0000_0008),
        f("TM", 4, 4, 0x0000_0000_0000_0010),
        f("DLM", 7, 5, 0x0000_0000_0000_00e0),
        f("AVAIL", 11, 8, 0x0000_0000_0000_0f00),
        f("IM", 15, 15, 0x0000_0000_0000_8000),
        f("V", 23, 16, 0x0000_0000_00ff_0000),
        f("DST", 63, 32, 0xffff_ffff_0000_0000),
        f("SID", 79, 64, 0x0000_0000_0000_ffff),
        f("SQ", 81, 80, 0x0000_0000_0003_0000),
        f("SVT", 83, 82, 0x0000_0000_000c_0000),
    ],
    &[0x0000_0000_ff00_7000, 0xffff_ffff_fff0_0000],
);

/// Interrupt remapping table entry, posted.
pub const IRTE_POSTED: Table = table(
    "IRTE, posted",
    "9.10 Interrupt Remapping Table Entry (IRTE) for Posted Interrupts",
    &[
        f("P", 0, 0, 0x0000_0000_0000_0001),
        f("FPD", 1, 1, 0x0000_0000_0000_0002),
        f("AVAIL", 11, 8, 0x0000_0000_0000_0f00),
        f("URG", 14, 14, 0x0000_0000_0000_4000),
        f("IM", 15, 15, 0x0000_0000_0000_8000),
        f("VV", 23, 16, 0x0000_0000_00ff_0000),
        f("PDAL", 63, 38, 0xffff_ffc0_0000_0000),
        f("SID", 79, 64, 0x0000_0000_0000_ffff),
        f("SQ", 81, 80, 0x0000_0000_0003_0000),
        f("SVT", 83, 82, 0x0000_0000_000c_0000),
        f("PDAH", 127, 96, 0xffff_ffff_0000_0000),
    ],
    &[0x0000_003f_ff00_30fc, 0x0000_0000_fff0_0000],
);

/// The address of an interrupt request in remappable format, 32 bits. Bits 1:0 are no field, and ignored.
pub const REMAPPABLE: Table = table(
    "remappable interrupt request",
    "5.1.2.2 Interrupt Requests in Remappable Format",
    &[
        f("Handle[15]", 2, 2, 0x0000_0004),
        f("SHV", 3, 3, 0x0000_0008),
        f("Interrupt Format", 4, 4, 0x0000_0010),
        f("Handle[14:0]", 19, 5, 0x000f_ffe0),
        f("Interrupt Identifier", 31, 20, 0xfff0_0000),
    ],
    &[0x0000_0003],
);

/// First-stage leaf, apart from the address.
///
/// Spec: VT-d 5.10, 9.7 "First-Stage Paging Entries", Tables 36, 38 and 40.
pub const FS_LEAF: &[Field] = &[
    f("P", 0, 0, 0x0000_0000_0000_0001),
    f("R/W", 1, 1, 0x0000_0000_0000_0002),
    f("U/S", 2, 2, 0x0000_0000_0000_0004),
    f("PWT", 3, 3, 0x0000_0000_0000_0008),
    f("PCD", 4, 4, 0x0000_0000_0000_0010),
    f("A", 5, 5, 0x0000_0000_0000_0020),
    f("D", 6, 6, 0x0000_0000_0000_0040),
    f("PS", 7, 7, 0x0000_0000_0000_0080),
    f("EA", 10, 10, 0x0000_0000_0000_0400),
    f("XD", 63, 63, 0x8000_0000_0000_0000),
];

/// Second-stage leaf, apart from the address.
///
/// Spec: VT-d 5.10, 9.8 "Second-Stage Paging Entries", Tables 43, 45 and 47.
pub const SS_LEAF: &[Field] = &[
    f("R", 0, 0, 0x0000_0000_0000_0001),
    f("W", 1, 1, 0x0000_0000_0000_0002),
    f("EMT", 5, 3, 0x0000_0000_0000_0038),
    f("IPAT", 6, 6, 0x0000_0000_0000_0040),
    f("PS", 7, 7, 0x0000_0000_0000_0080),
    f("A", 8, 8, 0x0000_0000_0000_0100),
    f("D", 9, 9, 0x0000_0000_0000_0200),
    f("SNP", 11, 11, 0x0000_0000_0000_0800),
];
