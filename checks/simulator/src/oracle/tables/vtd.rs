//! Where a VT-d unit's sources go, in legacy and in scalable mode, and its paging entries.
//!
//! Spec: VT-d 5.10, 9.1 "Root Entry", 9.2 "Scalable-mode Root Entry", 9.3 "Context Entry", 9.4 "Scalable-Mode Context-Entry", 9.5 "Scalable-Mode PASID Directory Entry",
//! 9.6 "Scalable-Mode PASID Table Entry", 9.7 "First-Stage Paging Entries", 9.8 "Second-Stage Paging Entries", 11.4.5 "Root Table Address Register".

use super::{Leaf, Root, Tables, Tag, Tagged, Way, Word};

/// Bits 63:12 of a pointer.
const POINTER: u64 = !0xfff;
/// Address bits of a paging entry.
const OUTPUT: u64 = 0x000f_ffff_ffff_f000;
/// PS: a page above the last level.
const LARGE: u64 = 1 << 7;

impl Tables<'_> {
    /// Where requests without PASID of a source go, by what RTADDR_REG says.
    pub(crate) fn requester(&self, root: u64, source: u32) -> Way {
        // TTM, bits 11:10.
        match root >> 10 & 3 {
            0 => self.legacy(root & POINTER, source),
            1 => self.scalable(root & POINTER, source),
            2 => Way::Nonsense("TTM"),
            _ => Way::Nowhere,
        }
    }

    /// Where the context entry of a source lies; none without a root entry.
    pub(crate) fn context_entry(&self, root: u64, source: u32) -> Option<u64> {
        let (bus, devfn) = (u64::from(source >> 8 & 0xff), u64::from(source & 0xff));
        let entry = (root & POINTER) + 16 * bus;
        let (word, at) = if root >> 10 & 3 == 1 {
            // The upper half is for device numbers from 16 on.
            (self.word(entry + 8 * (devfn >> 7)), 32 * (devfn & 0x7f))
        } else {
            (self.word(entry), 16 * devfn)
        };
        (word & 1 == 1).then(|| (word & POINTER) + at)
    }

    fn legacy(&self, root: u64, source: u32) -> Way {
        let Some(entry) = self.context_entry(root, source) else { return Way::Nowhere };
        let (low, high) = (self.word(entry), self.word(entry + 8));
        // P, bit 0; TT, bits 3:2; AW, bits 66:64.
        match (low & 1, low >> 2 & 3) {
            (0, _) => Way::Nowhere,
            (_, 0 | 1) => second_stage(low & POINTER, high & 7),
            (_, 2) => Way::Everywhere,
            _ => Way::Nonsense("TT"),
        }
    }

    fn scalable(&self, root: u64, source: u32) -> Way {
        let Some(entry) = self.context_entry(root | 1 << 10, source) else { return Way::Nowhere };
        match self.pasid_entry(entry) {
            Ok(Some(entry)) => self.pasid_way(entry),
            Ok(None) => Way::Nowhere,
            Err(what) => Way::Nonsense(what),
        }
    }

    /// Where the PASID table entry lies of requests without PASID; none if there is none.
    pub(crate) fn pasid_entry(&self, context: u64) -> Result<Option<u64>, &'static str> {
        let (low, high) = (self.word(context), self.word(context + 8));
        if low & 1 == 0 {
            return Ok(None);
        }
        // RID_PASID, bits 83:64; PDTS, bits 11:9: 2^(X+7) entries of 64 PASIDs each.
        let pasid = high & 0xf_ffff;
        if pasid >> 6 >= 1 << ((low >> 9 & 7) + 7) {
            return Err("RID_PASID");
        }
        let directory = self.word((low & POINTER) + 8 * (pasid >> 6));
        Ok((directory & 1 == 1).then(|| (directory & POINTER) + 64 * (pasid & 0x3f)))
    }

    /// The PASIDs of a context entry, but that of requests without one, whose entries are not empty: each with where its first stage's table is, unless it is not present.
    pub(crate) fn pasids(&self, context: u64) -> Vec<(u32, Option<u64>)> {
        // P, bit 0; FSPTPTR from bit 140.
        let table = |entry| (self.word(entry) & 1 == 1).then(|| self.word(entry + 16) & POINTER);
        self.entries(context).into_iter().map(|(pasid, entry)| (pasid, table(entry))).collect()
    }

    /// The entries of the same PASIDs, where each lies.
    fn entries(&self, context: u64) -> Vec<(u32, u64)> {
        let (low, high) = (self.word(context), self.word(context + 8));
        if low & 1 == 0 {
            return Vec::new();
        }
        // PDTS, bits 11:9; RID_PASID, bits 83:64.
        let (tables, own) = (1usize << ((low >> 9 & 7) + 7), high & 0xf_ffff);
        let mut found = Vec::new();
        self.each(low & POINTER, tables, |index, directory| {
            if directory & 1 == 0 {
                return;
            }
            // Entries have eight words.
            self.each(directory & POINTER, 64 * 8, |word, _| {
                let pasid = index << 6 | word >> 3;
                if word & 7 == 0 && pasid != own {
                    found.push((u32::try_from(pasid).unwrap_or(u32::MAX), (directory & POINTER) + 8 * word));
                }
            });
        });
        found
    }

    /// The tags of a source: the domain-id of its second stage, or those of its first stages, each with its PASID.
    pub(crate) fn requester_tags(&self, root: u64, source: u32) -> Vec<Tagged> {
        let Some(context) = self.context_entry(root, source) else { return Vec::new() };
        let (low, high) = (self.word(context), self.word(context + 8));
        match (root >> 10 & 3, low & 1, low >> 2 & 3) {
            (_, 0, _) => Vec::new(),
            // DID, bits 87:72.
            (0, _, 0 | 1) => vec![(Tag::Domain(high >> 8 & 0xffff, None), low & POINTER)],
            (1, ..) => {
                let own = self.pasid_entry(context).ok().flatten();
                let own = own.map(|entry| ((high & 0xf_ffff) as u32, entry));
                let others = self.entries(context).into_iter();
                own.into_iter().chain(others).filter_map(|(pasid, entry)| self.tag(pasid, entry)).collect()
            }
            _ => Vec::new(),
        }
    }

    /// DID, bits 79:64; PGTT, bits 8:6: a first stage's table is at bits 191:140, a second stage's at 63:12.
    fn tag(&self, pasid: u32, entry: u64) -> Option<Tagged> {
        let (word, domain) = (self.word(entry), self.word(entry + 8) & 0xffff);
        match (word & 1, word >> 6 & 7) {
            (1, 1) => Some((Tag::Domain(domain, Some(pasid)), self.word(entry + 16) & POINTER)),
            (1, 2) => Some((Tag::Domain(domain, None), word & POINTER)),
            _ => None,
        }
    }

    fn pasid_way(&self, entry: u64) -> Way {
        let (word, first) = (self.word(entry), self.word(entry + 16));
        // P, bit 0; PGTT, bits 8:6; AW, bits 4:2; FSPM, bits 131:130; FSPTPTR from bit 140.
        match (word & 1, word >> 6 & 7) {
            (0, _) => Way::Nowhere,
            (_, 1) if first >> 2 & 3 < 2 => {
                let levels = 4 + (first >> 2 & 1) as u32;
                Way::Through(Root::of_intel(first & POINTER, false, levels))
            }
            (_, 2) => second_stage(word & POINTER, word >> 2 & 7),
            (_, 4) => Way::Everywhere,
            _ => Way::Nonsense("PGTT"),
        }
    }

    pub(super) fn intel_leaves(&self, root: &Root) -> Vec<Leaf> {
        let mut found = Vec::new();
        self.intel_table(root, root.at, root.levels, 0, (true, true), &mut found);
        found
    }

    fn intel_table(
        &self,
        root: &Root,
        at: u64,
        level: u32,
        base: u64,
        above: (bool, bool),
        into: &mut Vec<Leaf>,
    ) {
        let shift = 3 + 9 * level;
        self.each(at, 512, |index, word| {
            let Some((read, write)) = rights(root, word) else { return };
            let (read, write) = (read && above.0, write && above.1);
            let iova = base | index << shift;
            if level == 1 || word & LARGE != 0 {
                let len = 1 << shift;
                into.push(Leaf { iova, len, pa: word & OUTPUT & !(len - 1), read, write });
            } else {
                self.intel_table(root, word & OUTPUT, level - 1, iova, (read, write), into);
            }
        });
    }

    pub(super) fn intel_path(&self, root: &Root, iova: u64) -> Vec<Word> {
        let (mut at, mut level, mut path) = (root.at, root.levels, Vec::new());
        loop {
            let place = at + 8 * (iova >> (3 + 9 * level) & 0x1ff);
            let word = self.word(place);
            let there = rights(root, word).is_some();
            let leaf = there && (level == 1 || word & LARGE != 0);
            path.push(Word { at: place, leaf });
            if leaf || !there || level == 1 {
                return path;
            }
            (at, level) = (word & OUTPUT, level - 1);
        }
    }
}

/// Reading and writing; none if an entry is not present. Second stage: R, bit 0, and W, bit 1, of which one makes it present. First stage: P, bit 0, R/W, bit 1, and U/S, bit
/// 2, without which requests of users have nothing.
fn rights(root: &Root, word: u64) -> Option<(bool, bool)> {
    let (low, write) = (word & 1 == 1, word & 2 != 0);
    match root.second {
        true => (low || write).then_some((low, write)),
        false => low.then_some((word & 4 != 0, write && word & 4 != 0)),
    }
}

/// AW: 1 for three levels, 2 for four, 3 for five.
fn second_stage(at: u64, width: u64) -> Way {
    match width {
        1..=3 => Way::Through(Root::of_intel(at, true, (width & 3) as u32 + 2)),
        _ => Way::Nonsense("AW"),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn found(root: u64, source: u32, words: &[(u64, u64)]) -> (Way, Vec<Leaf>) {
        let memory: BTreeMap<u64, u64> = words.iter().copied().collect();
        let load = |at: u64| Some(memory.get(&at).copied().unwrap_or(0));
        let tables = Tables::by_word(&load);
        let way = tables.requester(root, source);
        let leaves = if let Way::Through(root) = way { tables.leaves(&root) } else { Vec::new() };
        (way, leaves)
    }

    #[test]
    fn a_context_entry_of_legacy_mode_leads_to_a_second_stage() {
        // Bus 1, device 2, function 1: 0x111.
        let entry = |low, high| {
            let words = [(0x1010, 0x2001), (0x2000 + 16 * 0x11, low), (0x2008 + 16 * 0x11, high)];
            found(0x1000, 0x111, &words).0
        };
        assert_eq!(found(0x1000, 0x111, &[]).0, Way::Nowhere);
        assert_eq!(entry(0x3000, 1), Way::Nowhere);
        assert_eq!(entry(0x3001, 1), Way::Through(Root::of_intel(0x3000, true, 3)));
        assert_eq!(entry(0x3005, 3), Way::Through(Root::of_intel(0x3000, true, 5)));
        assert_eq!(entry(0x3009, 2), Way::Everywhere);
        assert_eq!(entry(0x300d, 2), Way::Nonsense("TT"));
        assert_eq!(entry(0x3001, 0), Way::Nonsense("AW"));
        assert_eq!(found(0x1c00, 0x111, &[]).0, Way::Nowhere, "abort-dma mode");
    }

    #[test]
    fn a_source_of_scalable_mode_goes_where_the_entry_of_its_pasid_says() {
        // Device 17, function 0, of bus 0: the upper half. RID_PASID is 65.
        let entry = |low, first| {
            let words = [
                (0x1008, 0x2001),
                (0x2000 + 32 * 8, 0x3001),
                (0x2008 + 32 * 8, 65),
                (0x3008, 0x4001),
                (0x4000 + 64, low),
                (0x4010 + 64, first),
            ];
            found(0x1400, 0x88, &words).0
        };
        assert_eq!(entry(0, 0), Way::Nowhere);
        assert_eq!(entry(0x5000 | 2 << 6 | 2 << 2 | 1, 0), Way::Through(Root::of_intel(0x5000, true, 4)));
        assert_eq!(entry(1 << 6 | 1, 0x6000), Way::Through(Root::of_intel(0x6000, false, 4)));
        assert_eq!(entry(1 << 6 | 1, 0x6004), Way::Through(Root::of_intel(0x6000, false, 5)));
        assert_eq!(entry(4 << 6 | 1, 0), Way::Everywhere);
        assert_eq!(entry(3 << 6 | 1, 0), Way::Nonsense("PGTT"));
    }

    #[test]
    fn a_source_is_tagged_by_its_domain_and_in_a_first_stage_by_its_pasid_too() {
        let tags = |root, words: &[(u64, u64)]| {
            let memory: BTreeMap<u64, u64> = words.iter().copied().collect();
            Tables::by_word(&|at: u64| Some(memory.get(&at).copied().unwrap_or(0))).requester_tags(root, 0x88)
        };
        // Legacy mode: AW 2, DID 7.
        let legacy = [(0x1000, 0x2001), (0x2000 + 16 * 0x88, 0x3001), (0x2008 + 16 * 0x88, 7 << 8 | 2)];
        assert_eq!(tags(0x1000, &legacy), [(Tag::Domain(7, None), 0x3000)]);
        // RID_PASID is 1, by a second stage; PASID 2 has a first stage.
        let scalable = [
            (0x1008, 0x2001),
            (0x2000 + 32 * 8, 0x3001),
            (0x2008 + 32 * 8, 1),
            (0x3000, 0x4001),
            (0x4040, 0x5000 | 2 << 6 | 2 << 2 | 1),
            (0x4048, 8),
            (0x4080, 1 << 6 | 1),
            (0x4088, 9),
            (0x4090, 0x6000),
        ];
        let wanted = [(Tag::Domain(8, None), 0x5000), (Tag::Domain(9, Some(2)), 0x6000)];
        assert_eq!(tags(0x1400, &scalable), wanted);
    }

    #[test]
    fn pages_of_a_second_stage_are_found_with_the_rights_of_every_level() {
        let words = [
            (0x1000, 0x2001),
            (0x2000, 0x3001),
            (0x2008, 1),
            (0x3000, 0x4003),
            (0x4000, 0x4000_0081),
            (0x4008, 0x5003),
            (0x5000 + 8 * 511, 0x7003),
            (0x5000, 0x8002),
        ];
        let large = Leaf { iova: 0, len: 0x20_0000, pa: 0x4000_0000, read: true, write: false };
        let write = Leaf { iova: 0x20_0000, len: 0x1000, pa: 0x8000, read: false, write: true };
        let both = Leaf { iova: 0x3f_f000, len: 0x1000, pa: 0x7000, read: true, write: true };
        assert_eq!(found(0x1000, 0, &words).1, [large, write, both]);
    }
}
