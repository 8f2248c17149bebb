//! How an address is cut into table indexes.

use portcullis_hal::BlockLayout;
use portcullis_types::{Iova, IovaRange, SizeLg2};

/// The smallest root table that hardware takes, in bytes (log2). Spec: SMMUv3 H.a, 5.4 "CD", TTB0: bits below 4 are not there, and a table of
/// fewer than eight entries is still aligned to 64 bytes where addresses have 52 bits.
const SMALLEST_ROOT_LG2: u8 = 6;

/// The shape of a tree of tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    granule_lg2: u8,
    input_bits: u8,
    /// The height of the root.
    top: u8,
    /// Whether the root takes as much memory as any other table, however few of its entries are used.
    whole_root: bool,
}

impl Geometry {
    /// A tree with pages of `1 << granule_lg2` bytes for addresses of `input_bits` bits, in which a root may be as large as
    /// `1 << concatenated_lg2` tables side by side if that saves a level.
    ///
    /// None if the addresses do not fill one table, or need more than six levels.
    pub const fn new(granule_lg2: u8, input_bits: u8, concatenated_lg2: u8) -> Option<Self> {
        if granule_lg2 < 12 || input_bits <= granule_lg2 || input_bits > 64 {
            return None;
        }
        let bits = granule_lg2 - 3;
        let mut top = (input_bits - granule_lg2 - 1) / bits;
        let root_bits = input_bits - granule_lg2 - top * bits;
        if top > 0 && root_bits <= concatenated_lg2 {
            top -= 1;
        }
        if top > 5 { None } else { Some(Self { granule_lg2, input_bits, top, whole_root: false }) }
    }

    /// A tree of `levels` levels whose root is a whole table, of which addresses of `input_bits` bits may use a part, or its first entry alone.
    ///
    /// None if the addresses do not fit, do not fill one page, or if there are no levels or more than six.
    pub const fn with_levels(granule_lg2: u8, input_bits: u8, levels: u8) -> Option<Self> {
        if granule_lg2 < 12 || input_bits <= granule_lg2 || input_bits > 64 || levels == 0 || levels > 6 {
            return None;
        }
        if input_bits > granule_lg2 + levels * (granule_lg2 - 3) {
            return None;
        }
        Some(Self { granule_lg2, input_bits, top: levels - 1, whole_root: true })
    }

    /// The smallest page.
    #[inline]
    pub const fn granule(&self) -> SizeLg2 {
        self.size(0)
    }

    /// How many bits an address has.
    pub const fn input_bits(&self) -> u8 {
        self.input_bits
    }

    /// The height of the root.
    pub const fn top(&self) -> u8 {
        self.top
    }

    /// The addresses there are.
    pub fn aperture(&self) -> IovaRange {
        let last = u64::MAX >> (64 - self.input_bits);
        IovaRange::from_ends(Iova::new(0), Iova::new(last)).expect("0 is the lowest address")
    }

    /// How large the range of an entry at `height` is.
    #[inline]
    pub const fn size(&self, height: u8) -> SizeLg2 {
        SizeLg2::new(self.granule_lg2 + height * (self.granule_lg2 - 3))
            .expect("at most six levels, of 64 bits in all")
    }

    /// How many entries a table at `height` has.
    pub const fn entries(&self, height: u8) -> u64 {
        if height == self.top {
            1 << self.input_bits.saturating_sub(self.size(height).get())
        } else {
            1 << (self.granule_lg2 - 3)
        }
    }

    /// The size and alignment of a table at `height`.
    pub const fn layout(&self, height: u8) -> BlockLayout {
        let size_lg2 = if height == self.top && !self.whole_root {
            3 + self.input_bits - self.size(height).get()
        } else {
            self.granule_lg2
        };
        BlockLayout::naturally_aligned(if size_lg2 < SMALLEST_ROOT_LG2 {
            SMALLEST_ROOT_LG2
        } else {
            size_lg2
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shapes_are_those_of_the_book() {
        // Spec: Arm ARM DDI 0487 M.a, D8.2.8 "VMSAv8-64 translation using the 4KB granule", D8.2.9 and D8.2.10 for
        // 16KB and 64KB. (granule, input, concatenation) -> (levels, root entries).
        let cases = [
            ((12, 48, 0), (4, 512)),
            ((12, 39, 0), (3, 512)),
            ((12, 40, 0), (4, 2)),
            ((12, 40, 4), (3, 1024)),
            ((12, 43, 4), (3, 8192)),
            ((12, 44, 4), (4, 32)),
            ((12, 52, 0), (5, 16)),
            ((14, 48, 0), (4, 2)),
            ((14, 48, 4), (3, 4096)),
            ((14, 47, 0), (3, 2048)),
            ((16, 48, 0), (3, 64)),
            ((16, 52, 0), (3, 1024)),
            ((16, 42, 0), (2, 8192)),
            ((16, 46, 4), (2, 0x2_0000)),
        ];
        for ((granule, input, concatenated), (levels, entries)) in cases {
            let geometry = Geometry::new(granule, input, concatenated).unwrap();
            let found = (geometry.top() + 1, geometry.entries(geometry.top()));
            assert_eq!(found, (levels, entries), "{granule} {input} {concatenated}");
        }
    }

    #[test]
    fn shapes_that_cannot_be_are_none() {
        assert_eq!(Geometry::new(12, 12, 0), None);
        assert_eq!(Geometry::new(11, 40, 0), None);
        assert_eq!(Geometry::new(12, 65, 0), None);
    }

    #[test]
    fn a_whole_root_takes_a_whole_table_however_little_of_it_is_used() {
        // (input, levels) -> root entries. Spec: VT-d 5.10, 11.4.2 "Capability Register", SAGAW and MGAW.
        let cases =
            [((39, 3), 512), ((48, 4), 512), ((57, 5), 512), ((47, 4), 256), ((39, 4), 1), ((36, 4), 1)];
        for ((input, levels), entries) in cases {
            let geometry = Geometry::with_levels(12, input, levels).unwrap();
            let top = geometry.top();
            assert_eq!((top + 1, geometry.entries(top), geometry.entries(0)), (levels, entries, 512));
            assert_eq!(geometry.layout(top), BlockLayout::naturally_aligned(12));
            assert_eq!(geometry.aperture().last(), Iova::new((1 << input) - 1));
        }
        for (input, levels) in [(40, 3), (49, 4), (12, 3), (39, 0), (39, 7)] {
            assert_eq!(Geometry::with_levels(12, input, levels), None, "{input} {levels}");
        }
    }

    #[test]
    fn a_tiny_root_is_still_aligned_to_64_bytes() {
        let geometry = Geometry::new(12, 40, 0).unwrap();
        assert_eq!(geometry.layout(geometry.top()), BlockLayout::naturally_aligned(6));
        assert_eq!(geometry.layout(0), BlockLayout::naturally_aligned(12));
    }
}
