//! The register map: where each register lies, how it is accessed, what it is out of reset.
//!
//! Registers have 64 bits and are big-endian: the value that the model takes and gives is the number that a CPU means by a big-endian store or load of
//! 64 bits. There is no narrower access, but for CONFIG_DATA.
//!
//! Observed: skiboot include/phb3-regs.h; QEMU 7.2, hw/pci-host/pnv_phb3.c, pnv_phb3_reg_read ("Other registers are 64-bit only").
//! Not here: what a store does (`program`), the tables behind IODA_DATA0 (`tables`).

use crate::bits::{Field, bit};

pub(crate) const LSI_SOURCE_ID: u64 = 0x100;
pub(crate) const DMA_CHAN_STATUS: u64 = 0x110;
pub(crate) const CPU_LOADSTORE_STATUS: u64 = 0x120;
pub(crate) const CONFIG_DATA: u64 = 0x130;
pub(crate) const CONFIG_ADDRESS: u64 = 0x140;
pub(crate) const IVT_BAR: u64 = 0x150;
pub(crate) const RBA_BAR: u64 = 0x158;
pub(crate) const PHB3_CONFIG: u64 = 0x160;
pub(crate) const RTT_BAR: u64 = 0x168;
pub(crate) const PELTV_BAR: u64 = 0x188;
pub(crate) const M32_BASE_ADDR: u64 = 0x190;
pub(crate) const M32_BASE_MASK: u64 = 0x198;
pub(crate) const PEST_BAR: u64 = 0x1a8;
pub(crate) const M64_UPPER_BITS: u64 = 0x1f0;
pub(crate) const DMARD_SYNC: u64 = 0x200;
pub(crate) const RTC_INVALIDATE: u64 = 0x208;
pub(crate) const TCE_KILL: u64 = 0x210;
pub(crate) const IODA_ADDR: u64 = 0x220;
pub(crate) const IODA_DATA0: u64 = 0x228;
pub(crate) const FFI_REQUEST: u64 = 0x238;
pub(crate) const FFI_LOCK: u64 = 0x240;
pub(crate) const IVC_INVALIDATE: u64 = 0x2a0;
pub(crate) const IVC_UPDATE: u64 = 0x2a8;
pub(crate) const INJECT_CTL: u64 = 0x2b0;
pub(crate) const INJECT_ADDR: u64 = 0x2b8;
pub(crate) const INJECT_MASK: u64 = 0x2c0;
pub(crate) const ETU_ERR_SUMMARY: u64 = 0x2c8;
pub(crate) const SYSTEM_CONFIG: u64 = 0x600;
pub(crate) const DLP_TRAIN_CTL: u64 = 0x640;
pub(crate) const VERSION: u64 = 0x800;
pub(crate) const RESET: u64 = 0x808;
pub(crate) const CONTROL: u64 = 0x810;
pub(crate) const QUIESCE_DMA: u64 = 0x888;
pub(crate) const LEM_FIR: u64 = 0xc00;
pub(crate) const LEM_FIR_AND: u64 = 0xc08;
pub(crate) const LEM_FIR_OR: u64 = 0xc10;
pub(crate) const LEM_MASK: u64 = 0xc18;
pub(crate) const LEM_MASK_AND: u64 = 0xc20;
pub(crate) const LEM_MASK_OR: u64 = 0xc28;
pub(crate) const LEM_WOF: u64 = 0xc40;

/// The four groups of error registers, by their first: PHB, outbound, inbound A, inbound B.
pub(crate) const ERROR_GROUPS: [u64; 4] = [0xc80, 0xd00, 0xd80, 0xe00];
/// In a group: what is wrong; stored ones clear it.
pub(crate) const STATUS: u64 = 0x00;
/// In a group: what was wrong first.
pub(crate) const FIRST: u64 = 0x08;
/// In a group: which errors interrupt.
pub(crate) const IRQ_ENABLE: u64 = 0x20;
/// In a group: which errors freeze a PE.
pub(crate) const FREEZE_ENABLE: u64 = 0x28;
/// In a group: particulars of the first.
pub(crate) const LOG_0: u64 = 0x40;
pub(crate) const LOG_1: u64 = 0x48;

/// Bit 0 of every BAR of a table in memory.
pub(crate) const BAR_ENABLE: u64 = bit(0);
pub(crate) const IVT_LENGTH: Field = Field::new(52, 63);
/// Bits of PHB3_CONFIG.
pub(crate) const CONFIG_MSI32: u64 = bit(8);
pub(crate) const CONFIG_MSI64: u64 = bit(14);
pub(crate) const CONFIG_M32: u64 = bit(16);
/// Bits of CONTROL. Observed: QEMU 7.2, PHB_CTRL_IVE_128_BYTES; skiboot hw/phb3.c, phb3_init_hw, "32-bit bypass support".
pub(crate) const CONTROL_IVE_128: u64 = bit(24);
pub(crate) const CONTROL_BYPASS_32: u64 = bit(11);
/// Bits of RTC_INVALIDATE.
pub(crate) const RTC_ALL: u64 = bit(0);
pub(crate) const RTC_RID: Field = Field::new(16, 31);
/// Bits of TCE_KILL. Observed: Linux 4.20, PHB3_TCE_KILL_INVAL_*. For one, the address lies below bit 2, and the PE in its low bits, which are
/// an offset in a page.
pub(crate) const KILL_ALL: u64 = bit(0);
pub(crate) const KILL_PE: u64 = bit(1);
pub(crate) const KILL_ONE: u64 = bit(2);
pub(crate) const KILL_PE_NUMBER: Field = Field::new(56, 63);
pub(crate) const KILL_ADDRESS: u64 = Field::new(4, 51).in_place();
/// Bits of DMARD_SYNC.
pub(crate) const SYNC_START: u64 = bit(0);
pub(crate) const SYNC_COMPLETE: u64 = bit(1);
/// Bits of IODA_ADDR.
pub(crate) const IODA_AUTOINC: u64 = bit(0);
pub(crate) const IODA_SELECT: Field = Field::new(11, 15);
pub(crate) const IODA_INDEX: Field = Field::new(55, 63);
/// Bits of CONFIG_ADDRESS.
pub(crate) const CA_ENABLE: u64 = bit(0);
pub(crate) const CA_BDFN: Field = Field::new(4, 19);
pub(crate) const CA_REGISTER: Field = Field::new(20, 31);
pub(crate) const CA_PE: Field = Field::new(40, 47);
/// Bits of FFI_REQUEST and FFI_LOCK.
pub(crate) const FFI_SOURCE: Field = Field::new(49, 59);
pub(crate) const FFI_LOCKED: u64 = bit(0);
/// LSI_SOURCE_ID: the number of the first LSI, over 8.
pub(crate) const LSI_SOURCE: Field = Field::new(5, 12);
/// Bits of INJECT_CTL.
pub(crate) const INJECT_INBOUND: u64 = bit(0);
pub(crate) const INJECT_OUTBOUND: u64 = bit(1);
pub(crate) const INJECT_READ: u64 = bit(4);
pub(crate) const INJECT_WRITE: u64 = bit(5);
pub(crate) const INJECT_CONFIG: u64 = bit(3);
/// INJECT_ADDR and INJECT_MASK of an outbound access, and of one to configuration space: the function, where CONFIG_ADDRESS has it.
pub(crate) const INJECT_MMIO: u64 = Field::new(16, 63).in_place();
pub(crate) const INJECT_FUNCTION: u64 = CA_BDFN.in_place();
/// Bits of DLP_TRAIN_CTL: something is plugged in, the link is up.
pub(crate) const DLP_UP: u64 = bit(19) | bit(23);
/// RESET: PERST is not asserted. Observed: skiboot hw/phb3.c, phb3_freset.
const NO_PERST: u64 = bit(2);
/// QUIESCE_DMA: bits of the request.
const QUIESCE: u64 = bit(0);
const QUIESCE_AUTORESET: u64 = bit(1);
/// DMA_CHAN_STATUS and CPU_LOADSTORE_STATUS: any error, any first error, any freeze.
pub(crate) const ANY_ERROR: u64 = bit(27);
pub(crate) const ANY_FIRST: u64 = bit(28);
pub(crate) const ANY_FREEZE: u64 = bit(29);

/// Runs of registers that there are, first and last. Observed: skiboot include/phb3-regs.h.
const RUNS: [(u64, u64); 24] = [
    (0x100, 0x100),
    (0x110, 0x110),
    (0x120, 0x168),
    (0x188, 0x1a8),
    (0x1f0, 0x228),
    (0x238, 0x268),
    (0x2a0, 0x2c8),
    (0x400, 0x420),
    (0x440, 0x448),
    (0x460, 0x488),
    (0x4c0, 0x5c8),
    (0x600, 0x608),
    (0x618, 0x618),
    (0x630, 0x648),
    (0x668, 0x6e8),
    (0x700, 0x700),
    (0x800, 0x840),
    (0x858, 0x888),
    (0x900, 0x908),
    (0xc00, 0xc40),
    (0xc80, 0xdd8),
    (0xe00, 0xe58),
    (0xf80, 0xfa8),
    (0xfb0, 0xfb0),
];

/// Whether stored ones clear what is wrong: statuses, and the logs of the link.
///
/// Observed: skiboot hw/phb3.c, phb3_init_utl, "Clean & setup port errors", and phb3_err_ER_clear.
pub(crate) fn clears_by_ones(offset: u64) -> bool {
    ERROR_GROUPS.contains(&offset) || matches!(offset, 0x410 | 0x548 | 0x560 | 0x578 | 0x680..=0x6a8)
}

/// A bit for each register that there is: the runs, told apart once, for every access asks.
const THERE: [u64; 8] = {
    let mut there = [0; 8];
    let mut run = 0;
    while run < RUNS.len() {
        let (first, last) = RUNS[run];
        let mut number = first as usize / 8;
        while number <= last as usize / 8 {
            there[number / 64] |= 1 << (number % 64);
            number += 1;
        }
        run += 1;
    }
    there
};

/// Whether there is a register at `offset`, a multiple of 8.
pub(crate) fn exists(offset: u64) -> bool {
    let number = offset / 8;
    THERE.get(number as usize / 64).is_some_and(|bits| bits >> (number % 64) & 1 != 0)
}

/// Whether a register is only read.
pub(crate) fn is_read_only(offset: u64) -> bool {
    matches!(
        offset,
        DMA_CHAN_STATUS | CPU_LOADSTORE_STATUS | ETU_ERR_SUMMARY | VERSION | 0x250 | 0x258 | 0x260 | 0x268
    )
}

/// What a BAR of a table in memory keeps; none for other registers.
pub(crate) fn bar_mask(offset: u64) -> Option<u64> {
    let last = match offset {
        IVT_BAR => 48,
        RBA_BAR => 55,
        RTT_BAR => 46,
        PELTV_BAR => 50,
        PEST_BAR => 51,
        _ => return None,
    };
    let length = if offset == IVT_BAR { IVT_LENGTH.in_place() } else { 0 };
    Some(BAR_ENABLE | Field::new(14, last).in_place() | length)
}

/// The registers that remember.
#[derive(Clone, Debug)]
pub(crate) struct Registers(Box<[u64; 512]>);

impl Registers {
    /// Out of reset.
    ///
    /// Choice: which errors freeze a PE out of reset is in no header. Here it is what skiboot stores (hw/phb3.c, phb3_init_errors), and a message to
    /// another PE's interrupt besides; PERST is not asserted, as after firmware.
    pub(crate) fn new(version: u64) -> Self {
        let mut registers = Self(Box::new([0; 512]));
        registers.set(VERSION, version);
        registers.set(SYSTEM_CONFIG, 0x4411_00fc_3000_0000);
        registers.set(RESET, 0xf000_0000_0000_0000);
        registers.set(LEM_MASK, u64::MAX);
        let enables =
            [0x0000_0000_8080_0000, 0x0000_4208_0000_0000, 0xc000_03b9_0100_6000, 0x0000_6000_0000_0060];
        for (group, enable) in ERROR_GROUPS.into_iter().zip(enables) {
            registers.set(group + FREEZE_ENABLE, enable);
        }
        registers
    }

    pub(crate) fn get(&self, offset: u64) -> u64 {
        self.0.get(offset as usize / 8).copied().unwrap_or(0)
    }

    pub(crate) fn set(&mut self, offset: u64, value: u64) {
        if let Some(register) = self.0.get_mut(offset as usize / 8) {
            *register = value;
        }
    }

    /// The table that a BAR points to; none if it is off.
    pub(crate) fn table(&self, bar: u64) -> Option<u64> {
        let value = self.get(bar);
        let address = bar_mask(bar)? & !BAR_ENABLE & !if bar == IVT_BAR { IVT_LENGTH.in_place() } else { 0 };
        (value & BAR_ENABLE != 0).then_some(value & address)
    }

    /// Whether any group has something in this register of its own.
    pub(crate) fn any_group(&self, register: u64) -> bool {
        ERROR_GROUPS.iter().any(|group| self.get(group + register) != 0)
    }

    /// Whether PERST is asserted.
    pub(crate) fn holds_slot(&self) -> bool {
        self.get(RESET) & NO_PERST == 0
    }

    /// What DLP_TRAIN_CTL says, as far as the bridge decides it: the link is up unless the slot is held in reset.
    pub(crate) fn train_control(&self) -> u64 {
        let own = self.get(DLP_TRAIN_CTL) & !DLP_UP;
        if self.holds_slot() { own } else { own | DLP_UP }
    }
}

/// What QUIESCE_DMA keeps of a store. Observed: QEMU 7.2, pnv_phb3_reg_write.
pub(crate) fn quiesce(value: u64) -> u64 {
    if value & QUIESCE_AUTORESET != 0 { 0 } else { value & QUIESCE }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_keep_the_bits_of_their_tables_alignment() {
        assert_eq!(bar_mask(RTT_BAR), Some(0x8003_ffff_fffe_0000), "128 KiB");
        assert_eq!(bar_mask(PELTV_BAR), Some(0x8003_ffff_ffff_e000), "8 KiB");
        assert_eq!(bar_mask(PEST_BAR), Some(0x8003_ffff_ffff_f000), "4 KiB");
        assert_eq!(bar_mask(IVT_BAR), Some(0x8003_ffff_ffff_8fff), "32 KiB, and a length");
        assert_eq!(bar_mask(TCE_KILL), None);
    }

    #[test]
    fn only_what_the_header_names_is_there() {
        assert!(exists(TCE_KILL) && exists(0xe58) && !exists(0x230) && !exists(0xe60) && !exists(0x108));
        let by_runs = |offset: &u64| RUNS.iter().any(|&(first, last)| (first..=last).contains(offset));
        assert!((0..0x2000).step_by(8).all(|offset| exists(offset) == by_runs(&offset)));
    }
}
