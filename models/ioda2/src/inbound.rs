//! What comes from devices: accesses, and messages at the doorbell.
//!
//! A message is let through to the model's doorbell, because the data that are half of its meaning are known only when they move. Before, the thread leaves word of whose message it
//! is and what its address says; a write to the doorbell without such word is nobody's message.

use model_bus::{BusError, Doorbell, Outcome, Passage, Request, Translator, mark};
use portcullis_types::trace::Value;
use portcullis_types::{Pa, SourceId};

use crate::cause::Cause;
use crate::phb::{Phb3, Word, error_of};
use crate::state::State;
use crate::walk::Grant;

impl Translator for Phb3 {
    fn access(&self, request: &Request, commit: &mut dyn FnMut(Passage) -> Result<(), BusError>) -> Outcome {
        let Some(mut state) = self.lock() else { return Outcome::Aborted };
        let judged = self.judge(&mut state, request);
        self.tell(request, &judged);
        let counters = &mut state.counters;
        let (pa, word) = match judged {
            Err(cause) => {
                counters.refused += 1;
                counters.refused_frozen += u64::from(cause == Cause::Frozen);
                return Outcome::Aborted;
            }
            Ok((_, _, Grant::Memory { output, translated })) => {
                if translated {
                    counters.granted += 1;
                    counters.granted_bytes += u64::from(request.len_bytes);
                } else {
                    counters.bypassed += 1;
                }
                (Pa::new(output), None)
            }
            Ok((pe, asked, Grant::Message { source_high })) => {
                (self.config().doorbell, Some(Word { thread: mark(), pe, asked, source_high }))
            }
        };
        let flight = self.flights.begin();
        drop(state);
        if let Some(word) = word {
            self.words().push(word);
        }
        let moved = commit(Passage { pa });
        if word.is_some() {
            let mut words = self.words();
            if let Some(last) = words.iter().rposition(|word| word.thread == mark()) {
                words.remove(last);
            }
        }
        drop(flight);
        match moved {
            Ok(()) => Outcome::Done,
            Err(error) => Outcome::BusError(error),
        }
    }
}

impl Doorbell for Phb3 {
    fn ring(&self, offset: u64, bytes: &[u8], _source: Option<SourceId>) -> Result<(), BusError> {
        let refused = BusError { at: Pa::new(self.config().doorbell.get().wrapping_add(offset)) };
        // Taken away: a message is worth one write.
        let word = {
            let mut words = self.words();
            let last = words.iter().rposition(|word| word.thread == mark()).ok_or(refused)?;
            words.remove(last)
        };
        let data = bytes.first_chunk::<2>().ok_or(refused)?;
        self.take_message(&word, u16::from_le_bytes(*data)).map_err(|_| refused)
    }
}

impl Phb3 {
    /// Takes a message that this thread left word of.
    fn take_message(&self, word: &Word, data: u16) -> Result<(), Cause> {
        let mut state = self.lock().ok_or(Cause::MessageSource)?;
        let _memory = self.accessing_memory();
        let around = self.around();
        let source = word.source_high | u32::from(data & 0x1f);
        let State { ivc, registers, notes, .. } = &mut *state;
        let entry = ivc.entry(source, registers, &*self.fabric, notes);
        let cause = match entry {
            Ok(ive) if ive.pe == u16::from(word.pe) => None,
            Ok(_) => Some(Cause::MessagePe),
            Err(_) => Some(Cause::MessageSource),
        };
        let cause = match cause {
            None if state.send_message(source, false, around) => None,
            None => Some(Cause::MessageSource),
            some => some,
        };
        let fields = [
            ("rid", Value::Hex(word.asked.rid.into())),
            ("pe", Value::Hex(word.pe.into())),
            ("source", Value::Hex(source.into())),
            ("result", Value::Str(cause.map_or("taken", Cause::name))),
        ];
        around.trace("msi", &fields);
        match cause {
            None => {
                state.counters.messages += 1;
                Ok(())
            }
            Some(cause) => {
                state.counters.messages_refused += 1;
                state.report(Some(word.pe), error_of(&word.asked, cause, data), around);
                Err(cause)
            }
        }
    }
}
