//! How the SMMU speaks: events into their queue, global errors, messages.
//!
//! Spec: SMMUv3 H.a, 7.2 "Event queue recorded faults and events", 7.4 "Event queue overflow", 7.5 "Global error recording",
//! 3.18 "Interrupts and notifications".

use model_bus::Write;
use portcullis_types::Pa;
use portcullis_types::trace::Value;

use crate::config::Config;
use crate::cr::{EVENTQ_IRQEN, EVENTQEN, GERROR_IRQEN};
use crate::downstream::Outgoing;
use crate::event::{Event, Record};
use crate::queue::OVERFLOW;
use crate::registers::Interrupt;
use crate::state::{Around, Message, State};

/// Bits of GERROR.
pub(crate) mod gerror {
    pub(crate) const CMDQ_ERR: u32 = 1 << 0;
    pub(crate) const EVENTQ_ABT_ERR: u32 = 1 << 2;
    pub(crate) const PRIQ_ABT_ERR: u32 = 1 << 3;
    pub(crate) const MSI_CMDQ_ABT_ERR: u32 = 1 << 4;
    pub(crate) const MSI_EVENTQ_ABT_ERR: u32 = 1 << 5;
    pub(crate) const MSI_PRIQ_ABT_ERR: u32 = 1 << 6;
    pub(crate) const MSI_GERROR_ABT_ERR: u32 = 1 << 7;
}

impl State {
    /// Records an event, now or some ticks later.
    pub(crate) fn record(&mut self, event: &Event, around: Around<'_>) {
        *self.counters.events.entry(event.kind()).or_default() += 1;
        self.trace_record(event, around);
        let record = event.encode();
        match self.dice.up_to(around.config.policy.event_ticks) {
            0 if self.late_events.is_empty() => {
                self.deliver(&record, around);
            }
            ticks => self.late_events.push((ticks, record)),
        }
    }

    pub(crate) fn trace_record(&self, event: &Event, around: Around<'_>) {
        let record = event.encode();
        let asked = event.asked();
        around.trace(
            "event_record",
            &[
                ("kind", Value::Str(event.kind().name())),
                ("sid", Value::Hex(asked.stream.into())),
                ("addr", Value::Addr(asked.address)),
                ("w0", Value::Hex(record[0])),
                ("w1", Value::Hex(record[1])),
                ("w3", Value::Hex(record[3])),
            ],
        );
    }

    /// Delivers the events whose time has come; all of them, if `all`.
    pub(crate) fn deliver_late_events(&mut self, all: bool, around: Around<'_>) -> bool {
        let had = !self.late_events.is_empty();
        for (ticks, _) in &mut self.late_events {
            *ticks = ticks.saturating_sub(1);
        }
        // In order: an event does not overtake one that waits.
        let ready = self.late_events.iter().take_while(|(ticks, _)| all || *ticks == 0).count();
        let ready: Vec<_> = self.late_events.drain(..ready).collect();
        for (_, record) in ready {
            self.deliver(&record, around);
        }
        had
    }

    /// "A queue is writable if it is enabled, has no global error flagged and would not otherwise overflow."
    pub(crate) fn can_deliver(&self, config: &Config) -> bool {
        let queue = &self.registers.events;
        let lg2 = queue.lg2(config.event_queue_lg2);
        let works = self.registers.cr0.is_on(EVENTQEN) && !self.is_active(gerror::EVENTQ_ABT_ERR);
        works && !queue.is_full(lg2) && queue.is_consistent(lg2)
    }

    /// Writes a record into the event queue, if it can be written. Answers whether it is there.
    pub(crate) fn deliver(&mut self, record: &Record, around: Around<'_>) -> bool {
        let lg2 = self.registers.events.lg2(around.config.event_queue_lg2);
        // "A queue is writable if it is enabled, has no global error flagged and would not otherwise overflow."
        if !self.registers.cr0.is_on(EVENTQEN) || self.is_active(gerror::EVENTQ_ABT_ERR) {
            self.counters.events_lost += 1;
            return false;
        }
        let queue = &mut self.registers.events;
        // "For a queue where the SMMU is the producer, the SMMU treats the queue as though it is full while the indexes are inconsistent."
        if queue.is_full(lg2) || !queue.is_consistent(lg2) {
            // "Provided that an overflow condition is not already present."
            if (queue.prod ^ queue.cons) & OVERFLOW == 0 {
                queue.prod ^= OVERFLOW;
            }
            self.counters.events_lost += 1;
            return false;
        }
        let was_empty = queue.is_empty(lg2);
        let slot = u64::from(queue.write_index(lg2) & ((1 << lg2) - 1));
        let at = (queue.aligned(lg2, 32) + slot * 32) & ((1 << around.config.oas()) - 1);
        let mut bytes = [0; 32];
        for (chunk, word) in bytes.chunks_exact_mut(8).zip(record) {
            chunk.copy_from_slice(&word.to_le_bytes());
        }
        if around.fabric.write(Write { at: Pa::new(at), bytes: &bytes, source: None }).is_err() {
            self.counters.events_lost += 1;
            self.raise(gerror::EVENTQ_ABT_ERR, around);
            return false;
        }
        // 3.5.2: the record is visible before PROD says so; 3.18: PROD says so before the interrupt.
        self.registers.events.produce(lg2);
        if was_empty && self.registers.irq_ctrl.is_on(EVENTQ_IRQEN) {
            self.lines.event = true;
            self.interrupt(Interrupt::Event, gerror::MSI_EVENTQ_ABT_ERR, around);
        }
        true
    }

    /// "An error is active when GERROR[x] != GERRORN[x]."
    pub(crate) fn is_active(&self, error: u32) -> bool {
        (self.registers.gerror ^ self.registers.gerrorn) & error != 0
    }

    /// Activates a global error. "The SMMU does not toggle bit[x] if the error is already active."
    pub(crate) fn raise(&mut self, error: u32, around: Around<'_>) {
        if self.is_active(error) {
            return;
        }
        self.registers.gerror ^= error;
        around.trace(
            "gerror",
            &[("error", Value::Hex(error.into())), ("gerror", Value::Hex(self.registers.gerror.into()))],
        );
        // 7.5.1: "with the exception of MSI_GERROR_ABT_ERR".
        if error != gerror::MSI_GERROR_ABT_ERR && self.registers.irq_ctrl.is_on(GERROR_IRQEN) {
            self.lines.gerror = true;
            self.interrupt(Interrupt::Gerror, gerror::MSI_GERROR_ABT_ERR, around);
        }
    }

    pub(crate) fn interrupt(&mut self, which: Interrupt, failure: u32, around: Around<'_>) {
        let config = *self.registers.message(which);
        self.send(config.address, config.data, failure, around);
    }

    /// Puts a message into the outbox. "If the address is 0, no message is sent."
    pub(crate) fn send(&mut self, address: u64, data: u32, failure: u32, around: Around<'_>) {
        // 3.4.3: MSI addresses are truncated to OAS; the test for zero is on all of the field.
        if around.config.msi && address != 0 {
            let address = address & ((1 << around.config.oas()) - 1);
            self.outbox.push(Outgoing::Message(Message { address, data, failure }));
        }
    }
}
