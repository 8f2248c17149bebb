//! Translation validation entries: what a window of a PE is.
//!
//! A [`Window`] is what a TVE means. A window of TCEs translates through a tree of tables whose levels are all of one size; a bypass window lets
//! addresses through as they are, between two bounds.
//!
//! Observed: skiboot include/phb3-regs.h, IODA2_TVT_*; hw/phb3.c, phb3_map_pe_dma_window and phb3_map_pe_dma_window_real.
//! Not here: which TVE an access uses (`translate`), the walk (`walk`).

use crate::bits::{Field, bit};

/// Real addresses have 50 bits. Observed: QEMU 7.2, hw/pci-host/pnv_phb3.c, pnv_phb3_translate_tve, of untranslated accesses.
pub(crate) const REAL_BITS: u32 = 50;
/// A DMA address within its window: the bits below the one that chooses the window.
pub(crate) const WINDOW_BITS: u32 = 59;
/// From this many translated bits on a TVE is refused.
///
/// Choice: no book names the bound. Linux 4.20, pnv_pci_ioda2_table_alloc_pages, refuses levels and pages that translate 55 bits or more; so do we.
const MOST_BITS: u32 = 55;

const TABLE: Field = Field::new(0, 47);
const LEVELS: Field = Field::new(48, 50);
const TABLE_SIZE: Field = Field::new(51, 55);
const PAGE_SIZE: Field = Field::new(59, 63);

/// With page size 0: the window is not translated.
const UNTRANSLATED: u64 = bit(51);
const START_LOW: Field = Field::new(0, 23);
const END_LOW: Field = Field::new(24, 47);
const START_HIGH: Field = Field::new(52, 53);
const END_HIGH: Field = Field::new(54, 55);
/// Bounds of an untranslated window are multiples of 16 MiB.
const BOUND_LG2: u32 = 24;

/// The I/O pages of a PHB3: 4K, 64K, 16M, 256M.
/// Observed: skiboot hw/phb3.c, phb3_map_pe_dma_window; "ibm,supported-tce-sizes" of phb3_add_properties.
pub(crate) const PAGE_LG2: [u32; 4] = [12, 16, 24, 28];

/// What a TVE means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Window {
    /// Nothing: every access freezes the PE.
    Disabled,
    /// Addresses are translated.
    Translated(Tree),
    /// Addresses `first..end` are let through.
    Untranslated { first: u64, end: u64 },
}

/// Tables of one window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tree {
    /// The table of the highest level.
    pub(crate) base: u64,
    /// How many levels, 1 to 5.
    pub(crate) levels: u32,
    /// Address bits that each level decodes.
    pub(crate) level_bits: u32,
    /// log2 of the I/O page.
    pub(crate) page_lg2: u32,
}

/// What is wrong with a TVE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Invalid {
    /// Six levels or more.
    Levels,
    /// No size: tables of less than 4 KiB.
    Size,
    /// A page size that PHB3 does not have.
    Page,
    /// Levels, size and page translate more bits than there are.
    Reach,
    /// The table lies beyond what can be addressed.
    Address,
    /// Neither translated nor untranslated, yet not zero; or bounds in the wrong order.
    Bypass,
}

impl Invalid {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Levels => "levels",
            Self::Size => "size",
            Self::Page => "page",
            Self::Reach => "reach",
            Self::Address => "address",
            Self::Bypass => "bypass",
        }
    }
}

impl Tree {
    /// How many bits of a DMA address are translated, the offset in the page included.
    pub(crate) const fn reach(&self) -> u32 {
        self.page_lg2 + self.levels * self.level_bits
    }

    /// Bytes of one table.
    pub(crate) const fn table_bytes(&self) -> u64 {
        8 << self.level_bits
    }
}

/// What the word means.
pub(crate) fn decode(tve: u64) -> Result<Window, Invalid> {
    if tve == 0 {
        return Ok(Window::Disabled);
    }
    let page = PAGE_SIZE.get(tve) as u32;
    if page == 0 { untranslated(tve) } else { translated(tve, page + 11) }
}

fn translated(tve: u64, page_lg2: u32) -> Result<Window, Invalid> {
    let levels = LEVELS.get(tve) as u32 + 1;
    let size = TABLE_SIZE.get(tve) as u32;
    let tree = Tree { base: TABLE.get(tve) << 12, levels, level_bits: size + 8, page_lg2 };
    if !PAGE_LG2.contains(&page_lg2) {
        Err(Invalid::Page)
    } else if levels > 5 {
        Err(Invalid::Levels)
    } else if size == 0 {
        Err(Invalid::Size)
    } else if tree.reach() >= MOST_BITS {
        Err(Invalid::Reach)
    } else if tree.base >> REAL_BITS != 0 {
        Err(Invalid::Address)
    } else {
        Ok(Window::Translated(tree))
    }
}

/// Choice: the end is the first address that is not let through. skiboot writes start + size into the field, and takes end - start for the length
/// when it injects errors; a comment in its CAPP code has it the other way. The stricter reading lets fewer addresses through.
fn untranslated(tve: u64) -> Result<Window, Invalid> {
    let bound = |high: Field, low: Field| (high.get(tve) << 24 | low.get(tve)) << BOUND_LG2;
    let (first, end) = (bound(START_HIGH, START_LOW), bound(END_HIGH, END_LOW));
    if tve & UNTRANSLATED == 0 || first >= end {
        return Err(Invalid::Bypass);
    }
    Ok(Window::Untranslated { first, end })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tve_of_one_level_of_4k_pages_lies_where_skiboot_puts_it() {
        // Table at 0x1234_5678_9000 of 4 MiB (22 - 11 = 11 in bits 51:55), one level, 4K pages: 2 GiB.
        let tree = Tree { base: 0x1234_5678_9000, levels: 1, level_bits: 19, page_lg2: 12 };
        assert_eq!(decode(0x1234_5678_9000 << 4 | 0xb01), Ok(Window::Translated(tree)));
        assert_eq!(tree.reach(), 31);
    }

    #[test]
    fn a_bypass_tve_lies_where_skiboot_puts_it() {
        // 0 to 16 GiB: 0x400 in bits 24:47, bit 51.
        let window = Window::Untranslated { first: 0, end: 0x4_0000_0000 };
        assert_eq!(decode(0x0000_0000_0400_1000), Ok(window));
        // 0x2_0000_0000_0000 to 0x3_ff00_0000_0000: the high bits of both bounds in 52:55.
        let window = Window::Untranslated { first: 0x2_0000_0000_0000, end: 0x3_ff00_0000_0000 };
        assert_eq!(decode(0x0000_00ff_0000_1b00), Ok(window));
    }

    #[test]
    fn combinations_that_phb3_does_not_have_are_refused() {
        assert_eq!(decode(0), Ok(Window::Disabled));
        assert_eq!(decode(0x0010_0000_0000_a101), Err(Invalid::Levels), "six");
        assert_eq!(decode(0x0010_0000_0000_0001), Err(Invalid::Size));
        assert_eq!(decode(0x0010_0000_0000_0102), Err(Invalid::Page), "8K");
        assert_eq!(decode(0x0010_0000_0000_010a), Err(Invalid::Page), "2M is of its successors");
        // Five levels of 512 entries of 4K: 57 bits; four: 48 bits.
        assert_eq!(decode(0x0010_0000_0000_8101), Err(Invalid::Reach));
        assert!(decode(0x0010_0000_0000_6101).is_ok());
        assert_eq!(decode(0x0040_0000_0000_0101), Err(Invalid::Address), "50 bits of real address");
        assert_eq!(decode(0x0000_0000_0400_0000), Err(Invalid::Bypass), "bit 51 is clear");
        assert_eq!(decode(0x0000_0400_0000_1000), Err(Invalid::Bypass), "ends where it begins");
    }
}
