//! The table of allowed arrows: which room may use which, and which outside crates may be embedded.
//!
//! A room that is not in the table may not be in the workspace: adding one means adding its line, and thinking about it.

/// What a room may name in its `Cargo.toml`, tests included.
pub(crate) struct Room {
    /// Its folder.
    pub(crate) folder: &'static str,
    /// The rooms it may use.
    pub(crate) uses: &'static [&'static str],
}

const fn room(folder: &'static str, uses: &'static [&'static str]) -> Room {
    Room { folder, uses }
}

/// Every room.
pub(crate) const ROOMS: &[Room] = &[
    room("crates/types", &[]),
    room("crates/spec", &["crates/types"]),
    room("crates/hal", &["crates/types"]),
    room("crates/pgtable", &["crates/types", "crates/hal"]),
    room("crates/iova", &["crates/types", "crates/hal"]),
    // Core knows no vendor: neither a driver nor `spec`, which is made of vendors' layouts.
    room("crates/core", &["crates/types", "crates/hal", "crates/iova"]),
    room("crates/pci", &["crates/types", "crates/spec", "crates/hal", "crates/core"]),
    room("crates/firmware", &["crates/types", "crates/spec"]),
    room("crates/paging", &["crates/types", "crates/hal", "crates/pgtable", "crates/core"]),
    // Drivers never know each other.
    room(
        "crates/smmuv3",
        &["crates/types", "crates/spec", "crates/hal", "crates/pgtable", "crates/core", "crates/paging"],
    ),
    room(
        "crates/smmuv2",
        &["crates/types", "crates/spec", "crates/hal", "crates/pgtable", "crates/core", "crates/paging"],
    ),
    room("crates/ioda2", &["crates/types", "crates/spec", "crates/hal", "crates/pgtable", "crates/core"]),
    room(
        "crates/vtd",
        &["crates/types", "crates/spec", "crates/hal", "crates/pgtable", "crates/core", "crates/paging"],
    ),
    room("crates/nvme", &["crates/types", "crates/hal", "crates/core"]),
    room("crates/accel", &["crates/types", "crates/hal", "crates/core"]),
    room(
        "crates/vfio",
        &["crates/types", "crates/spec", "crates/hal", "crates/iova", "crates/core", "crates/pci"],
    ),
    room("crates/portcullis", EMBEDDED),
    // Models stand apart: that they cannot name a driver or a walker is what their verdicts rest on.
    room("models/bus", &["crates/types"]),
    room("models/smmuv3", &["crates/types", "models/bus"]),
    room("models/smmuv2", &["crates/types", "models/bus"]),
    room("models/devices", &["crates/types", "models/bus"]),
    room("models/cpu", &["crates/types", "models/bus"]),
    room("models/ioda2", &["crates/types", "models/bus"]),
    room("models/vtd", &["crates/types", "models/bus"]),
    // Hardware that others wrote, behind the platform seam.
    room("backends/qemu", &["crates/types", "crates/hal"]),
    // Where both sides meet.
    room("lab", BOTH_SIDES),
    room("cli", &["crates/types", "lab", "checks/simulator"]),
    room("checks", BOTH_SIDES_AND_LAB),
    room(
        "checks/simulator",
        &[
            "crates/portcullis",
            "models/bus",
            "models/smmuv3",
            "models/smmuv2",
            "models/vtd",
            "models/cpu",
            "models/ioda2",
            "models/devices",
            "lab",
            "checks",
        ],
    ),
    // The models against QEMU's: no driver may be in between.
    room(
        "checks/differential",
        &["crates/types", "models/bus", "models/smmuv3", "models/ioda2", "models/vtd", "backends/qemu"],
    ),
    room(
        "checks/fuzzed",
        &[
            "crates/portcullis",
            "models/bus",
            "models/smmuv2",
            "models/smmuv3",
            "models/ioda2",
            "models/vtd",
            "lab",
        ],
    ),
    room("benches", BOTH_SIDES_AND_LAB),
    room("xtask", &[]),
];

const EMBEDDED: &[&str] = &[
    "crates/types",
    "crates/spec",
    "crates/hal",
    "crates/pgtable",
    "crates/paging",
    "crates/iova",
    "crates/core",
    "crates/pci",
    "crates/firmware",
    "crates/smmuv3",
    "crates/smmuv2",
    "crates/ioda2",
    "crates/vtd",
    "crates/nvme",
    "crates/vfio",
    "crates/accel",
];

const BOTH_SIDES: &[&str] = &[
    "crates/types",
    "crates/spec",
    "crates/hal",
    "crates/pgtable",
    "crates/iova",
    "crates/core",
    "crates/pci",
    "crates/firmware",
    "crates/smmuv3",
    "crates/smmuv2",
    "crates/ioda2",
    "crates/nvme",
    "crates/vfio",
    "crates/accel",
    "crates/portcullis",
    "models/bus",
    "models/smmuv3",
    "models/smmuv2",
    "models/vtd",
    "models/devices",
    "models/cpu",
    "models/ioda2",
    "backends/qemu",
];

const BOTH_SIDES_AND_LAB: &[&str] = &[
    "crates/types",
    "crates/spec",
    "crates/hal",
    "crates/pgtable",
    "crates/iova",
    "crates/core",
    "crates/pci",
    "crates/firmware",
    "crates/smmuv3",
    "crates/smmuv2",
    "crates/ioda2",
    "crates/nvme",
    "crates/vfio",
    "crates/accel",
    "crates/portcullis",
    "models/bus",
    "models/smmuv3",
    "models/smmuv2",
    "models/vtd",
    "models/devices",
    "models/cpu",
    "models/ioda2",
    "backends/qemu",
    "lab",
];

/// The outside crates that an embedded room may ship: `no_std`, and each explained in ARCHITECTURE.md, "Dependencies".
pub(crate) const EMBEDDABLE: &[&str] = &["bitfield-struct", "bitflags", "lock_api"];
