//! The page request interface (PRI): a function asks for pages that are not there, in groups, with credits.
//!
//! [`Pages::request`] sends a group, if as many requests may be outstanding, and answers a [`Ticket`] that tells what became of it. Who does not want
//! to know any more drops the ticket: the group is *stale* then, and its response gives back the credits and the index and does nothing else.
//!
//! Messages go out through one queue, in order, with no lock held: a response may come from inside, and a stop marker is behind every request
//! that was made before it, whichever thread sends them.
//!
//! Spec: PCIe 6.0, 10.4 "Page Request Services"; 10.5.2 "Page Request Extended Capability Structure".
//! Not here: translations (`atc`).

use core::fmt;
use core::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use model_bus::{PageRequest, PageResponse, Unpredictable};
use portcullis_types::trace::{Event, Sink, Value};
use portcullis_types::{Iova, Pasid, SourceId};

use super::capability::{
    PRI_ALLOCATION, PRI_CAPACITY, PRI_CONTROL, PRI_ENABLE, PRI_FAILURE, PRI_NEEDS_PASID, PRI_RESET,
    PRI_STATUS, PRI_STOPPED, PRI_UNEXPECTED,
};
use super::config::ConfigSpace;
use super::requester::Requester;
use super::strict::{Strict, clause};

/// Page Request Group Indexes there are.
const INDEXES: u16 = 512;
const PAGE: u64 = 4096;

/// What became of a group of page requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GroupState {
    /// There is no response yet.
    Waiting,
    /// The pages are there, or may be: the access is to be tried again.
    Success,
    /// Some page does not exist, or may not be accessed like this.
    Invalid,
    /// Something is broken; page requests are off.
    Failure,
}

impl GroupState {
    const fn code(self) -> u8 {
        match self {
            Self::Waiting => 0,
            Self::Success => 1,
            Self::Invalid => 2,
            Self::Failure => 3,
        }
    }
}

/// A group that was sent. Dropping it makes the group stale.
#[derive(Debug)]
pub struct Ticket(Arc<AtomicU8>);

impl Ticket {
    /// What became of the group.
    pub fn state(&self) -> GroupState {
        match self.0.load(Ordering::Acquire) {
            0 => GroupState::Waiting,
            1 => GroupState::Success,
            2 => GroupState::Invalid,
            _ => GroupState::Failure,
        }
    }
}

/// Why no group was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// Page requests are off: not enabled, or after a Response Failure.
    Off,
    /// Too many requests or groups are outstanding. Try again after a response.
    Full,
}

/// What was sent and received.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct PageCounts {
    /// Page requests.
    pub requests: u64,
    /// Groups of them.
    pub groups: u64,
    /// Stop markers.
    pub stop_markers: u64,
    /// The most requests that were outstanding at once.
    pub most_outstanding: u32,
    /// Responses with Success, those to stale groups among them.
    pub success: u64,
    /// Responses with Invalid Request, likewise.
    pub invalid: u64,
    /// Responses with Response Failure.
    pub failure: u64,
    /// Responses to groups that nobody wanted to know of any more.
    pub stale: u64,
    /// Responses to no group.
    pub unexpected: u64,
    /// Responses that came while page requests were off.
    pub ignored: u64,
}

/// Hostile ways to request pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct PageBehaviour {
    /// No request is marked as the last of its group.
    pub never_last: bool,
    /// It knows no limit but that of the indexes.
    pub no_credits: bool,
}

#[derive(Debug)]
struct Group {
    pasid: Option<Pasid>,
    requests: u32,
    state: Arc<AtomicU8>,
}

#[derive(Debug, Default)]
struct State {
    enabled: bool,
    /// A Response Failure came; nothing is sent or taken until software resets or enables.
    failed: bool,
    /// Outstanding Page Request Allocation, as it was when page requests were enabled.
    allocation: u32,
    outstanding: u32,
    groups: BTreeMap<u16, Group>,
    next_index: u16,
    /// What is to be sent, and whether some thread is at it.
    queue: VecDeque<PageRequest>,
    sending: bool,
    behaviour: PageBehaviour,
    counts: PageCounts,
}

impl State {
    /// Forgets every group. Who waits hears `end`.
    fn drop_groups(&mut self, end: GroupState) {
        for group in core::mem::take(&mut self.groups).into_values() {
            group.state.store(end.code(), Ordering::Release);
        }
        self.outstanding = 0;
    }

    /// An index that no outstanding group has.
    fn index(&mut self) -> Option<u16> {
        let free = (0..INDEXES).map(|step| (self.next_index + step) % INDEXES);
        let index = free.into_iter().find(|index| !self.groups.contains_key(index))?;
        self.next_index = (index + 1) % INDEXES;
        Some(index)
    }

    fn limit(&self) -> u32 {
        if self.behaviour.no_credits { u32::MAX } else { self.allocation }
    }
}

/// A function's page request interface.
pub struct Pages {
    config: Arc<ConfigSpace>,
    /// Where the capability lies.
    place: usize,
    requester: Arc<Requester>,
    state: Mutex<State>,
    retries: AtomicU64,
    strict: Strict,
    sink: Arc<dyn Sink>,
}

impl fmt::Debug for Pages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pages").field("counts", &self.counts()).finish_non_exhaustive()
    }
}

impl Pages {
    /// The page request interface whose capability lies at `place` of this configuration space.
    pub fn new(
        config: Arc<ConfigSpace>,
        place: usize,
        requester: Arc<Requester>,
        sink: Arc<dyn Sink>,
    ) -> Self {
        let strict = Strict::new(sink.clone());
        Self { config, place, requester, state: Mutex::default(), retries: AtomicU64::new(0), strict, sink }
    }

    /// Everything software did against the book since the last call.
    pub fn take_unpredictable(&self) -> Vec<Unpredictable> {
        self.strict.take()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes it behave otherwise from now on.
    pub fn behave(&self, behaviour: PageBehaviour) {
        self.state().behaviour = behaviour;
    }

    /// What was sent and received.
    pub fn counts(&self) -> PageCounts {
        self.state().counts
    }

    /// How many requests have had no response.
    pub fn outstanding(&self) -> u32 {
        self.state().outstanding
    }

    /// How many requests a group can have at most; 0 if page requests are off.
    pub fn group_limit(&self) -> u32 {
        let state = self.state();
        if state.enabled && !state.failed { state.limit() } else { 0 }
    }

    /// Sends a group: one request for each of `pages`, of which the last is marked.
    ///
    /// # Errors
    ///
    /// As [`Refused`] says.
    ///
    /// # Panics
    ///
    /// If there are no pages.
    pub fn request(&self, pasid: Option<Pasid>, pages: &[Iova], write: bool) -> Result<Ticket, Refused> {
        assert!(!pages.is_empty(), "a group has a request");
        let mut state = self.state();
        if !state.enabled || state.failed {
            return Err(Refused::Off);
        }
        let requests = pages.len() as u32;
        let outstanding = state.outstanding.saturating_add(requests);
        if outstanding > state.limit() {
            return Err(Refused::Full);
        }
        let index = state.index().ok_or(Refused::Full)?;
        let answer = Arc::new(AtomicU8::new(GroupState::Waiting.code()));
        state.groups.insert(index, Group { pasid, requests, state: answer.clone() });
        state.outstanding = outstanding;
        state.counts.most_outstanding = state.counts.most_outstanding.max(outstanding);
        state.counts.groups += 1;
        let marked = !state.behaviour.never_last;
        for (number, page) in pages.iter().enumerate() {
            let last = marked && number + 1 == pages.len();
            let request = PageRequest { last, read: !write, write, ..blank(pasid, *page, index) };
            state.queue.push_back(request);
        }
        self.send(state);
        Ok(Ticket(answer))
    }

    /// Says that the function has stopped using a PASID. Responses to requests of before come in vain: their tickets are to be dropped.
    ///
    /// Spec: PCIe 6.0, 10.4.1.2 "Managing PASID Usage on PRG Requests".
    pub fn stop_marker(&self, pasid: Pasid) {
        let mut state = self.state();
        if !state.enabled || state.failed {
            return;
        }
        state.counts.stop_markers += 1;
        state.queue.push_back(PageRequest { last: true, ..blank(Some(pasid), Iova::new(0), 0) });
        self.send(state);
    }

    /// Hostile: sends any request, and keeps no account of it. Its response comes unexpectedly.
    pub fn forge(&self, request: &PageRequest) {
        let mut state = self.state();
        state.queue.push_back(*request);
        self.send(state);
    }

    /// Sends what is queued, unless some thread is at it, which then sends this too.
    fn send<'a>(&'a self, mut state: MutexGuard<'a, State>) {
        if state.sending {
            return;
        }
        state.sending = true;
        while let Some(request) = state.queue.pop_front() {
            state.counts.requests += u64::from(request.read || request.write || request.pasid.is_none());
            drop(state);
            self.say_request(&request);
            // A function that is in no slot any more sends into the void.
            let _ = self.requester.request_page(&request);
            state = self.state();
        }
        state.sending = false;
    }

    /// Takes a response. `Choice:` where the function takes no PASID in it, one that is there is noted, and not looked at.
    ///
    /// Spec: PCIe 6.0, 10.4.2 "Page Request Group Response Message"; Table "Response Code": what is not used counts as Response Failure.
    pub fn response(&self, message: &PageResponse) {
        let mut state = self.state();
        let needs_pasid = self.needs_pasid();
        if !needs_pasid && message.pasid.is_some() {
            self.strict.record(clause::RESPONSE_PASID, format!("{message:?}"));
        }
        let known = |group: &Group| !needs_pasid || group.pasid == message.pasid;
        let what = if state.failed || (!state.enabled && state.groups.is_empty()) {
            state.counts.ignored += 1;
            "ignored"
        } else if message.code > 1 {
            state.counts.failure += 1;
            state.failed = true;
            state.drop_groups(GroupState::Failure);
            self.set_status(PRI_FAILURE);
            "failure"
        } else if !state.groups.get(&message.group).is_some_and(known) {
            state.counts.unexpected += 1;
            self.set_status(PRI_UNEXPECTED);
            "unexpected"
        } else {
            take_group(&mut state, message)
        };
        self.show_stopped(&state);
        drop(state);
        self.say_response(message, what);
    }

    fn needs_pasid(&self) -> bool {
        self.config.read16(self.place + PRI_STATUS) & PRI_NEEDS_PASID != 0
    }

    fn set_status(&self, bits: u16) {
        self.config.update16(self.place + PRI_STATUS, |status| status | bits);
    }

    /// Stopped is set when page requests are off and none is outstanding.
    fn show_stopped(&self, state: &State) {
        if !state.enabled && state.outstanding == 0 {
            self.set_status(PRI_STOPPED);
        }
    }

    /// Looks at what software has just written.
    pub fn config_written(&self) {
        let mut state = self.state();
        let mut control = 0;
        self.config.update16(self.place + PRI_CONTROL, |bits| {
            control = bits;
            bits & !PRI_RESET
        });
        let enabled = control & PRI_ENABLE != 0;
        let mut misuse = None;
        match (state.enabled, enabled) {
            (false, true) => {
                if state.outstanding != 0 {
                    misuse = Some(clause::ENABLED_BEFORE_STOPPED);
                }
                self.enable(&mut state);
            }
            (true, false) => {
                state.enabled = false;
                self.config.update16(self.place + PRI_STATUS, |status| status & !PRI_STOPPED);
            }
            (true, true) => misuse = self.hold_allocation(&state),
            (false, false) => (),
        }
        // Reset means something while Enable is clear, or being cleared.
        if control & PRI_RESET != 0 && !enabled {
            state.drop_groups(GroupState::Failure);
            state.failed = false;
        }
        self.show_stopped(&state);
        drop(state);
        if let Some(clause) = misuse {
            self.strict.record(clause, format!("control {control:#x}"));
        }
    }

    /// Status is cleared, and the allocation is looked at.
    fn enable(&self, state: &mut State) {
        let cleared = PRI_FAILURE | PRI_UNEXPECTED | PRI_STOPPED;
        self.config.update16(self.place + PRI_STATUS, |status| status & !cleared);
        let capacity = self.config.read32(self.place + PRI_CAPACITY);
        state.allocation = self.config.read32(self.place + PRI_ALLOCATION).min(capacity);
        state.enabled = true;
        state.failed = false;
    }

    /// `Choice:` the book leaves open what a new allocation does while page requests are on. Here it does not take.
    fn hold_allocation(&self, state: &State) -> Option<&'static str> {
        let capacity = self.config.read32(self.place + PRI_CAPACITY);
        let mut moved = false;
        self.config.update32(self.place + PRI_ALLOCATION, |value| {
            moved = value.min(capacity) != state.allocation;
            if moved { state.allocation } else { value }
        });
        moved.then_some(clause::ALLOCATION_CHANGED)
    }

    /// As after power-up.
    pub fn reset(&self) {
        let mut state = self.state();
        state.drop_groups(GroupState::Failure);
        state.enabled = false;
        state.failed = false;
        state.queue.clear();
    }

    /// Notes that an access is tried again after a response.
    pub(crate) fn note_retry(&self) {
        self.retries.fetch_add(1, Ordering::Relaxed);
    }

    /// How often an access was tried again after a response.
    pub fn retries(&self) -> u64 {
        self.retries.load(Ordering::Relaxed)
    }

    fn say_request(&self, request: &PageRequest) {
        let pasid = request.pasid.map_or(0, Pasid::get);
        self.say(
            "page_request_sent",
            &[
                ("pasid", Value::Dec(u64::from(pasid))),
                ("iova", Value::Addr(request.iova.get())),
                ("group", Value::Dec(u64::from(request.group))),
                ("last", Value::Dec(u64::from(request.last))),
                ("read", Value::Dec(u64::from(request.read))),
                ("write", Value::Dec(u64::from(request.write))),
            ],
        );
    }

    fn say_response(&self, message: &PageResponse, what: &str) {
        let (group, code) = (u64::from(message.group), u64::from(message.code));
        self.say(
            "page_response_received",
            &[("group", Value::Dec(group)), ("code", Value::Dec(code)), ("what", Value::Str(what))],
        );
    }

    fn say(&self, name: &'static str, fields: &[(&'static str, Value<'_>)]) {
        if self.sink.listening() {
            self.sink.event(&Event { source: "model.pcie", name, fields });
        }
    }
}

/// Ends the group that a response is for. Code 0 is Success, 1 Invalid Request.
fn take_group(state: &mut State, message: &PageResponse) -> &'static str {
    let Some(group) = state.groups.remove(&message.group) else { return "unexpected" };
    state.outstanding -= group.requests;
    let (end, what) = if message.code == 0 {
        state.counts.success += 1;
        (GroupState::Success, "success")
    } else {
        state.counts.invalid += 1;
        (GroupState::Invalid, "invalid")
    };
    group.state.store(end.code(), Ordering::Release);
    // Only the group has it: nobody waits.
    if Arc::strong_count(&group.state) == 1 {
        state.counts.stale += 1;
        return "stale";
    }
    what
}

/// A request with nothing asked for. The port puts in who asks.
fn blank(pasid: Option<Pasid>, page: Iova, group: u16) -> PageRequest {
    PageRequest {
        source: SourceId(0),
        pasid,
        privileged: false,
        execute: false,
        iova: page.align_down(PAGE),
        group,
        last: false,
        read: false,
        write: false,
    }
}
