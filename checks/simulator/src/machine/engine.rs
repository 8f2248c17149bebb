//! A device as a test engine: it moves bytes wherever it is told to, and nobody has to have mapped anything there.
//!
//! Some keep translations (an ATC) and ask for pages, some are stalled where a page is missing. What they do wrong, they do because a fault fired.
//!
//! Spec: PCIe 6.0, 10 "ATS Specification".
//! Not here: what it may reach (`oracle`), where it is told to go (`life`).

use core::fmt;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};

use model_bus::{
    BusError, Clocked, Downstream, Fabric, Invalidation, InvalidationDone, Outcome, PageRequest,
    PageResponse, Request, Stall, StallState, TranslatedRequest, TranslationAnswer, TranslationRequest,
    Translator, Write,
};
use portcullis::core::sva::{DeviceSvaFacts, DeviceSwitches};
use portcullis::types::{Access, Iova, Pa, Pasid, SourceId};

use crate::fault::FaultKind;
use crate::hub::{Hub, locked};
use crate::oracle::Seen;

/// What kind of device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// It moves bytes, and that is all.
    Plain,
    /// It has an ATC and asks for pages.
    Pcie,
    /// It is stalled.
    Stalling,
}

/// A device.
pub(crate) struct Engine {
    pub(crate) sources: Vec<SourceId>,
    pub(crate) form: Form,
    /// Whether its ATC serves requests without PASID, too: where one thread lives, for it answers an invalidation although another thread's access is under way.
    keeps: bool,
    translator: Arc<dyn Translator>,
    fabric: Arc<dyn Fabric>,
    hub: Arc<Hub>,
    ats: AtomicBool,
    /// The operation in which it answers no invalidation any more.
    mute: AtomicU64,
    /// It has sent page requests that nobody should.
    lied: AtomicBool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Pages of 4 KiB, by PASID ([`NO_PASID`]) and number.
    held: BTreeMap<(u32, u64), Held>,
    /// Addresses that it was given and never forgets, as an ATC does that lies: the last few, the newest last.
    remembered: VecDeque<u64>,
    /// Invalidations to be answered, and after how many steps.
    owed: Vec<(u8, u32)>,
    /// Groups that wait for their response, each with its PASID.
    groups: BTreeMap<u16, Option<u32>>,
    /// Responses that came.
    answers: BTreeMap<u16, u8>,
    next_group: u16,
    /// Accesses that are held back.
    stalls: Vec<(Stall, u32)>,
}

/// Stands for none.
const NO_PASID: u32 = u32::MAX;
/// Groups of page requests that nobody should have sent have numbers from here on; an engine's own lie below.
pub(crate) const FORGED: u16 = 0x100;
/// How many addresses an engine never forgets.
const REMEMBERED: usize = 8;

#[derive(Clone, Copy)]
struct Held {
    pa: u64,
    read: bool,
    write: bool,
}

/// An access of an engine: at most 64 bytes, in one page of 4 KiB.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Move {
    pub(crate) source: SourceId,
    pub(crate) pasid: Option<Pasid>,
    pub(crate) iova: u64,
    pub(crate) len: u32,
    pub(crate) write: bool,
}

/// What became of work in a process's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shared {
    /// Bytes moved.
    Done,
    /// There is no page, and there will be none.
    Refused,
    /// Nobody answered in time.
    Waits,
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine").field("sources", &self.sources).finish_non_exhaustive()
    }
}

impl Engine {
    pub(crate) fn new(
        sources: &[u32],
        form: Form,
        crowded: bool,
        translator: Arc<dyn Translator>,
        fabric: Arc<dyn Fabric>,
        hub: Arc<Hub>,
    ) -> Arc<Self> {
        let sources = sources.iter().map(|&source| SourceId(source)).collect();
        let (ats, lied) = (AtomicBool::new(false), AtomicBool::new(false));
        let (mute, state) = (AtomicU64::new(0), Mutex::default());
        let keeps = form == Form::Pcie && !crowded;
        Arc::new(Self { sources, form, keeps, translator, fabric, hub, ats, mute, lied, state })
    }

    /// What it can do.
    pub(crate) fn facts(&self) -> DeviceSvaFacts {
        let pcie = self.form == Form::Pcie;
        DeviceSvaFacts {
            ats: pcie,
            pri: pcie,
            response_pasid: false,
            pasid_bits: 16,
            can_stall: self.form == Form::Stalling,
        }
    }

    /// Whether it may send translation requests.
    pub(crate) fn ats_is_on(&self) -> bool {
        self.ats.load(Relaxed)
    }

    /// Whether it answers no invalidation in this operation.
    pub(crate) fn is_mute(&self) -> bool {
        self.mute.load(Relaxed) == self.hub.serial()
    }

    /// It is about to send page requests that nobody should.
    pub(crate) fn lies(&self) {
        self.lied.store(true, Relaxed);
    }

    /// Whether it ever has.
    pub(crate) fn has_lied(&self) -> bool {
        self.lied.load(Relaxed)
    }

    /// Moves bytes, by translation where it has one.
    pub(crate) fn access(&self, one: &Move) -> Outcome {
        if let Some(pa) = self.translation_of(one) {
            return self.access_kept(one, pa);
        }
        let Move { source, pasid, iova, len, write } = *one;
        let access = if write { Access::WRITE } else { Access::READ };
        let request = Request { source, pasid, iova: Iova::new(iova), len_bytes: len, access };
        let mut bytes = [0x5a; 64];
        let bytes = &mut bytes[..len as usize];
        self.translator.access(&request, &mut |passage| self.carry(source, passage.pa, bytes, write))
    }

    /// Moves bytes to or from a place in memory, which a translation has let through.
    fn carry(&self, source: SourceId, at: Pa, bytes: &mut [u8], write: bool) -> Result<(), BusError> {
        if write {
            self.fabric.write(Write { at, bytes, source: Some(source) })
        } else {
            self.fabric.read(at, bytes)
        }
    }

    /// Where an access without PASID goes by its ATC; none if it has none, or is given nothing.
    fn translation_of(&self, one: &Move) -> Option<u64> {
        if one.pasid.is_some() || !self.keeps || !self.ats_is_on() {
            return None;
        }
        let held = || self.held(None, one.iova, one.write);
        let held = held().or_else(|| self.ask(None, one.iova, one.write).then(held).flatten());
        held.map(|held| held.pa | one.iova & 0xfff)
    }

    /// Moves bytes where its ATC says. Whoever is asked there knows no more for which address that is, so that it is judged here.
    fn access_kept(&self, one: &Move, at: u64) -> Outcome {
        let Move { source, iova, len, write, .. } = *one;
        let access = if write { Access::WRITE } else { Access::READ };
        let request = TranslatedRequest { source, pasid: None, at: Pa::new(at), len_bytes: len, access };
        let mut bytes = [0x5a; 64];
        let bytes = &mut bytes[..len as usize];
        self.translator.access_translated(&request, &mut |passage| {
            self.hub.judge(&Seen { source: source.0, iova, len, pa: passage.pa.get(), write });
            self.carry(source, passage.pa, bytes, write)
        })
    }

    /// Writes a message.
    pub(crate) fn message(&self, source: SourceId, address: u64, data: u32) -> Outcome {
        let (iova, access) = (Iova::new(address), Access::WRITE);
        let request = Request { source, pasid: None, iova, len_bytes: 4, access };
        let bytes = data.to_le_bytes();
        self.translator.access(&request, &mut |passage| {
            self.fabric.write(Write { at: passage.pa, bytes: &bytes, source: Some(source) })
        })
    }

    /// Moves bytes at an address that it says was translated.
    pub(crate) fn access_translated(&self, pasid: Option<Pasid>, at: u64, write: bool) -> Outcome {
        let source = self.sources[0];
        let access = if write { Access::WRITE } else { Access::READ };
        let request = TranslatedRequest { source, pasid, at: Pa::new(at), len_bytes: 8, access };
        let mut bytes = [0xa5; 8];
        self.translator
            .access_translated(&request, &mut |passage| self.carry(source, passage.pa, &mut bytes, write))
    }

    /// Works in a process's memory; `wait` lets time pass and has faults handled.
    pub(crate) fn work(&self, pasid: Pasid, iova: u64, write: bool, wait: &mut dyn FnMut()) -> Shared {
        match self.form {
            Form::Pcie if self.ats_is_on() => self.work_by_translation(pasid, iova, write, wait),
            _ => self.work_stalled(pasid, iova, write, wait),
        }
    }

    fn work_by_translation(&self, pasid: Pasid, iova: u64, write: bool, wait: &mut dyn FnMut()) -> Shared {
        for _ in 0..4 {
            if let Some(held) = self.held(Some(pasid), iova, write) {
                let outcome = self.access_translated(Some(pasid), held.pa | iova & 0xff8, write);
                return if outcome == Outcome::Done { Shared::Done } else { Shared::Refused };
            }
            if self.ask(Some(pasid), iova, write) {
                continue;
            }
            match self.ask_for_page(pasid, iova, write, wait) {
                Some(0) => {}
                Some(_) => return Shared::Refused,
                None => return Shared::Waits,
            }
        }
        Shared::Waits
    }

    /// An address that it was given some time, whatever it was told since; none if it never was.
    pub(crate) fn remembered(&self, back: usize) -> Option<u64> {
        let remembered = &locked(&self.state).remembered;
        remembered.iter().rev().cycle().nth(back % REMEMBERED).copied()
    }

    /// What its ATC has for an access; none if that does not allow it.
    fn held(&self, pasid: Option<Pasid>, iova: u64, write: bool) -> Option<Held> {
        let key = (pasid.map_or(NO_PASID, Pasid::get), iova >> 12);
        let held = locked(&self.state).held.get(&key).copied();
        held.filter(|held| if write { held.write } else { held.read })
    }

    /// Asks for a translation. Answers whether one that allows the access is held now.
    fn ask(&self, pasid: Option<Pasid>, iova: u64, write: bool) -> bool {
        let request = TranslationRequest {
            source: self.sources[0],
            pasid,
            iova: Iova::new(iova & !0xfff),
            no_write: !write,
            execute: false,
            privileged: false,
        };
        let TranslationAnswer::Translated(given) = self.translator.translate(&request) else { return false };
        if !(given.read || given.write) || given.untranslated_only {
            return false;
        }
        let pa = given.pa.get() + ((iova & !0xfff) - given.first.get());
        let held = Held { pa, read: given.read, write: given.write };
        let mut state = locked(&self.state);
        state.held.insert((pasid.map_or(NO_PASID, Pasid::get), iova >> 12), held);
        if state.remembered.len() == REMEMBERED {
            state.remembered.pop_front();
        }
        state.remembered.push_back(pa);
        drop(state);
        if write { given.write } else { given.read }
    }

    /// Sends a page request, of which it is the whole group, and does not wait. Answers the group; none if too many wait.
    pub(crate) fn begin_to_ask(&self, pasid: Pasid, iova: u64, write: bool) -> Option<u16> {
        let group = {
            let mut state = locked(&self.state);
            if state.groups.len() >= 24 {
                return None;
            }
            let group = (0..64)
                .map(|n| (state.next_group + n) & 0xff)
                .find(|group| !state.groups.contains_key(group))?;
            state.next_group = group + 1;
            state.groups.insert(group, Some(pasid.get()));
            group
        };
        self.send(&self.page_request(Some(pasid), iova, group, write));
        Some(group)
    }

    /// The same, and waits. Answers the response's code; none if none came.
    fn ask_for_page(&self, pasid: Pasid, iova: u64, write: bool, wait: &mut dyn FnMut()) -> Option<u8> {
        let group = self.begin_to_ask(pasid, iova, write)?;
        for _ in 0..24 {
            wait();
            let mut state = locked(&self.state);
            if !state.groups.contains_key(&group) {
                return state.answers.remove(&group);
            }
        }
        None
    }

    pub(crate) fn page_request(
        &self,
        pasid: Option<Pasid>,
        iova: u64,
        group: u16,
        write: bool,
    ) -> PageRequest {
        PageRequest {
            source: self.sources[0],
            pasid,
            privileged: false,
            execute: false,
            iova: Iova::new(iova & !0xfff),
            group,
            last: true,
            read: true,
            write,
        }
    }

    /// Sends a page request as it is.
    pub(crate) fn send(&self, request: &PageRequest) {
        self.translator.request_page(request);
    }

    fn work_stalled(&self, pasid: Pasid, iova: u64, write: bool, wait: &mut dyn FnMut()) -> Shared {
        for _ in 0..4 {
            let stall = match self.try_once(pasid, iova, write) {
                Outcome::Done => return Shared::Done,
                Outcome::Stalled(stall) => stall,
                _ => return Shared::Refused,
            };
            let mut became = StallState::Waiting;
            for _ in 0..24 {
                wait();
                became = self.translator.stalled(stall);
                if became != StallState::Waiting {
                    break;
                }
            }
            if became == StallState::Waiting {
                return Shared::Waits;
            }
            locked(&self.state).stalls.retain(|(one, _)| *one != stall);
            if became != StallState::Retry {
                return Shared::Refused;
            }
        }
        Shared::Waits
    }

    /// Stops using a PASID: waits for what it has asked for, and says so. What it was given it keeps until it is told to forget it.
    pub(crate) fn stop(&self, pasid: Pasid, wait: &mut dyn FnMut()) {
        for _ in 0..200 {
            if !self.is_busy(Some(pasid)) {
                break;
            }
            wait();
        }
        self.say_that_it_stopped(pasid);
    }

    /// Stops using a PASID in the other way: asks for one more page, and does not wait for it. What comes behind the marker is of no use to it.
    ///
    /// Spec: PCIe 6.0, 10.4.1.2.1 "Stop Marker Messages".
    pub(crate) fn stop_at_once(&self, pasid: Pasid, iova: u64, write: bool) {
        if self.ats_is_on() {
            let _asked = self.begin_to_ask(pasid, iova, write);
        }
        self.say_that_it_stopped(pasid);
    }

    fn say_that_it_stopped(&self, pasid: Pasid) {
        if self.ats_is_on() {
            let marker =
                PageRequest { read: false, write: false, ..self.page_request(Some(pasid), 0, 0, false) };
            self.send(&marker);
        }
    }

    /// An address that it was given in an address space and was not told to forget; none if there is none.
    pub(crate) fn still_holds(&self, pasid: Pasid) -> Option<u64> {
        let state = locked(&self.state);
        state.held.iter().find(|((of, _), _)| *of == pasid.get()).map(|(_, held)| held.pa)
    }

    /// One access of a device that is stalled where a page is missing. What it is held back by, it waits for.
    fn try_once(&self, pasid: Pasid, iova: u64, write: bool) -> Outcome {
        let one = Move { source: self.sources[0], pasid: Some(pasid), iova, len: 8, write };
        let outcome = self.access(&one);
        if let Outcome::Stalled(stall) = outcome {
            locked(&self.state).stalls.push((stall, pasid.get()));
        }
        outcome
    }

    /// The same, and nobody lets time pass until it is answered. Answers what it waits for now; none if it does not.
    pub(crate) fn hang(&self, pasid: Pasid, iova: u64, write: bool) -> Option<Stall> {
        match self.try_once(pasid, iova, write) {
            Outcome::Stalled(stall) => Some(stall),
            _ => None,
        }
    }

    /// Whether it waits for an answer, in one of its address spaces or in any.
    pub(crate) fn is_busy(&self, pasid: Option<Pasid>) -> bool {
        let stalls: Vec<(Stall, u32)> = locked(&self.state).stalls.clone();
        let still: Vec<(Stall, u32)> = stalls
            .into_iter()
            .filter(|(stall, _)| self.translator.stalled(*stall) == StallState::Waiting)
            .collect();
        let mut state = locked(&self.state);
        state.stalls = still;
        let is_it = |of: u32| pasid.is_none_or(|pasid| pasid.get() == of);
        state.stalls.iter().any(|(_, of)| is_it(*of))
            || state.groups.values().any(|of| is_it(of.unwrap_or(u32::MAX)))
    }

    /// As after a reset: it holds nothing, and waits for nothing.
    pub(crate) fn reset(&self) {
        let mut state = locked(&self.state);
        let State { owed, remembered, .. } = core::mem::take(&mut *state);
        *state = State { owed, remembered, ..State::default() };
    }

    fn answer(&self, tag: u8, times: u32) {
        let done = InvalidationDone { source: self.sources[0], tags: 1 << (tag & 31) };
        (0..times).for_each(|_| self.translator.invalidation_done(&done));
    }

    fn invalidate(&self, message: &Invalidation) -> bool {
        if !self.ats_is_on() {
            return false;
        }
        let span = if message.size_lg2 >= 64 { u64::MAX } else { (1u64 << message.size_lg2) - 1 };
        let (first, last) = (message.first.get() & !span, message.first.get() | span);
        let hit = |(of, page): &(u32, u64)| {
            let here = page << 12 <= last && page << 12 | 0xfff >= first;
            here && (message.global || message.pasid.is_none_or(|pasid| pasid.get() == *of))
        };
        locked(&self.state).held.retain(|key, _| !hit(key));
        let faults = &self.hub.faults;
        // Asked again by itself it would be believed: who never answers, never does.
        if self.is_mute() {
            return true;
        }
        if faults.fires(FaultKind::AtcNever) {
            self.mute.store(self.hub.serial(), Relaxed);
            return true;
        }
        if faults.fires(FaultKind::AtcSlow) {
            locked(&self.state).owed.push((message.tag, 3));
            return true;
        }
        self.answer(message.tag, if faults.fires(FaultKind::AtcTwice) { 2 } else { 1 });
        true
    }

    fn respond(&self, message: &PageResponse) {
        let mut state = locked(&self.state);
        if state.groups.remove(&message.group).is_some() {
            state.answers.insert(message.group, message.code);
        }
    }
}

impl Clocked for Engine {
    fn step(&self, _: u64) -> bool {
        let due: Vec<u8> = {
            let mut state = locked(&self.state);
            if state.owed.is_empty() {
                return false;
            }
            state.owed.iter_mut().for_each(|(_, left)| *left = left.saturating_sub(1));
            let due = state.owed.iter().filter(|(_, left)| *left == 0).map(|(tag, _)| *tag).collect();
            state.owed.retain(|(_, left)| *left > 0);
            due
        };
        due.into_iter().for_each(|tag| self.answer(tag, 1));
        true
    }
}

/// The switch of an engine's ATC.
#[derive(Debug)]
pub(crate) struct Switch(pub(crate) Arc<Engine>);

impl DeviceSwitches for Switch {
    fn set_ats(&self, on: bool) {
        let mut state = locked(&self.0.state);
        state.held.clear();
        state.owed.clear();
        drop(state);
        self.0.ats.store(on, Relaxed);
    }
}

/// Whoever brings an SMMU's messages to the engines.
pub(crate) struct Root(pub(crate) Vec<Arc<Engine>>);

impl Root {
    fn find(&self, source: SourceId) -> Option<&Arc<Engine>> {
        self.0.iter().find(|engine| engine.form == Form::Pcie && engine.sources.contains(&source))
    }
}

impl Downstream for Root {
    fn invalidate(&self, message: &Invalidation) -> bool {
        self.find(message.source).is_some_and(|engine| engine.invalidate(message))
    }

    fn page_response(&self, message: &PageResponse) -> bool {
        self.find(message.source).map(|engine| engine.respond(message)).is_some()
    }
}
