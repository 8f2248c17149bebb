//! The global address space.

use super::super::{Table, f, table};

/// Offset of each register that is used, from the start of Global Register Space 0. Spec: SMMUv2 D.c, Table 9-1.
pub const GLOBAL_OFFSETS: &[(&str, usize)] = &[
    ("SMMU_CR0", 0x000),
    ("SMMU_ACR", 0x010),
    ("SMMU_IDR0", 0x020),
    ("SMMU_IDR1", 0x024),
    ("SMMU_IDR2", 0x028),
    ("SMMU_IDR7", 0x03c),
    ("SMMU_GFAR", 0x040),
    ("SMMU_GFSR", 0x048),
    ("SMMU_GFSYNR0", 0x050),
    ("SMMU_GFSYNR1", 0x054),
    ("SMMU_GFSYNR2", 0x058),
    ("SMMU_TLBIVMID", 0x064),
    ("SMMU_TLBIALLNSNH", 0x068),
    ("SMMU_TLBIALLH", 0x06c),
    ("SMMU_TLBGSYNC", 0x070),
    ("SMMU_TLBGSTATUS", 0x074),
    ("SMMU_TLBIVMIDS1", 0x0b8),
    ("SMMU_SMR0", 0x800),
    ("SMMU_SMR1", 0x804),
    ("SMMU_S2CR0", 0xc00),
    ("SMMU_S2CR1", 0xc04),
];

/// SMMU_IDR0.
pub const IDR0: Table = table(
    "SMMU_IDR0",
    "9.6.1 SMMU_IDR0-7, Identification registers",
    &[
        f("NUMSMRG", 7, 0, 0x0000_00ff),
        f("EXIDS", 8, 8, 0x0000_0100),
        f("NUMSIDB", 12, 9, 0x0000_1e00),
        f("BTM", 13, 13, 0x0000_2000),
        f("CTTW", 14, 14, 0x0000_4000),
        f("EXSMRGS", 15, 15, 0x0000_8000),
        f("NUMIRPT", 23, 16, 0x00ff_0000),
        f("PTFS", 25, 24, 0x0300_0000),
        f("ATOSNS", 26, 26, 0x0400_0000),
        f("SMS", 27, 27, 0x0800_0000),
        f("NTS", 28, 28, 0x1000_0000),
        f("S2TS", 29, 29, 0x2000_0000),
        f("S1TS", 30, 30, 0x4000_0000),
        f("SES", 31, 31, 0x8000_0000),
    ],
    &[0],
);

/// SMMU_IDR1.
pub const IDR1: Table = table(
    "SMMU_IDR1",
    "9.6.1 SMMU_IDR0-7, Identification registers",
    &[
        f("NUMCB", 7, 0, 0x0000_00ff),
        f("NUMSSDNDXB", 11, 8, 0x0000_0f00),
        f("SSDTP", 13, 12, 0x0000_3000),
        f("SMCD", 15, 15, 0x0000_8000),
        f("NUMS2CB", 23, 16, 0x00ff_0000),
        f("HAFDBS", 25, 24, 0x0300_0000),
        f("NUMPAGENDXB", 30, 28, 0x7000_0000),
        f("PAGESIZE", 31, 31, 0x8000_0000),
    ],
    &[0x0c00_4000],
);

/// SMMU_IDR2.
pub const IDR2: Table = table(
    "SMMU_IDR2",
    "9.6.1 SMMU_IDR0-7, Identification registers",
    &[
        f("IAS", 3, 0, 0x0000_000f),
        f("OAS", 7, 4, 0x0000_00f0),
        f("UBS", 11, 8, 0x0000_0f00),
        f("PTFSv8_4kB", 12, 12, 0x0000_1000),
        f("PTFSv8_16kB", 13, 13, 0x0000_2000),
        f("PTFSv8_64kB", 14, 14, 0x0000_4000),
        f("VMID16S", 15, 15, 0x0000_8000),
        f("EXNUMSMRG", 26, 16, 0x07ff_0000),
        f("E2HS", 27, 27, 0x0800_0000),
        f("HADS", 28, 28, 0x1000_0000),
        f("COMPINDEXS", 29, 29, 0x2000_0000),
        f("DIPANS", 30, 30, 0x4000_0000),
    ],
    &[0x8000_0000],
);

/// SMMU_IDR7.
pub const IDR7: Table = table(
    "SMMU_IDR7",
    "9.6.1 SMMU_IDR0-7, Identification registers",
    &[f("MINOR", 3, 0, 0x0000_000f), f("MAJOR", 7, 4, 0x0000_00f0)],
    &[0xffff_ff00],
);

/// SMMU_CR0.
pub const CR0: Table = table(
    "SMMU_CR0",
    "9.6.3 SMMU_sCR0, Configuration Register 0",
    &[
        f("CLIENTPD", 0, 0, 0x0000_0001),
        f("GFRE", 1, 1, 0x0000_0002),
        f("GFIE", 2, 2, 0x0000_0004),
        f("EXIDENABLE", 3, 3, 0x0000_0008),
        f("GCFGFRE", 4, 4, 0x0000_0010),
        f("GCFGFIE", 5, 5, 0x0000_0020),
        f("TRANSIENTCFG", 7, 6, 0x0000_00c0),
        f("STALLD", 8, 8, 0x0000_0100),
        f("GSE", 9, 9, 0x0000_0200),
        f("USFCFG", 10, 10, 0x0000_0400),
        f("VMIDPNE", 11, 11, 0x0000_0800),
        f("PTM", 12, 12, 0x0000_1000),
        f("FB", 13, 13, 0x0000_2000),
        f("BSU", 15, 14, 0x0000_c000),
        f("MemAttr", 19, 16, 0x000f_0000),
        f("MTCFG", 20, 20, 0x0010_0000),
        f("SMCFCFG", 21, 21, 0x0020_0000),
        f("SHCFG", 23, 22, 0x00c0_0000),
        f("RACFG", 25, 24, 0x0300_0000),
        f("WACFG", 27, 26, 0x0c00_0000),
        f("HYPMODE", 30, 30, 0x4000_0000),
        f("VMID16EN", 31, 31, 0x8000_0000),
    ],
    &[0x3000_0000],
);

/// SMMU_GFSR.
pub const GFSR: Table = table(
    "SMMU_GFSR",
    "9.6.15 SMMU_sGFSR, Global Fault Status Register",
    &[
        f("ICF", 0, 0, 0x0000_0001),
        f("USF", 1, 1, 0x0000_0002),
        f("SMCF", 2, 2, 0x0000_0004),
        f("UCBF", 3, 3, 0x0000_0008),
        f("UCIF", 4, 4, 0x0000_0010),
        f("CAF", 5, 5, 0x0000_0020),
        f("EF", 6, 6, 0x0000_0040),
        f("PF", 7, 7, 0x0000_0080),
        f("UUT", 8, 8, 0x0000_0100),
        f("MULTI", 31, 31, 0x8000_0000),
    ],
    &[0x7fff_fe00],
);

/// SMMU_GFSYNR0.
pub const GFSYNR0: Table = table(
    "SMMU_GFSYNR0",
    "9.6.17 SMMU_sGFSYNR0, Global Fault Syndrome Register 0",
    &[
        f("Nested", 0, 0, 0x0000_0001),
        f("WNR", 1, 1, 0x0000_0002),
        f("PNU", 2, 2, 0x0000_0004),
        f("IND", 3, 3, 0x0000_0008),
        f("NSSTATE", 4, 4, 0x0000_0010),
        f("NSATTR", 5, 5, 0x0000_0020),
        f("ATS", 6, 6, 0x0000_0040),
    ],
    &[0xffff_0080],
);

/// SMMU_TLBGSTATUS.
pub const TLBGSTATUS: Table = table(
    "SMMU_TLBGSTATUS",
    "9.6.21 SMMU_sTLBGSTATUS, Global TLB Status register",
    &[f("GSACTIVE", 0, 0, 0x0000_0001)],
    &[0xffff_fffe],
);

/// SMMU_S2CRn of a translation context.
pub const S2CR: Table = table(
    "SMMU_S2CRn",
    "9.6.23 SMMU_S2CRn, Stream-to-Context Register",
    &[
        f("CBNDX", 7, 0, 0x0000_00ff),
        f("SHCFG", 9, 8, 0x0000_0300),
        f("EXIDVALID", 10, 10, 0x0000_0400),
        f("MTCFG", 11, 11, 0x0000_0800),
        f("MemAttr", 15, 12, 0x0000_f000),
        f("TYPE", 17, 16, 0x0003_0000),
        f("NSCFG", 19, 18, 0x000c_0000),
        f("RACFG", 21, 20, 0x0030_0000),
        f("WACFG", 23, 22, 0x00c0_0000),
        f("PRIVCFG", 25, 24, 0x0300_0000),
        f("INSTCFG", 27, 26, 0x0c00_0000),
        f("TRANSIENTCFG", 29, 28, 0x3000_0000),
    ],
    &[0xc000_0000],
);

/// SMMU_SMRn where SMMU_CR0.EXIDENABLE is 0.
pub const SMR: Table = table(
    "SMMU_SMRn",
    "9.6.25 SMMU_SMRn, Stream Match Register",
    &[f("ID", 14, 0, 0x0000_7fff), f("MASK", 30, 16, 0x7fff_0000), f("VALID", 31, 31, 0x8000_0000)],
    &[0x0000_8000],
);

/// SMMU_SMRn where SMMU_CR0.EXIDENABLE is 1.
pub const EXTENDED_SMR: Table = table(
    "SMMU_SMRn, extended",
    "9.6.25 SMMU_SMRn, Stream Match Register",
    &[f("EXID", 15, 0, 0x0000_ffff), f("EXMASK", 31, 16, 0xffff_0000)],
    &[0],
);

/// SMMU_CBARn of stage 1 with stage 2 bypass.
pub const CBAR: Table = table(
    "SMMU_CBARn",
    "10.2.1 SMMU_CBARn, Context Bank Attribute Registers",
    &[
        f("VMID", 7, 0, 0x0000_00ff),
        f("BPSHCFG", 9, 8, 0x0000_0300),
        f("HYPC", 10, 10, 0x0000_0400),
        f("FB", 11, 11, 0x0000_0800),
        f("MemAttr", 15, 12, 0x0000_f000),
        f("TYPE", 17, 16, 0x0003_0000),
        f("BSU", 19, 18, 0x000c_0000),
        f("RACFG", 21, 20, 0x0030_0000),
        f("WACFG", 23, 22, 0x00c0_0000),
        f("IRPTNDX", 31, 24, 0xff00_0000),
    ],
    &[0],
);

/// SMMU_CBARn of stage 1 followed by stage 2.
pub const NESTED_CBAR: Table = table(
    "SMMU_CBARn, nested",
    "10.2.1 SMMU_CBARn, Context Bank Attribute Registers",
    &[
        f("VMID", 7, 0, 0x0000_00ff),
        f("CBNDX", 15, 8, 0x0000_ff00),
        f("TYPE", 17, 16, 0x0003_0000),
        f("IRPTNDX", 31, 24, 0xff00_0000),
    ],
    &[0x00fc_0000],
);

/// SMMU_CBA2Rn.
pub const CBA2R: Table = table(
    "SMMU_CBA2Rn",
    "10.2.2 SMMU_CBA2Rn, Context Bank Attribute Registers",
    &[f("VA64", 0, 0, 0x0000_0001), f("MONC", 1, 1, 0x0000_0002), f("VMID16", 31, 16, 0xffff_0000)],
    &[0x0000_fffc],
);

/// SMMU_CBFRSYNRAn, and SMMU_GFSYNR1.
pub const CBFRSYNRA: Table = table(
    "SMMU_CBFRSYNRAn",
    "10.2.3 SMMU_CBFRSYNRAn, Context Bank Fault Restricted Syndrome Register A",
    &[f("StreamID", 15, 0, 0x0000_ffff), f("SSD_Index", 31, 16, 0xffff_0000)],
    &[0],
);

/// SMMU_ACR of an MMU-500: the fields that are used.
pub const ACR: Table = table(
    "SMMU_ACR",
    "MMU-500, 3.5.1 Auxiliary Configuration registers",
    &[
        f("SMTNMB_TLBEN", 8, 8, 0x0000_0100),
        f("MMUDISB_TLBEN", 9, 9, 0x0000_0200),
        f("S2CRB_TLBEN", 10, 10, 0x0000_0400),
        f("CACHE_LOCK", 26, 26, 0x0400_0000),
    ],
    &[0],
);

/// SMMU_CBn_ACTLR of an MMU-500.
pub const ACTLR: Table = table(
    "SMMU_CBn_ACTLR",
    "MMU-500, Auxiliary Control registers",
    &[f("CMTLB", 0, 0, 0x0000_0001), f("CPRE", 1, 1, 0x0000_0002)],
    &[0],
);
