//! Arm's 64-bit tables: what stage 1 and stage 2 have in common.
//!
//! | bits | what |
//! |---|---|
//! | 0 | valid |
//! | 1 | above height 0: 1 table, 0 block; at height 0: always 1 |
//! | 10 | AF, access flag |
//! | 47:12 | output address, from the granule up |
//! | 15:12 | output address 51:48, where the granule is 64 KiB |
//! | 49:48, 9:8 | output address 49:48 and 51:50, where descriptors are large (DS); there is no SH field then |
//! | 52 | contiguous |
//!
//! Spec: Arm ARM DDI 0487 M.a, D8.3 "Translation table descriptor formats".

mod registers;
mod stage1;
mod stage2;

use portcullis_types::{Pa, PageSizes, SizeLg2};

use crate::{BreakBeforeMake, Geometry, Item};

pub use registers::{ADDRESS_BITS, address_code, granule_code, ttbr};
pub use stage1::{MAIR, Stage1};
pub use stage2::Stage2;

/// What hardware is like, and what the caller wants of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// The smallest page: 4, 16 or 64 KiB.
    pub granule: SizeLg2,
    /// Bits of an input address: 25 to 48, or to 52 with a 64 KiB granule or large descriptors.
    pub input_bits: u8,
    /// Bits of an output address: 32, 36, 40, 42, 44 or 48, or 52 with a 64 KiB granule or large descriptors.
    pub output_bits: u8,
    /// Large descriptors (DS), for 4 and 16 KiB granules: 52-bit addresses.
    pub large: bool,
    /// What hardware allows to be done to live entries.
    pub break_before_make: BreakBeforeMake,
    /// Whether hardware reads tables through the CPU's caches.
    pub coherent: bool,
    /// Which marks stage 1 leaves have. Then there is no contiguous hint, since hardware may set the marks of any leaf of a run.
    pub hardware_update: HardwareUpdate,
    /// Which sizes of leaf are wanted, of those that the format has. The granule is always among them.
    pub page_sizes: PageSizes,
}

impl Config {
    /// A coherent walker that allows every change, 48 bits on both sides, every size of leaf.
    pub const fn new(granule: SizeLg2) -> Self {
        Self {
            granule,
            input_bits: 48,
            output_bits: 48,
            large: false,
            break_before_make: BreakBeforeMake::Never,
            coherent: true,
            hardware_update: HardwareUpdate::None,
            page_sizes: PageSizes::from_bits(u64::MAX),
        }
    }
}

/// Which marks hardware may set in leaves by itself.
///
/// Hardware that walks the same table and cannot set a mark faults instead, and software sets it
/// ([`PageTable::set_marks`](crate::PageTable::set_marks)).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum HardwareUpdate {
    /// None: a leaf is accessed, and dirty if it can be written, from the first.
    #[default]
    None,
    /// That it was accessed.
    Access,
    /// That it was accessed, and that it is dirty.
    AccessAndDirty,
}

/// Why there is no format for a configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConfigError {
    /// Not 4, 16 or 64 KiB.
    Granule(SizeLg2),
    /// So many bits of input cannot be, with this granule.
    InputBits(u8),
    /// So many bits of output cannot be, with this granule.
    OutputBits(u8),
    /// Large descriptors are for granules of 4 and 16 KiB.
    Large,
}

pub(crate) const VALID: u64 = 1 << 0;
pub(crate) const TABLE_OR_PAGE: u64 = 1 << 1;
pub(crate) const ACCESS_FLAG: u64 = 1 << 10;
pub(crate) const CONTIGUOUS: u64 = 1 << 52;
const OUTPUT_47_12: u64 = 0x0000_ffff_ffff_f000;
const OUTPUT_49_12: u64 = 0x0003_ffff_ffff_f000;

/// Values of an SH field. Spec: Arm ARM DDI 0487 M.a, D8.6.2 "Stage 1 Shareability attributes".
pub(crate) const OUTER_SHAREABLE: u64 = 0b10 << 8;
pub(crate) const INNER_SHAREABLE: u64 = 0b11 << 8;

/// The part of a format that does not depend on the stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Base {
    pub(crate) geometry: Geometry,
    pub(crate) config: Config,
    pub(crate) page_sizes: PageSizes,
}

impl Base {
    pub(crate) fn new(config: Config, concatenated_lg2: u8) -> Result<Self, ConfigError> {
        let wide = match (config.granule, config.large) {
            (SizeLg2::KIB_64, true) => return Err(ConfigError::Large),
            (SizeLg2::KIB_4 | SizeLg2::KIB_16, large) => large,
            (SizeLg2::KIB_64, false) => true,
            (granule, _) => return Err(ConfigError::Granule(granule)),
        };
        let most = if wide { 52 } else { 48 };
        if !(25..=most).contains(&config.input_bits) {
            return Err(ConfigError::InputBits(config.input_bits));
        }
        if config.output_bits > most || ![32, 36, 40, 42, 44, 48, 52].contains(&config.output_bits) {
            return Err(ConfigError::OutputBits(config.output_bits));
        }
        let geometry = Geometry::new(config.granule.get(), config.input_bits, concatenated_lg2);
        let geometry = geometry.ok_or(ConfigError::InputBits(config.input_bits))?;
        let legal = |height: &u8| *height <= geometry.top().min(tallest_block(&config));
        let sizes = (0..=3)
            .filter(legal)
            .fold(PageSizes::default(), |sizes, height| sizes.with(geometry.size(height)));
        let page_sizes = sizes.intersection(config.page_sizes.with(config.granule));
        Ok(Self { geometry, config, page_sizes })
    }

    #[inline]
    pub(crate) fn decode(&self, word: u64, height: u8) -> Item {
        match (word & TABLE_OR_PAGE != 0, height) {
            _ if word == 0 => Item::Absent,
            _ if word & VALID == 0 => Item::Corrupt,
            (true, 1..) => Item::Table(self.output(word, self.config.granule)),
            (true, 0) => self.leaf_item(word, height),
            (false, 1..) if height <= tallest_block(&self.config) => self.leaf_item(word, height),
            (false, _) => Item::Corrupt,
        }
    }

    #[inline]
    fn leaf_item(&self, word: u64, height: u8) -> Item {
        Item::Leaf { pa: self.output(word, self.geometry.size(height)), contiguous: word & CONTIGUOUS != 0 }
    }

    /// The output address of a word, a multiple of `size`.
    #[inline]
    fn output(&self, word: u64, size: SizeLg2) -> Pa {
        let above = !(size.bytes() - 1);
        Pa::new(match (self.config.granule, self.config.large) {
            (SizeLg2::KIB_64, _) => (word & OUTPUT_47_12 & above) | (word >> 12 & 0xf) << 48,
            (_, true) => (word & OUTPUT_49_12 & above) | (word >> 8 & 0b11) << 50,
            (_, false) => word & OUTPUT_47_12 & above,
        })
    }

    /// The address field for an output address.
    #[inline]
    fn address(&self, pa: Pa) -> u64 {
        let pa = pa.get();
        match (self.config.granule, self.config.large) {
            (SizeLg2::KIB_64, _) => (pa & OUTPUT_47_12) | (pa >> 48 & 0xf) << 12,
            (_, true) => (pa & OUTPUT_49_12) | (pa >> 50 & 0b11) << 8,
            (_, false) => pa & OUTPUT_47_12,
        }
    }

    #[inline]
    pub(crate) fn leaf(&self, height: u8, pa: Pa, attributes: u64) -> u64 {
        let kind = if height == 0 { VALID | TABLE_OR_PAGE } else { VALID };
        self.address(pa) | attributes | kind
    }

    #[inline]
    pub(crate) fn table(&self, pa: Pa) -> u64 {
        self.address(pa) | VALID | TABLE_OR_PAGE
    }

    /// The SH field, where there is one.
    #[inline]
    pub(crate) fn shareability(&self, field: u64) -> u64 {
        if self.config.large { 0 } else { field }
    }

    /// Spec: Arm ARM DDI 0487 M.a, D8.7.1 "The Contiguous bit": runs of 16 with 4 KiB; of 128 pages or 32
    /// blocks of 32 MiB with 16 KiB; of 32 pages or blocks of 512 MiB with 64 KiB.
    ///
    /// Choice: larger blocks get no hint.
    pub(crate) fn contiguous_lg2(&self, height: u8) -> u8 {
        if self.config.hardware_update != HardwareUpdate::None {
            return 0;
        }
        let lg2 = match (self.config.granule, height) {
            (SizeLg2::KIB_4, 0..=2) => 4,
            (SizeLg2::KIB_16, 0) => 7,
            (SizeLg2::KIB_16 | SizeLg2::KIB_64, 0..=1) => 5,
            _ => return 0,
        };
        // A run lies in one table, and in one address space.
        if 1 << lg2 <= self.geometry.entries(height) { lg2 } else { 0 }
    }

    /// Where a carry would leave the address field.
    pub(crate) fn counting_bits(&self) -> u8 {
        match (self.config.granule, self.config.large) {
            (SizeLg2::KIB_64, _) => 48,
            (_, true) => 50,
            (_, false) => 64,
        }
    }

    pub(crate) fn granule_code(&self) -> u8 {
        granule_code(self.config.granule)
    }
}

/// The tallest height at which there are blocks.
///
/// Spec: Arm ARM DDI 0487 M.a, D8.3 "Translation table descriptor formats": 2 MiB and 1 GiB with 4 KiB (512 GiB if
/// large), 32 MiB with 16 KiB (64 GiB if large), 512 MiB with 64 KiB (4 TiB with 52-bit output).
fn tallest_block(config: &Config) -> u8 {
    match (config.granule, config.large) {
        (SizeLg2::KIB_4, large) => 2 + u8::from(large),
        (SizeLg2::KIB_16, large) => 1 + u8::from(large),
        _ => 1 + u8::from(config.output_bits > 48),
    }
}
