//! A reader of an SMMU's tables as they lie in memory, of its own: neither the driver's nor the model's.
//!
//! [`Tables::stream`] says where a stream's traffic without a PASID goes, [`Tables::leaves`] what the tables there let it reach, [`Tables::contexts`] which PASIDs
//! have a descriptor.
//!
//! Spec: SMMUv3 H.a, 5.2 "STE, Stream Table Entry", 5.3 "L1CD, Level 1 Context Descriptor", 5.4 "CD, Context Descriptor"; Arm ARM DDI 0487, D8.3.1
//! "VMSAv8-64 descriptor formats". Where an entry lies: `checks::conformance::sight`.
//! Not here: what ought to be there (`audit`).

use portcullis::types::Pa;

/// Reads words of memory.
pub(crate) struct Tables<'a> {
    /// None where there is no memory.
    pub(crate) load: &'a dyn Fn(u64) -> Option<u64>,
}

/// Where a stream's traffic goes that carries no PASID.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// Nowhere: it ends in an abort.
    Nowhere,
    /// Past translation.
    Everywhere,
    /// Through a table.
    Through(Root),
    /// Nobody can say: the entry makes no sense.
    Nonsense(&'static str),
}

/// A page table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Root {
    /// Where its first table lies.
    pub(crate) at: u64,
    /// Of a stage 2.
    pub(crate) second: bool,
    granule: u32,
    levels: u32,
    bits: u32,
}

/// What a descriptor allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Leaf {
    pub(crate) iova: u64,
    pub(crate) len: u64,
    pub(crate) pa: u64,
    pub(crate) read: bool,
    pub(crate) write: bool,
}

/// A word that hardware reads on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Word {
    pub(crate) at: u64,
    /// A block or a page.
    pub(crate) leaf: bool,
}

/// Bits 51:6 of a pointer.
const POINTER: u64 = 0x000f_ffff_ffff_ffc0;

impl Tables<'_> {
    fn word(&self, at: u64) -> u64 {
        (self.load)(at).unwrap_or(0)
    }

    /// Where the traffic goes of the stream whose entry lies there.
    pub(crate) fn stream(&self, ste: Pa) -> Way {
        let (word0, word1) = (self.word(ste.get()), self.word(ste.get() + 8));
        // V, bit 0; Config, bits 3:1.
        match (word0 & 1, word0 >> 1 & 7) {
            (0, _) | (_, 0b000) => Way::Nowhere,
            (_, 0b100) => Way::Everywhere,
            (_, 0b110) => self.second_stage(ste.get()),
            // S1CDMax, bits 63:59; S1DSS, bits 65:64: what traffic without a PASID is, where there are PASIDs.
            (_, 0b101) => match (word0 >> 59, word1 & 3) {
                (1.., 0b00) => Way::Nowhere,
                (1.., 0b01) => Way::Everywhere,
                (1.., 0b11) => Way::Nonsense("S1DSS"),
                _ => self.context(word0, 0).map_or(Way::Nonsense("CD 0"), |cd| self.first_stage(cd)),
            },
            _ => Way::Nonsense("Config"),
        }
    }

    /// Where descriptor 0 of an entry lies; none if it has no stage 1.
    pub(crate) fn context_of(&self, ste: Pa) -> Option<u64> {
        let word0 = self.word(ste.get());
        if word0 & 0b1111 == 0b1011 { self.context(word0, 0) } else { None }
    }

    /// Where a descriptor lies. S1Fmt, bits 5:4: linear; two levels, of 64 descriptors or of 1024 in a leaf.
    fn context(&self, word0: u64, pasid: u64) -> Option<u64> {
        let base = word0 & POINTER;
        let leaf_lg2 = match (word0 >> 59, word0 >> 4 & 3) {
            (0, _) | (_, 0) => return Some(base + 64 * pasid),
            (_, 1) => 6,
            (_, 2) => 10,
            _ => return None,
        };
        // V, bit 0; L2Ptr, bits 51:12.
        let level1 = self.word(base + 8 * (pasid >> leaf_lg2));
        (level1 & 1 == 1).then(|| (level1 & 0x000f_ffff_ffff_f000) + 64 * (pasid & ((1 << leaf_lg2) - 1)))
    }

    /// The PASIDs of a stream, from 1, that have a valid descriptor: each with where its table is, unless it is closed (EPD0).
    pub(crate) fn contexts(&self, ste: Pa) -> Vec<(u32, Option<u64>)> {
        let word0 = self.word(ste.get());
        let max = word0 >> 59;
        if word0 & 1 == 0 || word0 >> 1 & 7 != 0b101 || max == 0 || max > 20 {
            return Vec::new();
        }
        let leaf_lg2 = if word0 >> 4 & 3 == 2 { 10 } else { 6 };
        let mut found = Vec::new();
        let mut pasid = 1;
        while pasid < 1 << max {
            let Some(cd) = self.context(word0, pasid) else {
                // No leaf: the next one's first.
                pasid = ((pasid >> leaf_lg2) + 1) << leaf_lg2;
                continue;
            };
            let word = self.word(cd);
            if word >> 31 & 1 == 1 {
                let open = word >> 14 & 1 == 0;
                let table = open.then(|| self.word(cd + 8) & 0x000f_ffff_ffff_fff0);
                found.push((u32::try_from(pasid).unwrap_or(u32::MAX), table));
            }
            pasid += 1;
        }
        found
    }

    fn first_stage(&self, cd: u64) -> Way {
        let word = self.word(cd);
        // V, bit 31; AA64, bit 41; EPD1, bit 30: what is above goes nowhere.
        if word >> 31 & 1 == 0 || word >> 41 & 1 == 0 {
            return Way::Nonsense("CD 0 is not valid, or no table of 64-bit descriptors");
        }
        if word >> 30 & 1 == 0 {
            return Way::Nonsense("the upper half has a table");
        }
        // EPD0, bit 14.
        if word >> 14 & 1 == 1 {
            return Way::Nowhere;
        }
        // TG0, bits 7:6; T0SZ, bits 5:0; TTB0, bits 115:68.
        let Some(&granule) = [12, 16, 14].get((word >> 6 & 3) as usize) else { return Way::Nonsense("TG0") };
        let bits = 64 - (word & 0x3f) as u32;
        let levels = (bits - granule).div_ceil(granule - 3);
        let at = self.word(cd + 8) & 0x000f_ffff_ffff_fff0;
        Way::Through(Root { at, second: false, granule, levels, bits })
    }

    fn second_stage(&self, ste: u64) -> Way {
        let word = self.word(ste + 16);
        // S2TG, bits 175:174; S2T0SZ, bits 165:160; S2SL0, bits 167:166; S2TTB, bits 243:196.
        let Some(&granule) = [12, 16, 14].get((word >> 46 & 3) as usize) else {
            return Way::Nonsense("S2TG");
        };
        let bits = 64 - (word >> 32 & 0x3f) as u32;
        let levels = match (granule, (word >> 38 & 3) as u32) {
            (12, 3) => return Way::Nonsense("S2SL0"),
            (12, start) => start + 2,
            (_, start) => start + 1,
        };
        let at = self.word(ste + 24) & 0x000f_ffff_ffff_fff0;
        Way::Through(Root { at, second: true, granule, levels, bits })
    }

    /// All that a table lets through, in the order of addresses.
    pub(crate) fn leaves(&self, root: &Root) -> Vec<Leaf> {
        let mut found = Vec::new();
        self.table(root, root.at, 4 - root.levels, 0, true, &mut found);
        found
    }

    fn table(&self, root: &Root, at: u64, level: u32, base: u64, writable: bool, into: &mut Vec<Leaf>) {
        let shift = root.granule + (root.granule - 3) * (3 - level);
        // The first table has whatever bits are left, tables of stage 2 that lie side by side included.
        let width = if level == 4 - root.levels { root.bits - shift } else { root.granule - 3 };
        for index in 0..1u64 << width {
            let word = self.word(at + 8 * index);
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
        }
    }

    /// The words that a walk of an address reads, the last one that there is included.
    pub(crate) fn path(&self, root: &Root, iova: u64) -> Vec<Word> {
        let (mut at, mut level) = (root.at, 4 - root.levels);
        let mut path = Vec::new();
        loop {
            let shift = root.granule + (root.granule - 3) * (3 - level);
            let width = if level == 4 - root.levels { root.bits - shift } else { root.granule - 3 };
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    /// A memory of few words.
    fn memory(words: &[(u64, u64)]) -> BTreeMap<u64, u64> {
        words.iter().copied().collect()
    }

    fn stream(words: &[(u64, u64)]) -> (Way, Vec<Leaf>) {
        let memory = memory(words);
        let load = |at: u64| Some(memory.get(&at).copied().unwrap_or(0));
        let tables = Tables { load: &load };
        let way = tables.stream(Pa::new(0x1000));
        let leaves = if let Way::Through(root) = way { tables.leaves(&root) } else { Vec::new() };
        (way, leaves)
    }

    #[test]
    fn an_entry_that_is_not_valid_or_aborts_leads_nowhere_and_one_that_bypasses_everywhere() {
        assert_eq!(stream(&[(0x1000, 0)]).0, Way::Nowhere);
        assert_eq!(stream(&[(0x1000, 1)]).0, Way::Nowhere);
        assert_eq!(stream(&[(0x1000, 0b1001)]).0, Way::Everywhere);
        assert_eq!(stream(&[(0x1000, 0b0011)]).0, Way::Nonsense("Config"));
    }

    #[test]
    fn pages_and_blocks_of_a_first_stage_are_found_with_their_rights() {
        // A CD of 39 bits, 4 KiB: T0SZ 25, EPD1, V, AA64.
        let words = [
            (0x1000, 0x2000 | 0b1011),
            (0x2000, 25 | 1 << 30 | 1 << 31 | 1 << 41),
            (0x2008, 0x3000),
            (0x3000 + 8, 0x4000 | 3),
            (0x4000, 0x8020_0000 | 0x401),
            (0x4000 + 8 * 511, 0x5000 | 3),
            (0x5000 + 8 * 511, 0x7000 | 0x483),
            // An entry of level 3 whose bit 1 is clear is nothing.
            (0x5000, 0x9000 | 1),
        ];
        let block = Leaf { iova: 0x4000_0000, len: 0x20_0000, pa: 0x8020_0000, read: true, write: true };
        let page = Leaf { iova: 0x7fff_f000, len: 0x1000, pa: 0x7000, read: true, write: false };
        assert_eq!(stream(&words).1, [block, page]);
    }

    #[test]
    fn a_second_stage_says_reading_and_writing_apart() {
        // S2T0SZ 25, S2SL0 1, 4 KiB.
        let words = [
            (0x1000, 0b1101),
            (0x1010, 25 << 32 | 1 << 38),
            (0x1018, 0x3000),
            (0x3000, 0x4000 | 3),
            (0x4000, 0x5000 | 3),
            (0x5000 + 8, 0x7000 | 0x443),
            (0x5000 + 16, 0x8000 | 0x483),
        ];
        let read = Leaf { iova: 0x1000, len: 0x1000, pa: 0x7000, read: true, write: false };
        let write = Leaf { iova: 0x2000, len: 0x1000, pa: 0x8000, read: false, write: true };
        assert_eq!(stream(&words).1, [read, write]);
    }

    #[test]
    fn descriptors_of_pasids_are_found_behind_both_levels() {
        // S1Fmt 1, S1CDMax 8, S1DSS 2: leaves of 64.
        let words = [
            (0x1000, 0x2000 | 8 << 59 | 1 << 4 | 0b1011),
            (0x1008, 2),
            (0x2000, 0x1_0001),
            (0x2008, 0x2_0001),
            (0x1_0000 + 64 * 5, 1 << 31),
            (0x1_0000 + 64 * 5 + 8, 0x3000),
            (0x2_0000 + 64 * 2, 1 << 31 | 1 << 14),
        ];
        let memory = memory(&words);
        let load = |at: u64| Some(memory.get(&at).copied().unwrap_or(0));
        let found = Tables { load: &load }.contexts(Pa::new(0x1000));
        assert_eq!(found, [(5, Some(0x3000)), (66, None)]);
    }
}
