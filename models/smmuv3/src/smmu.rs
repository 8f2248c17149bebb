//! The model as a whole: its lock, and the faces it shows to the bus.
//!
//! One mutex guards the [`State`]. It is held while the model thinks, and while it reads tables and writes events, but not
//! while a device's bytes move nor while a message is written: what those reach may come back to the model's registers. An
//! access that was let through is counted as under way until its bytes have moved; a CMD_SYNC does not complete before
//! those that began before it are done.
//!
//! Should a table or queue lie, by somebody's mistake, on the model's own registers, the model would wait for itself:
//! see [`Guarded`].

use std::sync::{Arc, MutexGuard, Weak};

use model_bus::{
    BusError, Clocked, Downstream, Fabric, Flights, Guarded, InvalidationDone, Marked, Mmio, Notes, Outcome,
    PageRequest, Passage, Request, Stall, StallState, TranslatedRequest, TranslationAnswer,
    TranslationRequest, Translator, Unpredictable, Ways, Width, Write,
};
use portcullis_types::Pa;
use portcullis_types::trace::{Sink, Value};

use crate::config::Config;
use crate::counters::Counters;
use crate::cr::{GBPA_ABORT, SMMUEN};
use crate::downstream::Outgoing;
use crate::engine::{Caches, Engine, Refusal};
use crate::event::{Asked, EventKind};
use crate::state::{Around, Lines, Message, State, Traffic};
use crate::translate::Grant;

/// What a request would meet if nothing were cached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outlook {
    /// It would be let through to this address.
    Allowed(Pa),
    /// It would be refused, with this event; none if in silence.
    Refused(Option<EventKind>),
}

/// An SMMUv3.
pub struct Smmu {
    config: Config,
    fabric: Arc<dyn Fabric>,
    sink: Arc<dyn Sink>,
    traffic: Traffic,
    /// What whoever waits for a broadcast to be done waits for. Kept only where broadcasts are heard: a lock for each access has its price.
    pub(crate) flights: Option<Flights>,
    ways: Ways,
    state: Guarded<State>,
}

impl Smmu {
    /// An SMMU out of reset, with these features, behind which is `fabric`. `seed` decides what the policy leaves open.
    pub fn new(config: Config, fabric: Arc<dyn Fabric>, seed: u64, sink: Arc<dyn Sink>) -> Self {
        let flights = config.broadcast.then(Flights::default);
        let state = State::new(&config, seed, Notes::new(crate::SOURCE, Arc::clone(&sink)));
        Self {
            config,
            fabric,
            sink,
            traffic: Traffic::default(),
            flights,
            ways: Ways::default(),
            state: Guarded::new(state),
        }
    }

    /// The features.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// How many events had no room in the queue.
    pub fn events_lost(&self) -> u64 {
        self.lock().map_or(0, |state| state.counters.events_lost)
    }

    /// How many page requests had no room in theirs.
    pub fn page_requests_lost(&self) -> u64 {
        self.lock().map_or(0, |state| state.counters.page_requests_lost)
    }

    /// What it has done so far.
    pub fn counters(&self) -> Counters {
        self.lock().map(|state| state.counters.clone()).unwrap_or_default()
    }

    /// Everything software did against the book since the last call.
    pub fn take_unpredictable(&self) -> Vec<Unpredictable> {
        self.lock().map(|mut state| state.notes.take()).unwrap_or_default()
    }

    /// Puts the model back to what it is out of reset. Counters, the list of what was wrong, and the dice stay.
    pub fn reset(&self) {
        let Some(mut state) = self.lock() else { return };
        let fresh = State::new(&self.config, 0, Notes::discarded());
        let old = core::mem::replace(&mut *state, fresh);
        state.notes = old.notes;
        state.counters = old.counters;
        state.dice = old.dice;
        state.stalls = old.stalls.emptied();
    }

    /// What `request` would meet now if nothing were cached, as after an invalidation of everything. Changes and records nothing:
    /// for tests that look at the tables after every store.
    pub fn outlook(&self, request: &Request) -> Outlook {
        let Some(state) = self.lock() else { return Outlook::Refused(None) };
        let _memory = self.accessing_memory();
        let asked = asked(request);
        if !state.is_enabled() {
            return self
                .bypass(&state, &asked)
                .map_or(Outlook::Refused(None), |pa| Outlook::Allowed(Pa::new(pa)));
        }
        let mut engine = Engine {
            config: &self.config,
            setup: state.setup,
            fabric: &*self.fabric,
            caches: &mut Caches::default(),
            notes: &mut Notes::discarded(),
            counters: &mut Counters::default(),
            fresh: true,
            demand: false,
        };
        match engine.translate(&asked) {
            Ok(grant) => Outlook::Allowed(Pa::new(grant.output)),
            Err(refusal) => Outlook::Refused(refusal.event.map(|event| event.kind())),
        }
    }

    /// The interrupt lines that rose since the last call, for a platform that wires them.
    pub fn take_lines(&self) -> Lines {
        self.lock().map(|mut state| core::mem::take(&mut state.lines)).unwrap_or_default()
    }

    /// How many translations are cached.
    pub fn cached_translations(&self) -> usize {
        self.lock().map(|state| state.caches.tlb.len()).unwrap_or_default()
    }

    pub(crate) fn around(&self) -> Around<'_> {
        Around { config: &self.config, fabric: &*self.fabric, sink: &*self.sink, traffic: &self.traffic }
    }

    /// The state; none if this very thread holds it and waits for memory.
    pub(crate) fn lock(&self) -> Option<MutexGuard<'_, State>> {
        self.state.lock()
    }

    /// Leaves the mark, for as long as the answer lives. Only with the lock held.
    pub(crate) fn accessing_memory(&self) -> Marked<'_> {
        self.state.accessing_memory()
    }

    /// Where an access goes while SMMUEN is 0. Spec: SMMUv3 H.a, 6.3.14 "SMMU_GBPA", 3.4 "Address sizes": beyond OAS it is
    /// aborted, and nothing is recorded.
    fn bypass(&self, state: &State, asked: &Asked) -> Option<u64> {
        let aborts = state.registers.gbpa.is_on(GBPA_ABORT) || asked.address >> self.config.oas() != 0;
        (!aborts).then_some(asked.address)
    }

    /// Judges a request, with the lock held.
    fn judge(&self, state: &mut State, asked: &Asked) -> Result<Grant, Refusal> {
        if !state.is_enabled() {
            let output = self.bypass(state, asked).ok_or(Refusal::SILENT)?;
            return Ok(Grant { output, translation: None, overrides: Default::default(), hit: false });
        }
        let _memory = self.accessing_memory();
        let around = self.around();
        state.last_stream = asked.stream;
        let judged = state.engine(around).translate(asked);
        match &judged {
            Ok(grant) => {
                let counter = if grant.hit { &mut state.counters.hits } else { &mut state.counters.misses };
                *counter += u64::from(grant.translation.is_some());
                state.micro.keep(asked, grant);
                if state.mischief.quiet == 0 {
                    state.make_mischief(asked, grant, around);
                }
            }
            Err(refusal) => {
                // What is held back is recorded under its tag, by the caller.
                if let Some(event) = refusal.event.as_ref().filter(|_| !refusal.stalls) {
                    state.record(event, around);
                }
            }
        }
        if self.config.verbose {
            let (result, output) = match &judged {
                Ok(grant) => ("granted", grant.output),
                Err(_) => ("refused", 0),
            };
            around.trace(
                "translate",
                &[
                    ("sid", Value::Hex(asked.stream.into())),
                    ("addr", Value::Addr(asked.address)),
                    ("result", Value::Str(result)),
                    ("pa", Value::Addr(output)),
                ],
            );
        }
        judged
    }

    /// Lets an access through, with the lock taken and given back.
    fn grant(
        &self,
        mut state: MutexGuard<'_, State>,
        request: &Request,
        output: u64,
        translated: bool,
        commit: &mut dyn FnMut(Passage) -> Result<(), BusError>,
    ) -> Outcome {
        if translated {
            state.counters.granted += 1;
            state.counters.granted_bytes += u64::from(request.len_bytes);
        } else {
            state.counters.bypassed += 1;
        }
        self.let_through(state, output, commit)
    }

    /// Counts an access as under way, gives the lock back, and lets its bytes move.
    fn let_through(
        &self,
        mut state: MutexGuard<'_, State>,
        output: u64,
        commit: &mut dyn FnMut(Passage) -> Result<(), BusError>,
    ) -> Outcome {
        let under_way = (self.traffic.enter(state.half), self.flights.as_ref().map(Flights::begin));
        let messages = core::mem::take(&mut state.outbox);
        self.traffic.take_messages(u32::try_from(messages.len()).unwrap_or(u32::MAX));
        drop(state);
        let moved = commit(Passage { pa: Pa::new(output) });
        drop(under_way);
        if !messages.is_empty() {
            self.write_messages(messages);
        }
        match moved {
            Ok(()) => Outcome::Done,
            Err(error) => Outcome::BusError(error),
        }
    }

    /// Gives the lock back, then sends the messages that waited.
    pub(crate) fn release(&self, mut state: MutexGuard<'_, State>) {
        if state.outbox.is_empty() {
            return;
        }
        let messages = core::mem::take(&mut state.outbox);
        self.traffic.take_messages(u32::try_from(messages.len()).unwrap_or(u32::MAX));
        drop(state);
        self.write_messages(messages);
    }

    /// Sends messages, without the lock.
    fn write_messages(&self, messages: Vec<Outgoing>) {
        for outgoing in messages {
            match outgoing {
                Outgoing::Message(message) => self.write_message(&message),
                Outgoing::Invalidate(message, serial) => {
                    let taken = self.ways.invalidate(&message);
                    self.traffic.message_written();
                    if !taken && let Some(mut state) = self.lock() {
                        state.end_atc(message.tag, serial);
                    }
                }
                // Whether it arrived nobody learns: "the SMMU cannot guarantee response visibility by the endpoint".
                Outgoing::Respond(message) => {
                    self.ways.respond(&message);
                    self.traffic.message_written();
                }
            }
        }
    }

    /// Writes a message to memory. One that fails is a global error, of which there may be a message in turn.
    fn write_message(&self, message: &Message) {
        let bytes = message.data.to_le_bytes();
        let write = Write { at: Pa::new(message.address), bytes: &bytes, source: self.config.msi_source };
        let result = self.fabric.write(write);
        let fields = [("addr", Value::Addr(message.address)), ("data", Value::Hex(message.data.into()))];
        self.around().trace("msi", &fields);
        self.traffic.message_written();
        let Some(mut state) = self.lock() else { return };
        match result {
            Ok(()) => state.counters.messages += 1,
            Err(_) => state.raise(message.failure, self.around()),
        }
        self.release(state);
    }

    /// One tick. Answers whether anything moved.
    fn tick(&self, state: &mut State) -> bool {
        let _memory = self.accessing_memory();
        let around = self.around();
        let mut moved = state.update(around);
        moved |= state.deliver_late_events(false, around);
        moved |= state.retry_unrecorded_late(around);
        if !state.pending.is_empty() && state.dice.one_in(8) {
            let last = u32::try_from(state.pending.len() - 1).unwrap_or(0);
            let index = state.dice.up_to(last) as usize;
            state.apply_pending(index, around);
        }
        state.obey_some_broadcast(around);
        if state.is_enabled() && state.dice.one_in(self.config.policy.prefetch_streams_one_in) {
            state.prefetch_some_stream(around);
        }
        moved | state.consume(around)
    }
}

fn asked(request: &Request) -> Asked {
    Asked {
        stream: request.source.0,
        substream: request.pasid.map(portcullis_types::Pasid::get),
        address: request.iova.get(),
        kind: request.access.kind,
        privileged: request.access.privileged,
    }
}

impl Translator for Smmu {
    fn access(&self, request: &Request, commit: &mut dyn FnMut(Passage) -> Result<(), BusError>) -> Outcome {
        let Some(mut state) = self.lock() else { return Outcome::Aborted };
        let (stream, substream) = (request.source.0, request.pasid.map(portcullis_types::Pasid::get));
        // The short way: a page just used, and nothing of the hardware's own due.
        let quiet = state.mischief.quiet;
        if quiet > 1
            && !self.config.verbose
            && state.registers.cr0.is_on(SMMUEN)
            && let Some(found) = state.micro.find(stream, substream, request.iova.get(), request.access)
        {
            state.mischief.quiet = if quiet == u32::MAX { quiet } else { quiet - 1 };
            state.counters.hits += u64::from(found.translated);
            return self.grant(state, request, found.output, found.translated, commit);
        }
        if quiet != u32::MAX {
            state.mischief.quiet = quiet.saturating_sub(1);
        }
        match self.judge(&mut state, &asked(request)) {
            Ok(grant) => self.grant(state, request, grant.output, grant.translation.is_some(), commit),
            Err(Refusal { event: Some(event), stalls: true, .. }) => {
                let memory = self.accessing_memory();
                let stall = state.hold(&asked(request), &event, self.around());
                drop(memory);
                self.release(state);
                Outcome::Stalled(stall)
            }
            Err(refusal) => {
                state.counters.refused += 1;
                self.release(state);
                if refusal.ignored { Outcome::Ignored } else { Outcome::Aborted }
            }
        }
    }

    fn translate(&self, request: &TranslationRequest) -> TranslationAnswer {
        let Some(mut state) = self.lock() else { return TranslationAnswer::CompleterAbort };
        let memory = self.accessing_memory();
        let answer = state.answer_translation(request, self.around());
        drop(memory);
        self.release(state);
        answer
    }

    fn access_translated(
        &self,
        request: &TranslatedRequest,
        commit: &mut dyn FnMut(Passage) -> Result<(), BusError>,
    ) -> Outcome {
        let Some(mut state) = self.lock() else { return Outcome::Aborted };
        let memory = self.accessing_memory();
        let judged = state.judge_translated(request, self.around());
        drop(memory);
        match judged {
            Ok(output) => {
                state.counters.translated_accesses += 1;
                state.counters.translated_bytes += u64::from(request.len_bytes);
                self.let_through(state, output, commit)
            }
            Err(_) => {
                state.counters.refused += 1;
                self.release(state);
                Outcome::Aborted
            }
        }
    }

    fn request_page(&self, request: &PageRequest) {
        let Some(mut state) = self.lock() else { return };
        let memory = self.accessing_memory();
        state.request_page(request, self.around());
        drop(memory);
        self.release(state);
    }

    fn invalidation_done(&self, done: &InvalidationDone) {
        if let Some(mut state) = self.lock() {
            state.complete_atc(done);
        }
    }

    fn connect(&self, downstream: Weak<dyn Downstream>) {
        self.ways.add(downstream);
    }

    fn stalled(&self, stall: Stall) -> StallState {
        self.lock().map_or(StallState::Waiting, |mut state| state.stalls.tell(stall))
    }
}

impl Mmio for Smmu {
    fn read(&self, offset: u64, width: Width) -> u64 {
        let Some(mut state) = self.lock() else { return 0 };
        if self.config.policy.work_on_reads {
            self.tick(&mut state);
        }
        let value = state.read_register(offset, width, &self.config);
        self.release(state);
        value
    }

    fn write(&self, offset: u64, width: Width, value: u64) {
        let Some(mut state) = self.lock() else { return };
        let memory = self.accessing_memory();
        state.write_register(offset, width, value, self.around());
        drop(memory);
        self.release(state);
    }
}

impl Clocked for Smmu {
    fn step(&self, _now_ns: u64) -> bool {
        let Some(mut state) = self.lock() else { return false };
        let moved = self.tick(&mut state);
        self.release(state);
        moved
    }
}

impl core::fmt::Debug for Smmu {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Smmu").field("config", &self.config).finish_non_exhaustive()
    }
}
