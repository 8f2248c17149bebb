//! The model as a whole: its lock, and the faces it shows to the bus.
//!
//! One mutex guards the [`State`]. It is held while the model thinks, and while it reads tables and writes descriptors, but not while a device's bytes move nor
//! while a message is sent: what those reach may come back to the model. An access that was let through is counted as under way until its bytes have moved;
//! a wait descriptor behind an invalidation that drains does not complete before those that began before it are done.
//!
//! Should a table or queue lie, by somebody's mistake, on the model's own registers, the model would wait for itself: see [`Guarded`].

use std::sync::{Arc, MutexGuard, Weak};

use model_bus::{
    BusError, Clocked, Doorbell, Downstream, Flights, Guarded, InvalidationDone, Mmio, Notes, Outcome,
    PageRequest, Passage, Request, TranslatedRequest, TranslationAnswer, TranslationRequest, Translator,
    Unpredictable, Ways, Width, Write,
};
use portcullis_types::trace::{Sink, Value};
use portcullis_types::{AccessKind, Pa, Pasid, SourceId};

use crate::bits::{half, low};
use crate::caches::Caches;
use crate::config::Config;
use crate::counters::Counters;
use crate::engine::{Asked, Engine, Fault, Form, is_interrupt_address};
use crate::event::Message;
use crate::interrupt::{Interrupt, Interrupts};
use crate::memory::Memory;
use crate::reason::Reason;
use crate::registers::{INTERRUPTS, TRANSLATION};
use crate::state::{Around, Outgoing, State};
use crate::strict::clause;

/// What a request would meet if nothing were cached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outlook {
    /// It would be let through to this address.
    Allowed(Pa),
    /// It would be refused, for this reason; none if it is no fault.
    Refused(Option<Reason>),
}

/// A VT-d remapping unit.
pub struct Vtd {
    config: Config,
    memory: Memory,
    interrupts: Arc<dyn Interrupts>,
    sink: Arc<dyn Sink>,
    flights: Flights,
    ways: Ways,
    state: Guarded<State>,
}

impl Vtd {
    /// A unit out of reset, with these features, in front of `memory`. Interrupts go to `interrupts`; `seed` decides what the policy leaves open.
    ///
    /// Devices' messages reach it as a [`Doorbell`] at 0xfee0_0000.
    pub fn new(
        config: Config,
        memory: Memory,
        interrupts: Arc<dyn Interrupts>,
        seed: u64,
        sink: Arc<dyn Sink>,
    ) -> Self {
        let config = config.settled();
        let state = State::new(&config, seed, Notes::new(crate::SOURCE, Arc::clone(&sink)));
        Self {
            config,
            memory,
            interrupts,
            sink,
            flights: Flights::default(),
            ways: Ways::default(),
            state: Guarded::new(state),
        }
    }

    /// The size of its registers, a multiple of 4 KiB.
    pub const REGISTER_BYTES: u64 = 0x2000;

    /// The features, as they are in effect.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// What it has done so far.
    pub fn counters(&self) -> Counters {
        self.state.lock().map(|state| state.counters.clone()).unwrap_or_default()
    }

    /// Of [`counters`](Self::counters), the faults for which there was no register: for who looks often.
    pub fn faults_lost(&self) -> u64 {
        self.state.lock().map_or(0, |state| state.counters.faults_lost)
    }

    /// The same of the page requests for which the queue had no room.
    pub fn page_requests_lost(&self) -> u64 {
        self.state.lock().map_or(0, |state| state.counters.page_requests_lost)
    }

    /// Everything software did against the book since the last call.
    pub fn take_unpredictable(&self) -> Vec<Unpredictable> {
        self.state.lock().map(|mut state| state.notes.take()).unwrap_or_default()
    }

    /// How many translations are cached.
    pub fn cached_translations(&self) -> usize {
        self.state.lock().map(|state| state.caches.iotlb.len()).unwrap_or_default()
    }

    /// Puts the model back to what it is out of reset. Counters, the list of what was wrong, and the dice stay.
    pub fn reset(&self) {
        let Some(mut state) = self.state.lock() else { return };
        let fresh = State::new(&self.config, 0, Notes::discarded());
        let old = core::mem::replace(&mut *state, fresh);
        state.notes = old.notes;
        state.counters = old.counters;
        state.dice = old.dice;
    }

    /// What `request` would meet now if nothing were cached, as after an invalidation of everything. Changes and records nothing: for tests that look at the
    /// tables after every store.
    pub fn outlook(&self, request: &Request) -> Outlook {
        let Some(state) = self.state.lock() else { return Outlook::Refused(None) };
        let _memory = self.state.accessing_memory();
        let asked = asked(request);
        if !state.is_enabled() {
            return Outlook::Allowed(Pa::new(asked.address));
        }
        let mut engine = Engine {
            config: &self.config,
            root: state.root,
            memory: &self.memory,
            caches: &mut Caches::default(),
            notes: &mut Notes::discarded(),
            counters: &mut Counters::default(),
            choice: 0,
            fresh: true,
        };
        match engine.translate(&asked) {
            Ok(grant) => Outlook::Allowed(Pa::new(grant.translation.output_of(asked.address))),
            Err(fault) => Outlook::Refused(Some(fault.reason)),
        }
    }

    fn around(&self) -> Around<'_> {
        Around { config: &self.config, memory: &self.memory, sink: &*self.sink, flights: &self.flights }
    }

    /// Gives the lock back, then sends what waited.
    fn release(&self, mut state: MutexGuard<'_, State>) {
        let outgoing = core::mem::take(&mut state.outbox);
        drop(state);
        self.send(outgoing);
    }

    /// Sends, without the lock.
    fn send(&self, outgoing: Vec<Outgoing>) {
        for message in outgoing {
            match message {
                Outgoing::Event(event) => self.send_event(&event),
                // Whether it arrived nobody learns: both are posted.
                Outgoing::Invalidate(message) => {
                    self.ways.invalidate(&message);
                }
                Outgoing::Respond(message) => {
                    self.ways.respond(&message);
                }
            }
        }
    }

    /// An interrupt of the unit's own: never remapped. One whose address is no interrupt is a write to memory, as software asked.
    fn send_event(&self, event: &Message) {
        let &Message { address, upper, data } = event;
        self.around()
            .trace("event", &[("addr", Value::Hex(address.into())), ("data", Value::Hex(data.into()))]);
        let is_interrupt = is_interrupt_address(address.into());
        if let Some(mut state) = self.state.lock() {
            state.counters.events += 1;
            if !is_interrupt || upper & 0xff != 0 {
                state.notes.record(clause::EVENT_ADDRESS, format!("{upper:#x}:{address:#x}"));
            }
        }
        if is_interrupt {
            self.interrupts.deliver(&Interrupt::from_message(None, address, upper, data));
        } else {
            let at = Pa::new(u64::from(upper) << 32 | u64::from(address));
            // A message that nobody takes is lost.
            let _ = self.memory.snooped.write(Write { at, bytes: &data.to_le_bytes(), source: None });
        }
    }

    /// One tick. Answers whether anything moved.
    fn tick(&self, state: &mut State) -> bool {
        let _memory = self.state.accessing_memory();
        let around = self.around();
        let moved = state.finish_commands(around) | state.finish_jobs(around);
        let aged = state.age_requests(around);
        moved | aged | state.run_queue(around)
    }

    /// Counts an access as under way, gives the lock back, and lets its bytes move.
    fn let_through(
        &self,
        mut state: MutexGuard<'_, State>,
        output: u64,
        commit: &mut dyn FnMut(Passage) -> Result<(), BusError>,
    ) -> Outcome {
        let under_way = self.flights.begin();
        let outgoing = core::mem::take(&mut state.outbox);
        drop(state);
        let moved = commit(Passage { pa: Pa::new(output) });
        drop(under_way);
        self.send(outgoing);
        match moved {
            Ok(()) => Outcome::Done,
            Err(error) => Outcome::BusError(error),
        }
    }

    fn refuse(&self, mut state: MutexGuard<'_, State>, asked: &Asked, fault: Option<Fault>) -> Outcome {
        state.counters.refused += 1;
        if let Some(fault) = fault {
            state.record_fault(asked, fault, self.around());
        }
        self.release(state);
        Outcome::Aborted
    }

    /// Judges an untranslated request: where it goes.
    fn judge(&self, state: &mut State, asked: &Asked) -> Result<u64, Fault> {
        let _memory = self.state.accessing_memory();
        let around = self.around();
        let judged = state.engine(around).translate(asked);
        match judged {
            Ok(grant) => {
                let counter = if grant.hit { &mut state.counters.hits } else { &mut state.counters.misses };
                *counter += 1;
                self.make_mischief(state, asked);
                Ok(grant.translation.output_of(asked.address))
            }
            Err(fault) => {
                state.engine(around).judge_fault(asked, fault);
                Err(fault)
            }
        }
    }

    /// What the hardware does of its own accord after an access.
    fn make_mischief(&self, state: &mut State, asked: &Asked) {
        let policy = &self.config.policy;
        if state.dice.one_in(policy.evict_one_in) {
            let choice = state.dice.next_bits();
            state.caches.iotlb.evict(choice);
        }
        if state.dice.one_in(policy.prefetch_one_in) {
            let next = Asked { address: asked.address.wrapping_add(0x1000), write: false, ..*asked };
            // What it finds is for later; what it does not find is nobody's fault.
            let _ = state.engine(self.around()).translate(&next);
        }
        if state.dice.one_in(policy.audit_one_in) {
            state.engine(self.around()).audit(asked.source);
        }
    }
}

fn asked(request: &Request) -> Asked {
    let tagged = request.pasid.is_some();
    Asked {
        form: Form::Untranslated,
        source: half(request.source.0.into(), 0),
        pasid: request.pasid.map(Pasid::get),
        address: request.iova.get(),
        write: request.access.kind == AccessKind::Write,
        execute: tagged && request.access.kind == AccessKind::Execute,
        privileged: tagged && request.access.privileged,
        empty: request.len_bytes == 0,
    }
}

impl Translator for Vtd {
    fn access(&self, request: &Request, commit: &mut dyn FnMut(Passage) -> Result<(), BusError>) -> Outcome {
        let Some(mut state) = self.state.lock() else { return Outcome::Aborted };
        let asked = asked(request);
        // 3.15: without a PASID, the interrupt range is not remapped. A message goes on to the doorbell there.
        if asked.pasid.is_none() && is_interrupt_address(asked.address) {
            let message = asked.write && request.len_bytes == 4 && asked.address & 3 == 0;
            if message {
                return self.let_through(state, asked.address, commit);
            }
            let reported = state.registers.is_on(TRANSLATION | INTERRUPTS);
            let fault = reported.then_some(Fault::loud(Reason::InterruptMalformed));
            return self.refuse(state, &asked, fault);
        }
        let enabled = state.is_enabled();
        let output = if enabled { self.judge(&mut state, &asked) } else { Ok(asked.address) };
        let output = match output {
            Ok(output) => output,
            Err(fault) => return self.refuse(state, &asked, Some(fault)),
        };
        // "DMA requests blocked due to protected memory region violation are not recorded or reported as remapping faults."
        if state.is_protected(output, request.len_bytes.into()) {
            return self.refuse(state, &asked, None);
        }
        if enabled {
            state.counters.granted += 1;
            state.counters.granted_bytes += u64::from(request.len_bytes);
        } else {
            state.counters.bypassed += 1;
        }
        self.let_through(state, output, commit)
    }

    fn translate(&self, request: &TranslationRequest) -> TranslationAnswer {
        let Some(mut state) = self.state.lock() else { return TranslationAnswer::CompleterAbort };
        let memory = self.state.accessing_memory();
        let answer = state.answer(request, self.around());
        drop(memory);
        self.release(state);
        answer
    }

    fn access_translated(
        &self,
        request: &TranslatedRequest,
        commit: &mut dyn FnMut(Passage) -> Result<(), BusError>,
    ) -> Outcome {
        let Some(mut state) = self.state.lock() else { return Outcome::Aborted };
        // A device that may not send a PASID with a translated address does not.
        let tagged = self.config.scalable_has(|mode| mode.translated_pasid);
        let asked = Asked {
            form: Form::Translated,
            source: half(request.source.0.into(), 0),
            pasid: request.pasid.map(Pasid::get).filter(|_| tagged),
            address: request.at.get(),
            write: request.access.kind == AccessKind::Write,
            execute: false,
            privileged: false,
            empty: request.len_bytes == 0,
        };
        // 4.2.1: Unsupported Requests while translation is off.
        if !state.is_enabled() || !self.config.device_tlbs {
            return self.refuse(state, &asked, None);
        }
        let memory = self.state.accessing_memory();
        let judged = state.engine(self.around()).translated(&asked);
        drop(memory);
        if let Err(fault) = judged {
            return self.refuse(state, &asked, Some(fault));
        }
        if state.is_protected(asked.address, request.len_bytes.into()) {
            return self.refuse(state, &asked, None);
        }
        state.counters.translated_accesses += 1;
        state.counters.translated_bytes += u64::from(request.len_bytes);
        self.let_through(state, asked.address, commit)
    }

    fn request_page(&self, request: &PageRequest) {
        let Some(mut state) = self.state.lock() else { return };
        let memory = self.state.accessing_memory();
        state.request_page(request, self.around());
        drop(memory);
        self.release(state);
    }

    fn invalidation_done(&self, done: &InvalidationDone) {
        let Some(mut state) = self.state.lock() else { return };
        state.device_tlb_done(done);
        self.release(state);
    }

    fn connect(&self, downstream: Weak<dyn Downstream>) {
        self.ways.add(downstream);
    }
}

impl Doorbell for Vtd {
    /// A message of a device to 0xfee0_0000 plus `offset`. One without a source is a processor's own, and is not remapped.
    fn ring(&self, offset: u64, bytes: &[u8], source: Option<SourceId>) -> Result<(), BusError> {
        let at = Pa::new(0xfee0_0000 + offset);
        let Ok(data) = bytes.try_into().map(u32::from_le_bytes) else { return Err(BusError { at }) };
        let offset = low(offset);
        let Some(source) = source else {
            self.interrupts.deliver(&Interrupt::from_message(None, 0xfee0_0000 | offset, 0, data));
            return Ok(());
        };
        let Some(mut state) = self.state.lock() else { return Err(BusError { at }) };
        let memory = self.state.accessing_memory();
        let interrupt = state.message(half(source.0.into(), 0), offset, data, self.around());
        drop(memory);
        // An invalidation of the interrupt entry cache waits for what was remapped before.
        let under_way = self.flights.begin();
        self.release(state);
        let taken = interrupt.map(|interrupt| self.interrupts.deliver(&interrupt));
        drop(under_way);
        taken.ok_or(BusError { at })
    }
}

impl Mmio for Vtd {
    fn read(&self, offset: u64, width: Width) -> u64 {
        let Some(mut state) = self.state.lock() else { return 0 };
        if self.config.policy.work_on_reads {
            self.tick(&mut state);
        }
        state.counters.register_reads += 1;
        let value = match width {
            Width::Bits64 => {
                if !state.registers.is_wide(offset) {
                    state.notes.record(clause::REGISTER_WIDTH, format!("64 bits read at {offset:#x}"));
                }
                let half = |at| u64::from(state.registers.read32(at, &self.config));
                half(offset & !7) | half(offset & !7 | 4) << 32
            }
            Width::Bits32 => state.registers.read32(offset & !3, &self.config).into(),
            Width::Bits8 | Width::Bits16 => {
                state.notes.record(clause::REGISTER_WIDTH, format!("{width:?} read at {offset:#x}"));
                let word = u64::from(state.registers.read32(offset & !3, &self.config)) >> (8 * (offset & 3));
                word & ((1 << (8 * width.bytes())) - 1)
            }
        };
        self.release(state);
        value
    }

    fn write(&self, offset: u64, width: Width, value: u64) {
        let Some(mut state) = self.state.lock() else { return };
        let memory = self.state.accessing_memory();
        state.counters.register_writes += 1;
        let around = self.around();
        match width {
            Width::Bits64 => {
                if !state.registers.is_wide(offset) {
                    state.notes.record(clause::REGISTER_WIDTH, format!("64 bits written at {offset:#x}"));
                }
                state.write32(offset & !7, low(value), around);
                state.write32(offset & !7 | 4, low(value >> 32), around);
            }
            Width::Bits32 => state.write32(offset & !3, low(value), around),
            // Choice: what is too narrow moves nothing.
            Width::Bits8 | Width::Bits16 => {
                state.notes.record(clause::REGISTER_WIDTH, format!("{width:?} written at {offset:#x}"));
            }
        }
        drop(memory);
        self.release(state);
    }
}

impl Clocked for Vtd {
    fn step(&self, _now_ns: u64) -> bool {
        let Some(mut state) = self.state.lock() else { return false };
        let moved = self.tick(&mut state);
        self.release(state);
        moved
    }
}

impl core::fmt::Debug for Vtd {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Vtd").field("config", &self.config).finish_non_exhaustive()
    }
}
