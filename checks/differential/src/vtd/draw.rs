//! Draws cases: entries of six devices, their tables, and where they write or read.
//!
//! Spec: VT-d 5.10, 9.1 "Root Entry" to 9.6 "Scalable-Mode PASID Table Entry", 9.7 "First-Stage Paging Entries", 9.8 "Second-Stage Paging Entries".

use std::collections::BTreeMap;

use model_bus::Dice;

use super::{CONTEXTS, DATA, DATA_END, DIRECTORIES, NOWHERE, PASIDS, READERS, ROOT, TABLES, WRITERS};
use crate::draw::{below, dice, pick};

/// Which tables the units have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Stage {
    /// First-stage tables: all is in scalable mode.
    First,
    /// Second-stage tables.
    #[default]
    Second,
}

/// One access.
#[derive(Clone, Copy, Debug)]
pub struct Access {
    /// Whose.
    pub requester: u16,
    /// A write; else a read.
    pub write: bool,
    /// Where.
    pub address: u64,
    /// How many bytes.
    pub len: u32,
    /// Whether everything cached is forgotten before.
    pub flush: bool,
}

/// A case.
#[derive(Clone, Debug, Default)]
pub struct Case {
    /// Words of memory.
    pub words: BTreeMap<u64, u64>,
    /// What leads devices on.
    pub stage: Stage,
    /// Scalable mode.
    pub scalable: bool,
    /// What devices do.
    pub accesses: Vec<Access>,
    free: u64,
}

/// Case `number` of the run with this seed.
pub fn case(stage: Stage, seed: u64, number: u64) -> Case {
    let mut dice = dice(seed, number);
    let dice = &mut dice;
    let scalable = dice.one_in(2) || stage == Stage::First;
    let mut case = Case { free: TABLES, stage, scalable, ..Case::default() };
    case.root(dice);
    for (index, requester) in (0u64..).zip(WRITERS.into_iter().chain(READERS)) {
        let write = WRITERS.contains(&requester);
        let addresses = if case.scalable {
            case.pasid_entry(index, requester, dice)
        } else {
            case.context_entry(index, requester, dice)
        };
        // A read costs QEMU ten times as much.
        for _ in 0..if write { 6 } else { 2 } {
            let address = pick(dice, &addresses);
            let len = pick(dice, &[4, 4, 8, 16]);
            let address = address & !u64::from(len - 1);
            // A write among interrupts is one, or nothing, and a read is nothing: they are not compared.
            if address >> 20 != 0xfee {
                case.accesses.push(Access { requester, write, address, len, flush: !dice.one_in(4) });
            }
        }
    }
    case
}

impl Case {
    /// The entries that a walk of an address meets, as far as they lead on: by the tables as they were drawn, whatever else is wrong.
    pub fn walk(&self, access: &Access) -> Vec<u64> {
        let word = |at: u64| self.words.get(&at).copied().unwrap_or(0);
        let index = u64::from(access.requester >> 3) - 1;
        let (pasid, context) = (PASIDS + (index << 12), CONTEXTS + 16 * u64::from(access.requester));
        let (first, width) = match (self.stage, self.scalable) {
            (Stage::First, _) => (word(pasid + 16), 2),
            (Stage::Second, true) => (word(pasid), word(pasid) >> 2 & 7),
            (Stage::Second, false) => (word(context), word(context + 8) & 7),
        };
        let mut table = first & 0xffff_ffff_f000;
        let mut entries = Vec::new();
        for level in (0..(width + 2).min(5)).rev() {
            let entry = word(table + 8 * (access.address >> (12 + 9 * level) & 0x1ff));
            entries.push(entry);
            if !self.leads_on(entry) {
                break;
            }
            table = entry & 0xffff_ffff_f000;
        }
        entries
    }

    /// Whether an entry leads to another table. Spec: 9.7, P; 9.8, R and W; PS.
    fn leads_on(&self, entry: u64) -> bool {
        let present = if self.stage == Stage::First { entry & 1 } else { entry & 3 };
        present != 0 && entry >> 7 & 1 == 0
    }

    fn root(&mut self, dice: &mut Dice) {
        let entry = CONTEXTS | 1;
        let entry = match dice.up_to(47) {
            0 => entry & !1,
            1 => entry | 1 << (1 + below(dice, 11)),
            2 => entry | 1 << 50,
            3 => NOWHERE | 1,
            _ => entry,
        };
        self.words.insert(ROOT, entry);
        self.words.insert(ROOT + 8, 0);
    }

    /// A context entry of legacy mode. Answers addresses that say something about it.
    fn context_entry(&mut self, index: u64, requester: u16, dice: &mut Dice) -> Vec<u64> {
        let levels = pick(dice, &[3, 4, 4]);
        let (root, addresses) = self.tree(levels, dice);
        let mut low = root | 1;
        let mut high = (levels - 2) | (index + 1) << 8;
        match dice.up_to(23) {
            0 => low &= !1,
            1 => low = low & 0xfff | NOWHERE,
            // TT: with a device TLB, which there is not; pass-through; reserved.
            2 => low |= 1 << 2,
            3 | 4 => low |= 2 << 2,
            5 => low |= 3 << 2,
            // AW.
            6 => high = high & !7 | below(dice, 8),
            // Reserved bits.
            7 => low |= 1 << (4 + below(dice, 8)),
            8 => low |= 1 << (48 + below(dice, 4)),
            9 => high |= 1 << 7,
            10 => high |= 1 << (24 + below(dice, 40)),
            _ => {}
        }
        // FPD.
        low |= u64::from(dice.one_in(12)) << 1;
        let at = CONTEXTS + 16 * u64::from(requester);
        self.words.extend([(at, low), (at + 8, high)]);
        addresses
    }

    /// Context, directory and PASID entry of scalable mode.
    fn pasid_entry(&mut self, index: u64, requester: u16, dice: &mut Dice) -> Vec<u64> {
        let levels = if self.stage == Stage::First { 4 } else { pick(dice, &[3, 4, 4]) };
        let (root, addresses) = self.tree(levels, dice);
        let (directory, table) = (DIRECTORIES + (index << 12), PASIDS + (index << 12));
        let mut context = directory | 1;
        let mut led = table | 1;
        // AW, PGTT.
        let first = self.stage == Stage::First;
        let mut low = if first { 1 | 2 << 2 | 1 << 6 } else { root | 1 | (levels - 2) << 2 | 2 << 6 };
        // DID; PWSNP.
        let high = (index + 1) | if first { 1 << 23 } else { 0 };
        // FSPTPTR.
        let mut third = if first { root } else { 0 };
        match dice.up_to(31) {
            0 => context &= !1,
            1 => context = context & 0xfff | NOWHERE,
            2 => context |= 1 << (48 + below(dice, 4)),
            3 => led &= !1,
            4 => led = NOWHERE | 1,
            5 => led |= 1 << (2 + below(dice, 10)),
            6 => low &= !1,
            7 if first => third = NOWHERE,
            7 => low = low & 0xfff | NOWHERE,
            // Pass-through; reserved kinds.
            8..=10 => low = low & !(7 << 6) | 4 << 6,
            11 => low = low & !(7 << 6) | pick(dice, &[0, 5, 6, 7]) << 6,
            12 if first => third |= 1 << (48 + below(dice, 4)),
            // AW, which a first stage ignores.
            13 if first => low &= !(7 << 2),
            12 => low = low & !(7 << 2) | below(dice, 8) << 2,
            _ => {}
        }
        low |= u64::from(dice.one_in(12)) << 1;
        let at = CONTEXTS + 32 * u64::from(requester);
        self.words.extend([(at, context), (at + 8, 0), (at + 16, 0), (at + 24, 0), (directory, led)]);
        let pasid = [low, high, third].into_iter().chain([0; 5]);
        self.words.extend((0..8).zip(pasid).map(|(index, word)| (table + 8 * index, word)));
        addresses
    }

    fn page(&mut self) -> u64 {
        let at = self.free;
        self.free += 0x1000;
        at
    }

    /// A tree of tables of so many levels.
    fn tree(&mut self, levels: u64, dice: &mut Dice) -> (u64, Vec<u64>) {
        let root = self.page();
        let limit = 1u64 << (12 + 9 * levels);
        let mut addresses = Vec::new();
        for _ in 0..4 {
            let any = below(dice, limit);
            // Where a page of 1 GiB leads to data.
            let address =
                if dice.one_in(2) { any } else { any >> 30 << 30 | (DATA + below(dice, DATA_END - DATA)) };
            let address = if addresses.is_empty() || dice.one_in(2) {
                address
            } else {
                // A neighbour of one before.
                pick(dice, &addresses) ^ 1 << (12 + below(dice, 12))
            };
            self.path(root, levels, address, dice);
            addresses.push(address);
        }
        addresses.extend([below(dice, limit), limit, limit | addresses[0], (1 << 48) | addresses[0]]);
        if self.stage == Stage::First {
            // Most are canonical: bits 63:48 are bit 47.
            let canonical = |address: u64| address | (address >> 47 & 1).wrapping_neg() << 48;
            addresses =
                addresses.into_iter().map(|at| if dice.one_in(12) { at } else { canonical(at) }).collect();
        }
        (root, addresses)
    }

    /// The entries of an address, those that are there already left as they are.
    fn path(&mut self, root: u64, levels: u64, address: u64, dice: &mut Dice) {
        let mut table = root;
        for level in (1..=levels).rev() {
            let at = table + 8 * (address >> (12 + 9 * (level - 1)) & 0x1ff);
            if let Some(&entry) = self.words.get(&at) {
                if !self.leads_on(entry) || entry & 0xffff_ffff_f000 >= NOWHERE {
                    return;
                }
                table = entry & 0xffff_ffff_f000;
                continue;
            }
            let leaf = level == 1 || (level <= 3 && dice.one_in(5));
            let entry = if leaf { Self::leaf(level, dice) } else { self.page() | 3 };
            let entry = if self.stage == Stage::First {
                Self::spoiled_first(entry | 4, level, dice)
            } else {
                Self::spoiled(entry, level, dice)
            };
            self.words.insert(at, entry);
            if leaf || !self.leads_on(entry) || entry & 0xffff_ffff_f000 >= NOWHERE {
                return;
            }
            table = entry & 0xffff_ffff_f000;
        }
    }

    fn leaf(level: u64, dice: &mut Dice) -> u64 {
        let size = 1u64 << (12 + 9 * (level - 1));
        let to = match dice.up_to(23) {
            0 => NOWHERE + (below(dice, 64) << 30),
            1 => 0xfee0_0000,
            _ if level == 3 => 0,
            _ => DATA + below(dice, DATA_END - DATA),
        };
        to & !(size - 1) | 3 | if level > 1 { 1 << 7 } else { 0 }
    }

    /// The same entry of a first stage, once in a while with something wrong.
    fn spoiled_first(entry: u64, level: u64, dice: &mut Dice) -> u64 {
        match dice.up_to(31) {
            // P, R/W, U/S.
            0 => entry & !1,
            1 => entry & !2,
            2 => entry & !4,
            3 => entry & 0xfff | NOWHERE,
            // Reserved: above a host address; low address bits of a large page; PS of the highest level.
            4 => entry | 1 << (48 + below(dice, 4)),
            5 if level > 1 && entry >> 7 & 1 == 1 => entry | 1 << (13 + below(dice, 8)),
            6 if level == 4 => entry | 1 << 7,
            // Ignored, or of no consequence: PWT, PCD, bits 11, 9 and 62:52.
            7 => entry | below(dice, 4) << 3 | 1 << (9 + 2 * below(dice, 2)) | below(dice, 1 << 11) << 52,
            // A and D.
            8..=15 => entry | below(dice, 4) << 5,
            _ => entry,
        }
    }

    /// The same entry, once in a while with something wrong.
    fn spoiled(entry: u64, level: u64, dice: &mut Dice) -> u64 {
        match dice.up_to(31) {
            0 => entry & !3,
            1 => entry & !2,
            2 => entry & !1,
            3 => entry & 0xfff | NOWHERE,
            // Reserved: above a host address; low address bits of a large page.
            4 => entry | 1 << (48 + below(dice, 4)),
            5 if level > 1 && entry >> 7 & 1 == 1 => entry | 1 << (12 + below(dice, 9)),
            6 if level == 4 => entry | 1 << 7,
            // Ignored: bits 6:2, 9:8, 61:52.
            7 => entry | below(dice, 32) << 2 | below(dice, 4) << 8 | below(dice, 1 << 10) << 52,
            _ => entry,
        }
    }
}
