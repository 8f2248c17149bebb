//! The stream table in memory: linear, or two levels with the second allocated when a stream first appears.
//!
//! An entry is invalid until somebody says otherwise: memory comes zeroed, and zero is V = 0.
//!
//! Spec: SMMUv3 H.a, 3.3.1 "Stream table lookup", 5.1 "L1STD, Level 1 Stream Table Descriptor", 6.3.25 "SMMU_STRTAB_BASE_CFG".
//! Not here: what entries hold (`entry`), changing one (`update`).

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::sync::Arc;
use alloc::vec::Vec;

use portcullis_hal::{BlockLayout, Platform};
use portcullis_spec::smmuv3::registers::{STRTAB_2_LEVEL, STRTAB_LINEAR, StrtabBase, StrtabBaseCfg};
use portcullis_spec::smmuv3::tables::{L1Std, LEVEL1_BYTES, STE_BYTES};
use portcullis_types::{Pa, mutant};

use crate::config::TableShape;
use crate::reach::alloc_within;

/// Bits of StreamID that a second-level table covers.
///
/// Choice: 8, of 6, 8 and 10: one PCI bus. One device then costs 16 KiB, and the first level of 16-bit StreamIDs 2 KiB.
const SPLIT: u8 = 8;
/// Most bits of StreamID that the first level covers: a table of 1 MiB.
const LEVEL1_BITS_MAX: u8 = 17;

/// The shape of a stream table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamTableShape {
    /// Bits of StreamID that the table covers, which may be fewer than there are.
    pub stream_bits: u8,
    /// Bits of StreamID that a second-level table covers; none for a linear table.
    pub split: Option<u8>,
}

impl StreamTableShape {
    /// The shape for so many bits of StreamID, where `two_level_there` says what the hardware can do.
    pub fn choose(stream_bits: u8, wish: TableShape, two_level_there: bool) -> Self {
        let worth_it = wish != TableShape::Linear && stream_bits > SPLIT;
        if worth_it && two_level_there {
            Self { stream_bits: stream_bits.min(LEVEL1_BITS_MAX + SPLIT), split: Some(SPLIT) }
        } else {
            Self { stream_bits, split: None }
        }
    }

    /// The table that the base register points to. Aligned to its size, at least to 64 bytes. None if the CPU could never hold it.
    fn root_layout(self) -> Option<BlockLayout> {
        let bytes = match self.split {
            Some(split) => LEVEL1_BYTES << (self.stream_bits - split),
            None => STE_BYTES << self.stream_bits,
        };
        let align = if mutant!("stream-table-not-aligned-to-its-size") { 64 } else { bytes.max(64) };
        BlockLayout::new(bytes.max(64), align)
    }

    const LEAF: BlockLayout = BlockLayout::naturally_aligned(SPLIT + 6);
}

/// The stream table.
#[derive(Debug)]
pub(crate) struct StreamTable<P: Platform> {
    platform: Arc<P>,
    output_bits: u8,
    pub(crate) shape: StreamTableShape,
    coherent: bool,
    root: Pa,
    leaves: BTreeMap<u32, Pa>,
    /// Second-level tables whose level 1 descriptor the hardware may remember as empty.
    fresh: BTreeSet<u32>,
    /// Streams of whose entries the hardware may remember something that is no longer in memory: it did not confirm to have forgotten.
    unconfirmed: BTreeSet<u32>,
    /// Streams that pass since boot, and that no device has.
    boot: BTreeSet<u32>,
}

impl<P: Platform> StreamTable<P> {
    /// A table with no valid entry. None if there is no memory below `1 << output_bits`.
    pub(crate) fn new(
        platform: Arc<P>,
        output_bits: u8,
        shape: StreamTableShape,
        coherent: bool,
    ) -> Option<Self> {
        let layout = shape.root_layout()?;
        let root = alloc_within(&*platform, layout, output_bits)?;
        let table = Self {
            platform,
            output_bits,
            shape,
            coherent,
            root,
            leaves: BTreeMap::new(),
            fresh: BTreeSet::new(),
            unconfirmed: BTreeSet::new(),
            boot: BTreeSet::new(),
        };
        table.clean(root, layout.size_bytes());
        Some(table)
    }

    /// What SMMU_STRTAB_BASE is told.
    pub(crate) fn base_register(&self) -> u64 {
        StrtabBase::new().with_addr(self.root.get() >> 6).with_ra(true).into_bits()
    }

    /// What SMMU_STRTAB_BASE_CFG is told.
    pub(crate) fn config_register(&self) -> u32 {
        let config = StrtabBaseCfg::new().with_log2size(self.shape.stream_bits);
        match self.shape.split {
            Some(split) => config.with_fmt(STRTAB_2_LEVEL).with_split(split),
            None => config.with_fmt(STRTAB_LINEAR),
        }
        .into_bits()
    }

    /// How many bytes of memory the table takes.
    pub(crate) fn bytes(&self) -> u64 {
        let root = self.shape.root_layout().map_or(0, BlockLayout::size_bytes);
        root + StreamTableShape::LEAF.size_bytes() * self.leaves.len() as u64
    }

    /// Whether the table covers this StreamID.
    pub(crate) fn covers(&self, stream_id: u32) -> bool {
        u64::from(stream_id) >> self.shape.stream_bits == 0
    }

    /// Makes sure that the entry of a stream has a place. Answers whether it has: false if there is no memory.
    pub(crate) fn ensure(&mut self, stream_id: u32) -> bool {
        self.ensure_all(&[stream_id])
    }

    /// Makes sure that the entries of all of these streams have a place. Answers whether they have: false if there is no memory for one, and then none has that had not
    /// before.
    pub(crate) fn ensure_all(&mut self, stream_ids: &[u32]) -> bool {
        debug_assert!(stream_ids.iter().all(|&id| self.covers(id)));
        let Some(split) = self.shape.split else { return true };
        let lacking: BTreeSet<u32> = stream_ids
            .iter()
            .map(|id| id >> split)
            .filter(|index| !self.leaves.contains_key(index))
            .collect();
        let mut made = Vec::new();
        made.extend(
            lacking
                .iter()
                .map_while(|_| alloc_within(&*self.platform, StreamTableShape::LEAF, self.output_bits)),
        );
        if made.len() < lacking.len() {
            made.into_iter().for_each(|leaf| self.platform.free(leaf, StreamTableShape::LEAF));
            return false;
        }
        lacking.into_iter().zip(made).for_each(|(index, leaf)| self.add_leaf(split, index, leaf));
        true
    }

    fn add_leaf(&mut self, split: u8, index: u32, leaf: Pa) {
        self.clean(leaf, StreamTableShape::LEAF.size_bytes());
        // The zeroes, entries that are not valid, are there before a pointer leads to them.
        self.platform.write_barrier();
        let at = Pa::new(self.root.get() + LEVEL1_BYTES * u64::from(index));
        self.platform
            .store(at, L1Std::new().with_span(split + 1).with_l2_ptr_address(leaf.get()).into_bits());
        self.clean(at, LEVEL1_BYTES);
        self.leaves.insert(index, leaf);
        self.fresh.insert(index);
    }

    /// Where the entry of a stream lies; none if it has no place.
    pub(crate) fn entry(&self, stream_id: u32) -> Option<Pa> {
        let (table, within) = match self.shape.split {
            Some(split) => (*self.leaves.get(&(stream_id >> split))?, stream_id & ((1 << split) - 1)),
            None => (self.root, stream_id),
        };
        Some(Pa::new(table.get() + STE_BYTES * u64::from(within)))
    }

    /// Whether the hardware may remember that there was no second-level table for this stream.
    pub(crate) fn is_fresh(&self, stream_id: u32) -> bool {
        self.shape.split.is_some_and(|split| self.fresh.contains(&(stream_id >> split)))
    }

    /// The hardware has forgotten that there was no second-level table for this stream.
    pub(crate) fn settle(&mut self, stream_id: u32) {
        if let Some(split) = self.shape.split {
            self.fresh.remove(&(stream_id >> split));
        }
    }

    /// Notes that a stream passes since boot.
    pub(crate) fn keep_boot_stream(&mut self, stream_id: u32) {
        self.boot.insert(stream_id);
    }

    /// Whether a stream passes since boot.
    pub(crate) fn passes_since_boot(&self, stream_id: u32) -> bool {
        self.boot.contains(&stream_id)
    }

    /// Notes that a stream has a device now.
    pub(crate) fn take_boot_stream(&mut self, stream_id: u32) {
        self.boot.remove(&stream_id);
    }

    /// The hardware did not confirm that it forgot a stream's entry.
    pub(crate) fn doubt(&mut self, stream_id: u32) {
        self.unconfirmed.insert(stream_id);
    }

    /// Whether the hardware may remember another entry of this stream than is in memory.
    pub(crate) fn is_in_doubt(&self, stream_id: u32) -> bool {
        self.unconfirmed.contains(&stream_id)
    }

    /// All such streams.
    pub(crate) fn all_in_doubt(&self) -> Vec<u32> {
        self.unconfirmed.iter().copied().collect()
    }

    /// The hardware has forgotten a stream's entry.
    pub(crate) fn trust(&mut self, stream_id: u32) {
        self.unconfirmed.remove(&stream_id);
    }

    /// Gives the memory back. The hardware has been turned off.
    pub(crate) fn free(&mut self) {
        for leaf in core::mem::take(&mut self.leaves).into_values() {
            self.platform.free(leaf, StreamTableShape::LEAF);
        }
        if let Some(layout) = self.shape.root_layout() {
            self.platform.free(self.root, layout);
        }
    }

    fn clean(&self, at: Pa, len_bytes: u64) {
        if !self.coherent {
            self.platform.clean_table(at, len_bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use portcullis_hal::TableMemory;

    use super::*;
    use crate::testing::Fake;

    fn table(fake: &Arc<Fake>, bits: u8, wish: TableShape) -> StreamTable<Fake> {
        StreamTable::new(fake.clone(), 48, StreamTableShape::choose(bits, wish, true), true).unwrap()
    }

    /// Where hardware finds an entry, by the book's words; none if there is no second-level table.
    fn find(fake: &Fake, table: &StreamTable<Fake>, stream_id: u64) -> Option<u64> {
        let base = table.base_register() & 0x00ff_ffff_ffff_ffc0;
        let config = u64::from(table.config_register());
        if config >> 16 & 3 == 0 {
            return Some(base + 64 * stream_id);
        }
        let split = config >> 6 & 31;
        let level1 = fake.load(Pa::new(base + 8 * (stream_id >> split)));
        let span = level1 & 31;
        let within = stream_id & ((1 << split) - 1);
        (span > 0 && within < 1 << (span - 1)).then_some((level1 & 0x00ff_ffff_ffff_ffc0) + 64 * within)
    }

    #[test]
    fn entries_are_where_hardware_looks_for_them_in_every_shape() {
        for wish in [TableShape::Auto, TableShape::Linear] {
            for bits in [0, 1, 6, 8, 9, 12, 16] {
                let fake = Fake::new();
                let mut table = table(&fake, bits, wish);
                assert_eq!(table.config_register() & 0x3f, u32::from(bits));
                let last = (1u32 << bits) - 1;
                for stream_id in [0, last / 3, last] {
                    assert!(table.covers(stream_id) && table.ensure(stream_id));
                    assert_eq!(find(&fake, &table, stream_id.into()), table.entry(stream_id).map(Pa::get));
                    assert_eq!(fake.load(table.entry(stream_id).unwrap()), 0, "not valid");
                }
                assert!(!table.covers(last + 1));
                table.free();
                assert_eq!(fake.live_bytes(), 0);
            }
        }
    }

    #[test]
    fn the_table_is_aligned_to_its_size_for_every_size() {
        for wish in [TableShape::Auto, TableShape::Linear] {
            for bits in 0..=16 {
                let fake = Fake::new();
                let table = table(&fake, bits, wish);
                let entry_bytes = if table.shape.split.is_some() { 8 } else { 64 };
                let entries = 1u64 << (bits - table.shape.split.unwrap_or(0));
                let base = table.base_register() & 0x00ff_ffff_ffff_ffc0;
                assert!(base.is_multiple_of((entry_bytes * entries).max(64)), "{bits} {wish:?}");
            }
        }
    }

    #[test]
    fn a_second_level_appears_with_its_first_stream() {
        let fake = Fake::new();
        let mut table = table(&fake, 16, TableShape::Auto);
        assert_eq!((find(&fake, &table, 0x1234), table.entry(0x1234)), (None, None));
        let before = table.bytes();
        assert!(table.ensure(0x1234) && table.ensure(0x12ff));
        assert_eq!(table.bytes() - before, 16384);
        assert!(table.is_fresh(0x1200) && !table.is_fresh(0x1300));
        table.settle(0x12aa);
        assert!(!table.is_fresh(0x1234));
    }

    #[test]
    fn more_stream_bits_than_a_first_level_holds_are_cut() {
        let shape = StreamTableShape::choose(32, TableShape::Auto, true);
        assert_eq!((shape.stream_bits, shape.split), (25, Some(8)));
    }
}
