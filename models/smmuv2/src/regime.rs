//! What the registers of one or two context banks mean for a translation.
//!
//! Spec: SMMUv2 D.c, 1.6 "SMMU address support", 3.7.2 "Recording a context fault", Tables 3-1 to 3-4, 16.5.38 "SMMU_CBn_TCR", 16.5.39 "SMMU_CBn_TCR2",
//! 16.5.40 "SMMU_CBn_TTBRm", 17.3.8 and 17.3.9, the same for stage 2.

use model_bus::Notes;

use crate::bank::{Bank, sctlr};
use crate::bits::{bit, field, ones};
use crate::config::Config;
use crate::descriptor::Stage1Rules;
use crate::geometry::Granule;
use crate::registers::Registers;
use crate::strict::clause;

/// What one TTBR of stage 1 translates.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Region {
    /// EPD: a miss is a fault.
    pub(crate) closed: bool,
    pub(crate) root: u64,
    pub(crate) granule: Granule,
    /// Bits of the address that the tables resolve; none if TnSZ makes no sense.
    pub(crate) input_bits: Option<u32>,
    /// HAD: tables above have no say.
    pub(crate) flat_attributes: bool,
    /// TBI.
    ignore_top_byte: bool,
}

/// A bank that does stage 1.
#[derive(Clone, Debug)]
pub(crate) struct Stage1 {
    pub(crate) on: bool,
    /// The AArch64 scheme.
    pub(crate) wide: bool,
    pub(crate) hypervisor: bool,
    pub(crate) vmid: u16,
    pub(crate) asid: u16,
    pub(crate) regions: [Region; 2],
    /// The bit that is copied upwards.
    sign_bit: Option<u32>,
    /// Bits above it must be zero, rather than its copies.
    above_must_be_zero: bool,
    pub(crate) output_bits: u32,
    /// Limit of an address that is not translated.
    pub(crate) untranslated_bits: u32,
    pub(crate) mair: u64,
    pub(crate) rules: Stage1Rules,
    pub(crate) ignore_access_flag: bool,
    pub(crate) big_endian: bool,
    /// T0SZ and T1SZ of the AArch32 scheme.
    narrow_sizes: [u32; 2],
}

/// A bank that does stage 2.
#[derive(Clone, Debug)]
pub(crate) struct Stage2 {
    pub(crate) on: bool,
    pub(crate) wide: bool,
    pub(crate) vmid: u16,
    pub(crate) root: u64,
    pub(crate) granule: Granule,
    pub(crate) input_bits: u32,
    /// None if SL0 makes no sense.
    pub(crate) start: Option<u8>,
    pub(crate) output_bits: u32,
    pub(crate) untranslated_bits: u32,
    pub(crate) ignore_access_flag: bool,
    pub(crate) big_endian: bool,
    /// SCTLR.PTW.
    pub(crate) protected_walk: bool,
}

/// The stages that an access goes through, and the banks that do them.
#[derive(Clone, Debug)]
pub(crate) struct Regime {
    pub(crate) first: u8,
    pub(crate) second: Option<u8>,
    pub(crate) stage1: Option<Stage1>,
    pub(crate) stage2: Option<Stage2>,
}

impl Regime {
    /// The bank that tells a fault of a stage.
    pub(crate) fn bank_of(&self, stage2: bool) -> u8 {
        if stage2 { self.second.unwrap_or(self.first) } else { self.first }
    }
}

fn size_of(code: u64) -> u32 {
    [32, 36, 40, 42, 44, 48, 48, 48][(code & 7) as usize]
}

impl Registers {
    /// The regime of banks that exist and have been checked.
    pub(crate) fn regime(
        &self,
        first: u8,
        second: Option<u8>,
        config: &Config,
        notes: &mut Notes,
    ) -> Option<Regime> {
        let bank = self.bank(first)?;
        let behind = match second {
            Some(index) => Some(self.bank(index)?),
            None => None,
        };
        let mut reader = Reader { config, notes, wide_vmids: self.wide_vmids() };
        let (stage1, stage2) = if bank.is_stage2() {
            (None, Some(reader.stage2(first, bank)))
        } else {
            let stage2 = behind.map(|bank| reader.stage2(second.unwrap_or(first), bank));
            (Some(reader.stage1(first, bank, stage2.is_some())), stage2)
        };
        if let (Some(one), Some(two)) = (&stage1, &stage2)
            && one.vmid != two.vmid
        {
            let detail =
                format!("bank {first}: {:#x}; bank {}: {:#x}", one.vmid, second.unwrap_or(first), two.vmid);
            reader.notes.record(clause::VMID_MISMATCH, detail);
        }
        Some(Regime { first, second, stage1, stage2 })
    }
}

struct Reader<'a> {
    config: &'a Config,
    notes: &'a mut Notes,
    wide_vmids: bool,
}

impl Reader<'_> {
    fn granule(&mut self, index: u8, code: Option<Granule>) -> Granule {
        match code.filter(|&granule| self.config.granules().any(|there| there == granule)) {
            Some(granule) => granule,
            None => {
                self.notes.record(clause::GRANULE, format!("bank {index}: {code:?}"));
                self.config.granules().next().unwrap_or(Granule::Kib4)
            }
        }
    }

    fn output_size(&mut self, index: u8, code: u64) -> u32 {
        if code > 5 {
            self.notes.record(clause::OUTPUT_SIZE, format!("bank {index}: {code}"));
        }
        size_of(code)
    }

    fn root(&mut self, index: u8, ttbr: u64, lg2: u32) -> u64 {
        let base = field(ttbr, 47, 0);
        if base & ones(lg2) & !1 != 0 {
            self.notes.record(clause::TABLE_ALIGNMENT, format!("bank {index}: {ttbr:#x}, 2^{lg2} bytes"));
        }
        base >> lg2 << lg2
    }

    fn stage1(&mut self, index: u8, bank: &Bank, nested: bool) -> Stage1 {
        let config = self.config;
        let (ias, oas) = (u32::from(config.ipa_bits), u32::from(config.output_bits));
        let effective = if nested { ias } else { ias.min(oas) };
        let on = bank.is_on();
        let wide = bank.is_wide();
        let hypervisor = bank.is_hypervisor();
        let tcr = u64::from(bank.tcr);
        let (untranslated_bits, output_bits) = match (wide, on) {
            (false, _) => (ias.min(40), ias.min(40)),
            (true, false) => (effective, effective),
            (true, true) => {
                (effective, effective.min(self.output_size(index, field(bank.tcr2.into(), 2, 0))))
            }
        };
        if on && !wide && !hypervisor && !bit(bank.tcr, 31) {
            self.notes.record(clause::SHORT_DESCRIPTORS, format!("bank {index}: TCR {:#x}", bank.tcr));
        }
        if on && hypervisor && bit(bank.tcr, 7) {
            self.notes.record(clause::WALK_DISABLE_HYPERVISOR, format!("bank {index}"));
        }
        let narrow_sizes = [field(tcr, 2, 0) as u32, field(tcr, 18, 16) as u32];
        let regions = [0, 1].map(|half| {
            if on && !(half == 1 && hypervisor) {
                self.region(index, bank, half, narrow_sizes)
            } else {
                Region {
                    closed: true,
                    root: 0,
                    granule: Granule::Kib4,
                    input_bits: None,
                    flat_attributes: false,
                    ignore_top_byte: false,
                }
            }
        });
        let (sign_bit, above_must_be_zero) = self.sign(bank, wide && !hypervisor);
        Stage1 {
            on,
            wide,
            hypervisor,
            vmid: bank.vmid(self.wide_vmids),
            asid: bank.asid(),
            regions,
            sign_bit,
            above_must_be_zero,
            output_bits,
            untranslated_bits,
            mair: u64::from(bank.mair[1]) << 32 | u64::from(bank.mair[0]),
            rules: Stage1Rules {
                hypervisor,
                write_execute_never: bit(bank.sctlr, sctlr::WXN),
                unprivileged_write_execute_never: bit(bank.sctlr, sctlr::UWXN),
            },
            ignore_access_flag: bit(bank.sctlr, sctlr::AFFD),
            big_endian: bit(bank.sctlr, sctlr::BIG_ENDIAN),
            narrow_sizes,
        }
    }

    fn region(&mut self, index: u8, bank: &Bank, half: usize, narrow: [u32; 2]) -> Region {
        let tcr = u64::from(bank.tcr);
        let closed = bit(bank.tcr, if half == 0 { 7 } else { 23 });
        let wide = bank.is_wide();
        let (granule, input_bits) = if wide {
            let (code, size) = if half == 0 {
                (Granule::from_tg0(field(tcr, 15, 14)), field(tcr, 5, 0))
            } else {
                (Granule::from_tg1(field(tcr, 31, 30)), field(tcr, 21, 16))
            };
            if closed {
                // Nothing else of it counts.
                (Granule::Kib4, None)
            } else {
                let in_range = (16..=39).contains(&size);
                if !in_range {
                    self.notes.record(clause::REGION_SIZE, format!("bank {index}: T{half}SZ {size}"));
                }
                (self.granule(index, code), in_range.then_some(64 - size as u32))
            }
        } else {
            (Granule::Kib4, Some(32 - narrow[half]))
        };
        let root = match input_bits {
            Some(bits) if !closed => {
                let lg2 = bits - granule.shift(granule.stage1_start(bits)) + 3;
                self.root(index, bank.ttbr[half], lg2)
            }
            _ => 0,
        };
        let tcr2 = bank.tcr2;
        let had = if half == 0 { 8 } else { 9 };
        Region {
            closed,
            root,
            granule,
            input_bits,
            flat_attributes: wide && self.config.hierarchical_disable && bit(tcr2, had),
            ignore_top_byte: wide && bit(tcr2, if half == 0 { 5 } else { 6 }),
        }
    }

    /// The sign bit, and whether what is above it must be zero. Spec: SMMUv2 D.c, 16.5.39 "SMMU_CBn_TCR2", SEP.
    fn sign(&self, bank: &Bank, extends: bool) -> (Option<u32>, bool) {
        let bus = u32::from(self.config.upstream_bits);
        if !extends {
            return (None, false);
        }
        match field(bank.tcr2.into(), 17, 15) {
            6 | 7 if bus == 49 => (Some(48), false),
            6 | 7 => (None, false),
            code => {
                let position = [31, 35, 39, 41, 43, 47][code as usize % 6];
                if position < bus { (Some(position), true) } else { (None, false) }
            }
        }
    }

    fn stage2(&mut self, index: u8, bank: &Bank) -> Stage2 {
        let config = self.config;
        let oas = u32::from(config.output_bits);
        let (on, wide) = (bank.is_on(), bank.is_wide());
        let tcr = u64::from(bank.tcr);
        let sl0 = field(tcr, 7, 6);
        let (granule, input_bits, output_bits) = match (on, wide) {
            (false, _) => (Granule::Kib4, 1, oas),
            (true, true) => {
                let granule = self.granule(index, Granule::from_tg0(field(tcr, 15, 14)));
                let output = oas.min(self.output_size(index, field(tcr, 18, 16)));
                (granule, 64 - field(tcr, 5, 0) as u32, output)
            }
            // A signed number of four bits.
            (true, false) => {
                let size = field(tcr, 3, 0) as u32;
                (Granule::Kib4, if size < 8 { 32 - size } else { 48 - size }, oas.min(40))
            }
        };
        let start = granule.stage2_start(sl0).filter(|&start| {
            granule.stage2_consistent(start, input_bits) && (wide || start > 0) && input_bits <= 48
        });
        if on && start.is_none() {
            self.notes.record(clause::START_LEVEL, format!("bank {index}: TCR {:#x}", bank.tcr));
        }
        let root = start
            .filter(|_| on)
            .map_or(0, |start| self.root(index, bank.ttbr[0], input_bits - granule.shift(start) + 3));
        Stage2 {
            on,
            wide,
            vmid: bank.vmid(self.wide_vmids),
            root,
            granule,
            input_bits,
            start,
            output_bits,
            untranslated_bits: if wide { oas } else { oas.min(40) },
            ignore_access_flag: bit(bank.sctlr, sctlr::AFFD),
            big_endian: bit(bank.sctlr, sctlr::BIG_ENDIAN),
            protected_walk: config.nested && bit(bank.sctlr, sctlr::PTW),
        }
    }
}

impl Stage1 {
    /// The address as TLB tags have it, and which half of the address space it is in; none if it is in neither.
    ///
    /// Spec: SMMUv2 D.c, 1.6.4 "Sign-extension of input addresses", 1.5.1 "Defining the VA subranges for stage 1 translations".
    pub(crate) fn place(&self, address: u64) -> Option<(usize, u64)> {
        if !self.wide {
            return self.place_narrow(address);
        }
        let mut address = address;
        if let Some(sign) = self.sign_bit {
            if self.above_must_be_zero && address >> sign >> 1 != 0 {
                return None;
            }
            let above = 63 - sign;
            address = ((address << above) as i64 >> above) as u64;
        }
        let tagged = usize::from(address >> 55 & 1 != 0 && !self.hypervisor);
        let half = if self.regions[tagged].ignore_top_byte {
            address = if tagged == 1 { address | 0xff << 56 } else { address & ones(56) };
            tagged
        } else {
            usize::from(address >> 63 != 0 && !self.hypervisor)
        };
        let region = &self.regions[half];
        if region.closed {
            return None;
        }
        let above = !ones(region.input_bits?);
        (address & above == if half == 1 { above } else { 0 }).then_some((half, address))
    }

    /// Spec: SMMUv2 D.c, 1.5.1, Table 1-7 "Use of SMMU_CBn_TTBR0 and SMMU_CBn_TTBR1, AArch32 Long-descriptor format".
    fn place_narrow(&self, address: u64) -> Option<(usize, u64)> {
        let [lower, upper] = self.narrow_sizes;
        let top = |count: u32| address >> (32 - count);
        let in_lower = lower == 0 || top(lower) == 0;
        let half = if self.hypervisor {
            in_lower.then_some(0)?
        } else if upper > 0 && top(upper) == ones(upper) {
            1
        } else if in_lower {
            0
        } else if upper == 0 {
            1
        } else {
            return None;
        };
        (!self.regions[half].closed).then_some((half, address))
    }

    /// PLVL of a fault before any table was looked at.
    pub(crate) fn level_before_tables(&self) -> u8 {
        u8::from(!self.wide)
    }
}

/// What of an address the upstream bus carries, and whether that is all of it.
///
/// Spec: SMMUv2 D.c, 1.6.4. Choice: of an address that does not fit the lower bits remain.
pub(crate) fn on_bus(address: u64, config: &Config) -> (u64, bool) {
    let bits = u32::from(config.upstream_bits);
    let cut = address & ones(bits);
    let extended = bits < 64 && cut >> (bits - 1) & 1 != 0 && address | ones(bits) == u64::MAX;
    (cut, cut == address || extended)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bus_carries_addresses_and_their_sign() {
        let config = Config::default();
        assert_eq!(on_bus(0x0000_8000_0000_1000, &config), (0x0000_8000_0000_1000, true));
        assert_eq!(on_bus(0xffff_8000_0000_1000, &config), (0x0001_8000_0000_1000, true));
        assert_eq!(on_bus(0x0004_0000_0000_1000, &config), (0x1000, false));
        let narrow = Config { upstream_bits: 32, ..Config::default() };
        assert_eq!(on_bus(0xffff_f000, &narrow), (0xffff_f000, true));
        assert_eq!(on_bus(0x1_0000_0000, &narrow), (0, false));
    }
}
