//! Arm stage 2: from intermediate to physical addresses.
//!
//! | bits | what |
//! |---|---|
//! | 5:2 | MemAttr |
//! | 6, 7 | S2AP: read, write |
//! | 9:8 | SH, unless descriptors are large |
//! | 54 | XN |
//!
//! Up to sixteen tables lie side by side as the root where that saves a level.
//!
//! Spec: Arm ARM DDI 0487 M.a, D8.3.1.2 "VMSAv8-64 Block descriptor and Page descriptor formats", D8.2.2 "Concatenated
//! translation tables".

use portcullis_types::{Cacheability, Pa, PageSizes, Perms, Prot, SizeLg2};

use super::{ACCESS_FLAG, Base, CONTIGUOUS, Config, ConfigError, INNER_SHAREABLE, OUTER_SHAREABLE};
use crate::{BreakBeforeMake, Format, Geometry, Item};

/// At most sixteen.
const CONCATENATED_LG2: u8 = 4;

const MEM_ATTR: u64 = 0b1111 << 2;
/// MemAttr: Normal write-back inside and out; Normal uncached inside and out; Device-nGnRE.
const CACHED: u64 = 0b1111 << 2;
const UNCACHED: u64 = 0b0101 << 2;
const DEVICE: u64 = 0b0001 << 2;
const READ: u64 = 1 << 6;
const WRITE: u64 = 1 << 7;
const EXECUTE_NEVER: u64 = 1 << 54;

/// Arm stage 2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stage2(Base);

impl Stage2 {
    /// The format for `config`.
    ///
    /// # Errors
    ///
    /// As [`ConfigError`] says.
    pub fn new(config: Config) -> Result<Self, ConfigError> {
        // With 4 KiB, walks cannot start at level 3: 25 bits are left with a level 2 of 16 entries.
        let least = config.granule == SizeLg2::KIB_4 && config.input_bits <= 25;
        Base::new(config, if least { 0 } else { CONCATENATED_LG2 }).map(Self)
    }

    /// S2T0SZ of an STE: 64 less the bits of input.
    pub fn t0sz(&self) -> u8 {
        64 - self.0.config.input_bits
    }

    /// S2SL0 of an STE: where walks start. Spec: SMMUv3 H.a, 5.2 "STE", S2SL0: 4 KiB counts from level 2 up, the others from level 3.
    pub fn sl0(&self) -> u8 {
        let lowest = u8::from(self.0.config.granule == SizeLg2::KIB_4);
        self.0.geometry.top() - lowest
    }

    /// S2TG of an STE: 0 for 4 KiB, 1 for 64 KiB, 2 for 16 KiB.
    pub fn tg(&self) -> u8 {
        self.0.granule_code()
    }

    /// What it was made from.
    pub fn config(&self) -> &Config {
        &self.0.config
    }
}

impl Format for Stage2 {
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
        let executes_unread = perms.contains(Perms::EXECUTE) && !perms.contains(Perms::READ);
        // Who is privileged is stage 1's to say.
        if !perms.intersects(Perms::READ_WRITE) || perms.contains(Perms::PRIVILEGED) || executes_unread {
            return None;
        }
        let (attribute, shareability) = match cacheability {
            Cacheability::Cached => (CACHED, INNER_SHAREABLE),
            Cacheability::Uncached => (UNCACHED, OUTER_SHAREABLE),
            Cacheability::Device => (DEVICE, OUTER_SHAREABLE),
        };
        let mut word = attribute | self.0.shareability(shareability) | ACCESS_FLAG;
        for (perm, bit) in [(Perms::READ, READ), (Perms::WRITE, WRITE)] {
            if perms.contains(perm) {
                word |= bit;
            }
        }
        Some(if perms.contains(Perms::EXECUTE) { word } else { word | EXECUTE_NEVER })
    }

    #[inline]
    fn prot(&self, word: u64) -> Prot {
        let cacheability = match word & MEM_ATTR {
            CACHED => Cacheability::Cached,
            UNCACHED => Cacheability::Uncached,
            _ => Cacheability::Device,
        };
        let mut perms = Perms::empty();
        perms.set(Perms::READ, word & READ != 0);
        perms.set(Perms::WRITE, word & WRITE != 0);
        perms.set(Perms::EXECUTE, word & EXECUTE_NEVER == 0);
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
