//! Whole scenes for a VT-d unit, every word of memory typed by hand: what lies there, what a device asks, what must come of it.
//!
//! A scene is data. Whoever runs it lays `memory` into RAM over what its mode has in every scene, points the unit at [`ROOT_TABLE`], and asks as [`SOURCE`]. Scenes want a unit with 46 bits
//! of host address, tables of 3, 4 and 5 levels, pages of 2 MiB and 1 GiB, first stages of 5 levels, and walks that snoop.
//!
//! | where | what |
//! |---|---|
//! | `0x1_0000` | root table: bus 0's entry is the first |
//! | `0x1_1000` | context table; [`SOURCE`]'s entry at `0x1_1100`, in scalable mode at `0x1_1200` |
//! | `0x1_2000`, `0x1_3000` | PASID directory; the table of PASIDs 0x80 to 0xbf, in it [`PASID`]'s entry at `0x1_3140`, RID_PASID's at `0x1_3180` |
//! | `0x10_0000` to `0x10_4fff` | second stage: levels 4, 3, 2, 1, 5 |
//! | `0x20_0000` to `0x20_4fff` | first stage, the same |
//!
//! [`ADDRESS`] is entries 236, 336, 200, 256 of levels 4 to 1: `+0x760`, `+0xa80`, `+0x640`, `+0x800`.
//!
//! Spec: VT-d 5.10, 9.1 "Root Entry" to 9.8 "Second-Stage Paging Entries", 11.4.7.6 "Fault Recording Registers \[n\]".

/// Where the root table is.
pub const ROOT_TABLE: u64 = 0x1_0000;
/// 00:02.0, who asks.
pub const SOURCE: u32 = 0x10;
/// The address space of who asks with one.
pub const PASID: u32 = 0x85;
/// What is asked for.
pub const ADDRESS: u64 = 0x7654_1910_0123;
/// The same for 5 levels: entry 64 of level 5.
const FAR: u64 = 0x40_7654_1910_0123;

/// What comes of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Comes {
    /// It goes there.
    At(u64),
    /// It is refused, and these are the words of the record.
    Recorded([u64; 2]),
    /// It is refused without a record.
    Quiet,
}

/// A scene.
#[derive(Clone, Copy, Debug)]
pub struct Scene {
    /// What it shows.
    pub name: &'static str,
    /// In scalable mode, not in legacy mode.
    pub scalable: bool,
    /// With [`PASID`].
    pub tagged: bool,
    /// It writes.
    pub write: bool,
    /// The address.
    pub address: u64,
    /// Words from an address on.
    pub memory: &'static [(u64, &'static [u64])],
    /// What must come of it.
    pub comes: Comes,
    /// Words that hardware has changed, as they are then.
    pub after: &'static [(u64, u64)],
}

/// What lies in memory in every scene of legacy mode: P and CTP of the root entry.
pub const LEGACY: &[(u64, &[u64])] = &[(0x1_0000, &[0x1_1001, 0])];

/// What lies there in scalable mode: LP and LCTP of the root entry; P, DTE, PASIDE, PRE and the directory's address in the context entry, with RID_PASID; P and the table's address of the
/// directory's third entry.
pub const SCALABLE: &[(u64, &[u64])] =
    &[(0x1_0000, &[0x1_1001, 0]), (0x1_1200, &[0x1_201d, 0x86, 0, 0]), (0x1_2010, &[0x1_3001])];

const fn legacy(name: &'static str, memory: &'static [(u64, &'static [u64])], comes: Comes) -> Scene {
    Scene { name, scalable: false, tagged: false, write: false, address: ADDRESS, memory, comes, after: &[] }
}

const fn scalable(name: &'static str, memory: &'static [(u64, &'static [u64])], comes: Comes) -> Scene {
    Scene { name, scalable: true, tagged: true, write: false, address: ADDRESS, memory, comes, after: &[] }
}

/// Levels 4 to 2 of a second stage: R and W, and the next table.
const SS4: (u64, &[u64]) = (0x10_0760, &[0x10_1003]);
const SS3: (u64, &[u64]) = (0x10_1a80, &[0x10_2003]);
const SS2: (u64, &[u64]) = (0x10_2640, &[0x10_3003]);
/// A page.
const SS1: (u64, &[u64]) = (0x10_3800, &[0x1_2345_6003]);
/// A context entry: P, TT 00b, 4 levels (AW 010b), domain 5.
const CONTEXT: (u64, &[u64]) = (0x1_1100, &[0x10_0001, 0x502]);
/// The same of a first stage: P, R/W, U/S.
const FS4: (u64, &[u64]) = (0x20_0760, &[0x20_1007]);
const FS3: (u64, &[u64]) = (0x20_1a80, &[0x20_2007]);
const FS2: (u64, &[u64]) = (0x20_2640, &[0x20_3007]);
const FS1: (u64, &[u64]) = (0x20_3800, &[0x1_2345_6007]);
/// PASID table entries: P, PGTT 001b; DID 6, PWSNP; the table. And P, PGTT 010b, AW 010b; DID 5, PWSNP.
const FIRST: (u64, &[u64]) = (0x1_3140, &[0x41, 0x80_0006, 0x20_0000, 0, 0, 0, 0, 0]);
const SECOND: (u64, &[u64]) = (0x1_3140, &[0x10_0089, 0x80_0005, 0, 0, 0, 0, 0, 0]);

/// The scenes.
pub const SCENES: &[Scene] = &[
    legacy("a page of 4 KiB", &[CONTEXT, SS4, SS3, SS2, SS1], Comes::At(0x1_2345_6123)),
    // PS, bit 7, and what is below the page from the address.
    legacy("2 MiB", &[CONTEXT, SS4, SS3, (0x10_2640, &[0x1_2340_0083])], Comes::At(0x1_2350_0123)),
    legacy("1 GiB", &[CONTEXT, SS4, (0x10_1a80, &[0x1_4000_0083])], Comes::At(0x1_5910_0123)),
    Scene {
        // AW 001b. Entry 80 of level 3.
        address: 0x14_1910_0123,
        ..legacy(
            "3 levels",
            &[(0x1_1100, &[0x10_1001, 0x501]), (0x10_1280, &[0x10_2003]), SS2, SS1],
            Comes::At(0x1_2345_6123),
        )
    },
    Scene {
        // AW 011b.
        address: FAR,
        ..legacy(
            "5 levels",
            &[(0x1_1100, &[0x10_4001, 0x503]), (0x10_4200, &[0x10_0003]), SS4, SS3, SS2, SS1],
            Comes::At(0x1_2345_6123),
        )
    },
    Scene {
        // TT 10b, and AW of the most levels that there are.
        address: 0x234_5678_9123,
        ..legacy("pass-through", &[(0x1_1100, &[0x9, 0x503])], Comes::At(0x234_5678_9123))
    },
    // FR 01h; T1 and F of a read; no PASID.
    legacy(
        "a root entry that is not present",
        &[(0x1_0000, &[0, 0])],
        Comes::Recorded([0x7654_1910_0000, 0xc000_0001_0000_0010]),
    ),
    legacy(
        "a context entry that is not present",
        &[],
        Comes::Recorded([0x7654_1910_0000, 0xc000_0002_0000_0010]),
    ),
    // FPD, bit 1.
    legacy("a context entry that is not present, quietly", &[(0x1_1100, &[0x2, 0])], Comes::Quiet),
    legacy(
        "a context entry with a reserved bit: 4",
        &[(0x1_1100, &[0x10_0011, 0x502]), SS4, SS3, SS2, SS1],
        Comes::Recorded([0x7654_1910_0000, 0xc000_000b_0000_0010]),
    ),
    legacy(
        "a paging entry with an address of more than 46 bits",
        &[CONTEXT, SS4, SS3, SS2, (0x10_3800, &[0x4001_2345_6003])],
        Comes::Recorded([0x7654_1910_0000, 0xc000_000c_0000_0010]),
    ),
    // R without W: FR 05h, and T1 is 0 for a write.
    Scene {
        write: true,
        ..legacy(
            "a page that is only read",
            &[CONTEXT, SS4, SS3, SS2, (0x10_3800, &[0x1_2345_6001])],
            Comes::Recorded([0x7654_1910_0000, 0x8000_0005_0000_0010]),
        )
    },
    legacy(
        "a page that is only written",
        &[CONTEXT, SS4, SS3, SS2, (0x10_3800, &[0x1_2345_6002])],
        Comes::Recorded([0x7654_1910_0000, 0xc000_0006_0000_0010]),
    ),
    scalable("second stage", &[SECOND, SS4, SS3, SS2, SS1], Comes::At(0x1_2345_6123)),
    Scene {
        tagged: false,
        ..scalable(
            "second stage by RID_PASID",
            &[(0x1_3180, &[0x10_0089, 0x80_0005, 0, 0, 0, 0, 0, 0]), SS4, SS3, SS2, SS1],
            Comes::At(0x1_2345_6123),
        )
    },
    Scene {
        // A, bit 5, of all entries on the way.
        after: &[
            (0x20_0760, 0x20_1027),
            (0x20_1a80, 0x20_2027),
            (0x20_2640, 0x20_3027),
            (0x20_3800, 0x1_2345_6027),
        ],
        ..scalable("first stage, read", &[FIRST, FS4, FS3, FS2, FS1], Comes::At(0x1_2345_6123))
    },
    Scene {
        write: true,
        // And D, bit 6, of the leaf.
        after: &[(0x20_2640, 0x20_3027), (0x20_3800, 0x1_2345_6067)],
        ..scalable("first stage, written", &[FIRST, FS4, FS3, FS2, FS1], Comes::At(0x1_2345_6123))
    },
    Scene {
        write: true,
        after: &[(0x20_2640, 0x1_2340_00e7)],
        ..scalable(
            "first stage, 2 MiB",
            &[FIRST, FS4, FS3, (0x20_2640, &[0x1_2340_0087])],
            Comes::At(0x1_2350_0123),
        )
    },
    scalable("first stage, 1 GiB", &[FIRST, FS4, (0x20_1a80, &[0x1_4000_0087])], Comes::At(0x1_5910_0123)),
    Scene {
        // FSPM, bits 131:130, is 01b.
        address: FAR,
        ..scalable(
            "first stage, 5 levels",
            &[
                (0x1_3140, &[0x41, 0x80_0006, 0x20_4004, 0, 0, 0, 0, 0]),
                (0x20_4200, &[0x20_0007]),
                FS4,
                FS3,
                FS2,
                FS1,
            ],
            Comes::At(0x1_2345_6123),
        )
    },
    Scene {
        // PGTT 011b: what the first stage says is an address of the second, which here has two pages of 1 GiB.
        ..scalable(
            "nested",
            &[
                (0x1_3140, &[0x10_00c9, 0x80_0005, 0x20_0000, 0, 0, 0, 0, 0]),
                FS4,
                FS3,
                FS2,
                FS1,
                (0x10_0000, &[0x10_1003]),
                (0x10_1000, &[0x83]),
                (0x10_1020, &[0x2_0000_0083]),
            ],
            Comes::At(0x2_2345_6123),
        )
    },
    Scene {
        // PGTT 100b.
        address: 0x234_5678_9123,
        ..scalable(
            "pass-through by PASID",
            &[(0x1_3140, &[0x101, 0x80_0006, 0, 0, 0, 0, 0, 0])],
            Comes::At(0x234_5678_9123),
        )
    },
    // PP, and the PASID in PV, bits 123:104.
    scalable(
        "a directory entry that is not present",
        &[(0x1_2010, &[0])],
        Comes::Recorded([0x7654_1910_0000, 0xc000_8551_8000_0010]),
    ),
    scalable("a PASID that is not present", &[], Comes::Recorded([0x7654_1910_0000, 0xc000_8559_8000_0010])),
    scalable("a PASID that is not present, quietly", &[(0x1_3140, &[0x2])], Comes::Quiet),
    scalable(
        "a PASID with PGTT 000b",
        &[(0x1_3140, &[0x1, 0x80_0006, 0x20_0000, 0, 0, 0, 0, 0])],
        Comes::Recorded([0x7654_1910_0000, 0xc000_855b_8000_0010]),
    ),
    scalable(
        "a first stage that has nothing there",
        &[FIRST, FS4, FS3, FS2],
        Comes::Recorded([0x7654_1910_0000, 0xc000_8571_8000_0010]),
    ),
    scalable(
        "a second stage that has nothing there",
        &[SECOND, SS4, SS3, SS2],
        Comes::Recorded([0x7654_1910_0000, 0xc000_8579_8000_0010]),
    ),
];
