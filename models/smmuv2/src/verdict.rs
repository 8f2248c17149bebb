//! What becomes of an access: the book's state machine of a request, from its arrival to its end.
//!
//! Spec: SMMUv2 D.c, 3.7.3 "Handling a context fault", "Context fault model pseudocode", 3.8 "Global faults".
//! Choice: accesses behind a fault that is held back wait until the bank's RESUME.

use portcullis_types::trace::Value;

use crate::bank::{Bank, BankType, Residue, part, sctlr};
use crate::bits::{bit, ones};
use crate::fault::{Asked, Fault, FaultKind, GlobalFault, MULTI, STALLED};
use crate::regime::{Regime, on_bus};
use crate::registers::cr0;
use crate::state::{Around, State};
use crate::stream::Route;
use crate::strict::clause;
use crate::translate::{Grant, check_input};

/// What becomes of an access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It goes there, and went through a bank or not.
    Pass { output: u64, banks: bool },
    /// It ends, and the device is told.
    Abort,
    /// It ends, and the device sees zeroes.
    Ignore,
    /// It waits for the RESUME of a bank. `faulted`: the bank tells of its fault.
    Hold { bank: u8, faulted: bool },
}

impl State {
    /// Judges an access.
    pub(crate) fn judge(&mut self, asked: &Asked, substream: bool, around: Around<'_>) -> Verdict {
        let config = around.config;
        let off = self.registers.is_on(cr0::CLIENTPD);
        // "When the upstream bus system can represent transactions that cannot be expressed on the downstream bus system." There are no substreams.
        if substream && !off {
            let fault = GlobalFault { kind: FaultKind::UnsupportedUpstream, nested: false };
            return self.global_fault(asked, fault, around);
        }
        let pick = if config.conflict_detection { 0 } else { self.dice.next_bits() };
        let (first, second, asked) = match self.registers.route(asked, config, pick, &mut self.notes) {
            Err(fault) => return self.global_fault(asked, fault, around),
            // 1.6.2: "The SMMU truncates any input address that exceeds the value of SMMU_IDR2.OAS."
            Ok(Route::Bypass) => {
                let output = on_bus(asked.address, config).0 & ones(config.output_bits.into());
                return Verdict::Pass { output, banks: false };
            }
            Ok(Route::Banks { first, second, asked }) => (first, second, asked),
        };
        let Some(regime) = self.registers.regime(first, second, config, &mut self.notes) else {
            let fault = GlobalFault { kind: FaultKind::UnimplementedBank, nested: false };
            return self.global_fault(&asked, fault, around);
        };
        self.note_uninitialized(&regime);
        if let Some(fault) = check_input(&regime, on_bus(asked.address, config).0) {
            return self.context_fault(&asked, &regime, &fault, around);
        }
        for bank in [Some(first), second].into_iter().flatten() {
            if let Some(verdict) = self.held_by_earlier_fault(bank) {
                return verdict;
            }
        }
        match self.engine(around).translate(&regime, &asked) {
            Ok(grant) => {
                let counter = if grant.hit { &mut self.counters.hits } else { &mut self.counters.misses };
                *counter += u64::from(grant.translation.is_some());
                self.last = Some((first, second, asked));
                self.make_mischief(&asked, &regime, &grant, around);
                self.trace_grant(&asked, &grant, around);
                Verdict::Pass { output: grant.output, banks: true }
            }
            Err(fault) => self.context_fault(&asked, &regime, &fault, around),
        }
    }

    fn trace_grant(&self, asked: &Asked, grant: &Grant, around: Around<'_>) {
        if around.config.verbose {
            let fields = [
                ("sid", Value::Hex(asked.stream.into())),
                ("addr", Value::Addr(asked.address)),
                ("pa", Value::Addr(grant.output)),
            ];
            around.trace("translate", &fields);
        }
    }

    /// InTerminateMode.
    fn terminates(&self, bank: &Bank) -> bool {
        !bit(bank.sctlr, sctlr::CFCFG) || self.registers.is_on(cr0::STALLD)
    }

    /// ClientAbort.
    fn client_abort(&self, bank: u8) -> Verdict {
        if self.registers.bank(bank).is_some_and(Bank::reports) { Verdict::Abort } else { Verdict::Ignore }
    }

    /// CheckForFaultsInBank: what a fault that the bank tells already does to this access.
    fn held_by_earlier_fault(&self, index: u8) -> Option<Verdict> {
        let bank = self.registers.bank(index)?;
        if !bank.has_fault() || bank.hits_under_fault() {
            return None;
        }
        // Whether it terminates now or stalls: with SS it waits, without it ends.
        let wait = Verdict::Hold { bank: index, faulted: false };
        Some(if bank.is_stalled() { wait } else { self.client_abort(index) })
    }

    /// Records a context fault, and says what becomes of the access.
    fn context_fault(
        &mut self,
        asked: &Asked,
        regime: &Regime,
        fault: &Fault,
        around: Around<'_>,
    ) -> Verdict {
        let index = regime.bank_of(fault.stage2);
        *self.counters.faults.entry(fault.kind).or_default() += 1;
        around.trace(
            "context_fault",
            &[
                ("kind", Value::Str(fault.kind.name())),
                ("bank", Value::Dec(index.into())),
                ("stage", Value::Dec(if fault.stage2 { 2 } else { 1 })),
                ("level", Value::Dec(fault.level.into())),
                ("sid", Value::Hex(asked.stream.into())),
                ("addr", Value::Addr(asked.address)),
                ("ipa", Value::Addr(fault.ipa)),
            ],
        );
        let Some(bank) = self.registers.bank(index) else { return Verdict::Abort };
        if bank.has_fault() {
            self.counters.faults_lost += 1;
            if bank.is_stalled() {
                return Verdict::Hold { bank: index, faulted: false };
            }
            if bank.hits_under_fault() {
                self.registers.banks[usize::from(index)].fsr |= MULTI;
            }
            return self.client_abort(index);
        }
        let stalls = !self.terminates(bank);
        self.record(index, asked, regime, fault, around);
        if stalls {
            self.registers.banks[usize::from(index)].fsr |= STALLED;
            return Verdict::Hold { bank: index, faulted: true };
        }
        self.client_abort(index)
    }

    /// RecordFaultInFSR.
    fn record(&mut self, index: u8, asked: &Asked, regime: &Regime, fault: &Fault, around: Around<'_>) {
        let unknown = if around.config.policy.unknown_values { self.dice.next_bits() } else { 0 };
        let bank = &mut self.registers.banks[usize::from(index)];
        let external = u32::from(fault.kind == FaultKind::External);
        let mut syndrome = asked.context_syndrome() | u32::from(fault.level & 3) | external << 10;
        if fault.stage2 {
            let nested = regime.stage1.is_some();
            // "For stage 2 only translation, this field is UNKNOWN."
            let first = if nested { u32::from(regime.first) } else { (unknown & 0xff) as u32 };
            syndrome |= first << 16 | u32::from(nested) << 2;
            syndrome |= u32::from(nested && fault.in_stage1_walk) << 3;
            let told = fault.kind != FaultKind::Permission || !nested || fault.in_stage1_walk;
            bank.ipafar = if told { fault.ipa & !0xfff } else { unknown & !0xfff };
        }
        bank.fsr |= fault.kind.context_bit();
        bank.far = asked.address & ones(u32::from(around.config.upstream_bits));
        bank.fsynr[0] = syndrome;
        bank.frsynra = asked.stream;
    }

    /// Records a global fault, and ends the access.
    fn global_fault(&mut self, asked: &Asked, fault: GlobalFault, around: Around<'_>) -> Verdict {
        *self.counters.faults.entry(fault.kind).or_default() += 1;
        around.trace(
            "global_fault",
            &[
                ("kind", Value::Str(fault.kind.name())),
                ("sid", Value::Hex(asked.stream.into())),
                ("addr", Value::Addr(asked.address)),
                ("nested", Value::Dec(fault.nested.into())),
            ],
        );
        let syndrome = asked.global_syndrome() | u32::from(fault.nested);
        let address = asked.address & ones(around.config.upstream_bits.into());
        self.record_global(fault.kind, address, [syndrome, asked.stream, 0]);
        let reporter = if fault.kind == FaultKind::UnsupportedUpstream { cr0::GCFGFRE } else { cr0::GFRE };
        if self.registers.is_on(reporter) { Verdict::Abort } else { Verdict::Ignore }
    }

    pub(crate) fn record_global(&mut self, kind: FaultKind, address: u64, syndrome: [u32; 3]) {
        let registers = &mut self.registers;
        if registers.gfsr != 0 {
            registers.gfsr |= MULTI;
            self.counters.faults_lost += 1;
            return;
        }
        registers.gfsr = kind.global_bit();
        registers.gfar = address;
        registers.gfsynr = syndrome;
    }

    /// Notes a bank in use of which something was never written, and a TLB in use that was never invalidated.
    fn note_uninitialized(&mut self, regime: &Regime) {
        let banks = [Some(regime.first), regime.second];
        for index in banks.into_iter().flatten() {
            let Some(bank) = self.registers.banks.get_mut(usize::from(index)) else { continue };
            let missing = needed_parts(bank) & !bank.written;
            if missing != 0 {
                // Once is enough.
                bank.written |= missing;
                let detail = format!("bank {index}: {}", names(missing).join(", "));
                self.notes.record(clause::UNINITIALIZED_BANK, detail);
            }
            if !bank.is_on() {
                continue;
            }
            bank.residue = Residue::MayBeCached;
            let hypervisor = bank.is_hypervisor();
            let done = if hypervisor { &mut self.initial.hypervisor } else { &mut self.initial.guests };
            if core::mem::replace(done, Residue::Clean) != Residue::Clean {
                let detail = format!("bank {index}, {}", if hypervisor { "HYPC" } else { "not HYPC" });
                self.notes.record(clause::TLB_NOT_INVALIDATED, detail);
            }
        }
    }
}

/// What must have been written of a bank in use.
fn needed_parts(bank: &Bank) -> u16 {
    let always = part::CBAR | part::SCTLR;
    if !bank.is_on() {
        return always;
    }
    let tables = always | part::TCR | part::TTBR0 | part::TTBR0_UPPER;
    if bank.kind() == BankType::Stage2 {
        return tables;
    }
    let upper_used = !bank.is_hypervisor() && !bit(bank.tcr, 23) && bank.is_wide();
    tables
        | part::MAIR0
        | if bank.is_wide() { part::TCR2 } else { 0 }
        | if upper_used { part::TTBR1 | part::TTBR1_UPPER } else { 0 }
}

fn names(parts: u16) -> Vec<&'static str> {
    const NAMES: [&str; 11] = [
        "SCTLR",
        "TCR",
        "TCR2",
        "TTBR0",
        "TTBR0[63:32]",
        "TTBR1",
        "TTBR1[63:32]",
        "MAIR0",
        "MAIR1",
        "CBAR",
        "CBA2R",
    ];
    NAMES.iter().enumerate().filter(|(bit, _)| parts >> bit & 1 != 0).map(|(_, &name)| name).collect()
}
