//! Registers, and where they are.

use super::super::{Field, Table, f, table};

/// Offset and size in bytes of each register that is used, by the book's abbreviation.
///
/// Spec: VT-d 5.10, 11.4 "Register Descriptions".
pub const OFFSETS: &[(&str, usize)] = &[
    ("VER_REG", 0x000),
    ("CAP_REG", 0x008),
    ("ECAP_REG", 0x010),
    ("GCMD_REG", 0x018),
    ("GSTS_REG", 0x01c),
    ("RTADDR_REG", 0x020),
    ("CCMD_REG", 0x028),
    ("FSTS_REG", 0x034),
    ("FECTL_REG", 0x038),
    ("FEDATA_REG", 0x03c),
    ("FEADDR_REG", 0x040),
    ("FEUADDR_REG", 0x044),
    ("PMEN_REG", 0x064),
    ("PLMBASE_REG", 0x068),
    ("PLMLIMIT_REG", 0x06c),
    ("PHMBASE_REG", 0x070),
    ("PHMLIMIT_REG", 0x078),
    ("IQH_REG", 0x080),
    ("IQT_REG", 0x088),
    ("IQA_REG", 0x090),
    ("ICS_REG", 0x09c),
    ("IECTL_REG", 0x0a0),
    ("IEDATA_REG", 0x0a4),
    ("IEADDR_REG", 0x0a8),
    ("IEUADDR_REG", 0x0ac),
    ("IQERCD_REG", 0x0b0),
    ("IRTA_REG", 0x0b8),
    ("PQH_REG", 0x0c0),
    ("PQT_REG", 0x0c8),
    ("PQA_REG", 0x0d0),
    ("PRS_REG", 0x0dc),
    ("PECTL_REG", 0x0e0),
    ("PEDATA_REG", 0x0e4),
    ("PEADDR_REG", 0x0e8),
    ("PEUADDR_REG", 0x0ec),
];

/// Version register, 32 bits.
pub const VER: Table = table(
    "VER_REG",
    "11.4.1 Version Register",
    &[f("MIN", 3, 0, 0x0000_000f), f("MAX", 7, 4, 0x0000_00f0)],
    &[0xffff_ff00],
);

/// Capability register.
pub const CAP: Table = table(
    "CAP_REG",
    "11.4.2 Capability Register",
    &[
        f("ND", 2, 0, 0x0000_0000_0000_0007),
        f("RWBF", 4, 4, 0x0000_0000_0000_0010),
        f("PLMR", 5, 5, 0x0000_0000_0000_0020),
        f("PHMR", 6, 6, 0x0000_0000_0000_0040),
        f("CM", 7, 7, 0x0000_0000_0000_0080),
        f("SAGAW", 12, 8, 0x0000_0000_0000_1f00),
        f("MGAW", 21, 16, 0x0000_0000_003f_0000),
        f("ZLR", 22, 22, 0x0000_0000_0040_0000),
        f("FRO", 33, 24, 0x0000_0003_ff00_0000),
        f("SSLPS", 37, 34, 0x0000_003c_0000_0000),
        f("PSI", 39, 39, 0x0000_0080_0000_0000),
        f("NFR", 47, 40, 0x0000_ff00_0000_0000),
        f("MAMV", 53, 48, 0x003f_0000_0000_0000),
        f("DWD", 54, 54, 0x0040_0000_0000_0000),
        f("DRD", 55, 55, 0x0080_0000_0000_0000),
        f("FS1GP", 56, 56, 0x0100_0000_0000_0000),
        f("PI", 59, 59, 0x0800_0000_0000_0000),
        f("FS5LP", 60, 60, 0x1000_0000_0000_0000),
        f("ECMDS", 61, 61, 0x2000_0000_0000_0000),
        f("ESIRTPS", 62, 62, 0x4000_0000_0000_0000),
        f("ESRTPS", 63, 63, 0x8000_0000_0000_0000),
    ],
    &[0x0600_0040_0080_e008],
);

/// Extended capability register.
pub const ECAP: Table = table(
    "ECAP_REG",
    "11.4.3 Extended Capability Register",
    &[
        f("C", 0, 0, 0x0000_0000_0000_0001),
        f("QI", 1, 1, 0x0000_0000_0000_0002),
        f("DT", 2, 2, 0x0000_0000_0000_0004),
        f("IR", 3, 3, 0x0000_0000_0000_0008),
        f("EIM", 4, 4, 0x0000_0000_0000_0010),
        f("PT", 6, 6, 0x0000_0000_0000_0040),
        f("SC", 7, 7, 0x0000_0000_0000_0080),
        f("IRO", 17, 8, 0x0000_0000_0003_ff00),
        f("MHMV", 23, 20, 0x0000_0000_00f0_0000),
        f("MTS", 25, 25, 0x0000_0000_0200_0000),
        f("NEST", 26, 26, 0x0000_0000_0400_0000),
        f("PRS", 29, 29, 0x0000_0000_2000_0000),
        f("ERS", 30, 30, 0x0000_0000_4000_0000),
        f("SRS", 31, 31, 0x0000_0000_8000_0000),
        f("NWFS", 33, 33, 0x0000_0002_0000_0000),
        f("EAFS", 34, 34, 0x0000_0004_0000_0000),
        f("PSS", 39, 35, 0x0000_00f8_0000_0000),
        f("PASID", 40, 40, 0x0000_0100_0000_0000),
        f("DIT", 41, 41, 0x0000_0200_0000_0000),
        f("PDS", 42, 42, 0x0000_0400_0000_0000),
        f("SMTS", 43, 43, 0x0000_0800_0000_0000),
        f("VCS", 44, 44, 0x0000_1000_0000_0000),
        f("SSADS", 45, 45, 0x0000_2000_0000_0000),
        f("SSTS", 46, 46, 0x0000_4000_0000_0000),
        f("FSTS", 47, 47, 0x0000_8000_0000_0000),
        f("SMPWCS", 48, 48, 0x0001_0000_0000_0000),
        f("RPS", 49, 49, 0x0002_0000_0000_0000),
        f("TDXCS", 50, 50, 0x0004_0000_0000_0000),
        f("PMS", 51, 51, 0x0008_0000_0000_0000),
        f("ADMS", 52, 52, 0x0010_0000_0000_0000),
        f("RPRIVS", 53, 53, 0x0020_0000_0000_0000),
        f("HPTS", 55, 55, 0x0080_0000_0000_0000),
        f("PTRS", 56, 56, 0x0100_0000_0000_0000),
        f("SSIRWS", 57, 57, 0x0200_0000_0000_0000),
        f("SMS", 58, 58, 0x0400_0000_0000_0000),
        f("HPT1GPS", 59, 59, 0x0800_0000_0000_0000),
        f("RDTS", 60, 60, 0x1000_0000_0000_0000),
        f("EIMER", 61, 61, 0x2000_0000_0000_0000),
        f("IRREQ", 62, 62, 0x4000_0000_0000_0000),
    ],
    &[0x8040_0001_190c_0020],
);

/// Global command register, 32 bits.
pub const GCMD: Table = table(
    "GCMD_REG",
    "11.4.4.1 Global Command Register",
    &[
        f("CFI", 23, 23, 0x0080_0000),
        f("SIRTP", 24, 24, 0x0100_0000),
        f("IRE", 25, 25, 0x0200_0000),
        f("QIE", 26, 26, 0x0400_0000),
        f("WBF", 27, 27, 0x0800_0000),
        f("SRTP", 30, 30, 0x4000_0000),
        f("TE", 31, 31, 0x8000_0000),
    ],
    &[0x307f_ffff],
);

/// Global status register, 32 bits.
pub const GSTS: Table = table(
    "GSTS_REG",
    "11.4.4.2 Global Status Register",
    &[
        f("CFIS", 23, 23, 0x0080_0000),
        f("IRTPS", 24, 24, 0x0100_0000),
        f("IRES", 25, 25, 0x0200_0000),
        f("QIES", 26, 26, 0x0400_0000),
        f("WBFS", 27, 27, 0x0800_0000),
        f("RTPS", 30, 30, 0x4000_0000),
        f("TES", 31, 31, 0x8000_0000),
    ],
    &[0x307f_ffff],
);

/// Root table address register.
pub const RTADDR: Table = table(
    "RTADDR_REG",
    "11.4.5 Root Table Address Register",
    &[
        f("SSIRWE", 7, 7, 0x0000_0000_0000_0080),
        f("TTM", 11, 10, 0x0000_0000_0000_0c00),
        f("RTA", 63, 12, 0xffff_ffff_ffff_f000),
    ],
    &[0x0000_0000_0000_037f],
);

/// Context command register.
pub const CCMD: Table = table(
    "CCMD_REG",
    "11.4.6.1 Context Command Register",
    &[
        f("DID", 15, 0, 0x0000_0000_0000_ffff),
        f("SID", 31, 16, 0x0000_0000_ffff_0000),
        f("FM", 33, 32, 0x0000_0003_0000_0000),
        f("CAIG", 60, 59, 0x1800_0000_0000_0000),
        f("CIRG", 62, 61, 0x6000_0000_0000_0000),
        f("ICC", 63, 63, 0x8000_0000_0000_0000),
    ],
    &[0x07ff_fffc_0000_0000],
);

/// IOTLB invalidate register.
pub const IOTLB: Table = table(
    "IOTLB_REG",
    "11.4.6.3 IOTLB Invalidate Register",
    &[
        f("DID", 47, 32, 0x0000_ffff_0000_0000),
        f("DW", 48, 48, 0x0001_0000_0000_0000),
        f("DR", 49, 49, 0x0002_0000_0000_0000),
        f("IAIG", 58, 57, 0x0600_0000_0000_0000),
        f("IIRG", 61, 60, 0x3000_0000_0000_0000),
        f("IVT", 63, 63, 0x8000_0000_0000_0000),
    ],
    &[0x49fc_0000_ffff_ffff],
);

/// Invalidate address register.
pub const IVA: Table = table(
    "IVA_REG",
    "11.4.6.4 Invalidate Address Register",
    &[
        f("AM", 5, 0, 0x0000_0000_0000_003f),
        f("IH", 6, 6, 0x0000_0000_0000_0040),
        f("ADDR", 63, 12, 0xffff_ffff_ffff_f000),
    ],
    &[0x0000_0000_0000_0f80],
);

/// Fault status register, 32 bits.
pub const FSTS: Table = table(
    "FSTS_REG",
    "11.4.7.1 Fault Status Register",
    &[
        f("PFO", 0, 0, 0x0000_0001),
        f("PPF", 1, 1, 0x0000_0002),
        f("IQE", 4, 4, 0x0000_0010),
        f("ICE", 5, 5, 0x0000_0020),
        f("ITE", 6, 6, 0x0000_0040),
        f("FRI", 15, 8, 0x0000_ff00),
    ],
    &[0xffff_008c],
);

/// Event control register, 32 bits: of faults, of invalidations, of page requests.
pub const EVENT_CONTROL: &[Table] = &[
    table("FECTL_REG", "11.4.7.2 Fault Event Control Register", CONTROL, &[0x3fff_ffff]),
    table("IECTL_REG", "11.4.9.5 Invalidation Event Control Register", CONTROL, &[0x3fff_ffff]),
    table("PECTL_REG", "11.4.11.5 Page Request Event Control Register", CONTROL, &[0x3fff_ffff]),
];

/// Event data register, 32 bits.
pub const EVENT_DATA: &[Table] = &[
    table("FEDATA_REG", "11.4.7.3 Fault Event Data Register", DATA, &[0xffff_0000]),
    table("IEDATA_REG", "11.4.9.6 Invalidation Event Data Register", DATA, &[0xffff_0000]),
    table("PEDATA_REG", "11.4.11.6 Page Request Event Data Register", DATA, &[0xffff_0000]),
];

/// Event address register, 32 bits. The upper address register is MUA from end to end.
pub const EVENT_ADDRESS: &[Table] = &[
    table("FEADDR_REG", "11.4.7.4 Fault Event Address Register", ADDRESS, &[0x0000_0003]),
    table("IEADDR_REG", "11.4.9.7 Invalidation Event Address Register", ADDRESS, &[0x0000_0003]),
    table("PEADDR_REG", "11.4.11.7 Page Request Event Address Register", ADDRESS, &[0x0000_0003]),
];

const CONTROL: &[Field] = &[f("IP", 30, 30, 0x4000_0000), f("IM", 31, 31, 0x8000_0000)];
const DATA: &[Field] = &[f("IMD", 15, 0, 0x0000_ffff)];
const ADDRESS: &[Field] = &[f("MA", 31, 2, 0xffff_fffc)];

/// Protected memory enable register, 32 bits.
///
/// The base and limit registers have one field each, from bit N + 1 up; N is the hardware's.
pub const PMEN: Table = table(
    "PMEN_REG",
    "11.4.8.1 Protected Memory Enable Register",
    &[f("PRS", 0, 0, 0x0000_0001), f("EPM", 31, 31, 0x8000_0000)],
    &[0x7fff_fffe],
);

/// Invalidation queue head register.
pub const IQH: Table = table(
    "IQH_REG",
    "11.4.9.1 Invalidation Queue Head Register",
    &[f("QH", 18, 4, 0x0000_0000_0007_fff0)],
    &[0xffff_ffff_fff8_000f],
);

/// Invalidation queue tail register.
pub const IQT: Table = table(
    "IQT_REG",
    "11.4.9.2 Invalidation Queue Tail Register",
    &[f("QT", 18, 4, 0x0000_0000_0007_fff0)],
    &[0xffff_ffff_fff8_000f],
);

/// Invalidation queue address register.
pub const IQA: Table = table(
    "IQA_REG",
    "11.4.9.3 Invalidation Queue Address Register",
    &[
        f("QS", 2, 0, 0x0000_0000_0000_0007),
        f("DW", 11, 11, 0x0000_0000_0000_0800),
        f("IQA", 63, 12, 0xffff_ffff_ffff_f000),
    ],
    &[0x0000_0000_0000_07f8],
);

/// Invalidation completion status register, 32 bits.
pub const ICS: Table = table(
    "ICS_REG",
    "11.4.9.4 Invalidation Completion Status Register",
    &[f("IWC", 0, 0, 0x0000_0001)],
    &[0xffff_fffe],
);

/// Invalidation queue error record register.
pub const IQERCD: Table = table(
    "IQERCD_REG",
    "11.4.9.9 Invalidation Queue Error Record Register",
    &[
        f("IQEI", 3, 0, 0x0000_0000_0000_000f),
        f("ITESID", 47, 32, 0x0000_ffff_0000_0000),
        f("ICESID", 63, 48, 0xffff_0000_0000_0000),
    ],
    &[0x0000_0000_ffff_fff0],
);

/// Interrupt remapping table address register.
pub const IRTA: Table = table(
    "IRTA_REG",
    "11.4.10 Interrupt Remapping Table Address Register",
    &[
        f("S", 3, 0, 0x0000_0000_0000_000f),
        f("EIME", 11, 11, 0x0000_0000_0000_0800),
        f("IRTA", 63, 12, 0xffff_ffff_ffff_f000),
    ],
    &[0x0000_0000_0000_07f0],
);

/// Page request queue head register.
pub const PQH: Table = table(
    "PQH_REG",
    "11.4.11.1 Page Request Queue Head Register",
    &[f("PQH", 18, 5, 0x0000_0000_0007_ffe0)],
    &[0xffff_ffff_fff8_001f],
);

/// Page request queue tail register.
pub const PQT: Table = table(
    "PQT_REG",
    "11.4.11.2 Page Request Queue Tail Register",
    &[f("PQT", 18, 5, 0x0000_0000_0007_ffe0)],
    &[0xffff_ffff_fff8_001f],
);

/// Page request queue address register.
pub const PQA: Table = table(
    "PQA_REG",
    "11.4.11.3 Page Request Queue Address Register",
    &[f("PQS", 2, 0, 0x0000_0000_0000_0007), f("PQA", 63, 12, 0xffff_ffff_ffff_f000)],
    &[0x0000_0000_0000_0ff8],
);

/// Page request status register, 32 bits.
pub const PRS: Table = table(
    "PRS_REG",
    "11.4.11.4 Page Request Status Register",
    &[f("PPR", 0, 0, 0x0000_0001), f("PRO", 1, 1, 0x0000_0002)],
    &[0xffff_fffc],
);
