//! The IODA tables on the chip, behind IODA_ADDR and IODA_DATA0.
//!
//! IODA_ADDR selects a table and an entry; each access of IODA_DATA0, load or store, goes to that entry and, with auto-increment, moves on to the next, from
//! the last to the first.
//!
//! Observed: QEMU 7.2, hw/pci-host/pnv_phb3.c, pnv_phb3_ioda_access: the sizes, and that an index is cut to them.
//! Not here: PESTA, PESTB and PEEV, which are bits of a freeze (`freeze`).

use crate::bits::{Field, bit};
use crate::registers::{IODA_AUTOINC, IODA_INDEX, IODA_SELECT};

pub(crate) const LXIVT: u64 = 2;
pub(crate) const RBA: u64 = 4;
pub(crate) const PESTA: u64 = 7;
pub(crate) const PESTB: u64 = 8;
pub(crate) const TVT: u64 = 9;
pub(crate) const M64BT: u64 = 16;
pub(crate) const M32DT: u64 = 17;
pub(crate) const PEEV: u64 = 20;

/// Entries of a table, a power of two; none if there is no such table.
pub(crate) const fn entries(table: u64) -> Option<u64> {
    Some(match table {
        1 | LXIVT | 6 => 8,
        3 | RBA => 32,
        5 | 10 | 11 => 64,
        PESTA | PESTB | M32DT => 256,
        TVT => 512,
        M64BT => 16,
        PEEV => 4,
        _ => return None,
    })
}

/// LXIVT: an LSI's server and priority.
pub(crate) const LXIVT_SERVER: Field = Field::new(8, 23);
pub(crate) const LXIVT_PRIORITY: Field = Field::new(24, 31);
const LXIVT_NODE: Field = Field::new(56, 63);

/// M32DT: the PE of a segment.
pub(crate) const M32DT_PE: Field = Field::new(8, 15);

const M64_ENABLE: u64 = bit(0);
const M64_SINGLE: u64 = bit(1);
const M64_BASE: Field = Field::new(2, 31);
const M64_MASK: Field = Field::new(34, 63);
const M64_SINGLE_BASE: Field = Field::new(2, 26);
const M64_SINGLE_MASK: Field = Field::new(34, 58);
const M64_PE_HIGH: Field = Field::new(27, 31);
const M64_PE_LOW: Field = Field::new(59, 63);

/// Which entry IODA_DATA0 reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Selected {
    pub(crate) table: u64,
    pub(crate) index: usize,
}

/// The entry that IODA_ADDR selects, and what the register says afterwards; none if it selects no table.
pub(crate) fn select(address: u64) -> Option<(Selected, u64)> {
    let table = IODA_SELECT.get(address);
    let last = entries(table)? - 1;
    let index = IODA_INDEX.get(address) & last;
    let next = if address & IODA_AUTOINC != 0 { (index + 1) & last } else { index };
    Some((Selected { table, index: index as usize }, IODA_INDEX.set(address, next)))
}

/// What the tables hold.
#[derive(Clone, Debug)]
pub(crate) struct Tables(Vec<Vec<u64>>);

impl Tables {
    /// All zero, LSIs masked.
    pub(crate) fn new() -> Self {
        let sizes = (0..32).map(|table| entries(table).unwrap_or(0) as usize);
        let mut tables = Self(sizes.map(|size| vec![0; size]).collect());
        tables.0[LXIVT as usize].fill(LXIVT_PRIORITY.set(0, 0xff));
        tables
    }

    pub(crate) fn get(&self, table: u64, index: usize) -> u64 {
        self.0.get(table as usize).and_then(|entries| entries.get(index)).copied().unwrap_or(0)
    }

    pub(crate) fn set(&mut self, table: u64, index: usize, value: u64) {
        let kept = match table {
            LXIVT => value & (LXIVT_SERVER.in_place() | LXIVT_PRIORITY.in_place() | LXIVT_NODE.in_place()),
            _ => value,
        };
        if let Some(entry) = self.0.get_mut(table as usize).and_then(|entries| entries.get_mut(index)) {
            *entry = kept;
        }
    }

    /// Whether all entries of a table are zero.
    pub(crate) fn is_clear(&self, table: u64) -> bool {
        self.0.get(table as usize).is_none_or(|entries| entries.iter().fold(0, |all, entry| all | entry) == 0)
    }

    pub(crate) fn tve(&self, index: u16) -> u64 {
        self.get(TVT, index.into())
    }

    /// The PE to which an address belongs by the M64 BARs: the first that matches.
    ///
    /// Observed: skiboot hw/phb3.c, phb3_set_phb_mem_window and phb3_err_inject_mem64.
    pub(crate) fn m64_pe(&self, address: u64) -> Option<u16> {
        self.0.get(M64BT as usize)?.iter().find_map(|&bar| m64_pe(bar, address))
    }
}

fn m64_pe(bar: u64, address: u64) -> Option<u16> {
    if bar & M64_ENABLE == 0 {
        return None;
    }
    let single = bar & M64_SINGLE != 0;
    let (base, mask, lg2) = if single {
        (M64_SINGLE_BASE.get(bar), M64_SINGLE_MASK.get(bar), 25)
    } else {
        (M64_BASE.get(bar), M64_MASK.get(bar), 20)
    };
    // The mask has 50 bits as the address has: its top bits are those of the size's complement.
    let mask = mask << lg2;
    let size = (!mask & (u64::MAX >> 14)) + 1;
    if mask == 0 || address & mask & (u64::MAX >> 14) != base << lg2 & mask {
        return None;
    }
    if single {
        return Some((M64_PE_HIGH.get(bar) << 5 | M64_PE_LOW.get(bar)) as u16);
    }
    Some(((address & (size - 1)) / (size / 256).max(1)) as u16 & 0xff)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_index_moves_on_with_auto_increment_only_and_wraps() {
        let address = 0x8009_0000_0000_01ff;
        let at = Selected { table: TVT, index: 511 };
        assert_eq!(select(address), Some((at, 0x8009_0000_0000_0000)));
        assert_eq!(select(address & !IODA_AUTOINC), Some((at, 0x0009_0000_0000_01ff)));
        assert_eq!(select(0x001f_0000_0000_0000), None);
        // A table of 8 cuts the index.
        assert_eq!(select(0x8002_0000_0000_000f).unwrap().0, Selected { table: LXIVT, index: 7 });
    }

    #[test]
    fn an_address_belongs_to_the_pe_of_its_m64_segment() {
        let mut tables = Tables::new();
        // 64 GiB at 0x3d00_0000_0000 in 256 segments of 256 MiB.
        tables.set(M64BT, 15, 1 << 63 | 0x3d0_0000 << 32 | (0x4000_0000 - 0x1_0000));
        assert_eq!(tables.m64_pe(0x3d00_0000_0000), Some(0));
        assert_eq!(tables.m64_pe(0x3d00_2fff_ffff), Some(2));
        assert_eq!(tables.m64_pe(0x3d0f_ffff_ffff), Some(255));
        assert_eq!(tables.m64_pe(0x3d10_0000_0000), None);
        // 32 MiB at 0x3d00_2000_0000 for PE 0x61 alone, which comes first.
        let single = 3 << 62 | (0x3d00_2000_0000 >> 25) << 37 | 3 << 32 | (0x200_0000 - 1) << 5 | 1;
        tables.set(M64BT, 0, single);
        assert_eq!(tables.m64_pe(0x3d00_2000_0000), Some(0x61));
        assert_eq!(tables.m64_pe(0x3d00_2200_0000), Some(2));
    }
}
