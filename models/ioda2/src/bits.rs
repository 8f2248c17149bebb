//! Bits as POWER books count them: 0 is the most significant of 64.
//!
//! The book's number stands once, where a field is named; from there on everything counts from the least significant bit.

/// The mask of the book's bit `number`.
pub(crate) const fn bit(number: u32) -> u64 {
    1 << (63 - number)
}

/// A run of bits in a word of 64.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Field {
    shift: u32,
    mask: u64,
}

impl Field {
    /// The book's bits `first` to `last`.
    pub(crate) const fn new(first: u32, last: u32) -> Self {
        Self { shift: 63 - last, mask: u64::MAX >> (63 - (last - first)) }
    }

    /// What it holds in `word`.
    pub(crate) const fn get(self, word: u64) -> u64 {
        word >> self.shift & self.mask
    }

    /// `word` with `value` in it; bits of the value that do not fit are dropped.
    pub(crate) const fn set(self, word: u64, value: u64) -> u64 {
        word & !self.in_place() | (value & self.mask) << self.shift
    }

    /// All its bits, where they lie.
    pub(crate) const fn in_place(self) -> u64 {
        self.mask << self.shift
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_books_numbers_count_from_the_top() {
        assert_eq!((bit(0), bit(63)), (0x8000_0000_0000_0000, 1));
        let field = Field::new(48, 50);
        assert_eq!(field.in_place(), 0xe000);
        assert_eq!((field.get(0x6000), field.set(u64::MAX, 1)), (3, 0xffff_ffff_ffff_3fff));
        assert_eq!(Field::new(0, 63).get(u64::MAX), u64::MAX);
    }
}
