//! Circular queues: indexes with a wrap bit, and what they say together.
//!
//! Spec: SMMUv3 H.a, 3.5.1 "SMMU circular queues", 6.3.26 "SMMU_CMDQ_BASE" to 6.3.31.

/// The registers of one queue.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Queue {
    /// BASE as written.
    pub(crate) base: u64,
    /// PROD as written or counted, with OVFLG in bit 31 of the event and PRI queues.
    pub(crate) prod: u32,
    /// CONS as written or counted, with ERR or OVACKFLG above bit 20.
    pub(crate) cons: u32,
}

/// OVFLG of PROD and OVACKFLG of CONS.
pub(crate) const OVERFLOW: u32 = 1 << 31;

impl Queue {
    /// log2 of the entries: "any use of the value of this field is capped".
    pub(crate) fn lg2(&self, most: u8) -> u32 {
        u32::try_from(self.base & 0x1f).unwrap_or(0).min(u32::from(most.min(19)))
    }

    /// LOG2SIZE is larger than the hardware has.
    pub(crate) fn is_too_large(&self, most: u8) -> bool {
        self.base & 0x1f > u64::from(most)
    }

    /// The address in BASE: bits 51:5.
    pub(crate) fn address(&self) -> u64 {
        self.base & 0x000f_ffff_ffff_ffe0
    }

    /// "The effective base address is aligned to the larger of the queue size in bytes or 32 bytes."
    pub(crate) fn aligned(&self, lg2: u32, entry_bytes: u64) -> u64 {
        self.address() & !((entry_bytes << lg2).max(32) - 1)
    }

    /// Index and wrap bit of PROD.
    pub(crate) fn write_index(&self, lg2: u32) -> u32 {
        self.prod & mask(lg2)
    }

    /// Index and wrap bit of CONS.
    pub(crate) fn read_index(&self, lg2: u32) -> u32 {
        self.cons & mask(lg2)
    }

    pub(crate) fn is_empty(&self, lg2: u32) -> bool {
        self.write_index(lg2) == self.read_index(lg2)
    }

    pub(crate) fn is_full(&self, lg2: u32) -> bool {
        self.write_index(lg2) ^ self.read_index(lg2) == 1 << lg2
    }

    /// How many entries wait; more than there are places, if the indexes contradict each other.
    pub(crate) fn waiting(&self, lg2: u32) -> u32 {
        self.write_index(lg2).wrapping_sub(self.read_index(lg2)) & mask(lg2)
    }

    pub(crate) fn is_consistent(&self, lg2: u32) -> bool {
        self.waiting(lg2) <= 1 << lg2
    }

    /// Moves PROD past one entry, leaving the flag above.
    pub(crate) fn produce(&mut self, lg2: u32) {
        self.prod = (self.prod & OVERFLOW) | (self.write_index(lg2) + 1) & mask(lg2);
    }

    /// Moves CONS past one entry, leaving what is above.
    pub(crate) fn consume(&mut self, lg2: u32) {
        self.cons = (self.cons & 0xff00_0000) | (self.read_index(lg2) + 1) & mask(lg2);
    }
}

/// The bits of an index and its wrap bit.
fn mask(lg2: u32) -> u32 {
    (2 << lg2) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queue(prod: u32, cons: u32) -> Queue {
        Queue { base: 3, prod, cons }
    }

    #[test]
    fn full_and_empty_differ_in_the_wrap_bit_only() {
        assert!(queue(5, 5).is_empty(3) && !queue(5, 5).is_full(3));
        assert!(queue(0xd, 5).is_full(3) && !queue(0xd, 5).is_empty(3));
        assert!(
            !queue(0xfff5, 5).is_full(3) && queue(0xfff5, 5).is_empty(3),
            "bits above the wrap bit are ignored"
        );
    }

    #[test]
    fn every_pair_of_indexes_is_judged_as_the_book_does() {
        for prod in 0..16 {
            for cons in 0..16 {
                let (same_wrap, p, c) = (prod >> 3 == cons >> 3, prod & 7, cons & 7);
                let consistent = if same_wrap { p >= c } else { p <= c };
                assert_eq!(queue(prod, cons).is_consistent(3), consistent, "{prod:#x} {cons:#x}");
            }
        }
    }

    #[test]
    fn indexes_wrap_and_leave_their_flags() {
        let mut queue = queue(0x8000_000f, 0x0100_0007);
        queue.produce(3);
        queue.consume(3);
        assert_eq!((queue.prod, queue.cons), (0x8000_0000, 0x0100_0008));
    }

    #[test]
    fn a_base_is_aligned_to_the_queue_and_its_size_is_capped() {
        let queue = Queue { base: 0x4000_0000_1234_5fe8, prod: 0, cons: 0 };
        assert_eq!(queue.lg2(19), 8);
        assert_eq!(queue.lg2(5), 5);
        assert!(queue.is_too_large(5) && !queue.is_too_large(8));
        assert_eq!(queue.aligned(8, 16), 0x1234_5000);
        assert_eq!(queue.aligned(0, 16), 0x1234_5fe0);
    }
}
