//! VT-d's first stage: the table that an x86-64 process has.
//!
//! | bits | what |
//! |---|---|
//! | 0 | P |
//! | 1 | R/W |
//! | 2 | U/S: unprivileged access |
//! | 4:3 | PCD, PWT, of a leaf: which type of [`PAT`] |
//! | 5, 6 | A, and D of a leaf |
//! | 7 | PS: a leaf above height 0 |
//! | 10 | EA, extended accessed; counts only where EAFE says so |
//! | 51:12 | address |
//! | 63 | XD, of a leaf: a CPU may not execute it; hardware of VT-d ignores it |
//!
//! Permissions are those of all entries on the way: entries that lead to tables give all. Marks always count: where hardware does not snoop tables, a
//! mark that is due is a fault, so leaves are made marked unless the caller wants otherwise. Global pages (bit 8) and protection keys (62:59) are not used.
//!
//! Input addresses are those of the lower half: bit 47, or 56, and all above are alike, and clear.
//!
//! Choice: there is no way to say "write only": a mapping that may be written may be read as well. `lookup` says so.
//!
//! Spec: VT-d 5.10, 9.7 "First-Stage Paging Entries", 3.6.1 "Access Rights", 3.6.2 "Accessed, Extended Accessed, and Dirty Flags"; Intel SDM volume 3A,
//! 4.5 "4-Level Paging and 5-Level Paging", XD.

use portcullis_types::{Cacheability, Pa, PageSizes, Perms, Prot};

use super::{ConfigError, set};
use crate::{BreakBeforeMake, Format, Geometry, Item, Marks};

/// The memory types that PCD and PWT count in, as PAT of a PASID table entry has them: 0 write-back, 1 write-through, 2 UC-, 3 uncacheable, and again. It
/// is what a CPU's PAT is after reset.
///
/// Spec: VT-d 5.10, 9.6 "Scalable-Mode PASID Table Entry", PAT.
pub const PAT: u32 = 0x0746_0746;

const PRESENT: u64 = 1 << 0;
const WRITE: u64 = 1 << 1;
const USER: u64 = 1 << 2;
/// PWT and PCD. PAT, the third bit of the index, lies elsewhere in blocks than in pages, and is not needed.
const MEMORY_TYPE: u64 = 0b11 << 3;
const CACHED: u64 = 0b00 << 3;
const UNCACHED: u64 = 0b10 << 3;
const DEVICE: u64 = 0b11 << 3;
const ACCESSED: u64 = 1 << 5;
const DIRTY: u64 = 1 << 6;
const EXTENDED_ACCESSED: u64 = 1 << 10;
const EXECUTE_DISABLE: u64 = 1 << 63;

/// What hardware is like, and what the caller wants of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FirstConfig {
    /// 4, or 5 where hardware has them (CAP_REG.FS5LP): 47 or 56 bits of input.
    pub levels: u8,
    /// Bits of an input address: no more than the lower half has with so many levels.
    pub input_bits: u8,
    /// Bits of an output address: the host address width, 32 to 52.
    pub output_bits: u8,
    /// Whether hardware reads tables through the CPU's caches (ECAP_REG.SMPWCS and PWSNP).
    pub coherent: bool,
    /// Whether entries have the extended accessed flag (ECAP_REG.EAFS, EAFE of the PASID table entry).
    pub extended_accessed: bool,
    /// Which sizes of leaf are wanted, of 4 KiB, 2 MiB, and 1 GiB where hardware has it (CAP_REG.FS1GP). 4 KiB is always among them.
    pub page_sizes: PageSizes,
}

impl FirstConfig {
    /// A coherent walker of tables of `levels` levels, the whole lower half, 48 bits of output, every size of leaf, no extended accessed flag.
    pub const fn new(levels: u8) -> Self {
        Self {
            levels,
            input_bits: lower_half(levels),
            output_bits: 48,
            coherent: true,
            extended_accessed: false,
            page_sizes: PageSizes::from_bits(u64::MAX),
        }
    }
}

/// Bits of the lower half of canonical addresses.
const fn lower_half(levels: u8) -> u8 {
    12 + 9 * levels - 1
}

/// VT-d's first stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FirstStage {
    config: FirstConfig,
    geometry: Geometry,
    page_sizes: PageSizes,
}

impl FirstStage {
    /// The format for `config`.
    ///
    /// # Errors
    ///
    /// As [`ConfigError`] says.
    pub fn new(config: FirstConfig) -> Result<Self, ConfigError> {
        if !(4..=5).contains(&config.levels) {
            return Err(ConfigError::Levels(config.levels));
        }
        if config.input_bits > lower_half(config.levels) {
            return Err(ConfigError::InputBits(config.input_bits));
        }
        let geometry = super::geometry(config.input_bits, config.output_bits, config.levels)?;
        let page_sizes = super::page_sizes(&geometry, config.page_sizes);
        Ok(Self { config, geometry, page_sizes })
    }

    /// FSPM of a PASID table entry: 0 for 4 levels, 1 for 5.
    ///
    /// Spec: VT-d 5.10, 9.6 "Scalable-Mode PASID Table Entry", FSPM.
    pub fn fspm(&self) -> u8 {
        self.config.levels - 4
    }

    /// What it was made from.
    pub fn config(&self) -> &FirstConfig {
        &self.config
    }

    /// The bits that say that an entry was used.
    fn accessed(&self) -> u64 {
        if self.config.extended_accessed { ACCESSED | EXTENDED_ACCESSED } else { ACCESSED }
    }
}

impl Format for FirstStage {
    #[inline]
    fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    fn page_sizes(&self) -> PageSizes {
        self.page_sizes
    }

    fn break_before_make(&self) -> BreakBeforeMake {
        BreakBeforeMake::Never
    }

    fn forgets_whole_leaves(&self) -> bool {
        true
    }

    fn coherent(&self) -> bool {
        self.config.coherent
    }

    fn output_bits(&self) -> u8 {
        self.config.output_bits
    }

    #[inline]
    fn decode(&self, word: u64, height: u8) -> Item {
        super::decode(word, PRESENT, height, self.geometry.size(height))
    }

    #[inline]
    fn attributes(&self, prot: Prot) -> Option<u64> {
        let Prot { perms, cacheability } = prot;
        if !perms.intersects(Perms::READ_WRITE) {
            return None;
        }
        let word = PRESENT
            | match cacheability {
                Cacheability::Cached => CACHED,
                Cacheability::Uncached => UNCACHED,
                Cacheability::Device => DEVICE,
            };
        let writable = perms.contains(Perms::WRITE);
        let word = set(word, WRITE, writable);
        let word = set(word, USER, !perms.contains(Perms::PRIVILEGED));
        let word = set(word, EXECUTE_DISABLE, !perms.contains(Perms::EXECUTE));
        Some(self.with_marks(word, Marks::USED))
    }

    #[inline]
    fn prot(&self, word: u64) -> Prot {
        let cacheability = match word & MEMORY_TYPE {
            CACHED => Cacheability::Cached,
            DEVICE => Cacheability::Device,
            _ => Cacheability::Uncached,
        };
        let mut perms = Perms::READ;
        perms.set(Perms::WRITE, word & WRITE != 0);
        perms.set(Perms::PRIVILEGED, word & USER == 0);
        perms.set(Perms::EXECUTE, word & EXECUTE_DISABLE == 0);
        Prot { perms, cacheability }
    }

    #[inline]
    fn leaf(&self, height: u8, pa: Pa, attributes: u64) -> u64 {
        super::leaf(height, pa, attributes)
    }

    #[inline]
    fn table(&self, pa: Pa) -> u64 {
        pa.get() & super::ADDRESS | PRESENT | WRITE | USER | self.accessed()
    }

    #[inline]
    fn marks(&self, word: u64) -> Marks {
        Marks { accessed: word & ACCESSED != 0, dirty: word & DIRTY != 0 }
    }

    #[inline]
    fn with_marks(&self, word: u64, marks: Marks) -> u64 {
        // What cannot be written is never dirty.
        set(set(word, self.accessed(), marks.accessed), DIRTY, marks.dirty && word & WRITE != 0)
    }
}
