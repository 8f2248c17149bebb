//! TVEs: what one window of a PE does.

use core::ops::RangeInclusive;

use portcullis_pgtable::tce::TceShape;
use portcullis_spec::ioda2::tables::{BYPASS_LG2, BypassTve, Tve};
use portcullis_types::Pa;

/// log2 of the pages that a TVE can say: from its field, 1 to 31, and 11 more; 0 is no table.
pub const PAGES: RangeInclusive<u8> = 12..=42;

/// Disabled: accesses freeze the PE.
pub const DISABLED: u64 = 0;

/// The TVE of a window that translates by the table at `root`.
pub fn translated(root: Pa, shape: TceShape) -> u64 {
    let tve = Tve::new()
        .with_page(shape.page().get() - 11)
        .with_size(shape.level_lg2() - 11)
        .with_levels(shape.levels() - 1)
        .with_address(root.get() >> 12);
    tve.into_bits()
}

/// The TVE of a window that passes addresses below `end` as they are. The end is rounded up to 16 MiB.
///
/// Choice: whether hardware lets the 16 MiB pass that begin at the end is not known; skiboot gives it the end, not the last, and so do we.
pub fn bypass(end: Pa) -> u64 {
    let end = end.get().div_ceil(1 << BYPASS_LG2);
    let (low, high) = ((end & 0xff_ffff) as u32, (end >> 24 & 3) as u8);
    BypassTve::new().with_untranslated(true).with_end_low(low).with_end_high(high).into_bits()
}

#[cfg(test)]
mod tests {
    use portcullis_types::SizeLg2;

    use super::*;

    fn shape(page_lg2: u8, window_bytes: u64, levels: u8) -> TceShape {
        let page = SizeLg2::new(page_lg2).unwrap();
        TceShape::new(page, window_bytes, levels, SizeLg2::KIB_4).unwrap()
    }

    #[test]
    fn the_words_of_tves_are_as_firmware_writes_them() {
        // 2 GiB of 4K pages, direct: 4 MiB are 1 << 22, so 11 in bits 12:8; page 1.
        assert_eq!(translated(Pa::new(0x0001_2340_0000), shape(12, 1 << 31, 1)), 0x0000_0012_3400_0b01);
        // 1 GiB of 64K pages by 2 levels of 4 KiB: levels 1, size 1, page 5.
        assert_eq!(translated(Pa::new(0x0003_ffff_ffff_f000), shape(16, 1 << 30, 2)), 0x003f_ffff_ffff_2105);
        // 1 TiB of 64K pages by 4 levels.
        assert_eq!(translated(Pa::new(0x1000), shape(16, 1 << 40, 4)), 0x0000_0000_0001_6105);
        // 16M is page 13, 256M is 17; 2M is 10 and 1G is 19 for those that come after.
        let page = |lg2| translated(Pa::new(0x1000), shape(lg2, 1 << 33, 1));
        assert_eq!([24, 28, 21, 30].map(page), [0x1_010d, 0x1_0111, 0x1_040a, 0x1_0113]);
    }

    #[test]
    fn the_words_of_a_bypass_are_as_firmware_writes_them() {
        assert_eq!(bypass(Pa::new(0x1000_0000)), 0x0000_0000_0010_1000);
        assert_eq!(bypass(Pa::new(0x1000_0001)), 0x0000_0000_0011_1000);
        assert_eq!(bypass(Pa::new(0x80_0000_0000)), 0x0000_0000_8000_1000);
        assert_eq!(bypass(Pa::new(0x0002_ffff_ff00_0000)), 0x0000_00ff_ffff_1200);
    }
}
