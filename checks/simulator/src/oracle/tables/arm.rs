//! Page tables of 64-bit descriptors, both stages.
//!
//! Spec: Arm ARM DDI 0487, D8.3.1 "VMSAv8-64 descriptor formats".

use super::{Kind, Leaf, Root, Tables, Way, Word};

impl Root {
    /// A stage 1 for so many bits of addresses. `tg` is TG0.
    pub(super) fn first_of_arm(at: u64, tg: u32, bits: u32) -> Way {
        let Some(granule) = granule(tg) else { return Way::Nonsense("TG0") };
        let Some(walked) = bits.checked_sub(granule) else { return Way::Nonsense("T0SZ") };
        let levels = walked.div_ceil(granule - 3);
        Way::Through(Self { at, second: false, kind: Kind::Arm, granule, levels, bits })
    }

    /// A stage 2, of which `start` says where it begins: SL0.
    pub(super) fn second_of_arm(at: u64, tg: u32, start: u32, bits: u32) -> Way {
        let Some(granule) = granule(tg) else { return Way::Nonsense("TG0") };
        let levels = match (granule, start) {
            (12, 3) => return Way::Nonsense("SL0"),
            (12, start) => start + 2,
            (_, start) => start + 1,
        };
        Way::Through(Self { at, second: true, kind: Kind::Arm, granule, levels, bits })
    }

    /// How many bits of an address lie below what a table of Arm's of this level tells apart, and how many it tells apart. A flipped bit of the size may leave the first one no
    /// address to look at: then none.
    fn arm_place(&self, level: u32) -> Option<(u32, u32)> {
        let shift = self.granule + (self.granule - 3) * (3 - level);
        // The first table has whatever bits are left, tables of stage 2 that lie side by side included.
        let width = if level == self.arm_first() { self.bits.checked_sub(shift)? } else { self.granule - 3 };
        Some((shift, width))
    }

    /// The level of the first table.
    fn arm_first(&self) -> u32 {
        4 - self.levels
    }
}

/// TG0: the granule as log2.
fn granule(tg: u32) -> Option<u32> {
    match tg & 3 {
        0 => Some(12),
        1 => Some(16),
        2 => Some(14),
        _ => None,
    }
}

impl Tables<'_> {
    pub(super) fn arm_leaves(&self, root: &Root) -> Vec<Leaf> {
        let mut found = Vec::new();
        self.table(root, root.at, root.arm_first(), 0, true, &mut found);
        found
    }

    fn table(&self, root: &Root, at: u64, level: u32, base: u64, writable: bool, into: &mut Vec<Leaf>) {
        let Some((shift, width)) = root.arm_place(level) else { return };
        self.each(at, 1 << width, |index, word| {
            let iova = base | index << shift;
            match (level, word & 3) {
                (3, 3) | (..3, 1) => into.push(leaf(root, word, iova, shift, writable)),
                // APTable[1], bit 62, takes writing away from everything below; of stage 1 only.
                (..3, 3) => {
                    let writable = writable && (root.second || word >> 62 & 1 == 0);
                    self.table(root, output(word, root.granule), level + 1, iova, writable, into);
                }
                _ => {}
            }
        });
    }

    pub(super) fn arm_path(&self, root: &Root, iova: u64) -> Vec<Word> {
        let (mut at, mut level) = (root.at, root.arm_first());
        let mut path = Vec::new();
        loop {
            let Some((shift, width)) = root.arm_place(level) else { return path };
            let place = at + 8 * (iova >> shift & ((1 << width) - 1));
            let word = self.word(place);
            let leaf = matches!((level, word & 3), (3, 3) | (..3, 1));
            path.push(Word { at: place, leaf });
            if leaf || level == 3 || word & 3 != 3 {
                return path;
            }
            (at, level) = (output(word, root.granule), level + 1);
        }
    }
}

/// Stage 1: AP[2], bit 7, forbids writing, unless DBM, bit 51. Stage 2: S2AP, bits 7:6, allow writing and reading.
fn leaf(root: &Root, word: u64, iova: u64, shift: u32, writable: bool) -> Leaf {
    let (read, write) = match root.second {
        false => (true, writable && (word >> 7 & 1 == 0 || word >> 51 & 1 == 1)),
        true => (word >> 6 & 1 == 1, word >> 7 & 1 == 1 || word >> 51 & 1 == 1),
    };
    let pa = output(word, root.granule) & !((1 << shift) - 1);
    Leaf { iova, len: 1 << shift, pa, read, write }
}

/// The address in a descriptor: bits 47 down to the granule; with 64 KiB bits 51:48 lie in 15:12.
fn output(word: u64, granule: u32) -> u64 {
    let low = word & 0x0000_ffff_ffff_f000 & !((1 << granule) - 1);
    if granule == 16 { low | (word >> 12 & 0xf) << 48 } else { low }
}
