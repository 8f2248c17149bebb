//! A third reading of VT-d's tables: where the entries of a source and of an address lie, by what the registers say.
//!
//! Spec: VT-d 5.10, 3.4 "DMA Request Translation", 9.1 "Root Entry" to 9.6 "Scalable-Mode PASID Table Entry", 9.8 "Second-Stage Paging Entries".

use portcullis::hal::Registers;
use portcullis::types::Pa;

use crate::conformance::via::Machine;

/// RTADDR_REG.
const RTADDR: usize = 0x20;
/// Bits 51:12 of an entry.
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// The tables of a unit that is on.
pub struct Sight<'a, R> {
    /// Its registers.
    pub registers: &'a R,
    /// Its memory.
    pub machine: &'a dyn Machine,
}

impl<R: Registers> Sight<'_, R> {
    fn word(&self, at: u64) -> u64 {
        self.machine.load(Pa::new(at))
    }

    fn is_scalable(&self) -> bool {
        // TTM, bits 11:10.
        self.registers.read64(RTADDR) >> 10 & 3 == 1
    }

    /// Where the entry lies that says which table a source's requests go through: a context entry, or, in scalable mode, the entry of PASID 0. None if nothing leads to it.
    pub fn entry(&self, source: u32) -> Option<Pa> {
        let (bus, devfn) = (u64::from(source >> 8), u64::from(source & 0xff));
        let root = (self.registers.read64(RTADDR) & ADDRESS) + 16 * bus;
        if !self.is_scalable() {
            let root = self.word(root);
            return (root & 1 == 1).then(|| Pa::new((root & ADDRESS) + 16 * devfn));
        }
        let half = self.word(root + 8 * (devfn >> 7));
        let context = (half & ADDRESS) + 32 * (devfn & 0x7f);
        let directory = self.word((half & 1 == 1).then_some(context)?);
        let table = self.word((directory & 1 == 1).then_some(directory & ADDRESS)?);
        (table & 1 == 1).then(|| Pa::new(table & ADDRESS))
    }

    /// The second-stage entries that the walk of an address meets, the first table's first.
    pub fn path(&self, source: u32, iova: u64) -> Option<Vec<Pa>> {
        let entry = self.entry(source)?.get();
        let word = self.word(entry);
        // AW, bits 66:64 of a context entry, bits 4:2 of a PASID-table entry: 1 is 3 levels.
        let width = if self.is_scalable() { word >> 2 & 7 } else { self.word(entry + 8) & 7 };
        let (mut table, mut path) = (word & ADDRESS, Vec::new());
        for level in (0..width + 2).rev() {
            let at = table + 8 * (iova >> (12 + 9 * level) & 0x1ff);
            path.push(Pa::new(at));
            let word = self.word(at);
            // R and W, bits 1:0; PS, bit 7.
            if word & 3 == 0 || word >> 7 & 1 == 1 {
                break;
            }
            table = word & ADDRESS;
        }
        Some(path)
    }
}
