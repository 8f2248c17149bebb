//! An input, taken apart from its front. Behind its end there are zeroes.

/// What is left of an input.
pub(crate) struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    pub(crate) fn new(input: &'a [u8]) -> Self {
        Self(input)
    }

    /// Whether nothing is left.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// At most `most` of the bytes that are left.
    pub(crate) fn run(&mut self, most: usize) -> &'a [u8] {
        let (run, rest) = self.0.split_at(most.min(self.0.len()));
        self.0 = rest;
        run
    }

    fn array<const N: usize>(&mut self) -> [u8; N] {
        let run = self.run(N);
        core::array::from_fn(|index| run.get(index).copied().unwrap_or(0))
    }

    pub(crate) fn u8(&mut self) -> u8 {
        self.array::<1>()[0]
    }

    pub(crate) fn u16(&mut self) -> u16 {
        u16::from_le_bytes(self.array())
    }

    pub(crate) fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.array())
    }

    pub(crate) fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.array())
    }

    /// True for half of the bytes there are.
    pub(crate) fn flag(&mut self) -> bool {
        self.u8() & 1 == 1
    }

    /// Once in `n` (at most 256).
    pub(crate) fn one_in(&mut self, n: u8) -> bool {
        self.u8() % n == n - 1
    }

    /// Below `n`, of one byte.
    pub(crate) fn below(&mut self, n: u8) -> u8 {
        self.u8() % n
    }

    /// One of these, of at most 256.
    pub(crate) fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[usize::from(self.u8()) % from.len()]
    }

    /// A word with all bits, one bit, or few.
    pub(crate) fn word(&mut self) -> u64 {
        match self.below(4) {
            0 => self.u64(),
            1 => 1 << self.below(64),
            2 => u64::from(self.u16()) << self.below(49),
            _ => u64::from(self.u8()),
        }
    }
}
