//! Commands: opcode and every field.
//!
//! Spec: SMMUv3, 4.1.1 "Command opcodes", 4.1.6 "Common command fields", 4.4.1.1 "Range-based invalidation and
//! level hint", and the section named at each command.
//! Observed: Linux 6.18 and 7.3, arm-smmu-v3.h, CMDQ_*: agrees for each field that it knows, with addresses of 52 bits
//! and SCALE of five, as it is where SMMU_IDR5.DS is 0.
//! Not here: commands of the Secure, EL3 and Realm queues, and those for the device permission table.

use crate::golden::{Field, Table, f};

const OPCODE: Field = f("Opcode", 7, 0, 0x0000_0000_0000_00FF);
const SSEC: Field = f("SSec", 10, 10, 0x0000_0000_0000_0400);
const SSV: Field = f("SSV", 11, 11, 0x0000_0000_0000_0800);
const SSID: Field = f("SubstreamID", 31, 12, 0x0000_0000_FFFF_F000);
const SID: Field = f("StreamID", 63, 32, 0xFFFF_FFFF_0000_0000);
const NUM: Field = f("NUM", 16, 12, 0x0000_0000_0001_F000);
const SCALE: Field = f("SCALE", 25, 20, 0x0000_0000_03F0_0000);
const VMID: Field = f("VMID", 47, 32, 0x0000_FFFF_0000_0000);
const ASID: Field = f("ASID", 63, 48, 0xFFFF_0000_0000_0000);
const LEAF: Field = f("Leaf", 64, 64, 0x0000_0000_0000_0001);
const TTL128: Field = f("TTL128", 71, 71, 0x0000_0000_0000_0080);
const TTL: Field = f("TTL", 73, 72, 0x0000_0000_0000_0300);
const TG: Field = f("TG", 75, 74, 0x0000_0000_0000_0C00);
const VA: Field = f("Address", 127, 76, 0xFFFF_FFFF_FFFF_F000);
const IPA: Field = f("Address", 119, 76, 0x00FF_FFFF_FFFF_F000);

const fn command(name: &'static str, clause: &'static str, code: u8, fields: &'static [Field]) -> Table {
    Table { name, clause, code: Some(code), fields, res0: &[] }
}

/// Every command of the Non-secure queue.
pub const COMMANDS: &[Table] = &[
    command(
        "CMD_PREFETCH_CONFIG",
        "4.2.1 \"CMD_PREFETCH_CONFIG(StreamID, SSec, SubstreamID, SSV)\"",
        0x01,
        &[OPCODE, SSEC, SSV, SSID, SID],
    ),
    command(
        "CMD_PREFETCH_ADDR",
        "4.2.2 \"CMD_PREFETCH_ADDR(StreamID, SSec, SubstreamID, SSV, Addr, NS, Size, Stride)\"",
        0x02,
        &[
            OPCODE,
            SSEC,
            SSV,
            SSID,
            SID,
            f("Size", 68, 64, 0x0000_0000_0000_001F),
            f("Stride", 73, 69, 0x0000_0000_0000_03E0),
            VA,
        ],
    ),
    command("CMD_CFGI_STE", "4.3.1 \"CMD_CFGI_STE(StreamID, SSec, Leaf)\"", 0x03, &[OPCODE, SSEC, SID, LEAF]),
    command(
        "CMD_CFGI_STE_RANGE",
        "4.3.2 \"CMD_CFGI_STE_RANGE(StreamID, SSec, Range)\"",
        0x04,
        &[OPCODE, SSEC, SID, f("Range", 68, 64, 0x0000_0000_0000_001F)],
    ),
    command(
        "CMD_CFGI_CD",
        "4.3.3 \"CMD_CFGI_CD(StreamID, SSec, SubstreamID, Leaf)\"",
        0x05,
        &[OPCODE, SSEC, SSID, SID, LEAF],
    ),
    command("CMD_CFGI_CD_ALL", "4.3.4 \"CMD_CFGI_CD_ALL(StreamID, SSec)\"", 0x06, &[OPCODE, SSEC, SID]),
    command(
        "CMD_CFGI_VMS_PIDM",
        "4.3.5 \"CMD_CFGI_VMS_PIDM(SSec, VMID)\"",
        0x07, //
        &[OPCODE, SSEC, VMID],
    ),
    command("CMD_TLBI_NH_ALL", "4.4.2.1 \"CMD_TLBI_NH_ALL(VMID)\"", 0x10, &[OPCODE, VMID]),
    command("CMD_TLBI_NH_ASID", "4.4.2.2 \"CMD_TLBI_NH_ASID(VMID, ASID)\"", 0x11, &[OPCODE, VMID, ASID]),
    command(
        "CMD_TLBI_NH_VA",
        "4.4.2.4 \"CMD_TLBI_NH_VA(VMID, ASID, Addr, Leaf)\"",
        0x12,
        &[OPCODE, NUM, SCALE, VMID, ASID, LEAF, TTL128, TTL, TG, VA],
    ),
    command(
        "CMD_TLBI_NH_VAA",
        "4.4.2.3 \"CMD_TLBI_NH_VAA(VMID, Addr, Leaf)\"",
        0x13,
        &[OPCODE, NUM, SCALE, VMID, LEAF, TTL128, TTL, TG, VA],
    ),
    command("CMD_TLBI_EL2_ALL", "4.4.2.7 \"CMD_TLBI_EL2_ALL\"", 0x20, &[OPCODE]),
    command("CMD_TLBI_EL2_ASID", "4.4.2.10 \"CMD_TLBI_EL2_ASID(ASID)\"", 0x21, &[OPCODE, ASID]),
    command(
        "CMD_TLBI_EL2_VA",
        "4.4.2.8 \"CMD_TLBI_EL2_VA(ASID, Addr, Leaf)\"",
        0x22,
        &[OPCODE, NUM, SCALE, ASID, LEAF, TTL128, TTL, TG, VA],
    ),
    command(
        "CMD_TLBI_EL2_VAA",
        "4.4.2.9 \"CMD_TLBI_EL2_VAA(Addr, Leaf)\"",
        0x23,
        &[OPCODE, NUM, SCALE, LEAF, TTL128, TTL, TG, VA],
    ),
    command("CMD_TLBI_S12_VMALL", "4.4.3.2 \"CMD_TLBI_S12_VMALL(VMID)\"", 0x28, &[OPCODE, VMID]),
    command(
        "CMD_TLBI_S2_IPA",
        "4.4.3.1 \"CMD_TLBI_S2_IPA(VMID, Addr, Leaf)\"",
        0x2A,
        &[OPCODE, NUM, SCALE, VMID, LEAF, TTL128, TTL, TG, IPA],
    ),
    command("CMD_TLBI_NSNH_ALL", "4.4.4.1 \"CMD_TLBI_NSNH_ALL\"", 0x30, &[OPCODE]),
    command(
        "CMD_ATC_INV",
        "4.5.1 \"CMD_ATC_INV(StreamID, SubstreamID, SSV, Global, Address, Size)\"",
        0x40,
        &[
            OPCODE,
            f("G", 9, 9, 0x0000_0000_0000_0200),
            SSV,
            SSID,
            SID,
            f("Size", 69, 64, 0x0000_0000_0000_003F),
            VA,
        ],
    ),
    command(
        "CMD_PRI_RESP",
        "4.5.2 \"CMD_PRI_RESP(StreamID, SubstreamID, SSV, PRGIndex, Resp)\"",
        0x41,
        &[
            OPCODE,
            SSV,
            SSID,
            SID,
            f("PRGIndex", 72, 64, 0x0000_0000_0000_01FF),
            f("Resp", 77, 76, 0x0000_0000_0000_3000),
        ],
    ),
    command(
        "CMD_RESUME",
        "4.7.1 \"CMD_RESUME(StreamID, SSec, STAG, Action, Abort)\"",
        0x44,
        &[
            OPCODE,
            SSEC,
            f("Ac", 12, 12, 0x0000_0000_0000_1000),
            f("Ab", 13, 13, 0x0000_0000_0000_2000),
            SID,
            f("STAG", 79, 64, 0x0000_0000_0000_FFFF),
        ],
    ),
    command("CMD_STALL_TERM", "4.7.2 \"CMD_STALL_TERM(StreamID, SSec)\"", 0x45, &[OPCODE, SSEC, SID]),
    command(
        "CMD_SYNC",
        "4.7.3 \"CMD_SYNC(ComplSignal, MSIAddress, MSIData, MSIWriteAttributes)\"",
        0x46,
        &[
            OPCODE,
            f("CS", 13, 12, 0x0000_0000_0000_3000),
            f("MSH", 23, 22, 0x0000_0000_00C0_0000),
            f("MSIAttr", 27, 24, 0x0000_0000_0F00_0000),
            f("MSIData", 63, 32, 0xFFFF_FFFF_0000_0000),
            f("MSIAddress", 119, 66, 0x00FF_FFFF_FFFF_FFFC),
        ],
    ),
];
