//! Where hardware that we did not write is known to differ from the book.
//!
//! Each row is a case that fails on a bed, by what it fails there, and the clause that decides. A row whose case holds fails the suite: it is to be taken out.

use super::records::CLASS_IN;

/// A known difference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Difference {
    /// On which beds.
    pub beds: &'static [&'static str],
    /// How the case's title begins.
    pub case: &'static str,
    /// What the failure says.
    pub shows: &'static str,
    /// What the bed does, and the clause that says otherwise.
    pub why: &'static str,
}

impl Difference {
    /// Whether it is about this case.
    pub fn is_about(&self, title: &str) -> bool {
        title.starts_with(self.case)
    }

    /// Whether it explains this failure.
    pub fn explains(&self, said: &str) -> bool {
        said.contains(self.shows)
    }
}

const QEMU: &[&str] = &["qemu-7", "qemu-11"];
const QEMU_7: &[&str] = &["qemu-7"];
const QEMU_11: &[&str] = &["qemu-11"];

/// QEMU's VT-d up to 7.2.
const Q35_7: &[&str] = &["qemu-7-q35-legacy", "qemu-7-q35-caching"];
/// QEMU's VT-d with first-stage tables alone.
const FIRST_STAGE: &[&str] = &["qemu-11-q35-first-stage"];
/// QEMU's VT-d where it is in scalable mode.
const SCALABLE: &[&str] = &["qemu-11-q35-scalable", "qemu-11-q35-first-stage"];

const fn difference(
    beds: &'static [&'static str],
    case: &'static str,
    shows: &'static str,
    why: &'static str,
) -> Difference {
    Difference { beds, case, shows, why }
}

const CACHED_AND_SILENT: &str =
    "what a cached entry forbids is refused and not recorded; VT-d 5.10, 7.1.3, Table 30, LGN.2 and LGN.3";
const NARROW: &str = "a first stage's canonical addresses are measured by AW, which is a second stage's; VT-d 5.10, 9.6, AW, and 3.6: by the levels of FSPM";
const CONCATENATED: &str = "of concatenated first tables only the first is found; Arm ARM, D8.2 \"Translation process\", concatenated translation tables";

/// Every known difference. Observed: QEMU 7.2.22 and 11.1, of Debian 12 and 13.
pub const DIFFERENCES: &[Difference] = &[
    difference(
        QEMU_7,
        CLASS_CASE,
        "F_TRANSLATION",
        "CLASS is 0, a CD's fetch; SMMUv3 H.a, 7.3.13 \"F_TRANSLATION\": IN",
    ),
    difference(
        QEMU_7,
        "an address of the upper half is F_TRANSLATION",
        "nothing was recorded",
        "refused, not recorded; SMMUv3 H.a, 7.3.13 \"F_TRANSLATION\": within a disabled TTBx",
    ),
    difference(
        QEMU,
        "what is for the privileged is not for others",
        "reached",
        "AP[1] is not looked at; Arm ARM, D8.4 \"Memory access control\", stage 1 data permissions",
    ),
    difference(
        QEMU_7,
        "F_ACCESS is recorded of a page whose access flag is clear",
        "reached",
        "the access flag is not looked at; SMMUv3 H.a, 7.3.15 \"F_ACCESS\", 5.4 \"CD\", AFFD",
    ),
    difference(
        QEMU_7,
        "F_ADDR_SIZE is recorded of a page beyond the output size",
        "nothing was recorded",
        "IPS is not compared with; SMMUv3 H.a, 3.4 \"Address sizes\", 7.3.14 \"F_ADDR_SIZE\"",
    ),
    difference(
        QEMU,
        "identity refuses an address beyond the output size with F_ADDR_SIZE",
        "nothing was recorded",
        "bypass compares with nothing; SMMUv3 H.a, 3.4 \"Address sizes\": a stage 1 Address Size fault",
    ),
    difference(
        QEMU,
        "a context descriptor that cannot be fetched is F_CD_FETCH",
        "F_CD_FETCH 0x0000000800000009 0x0 0xc00000000 0x0",
        "FetchAddr is in bits 191:128; SMMUv3 H.a, 7.3.10 \"F_CD_FETCH\": 247:195",
    ),
    difference(
        QEMU,
        "a linear table after one of two levels leads each stream to its domain",
        "C_BAD_STREAMID",
        "a table is of two levels for ever once one was; SMMUv3 H.a, 6.3.25 \"SMMU_STRTAB_BASE_CFG\", FMT",
    ),
    difference(
        QEMU,
        "an event queue that overflows says so, and goes on",
        "do not overflow",
        "OVFLG is never set, EVENTQ_ABT_ERR is instead; SMMUv3 H.a, 7.4 \"Event queue overflow\"",
    ),
    difference(
        QEMU_7,
        "an SMMU that was turned off aborts everything",
        "passed an SMMU that is off",
        "there is no SMMU_GBPA; SMMUv3 H.a, 6.3.14 \"SMMU_GBPA\", ABORT",
    ),
    difference(
        QEMU_7,
        "an SMMU that is disabled passes everything if it is told to",
        "GBPA.ABORT aborts nothing",
        "there is no SMMU_GBPA; SMMUv3 H.a, 6.3.14 \"SMMU_GBPA\", ABORT",
    ),
    difference(
        QEMU,
        "a stream behind the end of the table is refused in silence if nobody asks",
        "and recorded: C_BAD_STREAMID",
        "it is recorded all the same; SMMUv3 H.a, 6.3.12 \"SMMU_CR2\", RECINVSID",
    ),
    difference(
        QEMU_11,
        IPA_CASE,
        "F_TRANSLATION",
        "the offset is recorded, too; SMMUv3 H.a, 7.3.13 \"F_TRANSLATION\": bits 203:192 are RES0",
    ),
    difference(
        QEMU_11,
        "what may be written alone is not read",
        "nothing was recorded",
        "what a cached entry of stage 2 forbids is refused and not recorded; SMMUv3 H.a, 7.3.16 \"F_PERMISSION\"",
    ),
    difference(
        QEMU_11,
        "what may be read is read and not written (stage 2",
        "nothing was recorded",
        "what a cached entry of stage 2 forbids is refused and not recorded; SMMUv3 H.a, 7.3.16 \"F_PERMISSION\"",
    ),
    difference(
        QEMU_11,
        "F_ADDR_SIZE is recorded of a page beyond the output size (stage 2",
        "C_BAD_STE",
        "S2T0SZ is compared with S2PS; SMMUv3 H.a, 5.2 \"STE\", S2T0SZ: at least 64 - IAS, which is OAS",
    ),
    difference(
        QEMU_11,
        "the address above the aperture is F_TRANSLATION (stage 2, 4 KiB)",
        "did not reach",
        CONCATENATED,
    ),
    difference(
        QEMU_11,
        "the address above the aperture is F_TRANSLATION (stage 2, 64 KiB)",
        "did not reach",
        CONCATENATED,
    ),
    difference(
        QEMU_11,
        "the first and the last page of the aperture can be used (stage 2, 64 KiB)",
        "did not reach",
        CONCATENATED,
    ),
    difference(Q35_7, "what may be read alone is not written", "wanted, []", CACHED_AND_SILENT),
    difference(Q35_7, "what may be written alone is not read", "wanted, []", CACHED_AND_SILENT),
    difference(
        &["qemu-11-q35-scalable"],
        "what is refused is told by the book's name for it (scalable",
        "LGN.2",
        "refusals have legacy mode's numbers; VT-d 5.10, 7.1.3, Table 30: SSS.2 and its kin",
    ),
    difference(
        SCALABLE,
        "identity leads everything to itself, and a domain does so no more (scalable",
        "reached",
        "a source that passed goes on passing until its context entry is invalidated; VT-d 5.10, 6.5.3.3, Table 28: PASID cache and IOTLB suffice",
    ),
    difference(FIRST_STAGE, "each size of page and block leads where it says (scalable", "SGN.1", NARROW),
    difference(
        FIRST_STAGE,
        "the first and the last page of the aperture can be used (scalable",
        "SGN.1",
        NARROW,
    ),
];

/// What else a bed calls what the book calls so, as the case about names shows.
pub fn also(bed: &str, name: &str) -> &'static [&'static str] {
    if !SCALABLE.contains(&bed) {
        return &[];
    }
    match name {
        "SRT.2" => &["LRT.2"],
        "SCT.2" => &["LCT.2"],
        "SGN.5" => &["LGN.1"],
        "SGN.6" => &["LGN.2"],
        "SGN.7" => &["LGN.3"],
        "SSS.1" => &["LSS.1"],
        // Which it does not tell apart from a lack of permission.
        "SSS.2" => &["LGN.2", "LGN.3"],
        "SSS.3" => &["LSS.2"],
        _ => &[],
    }
}

/// Bits of every record that a bed gets wrong, word by word, as the cases about them show.
pub fn unsaid(bed: &str) -> [u64; 4] {
    let wrong = |case: &str| {
        let mut rows = DIFFERENCES.iter().filter(|known| known.case == case);
        rows.any(|known| known.beds.contains(&bed))
    };
    let class = if wrong(CLASS_CASE) { CLASS_IN } else { 0 };
    let offset = if wrong(IPA_CASE) { 0xfff } else { 0 };
    [0, class, 0, offset]
}

const CLASS_CASE: &str = "a fault of an input address says CLASS IN";
const IPA_CASE: &str = "a fault of stage 2 says the page of its address, and nothing of the offset";

/// Those of a bed.
pub fn differences_of(bed: &str) -> Vec<&'static Difference> {
    DIFFERENCES.iter().filter(|known| known.beds.contains(&bed)).collect()
}
