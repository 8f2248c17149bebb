//! Where an SMMUv2's streams go: stream mapping and context banks lie in registers.
//!
//! Of context banks those are read that a driver of 64-bit tables can have: one stage, addresses from 0.
//!
//! Spec: SMMUv2 D.c, 2.3 "Context determination", 2.6 "Translation context", 9.6.1 "SMMU_IDR0-7, Identification registers", 9.6.3 "SMMU_sCR0, Configuration Register 0", 9.6.23
//! "SMMU_S2CRn, Stream-to-Context Register", 9.6.25 "SMMU_SMRn, Stream Match Register", 10.2.1 "SMMU_CBARn, Context Bank Attribute Registers", 10.2.2 "SMMU_CBA2Rn, Context Bank
//! Attribute Registers", 16.5.29 "SMMU_CBn_SCTLR, System Control Register", 16.5.38 "SMMU_CBn_TCR, Translation Control Register", 16.5.40 "SMMU_CBn_TTBRm, Translation Table Base
//! Registers", 17.3.8 "SMMU_CBn_TCR, Translation Control Register".

use super::{Root, Tables, Tag, Tagged, Way};

/// The registers.
pub(crate) struct Streams<'a> {
    /// Bytes of a page of registers.
    pub(crate) page: u64,
    /// Reads a register of 32 bits.
    pub(crate) load: &'a dyn Fn(u64) -> u32,
    /// Reads one of 64 bits.
    pub(crate) load64: &'a dyn Fn(u64) -> u64,
}

const CR0: u64 = 0;
const IDR0: u64 = 0x20;
const IDR1: u64 = 0x24;
const SMR: u64 = 0x800;
const S2CR: u64 = 0xc00;
/// In the second page.
const CBAR: u64 = 0;
const CBA2R: u64 = 0x800;
/// In a bank.
const SCTLR: u64 = 0;
const TCR2: u64 = 0x10;
const TTBR0: u64 = 0x20;
const TTBR1: u64 = 0x28;
const TCR: u64 = 0x30;

impl Streams<'_> {
    /// Where a stream's traffic goes.
    pub(crate) fn way(&self, stream: u32, tables: &Tables<'_>) -> Way {
        let (cr0, idr0) = ((self.load)(CR0), (self.load)(IDR0));
        // CLIENTPD, bit 0: nothing is translated.
        if cr0 & 1 == 1 {
            return Way::Everywhere;
        }
        match *self.groups(idr0, stream) {
            // USFCFG, bit 10: what nobody is there for faults.
            [] if cr0 >> 10 & 1 == 1 => Way::Nowhere,
            [] => Way::Everywhere,
            [group] => self.context((self.load)(S2CR + 4 * group), tables),
            _ => Way::Nonsense("several SMRs match"),
        }
    }

    /// By what entries are told apart that a stream has in the TLB, with the table that they are of; none if it has none, or those of a hypervisor, which have no tag.
    ///
    /// Spec: SMMUv2 D.c, 2.5 "TLB operation", Table 2-5 "SMMU TLB entry attribute requirements".
    pub(crate) fn tag(&self, stream: u32, tables: &Tables<'_>) -> Option<Tagged> {
        let Way::Through(root) = self.way(stream, tables) else { return None };
        let [group] = *self.groups((self.load)(IDR0), stream) else { return None };
        let bank = u64::from((self.load)(S2CR + 4 * group) & 0xff);
        let at = self.bank_at(bank, (self.load)(IDR1));
        let (cbar, cba2r) = self.attributes(bank);
        // VMID16EN, bit 31 of CR0: VMID16, bits 31:16 of CBA2R; otherwise VMID, bits 7:0 of CBAR.
        let vmid = if (self.load)(CR0) >> 31 == 1 { cba2r >> 16 } else { cbar & 0xff };
        if root.second {
            return Some((Tag::Vmid(vmid.into()), root.at));
        }
        // HYPC, bit 10. A1, bit 22 of TCR: whose ASID counts, bits 63:48. AS, bit 4 of TCR2: all 16 bits of it.
        let ttbr = if (self.load)(at + TCR) >> 22 & 1 == 1 { TTBR1 } else { TTBR0 };
        let most = if (self.load)(at + TCR2) >> 4 & 1 == 1 { 0xffff } else { 0xff };
        let asid = (self.load64)(at + ttbr) >> 48 & most;
        (cbar >> 10 & 1 == 0).then(|| (Tag::Asid(u64::from(vmid) << 16 | asid), root.at))
    }

    /// The entries that are for a stream. `idr0` says how many there are. SMS, bit 27: the stream is matched; otherwise it is an index.
    fn groups(&self, idr0: u32, stream: u32) -> Vec<u64> {
        let count = u64::from(idr0 & 0xff);
        if idr0 >> 27 & 1 == 1 {
            (0..count).filter(|group| self.matches(*group, stream)).collect()
        } else {
            (0..count).filter(|group| *group == u64::from(stream)).collect()
        }
    }

    /// Where a bank's registers are. NUMPAGENDXB, bits 30:28: the banks lie behind so many pages.
    fn bank_at(&self, bank: u64, idr1: u32) -> u64 {
        (self.page << ((idr1 >> 28 & 7) + 1)) + self.page * bank
    }

    /// What CBAR and CBA2R say of a bank.
    fn attributes(&self, bank: u64) -> (u32, u32) {
        let [cbar, cba2r] = [CBAR, CBA2R].map(|register| (self.load)(self.page + register + 4 * bank));
        (cbar, cba2r)
    }

    /// VALID, bit 31; MASK, bits 30:16: what does not matter; ID, bits 14:0.
    fn matches(&self, group: u64, stream: u32) -> bool {
        let smr = (self.load)(SMR + 4 * group);
        smr >> 31 == 1 && (smr ^ stream) & 0x7fff & !(smr >> 16) == 0
    }

    /// TYPE, bits 17:16; CBNDX, bits 7:0.
    fn context(&self, s2cr: u32, tables: &Tables<'_>) -> Way {
        match s2cr >> 16 & 3 {
            0 => self.bank(u64::from(s2cr & 0xff), tables),
            1 => Way::Everywhere,
            2 => Way::Nowhere,
            _ => Way::Nonsense("S2CR.TYPE"),
        }
    }

    fn bank(&self, bank: u64, tables: &Tables<'_>) -> Way {
        let idr1 = (self.load)(IDR1);
        // NUMCB, bits 7:0.
        if bank >= u64::from(idr1 & 0xff) {
            return Way::Nonsense("S2CR.CBNDX");
        }
        let at = self.bank_at(bank, idr1);
        let (cbar, cba2r) = self.attributes(bank);
        // M, bit 0.
        if (self.load)(at + SCTLR) & 1 == 0 {
            return Way::Everywhere;
        }
        // VA64, bit 0.
        if cba2r & 1 == 0 {
            return Way::Nonsense("a bank without 64-bit tables");
        }
        let (tcr, ttbr) = ((self.load)(at + TCR), (self.load64)(at + TTBR0) & 0x0000_ffff_ffff_fff0);
        // CBAR.TYPE, bits 17:16: of stage 2, or of stage 1 with stage 2 passed.
        let way = match cbar >> 16 & 3 {
            0 => second_stage(tcr, ttbr),
            1 => first_stage(tcr, ttbr),
            2 => Way::Nowhere,
            _ => Way::Nonsense("CBAR.TYPE"),
        };
        match way {
            Way::Through(root) if (tables.load)(root.at).is_none() => Way::Nonsense("TTBR0"),
            way => way,
        }
    }
}

/// TG0, bits 15:14; T0SZ, bits 5:0; EPD0, bit 7; EPD1, bit 23.
fn first_stage(tcr: u32, at: u64) -> Way {
    match Root::first_of_arm(at, tcr >> 14 & 3, 64 - (tcr & 0x3f)) {
        Way::Through(_) if tcr >> 7 & 1 == 1 => Way::Nowhere,
        Way::Through(_) if tcr >> 23 & 1 == 0 => Way::Nonsense("the upper half has a table"),
        way => way,
    }
}

/// TG0, bits 15:14; T0SZ, bits 5:0; SL0, bits 7:6.
fn second_stage(tcr: u32, at: u64) -> Way {
    Root::second_of_arm(at, tcr >> 14 & 3, tcr >> 6 & 3, 64 - (tcr & 0x3f))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::Kind;
    use super::*;

    /// Where the stream 8 goes with these registers: four groups, two banks, pages of 4 KiB, banks from 0x2000 on.
    fn way(registers: &[(u64, u64)]) -> Way {
        looked(registers, |streams, tables| streams.way(8, tables))
    }

    fn looked<T>(registers: &[(u64, u64)], look: impl FnOnce(&Streams<'_>, &Tables<'_>) -> T) -> T {
        let mut all = BTreeMap::from([(CR0, 1 << 10), (IDR0, 1 << 27 | 4), (IDR1, 2)]);
        all.extend(registers.iter().copied());
        let load = |at: u64| u32::try_from(all.get(&at).copied().unwrap_or(0)).expect("32 bits");
        let load64 = |at: u64| all.get(&at).copied().unwrap_or(0);
        let streams = Streams { page: 0x1000, load: &load, load64: &load64 };
        look(&streams, &Tables::by_word(&|_| Some(0)))
    }

    #[test]
    fn a_stream_goes_where_its_one_entry_says() {
        assert_eq!(way(&[]), Way::Nowhere);
        assert_eq!(way(&[(CR0, 0)]), Way::Everywhere);
        assert_eq!(way(&[(CR0, 1 | 1 << 10)]), Way::Everywhere);
        let entry = |s2cr| [(SMR + 4, 0x8000_0008), (S2CR + 4, s2cr)];
        assert_eq!(way(&entry(0x1_0000)), Way::Everywhere);
        assert_eq!(way(&entry(0x2_0000)), Way::Nowhere);
        assert_eq!(way(&entry(0x3_0000)), Way::Nonsense("S2CR.TYPE"));
        assert_eq!(way(&entry(2)), Way::Nonsense("S2CR.CBNDX"));
        // Bit 0 does not matter, of 9.
        assert_eq!(way(&[(SMR, 0x8001_0009), (S2CR, 0x1_0000)]), Way::Everywhere);
        assert_eq!(way(&[(SMR, 0x8001_0009), (SMR + 4, 0x8000_0008)]), Way::Nonsense("several SMRs match"));
        // Indexed: group 8 of 9.
        assert_eq!(way(&[(IDR0, 9), (S2CR + 32, 0x1_0000)]), Way::Everywhere);
    }

    #[test]
    fn a_stream_is_tagged_by_its_vmid_and_in_a_first_stage_by_its_asid_too() {
        let tag = |cr0: u64, cbar, cba2r: u64, tcr, tcr2| {
            let registers = [
                (CR0, cr0 | 1 << 10),
                (SMR, 0x8000_0008),
                (S2CR, 1),
                (0x1004, cbar),
                (0x1804, cba2r | 1),
                (0x3000, 1),
                (0x3010, tcr2),
                (0x3020, 0x0107_0000_4000_0000),
                (0x3028, 0x0009_0000_0000_0000),
                (0x3030, tcr),
            ];
            looked(&registers, |streams, tables| streams.tag(8, tables))
        };
        // T0SZ 25, EPD1; VMID 3, or 0x205 of 16 bits.
        let (first, table) = (1 << 23 | 25, 0x4000_0000);
        assert_eq!(tag(0, 0x1_0003, 0x205 << 16, first, 0), Some((Tag::Asid(0x3_0007), table)));
        assert_eq!(tag(0, 0x1_0003, 0, first, 1 << 4), Some((Tag::Asid(0x3_0107), table)));
        assert_eq!(tag(0, 0x1_0003, 0, first | 1 << 22, 0), Some((Tag::Asid(0x3_0009), table)));
        assert_eq!(tag(1 << 31, 0x1_0003, 0x205 << 16, first, 0), Some((Tag::Asid(0x205_0007), table)));
        assert_eq!(tag(0, 0x1_0403, 0, first, 0), None, "a hypervisor's");
        // T0SZ 24, SL0 1: a second stage.
        assert_eq!(tag(0, 3, 0, 1 << 6 | 24, 0), Some((Tag::Vmid(3), table)));
        assert_eq!(tag(1, 3, 0, 1 << 6 | 24, 0), None, "nothing is translated");
    }

    #[test]
    fn a_bank_says_which_table_and_of_which_stage() {
        let bank = |cbar, tcr| {
            way(&[
                (SMR, 0x8000_0008),
                (S2CR, 1),
                (0x1004, cbar),
                (0x1804, 1),
                (0x3000, 1),
                (0x3020, 0x0007_0000_4000_0000),
                (0x3030, tcr),
            ])
        };
        // T0SZ 25, EPD1; 16 KiB.
        let root = Root { at: 0x4000_0000, second: false, kind: Kind::Arm, granule: 14, levels: 3, bits: 39 };
        assert_eq!(bank(0x1_0000, 1 << 23 | 2 << 14 | 25), Way::Through(root));
        // T0SZ 24, SL0 1; 4 KiB.
        let root = Root { second: true, granule: 12, levels: 3, bits: 40, ..root };
        assert_eq!(bank(0, 1 << 6 | 24), Way::Through(root));
        assert_eq!(bank(0x1_0000, 25), Way::Nonsense("the upper half has a table"));
        assert_eq!(bank(0x1_0000, 1 << 7), Way::Nowhere);
    }
}
