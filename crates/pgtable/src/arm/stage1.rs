//! Arm stage 1: from I/O virtual to intermediate or physical addresses.
//!
//! | bits | what |
//! |---|---|
//! | 4:2 | AttrIndx, into [`MAIR`] |
//! | 6 | AP\[1\]: unprivileged access |
//! | 7 | AP\[2\]: read only |
//! | 9:8 | SH, unless descriptors are large |
//! | 11 | nG: the entry is of one ASID |
//! | 51 | DBM: of a read-only entry that it may be written, and is clean |
//! | 53, 54 | PXN, UXN |
//!
//! Choice: stage 1 has no way to say "write only": a mapping that may be written may be read as well. `lookup` says so.
//!
//! Spec: Arm ARM DDI 0487 M.a, D8.3.1.2 "VMSAv8-64 Block descriptor and Page descriptor formats", D8.4 "Memory access
//! control".

use portcullis_types::{Cacheability, Pa, PageSizes, Perms, Prot, mutant};

use super::{
    ACCESS_FLAG, Base, CONTIGUOUS, Config, ConfigError, HardwareUpdate, INNER_SHAREABLE, OUTER_SHAREABLE,
};
use crate::{BreakBeforeMake, Format, Geometry, Item, Marks};

/// The memory attributes that AttrIndx counts in: 0 Normal uncached (0x44), 1 Normal write-back (0xff), 2 Device-nGnRE (0x04).
///
/// Spec: Arm ARM DDI 0487 M.a, D24.2.127 "MAIR_EL1, Memory Attribute Indirection Register (EL1)".
pub const MAIR: u64 = 0x04_ff_44;

const UNCACHED: u64 = 0;
const CACHED: u64 = 1;
const DEVICE: u64 = 2;

const ATTR_INDEX: u64 = 0b111 << 2;
const UNPRIVILEGED: u64 = 1 << 6;
const READ_ONLY: u64 = 1 << 7;
const NOT_GLOBAL: u64 = 1 << 11;
/// Spec: Arm ARM DDI 0487 M.a, D8.5 "Hardware updates to the translation tables".
const DIRTY_BIT_MODIFIER: u64 = 1 << 51;
const PRIVILEGED_EXECUTE_NEVER: u64 = 1 << 53;
const EXECUTE_NEVER: u64 = 1 << 54;

/// Arm stage 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stage1(Base);

impl Stage1 {
    /// The format for `config`.
    ///
    /// # Errors
    ///
    /// As [`ConfigError`] says.
    pub fn new(config: Config) -> Result<Self, ConfigError> {
        Base::new(config, 0).map(Self)
    }

    /// T0SZ of a CD: 64 less the bits of input.
    pub fn t0sz(&self) -> u8 {
        64 - self.0.config.input_bits
    }

    /// TG0 of a CD: 0 for 4 KiB, 1 for 64 KiB, 2 for 16 KiB.
    pub fn tg0(&self) -> u8 {
        self.0.granule_code()
    }

    /// What it was made from.
    pub fn config(&self) -> &Config {
        &self.0.config
    }

    /// Whether leaves that can be written say whether they are dirty.
    fn keeps_dirty(&self) -> bool {
        self.0.config.hardware_update == HardwareUpdate::AccessAndDirty
    }
}

impl Format for Stage1 {
    #[inline]
    fn geometry(&self) -> &Geometry {
        &self.0.geometry
    }

    fn page_sizes(&self) -> PageSizes {
        self.0.page_sizes
    }

    fn break_before_make(&self) -> BreakBeforeMake {
        self.0.config.break_before_make
    }

    fn coherent(&self) -> bool {
        self.0.config.coherent
    }

    fn output_bits(&self) -> u8 {
        self.0.config.output_bits
    }

    #[inline]
    fn decode(&self, word: u64, height: u8) -> Item {
        self.0.decode(word, height)
    }

    #[inline]
    fn attributes(&self, prot: Prot) -> Option<u64> {
        let Prot { perms, cacheability } = prot;
        if !perms.intersects(Perms::READ_WRITE) {
            return None;
        }
        let (index, shareability) = match cacheability {
            Cacheability::Cached => (CACHED, INNER_SHAREABLE),
            Cacheability::Uncached => (UNCACHED, OUTER_SHAREABLE),
            Cacheability::Device => (DEVICE, OUTER_SHAREABLE),
        };
        let mut word = index << 2 | self.0.shareability(shareability) | ACCESS_FLAG;
        word |= if mutant!("leaf-of-every-asid") { 0 } else { NOT_GLOBAL };
        if !perms.contains(Perms::WRITE) && !mutant!("read-only-leaf-is-writable") {
            word |= READ_ONLY;
        } else if self.keeps_dirty() {
            word |= DIRTY_BIT_MODIFIER;
        }
        word |= match (perms.contains(Perms::PRIVILEGED), perms.contains(Perms::EXECUTE)) {
            (false, false) => UNPRIVILEGED | EXECUTE_NEVER | PRIVILEGED_EXECUTE_NEVER,
            (false, true) => UNPRIVILEGED,
            (true, false) => EXECUTE_NEVER | PRIVILEGED_EXECUTE_NEVER,
            (true, true) => EXECUTE_NEVER,
        };
        Some(word)
    }

    #[inline]
    fn prot(&self, word: u64) -> Prot {
        let cacheability = match (word & ATTR_INDEX) >> 2 {
            CACHED => Cacheability::Cached,
            DEVICE => Cacheability::Device,
            _ => Cacheability::Uncached,
        };
        let privileged = word & UNPRIVILEGED == 0;
        let never = if privileged { PRIVILEGED_EXECUTE_NEVER } else { EXECUTE_NEVER };
        let mut perms = Perms::READ;
        let clean = self.keeps_dirty() && word & DIRTY_BIT_MODIFIER != 0;
        perms.set(Perms::WRITE, word & READ_ONLY == 0 || clean);
        perms.set(Perms::PRIVILEGED, privileged);
        perms.set(Perms::EXECUTE, word & never == 0);
        Prot { perms, cacheability }
    }

    #[inline]
    fn leaf(&self, height: u8, pa: Pa, attributes: u64) -> u64 {
        self.0.leaf(height, pa, attributes)
    }

    #[inline]
    fn table(&self, pa: Pa) -> u64 {
        self.0.table(pa)
    }

    #[inline]
    fn marks(&self, word: u64) -> Marks {
        Marks { accessed: word & ACCESS_FLAG != 0, dirty: word & READ_ONLY == 0 }
    }

    #[inline]
    fn with_marks(&self, word: u64, marks: Marks) -> u64 {
        let set = |word: u64, bit: u64, on: bool| if on { word | bit } else { word & !bit };
        let word = match self.0.config.hardware_update {
            HardwareUpdate::None => word,
            _ => set(word, ACCESS_FLAG, marks.accessed),
        };
        let keeps = self.keeps_dirty() && word & DIRTY_BIT_MODIFIER != 0;
        if keeps { set(word, READ_ONLY, !marks.dirty) } else { word }
    }

    fn contiguous_bit(&self) -> u64 {
        CONTIGUOUS
    }

    fn contiguous_lg2(&self, height: u8) -> u8 {
        self.0.contiguous_lg2(height)
    }

    fn counting_bits(&self) -> u8 {
        self.0.counting_bits()
    }
}
