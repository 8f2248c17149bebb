//! Recording of faults that are not recoverable.
//!
//! Spec: VT-d 5.10, 7.2.1 "Primary Fault Logging", 7.3 "Non-Recoverable Fault Event", 11.4.7.6 "Fault Recording Registers". Choice: faults of one
//! requester are not collapsed.

use portcullis_types::trace::Value;

use crate::bits::mask;
use crate::engine::{Asked, Fault, Form};
use crate::event::Which;
use crate::reason::Reason;
use crate::registers::{
    COMPLETION_ERROR, INTERRUPTS, OVERFLOW, PENDING, QUEUE_ERROR, RECORDED, TIMEOUT_ERROR, TRANSLATION,
};
use crate::state::{Around, State};

/// The fields of FSTS_REG for any of which an event is under way already.
const CONDITIONS: u32 = PENDING | OVERFLOW | QUEUE_ERROR | COMPLETION_ERROR | TIMEOUT_ERROR;

impl State {
    /// A request met a fault.
    pub(crate) fn record_fault(&mut self, asked: &Asked, fault: Fault, around: Around<'_>) {
        *self.counters.faults.entry(fault.reason).or_default() += 1;
        if !fault.is_reported() {
            return;
        }
        // "Hardware treats bits 63:N as reserved (0), where N corresponds to the largest AGAW value supported by hardware."
        let width = match around.config.depths.widest() {
            0 => 64,
            width => width,
        };
        let page = asked.address & mask(width - 1, 12);
        let (t1, t2) = match (asked.form, asked.write) {
            (Form::PageRequest, _) => (0, 1),
            (_, true) => (0, 0),
            (_, false) => (1, 0),
        };
        let at = match asked.form {
            Form::Translation => 1,
            Form::Translated => 2,
            Form::Untranslated | Form::PageRequest => 0,
        };
        let at = if around.config.device_tlbs { at } else { 0 };
        let mut word = t1 << 62 | at << 60 | t2 << 28;
        if let Some(pasid) = asked.pasid
            && around.config.scalable_has(|mode| mode.pasid_bits.is_some())
        {
            let executes = asked.execute && t1 == 1;
            word |= u64::from(pasid) << 40
                | 1 << 31
                | u64::from(executes) << 30
                | u64::from(asked.privileged) << 29;
        }
        self.record(asked.source, fault.reason, page, word, around);
    }

    /// An interrupt met a fault.
    pub(crate) fn record_interrupt_fault(
        &mut self,
        source: u16,
        fault: Fault,
        index: u16,
        around: Around<'_>,
    ) {
        *self.counters.faults.entry(fault.reason).or_default() += 1;
        if fault.is_reported() {
            self.record(source, fault.reason, u64::from(index) << 48, 0, around);
        }
    }

    fn record(&mut self, source: u16, reason: Reason, info: u64, kind: u64, around: Around<'_>) {
        around.trace(
            "fault",
            &[
                ("source", Value::Hex(source.into())),
                ("reason", Value::Hex(reason.code().into())),
                ("info", Value::Addr(info)),
            ],
        );
        if self.registers.fsts & OVERFLOW != 0 {
            self.counters.faults_lost += 1;
            return;
        }
        let before = self.registers.fault_status();
        let index = self.next_record % self.registers.records.len();
        if self.registers.records[index][1] & RECORDED != 0 {
            self.registers.fsts |= OVERFLOW;
            self.counters.faults_lost += 1;
            return;
        }
        self.counters.faults_recorded += 1;
        let word = RECORDED | kind | u64::from(reason.code()) << 32 | u64::from(source);
        self.registers.records[index] = [info, word];
        if before & PENDING == 0 {
            self.registers.fri = u8::try_from(index).unwrap_or(u8::MAX);
        }
        self.next_record = (index + 1) % self.registers.records.len();
        if before & CONDITIONS == 0 {
            self.raise(Which::Fault);
        }
    }

    /// An error of the invalidation queue or of a device's answer: sets a field of FSTS_REG.
    pub(crate) fn raise_error(&mut self, field: u32) {
        let before = self.registers.fault_status();
        self.registers.fsts |= field;
        if before & CONDITIONS == 0 {
            self.raise(Which::Fault);
        }
    }

    /// Software wrote to FSTS_REG or cleared an F.
    pub(crate) fn faults_serviced(&mut self) {
        if self.registers.fault_status() & CONDITIONS == 0 {
            self.registers.events.of(Which::Fault).serviced();
        }
    }

    /// "The index is reset to zero when both address and interrupt translations are disabled."
    pub(crate) fn reset_record_index(&mut self) {
        if !self.registers.is_on(TRANSLATION | INTERRUPTS) {
            self.next_record = 0;
        }
    }
}
