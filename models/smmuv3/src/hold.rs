//! Holding accesses back: recording them when there is room, and letting them go when software says so.
//!
//! An access that faults under S or S2S is given to [`Stalls`](crate::stall::Stalls) and recorded if the event queue is writable and fewer than
//! the part's most are recorded. One that could not be recorded is tried again, as if it had just arrived, once there is room: it may then pass, end,
//! or be recorded, but it is never lost, and never makes the queue overflow. A CMD_SYNC brings the records out that can be written, and does not wait
//! for accesses that are held back.
//!
//! Spec: SMMUv3 H.a, 3.12.2 "Stall model", 4.7.1 "CMD_RESUME", 4.7.2 "CMD_STALL_TERM", 7.2.1 "Recording of events and conditions for writing to the
//! Event queue".

use model_bus::{Stall, StallState};
use portcullis_types::trace::Value;

use crate::command::Resume;
use crate::config::Config;
use crate::event::{Asked, Event, Fault};
use crate::state::{Around, State};
use crate::ste::Ste;
use crate::strict::clause;

impl State {
    /// Holds an access back that met a fault.
    pub(crate) fn hold(&mut self, asked: &Asked, event: &Event, around: Around<'_>) -> Stall {
        self.counters.stalls += 1;
        let stall = self.stalls.hold(*asked);
        // Records come out in order.
        let prompt = self.late_events.is_empty() && self.dice.up_to(around.config.policy.event_ticks) == 0;
        if let (true, Event::Fault(seen, fault)) = (prompt, event) {
            self.record_stall(stall, seen, *fault, around);
        }
        stall
    }

    /// Whether a further access that is held back can be recorded.
    fn has_room_for_stall(&self, config: &Config) -> bool {
        let most = usize::from(config.most_stalls.max(1));
        self.stalls.recorded() < most && self.can_deliver(config)
    }

    fn record_stall(&mut self, stall: Stall, seen: &Asked, fault: Fault, around: Around<'_>) {
        let Some(tag) = self.stalls.free_tag().filter(|_| self.has_room_for_stall(around.config)) else {
            return;
        };
        let event = Event::Stalled(*seen, fault, tag);
        if !self.deliver(&event.encode(), around) {
            return;
        }
        *self.counters.events.entry(event.kind()).or_default() += 1;
        self.trace_record(&event, around);
        self.stalls.is_recorded(stall, tag);
        around.trace(
            "stall",
            &[
                ("sid", Value::Hex(seen.stream.into())),
                ("stag", Value::Hex(tag.into())),
                ("addr", Value::Addr(seen.address)),
            ],
        );
    }

    /// Tries them again, some ticks after there is room. Answers whether there is still something to do.
    pub(crate) fn retry_unrecorded_late(&mut self, around: Around<'_>) -> bool {
        if !self.stalls.has_unrecorded()
            || !self.late_events.is_empty()
            || !self.has_room_for_stall(around.config)
        {
            return false;
        }
        // As late as other events at most, but never so late that nobody waits for it.
        let due = self.dice.up_to(around.config.policy.event_ticks.min(63)) == 0;
        !due || self.retry_unrecorded(around)
    }

    /// Tries the accesses again of which software does not know yet, as far as there is room. Answers whether any was tried.
    ///
    /// "The stalled transaction is retried as though it had just arrived when the queue is next writable."
    pub(crate) fn retry_unrecorded(&mut self, around: Around<'_>) -> bool {
        let mut tried = false;
        for (stall, asked) in self.stalls.unrecorded() {
            if !self.has_room_for_stall(around.config) {
                break;
            }
            tried = true;
            match self.engine(around).translate(&asked) {
                Ok(_) => self.stalls.answer(stall, StallState::Retry),
                Err(refusal) => match refusal.event {
                    Some(Event::Fault(seen, fault)) if refusal.stalls => {
                        self.record_stall(stall, &seen, fault, around);
                    }
                    event => {
                        if let Some(event) = event {
                            self.record(&event, around);
                        }
                        let end = if refusal.ignored { StallState::Ignored } else { StallState::Aborted };
                        self.stalls.answer(stall, end);
                    }
                },
            }
        }
        tried
    }

    /// CMD_RESUME.
    pub(crate) fn resume(&mut self, resume: Resume, around: Around<'_>) {
        let Resume { stream, tag, retry, abort } = resume;
        // "If SMMU_IDR0.TERM_MODEL == 1, the Ab parameter is IGNORED: transaction is terminated with abort."
        let (answer, name) = match (retry, abort || around.config.terminate_aborts) {
            (true, _) => (StallState::Retry, "retry"),
            (false, true) => (StallState::Aborted, "abort"),
            (false, false) => (StallState::Ignored, "ignore"),
        };
        let found = self.stalls.find(stream, tag);
        around.trace(
            "resume",
            &[
                ("sid", Value::Hex(stream.into())),
                ("stag", Value::Hex(tag.into())),
                ("action", Value::Str(if found.is_some() { name } else { "none" })),
            ],
        );
        let Some(stall) = found else {
            self.notes.record(clause::RESUME_UNKNOWN, format!("stream {stream:#x}, STAG {tag:#x}"));
            return;
        };
        let counter = if retry { &mut self.counters.resumed } else { &mut self.counters.terminated };
        *counter += 1;
        self.stalls.answer(stall, answer);
    }

    /// CMD_STALL_TERM. Choice: where it is unpredictable whether it has an effect, it has none.
    pub(crate) fn terminate_stream(&mut self, stream: u32, around: Around<'_>) {
        if let Some(reason) = self.still_lets_in(stream, around) {
            self.notes.record(clause::STALL_TERM, format!("stream {stream:#x}: {reason}"));
            return;
        }
        self.terminate(Some(stream), around);
    }

    /// Ends all accesses that are held back, of one stream or of all, with an abort.
    pub(crate) fn terminate(&mut self, stream: Option<u32>, around: Around<'_>) {
        for stall in self.stalls.unfinished(stream) {
            self.counters.terminated += 1;
            self.stalls.answer(stall, StallState::Aborted);
        }
        if let Some(stream) = stream {
            around.trace("resume", &[("sid", Value::Hex(stream.into())), ("action", Value::Str("all"))]);
        }
    }

    /// Why new accesses of a stream might still be held back; none if its entry surely ends them all with an abort.
    ///
    /// "After the STE is updated to cause all new incoming transactions to immediately terminate with abort, including any required configuration
    /// cache invalidation and synchronization." An entry that is not valid does that, too.
    fn still_lets_in(&mut self, stream: u32, around: Around<'_>) -> Option<&'static str> {
        if !self.is_enabled() {
            return None;
        }
        if self.unsynced.iter().any(|streams| streams.contains(&stream)) {
            return Some("no CMD_SYNC followed the invalidation of the STE");
        }
        // As it is cached, or lies in memory: whichever the next access would meet.
        let asked = Asked::prefetch(stream, None, 0);
        let mut engine = self.engine(around);
        engine.demand = false;
        matches!(engine.ste(&asked), Ok(Ste::Pass { .. }))
            .then_some("the STE does not end accesses with an abort")
    }
}
