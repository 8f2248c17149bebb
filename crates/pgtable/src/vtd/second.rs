//! VT-d's second stage: from guest physical, or I/O virtual, to host physical addresses.
//!
//! | bits | what |
//! |---|---|
//! | 0, 1 | R, W |
//! | 5:3 | EMT, of a leaf: memory type; counts only where EMTE says so |
//! | 7 | PS: a leaf above height 0 |
//! | 8, 9 | A, and D of a leaf; count only where SSADE says so |
//! | 11 | SNP, of a leaf, where there is snoop control |
//! | 51:12 | address |
//!
//! An entry with neither R nor W is not present. Permissions are those of all entries on the way: entries that lead to tables give both.
//!
//! Choice: execution cannot be said, so what asks for it is refused; so is what only the privileged may do. Cached memory is EMT 6 (write-back) and
//! snooped, uncached EMT 1 (write combining), devices' EMT 0 (uncacheable); hardware that ignores EMT keeps it as a note of what was asked.
//!
//! Spec: VT-d 5.10, 9.8 "Second-Stage Paging Entries", 3.7.1 "Access Rights", 3.7.2 "Accessed and Dirty Flags".
//! Not here: the I/O read and write bits 61 and 62 (SSIRWE), which are left clear.

use portcullis_types::{Cacheability, Pa, PageSizes, Perms, Prot};

use super::{ConfigError, set};
use crate::{BreakBeforeMake, Format, Geometry, Item, Marks};

const READ: u64 = 1 << 0;
const WRITE: u64 = 1 << 1;
const MEMORY_TYPE: u64 = 0b111 << 3;
const UNCACHEABLE: u64 = 0 << 3;
const WRITE_COMBINING: u64 = 1 << 3;
const WRITE_BACK: u64 = 6 << 3;
const ACCESSED: u64 = 1 << 8;
const DIRTY: u64 = 1 << 9;
const SNOOP: u64 = 1 << 11;

/// What hardware is like, and what the caller wants of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SecondConfig {
    /// 3, 4 or 5: 39, 48 or 57 bits (CAP_REG.SAGAW).
    pub levels: u8,
    /// Bits of an input address: no more than the levels say, and no more than CAP_REG.MGAW.
    pub input_bits: u8,
    /// Bits of an output address: the host address width, 32 to 52.
    pub output_bits: u8,
    /// Whether hardware reads tables through the CPU's caches (ECAP_REG.C; in scalable mode SMPWCS and PWSNP).
    pub coherent: bool,
    /// Whether cached leaves say that accesses snoop, whatever the device asks for (ECAP_REG.SC).
    pub snoop: bool,
    /// Whether leaves have marks (ECAP_REG.SSADS, SSADE of the entry that leads to the table).
    pub accessed_dirty: bool,
    /// Which sizes of leaf are wanted, of 4 KiB, and of 2 MiB and 1 GiB where hardware has them (CAP_REG.SSLPS). 4 KiB is always among them.
    pub page_sizes: PageSizes,
}

impl SecondConfig {
    /// A coherent walker of tables of `levels` levels, all their bits of input, 48 of output, every size of leaf, no marks, no snoop control.
    pub const fn new(levels: u8) -> Self {
        Self {
            levels,
            input_bits: 12 + 9 * levels,
            output_bits: 48,
            coherent: true,
            snoop: false,
            accessed_dirty: false,
            page_sizes: PageSizes::from_bits(u64::MAX),
        }
    }
}

/// VT-d's second stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SecondStage {
    config: SecondConfig,
    geometry: Geometry,
    page_sizes: PageSizes,
}

impl SecondStage {
    /// The format for `config`.
    ///
    /// # Errors
    ///
    /// As [`ConfigError`] says.
    pub fn new(config: SecondConfig) -> Result<Self, ConfigError> {
        if !(3..=5).contains(&config.levels) {
            return Err(ConfigError::Levels(config.levels));
        }
        let geometry = super::geometry(config.input_bits, config.output_bits, config.levels)?;
        let page_sizes = super::page_sizes(&geometry, config.page_sizes);
        Ok(Self { config, geometry, page_sizes })
    }

    /// AW of the entry that leads to the table: 1 for 3 levels, 2 for 4, 3 for 5.
    ///
    /// Spec: VT-d 5.10, 9.3 "Context Entry", AW; 9.6 "Scalable-Mode PASID Table Entry", AW.
    pub fn aw(&self) -> u8 {
        self.config.levels - 2
    }

    /// What it was made from.
    pub fn config(&self) -> &SecondConfig {
        &self.config
    }
}

impl Format for SecondStage {
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
        super::decode(word, READ | WRITE, height, self.geometry.size(height))
    }

    #[inline]
    fn attributes(&self, prot: Prot) -> Option<u64> {
        let Prot { perms, cacheability } = prot;
        if !perms.intersects(Perms::READ_WRITE) || perms.intersects(Perms::PRIVILEGED | Perms::EXECUTE) {
            return None;
        }
        let snoop = if self.config.snoop { SNOOP } else { 0 };
        let word = match cacheability {
            Cacheability::Cached => WRITE_BACK | snoop,
            Cacheability::Uncached => WRITE_COMBINING,
            Cacheability::Device => UNCACHEABLE,
        };
        let writable = perms.contains(Perms::WRITE);
        let word = set(word, READ, perms.contains(Perms::READ));
        Some(self.with_marks(set(word, WRITE, writable), Marks::USED))
    }

    #[inline]
    fn prot(&self, word: u64) -> Prot {
        let cacheability = match word & MEMORY_TYPE {
            WRITE_BACK => Cacheability::Cached,
            WRITE_COMBINING => Cacheability::Uncached,
            _ => Cacheability::Device,
        };
        let mut perms = Perms::empty();
        perms.set(Perms::READ, word & READ != 0);
        perms.set(Perms::WRITE, word & WRITE != 0);
        Prot { perms, cacheability }
    }

    #[inline]
    fn leaf(&self, height: u8, pa: Pa, attributes: u64) -> u64 {
        super::leaf(height, pa, attributes)
    }

    #[inline]
    fn table(&self, pa: Pa) -> u64 {
        let accessed = if self.config.accessed_dirty { ACCESSED } else { 0 };
        pa.get() & super::ADDRESS | READ | WRITE | accessed
    }

    #[inline]
    fn marks(&self, word: u64) -> Marks {
        if self.config.accessed_dirty {
            Marks { accessed: word & ACCESSED != 0, dirty: word & DIRTY != 0 }
        } else {
            Marks::USED
        }
    }

    #[inline]
    fn with_marks(&self, word: u64, marks: Marks) -> u64 {
        if !self.config.accessed_dirty {
            return word;
        }
        // What cannot be written is never dirty.
        set(set(word, ACCESSED, marks.accessed), DIRTY, marks.dirty && word & WRITE != 0)
    }
}
