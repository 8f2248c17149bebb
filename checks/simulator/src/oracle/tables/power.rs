//! What a PE of a POWER8 bridge may reach: its two TVEs, and tables of TCEs.
//!
//! POWER counts bits from the most significant end; here they are counted from the least.
//!
//! Observed: skiboot include/phb3-regs.h, IODA2_TVT_*; hw/phb3.c, phb3_map_pe_dma_window and phb3_map_pe_dma_window_real. QEMU 7.2, hw/pci-host/pnv_phb3.c,
//! pnv_phb3_translate_tve.

use super::{Leaf, Tables};

/// Where the second window begins.
const SECOND: u32 = 59;
/// Bits of a real address.
const REAL: u64 = (1 << 50) - 1;
/// Entries of a table at most, as log2: many more than any has here.
const MOST_LG2: u64 = 24;
/// A TCE's permissions.
const READ: u64 = 1;
const WRITE: u64 = 2;

/// A tree of tables, from one of them down.
#[derive(Clone, Copy)]
struct Tree {
    at: u64,
    levels: u64,
    /// Entries of each table, as log2.
    lg2: u64,
    page_lg2: u64,
}

impl Tables<'_> {
    /// All that a PE with these TVEs may reach, in the order of addresses.
    ///
    /// # Errors
    ///
    /// What makes no sense in one.
    pub(crate) fn windows(&self, tves: [u64; 2]) -> Result<Vec<Leaf>, &'static str> {
        let mut found = Vec::new();
        for (number, tve) in (0u64..).zip(tves) {
            let base = number << SECOND;
            // The I/O page, bits 4:0: 4K, 64K, 16M, 256M; 0 where nothing is translated.
            match (tve, tve & 0x1f) {
                (0, _) => {}
                (_, 0) => found.push(around(tve, base)?),
                (_, page @ (1 | 5 | 13 | 17)) => self.tces(tree(tve, page + 11)?, base, &mut found),
                _ => return Err("the I/O page of a TVE"),
            }
        }
        Ok(found)
    }

    fn tces(&self, tree: Tree, base: u64, into: &mut Vec<Leaf>) {
        let below = tree.levels - 1;
        self.each(tree.at, 1 << tree.lg2, |index, word| {
            // TCEs are big-endian.
            let tce = word.swap_bytes();
            if tce & (READ | WRITE) == 0 {
                return;
            }
            let iova = base | index << (tree.page_lg2 + tree.lg2 * below);
            if below > 0 {
                let next = Tree { at: tce & REAL & !0xfff, levels: below, ..tree };
                return self.tces(next, iova, into);
            }
            let len = 1 << tree.page_lg2;
            let (read, write) = (tce & READ != 0, tce & WRITE != 0);
            into.push(Leaf { iova, len, pa: tce & REAL & !(len - 1), read, write });
        });
    }
}

/// The table, bits 63:16, over 4 KiB; one less than the levels, bits 15:13; bytes of a table as log2 less 11, bits 12:8.
fn tree(tve: u64, page_lg2: u64) -> Result<Tree, &'static str> {
    let (levels, size) = ((tve >> 13 & 7) + 1, tve >> 8 & 0x1f);
    let tree = Tree { at: tve >> 16 << 12, levels, lg2: size + 8, page_lg2 };
    let reach = page_lg2 + levels * tree.lg2;
    let fits = size != 0 && tree.lg2 <= MOST_LG2 && levels <= 5 && reach <= u64::from(SECOND);
    if fits { Ok(tree) } else { Err("the size of a TVE") }
}

/// Bit 12; from bits 11:10 and 63:40 to bits 9:8 and 39:16, in units of 16 MiB.
fn around(tve: u64, base: u64) -> Result<Leaf, &'static str> {
    let first = ((tve >> 10 & 3) << 24 | tve >> 40) << 24;
    let end = ((tve >> 8 & 3) << 24 | tve >> 16 & 0xff_ffff) << 24;
    if tve >> 12 & 1 == 0 || first >= end {
        return Err("the bounds of a TVE");
    }
    Ok(Leaf { iova: base | first, len: end - first, pa: first, read: true, write: true })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn found(tves: [u64; 2], tces: &[(u64, u64)]) -> Result<Vec<Leaf>, &'static str> {
        let memory: BTreeMap<u64, u64> = tces.iter().map(|&(at, tce)| (at, tce.swap_bytes())).collect();
        let load = |at: u64| Some(memory.get(&at).copied().unwrap_or(0));
        Tables::by_word(&load).windows(tves)
    }

    #[test]
    fn tces_are_found_behind_every_level_with_the_rights_of_the_last() {
        // A table of 4 KiB at 0x1000: 512 pages of 4 KiB. In the second window two levels of such tables, of 64 KiB pages.
        let (one, two) = (0x1_0101, 0x2_2105);
        let tces = [
            (0x1000, 0x8003),
            (0x1008, 0x9000),
            (0x1ff8, 0xa001),
            (0x2008, 0x3003),
            (0x3010, 0x5_0002),
            (0x2010, 0x4000),
        ];
        let leaf = |iova, pa, read, write| Leaf { iova, len: 0x1000, pa, read, write };
        let first = [leaf(0, 0x8000, true, true), leaf(0x1f_f000, 0xa000, true, false)];
        let large = Leaf { len: 0x1_0000, ..leaf(1 << 59 | 0x202_0000, 0x5_0000, false, true) };
        assert_eq!(found([one, 0], &tces), Ok(first.to_vec()));
        assert_eq!(found([one, two], &tces), Ok(vec![first[0], first[1], large]));
        assert_eq!(found([0, 0], &tces), Ok(Vec::new()));
    }

    #[test]
    fn a_window_without_translation_is_one_run_to_where_it_lies() {
        // To 16 GiB.
        let all = Leaf { iova: 1 << 59, len: 0x4_0000_0000, pa: 0, read: true, write: true };
        assert_eq!(found([0, 0x0000_0000_0400_1000], &[]), Ok(vec![all]));
    }

    #[test]
    fn a_tve_that_makes_no_sense_is_told() {
        assert_eq!(found([0x1_0102, 0], &[]), Err("the I/O page of a TVE"));
        for tve in [0x1_0001, 0x1_1f01, 0x1_a101, 0x1_8111] {
            assert_eq!(found([tve, 0], &[]), Err("the size of a TVE"), "{tve:#x}");
        }
        for tve in [0x0400_0000, 0x0000_0400_0000_1000] {
            assert_eq!(found([0, tve], &[]), Err("the bounds of a TVE"), "{tve:#x}");
        }
    }
}
