//! Invalidation by register, of parts of major version 5 and less, in legacy mode.
//!
//! Spec: VT-d 5.10, 6.5.1 "Register-based Invalidation Interface", 11.4.6 "Register Based Invalidation Interface".

use crate::bits::{bit, byte, field, half, low, mask};
use crate::caches::{IotlbScope, pages};
use crate::config::IOTLB_REGISTERS;
use crate::descriptor::{Invalidate, context_scope};
use crate::program::{Job, replace};
use crate::registers::{BUSY, QUEUE};
use crate::state::{Around, State};
use crate::strict::clause;

impl State {
    /// CCMD_REG. Writing the upper half with ICC set begins.
    pub(crate) fn write_context_command(&mut self, offset: u64, value: u32, around: Around<'_>) {
        if self.registers.ccmd & BUSY != 0 {
            self.notes.record(clause::REGISTER_BUSY, format!("register {offset:#x}"));
            return;
        }
        // CAIG is read-only.
        let actual = self.registers.ccmd & mask(60, 59);
        self.registers.ccmd = replace(self.registers.ccmd, offset, value) & !mask(60, 59) | actual;
        if offset & 4 == 0 || self.registers.ccmd & BUSY == 0 {
            return;
        }
        let word = self.registers.ccmd;
        let granularity = field(word, 62, 61);
        let domain = half(word, 0) & around.config.domain_mask();
        let function_mask = byte(field(word, 33, 32), 0);
        let scope = context_scope(granularity, domain, half(word, 16), function_mask);
        let done = scope.filter(|_| self.registers_invalidate(around));
        if let Some(scope) = done {
            self.invalidate(&Invalidate::Contexts(scope), around);
        }
        let actual = if done.is_some() { granularity } else { 0 };
        self.registers.ccmd = word & !mask(60, 59) | actual << 59;
        self.begin_job(false, 0, around);
    }

    /// IVA_REG and IOTLB_REG. Writing the upper half of the latter with IVT set begins.
    pub(crate) fn write_iotlb_registers(&mut self, offset: u64, value: u32, around: Around<'_>) {
        if self.registers.iotlb & BUSY != 0 {
            self.notes.record(clause::REGISTER_BUSY, format!("register {offset:#x}"));
            return;
        }
        if offset < IOTLB_REGISTERS + 8 {
            self.registers.iva = replace(self.registers.iva, offset, value);
            return;
        }
        let actual = self.registers.iotlb & mask(58, 57);
        self.registers.iotlb = replace(self.registers.iotlb, offset, value) & !mask(58, 57) | actual;
        if offset & 4 == 0 || self.registers.iotlb & BUSY == 0 {
            return;
        }
        let word = self.registers.iotlb;
        let granularity = field(word, 61, 60);
        let scope = self.iotlb_scope(granularity, half(word, 32) & around.config.domain_mask(), around);
        let done = scope.filter(|_| self.registers_invalidate(around));
        let mut drain = 0;
        let performed = done.is_some();
        if let Some(scope) = done {
            let asked = bit(word, 48) || bit(word, 49);
            let drains = around.config.drains && (asked || around.config.version.0 >= 2);
            self.invalidate(&Invalidate::Translations { scope, drains: false }, around);
            if drains {
                drain = around.flights.next();
            }
        }
        let actual = if performed { granularity } else { 0 };
        self.registers.iotlb = word & !mask(58, 57) | actual << 57;
        self.begin_job(true, drain, around);
    }

    fn iotlb_scope(&self, granularity: u64, domain: u16, around: Around<'_>) -> Option<IotlbScope> {
        let iva = self.registers.iva;
        let address_mask = low(field(iva, 5, 0));
        match (granularity, around.config.page_selective) {
            (1, _) => Some(IotlbScope::Global),
            (2, _) => Some(IotlbScope::Domain(domain)),
            // "Detected an unsupported address mask value in Invalidate Address register": an error.
            (3, Some(most)) if address_mask <= u32::from(most) => {
                let address = iva & mask(u32::from(around.config.guest_bits) - 1, 12);
                let addresses = pages(address, address_mask);
                Some(IotlbScope::Pages { domain, addresses, leaf_only: bit(iva, 6) })
            }
            _ => None,
        }
    }

    /// Whether there is such a thing at all. If the queue is on, software must not use it; the hardware does it all the same.
    fn registers_invalidate(&mut self, around: Around<'_>) -> bool {
        let there = around.config.version.0 <= 5 && self.root.mode == 0;
        if !there || self.registers.is_on(QUEUE) {
            self.notes.record(clause::REGISTER_INVALIDATION, format!("mode {}", self.root.mode));
        }
        there
    }

    fn begin_job(&mut self, iotlb: bool, drain: u64, around: Around<'_>) {
        let ticks = self.dice.up_to(around.config.policy.acknowledge_ticks);
        self.jobs.push(Job { ticks, iotlb, drain });
        if around.config.policy.acknowledge_ticks == 0 {
            self.finish_jobs(around);
        }
    }

    /// Ends the invalidations that are over. Answers whether any was.
    pub(crate) fn finish_jobs(&mut self, around: Around<'_>) -> bool {
        let mut moved = false;
        for mut job in core::mem::take(&mut self.jobs) {
            if job.ticks == 0 && around.flights.are_back(job.drain) {
                let register = if job.iotlb { &mut self.registers.iotlb } else { &mut self.registers.ccmd };
                *register &= !BUSY;
                moved = true;
            } else {
                job.ticks = job.ticks.saturating_sub(1);
                self.jobs.push(job);
            }
        }
        moved
    }
}
