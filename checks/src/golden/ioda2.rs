//! IODA2 and PHB3: entries, registers, and what windows lead where. All words and masks are typed by hand.
//!
//! POWER numbers bits from the most significant end: `p` takes such numbers, as they stand in the headers that name the fields.
//!
//! Observed: skiboot include/phb3-regs.h (`IODA2_…`, `PHB_…`), hw/phb3.c (`phb3_map_pe_dma_window`, `phb3_map_pe_dma_window_real`, `phb3_freset`); Linux 4.20,
//! arch/powerpc/platforms/powernv/pci-ioda.c (`PHB3_TCE_KILL_INVAL_…`), arch/powerpc/include/asm/tce.h (`TCE_PCI_…`); QEMU 7.2, hw/pci-host/pnv_phb3.c.
//! Not here: interrupts (IVT), M64.

use super::{Field, Table, table};

/// A row by POWER's numbers: `first` is the more significant bit.
const fn p(name: &'static str, first: u32, last: u32, ones: u64) -> Field {
    Field { name, msb: 63 - first, lsb: 63 - last, ones }
}

/// A TVE that has a table.
pub const TVE: Table = table(
    "TVE",
    "skiboot IODA2_TVT_*",
    &[
        p("IO_PSIZE", 59, 63, 0x0000_0000_0000_001f),
        p("TCE_TABLE_SIZE", 51, 55, 0x0000_0000_0000_1f00),
        p("NUM_LEVELS", 48, 50, 0x0000_0000_0000_e000),
        p("TABLE_ADDR", 0, 47, 0xffff_ffff_ffff_0000),
    ],
    &[0x0000_0000_0000_00e0],
);

/// A TVE that passes addresses as they are.
pub const BYPASS: Table = table(
    "TVE without a table",
    "skiboot phb3_map_pe_dma_window_real",
    &[
        p("IO_PSIZE", 59, 63, 0x0000_0000_0000_001f),
        p("END_49_48", 54, 55, 0x0000_0000_0000_0300),
        p("START_49_48", 52, 53, 0x0000_0000_0000_0c00),
        p("UNTRANSLATED", 51, 51, 0x0000_0000_0000_1000),
        p("END_47_24", 24, 47, 0x0000_00ff_ffff_0000),
        p("START_47_24", 0, 23, 0xffff_ff00_0000_0000),
    ],
    &[0x0000_0000_0000_e0e0],
);

/// PESTA, with the rest of the first word of the table in memory, as far as it is used.
pub const PEST_0: Table = table(
    "PEST, first word",
    "skiboot IODA2_PESTA_*, IODA2_PEST0_*",
    &[
        p("MSI_DATA", 48, 63, 0x0000_0000_0000_ffff),
        p("RID", 32, 47, 0x0000_0000_ffff_0000),
        p("LEM_BIT", 26, 31, 0x0000_003f_0000_0000),
        p("TCE_ACCESS_FAULT", 19, 19, 0x0000_1000_0000_0000),
        p("TCE_PAGE_FAULT", 18, 18, 0x0000_2000_0000_0000),
        p("IODA2_ERROR", 16, 16, 0x0000_8000_0000_0000),
        p("TTYPE", 5, 7, 0x0700_0000_0000_0000),
        p("MMIO_FROZEN", 0, 0, 0x8000_0000_0000_0000),
    ],
    &[0x78ff_4fc0_0000_0000],
);

/// PESTB, with the rest of the second word.
pub const PEST_1: Table = table(
    "PEST, second word",
    "skiboot IODA2_PESTB_*, IODA2_PEST1_*",
    &[p("FAIL_ADDR", 3, 63, 0x1fff_ffff_ffff_ffff), p("DMA_STOPPED", 0, 0, 0x8000_0000_0000_0000)],
    &[0x6000_0000_0000_0000],
);

/// An entry of the M32DT.
pub const M32DT: Table = table(
    "M32DT",
    "skiboot IODA2_M32DT_PE",
    &[p("PE", 8, 15, 0x00ff_0000_0000_0000)],
    &[0xff00_ffff_ffff_ffff],
);

/// Which entry of which table IODA_DATA0 is.
pub const IODA_ADDR: Table = table(
    "IODA_ADDR",
    "skiboot PHB_IODA_AD_*",
    &[
        p("TADR", 55, 63, 0x0000_0000_0000_01ff),
        p("TSEL", 11, 15, 0x001f_0000_0000_0000),
        p("AUTOINC", 0, 0, 0x8000_0000_0000_0000),
    ],
    &[0x7fe0_ffff_ffff_fe00],
);

/// An invalidation of TCEs.
pub const TCE_KILL: Table = table(
    "TCE_KILL",
    "Linux 4.20 PHB3_TCE_KILL_INVAL_*, pnv_pci_phb3_tce_invalidate",
    &[
        p("PE", 56, 63, 0x0000_0000_0000_00ff),
        p("ADDRESS", 4, 51, 0x0fff_ffff_ffff_f000),
        p("ONE", 2, 2, 0x2000_0000_0000_0000),
        p("BY_PE", 1, 1, 0x4000_0000_0000_0000),
        p("ALL", 0, 0, 0x8000_0000_0000_0000),
    ],
    &[0x1000_0000_0000_0f00],
);

/// All tables of fields.
pub const TABLES: &[Table] = &[TVE, BYPASS, PEST_0, PEST_1, M32DT, IODA_ADDR, TCE_KILL];

/// A TVE, what it says, and the word.
#[derive(Clone, Copy, Debug)]
pub struct TveWord {
    /// log2 of the page's bytes.
    pub page_lg2: u8,
    /// The window's bytes.
    pub window_bytes: u64,
    /// Levels of 4 KiB at least.
    pub levels: u8,
    /// Where the top level lies.
    pub root: u64,
    /// The word.
    pub word: u64,
}

const fn tve(page_lg2: u8, window_bytes: u64, levels: u8, root: u64, word: u64) -> TveWord {
    TveWord { page_lg2, window_bytes, levels, root, word }
}

/// TVEs with tables, worked out bit by bit: the root's page number in bits 0:47, levels less one in 48:50, log2 of a level's bytes less 11 in 51:55, log2 of the
/// page's bytes less 11 in 59:63.
pub const TVE_WORDS: &[TveWord] = &[
    // 32 MiB by one level of 64 KiB (16 − 11 = 5), pages 12 − 11 = 1.
    tve(12, 0x0200_0000, 1, 0x0010_0000, 0x0000_0000_0100_0501),
    // 16 GiB: 2^18 pages by two levels of 4 KiB (12 − 11 = 1; 2 − 1 in bit 50), pages 16 − 11 = 5.
    tve(16, 0x0004_0000_0000, 2, 0x0011_0000, 0x0000_0000_0110_2105),
    // 8 GiB: 512 pages, pages 24 − 11 = 13.
    tve(24, 0x0002_0000_0000, 1, 0x0013_0000, 0x0000_0000_0130_010d),
    // 128 GiB: 512 pages, pages 28 − 11 = 17.
    tve(28, 0x0020_0000_0000, 1, 0x0014_0000, 0x0000_0000_0140_0111),
    // 512 GiB: 2^27 pages by three levels (3 − 1 in bits 48:50).
    tve(12, 0x0080_0000_0000, 3, 0x0015_0000, 0x0000_0000_0150_4101),
    // 1 TiB of 64K: 2^24 pages by four levels of 4 KiB, which hold more.
    tve(16, 0x0100_0000_0000, 4, 0x0003_ffff_ffff_f000, 0x003f_ffff_ffff_6105),
    // 2 GiB of 4K by one level of 4 MiB (22 − 11 = 11).
    tve(12, 0x8000_0000, 1, 0x0000_0001_2340_0000, 0x0000_0012_3400_0b01),
];

/// The end of what a TVE without a table passes from 0 on, and the word: bits 49:48 of the end in 54:55, bits 47:24 in 24:47, bit 51 set.
pub const BYPASS_WORDS: &[(u64, u64)] = &[
    (0x0000_0000_4000_0000, 0x0000_0000_0040_1000),
    (0x0000_0080_0000_0000, 0x0000_0000_8000_1000),
    (0x0001_0000_0000_0000, 0x0000_0000_0000_1100),
    (0x0002_ffff_ff00_0000, 0x0000_00ff_ffff_1200),
];

/// A page's address, whether it may be read and written, and the TCE's bytes in the order of their addresses.
pub const TCE_BYTES: &[(u64, bool, bool, [u8; 8])] = &[
    (0x0000_0000_0020_0000, true, true, [0, 0, 0, 0, 0x00, 0x20, 0x00, 0x03]),
    (0x0000_0000_0001_2000, true, false, [0, 0, 0, 0, 0x00, 0x01, 0x20, 0x01]),
    (0x0003_ffff_ffff_f000, true, true, [0x00, 0x03, 0xff, 0xff, 0xff, 0xff, 0xf0, 0x03]),
    (0x0012_3456_789a_b000, true, false, [0x00, 0x12, 0x34, 0x56, 0x78, 0x9a, 0xb0, 0x01]),
];

/// What an access meets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meets {
    /// It gets to this address.
    Memory(u64),
    /// No window there: `IODA2_ERROR`.
    NoWindow,
    /// Beyond what the window's entry reaches: it freezes the PE. Nobody shows which of `IODA2_ERROR` and `TCE_PAGE_FAULT` it then says.
    Beyond,
    /// No entry: `TCE_PAGE_FAULT`.
    NoEntry,
    /// An entry without the permission: `TCE_ACCESS_FAULT`.
    Forbidden,
}

/// A window with something in its tables, and accesses.
#[derive(Clone, Copy, Debug)]
pub struct Scene {
    /// For people.
    pub name: &'static str,
    /// The two TVEs.
    pub tves: [u64; 2],
    /// Bytes in memory.
    pub memory: &'static [(u64, [u8; 8])],
    /// An address, whether it is written, and what that meets.
    pub accesses: &'static [(u64, bool, Meets)],
}

/// Windows of every page size, by one, two and three levels, and without table.
pub const SCENES: &[Scene] = &[
    Scene {
        name: "4K pages by one level",
        tves: [0x0000_0000_0100_0501, 0],
        // Page 0x1234 of the window: 8 × 0x1234 = 0x91a0.
        memory: &[
            (0x0010_91a0, [0, 0, 0, 0, 0x00, 0x20, 0x00, 0x03]),
            (0x0010_91a8, [0, 0, 0, 0, 0x00, 0x21, 0x00, 0x01]),
            (0x0010_91b0, [0, 0, 0, 0, 0x00, 0x22, 0x00, 0x02]),
            (0x0010_91b8, [0, 0, 0, 0, 0x00, 0x23, 0x00, 0x00]),
        ],
        accesses: &[
            (0x0123_4567, false, Meets::Memory(0x0020_0567)),
            (0x0123_4567, true, Meets::Memory(0x0020_0567)),
            (0x0123_5000, false, Meets::Memory(0x0021_0000)),
            (0x0123_5000, true, Meets::Forbidden),
            (0x0123_6fff, true, Meets::Memory(0x0022_0fff)),
            (0x0123_6fff, false, Meets::Forbidden),
            (0x0123_7000, false, Meets::NoEntry),
            (0x0123_8000, true, Meets::NoEntry),
            (0x0200_0000, false, Meets::Beyond),
            (0x0800_0000_0123_4567, false, Meets::NoWindow),
        ],
    },
    Scene {
        name: "64K pages by two levels, in window 1",
        tves: [0, 0x0000_0000_0110_2105],
        // Page 0x2_3456: 0x11a of the upper level, 0x56 of the lower.
        memory: &[
            (0x0011_08d0, [0, 0, 0, 0, 0x00, 0x12, 0x00, 0x03]),
            (0x0012_02b0, [0, 0, 0, 0, 0x00, 0x30, 0x00, 0x03]),
        ],
        accesses: &[
            (0x0800_0002_3456_789a, false, Meets::Memory(0x0030_789a)),
            (0x0800_0002_3457_0000, false, Meets::NoEntry),
            (0x0800_0002_5456_0000, true, Meets::NoEntry),
            (0x0800_0004_0000_0000, true, Meets::Beyond),
            (0x0000_0002_3456_789a, false, Meets::NoWindow),
        ],
    },
    Scene {
        name: "16M pages",
        tves: [0x0000_0000_0130_010d, 0],
        // Page 0x102.
        memory: &[(0x0013_0810, [0, 0, 0, 0, 0x01, 0x00, 0x00, 0x03])],
        accesses: &[
            (0x0001_0212_3456, true, Meets::Memory(0x0112_3456)),
            (0x0001_0312_3456, true, Meets::NoEntry),
            (0x0002_0000_0000, true, Meets::Beyond),
        ],
    },
    Scene {
        name: "256M pages",
        tves: [0x0000_0000_0140_0111, 0],
        memory: &[(0x0014_0008, [0, 0, 0, 0, 0x20, 0x00, 0x00, 0x03])],
        accesses: &[
            (0x1234_5678, false, Meets::Memory(0x2234_5678)),
            (0x0000_0000, false, Meets::NoEntry),
            (0x0020_0000_0000, false, Meets::Beyond),
        ],
    },
    Scene {
        name: "4K pages by three levels",
        tves: [0x0000_0000_0150_4101, 0],
        // Page 0x123_4567: 0x48, 0x1a2, 0x167.
        memory: &[
            (0x0015_0240, [0, 0, 0, 0, 0x00, 0x16, 0x00, 0x03]),
            (0x0016_0d10, [0, 0, 0, 0, 0x00, 0x17, 0x00, 0x03]),
            (0x0017_0b38, [0, 0, 0, 0, 0x00, 0x20, 0x00, 0x03]),
        ],
        accesses: &[
            (0x0012_3456_789a, true, Meets::Memory(0x0020_089a)),
            (0x0012_3456_6000, true, Meets::NoEntry),
            (0x0080_0000_0000, true, Meets::Beyond),
        ],
    },
    Scene {
        name: "no table, up to 1 GiB",
        tves: [0, 0x0000_0000_0040_1000],
        memory: &[],
        accesses: &[
            (0x0800_0000_0123_4567, true, Meets::Memory(0x0123_4567)),
            (0x0800_0000_0000_0000, false, Meets::Memory(0)),
            (0x0800_0000_3fff_ffff, false, Meets::Memory(0x3fff_ffff)),
            (0x0800_0000_4100_0000, false, Meets::Beyond),
            (0x0000_0000_0123_4567, true, Meets::NoWindow),
        ],
    },
    Scene {
        name: "no windows",
        tves: [0, 0],
        memory: &[],
        accesses: &[(0, false, Meets::NoWindow), (0x0800_0000_0000_0000, true, Meets::NoWindow)],
    },
];
