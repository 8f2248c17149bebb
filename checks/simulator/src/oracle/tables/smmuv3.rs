//! Where an SMMUv3's streams go.
//!
//! [`Tables::stream`] says where a stream's traffic without a PASID goes, [`Tables::contexts`] which PASIDs have a descriptor.
//!
//! Spec: SMMUv3 H.a, 5.2 "STE, Stream Table Entry", 5.3 "L1CD, Level 1 Context Descriptor", 5.4 "CD, Context Descriptor". Where an entry lies:
//! `checks::conformance::sight`.

use portcullis::types::Pa;

use super::{Root, Tables, Tag, Tagged, Way};

/// Bits 51:6 of a pointer.
const POINTER: u64 = 0x000f_ffff_ffff_ffc0;

impl Tables<'_> {
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

    /// The PASIDs of a stream, from 1, that have a valid descriptor: each with where its table is, unless it is closed.
    pub(crate) fn contexts(&self, ste: Pa) -> Vec<(u32, Option<u64>)> {
        self.descriptors(ste).into_iter().map(|(pasid, cd)| (pasid, self.table_of(cd))).collect()
    }

    /// The tags of a stream: those of its contexts' first stages, or that of its second stage.
    pub(crate) fn tags(&self, ste: Pa) -> Vec<Tagged> {
        // Valid, with a second stage alone: S2VMID, bits 143:128; S2TTB, bits 243:196.
        if self.word(ste.get()) & 0b1111 == 0b1101 {
            let (vmid, at) = (self.word(ste.get() + 16) & 0xffff, self.word(ste.get() + 24));
            return vec![(Tag::Vmid(vmid), at & 0x000f_ffff_ffff_fff0)];
        }
        // ASID, bits 63:48.
        let tag = |cd: u64| Some((Tag::Asid(self.word(cd) >> 48), self.table_of(cd)?));
        let own = self.context_of(ste).filter(|&cd| self.word(cd) >> 31 & 1 == 1);
        own.into_iter().chain(self.descriptors(ste).into_iter().map(|(_, cd)| cd)).filter_map(tag).collect()
    }

    /// Where the table of a descriptor lies; none if it is closed: EPD0, bit 14; TTB0, bits 115:68.
    fn table_of(&self, cd: u64) -> Option<u64> {
        let open = self.word(cd) >> 14 & 1 == 0;
        open.then(|| self.word(cd + 8) & 0x000f_ffff_ffff_fff0)
    }

    /// The PASIDs of a stream, from 1, that have a valid descriptor, and where it lies.
    fn descriptors(&self, ste: Pa) -> Vec<(u32, u64)> {
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
            if self.word(cd) >> 31 & 1 == 1 {
                found.push((u32::try_from(pasid).unwrap_or(u32::MAX), cd));
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
        let at = self.word(cd + 8) & 0x000f_ffff_ffff_fff0;
        Root::first_of_arm(at, (word >> 6 & 3) as u32, 64 - (word & 0x3f) as u32)
    }

    fn second_stage(&self, ste: u64) -> Way {
        let word = self.word(ste + 16);
        // S2TG, bits 175:174; S2T0SZ, bits 165:160; S2SL0, bits 167:166; S2TTB, bits 243:196.
        let at = self.word(ste + 24) & 0x000f_ffff_ffff_fff0;
        let (tg, start) = ((word >> 46 & 3) as u32, (word >> 38 & 3) as u32);
        Root::second_of_arm(at, tg, start, 64 - (word >> 32 & 0x3f) as u32)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::Leaf;
    use super::*;

    /// A memory of few words.
    fn memory(words: &[(u64, u64)]) -> BTreeMap<u64, u64> {
        words.iter().copied().collect()
    }

    fn stream(words: &[(u64, u64)]) -> (Way, Vec<Leaf>) {
        let memory = memory(words);
        let load = |at: u64| Some(memory.get(&at).copied().unwrap_or(0));
        let tables = Tables::by_word(&load);
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
    fn a_size_that_is_smaller_than_a_table_or_a_page_leads_to_nothing() {
        // S2T0SZ 63, S2SL0 1; T0SZ 63, EPD1, V, AA64.
        let (way, leaves) =
            stream(&[(0x1000, 0b1101), (0x1010, 63 << 32 | 1 << 38), (0x1018, 0x3000), (0x3000, 0x4003)]);
        let Way::Through(root) = way else { panic!("{way:?}") };
        assert_eq!((root.bits, leaves), (1, Vec::new()));
        assert_eq!(Tables::by_word(&|_| Some(3)).path(&root, 0), []);
        let words = [(0x1000, 0x2000 | 0b1011), (0x2000, 63 | 1 << 30 | 1 << 31 | 1 << 41), (0x2008, 0x3000)];
        assert_eq!(stream(&words).0, Way::Nonsense("T0SZ"));
    }

    #[test]
    fn a_stream_is_tagged_by_the_asids_of_its_open_contexts_or_by_its_vmid() {
        let tags = |words: &[(u64, u64)]| {
            let memory = memory(words);
            Tables::by_word(&|at: u64| Some(memory.get(&at).copied().unwrap_or(0))).tags(Pa::new(0x1000))
        };
        let second = [(0x1000, 0b1101), (0x1010, 25 << 32 | 7), (0x1018, 0x3000)];
        assert_eq!(tags(&second), [(Tag::Vmid(7), 0x3000)]);
        // S1CDMax 2: descriptors of 0 to 3; the last one is closed.
        let words = [
            (0x1000, 0x2000 | 2 << 59 | 0b1011),
            (0x1008, 2),
            (0x2000, 5 << 48 | 1 << 31),
            (0x2008, 0x3000),
            (0x2080, 6 << 48 | 1 << 31),
            (0x2088, 0x4000),
            (0x20c0, 7 << 48 | 1 << 31 | 1 << 14),
        ];
        assert_eq!(tags(&words), [(Tag::Asid(5), 0x3000), (Tag::Asid(6), 0x4000)]);
        assert_eq!(tags(&[(0x1000, 0b1001)]), []);
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
        let found = Tables::by_word(&load).contexts(Pa::new(0x1000));
        assert_eq!(found, [(5, Some(0x3000)), (66, None)]);
    }
}
