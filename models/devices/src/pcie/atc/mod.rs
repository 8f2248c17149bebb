//! An address translation cache (ATC): a function asks for translations, keeps them, and uses them until it is told to forget.
//!
//! [`Atc::read`] and [`Atc::write`] access a page of 4 KiB at most, by a translation that is held or asked for. The ATC keeps to the protocol and
//! to nothing else: what it holds it uses until an invalidation comes, ATS is switched on anew, or room is needed. A [`Behaviour`] makes it late,
//! or hostile.
//!
//! The lock of its state is never held while anything is sent: an invalidation may come from inside a request, and its completion may be sent
//! by the thread whose access it had to wait for.
//!
//! Spec: PCIe 6.0, 10 "ATS Specification".
//! Not here: page requests (`pages`).

mod cache;
mod state;

use core::fmt;
use core::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use model_bus::{
    DmaError, Invalidation, Stall, Translation, TranslationAnswer, TranslationRequest, Unpredictable,
};
use portcullis_types::trace::{Event, Sink, Value};
use portcullis_types::{Iova, Pa, Pasid, SourceId};

use self::cache::{Cache, Entry, Scope, Spaces, Span};
use self::state::{Answer, State};
use super::capability::{ATS_CONTROL, ATS_ENABLE, ATS_UNIT};
use super::config::ConfigSpace;
use super::requester::{RequestError, Requester};
use super::strict::{Strict, clause};

/// How often in a row an access is tried whose translation is taken away before it is used.
const TRIES: usize = 4;

/// What an ATC is like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AtcOptions {
    /// How many translations it holds, at least 1.
    pub entries: usize,
    /// Decides which of them goes when room is needed.
    pub seed: u64,
    /// Whether a global invalidation hits every PASID, as the capability says.
    pub global_invalidate: bool,
    /// What it does at first.
    pub behaviour: Behaviour,
}

/// How an ATC answers invalidations. The default is at once, or when the accesses that it hits are over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Behaviour {
    /// It answers this many steps later.
    pub answer_after_steps: u32,
    /// Hostile: it answers each twice.
    pub answer_twice: bool,
    /// Broken: it does as told, and never says so.
    pub never_answer: bool,
    /// Hostile: it answers, but goes on using what it was told to forget.
    pub keep_stale: bool,
}

/// What an ATC has done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct AtcCounts {
    /// Translation requests that were sent.
    pub requests: u64,
    /// Accesses by a translation that was held already.
    pub hits: u64,
    /// Answers that allowed neither reading nor writing, or not what was wanted.
    pub not_allowed: u64,
    /// Answers that were dropped because an invalidation had come meanwhile.
    pub raced: u64,
    /// Translations that had to go for want of room.
    pub evicted: u64,
    /// Invalidations that came.
    pub invalidations: u64,
    /// Completions that were sent.
    pub answered: u64,
}

#[derive(Debug, Default)]
struct Counters {
    requests: AtomicU64,
    hits: AtomicU64,
    not_allowed: AtomicU64,
    raced: AtomicU64,
    evicted: AtomicU64,
    invalidations: AtomicU64,
    answered: AtomicU64,
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// What became of an access through an ATC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Access {
    /// The bytes moved.
    Done,
    /// There is no translation that allows it.
    Absent,
    /// Translations were taken away as fast as they came. Try again later.
    Busy,
    /// It is held back.
    Stalled(Stall),
    /// It failed.
    Failed,
}

impl Access {
    /// What an access that goes out untranslated, or has gone out, comes to.
    pub(crate) fn of(result: Result<(), RequestError>) -> Self {
        match result {
            Ok(()) => Self::Done,
            Err(RequestError::Dma(DmaError::Stalled { stall, .. })) => Self::Stalled(stall),
            Err(_) => Self::Failed,
        }
    }
}

/// An ATC.
pub struct Atc {
    config: Arc<ConfigSpace>,
    /// Where the ATS capability lies.
    place: usize,
    requester: Arc<Requester>,
    global_invalidate: bool,
    state: Mutex<State>,
    counters: Counters,
    strict: Strict,
    sink: Arc<dyn Sink>,
}

impl fmt::Debug for Atc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Atc").field("counts", &self.counts()).finish_non_exhaustive()
    }
}

enum Asked {
    Held,
    Absent,
    Raced,
    Failed,
}

/// A way to move the bytes of one access: by untranslated address, or by translated address.
enum Bytes<'a> {
    Read(&'a mut [u8]),
    Write(&'a [u8]),
}

impl Bytes<'_> {
    fn is_write(&self) -> bool {
        matches!(self, Self::Write(_))
    }
}

impl Atc {
    /// The ATC of the function with this configuration space, whose ATS capability lies at `place`.
    pub fn new(
        config: Arc<ConfigSpace>,
        place: usize,
        requester: Arc<Requester>,
        options: AtcOptions,
        sink: Arc<dyn Sink>,
    ) -> Self {
        let cache = Cache::new(options.entries, options.seed);
        Self {
            config,
            place,
            requester,
            global_invalidate: options.global_invalidate,
            state: Mutex::new(State::new(cache, options.behaviour)),
            counters: Counters::default(),
            strict: Strict::new(sink.clone()),
            sink,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes it behave otherwise from now on.
    pub fn behave(&self, behaviour: Behaviour) {
        self.state().behaviour = behaviour;
    }

    /// What it has done.
    pub fn counts(&self) -> AtcCounts {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let counters = &self.counters;
        AtcCounts {
            requests: get(&counters.requests),
            hits: get(&counters.hits),
            not_allowed: get(&counters.not_allowed),
            raced: get(&counters.raced),
            evicted: get(&counters.evicted),
            invalidations: get(&counters.invalidations),
            answered: get(&counters.answered),
        }
    }

    /// Everything software did against the book since the last call.
    pub fn take_unpredictable(&self) -> Vec<Unpredictable> {
        self.strict.take()
    }

    /// How many translations it holds.
    pub fn entries(&self) -> usize {
        self.state().cache.len()
    }

    /// How many invalidations wait for their answer.
    pub fn unanswered(&self) -> usize {
        self.state().owed()
    }

    /// Whether ATS is on.
    pub fn enabled(&self) -> bool {
        self.state().enabled
    }

    /// Reads bytes of one page of 4 KiB.
    pub fn read(&self, pasid: Option<Pasid>, at: Iova, into: &mut [u8]) -> Access {
        self.access(pasid, at, Bytes::Read(into))
    }

    /// Writes bytes of one page of 4 KiB.
    pub fn write(&self, pasid: Option<Pasid>, at: Iova, from: &[u8]) -> Access {
        self.access(pasid, at, Bytes::Write(from))
    }

    fn access(&self, pasid: Option<Pasid>, at: Iova, mut bytes: Bytes<'_>) -> Access {
        for attempt in 0..TRIES {
            let mut state = self.state();
            if !state.enabled {
                drop(state);
                return self.untranslated(pasid, at, &mut bytes);
            }
            if let Some((id, entry)) = state.begin_use(pasid, at.get(), bytes.is_write()) {
                drop(state);
                if attempt == 0 {
                    count(&self.counters.hits);
                }
                return self.use_entry(id, &entry, at, &mut bytes);
            }
            drop(state);
            match self.ask(pasid, at, bytes.is_write()) {
                Asked::Held | Asked::Raced => (),
                Asked::Absent => return Access::Absent,
                Asked::Failed => return Access::Failed,
            }
        }
        Access::Busy
    }

    fn use_entry(&self, id: u64, entry: &Entry, at: Iova, bytes: &mut Bytes<'_>) -> Access {
        let pa = entry.translate(at.get());
        let access = if entry.untranslated {
            self.untranslated(entry.pasid, at, bytes)
        } else {
            Access::of(match bytes {
                Bytes::Read(into) => self.requester.read_translated(entry.pasid, pa, into),
                Bytes::Write(from) => self.requester.write_translated(entry.pasid, pa, from),
            })
        };
        let due = self.state().end_use(id);
        self.answer(due);
        access
    }

    fn untranslated(&self, pasid: Option<Pasid>, at: Iova, bytes: &mut Bytes<'_>) -> Access {
        Access::of(match bytes {
            Bytes::Read(into) => self.requester.read(pasid, at, into),
            Bytes::Write(from) => self.requester.write(pasid, at, from),
        })
    }

    /// Asks for a translation, and holds what is answered if it allows the access and nothing took it back meanwhile.
    fn ask(&self, pasid: Option<Pasid>, at: Iova, write: bool) -> Asked {
        let id = self.state().begin_asking();
        count(&self.counters.requests);
        let request = TranslationRequest {
            // The port puts in who asks.
            source: SourceId(0),
            pasid,
            iova: at.align_down(0x1000),
            no_write: !write,
            execute: false,
            privileged: false,
        };
        let answer = self.requester.translate(&request);
        let mut state = self.state();
        let forgotten = state.end_asking(id);
        let translation = match answer {
            Ok(TranslationAnswer::Translated(translation)) => translation,
            Ok(TranslationAnswer::UnsupportedRequest | TranslationAnswer::CompleterAbort) | Err(_) => {
                return Asked::Failed;
            }
        };
        let Some(forgotten) = forgotten else { return Asked::Raced };
        let allowed = if write { translation.write } else { translation.read };
        if !allowed {
            count(&self.counters.not_allowed);
            return Asked::Absent;
        }
        self.hold(&mut state, pasid, at, &translation, &forgotten)
    }

    fn hold(
        &self,
        state: &mut State,
        pasid: Option<Pasid>,
        at: Iova,
        answer: &Translation,
        forgotten: &[Scope],
    ) -> Asked {
        let Some(entry) = Entry::new(pasid, at.get(), answer) else { return Asked::Failed };
        // A completion that an invalidation has overtaken must not be kept. Spec: PCIe 6.0, 10.3.3 "Invalidate Completion Semantics".
        if forgotten.iter().any(|scope| scope.hits(pasid, entry.span)) {
            count(&self.counters.raced);
            return Asked::Raced;
        }
        if state.cache.insert(entry) {
            count(&self.counters.evicted);
        }
        Asked::Held
    }

    /// Whether a translation is held that allows the access.
    pub(crate) fn holds(&self, pasid: Option<Pasid>, at: Iova, write: bool) -> bool {
        self.state().cache.find(pasid, at.get()).is_some_and(|entry| entry.allows(write))
    }

    /// Forgets what an invalidation names, and answers it when no access uses that any more.
    ///
    /// False if ATS is off. `Choice:` a function whose ATS is off is one that has no ATC; the request is an unsupported one.
    pub fn invalidate(&self, message: &Invalidation) -> bool {
        let mut state = self.state();
        if !state.enabled {
            return false;
        }
        count(&self.counters.invalidations);
        let least = 12 + state.unit;
        let too_small = message.size_lg2 < least;
        let answer = state.invalidate(message.tag & 31, self.scope(message, least));
        drop(state);
        if too_small {
            let detail = format!("2^{} bytes, at least 2^{least}", message.size_lg2);
            self.strict.record(clause::INVALIDATION_TOO_SMALL, detail);
        }
        if answer == Answer::Now {
            self.answer(1 << (message.tag & 31));
        }
        true
    }

    fn scope(&self, message: &Invalidation, least_lg2: u8) -> Scope {
        let spaces = match message.pasid {
            Some(pasid) if !(message.global && self.global_invalidate) => Spaces::One(pasid),
            _ => Spaces::All,
        };
        Scope { spaces, span: Span::around(message.first.get(), message.size_lg2.max(least_lg2)) }
    }

    /// Sends completions.
    fn answer(&self, tags: u32) {
        if tags == 0 {
            return;
        }
        let times = if self.state().behaviour.answer_twice { 2 } else { 1 };
        for _ in 0..times {
            if self.requester.complete_invalidations(tags).is_err() {
                return;
            }
            self.counters.answered.fetch_add(u64::from(tags.count_ones()), Ordering::Relaxed);
            self.say("invalidation_answered", &[("tags", Value::Hex(u64::from(tags)))]);
        }
    }

    /// Lets a step pass: late answers become due. Answers whether there was or will be any.
    pub fn step(&self) -> bool {
        let (due, more) = self.state().step();
        self.answer(due);
        more || due != 0
    }

    /// Looks at what software has just written.
    pub fn config_written(&self) {
        let control = self.config.read16(self.place + ATS_CONTROL);
        let (enabled, unit) = (control & ATS_ENABLE != 0, (control & ATS_UNIT) as u8);
        let mut state = self.state();
        let unit_moved = state.enabled && enabled && state.unit != unit;
        // Spec: PCIe 6.0, 10.3.5 "Implicit Invalidation Events": Enable from clear to set. What is held while it is clear is not used.
        if enabled != state.enabled {
            state.clear();
        }
        state.enabled = enabled;
        state.unit = unit;
        drop(state);
        if unit_moved {
            self.strict.record(clause::UNIT_CHANGED, format!("control {control:#x}"));
        }
    }

    /// As after power-up.
    pub fn reset(&self) {
        self.state().reset();
    }

    /// Hostile: reads memory at any address, as if it had been translated.
    ///
    /// # Errors
    ///
    /// As [`RequestError`] says.
    pub fn forge_read(&self, pasid: Option<Pasid>, from: Pa, into: &mut [u8]) -> Result<(), RequestError> {
        self.requester.read_translated(pasid, from, into)
    }

    /// Hostile: writes memory at any address, as if it had been translated.
    ///
    /// # Errors
    ///
    /// As [`RequestError`] says.
    pub fn forge_write(&self, pasid: Option<Pasid>, to: Pa, from: &[u8]) -> Result<(), RequestError> {
        self.requester.write_translated(pasid, to, from)
    }

    fn say(&self, name: &'static str, fields: &[(&'static str, Value<'_>)]) {
        if self.sink.listening() {
            self.sink.event(&Event { source: "model.pcie", name, fields });
        }
    }
}
