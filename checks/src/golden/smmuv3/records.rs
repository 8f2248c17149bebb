//! What the SMMU writes to its queues: event records and page requests.
//!
//! Spec: SMMUv3, 7.3 "Event records" and the section named at each; chapter 8 "Page request queue".
//! Observed: Linux 6.18, arm-smmu-v3.h, EVTQ_* and PRIQ_*: agrees, with addresses kept to 52 bits. The flags of
//! E_PAGE_REQUEST stand only in a drawing that could not be read, so they are left out.
//! Not here: fields that are zero on the Non-secure queue (NSIPA) or belong to optional permission schemes.

use crate::golden::{Field, Table, f};

const ID: Field = f("EventNumber", 7, 0, 0x0000_0000_0000_00FF);
const SSV: Field = f("SSV", 11, 11, 0x0000_0000_0000_0800);
const SSID: Field = f("SubstreamID", 31, 12, 0x0000_0000_FFFF_F000);
const SID: Field = f("StreamID", 63, 32, 0xFFFF_FFFF_0000_0000);
const REASON: Field = f("Reason", 79, 64, 0x0000_0000_0000_FFFF);
const STAG: Field = f("STAG", 79, 64, 0x0000_0000_0000_FFFF);
const GPCF: Field = f("GPCF", 80, 80, 0x0000_0000_0001_0000);
const STALL: Field = f("Stall", 95, 95, 0x0000_0000_8000_0000);
const PNU: Field = f("PnU", 97, 97, 0x0000_0002_0000_0000);
const IND: Field = f("InD", 98, 98, 0x0000_0004_0000_0000);
const RNW: Field = f("RnW", 99, 99, 0x0000_0008_0000_0000);
const S2: Field = f("S2", 103, 103, 0x0000_0080_0000_0000);
const CLASS: Field = f("CLASS", 105, 104, 0x0000_0300_0000_0000);
const INPUT: Field = f("InputAddr", 191, 128, 0xFFFF_FFFF_FFFF_FFFF);
const INPUT_PAGE: Field = f("InputAddr[63:12]", 191, 140, 0xFFFF_FFFF_FFFF_F000);
const IPA: Field = f("IPA[55:12]", 247, 204, 0x00FF_FFFF_FFFF_F000);
const FETCH: Field = f("FetchAddr[55:3]", 247, 195, 0x00FF_FFFF_FFFF_FFF8);

const fn event(name: &'static str, clause: &'static str, code: u8, fields: &'static [Field]) -> Table {
    Table { name, clause, code: Some(code), fields, res0: &[] }
}

/// Every architected event record.
pub const EVENTS: &[Table] = &[
    event("F_UUT", "7.3.2 \"F_UUT\"", 0x01, &[ID, SSV, SSID, SID, REASON, PNU, IND, RNW, INPUT]),
    event("C_BAD_STREAMID", "7.3.3 \"C_BAD_STREAMID\"", 0x02, &[ID, SSV, SSID, SID]),
    event("F_STE_FETCH", "7.3.4 \"F_STE_FETCH\"", 0x03, &[ID, SSV, SSID, SID, REASON, GPCF, FETCH]),
    event("C_BAD_STE", "7.3.5 \"C_BAD_STE\"", 0x04, &[ID, SSV, SSID, SID]),
    event(
        "F_BAD_ATS_TREQ",
        "7.3.6 \"F_BAD_ATS_TREQ\"",
        0x05,
        &[
            ID,
            SSV,
            SSID,
            SID,
            f("Span", 67, 64, 0x0000_0000_0000_000F),
            f("P", 92, 92, 0x0000_0000_1000_0000),
            f("X", 93, 93, 0x0000_0000_2000_0000),
            f("W", 94, 94, 0x0000_0000_4000_0000),
            f("R", 95, 95, 0x0000_0000_8000_0000),
            INPUT_PAGE,
        ],
    ),
    // Neither says which substream: the drawings have nothing between StreamID and the number.
    // Observed: QEMU, hw/arm/smmuv3.c, smmuv3_record_event: fills in none.
    event("F_STREAM_DISABLED", "7.3.7 \"F_STREAM_DISABLED\"", 0x06, &[ID, SID]),
    event("F_TRANSL_FORBIDDEN", "7.3.8 \"F_TRANSL_FORBIDDEN\"", 0x07, &[ID, SID, RNW, INPUT]),
    // No SSV here: "In this event, SubstreamID is always valid (there is no SSV qualifier)". Bits [11:8] are RES0.
    event("C_BAD_SUBSTREAMID", "7.3.9 \"C_BAD_SUBSTREAMID\"", 0x08, &[ID, SSID, SID]),
    event("F_CD_FETCH", "7.3.10 \"F_CD_FETCH\"", 0x09, &[ID, SSV, SSID, SID, REASON, GPCF, FETCH]),
    event("C_BAD_CD", "7.3.11 \"C_BAD_CD\"", 0x0A, &[ID, SSV, SSID, SID]),
    event(
        "F_WALK_EABT",
        "7.3.12 \"F_WALK_EABT\"",
        0x0B,
        &[ID, SSV, SSID, SID, REASON, GPCF, PNU, IND, RNW, S2, CLASS, INPUT, FETCH],
    ),
    event("F_TRANSLATION", "7.3.13 \"F_TRANSLATION\"", 0x10, FAULT),
    event("F_ADDR_SIZE", "7.3.14 \"F_ADDR_SIZE\"", 0x11, FAULT),
    event("F_ACCESS", "7.3.15 \"F_ACCESS\"", 0x12, FAULT),
    event(
        "F_PERMISSION",
        "7.3.16 \"F_PERMISSION\"",
        0x13,
        &[
            ID,
            SSV,
            SSID,
            SID,
            STAG,
            STALL,
            PNU,
            IND,
            RNW,
            S2,
            CLASS,
            f("TTRnW", 108, 108, 0x0000_1000_0000_0000),
            INPUT,
            IPA,
        ],
    ),
    event(
        "F_TLB_CONFLICT",
        "7.3.17 \"F_TLB_CONFLICT\"",
        0x20,
        &[ID, SSV, SSID, SID, REASON, PNU, IND, RNW, S2, INPUT, IPA],
    ),
    event("F_CFG_CONFLICT", "7.3.18 \"F_CFG_CONFLICT\"", 0x21, &[ID, SSV, SSID, SID, REASON]),
    event("E_PAGE_REQUEST", "7.3.19 \"E_PAGE_REQUEST\"", 0x24, &[ID, SSV, SSID, SID, INPUT_PAGE]),
    event("F_VMS_FETCH", "7.3.20 \"F_VMS_FETCH\"", 0x25, &[ID, SSV, SSID, SID, REASON, GPCF, FETCH]),
];

/// The fields of a fault in translation.
const FAULT: &[Field] = &[ID, SSV, SSID, SID, STAG, STALL, PNU, IND, RNW, S2, CLASS, INPUT, IPA];

/// A record of the page request queue: two words.
pub const PRI_REQUEST: Table = Table {
    name: "PRI request",
    clause: "8 \"Page request queue\"",
    code: None,
    fields: &[
        f("StreamID", 31, 0, 0x0000_0000_FFFF_FFFF),
        f("SubstreamID", 51, 32, 0x000F_FFFF_0000_0000),
        f("Priv", 58, 58, 0x0400_0000_0000_0000),
        f("X", 59, 59, 0x0800_0000_0000_0000),
        f("R", 60, 60, 0x1000_0000_0000_0000),
        f("W", 61, 61, 0x2000_0000_0000_0000),
        f("Last", 62, 62, 0x4000_0000_0000_0000),
        f("SSV", 63, 63, 0x8000_0000_0000_0000),
        f("PRGIndex", 72, 64, 0x0000_0000_0000_01FF),
        f("Address[63:12]", 127, 76, 0xFFFF_FFFF_FFFF_F000),
    ],
    res0: &[0x03F0_0000_0000_0000, 0x0000_0000_0000_0E00],
};
