//! The invalidation queue: fetching, doing, waiting, and stopping at an error.
//!
//! An invalidation may be done any time between its fetch and the completion of the next wait descriptor; those of one queue are done in
//! order. A wait descriptor is complete when everything before it is, when devices have answered, and when the accesses that the invalidations drain are back.
//!
//! Spec: VT-d 5.10, 6.5.2 "Queued Invalidation Interface", 6.5.2.9 "Invalidation Wait Descriptor", 6.5.2.11, 6.5.2.12, 6.5.4 "Draining of Requests to
//! Memory", 6.5.5 "Interrupt Draining".

use std::collections::BTreeMap;

use model_bus::{PageResponse, Write};
use portcullis_types::trace::Value;
use portcullis_types::{Pa, Pasid, SourceId};

use crate::bits::{bit, field};
use crate::caches::{CachedContext, Caches, ContextScope, InterruptScope, IotlbScope, PasidScope};
use crate::descriptor::{Descriptor, Invalidate, QueueError, Reader, Response, WaitFor, kind};
use crate::engine::Engine;
use crate::event::Which;
use crate::registers::{QUEUE, QUEUE_ERROR, TIMEOUT_ERROR};
use crate::state::{Around, Outgoing, Owed, State};
use crate::strict::clause;

/// A wait descriptor that was fetched.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wait {
    what: WaitFor,
    /// Accesses with smaller numbers must be back.
    drain: Option<u64>,
    /// Invalidations of devices with smaller numbers must have ended.
    device: u64,
}

impl State {
    /// One tick of the queue. Answers whether anything moved.
    pub(crate) fn run_queue(&mut self, around: Around<'_>) -> bool {
        let mut moved = self.expire_device_tlbs(around);
        if !self.registers.is_on(QUEUE) {
            return moved;
        }
        moved |= self.complete_waits(around);
        for _ in 0..around.config.policy.descriptors_per_tick.max(1) {
            if self.registers.fsts & (QUEUE_ERROR | TIMEOUT_ERROR) != 0 || !self.may_fetch(around) {
                break;
            }
            match self.fetch(around) {
                Ok(true) => moved = true,
                Ok(false) => break,
                Err(error) => {
                    self.queue_error(error, around);
                    return true;
                }
            }
            moved |= self.complete_waits(around);
        }
        if !self.pending.is_empty() && self.dice.one_in(8) {
            let first = self.pending.remove(0);
            self.invalidate(&first, around);
            moved = true;
        }
        moved
    }

    fn may_fetch(&self, around: Around<'_>) -> bool {
        let held = around.config.policy.head_stays_at_wait && !self.waits.is_empty();
        let fenced = self.waits.iter().any(|wait| wait.what.fence);
        self.registers.iqh != self.registers.iqt && !held && !fenced
    }

    fn is_wide(&self) -> bool {
        bit(self.registers.iqa, 11)
    }

    fn advance(&mut self) {
        let size = 4096 << field(self.registers.iqa, 2, 0);
        let step = if self.is_wide() { 32 } else { 16 };
        self.registers.iqh = (self.registers.iqh + step) % size;
    }

    /// What is wrong with the queue before anything is fetched.
    fn check_queue(&self, around: Around<'_>) -> Result<(), QueueError> {
        let config = around.config;
        let both = config.scalable.is_some() || config.abort_dma;
        let mode_is_there = match self.root.mode {
            0 => true,
            1 => config.scalable.is_some(),
            3 => config.abort_dma,
            _ => false,
        };
        if !mode_is_there {
            return Err(QueueError::Mode);
        }
        if self.is_wide() && !both || !self.is_wide() && self.root.mode != 0 {
            return Err(QueueError::Width);
        }
        if self.registers.iqt >= 4096 << field(self.registers.iqa, 2, 0) {
            return Err(QueueError::Tail);
        }
        if self.is_wide() && bit(self.registers.iqt, 4) {
            return Err(QueueError::TailAlignment);
        }
        Ok(())
    }

    /// Takes the descriptor at the head. False if it must wait.
    fn fetch(&mut self, around: Around<'_>) -> Result<bool, QueueError> {
        self.check_queue(around)?;
        let wide = self.is_wide();
        let at = Pa::new(around.config.base_of(self.registers.iqa) + self.registers.iqh);
        let mut bytes = [0; 32];
        let length = if wide { 32 } else { 16 };
        around.memory.snooped.read(at, &mut bytes[..length]).map_err(|_| QueueError::Fetch)?;
        let mut words = [0; 4];
        for (word, chunk) in words.iter_mut().zip(bytes.chunks_exact(8)) {
            *word = u64::from_le_bytes(chunk.try_into().unwrap_or_default());
        }
        let reader = Reader { config: around.config, wide, legacy: self.root.mode == 0 };
        let (descriptor, broken) = reader.read(&words)?;
        if matches!(descriptor, Descriptor::Device(_)) && self.device_tlb_must_wait() {
            return Ok(false);
        }
        *self.counters.descriptors.entry(kind(words[0])).or_default() += 1;
        if let Some(clause) = broken {
            self.notes.record(clause, format!("{descriptor:x?}"));
        }
        if around.config.verbose {
            let fields = [("low", Value::Addr(words[0])), ("high", Value::Addr(words[1]))];
            around.trace("descriptor", &fields);
        }
        let waits = matches!(descriptor, Descriptor::Wait(_));
        self.take(descriptor, around);
        if !(waits && around.config.policy.head_stays_at_wait) {
            self.advance();
        }
        Ok(true)
    }

    fn take(&mut self, descriptor: Descriptor, around: Around<'_>) {
        match descriptor {
            Descriptor::Invalidate(what) if around.config.policy.lazy_invalidation => self.pending.push(what),
            Descriptor::Invalidate(what) => self.invalidate(&what, around),
            // "Hardware must execute a Device-TLB invalidation descriptor only after all IOTLB invalidation descriptors ahead of it are completed."
            Descriptor::Device(scope) => {
                self.finish_pending(around);
                self.invalidate_device(&scope, around);
            }
            Descriptor::Wait(what) => {
                self.finish_pending(around);
                let wait = Wait { what, drain: self.drain.take(), device: self.tlbs.next() };
                self.waits.push_back(wait);
            }
            Descriptor::Respond(response) => self.respond(&response),
        }
    }

    /// Does what was put off.
    pub(crate) fn finish_pending(&mut self, around: Around<'_>) {
        for what in core::mem::take(&mut self.pending) {
            self.invalidate(&what, around);
        }
    }

    /// Does an invalidation.
    pub(crate) fn invalidate(&mut self, what: &Invalidate, around: Around<'_>) {
        let scalable = self.root.is_scalable();
        match what {
            &Invalidate::Contexts(scope) => {
                self.counters.context_invalidations += 1;
                let before = self.caches.contexts.clone();
                self.caches.forget_contexts(scope, scalable);
                self.audit_forgotten(&before, around);
                if scope == ContextScope::Global && self.owed == Owed::Contexts {
                    self.owed = if scalable { Owed::Pasids } else { Owed::Iotlb };
                }
            }
            &Invalidate::Pasids(scope) => {
                self.counters.pasid_invalidations += 1;
                self.caches.forget_pasids(scope);
                if scope == PasidScope::Global && self.owed == Owed::Pasids {
                    self.owed = Owed::Iotlb;
                }
            }
            Invalidate::Translations { scope, drains } => {
                if matches!(scope, IotlbScope::Pasid { .. } | IotlbScope::PasidPages { .. }) {
                    self.counters.pasid_iotlb_invalidations += 1;
                } else {
                    self.counters.iotlb_invalidations += 1;
                }
                self.caches.forget_translations(scope);
                if *drains {
                    self.drain = Some(around.flights.next());
                }
                if *scope == IotlbScope::Global && self.owed == Owed::Iotlb {
                    self.owed = Owed::Nothing;
                }
            }
            &Invalidate::Interrupts(scope) => {
                self.counters.interrupt_invalidations += 1;
                self.caches.forget_interrupts(scope);
                self.drain = Some(around.flights.next());
                if scope == InterruptScope::Global {
                    self.interrupts_owed = false;
                }
            }
        }
    }

    /// Notes present entries that were changed in part since they were read, and are forgotten now.
    fn audit_forgotten(&mut self, before: &BTreeMap<u16, CachedContext>, around: Around<'_>) {
        if !self.is_enabled() {
            return;
        }
        let mut caches = Caches::default();
        let mut engine = Engine {
            config: around.config,
            root: self.root,
            memory: around.memory,
            caches: &mut caches,
            notes: &mut self.notes,
            counters: &mut self.counters,
            choice: 0,
            fresh: true,
        };
        let remembered = &self.caches.contexts;
        for (&source, cached) in before.iter().filter(|(source, _)| !remembered.contains_key(source)) {
            engine.audit_against(source, cached);
        }
    }

    /// Completes the wait descriptors that are done, in order. Answers whether any was.
    fn complete_waits(&mut self, around: Around<'_>) -> bool {
        let mut moved = false;
        while let Some(&wait) = self.waits.front() {
            let back = wait.drain.is_none_or(|before| around.flights.are_back(before));
            if !back || !self.tlbs.are_done(wait.device) {
                break;
            }
            self.waits.pop_front();
            if around.config.policy.head_stays_at_wait {
                self.advance();
            }
            self.complete(&wait.what, around);
            moved = true;
        }
        moved
    }

    fn complete(&mut self, wait: &WaitFor, around: Around<'_>) {
        self.counters.waits += 1;
        if wait.drains_requests {
            self.accept_all(around);
        }
        if let Some((at, data)) = wait.status {
            // "Hardware behavior is undefined if the Status Address specified is not an address route-able to memory."
            let write = Write { at: Pa::new(at), bytes: &data.to_le_bytes(), source: None };
            if around.memory.snooped.write(write).is_err() {
                self.notes.record(clause::DESCRIPTOR, format!("status address {at:#x} is no memory"));
            }
        }
        if wait.interrupt {
            let before = self.registers.ics & 1;
            self.registers.ics |= 1;
            if before == 0 {
                self.raise(Which::Invalidation);
            }
        }
    }

    fn queue_error(&mut self, error: QueueError, around: Around<'_>) {
        let code = error as u8;
        let detail = format!("head {:#x}, IQEI {code}", self.registers.iqh);
        self.notes.record(clause::DESCRIPTOR, detail);
        around.trace("queue_error", &[("iqei", Value::Dec(code.into()))]);
        // "Any invalidation commands ahead of the invalid descriptor that are already fetched ... are completed by hardware as normal."
        self.finish_pending(around);
        self.registers.iqercd = self.registers.iqercd & !0xf | u64::from(code);
        self.raise_error(QUEUE_ERROR);
    }

    /// Sends a page group response.
    fn respond(&mut self, response: &Response) {
        let &Response { source, pasid, group, code } = response;
        // "For a page request indicating last request in group, software must respond": as often as a device has ended a group, though it reuses one that waits.
        let key = (source, pasid, group);
        let waits = self.groups.get_mut(&key).map(|waits| {
            *waits -= 1;
            *waits
        });
        if waits == Some(0) {
            self.groups.remove(&key);
        }
        if waits.is_none() {
            let detail = format!("source {source:#06x}, PASID {pasid:?}, group {group}");
            self.notes.record(clause::RESPONSE_UNKNOWN, detail);
        }
        self.counters.page_responses += 1;
        self.outbox.push(Outgoing::Respond(PageResponse {
            source: SourceId(source.into()),
            pasid: pasid.and_then(Pasid::new),
            group,
            code,
        }));
    }
}
