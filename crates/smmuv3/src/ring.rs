//! A circular queue in memory: where an entry lies, and what an index register says.
//!
//! Entries are counted by a *position* that only grows, 64 bits wide, so that two positions compare as plain numbers. Hardware
//! knows the low bits of it: the index, with the wrap bit right above.
//!
//! Spec: SMMUv3 H.a, 3.5.1 "SMMU circular queues".

use portcullis_hal::{BlockLayout, TableMemory};
use portcullis_spec::smmuv3::registers::QueueBase;
use portcullis_types::{Pa, mutant};

use crate::reach::alloc_within;

/// The memory of a queue.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ring {
    base: Pa,
    size_lg2: u8,
    entry_lg2: u8,
}

impl Ring {
    /// Memory for `1 << size_lg2` entries of `1 << entry_lg2` bytes, aligned as the base register wants it: to the queue's size, at least
    /// 32 bytes. None if there is no memory that the SMMU reaches, whose output addresses have `output_bits` bits.
    ///
    /// Spec: SMMUv3 H.a, 6.3.26 "SMMU_CMDQ_BASE", ADDR.
    pub(crate) fn alloc(
        memory: &impl TableMemory,
        output_bits: u8,
        size_lg2: u8,
        entry_lg2: u8,
    ) -> Option<Self> {
        let base = alloc_within(memory, Self::layout(size_lg2, entry_lg2), output_bits)?;
        Some(Self { base, size_lg2, entry_lg2 })
    }

    fn layout(size_lg2: u8, entry_lg2: u8) -> BlockLayout {
        let lg2 = size_lg2 + entry_lg2;
        if mutant!("queue-not-aligned-to-its-size") {
            return BlockLayout::new(1 << lg2.max(5), 32).expect("32 is a power of two");
        }
        BlockLayout::naturally_aligned(if lg2 < 5 { 5 } else { lg2 })
    }

    /// Gives the memory back. The hardware must have been told to forget it.
    pub(crate) fn free(self, memory: &impl TableMemory) {
        memory.free(self.base, Self::layout(self.size_lg2, self.entry_lg2));
    }

    /// How many bytes of memory the queue takes.
    pub(crate) fn bytes(&self) -> u64 {
        Self::layout(self.size_lg2, self.entry_lg2).size_bytes()
    }

    /// How many entries there are, as a difference of positions.
    pub(crate) fn len(&self) -> u64 {
        1 << self.size_lg2
    }

    /// How many entries there are, as a count of things in memory.
    pub(crate) fn slots(&self) -> usize {
        1 << self.size_lg2
    }

    /// What the base register is told.
    pub(crate) fn base_register(&self) -> u64 {
        QueueBase::new()
            .with_log2size(self.size_lg2)
            .with_addr(self.base.get() >> 5)
            .with_allocate(true)
            .into_bits()
    }

    /// Which entry a position falls on, below [`len`](Self::len).
    #[expect(clippy::cast_possible_truncation, reason = "below the number of slots")]
    pub(crate) fn slot(&self, position: u64) -> usize {
        (position & (self.len() - 1)) as usize
    }

    /// Where the entry of a position lies.
    pub(crate) fn address(&self, position: u64) -> Pa {
        Pa::new(self.base.get() + ((self.slot(position) as u64) << self.entry_lg2))
    }

    /// The index and wrap bit of a position, as hardware counts.
    #[expect(clippy::cast_possible_truncation, reason = "at most 20 bits are left")]
    pub(crate) fn index(&self, position: u64) -> u32 {
        (position & (2 * self.len() - 1)) as u32
    }

    /// Which time around a position is: alternates between false and true, starting with true.
    pub(crate) fn lap(&self, position: u64) -> bool {
        position & self.len() == 0
    }

    /// The first position from `from` on that has this index and wrap bit.
    pub(crate) fn position(&self, from: u64, index: u32) -> u64 {
        from + (u64::from(index).wrapping_sub(from) & (2 * self.len() - 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_and_indexes_agree_for_every_size() {
        for size_lg2 in 0..6 {
            let ring = Ring { base: Pa::new(0x1_0000), size_lg2, entry_lg2: 4 };
            for from in 0..4 * ring.len() {
                for position in from..from + 2 * ring.len() {
                    assert_eq!(ring.position(from, ring.index(position)), position);
                    assert_eq!(ring.address(position).get(), 0x1_0000 + 16 * (position % ring.len()));
                    assert_ne!(ring.lap(position), ring.lap(position + ring.len()));
                }
            }
        }
    }

    #[test]
    fn an_index_with_stray_high_bits_still_names_a_position() {
        let ring = Ring { base: Pa::new(0), size_lg2: 2, entry_lg2: 4 };
        assert_eq!(ring.position(100, 0xf_fff9), 105);
    }
}
