//! Fields of words, by the book's bit numbers: both ends included.

/// Bits `high` to `low` of a word, at the bottom.
pub(crate) const fn field(word: u64, high: u32, low: u32) -> u64 {
    (word & mask(high, low)) >> low
}

/// A word with bits `high` to `low` set; none if `high` is below `low`.
pub(crate) const fn mask(high: u32, low: u32) -> u64 {
    if high < low || low > 63 {
        return 0;
    }
    (u64::MAX >> (63 - (high - low))) << low
}

/// Bit `n` of a word.
pub(crate) const fn bit(word: u64, n: u32) -> bool {
    word >> n & 1 == 1
}

/// The lower half of a word.
pub(crate) const fn low(word: u64) -> u32 {
    (word & 0xffff_ffff) as u32
}

/// The upper half of a word.
pub(crate) const fn high(word: u64) -> u32 {
    (word >> 32) as u32
}

/// 16 bits from `at` on.
pub(crate) const fn half(word: u64, at: u32) -> u16 {
    (word >> at & 0xffff) as u16
}

/// 8 bits from `at` on.
pub(crate) const fn byte(word: u64, at: u32) -> u8 {
    (word >> at & 0xff) as u8
}
