//! Page sizes: powers of two, alone and in sets.

use core::fmt;

/// The exponent of a power-of-two size in bytes: 12 is 4 KiB.
///
/// Always below 64, so that the size itself fits in 64 bits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SizeLg2(u8);

impl SizeLg2 {
    /// 4 KiB.
    pub const KIB_4: Self = Self(12);
    /// 16 KiB.
    pub const KIB_16: Self = Self(14);
    /// 64 KiB.
    pub const KIB_64: Self = Self(16);
    /// 2 MiB.
    pub const MIB_2: Self = Self(21);
    /// 1 GiB.
    pub const GIB_1: Self = Self(30);

    /// The size of `1 << lg2` bytes; none if `lg2` is 64 or more.
    pub const fn new(lg2: u8) -> Option<Self> {
        if lg2 < 64 { Some(Self(lg2)) } else { None }
    }

    /// The exponent, 0 to 63.
    pub const fn get(self) -> u8 {
        self.0
    }

    /// The size in bytes.
    pub const fn bytes(self) -> u64 {
        1 << self.0
    }
}

impl fmt::Debug for SizeLg2 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "2^{}", self.0)
    }
}

impl fmt::Display for SizeLg2 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [&str; 7] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
        write!(f, "{} {}", 1u64 << (self.0 % 10), UNITS[usize::from(self.0 / 10)])
    }
}

/// A set of page sizes. Bit `n` stands for pages of `1 << n` bytes, as in every `pgsize_bitmap`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct PageSizes(u64);

impl PageSizes {
    /// The set whose members are the one bits of `bits`.
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// The bitmap.
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// Whether no size is in the set.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether `size` is in the set.
    pub const fn contains(self, size: SizeLg2) -> bool {
        self.0 & size.bytes() != 0
    }

    /// The set with `size` added.
    #[must_use]
    pub const fn with(self, size: SizeLg2) -> Self {
        Self(self.0 | size.bytes())
    }

    /// The sizes in both sets.
    #[must_use]
    pub const fn intersection(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// The smallest size in the set: the granule that every mapping is a multiple of.
    pub const fn smallest(self) -> Option<SizeLg2> {
        #[expect(clippy::cast_possible_truncation, reason = "at most 64")]
        SizeLg2::new(self.0.trailing_zeros() as u8)
    }

    /// The largest size in the set that is at most `limit_bytes`.
    pub const fn largest_up_to(self, limit_bytes: u64) -> Option<SizeLg2> {
        if limit_bytes == 0 {
            return None;
        }
        let below = self.0 & (u64::MAX >> limit_bytes.leading_zeros());
        if below == 0 {
            return None;
        }
        #[expect(clippy::cast_possible_truncation, reason = "at most 63")]
        SizeLg2::new(below.ilog2() as u8)
    }

    /// The sizes, smallest first.
    pub fn iter(self) -> impl Iterator<Item = SizeLg2> {
        (0..64).filter_map(SizeLg2::new).filter(move |&size| self.contains(size))
    }
}

impl fmt::Debug for PageSizes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;

    #[test]
    fn smallest_and_largest_pick_members() {
        let sizes = PageSizes::from_bits(0x4020_1000);
        assert_eq!(sizes.smallest(), Some(SizeLg2::KIB_4));
        assert_eq!(sizes.largest_up_to(0x3fff_ffff), Some(SizeLg2::MIB_2));
        assert_eq!(sizes.largest_up_to(0x4000_0000), Some(SizeLg2::GIB_1));
        assert_eq!(sizes.largest_up_to(0xfff), None);
        assert_eq!(sizes.largest_up_to(0), None);
        assert_eq!(PageSizes::default().smallest(), None);
    }

    #[test]
    fn sizes_print_with_units() {
        assert_eq!(std::format!("{} {}", SizeLg2::KIB_64, SizeLg2::MIB_2), "64 KiB 2 MiB");
    }
}
