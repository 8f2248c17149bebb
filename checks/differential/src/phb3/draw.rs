//! Draws cases: TVEs, trees of TCEs, the table of requesters, and where devices reach to.
//!
//! Observed: skiboot include/phb3-regs.h, IODA2_TVT_*; hw/phb3.c, phb3_map_pe_dma_window.

use std::collections::BTreeMap;

use model_bus::Dice;

use super::{DATA, DATA_END, NOWHERE, READERS, TABLES, TABLES_END, WRITERS};
use crate::draw::{below, dice, pick};

/// The second window of PE 255, which lets everything through.
pub(super) const READ_BACK_WINDOW: u16 = 511;
/// Bit 59 chooses the window.
const WINDOW: u64 = 1 << 59;

/// One access.
#[derive(Clone, Copy, Debug)]
pub struct Access {
    /// Whose.
    pub requester: u16,
    /// Where.
    pub address: u64,
    /// How many bytes.
    pub len: u32,
    /// A write, or a read.
    pub write: bool,
}

/// A case.
#[derive(Clone, Debug, Default)]
pub struct Case {
    /// Words of memory, as numbers of a big-endian machine.
    pub words: BTreeMap<u64, u64>,
    /// PE numbers by requester, as the RTT has them.
    pub pes: BTreeMap<u16, u16>,
    /// TVEs by their index.
    pub tves: BTreeMap<u16, u64>,
    /// Window 0 may bypass below 4 GiB.
    pub low_bypass: bool,
    /// What devices do.
    pub accesses: Vec<Access>,
    free: u64,
}

/// Case `number` of the run with this seed.
pub fn case(seed: u64, number: u64) -> Case {
    let mut dice = dice(seed, number);
    let dice = &mut dice;
    let mut case =
        Case { free: TABLES + (below(dice, 64) << 16), low_bypass: dice.one_in(2), ..Case::default() };
    for requester in WRITERS.into_iter().chain(READERS) {
        let pe = if dice.one_in(24) {
            u16::try_from(below(dice, 0x1_0000)).unwrap_or(0)
        } else {
            requester >> 3 & 0xff
        };
        case.pes.insert(requester, pe);
        for window in 0..2 {
            let addresses = case.window((pe & 0xff) << 1 | window, dice);
            // What is read takes QEMU much longer.
            for _ in 0..if WRITERS.contains(&requester) { 12 } else { 6 } {
                let address = pick(dice, &addresses) | if window == 1 { WINDOW } else { 0 };
                let len = pick(dice, &[1, 2, 4, 4, 8, 16]);
                let address = if dice.one_in(40) { address | below(dice, 16) << 60 } else { address };
                let address = address & !u64::from(len - 1);
                // Where messages go is not compared.
                if address >> 60 != 1 && address >> 16 != 0xffff {
                    case.accesses.push(Access {
                        requester,
                        address,
                        len,
                        write: WRITERS.contains(&requester),
                    });
                }
            }
        }
    }
    // By which readers bring home what they have read.
    case.tves.insert(READ_BACK_WINDOW, (1 << 18) << 16 | 1 << 12);
    case
}

impl Case {
    /// Makes a window, and answers addresses that say something about it.
    fn window(&mut self, index: u16, dice: &mut Dice) -> Vec<u64> {
        match dice.up_to(15) {
            0 => {
                self.tves.insert(index, 0);
                vec![DATA, 0]
            }
            1..=3 => self.bypass(index, dice),
            _ => self.tree(index, dice),
        }
    }

    /// Addresses go through as they are, between two bounds of 16 MiB.
    fn bypass(&mut self, index: u16, dice: &mut Dice) -> Vec<u64> {
        let (first, end) = (below(dice, 4), 16 + below(dice, 1 << 18));
        let tve = first << 40 | end << 16 | 1 << 12;
        self.tves.insert(index, if dice.one_in(12) { tve & !(1 << 12) } else { tve });
        let data = |dice: &mut Dice| DATA + below(dice, DATA_END - DATA);
        vec![
            data(dice),
            data(dice),
            data(dice),
            first << 24,
            (first << 24).wrapping_sub(1),
            end << 24,
            NOWHERE,
        ]
    }

    /// A tree of TCEs.
    fn tree(&mut self, index: u16, dice: &mut Dice) -> Vec<u64> {
        let page_lg2: u32 = pick(dice, &[12, 12, 16, 16, 24, 28]);
        let most = 54 - page_lg2;
        let levels = 1 + below(dice, 5).min(u64::from((most / 9).saturating_sub(1)));
        let levels = u32::try_from(levels).unwrap_or(1);
        let level_bits = (9 + u32::try_from(below(dice, 5)).unwrap_or(0)).min(most / levels);
        let reach = page_lg2 + levels * level_bits;
        let Some(root) = self.table(level_bits, dice) else { return vec![0] };
        let mut tve = root << 4
            | u64::from(levels - 1) << 13
            | u64::from(level_bits - 8) << 8
            | u64::from(page_lg2 - 11);
        match dice.up_to(31) {
            // A page size, a number of levels, a size of tables that there is not; a table beyond, or where nothing is.
            0 => tve = tve & !0x1f | pick(dice, &[2, 3, 7, 10, 19]),
            1 => tve |= 5 << 13,
            2 => tve &= !0x1f00,
            3 => tve |= 1 << 62,
            4 => tve = tve & 0xffff | NOWHERE << 4,
            _ => {}
        }
        self.tves.insert(index, tve);
        let limit = 1u64 << reach.min(59);
        let mut addresses = vec![limit - 1, limit, below(dice, limit)];
        for _ in 0..5 {
            let any = below(dice, limit);
            let at = pick(dice, &[0, limit - 1, any, any]);
            self.path(root, levels, level_bits, page_lg2, at, dice);
            let first = at >> page_lg2 << page_lg2;
            let page = 1u64 << page_lg2;
            let inside = if page > DATA_END - DATA {
                DATA % page + below(dice, DATA_END - DATA)
            } else {
                below(dice, page)
            };
            addresses.extend([
                first + inside,
                first + inside,
                first,
                first + page - 1,
                first.wrapping_sub(1) % limit,
            ]);
        }
        addresses
    }

    fn table(&mut self, level_bits: u32, _: &mut Dice) -> Option<u64> {
        let bytes = 8u64 << level_bits;
        let at = self.free.next_multiple_of(bytes);
        (at + bytes <= TABLES_END).then(|| {
            self.free = at + bytes;
            at
        })
    }

    /// The TCEs on the way to `at`, made where they are missing.
    fn path(&mut self, root: u64, levels: u32, level_bits: u32, page_lg2: u32, at: u64, dice: &mut Dice) {
        let mut table = root;
        for level in (0..levels).rev() {
            let index = at >> (page_lg2 + level * level_bits) & ((1 << level_bits) - 1);
            let place = table + index * 8;
            let found = self.words.get(&place).copied();
            let tce = match found {
                Some(tce) => tce,
                None if level == 0 => self.leaf(page_lg2, dice),
                None => {
                    let Some(next) = self.table(level_bits, dice) else { return };
                    match dice.up_to(23) {
                        0 => next,
                        1 => NOWHERE | 3,
                        2 => next | 1,
                        3 => next | 2,
                        _ => next | 3,
                    }
                }
            };
            self.words.insert(place, tce);
            table = tce & !0xfff;
            if tce & 3 == 0 || !(TABLES..TABLES_END).contains(&table) {
                return;
            }
        }
    }

    fn leaf(&mut self, page_lg2: u32, dice: &mut Dice) -> u64 {
        let rights = pick(dice, &[0, 1, 2, 3, 3, 3, 3, 3]);
        let to = if dice.one_in(12) {
            NOWHERE + (below(dice, 8) << 28)
        } else {
            DATA + below(dice, DATA_END - DATA)
        };
        to >> page_lg2 << page_lg2 | rights
    }
}
