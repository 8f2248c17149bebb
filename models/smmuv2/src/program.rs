//! Register accesses: widths, and the registers of the global space.
//!
//! Spec: SMMUv2 D.c, chapter 9 "SMMU Global Register Space 0", chapter 10 "SMMU Global Register Space 1".
//! Not here: context banks (`program_bank`). Secure registers are not there, as in an implementation with one Security state.

use model_bus::{Flights, Width};

use crate::bank::part;
use crate::bits::{bit, field};
use crate::config::Config;
use crate::fault::{FaultKind, GLOBAL_BITS};
use crate::maintenance::{Issuer, Scope};
use crate::registers::{Place, cr0};
use crate::state::{Around, State};
use crate::stream::{s2cr_reserved, smr_as_stored, smr_reserved};
use crate::strict::clause;

/// One write, as it reaches a register.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Written {
    pub(crate) value: u64,
    /// Sixty-four bits at once.
    pub(crate) whole: bool,
}

impl Written {
    /// What becomes of a 64-bit register; `upper`: the write is to its upper half.
    pub(crate) fn merged(self, old: u64, upper: bool) -> u64 {
        match (self.whole, upper) {
            (true, _) => self.value,
            (false, false) => old & !0xffff_ffff | self.value,
            (false, true) => old & 0xffff_ffff | self.value << 32,
        }
    }

    fn low(self) -> u32 {
        (self.value & 0xffff_ffff) as u32
    }
}

fn is_wide_global(offset: u64) -> bool {
    matches!(offset, 0x40 | 0xb0 | 0xc0)
}

impl State {
    /// Reads a register.
    pub(crate) fn read_register(&mut self, offset: u64, width: Width, around: Around<'_>) -> u64 {
        self.counters.register_reads += 1;
        if !self.has_width(offset, width, around.config) {
            return 0;
        }
        if self.word(offset, around.config).is_none() {
            self.configuration_access(offset, false, around.config);
        }
        self.peek(offset, width, around.config)
    }

    /// What a register of 32 or 64 bits says, as if nobody had looked.
    pub(crate) fn peek(&self, offset: u64, width: Width, config: &Config) -> u64 {
        let word = |offset| u64::from(self.word(offset, config).unwrap_or(0));
        if width == Width::Bits64 { word(offset) | word(offset + 4) << 32 } else { word(offset) }
    }

    /// The word at an offset; none if a register should be there, and is not.
    fn word(&self, offset: u64, config: &Config) -> Option<u32> {
        match Place::of(offset, config) {
            Place::Global0(at) => self.read_global0(at, config),
            Place::Global1(at) => self.read_global1(at),
            Place::Bank(bank, at) => self.read_bank(bank, at),
            Place::Nothing => Some(0),
        }
    }

    /// Writes a register.
    pub(crate) fn write_register(
        &mut self,
        offset: u64,
        width: Width,
        value: u64,
        around: Around<'_>,
        flights: &Flights,
    ) {
        self.counters.register_writes += 1;
        if !self.has_width(offset, width, around.config) {
            return;
        }
        let whole = width == Width::Bits64;
        let value = if whole { value } else { value & 0xffff_ffff };
        let written = Written { value, whole };
        match Place::of(offset, around.config) {
            Place::Global0(at) => self.write_global0(at, written, around, flights),
            Place::Global1(at) => self.write_global1(at, written.low(), around.config),
            Place::Bank(bank, at) => self.write_bank(bank, at, written, around, flights),
            Place::Nothing => {}
        }
    }

    /// Whether a register can be accessed at a width. What it cannot is read as zero and ignored.
    fn has_width(&mut self, offset: u64, width: Width, config: &Config) -> bool {
        let aligned = offset.is_multiple_of(width.bytes());
        let fine = match (width, Place::of(offset, config)) {
            (Width::Bits8 | Width::Bits16, _) => false,
            (Width::Bits64, Place::Global0(at)) => is_wide_global(at),
            (Width::Bits64, Place::Bank(_, at)) => Self::is_wide_in_bank(at),
            (Width::Bits64, _) => false,
            (Width::Bits32, Place::Global0(0x40 | 0x44)) => config.split_global_accesses,
            (Width::Bits32, _) => true,
        };
        if !(fine && aligned) {
            self.notes.record(clause::REGISTER_WIDTH, format!("{offset:#x}, {} bytes", width.bytes()));
        }
        fine && aligned
    }

    /// A register that is not there. Spec: SMMUv2 D.c, 3.9 "Configuration access", 3.8.1 "Recording a global fault".
    fn configuration_access(&mut self, offset: u64, write: bool, config: &Config) {
        if write {
            self.notes.record(clause::UNIMPLEMENTED, format!("{offset:#x}"));
        }
        if config.configuration_faults {
            let kind = FaultKind::ConfigurationAccess;
            *self.counters.faults.entry(kind).or_default() += 1;
            self.record_global(kind, offset, [u32::from(write) << 1, 0, 0]);
        }
    }

    /// A register of Global Register Space 0; none if it is not there.
    fn read_global0(&self, at: u64, config: &Config) -> Option<u32> {
        let registers = &self.registers;
        let group = |table: &[u32], base: u64| table.get(((at - base) / 4) as usize).copied();
        Some(match at {
            0x00 => registers.cr0,
            0x08 => registers.cr2,
            0x10 => registers.acr,
            0x20..=0x3c => config.identification((at - 0x20) / 4),
            0x40 => field(registers.gfar, 31, 0) as u32,
            0x44 => field(registers.gfar, 63, 32) as u32,
            0x48 => registers.gfsr,
            0x50..=0x58 => registers.gfsynr[((at - 0x50) / 4) as usize],
            0x74 => u32::from(self.maintenance.is_active(Issuer::Global)),
            // Write only.
            0x4c | 0x64..=0x70 | 0x78 | 0xb0..=0xb8 | 0xc0 | 0xc4 => 0,
            0x800..=0x9fc => group(&registers.smr, 0x800).filter(|_| config.stream_matching)?,
            0xc00..=0xdfc => group(&registers.s2cr, 0xc00)?,
            // IMPLEMENTATION DEFINED.
            0x80..=0x9c | 0xfd0..=0xffc => 0,
            _ => return None,
        })
    }

    fn write_global0(&mut self, at: u64, written: Written, around: Around<'_>, flights: &Flights) {
        let (config, value) = (around.config, written.low());
        match at {
            0x00 => self.write_cr0(value, config),
            0x08 => {
                self.note_reserved("CR2", value & !0xff);
                self.registers.cr2 = value & 0xff;
            }
            0x10 => self.registers.acr = value,
            0x20..=0x3c | 0x74 => self.notes.record(clause::READ_ONLY, format!("{at:#x} = {value:#x}")),
            0x40 | 0x44 => self.registers.gfar = written.merged(self.registers.gfar, at == 0x44),
            // "A value of 1 written to any non-reserved bit clears that bit."
            0x48 => self.registers.gfsr &= !value,
            0x4c => self.registers.gfsr = value & GLOBAL_BITS,
            0x50..=0x58 => self.registers.gfsynr[((at - 0x50) / 4) as usize] = value,
            0x64 => self.post_vmid("TLBIVMID", value, Scope::Vmid, around),
            0x68 => self.post("TLBIALLNSNH", Scope::AllNonHypervisor, Issuer::Global, around),
            0x6c => self.post("TLBIALLH", Scope::AllHypervisor, Issuer::Global, around),
            0x70 => self.synchronize("TLBGSYNC", Issuer::Global, around, flights),
            0x78 if config.aarch32 => {
                self.note_reserved("TLBIVAH", value & 0xfff);
                let address = u64::from(value & !0xfff);
                let scope = Scope::HypervisorAddress { first: address, last: address, leaf: false };
                self.post("TLBIVAH", scope, Issuer::Global, around);
            }
            0xb0 => self.post_hypervisor_address("TLBIVALH64", written.value, true, around),
            0xb8 => self.post_vmid("TLBIVMIDS1", value, Scope::VmidStage1, around),
            0xc0 => self.post_hypervisor_address("TLBIVAH64", written.value, false, around),
            // "A 32-bit write to the upper word of the register is ignored."
            0xb4 | 0xc4 => {}
            0x800..=0x9fc => self.write_smr(at, value, config),
            0xc00..=0xdfc => self.write_s2cr(at, value, config),
            0x80..=0x9c | 0xfd0..=0xffc => {}
            _ => self.configuration_access(at, true, config),
        }
    }

    fn note_reserved(&mut self, name: &str, bits: u32) {
        if bits != 0 {
            self.notes.record(clause::RESERVED_BITS, format!("{name}: {bits:#x}"));
        }
    }

    fn write_cr0(&mut self, value: u32, config: &Config) {
        let sixteen = if config.vmid_16_bits { 0 } else { 1 << cr0::VMID16EN };
        // HYPMODE is RES0 where there is no E2HC.
        self.note_reserved("CR0", value & (7 << 28 | sixteen));
        let old = self.registers.cr0;
        let new = self.registers.cr0_as_stored(value, config);
        let changed = old ^ new;
        if bit(changed, cr0::EXIDENABLE) {
            let registers = &self.registers;
            let set = registers.s2cr.iter().any(|&s2cr| bit(s2cr, 10))
                || registers.smr.iter().any(|&smr| bit(smr, 31));
            if set {
                self.notes.record(clause::EXTENDED_IDS, format!("CR0 {old:#x} to {new:#x}"));
            }
        }
        if bit(changed, cr0::VMID16EN) && !self.tlb.has_none(|space| space != crate::tlb::Space::Hypervisor) {
            self.notes.record(clause::VMID_WIDTH, format!("CR0 {old:#x} to {new:#x}"));
        }
        self.registers.cr0 = new;
        if bit(old, cr0::CLIENTPD) && !bit(new, cr0::CLIENTPD) {
            self.note_uninitialized_streams(config);
        }
    }

    fn note_uninitialized_streams(&mut self, config: &Config) {
        let registers = &self.registers;
        let extended = registers.extended();
        let missing = (0..registers.s2cr.len()).find(|&group| {
            let s2cr_written = registers.s2cr_written >> group & 1 != 0;
            let smr_written = registers.smr_written >> group & 1 != 0;
            match (config.stream_matching, extended) {
                // Whether the entry is valid says SMR; what it does, S2CR.
                (true, false) => !smr_written || bit(registers.smr[group], 31) && !s2cr_written,
                (true, true) => !s2cr_written || bit(registers.s2cr[group], 10) && !smr_written,
                (false, _) => !s2cr_written,
            }
        });
        if let Some(group) = missing {
            self.notes.record(clause::UNINITIALIZED_STREAMS, format!("group {group}"));
        }
    }

    fn write_smr(&mut self, at: u64, value: u32, config: &Config) {
        let group = ((at - 0x800) / 4) as usize;
        if !config.stream_matching || group >= self.registers.smr.len() {
            return self.configuration_access(at, true, config);
        }
        let extended = self.registers.extended();
        if smr_reserved(value, extended) {
            self.note_reserved("SMR", 1 << 15);
        }
        self.registers.smr[group] = smr_as_stored(value, extended, config);
        self.registers.smr_written |= 1 << group;
    }

    fn write_s2cr(&mut self, at: u64, value: u32, config: &Config) {
        let group = ((at - 0xc00) / 4) as usize;
        if group >= self.registers.s2cr.len() {
            return self.configuration_access(at, true, config);
        }
        let reserved = s2cr_reserved(value, config);
        self.note_reserved("S2CR", reserved);
        if field(value.into(), 17, 16) == 3 {
            self.notes.record(clause::RESERVED_TYPE, format!("group {group}: {value:#x}"));
        }
        self.registers.s2cr[group] = value & !reserved;
        self.registers.s2cr_written |= 1 << group;
    }

    fn post_vmid(&mut self, name: &'static str, value: u32, scope: fn(u16) -> Scope, around: Around<'_>) {
        let most = if around.config.vmid_16_bits { 0xffff } else { 0xff };
        self.note_reserved(name, value & !most);
        self.post(name, scope((value & most) as u16), Issuer::Global, around);
    }

    fn post_hypervisor_address(&mut self, name: &'static str, value: u64, last: bool, around: Around<'_>) {
        self.note_reserved(name, (value >> 44) as u32);
        let address = address_of(value);
        let scope = Scope::HypervisorAddress { first: address, last: address, leaf: last };
        self.post(name, scope, Issuer::Global, around);
    }

    /// A register of Global Register Space 1; none if it is not there.
    fn read_global1(&self, at: u64) -> Option<u32> {
        let bank = self.registers.banks.get((at % 0x400 / 4) as usize)?;
        match at {
            0x000..=0x1fc => Some(bank.cbar),
            0x400..=0x5fc => Some(bank.frsynra),
            0x800..=0x9fc => Some(bank.cba2r),
            _ => None,
        }
    }

    fn write_global1(&mut self, at: u64, value: u32, config: &Config) {
        let index = (at % 0x400 / 4) as usize;
        let there = index < self.registers.banks.len();
        let bank = u8::try_from(index).unwrap_or(u8::MAX);
        match at {
            0x000..=0x1fc if there => {
                let kept = self.registers.banks[index].typed(bank, config, value);
                let changed = kept != self.registers.banks[index].cbar;
                self.change_bank(bank, part::CBAR, changed);
                self.registers.banks[index].cbar = kept;
            }
            0x400..=0x5fc if there => self.registers.banks[index].frsynra = value & 0xffff,
            0x800..=0x9fc if there => {
                // VMID16 where there are 16-bit VMIDs, VA64 where there is a choice; MONC is RAZ/WI.
                let wide = self.registers.wide_vmids();
                self.note_reserved("CBA2R", value & if wide { 0xfffc } else { 0xffff_fffc });
                let vmid = if config.vmid_16_bits { value & 0xffff_0000 } else { 0 };
                let wide64 = match (config.aarch32, config.has_aarch64()) {
                    (true, true) => value & 1,
                    (false, _) => 1,
                    (true, false) => 0,
                };
                let changed = vmid | wide64 != self.registers.banks[index].cba2r;
                self.change_bank(bank, part::CBA2R, changed);
                self.registers.banks[index].cba2r = vmid | wide64;
            }
            _ => self.configuration_access(config.page_bytes() + at, true, config),
        }
    }
}

/// Bits 55:12 of an address from bits 43:0, extended to bit 63. Spec: SMMUv2 D.c, 16.5.32 "SMMU_CBn_TLBIVA", Address.
pub(crate) fn address_of(value: u64) -> u64 {
    (((field(value, 43, 0) << 20) as i64) >> 8) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_operations_are_extended_from_bit_55() {
        assert_eq!(address_of(0x0000_0000_0001_2345), 0x1234_5000);
        assert_eq!(address_of(0x0000_0fff_ffff_ffff), 0xffff_ffff_ffff_f000);
        assert_eq!(address_of(0x1234_0800_0000_0001), 0xff80_0000_0000_1000);
    }
}
