//! The registers outside the context banks, and where each lies.
//!
//! Spec: SMMUv2 D.c, 8.2 "The global address space", 8.3 "The translation context bank address space", 9.1 and 10.1, register summaries, 9.2 "Reset values".
//! Not here: what writing them does (`program`, `program_bank`).

use model_bus::Dice;

use crate::bank::Bank;
use crate::bits::bit;
use crate::config::Config;
use crate::fault::GLOBAL_BITS;

/// CR0.
pub(crate) mod cr0 {
    pub(crate) const CLIENTPD: u32 = 0;
    pub(crate) const GFRE: u32 = 1;
    pub(crate) const GFIE: u32 = 2;
    pub(crate) const EXIDENABLE: u32 = 3;
    pub(crate) const GCFGFRE: u32 = 4;
    pub(crate) const GCFGFIE: u32 = 5;
    pub(crate) const STALLD: u32 = 8;
    pub(crate) const USFCFG: u32 = 10;
    pub(crate) const VMIDPNE: u32 = 11;
    pub(crate) const PTM: u32 = 12;
    pub(crate) const SMCFCFG: u32 = 21;
    pub(crate) const VMID16EN: u32 = 31;
    /// TRANSIENTCFG, BSU, FB, MemAttr, MTCFG, SHCFG, RACFG, WACFG: hints that are kept and have no effect here.
    pub(crate) const ATTRIBUTES: u32 = 0x0fdf_e0c0;
}

/// What a register access means by its offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    Global0(u64),
    Global1(u64),
    Bank(u8, u64),
    /// IMPLEMENTATION DEFINED, performance monitors, or beyond the last bank: reads as zero, ignores writes.
    Nothing,
}

impl Place {
    pub(crate) fn of(offset: u64, config: &Config) -> Self {
        let page = config.page_bytes();
        if offset < page {
            return Self::Global0(offset);
        }
        if offset < 2 * page {
            return Self::Global1(offset - page);
        }
        let Some(in_banks) = offset.checked_sub(config.banks_at()) else { return Self::Nothing };
        match u8::try_from(in_banks / page) {
            Ok(bank) if bank < config.banks => Self::Bank(bank, in_banks % page),
            _ => Self::Nothing,
        }
    }
}

/// Everything that software can program.
#[derive(Clone, Debug)]
pub(crate) struct Registers {
    pub(crate) cr0: u32,
    pub(crate) cr2: u32,
    pub(crate) acr: u32,
    pub(crate) gfsr: u32,
    pub(crate) gfar: u64,
    pub(crate) gfsynr: [u32; 3],
    pub(crate) smr: Vec<u32>,
    pub(crate) s2cr: Vec<u32>,
    /// Which SMR and S2CR software has written since reset.
    pub(crate) smr_written: u128,
    pub(crate) s2cr_written: u128,
    pub(crate) banks: Vec<Bank>,
}

impl Registers {
    /// Out of reset.
    pub(crate) fn new(config: &Config, dice: &mut Dice) -> Self {
        let known = !config.policy.unknown_values;
        let mut unknown = || if known { 0 } else { dice.next_bits() };
        let mut word = || (unknown() & 0xffff_ffff) as u32;
        let groups = config.stream_groups.into();
        let mut registers = Self {
            cr0: 0,
            cr2: word() & 0xff,
            acr: 0,
            gfsr: word() & GLOBAL_BITS,
            gfar: word().into(),
            gfsynr: [word() & 0x4f, word() & 0xffff, 0],
            smr: (0..groups).map(|_| word() & (1 << 31 | config.stream_mask(false))).collect(),
            s2cr: (0..groups).map(|_| word() & !(3 << 18)).collect(),
            smr_written: 0,
            s2cr_written: 0,
            banks: Vec::new(),
        };
        // CLIENTPD resets to 1, and all that could interrupt or report to 0; the rest is UNKNOWN.
        let open = 1 << cr0::USFCFG | 1 << cr0::SMCFCFG | 1 << cr0::PTM | 1 << cr0::VMIDPNE;
        registers.cr0 = registers.cr0_as_stored(1 << cr0::CLIENTPD | word() & open, config);
        registers.banks = (0..config.banks).map(|index| Bank::new(index, config, &mut unknown)).collect();
        registers
    }

    /// What CR0 keeps of a value.
    pub(crate) fn cr0_as_stored(&self, value: u32, config: &Config) -> u32 {
        let mut kept = cr0::ATTRIBUTES | 0x7 | 1 << cr0::USFCFG | 1 << cr0::SMCFCFG;
        let mut keep = |there: bool, bits: u32| kept |= if there { bits } else { 0 };
        keep(config.extended_ids && config.stream_matching, 1 << cr0::EXIDENABLE);
        keep(config.configuration_faults, 1 << cr0::GCFGFRE | 1 << cr0::GCFGFIE);
        keep(config.stall, 1 << cr0::STALLD);
        keep(config.broadcast, 1 << cr0::PTM | 1 << cr0::VMIDPNE);
        keep(config.vmid_16_bits, 1 << cr0::VMID16EN);
        // "If SMMU_IDR0.BTM is zero, this field can be implemented as RAO/WI."
        let fixed = if config.broadcast { 0 } else { 1 << cr0::PTM | 1 << cr0::VMIDPNE };
        value & kept | fixed
    }

    pub(crate) fn is_on(&self, control: u32) -> bool {
        bit(self.cr0, control)
    }

    /// The VMIDs of all banks are of 16 bits.
    pub(crate) fn wide_vmids(&self) -> bool {
        self.is_on(cr0::VMID16EN)
    }

    pub(crate) fn bank(&self, index: u8) -> Option<&Bank> {
        self.banks.get(usize::from(index))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_lie_where_the_book_puts_them() {
        let config = Config::default();
        let place = |offset| Place::of(offset, &config);
        assert_eq!([place(0x20), place(0x1400)], [Place::Global0(0x20), Place::Global1(0x400)]);
        assert_eq!([place(0x2000), place(0x1_fffc)], [Place::Nothing; 2]);
        assert_eq!([place(0x2_0058), place(0x2_f008)], [Place::Bank(0, 0x58), Place::Bank(15, 8)]);
        assert_eq!(place(0x3_0000), Place::Nothing, "there are sixteen banks");
        let large = Config { large_pages: true, ..Config::default() };
        assert_eq!(Place::of(0x1_0800, &large), Place::Global1(0x800));
        assert_eq!(Place::of(0x22_0618, &large), Place::Bank(2, 0x618));
    }

    #[test]
    fn everything_bypasses_out_of_reset_and_nothing_interrupts() {
        for seed in 0..50 {
            let config = Config::default();
            let registers = Registers::new(&config, &mut Dice::new(seed));
            assert_eq!(registers.cr0 & 0x3f, 1);
            assert!(registers.banks.iter().all(|bank| !bank.interrupts() && !bank.is_stalled()));
            assert!(registers.banks.iter().all(|bank| !bank.is_wide()));
        }
    }
}
