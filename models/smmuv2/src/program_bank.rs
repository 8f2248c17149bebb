//! The registers of context banks: what reading and writing them does.
//!
//! Spec: SMMUv2 D.c, chapter 16 "Stage 1 Translation Context Bank Format", chapter 17 "Stage 2 Translation Context Bank Format".
//! Not here: address translation operations, which IDR0.ATOSNS says are not there; performance monitors.

use model_bus::{Flights, StallState};
use portcullis_types::trace::Value;

use crate::bank::{Residue, part, sctlr};
use crate::bits::{bit, field};
use crate::config::Config;
use crate::fault::{CONTEXT_BITS, STALLED};
use crate::maintenance::{Issuer, Scope};
use crate::program::{Written, address_of};
use crate::state::{Around, State};
use crate::strict::clause;

impl State {
    /// Whether a register has 64 bits. Spec: SMMUv2 D.c, Tables 16-1 and 17-1.
    pub(crate) fn is_wide_in_bank(at: u64) -> bool {
        matches!(
            at,
            0x20 | 0x28 | 0x60 | 0x70 | 0x600 | 0x608 | 0x620 | 0x628 | 0x630 | 0x638 | 0x50 | 0x800..=0x818
        )
    }

    /// A register of a bank. "Accesses to UNDEFINED translation context bank registers are RAZ/WI."
    pub(crate) fn read_bank(&self, index: u8, at: u64) -> Option<u32> {
        let bank = self.registers.bank(index)?;
        let stage1 = !bank.is_stage2();
        let low = |value: u64| field(value, 31, 0) as u32;
        let high = |value: u64| field(value, 63, 32) as u32;
        Some(match at {
            0x00 => bank.sctlr,
            0x04 => bank.actlr,
            0x10 if stage1 => bank.tcr2,
            0x20 => low(bank.ttbr[0]),
            0x24 => high(bank.ttbr[0]),
            0x28 if stage1 => low(bank.ttbr[1]),
            0x2c if stage1 => high(bank.ttbr[1]),
            // "For a stage 2 translation context entry, this field always reads as the value 1."
            0x30 if !stage1 && !bank.is_wide() => bank.tcr | 1 << 31,
            0x30 => bank.tcr,
            0x34 if stage1 => bank.context_id,
            0x38 if stage1 => bank.mair[0],
            0x3c if stage1 => bank.mair[1],
            0x58 => bank.status(),
            0x60 => low(bank.far),
            0x64 => high(bank.far),
            0x68 => bank.fsynr[0],
            0x6c => bank.fsynr[1],
            0x70 if !stage1 => low(bank.ipafar),
            0x74 if !stage1 => high(bank.ipafar),
            0x7f4 => u32::from(self.maintenance.is_active(Issuer::Bank(index))),
            _ => 0,
        })
    }

    pub(crate) fn write_bank(
        &mut self,
        index: u8,
        at: u64,
        written: Written,
        around: Around<'_>,
        flights: &Flights,
    ) {
        let stage1 = self.registers.bank(index).is_some_and(|bank| !bank.is_stage2());
        match at {
            0x7f0 => self.synchronize("TLBSYNC", Issuer::Bank(index), around, flights),
            0x7f4 => self.notes.record(clause::READ_ONLY, format!("bank {index}: TLBSTATUS")),
            0x600..=0x62c if stage1 => self.write_stage1_operation(index, at, written, around),
            0x630 | 0x638 if !stage1 => {
                let last = at == 0x638;
                let name = if last { "TLBIIPAS2L" } else { "TLBIIPAS2" };
                self.post_ipa(name, index, written.value, last, around);
            }
            // "A 32-bit write to the upper word of the register is ignored."
            0x634 | 0x63c if !stage1 => {}
            0x08 => self.resume(index, written.value & 1 != 0, around),
            0x10 | 0x28 | 0x2c | 0x34..=0x3c if !stage1 => self.note_format(index, at),
            0x600..=0x62c if !stage1 => self.note_format(index, at),
            0x70 | 0x74 | 0x630..=0x63c if stage1 => self.note_format(index, at),
            0x00 => self.write_sctlr(index, (written.value & 0xffff_ffff) as u32, stage1, around.config),
            0x10 | 0x20..=0x3c => self.write_context(index, at, written),
            0x04 | 0x58..=0x74 => self.write_status(index, at, written),
            0xd00..=0xdfc => {}
            _ => self.notes.record(clause::UNIMPLEMENTED, format!("bank {index}: {at:#x}")),
        }
    }

    fn note_format(&mut self, index: u8, at: u64) {
        self.notes.record(clause::WRONG_FORMAT, format!("bank {index}: {at:#x}"));
    }

    /// Strict mode's account of a change of something that translations depend on.
    pub(crate) fn change_bank(&mut self, index: u8, which: u16, changed: bool) {
        let Some(bank) = self.registers.banks.get_mut(usize::from(index)) else { return };
        bank.written |= which;
        if !changed {
            return;
        }
        if bank.has_fault() && which & (part::CBAR | part::CBA2R) != 0 && bank.is_stalled() {
            self.notes.record(clause::FAULT_OUTSTANDING, format!("bank {index}: FSR {:#x}", bank.status()));
        }
        // 2.5.2: "All MMUs are disabled from reset", whatever M may read as before it is written.
        if bank.is_on() && bank.written & part::SCTLR != 0 {
            bank.changed |= which;
            // The halves of a 64-bit register are two writes.
            if bank.changed.count_ones() > 1 {
                self.notes.record(clause::CONTEXT_UPDATE, format!("bank {index}: {:#x}", bank.changed));
                bank.changed = which;
            }
        } else if bank.residue != Residue::Clean {
            self.notes.record(clause::CONTEXT_REUSE, format!("bank {index}: {:?}", bank.residue));
            bank.residue = Residue::Clean;
        }
    }

    fn write_sctlr(&mut self, index: u8, value: u32, stage1: bool, config: &Config) {
        let reserved = if stage1 {
            1 << 31 | 1 << 21 | 1 << 13 | 1 << 11
        } else {
            0xf << 28 | 1 << 20 | 1 << 12 | 7 << 9
        };
        if value & reserved != 0 {
            let detail = format!("bank {index}: SCTLR {:#x}", value & reserved);
            self.notes.record(clause::RESERVED_BITS, detail);
        }
        let Some(bank) = self.registers.banks.get_mut(usize::from(index)) else { return };
        let kept = if config.stall { value } else { value & !(1 << sctlr::CFCFG) };
        let (old, new) = (bit(bank.sctlr, sctlr::M), bit(kept, sctlr::M));
        bank.sctlr = kept;
        bank.written |= part::SCTLR;
        match (old, new) {
            (_, true) => {
                bank.residue = Residue::MayBeCached;
                if !old {
                    bank.changed = 0;
                }
            }
            (true, false) => bank.changed = 0,
            (false, false) => {}
        }
    }

    /// Registers that say how to translate.
    fn write_context(&mut self, index: u8, at: u64, written: Written) {
        let Some(bank) = self.registers.banks.get_mut(usize::from(index)) else { return };
        let word = (written.value & 0xffff_ffff) as u32;
        let replace = |register: &mut u32| core::mem::replace(register, word) != word;
        let (which, changed, name) = match at {
            0x10 => {
                let moved = field((bank.tcr2 ^ word).into(), 17, 15) != 0 && bank.is_on() && bank.is_wide();
                if moved {
                    let detail = format!("bank {index}: TCR2 {:#x} to {word:#x}", bank.tcr2);
                    self.notes.record(clause::SIGN_EXTENSION, detail);
                }
                (part::TCR2, replace(&mut bank.tcr2), "")
            }
            0x20..=0x2c => {
                let second = at >= 0x28;
                let (lower, upper) =
                    if second { (part::TTBR1, part::TTBR1_UPPER) } else { (part::TTBR0, part::TTBR0_UPPER) };
                let is_upper = at & 4 != 0;
                let which = if is_upper { upper } else { lower };
                bank.written |= if written.whole { lower | upper } else { which };
                let register = &mut bank.ttbr[usize::from(second)];
                let new = written.merged(*register, is_upper);
                (which, core::mem::replace(register, new) != new, "")
            }
            0x30 => (part::TCR, replace(&mut bank.tcr), ""),
            0x34 => {
                bank.context_id = word;
                return;
            }
            0x38 => (part::MAIR0, replace(&mut bank.mair[0]), ""),
            0x3c => (part::MAIR1, replace(&mut bank.mair[1]), ""),
            _ => (0, false, "reserved"),
        };
        if name.is_empty() {
            self.change_bank(index, which, changed);
        } else {
            self.notes.record(clause::UNIMPLEMENTED, format!("bank {index}: {at:#x}"));
        }
    }

    /// Registers that say what happened.
    fn write_status(&mut self, index: u8, at: u64, written: Written) {
        let Some(bank) = self.registers.banks.get_mut(usize::from(index)) else { return };
        let word = (written.value & 0xffff_ffff) as u32;
        match at {
            0x04 => bank.actlr = word,
            // SS is cleared by RESUME alone, and Format is read only.
            0x58 => bank.fsr &= !(word & CONTEXT_BITS),
            0x5c => bank.fsr = bank.fsr & STALLED | word & CONTEXT_BITS,
            0x60 | 0x64 => bank.far = written.merged(bank.far, at == 0x64),
            0x68 => bank.fsynr[0] = word,
            0x6c => bank.fsynr[1] = word,
            _ => bank.ipafar = written.merged(bank.ipafar, at == 0x74),
        }
    }

    /// RESUME. "If ... the translation context bank is not stalled, writes to this register are ignored."
    fn resume(&mut self, index: u8, terminate: bool, around: Around<'_>) {
        let Some(bank) = self.registers.banks.get_mut(usize::from(index)).filter(|bank| bank.is_stalled())
        else {
            return;
        };
        if bank.fsr & CONTEXT_BITS != 0 {
            self.notes.record(clause::RESUME_ORDER, format!("bank {index}: FSR {:#x}", bank.fsr));
        }
        bank.fsr &= !STALLED;
        let ended = if bank.reports() { StallState::Aborted } else { StallState::Ignored };
        let counter = if terminate { &mut self.counters.terminated } else { &mut self.counters.resumed };
        *counter += 1;
        self.stalls.resume(index, terminate.then_some(ended));
        let action = if terminate { "terminate" } else { "retry" };
        around.trace("resume", &[("bank", Value::Dec(index.into())), ("action", Value::Str(action))]);
    }

    /// TLB operations of a stage 1 bank.
    fn write_stage1_operation(&mut self, index: u8, at: u64, written: Written, around: Around<'_>) {
        let Some(bank) = self.registers.bank(index) else { return };
        let (wide, hypervisor) = (bank.is_wide(), bank.is_hypervisor());
        let (vmid, long_asids) = (bank.vmid(self.registers.wide_vmids()), wide && bit(bank.tcr2, 4));
        let value = written.value;
        let from = Issuer::Bank(index);
        let (name, last, by_asid) = match at {
            0x610 => {
                let kept = if wide { value & 0xffff } else { value & 0xff };
                self.note_asid(index, kept, long_asids, value >> 16);
                let scope = Scope::Asid { vmid, asid: kept as u16 };
                if hypervisor {
                    return self.note_hypervisor(index, "TLBIASID");
                }
                return self.post("TLBIASID", scope, from, around);
            }
            0x618 => {
                let scope = if hypervisor { Scope::AllHypervisor } else { Scope::VmidStage1(vmid) };
                return self.post("TLBIALL", scope, from, around);
            }
            0x600 => ("TLBIVA", false, true),
            0x608 => ("TLBIVAA", false, false),
            0x620 => ("TLBIVAL", true, true),
            0x628 => ("TLBIVAAL", true, false),
            0x604 | 0x60c | 0x624 | 0x62c => return,
            _ => return self.notes.record(clause::UNIMPLEMENTED, format!("bank {index}: {at:#x}")),
        };
        let (address, asid) = if wide {
            (address_of(value), field(value, 63, 48))
        } else {
            (value & 0xffff_f000, value & 0xff)
        };
        if by_asid && !hypervisor {
            self.note_asid(index, asid, long_asids || !wide, if wide { field(value, 47, 44) } else { 0 });
        }
        if hypervisor && !by_asid {
            return self.note_hypervisor(index, name);
        }
        let scope = if hypervisor {
            Scope::HypervisorAddress { first: address, last: address, leaf: last }
        } else {
            Scope::Address {
                vmid,
                asid: by_asid.then_some(asid as u16),
                first: address,
                last: address,
                leaf: last,
            }
        };
        self.post(name, scope, from, around);
    }

    /// What a HYPC bank does not have does nothing here.
    fn note_hypervisor(&mut self, index: u8, name: &str) {
        self.notes.record(clause::HYPERVISOR_OPERATION, format!("bank {index}: {name}"));
    }

    fn note_asid(&mut self, index: u8, asid: u64, long: bool, reserved: u64) {
        if !long && asid > 0xff {
            self.notes.record(clause::ASID_WIDTH, format!("bank {index}: {asid:#x}"));
        }
        if reserved != 0 {
            self.notes.record(clause::RESERVED_BITS, format!("bank {index}: a TLB operation"));
        }
    }

    /// "If an IPA is supplied above the address space size indicated, then the extra bits are ignored."
    fn post_ipa(&mut self, name: &'static str, index: u8, value: u64, last: bool, around: Around<'_>) {
        if value >> 36 != 0 {
            self.notes.record(clause::RESERVED_BITS, format!("bank {index}: {name} {value:#x}"));
        }
        let Some(bank) = self.registers.bank(index) else { return };
        let bits = if bank.is_wide() { u32::from(around.config.ipa_bits) } else { 40 };
        let ipa = (field(value, 35, 0) << 12) & crate::bits::ones(bits);
        let vmid = bank.vmid(self.registers.wide_vmids());
        self.post(name, Scope::Ipa { vmid, first: ipa, last: ipa, leaf: last }, Issuer::Bank(index), around);
    }
}
