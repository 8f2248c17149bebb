//! Translation context banks.

use super::super::{Table, f, table};

/// Offset of each register that is used, from the start of a bank. Spec: SMMUv2 D.c, Tables 16-1 and 17-1.
pub const BANK_OFFSETS: &[(&str, usize)] = &[
    ("SMMU_CBn_SCTLR", 0x000),
    ("SMMU_CBn_ACTLR", 0x004),
    ("SMMU_CBn_RESUME", 0x008),
    ("SMMU_CBn_TCR2", 0x010),
    ("SMMU_CBn_TTBR0", 0x020),
    ("SMMU_CBn_TTBR1", 0x028),
    ("SMMU_CBn_TCR", 0x030),
    ("SMMU_CBn_MAIR0", 0x038),
    ("SMMU_CBn_MAIR1", 0x03c),
    ("SMMU_CBn_FSR", 0x058),
    ("SMMU_CBn_FAR", 0x060),
    ("SMMU_CBn_FSYNR0", 0x068),
    ("SMMU_CBn_FSYNR1", 0x06c),
    ("SMMU_CBn_IPAFAR", 0x070),
    ("SMMU_CBn_TLBIVA", 0x600),
    ("SMMU_CBn_TLBIVAA", 0x608),
    ("SMMU_CBn_TLBIASID", 0x610),
    ("SMMU_CBn_TLBIALL", 0x618),
    ("SMMU_CBn_TLBIVAL", 0x620),
    ("SMMU_CBn_TLBIVAAL", 0x628),
    ("SMMU_CBn_TLBIIPAS2", 0x630),
    ("SMMU_CBn_TLBIIPAS2L", 0x638),
    ("SMMU_CBn_TLBSYNC", 0x7f0),
    ("SMMU_CBn_TLBSTATUS", 0x7f4),
];

/// SMMU_CBn_SCTLR of stage 1.
pub const SCTLR: Table = table(
    "SMMU_CBn_SCTLR",
    "16.5.29 SMMU_CBn_SCTLR, System Control Register",
    &[
        f("M", 0, 0, 0x0000_0001),
        f("TRE", 1, 1, 0x0000_0002),
        f("AFE", 2, 2, 0x0000_0004),
        f("AFFD", 3, 3, 0x0000_0008),
        f("E", 4, 4, 0x0000_0010),
        f("CFRE", 5, 5, 0x0000_0020),
        f("CFIE", 6, 6, 0x0000_0040),
        f("CFCFG", 7, 7, 0x0000_0080),
        f("HUPCF", 8, 8, 0x0000_0100),
        f("WXN", 9, 9, 0x0000_0200),
        f("UWXN", 10, 10, 0x0000_0400),
        f("ASIDPNE", 12, 12, 0x0000_1000),
        f("TRANSIENTCFG", 15, 14, 0x0000_c000),
        f("MemAttr", 19, 16, 0x000f_0000),
        f("MTCFG", 20, 20, 0x0010_0000),
        f("SHCFG", 23, 22, 0x00c0_0000),
        f("RACFG", 25, 24, 0x0300_0000),
        f("WACFG", 27, 26, 0x0c00_0000),
        f("NSCFG", 29, 28, 0x3000_0000),
        f("UCI", 30, 30, 0x4000_0000),
    ],
    &[0x8020_2800],
);

/// SMMU_CBn_TCR of stage 1, AArch64's scheme.
pub const TCR: Table = table(
    "SMMU_CBn_TCR",
    "16.5.38 SMMU_CBn_TCR, Translation Control Register",
    &[
        f("T0SZ", 5, 0, 0x0000_003f),
        f("EPD0", 7, 7, 0x0000_0080),
        f("IRGN0", 9, 8, 0x0000_0300),
        f("ORGN0", 11, 10, 0x0000_0c00),
        f("SH0", 13, 12, 0x0000_3000),
        f("TG0", 15, 14, 0x0000_c000),
        f("T1SZ", 21, 16, 0x003f_0000),
        f("A1", 22, 22, 0x0040_0000),
        f("EPD1", 23, 23, 0x0080_0000),
        f("IRGN1", 25, 24, 0x0300_0000),
        f("ORGN1", 27, 26, 0x0c00_0000),
        f("SH1", 29, 28, 0x3000_0000),
        f("TG1", 31, 30, 0xc000_0000),
    ],
    &[0x0000_0040],
);

/// SMMU_CBn_TCR of stage 2, AArch64's scheme.
pub const STAGE2_TCR: Table = table(
    "SMMU_CBn_TCR, stage 2",
    "17.3.8 SMMU_CBn_TCR, Translation Control Register",
    &[
        f("T0SZ", 5, 0, 0x0000_003f),
        f("SL0", 7, 6, 0x0000_00c0),
        f("IRGN0", 9, 8, 0x0000_0300),
        f("ORGN0", 11, 10, 0x0000_0c00),
        f("SH0", 13, 12, 0x0000_3000),
        f("TG0", 15, 14, 0x0000_c000),
        f("PASize", 18, 16, 0x0007_0000),
        f("HA", 21, 21, 0x0020_0000),
        f("HD", 22, 22, 0x0040_0000),
    ],
    &[0xff98_0000],
);

/// SMMU_CBn_TCR2.
pub const TCR2: Table = table(
    "SMMU_CBn_TCR2",
    "16.5.39 SMMU_CBn_TCR2, Translation Control Register 2",
    &[
        f("PASize", 2, 0, 0x0000_0007),
        f("AS", 4, 4, 0x0000_0010),
        f("TBI0", 5, 5, 0x0000_0020),
        f("TBI1", 6, 6, 0x0000_0040),
        f("HAD0", 8, 8, 0x0000_0100),
        f("HAD1", 9, 9, 0x0000_0200),
        f("HA", 10, 10, 0x0000_0400),
        f("HD", 11, 11, 0x0000_0800),
        f("NSCFG0", 14, 14, 0x0000_4000),
        f("SEP", 17, 15, 0x0003_8000),
        f("NSCFG1", 30, 30, 0x4000_0000),
    ],
    &[0xbffc_3088],
);

/// SMMU_CBn_TTBRm, AArch64's scheme.
pub const TTBR: Table = table(
    "SMMU_CBn_TTBRm",
    "16.5.40 SMMU_CBn_TTBRm, Translation Table Base Registers",
    &[f("Base address", 47, 0, 0x0000_ffff_ffff_ffff), f("ASID", 63, 48, 0xffff_0000_0000_0000)],
    &[0],
);

/// SMMU_CBn_FSR.
pub const FSR: Table = table(
    "SMMU_CBn_FSR",
    "16.5.9 SMMU_CBn_FSR, Fault Status Register",
    &[
        f("TF", 1, 1, 0x0000_0002),
        f("AFF", 2, 2, 0x0000_0004),
        f("PF", 3, 3, 0x0000_0008),
        f("EF", 4, 4, 0x0000_0010),
        f("TLBMCF", 5, 5, 0x0000_0020),
        f("TLBLKF", 6, 6, 0x0000_0040),
        f("ASF", 7, 7, 0x0000_0080),
        f("UUT", 8, 8, 0x0000_0100),
        f("Format", 10, 9, 0x0000_0600),
        f("SS", 30, 30, 0x4000_0000),
        f("MULTI", 31, 31, 0x8000_0000),
    ],
    &[0x3fff_f801],
);

/// SMMU_CBn_FSYNR0 of stage 2.
pub const FSYNR0: Table = table(
    "SMMU_CBn_FSYNR0",
    "17.3.1 SMMU_CBn_FSYNRn, Fault Syndrome Registers",
    &[
        f("PLVL", 1, 0, 0x0000_0003),
        f("NESTED", 2, 2, 0x0000_0004),
        f("S1PTWF", 3, 3, 0x0000_0008),
        f("WNR", 4, 4, 0x0000_0010),
        f("PNU", 5, 5, 0x0000_0020),
        f("IND", 6, 6, 0x0000_0040),
        f("NSATTR", 8, 8, 0x0000_0100),
        f("ATOF", 9, 9, 0x0000_0200),
        f("PTWF", 10, 10, 0x0000_0400),
        f("AFR", 11, 11, 0x0000_0800),
        f("S1CBNDX", 23, 16, 0x00ff_0000),
    ],
    &[0xff00_f080],
);

/// SMMU_CBn_TLBIVA and SMMU_CBn_TLBIVAL, AArch64's scheme.
pub const TLBIVA: Table = table(
    "SMMU_CBn_TLBIVA",
    "16.5.32 SMMU_CBn_TLBIVA, TLB Invalidate by VA",
    &[f("Address[55:12]", 43, 0, 0x0000_0fff_ffff_ffff), f("ASID", 63, 48, 0xffff_0000_0000_0000)],
    &[0x0000_f000_0000_0000],
);

/// SMMU_CBn_TLBIIPAS2 and SMMU_CBn_TLBIIPAS2L.
pub const TLBIIPAS2: Table = table(
    "SMMU_CBn_TLBIIPAS2",
    "17.3.4 SMMU_CBn_TLBIIPAS2, Invalidate TLB by IPA",
    &[f("Address[47:12]", 35, 0, 0x0000_000f_ffff_ffff)],
    &[0xffff_fff0_0000_0000],
);

/// SMMU_CBn_TLBSTATUS.
pub const TLBSTATUS: Table = table(
    "SMMU_CBn_TLBSTATUS",
    "16.5.36 SMMU_CBn_TLBSTATUS, TLB Status",
    &[f("SACTIVE", 0, 0, 0x0000_0001)],
    &[0xffff_fffe],
);
