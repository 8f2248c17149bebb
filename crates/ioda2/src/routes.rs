//! The tables in memory by which a bridge tells PEs: request id to PE (RTT), which PEs freeze together (PELT-V), and the room for their states.

use portcullis_hal::{Barriers, BlockLayout, TableMemory};
use portcullis_spec::ioda2::tables::{PE_COUNT, PELTV_LG2, PEST_LG2, RTT_LG2};
use portcullis_types::Pa;

/// The PE of those that belong nowhere or are blocked: it has no windows, ever.
///
/// Observed: skiboot include/phb3.h, `PHB3_RESERVED_PE_NUM`.
pub const NOBODY: u8 = 255;
/// The PE of MMIO that nobody has: another one, so that a device that is blocked does not freeze it.
pub const NOBODYS_MMIO: u8 = 254;

/// The tables. They lie in memory of the platform's, and the bridge reads and writes them.
#[derive(Debug)]
pub(crate) struct Routes {
    pub(crate) rtt: Pa,
    pub(crate) peltv: Pa,
    pub(crate) pest: Pa,
}

const LAYOUTS: [BlockLayout; 3] = [
    BlockLayout::naturally_aligned(RTT_LG2),
    BlockLayout::naturally_aligned(PELTV_LG2),
    BlockLayout::naturally_aligned(PEST_LG2),
];

impl Routes {
    /// Tables in which every request id is nobody's; none if there is no memory.
    pub(crate) fn new(mem: &impl TableMemory) -> Option<Self> {
        let rtt = mem.alloc(LAYOUTS[0])?;
        let peltv = mem.alloc(LAYOUTS[1]);
        let pest = peltv.and_then(|_| mem.alloc(LAYOUTS[2]));
        let (Some(peltv), Some(pest)) = (peltv, pest) else {
            peltv.iter().for_each(|&peltv| mem.free(peltv, LAYOUTS[1]));
            mem.free(rtt, LAYOUTS[0]);
            return None;
        };
        let nobody = u64::from_le_bytes([0, NOBODY, 0, NOBODY, 0, NOBODY, 0, NOBODY]);
        mem.store_run(rtt, nobody, 0, 1 << (RTT_LG2 - 3));
        Some(Self { rtt, peltv, pest })
    }

    /// Says in which PE a request id is.
    pub(crate) fn set(&self, mem: &impl TableMemory, rid: u16, pe: u8) {
        let offset = 2 * u64::from(rid);
        set_bytes(mem, self.rtt, offset, [0, pe]);
    }

    /// Says whether `other` freezes when `pe` does.
    ///
    /// Observed: skiboot hw/phb3.c, `phb3_set_peltv`: the most significant bit is the first PE.
    pub(crate) fn freeze_with(&self, mem: &impl TableMemory, pe: u8, other: u8, together: bool) {
        let offset = u64::from(pe) * u64::from(PE_COUNT / 8) + u64::from(other / 8);
        let at = Pa::new((self.peltv.get() + offset) & !7);
        let mut bytes = mem.load(at).to_le_bytes();
        let mask = 0x80 >> (other % 8);
        let byte = &mut bytes[place(offset)];
        *byte = if together { *byte | mask } else { *byte & !mask };
        mem.store(at, u64::from_le_bytes(bytes));
    }

    /// The two words of a PE's state that the bridge wrote, big-endian.
    pub(crate) fn state(&self, mem: &impl TableMemory, pe: u8) -> [u64; 2] {
        [0, 1].map(|half| u64::from_be_bytes(mem.load(self.state_at(pe, half)).to_le_bytes()))
    }

    /// Forgets one of them, which is of a PE that is frozen: the bridge writes nothing there before it goes on.
    pub(crate) fn forget_state(&self, mem: &(impl TableMemory + Barriers), pe: u8, half: u64) {
        mem.store(self.state_at(pe, half), 0);
        mem.write_barrier();
    }

    fn state_at(&self, pe: u8, half: u64) -> Pa {
        Pa::new(self.pest.get() + 16 * u64::from(pe) + 8 * half)
    }

    /// Gives the memory back. The bridge no longer uses it.
    pub(crate) fn free(self, mem: &impl TableMemory) {
        mem.free(self.rtt, LAYOUTS[0]);
        mem.free(self.peltv, LAYOUTS[1]);
        mem.free(self.pest, LAYOUTS[2]);
    }
}

fn set_bytes(mem: &impl TableMemory, table: Pa, offset: u64, new: [u8; 2]) {
    let at = Pa::new((table.get() + offset) & !7);
    let mut bytes = mem.load(at).to_le_bytes();
    bytes[place(offset)..][..2].copy_from_slice(&new);
    mem.store(at, u64::from_le_bytes(bytes));
}

/// Which byte of its word.
fn place(offset: u64) -> usize {
    usize::from(offset.to_le_bytes()[0] & 7)
}
