//! Descriptors of the Arm 64-bit translation tables, stage 1 and stage 2, granules 4K, 16K and 64K.
//!
//! Spec: Arm ARM, DDI 0487 M.a.a, D8.3.1.1 "VMSAv8-64 Table descriptor format" and D8.3.1.2 "VMSAv8-64 Block
//! descriptor and Page descriptor formats". Attributes with permissions taken from the descriptor itself.
//! Not here: 128-bit descriptors, the 32-bit formats, Secure and Realm fields.

use super::{Field, f};

/// Fields of a stage 1 block or page descriptor, apart from the address. `SH` is part of the address with DS.
pub const STAGE_1_LEAF: &[Field] = &[
    f("Valid", 0, 0, 0x0000_0000_0000_0001),
    f("Page", 1, 1, 0x0000_0000_0000_0002),
    f("AttrIndx", 4, 2, 0x0000_0000_0000_001C),
    f("AP[1]", 6, 6, 0x0000_0000_0000_0040),
    f("AP[2]", 7, 7, 0x0000_0000_0000_0080),
    f("SH", 9, 8, 0x0000_0000_0000_0300),
    f("AF", 10, 10, 0x0000_0000_0000_0400),
    f("nG", 11, 11, 0x0000_0000_0000_0800),
    f("nT", 16, 16, 0x0000_0000_0001_0000),
    f("GP", 50, 50, 0x0004_0000_0000_0000),
    f("DBM", 51, 51, 0x0008_0000_0000_0000),
    f("Contiguous", 52, 52, 0x0010_0000_0000_0000),
    f("PXN", 53, 53, 0x0020_0000_0000_0000),
    f("UXN", 54, 54, 0x0040_0000_0000_0000),
];

/// Fields of a stage 2 block or page descriptor, apart from the address.
pub const STAGE_2_LEAF: &[Field] = &[
    f("Valid", 0, 0, 0x0000_0000_0000_0001),
    f("Page", 1, 1, 0x0000_0000_0000_0002),
    f("MemAttr", 5, 2, 0x0000_0000_0000_003C),
    f("S2AP[0]", 6, 6, 0x0000_0000_0000_0040),
    f("S2AP[1]", 7, 7, 0x0000_0000_0000_0080),
    f("SH", 9, 8, 0x0000_0000_0000_0300),
    f("AF", 10, 10, 0x0000_0000_0000_0400),
    f("nT", 16, 16, 0x0000_0000_0001_0000),
    f("DBM", 51, 51, 0x0008_0000_0000_0000),
    f("Contiguous", 52, 52, 0x0010_0000_0000_0000),
    f("XN", 54, 53, 0x0060_0000_0000_0000),
];

/// Fields of a stage 1 table descriptor, apart from the address.
pub const STAGE_1_TABLE: &[Field] = &[
    f("Valid", 0, 0, 0x0000_0000_0000_0001),
    f("Table", 1, 1, 0x0000_0000_0000_0002),
    f("AF", 10, 10, 0x0000_0000_0000_0400),
    f("PXNTable", 59, 59, 0x0800_0000_0000_0000),
    f("UXNTable", 60, 60, 0x1000_0000_0000_0000),
    f("APTable", 62, 61, 0x6000_0000_0000_0000),
];

/// What a descriptor leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A table of the next level.
    Table,
    /// A block, at a level above the last.
    Block,
    /// A page, at level 3.
    Page,
}

/// Where an address lies in a descriptor.
#[derive(Clone, Copy, Debug)]
pub struct Placed {
    /// Log2 of the granule in bytes.
    pub granule_lg2: u32,
    /// 52-bit addresses: DS for 4K and 16K, FEAT_LPA for 64K.
    pub wide: bool,
    /// Level of the table that holds the descriptor.
    pub level: i8,
    /// What the descriptor leads to.
    pub kind: Kind,
    /// The address it leads to.
    pub address: u64,
    /// The descriptor, with every attribute zero.
    pub word: u64,
}

/// Shorthand for a row.
const fn at(granule_lg2: u32, wide: bool, level: i8, kind: Kind, address: u64, word: u64) -> Placed {
    Placed { granule_lg2, wide, level, kind, address, word }
}

/// Descriptors of each granule, kind and level, with the highest address that fits and some with a single bit.
pub const ADDRESSES: &[Placed] = &[
    // 4K, 48 bits of address: [47:12], [47:21], [47:30].
    at(12, false, 0, Kind::Table, 0x0000_FFFF_FFFF_F000, 0x0000_FFFF_FFFF_F003),
    at(12, false, 1, Kind::Table, 0x0000_8000_0000_1000, 0x0000_8000_0000_1003),
    at(12, false, 2, Kind::Table, 0x0000_0000_0000_1000, 0x0000_0000_0000_1003),
    at(12, false, 1, Kind::Block, 0x0000_FFFF_C000_0000, 0x0000_FFFF_C000_0001),
    at(12, false, 2, Kind::Block, 0x0000_FFFF_FFE0_0000, 0x0000_FFFF_FFE0_0001),
    at(12, false, 3, Kind::Page, 0x0000_FFFF_FFFF_F000, 0x0000_FFFF_FFFF_F003),
    at(12, false, 3, Kind::Page, 0x0000_0000_0000_1000, 0x0000_0000_0000_1003),
    // 4K, 52 bits: [49:48] in place, [51:50] at [9:8]; blocks also at level 0, [47:39].
    at(12, true, -1, Kind::Table, 0x000F_FFFF_FFFF_F000, 0x0003_FFFF_FFFF_F303),
    at(12, true, 0, Kind::Block, 0x0008_0080_0000_0000, 0x0000_0080_0000_0201),
    at(12, true, 1, Kind::Block, 0x0004_0000_4000_0000, 0x0000_0000_4000_0101),
    at(12, true, 2, Kind::Block, 0x0002_0000_0020_0000, 0x0002_0000_0020_0001),
    at(12, true, 3, Kind::Page, 0x000F_FFFF_FFFF_F000, 0x0003_FFFF_FFFF_F303),
    at(12, true, 3, Kind::Page, 0x0001_0000_0000_0000, 0x0001_0000_0000_0003),
    // 16K, 48 bits: [47:14], [47:25].
    at(14, false, 1, Kind::Table, 0x0000_FFFF_FFFF_C000, 0x0000_FFFF_FFFF_C003),
    at(14, false, 2, Kind::Block, 0x0000_FFFF_FE00_0000, 0x0000_FFFF_FE00_0001),
    at(14, false, 3, Kind::Page, 0x0000_FFFF_FFFF_C000, 0x0000_FFFF_FFFF_C003),
    at(14, false, 3, Kind::Page, 0x0000_0000_0000_4000, 0x0000_0000_0000_4003),
    // 16K, 52 bits: as 4K; blocks also at level 1, [47:36].
    at(14, true, 0, Kind::Table, 0x000C_0000_0000_4000, 0x0000_0000_0000_4303),
    at(14, true, 1, Kind::Block, 0x000F_FFF0_0000_0000, 0x0003_FFF0_0000_0301),
    at(14, true, 2, Kind::Block, 0x0008_0000_0200_0000, 0x0000_0000_0200_0201),
    at(14, true, 3, Kind::Page, 0x000F_FFFF_FFFF_C000, 0x0003_FFFF_FFFF_C303),
    // 64K, 48 bits: [47:16], [47:29].
    at(16, false, 2, Kind::Table, 0x0000_FFFF_FFFF_0000, 0x0000_FFFF_FFFF_0003),
    at(16, false, 2, Kind::Block, 0x0000_FFFF_E000_0000, 0x0000_FFFF_E000_0001),
    at(16, false, 3, Kind::Page, 0x0000_FFFF_FFFF_0000, 0x0000_FFFF_FFFF_0003),
    at(16, false, 3, Kind::Page, 0x0000_0000_0001_0000, 0x0000_0000_0001_0003),
    // 64K, 52 bits: [51:48] at [15:12]; blocks also at level 1, [47:42].
    at(16, true, 1, Kind::Table, 0x000F_FFFF_FFFF_0000, 0x0000_FFFF_FFFF_F003),
    at(16, true, 1, Kind::Block, 0x000F_FC00_0000_0000, 0x0000_FC00_0000_F001),
    at(16, true, 2, Kind::Block, 0x0008_0000_2000_0000, 0x0000_0000_2000_8001),
    at(16, true, 3, Kind::Page, 0x000F_FFFF_FFFF_0000, 0x0000_FFFF_FFFF_F003),
    at(16, true, 3, Kind::Page, 0x0001_0000_0001_0000, 0x0000_0000_0001_1003),
];

/// How many adjacent entries the Contiguous bit joins: log2 of the granule, level, entries. Zero where the bit is RES0.
///
/// Spec: Arm ARM, D8.7.1 "The Contiguous bit", table D8-104 and the list of levels above it.
pub const CONTIGUOUS_ENTRIES: &[(u32, bool, i8, u32)] = &[
    (12, false, 1, 16),
    (12, false, 2, 16),
    (12, false, 3, 16),
    (12, true, 0, 0),
    (12, true, 1, 16),
    (12, true, 2, 16),
    (12, true, 3, 16),
    (14, false, 2, 32),
    (14, false, 3, 128),
    (14, true, 1, 0),
    (14, true, 2, 32),
    (14, true, 3, 128),
    (16, false, 2, 32),
    (16, false, 3, 32),
    (16, true, 1, 0),
    (16, true, 2, 32),
    (16, true, 3, 32),
];

/// Where a stage 2 walk starts.
#[derive(Clone, Copy, Debug)]
pub struct Start {
    /// Log2 of the granule in bytes.
    pub granule_lg2: u32,
    /// 52-bit addresses.
    pub wide: bool,
    /// `S2T0SZ`.
    pub t0sz: u32,
    /// `S2SL0`.
    pub sl0: u32,
    /// Level of the first table.
    pub level: i8,
    /// How many tables lie side by side.
    pub tables: u64,
    /// How many entries they have in all.
    pub entries: u64,
}

/// Shorthand for a row.
const fn start(
    granule_lg2: u32,
    wide: bool,
    t0sz: u32,
    (sl0, level): (u32, i8),
    tables: u64,
    entries: u64,
) -> Start {
    Start { granule_lg2, wide, t0sz, sl0, level, tables, entries }
}

/// Starts of stage 2 walks, each with the most tables side by side that the book allows.
///
/// Spec: Arm ARM, D8.2.8.2, D8.2.9.2, D8.2.10.2 "VMSAv8-64 Stage 2 address translation using the … translation granule", tables D8-19 to
/// D8-24, D8-29 to D8-33, D8-38 to D8-41.
pub const STAGE_2_STARTS: &[Start] = &[
    // 4K: SL0 0b00 level 2, 0b01 level 1, 0b10 level 0.
    start(12, false, 32, (0b00, 2), 4, 0x800),
    start(12, false, 30, (0b00, 2), 16, 0x2000),
    start(12, false, 29, (0b01, 1), 1, 0x20),
    start(12, false, 25, (0b01, 1), 1, 0x200),
    start(12, false, 24, (0b01, 1), 2, 0x400),
    start(12, false, 21, (0b01, 1), 16, 0x2000),
    start(12, false, 20, (0b10, 0), 1, 0x20),
    start(12, false, 16, (0b10, 0), 1, 0x200),
    start(12, true, 15, (0b10, 0), 2, 0x400),
    start(12, true, 12, (0b10, 0), 16, 0x2000),
    // 16K: SL0 0b00 level 3, 0b01 level 2, 0b10 level 1, 0b11 level 0.
    start(14, false, 32, (0b01, 2), 1, 0x80),
    start(14, false, 28, (0b01, 2), 1, 0x800),
    start(14, false, 24, (0b01, 2), 16, 0x8000),
    start(14, false, 23, (0b10, 1), 1, 0x20),
    start(14, false, 17, (0b10, 1), 1, 0x800),
    start(14, false, 16, (0b10, 1), 2, 0x1000),
    start(14, true, 13, (0b10, 1), 16, 0x8000),
    start(14, true, 12, (0b11, 0), 1, 0x20),
    // 64K: SL0 0b00 level 3, 0b01 level 2, 0b10 level 1.
    start(16, false, 32, (0b00, 3), 8, 0x1_0000),
    start(16, false, 31, (0b00, 3), 16, 0x2_0000),
    start(16, false, 30, (0b01, 2), 1, 0x20),
    start(16, false, 22, (0b01, 2), 1, 0x2000),
    start(16, false, 18, (0b01, 2), 16, 0x2_0000),
    start(16, false, 17, (0b10, 1), 1, 0x20),
    start(16, true, 12, (0b10, 1), 1, 0x400),
];
