//! Tables of context descriptors: which stage 1 translation each substream of a stream has.
//!
//! A table is filled before the hardware can reach it, and freed after the hardware has forgotten it. With no substreams it is one
//! descriptor; with few, an array; with many, an array of pointers to tables of 64, which are allocated when their first descriptor is
//! written.
//!
//! Spec: SMMUv3 H.a, 5.2 "STE, Stream Table Entry", S1Fmt; 5.3 "L1CD, Level 1 Context Descriptor".
//! Not here: what a descriptor holds (`domain`), the entry that points here (`entry`).

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::sync::Arc;
use alloc::vec::Vec;

use portcullis_hal::{BlockLayout, Platform};
use portcullis_spec::smmuv3::tables::{CD_BYTES, CD_WORDS, L1Cd, LEVEL1_BYTES, S1FMT_4K_L2, S1FMT_LINEAR};
use portcullis_types::Pa;

use crate::config::TableShape;
use crate::entry::CD_VALID;
use crate::reach::alloc_within;
use crate::words;

/// Bits of SubstreamID that a second-level table covers: 64 descriptors, 4 KiB.
const LEAF_BITS: u8 = 6;
/// Most bits of SubstreamID of a table of one level: 64 KiB of descriptors.
///
/// Choice: a table of one level is one block of memory, for each device and each domain that the device is attached to. With all bits that there can be it has 64 MiB.
///
/// Observed: Linux 6.12, its SMMUv3 driver: a device has 10 bits where hardware does not have two levels.
const LINEAR_BITS_MAX: u8 = 10;

/// The shape of a table of context descriptors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ContextShape {
    /// Bits of SubstreamID; 0 for a single descriptor, at most 10 of one level.
    pub substream_bits: u8,
    /// Whether there are two levels.
    pub two_level: bool,
}

impl ContextShape {
    /// The shape for so many bits of SubstreamID, or as many of them as a table can have that is worth its memory, where `two_level_there` says what the hardware can do.
    pub fn choose(substream_bits: u8, wish: TableShape, two_level_there: bool) -> Self {
        let worth_it = match wish {
            TableShape::Auto => substream_bits > LEAF_BITS,
            TableShape::Linear => false,
            TableShape::TwoLevel => substream_bits > 0,
        };
        let two_level = worth_it && two_level_there;
        let most = if two_level { substream_bits } else { LINEAR_BITS_MAX };
        Self { substream_bits: substream_bits.min(most), two_level }
    }

    /// STE.S1Fmt.
    pub fn format(self) -> u8 {
        if self.two_level { S1FMT_4K_L2 } else { S1FMT_LINEAR }
    }

    /// The table that the STE points to: aligned to its size, at least to 64 bytes.
    fn root_layout(self) -> BlockLayout {
        let bytes = if self.two_level {
            LEVEL1_BYTES << self.substream_bits.saturating_sub(LEAF_BITS)
        } else {
            CD_BYTES << self.substream_bits
        };
        let bytes = bytes.max(64);
        BlockLayout::new(bytes, bytes).expect("a power of two")
    }

    const LEAF: BlockLayout = BlockLayout::naturally_aligned(12);
}

/// A table of context descriptors in memory. Its memory goes back when it is dropped: the hardware must have forgotten it by then.
#[derive(Debug)]
pub struct ContextTable<P: Platform> {
    platform: Arc<P>,
    output_bits: u8,
    shape: ContextShape,
    coherent: bool,
    root: Pa,
    leaves: BTreeMap<u32, Pa>,
    /// Second-level tables that no level 1 descriptor leads to any more, which the hardware has not confirmed to have forgotten.
    cut: Vec<(u32, Pa)>,
    /// Second-level tables whose level 1 descriptor the hardware may remember as invalid.
    fresh: BTreeSet<u32>,
    /// Substreams whose descriptor changed last without the hardware's word that it forgot what was there before.
    doubtful: BTreeSet<u32>,
}

impl<P: Platform> ContextTable<P> {
    /// An empty table, every descriptor invalid. None if there is no memory below `1 << output_bits`.
    pub fn new(platform: Arc<P>, output_bits: u8, shape: ContextShape, coherent: bool) -> Option<Self> {
        let root = alloc_within(&*platform, shape.root_layout(), output_bits)?;
        let (leaves, cut) = (BTreeMap::new(), Vec::new());
        let (fresh, doubtful) = (BTreeSet::new(), BTreeSet::new());
        let table = Self { platform, output_bits, shape, coherent, root, leaves, cut, fresh, doubtful };
        table.clean(root, shape.root_layout().size_bytes());
        Some(table)
    }

    /// Where the table is, for S1ContextPtr.
    pub fn root(&self) -> Pa {
        self.root
    }

    /// Its shape.
    pub fn shape(&self) -> ContextShape {
        self.shape
    }

    /// How many bytes of memory it takes.
    pub fn bytes(&self) -> u64 {
        let leaves = self.leaves.len() + self.cut.len();
        self.shape.root_layout().size_bytes() + ContextShape::LEAF.size_bytes() * leaves as u64
    }

    /// Stores a descriptor that the hardware does not read yet, because no STE points here or because its level 1 descriptor is new.
    /// Answers whether there was memory for it; false also for a substream beyond the table.
    pub fn store_unreachable(&mut self, substream_id: u32, cd: &[u64; CD_WORDS]) -> bool {
        let Some(at) = self.place(substream_id) else { return false };
        self.settle(substream_id);
        for (index, &word) in (0u64..).zip(cd) {
            self.platform.store(Pa::new(at.get() + 8 * index), word);
        }
        self.clean(at, CD_BYTES);
        true
    }

    /// Where the descriptor of a substream lies, its second-level table made if need be.
    pub(crate) fn place(&mut self, substream_id: u32) -> Option<Pa> {
        if u64::from(substream_id) >> self.shape.substream_bits != 0 {
            return None;
        }
        let index = substream_id >> LEAF_BITS;
        if self.shape.two_level && !self.leaves.contains_key(&index) {
            self.add_leaf(index)?;
        }
        self.find(substream_id)
    }

    fn add_leaf(&mut self, index: u32) -> Option<()> {
        let leaf = alloc_within(&*self.platform, ContextShape::LEAF, self.output_bits)?;
        self.clean(leaf, ContextShape::LEAF.size_bytes());
        // The zeroes are there before a pointer leads to them.
        self.platform.write_barrier();
        let at = Pa::new(self.root.get() + LEVEL1_BYTES * u64::from(index));
        self.platform.store(at, L1Cd::new().with_v(true).with_l2_ptr_address(leaf.get()).into_bits());
        self.clean(at, LEVEL1_BYTES);
        self.leaves.insert(index, leaf);
        self.fresh.insert(index);
        Some(())
    }

    /// Where the descriptor of a substream lies, if there is a table for it.
    pub(crate) fn find(&self, substream_id: u32) -> Option<Pa> {
        if u64::from(substream_id) >> self.shape.substream_bits != 0 {
            return None;
        }
        if !self.shape.two_level {
            return Some(Pa::new(self.root.get() + CD_BYTES * u64::from(substream_id)));
        }
        let leaf = self.leaves.get(&(substream_id >> LEAF_BITS))?;
        let within = u64::from(substream_id) & ((1 << LEAF_BITS) - 1);
        Some(Pa::new(leaf.get() + CD_BYTES * within))
    }

    /// The words of the descriptor at `at`.
    pub(crate) fn read(&self, at: Pa) -> [u64; CD_WORDS] {
        words::read(&*self.platform, at)
    }

    /// Stores the words of the descriptor at `at` in which `next` differs from `now`.
    pub(crate) fn write(&self, at: Pa, now: &[u64; CD_WORDS], next: &[u64; CD_WORDS]) {
        words::write(&*self.platform, self.coherent, at, now, next);
    }

    /// Whether the hardware may remember that there was no second-level table for this substream.
    pub(crate) fn is_fresh(&self, substream_id: u32) -> bool {
        self.fresh.contains(&(substream_id >> LEAF_BITS))
    }

    /// The hardware has forgotten that there was no second-level table for this substream.
    pub(crate) fn settle(&mut self, substream_id: u32) {
        self.fresh.remove(&(substream_id >> LEAF_BITS));
    }

    /// Whether the hardware may use another descriptor for this substream than the one that is there.
    pub(crate) fn is_doubtful(&self, substream_id: u32) -> bool {
        self.doubtful.contains(&substream_id)
    }

    /// The descriptor of a substream changes: until that is [confirmed](Self::confirm), the hardware may use what was there.
    pub(crate) fn doubt(&mut self, substream_id: u32) {
        self.doubtful.insert(substream_id);
    }

    /// The hardware has forgotten every other descriptor of this substream, and that there was none.
    pub(crate) fn confirm(&mut self, substream_id: u32) {
        self.doubtful.remove(&substream_id);
        if self.is_fresh(substream_id) {
            self.settle(substream_id);
            self.give_back(substream_id);
        }
    }

    /// If no descriptor is left in the second-level table of this substream, cuts it off from the first level. The hardware must be made to forget it
    /// before it goes back with [`give_back`](Self::give_back), and until then it [is cut](Self::is_cut). The table of substream 0 stays.
    pub(crate) fn cut_if_empty(&mut self, substream_id: u32) {
        let index = substream_id >> LEAF_BITS;
        if !self.shape.two_level || index == 0 {
            return;
        }
        let Some(&leaf) = self.leaves.get(&index) else { return };
        // One that is not valid only because a bit of memory has flipped has its other words still, and hardware may remember it as it was.
        let in_use = |slot: u32| {
            let cd = self.read(Pa::new(leaf.get() + CD_BYTES * u64::from(slot)));
            let doubtful = self.doubtful.contains(&(index << LEAF_BITS | slot));
            cd[0] & CD_VALID != 0 || cd != [0; CD_WORDS] && !doubtful
        };
        if (0..1 << LEAF_BITS).any(in_use) {
            return;
        }
        self.leaves.remove(&index);
        self.fresh.remove(&index);
        let at = Pa::new(self.root.get() + LEVEL1_BYTES * u64::from(index));
        self.platform.store(at, 0);
        self.clean(at, LEVEL1_BYTES);
        self.cut.push((index, leaf));
    }

    /// Whether the hardware may remember a second-level table for this substream that was cut off.
    pub(crate) fn is_cut(&self, substream_id: u32) -> bool {
        self.cut.iter().any(|&(index, _)| index == substream_id >> LEAF_BITS)
    }

    /// Gives the memory of such a table back. The hardware has forgotten it.
    pub(crate) fn give_back(&mut self, substream_id: u32) {
        for (_, leaf) in self.cut.extract_if(.., |(index, _)| *index == substream_id >> LEAF_BITS) {
            self.platform.free(leaf, ContextShape::LEAF);
        }
    }

    fn clean(&self, at: Pa, len_bytes: u64) {
        if !self.coherent {
            self.platform.clean_table(at, len_bytes);
        }
    }
}

impl<P: Platform> Drop for ContextTable<P> {
    fn drop(&mut self) {
        for &leaf in self.leaves.values().chain(self.cut.iter().map(|(_, leaf)| leaf)) {
            self.platform.free(leaf, ContextShape::LEAF);
        }
        self.platform.free(self.root, self.shape.root_layout());
    }
}

#[cfg(test)]
mod tests {
    use portcullis_hal::TableMemory;

    use super::*;
    use crate::testing::Fake;

    fn table(fake: &Arc<Fake>, bits: u8, wish: TableShape) -> ContextTable<Fake> {
        ContextTable::new(fake.clone(), 48, ContextShape::choose(bits, wish, true), true).unwrap()
    }

    /// Where hardware finds the descriptor of a substream, by the book's words; none if its level 1 descriptor is not valid.
    fn find(fake: &Fake, table: &ContextTable<Fake>, substream_id: u64) -> Option<u64> {
        if !table.shape().two_level {
            return Some(table.root().get() + 64 * substream_id);
        }
        let level1 = fake.load(Pa::new(table.root().get() + 8 * (substream_id >> 6)));
        (level1 & 1 == 1).then_some((level1 & 0x00ff_ffff_ffff_f000) + 64 * (substream_id & 63))
    }

    #[test]
    fn descriptors_are_where_hardware_looks_for_them_in_every_shape() {
        for wish in [TableShape::Auto, TableShape::Linear, TableShape::TwoLevel] {
            for bits in [0, 1, 5, 6, 7, 10, 12] {
                let fake = Fake::new();
                let mut table = table(&fake, bits, wish);
                let last = (1u32 << table.shape().substream_bits) - 1;
                for substream_id in [0, last / 2, last] {
                    let cd = [u64::from(substream_id) + 1, 2, 3, 4, 5, 6, 7, 8];
                    assert!(table.store_unreachable(substream_id, &cd));
                    let at = find(&fake, &table, substream_id.into()).unwrap();
                    assert_eq!((fake.load(Pa::new(at)), fake.load(Pa::new(at + 56))), (cd[0], 8));
                }
                assert!(!table.store_unreachable(last + 1, &[0; CD_WORDS]));
                assert_eq!(fake.live_bytes(), table.bytes());
                drop(table);
                assert_eq!(fake.live_bytes(), 0);
            }
        }
    }

    #[test]
    fn a_table_of_one_level_has_no_more_descriptors_than_are_worth_their_memory() {
        for (wish, there) in
            [(TableShape::Linear, true), (TableShape::Auto, false), (TableShape::TwoLevel, false)]
        {
            let shape = ContextShape::choose(20, wish, there);
            assert_eq!((shape.substream_bits, shape.two_level), (10, false), "{wish:?}");
            assert_eq!(shape.root_layout().size_bytes(), 64 << 10);
            assert_eq!(ContextShape::choose(5, wish, there).substream_bits, 5);
        }
        assert_eq!(ContextShape::choose(20, TableShape::Auto, true).substream_bits, 20);
    }

    #[test]
    fn a_large_table_with_one_descriptor_is_small() {
        let fake = Fake::new();
        let mut table = table(&fake, 16, TableShape::Auto);
        table.store_unreachable(0, &[0; CD_WORDS]);
        assert_eq!((table.shape().format(), table.bytes()), (1, 8192 + 4096));
        assert!(table.root().is_aligned(8192));
    }
}
