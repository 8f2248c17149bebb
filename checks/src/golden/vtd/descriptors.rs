//! Descriptors of the two queues, and fault records. `code` of a table is its Type, where it has one.

use super::super::{Field, Table, f, table};

const fn descriptor(
    name: &'static str,
    clause: &'static str,
    code: u8,
    fields: &'static [Field],
    res0: &'static [u64],
) -> Table {
    Table { name, clause, code: Some(code), fields, res0 }
}

/// Context-cache invalidation.
pub const CC_INV: Table = descriptor(
    "cc_inv_dsc",
    "6.5.2.1 Context-cache Invalidate Descriptor",
    0x1,
    &[
        f("Type", 3, 0, 0x0000_0000_0000_000f),
        f("G", 5, 4, 0x0000_0000_0000_0030),
        f("DID", 31, 16, 0x0000_0000_ffff_0000),
        f("SID", 47, 32, 0x0000_ffff_0000_0000),
        f("FM", 49, 48, 0x0003_0000_0000_0000),
    ],
    &[0xfffc_0000_0000_f1c0, 0xffff_ffff_ffff_ffff],
);

/// PASID-cache invalidation.
pub const PC_INV: Table = descriptor(
    "pc_inv_dsc",
    "6.5.2.2 PASID-cache Invalidate Descriptor",
    0x7,
    &[
        f("Type", 3, 0, 0x0000_0000_0000_000f),
        f("G", 5, 4, 0x0000_0000_0000_0030),
        f("DID", 31, 16, 0x0000_0000_ffff_0000),
        f("PASID", 51, 32, 0x000f_ffff_0000_0000),
    ],
    &[0xfff0_0000_0000_f1c0, 0xffff_ffff_ffff_ffff],
);

/// IOTLB invalidation.
pub const IOTLB_INV: Table = descriptor(
    "iotlb_inv_dsc",
    "6.5.2.3 IOTLB Invalidate",
    0x2,
    &[
        f("Type", 3, 0, 0x0000_0000_0000_000f),
        f("G", 5, 4, 0x0000_0000_0000_0030),
        f("DW", 6, 6, 0x0000_0000_0000_0040),
        f("DR", 7, 7, 0x0000_0000_0000_0080),
        f("DID", 31, 16, 0x0000_0000_ffff_0000),
        f("AM", 69, 64, 0x0000_0000_0000_003f),
        f("IH", 70, 70, 0x0000_0000_0000_0040),
        f("ADDR", 127, 76, 0xffff_ffff_ffff_f000),
    ],
    &[0xffff_ffff_0000_f100, 0x0000_0000_0000_0f80],
);

/// PASID-based IOTLB invalidation.
pub const P_IOTLB_INV: Table = descriptor(
    "p_iotlb_inv_dsc",
    "6.5.2.4 PASID-based IOTLB Invalidate Descriptor (P_IOTLB)",
    0x6,
    &[
        f("Type", 3, 0, 0x0000_0000_0000_000f),
        f("G", 5, 4, 0x0000_0000_0000_0030),
        f("DID", 31, 16, 0x0000_0000_ffff_0000),
        f("PASID", 51, 32, 0x000f_ffff_0000_0000),
        f("AM", 69, 64, 0x0000_0000_0000_003f),
        f("IH", 70, 70, 0x0000_0000_0000_0040),
        f("ADDR", 127, 76, 0xffff_ffff_ffff_f000),
    ],
    &[0xfff0_0000_0000_f1c0, 0x0000_0000_0000_0f80],
);

/// Device TLB invalidation.
pub const DEV_TLB_INV: Table = descriptor(
    "dev_tlb_inv_dsc",
    "6.5.2.5 Device-TLB Invalidate Descriptor",
    0x3,
    &[
        f("Type", 3, 0, 0x0000_0000_0000_000f),
        f("PFSID[3:0]", 15, 12, 0x0000_0000_0000_f000),
        f("MIP", 20, 16, 0x0000_0000_001f_0000),
        f("SID", 47, 32, 0x0000_ffff_0000_0000),
        f("PFSID[15:4]", 63, 52, 0xfff0_0000_0000_0000),
        f("S", 64, 64, 0x0000_0000_0000_0001),
        f("ADDR", 127, 76, 0xffff_ffff_ffff_f000),
    ],
    &[0x000f_0000_ffe0_01f0, 0x0000_0000_0000_0ffe],
);

/// PASID-based device TLB invalidation.
pub const P_DEV_TLB_INV: Table = descriptor(
    "p_dev_tlb_inv_dsc",
    "6.5.2.6 PASID-based-Device-TLB Invalidate Descriptor",
    0x8,
    &[
        f("Type", 3, 0, 0x0000_0000_0000_000f),
        f("MIP", 8, 4, 0x0000_0000_0000_01f0),
        f("PFSID[3:0]", 15, 12, 0x0000_0000_0000_f000),
        f("SID", 31, 16, 0x0000_0000_ffff_0000),
        f("PASID", 51, 32, 0x000f_ffff_0000_0000),
        f("PFSID[15:4]", 63, 52, 0xfff0_0000_0000_0000),
        f("GI", 64, 64, 0x0000_0000_0000_0001),
        f("S", 75, 75, 0x0000_0000_0000_0800),
        f("ADDR", 127, 76, 0xffff_ffff_ffff_f000),
    ],
    &[0x0000_0000_0000_0000, 0x0000_0000_0000_07fe],
);

/// Interrupt entry cache invalidation.
pub const IEC_INV: Table = descriptor(
    "iec_inv_dsc",
    "6.5.2.8 Interrupt Entry Cache Invalidate Descriptor",
    0x4,
    &[
        f("Type", 3, 0, 0x0000_0000_0000_000f),
        f("G", 4, 4, 0x0000_0000_0000_0010),
        f("IM", 31, 27, 0x0000_0000_f800_0000),
        f("IIDX", 47, 32, 0x0000_ffff_0000_0000),
    ],
    &[0xffff_0000_07ff_f1e0, 0xffff_ffff_ffff_ffff],
);

/// Invalidation wait.
pub const INV_WAIT: Table = descriptor(
    "inv_wait_dsc",
    "6.5.2.9 Invalidation Wait Descriptor",
    0x5,
    &[
        f("Type", 3, 0, 0x0000_0000_0000_000f),
        f("IF", 4, 4, 0x0000_0000_0000_0010),
        f("SW", 5, 5, 0x0000_0000_0000_0020),
        f("FN", 6, 6, 0x0000_0000_0000_0040),
        f("PD", 7, 7, 0x0000_0000_0000_0080),
        f("Status Data", 63, 32, 0xffff_ffff_0000_0000),
        f("Status Address", 127, 66, 0xffff_ffff_ffff_fffc),
    ],
    &[0x0000_0000_ffff_f100, 0x0000_0000_0000_0003],
);

/// Page group response.
pub const PAGE_GRP_RESP: Table = descriptor(
    "page_grp_resp_dsc",
    "7.6.1 Page Group Response Descriptor",
    0x9,
    &[
        f("Type", 3, 0, 0x0000_0000_0000_000f),
        f("PP", 4, 4, 0x0000_0000_0000_0010),
        f("RC", 15, 12, 0x0000_0000_0000_f000),
        f("RID", 31, 16, 0x0000_0000_ffff_0000),
        f("PASID", 51, 32, 0x000f_ffff_0000_0000),
        f("IGN", 66, 66, 0x0000_0000_0000_0004),
        f("PRGI", 75, 67, 0x0000_0000_0000_0ff8),
    ],
    &[0xfff0_0000_0000_01e0, 0xffff_ffff_ffff_f003],
);

/// Page request.
pub const PAGE_REQ: Table = descriptor(
    "page_req_dsc",
    "7.4.1.1 Page Request Descriptor",
    0x1,
    &[
        f("Type", 7, 0, 0x0000_0000_0000_00ff),
        f("PP", 8, 8, 0x0000_0000_0000_0100),
        f("RID", 31, 16, 0x0000_0000_ffff_0000),
        f("PASID", 51, 32, 0x000f_ffff_0000_0000),
        f("EXR", 52, 52, 0x0010_0000_0000_0000),
        f("PMR", 53, 53, 0x0020_0000_0000_0000),
        f("RDR", 64, 64, 0x0000_0000_0000_0001),
        f("WRR", 65, 65, 0x0000_0000_0000_0002),
        f("LPIG", 66, 66, 0x0000_0000_0000_0004),
        f("PRGI", 75, 67, 0x0000_0000_0000_0ff8),
        f("ADDR", 127, 76, 0xffff_ffff_ffff_f000),
    ],
    &[0xffc0_0000_0000_fe00, 0x0000_0000_0000_0000],
);

/// Fault recording register.
pub const FRCD: Table = table(
    "FRCD_REG",
    "11.4.7.6 Fault Recording Registers [n]",
    &[
        f("FI", 63, 12, 0xffff_ffff_ffff_f000),
        f("SID", 79, 64, 0x0000_0000_0000_ffff),
        f("T2", 92, 92, 0x0000_0000_1000_0000),
        f("PRIV", 93, 93, 0x0000_0000_2000_0000),
        f("EXE", 94, 94, 0x0000_0000_4000_0000),
        f("PP", 95, 95, 0x0000_0000_8000_0000),
        f("FR", 103, 96, 0x0000_00ff_0000_0000),
        f("PV", 123, 104, 0x0fff_ff00_0000_0000),
        f("AT", 125, 124, 0x3000_0000_0000_0000),
        f("T1", 126, 126, 0x4000_0000_0000_0000),
        f("F", 127, 127, 0x8000_0000_0000_0000),
    ],
    &[0x0000_0000_0000_0fff, 0x0000_0000_0fff_0000],
);

/// Fault reasons: number, code of the condition, whether it is qualified.
///
/// Spec: VT-d 5.10, 7.1.3 "Fault Conditions and Remapping Hardware Behavior for Various Requests", Table 30.
pub const REASONS: &[(u8, &str, bool)] = &[
    (0x08, "LRT.1", false),
    (0x01, "LRT.2", false),
    (0x0a, "LRT.3", false),
    (0x09, "LCT.1", false),
    (0x02, "LCT.2", true),
    (0x0b, "LCT.3", true),
    (0x03, "LCT.4", true),
    (0x0d, "LCT.5", true),
    (0x07, "LSS.1", true),
    (0x0c, "LSS.2", true),
    (0x04, "LGN.1", true),
    (0x05, "LGN.2", true),
    (0x06, "LGN.3", true),
    (0x0e, "LGN.4", true),
    (0x30, "RTA.1", false),
    (0x31, "RTA.2", false),
    (0x32, "RTA.3", false),
    (0x33, "RTA.4", false),
    (0x34, "RTA.5", false),
    (0x38, "SRT.1", false),
    (0x39, "SRT.2", false),
    (0x3a, "SRT.3", false),
    (0x40, "SCT.1", false),
    (0x41, "SCT.2", true),
    (0x42, "SCT.3", true),
    (0x43, "SCT.4", true),
    (0x44, "SCT.5", true),
    (0x45, "SCT.6", true),
    (0x46, "SCT.7", true),
    (0x47, "SCT.8", true),
    (0x48, "SCT.9", true),
    (0x49, "SCT.10", true),
    (0x50, "SPD.1", false),
    (0x51, "SPD.2", true),
    (0x52, "SPD.3", true),
    (0x58, "SPT.1", false),
    (0x59, "SPT.2", true),
    (0x5a, "SPT.3", true),
    (0x5b, "SPT.4", true),
    (0x5c, "SPT.5", true),
    (0x5d, "SPT.6", true),
    (0x60, "SPT.9", true),
    (0x70, "SFS.1", true),
    (0x71, "SFS.2", true),
    (0x72, "SFS.3", true),
    (0x73, "SFS.4", true),
    (0x74, "SFS.5", true),
    (0x75, "SFS.6", true),
    (0x76, "SFS.7", true),
    (0x77, "SFS.8", true),
    (0x90, "SFS.9", true),
    (0x91, "SFS.10", true),
    (0x78, "SSS.1", true),
    (0x79, "SSS.2", true),
    (0x7a, "SSS.3", true),
    (0x7b, "SSS.4", true),
    (0x7c, "SSS.5", true),
    (0x7d, "SSS.6", true),
    (0x80, "SGN.1", true),
    (0x81, "SGN.2", true),
    (0x83, "SGN.4", true),
    (0x84, "SGN.5", true),
    (0x85, "SGN.6", true),
    (0x86, "SGN.7", true),
    (0x87, "SGN.8", true),
    (0x89, "SGN.10", true),
    (0xa0, "HPT.1", true),
    (0xa1, "HPT.2", true),
    (0xa2, "HPT.3", true),
    (0xa3, "HPT.4", true),
    (0xa4, "HPT.5", true),
    (0xa5, "HPT.6", true),
];
