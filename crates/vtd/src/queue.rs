//! The invalidation queue: descriptors go in under a lock, and each run of them ends with a wait that its sender watches under none.
//!
//! # A run
//!
//! Under the lock a sender writes its descriptors and a wait behind them, makes them visible, and moves the tail. The wait has a word in memory of its own, where
//! the unit writes a number that no earlier wait with this word had. While it is watched, the run is a *flight*.
//!
//! # Errors
//!
//! Whoever waits looks at FSTS_REG as well and repairs what stops the queue, for all:
//!
//! - *IQE*: the head stands at a descriptor that the unit does not take. It is replaced by one that does nothing, and its flight has failed. An answer to a page
//!   request, which is no flight's, is first put there once more: a device waits for it. An error that is not about a descriptor, or that comes again at a place
//!   where there is one that does nothing, ends the queue: it is closed. It is begun anew when the unit is turned off (`reset`), since nothing can be given back unless hardware is asked.
//! - *ITE*: a device did not answer. The unit drops the waits that it holds, and nothing from the oldest device TLB invalidation on is certain: all flights
//!   are aborted, and their senders send again. A run with a device in it is sent three times at most.
//! - *ICE*: a device answered wrongly. Flights with devices are aborted.
//!
//! An aborted flight's number may still be written later; nobody watches for it any more. A flight whose wait ran out keeps its word until the number
//! came, or the unit has dropped or refused the wait that would write it. Nothing is ever taken as done but a number that was written.
//!
//! A queue that is closed is looked at for the last time under the lock: nothing is stored behind that. Its memory is given back when nobody watches a word any more.
//!
//! Spec: VT-d 5.10, 6.5.2 "Queued Invalidation Interface", 6.5.2.9 "Invalidation Wait Descriptor", 6.5.2.11 "Hardware Handling of Queued Invalidation
//! Interface Errors".
//! Not here: which descriptors (`domain`, `switch`).

use alloc::collections::VecDeque;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use portcullis_core::iommu::{GlobalError, SyncError};
use portcullis_hal::{BlockLayout, Lock, Platform, Registers, wait_for};
use portcullis_spec::vtd::capability::{Capability, ExtendedCapability};
use portcullis_spec::vtd::fault::FaultStatus;
use portcullis_spec::vtd::queue::*;
use portcullis_spec::vtd::registers::{FSTS, IQERCD, IQH, IQT};
use portcullis_types::trace::{Event, Value};
use portcullis_types::{Pa, mutant};

use crate::counters::Counters;
use crate::descriptor::Descriptor;
use crate::features::Features;

/// Flights at a time. A page of words.
const FLIGHTS: usize = 64;
/// Answers that are remembered before it is looked which of them were fetched.
const ANSWERS: usize = 16;
/// Descriptors of a run, without its wait; longer ones are cut.
const RUN: usize = 32;
/// How often a run is sent to devices that do not answer.
const DEVICE_TRIES: u32 = 3;
/// How often a run is sent that others' devices abort.
const TRIES: u32 = 64;

/// The code of a failure for which a device is to blame: ITE and ICE of FSTS_REG.
const DEVICE_FAILED: u32 = FaultStatus::new().with_ite(true).with_ice(true).into_bits();

/// The invalidation queue.
pub(crate) struct Queue<P: Platform, R> {
    platform: Arc<P>,
    registers: Arc<R>,
    base: Pa,
    words: Pa,
    size_lg2: u8,
    wide: bool,
    coherent: bool,
    limit_ns: u64,
    capability: Capability,
    extended: ExtendedCapability,
    state: Lock<P, State>,
    /// Nothing more is taken.
    closed: AtomicBool,
    /// That is because the unit stood still, and nothing could be put right.
    given_up: AtomicBool,
    /// How often a descriptor was put right for which the queue stood still.
    repairs: AtomicU64,
    pub(crate) counters: Counters,
}

struct State {
    /// The position behind the last descriptor. Positions only grow.
    tail: u64,
    /// Everything before has been fetched, when last looked at.
    head: u64,
    number: u32,
    next_word: usize,
    flights: [Option<Flight>; FLIGHTS],
    /// Where the last descriptor was replaced.
    replaced: Option<u64>,
    /// Answers that the unit may not have fetched, and where they are.
    answers: VecDeque<(u64, Descriptor)>,
}

#[derive(Clone, Copy, Debug)]
struct Flight {
    first: u64,
    wait: u64,
    number: u32,
    devices: bool,
    fate: Fate,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Pending,
    Aborted,
    Refused(u32),
    /// Nobody watches; the number may still come.
    Left,
}

impl<P: Platform, R: Registers> Queue<P, R> {
    /// A queue of `1 << size_lg2` descriptors, of 256 bits in scalable mode, not yet told to the hardware. None if there is no memory.
    pub(crate) fn new(
        platform: Arc<P>,
        registers: Arc<R>,
        size_lg2: u8,
        features: &Features,
        limit_ns: u64,
    ) -> Option<Self> {
        let (wide, coherent) = (features.wide_descriptors(), features.coherent);
        // One page at least. Spec: VT-d 5.10, 11.4.9.3 "Invalidation Queue Address Register", QS: at most 7.
        let size_lg2 = size_lg2.clamp(if wide { 7 } else { 8 }, if wide { 14 } else { 15 });
        let layout = Self::layout(size_lg2, wide);
        let base = platform.alloc(layout)?;
        let Some(words) = platform.alloc(Self::words_layout()) else {
            platform.free(base, layout);
            return None;
        };
        if !coherent {
            platform.clean_table(base, layout.size_bytes());
        }
        let state = State {
            tail: 0,
            head: 0,
            number: 0,
            next_word: 0,
            flights: [None; FLIGHTS],
            replaced: None,
            answers: VecDeque::new(),
        };
        Some(Self {
            platform,
            registers,
            base,
            words,
            size_lg2,
            wide,
            coherent,
            limit_ns,
            capability: features.capability,
            extended: features.extended,
            state: Lock::<P, State>::new(state),
            closed: AtomicBool::new(false),
            given_up: AtomicBool::new(false),
            repairs: AtomicU64::new(0),
            counters: Counters::new(),
        })
    }

    fn entry_lg2(wide: bool) -> u8 {
        if wide { 5 } else { 4 }
    }

    fn layout(size_lg2: u8, wide: bool) -> BlockLayout {
        BlockLayout::naturally_aligned(size_lg2 + Self::entry_lg2(wide))
    }

    fn words_layout() -> BlockLayout {
        BlockLayout::naturally_aligned(12)
    }

    /// What IQA_REG is told.
    pub(crate) fn address_register(&self) -> u64 {
        let qs = self.size_lg2 + Self::entry_lg2(self.wide) - 12;
        let register = InvalidationQueueAddress::new().with_qs(qs).with_dw(self.wide);
        register.with_iqa_address(self.base.get()).into_bits()
    }

    /// Refuses descriptors from now on.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::Release);
    }

    /// Makes the queue, which was given up and which hardware has turned off, an empty one: what the unit has not fetched is nobody's any more, and whoever watches it sends it again. Errors for
    /// which it stood still are over.
    ///
    /// Spec: VT-d 5.10, 11.4.9.1 "Invalidation Queue Head Register": 0 while the queue is off.
    pub(crate) fn empty(&self) {
        let mut state = self.state.lock();
        // Positions go on with the next that has index 0.
        state.tail = state.tail.next_multiple_of(self.slots());
        state.head = state.tail;
        state.replaced = None;
        state.answers.clear();
        self.abort(&mut state, |_| true);
        let errors = FaultStatus::new().with_iqe(true).with_ite(true).with_ice(true);
        self.registers.write32(FSTS, errors.into_bits());
    }

    /// Takes descriptors again. Hardware has turned it on.
    pub(crate) fn open(&self) {
        self.given_up.store(false, Ordering::Release);
        self.closed.store(false, Ordering::Release);
    }

    /// Whether the unit stood still, and nothing could be put right.
    pub(crate) fn is_given_up(&self) -> bool {
        self.given_up.load(Ordering::Acquire)
    }

    /// Gives the memory back, once those who watch have seen that the queue is closed; it is kept if they do not come to that. The hardware has been turned off.
    pub(crate) fn free(&self) {
        let unwatched = wait_for(&*self.platform, self.limit_ns, || {
            let state = self.state.lock();
            state.flights.iter().flatten().all(|flight| flight.fate == Fate::Left).then_some(())
        });
        if unwatched.is_err() {
            return;
        }
        self.platform.free(self.base, Self::layout(self.size_lg2, self.wide));
        self.platform.free(self.words, Self::words_layout());
    }

    fn slots(&self) -> u64 {
        1 << self.size_lg2
    }

    fn at(&self, position: u64) -> Pa {
        Pa::new(self.base.get() + ((position & (self.slots() - 1)) << Self::entry_lg2(self.wide)))
    }

    fn word(&self, index: usize) -> Pa {
        Pa::new(self.words.get() + 8 * index as u64)
    }

    /// Whether the unit has written a flight's number. The unit's writes are always coherent.
    fn came(&self, index: usize, number: u32) -> bool {
        #[expect(clippy::cast_possible_truncation, reason = "the unit writes the low half")]
        let low = self.platform.load(self.word(index)) as u32;
        low == number
    }

    /// Sends descriptors, and waits until all have completed. If `drain`, also until the page requests that the unit had received are in their queue.
    pub(crate) fn run(&self, descriptors: &[Descriptor], drain: bool) -> Result<(), SyncError> {
        let mut parts = descriptors.chunks(RUN).peekable();
        if parts.peek().is_none() {
            return self.run_part(&[], drain);
        }
        parts.try_for_each(|part| self.run_part(part, drain))
    }

    fn run_part(&self, part: &[Descriptor], drain: bool) -> Result<(), SyncError> {
        let devices = part.iter().any(Descriptor::asks_a_device);
        let tries = if devices { DEVICE_TRIES } else { TRIES };
        for _ in 0..tries {
            let (index, number) = self.push_waiting(part, drain, devices)?;
            match self.watch(index, number)? {
                Fate::Pending => return Ok(()),
                _ if mutant!("vtd-failed-run-taken-for-done") => return Ok(()),
                Fate::Refused(code) => return Err(SyncError::Failed { code }),
                Fate::Aborted | Fate::Left => {}
            }
        }
        Err(SyncError::Failed { code: DEVICE_FAILED })
    }

    /// Sends an answer without waiting for what it does.
    pub(crate) fn send(&self, answer: Descriptor) -> Result<(), SyncError> {
        self.wait_for_room(|state| self.push_answer(state, answer))
    }

    /// Sends an answer if there is room for it now, and waits for nothing. Answers whether there was.
    pub(crate) fn offer(&self, answer: Descriptor) -> bool {
        self.repair();
        let mut state = self.state.lock();
        self.usable().is_ok() && self.push_answer(&mut state, answer).is_some()
    }

    fn push_answer(&self, state: &mut State, answer: Descriptor) -> Option<()> {
        if !self.has_room(state, 1) {
            return None;
        }
        self.store(state.tail, answer);
        self.remember(state, answer);
        state.tail += 1;
        self.publish(state);
        Some(())
    }

    /// Remembers an answer that is at the tail, and none that the unit has fetched.
    fn remember(&self, state: &mut State, descriptor: Descriptor) {
        if state.answers.len() >= ANSWERS {
            state.head = self.head(state);
            while state.answers.front().is_some_and(|&(position, _)| position < state.head) {
                state.answers.pop_front();
            }
        }
        state.answers.push_back((state.tail, descriptor));
    }

    fn push_waiting(
        &self,
        part: &[Descriptor],
        drain: bool,
        devices: bool,
    ) -> Result<(usize, u32), SyncError> {
        self.wait_for_room(|state| {
            let count = part.len() as u64 + 1;
            if !self.has_room(state, count) {
                return None;
            }
            let index = self.free_word(state)?;
            state.number = state.number.wrapping_add(1).max(1);
            let number = state.number;
            let first = state.tail;
            for (position, &descriptor) in (first..).zip(part) {
                self.store(position, descriptor);
            }
            let wait = first + count - 1;
            self.store(wait, Descriptor::wait(self.word(index).get(), number, drain));
            state.flights[index] = Some(Flight { first, wait, number, devices, fate: Fate::Pending });
            state.tail = first + count;
            self.publish(state);
            Some((index, number))
        })
    }

    fn wait_for_room<T>(&self, mut act: impl FnMut(&mut State) -> Option<T>) -> Result<T, SyncError> {
        let waited = self.wait_until(|| {
            let mut state = self.state.lock();
            if let Err(error) = self.usable() {
                return Some(Err(error));
            }
            let done = act(&mut state);
            drop(state);
            if done.is_none() {
                self.repair();
            }
            done.map(Ok)
        });
        waited.unwrap_or_else(|| {
            let last = self.registers.read64(IQH);
            Err(SyncError::Timeout { waiting_for: "room in the invalidation queue", last })
        })
    }

    /// Polls `ready`, which puts the queue right, until it answers; none if it does not in as long as hardware may take. A queue that stood still until somebody put a descriptor right has all of
    /// its time from then on: that can be the last look of who was kept from looking.
    fn wait_until<T>(&self, mut ready: impl FnMut() -> Option<T>) -> Option<T> {
        loop {
            let repairs = self.repairs.load(Ordering::Acquire);
            let waited = wait_for(&*self.platform, self.limit_ns, &mut ready).ok();
            if waited.is_some() || self.repairs.load(Ordering::Acquire) == repairs {
                return waited;
            }
        }
    }

    /// A queue holds one less than it has slots: with as many, head and tail would say that it is empty.
    fn has_room(&self, state: &mut State, count: u64) -> bool {
        if state.tail - state.head + count >= self.slots() {
            state.head = self.head(state);
        }
        state.tail - state.head + count < self.slots()
    }

    /// The position of the unit's head, between the last that was seen and the tail.
    fn head(&self, state: &State) -> u64 {
        let offset = u64::from(InvalidationQueueIndex::from_bits(self.registers.read64(IQH)).offset());
        let slot = offset >> u8::from(self.wide);
        let head = state.head + (slot.wrapping_sub(state.head) & (self.slots() - 1));
        // Beyond the tail is where no unit's head is: nothing new is known then.
        if head <= state.tail { head } else { state.head }
    }

    /// A word that no flight uses. One after the other, so that a number that comes late meets no successor.
    fn free_word(&self, state: &mut State) -> Option<usize> {
        for step in 0..FLIGHTS {
            let index = (state.next_word + step) % FLIGHTS;
            let free = match state.flights[index] {
                None => true,
                Some(flight) => flight.fate == Fate::Left && self.came(index, flight.number),
            };
            if free {
                state.next_word = index + 1;
                return Some(index);
            }
        }
        None
    }

    fn store(&self, position: u64, descriptor: Descriptor) {
        let descriptor = descriptor.fitted(self.capability, self.extended);
        self.counters.descriptor(&descriptor);
        if self.platform.listening() {
            self.platform.event(&Event {
                source: "vtd",
                name: "descriptor",
                fields: &[
                    ("type", Value::Hex(descriptor.kind().into())),
                    ("word0", Value::Hex(descriptor.0[0])),
                    ("word1", Value::Hex(descriptor.0[1])),
                ],
            });
        }
        self.write(position, descriptor);
    }

    fn write(&self, position: u64, descriptor: Descriptor) {
        let at = self.at(position);
        let words = if self.wide { 4 } else { 2 };
        for (offset, &word) in (0u64..).step_by(8).zip(&descriptor.0[..words]) {
            self.platform.store(Pa::new(at.get() + offset), word);
        }
        if !self.coherent {
            self.platform.clean_table(at, 8 * words as u64);
        }
    }

    fn publish(&self, state: &State) {
        self.platform.write_barrier();
        let index = state.tail & (self.slots() - 1);
        self.registers.write64(IQT, index << Self::entry_lg2(self.wide));
    }

    pub(crate) fn usable(&self) -> Result<(), SyncError> {
        if self.closed.load(Ordering::Acquire) {
            let waiting_for = "an invalidation queue that works";
            return Err(SyncError::Timeout { waiting_for, last: 0 });
        }
        Ok(())
    }

    /// Watches a flight until its number came, or its fate is another. Its word is free then, unless time ran out.
    fn watch(&self, index: usize, number: u32) -> Result<Fate, SyncError> {
        let waited = self.wait_until(|| {
            if self.came(index, number) {
                // What the invalidation allows is done only after it.
                self.platform.full_barrier();
                return Some(Ok(self.land(index, number)));
            }
            self.repair();
            self.end(index, number)
        });
        waited.unwrap_or_else(|| {
            if !self.leave(index, number) {
                return Ok(self.land(index, number));
            }
            let last = self.registers.read64(IQH);
            Err(SyncError::Timeout { waiting_for: "an invalidation wait", last })
        })
    }

    /// Nobody watches a flight any more. False if its fate has been decided meanwhile.
    fn leave(&self, index: usize, number: u32) -> bool {
        let mut state = self.state.lock();
        let flight = state.flights[index].as_mut().filter(|flight| flight.number == number);
        let pending = flight.filter(|flight| flight.fate == Fate::Pending);
        pending.map(|flight| flight.fate = Fate::Left).is_some()
    }

    /// The end of a flight whose number has not come, if there is one: its fate has been decided, or the queue is closed and it is left. Both are looked at under one lock: a fate that
    /// is decided in between would be nobody's, and keep the queue's memory from being given back.
    fn end(&self, index: usize, number: u32) -> Option<Result<Fate, SyncError>> {
        let mut state = self.state.lock();
        let place = &mut state.flights[index];
        match place.as_mut().filter(|flight| flight.number == number) {
            Some(flight) if flight.fate == Fate::Pending => {
                let error = self.usable().err()?;
                flight.fate = Fate::Left;
                Some(Err(error))
            }
            Some(flight) => {
                let fate = flight.fate;
                *place = None;
                Some(Ok(fate))
            }
            None => Some(Ok(Fate::Left)),
        }
    }

    fn land(&self, index: usize, number: u32) -> Fate {
        let mut state = self.state.lock();
        let flight = state.flights[index].take_if(|flight| flight.number == number);
        flight.map_or(Fate::Left, |flight| flight.fate)
    }

    /// Looks for errors of the queue and repairs them. Answers what was found.
    pub(crate) fn repair(&self) -> Vec<GlobalError> {
        let mut found = Vec::new();
        if !is_error(FaultStatus::from_bits(self.registers.read32(FSTS))) {
            return found;
        }
        let mut state = self.state.lock();
        // Again, under the lock: somebody may have been here.
        let status = FaultStatus::from_bits(self.registers.read32(FSTS));
        let record = InvalidationQueueErrorRecord::from_bits(self.registers.read64(IQERCD));
        if status.ite() {
            self.abort(&mut state, |_| true);
            self.forget_dropped(&mut state);
            found.push(self.device_failed("ITE", record.itesid(), FaultStatus::new().with_ite(true)));
        }
        if status.ice() {
            self.abort(&mut state, |flight| flight.devices);
            found.push(self.device_failed("ICE", record.icesid(), FaultStatus::new().with_ice(true)));
        }
        if status.iqe() {
            found.push(self.replace(&mut state, record.iqei()));
            self.repairs.fetch_add(1, Ordering::AcqRel);
        }
        found
    }

    fn abort(&self, state: &mut State, which: impl Fn(&Flight) -> bool) {
        for (index, place) in state.flights.iter_mut().enumerate() {
            let Some(flight) = place else { continue };
            if flight.fate == Fate::Pending && which(flight) && !self.came(index, flight.number) {
                flight.fate = Fate::Aborted;
            }
        }
    }

    /// After a device did not answer: frees the words of flights that nobody watches and whose waits the unit had fetched. It has dropped those.
    fn forget_dropped(&self, state: &mut State) {
        let head = self.head(state);
        let dropped = |flight: &Flight| flight.fate == Fate::Left && flight.wait < head;
        let places = state.flights.iter_mut().filter(|place| place.as_ref().is_some_and(dropped));
        places.for_each(|place| *place = None);
    }

    /// Acknowledges that a device failed; the unit goes on then.
    fn device_failed(&self, name: &'static str, sid: u16, bit: FaultStatus) -> GlobalError {
        Counters::add(&self.counters.device_timeouts);
        self.platform.event(&Event {
            source: "vtd",
            name: "device_tlb_error",
            fields: &[("error", Value::Str(name)), ("sid", Value::Hex(sid.into()))],
        });
        self.registers.write32(FSTS, bit.into_bits());
        GlobalError::Command { code: bit.into_bits(), words: [sid.into(), 0] }
    }

    /// Replaces the descriptor at the head, which the unit does not take.
    fn replace(&self, state: &mut State, code: u8) -> GlobalError {
        Counters::add(&self.counters.queue_errors);
        let head = self.head(state);
        let about_descriptor = matches!(code, IQEI_NONE | IQEI_TYPE | IQEI_RESERVED);
        // The memory of a queue that is closed may be somebody else's by now.
        let closed = self.usable().is_err();
        if closed || !about_descriptor || head == state.tail || state.replaced == Some(head) {
            if !closed {
                self.given_up.store(true, Ordering::Release);
            }
            self.close();
            self.platform.event(&Event {
                source: "vtd",
                name: "queue_dead",
                fields: &[("code", Value::Dec(code.into()))],
            });
            return GlobalError::ServiceFailure;
        }
        let at = self.at(head);
        let words = [self.platform.load(at), self.platform.load(Pa::new(at.get() + 8))];
        let of_head = |flight: &Flight| flight.first <= head && head <= flight.wait;
        let place = state.flights.iter_mut().find(|place| place.as_ref().is_some_and(of_head));
        match place {
            // Nobody is to be told; and if it was the wait, its number never comes.
            Some(place @ Some(Flight { fate: Fate::Left, .. })) => {
                place.take_if(|flight| flight.wait == head);
            }
            Some(Some(flight)) => flight.fate = Fate::Refused(code.into()),
            _ => {}
        }
        // Once: refused again it is one that the unit never takes.
        let answer = state.answers.iter().position(|&(position, _)| position == head);
        let answer = answer.and_then(|place| state.answers.remove(place));
        match answer {
            Some((_, answer)) => self.write(head, answer.fitted(self.capability, self.extended)),
            None => {
                state.replaced = Some(head);
                self.write(head, Descriptor::nothing());
            }
        }
        self.platform.write_barrier();
        self.registers.write32(FSTS, FaultStatus::new().with_iqe(true).into_bits());
        GlobalError::Command { code: code.into(), words }
    }
}

fn is_error(status: FaultStatus) -> bool {
    status.iqe() || status.ite() || status.ice()
}

#[cfg(test)]
mod tests;
