//! Memory for tables and queues, as far as the SMMU reaches.
//!
//! A platform gives memory from anywhere. Of an address beyond its output size an SMMU may use the low bits alone, which is somebody else's memory: what lies there
//! is given back, and counts as no memory.
//!
//! Spec: SMMUv3 H.a, 3.4.3 "Address sizes of SMMU-originated accesses".
//! Not here: memory of page tables, which their format limits (`pgtable`).

use portcullis_hal::{BlockLayout, TableMemory};
use portcullis_types::Pa;

/// A block that lies below `1 << output_bits`; none if there is no memory, or none there.
pub(crate) fn alloc_within(memory: &impl TableMemory, layout: BlockLayout, output_bits: u8) -> Option<Pa> {
    let first = memory.alloc(layout)?;
    let last = first.get().checked_add(layout.size_bytes() - 1);
    if last.is_none_or(|last| last.checked_shr(output_bits.into()).unwrap_or(0) > 0) {
        memory.free(first, layout);
        return None;
    }
    Some(first)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Fake;

    #[test]
    fn memory_that_lies_beyond_the_output_size_is_given_back() {
        // Memory begins at 1 GiB, bit 30.
        let fake = Fake::new();
        let layout = BlockLayout::naturally_aligned(12);
        for (bits, reached) in [(29, false), (30, false), (31, true), (52, true), (64, true)] {
            let at = alloc_within(&*fake, layout, bits);
            assert_eq!(at.is_some(), reached, "{bits} bits");
            at.into_iter().for_each(|at| fake.free(at, layout));
            assert_eq!(fake.live_bytes(), 0);
        }
    }
}
