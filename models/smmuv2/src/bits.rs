//! Fields of words, counted from the least significant bit, as the book does.

/// Bits `high` to `low` of a word.
pub(crate) const fn field(word: u64, high: u32, low: u32) -> u64 {
    (word >> low) & (u64::MAX >> (63 - (high - low)))
}

/// One bit of a word.
pub(crate) const fn flag(word: u64, bit: u32) -> bool {
    word >> bit & 1 != 0
}

/// One bit of a register.
pub(crate) const fn bit(register: u32, bit: u32) -> bool {
    register >> bit & 1 != 0
}

/// A mask of the lower `count` bits.
pub(crate) const fn ones(count: u32) -> u64 {
    if count >= 64 { u64::MAX } else { (1 << count) - 1 }
}
